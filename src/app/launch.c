/* launch.c - all parties on this machine: the provider and the third as processes of this binary, this process the client.
 *
 * Each has a throw-away identity in a folder that only this user may read. They listen on ports that the system chooses and
 * print them into a pipe. None outlives this process: a child asks the kernel to be ended with its parent, and signals wake a
 * thread whose whole work is to end the children and remove the folder. */
#include "app/app.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CHILDREN = 16, MOST_ARGUMENTS = 40, SAID = 512 };
static const double start_patience = 120, end_patience = 10, stop_patience = 2, idle_patience = 0.3;

static const int ending[] = {SIGINT, SIGTERM, SIGHUP};

/* What has to be ended and removed, whoever ends this process. */
static struct { pthread_mutex_t lock; pid_t child[MOST_CHILDREN]; char folder[256]; } alive = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void child_note(pid_t from, pid_t to)
{
    pthread_mutex_lock(&alive.lock);
    for (int i = 0; i < MOST_CHILDREN; i++) {
        if (alive.child[i] != from) continue;
        alive.child[i] = to;
        break;
    }
    pthread_mutex_unlock(&alive.lock);
}

static void sleep_a_little(void)
{
    nanosleep(&(struct timespec){0, 2000000}, NULL);
}

// ---- the end of this process -----------------------------------------------------------------------------------------

static void folder_remove(void)
{
    DIR *d = *alive.folder ? opendir(alive.folder) : NULL;
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    rmdir(alive.folder);
    *alive.folder = 0;
}

static void children_end(void)
{
    double start = clock_seconds();
    for (int i = 0; i < MOST_CHILDREN; i++)
        if (alive.child[i]) kill(alive.child[i], SIGTERM);
    for (int i = 0; i < MOST_CHILDREN; i++) {
        while (alive.child[i] && waitpid(alive.child[i], NULL, WNOHANG) == 0) {
            if (clock_seconds() - start > stop_patience) kill(alive.child[i], SIGKILL);
            sleep_a_little();
        }
        alive.child[i] = 0;
    }
}

void launch_end(void)
{
    pthread_mutex_lock(&alive.lock);
    children_end();
    folder_remove();
    pthread_mutex_unlock(&alive.lock);
}

static sem_t asked;
static volatile sig_atomic_t which;

static void on_signal(int number)
{
    which = number;
    sem_post(&asked);                          // all that a handler may do; a thread does the rest
}

static void *end_wait(void *arg)
{
    (void)arg;
    while (sem_wait(&asked) != 0) { }
    launch_end();
    signal(which, SIG_DFL);
    raise(which);                              // so that our parent sees what ended us
    _exit(128 + which);
}

void launch_begin(void)
{
    pthread_t thread;
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sem_init(&asked, 0, 0);
    if (pthread_create(&thread, NULL, end_wait, NULL) != 0) return;             // then a signal ends this process at once
    pthread_detach(thread);
    for (size_t i = 0; i < sizeof ending / sizeof *ending; i++) sigaction(ending[i], &act, NULL);
}

Result scratch_folder(const char **out)
{
    const char *base = getenv("TMPDIR");
    if (!base || !*base || strlen(base) > sizeof alive.folder - 32) base = "/tmp";
    pthread_mutex_lock(&alive.lock);
    if (!*alive.folder) {
        snprintf(alive.folder, sizeof alive.folder, "%s/marill-XXXXXX", base);
        if (!mkdtemp(alive.folder)) *alive.folder = 0;
    }
    pthread_mutex_unlock(&alive.lock);
    *out = alive.folder;
    return *alive.folder ? OK : fail(FAIL_SYSTEM, "%s: cannot make a temporary folder: %s", base, strerror(errno));
}

// ---- one child -------------------------------------------------------------------------------------------------------

static _Noreturn void child_exec(pid_t parent, int out, int err, const char *const *argv)
{
    for (size_t i = 0; i < sizeof ending / sizeof *ending; i++) signal(ending[i], SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);         // it ended before the line above
    int in = open("/dev/null", O_RDONLY);
    if (in < 0 || dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(err, STDERR_FILENO) < 0) _exit(1);
    execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
    _exit(1);
}

