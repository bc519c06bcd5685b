/* test_train.c - gradients against finite differences, the optimizer, recipes, and that a stopped run goes on exactly. */
#include "model/layers.h"
#include "tune/train.h"
#include "test.h"

static const ModelConfig tiny = {.width = 20, .layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 6, .ffn = 28, .vocab = 37, .context = 96,
                                 .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .tied = true};

static void fill(float *x, size_t len, double size)
{
    for (size_t i = 0; i < len; i++) x[i] = (float)(size * (2 * test_random() - 1));
}

static double weighted(const float *x, const float *weight, size_t len)
{
    double sum = 0;
    for (size_t i = 0; i < len; i++) sum += (double)x[i] * (double)weight[i];
    return sum;
}

/* Compares grad[i] with a central difference of value(ctx) in x[i], at every `stride`-th place. */
static void check_gradient(const char *what, float *x, const float *grad, size_t len, size_t stride, double step, double tolerance,
                           double (*value)(void *ctx), void *ctx)
{
    for (size_t i = 0; i < len; i += stride) {
        float old = x[i];
        x[i] = (float)((double)old + step);
        double up = value(ctx), at_up = (double)x[i];
        x[i] = (float)((double)old - step);
        double down = value(ctx), want = (up - down) / (at_up - (double)x[i]);
        x[i] = old;
        if (fabs(want - (double)grad[i]) <= tolerance * (1 + fabs(want))) continue;
        fprintf(stderr, "%s[%zu]: gradient %.6g, difference %.6g\n", what, i, (double)grad[i], want);
        exit(1);
    }
}

// ---- layers ----------------------------------------------------------------------------------------------------------

enum { ROWS = 5, WIDTH = 21, OUTS = 7 };
typedef struct One {
    float in[ROWS * WIDTH], other[ROWS * WIDTH], w[OUTS * WIDTH], gain[WIDTH], out[ROWS * WIDTH], probe[ROWS * WIDTH];
} One;

static double linear_value(void *ctx)
{
    One *o = ctx;
    linear_forward(o->out, o->in, o->w, ROWS, OUTS, WIDTH, false);
    return weighted(o->out, o->probe, ROWS * OUTS);
}

TEST(linear_backward_is_the_gradient)
{
    One o;
    float d_in[ROWS * WIDTH], d_w[OUTS * WIDTH] = {0};
    fill(o.in, ROWS * WIDTH, 1), fill(o.w, OUTS * WIDTH, 1), fill(o.probe, ROWS * WIDTH, 1);
    linear_backward(d_in, d_w, o.probe, o.in, o.w, ROWS, OUTS, WIDTH, false);
    check_gradient("in", o.in, d_in, ROWS * WIDTH, 1, 1e-2, 2e-3, linear_value, &o);
    check_gradient("w", o.w, d_w, OUTS * WIDTH, 1, 1e-2, 2e-3, linear_value, &o);
}

static double norm_value(void *ctx)
{
    One *o = ctx;
    rmsnorm_forward(o->out, NULL, o->in, o->gain, ROWS, WIDTH, 1e-5f);
    return weighted(o->out, o->probe, ROWS * WIDTH);
}

TEST(rmsnorm_backward_is_the_gradient)
{
    One o;
    float d_in[ROWS * WIDTH] = {0}, d_gain[WIDTH] = {0}, inv[ROWS];
    fill(o.in, ROWS * WIDTH, 1), fill(o.gain, WIDTH, 1), fill(o.probe, ROWS * WIDTH, 1);
    rmsnorm_forward(o.out, inv, o.in, o.gain, ROWS, WIDTH, 1e-5f);
    rmsnorm_backward(d_in, d_gain, o.probe, o.in, o.gain, inv, ROWS, WIDTH);
    check_gradient("in", o.in, d_in, ROWS * WIDTH, 1, 1e-2, 2e-3, norm_value, &o);
    check_gradient("gain", o.gain, d_gain, WIDTH, 1, 1e-2, 2e-3, norm_value, &o);
}

