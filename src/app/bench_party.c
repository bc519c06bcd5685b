/* bench_party.c - client, server and third of `bench block`, each in its process.
 *
 * In `dealer` the third writes its words to a pool before anything is timed; in `3pc` it deals while the others compute. A
 * repetition is: what can be done ahead; the gate, behind which the float forward has its turn; the block; the gate. */
#include "app/bench_block.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "serve/party.h"                       // feeds and pinned matrices, as in a session

const char *const party_names[PARTIES] = {"client", "server", "third"};

// ---- the gate --------------------------------------------------------------------------------------------------------

void gate_break(Gate *g)
{
    atomic_store(&g->broken, true);
    syscall(SYS_futex, &g->round, FUTEX_WAKE, PARTIES + 1, NULL, NULL, 0);
}

Result gate_pass(Gate *g, unsigned everyone)
{
    unsigned round = atomic_load(&g->round);
    if (atomic_fetch_add(&g->arrived, 1) + 1 == everyone) {
        atomic_store(&g->arrived, 0);
        atomic_fetch_add(&g->round, 1);
        syscall(SYS_futex, &g->round, FUTEX_WAKE, everyone, NULL, NULL, 0);
    }
    while (atomic_load(&g->round) == round) {
        const struct timespec wait = {0, 100000000};
        if (atomic_load(&g->broken)) return fail(FAIL_PEER, "another party failed");
        syscall(SYS_futex, &g->round, FUTEX_WAIT, round, &wait, NULL, 0);
    }
    return OK;
}

// ---- a party ---------------------------------------------------------------------------------------------------------

typedef struct Actor {
    const Block *b;
    Role role;
    BlockShared *shared;
    Model model;                               // C (public parts) and S
    Adapter adapter;                           // S
    Channel *peer, *third, *client;            // C and S: each other, T; T: third is S, client is C
    Engine *engine;
    SecureNet *net;
    Arena arena;
    Tape *mine, *theirs;                       // theirs: T, of the client
    LiveFeed live;
    PoolFeed words;
    Pool *pool;
    PoolSink sink;                             // T, for a pool
    Trace trace;
    uint8_t (*keys)[KEY_BYTES], (*client_keys)[KEY_BYTES];             // (rows)
} Actor;

/* A batch: that of a repetition, or the one before all of them, which fills the caches with the past and is not timed. */
typedef struct Turn { uint64_t first; size_t rows, past; const float *x; } Turn;
static const unsigned lead = UINT32_MAX;

static Turn turn_of(const Block *b, unsigned repeat)
{
    if (repeat == lead) return (Turn){0, b->past, 0, b->x};
    return (Turn){b->past + (uint64_t)repeat * b->rows, b->rows, b->past, b->x + b->past * b->config.width};
}

static Result keys_take(Tape *t, uint8_t (*keys)[KEY_BYTES], const Turn *turn)
{
    return tape_reserve(t, turn->first, turn->rows, keys);
}

static bool dealer(const Actor *p) { return p->b->setting == SETTING_DEALER; }

// ---- meeting ---------------------------------------------------------------------------------------------------------

/* Links that time is taken of are shaped as the network; a pool's making is not. */
static void link_prepare(const Actor *p, Channel *c, bool timed)
{
    if (timed) channel_shape(c, &p->b->net);
    channel_timeout(c, 600);                   // others' setup, and the float forward, may take long
}

static Result meet_third(Actor *p)
{
    const Block *b = p->b;
    uint8_t seed[KEY_BYTES];
    GUARD(channel_connect(&p->third, "127.0.0.1", listener_port(b->at_third), &b->id[p->role], b->id[ROLE_THIRD].public_key, 10));
    link_prepare(p, p->third, !dealer(p));
    random_bytes(seed, sizeof seed);
    tape_live(&p->mine, seed, LIVE_SEGMENTS);
    Result r = channel_send(p->third, seed, sizeof seed);
    wipe(seed, sizeof seed);
    return r;
}

