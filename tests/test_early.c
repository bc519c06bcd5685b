/* test_early.c - what leaves before its exchange: the same bytes, each once, and nothing after a failure. */
#define TEST_SECONDS 30
#include <stddef.h>

#include "parties.h"

enum { ROWS = 64, COLS = 512, RING = 40, BYTES = ROWS * COLS * RING / 8, MUCH = 1 << 30 };

static Wire values(Engine *e, Arena *a, size_t columns)
{
    const Layout *at = layout_uniform(e, columns);
    uint64_t *x = arena_new(a, uint64_t, layout_len(at));
    for (size_t i = 0; i < layout_len(at); i++) x[i] = (i * 2654435761u) % 100000;
    return wire_input_client(e, at, RING, 10, x);
}

/* An exchange of every kind: large at once, small ones posted between local work, and one whose message is there in full before it. */
static void program(Party *p)
{
    Engine *e = p->engine;
    int32_t w[3 * COLS];
    for (size_t i = 0; i < 3 * COLS; i++) w[i] = (int32_t)(i % 17) - 8;
    Pinned *m = pinned_new(e, &p->session, "m", 3, COLS, RING, 4, w);
    party_pin(p, m);
    party_begin(p, ROWS, 0);
    Wire big = values(e, &p->session, COLS), small = values(e, &p->session, 5);
    Opened *b = wire_open(e, big), *s = wire_open(e, small);
    engine_post(e, MUCH);
    engine_post(e, MUCH);                                                    // nothing is left to post
    Opened *again = wire_open(e, wire_narrow(small, 30));
    Pinning *g = pinned_send(e, big, m);
    party_record(p, wire_add(e, big, big));                            // local work meanwhile
    CHECK_OK(engine_exchange(e, "all"));
    party_record(p, factor_mul(e, opened_factor(e, b, RING), NULL, 1, RING));
    party_record(p, factor_mul(e, opened_factor(e, s, RING), opened_factor(e, again, RING), 1, RING));
    party_record(p, pinned_take(e, g));
    s = wire_open(e, small);
    engine_post(e, MUCH);
    CHECK_OK(engine_exchange(e, "posted before"));
    party_record(p, factor_mul(e, opened_factor(e, s, 50), NULL, 1, 50));
    CHECK_OK(engine_end(e));
}

TEST(early_words_are_the_same_words)                                   // bytes and exchanges are compared with COUNT's
{
    Party party[5];
    parties_run(party, program, NULL);
    parties_compare(party);
    parties_end(party);
}

typedef struct Alone { Engine *e; Arena arena; Channel *mine, *peer; Feed feed; int reads; } Alone;

static void alone_begin(Alone *a, Role role, Feed *feed)
{
    static const uint8_t seed[KEY_BYTES] = {3};
    uint8_t keys[ROWS][KEY_BYTES];
    segment_keys(keys, 0, ROWS, 1);
    channel_memory(&a->mine, &a->peer);
    arena_init(&a->arena, false);
    a->e = engine_new(role, a->mine, feed);
    engine_shared_seed(a->e, seed);
    engine_begin(a->e, ROWS, 0, role == ROLE_CLIENT ? (const uint8_t (*)[KEY_BYTES])keys : NULL,
                 role == ROLE_SERVER ? (const uint8_t (*)[KEY_BYTES])keys : NULL);
}

static void alone_end(Alone *a)
{
    engine_free(a->e), arena_free(&a->arena);
    channel_close(a->mine), channel_close(a->peer);
}

static uint64_t sent(const Alone *a) { return channel_count(a->mine).sent; }

TEST(large_messages_leave_when_they_are_packed)
{
    Alone a = {0};
    uint8_t *in = malloc(BYTES);
    alone_begin(&a, ROLE_CLIENT, NULL);
    Wire big = values(a.e, &a.arena, COLS), small = values(a.e, &a.arena, 8);
    wire_open(a.e, small);
    engine_post(a.e, 1000);                                            // before little work a small message waits for its exchange
    CHECK_EQUAL(0, sent(&a));
    engine_post(a.e, MUCH);
    CHECK_EQUAL(BYTES / COLS * 8, sent(&a));
    wire_open(a.e, big);
    CHECK_EQUAL(BYTES / COLS * 8 + BYTES, sent(&a));
    CHECK_OK(channel_expect(a.peer, in, BYTES / COLS * 8, "small"));
    CHECK_OK(channel_expect(a.peer, in, BYTES, "big"));
    free(in);
    alone_end(&a);
}

TEST(nothing_leaves_after_a_failure)
{
    Alone a = {0};
    uint8_t *in = malloc(3 * BYTES);
    alone_begin(&a, ROLE_CLIENT, NULL);
    Wire big = values(a.e, &a.arena, COLS), small = values(a.e, &a.arena, 8);
    wire_open(a.e, big);
    wire_open(a.e, small);
    CHECK_FAILS(engine_refuse(a.e, fail(FAIL_DATA, "a value out of range")), "out of range");
    engine_post(a.e, MUCH);
    wire_open(a.e, big);
    engine_post(a.e, MUCH);
    CHECK_EQUAL(BYTES, sent(&a));                                      // what had left before
    CHECK_FAILS(engine_exchange(a.e, "x"), "a value out of range");
    CHECK_FAILS(engine_end(a.e), "a value out of range");
    CHECK_EQUAL(BYTES, sent(&a));
    channel_abort(a.mine, "a value out of range");
    CHECK_FAILS(channel_expect(a.peer, in, 2 * BYTES + 8, "x"), "ended the session: a value out of range");
    free(in);
    alone_end(&a);
}

static Result read_once(Feed *f, size_t row, void *out, size_t len)    // the words of a few rows, then a failure
{
    (void)row, (void)out, (void)len;
    Alone *a = (Alone *)(void *)((char *)f - offsetof(Alone, feed));
    if (a->reads-- <= 0) return fail(FAIL_CRYPTO, "the segment was altered");
    memset(out, 7, len);
    return OK;
}

TEST(words_made_of_missing_ones_never_leave)
{
    Alone a = {.feed = {.read = read_once}, .reads = 3};
    uint8_t *zeros = calloc(BYTES, 1);
    alone_begin(&a, ROLE_SERVER, &a.feed);
    Wire big = values(a.e, &a.arena, COLS);
    Opened *o = wire_open(a.e, big);
    CHECK_OK(channel_send(a.peer, zeros, BYTES));
    CHECK_OK(engine_exchange(a.e, "x"));
    CHECK_EQUAL(BYTES, sent(&a));
    Wire lifted = factor_mul(a.e, opened_factor(a.e, o, 60), NULL, 1, 60);
    wire_open(a.e, lifted);                                            // large: it would leave at once
    engine_post(a.e, MUCH);
    CHECK_EQUAL(BYTES, sent(&a));
    CHECK_FAILS(engine_exchange(a.e, "y"), "the segment was altered");
    CHECK_EQUAL(BYTES, sent(&a));
    free(zeros);
    alone_end(&a);
}

TEST(a_peer_that_is_gone_fails_the_exchange)
{
    Alone a = {0};
    alone_begin(&a, ROLE_CLIENT, NULL);
    Wire big = values(a.e, &a.arena, COLS);
    channel_close(a.peer);
    wire_open(a.e, big);
    wire_open(a.e, big);
    CHECK_FAILS(engine_exchange(a.e, "x"), "closed the connection");
    CHECK_EQUAL(0, sent(&a));
    engine_free(a.e), arena_free(&a.arena);
    channel_close(a.mine);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
