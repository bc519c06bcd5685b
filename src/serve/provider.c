/* provider.c - the provider: listens for clients, and serves one after the other.
 *
 * A session that fails is over for all three: the others are told why in one line, and the next client is served. */
#include "serve/party.h"

#include <string.h>

enum { AHEAD = 4 };                            // single rows that the third is asked for before they are needed

typedef struct Provider {
    const Bundle *b;
    const ProviderOptions *o;
    Agreement agreement;
    uint8_t commitment[HASH_BYTES], pad_seed[KEY_BYTES];
    KnownPrefix known;                         // of every conversation
    Engine *engine;                            // one for all sessions, one after the other,
    SecureNet *net;                            // and the network with its weights, pads and tables
    Arena arena;
    Pool *pool;                                // dealer
    const uint8_t *header;
    size_t header_len;
    PoolAbout about;
    Segments tape;                             // dealer: one tape for all sessions
    Listener *listener;
} Provider;

typedef struct Session {
    Provider *p;
    size_t who;                                // index of the client's key
    Channel *client, *third;
    Segments *segments, live;
    LiveFeed words;                            // 3pc
    PoolFeed segment;                          // dealer
    bool computing;                            // a failure now may speak of private weights
    uint32_t more, asked, steps;               // of the conversation: steps planned, asked of the third, made
} Session;

static bool is_live(const Session *s) { return s->p->o->setting == SETTING_3PC; }

// ---- before the first client -----------------------------------------------------------------------------------------

/* The header that both agreed on against the segments that the third signed with it. */
static Result pool_adds_up(const Provider *p)
{
    const PoolAbout *a = &p->about;
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < pool_segments(p->pool); i++) bytes += pool_size(p->pool, i);
    if (a->positions == pool_segments(p->pool) && a->bytes == bytes) return OK;
    return fail(FAIL_DATA, "%s: its header says %llu positions of %llu bytes, it has %llu of %llu", p->o->pool,
                (unsigned long long)a->positions, (unsigned long long)a->bytes, (unsigned long long)pool_segments(p->pool), (unsigned long long)bytes);
}

static Result pool_ready(Provider *p)
{
    const ProviderOptions *o = p->o;
    uint8_t hash[HASH_BYTES];
    Agreement of;
    if (!o->pool || !o->tape) return fail(FAIL_USE, "setting 'dealer' needs a pool and the provider's tape of it");
    p->tape.keys.secret = true;
    GUARD(pool_open(&p->pool, o->pool, o->third.key));
    pool_header(p->pool, &p->header, &p->header_len);
    GUARD(fail_in(pool_about(&p->about, p->header, p->header_len), "%s", o->pool));
    if (p->header_len > HEADER_LIMIT) return fail(FAIL_DATA, "%s: a header of %zu bytes", o->pool, p->header_len);
    memcpy(of.config, p->about.config, HASH_BYTES);
    memcpy(of.plan, p->about.plan, HASH_BYTES);
    memcpy(of.public_model, p->about.public_model, HASH_BYTES);
    GUARD(fail_in(agreement_check(&p->agreement, &of, "pool"), "%s", o->pool));
    if (memcmp(p->about.provider, o->identity->public_key, 32) != 0) return fail(FAIL_DATA, "%s: was made for another provider", o->pool);
    if (p->about.epoch != o->epoch)
        return fail(FAIL_DATA, "%s: was made for epoch %llu, this is %llu", o->pool, (unsigned long long)p->about.epoch,
                    (unsigned long long)o->epoch);
    if (memcmp(p->about.commitment, p->commitment, HASH_BYTES) != 0) return fail(FAIL_DATA, "%s: was made for another adapter", o->pool);
    if (memcmp(p->about.third, o->third.key, 32) != 0) return fail(FAIL_DATA, "%s: names another third party than its signer", o->pool);
    GUARD(pool_adds_up(p));
    GUARD(tape_open(&p->tape.tape, o->tape));
    if (strcmp(tape_role(p->tape.tape), "provider") != 0)
        return fail(FAIL_DATA, "%s: is the tape of the %s, not the provider's", o->tape, tape_role(p->tape.tape));
    hash_bytes(hash, p->header, p->header_len);
    if (memcmp(tape_id(p->tape.tape), hash, sizeof hash) != 0) return fail(FAIL_DATA, "%s: is not the tape of %s", o->tape, o->pool);
    if (tape_segments(p->tape.tape) != pool_segments(p->pool)) return fail(FAIL_DATA, "%s: its length is not that of %s", o->tape, o->pool);
    if (tape_mark(p->tape.tape) > 0)
        return fail(FAIL_CRYPTO, "%s: is used: a pool serves one conversation, which has begun before", o->pool);
    return OK;
}

