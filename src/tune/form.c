/* form.c - see form.h. */
#include "tune/form.h"

#include "model/variant.h"

Result form_make(Variant *out, const Recipe *r, const Model *base, uint32_t first)
{
    const FormRecipe *f = &r->form;
    *out = (Variant){.first = first, .score_scale = (float)f->scale, .activation = (Activation)f->activation,
                     .softmax = (Softmax)f->softmax, .side_by_side = f->side_by_side, .heads = {.size = f->merge}};
    if ((f->merge > 1 && f->by != HEADS_BY_ADJACENT) || f->prune > 1 || f->norm || f->row_bound > 0)
        return fail(FAIL_USE, "of what a recipe says of heads and norms, this version knows 'heads: {merge: N, by: adjacent}' alone");
    return variant_check(out, &base->config);
}
