/* test_tape.c - tapes go forward only, whatever happens. */
#include "tapes.h"

static const uint8_t seed[32] = {1, 2, 3};
static const char header[] = "the header of a pool";

static void rewrite(const char *path, size_t at, int flip, long cut)    // in place: flips bits of a byte, then cuts bytes off the end
{
    Buffer b = {0};
    CHECK_OK(file_read(&b, path, 1 << 20));
    CHECK(at < b.len && (size_t)cut <= b.len);
    uint8_t byte = b.data[at] ^ (uint8_t)flip;
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0 && pwrite(fd, &byte, 1, (off_t)at) == 1 && ftruncate(fd, (off_t)b.len - cut) == 0);
    close(fd);
    buffer_free(&b);
}

TEST(tape_goes_forward)
{
    Tape *t;
    uint8_t a[3][KEY_BYTES], b[8][KEY_BYTES];
    tape_live(&t, seed, 8);
    CHECK_OK(tape_reserve(t, 0, 8, b));
    CHECK_EQUAL(8, tape_mark(t));
    CHECK_FAILS(tape_reserve(t, 8, 1, a), "used up");
    tape_close(t);
    for (int i = 1; i < 8; i++) CHECK(memcmp(b[i], b[i - 1], KEY_BYTES) != 0);
    tape_live(&t, seed, 8);
    CHECK_OK(tape_reserve(t, 0, 1, a));
    CHECK(!memcmp(a[0], b[0], KEY_BYTES));
    CHECK_OK(tape_reserve(t, 4, 2, a));                                // burns 1, 2, 3
    CHECK(!memcmp(a, b + 4, 2 * KEY_BYTES));
    CHECK_FAILS(tape_reserve(t, 3, 1, a), "segment 3 of the tape was used before");
    CHECK_FAILS(tape_reserve(t, 5, 1, a), "used before");
    CHECK_FAILS(tape_reserve(t, 6, 3, a), "used up");
    CHECK_FAILS(tape_reserve(t, 7, UINT64_MAX, a), "used up");
    CHECK_FAILS(tape_reserve(t, UINT64_MAX, 2, a), "used up");
    CHECK_EQUAL(6, tape_mark(t));
    tape_close(t);
}

TEST(tape_in_a_file)
{
    const char *path = path_of("tape");
    Tape *t, *live;
    struct stat s;
    uint8_t a[2][KEY_BYTES], want[10][KEY_BYTES];
    tape_live(&live, seed, 10);
    CHECK_OK(tape_reserve(live, 0, 10, want));
    tape_close(live);
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 10));
    CHECK(stat(path, &s) == 0 && (s.st_mode & 0777) == 0600);
    CHECK_FAILS(tape_create(path, header, sizeof header, "client", seed, 10), "exists already");
    CHECK_OK(tape_open(&t, path));
    uint8_t id[HASH_BYTES];
    hash_bytes(id, header, sizeof header);
    CHECK(!memcmp(tape_id(t), id, sizeof id) && tape_segments(t) == 10 && tape_mark(t) == 0 && !strcmp(tape_role(t), "client"));
    CHECK_OK(tape_reserve(t, 0, 2, a));
    CHECK(!memcmp(a, want, sizeof a));
    tape_close(t);
    CHECK_OK(tape_open(&t, path));
    CHECK_EQUAL(2, tape_mark(t));
    CHECK_FAILS(tape_reserve(t, 1, 1, a), "used before");
    CHECK_OK(tape_reserve(t, 7, 2, a));
    CHECK(!memcmp(a, want + 7, sizeof a));
    tape_close(t);
    CHECK_OK(tape_open(&t, path));
    CHECK_EQUAL(9, tape_mark(t));
    tape_close(t);
}

static bool file_contains(int fd, const void *key)
{
    uint8_t data[4096];
    ssize_t n = pread(fd, data, sizeof data, 0);
    CHECK(n > 0);
    return memmem(data, (size_t)n, key, KEY_BYTES) != NULL;
}

