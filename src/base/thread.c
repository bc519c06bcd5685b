/* thread.c - the pool of threads, and clocks.
 *
 * A parallel_for is cut into parts by its size, its grain and the number of threads; threads, the caller among them, take
 * the next part until none is left. Who computes which part varies, the parts never do: a sum made part by part is the
 * same in every run. The same parts are run one after another, by the caller alone, where there is no pool to ask: before
 * threads_start, inside another parallel_for, while another thread has the pool, and in a child process after fork.
 *
 * Jobs come in quick succession and waking a sleeper costs as much as a small job, so whoever waits looks for some
 * microseconds before it sleeps; longer would take cores from the other parties on the same machine. */
#include "base/base.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>

enum {
    PARTS_A_THREAD = 4,                        // so that a thread that is held up holds up little
    LOOKS = 400                                // before sleep: some 15 us where a pause is 140 cycles, 5 where it is 40
};

typedef struct {
    void (*body)(void *ctx, size_t begin, size_t end);
    void *ctx;
    size_t n, parts;
    atomic_size_t next;
} Job;

static struct {
    pthread_mutex_t user;                      // held by the thread whose job it is
    pthread_mutex_t lock;                      // guards what follows
    pthread_cond_t work, done;
    Job *job;                                  // NULL once its parts are all taken
    atomic_ullong jobs;                        // so far: a worker enters each at most once
    atomic_uint inside;                        // workers that have entered the job
    unsigned asleep;                           // workers that wait for work to be signalled
} pool = {.user = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
static unsigned thread_count = 1;
static bool pool_started;                      // in this process
static _Thread_local bool in_job;

static void job_run(Job *job)
{
    for (;;) {
        size_t i = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (i >= job->parts) return;
        size_t begin = (size_t)((unsigned __int128)job->n * i / job->parts);
        size_t end = (size_t)((unsigned __int128)job->n * (i + 1) / job->parts);
        job->body(job->ctx, begin, end);
    }
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void *worker_run(void *unused)
{
    (void)unused;
    in_job = true;
    unsigned long long seen = 0;
    for (;;) {
        for (int i = 0; i < LOOKS && atomic_load_explicit(&pool.jobs, memory_order_relaxed) == seen; i++) pause_briefly();
        pthread_mutex_lock(&pool.lock);
        if (!pool.job && pool.jobs != seen) {  // too late for that one: look for the next
            seen = pool.jobs;
            pthread_mutex_unlock(&pool.lock);
            continue;
        }
        pool.asleep++;
        while (!pool.job || pool.jobs == seen) pthread_cond_wait(&pool.work, &pool.lock);
        pool.asleep--;
        seen = pool.jobs;
        Job *job = pool.job;
        pool.inside++;
        pthread_mutex_unlock(&pool.lock);
        job_run(job);
        pthread_mutex_lock(&pool.lock);
        if (--pool.inside == 0) pthread_cond_signal(&pool.done);
        pthread_mutex_unlock(&pool.lock);
    }
    return NULL;
}

/* A child has none of its parent's threads, and may have been forked while one of them held a lock. */
static void pool_forget(void)
{
    pool.user = pool.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pool.work = pool.done = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    pool.job = NULL;
    pool.inside = pool.asleep = 0;
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
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);                      // signals are for the threads that wait for them
    unsigned made = 0;
    for (pthread_t t; made + 1 < thread_count && pthread_create(&t, NULL, worker_run, NULL) == 0; made++) pthread_detach(t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pool_started = made > 0;                   // fewer threads than asked for: the same parts, by fewer hands
}

unsigned threads_count(void)
{
    return thread_count;
}

void parallel_for(size_t n, size_t grain, void (*body)(void *ctx, size_t begin, size_t end), void *ctx)
{
    if (n == 0) return;
    size_t parts = n / (grain ? grain : 1), most = thread_count > 1 ? (size_t)thread_count * PARTS_A_THREAD : 1;
    Job job = {.body = body, .ctx = ctx, .n = n, .parts = parts < 1 ? 1 : parts < most ? parts : most};
    if (job.parts == 1 || in_job || !pool_started || pthread_mutex_trylock(&pool.user) != 0) {
        job_run(&job);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    pool.job = &job;
    pool.jobs++;
    bool sleepers = pool.asleep > 0;
    pthread_mutex_unlock(&pool.lock);
    if (sleepers) pthread_cond_broadcast(&pool.work);
    in_job = true;
    job_run(&job);
    in_job = false;
    pthread_mutex_lock(&pool.lock);
    pool.job = NULL;                           // a worker that wakes up late finds nothing, and `job` may go
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < LOOKS && atomic_load_explicit(&pool.inside, memory_order_relaxed); i++) pause_briefly();
    pthread_mutex_lock(&pool.lock);
    while (pool.inside) pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.user);
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