static Result provider_ready(Provider *p)
{
    const ProviderOptions *o = p->o;
    if (o->setting != SETTING_DEALER && o->setting != SETTING_3PC)
        return fail(FAIL_USE, "setting '%s' has no provider: 'dealer' and '3pc' have", setting_names[o->setting]);
    GUARD(agreement_make(&p->agreement, p->b));
    GUARD(provider_secrets(p->commitment, p->pad_seed, p->b, o->identity, o->epoch));
    GUARD(known_prefix(&p->known, p->b, &p->arena));
    p->engine = engine_new(ROLE_SERVER, NULL, NULL);
    engine_pad_seed(p->engine, p->pad_seed);
    engine_shared_seed(p->engine, p->pad_seed);                        // until a session brings its own
    GUARD(secure_new(&p->net, p->engine, &p->arena, &p->b->model.config, &p->b->plan, &p->b->model, bundle_adapter(p->b)));
    if (o->setting == SETTING_DEALER) GUARD(pool_ready(p));
    GUARD(listener_open(&p->listener, o->host, o->port));
    if (o->announce) o->announce(o->announce_ctx, listener_port(p->listener));
    return OK;
}

// ---- opening a session -----------------------------------------------------------------------------------------------

static Result pool_accept(const Session *s, const ClientHello *h)
{
    const Provider *p = s->p;
    if (tape_mark(p->tape.tape) > 0) return fail(FAIL_CRYPTO, "the pool is used: it serves one conversation, which has begun before");
    if (memcmp(p->o->clients[s->who], p->about.client, 32) != 0) return fail(FAIL_PEER, "the pool was made for another client");
    if (memcmp(h->tape, tape_id(p->tape.tape), sizeof h->tape) != 0)
        return fail(FAIL_PEER, "the pool differs: the client's tape is not of this one");
    if (h->tape_mark > 0) return fail(FAIL_CRYPTO, "the pool is used: the client's tape of it has begun before");
    if (h->tape_segments != pool_segments(p->pool)) return fail(FAIL_PEER, "the pool differs: the client's tape has another length");
    return OK;
}

static Result client_meet(Session *s, ClientHello *theirs, ProviderHello *mine)
{
    const Provider *p = s->p;
    channel_timeout(s->client, HELLO_SECONDS);
    GUARD(client_hello_receive(s->client, theirs));
    if (theirs->setting != p->o->setting)
        return fail(FAIL_PEER, "the setting differs: '%s' here, '%s' at the client", setting_names[p->o->setting],
                    setting_names[theirs->setting]);
    GUARD(agreement_check(&p->agreement, &theirs->agreement, "client"));
    if (!is_live(s)) GUARD(pool_accept(s, theirs));
    *mine = (ProviderHello){.agreement = p->agreement, .header_len = p->header_len};
    if (!is_live(s)) mine->tape_mark = tape_mark(p->tape.tape);
    memcpy(mine->session, theirs->session, SESSION_BYTES);
    random_bytes(mine->random, sizeof mine->random);
    memcpy(mine->commitment, p->commitment, HASH_BYTES);
    memcpy(mine->pad_seed, p->pad_seed, KEY_BYTES);
    if (p->header_len) memcpy(mine->header, p->header, p->header_len);
    GUARD(provider_hello_send(s->client, mine));
    channel_timeout(s->client, 3 * HELLO_SECONDS);                     // the client greets the third meanwhile
    return message_expect(s->client, MSG_GO, "client");
}

static Result third_meet(Session *s, const ClientHello *client)
{
    const Provider *p = s->p;
    const ProviderOptions *o = p->o;
    ThirdHello h = {.role = ROLE_SERVER, .agreement = p->agreement};
    memcpy(h.session, client->session, SESSION_BYTES);
    memcpy(h.partner, o->clients[s->who], 32);
    memcpy(h.commitment, p->commitment, HASH_BYTES);
    random_bytes(h.tape_seed, sizeof h.tape_seed);
    Result r = fail_in(channel_connect(&s->third, o->third.host, o->third.port, o->identity, o->third.key, CONNECT_SECONDS), "third");
    if (!failed(r)) {
        channel_name(s->third, "third");
        channel_shape(s->third, &o->net);
        channel_timeout(s->third, HELLO_SECONDS);
        segments_live(&s->live, h.tape_seed);
        r = third_hello_send(s->third, &h);
        trace_watch(o->trace, s->third, PARTY_THIRD);                  // from the third's go on, where its trace begins
    }
    wipe(h.tape_seed, sizeof h.tape_seed);
    GUARD(r);
    GUARD(message_expect(s->third, MSG_GO, "third"));
    return shape_send(s->third, &p->b->plan, &p->b->model.config);
}

