/* bench_limits.c - what this machine gives: the processor's units, its caches and memory, TCP and TLS on loopback. */
#include "app/bench.h"
#include "app/forecast.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// ---- units -----------------------------------------------------------------------------------------------------------

typedef struct Unit { uint64_t (*run)(uint64_t steps); uint64_t steps; atomic_uint_fast64_t done; } Unit;

static void unit_part(void *ctx, size_t begin, size_t end)
{
    Unit *u = ctx;
    for (size_t i = begin; i < end; i++) atomic_fetch_add(&u->done, u->run(u->steps));
}

/* Every thread does the same. */
static double unit_run(uint64_t (*run)(uint64_t steps), uint64_t steps)
{
    Unit u = {.run = run, .steps = steps};
    parallel_for(threads_count(), 1, unit_part, &u);
    return (double)u.done;
}

double bout_aes(void *ctx, uint64_t times) { (void)ctx; return unit_run(limit_aes, times * 256); }
double bout_bytes(void *ctx, uint64_t times) { (void)ctx; return unit_run(limit_bytes, times * 2048); }
double bout_products(void *ctx, uint64_t times) { (void)ctx; return unit_run(limit_products, times * 2048); }

typedef struct Loading { const LoadBout *b; uint64_t times; } Loading;

static void load_part(void *ctx, size_t begin, size_t end)
{
    const Loading *l = ctx;
    for (size_t i = begin; i < end; i++) (void)limit_load(l->b->data + i * l->b->len, l->b->len, l->times);
}

double bout_load(void *ctx, uint64_t times)
{
    const LoadBout *b = ctx;
    parallel_for(threads_count(), 1, load_part, &(Loading){b, times});
    return (double)b->len * (double)times * threads_count();
}

// ---- loopback --------------------------------------------------------------------------------------------------------

enum { MESSAGE = 1 << 22, PING = 64 };

/* One end of a connection, over TCP or over a channel; the other end is a thread that answers. */
typedef struct Loop {
    int fd;
    Channel *channel;
    Listener *listener;
    Identity me, peer;
    uint8_t *message;
    pthread_t thread;
    Result end;                                // of the thread
    char why[256];
} Loop;

static Result all_of(ssize_t (*move)(int fd, void *p, size_t len), int fd, uint8_t *p, size_t len)
{
    while (len > 0) {
        ssize_t n = move(fd, p, len);
        if (n <= 0) return fail(FAIL_SYSTEM, "loopback: %s", n < 0 ? strerror(errno) : "closed");
        p += n, len -= (size_t)n;
    }
    return OK;
}

static ssize_t give(int fd, void *p, size_t len) { return send(fd, p, len, MSG_NOSIGNAL); }
static ssize_t take(int fd, void *p, size_t len) { return recv(fd, p, len, 0); }

static Result loop_send(Loop *l, size_t len)
{
    return l->channel ? channel_send(l->channel, l->message, len) : all_of(give, l->fd, l->message, len);
}

static Result loop_receive(Loop *l, size_t len)
{
    return l->channel ? channel_expect(l->channel, l->message, len, "loopback") : all_of(take, l->fd, l->message, len);
}

/* The answering end: a first byte says what follows, a message (then one byte back) or a ping (then it comes back). */
static Result loop_answer(Loop *l)
{
    for (;;) {
        GUARD(loop_receive(l, PING));
        uint8_t what = l->message[0];
        if (what == 'm') GUARD(loop_receive(l, MESSAGE));
        if (what == 'e') return OK;
        GUARD(loop_send(l, PING));
    }
}

/* `times` pings, each with a message behind it if `message`; the answer to each is awaited. */
static void loop_turns(Loop *l, uint64_t times, bool message)
{
    Result r = OK;
    for (uint64_t i = 0; i < times && !failed(r); i++) {
        l->message[0] = message ? 'm' : 'p';
        r = loop_send(l, PING);
        if (!failed(r) && message) r = loop_send(l, MESSAGE);
        if (!failed(r)) r = loop_receive(l, PING);
    }
    if (failed(r)) l->end = r, snprintf(l->why, sizeof l->why, "%s", result_text());
}

static double loop_messages(void *ctx, uint64_t times)
{
    loop_turns(ctx, times, true);
    return (double)times * MESSAGE;
}

static double loop_pings(void *ctx, uint64_t times)
{
    loop_turns(ctx, times, false);
    return (double)times;
}

static void *tcp_thread(void *ctx)
{
    int listening = *(int *)ctx, fd = accept(listening, NULL, NULL), on = 1;
    Loop l = {.fd = fd, .message = bench_memory(MESSAGE)};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fd >= 0) (void)failed(loop_answer(&l));    // the asking end sees what went wrong
    if (fd >= 0) close(fd);
    free(l.message);
    return NULL;
}

