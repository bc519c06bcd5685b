/* product.c - opening, lifting, and products of opened values.
 *
 * An opened value of ring m is x = p - r, p public, r a mask that T knows. In a wider ring x = p - r + 2^m c h with
 * h = msb(r) at T and c = 1 - msb(hat) public, if |x| < 2^(m-2): the mask is centred by 2^(m-2), so that a carry out of the
 * ring happens exactly when hat < r, which the two top bits decide. Both are sums of public times secret-of-T, and so are
 * products of them: T deals shares of the products of the secrets. */
#include "mpc/engine.h"

// ---- open ------------------------------------------------------------------------------------------------------------

Opened *opened_new(Engine *e, const Layout *at, unsigned n, unsigned f)
{
    Opened *o = arena_new(&e->step, Opened, 1);
    o->at = at, o->n = n, o->f = f;
    o->hat = words_if(e, e->online || e->clear, layout_len(at));
    o->p = words_if(e, e->online || e->clear, layout_len(at));
    o->value = words_if(e, e->clear, layout_len(at));
    return o;
}

static uint64_t centre(unsigned n) { return n > 1 ? UINT64_C(1) << (n - 2) : 0; }

void opened_complete(const Engine *e, Opened *o)
{
    if (!o->hat) return;
    for (size_t r = 0; r < o->at->rows; r++) {
        unsigned n = row_width(o->n, o->row_n, r);
        for (size_t i = o->at->begin[r]; i < o->at->begin[r + 1]; i++) {
            o->hat[i] = ring_low(o->hat[i], n);
            o->p[i] = o->hat[i] - centre(n);
            if (e->clear) o->value[i] = (uint64_t)ring_signed(o->value[i], n);
        }
    }
}

uint64_t opened_mask(const Opened *o, size_t i) { return ring_low(o->rc.word[i] + o->rs.word[i], o->n); }

static Opened *open_wire(Engine *e, Wire a, const uint8_t *row_n)
{
    size_t len = layout_len(a.at);
    Opened *o = opened_new(e, a.at, a.n, a.f);
    o->row_n = row_n;
    source_mask(e, &o->rc, &o->rs, a.at, a.n, row_n);
    uint64_t *mine = words_if(e, e->online, len);
    for (size_t r = 0; r < a.at->rows && (mine || e->clear); r++) {
        uint64_t half = centre(row_width(a.n, row_n, r));
        for (size_t i = a.at->begin[r]; i < a.at->begin[r + 1]; i++) {
            if (e->role == ROLE_CLIENT) mine[i] = a.c.word[i] + o->rc.word[i] + half;
            else if (e->role == ROLE_SERVER) mine[i] = a.s.word[i] + o->rs.word[i];
            else {
                o->value[i] = wire_value(e, &a, i);
                o->hat[i] = o->value[i] + o->rc.word[i] + o->rs.word[i] + half;
            }
        }
    }
    engine_queue(e, (Pending){true, true, a.at, row_n, a.n, mine, o->hat, o});
    return o;
}

Opened *wire_open(Engine *e, Wire a) { return open_wire(e, a, NULL); }
Opened *wire_open_rows(Engine *e, Wire a, const uint8_t *row_n) { return open_wire(e, a, row_n); }

/* C's half of the mask is zero: the value is S's, and S's stream alone hides it from C. */
Opened *server_open(Engine *e, const Layout *at, unsigned n, unsigned f, const uint64_t *x)
{
    size_t len = layout_len(at);
    Opened *o = opened_new(e, at, n, f);
    source_mask_server(e, &o->rs, at, n);
    o->rc.word = words_if(e, e->client_prg != NULL, len);
    uint64_t *mine = words_if(e, e->server, len);
    for (size_t i = 0; i < len && (e->server || e->clear); i++) {
        uint64_t hat = x[i] + o->rs.word[i] + centre(n);
        if (e->server) mine[i] = hat;
        else o->hat[i] = hat, o->value[i] = x[i];
    }
    engine_queue(e, (Pending){false, true, at, NULL, n, mine, o->hat, o});
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
    size_t len = layout_len(o->at);
    unsigned m = o->n;
    Factor *x = factor_new(e, o->at, o->f, n);
    x->value = o->value, x->mask = o;
    uint64_t *mu = words_if(e, e->third, len);
    for (size_t i = 0; mu && i < len; i++) mu[i] = opened_mask(o, i);
    *factor_term(x) = (Term){.g = o->p, .one = true, .ring = n};
    *factor_term(x) = (Term){.k = UINT64_MAX, .mu = mu, .ring = n, .shared = n <= m, .widen = n > m, .c = o->rc, .s = o->rs};
    if (n > m) {
        uint64_t *g = words_if(e, e->online || e->clear, len), *h = words_if(e, e->third, len);
        for (size_t i = 0; g && i < len; i++) g[i] = (1 - (o->hat[i] >> (m - 1))) << m;
        for (size_t i = 0; h && i < len; i++) h[i] = mu[i] >> (m - 1);
        *factor_term(x) = (Term){.g = g, .mu = h, .v = m, .ring = n};
    }
    o->factor = x;
    return x;
}

