/* test_base.c - results, memory, bytes, files and threads. */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

static int status_of(void (*run)(void))        // what becomes of a child that runs this, its complaints unheard
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        run();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}
#define CHECK_ABORTS(run) do { int s_ = status_of(run); CHECK(WIFSIGNALED(s_) && WTERMSIG(s_) == SIGABRT); } while (0)

// ---- results ---------------------------------------------------------------------------------------------------------

static Result third(void) { return fail(FAIL_DATA, "byte %d is wrong", 7); }
static Result second(void) { GUARD(third()); return OK; }
static Result first(void) { return fail_in(second(), "%s", "model.json"); }

TEST(failures_carry_their_text_up)
{
    Result r = first();
    CHECK_EQUAL(FAIL_DATA, r.kind);
    CHECK(!strcmp(result_text(), "model.json: byte 7 is wrong"));
    r = fail(FAIL_PEER, "again: %s", result_text());               // the old text may be quoted
    CHECK(!strcmp(result_text(), "again: model.json: byte 7 is wrong"));
    CHECK(!failed(fail_in(OK, "nothing")));
    CHECK(!strcmp(result_text(), "again: model.json: byte 7 is wrong"));
}

TEST(failures_are_one_clean_line)
{
    CHECK_FAILS(fail(FAIL_DATA, "a\nb\033[31mc\x7F" "d\xC2\x9B" "e \xC3\xA9"), "a?b?[31mc?d??e \xC3\xA9");
    char big[5000];
    memset(big, 'x', sizeof big - 1), big[sizeof big - 1] = 0;
    CHECK_FAILS(fail(FAIL_DATA, "%s", big), "xxx");
    CHECK_FAILS(fail_in(fail(FAIL_DATA, "end"), "%s", big), "xxx");
    CHECK(strlen(result_text()) < 2000);
}

static void *fail_elsewhere(void *unused)
{
    (void)unused;
    CHECK_FAILS(fail(FAIL_DATA, "elsewhere"), "elsewhere");
    return NULL;
}

TEST(failures_are_kept_per_thread)
{
    CHECK_FAILS(fail(FAIL_DATA, "here"), "here");
    pthread_t t;
    CHECK_EQUAL(0, pthread_create(&t, NULL, fail_elsewhere, NULL));
    pthread_join(t, NULL);
    CHECK(!strcmp(result_text(), "here"));
}

static void assert_wrong(void) { ASSERT(1 + 1 == 3); }
static void fail_with_none(void) { (void)!failed(fail(FAIL_NONE, "success")); }
TEST(bugs_abort) { CHECK_ABORTS(assert_wrong); CHECK_ABORTS(fail_with_none); }

// ---- memory ----------------------------------------------------------------------------------------------------------

static bool all_zero(const void *p, size_t len)
{
    const uint8_t *b = p;
    for (size_t i = 0; i < len; i++) if (b[i]) return false;
    return true;
}

static void arena_check(bool secret)
{
    Arena a;
    arena_init(&a, secret);
    ArenaMark empty = arena_mark(&a);
    for (int round = 0; round < 3; round++) {
        char *kept = arena_string(&a, "kept");
        for (size_t size = 1; size < 3000000; size = size * 3 + 1) {
            ArenaMark mark = arena_mark(&a);
            size_t used = a.used;
            for (size_t i = 0; i < 3; i++) {
                uint8_t *p = arena_alloc(&a, size, 1);
                CHECK_EQUAL(0, (uintptr_t)p % 64);
                CHECK(all_zero(p, size));
                memset(p, 0xFF, size);
            }
            arena_rollback(&a, mark);
            CHECK(a.used == used);
            arena_new(&a, uint8_t, size)[size - 1] = 1;
        }
        CHECK(!strcmp(kept, "kept"));
        CHECK(a.used > 3500000 && a.peak >= a.used);
        arena_rollback(&a, empty);
        CHECK_EQUAL(0, a.used);
    }
    CHECK(arena_alloc(&a, 0, 8) != arena_alloc(&a, 8, 0));
    CHECK(!strcmp(arena_format(&a, "%d-%s", 12, "x"), "12-x"));
    arena_free(&a);
    CHECK(a.used == 0 && a.secret == secret);
    CHECK(all_zero(arena_alloc(&a, 100, 1), 100));                 // and may be used again
    arena_free(&a);
}

