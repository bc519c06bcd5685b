/* bench_threads.c - `bench threads`: one layer's work of each party alone, with one thread and with several.
 *
 * Client and server of a block compute at the same time, so that on a machine of few cores their second threads find none free. Here a
 * party has the machine to itself: what its peer would have sent lies ready in a channel within the process, frames of the right sizes
 * filled with zeros, and so do the third's words. No time depends on a value. What the party sends is taken away after the time is.
 * For each count of threads there is a process, and the processes run by turns. How much faster several threads are where they need
 * nothing but a core each is measured in the same way: only where that many cores were free is anything asked of the parties. */
#include "app/bench_block.h"
#include "app/idle_feed.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_EXCHANGES = 64, WORDS = 16 << 20 };
static const double CORES_FREE = 0.9;          // of the threads' number, at least

typedef struct ThreadsArgs {
    const char *shape;
    unsigned prefer, kernels;
    uint64_t tokens, repeats, threads;
    bool json;
} ThreadsArgs;

/* What travels in each exchange of the layer: [to the server, to the client]. */
typedef struct Frames { size_t bytes[MOST_EXCHANGES][2], count; } Frames;

typedef struct Solo {
    IdleFeed feed;
    Role role;
    const Block *b;
    const Frames *frames;
    Model model;
    Channel *mine, *ghost;                     // C and S; ghost: the peer's end
    Engine *engine;
    SecureNet *net;
    Arena arena;
    float *x;                                  // (rows, width), zeros
    uint8_t *zeros;                            // (WORDS)
    uint8_t (*keys)[KEY_BYTES];                // (rows)
    uint64_t next;                             // segment: masks are drawn anew in every batch
} Solo;
static const Role nobody = ROLE_CLEAR;         // in place of a party: a loop in registers

// ---- frames ----------------------------------------------------------------------------------------------------------

static void on_exchange(void *ctx, const char *name, uint64_t to_server, uint64_t to_client, uint64_t dealt)
{
    Frames *f = ctx;
    (void)name, (void)dealt;
    ASSERT(f->count < MOST_EXCHANGES);
    f->bytes[f->count][0] = to_server, f->bytes[f->count++][1] = to_client;
}

static Result frames_count(Frames *f, const Block *b)
{
    Arena a;
    Wire out;
    SecureNet *net;
    arena_init(&a, false);
    Engine *e = engine_new(ROLE_COUNT, NULL, NULL);
    engine_trace(e, on_exchange, f);
    Result r = secure_new(&net, e, &a, &b->config, &b->plan, NULL, NULL);
    engine_begin(e, b->rows, 0, NULL, NULL);
    if (!failed(r)) r = secure_layers(net, b->rows, NULL, NULL, &out);
    engine_free(e);
    arena_free(&a);
    return r;
}

/* The peer's part of a batch: before it, what it sends; after it, what it would have received. */
static Result ghost_sends(Solo *s)
{
    for (size_t i = 0; i < s->frames->count; i++) {
        size_t len = s->frames->bytes[i][s->role == ROLE_CLIENT];
        uint8_t *frame = len ? calloc(len, 1) : NULL;
        if (len && !frame) bug("out of memory");
        Result r = len ? channel_send(s->ghost, frame, len) : OK;
        free(frame);
        GUARD(r);
    }
    return OK;
}

static Result ghost_takes(Solo *s)
{
    Buffer b = {0};
    Result r = OK;
    for (size_t i = 0; i < s->frames->count && !failed(r); i++) {
        size_t len = s->frames->bytes[i][s->role == ROLE_SERVER];
        b.len = 0;
        buffer_reserve(&b, len);
        if (len) r = channel_expect(s->ghost, b.data, len, "a message of the batch");
    }
    buffer_free(&b);
    return r;
}

// ---- a party ---------------------------------------------------------------------------------------------------------

static Result solo_setup(Solo *s)
{
    const Block *b = s->b;
    Adapter none;
    uint8_t seed[KEY_BYTES];
    arena_init(&s->arena, true);
    s->zeros = calloc(WORDS, 1);
    s->keys = arena_alloc(&s->arena, b->rows, KEY_BYTES);
    s->x = arena_new(&s->arena, float, b->rows * b->config.width);
    if (!s->zeros) bug("out of memory");
    memset(s->zeros, 0, WORDS);                // pages of its own: untouched ones are all the same page
    idle_feed(&s->feed, s->zeros, WORDS);
    channel_memory(&s->mine, &s->ghost);
    if (s->role != ROLE_THIRD) block_model(&s->model, &none, b, s->role == ROLE_SERVER);
    s->engine = engine_new(s->role, s->role == ROLE_THIRD ? NULL : s->mine, s->role == ROLE_CLIENT ? NULL : &s->feed.feed);
    random_bytes(seed, sizeof seed);
    if (s->role != ROLE_THIRD) engine_shared_seed(s->engine, seed), engine_pad_seed(s->engine, seed);
    return secure_new(&s->net, s->engine, &s->arena, &b->config, &b->plan, s->role == ROLE_THIRD ? NULL : &s->model, NULL);
}

