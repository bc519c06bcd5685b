/* quadratic.c - a polynomial of degree two of an opened value, as a factor.
 *
 * x = p - r + 2^m c h, with h = msb(r) at T and c = 1 - msb(hat) public (product.c), and c and h are bits, so
 *
 *     x^2 + k1 x + k0 = (p^2 + k1 p + k0) - (2 p + k1) r + r^2 + c 2^m (2 p + k1 + 2^m) h - c 2^(m+1) h r:
 *
 * public times r, r^2, h and h r, all of which T knows. Half of what the product of x with itself would be dealt. */
#include "mpc/engine.h"

typedef struct QuadraticJob {
    const Opened *o;
    uint64_t k1, k0;
    bool wraps;
    uint64_t *sum, *slope, *flag;              // C, S, CLEAR: public factors of 1, of r and of h
    uint64_t *square, *less;                   // T, CLEAR: r^2 and -r
    uint64_t *value;                           // CLEAR
} QuadraticJob;

static void quadratic_words(void *ctx, size_t begin, size_t end)
{
    const QuadraticJob *j = ctx;
    const Opened *o = j->o;
    for (size_t i = begin; j->sum && i < end; i++) {
        uint64_t p = o->p[i], slope = 2 * p + j->k1;
        j->sum[i] = (p + j->k1) * p + j->k0, j->slope[i] = 0 - slope;
        if (!j->wraps) continue;
        uint64_t wrapped = (1 - (ring_low(opened_hat(o, i), o->n) >> (o->n - 1))) << o->n;
        j->flag[i] = wrapped * (slope + (UINT64_C(1) << o->n));
    }
    for (size_t i = begin; j->square && i < end; i++) {
        uint64_t r = opened_mask(o, i);
        j->square[i] = r * r, j->less[i] = 0 - r;
    }
    for (size_t i = begin; j->value && i < end; i++) j->value[i] = (o->value[i] + j->k1) * o->value[i] + j->k0;
}

const Factor *opened_quadratic(Engine *e, Opened *o, unsigned n, int64_t k1, int64_t k0)
{
    size_t len = layout_len(o->at);
    unsigned m = o->n;
    bool public = e->online || e->clear;
    ASSERT(o->row_n == NULL && n <= 64);
    QuadraticJob j = {.o = o, .k1 = (uint64_t)k1, .k0 = (uint64_t)k0, .wraps = n > m, .sum = words_raw(e, public, len),
                      .slope = words_raw(e, public, len), .flag = words_raw(e, public && n > m, len), .square = words_raw(e, e->third, len),
                      .less = words_raw(e, e->third, len), .value = words_raw(e, e->clear, len)};
    if (e->role != ROLE_COUNT) parallel_for(len, 4096, quadratic_words, &j);
    Factor *x = factor_new(e, o->at, 2 * o->f, n);
    x->value = j.value;
    *factor_term(x) = (Term){.g = j.sum, .one = true, .ring = n};
    *factor_term(x) = (Term){.g = j.slope, .mask = o, .ring = n, .shared = n <= m, .widen = n > m, .c = o->rc, .s = o->rs};
    *factor_term(x) = (Term){.k = 1, .mu = j.square, .ring = n};
    if (n <= m) return x;
    *factor_term(x) = (Term){.g = j.flag, .wrap = o, .v = m, .ring = n};
    if (n > m + 1) *factor_term(x) = (Term){.wrap = o, .up = 1, .mu = j.less, .v = m + 1, .ring = n};
    return x;
}
