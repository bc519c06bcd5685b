/* test_variants.c - what tuning changes of the upper layers: gradients of every variant against finite differences, training
 * against the plain network, merging and pruning against their definitions, marill.json. */
#include "models.h"
#include "model/variant.h"
#include "tune/measure.h"
#include "tune/train.h"

enum { ROWS = 60, SAMPLES = 3, FIRST = 1, MOST = 1024 };         // MOST: elements of a tensor

static const ModelConfig shape = {.width = 20, .layers = 3, .heads = 8, .kv_heads = 4, .head_dim = 6, .ffn = 28, .vocab = 37, .context = 96,
                                  .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2};
static const uint32_t pairs[] = {2, 0, 1, 3, 3, 1, 0, 2}, kept[] = {3, 1, 0, 2}, kept_pairs[] = {3, 1, 0, 2};
static const float norms[] = {0.4f, 0.3f, 0.25f, 0.2f};
static const float bounds[] = {0.5f, 1, -0.5f, 2, 0.2f, 0, 0.7f, 3, 1, -1, 0.3f, 0.1f, 2, 0.4f, 0.6f, 0.9f};

typedef struct Case { const char *name; Variant v; float row_weight; } Case;
static const Case cases[] = {
    {"nothing", {.first = FIRST}, 0},
    {"merged", {.first = FIRST, .heads = {.size = 2}}, 0},
    {"merged, shuffled, scaled", {.first = FIRST, .heads = {.size = 2, .order = pairs, .heads = 4}, .score_scale = 0.6f}, 0},
    {"merged into one", {.first = FIRST, .heads = {.size = 4}, .score_scale = 0.5f}, 0},
    {"pruned", {.first = FIRST, .heads = {.size = 1, .order = kept, .heads = 2}}, 0},
    {"pruned and merged", {.first = FIRST, .heads = {.size = 2, .order = kept_pairs, .heads = 2}}, 0},
    {"relu", {.first = FIRST, .activation = ACTIVATION_RELU}, 0},
    {"quad", {.first = FIRST, .activation = ACTIVATION_QUAD}, 0},
    {"2quad", {.first = FIRST, .softmax = SOFTMAX_2QUAD}, 0},
    {"2quad, merged", {.first = FIRST, .heads = {.size = 2}, .softmax = SOFTMAX_2QUAD, .score_shift = 4}, 0},
    {"2relu", {.first = FIRST, .softmax = SOFTMAX_2RELU}, 0},
    {"side by side", {.first = FIRST, .side_by_side = true}, 0},
    {"norms half held", {.first = FIRST, .norm = norms, .norm_mix = 0.5f}, 0},
    {"norms held", {.first = FIRST, .norm = norms, .norm_mix = 1}, 0},
    {"row bounds", {.first = FIRST, .row_bound = bounds}, 1},
    {"row bounds, merged", {.first = FIRST, .heads = {.size = 2, .order = pairs, .heads = 4}, .row_bound = bounds}, 1},
    {"all", {.first = FIRST, .heads = {.size = 2, .order = pairs, .heads = 4}, .score_scale = 0.7f, .activation = ACTIVATION_QUAD,
             .softmax = SOFTMAX_2QUAD, .side_by_side = true, .norm = norms, .norm_mix = 0.3f, .row_bound = bounds}, 2},
};
enum { CASES = sizeof cases / sizeof *cases };

// ---- a network and a pack of samples ---------------------------------------------------------------------------------

typedef struct Whole {
    Arena arena;
    Model model;
    Adapter adapter;
    Params params;
    float *values, *gradient;
    Grads grads;
    Net net;
    NetScratch *scratch;
    Pack *pack;
    Sample sample[SAMPLES];
} Whole;

static void whole_samples(Whole *w)
{
    w->pack = pack_new(ROWS, &w->arena);
    for (size_t i = 0; i < SAMPLES; i++) {
        Sample *s = &w->sample[i];
        s->len = (uint32_t)(6 + 12 * i);
        s->tokens = arena_new(&w->arena, int32_t, s->len);
        s->learn = arena_new(&w->arena, uint8_t, s->len);
        for (uint32_t t = 0; t < s->len; t++) s->tokens[t] = (int32_t)(test_random() * shape.vocab), s->learn[t] = t > 1;
    }
    CHECK_EQUAL(SAMPLES, pack_fill(w->pack, ROWS, w->sample, SAMPLES));
}