/* What the system has no room for is refused, or (no address space is that large) cannot be asked for; the arena goes on. */
TEST(arena_try_says_when_there_is_no_memory)
{
    Arena a;
    arena_init(&a, true);
    for (int round = 0; round < 2; round++) {
        ArenaMark mark = arena_mark(&a);
        char *kept = arena_string(&a, "kept");
        CHECK(arena_try(&a, (size_t)1 << 50, 1) == NULL);
        CHECK(arena_try(&a, SIZE_MAX, 2) == NULL);
        CHECK(arena_try(&a, SIZE_MAX / 2 - 4000, 1) == NULL);
        uint8_t *p = arena_try(&a, 200000, 1);
        CHECK(p && all_zero(p, 200000) && !strcmp(kept, "kept"));
        arena_rollback(&a, mark);              // leaves a spare behind
    }
    arena_free(&a);
    CHECK(memory_left(1 << 20) && !memory_left((size_t)1 << 50));
}

/* What arena_reuse leaves is seen by raw blocks alone, and by nobody once the arena was wiped. */
TEST(arena_reuse_leaves_and_wipe_zeroes)
{
    enum { LEN = 3 << 20 };
    Arena a;
    arena_init(&a, true);
    arena_alloc(&a, 1000, 1);
    ArenaMark mark = arena_mark(&a);
    uint8_t *first = arena_alloc(&a, 5000, 1);
    memset(first, 0xAA, 5000);
    memset(arena_raw(&a, LEN, 1), 0xBB, LEN);                  // another chunk
    arena_reuse(&a, mark);
    uint8_t *raw = arena_raw(&a, 100, 1);
    CHECK(raw == first && raw[0] == 0xAA && raw[99] == 0xAA);
    for (int round = 0; round < 2; round++) {
        ArenaMark inner = arena_mark(&a);
        uint8_t *small = arena_alloc(&a, 6000, 1), *large = arena_alloc(&a, LEN + 4096, 1);
        for (size_t i = 0; i < 6000; i++) CHECK(small[i] == 0);
        for (size_t i = 0; i < LEN + 4096; i++) CHECK(large[i] == 0);
        memset(small, 0xCC, 6000), memset(large, 0xDD, LEN + 4096);
        if (round == 0) arena_rollback(&a, inner);
    }
    arena_reuse(&a, mark);
    arena_wipe(&a);
    CHECK_EQUAL(0, a.used);
    raw = arena_raw(&a, 10000, 1);
    for (size_t i = 0; i < 10000; i++) CHECK(raw[i] == 0);
    raw = arena_raw(&a, LEN, 1);
    for (size_t i = 0; i < LEN; i++) CHECK(raw[i] == 0);
    arena_free(&a);
}

TEST(arena_plain) { arena_check(false); }
TEST(arena_secret) { arena_check(true); }

TEST(arena_rollback_wipes)
{
    Arena a;
    arena_init(&a, true);
    ArenaMark mark = arena_mark(&a);
    uint8_t *p = arena_alloc(&a, 1000, 1);
    memset(p, 0x5A, 1000);
    arena_rollback(&a, mark);
    CHECK(all_zero(p, 1000));
    CHECK(p == arena_alloc(&a, 1000, 1));                          // the memory is kept, not asked for again
    arena_free(&a);
}

static void arena_overflow(void) { Arena a; arena_init(&a, false); arena_alloc(&a, SIZE_MAX / 2, 3); }
static void arena_huge(void) { Arena a; arena_init(&a, false); arena_alloc(&a, SIZE_MAX / 4, 1); }
static void arena_rollback_twice(void)
{
    Arena a;
    arena_init(&a, false);
    ArenaMark low = arena_mark(&a);
    arena_alloc(&a, 1, 1);
    ArenaMark high = arena_mark(&a);
    arena_rollback(&a, low);
    arena_rollback(&a, high);
}
TEST(arena_misuse_aborts) { CHECK_ABORTS(arena_overflow); CHECK_ABORTS(arena_huge); CHECK_ABORTS(arena_rollback_twice); }

TEST(secrets_are_compared_and_wiped)
{
    uint8_t a[100] = {1, 2, 3}, b[100] = {1, 2, 3};
    CHECK(equal_secret(a, b, 100) && equal_secret(a, b, 0));
    b[99] = 0x80;
    CHECK(!equal_secret(a, b, 100) && equal_secret(a, b, 99));
    wipe(b, 100);
    CHECK(all_zero(b, 100));
    wipe(NULL, 0);
}

// ---- bytes -----------------------------------------------------------------------------------------------------------

