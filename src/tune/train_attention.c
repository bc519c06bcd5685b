/* train_attention.c - causal attention over a pack of samples, forward above backward.
 *
 * Nothing of the size (time, time) outlives a block of ATTENTION_BLOCK queries: the forward pass keeps one number a row
 * and softmax, what its weights are divided by, from which the backward pass gets the weights back after computing the
 * scores once more (Dao et al. 2022). Heads that are merged add up their scores and mix their own values with the same weights.
 * Runs on one thread: callers have a pack for each. */
#include "tune/aware.h"
#include "tune/train.h"

#include <math.h>
#include <string.h>

// One softmax of one sample: where its rows begin, and how far apart they lie.
typedef struct Head { const Attention *t; uint32_t merged; size_t sample, from, rows, ld_q, ld_k, dim; } Head;

static Head head_at(const Attention *t, uint32_t merged, size_t sample)
{
    const ModelConfig *c = t->config;
    size_t from = t->pack->start[sample], to = t->pack->start[sample + 1];
    return (Head){t, merged, sample, from, to - from, (size_t)c->heads * c->head_dim, (size_t)c->kv_heads * c->head_dim, c->head_dim};
}

// Where a member's block of queries begins, and its keys.
typedef struct Place { size_t q, k; } Place;

static Place member_at(const Head *h, uint32_t member, size_t begin)
{
    HeadMember m = head_member(&h->t->how, h->merged, member);
    return (Place){(h->from + begin) * h->ld_q + m.query, h->from * h->ld_k + m.key};
}

/* score (n, seen): the scaled scores of queries begin..begin+n with the `seen` keys up to the block's end. */
static void block_scores(float *score, const Head *h, size_t begin, size_t n, size_t seen)
{
    const LayerVariant *how = &h->t->how;
    for (uint32_t i = 0; i < how->size; i++) {
        Place at = member_at(h, i, begin);
        product((Product){.turn_b = true, .accumulate = i > 0, .alpha = how->scale}, score, seen, h->t->q + at.q, h->ld_q, h->t->k + at.k,
                h->ld_k, n, seen, h->dim);
    }
}

/* How far the maximum of a row lies from its bound, less the slack; the sign says on which side. */
static float row_excess(const Attention *t, uint32_t merged, float top)
{
    float off = top - t->how.row_bound[merged], over = fabsf(off) - t->row_slack;
    return over <= 0 ? 0 : off > 0 ? over : -over;
}

/* Scores become weights. Returns what they were divided by: its logarithm, where they are exponentials. */
static float row_weigh(const LayerVariant *how, float *row, size_t len)
{
    float top = 0, sum;
    if (how->softmax == SOFTMAX_2QUAD) sum = row_quad(row, how->shift, len);
    else if (how->softmax == SOFTMAX_2RELU) sum = row_relu(row, len) + SOFTMAX_FLOOR;
    else sum = exp_shifted(row, top = vector_largest(row, len), len);
    vector_scale(row, 1.0f / sum, len);
    return how->softmax == SOFTMAX_EXP ? top + logf(sum) : sum;
}

/* The same through the table of exp, for row `at` of the sample. */
static float row_weigh_secure(const Head *h, float *row, size_t at)
{
    const Attention *t = h->t;
    uint32_t key = aware_score_key(t->pack, h->sample, t->layer, h->merged, at);
    float top, sum = row_exp(row, &top, at + 1, &t->secure->exp, t->secure->weight, key);
    vector_scale(row, 1.0f / sum, at + 1);
    return top + logf(sum);
}

/* Returns the sum over the rows of the excess squared. */
static double head_forward(float *mixed, float *sums, const Head *h)
{
    const Attention *t = h->t;
    float *score = t->work;
    double penalty = 0;
    for (size_t begin = 0; begin < h->rows; begin += ATTENTION_BLOCK) {
        size_t n = h->rows - begin < ATTENTION_BLOCK ? h->rows - begin : ATTENTION_BLOCK, seen = begin + n;
        block_scores(score, h, begin, n, seen);
        for (size_t i = 0; i < n; i++) {
            float *row = score + i * seen;
            size_t len = begin + i + 1;
            double excess = t->how.row_bound ? (double)row_excess(t, h->merged, vector_largest(row, len)) : 0;
            penalty += excess * excess;
            float by = t->secure ? row_weigh_secure(h, row, begin + i) : row_weigh(&t->how, row, len);
            sums[(h->from + begin + i) * t->config->heads + h->merged] = by;
            memset(row + len, 0, (seen - len) * sizeof *row);
        }
        for (uint32_t m = 0; m < t->how.size; m++) {
            Place at = member_at(h, m, begin);
            product((Product){.alpha = 1}, mixed + at.q, h->ld_q, score, seen, t->v + at.k, h->ld_k, n, h->dim, seen);
        }
    }
    return penalty;
}

