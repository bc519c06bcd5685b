/* measure.c - the plain network watched on text: how alike the maps of heads are, what heads put out, norms and row maxima. */
#include "tune/measure.h"

#include <math.h>
#include <string.h>
#include "model/variant.h"

typedef struct Watched {
    const Study *study;
    const ModelConfig *config;
    LayerVariant how;                          // of every layer from `first` on, as far as heads go
    int half;                                  // of the layer that runs
    uint32_t head;                             // softmaxes of this row that were seen
    float *row;                                // (heads, STUDY_WINDOW + 1) softmaxes of one row
    double *alike;                             // (layers, kv_heads, kv_heads) sums over rows, or NULL
    double *put_out;                           // (layers, kv_heads) sums of squares over rows, or NULL
    double *inverse;                           // (layers, 2) sums over rows, or NULL
    double *top;                               // (layers, merged heads) sums over rows, or NULL
    size_t rows;                               // that count, of every layer: all but each window's first
    float *added;                              // (width) scratch
} Watched;

// ---- windows of text -------------------------------------------------------------------------------------------------

static CHECKED Result study_check(const Study *s)
{
    const ModelConfig *c = &s->model->config;
    if (s->model->quantised) return fail(FAIL_USE, "heads are measured on a model with float weights, not on a quantised base");
    if (s->first >= c->layers) return fail(FAIL_USE, "%u frozen layers of %u leave none to measure", s->first, c->layers);
    if (c->heads > 4096) return fail(FAIL_USE, "%u heads are too many to compare", c->heads);
    return OK;
}

static CHECKED Result windows_run(Watched *w, const Variant *v, void (*see)(void *, uint32_t, Sight, const float *, size_t))
{
    const Study *s = w->study;
    const ModelConfig *c = w->config;
    uint32_t known = c->bos >= 0, room = c->context < STUDY_WINDOW ? c->context : STUDY_WINDOW;
    if (s->count < STUDY_LEAST || room <= known + 1) return fail(FAIL_USE, "%zu tokens are too little text to measure heads on", s->count);
    Arena a;
    arena_init(&a, false);
    PlainState *p = plain_new(s->model, s->adapter, room, &a);
    float *x = arena_new(&a, float, (size_t)room * c->width);
    int32_t *window = arena_new(&a, int32_t, room);
    plain_vary(p, v);
    plain_watch(p, &(Watch){see, w});
    Result r = OK;
    for (size_t at = 0; at < s->count && !failed(r);) {
        size_t n = known;
        if (known) window[0] = c->bos;
        for (; n < room && at < s->count; n++, at++) window[n] = s->tokens[at];
        w->rows += n - 1;
        r = plain_embed(p, x, window, n);
        if (!failed(r)) plain_layers(p, x, n, 0, c->layers);
    }
    arena_free(&a);
    return r;
}

static Watched watched_new(const Study *s, const Variant *v)
{
    const ModelConfig *c = &s->model->config;
    return (Watched){.study = s, .config = c, .how = variant_layer(v, c, c->layers - 1)};
}

// ---- maps ------------------------------------------------------------------------------------------------------------

/* The Jensen-Shannon divergence of two distributions, in bits. */
static double divergence(const float *p, const float *q, size_t len)
{
    double sum = 0;
    for (size_t i = 0; i < len; i++) {
        double a = (double)p[i], b = (double)q[i], mean = (a + b) / 2;
        if (a > 0) sum += a * log2(a / mean);
        if (b > 0) sum += b * log2(b / mean);
    }
    return sum / 2;
}

/* All softmaxes of one row are there. */
static void row_compare(Watched *w, uint32_t layer, size_t len)
{
    const ModelConfig *c = w->config;
    uint32_t kv = c->kv_heads, share = c->heads / kv;
    double *alike = w->alike + (size_t)(layer - w->study->first) * kv * kv;
    for (uint32_t i = 0; i < kv; i++) {
        for (uint32_t j = 0; j < i; j++) {
            double sum = 0;
            for (uint32_t t = 0; t < share; t++)
                sum += 1 - divergence(w->row + (i * share + t) * STUDY_WINDOW, w->row + (j * share + t) * STUDY_WINDOW, len);
            alike[i * kv + j] += sum / share, alike[j * kv + i] += sum / share;
        }
    }
}

static void see_maps(void *ctx, uint32_t layer, Sight what, const float *x, size_t len)
{
    Watched *w = ctx;
    if (layer < w->study->first || what != SEE_SCORE) return;
    float *row = w->row + w->head * STUDY_WINDOW;
    memcpy(row, x, len * sizeof *row);
    float sum = exp_shifted(row, vector_largest(row, len), len);
    vector_scale(row, 1 / sum, len);
    if (++w->head < w->config->heads) return;
    w->head = 0;
    if (len > 1) row_compare(w, layer, len);   // the first row looks at itself, whatever the head
}

