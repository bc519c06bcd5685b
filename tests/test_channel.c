/* test_channel.c - frames over memory and over TLS between two threads on this machine. */
#define TEST_SECONDS 60
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include "crypto/crypto.h"
#include "test.h"

typedef struct Ends { Channel *a, *b; } Ends;
typedef struct Server {
    Listener *l;
    const Identity *me;
    const uint8_t (*allowed)[32];
    size_t count, which;
    Channel *c;
    Result r;
    char text[512];
} Server;

static pthread_t spawn(void *(*body)(void *), void *ctx)
{
    pthread_t t;
    CHECK(pthread_create(&t, NULL, body, ctx) == 0);
    return t;
}

static void *serve(void *ctx)
{
    Server *s = ctx;
    s->r = channel_accept(&s->c, &s->which, s->l, s->me, s->allowed, s->count, 10);
    if (failed(s->r)) snprintf(s->text, sizeof s->text, "%s", result_text());
    return NULL;
}

static Ends tls_pair(void)                      // a: the client, b: the server
{
    Identity client, server;
    Ends e;
    uint8_t allowed[2][32] = {{0}};
    Server s = {.me = &server, .allowed = (const uint8_t (*)[32])allowed, .count = 2};
    identity_generate(&client);
    identity_generate(&server);
    memcpy(allowed[1], client.public_key, 32);
    CHECK_OK(listener_open(&s.l, "127.0.0.1", 0));
    pthread_t t = spawn(serve, &s);
    CHECK_OK(channel_connect(&e.a, "127.0.0.1", listener_port(s.l), &client, server.public_key, 5));
    pthread_join(t, NULL);
    if (failed(s.r)) fprintf(stderr, "%s\n", s.text);
    CHECK(!failed(s.r));
    CHECK_EQUAL(1, s.which);
    listener_close(s.l);
    identity_free(&client);
    identity_free(&server);
    e.b = s.c;
    channel_name(e.a, "server");
    channel_name(e.b, "client");
    return e;
}

static Ends memory_pair(void)
{
    Ends e;
    channel_memory(&e.a, &e.b);
    channel_name(e.a, "server");
    channel_name(e.b, "client");
    return e;
}

static void close_both(Ends e)
{
    channel_close(e.a);
    channel_close(e.b);
}

