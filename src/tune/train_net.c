/* train_net.c - the network over a pack of samples: losses forward, gradients backward.
 *
 * Layer by layer, with the layer's activations kept for the way back. Layers below the cut, and a teacher's, share one set of
 * activations, since nobody comes back for them. Runs on the thread that calls it (see train.h). */
#include "tune/aware.h"
#include "tune/dropout.h"
#include "tune/teacher.h"
#include "tune/train.h"

#include <math.h>
#include <string.h>

// What one layer keeps, each (rows, columns), and the residual stream before and between its halves.
typedef struct LayerActs {
    float *x, *attn_in, *q, *k, *v, *sums, *mixed, *x_mid, *ffn_in, *gate, *up, *hidden;
    float *attn_inv, *ffn_inv;                 // (rows)
    float *low[MAT_COUNT];                     // (rows, rank) scale * A x, x after dropout, where there are factors
} LayerActs;

struct NetScratch {
    size_t rows;
    LayerActs below, *layer;                   // layer[l] for l >= first; `below` serves the others
    float *x, *d_x, *d_norm, *d_q, *d_k, *d_v, *d_mixed, *d_gate, *d_up, *d_hidden, *d_low;
    float *dropped, *d_dropped;                // (rows, most columns) the input of factors after dropout; NULL without
    float *work, *logits;                      // attention; (HEAD_ROWS, vocab)
    float *top, *top_norm, *top_inv, *d_top, *d_top_norm;          // the learned rows alone
    float *work_rows;                          // (2, vocab) of the divergence from a teacher
    uint32_t *count_up;                        // (rows) 0, 1, 2, ..
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
    p->source = arena_new(a, size_t, rows);
    p->noise = arena_new(a, uint64_t, rows);
    p->coin = arena_new(a, uint64_t, rows);
    p->cut = arena_new(a, const float *, rows);
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
        p->source[p->samples] = taken, p->noise[p->samples] = p->coin[p->samples] = 0, p->cut[p->samples] = NULL;
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
    s->work_rows = arena_new(a, float, (size_t)2 * c->vocab);
    s->count_up = arena_new(a, uint32_t, rows);
    for (size_t i = 0; i < rows; i++) s->count_up[i] = (uint32_t)i;
    if (n->adapter && n->dropout > 0) {
        size_t columns = c->ffn > q ? c->ffn : q;
        if (c->width > columns) columns = c->width;
        s->dropped = arena_new(a, float, rows * columns);
        s->d_dropped = arena_new(a, float, rows * columns);
    }
    return s;
}

// ---- one matrix, with its low-rank factors ---------------------------------------------------------------------------

/* The input of a matrix's factors: dropped anew for each matrix, as PEFT does; the masks follow from the samples' noise. */
static const float *factor_input(const Net *n, const NetScratch *s, uint32_t layer, MatrixKind m, const float *in, const Pack *p)
{
    if (!s->dropped) return in;
    dropout_apply(s->dropped, in, p, (uint64_t)layer * MAT_COUNT + m, matrix_cols(&n->model->config, m), n->dropout);
    return s->dropped;
}

static unsigned linear_how(const Net *n, bool add)
{
    return (add ? LINEAR_ADD : 0) | (n->bf16 ? LINEAR_BF16 : 0);
}

/* out (rows, n) = or += in W^T + (scale in A^T) B^T. */
static void project(const Net *n, const NetScratch *s, const LayerActs *acts, uint32_t layer, MatrixKind m, float *out, const float *in,
                    const Pack *p, bool accumulate)
{
    const ModelConfig *c = &n->model->config;
    size_t outs = matrix_rows(c, m), ins = matrix_cols(c, m);
    linear_forward(out, in, n->model->layer[layer].mat[m], p->rows, outs, ins, linear_how(n, accumulate));
    const LoraPair *pair = pair_of(n, layer, m);
    if (!pair) return;
    linear_forward(acts->low[m], factor_input(n, s, layer, m, in, p), pair->a, p->rows, pair->rank, ins, linear_how(n, false));
    vector_scale(acts->low[m], pair->scale, p->rows * pair->rank);
    linear_forward(out, acts->low[m], pair->b, p->rows, outs, pair->rank, linear_how(n, true));
}

