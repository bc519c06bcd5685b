/* pinned.c - S's private matrices, used again and again: A x without showing A or x.
 *
 * A = M + D: D is expanded from the pad seed of C and S, bound to the matrix's name, and M = A - D goes to T once, a one-time
 * pad. C sends x_C + r_C; S computes A (x_S + x^_C), C computes -D r_C, and T deals M r_C: together A x.
 *
 * C keeps no D and T keeps M packed: panels of their rows, as large as the second cache, are made when they are multiplied. For
 * a batch of 128 rows that costs a tenth of the product's time; for one row, half as much again as reading words of 64 bits. */
#include "mpc/engine.h"

struct Pinned {
    const char *name;
    size_t outputs, inputs;
    unsigned n, f;
    Prg pad;                                   // C and CLEAR: its stream is D, (outputs, inputs)
    uint8_t *m;                                // T: M, packed
    int16_t *small;                            // A at S and CLEAR, where every weight fits
    uint64_t *a;                               // else A, as words
    const Engine *engine;                      // S: expands D again for the export
};

static void pad_stream(const Engine *e, const Pinned *p, Prg *pad)
{
    ASSERT(e->has_pad_seed);
    uint8_t key[KEY_BYTES];
    derive_key(key, e->pad_seed, "pad of a pinned matrix", p->name, strlen(p->name));
    prg_init(pad, key);
    wipe(key, sizeof key);
}

/* Nearly always 16 bits are enough, which is a quarter of the memory and the faster product. */
static void weights_keep(Pinned *p, Arena *session, const int32_t *a)
{
    size_t len = p->outputs * p->inputs;
    int32_t beyond = 0;
    for (size_t i = 0; i < len; i++) beyond |= a[i] ^ (int16_t)a[i];
    if (beyond) {
        p->a = arena_new(session, uint64_t, len);
        for (size_t i = 0; i < len; i++) p->a[i] = (uint64_t)(int64_t)a[i];
    } else {
        p->small = arena_new(session, int16_t, len);
        for (size_t i = 0; i < len; i++) p->small[i] = (int16_t)a[i];
    }
}

Pinned *pinned_new(Engine *e, Arena *session, const char *name, size_t outputs, size_t inputs, unsigned n, unsigned f, const int32_t *a)
{
    ASSERT(n >= 1 && n <= 64);
    Pinned *p = arena_new(session, Pinned, 1);
    *p = (Pinned){.name = arena_string(session, name), .outputs = outputs, .inputs = inputs, .n = n, .f = f, .engine = e};
    if (e->server || e->clear) weights_keep(p, session, a);
    if (e->client) pad_stream(e, p, &p->pad);
    if (e->role == ROLE_THIRD) p->m = arena_try(session, pinned_setup_bytes(p), 1);
    return p->m || e->role != ROLE_THIRD ? p : NULL;
}

size_t pinned_setup_bytes(const Pinned *p) { return ring_packed_size(p->outputs * p->inputs, p->n); }

void pinned_export(const Pinned *p, uint8_t *out)
{
    size_t len = p->outputs * p->inputs;
    Arena a;
    arena_init(&a, true);
    uint64_t *m = arena_new(&a, uint64_t, len);
    Prg pad;
    pad_stream(p->engine, p, &pad);
    prg_words(&pad, m, len, p->n);
    wipe(&pad, sizeof pad);
    for (size_t i = 0; i < len; i++) m[i] = (p->small ? (uint64_t)(int64_t)p->small[i] : p->a[i]) - m[i];
    ring_pack(out, m, len, p->n);
    arena_free(&a);
}

void pinned_import(Pinned *p, const uint8_t *in) { memcpy(p->m, in, pinned_setup_bytes(p)); }

// ---- D and M, panel by panel -----------------------------------------------------------------------------------------

/* Bytes of a panel: a product of many rows prepares them anew for each panel, a product of few is over before the cache is left.
 * Outputs: a multiple of PANEL_ROWS, so that a packed panel begins at a byte. */
