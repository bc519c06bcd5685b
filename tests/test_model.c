/* test_model.c - model and adapter folders, read, written, and refused where they lie. */
#include "test.h"

#include "model/adapter.h"
#include "model/json.h"
#include "model/safetensors.h"

static Model model;

static const char *story_dir(void)
{
    static char dir[4096];
    snprintf(dir, sizeof dir, "%s", test_data("weights/stories260K"));
    return dir;
}

static const char *in_folder(const char *name)
{
    static char path[2][4200];
    static const char *folder;
    static int turn;
    turn = !turn;
    if (!folder) folder = test_folder();
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void write_text(const char *path, const char *text) { CHECK_OK(file_write(path, text, strlen(text), 0644)); }

// ---- JSON ------------------------------------------------------------------------------------------------------------

static Result parse_text(const char *text)
{
    Json *v;
    Result r = json_parse(&v, text, strlen(text));
    json_free(v);
    return r;
}

TEST(json_that_is_refused)
{
    char deep[300] = {0};
    CHECK_FAILS(parse_text("{\"a\": 1, \"a\": 2}"), "duplicate");
    CHECK_FAILS(parse_text("{\"a\": 1} x"), "line 1");
    CHECK_FAILS(parse_text("{\"a\": \"\\u0000\"}"), "JSON");
    CHECK_FAILS(parse_text("{\"a\": 99999999999999999999}"), "JSON");
    CHECK_FAILS(parse_text(""), "JSON");
    memset(deep, '[', 65), memset(deep + 65, ']', 65);
    CHECK_FAILS(parse_text(deep), "nested deeper");
    memset(deep, 0, sizeof deep), memset(deep, '[', 64), memset(deep + 64, ']', 64);
    CHECK_OK(parse_text(deep));
    memset(deep, 0, sizeof deep), snprintf(deep, sizeof deep, "{\"brackets\": \"%080d\\\"[\"}", 0);
    for (char *c = deep; *c; c++) *c = *c == '0' ? '[' : *c;
    CHECK_OK(parse_text(deep));                                // those in a text do not count
}

TEST(json_values_and_their_bounds)
{
    Json *o;
    uint32_t n;
    int64_t i;
    double x;
    bool b;
    const char *text, *json = "{\"n\": 7, \"x\": 1.5, \"b\": true, \"t\": \"hi\", \"z\": null, \"big\": 5000000000, \"neg\": -3}";
    CHECK_OK(json_parse(&o, json, strlen(json)));
    CHECK_OK(json_get_u32(&n, o, "n", 1, 7));
    CHECK_EQUAL(7, n);
    CHECK_FAILS(json_get_u32(&n, o, "n", 1, 6), "n is 7, outside of 1..6");
    CHECK_FAILS(json_get_u32(&n, o, "big", 0, UINT32_MAX), "big");
    CHECK_FAILS(json_get_u32(&n, o, "neg", 0, 10), "neg is -3");
    CHECK_FAILS(json_get_u32(&n, o, "x", 0, 10), "x is a real, not an integer");
    CHECK_FAILS(json_get_u32(&n, o, "z", 0, 10), "z is absent");
    CHECK_OK(json_get_u32_or(&n, o, "z", 0, 10, 4));
    CHECK_EQUAL(4, n);
    CHECK_OK(json_get_int(&i, o, "neg", -3, 0));
    CHECK_OK(json_get_real(&x, o, "n", 0, 10));
    CHECK_OK(json_get_bool(&b, o, "b"));
    CHECK_FAILS(json_get_text(&text, o, "b"), "b is a truth value, not a text");
    CHECK_OK(json_get_text_or(&text, o, "none", "else"));
    CHECK(!strcmp(text, "else"));
    json_free(o);
}

TEST(json_written_and_read)
{
    Json *o = json_new_object(), *list = json_new_array(), *back;
    double x;
    const char *text;
    json_add(list, json_of_uint(3));
    json_add(list, json_of_real(0.1));
    json_put(o, "list", list);
    json_put(o, "f", json_of_float(1e-5f));
    json_put(o, "t", json_of_text("a\xFF\xC3\xA4\n"));
    CHECK_OK(json_write(o, in_folder("a.json")));
    CHECK_OK(json_read(&back, in_folder("a.json"), 1 << 10));
    CHECK_OK(json_as_real(&x, json_at(json_find(back, "list"), 1), "list", 0, 1));
    CHECK(x == 0.1);
    CHECK_OK(json_get_real(&x, back, "f", 0, 1));
    CHECK((float)x == 1e-5f);
    CHECK_OK(json_get_text(&text, back, "t"));
    CHECK(!strcmp(text, "a\xEF\xBF\xBD\xC3\xA4\n"));
    CHECK_FAILS(json_read(&back, in_folder("a.json"), 10), "a.json");
    json_free(o);
}

// ---- config ----------------------------------------------------------------------------------------------------------

#define LLAMA3 "\"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, " \
               "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}"
#define BASE "\"model_type\": \"llama\", \"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 8, " \
             "\"intermediate_size\": 96, \"vocab_size\": 300"

static Result parse_config(ModelConfig *c, const char *more)
{
    char text[2048];
    snprintf(text, sizeof text, "{%s%s%s}", BASE, *more ? ", " : "", more);
    return config_parse(c, text, strlen(text));
}

TEST(config_defaults_and_variants)
{
    ModelConfig c;
    CHECK_OK(parse_config(&c, ""));
    CHECK(c.kv_heads == 8 && c.head_dim == 8 && c.context == 2048 && !c.tied && c.bos == -1 && c.eos == -1);
    CHECK(c.rope_theta == 10000.0f && c.rope.factor == 1.0f && c.norm_eps == 1e-6f);
    CHECK_OK(parse_config(&c, "\"head_dim\": 16, \"num_key_value_heads\": 2, \"eos_token_id\": [7, 9], \"bos_token_id\": 5"));
    CHECK(c.head_dim == 16 && c.kv_heads == 2 && c.eos == 7 && c.bos == 5);
    CHECK(matrix_rows(&c, MAT_Q) == 128 && matrix_rows(&c, MAT_K) == 32 && matrix_cols(&c, MAT_O) == 128 && matrix_rows(&c, MAT_O) == 64);
    CHECK(matrix_rows(&c, MAT_GATE) == 96 && matrix_cols(&c, MAT_DOWN) == 96 && matrix_rows(&c, MAT_DOWN) == 64);
    CHECK_OK(parse_config(&c, LLAMA3));
    CHECK(c.rope.factor == 8.0f && c.rope.high_freq_factor == 4.0f && c.rope.original_context == 8192.0f && c.rope_theta == 5e5f);
    CHECK_OK(parse_config(&c, "\"rope_scaling\": null, \"sliding_window\": null, \"attention_bias\": false"));
    CHECK_OK(parse_config(&c, "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 250000.0}"));
    CHECK(c.rope_theta == 250000.0f);
}

TEST(config_that_cannot_be_run)
{
    static const struct { const char *more, *names; } cases[] = {
        {"\"attention_bias\": true", "attention_bias"}, {"\"mlp_bias\": true", "mlp_bias"}, {"\"hidden_act\": \"gelu\"", "gelu"},
        {"\"sliding_window\": 4096", "sliding_window"}, {"\"quantization_config\": {\"bits\": 4}", "quantization_config"},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}", "linear"}, {"\"rope_scaling\": {\"rope_type\": \"yarn\"}", "yarn"},
        {"\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}", "low_freq_factor"}, {"\"rope_scaling\": 3", "rope_scaling"},
        {"\"num_key_value_heads\": 3", "num_key_value_heads"}, {"\"head_dim\": 7", "head_dim"}, {"\"head_dim\": 0", "head_dim"},
        {"\"head_dim\": 4096", "head_dim"}, {"\"eos_token_id\": 300", "eos_token_id"},
        {"\"architectures\": [\"MistralForCausalLM\"]", "Mistral"},
        {"\"rms_norm_eps\": -1", "rms_norm_eps"}, {"\"rope_theta\": 0", "rope_theta"},
        {"\"max_position_embeddings\": 0", "max_position_embeddings"},
        {"\"tie_word_embeddings\": 1", "tie_word_embeddings"}, {"\"partial_rotary_factor\": 0.5", "partial_rotary_factor"},
        {"\"hidden_size\": 64", "duplicate"},
    };
    ModelConfig c;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) CHECK_FAILS(parse_config(&c, cases[i].more), cases[i].names);
    static const struct { const char *text, *names; } whole[] = {
        {"{}", "model_type"}, {"[]", "object"}, {"{\"model_type\": \"gpt2\"}", "gpt2"}, {"{\"model_type\": \"llama\"}", "hidden_size"},
        {"{\"model_type\": \"llama\", \"hidden_size\": 1e9}", "hidden_size"},
        {"{\"model_type\": \"llama\", \"hidden_size\": 9000000000}", "hidden_size"},
        {"{" BASE, "JSON"},
    };
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        CHECK_FAILS(config_parse(&c, whole[i].text, strlen(whole[i].text)), whole[i].names);
}

