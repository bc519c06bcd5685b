/* emulate.c - see emulate.h. */
#include "model/emulate.h"

#include <math.h>

#include "model/secure_parts.h"

// ---- tables ----------------------------------------------------------------------------------------------------------

void emulated_table(EmulatedTable *out, const LookupSpec *s, Arena *a)
{
    Arena own;
    arena_init(&own, false);
    size_t rows = (size_t)1 << s->k, cells = (size_t)1 << (s->t - s->k);
    float *line = arena_new(a, float, rows * cells * 2), *low = arena_new(a, float, rows);
    table_floats(table_new(s, &own), line, low);
    arena_free(&own);
    double end = ldexp(1, (int)s->t - (s->from_zero ? 0 : 1)), cell = ldexp(1, (int)s->k);
    *out = (EmulatedTable){.k = s->k, .cells = (int32_t)cells, .steps = (float)ldexp(1, (int)s->f), .line = line, .low = low,
                           .least = (float)(s->from_zero ? 0 : -end), .most = (float)(end - cell - 1)};
}

/* The table of a layer; those of the layers below are used again. */
static void table_of(EmulatedTable *out, const LookupSpec *s, const LookupSpec *below, const EmulatedTable *made, Arena *a)
{
    if (below && lookup_same(s, below)) *out = *made;
    else emulated_table(out, s, a);
}

static float steps(bool rounding, Width w) { return rounding ? (float)ldexp(1, (int)w.f) : 0; }

static void layers_emulate(Emulated *out, const Plan *p, bool tables, bool rounding, Arena *a)
{
    EmulatedLayer *layer = arena_new(a, EmulatedLayer, p->layers);
    for (uint32_t i = 0; i < p->layers; i++) {
        const LayerPlan *l = &p->layer[i], *below = i ? l - 1 : NULL;
        EmulatedLayer *e = &layer[i];
        *e = (EmulatedLayer){.residual = steps(rounding, l->residual), .query = steps(rounding, l->query), .key = steps(rounding, l->key),
                             .value = steps(rounding, l->value), .up = steps(rounding, l->up),
                             .weight = steps(rounding, l->exp),
                             .attention = steps(rounding, l->attention)};
        if (!tables) continue;
        table_of(&e->gate, &l->silu, below ? &below->silu : NULL, i ? &layer[i - 1].gate : NULL, a);
        e->gate_most = (float)gate_bound(l->range.gate, (uint32_t)e->gate.cells);
        if (!l->score_exp.never_positive) continue;
        table_of(&e->exp, &l->score_exp, below ? &below->score_exp : NULL, i ? &layer[i - 1].exp : NULL, a);
    }
    *out = (Emulated){.first = p->frozen, .layer = layer};
}

Result emulated_make(Emulated *out, const Model *m, const Adapter *a, const EmulateOptions *o, const int32_t *tokens, size_t count,
                     Arena *arena)
{
    Plan p = {0};
    PlanOptions asked = {.context = o->context, .frozen = o->first, .private_part = a ? PRIVATE_LORA : PRIVATE_LAYERS,
                         .variant = *o->variant, .silu_range = o->silu_range};
    if (o->variant->norm) asked.variant.norm_mix = 1;          // where annealing ends
    Result r = plan_make(&p, m, a, &asked, tokens, count);
    if (!failed(r)) layers_emulate(out, &p, o->tables, o->rounding, arena);
    plan_free(&p);
    return r;
}

// ---- coins -----------------------------------------------------------------------------------------------------------

/* 32 bits of a column: murmur3's finaliser. */
VECTOR_INLINE uint32_t coin_of(uint32_t key, uint32_t column)
{
    uint32_t h = key ^ (column * 0x9E3779B9u);
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    return h ^ (h >> 16);
}

/* at, rounded up with the probability of its fraction: the sum of it and the coin would lose the coin's bits where at is large. */
VECTOR_INLINE float rounded(float at, uint32_t coin)
{
    float whole = floorf(at), share = (float)(coin >> 8) * 0x1p-24f;
    return whole + (at - whole > share ? 1.0f : 0.0f);
}

