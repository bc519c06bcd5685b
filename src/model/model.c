/* model.c - a model folder: its weights, read and written.
 *
 * f32 tensors are used where the mapped file has them, so that the processes of a session share one copy; bf16 is expanded
 * into the model's arena. */
#include "model/model.h"

#include <stdio.h>
#include <string.h>
#include "model/quant.h"
#include "model/safetensors.h"

const char *const matrix_names[MAT_COUNT] = {
    [MAT_Q] = "self_attn.q_proj", [MAT_K] = "self_attn.k_proj", [MAT_V] = "self_attn.v_proj", [MAT_O] = "self_attn.o_proj",
    [MAT_GATE] = "mlp.gate_proj", [MAT_UP] = "mlp.up_proj", [MAT_DOWN] = "mlp.down_proj",
};

uint32_t matrix_rows(const ModelConfig *c, MatrixKind m)
{
    switch (m) {
    case MAT_Q: return c->heads * c->head_dim;
    case MAT_K:
    case MAT_V: return c->kv_heads * c->head_dim;
    case MAT_UP: return c->arch == ARCH_GPT2 ? 0 : c->ffn;
    case MAT_GATE: return c->ffn;
    default: return c->width;
    }
}

uint32_t matrix_cols(const ModelConfig *c, MatrixKind m)
{
    return m == MAT_O ? c->heads * c->head_dim : m == MAT_DOWN ? c->ffn : c->width;
}

// ---- reading ---------------------------------------------------------------------------------------------------------

static Result layer_take(LayerWeights *w, TensorFile *f, const ModelConfig *c, uint32_t layer, Arena *a)
{
    char name[96];
    snprintf(name, sizeof name, "model.layers.%u.input_layernorm.weight", layer);
    GUARD(tensors_take(&w->attn_norm, f, name, 0, c->width, false, a));
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", layer);
    GUARD(tensors_take(&w->ffn_norm, f, name, 0, c->width, false, a));
    for (MatrixKind m = 0; m < MAT_COUNT; m++) {
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, matrix_names[m]);
        GUARD(tensors_take(&w->mat[m], f, name, matrix_rows(c, m), matrix_cols(c, m), false, a));
    }
    return OK;
}

static Result model_take(Model *m, TensorFile *f)
{
    const ModelConfig *c = &m->config;
    GUARD(tensors_take(&m->embed, f, "model.embed_tokens.weight", c->vocab, c->width, false, &m->arena));
    GUARD(tensors_take(&m->final_norm, f, "model.norm.weight", 0, c->width, false, &m->arena));
    m->head = m->embed;
    if (!c->tied) GUARD(tensors_take(&m->head, f, "lm_head.weight", c->vocab, c->width, false, &m->arena));
    m->layer = arena_new(&m->arena, LayerWeights, c->layers);
    for (uint32_t l = 0; l < c->layers; l++) GUARD(layer_take(&m->layer[l], f, c, l, &m->arena));
    return tensors_finish(f, ".rotary_emb.inv_freq");          // a table that old files keep; it follows from the config
}

static Result model_read_config(ModelConfig *out, const char *path)
{
    Buffer text = {0};
    Result r = file_read(&text, path, 1 << 20);
    if (!failed(r)) {
        r = config_parse(out, (const char *)text.data, text.len);
        if (failed(r)) r = fail_in(r, "%s", path);
    }
    buffer_free(&text);
    return r;
}

static Result model_read_weights(Model *m, const char *path)
{
    TensorFile f;
    Arena names;
    GUARD(file_map(&m->file, path));
    arena_init(&names, false);
    Result r = tensors_parse(&f, m->file.data, m->file.len, &names);
    if (!failed(r)) r = model_take(m, &f);
    arena_free(&names);
    return failed(r) ? fail_in(r, "%s", path) : OK;
}

Result model_load(Model *out, const char *dir)
{
    *out = (Model){0};
    arena_init(&out->arena, false);
    GUARD(model_read_config(&out->config, arena_format(&out->arena, "%s/config.json", dir)));
    const char *path = arena_format(&out->arena, "%s/model.safetensors", dir);
    const char *index = arena_format(&out->arena, "%s.index.json", path);
    if (!file_exists(path) && file_exists(arena_format(&out->arena, "%s/%s", dir, quant_file))) {
        return fail(FAIL_USE, "%s: holds a quantised base, where the floats that it was made from are needed", dir);
    }
    if (!file_exists(path) && file_exists(index)) {
        return fail(FAIL_DATA, "%s: weights in several files are not supported; save them as one model.safetensors", index);
    }
    return model_read_weights(out, path);
}