/* d_in = or += the gradient through W and the factors (NULL: nobody needs it). */
static void project_backward(const Net *n, NetScratch *s, uint32_t layer, MatrixKind m, const LayerGrads *g, float *d_in,
                             const float *d_out, const float *in, const Pack *p, bool accumulate)
{
    const ModelConfig *c = &n->model->config;
    size_t outs = matrix_rows(c, m), ins = matrix_cols(c, m);
    linear_backward(d_in, g->mat[m], d_out, in, n->model->layer[layer].mat[m], p->rows, outs, ins, linear_how(n, accumulate));
    const LoraPair *pair = pair_of(n, layer, m);
    if (!pair) return;
    const float *dropped = factor_input(n, s, layer, m, in, p);
    linear_backward(s->d_low, g->b[m], d_out, s->layer[layer].low[m], pair->b, p->rows, outs, pair->rank, linear_how(n, false));
    vector_scale(s->d_low, pair->scale, p->rows * pair->rank);
    if (!s->dropped) {
        linear_backward(d_in, g->a[m], s->d_low, in, pair->a, p->rows, pair->rank, ins, linear_how(n, true));
        return;
    }
    linear_backward(d_in ? s->d_dropped : NULL, g->a[m], s->d_low, dropped, pair->a, p->rows, pair->rank, ins, linear_how(n, false));
    if (d_in) dropout_add(d_in, s->d_dropped, p, (uint64_t)layer * MAT_COUNT + m, ins, n->dropout);
}

// ---- one layer -------------------------------------------------------------------------------------------------------

static Attention attention_of(const Net *n, const NetScratch *s, const LayerActs *a, const LayerVariant *how, uint32_t layer, const Pack *p)
{
    const EmulatedLayer *secure = aware_layer(n, layer);
    if (secure && (!secure->exp.line || how->softmax != SOFTMAX_EXP)) secure = NULL;
    return (Attention){a->q, a->k, a->v, p, &n->model->config, *how, n->row_slack, secure, layer, s->work};
}

static void hidden_forward(const Net *n, const LayerActs *a, const LayerVariant *how, uint32_t layer, const Pack *p)
{
    size_t columns = n->model->config.ffn, len = p->rows * columns;
    const EmulatedLayer *secure = aware_layer(n, layer);
    if (secure) aware_round(a->up, p, layer, SITE_UP, columns, secure->up);
    if (secure && secure->gate.line) aware_gated(a->hidden, a->gate, a->up, p, layer, columns, &secure->gate);
    else if (how->activation == ACTIVATION_BASE) swiglu_forward(a->hidden, a->gate, a->up, len);
    else gated_forward(a->hidden, a->gate, a->up, how->activation, len);
}

/* Queries, keys and values, as they are opened. */
static void attended_round(const Net *n, const LayerActs *a, uint32_t layer, const Pack *p)
{
    const ModelConfig *c = &n->model->config;
    const EmulatedLayer *secure = aware_layer(n, layer);
    if (!secure) return;
    aware_round(a->q, p, layer, SITE_QUERY, (size_t)c->heads * c->head_dim, secure->query);
    aware_round(a->k, p, layer, SITE_KEY, (size_t)c->kv_heads * c->head_dim, secure->key);
    aware_round(a->v, p, layer, SITE_VALUE, (size_t)c->kv_heads * c->head_dim, secure->value);
}

