/* form.c - see form.h. Heads are found on the base as it is; norms and row maxima on the base in the form that training starts
 * from, heads merged or left out and halves side by side. */
#include "tune/form.h"

#include <math.h>
#include <string.h>

#include "tune/measure.h"

enum { TEXT_TOKENS = 2048 };

/* Some TEXT_TOKENS tokens of the first samples of the training part; the study puts the beginning of text in front of windows. */
Result form_text(Study *out, const Recipe *r, const Tokenizer *t, Arena *a)
{
    DataSet set;
    size_t count = 0;
    GUARD(data_load(&set, r->sources, r->source_count, PART_TRAIN, t, r->context, r->seed, 0, a));
    int32_t *tokens = arena_new(a, int32_t, TEXT_TOKENS + (size_t)r->context);
    for (size_t i = 0; i < set.count && count < TEXT_TOKENS; i++) {
        const Sample *s = &set.sample[i];
        memcpy(tokens + count, s->tokens + 1, (s->len - 1) * sizeof *tokens);
        count += s->len - 1;
    }
    out->tokens = tokens, out->count = count;
    return OK;
}

static Result heads_find(HeadGroups *out, const FormRecipe *f, const Study *s, uint64_t seed, Arena *a)
{
    static const GroupBy groups[] = {[HEADS_BY_DEFAULT] = GROUP_MAPS, [HEADS_BY_ATTENTION] = GROUP_MAPS,
                                     [HEADS_BY_WEIGHTS] = GROUP_WEIGHTS, [HEADS_BY_ADJACENT] = GROUP_ADJACENT, [HEADS_BY_RANDOM] = GROUP_RANDOM};
    if (f->merge > 1) return heads_group(out, s, f->merge, groups[f->by], seed, a);
    return heads_keep(out, s, f->prune, f->by == HEADS_BY_OUTPUT ? KEEP_OUTPUT : KEEP_GRADIENT, a);
}

/* A group's score is the sum of its heads': for heads that are not alike that is sqrt(merge) times as wide as one head's. */
static double scale_of(const FormRecipe *f)
{
    return f->scale > 0 ? f->scale : f->merge > 1 ? 1 / sqrt((double)f->merge) : 0;
}

static Variant form_kinds(const Recipe *r, uint32_t first)
{
    const FormRecipe *f = &r->form;
    return (Variant){.first = first, .score_scale = (float)scale_of(f), .activation = (Activation)f->activation,
                     .softmax = (Softmax)f->softmax, .side_by_side = f->side_by_side, .cells = r->secure.cells};
}

/* The first heads of each layer. */
static HeadGroups heads_kept(const ModelConfig *c, uint32_t layers, uint32_t of, Arena *a)
{
    uint32_t heads = c->kv_heads / of, *order = arena_new(a, uint32_t, (size_t)layers * heads);
    for (size_t i = 0; i < (size_t)layers * heads; i++) order[i] = (uint32_t)(i % heads);
    return (HeadGroups){.size = 1, .order = order, .heads = heads};
}

Result form_outline(Variant *out, const Recipe *r, const ModelConfig *c, uint32_t first, Arena *a)
{
    const FormRecipe *f = &r->form;
    uint32_t layers = c->layers - first, of = f->merge > 1 ? f->merge : f->prune;
    *out = form_kinds(r, first);
    if (of > 1 && c->kv_heads % of) return fail(FAIL_DATA, "groups of %u do not divide the %u key-value heads of %s", of, c->kv_heads, r->base);
    if (f->merge > 1) out->heads = (HeadGroups){.size = f->merge, .heads = c->kv_heads};
    else if (f->prune > 1) out->heads = heads_kept(c, layers, f->prune, a);
    float *norm = arena_new(a, float, 2 * (size_t)layers);
    for (size_t i = 0; i < 2 * (size_t)layers; i++) norm[i] = 1;
    if (f->norm) out->norm = norm, out->norm_mix = 1;
    if (f->row_bound > 0) out->row_bound = arena_new(a, float, (size_t)layers * c->heads);
    return OK;
}

Result form_make(Variant *out, const Recipe *r, const Model *base, uint32_t first, const Tokenizer *t, Arena *a)
{
    const FormRecipe *f = &r->form;
    Study s = {.model = base, .first = first};
    Arena text;
    *out = form_kinds(r, first);
    bool grouped = f->merge > 1 || f->prune > 1, bounded = f->row_bound > 0;
    if (!grouped && !bounded && !f->norm) return OK;
    arena_init(&text, false);
    Result result = form_text(&s, r, t, &text);
    if (!failed(result) && grouped) result = heads_find(&out->heads, f, &s, r->seed, a);
    if (!failed(result)) result = variant_check(out, &base->config);
    const float *norm = NULL, *bound = NULL;
    if (!failed(result) && f->norm) result = norms_measure(&norm, &s, out, a);
    if (!failed(result) && bounded) result = row_bounds_measure(&bound, &s, out, a);
    out->norm = norm, out->row_bound = bound;
    arena_free(&text);
    return result;
}
