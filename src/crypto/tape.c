/* tape.c - a ratchet of segment keys, in memory or in a file that only goes forward.
 *
 * The tape holds one chain key c(i), c(0) being the seed. Segment i's key is KDF(c(i), "segment"), and c(i+1) = KDF(c(i), "next"): who
 * has the tape has every segment still to come and none before, and who has one segment's key has that segment alone.
 *
 * In a file, every reservation makes a new file: the new state goes beside the old one, is synced, changes places with it, the folder
 * is synced, and the old file is overwritten with zeros. Only then are keys given out. So a crash at any point leaves the old state with
 * no key given out, or the new one; what it leaves beside, the next opening overwrites.
 *
 * A process that has the tape open holds a lock on the file itself, not on its name: moving the file does not get round it. And the
 * state says which file it is in, by inode and time of birth (on btrfs by the subvolume too), which no copy shares: a copy, here or
 * elsewhere, and a file that was restored from one, are refused, whatever they were copied over. An image of the whole disk keeps all
 * of it; there the peer's tape, which has gone on, is what refuses (serve/). What an SSD or a journal keeps of overwritten blocks is
 * out of reach: docs/security.md. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "crypto/tools.h"

static const uint8_t magic[16] = "marill tape 3\n";
enum { STATE_LIMIT = 4096, NO_FILE = -1 };

struct Tape {
    Arena arena;                               // secret; holds the tape itself
    char *path;                                // NULL: in memory
    int fd;                                    // the state's file, locked
    TapeAbout about;
    uint8_t key[KEY_BYTES];                    // c(about.mark)
};

static Tape *tape_new(void)
{
    Arena a;
    arena_init(&a, true);
    Tape *t = arena_new(&a, Tape, 1);
    t->arena = a;
    t->fd = NO_FILE;
    return t;
}

void tape_close(Tape *t)
{
    if (!t) return;
    if (t->fd != NO_FILE) close(t->fd);                                // which unlocks it
    Arena a = t->arena;
    arena_free(&a);
}

const uint8_t *tape_id(const Tape *t)
{
    return t->about.id;
}

const char *tape_role(const Tape *t)
{
    return t->about.role;
}

uint64_t tape_mark(const Tape *t)
{
    return t->about.mark;
}

uint64_t tape_segments(const Tape *t)
{
    return t->about.segments;
}

void tape_live(Tape **out, const uint8_t seed[KEY_BYTES], uint64_t segments)
{
    Tape *t = tape_new();
    t->about.segments = segments;
    memcpy(t->key, seed, KEY_BYTES);
    *out = t;
}

// ---- one file among all ----------------------------------------------------------------------------------------------

/* Which file this is. Numbers of inodes are given again; with the time of birth they are not. File systems that do not know it
 * (some network ones) leave the inode alone. A snapshot of btrfs keeps both, and is a subvolume of its own; elsewhere `volume` is 0, since the
 * numbers of devices change from one boot to the next. */
typedef struct Place { uint64_t inode, born_s, born_ns, volume; } Place;

static Result place_of(Place *out, int fd, const char *path)
{
    struct statx s;
    struct statfs v;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &s) != 0 || fstatfs(fd, &v) != 0)
        return fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
    *out = (Place){.inode = s.stx_ino};
    if (s.stx_mask & STATX_BTIME) out->born_s = (uint64_t)s.stx_btime.tv_sec, out->born_ns = s.stx_btime.tv_nsec;
    if ((uint64_t)v.f_type == BTRFS_SUPER_MAGIC) memcpy(&out->volume, &v.f_fsid, sizeof out->volume);
    return OK;
}

/* Asks programs that copy files to leave this one out; on file systems that copy on write, to overwrite it where it lies. Both are
 * requests: no file system has to know them. */
static void leave_out_of_backups(int fd)
{
    int flags;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NODUMP_FL | FS_NOCOW_FL;
        if (ioctl(fd, FS_IOC_SETFLAGS, &flags) != 0) {
            flags &= ~FS_NOCOW_FL;
            if (ioctl(fd, FS_IOC_SETFLAGS, &flags) != 0) errno = 0;
        }
    }
    if (fsetxattr(fd, "user.xdg.robots.backup", "false", 5, 0) != 0) errno = 0;
}

