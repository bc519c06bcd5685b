/* client.c - the client: opens a session with a provider, and holds conversations in it.
 *
 * What a peer is told when the client fails never depends on tokens: see client_fail. */
#include "serve/party.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct Client {
    const Bundle *b;
    Setting setting;
    Channel *provider, *third;                 // third: 3pc
    Engine *engine;
    SecureNet *net;
    Model lower;                               // the public base as far as the client runs it: caches of no other layers
    PlainState *plain;                         // the frozen layers, in float
    float *x;                                  // (context, width)
    Arena arena;
    Segments segments;
    uint8_t commitment[HASH_BYTES];
    Trace *trace;
    bool open;                                 // a conversation is under way
    uint32_t steps_left;
    Receipt receipt;
    Failure dead;                              // what ended the session
    char why[1024];
};

/* Ends the session: every later call fails as this one did. */
static Result client_fail(Client *c, Result r, bool computing)
{
    if (!failed(r) || c->dead != FAIL_NONE) return r;
    r = party_abort(r, computing && !failure_is_public(r), c->provider, c->third);
    c->dead = r.kind;
    snprintf(c->why, sizeof c->why, "%s", result_text());
    segments_end(&c->segments);
    return r;
}

static Result client_alive(const Client *c)
{
    return c->dead == FAIL_NONE ? OK : fail(c->dead, "%s", c->why);
}

// ---- opening ---------------------------------------------------------------------------------------------------------

static Result tape_ready(Client *c, const ClientOptions *o, ClientHello *h)
{
    c->segments.keys.secret = true;
    if (!o->tape) return fail(FAIL_USE, "setting 'dealer' needs the client's tape of a pool");
    GUARD(tape_open(&c->segments.tape, o->tape));
    if (strcmp(tape_role(c->segments.tape), "client") != 0)
        return fail(FAIL_DATA, "%s: is the tape of the %s, not the client's", o->tape, tape_role(c->segments.tape));
    memcpy(h->tape, tape_id(c->segments.tape), sizeof h->tape);
    h->tape_mark = tape_mark(c->segments.tape);
    h->tape_segments = tape_segments(c->segments.tape);
    if (h->tape_mark > 0) return fail(FAIL_CRYPTO, "%s: is used: a pool serves one conversation, and this one's has begun before", o->tape);
    return OK;
}

/* The pool that the provider shows must be the one that this tape was made with, by these three and for this model. */
static Result pool_check(const ClientHello *mine, const ProviderHello *theirs, const ClientOptions *o)
{
    uint8_t hash[HASH_BYTES];
    PoolAbout a;
    if (theirs->header_len == 0) return fail(FAIL_PEER, "the provider has no pool");
    hash_bytes(hash, theirs->header, theirs->header_len);
    if (memcmp(hash, mine->tape, sizeof hash) != 0)
        return fail(FAIL_PEER, "the pool differs: the provider's is not the one of this tape");
    GUARD(pool_about(&a, theirs->header, theirs->header_len));
    if (memcmp(a.client, o->identity->public_key, 32) != 0) return fail(FAIL_PEER, "the pool was made for another client");
    if (memcmp(a.provider, o->provider.key, 32) != 0) return fail(FAIL_PEER, "the pool was made for another provider");
    if (memcmp(a.commitment, theirs->commitment, HASH_BYTES) != 0)
        return fail(FAIL_PEER, "the private part differs: the pool was made for another one");
    if (theirs->tape_mark > 0) return fail(FAIL_PEER, "the pool is used: the provider's tape of it has begun before");
    return OK;
}

static Result client_greet(Client *c, const ClientOptions *o, ClientHello *mine, ProviderHello *theirs)
{
    mine->setting = o->setting;
    random_bytes(mine->session, sizeof mine->session);
    random_bytes(mine->random, sizeof mine->random);
    GUARD(client_hello_send(c->provider, mine));
    GUARD(provider_hello_receive(c->provider, theirs));
    if (memcmp(mine->session, theirs->session, SESSION_BYTES) != 0)
        return fail(FAIL_PEER, "the session differs: the provider answered another one");
    GUARD(agreement_check(&mine->agreement, &theirs->agreement, "provider"));
    memcpy(c->commitment, theirs->commitment, HASH_BYTES);
    return o->setting == SETTING_DEALER ? pool_check(mine, theirs, o) : OK;
}

