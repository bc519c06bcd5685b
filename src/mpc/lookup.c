/* lookup.c - split lookups: a smooth function of a secret index in two exchanges, without a tree.
 *
 * The index is opened, i^ = i + r, and both are split at bit k: i = 2^k (h^ - h_r) + (l^ - p), h^ and l^ public, h_r and p
 * known to T. T deals a one-hot bit vector at h_r; each party adds up the words of table row l^ that its bits select, which
 * makes shares of u = s psi[l^][h], s = +-1 known to T alone. The columns u are opened, and the result is the factor
 * sum_j (s phi_j) u_j, phi_j a function of p. The sign is shared for free by the difference of the popcounts; that share is
 * not uniform, so it is used only in sums that contain the dealt word kappa. */
#include "mpc/engine.h"
#include "mpc/table.h"

/* h^ and l^ (C, S, CLEAR); h_r and p (T, CLEAR). */
typedef struct Cut { uint64_t *hi, *lo, *point, *p; } Cut;

typedef struct Column {
    Opened *u;
    unsigned up;                               // the column counts 2^up in the result
    uint64_t *mu;                              // T: s phi
    bool signs;                                // mu is the sign alone: shared by the popcounts
} Column;

struct Looked {
    const Layout *at;
    unsigned f, count;
    Column column[TABLE_COLUMNS];
    uint64_t *sign;                            // T, CLEAR
    Share pop;                                 // shares of the sign
    uint64_t *value;                           // CLEAR
};

static Cut index_cut(Engine *e, const Opened *o, unsigned t, unsigned k)
{
    size_t len = layout_len(o->at);
    Cut x = {words_if(e, o->p != NULL, len), words_if(e, o->p != NULL, len), words_if(e, e->third, len), words_if(e, e->third, len)};
    for (size_t i = 0; x.hi && i < len; i++) x.hi[i] = ring_low(o->p[i], t) >> k, x.lo[i] = ring_low(o->p[i], k);
    for (size_t i = 0; x.point && i < len; i++) {
        uint64_t r = ring_low(opened_mask(o, i), t);
        x.point[i] = r >> k, x.p[i] = ring_low(r, k);
    }
    return x;
}

// ---- select ----------------------------------------------------------------------------------------------------------

typedef struct SelectJob {
    const Table *t;
    const Cut *cut;
    const uint8_t *bits;
    uint64_t *out[TABLE_COLUMNS];
    bool negate;
    uint8_t *scratch;                          // of wide tables, whose rows are made here
} SelectJob;

static void select_range(void *ctx, size_t begin, size_t end)
{
    const SelectJob *j = ctx;
    const Table *t = j->t;
    for (size_t i = begin; i < end; i++) {
        const uint8_t *column[TABLE_COLUMNS];
        size_t from = (t->cells - (size_t)j->cut->hi[i]) % t->cells;
        table_row(t, j->cut->lo[i], column, j->scratch);
        for (unsigned k = 0; k < t->columns; k++) {
            uint64_t u = ring_select(column[k] + from * t->bytes[k], t->bytes[k], j->bits + i * (t->cells / 8), t->cells);
            j->out[k][i] = j->negate ? 0 - u : u;
        }
    }
}

/* CLEAR: the table's word at the cell that the index lies in. */
static uint64_t cell_word(const Table *t, const Cut *x, size_t i, unsigned column)
{
    return table_word(t, x->lo[i], column, (size_t)(x->hi[i] - x->point[i]) & (t->cells - 1));
}

/* Shares of every column, opened. */
static void columns_open(Engine *e, const Looked *l, const Table *t, const Cut *x, const uint8_t *ec, const uint8_t *es, Opened *out[TABLE_COLUMNS])
{
    size_t len = layout_len(l->at);
    Wire u[TABLE_COLUMNS];
    SelectJob job = {.t = t, .cut = x, .bits = e->server ? es : ec, .negate = e->server};
    for (unsigned k = 0; k < t->columns; k++) {
        u[k] = wire_new(e, l->at, column_width(t, k), 0);
        job.out[k] = e->server ? u[k].s.word : u[k].c.word;
    }
    if (job.out[0] && t->rows) parallel_for(len, 64, select_range, &job);
    else if (job.out[0]) {
        job.scratch = arena_new(&e->step, uint8_t, table_scratch(t));
        select_range(&job, 0, len);
    }
    uint64_t *value = words_if(e, e->clear, len);
    for (unsigned k = 0; k < t->columns; k++) {
        for (size_t i = 0; value && i < len; i++) value[i] = l->sign[i] * cell_word(t, x, i, k);
        if (value) wire_settle(e, &u[k], value);
        out[k] = wire_open(e, u[k]);
    }
}