Result child_start(Child *c, const char *who, const char *const *argv)
{
    int pipes[2];
    *c = (Child){.who = who, .out = -1, .err = memfd_create("stderr", MFD_CLOEXEC)};
    if (c->err < 0 || pipe2(pipes, O_CLOEXEC) != 0) return fail(FAIL_SYSTEM, "cannot start the %s: %s", who, strerror(errno));
    pid_t parent = getpid();
    fflush(NULL);
    pthread_mutex_lock(&alive.lock);           // a signal now waits until the child is on the list
    c->pid = fork();
    if (c->pid == 0) child_exec(parent, pipes[1], c->err, argv);
    for (int i = 0; c->pid > 0 && i < MOST_CHILDREN; i++)
        if (!alive.child[i]) { alive.child[i] = c->pid; break; }
    pthread_mutex_unlock(&alive.lock);
    close(pipes[1]);
    c->out = pipes[0];
    if (c->pid < 0) {
        c->pid = 0;
        return fail(FAIL_SYSTEM, "cannot start the %s: %s", who, strerror(errno));
    }
    return OK;
}

/* The child's last line on standard error, without our own name before it. */
static const char *child_said(const Child *c, char out[SAID])
{
    char text[4096];
    off_t size = lseek(c->err, 0, SEEK_END), from = size > (off_t)sizeof text - 1 ? size - (off_t)sizeof text + 1 : 0;
    ssize_t len = size > 0 ? pread(c->err, text, sizeof text - 1, from) : 0;
    while (len > 0 && text[len - 1] == '\n') len--;
    text[len > 0 ? len : 0] = 0;
    const char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    if (!strncmp(line, "marill: ", 8)) line += 8;
    snprintf(out, SAID, "%.*s", SAID - 1, line);
    return out;
}

static bool child_wait(Child *c, double patience)
{
    struct rusage used;
    double start = clock_seconds();
    for (;;) {
        pid_t got = wait4(c->pid, &c->status, WNOHANG, &used);
        if (got == c->pid || (got < 0 && errno == ECHILD)) break;
        if (clock_seconds() - start > patience) return false;
        sleep_a_little();
    }
    child_note(c->pid, 0);
    c->pid = 0;
    c->peak_rss_mb = (double)used.ru_maxrss / 1024;
    return true;
}

Result child_end(Child *c, double patience)
{
    char said[SAID];
    if (!c->who) return OK;
    bool ran = c->pid > 0;
    if (ran && !child_wait(c, patience)) {
        c->stopped = true;
        kill(c->pid, SIGTERM);
        if (!child_wait(c, stop_patience)) kill(c->pid, SIGKILL), child_wait(c, 1e9);
    }
    if (c->out >= 0) close(c->out);
    c->out = -1;
    Result r = OK;
    if (!ran || c->stopped) r = OK;
    else if (WIFSIGNALED(c->status)) r = fail(FAIL_PEER, "the %s was ended by signal %d", c->who, WTERMSIG(c->status));
    else if (WEXITSTATUS(c->status) != 0)
        r = fail(WEXITSTATUS(c->status) == 2 ? FAIL_USE : FAIL_PEER, "%s: %s", c->who, child_said(c, said));
    if (c->err >= 0) close(c->err);
    c->err = -1;
    return r;
}

Result child_port(Child *c, uint16_t *port)
{
    char line[128];
    size_t len = 0;
    double end = clock_seconds() + start_patience;
    for (;;) {
        struct pollfd p = {c->out, POLLIN, 0};
        double left = end - clock_seconds();
        int ready = left > 0 ? poll(&p, 1, (int)(left * 1000) + 1) : 0;
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) return fail(FAIL_PEER, "the %s did not start within %.0f s", c->who, start_patience);
        ssize_t got = read(c->out, line + len, 1);
        if (got <= 0) {                        // it ended, or is about to
            GUARD(child_end(c, stop_patience));
            return fail(FAIL_PEER, "the %s ended before it listened", c->who);
        }
        if (line[len] == '\n' || ++len == sizeof line - 1) break;
    }
    line[len] = 0;
    const char *colon = strrchr(line, ':');
    long v = colon ? strtol(colon + 1, NULL, 10) : 0;
    if (strncmp(line, "listening on ", 13) != 0 || v < 1 || v > 65535)
        return fail(FAIL_PEER, "the %s said '%s' instead of its port", c->who, line);
    *port = (uint16_t)v;
    return OK;
}

// ---- the parties -----------------------------------------------------------------------------------------------------

/* A command line under construction. */
typedef struct Line { const char *arg[MOST_ARGUMENTS + 1]; size_t count; } Line;

static void line_add(Line *l, const char *name, const char *value)
{
    ASSERT(l->count + 2 <= MOST_ARGUMENTS);
    if (name) l->arg[l->count++] = name;
    if (value) l->arg[l->count++] = value;
}

static Result identity_make(Identity *keep, uint8_t public[32], char hex[65], const char *path)
{
    Identity id;
    identity_generate(&id);
    memcpy(public, id.public_key, 32);
    hex_encode(hex, id.public_key, 32);
    if (path) unlink(path);                    // of earlier parties of this process
    Result r = path ? identity_save(&id, path) : OK;
    if (keep) *keep = id;
    else identity_free(&id);
    return r;
}

