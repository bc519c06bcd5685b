/* params.c - which numbers are trained: their layout in one array, views of it, their start. */
#include "base/random.h"
#include "tune/train.h"

#include <math.h>
#include <string.h>

// ---- layout ----------------------------------------------------------------------------------------------------------

static void block_add(Params *p, uint32_t layer, size_t len, bool decay)
{
    p->block[p->count++] = (ParamBlock){p->total, len, layer, decay};
    p->total += len;
}

static size_t matrix_size(const ModelConfig *c, MatrixKind m)
{
    return (size_t)matrix_rows(c, m) * matrix_cols(c, m);
}

static void layer_add(Params *out, uint32_t layer, const ModelConfig *c)
{
    block_add(out, layer, c->width, false);
    block_add(out, layer, c->width, false);
    for (MatrixKind m = 0; m < MAT_COUNT; m++) block_add(out, layer, matrix_size(c, m), true);
}

/* The order that every function below walks: embedding, head unless tied, layers (norms, then matrices), final norm. */
void params_of_model(Params *out, const ModelConfig *c, Arena *a)
{
    *out = (Params){.block = arena_new(a, ParamBlock, 3 + (size_t)c->layers * (MAT_COUNT + 2))};
    block_add(out, PARAM_OUTSIDE, (size_t)c->vocab * c->width, false);
    if (!c->tied) block_add(out, PARAM_OUTSIDE, (size_t)c->vocab * c->width, true);
    for (uint32_t l = 0; l < c->layers; l++) layer_add(out, l, c);
    block_add(out, PARAM_OUTSIDE, c->width, false);
}

void params_of_layers(Params *out, const ModelConfig *c, uint32_t first, Arena *a)
{
    *out = (Params){.block = arena_new(a, ParamBlock, (size_t)c->layers * (MAT_COUNT + 2))};
    for (uint32_t l = first; l < c->layers; l++) layer_add(out, l, c);
}

static float *bind_layer(LayerGrads *out, const ModelConfig *c, float *at)
{
    out->attn_norm = at, at += c->width;
    out->ffn_norm = at, at += c->width;
    for (MatrixKind m = 0; m < MAT_COUNT; m++) out->mat[m] = at, at += matrix_size(c, m);
    return at;
}

static void bind_whole(Grads *out, const ModelConfig *c, float *at)
{
    out->embed = at, at += (size_t)c->vocab * c->width;
    out->head = out->embed;
    if (!c->tied) out->head = at, at += (size_t)c->vocab * c->width;
    for (uint32_t l = 0; l < c->layers; l++) at = bind_layer(&out->layer[l], c, at);
    out->final_norm = at;
}

static void weights_bind(LayerWeights *out, const LayerGrads *view)
{
    out->attn_norm = view->attn_norm, out->ffn_norm = view->ffn_norm;
    for (MatrixKind k = 0; k < MAT_COUNT; k++) out->mat[k] = view->mat[k];
}

void params_bind_model(Model *m, float *values, Arena *a)
{
    Grads view = {.layer = arena_new(a, LayerGrads, m->config.layers)};
    bind_whole(&view, &m->config, values);
    m->layer = arena_new(a, LayerWeights, m->config.layers);
    m->embed = view.embed, m->head = view.head, m->final_norm = view.final_norm;
    for (uint32_t l = 0; l < m->config.layers; l++) weights_bind(&m->layer[l], &view.layer[l]);
}

void params_bind_layers(Model *m, uint32_t first, float *values, Arena *a)
{
    const ModelConfig *c = &m->config;
    LayerWeights *layer = arena_new(a, LayerWeights, c->layers);
    memcpy(layer, m->layer, c->layers * sizeof *layer);
    for (uint32_t l = first; l < c->layers; l++) {
        LayerGrads view;
        values = bind_layer(&view, c, values);
        memcpy(view.attn_norm, layer[l].attn_norm, c->width * sizeof *values);
        memcpy(view.ffn_norm, layer[l].ffn_norm, c->width * sizeof *values);
        for (MatrixKind k = 0; k < MAT_COUNT; k++) memcpy(view.mat[k], layer[l].mat[k], matrix_size(c, k) * sizeof *values);
        weights_bind(&layer[l], &view);
    }
    m->layer = layer;
}


// ---- layout of factors -----------------------------------------------------------------------------------------------

/* The matrix whose factor A this one has: itself, or the first of those that share it. */
static MatrixKind factor_a_of(const Adapter *adapter, uint32_t layer, MatrixKind m)
{
    MatrixKind from = m;
    if (adapter->share_qkv && m <= MAT_V) from = MAT_Q;
    if (adapter->share_gate_up && (m == MAT_GATE || m == MAT_UP)) from = MAT_GATE;
    while (from < m && !adapter->pair[layer][from].rank) from++;
    return from;
}

static size_t factor_size(const Adapter *adapter, const ModelConfig *c, uint32_t layer, MatrixKind m, LoraFactor which)
{
    return (size_t)adapter->pair[layer][m].rank * (which == FACTOR_A ? matrix_cols(c, m) : matrix_rows(c, m));
}

