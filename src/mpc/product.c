/* product.c - opening, lifting, and products of opened values.
 *
 * An opened value of ring m is x = p - r, p public, r a mask that T knows. In a wider ring x = p - r + 2^m c h with
 * h = msb(r) at T and c = 1 - msb(hat) public, if |x| < 2^(m-2): the mask is centred by 2^(m-2), so that a carry out of the
 * ring happens exactly when hat < r, which the two top bits decide. Both are sums of public times secret-of-T, and so are
 * products of them: T deals shares of the products of the secrets. */
#include "mpc/engine.h"

// ---- open ------------------------------------------------------------------------------------------------------------

/* p: its words, or NULL. */
static Opened *opened_over(Engine *e, const Layout *at, unsigned n, unsigned f, uint64_t *p)
{
    Opened *o = arena_new(&e->step, Opened, 1);
    o->at = at, o->n = n, o->f = f;
    o->p = p ? p : words_raw(e, e->online || e->clear, layout_len(at));
    o->value = words_if(e, e->clear, layout_len(at));
    return o;
}

Opened *opened_new(Engine *e, const Layout *at, unsigned n, unsigned f) { return opened_over(e, at, n, f, NULL); }

typedef struct OpenJob { Engine *e; Opened *o; Wire a; unsigned k; const Pending *p; uint8_t *out; } OpenJob;

/* A block of a party's share, k bits dropped. */
static const uint64_t *open_share(const OpenJob *j, const Block *b, const uint64_t *x, uint64_t *to, bool up)
{
    if (j->k == 0) return x + b->i;
    ring_shift(to, x + b->i, b->len, j->a.n, j->k, up);
    return to;
}

/* Masks, and what this party sends of them: the share and its mask, kept in p until the other side's arrives. */
static void open_block(void *ctx, const Block *b)
{
    const OpenJob *j = ctx;
    Engine *e = j->e;
    Opened *o = j->o;
    unsigned n = row_width(o->n, o->row_n, b->row);
    uint64_t half = opened_centre(n), *p = o->p ? o->p + b->i : NULL;
    if (o->rc.word) mask_block(e->client_prg, b, o->rc.word, n);
    if (o->rs.word) mask_block(e->server_prg, b, o->rs.word, n);
    if (e->online) {
        const uint64_t *x = open_share(j, b, e->client ? j->a.c.word : j->a.s.word, p, e->client);
        const uint64_t *r = (e->client ? o->rc.word : o->rs.word) + b->i;
        if (e->client) for (size_t i = 0; i < b->len; i++) p[i] = x[i] + r[i] + half;
        else ring_add(p, x, r, b->len);
        ring_pack(j->out + j->p->byte[b->row] + b->from * n / 8, p, b->len, n);
    }
    if (!e->clear) return;
    const uint64_t *c = open_share(j, b, j->a.c.word, b->tmp[0], true), *s = open_share(j, b, j->a.s.word, b->tmp[1], false);
    for (size_t i = 0; i < b->len; i++) {
        uint64_t x = c[i] + s[i], r = o->rc.word[b->i + i] + o->rs.word[b->i + i];
        o->value[b->i + i] = (uint64_t)ring_signed(x, n);
        p[i] = ring_low(x + r + half, n) - half;
    }
}

/* Opens a, shifted by k, in ring n. last: nobody needs the share any more, and what is sent takes its place. */
static Opened *open_wire(Engine *e, Wire a, unsigned k, unsigned n, const uint8_t *row_n, bool last)
{
    size_t len = layout_len(a.at);
    Opened *o = opened_over(e, a.at, n, a.f - k, last && e->online ? (e->client ? a.c.word : a.s.word) : NULL);
    Pending p = {.from_client = true, .from_server = true, .at = a.at, .row_n = row_n, .n = n, .to = o->p, .add = true, .opened = true};
    o->row_n = row_n;
    o->rc.word = words_raw(e, e->client_prg != NULL, len);
    o->rs.word = words_raw(e, e->server_prg != NULL, len);
    OpenJob job = {e, o, a, k, &p, engine_queue(e, &p)};
    if (o->rc.word || o->rs.word) rows_run(a.at, open_block, &job);
    engine_packed(e);
    source_skip(e->client_prg, a.at, n, row_n);
    source_skip(e->server_prg, a.at, n, row_n);
    return o;
}

