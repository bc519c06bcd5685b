/* thread.c - the pool of threads, and clocks.
 *
 * A parallel_for is cut into parts by its size, its grain and the number of threads. Each thread, the caller among them, has a run of
 * neighbouring parts of its own, the same in every job of that size: what it wrote in one job it reads in the next, from its own caches.
 * Who is through with his takes what is left of the others'. Who computes which part varies, the parts never do: a sum made part by
 * part is the same in every run. The same parts are run one after another, by the caller alone, where there is no pool to ask: before
 * threads_start, inside another parallel_for, while another thread has the pool, and in a child process after fork.
 *
 * Jobs come in quick succession and waking a sleeper costs as much as a small job (more in a virtual machine, whose idle core has to be
 * fetched back), so whoever waits looks for a while before it sleeps: some microseconds with its core, then some more in which it gives
 * the core to whoever wants it, such as the other parties on the same machine. Who looks takes no lock: a job is entered and left by one
 * atomic word, and locks are for those who sleep. */
#include "base/base.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>

enum {
    PARTS_A_THREAD = 4,                        // so that a thread that is held up holds up little
    LOOKS = 400,                               // with a pause after each: some 15 us where it is 140 cycles, 5 where it is 40
    LOOKS_YIELDING = 300,                      // then, with the core for whoever wants it: some 100 us where nobody does
    MOST_THREADS = 256
};

typedef struct {
    void (*body)(void *ctx, size_t begin, size_t end);
    void *ctx;
    size_t n, parts;
    unsigned hands;                            // threads that have runs of parts: 1 where the caller is alone
} Job;

/* The next part of a thread's run. A line of its own: its owner writes it at every part. */
typedef struct { _Alignas(64) atomic_size_t next; } Run;

/* The state of the pool: workers inside the job (low bits), whether it may be entered, and the job's number. */
#define STATE_INSIDE UINT64_C(0xFFFF)
#define STATE_OPEN (UINT64_C(1) << 16)
#define STATE_NUMBER (UINT64_C(1) << 17)