/* Defines the case for each kind of link. */
#define TEST_BOTH(id) \
    static void check_##id(Ends e); \
    TEST(memory_##id) { check_##id(memory_pair()); } \
    TEST(tls_##id) { check_##id(tls_pair()); } \
    static void check_##id(Ends e)

TEST_BOTH(frames_arrive_in_order)
{
    char out[8];
    Buffer b = {0};
    CHECK_OK(channel_send(e.a, "one", 3));
    CHECK_OK(channel_send(e.a, "", 0));
    CHECK_OK(channel_send(e.a, "three", 5));
    CHECK_OK(channel_send(e.b, "back", 4));
    CHECK_OK(channel_receive(e.b, &b, 100));
    CHECK(b.len == 3 && !memcmp(b.data, "one", 3));
    CHECK_OK(channel_expect(e.b, out, 0, "nothing"));
    CHECK_OK(channel_receive(e.b, &b, 100));
    CHECK(b.len == 5 && !memcmp(b.data, "three", 5));
    CHECK_OK(channel_expect(e.a, out, 4, "answer"));
    CHECK(!memcmp(out, "back", 4));
    ChannelCount a = channel_count(e.a), c = channel_count(e.b);
    CHECK(a.sent == 8 && a.frames_sent == 3 && a.received == 4 && a.frames_received == 1);
    CHECK(c.sent == 4 && c.frames_sent == 1 && c.received == 8 && c.frames_received == 3);
    buffer_free(&b);
    close_both(e);
}

TEST_BOTH(stream_ignores_frames)
{
    char out[16];
    CHECK_OK(channel_send(e.a, "abc", 3));
    CHECK_OK(channel_send(e.a, "", 0));
    CHECK_OK(channel_send(e.a, "defgh", 5));
    CHECK_OK(channel_read(e.b, out, 4));
    CHECK(!memcmp(out, "abcd", 4));
    CHECK_OK(channel_read(e.b, out, 2));
    CHECK(!memcmp(out, "ef", 2));
    CHECK_FAILS(channel_expect(e.b, out, 2, "rest"), "the client sent 2 bytes more");
    close_both(e);
}

TEST_BOTH(oversize_frame_is_refused)
{
    static uint8_t big[2000];
    Buffer b = {0};
    CHECK_OK(channel_send(e.a, big, sizeof big));
    CHECK_FAILS(channel_receive(e.b, &b, 1999), "the client sent a frame of 2000 bytes");
    CHECK(b.cap == 0);
    CHECK_FAILS(channel_receive(e.b, &b, 4000), "a frame of 2000 bytes");   // it stays failed
    CHECK_FAILS(channel_send(e.b, "x", 1), "a frame of 2000 bytes");
    close_both(e);
}

TEST_BOTH(wrong_length_is_named)
{
    uint8_t out[8];
    CHECK_OK(channel_send(e.a, "1234567", 7));
    CHECK_FAILS(channel_expect(e.b, out, 8, "opening of layer 3"), "the client sent 7 bytes instead of 8: opening of layer 3");
    close_both(e);
}

TEST_BOTH(parts_make_one_message)
{
    char out[8];
    Buffer b = {0};
    CHECK_OK(channel_part(e.a, "ab", 2));
    CHECK_OK(channel_part(e.a, "cde", 3));
    CHECK_OK(channel_send(e.a, "f", 1));
    CHECK_OK(channel_part(e.a, "gh", 2));
    CHECK_OK(channel_part(e.a, "i", 1));                               // the last part may end it
    CHECK_OK(channel_part(e.a, "jklm", 4));
    CHECK_OK(channel_expect(e.b, out, 6, "first"));
    CHECK(!memcmp(out, "abcdef", 6));
    CHECK_OK(channel_expect(e.b, out, 3, "second"));
    CHECK(!memcmp(out, "ghi", 3));
    CHECK(channel_count(e.a).sent == 13 && channel_count(e.b).received == 9);
    CHECK_FAILS(channel_receive(e.b, &b, 100), "a frame of kind 5 instead of 1");      // who does not expect a length takes no parts
    close_both(e);
}

TEST_BOTH(parts_of_a_wrong_length_are_named)
{
    char out[4];
    CHECK_OK(channel_part(e.a, "ab", 2));
    CHECK_OK(channel_part(e.a, "cde", 3));
    CHECK_FAILS(channel_expect(e.b, out, 4, "opening of layer 3"), "the client sent 5 bytes instead of 4: opening of layer 3");
    CHECK_OK(channel_part(e.a, "f", 1));
    close_both(e);
}

TEST_BOTH(a_last_part_that_is_short_is_named)
{
    char out[8];
    CHECK_OK(channel_part(e.a, "ab", 2));
    CHECK_OK(channel_send(e.a, "c", 1));
    CHECK_FAILS(channel_expect(e.b, out, 8, "opening"), "the client sent 3 bytes instead of 8: opening");
    close_both(e);
}

TEST_BOTH(abort_between_parts_is_delivered)
{
    char out[8];
    CHECK_OK(channel_part(e.a, "half", 4));
    channel_abort(e.a, "the pool was used up");
    CHECK_FAILS(channel_part(e.a, "rest", 4), "ended here");
    CHECK_FAILS(channel_expect(e.b, out, 8, "opening"), "the client ended the session: the pool was used up");
    close_both(e);
}

enum { PARTED = 8 << 20, PART = 200000 };
static void *exchange_parts(void *ctx)          // both send all of it before they read
{
    Channel *c = ctx;
    uint8_t *out = malloc(PARTED), *in = malloc(PARTED);
    CHECK(out && in);
    channel_buffers(c, 1 << 16, 0);             // so that most parts wait for the peer to take them
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < PARTED; i++) out[i] = (uint8_t)(i * 7 + i / 65521 + (size_t)round);
        for (size_t i = 0, n; i < PARTED; i += n) {
            n = PARTED - i < PART ? PARTED - i : PART;
            CHECK_OK(n < PART ? channel_send(c, out + i, n) : channel_part(c, out + i, n));
        }
        CHECK_OK(channel_expect(c, in, PARTED, "parts"));
        CHECK(!memcmp(out, in, PARTED));
    }
    free(out), free(in);
    return NULL;
}