VECTOR_LOOPS static void round_all(float *x, size_t len, float steps, float step, uint32_t key)
{
    for (size_t i = 0; i < len; i++) x[i] = rounded(x[i] * steps, coin_of(key, (uint32_t)i)) * step;
}

void row_round(float *x, size_t len, float steps, uint32_t key)
{
    if (steps > 0) round_all(x, len, steps, 1 / steps, key);
}

// ---- lookups ---------------------------------------------------------------------------------------------------------

/* Where an index lies: its mask's low part p, and the index plus p, of which the high part is the cell and the low one the row. */
typedef struct Place { int32_t p, at; } Place;

VECTOR_INLINE Place place_of(const EmulatedTable *t, float x, uint32_t key, uint32_t column)
{
    float index = rounded(x * t->steps, coin_of(key, 2 * column));
    index = index < t->least ? t->least : index;
    index = index > t->most ? t->most : index;
    int32_t p = (int32_t)(coin_of(key, 2 * column + 1) >> 8) & ((1 << t->k) - 1);
    return (Place){p, (int32_t)index + p};
}

VECTOR_INLINE float line_at(const EmulatedTable *t, Place x)
{
    int32_t row = x.at & ((1 << t->k) - 1), cell = (x.at >> t->k) & (t->cells - 1);
    const float *line = t->line + 2 * ((size_t)row * (size_t)t->cells + (size_t)cell);
    return line[0] + line[1] * t->low[x.p];
}

VECTOR_LOOPS void row_look_up(float *out, const float *x, size_t len, const EmulatedTable *t, uint32_t key)
{
    for (size_t i = 0; i < len; i++) out[i] = line_at(t, place_of(t, x[i], key, (uint32_t)i));
}

/* Cells count down from the largest: cell h - m of the table, whose width is that of 2^k steps and whose argument is less by that. */
float row_exp(float *x, float *top, size_t len, const EmulatedTable *t, float steps, uint32_t key)
{
    int32_t most = INT32_MIN, mask = (1 << t->k) - 1;
    float sum = 0, width = (float)(1 << t->k) / t->steps;
    for (size_t i = 0; i < len; i++) {
        int32_t cell = place_of(t, x[i], key, (uint32_t)i).at >> t->k;
        most = cell > most ? cell : most;
    }
    for (size_t i = 0; i < len; i++) {
        Place at = place_of(t, x[i], key, (uint32_t)i);
        int32_t below = (at.at >> t->k) - most;
        const float *line = t->line + 2 * ((size_t)(at.at & mask) * (size_t)t->cells + (size_t)(below & (t->cells - 1)));
        x[i] = below <= -t->cells ? 0 : line[1] * t->low[at.p];
    }
    row_round(x, len, steps, ~key);
    for (size_t i = 0; i < len; i++) sum += x[i];
    *top = (float)(most + 1) * width;
    return sum;
}

// ---- SwiGLU ----------------------------------------------------------------------------------------------------------

VECTOR_LOOPS void row_gated(float *out, const float *gate, const float *up, size_t len, const EmulatedTable *t, uint32_t key)
{
    for (size_t i = 0; i < len; i++) out[i] = line_at(t, place_of(t, gate[i], key, (uint32_t)i)) * up[i];
}

VECTOR_LOOPS static void up_backward(float *d_up, const float *d_out, const float *gate, size_t len, const EmulatedTable *t, uint32_t key)
{
    for (size_t i = 0; i < len; i++) d_up[i] = d_out[i] * line_at(t, place_of(t, gate[i], key, (uint32_t)i));
}

void row_gated_backward(float *d_gate, float *d_up, const float *d_out, const float *gate, const float *up, size_t len,
                        const EmulatedTable *t, uint32_t key)
{
    swiglu_backward(d_gate, d_up, d_out, gate, up, len);
    up_backward(d_up, d_out, gate, len, t, key);
}