/* out (rows, width): the residual stream after the layer; may be a->x. */
static void layer_forward(const Net *n, NetScratch *s, const LayerActs *a, uint32_t layer, float *out, const Pack *p)
{
    const ModelConfig *c = &n->model->config;
    const LayerWeights *w = &n->model->layer[layer];
    const LayerVariant how = variant_layer(n->variant, c, layer);
    const Attention t = attention_of(n, s, a, &how, layer, p);
    const EmulatedLayer *secure = aware_layer(n, layer);
    size_t rows = p->rows, bytes = rows * c->width * sizeof *out;
    rmsnorm_held_forward(a->attn_in, a->attn_inv, a->x, w->attn_norm, rows, c->width, c->norm_eps, how.hold[0]);
    project(n, s, a, layer, MAT_Q, a->q, a->attn_in, p, false);
    project(n, s, a, layer, MAT_K, a->k, a->attn_in, p, false);
    project(n, s, a, layer, MAT_V, a->v, a->attn_in, p, false);
    rope_turn(a->q, n->rope, p->position, rows, c->heads, c->head_dim, false);
    rope_turn(a->k, n->rope, p->position, rows, c->kv_heads, c->head_dim, false);
    attended_round(n, a, layer, p);
    s->excess += attention_forward(a->mixed, a->sums, &t);
    s->bounded += how.row_bound ? merged_heads(&how) : 0;
    if (secure) aware_round(a->mixed, p, layer, SITE_MIXED, (size_t)c->heads * c->head_dim, secure->attention);
    memcpy(a->x_mid, a->x, bytes);
    project(n, s, a, layer, MAT_O, a->x_mid, a->mixed, p, true);
    if (secure) aware_round(a->x_mid, p, layer, SITE_MIDDLE, c->width, secure->residual);
    const float *entry = how.side_by_side ? a->x : a->x_mid;
    rmsnorm_held_forward(a->ffn_in, a->ffn_inv, entry, w->ffn_norm, rows, c->width, c->norm_eps, how.hold[1]);
    project(n, s, a, layer, MAT_GATE, a->gate, a->ffn_in, p, false);
    project(n, s, a, layer, MAT_UP, a->up, a->ffn_in, p, false);
    hidden_forward(n, a, &how, layer, p);
    memcpy(out, a->x_mid, bytes);
    project(n, s, a, layer, MAT_DOWN, out, a->hidden, p, true);
    if (secure) aware_round(out, p, layer, SITE_EXIT, c->width, secure->residual);
}

/* d_x: what comes back through the FFN added to it. row_share: what a row counts in the objective. */
static void ffn_backward(const Net *n, NetScratch *s, uint32_t layer, const LayerVariant *how, const LayerGrads *g, const Pack *p,
                         float row_share)
{
    const ModelConfig *c = &n->model->config;
    const LayerWeights *w = &n->model->layer[layer];
    const LayerActs *a = &s->layer[layer];
    size_t rows = p->rows, len = rows * c->ffn;
    project_backward(n, s, layer, MAT_DOWN, g, s->d_hidden, s->d_x, a->hidden, p, false);
    const EmulatedLayer *secure = aware_layer(n, layer);
    if (secure && secure->gate.line) {
        aware_gated_backward(s->d_gate, s->d_up, s->d_hidden, a->gate, a->up, p, layer, c->ffn, &secure->gate);
        aware_pull(s->d_gate, a->gate, len, secure->gate_most, row_share * n->secure->range_weight);
    } else if (how->activation == ACTIVATION_BASE) swiglu_backward(s->d_gate, s->d_up, s->d_hidden, a->gate, a->up, len);
    else gated_backward(s->d_gate, s->d_up, s->d_hidden, a->gate, a->up, how->activation, len);
    project_backward(n, s, layer, MAT_GATE, g, s->d_norm, s->d_gate, a->ffn_in, p, false);
    project_backward(n, s, layer, MAT_UP, g, s->d_norm, s->d_up, a->ffn_in, p, true);
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
    const Attention t = attention_of(n, s, a, how, layer, p);
    size_t rows = p->rows;
    attention_backward(&(AttentionGrads){s->d_q, s->d_k, s->d_v, s->d_mixed, a->mixed, a->sums}, &t, row_weight);
    rope_turn(s->d_q, n->rope, p->position, rows, c->heads, c->head_dim, true);
    rope_turn(s->d_k, n->rope, p->position, rows, c->kv_heads, c->head_dim, true);
    bool lowest = n->adapter && layer == n->first;           // where no norm is a parameter either
    float *d_norm = lowest ? NULL : s->d_norm;
    project_backward(n, s, layer, MAT_Q, g, d_norm, s->d_q, a->attn_in, p, false);
    project_backward(n, s, layer, MAT_K, g, d_norm, s->d_k, a->attn_in, p, true);
    project_backward(n, s, layer, MAT_V, g, d_norm, s->d_v, a->attn_in, p, true);
    if (!lowest) rmsnorm_held_backward(s->d_x, g->attn_norm, s->d_norm, a->x, w->attn_norm, a->attn_inv, rows, c->width, how->hold[0]);
}

