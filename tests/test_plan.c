/* test_plan.c - plans: as JSON and back, tampered with, mutated at random; what calibration refuses; angles. */
#include <sys/resource.h>
#include "models.h"
#include "model/secure.h"
#include "model/secure_parts.h"
#include "parties.h"
#include "plans.h"

static const ModelConfig shape = {.width = 24, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 6, .ffn = 20, .vocab = 30, .context = 80,
                                  .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2};
static const ModelConfig gpt2_shape = {.arch = ARCH_GPT2, .width = 24, .layers = 2, .heads = 4, .kv_heads = 4, .head_dim = 6, .ffn = 20, .vocab = 30,
                                       .context = 80, .norm_eps = 1e-5f, .rope = {.factor = 1}, .bos = 1, .eos = 2};
static Model model;
static Adapter adapter;
static int32_t tokens[400];

static void make(Plan *p, Prefer prefer, Private private_part)
{
    arena_free(&model.arena), arena_free(&adapter.arena);
    random_model(&model, &shape, 1.5);
    random_adapter(&adapter, &shape, 0, 2, (1 << MAT_COUNT) - 1, 0.3);
    for (size_t i = 0; i < 400; i++) tokens[i] = 3 + (int32_t)(test_random() * 27);
    PlanOptions o = {.context = 40, .prefer = prefer, .private_part = private_part};
    CHECK_OK(plan_make(p, &model, &adapter, &o, tokens, 400));
}

/* Forms: fold or lean (bit 0), what is private (bit 1), GPT-2 with merged heads (4 and 5; all private), approximations
 * and pruned heads (from 6 on). */
enum { FORMS = 10, MUTATIONS = 270 };

static const ModelConfig *make_form(Plan *p, int form)
{
    static const uint32_t order[] = {2, 0, 3, 1, 0, 1, 2, 3};
    Prefer prefer = form & 1 ? PREFER_BYTES : PREFER_EXCHANGES;
    if (form >= 8) {                           // held norms, bounds of row maxima, halves side by side
        static const float ones[] = {1, 1, 1, 1}, zeros[8];
        PlanOptions o = {.context = 40, .prefer = prefer,
                         .variant = {.norm = ones, .norm_mix = 1, .row_bound = zeros, .side_by_side = true, .heads.size = 2}};
        make(p, prefer, PRIVATE_LORA);
        plan_free(p);
        CHECK_OK(plan_assume(p, &shape, &o, 2));
        CHECK(p->layer[0].row_slack > 0);
        return &shape;
    }
    if (form >= 6) {
        PlanOptions o = {.context = 40, .prefer = prefer, .variant = {.activation = form == 6 ? ACTIVATION_RELU : ACTIVATION_QUAD,
                         .softmax = form == 6 ? SOFTMAX_2QUAD : SOFTMAX_2RELU, .heads = {.size = 1, .order = order + 4, .heads = 1}}};
        make(p, prefer, PRIVATE_LORA);
        plan_free(p);
        CHECK_OK(plan_make(p, &model, &adapter, &o, tokens, 400));
        return &shape;
    }
    if (form < 4) {
        make(p, prefer, form & 2 ? PRIVATE_LAYERS : PRIVATE_LORA);
        return &shape;
    }
    arena_free(&model.arena), arena_free(&adapter.arena);
    adapter = (Adapter){0};
    random_model(&model, &gpt2_shape, 1.5);
    for (size_t i = 0; i < 400; i++) tokens[i] = 3 + (int32_t)(test_random() * 27);
    PlanOptions o = {.context = 40, .prefer = prefer, .private_part = PRIVATE_LAYERS, .variant.heads = {.size = 2, .order = order, .heads = 4}};
    CHECK_OK(plan_make(p, &model, NULL, &o, tokens, 400));
    return &gpt2_shape;
}

TEST(json_and_back)
{
    for (int form = 0; form < FORMS; form++) {
        Plan p, q;
        const ModelConfig *c = make_form(&p, form);
        uint8_t h[2][HASH_BYTES];
        plan_returns(&q, &p, c);
        plan_hash(&p, c, h[0]);
        q.layer[1].sum_coarse.f0--;
        plan_hash(&q, c, h[1]);
        CHECK(memcmp(h[0], h[1], HASH_BYTES));
        char path[200];
        snprintf(path, sizeof path, "%s/plan.json", test_folder());
        CHECK_OK(plan_save(&p, path));
        plan_free(&q);
        CHECK_OK(plan_load(&q, path));
        CHECK_EQUAL(p.layers, q.layers);
        plan_free(&p), plan_free(&q);
    }
}

