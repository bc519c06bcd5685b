/* engine.c - the life of an engine, its batches and its exchanges. See mpc.h. */
#include <stdlib.h>
#include "mpc/engine.h"

static void role_set(Engine *e, Role role)
{
    e->role = role;
    e->clear = role == ROLE_CLEAR;
    e->client = role == ROLE_CLIENT || e->clear;
    e->server = role == ROLE_SERVER;
    e->third = role == ROLE_THIRD || e->clear;
    e->online = role == ROLE_CLIENT || role == ROLE_SERVER;
}

static void engine_init(Engine *e, Role role, Channel *peer, Feed *feed)
{
    role_set(e, role);
    e->peer = peer, e->feed = feed;
    e->out.secret = e->in.secret = e->words.secret = true;
    arena_init(&e->step, true), arena_init(&e->kept, true), arena_init(&e->ahead.arena, true);
}

static void engine_wipe(Engine *e)
{
    arena_free(&e->step), arena_free(&e->kept), arena_free(&e->ahead.arena);
    buffer_free(&e->out), buffer_free(&e->in), buffer_free(&e->words);
    wipe(e, sizeof *e);
}

Engine *engine_new(Role role, Channel *peer, Feed *feed)
{
    Engine *e = calloc(1, sizeof *e);
    if (!e) bug("out of memory");
    engine_init(e, role, peer, feed);
    return e;
}

void engine_free(Engine *e)
{
    if (!e) return;
    engine_wipe(e);
    free(e);
}

void engine_session(Engine *e, Channel *peer, Feed *feed)
{
    const Role role = e->role;
    const bool has_pad_seed = e->has_pad_seed;
    uint8_t pad_seed[KEY_BYTES];
    memcpy(pad_seed, e->pad_seed, KEY_BYTES);
    engine_wipe(e);
    engine_init(e, role, peer, feed);
    if (has_pad_seed) engine_pad_seed(e, pad_seed);
    wipe(pad_seed, sizeof pad_seed);
}

Role engine_role(const Engine *e) { return e->role; }
Arena *engine_arena(Engine *e) { return &e->step; }
Cost engine_cost(const Engine *e) { return e->cost; }
void engine_trace(Engine *e, Tracer *t, void *ctx) { e->trace = t, e->trace_ctx = ctx; }

void engine_shared_seed(Engine *e, const uint8_t seed[KEY_BYTES])
{
    memcpy(e->shared_seed, seed, KEY_BYTES);
    e->has_shared_seed = true;
}

void engine_pad_seed(Engine *e, const uint8_t seed[KEY_BYTES])
{
    memcpy(e->pad_seed, seed, KEY_BYTES);
    e->has_pad_seed = true;
}

// ---- work ahead ------------------------------------------------------------------------------------------------------

static void ahead_forget(Ahead *a)
{
    arena_rollback(&a->arena, (ArenaMark){0});
    a->head = a->last = a->next = NULL;
    a->rows = a->covered = 0;
}

static void ahead_begin(Ahead *a, size_t rows, uint64_t first)
{
    if (first >= a->first + a->rows) ahead_forget(a);
    a->covered = 0;
    if (first < a->first || !a->head) return;
    size_t left = (size_t)(a->first + a->rows - first);
    a->from = a->rows - left, a->covered = rows < left ? rows : left, a->next = a->head;
}

/* A share was made at its row's place in a stream, which depends on how many positions the row sees. */
void engine_position(Engine *e, uint64_t past)
{
    Ahead *a = &e->ahead;
    if (a->working) a->past = past;
    else if (a->covered && past - a->past != a->from) ahead_forget(a);
}

AheadShare *ahead_keep(Engine *e, size_t outputs)
{
    Ahead *a = &e->ahead;
    AheadShare *s = arena_new(&a->arena, AheadShare, 1);
    *s = (AheadShare){NULL, outputs, arena_new(&a->arena, uint64_t, a->rows * outputs)};
    if (a->last) a->last->next = s;
    else a->head = s;
    return a->last = s;
}

AheadShare *ahead_take(Engine *e, size_t outputs)
{
    Ahead *a = &e->ahead;
    if (a->covered == 0) return NULL;
    AheadShare *s = a->next;
    ASSERT(s && s->outputs == outputs);
    a->next = s->next;
    return s;
}

