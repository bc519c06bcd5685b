/* grad_buckets.h - sums gradients over ranks while the backward pass still runs (private to tune/).
 *
 * The gradients of a layer are complete at a rank when each of its threads has left the layer for the last time in a step. A *bucket* is
 * some layers' gradients, one range of the array and at least a megabyte, as far as there are more layers; the topmost
 * comes first. Whoever is the last to leave a bucket adds up the threads' parts, in their order, and begins the sum over ranks. What lies
 * outside of the layers goes last. Threads leave buckets from the top down, so that sums begin in the same order at every rank. */
#ifndef MARILL_GRAD_BUCKETS_H
#define MARILL_GRAD_BUCKETS_H

#include <stdatomic.h>

#include "tune/train.h"

typedef struct GradBucket {
    size_t at, len;                            // floats
    uint32_t lowest;                           // of its layers
    bool outside;                              // of the layers
    atomic_uint left;                          // parts that have yet to leave it
} GradBucket;

typedef struct GradBuckets {
    GradBucket *bucket;
    size_t count, *next;                       // next: (parts) the bucket that a part leaves next
    float *const *part;                        // (parts) each of params.total floats; the sums go into the first
    unsigned parts;
} GradBuckets;

void buckets_make(GradBuckets *out, const Params *p, float *const *part, unsigned parts, Arena *a);
void buckets_begin(GradBuckets *b);            // of a step
/* By the thread that has the part: its gradients are complete from `layer` up; all of them are. */
void buckets_leave(GradBuckets *b, unsigned part, uint32_t layer);
void buckets_leave_all(GradBuckets *b, unsigned part);

#endif
