/* pool_rate.c - how fast a pool is made, beside the two things that bound it: dealing alone, with words that go nowhere, and a plain
 * sequential write of as many bytes to the same folder. All three by turns, so that whatever else the machine does hits all of them. */
#include "serve/party.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Making {
    const Plan *plan;
    const ModelConfig *config;
    uint64_t *sizes, positions, bytes;
    char path[4096];
    Identity third;
} Making;

/* Any M will do: it is uniform. */
static void pins_random(const SecureNet *net)
{
    Pinned *const *pin;
    Prg prg;
    Buffer b = {0};
    uint8_t seed[KEY_BYTES];
    random_bytes(seed, sizeof seed);
    prg_init(&prg, seed);
    for (size_t i = 0, count = secure_pins(net, &pin); i < count; i++) {
        const size_t len = pinned_setup_bytes(pin[i]);
        b.len = 0;
        buffer_reserve(&b, len);
        prg_bytes(&prg, b.data, len);
        pinned_import(pin[i], b.data);
    }
    buffer_free(&b);
}

static Result making_run(const Making *m, const PoolDeal *deal, bool file)
{
    static const char header[] = "a pool that nobody uses";
    if (!file) return pool_deal(deal);
    GUARD(pool_create(&deal->sink->writer, m->path, header, sizeof header, m->sizes, m->positions));
    Result r = pool_deal(deal);
    if (failed(r)) pool_abandon(deal->sink->writer);
    else r = pool_finish(deal->sink->writer, &m->third);
    return r;
}

/* All words, in bits of the size that moves ask for. */
static Result read_once(double *seconds, const Making *m, const uint8_t seed[KEY_BYTES])
{
    enum { BITE = 4096 };
    Pool *p;
    Tape *t;
    PoolReader reader = {0};
    GUARD(pool_open(&p, m->path, m->third.public_key));
    tape_live(&t, seed, m->positions);
    Result r = OK;
    double begin = clock_seconds();
    for (uint64_t i = 0; i < m->positions && !failed(r); i++) {
        uint8_t key[1][KEY_BYTES];
        const uint8_t *words;
        r = tape_reserve(t, i, 1, key);
        if (!failed(r)) r = pool_read_begin(&reader, p, i, key[0]);
        for (uint64_t left = m->sizes[i], n; left > 0 && !failed(r); left -= n) {
            n = left < BITE ? left : BITE;
            r = pool_read(&reader, &words, n);
        }
    }
    *seconds = clock_seconds() - begin;
    pool_read_end(&reader);
    tape_close(t);
    pool_close(p);
    return r;
}

/* The whole of what `third --write` does between the parties' agreement and its last word, and reading it; or, without, dealing alone. */
static Result deal_once(double *seconds, double *reading, const Making *m)
{
    Arena a;
    Segments c, s;
    PoolSink sink;
    PoolDeal deal = {.client = &c, .server = &s, .sink = &sink, .sizes = m->sizes, .positions = m->positions};
    uint8_t seed[2][KEY_BYTES];
    random_bytes(seed, sizeof seed);
    arena_init(&a, true);
    pool_sink(&sink);
    segments_live(&c, seed[0]);
    segments_live(&s, seed[1]);
    deal.engine = engine_new(ROLE_THIRD, NULL, &sink.feed);
    Result r = secure_new(&deal.net, deal.engine, &a, m->config, m->plan, NULL, NULL);
    if (!failed(r)) {
        pins_random(deal.net);
        double begin = clock_seconds();
        r = making_run(m, &deal, reading);
        *seconds = clock_seconds() - begin;
        ASSERT(failed(r) || sink.bytes == m->bytes);
        if (!failed(r) && reading) r = read_once(reading, m, seed[1]);
    }
    unlink(m->path);
    engine_free(deal.engine);
    segments_free(&c);
    segments_free(&s);
    arena_free(&a);
    wipe(seed, sizeof seed);
    return r;
}

static Result disk_once(double *seconds, const Making *m, const uint8_t *data, size_t len)
{
    int fd = open(m->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return fail(FAIL_SYSTEM, "%s: %s", m->path, strerror(errno));
    double begin = clock_seconds();
    ssize_t n = 0;
    for (uint64_t left = m->bytes; left > 0 && n >= 0; left -= (uint64_t)n) n = write(fd, data, left < len ? (size_t)left : len);
    bool bad = n < 0 || fsync(fd) != 0;
    *seconds = clock_seconds() - begin;
    close(fd);
    unlink(m->path);
    return bad ? fail(FAIL_SYSTEM, "%s: %s", m->path, strerror(errno)) : OK;
}

static double lesser(double so_far, double now) { return so_far == 0 || now < so_far ? now : so_far; }

static Result rates_take(PoolRates *out, const Making *m, unsigned repeat)
{
    enum { CHUNK = 1 << 20 };
    double t, reading;
    Buffer chunk = {0};
    buffer_reserve(&chunk, CHUNK);
    random_bytes(chunk.data, CHUNK);
    Result r = OK;
    for (unsigned i = 0; i < repeat && !failed(r); i++) {
        r = deal_once(&t, NULL, m);
        if (!failed(r)) out->deal = lesser(out->deal, t), r = disk_once(&t, m, chunk.data, CHUNK);
        if (!failed(r)) out->disk = lesser(out->disk, t), r = deal_once(&t, &reading, m);
        if (!failed(r)) out->pool = lesser(out->pool, t), out->read = lesser(out->read, reading);
    }
    buffer_free(&chunk);
    return r;
}

Result pool_rates(PoolRates *out, const Plan *p, const ModelConfig *c, uint32_t positions, const char *folder, unsigned repeat)
{
    Making m = {.plan = p, .config = c, .positions = positions};
    *out = (PoolRates){0};
    if (positions == 0 || positions > p->context - p->known)
        return fail(FAIL_USE, "a pool of %u positions does not fit the plan's context of %u", positions, p->context);
    if (snprintf(m.path, sizeof m.path, "%s/marill-rate-%ld", folder, (long)getpid()) >= (int)sizeof m.path)
        return fail(FAIL_SYSTEM, "%s: too long a path", folder);
    m.sizes = calloc(positions, sizeof *m.sizes);
    if (!m.sizes) bug("out of memory");
    identity_generate(&m.third);
    Result r = pool_sizes(m.sizes, p, c, positions);
    for (uint32_t i = 0; i < positions; i++) m.bytes += m.sizes[i];
    out->bytes = m.bytes;
    if (!failed(r)) r = rates_take(out, &m, repeat);
    identity_free(&m.third);
    free(m.sizes);
    return r;
}
