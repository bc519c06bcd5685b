/* party.c - failing, secrets of a party, segments, words. See party.h. */
#include "serve/party.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- failing ---------------------------------------------------------------------------------------------------------

bool failure_is_public(Result r)
{
    return r.kind == FAIL_PEER || r.kind == FAIL_CRYPTO;
}

Result party_abort(Result r, bool hide, Channel *a, Channel *b)
{
    char text[1024];
    if (!failed(r)) return r;
    snprintf(text, sizeof text, "%s", result_text());
    const char *told = hide ? "its own computation failed" : text;
    if (a) channel_abort(a, told);
    if (b) channel_abort(b, told);
    return fail(r.kind, "%s", text);           // channel_abort leaves a text of its own
}

// ---- what is agreed --------------------------------------------------------------------------------------------------

Result agreement_make(Agreement *out, const Bundle *b)
{
    config_hash(&b->model.config, out->config);
    plan_hash(&b->plan, &b->model.config, out->plan);
    return public_hash(&b->plan, &b->model, out->public_model);
}

const int32_t *bundle_known(const Bundle *b)
{
    ASSERT(b->known_tokens || b->plan.known <= 1);
    return b->known_tokens ? b->known_tokens : &b->model.config.bos;
}

uint32_t bundle_room(const Bundle *b)
{
    return b->plan.context - b->plan.known;
}

void session_seed(uint8_t out[KEY_BYTES], const uint8_t client[KEY_BYTES], const uint8_t provider[KEY_BYTES],
                  const uint8_t session[SESSION_BYTES])
{
    uint8_t key[KEY_BYTES];
    derive_key(key, client, "serve: the client's part of a session", session, SESSION_BYTES);
    derive_key(out, key, "serve: seed of a session", provider, KEY_BYTES);
    wipe(key, sizeof key);
}

/* An Ed25519 signature is a function of key and text, and this text is signed nowhere else. */
static void provider_master(uint8_t out[KEY_BYTES], const Identity *me)
{
    static const char text[] = "marill: the secret behind the pads of this identity; never shown";
    uint8_t signature[64];
    identity_sign(me, signature, text, sizeof text);
    hash_bytes(out, signature, sizeof signature);
    wipe(signature, sizeof signature);
}

Result provider_secrets(uint8_t commitment[HASH_BYTES], uint8_t pad_seed[KEY_BYTES], const Bundle *b, const Identity *me, uint64_t epoch)
{
    uint8_t master[KEY_BYTES], salt[KEY_BYTES], of[2 * HASH_BYTES];
    provider_master(master, me);
    derive_key(master, master, "serve: epoch of the provider", &epoch, sizeof epoch);
    plan_hash(&b->plan, &b->model.config, of + HASH_BYTES);
    derive_key(salt, master, "serve: salt of the private part", of + HASH_BYTES, HASH_BYTES);
    Result r = private_commitment(&b->plan, &b->model, bundle_adapter(b), salt, commitment);
    memcpy(of, commitment, HASH_BYTES);
    derive_key(pad_seed, master, "serve: pads of an epoch", of, sizeof of);
    wipe(master, sizeof master);
    wipe(salt, sizeof salt);
    return r;
}

Result known_prefix(KnownPrefix *out, const Bundle *b, Arena *a)
{
    const Plan *p = &b->plan;
    const float **keys = arena_new(a, const float *, p->layers), **values = arena_new(a, const float *, p->layers);
    if (b->known_given) {
        *out = *b->known_given;
        return OK;
    }
    float *x = arena_new(a, float, (size_t)p->known * b->model.config.width);
    *out = (KnownPrefix){keys, values};
    if (!p->known) return OK;
    PlainState *s = plain_new(&b->model, bundle_adapter(b), p->known, a);
    Variant variant = plan_variant(p);
    plain_vary(s, &variant);
    GUARD(plain_embed(s, x, bundle_known(b), p->known));
    plain_layers(s, x, p->known, 0, b->model.config.layers);
    for (uint32_t l = 0; l < p->layers; l++) {
        keys[l] = plain_keys(s, p->frozen + l);
        values[l] = plain_values(s, p->frozen + l);
    }
    return OK;
}