/* Merged heads: groups in the text and back, groups of one head are none, and what is no grouping is refused. */
TEST(groups_of_heads)
{
    static const uint32_t order[] = {1, 0, 0, 1}, twice[] = {1, 0, 1, 1};
    Plan p, q;
    PlanOptions o = {.context = 40, .variant.heads = {.size = 2, .order = order, .heads = 2}}, one = {.context = 40, .variant.heads.size = 1}, none = {.context = 40};
    CHECK_OK(plan_assume(&p, &shape, &o, 2));
    Buffer a = plan_text(&p), b;
    CHECK(strstr((char *)a.data, "head_groups") != NULL);
    plan_returns(&q, &p, &shape);
    CHECK(q.heads.size == 2 && !memcmp(q.heads.order, order, sizeof order));
    q.heads.order = twice;
    CHECK_FAILS(plan_check(&q, &shape), "merged heads");
    q.heads.order = NULL, q.heads.size = 3;
    CHECK_FAILS(plan_check(&q, &shape), "merged heads");
    plan_free(&p), plan_free(&q), buffer_free(&a);
    o.variant.heads.order = twice;
    CHECK_FAILS(plan_assume(&p, &shape, &o, 2), "names head");
    plan_free(&p);
    o.variant.heads.order = NULL, o.variant.heads.size = 3;
    CHECK_FAILS(plan_assume(&p, &shape, &o, 2), "does not divide");
    plan_free(&p);
    CHECK_FAILS(plan_assume(&p, &gpt2_shape, &none, 2), "all weights of its secure layers private");
    plan_free(&p);
    CHECK_OK(plan_assume(&p, &shape, &one, 2));
    CHECK_OK(plan_assume(&q, &shape, &none, 2));
    a = plan_text(&p), b = plan_text(&q);
    CHECK(a.len == b.len && !memcmp(a.data, b.data, a.len));
    plan_free(&p), plan_free(&q), buffer_free(&a), buffer_free(&b);
}

/* What the secure layers cannot run yet is refused by name; a scale of the scores they can, and the text has it. */
TEST(variants_that_the_secure_layers_cannot_run)
{
    static const float norms[] = {1, 1, 1, 1};
    const struct { Variant v; const char *why; } bad[] = {
        {{.side_by_side = true, .activation = ACTIVATION_QUAD}, "side by side"},
        {{.norm = norms, .norm_mix = 0.5f}, "norms on the way to a constant"}};
    Plan p, q;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        PlanOptions o = {.context = 40, .variant = bad[i].v};
        CHECK_FAILS(plan_assume(&p, &shape, &o, 2), bad[i].why);
        plan_free(&p);
    }
    PlanOptions half = {.context = 40, .variant = {.heads.size = 2, .score_scale = 0.5f}};
    CHECK_OK(plan_assume(&p, &shape, &half, 2));
    Buffer text = plan_text(&p);
    CHECK_OK(plan_parse(&q, (char *)text.data, text.len - 1));
    CHECK_NEAR(0.5, q.score_scale, 0);
    CHECK(plan_variant(&q).score_scale == 0.5f && plan_variant(&q).heads.size == 2);
    q.score_scale = -1;
    CHECK_FAILS(plan_check(&q, &shape), "scale of the scores");
    q.score_scale = 0.5, q.weight_bits = 8;
    CHECK_FAILS(plan_check(&q, &shape), "scale of the scores");
    plan_free(&p), plan_free(&q), buffer_free(&text);
}

static Result parse_edited(const Buffer *text, const char *anchor, const char *from, const char *to)
{
    return plan_edited(text, &shape, anchor, from, to);
}