Opened *wire_open(Engine *e, Wire a) { return open_wire(e, a, 0, a.n, NULL, false); }
Opened *wire_open_last(Engine *e, Wire a) { return open_wire(e, a, 0, a.n, NULL, true); }
Opened *wire_open_rows(Engine *e, Wire a, const uint8_t *row_n) { return open_wire(e, a, 0, a.n, row_n, false); }

Opened *wire_open_to(Engine *e, Wire a, unsigned n, unsigned f)
{
    ASSERT(f <= a.f && a.f - f < a.n);
    unsigned k = a.f - f;
    return open_wire(e, a, k, n < a.n - k ? n : a.n - k, NULL, false);
}

typedef struct ServerOpenJob { Engine *e; Opened *o; const uint64_t *x; const Pending *p; uint8_t *out; } ServerOpenJob;

static void server_open_block(void *ctx, const Block *b)
{
    const ServerOpenJob *j = ctx;
    Opened *o = j->o;
    for (size_t i = b->i; i < b->i + b->len; i++) {
        o->p[i] = ring_low(j->x[i] + o->rs.word[i] + opened_centre(o->n), o->n) - opened_centre(o->n);
        if (j->e->clear) o->value[i] = j->x[i];
        else b->tmp[0][i - b->i] = opened_hat(o, i);
    }
    if (j->e->server) ring_pack(j->out + j->p->byte[b->row] + b->from * o->n / 8, b->tmp[0], b->len, o->n);
}

/* C's half of the mask is zero: the value is S's, and S's stream alone hides it from C. */
Opened *server_open(Engine *e, const Layout *at, unsigned n, unsigned f, const uint64_t *x)
{
    Opened *o = opened_new(e, at, n, f);
    Pending p = {.from_server = true, .at = at, .n = n, .to = e->role == ROLE_CLIENT ? o->p : NULL, .opened = true};
    source_mask_server(e, &o->rs, at, n);
    o->rc.word = words_if(e, e->client_prg != NULL, layout_len(at));
    ServerOpenJob job = {e, o, x, &p, engine_queue(e, &p)};
    if (e->server || e->clear) rows_run(at, server_open_block, &job);
    engine_packed(e);
    return o;
}

// ---- factors ---------------------------------------------------------------------------------------------------------

Factor *factor_new(Engine *e, const Layout *at, unsigned f, unsigned ring)
{
    Factor *x = arena_new(&e->step, Factor, 1);
    x->at = at, x->f = f, x->ring = ring;
    return x;
}

Term *factor_term(Factor *x)
{
    ASSERT(x->count < FACTOR_TERMS);
    return &x->term[x->count++];
}

const Factor *opened_factor(Engine *e, Opened *o, unsigned n)
{
    if (o->factor && o->factor->ring == n) return o->factor;
    ASSERT(o->row_n == NULL && n <= 64);
    unsigned m = o->n;
    Factor *x = factor_new(e, o->at, o->f, n);
    x->value = o->value;
    *factor_term(x) = (Term){.shown = o, .one = true, .ring = n};
    *factor_term(x) = (Term){.k = UINT64_MAX, .mask = o, .ring = n, .shared = n <= m, .widen = n > m, .c = o->rc, .s = o->rs};
    if (n > m) *factor_term(x) = (Term){.wrap = o, .v = m, .ring = n};
    o->factor = x;
    return x;
}

/* The public factor of a term over a block: NULL where it is the constant k. */
static const uint64_t *term_public(const Term *t, const Block *b, uint64_t *tmp)
{
    const Opened *o = t->shown ? t->shown : t->wrap;
    if (t->g) return t->g + b->i;
    if (!o) return NULL;
    const uint64_t *p = o->p + b->i;
    if (t->shown && t->up == 0) return p;
    if (t->shown) for (size_t i = 0; i < b->len; i++) tmp[i] = p[i] << t->up;
    else for (size_t i = 0; i < b->len; i++) tmp[i] = (1 - ((p[i] + opened_centre(o->n)) >> (o->n - 1))) << (o->n + t->up);
    return tmp;
}