// ---- batches ---------------------------------------------------------------------------------------------------------

static Prg *streams_new(Engine *e, const uint8_t (*keys)[KEY_BYTES], const char *label)
{
    if (!keys) return NULL;
    Prg *p = arena_new(&e->step, Prg, e->rows);
    for (size_t r = 0; r < e->rows; r++) {
        uint8_t key[KEY_BYTES];
        derive_key(key, keys[r], label, NULL, 0);
        prg_init(&p[r], key);
        wipe(key, sizeof key);
    }
    return p;
}

static void streams_begin(Engine *e, size_t rows, uint64_t first, const uint8_t (*client)[KEY_BYTES], const uint8_t (*server)[KEY_BYTES])
{
    arena_wipe(&e->step), arena_wipe(&e->kept);
    e->rows = rows;
    e->client_prg = streams_new(e, client, "masks of the client");
    e->server_prg = streams_new(e, server, "masks of the server");
    e->shared_prg = e->has_shared_seed && !e->ahead.working ? arena_new(&e->step, Prg, rows) : NULL;
    for (size_t r = 0; e->shared_prg && r < rows; r++) {
        uint8_t key[KEY_BYTES];
        uint64_t segment = first + r;
        derive_key(key, e->shared_seed, "shares of inputs", &segment, sizeof segment);
        prg_init(&e->shared_prg[r], key);
        wipe(key, sizeof key);
    }
    e->begun = arena_mark(&e->step);
}

void engine_begin(Engine *e, size_t rows, uint64_t first, const uint8_t (*client)[KEY_BYTES], const uint8_t (*server)[KEY_BYTES])
{
    ASSERT(rows > 0 && first >= e->next && !e->ahead.working && (e->queued == 0 || e->failure != FAIL_NONE));
    ASSERT((client != NULL) == (e->client || e->third) && (server != NULL) == (e->server || e->third));
    e->queued = e->out.len = e->left = 0, e->next = first + rows;       // a segment is used once
    ahead_begin(&e->ahead, rows, first);
    streams_begin(e, rows, first, client, server);
}

void engine_ahead(Engine *e, size_t rows, uint64_t first, const uint8_t (*client)[KEY_BYTES])
{
    ASSERT(e->role == ROLE_CLIENT && rows > 0 && first >= e->next && client && e->queued == 0);
    ahead_forget(&e->ahead);
    e->ahead.first = first, e->ahead.rows = rows, e->ahead.spent = e->cost, e->ahead.working = true;
    role_set(e, ROLE_COUNT);
    streams_begin(e, rows, first, client, NULL);
}

void engine_ahead_end(Engine *e)
{
    ASSERT(e->ahead.working);
    e->queued = 0;
    e->ahead.working = false, e->cost = e->ahead.spent, e->dealt_before = e->cost.bytes.third_to_server;
    role_set(e, ROLE_CLIENT);
    arena_wipe(&e->step), arena_wipe(&e->kept);
    e->client_prg = NULL;
}

size_t engine_ahead_left(const Engine *e)
{
    uint64_t end = e->ahead.first + e->ahead.rows, from = e->next > e->ahead.first ? e->next : e->ahead.first;
    return e->ahead.head && from < end ? (size_t)(end - from) : 0;
}

/* The network's own refusals end the batch like a failed read: what is queued must never travel. */
Result engine_refuse(Engine *e, Result r)
{
    if (failed(r)) engine_fail(e, r);
    return r;
}

void engine_fail(Engine *e, Result r)
{
    if (e->failure != FAIL_NONE) return;
    e->failure = r.kind;
    strncpy(e->failure_text, result_text(), sizeof e->failure_text - 1);
}

uint64_t *words_if(Engine *e, bool wanted, size_t len) { return wanted ? arena_new(&e->step, uint64_t, len) : NULL; }
uint64_t *words_raw(Engine *e, bool wanted, size_t len) { return wanted ? arena_raw(&e->step, len, sizeof(uint64_t)) : NULL; }
uint64_t *words_new(Engine *e, size_t len) { return words_if(e, e->role != ROLE_COUNT, len); }