TEST(tampered_plans_are_refused_by_name)
{
    Plan p;
    make(&p, PREFER_EXCHANGES, PRIVATE_LORA);
    Buffer t = plan_text(&p);
    CHECK_OK(parse_edited(&t, "\"known\"", "\"known\"", "\"known\""));
    CHECK_FAILS(parse_edited(&t, "\"known\"", "\"known\"", "\"knowm\""), "known is absent");
    CHECK_FAILS(parse_edited(&t, "\"known\"", "\"known\"", "\"extra\": 1, \"known\""), "unknown field 'extra'");
    CHECK_FAILS(parse_edited(&t, "\"silu\"", "\"floor\"", "\"more\": 1, \"floor\""), "unknown field 'more'");
    CHECK_FAILS(parse_edited(&t, "\"format\"", "marill-plan-1", "marill-plan-2"), "format");
    CHECK_FAILS(parse_edited(&t, "\"context\"", "40", "4000000000"), "context");
    CHECK_FAILS(parse_edited(&t, "\"context\"", "40", "-1"), "context");
    CHECK_FAILS(parse_edited(&t, "\"context\"", "40", "40.5"), "context");
    CHECK_FAILS(parse_edited(&t, "\"known\"", "1", "40"), "known positions");
    CHECK_FAILS(parse_edited(&t, "\"rank\"", "2", "0"), "adapted matrices");
    CHECK_FAILS(parse_edited(&t, "\"frozen\"", "0", "1"), "number of layers");
    CHECK_FAILS(parse_edited(&t, "\"model_hash\"", ": \"", ": \"zz"), "model_hash");
    CHECK_FAILS(parse_edited(&t, "\"attention_norm\"", "\"function\": 3", "\"function\": 4"), "1/rms table");
    CHECK_FAILS(parse_edited(&t, "\"score_exp\"", "\"index_bits\": 1", "\"index_bits\": 3"), "exp table");
    CHECK_FAILS(parse_edited(&t, "\"residual\"", "\"residual\": ", "\"residual\": 2"), "residual");
    CHECK_FAILS(parse_edited(&t, "\"hidden\"", "\"bits\": ", "\"bits\": 65, \"bits\": "), "not JSON");
    CHECK_FAILS(plan_check(&p, &(ModelConfig){.layers = 3, .context = 80, .heads = 1, .kv_heads = 1}), "number of layers");
    buffer_free(&t);
    plan_free(&p);
}

// ---- mutations -------------------------------------------------------------------------------------------------------

/* Every number of the JSON text is at some time replaced by another one; whatever plan_check lets pass must run, as COUNT
 * and as CLEAR, without an abort. */
static Buffer mutate(const Buffer *t)
{
    static const char *const numbers[] = {"0", "1", "2", "3", "5", "8", "12", "17", "24", "33", "47", "63", "64", "-1", "-20", "0.5",
                                          "1e-9", "1e18", "true", "false"};
    size_t len = t->len - 1, at = (size_t)(test_random() * (double)len);
    while (at + 1 < len && !(t->data[at] == ':' || t->data[at] == ',')) at++;
    size_t from = at + 1;
    while (from < len && (t->data[from] == ' ' || t->data[from] == '\n' || t->data[from] == '[')) from++;
    size_t to = from;
    while (to < len && strchr("+-.0123456789eEtrufals", t->data[to])) to++;
    Buffer b = {0};
    buffer_append(&b, t->data, from);
    if (to > from) {
        long near = strtol((const char *)t->data + from, NULL, 10) + (long)(test_random() * 9) - 4;
        if (test_random() < 0.6) buffer_format(&b, "%ld", near);
        else buffer_format(&b, "%s", numbers[(size_t)(test_random() * (sizeof numbers / sizeof *numbers))]);
    }
    buffer_append(&b, t->data + to, len - to);
    buffer_u8(&b, 0);
    return b;
}

static void run_clear(const Plan *p, const ModelConfig *c)
{
    Party clear;
    SecureNet *net = NULL;
    party_alone(&clear, ROLE_CLEAR);
    Arena *a = &clear.session;
    if (!failed(secure_new(&net, clear.engine, a, c, p, &model, p->rank ? &adapter : NULL))) {
        float *x = random_weights(a, 2 * c->width, 1), *logits = arena_new(a, float, 2 * c->vocab);
        const float *kv[2] = {random_weights(a, 40 * 24, 1), random_weights(a, 40 * 24, 1)};
        KnownPrefix known = {kv, kv};
        party_begin(&clear, 2, 0);
        Result r = secure_forward(net, 2, x, &known, logits, false);
        (void)r;
    }
    party_end(&clear);
}

