/* calibrate.c - plans: making them, finding the one to run with, predicting costs from them. */
#include "app/app.h"

#include <math.h>
#include <string.h>

enum { CONFIG_LIMIT = 1 << 20, TEXT_LIMIT = 1 << 28, MARILL_LIMIT = 1 << 22 };

/* Plain prose, in the languages of the embedded model, long and varied enough to show a network's ranges. */
const char calibration_text[] =
    "The harbour lay quiet when the first boats came in. Two men stood on the wall and counted the sails, as they had done "
    "every morning for twenty years, and neither of them spoke. \"Eleven,\" said the older one at last. \"There should be "
    "twelve.\" A girl ran down from the market with a basket of bread; she had lost a shoe and did not care. Once upon a "
    "time there was a little dog who wanted to see the moon. Every night he climbed the hill behind the house, and every "
    "night he fell asleep before it rose.\n"
    "Why do we keep old letters? Perhaps because a hand once rested on the paper; perhaps because throwing them away takes "
    "a decision, and keeping them takes none. In 1874 the town had 3,150 people, four mills and one bridge. By 1901 the "
    "mills were gone, the bridge was made of iron, and nobody remembered who had paid for it.\n"
    "Tom and Lily went to the park. They saw a big red ball under a tree. \"Can we play with it?\" asked Lily. Tom said, "
    "\"Yes, but we must give it back.\" They were happy and laughed a lot. Then the rain began, and they ran home to their "
    "mother.\n"
    "Please close the window. I have never been to London. She is reading a book. What time does the train leave? He did "
    "not want to wait any longer. It is going to be cold tomorrow, isn't it? We were surprised that nobody had called the "
    "doctor.\n"
    "Der Bahnhof war fast leer, als der letzte Zug einfuhr. Eine Frau mit einem gr\303\274nen Koffer stieg aus und sah sich "
    "um, als suche sie jemanden. Niemand kam. Nach einer Weile setzte sie sich auf die Bank, \303\266ffnete ein Buch und "
    "begann zu lesen. Warum sollte sie auch nicht warten? Der Abend war warm, und zu Hause brannte kein Licht.\n"
    "Ich habe Hunger. Wo ist der Schl\303\274ssel? Kannst du mir bitte helfen? Er hat gestern den ganzen Tag gearbeitet. "
    "Das M\303\244dchen spielt im Garten. Wir fahren morgen nach M\303\274nchen, wenn es nicht regnet. Tom wei\303\237 "
    "nicht, was er sagen soll. Es gibt nichts Gutes, au\303\237er man tut es. Meine Mutter kann sehr gut kochen, aber mein "
    "Vater isst am liebsten Brot mit K\303\244se. Die Kinder schlafen schon.\n"
    "At the end of the winter the river rose again. It took the fence, the small shed and half of the potatoes, and left a "
    "chair that belonged to no one in the valley. They put it by the fire. It was, everyone agreed, a very good chair.\n";

// ---- folders ---------------------------------------------------------------------------------------------------------

Result config_read(ModelConfig *out, const char *model_dir)
{
    Arena a;
    Buffer text = {0};
    arena_init(&a, false);
    const char *path = arena_format(&a, "%s/config.json", model_dir);
    Result r = file_read(&text, path, CONFIG_LIMIT);
    if (!failed(r)) r = fail_in(config_parse(out, (const char *)text.data, text.len), "%s", path);
    buffer_free(&text);
    arena_free(&a);
    return r;
}

static Result tokenizer_open(Tokenizer **out, const char *model_dir)
{
    Arena a;
    arena_init(&a, false);
    Result r = tokenizer_load(out, arena_format(&a, "%s/tokenizer.model", model_dir));
    arena_free(&a);
    return r;
}

