/* recipe.c - reads a recipe: a YAML mapping whose fields are listed in one table.
 *
 * The document comes from a user's file, so every node is checked for its kind, every number for its range, and a failure
 * names the field and its line. Paths are relative to `data_root` if the field lies in it (sources), else to the recipe's
 * folder; an absolute path is taken as it is. */
#include "tune/recipe.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { RECIPE_LIMIT = 1 << 20, SOURCE_LIMIT = 64 };

typedef enum { FIELD_PATH, FIELD_TEXT, FIELD_COUNT, FIELD_REAL, FIELD_FLAG, FIELD_CHOICE } FieldKind;
typedef enum { IN_TRAIN = 1, IN_TUNE = 2, IN_BOTH = 3, REQUIRED = 4 } FieldUse;

typedef struct Field {
    const char *name;
    FieldKind kind;
    unsigned use;
    size_t at;                                 // offset in Recipe, ModelConfig or DataSource
    double least, most;                        // of a number
    const char *const *choice;                 // FIELD_CHOICE: names, NULL at the end; the value is the place in the list
} Field;

static const char *const methods[] = {"lora", "standard", NULL}, *const keeps[] = {"last", "best", NULL};
static const char *const precisions[] = {"f32", "bf16", NULL};
static const char *const factors[] = {"none", "a", "b", NULL}, *const norms[] = {"base", "constant", NULL};
static const char *const heads_by[] = {"default", "attention", "weights", "adjacent", "random", "importance", "output", NULL};
static const char *const activations[] = {"base", "relu", "quad", NULL}, *const softmaxes[] = {"exp", "2quad", "2relu", NULL};
static const char *const presets[] = {"paper", NULL};