/* tuned: factors of the layers from FIRST on are the parameters; else all weights. */
static void whole_new(Whole *w, const Case *c, bool tuned)
{
    *w = (Whole){.model.config = shape};
    arena_init(&w->arena, false);
    float *rope = arena_new(&w->arena, float, (size_t)shape.context * shape.head_dim);
    rope_table(rope, &shape, shape.context);
    params_of_model(&w->params, &shape, &w->arena);
    w->values = arena_new(&w->arena, float, w->params.total);
    params_bind_model(&w->model, w->values, &w->arena);
    for (size_t i = 0; i < w->params.total; i++) w->values[i] = (float)(0.9 * (test_random() - 0.5));
    for (size_t i = 0; i < w->params.count; i++)           // gains around one
        for (size_t j = 0; w->params.block[i].len == shape.width && j < shape.width; j++) w->values[w->params.block[i].at + j] += 1;
    w->net = (Net){.model = &w->model, .rope = rope, .variant = &c->v, .row_weight = c->row_weight, .row_slack = 0.2f};
    if (tuned) {
        random_adapter(&w->adapter, &shape, FIRST, 3, 0x7f, 0.5);
        w->net.adapter = &w->adapter, w->net.first = FIRST;
    }
    whole_samples(w);
}

static void whole_free(Whole *w)
{
    if (w->net.adapter) adapter_free(&w->adapter);
    arena_free(&w->arena);
}

static void whole_differentiate(Whole *w)
{
    const Adapter *a = w->net.adapter;
    if (a) params_of_adapter(&w->params, &shape, a, &w->arena);
    w->gradient = arena_new(&w->arena, float, w->params.total);
    params_bind_grads(&w->grads, &shape, a, w->gradient, &w->arena);
    w->scratch = net_scratch(&w->net, ROWS, &w->arena);
    net_run(&w->net, w->scratch, w->pack, &w->grads, 1.0f / (float)w->pack->learned);
}

static double whole_value(const Whole *w)
{
    double loss = net_run(&w->net, w->scratch, w->pack, NULL, 0);
    return (loss + (double)w->net.row_weight * net_row_penalty(w->scratch)) / (double)w->pack->learned;
}

// ---- gradients -------------------------------------------------------------------------------------------------------

/* A parameter block is moved along `way` (len, of any length): the difference of the loss over twice the step. */
static double slope_along(const Whole *w, float *x, const float *way, size_t len, double step)
{
    float old[MOST];
    double value[2];
    CHECK(len <= MOST);
    memcpy(old, x, len * sizeof *x);
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < len; i++) x[i] = (float)((double)old[i] + (k ? -step : step) * (double)way[i]);
        value[k] = whole_value(w);
    }
    memcpy(x, old, len * sizeof *x);
    return (value[0] - value[1]) / (2 * step);
}

/* Of a tensor: the derivative along its gradient, which is the gradient's length, and along some of its coordinates. Where there are
 * kinks, smaller steps that miss them may be right where larger ones are not. */
static void tensor_check(const Whole *w, const char *name, const char *what, float *x, const float *grad, size_t len)
{
    float way[MOST];
    double size = 0;
    const Variant *v = w->net.variant;
    bool kinks = v->activation == ACTIVATION_RELU || v->softmax == SOFTMAX_2RELU || v->row_bound;
    CHECK(len <= MOST);
    for (size_t i = 0; i < len; i++) size += (double)grad[i] * (double)grad[i];
    size = sqrt(size);
    CHECK(size < 1e3);
    for (int k = 0; k < 4; k++) {
        size_t at = (size_t)(test_random() * (double)len);
        for (size_t i = 0; i < len; i++) way[i] = k == 0 ? (float)((double)grad[i] / fmax(size, 1e-9)) : (float)(i == at);
        double want = k == 0 ? size : (double)grad[at], got = 0, step = 4e-3 / fmax(1, fabs(want) / 4);
        bool good = false;
        for (int try = 0; try < (kinks ? 7 : 1) && !good; try++, step /= 2) {
            got = slope_along(w, x, way, len, step);
            good = fabs(want - got) <= 2.4e-6 / step + 4e-3 * fabs(want);      // the loss is right to some 1e-6
        }
        if (good) continue;
        fprintf(stderr, "%s: %s, %s: gradient %.6g, difference %.6g\n", name, what, k ? "a coordinate" : "along the gradient", want, got);
        exit(1);
    }
}

static void weights_check(const Whole *w, const char *name)
{
    for (size_t i = 0; i < w->params.count; i++) {
        char what[32];
        snprintf(what, sizeof what, "block %zu", i);
        tensor_check(w, name, what, w->values + w->params.block[i].at, w->gradient + w->params.block[i].at, w->params.block[i].len);
    }
}

static void factors_check(const Whole *w, const char *name)
{
    for (uint32_t l = FIRST; l < shape.layers; l++) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            const LoraPair *p = &w->adapter.pair[l][m];
            tensor_check(w, name, matrix_names[m], p->a, w->grads.layer[l].a[m], (size_t)p->rank * matrix_cols(&shape, m));
            tensor_check(w, name, matrix_names[m], p->b, w->grads.layer[l].b[m], (size_t)p->rank * matrix_rows(&shape, m));
        }
    }
}