/* Of the adapter folder's marill.json, or else of the model folder's. */
static Result variant_find(Variant *out, const char *model_dir, const char *adapter_dir, const ModelConfig *c, uint32_t first, Arena *a)
{
    *out = (Variant){0};
    if (adapter_dir) GUARD(variant_load(out, adapter_dir, c, first, a));
    return variant_changes(out) ? OK : variant_load(out, model_dir, c, first, a);
}

Result bundle_load_plain(Bundle *b, const char *model_dir, const char *adapter_dir)
{
    *b = (Bundle){0};
    arena_init(&b->plan.arena, false);
    GUARD(model_open(&b->model, model_dir));
    const ModelConfig *c = &b->model.config;
    b->plan.context = c->context, b->plan.known = 1;
    b->has_adapter = adapter_dir != NULL;
    if (adapter_dir) GUARD(adapter_load(&b->adapter, adapter_dir, c));
    GUARD(variant_find(&b->variant, model_dir, adapter_dir, c, adapter_dir ? b->adapter.first : 0, &b->plan.arena));
    GUARD(tokenizer_open(&b->tokenizer, model_dir));
    if (tokenizer_vocab(b->tokenizer) > c->vocab)
        return fail(FAIL_DATA, "%s/tokenizer.model has %u tokens, the model has %u", model_dir, tokenizer_vocab(b->tokenizer), c->vocab);
    if (c->bos < 0) return fail(FAIL_DATA, "%s/config.json names no bos_token_id", model_dir);
    return OK;
}

Result known_adopt(Bundle *plain, const char *model_dir, const char *adapter_dir, const char *plan)
{
    Plan p = {0};
    Plan *mine = &plain->plan;
    if (!plan) plan = arena_format(&mine->arena, "%s/marill-plan.json", adapter_dir ? adapter_dir : model_dir);
    if (!file_exists(plan)) return OK;
    Result r = plan_load(&p, plan);
    if (!failed(r)) r = fail_in(plan_check(&p, &plain->model.config), "%s", plan);
    if (!failed(r) && p.known_token) {
        int32_t *tokens = arena_new(&mine->arena, int32_t, p.known);
        memcpy(tokens, p.known_token, p.known * sizeof *tokens);
        mine->known = p.known, plain->known_tokens = tokens;
    }
    plan_free(&p);
    return r;
}

Result frozen_count(uint32_t *out, double frozen, uint32_t layers)
{
    double count = frozen < 1 ? floor(frozen * layers + 0.5) : frozen;
    if (count != floor(count) || count >= layers)
        return fail(FAIL_USE, "--frozen must be a fraction below 1 or a number of layers below %u, not %g", layers, frozen);
    *out = (uint32_t)count;
    return OK;
}

Result template_load(const char **out, const char *const *folders, size_t count, Arena *a)
{
    *out = "{}";
    for (size_t i = 0; i < count; i++) {
        if (!folders[i]) continue;
        const char *path = arena_format(a, "%s/marill.json", folders[i]), *text, *hole;
        if (!file_exists(path)) continue;
        Json *root;
        GUARD(json_read(&root, path, MARILL_LIMIT));
        Result r = json_get_text_or(&text, root, "template", "{}");
        if (!failed(r)) {
            hole = strstr(text, "{}");
            if (!hole || strstr(hole + 1, "{}")) r = fail(FAIL_DATA, "template must have one {}, where the text goes");
            else *out = arena_string(a, text);
        }
        json_free(root);
        return fail_in(r, "%s", path);
    }
    return OK;
}

const char *template_fill(const char *form, const char *text, size_t len, size_t *out_len, Arena *a)
{
    const char *hole = strstr(form, "{}");
    size_t before = (size_t)(hole - form), after = strlen(hole + 2);
    char *made = arena_alloc(a, before + len + after + 1, 1);
    memcpy(made, form, before);
    memcpy(made + before, text, len);
    memcpy(made + before + len, hole + 2, after);
    *out_len = before + len + after;
    return made;
}

// ---- the plan to run with --------------------------------------------------------------------------------------------