/* T: the secret of a term over a block. */
static const uint64_t *term_secret(const Term *t, const Block *b, uint64_t *tmp)
{
    const Opened *o = t->mask ? t->mask : t->wrap;
    if (!o) return t->mu + b->i;
    unsigned drop = t->mask ? 0 : o->n - 1;
    const uint64_t *rc = o->rc.word + b->i, *rs = o->rs.word + b->i;
    for (size_t i = 0; i < b->len; i++) tmp[i] = ring_low(rc[i] + rs[i], o->n) >> drop;
    if (t->mu) ring_mul(tmp, tmp, t->mu + b->i, b->len);
    return tmp;
}

typedef struct TermWords { const Term *t; uint64_t *word; bool secret; } TermWords;

static void term_words_block(void *ctx, const Block *b)
{
    const TermWords *w = ctx;
    const uint64_t *x = w->secret ? term_secret(w->t, b, b->tmp[0]) : term_public(w->t, b, b->tmp[0]);
    for (size_t i = 0; i < b->len; i++) w->word[b->i + i] = x ? x[i] : w->t->k;
}

uint64_t *term_public_words(Engine *e, const Term *t, const Layout *at)
{
    TermWords w = {t, words_if(e, e->online || e->clear, layout_len(at)), false};
    if (w.word) rows_run(at, term_words_block, &w);
    return w.word;
}

uint64_t *term_secret_words(Engine *e, const Term *t, const Layout *at)
{
    TermWords w = {t, words_if(e, e->third, layout_len(at)), true};
    if (w.word) rows_run(at, term_words_block, &w);
    return w.word;
}

// ---- shares of a term's own secret -----------------------------------------------------------------------------------

/* Made once, the first time that they are needed: field `field` of that move. (They are cached state of a factor; its meaning
 * does not change.) */
typedef struct Making { const Deal *deal; Term *term; size_t field; } Making;

static Making term_make(Engine *e, const Term *term, const Layout *at, Field *field, size_t *fields)
{
    Making m = {.term = (Term *)(uintptr_t)term, .field = *fields};
    Term *t = m.term;
    field[(*fields)++] = (Field){at, t->ring - (t->widen ? t->mask->n : t->v)};
    t->c.word = words_raw(e, e->client, layout_len(at)), t->s.word = words_raw(e, e->server, layout_len(at));
    t->shared = true;
    return m;
}

/* <r> mod 2^n from <r> mod 2^m: T deals the carry of rc + rs, n - m bits. */
static void carry_block(const Opened *o, const Block *b, uint64_t *carry)
{
    for (size_t i = 0; i < b->len; i++) {
        uint64_t x = o->rc.word[b->i + i], y = o->rs.word[b->i + i];
        carry[i] = ((x >> 1) + (y >> 1) + (x & y & 1)) >> (o->n - 1);
    }
}

static void making_block(void *ctx, const Block *b)
{
    const Making *m = ctx;
    const Term *t = m->term;
    const Opened *o = t->mask;
    const uint64_t *value = NULL;
    uint64_t *c = t->c.word ? t->c.word + b->i : b->tmp[0], *s = t->s.word ? t->s.word + b->i : NULL;
    if (m->deal->e->role == ROLE_THIRD) {
        value = t->widen ? b->tmp[1] : term_secret(t, b, b->tmp[1]);
        if (t->widen) carry_block(o, b, b->tmp[1]);
    }
    deal_block(m->deal, m->field, b, c, s, value);
    for (size_t i = 0; t->widen && t->c.word && i < b->len; i++) c[i] = o->rc.word[b->i + i] - (c[i] << o->n);
    for (size_t i = 0; t->widen && s && i < b->len; i++) s[i] = o->rs.word[b->i + i] - (s[i] << o->n);
}

static void makings_run(Making *m, size_t count, const Deal *d, size_t begin, size_t end)
{
    for (size_t k = 0; k < count; k++) {
        m[k].deal = d;
        blocks_run(d->field[m[k].field].at, begin, end, making_block, &m[k]);
    }
}

// ---- products --------------------------------------------------------------------------------------------------------

