/* secure.h - the secure half of the network: the plan, and the upper layers on shares.
 *
 * A `Plan` fixes every width, scale, range and table of the secure layers, for one model, one context length and one choice
 * of what is private. It is made once by calibration on text, stored as JSON beside the model, and agreed by hash. A checker
 * proves by interval arithmetic that no wire leaves its ring inside the calibrated ranges.
 *
 * `SecureNet` runs the layers from `frozen` on through the moves of mpc.h. The same code serves all five roles: what a role
 * does not have (weights, tokens, shares) it does not touch.
 */
#ifndef MARILL_SECURE_H
#define MARILL_SECURE_H

#include "model/model.h"
#include "mpc/mpc.h"

typedef enum { PREFER_EXCHANGES, PREFER_BYTES } Prefer;       // fold or lean: 18 or 23 exchanges a layer, 17 or 22 of GPT-2
typedef enum { PRIVATE_LORA, PRIVATE_LAYERS } Private;        // only the adapter, or every matrix of the secure layers (GPT-2: always)

typedef struct Width { unsigned n, f; } Width;                // ring bits, fraction bits; {0, 0}: not used in this mode

/* Planned bounds of one layer: |value| < 2^bound, margins included. What widths and tables are proved against. */
typedef struct LayerRange {
    int residual;                              // x at entry, between the halves, and at the exit
    int normed[2];                             // x / rms, of the attention half and of the FFN half
    int product[2];                            // W x before it is divided by the rms (held: after): queries, keys, values; gate, up
    int low_rank[2];                           // z = A x before the same
    int query, key, value, mixed;              // queries with their 1 / sqrt(head_dim); mixed: attention output
    int gate, up;                              // |gate * up| bounds the hidden values; gate: less a cell of the SiLU table
    int score, weight, sum;                    // another softmax: scores, less a cell of their sign; its weights, and their sum
} LayerRange;

/* A norm and the matrices behind it. Fold multiplies by 1/rms after the matrices, lean before; a norm that is held at a constant
 * (Plan.norm) needs neither, and no sum of squares. secure_layer.c says where each width is used. */
typedef struct NormPlan {
    unsigned sum;                              // ring of the sum of squares; held: 0, and no table
    LookupSpec rsqrt;                          // of the sum of squares, cells from 0
    LookupSpec rsqrt_fine;                     // lean, where rsqrt has a border: its second level
    Width low_rank;                            // z = A x
    Width product;                             // fold: y = W x + B z as opened; lean, held: f of the sum before it is shifted
    Width inverse;                             // lean: 1/rms as opened
    Width normed;                              // lean: x / rms, as opened or as sent; held: x times the constant's power of two
    Width low_rank_normed;                     // lean: z / rms, as sent; held: z, lifted
} NormPlan;

typedef struct LayerPlan {
    LayerRange range;
    unsigned weight_f[MAT_COUNT];              // fraction bits of the public weights, or of the private ones
    Width residual;                            // x at the layer's entry and exit
    NormPlan attn, ffn;
    unsigned rope_f;                           // fraction bits of cos and sin; 0 without RoPE
    Width query, key, value;                   // after RoPE, as opened
    double row_slack;                          // scores lie at most so far above their head's bound (Plan.row_bound); 0: no bound is used
    LookupSpec score_exp;                      // rank 1, down from the row maximum or its bound; 2^(t-k) cells of width 2
    Width exp;                                 // softmax weights as opened
    Width mix;                                 // mixed values before 1/sum, as opened
    LookupSpec sum_coarse, sum_fine;           // 1/sum; border 0: one level, sum_coarse alone
    Width sum_inverse;                         // lean: 1/sum as opened
    Width attention;                           // normalised attention output
    bool attention_opened;                     // it is opened and lifted before the output matrix
    Width low_rank_out, low_rank_down;         // z of the output and of the down projection, as sent
    LookupSpec silu;                           // of the gate: SiLU, or GELU for GPT-2
    Width up, hidden;                          // GPT-2 has no up
    /* Another softmax has no score_exp, another activation no silu (secure_approx.c). Cells: of signs, in bits of their index. */
    Width score; unsigned score_cell;          // scores as opened
    int weight_unit;                           // softmax weights are counted in 2^weight_unit
    Width gate; unsigned gate_cell;            // the gate as opened
    Width gated;                               // Llama: of ReLU gate times up, of Quad the activation, as opened
} LayerPlan;

