/* emulate.h - what the secure run makes of a float, emulated in floats: for training through it (private to model/ and tune/).
 *
 * A wire of f fraction bits is rounded to a multiple of 2^-f, up or down by a coin, without bias. A lookup rounds its index so, and
 * takes the line of a cell that begins where the mask's low part says: another coin. Both coins are hashes of a key and a column, so
 * the same key gives the same value again. Given the same coins, a value is that of CLEAR up to the rounding of floats; weights,
 * norms, sums and 1/sum, whose widths leave more bits, stay floats. */
#ifndef MARILL_EMULATE_H
#define MARILL_EMULATE_H

#include "model/layers.h"

struct LookupSpec;

typedef struct EmulatedTable {
    unsigned k;                                // bits of the low part
    int32_t cells;                             // a power of two
    float steps;                               // of the index in 1
    float least, most;                         // of the index: beyond, it would wrap
    const float *line;                         // (2^k, cells, 2): see table_floats; NULL: no table
    const float *low;                          // (2^k)
} EmulatedTable;

/* Of one layer; steps in 1, or 0 where nothing is rounded. */
typedef struct EmulatedLayer {
    EmulatedTable gate, exp;
    float residual, query, key, value, weight, attention, up;
    float gate_most;                           // |gate| that the plan's range has its margin for
} EmulatedLayer;

typedef struct Emulated {
    uint32_t first;
    const EmulatedLayer *layer;                // (layers - first)
    float range_weight;                        // of a gate's square beyond gate_most
} Emulated;

void emulated_table(EmulatedTable *out, const struct LookupSpec *s, Arena *a);
/* SiLU's and exp's tables (exp's where it counts down from a row's maximum), the rounding of wires, or both, of the layers from
 * `first` on: as a plan has them that is made of this model and text. silu_range, where it is not 0: see PlanOptions. */
typedef struct EmulateOptions {
    uint32_t context, first;
    const Variant *variant;
    double silu_range;
    bool tables, rounding;
} EmulateOptions;
CHECKED Result emulated_make(Emulated *out, const Model *m, const Adapter *a, const EmulateOptions *o, const int32_t *tokens, size_t count,
                             Arena *arena);

/* x (len) in place, to multiples of 1 / steps. One thread, as all that follow. */
void row_round(float *x, size_t len, float steps, uint32_t key);
void row_look_up(float *out, const float *x, size_t len, const EmulatedTable *t, uint32_t key);
/* Scores become weights that are not divided by their sum yet, rounded to 1 / steps (0: not rounded): exponentials of the score less
 * *top, which follows from the largest cell. Returns the sum. */
float row_exp(float *x, float *top, size_t len, const EmulatedTable *t, float steps, uint32_t key);
/* out = SiLU(gate) up. Straight through backwards: SiLU's own slope at the gate; d_up is exact. */
void row_gated(float *out, const float *gate, const float *up, size_t len, const EmulatedTable *t, uint32_t key);
void row_gated_backward(float *d_gate /* set */, float *d_up /* set */, const float *d_out, const float *gate, const float *up, size_t len,
                        const EmulatedTable *t, uint32_t key);

#endif
