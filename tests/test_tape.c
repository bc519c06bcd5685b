/* test_tape.c - tapes go forward only, whatever happens; pools that were touched are refused. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include "crypto/crypto.h"
#include "test.h"

static const uint8_t seed[32] = {1, 2, 3}, id[16] = "an id of a pool";

static char *path_of(const char *name)
{
    static char path[4][128];
    static const char *folder;
    static int next;
    char *p = path[next++ % 4];
    if (!folder) folder = test_folder();
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static void rewrite(const char *path, size_t at, int flip, long cut)    // flips bits of a byte, then cuts bytes off the end
{
    Buffer b = {0};
    CHECK_OK(file_read(&b, path, 1 << 20));
    CHECK(at < b.len && (size_t)cut <= b.len);
    b.data[at] ^= (uint8_t)flip;
    CHECK_OK(file_write(path, b.data, b.len - (size_t)cut, 0600));
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
    CHECK_OK(tape_create(path, id, "client", seed, 10));
    CHECK(stat(path, &s) == 0 && (s.st_mode & 0777) == 0600);
    CHECK_FAILS(tape_create(path, id, "client", seed, 10), "exists already");
    CHECK_OK(tape_open(&t, path));
    CHECK(!memcmp(tape_id(t), id, 16) && tape_segments(t) == 10 && tape_mark(t) == 0);
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

static bool file_contains(const char *path, const void *key)
{
    Buffer b = {0};
    CHECK_OK(file_read(&b, path, 1 << 20));
    bool found = memmem(b.data, b.len, key, KEY_BYTES) != NULL;
    buffer_free(&b);
    return found;
}

TEST(tape_destroys_old_keys)
{
    const char *path = path_of("tape"), *old = path_of("old");
    Tape *t;
    uint8_t a[1][KEY_BYTES];
    CHECK_OK(tape_create(path, id, "client", seed, 10));
    CHECK(file_contains(path, seed));
    CHECK_OK(tape_open(&t, path));
    CHECK(link(path, old) == 0);                                       // holds on to the old file's blocks
    CHECK_OK(tape_reserve(t, 0, 1, a));
    CHECK(!file_contains(path, seed) && !file_contains(path, a[0]));
    CHECK(!file_contains(old, seed));
    tape_close(t);
}

TEST(tape_survives_a_crash)     // what was given out is given out, also if the process dies at once
{
    const char *path = path_of("tape");
    Tape *t;
    uint8_t a[3][KEY_BYTES];
    CHECK_OK(tape_create(path, id, "client", seed, 10));
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
    CHECK_OK(tape_create(path, id, "client", seed, 10));
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
    CHECK_OK(tape_create(path, id, "client", seed, 10));
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
    CHECK(!file_exists(path_of("absent.lock")));
}

// ---- pools -----------------------------------------------------------------------------------------------------------

enum { SEGMENTS = 5 };
static const char header[] = "plan, model, epoch, identities";

static size_t segment_len(int i)
{
    return i == 2 ? 0 : (size_t)(1000 * i + 17);
}

static void write_pool(const char *path, const Identity *third)
{
    static uint8_t data[8000];
    uint8_t keys[SEGMENTS][KEY_BYTES];
    Tape *t;
    PoolWriter *w;
    tape_live(&t, seed, SEGMENTS);
    CHECK_OK(tape_reserve(t, 0, SEGMENTS, keys));
    tape_close(t);
    CHECK_OK(pool_create(&w, path, header, sizeof header, SEGMENTS));
    for (int i = 0; i < SEGMENTS; i++) {
        memset(data, 'a' + i, sizeof data);
        CHECK_OK(pool_append(w, keys[i], data, segment_len(i)));
    }
    CHECK(!file_exists(path));
    CHECK_OK(pool_finish(w, third));
}

TEST(pool_round_trip)
{
    const char *path = path_of("pool");
    Identity third;
    Tape *t;
    Pool *p;
    Buffer b = {0};
    const uint8_t *head;
    size_t head_len;
    uint8_t key[1][KEY_BYTES];
    identity_generate(&third);
    write_pool(path, &third);
    CHECK_OK(pool_open(&p, path, third.public_key));
    pool_header(p, &head, &head_len);
    CHECK(head_len == sizeof header && !memcmp(head, header, sizeof header));
    CHECK_EQUAL(SEGMENTS, pool_segments(p));
    tape_live(&t, seed, SEGMENTS);
    for (int i = 0; i < SEGMENTS; i++) {
        CHECK_OK(tape_reserve(t, (uint64_t)i, 1, key));
        CHECK_OK(pool_segment(p, &b, (uint64_t)i, key[0]));
        CHECK_EQUAL(segment_len(i), b.len);
        for (size_t at = 0; at < b.len; at++) CHECK(b.data[at] == 'a' + i);
        CHECK_FAILS(pool_segment(p, &b, (uint64_t)(i + 1), key[0]), i + 1 < SEGMENTS ? "altered, or is not of this tape" : "used up");
    }
    PoolWriter *w;
    CHECK_FAILS(pool_create(&w, path, header, sizeof header, 1), "exists already");
    tape_close(t);
    pool_close(p);
    buffer_free(&b);
    identity_free(&third);
}

TEST(pool_abandoned_leaves_nothing)
{
    char *path = path_of("pool");
    PoolWriter *w;
    CHECK_OK(pool_create(&w, path, header, sizeof header, 2));
    CHECK_OK(pool_append(w, seed, "abc", 3));
    pool_abandon(w);
    *strrchr(path, '/') = 0;
    CHECK(rmdir(path) == 0);                                           // it is empty
}

TEST(pool_of_another_third_is_refused)
{
    const char *path = path_of("pool");
    Identity third, other;
    Pool *p;
    identity_generate(&third);
    identity_generate(&other);
    write_pool(path, &third);
    CHECK_FAILS(pool_open(&p, path, other.public_key), "not signed by this third party");
    identity_free(&third);
    identity_free(&other);
}

/* Every byte counts: altering any one outside the segments is found at opening, and inside when the segment is opened. */
TEST(pool_altered_is_refused)
{
    const char *path = path_of("pool"), *bad = path_of("bad");
    Identity third;
    Tape *t;
    Pool *p;
    Buffer whole = {0}, b = {0};
    uint8_t keys[SEGMENTS][KEY_BYTES];
    tape_live(&t, seed, SEGMENTS);
    CHECK_OK(tape_reserve(t, 0, SEGMENTS, keys));
    tape_close(t);
    identity_generate(&third);
    write_pool(path, &third);
    CHECK_OK(file_read(&whole, path, 1 << 20));
    const size_t body = 32 + sizeof header, table = whole.len - 64 - SEGMENTS * 24;
    for (size_t at = 0; at < whole.len; at += at < body || at >= table ? 1 : 211) {
        int fd = open(bad, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        whole.data[at] ^= 0x10;
        CHECK(fd >= 0 && write(fd, whole.data, whole.len) == (ssize_t)whole.len);
        close(fd);
        whole.data[at] ^= 0x10;
        if (at < body || at >= table) {
            CHECK_FAILS(pool_open(&p, bad, third.public_key), bad);
            continue;
        }
        int refused = 0;
        CHECK_OK(pool_open(&p, bad, third.public_key));
        for (unsigned i = 0; i < SEGMENTS; i++) refused += failed(pool_segment(p, &b, i, keys[i]));
        CHECK_EQUAL(1, refused);
        pool_close(p);
    }
    buffer_free(&whole);
    buffer_free(&b);
    identity_free(&third);
}

TEST(pool_cut_is_refused)
{
    const char *path = path_of("pool"), *cut = path_of("cut");
    Identity third;
    Pool *p;
    Buffer whole = {0};
    identity_generate(&third);
    write_pool(path, &third);
    CHECK_OK(file_read(&whole, path, 1 << 20));
    for (size_t len = 0; len < whole.len; len += len < 200 ? 1 : 97) {
        int fd = open(cut, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        CHECK(fd >= 0 && write(fd, whole.data, len) == (ssize_t)len);
        close(fd);
        CHECK_FAILS(pool_open(&p, cut, third.public_key), cut);
    }
    CHECK_FAILS(pool_open(&p, path_of("absent"), third.public_key), "absent");
    buffer_free(&whole);
    identity_free(&third);
}

TEST(tape_times)                // not a check: shown when MARILL_RATES is set
{
    if (!getenv("MARILL_RATES")) exit(77);
    const char *path = path_of("tape");
    static uint8_t keys[1][KEY_BYTES];
    Tape *t;
    CHECK_OK(tape_create(path, id, "client", seed, 1000));
    CHECK_OK(tape_open(&t, path));
    double begin = clock_seconds();
    for (uint64_t i = 0; i < 20; i++) CHECK_OK(tape_reserve(t, i, 1, keys));
    printf("    a durable reservation: %.2f ms\n", (clock_seconds() - begin) / 20 * 1e3);
    tape_close(t);
}

TEST(a_second_name_of_a_tape_is_refused)
{
    static const uint8_t id[16] = {7}, seed[KEY_BYTES] = {8};
    char path[512], alias[600];
    Tape *t;
    snprintf(path, sizeof path, "%s/tape", test_folder());
    snprintf(alias, sizeof alias, "%s.alias", path);
    CHECK_OK(tape_create(path, id, "client", seed, 4));
    CHECK(symlink(path, alias) == 0);
    CHECK_FAILS(tape_open(&t, alias), "links to a tape are refused");
    CHECK(unlink(alias) == 0 && link(path, alias) == 0);
    CHECK_FAILS(tape_open(&t, alias), "links to a tape are refused");
    CHECK_FAILS(tape_open(&t, path), "links to a tape are refused");
    CHECK(unlink(alias) == 0);
    CHECK_OK(tape_open(&t, path));
    tape_close(t);
}

int main(int argc, char **argv)
{
    crypto_init(false);
    return test_main(argc, argv);
}