#define AT(member) offsetof(Recipe, member)
static const Field recipe_fields[] = {
    {"out", FIELD_PATH, IN_BOTH | REQUIRED, AT(out), 0, 0, NULL},
    {"result", FIELD_PATH, IN_BOTH, AT(result), 0, 0, NULL},
    {"tokenizer", FIELD_PATH, IN_TRAIN, AT(tokenizer), 0, 0, NULL},
    {"init", FIELD_PATH, IN_TRAIN, AT(init), 0, 0, NULL},
    {"base", FIELD_PATH, IN_TUNE | REQUIRED, AT(base), 0, 0, NULL},
    {"base_name", FIELD_TEXT, IN_TUNE, AT(base_name), 0, 0, NULL},
    {"context", FIELD_COUNT, IN_BOTH | REQUIRED, AT(context), 2, 65536, NULL},
    {"batch_tokens", FIELD_COUNT, IN_BOTH | REQUIRED, AT(batch_tokens), 1, 1 << 24, NULL},
    {"steps", FIELD_COUNT, IN_BOTH, AT(steps), 1, 1e9, NULL},
    {"epochs", FIELD_REAL, IN_BOTH, AT(epochs), 1e-6, 1e6, NULL},
    {"learning_rate", FIELD_REAL, IN_BOTH | REQUIRED, AT(learning_rate), 1e-9, 10, NULL},
    {"min_ratio", FIELD_REAL, IN_BOTH, AT(min_ratio), 0, 1, NULL},
    {"warmup", FIELD_COUNT, IN_BOTH, AT(warmup), 0, 1e9, NULL},
    {"weight_decay", FIELD_REAL, IN_BOTH, AT(weight_decay), 0, 10, NULL},
    {"clip", FIELD_REAL, IN_BOTH, AT(clip), 0, 1e9, NULL},
    {"beta1", FIELD_REAL, IN_BOTH, AT(beta1), 0, 0.999999, NULL},
    {"beta2", FIELD_REAL, IN_BOTH, AT(beta2), 0, 0.999999, NULL},
    {"epsilon", FIELD_REAL, IN_BOTH, AT(epsilon), 1e-16, 1, NULL},
    {"init_std", FIELD_REAL, IN_TRAIN, AT(init_std), 1e-6, 10, NULL},
    {"vocab", FIELD_COUNT, IN_TRAIN, AT(vocab), 300, 1 << 20, NULL},
    {"seed", FIELD_COUNT, IN_BOTH, AT(seed), 0, 4294967295.0, NULL},
    {"threads", FIELD_COUNT, IN_BOTH, AT(threads), 0, 1024, NULL},
    {"log_every", FIELD_COUNT, IN_BOTH, AT(log_every), 1, 1e9, NULL},
    {"eval_every", FIELD_COUNT, IN_BOTH, AT(eval_every), 0, 1e9, NULL},
    {"eval_tokens", FIELD_COUNT, IN_BOTH, AT(eval_tokens), 1, 1e9, NULL},
    {"checkpoint_every", FIELD_COUNT, IN_BOTH, AT(checkpoint_every), 0, 1e9, NULL},
    {"dtype", FIELD_TEXT, IN_BOTH, AT(dtype), 0, 0, NULL},
    {"precision", FIELD_CHOICE, IN_BOTH, AT(precision), 0, 0, precisions},
    {"keep", FIELD_CHOICE, IN_BOTH, AT(keep), 0, 0, keeps},
    {"patience", FIELD_COUNT, IN_BOTH, AT(patience), 0, 1e9, NULL},
    {"method", FIELD_CHOICE, IN_TUNE, AT(method), 0, 0, methods},
    {"frozen", FIELD_REAL, IN_TUNE, AT(frozen), 0, 65536, NULL},
    {"cache", FIELD_FLAG, IN_TUNE, AT(cache), 0, 0, NULL},
    {"cache_mb", FIELD_COUNT, IN_TUNE, AT(cache_mb), 0, 1 << 20, NULL},
    {0}
};
static const Field lora_fields[] = {
    {"rank", FIELD_COUNT, IN_TUNE, AT(lora.rank), 1, 4096, NULL},
    {"alpha", FIELD_REAL, IN_TUNE, AT(lora.alpha), 1e-6, 1e6, NULL},
    {"dropout", FIELD_REAL, IN_TUNE, AT(lora.dropout), 0, 0.99, NULL},
    {"fixed", FIELD_CHOICE, IN_TUNE, AT(lora.fixed), 0, 0, factors},
    {0}
};
static const Field distill_fields[] = {
    {"teacher", FIELD_PATH, IN_TUNE, AT(distill.teacher), 0, 0, NULL},
    {"teacher_adapter", FIELD_PATH, IN_TUNE, AT(distill.teacher_adapter), 0, 0, NULL},
    {"hidden", FIELD_REAL, IN_TUNE, AT(distill.hidden), 0, 1e6, NULL},
    {"logits", FIELD_REAL, IN_TUNE, AT(distill.logits), 0, 1e6, NULL},
    {"labels", FIELD_REAL, IN_TUNE, AT(distill.labels), 0, 1e6, NULL},
    {"temperature", FIELD_REAL, IN_TUNE, AT(distill.temperature), 0.01, 100, NULL},
    {"hidden_share", FIELD_REAL, IN_TUNE, AT(distill.hidden_share), 0, 1, NULL},
    {0}
};
static const Field heads_fields[] = {
    {"merge", FIELD_COUNT, IN_TUNE, AT(form.merge), 1, 1024, NULL},
    {"prune", FIELD_COUNT, IN_TUNE, AT(form.prune), 1, 1024, NULL},
    {"by", FIELD_CHOICE, IN_TUNE, AT(form.by), 0, 0, heads_by},
    {"scale", FIELD_REAL, IN_TUNE, AT(form.scale), 1e-3, 1e3, NULL},
    {0}
};
static const Field approximate_fields[] = {
    {"activation", FIELD_CHOICE, IN_TUNE, AT(form.activation), 0, 0, activations},
    {"softmax", FIELD_CHOICE, IN_TUNE, AT(form.softmax), 0, 0, softmaxes},
    {0}
};
static const Field upper_fields[] = {
    {"side_by_side", FIELD_FLAG, IN_TUNE, AT(form.side_by_side), 0, 0, NULL},
    {"norm", FIELD_CHOICE, IN_TUNE, AT(form.norm), 0, 0, norms},
    {"anneal", FIELD_REAL, IN_TUNE, AT(form.anneal), 0, 1, NULL},
    {"row_bound", FIELD_REAL, IN_TUNE, AT(form.row_bound), 0, 100, NULL},
    {"row_bound_weight", FIELD_REAL, IN_TUNE, AT(form.row_bound_weight), 0, 1e6, NULL},
    {0}
};
static const Field secure_fields[] = {
    {"tables", FIELD_FLAG, IN_TUNE, AT(secure.tables), 0, 0, NULL},
    {"rounding", FIELD_FLAG, IN_TUNE, AT(secure.rounding), 0, 0, NULL},
    {"cells", FIELD_COUNT, IN_TUNE, AT(secure.cells), 8, 4096, NULL},
    {"silu_range", FIELD_REAL, IN_TUNE, AT(secure.silu_range), 2, 4096, NULL},
    {"range_weight", FIELD_REAL, IN_TUNE, AT(secure.range_weight), 0, 1e6, NULL},
    {0}
};
#undef AT
#define AT(member) offsetof(DataSource, member)
static const Field source_fields[] = {
    {"kind", FIELD_TEXT, IN_BOTH | REQUIRED, AT(kind), 0, 0, NULL},
    {"path", FIELD_PATH, IN_BOTH | REQUIRED, AT(path), 0, 0, NULL},
    {"prompt", FIELD_TEXT, IN_BOTH, AT(prompt), 0, 0, NULL},
    {"completion", FIELD_TEXT, IN_BOTH, AT(completion), 0, 0, NULL},
    {"weight", FIELD_REAL, IN_BOTH, AT(weight), 0, 1000, NULL},
    {"noise", FIELD_REAL, IN_BOTH, AT(noise), 0, 1, NULL},
    {"part", FIELD_TEXT, IN_BOTH, AT(part), 0, 0, NULL},
    {"template", FIELD_TEXT, IN_BOTH, AT(template), 0, 0, NULL},
    {"held_out", FIELD_PATH, IN_BOTH, AT(held_out), 0, 0, NULL},
    {0}
};
#undef AT
#define AT(member) offsetof(ModelConfig, member)
static const Field shape_fields[] = {
    {"width", FIELD_COUNT, IN_TRAIN | REQUIRED, AT(width), 2, 65536, NULL},
    {"layers", FIELD_COUNT, IN_TRAIN | REQUIRED, AT(layers), 1, 1024, NULL},
    {"heads", FIELD_COUNT, IN_TRAIN | REQUIRED, AT(heads), 1, 1024, NULL},
    {"kv_heads", FIELD_COUNT, IN_TRAIN, AT(kv_heads), 1, 1024, NULL},
    {"head_dim", FIELD_COUNT, IN_TRAIN, AT(head_dim), 2, 1024, NULL},
    {"ffn", FIELD_COUNT, IN_TRAIN | REQUIRED, AT(ffn), 1, 262144, NULL},
    {"norm_eps", FIELD_REAL, IN_TRAIN, AT(norm_eps), 1e-12, 1, NULL},
    {"rope_theta", FIELD_REAL, IN_TRAIN, AT(rope_theta), 1, 1e9, NULL},
    {0}
};
#undef AT

