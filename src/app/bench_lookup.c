/* bench_lookup.c - a split lookup: the table sums alone, and the whole move as the client makes it. */
#include "app/bench.h"

#include <stdlib.h>
#include <string.h>

enum { CELLS = 256, ROWS = 64, INDEX_ROWS = 16, INDEX_COLUMNS = 3072 };

// ---- table sums ------------------------------------------------------------------------------------------------------

/* A narrow table of 64 rows, read at public rows and turns. */
typedef struct Sums { SelectTable table; uint8_t *bits; uint64_t low[ROWS], turn[ROWS], sum[SELECT_COLUMNS][ROWS], ones[ROWS]; } Sums;

static double sums_run(void *ctx, uint64_t times)                   // in bytes read
{
    Sums *s = ctx;
    const Selection x = {.table = &s->table, .bits = s->bits, .low = s->low, .turn = s->turn,
                         .sum = {s->sum[0], s->sum[1]}, .ones = s->ones};
    for (uint64_t t = 0; t < times; t++) ring_select(&x, ROWS);
    return (double)times * ROWS * CELLS * (s->table.bytes[0] + s->table.bytes[1] + 0.125);
}

/* Columns of words of b0 and b1 bytes; b1 0: one. */
static void sums_figure(Figures *r, const BenchArgs *k, unsigned b0, unsigned b1)
{
    size_t size = (size_t)ROWS * CELLS * (b0 + b1);
    Sums s = {.table = {bench_memory(size), CELLS, b1 ? 2 : 1, {b0, b1}}, .bits = bench_memory(ROWS * CELLS / 8)};
    for (size_t i = 0, some = 0; i < ROWS; i++) {
        some = (some * 5 + 1) % ROWS;          // every row, in no order that a prefetcher knows
        s.low[i] = some, s.turn[i] = some * 37 % CELLS;
    }
    LoadBout load = {s.table.rows, size};
    Bout bout[] = {{.run = bout_load, .ctx = &load}, {.run = sums_run, .ctx = &s}};
    bench_race(bout, 2, k->seconds);
    Figure *f = figure_rate(r, "GB/s", 1e9, &bout[1], "sums over 256 cells of %u byte%s%s", b0 + b1, b0 + b1 == 1 ? "" : "s",
                            b1 ? ", in two columns" : "");
    figure_hold(f, &bout[1], &bout[0], threads_count(), "loads of that table", ASK_SHARE, 0.6);
    free((void *)(uintptr_t)s.table.rows), free(s.bits);
}

// ---- the move --------------------------------------------------------------------------------------------------------

typedef struct Move {
    const Table *table;
    uint64_t *index;
    Channel *client, *server;
    uint8_t *words;                            // what a server would send: any will do
    uint8_t keys[INDEX_ROWS][KEY_BYTES];
    double seconds;
} Move;

/* One batch up to the selection, with words that nobody means in place of the server's; then the engine is thrown away. */
static double move_run(void *ctx, uint64_t times)
{
    Move *m = ctx;
    const LookupSpec *s = table_spec(m->table);
    m->seconds = 0;
    for (uint64_t t = 0; t < times; t++) {
        Engine *e = engine_new(ROLE_CLIENT, m->client, NULL);
        engine_shared_seed(e, m->keys[0]);
        engine_begin(e, INDEX_ROWS, 0, (const uint8_t (*)[KEY_BYTES])m->keys, NULL);
        Wire w = wire_input_client(e, layout_uniform(e, INDEX_COLUMNS), s->t, s->f, m->index);
        Opened *o = wire_open(e, w);
        size_t bytes = INDEX_ROWS * ring_packed_size(INDEX_COLUMNS, s->t);
        Result r = channel_send(m->server, m->words, bytes);
        if (!failed(r)) r = engine_exchange(e, "index");
        if (!failed(r)) r = channel_expect(m->server, m->words, bytes, "index");
        if (failed(r)) bug("%s", result_text());
        (void)failed(engine_refuse(e, fail(FAIL_USE, "the columns are not sent")));
        double start = clock_seconds();
        (void)lookup_select(e, o, m->table);
        m->seconds += clock_seconds() - start;
        engine_free(e);
    }
    return (double)times * INDEX_ROWS * INDEX_COLUMNS;
}

static Result move_figure(Figures *r, const BenchArgs *k)
{
    static const ModelConfig shape = {.width = 768, .layers = 1, .heads = 12, .kv_heads = 12, .head_dim = 64,
                                      .ffn = INDEX_COLUMNS, .vocab = 64, .context = 128,
                                      .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2};
    Plan p;
    Arena a;
    Move m = {0};
    PlanOptions o = {.context = 128, .prefer = PREFER_BYTES, .private_part = PRIVATE_LAYERS};
    GUARD(plan_assume(&p, &shape, &o, 0));
    const LookupSpec *s = &p.layer[0].silu;
    arena_init(&a, false);
    channel_memory(&m.client, &m.server);
    m.table = table_new(s, &a);
    m.index = bench_memory((size_t)INDEX_ROWS * INDEX_COLUMNS * 8), m.words = bench_memory((size_t)INDEX_ROWS * INDEX_COLUMNS * 8);
    random_bytes(m.keys, sizeof m.keys);
    Bout bout = {.run = move_run, .ctx = &m, .clock = &m.seconds};
    bench_race(&bout, 1, 2 * k->seconds);
    Figure *f = figure_time(r, "us", 1e6 * threads_count(), &bout, "a lookup at the client: %u cells, two columns", 1u << (s->t - s->k));
    f->ask = ASK_AT_MOST, f->asked = s->t - s->k == 8 ? 0.04 : 0.04 * (1 << (s->t - s->k)) / CELLS;
    channel_close(m.client), channel_close(m.server);
    arena_free(&a);
    plan_free(&p);
    free(m.index), free(m.words);
    return OK;
}

Result bench_lookup(const BenchArgs *k)
{
    Figures r = {.name = "lookup"};
    for (unsigned bytes = 1; bytes <= 8; bytes *= 2) sums_figure(&r, k, bytes, 0);
    sums_figure(&r, k, 2, 1);
    sums_figure(&r, k, 4, 2);
    GUARD(move_figure(&r, k));
    figures_print(&r, k->json);
    return OK;
}
