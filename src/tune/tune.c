/* tune.c - `marill tune`: the upper layers of a model from a recipe, by LoRA factors or in all their weights.
 *
 * The layers below the cut stay as they are, which is what makes them public: a client can run them by itself. So do embedding,
 * final norm and head in any case. What else changes in the upper layers' form goes into marill.json beside the result. */
#include "tune/aware.h"
#include "tune/form.h"
#include "tune/train.h"

#include <math.h>
#include <string.h>

typedef struct TuneRun {
    Recipe recipe;
    Model base;                                // method standard: its upper layers are the parameters
    Adapter adapter;                           // method lora: its factors are
    Model teacher, teacher_base;               // the second where the first is merged from it and an adapter
    Variant variant;
    const char *template;                      // what use puts around a user's text, as the data did; or NULL
    Emulated secure;                           // where it is trained through what the secure run computes
    Tokenizer *tokenizer;
    Arena arena;
} TuneRun;

// ---- the result ------------------------------------------------------------------------------------------------------

static void factors_note(Json *root, const Adapter *a)
{
    static const char *const names[] = {"none", "a", "b"};
    if (!a->fixed && !a->share_qkv && !a->share_gate_up) return;
    Json *o = json_new_object(), *share = json_new_array();
    if (a->share_qkv) json_add(share, json_of_text("qkv"));
    if (a->share_gate_up) json_add(share, json_of_text("gate_up"));
    json_put(o, "share", share);
    json_put(o, "fixed", json_of_text(names[a->fixed]));
    if (a->fixed) json_put(o, "fixed_seed", json_of_uint(a->fixed_seed));
    json_put(root, "lora", o);
}

/* marill.json, where there is something to say that PEFT's files cannot. */
static Result extras_write(const TuneRun *run)
{
    Json *root = json_new_object();
    Arena a;
    arena_init(&a, false);
    if (run->template) json_put(root, "template", json_of_text(run->template));
    if (variant_changes(&run->variant)) json_put(root, "variant", variant_json(&run->variant, &run->base.config));
    if (run->recipe.method == METHOD_LORA) factors_note(root, &run->adapter);
    Result r = json_count(root) ? json_write(root, arena_format(&a, "%s/marill.json", run->recipe.result)) : OK;
    arena_free(&a);
    json_free(root);
    return r;
}

static Result result_write(void *ctx)
{
    const TuneRun *run = ctx;
    const Recipe *r = &run->recipe;
    GUARD(folder_make(r->result, 0755));
    GUARD(extras_write(run));
    if (r->method == METHOD_LORA) return adapter_save(&run->adapter, r->result, &run->base.config, r->base_name);
    GUARD(model_save(&run->base, r->result, r->dtype));
    return tokenizer_copy(r->tokenizer, r->result);
}

// ---- the parameters --------------------------------------------------------------------------------------------------

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
    const LoraRecipe *r = &run->recipe.lora;
    Adapter *a = &run->adapter;
    *a = (Adapter){.layers = run->base.config.layers, .first = first, .dropout = (float)r->dropout, .share_qkv = r->share_qkv,
                   .share_gate_up = r->share_gate_up, .fixed = (LoraFactor)r->fixed};
    arena_init(&a->arena, false);
    a->pair = arena_alloc(&a->arena, a->layers, sizeof *a->pair);
    for (uint32_t l = first; l < a->layers; l++)
        for (MatrixKind m = 0; m < MAT_COUNT; m++)
            if (r->target[m]) a->pair[l][m] = (LoraPair){.rank = r->rank, .scale = (float)(r->alpha / r->rank)};
}

/* Lays the parameters out, with the values that training starts from; returns them. */
static float *parameters_make(TuneRun *run, Params *p, Net *net)
{
    const ModelConfig *c = &run->base.config;
    if (run->recipe.method == METHOD_STANDARD) {
        params_of_layers(p, c, net->first, &run->arena);
        float *values = arena_new(&run->arena, float, p->total);
        params_bind_layers(&run->base, net->first, values, &run->arena);
        return values;
    }
    adapter_shape(run, net->first);
    params_of_adapter(p, c, &run->adapter, &run->arena);
    float *values = arena_new(&run->arena, float, p->total);
    params_bind_adapter(&run->adapter, c, values, &run->arena);
    params_init_adapter(&run->adapter, c, run->recipe.seed);
    net->adapter = &run->adapter, net->dropout = run->adapter.dropout;
    return values;
}

// ---- the teacher -----------------------------------------------------------------------------------------------------

static bool same_shape(const ModelConfig *a, const ModelConfig *b)
{
    return a->width == b->width && a->layers == b->layers && a->heads == b->heads && a->kv_heads == b->kv_heads &&
           a->head_dim == b->head_dim && a->ffn == b->ffn && a->vocab == b->vocab && a->rope_theta == b->rope_theta &&
           !memcmp(&a->rope, &b->rope, sizeof a->rope);
}