static void engine_ready(Session *s, const ClientHello *theirs, const ProviderHello *mine)
{
    uint8_t seed[KEY_BYTES];
    if (is_live(s)) live_feed(&s->words, s->third);
    else pool_feed(&s->segment, s->p->pool);
    engine_session(s->p->engine, s->client, is_live(s) ? &s->words.feed : &s->segment.feed);
    session_seed(seed, theirs->random, mine->random, theirs->session);
    engine_shared_seed(s->p->engine, seed);
    wipe(seed, sizeof seed);
}

static Result session_open(Session *s)
{
    ClientHello theirs = {0};
    ProviderHello mine = {0};
    Report ready = {0};
    Result r = client_meet(s, &theirs, &mine);
    if (!failed(r) && is_live(s)) r = third_meet(s, &theirs);
    if (!failed(r)) engine_ready(s, &theirs, &mine);
    wipe(&theirs, sizeof theirs);
    wipe(&mine, sizeof mine);
    GUARD(r);
    channel_buffers(s->client, PEER_SEND, PEER_AHEAD);
    s->segments = is_live(s) ? &s->live : &s->p->tape;
    if (is_live(s)) {
        channel_timeout(s->third, WORK_SECONDS);
        GUARD(pins_send(s->third, s->p->net));
        GUARD(message_expect(s->third, MSG_READY, "third"));
        ChannelCount n = channel_count(s->third);
        ready = (Report){n.sent, n.received};
        channel_buffers(s->third, PEER_SEND, WORDS_AHEAD);
    } else {
        ready.first = plan_setup_bytes(&s->p->b->plan, &s->p->b->model.config);   // sent when the pool was made
    }
    return report_send(s->client, MSG_READY, &ready);
}

// ---- a conversation --------------------------------------------------------------------------------------------------

/* Keeps the third AHEAD rows before the conversation, and never beyond what was planned. */
static Result third_ask(Session *s)
{
    for (; is_live(s) && s->asked < s->more && s->asked < s->steps + AHEAD; s->asked++) GUARD(message_send(s->third, MSG_STEP));
    return OK;
}

static Result conversation_reserve(Session *s, const Begin *b)
{
    uint32_t room = bundle_room(s->p->b);
    if (b->rows > room || b->more > room - b->rows)
        return fail(FAIL_PEER, "the client asks for %u and %u positions, which do not fit the plan's context of %u", b->rows, b->more,
                    s->p->b->plan.context);
    uint64_t count = (uint64_t)b->rows + b->more;
    GUARD(secure_room_conversation(s->p->net, b->rows, !b->every, b->more));
    s->more = b->more;
    s->asked = s->steps = 0;
    GUARD(segments_check(s->segments, count));
    if (is_live(s)) {
        GUARD(begin_send(s->third, b));
        GUARD(third_ask(s));
        return segments_reserve(s->segments, count, false);
    }
    GUARD(segments_reserve(s->segments, count, true));
    GUARD(message_send(s->client, MSG_RESERVED));
    return message_expect(s->client, MSG_RESERVED, "client");
}

static Result batch(Session *s, size_t rows, bool last_only)
{
    uint64_t first = s->segments->next;
    const uint8_t (*keys)[KEY_BYTES] = segments_take(s->segments, rows);
    if (!is_live(s)) GUARD(pool_feed_load(&s->segment, first, rows, keys));
    engine_begin(s->p->engine, rows, first, NULL, keys);
    s->computing = true;
    GUARD(secure_forward(s->p->net, rows, NULL, &s->p->known, NULL, last_only));
    s->computing = false;
    return OK;
}

static uint64_t words_so_far(const Session *s)
{
    return is_live(s) ? s->words.bytes : s->segment.bytes;
}

