/* calibrate.c - makes a plan by watching the floating-point network on text.
 *
 * The text is cut into windows of the planned context, each behind a BOS token, whose position both sides know: what is
 * computed there in floats alone (residual, norms, queries, FFN) is left out of the ranges, and its keys and values, which
 * enter the secure layers, are kept. Known positions are also where models keep their massive activations. */
#include <math.h>
#include <string.h>
#include "model/secure_parts.h"

enum { CHUNK = 64, LEAST_TOKENS = 16 };

typedef struct Watcher {
    const Model *m;
    const Adapter *a;
    const Plan *p;
    PlanSeen *seen;
    uint32_t layer;
    int half;                                  // of the layer that is being run
    int factor;                                // adapted matrices of it seen so far
    uint32_t softmax;                          // softmaxes of it seen so far: a row's heads one after the other
    uint32_t known;                            // rows of the chunk that are known: left out
    double rms[CHUNK];                         // of the rows, at the last norm
    double (*bias)[MAT_COUNT];                 // (secure layers) the largest, as it is folded; all 0 for a Llama
    const uint32_t *(*kept)[MAT_COUNT];        // (secure layers) of rows or columns, those of the heads that are left: see kept_heads
    float *left;                               // (CHUNK, heads * head_dim)
} Watcher;

static void most(double *at, double v)
{
    if (fabs(v) > *at) *at = fabs(v);
}

/* The largest magnitude over the rows that count; scaled: times the row's rms, as it is before the norm divides. */
static double rows_most(const Watcher *w, const float *x, size_t len, size_t columns, bool scaled)
{
    double v = 0;
    for (size_t i = w->known * columns; i < len; i++) most(&v, (double)x[i] * (scaled ? w->rms[i / columns] : 1));
    return v;
}

/* W x is smaller by at most the bias than what is seen, which has it. */
static double rows_bias(const Watcher *w, MatrixKind kind, size_t rows)
{
    double v = 0;
    for (size_t i = w->known; i < rows; i++) most(&v, w->rms[i] * w->bias[w->layer - w->p->frozen][kind]);
    return v;
}

/* RoPE turns pairs: a pair's norm bounds both of its members before and after. */
static double pairs_most(const Watcher *w, const float *x, size_t len, size_t columns, size_t from, bool scaled)
{
    size_t half = w->m->config.head_dim / 2;
    double v = 0;
    for (size_t i = from * columns; i < len; i++) {
        if (i % (2 * half) >= half) continue;
        double norm = hypot((double)x[i], (double)x[i + half]);
        most(&v, norm * (scaled ? w->rms[i / columns] : 1));
    }
    return v;
}

static void see_residual(Watcher *w, uint32_t layer, const float *x, size_t len)
{
    const ModelConfig *c = &w->m->config;
    w->half = layer == w->layer ? FFN : ATTN, w->layer = layer, w->factor = w->half == ATTN ? 0 : 4;
    double size = rows_most(w, x, len, c->width, false);
    if (layer == c->layers) most(&w->seen->residual, size);
    if (layer == c->layers || layer < w->p->frozen) return;
    LayerSeen *l = &w->seen->layer[layer - w->p->frozen];
    most(&l->residual, size);
    for (size_t r = w->known; r < len / c->width; r++) {
        const float *row = x + r * c->width;
        double sum = 0, largest = 0;
        for (size_t i = 0; i < c->width; i++) sum += (double)row[i] * (double)row[i], most(&largest, (double)row[i]);
        most(&l->normed[w->half], largest / sqrt(sum / c->width + (double)c->norm_eps));
    }
}

static void see_squares(Watcher *w, const float *x, size_t rows)
{
    const ModelConfig *c = &w->m->config;
    PlanSeen *s = w->seen;
    bool final = w->layer == c->layers;
    LayerSeen *l = !final && w->layer >= w->p->frozen ? &s->layer[w->layer - w->p->frozen] : NULL;
    double *low = final ? &s->square_low : l ? &l->square_low[w->half] : NULL;
    double *high = final ? &s->square_high : l ? &l->square_high[w->half] : NULL;
    for (size_t r = 0; r < rows; r++) {
        double v = (double)x[r] + (double)c->norm_eps;
        w->rms[r] = w->p->norm && !final ? 1 : sqrt(v);         // what a held norm multiplies by is in x already
        if (!low || r < w->known) continue;
        *low = fmin(*low, v), *high = fmax(*high, v);
    }
}

