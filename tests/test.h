/* test.h - the ground of every test program: TEST cases, CHECKs that name what differs, a skip that says why.
 *
 *     TEST(ring_shift_is_unbiased) { CHECK(mean < 1e-3); CHECK_EQUAL(3, count); }
 *     int main(int argc, char **argv) { return test_main(argc, argv); }
 *
 * Each TEST runs in a child process of its own with a deadline (TEST_SECONDS, 120 unless defined before the include); a
 * crash, a hang or a failed CHECK fails that case alone. One line a case: "ok", "FAILED" or "skipped (why)". With
 * arguments, only the cases of those names run. */
#ifndef MARILL_TEST_H
#define MARILL_TEST_H

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/base.h"

#ifndef TEST_SECONDS
#define TEST_SECONDS 120
#endif

typedef struct TestCase { const char *name; void (*run)(void); struct TestCase *next; } TestCase;
static TestCase *test_first, **test_last = &test_first;

#define TEST(id) \
    static void test_##id(void); \
    __attribute__((constructor)) static void test_add_##id(void) { \
        static TestCase c = {#id, test_##id, NULL}; *test_last = &c; test_last = &c.next; } \
    static void test_##id(void)

#define CHECK(cond) do { if (!(cond)) { fprintf(stderr, "%s:%d: CHECK(%s)\n", __FILE__, __LINE__, #cond); exit(1); } } while (0)
#define CHECK_EQUAL(want, got) do { long long want_ = (long long)(want), got_ = (long long)(got); if (want_ != got_) { \
    fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #got, got_, want_); exit(1); } } while (0)
#define CHECK_NEAR(want, got, tol) do { double want_ = (want), got_ = (got); if (!(fabs(want_ - got_) <= (tol))) { \
    fprintf(stderr, "%s:%d: %s is %.9g, not %.9g +- %g\n", __FILE__, __LINE__, #got, got_, want_, (double)(tol)); exit(1); } } while (0)
#define CHECK_OK(call) do { Result r_ = (call); if (failed(r_)) { fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, result_text()); exit(1); } } while (0)
/* The call must fail, with a text that contains `part`. */
#define CHECK_FAILS(call, part) do { Result r_ = (call); if (!failed(r_)) { fprintf(stderr, "%s:%d: %s did not fail\n", __FILE__, __LINE__, #call); exit(1); } \
    if (!strstr(result_text(), part)) { fprintf(stderr, "%s:%d: failed with '%s', which does not name '%s'\n", __FILE__, __LINE__, result_text(), part); exit(1); } } while (0)
#define SKIP(why) do { printf("    skipped (%s)\n", why); fflush(stdout); exit(77); } while (0)

/* Where the development data lies; skips the case if it is absent. */
static inline const char *test_data(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/../shared/data/%s", SOURCE_DIR, name);
    if (access(path, R_OK) != 0) SKIP("development data ../shared/data is absent");
    return path;
}
/* A fresh folder for this case's files, removed with the machine's temporary files. */
static inline const char *test_folder(void)
{
    static char path[] = "/tmp/marill-test-XXXXXX";
    static bool made;
    if (!made && !mkdtemp(path)) { perror("mkdtemp"); exit(1); }
    made = true;
    return path;
}
static inline double test_random(void)   // uniform in [0, 1), the same in every run
{
    static uint64_t s = 0x9E3779B97F4A7C15u;
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return (double)(s >> 11) * 0x1p-53;
}

static int test_main(int argc, char **argv)
{
    int bad = 0, good = 0, skipped = 0;
    for (TestCase *c = test_first; c; c = c->next) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++) wanted |= !strcmp(argv[i], c->name);
        if (!wanted) continue;
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) { setpgid(0, 0); alarm(TEST_SECONDS); c->run(); exit(0); }
        int status = 0;
        waitpid(child, &status, 0);
        kill(-child, SIGKILL);                                       // helpers that the case started and left
        bool skip = WIFEXITED(status) && WEXITSTATUS(status) == 77, ok = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        if (WIFSIGNALED(status)) fprintf(stderr, "    %s: ended by signal %d%s\n", c->name, WTERMSIG(status), WTERMSIG(status) == SIGALRM ? " (deadline)" : "");
        printf("%-8s %s\n", skip ? "skipped" : ok ? "ok" : "FAILED", c->name);
        good += ok, skipped += skip, bad += !ok && !skip;
    }
    printf("%d passed, %d failed, %d skipped\n", good, bad, skipped);
    return bad ? 1 : good || !skipped ? 0 : 77;
}
#endif
