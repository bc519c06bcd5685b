/* fuzz_frames.c - frames and messages from anywhere: what a peer may send before and after the handshake. The first byte
 * chooses who is listening; the rest is what arrives on the wire. */
#include <stdlib.h>
#include <string.h>
#include "crypto/link.h"
#include "serve/message.h"

typedef struct Wired { Link link; const uint8_t *data; size_t len, at; } Wired;

static Result wired_write(Link *l, const uint8_t *head, size_t head_len, const uint8_t *data, size_t len)
{
    (void)l, (void)head, (void)head_len, (void)data, (void)len;
    return OK;
}

static Result wired_read(Link *l, uint8_t *out, size_t len)
{
    Wired *w = (Wired *)l;
    if (len > w->len - w->at) return fail(FAIL_PEER, "the %s closed the connection", l->peer);
    memcpy(out, w->data + w->at, len);
    w->at += len;
    return OK;
}

static void wired_close(Link *l, bool linger)
{
    (void)linger;
    free(l);
}

static const LinkKind wired = {.write = wired_write, .read = wired_read, .close = wired_close};

static void listen_as(uint8_t who, Channel *c)
{
    ClientHello client;
    ProviderHello provider;
    ThirdHello third;
    Report report;
    Plan plan = {0};
    ModelConfig config;
    Buffer header = {0}, frame = {0};
    Result r = OK;
    switch (who % 9) {
    case 0: r = client_hello_receive(c, &client); break;
    case 1: r = provider_hello_receive(c, &provider); break;
    case 2: r = third_hello_receive(c, &third); break;
    case 3: if (!failed(r = shape_receive(c, &plan, &config))) r = plan_check(&plan, &config); plan_free(&plan); break;
    case 4: r = report_receive(c, MSG_REPORT, &report, "provider"); break;
    case 5: r = pool_header_receive(c, &header); break;
    case 6: r = channel_greet(c, NULL); break;
    case 7: { uint8_t stream[300]; r = channel_read(c, stream, sizeof stream); break; }
    default:
        for (;;) {                             // the provider in a session
            Message m;
            Cursor body;
            Begin b;
            if (failed(r = message_next(c, &frame, 64, &m, &body, "client"))) break;
            if (m == MSG_BEGIN && failed(r = begin_parse(&b, &body))) break;
        }
    }
    if (failed(r) && result_text()[0] == 0) bug("a failure without a text");
    buffer_free(&header), buffer_free(&frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool started;
    if (!started) num_init(NUM_BEST), crypto_init(false), started = true;
    if (size < 1) return 0;
    Wired *w = calloc(1, sizeof *w);
    *w = (Wired){.link = {.kind = &wired, .peer = "peer", .timeout = 1}, .data = data + 1, .len = size - 1};
    Channel *c = channel_over(&w->link);
    if (data[0] >= 128) {                      // over a shaped link, whose pieces may say any time of arrival
        channel_shape(c, &(Net){1e-6, 1e12});
        channel_timeout(c, 0);
    }
    listen_as(data[0], c);
    channel_close(c);
    return 0;
}