TEST(tape_destroys_old_keys)
{
    const char *path = path_of("tape");
    Tape *t;
    uint8_t a[1][KEY_BYTES];
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 10));
    CHECK_OK(tape_open(&t, path));
    int old = open(path, O_RDONLY);                                    // holds on to the old file's blocks
    CHECK(file_contains(old, seed));
    CHECK_OK(tape_reserve(t, 0, 1, a));
    int new = open(path, O_RDONLY);
    CHECK(!file_contains(new, seed) && !file_contains(new, a[0]));
    CHECK(!file_contains(old, seed));
    CHECK(!file_exists(path_of("tape.new")));
    close(old), close(new);
    tape_close(t);
}

TEST(tape_survives_a_crash)     // what was given out is given out, also if the process dies at once
{
    const char *path = path_of("tape");
    Tape *t;
    uint8_t a[3][KEY_BYTES];
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 10));
    pid_t child = fork();
    if (child == 0) {
        CHECK_OK(tape_open(&t, path));
        CHECK_OK(tape_reserve(t, 0, 3, a));
        _exit(0);
    }
    waitpid(child, NULL, 0);
    int fd = open(path_of("tape.new"), O_WRONLY | O_CREAT, 0600);       // as a crash inside a reservation leaves it
    CHECK(fd >= 0 && write(fd, seed, sizeof seed) == sizeof seed);
    close(fd);
    CHECK_OK(tape_open(&t, path));
    CHECK_EQUAL(3, tape_mark(t));
    CHECK(!file_exists(path_of("tape.new")));
    tape_close(t);
}

TEST(tape_has_one_owner)
{
    const char *path = path_of("tape");
    Tape *t, *u;
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 10));
    CHECK_OK(tape_open(&t, path));
    CHECK_FAILS(tape_open(&u, path), "in use");
    pid_t child = fork();
    if (child == 0) {
        CHECK_FAILS(tape_open(&u, path), "in use by another process");
        exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    tape_close(t);
    CHECK_OK(tape_open(&t, path));
    tape_close(t);
}

TEST(tape_damaged_is_refused)
{
    const char *path = path_of("tape");
    Tape *t;
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 10));
    rewrite(path, 50, 4, 0);
    CHECK_FAILS(tape_open(&t, path), path);
    rewrite(path, 50, 4, 0);
    CHECK_OK(tape_open(&t, path));
    tape_close(t);
    rewrite(path, 0, 0, 1);
    CHECK_FAILS(tape_open(&t, path), "damaged");
    rewrite(path, 0, 0, 60);
    CHECK_FAILS(tape_open(&t, path), path);
    CHECK_OK(file_write(path, "", 0, 0600));
    CHECK_FAILS(tape_open(&t, path), path);
    CHECK(chmod(path, 0644) == 0);
    CHECK_FAILS(tape_open(&t, path), "nobody else can read");
    CHECK_FAILS(tape_open(&t, path_of("absent")), "absent");
    CHECK(!file_exists(path_of("absent.new")));
}

/* Cut at any byte, changed in any byte, or zeros from any byte on, as a power cut may leave it: refused, never half believed. What
 * it leaves beside the tape does not matter. */
TEST(tape_torn_anywhere_is_refused)
{
    const char *path = path_of("tape"), *beside = path_of("tape.new");
    Tape *t;
    uint8_t key[1][KEY_BYTES];
    Buffer whole = {0};
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 10));
    CHECK_OK(tape_open(&t, path));
    CHECK_OK(tape_reserve(t, 0, 3, (uint8_t[3][KEY_BYTES]){{0}}));
    tape_close(t);
    CHECK_OK(file_read(&whole, path, 4096));
    int fd = open(path, O_RDWR);
    uint8_t zeros[4096] = {0};
    for (size_t at = 0; at < whole.len; at++) {
        uint8_t changed = whole.data[at] ^ (uint8_t)(1 << at % 8);
        CHECK(pwrite(fd, &changed, 1, (off_t)at) == 1);
        CHECK_FAILS(tape_open(&t, path), path);
        CHECK(pwrite(fd, zeros, whole.len - at, (off_t)at) == (ssize_t)(whole.len - at));
        CHECK_FAILS(tape_open(&t, path), path);
        CHECK(ftruncate(fd, (off_t)at) == 0);
        CHECK_FAILS(tape_open(&t, path), path);
        CHECK(pwrite(fd, whole.data, whole.len, 0) == (ssize_t)whole.len);
    }
    for (size_t len = 0; len <= whole.len; len += len < 8 ? 1 : 37) {
        int left = open(beside, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        CHECK(left >= 0 && write(left, whole.data, len) == (ssize_t)len);
        close(left);
        CHECK_FAILS(tape_open(&t, beside), "never one");
        CHECK_OK(tape_open(&t, path));
        CHECK(tape_mark(t) == 3 && !file_exists(beside));
        if (len == whole.len) CHECK_OK(tape_reserve(t, 3, 1, key));
        tape_close(t);
    }
    close(fd);
    buffer_free(&whole);
}