static Result file_lock(int fd, const char *path)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return OK;
    if (errno == EWOULDBLOCK) return fail(FAIL_SYSTEM, "%s: is in use by another process", path);
    return fail(FAIL_SYSTEM, "%s: cannot lock: %s", path, strerror(errno));
}

/* The file that fd is open on must be what `path` names, and have no other name. */
static Result file_sole(int fd, const char *path)
{
    struct stat at, is;
    if (fstat(fd, &is) != 0 || lstat(path, &at) != 0) return fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
    if (at.st_dev != is.st_dev || at.st_ino != is.st_ino)
        return fail(FAIL_SYSTEM, "%s: was replaced or moved by another process", path);
    if (S_ISREG(is.st_mode) && is.st_nlink == 1) return OK;
    return fail(FAIL_DATA, "%s: must be a file with no other name: links to a tape are refused", path);
}

/* Overwrites a file with zeros, as well as the system allows. */
static Result file_erase(int fd, const char *path)
{
    static const uint8_t zeros[STATE_LIMIT];
    struct stat s;
    if (fstat(fd, &s) != 0) return fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
    const size_t len = s.st_size < STATE_LIMIT ? (size_t)s.st_size : STATE_LIMIT;
    if (len > 0 && (pwrite(fd, zeros, len, 0) != (ssize_t)len || fsync(fd) != 0))
        return fail(FAIL_SYSTEM, "%s: cannot erase its key: %s", path, strerror(errno));
    return OK;
}

// ---- the state -------------------------------------------------------------------------------------------------------

static const char *path_beside(Tape *t)
{
    return arena_format(&t->arena, "%s.new", t->path);
}

/* Of a tape, or of what a crash left beside one: it holds a key that must not outlive its turn. */
Result tape_discard(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno == ENOENT ? OK : fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
    Result r = file_lock(fd, path);
    if (!failed(r)) r = file_erase(fd, path);
    if (!failed(r) && unlink(path) != 0) r = fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
    close(fd);
    return r;
}

static Result state_put(const Tape *t, int fd, uint64_t mark, const uint8_t key[KEY_BYTES])
{
    uint8_t hash[HASH_BYTES];
    Place place;
    Buffer b = {.secret = true};
    GUARD(place_of(&place, fd, t->path));
    buffer_append(&b, magic, sizeof magic);
    buffer_u64(&b, place.inode);
    buffer_u64(&b, place.born_s);
    buffer_u64(&b, place.born_ns);
    buffer_u64(&b, place.volume);
    buffer_text(&b, t->about.role);
    buffer_u32(&b, (uint32_t)t->about.header_len);
    buffer_append(&b, t->about.header, t->about.header_len);
    buffer_u64(&b, t->about.segments);
    buffer_u64(&b, mark);
    buffer_append(&b, key, KEY_BYTES);
    hash_bytes(hash, b.data, b.len);
    buffer_append(&b, hash, sizeof hash);
    Result r = file_put(fd, t->path, b.data, b.len);
    if (!failed(r) && fsync(fd) != 0) r = fail(FAIL_SYSTEM, "%s: %s", t->path, strerror(errno));
    buffer_free(&b);
    return r;
}

/* Gives the new file the tape's name, durably. The old one, if any, keeps a name until it is erased, so that a crash loses neither. */
static Result state_swap(const Tape *t, const char *beside)
{
    if (t->fd == NO_FILE) {
        int bad = renameat2(AT_FDCWD, beside, AT_FDCWD, t->path, RENAME_NOREPLACE);
        if (bad && errno == EINVAL) bad = access(t->path, F_OK) == 0 ? (errno = EEXIST, -1) : rename(beside, t->path);
        if (bad && errno == EEXIST) return fail(FAIL_SYSTEM, "%s: exists already, and is not overwritten", t->path);
        if (bad) return fail(FAIL_SYSTEM, "%s: %s", t->path, strerror(errno));
        return folder_sync(t->path);
    }
    GUARD(file_sole(t->fd, t->path));
    int bad = renameat2(AT_FDCWD, beside, AT_FDCWD, t->path, RENAME_EXCHANGE);
    if (bad && errno == EINVAL) bad = rename(beside, t->path);         // not every file system can exchange
    if (bad) return fail(FAIL_SYSTEM, "%s: %s", t->path, strerror(errno));
    GUARD(folder_sync(t->path));
    GUARD(file_erase(t->fd, t->path));
    if (unlink(beside) != 0 && errno != ENOENT) return fail(FAIL_SYSTEM, "%s: %s", beside, strerror(errno));
    return OK;
}

