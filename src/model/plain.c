/* plain.c - the floating-point network: one conversation with its cache.
 *
 * Rows go through the layers in chunks, so that the scratch is small and allocated once; keys and values go straight into
 * the cache. Attention runs over blocks of the cache with a running maximum and sum (Milakov and Gimelshein 2018), so a
 * long context needs no matrix of scores. */
#include "model/model.h"

#include <math.h>
#include <string.h>
#include "model/layers.h"
#include "model/quant.h"
#include "model/variant.h"

enum { CHUNK_ROWS = 128, BLOCK_ROWS = 16, BLOCK_KEYS = 128 };

struct PlainState {
    const Model *model;
    const Adapter *adapter;                    // NULL: the model alone
    Variant variant;
    Watch watch;                               // see is NULL while nobody watches
    uint32_t context, past, chunk;             // chunk: rows that the scratch has room for
    float **keys, **values;                    // (layers) of (context, kv_heads * head_dim)
    float *angles;                             // (context, head_dim / 2, 2)
    // Scratch of one chunk, T rows:
    uint32_t *position;                        // (T)
    float *x, *normed;                         // (T, width)
    float *query, *mixed;                      // (T, heads * head_dim)
    float *gate, *up, *hidden;                 // (T, ffn)
    float *low;                                // (T, the largest rank)
    float *gained;                             // (T, width): normed with the gain that a quantised base has in its weights; else NULL
    float *ones;                               // (width): the gain of such a base's norms; else NULL
    float *score;                              // (context) one row of scores, or (T) of mean squares, for who watches
};

// ---- a conversation --------------------------------------------------------------------------------------------------

static uint32_t adapter_rank(const Adapter *a)
{
    uint32_t most = 1;
    for (uint32_t l = 0; a && l < a->layers; l++)
        for (MatrixKind m = 0; m < MAT_COUNT; m++)
            if (a->pair[l][m].a && a->pair[l][m].rank > most) most = a->pair[l][m].rank;
    return most;
}

PlainState *plain_new(const Model *m, const Adapter *adapter, uint32_t context, Arena *a)
{
    const ModelConfig *c = &m->config;
    ASSERT(context > 0 && (!adapter || adapter->layers == c->layers));
    PlainState *s = arena_new(a, PlainState, 1);
    uint32_t chunk = context < CHUNK_ROWS ? context : CHUNK_ROWS;
    size_t rows = chunk, kv = (size_t)c->kv_heads * c->head_dim, wide = (size_t)c->heads * c->head_dim;
    *s = (PlainState){.model = m, .adapter = adapter, .context = context, .chunk = chunk};
    s->keys = arena_new(a, float *, c->layers);
    s->values = arena_new(a, float *, c->layers);
    for (uint32_t l = 0; l < c->layers; l++) {
        s->keys[l] = arena_new(a, float, context * kv);
        s->values[l] = arena_new(a, float, context * kv);
    }
    s->angles = arena_new(a, float, (size_t)context * c->head_dim);
    rope_table(s->angles, c, context);
    s->position = arena_new(a, uint32_t, rows);
    s->x = arena_new(a, float, rows * c->width);
    s->normed = arena_new(a, float, rows * c->width);
    s->query = arena_new(a, float, rows * wide);
    s->mixed = arena_new(a, float, rows * wide);
    s->gate = arena_new(a, float, rows * c->ffn);
    s->up = arena_new(a, float, rows * c->ffn);
    s->hidden = arena_new(a, float, rows * c->ffn);
    s->low = arena_new(a, float, rows * adapter_rank(adapter));
    s->score = arena_new(a, float, context);
    if (m->quantised) {
        s->gained = arena_new(a, float, rows * c->width);
        s->ones = arena_new(a, float, c->width);
        for (size_t i = 0; i < c->width; i++) s->ones[i] = 1;
    }
    return s;
}

