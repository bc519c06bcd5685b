/* table.c - the public tables of split lookups, the same bits on every machine.
 *
 * Only +, -, *, / and sqrt of IEEE doubles in a fixed order (the build forbids contraction), no libm function whose last bit
 * may differ: exp is a reduction by ln 2 in two parts and a polynomial, with an error below 2^-50, far under a table's step;
 * rounding adds and subtracts 1.5 * 2^52. Vector units do the same operations on more cells at a time.
 *
 * A lookup opens i^ = i + r and splits both at bit k: i = 2^k (h^ - h_r) + (l^ - p). For each l^ a row of the table holds a
 * word for every cell h, of the function over p = 0..2^k-1: rank 1 exactly, rank 2 as a line fitted at five Chebyshev
 * nodes. Rows are stored backwards and twice over, so that the cells h^ - c, c = 0, 1, .. lie one after the other.
 *
 * Narrow tables are made whole at the start. Rows of wide ones are made at every use, never kept: l^ is public to C and S but
 * not to T, which sees how long they take and knows p. */
#include <string.h>
#include "mpc/table.h"

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define LANES static __attribute__((optimize("O3", "no-trapping-math", "fp-contract=off"), target_clones("default", "avx2", "avx512f")))
#define LANE static inline __attribute__((optimize("O3", "no-trapping-math", "fp-contract=off")))
#else
#define LANES static
#define LANE static inline
#endif

enum { NARROW_BYTES = 8 << 20 };

// ---- functions -------------------------------------------------------------------------------------------------------

static const double magic = 0x1.8p52;          // adding it rounds to an integer, to nearest, ties to even, if |x| < 2^51