static double swiglu_value(void *ctx)
{
    One *o = ctx;
    swiglu_forward(o->out, o->in, o->other, ROWS * WIDTH);
    return weighted(o->out, o->probe, ROWS * WIDTH);
}

TEST(swiglu_backward_is_the_gradient)
{
    One o;
    float d_gate[ROWS * WIDTH], d_up[ROWS * WIDTH];
    fill(o.in, ROWS * WIDTH, 4), fill(o.other, ROWS * WIDTH, 2), fill(o.probe, ROWS * WIDTH, 1);
    swiglu_backward(d_gate, d_up, o.probe, o.in, o.other, ROWS * WIDTH);
    check_gradient("gate", o.in, d_gate, ROWS * WIDTH, 1, 1e-2, 2e-3, swiglu_value, &o);
    check_gradient("up", o.other, d_up, ROWS * WIDTH, 1, 1e-2, 2e-3, swiglu_value, &o);
}

TEST(exponential_is_exact_to_single_precision)
{
    for (double x = -86; x < 87; x += 0.0173) {
        float v = (float)x;
        double want = exp((double)v);
        exp_shifted(&v, 0, 1);
        CHECK_NEAR(1, (double)v / want, 3e-7);
    }
}

TEST(rope_turns_back)
{
    float x[3 * 4 * 6], y[3 * 4 * 6], table[96 * 6];
    uint32_t position[3] = {0, 17, 95};
    fill(x, 72, 1);
    memcpy(y, x, sizeof y);
    rope_table(table, &tiny, 96);
    rope_turn(y, table, position, 3, 4, 6, false);
    for (int i = 0; i < 24; i++) CHECK_NEAR(x[i], y[i], 1e-7);
    CHECK(fabsf(x[24] - y[24]) > 1e-3f);
    rope_turn(y, table, position, 3, 4, 6, true);
    for (int i = 0; i < 72; i++) CHECK_NEAR(x[i], y[i], 1e-6);
}

// ---- attention -------------------------------------------------------------------------------------------------------

enum { A_ROWS = 100, A_Q = 24, A_K = 12 };                 // two samples, the second longer than a block
typedef struct Attend {
    float q[A_ROWS * A_Q], k[A_ROWS * A_K], v[A_ROWS * A_K], mixed[A_ROWS * A_Q], sums[A_ROWS * 4], probe[A_ROWS * A_Q];
    float d_q[A_ROWS * A_Q], d_k[A_ROWS * A_K], d_v[A_ROWS * A_K], work[2 * ATTENTION_BLOCK * A_ROWS];
    size_t start[3];
    Pack pack;
    Attention attention;
} Attend;

static double attend_value(void *ctx)
{
    Attend *t = ctx;
    attention_forward(t->mixed, t->sums, &t->attention);
    return weighted(t->mixed, t->probe, A_ROWS * A_Q);
}

static Attend *attend_new(Arena *a)
{
    Attend *t = arena_new(a, Attend, 1);
    fill(t->q, A_ROWS * A_Q, 2), fill(t->k, A_ROWS * A_K, 2), fill(t->v, A_ROWS * A_K, 1), fill(t->probe, A_ROWS * A_Q, 1);
    t->start[1] = 9, t->start[2] = A_ROWS;
    t->pack = (Pack){.rows = A_ROWS, .samples = 2, .start = t->start};
    t->attention = (Attention){t->q, t->k, t->v, &t->pack, &tiny, variant_layer(NULL, &tiny, 0), 0, NULL, 0, t->work};
    return t;
}

