/* train.c - `marill train`: every weight of a model from a recipe. */
#include "model/layers.h"
#include "tune/ranks.h"
#include "tune/train.h"

#include <string.h>

typedef struct WholeRun {
    Recipe recipe;
    Model model;                               // its weights are the parameters
    Tokenizer *tokenizer;
    Arena arena;
} WholeRun;

static Result model_write(void *ctx)
{
    const WholeRun *run = ctx;
    GUARD(model_save(&run->model, run->recipe.result, run->recipe.dtype));
    return tokenizer_copy(run->recipe.tokenizer, run->recipe.result);
}

/* Copies a loaded model's weights to where the parameters lie. */
static void weights_copy(float *values, const Model *to, const Model *from)
{
    const ModelConfig *c = &from->config;
    size_t table = (size_t)c->vocab * c->width;
    memcpy(values, from->embed, table * sizeof *values);
    if (!c->tied) memcpy(values + (to->head - values), from->head, table * sizeof *values);
    for (uint32_t l = 0; l < c->layers; l++) {
        memcpy(values + (to->layer[l].attn_norm - values), from->layer[l].attn_norm, c->width * sizeof *values);
        memcpy(values + (to->layer[l].ffn_norm - values), from->layer[l].ffn_norm, c->width * sizeof *values);
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            size_t len = (size_t)matrix_rows(c, m) * matrix_cols(c, m);
            memcpy(values + (to->layer[l].mat[m] - values), from->layer[l].mat[m], len * sizeof *values);
        }
    }
    memcpy(values + (to->final_norm - values), from->final_norm, c->width * sizeof *values);
}

static Result shape_find(WholeRun *run, Model *old)
{
    const Recipe *r = &run->recipe;
    if (!r->init) {
        run->model.config = r->shape;
        run->model.config.vocab = tokenizer_vocab(run->tokenizer);
        run->model.config.bos = tokenizer_bos(run->tokenizer);
        run->model.config.eos = tokenizer_eos(run->tokenizer);
        return OK;
    }
    GUARD(model_load(old, r->init));
    run->model.config = old->config;
    if (r->context > old->config.context)
        return fail(FAIL_DATA, "context %u is more than the %u of %s", r->context, old->config.context, r->init);
    uint32_t tokens = tokenizer_vocab(run->tokenizer);
    if (tokens <= old->config.vocab) return OK;
    return fail(FAIL_DATA, "%s has %u tokens, %s room for %u", r->tokenizer, tokens, r->init, old->config.vocab);
}

/* The vocabulary of a new tokenizer comes from the training part of what is learned as plain text; a run that goes on has it. */
static Result vocabulary_make(const Recipe *r, const Progress *p)
{
    if (!r->vocab || !ranks_lead() || file_exists(r->tokenizer)) return OK;
    progress(p, "making a vocabulary of %u pieces", r->vocab);
    Buffer text = {0};
    Result made = data_text(&text, r->sources, r->source_count, r->seed);
    if (!failed(made)) made = folder_make(r->out, 0755);
    if (!failed(made)) made = tokenizer_train((const char *)text.data, text.len, r->vocab, r->tokenizer);
    buffer_free(&text);
    return made;
}

static Result whole_run(WholeRun *run, Model *old, const char *path, const TrainOptions *o)
{
    Recipe *r = &run->recipe;
    GUARD(recipe_read(r, path, RECIPE_TRAIN));
    double met = 1;
    GUARD(vocabulary_make(r, o->progress));
    GUARD(ranks_add(&met, 1));                 // all read what rank 0 has written
    GUARD(tokenizer_load(&run->tokenizer, r->tokenizer));
    GUARD(shape_find(run, old));
    const ModelConfig *c = &run->model.config;
    Params p;
    params_of_model(&p, c, &run->arena);
    float *values = arena_new(&run->arena, float, p.total);
    float *rope = arena_new(&run->arena, float, (size_t)r->context * c->head_dim);
    params_bind_model(&run->model, values, &run->arena);
    if (r->init) weights_copy(values, &run->model, old);
    else params_init_model(&run->model, values, r->init_std, r->seed);
    rope_table(rope, c, r->context);
    Net net = {.model = &run->model, .rope = rope, .bf16 = r->precision == PRECISION_BF16};
    TrainJob job = {.recipe = r, .options = o, .net = &net, .params = &p, .values = values, .tokenizer = run->tokenizer,
                    .save = model_write, .ctx = run};
    return train_loop(&job);
}

static Result train_one(const char *recipe_path, const TrainOptions *o)
{
    WholeRun run = {0};
    Model old = {0};
    arena_init(&run.arena, false);
    arena_init(&old.arena, false);
    Result r = whole_run(&run, &old, recipe_path, o);
    tokenizer_free(run.tokenizer);
    model_free(&old);
    recipe_free(&run.recipe);
    arena_free(&run.arena);
    return r;
}

Result train_run(const char *recipe_path, const TrainOptions *o) { return ranks_run(recipe_path, o, train_one); }
