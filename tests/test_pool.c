/* test_pool.c - pools: what is written is read, and whatever was touched is refused by a line that names the segment. */
#include <sys/resource.h>

#include "tapes.h"

static const uint8_t seed[32] = {1, 2, 3};

enum { SEGMENTS = 5, PIECE = 64 << 10 };
static const char header[] = "plan, model, epoch, identities";
static const uint64_t sizes[SEGMENTS] = {17, 2 * PIECE, 0, PIECE + 4017, 3 * PIECE - 1};
static uint8_t keys[SEGMENTS][KEY_BYTES];

static uint8_t content(uint64_t segment, uint64_t at)
{
    return (uint8_t)(segment * 31 + at * 7 + (at >> 8));
}

/* Segments in groups side by side, in bits of odd lengths that go round. */
static void write_pool(const char *path, const Identity *third)
{
    static const size_t groups[] = {1, 3, 1};
    Tape *t;
    PoolWriter *w;
    tape_live(&t, seed, SEGMENTS);
    CHECK_OK(tape_reserve(t, 0, SEGMENTS, keys));
    tape_close(t);
    CHECK_OK(pool_create(&w, path, header, sizeof header, sizes, SEGMENTS));
    for (size_t g = 0, first = 0; g < 3; first += groups[g++]) {
        uint64_t at[SEGMENTS] = {0};
        static uint8_t bits[90000];
        pool_begin(w, groups[g], keys + first);
        for (size_t turn = 0, left = 1; left; turn++) {
            left = 0;
            for (size_t r = 0; r < groups[g]; r++) {
                size_t rest = (size_t)(sizes[first + r] - at[r]), n = 1 + turn % 7 * 14321;
                n = n < rest ? n : rest;
                for (size_t i = 0; i < n; i++) bits[i] = content(first + r, at[r] + i);
                CHECK_OK(pool_append(w, r, bits, n));
                at[r] += n, left += rest - n;
            }
        }
    }
    CHECK(!file_exists(path));
    CHECK_OK(pool_finish(w, third));
}

static Result read_all(Pool *p, uint64_t i, const uint8_t key[KEY_BYTES], size_t step)
{
    PoolReader r = {0};
    Result result = pool_read_begin(&r, p, i, key);
    for (uint64_t at = 0, size = failed(result) ? 0 : pool_size(p, i); at < size && !failed(result);) {
        const uint8_t *words;
        size_t n = size - at < step ? (size_t)(size - at) : step;
        result = pool_read(&r, &words, n);
        if (failed(result)) break;
        for (size_t k = 0; k < n; k++) CHECK(words[k] == content(i, at + k));
        at += n;
    }
    pool_read_end(&r);
    return result;
}

TEST(pool_round_trip)
{
    const char *path = path_of("pool");
    Identity third;
    Pool *p;
    PoolWriter *w;
    PoolReader r = {0};
    const uint8_t *head, *words;
    size_t head_len;
    identity_generate(&third);
    write_pool(path, &third);
    CHECK_OK(pool_open(&p, path, third.public_key));
    pool_header(p, &head, &head_len);
    CHECK(head_len == sizeof header && !memcmp(head, header, sizeof header));
    CHECK_EQUAL(SEGMENTS, pool_segments(p));
    static const size_t steps[] = {5, 4096, PIECE, 100000, 1 << 20};
    for (uint64_t i = 0; i < SEGMENTS; i++) {
        CHECK_EQUAL(sizes[i], pool_size(p, i));
        for (size_t k = 0; k < 5; k++) CHECK_OK(read_all(p, i, keys[i], steps[k]));
        if (sizes[i]) CHECK_FAILS(read_all(p, i, keys[(i + 1) % SEGMENTS], 9), "altered, or is not of this tape");
    }
    CHECK_FAILS(pool_read_begin(&r, p, SEGMENTS, keys[0]), "used up");
    CHECK_OK(pool_read_begin(&r, p, 0, keys[0]));
    CHECK_FAILS(pool_read(&r, &words, 18), "segment 0 has only 17 bytes");
    pool_read_end(&r);
    CHECK_FAILS(pool_create(&w, path, header, sizeof header, sizes, SEGMENTS), "exists already");
    pool_close(p);
    identity_free(&third);
}

TEST(pool_abandoned_leaves_nothing)
{
    char *path = path_of("pool");
    PoolWriter *w;
    CHECK_OK(pool_create(&w, path, header, sizeof header, sizes, SEGMENTS));
    pool_begin(w, 1, &seed);
    CHECK_OK(pool_append(w, 0, "abc", 3));
    pool_abandon(w);
    CHECK_FAILS(pool_create(&w, path, header, sizeof header, (uint64_t[1]){(uint64_t)1 << 50}, 1), "no room");
    *strrchr(path, '/') = 0;
    CHECK(rmdir(path) == 0);                                           // it is empty
}

TEST(pool_that_cannot_be_written_says_so)       // the disk fails under the writer's thread
{
    char *path = path_of("pool");
    static uint8_t data[PIECE];
    Identity third;
    PoolWriter *w;
    struct rlimit limit = {100000, RLIM_INFINITY};
    identity_generate(&third);
    for (int many = 0; many < 2; many++) {
        uint64_t pieces = many ? 200 : 2, size = pieces * PIECE, sent = 0;
        CHECK_OK(pool_create(&w, path, header, sizeof header, &size, 1));
        signal(SIGXFSZ, SIG_IGN);
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        pool_begin(w, 1, &seed);
        Result r = OK;
        while (sent < pieces && !failed(r)) r = pool_append(w, 0, data, PIECE), sent++;
        if (many) {
            CHECK_FAILS(r, "File too large");
            CHECK(sent < pieces);                                      // it is heard of while there is more to deal
            pool_abandon(w);
        } else {
            CHECK_OK(r);                                               // or at the end
            CHECK_FAILS(pool_finish(w, &third), "File too large");
        }
        CHECK(setrlimit(RLIMIT_FSIZE, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY}) == 0);
    }
    identity_free(&third);
    *strrchr(path, '/') = 0;
    CHECK(rmdir(path) == 0);
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