typedef struct Reader {
    Recipe *recipe;
    yaml_document_t *document;
    const char *folder, *data_root;            // the recipe's folder; where the sources' paths begin
    unsigned use;                              // IN_TRAIN or IN_TUNE
} Reader;

static size_t line_of(const yaml_node_t *node)
{
    return node->start_mark.line + 1;
}

static const char *text_of(const yaml_node_t *node)    // NULL: not a scalar, or a NUL inside
{
    if (!node || node->type != YAML_SCALAR_NODE) return NULL;
    const char *text = (const char *)node->data.scalar.value;
    return strlen(text) == node->data.scalar.length ? text : NULL;
}

static const char *path_join(Arena *a, const char *folder, const char *path)
{
    return path[0] == '/' ? arena_string(a, path) : arena_format(a, "%s/%s", folder, path);
}

// ---- one field -------------------------------------------------------------------------------------------------------

static Result number_read(double *out, const Field *f, const yaml_node_t *node, const char *text)
{
    char *end = NULL;
    double v = strtod(text, &end);
    bool whole = f->kind == FIELD_COUNT;
    if (end == text || *end || !isfinite(v) || (whole && v != floor(v)))
        return fail(FAIL_DATA, "line %zu: %s must be a %snumber, not '%s'", line_of(node), f->name, whole ? "whole " : "", text);
    if (v < f->least || v > f->most)
        return fail(FAIL_DATA, "line %zu: %s must lie between %g and %g, not '%s'", line_of(node), f->name, f->least, f->most, text);
    *out = v;
    return OK;
}

static Result choice_read(uint32_t *out, const Field *f, const yaml_node_t *node, const char *text)
{
    char list[128] = "";
    for (uint32_t i = 0; f->choice[i]; i++) {
        size_t at = strlen(list);
        if (strcmp(f->choice[i], text) == 0) {
            *out = i;
            return OK;
        }
        snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", f->choice[i]);
    }
    return fail(FAIL_DATA, "line %zu: %s must be one of %s, not '%s'", line_of(node), f->name, list, text);
}