Result pins_send(Channel *third, const SecureNet *net)
{
    Pinned *const *pin;
    Buffer b = {0};                            // one-time padded: not secret from the third
    Result r = OK;
    size_t count = secure_pins(net, &pin);
    for (size_t i = 0; i < count && !failed(r); i++) {
        b.len = 0;
        buffer_reserve(&b, pinned_setup_bytes(pin[i]));
        pinned_export(pin[i], b.data);
        r = channel_send(third, b.data, pinned_setup_bytes(pin[i]));
    }
    buffer_free(&b);
    return r;
}

Result pins_receive(Channel *provider, SecureNet *net)
{
    Pinned *const *pin;
    Buffer b = {0};
    Result r = OK;
    size_t count = secure_pins(net, &pin);
    for (size_t i = 0; i < count && !failed(r); i++) {
        b.len = 0;
        buffer_reserve(&b, pinned_setup_bytes(pin[i]));
        r = channel_expect(provider, b.data, pinned_setup_bytes(pin[i]), "a pinned matrix");
        if (!failed(r)) pinned_import(pin[i], b.data);
    }
    buffer_free(&b);
    return r;
}

// ---- segments --------------------------------------------------------------------------------------------------------

void segments_live(Segments *s, const uint8_t seed[KEY_BYTES])
{
    *s = (Segments){.keys.secret = true};
    tape_live(&s->tape, seed, LIVE_SEGMENTS);
}

Result segments_check(const Segments *s, uint64_t count)
{
    uint64_t left = tape_segments(s->tape) - s->next;
    if (count <= left) return OK;
    return fail(FAIL_CRYPTO, "the tape is exhausted: %llu positions are wanted and %llu are left of %llu", (unsigned long long)count,
                (unsigned long long)left, (unsigned long long)tape_segments(s->tape));
}

Result segments_reserve(Segments *s, uint64_t count, bool whole)
{
    GUARD(segments_check(s, count));
    if (whole) count = tape_segments(s->tape) - s->next;
    s->keys.len = s->used = 0;
    buffer_reserve(&s->keys, count * KEY_BYTES);
    GUARD(tape_reserve(s->tape, s->next, count, (uint8_t (*)[KEY_BYTES])s->keys.data));
    s->keys.len = count * KEY_BYTES;
    s->end = s->next + count;
    return OK;
}

const uint8_t (*segments_take(Segments *s, size_t rows))[KEY_BYTES]
{
    ASSERT(rows <= s->end - s->next);
    wipe(s->keys.data, s->used * KEY_BYTES);
    const uint8_t *first = s->keys.data + s->used * KEY_BYTES;
    s->used += rows;
    s->next += rows;
    return (const uint8_t (*)[KEY_BYTES])first;
}

const uint8_t (*segments_coming(const Segments *s))[KEY_BYTES]
{
    return (const uint8_t (*)[KEY_BYTES])(s->keys.data + s->used * KEY_BYTES);
}

void segments_end(Segments *s)
{
    if (s->keys.len) wipe(s->keys.data, s->keys.len);
    s->keys.len = s->used = 0;
    s->next = s->end;
}

void segments_free(Segments *s)
{
    buffer_free(&s->keys);
    tape_close(s->tape);
    s->tape = NULL;
}

// ---- live words ------------------------------------------------------------------------------------------------------

static Result live_next(LiveFeed *f, Message *m, double until)
{
    Cursor body;
    if (clock_seconds() > until) return fail(FAIL_PEER, "the third is too slow: its words did not come in time");
    return message_next(f->channel, &f->frame, WORDS_LIMIT, m, &body, "third");
}

static Result live_read(Feed *feed, size_t row, void *out, size_t len)
{
    LiveFeed *f = (LiveFeed *)feed;
    uint8_t *to = out;
    double until = 0;
    (void)row;
    while (len > 0) {
        if (f->at == f->frame.len) {
            Message m;
            if (until == 0) until = clock_seconds() + WORK_SECONDS + (double)len / CHANNEL_LEAST_RATE;
            GUARD(live_next(f, &m, until));
            if (m != MSG_WORDS) return message_unexpected(m, "words", "third");
            f->at = 1;
            f->bytes += f->frame.len - 1;
        }
        size_t n = f->frame.len - f->at < len ? f->frame.len - f->at : len;
        memcpy(to, f->frame.data + f->at, n);
        f->at += n, to += n, len -= n;
    }
    return OK;
}