// ---- layouts and bare wires ------------------------------------------------------------------------------------------

const Layout *layout_uniform(Engine *e, size_t columns)
{
    size_t *begin = arena_new(&e->step, size_t, e->rows + 1);
    for (size_t r = 0; r <= e->rows; r++) begin[r] = r * columns;
    Layout *l = arena_new(&e->step, Layout, 1);
    *l = (Layout){e->rows, begin};
    return l;
}

const Layout *layout_ragged(Engine *e, const size_t *columns)
{
    size_t *begin = arena_new(&e->step, size_t, e->rows + 1);
    for (size_t r = 0; r < e->rows; r++) begin[r + 1] = begin[r] + columns[r];
    Layout *l = arena_new(&e->step, Layout, 1);
    *l = (Layout){e->rows, begin};
    return l;
}

Wire wire_new(Engine *e, const Layout *at, unsigned n, unsigned f)
{
    ASSERT(n >= 1 && n <= 64);
    Wire w = {at, n, f, {NULL}, {NULL}};
    w.c.word = words_if(e, e->client, layout_len(at));
    w.s.word = words_if(e, e->server || e->clear, layout_len(at));
    return w;
}

Wire wire_raw(Engine *e, const Layout *at, unsigned n, unsigned f)
{
    ASSERT(n >= 1 && n <= 64);
    size_t len = layout_len(at);
    return (Wire){at, n, f, {words_raw(e, e->client, len)}, {words_raw(e, e->server || e->clear, len)}};
}

typedef struct Copy { uint64_t *to; const uint64_t *from; } Copy;

static void copy_block(void *ctx, const Block *b)
{
    const Copy *c = ctx;
    memcpy(c->to + b->i, c->from + b->i, b->len * sizeof *c->to);
}

static uint64_t *words_copy(Arena *a, const uint64_t *words, const Layout *at)
{
    if (!words) return NULL;
    Copy c = {arena_raw(a, layout_len(at), sizeof *words), words};
    rows_run(at, copy_block, &c);
    return c.to;
}

static Wire wire_copy(Arena *a, Wire w)
{
    size_t *begin = arena_new(a, size_t, w.at->rows + 1);
    Layout *at = arena_new(a, Layout, 1);
    memcpy(begin, w.at->begin, (w.at->rows + 1) * sizeof *begin);
    *at = (Layout){w.at->rows, begin};
    return (Wire){at, w.n, w.f, {words_copy(a, w.c.word, at)}, {words_copy(a, w.s.word, at)}};
}

/* By way of a second arena, which is as small as what stays. */
void engine_turn(Engine *e, Wire *const *keep, size_t count)
{
    ASSERT(e->queued == 0);
    for (size_t i = 0; i < count; i++) *keep[i] = wire_copy(&e->kept, *keep[i]);
    arena_reuse(&e->step, e->begun);
    for (size_t i = 0; i < count; i++) *keep[i] = wire_copy(&e->step, *keep[i]);
    arena_reuse(&e->kept, (ArenaMark){0});
}

uint64_t wire_value(const Engine *e, const Wire *a, size_t i)
{
    ASSERT(e->clear);
    return a->c.word[i] + a->s.word[i];
}

void wire_settle(const Engine *e, Wire *a, const uint64_t *value)
{
    ASSERT(e->clear);
    rows_apply(a->at, ring_sub, a->s.word, value, a->c.word);
}

// ---- blocks ----------------------------------------------------------------------------------------------------------

enum { BLOCKS_A_PART = 8 };                    // that are worth waking a thread for

typedef struct BlocksJob { const Layout *at; size_t begin, end; BlockBody *body; void *ctx; } BlocksJob;

static size_t row_blocks(const Layout *at, size_t row) { return (row_words(at, row) + BLOCK - 1) / BLOCK; }