enum { PANEL_BYTES = 2 << 20, PANEL_BYTES_FEW = 256 << 10, FEW_ROWS = 16, PANEL_ROWS = 8 };

/* out (rows, outputs) (+)= x (rows, inputs) times D or M. Panels i, i + lanes, .. are made in one scratch. */
typedef struct Panels {
    const Pinned *p;
    uint64_t *out, *scratch;
    const uint64_t *x;
    size_t rows, each, count, lanes;           // each: outputs a panel
    bool accumulate;
} Panels;

static void panel_make(const Pinned *p, uint64_t *words, size_t first, size_t len)
{
    if (p->m) ring_unpack(words, p->m + first * p->n / 8, len, p->n);
    for (size_t i = 0; !p->m && i < len; i += BLOCK)
        prg_words_at(&p->pad, (uint64_t)(first + i) * prg_word_bytes(p->n), words + i, len - i < BLOCK ? len - i : BLOCK, p->n);
}

static void panels_part(void *ctx, size_t begin, size_t end)
{
    const Panels *j = ctx;
    const Pinned *p = j->p;
    for (size_t lane = begin; lane < end; lane++) {
        uint64_t *words = j->scratch + lane * j->each * p->inputs;
        for (size_t i = lane; i < j->count; i += j->lanes) {
            size_t first = i * j->each, outputs = p->outputs - first < j->each ? p->outputs - first : j->each;
            panel_make(p, words, first * p->inputs, outputs * p->inputs);
            ring_matmul(j->out + first, p->outputs, j->x, p->inputs, words, p->inputs, j->rows, outputs, p->inputs, p->n, j->accumulate);
        }
    }
}

static void panels_run(Engine *e, Panels j)
{
    const Pinned *p = j.p;
    ArenaMark mark = arena_mark(&e->step);
    size_t bytes = j.rows < FEW_ROWS ? PANEL_BYTES_FEW : PANEL_BYTES;
    j.each = bytes / (p->inputs * sizeof(uint64_t)) / PANEL_ROWS * PANEL_ROWS;
    if (j.each < PANEL_ROWS) j.each = PANEL_ROWS;
    j.count = (p->outputs + j.each - 1) / j.each;
    j.lanes = threads_count();
    if (j.lanes > 1) {                         // as many panels a lane, all of about one size
        j.count = (j.count + j.lanes - 1) / j.lanes * j.lanes;
        j.each = ((p->outputs + j.count - 1) / j.count + PANEL_ROWS - 1) / PANEL_ROWS * PANEL_ROWS;
        j.count = (p->outputs + j.each - 1) / j.each;
        if (j.lanes > j.count) j.lanes = j.count;
    }
    j.scratch = words_raw(e, true, j.lanes * j.each * p->inputs);
    parallel_for(j.lanes, 1, panels_part, &j);
    arena_reuse(&e->step, mark);
}

// ---- products --------------------------------------------------------------------------------------------------------

struct Pinning {
    const Pinned *p;
    const Layout *in, *at;
    unsigned f;                                // of x
    Wire x;
    Share rc, s;                               // C's mask; S's words of M r_C
    uint64_t *hat;                             // S: x_C + r_C
    uint64_t *value;                           // CLEAR: A x
    Share share_c;                             // C's share of the result in its first `ready` rows; the dealt words in the others
    size_t ready;
    const Opened *opened;                      // x, where it is opened and nothing is sent
    struct Pinning *before;                    // x is made of the result of this one: its columns from `from` on, .to(n, f)
    size_t from;
    unsigned to_n, to_f;
    bool taken;
    Wire result;                               // where it was taken
};

typedef struct PinningDeal { Pinning *g; const uint64_t *z; const Deal *deal; } PinningDeal;