/* A x of the next adapted matrix, as its factors will be balanced; behind a norm, as it is before the division. */
static void see_low_rank(Watcher *w, LayerSeen *l, const float *x, size_t len)
{
    const LoraPair *pair = NULL;
    while (w->factor < MAT_COUNT && !(pair = &w->a->pair[w->layer][w->factor])->a) w->factor++;
    MatrixKind kind = (MatrixKind)w->factor++;
    if (kind >= MAT_COUNT || kind == MAT_O || kind == MAT_DOWN) return;
    for (uint32_t j = 0; j < pair->rank; j++) {
        double balance = ldexp(1, factor_balance(w->p, w->m, w->a, w->layer, kind, j));
        for (size_t r = w->known; r < len / pair->rank; r++) {
            most(&l->low_rank[w->half], (double)x[r * pair->rank + j] * balance * w->rms[r]);
        }
    }
}

/* Of the queries, keys or values of all heads, those of the heads that are left. */
static const float *heads_left(const Watcher *w, MatrixKind kind, const float *x, size_t *len)
{
    const ModelConfig *c = &w->m->config, shape = plan_shape(w->p, c);
    const uint32_t *kept = w->kept[w->layer - w->p->frozen][kind];
    size_t all = matrix_rows(c, kind), left = matrix_rows(&shape, kind), rows = *len / all;
    if (!kept) return x;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < left; i++) w->left[r * left + i] = x[r * all + kept[i]];
    *len = rows * left;
    return w->left;
}

static void see_scores(const Watcher *w, LayerSeen *l, uint32_t head, const float *x, size_t len)
{
    const Plan *p = w->p;
    double sum = 0, high = -INFINITY, low = INFINITY;
    for (size_t i = 0; i < len; i++) {
        double v = (double)x[i], shifted = v + p->score_shift;
        most(&l->score, v);
        high = fmax(high, v), low = fmin(low, v);
        sum += p->softmax == SOFTMAX_2QUAD ? shifted * shifted : fmax(v, 0);
    }
    if (sum > 0) l->sum_low = fmin(l->sum_low, sum), l->sum_high = fmax(l->sum_high, sum);
    if (!p->row_bound) return;
    double bound = (double)p->row_bound[(w->layer - p->frozen) * p->bound_heads + head];
    l->row_high = fmax(l->row_high, high - bound), l->row_low = fmin(l->row_low, high - bound);
    l->score_below = fmax(l->score_below, bound - low);
}

static void see_half(Watcher *w, LayerSeen *l, Sight what, const float *x, size_t len)
{
    const ModelConfig shape = plan_shape(w->p, &w->m->config), *c = &shape;
    if (what == SEE_QUERY || what == SEE_KEY || what == SEE_VALUE)
        x = heads_left(w, what == SEE_QUERY ? MAT_Q : what == SEE_KEY ? MAT_K : MAT_V, x, &len);
    size_t wide = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    double scale = (w->p->score_scale > 0 ? w->p->score_scale : 1) / sqrt((double)c->head_dim);
    switch (what) {
    case SEE_QUERY:
        most(&l->query, pairs_most(w, x, len, wide, w->known, false) * scale);
        most(&l->product[ATTN], ldexp(pairs_most(w, x, len, wide, w->known, true) * scale + rows_bias(w, MAT_Q, len / wide),
                                      (int)w->p->query_bits));
        break;
    case SEE_KEY:
        most(&l->key, pairs_most(w, x, len, kv, 0, false));
        most(&l->product[ATTN], pairs_most(w, x, len, kv, w->known, true) + rows_bias(w, MAT_K, len / kv));
        break;
    case SEE_VALUE:
        w->softmax = 0;
        for (size_t i = 0; i < len; i++) most(&l->value, (double)x[i]);
        most(&l->product[ATTN], rows_most(w, x, len, kv, true) + rows_bias(w, MAT_V, len / kv));
        break;
    case SEE_SCORE:
        if (len > w->p->known) see_scores(w, l, w->p->bound_heads ? w->softmax % w->p->bound_heads : 0, x, len);
        w->softmax++;
        break;
    case SEE_MIXED: most(&l->mixed, rows_most(w, x, len, (size_t)w->m->config.heads * c->head_dim, false)); break;
    case SEE_GATE:
    case SEE_UP:
        most(what == SEE_GATE ? &l->gate : &l->up, rows_most(w, x, len, c->ffn, false));
        most(&l->product[FFN], rows_most(w, x, len, c->ffn, true) + rows_bias(w, MAT_GATE, len / c->ffn));
        break;
    case SEE_LOW_RANK: see_low_rank(w, l, x, len); break;
    default: break;
    }
}