TEST(attention_is_the_softmax_of_its_own_sample)
{
    Arena a;
    arena_init(&a, false);
    Attend *t = attend_new(&a);
    attend_value(t);
    for (size_t r = 0; r < A_ROWS; r++) {
        for (size_t h = 0; h < 4; h++) {
            double sum = 0, mix[6] = {0};
            for (size_t j = r < 9 ? 0 : 9; j <= r; j++) {
                double score = 0;
                for (size_t d = 0; d < 6; d++) score += (double)t->q[r * A_Q + h * 6 + d] * (double)t->k[j * A_K + h / 2 * 6 + d];
                double e = exp(score / sqrt(6));
                sum += e;
                for (size_t d = 0; d < 6; d++) mix[d] += e * (double)t->v[j * A_K + h / 2 * 6 + d];
            }
            for (size_t d = 0; d < 6; d++) CHECK_NEAR(mix[d] / sum, t->mixed[r * A_Q + h * 6 + d], 1e-5);
        }
    }
    arena_free(&a);
}

TEST(attention_backward_is_the_gradient)
{
    Arena a;
    arena_init(&a, false);
    Attend *t = attend_new(&a);
    attend_value(t);
    attention_backward(&(AttentionGrads){t->d_q, t->d_k, t->d_v, t->probe, t->mixed, t->sums}, &t->attention, 0);
    check_gradient("q", t->q, t->d_q, A_ROWS * A_Q, 7, 1e-2, 5e-3, attend_value, t);
    check_gradient("k", t->k, t->d_k, A_ROWS * A_K, 7, 1e-2, 5e-3, attend_value, t);
    check_gradient("v", t->v, t->d_v, A_ROWS * A_K, 7, 1e-2, 5e-3, attend_value, t);
    arena_free(&a);
}

// ---- the network -----------------------------------------------------------------------------------------------------

typedef struct Whole {
    Arena arena;
    Model model;
    Adapter adapter;
    Params params;
    float *values, *grad_values;
    Grads grads;
    Net net;
    NetScratch *scratch;
    Pack *pack;
} Whole;

static void samples_make(Sample *s, size_t count, Arena *a)
{
    for (size_t i = 0; i < count; i++) {
        s[i].len = (uint32_t)(5 + 11 * i);
        s[i].tokens = arena_new(a, int32_t, s[i].len);
        s[i].learn = arena_new(a, uint8_t, s[i].len);
        for (uint32_t t = 0; t < s[i].len; t++) s[i].tokens[t] = (int32_t)(test_random() * 37), s[i].learn[t] = t > 2;
    }
}

static void whole_new(Whole *w, bool tied, bool tuned)
{
    *w = (Whole){.model.config = tiny};
    arena_init(&w->arena, false);
    ModelConfig *c = &w->model.config;
    c->tied = tied;
    params_of_model(&w->params, c, &w->arena);
    w->values = arena_new(&w->arena, float, w->params.total);
    params_bind_model(&w->model, w->values, &w->arena);
    params_init_model(&w->model, w->values, 0.3, 1);
    for (size_t i = 0; i < w->params.count; i++)           // norms away from one
        for (size_t j = 0; w->params.block[i].len == c->width && j < c->width; j++)
            w->values[w->params.block[i].at + j] += (float)(test_random() - 0.5);
    w->net = (Net){.model = &w->model};
    if (tuned) {
        w->adapter.layers = c->layers, w->adapter.first = w->net.first = 1;
        w->adapter.pair = arena_alloc(&w->arena, c->layers, sizeof *w->adapter.pair);
        for (uint32_t l = 1; l < c->layers; l++)
            for (MatrixKind m = 0; m < MAT_COUNT; m++)
                if (m != MAT_UP) w->adapter.pair[l][m] = (LoraPair){.rank = 3, .scale = 1.5f};
        w->net.adapter = &w->adapter;
        params_of_adapter(&w->params, c, &w->adapter, &w->arena);
        w->values = arena_new(&w->arena, float, w->params.total);
        params_bind_adapter(&w->adapter, c, w->values, &w->arena);
        params_init_adapter(&w->adapter, c, 1);
        for (size_t i = 0; i < w->params.total; i++) w->values[i] += (float)(0.2 * (test_random() - 0.5));
    }
    float *rope = arena_new(&w->arena, float, 96 * 6), *grads = arena_new(&w->arena, float, w->params.total);
    rope_table(rope, c, 96);
    w->net.rope = rope, w->grad_values = grads;
    params_bind_grads(&w->grads, c, tuned ? &w->adapter : NULL, grads, &w->arena);
    w->scratch = net_scratch(&w->net, 128, &w->arena);
    w->pack = pack_new(128, &w->arena);
    Sample s[4];
    samples_make(s, 4, &w->arena);
    CHECK_EQUAL(4, pack_fill(w->pack, 128, s, 4));
}