TEST_BOTH(both_send_8_mb_in_parts)
{
    pthread_t t = spawn(exchange_parts, e.b);
    exchange_parts(e.a);
    pthread_join(t, NULL);
    CHECK_EQUAL(3ll * PARTED, channel_count(e.a).received);
    close_both(e);
}

TEST_BOTH(abort_is_delivered)
{
    char out[4];
    CHECK_OK(channel_send(e.a, "data", 4));
    channel_abort(e.a, "the pool was\nused up");
    CHECK_OK(channel_expect(e.b, out, 4, "data"));
    CHECK_FAILS(channel_expect(e.b, out, 4, "more"), "the client ended the session: the pool was");
    CHECK(!strchr(result_text(), '\n'));
    CHECK_FAILS(channel_send(e.a, "x", 1), "ended here: the pool was");
    CHECK_FAILS(channel_expect(e.a, out, 1, "x"), "ended here");
    close_both(e);
}

TEST_BOTH(long_abort_is_cut)
{
    char reason[1000], out[1];
    memset(reason, 'r', sizeof reason - 1);
    reason[sizeof reason - 1] = 0;
    channel_abort(e.a, reason);
    CHECK_FAILS(channel_expect(e.b, out, 1, "x"), "rrrrrrrr");
    CHECK(strlen(result_text()) < 300);
    close_both(e);
}

TEST_BOTH(orderly_end_is_a_failure_to_receive)
{
    char out[4];
    CHECK_OK(channel_send(e.a, "last", 4));
    channel_close(e.a);
    CHECK_OK(channel_expect(e.b, out, 4, "last"));
    CHECK_FAILS(channel_expect(e.b, out, 1, "x"), "the client ended the session");
    channel_close(e.b);
}

TEST_BOTH(waiting_ends_in_time)
{
    char out[4];
    channel_timeout(e.a, 0.2);
    double begin = clock_seconds();
    CHECK_FAILS(channel_expect(e.a, out, 4, "answer"), "the server sent nothing for 0.2 s");
    CHECK(clock_seconds() - begin >= 0.19 && clock_seconds() - begin < 1.5);
    close_both(e);
}

enum { BIG = (32 << 20) - 12345 };          // no multiple of what anything below holds

static void *exchange_big(void *ctx)
{
    Channel *c = ctx;
    uint8_t *out = malloc(BIG), *in = malloc(BIG);
    CHECK(out && in);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < BIG; i++) out[i] = (uint8_t)(i * 7 + i / 65521 + (size_t)round);
        CHECK_OK(channel_send(c, out, BIG));
        CHECK_OK(channel_expect(c, in, BIG, "big"));
        CHECK(!memcmp(out, in, BIG));
    }
    free(out);
    free(in);
    return NULL;
}

TEST_BOTH(both_send_32_mb)      // three times, so that TLS changes its keys on the way
{
    pthread_t t = spawn(exchange_big, e.b);
    exchange_big(e.a);
    pthread_join(t, NULL);
    CHECK_EQUAL(3ll * BIG, channel_count(e.a).received);
    close_both(e);
}

static void *exchange_odd(void *ctx)            // sizes that end anywhere in what holds the bytes that wait
{
    Channel *c = ctx;
    enum { MOST = 6 << 20 };
    uint8_t *out = malloc(MOST), *in = malloc(MOST);
    CHECK(out && in);
    for (size_t i = 0; i < MOST; i++) out[i] = (uint8_t)(i * 7 + i / 65521);
    for (size_t round = 0; round < 60; round++) {
        size_t len = (3 << 20) + round * 44729;
        CHECK_OK(channel_send(c, out, len));
        CHECK_OK(channel_expect(c, in, len, "odd"));
        CHECK(!memcmp(out, in, len));
    }
    free(out);
    free(in);
    return NULL;
}

