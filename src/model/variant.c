/* variant.c - what tuning changed of the upper layers: as one layer has it, as JSON, and what makes it sound. */
#include "model/variant.h"

#include <math.h>
#include <string.h>

enum { MOST_HEADS = 1024, LEAST_CELLS = 8, MOST_CELLS = 4096, FILE_LIMIT = 1 << 22 };

static const char *const activation_names[] = {"base", "relu", "quad", NULL};
static const char *const softmax_names[] = {"exp", "2quad", "2relu", NULL};

bool variant_changes(const Variant *v)
{
    return v && (v->heads.size > 1 || v->heads.order || (v->score_scale != 0 && v->score_scale != 1) || v->activation || v->softmax ||
                 v->side_by_side || v->norm || v->row_bound || v->cells);
}

// ---- one layer -------------------------------------------------------------------------------------------------------

uint32_t group_head(const HeadGroups *g, uint32_t layer, uint32_t at)
{
    return g->order ? g->order[(size_t)layer * g->heads + at] : at;
}

LayerVariant variant_layer(const Variant *v, const ModelConfig *c, uint32_t layer)
{
    LayerVariant out = {.size = 1, .groups = c->kv_heads, .share = c->heads / c->kv_heads, .head_dim = c->head_dim,
                        .scale = 1.0f / sqrtf((float)c->head_dim)};
    if (!v || layer < v->first) return out;
    uint32_t l = layer - v->first, kept = v->heads.order ? v->heads.heads : c->kv_heads;
    if (v->heads.size > 1) out.size = v->heads.size;
    if (v->heads.order) out.order = v->heads.order + (size_t)l * kept;
    out.groups = kept / out.size, out.pruned = kept < c->kv_heads;
    if (v->score_scale != 0) out.scale *= v->score_scale;
    out.shift = v->score_shift != 0 ? v->score_shift : SOFTMAX_SHIFT;
    out.activation = v->activation, out.softmax = v->softmax, out.side_by_side = v->side_by_side;
    for (size_t h = 0; h < 2 && v->norm; h++) out.hold[h] = (NormHold){v->norm[2 * l + h], v->norm_mix};
    if (v->row_bound) out.row_bound = v->row_bound + (size_t)l * merged_heads(&out);
    return out;
}

HeadMember head_member(const LayerVariant *v, uint32_t merged, uint32_t t)
{
    uint32_t at = merged / v->share * v->size + t, key = v->order ? v->order[at] : at;
    return (HeadMember){(size_t)(key * v->share + merged % v->share) * v->head_dim, (size_t)key * v->head_dim};
}

// ---- soundness -------------------------------------------------------------------------------------------------------

Result head_groups_check(const HeadGroups *g, const ModelConfig *c, uint32_t layers)
{
    uint32_t heads = g->order ? g->heads : c->kv_heads;
    if (g->size <= 1 && !g->order) return OK;
    if (heads == 0 || heads > c->kv_heads || heads > MOST_HEADS)
        return fail(FAIL_DATA, "head_groups names %u heads of %u", heads, c->kv_heads);
    if (g->size == 0 || heads % g->size != 0)
        return fail(FAIL_USE, "heads are merged by %u, which does not divide the %u key-value heads", g->size, heads);
    for (uint32_t l = 0; l < layers && g->order; l++) {
        bool seen[MOST_HEADS] = {false};
        for (uint32_t i = 0; i < heads; i++) {
            uint32_t head = group_head(g, l, i);
            if (head >= c->kv_heads) return fail(FAIL_DATA, "head_groups: list %u names head %u of %u", l, head, c->kv_heads);
            if (head < MOST_HEADS && seen[head]) return fail(FAIL_DATA, "head_groups: list %u names head %u twice", l, head);
            if (head < MOST_HEADS) seen[head] = true;
        }
    }
    return OK;
}

bool head_groups_pruned(const HeadGroups *g, const ModelConfig *c) { return g->order && g->heads < c->kv_heads; }

static CHECKED Result number_check(float v, float least, float most, const char *name)
{
    return v >= least && v <= most ? OK : fail(FAIL_DATA, "%s is %g, not within %g..%g", name, (double)v, (double)least, (double)most);
}

Result held_norms_check(const float *norm, uint32_t layers)
{
    for (size_t i = 0; norm && i < (size_t)layers * 2; i++) GUARD(number_check(norm[i], 1e-6f, 1e6f, "norm"));
    return OK;
}

Result cells_check(uint32_t cells)
{
    bool fits = !cells || (cells >= LEAST_CELLS && cells <= MOST_CELLS && !(cells & (cells - 1)));
    return fits ? OK : fail(FAIL_USE, "cells is %u, not a power of two within %d..%d", cells, LEAST_CELLS, MOST_CELLS);
}