Result model_open(Model *out, const char *dir)
{
    *out = (Model){0};
    arena_init(&out->arena, false);
    const char *path = arena_format(&out->arena, "%s/%s", dir, quant_file);
    if (!file_exists(path) || file_exists(arena_format(&out->arena, "%s/model.safetensors", dir))) {
        arena_free(&out->arena);
        return model_load(out, dir);
    }
    GUARD(model_read_config(&out->config, arena_format(&out->arena, "%s/config.json", dir)));
    GUARD(file_map(&out->file, path));
    return fail_in(quant_bind(out, out->file.data, out->file.len), "%s", path);
}

void model_free(Model *m)
{
    arena_free(&m->arena);
    if (m->file.data) file_unmap(&m->file);
    *m = (Model){0};
}

// ---- writing ---------------------------------------------------------------------------------------------------------

static size_t layer_list(TensorOut *t, const Model *m, uint32_t layer, Arena *a)
{
    const LayerWeights *w = &m->layer[layer];
    size_t n = 0;
    t[n++] = (TensorOut){arena_format(a, "model.layers.%u.input_layernorm.weight", layer), w->attn_norm, 0, m->config.width};
    t[n++] = (TensorOut){arena_format(a, "model.layers.%u.post_attention_layernorm.weight", layer), w->ffn_norm, 0, m->config.width};
    for (MatrixKind k = 0; k < MAT_COUNT; k++) {
        const char *name = arena_format(a, "model.layers.%u.%s.weight", layer, matrix_names[k]);
        t[n++] = (TensorOut){name, w->mat[k], matrix_rows(&m->config, k), matrix_cols(&m->config, k)};
    }
    return n;
}

Result model_save(const Model *m, const char *dir, const char *dtype)
{
    const ModelConfig *c = &m->config;
    Arena a;
    arena_init(&a, false);
    TensorOut *t = arena_new(&a, TensorOut, 3 + (size_t)c->layers * (2 + MAT_COUNT));
    size_t n = 0;
    t[n++] = (TensorOut){"model.embed_tokens.weight", m->embed, c->vocab, c->width};
    for (uint32_t l = 0; l < c->layers; l++) n += layer_list(t + n, m, l, &a);
    t[n++] = (TensorOut){"model.norm.weight", m->final_norm, 0, c->width};
    if (!c->tied) t[n++] = (TensorOut){"lm_head.weight", m->head, c->vocab, c->width};
    Result r = folder_make(dir, 0755);
    if (!failed(r)) r = tensors_write(arena_format(&a, "%s/model.safetensors", dir), t, n, dtype);
    if (!failed(r)) r = config_write(c, arena_format(&a, "%s/config.json", dir));
    arena_free(&a);
    return r;
}

// ---- merging ---------------------------------------------------------------------------------------------------------

static const float *matrix_merge(const float *w, const LoraPair *p, uint32_t rows, uint32_t cols, Arena *a)
{
    float *out = arena_new(a, float, (size_t)rows * cols);
    memcpy(out, w, (size_t)rows * cols * sizeof *out);
    for (size_t i = 0; i < rows; i++) {
        for (uint32_t r = 0; r < p->rank; r++) {
            float b = p->scale * p->b[i * p->rank + r];
            for (size_t j = 0; j < cols; j++) out[i * cols + j] += b * p->a[r * cols + j];
        }
    }
    return out;
}

void model_merge(Model *out, const Model *m, const Adapter *adapter)
{
    ASSERT(adapter->layers == m->config.layers);
    *out = (Model){.config = m->config, .embed = m->embed, .positions = m->positions, .head_bias = m->head_bias,
                   .final_norm = m->final_norm, .head = m->head};
    arena_init(&out->arena, false);
    out->layer = arena_new(&out->arena, LayerWeights, m->config.layers);
    for (uint32_t l = 0; l < m->config.layers; l++) {
        out->layer[l] = m->layer[l];
        for (MatrixKind k = 0; k < MAT_COUNT; k++) {
            const LoraPair *p = &adapter->pair[l][k];
            if (!p->a) continue;
            out->layer[l].mat[k] = matrix_merge(m->layer[l].mat[k], p, matrix_rows(&m->config, k), matrix_cols(&m->config, k), &out->arena);
        }
    }
}