static void sign_share(Engine *e, Looked *l, const uint8_t *ec, const uint8_t *es, size_t cells)
{
    size_t len = layout_len(l->at);
    l->pop.word = words_if(e, e->client || e->server, len);
    for (size_t i = 0; l->pop.word && i < len; i++)
        l->pop.word[i] = e->client ? ring_popcount(ec + i * (cells / 8), cells) : 0 - ring_popcount(es + i * (cells / 8), cells);
}

/* What the low part p contributes at T: exp(-p), or the line's coordinate. */
static uint64_t low_part(const Table *t, uint64_t p) { return t->spec.fn == FN_EXP ? table_low_exp(t, p) : table_low_line(t, p); }

static uint64_t *secret_times_sign(Engine *e, const Looked *l, const Table *t, const Cut *x)
{
    size_t len = layout_len(l->at);
    uint64_t *mu = words_if(e, e->third, len);
    for (size_t i = 0; mu && i < len; i++) mu[i] = l->sign[i] * low_part(t, x->p[i]);
    return mu;
}

static uint64_t *looked_value(Engine *e, const Looked *l, const Table *t, const Cut *x)
{
    size_t len = layout_len(l->at);
    uint64_t *v = words_if(e, e->clear, len);
    for (size_t i = 0; v && i < len; i++) {
        v[i] = cell_word(t, x, i, 0);
        if (t->spec.fn == FN_EXP) v[i] *= low_part(t, x->p[i]);
        else v[i] = (v[i] << (t->spec.f1 + t->spec.fp - t->spec.f0)) + cell_word(t, x, i, 1) * low_part(t, x->p[i]);
    }
    return v;
}

/* indicator: where the table has a border, the third column, as a lookup of its own on the same bits. */
static Looked *looked_new(Engine *e, const Layout *at, const Table *t, const Cut *x, Looked **indicator)
{
    const LookupSpec *s = &t->spec;
    Looked *l = arena_new(&e->step, Looked, 1);
    size_t len = layout_len(at);
    uint8_t *ec, *es;
    l->at = at;
    l->sign = words_if(e, e->third, len);
    source_onehot(e, &ec, &es, l->sign, x->point, at, t->cells);
    sign_share(e, l, ec, es, t->cells);
    uint64_t *phi = secret_times_sign(e, l, t, x);
    Opened *u[TABLE_COLUMNS];
    columns_open(e, l, t, x, ec, es, u);
    if (s->fn == FN_EXP) {
        l->f = s->f0 + 14, l->count = 1;
        l->column[0] = (Column){u[0], 0, phi, false};
    } else {
        ASSERT(s->f1 + s->fp >= s->f0);
        l->f = s->f1 + s->fp, l->count = 2;
        l->column[0] = (Column){u[0], s->f1 + s->fp - s->f0, l->sign, true};
        l->column[1] = (Column){u[1], 0, phi, false};
    }
    l->value = looked_value(e, l, t, x);
    ASSERT((indicator != NULL) == (s->border != 0));
    if (indicator) {
        Looked *n = *indicator = arena_new(&e->step, Looked, 1);
        *n = (Looked){.at = at, .count = 1, .sign = l->sign, .pop = l->pop, .value = words_if(e, e->clear, len)};
        n->column[0] = (Column){u[2], 0, l->sign, true};
        for (size_t i = 0; n->value && i < len; i++) n->value[i] = cell_word(t, x, i, 2);
    }
    return l;
}

Looked *lookup_select(Engine *e, const Opened *index, const Table *t)
{
    ASSERT(index->n == t->spec.t && !index->row_n);
    Cut x = index_cut(e, index, t->spec.t, t->spec.k);
    return looked_new(e, index->at, t, &x, NULL);
}