static Result third_meets(Actor *p)
{
    const Block *b = p->b;
    uint8_t allowed[2][32], seed[KEY_BYTES];
    memcpy(allowed[0], b->id[0].public_key, 32), memcpy(allowed[1], b->id[1].public_key, 32);
    for (int i = 0; i < 2; i++) {
        size_t which;
        Channel *c;
        GUARD(channel_accept(&c, &which, b->at_third, &b->id[ROLE_THIRD], (const uint8_t (*)[32])allowed, 2, 60));
        link_prepare(p, c, !dealer(p));
        GUARD(channel_expect(c, seed, sizeof seed, "a seed"));
        tape_live(which == 0 ? &p->theirs : &p->mine, seed, LIVE_SEGMENTS);
        *(which == 0 ? &p->client : &p->third) = c;
    }
    wipe(seed, sizeof seed);
    return p->client && p->third ? OK : fail(FAIL_PEER, "one party came twice");
}

static Result meet_peer(Actor *p)
{
    const Block *b = p->b;
    const uint8_t (*client)[32] = (const uint8_t (*)[32])b->id[ROLE_CLIENT].public_key, *server = b->id[ROLE_SERVER].public_key;
    size_t which;
    if (p->role == ROLE_CLIENT) GUARD(channel_connect(&p->peer, "127.0.0.1", listener_port(b->at_server), &b->id[ROLE_CLIENT], server, 60));
    else GUARD(channel_accept(&p->peer, &which, b->at_server, &b->id[ROLE_SERVER], client, 1, 60));
    link_prepare(p, p->peer, true);
    channel_buffers(p->peer, PEER_SEND, PEER_AHEAD);
    return OK;
}

/* Seeds that C and S share: S chooses both. */
static Result seeds_share(Actor *p)
{
    uint8_t seeds[2][KEY_BYTES];
    if (p->role == ROLE_SERVER) random_bytes(seeds, sizeof seeds);
    Result r = p->role == ROLE_SERVER ? channel_send(p->peer, seeds, sizeof seeds) : channel_expect(p->peer, seeds, sizeof seeds, "seeds");
    engine_shared_seed(p->engine, seeds[0]);
    engine_pad_seed(p->engine, seeds[1]);
    wipe(seeds, sizeof seeds);
    return r;
}

static Feed *feed_choose(Actor *p)
{
    if (p->role == ROLE_CLIENT) return NULL;
    if (p->role == ROLE_SERVER && dealer(p)) return &p->words.feed;
    if (p->role == ROLE_THIRD && dealer(p)) return &p->sink.feed;
    return &p->live.feed;
}

static Result actor_setup(Actor *p)
{
    const Block *b = p->b;
    GUARD(p->role == ROLE_THIRD ? third_meets(p) : meet_third(p));
    if (p->role != ROLE_THIRD) {
        GUARD(meet_peer(p));
        block_model(&p->model, &p->adapter, b, p->role == ROLE_SERVER);
    }
    if (p->role != ROLE_CLIENT && !dealer(p)) live_feed(&p->live, p->third);
    pool_sink(&p->sink);
    p->keys = arena_alloc(&p->arena, b->rows + b->past, KEY_BYTES), p->client_keys = arena_alloc(&p->arena, b->rows + b->past, KEY_BYTES);
    p->engine = engine_new(p->role, p->peer, feed_choose(p));
    if (p->role != ROLE_THIRD) GUARD(seeds_share(p));
    GUARD(secure_new(&p->net, p->engine, &p->arena, &b->config, &b->plan, p->role == ROLE_THIRD ? NULL : &p->model,
                     p->role == ROLE_SERVER && b->rank ? &p->adapter : NULL));
    if (p->role == ROLE_SERVER && !dealer(p)) channel_buffers(p->third, PEER_SEND, WORDS_AHEAD);
    if (p->role == ROLE_THIRD && !dealer(p)) channel_buffers(p->third, WORDS_SEND, 0);
    if (p->role == ROLE_SERVER) GUARD(pins_send(p->third, p->net));
    if (p->role == ROLE_THIRD) GUARD(pins_receive(p->third, p->net));
    if (p->peer) trace_watch(&p->trace, p->peer, p->role == ROLE_CLIENT ? PARTY_PROVIDER : PARTY_CLIENT);
    if (p->role != ROLE_CLIENT && !dealer(p)) trace_watch(&p->trace, p->third, p->role == ROLE_SERVER ? PARTY_THIRD : PARTY_PROVIDER);
    LinkBytes *s = &p->shared->setup;
    if (p->role == ROLE_CLIENT) s->client_to_third = channel_count(p->third).sent;
    if (p->role == ROLE_SERVER) s->server_to_third = channel_count(p->third).sent, s->server_to_client = channel_count(p->peer).sent;
    return OK;
}

