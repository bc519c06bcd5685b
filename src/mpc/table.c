/* table.c - the public tables of split lookups, the same bits on every machine.
 *
 * Only +, -, *, / and sqrt of IEEE doubles in a fixed order (the build forbids contraction), and rint: no libm function
 * whose last bit may differ. exp is a reduction by ln 2 in two parts and a polynomial; its error is below 2^-50, far under a
 * table's step.
 *
 * A lookup opens i^ = i + r and splits both at bit k: i = 2^k (h^ - h_r) + (l^ - p). For each l^ a row of the table holds a
 * word for every cell h, of the function over p = 0..2^k-1: rank 1 exactly, rank 2 as a line fitted at five Chebyshev
 * nodes. Rows are stored backwards and twice over, so that the cells h^ - c, c = 0, 1, .. lie one after the other. Rows of
 * wide tables are made when they are first asked for. */
#include <math.h>
#include <stdlib.h>
#include <pthread.h>
#include "mpc/table.h"

static double fixed_exp(double x)
{
    if (x < -700) return 0;
    if (x > 700) x = 700;
    const double log2e = 0x1.71547652b82fep+0, ln2_hi = 0x1.62e42fefa0000p-1, ln2_lo = 0x1.cf79abc9e3b3ap-40;
    double n = rint(x * log2e), r = (x - n * ln2_hi) - n * ln2_lo, sum = 1, term = 1;
    for (int i = 1; i <= 13; i++) {
        term = term * r / i;
        sum = sum + term;
    }
    return ldexp(sum, (int)n);                 // exact: a power of two
}

static double function_value(Function fn, double v)
{
    switch (fn) {
    case FN_EXP: return fixed_exp(v);
    case FN_SILU: return v / (1 + fixed_exp(-v));
    case FN_GELU: {                            // the tanh form, tanh(z) = 1 - 2 / (exp(2 z) + 1)
        double z = 0.7978845608028654 * (v + 0.044715 * v * v * v);
        return 0.5 * v * (2 - 2 / (fixed_exp(2 * z) + 1));
    }
    case FN_RSQRT: return 1 / sqrt(v);
    case FN_RECIPROCAL: return 1 / v;
    }
    bug("unknown function %d", fn);
}

double table_value(const Table *t, double x)
{
    const LookupSpec *s = &t->spec;
    double v = (x + s->offset) * s->gain;
    if (v < s->floor) v = s->floor;
    if (v > s->ceiling) v = s->ceiling;
    return function_value(s->fn, v);
}

// ---- rows ------------------------------------------------------------------------------------------------------------

static double index_value(const Table *t, double i) { return table_value(t, ldexp(i, -(int)t->spec.f)); }

/* The first index of cell h, as an integer. */
static double cell_start(const Table *t, size_t h)
{
    double k = ldexp(1, (int)t->spec.k), cells = (double)t->cells, c = (double)h;
    if (t->spec.never_positive) c = h == 0 ? 0 : c - cells;
    else if (!t->spec.from_zero && h >= t->cells / 2) c -= cells;
    return c * k;
}

static const double nodes[5] = {0x1.e6f0e134454ffp-1, 0x1.2cf2304755a5ep-1, 0, -0x1.2cf2304755a5ep-1, -0x1.e6f0e134454ffp-1};  // cos((i + 1/2) pi / 5)

static void fit_line(const Table *t, size_t h, double low, double *constant, double *slope)
{
    double K = ldexp(1, (int)t->spec.k), sum = 0, tilt = 0, start = cell_start(t, h) + low;
    for (int i = 0; i < 5; i++) {
        double v = index_value(t, start - (K - 1) / 2 * (1 + nodes[i]));
        sum = sum + v, tilt = tilt + v * nodes[i];
    }
    *constant = sum / 5;
    *slope = t->spec.k == 0 ? 0 : tilt * 0.4 * K / (K - 1);
}

static uint64_t round_word(double v, unsigned f, unsigned m)
{
    double w = rint(ldexp(v, (int)f)), limit = ldexp(1, (int)m - 2);
    if (!(fabs(w) < limit)) bug("table word %g does not fit %u bits", w, m);
    return (uint64_t)(int64_t)w;
}

static void word_store(uint8_t *row, unsigned bytes, size_t at, uint64_t word)
{
    for (unsigned b = 0; b < bytes; b++) row[at * bytes + b] = (uint8_t)(word >> 8 * b);
}