enum { SPINS = 64, SPIN_STEPS = 1 << 18 };

static void spin(void *ctx, size_t begin, size_t end)
{
    uint64_t *out = ctx;
    for (size_t i = begin; i < end; i++) {
        uint64_t x = i + 1;
        for (int k = 0; k < SPIN_STEPS; k++) x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        out[i] = x;
    }
}

static void spin_batch(double *seconds)
{
    uint64_t out[SPINS];
    volatile uint64_t seen;                    // somebody wants the results
    double start = clock_seconds();
    parallel_for(SPINS, 1, spin, out);
    *seconds = clock_seconds() - start;
    for (int i = 0; i < SPINS; i++) seen = out[i];
    (void)seen;
}

static Result solo_batch(Solo *s, double *seconds)
{
    const uint8_t (*keys)[KEY_BYTES] = (const uint8_t (*)[KEY_BYTES])s->keys;
    size_t rows = s->b->rows;
    Wire out;
    random_bytes(s->keys, rows * KEY_BYTES);
    secure_restart(s->net);
    if (s->role != ROLE_THIRD) GUARD(ghost_sends(s));
    double start = clock_seconds();
    engine_begin(s->engine, rows, s->next, s->role == ROLE_SERVER ? NULL : keys, s->role == ROLE_CLIENT ? NULL : keys);
    GUARD(secure_layers(s->net, rows, s->role == ROLE_CLIENT ? s->x : NULL, NULL, &out));
    GUARD(engine_end(s->engine));
    *seconds = clock_seconds() - start;
    s->next += rows;
    return s->role == ROLE_THIRD ? OK : ghost_takes(s);
}

/* A process: for every byte from the parent a batch, until there are no more. A failure is its text in place of a time. */
typedef struct Answer { double seconds; char why[200]; } Answer;

static void solo_life(Solo *s, unsigned threads, int fd)
{
    char go;
    threads_start(threads);
    Result r = s->role == nobody ? OK : solo_setup(s);
    for (Answer a = {0}; read(fd, &go, 1) == 1;) {
        if (s->role == nobody) spin_batch(&a.seconds);
        else if (!failed(r)) r = solo_batch(s, &a.seconds);
        if (failed(r)) snprintf(a.why, sizeof a.why, "%s: %s", party_names[s->role], result_text());
        if (write(fd, &a, sizeof a) != sizeof a || failed(r)) break;
    }
}

// ---- turns -----------------------------------------------------------------------------------------------------------

typedef struct Racer { pid_t pid; int fd; double least; } Racer;

static Result racer_start(Racer *c, Role role, unsigned threads, const Block *b, const Frames *f)
{
    int pair[2];
    pid_t parent = getpid();
    c->least = INFINITY;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return fail(FAIL_SYSTEM, "socketpair: %s", strerror(errno));
    fflush(NULL);
    c->pid = fork();
    if (c->pid == 0) {
        Solo s = {.role = role, .b = b, .frames = f};
        close(pair[0]);
        signal(SIGINT, SIG_DFL), signal(SIGTERM, SIG_DFL), signal(SIGHUP, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) solo_life(&s, threads, pair[1]);
        _exit(0);                              // with all that it has
    }
    close(pair[1]);
    c->fd = pair[0];
    return c->pid < 0 ? fail(FAIL_SYSTEM, "cannot start a process: %s", strerror(errno)) : OK;
}

static Result racer_turn(Racer *c)
{
    Answer a;
    if (write(c->fd, "", 1) != 1 || recv(c->fd, &a, sizeof a, MSG_WAITALL) != sizeof a) return fail(FAIL_PEER, "a party's process ended");
    if (a.why[0]) return fail(FAIL_PEER, "%s", a.why);
    c->least = fmin(c->least, a.seconds);
    return OK;
}

static void racer_end(Racer *c)
{
    if (c->fd > 0) close(c->fd);
    if (c->pid <= 0) return;
    kill(c->pid, SIGKILL);                     // it has nothing to leave in order
    waitpid(c->pid, NULL, 0);
}

