/* head_groups.c - which heads share a softmax. */
#include "model/head_groups.h"

enum { MOST_HEADS = 1024 };

uint32_t group_head(const HeadGroups *g, const ModelConfig *c, uint32_t layer, uint32_t at)
{
    return g->order && layer >= g->first ? g->order[(size_t)(layer - g->first) * c->kv_heads + at] : at;
}

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

/* The first group of the first layer says how large all are; false where this one is not. */
static bool list_fits(const Json *v, size_t count) { return json_kind(v) == KIND_ARRAY && json_count(v) == count; }

Result head_groups_read(HeadGroups *out, const Json *lists, uint32_t layers, Arena *a)
{
    size_t groups = json_count(json_at(lists, 0)), size = json_count(json_at(json_at(lists, 0), 0));
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
                GUARD(json_as_uint(&v, json_at(group, k), "head_groups", 0, groups * size - 1));
                *head++ = (uint32_t)v;
            }
        }
    }
    return OK;
}

Result head_groups_check(const HeadGroups *g, const ModelConfig *c, uint32_t layers)
{
    if (g->size <= 1 && !g->order) return OK;
    if (g->size == 0 || c->kv_heads % g->size != 0)
        return fail(FAIL_USE, "heads are merged by %u, which does not divide the %u key-value heads", g->size, c->kv_heads);
    if (!g->order) return OK;
    if (g->heads != c->kv_heads) return fail(FAIL_DATA, "head_groups names %u heads of %u", g->heads, c->kv_heads);
    for (uint32_t l = 0; l < layers; l++) {
        bool seen[MOST_HEADS] = {false};
        for (uint32_t i = 0; i < g->heads; i++) {
            uint32_t head = g->order[(size_t)l * g->heads + i];
            if (head >= g->heads || seen[head]) return fail(FAIL_DATA, "head_groups: list %u does not name each head once", l);
            seen[head] = true;
        }
    }
    return OK;
}
