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

static bool cache_words(Arena *a, uint64_t **out, bool wanted, const Cache *k)
{
    *out = wanted ? arena_try(a, k->positions, k->width * sizeof(uint64_t)) : NULL;
    return *out || !wanted;
}

Cache *cache_new(Engine *e, Arena *session, size_t positions, size_t width, unsigned n, unsigned f)
{
    Cache *k = arena_new(session, Cache, 1);
    *k = (Cache){positions, 0, width, n, f, NULL, NULL, NULL, NULL};
    bool there = cache_words(session, &k->p, e->online || e->clear, k) && cache_words(session, &k->rc, e->client || e->third, k) &&
                 cache_words(session, &k->rs, e->server || e->third, k) && cache_words(session, &k->value, e->clear, k);
    return there ? k : NULL;
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

/* out += x[k] . cached[k] for the pairs k that are there, row by row and head by head. */
typedef struct Bilinear {
    const Layout *at, *in;                     // of out and x
    const Cache *cache;
    size_t heads, dim;
    unsigned n;
    void (*map)(const struct Bilinear *b, size_t row, size_t head, const uint64_t *x, const uint64_t *cached);
    uint64_t *out;
    const uint64_t *x[2], *cached[2];
} Bilinear;

/* Positions that row r of the batch sees: all before the batch, and the batch up to itself. */
static size_t row_sees(const Bilinear *b, size_t r) { return b->cache->used - b->at->rows + r + 1; }

/* The columns of the cache that a head meets. */
static size_t head_columns(const Bilinear *b, size_t h) { return h / (b->heads / (b->cache->width / b->dim)) * b->dim; }

/* out: ragged (heads, sees); x = queries (rows, heads * dim); cached = keys. */
static void scores_map(const Bilinear *b, size_t r, size_t h, const uint64_t *x, const uint64_t *cached)
{
    size_t sees = row_sees(b, r);
    ring_matmul(b->out + b->at->begin[r] + h * sees, sees, x + b->in->begin[r] + h * b->dim, b->dim, cached + head_columns(b, h),
                b->cache->width, 1, sees, b->dim, b->n, true);
}

/* out: (rows, heads * dim); x = weights, ragged (heads, sees); cached = values. */
static void values_map(const Bilinear *b, size_t r, size_t h, const uint64_t *x, const uint64_t *cached)
{
    size_t sees = row_sees(b, r);
    ring_vecmat_add(b->out + b->at->begin[r] + h * b->dim, x + b->in->begin[r] + h * sees, cached + head_columns(b, h), b->cache->width,
                    b->dim, sees, b->n);
}

static void bilinear_part(void *ctx, size_t begin, size_t end)
{
    const Bilinear *b = ctx;
    for (size_t i = begin; i < end; i++)
        for (int k = 0; k < 2 && b->x[k]; k++) b->map(b, i / b->heads, i % b->heads, b->x[k], b->cached[k]);
}

enum { HEADS_A_PART = 4 };                     // heads of a row that are worth waking a thread for

static void bilinear_run(Bilinear *b, uint64_t *out)
{
    b->out = out;
    parallel_for(b->at->rows * b->heads, HEADS_A_PART, bilinear_part, b);
}

/* a - b, or where a is NULL -b. */
static const uint64_t *difference(Engine *e, const uint64_t *a, const uint64_t *b, size_t len)
{
    uint64_t *d = words_new(e, len);
    if (a) ring_sub(d, a, b, len);
    else ring_sub_from(d, b, len);
    return d;
}

static const uint64_t *sum(Engine *e, Share a, Share b, size_t len)
{
    uint64_t *s = words_new(e, len);
    ring_add(s, a.word, b.word, len);
    return s;
}

/* Onto the dealt words: -x^ rc + (x^ - rx) y^ at C, -x^ rs - rx y^ at S. */
static Wire bilinear(Engine *e, const Opened *x, Bilinear b)
{
    const Cache *k = b.cache;
    size_t in = layout_len(x->at), used = k->used * k->width;
    ASSERT(b.n <= x->n && b.n <= k->n && k->used >= b.at->rows && b.heads % (k->width / b.dim) == 0);
    uint64_t *z = words_if(e, e->role == ROLE_THIRD, layout_len(b.at));
    if (z) {
        b.x[0] = sum(e, x->rc, x->rs, in), b.cached[0] = sum(e, (Share){k->rc}, (Share){k->rs}, used);
        bilinear_run(&b, z);
    }
    Wire w = {b.at, b.n, x->f + k->f, {NULL}, {NULL}};
    source_deal(e, &w.c, &w.s, z, b.at, b.n);
    if (e->client || e->server) {
        b.x[0] = difference(e, NULL, x->p, in), b.cached[0] = e->client ? k->rc : k->rs;
        b.x[1] = e->client ? difference(e, x->p, x->rc.word, in) : difference(e, NULL, x->rs.word, in), b.cached[1] = k->p;
        bilinear_run(&b, e->client ? w.c.word : w.s.word);
    }
    if (e->clear) {
        uint64_t *value = words_new(e, layout_len(b.at));
        b.x[0] = x->value, b.cached[0] = k->value, b.x[1] = NULL;
        bilinear_run(&b, value);
        w.s.word = words_new(e, layout_len(b.at));
        wire_settle(e, &w, value);
    }
    return w;
}

Wire attend_scores(Engine *e, const Opened *q, const Cache *k, size_t heads, size_t dim, const Layout *at)
{
    Bilinear b = {.at = at, .in = q->at, .cache = k, .heads = heads, .dim = dim, .n = q->n < k->n ? q->n : k->n, .map = scores_map};
    for (size_t r = 0; r < at->rows; r++) ASSERT(at->begin[r + 1] - at->begin[r] == heads * row_sees(&b, r));
    return bilinear(e, q, b);
}

Wire attend_values(Engine *e, const Opened *w, const Cache *v, size_t heads, size_t dim, unsigned n)
{
    return bilinear(e, w, (Bilinear){.at = layout_uniform(e, heads * dim), .in = w->at, .cache = v, .heads = heads, .dim = dim, .n = n,
                                     .map = values_map});
}
