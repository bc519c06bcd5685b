/* train.h - differentiating the network and stepping its parameters (private to tune/).
 *
 * A *batch* is some thousand tokens of whole samples. Each thread takes a share of the samples, cuts it into *packs* that
 * fit its scratch, runs every pack forward and backward, and adds to gradients of its own; then the gradients are added up
 * in the order of the threads. So a step needs two meetings of the threads and not hundreds, a pack stays near the
 * processor, and the result depends on the number of threads but on no race.
 *
 * A pack is a set of samples, one after another along the rows and without padding: rows see only rows of their own sample,
 * and positions restart with each.
 *
 * Whole-model training has every weight as a parameter. Tuning has the LoRA factors of the layers from `first` up, or these
 * layers' own weights: layers below run forward only, and the backward pass stops at the cut. What they give, the *cut*, is
 * computed sample by sample, so that it follows from the sample alone and may be kept.
 *
 * A *student* learns from its labels, and from a *teacher*, a network of the same shape that runs beside it on the same pack:
 * from the teacher's residual stream and from its logits. */
#ifndef MARILL_TRAIN_H
#define MARILL_TRAIN_H

#include "model/emulate.h"
#include "model/variant.h"
#include "tune/data.h"
#include "tune/recipe.h"

// ---- parameters ------------------------------------------------------------------------------------------------------

/* All parameters lie in one array; gradients and moments have the same layout. */
enum { PARAM_OUTSIDE = UINT32_MAX };           // the layer of embedding, head and final norm
typedef struct ParamBlock { size_t at, len; uint32_t layer; bool decay; } ParamBlock;     // decay: the weights of products, not norms or embeddings

typedef struct Params {
    ParamBlock *block;                         // in order, without gaps
    size_t count, total;                       // blocks; floats
} Params;

/* Where each gradient lies: a view of an array of params.total floats. NULL where a tensor is no parameter. */
typedef struct LayerGrads { float *attn_norm, *ffn_norm, *mat[MAT_COUNT], *a[MAT_COUNT], *b[MAT_COUNT]; } LayerGrads;
typedef struct Grads {
    float *embed, *head, *final_norm;
    LayerGrads *layer;
    void (*left)(void *ctx, uint32_t layer);   // called when a pack has added all that it has to the layer's gradients; may be NULL
    void *ctx;
} Grads;

/* The layout of a whole model, of the layers from `first` on, and of the factors that an adapter has: a factor A that matrices
 * share is there once, a fixed factor not at all. */
void params_of_model(Params *out, const ModelConfig *c, Arena *a);
void params_of_layers(Params *out, const ModelConfig *c, uint32_t first, Arena *a);
void params_of_adapter(Params *out, const ModelConfig *c, const Adapter *adapter, Arena *a);
/* Points a model's weights, its upper layers alone, or an adapter's factors into `values` (total). m->layer and, for fixed
 * factors, what they lie in are new memory of `a`; params_bind_layers copies the weights there are. */
void params_bind_model(Model *m, float *values, Arena *a);
void params_bind_layers(Model *m, uint32_t first, float *values, Arena *a);
void params_bind_adapter(Adapter *adapter, const ModelConfig *c, float *values, Arena *a);
/* Views of gradients; adapter NULL for the whole model. */
void params_bind_grads(Grads *out, const ModelConfig *c, const Adapter *adapter, float *values, Arena *a);
void params_bind_layer_grads(Grads *out, const ModelConfig *c, uint32_t first, float *values, Arena *a);
/* Normal(0, std) for products and embedding, with std / sqrt(2 layers) for the two that write to the residual stream; ones
 * for norms. */
void params_init_model(const Model *m, float *values, double std, uint64_t seed);
/* A uniform in +-1/sqrt(cols) (PEFT's Kaiming start), B zero; where B is fixed, B uniform in +-sqrt(3 / rank), of variance
 * 1 / rank, and A zero. Fixed factors follow from the seed alone, and it is noted as their seed. */