TEST_BOTH(both_send_odd_sizes)
{
    pthread_t t = spawn(exchange_odd, e.b);
    exchange_odd(e.a);
    pthread_join(t, NULL);
    close_both(e);
}

static void *receive_slowly(void *ctx)
{
    Channel *c = ctx;
    static uint8_t in[1 << 20];
    for (int i = 0; i < 40; i++) {
        if (i % 10 == 0) usleep(50000);
        CHECK_OK(channel_read(c, in, sizeof in));
        CHECK(in[12345] == 0xAB);
    }
    return NULL;
}

TEST_BOTH(stream_to_a_slow_reader)
{
    static uint8_t out[10 << 20];
    memset(out, 0xAB, sizeof out);
    pthread_t t = spawn(receive_slowly, e.b);
    for (int i = 0; i < 4; i++) CHECK_OK(channel_send(e.a, out, sizeof out));
    pthread_join(t, NULL);
    close_both(e);
}

static void *abort_later(void *ctx)
{
    usleep(100000);
    channel_abort(ctx, "no more room");
    channel_close(ctx);
    return NULL;
}

TEST(tls_sender_hears_the_reason)
{
    Ends e = tls_pair();
    static uint8_t out[1 << 20];
    pthread_t t = spawn(abort_later, e.b);
    Result r = OK;
    for (int i = 0; i < 100000 && !failed(r); i++) r = channel_send(e.a, out, sizeof out);
    CHECK_FAILS(r, "the server ended the session: no more room");
    pthread_join(t, NULL);
    channel_close(e.a);
}

TEST(tls_peer_vanishes_in_a_frame)
{
    int ready[2];
    CHECK(pipe(ready) == 0);
    Identity me, peer;
    Listener *l;
    Channel *c;
    identity_generate(&me);
    identity_generate(&peer);
    CHECK_OK(listener_open(&l, "127.0.0.1", 0));
    pid_t child = fork();
    if (child == 0) {
        uint8_t half[3000] = {0};
        CHECK_OK(channel_accept(&c, NULL, l, &peer, (const uint8_t (*)[32])&me.public_key, 1, 10));
        CHECK_OK(channel_send(c, half, sizeof half));
        CHECK(write(ready[1], "x", 1) == 1);
        pause();
    }
    char x, out[4000];
    CHECK_OK(channel_connect(&c, "127.0.0.1", listener_port(l), &me, peer.public_key, 5));
    listener_close(l);
    CHECK(read(ready[0], &x, 1) == 1);
    channel_name(c, "server");
    CHECK_OK(channel_read(c, out, 2000));
    kill(child, SIGKILL);
    double begin = clock_seconds();
    CHECK_FAILS(channel_read(c, out, 2000), "the server closed the connection");
    CHECK(clock_seconds() - begin < 1);
    CHECK_FAILS(channel_send(c, out, 100), "the server closed the connection");
    channel_close(c);
    identity_free(&me);
    identity_free(&peer);
}

static void *take_and_reset(void *ctx)
{
    usleep(100000);
    channel_close(ctx);                         // with unread bytes: the connection is reset
    return NULL;
}

TEST(tls_peer_vanishes_under_a_sender)          // and no SIGPIPE
{
    Ends e = tls_pair();
    static uint8_t out[1 << 20];
    pthread_t t = spawn(take_and_reset, e.b);
    Result r = OK;
    for (int i = 0; i < 1000 && !failed(r); i++) r = channel_send(e.a, out, sizeof out);
    CHECK_FAILS(r, "the server");
    pthread_join(t, NULL);
    channel_close(e.a);
}

