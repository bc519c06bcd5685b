/* synthetic.h - private to app/: parties of models that nobody trained, at the sizes that people use. */
#ifndef MARILL_SYNTHETIC_H
#define MARILL_SYNTHETIC_H

#include "app/app.h"

/* What `bundle_load` would give, without a tokenizer: the base of a folder, of which the plan's layers are used (the base may
 * have more), and at a provider factors of the plan's rank, decided by the seed. past: the plan's known positions have keys and
 * values of the seed as well, instead of tokens. */
CHECKED Result synthetic_bundle(Bundle *b, const char *model_dir, const char *plan_path, uint64_t seed, bool past, bool provider);
/* The factors, of about a tenth of the base's size: for who compares. */
void synthetic_factors(Adapter *a, const Plan *p, const ModelConfig *c, uint64_t seed);
/* What tuning may have changed of a shape, so that costs can be asked for: constants of 1, bounds of 0. */
typedef struct Change { bool norms, bounds, beside; } Change;
void synthetic_variant(Variant *v, const Change *k, const ModelConfig *c, Arena *a);
/* The token at a position: BOS, then any. */
int32_t synthetic_token(const ModelConfig *c, uint64_t seed, uint64_t position);

#endif