/* C and S keep the dealt words until the product is there. What C has from its work ahead needs none. */
static void pinning_block(void *ctx, const Block *b)
{
    const PinningDeal *j = ctx;
    Pinning *g = j->g;
    if (b->row < g->ready) return;
    uint64_t *c = g->share_c.word ? g->share_c.word + b->i : b->tmp[0];
    deal_block(j->deal, 0, b, c, g->s.word ? g->s.word + b->i : NULL, j->z ? j->z + b->i : NULL);
}

static void pinning_stage(void *ctx, const Deal *d, size_t begin, size_t end)
{
    PinningDeal *j = ctx;
    j->deal = d;
    blocks_run(d->field->at, begin, end, pinning_block, j);
}

typedef struct Negation { uint64_t *word; } Negation;

static void negate_block(void *ctx, const Block *b)
{
    uint64_t *x = ((const Negation *)ctx)->word + b->i;
    for (size_t i = 0; i < b->len; i++) x[i] = 0 - x[i];
}

/* share := -D r - dealt, rows [from, rows) of (rows, outputs), where share holds the dealt words. r: (rows, inputs). */
static void client_share(Engine *e, const Pinned *p, uint64_t *share, const uint64_t *r, const Layout *at, size_t from)
{
    panels_run(e, (Panels){.p = p, .out = share + from * p->outputs, .x = r + from * p->inputs, .rows = at->rows - from,
                           .accumulate = true});
    blocks_run(at, from, at->rows, negate_block, &(Negation){share});
}

/* The next words of C's streams are those that T will deal. */
static void pinning_ahead(Engine *e, const Pinning *g, const Share *r)
{
    AheadShare *a = ahead_keep(e, g->p->outputs);
    source_peek(e->client_prg, a->word, g->at, g->p->n);
    client_share(e, g->p, a->word, r->word, g->at, 0);
}

/* T deals M r. C computes its share when it is asked for, after its message has left. */
static void pinning_deal(Engine *e, Pinning *g, const Share *r)
{
    const Pinned *p = g->p;
    size_t len = layout_len(g->at);
    uint64_t *z = words_raw(e, e->role == ROLE_THIRD, len);
    work_note(e, WORK_PINNED, len * p->inputs, p->n);
    if (z) panels_run(e, (Panels){.p = p, .out = z, .x = r->word, .rows = g->in->rows});
    if (e->ahead.working) pinning_ahead(e, g, r);
    AheadShare *a = ahead_take(e, p->outputs);
    g->s.word = words_raw(e, e->server, len);
    g->share_c.word = words_raw(e, e->client, len);
    g->rc = *r, g->ready = a ? e->ahead.covered : 0;
    if (g->ready) memcpy(g->share_c.word, a->word + e->ahead.from * p->outputs, g->ready * p->outputs * sizeof *a->word);
    deal_run(e, &(Field){g->at, p->n}, 1, pinning_stage, &(PinningDeal){g, z, NULL});
}

/* C's share of the result. */
static Share pinning_share(Engine *e, Pinning *g)
{
    if (e->client && g->ready < g->at->rows) client_share(e, g->p, g->share_c.word, g->rc.word, g->at, g->ready);
    g->ready = g->at->rows;
    return g->share_c;
}

static Pinning *pinning_new(Engine *e, const Layout *in, unsigned f, const Pinned *p)
{
    ASSERT(layout_len(in) == in->rows * p->inputs);
    Pinning *g = arena_new(&e->step, Pinning, 1);
    g->p = p, g->in = in, g->f = f;
    g->at = layout_uniform(e, p->outputs);
    return g;
}

/* Queues C's share of x under a fresh mask of its own. x_c: C's share. */
static void pinning_queue(Engine *e, Pinning *g, const uint64_t *x_c)
{
    source_mask_client(e, &g->rc, g->in, g->p->n);
    g->hat = words_raw(e, e->server, layout_len(g->in));
    engine_send(e, (Pending){.from_client = true, .at = g->in, .n = g->p->n, .to = g->hat}, x_c, g->rc.word);
    pinning_deal(e, g, &g->rc);
}

