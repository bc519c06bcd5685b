/* heads.c - which heads to merge, and, for the rival, which to keep. */
#include "tune/measure.h"

#include <math.h>
#include <string.h>
#include "base/random.h"
#include "model/layers.h"
#include "tune/train.h"

// ---- weights ---------------------------------------------------------------------------------------------------------

/* The inner product of the forms Wq^T Wk of two heads: the sum over (dim, dim) of (Wq Wq'^T) * (Wk Wk'^T). Rows have the norm's gain
 * in them. work: 2 dim^2 floats. */
static double form_product(const float *q1, const float *k1, const float *q2, const float *k2, size_t dim, size_t width, float *work)
{
    double sum = 0;
    product((Product){.turn_b = true, .alpha = 1}, work, dim, q1, width, q2, width, dim, dim, width);
    product((Product){.turn_b = true, .alpha = 1}, work + dim * dim, dim, k1, width, k2, width, dim, dim, width);
    for (size_t i = 0; i < dim * dim; i++) sum += (double)work[i] * (double)work[dim * dim + i];
    return sum;
}

static float *rows_gained(const Model *m, uint32_t layer, MatrixKind kind, Arena *a)
{
    size_t rows = matrix_rows(&m->config, kind), width = m->config.width;
    float *out = arena_new(a, float, rows * width);
    for (size_t i = 0; i < rows * width; i++) out[i] = m->layer[layer].mat[kind][i] * m->layer[layer].attn_norm[i % width];
    return out;
}

static void layer_forms(double *out, const Model *m, uint32_t layer, Arena *a)
{
    const ModelConfig *c = &m->config;
    size_t dim = c->head_dim, width = c->width, each = dim * width, share = c->heads / c->kv_heads, kv = c->kv_heads;
    const float *q = rows_gained(m, layer, MAT_Q, a), *k = rows_gained(m, layer, MAT_K, a);
    float *work = arena_new(a, float, 2 * dim * dim);
    double *size = arena_new(a, double, c->heads);
    for (size_t h = 0; h < c->heads; h++)
        size[h] = sqrt(form_product(q + h * each, k + h / share * each, q + h * each, k + h / share * each, dim, width, work)) + 1e-30;
    for (size_t i = 0; i < kv; i++) {
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t t = 0; t < share; t++) {
                size_t g = i * share + t, h = j * share + t;
                sum += form_product(q + g * each, k + i * each, q + h * each, k + j * each, dim, width, work) / (size[g] * size[h]);
            }
            out[i * kv + j] = out[j * kv + i] = sum / (double)share;
        }
    }
}

/* out := the study's model with the adapter in it; own: whether it is to be freed. */
static const Model *model_whole(Model *own, const Study *s)
{
    if (!s->adapter) return s->model;
    model_merge(own, s->model, s->adapter);
    return own;
}

static CHECKED Result floats_check(const Study *s)
{
    const ModelConfig *c = &s->model->config;
    if (s->model->quantised) return fail(FAIL_USE, "heads are compared in a model with float weights, not in a quantised base");
    return s->first < c->layers ? OK : fail(FAIL_USE, "%u frozen layers of %u leave no heads to choose from", s->first, c->layers);
}

Result weight_similarity(double *out, const Study *s)
{
    GUARD(floats_check(s));
    const ModelConfig *c = &s->model->config;
    Model own = {0};
    const Model *m = model_whole(&own, s);
    Arena a;
    arena_init(&a, false);
    for (uint32_t l = s->first; l < c->layers; l++) layer_forms(out + (size_t)(l - s->first) * c->kv_heads * c->kv_heads, m, l, &a);
    arena_free(&a);
    if (s->adapter) model_free(&own);
    return OK;
}

// ---- groups that are alike -------------------------------------------------------------------------------------------

/* What a head has in common with a group, itself left out. */
static double pull_of(const double *alike, uint32_t count, uint32_t head, const uint32_t *group, uint32_t size)
{
    double sum = 0;
    for (uint32_t i = 0; i < size; i++) sum += group[i] == head ? 0 : alike[head * count + group[i]];
    return sum;
}

