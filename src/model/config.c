/* config.c - the shape of a Llama, from and to config.json.
 *
 * Whatever would change the numbers and is not implemented is refused by its name: a model that runs is the model that the
 * file describes. Every number is bounded before anyone multiplies it: a product of any two, times 8 bytes, fits 64 bits,
 * and no tensor has 2^40 elements. */
#include "model/model.h"

#include <string.h>
#include "model/json.h"

enum { MAX_WIDTH = 1 << 16, MAX_LAYERS = 1024, MAX_HEADS = 1024, MAX_HEAD_DIM = 1024, MAX_FFN = 1 << 20, MAX_VOCAB = 1 << 20,
       MAX_CONTEXT = 1 << 24 };

static Result config_check_text(const Json *o, const char *key, const char *only)
{
    const char *got;
    GUARD(json_get_text_or(&got, o, key, only));
    return strcmp(got, only) == 0 ? OK : fail(FAIL_DATA, "%s '%s' is not supported, only '%s'", key, got, only);
}

/* any: what parties tell each other, who may have made a GPT-2 in memory. */
static Result config_check_kind(ModelConfig *c, const Json *o, bool any)
{
    const char *type, *name;
    const Json *list;
    GUARD(json_get_text(&type, o, "model_type"));
    if (any && strcmp(type, "gpt2") == 0) {
        c->arch = ARCH_GPT2;
        return OK;
    }
    if (strcmp(type, "llama") != 0) return fail(FAIL_DATA, "model_type '%s' is not supported, only 'llama'", type);
    if (!json_find(o, "architectures")) return OK;
    GUARD(json_get_array(&list, o, "architectures", 1));
    if (json_count(list) == 0) return OK;
    GUARD(json_as_text(&name, json_at(list, 0), "architectures"));
    if (strcmp(name, "LlamaForCausalLM") == 0) return OK;
    return fail(FAIL_DATA, "architecture '%s' is not supported, only 'LlamaForCausalLM'", name);
}

/* Options that would change the numbers must be off: absent, null, or false. */
static Result config_check_options(const ModelConfig *c, const Json *o)
{
    static const char *const off[] = {"attention_bias", "mlp_bias", "sliding_window", "use_sliding_window", "quantization_config",
                                      "layer_types", "num_experts", "num_local_experts", "compression_config"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        const Json *v = json_find(o, off[i]);
        bool on = v != NULL;
        if (json_kind(v) == KIND_BOOL) GUARD(json_as_bool(&on, v, off[i]));
        if (on) return fail(FAIL_DATA, "%s is not supported", off[i]);
    }
    double partial;
    GUARD(json_get_real_or(&partial, o, "partial_rotary_factor", 0, 1, 1));
    if (partial < 1) return fail(FAIL_DATA, "partial_rotary_factor below 1 is not supported");
    return config_check_text(o, "hidden_act", c->arch == ARCH_GPT2 ? "gelu" : "silu");
}

/* rope_theta and rope_scaling, or both as rope_parameters (transformers from version 5 on). */
static Result config_parse_rope(ModelConfig *c, const Json *o)
{
    const Json *merged = json_find(o, "rope_parameters"), *s = merged ? merged : json_find(o, "rope_scaling");
    const char *type;
    double theta, v[4];
    c->rope = (RopeScaling){.factor = 1};
    if (c->arch == ARCH_GPT2) return OK;
    GUARD(json_get_real_or(&theta, merged ? merged : o, "rope_theta", 1, 1e12, 10000));
    c->rope_theta = (float)theta;
    c->rope = (RopeScaling){.factor = 1, .low_freq_factor = 1, .high_freq_factor = 1, .original_context = (float)c->context};
    if (!s) return OK;
    if (json_kind(s) != KIND_OBJECT) return fail(FAIL_DATA, "rope_scaling is not an object");
    GUARD(json_get_text_or(&type, s, json_find(s, "rope_type") ? "rope_type" : "type", "default"));
    if (strcmp(type, "default") == 0) return OK;
    if (strcmp(type, "llama3") != 0) return fail(FAIL_DATA, "rope_type '%s' is not supported, only 'llama3'", type);
    GUARD(json_get_real(&v[0], s, "factor", 1, 1e6));
    GUARD(json_get_real(&v[1], s, "low_freq_factor", 1e-6, 1e6));
    GUARD(json_get_real(&v[2], s, "high_freq_factor", 1e-6, 1e6));
    GUARD(json_get_real(&v[3], s, "original_max_position_embeddings", 1, MAX_CONTEXT));
    if (v[2] <= v[1]) return fail(FAIL_DATA, "high_freq_factor is not above low_freq_factor");
    c->rope = (RopeScaling){(float)v[0], (float)v[1], (float)v[2], (float)v[3]};
    return OK;
}