static double whole_value(void *ctx)
{
    Whole *w = ctx;
    return net_run(&w->net, w->scratch, w->pack, NULL, 0) / (double)w->pack->learned;
}

static void whole_check(bool tied, bool tuned)
{
    Whole w;
    whole_new(&w, tied, tuned);
    net_run(&w.net, w.scratch, w.pack, &w.grads, 1.0f / (float)w.pack->learned);
    for (size_t i = 0; i < w.params.count; i++) {
        size_t at = w.params.block[i].at, len = w.params.block[i].len;
        char what[32];
        snprintf(what, sizeof what, "block %zu", i);
        check_gradient(what, w.values + at, w.grad_values + at, len, len / 11 + 1, 4e-3, 2e-3, whole_value, &w);
    }
    arena_free(&w.arena);
}

TEST(whole_model_backward_is_the_gradient) { whole_check(true, false); }
TEST(untied_model_backward_is_the_gradient) { whole_check(false, false); }
TEST(adapter_backward_is_the_gradient) { whole_check(true, true); }

TEST(a_few_samples_are_learned_by_heart)
{
    Whole w;
    whole_new(&w, true, false);
    params_init_model(&w.model, w.values, 0.1, 1);
    float *m = arena_new(&w.arena, float, w.params.total), *v = arena_new(&w.arena, float, w.params.total);
    Adam adam = {0.9, 0.95, 1e-8, 0};
    double first = 0, last = 0;
    for (uint64_t step = 1; step <= 300; step++) {
        memset(w.grad_values, 0, w.params.total * sizeof *w.grad_values);
        last = net_run(&w.net, w.scratch, w.pack, &w.grads, 1.0f / (float)w.pack->learned) / (double)w.pack->learned;
        if (step == 1) first = last;
        adam_step(w.values, m, v, w.grad_values, &w.params, &adam, 1e-2, step);
    }
    CHECK_NEAR(log(37), first, 0.5);
    CHECK(last < 0.05);
    arena_free(&w.arena);
}

// ---- products by several threads -------------------------------------------------------------------------------------

typedef struct Race { float *a, *b, *want, *got[2]; size_t m, n, k; size_t wrong[2]; } Race;

static void race_body(void *ctx, size_t begin, size_t end)
{
    Race *r = ctx;
    for (size_t t = begin; t < end; t++) {
        for (int i = 0; i < 400; i++) {
            product((Product){.alpha = 1}, r->got[t], r->n, r->a, r->k, r->b, r->n, r->m, r->n, r->k);
            r->wrong[t] += memcmp(r->got[t], r->want, r->m * r->n * sizeof(float)) != 0;
        }
    }
}

TEST(threads_multiply_at_the_same_time)
{
    Arena a;
    arena_init(&a, false);
    threads_start(2);
    Race r = {.m = 300, .n = 160, .k = 448};
    r.a = arena_new(&a, float, r.m * r.k), r.b = arena_new(&a, float, r.k * r.n), r.want = arena_new(&a, float, r.m * r.n);
    r.got[0] = arena_new(&a, float, r.m * r.n), r.got[1] = arena_new(&a, float, r.m * r.n);
    fill(r.a, r.m * r.k, 1), fill(r.b, r.k * r.n, 1);
    product((Product){.alpha = 1}, r.want, r.n, r.a, r.k, r.b, r.n, r.m, r.n, r.k);
    parallel_for(2, 1, race_body, &r);
    CHECK_EQUAL(0, r.wrong[0] + r.wrong[1]);
    arena_free(&a);
}