static void blocks_part(void *ctx, size_t begin, size_t end)
{
    const BlocksJob *j = ctx;
    uint64_t tmp[BLOCK_TEMPS][BLOCK];
    size_t first = 0, longest = 0;             // first: number of the row's first block
    for (size_t r = j->begin; r < j->end && first < end; r++) {
        size_t count = row_blocks(j->at, r), words = row_words(j->at, r);
        for (size_t b = begin > first ? begin - first : 0; b < count && first + b < end; b++) {
            size_t from = b * BLOCK, len = words - from < BLOCK ? words - from : BLOCK;
            j->body(j->ctx, &(Block){r, from, len, j->at->begin[r] + from, tmp});
            if (len > longest) longest = len;
        }
        first += count;
    }
    for (size_t k = 0; k < BLOCK_TEMPS; k++) wipe(tmp[k], longest * sizeof *tmp[k]);
}

void blocks_run(const Layout *at, size_t begin, size_t end, BlockBody *body, void *ctx)
{
    BlocksJob job = {at, begin, end, body, ctx};
    size_t blocks = 0;
    for (size_t r = begin; r < end; r++) blocks += row_blocks(at, r);
    parallel_for(blocks, BLOCKS_A_PART, blocks_part, &job);
}

typedef struct Apply { RingOp *op; uint64_t *out; const uint64_t *a, *b; } Apply;

static void apply_block(void *ctx, const Block *b)
{
    const Apply *j = ctx;
    j->op(j->out + b->i, j->a + b->i, j->b + b->i, b->len);
}

void rows_apply(const Layout *at, RingOp *op, uint64_t *out, const uint64_t *a, const uint64_t *b)
{
    rows_run(at, apply_block, &(Apply){op, out, a, b});
}

static void apply_part(void *ctx, size_t begin, size_t end)
{
    const Apply *j = ctx;
    size_t bytes = (end - begin) * sizeof *j->out;
    if (j->a) memcpy(j->out + begin, j->a + begin, bytes);
    else memset(j->out + begin, 0, bytes);
    if (j->op) j->op(j->out + begin, j->out + begin, j->b + begin, end - begin);
}

void words_apply(RingOp *op, uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len)
{
    parallel_for(len, (size_t)BLOCK * BLOCKS_A_PART, apply_part, &(Apply){op, out, a, b});
}

// ---- exchanges -------------------------------------------------------------------------------------------------------

unsigned row_width(unsigned n, const uint8_t *row_n, size_t row) { return row_n ? row_n[row] : n; }

static size_t pending_bytes(const Pending *p)
{
    size_t bytes = 0;
    for (size_t r = 0; r < p->at->rows; r++) bytes += ring_packed_size(row_words(p->at, r), row_width(p->n, p->row_n, r));
    return bytes;
}

static bool pending_mine(const Engine *e, const Pending *p) { return e->role == ROLE_CLIENT ? p->from_client : p->from_server; }
static bool pending_theirs(const Engine *e, const Pending *p) { return e->role == ROLE_CLIENT ? p->from_server : p->from_client; }

static const size_t *packed_rows(Engine *e, const Pending *p)
{
    size_t *byte = arena_new(&e->step, size_t, p->at->rows + 1);
    for (size_t r = 0; r < p->at->rows; r++)
        byte[r + 1] = byte[r] + ring_packed_size(row_words(p->at, r), row_width(p->n, p->row_n, r));
    return byte;
}

uint8_t *engine_queue(Engine *e, Pending *p)
{
    if (e->role == ROLE_THIRD) return NULL;                   // T takes part in no exchange
    ASSERT(e->queued < sizeof e->queue / sizeof *e->queue);
    p->byte = e->online ? packed_rows(e, p) : NULL;
    e->queue[e->queued++] = *p;
    if (!e->online || !pending_mine(e, p)) return NULL;
    size_t bytes = p->byte[p->at->rows];
    buffer_reserve(&e->out, bytes);
    e->out.len += bytes;
    return e->out.data + e->out.len - bytes;
}

typedef struct Sending { const Pending *p; const uint64_t *a, *b; uint8_t *out; } Sending;

static void sending_block(void *ctx, const Block *b)
{
    const Sending *s = ctx;
    unsigned n = row_width(s->p->n, s->p->row_n, b->row);
    const uint64_t *x = s->a + b->i;
    if (s->b) ring_add(b->tmp[0], x, s->b + b->i, b->len), x = b->tmp[0];
    ring_pack(s->out + s->p->byte[b->row] + b->from * n / 8, x, b->len, n);
}