/* narrow: the real is a float, as those of ModelConfig are, and not a double. */
static Result field_read(const Reader *r, void *object, const Field *f, const yaml_node_t *node, const char *folder, bool narrow)
{
    const char *text = text_of(node);
    Arena *a = &r->recipe->arena;
    void *to = (char *)object + f->at;
    if (!text) return fail(FAIL_DATA, "line %zu: %s must be a plain value", line_of(node), f->name);
    if (f->kind == FIELD_PATH || f->kind == FIELD_TEXT) {
        if (f->kind == FIELD_PATH && !*text) return fail(FAIL_DATA, "line %zu: %s is empty", line_of(node), f->name);
        *(const char **)to = f->kind == FIELD_PATH ? path_join(a, folder, text) : arena_string(a, text);
        return OK;
    }
    if (f->kind == FIELD_FLAG) {
        bool yes = !strcmp(text, "true");
        if (!yes && strcmp(text, "false")) return fail(FAIL_DATA, "line %zu: %s must be true or false, not '%s'", line_of(node), f->name, text);
        *(bool *)to = yes;
        return OK;
    }
    if (f->kind == FIELD_CHOICE) return choice_read(to, f, node, text);
    double v = 0;
    GUARD(number_read(&v, f, node, text));
    if (f->kind == FIELD_COUNT) *(uint32_t *)to = (uint32_t)v;
    else if (narrow) *(float *)to = (float)v;
    else *(double *)to = v;
    return OK;
}

static const Field *field_find(const Field *fields, const char *name, unsigned use)
{
    for (const Field *f = fields; f->name; f++)
        if (!strcmp(f->name, name) && f->use & use) return f;
    return NULL;
}

/* Takes the keys whose values are no plain ones. */
typedef Result (*SpecialKey)(Reader *r, const char *key, const yaml_node_t *value, bool *taken);

static bool key_seen(const Reader *r, const yaml_node_t *node, const yaml_node_pair_t *until, const char *name)
{
    for (const yaml_node_pair_t *p = node->data.mapping.pairs.start; p < until; p++)
        if (!strcmp(text_of(yaml_document_get_node(r->document, p->key)), name)) return true;      // all of these were words
    return false;
}

/* Reads every key of a mapping into `object`, and checks that the required ones are there. special may be NULL. */
static Result mapping_read(Reader *r, void *object, const Field *fields, const yaml_node_t *node, const char *what, const char *folder,
                           SpecialKey special)
{
    if (node->type != YAML_MAPPING_NODE) return fail(FAIL_DATA, "line %zu: %s must be a mapping of fields", line_of(node), what);
    uint64_t seen = 0;
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(r->document, p->key), *value = yaml_document_get_node(r->document, p->value);
        const char *name = text_of(key);
        if (!name || !value) return fail(FAIL_DATA, "line %zu: a key of %s is not a plain word", key ? line_of(key) : line_of(node), what);
        if (key_seen(r, node, p, name)) return fail(FAIL_DATA, "line %zu: field '%s' is there twice", line_of(key), name);
        bool taken = false;
        if (special) GUARD(special(r, name, value, &taken));
        if (taken) continue;
        const Field *f = field_find(fields, name, r->use);
        if (!f) return fail(FAIL_DATA, "line %zu: unknown field '%s' in %s", line_of(key), name, what);
        seen |= UINT64_C(1) << (f - fields);
        GUARD(field_read(r, object, f, value, folder, fields == shape_fields));
    }
    for (const Field *f = fields; f->name; f++)
        if (f->use & REQUIRED && f->use & r->use && !(seen >> (f - fields) & 1))
            return fail(FAIL_DATA, "line %zu: %s lacks the field '%s'", line_of(node), what, f->name);
    return OK;
}

// ---- the parts that are no plain value -------------------------------------------------------------------------------

