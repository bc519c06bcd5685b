/* quant_make.c - where the integers of a quantised base come from: a model's floats, or a seed. */
#include "base/random.h"
#include "model/quant.h"

#include <math.h>
#include <string.h>

// ---- of a model ------------------------------------------------------------------------------------------------------

enum { STEPS = 127 };

typedef struct Floats { const float *w, *gain; double scale; } Floats;

static Floats floats_of(const Model *m, const QuantTensor *t)
{
    const LayerWeights *l = t->in_layer ? &m->layer[t->layer] : NULL;
    if (!l) return strcmp(t->name, "embed_tokens") == 0 ? (Floats){m->embed, NULL, 1} : (Floats){m->head, m->final_norm, 1};
    MatrixKind k = t->kind;
    bool attention = k == MAT_Q || k == MAT_K || k == MAT_V, ffn = k == MAT_GATE || k == MAT_UP;
    return (Floats){l->mat[k], attention ? l->attn_norm : ffn ? l->ffn_norm : NULL, k == MAT_Q ? 1 / sqrt((double)m->config.head_dim) : 1};
}

static const float *gain_of(const Model *m, const QuantTensor *t)
{
    if (!t->in_layer) return m->final_norm;
    return strcmp(t->name, "input_layernorm") == 0 ? m->layer[t->layer].attn_norm : m->layer[t->layer].ffn_norm;
}

static Result model_row(const void *ctx, const QuantTensor *t, size_t row, int32_t *scale, int8_t *steps, float *gain)
{
    const Model *m = ctx;
    if (gain) {
        memcpy(gain, gain_of(m, t), t->cols * sizeof *gain);
        return OK;
    }
    Floats f = floats_of(m, t);
    const float *w = f.w + row * t->cols;
    double most = 0;
    for (size_t j = 0; j < t->cols; j++) most = fmax(most, fabs((double)w[j] * (f.gain ? (double)f.gain[j] : 1) * f.scale));
    double least = ceil(ldexp(most / STEPS, QUANT_F));
    if (!(least <= QUANT_SCALE_MOST)) return fail(FAIL_DATA, "a weight of %g is too large for 8 bits with a scale", most);
    *scale = least < 1 ? 1 : (int32_t)least;
    double step = ldexp(*scale, -QUANT_F);
    for (size_t j = 0; j < t->cols; j++) steps[j] = (int8_t)rint((double)w[j] * (f.gain ? (double)f.gain[j] : 1) * f.scale / step);
    return OK;
}

Result model_quantise(const Model *m, const char *dir, const Progress *p)
{
    if (m->quantised) return fail(FAIL_USE, "the model is quantised already");
    return quant_write(dir, &m->config, &(QuantSource){.row = model_row, .ctx = m}, p);
}

// ---- of a seed -------------------------------------------------------------------------------------------------------

/* A bell of standard deviation 32 steps in 256 equal parts of its mass: the normal quantile at the middle of each. */
static void bell_make(int8_t bell[256])
{
    for (int i = 0; i < 128; i++) {
        double low = 0, high = 4;
        for (int n = 0; n < 40; n++) {
            double x = (low + high) / 2;
            if (erf(x / sqrt(2)) < (i + 0.5) / 128) low = x;
            else high = x;
        }
        bell[128 + i] = (int8_t)rint(32 * low);
        bell[127 - i] = (int8_t)-bell[128 + i];
    }
}

typedef struct Synthetic { uint64_t seed; uint32_t head_dim, layers; int8_t bell[256]; } Synthetic;

/* Weights whose products keep unit size: rms 1 / sqrt(inputs), what writes the residual less by sqrt(2 layers), as trained models
 * are started; the embedding of rms 1. Scales of rows differ by up to a quarter. */
static double synthetic_size(const Synthetic *s, const QuantTensor *t)
{
    double size = 1 / sqrt((double)t->cols);
    if (!t->in_layer) return strcmp(t->name, "embed_tokens") == 0 ? 1 : size;
    if (t->kind == MAT_Q) return size / sqrt((double)s->head_dim);
    return t->kind == MAT_O || t->kind == MAT_DOWN ? size / sqrt(2.0 * s->layers) : size;
}

static Result synthetic_row(const void *ctx, const QuantTensor *t, size_t row, int32_t *scale, int8_t *steps, float *gain)
{
    const Synthetic *s = ctx;
    if (gain) {
        for (size_t j = 0; j < t->cols; j++) gain[j] = 1;
        return OK;
    }
    uint64_t state = random_mix(s->seed + RANDOM_STEP * (t->at + 1)) + random_mix(row + UINT64_C(0xD1B54A32D192ED03));
    double step = ldexp(synthetic_size(s, t) / 32, QUANT_F) * (0.875 + ldexp((double)(random_mix(state) >> 32), -34));
    *scale = step < 1 ? 1 : (int32_t)rint(step);
    for (size_t j = 0; j < t->cols; j += 8) {
        uint64_t v = random_draw(&state);
        for (size_t b = 0; b < 8 && j + b < t->cols; b++) steps[j + b] = s->bell[v >> 8 * b & 0xFF];
    }
    return OK;
}

Result model_synthesise(const ModelConfig *c, uint64_t seed, const char *dir, const Progress *p)
{
    Synthetic s = {.seed = seed, .head_dim = c->head_dim, .layers = c->layers};
    bell_make(s.bell);
    return quant_write(dir, c, &(QuantSource){.row = synthetic_row, .ctx = &s, .synthetic = true, .seed = seed}, p);
}