TEST(config_round_trip)
{
    ModelConfig c, d;
    Buffer text = {0};
    CHECK_OK(parse_config(&c, LLAMA3 ", \"rms_norm_eps\": 1e-5, \"bos_token_id\": 0"));
    CHECK_OK(config_write(&c, in_folder("config.json")));
    CHECK_OK(file_read(&text, in_folder("config.json"), 1 << 16));
    CHECK(strstr((char *)text.data, "\"rms_norm_eps\": 1e-5,"));
    CHECK_OK(config_parse(&d, (char *)text.data, text.len));
    CHECK(memcmp(&c, &d, sizeof c) == 0);
}

// ---- tensor files ----------------------------------------------------------------------------------------------------

/* A file with this header and `size` bytes of data, all zero. */
static Result parse_tensors(TensorFile *f, const char *header, size_t size, Arena *a)
{
    static Buffer file;
    file.len = 0;
    buffer_u64(&file, strlen(header));
    buffer_append(&file, header, strlen(header));
    for (size_t i = 0; i < size; i++) buffer_u8(&file, 0);
    return tensors_parse(f, file.data, file.len, a);
}

#define ENTRY(type, shape, ends) "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" ends "}"

TEST(tensor_headers_that_are_refused)
{
    static const struct { const char *header; size_t size; const char *names; } cases[] = {
        {"{\"a\":" ENTRY("F32", "[2,2]", "[0,16]") ",\"b\":" ENTRY("F32", "[2]", "[8,16]") "}", 16, "tensor 'b' overlaps tensor 'a'"},
        {"{\"a\":" ENTRY("F32", "[2]", "[0,8]") ",\"b\":" ENTRY("F32", "[2]", "[0,8]") "}", 8, "overlaps"},
        {"{\"a\":" ENTRY("F32", "[2]", "[0,8]") ",\"b\":" ENTRY("F32", "[2]", "[12,20]") "}", 20, "before tensor 'b'"},
        {"{\"a\":" ENTRY("F32", "[2]", "[0,8]") "}", 9, "1 bytes at the end"},
        {"{\"a\":" ENTRY("F32", "[2]", "[0,8]") "}", 7, "tensor 'a'"},
        {"{\"a\":" ENTRY("F32", "[2]", "[8,0]") "}", 8, "tensor 'a': data_offsets"},
        {"{\"a\":" ENTRY("F32", "[2]", "[-8,0]") "}", 8, "data_offsets is -8"},
        {"{\"a\":" ENTRY("F32", "[2]", "[0,8,9]") "}", 8, "data_offsets has more"},
        {"{\"a\":" ENTRY("F32", "[3]", "[0,8]") "}", 8, "shape"},
        {"{\"a\":" ENTRY("F32", "[1]", "[0,8]") "}", 8, "needs 4"},
        {"{\"a\":" ENTRY("F32", "[4294967296,4294967296]", "[0,0]") "}", 8, "shape has more elements"},
        {"{\"a\":" ENTRY("F32", "[4611686018427387904,4]", "[0,0]") "}", 8, "shape has more elements"},
        {"{\"a\":" ENTRY("F32", "[9223372036854775807]", "[0,9223372036854775807]") "}", 8, "shape has more elements"},
        {"{\"a\":" ENTRY("F32", "[0]", "[0,0]") "}", 0, "shape is 0"},
        {"{\"a\":" ENTRY("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "shape has more than 8"},
        {"{\"a\":" ENTRY("F16", "[2]", "[0,4]") "}", 4, "tensor 'a': dtype 'F16'"},
        {"{\"a\":" ENTRY("F32", "[1]", "[0,4]") ",\"a\":" ENTRY("F32", "[1]", "[4,8]") "}", 8, "duplicate"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets is absent"},
        {"{\"a\":7}", 4, "tensor 'a'"}, {"[]", 0, "not an object"}, {"{", 0, "header"}, {"", 0, "header"},
    };
    Arena a;
    TensorFile f;
    arena_init(&a, false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK_FAILS(parse_tensors(&f, cases[i].header, cases[i].size, &a), cases[i].names);
    uint8_t big[16] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}, none[8] = {0};
    CHECK_FAILS(tensors_parse(&f, big, sizeof big, &a), "header of 18446744073709551615 bytes");
    CHECK_FAILS(tensors_parse(&f, big, 7, &a), "");
    CHECK_FAILS(tensors_parse(&f, none, 8, &a), "header");
    CHECK_OK(parse_tensors(&f, "{\"__metadata__\":{\"x\":\"y\"},\"a\":" ENTRY("F32", "[1]", "[2,6]") ",\"b\":" ENTRY("BF16", "[1]",
        "[0,2]") "}   ", 6, &a));
    CHECK_EQUAL(2, f.count);
}

static void load_stories(void) { CHECK_OK(model_load(&model, story_dir())); }

TEST(model_of_the_stories)
{
    load_stories();
    CHECK(model.config.layers == 5 && model.config.tied && model.head == model.embed && model.config.eos == 2);
    model_free(&model);
    model_free(&model);
}

static bool close_to(const float *a, const float *b, size_t len, float tolerance)
{
    for (size_t i = 0; i < len; i++)
        if (!(fabsf(a[i] - b[i]) <= tolerance * fabsf(a[i]))) return false;
    return true;
}

static bool same_weights(const Model *a, const Model *b, float tolerance)
{
    const ModelConfig *c = &a->config;
    bool same = memcmp(c, &b->config, sizeof *c) == 0 && close_to(a->embed, b->embed, (size_t)c->vocab * c->width, tolerance);
    for (uint32_t l = 0; l < c->layers; l++) {
        const LayerWeights *x = &a->layer[l], *y = &b->layer[l];
        for (MatrixKind m = 0; m < MAT_COUNT; m++)
            same &= close_to(x->mat[m], y->mat[m], (size_t)matrix_rows(c, m) * matrix_cols(c, m), tolerance);
        same &= close_to(x->attn_norm, y->attn_norm, c->width, tolerance) && close_to(x->ffn_norm, y->ffn_norm, c->width, tolerance);
    }
    return same;
}

TEST(model_saved_and_loaded)
{
    Model back, untied;
    load_stories();
    CHECK_OK(model_save(&model, in_folder("f32"), "F32"));
    CHECK_OK(model_load(&back, in_folder("f32")));
    CHECK(same_weights(&model, &back, 0));
    model_free(&back);
    CHECK_OK(model_save(&model, in_folder("bf16"), "BF16"));
    CHECK_OK(model_load(&back, in_folder("bf16")));
    CHECK(same_weights(&model, &back, 0x1p-8f) && !same_weights(&model, &back, 0x1p-12f));
    CHECK_OK(model_save(&back, in_folder("again"), "BF16"));   // what is bf16 already stays as it is
    Model again;
    CHECK_OK(model_load(&again, in_folder("again")));
    CHECK(same_weights(&back, &again, 0));
    CHECK_FAILS(model_save(&model, in_folder("f16"), "F16"), "F16");
    untied = model;
    untied.config.tied = false;
    CHECK_OK(model_save(&untied, in_folder("untied"), "F32"));
    CHECK_OK(model_load(&again, in_folder("untied")));
    CHECK(again.head != again.embed && memcmp(again.head, model.head, (size_t)512 * 64 * 4) == 0);
}

// ---- folders that lie ------------------------------------------------------------------------------------------------

static Buffer weights;                         // of the stories, to be changed

/* The folder with this config (the stories' own if NULL) and the changed weights. */
static Result load_changed(const char *config)
{
    Model m;
    Buffer text = {0};
    char from[4200];
    snprintf(from, sizeof from, "%s/config.json", story_dir());
    if (config) buffer_append(&text, config, strlen(config));
    else CHECK_OK(file_read(&text, from, 1 << 16));
    CHECK_OK(folder_make(in_folder("bad"), 0755));
    CHECK_OK(file_write(in_folder("bad/config.json"), text.data, text.len, 0644));
    CHECK_OK(file_write(in_folder("bad/model.safetensors"), weights.data, weights.len, 0644));
    Result r = model_load(&m, in_folder("bad"));
    model_free(&m);
    buffer_free(&text);
    return r;
}

static void read_weights(void)
{
    char from[4200];
    snprintf(from, sizeof from, "%s/model.safetensors", story_dir());
    CHECK_OK(file_read(&weights, from, 1 << 22));
}

/* Replaces the first `old` in the header by a text of the same length. */
static void patch(const char *old, const char *now)
{
    CHECK_EQUAL(strlen(old), strlen(now));
    uint8_t *at = memmem(weights.data, weights.len, old, strlen(old));
    CHECK(at != NULL);
    memcpy(at, now, strlen(now));
}

TEST(weights_that_do_not_fit)
{
    static const struct { const char *old, *now, *names; } cases[] = {
        {"layers.3.mlp.up_proj", "layers.9.mlp.up_proj", "'model.layers.3.mlp.up_proj.weight' is missing"},
        {"[64,172]", "[172,64]", "'model.layers.0.mlp.down_proj.weight' has shape (172, 64), not (64, 172)"},
        {"\"shape\":[64]", "\"shape\":[32]", "input_layernorm"},
        {"\"F32\"", "\"F16\"", "F16"}, {"\"F32\"", "\"I32\"", "I32"},
    };
    read_weights();
    CHECK_OK(load_changed(NULL));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        read_weights();
        patch(cases[i].old, cases[i].now);
        CHECK_FAILS(load_changed(NULL), cases[i].names);
        CHECK(strstr(result_text(), "bad/model.safetensors"));
    }
    static const float wrong[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        read_weights();
        memcpy(weights.data + weights.len - 8, &wrong[i], 4);  // the last tensor: the final norm
        CHECK_FAILS(load_changed(NULL), "'model.norm.weight' holds a NaN or an infinity");
    }
}

TEST(configs_that_do_not_fit_the_weights)
{
    static const char format[] = "{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_hidden_layers\": %d, \"num_attention_heads\": 8, "
        "\"num_key_value_heads\": %d, \"intermediate_size\": 172, \"vocab_size\": %d, \"tie_word_embeddings\": %s}";
    static const struct { int layers, kv, vocab; const char *tied, *names; } cases[] = {
        {5, 4, 513, "true", "embed_tokens"}, {6, 4, 512, "true", "'model.layers.5.input_layernorm.weight' is missing"},
        {4, 4, 512, "true", "'model.layers.4."}, {5, 8, 512, "true", "k_proj"}, {5, 4, 512, "false", "'lm_head.weight' is missing"},
    };
    char text[1024];
    read_weights();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, format, cases[i].layers, cases[i].kv, cases[i].vocab, cases[i].tied);
        CHECK_FAILS(load_changed(text), cases[i].names);
    }
    CHECK_FAILS(load_changed("{}"), "bad/config.json: model_type");
    Model m;
    CHECK_FAILS(model_load(&m, "/nonexistent"), "/nonexistent/config.json");
    model_free(&m);
}