/* Calls take(ctx, ...) for each factor that there is, A before B, shared ones once. */
typedef void (*FactorTake)(void *ctx, uint32_t layer, MatrixKind m, LoraFactor which, size_t len);

static void factors_walk(const Adapter *adapter, const ModelConfig *c, FactorTake take, void *ctx)
{
    for (uint32_t l = 0; l < c->layers; l++) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            if (!adapter->pair[l][m].rank) continue;
            if (factor_a_of(adapter, l, m) == m) take(ctx, l, m, FACTOR_A, factor_size(adapter, c, l, m, FACTOR_A));
            take(ctx, l, m, FACTOR_B, factor_size(adapter, c, l, m, FACTOR_B));
        }
    }
}

typedef struct FactorBind { Adapter *adapter; Grads *grads; Params *params; float *at; Arena *arena; } FactorBind;

static void factor_add(void *ctx, uint32_t layer, MatrixKind m, LoraFactor which, size_t len)
{
    const FactorBind *b = ctx;
    (void)m;
    if (which != b->adapter->fixed) block_add(b->params, layer, len, true);
}

void params_of_adapter(Params *out, const ModelConfig *c, const Adapter *adapter, Arena *a)
{
    *out = (Params){.block = arena_new(a, ParamBlock, (size_t)c->layers * MAT_COUNT * 2)};
    Adapter form = *adapter;
    factors_walk(adapter, c, factor_add, &(FactorBind){.adapter = &form, .params = out});
}

static void factor_bind(void *ctx, uint32_t layer, MatrixKind m, LoraFactor which, size_t len)
{
    FactorBind *b = ctx;
    LoraPair *pair = &b->adapter->pair[layer][m];
    float *to = b->at;
    if (which == b->adapter->fixed) to = arena_new(b->arena, float, len);
    else b->at += len;
    *(which == FACTOR_A ? &pair->a : &pair->b) = to;
}

void params_bind_adapter(Adapter *adapter, const ModelConfig *c, float *values, Arena *a)
{
    factors_walk(adapter, c, factor_bind, &(FactorBind){.adapter = adapter, .at = values, .arena = a});
    for (uint32_t l = 0; l < c->layers; l++)
        for (MatrixKind m = 0; m < MAT_COUNT; m++)
            if (adapter->pair[l][m].rank) adapter->pair[l][m].a = adapter->pair[l][factor_a_of(adapter, l, m)].a;
}

static void factor_bind_grads(void *ctx, uint32_t layer, MatrixKind m, LoraFactor which, size_t len)
{
    FactorBind *b = ctx;
    if (which == b->adapter->fixed) return;
    *(which == FACTOR_A ? &b->grads->layer[layer].a[m] : &b->grads->layer[layer].b[m]) = b->at;
    b->at += len;
}

void params_bind_grads(Grads *out, const ModelConfig *c, const Adapter *adapter, float *values, Arena *a)
{
    *out = (Grads){.layer = arena_new(a, LayerGrads, c->layers)};
    if (!adapter) {
        bind_whole(out, c, values);
        return;
    }
    Adapter form = *adapter;
    factors_walk(adapter, c, factor_bind_grads, &(FactorBind){.adapter = &form, .grads = out, .at = values});
    for (uint32_t l = 0; l < c->layers; l++)
        for (MatrixKind m = 0; m < MAT_COUNT; m++)
            if (adapter->pair[l][m].rank) out->layer[l].a[m] = out->layer[l].a[factor_a_of(adapter, l, m)];
}

void params_bind_layer_grads(Grads *out, const ModelConfig *c, uint32_t first, float *values, Arena *a)
{
    *out = (Grads){.layer = arena_new(a, LayerGrads, c->layers)};
    for (uint32_t l = first; l < c->layers; l++) values = bind_layer(&out->layer[l], c, values);
}

// ---- start -----------------------------------------------------------------------------------------------------------

static void fill_normal(float *x, size_t len, double std, uint64_t *state)
{
    for (size_t i = 0; i < len; i++) {
        double radius = sqrt(-2 * log(1 - random_unit(state)));
        x[i] = (float)(std * radius * cos(6.283185307179586 * random_unit(state)));
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

typedef struct FactorStart { Adapter *adapter; const ModelConfig *config; uint64_t state; } FactorStart;

/* Uniform, or zero where the other factor is the one that starts at random. */
static void factor_start(void *ctx, uint32_t layer, MatrixKind m, LoraFactor which, size_t len)
{
    FactorStart *s = ctx;
    const LoraPair *pair = &s->adapter->pair[layer][m];
    LoraFactor random = s->adapter->fixed == FACTOR_B ? FACTOR_B : FACTOR_A;
    float *x = which == FACTOR_A ? pair->a : pair->b;
    double bound = which == FACTOR_A ? 1 / sqrt((double)matrix_cols(s->config, m)) : sqrt(3.0 / pair->rank);
    for (size_t i = 0; i < len; i++) x[i] = which == random ? (float)(bound * (2 * random_unit(&s->state) - 1)) : 0;
}

void params_init_adapter(Adapter *adapter, const ModelConfig *c, uint64_t seed)
{
    factors_walk(adapter, c, factor_start, &(FactorStart){adapter, c, seed});
    adapter->fixed_seed = seed;
}