enum { PAIRS = FACTOR_TERMS * 4 };
enum { NO_FIELD = PAIRS };

/* The product of two factors, pair by pair of terms. dealt: the field of a pair whose secret is dealt for it alone, else NO_FIELD. */
typedef struct Product {
    Engine *e;
    const Factor *a, *b;                       // b NULL: the number 1
    size_t spread;                             // elements of a for each of b
    bool once;                                 // shares of the factors' secrets are not kept
    Wire w;
    const Deal *deal;
    size_t dealt[FACTOR_TERMS][FACTOR_TERMS], fields, makings;
    bool used[FACTOR_TERMS][FACTOR_TERMS];
    Field field[PAIRS];
    Making making[2 * FACTOR_TERMS];
} Product;

static size_t b_terms(const Product *p) { return p->b ? p->b->count : 1; }
static bool b_one(const Product *p, size_t j) { return !p->b || p->b->term[j].one; }

static void product_plan(Product *p)
{
    for (size_t i = 0; i < p->a->count; i++)
        for (size_t j = 0; j < b_terms(p); j++) {
            const Term *x = &p->a->term[i], *y = p->b ? &p->b->term[j] : NULL;
            unsigned v = x->v + (y ? y->v : 0);
            p->dealt[i][j] = NO_FIELD;
            p->used[i][j] = v < p->w.n;
            if (!p->used[i][j] || (x->one && b_one(p, j))) continue;
            ASSERT(p->fields < PAIRS);
            if (!x->one && !b_one(p, j)) {
                p->dealt[i][j] = p->fields;
                p->field[p->fields++] = (Field){p->a->at, p->w.n - v};
                continue;
            }
            const Factor *of = x->one ? p->b : p->a;
            Term *t = (Term *)(uintptr_t)(x->one ? y : x);
            if (t->shared) continue;
            ASSERT(!t->spent);
            if (p->once && !t->widen) {
                t->spent = true;
                p->dealt[i][j] = p->fields;
                p->field[p->fields++] = (Field){of->at, t->ring - t->v};
            } else {
                p->making[p->makings++] = term_make(p->e, t, of->at, p->field, &p->fields);
            }
        }
}

/* The block of b that meets a block of a. */
static Block met_block(const Product *p, const Block *b)
{
    size_t first = b->i / p->spread, last = (b->i + b->len - 1) / p->spread;
    return (Block){.row = b->row, .i = first, .len = last - first + 1};
}

/* Words of that block, each as often as it is met. */
static const uint64_t *spread_block(const Product *p, const Block *b, const uint64_t *met, uint64_t *tmp)
{
    if (p->spread == 1) return met;
    size_t left = p->spread - b->i % p->spread;
    for (size_t i = 0; i < b->len; met++, left = p->spread) {
        size_t end = b->len - i < left ? b->len : i + left;
        for (; i < end; i++) tmp[i] = *met;
    }
    return tmp;
}

/* T: the words of a's secret times b's. */
static const uint64_t *pair_secret(const Product *p, const Block *b, const Term *x, const Term *y)
{
    Block met = met_block(p, b);
    if (!y || y->one) return term_secret(x, b, b->tmp[3]);
    if (x->one) return spread_block(p, b, term_secret(y, &met, b->tmp[2]), b->tmp[3]);
    const uint64_t *mu = term_secret(x, b, b->tmp[1]), *nu = term_secret(y, &met, b->tmp[2]);
    ring_mul(b->tmp[3], mu, spread_block(p, b, nu, b->tmp[4]), b->len);
    return b->tmp[3];
}

static void third_block(void *ctx, const Block *b)
{
    const Product *p = ctx;
    for (size_t i = 0; i < p->a->count; i++)
        for (size_t j = 0; j < b_terms(p); j++)
            if (p->dealt[i][j] != NO_FIELD)
                deal_block(p->deal, p->dealt[i][j], b, b->tmp[0], NULL, pair_secret(p, b, &p->a->term[i], p->b ? &p->b->term[j] : NULL));
}