TEST(weights_cut_or_changed_anywhere)
{
    Arena a;
    TensorFile f;
    arena_init(&a, false);
    read_weights();
    for (size_t len = 0; len < weights.len; len += len < 5000 ? 1 : 9973) {
        CHECK_FAILS(tensors_parse(&f, weights.data, len, &a), "");
    }
    for (int i = 0; i < 3000; i++) {                           // must end, whatever it says
        ArenaMark mark = arena_mark(&a);
        size_t at = (size_t)(test_random() * 4920);
        uint8_t was = weights.data[at];
        weights.data[at] = (uint8_t)(32 + test_random() * 95);
        Result r = tensors_parse(&f, weights.data, weights.len, &a);
        CHECK(failed(r) || f.count > 0);
        weights.data[at] = was;
        arena_rollback(&a, mark);
    }
}

// ---- adapters --------------------------------------------------------------------------------------------------------

/* Factors for some matrices of the layers from 2 on; odd: not the same ones in each layer. */
static Adapter make_adapter(bool odd, float scale)
{
    const ModelConfig *c = &model.config;
    Adapter a = {.layers = c->layers, .first = 2};
    arena_init(&a.arena, false);
    a.pair = arena_alloc(&a.arena, c->layers, sizeof *a.pair);
    for (uint32_t l = 2; l < c->layers; l++) {
        for (MatrixKind m = 0; m < MAT_COUNT; m += 2) {
            if (odd && l == 3 && m == 0) continue;
            size_t down = (size_t)3 * matrix_cols(c, m), up = (size_t)3 * matrix_rows(c, m);
            a.pair[l][m] = (LoraPair){arena_new(&a.arena, float, down), arena_new(&a.arena, float, up), 3, scale};
            for (size_t i = 0; i < down; i++) a.pair[l][m].a[i] = (float)test_random();
            for (size_t i = 0; i < up; i++) a.pair[l][m].b[i] = (float)test_random();
        }
    }
    return a;
}

