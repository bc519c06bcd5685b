/* lookup.c - split lookups: a smooth function of a secret index in two exchanges, without a tree.
 *
 * The index is opened, i^ = i + r, and both are split at bit k: i = 2^k (h^ - h_r) + (l^ - p), h^ and l^ public, h_r and p
 * known to T. T deals a one-hot bit vector at h_r; each party adds up the words of table row l^ that its bits select, which
 * makes shares of u = s psi[l^][h], s = +-1 known to T alone. The columns u are opened, and the result is the factor
 * sum_j (s phi_j) u_j, phi_j a function of p. The sign is shared for free by the difference of the popcounts; that share is
 * not uniform, so it is used only in sums that contain the dealt word kappa.
 *
 * All of that is done block by block of elements (onehot.h): the parts of the index, the bits and the sums of a block are in
 * the first cache together, and only what the next exchange needs is written out. */
#include "mpc/onehot.h"
#include "mpc/table.h"

/* How an index is split; with a maximum, its cells count from the one of its group. */
typedef struct Cut {
    const Opened *index;
    unsigned t, k;
    const Opened *max;                         // one a group, or NULL
    const Layout *groups;                      // a row's elements are those of its groups, all of one length
} Cut;

typedef struct Column {
    Opened *u;
    unsigned up;                               // the column counts 2^up in the result
    uint64_t *mu;                              // T: s phi
    bool signs;                                // mu is the sign alone: shared by the popcounts
} Column;

struct Looked {
    const Layout *at;
    unsigned f, count;
    Column column[SELECT_COLUMNS];
    uint64_t *sign;                            // T, CLEAR
    Share pop;                                 // shares of the sign
    uint64_t *value;                           // CLEAR
};

// ---- select ----------------------------------------------------------------------------------------------------------

enum { WIRES = 3 };                            // constant, slope, and the indicator of the cells below the border

typedef struct SelectJob {
    const Engine *e;
    const Table *t;
    const Cut *cut;
    uint64_t *sum[WIRES], *ones;               // C, S, CLEAR; ones may be NULL
    uint64_t *sign, *phi;                      // T, CLEAR: s, and s times the low part
    uint64_t *word[WIRES], *value, *below;     // CLEAR: s times the words; the looked up values
} SelectJob;

typedef struct Scratch {
    _Alignas(64) uint64_t hi[BULK_MOST], lo[BULK_MOST], point[BULK_MOST], p[BULK_MOST];
    _Alignas(64) uint8_t bits[];               // of a block; then a row of a wide table
} Scratch;

/* The bits of a block, up to where a row of a wide table may begin. */
static size_t bits_room(size_t cells) { return (bulk_bytes(cells / 8) + 63) / 64 * 64; }

/* In place of a cell: itself less the cell of its group's maximum, which is public (up: half the range) or T's mask. */
static void below_max(const Cut *x, const Bulk *b, uint64_t *cell, bool secret)
{
    const Layout *at = x->index->at;
    size_t g = x->groups->begin[b->row], len = (at->begin[b->row + 1] - at->begin[b->row]) / (x->groups->begin[b->row + 1] - g);
    size_t first = b->from - at->begin[b->row], head = first / len, end = (head + 1) * len;
    unsigned H = x->t - x->k;
    for (size_t i = 0; i < b->count; head++, end += len) {
        uint64_t less = secret ? opened_mask(x->max, g + head) : x->max->p[g + head] - (UINT64_C(1) << (H - 1));
        for (; i < b->count && first + i < end; i++) cell[i] = ring_low(cell[i] - less, H);
    }
}

/* h^ and l^ (C, S, CLEAR). */
static void cut_public(const Cut *x, const Bulk *b, uint64_t *hi, uint64_t *lo)
{
    const uint64_t *p = x->index->p + b->from;
    for (size_t i = 0; i < b->count; i++) hi[i] = ring_low(p[i], x->t) >> x->k, lo[i] = ring_low(p[i], x->k);
    if (x->max) below_max(x, b, hi, false);
}

/* h_r and p (T, CLEAR). */
static void cut_secret(const Cut *x, const Bulk *b, uint64_t *point, uint64_t *p)
{
    for (size_t i = 0; i < b->count; i++) {
        uint64_t r = ring_low(opened_mask(x->index, b->from + i), x->t);
        point[i] = r >> x->k, p[i] = ring_low(r, x->k);
    }
    if (x->max) below_max(x, b, point, true);
}

