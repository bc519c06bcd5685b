/* approximations.c - polynomials and ReLU in place of SiLU, GELU and the exponential, as MPCFormer has them (Li et al. 2023),
 * each forward above its backward. */
#include "model/layers.h"

typedef struct Gated { float *out, *d_gate, *d_up; const float *gate, *up, *d_out; Activation how; } Gated;

static inline float activation_at(float x, Activation how)
{
    if (how == ACTIVATION_QUAD) return (x * 0.125f + 0.25f) * x + 0.5f;
    return x > 0 ? x : 0;
}

static inline float activation_slope(float x, Activation how)
{
    if (how == ACTIVATION_QUAD) return x * 0.25f + 0.25f;
    return x > 0 ? 1.0f : 0.0f;
}

static void gated_forward_range(void *ctx, size_t begin, size_t end)
{
    const Gated *g = ctx;
    for (size_t i = begin; i < end; i++) g->out[i] = activation_at(g->gate[i], g->how) * (g->up ? g->up[i] : 1);
}

void gated_forward(float *out, const float *gate, const float *up, Activation how, size_t len)
{
    ASSERT(how != ACTIVATION_BASE);
    Gated g = {.out = out, .gate = gate, .up = up, .how = how};
    parallel_for(len, 16384, gated_forward_range, &g);
}

static void gated_backward_range(void *ctx, size_t begin, size_t end)
{
    const Gated *g = ctx;
    for (size_t i = begin; i < end; i++) {
        g->d_up[i] = g->d_out[i] * activation_at(g->gate[i], g->how);
        g->d_gate[i] = g->d_out[i] * g->up[i] * activation_slope(g->gate[i], g->how);
    }
}

void gated_backward(float *d_gate, float *d_up, const float *d_out, const float *gate, const float *up, Activation how, size_t len)
{
    ASSERT(how != ACTIVATION_BASE);
    Gated g = {.d_gate = d_gate, .d_up = d_up, .d_out = d_out, .gate = gate, .up = up, .how = how};
    parallel_for(len, 16384, gated_backward_range, &g);
}

VECTOR_LOOPS float row_quad(float *x, float shift, size_t len)
{
    float sum = 0;
    for (size_t i = 0; i < len; i++) sum += x[i] = (x[i] + shift) * (x[i] + shift);
    return sum;
}

VECTOR_LOOPS float row_relu(float *x, size_t len)
{
    float sum = 0;
    for (size_t i = 0; i < len; i++) sum += x[i] = x[i] > 0 ? x[i] : 0;
    return sum;
}
