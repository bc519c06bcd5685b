/* recipe.h - what to train on what: the YAML file of `marill train` and `marill tune` (private to tune/).
 *
 * docs/recipes.md lists every field. A field that nobody knows, a value out of range, a missing field: each is refused by
 * name and line, before anything is read or written. */
#ifndef MARILL_RECIPE_H
#define MARILL_RECIPE_H

#include "tune/data.h"

typedef enum { RECIPE_TRAIN, RECIPE_TUNE } RecipeKind;

typedef enum { METHOD_LORA, METHOD_STANDARD } TuneMethod;
typedef enum { KEEP_LAST, KEEP_BEST } KeepKind;
typedef enum { PRECISION_F32, PRECISION_BF16 } PrecisionKind;
// DEFAULT: by attention where heads are merged, by importance where they are pruned
typedef enum {
    HEADS_BY_DEFAULT, HEADS_BY_ATTENTION, HEADS_BY_WEIGHTS, HEADS_BY_ADJACENT, HEADS_BY_RANDOM, HEADS_BY_IMPORTANCE, HEADS_BY_OUTPUT
} HeadsBy;

typedef struct LoraRecipe {
    uint32_t rank;
    double alpha, dropout;
    bool target[MAT_COUNT];                    // which matrices get factors
    bool share_qkv, share_gate_up;
    uint32_t fixed;                            // a LoraFactor
} LoraRecipe;

typedef struct DistillRecipe {
    const char *teacher, *teacher_adapter;     // NULL: nothing is distilled; folders
    double hidden, logits, labels, temperature, hidden_share;
    bool named;                                // the recipe has the section
} DistillRecipe;

/* What becomes of the upper layers' form: see Variant in model.h. */
typedef struct FormRecipe {
    uint32_t merge, prune, by;                 // heads a group; one kept of so many; a HeadsBy
    double scale;                              // of the scores; 0: the variant's own
    uint32_t activation, softmax;              // an Activation, a Softmax
    bool side_by_side;
    uint32_t norm;                             // 1: 1/rms becomes a constant
    double anneal;                             // share of the steps over which norms become constants
    double row_bound, row_bound_weight;        // nats that row maxima may be off, and what more counts
} FormRecipe;

/* What the upper layers are trained through: see emulate.h. */
typedef struct SecureRecipe {
    bool tables, rounding;
    uint32_t cells;                            // of SiLU's table; 0: as a plan chooses
    double silu_range, range_weight;           // 0: as a plan would; what a gate's square beyond it counts
} SecureRecipe;

typedef struct Recipe {
    Arena arena;                               // owns everything below
    const char *out, *result;                  // run folder; model or adapter folder (default: OUT/model or OUT/adapter)
    const char *tokenizer;                     // train: path of a tokenizer.model; tune: the base's own
    uint32_t vocab;                            // train: pieces of a tokenizer that is made from the sources; 0: `tokenizer` is there
    const char *init;                          // train: model folder to start from, or NULL: `shape` at random
    const char *base, *base_name;              // tune: model folder; how adapter_config.json calls it
    ModelConfig shape;                         // train without `init`
    DataSource *sources;
    size_t source_count;
    uint32_t context, batch_tokens, steps, warmup, log_every, eval_every, eval_tokens, checkpoint_every, seed, threads;
    double epochs;                             // 0: `steps` counts
    double learning_rate, min_ratio, weight_decay, clip, beta1, beta2, epsilon, init_std;
    const char *dtype;                         // "F32" or "BF16"
    uint32_t precision;                        // of products in training, a PrecisionKind
    uint32_t keep, patience;                   // a KeepKind; evaluations without a better one that end the run, 0: none do
    // of tune:
    const char *preset;                        // NULL: none
    uint32_t method;                           // a TuneMethod
    double frozen;                             // layers, or a share of them if below 1
    bool cache;
    uint32_t cache_mb;
    LoraRecipe lora;
    DistillRecipe distill;
    FormRecipe form;
    SecureRecipe secure;
    Buffer text;                               // the file as read
} Recipe;

/* recipe_free also after a failure. */
CHECKED Result recipe_read(Recipe *out, const char *path, RecipeKind kind);
void recipe_free(Recipe *r);

#endif
