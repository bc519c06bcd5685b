/* secure_parts.h - what the files of the secure half share (private to model/).
 *
 * A plan states the widths of opened wires; the rings of the products between two openings follow from them. They are
 * derived here, once, by `layer_rings`, for the code that computes in them and for the checker that proves them. */
#ifndef MARILL_SECURE_PARTS_H
#define MARILL_SECURE_PARTS_H

#include "model/secure.h"

enum { ATTN, FFN, HALVES };                    // the halves of a layer, each behind a norm of its own
enum { GROUP_MOST = 5 };                       // matrices behind one norm

/* The matrices behind the norm of a half: queries, keys, values; gate and, in a Llama, up. Side by side, all of them are behind the
 * first and none behind the second. Returns their number. */
unsigned group_kinds(const Plan *p, int half, MatrixKind out[GROUP_MOST]);
int kind_half(MatrixKind kind);                // HALVES: it stands behind no norm

// ---- rings (plan_rings.c) --------------------------------------------------------------------------------------------

/* Signed, because a plan read from a file may ask for the impossible: plan_check wants every used one in 1..64. 0: unused. */
typedef struct NormRings {
    int inverse_f, inverse_times;              // fraction bits of 1/rms as it is multiplied; lean: ring of its lookup
    int room[GROUP_MOST];                      // ring bits above the scale that each result needs
    int extra[GROUP_MOST];                     // and those that it has before its scale is corrected (Plan.query_bits)
    int most;                                  // the largest sum of both
    int lift;                                  // public base: x (fold) or x / rms (lean) where the matrices meet it
    int times;                                 // product with 1/rms: of the largest y (fold), of x (lean)
    int times_low_rank;                        // lean: product of z with 1/rms
    int pinned_a, pinned_b;                    // rings of A (or of the private matrix) and of B
    bool normed_opened;                        // lean: x / rms is opened, to be lifted; held: x is
    int shift;                                 // held: x counts 2^-shift
    bool held, y_opened, z_opened;             // held: B z would leave RoPE no ring, so y (fold) or z (lean) is lifted as well
    bool lifted[GROUP_MOST];                   // y_opened: which
} NormRings;

typedef struct OutRings {                      // the output and the down projection
    int lift;                                  // ring of the input: holds what both of the next need
    int public, pinned_a, pinned_b;
} OutRings;

typedef struct LayerRings {
    NormRings norm[HALVES];
    int exp_times;                             // lookup of exp
    int sum_f, sum_times;                      // fraction bits of 1/sum as it is multiplied; lean: ring of its lookup
    int mix_times;                             // product of the mixed values with 1/sum
    int gelu_times;                            // GPT-2: lookup of GELU, or another activation
    int gated_times;                           // Llama with another activation: what is opened as `gated`
    OutRings out, down;
} LayerRings;

void layer_rings(LayerRings *r, const Plan *p, uint32_t layer);
int lookup_f(const LookupSpec *s);             // fraction bits of a rank-2 result
int private_f(const Plan *p, uint32_t layer, MatrixKind kind);               // fraction bits of what is private of a matrix
Width gate_width(const Plan *p, const LayerPlan *l);          // the gate as opened
Width score_width(const Plan *p, const LayerPlan *l);         // scores as opened
int activation_f(const Plan *p, const LayerPlan *l);          // fraction bits of an activation before it is shifted; ReLU: of the gate
int weight_f(const Plan *p, const LayerPlan *l);              // those of a softmax weight
int sum_range(const Plan *p, const LayerPlan *l);             // a row of softmax weights adds up to less than 2^this

/* The constant of a held norm is 2^-shift times this, in [1/2, 1), which the weights of its matrices have in them. 1 without. Side
 * by side, the shift is the attention's, and the FFN's constant about as large. */
double norm_mantissa(const Plan *p, uint32_t layer, int half, int *shift);
/* Fraction bits of the 8-bit weights' scale: more where a mantissa is in it. */
unsigned quant_fraction(const Plan *p, MatrixKind kind);
/* Where a bound stands in for the maximum: added to the scores, so that the slack's end meets the table's top exact cell. */
double bound_shift(const LayerPlan *l);
/* Index of 1/rms: the sum of squares is read as one of 2^square_bits(width) numbers, so that it is near the mean square. */
unsigned square_bits(uint32_t width);          // ceil(log2 width)
/* Ring of the product x / rms, normalised x times the head. */
int final_times(const Plan *p);

