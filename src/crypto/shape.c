/* shape.c - a link with the latency and the bandwidth of a network, for measurements on one machine.
 *
 * Nothing below the channel knows of it: the kernel's own shaping needs rights that a program does not have. A sent message
 * is cut into pieces, and each piece says when its last byte would have arrived: the bytes of a direction leave one after
 * the other at the bandwidth, no earlier than they were sent, and take half a round trip. The receiver holds a piece back
 * until then. Both ends read the same monotonic clock, so both must run on one machine. The two directions of a link, and
 * different links, do not share bandwidth. Computation overlaps with transfer as on a real link: a sender goes on at once
 * while at most LINK_SEND_BYTES of its own wait to leave, and what arrives while the receiver computes is there when it asks.
 * Counted are the payload and the five bytes of a frame, not what TLS, TCP and IP add (some three per cent of large messages). */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "crypto/link.h"

enum { PIECE_BYTES = 256 << 10, PIECE_HEAD = 16 };
static const uint32_t piece_magic = 0x7065616c;
static const double due_most = 3600;           // a piece that is due later than this was not sent by us

typedef struct Shaped {
    Link link;
    Link *inner;
    Net net;
    double free;                               // when the last byte sent so far has left
    uint32_t left;                             // bytes of the present piece that were not read
} Shaped;

static void put_le(uint8_t *out, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) out[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t get_le(const uint8_t *in, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++) v |= (uint64_t)in[i] << 8 * i;
    return v;
}

static void sleep_until(double when)
{
    double whole = floor(when);
    struct timespec t = {(time_t)whole, (long)((when - whole) * 1e9)};
    (void)prctl(PR_SET_TIMERSLACK, 1000ul);                            // of this thread, in ns: the usual 50 us would be half of a LAN
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) { }
}

static double seconds_of(const Net *n, size_t bytes)
{
    return n->bandwidth > 0 ? (double)bytes / n->bandwidth : 0;
}

static Result shaped_write(Link *l, const uint8_t *head, size_t head_len, const uint8_t *data, size_t len)
{
    Shaped *s = (Shaped *)l;
    uint8_t first[PIECE_HEAD + 64];
    double now = clock_seconds();
    ASSERT(head_len <= sizeof first - PIECE_HEAD);
    s->inner->timeout = l->timeout;
    if (s->free < now) s->free = now;
    for (bool begun = false; !begun || len > 0; begun = true, head_len = 0) {
        size_t n = len < PIECE_BYTES - head_len ? len : PIECE_BYTES - head_len;
        s->free += seconds_of(&s->net, head_len + n);
        put_le(first, (uint64_t)((s->free + s->net.rtt / 2) * 1e9), 8);
        put_le(first + 8, head_len + n, 4);
        put_le(first + 12, piece_magic, 4);
        memcpy(first + PIECE_HEAD, head, head_len);
        GUARD(s->inner->kind->write(s->inner, first, PIECE_HEAD + head_len, data, n));
        if (n > 0) data += n, len -= n;
    }
    double wait = s->free - seconds_of(&s->net, LINK_SEND_BYTES);
    now = clock_seconds();
    if (wait <= now) return OK;
    sleep_until(wait);
    l->waited += clock_seconds() - now;
    return OK;
}

static Result piece_begin(Shaped *s)
{
    uint8_t head[PIECE_HEAD];
    GUARD(s->inner->kind->read(s->inner, head, sizeof head));
    double due = (double)get_le(head, 8) * 1e-9, now = clock_seconds();
    s->left = (uint32_t)get_le(head + 8, 4);
    if (get_le(head + 12, 4) != piece_magic || s->left == 0 || s->left > PIECE_BYTES || due - now > due_most)
        return fail(FAIL_DATA, "the %s does not shape its link: --net must be the same at all parties", s->link.peer);
    if (due <= now) return OK;
    if (s->link.timeout >= 0 && due - now > s->link.timeout) {
        sleep_until(now + s->link.timeout);
        return fail(FAIL_PEER, "the %s sent nothing for %g s", s->link.peer, s->link.timeout);
    }
    sleep_until(due);
    s->link.waited += clock_seconds() - now;
    return OK;
}

static Result shaped_read(Link *l, uint8_t *out, size_t len)
{
    Shaped *s = (Shaped *)l;
    double before = s->inner->waited;
    snprintf(s->inner->peer, sizeof s->inner->peer, "%s", l->peer);
    s->inner->timeout = l->timeout;
    while (len > 0) {
        if (s->left == 0) GUARD(piece_begin(s));
        size_t n = s->left < len ? s->left : len;
        GUARD(s->inner->kind->read(s->inner, out, n));
        s->left -= (uint32_t)n;
        out += n;
        len -= n;
    }
    l->waited += s->inner->waited - before;
    return OK;
}

static void shaped_buffers(Link *l, size_t send, size_t ahead)
{
    Shaped *s = (Shaped *)l;
    if (s->inner->kind->buffers) s->inner->kind->buffers(s->inner, send, ahead);
}

static void shaped_close(Link *l, bool linger)
{
    Shaped *s = (Shaped *)l;
    s->inner->kind->close(s->inner, linger);
    free(s);
}

Link *link_shaped(Link *inner, const Net *net)
{
    static const LinkKind kind = {shaped_write, shaped_read, shaped_buffers, shaped_close};
    Shaped *s = calloc(1, sizeof *s);
    if (!s) bug("out of memory");
    s->link = *inner;
    s->link.kind = &kind;
    s->inner = inner;
    s->net = *net;
    return &s->link;
}

bool net_is_shaped(const Net *n)
{
    return n->rtt > 0 || n->bandwidth > 0;
}

Result net_parse(Net *out, const char *text)
{
    double rtt = -1, mbit = 0;
    int end = 0;
    if (!strcmp(text, "loopback")) *out = (Net){0, 0};
    else if (!strcmp(text, "lan")) *out = (Net){0.5e-3, 3e9 / 8};
    else if (!strcmp(text, "wan")) *out = (Net){40e-3, 200e6 / 8};
    else if (sscanf(text, "RTT=%lfms,BW=%lfMbit%n", &rtt, &mbit, &end) == 2 && end && !text[end] && rtt >= 0 && rtt < 1e6 &&
             mbit > 0 && mbit < 1e9)
        *out = (Net){rtt / 1e3, mbit * 1e6 / 8};
    else return fail(FAIL_USE, "--net is loopback, lan, wan or RTT=..ms,BW=..Mbit, not '%s'", text);
    return OK;
}
