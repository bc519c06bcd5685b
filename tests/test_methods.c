/* test_methods.c - the methods of tuning: gradients of each against finite differences, and that each of them learns. */
#include "model/json.h"
#include "model/layers.h"
#include "model/safetensors.h"
#include "tune/dropout.h"
#include "tune/sha256.h"
#include "tune/teacher.h"
#include "test.h"

static const ModelConfig tiny = {.width = 20, .layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 6, .ffn = 28, .vocab = 37, .context = 96,
                                 .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .tied = true};

// ---- a student and its gradients -------------------------------------------------------------------------------------

typedef struct Form { bool standard, share; LoraFactor fixed; float dropout; Objective objective; bool shares_cut; uint32_t first; } Form;

typedef struct Student {
    Arena arena;
    Model model, taught;
    Adapter adapter;
    Params params;
    float *values, *grad_values;
    Grads grads;
    Net net;
    NetScratch *scratch;
    Pack *pack;
    Objective objective;
} Student;

static void samples_make(Sample *s, size_t count, Arena *a)
{
    for (size_t i = 0; i < count; i++) {
        s[i].len = (uint32_t)(5 + 11 * i);
        s[i].tokens = arena_new(a, int32_t, s[i].len);
        s[i].learn = arena_new(a, uint8_t, s[i].len);
        for (uint32_t t = 0; t < s[i].len; t++) s[i].tokens[t] = (int32_t)(test_random() * 37), s[i].learn[t] = t > 2;
    }
}

static void factors_make(Student *s, const Form *f)
{
    const ModelConfig *c = &s->model.config;
    s->adapter = (Adapter){.layers = c->layers, .first = f->first, .fixed = f->fixed, .share_qkv = f->share, .share_gate_up = f->share};
    s->adapter.pair = arena_alloc(&s->arena, c->layers, sizeof *s->adapter.pair);
    for (uint32_t l = f->first; l < c->layers; l++)
        for (MatrixKind m = 0; m < MAT_COUNT; m++) s->adapter.pair[l][m] = (LoraPair){.rank = 3, .scale = 1.5f};
    params_of_adapter(&s->params, c, &s->adapter, &s->arena);
    s->values = arena_new(&s->arena, float, s->params.total);
    params_bind_adapter(&s->adapter, c, s->values, &s->arena);
    params_init_adapter(&s->adapter, c, 1);
    s->net.adapter = &s->adapter;
}

static void student_new(Student *s, const Form *f)
{
    *s = (Student){.objective = f->objective};
    arena_init(&s->arena, false);
    model_random(&s->model, &tiny, 7);
    model_random(&s->taught, &tiny, f->shares_cut ? 7 : 8);
    const ModelConfig *c = &s->model.config;
    float *rope = arena_new(&s->arena, float, 96 * 6);
    rope_table(rope, c, 96);
    s->net = (Net){.model = &s->model, .first = f->first, .rope = rope, .dropout = f->dropout};
    if (f->standard) {
        params_of_layers(&s->params, c, f->first, &s->arena);
        s->values = arena_new(&s->arena, float, s->params.total);
        params_bind_layers(&s->model, f->first, s->values, &s->arena);
    } else factors_make(s, f);
    for (size_t i = 0; i < s->params.total; i++) s->values[i] += (float)(0.2 * (test_random() - 0.5));
    s->grad_values = arena_new(&s->arena, float, s->params.total);
    if (f->standard) params_bind_layer_grads(&s->grads, c, f->first, s->grad_values, &s->arena);
    else params_bind_grads(&s->grads, c, &s->adapter, s->grad_values, &s->arena);
    s->scratch = net_scratch(&s->net, 128, &s->arena);
    if (f->objective.logits > 0 || f->objective.hidden > 0)
        s->objective.teacher = teacher_new(&s->taught, &s->net, f->shares_cut, 128, &s->arena);
    s->pack = pack_new(128, &s->arena);
    Sample samples[4];
    samples_make(samples, 4, &s->arena);
    CHECK_EQUAL(4, pack_fill(s->pack, 128, samples, 4));
    for (size_t i = 0; i < 4; i++) s->pack->noise[i] = noise_of(3, 1, i);
}

