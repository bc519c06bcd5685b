/* pool.c - the third's words for one conversation, in a file at the provider.
 *
 *     16  magic
 *      8  header length
 *      8  segments n
 *      .  header           opaque here
 *    8 n  sizes            bytes of each segment
 *      .  segments         one after the other, each in pieces of 64 KB (the last is what is left)
 *     16  a piece          its tag
 *     64  signature        of the third, over SHA-256(all before the segments, tags)
 *
 * H is the hash of all before the segments. A piece is AES-256-GCM under KDF(tape key, "pool: ...", H) with its number as nonce, bound to
 * (H, segment, piece): a keyed hash that is chained to the header. The signature covers all tags, so opening a pool checks it
 * without reading gigabytes, and a piece is checked in full when it is used; nothing of it is given out before.
 *
 * Dealing keeps a core busy, and so does sealing and copying to the disk's cache: a thread of the writer's own does these, a few pieces
 * behind. It is outside of base's pool of threads, as it waits for a disk.
 *
 * Reading is pread and not mmap: a file that is cut while it is mapped ends the process with SIGBUS, whatever was checked before, and
 * every byte passes through AES on its way to secret memory anyhow, 64 KB at a time, which stay in the cache. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "crypto/tools.h"

static const uint8_t magic[16] = "marill pool 2\n";
enum {
    PREFIX = 32, SIGNATURE = 64, BOUND = HASH_BYTES + 16,
    PIECE = 64 << 10,
    WRITE_BACK = 8 << 20,                      // the disk is told to begin after so many bytes, while more are dealt
    SLOTS = 32,                                // pieces between dealing and the disk
    AHEAD = 4 * PIECE                          // and to read so many before they are asked for
};

static uint64_t u64_at(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t pieces_of(uint64_t size)
{
    return size / PIECE + (size % PIECE != 0);
}

static void piece_bound(uint8_t bound[BOUND], const uint8_t head_hash[HASH_BYTES], uint64_t segment, uint64_t piece)
{
    memcpy(bound, head_hash, HASH_BYTES);
    memcpy(bound + HASH_BYTES, &segment, 8);
    memcpy(bound + HASH_BYTES + 8, &piece, 8);
}

static void segment_key(uint8_t out[KEY_BYTES], const uint8_t tape_key[KEY_BYTES], const uint8_t head_hash[HASH_BYTES])
{
    derive_key(out, tape_key, "pool: key of a segment", head_hash, HASH_BYTES);
}

/* The message that is signed: a label, and the hash of all but the segments themselves. */
enum { MESSAGE = 16 + HASH_BYTES };
static void pool_message(uint8_t out[MESSAGE], const uint8_t *head, size_t head_len, const uint8_t *tags, size_t tags_len)
{
    Hash h;
    memcpy(out, "marill pool sign", 16);
    hash_init(&h);
    hash_add(&h, head, head_len);
    hash_add(&h, tags, tags_len);
    hash_end(&h, out + 16);
}

static void *zeroed(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    if (!p) bug("out of memory");
    return p;
}

// ---- writing ---------------------------------------------------------------------------------------------------------

typedef struct Row {                           // a segment that is being written
    uint64_t segment, left, piece;             // bytes to come, pieces written
    uint64_t at, tag;                          // in the file; which tag is next
    uint8_t key[KEY_BYTES];
    uint8_t *plain;                            // (PIECE), of which so many are filled
    size_t filled;
} Row;

typedef struct Slot {                          // a piece on its way
    uint64_t segment, piece, at, tag;
    size_t len;
    uint8_t key[KEY_BYTES], *plain;            // plain (PIECE)
} Slot;

struct PoolWriter {
    char *path, *temporary;
    int fd;
    pthread_t thread;                          // seals and writes
    pthread_mutex_t lock;
    pthread_cond_t change;
    Arena arena;                               // secret: the slots, and what is plain in them and in the rows
    Slot *slot;                                // (SLOTS), a ring
    size_t first, waiting;                     // under the lock: of the ring; and the next three
    bool running, end;
    Failure failure;                           // what the thread met, with its text
    char why[512];
    uint64_t segments, begun;
    uint64_t at, tag;                          // of the next segment to begin
    uint64_t data_end;
    uint64_t unsynced;                         // the thread's, and `sealed` is
    uint8_t head_hash[HASH_BYTES];
    Buffer head, tags;
    Row *row;
    size_t rows, room;
    uint8_t sealed[PIECE];
};