Pinning *pinned_send(Engine *e, Wire x, const Pinned *p)
{
    ASSERT(x.n == p->n);
    Pinning *g = pinning_new(e, x.at, x.f, p);
    g->x = x;
    pinning_queue(e, g, x.c.word);
    return g;
}

/* C's share of A x depends on no message, so its masked half of the second product leaves at once. */
Pinning *pinned_send_after(Engine *e, Pinning *x, size_t from, unsigned n, unsigned f, const Pinned *p)
{
    ASSERT(n == p->n && from + p->inputs <= x->p->outputs);
    Pinning *g = pinning_new(e, layout_uniform(e, p->inputs), f, p);
    g->before = x, g->from = from, g->to_n = n, g->to_f = f;
    unsigned k = x->f + x->p->f - f;
    ASSERT(x->p->n - k >= n);
    const uint64_t *half = pinning_share(e, x).word;
    uint64_t *c = words_if(e, e->client, layout_len(g->in));
    for (size_t r = 0; c && r < g->in->rows; r++)
        ring_shift(c + r * p->inputs, half + r * x->p->outputs + from, p->inputs, x->p->n, k, true);
    pinning_queue(e, g, c);
    return g;
}

/* What C would send, x_C + r_C, S will have as p - rs. */
Pinning *pinned_after_open(Engine *e, const Opened *x, const Pinned *p)
{
    ASSERT(x->n == p->n && x->row_n == NULL);
    Pinning *g = pinning_new(e, x->at, x->f, p);
    g->opened = x;
    pinning_deal(e, g, &x->rc);
    return g;
}

/* A x, at S and CLEAR. */
static void product_of_weights(const Pinned *p, uint64_t *out, const uint64_t *x, size_t rows)
{
    if (p->small) ring_linear_i16(out, x, p->small, rows, p->outputs, p->inputs, p->n);
    else ring_matmul(out, p->outputs, x, p->inputs, p->a, p->inputs, rows, p->outputs, p->inputs, p->n, false);
}

/* S: A x - dealt. */
static void product_server(Engine *e, const Pinning *g, Wire *w, const uint64_t *x)
{
    w->s.word = words_raw(e, true, layout_len(g->at));
    product_of_weights(g->p, w->s.word, x, g->in->rows);
    rows_apply(g->at, ring_sub, w->s.word, w->s.word, g->s.word);
}

static void product_clear(Engine *e, const Pinning *g, Wire *w, const uint64_t *x)
{
    uint64_t *value = words_new(e, layout_len(g->at));
    w->s.word = words_new(e, layout_len(g->at));
    product_of_weights(g->p, value, x, g->in->rows);
    wire_settle(e, w, value);
}

/* x at S, under C's mask. */
static const uint64_t *pinning_seen(Engine *e, Pinning *g)
{
    if (!g->opened) {
        rows_apply(g->in, ring_add, g->hat, g->hat, g->x.s.word);
        return g->hat;
    }
    uint64_t *v = words_raw(e, true, layout_len(g->in));
    rows_apply(g->in, ring_sub, v, g->opened->p, g->opened->rs.word);
    return v;
}

Wire pinned_take(Engine *e, Pinning *g)
{
    if (g->taken) return g->result;
    const Pinned *p = g->p;
    size_t in = layout_len(g->in);
    if (g->before) g->x = wire_columns_to(e, pinned_take(e, g->before), g->from, p->inputs, g->to_n, g->to_f);
    Wire w = {g->at, p->n, g->f + p->f, pinning_share(e, g), {NULL}};
    if (e->server) product_server(e, g, &w, pinning_seen(e, g));
    if (e->clear) {
        uint64_t *x = g->opened ? g->opened->value : words_new(e, in);
        for (size_t i = 0; !g->opened && i < in; i++) x[i] = wire_value(e, &g->x, i);
        product_clear(e, g, &w, x);
    }
    g->taken = true, g->result = w;
    return w;
}

Wire pinned_open(Engine *e, const Opened *x, const Pinned *p) { return pinned_take(e, pinned_after_open(e, x, p)); }
