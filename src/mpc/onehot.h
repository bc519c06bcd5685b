/* onehot.h - how one-hot vectors are dealt, for lookup.c and rowmax.c (private to mpc/). */
#ifndef MARILL_ONEHOT_H
#define MARILL_ONEHOT_H

#include "mpc/engine.h"

/* What an element of a row costs: bytes of C's stream, and bytes of T's words to S. A thread takes whole units, in order. */
typedef struct BulkRow { size_t stream, dealt, unit; } BulkRow;
/* Elements from .. from + count of a layout, all of one row. */
typedef struct Bulk {
    size_t row, from, count;                   // count <= BULK_MOST
    Prg *prg;                                  // C, T, CLEAR: at the first element's bytes; wherever the body leaves it
    uint8_t *dealt;                            // S: the words to read; T: to write
    void *scratch;                             // of BulkJob.scratch bytes, aligned to 64
} Bulk;
typedef void BulkBody(void *ctx, const Bulk *b);
typedef struct BulkJob { const BulkRow *row; BulkBody *body; void *ctx; size_t scratch; } BulkJob;
enum { BULK_MOST = 256 };
/* The bytes of a block's elements, of `each` bytes: never more, as long as an element is no longer. */
size_t bulk_bytes(size_t each);
/* Runs the body over all elements, on several threads, with T's words going from T to S. COUNT: counts them. */
void source_bulk(Engine *e, const Layout *at, const BulkJob *job);

#endif