static Result teacher_load(TuneRun *run)
{
    const DistillRecipe *d = &run->recipe.distill;
    if (!d->teacher) return OK;
    Model *to = d->teacher_adapter ? &run->teacher_base : &run->teacher;
    GUARD(model_load(to, d->teacher));
    if (!same_shape(&to->config, &run->base.config))
        return fail(FAIL_DATA, "the teacher %s has another shape than %s", d->teacher, run->recipe.base);
    if (!d->teacher_adapter) return OK;
    Adapter a;
    Result r = adapter_load(&a, d->teacher_adapter, &to->config);
    if (!failed(r)) model_merge(&run->teacher, to, &a);
    adapter_free(&a);
    return r;
}

// ---- before the run --------------------------------------------------------------------------------------------------

static Result shape_read(ModelConfig *out, const char *base, Arena *a)
{
    Buffer text = {0};
    const char *path = arena_format(a, "%s/config.json", base);
    Result r = file_read(&text, path, 1 << 20);
    if (!failed(r)) r = fail_in(config_parse(out, (const char *)text.data, text.len), "%s", path);
    buffer_free(&text);
    return r;
}

static Result outline_make(TuneOutline *out, Recipe *r, const char *path, Arena *a)
{
    GUARD(recipe_read(r, path, RECIPE_TUNE));
    GUARD(shape_read(&out->config, r->base, a));
    GUARD(cut_find(&out->first, r, out->config.layers));
    out->context = r->context;
    out->rank = r->method == METHOD_LORA ? r->lora.rank : 0;
    memcpy(out->target, r->lora.target, sizeof out->target);
    return form_outline(&out->variant, r, &out->config, out->first, a);
}

Result tune_outline(TuneOutline *out, const char *recipe_path, Arena *a)
{
    Recipe recipe;
    *out = (TuneOutline){0};
    Result r = outline_make(out, &recipe, recipe_path, a);
    recipe_free(&recipe);
    return r;
}

// ---- the run ---------------------------------------------------------------------------------------------------------

static Result tuning_run(TuneRun *run, const char *path, const TrainOptions *o)
{
    Recipe *r = &run->recipe;
    Net net = {.model = &run->base};
    Params p;
    GUARD(recipe_read(r, path, RECIPE_TUNE));
    GUARD(model_load(&run->base, r->base));
    GUARD(tokenizer_load(&run->tokenizer, r->tokenizer));
    const ModelConfig *c = &run->base.config;
    GUARD(cut_find(&net.first, r, c->layers));
    if (r->context > c->context) return fail(FAIL_DATA, "context %u is more than the %u of %s", r->context, c->context, r->base);
    if (tokenizer_vocab(run->tokenizer) > c->vocab)
        return fail(FAIL_DATA, "%s has %u tokens, the model room for %u", r->tokenizer, tokenizer_vocab(run->tokenizer), c->vocab);
    GUARD(data_form(&run->template, r->sources, r->source_count, &run->arena));
    GUARD(teacher_load(run));
    GUARD(form_make(&run->variant, r, &run->base, net.first, run->tokenizer, &run->arena));
    float *rope = arena_new(&run->arena, float, (size_t)r->context * c->head_dim);
    rope_table(rope, c, r->context);
    net.rope = rope;
    net.bf16 = r->precision == PRECISION_BF16;
    if (variant_changes(&run->variant)) net.variant = &run->variant;
    if (run->variant.row_bound) net.row_weight = (float)r->form.row_bound_weight, net.row_slack = (float)r->form.row_bound;
    float *values = parameters_make(run, &p, &net);
    if (r->secure.tables || r->secure.rounding) {
        GUARD(aware_make(&run->secure, r, &net, &run->variant, run->tokenizer, &run->arena));
        net.secure = &run->secure;
    }
    TrainJob job = {.recipe = r, .options = o, .net = &net, .params = &p, .values = values, .tokenizer = run->tokenizer,
                    .save = result_write, .ctx = run, .layers_only = r->method == METHOD_STANDARD,
                    .teacher = r->distill.teacher ? &run->teacher : NULL, .variant = &run->variant};
    return train_loop(&job);
}

static Result tune_one(const char *recipe_path, const TrainOptions *o)
{
    TuneRun run = {0};
    arena_init(&run.arena, false);
    arena_init(&run.base.arena, false);
    arena_init(&run.teacher.arena, false);
    arena_init(&run.teacher_base.arena, false);
    arena_init(&run.adapter.arena, false);
    Result r = tuning_run(&run, recipe_path, o);
    tokenizer_free(run.tokenizer);
    adapter_free(&run.adapter);
    model_free(&run.teacher);
    model_free(&run.teacher_base);
    model_free(&run.base);
    recipe_free(&run.recipe);
    arena_free(&run.arena);
    return r;
}

Result tune_run(const char *recipe_path, const TrainOptions *o) { return ranks_run(recipe_path, o, tune_one); }