static void group_begin(uint32_t *group, const double *alike, const bool *taken, uint32_t count)
{
    double best = -INFINITY;
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = i + 1; j < count; j++) {
            if (taken[i] || taken[j] || !(alike[i * count + j] > best)) continue;
            best = alike[i * count + j], group[0] = i, group[1] = j;
        }
    }
}

/* Swaps two heads of different groups if that makes the groups more alike. */
static bool heads_swap(uint32_t *order, const double *alike, uint32_t count, uint32_t size)
{
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = (i / size + 1) * size; j < count; j++) {
            uint32_t *a = order + i / size * size, *b = order + j / size * size, x = order[i], y = order[j];
            double with = pull_of(alike, count, x, a, size) + pull_of(alike, count, y, b, size);
            double without = pull_of(alike, count, y, a, size) + pull_of(alike, count, x, b, size) - 2 * alike[x * count + y];
            if (!(without > with + 1e-9)) continue;
            order[i] = y, order[j] = x;
            return true;
        }
    }
    return false;
}

void heads_cluster(uint32_t *order, const double *alike, uint32_t count, uint32_t size)
{
    bool taken[4096] = {false};
    ASSERT(count <= 4096 && size > 0 && count % size == 0);
    for (uint32_t at = 0; at < count; at += size) {
        uint32_t *group = order + at, have = 0;
        if (size > 1) group_begin(group, alike, taken, count), have = 2;
        for (uint32_t i = 0; i < have; i++) taken[group[i]] = true;
        for (; have < size; have++) {
            uint32_t best = count;
            for (uint32_t i = 0; i < count; i++) {
                if (taken[i]) continue;
                if (best == count || pull_of(alike, count, i, group, have) > pull_of(alike, count, best, group, have)) best = i;
            }
            group[have] = best, taken[best] = true;
        }
    }
    for (uint32_t tries = 0; size > 1 && tries < 16 * count && heads_swap(order, alike, count, size); tries++) {}
}

static void order_shuffle(uint32_t *order, uint32_t count, uint64_t *state)
{
    for (uint32_t i = count; i > 1; i--) {
        uint32_t j = (uint32_t)(random_draw(state) % i), v = order[i - 1];
        order[i - 1] = order[j], order[j] = v;
    }
}

Result heads_group(HeadGroups *out, const Study *s, uint32_t size, GroupBy by, uint64_t seed, Arena *a)
{
    const ModelConfig *c = &s->model->config;
    uint32_t kv = c->kv_heads, layers = c->layers - s->first;
    *out = (HeadGroups){0};
    if (size == 0 || kv % size != 0)
        return fail(FAIL_USE, "heads are merged by %u, which does not divide the %u key-value heads", size, kv);
    GUARD(floats_check(s));
    uint32_t *order = arena_new(a, uint32_t, (size_t)layers * kv);
    double *alike = arena_new(a, double, (size_t)layers * kv * kv);
    if (by == GROUP_MAPS) GUARD(map_similarity(alike, s));
    if (by == GROUP_WEIGHTS) GUARD(weight_similarity(alike, s));
    for (uint32_t l = 0; l < layers; l++) {
        uint32_t *row = order + (size_t)l * kv;
        for (uint32_t i = 0; i < kv; i++) row[i] = i;
        if (by == GROUP_RANDOM) order_shuffle(row, kv, &seed);
        if (by == GROUP_MAPS || by == GROUP_WEIGHTS) heads_cluster(row, alike + (size_t)l * kv * kv, kv, size);
    }
    *out = (HeadGroups){.size = size, .order = order, .heads = kv};
    return OK;
}

// ---- heads to keep ---------------------------------------------------------------------------------------------------

/* With a gate of 1 on what head h puts out, dL/dgate is the inner product of Wo's columns of h with their gradient: both are the sum
 * over rows of d_out . (Wo mixed). */
static void gates_add(double *sum, const Model *m, uint32_t layer, const float *d_wo)
{
    const ModelConfig *c = &m->config;
    const float *wo = m->layer[layer].mat[MAT_O];
    size_t wide = (size_t)c->heads * c->head_dim, part = wide / c->kv_heads;
    for (size_t h = 0; h < c->kv_heads; h++) {
        double gate = 0;
        for (size_t i = 0; i < c->width; i++)
            for (size_t j = h * part; j < (h + 1) * part; j++) gate += (double)d_wo[i * wide + j] * (double)wo[i * wide + j];
        sum[h] += fabs(gate);
    }
}

