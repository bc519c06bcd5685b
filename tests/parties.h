/* parties.h - C, S and T as three threads over memory channels, and CLEAR beside them on the same seeds: the same program is
 * run by all four, and what they record is compared bit for bit. */
#ifndef MARILL_PARTIES_H
#define MARILL_PARTIES_H

#include <pthread.h>
#include "mpc/mpc.h"
#include "test.h"

typedef struct MemoryFeed { Feed feed; Channel *channel; } MemoryFeed;

static inline Result memory_read(Feed *f, size_t row, void *out, size_t len) { (void)row; return channel_read(((MemoryFeed *)f)->channel, out, len); }
static inline Result memory_write(Feed *f, size_t row, const void *data, size_t len) { (void)row; return channel_send(((MemoryFeed *)f)->channel, data, len); }

enum { PARTY_RECORDS = 64 };
typedef struct Record { size_t len; unsigned n; uint64_t *c, *s; } Record;

typedef struct Party {
    Engine *engine;
    Role role;
    Arena session;
    Record record[PARTY_RECORDS];
    size_t records;
    void (*program)(struct Party *);
    void *ctx;
} Party;

static uint64_t *copy_words(Arena *a, const uint64_t *w, size_t len)
{
    if (!w) return NULL;
    uint64_t *c = arena_new(a, uint64_t, len);
    memcpy(c, w, len * sizeof *c);
    return c;
}

/* Keeps a wire's shares for the comparison. */
static inline void party_record(Party *p, Wire w)
{
    ASSERT(p->records < PARTY_RECORDS);
    size_t len = layout_len(w.at);
    p->record[p->records++] = (Record){len, w.n, copy_words(&p->session, w.c.word, len), copy_words(&p->session, w.s.word, len)};
}

/* Pinned matrices go from S to T as in a session's setup. */
typedef struct PinLink { pthread_mutex_t lock; pthread_cond_t ready; uint8_t *bytes; } PinLink;
static PinLink pin_link = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL};

static inline void party_pin(Party *p, Pinned *m)
{
    if (p->role != ROLE_SERVER && p->role != ROLE_THIRD) return;
    pthread_mutex_lock(&pin_link.lock);
    if (p->role == ROLE_SERVER) {
        while (pin_link.bytes) pthread_cond_wait(&pin_link.ready, &pin_link.lock);
        pin_link.bytes = malloc(pinned_setup_bytes(m));
        pinned_export(m, pin_link.bytes);
    } else {
        while (!pin_link.bytes) pthread_cond_wait(&pin_link.ready, &pin_link.lock);
        pinned_import(m, pin_link.bytes);
        free(pin_link.bytes);
        pin_link.bytes = NULL;
    }
    pthread_cond_broadcast(&pin_link.ready);
    pthread_mutex_unlock(&pin_link.lock);
}

static void segment_keys(uint8_t (*keys)[KEY_BYTES], uint64_t first, size_t rows, uint8_t tag)
{
    for (size_t r = 0; r < rows; r++) {
        uint8_t seed[KEY_BYTES] = {tag};
        uint64_t i = first + r;
        derive_key(keys[r], seed, "segment of a test", &i, sizeof i);
    }
}

static inline void party_begin(Party *p, size_t rows, uint64_t first)
{
    uint8_t c[256][KEY_BYTES], s[256][KEY_BYTES];
    ASSERT(rows <= 256);
    segment_keys(c, first, rows, 1), segment_keys(s, first, rows, 2);
    bool third = p->role == ROLE_THIRD || p->role == ROLE_CLEAR;
    engine_begin(p->engine, rows, first, p->role == ROLE_CLIENT || third ? (const uint8_t (*)[KEY_BYTES])c : NULL,
                 p->role == ROLE_SERVER || third ? (const uint8_t (*)[KEY_BYTES])s : NULL);
}

static void party_seed(Party *p)
{
    static const uint8_t seed[KEY_BYTES] = {3}, pad[KEY_BYTES] = {4};
    arena_init(&p->session, false);
    if (p->role != ROLE_THIRD && p->role != ROLE_COUNT) engine_shared_seed(p->engine, seed), engine_pad_seed(p->engine, pad);
}

