/* adapter.c - low-rank adapters in PEFT's folders.
 *
 * adapter_config.json says which matrices have factors, adapter_model.safetensors holds them; the two must agree to the
 * last tensor. PEFT has many variants that change the numbers: each one that is not implemented is refused by its name.
 * Where an adapter is not the same set of matrices in a set of layers, its matrices are named one by one by full path. */
#include "model/adapter.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "model/json.h"
#include "model/safetensors.h"

enum { MAX_RANK = 1 << 14, MAX_TARGETS = 1 << 14, MAX_PATH = 128 };

// ---- adapter_config.json ---------------------------------------------------------------------------------------------

/* These change the numbers: they must be absent, null, false or empty. */
static Result config_check_variants(const Json *o)
{
    static const char *const off[] = {
        "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "exclude_modules",
        "layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "arrow_config"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        const Json *v = json_find(o, off[i]);
        JsonKind k = json_kind(v);
        bool on = v != NULL;
        if (k == KIND_BOOL) GUARD(json_as_bool(&on, v, off[i]));
        if (k == KIND_ARRAY || k == KIND_OBJECT) on = json_count(v) > 0;
        if (on) return fail(FAIL_DATA, "%s is not supported", off[i]);
    }
    const char *text;
    GUARD(json_get_text(&text, o, "peft_type"));
    if (strcmp(text, "LORA") != 0) return fail(FAIL_DATA, "peft_type '%s' is not supported, only 'LORA'", text);
    GUARD(json_get_text_or(&text, o, "bias", "none"));
    if (strcmp(text, "none") != 0) return fail(FAIL_DATA, "bias '%s' is not supported, only 'none'", text);
    GUARD(json_get_text_or(&text, o, "task_type", "CAUSAL_LM"));
    if (strcmp(text, "CAUSAL_LM") != 0) return fail(FAIL_DATA, "task_type '%s' is not supported, only 'CAUSAL_LM'", text);
    const Json *start = json_find(o, "init_lora_weights");     // others (PiSSA, OLoRA, ..) change the base weights as well
    if (json_kind(start) != KIND_TEXT) return OK;
    GUARD(json_as_text(&text, start, "init_lora_weights"));
    return strcmp(text, "gaussian") == 0 ? OK : fail(FAIL_DATA, "init_lora_weights '%s' is not supported", text);
}

static Result config_parse_scale(AdapterConfig *out, const Json *o)
{
    bool rooted;
    double alpha, dropout;
    GUARD(json_get_u32(&out->rank, o, "r", 1, MAX_RANK));
    GUARD(json_get_real(&alpha, o, "lora_alpha", -1e6, 1e6));
    GUARD(json_get_real_or(&dropout, o, "lora_dropout", 0, 1, 0));
    GUARD(json_get_bool_or(&rooted, o, "use_rslora", false));
    out->dropout = (float)dropout;
    out->scale = (float)(alpha / (rooted ? sqrt((double)out->rank) : (double)out->rank));
    return OK;
}

static void matrix_path(char out[MAX_PATH], uint32_t layer, MatrixKind m)
{
    snprintf(out, MAX_PATH, "model.layers.%u.%s", layer, matrix_names[m]);
}

/* As PEFT matches: the whole path, or its end after a dot. */
static Result config_note_target(AdapterConfig *out, const char *target, const ModelConfig *c)
{
    size_t len = strlen(target);
    char path[MAX_PATH];
    unsigned layer;
    for (MatrixKind m = 0; m < MAT_COUNT; m++) {
        const char *name = matrix_names[m];
        size_t all = strlen(name);
        bool end = len <= all && strcmp(name + all - len, target) == 0;
        if (end && (len == all || name[all - len - 1] == '.')) {
            out->wanted[m] = true;
            return OK;
        }
    }
    if (sscanf(target, "model.layers.%5u.", &layer) == 1 && layer < c->layers) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            matrix_path(path, layer, m);
            if (strcmp(path, target) != 0) continue;
            out->single[layer][m] = true;
            return OK;
        }
    }
    return fail(FAIL_DATA, "target_modules: '%s' is not a matrix that can be adapted", target);
}

static Result config_parse_targets(AdapterConfig *out, const Json *o, const ModelConfig *c)
{
    const Json *list = json_find(o, "target_modules");
    const char *target;
    if (json_kind(list) == KIND_TEXT) {
        GUARD(json_as_text(&target, list, "target_modules"));
        if (strcmp(target, "all-linear") != 0) {
            return fail(FAIL_DATA, "target_modules: the pattern '%s' is not supported, only a list", target);
        }
        for (MatrixKind m = 0; m < MAT_COUNT; m++) out->wanted[m] = true;
        return OK;
    }
    GUARD(json_get_array(&list, o, "target_modules", MAX_TARGETS));
    for (size_t i = 0; i < json_count(list); i++) {
        GUARD(json_as_text(&target, json_at(list, i), "target_modules"));
        GUARD(config_note_target(out, target, c));
    }
    return OK;
}

