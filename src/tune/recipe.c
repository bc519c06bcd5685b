/* recipe.c - reads a recipe: a YAML mapping whose fields are listed in one table.
 *
 * The document comes from a user's file, so every node is checked for its kind, every number for its range, and a failure
 * names the field and its line. Paths are relative to `data_root` if the field lies in it (sources), else to the recipe's
 * folder; an absolute path is taken as it is. */
#include "tune/recipe.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { RECIPE_LIMIT = 1 << 20, SOURCE_LIMIT = 64 };

typedef enum { FIELD_PATH, FIELD_TEXT, FIELD_COUNT, FIELD_REAL } FieldKind;
typedef enum { IN_TRAIN = 1, IN_TUNE = 2, IN_BOTH = 3, REQUIRED = 4 } FieldUse;

typedef struct Field {
    const char *name;
    FieldKind kind;
    unsigned use;
    size_t at;                                 // offset in Recipe, ModelConfig or DataSource
    double least, most;                        // of a number
} Field;

#define AT(member) offsetof(Recipe, member)
static const Field recipe_fields[] = {
    {"out", FIELD_PATH, IN_BOTH | REQUIRED, AT(out), 0, 0},
    {"result", FIELD_PATH, IN_BOTH, AT(result), 0, 0},
    {"tokenizer", FIELD_PATH, IN_TRAIN, AT(tokenizer), 0, 0},
    {"init", FIELD_PATH, IN_TRAIN, AT(init), 0, 0},
    {"base", FIELD_PATH, IN_TUNE | REQUIRED, AT(base), 0, 0},
    {"base_name", FIELD_TEXT, IN_TUNE, AT(base_name), 0, 0},
    {"context", FIELD_COUNT, IN_BOTH | REQUIRED, AT(context), 2, 65536},
    {"batch_tokens", FIELD_COUNT, IN_BOTH | REQUIRED, AT(batch_tokens), 1, 1 << 24},
    {"steps", FIELD_COUNT, IN_BOTH, AT(steps), 1, 1e9},
    {"epochs", FIELD_REAL, IN_BOTH, AT(epochs), 1e-6, 1e6},
    {"learning_rate", FIELD_REAL, IN_BOTH | REQUIRED, AT(learning_rate), 1e-9, 10},
    {"min_ratio", FIELD_REAL, IN_BOTH, AT(min_ratio), 0, 1},
    {"warmup", FIELD_COUNT, IN_BOTH, AT(warmup), 0, 1e9},
    {"weight_decay", FIELD_REAL, IN_BOTH, AT(weight_decay), 0, 10},
    {"clip", FIELD_REAL, IN_BOTH, AT(clip), 0, 1e9},
    {"beta1", FIELD_REAL, IN_BOTH, AT(beta1), 0, 0.999999},
    {"beta2", FIELD_REAL, IN_BOTH, AT(beta2), 0, 0.999999},
    {"epsilon", FIELD_REAL, IN_BOTH, AT(epsilon), 1e-16, 1},
    {"init_std", FIELD_REAL, IN_TRAIN, AT(init_std), 1e-6, 10},
    {"seed", FIELD_COUNT, IN_BOTH, AT(seed), 0, 4294967295.0},
    {"threads", FIELD_COUNT, IN_BOTH, AT(threads), 0, 1024},
    {"log_every", FIELD_COUNT, IN_BOTH, AT(log_every), 1, 1e9},
    {"eval_every", FIELD_COUNT, IN_BOTH, AT(eval_every), 0, 1e9},
    {"eval_tokens", FIELD_COUNT, IN_BOTH, AT(eval_tokens), 1, 1e9},
    {"checkpoint_every", FIELD_COUNT, IN_BOTH, AT(checkpoint_every), 0, 1e9},
    {"dtype", FIELD_TEXT, IN_TRAIN, AT(dtype), 0, 0},
    {"frozen", FIELD_REAL, IN_TUNE, AT(frozen), 0, 65536},
    {"rank", FIELD_COUNT, IN_TUNE | REQUIRED, AT(rank), 1, 4096},
    {"alpha", FIELD_REAL, IN_TUNE, AT(alpha), 1e-6, 1e6},
    {0}
};
#undef AT
#define AT(member) offsetof(DataSource, member)
static const Field source_fields[] = {
    {"kind", FIELD_TEXT, IN_BOTH | REQUIRED, AT(kind), 0, 0},
    {"path", FIELD_PATH, IN_BOTH | REQUIRED, AT(path), 0, 0},
    {"prompt", FIELD_TEXT, IN_BOTH, AT(prompt), 0, 0},
    {"completion", FIELD_TEXT, IN_BOTH, AT(completion), 0, 0},
    {"weight", FIELD_REAL, IN_BOTH, AT(weight), 0, 1000},
    {"noise", FIELD_REAL, IN_BOTH, AT(noise), 0, 1},
    {"held_out", FIELD_PATH, IN_BOTH, AT(held_out), 0, 0},
    {0}
};
#undef AT
#define AT(member) offsetof(ModelConfig, member)
static const Field shape_fields[] = {
    {"width", FIELD_COUNT, IN_TRAIN | REQUIRED, AT(width), 2, 65536},
    {"layers", FIELD_COUNT, IN_TRAIN | REQUIRED, AT(layers), 1, 1024},
    {"heads", FIELD_COUNT, IN_TRAIN | REQUIRED, AT(heads), 1, 1024},
    {"kv_heads", FIELD_COUNT, IN_TRAIN, AT(kv_heads), 1, 1024},
    {"head_dim", FIELD_COUNT, IN_TRAIN, AT(head_dim), 2, 1024},
    {"ffn", FIELD_COUNT, IN_TRAIN | REQUIRED, AT(ffn), 1, 262144},
    {"norm_eps", FIELD_REAL, IN_TRAIN, AT(norm_eps), 1e-12, 1},
    {"rope_theta", FIELD_REAL, IN_TRAIN, AT(rope_theta), 1, 1e9},
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
        bool taken = false;
        if (special) GUARD(special(r, name, value, &taken));
        if (taken) continue;
        const Field *f = field_find(fields, name, r->use);
        if (!f) return fail(FAIL_DATA, "line %zu: unknown field '%s' in %s", line_of(key), name, what);
        if (seen >> (f - fields) & 1) return fail(FAIL_DATA, "line %zu: field '%s' is there twice", line_of(key), name);
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
        if (strcmp(s->kind, "stories") && strcmp(s->kind, "lines") && strcmp(s->kind, "pairs"))
            return fail(FAIL_DATA, "line %zu: kind must be stories, lines or pairs, not '%s'", line_of(item), s->kind);
    }
    return OK;
}

