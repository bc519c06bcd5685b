/* matmul.c - products of ring matrices with each other and with small integers. */
#include "num/kernels.h"

#include <string.h>

enum { WIDE = 512, PART_WORK = 1 << 20 };      // multiply-adds that are worth waking a thread for

/* out[r * ldo] += a row r . b, for `rows` rows. Four rows at once, because b is then loaded once for the four. */
static void dots_add(uint64_t *out, size_t ldo, const uint64_t *a, size_t lda, size_t rows, const uint64_t *b, size_t k)
{
    size_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const uint64_t *a0 = a + r * lda, *a1 = a0 + lda, *a2 = a1 + lda, *a3 = a2 + lda;
        uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (size_t i = 0; i < k; i++) s0 += a0[i] * b[i], s1 += a1[i] * b[i], s2 += a2[i] * b[i], s3 += a3[i] * b[i];
        uint64_t *o = out + r * ldo;
        o[0] += s0, o[ldo] += s1, o[2 * ldo] += s2, o[3 * ldo] += s3;
    }
    for (; r < rows; r++) out[r * ldo] += portable_dot(a + r * lda, b, k);
}

void portable_linear(const Linear *p, size_t begin, size_t end)
{
    uint64_t wide[WIDE];                       // a stretch of a row of W, as words
    for (size_t j = begin; j < end; j++) {
        for (size_t r = 0; r < p->rows; r++) p->out[r * p->n + j] = 0;
        for (size_t at = 0; at < p->k; at += WIDE) {
            size_t len = p->k - at < WIDE ? p->k - at : WIDE;
            const int8_t *w8 = (const int8_t *)p->w + j * p->k + at;
            const int16_t *w16 = (const int16_t *)p->w + j * p->k + at;
            if (p->bytes == 1) for (size_t i = 0; i < len; i++) wide[i] = (uint64_t)(int64_t)w8[i];
            else for (size_t i = 0; i < len; i++) wide[i] = (uint64_t)(int64_t)w16[i];
            dots_add(p->out + j, p->n, p->x + at, p->k, p->rows, wide, len);
        }
    }
    wipe(wide, sizeof wide);                   // W may be private
}

void portable_matmul(const Matmul *p, size_t begin, size_t end)
{
    for (size_t j = begin; j < end; j++) {
        if (!p->accumulate) for (size_t r = 0; r < p->rows; r++) p->out[r * p->ldo + j] = 0;
        dots_add(p->out + j, p->ldo, p->a, p->lda, p->rows, p->b + j * p->ldb, p->k);
    }
}

void portable_vecmat_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t ldb, size_t n, size_t k, unsigned bits)
{
    (void)bits;
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < n; j++) out[j] += a[i] * b[i * ldb + j];
}

uint64_t portable_dot(const uint64_t *a, const uint64_t *b, size_t len)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < len; i++) sum += a[i] * b[i];
    return sum;
}

/* Units a part, of `work` multiply-adds each. Many rows are prepared for each part anew: a part a thread is enough then. */
static size_t part_grain(size_t units, size_t rows, size_t work)
{
    size_t grain = work >= PART_WORK ? 1 : PART_WORK / (work ? work : 1);
    size_t share = (units + threads_count() - 1) / threads_count();
    return rows >= 8 && share > grain ? share : grain;
}

static void linear_part(void *ctx, size_t begin, size_t end)
{
    const Linear *p = ctx;
    size_t unit = num_kernel->columns;
    num_kernel->linear(p, begin * unit, end * unit < p->n ? end * unit : p->n);
}

static void linear_run(const Linear *p)
{
    size_t unit = num_kernel->columns, units = (p->n + unit - 1) / unit;
    parallel_for(units, part_grain(units, p->rows, p->rows * p->k * unit), linear_part, (void *)(uintptr_t)p);
}

void ring_linear_i8(uint64_t *out, const uint64_t *x, const int8_t *w, size_t rows, size_t n, size_t k, unsigned bits)
{
    linear_run(&(Linear){out, x, w, 1, bits, rows, n, k});
}

void ring_linear_i16(uint64_t *out, const uint64_t *x, const int16_t *w, size_t rows, size_t n, size_t k, unsigned bits)
{
    linear_run(&(Linear){out, x, w, 2, bits, rows, n, k});
}

static void matmul_part(void *ctx, size_t begin, size_t end)
{
    const Matmul *p = ctx;
    size_t unit = num_kernel->columns;
    num_kernel->matmul(p, begin * unit, end * unit < p->n ? end * unit : p->n);
}

void ring_matmul(uint64_t *out, size_t ldo, const uint64_t *a, size_t lda, const uint64_t *b, size_t ldb, size_t rows, size_t n, size_t k,
                 unsigned bits, bool accumulate)
{
    Matmul p = {out, a, b, ldo, lda, ldb, rows, n, k, bits, accumulate};
    size_t unit = num_kernel->columns, units = (n + unit - 1) / unit;
    parallel_for(units, part_grain(units, rows, rows * k * unit), matmul_part, &p);
}

void ring_vecmat_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t ldb, size_t n, size_t k, unsigned bits)
{
    num_kernel->vecmat_add(out, a, b, ldb, n, k, bits);
}

uint64_t ring_dot(const uint64_t *a, const uint64_t *b, size_t len)
{
    return num_kernel->dot(a, b, len);
}
