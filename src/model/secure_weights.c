/* secure_weights.c - the integers that the secure layers compute with, and what is hashed of them.
 *
 * A norm's gain and the queries' 1 / sqrt(head_dim) are real factors of the weights before they are rounded, so they cost
 * nothing online. Products are of IEEE doubles in a fixed order and rounding is to nearest, ties to even: the public
 * integers, which both sides must agree on, come out the same on every machine. */
#include <math.h>
#include "model/variant.h"
#include "model/secure_parts.h"

const char *const pin_names[PIN_COUNT] = {"attention A", "query B", "key B", "value B", "output A", "output B",
                                          "ffn A", "gate B", "up B", "down A", "down B"};

static const float *gain_of(const Model *m, uint32_t layer, MatrixKind kind)
{
    const LayerWeights *w = &m->layer[layer];
    if (kind == MAT_Q || kind == MAT_K || kind == MAT_V) return w->attn_norm;
    return kind == MAT_GATE || kind == MAT_UP ? w->ffn_norm : NULL;
}

static double scale_of(const Plan *p, const ModelConfig *c, MatrixKind kind)
{
    return kind == MAT_Q ? (p->score_scale > 0 ? p->score_scale : 1) / sqrt((double)c->head_dim) : 1;
}

// ---- heads that are left ---------------------------------------------------------------------------------------------

ModelConfig plan_shape(const Plan *p, const ModelConfig *c)
{
    ModelConfig out = *c;
    if (p->heads.order) out.kv_heads = p->heads.heads, out.heads = p->heads.heads * (c->heads / c->kv_heads);
    return out;
}

const uint32_t *kept_heads(const Plan *p, const ModelConfig *c, uint32_t layer, MatrixKind kind, Arena *arena)
{
    bool keys = kind == MAT_K || kind == MAT_V;
    if (!head_groups_pruned(&p->heads, c) || !(keys || kind == MAT_Q || kind == MAT_O)) return NULL;
    Variant all = plan_variant(p);
    LayerVariant v = variant_layer(&all, c, p->frozen + layer);
    size_t dim = c->head_dim, heads = keys ? p->heads.heads : merged_heads(&v) * v.size;
    uint32_t *out = arena_new(arena, uint32_t, heads * dim);
    for (uint32_t i = 0; i < heads * dim; i++) {
        uint32_t head = i / c->head_dim;
        size_t from = keys ? v.order[head] * dim : head_member(&v, head / v.size, head % v.size).query;
        out[i] = (uint32_t)from + i % c->head_dim;
    }
    return out;
}

// ---- public integers -------------------------------------------------------------------------------------------------

/* w NULL: quant. held: the mantissa of the norm's constant. */
typedef struct Scaled { const float *w, *gain; double scale, held; size_t rows, cols; QuantMatrix quant; } Scaled;

static Scaled scaled_matrix(const Plan *p, const Model *m, uint32_t layer, MatrixKind kind, double held)
{
    const ModelConfig *c = &m->config;
    const LayerWeights *l = &m->layer[layer];
    return (Scaled){l->mat[kind], gain_of(m, layer, kind), scale_of(p, c, kind), held, matrix_rows(c, kind), matrix_cols(c, kind), l->quant[kind]};
}

/* layer: of the model, from the plan's frozen ones on. */
static Scaled planned_matrix(const Plan *p, const Model *m, uint32_t layer, MatrixKind kind)
{
    return scaled_matrix(p, m, layer, kind, norm_mantissa(p, layer - p->frozen, kind_half(kind), NULL));
}

static Scaled scaled_head(const Model *m) { return (Scaled){m->head, m->final_norm, 1, 1, m->config.vocab, m->config.width, m->quant_head}; }

static double scaled_at(const Scaled *s, size_t i, size_t j)
{
    if (!s->w) return (double)s->quant.w[i * s->cols + j] * ldexp(s->quant.scale[i], -QUANT_F) * s->held;    // gain and scale are in it
    return (double)s->w[i * s->cols + j] * (s->gain ? (double)s->gain[j] : 1) * s->scale * s->held;
}

static double scaled_largest(Scaled s)
{
    double most = 0;
    for (size_t i = 0; i < s.rows; i++)
        for (size_t j = 0; j < s.cols; j++) most = fmax(most, fabs(scaled_at(&s, i, j)));
    return most;
}

double public_largest(const Plan *p, const Model *m, uint32_t layer, MatrixKind kind)
{
    return scaled_largest(scaled_matrix(p, m, layer, kind, 1));
}

