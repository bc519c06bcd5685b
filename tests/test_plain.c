/* test_plain.c - the float network against a float64 reference, adapters, sampling. */
#include "test.h"

#include "model/json.h"
#include "model/layers.h"
#include "model/model.h"

enum { GREEDY = 201, LOGIT_ROWS = 64, VOCAB = 512 };

static Model model;
static Arena arena;
static PlainState *state;

static void start(void)
{
    char dir[4096];
    snprintf(dir, sizeof dir, "%s", test_data("weights/stories260K"));
    arena_init(&arena, false);
    CHECK_OK(model_load(&model, dir));
    state = plain_new(&model, NULL, model.config.context, &arena);
}

static int32_t argmax(const float *logits)
{
    Sampler s;
    sampler_init(&s, 0, 1, 0);
    return sampler_pick(&s, logits, model.config.vocab);
}

static size_t read_ids(int32_t *out, const Json *o, const char *key, size_t limit)
{
    const Json *list;
    CHECK_OK(json_get_array(&list, o, key, limit));
    for (size_t i = 0; i < json_count(list); i++) {
        int64_t id;
        CHECK_OK(json_as_int(&id, json_at(list, i), key, 0, VOCAB - 1));
        out[i] = (int32_t)id;
    }
    return json_count(list);
}

static Json *reference(int32_t greedy[GREEDY])
{
    Json *root;
    const Json *part;
    CHECK_OK(json_read(&root, test_data("reference/stories260K_ref.json"), 1 << 24));
    CHECK_OK(json_get_object(&part, root, "greedy_bos"));
    CHECK_EQUAL(GREEDY, read_ids(greedy, part, "tokens", GREEDY));
    return root;
}

// ---- the reference ---------------------------------------------------------------------------------------------------

TEST(greedy_tokens_from_bos)
{
    start();
    int32_t want[GREEDY];
    reference(want);
    float *logits = arena_new(&arena, float, VOCAB);
    for (size_t i = 0; i + 1 < GREEDY; i++) {
        CHECK_OK(plain_forward(state, logits, &want[i], 1));
        CHECK_EQUAL(want[i + 1], argmax(logits));
    }
    CHECK_EQUAL(GREEDY - 1, plain_past(state));
}

TEST(logits_of_the_first_positions)
{
    start();
    int32_t tokens[GREEDY];
    reference(tokens);
    FileMap map;
    CHECK_OK(file_map(&map, test_data("reference/stories260K_logits_64x512.f64le")));
    CHECK_EQUAL(LOGIT_ROWS * VOCAB * sizeof(double), map.len);
    const double *want = (const double *)(const void *)map.data;
    float *logits = arena_new(&arena, float, LOGIT_ROWS * VOCAB);
    CHECK_OK(plain_forward(state, logits, tokens, LOGIT_ROWS));
    double worst = 0;
    for (size_t i = 0; i < LOGIT_ROWS * VOCAB; i++) worst = fmax(worst, fabs((double)logits[i] - want[i]));
    CHECK_NEAR(0, worst, 1e-4);
}

TEST(prompts_continue_as_the_reference)
{
    start();
    int32_t greedy[GREEDY], tokens[GREEDY], want[GREEDY];
    const Json *prompts;
    CHECK_OK(json_get_array(&prompts, reference(greedy), "prompts", 10));
    float *logits = arena_new(&arena, float, 64 * VOCAB);
    Tokenizer *t;
    CHECK_OK(tokenizer_load(&t, test_data("weights/stories260K/tokenizer.model")));
    for (size_t p = 0; p < json_count(prompts); p++) {
        const Json *o = json_at(prompts, p);
        const char *text;
        size_t n = read_ids(tokens, o, "tokens", 64), more = read_ids(want, o, "greedy60", 60), count;
        int32_t *ids;
        CHECK_OK(json_get_text(&text, o, "prompt"));
        CHECK_OK(tokenizer_encode(t, text, strlen(text), &ids, &count, &arena));
        CHECK(count + 1 == n && memcmp(ids, tokens + 1, count * sizeof *ids) == 0);
        plain_truncate(state, 0);
        CHECK_OK(plain_forward(state, logits, tokens, n));
        float *last = logits + (n - 1) * VOCAB;
        const Json *first8 = json_find(o, "last_logits_f64_first8");
        for (size_t i = 0; i < json_count(first8); i++) {
            double v;
            CHECK_OK(json_as_real(&v, json_at(first8, i), "logit", -1e6, 1e6));
            CHECK_NEAR(v, (double)last[i], 1e-4);
        }
        for (size_t i = 0; i < more; i++) {
            CHECK_EQUAL(want[i], argmax(last));
            CHECK_OK(plain_forward(state, last = logits, &want[i], 1));
        }
    }
}