TEST(mutated_plans_never_abort)
{
    unsigned passed = 0;
    for (int form = 0; form < FORMS; form++) {
        Plan p;
        const ModelConfig *c = make_form(&p, form);
        Buffer t = plan_text(&p);
        plan_free(&p);
        for (int i = 0; i < MUTATIONS; i++) {
            Buffer m = mutate(&t), again;
            if (i % 4 == 0) again = mutate(&m), buffer_free(&m), m = again;
            if (!failed(plan_parse(&p, (char *)m.data, m.len - 1)) && !failed(plan_check(&p, c))) {
                Cost cost;
                passed++;
                CHECK_OK(plan_cost(&cost, &p, c, 0, 2, true));
                run_clear(&p, c);
            }
            plan_free(&p);
            buffer_free(&m);
        }
        buffer_free(&t);
    }
    printf("    %u of %d mutated plans are sound\n", passed, MUTATIONS * FORMS);
    CHECK(passed > 100);
}

// ---- calibration and use ---------------------------------------------------------------------------------------------

TEST(calibration_refuses_what_it_cannot_plan)
{
    Plan p;
    make(&p, PREFER_EXCHANGES, PRIVATE_LORA);
    plan_free(&p);
    PlanOptions frozen = {.context = 40, .frozen = 1}, all = {.context = 40, .frozen = 2}, good = {.context = 40};
    CHECK_FAILS(plan_make(&p, &model, &adapter, &frozen, tokens, 400), "at most 0 layers can be frozen");
    plan_free(&p);
    CHECK_FAILS(plan_make(&p, &model, NULL, &all, tokens, 400), "frozen");
    plan_free(&p);
    CHECK_FAILS(plan_make(&p, &model, NULL, &good, tokens, 3), "too little text");
    plan_free(&p);
    CHECK_FAILS(plan_make(&p, &model, NULL, &good, (int32_t[]){7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 99}, 16),
                "not in the vocabulary");
    plan_free(&p);
    ((float *)(uintptr_t)model.layer[1].mat[MAT_UP])[3] = INFINITY;
    CHECK_FAILS(plan_make(&p, &model, NULL, &good, tokens, 400), "not finite");
    plan_free(&p);
}

TEST(plans_of_other_models_and_values_out_of_range_are_refused)
{
    Plan p;
    Party clear;
    SecureNet *net;
    make(&p, PREFER_EXCHANGES, PRIVATE_LORA);
    party_alone(&clear, ROLE_CLEAR);
    CHECK_FAILS(secure_new(&net, clear.engine, &clear.session, &shape, &p, &model, NULL), "adapter of rank 2");
    CHECK_OK(secure_new(&net, clear.engine, &clear.session, &shape, &p, &model, &adapter));
    float x[24] = {0}, logits[30], good[12] = {0}, bad[12] = {[3] = 1e9f};
    const float *fine[2] = {good, good}, *wrong[2] = {good, bad};
    party_begin(&clear, 1, 0);
    x[5] = NAN;
    CHECK_FAILS(secure_forward(net, 1, x, &(KnownPrefix){fine, fine}, logits, true), "hidden state at the cut");
    CHECK_OK(secure_new(&net, clear.engine, &clear.session, &shape, &p, &model, &adapter));
    party_begin(&clear, 1, 1);
    x[5] = 1;
    CHECK_FAILS(secure_forward(net, 1, x, &(KnownPrefix){fine, wrong}, logits, true), "value of the known prefix");
    uint8_t h[HASH_BYTES];
    CHECK_OK(public_hash(&p, &model, h));
    CHECK(!memcmp(h, p.model_hash, HASH_BYTES));
    ((float *)(uintptr_t)model.layer[1].mat[MAT_UP])[3] = 1e4f;
    CHECK_FAILS(public_hash(&p, &model, h), "of another model");
    party_end(&clear);
    plan_free(&p);
}

