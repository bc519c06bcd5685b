/* attend.c - the key-value cache of opened rows, and the two products of attention with it.
 *
 * Both are bilinear maps of two opened values inside their own rings, so T deals one word an *output*:
 * xy = x^ y^ - x^ <ry> - <rx> y^ + <rx ry>. A cached row keeps its mask for life; it is never sent, moved or masked again.
 *
 * A cache has pages of so many positions, which a conversation gets as it grows: what is short takes little of a memory that is
 * locked, and nothing is ever copied to a larger place, so no second copy of a mask has to be wiped. */
#include "mpc/engine.h"

enum { PAGE = 64 };                            // positions

/* What a role keeps of a row: C and S p and their share of the mask, T the whole mask, CLEAR p, C's share and the value. */
typedef enum { KEPT_P, KEPT_MASK, KEPT_VALUE, KEPT_KINDS } Kept;
typedef struct CachePage { uint64_t *word[KEPT_KINDS]; } CachePage;           // (PAGE, width) each, the last page fewer; or NULL

struct Cache {
    size_t positions, used, width, pages;      // pages: that there are
    unsigned n, f;
    CachePage *page;
};

static bool role_keeps(const Engine *e, Kept kind)
{
    if (kind == KEPT_P) return e->online || e->clear;
    return kind == KEPT_VALUE ? e->clear : e->role != ROLE_COUNT;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t pages_of(size_t positions) { return (positions + PAGE - 1) / PAGE; }

/* Words of page i, of one kind; the next ones begin at a cache line. */
static size_t page_words(const Cache *k, size_t i)
{
    return (smaller(PAGE, k->positions - i * PAGE) * k->width + 7) / 8 * 8;
}

Cache *cache_new(Arena *session, size_t positions, size_t width, unsigned n, unsigned f)
{
    Cache *k = arena_new(session, Cache, 1);
    *k = (Cache){positions, 0, width, 0, n, f, arena_new(session, CachePage, pages_of(positions))};
    return k;
}

static size_t words_missing(const Engine *e, Cache *const *caches, size_t count, size_t positions)
{
    size_t kinds = 0, words = 0;
    for (Kept kind = 0; kind < KEPT_KINDS; kind++) kinds += role_keeps(e, kind);
    for (size_t c = 0; c < count; c++) {
        ASSERT(positions <= caches[c]->positions);
        for (size_t i = caches[c]->pages; i < pages_of(positions); i++) words += kinds * page_words(caches[c], i);
    }
    return words;
}

size_t cache_missing(const Engine *e, Cache *const *caches, size_t count, size_t positions)
{
    return words_missing(e, caches, count, positions) * sizeof(uint64_t);
}

Result cache_reserve(const Engine *e, Arena *session, Cache *const *caches, size_t count, size_t positions)
{
    size_t words = words_missing(e, caches, count, positions);
    if (words == 0) return OK;
    uint64_t *at = arena_try(session, words, sizeof *at);
    if (!at) return fail(FAIL_SYSTEM, "there is no memory for keys and values of %zu positions", positions);
    for (size_t c = 0; c < count; c++)
        for (Cache *k = caches[c]; k->pages < pages_of(positions); k->pages++)
            for (Kept kind = 0; kind < KEPT_KINDS; kind++) {
                if (!role_keeps(e, kind)) continue;
                k->page[k->pages].word[kind] = at;
                at += page_words(k, k->pages);
            }
    return OK;
}

/* Rows [from, to) of the cache by pages: a stretch of one page each time. */
typedef struct Stretch { const CachePage *page; size_t row, rows; } Stretch;

static Stretch stretch_at(const Cache *k, size_t from, size_t to)
{
    return (Stretch){&k->page[from / PAGE], from % PAGE, smaller(PAGE - from % PAGE, to - from)};
}

void cache_truncate(Cache *k, size_t positions)
{
    ASSERT(positions <= k->used);
    size_t there = smaller(k->used, k->pages * PAGE);         // work ahead leaves positions that have no words
    for (size_t at = positions; at < there;) {
        Stretch s = stretch_at(k, at, there);
        for (Kept kind = 0; kind < KEPT_KINDS; kind++)
            if (s.page->word[kind]) wipe(s.page->word[kind] + s.row * k->width, s.rows * k->width * sizeof(uint64_t));
        at += s.rows;
    }
    k->used = positions;
}

void cache_append(Engine *e, Cache *k, const Opened *o)
{
    size_t rows = layout_len(o->at) / k->width, end = k->used + rows;
    ASSERT(o->n == k->n && o->f == k->f && o->row_n == NULL && layout_len(o->at) == rows * k->width && end <= k->positions);
    ASSERT(e->role == ROLE_COUNT || end <= k->pages * PAGE);
    size_t from = 0;                           // word of o
    for (size_t at = k->used; at < end && e->role != ROLE_COUNT;) {
        Stretch s = stretch_at(k, at, end);
        size_t to = s.row * k->width, len = s.rows * k->width;
        uint64_t *mask = s.page->word[KEPT_MASK] + to;
        if (e->role == ROLE_THIRD) words_apply(ring_add, mask, o->rc.word + from, o->rs.word + from, len);
        else words_apply(NULL, mask, (e->client ? o->rc.word : o->rs.word) + from, NULL, len);
        if (s.page->word[KEPT_P]) words_apply(NULL, s.page->word[KEPT_P] + to, o->p + from, NULL, len);
        if (s.page->word[KEPT_VALUE]) words_apply(NULL, s.page->word[KEPT_VALUE] + to, o->value + from, NULL, len);
        at += s.rows, from += len;
    }
    k->used = end;
}

// ---- the two bilinear maps -------------------------------------------------------------------------------------------

/* out += x[i] . kept[i] of the cache, for the pairs i that are there, row by row and head by head, page by page. */
typedef struct Bilinear {
    const Layout *at, *in;                     // of out and x
    const Cache *cache;
    size_t heads, dim;
    unsigned n;
    void (*map)(const struct Bilinear *b, size_t row, size_t head, const uint64_t *x, Kept kept);
    uint64_t *out;
    const uint64_t *x[2];
    Kept kept[2];
} Bilinear;

/* Positions that row r of the batch sees: all before the batch, and the batch up to itself. */
static size_t row_sees(const Bilinear *b, size_t r) { return b->cache->used - b->at->rows + r + 1; }

/* The columns of the cache that a head meets. */
static size_t head_columns(const Bilinear *b, size_t h) { return h / (b->heads / (b->cache->width / b->dim)) * b->dim; }

/* out: ragged (heads, sees); x = queries (rows, heads * dim); cached = keys. */
static void scores_map(const Bilinear *b, size_t r, size_t h, const uint64_t *x, Kept kept)
{
    size_t sees = row_sees(b, r), columns = head_columns(b, h);
    uint64_t *out = b->out + b->at->begin[r] + h * sees;
    const uint64_t *query = x + b->in->begin[r] + h * b->dim;
    for (size_t at = 0; at < sees; at += PAGE)
        ring_matmul(out + at, sees, query, b->dim, b->cache->page[at / PAGE].word[kept] + columns, b->cache->width, 1,
                    smaller(PAGE, sees - at), b->dim, b->n, true);
}

/* out: (rows, heads * dim); x = weights, ragged (heads, sees); cached = values. */
static void values_map(const Bilinear *b, size_t r, size_t h, const uint64_t *x, Kept kept)
{
    size_t sees = row_sees(b, r), columns = head_columns(b, h);
    uint64_t *out = b->out + b->at->begin[r] + h * b->dim;
    const uint64_t *weights = x + b->in->begin[r] + h * sees;
    for (size_t at = 0; at < sees; at += PAGE)
        ring_vecmat_add(out, weights + at, b->cache->page[at / PAGE].word[kept] + columns, b->cache->width, b->dim,
                        smaller(PAGE, sees - at), b->n);
}

static void bilinear_part(void *ctx, size_t begin, size_t end)
{
    const Bilinear *b = ctx;
    for (size_t i = begin; i < end; i++)
        for (int k = 0; k < 2 && b->x[k]; k++) b->map(b, i / b->heads, i % b->heads, b->x[k], b->kept[k]);
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
    uint64_t *d = words_raw(e, true, len);
    words_apply(ring_sub, d, a, b, len);
    return d;
}

static const uint64_t *sum(Engine *e, Share a, Share b, size_t len)
{
    uint64_t *s = words_raw(e, true, len);
    words_apply(ring_add, s, a.word, b.word, len);
    return s;
}

/* Onto the dealt words: -x^ rc + (x^ - rx) y^ at C, -x^ rs - rx y^ at S. */
static Wire bilinear(Engine *e, const Opened *x, Bilinear b)
{
    const Cache *k = b.cache;
    size_t in = layout_len(x->at);
    for (size_t r = 0; r < b.at->rows; r++) work_note(e, WORK_ATTEND, b.heads * b.dim * row_sees(&b, r), b.n);
    ASSERT(b.n <= x->n && b.n <= k->n && k->used >= b.at->rows && b.heads % (k->width / b.dim) == 0);
    uint64_t *z = words_if(e, e->role == ROLE_THIRD, layout_len(b.at));
    if (z) {
        b.x[0] = sum(e, x->rc, x->rs, in), b.kept[0] = KEPT_MASK;
        bilinear_run(&b, z);
    }
    Wire w = {b.at, b.n, x->f + k->f, {NULL}, {NULL}};
    source_deal(e, &w.c, &w.s, z, b.at, b.n);
    if (e->client || e->server) {
        b.x[0] = difference(e, NULL, x->p, in), b.kept[0] = KEPT_MASK;
        b.x[1] = e->client ? difference(e, x->p, x->rc.word, in) : difference(e, NULL, x->rs.word, in), b.kept[1] = KEPT_P;
        bilinear_run(&b, e->client ? w.c.word : w.s.word);
    }
    if (e->clear) {
        uint64_t *value = words_new(e, layout_len(b.at));
        b.x[0] = x->value, b.kept[0] = KEPT_VALUE, b.x[1] = NULL;
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