double attention_forward(float *mixed, float *sums, const Attention *t)
{
    const Pack *p = t->pack;
    double penalty = 0;
    if (t->how.pruned) memset(mixed, 0, p->rows * t->config->heads * t->config->head_dim * sizeof *mixed);
    for (size_t s = 0; s < p->samples; s++) {
        for (uint32_t i = 0; i < merged_heads(&t->how); i++) {
            Head h = head_at(t, i, s);
            penalty += head_forward(mixed, sums, &h);
        }
    }
    return penalty;
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

/* With weights w = f(s) / sum(f) and pull = sum(d_w w): d_s = f'(s) / sum(f) (d_w - pull). row: scores that become weights;
 * d_row: from d_w to d_s. */
static void row_backward(const LayerVariant *how, float *row, float *d_row, float sum, float pull, size_t len)
{
    if (how->softmax == SOFTMAX_EXP) {
        (void)exp_shifted(row, sum, len);
        row_score_backward(d_row, row, pull, len);
        return;
    }
    bool quad = how->softmax == SOFTMAX_2QUAD;
    float by = 1.0f / sum;
    for (size_t i = 0; i < len; i++) {
        float f = quad ? row[i] + how->shift : row[i] > 0 ? row[i] : 0, slope = quad ? 2 * f : row[i] > 0 ? 1 : 0;
        row[i] = (quad ? f * f : f) * by;
        d_row[i] = slope * by * (d_row[i] - pull);
    }
}

/* Weights and gradients of the scores of one block, from what the gradients of the mixed values say; row_weight: see train.h. */
static void block_backward(const AttentionGrads *g, const Head *h, size_t begin, size_t n, size_t seen, float row_weight)
{
    const Attention *t = h->t;
    float *weight = t->work, *d_score = weight + n * seen;
    block_scores(weight, h, begin, n, seen);
    for (uint32_t m = 0; m < t->how.size; m++) {
        Place at = member_at(h, m, begin);
        product((Product){.turn_b = true, .accumulate = m > 0, .alpha = 1}, d_score, seen, g->d_mixed + at.q, h->ld_q, t->v + at.k, h->ld_k,
                n, seen, h->dim);
    }
    for (size_t i = 0; i < n; i++) {
        float *row = weight + i * seen, *d_row = d_score + i * seen, pull = 0, push = 0;
        size_t len = begin + i + 1, top = 0;
        for (uint32_t m = 0; m < t->how.size; m++) {
            size_t at = member_at(h, m, begin + i).q;
            pull += row_dot(g->d_mixed + at, g->mixed + at, h->dim);
        }
        if (t->how.row_bound && row_weight != 0) {
            for (size_t j = 1; j < len; j++) top = row[j] > row[top] ? j : top;
            push = 2 * row_weight * row_excess(t, h->merged, row[top]);
        }
        row_backward(&t->how, row, d_row, g->sums[(h->from + begin + i) * t->config->heads + h->merged], pull, len);
        d_row[top] += push;
        memset(row + len, 0, (seen - len) * sizeof *row);
        memset(d_row + len, 0, (seen - len) * sizeof *d_row);
    }
}

static void head_backward(const AttentionGrads *g, const Head *h, float row_weight)
{
    const Attention *t = h->t;
    for (size_t begin = 0; begin < h->rows; begin += ATTENTION_BLOCK) {
        size_t n = h->rows - begin < ATTENTION_BLOCK ? h->rows - begin : ATTENTION_BLOCK, seen = begin + n;
        const float *weight = t->work, *d_score = weight + n * seen;
        block_backward(g, h, begin, n, seen, row_weight);
        Product add = {.turn_a = true, .accumulate = true, .alpha = 1}, add_scaled = add;
        add_scaled.alpha = t->how.scale;
        for (uint32_t m = 0; m < t->how.size; m++) {
            Place at = member_at(h, m, begin);
            product(add, g->d_v + at.k, h->ld_k, weight, seen, g->d_mixed + at.q, h->ld_q, seen, h->dim, n);
            product(add_scaled, g->d_k + at.k, h->ld_k, d_score, seen, t->q + at.q, h->ld_q, seen, h->dim, n);
            product((Product){.alpha = t->how.scale}, g->d_q + at.q, h->ld_q, d_score, seen, t->k + at.k, h->ld_k, n, h->dim, seen);
        }
    }
}

void attention_backward(const AttentionGrads *g, const Attention *t, float row_weight)
{
    const Pack *p = t->pack;
    size_t bytes = p->rows * t->config->head_dim * sizeof *g->d_q;
    if (t->how.pruned) memset(g->d_q, 0, bytes * t->config->heads);
    memset(g->d_k, 0, bytes * t->config->kv_heads);
    memset(g->d_v, 0, bytes * t->config->kv_heads);
    for (size_t s = 0; s < p->samples; s++) {
        for (uint32_t i = 0; i < merged_heads(&t->how); i++) {
            Head h = head_at(t, i, s);
            head_backward(g, &h, row_weight);
        }
    }
}
