/* memory.c - a link between two threads of one process. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "crypto/link.h"

typedef struct Pair {                          // what both ends share; the last one to close frees it
    pthread_mutex_t lock;
    pthread_cond_t change;
    Fifo to[2];                                // bytes on their way to end 0, end 1
    bool open[2];
} Pair;

typedef struct Memory { Link link; Pair *pair; int end; } Memory;

static Result memory_write(Link *l, const uint8_t *head, size_t head_len, const uint8_t *data, size_t len)
{
    Memory *m = (Memory *)l;
    pthread_mutex_lock(&m->pair->lock);
    bool open = m->pair->open[!m->end];
    if (open) {
        Fifo *to = &m->pair->to[!m->end];
        fifo_append(to, head, head_len);
        fifo_append(to, data, len);
        pthread_cond_broadcast(&m->pair->change);
    }
    pthread_mutex_unlock(&m->pair->lock);
    return open ? OK : fail(FAIL_PEER, "the %s closed the connection", l->peer);
}

static bool memory_wait(Pair *p, double deadline)                      // false: the time is over
{
    if (deadline < 0) return pthread_cond_wait(&p->change, &p->lock) == 0;
    const double whole = floor(deadline);
    const struct timespec until = {(time_t)whole, (long)((deadline - whole) * 1e9)};
    return pthread_cond_timedwait(&p->change, &p->lock, &until) != ETIMEDOUT;
}

static Result memory_read(Link *l, uint8_t *out, size_t len)
{
    Memory *m = (Memory *)l;
    Fifo *from = &m->pair->to[m->end];
    const double deadline = link_deadline(l, len);
    const size_t all = len;
    Result r = OK;
    pthread_mutex_lock(&m->pair->lock);
    while (!failed(r)) {
        size_t n = fifo_take(from, out, len);
        out += n;
        len -= n;
        if (len == 0) break;
        double begin = clock_seconds();
        if (!m->pair->open[!m->end]) r = fail(FAIL_PEER, "the %s closed the connection", l->peer);
        else if (!memory_wait(m->pair, deadline) && fifo_len(from) == 0) r = link_late(l, len, all);
        l->waited += clock_seconds() - begin;
    }
    pthread_mutex_unlock(&m->pair->lock);
    return r;
}

static void memory_close(Link *l, bool linger)
{
    Memory *m = (Memory *)l;
    (void)linger;
    pthread_mutex_lock(&m->pair->lock);
    m->pair->open[m->end] = false;
    bool last = !m->pair->open[!m->end];
    pthread_cond_broadcast(&m->pair->change);
    pthread_mutex_unlock(&m->pair->lock);
    if (last) {
        pthread_mutex_destroy(&m->pair->lock);
        pthread_cond_destroy(&m->pair->change);
        fifo_free(&m->pair->to[0]);
        fifo_free(&m->pair->to[1]);
        free(m->pair);
    }
    free(m);
}

static Channel *memory_end(Pair *pair, int end)
{
    static const LinkKind kind = {memory_write, memory_read, NULL, memory_close};
    Memory *m = calloc(1, sizeof *m);
    if (!m) bug("out of memory");
    m->link.kind = &kind;
    m->pair = pair;
    m->end = end;
    pair->open[end] = true;
    return channel_over(&m->link);
}

void channel_memory(Channel **a, Channel **b)
{
    pthread_condattr_t monotonic;
    Pair *pair = calloc(1, sizeof *pair);
    if (!pair) bug("out of memory");
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&pair->change, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&pair->lock, NULL);
    *a = memory_end(pair, 0);
    *b = memory_end(pair, 1);
}
