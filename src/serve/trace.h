/* trace.h - what a party did in a session and when, and how long the same session would take over another network.
 *
 * A party notes each frame that it sends or receives: how many bytes, when, and how long it had computed since the one before.
 * The traces of all parties of one session on this machine are enough to replay it over any network on a virtual clock: a party
 * computes as long as it did, its bytes leave one after the other at the bandwidth, arrive half a round trip later, and a receive
 * ends when the party has come to it and the frame has arrived. What a frame took from process to process without any network,
 * the median of the session itself, is added to each: systems and TLS take their time everywhere. The bounds of the channels'
 * buffers count: a third that runs ahead is stopped where it would be. Nothing is slept through, so a network of seconds is
 * measured in microseconds.
 *
 * Computing is the processor time that the party used between two frames, or the time that passed without waiting, whichever
 * is less: that other processes kept the processor busy does not count. A disk that is waited for does not count either. */
#ifndef MARILL_TRACE_H
#define MARILL_TRACE_H

#include "crypto/crypto.h"

typedef enum { PARTY_CLIENT, PARTY_PROVIDER, PARTY_THIRD, PARTIES_COUNT } Party;
typedef enum { PHASE_SETUP, PHASE_PREFILL, PHASE_DECODE, PHASE_COUNT } Phase;
typedef enum { TRACE_SENT, TRACE_RECEIVED, TRACE_BEGIN, TRACE_END } TraceKind;      // begin and end of a phase: the client's

/* A peer chooses in how many frames it sends, so there is a bound: 96 MB of events. Beyond it the session goes on, and its
 * trace is refused by who saves or replays it. */
enum { TRACE_MOST = 1 << 22 };

typedef struct TraceEvent {
    uint8_t kind, other;                       // TraceKind; the party at the other end, or the phase
    uint32_t bytes;                            // payload
    float compute;                             // seconds since the event before
    double at;                                 // of this machine's monotonic clock
} TraceEvent;

typedef struct Trace Trace;
typedef struct TraceEnd { Trace *trace; Party other; } TraceEnd;
struct Trace {
    TraceEvent *event;
    size_t count, room;
    double wall, cpu;                          // at the last event
    bool lost;                                 // more than TRACE_MOST events, or than there was memory for: none are kept
    TraceEnd end[PARTIES_COUNT];
};

/* Forgets what was noted, and starts the clock. A NULL trace notes nothing. */
void trace_begin(Trace *t);
void trace_watch(Trace *t, Channel *c, Party other);          // the channel's frames from now on
void trace_phase(Trace *t, Phase p, bool begins);
void trace_free(Trace *t);
CHECKED Result trace_save(const Trace *t, const char *path);
CHECKED Result trace_load(Trace *t, const char *path);
CHECKED Result trace_parse(Trace *t, const uint8_t *data, size_t len, const char *what);  // what trace_save wrote

typedef struct NetworkTime {
    double seconds[PHASE_COUNT];               // at the client, from the begin to the end of each phase
    double waited[PARTIES_COUNT];              // for frames of others, in all
} NetworkTime;
/* trace (PARTIES_COUNT): of one session; an empty one where there was no third. net with zeros: no latency, no limit. Fails where the
 * traces are not of one session. */
CHECKED Result network_time(NetworkTime *out, const Trace *trace, const Net *net);

#endif