static struct {
    pthread_mutex_t user;                      // held by the thread whose job it is
    pthread_mutex_t lock;                      // of those who sleep
    pthread_cond_t work, done;
    Job job;                                   // written while nobody is inside
    Run run[MOST_THREADS];
    atomic_uint_fast64_t state;
    atomic_uint asleep;                        // workers that wait for work to be signalled
    atomic_bool waits;                         // the caller sleeps until nobody is inside
} pool = {.user = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
static unsigned thread_count = 1;
static bool pool_started;                      // in this process
static _Thread_local bool in_job;

static size_t share_of(size_t n, size_t i, size_t of) { return (size_t)((unsigned __int128)n * i / of); }

static void part_run(const Job *job, size_t i)
{
    job->body(job->ctx, share_of(job->n, i, job->parts), share_of(job->n, i + 1, job->parts));
}

static void job_run(const Job *job, unsigned me)
{
    for (unsigned k = 0; k < job->hands; k++) {
        unsigned whose = (me + k) % job->hands;
        size_t end = share_of(job->parts, whose + 1, job->hands);
        for (size_t i; (i = atomic_fetch_add_explicit(&pool.run[whose].next, 1, memory_order_relaxed)) < end;) part_run(job, i);
    }
}

static void pause_briefly(int looks)
{
    if (looks >= LOOKS) {
        sched_yield();
        return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Enters the job of `state`, unless there is none to enter or it was `seen`. */
static bool pool_enter(uint64_t state, uint64_t *seen)
{
    if (!(state & STATE_OPEN) || state / STATE_NUMBER == *seen) return false;
    if (!atomic_compare_exchange_strong(&pool.state, &state, state + 1)) return false;
    *seen = state / STATE_NUMBER;
    return true;
}

static void worker_wait(uint64_t *seen)
{
    for (int i = 0; i < LOOKS + LOOKS_YIELDING; i++, pause_briefly(i))
        if (pool_enter(atomic_load_explicit(&pool.state, memory_order_relaxed), seen)) return;
    pthread_mutex_lock(&pool.lock);
    pool.asleep++;                             // before the last look: who opens a job looks here after that
    for (uint64_t state; !pool_enter(state = pool.state, seen);)
        if (!(state & STATE_OPEN) || state / STATE_NUMBER == *seen) pthread_cond_wait(&pool.work, &pool.lock);
    pool.asleep--;
    pthread_mutex_unlock(&pool.lock);
}

static void *worker_run(void *number)
{
    unsigned me = (unsigned)(uintptr_t)number;
    uint64_t seen = 0;
    in_job = true;
    for (;;) {
        worker_wait(&seen);
        job_run(&pool.job, me);
        uint64_t state = atomic_fetch_sub(&pool.state, 1) - 1;
        if (state & (STATE_INSIDE | STATE_OPEN) || !pool.waits) continue;
        pthread_mutex_lock(&pool.lock);
        pthread_cond_signal(&pool.done);
        pthread_mutex_unlock(&pool.lock);
    }
    return NULL;
}

/* A child has none of its parent's threads, and may have been forked while one of them held a lock. */
static void pool_forget(void)
{
    pool.user = pool.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pool.work = pool.done = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    atomic_store(&pool.state, 0);
    atomic_store(&pool.asleep, 0);
    atomic_store(&pool.waits, false);
    pool_started = in_job = false;
}

static unsigned cores_usable(void)
{
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
    return (unsigned)CPU_COUNT(&cores);
}

void threads_start(unsigned count)
{
    static bool registered;
    if (pool_started) bug("threads_start was called twice");
    if (!registered && pthread_atfork(NULL, NULL, pool_forget) != 0) bug("pthread_atfork failed");
    registered = true;
    thread_count = count ? count : cores_usable();
    if (thread_count > MOST_THREADS) thread_count = MOST_THREADS;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);                      // signals are for the threads that wait for them
    unsigned made = 0;
    for (pthread_t t; made + 1 < thread_count && pthread_create(&t, NULL, worker_run, (void *)(uintptr_t)(made + 1)) == 0; made++)
        pthread_detach(t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pool_started = made > 0;                   // fewer threads than asked for: the same parts, by fewer hands
}

unsigned threads_count(void)
{
    return thread_count;
}

static void pool_open(const Job *job)
{
    pool.job = *job;
    for (unsigned i = 0; i < job->hands; i++)
        atomic_store_explicit(&pool.run[i].next, share_of(job->parts, i, job->hands), memory_order_relaxed);
    pool.state = (pool.state / STATE_NUMBER + 1) * STATE_NUMBER + STATE_OPEN;
    if (!pool.asleep) return;
    pthread_mutex_lock(&pool.lock);
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
}

/* Nobody enters any more; a worker that wakes up late finds nothing. Waits for those who are inside. */
static void pool_close(void)
{
    atomic_fetch_and(&pool.state, ~STATE_OPEN);
    for (int i = 0; i < LOOKS + LOOKS_YIELDING && pool.state & STATE_INSIDE; i++) pause_briefly(i);
    if (!(pool.state & STATE_INSIDE)) return;
    pthread_mutex_lock(&pool.lock);
    pool.waits = true;                         // before the last look: who leaves looks here after that
    while (pool.state & STATE_INSIDE) pthread_cond_wait(&pool.done, &pool.lock);
    pool.waits = false;
    pthread_mutex_unlock(&pool.lock);
}

void parallel_for(size_t n, size_t grain, void (*body)(void *ctx, size_t begin, size_t end), void *ctx)
{
    if (n == 0) return;
    size_t parts = n / (grain ? grain : 1), most = thread_count > 1 ? (size_t)thread_count * PARTS_A_THREAD : 1;
    Job job = {.body = body, .ctx = ctx, .n = n, .parts = parts < 1 ? 1 : parts < most ? parts : most, .hands = thread_count};
    if (job.parts == 1 || in_job || !pool_started || pthread_mutex_trylock(&pool.user) != 0) {
        for (size_t i = 0; i < job.parts; i++) part_run(&job, i);
        return;
    }
    pool_open(&job);
    in_job = true;
    job_run(&job, 0);
    in_job = false;
    pool_close();
    pthread_mutex_unlock(&pool.user);
}

bool parallel_inside(void)
{
    return in_job;
}

static double clock_read(clockid_t id)
{
    struct timespec t = {0};
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double clock_seconds(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

double clock_cpu_seconds(void)
{
    return clock_read(CLOCK_PROCESS_CPUTIME_ID);
}

double peak_rss_mb(void)
{
    struct rusage u = {0};
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss / 1024;
}
