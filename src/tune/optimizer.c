/* optimizer.c - the layout and start of the parameters, AdamW, clipping, the schedule of the learning rate. */
#include "model/layers.h"
#include "tune/train.h"

#include <math.h>
#include <string.h>

// ---- layout ----------------------------------------------------------------------------------------------------------

static void block_add(Params *p, size_t len, bool decay)
{
    p->block[p->count++] = (ParamBlock){p->total, len, decay};
    p->total += len;
}

static size_t matrix_size(const ModelConfig *c, MatrixKind m)
{
    return (size_t)matrix_rows(c, m) * matrix_cols(c, m);
}

/* The order that every function below walks: embedding, head unless tied, layers (norms, then matrices), final norm. */
void params_of_model(Params *out, const ModelConfig *c, Arena *a)
{
    *out = (Params){.block = arena_new(a, ParamBlock, 3 + (size_t)c->layers * (MAT_COUNT + 2))};
    block_add(out, (size_t)c->vocab * c->width, false);
    if (!c->tied) block_add(out, (size_t)c->vocab * c->width, true);
    for (uint32_t l = 0; l < c->layers; l++) {
        block_add(out, c->width, false);
        block_add(out, c->width, false);
        for (MatrixKind m = 0; m < MAT_COUNT; m++) block_add(out, matrix_size(c, m), true);
    }
    block_add(out, c->width, false);
}

static void bind_whole(Grads *out, const ModelConfig *c, float *at)
{
    out->embed = at, at += (size_t)c->vocab * c->width;
    out->head = out->embed;
    if (!c->tied) out->head = at, at += (size_t)c->vocab * c->width;
    for (uint32_t l = 0; l < c->layers; l++) {
        out->layer[l].attn_norm = at, at += c->width;
        out->layer[l].ffn_norm = at, at += c->width;
        for (MatrixKind m = 0; m < MAT_COUNT; m++) out->layer[l].mat[m] = at, at += matrix_size(c, m);
    }
    out->final_norm = at;
}

void params_bind_model(Model *m, float *values, Arena *a)
{
    Grads view = {.layer = arena_new(a, LayerGrads, m->config.layers)};
    bind_whole(&view, &m->config, values);
    m->layer = arena_new(a, LayerWeights, m->config.layers);
    m->embed = view.embed, m->head = view.head, m->final_norm = view.final_norm;
    for (uint32_t l = 0; l < m->config.layers; l++) {
        m->layer[l].attn_norm = view.layer[l].attn_norm;
        m->layer[l].ffn_norm = view.layer[l].ffn_norm;
        for (MatrixKind k = 0; k < MAT_COUNT; k++) m->layer[l].mat[k] = view.layer[l].mat[k];
    }
}

void params_of_adapter(Params *out, const ModelConfig *c, const Adapter *adapter, Arena *a)
{
    *out = (Params){.block = arena_new(a, ParamBlock, (size_t)c->layers * MAT_COUNT * 2)};
    for (uint32_t l = 0; l < c->layers; l++) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            size_t rank = adapter->pair[l][m].rank;
            if (!rank) continue;
            block_add(out, rank * matrix_cols(c, m), true);
            block_add(out, rank * matrix_rows(c, m), true);
        }
    }
}

void params_bind_adapter(Adapter *adapter, const ModelConfig *c, float *values)
{
    for (uint32_t l = 0; l < c->layers; l++) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            LoraPair *pair = &adapter->pair[l][m];
            if (!pair->rank) continue;
            pair->a = values, values += (size_t)pair->rank * matrix_cols(c, m);
            pair->b = values, values += (size_t)pair->rank * matrix_rows(c, m);
        }
    }
}

void params_bind_grads(Grads *out, const ModelConfig *c, const Adapter *adapter, float *values, Arena *a)
{
    *out = (Grads){.layer = arena_new(a, LayerGrads, c->layers)};
    if (!adapter) {
        bind_whole(out, c, values);
        return;
    }
    for (uint32_t l = 0; l < c->layers; l++) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            size_t rank = adapter->pair[l][m].rank;
            if (!rank) continue;
            out->layer[l].a[m] = values, values += rank * matrix_cols(c, m);
            out->layer[l].b[m] = values, values += rank * matrix_rows(c, m);
        }
    }
}

// ---- start -----------------------------------------------------------------------------------------------------------

static double random_uniform(uint64_t *state)  // in [0, 1): splitmix64; weights are no secret, this is no key
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static void fill_normal(float *x, size_t len, double std, uint64_t *state)
{
    for (size_t i = 0; i < len; i++) {
        double radius = sqrt(-2 * log(1 - random_uniform(state)));
        x[i] = (float)(std * radius * cos(6.283185307179586 * random_uniform(state)));
    }
}

static void fill_ones(float *x, size_t len)
{
    for (size_t i = 0; i < len; i++) x[i] = 1;
}

