/* wire.c - what is free: linear maps, narrowing and shifting of shares. Each touches one party's column at a time. */
#include "mpc/engine.h"

Wire wire_add(Engine *e, Wire a, Wire b)
{
    ASSERT(a.f == b.f && layout_len(a.at) == layout_len(b.at));
    Wire w = wire_raw(e, a.at, a.n < b.n ? a.n : b.n, a.f);
    if (w.c.word) rows_apply(a.at, ring_add, w.c.word, a.c.word, b.c.word);
    if (w.s.word) rows_apply(a.at, ring_add, w.s.word, a.s.word, b.s.word);
    return w;
}

typedef struct RowJob { uint64_t *out; const uint64_t *in, *row; } RowJob;

static void add_row_block(void *ctx, const Block *b)
{
    const RowJob *j = ctx;
    ring_add(j->out + b->i, j->in + b->i, j->row + b->from, b->len);
}

Wire wire_add_server(Engine *e, Wire a, const uint64_t *row)
{
    if (!a.s.word) return a;
    Share s = {words_raw(e, true, layout_len(a.at))};
    for (size_t r = 0; r < a.at->rows; r++) ASSERT(row_words(a.at, r) == row_words(a.at, 0));
    rows_run(a.at, add_row_block, &(RowJob){s.word, a.s.word, row});
    a.s = s;
    return a;
}

typedef struct RunsJob { const Layout *at; size_t runs; const uint64_t *in, *word; uint64_t *out; } RunsJob;

static void add_runs_block(void *ctx, const Block *b)
{
    const RunsJob *j = ctx;
    size_t len = row_words(j->at, b->row) / j->runs, run = b->from / len, end = (run + 1) * len;
    for (size_t i = 0; i < b->len; run++, end += len)
        for (; i < b->len && b->from + i < end; i++) j->out[b->i + i] = j->in[b->i + i] + j->word[run];
}

Wire wire_add_public(Engine *e, Wire a, size_t runs, const uint64_t *word)
{
    if (!a.c.word) return a;
    Share c = {words_raw(e, true, layout_len(a.at))};
    for (size_t r = 0; r < a.at->rows; r++) ASSERT(row_words(a.at, r) % runs == 0);
    rows_run(a.at, add_runs_block, &(RunsJob){a.at, runs, a.c.word, word, c.word});
    a.c = c;
    return a;
}

Wire wire_narrow(Wire a, unsigned n)
{
    if (n < a.n) a.n = n;
    return a;
}

typedef struct ShiftJob { uint64_t *out; const uint64_t *in; unsigned n, k; bool up; } ShiftJob;

static void shift_block(void *ctx, const Block *b)
{
    const ShiftJob *j = ctx;
    ring_shift(j->out + b->i, j->in + b->i, b->len, j->n, j->k, j->up);
}

Wire wire_shift(Engine *e, Wire a, unsigned k)
{
    if (k == 0) return a;
    ASSERT(k < a.n);
    Wire w = wire_raw(e, a.at, a.n - k, a.f - k);
    if (w.c.word) rows_run(a.at, shift_block, &(ShiftJob){w.c.word, a.c.word, a.n, k, true});
    if (w.s.word) rows_run(a.at, shift_block, &(ShiftJob){w.s.word, a.s.word, a.n, k, false});
    return w;
}

Wire wire_to(Engine *e, Wire a, unsigned n, unsigned f)
{
    ASSERT(f <= a.f);
    unsigned k = a.f - f;
    Wire w = wire_shift(e, a, k);
    w.f = f;
    return wire_narrow(w, n);
}

Wire wire_label(Wire a, unsigned f)
{
    a.f = f;
    return a;
}

typedef struct ColumnsJob { const Layout *in; size_t from; uint64_t *to; const uint64_t *of; unsigned n, k; bool up; } ColumnsJob;

static void columns_block(void *ctx, const Block *b)
{
    const ColumnsJob *j = ctx;
    const uint64_t *of = j->of + j->in->begin[b->row] + j->from + b->from;
    if (j->k) ring_shift(j->to + b->i, of, b->len, j->n, j->k, j->up);
    else memcpy(j->to + b->i, of, b->len * sizeof *of);
}

Wire wire_columns_to(Engine *e, Wire a, size_t from, size_t count, unsigned n, unsigned f)
{
    ASSERT(f <= a.f && a.f - f < a.n);
    unsigned k = a.f - f;
    Wire w = wire_raw(e, layout_uniform(e, count), n < a.n - k ? n : a.n - k, f);
    for (size_t r = 0; r < a.at->rows; r++) ASSERT(from + count <= row_words(a.at, r));
    if (w.c.word) rows_run(w.at, columns_block, &(ColumnsJob){a.at, from, w.c.word, a.c.word, a.n, k, true});
    if (w.s.word) rows_run(w.at, columns_block, &(ColumnsJob){a.at, from, w.s.word, a.s.word, a.n, k, false});
    return w;
}

Wire wire_columns(Engine *e, Wire a, size_t from, size_t count) { return wire_columns_to(e, a, from, count, a.n, a.f); }

typedef struct MapJob { LinearBody *body; const void *ctx; const Layout *from, *to; uint64_t *out; const uint64_t *in; } MapJob;

static void map_rows(void *ctx, size_t begin, size_t end)
{
    MapJob *j = ctx;
    for (size_t r = begin; r < end; r++) j->body(j->ctx, r, j->out + j->to->begin[r], j->in + j->from->begin[r]);
}

Wire wire_map(Engine *e, Wire a, const Layout *at, unsigned add_f, LinearBody *body, const void *ctx)
{
    Wire w = wire_new(e, at, a.n, a.f + add_f);
    MapJob job = {body, ctx, a.at, at, w.c.word, a.c.word};
    if (w.c.word) parallel_for(at->rows, 4, map_rows, &job);
    job.out = w.s.word, job.in = a.s.word;
    if (w.s.word) parallel_for(at->rows, 4, map_rows, &job);
    return w;
}

void public_product(uint64_t *out, const uint64_t *x, const PublicMatrix *m, size_t rows, unsigned bits)
{
    if (!m->scale) {
        ring_linear_i16(out, x, m->w16, rows, m->outputs, m->inputs, bits);
        return;
    }
    ring_linear_i8(out, x, m->w8, rows, m->outputs, m->inputs, bits);
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < m->outputs; j++) out[r * m->outputs + j] *= (uint64_t)(int64_t)m->scale[j];
}

Wire wire_linear(Engine *e, Wire a, const PublicMatrix *m)
{
    size_t rows = a.at->rows;
    ASSERT(layout_len(a.at) == rows * m->inputs);
    work_note(e, WORK_PUBLIC, rows * m->inputs * m->outputs, a.n);
    Wire w = wire_new(e, layout_uniform(e, m->outputs), a.n, a.f + m->f);
    if (w.c.word) public_product(w.c.word, a.c.word, m, rows, a.n);
    if (w.s.word) public_product(w.s.word, a.s.word, m, rows, a.n);
    return w;
}

/* S's share is uniform, from the seed that T does not know: a share of all zeros would round with a bias. */
Wire wire_input_client(Engine *e, const Layout *at, unsigned n, unsigned f, const uint64_t *x)
{
    Wire w = wire_new(e, at, n, f);
    uint64_t *s = w.s.word ? w.s.word : words_if(e, e->client, layout_len(at));
    if (s) {
        source_peek(e->shared_prg, s, at, n);
        source_skip(e->shared_prg, at, n, NULL);
    }
    if (w.c.word) rows_apply(at, ring_sub, w.c.word, x, s);
    return w;
}