/* <r> mod 2^n from <r> mod 2^m: T deals the carry of rc + rs, n - m bits. */
static void term_widen(Engine *e, Term *t, const Opened *o)
{
    size_t len = layout_len(o->at);
    unsigned m = o->n;
    uint64_t *carry = words_if(e, e->role == ROLE_THIRD, len);
    for (size_t i = 0; carry && i < len; i++) {
        uint64_t a = o->rc.word[i], b = o->rs.word[i];
        carry[i] = ((a >> 1) + (b >> 1) + (a & b & 1)) >> (m - 1);
    }
    Share kc, ks;
    source_deal(e, &kc, &ks, carry, o->at, t->ring - m);
    t->c.word = words_if(e, e->client, len), t->s.word = words_if(e, e->server, len);
    for (size_t i = 0; t->c.word && i < len; i++) t->c.word[i] = o->rc.word[i] - (kc.word[i] << m);
    for (size_t i = 0; t->s.word && i < len; i++) t->s.word[i] = o->rs.word[i] - (ks.word[i] << m);
}

/* Shares of a term's own secret: made once. (The term is cached state of a factor; its meaning does not change.) */
static const Term *term_share(Engine *e, const Factor *x, const Term *term)
{
    Term *t = (Term *)(uintptr_t)term;
    if (t->shared) return t;
    if (t->widen) term_widen(e, t, x->mask);
    else source_deal(e, &t->c, &t->s, t->mu, x->at, t->ring - t->v);
    t->shared = true;
    return t;
}

// ---- products --------------------------------------------------------------------------------------------------------

typedef struct Sides { const Factor *a, *b; size_t spread, len; } Sides;

/* g := the public factor of a pair, broadcast. */
static void pair_public(uint64_t *g, const Term *x, const Term *y, const Sides *s)
{
    for (size_t i = 0; i < s->len; i++) g[i] = x->g ? x->g[i] : x->k;
    if (!y) return;
    if (!y->g) {
        for (size_t i = 0; i < s->len; i++) g[i] *= y->k;
        return;
    }
    for (size_t j = 0, i = 0; i < s->len; j++)
        for (size_t end = i + s->spread; i < end; i++) g[i] *= y->g[j];
}

static void add_scaled(uint64_t *out, const uint64_t *g, const uint64_t *h, const Sides *s, bool by_b)
{
    if (!out || !h) return;
    if (!by_b) { ring_mul_add(out, g, h, s->len); return; }
    for (size_t j = 0, i = 0; i < s->len; j++)
        for (size_t end = i + s->spread; i < end; i++) out[i] += g[i] * h[j];
}

static void mul_pair(Engine *e, Wire *w, uint64_t *g, const Sides *s, const Term *x, const Term *y)
{
    unsigned v = x->v + (y ? y->v : 0);
    if (v >= w->n) return;
    if (g) pair_public(g, x, y, s);
    bool y_one = !y || y->one;
    if (x->one && y_one) {
        if (w->c.word) ring_add_to(w->c.word, g, s->len);
        return;
    }
    if (x->one || y_one) {
        const Term *t = x->one ? term_share(e, s->b, y) : term_share(e, s->a, x);
        add_scaled(w->c.word, g, t->c.word, s, x->one);
        if (e->server) add_scaled(w->s.word, g, t->s.word, s, x->one);
        return;
    }
    uint64_t *mu = words_if(e, e->role == ROLE_THIRD, s->len);
    for (size_t j = 0, i = 0; mu && i < s->len; j++)
        for (size_t end = i + s->spread; i < end; i++) mu[i] = x->mu[i] * y->mu[j];
    Share c, d;
    source_deal(e, &c, &d, mu, s->a->at, w->n - v);
    add_scaled(w->c.word, g, c.word, s, false);
    if (e->server) add_scaled(w->s.word, g, d.word, s, false);
}