Result map_similarity(double *out, const Study *s)
{
    GUARD(study_check(s));
    const ModelConfig *c = &s->model->config;
    size_t layers = c->layers - s->first, each = (size_t)c->kv_heads * c->kv_heads;
    Watched w = watched_new(s, NULL);
    Arena a;
    arena_init(&a, false);
    w.row = arena_new(&a, float, (size_t)c->heads * STUDY_WINDOW);
    w.alike = out;
    memset(out, 0, layers * each * sizeof *out);
    Result r = windows_run(&w, NULL, see_maps);
    for (size_t i = 0; i < layers * each; i++) out[i] = i % each % (c->kv_heads + 1) == 0 ? 1 : out[i] / (double)w.rows;
    arena_free(&a);
    return r;
}

// ---- what heads put out ----------------------------------------------------------------------------------------------

/* Of one row: the square of what each key-value head adds to the residual stream. */
static void row_put_out(Watched *w, uint32_t layer, const float *mixed)
{
    const ModelConfig *c = w->config;
    size_t wide = (size_t)c->heads * c->head_dim, part = wide / c->kv_heads;
    double *sum = w->put_out + (size_t)(layer - w->study->first) * c->kv_heads;
    for (uint32_t h = 0; h < c->kv_heads; h++) {
        product((Product){.turn_b = true, .alpha = 1}, w->added, c->width, mixed + h * part, wide,
                w->study->model->layer[layer].mat[MAT_O] + h * part, wide, 1, c->width, part);
        for (size_t i = 0; i < c->width; i++) sum[h] += (double)w->added[i] * (double)w->added[i];
    }
}

static void see_mixed(void *ctx, uint32_t layer, Sight what, const float *x, size_t len)
{
    Watched *w = ctx;
    size_t wide = (size_t)w->config->heads * w->config->head_dim;
    for (size_t at = 0; layer >= w->study->first && what == SEE_MIXED && at < len; at += wide) row_put_out(w, layer, x + at);
}

/* (layers - first, kv_heads): sums over rows. */
Result output_importance(double *out, const Study *s)
{
    GUARD(study_check(s));
    const ModelConfig *c = &s->model->config;
    Watched w = watched_new(s, NULL);
    Arena a;
    arena_init(&a, false);
    w.added = arena_new(&a, float, c->width);
    w.put_out = out;
    memset(out, 0, (size_t)(c->layers - s->first) * c->kv_heads * sizeof *out);
    Result r = windows_run(&w, NULL, see_mixed);
    arena_free(&a);
    return r;
}

// ---- norms and row maxima --------------------------------------------------------------------------------------------

static void see_norms(void *ctx, uint32_t layer, Sight what, const float *x, size_t len)
{
    Watched *w = ctx;
    if (layer < w->study->first || layer >= w->config->layers) return;
    if (what == SEE_MIXED) w->half = 1;
    if (what == SEE_HIDDEN) w->half = 0;
    if (what != SEE_MEAN_SQUARE) return;
    double *sum = w->inverse + 2 * (size_t)(layer - w->study->first) + w->half;
    for (size_t i = 1; i < len; i++) *sum += 1 / sqrt((double)x[i] + (double)w->config->norm_eps);
}

static void see_tops(void *ctx, uint32_t layer, Sight what, const float *x, size_t len)
{
    Watched *w = ctx;
    uint32_t heads = merged_heads(&w->how);
    if (layer < w->study->first || what != SEE_SCORE) return;
    if (len > 1) w->top[(size_t)(layer - w->study->first) * heads + w->head] += (double)vector_largest(x, len);
    w->head = (w->head + 1) % heads;
}

static const float *means_of(const double *sum, size_t count, size_t rows, Arena *a)
{
    float *out = arena_new(a, float, count);
    for (size_t i = 0; i < count; i++) out[i] = (float)(sum[i] / (double)rows);
    return out;
}

Result norms_measure(const float **out, const Study *s, const Variant *v, Arena *a)
{
    GUARD(study_check(s));
    size_t count = (size_t)(s->model->config.layers - s->first) * 2;
    Watched w = watched_new(s, v);
    Variant free = v ? *v : (Variant){0};
    free.norm = NULL;
    w.inverse = arena_new(a, double, count);
    GUARD(windows_run(&w, &free, see_norms));
    *out = means_of(w.inverse, count, w.rows, a);
    return OK;
}

Result row_bounds_measure(const float **out, const Study *s, const Variant *v, Arena *a)
{
    GUARD(study_check(s));
    Watched w = watched_new(s, v);
    size_t count = (size_t)(s->model->config.layers - s->first) * merged_heads(&w.how);
    if (v && variant_changes(v) && v->first != s->first)
        return fail(FAIL_USE, "row maxima are measured from layer %u on, the variant begins at %u", s->first, v->first);
    w.top = arena_new(a, double, count);
    GUARD(windows_run(&w, v, see_tops));
    *out = means_of(w.top, count, w.rows, a);
    return OK;
}