/* How many of the bits are those of cells below the border: these are h^, h^ - 1, .. */
static uint64_t border_count(const uint8_t *bits, uint64_t hi, unsigned border, size_t cells)
{
    uint64_t n = 0;
    for (size_t h = 0; h < border; h++) {
        size_t c = (size_t)(hi - h) & (cells - 1);
        n += bits[c / 8] >> c % 8 & 1;
    }
    return n;
}

static void sums_add_up(const SelectJob *j, const Bulk *b, const uint8_t *bits, Scratch *x)
{
    const Table *t = j->t;
    Selection s = {.bits = bits, .low = x->lo, .turn = x->hi, .ones = j->ones ? j->ones + b->from : NULL};
    for (unsigned k = 0; k < t->columns; k++) s.sum[k] = j->sum[k] + b->from;
    if (t->rows) {
        SelectTable rows = table_select(t, 0, NULL);
        s.table = &rows;
        ring_select(&s, b->count);
    } else for (size_t i = 0; i < b->count; i++) {             // a row for each
        SelectTable row = table_select(t, x->lo[i], x->bits + bits_room(t->cells));
        Selection one = {.table = &row, .bits = bits + i * (t->cells / 8), .low = (const uint64_t[1]){0}, .turn = x->hi + i};
        for (unsigned k = 0; k < t->columns; k++) one.sum[k] = s.sum[k] + i;
        one.ones = s.ones ? s.ones + i : NULL;
        ring_select(&one, 1);
    }
    for (size_t i = 0; j->sum[2] && i < b->count; i++)
        j->sum[2][b->from + i] = border_count(bits + i * (t->cells / 8), x->hi[i], t->spec.border, t->cells);
}

/* CLEAR: the words at the cells that the indices lie in, and what comes of them. */
static void values_look_up(const SelectJob *j, const Bulk *b, const Scratch *x, const uint64_t *low)
{
    const Table *t = j->t;
    const LookupSpec *s = &t->spec;
    for (size_t i = 0; i < b->count; i++) {
        size_t at = b->from + i, cell = (size_t)(x->hi[i] - x->point[i]) & (t->cells - 1);
        uint64_t u0 = table_word(t, x->lo[i], 0, cell), u1 = t->columns > 1 ? table_word(t, x->lo[i], 1, cell) : 0;
        uint64_t below = j->below ? table_word(t, x->lo[i], 2, cell) : 0;
        j->word[0][at] = j->sign[at] * u0;
        if (t->columns > 1) j->word[1][at] = j->sign[at] * u1;
        if (j->below) j->word[2][at] = j->sign[at] * below, j->below[at] = below;
        j->value[at] = s->fn == FN_EXP ? u0 * low[i] : (u0 << (s->f1 + s->fp - s->f0)) + u1 * low[i];
    }
}

static void select_block(void *ctx, const Bulk *b)
{
    const SelectJob *j = ctx;
    const Engine *e = j->e;
    Scratch *x = b->scratch;
    size_t cells = j->t->cells;
    uint8_t *bits = b->dealt ? b->dealt : x->bits;             // C's half: at S the other, which T makes of it
    if (b->prg) prg_bytes(b->prg, bits, b->count * (cells / 8));
    if (!e->third || e->clear) {
        cut_public(j->cut, b, x->hi, x->lo);
        sums_add_up(j, b, bits, x);
    }
    if (e->third) {
        cut_secret(j->cut, b, x->point, x->p);
        ring_onehot(bits, j->sign + b->from, x->point, b->count, cells, !e->clear);
        table_low(j->t, x->p, x->p, b->count);
        ring_mul(j->phi + b->from, x->p, j->sign + b->from, b->count);
    }
    if (e->clear) values_look_up(j, b, x, x->p);
    for (unsigned k = 0; e->server && k < WIRES; k++)
        for (size_t i = 0; j->sum[k] && i < b->count; i++) j->sum[k][b->from + i] = 0 - j->sum[k][b->from + i];
    for (size_t i = 0; e->server && j->ones && i < b->count; i++) j->ones[b->from + i] = 0 - j->ones[b->from + i];
}

