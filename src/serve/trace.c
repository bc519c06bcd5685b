/* trace.c - noting what a party does, and replaying a session over another network. See trace.h. */
#include "serve/trace.h"

#include <stdlib.h>
#include <string.h>

#include "serve/party.h"

// ---- noting ----------------------------------------------------------------------------------------------------------

/* Room for one more event, or none for any. */
static bool trace_grow(Trace *t)
{
    if (t->lost) return false;
    if (t->count < t->room) return true;
    size_t room = t->room ? 2 * t->room : 1024;
    TraceEvent *more = room <= TRACE_MOST ? realloc(t->event, room * sizeof *more) : NULL;
    t->lost = !more;
    if (t->lost) free(t->event);
    t->event = more;
    t->room = more ? room : 0;
    if (!more) t->count = 0;
    return more;
}

static Result trace_whole(const Trace *t)
{
    return t->lost ? fail(FAIL_SYSTEM, "the trace has too many events to be kept (%d at most): the session was too long for one, or a peer "
                                       "sent many small frames", TRACE_MOST) : OK;
}

static void trace_add(Trace *t, TraceKind kind, uint8_t other, size_t bytes, double waited)
{
    double wall = clock_seconds(), cpu = clock_cpu_seconds();
    if (!trace_grow(t)) return;
    double compute = wall - t->wall - waited;
    if (cpu - t->cpu < compute) compute = cpu - t->cpu;
    t->event[t->count++] = (TraceEvent){(uint8_t)kind, other, (uint32_t)bytes, (float)(compute > 0 ? compute : 0), wall};
    t->wall = clock_seconds();
    t->cpu = cpu;
}

void trace_begin(Trace *t)
{
    if (!t) return;
    t->count = 0;
    t->lost = false;
    t->wall = clock_seconds();
    t->cpu = clock_cpu_seconds();
}

static void on_frame(void *ctx, bool sent, size_t bytes, double waited)
{
    const TraceEnd *e = ctx;
    trace_add(e->trace, sent ? TRACE_SENT : TRACE_RECEIVED, (uint8_t)e->other, bytes, waited);
}

void trace_watch(Trace *t, Channel *c, Party other)
{
    if (!t) return;
    t->end[other] = (TraceEnd){t, other};
    channel_watch(c, on_frame, &t->end[other]);
}

void trace_phase(Trace *t, Phase p, bool begins)
{
    if (t) trace_add(t, begins ? TRACE_BEGIN : TRACE_END, (uint8_t)p, 0, 0);
}

void trace_free(Trace *t)
{
    free(t->event);
    *t = (Trace){0};
}

// ---- files -----------------------------------------------------------------------------------------------------------

static const uint8_t magic[16] = "marill trace 1\n";
enum { EVENT_BYTES = 18 };
static const size_t file_most = (size_t)1 << 30;
static const uint32_t small_frame = 16 << 10;

Result trace_save(const Trace *t, const char *path)
{
    Buffer b = {0};
    GUARD(trace_whole(t));
    buffer_append(&b, magic, sizeof magic);
    for (size_t i = 0; i < t->count; i++) {
        const TraceEvent *e = &t->event[i];
        buffer_u8(&b, e->kind);
        buffer_u8(&b, e->other);
        buffer_u32(&b, e->bytes);
        buffer_append(&b, &e->compute, sizeof e->compute);
        buffer_append(&b, &e->at, sizeof e->at);
    }
    Result r = file_write(path, b.data, b.len, 0600);
    buffer_free(&b);
    return r;
}

static Result event_read(TraceEvent *e, Cursor *c)
{
    const uint8_t *compute, *at;
    GUARD(cursor_u8(c, &e->kind));
    GUARD(cursor_u8(c, &e->other));
    GUARD(cursor_u32(c, &e->bytes));
    GUARD(cursor_take(c, &compute, sizeof e->compute));
    GUARD(cursor_take(c, &at, sizeof e->at));
    memcpy(&e->compute, compute, sizeof e->compute);
    memcpy(&e->at, at, sizeof e->at);
    if (e->kind > TRACE_END || e->other > 2 || !(e->compute >= 0 && e->compute < 1e9f) || !(e->at >= 0 && e->at < 1e12))
        return fail(FAIL_DATA, "%s: an event that cannot be", c->what);
    return OK;
}