static void gradients_check(bool tuned, size_t seeds)
{
    for (size_t seed = 0; seed < seeds; seed++) {
        for (size_t i = 0; i < CASES; i++) {
            Whole w;
            whole_new(&w, &cases[i], tuned);
            whole_differentiate(&w);
            if (cases[i].row_weight > 0) CHECK(net_row_penalty(w.scratch) > 0.02 * (double)w.pack->learned);
            if (tuned) factors_check(&w, cases[i].name);
            else weights_check(&w, cases[i].name);
            whole_free(&w);
        }
    }
}

TEST(backward_is_the_gradient_of_every_weight) { gradients_check(false, 2); }
TEST(backward_is_the_gradient_of_factors) { gradients_check(true, 2); }

// ---- training and the plain network ----------------------------------------------------------------------------------

/* The summed cross-entropy of the samples in the plain network. */
static double plain_loss(Whole *w, const Variant *v)
{
    float *logits = arena_new(&w->arena, float, (size_t)ROWS * shape.vocab);
    PlainState *s = plain_new(&w->model, w->net.adapter, ROWS, &w->arena);
    double sum = 0;
    plain_vary(s, v);
    for (size_t i = 0; i < SAMPLES; i++) {
        plain_truncate(s, 0);
        CHECK_OK(plain_forward(s, logits, w->sample[i].tokens, w->sample[i].len - 1));
        for (uint32_t t = 0; t + 1 < w->sample[i].len; t++)
            if (w->sample[i].learn[t + 1]) sum += cross_entropy(logits + t * shape.vocab, shape.vocab, w->sample[i].tokens[t + 1]);
    }
    return sum;
}

TEST(training_runs_what_the_plain_network_runs)
{
    for (size_t i = 0; i < CASES; i++) {
        for (int tuned = 0; tuned < 2; tuned++) {
            Whole w;
            whole_new(&w, &cases[i], tuned);
            whole_differentiate(&w);
            double want = plain_loss(&w, &cases[i].v), got = net_run(&w.net, w.scratch, w.pack, NULL, 0), base = plain_loss(&w, NULL);
            CHECK_NEAR(1, got / want, 3e-6);
            if (i > 0 && cases[i].row_weight <= 0) CHECK(fabs(base / want - 1) > 3e-5);       // a bound is for training alone
            whole_free(&w);
        }
    }
}

// ---- definitions -----------------------------------------------------------------------------------------------------

static float *plain_run(Whole *w, const Variant *v)
{
    float *logits = arena_new(&w->arena, float, (size_t)ROWS * shape.vocab);
    PlainState *s = plain_new(&w->model, w->net.adapter, ROWS, &w->arena);
    plain_vary(s, v);
    const Sample *last = &w->sample[SAMPLES - 1];
    CHECK_OK(plain_forward(s, logits, last->tokens, last->len));
    return logits;
}

TEST(merging_by_one_changes_nothing)
{
    static const uint32_t any[] = {2, 0, 1, 3, 3, 1, 0, 2};
    const Variant one = {.first = FIRST, .heads = {.size = 1}}, shuffled = {.first = FIRST, .heads = {.size = 1, .order = any, .heads = 4}},
                  above = {.first = 3, .heads = {.size = 2}, .softmax = SOFTMAX_2QUAD, .side_by_side = true};
    Whole w;
    whole_new(&w, &cases[0], false);
    w.scratch = net_scratch(&w.net, ROWS, &w.arena);
    w.net.variant = NULL;
    const float *want = plain_run(&w, NULL);
    double loss = net_run(&w.net, w.scratch, w.pack, NULL, 0);
    const Variant *same[] = {&one, &shuffled, &above};
    for (size_t i = 0; i < 3; i++) {
        CHECK(!memcmp(want, plain_run(&w, same[i]), w.sample[SAMPLES - 1].len * shape.vocab * sizeof *want));
        w.net.variant = same[i];
        CHECK(loss == net_run(&w.net, w.scratch, w.pack, NULL, 0));
    }
    whole_free(&w);
}