TEST(absurd_biases_are_refused)
{
    static const uint8_t seed[KEY_BYTES] = {3};
    static const float absurd[] = {1e30f, 2e11f, NAN};       // 2e11: as an integer of the plan's fraction bits it may just fit
    for (int form = 4; form < 6; form++)
        for (int i = 0; i < 3; i++)
            for (MatrixKind kind = 0; kind < MAT_COUNT; kind++) {
                Plan p;
                const ModelConfig *c = make_form(&p, form);
                if (!model.layer[1].bias[kind]) {
                    plan_free(&p);
                    continue;
                }
                Party clear;
                SecureNet *net;
                uint8_t h[HASH_BYTES];
                party_alone(&clear, ROLE_CLEAR);
                ((float *)(uintptr_t)model.layer[1].bias[kind])[1] = absurd[i];
                if (i != 1 || failed(secure_new(&net, clear.engine, &clear.session, c, &p, &model, NULL)))
                    CHECK_FAILS(secure_new(&net, clear.engine, &clear.session, c, &p, &model, NULL), "a bias of");
                if (i != 1) CHECK_FAILS(private_commitment(&p, &model, NULL, seed, h), "a bias of");
                party_end(&clear);
                plan_free(&p);
            }
}

TEST(commitments_bind_the_private_weights)
{
    Plan p;
    make(&p, PREFER_BYTES, PRIVATE_LORA);
    uint8_t salt[KEY_BYTES] = {1}, a[HASH_BYTES], b[HASH_BYTES];
    CHECK_OK(private_commitment(&p, &model, &adapter, salt, a));
    CHECK_OK(private_commitment(&p, &model, &adapter, salt, b));
    CHECK(!memcmp(a, b, HASH_BYTES));
    salt[3] = 9;
    CHECK_OK(private_commitment(&p, &model, &adapter, salt, b));
    CHECK(memcmp(a, b, HASH_BYTES));
    salt[3] = 0, adapter.pair[1][MAT_K].b[2] += 0.5f;
    CHECK_OK(private_commitment(&p, &model, &adapter, salt, b));
    CHECK(memcmp(a, b, HASH_BYTES));
    plan_free(&p);
}

TEST(angles_are_cos_and_sin)
{
    ModelConfig c = shape;
    c.head_dim = 64, c.rope_theta = 500000, c.rope = (RopeScaling){8, 1, 4, 64};
    enum { POSITIONS = 5000 };
    int32_t *got = malloc(POSITIONS * 64 * sizeof *got);
    rope_integers(got, &c, POSITIONS, 12);
    for (uint32_t i = 0; i < 32; i++) {
        double f = pow(500000, -2.0 * i / 64), turns = 64 * f / 6.283185307179586;
        double slow = turns < 1 ? f / 8 : turns > 4 ? f : (1 - (turns - 1) / 3) * f / 8 + (turns - 1) / 3 * f;
        for (uint32_t p = 0; p < POSITIONS; p++) {
            CHECK_NEAR(cos(p * slow) * 4096, got[(p * 32 + i) * 2], 0.5001);
            CHECK_NEAR(sin(p * slow) * 4096, got[(p * 32 + i) * 2 + 1], 0.5001);
        }
    }
    free(got);
}

// ---- memory ----------------------------------------------------------------------------------------------------------