void plain_watch(PlainState *s, const Watch *w) { s->watch = w ? *w : (Watch){0}; }
void plain_vary(PlainState *s, const Variant *v) { s->variant = v ? *v : (Variant){0}; }
uint32_t plain_past(const PlainState *s) { return s->past; }
const float *plain_keys(const PlainState *s, uint32_t layer) { return s->keys[layer]; }
const float *plain_values(const PlainState *s, uint32_t layer) { return s->values[layer]; }

void plain_truncate(PlainState *s, uint32_t past)
{
    ASSERT(past <= s->past);
    s->past = past;
}

void plain_advance(PlainState *s, size_t rows)
{
    ASSERT(rows <= s->context - s->past);
    s->past += (uint32_t)rows;
}

// ---- who watches -----------------------------------------------------------------------------------------------------

static void show(const PlainState *s, uint32_t layer, Sight what, const float *x, size_t len)
{
    if (s->watch.see) s->watch.see(s->watch.ctx, layer, what, x, len);
}

static void show_residual(PlainState *s, uint32_t layer, const float *x, size_t rows)
{
    if (!s->watch.see) return;
    size_t width = s->model->config.width;
    if (s->model->config.arch == ARCH_GPT2) {
        rows_centre(s->normed, x, rows, width);
        x = s->normed;
    }
    show(s, layer, SEE_RESIDUAL, x, rows * width);
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t i = 0; i < width; i++) sum += (double)x[r * width + i] * (double)x[r * width + i];
        s->score[r] = (float)(sum / (double)width);
    }
    show(s, layer, SEE_MEAN_SQUARE, s->score, rows);
}

// ---- attention -------------------------------------------------------------------------------------------------------

typedef struct Attention { PlainState *s; LayerVariant v; uint32_t layer, start; size_t rows; } Attention;

/* score (rows, ld) := the scores of `rows` queries from row `first` on against n keys from position `at` on. */
static void group_scores(const Attention *t, float *score, size_t ld, uint32_t merged, size_t first, size_t rows, size_t at, size_t n)
{
    const PlainState *s = t->s;
    const ModelConfig *c = &s->model->config;
    size_t dim = c->head_dim, kv = (size_t)c->kv_heads * dim, wide = (size_t)c->heads * dim;
    for (uint32_t i = 0; i < t->v.size; i++) {
        HeadMember m = head_member(&t->v, merged, i);
        product((Product){.turn_b = true, .accumulate = i > 0, .alpha = t->v.scale}, score, ld, s->query + first * wide + m.query, wide,
                s->keys[t->layer] + at * kv + m.key, kv, rows, n, dim);
    }
}

/* One row of a block of scores becomes weights, under the running maximum where they are exponentials. Returns what the row has so
 * far is to be scaled by. */
static float row_weigh(const LayerVariant *v, float *score, size_t visible, size_t n, float *max, float *sum)
{
    float best = *max, shrink = 1;
    if (v->softmax != SOFTMAX_EXP) {
        *sum += v->softmax == SOFTMAX_2QUAD ? row_quad(score, v->shift, visible) : row_relu(score, visible);
        memset(score + visible, 0, (n - visible) * sizeof *score);
        return 1;
    }
    for (size_t j = 0; j < visible; j++) best = score[j] > best ? score[j] : best;
    if (best > *max && *sum > 0) {
        shrink = expf(*max - best);
        *sum *= shrink;
    }
    *max = best;
    if (visible) *sum += exp_shifted(score, best, visible);
    memset(score + visible, 0, (n - visible) * sizeof *score);
    return shrink;
}