static Result put_at(int fd, const char *path, uint64_t at, const void *data, size_t len)
{
    const uint8_t *from = data;
    while (len > 0) {
        ssize_t n = pwrite(fd, from, len, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
        from += n, at += (size_t)n, len -= (size_t)n;
    }
    return OK;
}

static Result slot_write(PoolWriter *w, Slot *s)
{
    uint8_t bound[BOUND];
    piece_bound(bound, w->head_hash, s->segment, s->piece);
    seal(w->sealed, w->tags.data + s->tag * SEAL_TAG, s->key, s->piece, bound, sizeof bound, s->plain, s->len);
    wipe(s->key, sizeof s->key);
    GUARD(put_at(w->fd, w->path, s->at, w->sealed, s->len));
    w->unsynced += s->len;
    if (w->unsynced < WRITE_BACK) return OK;
    w->unsynced = 0;
    (void)sync_file_range(w->fd, 0, 0, SYNC_FILE_RANGE_WRITE);         // a hint: pool_finish syncs and hears of failures
    return OK;
}

/* After a failure it goes on to take pieces, and drops them: who deals is not left waiting, and hears of it with the next one. */
static void *writer_run(void *ctx)
{
    PoolWriter *w = ctx;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (w->waiting == 0 && !w->end) pthread_cond_wait(&w->change, &w->lock);
        if (w->waiting == 0) break;
        Slot *s = &w->slot[w->first];
        bool good = w->failure == FAIL_NONE;
        pthread_mutex_unlock(&w->lock);
        Result r = good ? slot_write(w, s) : OK;
        pthread_mutex_lock(&w->lock);
        if (failed(r)) {
            w->failure = r.kind;
            snprintf(w->why, sizeof w->why, "%s", result_text());
        }
        w->first = (w->first + 1) % SLOTS;
        if (w->waiting-- == SLOTS) pthread_cond_signal(&w->change);    // else nobody waits for room
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void writer_start(PoolWriter *w)
{
    sigset_t all, before;
    arena_init(&w->arena, true);
    w->slot = arena_new(&w->arena, Slot, SLOTS);
    for (size_t i = 0; i < SLOTS; i++) w->slot[i].plain = arena_new(&w->arena, uint8_t, PIECE);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);                       // signals are for the threads that were there
    if (pthread_create(&w->thread, NULL, writer_run, w) != 0) bug("cannot start a thread");
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    w->running = true;
}

/* Ends it when all pieces are written. */
static Result writer_stop(PoolWriter *w)
{
    if (!w->running) return OK;
    pthread_mutex_lock(&w->lock);
    w->end = true;
    pthread_cond_broadcast(&w->change);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    w->running = false;
    return w->failure == FAIL_NONE ? OK : fail(w->failure, "%s", w->why);
}

static void writer_free(PoolWriter *w)
{
    if (w->row) wipe(w->row, w->room * sizeof *w->row);
    free(w->row);
    arena_free(&w->arena);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->change);
    buffer_free(&w->head);
    buffer_free(&w->tags);
    free(w->path);
    free(w);
}

void pool_abandon(PoolWriter *w)
{
    if (!w) return;
    (void)failed(writer_stop(w));
    file_drop(w->fd, w->temporary);
    writer_free(w);
}

static uint64_t size_in_head(const Buffer *head, uint64_t i)
{
    return u64_at(head->data + PREFIX + u64_at(head->data + 16) + 8 * i);
}

static Result room_take(const PoolWriter *w, uint64_t size)
{
    struct statvfs s;
    bool small = fstatvfs(w->fd, &s) == 0 && size / s.f_frsize >= s.f_bavail;
    if (!small && fallocate(w->fd, 0, 0, (off_t)size) != 0) small = errno == ENOSPC || errno == EFBIG || errno == EDQUOT;
    return small ? fail(FAIL_SYSTEM, "%s: no room for %" PRIu64 " MB", w->path, size / 1000000) : OK;   // not every file system can tell
}

/* Head, and the room for all the rest: a disk that is too small is found before anything is dealt. */
static Result writer_begin(PoolWriter *w, const void *header, size_t header_len, const uint64_t *sizes)
{
    uint64_t size = 0, pieces = 0;
    buffer_append(&w->head, magic, sizeof magic);
    buffer_u64(&w->head, header_len);
    buffer_u64(&w->head, w->segments);
    buffer_append(&w->head, header, header_len);
    for (uint64_t i = 0; i < w->segments; i++) {
        buffer_u64(&w->head, sizes[i]);
        size += sizes[i];
        pieces += pieces_of(sizes[i]);
    }
    hash_bytes(w->head_hash, w->head.data, w->head.len);
    w->at = w->head.len;
    w->data_end = w->at + size;
    GUARD(room_take(w, w->data_end + pieces * SEAL_TAG + SIGNATURE));
    buffer_reserve(&w->tags, (size_t)pieces * SEAL_TAG + SIGNATURE);
    w->tags.len = (size_t)pieces * SEAL_TAG;
    return put_at(w->fd, w->path, 0, w->head.data, w->head.len);
}