TEST(pruning_is_zeros_in_the_output_matrix)
{
    Whole w;
    whole_new(&w, &cases[4], false);
    const float *want = plain_run(&w, &cases[4].v), *base = plain_run(&w, NULL);
    size_t wide = (size_t)shape.heads * shape.head_dim, len = w.sample[SAMPLES - 1].len * shape.vocab;
    for (uint32_t l = FIRST; l < shape.layers; l++) {
        const uint32_t *keep = kept + (l - FIRST) * 2;
        float *o = arena_new(&w.arena, float, shape.width * wide);
        for (size_t i = 0; i < shape.width * wide; i++) {
            size_t key = i % wide / shape.head_dim / 2;    // two query heads share each
            o[i] = key == keep[0] || key == keep[1] ? w.model.layer[l].mat[MAT_O][i] : 0;
        }
        w.model.layer[l].mat[MAT_O] = o;
    }
    const float *got = plain_run(&w, NULL);
    double most = 0;
    for (size_t i = 0; i < len; i++) {
        CHECK_NEAR(want[i], got[i], 2e-5);
        most = fmax(most, fabs((double)want[i] - (double)base[i]));
    }
    CHECK(most > 0.1);
    whole_free(&w);
}

/* What one row of merged query head `merged` weighs its positions with, in doubles; returns the largest score. */
static double weights_by_hand(double *weight, const float *q, const float *k, const LayerVariant *how, size_t row, uint32_t merged)
{
    size_t wide = (size_t)shape.heads * shape.head_dim, kv = (size_t)shape.kv_heads * shape.head_dim;
    double sum = 0, top = -1e9;
    for (size_t j = 0; j <= row; j++) {
        weight[j] = 0;
        for (uint32_t t = 0; t < how->size; t++) {
            uint32_t key = how->order[merged / 2 * how->size + t], query = key * 2 + merged % 2;
            for (size_t d = 0; d < shape.head_dim; d++)
                weight[j] += (double)q[row * wide + query * shape.head_dim + d] * (double)k[j * kv + key * shape.head_dim + d];
        }
        weight[j] *= (double)how->scale;
        top = fmax(top, weight[j]);
    }
    for (size_t j = 0; j <= row; j++) {
        double s = weight[j];
        weight[j] = how->softmax == SOFTMAX_EXP ? exp(s) : how->softmax == SOFTMAX_2QUAD ? (s + 4) * (s + 4) : fmax(s, 0);
        sum += weight[j];
    }
    for (size_t j = 0; j <= row; j++) weight[j] /= sum + (how->softmax == SOFTMAX_2RELU ? (double)SOFTMAX_FLOOR : 0);
    return top;
}

/* Returns the sum of squares of what row maxima exceed their bounds by, and compares what is mixed. */
static double mixed_check(const Attention *t, const float *mixed)
{
    size_t wide = (size_t)shape.heads * shape.head_dim, kv = (size_t)shape.kv_heads * shape.head_dim;
    double weight[ROWS], penalty = 0;
    for (size_t r = 0; r < t->pack->rows; r++) {
        for (uint32_t h = 0; h < shape.heads / t->how.size; h++) {
            double over = fabs(weights_by_hand(weight, t->q, t->k, &t->how, r, h) - (double)bounds[h]) - (double)t->row_slack;
            penalty += over > 0 ? over * over : 0;
            for (uint32_t m = 0; m < t->how.size; m++) {
                uint32_t key = t->how.order[h / 2 * t->how.size + m], query = key * 2 + h % 2;
                for (size_t d = 0; d < shape.head_dim; d++) {
                    double sum = 0;
                    for (size_t j = 0; j <= r; j++) sum += weight[j] * (double)t->v[j * kv + key * shape.head_dim + d];
                    CHECK_NEAR(sum, mixed[r * wide + query * shape.head_dim + d], 2e-5);
                }
            }
        }
    }
    return penalty;
}

TEST(merged_heads_are_their_definition)
{
    Arena a;
    arena_init(&a, false);
    size_t wide = (size_t)shape.heads * shape.head_dim, kv = (size_t)shape.kv_heads * shape.head_dim, start[] = {0, ROWS};
    const float *q = random_weights(&a, ROWS * wide, 1.5), *k = random_weights(&a, ROWS * kv, 1.5), *v = random_weights(&a, ROWS * kv, 1);
    float *mixed = arena_new(&a, float, ROWS * wide), *sums = arena_new(&a, float, ROWS * shape.heads);
    Pack pack = {.rows = ROWS, .samples = 1, .start = start};
    for (uint32_t size = 1; size <= 4; size *= 2) {
        for (Softmax softmax = SOFTMAX_EXP; softmax <= SOFTMAX_2RELU; softmax++) {
            Variant variant = {.heads = {.size = size, .order = pairs, .heads = 4}, .score_scale = 0.8f, .softmax = softmax,
                               .score_shift = 4, .row_bound = bounds};
            Attention t = {q, k, v, &pack, &shape, variant_layer(&variant, &shape, 0), 0.3f, NULL, 0,
                           arena_new(&a, float, (size_t)2 * ATTENTION_BLOCK * ROWS)};
            double penalty = attention_forward(mixed, sums, &t), want = mixed_check(&t, mixed);
            CHECK_NEAR(1, penalty / want, 1e-4);
        }
    }
    arena_free(&a);
}