static void student_free(Student *s)
{
    model_free(&s->model);
    model_free(&s->taught);
    arena_free(&s->arena);
}

static double objective_value(Student *s)
{
    const Objective *o = &s->objective;
    Losses l = net_learn(&s->net, s->scratch, s->pack, o, NULL);
    return (double)o->labels * l.labels + (double)o->logits * l.logits + (double)o->hidden * l.hidden;
}

static void gradients_check(const Form *f)
{
    Student s;
    student_new(&s, f);
    net_learn(&s.net, s.scratch, s.pack, &s.objective, &s.grads);
    size_t nonzero = 0;
    for (size_t b = 0; b < s.params.count; b++) {
        size_t at = s.params.block[b].at, len = s.params.block[b].len;
        for (size_t i = at; i < at + len; i += len / 9 + 1) {
            float old = s.values[i];
            s.values[i] = old + 4e-3f;
            double up = objective_value(&s), up_at = (double)s.values[i];
            s.values[i] = old - 4e-3f;
            double down = objective_value(&s), want = (up - down) / (up_at - (double)s.values[i]), got = (double)s.grad_values[i];
            s.values[i] = old;
            nonzero += fabs(want) > 1e-3;
            if (fabs(want - got) <= 3e-3 * (1 + fabs(want))) continue;
            fprintf(stderr, "block %zu, %zu: gradient %.6g, difference %.6g\n", b, i - at, got, want);
            exit(1);
        }
    }
    CHECK(nonzero > 20);
    student_free(&s);
}

#define LABELS {.labels = 0.02f}
TEST(gradients_of_all_weights_of_the_upper_layers) { gradients_check(&(Form){.standard = true, .first = 1, .objective = LABELS}); }
TEST(gradients_of_all_weights_of_all_layers) { gradients_check(&(Form){.standard = true, .objective = LABELS}); }
TEST(gradients_under_dropout) { gradients_check(&(Form){.dropout = 0.3f, .first = 1, .objective = LABELS}); }
TEST(gradients_of_shared_factors) { gradients_check(&(Form){.share = true, .first = 1, .objective = LABELS}); }
TEST(gradients_beside_fixed_factors)
{
    gradients_check(&(Form){.fixed = FACTOR_A, .first = 1, .objective = LABELS});
    gradients_check(&(Form){.fixed = FACTOR_B, .share = true, .dropout = 0.2f, .first = 1, .objective = LABELS});
}
TEST(gradients_of_hidden_states) { gradients_check(&(Form){.first = 1, .objective = {.hidden = 0.05f}}); }
TEST(gradients_of_logits)
{
    gradients_check(&(Form){.first = 1, .objective = {.logits = 0.02f, .temperature = 1}});
    gradients_check(&(Form){.first = 2, .shares_cut = true, .objective = {.logits = 0.02f, .temperature = 2.5f}});
}
TEST(gradients_of_everything_at_once)
{
    Objective all = {.labels = 0.01f, .logits = 0.02f, .temperature = 2, .hidden = 0.03f};
    gradients_check(&(Form){.first = 1, .share = true, .dropout = 0.1f, .objective = all});
    gradients_check(&(Form){.first = 1, .standard = true, .objective = all});
}

TEST(losses_from_a_teacher_are_as_defined)
{
    float student[3] = {1, 2, 0.5f}, teacher[3] = {0, 1, -1}, work[3], d[3] = {0};
    double p[3], q[3], ps = 0, qs = 0, want = 0, T = 2;
    for (int i = 0; i < 3; i++) ps += p[i] = exp((double)teacher[i] / T), qs += q[i] = exp((double)student[i] / T);
    for (int i = 0; i < 3; i++) want += p[i] / ps * log(p[i] / ps / (q[i] / qs)) * T * T;
    CHECK_NEAR(want, divergence_row(d, student, teacher, work, 3, 2, 1), 1e-6);
    Student s;
    student_new(&s, &(Form){.first = 1, .shares_cut = true, .objective = {.logits = 1, .hidden = 1, .temperature = 1}});
    memset(s.values, 0, s.params.total * sizeof *s.values);            // the student is its teacher
    Losses l = net_learn(&s.net, s.scratch, s.pack, &s.objective, &s.grads);
    CHECK_NEAR(0, l.hidden, 1e-9);
    CHECK_NEAR(0, l.logits, 1e-4);
    for (size_t i = 0; i < s.params.total; i++) CHECK_NEAR(0, s.grad_values[i], 1e-4);
    student_free(&s);
}

