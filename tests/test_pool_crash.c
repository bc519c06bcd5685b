/* test_pool_crash.c - kill -9 at any point never leads to reuse: of a tape at random times, of a tape, of its making and of a pool's writing
 * before and after every system call, and of client or provider in a conversation, watched from the wire between them.
 *
 *     MARILL_KILLS=1000 build/test_pool_crash          as many random points each; without it a few, in some seconds */
#define TEST_SECONDS (getenv("MARILL_KILLS") ? 7200u : 100u)
#include "processes.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>

static unsigned points(unsigned few)
{
    const char *many = getenv("MARILL_KILLS");
    return many ? (unsigned)atoi(many) : few;
}

static const uint8_t seed[KEY_BYTES] = {4, 5, 6};
static const char header[] = "a pool's header";

// ---- at random times -------------------------------------------------------------------------------------------------

typedef struct Use { uint64_t segment; uint8_t key[KEY_BYTES]; } Use;

/* Goes through a tape, and says of each key that it has it before it could do anything with it. */
static void consume(const char *path, int out)
{
    Tape *t;
    if (failed(tape_open(&t, path))) fprintf(stderr, "after a kill: %s\n", result_text()), _exit(1);
    for (;;) {
        uint8_t key[3][KEY_BYTES];
        uint64_t from = tape_mark(t), count = 1 + from % 3;
        if (failed(tape_reserve(t, from, count, key))) fprintf(stderr, "after a kill: %s\n", result_text()), _exit(1);
        for (uint64_t i = 0; i < count; i++) {
            Use u = {.segment = from + i};
            memcpy(u.key, key[i], KEY_BYTES);
            if (write(out, &u, sizeof u) != sizeof u) _exit(1);
        }
    }
}

TEST(tape_killed_at_random_times)
{
    const unsigned kills = points(60);
    char path[512];
    Tape *live;
    uint64_t next = 0, used = 0;
    snprintf(path, sizeof path, "%s/tape", test_folder());
    crypto_init(false);
    CHECK_OK(tape_create(path, header, sizeof header, "client", seed, 1 << 30));
    tape_live(&live, seed, 1 << 30);
    for (unsigned i = 0; i < kills; i++) {
        int ends[2], status;
        Use u;
        CHECK(pipe(ends) == 0);
        pid_t child = fork();
        if (child == 0) consume(path, ends[1]);
        close(ends[1]);
        if (i % 2) CHECK(read(ends[0], &u, 1) == 1);                   // it is at work; else it may be killed as it opens
        usleep((useconds_t)(test_random() * 4000));
        kill(child, SIGKILL);
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        if (i % 2) CHECK(read(ends[0], (uint8_t *)&u + 1, sizeof u - 1) == sizeof u - 1);
        for (bool there = i % 2; there || read(ends[0], &u, sizeof u) == sizeof u; there = false) {
            uint8_t key[1][KEY_BYTES];
            CHECK(u.segment >= next);                                  // each segment once, in order, over all lives of the process
            next = u.segment + 1;
            CHECK_OK(tape_reserve(live, u.segment, 1, key));
            CHECK(!memcmp(key, u.key, KEY_BYTES));
            used++;
        }
        close(ends[0]);
    }
    TapeAbout a;
    CHECK_OK(tape_about(&a, path));
    CHECK(used >= kills / 2 && a.mark >= next);
    tape_close(live);
}

// ---- at every system call --------------------------------------------------------------------------------------------

/* Runs work in a child, which is killed at the stop-th entry or return of a system call; true if it got to its end before. */
static bool killed_at(unsigned stop, void (*work)(int out), int out)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(77);
        raise(SIGSTOP);
        work(out);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP("this machine does not let a process trace its child");
    for (unsigned i = 0; WIFSTOPPED(status) && i < stop; i++) {
        CHECK(ptrace(PTRACE_SYSCALL, child, NULL, NULL) == 0);
        CHECK(waitpid(child, &status, 0) == child);
    }
    if (WIFEXITED(status)) {
        CHECK_EQUAL(0, WEXITSTATUS(status));
        return true;
    }
    kill(child, SIGKILL);
    while (!WIFSIGNALED(status) && !WIFEXITED(status)) waitpid(child, &status, 0);
    return false;
}

static char traced_path[512];
static Identity traced_third;
static const uint64_t traced_sizes[3] = {70000, 5, 200000};