// ---- a repetition ----------------------------------------------------------------------------------------------------

static Result forward(Actor *p, const Turn *t, Wire *out)
{
    bool third = p->role == ROLE_THIRD;
    const uint8_t (*c)[KEY_BYTES] = (const uint8_t (*)[KEY_BYTES])(third ? p->client_keys : p->role == ROLE_CLIENT ? p->keys : NULL);
    const uint8_t (*s)[KEY_BYTES] = (const uint8_t (*)[KEY_BYTES])(p->role == ROLE_CLIENT ? NULL : p->keys);
    Cost before = engine_cost(p->engine);
    engine_begin(p->engine, t->rows, t->first, c, s);
    GUARD(secure_layers(p->net, t->rows, p->role == ROLE_CLIENT ? t->x : NULL, NULL, out));
    GUARD(engine_end(p->engine));
    if (third && !dealer(p)) GUARD(live_feed_flush(&p->live));
    Cost now = engine_cost(p->engine), *cost = &p->shared->cost[p->role];
    cost->exchanges = now.exchanges - before.exchanges;
    cost->bytes.client_to_server = now.bytes.client_to_server - before.bytes.client_to_server;
    cost->bytes.server_to_client = now.bytes.server_to_client - before.bytes.server_to_client;
    cost->bytes.third_to_server = now.bytes.third_to_server - before.bytes.third_to_server;
    return OK;
}

static void pool_path(char out[BLOCK_PATH], const Block *b, unsigned repeat) { snprintf(out, BLOCK_PATH, "%s/pool.%u", b->folder, repeat); }
void trace_path(char out[BLOCK_PATH], const Block *b, Role r) { snprintf(out, BLOCK_PATH, "%s/trace.%s", b->folder, party_names[r]); }

/* T: the words of a batch, a segment a row. sizes: of every position's segment. */
static Result pool_write(Actor *p, unsigned repeat, const uint64_t *sizes)
{
    const Block *b = p->b;
    Turn t = turn_of(b, repeat);
    char path[BLOCK_PATH];
    Wire out;
    pool_path(path, b, repeat);
    GUARD(keys_take(p->mine, p->keys, &t));
    GUARD(keys_take(p->theirs, p->client_keys, &t));
    GUARD(pool_create(&p->sink.writer, path, "bench", 5, sizes + t.past, t.rows));
    pool_begin(p->sink.writer, t.rows, (const uint8_t (*)[KEY_BYTES])p->keys);
    p->sink.bytes = 0;
    Result r = forward(p, &t, &out);
    if (failed(r)) pool_abandon(p->sink.writer);
    else r = pool_finish(p->sink.writer, &b->id[ROLE_THIRD]);
    p->shared->pool_bytes = p->sink.bytes;
    return r;
}

static Result pools_write(Actor *p)
{
    const Block *b = p->b;
    uint64_t *sizes = arena_new(&p->arena, uint64_t, b->past + b->rows);
    for (size_t i = 0; i < b->past + b->rows; i++) {
        Cost c;
        GUARD(plan_cost_layers(&c, &b->plan, &b->config, (uint32_t)i, 1));
        sizes[i] = c.bytes.third_to_server;
    }
    if (b->past) GUARD(pool_write(p, lead, sizes));
    for (unsigned i = 0; i < b->repeats; i++) {
        double cpu = clock_cpu_seconds();
        secure_truncate(p->net, (uint32_t)b->past);
        GUARD(pool_write(p, i, sizes));
        p->shared->run[ROLE_THIRD][i].cpu = clock_cpu_seconds() - cpu;
    }
    return OK;
}

/* S: opens a pool, whose words it decrypts as it comes to them. */
static Result pool_ready(Actor *p, unsigned repeat, const Turn *t)
{
    char path[BLOCK_PATH];
    pool_path(path, p->b, repeat);
    pool_feed_free(&p->words);
    pool_close(p->pool);
    p->pool = NULL;
    GUARD(pool_open(&p->pool, path, p->b->id[ROLE_THIRD].public_key));
    unlink(path);
    pool_feed(&p->words, p->pool);
    return pool_feed_load(&p->words, 0, t->rows, (const uint8_t (*)[KEY_BYTES])p->keys);
}