typedef struct Plan {
    Arch arch;
    uint32_t context, known;                   // positions planned for; positions at the start whose tokens both know
    int32_t *known_token;                      // (known): BOS and a public prefix, covered by the plan's hash; NULL: BOS alone
    HeadGroups heads;                          // of the secure layers, from `frozen` on; the order lies in the arena
    bool side_by_side;                         // attention and FFN both read the layer's entry, behind one norm: LayerPlan.attn
    const float *norm;                         // (layers, 2) constants in place of 1/rms (Variant.norm); NULL: none. In the arena
    Activation activation;
    Softmax softmax;
    double score_scale;                        // of the scores, folded into the queries' weights; 0: 1
    double score_shift;                        // of 2Quad; else 0
    uint32_t bound_heads;                      // merged query heads, where there are
    const float *row_bound;                    // (layers, bound_heads) what stands in for row maxima; NULL: none. In the arena
    uint32_t frozen, layers;                   // the client runs layers below `frozen`; the `layers` above are secure
    bool adapted[MAT_COUNT];                   // matrices with low-rank factors, the same in every secure layer
    uint32_t rank;                             // of the adapter; 0 without one
    Prefer prefer;
    Private private_part;
    unsigned adapter_f;                        // fraction bits of low-rank factors
    /* Private queries: 2^query_bits of their 1 / sqrt(head_dim) are a matter of scale; the rest is folded into their weights, which
     * are rounded as finely as those stacked with them. 0 where the queries' weights are public. */
    unsigned query_bits;
    LayerPlan *layer;                          // (layers)
    unsigned weight_bits;                      // of public weights: 16, or 8 times a scale of each row (a quantised base)
    unsigned head_f;                           // fraction bits of the public head
    int final_range, logit_range;              // |x| < 2^final_range before the final norm, |logit| < 2^logit_range
    Width final_residual;                      // x as opened for the final norm
    unsigned final_sum;                        // ring of its sum of squares
    Width final;                               // normalised
    Width logit;                               // as revealed, before logit_drop of its bits are dropped
    unsigned logit_drop;
    LookupSpec final_norm;
    uint8_t model_hash[HASH_BYTES];            // of the public integers
    Arena arena;
} Plan;

typedef struct PlanOptions {
    uint32_t context, frozen;
    Prefer prefer;
    Private private_part;
    unsigned weight_bits;                      // of plan_assume: 8, or 16 (also 0); plan_make follows the model
    /* Tokens after BOS that both know, of a system prompt or a template's head. plan_assume looks at their number alone. */
    const int32_t *prefix; uint32_t prefix_len;
    /* What the secure layers cannot do of it is refused by name. first does not count: it is taken to be `frozen`. */
    Variant variant;
    double silu_range;                         // plan_make: gates are to be trained into a table to +- this power of two; 0: as seen
    const bool *targets;                       // of plan_assume: (MAT_COUNT) which matrices have factors; NULL: all
} PlanOptions;
/* Runs the plain model with its adapter over the text, watches the ranges and chooses the plan. */
CHECKED Result plan_make(Plan *out, const Model *m, const Adapter *a, const PlanOptions *o, const int32_t *tokens, size_t count);
/* A plan for a shape alone, with ranges that are typical of trained models: for predicting costs, not for running. */
CHECKED Result plan_assume(Plan *out, const ModelConfig *c, const PlanOptions *o, uint32_t rank);
CHECKED Result plan_check(const Plan *p, const ModelConfig *c);              // the interval proof; also run on every plan read
CHECKED Result plan_save(const Plan *p, const char *path);
CHECKED Result plan_load(Plan *out, const char *path);
CHECKED Result plan_parse(Plan *out, const char *json, size_t len);
void plan_json(const Plan *p, Buffer *out);
void plan_free(Plan *p);
/* The plan's layers as a variant for the plain network; the plan must outlive it. */
Variant plan_variant(const Plan *p);
/* The model's shape as the secure layers have it: of a sound plan's pruned heads there is nothing. */
ModelConfig plan_shape(const Plan *p, const ModelConfig *c);
/* Over the plan's JSON, the shape, and the tables it makes. The hash of the public integers is in the plan. */
void plan_hash(const Plan *p, const ModelConfig *c, uint8_t out[HASH_BYTES]);
/* Of every public integer of the secure layers and the head. Fails where the plan is of another model. */
CHECKED Result public_hash(const Plan *p, const Model *m, uint8_t out[HASH_BYTES]);
/* Salted commitment to the private part, as the provider shows it at the handshake. */
CHECKED Result private_commitment(const Plan *p, const Model *m, const Adapter *a, const uint8_t salt[KEY_BYTES], uint8_t out[HASH_BYTES]);