TEST(tape_copies_are_refused)
{
    const char *path = path_of("tape"), *copy = path_of("copy"), *moved = path_of("moved");
    Tape *t, *u;
    uint8_t keys[4][KEY_BYTES];
    Buffer old = {0};
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 10));
    tape_copy(copy, path, false);                                      // never used, on another path
    CHECK_FAILS(tape_open(&t, copy), "is a copy");
    CHECK_OK(tape_open(&t, path));
    tape_copy(copy, path, true);                                       // while it is open
    CHECK_FAILS(tape_open(&u, copy), "is a copy");
    CHECK_OK(tape_reserve(t, 0, 2, keys));
    CHECK_FAILS(tape_open(&u, copy), "is a copy");
    tape_close(t);
    tape_copy(moved, path, false);                                     // keeps the latest state
    CHECK_OK(file_read(&old, copy, 4096));
    tape_copy(path, copy, true);                                       // the older state, over the same file
    CHECK_FAILS(tape_open(&t, path), "is a copy");
    tape_copy(path, copy, false);                                      // and in its place
    CHECK_FAILS(tape_open(&t, path), "is a copy");
    tape_copy(path, moved, false);                                     // even of the latest state: two would be alike
    CHECK_FAILS(tape_open(&t, path), "is a copy");
    tape_put_back(path, &old);                                         // by an image of the disk: this is for the peer to see
    CHECK_OK(tape_open(&t, path));
    CHECK_EQUAL(0, tape_mark(t));
    tape_close(t);
    buffer_free(&old);
}

TEST(tape_of_another_volume_is_refused)         // in every field that says where it is, as a snapshot has them
{
    const char *path = path_of("tape");
    Tape *t;
    for (size_t i = 0; i < TAPE_PLACE_BYTES + 8; i++) {
        Buffer b = {0};
        CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 10));
        CHECK_OK(file_read(&b, path, 4096));
        b.data[TAPE_PLACE + i] ^= 1;
        hash_bytes(b.data + b.len - HASH_BYTES, b.data, b.len - HASH_BYTES);
        int fd = open(path, O_RDWR);
        CHECK(fd >= 0 && pwrite(fd, b.data, b.len, 0) == (ssize_t)b.len);
        close(fd);
        CHECK_FAILS(tape_open(&t, path), "is a copy");
        CHECK_OK(tape_discard(path));
        buffer_free(&b);
    }
}

TEST(tape_moved_is_one_still)
{
    const char *path = path_of("tape"), *moved = path_of("moved");
    Tape *t, *u;
    uint8_t keys[2][KEY_BYTES];
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 10));
    CHECK(rename(path, moved) == 0);
    CHECK_OK(tape_open(&t, moved));
    CHECK_OK(tape_reserve(t, 0, 1, keys));
    CHECK(rename(moved, path) == 0);                                   // while it is open
    CHECK_FAILS(tape_open(&u, path), "in use");
    CHECK_FAILS(tape_reserve(t, 1, 1, keys), moved);                   // it no longer knows where it is
    CHECK(!memcmp(keys[0], (uint8_t[KEY_BYTES]){0}, KEY_BYTES));
    tape_close(t);
    CHECK_OK(tape_open(&t, path));
    CHECK_EQUAL(1, tape_mark(t));
    tape_copy(moved, path, false);
    CHECK(rename(moved, path) == 0);                                   // replaced while it is open
    CHECK_FAILS(tape_reserve(t, 1, 1, keys), "replaced or moved");
    tape_close(t);
    CHECK_FAILS(tape_open(&t, path), "is a copy");
}

