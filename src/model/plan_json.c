/* plan_json.c - the plan as JSON: every field by name, none left out, none unknown.
 *
 * The fields stand in tables, which reading and writing walk in the same way, so what is written is what is read. The
 * order of members and the digits of reals are fixed: the text is canonical, and the plan's hash is over it. */
#include <stddef.h>
#include <string.h>
#include "model/variant.h"
#include "model/secure_parts.h"

typedef enum { F_UINT, F_INT, F_REAL, F_BOOL, F_WIDTH, F_LOOKUP, F_NORM, F_RANGE, F_BITS, F_FLAGS, F_PAIR, F_HASH } FieldKind;
typedef struct Field { const char *name; FieldKind kind; size_t at; uint32_t most; } Field;

#define AT(type, member) offsetof(type, member)
#define END {NULL, F_UINT, 0, 0}

static const Field width_fields[] = {{"bits", F_UINT, AT(Width, n), 64}, {"fraction", F_UINT, AT(Width, f), 64}, END};

static const Field lookup_fields[] = {
    {"function", F_UINT, AT(LookupSpec, fn), FN_RECIPROCAL},
    {"index_bits", F_UINT, AT(LookupSpec, t), 40},
    {"cell_bits", F_UINT, AT(LookupSpec, k), 20},
    {"index_fraction", F_UINT, AT(LookupSpec, f), 64},
    {"value_fraction", F_UINT, AT(LookupSpec, f0), 64}, {"value_bits", F_UINT, AT(LookupSpec, m0), 64},
    {"slope_fraction", F_UINT, AT(LookupSpec, f1), 64},
    {"slope_bits", F_UINT, AT(LookupSpec, m1), 64},
    {"low_fraction", F_UINT, AT(LookupSpec, fp), 64},
    {"offset", F_REAL, AT(LookupSpec, offset), 0}, {"gain", F_REAL, AT(LookupSpec, gain), 0},
    {"floor", F_REAL, AT(LookupSpec, floor), 0}, {"ceiling", F_REAL, AT(LookupSpec, ceiling), 0},
    {"from_zero", F_BOOL, AT(LookupSpec, from_zero), 0}, {"never_positive", F_BOOL, AT(LookupSpec, never_positive), 0},
    {"border", F_UINT, AT(LookupSpec, border), 64}, END};

static const Field range_fields[] = {
    {"residual", F_INT, AT(LayerRange, residual), 40},
    {"normed", F_PAIR, AT(LayerRange, normed), 40},
    {"product", F_PAIR, AT(LayerRange, product), 40},
    {"low_rank", F_PAIR, AT(LayerRange, low_rank), 40},
    {"query", F_INT, AT(LayerRange, query), 40},
    {"key", F_INT, AT(LayerRange, key), 40},
    {"value", F_INT, AT(LayerRange, value), 40}, {"mixed", F_INT, AT(LayerRange, mixed), 40}, {"gate", F_INT, AT(LayerRange, gate), 40},
    {"up", F_INT, AT(LayerRange, up), 40},
    {"score", F_INT, AT(LayerRange, score), 40},
    {"weight", F_INT, AT(LayerRange, weight), 40},
    {"sum", F_INT, AT(LayerRange, sum), 40}, END};

static const Field norm_fields[] = {
    {"sum_bits", F_UINT, AT(NormPlan, sum), 64},
    {"rsqrt", F_LOOKUP, AT(NormPlan, rsqrt), 0},
    {"rsqrt_fine", F_LOOKUP, AT(NormPlan, rsqrt_fine), 0},
    {"low_rank", F_WIDTH, AT(NormPlan, low_rank), 0},
    {"product", F_WIDTH, AT(NormPlan, product), 0},
    {"inverse", F_WIDTH, AT(NormPlan, inverse), 0},
    {"normed", F_WIDTH, AT(NormPlan, normed), 0},
    {"low_rank_normed", F_WIDTH, AT(NormPlan, low_rank_normed), 0}, END};