/* Bounds what the process may map; the sanitizers map more than that. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MEMORY_LIMITS = false };
#else
enum { MEMORY_LIMITS = true };
#endif
static void memory_limit(size_t bytes)
{
    if (!MEMORY_LIMITS) SKIP("the sanitizer maps more than the limit");
    CHECK(setrlimit(RLIMIT_AS, &(struct rlimit){bytes, bytes}) == 0);
}

static Result assume(const ModelConfig *c, Prefer prefer, Private private_part)
{
    Plan p;
    PlanOptions o = {.context = c->context, .prefer = prefer, .private_part = private_part};
    Result r = plan_assume(&p, c, &o, 0);
    plan_free(&p);
    return r;
}

TEST(plans_of_sessions_beyond_all_memory_are_refused)
{
    ModelConfig small = {.width = 64, .layers = 1, .ffn = 2, .vocab = 2, .context = 1 << 17, .norm_eps = 1e-5f, .rope_theta = 10000,
                         .rope = {.factor = 1}, .eos = -1, .heads = 64, .kv_heads = 64, .head_dim = 1024}, c;
    CHECK_FAILS(assume(&small, PREFER_BYTES, PRIVATE_LORA), "keys and values too large");
    c = small, c.heads = c.kv_heads = 1;
    CHECK_FAILS(assume(&c, PREFER_BYTES, PRIVATE_LORA), "angles too large");
    c.head_dim = 128;
    CHECK_OK(assume(&c, PREFER_BYTES, PRIVATE_LORA));
    for (Prefer prefer = PREFER_EXCHANGES; prefer <= PREFER_BYTES; prefer++) {
        CHECK_OK(shape_config("llama2-7b", &c));
        for (Private private_part = PRIVATE_LORA; private_part <= PRIVATE_LAYERS; private_part++) CHECK_OK(assume(&c, prefer, private_part));
        c.layers = 80;
        CHECK_FAILS(assume(&c, prefer, PRIVATE_LORA), "keys and values too large");
        c.context = 64;
        CHECK_FAILS(assume(&c, prefer, PRIVATE_LAYERS), "private matrices too large");
    }
}

/* Memory that a plan's matrices take is asked for at the start, that of its keys and values as a conversation grows. */
TEST(a_session_without_memory_fails)
{
    ModelConfig c;
    Plan p;
    Party third;
    SecureNet *net;
    memory_limit((size_t)2 << 30);
    CHECK_OK(shape_config("llama2-7b", &c));
    for (Private private_part = PRIVATE_LORA; private_part <= PRIVATE_LAYERS; private_part++) {
        PlanOptions o = {.context = private_part == PRIVATE_LORA ? 4096 : 16, .private_part = private_part};
        CHECK_OK(plan_assume(&p, &c, &o, 0));
        party_alone(&third, ROLE_THIRD);
        Result r = secure_new(&net, third.engine, &third.session, &c, &p, NULL, NULL);
        if (private_part == PRIVATE_LAYERS) CHECK_FAILS(r, "no memory for the masked matrix of layer");
        else {
            static const uint8_t keys[3000][KEY_BYTES];
            Wire out;
            CHECK_OK(r);
            CHECK_OK(secure_room(net, 1, 1, true));
            CHECK_FAILS(secure_room(net, 4094, 1, true), "no memory for a batch of 1 positions after 4094");
            engine_begin(third.engine, 3000, 0, keys, keys);
            CHECK_FAILS(secure_layers(net, 3000, NULL, NULL, &out), "no memory for a batch of 3000 positions");
            CHECK_FAILS(engine_end(third.engine), "no memory for a batch of 3000 positions");
        }
        party_end(&third);
        plan_free(&p);
    }
}

TEST(caches_without_memory_stay_as_they_were)
{
    enum { POSITIONS = 1 << 20, WIDTH = 4096, PAGE_BYTES = 64 * WIDTH * 8 };
    Party third;
    memory_limit((size_t)2 << 30);
    party_alone(&third, ROLE_THIRD);
    Cache *k[2] = {cache_new(&third.session, POSITIONS, WIDTH, 30, 10), cache_new(&third.session, POSITIONS, WIDTH, 30, 10)};
    CHECK_OK(cache_reserve(third.engine, &third.session, k, 2, 1));
    CHECK_EQUAL(0, cache_missing(third.engine, k, 2, 64));
    CHECK_EQUAL(2 * PAGE_BYTES, cache_missing(third.engine, k, 2, 65));
    CHECK_FAILS(cache_reserve(third.engine, &third.session, k, 2, POSITIONS), "no memory for keys and values of 1048576 positions");
    CHECK_EQUAL(2 * PAGE_BYTES, cache_missing(third.engine, k, 2, 65));
    CHECK_OK(cache_reserve(third.engine, &third.session, k, 2, 65));
    CHECK_EQUAL(0, cache_missing(third.engine, k, 2, 128));
    party_end(&third);
}