Result pool_create(PoolWriter **out, const char *path, const void *header, size_t header_len, const uint64_t *sizes, uint64_t segments)
{
    if (file_exists(path)) return fail(FAIL_SYSTEM, "%s: exists already, and is not overwritten", path);
    PoolWriter *w = zeroed(1, sizeof *w);
    if (!(w->path = strdup(path))) bug("out of memory");
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->change, NULL);
    Result r = file_begin(&w->fd, &w->temporary, path);
    if (failed(r)) {
        writer_free(w);
        return r;
    }
    w->segments = segments;
    r = writer_begin(w, header, header_len, sizes);
    if (failed(r)) {
        pool_abandon(w);
        return r;
    }
    writer_start(w);
    *out = w;
    return OK;
}

static void rows_end(PoolWriter *w)
{
    for (size_t r = 0; r < w->rows; r++) {
        ASSERT(w->row[r].left == 0);
        wipe(w->row[r].key, KEY_BYTES);
    }
    w->rows = 0;
}

void pool_begin(PoolWriter *w, size_t count, const uint8_t (*tape_keys)[KEY_BYTES])
{
    ASSERT(count <= w->segments - w->begun);
    rows_end(w);
    if (count > w->room) {
        w->row = realloc(w->row, count * sizeof *w->row);
        if (!w->row) bug("out of memory");
        for (; w->room < count; w->room++) w->row[w->room] = (Row){.plain = arena_new(&w->arena, uint8_t, PIECE)};
    }
    w->rows = count;
    for (size_t r = 0; r < count; r++) {
        Row *row = &w->row[r];
        row->segment = w->begun++;
        row->left = size_in_head(&w->head, row->segment);
        row->at = w->at, row->tag = w->tag, row->piece = 0;
        row->filled = 0;
        segment_key(row->key, tape_keys[r], w->head_hash);
        w->at += row->left;
        w->tag += pieces_of(row->left);
    }
}

/* Hands a piece to the thread; waits while all slots are taken. */
static Result piece_write(PoolWriter *w, Row *row, const uint8_t *data, size_t len)
{
    pthread_mutex_lock(&w->lock);
    while (w->waiting == SLOTS) pthread_cond_wait(&w->change, &w->lock);
    Slot *s = &w->slot[(w->first + w->waiting) % SLOTS];
    bool good = w->failure == FAIL_NONE;
    pthread_mutex_unlock(&w->lock);
    if (!good) return fail(w->failure, "%s", w->why);                  // it stays as it is
    s->segment = row->segment, s->piece = row->piece++, s->at = row->at, s->tag = row->tag++, s->len = len;
    memcpy(s->key, row->key, KEY_BYTES);
    if (data != row->plain) {
        memcpy(s->plain, data, len);
    } else {                                   // which is filled anew from its beginning
        row->plain = s->plain;
        s->plain = (uint8_t *)(uintptr_t)data;
        row->filled = 0;
    }
    row->at += len;
    pthread_mutex_lock(&w->lock);
    if (w->waiting++ == 0) pthread_cond_signal(&w->change);
    pthread_mutex_unlock(&w->lock);
    return OK;
}

Result pool_append(PoolWriter *w, size_t r, const void *data, size_t len)
{
    const uint8_t *from = data;
    ASSERT(r < w->rows && len <= w->row[r].left);
    Row *row = &w->row[r];
    while (len > 0) {
        size_t whole = row->left + row->filled < PIECE ? (size_t)row->left + row->filled : PIECE;        // of the piece that is due
        if (row->filled == 0 && len >= whole) {
            GUARD(piece_write(w, row, from, whole));
            from += whole, len -= whole, row->left -= whole;
            continue;
        }
        size_t n = whole - row->filled < len ? whole - row->filled : len;
        memcpy(row->plain + row->filled, from, n);
        row->filled += n;
        from += n, len -= n, row->left -= n;
        if (row->filled == whole) GUARD(piece_write(w, row, row->plain, whole));
    }
    return OK;
}