/* out = x + attention(x) + ffn(x): each half alone is a layer whose other half writes nothing. */
TEST(side_by_side_halves_read_the_entry)
{
    const Variant side = {.side_by_side = true};
    Whole w;
    whole_new(&w, &cases[0], false);
    size_t len = 9 * shape.width;
    const LayerWeights layer = w.model.layer[0];
    const float *nothing = arena_new(&w.arena, float, shape.width * shape.heads * shape.head_dim);
    float *x[4];
    for (int i = 0; i < 4; i++) {
        x[i] = arena_new(&w.arena, float, len);
        PlainState *s = plain_new(&w.model, NULL, 16, &w.arena);
        CHECK_OK(plain_embed(s, x[i], w.sample[2].tokens, 9));
        w.model.layer[0] = layer;
        if (i == 1) w.model.layer[0].mat[MAT_DOWN] = nothing;
        if (i == 2) w.model.layer[0].mat[MAT_O] = nothing;
        if (i == 3) plain_vary(s, &side);
        if (i > 0) plain_layers(s, x[i], 9, 0, 1);
    }
    for (size_t i = 0; i < len; i++) CHECK_NEAR((double)x[1][i] + (double)x[2][i] - (double)x[0][i], x[3][i], 1e-5);
    whole_free(&w);
}

TEST(approximations_and_held_norms_are_their_formulas)
{
    const float x[] = {-6, -1, -0.25f, 0, 0.5f, 2, 9}, up[] = {1, -2, 3, 0.5f, -0.5f, 1, 2}, gain[] = {1, 2, 1, 3, 1, 1, 0.5f};
    float out[7], inv;
    double square = 0;
    for (size_t i = 0; i < 7; i++) square += (double)x[i] * (double)x[i] / 7;
    gated_forward(out, x, up, ACTIVATION_RELU, 7);
    for (size_t i = 0; i < 7; i++) CHECK_NEAR(fmax((double)x[i], 0) * (double)up[i], out[i], 1e-6);
    gated_forward(out, x, NULL, ACTIVATION_QUAD, 7);
    for (size_t i = 0; i < 7; i++) CHECK_NEAR((double)x[i] * (double)x[i] / 8 + (double)x[i] / 4 + 0.5, out[i], 1e-6);
    rmsnorm_held_forward(out, &inv, x, gain, 1, 7, 0, (NormHold){0.7f, 0.25f});
    CHECK_NEAR(1 / sqrt(square), inv, 1e-6);
    for (size_t i = 0; i < 7; i++) CHECK_NEAR((double)x[i] * (double)gain[i] * (0.75 / sqrt(square) + 0.25 * 0.7), out[i], 1e-5);
    layernorm_forward(out, x, gain, up, 1, 7, 0, (NormHold){0.7f, 1});
    double mean = (-6 - 1 - 0.25 + 0.5 + 2 + 9) / 7;
    for (size_t i = 0; i < 7; i++) CHECK_NEAR(((double)x[i] - mean) * 0.7 * (double)gain[i] + (double)up[i], out[i], 1e-5);
}

// ---- heads that are alike --------------------------------------------------------------------------------------------

/* Key-value heads whose weights are those of another, with a little noise: in each layer, group[h] says which are one kind. */
static void heads_plant(Whole *w, const uint32_t *group, double noise)
{
    size_t width = shape.width, each = shape.head_dim * width;
    for (uint32_t l = 0; l < shape.layers; l++, group += shape.kv_heads) {
        float *q = arena_new(&w->arena, float, shape.heads * each), *k = arena_new(&w->arena, float, shape.kv_heads * each);
        const float *from_q = w->model.layer[l].mat[MAT_Q], *from_k = w->model.layer[l].mat[MAT_K];
        for (uint32_t h = 0; h < shape.heads; h++)
            for (size_t i = 0; i < each; i++)
                q[h * each + i] = 3 * from_q[(group[h / 2] * 2 + h % 2) * each + i] + (float)(noise * (test_random() - 0.5));
        for (uint32_t h = 0; h < shape.kv_heads; h++)
            for (size_t i = 0; i < each; i++) k[h * each + i] = from_k[group[h] * each + i] + (float)(noise * (test_random() - 0.5));
        w->model.layer[l].mat[MAT_Q] = q, w->model.layer[l].mat[MAT_K] = k;
    }
}

static int32_t *text_random(Arena *a, size_t count)
{
    int32_t *tokens = arena_new(a, int32_t, count);
    for (size_t i = 0; i < count; i++) tokens[i] = (int32_t)(test_random() * shape.vocab);
    return tokens;
}