/* A batch that a sound plan has room for may still be more than a machine has. */
TEST(batches_without_memory_are_refused)
{
    ModelConfig c = {.width = 64, .layers = 1, .ffn = 2, .vocab = 1 << 20, .context = 1 << 15, .norm_eps = 1e-5f, .rope_theta = 10000,
                     .rope = {.factor = 1}, .eos = -1, .heads = 32, .kv_heads = 1, .head_dim = 2};
    PlanOptions o = {.context = c.context};
    Plan p;
    Party third;
    SecureNet *net;
    CHECK_OK(plan_assume(&p, &c, &o, 0));
    party_alone(&third, ROLE_THIRD);
    CHECK_OK(secure_new(&net, third.engine, &third.session, &c, &p, NULL, NULL));
    CHECK_OK(secure_room(net, 1, 1, true));
    CHECK_OK(secure_room(net, c.context - 2, 1, true));
    CHECK_FAILS(secure_room(net, 1, c.context - 1, true), "too large");       // scores
    CHECK_FAILS(secure_room(net, 1, 1000, false), "too large");               // logits
    if (MEMORY_LIMITS) {
        memory_limit((size_t)1 << 30);
        CHECK_FAILS(secure_room(net, 1, 400, false), "no memory for a batch of 400 positions");
    }
    party_end(&third);
    plan_free(&p);
}

static size_t address_space(void)               // of this process, in bytes
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%llu", &pages) == 1);
    fclose(f);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* A conversation holds what its first batch took and the keys and values of its end at once: each may fit, and both not. */
TEST(conversations_without_memory_are_refused)
{
    enum { ROWS = 256, MORE = 3800, MB = 1 << 20 };
    ModelConfig c = {.width = 64, .layers = 4, .ffn = 2, .vocab = 1 << 16, .context = 4096, .norm_eps = 1e-5f, .rope_theta = 10000,
                     .rope = {.factor = 1}, .eos = -1, .heads = 32, .kv_heads = 32, .head_dim = 128};
    PlanOptions o = {.context = c.context};
    Plan p;
    Party third;
    SecureNet *net;
    CHECK_OK(plan_assume(&p, &c, &o, 0));
    party_alone(&third, ROLE_THIRD);
    CHECK_OK(secure_new(&net, third.engine, &third.session, &c, &p, NULL, NULL));
    memory_limit(address_space() + (size_t)2200 * MB);                 // the batch takes 1,536 MB, a position's keys and values 256 KB
    CHECK_OK(secure_room(net, p.known, ROWS, false));
    CHECK_OK(secure_room(net, p.known + ROWS + MORE - 1, 1, true));
    CHECK_OK(secure_room_conversation(net, ROWS, false, 0));
    CHECK_OK(secure_room_conversation(net, 1, false, MORE));
    CHECK_OK(secure_room_conversation(net, ROWS, true, MORE));         // one row of logits
    CHECK_FAILS(secure_room_conversation(net, ROWS, false, MORE), "no memory for a batch of 256 positions");
    party_end(&third);
    plan_free(&p);
}

// ---- costs -----------------------------------------------------------------------------------------------------------

/* The published shapes cost what the reference's counting run found, give or take the heads and wider margins. */
TEST(costs_of_a_large_shape)
{
    ModelConfig c = {.width = 4096, .layers = 1, .heads = 32, .kv_heads = 32, .head_dim = 128, .ffn = 11008, .vocab = 8, .context = 128,
                     .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2};
    const double want[2][3] = {{468, 349, 3522}, {383, 264, 2667}};        // KB a layer and token at context 128, rank 64
    for (int lean = 0; lean < 2; lean++) {
        Plan p;
        Cost k;
        PlanOptions o = {.context = 128, .prefer = lean ? PREFER_BYTES : PREFER_EXCHANGES, .private_part = PRIVATE_LORA};
        CHECK_OK(plan_assume(&p, &c, &o, 64));
        CHECK_OK(plan_cost(&k, &p, &c, 127, 1, true));
        CHECK_EQUAL(lean ? 28 : 23, k.exchanges);
        double head = 13 + 45;                 // of the final norm
        CHECK((double)k.bytes.client_to_server / 1e3 < want[lean][0] * 1.05 + head);
        CHECK((double)k.bytes.server_to_client / 1e3 < want[lean][1] * 1.05 + head);
        CHECK((double)k.bytes.third_to_server / 1e3 < want[lean][2] * 1.05 + head);
        CHECK(plan_setup_bytes(&p, &c) < 33000000);
        plan_free(&p);
    }
}

int main(int argc, char **argv) { num_init(NUM_BEST); crypto_init(false); return test_main(argc, argv); }