static Result third_greet(Client *c, const ClientOptions *o, const ClientHello *mine)
{
    ThirdHello h = {.role = ROLE_CLIENT, .agreement = mine->agreement};
    memcpy(h.session, mine->session, SESSION_BYTES);
    memcpy(h.partner, o->provider.key, 32);
    random_bytes(h.tape_seed, sizeof h.tape_seed);
    Result r = fail_in(channel_connect(&c->third, o->third.host, o->third.port, o->identity, o->third.key, CONNECT_SECONDS), "third");
    if (!failed(r)) {
        channel_name(c->third, "third");
        channel_shape(c->third, &o->net);
        channel_timeout(c->third, HELLO_SECONDS);
        segments_live(&c->segments, h.tape_seed);
        r = third_hello_send(c->third, &h);
    }
    wipe(h.tape_seed, sizeof h.tape_seed);
    GUARD(r);
    return message_expect(c->third, MSG_WAITING, "third");
}

static Result nets_new(Client *c, const ClientHello *mine, const ProviderHello *theirs)
{
    const Bundle *b = c->b;
    uint8_t seed[KEY_BYTES];
    c->engine = engine_new(ROLE_CLIENT, c->provider, NULL);
    session_seed(seed, mine->random, theirs->random, mine->session);
    engine_shared_seed(c->engine, seed);
    engine_pad_seed(c->engine, theirs->pad_seed);
    wipe(seed, sizeof seed);
    GUARD(secure_new(&c->net, c->engine, &c->arena, &b->model.config, &b->plan, &b->model, NULL));
    c->lower = b->model;
    c->lower.config.layers = b->plan.frozen;
    c->plain = plain_new(&c->lower, NULL, b->plan.context, &c->arena);
    c->x = arena_new(&c->arena, float, (size_t)b->plan.context * b->model.config.width);
    if (b->plan.known && !b->known_given) {
        GUARD(plain_embed(c->plain, c->x, bundle_known(b), b->plan.known));
        plain_layers(c->plain, c->x, b->plan.known, 0, b->plan.frozen);
    }
    plain_advance(c->plain, b->plan.known);
    return OK;
}

static void setup_count(Client *c, const Report *r)
{
    LinkBytes *bytes = &c->receipt.setup.bytes;
    ChannelCount n = channel_count(c->provider);
    bytes->client_to_server = n.sent;
    bytes->server_to_client = n.received;
    if (c->third) {
        n = channel_count(c->third);
        bytes->client_to_third = n.sent;
        bytes->third_to_client = n.received;
    }
    bytes->server_to_third = r->first;
    bytes->third_to_server = r->second;
}

static Result session_open(Client *c, const ClientOptions *o, ClientHello *mine, ProviderHello *theirs)
{
    Report ready;
    GUARD(agreement_make(&mine->agreement, c->b));
    if (o->setting == SETTING_DEALER) GUARD(tape_ready(c, o, mine));
    const Address *p = &o->provider;
    GUARD(fail_in(channel_connect(&c->provider, p->host, p->port, o->identity, p->key, CONNECT_SECONDS), "provider"));
    channel_name(c->provider, "provider");
    channel_shape(c->provider, &o->net);
    trace_watch(o->trace, c->provider, PARTY_PROVIDER);
    channel_timeout(c->provider, HELLO_SECONDS);
    GUARD(client_greet(c, o, mine, theirs));
    if (o->setting == SETTING_3PC) GUARD(third_greet(c, o, mine));
    GUARD(message_send(c->provider, MSG_GO));
    GUARD(nets_new(c, mine, theirs));
    channel_timeout(c->provider, WORK_SECONDS);
    channel_buffers(c->provider, PEER_SEND, PEER_AHEAD);
    GUARD(report_receive(c->provider, MSG_READY, &ready, "provider"));
    setup_count(c, &ready);
    return OK;
}