/* A token id, or a list of them, whose first counts. */
static Result config_parse_token(int32_t *out, const Json *o, const char *key, uint32_t vocab)
{
    const Json *v = json_find(o, key);
    int64_t id = -1;
    if (json_kind(v) == KIND_ARRAY) v = json_count(v) ? json_at(v, 0) : NULL;
    if (v) GUARD(json_as_int(&id, v, key, -1, (int64_t)vocab - 1));
    *out = (int32_t)id;
    return OK;
}

static Result config_parse_shape(ModelConfig *c, const Json *o)
{
    GUARD(json_get_u32(&c->width, o, "hidden_size", 1, MAX_WIDTH));
    GUARD(json_get_u32(&c->layers, o, "num_hidden_layers", 1, MAX_LAYERS));
    GUARD(json_get_u32(&c->heads, o, "num_attention_heads", 1, MAX_HEADS));
    GUARD(json_get_u32_or(&c->kv_heads, o, "num_key_value_heads", 1, MAX_HEADS, c->heads));
    GUARD(json_get_u32(&c->ffn, o, "intermediate_size", 1, MAX_FFN));
    GUARD(json_get_u32(&c->vocab, o, "vocab_size", 1, MAX_VOCAB));
    GUARD(json_get_u32_or(&c->context, o, "max_position_embeddings", 1, MAX_CONTEXT, 2048));
    if (c->heads % c->kv_heads != 0) {
        return fail(FAIL_DATA, "num_attention_heads %u is not a multiple of num_key_value_heads %u", c->heads, c->kv_heads);
    }
    if (!json_find(o, "head_dim") && c->width % c->heads != 0) {
        return fail(FAIL_DATA, "hidden_size %u is not a multiple of num_attention_heads %u", c->width, c->heads);
    }
    GUARD(json_get_u32_or(&c->head_dim, o, "head_dim", 2, MAX_HEAD_DIM, c->width / c->heads));
    if (c->head_dim % 2 != 0 || c->head_dim == 0 || c->head_dim > MAX_HEAD_DIM) {
        return fail(FAIL_DATA, "head_dim %u is odd or outside of 2..%d", c->head_dim, MAX_HEAD_DIM);
    }
    return OK;
}

static Result config_parse_object(ModelConfig *c, const Json *o, bool any)
{
    double eps;
    if (json_kind(o) != KIND_OBJECT) return fail(FAIL_DATA, "not a JSON object");
    GUARD(config_check_kind(c, o, any));
    GUARD(config_check_options(c, o));
    GUARD(config_parse_shape(c, o));
    if (c->arch == ARCH_GPT2 && c->kv_heads != c->heads) return fail(FAIL_DATA, "a GPT-2 has as many key-value heads as heads");
    GUARD(json_get_real_or(&eps, o, c->arch == ARCH_GPT2 ? "layer_norm_epsilon" : "rms_norm_eps", 0, 1, 1e-6));
    c->norm_eps = (float)eps;
    GUARD(config_parse_rope(c, o));
    GUARD(json_get_bool_or(&c->tied, o, "tie_word_embeddings", false));
    GUARD(config_parse_token(&c->bos, o, "bos_token_id", c->vocab));
    return config_parse_token(&c->eos, o, "eos_token_id", c->vocab);
}

// ---- published shapes ------------------------------------------------------------------------------------------------