/* Every byte counts: altering any one outside the segments is found at opening, and inside when its piece is read. */
TEST(pool_altered_is_refused)
{
    const char *path = path_of("pool");
    char name[64];
    Identity third;
    Pool *p;
    Buffer whole = {0};
    identity_generate(&third);
    write_pool(path, &third);
    CHECK_OK(file_read(&whole, path, 1 << 20));
    const size_t body = 32 + sizeof header + 8 * SEGMENTS, tags = 8, end = whole.len - 64 - tags * 16;
    int fd = open(path, O_RDWR);
    for (size_t at = 0; at < whole.len; at += at < body || at >= end ? 1 : 4999) {
        uint8_t changed = whole.data[at] ^ 0x10;
        CHECK(pwrite(fd, &changed, 1, (off_t)at) == 1);
        if (at < body || at >= end) {
            CHECK_FAILS(pool_open(&p, path, third.public_key), path);
        } else {
            CHECK_OK(pool_open(&p, path, third.public_key));
            uint64_t begin = body;
            for (unsigned i = 0; i < SEGMENTS; begin += sizes[i++]) {
                snprintf(name, sizeof name, "segment %u was altered", i);
                if (at >= begin && at < begin + sizes[i]) CHECK_FAILS(read_all(p, i, keys[i], PIECE), name);
                else CHECK_OK(read_all(p, i, keys[i], PIECE));
            }
            pool_close(p);
        }
        CHECK(pwrite(fd, &whole.data[at], 1, (off_t)at) == 1);
    }
    close(fd);
    buffer_free(&whole);
    identity_free(&third);
}

/* Pieces and segments cannot change places, though all of them are the third's. */
TEST(pool_shuffled_is_refused)
{
    const char *path = path_of("pool");
    Identity third;
    Pool *p;
    uint8_t one[PIECE], two[PIECE];
    identity_generate(&third);
    write_pool(path, &third);
    const off_t at = 32 + (off_t)sizeof header + 8 * SEGMENTS + 17;
    int fd = open(path, O_RDWR);
    CHECK(pread(fd, one, PIECE, at) == PIECE && pread(fd, two, PIECE, at + PIECE) == PIECE);
    CHECK(pwrite(fd, two, PIECE, at) == PIECE && pwrite(fd, one, PIECE, at + PIECE) == PIECE);
    CHECK_OK(pool_open(&p, path, third.public_key));
    CHECK_FAILS(read_all(p, 1, keys[1], 7), "segment 1 was altered");
    pool_close(p);
    close(fd);
    identity_free(&third);
}

TEST(pool_cut_is_refused)
{
    const char *path = path_of("pool"), *cut = path_of("cut");
    char name[64];
    Identity third;
    Pool *p;
    Buffer whole = {0};
    identity_generate(&third);
    write_pool(path, &third);
    CHECK_OK(file_read(&whole, path, 1 << 20));
    const size_t body = 32 + sizeof header + 8 * SEGMENTS;
    int fd = open(cut, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && write(fd, whole.data, whole.len) == (ssize_t)whole.len);
    for (size_t len = whole.len; len-- > 0; len -= len < body + 50 || len + 300 > whole.len ? 0 : len < 997 ? len : 996) {
        CHECK(ftruncate(fd, (off_t)len) == 0);
        uint64_t end = body;
        unsigned i = 0;
        while (i < SEGMENTS && len >= end + sizes[i]) end += sizes[i++];
        snprintf(name, sizeof name, i < SEGMENTS && len >= body ? "ends in segment %u" : "cut", i);
        CHECK_FAILS(pool_open(&p, cut, third.public_key), name);
    }
    CHECK(pwrite(fd, whole.data, whole.len, 0) == (ssize_t)whole.len && pwrite(fd, "x", 1, (off_t)whole.len) == 1);
    CHECK_FAILS(pool_open(&p, cut, third.public_key), "belong to no segment");
    CHECK_FAILS(pool_open(&p, path_of("absent"), third.public_key), "absent");
    CHECK_FAILS(pool_open(&p, "/dev/null", third.public_key), "not a file");
    close(fd);
    buffer_free(&whole);
    identity_free(&third);
}

TEST(pool_cut_while_it_is_read)         // which a mapping would answer with SIGBUS
{
    const char *path = path_of("pool");
    Identity third;
    Pool *p;
    PoolReader r = {0};
    const uint8_t *words;
    identity_generate(&third);
    write_pool(path, &third);
    CHECK_OK(pool_open(&p, path, third.public_key));
    CHECK_OK(pool_read_begin(&r, p, 4, keys[4]));
    CHECK_OK(pool_read(&r, &words, 10));
    CHECK(truncate(path, 3 * PIECE) == 0);
    CHECK_FAILS(pool_read(&r, &words, PIECE), "segment 4 is cut short: the file was changed meanwhile");
    CHECK_OK(read_all(p, 1, keys[1], 1000));                            // what is still there is good
    pool_read_end(&r);
    pool_close(p);
    identity_free(&third);
}

int main(int argc, char **argv)
{
    crypto_init(false);
    return test_main(argc, argv);
}
