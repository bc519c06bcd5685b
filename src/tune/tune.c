/* tune.c - `marill tune`: LoRA factors on the upper layers of a frozen model, from a recipe.
 *
 * The layers below the cut stay as they are, which is what makes them public: a client can run them by itself. */
#include "model/layers.h"
#include "tune/train.h"

#include <math.h>

typedef struct TuneRun {
    Recipe recipe;
    Model base;
    Adapter adapter;                           // its factors are the parameters
    Tokenizer *tokenizer;
    Arena arena;
} TuneRun;

static Result adapter_write(void *ctx)
{
    const TuneRun *run = ctx;
    GUARD(folder_make(run->recipe.result, 0755));
    return adapter_save(&run->adapter, run->recipe.result, &run->base.config, run->recipe.base_name);
}

static Result cut_find(uint32_t *first, const Recipe *r, uint32_t layers)
{
    double frozen = r->frozen < 1 ? floor(r->frozen * layers + 0.5) : r->frozen;
    if (frozen != floor(frozen) || frozen >= layers)
        return fail(FAIL_DATA, "frozen must be below 1 or a number of layers below %u, not %g", layers, r->frozen);
    *first = (uint32_t)frozen;
    return OK;
}

static void adapter_shape(TuneRun *run, uint32_t first)
{
    const Recipe *r = &run->recipe;
    Adapter *a = &run->adapter;
    arena_init(&a->arena, false);
    a->layers = run->base.config.layers;
    a->first = first;
    a->pair = arena_alloc(&a->arena, a->layers, sizeof *a->pair);
    for (uint32_t l = first; l < a->layers; l++)
        for (MatrixKind m = 0; m < MAT_COUNT; m++)
            if (r->target[m]) a->pair[l][m] = (LoraPair){.rank = r->rank, .scale = (float)(r->alpha / r->rank)};
}

static Result tuning_run(TuneRun *run, const char *path, const TrainOptions *o)
{
    Recipe *r = &run->recipe;
    uint32_t first = 0;
    GUARD(recipe_read(r, path, RECIPE_TUNE));
    GUARD(model_load(&run->base, r->base));
    GUARD(tokenizer_load(&run->tokenizer, r->tokenizer));
    const ModelConfig *c = &run->base.config;
    GUARD(cut_find(&first, r, c->layers));
    if (r->context > c->context) return fail(FAIL_DATA, "context %u is more than the %u of %s", r->context, c->context, r->base);
    if (tokenizer_vocab(run->tokenizer) > c->vocab)
        return fail(FAIL_DATA, "%s has %u tokens, the model room for %u", r->tokenizer, tokenizer_vocab(run->tokenizer), c->vocab);
    adapter_shape(run, first);
    Params p;
    params_of_adapter(&p, c, &run->adapter, &run->arena);
    float *values = arena_new(&run->arena, float, p.total);
    float *rope = arena_new(&run->arena, float, (size_t)r->context * c->head_dim);
    params_bind_adapter(&run->adapter, c, values, &run->arena);
    params_init_adapter(&run->adapter, c, r->seed);
    rope_table(rope, c, r->context);
    Net net = {.model = &run->base, .adapter = &run->adapter, .first = first, .rope = rope};
    TrainJob job = {r, o, &net, &p, values, run->tokenizer, adapter_write, run};
    return train_loop(&job);
}

Result tune_run(const char *recipe_path, const TrainOptions *o)
{
    TuneRun run = {0};
    arena_init(&run.arena, false);
    arena_init(&run.base.arena, false);
    arena_init(&run.adapter.arena, false);
    Result r = tuning_run(&run, recipe_path, o);
    tokenizer_free(run.tokenizer);
    adapter_free(&run.adapter);
    model_free(&run.base);
    recipe_free(&run.recipe);
    arena_free(&run.arena);
    return r;
}