TEST(tls_unknown_client_is_refused_by_both)
{
    Identity client, server, known;
    Channel *c;
    identity_generate(&client);
    identity_generate(&server);
    identity_generate(&known);
    Server s = {.me = &server, .allowed = (const uint8_t (*)[32])&known.public_key, .count = 1};
    char hex[65];
    hex_encode(hex, client.public_key, 32);
    CHECK_OK(listener_open(&s.l, "127.0.0.1", 0));
    pthread_t t = spawn(serve, &s);
    CHECK_FAILS(channel_connect(&c, "127.0.0.1", listener_port(s.l), &client, server.public_key, 5), hex);
    CHECK(strstr(result_text(), "127.0.0.1"));
    pthread_join(t, NULL);
    CHECK(failed(s.r) && strstr(s.text, hex) && strstr(s.text, "peer at 127.0.0.1:"));
    t = spawn(serve, &s);                       // the listener goes on
    CHECK_OK(channel_connect(&c, "127.0.0.1", listener_port(s.l), &known, server.public_key, 5));
    pthread_join(t, NULL);
    CHECK(!failed(s.r));
    close_both((Ends){c, s.c});
    listener_close(s.l);
    identity_free(&client);
    identity_free(&server);
    identity_free(&known);
}

TEST(tls_wrong_server_is_refused_by_both)
{
    Identity client, server;
    Channel *c;
    uint8_t other[32] = {1};
    identity_generate(&client);
    identity_generate(&server);
    Server s = {.me = &server, .allowed = (const uint8_t (*)[32])&client.public_key, .count = 1};
    char hex[65];
    hex_encode(hex, server.public_key, 32);
    CHECK_OK(listener_open(&s.l, "127.0.0.1", 0));
    pthread_t t = spawn(serve, &s);
    CHECK_FAILS(channel_connect(&c, "127.0.0.1", listener_port(s.l), &client, other, 5), hex);
    pthread_join(t, NULL);
    CHECK(failed(s.r) && strstr(s.text, hex));
    listener_close(s.l);
    identity_free(&client);
    identity_free(&server);
}

static void *speak_nonsense(void *ctx)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(*(uint16_t *)ctx), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    CHECK(write(fd, "GET / HTTP/1.1\r\n\r\n", 18) == 18);
    usleep(200000);
    close(fd);
    return NULL;
}

TEST(tls_nonsense_is_refused)
{
    Identity me;
    uint8_t allowed[1][32] = {{0}};
    Channel *c;
    Listener *l;
    identity_generate(&me);
    CHECK_OK(listener_open(&l, "127.0.0.1", 0));
    uint16_t port = listener_port(l);
    pthread_t t = spawn(speak_nonsense, &port);
    CHECK_FAILS(channel_accept(&c, NULL, l, &me, (const uint8_t (*)[32])allowed, 1, 5), "did not complete the TLS handshake");
    pthread_join(t, NULL);
    listener_close(l);
    identity_free(&me);
}

TEST(port_in_use_is_named)
{
    Listener *a, *b;
    char port[16];
    CHECK_OK(listener_open(&a, "127.0.0.1", 0));
    snprintf(port, sizeof port, "port %u", listener_port(a));
    CHECK(listener_fd(a) >= 0);
    CHECK_FAILS(listener_open(&b, "127.0.0.1", listener_port(a)), port);
    CHECK(strstr(result_text(), "in use"));
    CHECK_FAILS(listener_open(&b, "256.0.0.1.nowhere.invalid", 1), "256.0.0.1.nowhere.invalid");
    listener_close(a);
}

TEST(nobody_listens_is_named)
{
    Listener *l;
    Identity me;
    Channel *c;
    identity_generate(&me);
    CHECK_OK(listener_open(&l, "127.0.0.1", 0));
    uint16_t port = listener_port(l);
    listener_close(l);
    double begin = clock_seconds();
    CHECK_FAILS(channel_connect(&c, "127.0.0.1", port, &me, me.public_key, 0.3), "nobody listens on 127.0.0.1");
    CHECK(clock_seconds() - begin > 0.2 && clock_seconds() - begin < 3);
    identity_free(&me);
}

static void *listen_later(void *ctx)
{
    Server *s = ctx;
    usleep(300000);
    CHECK_OK(listener_open(&s->l, "127.0.0.1", (uint16_t)s->which));
    return serve(s);
}

