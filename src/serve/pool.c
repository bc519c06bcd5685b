/* pool.c - the client's and the provider's parts of the making of a pool. Each leaves a tape that names the pool by the hash
 * of its header, and no tape if the pool was not finished. */
#include "serve/party.h"

#include <stdio.h>
#include <string.h>

typedef struct Making {
    const Bundle *b;
    const Identity *me;
    const Address *third;
    const char *tape;
    Role role;
    ThirdHello hello;
    Channel *channel;
    Buffer header;
} Making;

/* The third's header must say what this party said. */
static Result header_check(const Making *m)
{
    PoolAbout a;
    const ThirdHello *h = &m->hello;
    bool client = m->role == ROLE_CLIENT;
    GUARD(pool_about(&a, m->header.data, m->header.len));
    if (memcmp(client ? a.client : a.provider, m->me->public_key, 32) != 0 || memcmp(client ? a.provider : a.client, h->partner, 32) != 0 ||
        memcmp(a.third, m->third->key, 32) != 0)
        return fail(FAIL_PEER, "the third's pool is for other parties");
    if (memcmp(a.name, h->session, sizeof a.name) != 0) return fail(FAIL_PEER, "the third's pool has another name");
    if (a.positions != h->positions) return fail(FAIL_PEER, "the third's pool has another length");
    if (memcmp(a.config, h->agreement.config, HASH_BYTES) != 0 || memcmp(a.plan, h->agreement.plan, HASH_BYTES) != 0 ||
        memcmp(a.public_model, h->agreement.public_model, HASH_BYTES) != 0 ||
        (!client && (memcmp(a.commitment, h->commitment, HASH_BYTES) != 0 || a.epoch != h->epoch)))
        return fail(FAIL_PEER, "the third's pool is for another model");
    return OK;
}

/* The provider's pinned matrices, made by an engine that runs nothing. */
static Result provider_setup(const Making *m, const uint8_t pad_seed[KEY_BYTES])
{
    const Bundle *b = m->b;
    Arena a;
    SecureNet *net = NULL;
    Engine *e = engine_new(ROLE_SERVER, NULL, NULL);
    arena_init(&a, true);
    engine_shared_seed(e, pad_seed);
    engine_pad_seed(e, pad_seed);
    Result r = secure_new(&net, e, &a, &b->model.config, &b->plan, &b->model, bundle_adapter(b));
    if (!failed(r)) r = shape_send(m->channel, &b->plan, &b->model.config);
    if (!failed(r)) r = pins_send(m->channel, net);
    engine_free(e);
    arena_free(&a);
    return r;
}

/* The pool does not exist: its seed, which the third may still have, is not left on the disk either. */
static Result pool_forget(const Making *m, Result r)
{
    char why[512], left[512];
    snprintf(why, sizeof why, "%s", result_text());
    if (!failed(tape_discard(m->tape))) return fail(r.kind, "%s", why);
    snprintf(left, sizeof left, "%s", result_text());
    return fail(r.kind, "%s; and the tape must be removed by hand: %s", why, left);
}

static Result pool_wait(Making *m)
{
    GUARD(pool_header_receive(m->channel, &m->header));
    GUARD(header_check(m));
    GUARD(tape_create(m->tape, m->header.data, m->header.len, m->role == ROLE_CLIENT ? "client" : "provider", m->hello.tape_seed,
                      m->hello.positions));
    wipe(m->hello.tape_seed, KEY_BYTES);
    channel_timeout(m->channel, WORK_SECONDS);
    Result r = message_send(m->channel, MSG_RESERVED);
    for (uint64_t i = 0; i < m->hello.positions && !failed(r); i++) r = message_expect(m->channel, MSG_MADE, "third");
    return failed(r) ? pool_forget(m, r) : OK;
}

/* Up to the setup, after which the seed of the pads is not needed. */
static Result making_meet(Making *m, uint8_t pad_seed[KEY_BYTES])
{
    const Address *third = m->third;
    if (m->hello.positions == 0 || m->hello.positions > bundle_room(m->b))
        return fail(FAIL_USE, "a pool of %llu positions does not fit the plan's context of %u", (unsigned long long)m->hello.positions,
                    m->b->plan.context);
    if (file_exists(m->tape)) return fail(FAIL_SYSTEM, "%s: exists already, and is not overwritten", m->tape);
    GUARD(agreement_make(&m->hello.agreement, m->b));
    if (m->role == ROLE_SERVER) GUARD(provider_secrets(m->hello.commitment, pad_seed, m->b, m->me, m->hello.epoch));
    random_bytes(m->hello.tape_seed, KEY_BYTES);
    GUARD(fail_in(channel_connect(&m->channel, third->host, third->port, m->me, third->key, CONNECT_SECONDS), "third"));
    channel_name(m->channel, "third");
    channel_timeout(m->channel, POOL_SECONDS);
    GUARD(third_hello_send(m->channel, &m->hello));
    GUARD(message_expect(m->channel, m->role == ROLE_CLIENT ? MSG_WAITING : MSG_GO, "third"));
    return m->role == ROLE_SERVER ? provider_setup(m, pad_seed) : OK;
}

static Result making_run(Making *m)
{
    uint8_t pad_seed[KEY_BYTES];
    Result r = making_meet(m, pad_seed);
    wipe(pad_seed, sizeof pad_seed);
    GUARD(r);
    return pool_wait(m);
}

static Result pool_make(Making *m, const uint8_t partner[32], const uint8_t name[16], uint32_t positions, uint64_t epoch)
{
    m->hello = (ThirdHello){.role = m->role, .pool = true, .positions = positions, .epoch = epoch};
    memcpy(m->hello.partner, partner, 32);
    memcpy(m->hello.session, name, SESSION_BYTES);
    Result r = making_run(m);
    r = party_abort(r, m->role == ROLE_SERVER && !failure_is_public(r), m->channel, NULL);
    channel_close(m->channel);
    buffer_free(&m->header);
    wipe(m, sizeof *m);
    return r;
}

Result provider_pool(const Bundle *b, const Identity *me, const Address *third, const uint8_t client[32], const uint8_t name[16],
                     uint32_t positions, uint64_t epoch, const char *tape)
{
    Making m = {.b = b, .me = me, .third = third, .tape = tape, .role = ROLE_SERVER};
    return pool_make(&m, client, name, positions, epoch);
}

Result client_pool(const Bundle *b, const Identity *me, const Address *third, const uint8_t provider[32], const uint8_t name[16],
                   uint32_t positions, const char *tape)
{
    Making m = {.b = b, .me = me, .third = third, .tape = tape, .role = ROLE_CLIENT};
    return pool_make(&m, provider, name, positions, 0);
}