// ---- recipes and runs ------------------------------------------------------------------------------------------------

static const char *file_make(const char *name, const char *text)       // in the case's folder
{
    static char path[4][4200];
    static unsigned next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", test_folder(), name);
    CHECK_OK(file_write(p, text, strlen(text), 0644));
    return p;
}

static Result recipe_try(RecipeKind kind, const char *text)
{
    Recipe r;
    Result result = recipe_read(&r, file_make("recipe.yaml", text), kind);
    recipe_free(&r);
    return result;
}

#define GOOD "out: run\ntokenizer: t\nshape: {width: 8, layers: 1, heads: 2, ffn: 8}\ncontext: 16\nbatch_tokens: 64\n" \
             "steps: 10\nlearning_rate: 1e-3\nsources:\n  - {kind: lines, path: a.txt, completion: \"{0}\"}\n"

TEST(recipe_errors_are_named)
{
    CHECK_OK(recipe_try(RECIPE_TRAIN, GOOD));
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "colour: red\n"), "line 10: unknown field 'colour'");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "lora: {rank: 4}\n"), "unknown field 'lora'");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "seed: many\n"), "seed must be a whole number");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "seed: -1\n"), "seed must lie between");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "seed: 1\nseed: 2\n"), "field 'seed' is there twice");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "shape: {width: 16}\n"), "line 10: field 'shape' is there twice");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "sources: []\n"), "line 10: field 'sources' is there twice");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, "data_root: a\ndata_root: b\n"), "line 2: field 'data_root' is there twice");
    CHECK_FAILS(recipe_try(RECIPE_TUNE, "lora: {rank: 4}\nheads: {merge: 2}\nlora: {alpha: 8}\n"), "line 3: field 'lora' is there twice");
    CHECK_FAILS(recipe_try(RECIPE_TUNE, "lora:\n  targets: [q_proj]\n  targets: [v_proj]\n"), "line 3: field 'targets' is there twice");
    CHECK_FAILS(recipe_try(RECIPE_TUNE, "preset: paper\npreset: paper\n"), "line 2: field 'preset' is there twice");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "warmup: 11\n"), "warmup (11)");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "epochs: 2\n"), "either 'steps' or 'epochs'");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "init: somewhere\n"), "either 'shape' or 'init'");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "dtype: F16\n"), "dtype");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "vocab: 400\n"), "'vocab' asks for a new tokenizer");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, GOOD "data_root: [1]\n"), "data_root");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, "out: a\n"), "lacks the field 'context'");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, "sources: [{kind: tables, path: a}]\n"), "kind must be");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, "sources: [{kind: lines, road: a}]\n"), "unknown field 'road'");
    CHECK_FAILS(recipe_try(RECIPE_TUNE, "lora: {targets: [q_proj, z_proj]}\n"), "'z_proj'");
    CHECK_FAILS(recipe_try(RECIPE_TUNE, "secure: {cells: 4}\n"), "cells must lie between 8 and 4096");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, "out: [a\n"), "line ");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, ""), "empty");
    CHECK_FAILS(recipe_try(RECIPE_TRAIN, "- a\n"), "mapping");
}