static void row_fill(Table *t, size_t low)
{
    const LookupSpec *s = &t->spec;
    size_t cells = t->cells;
    uint8_t *row[TABLE_COLUMNS];
    for (unsigned j = 0; j < t->columns; j++) {
        row[j] = malloc(2 * cells * t->bytes[j]);
        if (!row[j]) bug("out of memory");
    }
    for (size_t h = 0; h < cells; h++) {
        double u0 = 0, u1 = 0;
        bool below = s->border && h < s->border;
        if (s->fn == FN_EXP) u0 = index_value(t, cell_start(t, h) + (double)low);
        else if (!below) fit_line(t, h, (double)low, &u0, &u1);
        uint64_t word[TABLE_COLUMNS] = {round_word(u0, s->f0, s->m0), t->columns > 1 ? round_word(u1, s->f1, s->m1) : 0, below};
        size_t at = (cells - h) % cells;       // backwards: entry c is cell -c
        for (unsigned j = 0; j < t->columns; j++) word_store(row[j], t->bytes[j], at, word[j]), word_store(row[j], t->bytes[j], at + cells, word[j]);
    }
    for (unsigned j = t->columns; j-- > 0;) t->row[low * TABLE_COLUMNS + j] = row[j];
}

const void *table_row(const Table *table, size_t low, unsigned column)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    Table *t = (Table *)(uintptr_t)table;      // rows are a cache: they do not change what the table means
    pthread_mutex_lock(&lock);
    if (!t->row[low * TABLE_COLUMNS]) row_fill(t, low);
    pthread_mutex_unlock(&lock);
    return t->row[low * TABLE_COLUMNS + column];
}

// ---- tables ----------------------------------------------------------------------------------------------------------

static unsigned word_bytes(unsigned m) { return m <= 8 ? 1 : m <= 16 ? 2 : m <= 32 ? 4 : 8; }

struct Table *table_new(const LookupSpec *s, Arena *a)
{
    ASSERT(s->k < s->t && s->t <= 40 && s->t - s->k >= 3 && s->t - s->k <= 20 && s->k <= 20);
    Table *t = arena_new(a, Table, 1);
    t->spec = *s;
    t->cells = (size_t)1 << (s->t - s->k);
    t->columns = s->fn == FN_EXP ? 1 : s->border ? 3 : 2;
    t->bytes[0] = word_bytes(s->m0), t->bytes[1] = word_bytes(s->m1), t->bytes[2] = 8;
    t->row = arena_new(a, void *, (size_t)TABLE_COLUMNS << s->k);
    return t;
}

void table_free(Table *t)
{
    for (size_t i = 0; t && i < (size_t)TABLE_COLUMNS << t->spec.k; i++) free(t->row[i]), t->row[i] = NULL;
}

const LookupSpec *table_spec(const Table *t) { return &t->spec; }

/* All rows of small tables; of wide ones every 64th: they come from the same few operations. */
void table_hash(const Table *t, Hash *h)
{
    size_t rows = (size_t)1 << t->spec.k, step = t->cells * rows > (1u << 20) ? (rows + 15) / 16 : 1;
    for (size_t low = 0; low < rows; low += step)
        for (unsigned j = 0; j < t->columns; j++) hash_add(h, table_row(t, low, j), t->cells * t->bytes[j]);
}

/* exp(-p 2^-f) with 14 fraction bits, the low factor of a rank-1 lookup. */
uint64_t table_low_exp(const Table *t, uint64_t p)
{
    return (uint64_t)(int64_t)rint(ldexp(fixed_exp(-ldexp((double)p, -(int)t->spec.f) * t->spec.gain), 14));
}

/* (2 p - (K - 1)) / K with fp fraction bits: in (-1, 1). */
uint64_t table_low_line(const Table *t, uint64_t p)
{
    double K = ldexp(1, (int)t->spec.k);
    return (uint64_t)(int64_t)rint(ldexp((2 * (double)p - (K - 1)) / K, (int)t->spec.fp));
}

uint64_t table_word(const Table *t, size_t low, unsigned column, size_t cell)
{
    const uint8_t *row = table_row(t, low, column);
    size_t at = (t->cells - cell) % t->cells;
    uint64_t w = 0;
    for (unsigned b = 0; b < t->bytes[column]; b++) w |= (uint64_t)row[at * t->bytes[column] + b] << 8 * b;
    return w;
}