// ---- masks, cuts, factors --------------------------------------------------------------------------------------------

TEST(dropout_keeps_its_share_and_follows_the_sample)
{
    enum { COLUMNS = 500, LEN = 40 };
    Arena a;
    arena_init(&a, false);
    Pack *p = pack_new(2 * LEN, &a), *q = pack_new(LEN, &a);
    float *in = arena_new(&a, float, 2 * LEN * COLUMNS), *out = arena_new(&a, float, 2 * LEN * COLUMNS), *alone = arena_new(&a, float, LEN * COLUMNS);
    for (size_t i = 0; i < 2 * LEN * COLUMNS; i++) in[i] = 1;
    p->rows = 2 * LEN, p->samples = 2, p->start[1] = LEN, p->start[2] = 2 * LEN;
    p->noise[0] = noise_of(1, 2, 0), p->noise[1] = noise_of(1, 2, 1);
    dropout_apply(out, in, p, 5, COLUMNS, 0.25f);
    double sum = 0, both = 0;
    for (size_t i = 0; i < 2 * LEN * COLUMNS; i++) sum += (double)out[i];
    for (size_t i = 0; i < LEN * COLUMNS; i++) both += out[i] > 0 && out[i + LEN * COLUMNS] > 0;
    CHECK_NEAR(1, sum / (2 * LEN * COLUMNS), 0.02);
    CHECK_NEAR(0.75 * 0.75, both / (LEN * COLUMNS), 0.02);
    q->rows = LEN, q->samples = 1, q->start[1] = LEN, q->noise[0] = p->noise[1];
    dropout_apply(alone, in, q, 5, COLUMNS, 0.25f);        // wherever the sample lies
    CHECK(!memcmp(alone, out + LEN * COLUMNS, LEN * COLUMNS * sizeof *alone));
    q->noise[0] = 0;
    dropout_apply(alone, in, q, 5, COLUMNS, 0.25f);
    CHECK(!memcmp(alone, in, LEN * COLUMNS * sizeof *alone));
    arena_free(&a);
}

TEST(a_cut_that_was_kept_changes_no_bit)
{
    Student s;
    student_new(&s, &(Form){.first = 2, .dropout = 0.1f, .objective = LABELS});
    Losses computed = net_learn(&s.net, s.scratch, s.pack, &s.objective, &s.grads);
    float *first = arena_new(&s.arena, float, s.params.total);
    memcpy(first, s.grad_values, s.params.total * sizeof *first);
    memset(s.grad_values, 0, s.params.total * sizeof *first);
    for (size_t i = 0; i < s.pack->samples; i += 2) {
        size_t at = s.pack->start[i], rows = s.pack->start[i + 1] - at;
        float *cut = arena_new(&s.arena, float, rows * tiny.width);
        net_cut(&s.net, s.scratch, cut, s.pack->token + at, rows);
        s.pack->cut[i] = cut;
    }
    Losses kept = net_learn(&s.net, s.scratch, s.pack, &s.objective, &s.grads);
    CHECK(computed.labels == kept.labels);
    CHECK(!memcmp(first, s.grad_values, s.params.total * sizeof *first));
    student_free(&s);
}

TEST(factors_are_shared_and_fixed_as_said)
{
    Student s, again;
    student_new(&s, &(Form){.first = 1, .share = true, .fixed = FACTOR_A, .objective = LABELS});
    student_new(&again, &(Form){.first = 1, .share = true, .fixed = FACTOR_A, .objective = LABELS});
    size_t b_only = 0;
    for (uint32_t l = 1; l < tiny.layers; l++)
        for (MatrixKind m = 0; m < MAT_COUNT; m++) b_only += (size_t)3 * matrix_rows(&tiny, m);
    CHECK_EQUAL(b_only, s.params.total);
    const LoraPair *p = s.adapter.pair[1], *q = again.adapter.pair[1];
    CHECK(p[MAT_Q].a == p[MAT_V].a && p[MAT_GATE].a == p[MAT_UP].a && p[MAT_Q].a != p[MAT_GATE].a && p[MAT_Q].b != p[MAT_V].b);
    CHECK(!memcmp(p[MAT_DOWN].a, q[MAT_DOWN].a, 3 * tiny.ffn * sizeof(float)));        // from the seed alone
    student_free(&s);
    student_free(&again);
}