double head_largest(const Model *m) { return scaled_largest(scaled_head(m)); }

static CHECKED Result scaled_round(int16_t **out, Scaled s, unsigned f, const char *name, Arena *arena)
{
    int16_t *w = *out = arena_new(arena, int16_t, s.rows * s.cols);
    for (size_t i = 0; i < s.rows; i++) {
        for (size_t j = 0; j < s.cols; j++) {
            double v = rint(ldexp(scaled_at(&s, i, j), (int)f));
            if (!(fabs(v) <= INT16_MAX)) {
                return fail(FAIL_DATA, "%s: a weight of %g does not fit the plan's %u fraction bits; the plan is of another model",
                            name, ldexp(v, -(int)f), f);
            }
            w[i * s.cols + j] = (int16_t)v;
        }
    }
    return OK;
}

/* The scales of a quantised matrix with the mantissa in them. */
static CHECKED Result scale_round(const int32_t **out, Scaled s, unsigned f, const char *name, Arena *arena)
{
    int32_t *scale = arena_new(arena, int32_t, s.rows);
    *out = scale;
    for (size_t i = 0; i < s.rows; i++) {
        double v = rint(ldexp(s.quant.scale[i] * s.held, (int)f - QUANT_F));
        if (!(fabs(v) <= INT32_MAX)) return fail(FAIL_DATA, "%s: a scale of %d does not fit", name, s.quant.scale[i]);
        scale[i] = (int32_t)v;
    }
    return OK;
}

static CHECKED Result public_integers(PublicMatrix *out, const Plan *p, const Model *m, Scaled s, const char *name, Arena *arena)
{
    if ((p->weight_bits == 8) != m->quantised) {
        return fail(FAIL_DATA, "the plan is for public weights of %u bits, and the base has %s", p->weight_bits, m->quantised ? "8" : "floats");
    }
    if (m->quantised) {
        out->w8 = s.quant.w, out->scale = s.quant.scale;
        if (out->f != QUANT_F) GUARD(scale_round(&out->scale, s, out->f, name, arena));
        return OK;
    }
    int16_t *w;
    GUARD(scaled_round(&w, s, out->f, name, arena));
    out->w16 = w;
    return OK;
}

/* All of it, pruned heads too. */
static CHECKED Result base_matrix(PublicMatrix *out, const Plan *p, const Model *m, uint32_t layer, MatrixKind kind, Arena *arena)
{
    Result r = public_integers(out, p, m, planned_matrix(p, m, p->frozen + layer, kind), matrix_names[kind], arena);
    return failed(r) ? fail_in(r, "layer %u", p->frozen + layer) : OK;
}

/* out: of the rows (columns) of `all` those of the heads that are left. */
static void public_keep(PublicMatrix *out, const PublicMatrix *all, const uint32_t *row, const uint32_t *column, Arena *arena)
{
    size_t len = out->outputs * out->inputs;
    int16_t *w16 = all->w16 ? arena_new(arena, int16_t, len) : NULL;
    int8_t *w8 = all->w8 ? arena_new(arena, int8_t, len) : NULL;
    int32_t *scale = all->scale ? arena_new(arena, int32_t, out->outputs) : NULL;
    for (size_t i = 0; i < out->outputs; i++) {
        size_t from = (row ? row[i] : i) * all->inputs;
        if (scale) scale[i] = all->scale[row ? row[i] : i];
        for (size_t j = 0; j < out->inputs; j++) {
            size_t at = from + (column ? column[j] : j);
            if (w16) w16[i * out->inputs + j] = all->w16[at];
            else w8[i * out->inputs + j] = all->w8[at];
        }
    }
    out->w16 = w16, out->w8 = w8, out->scale = scale;
}

Result public_matrix(PublicMatrix *out, const Plan *p, const Model *m, uint32_t layer, MatrixKind kind, Arena *arena)
{
    const ModelConfig *c = &m->config;
    Arena scratch;
    arena_init(&scratch, false);
    const uint32_t *kept = kept_heads(p, c, layer, kind, &scratch);
    PublicMatrix all = {matrix_rows(c, kind), matrix_cols(c, kind), out->f, NULL, NULL, NULL};
    Result r = base_matrix(kept ? &all : out, p, m, layer, kind, kept ? &scratch : arena);
    if (kept && !failed(r)) public_keep(out, &all, kind == MAT_O ? NULL : kept, kind == MAT_O ? kept : NULL, arena);
    arena_free(&scratch);
    return r;
}

