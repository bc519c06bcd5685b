/* engine.c - the life of an engine, its batches and its exchanges. See mpc.h. */
#include <stdlib.h>
#include "mpc/engine.h"

Engine *engine_new(Role role, Channel *peer, Feed *feed)
{
    Engine *e = calloc(1, sizeof *e);
    if (!e) bug("out of memory");
    e->role = role;
    e->clear = role == ROLE_CLEAR;
    e->client = role == ROLE_CLIENT || e->clear;
    e->server = role == ROLE_SERVER;
    e->third = role == ROLE_THIRD || e->clear;
    e->online = role == ROLE_CLIENT || role == ROLE_SERVER;
    e->peer = peer, e->feed = feed;
    e->out.secret = e->in.secret = e->words.secret = true;
    arena_init(&e->step, true);
    return e;
}

void engine_free(Engine *e)
{
    if (!e) return;
    arena_free(&e->step);
    buffer_free(&e->out), buffer_free(&e->in), buffer_free(&e->words);
    wipe(e, sizeof *e);
    free(e);
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

void engine_begin(Engine *e, size_t rows, uint64_t first, const uint8_t (*client)[KEY_BYTES], const uint8_t (*server)[KEY_BYTES])
{
    ASSERT(rows > 0 && first >= e->next && (e->queued == 0 || e->failure != FAIL_NONE));
    e->queued = 0, e->next = first + rows;     // a segment is used once
    ASSERT((client != NULL) == (e->client || e->third) && (server != NULL) == (e->server || e->third));
    arena_rollback(&e->step, (ArenaMark){0});
    e->rows = rows;
    e->client_prg = streams_new(e, client, "masks of the client");
    e->server_prg = streams_new(e, server, "masks of the server");
    e->shared_prg = e->has_shared_seed ? arena_new(&e->step, Prg, rows) : NULL;
    for (size_t r = 0; e->shared_prg && r < rows; r++) {
        uint8_t key[KEY_BYTES];
        uint64_t segment = first + r;
        derive_key(key, e->shared_seed, "shares of inputs", &segment, sizeof segment);
        prg_init(&e->shared_prg[r], key);
        wipe(key, sizeof key);
    }
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

uint64_t wire_value(const Engine *e, const Wire *a, size_t i)
{
    ASSERT(e->clear);
    return a->c.word[i] + a->s.word[i];
}

void wire_settle(const Engine *e, Wire *a, const uint64_t *value)
{
    ASSERT(e->clear);
    ring_sub(a->s.word, value, a->c.word, layout_len(a->at));
}

// ---- exchanges -------------------------------------------------------------------------------------------------------

unsigned row_width(unsigned n, const uint8_t *row_n, size_t row) { return row_n ? row_n[row] : n; }

static size_t pending_bytes(const Pending *p)
{
    size_t bytes = 0;
    for (size_t r = 0; r < p->at->rows; r++)
        bytes += ring_packed_size(p->at->begin[r + 1] - p->at->begin[r], row_width(p->n, p->row_n, r));
    return bytes;
}

void engine_queue(Engine *e, Pending p)
{
    if (e->role == ROLE_THIRD) return;                        // T takes part in no exchange
    ASSERT(e->queued < sizeof e->queue / sizeof *e->queue);
    e->queue[e->queued++] = p;
}

static bool pending_mine(const Engine *e, const Pending *p) { return e->role == ROLE_CLIENT ? p->from_client : p->from_server; }
static bool pending_theirs(const Engine *e, const Pending *p) { return e->role == ROLE_CLIENT ? p->from_server : p->from_client; }

static void pending_pack(Engine *e, const Pending *p)
{
    for (size_t r = 0; r < p->at->rows; r++) {
        size_t from = p->at->begin[r], len = p->at->begin[r + 1] - from;
        unsigned n = row_width(p->n, p->row_n, r);
        size_t bytes = ring_packed_size(len, n);
        buffer_reserve(&e->out, bytes);
        ring_pack(e->out.data + e->out.len, p->mine + from, len, n);
        e->out.len += bytes;
    }
}

/* sum := mine (if I sent) + theirs (at *in, if they sent). */
static void pending_finish(const Engine *e, const Pending *p, const uint8_t **in)
{
    size_t len = layout_len(p->at);
    bool mine = pending_mine(e, p), theirs = pending_theirs(e, p);
    if (!p->sum || (!theirs && !p->opened)) return;
    for (size_t r = 0; theirs && r < p->at->rows; r++) {
        size_t from = p->at->begin[r], words = p->at->begin[r + 1] - from;
        unsigned n = row_width(p->n, p->row_n, r);
        ring_unpack(p->sum + from, *in, words, n);
        *in += ring_packed_size(words, n);
    }
    if (!theirs) memcpy(p->sum, p->mine, len * sizeof *p->sum);
    else if (mine) ring_add_to(p->sum, p->mine, len);
}

static CHECKED Result exchange_online(Engine *e, const char *name)
{
    size_t expected = 0;
    e->out.len = 0;
    for (size_t i = 0; i < e->queued; i++) {
        if (pending_mine(e, &e->queue[i])) pending_pack(e, &e->queue[i]);
        if (pending_theirs(e, &e->queue[i])) expected += pending_bytes(&e->queue[i]);
    }
    if (e->out.len) GUARD(channel_send(e->peer, e->out.data, e->out.len));
    const uint8_t *in = NULL;
    if (expected) {
        e->in.len = 0;
        buffer_reserve(&e->in, expected);
        GUARD(channel_expect(e->peer, e->in.data, expected, name));
        in = e->in.data;
    }
    for (size_t i = 0; i < e->queued; i++) pending_finish(e, &e->queue[i], &in);
    return OK;
}

CHECKED Result engine_exchange(Engine *e, const char *name)
{
    if (e->failure != FAIL_NONE) {
        e->queued = 0;
        return fail(e->failure, "%s", e->failure_text);
    }
    if (e->role == ROLE_THIRD) return OK;
    uint64_t c_to_s = 0, s_to_c = 0;
    for (size_t i = 0; i < e->queued; i++) {
        if (e->queue[i].from_client) c_to_s += pending_bytes(&e->queue[i]);
        if (e->queue[i].from_server) s_to_c += pending_bytes(&e->queue[i]);
    }
    e->cost.bytes.client_to_server += c_to_s, e->cost.bytes.server_to_client += s_to_c, e->cost.exchanges++;
    if (e->trace) e->trace(e->trace_ctx, name, c_to_s, s_to_c, e->cost.bytes.third_to_server - e->dealt_before);
    e->dealt_before = e->cost.bytes.third_to_server;
    if (e->online) {
        Result r = exchange_online(e, name);
        if (failed(r)) { engine_fail(e, r); e->queued = 0; return r; }
    }
    for (size_t i = 0; i < e->queued; i++) if (e->queue[i].opened) opened_complete(e, e->queue[i].opened);
    e->queued = 0;
    return OK;
}

CHECKED Result engine_end(Engine *e)
{
    if (e->failure != FAIL_NONE) return fail(e->failure, "%s", e->failure_text);
    ASSERT(e->queued == 0);
    return OK;
}