static const struct { const char *name; ModelConfig config; } shapes[] = {
    {"gpt2-small", {.arch = ARCH_GPT2, .width = 768, .layers = 12, .heads = 12, .kv_heads = 12, .head_dim = 64, .ffn = 3072,
                    .vocab = 50257, .context = 1024, .norm_eps = 1e-5f, .rope = {.factor = 1}, .tied = true, .bos = 50256, .eos = 50256}},
    {"open-llama-3b", {.width = 3200, .layers = 26, .heads = 32, .kv_heads = 32, .head_dim = 100, .ffn = 8640, .vocab = 32000,
                       .context = 2048, .norm_eps = 1e-6f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}},
    {"llama2-7b", {.width = 4096, .layers = 32, .heads = 32, .kv_heads = 32, .head_dim = 128, .ffn = 11008, .vocab = 32000,
                   .context = 4096, .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}},
};

Result shape_config(const char *name, ModelConfig *out)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(shapes[i].name, name) != 0) continue;
        *out = shapes[i].config;
        return OK;
    }
    return fail(FAIL_USE, "there is no shape '%s': there are gpt2-small, open-llama-3b and llama2-7b", name);
}

// ---- config.json -----------------------------------------------------------------------------------------------------

static Result config_read_json(ModelConfig *out, const char *json, size_t len, bool any)
{
    Json *root;
    *out = (ModelConfig){0};
    GUARD(json_parse(&root, json, len));
    Result r = config_parse_object(out, root, any);
    json_free(root);
    return r;
}

Result config_parse(ModelConfig *out, const char *json, size_t len) { return config_read_json(out, json, len, false); }
Result config_parse_any(ModelConfig *out, const char *json, size_t len) { return config_read_json(out, json, len, true); }

static void config_put_rope(Json *o, const ModelConfig *c)
{
    json_put(o, "rope_theta", json_of_float(c->rope_theta));
    if (c->rope.factor == 1.0f) return;
    Json *s = json_new_object();
    json_put(s, "rope_type", json_of_text("llama3"));
    json_put(s, "factor", json_of_float(c->rope.factor));
    json_put(s, "low_freq_factor", json_of_float(c->rope.low_freq_factor));
    json_put(s, "high_freq_factor", json_of_float(c->rope.high_freq_factor));
    json_put(s, "original_max_position_embeddings", json_of_uint((uint64_t)c->rope.original_context));
    json_put(o, "rope_scaling", s);
}

Result config_write(const ModelConfig *c, const char *path)
{
    Json *o = json_new_object(), *list = json_new_array();
    Buffer text = {0};
    json_add(list, json_of_text("LlamaForCausalLM"));
    json_put(o, "architectures", list);
    json_put(o, "model_type", json_of_text("llama"));
    json_put(o, "hidden_size", json_of_uint(c->width));
    json_put(o, "intermediate_size", json_of_uint(c->ffn));
    json_put(o, "num_hidden_layers", json_of_uint(c->layers));
    json_put(o, "num_attention_heads", json_of_uint(c->heads));
    json_put(o, "num_key_value_heads", json_of_uint(c->kv_heads));
    json_put(o, "head_dim", json_of_uint(c->head_dim));
    json_put(o, "vocab_size", json_of_uint(c->vocab));
    json_put(o, "max_position_embeddings", json_of_uint(c->context));
    json_put(o, "rms_norm_eps", json_of_float(c->norm_eps));
    config_put_rope(o, c);
    json_put(o, "hidden_act", json_of_text("silu"));
    json_put(o, "tie_word_embeddings", json_of_bool(c->tied));
    json_put(o, "attention_bias", json_of_bool(false));
    json_put(o, "mlp_bias", json_of_bool(false));
    if (c->bos >= 0) json_put(o, "bos_token_id", json_of_int(c->bos));
    if (c->eos >= 0) json_put(o, "eos_token_id", json_of_int(c->eos));
    json_print(&text, o, 1, 15);               // 15 digits: decimals of floats stay as short as they were made
    buffer_u8(&text, '\n');
    Result r = file_write(path, text.data, text.len, 0644);
    buffer_free(&text);
    json_free(o);
    return r;
}
