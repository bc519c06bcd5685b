/* wire.c - what is free: linear maps, narrowing and shifting of shares. Each touches one party's column at a time. */
#include "mpc/engine.h"

Wire wire_add(Engine *e, Wire a, Wire b)
{
    ASSERT(a.f == b.f && layout_len(a.at) == layout_len(b.at));
    Wire w = wire_new(e, a.at, a.n < b.n ? a.n : b.n, a.f);
    if (w.c.word) ring_add(w.c.word, a.c.word, b.c.word, layout_len(a.at));
    if (w.s.word) ring_add(w.s.word, a.s.word, b.s.word, layout_len(a.at));
    return w;
}

Wire wire_narrow(Wire a, unsigned n)
{
    if (n < a.n) a.n = n;
    return a;
}

Wire wire_shift(Engine *e, Wire a, unsigned k)
{
    if (k == 0) return a;
    ASSERT(k < a.n);
    Wire w = wire_new(e, a.at, a.n - k, a.f - k);
    if (w.c.word) ring_shift(w.c.word, a.c.word, layout_len(a.at), a.n, k, true);
    if (w.s.word) ring_shift(w.s.word, a.s.word, layout_len(a.at), a.n, k, false);
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

Wire wire_columns(Engine *e, Wire a, size_t from, size_t count)
{
    Wire w = wire_new(e, layout_uniform(e, count), a.n, a.f);
    for (size_t r = 0; r < a.at->rows; r++) {
        ASSERT(from + count <= a.at->begin[r + 1] - a.at->begin[r]);
        if (w.c.word) memcpy(w.c.word + r * count, a.c.word + a.at->begin[r] + from, count * sizeof *w.c.word);
        if (w.s.word) memcpy(w.s.word + r * count, a.s.word + a.at->begin[r] + from, count * sizeof *w.s.word);
    }
    return w;
}

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
    for (size_t r = 0; s && r < at->rows; r++) prg_words(&e->shared_prg[r], s + at->begin[r], at->begin[r + 1] - at->begin[r], n);
    if (w.c.word) ring_sub(w.c.word, x, s, layout_len(at));
    return w;
}