Result variant_check(const Variant *v, const ModelConfig *c)
{
    if (v->first > c->layers) return fail(FAIL_DATA, "variant: begins at layer %u of %u", v->first, c->layers);
    uint32_t layers = c->layers - v->first;
    GUARD(head_groups_check(&v->heads, c, layers));
    GUARD(number_check(v->score_scale, 0, 1e3f, "score_scale"));
    GUARD(number_check(v->score_shift, -1e3f, 1e3f, "score_shift"));
    GUARD(number_check(v->norm_mix, 0, 1, "norm_mix"));
    if ((unsigned)v->activation > ACTIVATION_QUAD) return fail(FAIL_DATA, "activation %d is none", (int)v->activation);
    if ((unsigned)v->softmax > SOFTMAX_2RELU) return fail(FAIL_DATA, "softmax %d is none", (int)v->softmax);
    GUARD(held_norms_check(v->norm, layers));
    GUARD(cells_check(v->cells));
    LayerVariant one = variant_layer(v, c, v->first);
    for (size_t i = 0; v->row_bound && i < (size_t)layers * merged_heads(&one); i++)
        GUARD(number_check(v->row_bound[i], -1e4f, 1e4f, "row_bound"));
    return OK;
}

// ---- JSON ------------------------------------------------------------------------------------------------------------

Json *head_groups_json(const HeadGroups *g, uint32_t layers)
{
    Json *all = json_new_array();
    const uint32_t *head = g->order;
    for (uint32_t l = 0; l < layers; l++) {
        Json *groups = json_new_array();
        for (uint32_t i = 0; i < g->heads / g->size; i++) {
            Json *group = json_new_array();
            for (uint32_t k = 0; k < g->size; k++) json_add(group, json_of_uint(*head++));
            json_add(groups, group);
        }
        json_add(all, groups);
    }
    return all;
}

static bool list_fits(const Json *v, size_t count) { return json_kind(v) == KIND_ARRAY && json_count(v) == count; }

/* The first member of a list that has one, or NULL. */
static const Json *list_first(const Json *v) { return v && json_kind(v) == KIND_ARRAY && json_count(v) > 0 ? json_at(v, 0) : NULL; }

/* The first group of the first layer says how large all are. */
Result head_groups_read(HeadGroups *out, const Json *lists, uint32_t layers, Arena *a)
{
    size_t groups = json_count(list_first(lists)), size = json_count(list_first(list_first(lists)));
    if (!list_fits(lists, layers) || groups == 0 || size == 0 || groups > MOST_HEADS || size > MOST_HEADS || groups * size > MOST_HEADS)
        return fail(FAIL_DATA, "head_groups is not a list of groups of heads for each of %u layers", layers);
    uint32_t *head = arena_new(a, uint32_t, layers * groups * size);
    out->size = (uint32_t)size, out->heads = (uint32_t)(groups * size), out->order = head;
    for (uint32_t l = 0; l < layers; l++) {
        const Json *layer = json_at(lists, l);
        for (size_t i = 0; i < groups; i++) {
            const Json *group = json_at(layer, i);
            if (!list_fits(layer, groups) || !list_fits(group, size))
                return fail(FAIL_DATA, "head_groups: list %u does not have %zu groups of %zu heads, as the first", l, groups, size);
            for (size_t k = 0; k < size; k++) {
                uint64_t v;
                GUARD(json_as_uint(&v, json_at(group, k), "head_groups", 0, MOST_HEADS - 1));
                *head++ = (uint32_t)v;
            }
        }
    }
    return OK;
}

Json *rows_json(const float *x, size_t rows, size_t columns)
{
    Json *all = json_new_array();
    for (size_t r = 0; r < rows; r++) {
        Json *row = json_new_array();
        for (size_t i = 0; i < columns; i++) json_add(row, json_of_float(*x++));
        json_add(all, row);
    }
    return all;
}

Result rows_read(const float **out, const Json *o, const char *name, size_t rows, size_t columns, Arena *a)
{
    const Json *all = json_find(o, name);
    if (!all) return OK;
    if (!list_fits(all, rows)) return fail(FAIL_DATA, "%s is not a list for each of %zu layers", name, rows);
    float *x = arena_new(a, float, rows * columns + 1);
    *out = x;
    for (size_t r = 0; r < rows; r++) {
        const Json *row = json_at(all, r);
        if (!list_fits(row, columns)) return fail(FAIL_DATA, "%s: list %zu does not have %zu numbers", name, r, columns);
        for (size_t i = 0; i < columns; i++) {
            double v;
            GUARD(json_as_real(&v, json_at(row, i), name, -1e6, 1e6));
            *x++ = (float)v;
        }
    }
    return OK;
}

static void real_put(Json *o, const char *name, float v)
{
    if (v != 0) json_put(o, name, json_of_float(v));
}

