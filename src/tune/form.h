/* form.h - from a recipe's words to a variant of the upper layers (private to tune/). */
#ifndef MARILL_FORM_H
#define MARILL_FORM_H

#include "tune/measure.h"
#include "tune/recipe.h"

/* Some 2,048 tokens of the first samples of the training part. */
CHECKED Result form_text(Study *out, const Recipe *r, const Tokenizer *t, Arena *a);

/* The recipe's heads, approximations and upper layers as a variant of the layers from `first` on; zeros where it asks for nothing.
 * Groups, held norms and row bounds are found by the base's runs over some training text. */
CHECKED Result form_make(Variant *out, const Recipe *r, const Model *base, uint32_t first, const Tokenizer *t, Arena *a);

/* The same without the base's weights: sizes and kinds, with groups in their own order, norms of 1 and bounds of 0. */
CHECKED Result form_outline(Variant *out, const Recipe *r, const ModelConfig *c, uint32_t first, Arena *a);

#endif