static const Field layer_fields[] = {
    {"range", F_RANGE, AT(LayerPlan, range), 0}, {"weight_fraction", F_BITS, AT(LayerPlan, weight_f), 64},
    {"residual", F_WIDTH, AT(LayerPlan, residual), 0},
    {"attention_norm", F_NORM, AT(LayerPlan, attn), 0},
    {"ffn_norm", F_NORM, AT(LayerPlan, ffn), 0},
    {"rope_fraction", F_UINT, AT(LayerPlan, rope_f), 64},
    {"query", F_WIDTH, AT(LayerPlan, query), 0},
    {"key", F_WIDTH, AT(LayerPlan, key), 0},
    {"value", F_WIDTH, AT(LayerPlan, value), 0},
    {"row_slack", F_REAL, AT(LayerPlan, row_slack), 0},
    {"score_exp", F_LOOKUP, AT(LayerPlan, score_exp), 0},
    {"exp", F_WIDTH, AT(LayerPlan, exp), 0},
    {"mix", F_WIDTH, AT(LayerPlan, mix), 0},
    {"sum_coarse", F_LOOKUP, AT(LayerPlan, sum_coarse), 0},
    {"sum_fine", F_LOOKUP, AT(LayerPlan, sum_fine), 0},
    {"sum_inverse", F_WIDTH, AT(LayerPlan, sum_inverse), 0}, {"attention", F_WIDTH, AT(LayerPlan, attention), 0},
    {"attention_opened", F_BOOL, AT(LayerPlan, attention_opened), 0}, {"low_rank_out", F_WIDTH, AT(LayerPlan, low_rank_out), 0},
    {"low_rank_down", F_WIDTH, AT(LayerPlan, low_rank_down), 0},
    {"silu", F_LOOKUP, AT(LayerPlan, silu), 0},
    {"up", F_WIDTH, AT(LayerPlan, up), 0},
    {"hidden", F_WIDTH, AT(LayerPlan, hidden), 0},
    {"score", F_WIDTH, AT(LayerPlan, score), 0}, {"score_cell", F_UINT, AT(LayerPlan, score_cell), 64},
    {"weight_unit", F_INT, AT(LayerPlan, weight_unit), 40},
    {"gate", F_WIDTH, AT(LayerPlan, gate), 0}, {"gate_cell", F_UINT, AT(LayerPlan, gate_cell), 64},
    {"gated", F_WIDTH, AT(LayerPlan, gated), 0}, END};

static const Field plan_fields[] = {
    {"architecture", F_UINT, AT(Plan, arch), ARCH_GPT2},
    {"context", F_UINT, AT(Plan, context), UINT32_MAX},
    {"known", F_UINT, AT(Plan, known), UINT32_MAX},
    {"merge", F_UINT, AT(Plan, heads.size), 1024},
    {"activation", F_UINT, AT(Plan, activation), ACTIVATION_QUAD},
    {"softmax", F_UINT, AT(Plan, softmax), SOFTMAX_2RELU},
    {"score_scale", F_REAL, AT(Plan, score_scale), 0}, {"score_shift", F_REAL, AT(Plan, score_shift), 0},
    {"frozen", F_UINT, AT(Plan, frozen), UINT32_MAX},
    {"side_by_side", F_BOOL, AT(Plan, side_by_side), 0},
    {"adapted", F_FLAGS, AT(Plan, adapted), 0},
    {"rank", F_UINT, AT(Plan, rank), UINT32_MAX},
    {"prefer", F_UINT, AT(Plan, prefer), PREFER_BYTES},
    {"private", F_UINT, AT(Plan, private_part), PRIVATE_LAYERS}, {"private_fraction", F_UINT, AT(Plan, adapter_f), 64},
    {"query_bits", F_UINT, AT(Plan, query_bits), 8},
    {"weight_bits", F_UINT, AT(Plan, weight_bits), 16}, {"head_fraction", F_UINT, AT(Plan, head_f), 64},
    {"final_range", F_INT, AT(Plan, final_range), 40},
    {"logit_range", F_INT, AT(Plan, logit_range), 40},
    {"final_residual", F_WIDTH, AT(Plan, final_residual), 0},
    {"final_sum_bits", F_UINT, AT(Plan, final_sum), 64},
    {"final", F_WIDTH, AT(Plan, final), 0},
    {"logit", F_WIDTH, AT(Plan, logit), 0},
    {"logit_drop", F_UINT, AT(Plan, logit_drop), 64},
    {"final_norm", F_LOOKUP, AT(Plan, final_norm), 0},
    {"model_hash", F_HASH, AT(Plan, model_hash), 0}, END};

