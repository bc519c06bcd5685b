/* product_amx.h - products of bf16 in tiles (private to product.c). */
#ifndef MARILL_PRODUCT_AMX_H
#define MARILL_PRODUCT_AMX_H

#include "model/layers.h"

/* As product() with how.bf16, on a processor for which num_bf16_tiles() is true. */
void product_amx(Product how, float *out, size_t ld_out, const float *a, size_t ld_a, const float *b, size_t ld_b,
                 size_t m, size_t n, size_t k);

#endif