Result public_head(PublicMatrix *out, const Plan *p, const Model *m, Arena *arena)
{
    return public_integers(out, p, m, scaled_head(m), "head", arena);
}

// ---- private integers ------------------------------------------------------------------------------------------------

static const struct { MatrixKind kind; bool b; int half; } pin_part[PIN_COUNT] = {
    [PIN_A_ATTN] = {MAT_Q, false, ATTN}, [PIN_B_Q] = {MAT_Q, true, ATTN}, [PIN_B_K] = {MAT_K, true, ATTN}, [PIN_B_V] = {MAT_V, true, ATTN},
    [PIN_A_OUT] = {MAT_O, false, HALVES}, [PIN_B_OUT] = {MAT_O, true, HALVES},
    [PIN_A_FFN] = {MAT_GATE, false, FFN}, [PIN_B_GATE] = {MAT_GATE, true, FFN}, [PIN_B_UP] = {MAT_UP, true, FFN},
    [PIN_A_DOWN] = {MAT_DOWN, false, HALVES}, [PIN_B_DOWN] = {MAT_DOWN, true, HALVES}};

Pin pin_of_b(MatrixKind kind)
{
    for (Pin pin = 0; pin < PIN_COUNT; pin++)
        if (pin_part[pin].b && pin_part[pin].kind == kind) return pin;
    bug("no factor B");
}

/* The matrices that are stacked in a pinned one, in order. */
static unsigned pin_kinds(const Plan *p, Pin pin, MatrixKind out[GROUP_MOST])
{
    MatrixKind all[GROUP_MOST] = {pin_part[pin].kind};
    unsigned count = 1, used = 0;
    if (!pin_part[pin].b && pin_part[pin].half != HALVES) count = group_kinds(p, pin_part[pin].half, all);
    for (unsigned k = 0; k < count; k++)
        if (p->private_part == PRIVATE_LAYERS ? !pin_part[pin].b : p->adapted[all[k]]) out[used++] = all[k];
    return used;
}

PinShape pin_shape(const Plan *p, const ModelConfig *model, uint32_t layer, Pin pin)
{
    MatrixKind kind[GROUP_MOST];
    unsigned count = pin_kinds(p, pin, kind);
    const ModelConfig shape = plan_shape(p, model), *c = &shape;
    PinShape s = {0};
    if (count == 0) return s;
    LayerRings r;
    layer_rings(&r, p, layer);
    bool b = pin_part[pin].b;
    for (unsigned k = 0; k < count; k++) s.outputs += b || p->private_part == PRIVATE_LAYERS ? matrix_rows(c, kind[k]) : p->rank;
    s.inputs = b ? p->rank : matrix_cols(c, kind[0]);
    MatrixKind first = pin_part[pin].kind;
    const OutRings *o = first == MAT_O ? &r.out : &r.down;
    const NormRings *n = &r.norm[pin_part[pin].half == FFN && !p->side_by_side ? FFN : ATTN];
    if (first == MAT_O || first == MAT_DOWN) s.n = (unsigned)(b ? o->pinned_b : o->pinned_a);
    else s.n = (unsigned)(b ? n->pinned_b : n->pinned_a);
    return s;
}

int pin_f(const Plan *p, uint32_t layer, Pin pin) { return private_f(p, layer, pin_part[pin].kind); }

static const LoraPair *pair_of(const Adapter *a, uint32_t layer, MatrixKind kind)
{
    const LoraPair *q = a ? &a->pair[layer][kind] : NULL;
    return q && q->a && q->b ? q : NULL;
}

/* With A and B each rounded to the same step, the error of B A is least where both have the same size. */
int factor_balance(const Plan *p, const Model *m, const Adapter *a, uint32_t layer, MatrixKind kind, uint32_t j)
{
    const LoraPair *q = pair_of(a, layer, kind);
    if (!q || j >= q->rank) return 0;
    const float *gain = gain_of(m, layer, kind);
    size_t rows = matrix_rows(&m->config, kind), cols = matrix_cols(&m->config, kind);
    double in = 0, out = 0, scale = (double)q->scale * scale_of(p, &m->config, kind);
    for (size_t i = 0; i < cols; i++) {
        double v = (double)q->a[j * cols + i] * (gain ? (double)gain[i] : 1);
        in += v * v;
    }
    for (size_t i = 0; i < rows; i++) {
        double v = (double)q->b[i * q->rank + j] * scale;
        out += v * v;
    }
    if (!(in > 0) || !(out > 0)) return 0;
    double k = rint(log2(out / (double)rows / (in / (double)cols)) / 4);
    return (int)fmin(fmax(k, -16), 16);
}

