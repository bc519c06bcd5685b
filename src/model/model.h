/* model.h - the network: its files, its tokenizer, its plain half and its secure half.
 *
 * A *model folder* is what Hugging Face writes for a Llama: config.json, model.safetensors, tokenizer.model. An *adapter
 * folder* is what PEFT writes: adapter_config.json, adapter_model.safetensors. Reading one gives three objects with three
 * lifetimes, as in llama2.c: `ModelConfig`, the immutable shape; `Model`, the read-only weights; `PlainState`, the scratch
 * and key-value cache of one conversation.
 *
 * The *plain half* is the floating-point network: the client runs the frozen lower layers with it, the provider computes
 * the keys and values of positions that both know, training differentiates it, and the fidelity of the secure run is
 * measured against it. It knows nothing of secret sharing: no file of it includes crypto.h or mpc.h.
 *
 * The *secure half* (secure.h in this folder) runs the upper layers on shares through the moves of mpc.h, under a `Plan`
 * made by calibration.
 *
 * Tensors are row-major; a shape comment gives (rows, columns). T is the number of tokens in a batch.
 */
#ifndef MARILL_MODEL_H
#define MARILL_MODEL_H

#include "base/base.h"

// ---- shape -----------------------------------------------------------------------------------------------------------

typedef struct RopeScaling {                   // "rope_scaling" of type llama3; factor 1 means none
    float factor, low_freq_factor, high_freq_factor, original_context;
} RopeScaling;

/* GPT-2 differs from Llama in this: LayerNorm (RMSNorm once the mean is taken out of what writes to the residual stream),
 * learned positions instead of RoPE, GELU of one matrix (MAT_GATE; there is no MAT_UP) instead of SwiGLU, and biases. Models
 * of it are made in memory; its files are not read. */
typedef enum { ARCH_LLAMA, ARCH_GPT2 } Arch;

typedef struct ModelConfig {
    Arch arch;
    uint32_t width;                            // hidden_size
    uint32_t layers, heads, kv_heads, head_dim;
    uint32_t ffn;                              // intermediate_size
    uint32_t vocab, context;                   // vocab_size, max_position_embeddings
    float norm_eps, rope_theta;
    RopeScaling rope;
    bool tied;                                 // the head is the embedding
    int32_t bos, eos;                          // token ids; -1 where the files name none
} ModelConfig;

/* Parses config.json (Llama architecture only; anything it cannot run faithfully is refused by name). */
CHECKED Result config_parse(ModelConfig *out, const char *json, size_t len);
CHECKED Result config_parse_any(ModelConfig *out, const char *json, size_t len);       // the same, or "gpt2": what parties tell each other
CHECKED Result config_write(const ModelConfig *c, const char *path);
/* A published shape by its name: gpt2-small, open-llama-3b, llama2-7b. */
CHECKED Result shape_config(const char *name, ModelConfig *out);

// ---- weights ---------------------------------------------------------------------------------------------------------

typedef enum { MAT_Q, MAT_K, MAT_V, MAT_O, MAT_GATE, MAT_UP, MAT_DOWN, MAT_COUNT } MatrixKind;
extern const char *const matrix_names[MAT_COUNT];             // "self_attn.q_proj", ... as in the files
uint32_t matrix_rows(const ModelConfig *c, MatrixKind m);     // outputs; 0 for a matrix that the architecture does not have
uint32_t matrix_cols(const ModelConfig *c, MatrixKind m);     // inputs

/* 8-bit weights: element (i, j) is w[i, j] * scale[i] / 2^QUANT_F. */
enum { QUANT_F = 16 };
typedef struct QuantMatrix { const int8_t *w; const int32_t *scale; } QuantMatrix;   // (rows, cols), (rows)

