/* test_trace.c - replaying hand-made sessions over networks, against times worked out by hand. */
#define TEST_SECONDS 30
#include "serve/trace.h"
#include "test.h"

static void add(Trace *t, TraceKind kind, int other, uint32_t bytes, double compute)
{
    t->event = realloc(t->event, (t->count + 1) * sizeof *t->event);
    t->event[t->count++] = (TraceEvent){(uint8_t)kind, (uint8_t)other, bytes - FRAME_HEAD_BYTES, (float)compute, 0};
}

static double replayed(const Trace *t, double rtt, double bandwidth)
{
    NetworkTime n;
    CHECK_OK(network_time(&n, t, &(Net){rtt, bandwidth}));
    return n.seconds[PHASE_PREFILL];
}

static void free_all(Trace t[3])
{
    for (int i = 0; i < 3; i++) trace_free(&t[i]);
}

enum { C = PARTY_CLIENT, S = PARTY_PROVIDER, T = PARTY_THIRD };

TEST(an_exchange_ends_when_the_later_has_arrived)
{
    Trace t[3] = {{0}};
    add(&t[C], TRACE_BEGIN, PHASE_PREFILL, 5, 0);
    add(&t[C], TRACE_SENT, S, 1000, 1e-3);
    add(&t[C], TRACE_RECEIVED, S, 2000, 1e-3);
    add(&t[C], TRACE_END, PHASE_PREFILL, 5, 2e-3);
    add(&t[S], TRACE_SENT, C, 2000, 5e-3);
    add(&t[S], TRACE_RECEIVED, C, 1000, 0);
    CHECK_NEAR(5e-3 + 2e-3, replayed(t, 0, 0), 1e-6);                  // computing alone
    CHECK_NEAR(5e-3 + 2e-3 + 5e-3 + 2e-3, replayed(t, 10e-3, 1e6), 1e-6);   // S computes, 2,000 bytes leave, half of 10 ms, C computes
    NetworkTime n;
    CHECK_OK(network_time(&n, t, &(Net){10e-3, 1e6}));
    CHECK_NEAR(12e-3 - 2e-3, n.waited[C], 1e-6);
    CHECK_NEAR(7e-3 - 5e-3, n.waited[S], 1e-6);
    free_all(t);
}

TEST(bytes_leave_one_after_the_other)
{
    Trace t[3] = {{0}};
    add(&t[C], TRACE_BEGIN, PHASE_PREFILL, 5, 0);
    for (int i = 0; i < 3; i++) add(&t[C], TRACE_SENT, S, 1000, 0);
    add(&t[C], TRACE_SENT, S, 1000, 10e-3);                            // the line is free again by then
    add(&t[C], TRACE_RECEIVED, S, 100, 0);
    add(&t[C], TRACE_END, PHASE_PREFILL, 5, 0);
    for (int i = 0; i < 4; i++) add(&t[S], TRACE_RECEIVED, C, 1000, 0);
    add(&t[S], TRACE_SENT, C, 100, 0);
    CHECK_NEAR(10e-3 + 1e-3 + 2e-3 + 0.1e-3 + 2e-3, replayed(t, 4e-3, 1e6), 1e-6);
    CHECK_NEAR(4e-2 + 1e-3, replayed(t, 0, 1e5), 1e-6);                // 4,000 bytes there, 100 back
    free_all(t);
}

/* 100 MB of words that the third makes at 1 GB/s, and that the provider takes at 100 MB/s, late. */
TEST(a_third_runs_ahead_within_its_bound)
{
    Trace t[3] = {{0}};
    enum { MB = 1000000 };
    for (int i = 0; i < 100; i++) add(&t[T], TRACE_SENT, S, MB, 1e-3);
    add(&t[T], TRACE_SENT, S, 100, 0);
    for (int i = 0; i < 100; i++) add(&t[S], TRACE_RECEIVED, T, MB, i ? 10e-3 : 1.0);
    add(&t[S], TRACE_SENT, C, 100, 0);
    add(&t[S], TRACE_RECEIVED, T, 100, 0);
    add(&t[C], TRACE_BEGIN, PHASE_PREFILL, 5, 0);
    add(&t[C], TRACE_RECEIVED, S, 100, 0);
    add(&t[C], TRACE_END, PHASE_PREFILL, 5, 0);
    CHECK_NEAR(1.0 + 0.99, replayed(t, 0, 0), 1e-3);                   // always ahead: the provider's own time
    CHECK_NEAR(1.0 + 0.99 + 5e-6, replayed(t, 0, 200e6), 1e-3);        // 33 MB lie ready, the rest comes faster than it is taken
    /* At 50 MB/s: 33 MB lie ready after 1 s, the other 67 MB take 1.34 s from then on. */
    CHECK_NEAR(1.0 + 67 / 50.0, replayed(t, 0, 50e6), 0.04);
    CHECK_NEAR(1.0 + 67 / 50.0 + 0.4, replayed(t, 0.4, 50e6), 0.05);   // the first of these leaves at 1 s; it and the answer are under way
    free_all(t);
}