Result client_open(Client **out, const Bundle *b, const ClientOptions *o)
{
    *out = NULL;
    if (o->setting != SETTING_DEALER && o->setting != SETTING_3PC)
        return fail(FAIL_USE, "setting '%s' has no provider: 'dealer' and '3pc' have", setting_names[o->setting]);
    double begin = clock_seconds();
    Client *c = calloc(1, sizeof *c);
    if (!c) bug("out of memory");
    ClientHello mine = {0};
    ProviderHello theirs = {0};
    c->b = b;
    c->setting = o->setting;
    c->trace = o->trace;
    trace_begin(c->trace);
    trace_phase(c->trace, PHASE_SETUP, true);
    arena_init(&c->arena, true);
    Result r = client_fail(c, session_open(c, o, &mine, &theirs), false);
    wipe(&mine, sizeof mine);
    wipe(&theirs, sizeof theirs);
    c->receipt.setup.seconds = clock_seconds() - begin;
    trace_phase(c->trace, PHASE_SETUP, false);
    c->receipt.positions_planned = b->plan.context;
    if (!failed(r)) *out = c;
    else client_close(c);
    return r;
}

// ---- a conversation --------------------------------------------------------------------------------------------------

/* Counts what happens between a call of phase_begin and one of phase_end. */
typedef struct PhaseMark { double seconds; Cost cost; } PhaseMark;

static PhaseMark phase_begin(const Client *c, Phase phase)
{
    trace_phase(c->trace, phase, true);
    return (PhaseMark){clock_seconds(), engine_cost(c->engine)};
}

static void phase_end(const Client *c, Phase phase, PhaseCost *p, PhaseMark from)
{
    Cost now = engine_cost(c->engine);
    p->seconds += clock_seconds() - from.seconds;
    p->exchanges += now.exchanges - from.cost.exchanges;
    p->bytes.client_to_server += now.bytes.client_to_server - from.cost.bytes.client_to_server;
    p->bytes.server_to_client += now.bytes.server_to_client - from.cost.bytes.server_to_client;
    if (c->setting == SETTING_3PC) p->bytes.third_to_server += now.bytes.third_to_server - from.cost.bytes.third_to_server;
    trace_phase(c->trace, phase, false);
}

static Result client_lower(Client *c, const int32_t *tokens, size_t rows)
{
    GUARD(plain_embed(c->plain, c->x, tokens, rows));
    plain_layers(c->plain, c->x, rows, 0, c->b->plan.frozen);
    plain_advance(c->plain, rows);
    return OK;
}

/* Steps whose work is done ahead together: each pinned matrix is then read once for all of them. */
enum { STEPS_AHEAD = 8 };

static Result client_ahead(Client *c, size_t rows)
{
    return rows ? secure_ahead(c->net, rows, c->segments.next, segments_coming(&c->segments)) : OK;
}

static Result client_batch(Client *c, size_t rows, float *logits, bool last_only)
{
    uint64_t first = c->segments.next;
    engine_begin(c->engine, rows, first, segments_take(&c->segments, rows), NULL);
    return secure_forward(c->net, rows, c->x, NULL, logits, last_only);
}

/* Announces the conversation. In dealer no masked word leaves before both tapes have moved on, durably. */
static Result client_reserve(Client *c, const Begin *b)
{
    GUARD(begin_send(c->provider, b));
    if (c->setting != SETTING_DEALER) return segments_reserve(&c->segments, (uint64_t)b->rows + b->more, false);
    GUARD(message_expect(c->provider, MSG_RESERVED, "provider"));
    GUARD(segments_reserve(&c->segments, (uint64_t)b->rows + b->more, true));
    return message_send(c->provider, MSG_RESERVED);
}

