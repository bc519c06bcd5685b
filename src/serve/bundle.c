/* bundle.c - what a party brings: folders, plan, tokenizer, and whether they belong together. */
#include "serve/serve.h"

#include <string.h>

const char *const setting_names[5] = {"plain", "clear", "dealer", "3pc", "2pc"};

Result setting_parse(Setting *out, const char *name)
{
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, setting_names[i]) != 0) continue;
        *out = (Setting)i;
        return i == SETTING_2PC ? fail(FAIL_USE, "setting '2pc' is not available yet: 'dealer' and '3pc' are") : OK;
    }
    return fail(FAIL_USE, "setting '%s' is none of plain, clear, dealer, 3pc, 2pc", name);
}

static Result bundle_check(const Bundle *b, const char *model_dir, const char *plan_path)
{
    const ModelConfig *c = &b->model.config;
    const Plan *p = &b->plan;
    uint8_t hash[HASH_BYTES];
    GUARD(fail_in(plan_check(p, c), "%s", plan_path));
    if (p->known > 1 && !p->known_token)
        return fail(FAIL_DATA, "%s: %u known positions, whose tokens it does not name", plan_path, p->known);
    if (p->known && !p->known_token && c->bos < 0)
        return fail(FAIL_DATA, "%s: counts on a BOS token, which %s does not name", plan_path, model_dir);
    if (p->context <= p->known) return fail(FAIL_DATA, "%s: a context of %u positions leaves no room", plan_path, p->context);
    if (tokenizer_vocab(b->tokenizer) > c->vocab)
        return fail(FAIL_DATA, "%s/tokenizer.model has %u pieces, the model a vocabulary of %u", model_dir, tokenizer_vocab(b->tokenizer),
                    c->vocab);
    GUARD(public_hash(p, &b->model, hash));
    if (memcmp(hash, p->model_hash, HASH_BYTES) != 0)
        return fail(FAIL_DATA, "%s: was made for another model than %s", plan_path, model_dir);
    return OK;
}

static Result bundle_read(Bundle *b, const char *model_dir, const char *adapter_dir, const char *plan_path, bool want_adapter_weights,
                          Arena *a)
{
    if (!plan_path) plan_path = arena_format(a, "%s/marill-plan.json", adapter_dir ? adapter_dir : model_dir);
    GUARD(model_open(&b->model, model_dir));
    if (adapter_dir && want_adapter_weights) {
        b->has_adapter = true;
        GUARD(adapter_load(&b->adapter, adapter_dir, &b->model.config));
    }
    GUARD(tokenizer_load(&b->tokenizer, arena_format(a, "%s/tokenizer.model", model_dir)));
    if (!file_exists(plan_path)) return fail(FAIL_DATA, "%s: there is no such plan; 'marill calibrate' makes it", plan_path);
    GUARD(plan_load(&b->plan, plan_path));
    b->known_tokens = b->plan.known_token;
    b->variant = plan_variant(&b->plan);
    return bundle_check(b, model_dir, plan_path);
}

Result bundle_load(Bundle *b, const char *model_dir, const char *adapter_dir, const char *plan_path, bool want_adapter_weights)
{
    Arena a;
    *b = (Bundle){0};
    arena_init(&a, false);
    Result r = bundle_read(b, model_dir, adapter_dir, plan_path, want_adapter_weights, &a);
    arena_free(&a);
    if (failed(r)) bundle_free(b);
    return r;
}

void bundle_free(Bundle *b)
{
    model_free(&b->model);
    if (b->has_adapter) adapter_free(&b->adapter);
    plan_free(&b->plan);
    if (b->tokenizer) tokenizer_free(b->tokenizer);
    *b = (Bundle){0};
}