Json *variant_json(const Variant *v, const ModelConfig *c)
{
    Json *o = json_new_object();
    uint32_t layers = c->layers - v->first;
    LayerVariant one = variant_layer(v, c, v->first);
    json_put(o, "first", json_of_uint(v->first));
    if (v->heads.order) json_put(o, "head_groups", head_groups_json(&v->heads, layers));
    else if (v->heads.size > 1) json_put(o, "merge", json_of_uint(v->heads.size));
    real_put(o, "score_scale", v->score_scale);
    if (v->activation) json_put(o, "activation", json_of_text(activation_names[v->activation]));
    if (v->softmax) json_put(o, "softmax", json_of_text(softmax_names[v->softmax]));
    real_put(o, "score_shift", v->score_shift);
    if (v->side_by_side) json_put(o, "side_by_side", json_of_bool(true));
    if (v->norm) json_put(o, "norm", rows_json(v->norm, layers, 2));
    real_put(o, "norm_mix", v->norm_mix);
    if (v->row_bound) json_put(o, "row_bound", rows_json(v->row_bound, layers, merged_heads(&one)));
    if (v->cells) json_put(o, "cells", json_of_uint(v->cells));
    return o;
}

static CHECKED Result real_read(float *out, const Json *o, const char *name, double least, double most)
{
    double v;
    GUARD(json_get_real_or(&v, o, name, least, most, 0));
    *out = (float)v;
    return OK;
}

static CHECKED Result choice_read(unsigned *out, const Json *o, const char *name, const char *const *names)
{
    const char *text;
    GUARD(json_get_text_or(&text, o, name, names[0]));
    for (*out = 0; names[*out]; ++*out)
        if (!strcmp(names[*out], text)) return OK;
    return fail(FAIL_DATA, "%s is '%s', none of %s, %s, %s", name, text, names[0], names[1], names[2]);
}

/* A misspelt change would be one that is silently not made. */
static CHECKED Result members_check(const Json *o)
{
    static const char *const known[] = {"first", "merge", "head_groups", "score_scale", "activation", "softmax", "score_shift",
                                        "side_by_side", "norm", "norm_mix", "row_bound", "cells"};
    if (json_kind(o) != KIND_OBJECT) return fail(FAIL_DATA, "variant is not an object");
    for (JsonEach e = {0}; json_each(o, &e);) {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(known[i], e.key)) i++;
        if (i == sizeof known / sizeof *known) return fail(FAIL_DATA, "variant has the unknown member '%s'", e.key);
    }
    return OK;
}

static CHECKED Result groups_read(Variant *out, const Json *o, uint32_t layers, Arena *a)
{
    const Json *lists = json_find(o, "head_groups");
    uint32_t merge;
    GUARD(json_get_u32_or(&merge, o, "merge", 1, MOST_HEADS, 1));
    if (lists && json_find(o, "merge")) return fail(FAIL_DATA, "variant: either 'merge' or 'head_groups'");
    if (merge > 1) out->heads.size = merge;
    return lists ? head_groups_read(&out->heads, lists, layers, a) : OK;
}

Result variant_read(Variant *out, const Json *o, const ModelConfig *c, uint32_t first, Arena *a)
{
    const Json *lists = json_find(o, "head_groups");
    unsigned activation, softmax;
    *out = (Variant){0};
    GUARD(members_check(o));
    if (lists && json_count(lists) > c->layers) return fail(FAIL_DATA, "head_groups is for %zu layers of %u", json_count(lists), c->layers);
    if (lists) first = c->layers - (uint32_t)json_count(lists);
    GUARD(json_get_u32_or(&out->first, o, "first", 0, c->layers, first));
    uint32_t layers = c->layers - out->first;
    GUARD(groups_read(out, o, layers, a));
    GUARD(head_groups_check(&out->heads, c, layers));
    GUARD(real_read(&out->score_scale, o, "score_scale", 0, 1e3));
    GUARD(choice_read(&activation, o, "activation", activation_names));
    GUARD(choice_read(&softmax, o, "softmax", softmax_names));
    out->activation = (Activation)activation, out->softmax = (Softmax)softmax;
    GUARD(real_read(&out->score_shift, o, "score_shift", -1e3, 1e3));
    GUARD(json_get_bool_or(&out->side_by_side, o, "side_by_side", false));
    GUARD(real_read(&out->norm_mix, o, "norm_mix", 0, 1));
    GUARD(rows_read(&out->norm, o, "norm", layers, 2, a));
    LayerVariant one = variant_layer(out, c, out->first);
    GUARD(rows_read(&out->row_bound, o, "row_bound", layers, merged_heads(&one), a));
    GUARD(json_get_u32_or(&out->cells, o, "cells", 0, MOST_CELLS, 0));
    return variant_check(out, c);
}

Result variant_load(Variant *out, const char *dir, const ModelConfig *c, uint32_t first, Arena *a)
{
    *out = (Variant){0};
    const char *path = arena_format(a, "%s/marill.json", dir);
    if (!file_exists(path)) return OK;
    Json *root;
    GUARD(json_read(&root, path, FILE_LIMIT));
    const Json *o = json_find(root, "variant");
    Result r = o ? variant_read(out, o, c, first, a) : OK;
    json_free(root);
    return fail_in(r, "%s", path);
}
