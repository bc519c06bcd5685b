/* models.h - small random models and adapters for tests: no file, any shape. */
#ifndef MARILL_MODELS_H
#define MARILL_MODELS_H

#include "model/model.h"
#include "test.h"

static float *random_weights(Arena *a, size_t len, double size)
{
    float *w = arena_new(a, float, len);
    for (size_t i = 0; i < len; i++) w[i] = (float)((test_random() + test_random() + test_random() - 1.5) * 2 * size);
    return w;
}

static float *random_gains(Arena *a, size_t len)
{
    float *w = arena_new(a, float, len);
    for (size_t i = 0; i < len; i++) w[i] = (float)(0.6 + 0.8 * test_random());
    return w;
}

/* Weights of rms `size` / sqrt(inputs). */
static inline void random_model(Model *m, const ModelConfig *c, double size)
{
    *m = (Model){.config = *c};
    arena_init(&m->arena, false);
    m->embed = random_weights(&m->arena, (size_t)c->vocab * c->width, 1);
    m->head = c->tied ? m->embed : random_weights(&m->arena, (size_t)c->vocab * c->width, 1 / sqrt((double)c->width));
    m->final_norm = random_gains(&m->arena, c->width);
    m->layer = arena_new(&m->arena, LayerWeights, c->layers);
    for (uint32_t l = 0; l < c->layers; l++) {
        m->layer[l].attn_norm = random_gains(&m->arena, c->width);
        m->layer[l].ffn_norm = random_gains(&m->arena, c->width);
        for (MatrixKind k = 0; k < MAT_COUNT; k++)
            m->layer[l].mat[k] = random_weights(&m->arena, (size_t)matrix_rows(c, k) * matrix_cols(c, k),
                                                size / sqrt((double)matrix_cols(c, k)));
    }
    if (c->arch != ARCH_GPT2) return;
    m->positions = random_weights(&m->arena, (size_t)c->context * c->width, 0.5);
    m->head_bias = random_weights(&m->arena, c->vocab, 0.5);
    for (uint32_t l = 0; l < c->layers; l++) {
        m->layer[l].attn_shift = random_weights(&m->arena, c->width, 0.3);
        m->layer[l].ffn_shift = random_weights(&m->arena, c->width, 0.3);
        for (MatrixKind k = 0; k < MAT_COUNT; k++)
            if (matrix_rows(c, k)) m->layer[l].bias[k] = random_weights(&m->arena, matrix_rows(c, k), 0.3);
    }
}

/* Factors in the matrices of `kinds` (a bit each), from layer `first` on; delta: size of B A relative to a random matrix. */
static inline void random_adapter(Adapter *a, const ModelConfig *c, uint32_t first, uint32_t rank, unsigned kinds,
                                                   double delta)
{
    *a = (Adapter){.layers = c->layers, .first = first};
    arena_init(&a->arena, false);
    a->pair = arena_alloc(&a->arena, c->layers, sizeof *a->pair);
    for (uint32_t l = first; l < c->layers; l++) {
        for (MatrixKind k = 0; k < MAT_COUNT; k++) {
            if (!(kinds >> k & 1)) continue;
            double in = 1 / sqrt((double)matrix_cols(c, k));
            LoraPair *p = &a->pair[l][k];
            *p = (LoraPair){.rank = rank, .scale = 2};
            p->a = random_weights(&a->arena, (size_t)rank * matrix_cols(c, k), in);
            p->b = random_weights(&a->arena, (size_t)matrix_rows(c, k) * rank, delta / 2 / sqrt((double)rank));
        }
    }
}

#endif