LANE double power_of_two(int64_t n)            // -1022 <= n <= 1023
{
    uint64_t bits = (uint64_t)(n + 1023) << 52;
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

LANE double bits_to_integer(double shifted)    // of a double that had `magic` added
{
    return shifted - magic;
}

LANE double fixed_exp(double x)
{
    double in = x < -700 ? -700 : x > 700 ? 700 : x;
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
    uint64_t bits;                             // magic + n: n is in the low bits
    memcpy(&bits, &shifted, sizeof bits);
    double y = p * power_of_two((int64_t)(bits << 12) >> 12);
    return x < -700 ? 0 : y;
}

LANE double function_value(Function fn, double v)
{
    if (fn == FN_EXP) return fixed_exp(v);
    if (fn == FN_SILU) return v / (1 + fixed_exp(-v));
    if (fn == FN_RSQRT) return 1 / __builtin_sqrt(v);
    if (fn == FN_RECIPROCAL) return 1 / v;
    double z = 0.7978845608028654 * (v + 0.044715 * v * v * v);   // GELU, the tanh form, tanh(z) = 1 - 2 / (exp(2 z) + 1)
    return 0.5 * v * (2 - 2 / (fixed_exp(2 * z) + 1));
}

/* What a row needs of its table, as doubles. */
typedef struct Row { double step, offset, gain, floor, ceiling, width, low, size0, size1; } Row;

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

static Row row_of(const Table *t, uint64_t low)
{
    const LookupSpec *s = &t->spec;
    return (Row){power_of_two(-(int64_t)s->f), s->offset, s->gain, s->floor, s->ceiling, power_of_two(s->k), (double)low, power_of_two(s->f0), power_of_two(s->f1)};
}

/* The first index of cell h. */
LANE double cell_start(const LookupSpec *s, size_t cells, size_t h, double width)
{
    double c = (double)(int64_t)h, wrapped = c - (double)(int64_t)cells;
    double at = s->never_positive ? (h == 0 ? 0 : wrapped) : s->from_zero || h < cells / 2 ? c : wrapped;
    return at * width;
}

// ---- cells -----------------------------------------------------------------------------------------------------------

LANE void cell_values(const Table *t, const Row *r, Function fn, size_t h, double *u0, double *u1)
{
    double start = cell_start(&t->spec, t->cells, h, r->width);
    double constant = 0, slope = 0;
    if (fn == FN_EXP) constant = row_value(r, fn, start + r->low);
    else row_line(r, fn, start, &constant, &slope);
    bool below = h < t->spec.border;
    *u0 = below ? 0 : constant * r->size0 + magic;
    *u1 = below ? 0 : slope * r->size1 + magic;
}

/* Scaled and rounded, plus `magic`: exact integers of less than 51 bits. */
LANES void cells_fill(const Table *t, const Row *r, double *u0, double *u1)
{
    switch (t->spec.fn) {
    case FN_EXP: for (size_t h = 0; h < t->cells; h++) cell_values(t, r, FN_EXP, h, &u0[h], &u1[h]); break;
    case FN_SILU: for (size_t h = 0; h < t->cells; h++) cell_values(t, r, FN_SILU, h, &u0[h], &u1[h]); break;
    case FN_GELU: for (size_t h = 0; h < t->cells; h++) cell_values(t, r, FN_GELU, h, &u0[h], &u1[h]); break;
    case FN_RSQRT: for (size_t h = 0; h < t->cells; h++) cell_values(t, r, FN_RSQRT, h, &u0[h], &u1[h]); break;
    case FN_RECIPROCAL: for (size_t h = 0; h < t->cells; h++) cell_values(t, r, FN_RECIPROCAL, h, &u0[h], &u1[h]); break;
    }
}

unsigned column_width(const Table *t, unsigned column) { return column == 0 ? t->spec.m0 : column == 1 ? t->spec.m1 : 64; }

/* The word of a rounded value: must leave two bits of the column's ring free. */
static uint64_t word_of(double shifted, unsigned m)
{
    double w = shifted == 0 ? 0 : bits_to_integer(shifted), limit = m >= 53 ? 0x1p51 : power_of_two((int64_t)m - 2);
    if (!(w < limit && w > -limit)) bug("a table word of %g does not fit %u bits", w, m);
    return (uint64_t)(int64_t)w;
}

uint64_t table_word(const Table *t, uint64_t low, unsigned column, size_t cell)
{
    Row r = row_of(t, low);
    double u[2];
    if (column == 2) return cell < t->spec.border;
    cell_values(t, &r, t->spec.fn, cell, &u[0], &u[1]);
    return word_of(u[column], column_width(t, column));
}

#define STORE(type) do { \
        type *w = out; \
        w[0] = (type)word_of(u[0], m); \
        for (size_t h = 1; h < cells; h++) w[cells - h] = (type)word_of(u[h], m); \
        memcpy(w + cells, w, cells * sizeof *w); \
    } while (0)

static void column_store(void *out, const double *u, size_t cells, unsigned m, unsigned bytes)
{
    if (bytes == 1) STORE(uint8_t);
    else if (bytes == 2) STORE(uint16_t);
    else if (bytes == 4) STORE(uint32_t);
    else STORE(uint64_t);
}

static size_t column_bytes(const Table *t, unsigned column) { return 2 * t->cells * t->bytes[column]; }

static size_t row_bytes(const Table *t)
{
    size_t bytes = 0;
    for (unsigned j = 0; j < t->columns; j++) bytes += column_bytes(t, j);
    return bytes;
}

/* Scratch: a row, and its values before they are rounded. */
size_t table_scratch(const Table *t) { return row_bytes(t) + 2 * t->cells * sizeof(double); }

static void row_make(const Table *t, uint64_t low, uint8_t *row, double *values)
{
    Row r = row_of(t, low);
    double *u0 = values, *u1 = values + t->cells;
    cells_fill(t, &r, u0, u1);
    column_store(row, u0, t->cells, t->spec.m0, t->bytes[0]);
    if (t->columns < 2) return;
    row += column_bytes(t, 0);
    column_store(row, u1, t->cells, t->spec.m1, t->bytes[1]);
    if (t->columns < 3) return;
    uint64_t *below = (uint64_t *)(void *)(row + column_bytes(t, 1));
    for (size_t h = 0; h < t->cells; h++) below[(t->cells - h) % t->cells] = h < t->spec.border;
    memcpy(below + t->cells, below, t->cells * sizeof *below);
}

