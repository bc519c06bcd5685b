/* attend.c - the key-value cache of opened rows, and the two products of attention with it.
 *
 * Both are bilinear maps of two opened values inside their own rings, so T deals one word an *output*:
 * xy = x^ y^ - x^ <ry> - <rx> y^ + <rx ry>. A cached row keeps its mask for life; it is never sent, moved or masked again. */
#include "mpc/engine.h"

struct Cache {
    size_t positions, used, width;
    unsigned n, f;
    uint64_t *p, *rc, *rs, *value;             // (positions, width); as in Opened
};

static uint64_t *cache_words(Arena *a, bool wanted, const Cache *k) { return wanted ? arena_alloc(a, k->positions * k->width, sizeof(uint64_t)) : NULL; }

Cache *cache_new(Engine *e, Arena *session, size_t positions, size_t width, unsigned n, unsigned f)
{
    Cache *k = arena_new(session, Cache, 1);
    *k = (Cache){positions, 0, width, n, f, NULL, NULL, NULL, NULL};
    k->p = cache_words(session, e->online || e->clear, k);
    k->rc = cache_words(session, e->client || e->third, k);
    k->rs = cache_words(session, e->server || e->third, k);
    k->value = cache_words(session, e->clear, k);
    return k;
}

static void cache_copy(uint64_t *to, const uint64_t *from, const Cache *k, size_t len)
{
    if (to && from) memcpy(to + k->used * k->width, from, len * sizeof *to);
}

static void cache_wipe(uint64_t *words, const Cache *k, size_t from)
{
    if (words && k->used > from) wipe(words + from * k->width, (k->used - from) * k->width * sizeof *words);
}

void cache_truncate(Cache *k, size_t positions)
{
    ASSERT(positions <= k->used);
    cache_wipe(k->p, k, positions), cache_wipe(k->rc, k, positions), cache_wipe(k->rs, k, positions), cache_wipe(k->value, k, positions);
    k->used = positions;
}

void cache_append(Engine *e, Cache *k, const Opened *o)
{
    (void)e;
    size_t len = layout_len(o->at);
    ASSERT(o->n == k->n && o->f == k->f && o->row_n == NULL && len % k->width == 0 && k->used + len / k->width <= k->positions);
    cache_copy(k->p, o->p, k, len);
    cache_copy(k->rc, o->rc.word, k, len);
    cache_copy(k->rs, o->rs.word, k, len);
    cache_copy(k->value, o->value, k, len);
    k->used += len / k->width;
}

// ---- the two bilinear maps -------------------------------------------------------------------------------------------

typedef struct Bilinear { const Layout *at, *in; const Cache *cache; size_t heads, dim; } Bilinear;
typedef void BilinearMap(const Bilinear *b, uint64_t *out, const uint64_t *x, const uint64_t *cached, bool accumulate);

/* Positions that row r of the batch sees: all before the batch, and the batch up to itself. */
static size_t row_sees(const Bilinear *b, size_t r) { return b->cache->used - b->at->rows + r + 1; }

/* out: ragged (heads, sees); x = queries (rows, heads * dim); cached = keys. */
static void scores_map(const Bilinear *b, uint64_t *out, const uint64_t *x, const uint64_t *cached, bool accumulate)
{
    size_t width = b->cache->width, share = b->heads / (width / b->dim);
    for (size_t r = 0; r < b->at->rows; r++)
        for (size_t h = 0; h < b->heads; h++) {
            size_t sees = row_sees(b, r);
            ring_matmul(out + b->at->begin[r] + h * sees, sees, x + b->in->begin[r] + h * b->dim, b->dim,
                        cached + h / share * b->dim, width, 1, sees, b->dim, 64, accumulate);
        }
}

/* out: (rows, heads * dim); x = weights, ragged (heads, sees); cached = values. */
static void values_map(const Bilinear *b, uint64_t *out, const uint64_t *x, const uint64_t *cached, bool accumulate)
{
    size_t width = b->cache->width, share = b->heads / (width / b->dim);
    if (!accumulate) memset(out, 0, layout_len(b->at) * sizeof *out);
    for (size_t r = 0; r < b->at->rows; r++)
        for (size_t h = 0; h < b->heads; h++) {
            size_t sees = row_sees(b, r);
            ring_vecmat_add(out + b->at->begin[r] + h * b->dim, x + b->in->begin[r] + h * sees, cached + h / share * b->dim, width, b->dim, sees, 64);
        }
}

static uint64_t *difference(Engine *e, const uint64_t *a, const uint64_t *b, size_t len)
{
    uint64_t *d = words_new(e, len);
    ring_sub(d, a, b, len);
    return d;
}

static Wire bilinear(Engine *e, const Opened *x, const Bilinear *b, BilinearMap *map, unsigned n)
{
    const Cache *k = b->cache;
    size_t len = layout_len(b->at), in = layout_len(x->at);
    ASSERT(n <= x->n && n <= k->n && k->used >= b->at->rows && b->heads % (k->width / b->dim) == 0);
    Wire w = wire_new(e, b->at, n, x->f + k->f);
    for (size_t r = 0; r < b->at->rows; r++) work_note(e, WORK_ATTEND, b->heads * b->dim * row_sees(b, r), n);
    uint64_t *z = words_if(e, e->role == ROLE_THIRD, len);
    if (z) {
        uint64_t *r = words_new(e, in), *rk = words_new(e, k->used * k->width);
        ring_add(r, x->rc.word, x->rs.word, in);
        ring_add(rk, k->rc, k->rs, k->used * k->width);
        map(b, z, r, rk, false);
    }
    Share c, s;
    source_deal(e, &c, &s, z, b->at, n);
    if (w.c.word) {                            // x^ y^ - x^ ry - rx y^ = (x^ - rx) y^ - x^ ry
        map(b, w.c.word, x->p, k->rc, false);
        ring_sub(w.c.word, c.word, w.c.word, len);
        map(b, w.c.word, difference(e, x->p, x->rc.word, in), k->p, true);
    }
    if (e->server) {
        map(b, w.s.word, x->p, k->rs, false);
        map(b, w.s.word, x->rs.word, k->p, true);
        ring_sub(w.s.word, s.word, w.s.word, len);
    }
    if (e->clear) {
        uint64_t *value = words_new(e, len);
        map(b, value, x->value, k->value, false);
        wire_settle(e, &w, value);
    }
    return w;
}

Wire attend_scores(Engine *e, const Opened *q, const Cache *k, size_t heads, size_t dim, const Layout *at)
{
    Bilinear b = {at, q->at, k, heads, dim};
    for (size_t r = 0; r < at->rows; r++) ASSERT(at->begin[r + 1] - at->begin[r] == heads * row_sees(&b, r));
    return bilinear(e, q, &b, scores_map, q->n < k->n ? q->n : k->n);
}

Wire attend_values(Engine *e, const Opened *w, const Cache *v, size_t heads, size_t dim, unsigned n)
{
    Bilinear b = {layout_uniform(e, heads * dim), w->at, v, heads, dim};
    return bilinear(e, w, &b, values_map, n);
}
