/* third.c - the third: pairs a client with a provider, and deals to them, live or into a pool.
 *
 * It keeps nothing: seeds, masks and padded matrices live in the memory of one session and are wiped with it, and a pool that it has
 * written it can no longer read. Sessions are
 * served one after the other. A party that came first waits in a short list for its partner. */
#include "serve/party.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>

enum { WAITING_MOST = 16, PAIR_SECONDS = 60 };

typedef struct Half { Channel *channel; uint8_t key[32]; ThirdHello hello; double until; } Half;

typedef struct Third {
    const ThirdOptions *o;
    Arena arena;
    uint8_t (*allowed)[32];                    // clients, then providers
    size_t allowed_count;
    Listener *listener;
    Half waiting[WAITING_MOST];
    size_t waiting_count;
} Third;

typedef struct Deal {
    const ThirdOptions *o;
    Half *client, *provider;
    Plan plan;
    ModelConfig config;
    Engine *engine;
    SecureNet *net;
    Arena arena;
    Segments c, s;
    LiveFeed words;                            // live
    PoolSink sink;                             // pool
    uint64_t told;                             // pool: positions that the parties have heard of
} Deal;

// ---- dealing ---------------------------------------------------------------------------------------------------------

/* What the provider sends must be what both named. */
static Result deal_shape(Deal *d)
{
    Agreement of = d->provider->hello.agreement;
    GUARD(message_send(d->provider->channel, MSG_GO));
    GUARD(shape_receive(d->provider->channel, &d->plan, &d->config));
    GUARD(fail_in(plan_check(&d->plan, &d->config), "the provider's plan"));
    if (d->plan.context <= d->plan.known) return fail(FAIL_DATA, "the provider's plan leaves no room");
    config_hash(&d->config, of.config);
    plan_hash(&d->plan, &d->config, of.plan);
    return agreement_check(&of, &d->client->hello.agreement, "client");
}

static Result deal_open(Deal *d)
{
    bool pool = d->provider->hello.pool;
    channel_timeout(d->provider->channel, WORK_SECONDS);
    channel_timeout(d->client->channel, WORK_SECONDS);
    GUARD(deal_shape(d));
    live_feed(&d->words, d->provider->channel);
    pool_sink(&d->sink);
    d->engine = engine_new(ROLE_THIRD, NULL, pool ? &d->sink.feed : &d->words.feed);
    GUARD(secure_new(&d->net, d->engine, &d->arena, &d->config, &d->plan, NULL, NULL));
    GUARD(pins_receive(d->provider->channel, d->net));
    segments_live(&d->c, d->client->hello.tape_seed);
    segments_live(&d->s, d->provider->hello.tape_seed);
    wipe(d->client->hello.tape_seed, KEY_BYTES);
    wipe(d->provider->hello.tape_seed, KEY_BYTES);
    return OK;
}

static Result deal_batch(Deal *d, size_t rows, bool last_only)
{
    uint64_t first = d->c.next;
    const uint8_t (*c)[KEY_BYTES] = segments_take(&d->c, rows), (*s)[KEY_BYTES] = segments_take(&d->s, rows);
    engine_begin(d->engine, rows, first, c, s);
    return secure_forward(d->net, rows, NULL, NULL, NULL, last_only);
}

// ---- live ------------------------------------------------------------------------------------------------------------

static Result deal_conversation(Deal *d, const Begin *b, Buffer *frame)
{
    uint32_t room = d->plan.context - d->plan.known, steps = 0;
    if (b->rows > room || b->more > room - b->rows)
        return fail(FAIL_PEER, "the provider asks for %u and %u positions, which do not fit the plan's context of %u", b->rows, b->more,
                    d->plan.context);
    GUARD(secure_room_conversation(d->net, b->rows, !b->every, b->more));
    GUARD(segments_reserve(&d->c, (uint64_t)b->rows + b->more, false));
    GUARD(segments_reserve(&d->s, (uint64_t)b->rows + b->more, false));
    secure_restart(d->net);
    GUARD(deal_batch(d, b->rows, !b->every));
    GUARD(live_feed_flush(&d->words));
    for (;;) {
        Message m;
        Cursor body;
        GUARD(message_next(d->provider->channel, frame, 64, &m, &body, "provider"));
        GUARD(cursor_end(&body));
        if (m == MSG_END) break;
        if (m != MSG_STEP) return message_unexpected(m, "step' or 'end", "provider");
        if (steps++ == b->more) return fail(FAIL_PEER, "the provider goes beyond the %u steps that it reserved", b->more);
        GUARD(deal_batch(d, 1, true));
        GUARD(live_feed_flush(&d->words));
    }
    segments_end(&d->c);
    segments_end(&d->s);
    return message_send(d->provider->channel, MSG_END);
}