static void buffer_round_trip(bool secret)
{
    Buffer b = {.secret = secret};
    buffer_append(&b, NULL, 0);
    buffer_u8(&b, 0xAB);
    buffer_u32(&b, 0x01020304);
    buffer_u64(&b, 0x1122334455667788);
    buffer_text(&b, "word");
    buffer_text(&b, "");
    buffer_format(&b, "%05d", 42);
    static const uint8_t head[] = {0xAB, 4, 3, 2, 1,
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 4, 0, 0, 0, 'w', 'o', 'r', 'd', 0, 0, 0, 0};
    CHECK_EQUAL(sizeof head + 5, b.len);
    CHECK(!memcmp(b.data, head, sizeof head) && !memcmp(b.data + sizeof head, "00042", 5));

    Cursor c = {b.data, b.len, 0, "a test"};
    uint8_t v8; uint32_t v32; uint64_t v64; char *text; const uint8_t *rest;
    Arena a;
    arena_init(&a, false);
    CHECK_OK(cursor_u8(&c, &v8));
    CHECK_OK(cursor_u32(&c, &v32));
    CHECK_OK(cursor_u64(&c, &v64));
    CHECK(v8 == 0xAB && v32 == 0x01020304 && v64 == 0x1122334455667788);
    CHECK_OK(cursor_text(&c, &text, 4, &a));
    CHECK(!strcmp(text, "word"));
    CHECK_OK(cursor_text(&c, &text, 4, &a));
    CHECK(!strcmp(text, ""));
    CHECK_FAILS(cursor_end(&c), "5 bytes left over");
    CHECK_OK(cursor_take(&c, &rest, 5));
    CHECK(!memcmp(rest, "00042", 5));
    CHECK_OK(cursor_end(&c));
    CHECK_OK(cursor_take(&c, &rest, 0));
    arena_free(&a);
    buffer_free(&b);
    CHECK(!b.data && !b.len && b.secret == secret);
}

TEST(buffer_and_cursor) { buffer_round_trip(false); buffer_round_trip(true); }

TEST(buffer_grows)
{
    for (int secret = 0; secret < 2; secret++) {
        Buffer b = {.secret = secret};
        for (uint32_t i = 0; i < 50000; i++) buffer_u32(&b, i);
        Cursor c = {b.data, b.len, 0, NULL};
        for (uint32_t i = 0, v; i < 50000; i++) { CHECK_OK(cursor_u32(&c, &v)); CHECK(v == i); }
        CHECK_OK(cursor_end(&c));
        buffer_free(&b);
    }
}

TEST(cursor_stays_inside)
{
    uint8_t bytes[16] = {0};
    Arena a;
    arena_init(&a, false);
    for (size_t len = 0; len < 8; len++) {
        uint8_t *exact = malloc(len + (len == 0));
        memset(exact, 0, len + (len == 0));
        Cursor c = {exact, len, 0, "the hello"};
        uint64_t v64; uint32_t v32 = 0; const uint8_t *p;
        CHECK_FAILS(cursor_u64(&c, &v64), "the hello: cut short");
        CHECK_FAILS(cursor_take(&c, &p, SIZE_MAX), "the hello");
        if (len < 4) CHECK_FAILS(cursor_u32(&c, &v32), "cut short");
        else CHECK_OK(cursor_u32(&c, &v32));
        free(exact);
    }
    char *text;
    Cursor nothing = {NULL, 0, 0, "nothing"};
    const uint8_t *p = NULL;
    CHECK_OK(cursor_take(&nothing, &p, 0));
    CHECK(p != NULL);
    bytes[0] = 3, bytes[4] = 'a', bytes[6] = 'c';
    CHECK_FAILS(cursor_text(&(Cursor){bytes, 16, 0, "t"}, &text, 10, &a), "NUL");
    bytes[5] = 'b';
    CHECK_OK(cursor_text(&(Cursor){bytes, 16, 0, "t"}, &text, 3, &a));
    CHECK(!strcmp(text, "abc"));
    CHECK_FAILS(cursor_text(&(Cursor){bytes, 16, 0, "t"}, &text, 2, &a), "longer than 2");
    CHECK_FAILS(cursor_text(&(Cursor){bytes, 6, 0, "t"}, &text, 10, &a), "cut short");
    memset(bytes, 0xFF, 4);
    CHECK_FAILS(cursor_text(&(Cursor){bytes, 16, 0, "t"}, &text, SIZE_MAX, &a), "cut short");     // before allocating 4 GB
    arena_free(&a);
}

// ---- files -----------------------------------------------------------------------------------------------------------

static const char *path_in(const char *name)
{
    static char paths[4][4096];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", test_folder(), name);
    return path;
}

