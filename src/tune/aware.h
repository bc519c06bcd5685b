/* aware.h - training through what the secure run computes: tables, roundings and their coins (private to tune/).
 *
 * The forward pass looks up SiLU and exp and rounds wires as a plan of the base would (emulate.h); the backward pass goes straight
 * through. Coins follow from a sample's coin, the place, the row and the column, as dropout's masks do, so the backward pass looks
 * up again what the forward one did, and a resumed run throws the same. */
#ifndef MARILL_AWARE_H
#define MARILL_AWARE_H

#include "tune/train.h"

/* Makes a plan of the base with its starting factors on some training text, with the cells and the range that the recipe asks for,
 * and takes tables and widths from it. */
CHECKED Result aware_make(Emulated *out, const Recipe *r, const Net *n, const Variant *v, const Tokenizer *t, Arena *a);
const EmulatedLayer *aware_layer(const Net *n, uint32_t layer);              // NULL: it computes in floats

typedef enum {
    SITE_ENTRY, SITE_QUERY, SITE_KEY, SITE_VALUE, SITE_SCORE, SITE_MIXED, SITE_MIDDLE, SITE_GATE, SITE_UP, SITE_EXIT, SITE_COUNT
} AwareSite;
/* x (rows, columns) in place; steps 0: stays. */
void aware_round(float *x, const Pack *p, uint32_t layer, AwareSite site, size_t columns, float steps);
/* out = SiLU(gate) up, all (rows, columns); and backwards, as row_gated_backward. */
void aware_gated(float *out, const float *gate, const float *up, const Pack *p, uint32_t layer, size_t columns, const EmulatedTable *t);
void aware_gated_backward(float *d_gate, float *d_up, const float *d_out, const float *gate, const float *up, const Pack *p, uint32_t layer,
                          size_t columns, const EmulatedTable *t);
/* d_gate += the gradient of weight * max(0, |gate| - most)^2: a gate outside of the table would wrap. */
void aware_pull(float *d_gate, const float *gate, size_t len, float most, float weight);
uint32_t aware_score_key(const Pack *p, size_t sample, uint32_t layer, uint32_t head, size_t row);

#endif