static Result config_parse_layers(AdapterConfig *out, const Json *o, const ModelConfig *c)
{
    const Json *v = json_find(o, "layers_to_transform"), *pattern = json_find(o, "layers_pattern");
    bool list = json_kind(v) == KIND_ARRAY;
    if (json_kind(pattern) == KIND_ARRAY) pattern = json_count(pattern) == 1 ? json_at(pattern, 0) : json_count(pattern) ? pattern : NULL;
    if (pattern) {
        const char *text;
        GUARD(json_as_text(&text, pattern, "layers_pattern"));
        if (*text && strcmp(text, "layers") != 0) return fail(FAIL_DATA, "layers_pattern '%s' is not supported", text);
    }
    out->every_layer = !v || (list && json_count(v) == 0);
    for (size_t i = 0; v && i < (list ? json_count(v) : 1); i++) {
        uint64_t layer = 0;
        GUARD(json_as_uint(&layer, list ? json_at(v, i) : v, "layers_to_transform", 0, c->layers - 1));
        out->chosen[layer] = true;
    }
    return OK;
}

static Result config_parse_object(AdapterConfig *out, const Json *o, const ModelConfig *c)
{
    if (json_kind(o) != KIND_OBJECT) return fail(FAIL_DATA, "not a JSON object");
    GUARD(config_check_variants(o));
    GUARD(config_parse_scale(out, o));
    GUARD(config_parse_targets(out, o, c));
    return config_parse_layers(out, o, c);
}

Result adapter_config_parse(AdapterConfig *out, const char *json, size_t len, const ModelConfig *c, Arena *a)
{
    Json *root;
    *out = (AdapterConfig){.chosen = arena_new(a, bool, c->layers)};
    out->single = arena_alloc(a, c->layers, sizeof *out->single);
    GUARD(json_parse(&root, json, len));
    Result r = config_parse_object(out, root, c);
    json_free(root);
    return r;
}

// ---- reading ---------------------------------------------------------------------------------------------------------

static void factor_name(char out[MAX_PATH], uint32_t layer, MatrixKind m, char factor)
{
    char path[MAX_PATH / 2];
    snprintf(path, sizeof path, "model.layers.%u.%s", layer, matrix_names[m]);
    snprintf(out, MAX_PATH, "base_model.model.%s.lora_%c.weight", path, factor);
}

static Result pair_take(LoraPair *p, TensorFile *f, const AdapterConfig *g, const ModelConfig *c, uint32_t layer, MatrixKind m, Arena *a)
{
    const float *down, *up;
    char name[MAX_PATH];
    factor_name(name, layer, m, 'A');
    GUARD(tensors_take(&down, f, name, g->rank, matrix_cols(c, m), true, a));
    factor_name(name, layer, m, 'B');
    GUARD(tensors_take(&up, f, name, matrix_rows(c, m), g->rank, true, a));
    *p = (LoraPair){(float *)(uintptr_t)down, (float *)(uintptr_t)up, g->rank, g->scale};      // copies, ours to train
    return OK;
}

static Result adapter_take(Adapter *out, TensorFile *f, const AdapterConfig *g, const ModelConfig *c)
{
    out->first = out->layers = c->layers;
    out->dropout = g->dropout;
    out->pair = arena_alloc(&out->arena, c->layers, sizeof *out->pair);
    for (uint32_t l = c->layers; l-- > 0;) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            // layers_to_transform does not restrict targets named by their full path: PEFT's rule.
            if (!g->single[l][m] && !(g->wanted[m] && (g->every_layer || g->chosen[l]))) continue;
            GUARD(pair_take(&out->pair[l][m], f, g, c, l, m, &out->arena));
            out->first = l;
        }
    }
    if (out->first == c->layers) return fail(FAIL_DATA, "no matrix has factors");
    return tensors_finish(f, NULL);
}

static Result adapter_read_config(AdapterConfig *out, const char *path, const ModelConfig *c, Arena *a)
{
    Buffer text = {0};
    Result r = file_read(&text, path, 1 << 20);
    if (!failed(r)) {
        r = adapter_config_parse(out, (const char *)text.data, text.len, c, a);
        if (failed(r)) r = fail_in(r, "%s", path);
    }
    buffer_free(&text);
    return r;
}

static Result adapter_read(Adapter *out, const char *dir, const ModelConfig *c, FileMap *map, Arena *scratch)
{
    AdapterConfig g;
    TensorFile f;
    const char *path = arena_format(scratch, "%s/adapter_model.safetensors", dir);
    GUARD(adapter_read_config(&g, arena_format(scratch, "%s/adapter_config.json", dir), c, scratch));
    GUARD(file_map(map, path));
    Result r = tensors_parse(&f, map->data, map->len, scratch);
    if (!failed(r)) r = adapter_take(out, &f, &g, c);
    return failed(r) ? fail_in(r, "%s", path) : OK;
}