/* One role with nobody to talk to: CLEAR, COUNT, or T before it deals. */
static inline void party_alone(Party *p, Role role)
{
    *p = (Party){.role = role, .engine = engine_new(role, NULL, NULL)};
    party_seed(p);
}

static inline void party_end(Party *p)
{
    engine_free(p->engine);
    arena_free(&p->session);
}

static void *party_thread(void *ctx)
{
    Party *p = ctx;
    party_seed(p);
    p->program(p);
    return NULL;
}

/* Runs the program as all five roles; party[role] afterwards holds what each recorded. */
static inline void parties_run(Party party[5], void (*program)(Party *), void *ctx)
{
    Channel *cs[2], *ts[2];
    channel_memory(&cs[0], &cs[1]);
    channel_memory(&ts[0], &ts[1]);
    static MemoryFeed read, write;
    read = (MemoryFeed){{.read = memory_read}, ts[0]}, write = (MemoryFeed){{.write = memory_write}, ts[1]};
    pthread_t thread[5];
    for (int r = ROLE_CLIENT; r <= ROLE_COUNT; r++) {
        party[r] = (Party){.role = (Role)r, .program = program, .ctx = ctx};
        party[r].engine = engine_new((Role)r, r == ROLE_CLIENT ? cs[0] : r == ROLE_SERVER ? cs[1] : NULL,
                                     r == ROLE_SERVER ? &read.feed : r == ROLE_THIRD ? &write.feed : NULL);
        pthread_create(&thread[r], NULL, party_thread, &party[r]);
    }
    for (int r = ROLE_CLIENT; r <= ROLE_COUNT; r++) pthread_join(thread[r], NULL);
    Cost c = engine_cost(party[ROLE_COUNT].engine), s = engine_cost(party[ROLE_SERVER].engine), t = engine_cost(party[ROLE_THIRD].engine);
    CHECK_EQUAL(s.exchanges, c.exchanges);
    CHECK_EQUAL(s.bytes.client_to_server, c.bytes.client_to_server);
    CHECK_EQUAL(s.bytes.server_to_client, c.bytes.server_to_client);
    CHECK_EQUAL(s.bytes.third_to_server, c.bytes.third_to_server);
    CHECK_EQUAL(t.bytes.third_to_server, c.bytes.third_to_server);
    CHECK_EQUAL(channel_count(cs[0]).sent, c.bytes.client_to_server);
    CHECK_EQUAL(channel_count(cs[1]).sent, c.bytes.server_to_client);
    CHECK_EQUAL(channel_count(ts[1]).sent, c.bytes.third_to_server);
    for (int i = 0; i < 2; i++) channel_close(cs[i]), channel_close(ts[i]);
}

static inline void parties_end(Party party[5])
{
    for (int r = ROLE_CLIENT; r <= ROLE_COUNT; r++) party_end(&party[r]);
}

/* C's and S's recorded shares must be those of CLEAR, in the wire's ring. */
static inline void parties_compare(const Party party[5])
{
    const Party *clear = &party[ROLE_CLEAR];
    CHECK_EQUAL(clear->records, party[ROLE_CLIENT].records);
    for (size_t k = 0; k < clear->records; k++)
        for (size_t i = 0; i < clear->record[k].len; i++) {
            unsigned n = clear->record[k].n;
            uint64_t c = ring_low(clear->record[k].c[i], n), s = ring_low(clear->record[k].s[i], n);
            if (c != ring_low(party[ROLE_CLIENT].record[k].c[i], n) || s != ring_low(party[ROLE_SERVER].record[k].s[i], n)) {
                fprintf(stderr, "record %zu, word %zu of %zu: ideal value %lld, real %lld (ring %u), client share %s\n", k, i, clear->record[k].len,
                        (long long)ring_signed(c + s, n), (long long)ring_signed(party[ROLE_CLIENT].record[k].c[i] + party[ROLE_SERVER].record[k].s[i], n), n,
                        c == ring_low(party[ROLE_CLIENT].record[k].c[i], n) ? "equal" : "differs");
                exit(1);
            }
        }
}

/* The value of word i of record k. */
static inline double record_value(const Party *p, size_t k, size_t i, unsigned f)
{
    return ldexp((double)ring_signed(p->record[k].c[i] + p->record[k].s[i], p->record[k].n), -(int)f);
}

#endif
