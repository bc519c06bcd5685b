/* train_net.c - the network over a pack of samples: cross-entropy forward, gradients backward.
 *
 * Layer by layer, with the layer's activations kept for the way back. Layers below the cut share one set of activations,
 * since nobody comes back for them. Runs on the thread that calls it (see train.h). */
#include "tune/train.h"

#include <math.h>
#include <string.h>

enum { HEAD_ROWS = 256 };                      // rows whose logits are held at a time

// What one layer keeps, each (rows, columns), and the residual stream before and between its halves.
typedef struct LayerActs {
    float *x, *attn_in, *q, *k, *v, *sums, *mixed, *x_mid, *ffn_in, *gate, *up, *hidden;
    float *attn_inv, *ffn_inv;                 // (rows)
    float *low[MAT_COUNT];                     // (rows, rank) scale * A x, where there are factors
} LayerActs;

struct NetScratch {
    size_t rows;
    LayerActs below, *layer;                   // layer[l] for l >= first; `below` serves the others
    float *x, *d_x, *d_norm, *d_q, *d_k, *d_v, *d_mixed, *d_gate, *d_up, *d_hidden, *d_low;
    float *work, *logits;                      // attention; (HEAD_ROWS, vocab)
    float *top, *top_norm, *top_inv, *d_top, *d_top_norm;          // the learned rows alone
    double excess, row_penalty;                // of the pack's row maxima: squares, added up; see net_row_penalty
    size_t bounded;                            // softmaxes of all layers that have a row bound
};

// ---- scratch ---------------------------------------------------------------------------------------------------------

Pack *pack_new(size_t rows, Arena *a)
{
    Pack *p = arena_new(a, Pack, 1);
    p->token = arena_new(a, int32_t, rows);
    p->target = arena_new(a, int32_t, rows);
    p->position = arena_new(a, uint32_t, rows);
    p->start = arena_new(a, size_t, rows + 1);
    return p;
}

size_t pack_fill(Pack *p, size_t capacity, const Sample *samples, size_t count)
{
    size_t taken = 0;
    p->rows = p->samples = p->learned = 0;
    for (; taken < count; taken++) {
        const Sample *s = &samples[taken];
        size_t rows = s->len ? s->len - 1 : 0;
        ASSERT(rows <= capacity);
        if (p->rows + rows > capacity) break;
        if (!rows) continue;
        p->start[p->samples++] = p->rows;
        for (uint32_t i = 0; i < rows; i++, p->rows++) {
            p->token[p->rows] = s->tokens[i];
            p->target[p->rows] = s->learn[i + 1] ? s->tokens[i + 1] : -1;
            p->position[p->rows] = i;
            p->learned += s->learn[i + 1] != 0;
        }
    }
    p->start[p->samples] = p->rows;
    return taken;
}

static const LoraPair *pair_of(const Net *n, uint32_t layer, MatrixKind m)
{
    const LoraPair *pair = n->adapter && layer >= n->first ? &n->adapter->pair[layer][m] : NULL;
    return pair && pair->a ? pair : NULL;
}

static void acts_new(LayerActs *out, const Net *n, uint32_t layer, size_t rows, Arena *a)
{
    const ModelConfig *c = &n->model->config;
    size_t q = (size_t)c->heads * c->head_dim, k = (size_t)c->kv_heads * c->head_dim;
    out->x = arena_new(a, float, rows * c->width);
    out->attn_in = arena_new(a, float, rows * c->width);
    out->q = arena_new(a, float, rows * q);
    out->k = arena_new(a, float, rows * k);
    out->v = arena_new(a, float, rows * k);
    out->sums = arena_new(a, float, rows * c->heads);
    out->mixed = arena_new(a, float, rows * q);
    out->x_mid = arena_new(a, float, rows * c->width);
    out->ffn_in = arena_new(a, float, rows * c->width);
    out->gate = arena_new(a, float, rows * c->ffn);
    out->up = arena_new(a, float, rows * c->ffn);
    out->hidden = arena_new(a, float, rows * c->ffn);
    out->attn_inv = arena_new(a, float, rows);
    out->ffn_inv = arena_new(a, float, rows);
    for (MatrixKind m = 0; m < MAT_COUNT && layer < c->layers; m++)
        if (pair_of(n, layer, m)) out->low[m] = arena_new(a, float, rows * pair_of(n, layer, m)->rank);
}

static size_t largest_rank(const Net *n)
{
    size_t rank = 0;
    for (uint32_t l = n->first; l < n->model->config.layers; l++)
        for (MatrixKind m = 0; m < MAT_COUNT; m++)
            if (pair_of(n, l, m) && pair_of(n, l, m)->rank > rank) rank = pair_of(n, l, m)->rank;
    return rank;
}