static void gates_run(double *out, const Study *s, const Model *m, Arena *a)
{
    const ModelConfig *c = &m->config;
    size_t room = c->context < STUDY_WINDOW ? c->context : STUDY_WINDOW, known = c->bos >= 0;
    size_t len = (size_t)c->width * c->heads * c->head_dim;
    float *rope = arena_new(a, float, (size_t)c->context * c->head_dim), *d_wo = arena_new(a, float, len * (c->layers - s->first));
    rope_table(rope, c, c->context);
    Net net = {.model = m, .first = s->first, .rope = rope};
    NetScratch *scratch = net_scratch(&net, room, a);
    Pack *pack = pack_new(room, a);
    Grads grads = {.layer = arena_new(a, LayerGrads, c->layers)};
    int32_t *window = arena_new(a, int32_t, room + 1);
    uint8_t *learn = arena_new(a, uint8_t, room + 1);
    memset(learn, 1, room + 1);
    for (uint32_t l = s->first; l < c->layers; l++) grads.layer[l].mat[MAT_O] = d_wo + len * (l - s->first);
    for (size_t at = 0; at < s->count;) {
        Sample one = {.tokens = window, .learn = learn};
        if (known) window[one.len++] = c->bos;
        while (one.len < room && at < s->count) window[one.len++] = s->tokens[at++];
        if (one.len < 2) break;
        pack_fill(pack, room, &one, 1);
        memset(d_wo, 0, len * (c->layers - s->first) * sizeof *d_wo);
        net_run(&net, scratch, pack, &grads, 1.0f / (float)pack->learned);
        for (uint32_t l = s->first; l < c->layers; l++)
            gates_add(out + (size_t)(l - s->first) * c->kv_heads, m, l, grads.layer[l].mat[MAT_O]);
    }
}

Result gradient_importance(double *out, const Study *s)
{
    GUARD(floats_check(s));
    const ModelConfig *c = &s->model->config;
    if (c->arch != ARCH_LLAMA) return fail(FAIL_USE, "a GPT-2 is not trained here, so its heads have no gradients");
    if (s->count < STUDY_LEAST) return fail(FAIL_USE, "%zu tokens are too little text to measure heads on", s->count);
    for (size_t i = 0; i < s->count; i++)
        if (s->tokens[i] < 0 || (uint32_t)s->tokens[i] >= c->vocab)
            return fail(FAIL_DATA, "token %d is not in the vocabulary of %u", s->tokens[i], c->vocab);
    Model own = {0};
    const Model *m = model_whole(&own, s);
    Arena a;
    arena_init(&a, false);
    memset(out, 0, (size_t)(c->layers - s->first) * c->kv_heads * sizeof *out);
    gates_run(out, s, m, &a);
    arena_free(&a);
    if (s->adapter) model_free(&own);
    return OK;
}

Result heads_keep(HeadGroups *out, const Study *s, uint32_t of, KeepBy by, Arena *a)
{
    const ModelConfig *c = &s->model->config;
    uint32_t kv = c->kv_heads, layers = c->layers - s->first;
    *out = (HeadGroups){0};
    if (of == 0 || kv % of != 0) return fail(FAIL_USE, "one of %u heads is kept, which does not divide the %u key-value heads", of, kv);
    GUARD(floats_check(s));
    double *worth = arena_new(a, double, (size_t)layers * kv);
    GUARD(by == KEEP_GRADIENT ? gradient_importance(worth, s) : output_importance(worth, s));
    uint32_t *order = arena_new(a, uint32_t, (size_t)layers * (kv / of)), *at = order;
    for (uint32_t l = 0; l < layers; l++, worth += kv) {
        for (uint32_t n = 0; n < kv / of; n++) {
            uint32_t best = 0;
            for (uint32_t i = 1; i < kv; i++) best = worth[i] > worth[best] ? i : best;
            worth[best] = -1, *at++ = best;
        }
    }
    *out = (HeadGroups){.size = 1, .order = order, .heads = kv / of};
    return OK;
}