static Result targets_read(Reader *r, const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE) return fail(FAIL_DATA, "line %zu: targets must be a list of matrices", line_of(node));
    memset(r->recipe->target, 0, sizeof r->recipe->target);
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const char *text = text_of(yaml_document_get_node(r->document, *i));
        bool known = false;
        for (MatrixKind m = 0; text && m < MAT_COUNT; m++) {
            const char *dot = strchr(matrix_names[m], '.');
            if (strcmp(dot ? dot + 1 : matrix_names[m], text)) continue;
            r->recipe->target[m] = known = true;
        }
        if (!known) return fail(FAIL_DATA, "line %zu: targets: no matrix is called '%s'", line_of(node), text ? text : "(not a word)");
    }
    return OK;
}

static Result recipe_special(Reader *r, const char *key, const yaml_node_t *value, bool *taken)
{
    *taken = true;
    if (!strcmp(key, "data_root")) return OK;              // read before all others
    if (!strcmp(key, "sources")) return sources_read(r, value);
    if (!strcmp(key, "shape") && r->use == IN_TRAIN)
        return mapping_read(r, &r->recipe->shape, shape_fields, value, "shape", r->folder, NULL);
    if (!strcmp(key, "targets") && r->use == IN_TUNE) return targets_read(r, value);
    *taken = false;
    return OK;
}

static Result data_root_read(Reader *r, const yaml_node_t *root)
{
    r->data_root = r->folder;
    if (root->type != YAML_MAPPING_NODE) return OK;        // refused by whoever reads it next
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        const char *key = text_of(yaml_document_get_node(r->document, p->key));
        const yaml_node_t *value = yaml_document_get_node(r->document, p->value);
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

static Result recipe_check(Recipe *o, RecipeKind kind)
{
    if (!o->source_count) return fail(FAIL_DATA, "the recipe lacks the field 'sources'");
    if (!o->steps == !(o->epochs > 0)) return fail(FAIL_DATA, "the recipe must have either 'steps' or 'epochs'");
    if (o->steps && o->warmup > o->steps) return fail(FAIL_DATA, "warmup (%u) is more than steps (%u)", o->warmup, o->steps);
    if (strcmp(o->dtype, "F32") && strcmp(o->dtype, "BF16")) return fail(FAIL_DATA, "dtype must be F32 or BF16, not '%s'", o->dtype);
    if (!o->result) o->result = arena_format(&o->arena, "%s/%s", o->out, kind == RECIPE_TRAIN ? "model" : "adapter");
    if (kind == RECIPE_TUNE) {
        bool any = false;
        for (MatrixKind m = 0; m < MAT_COUNT; m++) any |= o->target[m];
        if (!any) return fail(FAIL_DATA, "targets names no matrix");
        if (o->alpha <= 0) o->alpha = 2.0 * o->rank;
        o->tokenizer = arena_format(&o->arena, "%s/tokenizer.model", o->base);
        if (!o->base_name) o->base_name = o->base;
        return OK;
    }
    if (!o->init == !o->shape.width) return fail(FAIL_DATA, "the recipe must have either 'shape' or 'init'");
    if (!o->tokenizer && !o->init) return fail(FAIL_DATA, "the recipe lacks the field 'tokenizer'");
    if (!o->tokenizer) o->tokenizer = arena_format(&o->arena, "%s/tokenizer.model", o->init);
    return o->init ? OK : shape_check(o);
}

// ---- the file --------------------------------------------------------------------------------------------------------

static void recipe_defaults(Recipe *o)
{
    *o = (Recipe){.log_every = 20, .eval_every = 200, .eval_tokens = 32768, .checkpoint_every = 500, .seed = 1,
                  .min_ratio = 0.1, .weight_decay = 0.1, .clip = 1, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8,
                  .dtype = "F32", .frozen = 0.5};
    o->shape.norm_eps = 1e-5f, o->shape.rope_theta = 10000;
    for (MatrixKind m = 0; m < MAT_COUNT; m++) o->target[m] = true;
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
    Result result = root ? data_root_read(&r, root) : fail(FAIL_DATA, "the recipe is empty");
    if (!failed(result)) result = mapping_read(&r, out, recipe_fields, root, "the recipe", r.folder, recipe_special);
    if (!failed(result)) result = recipe_check(out, kind);
    yaml_document_delete(&document);
    yaml_parser_delete(&parser);
    return result;
}

Result recipe_read(Recipe *out, const char *path, RecipeKind kind)
{
    recipe_defaults(out);
    Buffer text = {0};
    GUARD(file_read(&text, path, RECIPE_LIMIT));
    Result r = document_read(out, &text, path, kind);
    buffer_free(&text);
    return failed(r) ? fail_in(r, "%s", path) : OK;
}

void recipe_free(Recipe *r)
{
    arena_free(&r->arena);
}