void engine_send(Engine *e, Pending p, const uint64_t *a, const uint64_t *b)
{
    Sending s = {&p, a, b, engine_queue(e, &p)};
    if (s.out) rows_run(p.at, sending_block, &s);
    engine_packed(e);
}

/* What leaves before its exchange is what would have left with it: words are masked when they are packed, nobody writes to packed
 * bytes again, and each byte leaves once. The masks are spent either way, since a segment is used once (engine_begin) and a session
 * that has failed is over: there is no second try in which other words could meet them. After a failure nothing leaves, so words that
 * were computed from missing ones (feed_words) never do. */
static void queue_post(Engine *e)
{
    if (!e->online || e->failure != FAIL_NONE || e->left == e->out.len) return;
    Result r = channel_part(e->peer, e->out.data + e->left, e->out.len - e->left);
    e->left = e->out.len;
    if (failed(r)) engine_fail(e, r);
}

enum { POST_BYTES = 64 << 10, POST_MACS = 1 << 20 };          // a frame more costs some 10 us at either end, so many macs 100

void engine_packed(Engine *e)
{
    if (e->out.len - e->left >= POST_BYTES) queue_post(e);
}

void engine_post(Engine *e, size_t macs)
{
    if (macs >= POST_MACS) queue_post(e);
}

typedef struct Arrival { const Pending *p; const uint8_t *in; } Arrival;

static void arrival_block(void *ctx, const Block *b)
{
    const Arrival *a = ctx;
    const Pending *p = a->p;
    unsigned n = row_width(p->n, p->row_n, b->row);
    uint64_t *theirs = b->tmp[0], *to = p->to + b->i;
    ring_unpack(p->add ? theirs : to, a->in + p->byte[b->row] + b->from * n / 8, b->len, n);
    if (p->add) ring_add_to(to, theirs, b->len);
    if (p->opened) for (size_t i = 0; i < b->len; i++) to[i] = ring_low(to[i], n) - opened_centre(n);
}

static CHECKED Result exchange_online(Engine *e, const char *name)
{
    size_t expected = 0;
    for (size_t i = 0; i < e->queued; i++)
        if (pending_theirs(e, &e->queue[i])) expected += e->queue[i].byte[e->queue[i].at->rows];
    if (e->out.len > e->left) GUARD(channel_send(e->peer, e->out.data + e->left, e->out.len - e->left));
    if (!expected) return OK;
    e->in.len = 0;
    buffer_reserve(&e->in, expected);
    GUARD(channel_expect(e->peer, e->in.data, expected, name));
    const uint8_t *in = e->in.data;
    for (size_t i = 0; i < e->queued; i++) {
        const Pending *p = &e->queue[i];
        if (!pending_theirs(e, p)) continue;
        if (p->to) rows_run(p->at, arrival_block, &(Arrival){p, in});
        in += p->byte[p->at->rows];
    }
    return OK;
}

static void queue_clear(Engine *e) { e->queued = e->out.len = e->left = 0; }

CHECKED Result engine_exchange(Engine *e, const char *name)
{
    if (e->failure != FAIL_NONE) {
        queue_clear(e);
        return fail(e->failure, "%s", e->failure_text);
    }
    if (e->role == ROLE_THIRD) return OK;
    uint64_t c_to_s = 0, s_to_c = 0;
    for (size_t i = 0; i < e->queued; i++) {
        if (e->queue[i].from_client) c_to_s += pending_bytes(&e->queue[i]);
        if (e->queue[i].from_server) s_to_c += pending_bytes(&e->queue[i]);
    }
    e->cost.bytes.client_to_server += c_to_s, e->cost.bytes.server_to_client += s_to_c, e->cost.exchanges++;
    if (e->trace && !e->ahead.working) e->trace(e->trace_ctx, name, c_to_s, s_to_c, e->cost.bytes.third_to_server - e->dealt_before);
    e->dealt_before = e->cost.bytes.third_to_server;
    Result r = e->online ? exchange_online(e, name) : OK;
    if (failed(r)) engine_fail(e, r);
    queue_clear(e);
    return r;
}

CHECKED Result engine_end(Engine *e)
{
    if (e->failure != FAIL_NONE) return fail(e->failure, "%s", e->failure_text);
    ASSERT(e->queued == 0);
    return OK;
}