static Result deal_live(Deal *d, Buffer *frame)
{
    channel_buffers(d->provider->channel, WORDS_SEND, 0);
    GUARD(message_send(d->provider->channel, MSG_READY));
    channel_timeout(d->provider->channel, THIRD_IDLE_SECONDS);
    for (;;) {
        Message m;
        Cursor body;
        Begin b;
        GUARD(message_next(d->provider->channel, frame, 64, &m, &body, "provider"));
        if (m == MSG_BYE) return OK;
        if (m != MSG_BEGIN) return message_unexpected(m, "begin' or 'bye", "provider");
        GUARD(begin_parse(&b, &body));
        GUARD(deal_conversation(d, &b, frame));
    }
}

// ---- a pool ----------------------------------------------------------------------------------------------------------

static void deal_about(const Deal *d, Buffer *header, const uint64_t *sizes)
{
    const ThirdHello *h = &d->provider->hello;
    PoolAbout a = {.positions = h->positions, .epoch = h->epoch};
    for (uint64_t i = 0; i < h->positions; i++) a.bytes += sizes[i];
    random_bytes(a.nonce, sizeof a.nonce);
    memcpy(a.name, h->session, sizeof a.name);
    memcpy(a.client, d->client->key, 32);
    memcpy(a.provider, d->provider->key, 32);
    memcpy(a.third, d->o->identity->public_key, 32);
    memcpy(a.config, h->agreement.config, HASH_BYTES);
    memcpy(a.plan, h->agreement.plan, HASH_BYTES);
    memcpy(a.public_model, h->agreement.public_model, HASH_BYTES);
    memcpy(a.commitment, h->commitment, HASH_BYTES);
    pool_about_write(header, &a);
}

/* The parties hear of each position, and wait for no longer than a batch takes; of the last when the file stands. */
static Result deal_made(void *ctx, size_t rows)
{
    Deal *d = ctx;
    for (; rows > 0 && d->told + 1 < d->provider->hello.positions; rows--, d->told++) {
        GUARD(message_send(d->client->channel, MSG_MADE));
        GUARD(message_send(d->provider->channel, MSG_MADE));
    }
    return OK;
}

static Result pool_fill(Deal *d, const Buffer *header, const uint64_t *sizes)
{
    const uint64_t positions = d->provider->hello.positions;
    PoolDeal deal = {d->engine, d->net, &d->c, &d->s, &d->sink, sizes, positions, deal_made, d};
    double begin = clock_seconds();
    GUARD(pool_create(&d->sink.writer, d->o->pool, header->data, header->len, sizes, positions));
    Result r = pool_deal(&deal);
    if (failed(r)) pool_abandon(d->sink.writer);
    else r = pool_finish(d->sink.writer, d->o->identity);
    d->sink.writer = NULL;
    GUARD(r);
    double seconds = clock_seconds() - begin, mb = (double)d->sink.bytes / 1e6;
    progress(d->o->progress, "pool: %" PRIu64 " positions, %.1f MB in %.2f s, %.0f MB/s", positions, mb, seconds, mb / seconds);
    return OK;
}

static Result deal_pool(Deal *d, Buffer *header)
{
    const uint64_t positions = d->provider->hello.positions;
    if (positions == 0 || positions > d->plan.context - d->plan.known)
        return fail(FAIL_PEER, "a pool of %" PRIu64 " positions does not fit the plan's context of %u", positions, d->plan.context);
    uint64_t *sizes = arena_new(&d->arena, uint64_t, positions);
    GUARD(pool_sizes(sizes, &d->plan, &d->config, positions));
    deal_about(d, header, sizes);
    GUARD(pool_header_send(d->client->channel, header));
    GUARD(pool_header_send(d->provider->channel, header));
    GUARD(message_expect(d->client->channel, MSG_RESERVED, "client"));
    GUARD(message_expect(d->provider->channel, MSG_RESERVED, "provider"));
    GUARD(pool_fill(d, header, sizes));
    GUARD(message_send(d->client->channel, MSG_MADE));
    return message_send(d->provider->channel, MSG_MADE);
}