_Static_assert(sizeof(unsigned) == sizeof(uint32_t) && sizeof(Function) == sizeof(uint32_t) && sizeof(Arch) == sizeof(uint32_t)
               && sizeof(Prefer) == sizeof(uint32_t) && sizeof(Activation) == sizeof(uint32_t) && sizeof(Softmax) == sizeof(uint32_t),
               "F_UINT is 32 bits");

static const Field *fields_of(FieldKind k)
{
    switch (k) {
    case F_WIDTH: return width_fields;
    case F_LOOKUP: return lookup_fields;
    case F_NORM: return norm_fields;
    case F_RANGE: return range_fields;
    default: return NULL;
    }
}

// ---- writing ---------------------------------------------------------------------------------------------------------

static Json *struct_json(const Field *fields, const void *in);

static Json *list_json(const void *at, FieldKind kind)
{
    Json *a = json_new_array();
    size_t count = kind == F_PAIR ? 2 : MAT_COUNT;
    for (size_t i = 0; i < count; i++) {
        if (kind == F_PAIR) json_add(a, json_of_int(((const int *)at)[i]));
        else if (kind == F_BITS) json_add(a, json_of_uint(((const unsigned *)at)[i]));
        else json_add(a, json_of_bool(((const bool *)at)[i]));
    }
    return a;
}

static Json *field_json(const Field *f, const void *at)
{
    char hex[2 * HASH_BYTES + 1];
    switch (f->kind) {
    case F_UINT: return json_of_uint(*(const uint32_t *)at);
    case F_INT: return json_of_int(*(const int *)at);
    case F_REAL: return json_of_real(*(const double *)at);
    case F_BOOL: return json_of_bool(*(const bool *)at);
    case F_HASH: hex_encode(hex, at, HASH_BYTES); return json_of_text(hex);
    case F_BITS: case F_FLAGS: case F_PAIR: return list_json(at, f->kind);
    default: return struct_json(fields_of(f->kind), at);
    }
}

/* Left out of the text where they are zero, as in every plan of a model that does without them. */
static bool field_spare(const Field *f)
{
    static const char *const names[] = {"architecture", "merge", "score_scale", "query_bits", "rsqrt", "rsqrt_fine", "row_slack",
                                        "side_by_side", "activation", "softmax",
                                        "score_shift", "score_exp", "silu", "score", "score_cell", "weight", "weight_unit", "sum",
                                        "gate_cell", "gated"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], f->name)) return true;
    return f->kind == F_WIDTH && !strcmp(f->name, "gate");     // the range of that name is always there
}

static bool field_empty(const Field *f, const void *at)
{
    if (f->kind == F_REAL) return *(const double *)at == 0;
    if (f->kind == F_BOOL) return !*(const bool *)at;
    return f->kind == F_LOOKUP ? ((const LookupSpec *)at)->t == 0 : *(const uint32_t *)at == 0;
}

static Json *struct_json(const Field *fields, const void *in)
{
    Json *o = json_new_object();
    for (const Field *f = fields; f->name; f++) {
        const void *at = (const uint8_t *)in + f->at;
        if (!field_spare(f) || !field_empty(f, at)) json_put(o, f->name, field_json(f, at));
    }
    return o;
}