TEST(merged_factors_give_the_same_logits)
{
    Student s;
    Model merged;
    student_new(&s, &(Form){.first = 1, .share = true, .objective = LABELS});
    model_merge(&merged, &s.model, &s.adapter);
    PlainState *apart = plain_new(&s.model, &s.adapter, 32, &s.arena), *whole = plain_new(&merged, NULL, 32, &s.arena);
    PlainState *without = plain_new(&s.model, NULL, 32, &s.arena);
    float *x = arena_new(&s.arena, float, 9 * 37), *y = arena_new(&s.arena, float, 9 * 37), *z = arena_new(&s.arena, float, 9 * 37);
    CHECK_OK(plain_forward(apart, x, s.pack->token + 4, 9));
    CHECK_OK(plain_forward(whole, y, s.pack->token + 4, 9));
    CHECK_OK(plain_forward(without, z, s.pack->token + 4, 9));
    double most = 0;
    for (int i = 0; i < 9 * 37; i++) {
        CHECK_NEAR(x[i], y[i], 1e-5);
        most = fmax(most, fabs((double)x[i] - (double)z[i]));
    }
    CHECK(most > 1e-2);
    model_free(&merged);
    student_free(&s);
}

// ---- adapters from elsewhere -----------------------------------------------------------------------------------------

static const char *path_in(const char *name)               // in the case's folder
{
    static char path[8][4200];
    static unsigned next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", test_folder(), name);
    return p;
}

static const char *file_make(const char *name, const char *text)
{
    const char *p = path_in(name);
    CHECK_OK(file_write(p, text, strlen(text), 0644));
    return p;
}

/* What PEFT 0.15 writes for LoraConfig(r=2, lora_alpha=8, lora_dropout=0.05, layers_to_transform=[2]). */
static const char peft_config[] =
    "{\"alpha_pattern\": {}, \"auto_mapping\": null, \"base_model_name_or_path\": \"base\", \"bias\": \"none\", \"corda_config\": null, "
    "\"eva_config\": null, \"exclude_modules\": null, \"fan_in_fan_out\": false, \"inference_mode\": true, \"init_lora_weights\": true, "
    "\"layer_replication\": null, \"layers_pattern\": null, \"layers_to_transform\": [2], \"loftq_config\": {}, \"lora_alpha\": 8, "
    "\"lora_bias\": false, \"lora_dropout\": 0.05, \"megatron_config\": null, \"megatron_core\": \"megatron.core\", \"modules_to_save\": null, "
    "\"peft_type\": \"LORA\", \"r\": 2, \"rank_pattern\": {}, \"revision\": null, \"target_modules\": [\"v_proj\", \"q_proj\"], "
    "\"task_type\": \"CAUSAL_LM\", \"trainable_token_indices\": null, \"use_dora\": false, \"use_rslora\": false}";

