/* tape.c - a ratchet of segment keys, in memory or in a file that only goes forward.
 *
 * The tape holds one chain key c(i), c(0) being the seed. Segment i's key is KDF(c(i), "segment"), and c(i+1) = KDF(c(i), "next"): who
 * has the tape has every segment still to come and none before, and who has one segment's key has that segment alone.
 *
 * The state file is written anew for every reservation: the new state goes beside it, is synced and renamed over it, the folder is
 * synced, and what the old file held is overwritten with zeros. Only then are keys given out. A lock file next to it keeps a
 * second process away; it stays when the tape is closed. What a journal or an SSD keeps of overwritten blocks is out of reach, and so is a
 * restored older copy of the file: that one the peers find out, by comparing their marks. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/tools.h"

static const uint8_t magic[16] = "marill tape 1\n";
enum { ROLE_BYTES = 32, STATE_LIMIT = 4096, NO_LOCK = -1 };

struct Tape {
    Arena arena;                               // secret; holds the tape itself
    char *path;                                // NULL: in memory
    int lock;
    uint8_t id[16];
    char *role;
    uint64_t segments, mark;
    uint8_t key[KEY_BYTES];                    // c(mark)
};

static Tape *tape_new(void)
{
    Arena a;
    arena_init(&a, true);
    Tape *t = arena_new(&a, Tape, 1);
    t->arena = a;
    t->lock = NO_LOCK;
    return t;
}

void tape_close(Tape *t)
{
    if (!t) return;
    if (t->lock != NO_LOCK) close(t->lock);                            // which unlocks it
    Arena a = t->arena;
    arena_free(&a);
}

const uint8_t *tape_id(const Tape *t)
{
    return t->id;
}

uint64_t tape_mark(const Tape *t)
{
    return t->mark;
}

uint64_t tape_segments(const Tape *t)
{
    return t->segments;
}

void tape_live(Tape **out, const uint8_t seed[KEY_BYTES], uint64_t segments)
{
    Tape *t = tape_new();
    t->segments = segments;
    memcpy(t->key, seed, KEY_BYTES);
    *out = t;
}

// ---- the state file --------------------------------------------------------------------------------------------------

static Result tape_lock(Tape *t)
{
    const char *path = arena_format(&t->arena, "%s.lock", t->path);
    t->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (t->lock < 0) return fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
    if (flock(t->lock, LOCK_EX | LOCK_NB) == 0) return OK;
    if (errno == EWOULDBLOCK) return fail(FAIL_SYSTEM, "%s: is in use by another process", t->path);
    return fail(FAIL_SYSTEM, "%s: cannot lock: %s", path, strerror(errno));
}

/* Overwrites a file with zeros, as well as the system allows, and closes it. */
static void state_erase(int fd)
{
    static const uint8_t zeros[STATE_LIMIT];
    struct stat s;
    if (fstat(fd, &s) == 0 && s.st_size > 0) {
        ssize_t n = pwrite(fd, zeros, s.st_size < STATE_LIMIT ? (size_t)s.st_size : STATE_LIMIT, 0);
        if (n > 0) fsync(fd);
    }
    close(fd);
}

/* Makes (mark, key) the state on disk. */
static Result state_write(Tape *t, uint64_t mark, const uint8_t key[KEY_BYTES])
{
    const ArenaMark begin = arena_mark(&t->arena);
    const char *beside = arena_format(&t->arena, "%s.new", t->path);
    uint8_t hash[HASH_BYTES];
    Buffer b = {.secret = true};
    buffer_append(&b, magic, sizeof magic);
    buffer_append(&b, t->id, sizeof t->id);
    buffer_text(&b, t->role);
    buffer_u64(&b, t->segments);
    buffer_u64(&b, mark);
    buffer_append(&b, key, KEY_BYTES);
    hash_bytes(hash, b.data, b.len);
    buffer_append(&b, hash, sizeof hash);
    int old = open(t->path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);          // kept open over the rename, to be erased after it
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    Result r = fd < 0 ? fail(FAIL_SYSTEM, "%s: %s", beside, strerror(errno)) : file_put(fd, beside, b.data, b.len);
    if (!failed(r) && (fsync(fd) != 0 || rename(beside, t->path) != 0)) r = fail(FAIL_SYSTEM, "%s: %s", t->path, strerror(errno));
    if (!failed(r)) r = folder_sync(t->path);
    if (fd >= 0) close(fd);
    if (old >= 0 && !failed(r)) state_erase(old);
    else if (old >= 0) close(old);
    buffer_free(&b);
    arena_rollback(&t->arena, begin);
    return r;
}