static Result path_in(char *out, size_t size, const char *name)
{
    const char *folder;
    GUARD(scratch_folder(&folder));
    if (snprintf(out, size, "%s/%s", folder, name) >= (int)size) return fail(FAIL_SYSTEM, "%s: too long a path", folder);
    return OK;
}

static Result third_start(Parties *p, const char *pool)
{
    char path[512], trace[512];
    uint16_t port = 0;
    Line l = {{"marill", "third", "--listen", "127.0.0.1:0", "--once"}, 5};
    GUARD(path_in(path, sizeof path, "third.key"));
    line_add(&l, "--key", path);
    line_add(&l, "--client", p->key[0]);
    line_add(&l, "--provider", p->key[1]);
    if (pool) line_add(&l, "--write", pool);
    else if (p->net) line_add(&l, "--net", p->net);
    if (!pool && p->traced) GUARD(path_in(trace, sizeof trace, "third.trace"));
    if (!pool && p->traced) line_add(&l, "--trace", trace);
    GUARD(child_start(&p->third, "third", l.arg));
    GUARD(child_port(&p->third, &port));
    snprintf(p->third_at, sizeof p->third_at, "127.0.0.1:%u", port);
    p->options.third = (Address){.host = "127.0.0.1", .port = port};
    memcpy(p->options.third.key, p->third_key, 32);
    return OK;
}

/* What every use of `serve` has in common. */
static Result provider_line(const Parties *p, Line *l, char path[512], char threads[16])
{
    *l = (Line){{"marill", "serve"}, 2};
    GUARD(path_in(path, 512, "provider.key"));
    line_add(l, "--key", path);
    line_add(l, "--model", p->model);
    if (p->adapter) line_add(l, "--adapter", p->adapter);
    line_add(l, "--plan", p->plan);
    if (p->synthetic) line_add(l, "--synthetic", p->synthetic);
    if (p->synthetic_past) line_add(l, "--synthetic-past", NULL);
    line_add(l, "--client", p->key[0]);
    line_add(l, "--third-key", p->key[2]);
    snprintf(threads, 16, "%u", p->threads);
    line_add(l, "--threads", threads);
    return OK;
}

static Result provider_start(Parties *p, const char *pool, const char *tape)
{
    char path[512], trace[512], threads[16];
    Line l;
    GUARD(provider_line(p, &l, path, threads));
    line_add(&l, "--listen", "127.0.0.1:0");
    line_add(&l, "--setting", setting_names[p->setting]);
    line_add(&l, "--once", NULL);
    if (p->scores) line_add(&l, "--reveal", "every");
    if (p->net) line_add(&l, "--net", p->net);
    if (p->traced) GUARD(path_in(trace, sizeof trace, "provider.trace"));
    if (p->traced) line_add(&l, "--trace", trace);
    if (pool) line_add(&l, "--pool", pool), line_add(&l, "--tape", tape);
    else line_add(&l, "--third", p->third_at);
    return child_start(&p->provider, "provider", l.arg);
}

static Result provider_listens(Parties *p)
{
    uint16_t port = 0;
    GUARD(child_port(&p->provider, &port));
    p->options.provider = (Address){.host = "127.0.0.1", .port = port};
    memcpy(p->options.provider.key, p->provider_key, 32);
    return OK;
}

unsigned party_threads(uint64_t asked, Setting setting)
{
    if (asked || (setting != SETTING_3PC && setting != SETTING_DEALER)) return (unsigned)asked;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores > 2 ? (unsigned)cores / 2 : 1;                     // client and provider compute at the same time
}

static bool has_parties(const Parties *p) { return p->setting == SETTING_3PC || p->setting == SETTING_DEALER; }

Result parties_start(Parties *p)
{
    char path[512];
    uint8_t mine[32];
    if (!has_parties(p)) return OK;
    if (p->net) GUARD(net_parse(&p->options.net, p->net));
    GUARD(identity_make(&p->me, mine, p->key[0], NULL));
    GUARD(path_in(path, sizeof path, "provider.key"));
    GUARD(identity_make(NULL, p->provider_key, p->key[1], path));
    GUARD(path_in(path, sizeof path, "third.key"));
    GUARD(identity_make(NULL, p->third_key, p->key[2], path));
    if (p->traced) p->options.trace = &p->trace;
    p->options.identity = &p->me, p->options.setting = p->setting;
    if (p->setting == SETTING_DEALER) return OK;
    GUARD(third_start(p, NULL));
    return provider_start(p, NULL, NULL);
}