/* Of a tape that could not be created, whose failure is what there is to tell. */
static void seed_drop(int fd, const char *beside)
{
    static const uint8_t zeros[STATE_LIMIT];
    if (pwrite(fd, zeros, sizeof zeros, 0) > 0) (void)fsync(fd);
    unlink(beside);
}

/* Makes (mark, key) the state on disk. After a failure the file is the old one or the new one, and this tape gives nothing more; of a
 * tape that is just being created no seed is left. */
static Result state_write(Tape *t, uint64_t mark, const uint8_t key[KEY_BYTES])
{
    const ArenaMark begin = arena_mark(&t->arena);
    const char *beside = path_beside(t);
    Result r = tape_discard(beside);
    int fd = failed(r) ? NO_FILE : open(beside, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (!failed(r) && fd < 0) r = fail(FAIL_SYSTEM, "%s: %s", beside, strerror(errno));
    if (!failed(r)) r = file_lock(fd, beside);
    if (!failed(r)) {
        leave_out_of_backups(fd);
        r = state_put(t, fd, mark, key);
        if (!failed(r)) r = state_swap(t, beside);
    }
    if (failed(r)) {
        if (fd >= 0 && t->fd == NO_FILE) seed_drop(fd, beside);
        if (fd >= 0) close(fd);
    } else {
        if (t->fd != NO_FILE) close(t->fd);
        t->fd = fd;
    }
    arena_rollback(&t->arena, begin);
    return r;
}

/* Any length, any bytes: the state or a failure. */
static Result state_parse(TapeAbout *a, Place *place, uint8_t key[KEY_BYTES], const char *path, const uint8_t *data, size_t len)
{
    Cursor c = {data, len, 0, path};
    const uint8_t *p;
    uint32_t n;
    uint8_t hash[HASH_BYTES];
    if (len < sizeof magic + HASH_BYTES || memcmp(data, magic, sizeof magic) != 0)
        return fail(FAIL_DATA, "%s: is not the state of a tape", path);
    hash_bytes(hash, data, len - HASH_BYTES);
    if (memcmp(hash, data + len - HASH_BYTES, HASH_BYTES) != 0) return fail(FAIL_DATA, "%s: is damaged: its checksum is wrong", path);
    GUARD(cursor_take(&c, &p, sizeof magic));
    GUARD(cursor_u64(&c, &place->inode));
    GUARD(cursor_u64(&c, &place->born_s));
    GUARD(cursor_u64(&c, &place->born_ns));
    GUARD(cursor_u64(&c, &place->volume));
    GUARD(cursor_u32(&c, &n));
    if (n >= sizeof a->role) return fail(FAIL_DATA, "%s: is damaged: a role of %u bytes", path, n);
    GUARD(cursor_take(&c, &p, n));
    memcpy(a->role, p, n);
    GUARD(cursor_u32(&c, &n));
    if (n > sizeof a->header) return fail(FAIL_DATA, "%s: is damaged: a header of %u bytes", path, n);
    GUARD(cursor_take(&c, &p, n));
    memcpy(a->header, p, n);
    a->header_len = n;
    hash_bytes(a->id, a->header, n);
    GUARD(cursor_u64(&c, &a->segments));
    GUARD(cursor_u64(&c, &a->mark));
    GUARD(cursor_take(&c, &p, KEY_BYTES));
    memcpy(key, p, KEY_BYTES);
    GUARD(cursor_take(&c, &p, HASH_BYTES));
    GUARD(cursor_end(&c));
    if (a->mark > a->segments)
        return fail(FAIL_DATA, "%s: is damaged: %" PRIu64 " of %" PRIu64 " segments used", path, a->mark, a->segments);
    return OK;
}

static Result state_read(TapeAbout *a, uint8_t key[KEY_BYTES], int fd, const char *path)
{
    uint8_t data[STATE_LIMIT];
    size_t len = 0;
    ssize_t n = 1;
    Place said = {0}, is = {0};
    *a = (TapeAbout){0};
    while (len < sizeof data && (n = pread(fd, data + len, sizeof data - len, (off_t)len)) > 0) len += (size_t)n;
    Result r = n < 0 ? fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno)) : state_parse(a, &said, key, path, data, len);
    wipe(data, sizeof data);
    if (!failed(r)) r = place_of(&is, fd, path);
    a->copy = said.inode != is.inode || said.born_s != is.born_s || said.born_ns != is.born_ns || said.volume != is.volume;
    return r;
}