/* d_x: from the gradient after the layer to the one before it; left unfinished at the lowest layer where factors are tuned. */
static void layer_backward(const Net *n, NetScratch *s, uint32_t layer, const LayerGrads *g, const Pack *p, float row_weight,
                           float row_share)
{
    const LayerVariant how = variant_layer(n->variant, &n->model->config, layer);
    const float *mixed = s->layer[layer].mixed;
    if (how.side_by_side) project_backward(n, s, layer, MAT_O, g, s->d_mixed, s->d_x, mixed, p, false);
    ffn_backward(n, s, layer, &how, g, p, row_share);
    if (!how.side_by_side) project_backward(n, s, layer, MAT_O, g, s->d_mixed, s->d_x, mixed, p, false);
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

static void head_row(NetScratch *s, float *logits, float *teacher /* its logits, or NULL */, uint32_t vocab, int32_t target,
                     const Objective *o, Losses *sum)
{
    if (!teacher) {
        sum->labels += entropy_row(logits, vocab, target, o->labels);
        return;
    }
    float *own = s->work_rows;
    memcpy(own, logits, vocab * sizeof *own);
    if (o->labels > 0) sum->labels += entropy_row(logits, vocab, target, o->labels);
    else memset(logits, 0, vocab * sizeof *logits);
    sum->logits += divergence_row(logits, own, teacher, own + vocab, vocab, o->temperature, o->logits);
}

/* The logits of learned rows begin..begin+count, their losses, and the gradients of the head. */
static void head_chunk(const Net *n, NetScratch *s, const int32_t *target, size_t begin, size_t count, const Objective *o, const Grads *g,
                       Losses *sum)
{
    const ModelConfig *c = &n->model->config;
    const float *in = s->top_norm + begin * c->width;
    linear_forward(s->logits, in, n->model->head, count, c->vocab, c->width, linear_how(n, false));
    float *taught = o->logits > 0 ? teacher_logits(o->teacher, begin, count) : NULL;
    for (size_t i = 0; i < count; i++)
        head_row(s, s->logits + i * c->vocab, taught ? taught + i * c->vocab : NULL, c->vocab, target[i], o, sum);
    if (g)
        linear_backward(s->d_top_norm + begin * c->width, g->head, s->logits, in, n->model->head, count, c->vocab, c->width,
                        linear_how(n, false));
}

size_t rows_learned(float *out, const float *x, const Pack *p, size_t width)
{
    size_t learned = 0;
    for (size_t r = 0; r < p->rows; r++)
        if (p->target[r] >= 0) memcpy(out + learned++ * width, x + r * width, width * sizeof *out);
    return learned;
}

/* Losses of the learned rows of s->x, which are gathered first; d_x is set. */
static void head_run(const Net *n, NetScratch *s, const Pack *p, const Objective *o, const Grads *g, Losses *sum)
{
    const ModelConfig *c = &n->model->config;
    size_t width = c->width, bytes = width * sizeof *s->x, learned = rows_learned(s->top, s->x, p, width);
    rmsnorm_forward(s->top_norm, s->top_inv, s->top, n->model->final_norm, learned, width, c->norm_eps);
    int32_t target[HEAD_ROWS];
    for (size_t r = 0, begin = 0; begin < learned;) {
        size_t count = 0;
        for (; r < p->rows && count < HEAD_ROWS; r++)
            if (p->target[r] >= 0) target[count++] = p->target[r];
        head_chunk(n, s, target, begin, count, o, g, sum);
        begin += count;
    }
    if (!g) return;
    memset(s->d_top, 0, learned * bytes);
    rmsnorm_backward(s->d_top, g->final_norm, s->d_top_norm, s->top, n->model->final_norm, s->top_inv, learned, width);
    for (size_t r = 0, at = 0; r < p->rows; r++) {
        if (p->target[r] >= 0) memcpy(s->d_x + r * width, s->d_top + at++ * width, bytes);
        else memset(s->d_x + r * width, 0, bytes);
    }
}

double net_row_penalty(const NetScratch *s) { return s->row_penalty; }

// ---- the whole -------------------------------------------------------------------------------------------------------

void net_embed(const Model *m, float *x, const int32_t *tokens, size_t rows)
{
    size_t width = m->config.width;
    for (size_t r = 0; r < rows; r++) {
        ASSERT(tokens[r] >= 0 && (uint32_t)tokens[r] < m->config.vocab);
        memcpy(x + r * width, m->embed + (size_t)tokens[r] * width, width * sizeof *x);
    }
}

void net_forward(const Net *n, NetScratch *s, uint32_t layer, float *out, const float *in, const Pack *p)
{
    LayerActs acts = s->below;
    acts.x = (float *)(uintptr_t)in;           // a forward pass reads it only
    layer_forward(n, s, &acts, layer, out, p);
}

void net_cut(const Net *n, NetScratch *s, float *out, const int32_t *tokens, size_t rows)
{
    ASSERT(rows <= s->rows);
    size_t start[2] = {0, rows};
    uint64_t noise = 0;
    Pack one = {.rows = rows, .samples = 1, .position = s->count_up, .start = start, .noise = &noise};
    Net exact = *n;
    exact.bf16 = false;                        // whoever keeps the results gets the same ones with gradients and without
    net_embed(n->model, out, tokens, rows);
    for (uint32_t l = 0; l < n->first; l++) net_forward(&exact, s, l, out, out, &one);
}

/* The residual stream at the cut, sample by sample, or the embedding. */
static void cut_fill(const Net *n, NetScratch *s, float *x, const Pack *p)
{
    size_t width = n->model->config.width;
    if (!n->first) net_embed(n->model, x, p->token, p->rows);
    for (size_t i = 0; n->first && i < p->samples; i++) {
        size_t at = p->start[i], rows = p->start[i + 1] - at;
        if (p->cut[i]) memcpy(x + at * width, p->cut[i], rows * width * sizeof *x);
        else net_cut(n, s, x + at * width, p->token + at, rows);
    }
}

static float *residual_after(const Net *n, NetScratch *s, uint32_t layer)
{
    return layer + 1 == n->model->config.layers ? s->x : s->layer[layer + 1].x;
}

Losses net_learn(const Net *net, NetScratch *s, const Pack *p, const Objective *o, const Grads *grads)
{
    Net run = *net, *n = &run;
    run.bf16 = net->bf16 && grads;
    const ModelConfig *c = &n->model->config;
    Losses sum = {0};
    ASSERT(p->rows <= s->rows && (o->teacher || (o->logits <= 0 && o->hidden <= 0)));
    if (!p->rows) return sum;
    float *cut = s->layer[n->first].x;
    cut_fill(n, s, cut, p);
    s->excess = 0, s->bounded = 0;
    if (o->logits > 0 || o->hidden > 0) teacher_run(o->teacher, p, cut);
    const EmulatedLayer *lowest = aware_layer(n, n->first);
    if (lowest) aware_round(cut, p, n->first, SITE_ENTRY, c->width, lowest->residual);
    for (uint32_t l = n->first; l < c->layers; l++) layer_forward(n, s, &s->layer[l], l, residual_after(n, s, l), p);
    if (o->labels > 0 || o->logits > 0 || o->hidden <= 0) head_run(n, s, p, o, grads, &sum);
    else if (grads) memset(s->d_x, 0, p->rows * c->width * sizeof *s->d_x);
    double share = s->bounded ? (double)p->learned / (double)(p->rows * s->bounded) : 0;
    float row_weight = (float)(share * (double)o->row_bound * (double)n->row_weight);
    sum.row_bound = s->row_penalty = s->excess * share;
    for (uint32_t l = c->layers; l-- > n->first;) {
        if (o->hidden > 0)
            sum.hidden += hidden_error(o->teacher, grads ? s->d_x : NULL, residual_after(n, s, l), l, p->rows, o->hidden);
        if (grads) layer_backward(n, s, l, &grads->layer[l], p, row_weight, o->row_bound);
        if (grads && grads->left) grads->left(grads->ctx, l);
    }
    if (!grads || !grads->embed) return sum;
    for (size_t r = 0; r < p->rows; r++) {
        float *d = grads->embed + (size_t)p->token[r] * c->width;
        for (size_t i = 0; i < c->width; i++) d[i] += s->d_x[r * c->width + i];
    }
    return sum;
}

double net_run(const Net *n, NetScratch *s, const Pack *p, const Grads *grads, float weight)
{
    return net_learn(n, s, p, &(Objective){.labels = weight, .row_bound = weight}, grads).labels;
}