Looked *lookup_select_below(Engine *e, const Opened *index, const Table *t, const Opened *max, const Layout *groups)
{
    unsigned H = t->spec.t - t->spec.k;
    ASSERT(index->n == t->spec.t && max->n == H && layout_len(max->at) == layout_len(groups));
    Cut x = index_cut(e, index, t->spec.t, t->spec.k);
    for (size_t r = 0; r < index->at->rows; r++) {
        size_t heads = groups->begin[r + 1] - groups->begin[r], len = (index->at->begin[r + 1] - index->at->begin[r]) / heads;
        for (size_t h = 0; h < heads; h++)
            for (size_t j = 0; j < len; j++) {
                size_t i = index->at->begin[r] + h * len + j, g = groups->begin[r] + h;
                if (x.hi) x.hi[i] = ring_low(x.hi[i] - max->p[g] + (t->cells >> 1), H);
                if (x.point) x.point[i] = ring_low(x.point[i] - opened_mask(max, g), H);
            }
    }
    return looked_new(e, index->at, t, &x, NULL);
}

// ---- the factor ------------------------------------------------------------------------------------------------------

/* y = sum_j phi_j (s u_j): terms (u_j^, s phi_j), where a column is narrower than the ring (2^m c_j, s phi_j msb(a_j)), and
 * (-1, kappa = sum_j s phi_j a_j), a_j the column's mask. */
const Factor *looked_factor(Engine *e, Looked *l, unsigned n)
{
    size_t len = layout_len(l->at);
    Factor *x = factor_new(e, l->at, l->f, n);
    uint64_t *kappa = words_if(e, e->third, len);
    x->value = l->value;
    for (unsigned j = 0; j < l->count; j++) {
        const Column *c = &l->column[j];
        unsigned m = c->u->n;
        uint64_t *g = words_if(e, c->u->p != NULL, len), *flag = words_if(e, c->u->p && n > m + c->up, len);
        uint64_t *mu = words_if(e, e->third && n > m + c->up, len);
        for (size_t i = 0; g && i < len; i++) g[i] = c->u->p[i] << c->up;
        for (size_t i = 0; kappa && i < len; i++) kappa[i] += c->mu[i] * opened_mask(c->u, i) << c->up;
        Term *t = factor_term(x);
        *t = (Term){.g = g, .mu = c->mu, .v = c->up, .ring = n, .shared = c->signs};
        if (c->signs && e->client) t->c = l->pop;
        if (c->signs && e->server) t->s = l->pop;
        if (n <= m + c->up) continue;
        for (size_t i = 0; flag && i < len; i++) flag[i] = (1 - (opened_hat(c->u, i) >> (m - 1))) << (m + c->up);
        for (size_t i = 0; mu && i < len; i++) mu[i] = c->mu[i] * (opened_mask(c->u, i) >> (m - 1));
        *factor_term(x) = (Term){.g = flag, .mu = mu, .v = m + c->up, .ring = n};
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
    Cut x = index_cut(e, index, c->t, c->k), y = index_cut(e, index, f->t, f->k);
    l->high = looked_new(e, index->at, coarse, &x, &l->indicator);
    l->low = looked_new(e, index->at, fine, &y, NULL);
    return l;
}

static uint64_t *times(Engine *e, const uint64_t *a, const uint64_t *b, size_t len)
{
    uint64_t *x = words_if(e, a && b, len);
    if (x) ring_mul(x, a, b, len);
    return x;
}

static uint64_t *constant_or(Engine *e, const Term *t, size_t len)
{
    if (t->g || !(e->online || e->clear)) return (uint64_t *)(uintptr_t)t->g;
    uint64_t *g = words_new(e, len);
    for (size_t i = 0; i < len; i++) g[i] = t->k;
    return g;
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
            const Term *s = &a->term[i], *t = &b->term[j];
            *factor_term(x) = (Term){.g = times(e, constant_or(e, s, len), constant_or(e, t, len), len), .mu = times(e, s->mu, t->mu, len), .v = s->v + t->v, .ring = n};
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