void wish_read(PlanWish *w, const Option *options, double frozen, unsigned private_part, unsigned prefer)
{
    w->frozen = option_given(options, "--frozen") ? frozen : -1;
    w->private_part = option_given(options, "--private") ? (int)private_part : -1;
    w->prefer = option_given(options, "--prefer") ? (int)prefer : -1;
}

static bool plan_suits(const Plan *p, const PlanWish *w, uint32_t frozen)
{
    return (w->frozen < 0 || p->frozen == frozen) && (w->private_part < 0 || p->private_part == (Private)w->private_part)
           && (w->prefer < 0 || p->prefer == (Prefer)w->prefer);
}

/* `marill calibrate` in a process of its own: this one may be a client, which does not look at private weights. */
static Result plan_spawn(const PlanWish *w, const char *path, uint32_t frozen, Private private, Prefer prefer, uint32_t context)
{
    char text[512], number[2][16];
    const char *folder;
    GUARD(scratch_folder(&folder));
    snprintf(text, sizeof text, "%s/calibration.txt", folder);
    GUARD(file_write(text, calibration_text, strlen(calibration_text), 0600));
    snprintf(number[0], 16, "%u", frozen);
    snprintf(number[1], 16, "%u", context);
    const char *argv[32] = {"marill", "calibrate", "--model", w->model, "--text", text, "--out", path, "--frozen", number[0], "--context",
                            number[1], "--private", private_names[private], "--prefer", prefer_names[prefer]};
    size_t at = 16;
    if (w->adapter) argv[at++] = "--adapter", argv[at++] = w->adapter;
    Child c;
    GUARD(child_start(&c, "calibration", argv));
    Result r = child_end(&c, 3600);
    if (!failed(r) && !file_exists(path)) r = fail(FAIL_SYSTEM, "the calibration made no plan");
    return r;
}

static uint32_t context_wanted(const ModelConfig *c, size_t positions)
{
    size_t context = 512;
    while (context < positions) context *= 2;
    return context < c->context ? (uint32_t)context : c->context;
}

static Result plan_make_temporary(const char **out, const PlanWish *w, const ModelConfig *c, const Plan *own, uint32_t frozen)
{
    static char path[512];
    const char *folder;
    GUARD(scratch_folder(&folder));
    snprintf(path, sizeof path, "%s/marill-plan.json", folder);
    Private private = own ? own->private_part : w->adapter ? PRIVATE_LORA : PRIVATE_LAYERS;
    Prefer prefer = own ? own->prefer : PREFER_EXCHANGES;
    if (w->private_part >= 0) private = (Private)w->private_part;
    if (w->prefer >= 0) prefer = (Prefer)w->prefer;
    if (own && own->known_token)
        return fail(FAIL_USE, "the folder's plan has a known prefix, and is made for other values of --frozen, --private or --prefer:"
                              " make one with 'marill calibrate', and name it with --plan");
    uint32_t context = own ? own->context : context_wanted(c, w->positions);
    if (own) fprintf(stderr, "marill: the folder's plan is another: calibrating on a small built-in text\n");
    else fprintf(stderr, "marill: %s has no plan: calibrating on a small built-in text\n", w->adapter ? w->adapter : w->model);
    GUARD(plan_spawn(w, path, frozen, private, prefer, context));
    *out = path;
    return OK;
}

/* Without a wish: the first layer with factors, under an adapter; without one, the first that a variant concerns, or no layer. */
static Result frozen_default(uint32_t *out, const PlanWish *w, const ModelConfig *c)
{
    Arena arena;
    Adapter a = {0};
    Variant v = {0};
    arena_init(&arena, false);
    Result r = w->adapter ? adapter_load(&a, w->adapter, c) : variant_find(&v, w->model, NULL, c, 0, &arena);
    *out = w->adapter ? a.first : variant_changes(&v) ? v.first : 0;
    if (w->adapter) adapter_free(&a);
    arena_free(&arena);
    return r;
}