NetScratch *net_scratch(const Net *n, size_t rows, Arena *a)
{
    const ModelConfig *c = &n->model->config;
    size_t q = (size_t)c->heads * c->head_dim, k = (size_t)c->kv_heads * c->head_dim, wide = rows * c->width;
    NetScratch *s = arena_new(a, NetScratch, 1);
    s->rows = rows;
    s->layer = arena_new(a, LayerActs, c->layers);
    if (n->first) acts_new(&s->below, n, c->layers, rows, a);
    for (uint32_t l = n->first; l < c->layers; l++) acts_new(&s->layer[l], n, l, rows, a);
    s->x = arena_new(a, float, wide);
    s->d_x = arena_new(a, float, wide);
    s->d_norm = arena_new(a, float, wide);
    s->d_q = arena_new(a, float, rows * q);
    s->d_k = arena_new(a, float, rows * k);
    s->d_v = arena_new(a, float, rows * k);
    s->d_mixed = arena_new(a, float, rows * q);
    s->d_gate = arena_new(a, float, rows * c->ffn);
    s->d_up = arena_new(a, float, rows * c->ffn);
    s->d_hidden = arena_new(a, float, rows * c->ffn);
    s->d_low = arena_new(a, float, rows * largest_rank(n));
    s->work = arena_new(a, float, (size_t)2 * ATTENTION_BLOCK * rows);
    s->logits = arena_new(a, float, (size_t)HEAD_ROWS * c->vocab);
    s->top = arena_new(a, float, wide);
    s->top_norm = arena_new(a, float, wide);
    s->top_inv = arena_new(a, float, rows);
    s->d_top = arena_new(a, float, wide);
    s->d_top_norm = arena_new(a, float, wide);
    return s;
}

// ---- one matrix, with its low-rank factors ---------------------------------------------------------------------------

/* out (rows, n) = or += in W^T + (scale in A^T) B^T. */
static void project(const Net *n, const LayerActs *acts, uint32_t layer, MatrixKind m, float *out, const float *in, size_t rows,
                    bool accumulate)
{
    const ModelConfig *c = &n->model->config;
    size_t outs = matrix_rows(c, m), ins = matrix_cols(c, m);
    linear_forward(out, in, n->model->layer[layer].mat[m], rows, outs, ins, accumulate);
    const LoraPair *pair = pair_of(n, layer, m);
    if (!pair) return;
    linear_forward(acts->low[m], in, pair->a, rows, pair->rank, ins, false);
    vector_scale(acts->low[m], pair->scale, rows * pair->rank);
    linear_forward(out, acts->low[m], pair->b, rows, outs, pair->rank, true);
}

/* d_in = or += the gradient through W and the factors (NULL: nobody needs it). */
static void project_backward(const Net *n, NetScratch *s, uint32_t layer, MatrixKind m, const LayerGrads *g, float *d_in,
                             const float *d_out, const float *in, size_t rows, bool accumulate)
{
    const ModelConfig *c = &n->model->config;
    size_t outs = matrix_rows(c, m), ins = matrix_cols(c, m);
    linear_backward(d_in, g->mat[m], d_out, in, n->model->layer[layer].mat[m], rows, outs, ins, accumulate);
    const LoraPair *pair = pair_of(n, layer, m);
    if (!pair) return;
    linear_backward(s->d_low, g->b[m], d_out, s->layer[layer].low[m], pair->b, rows, outs, pair->rank, false);
    vector_scale(s->d_low, pair->scale, rows * pair->rank);
    linear_backward(d_in, g->a[m], s->d_low, in, pair->a, rows, pair->rank, ins, true);
}

// ---- one layer -------------------------------------------------------------------------------------------------------

static Attention attention_of(const Net *n, const NetScratch *s, const LayerActs *a, const LayerVariant *how, const Pack *p)
{
    return (Attention){a->q, a->k, a->v, p, &n->model->config, *how, n->row_slack, s->work};
}

static void hidden_forward(const LayerActs *a, const LayerVariant *how, size_t len)
{
    if (how->activation == ACTIVATION_BASE) swiglu_forward(a->hidden, a->gate, a->up, len);
    else gated_forward(a->hidden, a->gate, a->up, how->activation, len);
}