// ---- from ranges to a plan (plan_fit.c) ------------------------------------------------------------------------------

/* What calibration saw: largest magnitudes, and the mean squares that the norms see. Low-rank values as balanced. */
typedef struct LayerSeen {
    double residual, square_low[HALVES], square_high[HALVES], normed[HALVES], product[HALVES], low_rank[HALVES];
    double query, key, value, score, mixed, gate, up;
    double sum_low, sum_high;                  // row sums of another softmax's weights
    double row_low, row_high, score_below;     // row maxima less their bound, from .. to; how far below its bound any score lies
} LayerSeen;
typedef struct PlanSeen {
    LayerSeen *layer;                          // (layers)
    double residual, square_low, square_high, logit;           // at the final norm and the head
    int cells;                                 // bits of the cells wished for SiLU or GELU; 0: none are
} PlanSeen;
/* The largest gate that has its margin in a table of 2^range to either side. */
double gate_bound(int range, uint32_t cells);
int cell_bits(uint32_t cells);                 // log2 of a power of two; 0 of 0
/* What the options and the shape settle: all but ranges, widths, tables, rank and adapted. Fails on what they contradict. */
CHECKED Result plan_begin(Plan *out, const ModelConfig *c, const PlanOptions *o);
/* Chooses every width and table of p, whose mode, context, frozen, layers, rank and adapted are set. Fails where the ranges
 * do not fit 64 bits. m: NULL where only the shape is known. */
CHECKED Result plan_fit(Plan *p, const PlanSeen *seen, const ModelConfig *c, const Model *m);

// ---- private and public integers (secure_weights.c) ------------------------------------------------------------------

/* The pinned matrices of a layer: stacked factors A of a half, or under PRIVATE_LAYERS its stacked matrices, and factors B. */
typedef enum {
    PIN_A_ATTN, PIN_B_Q, PIN_B_K, PIN_B_V, PIN_A_OUT, PIN_B_OUT, PIN_A_FFN, PIN_B_GATE, PIN_B_UP, PIN_A_DOWN, PIN_B_DOWN, PIN_COUNT
} Pin;
extern const char *const pin_names[PIN_COUNT];
typedef struct PinShape { size_t outputs, inputs; unsigned n; } PinShape;    // outputs 0: there is none
PinShape pin_shape(const Plan *p, const ModelConfig *c, uint32_t layer, Pin pin);
int pin_f(const Plan *p, uint32_t layer, Pin pin);            // fraction bits
/* Its integers (outputs, inputs), at S and CLEAR. */
CHECKED Result pin_weights(int32_t **out, const Plan *p, const Model *m, const Adapter *a, uint32_t layer, Pin pin, Arena *arena);
Pin pin_of_b(MatrixKind kind);
/* GPT-2: what a private matrix adds to its products (outputs), the norm's shift and the queries' scale folded in, less its mean
 *  where it writes to the residual stream. NULL where the architecture has none. Fails where one is not below 2^38. */
CHECKED Result private_bias(double **out, const Plan *p, const Model *m, const Adapter *a, uint32_t layer, MatrixKind kind, Arena *arena);
/* Where heads are pruned: the row of the model's queries, keys or values (of the output projection: the column) that is the i-th of
 * the secure layer's, for all i, in the order of the groups. NULL: each is where it was. c: the model's. */
const uint32_t *kept_heads(const Plan *p, const ModelConfig *c, uint32_t layer, MatrixKind kind, Arena *arena);
/* The integers of a public matrix of a secure layer, the norm's gain and the queries' 1 / sqrt(head_dim) folded in: 16-bit
 * ones in the arena, or those of a quantised base where its file is mapped (where heads are pruned, a copy of what is left). out: its
 * shape and fraction bits are set. */
CHECKED Result public_matrix(PublicMatrix *out, const Plan *p, const Model *m, uint32_t layer, MatrixKind kind, Arena *arena);
CHECKED Result public_head(PublicMatrix *out, const Plan *p, const Model *m, Arena *arena);
/* The largest |w| of a matrix as it is quantised, but for a norm's constant. */
double public_largest(const Plan *p, const Model *m, uint32_t layer, MatrixKind kind);
double head_largest(const Model *m);
/* Rank j of a pair is used as 2^k A_j and 2^-k B_j, which balances their rounding; this is k. */
int factor_balance(const Plan *p, const Model *m, const Adapter *a, uint32_t layer, MatrixKind kind, uint32_t j);

