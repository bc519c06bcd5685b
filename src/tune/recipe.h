/* recipe.h - what to train on what: the YAML file of `marill train` and `marill tune` (private to tune/).
 *
 * docs/recipes.md lists every field. A field that nobody knows, a value out of range, a missing field: each is refused by
 * name and line, before anything is read or written. */
#ifndef MARILL_RECIPE_H
#define MARILL_RECIPE_H

#include "tune/data.h"

typedef enum { RECIPE_TRAIN, RECIPE_TUNE } RecipeKind;

typedef struct Recipe {
    Arena arena;                               // owns everything below
    const char *out, *result;                  // run folder; model or adapter folder (default: OUT/model or OUT/adapter)
    const char *tokenizer;                     // train: path of a tokenizer.model; tune: the base's own
    const char *init;                          // train: model folder to start from, or NULL: `shape` at random
    const char *base, *base_name;              // tune: model folder; how adapter_config.json calls it
    ModelConfig shape;                         // train without `init`
    DataSource *sources;
    size_t source_count;
    uint32_t context, batch_tokens, steps, warmup, log_every, eval_every, eval_tokens, checkpoint_every, seed, threads;
    double epochs;                             // 0: `steps` counts
    double learning_rate, min_ratio, weight_decay, clip, beta1, beta2, epsilon, init_std;
    const char *dtype;                         // "F32" or "BF16"
    double frozen;                             // tune: layers, or a share of them if below 1
    uint32_t rank;
    double alpha;
    bool target[MAT_COUNT];                    // tune: which matrices get factors
} Recipe;

/* recipe_free also after a failure. */
CHECKED Result recipe_read(Recipe *out, const char *path, RecipeKind kind);
void recipe_free(Recipe *r);

#endif