static void reserve_two(int out)
{
    Tape *t;
    uint8_t keys[2][KEY_BYTES];
    if (failed(tape_open(&t, traced_path))) _exit(1);
    uint64_t from = tape_mark(t);
    if (failed(tape_reserve(t, from, 2, keys))) _exit(1);
    if (write(out, &from, sizeof from) != sizeof from) _exit(1);
}

static void create_one(int out)
{
    (void)out;
    if (failed(tape_create(traced_path, header, sizeof header, "client", seed, 100))) _exit(1);
}

static void write_one(int out)
{
    (void)out;
    static const uint8_t keys[3][KEY_BYTES] = {{1}, {2}, {3}};
    static uint8_t data[200000];
    PoolWriter *w;
    if (failed(pool_create(&w, traced_path, header, sizeof header, traced_sizes, 3))) _exit(1);
    pool_begin(w, 3, keys);
    for (size_t i = 0; i < 3; i++) if (failed(pool_append(w, i, data, traced_sizes[i]))) _exit(1);
    if (failed(pool_finish(w, &traced_third))) _exit(1);
}

static void traced_begin(void)
{
    crypto_init(false);
    identity_generate(&traced_third);
    snprintf(traced_path, sizeof traced_path, "%s/it", test_folder());
}

TEST(tape_killed_at_every_call_of_a_reservation)
{
    uint64_t next = 0, from;
    unsigned stop = 0, given = 0;
    traced_begin();
    CHECK_OK(tape_create(traced_path, header, sizeof header, "client", seed, 10000));
    for (bool whole = false; !whole; stop++) {
        int ends[2];
        TapeAbout before, after;
        CHECK(pipe(ends) == 0);
        CHECK_OK(tape_about(&before, traced_path));
        whole = killed_at(stop, reserve_two, ends[1]);
        close(ends[1]);
        CHECK_OK(tape_about(&after, traced_path));
        CHECK(!after.copy && (after.mark == before.mark || after.mark == before.mark + 2));
        if (read(ends[0], &from, sizeof from) == sizeof from) {
            CHECK(from >= next && from + 2 == after.mark);
            next = from + 2;
            given++;
        }
        close(ends[0]);
    }
    CHECK(stop > 40 && given >= 1);            // two stops a call
}

TEST(tape_killed_at_every_call_of_its_making)
{
    traced_begin();
    unsigned stop = 0;
    for (bool whole = false; !whole; stop++) {
        Tape *t;
        whole = killed_at(stop, create_one, -1);
        if (!file_exists(traced_path)) continue;                       // and the next one can still be made
        CHECK_OK(tape_open(&t, traced_path));
        CHECK_EQUAL(0, tape_mark(t));
        tape_close(t);
        CHECK(unlink(traced_path) == 0);
    }
    CHECK(stop > 20);
}

TEST(pool_killed_at_every_call_of_its_writing)
{
    traced_begin();
    unsigned stop = 0, there = 0;
    for (bool whole = false; !whole; stop++) {
        Pool *p;
        whole = killed_at(stop, write_one, -1);
        if (!file_exists(traced_path)) continue;
        CHECK_OK(pool_open(&p, traced_path, traced_third.public_key));
        pool_close(p);
        CHECK(unlink(traced_path) == 0);
        there++;
    }
    CHECK(stop > 20 && there >= 1 && there < stop);
    *strrchr(traced_path, '/') = 0;
    if (rmdir(traced_path) != 0) SKIP("this file system has no files without a name: a killed writer leaves one beside the pool");
}

// ---- a conversation --------------------------------------------------------------------------------------------------

enum { POSITIONS = 12, SMALL_TALK = 600 };     // bytes that are no masked words after the opening: begin, reserved, a reason to end
typedef struct Wiretap { _Atomic uint64_t up, down, up_open, down_open; _Atomic int open, done; } Wiretap;
static Wiretap *watch;

static int socket_at(uint16_t port, bool listening, uint16_t *got)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(s >= 0);
    if (!listening) return connect(s, (struct sockaddr *)&a, len) == 0 ? s : -1;
    CHECK(bind(s, (struct sockaddr *)&a, len) == 0 && listen(s, 1) == 0 && getsockname(s, (struct sockaddr *)&a, &len) == 0);
    *got = ntohs(a.sin_port);
    return s;
}