/* out (rows, width): the residual stream after the layer; may be a->x. */
static void layer_forward(const Net *n, NetScratch *s, const LayerActs *a, uint32_t layer, float *out, const Pack *p)
{
    const ModelConfig *c = &n->model->config;
    const LayerWeights *w = &n->model->layer[layer];
    const LayerVariant how = variant_layer(n->variant, c, layer);
    const Attention t = attention_of(n, s, a, &how, p);
    size_t rows = p->rows, bytes = rows * c->width * sizeof *out;
    rmsnorm_held_forward(a->attn_in, a->attn_inv, a->x, w->attn_norm, rows, c->width, c->norm_eps, how.hold[0]);
    project(n, a, layer, MAT_Q, a->q, a->attn_in, rows, false);
    project(n, a, layer, MAT_K, a->k, a->attn_in, rows, false);
    project(n, a, layer, MAT_V, a->v, a->attn_in, rows, false);
    rope_turn(a->q, n->rope, p->position, rows, c->heads, c->head_dim, false);
    rope_turn(a->k, n->rope, p->position, rows, c->kv_heads, c->head_dim, false);
    s->excess += attention_forward(a->mixed, a->sums, &t);
    s->bounded += how.row_bound ? merged_heads(&how) : 0;
    memcpy(a->x_mid, a->x, bytes);
    project(n, a, layer, MAT_O, a->x_mid, a->mixed, rows, true);
    const float *entry = how.side_by_side ? a->x : a->x_mid;
    rmsnorm_held_forward(a->ffn_in, a->ffn_inv, entry, w->ffn_norm, rows, c->width, c->norm_eps, how.hold[1]);
    project(n, a, layer, MAT_GATE, a->gate, a->ffn_in, rows, false);
    project(n, a, layer, MAT_UP, a->up, a->ffn_in, rows, false);
    hidden_forward(a, &how, rows * c->ffn);
    memcpy(out, a->x_mid, bytes);
    project(n, a, layer, MAT_DOWN, out, a->hidden, rows, true);
}

/* d_x: what comes back through the FFN added to it. */
static void ffn_backward(const Net *n, NetScratch *s, uint32_t layer, const LayerVariant *how, const LayerGrads *g, size_t rows)
{
    const ModelConfig *c = &n->model->config;
    const LayerWeights *w = &n->model->layer[layer];
    const LayerActs *a = &s->layer[layer];
    size_t len = rows * c->ffn;
    project_backward(n, s, layer, MAT_DOWN, g, s->d_hidden, s->d_x, a->hidden, rows, false);
    if (how->activation == ACTIVATION_BASE) swiglu_backward(s->d_gate, s->d_up, s->d_hidden, a->gate, a->up, len);
    else gated_backward(s->d_gate, s->d_up, s->d_hidden, a->gate, a->up, how->activation, len);
    project_backward(n, s, layer, MAT_GATE, g, s->d_norm, s->d_gate, a->ffn_in, rows, false);
    project_backward(n, s, layer, MAT_UP, g, s->d_norm, s->d_up, a->ffn_in, rows, true);
    const float *entry = how->side_by_side ? a->x : a->x_mid;
    rmsnorm_held_backward(s->d_x, g->ffn_norm, s->d_norm, entry, w->ffn_norm, a->ffn_inv, rows, c->width, how->hold[1]);
}

/* d_x: what comes back from d_mixed added to it, unless nobody needs it. */
static void attend_backward(const Net *n, NetScratch *s, uint32_t layer, const LayerVariant *how, const LayerGrads *g, const Pack *p,
                            float row_weight)
{
    const ModelConfig *c = &n->model->config;
    const LayerWeights *w = &n->model->layer[layer];
    const LayerActs *a = &s->layer[layer];
    const Attention t = attention_of(n, s, a, how, p);
    size_t rows = p->rows;
    attention_backward(&(AttentionGrads){s->d_q, s->d_k, s->d_v, s->d_mixed, a->mixed, a->sums}, &t, row_weight);
    rope_turn(s->d_q, n->rope, p->position, rows, c->heads, c->head_dim, true);
    rope_turn(s->d_k, n->rope, p->position, rows, c->kv_heads, c->head_dim, true);
    bool lowest = n->adapter && layer == n->first;
    float *d_norm = lowest ? NULL : s->d_norm;
    project_backward(n, s, layer, MAT_Q, g, d_norm, s->d_q, a->attn_in, rows, false);
    project_backward(n, s, layer, MAT_K, g, d_norm, s->d_k, a->attn_in, rows, true);
    project_backward(n, s, layer, MAT_V, g, d_norm, s->d_v, a->attn_in, rows, true);
    if (!lowest) rmsnorm_held_backward(s->d_x, g->attn_norm, s->d_norm, a->x, w->attn_norm, a->attn_inv, rows, c->width, how->hold[0]);
}

/* d_x: from the gradient after the layer to the one before it; left unfinished at the lowest layer of a tuning. */
static void layer_backward(const Net *n, NetScratch *s, uint32_t layer, const LayerGrads *g, const Pack *p, float row_weight)
{
    const LayerVariant how = variant_layer(n->variant, &n->model->config, layer);
    const float *mixed = s->layer[layer].mixed;
    if (how.side_by_side) project_backward(n, s, layer, MAT_O, g, s->d_mixed, s->d_x, mixed, p->rows, false);
    ffn_backward(n, s, layer, &how, g, p->rows);
    if (!how.side_by_side) project_backward(n, s, layer, MAT_O, g, s->d_mixed, s->d_x, mixed, p->rows, false);
    attend_backward(n, s, layer, &how, g, p, row_weight);
}