TEST(file_round_trip)
{
    const char *path = path_in("a");
    Buffer b = {0};
    FileMap m;
    size_t sizes[] = {0, 1, 65535, 65536, 1000003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t *data = malloc(sizes[i] + 1);
        for (size_t j = 0; j < sizes[i]; j++) data[j] = (uint8_t)(j * 7 + j / 256);
        CHECK_OK(file_write(path, data, sizes[i], 0640));
        CHECK_OK(file_read(&b, path, sizes[i]));
        CHECK_EQUAL(sizes[i], b.len);
        CHECK(!memcmp(b.data, data, sizes[i]) && b.data[sizes[i]] == 0);
        if (sizes[i]) CHECK_FAILS(file_read(&b, path, sizes[i] - 1), "larger than");
        CHECK_OK(file_map(&m, path));
        CHECK(m.len == sizes[i] && !memcmp(m.data, data, m.len));
        file_unmap(&m);
        free(data);
    }
    struct stat s;
    CHECK_EQUAL(0, stat(path, &s));
    CHECK_EQUAL(0640, s.st_mode & 0777);
    buffer_free(&b);
}

TEST(file_failures_name_the_file)
{
    Buffer b = {0};
    FileMap m;
    CHECK(!file_exists(path_in("none")));
    CHECK_FAILS(file_read(&b, path_in("none"), 10), "none: cannot open: No such file");
    CHECK_FAILS(file_map(&m, path_in("none")), "none: cannot open");
    CHECK_FAILS(file_map(&m, test_folder()), "not a file");
    CHECK_FAILS(file_read(&b, test_folder(), 1000000), "cannot read");
    CHECK_FAILS(file_write(path_in("no/folder"), "x", 1, 0600), "no/folder: cannot write");
    CHECK_FAILS(file_read(&b, "/dev/zero", 100000), "larger than 100000");
    buffer_free(&b);
}

/* A reader sees one whole version or the other, and nothing is left beside the file. */
TEST(file_write_is_atomic)
{
    enum { SIZE = 200000 };
    const char *path = path_in("atomic");
    static uint8_t data[SIZE];
    CHECK_OK(file_write(path, data, SIZE, 0600));
    fflush(NULL);
    pid_t writer = fork();
    if (writer == 0) {
        for (int i = 1; i <= 30; i++) {
            memset(data, i, SIZE);
            if (failed(file_write(path, data, SIZE, 0600))) _exit(1);
        }
        _exit(0);
    }
    Buffer b = {0};
    int status = 0, versions = 0, last = -1;
    while (waitpid(writer, &status, WNOHANG) == 0) {
        CHECK_OK(file_read(&b, path, SIZE));
        CHECK_EQUAL(SIZE, b.len);
        for (size_t i = 1; i < SIZE; i++) CHECK(b.data[i] == b.data[0]);
        CHECK(b.data[0] >= last);
        versions += b.data[0] != last, last = b.data[0];
    }
    CHECK_EQUAL(0, status);
    CHECK(versions > 0);
    buffer_free(&b);
    char command[4200];
    snprintf(command, sizeof command, "test \"$(ls -A '%s')\" = atomic", test_folder());
    CHECK_EQUAL(0, system(command));
}

TEST(file_write_fails_cleanly)
{
    const char *path = path_in("here");
    CHECK_OK(folder_make(path, 0755));
    CHECK_FAILS(file_write(path, "x", 1, 0600), "here: cannot replace");          // a folder is in the way
    char command[4200];
    snprintf(command, sizeof command, "test \"$(ls -A '%s')\" = here", test_folder());
    CHECK_EQUAL(0, system(command));
}

TEST(folders)
{
    CHECK_OK(folder_make(path_in("a/b//c/"), 0700));
    CHECK_OK(folder_make(path_in("a/b/c"), 0700));
    CHECK_OK(folder_make("/", 0700));
    CHECK(file_exists(path_in("a/b/c")));
    CHECK_OK(file_write(path_in("a/file"), "x", 1, 0600));
    CHECK_FAILS(folder_make(path_in("a/file"), 0700), "file: not a folder");
    CHECK_FAILS(folder_make(path_in("a/file/d"), 0700), "a/file: not a folder");
    CHECK_FAILS(folder_make("", 0700), "not a folder's path");
}

// ---- threads and time ------------------------------------------------------------------------------------------------

enum { MOST = 5000 };
typedef struct { atomic_uchar hits[MOST]; atomic_size_t parts, shortest; size_t n, grain; bool nested; } Cover;

static void cover_inner(void *ctx, size_t begin, size_t end)
{
    atomic_size_t *sum = ctx;
    atomic_fetch_add(sum, end - begin);
}

