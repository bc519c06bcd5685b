/* table.c - the public tables of split lookups, the same bits on every machine.
 *
 * Only +, -, * and / of IEEE doubles in a fixed order (the build forbids contraction), no libm function whose last bit
 * may differ: exp is a reduction by ln 2 in two parts and a polynomial, 1/x and 1/sqrt(x) are Newton's, with errors below 2^-50,
 * far under a table's step; rounding adds and subtracts 1.5 * 2^52. Vector units do the same operations on more cells at a time.
 *
 * A lookup opens i^ = i + r and splits both at bit k: i = 2^k (h^ - h_r) + (l^ - p). For each l^ a row of the table holds a
 * word for every cell h, of the function over p = 0..2^k-1: rank 1 exactly, rank 2 as a line fitted at five Chebyshev
 * nodes. Rows are stored backwards: the cells h^ - c, c = 0, 1, .. lie one after the other, from entry -h^ on.
 *
 * Narrow tables are made whole at the start. Rows of wide ones are made at every use, never kept: l^ is public to C and S but
 * not to T, which sees how long they take and knows p. */
#include <string.h>
#include "mpc/table.h"

// Not under ThreadSanitizer: the loader picks a copy by code that would be instrumented, before the sanitizer has begun.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define LANES static __attribute__((optimize("O3", "no-trapping-math", "fp-contract=off"), target_clones("default", "avx2", "avx512f")))
#define LANE static inline __attribute__((always_inline, optimize("O3", "no-trapping-math", "fp-contract=off")))
#else
#define LANES static
#define LANE static inline
#endif

enum { NARROW_BYTES = 8 << 20, BLOCK = 256 };

// ---- functions -------------------------------------------------------------------------------------------------------

static const double magic = 0x1.8p52;          // adding it rounds to an integer, to nearest, ties to even, if |x| < 2^51

LANE double from_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

