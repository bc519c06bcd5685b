/* quant_linear.c - products of float rows with 8-bit weights.
 *
 * One row reads every weight once and does nothing else with it, so memory bounds it: the loop widens sixteen weights at a
 * time in registers, for four rows of W at once, whose streams keep more reads under way than one would. Many rows are worth
 * making blocks of W float, small enough to stay in the second level of cache, for BLAS. */
#include "model/quant.h"

#include <math.h>
#include <string.h>
#include "model/layers.h"

enum { LANES = 16, BLOCK = 4 * LANES, STREAMS = 4, FEW_ROWS = 6, WIDE_BYTES = 1 << 19, PART_WORK = 1 << 18 };

/* The compilers' own vectors. They widen bytes one by one, so bytes are taken as 32-bit words: byte b of word l, moved up to the
 * sign and down again, meets x[4 l + b]; x is laid out for that once, BLOCK numbers at a time. (Little-endian, as the file.) */
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));

static void lay_out(float *out, const float *x, size_t k)
{
    size_t i = 0;
    for (; i + BLOCK <= k; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++) out[i + j % 4 * LANES + j / 4] = x[i + j];
    memcpy(out + i, x + i, (k - i) * sizeof *x);
}

/* sum += the BLOCK steps at w times the laid out x at v. A macro: vectors of this size have no calling convention that all copies
 * of a function share. */
#define DOT_BLOCK(sum, w, v) do { \
        Bits w_; \
        memcpy(&w_, (w), sizeof w_); \
        sum += __builtin_convertvector((Words)(w_ << 24) >> 24, Floats) * v[0]; \
        sum += __builtin_convertvector((Words)(w_ << 16) >> 24, Floats) * v[1]; \
        sum += __builtin_convertvector((Words)(w_ << 8) >> 24, Floats) * v[2]; \
        sum += __builtin_convertvector((Words)w_ >> 24, Floats) * v[3]; \
    } while (0)

/* sums[s] = w row s . x, x laid out; in 16 lanes that are added up in a fixed order. */
VECTOR_LOOPS static void dots(float sums[STREAMS], const int8_t *w, size_t stride, const float *x, size_t k)
{
    Floats sum0 = {0}, sum1 = {0}, sum2 = {0}, sum3 = {0};
    size_t i = 0;
    for (; i + BLOCK <= k; i += BLOCK) {
        Floats v[4];
        for (size_t b = 0; b < 4; b++) memcpy(&v[b], x + i + b * LANES, sizeof v[b]);
        for (size_t s = 0; s < STREAMS; s++) __builtin_prefetch(w + (STREAMS + s) * stride + i);   // the rows after these
        DOT_BLOCK(sum0, w + i, v);
        DOT_BLOCK(sum1, w + stride + i, v);
        DOT_BLOCK(sum2, w + 2 * stride + i, v);
        DOT_BLOCK(sum3, w + 3 * stride + i, v);
    }
    float lane[STREAMS][LANES];
    memcpy(lane[0], &sum0, sizeof sum0), memcpy(lane[1], &sum1, sizeof sum1);
    memcpy(lane[2], &sum2, sizeof sum2), memcpy(lane[3], &sum3, sizeof sum3);
    for (size_t s = 0; s < STREAMS; s++) {
        sums[s] = 0;
        for (size_t j = 0; j < LANES; j++) sums[s] += lane[s][j];
        for (size_t j = i; j < k; j++) sums[s] += (float)w[s * stride + j] * x[j];
    }
}

VECTOR_LOOPS static void widen(float *restrict out, const int8_t *restrict w, float by, size_t k)
{
    for (size_t i = 0; i < k; i++) out[i] = (float)w[i] * by;
}

static float scale_real(int32_t scale) { return ldexpf((float)scale, -QUANT_F); }

typedef struct Job {
    float *out;
    const float *in, *laid;                    // (rows, k); laid out, for few rows
    const QuantMatrix *w;
    float times;
    size_t rows, n, k;
    bool accumulate;
} Job;

static void put(const Job *j, size_t row, size_t column, float sum)
{
    float *o = &j->out[row * j->n + column], v = sum * (scale_real(j->w->scale[column]) * j->times);
    *o = j->accumulate ? *o + v : v;
}

static void few_rows(void *ctx, size_t begin, size_t end)
{
    const Job *j = ctx;
    size_t c = begin;
    for (; c + STREAMS <= end; c += STREAMS) {
        for (size_t r = 0; r < j->rows; r++) {
            float sums[STREAMS];
            dots(sums, j->w->w + c * j->k, j->k, j->laid + r * j->k, j->k);
            for (size_t s = 0; s < STREAMS; s++) put(j, r, c + s, sums[s]);
        }
    }
    for (; c < end; c++) {
        for (size_t r = 0; r < j->rows; r++) {
            float sums[STREAMS];
            dots(sums, j->w->w + c * j->k, 0, j->laid + r * j->k, j->k);
            put(j, r, c, sums[0]);
        }
    }
}

static void many_rows(void *ctx, size_t begin, size_t end)
{
    const Job *j = ctx;
    size_t block = WIDE_BYTES / (j->k * sizeof(float));
    if (block < 1) block = 1;
    Arena a;
    arena_init(&a, false);
    float *wide = arena_new(&a, float, block * j->k);
    for (size_t c = begin; c < end; c += block) {
        size_t n = end - c < block ? end - c : block;
        for (size_t i = 0; i < n; i++)
            widen(wide + i * j->k, j->w->w + (c + i) * j->k, scale_real(j->w->scale[c + i]) * j->times, j->k);
        product((Product){.turn_b = true, .accumulate = j->accumulate, .alpha = 1}, j->out + c, j->n, j->in, j->k, wide, j->k, j->rows, n,
                j->k);
    }
    arena_free(&a);
}

void quant_linear(float *out, const float *in, const QuantMatrix *w, float times, size_t rows, size_t n, size_t k, bool accumulate)
{
    bool few = rows < FEW_ROWS;
    Arena a;
    arena_init(&a, false);
    float *laid = few ? arena_new(&a, float, rows * k) : NULL;
    for (size_t r = 0; few && r < rows; r++) lay_out(laid + r * k, in + r * k, k);
    Job j = {out, in, laid, w, times, rows, n, k, accumulate};
    size_t work = rows * k;
    parallel_for(n, work > PART_WORK ? 1 : PART_WORK / (work ? work : 1) + 1, few ? few_rows : many_rows, &j);
    arena_free(&a);
}

void quant_row(float *out, const QuantMatrix *w, size_t row, size_t cols)
{
    widen(out, w->w + row * cols, scale_real(w->scale[row]), cols);
}