TEST(traces_of_different_sessions_are_refused)
{
    Trace t[3] = {{0}};
    NetworkTime n;
    add(&t[C], TRACE_RECEIVED, S, 100, 0);
    CHECK_FAILS(network_time(&n, t, &(Net){0, 0}), "not of one session");
    add(&t[S], TRACE_RECEIVED, C, 100, 0);
    add(&t[S], TRACE_SENT, C, 100, 0);
    add(&t[C], TRACE_SENT, S, 100, 0);
    CHECK_FAILS(network_time(&n, t, &(Net){0, 0}), "waits for ever");
    free_all(t);
}

/* Both ends note every part, so that a replay knows when it left: with 30 ms of work between two parts, the first is there before the
 * second leaves, where the bandwidth gives each 20 ms. */
TEST(traces_note_when_parts_left)
{
    Trace t[3] = {{0}};
    Channel *c, *s;
    NetworkTime early, late;
    static uint8_t data[40000];
    channel_memory(&c, &s);
    trace_begin(&t[C]), trace_begin(&t[S]);
    trace_watch(&t[C], c, PARTY_PROVIDER), trace_watch(&t[S], s, PARTY_CLIENT);
    trace_phase(&t[C], PHASE_PREFILL, true);
    CHECK_OK(channel_part(c, data, 20000));
    CHECK_OK(channel_send(c, data + 20000, 20000));
    CHECK_OK(channel_expect(s, data, sizeof data, "parts"));
    CHECK_OK(channel_send(s, data, 1));
    CHECK_OK(channel_expect(c, data, 1, "answer"));
    trace_phase(&t[C], PHASE_PREFILL, false);
    CHECK(t[C].count == 5 && t[S].count == 3);
    for (int p = 0; p < 2; p++)
        for (size_t i = 0; i < t[p].count; i++) t[p].event[i].compute = 0, t[p].event[i].at = 0;
    t[C].event[2].compute = 30e-3f;
    CHECK_OK(network_time(&early, t, &(Net){0, 1e6}));
    CHECK_NEAR(30e-3 + 20e-3, early.seconds[PHASE_PREFILL], 1e-4);
    t[C].event[2].compute = 0, t[C].event[1].compute = 30e-3f;
    CHECK_OK(network_time(&late, t, &(Net){0, 1e6}));
    CHECK_NEAR(30e-3 + 40e-3, late.seconds[PHASE_PREFILL], 1e-4);
    free_all(t);
    channel_close(c), channel_close(s);
}

/* A peer that sends a message in ever so many parts fills no memory: the session goes on, and its trace alone is refused. */
TEST(a_trace_of_too_many_events_is_given_up)
{
    Trace t[3] = {{0}};
    NetworkTime n;
    enum { FITS = TRACE_MOST - 1, PART = 1024 };
    static uint8_t data[PART];
    Channel *c, *s;
    channel_memory(&c, &s);
    trace_begin(&t[S]);
    for (size_t i = 0; i < FITS; i++) trace_phase(&t[S], PHASE_DECODE, true);
    trace_watch(&t[S], s, PARTY_CLIENT);
    CHECK_OK(channel_send(c, data, 1));
    CHECK_OK(channel_expect(s, data, 1, "the last that fits"));
    CHECK(t[S].count == TRACE_MOST && !t[S].lost);
    for (size_t i = 0; i < PART; i++) CHECK_OK(channel_part(c, "x", 1));
    CHECK_OK(channel_expect(s, data, PART, "parts"));
    CHECK(data[0] == 'x' && data[PART - 1] == 'x');
    CHECK(t[S].lost && t[S].count == 0 && t[S].room == 0);
    CHECK_FAILS(trace_save(&t[S], "/nowhere"), "too many events");
    CHECK_FAILS(network_time(&n, t, &(Net){0, 0}), "too many events");
    trace_begin(&t[S]);                                                // the next session has a trace again
    CHECK_OK(channel_send(c, data, 1));
    CHECK_OK(channel_expect(s, data, 1, "one more"));
    CHECK(t[S].count == 1 && !t[S].lost);
    free_all(t);
    channel_close(c), channel_close(s);
}

TEST(trace_files)
{
    Trace t = {0}, back;
    char path[4200];
    Buffer text = {0};
    snprintf(path, sizeof path, "%s/trace", test_folder());
    for (uint32_t i = 0; i < 50; i++) add(&t, (TraceKind)(i % 4), (int)(i % 3), 1000 + i, i * 1e-3);
    CHECK_OK(trace_save(&t, path));
    CHECK_OK(trace_load(&back, path));
    CHECK_EQUAL(50, back.count);
    for (size_t i = 0; i < 50; i++) {
        const TraceEvent *a = &t.event[i], *b = &back.event[i];
        CHECK(a->kind == b->kind && a->other == b->other && a->bytes == b->bytes);
        CHECK_NEAR((double)a->compute, (double)b->compute, 0);
        CHECK_NEAR(a->at, b->at, 0);
    }
    trace_free(&back);
    CHECK_OK(file_read(&text, path, 1 << 20));
    CHECK_OK(file_write(path, text.data, text.len - 1, 0600));
    CHECK_FAILS(trace_load(&back, path), "cut short");
    text.data[16] = 9;
    CHECK_OK(file_write(path, text.data, text.len, 0600));
    CHECK_FAILS(trace_load(&back, path), "cannot be");
    CHECK_OK(file_write(path, "marill", 6, 0600));
    CHECK_FAILS(trace_load(&back, path), "cut short");
    buffer_free(&text);
    trace_free(&t);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