LANE uint64_t to_bits(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

LANE double power_of_two(int64_t n)            // -1022 <= n <= 1023
{
    return from_bits((uint64_t)(n + 1023) << 52);
}

LANE double bits_to_integer(double shifted)    // of a double that had `magic` added
{
    return shifted - magic;
}

LANE double exp_within(double in)              // |in| <= 700
{
    double shifted = in * 0x1.71547652b82fep+0 + magic, n = bits_to_integer(shifted);
    double r = (in - n * 0x1.62e42fefa0000p-1) - n * 0x1.cf79abc9e3b3ap-40;
    double p = 1.0 / 6227020800.0;             // Horner from 1/13!
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1;
    p = p * r + 1;
    return p * from_bits((to_bits(shifted) + 1023) << 52);     // magic + n: n is in the low bits
}

LANE double fixed_exp(double x)
{
    double y = exp_within(x < -700 ? -700 : x > 700 ? 700 : x);
    return x < -700 ? 0 : y;
}

/* 1/v and 1/sqrt(v), 0 < v < 2^1000, to 2^-50: Newton's method from a guess that negates, or halves and negates, the exponent.
 * Products are many times faster than the divisions and roots of a vector unit, and the same on every machine. */
LANE double fast_reciprocal(double v)
{
    double y = from_bits(0x7FDE623822FC16E6u - to_bits(v));    // to 12 %, then 1.5 %, 2^-12, 2^-24, 2^-48 and beyond
    y = y * (2 - v * y);                       // written out: a loop would keep the cells from being a vector
    y = y * (2 - v * y);
    y = y * (2 - v * y);
    y = y * (2 - v * y);
    return y * (2 - v * y);
}

LANE double fast_rsqrt(double v)
{
    double y = from_bits(0x5FE6EB50C7B537A9u - (to_bits(v) >> 1)), half = 0.5 * v;   // to 3.5 %, then 2^-9, 2^-17, 2^-34 and beyond
    y = y * (1.5 - half * y * y);
    y = y * (1.5 - half * y * y);
    y = y * (1.5 - half * y * y);
    return y * (1.5 - half * y * y);
}

LANE double function_value(Function fn, double v)
{
    if (fn == FN_EXP) return fixed_exp(v);
    if (fn == FN_SILU) return v / (1 + fixed_exp(-v));
    if (fn == FN_RSQRT) return fast_rsqrt(v);
    if (fn == FN_RECIPROCAL) return fast_reciprocal(v);
    double z = 0.7978845608028654 * (v + 0.044715 * v * v * v);   // GELU, the tanh form, tanh(z) = 1 - 2 / (exp(2 z) + 1)
    return 0.5 * v * (2 - 2 / (fixed_exp(2 * z) + 1));
}

/* What a row needs of its table, as doubles: vector units mix nothing else with them well. least: see reciprocal_line. */
typedef struct Row { double step, offset, gain, floor, ceiling, width, low, size0, size1, cells, wrap, border, least; } Row;

LANE double row_value(const Row *r, Function fn, double i)
{
    double v = (i * r->step + r->offset) * r->gain;
    v = v < r->floor ? r->floor : v;
    v = v > r->ceiling ? r->ceiling : v;
    return function_value(fn, v);
}

/* The line of the cell whose first index is `start`: constant at its middle, slope for a coordinate in (-1, 1). */
LANE void row_line(const Row *r, Function fn, double start, double *constant, double *slope)
{
    const double n0 = 0x1.e6f0e134454ffp-1, n1 = 0x1.2cf2304755a5ep-1;       // cos((i + 1/2) pi / 5), i = 0, 1; then 0, -n1, -n0
    double half = (r->width - 1) / 2, at = start + r->low;
    double a = row_value(r, fn, at - half * (1 + n0)), b = row_value(r, fn, at - half * (1 + n1)), c = row_value(r, fn, at - half);
    double d = row_value(r, fn, at - half * (1 - n1)), e = row_value(r, fn, at - half * (1 - n0));
    *constant = (((a + b) + c) + (d + e)) / 5;
    *slope = ((a - e) * n0 + (b - d) * n1) * 0.4 * r->width / (r->width > 1 ? r->width - 1 : 1);
}

/* The same line of 1/v where no node is clamped: all five fractions over c (c^2 - near^2) (c^2 - far^2), c the value at the
 * cell's middle, so one reciprocal for five. Cells below the border, which count nothing, take the least c of the others. */
LANE void reciprocal_line(const Row *r, double start, double *constant, double *slope)
{
    const double n0 = 0x1.e6f0e134454ffp-1, n1 = 0x1.2cf2304755a5ep-1;
    double half = (r->width - 1) / 2, unit = r->step * r->gain, far = half * n0 * unit, near = half * n1 * unit;
    double c = ((start + r->low - half) * r->step + r->offset) * r->gain;
    c = c < r->least ? r->least : c;
    double square = c * c, p = square - near * near, q = square - far * far, pq = p * q;
    double inverse = fast_reciprocal(c * pq), cp = square * p, cq = square * q;
    *constant = inverse * (pq + 2 * (cp + cq)) / 5;
    *slope = inverse * c * (far * n0 * p + near * n1 * q) * (0.8 * r->width / (r->width > 1 ? r->width - 1 : 1));
}

/* Cells from `wrap` on count as negative. */
static Row row_of(const Table *t, uint64_t low)
{
    const LookupSpec *s = &t->spec;
    double cells = (double)t->cells, width = power_of_two(s->k), step = power_of_two(-(int64_t)s->f);
    Row r = {step, s->offset, s->gain, s->floor, s->ceiling, width, (double)low, power_of_two(s->f0), power_of_two(s->f1), cells,
             s->never_positive ? 1 : s->from_zero ? cells : cells / 2, s->border, 0};
    double least = ((s->border - 1) * width * step + s->offset) * s->gain, most = (cells * width * step + s->offset) * s->gain;
    if (s->fn == FN_RECIPROCAL && s->border > 1 && s->from_zero && s->gain > 0 && least > 0 && least >= s->floor && most <= s->ceiling)
        r.least = ((s->border * width - (width - 1) / 2) * step + s->offset) * s->gain;
    return r;
}

// ---- cells -----------------------------------------------------------------------------------------------------------

/* Scaled and rounded, plus `magic`: exact integers of less than 51 bits. Cells below the border are zero. */
LANE void cell_values(const Row *r, Function fn, bool unclamped, double h, double *u0, double *u1)
{
    double start = (h < r->wrap ? h : h - r->cells) * r->width, size0 = h < r->border ? 0 : r->size0, size1 = h < r->border ? 0 : r->size1;
    double constant = 0, slope = 0;
    if (fn == FN_EXP) constant = row_value(r, fn, start + r->low);
    else if (unclamped) reciprocal_line(r, start, &constant, &slope);
    else row_line(r, fn, start, &constant, &slope);
    *u0 = constant * size0 + magic;
    *u1 = slope * size1 + magic;
}

/* Entries from .. from + count: of cell (cells - entry) mod cells. */
LANES void cells_fill(const Row *row, Function fn, size_t from, size_t count, double *u0, double *u1)
{
    const Row r = *row;
    const int32_t last = (int32_t)r.cells - 1, first = (int32_t)r.cells - (int32_t)from, n = (int32_t)count;
#define FILL(fn, unclamped) for (int32_t i = 0; i < n; i++) cell_values(&r, fn, unclamped, (double)((first - i) & last), &u0[i], &u1[i])
    if (r.least > 0) FILL(FN_RECIPROCAL, true);
    else if (fn == FN_EXP) FILL(FN_EXP, false);
    else if (fn == FN_SILU) FILL(FN_SILU, false);
    else if (fn == FN_GELU) FILL(FN_GELU, false);
    else if (fn == FN_RSQRT) FILL(FN_RSQRT, false);
    else FILL(FN_RECIPROCAL, false);
#undef FILL
}

unsigned column_width(const Table *t, unsigned column) { return column == 0 ? t->spec.m0 : column == 1 ? t->spec.m1 : 64; }

/* The integer of a rounded value: a double in [2^52, 2^53) counts with its bits. Others give what no column has room for. */
LANE int64_t word_of(double shifted)
{
    return (int64_t)(to_bits(shifted) - to_bits(magic));
}

/* A word must leave two bits of its ring of m free. */
LANE int64_t word_limit(unsigned m) { return INT64_C(1) << (m >= 53 ? 51 : m - 2); }

static _Noreturn void word_refuse(int64_t word, unsigned m) { bug("a table word of %lld does not fit %u bits", (long long)word, m); }

uint64_t table_word(const Table *t, uint64_t low, unsigned column, size_t cell)
{
    Row r = row_of(t, low);
    double u[2];
    if (column == 2) return cell < t->spec.border;
    cell_values(&r, t->spec.fn, r.least > 0, (double)cell, &u[0], &u[1]);
    int64_t word = word_of(u[column]), limit = word_limit(column_width(t, column));
    if (word >= limit || word <= -limit) word_refuse(word, column_width(t, column));
    return (uint64_t)word;
}

/* The words of `count` entries; returns a word that does not fit, or 0. */
LANES int64_t column_store(void *out, const double *u, size_t count, int64_t limit, unsigned bytes)
{
    int64_t most = 0, least = 0;
#define STORE(type) for (size_t i = 0; i < count; i++) { \
        int64_t w = word_of(u[i]); \
        most = w > most ? w : most, least = w < least ? w : least; \
        ((type *)out)[i] = (type)w; \
    } break
    switch (bytes) {
    case 1: STORE(uint8_t);
    case 2: STORE(uint16_t);
    case 4: STORE(uint32_t);
    default: STORE(uint64_t);
    }
#undef STORE
    return most >= limit ? most : least <= -limit ? least : 0;
}