typedef struct SecureNet SecureNet;
/* m: the public base at C, S and CLEAR (S and CLEAR under PRIVATE_LAYERS use its layers as the private ones; C uses only its
 * public parts); NULL at T and COUNT. a: S and CLEAR, NULL if there is none. Needs engine_shared_seed and engine_pad_seed at C, S,
 * CLEAR. */
CHECKED Result secure_new(SecureNet **out, Engine *e, Arena *session, const ModelConfig *c, const Plan *p, const Model *m,
                          const Adapter *a);
/* The pinned matrices in their fixed order, for the one-time setup message of S to T. */
size_t secure_pins(const SecureNet *s, Pinned *const **pins);
/* One batch of `rows` positions (the engine has begun it). x: C and CLEAR, hidden state at the cut (rows, width). known: S
 * and CLEAR, for the first batch only: keys and values of the plan's known positions, from plain_keys / plain_values of each
 * secure layer ([layer - frozen], (known, kv_heads * head_dim)). logits: C and CLEAR, (rows, vocab), or of the last row alone
 * if last_only. Costs layers * 18 (23) + 5 exchanges. */
/* Whether a batch of `rows` positions after `past` is one that this machine has the memory for, and for the keys and values up to
 * its end, which get theirs as the conversation grows. secure_forward asks the same; who has promises to keep asks before it
 * makes them. */
CHECKED Result secure_room(const SecureNet *s, uint32_t past, size_t rows, bool last_only);
/* The same for a whole conversation: a first batch of `rows` positions after the known ones and `more` single ones. What the first
 * took for its work stays taken while keys and values grow to the end, so this is more than both batches asked for by themselves. */
CHECKED Result secure_room_conversation(const SecureNet *s, size_t rows, bool last_only, uint32_t more);
typedef struct KnownPrefix { const float *const *keys, *const *values; } KnownPrefix;
CHECKED Result secure_forward(SecureNet *s, size_t rows, const float *x, const KnownPrefix *known, float *logits, bool last_only);
/* The secure layers of such a batch alone, without final norm and head: out is the shared residual (rows, width), which lives until
 * the engine's next batch. For measuring. */
CHECKED Result secure_layers(SecureNet *s, size_t rows, const float *x, const KnownPrefix *known, Wire *out);
/* C, between batches: what the next `rows` positions, of segments first.., need of it that depends on no message (see
 * engine_ahead). Does less where it would need more than 64 MB. Nothing is sent. */
CHECKED Result secure_ahead(SecureNet *s, size_t rows, uint64_t first, const uint8_t (*client)[KEY_BYTES]);
uint32_t secure_past(const SecureNet *s);      // positions in the cache, known ones included
void secure_restart(SecureNet *s);             // forgets them: the next batch begins a conversation
void secure_truncate(SecureNet *s, uint32_t past);            // forgets those from `past` on, which come after the known ones
/* The exact cost of a batch of `rows` rows after `past` positions (past 0: the known prefix is entered first). */
CHECKED Result plan_cost(Cost *out, const Plan *p, const ModelConfig *c, uint32_t past, size_t rows, bool last_only);
CHECKED Result plan_cost_layers(Cost *out, const Plan *p, const ModelConfig *c, uint32_t past, size_t rows);      // of secure_layers
uint64_t plan_setup_bytes(const Plan *p, const ModelConfig *c);              // S to T, once

#endif