TEST(an_adapter_of_peft_is_taken_and_given_back_as_it_is)
{
    static float q_a[2 * 20], q_b[24 * 2], v_a[2 * 20], v_b[12 * 2];
    float *all[4] = {q_a, q_b, v_a, v_b};
    size_t len[4] = {40, 48, 40, 24};
    for (int t = 0; t < 4; t++)
        for (size_t i = 0; i < len[t]; i++) all[t][i] = (float)(test_random() - 0.5);
    #define NAME(m, f) "base_model.model.model.layers.2.self_attn." m "_proj.lora_" f ".weight"
    TensorOut tensors[4] = {{NAME("q", "A"), q_a, 2, 20}, {NAME("q", "B"), q_b, 24, 2}, {NAME("v", "A"), v_a, 2, 20}, {NAME("v", "B"), v_b, 12, 2}};
    CHECK_OK(tensors_write(path_in("adapter_model.safetensors"), tensors, 4, "F32"));
    file_make("adapter_config.json", peft_config);
    Adapter a, b;
    CHECK_OK(adapter_load(&a, test_folder(), &tiny));
    CHECK_EQUAL(2, a.first);
    CHECK_NEAR(4, a.pair[2][MAT_Q].scale, 0);
    CHECK_NEAR(0.05, a.dropout, 1e-8);
    CHECK(a.pair[2][MAT_V].a && !a.pair[2][MAT_K].a && !a.pair[1][MAT_Q].a);
    CHECK_OK(adapter_save(&a, path_in("back"), &tiny, "base"));
    CHECK_OK(adapter_load(&b, path_in("back"), &tiny));
    CHECK(!memcmp(b.pair[2][MAT_Q].a, q_a, sizeof q_a) && !memcmp(b.pair[2][MAT_V].b, v_b, sizeof v_b));
    CHECK(a.dropout == b.dropout && a.pair[2][MAT_Q].scale == b.pair[2][MAT_Q].scale);
    Json *want, *got;
    CHECK_OK(json_read(&want, path_in("adapter_config.json"), 1 << 16));
    CHECK_OK(json_read(&got, path_in("back/adapter_config.json"), 1 << 16));
    for (JsonEach e = {0}; json_each(got, &e);) CHECK(json_find(want, e.key));         // PEFT's names, and none of our own
    json_free(want);
    json_free(got);
    adapter_free(&a);
    adapter_free(&b);
}

// ---- runs ------------------------------------------------------------------------------------------------------------