TEST(heads_that_are_alike_are_grouped)
{
    static const uint32_t planted[] = {0, 1, 1, 0, 2, 0, 2, 0, 3, 3, 1, 1};
    Whole w;
    whole_new(&w, &cases[0], false);
    heads_plant(&w, planted, 0.1);
    Study s = {.model = &w.model, .tokens = text_random(&w.arena, 300), .count = 300};
    for (GroupBy by = GROUP_MAPS; by <= GROUP_WEIGHTS; by++) {
        HeadGroups g;
        CHECK_OK(heads_group(&g, &s, 2, by, 0, &w.arena));
        CHECK_OK(head_groups_check(&g, &shape, shape.layers));
        CHECK(g.size == 2 && !head_groups_pruned(&g, &shape));
        for (size_t i = 0; i < 12; i += 2) CHECK_EQUAL(planted[i / 4 * 4 + g.order[i]], planted[i / 4 * 4 + g.order[i + 1]]);
    }
    double alike[3 * 16];
    CHECK_OK(map_similarity(alike, &s));
    for (size_t i = 0; i < 48; i++) {
        CHECK(alike[i] >= 0 && alike[i] <= 1);
        CHECK_NEAR(alike[i], alike[i / 16 * 16 + i % 4 * 4 + i / 4 % 4], 1e-12);
    }
    CHECK(alike[3] > 0.9 && alike[1] < alike[3] - 0.05);   // heads 0 and 3 of the first layer are of one kind, 0 and 1 are not
    whole_free(&w);
}

TEST(groups_by_chance_and_side_by_side)
{
    Whole w;
    whole_new(&w, &cases[0], false);
    Study s = {.model = &w.model, .first = FIRST};
    HeadGroups g, h, i;
    CHECK_OK(heads_group(&g, &s, 4, GROUP_ADJACENT, 0, &w.arena));
    for (uint32_t at = 0; at < 8; at++) CHECK_EQUAL(at % 4, g.order[at]);
    CHECK_OK(heads_group(&g, &s, 2, GROUP_RANDOM, 7, &w.arena));
    CHECK_OK(heads_group(&h, &s, 2, GROUP_RANDOM, 7, &w.arena));
    CHECK_OK(heads_group(&i, &s, 2, GROUP_RANDOM, 8, &w.arena));
    CHECK_OK(head_groups_check(&g, &shape, 2));
    CHECK(!memcmp(g.order, h.order, 8 * sizeof *g.order) && memcmp(g.order, i.order, 8 * sizeof *g.order));
    CHECK_FAILS(heads_group(&g, &s, 3, GROUP_RANDOM, 7, &w.arena), "does not divide");
    CHECK_FAILS(heads_group(&g, &s, 2, GROUP_MAPS, 7, &w.arena), "too little text");
    CHECK_FAILS(heads_keep(&g, &s, 3, KEEP_OUTPUT, &w.arena), "does not divide");
    s.first = shape.layers;
    CHECK_FAILS(heads_group(&g, &s, 2, GROUP_RANDOM, 7, &w.arena), "leave no heads");
    whole_free(&w);
}

/* Clusters of random similarities: no swap of two heads is left that would make groups more alike. */
TEST(clusters_are_balanced_and_settled)
{
    enum { HEADS = 12, SIZE = 3 };
    double alike[HEADS * HEADS], best = 0;
    uint32_t order[HEADS];
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < HEADS; i++)
            for (size_t j = 0; j <= i; j++) alike[i * HEADS + j] = alike[j * HEADS + i] = i == j ? 1 : test_random();
        heads_cluster(order, alike, HEADS, SIZE);
        unsigned seen = 0;
        for (size_t i = 0; i < HEADS; i++) seen |= 1u << order[i];
        CHECK_EQUAL((1 << HEADS) - 1, seen);
        for (size_t i = 0; i <= HEADS * HEADS; i++) {      // last of all, and first: the order as it is
            size_t x = i % HEADS, y = i / HEADS % HEADS;
            double sum = 0;
            uint32_t v = order[x];
            order[x] = order[y], order[y] = v;
            for (size_t at = 0; at < HEADS; at++)
                for (size_t k = at + 1; k < (at / SIZE + 1) * SIZE; k++) sum += alike[order[at] * HEADS + order[k]];
            v = order[x], order[x] = order[y], order[y] = v;
            if (i == 0) best = sum;
            CHECK(sum <= best + 1e-6);
        }
    }
}