void table_row(const Table *t, uint64_t low, const uint8_t *column[TABLE_COLUMNS], void *scratch)
{
    uint8_t *row = t->rows ? t->rows + low * row_bytes(t) : scratch;
    if (!t->rows) row_make(t, low, row, (double *)(void *)(row + row_bytes(t)));
    for (unsigned j = 0; j < t->columns; row += column_bytes(t, j++)) column[j] = row;
}

// ---- tables ----------------------------------------------------------------------------------------------------------

static unsigned word_bytes(unsigned m) { return m <= 8 ? 1 : m <= 16 ? 2 : m <= 32 ? 4 : 8; }

typedef struct FillJob { const Table *t; double *values; } FillJob;

static void fill_rows(void *ctx, size_t begin, size_t end)
{
    const FillJob *j = ctx;
    for (size_t low = begin; low < end; low++) row_make(j->t, low, j->t->rows + low * row_bytes(j->t), j->values + low * 2 * j->t->cells);
}

Table *table_new(const LookupSpec *s, Arena *a)
{
    ASSERT(s->k < s->t && s->t <= 40 && s->t - s->k >= 3 && s->t - s->k <= 20 && s->k <= 20);
    Table *t = arena_new(a, Table, 1);
    t->spec = *s;
    t->cells = (size_t)1 << (s->t - s->k);
    t->columns = s->fn == FN_EXP ? 1 : s->border ? 3 : 2;
    t->bytes[0] = word_bytes(s->m0), t->bytes[1] = word_bytes(s->m1), t->bytes[2] = 8;
    size_t rows = (size_t)1 << s->k;
    if (rows * row_bytes(t) > NARROW_BYTES) return t;
    t->rows = arena_new(a, uint8_t, rows * row_bytes(t));
    Arena scratch;
    arena_init(&scratch, false);
    FillJob job = {t, arena_new(&scratch, double, rows * 2 * t->cells)};
    parallel_for(rows, 8, fill_rows, &job);
    arena_free(&scratch);
    return t;
}

const LookupSpec *table_spec(const Table *t) { return &t->spec; }

/* All rows of narrow tables, 16 of wide ones: they come from the same few operations. */
void table_hash(const Table *t, Hash *h)
{
    size_t rows = (size_t)1 << t->spec.k, step = t->rows ? 1 : (rows + 15) / 16;
    Arena a;
    arena_init(&a, false);
    void *scratch = arena_new(&a, uint64_t, table_scratch(t) / sizeof(uint64_t) + 1);
    for (size_t low = 0; low < rows; low += step) {
        const uint8_t *column[TABLE_COLUMNS];
        table_row(t, low, column, scratch);
        for (unsigned j = 0; j < t->columns; j++) hash_add(h, column[j], t->cells * t->bytes[j]);
    }
    arena_free(&a);
}

/* exp(-p 2^-f) with 14 fraction bits, the low factor of a rank-1 lookup. */
uint64_t table_low_exp(const Table *t, uint64_t p)
{
    double x = (double)p * power_of_two(-(int64_t)t->spec.f) * t->spec.gain;
    return (uint64_t)(int64_t)bits_to_integer(fixed_exp(-x) * 16384 + magic);
}

/* (2 p - (K - 1)) / K with fp fraction bits: in (-1, 1). */
uint64_t table_low_line(const Table *t, uint64_t p)
{
    double K = power_of_two(t->spec.k);
    return (uint64_t)(int64_t)bits_to_integer((2 * (double)p - (K - 1)) / K * power_of_two(t->spec.fp) + magic);
}