static CHECKED Result private_round(int32_t *out, double v, unsigned f)
{
    double w = rint(ldexp(v, (int)f));
    if (!(fabs(w) <= 1 << 30)) return fail(FAIL_DATA, "a private weight of %g does not fit the plan's %u fraction bits", v, f);
    *out = (int32_t)w;
    return OK;
}

/* W[i][j], with the adapter merged into it. */
static double private_at(const Scaled *s, const LoraPair *q, size_t i, size_t j)
{
    double v = scaled_at(s, i, j), delta = 0;
    if (!q) return v;
    for (uint32_t r = 0; r < q->rank; r++) delta += (double)q->b[i * q->rank + r] * (double)q->a[r * s->cols + j];
    return v + delta * (double)q->scale * (s->gain ? (double)s->gain[j] : 1) * s->scale * s->held;
}

/* LayerNorm takes the mean of a row out of it. What writes to the residual stream can leave it out beforehand. */
static bool writes_centred(const ModelConfig *c, MatrixKind kind) { return c->arch == ARCH_GPT2 && (kind == MAT_O || kind == MAT_DOWN); }

static CHECKED Result private_matrix(int32_t *out, const Plan *p, const Model *m, const Adapter *a, uint32_t layer, MatrixKind kind)
{
    Scaled s = planned_matrix(p, m, layer, kind);
    const LoraPair *q = pair_of(a, layer, kind);
    unsigned f = (unsigned)private_f(p, layer - p->frozen, kind);
    double times = ldexp(1, kind == MAT_Q ? (int)p->query_bits : 0);
    Arena scratch;
    arena_init(&scratch, true);
    double *mean = arena_new(&scratch, double, s.cols);
    for (size_t i = 0; i < s.rows && writes_centred(&m->config, kind); i++)
        for (size_t j = 0; j < s.cols; j++) mean[j] += private_at(&s, q, i, j) / (double)s.rows;
    const uint32_t *kept = kept_heads(p, &m->config, layer - p->frozen, kind, &scratch);
    const uint32_t *row = kind == MAT_O ? NULL : kept, *column = kind == MAT_O ? kept : NULL;
    const ModelConfig shape = plan_shape(p, &m->config);
    size_t rows = matrix_rows(&shape, kind), cols = matrix_cols(&shape, kind);
    Result r = OK;
    for (size_t i = 0; i < rows && !failed(r); i++)
        for (size_t j = 0; j < cols && !failed(r); j++) {
            size_t at = column ? column[j] : j;
            r = private_round(&out[i * cols + j], (private_at(&s, q, row ? row[i] : i, at) - mean[at]) * times, f);
        }
    arena_free(&scratch);
    return r;
}

Result private_bias(double **result, const Plan *p, const Model *m, const Adapter *a, uint32_t layer, MatrixKind kind, Arena *arena)
{
    const LayerWeights *w = &m->layer[layer];
    *result = NULL;
    if (!w->bias[kind]) return OK;
    Scaled s = scaled_matrix(p, m, layer, kind, 1);
    s.gain = NULL;                             // the norm's shift is added after its gain, and after its constant
    const LoraPair *q = pair_of(a, layer, kind);
    const float *shift = kind == MAT_O || kind == MAT_DOWN ? NULL : kind == MAT_GATE ? w->ffn_shift : w->attn_shift;
    double *out = *result = arena_new(arena, double, s.rows), mean = 0;
    for (size_t i = 0; i < s.rows; i++) {
        out[i] = (double)w->bias[kind][i] * s.scale;
        for (size_t j = 0; shift && j < s.cols; j++) out[i] += private_at(&s, q, i, j) * (double)shift[j];
        mean += out[i] / (double)s.rows;
    }
    for (size_t i = 0; i < s.rows && writes_centred(&m->config, kind); i++) out[i] -= mean;
    for (size_t i = 0; i < s.rows; i++)
        if (!(fabs(out[i]) < 0x1p38))
            return fail(FAIL_DATA, "layer %u %s: a bias of %g is not a trained one", layer, matrix_names[kind], out[i]);
    return OK;
}

