/* pool.c - the third's words for one conversation, in a file at the provider.
 *
 *     16  magic            the magic and the two numbers are the *prefix*
 *      8  header length
 *      8  segments
 *      .  header           opaque here; H = SHA-256(prefix, header)
 *      .  segments         one after the other, AES-256-GCM under KDF(tape key, "pool: ...", H), bound to (H, index)
 *   24 n  table            of each segment: length (8), tag (16)
 *     64  signature        of the third, over SHA-256(prefix, header, table)
 *
 * A tag is a keyed hash of its segment, and the signature covers all of them: opening a pool checks the signature and that
 * the lengths add up, without reading gigabytes; a segment is checked in full when it is used. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crypto/tools.h"

static const uint8_t magic[16] = "marill pool 1\n";
enum { PREFIX = 32, ENTRY = 8 + SEAL_TAG, SIGNATURE = 64, BOUND = HASH_BYTES + 8 };

static uint64_t u64_at(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* What a segment's seal is bound to, and its key. */
static void segment_terms(uint8_t bound[BOUND], uint8_t key[KEY_BYTES], const uint8_t head_hash[HASH_BYTES], uint64_t i,
                          const uint8_t tape_key[KEY_BYTES])
{
    memcpy(bound, head_hash, HASH_BYTES);
    memcpy(bound + HASH_BYTES, &i, sizeof i);
    derive_key(key, tape_key, "pool: key of a segment", head_hash, HASH_BYTES);
}

/* The message that is signed: a label, and the hash of all but the segments themselves. */
enum { MESSAGE = 16 + HASH_BYTES };
static void pool_message(uint8_t out[MESSAGE], const uint8_t *head, size_t head_len, const uint8_t *table, size_t table_len)
{
    Hash h;
    memcpy(out, "marill pool sign", 16);
    hash_init(&h);
    hash_add(&h, head, head_len);
    hash_add(&h, table, table_len);
    hash_end(&h, out + 16);
}

// ---- writing ---------------------------------------------------------------------------------------------------------

struct PoolWriter {
    char *path, *temporary;
    int fd;
    uint64_t segments, written;
    uint8_t head_hash[HASH_BYTES];
    Buffer head, table, sealed;
};

static void writer_free(PoolWriter *w)
{
    buffer_free(&w->head);
    buffer_free(&w->table);
    buffer_free(&w->sealed);
    free(w->path);
    free(w);
}

void pool_abandon(PoolWriter *w)
{
    if (!w) return;
    file_drop(w->fd, w->temporary);
    writer_free(w);
}

Result pool_create(PoolWriter **out, const char *path, const void *header, size_t header_len, uint64_t segments)
{
    if (file_exists(path)) return fail(FAIL_SYSTEM, "%s: exists already, and is not overwritten", path);
    PoolWriter *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) bug("out of memory");
    Result r = file_begin(&w->fd, &w->temporary, path);
    if (failed(r)) {
        writer_free(w);
        return r;
    }
    w->segments = segments;
    buffer_append(&w->head, magic, sizeof magic);
    buffer_u64(&w->head, header_len);
    buffer_u64(&w->head, segments);
    buffer_append(&w->head, header, header_len);
    hash_bytes(w->head_hash, w->head.data, w->head.len);
    r = file_put(w->fd, path, w->head.data, w->head.len);
    if (failed(r)) pool_abandon(w);
    else *out = w;
    return r;
}

Result pool_append(PoolWriter *w, const uint8_t tape_key[KEY_BYTES], const void *data, size_t len)
{
    uint8_t bound[BOUND], key[KEY_BYTES], tag[SEAL_TAG];
    ASSERT(w->written < w->segments);
    segment_terms(bound, key, w->head_hash, w->written, tape_key);
    w->sealed.len = 0;
    buffer_reserve(&w->sealed, len);
    seal(w->sealed.data, tag, key, bound, sizeof bound, data, len);
    wipe(key, sizeof key);
    buffer_u64(&w->table, len);
    buffer_append(&w->table, tag, sizeof tag);
    w->written++;
    return file_put(w->fd, w->path, w->sealed.data, len);
}

Result pool_finish(PoolWriter *w, const Identity *third)
{
    uint8_t message[MESSAGE], signature[SIGNATURE];
    ASSERT(w->written == w->segments);
    pool_message(message, w->head.data, w->head.len, w->table.data, w->table.len);
    identity_sign(third, signature, message, sizeof message);
    buffer_append(&w->table, signature, sizeof signature);
    Result r = file_put(w->fd, w->path, w->table.data, w->table.len);
    if (failed(r)) {
        pool_abandon(w);
        return r;
    }
    r = file_place(w->fd, w->temporary, w->path);
    writer_free(w);
    return r;
}