typedef struct LayerWeights {
    const float *attn_norm, *ffn_norm;         // (width)
    const float *mat[MAT_COUNT];               // (matrix_rows, matrix_cols)
    QuantMatrix quant[MAT_COUNT];              // a quantised base, in place of mat: the norm's gain is in it, and 1 / sqrt(head_dim) in MAT_Q
    const float *attn_shift, *ffn_shift;       // (width) what LayerNorm adds; NULL for Llama, and so is
    const float *bias[MAT_COUNT];              // (matrix_rows)
} LayerWeights;

typedef struct Model {
    ModelConfig config;
    const float *embed;                        // (vocab, width)
    const float *positions;                    // (context, width) added to the embedding; NULL for Llama, and so is
    const float *head_bias;                    // (vocab) the head times what the final LayerNorm adds
    const float *final_norm;                   // (width)
    const float *head;                         // (vocab, width); the same pointer as embed where tied
    bool quantised;                            // weights are 8-bit integers: embed, head and mat are NULL
    QuantMatrix quant_embed, quant_head;       // (vocab, width); the final gain is in the head
    LayerWeights *layer;                       // (layers)
    Arena arena;                               // owns everything above, except
    FileMap file;                              // what lies in the mapped file; empty for a model made in memory
} Model;

/* Reads DIR/config.json and DIR/model.safetensors (f32 or bf16). Fails on a missing, surplus or misshaped tensor, a NaN
 * or an infinity, and on any offset that does not fit the file. model_free also after a failure. */
CHECKED Result model_load(Model *out, const char *dir);
/* The same, or a folder with a quantised base: config.json and marill-base.q8, which is mapped and never copied. */
CHECKED Result model_open(Model *out, const char *dir);
/* Writes DIR/config.json and DIR/marill-base.q8: 8-bit integers with a scale a row, from m's floats (see quant.h) or, without
 * a model, of the size that trained ones have, decided by the seed. model_is_synthetic tells whether DIR holds just that. */
CHECKED Result model_quantise(const Model *m, const char *dir, const Progress *p);
CHECKED Result model_synthesise(const ModelConfig *c, uint64_t seed, const char *dir, const Progress *p);
bool model_is_synthetic(const ModelConfig *c, uint64_t seed, const char *dir);
void model_free(Model *m);
/* Writes DIR/config.json and DIR/model.safetensors; dtype "F32" or "BF16" (round to nearest even). */
CHECKED Result model_save(const Model *m, const char *dir, const char *dtype);

/* A model with random weights from a seed, in memory: rows of unit scale go through a layer at unit scale. */
void model_random(Model *out, const ModelConfig *c, uint64_t seed);

/* LoRA factors: the matrix becomes W + scale * B A. A (rank, cols), B (rows, rank); NULL where a matrix has none. */
typedef struct LoraPair { float *a, *b; uint32_t rank; float scale; } LoraPair;
typedef enum { FACTOR_NONE, FACTOR_A, FACTOR_B } LoraFactor;
typedef struct Adapter {
    uint32_t layers;                           // of the model it belongs to
    uint32_t first;                            // the lowest layer that has factors: layers below stay public
    LoraPair (*pair)[MAT_COUNT];               // (layers)
    float dropout;                             // of the factors' input while it was trained: lora_dropout of PEFT
    bool share_qkv, share_gate_up;             // one A for these matrices of a layer: equal copies in files
    LoraFactor fixed;                          // drawn from fixed_seed and never trained: public (params_init_adapter)
    uint64_t fixed_seed;
    Arena arena;
} Adapter;
CHECKED Result adapter_load(Adapter *out, const char *dir, const ModelConfig *c);
CHECKED Result adapter_save(const Adapter *a, const char *dir, const ModelConfig *c, const char *base_name);
void adapter_free(Adapter *a);
/* out := the model with W + scale * B A in place of W, in memory of its own. Everything else is m's, which must outlive out. */
void model_merge(Model *out, const Model *m, const Adapter *a);

// ---- variants --------------------------------------------------------------------------------------------------------

/* Heads merged into groups: a group's queries, keys and values are concatenated, so that their scores add up and one softmax
 * serves them all (angles stay those of each head). Heads that no group names are pruned: they give zeros. Groups are of
 * key-value heads; the query heads that share them group alike. */