void params_init_adapter(Adapter *adapter, const ModelConfig *c, uint64_t seed);

// ---- network ---------------------------------------------------------------------------------------------------------

typedef struct Pack {
    size_t rows, samples, learned;
    int32_t *token, *target;                   // (rows); target -1: nothing to learn at this row
    uint32_t *position;                        // (rows)
    size_t *start;                             // (samples + 1) first row of each
    size_t *source;                            // (samples) which of the samples given to pack_fill it is
    uint64_t *noise;                           // (samples) what its dropout masks follow from; 0: nothing is dropped
    uint64_t *coin;                            // (samples) what the coins of its emulated roundings follow from
    const float **cut;                         // (samples) its residual stream at the cut (its rows, width); NULL: not known yet
} Pack;

/* Copies samples into a pack that has room (pack_new); returns how many fitted, at least one. noise and cut are cleared. */
Pack *pack_new(size_t rows, Arena *a);
size_t pack_fill(Pack *p, size_t capacity, const Sample *samples, size_t count);

typedef struct Net {
    const Model *model;
    const Adapter *adapter;                    // NULL: the weights are the parameters
    uint32_t first;                            // lowest layer that is differentiated
    const float *rope;                         // (context, head_dim / 2, 2)
    const Variant *variant;                    // NULL: none. Its first is not below `first`, unless nothing is differentiated
    /* Where the variant has row bounds, net_run's gradient has that of row_weight times the mean over rows, softmaxes and layers of
     * max(0, |largest score - bound| - row_slack)^2 added, as if each learned row lost as much. */
    float row_weight, row_slack;
    float dropout;                             // share of the factors' inputs that is dropped in samples with noise
    const Emulated *secure;                    // the layers from its first on compute as the secure run does; NULL: all in floats
    bool bf16;                                 // products with weights from `first` up are of bf16 where gradients are computed
} Net;

/* Scratch of one thread for packs of up to `rows` rows. */
typedef struct NetScratch NetScratch;
NetScratch *net_scratch(const Net *n, size_t rows, Arena *a);

/* What a loss counts in the objective, and so in the gradient. A row's: the cross-entropy and the divergence of a learned one
 * in nats, the error of hidden states of any one. */
typedef struct Teacher Teacher;
typedef struct Objective {
    float labels;                              // the cross-entropy
    float logits, temperature;                 // temperature^2 KL(teacher || student) of logits / temperature
    float hidden;                              // |student - teacher|^2 / |teacher|^2 after each layer from the cut on, their mean
    float row_bound;                           // a learned row's share of the penalty on row maxima, times the net's row_weight
    Teacher *teacher;                          // of this thread; may be NULL where logits and hidden are 0
} Objective;
typedef struct Losses { double labels, logits, hidden, row_bound; } Losses; // sums over rows, without the factors above
/* Runs a pack; with grads, adds the gradient of the objective. What counts 0 is computed only if all is 0 (labels). */
Losses net_learn(const Net *n, NetScratch *s, const Pack *p, const Objective *o, const Grads *grads);
/* The same for the labels alone: returns the sum of the cross-entropy over the learned rows. */
double net_run(const Net *n, NetScratch *s, const Pack *p, const Grads *grads, float weight);
/* Of the last net_run or net_learn, row_weight left out: learned rows times that mean, so that it adds up over packs as the cross-entropy does. */
double net_row_penalty(const NetScratch *s);
/* out (rows, width): the residual stream at the cut of a sample of rows + 1 tokens. The same bits wherever it is called. */
void net_cut(const Net *n, NetScratch *s, float *out, const int32_t *tokens, size_t rows);

/* One thread's teacher for packs of up to `rows` rows, with the student's cut, rotations and precision. The layers below the cut are
 * shared where shares_cut. */
Teacher *teacher_new(const Model *m, const Net *student, bool shares_cut, size_t rows, Arena *a);

/* Causal attention of one layer inside each sample, as its variant has it. q (rows, heads * head_dim), k and v (rows, kv_heads *
 * head_dim) are turned already. work: 2 * ATTENTION_BLOCK * longest sample floats. */