static void select_run(Engine *e, const Layout *at, SelectJob *j)
{
    size_t bytes = j->t->cells / 8;
    BulkRow *row = arena_new(&e->step, BulkRow, at->rows);
    for (size_t r = 0; r < at->rows; r++) row[r] = (BulkRow){bytes, bytes, 1};
    source_bulk(e, at, &(BulkJob){row, select_block, j, sizeof(Scratch) + bits_room(j->t->cells) + table_scratch(j->t)});
}

/* Shares of every column, opened. */
static void columns_open(Engine *e, const Layout *at, SelectJob *j, Opened *out[WIRES], unsigned count)
{
    size_t len = layout_len(at);
    Wire u[WIRES];
    for (unsigned k = 0; k < count; k++) {
        unsigned column = k < j->t->columns ? k : 2;
        u[k] = wire_new(e, at, column_width(j->t, column), 0);
        j->sum[column] = e->server ? u[k].s.word : u[k].c.word;
        j->word[column] = words_if(e, e->clear, len);
    }
    select_run(e, at, j);
    for (unsigned k = 0; k < count; k++) {
        if (e->clear) wire_settle(e, &u[k], j->word[k < j->t->columns ? k : 2]);
        out[k] = wire_open_last(e, u[k]);
    }
}

/* indicator: where the table has a border, the third column, as a lookup of its own on the same bits. */
static Looked *looked_new(Engine *e, const Table *t, const Cut *x, Looked **indicator)
{
    const LookupSpec *s = &t->spec;
    const Layout *at = x->index->at;
    size_t len = layout_len(at);
    Looked *l = arena_new(&e->step, Looked, 1);
    ASSERT((indicator != NULL) == (s->border != 0) && (!indicator || s->fn != FN_EXP));
    l->at = at;
    l->sign = words_if(e, e->third, len);
    l->value = words_if(e, e->clear, len);
    l->pop.word = words_if(e, (e->client || e->server) && s->fn != FN_EXP, len);
    SelectJob job = {.e = e, .t = t, .cut = x, .ones = l->pop.word, .sign = l->sign, .phi = words_if(e, e->third, len), .value = l->value,
                     .below = words_if(e, e->clear && indicator, len)};
    Opened *u[WIRES];
    columns_open(e, at, &job, u, t->columns + (indicator != NULL));
    if (s->fn == FN_EXP) {
        l->f = s->f0 + 14, l->count = 1;
        l->column[0] = (Column){u[0], 0, job.phi, false};
    } else {
        ASSERT(s->f1 + s->fp >= s->f0);
        l->f = s->f1 + s->fp, l->count = 2;
        l->column[0] = (Column){u[0], s->f1 + s->fp - s->f0, l->sign, true};
        l->column[1] = (Column){u[1], 0, job.phi, false};
    }
    if (indicator) {
        Looked *n = *indicator = arena_new(&e->step, Looked, 1);
        *n = (Looked){.at = at, .count = 1, .sign = l->sign, .pop = l->pop, .value = job.below};
        n->column[0] = (Column){u[2], 0, l->sign, true};
    }
    return l;
}

Looked *lookup_select(Engine *e, const Opened *index, const Table *t)
{
    ASSERT(index->n == t->spec.t && !index->row_n);
    return looked_new(e, t, &(Cut){.index = index, .t = t->spec.t, .k = t->spec.k}, NULL);
}

Looked *lookup_select_below(Engine *e, const Opened *index, const Table *t, const Opened *max, const Layout *groups)
{
    unsigned H = t->spec.t - t->spec.k;
    ASSERT(index->n == t->spec.t && max->n == H && layout_len(max->at) == layout_len(groups));
    return looked_new(e, t, &(Cut){index, t->spec.t, t->spec.k, max, groups}, NULL);
}

// ---- the factor ------------------------------------------------------------------------------------------------------

typedef struct KappaJob { const Looked *l; uint64_t *kappa; } KappaJob;

static void kappa_words(void *ctx, size_t begin, size_t end)
{
    const KappaJob *j = ctx;
    for (unsigned k = 0; k < j->l->count; k++) {
        const Column *c = &j->l->column[k];
        const uint64_t *rc = c->u->rc.word, *rs = c->u->rs.word, *mu = c->mu;
        for (size_t i = begin; i < end; i++) j->kappa[i] += mu[i] * ring_low(rc[i] + rs[i], c->u->n) << c->up;
    }
}

/* y = sum_j phi_j (s u_j): terms (u_j^, s phi_j), where a column is narrower than the ring (2^m c_j, s phi_j msb(a_j)), and
 * (-1, kappa = sum_j s phi_j a_j), a_j the column's mask. */