static Result events_read(Trace *t, Cursor *c)
{
    const uint8_t *head;
    GUARD(cursor_take(c, &head, sizeof magic));
    if (memcmp(head, magic, sizeof magic) != 0) return fail(FAIL_DATA, "%s: is not a trace", c->what);
    if ((c->len - c->at) % EVENT_BYTES != 0) return fail(FAIL_DATA, "%s: is cut short", c->what);
    t->room = (c->len - c->at) / EVENT_BYTES;
    t->event = calloc(t->room ? t->room : 1, sizeof *t->event);
    if (!t->event) bug("out of memory");
    while (t->count < t->room) GUARD(event_read(&t->event[t->count++], c));
    return OK;
}

Result trace_parse(Trace *t, const uint8_t *data, size_t len, const char *what)
{
    *t = (Trace){0};
    Result r = events_read(t, &(Cursor){data, len, 0, what});
    if (failed(r)) trace_free(t);
    return r;
}

Result trace_load(Trace *t, const char *path)
{
    Buffer b = {0};
    *t = (Trace){0};
    GUARD(file_read(&b, path, file_most));
    Result r = trace_parse(t, b.data, b.len, path);
    buffer_free(&b);
    return r;
}

// ---- replaying -------------------------------------------------------------------------------------------------------

/* One direction of a link. */
typedef struct Way {
    double *arrival, *taken;                   // (room): of each frame; taken: when its receiver had it
    uint64_t *end;                             // (room): bytes up to its end
    size_t room, sent, received;
    size_t freed;                              // frames taken before the next one leaves
    uint64_t window;                           // bytes that may be under way or wait at the receiver; 0: no bound
    uint64_t queue;                            // bytes that may wait at the sender
    double free;                               // when the last byte has left
} Way;

typedef struct Replay {
    const Trace *trace;
    Net net;
    size_t next[PARTIES_COUNT];                // event
    double clock[PARTIES_COUNT], begun[PHASE_COUNT];
    double latency;                            // from process to process on the machine of the traces
    Way way[PARTIES_COUNT][PARTIES_COUNT];     // from, to
    NetworkTime *out;
} Replay;

static double transfer(const Replay *r, double bytes)
{
    return r->net.bandwidth > 0 ? bytes / r->net.bandwidth : 0;
}

/* False while the frame may not leave because earlier ones have not been taken. */
static bool replay_send(Replay *r, int p, const TraceEvent *e)
{
    Way *w = &r->way[p][e->other];
    uint64_t bytes = (uint64_t)e->bytes + FRAME_HEAD_BYTES, end = (w->sent ? w->end[w->sent - 1] : 0) + bytes;
    double start = r->clock[p] + (double)e->compute;
    while (w->window && w->freed < w->sent && end - (w->freed ? w->end[w->freed - 1] : 0) > w->window) {
        if (w->freed == w->received) return false;
        w->freed++;
    }
    if (w->window && w->freed && w->taken[w->freed - 1] > start) start = w->taken[w->freed - 1];
    r->clock[p] = start;
    w->free = (start > w->free ? start : w->free) + transfer(r, (double)bytes);
    w->arrival[w->sent] = w->free + r->net.rtt / 2 + r->latency;
    w->end[w->sent++] = end;
    double room = w->free - transfer(r, (double)w->queue);             // the sender goes on once the rest fits its queue
    if (room > r->clock[p]) r->clock[p] = room;
    return true;
}

static bool replay_receive(Replay *r, int p, const TraceEvent *e)
{
    Way *w = &r->way[e->other][p];
    if (w->received == w->sent) return false;
    double ready = r->clock[p] + (double)e->compute, arrival = w->arrival[w->received];
    if (arrival > ready) r->out->waited[p] += arrival - ready;
    r->clock[p] = arrival > ready ? arrival : ready;
    w->taken[w->received++] = r->clock[p];
    return true;
}