TEST(tape_that_is_discarded_is_erased)
{
    const char *path = path_of("tape");
    uint8_t left[2048];
    Tape *t;
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 10));
    CHECK_OK(tape_open(&t, path));
    CHECK_FAILS(tape_discard(path), "in use");
    tape_close(t);
    int fd = open(path, O_RDONLY);
    CHECK_OK(tape_discard(path));
    ssize_t len = pread(fd, left, sizeof left, 0);
    CHECK(len > (ssize_t)sizeof header && len < (ssize_t)sizeof left);
    for (ssize_t i = 0; i < len; i++) CHECK_EQUAL(0, left[i]);
    close(fd);
    CHECK(!file_exists(path));
    CHECK_OK(tape_discard(path));
}

TEST(tape_is_looked_at_without_opening_it)
{
    const char *path = path_of("tape"), *copy = path_of("copy");
    Tape *t;
    TapeAbout a;
    struct stat before, after;
    uint8_t keys[4][KEY_BYTES];
    CHECK_OK(tape_create(path, header, sizeof header, "provider", seed, 10));
    CHECK_OK(tape_open(&t, path));
    CHECK_OK(tape_reserve(t, 0, 4, keys));
    CHECK(stat(path, &before) == 0);
    CHECK_OK(tape_about(&a, path));
    CHECK(stat(path, &after) == 0 && before.st_ino == after.st_ino && before.st_mtime == after.st_mtime);
    CHECK(a.segments == 10 && a.mark == 4 && !a.copy && !strcmp(a.role, "provider"));
    CHECK(a.header_len == sizeof header && !memcmp(a.header, header, sizeof header) && !memcmp(a.id, tape_id(t), HASH_BYTES));
    CHECK_OK(tape_reserve(t, 4, 1, keys));
    tape_close(t);
    tape_copy(copy, path, false);
    CHECK_OK(tape_about(&a, copy));
    CHECK(a.copy && a.mark == 5);
    CHECK_FAILS(tape_about(&a, path_of("absent")), "absent");
    rewrite(path, 60, 1, 0);
    CHECK_FAILS(tape_about(&a, path), "damaged");
}

TEST(tape_times)                // not a check: shown when MARILL_RATES is set
{
    if (!getenv("MARILL_RATES")) exit(77);
    const char *path = path_of("tape");
    static uint8_t keys[1][KEY_BYTES];
    Tape *t;
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 1000));
    CHECK_OK(tape_open(&t, path));
    double begin = clock_seconds();
    for (uint64_t i = 0; i < 20; i++) CHECK_OK(tape_reserve(t, i, 1, keys));
    printf("    a durable reservation: %.2f ms\n", (clock_seconds() - begin) / 20 * 1e3);
    tape_close(t);
}

TEST(a_second_name_of_a_tape_is_refused)
{
    char path[512], alias[600];
    Tape *t;
    snprintf(path, sizeof path, "%s/tape", test_folder());
    snprintf(alias, sizeof alias, "%s.alias", path);
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 4));
    CHECK(symlink(path, alias) == 0);
    CHECK_FAILS(tape_open(&t, alias), "links to a tape are refused");
    CHECK(unlink(alias) == 0 && link(path, alias) == 0);
    CHECK_FAILS(tape_open(&t, alias), "links to a tape are refused");
    CHECK_FAILS(tape_open(&t, path), "links to a tape are refused");
    CHECK(unlink(alias) == 0);
    CHECK_OK(tape_open(&t, path));
    CHECK(link(path, alias) == 0);                                     // made while it is open
    CHECK_FAILS(tape_reserve(t, 0, 1, (uint8_t[1][KEY_BYTES]){{0}}), "links to a tape are refused");
    tape_close(t);
}

int main(int argc, char **argv)
{
    crypto_init(false);
    return test_main(argc, argv);
}