Result live_feed_flush(LiveFeed *f)
{
    if (f->frame.len <= 1) return OK;
    f->bytes += f->frame.len - 1;
    Result r = channel_send(f->channel, f->frame.data, f->frame.len);
    f->frame.len = 0;
    return r;
}

static Result live_write(Feed *feed, size_t row, const void *data, size_t len)
{
    LiveFeed *f = (LiveFeed *)feed;
    const uint8_t *from = data;
    (void)row;
    while (len > 0) {
        if (f->frame.len == 0) buffer_u8(&f->frame, MSG_WORDS);
        size_t room = WORDS_LIMIT + 1 - f->frame.len, n = len < room ? len : room;
        buffer_append(&f->frame, from, n);
        from += n, len -= n;
        if (f->frame.len == WORDS_LIMIT + 1) GUARD(live_feed_flush(f));
    }
    return OK;
}

void live_feed(LiveFeed *f, Channel *c)
{
    *f = (LiveFeed){.feed = {.read = live_read, .write = live_write}, .channel = c, .frame.secret = true};
}

Result live_feed_drain(LiveFeed *f, uint64_t most)
{
    const uint64_t before = f->bytes;
    const double until = clock_seconds() + WORK_SECONDS + (double)most / CHANNEL_LEAST_RATE;
    Message m = MSG_WORDS;
    if (f->at != f->frame.len) return fail(FAIL_PEER, "the third sent %zu bytes of words more than the batch has", f->frame.len - f->at);
    while (m == MSG_WORDS) {
        GUARD(live_next(f, &m, until));
        if (m == MSG_WORDS) f->bytes += f->frame.len - 1;
        if (f->bytes - before > most) return fail(FAIL_PEER, "the third sent more words than the rows that it was asked for have");
    }
    f->at = f->frame.len;
    return m == MSG_END ? OK : message_unexpected(m, "end", "third");
}

void live_feed_free(LiveFeed *f)
{
    buffer_free(&f->frame);
}

// ---- words of a pool -------------------------------------------------------------------------------------------------

static Result pool_feed_take(Feed *feed, size_t row, const uint8_t **out, size_t len)
{
    PoolFeed *f = (PoolFeed *)feed;
    ASSERT(row < f->rows);
    GUARD(pool_read(&f->row[row], out, len));
    f->bytes += len;
    return OK;
}

static Result pool_feed_read(Feed *feed, size_t row, void *out, size_t len)
{
    const uint8_t *there;
    GUARD(pool_feed_take(feed, row, &there, len));
    memcpy(out, there, len);
    return OK;
}

void pool_feed(PoolFeed *f, Pool *p)
{
    *f = (PoolFeed){.feed = {.read = pool_feed_read, .take = pool_feed_take}, .pool = p};
}

Result pool_feed_load(PoolFeed *f, uint64_t first, size_t rows, const uint8_t (*keys)[KEY_BYTES])
{
    for (size_t r = rows; r < f->rows; r++) pool_read_end(&f->row[r]);   // a prompt has many rows, and is over
    if (rows > f->room) {
        for (size_t r = 0; r < f->room; r++) pool_read_end(&f->row[r]);
        free(f->row);
        f->row = calloc(rows, sizeof *f->row);
        if (!f->row) bug("out of memory");
        f->room = rows;
    }
    f->rows = rows;
    for (size_t r = 0; r < rows; r++) GUARD(pool_read_begin(&f->row[r], f->pool, first + r, keys[r]));
    return OK;
}

void pool_feed_free(PoolFeed *f)
{
    for (size_t r = 0; r < f->room; r++) pool_read_end(&f->row[r]);
    free(f->row);
    *f = (PoolFeed){0};
}