static bool same_pair(const LoraPair *x, const LoraPair *y, MatrixKind m)
{
    if (!x->a || !y->a) return !x->a && !y->a && !x->b && !y->b;
    size_t down = (size_t)x->rank * matrix_cols(&model.config, m), up = (size_t)x->rank * matrix_rows(&model.config, m);
    return x->rank == y->rank && x->scale == y->scale && !memcmp(x->a, y->a, down * sizeof(float)) && !memcmp(x->b, y->b,
        up * sizeof(float));
}

TEST(adapter_round_trip)
{
    load_stories();
    for (int i = 0; i < 4; i++) {
        Adapter a = make_adapter(i & 1, i & 2 ? 0.7f : 2.0f), b;
        CHECK_OK(adapter_save(&a, in_folder("lora"), &model.config, "stories"));
        CHECK_OK(adapter_load(&b, in_folder("lora"), &model.config));
        CHECK(b.first == 2 && b.layers == 5);
        for (uint32_t l = 0; l < 5; l++)
            for (MatrixKind m = 0; m < MAT_COUNT; m++) CHECK(same_pair(&a.pair[l][m], &b.pair[l][m], m));
        adapter_free(&a);
        adapter_free(&b);
    }
    Adapter a = make_adapter(false, 1);
    a.pair[4][0].scale = 2;
    CHECK_FAILS(adapter_save(&a, in_folder("lora"), &model.config, "stories"), "scales");
}