static Result ahead(Actor *p, unsigned repeat, const Turn *t)
{
    if (p->role == ROLE_THIRD && dealer(p)) return OK;         // all of it is in the pool
    secure_truncate(p->net, (uint32_t)t->past);
    GUARD(keys_take(p->mine, p->keys, t));
    if (p->role == ROLE_THIRD) GUARD(keys_take(p->theirs, p->client_keys, t));
    if (p->role == ROLE_CLIENT && dealer(p)) GUARD(secure_ahead(p->net, t->rows, t->first, (const uint8_t (*)[KEY_BYTES])p->keys));
    return p->role == ROLE_SERVER && dealer(p) ? pool_ready(p, repeat, t) : OK;
}

/* The past, which nobody times. */
static Result actor_lead(Actor *p)
{
    Turn t = turn_of(p->b, lead);
    Wire out;
    GUARD(ahead(p, lead, &t));
    return p->role == ROLE_THIRD && dealer(p) ? OK : forward(p, &t, &out);
}

static void shares_show(const Actor *p, const Wire *w)
{
    size_t len = layout_len(w->at);
    p->shared->out_n = w->n, p->shared->out_f = w->f;
    memcpy(p->shared->out + (p->role == ROLE_CLIENT ? 0 : len), p->role == ROLE_CLIENT ? w->c.word : w->s.word, len * sizeof(uint64_t));
}

static Result actor_repeat(Actor *p, unsigned repeat)
{
    BlockRun *run = &p->shared->run[p->role][repeat];
    Wire out = {0};
    bool idle = p->role == ROLE_THIRD && dealer(p);
    double cpu = clock_cpu_seconds();
    Turn t = turn_of(p->b, repeat);
    GUARD(ahead(p, repeat, &t));
    double ahead_cpu = clock_cpu_seconds() - cpu;
    GUARD(gate_pass(&p->shared->gate, PARTIES + 1));            // ready
    GUARD(gate_pass(&p->shared->gate, PARTIES + 1));            // the float forward has had its turn
    if (!idle) {
        cpu = clock_cpu_seconds();
        run->begin = clock_seconds();
        trace_begin(&p->trace);
        trace_phase(&p->trace, block_phase(p->role), true);
        profile_start();
        GUARD(forward(p, &t, &out));
        profile_stop();
        trace_phase(&p->trace, block_phase(p->role), false);
        run->end = clock_seconds();
        run->online_cpu = clock_cpu_seconds() - cpu;
        run->cpu = run->online_cpu + ahead_cpu;
        if (p->role != ROLE_THIRD) shares_show(p, &out);
        char path[BLOCK_PATH];
        trace_path(path, p->b, p->role);
        GUARD(trace_save(&p->trace, path));
    }
    return gate_pass(&p->shared->gate, PARTIES + 1);            // done
}

static Result actor_life(Actor *p)
{
    const Block *b = p->b;
    GUARD(actor_setup(p));
    p->shared->setup_cpu[p->role] = clock_cpu_seconds();
    GUARD(gate_pass(&p->shared->gate, PARTIES + 1));            // T has its pinned matrices: they are in nobody's time
    if (dealer(p) && p->role == ROLE_THIRD) GUARD(pools_write(p));
    GUARD(gate_pass(&p->shared->gate, PARTIES + 1));
    if (dealer(p) && p->role == ROLE_SERVER) pool_feed(&p->words, NULL);
    if (b->past) GUARD(actor_lead(p));
    for (unsigned i = 0; i < b->repeats; i++) GUARD(actor_repeat(p, i));
    profile_read(&p->shared->profile[p->role]);
    return OK;
}

Result block_party(const Block *b, Role role)
{
    Actor p = {.b = b, .role = role, .shared = b->shared};
    arena_init(&p.arena, true);
    threads_start(b->threads);
    Result r = actor_life(&p);
    if (failed(r)) snprintf(b->shared->why[role], sizeof b->shared->why[role], "%s", result_text()), gate_break(&b->shared->gate);
    engine_free(p.engine);
    pool_feed_free(&p.words);
    pool_close(p.pool);
    trace_free(&p.trace);
    live_feed_free(&p.live);
    channel_close(p.peer), channel_close(p.third), channel_close(p.client);
    if (p.mine) tape_close(p.mine);
    if (p.theirs) tape_close(p.theirs);
    model_free(&p.model), adapter_free(&p.adapter);
    arena_free(&p.arena);
    return r;
}