static Result sources_read(Reader *r, const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE) return fail(FAIL_DATA, "line %zu: sources must be a list", line_of(node));
    size_t count = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
    if (!count || count > SOURCE_LIMIT)
        return fail(FAIL_DATA, "line %zu: sources must be 1 to %d, not %zu", line_of(node), SOURCE_LIMIT, count);
    Recipe *o = r->recipe;
    o->sources = arena_new(&o->arena, DataSource, count);
    o->source_count = count;
    for (size_t i = 0; i < count; i++) {
        DataSource *s = &o->sources[i];
        const yaml_node_t *item = yaml_document_get_node(r->document, node->data.sequence.items.start[i]);
        if (!item) return fail(FAIL_DATA, "line %zu: source %zu is empty", line_of(node), i + 1);
        s->weight = 1;
        GUARD(mapping_read(r, s, source_fields, item, "a source", r->data_root, NULL));
        Result checked = data_check(s);
        if (failed(checked)) return fail_in(checked, "line %zu", line_of(item));
    }
    return OK;
}

static Result targets_read(Reader *r, const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE) return fail(FAIL_DATA, "line %zu: targets must be a list of matrices", line_of(node));
    memset(r->recipe->lora.target, 0, sizeof r->recipe->lora.target);
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const char *text = text_of(yaml_document_get_node(r->document, *i));
        bool known = false;
        for (MatrixKind m = 0; text && m < MAT_COUNT; m++) {
            const char *dot = strchr(matrix_names[m], '.');
            if (strcmp(dot ? dot + 1 : matrix_names[m], text)) continue;
            r->recipe->lora.target[m] = known = true;
        }
        if (!known) return fail(FAIL_DATA, "line %zu: targets: no matrix is called '%s'", line_of(node), text ? text : "(not a word)");
    }
    return OK;
}

static Result share_read(Reader *r, const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE) return fail(FAIL_DATA, "line %zu: share must be a list of qkv and gate_up", line_of(node));
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const char *text = text_of(yaml_document_get_node(r->document, *i));
        if (text && !strcmp(text, "qkv")) r->recipe->lora.share_qkv = true;
        else if (text && !strcmp(text, "gate_up")) r->recipe->lora.share_gate_up = true;
        else return fail(FAIL_DATA, "line %zu: share must be a list of qkv and gate_up, not '%s'", line_of(node), text ? text : "(not a word)");
    }
    return OK;
}

static Result lora_special(Reader *r, const char *key, const yaml_node_t *value, bool *taken)
{
    *taken = true;
    if (!strcmp(key, "targets")) return targets_read(r, value);
    if (!strcmp(key, "share")) return share_read(r, value);
    *taken = false;
    return OK;
}

static const struct { const char *name; const Field *fields; SpecialKey special; } sections[] = {
    {"lora", lora_fields, lora_special}, {"distill", distill_fields, NULL}, {"heads", heads_fields, NULL},
    {"approximate", approximate_fields, NULL}, {"upper", upper_fields, NULL}, {"secure", secure_fields, NULL},
};

static Result recipe_special(Reader *r, const char *key, const yaml_node_t *value, bool *taken)
{
    *taken = true;
    if (!strcmp(key, "data_root")) return OK;              // read before all others
    if (!strcmp(key, "sources")) return sources_read(r, value);
    if (!strcmp(key, "shape") && r->use == IN_TRAIN)
        return mapping_read(r, &r->recipe->shape, shape_fields, value, "shape", r->folder, NULL);
    if (!strcmp(key, "preset") && r->use == IN_TUNE) return OK;
    for (size_t i = 0; r->use == IN_TUNE && i < sizeof sections / sizeof *sections; i++)
        if (!strcmp(key, sections[i].name)) {
            r->recipe->distill.named |= sections[i].fields == distill_fields;
            return mapping_read(r, r->recipe, sections[i].fields, value, key, r->folder, sections[i].special);
        }
    *taken = false;
    return OK;
}

/* The paper's recipe: half of the layers frozen, LoRA, heads merged by 4, distilled. */
static Result preset_read(Reader *r, const yaml_node_t *value)
{
    static const Field field = {"preset", FIELD_CHOICE, IN_TUNE, 0, 0, 0, presets};
    uint32_t which;
    const char *text = text_of(value);
    if (!text) return fail(FAIL_DATA, "line %zu: preset must be a plain value", line_of(value));
    GUARD(choice_read(&which, &field, value, text));
    Recipe *o = r->recipe;
    o->preset = presets[which];
    o->method = METHOD_LORA, o->frozen = 0.5, o->lora.rank = 64;
    o->form.merge = 4;
    return OK;
}