TEST(adapter_files_have_the_names_of_peft)
{
    Json *o;
    const Json *list;
    const char *text;
    uint32_t n;
    load_stories();
    Adapter a = make_adapter(false, 2);
    CHECK_OK(adapter_save(&a, in_folder("lora"), &model.config, "stories"));
    CHECK_OK(json_read(&o, in_folder("lora/adapter_config.json"), 1 << 16));
    CHECK_OK(json_get_text(&text, o, "peft_type"));
    CHECK(!strcmp(text, "LORA"));
    CHECK_OK(json_get_text(&text, o, "base_model_name_or_path"));
    CHECK(!strcmp(text, "stories"));
    CHECK_OK(json_get_u32(&n, o, "lora_alpha", 6, 6));
    CHECK_OK(json_get_array(&list, o, "target_modules", 4));
    CHECK_EQUAL(4, json_count(list));
    CHECK_OK(json_as_text(&text, json_at(list, 0), "target"));
    CHECK(!strcmp(text, "q_proj"));
    CHECK_OK(json_get_array(&list, o, "layers_to_transform", 3));
    CHECK_EQUAL(3, json_count(list));
    FileMap map;
    TensorFile f;
    CHECK_OK(file_map(&map, in_folder("lora/adapter_model.safetensors")));
    CHECK_OK(tensors_parse(&f, map.data, map.len, &a.arena));
    CHECK_EQUAL(3 * 4 * 2, f.count);
    CHECK(tensors_have(&f, "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"));
    CHECK(tensors_have(&f, "base_model.model.model.layers.4.mlp.down_proj.lora_B.weight"));
}