/* kept: of the columns, those of the heads that are left; or NULL. */
static CHECKED Result private_factor_a(int32_t *out, const Plan *p, const Model *m, const Adapter *a, uint32_t layer, MatrixKind kind,
                                       const uint32_t *kept)
{
    const LoraPair *q = pair_of(a, layer, kind);
    const float *gain = gain_of(m, layer, kind);
    const ModelConfig shape = plan_shape(p, &m->config);
    size_t all = matrix_cols(&m->config, kind), cols = matrix_cols(&shape, kind);
    double held = norm_mantissa(p, layer - p->frozen, kind_half(kind), NULL);
    for (uint32_t r = 0; q && r < q->rank; r++) {
        int k = factor_balance(p, m, a, layer, kind, r);
        for (size_t j = 0; j < cols; j++) {
            size_t at = kept ? kept[j] : j;
            GUARD(private_round(&out[r * cols + j], ldexp((double)q->a[r * all + at] * (gain ? (double)gain[at] : 1) * held, k), p->adapter_f));
        }
    }
    return OK;
}

static CHECKED Result private_factor_b(int32_t *out, const Plan *p, const Model *m, const Adapter *a, uint32_t layer, MatrixKind kind,
                                       const uint32_t *kept)
{
    const LoraPair *q = pair_of(a, layer, kind);
    const ModelConfig shape = plan_shape(p, &m->config);
    size_t rows = matrix_rows(&shape, kind);
    double scale = q ? (double)q->scale * scale_of(p, &m->config, kind) : 0;
    for (uint32_t r = 0; q && r < q->rank; r++) {
        int k = factor_balance(p, m, a, layer, kind, r);
        for (size_t i = 0; i < rows; i++)
            GUARD(private_round(&out[i * p->rank + r], ldexp((double)q->b[(kept ? kept[i] : i) * q->rank + r] * scale, -k), p->adapter_f));
    }
    return OK;
}

Result pin_weights(int32_t **out, const Plan *p, const Model *m, const Adapter *a, uint32_t layer, Pin pin, Arena *arena)
{
    PinShape s = pin_shape(p, &m->config, layer, pin);
    MatrixKind kind[GROUP_MOST];
    unsigned count = pin_kinds(p, pin, kind);
    int32_t *w = *out = arena_new(arena, int32_t, s.outputs * s.inputs);
    uint32_t at = p->frozen + layer;
    const ModelConfig shape = plan_shape(p, &m->config);
    for (unsigned k = 0; k < count; k++) {
        const LoraPair *q = pair_of(a, at, kind[k]);
        if (q && q->rank > p->rank && p->private_part == PRIVATE_LORA) {
            return fail(FAIL_DATA, "the adapter has rank %u, the plan %u", q->rank, p->rank);
        }
        Result r;
        const uint32_t *kept = kept_heads(p, &m->config, layer, kind[k], arena);
        if (pin_part[pin].b) r = private_factor_b(w, p, m, a, at, kind[k], kind[k] == MAT_O ? NULL : kept);
        else if (p->private_part == PRIVATE_LAYERS) r = private_matrix(w, p, m, a, at, kind[k]);
        else r = private_factor_a(w, p, m, a, at, kind[k], kind[k] == MAT_O ? kept : NULL);
        if (failed(r)) return fail_in(r, "layer %u %s", at, matrix_names[kind[k]]);
        w += s.inputs * (p->private_part == PRIVATE_LAYERS ? matrix_rows(&shape, kind[k]) : p->rank);
    }
    return OK;
}

// ---- hashes ----------------------------------------------------------------------------------------------------------

static void hash_integers(Hash *h, const void *data, size_t count, unsigned bytes)
{
    uint8_t little[4096];
    const uint8_t *in = data;
    for (size_t i = 0; i < count;) {
        size_t n = 0;
        for (; i < count && n + bytes <= sizeof little; i++) {
            uint32_t v = bytes == 2 ? (uint16_t)((const int16_t *)(const void *)in)[i] : (uint32_t)((const int32_t *)(const void *)in)[i];
            for (unsigned b = 0; b < bytes; b++) little[n++] = (uint8_t)(v >> 8 * b);
        }
        hash_add(h, little, n);
    }
    wipe(little, sizeof little);
}

typedef struct HashJob { const Plan *p; const Model *m; uint8_t (*of)[HASH_BYTES]; } HashJob;