/* Rows [first, first + rows) of the chunk, one merged head: mixed = softmax(q K^T scale) V of each of its members. */
static void attend_block(const Attention *t, uint32_t merged, size_t first, size_t rows)
{
    const PlainState *s = t->s;
    const ModelConfig *c = &s->model->config;
    size_t dim = c->head_dim, kv = (size_t)c->kv_heads * dim, wide = (size_t)c->heads * dim, seen = t->start + first + rows;
    float score[BLOCK_ROWS * BLOCK_KEYS], max[BLOCK_ROWS], sum[BLOCK_ROWS] = {0}, shrink[BLOCK_ROWS], *mixed = s->mixed + first * wide;
    for (size_t i = 0; i < rows; i++) max[i] = -INFINITY;
    for (size_t at = 0; at < seen; at += BLOCK_KEYS) {
        size_t n = seen - at < BLOCK_KEYS ? seen - at : BLOCK_KEYS;
        group_scores(t, score, BLOCK_KEYS, merged, first, rows, at, n);
        for (size_t i = 0; i < rows; i++) {
            size_t end = t->start + first + i + 1, visible = end <= at ? 0 : end - at < n ? end - at : n;
            shrink[i] = row_weigh(&t->v, score + i * BLOCK_KEYS, visible, n, &max[i], &sum[i]);
        }
        for (uint32_t k = 0; k < t->v.size; k++) {
            HeadMember m = head_member(&t->v, merged, k);
            for (size_t i = 0; i < rows; i++)
                for (size_t d = 0; d < dim && at > 0 && shrink[i] < 1; d++) mixed[m.query + i * wide + d] *= shrink[i];
            product((Product){.accumulate = at > 0, .alpha = 1}, mixed + m.query, wide, score, BLOCK_KEYS,
                    s->values[t->layer] + at * kv + m.key, kv, rows, dim, n);
        }
    }
    for (uint32_t k = 0; k < t->v.size; k++) {
        HeadMember m = head_member(&t->v, merged, k);
        for (size_t i = 0; i < rows; i++)
            for (size_t d = 0; d < dim; d++) mixed[m.query + i * wide + d] /= sum[i] + (t->v.softmax == SOFTMAX_2RELU ? SOFTMAX_FLOOR : 0);
    }
}

static void attend_tasks(void *ctx, size_t begin, size_t end)
{
    const Attention *t = ctx;
    uint32_t merged = merged_heads(&t->v);
    for (size_t task = begin; task < end; task++) {
        size_t first = task / merged * BLOCK_ROWS, left = t->rows - first;
        attend_block(t, (uint32_t)(task % merged), first, left < BLOCK_ROWS ? left : BLOCK_ROWS);
    }
}

static void attend_show(const Attention *t)
{
    const PlainState *s = t->s;
    for (size_t r = 0; r < t->rows; r++) {
        for (uint32_t h = 0; h < merged_heads(&t->v); h++) {
            size_t seen = t->start + r + 1;
            group_scores(t, s->score, seen, h, r, 1, 0, seen);
            show(s, t->layer, SEE_SCORE, s->score, seen);
        }
    }
}

// ---- a layer ---------------------------------------------------------------------------------------------------------

static const float *quant_gain(const LayerWeights *w, MatrixKind m)
{
    if (m == MAT_Q || m == MAT_K || m == MAT_V) return w->attn_norm;
    return m == MAT_GATE || m == MAT_UP ? w->ffn_norm : NULL;
}

/* out (rows, outputs) = or += (W + scale B A) in + bias. The gain that a quantised W has in it is put on the input of A. */
static void project(PlainState *s, float *out, const float *in, size_t rows, uint32_t layer, MatrixKind m, bool accumulate)
{
    const ModelConfig *c = &s->model->config;
    const LayerWeights *w = &s->model->layer[layer];
    const LoraPair *p = s->adapter ? &s->adapter->pair[layer][m] : NULL;
    uint32_t n = matrix_rows(c, m), k = matrix_cols(c, m);
    if (s->ones) quant_linear(out, in, &w->quant[m], m == MAT_Q ? sqrtf((float)c->head_dim) : 1, rows, n, k, accumulate);
    else linear_forward(out, in, w->mat[m], rows, n, k, accumulate);
    for (size_t i = 0; w->bias[m] && i < rows * n; i++) out[i] += w->bias[m][i % n];
    if (!p || !p->a) return;
    const float *gain = s->ones ? quant_gain(w, m) : NULL;
    for (size_t i = 0; gain && i < rows * k; i++) s->gained[i] = in[i] * gain[i % k];
    linear_forward(s->low, gain ? s->gained : in, p->a, rows, p->rank, k, false);
    show(s, layer, SEE_LOW_RANK, s->low, rows * p->rank);
    for (size_t i = 0; i < rows * p->rank; i++) s->low[i] *= p->scale;
    linear_forward(out, s->low, p->b, rows, n, p->rank, true);
}

