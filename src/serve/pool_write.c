/* pool_write.c - the third deals into a file: every position a segment, some of them side by side.
 *
 * Dealing rows together costs less than one by one (a pinned matrix is read once for all of them), and since every row has streams of its
 * own the words are the same. How many together follows from how much memory a row's masks take. */
#include "serve/party.h"

#include <string.h>

enum { ROWS_MOST = 16, BATCH_BYTES = 24 << 20 };               // of words; the masks behind them take some ten times as much

static Result sink_write(Feed *feed, size_t row, const void *data, size_t len)
{
    PoolSink *s = (PoolSink *)feed;
    s->bytes += len;
    return s->writer ? pool_append(s->writer, row, data, len) : OK;
}

void pool_sink(PoolSink *s)
{
    *s = (PoolSink){.feed.write = sink_write};
}

Result pool_sizes(uint64_t *sizes, const Plan *p, const ModelConfig *c, uint64_t positions)
{
    Arena a;
    SecureNet *net;
    Engine *e = engine_new(ROLE_COUNT, NULL, NULL);
    arena_init(&a, false);
    Result r = secure_new(&net, e, &a, c, p, NULL, NULL);
    uint64_t before = 0;
    for (uint64_t i = 0; i < positions && !failed(r); i++) {
        engine_begin(e, 1, i, NULL, NULL);
        r = secure_forward(net, 1, NULL, NULL, NULL, true);
        uint64_t so_far = engine_cost(e).bytes.third_to_server;
        sizes[i] = so_far - before;
        before = so_far;
    }
    engine_free(e);
    arena_free(&a);
    return r;
}

static size_t rows_together(const PoolDeal *d, uint64_t done)
{
    size_t rows = 0;
    for (uint64_t bytes = 0; rows < ROWS_MOST && done + rows < d->positions; rows++) {
        bytes += d->sizes[done + rows];
        if (rows && bytes > BATCH_BYTES) break;
    }
    return rows;
}

Result pool_deal(const PoolDeal *d)
{
    GUARD(segments_reserve(d->client, d->positions, false));
    GUARD(segments_reserve(d->server, d->positions, false));
    for (uint64_t done = 0; done < d->positions;) {
        const size_t rows = rows_together(d, done);
        const uint64_t first = d->client->next;
        const uint8_t (*c)[KEY_BYTES] = segments_take(d->client, rows), (*s)[KEY_BYTES] = segments_take(d->server, rows);
        if (d->sink->writer) pool_begin(d->sink->writer, rows, s);
        engine_begin(d->engine, rows, first, c, s);
        GUARD(secure_forward(d->net, rows, NULL, NULL, NULL, false));
        done += rows;
        if (d->made) GUARD(d->made(d->ctx, rows));
    }
    segments_end(d->client);
    segments_end(d->server);
    return OK;
}