// ---- batches, steps, layers ------------------------------------------------------------------------------------------

static double difference(const float *a, const float *b, size_t len)
{
    double worst = 0;
    for (size_t i = 0; i < len; i++) worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
    return worst;
}

static int32_t *random_tokens(size_t n)
{
    int32_t *t = arena_new(&arena, int32_t, n);
    for (size_t i = 0; i < n; i++) t[i] = i ? 3 + (int32_t)(test_random() * (VOCAB - 3)) : 1;
    return t;
}

TEST(steps_equal_a_batch)
{
    start();
    enum { N = 300 };                                          // more than two chunks of rows, more than two blocks of keys
    int32_t *tokens = random_tokens(N);
    float *whole = arena_new(&arena, float, N * VOCAB), *steps = arena_new(&arena, float, N * VOCAB);
    CHECK_OK(plain_forward(state, whole, tokens, N));
    plain_truncate(state, 0);
    static const size_t sizes[] = {1, 1, 17, 128, 129, 1, 23};
    size_t at = 0;
    for (size_t i = 0; at < N; i++) {
        CHECK_OK(plain_forward(state, steps + at * VOCAB, tokens + at, sizes[i]));
        at += sizes[i];
    }
    CHECK_EQUAL(N, at);
    CHECK_NEAR(0, difference(whole, steps, N * VOCAB), 1e-4);
    plain_truncate(state, 100);                                // going back and on again gives the same
    CHECK_OK(plain_forward(state, steps, tokens + 100, N - 100));
    CHECK_NEAR(0, difference(whole + 100 * VOCAB, steps, (N - 100) * VOCAB), 1e-4);
}

/* The matrix library must stand being called from several threads at once: not every build of it does. */
TEST(threads_change_no_product)
{
    enum { ROWS = 128, N = 172, K = 64 };
    static float in[ROWS * K], w[N * K], want[ROWS * N], got[ROWS * N];
    for (size_t i = 0; i < ROWS * K; i++) in[i] = (float)test_random();
    for (size_t i = 0; i < N * K; i++) w[i] = (float)test_random();
    threads_start(4);
    linear_forward(want, in, w, ROWS, N, K, false);
    int wrong = 0;
    for (int i = 0; i < 20000; i++) {
        linear_forward(got, in, w, ROWS, N, K, false);
        wrong += memcmp(want, got, sizeof want) != 0;
    }
    CHECK_EQUAL(0, wrong);
}

TEST(lower_and_upper_layers_apart)
{
    start();
    enum { N = 40 };
    int32_t *tokens = random_tokens(N);
    float *whole = arena_new(&arena, float, N * VOCAB), *parts = arena_new(&arena, float, N * VOCAB);
    float *x = arena_new(&arena, float, N * model.config.width);
    CHECK_OK(plain_forward(state, whole, tokens, N));
    PlainState *lower = plain_new(&model, NULL, 64, &arena), *upper = plain_new(&model, NULL, 64, &arena);
    CHECK_OK(plain_embed(lower, x, tokens, N));
    plain_layers(lower, x, N, 0, 2);
    plain_advance(lower, N);
    plain_layers(upper, x, N, 2, 5);
    plain_advance(upper, N);
    plain_logits(upper, parts, x, N);
    CHECK_NEAR(0, difference(whole, parts, N * VOCAB), 1e-5);
    size_t kv = (size_t)model.config.kv_heads * model.config.head_dim;
    CHECK_NEAR(0, difference(plain_keys(state, 4), plain_keys(upper, 4), N * kv), 1e-5);
    CHECK_NEAR(0, difference(plain_values(state, 1), plain_values(lower, 1), N * kv), 1e-5);
}

TEST(a_full_context_and_foreign_tokens_are_refused)
{
    start();
    PlainState *s = plain_new(&model, NULL, 8, &arena);
    int32_t tokens[9] = {1, 5, 5, 5, 5, 5, 5, 5, 5}, bad = VOCAB;
    float *logits = arena_new(&arena, float, 9 * VOCAB);
    CHECK_FAILS(plain_forward(s, logits, tokens, 9), "context of 8");
    CHECK_OK(plain_forward(s, logits, tokens, 8));
    CHECK_FAILS(plain_forward(s, logits, tokens, 1), "context of 8");
    plain_truncate(s, 0);
    CHECK_FAILS(plain_forward(s, logits, &bad, 1), "512");
    tokens[3] = -1;
    CHECK_FAILS(plain_embed(s, logits, tokens, 8), "token -1");
}