/* The third writes a pool, the provider and the client (this process) give it their seeds and keep their tapes. */
static Result pool_make(Parties *p, const Bundle *b, size_t positions, const char *pool, const char *tape)
{
    char path[512], threads[16], count[24], hex[33];
    uint8_t name[16];
    Line l;
    random_bytes(name, sizeof name);
    hex_encode(hex, name, sizeof name);
    GUARD(third_start(p, pool));
    GUARD(provider_line(p, &l, path, threads));
    snprintf(count, sizeof count, "%zu", positions);
    line_add(&l, "--third", p->third_at);
    line_add(&l, "--make-pool", count);
    line_add(&l, "--name", hex);
    line_add(&l, "--tape", tape);
    GUARD(child_start(&p->provider, "provider", l.arg));
    GUARD(client_pool(b, &p->me, &p->options.third, p->provider_key, name, (uint32_t)positions, p->tape));
    GUARD(child_end(&p->provider, start_patience));
    p->provider.who = NULL;
    return child_end(&p->third, start_patience);
}

static Result dealer_open(Parties *p, const Bundle *b, size_t positions)
{
    char pool[512], tape[512], name[64];
    double start = clock_seconds();
    snprintf(name, sizeof name, "pool.%u", p->pools);
    GUARD(path_in(pool, sizeof pool, name));
    snprintf(name, sizeof name, "provider.tape.%u", p->pools);
    GUARD(path_in(tape, sizeof tape, name));
    snprintf(name, sizeof name, "client.tape.%u", p->pools++);
    GUARD(path_in(p->tape, sizeof p->tape, name));
    GUARD(pool_make(p, b, positions, pool, tape));
    double third_peak = p->third.peak_rss_mb;
    p->setup_seconds = clock_seconds() - start;
    p->third = (Child){.peak_rss_mb = third_peak};                  // gone before the first masked word
    GUARD(provider_start(p, pool, tape));
    p->options.tape = p->tape;
    return OK;
}

Result parties_open(Parties *p, const Bundle *b, size_t positions)
{
    if (!has_parties(p)) return OK;
    if (p->setting == SETTING_DEALER) GUARD(dealer_open(p, b, positions));
    GUARD(provider_listens(p));
    return client_open(&p->client, b, &p->options);
}

Result parties_close_session(Parties *p)
{
    if (p->client) client_close(p->client);
    p->client = NULL;
    return p->setting == SETTING_DEALER ? child_end(&p->provider, end_patience) : OK;
}

Result parties_traces(Parties *p, Trace trace[PARTIES_COUNT])
{
    char path[512];
    for (int i = 0; i < PARTIES_COUNT; i++) trace[i] = (Trace){0};
    GUARD(path_in(path, sizeof path, "provider.trace"));
    GUARD(trace_load(&trace[PARTY_PROVIDER], path));
    GUARD(path_in(path, sizeof path, "third.trace"));
    if (p->setting == SETTING_3PC) GUARD(trace_load(&trace[PARTY_THIRD], path));
    trace[PARTY_CLIENT] = p->trace;
    p->trace = (Trace){0};
    return OK;
}

/* A failure here is often the echo of one elsewhere. A party that was killed is the cause; else what one has said may be, unless
 * it came to us over the wire already. */
static Result blame(Result r, const char *mine, Child *child[2], double patience)
{
    char said[2][SAID] = {"", ""};
    bool killed[2] = {false, false};
    for (int i = 0; i < 2; i++) {
        if (!failed(child_end(child[i], patience))) continue;
        killed[i] = WIFSIGNALED(child[i]->status);
        const char *words = strstr(result_text(), ": ");
        if (killed[i] || !words || !strstr(mine, words + 2)) snprintf(said[i], SAID, "%s", result_text());
    }
    int i = killed[1] || !*said[0] ? 1 : 0;
    return *said[i] && !strstr(mine, said[i]) ? fail(r.kind, "%s (%s)", mine, said[i]) : fail(r.kind, "%s", mine);
}

Result parties_end(Parties *p, Result r)
{
    if (!has_parties(p)) return r;
    char why[SAID];
    snprintf(why, sizeof why, "%s", failed(r) ? result_text() : "");
    double patience = p->client ? stop_patience : idle_patience;    // without a session nobody has heard of the failure
    if (failed(r) && p->client) client_abort(p->client, "the client stopped");
    if (p->client) client_close(p->client);
    p->client = NULL;
    Child *child[2] = {&p->provider, &p->third};
    if (failed(r)) r = blame(r, why, child, patience);
    for (int i = 0; i < 2 && !failed(r); i++) r = child_end(child[i], end_patience);
    identity_free(&p->me);
    return r;
}