/* s->normed := the norm that the architecture has; a quantised base has the gain in its matrices. shift: LayerNorm's. */
static void normalise(PlainState *s, const float *x, const float *gain, const float *shift, size_t rows, NormHold hold)
{
    const ModelConfig *c = &s->model->config;
    if (c->arch == ARCH_GPT2) layernorm_forward(s->normed, x, gain, shift, rows, c->width, c->norm_eps, hold);
    else rmsnorm_held_forward(s->normed, NULL, x, s->ones ? s->ones : gain, rows, c->width, c->norm_eps, hold);
}

/* s->mixed := what the heads gather for x. */
static void layer_attend(PlainState *s, const float *x, size_t rows, uint32_t start, uint32_t layer, const LayerVariant *v)
{
    const ModelConfig *c = &s->model->config;
    size_t kv = (size_t)c->kv_heads * c->head_dim, wide = (size_t)c->heads * c->head_dim;
    float *key = s->keys[layer] + start * kv, *value = s->values[layer] + start * kv;
    show_residual(s, layer, x, rows);
    normalise(s, x, s->model->layer[layer].attn_norm, s->model->layer[layer].attn_shift, rows, v->hold[0]);
    project(s, s->query, s->normed, rows, layer, MAT_Q, false);
    project(s, key, s->normed, rows, layer, MAT_K, false);
    project(s, value, s->normed, rows, layer, MAT_V, false);
    if (c->arch == ARCH_LLAMA) {
        rope_turn(s->query, s->angles, s->position, rows, c->heads, c->head_dim, false);
        rope_turn(key, s->angles, s->position, rows, c->kv_heads, c->head_dim, false);
    }
    show(s, layer, SEE_QUERY, s->query, rows * wide);
    show(s, layer, SEE_KEY, key, rows * kv);
    show(s, layer, SEE_VALUE, value, rows * kv);
    Attention t = {s, *v, layer, start, rows};
    if (s->watch.see) attend_show(&t);
    if (v->pruned) memset(s->mixed, 0, rows * wide * sizeof *s->mixed);
    parallel_for((rows + BLOCK_ROWS - 1) / BLOCK_ROWS * merged_heads(v), 1, attend_tasks, &t);
    show(s, layer, SEE_MIXED, s->mixed, rows * wide);
}

/* s->hidden := what the down projection takes for x. */
static void layer_hidden(PlainState *s, const float *x, size_t rows, uint32_t layer, const LayerVariant *v)
{
    const ModelConfig *c = &s->model->config;
    size_t len = rows * c->ffn;
    show_residual(s, layer, x, rows);
    normalise(s, x, s->model->layer[layer].ffn_norm, s->model->layer[layer].ffn_shift, rows, v->hold[1]);
    project(s, s->gate, s->normed, rows, layer, MAT_GATE, false);
    show(s, layer, SEE_GATE, s->gate, len);
    if (c->arch == ARCH_LLAMA) {
        project(s, s->up, s->normed, rows, layer, MAT_UP, false);
        show(s, layer, SEE_UP, s->up, len);
    }
    const float *up = c->arch == ARCH_LLAMA ? s->up : NULL;
    if (v->activation != ACTIVATION_BASE) gated_forward(s->hidden, s->gate, up, v->activation, len);
    else if (up) swiglu_forward(s->hidden, s->gate, up, len);
    else gelu_forward(s->hidden, s->gate, len);
    show(s, layer, SEE_HIDDEN, s->hidden, len);
}