// ---- watching --------------------------------------------------------------------------------------------------------

typedef struct Seen { size_t len[SEE_COUNT], layers[SEE_COUNT]; double score, mixed; } Seen;

static void note(void *ctx, uint32_t layer, Sight what, const float *x, size_t len)
{
    Seen *seen = ctx;
    seen->len[what] += len;
    if (layer >= seen->layers[what]) seen->layers[what] = layer + 1;
    if (what == SEE_SCORE) for (size_t i = 0; i < len; i++) seen->score = fmax(seen->score, fabs((double)x[i]));
    if (what == SEE_MEAN_SQUARE) for (size_t i = 0; i < len; i++) CHECK(x[i] > 0);
}

TEST(who_watches_sees_everything_and_changes_nothing)
{
    start();
    enum { N = 140 };
    const ModelConfig *c = &model.config;
    int32_t *tokens = random_tokens(N);
    float *blind = arena_new(&arena, float, N * VOCAB), *seen_logits = arena_new(&arena, float, N * VOCAB);
    CHECK_OK(plain_forward(state, blind, tokens, N));
    Seen seen = {0};
    plain_watch(state, &(Watch){note, &seen});
    plain_truncate(state, 0);
    CHECK_OK(plain_forward(state, seen_logits, tokens, N));
    CHECK(memcmp(blind, seen_logits, N * VOCAB * sizeof *blind) == 0);
    size_t rows = (size_t)N * c->layers, wide = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    CHECK_EQUAL((2 * rows + N) * c->width, seen.len[SEE_RESIDUAL]);
    CHECK_EQUAL(2 * rows + N, seen.len[SEE_MEAN_SQUARE]);
    CHECK_EQUAL(rows * wide, seen.len[SEE_QUERY]);
    CHECK_EQUAL(rows * kv, seen.len[SEE_KEY]);
    CHECK_EQUAL(rows * kv, seen.len[SEE_VALUE]);
    CHECK_EQUAL((size_t)c->layers * c->heads * N * (N + 1) / 2, seen.len[SEE_SCORE]);
    CHECK_EQUAL(rows * wide, seen.len[SEE_MIXED]);
    CHECK_EQUAL(rows * c->ffn, seen.len[SEE_GATE]);
    CHECK_EQUAL(rows * c->ffn, seen.len[SEE_UP]);
    CHECK_EQUAL(rows * c->ffn, seen.len[SEE_HIDDEN]);
    CHECK_EQUAL(0, seen.len[SEE_LOW_RANK]);
    CHECK_EQUAL(N * c->width, seen.len[SEE_FINAL]);
    CHECK_EQUAL(N * VOCAB, seen.len[SEE_LOGIT]);
    CHECK_EQUAL(c->layers, seen.layers[SEE_SCORE]);
    CHECK_EQUAL(c->layers + 1, seen.layers[SEE_FINAL]);
    CHECK(seen.score > 1);
    plain_watch(state, NULL);
}

// ---- adapters --------------------------------------------------------------------------------------------------------

static Adapter make_adapter(uint32_t first, uint32_t rank, bool zero)
{
    const ModelConfig *c = &model.config;
    Adapter a = {.layers = c->layers, .first = first};
    arena_init(&a.arena, false);
    a.pair = arena_alloc(&a.arena, c->layers, sizeof *a.pair);
    for (uint32_t l = first; l < c->layers; l++) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            size_t down = (size_t)rank * matrix_cols(c, m), up = (size_t)rank * matrix_rows(c, m);
            a.pair[l][m] = (LoraPair){arena_new(&a.arena, float, down), arena_new(&a.arena, float, up), rank, 0.5f};
            for (size_t i = 0; i < down; i++) a.pair[l][m].a[i] = (float)(test_random() - 0.5) * 0.2f;
            for (size_t i = 0; i < up && !zero; i++) a.pair[l][m].b[i] = (float)(test_random() - 0.5) * 0.2f;
        }
    }
    return a;
}

TEST(an_adapter_of_zeros_changes_nothing)
{
    start();
    enum { N = 20 };
    int32_t *tokens = random_tokens(N);
    float *base = arena_new(&arena, float, N * VOCAB), *with = arena_new(&arena, float, N * VOCAB);
    Adapter a = make_adapter(2, 4, true);
    CHECK_OK(plain_forward(state, base, tokens, N));
    CHECK_OK(plain_forward(plain_new(&model, &a, N, &arena), with, tokens, N));
    CHECK_NEAR(0, difference(base, with, N * VOCAB), 0);
}