TEST(files_are_named_by_their_sha256)
{
    char hex[65], million[1000] = {0};
    sha256_hex(hex, (const uint8_t *)"abc", 3);            // the examples of FIPS 180-4
    CHECK(!strcmp(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    sha256_hex(hex, (const uint8_t *)"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
    CHECK(!strcmp(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"));
    memset(million, 'a', sizeof million);
    Buffer b = {0};
    for (int i = 0; i < 1000; i++) buffer_append(&b, million, sizeof million);
    sha256_hex(hex, b.data, b.len);
    CHECK(!strcmp(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
    buffer_free(&b);
}

/* A base that has seen the sentences, and its teacher's data: the same sentences asked for their last word. */
static void base_make(void)
{
    static const char *const who[] = {"the cat", "a dog", "my friend", "the old man", "a bird"};
    static const char *const does[] = {"sees", "likes", "finds", "hears", "wants"};
    Buffer b = {0};
    for (int i = 0; i < 500; i++)
        buffer_format(&b, "%s %s %d\t%s %d\n", who[i % 5], does[i / 5 % 5], i, who[(i + i / 5) % 5], i);
    buffer_u8(&b, 0);
    file_make("corpus.txt", (const char *)b.data);
    CHECK_OK(tokenizer_train((const char *)b.data, b.len - 1, 320, path_in("tokenizer.model")));
    buffer_free(&b);
    Model m;
    ModelConfig c = {.width = 32, .layers = 4, .heads = 4, .kv_heads = 4, .head_dim = 8, .ffn = 48, .vocab = 320, .context = 64,
                     .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .tied = true, .bos = 1, .eos = 2};
    model_random(&m, &c, 5);
    CHECK_OK(model_save(&m, path_in("base"), "F32"));
    CHECK_OK(tokenizer_copy(path_in("tokenizer.model"), path_in("base")));
    model_free(&m);
}

#define HEAD(out) "out: " out "\nbase: base\ncontext: 48\nbatch_tokens: 512\nsteps: 24\nlog_every: 1\neval_every: 6\nlearning_rate: 5e-3\n" \
                  "warmup: 4\nsources:\n  - {kind: pairs, path: corpus.txt, prompt: \"{0}\\n\", completion: \"{1}\"}\n"
#define LORA "lora: {rank: 4, dropout: 0.1, share: [qkv], targets: [q_proj, k_proj, v_proj, o_proj, down_proj]}\n"
#define DISTILL "distill: {teacher: teacher/model, labels: 0.5, hidden_share: 0.4}\n"

static Result tune_try(const char *name, const char *recipe, bool resume)
{
    TrainOptions o = {.threads = 2, .resume = resume, .version = "test"};
    return tune_run(file_make(name, recipe), &o);
}

static double number_in(const char *path, const char *key)
{
    Json *o;
    double v;
    CHECK_OK(json_read(&o, path_in(path), 1 << 20));
    CHECK_OK(json_get_real(&v, o, key, -1e9, 1e9));
    json_free(o);
    return v;
}

static void same_files(const char *a, const char *b)
{
    char hex[2][65];
    CHECK_OK(sha256_file(hex[0], path_in(a)));
    CHECK_OK(sha256_file(hex[1], path_in(b)));
    if (strcmp(hex[0], hex[1])) fprintf(stderr, "%s and %s differ\n", a, b);
    CHECK(!strcmp(hex[0], hex[1]));
}

TEST(every_method_learns)
{
    threads_start(2);
    base_make();
    static const char *const recipes[] = {
        HEAD("teacher") "method: standard\n", HEAD("a") LORA, HEAD("b") "lora: {rank: 4, fixed: a}\n", HEAD("c") "lora: {rank: 4, fixed: b, share: [gate_up]}\n",
        HEAD("d") LORA DISTILL, HEAD("e") "method: standard\nheads: {merge: 2, by: adjacent, scale: 0.7}\n" DISTILL,
        HEAD("f") LORA "approximate: {activation: relu, softmax: 2relu}\nupper: {side_by_side: true}\n",
        HEAD("g") LORA "preset: paper\nheads: {merge: 2}\n" DISTILL, HEAD("h") LORA "heads: {prune: 2}\n" DISTILL,
        HEAD("i") LORA "heads: {merge: 4, by: weights}\nupper: {norm: constant, row_bound: 1, row_bound_weight: 0.1}\n"};
    static const char *const folders[] = {"teacher", "a", "b", "c", "d", "e", "f", "g", "h", "i"};
    CHECK_OK(tune_try("r.yaml", "out: still\nbase: base\ncontext: 48\nbatch_tokens: 512\nsteps: 1\neval_every: 1\nlearning_rate: 1e-9\n"
             "sources:\n  - {kind: pairs, path: corpus.txt, prompt: \"{0}\\n\", completion: \"{1}\"}\nlora: {rank: 1}\n", false));
    double before = number_in("still/run.json", "best_loss");
    for (int i = 0; i < 10; i++) {
        CHECK_OK(tune_try("r.yaml", recipes[i], false));
        char record[64];
        snprintf(record, sizeof record, "%s/run.json", folders[i]);
        double loss = number_in(record, "best_loss");
        fprintf(stderr, "    %s: held out %.3f, the base %.3f\n", folders[i], loss, before);
        CHECK(loss < before - 0.3);
    }
    Model m;
    Variant v;
    Arena a;
    arena_init(&a, false);
    CHECK_OK(model_load(&m, path_in("base")));
    CHECK_OK(variant_load(&v, path_in("i/adapter"), &m.config, 2, &a));
    CHECK(v.norm && v.row_bound && v.norm_mix >= 1 && v.heads.size == 4);      // a result has its constants whole
    CHECK_OK(variant_load(&v, path_in("h/adapter"), &m.config, 2, &a));
    CHECK_EQUAL(2, v.heads.heads);
    model_free(&m);
    arena_free(&a);
    CHECK(file_exists(path_in("e/model/marill.json")) && file_exists(path_in("f/adapter/marill.json")));
    CHECK(file_exists(path_in("b/adapter/marill.json")));
    CHECK(file_exists(path_in("a/loss.svg")) && file_exists(path_in("a/recipe.yaml")));
}

TEST(kept_cuts_change_no_bit_of_a_run)
{
    threads_start(2);
    base_make();
    CHECK_OK(tune_try("a.yaml", HEAD("a") LORA, false));
    CHECK_OK(tune_try("b.yaml", HEAD("b") LORA "cache: false\n", false));
    CHECK_OK(tune_try("c.yaml", HEAD("c") LORA "cache_mb: 1\n", false));
    same_files("a/adapter/adapter_model.safetensors", "b/adapter/adapter_model.safetensors");
    same_files("a/adapter/adapter_model.safetensors", "c/adapter/adapter_model.safetensors");
}

// ---- killed and resumed ----------------------------------------------------------------------------------------------

static void kill_at(void *ctx, const char *line)
{
    const int *step = ctx;
    if (!strncmp(line, "step ", 5) && atoi(line + 5) == *step) raise(SIGKILL);
}

/* Runs the recipe in a process that is killed when it says a step, or, with step 0, after some time. */
static bool run_killed(const char *recipe, bool resume, int step, unsigned microseconds)
{
    pid_t child = fork();
    if (child == 0) {
        threads_start(2);
        Progress say = {kill_at, &step};
        TrainOptions o = {.threads = 2, .resume = resume, .progress = &say, .version = "test"};
        _exit(failed(tune_run(recipe, &o)));
    }
    if (!step) {
        usleep(microseconds);
        kill(child, SIGKILL);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status)) CHECK_EQUAL(0, WEXITSTATUS(status));
    return WIFSIGNALED(status);
}

TEST(a_killed_run_ends_as_one_that_was_not)
{
    base_make();
    file_make("t.yaml", HEAD("teacher") "method: standard\n");
    CHECK(!run_killed(path_in("t.yaml"), false, -1, 0));
    #define ALL LORA DISTILL "checkpoint_every: 1\n"
    file_make("a.yaml", HEAD("a") ALL);
    const char *b = file_make("b.yaml", HEAD("b") ALL);
    CHECK(!run_killed(path_in("a.yaml"), false, -1, 0));
    int step = 3, kills = 1;
    CHECK(run_killed(b, false, step, 0));
    while ((step += 2 + (int)(test_random() * 6)) < 24) kills += run_killed(b, true, step, 0);
    for (int i = 0; i < 4; i++) kills += run_killed(b, true, 0, 20000 + (unsigned)(test_random() * 60000));
    run_killed(b, true, -1, 0);
    CHECK(kills > 3);
    same_files("a/adapter/adapter_model.safetensors", "b/adapter/adapter_model.safetensors");
    file_make("b.yaml", HEAD("b") ALL "clip: 2\n");
    CHECK_FAILS(tune_try("b.yaml", HEAD("b") ALL "clip: 2\n", true), "not the one that the run began with");
}

TEST(a_run_ends_early_and_keeps_its_best)
{
    threads_start(2);
    base_make();
    CHECK_OK(tune_try("a.yaml", HEAD("a") "lora: {rank: 4}\npatience: 1\nmin_ratio: 1\n", false));
    CHECK_OK(tune_try("b.yaml", "out: b\nbase: base\ncontext: 48\nbatch_tokens: 512\nsteps: 60\neval_every: 2\nlearning_rate: 0.5\n"
             "sources:\n  - {kind: pairs, path: corpus.txt, prompt: \"{0}\\n\", completion: \"{1}\"}\nlora: {rank: 4}\npatience: 2\n", false));
    CHECK(number_in("b/run.json", "steps") < 60);
    CHECK_NEAR(number_in("b/run.json", "steps") - 4, number_in("b/run.json", "best_step"), 0);
}

TEST(recipes_of_tuning_are_checked)
{
    #define REFUSED(more, text) CHECK_FAILS(tune_try("r.yaml", HEAD("a") more, false), text)
    REFUSED("", "lacks 'lora: {rank: N}'");
    REFUSED("rank: 4\n", "line 12: unknown field 'rank'");
    REFUSED("lora: {rank: 4, depth: 2}\n", "unknown field 'depth' in lora");
    REFUSED("lora: {rank: 4, share: [kv]}\n", "'kv'");
    REFUSED("lora: {rank: 4, fixed: c}\n", "fixed must be one of none, a, b, not 'c'");
    REFUSED("method: standard\nlora: {rank: 4}\n", "leave out 'lora'");
    REFUSED("lora: {rank: 4}\ncache: maybe\n", "cache must be true or false");
    REFUSED("lora: {rank: 4}\ndistill: {hidden: 1}\n", "lacks the field 'teacher'");
    REFUSED("lora: {rank: 4}\nheads: {merge: 2, prune: 2}\n", "either merged or pruned");
    REFUSED("lora: {rank: 4}\nheads: {merge: 2, by: importance}\n", "heads are merged by");
    REFUSED("preset: paper\n", "preset paper is distilled");
    REFUSED("preset: rock\n", "preset must be one of paper");
    REFUSED("lora: {rank: 4}\neval_every: 0\n", "twice");
}

int main(int argc, char **argv) { return test_main(argc, argv); }