Result plan_settle(const char **out, const PlanWish *w)
{
    static char path[4096];
    ModelConfig c;
    uint32_t frozen = 0;
    GUARD(config_read(&c, w->model));
    if (w->frozen >= 0) GUARD(frozen_count(&frozen, w->frozen, c.layers));
    if (w->plan) snprintf(path, sizeof path, "%s", w->plan);
    else snprintf(path, sizeof path, "%s/marill-plan.json", w->adapter ? w->adapter : w->model);
    if (!w->plan && !file_exists(path)) {
        if (w->frozen < 0) GUARD(frozen_default(&frozen, w, &c));
        return plan_make_temporary(out, w, &c, NULL, frozen);
    }
    Plan own;
    Result r = plan_load(&own, path);
    if (!failed(r) && plan_suits(&own, w, frozen)) *out = path;
    else if (!failed(r) && w->plan) r = fail(FAIL_USE, "%s is made for other values of --frozen, --private or --prefer", path);
    else if (!failed(r)) r = plan_make_temporary(out, w, &c, &own, w->frozen < 0 ? own.frozen : frozen);
    plan_free(&own);
    return r;
}

// ---- marill calibrate ------------------------------------------------------------------------------------------------

const char calibrate_usage[] =
    "--model DIR [--adapter DIR] --text FILE [options]\n"
    "  --text FILE                  UTF-8 text like that which the model will see\n"
    "  --context N                  positions to plan for (the model's)\n"
    "  --frozen N                   layers that the client runs by itself; a fraction if below 1 (the first with factors)\n"
    "  --private layers|lora        what the provider keeps (lora with an adapter)\n"
    "  --prefer exchanges|bytes     (exchanges)\n"
    "  --cells N                    of the table of SiLU or GELU, a power of two from 8 (those of marill.json, or else 256; 512 where\n"
    "                               values beyond 64 were seen): fewer cost less, and are worse unless the model was tuned for them\n"
    "  --known-prefix TEXT          both parties know this text, which comes before every prompt: it costs nothing at the client\n"
    "  --known-prefix-file FILE     the same, from a file\n"
    "  Heads are merged as marill.json says: {\"variant\": {\"merge\": 4}}, or {\"variant\": {\"head_groups\": ..}}, lists of heads for\n"
    "  each secure layer (heads that are in none are pruned). Its \"activation\" may be relu or quad, its \"softmax\" 2quad or 2relu.\n"
    "  --out FILE                   (marill-plan.json of the adapter folder, or of the model folder)\n";

static Result text_tokens(int32_t **ids, size_t *count, const Tokenizer *t, const char *path, const char *builtin, Arena *a)
{
    Buffer text = {0};
    if (!path) return tokenizer_encode(t, builtin, strlen(builtin), ids, count, a);
    Result r = file_read(&text, path, TEXT_LIMIT);
    if (!failed(r)) r = fail_in(tokenizer_encode(t, (const char *)text.data, text.len, ids, count, a), "%s", path);
    buffer_free(&text);
    return r;
}

/* A plan from text (NULL: the built-in one), in memory. */
static Result plan_from_text(Plan *out, const Bundle *b, const PlanOptions *o, const char *text)
{
    Arena a;
    int32_t *ids;
    size_t count;
    arena_init(&a, false);
    *out = (Plan){0};
    Result r = text_tokens(&ids, &count, b->tokenizer, text, calibration_text, &a);
    if (!failed(r)) r = plan_make(out, &b->model, b->has_adapter ? &b->adapter : NULL, o, ids, count);
    arena_free(&a);
    return r;
}

typedef struct CalibrateArgs {
    const char *model, *adapter, *text, *prefix, *prefix_file, *out;
    uint64_t context, cells;
    double frozen;
    unsigned private, prefer;
    bool private_given, frozen_given;
} CalibrateArgs;