typedef struct HeadGroups {
    uint32_t size;                             // heads a group; 0 and 1: nothing is merged
    /* For each layer from the variant's first on its key-value heads (layers, heads): runs of `size` of them are the groups. NULL:
     * groups of adjacent heads. */
    const uint32_t *order;
    uint32_t heads;                            // that are named for each layer: divisible by size, kv_heads where none is pruned
} HeadGroups;
/* The key-value head at place `at` of the order of a layer, counted from the variant's first. With share = heads / kv_heads,
 * merged query head h is made of the query heads group_head(h / share * size + t) * share + h % share, t < size. */
uint32_t group_head(const HeadGroups *g, uint32_t layer, uint32_t at);

typedef enum { ACTIVATION_BASE, ACTIVATION_RELU, ACTIVATION_QUAD } Activation;
typedef enum { SOFTMAX_EXP, SOFTMAX_2QUAD, SOFTMAX_2RELU } Softmax;
#define SOFTMAX_SHIFT 5.0f
#define SOFTMAX_FLOOR 0.001f

/* What tuning may change of the upper layers beside their weights, the same for plain runs and for training. All zeros: nothing.
 * Quad, 2Quad and 2ReLU are MPCFormer's (Li et al. 2023). */
typedef struct Variant {
    uint32_t first;                            // the lowest layer that it concerns: layers below are the base's
    HeadGroups heads;
    float score_scale;                         // of the scores, times 1 / sqrt(head_dim); 0: 1
    Activation activation;                     // in place of SiLU or GELU: max(x, 0); x^2 / 8 + x / 4 + 1 / 2
    Softmax softmax;                           // in place of exp(x) / sum: (x + shift)^2 / sum; max(x, 0) / (sum + SOFTMAX_FLOOR)
    float score_shift;                         // of 2Quad; 0: SOFTMAX_SHIFT
    bool side_by_side;                         // attention and FFN both read the layer's entry; what they give is added
    /* (layers - first, 2) of the attention's and of the FFN's norm: 1/rms becomes (1 - mix) / rms + mix * constant. NULL: none. */
    const float *norm;
    float norm_mix;                            // 0..1, rising while training anneals
    /* (layers - first, kept query heads / size) what stands in for the maximum of a row of scores. The plain network's softmax is
     * the same with any; training keeps the maxima near. NULL: none. */
    const float *row_bound;
    /* Cells of the table of SiLU or GELU, a power of two; 0: as the plan chooses. A plain run has no cells: whoever makes a plan asks. */
    uint32_t cells;
} Variant;
bool variant_changes(const Variant *v);        // anything at all; false for NULL
/* {"variant": {..}} of DIR/marill.json; zeros where there is no such file or member. first: the lowest layer, where neither it
 * nor a list for each layer is given. Failures name the file. */
CHECKED Result variant_load(Variant *out, const char *dir, const ModelConfig *c, uint32_t first, Arena *a);
/* Groups that divide the heads and name each at most once, numbers that make sense. */
CHECKED Result variant_check(const Variant *v, const ModelConfig *c);

// ---- tokenizer -------------------------------------------------------------------------------------------------------

/* Sentencepiece BPE with byte fallback, from tokenizer.model. Encoding escapes spaces, adds the dummy prefix if the file
 * asks for it, and merges by score. */
typedef struct Tokenizer Tokenizer;
CHECKED Result tokenizer_load(Tokenizer **out, const char *path);
void tokenizer_free(Tokenizer *t);
uint32_t tokenizer_vocab(const Tokenizer *t);
int32_t tokenizer_bos(const Tokenizer *t);
int32_t tokenizer_eos(const Tokenizer *t);
/* UTF-8 text to ids (no BOS added). Fails on text that is not UTF-8, naming the offset. ids: arena memory. */
CHECKED Result tokenizer_encode(const Tokenizer *t, const char *text, size_t len, int32_t **ids, size_t *count, Arena *a);
/* Appends the bytes that `id` adds after `previous` (-1 at the start of a text, whose leading space is dropped). Bytes of
 * an incomplete UTF-8 character are passed on as they are: callers that print hold them back with utf8_complete. */