// ---- files -----------------------------------------------------------------------------------------------------------

Result tape_create(const char *path, const void *header, size_t header_len, const char *role, const uint8_t seed[KEY_BYTES],
                   uint64_t segments)
{
    if (file_exists(path)) return fail(FAIL_SYSTEM, "%s: exists already, and is not overwritten", path);
    Tape *t = tape_new();
    TapeAbout *a = &t->about;
    ASSERT(strlen(role) < sizeof a->role && header_len <= sizeof a->header);
    t->path = arena_string(&t->arena, path);
    strcpy(a->role, role);
    memcpy(a->header, header, header_len);
    a->header_len = header_len;
    a->segments = segments;
    Result r = state_write(t, 0, seed);
    tape_close(t);
    return r;
}

static Result path_check(const char *path)
{
    static const char end[] = ".new";
    size_t len = strlen(path);
    if (len < sizeof end || strcmp(path + len - (sizeof end - 1), end) != 0) return OK;
    return fail(FAIL_DATA, "%s: what lies beside a tape is never one", path);
}

static Result open_locked(Tape *t)
{
    GUARD(path_check(t->path));
    t->fd = open(t->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (t->fd < 0 && errno == ELOOP) return fail(FAIL_DATA, "%s: links to a tape are refused", t->path);
    if (t->fd < 0) return fail(FAIL_SYSTEM, "%s: %s", t->path, strerror(errno));
    GUARD(file_lock(t->fd, t->path));
    GUARD(file_private(t->fd, t->path));
    GUARD(file_sole(t->fd, t->path));
    GUARD(state_read(&t->about, t->key, t->fd, t->path));
    if (t->about.copy)
        return fail(FAIL_CRYPTO, "%s: is a copy or was restored from one: a tape works only where it was made, and only the latest",
                    t->path);
    return tape_discard(path_beside(t));
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

/* A file that is just being replaced is erased after another has its name: then that one is read. */
Result tape_about(TapeAbout *out, const char *path)
{
    uint8_t key[KEY_BYTES];
    for (int again = 0;; again++) {
        struct stat at, is;
        int fd;
        GUARD(file_open_private(&fd, path));
        Result r = state_read(out, key, fd, path);
        wipe(key, sizeof key);
        bool replaced = fstat(fd, &is) == 0 && stat(path, &at) == 0 && is.st_ino != at.st_ino;
        close(fd);
        if (!failed(r) || !replaced || again == 3) return r;
    }
}

// ---- the ratchet -----------------------------------------------------------------------------------------------------

Result tape_reserve(Tape *t, uint64_t from, uint64_t count, uint8_t (*keys)[KEY_BYTES])
{
    uint8_t key[KEY_BYTES];
    const uint64_t mark = t->about.mark, segments = t->about.segments;
    if (from < mark) return fail(FAIL_CRYPTO, "segment %" PRIu64 " of the tape was used before: the next is %" PRIu64, from, mark);
    if (count > segments || from > segments - count)
        return fail(FAIL_CRYPTO, "the tape is used up: %" PRIu64 " segments from %" PRIu64 " on, of %" PRIu64, count, from, segments);
    memcpy(key, t->key, KEY_BYTES);
    for (uint64_t i = mark; i < from + count; i++) {
        if (i >= from) derive_key(keys[i - from], key, "tape: key of a segment", NULL, 0);
        derive_key(key, key, "tape: next", NULL, 0);
    }
    Result r = t->path ? state_write(t, from + count, key) : OK;
    if (failed(r)) {
        wipe(keys, count * KEY_BYTES);
    } else {
        memcpy(t->key, key, KEY_BYTES);
        t->about.mark = from + count;
    }
    wipe(key, sizeof key);
    return r;
}