const Factor *looked_factor(Engine *e, Looked *l, unsigned n)
{
    size_t len = layout_len(l->at);
    Factor *x = factor_new(e, l->at, l->f, n);
    uint64_t *kappa = words_if(e, e->third, len);
    x->value = l->value;
    if (kappa) parallel_for(len, 4096, kappa_words, &(KappaJob){l, kappa});
    for (unsigned j = 0; j < l->count; j++) {
        const Column *c = &l->column[j];
        unsigned m = c->u->n;
        Term *t = factor_term(x);
        *t = (Term){.shown = c->u, .up = c->up, .mu = c->mu, .v = c->up, .ring = n, .shared = c->signs};
        if (c->signs && e->client) t->c = l->pop;
        if (c->signs && e->server) t->s = l->pop;
        if (n > m + c->up) *factor_term(x) = (Term){.wrap = c->u, .up = c->up, .mu = c->mu, .v = m + c->up, .ring = n};
    }
    *factor_term(x) = (Term){.k = UINT64_MAX, .mu = kappa, .ring = n};
    return x;
}

// ---- two levels ------------------------------------------------------------------------------------------------------

struct Looked2 { Looked *high, *indicator, *low; };

/* The coarse cell h = h^ - h_r is exact; h below the border means that the index fits the fine level's low bits, where the
 * fine level is right. Above, the coarse line is, and the indicator removes the fine one. */
Looked2 *lookup2_select(Engine *e, const Opened *index, const Table *coarse, const Table *fine)
{
    const LookupSpec *c = &coarse->spec, *f = &fine->spec;
    ASSERT(index->n == c->t && c->border && f->t <= c->t && (UINT64_C(1) << f->t) == (uint64_t)c->border << c->k);
    Looked2 *l = arena_new(&e->step, Looked2, 1);
    l->high = looked_new(e, coarse, &(Cut){.index = index, .t = c->t, .k = c->k}, &l->indicator);
    l->low = looked_new(e, fine, &(Cut){.index = index, .t = f->t, .k = f->k}, NULL);
    return l;
}

static uint64_t *times(Engine *e, const uint64_t *a, const uint64_t *b, size_t len)
{
    uint64_t *x = words_if(e, a && b, len);
    if (x) ring_mul(x, a, b, len);
    return x;
}

static Term term_times(Engine *e, const Term *s, const Term *t, const Layout *at)
{
    size_t len = layout_len(at);
    return (Term){.g = times(e, term_public_words(e, s, at), term_public_words(e, t, at), len), .v = s->v + t->v, .ring = s->ring,
                  .mu = times(e, term_secret_words(e, s, at), term_secret_words(e, t, at), len)};
}

/* high + indicator * low, the products of secrets formed at T: still a sum of public times secret. */
const Factor *looked2_factor(Engine *e, Looked2 *l, unsigned n)
{
    size_t len = layout_len(l->high->at);
    const Factor *a = looked_factor(e, l->indicator, n), *b = looked_factor(e, l->low, n), *h = looked_factor(e, l->high, n);
    Factor *x = factor_new(e, l->high->at, l->high->f, n);
    ASSERT(l->high->f == l->low->f);
    for (unsigned i = 0; i + 1 < h->count; i++) *factor_term(x) = h->term[i];
    for (unsigned i = 0; i < a->count; i++)
        for (unsigned j = 0; j < b->count; j++) {
            if (i + 1 == a->count && j + 1 == b->count) continue;
            *factor_term(x) = term_times(e, &a->term[i], &b->term[j], x->at);
        }
    const Term *ka = &a->term[a->count - 1], *kb = &b->term[b->count - 1], *kh = &h->term[h->count - 1];
    uint64_t *kappa = times(e, ka->mu, kb->mu, len);           // (-1)(-1) kappa kappa' joins the high level's -kappa
    for (size_t i = 0; kappa && i < len; i++) kappa[i] = kh->mu[i] - kappa[i];
    *factor_term(x) = (Term){.k = UINT64_MAX, .mu = kappa, .ring = n};
    uint64_t *value = words_if(e, e->clear, len);
    for (size_t i = 0; value && i < len; i++) value[i] = h->value[i] + a->value[i] * b->value[i];
    x->value = value;
    return x;
}