Wire factor_mul(Engine *e, const Factor *a, const Factor *b, size_t spread, unsigned n)
{
    Sides s = {a, b, b ? spread : 1, layout_len(a->at)};
    ASSERT(n <= a->ring && (!b || (n <= b->ring && layout_len(b->at) * spread == s.len)));
    Wire w = wire_new(e, a->at, n, a->f + (b ? b->f : 0));
    uint64_t *g = words_if(e, e->online || e->clear, s.len);
    for (unsigned i = 0; i < a->count; i++)
        for (unsigned j = 0; j < (b ? b->count : 1); j++) mul_pair(e, &w, g, &s, &a->term[i], b ? &b->term[j] : NULL);
    if (e->clear) {
        uint64_t *value = words_new(e, s.len);
        for (size_t i = 0; i < s.len; i++) value[i] = a->value[i] * (b ? b->value[i / spread] : 1);
        wire_settle(e, &w, value);
    }
    return w;
}

/* (r - 2^m c h)^2 = r^2 + 2^m c h (2^m - 2r): in a ring wider than x's the flag's product with r is dealt too. */
Wire opened_sumsq(Engine *e, Opened *o, unsigned n, unsigned ring)
{
    ASSERT(n <= ring);
    const Factor *x = opened_factor(e, o, o->n > ring ? o->n : ring);
    size_t rows = o->at->rows, len = layout_len(o->at);
    unsigned m = o->n;
    const Layout *column = layout_uniform(e, 1);
    Wire w = wire_new(e, column, n, 2 * o->f);
    uint64_t *squares = words_if(e, e->role == ROLE_THIRD, rows), *flag = words_if(e, e->role == ROLE_THIRD && n > m, len);
    for (size_t r = 0; squares && r < rows; r++)
        squares[r] = ring_dot(x->term[1].mu + o->at->begin[r], x->term[1].mu + o->at->begin[r], o->at->begin[r + 1] - o->at->begin[r]);
    for (size_t i = 0; flag && i < len; i++) flag[i] = (x->term[1].mu[i] >> (m - 1)) * ((m < 64 ? UINT64_C(1) << m : 0) - 2 * x->term[1].mu[i]);
    Share dealt[2] = {{NULL}, {NULL}}, dealt_s[2] = {{NULL}, {NULL}};
    source_deal(e, &dealt[0], &dealt_s[0], squares, column, n);
    for (unsigned k = 1; k < x->count; k++) term_share(e, x, &x->term[k]);
    if (n > m) source_deal(e, &dealt[1], &dealt_s[1], flag, o->at, n - m);
    for (size_t r = 0; r < rows && (w.c.word || e->server); r++) {
        uint64_t c = dealt[0].word ? dealt[0].word[r] : 0, s = dealt_s[0].word ? dealt_s[0].word[r] : 0;
        for (size_t i = o->at->begin[r]; i < o->at->begin[r + 1]; i++) {
            c += o->p[i] * o->p[i];
            for (unsigned k = 1; k < x->count; k++) {
                uint64_t g = 2 * o->p[i] * (x->term[k].g ? x->term[k].g[i] : x->term[k].k);
                if (w.c.word) c += g * x->term[k].c.word[i];
                if (e->server) s += g * x->term[k].s.word[i];
            }
            if (n > m && w.c.word) c += x->term[2].g[i] * dealt[1].word[i];
            if (n > m && e->server) s += x->term[2].g[i] * dealt_s[1].word[i];
        }
        if (w.c.word) w.c.word[r] = c;
        if (e->server) w.s.word[r] = s;
    }
    if (e->clear) {
        uint64_t *value = words_new(e, rows);
        for (size_t r = 0; r < rows; r++) value[r] = ring_dot(o->value + o->at->begin[r], o->value + o->at->begin[r], o->at->begin[r + 1] - o->at->begin[r]);
        wire_settle(e, &w, value);
    }
    return w;
}