enum { ATTENTION_BLOCK = 64 };
typedef struct Attention {
    const float *q, *k, *v;
    const Pack *pack;
    const ModelConfig *config;
    LayerVariant how;
    float row_slack;                           // where `how` has row bounds
    const EmulatedLayer *secure;               // NULL, or with a table of exp
    uint32_t layer;
    float *work;
} Attention;
/* mixed (rows, heads * head_dim). sums (rows, heads) keeps for the backward pass, which computes the scores again, what each softmax
 * divided by (exponentials: its logarithm). Returns the sum over all rows and softmaxes of max(0, |largest score - bound| - slack)^2. */
double attention_forward(float *mixed, float *sums, const Attention *t);
typedef struct AttentionGrads { float *d_q, *d_k, *d_v /* set */; const float *d_mixed, *mixed, *sums; } AttentionGrads;
/* The gradients through mixed, and row_weight times those of that sum. */
void attention_backward(const AttentionGrads *g, const Attention *t, float row_weight);

// ---- optimizer -------------------------------------------------------------------------------------------------------

typedef struct Adam { double beta1, beta2, epsilon, decay; } Adam;

/* One step (counted from 1) of AdamW (Loshchilov and Hutter 2019): decoupled decay, moments corrected for their start. */
void adam_step(float *values, float *moment1, float *moment2, const float *grads, const Params *p, const Adam *a, double rate,
               uint64_t step);
/* out[i] = sum over parts of part[p][i]; returns the Euclidean norm of out. */
double grads_sum(float *out, float *const *part, size_t parts, size_t len);
void grads_scale(float *grads, size_t len, float by);
/* Linear warm-up to `peak`, then half a cosine to peak * floor_ratio at the last step. Steps count from 1. */
double schedule_rate(double peak, double floor_ratio, uint64_t step, uint64_t warmup, uint64_t steps);

// ---- run -------------------------------------------------------------------------------------------------------------

/* What `train` and `tune` have in common: the loop, its files, resume. `values` are the parameters, bound already. `save`
 * writes the result folder. */
typedef struct TrainJob {
    Recipe *recipe;                            // `steps` is filled in where it counts in epochs
    const TrainOptions *options;
    const Net *net;
    const Params *params;
    float *values;
    const Tokenizer *tokenizer;
    Result (*save)(void *ctx);
    void *ctx;
    bool layers_only;                          // the parameters are weights of the layers from net->first on
    const Model *teacher;                      // NULL: the recipe distils nothing
    Variant *variant;                          // net->variant, whose norm_mix the loop moves; may be NULL
} TrainJob;
CHECKED Result train_loop(const TrainJob *job);
/* Runs work(recipe_path, o) as one of the ranks that the launcher started, or alone; rank 0 alone tells of progress. */
CHECKED Result ranks_run(const char *recipe_path, const TrainOptions *o, Result (*work)(const char *recipe_path, const TrainOptions *o));
CHECKED Result tokenizer_copy(const char *from, const char *folder);      // as FOLDER/tokenizer.model

/* What a run needs to go on as if it had never stopped. Moments are arrays of `total`. */
typedef struct TrainState {
    uint64_t step, epoch, sample;              // steps done; the epoch and the sample in it that come next
    uint64_t tokens;                           // rows trained on so far
    double seconds;                            // spent so far
    double best_loss;                          // the lowest held-out loss, and the step that had it; 0: none yet
    uint64_t best_step, stale;                 // stale: evaluations since
    float *values, *moment1, *moment2;
    size_t total;
} TrainState;
/* Into how many parts a batch is cut, and whose sums are added in what order. */
typedef struct Division { unsigned threads, ranks; } Division;
CHECKED Result checkpoint_write(const TrainState *s, const Recipe *r, Division d, const char *path);
/* Refuses a checkpoint of other parameters, another number of steps, another seed or another division. */
CHECKED Result checkpoint_read(TrainState *s, const Recipe *r, Division d, const char *path);

#endif