Result adapter_load(Adapter *out, const char *dir, const ModelConfig *c)
{
    FileMap map = {0};
    Arena scratch;
    *out = (Adapter){0};
    arena_init(&out->arena, false);
    arena_init(&scratch, false);
    Result r = adapter_read(out, dir, c, &map, &scratch);
    if (map.data) file_unmap(&map);
    arena_free(&scratch);
    return r;
}

void adapter_free(Adapter *a)
{
    arena_free(&a->arena);
    *a = (Adapter){0};
}

// ---- writing ---------------------------------------------------------------------------------------------------------

/* The rank and scale that all pairs share, as the format without patterns demands. */
static Result adapter_common(const Adapter *a, const LoraPair **out)
{
    *out = NULL;
    for (uint32_t l = 0; l < a->layers; l++) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            const LoraPair *p = &a->pair[l][m];
            if (!p->a) continue;
            if (!*out) *out = p;
            if (p->rank != (*out)->rank || p->scale != (*out)->scale) {
                return fail(FAIL_USE, "an adapter of several ranks or scales cannot be saved");
            }
        }
    }
    return *out ? OK : fail(FAIL_USE, "an adapter without factors cannot be saved");
}

static bool layer_adapted(const Adapter *a, uint32_t layer)
{
    for (MatrixKind m = 0; m < MAT_COUNT; m++)
        if (a->pair[layer][m].a) return true;
    return false;
}

/* Whether every adapted layer adapts the same matrices as the first one. */
static bool adapter_regular(const Adapter *a)
{
    for (uint32_t l = a->first; l < a->layers; l++)
        for (MatrixKind m = 0; layer_adapted(a, l) && m < MAT_COUNT; m++)
            if (!a->pair[l][m].a != !a->pair[a->first][m].a) return false;
    return true;
}

static void config_put_targets(Json *o, const Adapter *a)
{
    Json *targets = json_new_array(), *layers = json_new_array();
    char path[MAX_PATH];
    bool regular = adapter_regular(a);
    for (uint32_t l = a->first; l < a->layers; l++) {
        if (layer_adapted(a, l)) json_add(layers, json_of_uint(l));
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            if (!a->pair[l][m].a || (regular && l != a->first)) continue;
            matrix_path(path, l, m);
            json_add(targets, json_of_text(regular ? strrchr(path, '.') + 1 : path));
        }
    }
    json_put(o, "target_modules", targets);
    if (regular) json_put(o, "layers_to_transform", layers);
    else json_free(layers);
}

static Result adapter_write_config(const Adapter *a, const LoraPair *p, const char *path, const char *base_name)
{
    Json *o = json_new_object();
    double alpha = (double)p->scale * p->rank;                 // exact, so that reading divides it back exactly
    json_put(o, "peft_type", json_of_text("LORA"));
    json_put(o, "task_type", json_of_text("CAUSAL_LM"));
    json_put(o, "base_model_name_or_path", json_of_text(base_name));
    json_put(o, "r", json_of_uint(p->rank));
    json_put(o, "lora_alpha", alpha == floor(alpha) ? json_of_int((int64_t)alpha) : json_of_real(alpha));
    config_put_targets(o, a);
    json_put(o, "lora_dropout", json_of_float(a->dropout));
    json_put(o, "use_rslora", json_of_bool(false));
    json_put(o, "use_dora", json_of_bool(false));
    json_put(o, "fan_in_fan_out", json_of_bool(false));
    json_put(o, "bias", json_of_text("none"));
    json_put(o, "inference_mode", json_of_bool(true));
    Result r = json_write(o, path);
    json_free(o);
    return r;
}

static size_t adapter_list(TensorOut *t, const Adapter *a, const ModelConfig *c, Arena *names)
{
    char name[MAX_PATH];
    size_t n = 0;
    for (uint32_t l = 0; l < a->layers; l++) {
        for (MatrixKind m = 0; m < MAT_COUNT; m++) {
            const LoraPair *p = &a->pair[l][m];
            if (!p->a) continue;
            factor_name(name, l, m, 'A');
            t[n++] = (TensorOut){arena_string(names, name), p->a, p->rank, matrix_cols(c, m)};
            factor_name(name, l, m, 'B');
            t[n++] = (TensorOut){arena_string(names, name), p->b, matrix_rows(c, m), p->rank};
        }
    }
    return n;
}

Result adapter_save(const Adapter *a, const char *dir, const ModelConfig *c, const char *base_name)
{
    const LoraPair *p;
    Arena names;
    ASSERT(a->layers == c->layers);
    GUARD(adapter_common(a, &p));
    arena_init(&names, false);
    TensorOut *t = arena_new(&names, TensorOut, (size_t)2 * MAT_COUNT * a->layers);
    size_t n = adapter_list(t, a, c, &names);
    Result r = folder_make(dir, 0755);
    if (!failed(r)) r = tensors_write(arena_format(&names, "%s/adapter_model.safetensors", dir), t, n, "F32");
    if (!failed(r)) r = adapter_write_config(a, p, arena_format(&names, "%s/adapter_config.json", dir), base_name);
    arena_free(&names);
    return r;
}