/* The words of rows that the third was asked for and that the conversation did not come to. */
static Result words_unused(const Session *s, const Begin *b, uint64_t *out)
{
    const Plan *p = &s->p->b->plan;
    *out = 0;
    for (uint32_t step = s->steps; step < s->asked; step++) {
        Cost c;
        GUARD(plan_cost(&c, p, &s->p->b->model.config, p->known + b->rows + step, 1, true));
        *out += c.bytes.third_to_server;
    }
    return OK;
}

static Result conversation(Session *s, const Begin *b, Buffer *frame)
{
    uint64_t before = words_so_far(s), middle, unused;
    GUARD(conversation_reserve(s, b));
    channel_timeout(s->client, WORK_SECONDS);
    secure_restart(s->p->net);
    GUARD(batch(s, b->rows, !b->every));
    middle = words_so_far(s);
    for (;;) {
        Message m;
        Cursor body;
        channel_timeout(s->client, IDLE_SECONDS);
        GUARD(message_next(s->client, frame, 64, &m, &body, "client"));
        GUARD(cursor_end(&body));
        if (m == MSG_END) break;
        if (m != MSG_STEP) return message_unexpected(m, "step' or 'end", "client");
        if (s->steps == s->more) return fail(FAIL_PEER, "the client goes beyond the %u steps that it reserved", s->more);
        channel_timeout(s->client, WORK_SECONDS);
        s->steps++;
        GUARD(third_ask(s));
        GUARD(batch(s, 1, true));
    }
    segments_end(s->segments);
    if (is_live(s)) {
        GUARD(message_send(s->third, MSG_END));
        GUARD(words_unused(s, b, &unused));
        GUARD(live_feed_drain(&s->words, unused));
    }
    return report_send(s->client, MSG_REPORT, &(Report){middle - before, words_so_far(s) - middle});
}

static Result session_serve(Session *s, Buffer *frame)
{
    GUARD(session_open(s));
    for (;;) {
        Message m;
        Cursor body;
        Begin b;
        channel_timeout(s->client, IDLE_SECONDS);
        GUARD(message_next(s->client, frame, 64, &m, &body, "client"));
        if (m == MSG_BYE) return s->third ? message_send(s->third, MSG_BYE) : OK;
        if (m != MSG_BEGIN) return message_unexpected(m, "begin' or 'bye", "client");
        GUARD(begin_parse(&b, &body));
        if (b.every && !s->p->o->every) return fail(FAIL_PEER, "logits of every position are not revealed here, only of generated tokens");
        GUARD(conversation(s, &b, frame));
    }
}

// ---- one client after the other --------------------------------------------------------------------------------------

static Result session_run(Provider *p, Channel *client, size_t who)
{
    Session s = {.p = p, .who = who, .client = client};
    Buffer frame = {0};
    channel_name(client, "client");
    channel_shape(client, &p->o->net);
    trace_begin(p->o->trace);
    trace_watch(p->o->trace, client, PARTY_CLIENT);
    Result r = session_serve(&s, &frame);
    r = party_abort(r, s.computing && !failure_is_public(r), s.client, s.third);
    channel_close(s.client);
    channel_close(s.third);
    engine_session(p->engine, NULL, NULL);                             // nothing of it stays
    secure_restart(p->net);
    if (s.segments) segments_end(s.segments);
    if (s.live.tape) segments_free(&s.live);
    live_feed_free(&s.words);
    pool_feed_free(&s.segment);
    buffer_free(&frame);
    return r;
}

static Result provider_loop(Provider *p)
{
    const ProviderOptions *o = p->o;
    Result last = OK;
    for (uint32_t done = 0; o->sessions == 0 || done < o->sessions;) {
        Channel *c;
        size_t who;
        Result r = channel_accept(&c, &who, p->listener, o->identity, o->clients, o->client_count, -1);
        if (r.kind == FAIL_SYSTEM) return r;
        if (failed(r)) {
            progress(o->progress, "refused: %s", result_text());
            continue;
        }
        last = session_run(p, c, who);
        done++;
        if (failed(last)) progress(o->progress, "session failed: %s", result_text());
        else progress(o->progress, "session over");
    }
    return last;
}

Result provider_serve(const Bundle *b, const ProviderOptions *o)
{
    Provider p = {.b = b, .o = o};
    arena_init(&p.arena, true);
    Result r = provider_ready(&p);
    if (!failed(r)) r = provider_loop(&p);
    listener_close(p.listener);
    segments_free(&p.tape);
    pool_close(p.pool);
    engine_free(p.engine);
    arena_free(&p.arena);
    wipe(&p, sizeof p);
    return r;
}