static void corpus_make(void)
{
    static const char *const who[] = {"the cat", "a dog", "my friend", "the old man", "a bird"};
    static const char *const does[] = {"sees", "likes", "finds", "hears", "wants"};
    Buffer b = {0};
    for (int i = 0; i < 400; i++)
        buffer_format(&b, "%s %s %s number %d\n", who[(int)(test_random() * 5)], does[(int)(test_random() * 5)], who[i % 5], i);
    buffer_u8(&b, 0);
    file_make("corpus.txt", (const char *)b.data);
    char path[4200];
    snprintf(path, sizeof path, "%s/tokenizer.model", test_folder());
    CHECK_OK(tokenizer_train((const char *)b.data, b.len - 1, 320, path));
    buffer_free(&b);
}

#define RUN(out, checkpoint) "out: " out "\ncheckpoint_every: " checkpoint "\ncontext: 48\nbatch_tokens: 512\nsteps: 24\nlog_every: 6\n" \
                  "eval_every: 12\nlearning_rate: 3e-3\nwarmup: 4\nsources:\n  - {kind: lines, path: corpus.txt, completion: \"{0}\"}\n"
#define SHAPE "tokenizer: tokenizer.model\nshape: {width: 32, layers: 4, heads: 4, kv_heads: 2, ffn: 48}\n"

typedef struct Stopper { int lines; } Stopper;
static void stop_at_second_row(void *ctx, const char *line)
{
    Stopper *s = ctx;
    if (!strncmp(line, "step ", 5) && ++s->lines == 2) raise(SIGTERM);
}

static void same_files(const char *a, const char *b)
{
    char path[2][4200];
    Buffer text[2] = {{0}, {0}};
    snprintf(path[0], sizeof path[0], "%s/%s", test_folder(), a);
    snprintf(path[1], sizeof path[1], "%s/%s", test_folder(), b);
    for (int i = 0; i < 2; i++) CHECK_OK(file_read(&text[i], path[i], 1 << 24));
    CHECK_EQUAL(text[0].len, text[1].len);
    CHECK(!memcmp(text[0].data, text[1].data, text[0].len));
    for (int i = 0; i < 2; i++) buffer_free(&text[i]);
}

TEST(vocabulary_is_made_with_the_model)
{
    corpus_make();
    const char *shape = "vocab: 300\nshape: {width: 32, layers: 2, heads: 4, ffn: 48}\n";
    char recipe[2048];
    snprintf(recipe, sizeof recipe, "%s%s", RUN("own", "24"), shape);
    CHECK_OK(train_run(file_make("own.yaml", recipe), &(TrainOptions){.threads = 1}));
    Tokenizer *t;
    char path[4200];
    snprintf(path, sizeof path, "%s/own/model/tokenizer.model", test_folder());
    CHECK_OK(tokenizer_load(&t, path));
    CHECK_EQUAL(300, tokenizer_vocab(t));
    tokenizer_free(t);
    same_files("own/tokenizer.model", "own/model/tokenizer.model");
}