/* Heads whose columns of the output matrix are nearly zero put out nearly nothing, and nothing depends on them. */
TEST(heads_that_do_nothing_are_pruned)
{
    static const uint32_t useful[] = {1, 3, 0, 2};
    Whole w;
    whole_new(&w, &cases[0], true);
    size_t wide = (size_t)shape.heads * shape.head_dim;
    for (uint32_t l = FIRST; l < shape.layers; l++) {
        const uint32_t *use = useful + (l - FIRST) * 2;
        LoraPair *p = &w.adapter.pair[l][MAT_O];
        float *o = arena_new(&w.arena, float, shape.width * wide);
        for (size_t i = 0; i < shape.width * wide; i++) {
            size_t key = i % wide / shape.head_dim / 2;
            o[i] = w.model.layer[l].mat[MAT_O][i] * (key == use[0] || key == use[1] ? 1 : 0.02f);
        }
        for (size_t i = 0; i < p->rank * wide; i++) p->a[i] *= 0.02f;
        w.model.layer[l].mat[MAT_O] = o;
    }
    Study s = {.model = &w.model, .adapter = &w.adapter, .first = FIRST, .tokens = text_random(&w.arena, 300), .count = 300};
    for (KeepBy by = KEEP_GRADIENT; by <= KEEP_OUTPUT; by++) {
        HeadGroups g;
        CHECK_OK(heads_keep(&g, &s, 2, by, &w.arena));
        CHECK(head_groups_pruned(&g, &shape) && g.heads == 2 && g.size == 1);
        CHECK_OK(head_groups_check(&g, &shape, 2));
        for (size_t l = 0; l < 2; l++)
            CHECK_EQUAL(1 << useful[l * 2] | 1 << useful[l * 2 + 1], 1 << g.order[l * 2] | 1 << g.order[l * 2 + 1]);
    }
    whole_free(&w);
}

/* Head gates against finite differences: a gate is a factor of a head's columns of the output matrix. */
TEST(gradient_importance_is_that_of_a_gate)
{
    Whole w;
    whole_new(&w, &cases[0], false);
    const Sample *sample = &w.sample[SAMPLES - 1];
    size_t wide = (size_t)shape.heads * shape.head_dim, part = wide / shape.kv_heads;
    int32_t *tokens = arena_new(&w.arena, int32_t, 40);
    for (size_t i = 0; i < sample->len; i++) tokens[i] = sample->tokens[i];
    w.model.config.bos = -1;
    Study s = {.model = &w.model, .first = 2, .tokens = tokens, .count = sample->len};
    double worth[4];
    CHECK_OK(gradient_importance(worth, &s));
    memset(sample->learn, 1, sample->len);
    CHECK_EQUAL(1, pack_fill(w.pack, ROWS, sample, 1));
    w.scratch = net_scratch(&w.net, ROWS, &w.arena);
    float *o = (float *)(uintptr_t)w.model.layer[2].mat[MAT_O];
    for (size_t h = 0; h < 4; h++) {
        double value[2];
        for (int k = 0; k < 2; k++) {
            for (size_t i = 0; i < shape.width * wide; i++) o[i] *= i % wide / part == h ? (k ? 0.99f / 1.01f : 1.01f) : 1;
            value[k] = whole_value(&w);
        }
        for (size_t i = 0; i < shape.width * wide; i++) o[i] *= i % wide / part == h ? 1 / 0.99f : 1;
        CHECK_NEAR(fabs(value[0] - value[1]) / 0.02, worth[h], 1e-3);
        CHECK(worth[h] > 1e-3);
    }
    whole_free(&w);
}

TEST(norms_and_row_maxima_are_measured)
{
    Whole w;
    whole_new(&w, &cases[2], false);
    Study s = {.model = &w.model, .first = FIRST, .tokens = text_random(&w.arena, 300), .count = 300};
    Variant v = cases[2].v;
    CHECK_OK(norms_measure(&v.norm, &s, &v, &w.arena));
    CHECK_OK(row_bounds_measure(&v.row_bound, &s, &v, &w.arena));
    CHECK_OK(variant_check(&v, &w.model.config));
    /* The penalty at a slack of nothing is the variance around the mean: another bound costs more. */
    Sample text = {.tokens = arena_new(&w.arena, int32_t, ROWS), .len = ROWS, .learn = arena_new(&w.arena, uint8_t, ROWS)};
    text.tokens[0] = shape.bos;
    memcpy(text.tokens + 1, s.tokens, (ROWS - 1) * sizeof *text.tokens);
    memset(text.learn, 1, ROWS);
    s.count = ROWS - 2;
    CHECK_OK(row_bounds_measure(&v.row_bound, &s, &v, &w.arena));
    CHECK_EQUAL(1, pack_fill(w.pack, ROWS, &text, 1));
    w.net.variant = &v, w.net.row_slack = 0;
    w.scratch = net_scratch(&w.net, ROWS, &w.arena);
    float other[8], *bound[2] = {(float *)(uintptr_t)v.row_bound, other};
    double penalty[2];
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < 8; i++) other[i] = bound[0][i] + 0.5f;
        v.row_bound = bound[k];
        net_run(&w.net, w.scratch, w.pack, NULL, 0);
        penalty[k] = net_row_penalty(w.scratch) / (double)w.pack->learned;
    }
    CHECK_NEAR(0.25, penalty[1] - penalty[0], 0.05);       // the first row of the window is in one mean and not in the other
    s.first = 2;
    CHECK_FAILS(row_bounds_measure(&v.row_bound, &s, &v, &w.arena), "begins at 1");
    whole_free(&w);
}

