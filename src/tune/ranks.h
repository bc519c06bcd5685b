/* ranks.h - the processes that train one model together (private to tune/).
 *
 * `mpirun -n K` starts K *ranks*; rank 0 leads: it alone writes files. Each computes its share of every batch, and the gradients are
 * summed over all of them; so each takes the same step on parameters that are the same. A process that no launcher started is the
 * only rank there is, and all of this does nothing then.
 *
 * All ranks make the same calls in the same order. A call that waits looks about now and then: the owner of the run may give up
 * (ranks_patience), since a rank that died never answers. After a failure the process is to end: its launcher then ends the others.
 *
 * What ranks send each other is in the clear: gradients, parameters, and so what they were trained on. */
#ifndef MARILL_RANKS_H
#define MARILL_RANKS_H

#include "base/base.h"

/* Once, before anything else here. Fails where a launcher started several processes that cannot find each other, as without MPI. */
CHECKED Result ranks_start(void);
void ranks_end(void);                          // after success: all ranks meet. A failed run ends without it
bool ranks_built(void);                        // whether MPI was there at build time
unsigned ranks_count(void);
unsigned ranks_index(void);
static inline bool ranks_lead(void) { return ranks_index() == 0; }
/* gives_up(ctx) is asked while a call waits; NULL: nobody is. */
void ranks_patience(bool (*gives_up)(void *ctx), void *ctx);

/* Begins x (len) := the sum over ranks, and returns. x is left alone until ranks_sum_wait. Of any thread, but in an order that is the
 * same at every rank. The bits of the sum are the same at every rank. Sends about 2 len floats. */
void ranks_sum_begin(float *x, size_t len);
void ranks_sum_move(void);                     // lets sums that are under way go on; of any thread, at once back if another is at it
CHECKED Result ranks_sum_wait(void);           // for all that were begun

CHECKED Result ranks_add(double *x, size_t len);                       // x (len) := the sum over ranks; waits for all of them
CHECKED Result ranks_copy(void *x, size_t bytes);                      // x := what rank 0 has there
/* Fails at every rank, naming `what`, unless x is the same at all. */
CHECKED Result ranks_same(const void *x, size_t bytes, const char *what);

#endif