static const char format_name[] = "marill-plan-1";

void plan_json(const Plan *p, Buffer *out)
{
    Json *o = struct_json(plan_fields, p), *layers = json_new_array();
    json_put(o, "format", json_of_text(format_name));
    for (uint32_t l = 0; l < p->layers; l++) json_add(layers, struct_json(layer_fields, &p->layer[l]));
    json_put(o, "layers", layers);
    if (p->known_token) {
        Json *known = json_new_array();
        for (uint32_t i = 0; i < p->known; i++) json_add(known, json_of_int(p->known_token[i]));
        json_put(o, "known_tokens", known);
    }
    if (p->heads.order) json_put(o, "head_groups", head_groups_json(&p->heads, p->layers));
    if (p->norm) json_put(o, "norm", rows_json(p->norm, p->layers, HALVES));
    if (p->row_bound) json_put(o, "row_bound", rows_json(p->row_bound, p->layers, p->bound_heads));
    json_print(out, o, 1, 17);
    buffer_u8(out, '\n');
    json_free(o);
}

Result plan_save(const Plan *p, const char *path)
{
    Buffer text = {0};
    plan_json(p, &text);
    Result r = file_write(path, text.data, text.len, 0644);
    buffer_free(&text);
    return r;
}

// ---- reading ---------------------------------------------------------------------------------------------------------

static CHECKED Result struct_read(const Field *fields, void *out, const Json *o, size_t extra);

static CHECKED Result list_read(const Field *f, void *at, const Json *v)
{
    size_t count = f->kind == F_PAIR ? 2 : MAT_COUNT;
    if (json_kind(v) != KIND_ARRAY || json_count(v) != count) return fail(FAIL_DATA, "%s is not a list of %zu values", f->name, count);
    for (size_t i = 0; i < count; i++) {
        int64_t n = 0;
        if (f->kind == F_FLAGS) {
            GUARD(json_as_bool(&((bool *)at)[i], json_at(v, i), f->name));
            continue;
        }
        GUARD(json_as_int(&n, json_at(v, i), f->name, f->kind == F_PAIR ? -(int64_t)f->most : 0, f->most));
        if (f->kind == F_PAIR) ((int *)at)[i] = (int)n;
        else ((unsigned *)at)[i] = (unsigned)n;
    }
    return OK;
}

static CHECKED Result field_read(const Field *f, void *at, const Json *v)
{
    int64_t n = 0;
    const char *text;
    switch (f->kind) {
    case F_UINT:
        GUARD(json_as_int(&n, v, f->name, 0, f->most));
        *(uint32_t *)at = (uint32_t)n;
        return OK;
    case F_INT:
        GUARD(json_as_int(&n, v, f->name, -(int64_t)f->most, f->most));
        *(int *)at = (int)n;
        return OK;
    case F_REAL: return json_as_real(at, v, f->name, -0x1p60, 0x1p60);
    case F_BOOL: return json_as_bool(at, v, f->name);
    case F_HASH:
        GUARD(json_as_text(&text, v, f->name));
        return hex_decode(at, HASH_BYTES, text) ? OK : fail(FAIL_DATA, "%s is not %d hex digits", f->name, 2 * HASH_BYTES);
    case F_BITS: case F_FLAGS: case F_PAIR: return list_read(f, at, v);
    default: return struct_read(fields_of(f->kind), at, v, 0);
    }
}

static const Field *field_find(const Field *fields, const char *name)
{
    while (fields->name && strcmp(fields->name, name) != 0) fields++;
    return fields->name ? fields : NULL;
}

/* Members of a plan that stand in no table. */
static bool field_beside(const char *key)
{
    static const char *const names[] = {"format", "layers", "known_tokens", "head_groups", "norm", "row_bound"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], key)) return true;
    return false;
}