TEST(connect_waits_for_a_listener)
{
    Identity me;
    Channel *c;
    identity_generate(&me);
    Server s = {.me = &me, .allowed = (const uint8_t (*)[32])&me.public_key, .count = 1};
    CHECK_OK(listener_open(&s.l, "127.0.0.1", 0));
    uint16_t port = listener_port(s.l);
    listener_close(s.l);
    s.which = port;
    pthread_t t = spawn(listen_later, &s);
    CHECK_OK(channel_connect(&c, "127.0.0.1", port, &me, me.public_key, 5));
    pthread_join(t, NULL);
    CHECK(!failed(s.r));
    close_both((Ends){c, s.c});
    listener_close(s.l);
    identity_free(&me);
}

TEST(accept_ends_in_time)
{
    Listener *l;
    Identity me;
    Channel *c;
    identity_generate(&me);
    CHECK_OK(listener_open(&l, "127.0.0.1", 0));
    CHECK_FAILS(channel_accept(&c, NULL, l, &me, (const uint8_t (*)[32])&me.public_key, 1, 0.1), "nobody connected");
    listener_close(l);
    identity_free(&me);
}

typedef struct Rounds { Channel *c; size_t len; int count; } Rounds;

static void *exchange_rounds(void *ctx)
{
    const Rounds *r = ctx;
    uint8_t *out = calloc(1, r->len), *in = malloc(r->len);
    for (int i = 0; i < r->count; i++) {
        CHECK_OK(channel_send(r->c, out, r->len));
        CHECK_OK(channel_expect(r->c, in, r->len, "round"));
    }
    free(out);
    free(in);
    return NULL;
}

