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
 * Whole-model training has every weight as a parameter. Tuning has the LoRA factors of the layers from `first` up: layers
 * below run forward only, and the backward pass stops at the cut. */
#ifndef MARILL_TRAIN_H
#define MARILL_TRAIN_H

#include "model/variant.h"
#include "tune/data.h"
#include "tune/recipe.h"

// ---- parameters ------------------------------------------------------------------------------------------------------

/* All parameters lie in one array; gradients and moments have the same layout. */
typedef struct ParamBlock { size_t at, len; bool decay; } ParamBlock;      // decay: the weights of products, not norms or embeddings

typedef struct Params {
    ParamBlock *block;                         // in order, without gaps
    size_t count, total;                       // blocks; floats
} Params;

/* Where each gradient lies: a view of an array of params.total floats. NULL where a tensor is no parameter. */
typedef struct LayerGrads { float *attn_norm, *ffn_norm, *mat[MAT_COUNT], *a[MAT_COUNT], *b[MAT_COUNT]; } LayerGrads;
typedef struct Grads { float *embed, *head, *final_norm; LayerGrads *layer; } Grads;

/* The layout of a whole model, and of the factors that an adapter has. */
void params_of_model(Params *out, const ModelConfig *c, Arena *a);
void params_of_adapter(Params *out, const ModelConfig *c, const Adapter *adapter, Arena *a);
/* Points a model's weights, or an adapter's factors, into `values` (total). */
void params_bind_model(Model *m, float *values, Arena *a);
void params_bind_adapter(Adapter *adapter, const ModelConfig *c, float *values);
/* Views of gradients; adapter NULL for the whole model. */
void params_bind_grads(Grads *out, const ModelConfig *c, const Adapter *adapter, float *values, Arena *a);
/* Normal(0, std) for products and embedding, with std / sqrt(2 layers) for the two that write to the residual stream; ones
 * for norms. */
void params_init_model(const Model *m, float *values, double std, uint64_t seed);
/* A uniform in +-1/sqrt(cols) (PEFT's Kaiming start), B zero. */
void params_init_adapter(const Adapter *adapter, const ModelConfig *c, uint64_t seed);

// ---- network ---------------------------------------------------------------------------------------------------------

typedef struct Pack {
    size_t rows, samples, learned;
    int32_t *token, *target;                   // (rows); target -1: nothing to learn at this row
    uint32_t *position;                        // (rows)
    size_t *start;                             // (samples + 1) first row of each
} Pack;

/* Copies samples into a pack that has room (pack_new); returns how many fitted, at least one. */
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
} Net;

/* Scratch of one thread for packs of up to `rows` rows. */
typedef struct NetScratch NetScratch;
NetScratch *net_scratch(const Net *n, size_t rows, Arena *a);
/* Returns the sum of the cross-entropy over the learned rows, in nats; with grads, adds weight times its gradient. */
double net_run(const Net *n, NetScratch *s, const Pack *p, const Grads *grads, float weight);
/* Of the last net_run, row_weight left out: learned rows times that mean, so that it adds up over packs as the cross-entropy does. */
double net_row_penalty(const NetScratch *s);

/* Causal attention of one layer inside each sample, as its variant has it. q (rows, heads * head_dim), k and v (rows, kv_heads *
 * head_dim) are turned already. work: 2 * ATTENTION_BLOCK * longest sample floats. */
enum { ATTENTION_BLOCK = 64 };
typedef struct Attention {
    const float *q, *k, *v;
    const Pack *pack;
    const ModelConfig *config;
    LayerVariant how;
    float row_slack;                           // where `how` has row bounds
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
} TrainJob;
CHECKED Result train_loop(const TrainJob *job);
CHECKED Result tokenizer_copy(const char *from, const char *folder);      // as FOLDER/tokenizer.model

/* What a run needs to go on as if it had never stopped. Moments are arrays of `total`. */
typedef struct TrainState {
    uint64_t step, epoch, sample;              // steps done; the epoch and the sample in it that come next
    uint64_t tokens;                           // rows trained on so far
    double seconds;                            // spent so far
    float *values, *moment1, *moment2;
    size_t total;
} TrainState;
CHECKED Result checkpoint_write(const TrainState *s, const Recipe *r, unsigned threads, const char *path);
/* Refuses a checkpoint of other parameters, another number of steps, another seed or another number of threads. */
CHECKED Result checkpoint_read(TrainState *s, const Recipe *r, unsigned threads, const char *path);

#endif