static void cover_body(void *ctx, size_t begin, size_t end)
{
    Cover *c = ctx;
    CHECK(begin < end && end <= c->n);
    CHECK(end - begin >= c->grain || c->n < c->grain);
    for (size_t i = begin; i < end; i++) atomic_fetch_add(&c->hits[i], 1);
    atomic_fetch_add(&c->parts, 1);
    if (c->nested) {
        atomic_size_t sum = 0;
        parallel_for(100, 1, cover_inner, &sum);
        CHECK_EQUAL(100, sum);
    }
}

static size_t cover_check(size_t n, size_t grain, bool nested)     // how many parts it was cut into
{
    Cover *c = calloc(1, sizeof *c);
    c->n = n, c->grain = grain, c->nested = nested;
    parallel_for(n, grain, cover_body, c);
    for (size_t i = 0; i < MOST; i++) CHECK_EQUAL(i < n, c->hits[i]);
    size_t parts = c->parts;
    free(c);
    return parts;
}

static void cover_sizes(void)
{
    static const size_t ns[] = {0, 1, 2, 3, 7, 64, 1000, MOST};
    for (size_t i = 0; i < sizeof ns / sizeof *ns; i++)
        for (size_t grain = 1; grain < 3000; grain = grain * 5 + 1) cover_check(ns[i], grain, i % 2);
    CHECK_EQUAL(0, cover_check(0, 0, false));
}

TEST(parallel_without_pool) { CHECK_EQUAL(1, threads_count()); CHECK_EQUAL(1, cover_check(100, 1, true)); cover_sizes(); }
TEST(parallel_with_one_thread) { threads_start(1); CHECK_EQUAL(1, cover_check(100, 1, true)); cover_sizes(); }
TEST(parallel_with_pool)
{
    threads_start(4);
    CHECK_EQUAL(4, threads_count());
    size_t parts = cover_check(MOST, 1, false);
    CHECK(parts >= 4);
    for (int i = 0; i < 200; i++) CHECK(cover_check(MOST, 1, i % 2) == parts);
    cover_sizes();
}

static void *cover_many(void *unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++) cover_sizes();
    return NULL;
}

TEST(parallel_from_many_threads)
{
    threads_start(3);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) CHECK_EQUAL(0, pthread_create(&t[i], NULL, cover_many, NULL));
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
}

static void *cover_until(void *stop)
{
    while (!atomic_load((atomic_bool *)stop)) cover_check(MOST, 1, false);
    return NULL;
}

/* A child forked in the midst of other threads' work runs alone, with the same parts, and may start a pool of its own. */
TEST(parallel_after_fork)
{
#ifdef __SANITIZE_THREAD__
    SKIP("ThreadSanitizer starts no threads in a child forked among others");
#endif
    threads_start(4);
    size_t parts = cover_check(MOST, 1, true);
    atomic_bool stop = false;
    pthread_t t;
    CHECK_EQUAL(0, pthread_create(&t, NULL, cover_until, &stop));
    for (int i = 0; i < 20; i++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            CHECK_EQUAL(parts, cover_check(MOST, 1, true));
            threads_start(2);
            CHECK_EQUAL(2, threads_count());
            cover_check(MOST, 1, true);
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        CHECK_EQUAL(0, status);
    }
    atomic_store(&stop, true);
    pthread_join(t, NULL);
}

static void start_twice(void) { threads_start(2); threads_start(2); }
TEST(threads_start_twice_aborts) { CHECK_ABORTS(start_twice); }

TEST(clocks)
{
    double t = clock_seconds(), cpu = clock_cpu_seconds();
    usleep(20000);
    CHECK(clock_seconds() - t >= 0.02);
    CHECK(clock_cpu_seconds() >= cpu && clock_cpu_seconds() - cpu < 0.02);
    size_t size = 20 << 20;
    volatile char *touched = malloc(size);
    for (size_t i = 0; i < size; i += 1024) touched[i] = 1;
    CHECK(peak_rss_mb() > 20 && peak_rss_mb() < 1e5);
    free((char *)touched);
}

static void say(void *ctx, const char *line) { strcpy(ctx, line); }
TEST(progress_goes_up)
{
    char line[2000] = "";
    progress(NULL, "%d", 1);
    progress(&(Progress){NULL, NULL}, "%d", 1);
    progress(&(Progress){say, line}, "step %d of %d", 1, 2);
    CHECK(!strcmp(line, "step 1 of 2"));
}

int main(int argc, char **argv) { return test_main(argc, argv); }
