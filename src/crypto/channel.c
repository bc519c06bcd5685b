/* channel.c - frames over a link: what kind, how long, the bytes.
 *
 * A frame is one byte of kind, four of length (little-endian) and the payload. A message is one frame, or parts that end where
 * its receiver knows it to end; the last of them may be a frame like any other. A channel that failed once stays failed, with
 * the same text: after a lost byte nothing that follows can be trusted to begin where a frame does. The one thing still possible
 * then is to tell the peer why, if its direction is whole. */
#include "crypto/crypto.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/link.h"

enum { FRAME_DATA = 1, FRAME_ABORT, FRAME_CLOSE, FRAME_READY, FRAME_PART, HEAD_BYTES = FRAME_HEAD_BYTES, REASON_BYTES = 200 };

struct Channel {
    Link *link;
    ChannelCount count;
    ChannelWatch *watch;
    void *watch_ctx;
    double waited;                             // of the link, when `watch` was called last
    uint32_t left;                             // bytes of the present frame that channel_read has not given out
    Failure dead;                              // the failure that ended it, and its text
    char why[400];
    bool cut;                                  // a send failed part of the way: nothing more can be sent
    bool aborted;
};

Channel *channel_over(Link *l)
{
    Channel *c = calloc(1, sizeof *c);
    if (!c) bug("out of memory");
    c->link = l;
    l->timeout = 120;
    if (!l->peer[0]) channel_name(c, "peer");
    return c;
}

void channel_name(Channel *c, const char *peer)
{
    snprintf(c->link->peer, sizeof c->link->peer, "%s", peer);
}

void channel_timeout(Channel *c, double seconds)
{
    c->link->timeout = seconds;
}

ChannelCount channel_count(const Channel *c)
{
    return c->count;
}

void channel_watch(Channel *c, ChannelWatch *w, void *ctx)
{
    c->watch = w;
    c->watch_ctx = ctx;
    c->waited = c->link->waited;
}

void channel_buffers(Channel *c, size_t send, size_t ahead)
{
    if (c->link->kind->buffers) c->link->kind->buffers(c->link, send, ahead);
}

void channel_shape(Channel *c, const Net *n)
{
    ASSERT(c->count.frames_sent == 0 && c->count.frames_received == 0);
    if (net_is_shaped(n)) c->link = link_shaped(c->link, n);
}

Result link_late(const Link *l, size_t left, size_t len)
{
    if (left == len) return fail(FAIL_PEER, "the %s sent nothing for %g s", l->peer, l->timeout);
    return fail(FAIL_PEER, "the %s is too slow: it sent %zu bytes of %zu, and then the time for them was over", l->peer, len - left, len);
}

static void channel_note(Channel *c, bool sent, size_t len)
{
    if (c->watch) c->watch(c->watch_ctx, sent, len, c->link->waited - c->waited);
    c->waited = c->link->waited;
}

static void channel_died(Channel *c, Failure kind)                     // of this thread's last failure
{
    c->dead = kind;
    snprintf(c->why, sizeof c->why, "%s", result_text());
}

static Result channel_dead(const Channel *c)
{
    return c->dead ? fail(c->dead, "%s", c->why) : OK;
}

static Result channel_kept(Channel *c, Result r)                       // remembers r if it is a failure
{
    if (failed(r)) channel_died(c, r.kind);
    return r;
}

static Result frame_send(Channel *c, uint8_t kind, const void *data, size_t len)
{
    const uint8_t head[HEAD_BYTES] = {kind, (uint8_t)len, (uint8_t)(len >> 8), (uint8_t)(len >> 16), (uint8_t)(len >> 24)};
    ASSERT(len <= UINT32_MAX && !c->cut);
    Result r = c->link->kind->write(c->link, head, sizeof head, data, len);
    c->cut = failed(r);
    return r;
}

static Result frame_head(Channel *c, uint8_t *kind, uint32_t *len)
{
    uint8_t head[HEAD_BYTES];
    GUARD(c->link->kind->read(c->link, head, sizeof head));
    *kind = head[0];
    *len = (uint32_t)head[1] | (uint32_t)head[2] << 8 | (uint32_t)head[3] << 16 | (uint32_t)head[4] << 24;
    return OK;
}

static Result frame_aborted(Channel *c, uint32_t len)
{
    char reason[REASON_BYTES + 1] = "";
    if (len > REASON_BYTES) return fail(FAIL_DATA, "the %s ended the session with a reason of %u bytes", c->link->peer, len);
    GUARD(c->link->kind->read(c->link, (uint8_t *)reason, len));
    return fail(FAIL_PEER, "the %s ended the session: %s", c->link->peer, reason);
}

/* Reads the head of the next frame, which must be of kind `want`, or with part != NULL a part: *part tells. */
static Result frame_begin(Channel *c, uint8_t want, uint32_t *len, bool *part)
{
    uint8_t kind;
    GUARD(channel_dead(c));
    if (c->left > 0) return fail(FAIL_DATA, "the %s sent %u bytes more than were due", c->link->peer, c->left);
    GUARD(frame_head(c, &kind, len));
    if (kind == FRAME_ABORT) return frame_aborted(c, *len);
    if (kind == FRAME_CLOSE) return fail(FAIL_PEER, "the %s ended the session", c->link->peer);
    if (part) *part = kind == FRAME_PART;
    if (kind != want && !(part && *part)) return fail(FAIL_DATA, "the %s sent a frame of kind %u instead of %u", c->link->peer, kind, want);
    if (kind == FRAME_DATA || kind == FRAME_PART) {
        c->count.received += *len;
        c->count.frames_received++;
    }
    return OK;
}

