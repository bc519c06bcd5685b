/* test_frames.c - random sequences of frames, sound and not, against a model of what a channel may make of them.
 *
 * The frames are written under the channel, as a peer that keeps to nothing would, so this file has channel.c for itself. */
#define TEST_SECONDS 60
#include "crypto/channel.c"

#include "test.h"

enum { LONGEST = 40, FRAMES = 60, FRAME_MOST = 40, ROUNDS = 6000 };

/* What the model knows: how the message is received, and what the frames so far make of it. */
typedef enum { EXPECT, RECEIVE, READ } Way;
typedef enum { UNDECIDED, TAKEN, REFUSED } Verdict;
typedef struct Model { Way way; size_t len, done; Verdict verdict; } Model;   // len: of the message, for RECEIVE at most

static void model_frame(Model *m, uint8_t kind, uint32_t n)
{
    size_t left = m->len - m->done;
    bool part = kind == FRAME_PART && m->way == EXPECT && n > 0 && n <= left;
    bool whole = kind == FRAME_DATA && (m->way == EXPECT ? n == left : m->way == RECEIVE ? n <= left : true);
    if (m->verdict != UNDECIDED) return;
    if (part || whole) m->done += n < left ? n : left;
    if (!part && !whole) m->verdict = REFUSED;
    else if (m->way == RECEIVE || m->done == m->len) m->verdict = TAKEN;
}

static unsigned below(unsigned n) { return (unsigned)(test_random() * n); }

static uint8_t frame_kind(Way way)
{
    unsigned pick = below(24);
    if (pick == 23) return (uint8_t)below(9);
    if (pick == 22) return FRAME_CLOSE;
    if (pick == 21) return FRAME_ABORT;
    return way == EXPECT ? (pick < 14 ? FRAME_PART : FRAME_DATA) : pick == 20 ? FRAME_PART : FRAME_DATA;
}

/* One frame at random, mostly one that fits. Its bytes are the next of `data`; a length that lies has none. */
static void frame_random(Channel *c, Model *m, const uint8_t *data, size_t *at)
{
    uint8_t kind = frame_kind(m->way);
    uint32_t n = kind == FRAME_CLOSE ? 0 : below(m->way == RECEIVE ? FRAME_MOST : 12);
    bool lies = m->way != READ && below(100) == 0;                     // a stream would take the next head for bytes
    if (kind == FRAME_DATA && m->way == EXPECT && below(3) > 0) n = (uint32_t)(m->len - m->done);
    if (lies) n = 0xFFFFFFF0u + below(16);
    const uint8_t head[HEAD_BYTES] = {kind, (uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};
    CHECK_OK(c->link->kind->write(c->link, head, sizeof head, data + *at, lies ? 0 : n));
    *at += lies ? 0 : n;
    model_frame(m, kind, n);
}

static Result message_take(Channel *c, const Model *m, uint8_t *out)
{
    Buffer b = {0};
    if (m->way == EXPECT) return channel_expect(c, out, m->len, "message");
    if (m->way == READ) return channel_read(c, out, m->len);
    Result r = channel_receive(c, &b, m->len);
    if (!failed(r)) {
        CHECK_EQUAL(m->done, b.len);
        memcpy(out, b.data, b.len);
    }
    buffer_free(&b);
    return r;
}

/* A channel that failed stays failed, in both directions, and says the same. */
static void check_stays_failed(Channel *c)
{
    char why[400];
    uint8_t none[1];
    snprintf(why, sizeof why, "%s", result_text());
    CHECK(why[0]);
    CHECK_FAILS(channel_expect(c, none, 0, "nothing"), why);
    CHECK_FAILS(channel_read(c, none, 1), why);
    CHECK_FAILS(channel_part(c, "x", 1), why);
}

static void check_way(Way way)
{
    size_t taken = 0;
    for (int round = 0; round < ROUNDS; round++) {
        Channel *c, *peer;
        Model m = {.way = way, .len = 1 + below(LONGEST)};
        uint8_t data[(FRAMES + 3) * FRAME_MOST], out[LONGEST + 2];
        size_t at = 0;
        channel_memory(&c, &peer);
        for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)below(256);
        for (int f = 0; f < FRAMES && m.verdict == UNDECIDED; f++) frame_random(peer, &m, data, &at);
        for (unsigned f = below(4); f > 0; f--) frame_random(peer, &m, data, &at);             // nobody asked for these
        channel_close(peer);                                           // what is not whole by now never will be
        memset(out, 0x5A, sizeof out);
        Result r = message_take(c, &m, out);
        CHECK_EQUAL(m.verdict == TAKEN, !failed(r));
        CHECK(out[m.len] == 0x5A && (failed(r) || !memcmp(out, data, m.done)));
        if (failed(r)) check_stays_failed(c);
        taken += !failed(r);
        channel_close(c);
    }
    CHECK(taken > ROUNDS / 5 && taken < ROUNDS - ROUNDS / 20);         // or the sequences would show nothing
}

TEST(messages_in_parts) { check_way(EXPECT); }
TEST(messages_in_a_frame) { check_way(RECEIVE); }
TEST(streams) { check_way(READ); }

int main(int argc, char **argv)
{
    crypto_init(false);
    return test_main(argc, argv);
}