/* The known prefix, encoded by itself. */
static Result prefix_tokens(PlanOptions *o, const Bundle *b, const CalibrateArgs *k, Arena *a)
{
    int32_t *ids;
    size_t count;
    if (!k->prefix && !k->prefix_file) return OK;
    GUARD(text_tokens(&ids, &count, b->tokenizer, k->prefix_file, k->prefix, a));
    if (count == 0) return fail(FAIL_USE, "the known prefix is empty");
    if (count > b->model.config.context)
        return fail(FAIL_USE, "the known prefix has %zu tokens, the model room for %u", count, b->model.config.context);
    o->prefix = ids, o->prefix_len = (uint32_t)count;
    return OK;
}

static Result plan_options(PlanOptions *o, const Bundle *b, const CalibrateArgs *k, Arena *a)
{
    *o = (PlanOptions){.context = (uint32_t)k->context, .prefer = (Prefer)k->prefer, .private_part = PRIVATE_LAYERS};
    if (b->has_adapter) o->frozen = b->adapter.first, o->private_part = PRIVATE_LORA;
    else if (variant_changes(&b->variant)) o->frozen = b->variant.first;
    if (k->private_given) o->private_part = (Private)k->private;
    GUARD(prefix_tokens(o, b, k, a));
    if (o->private_part == PRIVATE_LORA && !b->has_adapter) return fail(FAIL_USE, "--private lora needs an --adapter");
    if (k->frozen_given) GUARD(frozen_count(&o->frozen, k->frozen, b->model.config.layers));
    o->variant = b->variant;
    if (variant_changes(&o->variant) && o->variant.first != o->frozen)
        return fail(FAIL_USE, "marill.json has a variant from layer %u on, and %u layers are frozen", o->variant.first, o->frozen);
    if (k->cells) o->variant.cells = (uint32_t)k->cells;
    return OK;
}

static Result calibrate_run(const CalibrateArgs *k)
{
    Bundle b;
    PlanOptions o;
    Plan plan = {0};
    Arena a;
    arena_init(&a, false);
    const char *out = k->out ? k->out : arena_format(&a, "%s/marill-plan.json", k->adapter ? k->adapter : k->model);
    Result r = bundle_load_plain(&b, k->model, k->adapter);
    if (!failed(r)) r = plan_options(&o, &b, k, &a);
    if (!failed(r)) r = plan_from_text(&plan, &b, &o, k->text);
    if (!failed(r)) r = plan_save(&plan, out);
    if (!failed(r)) printf("%s\n", out);
    plan_free(&plan);
    bundle_free(&b);
    arena_free(&a);
    return r;
}

Result calibrate_command(int argc, char **argv)
{
    CalibrateArgs k = {0};
    Option options[] = {
        OPTION("--model", OPT_TEXT, &k.model, .required = true),
        OPTION("--adapter", OPT_TEXT, &k.adapter),
        OPTION("--text", OPT_TEXT, &k.text, .required = true),
        OPTION("--context", OPT_UINT, &k.context, .min = 2, .max = 1 << 17),
        OPTION("--frozen", OPT_REAL, &k.frozen, .max = 1e6),
        OPTION("--private", OPT_CHOICE, &k.private, .choices = private_names),
        OPTION("--prefer", OPT_CHOICE, &k.prefer, .choices = prefer_names),
        OPTION("--cells", OPT_UINT, &k.cells, .max = 4096),
        OPTION("--known-prefix", OPT_TEXT, &k.prefix),
        OPTION("--known-prefix-file", OPT_TEXT, &k.prefix_file),
        OPTION("--out", OPT_TEXT, &k.out),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    if (k.prefix && k.prefix_file) return fail(FAIL_USE, "--known-prefix and --known-prefix-file say the same: give one");
    k.private_given = option_given(options, "--private"), k.frozen_given = option_given(options, "--frozen");
    threads_start(0);
    return calibrate_run(&k);
}