/* What other fields build on or override. */
static Result first_keys_read(Reader *r, const yaml_node_t *root)
{
    r->data_root = r->folder;
    if (root->type != YAML_MAPPING_NODE) return OK;        // refused by whoever reads it next
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        const char *key = text_of(yaml_document_get_node(r->document, p->key));
        const yaml_node_t *value = yaml_document_get_node(r->document, p->value);
        if (key && value && r->use == IN_TUNE && !strcmp(key, "preset")) GUARD(preset_read(r, value));
        if (!key || strcmp(key, "data_root")) continue;
        const char *text = text_of(value);
        if (!text || !*text) return fail(FAIL_DATA, "line %zu: data_root must be a path", line_of(value ? value : root));
        r->data_root = path_join(&r->recipe->arena, r->folder, text);
    }
    return OK;
}

// ---- what fields must say together -----------------------------------------------------------------------------------

static Result shape_check(Recipe *o)
{
    ModelConfig *c = &o->shape;
    if (!c->kv_heads) c->kv_heads = c->heads;
    if (!c->head_dim) c->head_dim = c->width / c->heads;
    if (c->heads % c->kv_heads) return fail(FAIL_DATA, "shape: heads (%u) is no multiple of kv_heads (%u)", c->heads, c->kv_heads);
    if (!c->head_dim || c->head_dim % 2) return fail(FAIL_DATA, "shape: head_dim (%u) is not even", c->head_dim);
    if (o->init_std <= 0) o->init_std = 0.8 / sqrt((double)c->width);
    c->context = o->context;
    c->rope = (RopeScaling){.factor = 1};
    c->tied = true;
    return OK;
}

static Result distill_check(const DistillRecipe *d, const char *preset)
{
    if (!d->teacher && preset) return fail(FAIL_DATA, "preset %s is distilled: the recipe lacks 'distill: {teacher: FOLDER}'", preset);
    if (!d->teacher && d->named) return fail(FAIL_DATA, "distill lacks the field 'teacher'");
    if (d->teacher && d->hidden + d->logits + d->labels <= 0) return fail(FAIL_DATA, "distill: hidden, logits and labels are all 0");
    if (d->teacher && d->hidden_share > 0 && d->hidden_share < 1 && d->logits + d->labels <= 0)
        return fail(FAIL_DATA, "distill: after hidden_share of the steps nothing is left to learn: logits and labels are 0");
    return OK;
}

static Result tune_check(Recipe *o)
{
    LoraRecipe *l = &o->lora;
    bool any = false;
    for (MatrixKind m = 0; m < MAT_COUNT; m++) any |= l->target[m];
    if (!any) return fail(FAIL_DATA, "targets names no matrix");
    if (o->method == METHOD_LORA && !l->rank) return fail(FAIL_DATA, "the recipe lacks 'lora: {rank: N}'");
    if (o->method == METHOD_STANDARD && l->rank && !o->preset) return fail(FAIL_DATA, "method standard has no factors: leave out 'lora'");
    if (l->alpha <= 0) l->alpha = 2.0 * l->rank;
    const FormRecipe *f = &o->form;
    if (f->merge > 1 && f->prune > 1) return fail(FAIL_DATA, "heads are either merged or pruned");
    bool ranks = f->by == HEADS_BY_IMPORTANCE || f->by == HEADS_BY_OUTPUT;
    if ((f->merge > 1 && ranks) || (f->prune > 1 && !ranks && f->by != HEADS_BY_DEFAULT))
        return fail(FAIL_DATA, "heads are merged by attention, weights, adjacent or random, and pruned by importance or output");
    const SecureRecipe *s = &o->secure;
    if (s->cells & (s->cells - 1)) return fail(FAIL_DATA, "secure: cells (%u) is not a power of two", s->cells);
    if (s->silu_range > 0 && !s->tables) return fail(FAIL_DATA, "secure: silu_range is of 'tables: true'");
    if (s->tables && (f->activation || f->softmax)) return fail(FAIL_DATA, "secure: tables are of what 'approximate' replaces");
    GUARD(distill_check(&o->distill, o->preset));
    o->tokenizer = arena_format(&o->arena, "%s/tokenizer.model", o->base);
    if (!o->base_name) o->base_name = o->base;
    return OK;
}