// ---- angles (secure_rope.c) ------------------------------------------------------------------------------------------

/* cos and sin as integers of f fraction bits, (positions, head_dim / 2, 2): the same on every machine. */
void rope_integers(int32_t *out, const ModelConfig *c, uint32_t positions, unsigned f);

// ---- the network -----------------------------------------------------------------------------------------------------

typedef struct NormNet {
    const Table *rsqrt, *rsqrt_fine;           // fine: NULL where there is one level
    PublicMatrix w[GROUP_MOST];                // where public
    const Pinned *a, *b[GROUP_MOST];           // NULL where there is none
} NormNet;

typedef struct LayerNet {
    const LayerPlan *plan;
    LayerRings rings;
    NormNet norm[HALVES];
    PublicMatrix out, down;
    const Pinned *out_a, *out_b, *down_a, *down_b;
    const uint64_t *bias[MAT_COUNT];           // S and CLEAR: what S adds to its share, of bias_f fraction bits; NULL where there is none
    unsigned bias_f[MAT_COUNT];
    const uint64_t *bound;                     // C and CLEAR: (bound_heads) what is added to scores
    const Table *score_exp, *sum_coarse, *sum_fine, *silu;
    const int32_t *rope;                       // (context, head_dim / 2, 2); NULL without RoPE
    Cache *keys, *values;
    const uint32_t *query_order, *key_order;   // (heads), (kv_heads): which head stands where; NULL: each where it was
    const uint32_t *known_order;               // (kv_heads): of the model's, as in the known keys and values; NULL: all, where they were
} LayerNet;

struct SecureNet {
    Engine *e;
    Arena *session;
    ModelConfig config;                        // plan_shape's
    uint32_t known_heads;                      // key-value heads of the model, as in the known keys and values
    const Plan *plan;
    uint32_t past;
    LayerNet *layer;                           // (plan->layers)
    PublicMatrix head;
    const float *head_bias;                    // C and CLEAR: (vocab), or NULL
    const Table *final_norm;
    Table **table;                             // each distinct one once
    size_t tables;
    Pinned **pin;                              // in the order of the setup message
    size_t pins;
    Cache **cache;                             // keys and values of every layer
    size_t caches;
};

/* One secure layer: x := its output. known: S and CLEAR, where the layer's first exchange enters the known prefix. */
CHECKED Result layer_forward(SecureNet *s, LayerNet *l, Wire *x, bool enter_known, const float *known_keys, const float *known_values);
/* The matrices of a half applied to x / rms, in rings of room + f bits (secure_norm.c). */
CHECKED Result norm_matrices(SecureNet *s, const LayerNet *l, int half, Wire x, Wire out[GROUP_MOST]);
/* x / rms in ring `times`, in 3 exchanges: the final norm, whose x has few words. rows: one word for each row of the batch
 * that x has words for. sum: ring of the sum of squares. */
CHECKED Result norm_fused(SecureNet *s, Wire *out, Wire x, const Layout *rows, Width opened, const Table *rsqrt, unsigned sum,
                          unsigned times);

/* Softmax weights of another softmax, and hidden values of another activation (secure_approx.c). up: of a Llama. */
CHECKED Result approx_weights(SecureNet *s, const LayerNet *l, Wire scores, Wire *out);
CHECKED Result approx_hidden(SecureNet *s, const LayerNet *l, Wire gate, Wire up, Wire *out);

/* A lookup of 1/x in one level or in two. */
typedef struct Inverse { Looked *one; Looked2 *two; } Inverse;
Inverse inverse_select(Engine *e, const Opened *index, const Table *coarse, const Table *fine);
const Factor *inverse_factor(Engine *e, Inverse i, unsigned ring);
/* a plus the bias of a matrix, which S adds to its share. */
Wire bias_add(Engine *e, const LayerNet *l, MatrixKind kind, Wire a);

/* Calls visit for every lookup of the plan, in a fixed order. */
void plan_lookups(const Plan *p, void (*visit)(void *ctx, const LookupSpec *s), void *ctx);
bool lookup_same(const LookupSpec *a, const LookupSpec *b);
/* Every lookup's table once: equal lookups share one. Returns their number. */
size_t tables_new(const Plan *p, Table ***out, Arena *a);
const Table *tables_find(Table *const *tables, size_t count, const LookupSpec *s);

#endif
