/* aware.c - see aware.h. */
#include "tune/aware.h"

#include "tune/dropout.h"
#include "tune/form.h"

// ---- the plan --------------------------------------------------------------------------------------------------------

Result aware_make(Emulated *out, const Recipe *r, const Net *n, const Variant *v, const Tokenizer *t, Arena *a)
{
    const SecureRecipe *s = &r->secure;
    Study text = {0};
    Arena own;
    EmulateOptions o = {.context = r->context, .first = n->first, .variant = v, .silu_range = s->silu_range, .tables = s->tables,
                        .rounding = s->rounding};
    arena_init(&own, false);
    Result result = form_text(&text, r, t, &own);
    if (!failed(result)) result = emulated_make(out, n->model, n->adapter, &o, text.tokens, text.count, a);
    out->range_weight = (float)s->range_weight;
    arena_free(&own);
    return fail_in(result, "secure");
}

const EmulatedLayer *aware_layer(const Net *n, uint32_t layer)
{
    return n->secure && layer >= n->secure->first ? &n->secure->layer[layer - n->secure->first] : NULL;
}

// ---- rows and their keys ---------------------------------------------------------------------------------------------

static uint64_t place_of(uint32_t layer, AwareSite site, uint32_t head) { return ((uint64_t)layer * SITE_COUNT + site) << 16 | head; }

uint32_t aware_score_key(const Pack *p, size_t sample, uint32_t layer, uint32_t head, size_t row)
{
    return noise_key(p->coin[sample], place_of(layer, SITE_SCORE, head), row);
}

void aware_round(float *x, const Pack *p, uint32_t layer, AwareSite site, size_t columns, float steps)
{
    uint64_t place = place_of(layer, site, 0);
    for (size_t i = 0; steps > 0 && i < p->samples; i++)
        for (size_t r = p->start[i]; r < p->start[i + 1]; r++)
            row_round(x + r * columns, columns, steps, noise_key(p->coin[i], place, r - p->start[i]));
}

void aware_gated(float *out, const float *gate, const float *up, const Pack *p, uint32_t layer, size_t columns, const EmulatedTable *t)
{
    uint64_t place = place_of(layer, SITE_GATE, 0);
    for (size_t i = 0; i < p->samples; i++)
        for (size_t r = p->start[i], at = r * columns; r < p->start[i + 1]; r++, at += columns)
            row_gated(out + at, gate + at, up + at, columns, t, noise_key(p->coin[i], place, r - p->start[i]));
}

void aware_gated_backward(float *d_gate, float *d_up, const float *d_out, const float *gate, const float *up, const Pack *p, uint32_t layer,
                          size_t columns, const EmulatedTable *t)
{
    uint64_t place = place_of(layer, SITE_GATE, 0);
    for (size_t i = 0; i < p->samples; i++)
        for (size_t r = p->start[i], at = r * columns; r < p->start[i + 1]; r++, at += columns)
            row_gated_backward(d_gate + at, d_up + at, d_out + at, gate + at, up + at, columns, t,
                               noise_key(p->coin[i], place, r - p->start[i]));
}

void aware_pull(float *d_gate, const float *gate, size_t len, float most, float weight)
{
    for (size_t i = 0; i < len; i++) {
        float over = gate[i] > most ? gate[i] - most : gate[i] < -most ? gate[i] + most : 0;
        d_gate[i] += 2 * weight * over;
    }
}