Result pool_finish(PoolWriter *w, const Identity *third)
{
    uint8_t message[MESSAGE], signature[SIGNATURE];
    ASSERT(w->begun == w->segments);
    rows_end(w);
    Result r = writer_stop(w);
    if (failed(r)) {
        pool_abandon(w);
        return r;
    }
    pool_message(message, w->head.data, w->head.len, w->tags.data, w->tags.len);
    identity_sign(third, signature, message, sizeof message);
    buffer_append(&w->tags, signature, sizeof signature);
    r = put_at(w->fd, w->path, w->data_end, w->tags.data, w->tags.len);
    if (failed(r)) {
        pool_abandon(w);
        return r;
    }
    r = file_place(w->fd, w->temporary, w->path);
    writer_free(w);
    return r;
}

// ---- opening ---------------------------------------------------------------------------------------------------------

struct Pool {
    char *path;
    int fd;
    Buffer head, tags;                         // tags: with the signature
    size_t header_len;
    uint64_t segments;
    uint64_t *offset, *tag;                    // (segments + 1) places in the file; (segments) number of the first tag
    uint8_t head_hash[HASH_BYTES];
};

void pool_close(Pool *p)
{
    if (!p) return;
    if (p->fd >= 0) close(p->fd);
    buffer_free(&p->head);
    buffer_free(&p->tags);
    free(p->offset);
    free(p->tag);
    free(p->path);
    free(p);
}