void params_init_model(const Model *m, float *values, double std, uint64_t seed)
{
    const ModelConfig *c = &m->config;
    Arena a;
    arena_init(&a, false);
    Grads view = {.layer = arena_new(&a, LayerGrads, c->layers)};
    bind_whole(&view, c, values);
    uint64_t state = seed;
    size_t table = (size_t)c->vocab * c->width;
    fill_normal(view.embed, table, std, &state);
    if (!c->tied) fill_normal(view.head, table, std, &state);
    for (uint32_t l = 0; l < c->layers; l++) {
        fill_ones(view.layer[l].attn_norm, c->width);
        fill_ones(view.layer[l].ffn_norm, c->width);
        for (MatrixKind k = 0; k < MAT_COUNT; k++) {
            bool writes = k == MAT_O || k == MAT_DOWN;
            fill_normal(view.layer[l].mat[k], matrix_size(c, k), writes ? std / sqrt(2.0 * c->layers) : std, &state);
        }
    }
    fill_ones(view.final_norm, c->width);
    arena_free(&a);
}

void params_init_adapter(const Adapter *adapter, const ModelConfig *c, uint64_t seed)
{
    uint64_t state = seed;
    for (uint32_t l = 0; l < c->layers; l++) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            const LoraPair *pair = &adapter->pair[l][m];
            if (!pair->rank) continue;
            double bound = 1 / sqrt((double)matrix_cols(c, m));
            size_t len = (size_t)pair->rank * matrix_cols(c, m);
            for (size_t i = 0; i < len; i++) pair->a[i] = (float)(bound * (2 * random_uniform(&state) - 1));
            memset(pair->b, 0, (size_t)pair->rank * matrix_rows(c, m) * sizeof *pair->b);
        }
    }
}

// ---- steps -----------------------------------------------------------------------------------------------------------

typedef struct AdamRange { float *value, *m, *v; const float *grad; float beta1, beta2, epsilon, rate, shrink, fix1, fix2; } AdamRange;

VECTOR_LOOPS static void adam_range(const AdamRange *r, size_t begin, size_t end)
{
    float *restrict value = r->value, *restrict m = r->m, *restrict v = r->v;
    const float *restrict grad = r->grad;
    const float beta1 = r->beta1, beta2 = r->beta2, epsilon = r->epsilon, rate = r->rate, shrink = r->shrink;
    const float fix1 = r->fix1, fix2 = r->fix2;
    for (size_t i = begin; i < end; i++) {
        m[i] = beta1 * m[i] + (1 - beta1) * grad[i];
        v[i] = beta2 * v[i] + (1 - beta2) * grad[i] * grad[i];
        value[i] = value[i] * shrink - rate * (m[i] * fix1) / (__builtin_sqrtf(v[i] * fix2) + epsilon);
    }
}

static void adam_body(void *ctx, size_t begin, size_t end)
{
    adam_range(ctx, begin, end);
}

void adam_step(float *values, float *moment1, float *moment2, const float *grads, const Params *p, const Adam *a, double rate,
               uint64_t step)
{
    float fix1 = (float)(1 / (1 - pow(a->beta1, (double)step))), fix2 = (float)(1 / (1 - pow(a->beta2, (double)step)));
    for (size_t i = 0; i < p->count; i++) {
        size_t at = p->block[i].at;
        float shrink = p->block[i].decay ? (float)(1 - rate * a->decay) : 1.0f;
        AdamRange r = {values + at, moment1 + at, moment2 + at, grads + at, (float)a->beta1, (float)a->beta2, (float)a->epsilon,
                       (float)rate, shrink, fix1, fix2};
        parallel_for(p->block[i].len, 32768, adam_body, &r);
    }
}

enum { SUM_BLOCK = 4096 };

typedef struct GradSum { float *out; float *const *part; double *square; size_t parts, len; } GradSum;

VECTOR_LOOPS static void add_range(float *restrict out, const float *restrict in, size_t len)
{
    for (size_t i = 0; i < len; i++) out[i] += in[i];
}

static void grads_sum_blocks(void *ctx, size_t begin, size_t end)
{
    const GradSum *g = ctx;
    for (size_t b = begin; b < end; b++) {
        size_t at = b * SUM_BLOCK, len = g->len - at < SUM_BLOCK ? g->len - at : SUM_BLOCK;
        if (g->out != g->part[0]) memcpy(g->out + at, g->part[0] + at, len * sizeof *g->out);
        for (size_t p = 1; p < g->parts; p++) add_range(g->out + at, g->part[p] + at, len);
        double sum = 0;
        for (size_t i = 0; i < len; i++) sum += (double)g->out[at + i] * (double)g->out[at + i];
        g->square[b] = sum;
    }
}

double grads_sum(float *out, float *const *part, size_t parts, size_t len)
{
    Arena a;
    arena_init(&a, false);
    size_t blocks = (len + SUM_BLOCK - 1) / SUM_BLOCK;
    GradSum g = {out, part, arena_new(&a, double, blocks), parts, len};
    parallel_for(blocks, 8, grads_sum_blocks, &g);
    double sum = 0;
    for (size_t b = 0; b < blocks; b++) sum += g.square[b];
    arena_free(&a);
    return sqrt(sum);
}

void grads_scale(float *grads, size_t len, float by)
{
    for (size_t i = 0; i < len; i++) grads[i] *= by;
}

double schedule_rate(double peak, double floor_ratio, uint64_t step, uint64_t warmup, uint64_t steps)
{
    if (step <= warmup) return peak * (double)step / (double)warmup;
    double done = steps > warmup ? (double)(step - warmup) / (double)(steps - warmup) : 1;
    if (done > 1) done = 1;
    return peak * (floor_ratio + (1 - floor_ratio) * 0.5 * (1 + cos(3.141592653589793 * done)));
}