static Result deal_run(const ThirdOptions *o, Half *client, Half *provider)
{
    Deal d = {.o = o, .client = client, .provider = provider};
    Buffer frame = {0};
    arena_init(&d.arena, true);
    trace_begin(o->trace);
    trace_watch(o->trace, provider->channel, PARTY_PROVIDER);
    Result r = deal_open(&d);
    if (!failed(r)) r = provider->hello.pool ? deal_pool(&d, &frame) : deal_live(&d, &frame);
    r = party_abort(r, false, client->channel, provider->channel);     // what T computes on says nothing
    engine_free(d.engine);
    segments_free(&d.c);
    segments_free(&d.s);
    live_feed_free(&d.words);
    buffer_free(&frame);
    plan_free(&d.plan);
    arena_free(&d.arena);
    return r;
}

// ---- pairing ---------------------------------------------------------------------------------------------------------

static bool key_among(const uint8_t key[32], const uint8_t (*keys)[32], size_t count)
{
    for (size_t i = 0; i < count; i++) if (memcmp(key, keys[i], 32) == 0) return true;
    return false;
}

static void half_end(Half *h)
{
    channel_close(h->channel);
    wipe(h, sizeof *h);
}

static void waiting_drop(Third *t, size_t i)
{
    t->waiting[i] = t->waiting[--t->waiting_count];
    wipe(&t->waiting[t->waiting_count], sizeof *t->waiting);           // its hello holds a seed
    wipe(&t->waiting[t->waiting_count], sizeof(Half));
}

static void waiting_expire(Third *t)
{
    for (size_t i = 0; i < t->waiting_count;) {
        Half *h = &t->waiting[i];
        if (clock_seconds() < h->until) {
            i++;
            continue;
        }
        channel_abort(h->channel, h->hello.role == ROLE_CLIENT ? "no provider came for this session" : "no client came for this session");
        channel_close(h->channel);
        waiting_drop(t, i);
    }
}

static int waiting_milliseconds(const Third *t)                        // until the first expires; -1: nobody waits
{
    double least = -1;
    for (size_t i = 0; i < t->waiting_count; i++) {
        double left = t->waiting[i].until - clock_seconds();
        if (left < 0) left = 0;
        if (least < 0 || left < least) least = left;
    }
    return least < 0 ? -1 : (int)(least * 1000) + 1;
}

static Result half_check(const Third *t, Half *h)
{
    const ThirdOptions *o = t->o;
    const char *role = h->hello.role == ROLE_CLIENT ? "client" : "provider";
    bool known = h->hello.role == ROLE_CLIENT ? key_among(h->key, o->clients, o->client_count)
                                              : key_among(h->key, o->providers, o->provider_count);
    channel_name(h->channel, role);
    if (!known) return fail(FAIL_PEER, "this key is not one of a %s", role);
    if (h->hello.pool && !o->pool) return fail(FAIL_PEER, "this third serves live sessions, and writes no pool");
    if (!h->hello.pool && o->pool) return fail(FAIL_PEER, "this third writes a pool, and serves no live sessions");
    for (size_t i = 0; i < t->waiting_count; i++) {
        const ThirdHello *other = &t->waiting[i].hello;
        if (other->role == h->hello.role && memcmp(other->session, h->hello.session, SESSION_BYTES) == 0)
            return fail(FAIL_PEER, "another %s waits in this session", role);
    }
    return OK;
}

static Result pair_check(const Half *client, const Half *provider)
{
    if (memcmp(client->hello.partner, provider->key, 32) != 0)
        return fail(FAIL_PEER, "the provider's key differs: the client named another one");
    if (memcmp(provider->hello.partner, client->key, 32) != 0)
        return fail(FAIL_PEER, "the client's key differs: the provider named another one");
    if (client->hello.positions != provider->hello.positions)
        return fail(FAIL_PEER, "the length of the pool differs: %" PRIu64 " positions for the client, %" PRIu64 " for the provider",
                    client->hello.positions, provider->hello.positions);
    return agreement_check(&provider->hello.agreement, &client->hello.agreement, "client");
}