/* whole: false if the file ends before. */
static Result take_at(const Pool *p, bool *whole, void *out, size_t len, uint64_t at)
{
    uint8_t *to = out;
    while (len > 0) {
        ssize_t n = pread(p->fd, to, len, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(FAIL_SYSTEM, "%s: %s", p->path, strerror(errno));
        if (n == 0) break;
        to += n, at += (size_t)n, len -= (size_t)n;
    }
    *whole = len == 0;
    return OK;
}

static Result take(const Pool *p, Buffer *out, size_t len, uint64_t at, const char *what)
{
    bool whole;
    out->len = 0;
    buffer_reserve(out, len);
    GUARD(take_at(p, &whole, out->data, len, at));
    out->len = len;
    return whole ? OK : fail(FAIL_DATA, "%s: is cut short in its %s", p->path, what);
}

/* Every length is compared with what is left of the file before it is believed. */
static Result head_read(Pool *p, uint64_t file_len)
{
    GUARD(take(p, &p->head, PREFIX, 0, "head"));
    if (memcmp(p->head.data, magic, sizeof magic) != 0) return fail(FAIL_DATA, "%s: is not a pool", p->path);
    uint64_t left = file_len - PREFIX, header_len = u64_at(p->head.data + 16);
    p->segments = u64_at(p->head.data + 24);
    if (header_len > left) return fail(FAIL_DATA, "%s: is cut short: its header has %" PRIu64 " bytes", p->path, header_len);
    left -= header_len;
    if (p->segments > left / 8) return fail(FAIL_DATA, "%s: is cut short: it says %" PRIu64 " segments", p->path, p->segments);
    p->header_len = (size_t)header_len;
    return take(p, &p->head, PREFIX + p->header_len + 8 * (size_t)p->segments, 0, "head");
}

/* Settles where everything is. */
static Result pool_measure(Pool *p, uint64_t file_len)
{
    uint64_t at = p->head.len, tags = 0;
    p->offset = zeroed((size_t)p->segments + 1, sizeof *p->offset);
    p->tag = zeroed((size_t)p->segments, sizeof *p->tag);
    for (uint64_t i = 0; i < p->segments; i++) {
        uint64_t size = size_in_head(&p->head, i);
        if (size > file_len - at) return fail(FAIL_DATA, "%s: is cut short: it ends in segment %" PRIu64, p->path, i);
        p->offset[i] = at;
        p->tag[i] = tags;
        at += size;
        tags += pieces_of(size);
    }
    p->offset[p->segments] = at;
    if (file_len - at < tags * SEAL_TAG + SIGNATURE) return fail(FAIL_DATA, "%s: is cut short after its segments", p->path);
    if (file_len - at > tags * SEAL_TAG + SIGNATURE)
        return fail(FAIL_DATA, "%s: is altered: bytes follow that belong to no segment", p->path);
    return take(p, &p->tags, (size_t)tags * SEAL_TAG + SIGNATURE, at, "tags");
}

static Result pool_check(Pool *p, const uint8_t third[32])
{
    uint8_t message[MESSAGE];
    struct stat s;
    p->fd = open(p->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);          // a pipe is refused, not waited for
    if (p->fd < 0 || fstat(p->fd, &s) != 0) return fail(FAIL_SYSTEM, "%s: %s", p->path, strerror(errno));
    if (!S_ISREG(s.st_mode)) return fail(FAIL_DATA, "%s: not a file", p->path);
    if (s.st_size < PREFIX + SIGNATURE) return fail(FAIL_DATA, "%s: is not a pool", p->path);
    GUARD(head_read(p, (uint64_t)s.st_size));
    GUARD(pool_measure(p, (uint64_t)s.st_size));
    const size_t tags_len = p->tags.len - SIGNATURE;
    pool_message(message, p->head.data, p->head.len, p->tags.data, tags_len);
    if (!identity_verify(third, p->tags.data + tags_len, message, sizeof message))
        return fail(FAIL_CRYPTO, "%s: is not signed by this third party, or was altered", p->path);
    hash_bytes(p->head_hash, p->head.data, p->head.len);
    return OK;
}

Result pool_open(Pool **out, const char *path, const uint8_t third[32])
{
    Pool *p = zeroed(1, sizeof *p);
    if (!(p->path = strdup(path))) bug("out of memory");
    Result r = pool_check(p, third);
    if (failed(r)) pool_close(p);
    else *out = p;
    return r;
}

void pool_header(const Pool *p, const uint8_t **data, size_t *len)
{
    *data = p->head.data + PREFIX;
    *len = p->header_len;
}

uint64_t pool_segments(const Pool *p)
{
    return p->segments;
}

uint64_t pool_size(const Pool *p, uint64_t i)
{
    ASSERT(i < p->segments);
    return p->offset[i + 1] - p->offset[i];
}

// ---- reading ---------------------------------------------------------------------------------------------------------

Result pool_read_begin(PoolReader *r, Pool *p, uint64_t i, const uint8_t tape_key[KEY_BYTES])
{
    if (i >= p->segments) return fail(FAIL_CRYPTO, "%s: is used up: it has %" PRIu64 " segments", p->path, p->segments);
    r->pool = p;
    r->segment = i;
    r->piece = 0;
    r->pieces = pieces_of(pool_size(p, i));
    r->plain.secret = true;
    r->plain.len = r->at = 0;
    segment_key(r->key, tape_key, p->head_hash);
    (void)posix_fadvise(p->fd, (off_t)p->offset[i], AHEAD, POSIX_FADV_WILLNEED);
    return OK;
}

/* Appends the next piece to what is there. */
static Result piece_read(PoolReader *r)
{
    const Pool *p = r->pool;
    uint8_t bound[BOUND], sealed[PIECE];
    bool whole;
    const uint64_t at = p->offset[r->segment] + r->piece * PIECE, left = p->offset[r->segment + 1] - at;
    const size_t len = left < PIECE ? (size_t)left : PIECE;
    GUARD(take_at(p, &whole, sealed, len, at));
    if (!whole) return fail(FAIL_DATA, "%s: segment %" PRIu64 " is cut short: the file was changed meanwhile", p->path, r->segment);
    (void)posix_fadvise(p->fd, (off_t)(at + len), AHEAD, POSIX_FADV_WILLNEED);
    piece_bound(bound, p->head_hash, r->segment, r->piece);
    buffer_reserve(&r->plain, len);
    if (!unseal(r->plain.data + r->plain.len, p->tags.data + (p->tag[r->segment] + r->piece) * SEAL_TAG, r->key, r->piece, bound,
                sizeof bound, sealed, len))
        return fail(FAIL_CRYPTO, "%s: segment %" PRIu64 " was altered, or is not of this tape", p->path, r->segment);
    r->plain.len += len;
    r->piece++;
    return OK;
}

Result pool_read(PoolReader *r, const uint8_t **out, size_t len)
{
    if (len > r->plain.len - r->at) {
        const size_t left = r->plain.len - r->at;
        if (left > 0) memmove(r->plain.data, r->plain.data + r->at, left);
        r->plain.len = left;
        r->at = 0;
        while (r->plain.len < len) {
            if (r->piece == r->pieces)
                return fail(FAIL_DATA, "%s: segment %" PRIu64 " has only %" PRIu64 " bytes", r->pool->path, r->segment,
                            pool_size(r->pool, r->segment));
            GUARD(piece_read(r));
        }
    }
    *out = r->plain.data + r->at;
    r->at += len;
    return OK;
}

void pool_read_end(PoolReader *r)
{
    buffer_free(&r->plain);
    wipe(r, sizeof *r);
}