static void *tls_thread(void *ctx)
{
    const Loop *asking = ctx;
    Loop l = {.fd = -1, .message = bench_memory(MESSAGE)};
    size_t which;
    Result r = channel_accept(&l.channel, &which, asking->listener, &asking->peer, (const uint8_t (*)[32])asking->me.public_key, 1, 10);
    if (!failed(r)) (void)failed(loop_answer(&l));
    channel_close(l.channel);
    free(l.message);
    return NULL;
}

static Result loop_race(Loop *l, Bout bout[2], double seconds)
{
    bout[0] = (Bout){.run = loop_messages, .ctx = l}, bout[1] = (Bout){.run = loop_pings, .ctx = l};
    bench_race(bout, 2, seconds);
    if (failed(l->end)) return fail(l->end.kind, "%s", l->why);
    l->message[0] = 'e';
    return loop_send(l, PING);
}

static void loop_figures(Figures *r, const Bout bout[2], const char *name)
{
    figure_rate(r, "GB/s", 1e9, &bout[0], "loopback %s, one way", name);
    figure_time(r, "us", 1e6, &bout[1], "loopback %s, round trip of %d bytes", name, PING);
}

static Result tcp_measure(Bout bout[2], double seconds)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    Loop l = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    bool good = listening >= 0 && l.fd >= 0 && bind(listening, (struct sockaddr *)&at, len) == 0 && listen(listening, 1) == 0 &&
                getsockname(listening, (struct sockaddr *)&at, &len) == 0 && pthread_create(&l.thread, NULL, tcp_thread, &listening) == 0;
    Result result = good ? OK : fail(FAIL_SYSTEM, "loopback: %s", strerror(errno));
    if (good) {
        l.message = bench_memory(MESSAGE);
        setsockopt(l.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (connect(l.fd, (struct sockaddr *)&at, len) != 0) result = fail(FAIL_SYSTEM, "loopback: %s", strerror(errno));
        else result = loop_race(&l, bout, seconds);
        shutdown(listening, SHUT_RDWR);        // wakes an accept that nobody will answer
        close(l.fd), l.fd = -1;
        pthread_join(l.thread, NULL);
    }
    if (l.fd >= 0) close(l.fd);
    if (listening >= 0) close(listening);
    free(l.message);
    return result;
}

static Result tls_measure(Bout bout[2], double seconds)
{
    Loop l = {.fd = -1};
    identity_generate(&l.me), identity_generate(&l.peer);
    Result result = listener_open(&l.listener, "127.0.0.1", 0);
    if (!failed(result) && pthread_create(&l.thread, NULL, tls_thread, &l) != 0) result = fail(FAIL_SYSTEM, "cannot start a thread");
    else if (!failed(result)) {
        l.message = bench_memory(MESSAGE);
        result = channel_connect(&l.channel, "127.0.0.1", listener_port(l.listener), &l.me, l.peer.public_key, 10);
        if (!failed(result)) result = loop_race(&l, bout, seconds);
        channel_close(l.channel);
        pthread_join(l.thread, NULL);
    }
    listener_close(l.listener);
    identity_free(&l.me), identity_free(&l.peer);
    free(l.message);
    return result;
}

Result loopback_measure(double *bandwidth, double *latency)
{
    Bout bout[2];
    GUARD(tls_measure(bout, 0.05));
    *bandwidth = bout[0].best, *latency = 0.5 / bout[1].median;
    return OK;
}

// ---- all of it -------------------------------------------------------------------------------------------------------

Result bench_limits(const BenchArgs *k)
{
    enum { L1 = 16 << 10, L2 = 512 << 10, MEMORY = 256 << 20 };
    Figures r = {.name = "limits"};
    unsigned threads = threads_count();
    uint8_t *data = bench_memory((size_t)MEMORY);
    LoadBout l1 = {data, L1}, l2 = {data, L2}, memory = {data, MEMORY / threads / 64 * 64};
    Bout bout[] = {{.run = bout_aes}, {.run = bout_bytes}, {.run = bout_products},
                   {.run = bout_load, .ctx = &l1}, {.run = bout_load, .ctx = &l2}, {.run = bout_load, .ctx = &memory}};
    bench_race(bout, 6, 3 * k->seconds);
    free(data);
    figure_rate(&r, "G/s", 1e9, &bout[0], "AES-128 blocks");
    figure_time(&r, "ns", 1e9 * threads, &bout[0], "one AES-128 block");
    figure_rate(&r, "G/s", 1e9, &bout[1], "multiply-adds of bytes");
    figure_rate(&r, "G/s", 1e9, &bout[2], "multiply-adds of 52 bits");
    figure_rate(&r, "GB/s", 1e9, &bout[3], "loads of 16 KiB a thread (L1)");
    figure_rate(&r, "GB/s", 1e9, &bout[4], "loads of 512 KiB a thread (L2)");
    figure_rate(&r, "GB/s", 1e9, &bout[5], "loads of 256 MiB (memory)");
    Bout loop[2];
    GUARD(tcp_measure(loop, k->seconds));
    loop_figures(&r, loop, "TCP");
    GUARD(tls_measure(loop, k->seconds));
    loop_figures(&r, loop, "TLS");
    figures_print(&r, k->json);
    return OK;
}