TEST(a_stopped_run_goes_on_bit_for_bit)
{
    corpus_make();
    threads_start(2);
    Stopper stopper = {0};
    Progress say = {stop_at_second_row, &stopper};
    TrainOptions plain = {.threads = 2}, stopped = {.threads = 2, .progress = &say}, resumed = {.threads = 2, .resume = true};
    TrainOptions other = {.threads = 3, .resume = true};
    CHECK_OK(train_run(file_make("a.yaml", RUN("a", "0") SHAPE), &plain));
    const char *b = file_make("b.yaml", RUN("b", "0") SHAPE);
    CHECK_FAILS(train_run(b, &resumed), "no run to resume");
    CHECK_FAILS(train_run(b, &stopped), "stopped by a signal after step 13");      // noticed after the step that follows
    CHECK_FAILS(train_run(b, &plain), "already");
    CHECK_FAILS(train_run(b, &other), "threads");
    CHECK_FAILS(train_run(file_make("b16.yaml", RUN("b", "0") SHAPE "precision: bf16\n"), &resumed), "the recipe is not the one");
    CHECK_OK(train_run(b, &resumed));
    same_files("a/model/model.safetensors", "b/model/model.safetensors");

    #define TUNE "base: a/model\nfrozen: 2\nlora: {rank: 4, targets: [q_proj, v_proj, down_proj]}\n"
    CHECK_OK(tune_run(file_make("c.yaml", RUN("c", "0") TUNE), &plain));
    const char *d = file_make("d.yaml", RUN("d", "0") TUNE);
    stopper.lines = 0;
    CHECK_FAILS(tune_run(d, &stopped), "stopped");
    CHECK_OK(tune_run(d, &resumed));
    same_files("c/adapter/adapter_model.safetensors", "d/adapter/adapter_model.safetensors");

    #define SECURE TUNE "secure: {tables: true, rounding: true, cells: 16, silu_range: 4}\n"
    CHECK_OK(tune_run(file_make("e.yaml", RUN("e", "0") SECURE), &plain));
    const char *f = file_make("f.yaml", RUN("f", "0") SECURE);
    stopper.lines = 0;
    CHECK_FAILS(tune_run(f, &stopped), "stopped");
    CHECK_OK(tune_run(f, &resumed));
    same_files("e/adapter/adapter_model.safetensors", "f/adapter/adapter_model.safetensors");
    same_files("e/adapter/marill.json", "f/adapter/marill.json");
}

TEST(a_damaged_checkpoint_is_refused)
{
    corpus_make();
    TrainOptions plain = {.threads = 1}, resumed = {.threads = 1, .resume = true};
    const char *recipe = file_make("a.yaml", RUN("a", "0") SHAPE);
    CHECK_OK(train_run(recipe, &plain));
    char path[4200];
    Buffer good = {0};
    snprintf(path, sizeof path, "%s/a/checkpoint.bin", test_folder());
    CHECK_OK(file_read(&good, path, 1 << 24));
    CHECK_OK(file_write(path, good.data, good.len - 9, 0644));
    CHECK_FAILS(train_run(recipe, &resumed), "checkpoint");
    good.data[good.len / 2] ^= 1;
    CHECK_OK(file_write(path, good.data, good.len, 0644));
    CHECK_FAILS(train_run(recipe, &resumed), "damaged");
    good.data[0] ^= 1;
    CHECK_OK(file_write(path, good.data, good.len, 0644));
    CHECK_FAILS(train_run(recipe, &resumed), "not a checkpoint");
    buffer_free(&good);
}

TEST(the_rate_rises_and_falls)
{
    CHECK_NEAR(0.1, schedule_rate(1, 0.1, 1, 10, 100), 1e-12);
    CHECK_NEAR(1, schedule_rate(1, 0.1, 10, 10, 100), 1e-12);
    CHECK_NEAR(0.55, schedule_rate(1, 0.1, 55, 10, 100), 1e-12);
    CHECK_NEAR(0.1, schedule_rate(1, 0.1, 100, 10, 100), 1e-12);
    CHECK_NEAR(1, schedule_rate(1, 0.1, 1, 0, 1000000), 1e-6);
}

TEST(adam_steps_as_published)
{
    float value = 1, m = 0, v = 0, grad = 0.5f;
    ParamBlock block = {0, 1, 0, true};
    Params p = {&block, 1, 1};
    Adam a = {0.9, 0.999, 1e-8, 0.1};
    adam_step(&value, &m, &v, &grad, &p, &a, 0.01, 1);
    CHECK_NEAR(1 - 0.01 * 0.1 - 0.01, value, 1e-6);        // at the first step both corrected moments are the gradient's own
    grad = -0.5f;
    adam_step(&value, &m, &v, &grad, &p, &a, 0.01, 2);
    double after = (1 - 0.01 * 0.1) * (1 - 0.01 * 0.1 - 0.01), mean = (0.9 * 0.05 - 0.05) / (1 - 0.81);
    CHECK_NEAR(after - 0.01 * mean / 0.5, value, 1e-6);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