TEST(merged_and_unmerged_adapters_agree)
{
    start();
    enum { N = 50 };
    int32_t *tokens = random_tokens(N);
    float *base = arena_new(&arena, float, N * VOCAB), *with = arena_new(&arena, float, N * VOCAB);
    float *merged = arena_new(&arena, float, N * VOCAB);
    Adapter a = make_adapter(2, 4, false);
    Model m;
    model_merge(&m, &model, &a);
    PlainState *s = plain_new(&model, &a, N, &arena);
    Seen seen = {0};
    plain_watch(s, &(Watch){note, &seen});
    CHECK_OK(plain_forward(state, base, tokens, N));
    CHECK_OK(plain_forward(s, with, tokens, N));
    CHECK_OK(plain_forward(plain_new(&m, NULL, N, &arena), merged, tokens, N));
    CHECK(difference(base, merged, N * VOCAB) > 0.1);
    CHECK_NEAR(0, difference(with, merged, N * VOCAB), 5e-4);
    CHECK_EQUAL(N * 3 * MAT_COUNT * 4, seen.len[SEE_LOW_RANK]);
    CHECK(m.layer[0].mat[MAT_Q] == model.layer[0].mat[MAT_Q] && m.layer[2].mat[MAT_Q] != model.layer[2].mat[MAT_Q]);
    model_free(&m);
}

// ---- sampling --------------------------------------------------------------------------------------------------------

TEST(sampling_follows_the_distribution)
{
    enum { N = 6, DRAWS = 200000 };
    static const float p[N] = {0.1f, 0.3f, 0.05f, 0.3f, 0.2f, 0.05f};
    float logits[N];
    for (int i = 0; i < N; i++) logits[i] = logf(p[i]) + 7;
    Sampler s;
    sampler_init(&s, 0, 1, 9);
    CHECK_EQUAL(1, sampler_pick(&s, logits, N));               // 1 and 3 tie
    int count[N] = {0};
    sampler_init(&s, 1, 1, 9);
    for (int i = 0; i < DRAWS; i++) count[sampler_pick(&s, logits, N)]++;
    for (int i = 0; i < N; i++) CHECK_NEAR((double)p[i], (double)count[i] / DRAWS, 0.005);
    memset(count, 0, sizeof count);
    sampler_init(&s, 1, 0.75f, 9);                             // 0.3 + 0.3 + 0.2
    for (int i = 0; i < DRAWS; i++) count[sampler_pick(&s, logits, N)]++;
    CHECK(count[0] == 0 && count[2] == 0 && count[5] == 0);
    CHECK_NEAR(0.3 / 0.8, (double)count[1] / DRAWS, 0.005);
    CHECK_NEAR(0.2 / 0.8, (double)count[4] / DRAWS, 0.005);
    sampler_init(&s, 1, 0.25f, 9);                             // of two equals the first is enough
    for (int i = 0; i < 1000; i++) CHECK_EQUAL(1, sampler_pick(&s, logits, N));
    sampler_init(&s, 1, 1e-9f, 9);
    for (int i = 0; i < 1000; i++) CHECK_EQUAL(1, sampler_pick(&s, logits, N));
    memset(count, 0, sizeof count);
    sampler_init(&s, 0.5f, 1, 9);                              // temperature 1/2 squares the odds
    for (int i = 0; i < DRAWS; i++) count[sampler_pick(&s, logits, N)]++;
    CHECK_NEAR(4.0 / 9, (double)count[4] / count[1], 0.02);
}

TEST(sampling_repeats_with_its_seed)
{
    float logits[100];
    for (int i = 0; i < 100; i++) logits[i] = (float)test_random();
    Sampler a, b, c;
    sampler_init(&a, 1, 0.9f, 5), sampler_init(&b, 1, 0.9f, 5), sampler_init(&c, 1, 0.9f, 6);
    int same = 0;
    for (int i = 0; i < 200; i++) {
        int32_t pick = sampler_pick(&a, logits, 100);
        CHECK_EQUAL(pick, sampler_pick(&b, logits, 100));
        same += pick == sampler_pick(&c, logits, 100);
    }
    CHECK(same < 50);
}

TEST(loss_of_a_target)
{
    float logits[4] = {1000, 1001, 1002, 999};
    double z = exp(-2) + exp(-1) + 1 + exp(-3);
    for (int i = 0; i < 4; i++) CHECK_NEAR(1002 - (double)logits[i] + log(z), cross_entropy(logits, 4, i), 1e-9);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