/* In blocks that stay in the first cache. */
static void row_make(const Table *t, uint64_t low, uint8_t *row)
{
    Row r = row_of(t, low);
    double u[2][BLOCK];
    for (size_t at = 0; at < t->cells; at += BLOCK) {
        size_t count = t->cells - at < BLOCK ? t->cells - at : BLOCK;
        cells_fill(&r, t->spec.fn, at, count, u[0], u[1]);
        for (unsigned j = 0; j < t->columns; j++) {
            unsigned m = column_width(t, j);
            uint8_t *column = row + (j ? t->cells * t->bytes[0] : 0);
            int64_t bad = column_store(column + at * t->bytes[j], u[j], count, word_limit(m), t->bytes[j]);
            if (bad) word_refuse(bad, m);
        }
    }
}

size_t table_scratch(const Table *t) { return t->rows ? 0 : t->row_bytes; }

SelectTable table_select(const Table *t, uint64_t low, void *scratch)
{
    if (!t->rows) row_make(t, low, scratch);
    return (SelectTable){t->rows ? t->rows : scratch, t->cells, t->columns, {t->bytes[0], t->bytes[1]}};
}

// ---- tables ----------------------------------------------------------------------------------------------------------

static unsigned word_bytes(unsigned m) { return m <= 8 ? 1 : m <= 16 ? 2 : m <= 32 ? 4 : 8; }