static bool replay_event(Replay *r, int p)
{
    const TraceEvent *e = &r->trace[p].event[r->next[p]];
    if (e->kind == TRACE_SENT) return replay_send(r, p, e);
    if (e->kind == TRACE_RECEIVED) return replay_receive(r, p, e);
    r->clock[p] += (double)e->compute;
    if (e->kind == TRACE_BEGIN) r->begun[e->other] = r->clock[p];
    else r->out->seconds[e->other] += r->clock[p] - r->begun[e->other];
    return true;
}

/* Room for the frames of each direction, which sender and receiver must have counted alike. */
static Result ways_new(Replay *r, Arena *a)
{
    size_t received[PARTIES_COUNT][PARTIES_COUNT] = {{0}};
    for (int p = 0; p < PARTIES_COUNT; p++) {
        for (size_t i = 0; i < r->trace[p].count; i++) {
            const TraceEvent *e = &r->trace[p].event[i];
            if (e->kind == TRACE_SENT) r->way[p][e->other].room++;
            if (e->kind == TRACE_RECEIVED) received[e->other][p]++;
        }
    }
    for (int p = 0; p < PARTIES_COUNT; p++) {
        for (int q = 0; q < PARTIES_COUNT; q++) {
            Way *w = &r->way[p][q];
            if (received[p][q] > w->room) return fail(FAIL_DATA, "the traces are not of one session: more was received than sent");
            w->arrival = arena_new(a, double, w->room + 1);
            w->taken = arena_new(a, double, w->room + 1);
            w->end = arena_new(a, uint64_t, w->room + 1);
            w->queue = PEER_SEND;
        }
    }
    r->way[PARTY_THIRD][PARTY_PROVIDER].window = WORDS_AHEAD;
    r->way[PARTY_THIRD][PARTY_PROVIDER].queue = WORDS_SEND;
    return OK;
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* How long small frames between client and provider took to arrive, where the receiver was there first: what a receiver comes late for
 * is there already. */
static void latency_measure(Replay *r, Arena *a)
{
    double *seen = arena_new(a, double, r->trace[PARTY_CLIENT].count + r->trace[PARTY_PROVIDER].count + 1);
    size_t count = 0;
    for (int p = PARTY_CLIENT; p <= PARTY_PROVIDER; p++) {
        const Trace *from = &r->trace[p], *to = &r->trace[1 - p];
        for (size_t i = 0, k = 0; i < from->count; i++) {
            if (from->event[i].kind != TRACE_SENT || from->event[i].other != 1 - p) continue;
            while (k < to->count && (to->event[k].kind != TRACE_RECEIVED || to->event[k].other != p)) k++;
            if (k == to->count) break;
            const TraceEvent *got = &to->event[k];
            double ready = (k ? got[-1].at : 0) + (double)got->compute, took = got->at - from->event[i].at;
            if (ready < from->event[i].at && took > 0 && got->bytes < small_frame) seen[count++] = took;
            k++;
        }
    }
    qsort(seen, count, sizeof *seen, by_size);
    r->latency = count ? seen[count / 2] : 0;
}

static Result replay_run(Replay *r, Arena *a)
{
    GUARD(ways_new(r, a));
    latency_measure(r, a);
    for (bool moved = true; moved;) {
        moved = false;
        for (int p = 0; p < PARTIES_COUNT; p++)
            while (r->next[p] < r->trace[p].count && replay_event(r, p)) r->next[p]++, moved = true;
    }
    for (int p = 0; p < PARTIES_COUNT; p++)
        if (r->next[p] < r->trace[p].count) return fail(FAIL_DATA, "the traces are not of one session: a party waits for ever");
    return OK;
}

Result network_time(NetworkTime *out, const Trace *trace, const Net *net)
{
    Replay r = {.trace = trace, .net = *net, .out = out};
    Arena a;
    *out = (NetworkTime){{0}, {0}};
    for (int p = 0; p < PARTIES_COUNT; p++) GUARD(trace_whole(&trace[p]));
    arena_init(&a, false);
    Result done = replay_run(&r, &a);
    arena_free(&a);
    return done;
}
