/* synthetic.c - models with random weights, for measuring and for tests: no file, any shape. */
#include <math.h>
#include "base/random.h"
#include "model/model.h"

/* Nearly normal: the sum of three uniform numbers, of variance 1/4, doubled. */
static const float *random_values(Arena *a, size_t len, double mean, double deviation, uint64_t *state)
{
    float *w = arena_new(a, float, len);
    for (size_t i = 0; i < len; i++) {
        double sum = random_unit(state) + random_unit(state) + random_unit(state);
        w[i] = (float)(mean + (sum - 1.5) * 2 * deviation);
    }
    return w;
}

static void layer_fill(LayerWeights *l, const ModelConfig *c, Arena *a, uint64_t *state)
{
    bool shifted = c->arch == ARCH_GPT2;
    l->attn_norm = random_values(a, c->width, 1, 0.1, state), l->ffn_norm = random_values(a, c->width, 1, 0.1, state);
    if (shifted) l->attn_shift = random_values(a, c->width, 0, 0.1, state), l->ffn_shift = random_values(a, c->width, 0, 0.1, state);
    for (MatrixKind k = 0; k < MAT_COUNT; k++) {
        size_t rows = matrix_rows(c, k), cols = matrix_cols(c, k);
        if (rows == 0) continue;
        l->mat[k] = random_values(a, rows * cols, 0, 1 / sqrt((double)cols), state);
        if (shifted) l->bias[k] = random_values(a, rows, 0, 0.1, state);
    }
}

void model_random(Model *out, const ModelConfig *c, uint64_t seed)
{
    bool shifted = c->arch == ARCH_GPT2;
    *out = (Model){.config = *c};
    Arena *a = &out->arena;
    arena_init(a, false);
    out->embed = random_values(a, (size_t)c->vocab * c->width, 0, c->tied ? 0.25 : 1, &seed);   // a tied one is the head as well
    out->head = c->tied ? out->embed : random_values(a, (size_t)c->vocab * c->width, 0, 1 / sqrt((double)c->width), &seed);
    out->final_norm = random_values(a, c->width, 1, 0.1, &seed);
    if (shifted) {
        out->positions = random_values(a, (size_t)c->context * c->width, 0, 0.1, &seed);
        out->head_bias = random_values(a, c->vocab, 0, 0.1, &seed);
    }
    out->layer = arena_new(a, LayerWeights, c->layers);
    for (uint32_t l = 0; l < c->layers; l++) layer_fill(&out->layer[l], c, a, &seed);
}