static void layer_run(PlainState *s, float *x, size_t rows, uint32_t start, uint32_t layer)
{
    LayerVariant v = variant_layer(&s->variant, &s->model->config, layer);
    layer_attend(s, x, rows, start, layer, &v);
    if (!v.side_by_side) project(s, x, s->mixed, rows, layer, MAT_O, true);
    layer_hidden(s, x, rows, layer, &v);
    if (v.side_by_side) project(s, x, s->mixed, rows, layer, MAT_O, true);
    project(s, x, s->hidden, rows, layer, MAT_DOWN, true);
}

// ---- the network -----------------------------------------------------------------------------------------------------

static Result tokens_check(const PlainState *s, const int32_t *tokens, size_t rows)
{
    uint32_t vocab = s->model->config.vocab;
    for (size_t r = 0; r < rows; r++) {
        if (tokens[r] < 0 || (uint32_t)tokens[r] >= vocab) {
            return fail(FAIL_DATA, "token %d is not in the vocabulary of %u", tokens[r], vocab);
        }
    }
    return OK;
}

Result plain_embed(const PlainState *s, float *x, const int32_t *tokens, size_t rows)
{
    size_t width = s->model->config.width;
    GUARD(tokens_check(s, tokens, rows));
    const float *at = s->model->positions ? s->model->positions + s->past * width : NULL;
    if (at && rows > s->context - s->past)
        return fail(FAIL_DATA, "%zu tokens after %u do not fit the context of %u", rows, s->past, s->context);
    for (size_t r = 0; r < rows; r++) {
        size_t id = (size_t)tokens[r];
        if (s->ones) quant_row(x + r * width, &s->model->quant_embed, id, width);
        else memcpy(x + r * width, s->model->embed + id * width, width * sizeof *x);
    }
    for (size_t i = 0; at && i < rows * width; i++) x[i] += at[i];
    return OK;
}

void plain_layers(PlainState *s, float *x, size_t rows, uint32_t from, uint32_t to)
{
    const ModelConfig *c = &s->model->config;
    ASSERT(rows <= s->context - s->past && from <= to && to <= c->layers);
    for (size_t first = 0; first < rows; first += s->chunk) {
        size_t n = rows - first < s->chunk ? rows - first : s->chunk;
        uint32_t start = s->past + (uint32_t)first;
        for (uint32_t i = 0; i < n; i++) s->position[i] = start + i;
        for (uint32_t l = from; l < to; l++) layer_run(s, x + first * c->width, n, start, l);
    }
}

void plain_logits(PlainState *s, float *logits, const float *x, size_t rows)
{
    const ModelConfig *c = &s->model->config;
    for (size_t first = 0; first < rows; first += s->chunk) {
        size_t n = rows - first < s->chunk ? rows - first : s->chunk;
        float *out = logits + first * c->vocab;
        show_residual(s, c->layers, x + first * c->width, n);
        normalise(s, x + first * c->width, s->model->final_norm, NULL, n, (NormHold){0, 0});
        show(s, c->layers, SEE_FINAL, s->normed, n * c->width);
        if (s->ones) quant_linear(out, s->normed, &s->model->quant_head, 1, n, c->vocab, c->width, false);
        else linear_forward(out, s->normed, s->model->head, n, c->vocab, c->width, false);
        show(s, c->layers, SEE_LOGIT, out, n * c->vocab);
        const float *bias = s->model->head_bias;
        for (size_t i = 0; bias && i < n * c->vocab; i++) out[i] += bias[i % c->vocab];
    }
}

Result plain_forward(PlainState *s, float *logits, const int32_t *tokens, size_t rows)
{
    const ModelConfig *c = &s->model->config;
    if (rows > s->context - s->past) {
        return fail(FAIL_DATA, "%zu tokens after %u do not fit the context of %u", rows, s->past, s->context);
    }
    GUARD(tokens_check(s, tokens, rows));
    for (size_t first = 0; first < rows; first += s->chunk) {
        size_t n = rows - first < s->chunk ? rows - first : s->chunk;
        GUARD(plain_embed(s, s->x, tokens + first, n));
        plain_layers(s, s->x, n, 0, c->layers);
        plain_logits(s, logits + first * c->vocab, s->x, n);
        plain_advance(s, n);
    }
    return OK;
}