static Result half_wait(Third *t, Half *h)
{
    if (h->hello.role == ROLE_SERVER && !h->hello.pool) return fail(FAIL_PEER, "no client has named this session");
    if (t->waiting_count == WAITING_MOST) return fail(FAIL_PEER, "%d parties wait for their partners already", WAITING_MOST);
    h->until = clock_seconds() + (h->hello.pool ? POOL_SECONDS : PAIR_SECONDS);
    if (h->hello.role == ROLE_CLIENT) GUARD(message_send(h->channel, MSG_WAITING));
    t->waiting[t->waiting_count++] = *h;
    return OK;
}

/* A connection: its hello, and the session if its partner is there. *ran tells; the result is then that of the session. */
static Result third_meet(Third *t, Half *h, bool *ran)
{
    Half partner;
    channel_timeout(h->channel, HELLO_SECONDS);
    Result r = third_hello_receive(h->channel, &h->hello);
    if (!failed(r)) r = half_check(t, h);
    for (size_t i = 0; i < t->waiting_count && !failed(r); i++) {
        if (memcmp(t->waiting[i].hello.session, h->hello.session, SESSION_BYTES) != 0) continue;
        partner = t->waiting[i];
        waiting_drop(t, i);
        *ran = true;
        Half *client = h->hello.role == ROLE_CLIENT ? h : &partner, *provider = client == h ? &partner : h;
        if (client == h) r = message_send(h->channel, MSG_WAITING);
        if (!failed(r)) r = pair_check(client, provider);
        r = failed(r) ? party_abort(r, false, h->channel, partner.channel) : deal_run(t->o, client, provider);
        half_end(h);
        half_end(&partner);
        return r;
    }
    if (!failed(r)) r = half_wait(t, h);
    if (failed(r)) {
        r = party_abort(r, false, h->channel, NULL);
        channel_close(h->channel);
    }
    wipe(h, sizeof *h);
    return r;
}

static Result third_loop(Third *t)
{
    const ThirdOptions *o = t->o;
    for (uint32_t done = 0;;) {
        Half h = {0};
        size_t which;
        bool ran = false;
        struct pollfd knock = {listener_fd(t->listener), POLLIN, 0};
        waiting_expire(t);
        if (poll(&knock, 1, waiting_milliseconds(t)) <= 0) continue;
        Result r = channel_accept(&h.channel, &which, t->listener, o->identity, (const uint8_t (*)[32])t->allowed, t->allowed_count, 1);
        if (r.kind == FAIL_SYSTEM) return r;
        if (!failed(r)) {
            memcpy(h.key, t->allowed[which], 32);
            if (!o->pool) channel_shape(h.channel, &o->net);
            r = third_meet(t, &h, &ran);
        }
        if (failed(r)) progress(o->progress, "%s: %s", ran ? "session failed" : "refused", result_text());
        else if (ran) progress(o->progress, "session over");
        done += ran;
        if (ran && (o->pool || done == o->sessions)) return r;
    }
}

Result third_serve(const ThirdOptions *o)
{
    Third t = {.o = o, .allowed_count = o->client_count + o->provider_count};
    if (o->pool && file_exists(o->pool)) return fail(FAIL_SYSTEM, "%s: exists already, and is not overwritten", o->pool);
    arena_init(&t.arena, false);
    t.allowed = arena_alloc(&t.arena, t.allowed_count, 32);
    if (o->client_count) memcpy(t.allowed, o->clients, o->client_count * 32);
    if (o->provider_count) memcpy(t.allowed + o->client_count, o->providers, o->provider_count * 32);
    Result r = listener_open(&t.listener, o->host, o->port);
    if (!failed(r)) {
        if (o->announce) o->announce(o->announce_ctx, listener_port(t.listener));
        r = third_loop(&t);
    }
    for (size_t i = 0; i < t.waiting_count; i++) {
        channel_abort(t.waiting[i].channel, "the third has ended");
        half_end(&t.waiting[i]);
    }
    listener_close(t.listener);
    arena_free(&t.arena);
    wipe(&t, sizeof t);
    return r;
}