#define LORA "\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 6"

TEST(adapter_configs)
{
    static const struct { const char *more, *names; } cases[] = {
        {"\"use_dora\": true", "use_dora"}, {"\"modules_to_save\": [\"lm_head\"]", "modules_to_save"}, {"\"bias\": \"all\"", "bias"},
        {"\"rank_pattern\": {\"q_proj\": 8}", "rank_pattern"}, {"\"alpha_pattern\": {\"q_proj\": 8}", "alpha_pattern"},
        {"\"task_type\": \"SEQ_CLS\"", "SEQ_CLS"}, {"\"init_lora_weights\": \"pissa\"", "pissa"},
        {"\"target_modules\": \".*q_proj\"", "pattern"}, {"\"target_modules\": [\"lm_head\"]", "lm_head"},
        {"\"target_modules\": [\"proj\"]", "'proj'"}, {"\"target_modules\": [\"\"]", "''"},
        {"\"target_modules\": [\"model.layers.7.mlp.up_proj\"]", "layers.7"},
        {"\"target_modules\": [\"q_proj\"], \"layers_to_transform\": [5]", "layers_to_transform"},
        {"\"lora_bias\": true", "lora_bias"}, {"\"x\": 1", "target_modules"},
        {"\"target_modules\": [\"q_proj\"], \"layers_pattern\": \"h\"", "layers_pattern"},
    };
    AdapterConfig g;
    ModelConfig c = {.layers = 5};
    Arena a;
    char text[1024];
    arena_init(&a, false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, "{%s, %s}", LORA, cases[i].more);
        CHECK_FAILS(adapter_config_parse(&g, text, strlen(text), &c, &a), cases[i].names);
    }
    static const char full[] = "{" LORA ", \"target_modules\": [\"q_proj\", \"mlp.up_proj\", \"model.layers.1.self_attn.o_proj\"], "
        "\"layers_to_transform\": 3, \"modules_to_save\": null, \"rank_pattern\": {}, \"use_dora\": false, \"init_lora_weights\": true, "
        "\"use_rslora\": true, \"layers_pattern\": null}";
    CHECK_OK(adapter_config_parse(&g, full, strlen(full), &c, &a));
    CHECK(g.wanted[MAT_Q] && g.wanted[MAT_UP] && !g.wanted[MAT_O] && g.single[1][MAT_O] && g.chosen[3] && !g.chosen[1] && !g.every_layer);
    CHECK_NEAR(6 / sqrt(3), (double)g.scale, 1e-6);
    static const char other[] = "{\"peft_type\": \"IA3\"}";
    CHECK_FAILS(adapter_config_parse(&g, other, strlen(other), &c, &a), "IA3");
}