/* Carries bytes both ways and counts them before it passes them on, until one side is gone. */
static void carry(int listener, uint16_t to)
{
    struct pollfd end[2] = {{accept(listener, NULL, NULL), POLLIN, 0}, {socket_at(to, false, NULL), POLLIN, 0}};
    static uint8_t data[1 << 16];
    for (bool on = end[0].fd >= 0 && end[1].fd >= 0; on;) {
        if (poll(end, 2, -1) < 0) break;
        for (int i = 0; i < 2 && on; i++) {
            if (!end[i].revents) continue;
            ssize_t n = read(end[i].fd, data, sizeof data);
            if (n > 0) atomic_fetch_add(i ? &watch->down : &watch->up, (uint64_t)n);
            on = n > 0 && send(end[!i].fd, data, (size_t)n, MSG_NOSIGNAL) == n;
        }
    }
    _exit(0);
}

static Result talk(int pipe, void *ctx)
{
    static float logits[310];
    Client *c;
    ClientOptions o = client_options(SETTING_DEALER);
    o.provider.port = *(uint16_t *)ctx;
    (void)pipe;
    GUARD(client_open(&c, &bundle, &o));
    watch->up_open = watch->up;
    watch->down_open = watch->down;
    watch->open = 1;
    Result r = client_prompt(c, (int32_t[]){5, 6, 7, 8, 9, 10}, 6, 4, logits);
    if (!failed(r)) r = client_step(c, 9, logits);
    client_close(c);
    watch->done = 1;
    return r;
}

static uint64_t mark_of(const char *name)
{
    TapeAbout a;
    CHECK_OK(tape_about(&a, in_folder(name)));
    CHECK(!a.copy);
    return a.mark;
}

static void ends_soon(pid_t id, const char *who)
{
    for (double until = clock_seconds() + SECONDS; waitpid(id, NULL, WNOHANG) == 0; usleep(500))
        if (clock_seconds() > until) fprintf(stderr, "the %s goes on\n", who), exit(1);
}

/* One conversation, in which after `delay` seconds one side is killed (0: client, 1: provider, -1: none). Returns how long it took. */
static double conversation_killed(int victim, double delay)
{
    Process client;
    uint16_t port;
    int listener = socket_at(0, true, &port);
    *watch = (Wiretap){0};
    start_dealer(1);
    CHECK(provider.port);                      // a pool that was not touched is taken
    fflush(NULL);
    pid_t wire = fork();
    if (wire == 0) carry(listener, provider.port);
    close(listener);
    double begin = clock_seconds();
    process_start(&client, "client", talk, &port);
    close(client.port_pipe);
    if (victim >= 0) {
        while (clock_seconds() < begin + delay) usleep(100);
        kill(victim ? provider.id : client.id, SIGKILL);
    }
    ends_soon(client.id, "client");
    double took = clock_seconds() - begin;
    if (!watch->open) kill(provider.id, SIGKILL), kill(wire, SIGKILL); // a client that never came is no session: they listen on
    ends_soon(provider.id, "provider");
    ends_soon(wire, "wire");
    return took;
}

static void pool_again(void)
{
    static const char *const names[] = {"pool", "client.tape", "provider.tape", "client.out", "provider.out", "making.out", "dealer.out"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(in_folder(names[i]));
    make_pool(&bundle, POSITIONS);
}

TEST(either_side_killed_in_a_conversation)
{
    const unsigned kills = points(12);
    unsigned masked = 0, kept = 0;
    watch = mmap(NULL, sizeof *watch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(watch != MAP_FAILED);
    setup();
    pool_again();
    double whole = conversation_killed(-1, 0);
    CHECK(watch->done && watch->up > watch->up_open + SMALL_TALK && watch->down > watch->down_open + SMALL_TALK);
    pool_again();
    for (unsigned i = 0; i < kills; i++) {
        double when = test_random();
        conversation_killed((int)(i % 2), when * when * 1.1 * whole);  // more often early, where the reservations are
        uint64_t client = mark_of("client.tape"), server = mark_of("provider.tape");
        bool sent = watch->open && (watch->up > watch->up_open + SMALL_TALK || watch->down > watch->down_open + SMALL_TALK);
        CHECK((client == 0 || client == POSITIONS) && (server == 0 || server == POSITIONS));
        CHECK(client == 0 || server == POSITIONS);                     // the provider is the first to reserve
        if (sent) CHECK(client == POSITIONS && server == POSITIONS);   // both, before any masked word
        masked += sent;
        if (client == 0 && server == 0) {
            kept++;                            // the next conversation goes on with it
            continue;
        }
        start_dealer(1);
        CHECK_EQUAL(0, provider.port);         // the provider refuses it
        process_end(&provider, "is used");
        pool_again();
    }
    printf("    %u kills: %u after the first masked word, %u before any reservation\n", kills, masked, kept);
    CHECK(masked > 0 && masked < kills);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
