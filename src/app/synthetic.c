/* synthetic.c - parties of models that nobody trained: a base from the cache, factors, tokens and a past from a seed. */
#include "app/synthetic.h"

#include <math.h>
#include "base/random.h"

/* Uniform, of standard deviation `size`. */
static float *numbers(Arena *a, size_t len, double size, uint64_t stream)
{
    float *out = arena_new(a, float, len);
    uint64_t state = random_mix(stream);
    for (size_t i = 0; i < len; i++) out[i] = (float)((2 * random_unit(&state) - 1) * sqrt(3) * size);
    return out;
}

int32_t synthetic_token(const ModelConfig *c, uint64_t seed, uint64_t position)
{
    return position == 0 ? c->bos : (int32_t)(3 + random_mix(random_mix(seed) + position) % (c->vocab - 3));
}

/* Factors of every secure layer whose product is about a tenth of the base. */
void synthetic_factors(Adapter *a, const Plan *p, const ModelConfig *c, uint64_t seed)
{
    *a = (Adapter){.layers = c->layers, .first = p->frozen};
    arena_init(&a->arena, true);
    a->pair = arena_alloc(&a->arena, c->layers, sizeof *a->pair);
    for (uint32_t l = p->frozen; l < c->layers; l++) {
        for (MatrixKind k = 0; k < MAT_COUNT; k++) {
            size_t rows = matrix_rows(c, k), cols = matrix_cols(c, k);
            uint64_t stream = random_mix(seed) + 2 * (l * MAT_COUNT + k);
            double in = 1 / sqrt((double)cols), out = 0.1 / sqrt((double)p->rank);
            if (!p->adapted[k]) continue;
            if (k == MAT_O || k == MAT_DOWN) out /= sqrt(2.0 * c->layers);
            a->pair[l][k] = (LoraPair){numbers(&a->arena, p->rank * cols, in, stream), numbers(&a->arena, rows * p->rank, out, stream + 1),
                                       p->rank, 1};
        }
    }
}

void synthetic_variant(Variant *v, const Change *k, const ModelConfig *c, Arena *a)
{
    float *norm = arena_new(a, float, 2 * (size_t)c->layers);
    for (size_t i = 0; i < 2 * (size_t)c->layers; i++) norm[i] = 1;
    if (k->norms) v->norm = norm, v->norm_mix = 1;
    v->side_by_side = k->beside;
    if (k->bounds) v->row_bound = arena_new(a, float, (size_t)c->layers * c->heads);
}

/* Keys and values of a past that nobody computed, the same in every layer: each layer masks them for itself. */
static void past_make(KnownPrefix *out, const Plan *p, const ModelConfig *c, uint64_t seed, Arena *a)
{
    size_t len = (size_t)p->known * c->kv_heads * c->head_dim;
    const float **keys = arena_new(a, const float *, p->layers), **values = arena_new(a, const float *, p->layers);
    const float *key = numbers(a, len, 1, random_mix(seed ^ 1)), *value = numbers(a, len, 1, random_mix(seed ^ 2));
    for (uint32_t l = 0; l < p->layers; l++) keys[l] = key, values[l] = value;
    *out = (KnownPrefix){keys, values};
}

Result synthetic_bundle(Bundle *b, const char *model_dir, const char *plan_path, uint64_t seed, bool past, bool provider)
{
    *b = (Bundle){0};
    GUARD(model_open(&b->model, model_dir));
    GUARD(plan_load(&b->plan, plan_path));
    Plan *p = &b->plan;
    ModelConfig *c = &b->model.config;
    if (p->layers > c->layers || p->frozen > c->layers - p->layers) return fail(FAIL_DATA, "%s: has more layers than %s", plan_path, model_dir);
    c->layers = p->frozen + p->layers;         // the base may have more
    GUARD(fail_in(plan_check(p, c), "%s", plan_path));
    b->has_adapter = provider && p->rank > 0;
    if (b->has_adapter) synthetic_factors(&b->adapter, p, c, seed);
    b->known_tokens = p->known_token;
    if (!past) return OK;
    b->known_given = arena_new(&b->model.arena, KnownPrefix, 1);
    if (provider) past_make(b->known_given, p, c, seed, &b->model.arena);
    return OK;
}