/* sum += g h; g NULL: the constant k. h NULL: 1. */
static void add_times(uint64_t *sum, const uint64_t *g, uint64_t k, const uint64_t *h, size_t len)
{
    if (g && h) ring_mul_add(sum, g, h, len);
    else if (g) ring_add_to(sum, g, len);
    else if (h && k == UINT64_MAX) ring_sub_from(sum, h, len);
    else if (h && k == 1) ring_add_to(sum, h, len);
    else for (size_t i = 0; i < len; i++) sum[i] += k * (h ? h[i] : 1);
}

/* sum += y's public factor times the share of the pair's secret; C alone holds the constant 1. */
static void pair_block(const Product *p, const Block *b, size_t i, size_t j, uint64_t *sum)
{
    const Term *x = &p->a->term[i], *y = p->b ? &p->b->term[j] : NULL;
    Block met = met_block(p, b);
    bool client = p->e->client;
    const uint64_t *h = NULL, *g = NULL;
    if (p->dealt[i][j] != NO_FIELD) {
        deal_block(p->deal, p->dealt[i][j], b, b->tmp[1], b->tmp[1], NULL);
        h = b->tmp[1];
    } else if (!x->one) {
        h = (client ? x->c.word : x->s.word) + b->i;
    } else if (!b_one(p, j)) {
        h = spread_block(p, b, (client ? y->c.word : y->s.word) + met.i, b->tmp[1]);
    } else if (!client) {
        return;
    }
    if (y) g = term_public(y, &met, b->tmp[2]);
    if (g) g = spread_block(p, b, g, b->tmp[3]);
    add_times(sum, g, y ? y->k : 1, h, b->len);
}

/* The sum over a's terms of its public factor times the sum over b's. */
static void online_block(void *ctx, const Block *b)
{
    const Product *p = ctx;
    uint64_t *out = (p->e->client ? p->w.c.word : p->w.s.word) + b->i, *sum = b->tmp[0];
    memset(out, 0, b->len * sizeof *out);
    for (size_t i = 0; i < p->a->count; i++) {
        const Term *x = &p->a->term[i];
        memset(sum, 0, b->len * sizeof *sum);
        for (size_t j = 0; j < b_terms(p); j++)
            if (p->used[i][j]) pair_block(p, b, i, j, sum);
        add_times(out, term_public(x, b, b->tmp[4]), x->k, sum, b->len);
    }
}

static void product_stage(void *ctx, const Deal *d, size_t begin, size_t end)
{
    Product *p = ctx;
    p->deal = d;
    makings_run(p->making, p->makings, d, begin, end);
    blocks_run(p->a->at, begin, end, p->e->role == ROLE_THIRD ? third_block : online_block, p);
}

static Wire product(Engine *e, const Factor *a, const Factor *b, size_t spread, unsigned n, bool once)
{
    size_t len = layout_len(a->at);
    ASSERT(n <= a->ring && (!b || (n <= b->ring && layout_len(b->at) * spread == len)));
    Product p = {.e = e, .a = a, .b = b, .spread = b ? spread : 1, .once = once,
                 .w = wire_raw(e, a->at, n, a->f + (b ? b->f : 0))};
    product_plan(&p);
    deal_run(e, p.field, p.fields, product_stage, &p);
    if (e->clear) {
        uint64_t *value = words_new(e, len);
        for (size_t i = 0; i < len; i++) value[i] = a->value[i] * (b ? b->value[i / spread] : 1);
        wire_settle(e, &p.w, value);
    }
    return p.w;
}

Wire factor_mul(Engine *e, const Factor *a, const Factor *b, size_t spread, unsigned n) { return product(e, a, b, spread, n, false); }
Wire factor_mul_once(Engine *e, const Factor *a, const Factor *b, unsigned n) { return product(e, a, b, 1, n, true); }

// ---- sums of squares -------------------------------------------------------------------------------------------------

typedef struct Squares {
    Engine *e;
    const Opened *o;
    const Factor *x;
    Wire w;
    const Deal *deal;
    Field field[2 + FACTOR_TERMS];
    size_t fields, flag;                       // flag: its field, 0 where there is none
    Making making[FACTOR_TERMS];
    size_t makings;
} Squares;

