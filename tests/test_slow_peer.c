/* test_slow_peer.c - peers that send or take so little at a time that each wait is short: what they hold up must end all the same.
 *
 * The frames of such a peer are no whole ones, so this file looks into channels: it has channel.c for itself. */
#include "crypto/channel.c"

#include <pthread.h>
#include <stdatomic.h>

#include "serve/party.h"
#include "test.h"

typedef struct Ends { Channel *a, *b; } Ends;

static const Identity *accepting_as;
static void *accept_one(void *ctx)
{
    Channel *c;
    Listener *l = ctx;
    CHECK_OK(channel_accept(&c, NULL, l, accepting_as, (const uint8_t (*)[32])accepting_as->public_key, 1, 5));
    return c;
}

static Ends tls_pair(void)
{
    static Identity me;
    Listener *l;
    Ends e;
    pthread_t t;
    void *c;
    identity_generate(&me);
    accepting_as = &me;
    CHECK_OK(listener_open(&l, "127.0.0.1", 0));
    CHECK(pthread_create(&t, NULL, accept_one, l) == 0);
    CHECK_OK(channel_connect(&e.a, "127.0.0.1", listener_port(l), &me, me.public_key, 5));
    pthread_join(t, &c);
    e.b = c;
    listener_close(l);
    identity_free(&me);
    return e;
}

static Result raw_send(Channel *c, const void *data, size_t len)
{
    return c->link->kind->write(c->link, data, len, NULL, 0);
}

enum { DRIPPED = 4096 };
static atomic_bool over;
static void *drip(void *ctx)
{
    const uint8_t head[HEAD_BYTES] = {FRAME_DATA, 0, DRIPPED >> 8};
    Result r = raw_send(ctx, head, sizeof head);
    while (!over && !failed(r)) {
        r = raw_send(ctx, "", 1);
        usleep(10000);
    }
    return NULL;
}

static void check_drip(Ends e)
{
    uint8_t out[DRIPPED];
    pthread_t t;
    double begin = clock_seconds();
    channel_timeout(e.a, 0.4);
    CHECK(pthread_create(&t, NULL, drip, e.b) == 0);
    CHECK_FAILS(channel_expect(e.a, out, sizeof out, "hello"), "the peer is too slow: it sent ");
    CHECK(clock_seconds() - begin > 0.39 && clock_seconds() - begin < 2);
    over = true;
    pthread_join(t, NULL);
    channel_close(e.a), channel_close(e.b);
}

TEST(tls_frame_that_drips) { check_drip(tls_pair()); }
TEST(memory_frame_that_drips)
{
    Ends e;
    channel_memory(&e.a, &e.b);
    check_drip(e);
}

static void *drip_parts(void *ctx)              // each of them is whole, and in time
{
    while (!over && !failed(channel_part(ctx, "x", 1))) usleep(10000);
    return NULL;
}

TEST(a_message_that_drips_in_parts)
{
    Ends e;
    uint8_t out[DRIPPED];
    pthread_t t;
    double begin = clock_seconds();
    channel_memory(&e.a, &e.b);
    channel_timeout(e.a, 0.4);
    CHECK(pthread_create(&t, NULL, drip_parts, e.b) == 0);
    CHECK_FAILS(channel_expect(e.a, out, sizeof out, "hello"), "the peer is too slow: it sent ");
    CHECK(clock_seconds() - begin > 0.39 && clock_seconds() - begin < 2);
    over = true;
    pthread_join(t, NULL);
    channel_close(e.a), channel_close(e.b);
}

TEST(parts_of_no_bytes_are_refused)             // or they could go on for ever
{
    Ends e;
    uint8_t out[8];
    const uint8_t head[HEAD_BYTES] = {FRAME_PART, 0};
    channel_memory(&e.a, &e.b);
    CHECK_OK(raw_send(e.b, head, sizeof head));
    CHECK_FAILS(channel_expect(e.a, out, sizeof out, "hello"), "sent 0 bytes instead of 8: hello");
    channel_close(e.a), channel_close(e.b);
}

enum { QUEUED = 60 << 20, SIP = 1 << 20 };
static void *sip(void *ctx)
{
    static uint8_t out[SIP];
    Channel *c = ctx;
    channel_timeout(c, 0.5);
    while (!over && !failed(c->link->kind->read(c->link, out, sizeof out))) usleep(250000);
    return NULL;
}

TEST(tls_close_under_a_peer_that_sips)          // at 4 MB a second it would take all of it, some 13 s later
{
    Ends e = tls_pair();
    pthread_t t;
    uint8_t *data = calloc(1, QUEUED);
    CHECK(data && pthread_create(&t, NULL, sip, e.b) == 0);
    CHECK_OK(channel_send(e.a, data, QUEUED));
    double begin = clock_seconds();
    channel_close(e.a);
    CHECK(clock_seconds() - begin < 8);
    over = true;
    pthread_join(t, NULL);
    channel_close(e.b);
    free(data);
}

static void send_words(Channel *c, size_t len)
{
    static uint8_t frame[WORDS_LIMIT + 1] = {MSG_WORDS};
    CHECK_OK(channel_send(c, frame, 1 + len));
}

TEST(surplus_words_are_refused)
{
    Ends e;
    LiveFeed f;
    channel_memory(&e.a, &e.b);
    live_feed(&f, e.a);
    send_words(e.b, 60), send_words(e.b, 40);
    CHECK_OK(message_send(e.b, MSG_END));
    CHECK_OK(live_feed_drain(&f, 100));
    CHECK_EQUAL(100, f.bytes);
    send_words(e.b, 60), send_words(e.b, 41);
    CHECK_FAILS(live_feed_drain(&f, 100), "the third sent more words than the rows that it was asked for have");
    live_feed_free(&f);
    channel_close(e.a), channel_close(e.b);
}

int main(int argc, char **argv)
{
    crypto_init(false);
    return test_main(argc, argv);
}
