/* rowmax.c - the maximum of a row of opened indices, to a cell.
 *
 * T deals, for every index, an arithmetic one-hot word vector at its h_r; turned by the public h^ and added up they are a
 * histogram of the row's cells, its suffix sums count how many lie in cell b or above, and the maximum is the number of b
 * with a count above zero. A count z is opened as z^ = z + r, and [z = 0] is entry z^ of a one-hot at r: one dealt word.
 *
 * Words of up to 8 bits are handled in bytes, wider ones in 16 bits, some rows of the first cache at a time. Of the zero tests'
 * vectors C expands, and S reads, the one word that the public count asks for. */
#include "mpc/onehot.h"

enum { PART = 4096, PICKED = 2048 };           // words of the zero tests made at a time; vectors so long are not expanded for one word

struct RowMax {
    const Layout *groups, *at;                 // at: (groups * (cells - 1)) a row
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

// ---- counts ----------------------------------------------------------------------------------------------------------

typedef struct CountJob {
    const Engine *e;
    const RowMax *m;
    const Opened *index;
    unsigned k;
    uint64_t *zc, *zs;                         // (groups, cells - 1): the counts' shares
    size_t words;                              // bytes of a block's words, at most
} CountJob;

typedef struct CountScratch {
    uint64_t hi[BULK_MOST], point[BULK_MOST];
    _Alignas(64) uint8_t bytes[];              // words; then the sum of the group that a task is in the middle of
} CountScratch;

/* z[b - 1] = sum of e[(h^ + cells/2 - b) mod cells], b = 1.., then suffix sums. */
static void suffix_counts(uint64_t *z, const void *sum, size_t cells, unsigned w)
{
    for (size_t b = cells - 1; b >= 1; b--) {
        size_t d = (cells / 2 - b) & (cells - 1);
        uint64_t v = 0;
        memcpy(&v, (const uint8_t *)sum + d * narrow_bytes(w), narrow_bytes(w));
        z[b - 1] = v + (b < cells - 1 ? z[b] : 0);
    }
}

/* CLEAR: the counts themselves. */
static void true_counts(uint64_t *z, const uint64_t *hi, const uint64_t *point, size_t len, size_t cells)
{
    for (size_t j = 0; j < len; j++) {
        size_t cell = (size_t)(hi[j] - point[j] + cells / 2) & (cells - 1);
        for (size_t b = 1; b <= cell; b++) z[b - 1]++;
    }
}

/* Elements [i, i + len) of a block, the next ones of group g. */
static void group_count(const CountJob *j, const Bulk *b, CountScratch *x, size_t i, size_t len, size_t g, bool first, bool last)
{
    const RowMax *m = j->m;
    unsigned w = m->row_n[b->row];
    size_t cells = (size_t)1 << m->H, bytes = narrow_bytes(w), z = m->at->begin[b->row] + (g - m->groups->begin[b->row]) * (cells - 1);
    uint8_t *sum = x->bytes + j->words;
    if (first) memset(sum, 0, cells * bytes);
    narrow_turned(sum, x->bytes + i * cells * bytes, x->hi + i, len, cells, w);
    if (j->e->clear) true_counts(j->zs + z, x->hi + i, x->point + i, len, cells);
    if (!last) return;
    suffix_counts((j->e->server ? j->zs : j->zc) + z, sum, cells, w);
    if (j->e->clear) ring_sub_from(j->zs + z, j->zc + z, cells - 1);
}

static void count_block(void *ctx, const Bulk *b)
{
    const CountJob *j = ctx;
    const RowMax *m = j->m;
    const Engine *e = j->e;
    CountScratch *x = b->scratch;
    unsigned w = m->row_n[b->row], t = j->index->n;
    size_t words = b->count << m->H, begin = j->index->at->begin[b->row];
    if (b->prg) prg_bytes(b->prg, x->bytes, words * narrow_bytes(w));
    if (e->server) narrow_unpack(x->bytes, b->dealt, words, w);
    for (size_t i = 0; e->third && i < b->count; i++) x->point[i] = ring_low(opened_mask(j->index, b->from + i), t) >> j->k;
    if (e->role == ROLE_THIRD) {
        narrow_onehot(x->bytes, x->point, b->count, (size_t)1 << m->H, w);
        narrow_pack(b->dealt, x->bytes, words, w);
        return;
    }
    for (size_t i = 0; i < b->count; i++) x->hi[i] = ring_low(j->index->p[b->from + i], t) >> j->k;
    size_t each = m->group_len[m->groups->begin[b->row]];
    for (size_t i = 0, len; i < b->count; i += len) {
        size_t group = (b->from + i - begin) / each, at = (b->from + i - begin) % each;
        len = each - at < b->count - i ? each - at : b->count - i;
        group_count(j, b, x, i, len, m->groups->begin[b->row] + group, at == 0, at + len == each);
    }
}

static void counts_run(Engine *e, CountJob *j)
{
    const RowMax *m = j->m;
    size_t cells = (size_t)1 << m->H, most = 0;
    BulkRow *row = arena_new(&e->step, BulkRow, m->groups->rows);
    for (size_t r = 0; r < m->groups->rows; r++) {
        unsigned w = m->row_n[r];
        row[r] = (BulkRow){cells * narrow_bytes(w), cells / 8 * w, m->group_len[m->groups->begin[r]]};
        if (row[r].stream > most) most = row[r].stream;
    }
    j->words = bulk_bytes(most);
    source_bulk(e, j->index->at, &(BulkJob){row, count_block, j, sizeof(CountScratch) + j->words + most});
}

RowMax *rowmax_count(Engine *e, const Opened *index, unsigned k, const Layout *groups, const size_t *group_len)
{
    RowMax *m = arena_new(&e->step, RowMax, 1);
    unsigned H = index->n - k;
    size_t cells = (size_t)1 << H, rows = groups->rows;
    ASSERT(H >= 3 && H <= 16);
    *m = (RowMax){.groups = groups, .group_len = group_len, .H = H, .row_n = arena_new(&e->step, uint8_t, rows)};
    size_t *columns = arena_new(&e->step, size_t, rows);
    for (size_t r = 0; r < rows; r++) {
        size_t count = groups->begin[r + 1] - groups->begin[r], each = group_len[groups->begin[r]];
        columns[r] = count * (cells - 1);
        m->row_n[r] = (uint8_t)bit_length(each);
        ASSERT(m->row_n[r] <= 32 && index->at->begin[r + 1] - index->at->begin[r] == count * each);
        for (size_t g = groups->begin[r]; g < groups->begin[r + 1]; g++) ASSERT(group_len[g] == each);
    }
    m->at = layout_ragged(e, columns);
    Wire z = wire_new(e, m->at, 64, 0);
    counts_run(e, &(CountJob){.e = e, .m = m, .index = index, .k = k, .zc = z.c.word, .zs = z.s.word});
    m->counts = wire_open_rows(e, z, m->row_n);
    return m;
}

// ---- zero tests ------------------------------------------------------------------------------------------------------

typedef struct TestJob { const Engine *e; const RowMax *m; Wire top; } TestJob;

/* T: the words of a group's tests, `cells` each, in parts: of one vector, or of several whole ones. */
static void tests_deal(const TestJob *j, const Bulk *b, size_t at, uint8_t *dealt, unsigned w)
{
    const Opened *z = j->m->counts;
    unsigned H = j->m->H;
    size_t cells = (size_t)1 << w, words = (((size_t)1 << H) - 1) << w, each = cells < PART ? cells : PART;
    uint64_t *point = b->scratch;              // (PART / 4), a vector having at least 4 words
    uint8_t *part = (uint8_t *)b->scratch + PART / 4 * sizeof *point;
    for (size_t i = 0; i < words; i += PART) {
        size_t count = words - i < PART ? words - i : PART;
        for (size_t v = 0; v < count / each; v++) {
            size_t first = i + v * each;
            point[v] = ring_low(z->rc.word[at + (first >> w)] + z->rs.word[at + (first >> w)], w) - (first & (cells - 1));
        }
        prg_bytes(b->prg, part, count * narrow_bytes(H));
        narrow_onehot(part, point, count / each, each, H);
        narrow_pack(dealt + i / 8 * H, part, count, H);
    }
}

/* How many counts of a group are zero, as a share: a word of each test, of C's stream from `skip` on. */
static uint64_t tests_client(const TestJob *j, const Bulk *b, size_t skip, size_t at, unsigned w)
{
    unsigned H = j->m->H, bytes = narrow_bytes(H);
    size_t tests = ((size_t)1 << H) - 1, each = (size_t)1 << w, some = each >= PICKED ? 1 : PART / each;
    uint8_t *part = b->scratch;
    uint64_t sum = 0;
    for (size_t i = 0; i < tests; i += some) {
        size_t count = tests - i < some ? tests - i : some;
        if (each < PICKED) prg_bytes(b->prg, part, count * each * bytes);
        for (size_t v = 0; v < count; v++) {
            size_t entry = (size_t)ring_low(j->m->counts->p[at + i + v], w);
            uint64_t word = 0;
            if (each < PICKED) memcpy(&word, part + (v * each + entry) * bytes, bytes);
            else prg_words_at(b->prg, skip + ((i + v) * each + entry) * bytes, &word, 1, H);
            sum += word;
        }
    }
    return sum;
}

static uint64_t tests_server(const TestJob *j, const uint8_t *dealt, size_t at, unsigned w)
{
    uint64_t sum = 0;
    for (size_t i = 0; i + 1 < (size_t)1 << j->m->H; i++)
        sum += narrow_packed(dealt, (i << w) + (size_t)ring_low(j->m->counts->p[at + i], w), j->m->H);
    return sum;
}

static uint64_t true_zeros(const Opened *z, size_t at, size_t tests, unsigned w)
{
    uint64_t zeros = 0;
    for (size_t b = at; b < at + tests; b++) zeros += ring_low(z->p[b] - z->rc.word[b] - z->rs.word[b], w) == 0;
    return zeros;
}

static void test_block(void *ctx, const Bulk *b)
{
    const TestJob *j = ctx;
    const RowMax *m = j->m;
    const Engine *e = j->e;
    unsigned w = m->row_n[b->row];
    size_t tests = ((size_t)1 << m->H) - 1, stream = (tests << w) * narrow_bytes(m->H), dealt = ring_packed_size(tests << w, m->H);
    for (size_t i = 0; i < b->count; i++) {
        size_t g = b->from + i, at = m->at->begin[b->row] + (g - m->groups->begin[b->row]) * tests;
        if (e->role == ROLE_THIRD) tests_deal(j, b, at, b->dealt + i * dealt, w);
        if (e->client) j->top.c.word[g] = tests - tests_client(j, b, i * stream, at, w);
        if (e->server) j->top.s.word[g] = 0 - tests_server(j, b->dealt + i * dealt, at, w);
        if (e->clear) j->top.s.word[g] = tests - true_zeros(m->counts, at, tests, w) - j->top.c.word[g];
    }
}

Wire rowmax_take(Engine *e, RowMax *m)
{
    TestJob j = {e, m, wire_new(e, m->groups, m->H, 0)};
    size_t tests = ((size_t)1 << m->H) - 1;
    BulkRow *row = arena_new(&e->step, BulkRow, m->groups->rows);
    for (size_t r = 0; r < m->groups->rows; r++) {
        size_t words = tests << m->row_n[r];
        row[r] = (BulkRow){words * narrow_bytes(m->H), ring_packed_size(words, m->H), 1};
    }
    source_bulk(e, m->groups, &(BulkJob){row, test_block, &j, PART / 4 * sizeof(uint64_t) + PART * sizeof(uint32_t)});
    return j.top;
}