/* One word a row: at T the sum of squares of its masks. */
static void squares_row(void *ctx, const Block *b)
{
    const Squares *q = ctx;
    const Layout *at = q->o->at;
    uint64_t sum = 0, *word = b->tmp[0];
    if (b->len == 0) return;
    for (size_t i = at->begin[b->row]; q->e->role == ROLE_THIRD && i < at->begin[b->row + 1]; i++) {
        uint64_t r = opened_mask(q->o, i);
        sum += r * r;
    }
    deal_block(q->deal, 0, b, word, word, &sum);
    if (q->e->client) q->w.c.word[b->i] += word[0];
    if (q->e->server) q->w.s.word[b->i] += word[0];
}

/* T: msb(r) (2^m - 2r), which the flag's public factor meets. */
static void squares_deal(const Squares *q, const Block *b)
{
    unsigned m = q->o->n;
    uint64_t *value = b->tmp[1];
    for (size_t i = 0; i < b->len; i++) {
        uint64_t r = opened_mask(q->o, b->i + i);
        value[i] = (r >> (m - 1)) * ((m < 64 ? UINT64_C(1) << m : 0) - 2 * r);
    }
    deal_block(q->deal, q->flag, b, b->tmp[0], NULL, value);
}

/* A block's part of p^2 + 2 p (x - p) + the flag's part. Blocks of a row may meet at its sum. */
static void squares_block(void *ctx, const Block *b)
{
    const Squares *q = ctx;
    bool client = q->e->client;
    if (q->e->role == ROLE_THIRD) {
        if (q->flag) squares_deal(q, b);
        return;
    }
    const uint64_t *p = q->o->p + b->i;
    uint64_t *sum = b->tmp[0], *twice = b->tmp[1], total = client ? ring_dot(p, p, b->len) : 0;
    memset(sum, 0, b->len * sizeof *sum);
    for (unsigned k = 1; k < q->x->count; k++) {
        const Term *t = &q->x->term[k];
        add_times(sum, term_public(t, b, b->tmp[2]), t->k, (client ? t->c.word : t->s.word) + b->i, b->len);
    }
    ring_add(twice, p, p, b->len);
    total += ring_dot(twice, sum, b->len);
    if (q->flag) {
        deal_block(q->deal, q->flag, b, b->tmp[3], b->tmp[3], NULL);
        total += ring_dot(term_public(&q->x->term[2], b, b->tmp[2]), b->tmp[3], b->len);
    }
    __atomic_fetch_add((client ? q->w.c.word : q->w.s.word) + b->row, total, __ATOMIC_RELAXED);
}

static void squares_stage(void *ctx, const Deal *d, size_t begin, size_t end)
{
    Squares *q = ctx;
    q->deal = d;
    blocks_run(q->w.at, begin, end, squares_row, q);
    makings_run(q->making, q->makings, d, begin, end);
    if (q->e->role != ROLE_THIRD || q->flag) blocks_run(q->o->at, begin, end, squares_block, q);
}

/* (r - 2^m c h)^2 = r^2 + 2^m c h (2^m - 2r): in a ring wider than x's the flag's product with r is dealt too. */
Wire opened_sumsq(Engine *e, Opened *o, unsigned n, unsigned ring)
{
    ASSERT(n <= ring);
    const Factor *x = opened_factor(e, o, o->n > ring ? o->n : ring);
    const Layout *column = layout_uniform(e, 1);
    Squares q = {.e = e, .o = o, .x = x, .w = wire_new(e, column, n, 2 * o->f)};
    q.field[q.fields++] = (Field){column, n};
    for (unsigned k = 1; k < x->count; k++)
        if (!x->term[k].shared) q.making[q.makings++] = term_make(e, &x->term[k], o->at, q.field, &q.fields);
    if (n > o->n) q.flag = q.fields, q.field[q.fields++] = (Field){o->at, n - o->n};
    deal_run(e, q.field, q.fields, squares_stage, &q);
    if (e->clear) {
        size_t rows = o->at->rows;
        uint64_t *value = words_new(e, rows);
        for (size_t r = 0; r < rows; r++) value[r] = ring_dot(o->value + o->at->begin[r], o->value + o->at->begin[r], row_words(o->at, r));
        wire_settle(e, &q.w, value);
    }
    return q.w;
}