// ---- marill.json -----------------------------------------------------------------------------------------------------

static const char *folder_with(const char *text)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/marill.json", test_folder());
    CHECK_OK(file_write(path, text, strlen(text), 0600));
    return test_folder();
}

static void variant_written(const Variant *v, Buffer *out)
{
    Json *root = json_new_object();
    json_put(root, "variant", variant_json(v, &shape));
    json_print(out, root, 0, 17);
    buffer_u8(out, 0);
    json_free(root);
}

TEST(a_variant_is_written_and_read_back)
{
    Arena a;
    arena_init(&a, false);
    for (size_t i = 0; i < CASES; i++) {
        Buffer first = {0}, second = {0};
        Variant v;
        variant_written(&cases[i].v, &first);
        CHECK_OK(variant_load(&v, folder_with((char *)first.data), &shape, 0, &a));
        CHECK(v.first == FIRST && variant_changes(&v) == (i > 0));
        variant_written(&v, &second);
        CHECK(first.len == second.len && !memcmp(first.data, second.data, first.len));
        buffer_free(&first), buffer_free(&second);
    }
    arena_free(&a);
}

TEST(variants_that_make_no_sense_are_refused)
{
    static const struct { const char *text, *why; } bad[] = {
        {"[1]", "variant is not an object"},
        {"{\"mege\": 2}", "unknown member 'mege'"},
        {"{\"first\": 4}", "first"},
        {"{\"merge\": 3}", "does not divide"},
        {"{\"merge\": 0}", "merge"},
        {"{\"merge\": 2, \"head_groups\": [[[0, 1], [2, 3]]]}", "either"},
        {"{\"head_groups\": [[[0, 1], [2, 2]]]}", "names head 2 twice"},
        {"{\"head_groups\": [[[0, 1], [2, 4]]]}", "names head 4 of 4"},
        {"{\"head_groups\": [[[0, 1, 2]], [[0, 1, 2, 3]]]}", "as the first"},
        {"{\"head_groups\": [[], []]}", "not a list of groups"},
        {"{\"head_groups\": [[[0]], [[1]], [[2]], [[3]]]}", "4 layers of 3"},
        {"{\"first\": 1, \"head_groups\": [[[0]]]}", "each of 2 layers"},
        {"{\"head_groups\": [[[-1]]]}", "head_groups"},
        {"{\"activation\": \"tanh\"}", "'tanh', none of base, relu, quad"},
        {"{\"softmax\": 2}", "softmax"},
        {"{\"score_scale\": -1}", "score_scale"},
        {"{\"norm_mix\": 1.5}", "norm_mix"},
        {"{\"norm\": [[1, 1]]}", "norm is not a list for each of 3 layers"},
        {"{\"first\": 2, \"norm\": [[1, 0]]}", "norm is 0"},
        {"{\"first\": 2, \"norm\": [[1, 1, 1]]}", "does not have 2 numbers"},
        {"{\"first\": 2, \"merge\": 2, \"row_bound\": [[1, 1, 1, 1, 1, 1, 1, 1]]}", "does not have 4 numbers"},
        {"{\"first\": 2, \"row_bound\": [[1, 1, 1, 1, 1, 1, 1, 99999]]}", "row_bound is 99999"},
        {"{\"side_by_side\": 1}", "side_by_side"}};
    Arena a;
    arena_init(&a, false);
    Variant v;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[512];
        snprintf(text, sizeof text, "{\"variant\": %s}", bad[i].text);
        CHECK_FAILS(variant_load(&v, folder_with(text), &shape, 0, &a), bad[i].why);
        CHECK(strstr(result_text(), "marill.json") != NULL);
    }
    CHECK_OK(variant_load(&v, folder_with("{\"template\": \"{}\"}"), &shape, 1, &a));
    CHECK(!variant_changes(&v));
    CHECK_OK(variant_load(&v, folder_with("{\"variant\": {\"merge\": 2}}"), &shape, 1, &a));
    CHECK(v.first == 1 && v.heads.size == 2 && variant_changes(&v));
    CHECK_OK(variant_load(&v, folder_with("{\"variant\": {\"head_groups\": [[[3], [0]]]}}"), &shape, 0, &a));
    CHECK(v.first == 2 && v.heads.size == 1 && v.heads.heads == 2 && head_groups_pruned(&v.heads, &shape));
    arena_free(&a);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