// ---- head ------------------------------------------------------------------------------------------------------------

/* logits (vocab) become the gradient of weight * cross-entropy; returns the cross-entropy. */
static double entropy_row(float *logits, uint32_t vocab, int32_t target, float weight)
{
    ASSERT(target >= 0 && (uint32_t)target < vocab);
    float top = vector_largest(logits, vocab);
    double at = (double)logits[target] - (double)top;
    float sum = exp_shifted(logits, top, vocab);
    vector_scale(logits, weight / sum, vocab);
    logits[target] -= weight;
    return log((double)sum) - at;
}

/* The logits of learned rows begin..begin+count, their losses, and the gradients of the head. */
static double head_chunk(const Net *n, NetScratch *s, const int32_t *target, size_t begin, size_t count, const Grads *g, float weight)
{
    const ModelConfig *c = &n->model->config;
    const float *in = s->top_norm + begin * c->width;
    double loss = 0;
    linear_forward(s->logits, in, n->model->head, count, c->vocab, c->width, false);
    for (size_t i = 0; i < count; i++) loss += entropy_row(s->logits + i * c->vocab, c->vocab, target[i], weight);
    if (g) linear_backward(s->d_top_norm + begin * c->width, g->head, s->logits, in, n->model->head, count, c->vocab, c->width, false);
    return loss;
}

/* Loss of the learned rows of s->x, which are gathered first; d_x is set. */
static double head_run(const Net *n, NetScratch *s, const Pack *p, const Grads *g, float weight)
{
    const ModelConfig *c = &n->model->config;
    size_t width = c->width, bytes = width * sizeof *s->x, learned = 0;
    for (size_t r = 0; r < p->rows; r++)
        if (p->target[r] >= 0) memcpy(s->top + learned++ * width, s->x + r * width, bytes);
    rmsnorm_forward(s->top_norm, s->top_inv, s->top, n->model->final_norm, learned, width, c->norm_eps);
    double loss = 0;
    int32_t target[HEAD_ROWS];
    for (size_t r = 0, begin = 0; begin < learned;) {
        size_t count = 0;
        for (; r < p->rows && count < HEAD_ROWS; r++)
            if (p->target[r] >= 0) target[count++] = p->target[r];
        loss += head_chunk(n, s, target, begin, count, g, weight);
        begin += count;
    }
    if (!g) return loss;
    memset(s->d_top, 0, learned * bytes);
    rmsnorm_backward(s->d_top, g->final_norm, s->d_top_norm, s->top, n->model->final_norm, s->top_inv, learned, width);
    for (size_t r = 0, at = 0; r < p->rows; r++) {
        if (p->target[r] >= 0) memcpy(s->d_x + r * width, s->d_top + at++ * width, bytes);
        else memset(s->d_x + r * width, 0, bytes);
    }
    return loss;
}

double net_row_penalty(const NetScratch *s) { return s->row_penalty; }

// ---- the whole -------------------------------------------------------------------------------------------------------

double net_run(const Net *n, NetScratch *s, const Pack *p, const Grads *grads, float weight)
{
    const ModelConfig *c = &n->model->config;
    ASSERT(p->rows <= s->rows);
    if (!p->rows) return 0;
    float *x = n->first ? s->below.x : s->layer[0].x;
    s->excess = 0, s->bounded = 0;
    for (size_t r = 0; r < p->rows; r++) {
        ASSERT(p->token[r] >= 0 && (uint32_t)p->token[r] < c->vocab);
        memcpy(x + r * c->width, n->model->embed + (size_t)p->token[r] * c->width, c->width * sizeof *x);
    }
    for (uint32_t l = 0; l < c->layers; l++) {
        const LayerActs *acts = l < n->first ? &s->below : &s->layer[l];
        float *out = l + 1 == c->layers ? s->x : l + 1 < n->first ? s->below.x : s->layer[l + 1].x;
        layer_forward(n, s, acts, l, out, p);
    }
    double loss = head_run(n, s, p, grads, weight), share = s->bounded ? (double)p->learned / (double)(p->rows * s->bounded) : 0;
    s->row_penalty = s->excess * share;
    if (!grads) return loss;
    float row_weight = (float)(share * (double)weight * (double)n->row_weight);
    for (uint32_t l = c->layers; l-- > n->first;) layer_backward(n, s, l, &grads->layer[l], p, row_weight);
    if (grads->embed) {
        for (size_t r = 0; r < p->rows; r++) {
            float *d = grads->embed + (size_t)p->token[r] * c->width;
            for (size_t i = 0; i < c->width; i++) d[i] += s->d_x[r * c->width + i];
        }
    }
    return loss;
}