static void fill_rows(void *ctx, size_t begin, size_t end)
{
    const Table *t = ctx;
    for (size_t low = begin; low < end; low++) row_make(t, low, t->rows + low * t->row_bytes);
}

Table *table_new(const LookupSpec *s, Arena *a)
{
    ASSERT(s->k < s->t && s->t <= 40 && s->t - s->k >= 3 && s->t - s->k <= 20 && s->k <= 20);
    double low = s->gain * power_of_two((int64_t)s->k - s->f);
    ASSERT(s->fn != FN_EXP || (low >= -700 && low <= 700));    // low_exp's
    Table *t = arena_new(a, Table, 1);
    t->spec = *s;
    t->cells = (size_t)1 << (s->t - s->k);
    t->columns = s->fn == FN_EXP ? 1 : 2;
    t->bytes[0] = word_bytes(s->m0), t->bytes[1] = word_bytes(s->m1);
    t->row_bytes = t->cells * (t->bytes[0] + (t->columns > 1 ? t->bytes[1] : 0));
    size_t rows = (size_t)1 << s->k;
    if (rows * t->row_bytes > NARROW_BYTES) return t;
    t->rows = arena_new(a, uint8_t, rows * t->row_bytes);
    parallel_for(rows, 8, fill_rows, t);
    return t;
}

const LookupSpec *table_spec(const Table *t) { return &t->spec; }

/* All rows of narrow tables, 16 of wide ones: they come from the same few operations. */
void table_hash(const Table *t, Hash *h)
{
    size_t rows = (size_t)1 << t->spec.k, step = t->rows ? 1 : (rows + 15) / 16;
    Arena a;
    arena_init(&a, false);
    void *scratch = arena_new(&a, uint8_t, table_scratch(t));
    for (size_t low = 0; low < rows; low += step) {
        const uint8_t *row = table_select(t, low, scratch).rows;
        hash_add(h, row + (t->rows ? low * t->row_bytes : 0), t->row_bytes);
    }
    arena_free(&a);
}

static double word_real(const Table *t, size_t low, unsigned column, size_t cell)
{
    unsigned f = column == 0 ? t->spec.f0 : t->spec.f1;
    return (double)(int64_t)table_word(t, low, column, cell) * power_of_two(-(int64_t)f);
}

void table_floats(const Table *t, float *line, float *low)
{
    size_t rows = (size_t)1 << t->spec.k;
    for (size_t l = 0; l < rows; l++) {
        for (size_t h = 0; h < t->cells; h++, line += 2) {
            double u0 = word_real(t, l, 0, h);
            line[0] = t->columns > 1 ? (float)u0 : 0;
            line[1] = (float)(t->columns > 1 ? word_real(t, l, 1, h) : u0);
        }
        uint64_t p = l, word;
        table_low(t, &word, &p, 1);
        low[l] = (float)((double)(int64_t)word * power_of_two(t->spec.fn == FN_EXP ? -14 : -(int64_t)t->spec.fp));
    }
}

// ---- low parts -------------------------------------------------------------------------------------------------------

/* exp(-p 2^-f) with 14 fraction bits, the low factor of a rank-1 lookup. p is a secret of T: computed, not looked up, and
 * without a comparison, of which a compiler may make a jump. table_new has bounded the argument. */
LANES void low_exp(uint64_t *out, const uint64_t *p, size_t len, double step, double gain)
{
    for (size_t i = 0; i < len; i++) {
        double x = (double)(int32_t)p[i] * step * gain;
        out[i] = (uint64_t)word_of(exp_within(-x) * 16384 + magic);
    }
}

/* (2 p - (K - 1)) / K with fp fraction bits: in (-1, 1). */
LANES void low_line(uint64_t *out, const uint64_t *p, size_t len, double K, double size)
{
    for (size_t i = 0; i < len; i++) out[i] = (uint64_t)word_of((2 * (double)(int32_t)p[i] - (K - 1)) / K * size + magic);
}

void table_low(const Table *t, uint64_t *out, const uint64_t *p, size_t len)
{
    const LookupSpec *s = &t->spec;
    if (s->fn == FN_EXP) low_exp(out, p, len, power_of_two(-(int64_t)s->f), s->gain);
    else low_line(out, p, len, power_of_two(s->k), power_of_two(s->fp));
}