static Result recipe_check(Recipe *o, RecipeKind kind)
{
    if (!o->source_count) return fail(FAIL_DATA, "the recipe lacks the field 'sources'");
    if (!o->steps == !(o->epochs > 0)) return fail(FAIL_DATA, "the recipe must have either 'steps' or 'epochs'");
    if (o->steps && o->warmup > o->steps) return fail(FAIL_DATA, "warmup (%u) is more than steps (%u)", o->warmup, o->steps);
    if (strcmp(o->dtype, "F32") && strcmp(o->dtype, "BF16")) return fail(FAIL_DATA, "dtype must be F32 or BF16, not '%s'", o->dtype);
    if (o->patience && !o->eval_every) return fail(FAIL_DATA, "patience counts evaluations, and eval_every is 0");
    bool model = kind == RECIPE_TRAIN || o->method == METHOD_STANDARD;
    if (!o->result) o->result = arena_format(&o->arena, "%s/%s", o->out, model ? "model" : "adapter");
    if (kind == RECIPE_TUNE) return tune_check(o);
    if (!o->init == !o->shape.width) return fail(FAIL_DATA, "the recipe must have either 'shape' or 'init'");
    if (o->vocab && (o->tokenizer || o->init)) return fail(FAIL_DATA, "'vocab' asks for a new tokenizer, 'tokenizer' and 'init' name one that is there");
    if (!o->tokenizer && !o->init && !o->vocab) return fail(FAIL_DATA, "the recipe lacks the field 'tokenizer', or 'vocab' for a new one");
    if (o->vocab) o->tokenizer = arena_format(&o->arena, "%s/tokenizer.model", o->out);
    if (!o->tokenizer) o->tokenizer = arena_format(&o->arena, "%s/tokenizer.model", o->init);
    return o->init ? OK : shape_check(o);
}

// ---- the file --------------------------------------------------------------------------------------------------------

static void recipe_defaults(Recipe *o, RecipeKind kind)
{
    *o = (Recipe){.log_every = 20, .eval_every = 200, .eval_tokens = 32768, .checkpoint_every = 500, .seed = 1,
                  .min_ratio = 0.1, .weight_decay = 0.1, .clip = 1, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8,
                  .dtype = "F32", .frozen = 0.5, .cache = true, .cache_mb = 1024,
                  .distill = {.hidden = 1, .logits = 1, .labels = 0, .temperature = 2, .hidden_share = 0.5},
                  .form = {.anneal = 0.5, .row_bound_weight = 0.01},
                  .secure = {.range_weight = 0.01}};
    o->shape.norm_eps = 1e-5f, o->shape.rope_theta = 10000;
    for (MatrixKind m = 0; m < MAT_COUNT; m++) o->lora.target[m] = true;
    o->keep = kind == RECIPE_TUNE ? KEEP_BEST : KEEP_LAST;
    arena_init(&o->arena, false);
}

static Result document_read(Recipe *out, const Buffer *text, const char *path, RecipeKind kind)
{
    yaml_parser_t parser;
    yaml_document_t document;
    if (!yaml_parser_initialize(&parser)) bug("yaml_parser_initialize: out of memory");
    yaml_parser_set_input_string(&parser, text->data, text->len);
    if (!yaml_parser_load(&parser, &document)) {
        Result r = fail(FAIL_DATA, "line %zu: %s", parser.problem_mark.line + 1, parser.problem ? parser.problem : "not YAML");
        yaml_parser_delete(&parser);
        return r;
    }
    const char *slash = strrchr(path, '/');
    Reader r = {.recipe = out, .document = &document, .use = kind == RECIPE_TRAIN ? IN_TRAIN : IN_TUNE,
                .folder = slash == path ? "/" : slash ? arena_format(&out->arena, "%.*s", (int)(slash - path), path) : "."};
    const yaml_node_t *root = yaml_document_get_root_node(&document);
    Result result = root ? first_keys_read(&r, root) : fail(FAIL_DATA, "the recipe is empty");
    if (!failed(result)) result = mapping_read(&r, out, recipe_fields, root, "the recipe", r.folder, recipe_special);
    if (!failed(result)) result = recipe_check(out, kind);
    yaml_document_delete(&document);
    yaml_parser_delete(&parser);
    return result;
}

Result recipe_read(Recipe *out, const char *path, RecipeKind kind)
{
    recipe_defaults(out, kind);
    GUARD(file_read(&out->text, path, RECIPE_LIMIT));
    Result r = document_read(out, &out->text, path, kind);
    return failed(r) ? fail_in(r, "%s", path) : OK;
}

void recipe_free(Recipe *r)
{
    buffer_free(&r->text);
    arena_free(&r->arena);
}