/* least [one thread, many], seconds */
static Result party_race(double least[2], Role role, const ThreadsArgs *k, const Block *b, const Frames *f)
{
    Racer c[2] = {{0}, {0}};
    Result r = OK;
    for (int many = 0; many < 2 && !failed(r); many++) r = racer_start(&c[many], role, many ? (unsigned)k->threads : 1, b, f);
    for (uint64_t i = 0; i <= k->repeats && !failed(r); i++) {
        if (i == 1) c[0].least = c[1].least = INFINITY;        // the first turn touches the memory
        for (int many = 0; many < 2 && !failed(r); many++) r = racer_turn(&c[many]);
    }
    for (int many = 0; many < 2; many++) racer_end(&c[many]), least[many] = c[many].least;
    return r;
}

// ---- the command -----------------------------------------------------------------------------------------------------

static void race_add(Figures *r, const char *name, const double least[2], const ThreadsArgs *k, bool free_cores)
{
    Bout one = {.best = 1 / least[0], .median = 1 / least[0]}, many = {.best = 1 / least[1], .median = 1 / least[1]};
    figure_time(r, "ms", 1e3, &one, "%s, one thread", name);
    figure_hold(figure_time(r, "ms", 1e3, &many, "%s, %llu threads", name, (unsigned long long)k->threads), &many, &one, 1, "one thread",
                ASK_TIMES, free_cores && k->threads == 2 ? 1.7 : 0);
}

static Result block_plan(Block *b, const ThreadsArgs *k)
{
    GUARD(strchr(k->shape, '/') ? config_read(&b->config, k->shape) : shape_config(k->shape, &b->config));
    b->config.layers = 1, b->config.vocab = 1024, b->config.tied = false, b->config.bos = b->config.eos = -1;
    if (k->tokens > b->config.context)
        return fail(FAIL_USE, "--tokens %llu is more than the context of %s", (unsigned long long)k->tokens, k->shape);
    b->config.context = (uint32_t)k->tokens;
    b->rows = k->tokens, b->seed = 1;
    PlanOptions o = {.context = (uint32_t)k->tokens, .prefer = (Prefer)k->prefer, .private_part = PRIVATE_LAYERS};
    GUARD(plan_assume(&b->plan, &b->config, &o, 0));
    b->plan.known = 0;
    return OK;
}

static Result threads_measure(Figures *r, const ThreadsArgs *k, const Block *b)
{
    Frames f = {.count = 0};
    double least[PARTIES + 1][2], all[2] = {0, 0}, *cores = least[PARTIES];
    GUARD(frames_count(&f, b));
    for (int role = 0; role < PARTIES; role++) {
        GUARD(party_race(least[role], (Role)role, k, b, &f));
        all[0] += least[role][0], all[1] += least[role][1];
    }
    GUARD(party_race(cores, nobody, k, b, &f));
    bool free_cores = cores[0] / cores[1] >= CORES_FREE * (double)k->threads;
    for (int role = 0; role < PARTIES; role++) race_add(r, party_names[role], least[role], k, free_cores);
    race_add(r, "all three, one after the other", all, k, free_cores);
    race_add(r, "a loop in registers", cores, k, false);
    return OK;
}

Result bench_threads(int argc, char **argv)
{
    ThreadsArgs k = {.shape = "gpt2-small", .tokens = 128, .threads = 2, .repeats = 5, .prefer = PREFER_BYTES};
    Option options[] = {
        OPTION("--shape", OPT_TEXT, &k.shape),
        OPTION("--tokens", OPT_UINT, &k.tokens, .min = 1, .max = 4096),
        OPTION("--prefer", OPT_CHOICE, &k.prefer, .choices = prefer_names),
        OPTION("--threads", OPT_UINT, &k.threads, .min = 2, .max = 256),
        OPTION("--kernels", OPT_CHOICE, &k.kernels, .choices = kernel_names),
        OPTION("--repeat", OPT_UINT, &k.repeats, .min = 1, .max = MOST_REPEATS),
        OPTION("--json", OPT_FLAG, &k.json),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    kernels_limit(k.kernels);
    Block b = {.setting = SETTING_3PC};
    Figures figures = {.name = "threads"};
    Result r = block_plan(&b, &k);
    if (!failed(r)) r = threads_measure(&figures, &k, &b);
    if (!failed(r)) figures_print(&figures, k.json);
    plan_free(&b.plan);
    return r;
}
