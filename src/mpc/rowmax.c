/* rowmax.c - the maximum of a row of opened indices, to a cell.
 *
 * T deals, for every index, an arithmetic one-hot word vector at its h_r; turned by the public h^ and added up they are a
 * histogram of the row's cells, its suffix sums count how many lie in cell b or above, and the maximum is the number of b
 * with a count above zero. A count z is opened as z^ = z + r, and [z = 0] is entry z^ of a one-hot at r: one dealt word. */
#include "mpc/engine.h"

struct RowMax {
    const Layout *groups, *at, *index_at;      // at: (groups * (cells - 1)) a row
    const size_t *group_len;
    unsigned H;
    uint8_t *row_n;
    Opened *counts;
};

static unsigned bit_length(size_t v)
{
    unsigned n = 0;
    while (v >> n) n++;
    return n < 2 ? 2 : n;
}

/* z[b - 1] += e[(h^ + cells/2 - b) mod cells], b = 1.., then suffix sums: one group. */
static void suffix_counts(uint64_t *z, const uint64_t *onehot, const uint64_t *hi, size_t len, size_t cells)
{
    for (size_t j = 0; j < len; j++, onehot += cells)
        for (size_t b = 1; b < cells; b++) z[b - 1] += onehot[(hi[j] + cells / 2 - b) & (cells - 1)];
    for (size_t b = cells - 1; b-- > 1;) z[b - 1] += z[b];
}

/* CLEAR: the counts themselves. */
static void true_counts(uint64_t *z, const uint64_t *hi, const uint64_t *point, size_t len, size_t cells)
{
    for (size_t j = 0; j < len; j++) {
        size_t cell = (size_t)(hi[j] - point[j] + cells / 2) & (cells - 1);
        for (size_t b = 1; b <= cell; b++) z[b - 1]++;
    }
}

static void count_group(Engine *e, size_t row, unsigned w, const Opened *index, unsigned k, size_t from, size_t len, size_t cells, uint64_t *zc, uint64_t *zs)
{
    ArenaMark mark = arena_mark(&e->step);
    unsigned t = index->n;
    uint64_t *point = words_if(e, e->third, len), *hi = words_if(e, index->p != NULL, len);
    uint64_t *c = words_if(e, e->client_prg != NULL, len * cells), *s = words_if(e, e->server || e->role == ROLE_THIRD, len * cells);
    for (size_t j = 0; point && j < len; j++) point[j] = ring_low(opened_mask(index, from + j), t) >> k;
    for (size_t j = 0; hi && j < len; j++) hi[j] = ring_low(index->p[from + j], t) >> k;
    source_onehot_words(e, row, c, s, point, len, cells, w);
    if (e->client) suffix_counts(zc, c, hi, len, cells);
    if (e->server) suffix_counts(zs, s, hi, len, cells);
    if (e->clear) {
        true_counts(zs, hi, point, len, cells);
        ring_sub_from(zs, zc, cells - 1);
    }
    arena_rollback(&e->step, mark);
}

RowMax *rowmax_count(Engine *e, const Opened *index, unsigned k, const Layout *groups, const size_t *group_len)
{
    RowMax *m = arena_new(&e->step, RowMax, 1);
    unsigned H = index->n - k;
    size_t cells = (size_t)1 << H, rows = groups->rows;
    ASSERT(H >= 3 && H <= 16);
    *m = (RowMax){.groups = groups, .group_len = group_len, .H = H, .row_n = arena_new(&e->step, uint8_t, rows), .index_at = index->at};
    size_t *columns = arena_new(&e->step, size_t, rows);
    for (size_t r = 0; r < rows; r++) columns[r] = (groups->begin[r + 1] - groups->begin[r]) * (cells - 1);
    m->at = layout_ragged(e, columns);
    Wire z = wire_new(e, m->at, 64, 0);
    for (size_t r = 0; r < rows; r++) {
        size_t from = index->at->begin[r], g0 = groups->begin[r];
        m->row_n[r] = (uint8_t)bit_length(group_len[g0]);
        for (size_t g = g0; g < groups->begin[r + 1]; from += group_len[g++]) {
            ASSERT(group_len[g] == group_len[g0]);
            size_t at = m->at->begin[r] + (g - g0) * (cells - 1);
            count_group(e, r, m->row_n[r], index, k, from, group_len[g], cells, z.c.word ? z.c.word + at : NULL, z.s.word ? z.s.word + at : NULL);
        }
    }
    m->counts = wire_open_rows(e, z, m->row_n);
    return m;
}

/* The words of one group's zero tests; how many counts are zero, as a share. */
static void zero_tests(Engine *e, const RowMax *m, size_t row, size_t at, uint64_t *c_sum, uint64_t *s_sum)
{
    ArenaMark mark = arena_mark(&e->step);
    unsigned w = m->row_n[row];
    size_t tests = ((size_t)1 << m->H) - 1, cells = (size_t)1 << w;
    const Opened *z = m->counts;
    uint64_t *c = words_if(e, e->client_prg != NULL, tests * cells), *s = words_if(e, e->server || e->role == ROLE_THIRD, tests * cells);
    uint64_t *point = words_if(e, e->third, tests);
    for (size_t b = 0; point && b < tests; b++) point[b] = ring_low(z->rc.word[at + b] + z->rs.word[at + b], w);
    source_onehot_words(e, row, c, s, point, tests, cells, m->H);
    for (size_t b = 0; z->p && b < tests; b++) {
        size_t entry = b * cells + (size_t)ring_low(z->p[at + b], w);
        if (e->client) *c_sum += c[entry];
        if (e->server) *s_sum += s[entry];
        if (e->clear) *s_sum += ring_low(z->p[at + b] - point[b], w) == 0;   // the true number of zeros
    }
    arena_rollback(&e->step, mark);
}

Wire rowmax_take(Engine *e, RowMax *m)
{
    size_t cells = (size_t)1 << m->H;
    Wire w = wire_new(e, m->groups, m->H, 0);
    for (size_t r = 0; r < m->groups->rows; r++)
        for (size_t g = m->groups->begin[r]; g < m->groups->begin[r + 1]; g++) {
            uint64_t c = 0, s = 0;
            zero_tests(e, m, r, m->at->begin[r] + (g - m->groups->begin[r]) * (cells - 1), &c, &s);
            if (w.c.word) w.c.word[g] = cells - 1 - c;
            if (e->server) w.s.word[g] = 0 - s;
            if (e->clear) w.s.word[g] = cells - 1 - s - w.c.word[g];
        }
    return w;
}