static Result client_begin(Client *c, const int32_t *tokens, size_t count, uint32_t more, bool every, float *logits)
{
    uint32_t room = bundle_room(c->b);
    GUARD(client_alive(c));
    if (c->open) GUARD(client_finish(c));
    if (count == 0) return fail(FAIL_USE, "an empty prompt");
    if (count > room || more > room - count)
        return fail(FAIL_USE, "%zu tokens and %u more do not fit the plan's context of %u positions", count, more, c->b->plan.context);
    GUARD(segments_check(&c->segments, count + more));
    GUARD(secure_room_conversation(c->net, count, !every, more));
    const Receipt setup = c->receipt;
    c->receipt = (Receipt){.setup = setup.setup, .positions_planned = setup.positions_planned, .prompt_tokens = (uint32_t)count};
    secure_restart(c->net);
    plain_truncate(c->plain, c->b->plan.known);
    PhaseMark from = phase_begin(c, PHASE_PREFILL);
    GUARD(client_lower(c, tokens, count));
    GUARD(client_fail(c, client_reserve(c, &(Begin){(uint32_t)count, more, every}), false));
    c->open = true;
    c->steps_left = more;
    if (c->setting == SETTING_3PC) GUARD(client_fail(c, client_ahead(c, count), true));      // while the third begins to deal
    GUARD(client_fail(c, client_batch(c, count, logits, !every), true));
    phase_end(c, PHASE_PREFILL, &c->receipt.prefill, from);
    return OK;
}

Result client_prompt(Client *c, const int32_t *prompt, size_t count, uint32_t more, float *logits)
{
    return client_begin(c, prompt, count, more, false, logits);
}

Result client_score(Client *c, const int32_t *tokens, size_t count, float *logits)
{
    return client_begin(c, tokens, count, 0, true, logits);
}

Result client_step(Client *c, int32_t token, float *logits)
{
    GUARD(client_alive(c));
    if (!c->open) return fail(FAIL_USE, "a step before any prompt");
    if (c->steps_left == 0) return fail(FAIL_USE, "the positions reserved for this conversation are used up");
    PhaseMark from = phase_begin(c, PHASE_DECODE);
    GUARD(client_lower(c, &token, 1));
    GUARD(client_fail(c, message_send(c->provider, MSG_STEP), false));
    if (engine_ahead_left(c->engine) == 0)
        GUARD(client_fail(c, client_ahead(c, c->steps_left < STEPS_AHEAD ? c->steps_left : STEPS_AHEAD), true));
    GUARD(client_fail(c, client_batch(c, 1, logits, true), true));
    phase_end(c, PHASE_DECODE, &c->receipt.decode, from);
    c->steps_left--;
    c->receipt.tokens++;
    return OK;
}

static Result conversation_end(Client *c, Report *r)
{
    GUARD(message_send(c->provider, MSG_END));
    return report_receive(c->provider, MSG_REPORT, r, "provider");
}

Result client_finish(Client *c)
{
    Report r;
    GUARD(client_alive(c));
    if (!c->open) return OK;
    GUARD(client_fail(c, conversation_end(c, &r), false));
    segments_end(&c->segments);
    c->open = false;
    if (c->setting == SETTING_DEALER) {        // read from the pool, which was written ahead of the session
        c->receipt.setup.bytes.third_to_server = r.first + r.second;
        return OK;
    }
    c->receipt.prefill.bytes.third_to_server = r.first;
    c->receipt.decode.bytes.third_to_server = r.second;
    return OK;
}

void client_receipt(const Client *c, Receipt *out)
{
    *out = c->receipt;
}

void client_abort(Client *c, const char *reason)
{
    Result r = client_fail(c, fail(FAIL_PEER, "%s", reason), false);
    (void)r;
}

void client_close(Client *c)
{
    if (!c) return;
    if (c->dead == FAIL_NONE && !failed(client_finish(c))) (void)failed(message_send(c->provider, MSG_BYE));
    channel_close(c->provider);
    channel_close(c->third);
    engine_free(c->engine);
    segments_free(&c->segments);
    arena_free(&c->arena);
    wipe(c, sizeof *c);
    free(c);
}