static void see(void *ctx, uint32_t layer, Sight what, const float *x, size_t len)
{
    Watcher *w = ctx;
    const ModelConfig *c = &w->m->config;
    if (what == SEE_RESIDUAL) {
        see_residual(w, layer, x, len);
    } else if (what == SEE_MEAN_SQUARE) {
        see_squares(w, x, len);
    } else if (what == SEE_LOGIT) {
        most(&w->seen->logit, rows_most(w, x, len, c->vocab, false));
    } else if (layer < c->layers && layer >= w->p->frozen) {
        see_half(w, &w->seen->layer[layer - w->p->frozen], what, x, len);
    }
}

// ---- running the text ------------------------------------------------------------------------------------------------

static CHECKED Result run_window(Watcher *w, PlainState *s, float *logits, const int32_t *tokens, size_t count)
{
    plain_truncate(s, 0);
    for (size_t at = 0; at < count; at += CHUNK) {
        size_t rows = count - at < CHUNK ? count - at : CHUNK;
        w->layer = UINT32_MAX;
        w->known = w->p->known > at ? (uint32_t)(w->p->known - at < rows ? w->p->known - at : rows) : 0;
        GUARD(plain_forward(s, logits, tokens + at, rows));
    }
    return OK;
}

static CHECKED Result run_text(Watcher *w, const int32_t *tokens, size_t count, Arena *arena)
{
    const ModelConfig *c = &w->m->config;
    uint32_t known = w->p->known, context = w->p->context;
    PlainState *s = plain_new(w->m, w->a, context, arena);
    float *logits = arena_new(arena, float, (size_t)CHUNK * c->vocab);
    int32_t *window = arena_new(arena, int32_t, context);
    plain_watch(s, &(Watch){see, w});
    Variant variant = plan_variant(w->p);
    plain_vary(s, &variant);
    for (size_t at = 0; at < count;) {
        size_t n = 0;
        for (; n < known; n++) window[n] = w->p->known_token ? w->p->known_token[n] : c->bos;
        while (n < context && at < count) {
            if (tokens[at] != c->bos || !known) window[n++] = tokens[at];
            at++;
        }
        if (n > known) GUARD(run_window(w, s, logits, window, n));
    }
    return OK;
}

// ---- the plan --------------------------------------------------------------------------------------------------------

static CHECKED Result adapter_note(Plan *p, const Adapter *a, const ModelConfig *c)
{
    for (uint32_t l = 0; a && l < a->layers && l < c->layers; l++) {
        for (MatrixKind k = 0; k < MAT_COUNT; k++) {
            const LoraPair *q = &a->pair[l][k];
            if (!q->a) continue;
            if (l < p->frozen) return fail(FAIL_USE, "the adapter has factors in layer %u; at most %u layers can be frozen", l, l);
            if (p->private_part == PRIVATE_LAYERS) continue;
            p->adapted[k] = true;
            if (q->rank > p->rank) p->rank = q->rank;
        }
    }
    return OK;
}

static CHECKED Result seen_check(const Plan *p, const PlanSeen *s)
{
    bool good = isfinite(s->residual) && isfinite(s->logit) && s->square_high > 0;
    for (uint32_t l = 0; l < p->layers; l++) {
        const LayerSeen *q = &s->layer[l];
        good &= isfinite(q->residual + q->product[ATTN] + q->product[FFN] + q->query + q->key + q->value);
        good &= isfinite(q->score + q->mixed + q->gate + q->up) && (p->softmax == SOFTMAX_EXP || isfinite(q->sum_low + q->sum_high));
        good &= q->square_high[ATTN] > 0 && q->square_high[FFN] > 0;
    }
    return good ? OK : fail(FAIL_DATA, "calibration: the network gave values that are not finite, or saw no text");
}

