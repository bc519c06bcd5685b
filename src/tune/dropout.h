/* dropout.h - masks that follow from where they are used and from nothing else (private to tune/).
 *
 * An element of a matrix's input is dropped or kept by a hash of its sample's noise, the matrix, its position and its column.
 * So the backward pass needs no memory of the forward one, a resumed run drops what the stopped one would have dropped, and it
 * does not matter which thread or pack a sample comes to. */
#ifndef MARILL_DROPOUT_H
#define MARILL_DROPOUT_H

#include "tune/train.h"

/* out (rows, columns) = in / (1 - share) where it is kept, else 0; samples without noise are copied. site: which matrix. */
void dropout_apply(float *out, const float *in, const Pack *p, uint64_t site, size_t columns, float share);
/* The backward pass: d_in += d_out / (1 - share) where it was kept. */
void dropout_add(float *d_in, const float *d_out, const Pack *p, uint64_t site, size_t columns, float share);

/* 32 bits for one row of a sample at one place. */
uint32_t noise_key(uint64_t noise, uint64_t site, size_t row);
/* A number that is never 0 for a sample of a step. */
uint64_t noise_of(uint64_t seed, uint64_t step, uint64_t sample);

#endif