TEST(adapters_that_do_not_fit)
{
    static const struct { const char *more, *names; } cases[] = {
        {"\"target_modules\": [\"q_proj\"]", "'base_model.model.model.layers.4.self_attn.q_proj.lora_A.weight' has shape"},
        {"\"target_modules\": [\"k_proj\"]", "k_proj.lora_A.weight' is missing"},
        {"\"target_modules\": [\"q_proj\", \"v_proj\", \"gate_proj\", \"down_proj\"]",
         "layers.1.self_attn.q_proj.lora_A.weight' is missing"},
        {"\"target_modules\": [\"q_proj\", \"v_proj\", \"gate_proj\"], \"layers_to_transform\": [2, 3, 4]",
         "down_proj.lora_A.weight' is not part"},
        {"\"target_modules\": []", "no matrix has factors"},
    };
    char text[1024];
    Adapter b;
    load_stories();
    Adapter a = make_adapter(false, 2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_OK(adapter_save(&a, in_folder("lora"), &model.config, "stories"));
        snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": 6, %s}", i == 0 ? 4 : 3, cases[i].more);
        write_text(in_folder("lora/adapter_config.json"), text);
        CHECK_FAILS(adapter_load(&b, in_folder("lora"), &model.config), cases[i].names);
        adapter_free(&b);
    }
    a.pair[3][0].b[5] = NAN;
    CHECK_OK(adapter_save(&a, in_folder("lora"), &model.config, "stories"));
    CHECK_FAILS(adapter_load(&b, in_folder("lora"), &model.config), "layers.3.self_attn.q_proj.lora_B.weight' holds a NaN");
    adapter_free(&b);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