/* After a send failed because the peer is gone: its last words, if any arrived, say more than "closed". */
static Result channel_last_words(Channel *c, Result r)
{
    const double until = clock_seconds() + 1;
    uint8_t kind = FRAME_DATA, scrap[4096];
    channel_died(c, r.kind);
    c->link->timeout = 0.1;
    for (uint32_t len = c->left; clock_seconds() < until;) {
        if (kind == FRAME_ABORT) return channel_kept(c, frame_aborted(c, len));
        while (len > 0) {
            uint32_t n = len < sizeof scrap ? len : (uint32_t)sizeof scrap;
            if (clock_seconds() > until || failed(c->link->kind->read(c->link, scrap, n))) return channel_dead(c);
            len -= n;
        }
        if (failed(frame_head(c, &kind, &len))) break;
    }
    return channel_dead(c);
}

static Result payload_send(Channel *c, uint8_t kind, const void *data, size_t len)
{
    GUARD(channel_dead(c));
    Result r = frame_send(c, kind, data, len);
    if (failed(r)) return channel_last_words(c, r);
    c->count.sent += len;
    c->count.frames_sent++;
    channel_note(c, true, len);
    return OK;
}

Result channel_send(Channel *c, const void *data, size_t len) { return payload_send(c, FRAME_DATA, data, len); }

Result channel_part(Channel *c, const void *data, size_t len)
{
    ASSERT(len > 0);
    return payload_send(c, FRAME_PART, data, len);
}

static Result receive_frame(Channel *c, Buffer *out, size_t limit)
{
    uint32_t len;
    GUARD(frame_begin(c, FRAME_DATA, &len, NULL));
    if (len > limit) return fail(FAIL_DATA, "the %s sent a frame of %u bytes, where at most %zu may come", c->link->peer, len, limit);
    out->len = 0;
    buffer_reserve(out, (size_t)len + 1);       // an empty frame too has an address
    GUARD(c->link->kind->read(c->link, out->data, len));
    out->len = len;
    channel_note(c, false, len);
    return OK;
}

Result channel_receive(Channel *c, Buffer *out, size_t limit)
{
    return channel_kept(c, receive_frame(c, out, limit));
}

/* Parts that fit, until all of it is here. Each has a deadline as a frame has; the last must begin before `until`, so that a message in
 * many small parts takes no longer than a frame may and that once more. */
static Result expect_message(Channel *c, uint8_t *out, size_t len, const char *what)
{
    double until = -1;
    size_t done = 0;
    bool part;
    do {
        uint32_t got;
        GUARD(frame_begin(c, FRAME_DATA, &got, &part));
        if (part ? got == 0 || got > len - done : got != len - done)
            return fail(FAIL_DATA, "the %s sent %zu bytes instead of %zu: %s", c->link->peer, done + got, len, what);
        if (done == 0) until = link_deadline(c->link, len);
        else if (until >= 0 && clock_seconds() > until) return link_late(c->link, len - done, len);
        GUARD(c->link->kind->read(c->link, out + done, got));
        channel_note(c, false, got);
        done += got;
    } while (part && done < len);
    return OK;
}

Result channel_expect(Channel *c, void *out, size_t len, const char *what)
{
    return channel_kept(c, expect_message(c, out, len, what));
}

static Result read_stream(Channel *c, uint8_t *out, size_t len)
{
    while (len > 0) {
        while (c->left == 0) {
            GUARD(frame_begin(c, FRAME_DATA, &c->left, NULL));
            channel_note(c, false, c->left);
        }
        size_t n = c->left < len ? c->left : len;
        GUARD(c->link->kind->read(c->link, out, n));
        c->left -= (uint32_t)n;
        out += n;
        len -= n;
    }
    return OK;
}

Result channel_read(Channel *c, void *out, size_t len)
{
    GUARD(channel_dead(c));
    return channel_kept(c, read_stream(c, out, len));
}

Result channel_greet(Channel *c, const char *refusal)
{
    uint32_t len;
    if (refusal) {
        Result r = fail(FAIL_CRYPTO, "%s", refusal);
        channel_abort(c, refusal);
        return r;
    }
    Result r = frame_send(c, FRAME_READY, NULL, 0);
    if (failed(r)) return channel_last_words(c, r);
    r = frame_begin(c, FRAME_READY, &len, NULL);
    if (!failed(r) && len > 0) r = fail(FAIL_DATA, "the %s sent a greeting of %u bytes", c->link->peer, len);
    return channel_kept(c, r);
}

void channel_abort(Channel *c, const char *reason)
{
    size_t len = strlen(reason);
    if (c->aborted) return;
    c->aborted = true;
    c->link->timeout = 1;
    if (!c->cut && failed(frame_send(c, FRAME_ABORT, reason, len < REASON_BYTES ? len : REASON_BYTES))) c->cut = true;
    if (!c->dead && failed(fail(FAIL_PEER, "the session was ended here: %s", reason))) channel_died(c, FAIL_PEER);
}

void channel_close(Channel *c)
{
    if (!c) return;
    if (!c->cut && !c->dead) {
        c->link->timeout = 1;
        if (failed(frame_send(c, FRAME_CLOSE, NULL, 0))) c->cut = true;
    }
    c->link->kind->close(c->link, c->aborted);
    free(c);
}