static void *answer_rounds(void *ctx)
{
    const Rounds *r = ctx;
    uint8_t *in = malloc(r->len);
    for (int i = 0; i < r->count; i++) {
        CHECK_OK(channel_expect(r->c, in, r->len, "question"));
        CHECK_OK(channel_send(r->c, in, r->len));
    }
    free(in);
    return NULL;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { EXACT = 0 };                             // a sanitizer takes its time: what arrives may be late, and never early
#else
enum { EXACT = 1 };
#endif

// ---- sending while the other computes --------------------------------------------------------------------------------

TEST(tls_send_does_not_wait_for_the_peer)       // 20 MB each way cross while neither end is in a call
{
    enum { LEN = 20 << 20 };
    Ends e = tls_pair();
    uint8_t *out = malloc(LEN), *in = malloc(LEN);
    for (size_t i = 0; i < LEN; i++) out[i] = (uint8_t)(i * 7 + i / 65521);
    channel_buffers(e.a, 64 << 20, 64 << 20);
    channel_buffers(e.b, 64 << 20, 64 << 20);
    CHECK_OK(channel_send(e.a, out, LEN));
    CHECK_OK(channel_send(e.b, out, LEN));      // one thread: nobody reads yet
    usleep(500000);
    double begin = clock_seconds();
    CHECK_OK(channel_expect(e.b, in, LEN, "x"));
    CHECK(!memcmp(in, out, LEN));
    CHECK_OK(channel_expect(e.a, in, LEN, "x"));
    CHECK(!memcmp(in, out, LEN));
    CHECK(!EXACT || clock_seconds() - begin < 0.2);    // they had arrived
    close_both(e);
    free(out), free(in);
}

typedef struct Flood { Channel *c; uint64_t sent; int done; } Flood;

static void *flood(void *ctx)
{
    Flood *f = ctx;
    static uint8_t piece[64 << 10];
    for (int i = 0; i < 1600; i++) {            // 100 MB
        memset(piece, i, sizeof piece);
        CHECK_OK(channel_send(f->c, piece, sizeof piece));
        __atomic_store_n(&f->sent, f->sent + sizeof piece, __ATOMIC_RELAXED);
    }
    return NULL;
}

TEST(tls_ahead_is_bounded)                      // a sender that runs ahead is stopped by a receiver that does not read
{
    Ends e = tls_pair();
    static uint8_t in[64 << 10];
    channel_buffers(e.a, 1 << 20, 0);
    channel_buffers(e.b, 1 << 20, 32 << 20);
    Flood f = {.c = e.a};
    pthread_t t = spawn(flood, &f);
    uint64_t last = 1, now = 0;
    for (int i = 0; i < 100 && last != now; i++) {
        last = now;
        usleep(200000);
        now = __atomic_load_n(&f.sent, __ATOMIC_RELAXED);
    }
    CHECK(now >= 32u << 20 && now <= 56u << 20);   // and what the sockets hold
    for (int i = 0; i < 1600; i++) {
        CHECK_OK(channel_expect(e.b, in, sizeof in, "piece"));
        CHECK(in[0] == (uint8_t)i && in[sizeof in - 1] == (uint8_t)i);
    }
    pthread_join(t, NULL);
    close_both(e);
}

// ---- shaped links ----------------------------------------------------------------------------------------------------

static const Net net_of_tests = {20e-3, 50e6};  // 20 ms, 50 MB/s
static double one_way(double bytes) { return net_of_tests.rtt / 2 + bytes / net_of_tests.bandwidth; }

static struct { size_t at; bool good[32]; } checks;     // of the present case, in their order

/* Never early; late by 5 % and 1 ms at most in one of the attempts: the machine may be busy with something else. */
static void check_time(const char *what, double want, double got)
{
    bool near = got < 1.05 * want + 1e-3;
    CHECK(checks.at < 32);
    if (got < want - 1e-3 || !near) fprintf(stderr, "    %s: %.2f ms, not %.2f ms\n", what, got * 1e3, want * 1e3);
    if (got < want - 1e-3) exit(1);
    checks.good[checks.at++] |= near;
}

static bool times_good(void)
{
    bool good = true;
    for (size_t i = 0; i < checks.at; i++) good &= checks.good[i];
    checks.at = 0;
    return good;
}

#define ATTEMPTS(body) \
    do { for (int attempt_ = 0;; attempt_++) { body; if (times_good() || !EXACT) break; CHECK(attempt_ < 20); } } while (0)

static Ends shaped(Ends e)
{
    channel_shape(e.a, &net_of_tests);
    channel_shape(e.b, &net_of_tests);
    return e;
}

typedef struct Script { Channel *c; const size_t *send, *receive; int count; double begin, seconds[4]; } Script;

/* Sends everything, then receives everything, and notes when each was there. */
static void *script_run(void *ctx)
{
    Script *s = ctx;
    static uint8_t zeros[4 << 20];
    uint8_t *in = malloc(sizeof zeros);
    for (int i = 0; i < s->count; i++)
        if (s->send[i]) CHECK_OK(channel_send(s->c, zeros, s->send[i] - FRAME_HEAD_BYTES));
    for (int i = 0; i < s->count; i++) {
        if (s->receive[i]) CHECK_OK(channel_expect(s->c, in, s->receive[i] - FRAME_HEAD_BYTES, "piece"));
        s->seconds[i] = clock_seconds() - s->begin;
    }
    free(in);
    return NULL;
}

static void messages_attempt(Ends e)
{
    static const size_t there[4] = {1000, 2 << 20, 500000, 100}, back[4] = {1 << 20, 0, 3 << 20, 10000};
    Script a = {e.a, there, back, 4, clock_seconds(), {0}}, b = {e.b, back, there, 4, a.begin, {0}};
    pthread_t t = spawn(script_run, &b);
    script_run(&a);
    pthread_join(t, NULL);
    double at_a = 0, at_b = 0;
    for (int i = 0; i < 4; i++) {
        at_a += (double)back[i], at_b += (double)there[i];             // each direction by itself, one message after the other
        check_time("there", one_way(at_b), b.seconds[i]);
        check_time("back", one_way(at_a), a.seconds[i]);
    }
}

TEST_BOTH(shaped_messages_arrive_when_calculated)
{
    shaped(e);
    ATTEMPTS(messages_attempt(e));
    close_both(e);
}

static void rounds_attempt(Ends e)
{
    Rounds there = {e.b, 1000, 10}, here = {e.a, 1000, 10};
    double begin = clock_seconds();
    pthread_t t = spawn(answer_rounds, &there);
    exchange_rounds(&here);
    pthread_join(t, NULL);
    check_time("ten round trips", 20 * one_way(1005), clock_seconds() - begin);
    begin = clock_seconds();
    there.len = here.len = 1 << 20;
    t = spawn(exchange_rounds, &there);
    exchange_rounds(&here);
    pthread_join(t, NULL);
    check_time("ten exchanges of a MB each way", 10 * one_way((1 << 20) + 5), clock_seconds() - begin);
}

TEST_BOTH(shaped_round_trips)
{
    shaped(e);
    ATTEMPTS(rounds_attempt(e));
    close_both(e);
}

static void overlap_attempt(Ends e)
{
    static uint8_t data[4 << 20];
    double begin = clock_seconds();
    CHECK_OK(channel_send(e.a, data, sizeof data));
    check_time("the sender goes on", 0.03, fmax(0.03, clock_seconds() - begin));   // of 94 ms
    usleep(60000);                              // the receiver computes meanwhile
    CHECK_OK(channel_expect(e.b, data, sizeof data, "x"));
    check_time("there", one_way(sizeof data), clock_seconds() - begin);
    begin = clock_seconds();
    CHECK_OK(channel_send(e.a, data, sizeof data));
    usleep(150000);                             // longer than the transfer: there is nothing left to wait for
    CHECK_OK(channel_expect(e.b, data, sizeof data, "x"));
    check_time("the computation alone", 0.15, clock_seconds() - begin);
}

TEST_BOTH(shaped_transfer_overlaps_computation)
{
    shaped(e);
    channel_buffers(e.b, 64 << 20, 64 << 20);
    ATTEMPTS(overlap_attempt(e));
    close_both(e);
}

TEST(net_is_read_strictly)
{
    Net n;
    CHECK_OK(net_parse(&n, "RTT=40ms,BW=200Mbit"));
    CHECK(n.rtt == 40e-3 && n.bandwidth == 25e6 && net_is_shaped(&n));
    CHECK_OK(net_parse(&n, "lan"));
    CHECK(n.rtt == 0.5e-3 && n.bandwidth == 375e6);
    CHECK_OK(net_parse(&n, "loopback"));
    CHECK(!net_is_shaped(&n));
    const char *const bad[] = {"", "moon", "RTT=40ms", "RTT=40,BW=200", "RTT=-1ms,BW=1Mbit", "RTT=1ms,BW=0Mbit", "RTT=nanms,BW=1Mbit",
                               "lan "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK_FAILS(net_parse(&n, bad[i]), "--net is loopback");
}

TEST(one_sided_shape_is_named)
{
    Ends e = memory_pair();
    uint8_t out[100] = {0};
    channel_shape(e.b, &net_of_tests);
    CHECK_OK(channel_send(e.a, out, sizeof out));
    CHECK_FAILS(channel_expect(e.b, out, sizeof out, "x"), "the client does not shape its link");
    close_both(e);
}

static void show_rounds(const char *name, Ends e)
{
    Rounds there = {e.b, 1024, 10000}, here = {e.a, 1024, 10000};
    double start = clock_seconds();
    pthread_t other = spawn(answer_rounds, &there);
    exchange_rounds(&here);
    pthread_join(other, NULL);
    printf("    %s: there and back with 1024 bytes: %.1f us\n", name, (clock_seconds() - start) / here.count * 1e6);
    for (size_t len = 1024; len <= 16 << 20; len *= 128) {
        Rounds a = {e.a, len, (int)((256 << 20) / (len + 16384))}, b = {e.b, len, a.count};
        double begin = clock_seconds();
        pthread_t t = spawn(exchange_rounds, &b);
        exchange_rounds(&a);
        pthread_join(t, NULL);
        double each = (clock_seconds() - begin) / a.count;
        printf("    %s: an exchange of %zu bytes: %.1f us, %.2f GB/s each way\n", name, len, each * 1e6, (double)len / each * 1e-9);
    }
    close_both(e);
}

TEST(exchange_times)            // not a check: shown when MARILL_RATES is set
{
    if (!getenv("MARILL_RATES")) exit(77);
    show_rounds("memory", memory_pair());
    show_rounds("tls", tls_pair());
}

int main(int argc, char **argv)
{
    crypto_init(false);
    return test_main(argc, argv);
}