static Result state_parse(Tape *t, const uint8_t *data, size_t len)
{
    Cursor c = {data, len, 0, t->path};
    const uint8_t *p, *sum;
    uint8_t hash[HASH_BYTES];
    if (len < sizeof magic + HASH_BYTES || memcmp(data, magic, sizeof magic) != 0)
        return fail(FAIL_DATA, "%s: is not the state of a tape", t->path);
    hash_bytes(hash, data, len - HASH_BYTES);
    if (memcmp(hash, data + len - HASH_BYTES, HASH_BYTES) != 0) return fail(FAIL_DATA, "%s: is damaged: its checksum is wrong", t->path);
    GUARD(cursor_take(&c, &p, sizeof magic));
    GUARD(cursor_take(&c, &p, sizeof t->id));
    memcpy(t->id, p, sizeof t->id);
    GUARD(cursor_text(&c, &t->role, ROLE_BYTES, &t->arena));
    GUARD(cursor_u64(&c, &t->segments));
    GUARD(cursor_u64(&c, &t->mark));
    GUARD(cursor_take(&c, &p, KEY_BYTES));
    memcpy(t->key, p, KEY_BYTES);
    GUARD(cursor_take(&c, &sum, HASH_BYTES));
    GUARD(cursor_end(&c));
    if (t->mark > t->segments)
        return fail(FAIL_DATA, "%s: is damaged: %" PRIu64 " of %" PRIu64 " segments used", t->path, t->mark, t->segments);
    return OK;
}

/* A second name of the same state would have a lock of its own, and give the same keys again. */
static Result state_sole(const Tape *t)
{
    struct stat s;
    if (lstat(t->path, &s) != 0) return fail(FAIL_SYSTEM, "%s: %s", t->path, strerror(errno));
    if (S_ISREG(s.st_mode) && s.st_nlink == 1) return OK;
    return fail(FAIL_DATA, "%s: must be a file with no other name: links to a tape are refused", t->path);
}

static Result state_read(Tape *t)
{
    uint8_t data[STATE_LIMIT];
    size_t len = 0;
    ssize_t n = 1;
    int fd;
    GUARD(state_sole(t));
    GUARD(file_open_private(&fd, t->path));
    while (len < sizeof data && (n = read(fd, data + len, sizeof data - len)) > 0) len += (size_t)n;
    Result r = n < 0 ? fail(FAIL_SYSTEM, "%s: %s", t->path, strerror(errno)) : state_parse(t, data, len);
    close(fd);
    wipe(data, sizeof data);
    return r;
}

static Result create_locked(Tape *t)
{
    GUARD(tape_lock(t));
    if (access(t->path, F_OK) == 0) return fail(FAIL_SYSTEM, "%s: exists already, and is not overwritten", t->path);
    return state_write(t, 0, t->key);
}

Result tape_create(const char *path, const uint8_t id[16], const char *role, const uint8_t seed[KEY_BYTES], uint64_t segments)
{
    Tape *t = tape_new();
    ASSERT(strlen(role) <= ROLE_BYTES);
    t->path = arena_string(&t->arena, path);
    t->role = arena_string(&t->arena, role);
    t->segments = segments;
    memcpy(t->id, id, sizeof t->id);
    memcpy(t->key, seed, KEY_BYTES);
    Result r = create_locked(t);
    tape_close(t);
    return r;
}

static Result open_locked(Tape *t)
{
    if (access(t->path, F_OK) != 0) return fail(FAIL_SYSTEM, "%s: %s", t->path, strerror(errno));   // before a lock file is made
    GUARD(tape_lock(t));
    const char *beside = arena_format(&t->arena, "%s.new", t->path);   // left by a crash: it holds a key that must not outlive its turn
    int left = open(beside, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (left >= 0) {
        state_erase(left);
        unlink(beside);
    }
    return state_read(t);
}

Result tape_open(Tape **out, const char *path)
{
    Tape *t = tape_new();
    t->path = arena_string(&t->arena, path);
    Result r = open_locked(t);
    if (failed(r)) tape_close(t);
    else *out = t;
    return r;
}

// ---- the ratchet -----------------------------------------------------------------------------------------------------

Result tape_reserve(Tape *t, uint64_t from, uint64_t count, uint8_t (*keys)[KEY_BYTES])
{
    uint8_t key[KEY_BYTES];
    if (from < t->mark) return fail(FAIL_CRYPTO, "segment %" PRIu64 " of the tape was used before: the next is %" PRIu64, from, t->mark);
    if (count > t->segments || from > t->segments - count)
        return fail(FAIL_CRYPTO, "the tape is used up: %" PRIu64 " segments from %" PRIu64 " on, of %" PRIu64, count, from, t->segments);
    memcpy(key, t->key, KEY_BYTES);
    for (uint64_t i = t->mark; i < from + count; i++) {
        if (i >= from) derive_key(keys[i - from], key, "tape: key of a segment", NULL, 0);
        derive_key(key, key, "tape: next", NULL, 0);
    }
    Result r = t->path ? state_write(t, from + count, key) : OK;
    if (failed(r)) {
        wipe(keys, count * KEY_BYTES);
    } else {
        memcpy(t->key, key, KEY_BYTES);
        t->mark = from + count;
    }
    wipe(key, sizeof key);
    return r;
}