CHECKED Result tokenizer_decode(const Tokenizer *t, int32_t previous, int32_t id, Buffer *out);
size_t utf8_complete(const uint8_t *text, size_t len);        // length of the longest prefix of whole characters
size_t utf8_invalid_at(const uint8_t *text, size_t len);      // offset of the first bad byte, or len
/* Trains a BPE vocabulary on text lines and writes a sentencepiece tokenizer.model with byte fallback. */
CHECKED Result tokenizer_train(const char *text, size_t len, uint32_t vocab, const char *path);

// ---- plain network ---------------------------------------------------------------------------------------------------

/* What a calibration may look at while the plain network runs; values are those of the float network. */
typedef enum {
    SEE_RESIDUAL,      // (T, width) before each norm; for LayerNorm less its mean
    SEE_MEAN_SQUARE,   // (T) of the same
    SEE_QUERY, SEE_KEY,// (T, heads|kv_heads * head_dim) after RoPE
    SEE_VALUE,         // (T, kv_heads * head_dim)
    SEE_SCORE,         // causal scores of one row and softmax: (past + i + 1)
    SEE_MIXED,         // (T, heads * head_dim) attention output, normalised
    SEE_GATE, SEE_UP,  // (T, ffn)
    SEE_HIDDEN,        // (T, ffn) SiLU(gate) * up, or GELU(gate)
    SEE_LOW_RANK,      // (T, rank) A x of any adapted matrix, x as the matrix sees it
    SEE_FINAL,         // (T, width) after the final norm
    SEE_LOGIT,         // (T, vocab) before head_bias
    SEE_COUNT
} Sight;
typedef struct Watch { void (*see)(void *ctx, uint32_t layer, Sight what, const float *x, size_t len); void *ctx; } Watch;

/* One conversation: cache and scratch. */
typedef struct PlainState PlainState;
PlainState *plain_new(const Model *m, const Adapter *adapter /* may be NULL */, uint32_t context, Arena *a);
void plain_watch(PlainState *s, const Watch *w);              // NULL: nobody watches
void plain_vary(PlainState *s, const Variant *v);             // NULL: nothing; its arrays must outlive s
void plain_truncate(PlainState *s, uint32_t past);            // forget positions from `past` on
uint32_t plain_past(const PlainState *s);
const float *plain_keys(const PlainState *s, uint32_t layer); // (context, kv_heads * head_dim), after RoPE
const float *plain_values(const PlainState *s, uint32_t layer);
/* x (rows, width) := the embedding of tokens (and of the positions from past on); ids are checked to lie in the vocabulary. */
CHECKED Result plain_embed(const PlainState *s, float *x, const int32_t *tokens, size_t rows);
/* Runs layers [from, to) on x (rows, width) at positions past.. and fills their caches. Past does not move. */
void plain_layers(PlainState *s, float *x, size_t rows, uint32_t from, uint32_t to);
void plain_advance(PlainState *s, size_t rows);
/* Final norm and head: logits (rows, vocab) of x (rows, width). */
void plain_logits(PlainState *s, float *logits, const float *x, size_t rows);
/* All of it: the logits of every one of `rows` tokens, logits (rows, vocab). Fails if the context is full. */
CHECKED Result plain_forward(PlainState *s, float *logits, const int32_t *tokens, size_t rows);

// ---- sampling --------------------------------------------------------------------------------------------------------

typedef struct Sampler { float temperature, top_p; uint64_t state; } Sampler;
void sampler_init(Sampler *s, float temperature, float top_p, uint64_t seed);
int32_t sampler_pick(Sampler *s, const float *logits, uint32_t vocab);      // temperature 0: the largest, lowest id first
double cross_entropy(const float *logits, uint32_t vocab, int32_t target);   // nats

#endif