/* The public matrices in their order: those of the secure layers, where they are public, and the head. */
static size_t public_count(const Plan *p) { return p->private_part == PRIVATE_LAYERS ? 1 : (size_t)p->layers * MAT_COUNT + 1; }

static CHECKED Result public_nth(PublicMatrix *out, const Plan *p, const Model *m, size_t i, Arena *a)
{
    const ModelConfig *c = &m->config;
    if (i + 1 == public_count(p)) {
        *out = (PublicMatrix){c->vocab, c->width, p->head_f, NULL, NULL, NULL};
        return public_head(out, p, m, a);
    }
    uint32_t layer = (uint32_t)(i / MAT_COUNT);
    MatrixKind kind = (MatrixKind)(i % MAT_COUNT);
    *out = (PublicMatrix){matrix_rows(c, kind), matrix_cols(c, kind), p->layer[layer].weight_f[kind], NULL, NULL, NULL};
    return base_matrix(out, p, m, layer, kind, a);
}

static void hash_quantised(void *ctx, size_t begin, size_t end)
{
    const HashJob *j = ctx;
    for (size_t i = begin; i < end; i++) {
        PublicMatrix w;
        Hash h;
        Arena scales;
        arena_init(&scales, false);
        if (failed(public_nth(&w, j->p, j->m, i, &scales))) bug("%s", result_text());
        hash_init(&h);
        hash_integers(&h, w.scale, w.outputs, 4);
        hash_add(&h, w.w8, w.outputs * w.inputs);
        hash_end(&h, j->of[i]);
        arena_free(&scales);
    }
}

/* Of 16-bit integers, one after the other. Of a quantised base, gigabytes, of the hashes of its matrices, which run in parallel. */
Result public_hash(const Plan *p, const Model *m, uint8_t out[HASH_BYTES])
{
    size_t count = public_count(p);
    Hash h;
    Arena a;
    Result r = OK;
    hash_init(&h);
    arena_init(&a, false);
    ArenaMark start = arena_mark(&a);
    for (size_t i = 0; i < count && !failed(r) && !(m->quantised && p->weight_bits == 8); i++) {
        PublicMatrix w;
        r = public_nth(&w, p, m, i, &a);
        if (!failed(r)) hash_integers(&h, w.w16, w.outputs * w.inputs, 2);
        arena_rollback(&a, start);
    }
    if (m->quantised && p->weight_bits == 8) {
        HashJob job = {p, m, arena_alloc(&a, count, HASH_BYTES)};
        parallel_for(count, 1, hash_quantised, &job);
        hash_add(&h, job.of, count * HASH_BYTES);
    }
    arena_free(&a);
    hash_end(&h, out);
    return r;
}

/* The biases of a layer, in steps of 2^-24. */
static CHECKED Result hash_biases(Hash *h, const Plan *p, const Model *m, const Adapter *a, uint32_t layer)
{
    Result r = OK;
    for (MatrixKind k = 0; k < MAT_COUNT && !failed(r); k++) {
        Arena arena;
        double *bias;
        arena_init(&arena, true);
        r = private_bias(&bias, p, m, a, layer, k, &arena);
        for (size_t i = 0; !failed(r) && bias && i < matrix_rows(&m->config, k); i++) {
            int64_t v = llrint(ldexp(bias[i], 24));
            hash_integers(h, (int32_t[]){(int32_t)v, (int32_t)(v >> 32)}, 2, 4);
        }
        arena_free(&arena);
    }
    return r;
}

Result private_commitment(const Plan *p, const Model *m, const Adapter *a, const uint8_t salt[KEY_BYTES], uint8_t out[HASH_BYTES])
{
    Hash h;
    hash_init(&h);
    hash_add(&h, salt, KEY_BYTES);
    Result r = OK;
    for (uint32_t l = 0; l < p->layers && !failed(r); l++) {
        if (p->private_part == PRIVATE_LAYERS) r = hash_biases(&h, p, m, a, p->frozen + l);
        for (Pin pin = 0; pin < PIN_COUNT && !failed(r); pin++) {
            PinShape s = pin_shape(p, &m->config, l, pin);
            if (s.outputs == 0) continue;
            Arena arena;
            arena_init(&arena, true);
            int32_t *w;
            r = pin_weights(&w, p, m, a, l, pin, &arena);
            if (!failed(r)) hash_integers(&h, w, s.outputs * s.inputs, 4);
            arena_free(&arena);
        }
    }
    hash_end(&h, out);
    return r;
}
