/* train_attention.c - causal attention over a pack of samples, forward above backward.
 *
 * Nothing of the size (time, time) outlives a block of ATTENTION_BLOCK queries: the forward pass keeps one number a row
 * and head, the logarithm of the softmax's denominator, from which the backward pass gets the probabilities back after
 * computing the scores once more (Dao et al. 2022). Runs on one thread: callers have a pack for each. */
#include "model/layers.h"
#include "tune/train.h"

#include <math.h>
#include <string.h>

// One head of one sample: where its rows begin, and how far apart they lie.
typedef struct Head { const float *q, *k, *v; size_t rows, ld_q, ld_k, dim; float scale; } Head;

static Head head_at(const float *q, const float *k, const float *v, const ModelConfig *c, uint32_t h, size_t from, size_t to)
{
    size_t ld_q = (size_t)c->heads * c->head_dim, ld_k = (size_t)c->kv_heads * c->head_dim;
    size_t of = h / (c->heads / c->kv_heads) * c->head_dim;
    return (Head){q + from * ld_q + h * c->head_dim, k + from * ld_k + of, v + from * ld_k + of, to - from, ld_q, ld_k, c->head_dim,
                  1.0f / sqrtf((float)c->head_dim)};
}

/* score (n, seen): the scaled scores of queries begin..begin+n with the `seen` keys up to the block's end. */
static void block_scores(float *score, const Head *h, size_t begin, size_t n, size_t seen)
{
    product((Product){.turn_b = true, .alpha = h->scale}, score, seen, h->q + begin * h->ld_q, h->ld_q, h->k, h->ld_k, n, seen, h->dim);
}

static void head_forward(float *mixed, float *log_sum, size_t ld_sum, const Head *h, float *score)
{
    for (size_t begin = 0; begin < h->rows; begin += ATTENTION_BLOCK) {
        size_t n = h->rows - begin < ATTENTION_BLOCK ? h->rows - begin : ATTENTION_BLOCK, seen = begin + n;
        block_scores(score, h, begin, n, seen);
        for (size_t i = 0; i < n; i++) {
            float *row = score + i * seen;
            size_t len = begin + i + 1;
            float top = vector_largest(row, len), sum = exp_shifted(row, top, len);
            vector_scale(row, 1.0f / sum, len);
            memset(row + len, 0, (seen - len) * sizeof *row);
            log_sum[(begin + i) * ld_sum] = top + logf(sum);
        }
        product((Product){.alpha = 1}, mixed + begin * h->ld_q, h->ld_q, score, seen, h->v, h->ld_k, n, h->dim, seen);
    }
}

void attention_forward(float *mixed, float *log_sum, const float *q, const float *k, const float *v, const Pack *p, const ModelConfig *c,
                       float *work)
{
    for (size_t s = 0; s < p->samples; s++) {
        for (uint32_t i = 0; i < c->heads; i++) {
            Head h = head_at(q, k, v, c, i, p->start[s], p->start[s + 1]);
            head_forward(mixed + p->start[s] * h.ld_q + i * h.dim, log_sum + p->start[s] * c->heads + i, c->heads, &h, work);
        }
    }
}

static float row_dot(const float *x, const float *y, size_t len)
{
    float sum = 0;
    for (size_t i = 0; i < len; i++) sum += x[i] * y[i];
    return sum;
}

VECTOR_LOOPS static void row_score_backward(float *restrict d_score, const float *restrict weight, float pull, size_t len)
{
    for (size_t i = 0; i < len; i++) d_score[i] = weight[i] * (d_score[i] - pull);
}

typedef struct HeadGrads { float *d_q, *d_k, *d_v; const float *d_mixed, *mixed, *log_sum; size_t ld_sum; } HeadGrads;

static void head_backward(const HeadGrads *g, const Head *h, float *weight)
{
    for (size_t begin = 0; begin < h->rows; begin += ATTENTION_BLOCK) {
        size_t n = h->rows - begin < ATTENTION_BLOCK ? h->rows - begin : ATTENTION_BLOCK, seen = begin + n, at = begin * h->ld_q;
        float *d_score = weight + n * seen;
        block_scores(weight, h, begin, n, seen);
        product((Product){.turn_b = true, .alpha = 1}, d_score, seen, g->d_mixed + at, h->ld_q, h->v, h->ld_k, n, seen, h->dim);
        for (size_t i = 0; i < n; i++) {
            size_t len = begin + i + 1, row = at + i * h->ld_q;
            (void)exp_shifted(weight + i * seen, g->log_sum[(begin + i) * g->ld_sum], len);
            row_score_backward(d_score + i * seen, weight + i * seen, row_dot(g->d_mixed + row, g->mixed + row, h->dim), len);
            memset(weight + i * seen + len, 0, (seen - len) * sizeof *weight);
            memset(d_score + i * seen + len, 0, (seen - len) * sizeof *weight);
        }
        Product add = {.turn_a = true, .accumulate = true, .alpha = 1}, add_scaled = add;
        add_scaled.alpha = h->scale;
        product(add, g->d_v, h->ld_k, weight, seen, g->d_mixed + at, h->ld_q, seen, h->dim, n);
        product(add_scaled, g->d_k, h->ld_k, d_score, seen, h->q + at, h->ld_q, seen, h->dim, n);
        product((Product){.alpha = h->scale}, g->d_q + at, h->ld_q, d_score, seen, h->k, h->ld_k, n, h->dim, seen);
    }
}

void attention_backward(float *d_q, float *d_k, float *d_v, const float *d_mixed, const float *mixed, const float *log_sum,
                        const float *q, const float *k, const float *v, const Pack *p, const ModelConfig *c, float *work)
{
    size_t ld_k = (size_t)c->kv_heads * c->head_dim;
    memset(d_k, 0, p->rows * ld_k * sizeof *d_k);
    memset(d_v, 0, p->rows * ld_k * sizeof *d_v);
    for (size_t s = 0; s < p->samples; s++) {
        for (uint32_t i = 0; i < c->heads; i++) {
            Head h = head_at(q, k, v, c, i, p->start[s], p->start[s + 1]);
            size_t at = p->start[s] * h.ld_q + i * h.dim, at_k = (size_t)(h.k - k);
            const float *sums = log_sum + p->start[s] * c->heads + i;
            HeadGrads g = {d_q + at, d_k + at_k, d_v + at_k, d_mixed + at, mixed + at, sums, c->heads};
            head_backward(&g, &h, work);
        }
    }
}