/* extra: members beside the table's that the caller reads. */
static CHECKED Result struct_read(const Field *fields, void *out, const Json *o, size_t extra)
{
    if (json_kind(o) != KIND_OBJECT) return fail(FAIL_DATA, "not an object");
    size_t count = 0;
    for (const Field *f = fields; f->name; f++) {
        const Json *v = json_find(o, f->name);
        if (!v && field_spare(f)) continue;
        Result r = field_read(f, (uint8_t *)out + f->at, v);
        if (failed(r)) return fields_of(f->kind) ? fail_in(r, "%s", f->name) : r;
        count++;
    }
    if (json_count(o) == count + extra) return OK;
    for (JsonEach e = {0}; json_each(o, &e);)
        if (!field_find(fields, e.key) && !(extra && field_beside(e.key))) {
            return fail(FAIL_DATA, "unknown field '%s'", e.key);
        }
    return fail(FAIL_DATA, "a field is missing");
}

static CHECKED Result known_read(Plan *out, const Json *list)
{
    if (json_kind(list) != KIND_ARRAY || json_count(list) != out->known) return fail(FAIL_DATA, "known_tokens is not a list of %u tokens", out->known);
    out->known_token = arena_new(&out->arena, int32_t, out->known);
    for (uint32_t i = 0; i < out->known; i++) {
        int64_t id;
        GUARD(json_as_int(&id, json_at(list, i), "known_tokens", 0, INT32_MAX));
        out->known_token[i] = (int32_t)id;
    }
    return OK;
}

static CHECKED Result plan_read(Plan *out, const Json *o)
{
    const char *format;
    const Json *layers;
    GUARD(json_get_text(&format, o, "format"));
    if (strcmp(format, format_name) != 0) return fail(FAIL_DATA, "format is '%s', not '%s'", format, format_name);
    const Json *known = json_find(o, "known_tokens"), *groups = json_find(o, "head_groups");
    const Json *norm = json_find(o, "norm"), *bounds = json_find(o, "row_bound");
    GUARD(struct_read(plan_fields, out, o, 2 + (size_t)(known != NULL) + (size_t)(groups != NULL) + (size_t)(norm != NULL) + (size_t)(bounds != NULL)));
    if (known) GUARD(known_read(out, known));
    GUARD(json_get_array(&layers, o, "layers", 1024));
    out->layers = (uint32_t)json_count(layers);
    GUARD(rows_read(&out->norm, o, "norm", out->layers, HALVES, &out->arena));
    if (bounds && json_kind(json_at(bounds, 0)) == KIND_ARRAY) out->bound_heads = (uint32_t)json_count(json_at(bounds, 0));
    GUARD(rows_read(&out->row_bound, o, "row_bound", out->layers, out->bound_heads, &out->arena));
    uint32_t size = out->heads.size;
    if (groups) GUARD(head_groups_read(&out->heads, groups, out->layers, &out->arena));
    if (groups && out->heads.size != size) return fail(FAIL_DATA, "head_groups: groups of %u heads, merged by %u", out->heads.size, size);
    out->layer = arena_new(&out->arena, LayerPlan, out->layers);
    for (uint32_t l = 0; l < out->layers; l++) {
        Result r = struct_read(layer_fields, &out->layer[l], json_at(layers, l), 0);
        if (failed(r)) return fail_in(r, "layer %u", out->frozen + l);
    }
    return OK;
}

Result plan_parse(Plan *out, const char *text, size_t len)
{
    *out = (Plan){0};
    arena_init(&out->arena, false);
    Json *root;
    Result r = json_parse(&root, text, len);
    if (!failed(r)) r = plan_read(out, root);
    json_free(root);
    return failed(r) ? fail_in(r, "plan") : OK;
}

Result plan_load(Plan *out, const char *path)
{
    *out = (Plan){0};
    Buffer text = {0};
    Result r = file_read(&text, path, 1 << 24);
    if (!failed(r)) {
        r = plan_parse(out, (const char *)text.data, text.len);
        if (failed(r)) r = fail_in(r, "%s", path);
    }
    buffer_free(&text);
    return r;
}