static PlanSeen *seen_new(const Plan *p, Arena *a)
{
    PlanSeen *s = arena_new(a, PlanSeen, 1);
    s->layer = arena_new(a, LayerSeen, p->layers);
    s->square_low = INFINITY;
    for (uint32_t l = 0; l < p->layers; l++) {
        s->layer[l].square_low[ATTN] = s->layer[l].square_low[FFN] = s->layer[l].sum_low = INFINITY;
        s->layer[l].row_low = INFINITY, s->layer[l].row_high = -INFINITY;
    }
    return s;
}

static void heads_note(Watcher *w, Arena *arena)
{
    const ModelConfig *c = &w->m->config;
    w->kept = arena_alloc(arena, w->p->layers, sizeof *w->kept);
    w->left = arena_new(arena, float, (size_t)CHUNK * c->heads * c->head_dim);
    for (uint32_t l = 0; l < w->p->layers; l++)
        for (MatrixKind k = 0; k < MAT_COUNT; k++) w->kept[l][k] = kept_heads(w->p, c, l, k, arena);
}

static CHECKED Result biases_note(Watcher *w, Arena *arena)
{
    w->bias = arena_alloc(arena, w->p->layers, sizeof *w->bias);
    for (uint32_t l = 0; l < w->p->layers; l++) {
        for (MatrixKind k = 0; k < MAT_COUNT; k++) {
            double *bias;
            GUARD(private_bias(&bias, w->p, w->m, w->a, w->p->frozen + l, k, arena));
            for (size_t i = 0; bias && i < matrix_rows(&w->m->config, k); i++) most(&w->bias[l][k], bias[i]);
        }
    }
    return OK;
}

static CHECKED Result known_note(Plan *p, const PlanOptions *o, const ModelConfig *c)
{
    p->known = c->bos >= 0 && p->context > 1;
    if (o->prefix_len == 0) return OK;
    p->known_token = arena_new(&p->arena, int32_t, p->known + o->prefix_len);
    if (p->known) p->known_token[0] = c->bos;
    memcpy(p->known_token + p->known, o->prefix, o->prefix_len * sizeof *o->prefix);
    p->known += o->prefix_len;
    return OK;
}

static CHECKED Result calibrate(Plan *p, const Model *m, const Adapter *a, const PlanOptions *o, const int32_t *tokens, size_t count)
{
    const ModelConfig *c = &m->config;
    if (a && a->layers != c->layers) return fail(FAIL_DATA, "the adapter has %u layers, the model %u", a->layers, c->layers);
    if (count < LEAST_TOKENS) return fail(FAIL_USE, "%zu tokens are too little text to calibrate on", count);
    GUARD(adapter_note(p, a, c));
    Arena arena;
    arena_init(&arena, false);
    Watcher w = {.m = m, .a = a, .p = p, .seen = seen_new(p, &arena)};
    heads_note(&w, &arena);
    Result r = biases_note(&w, &arena);
    if (!failed(r)) r = run_text(&w, tokens, count, &arena);
    if (!failed(r)) r = seen_check(p, w.seen);
    double most_gate = o->silu_range > 0 ? gate_bound((int)ceil(log2(o->silu_range)), o->variant.cells ? o->variant.cells : 256) : INFINITY;
    for (uint32_t l = 0; !failed(r) && l < p->layers; l++) w.seen->layer[l].gate = fmin(w.seen->layer[l].gate, most_gate);
    w.seen->cells = cell_bits(o->variant.cells);
    if (!failed(r)) r = plan_fit(p, w.seen, c, m);
    arena_free(&arena);
    GUARD(r);
    GUARD(public_hash(p, m, p->model_hash));
    return plan_check(p, c);
}

Result plan_make(Plan *out, const Model *m, const Adapter *a, const PlanOptions *o, const int32_t *tokens, size_t count)
{
    GUARD(plan_begin(out, &m->config, o));
    out->weight_bits = m->quantised ? 8 : 16;
    if (m->quantised && out->score_scale > 0) return fail(FAIL_USE, "a quantised base has the scale of its scores in its weights already");
    GUARD(known_note(out, o, &m->config));
    return calibrate(out, m, a, o, tokens, count);
}
