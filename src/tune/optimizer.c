/* optimizer.c - AdamW, clipping, the schedule of the learning rate. */
#include "model/layers.h"
#include "tune/train.h"

#include <math.h>
#include <string.h>

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