// ---- reading ---------------------------------------------------------------------------------------------------------

struct Pool {
    FileMap map;
    char *path;
    size_t header_len;
    uint64_t segments;
    uint64_t *offset;                          // (segments + 1) places in the file
    const uint8_t *table;
    uint8_t head_hash[HASH_BYTES];
};

void pool_close(Pool *p)
{
    if (!p) return;
    file_unmap(&p->map);
    free(p->offset);
    free(p->path);
    free(p);
}

/* Settles where everything is: every length is compared with what is left of the file before it is believed. */
static Result pool_measure(Pool *p)
{
    const uint8_t *data = p->map.data;
    if (p->map.len < PREFIX + SIGNATURE || memcmp(data, magic, sizeof magic) != 0) return fail(FAIL_DATA, "%s: is not a pool", p->path);
    uint64_t left = p->map.len - PREFIX - SIGNATURE, header_len = u64_at(data + 16);
    p->segments = u64_at(data + 24);
    if (header_len > left) return fail(FAIL_DATA, "%s: is cut short: its header has %" PRIu64 " bytes", p->path, header_len);
    left -= header_len;
    if (p->segments > left / ENTRY) return fail(FAIL_DATA, "%s: is cut short: it says %" PRIu64 " segments", p->path, p->segments);
    left -= p->segments * ENTRY;
    p->header_len = (size_t)header_len;
    p->table = data + p->map.len - SIGNATURE - p->segments * ENTRY;
    p->offset = calloc((size_t)p->segments + 1, sizeof *p->offset);
    if (!p->offset) bug("out of memory");
    p->offset[0] = PREFIX + header_len;
    for (uint64_t i = 0; i < p->segments; i++) {
        uint64_t len = u64_at(p->table + i * ENTRY);
        if (len > left) return fail(FAIL_DATA, "%s: is cut short or altered: segment %" PRIu64 " does not fit", p->path, i);
        left -= len;
        p->offset[i + 1] = p->offset[i] + len;
    }
    if (left > 0) return fail(FAIL_DATA, "%s: is altered: %" PRIu64 " bytes belong to no segment", p->path, left);
    return OK;
}

static Result pool_check(Pool *p, const uint8_t third[32])
{
    uint8_t message[MESSAGE];
    GUARD(file_map(&p->map, p->path));
    GUARD(pool_measure(p));
    pool_message(message, p->map.data, PREFIX + p->header_len, p->table, (size_t)p->segments * ENTRY);
    if (!identity_verify(third, p->map.data + p->map.len - SIGNATURE, message, sizeof message))
        return fail(FAIL_CRYPTO, "%s: is not signed by this third party, or was altered", p->path);
    hash_bytes(p->head_hash, p->map.data, PREFIX + p->header_len);
    return OK;
}

Result pool_open(Pool **out, const char *path, const uint8_t third[32])
{
    Pool *p = calloc(1, sizeof *p);
    if (!p || !(p->path = strdup(path))) bug("out of memory");
    Result r = pool_check(p, third);
    if (failed(r)) pool_close(p);
    else *out = p;
    return r;
}

void pool_header(const Pool *p, const uint8_t **data, size_t *len)
{
    *data = p->map.data + PREFIX;
    *len = p->header_len;
}

uint64_t pool_segments(const Pool *p)
{
    return p->segments;
}

Result pool_segment(Pool *p, Buffer *out, uint64_t i, const uint8_t tape_key[KEY_BYTES])
{
    uint8_t bound[BOUND], key[KEY_BYTES];
    if (i >= p->segments) return fail(FAIL_CRYPTO, "%s: is used up: it has %" PRIu64 " segments", p->path, p->segments);
    const size_t len = (size_t)(p->offset[i + 1] - p->offset[i]);
    segment_terms(bound, key, p->head_hash, i, tape_key);
    out->len = 0;
    out->secret = true;
    buffer_reserve(out, len);
    bool good = unseal(out->data, p->table + i * ENTRY + 8, key, bound, sizeof bound, p->map.data + p->offset[i], len);
    wipe(key, sizeof key);
    if (!good) return fail(FAIL_CRYPTO, "%s: segment %" PRIu64 " was altered, or is not of this tape", p->path, i);
    out->len = len;
    return OK;
}
