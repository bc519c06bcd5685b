/* test_faster.c - changes of the network that take exchanges out of a secure layer: norms held at constants, bounds in
 * place of row maxima, attention and feed-forward side by side. Against the float
 * network, as three parties against the ideal functionality, in exchanges and bytes, and as plans that lie. */
#define TEST_SECONDS 200
#include "models.h"
#include "model/secure.h"
#include "mpc/table.h"
#include "parties.h"

enum { EVERY = (1 << MAT_COUNT) - 1, NO_ATTENTION = EVERY - (1 << MAT_Q | 1 << MAT_K | 1 << MAT_V) };

typedef struct Change { bool norms, bounds, beside; } Change;

typedef struct Form {
    ModelConfig config;
    uint32_t rank;
    unsigned kinds;
    Prefer prefer;
    Private private_part;
    Change change;
    unsigned each;                             // exchanges a layer
    bool quantised;
    uint32_t frozen, merge, known;
} Form;

#define LLAMA {.width = 32, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 8, .ffn = 48, .vocab = 40, .context = 40, \
               .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}
#define GPT2 {.arch = ARCH_GPT2, .width = 36, .layers = 2, .heads = 4, .kv_heads = 4, .head_dim = 8, .ffn = 50, .vocab = 40, .context = 40, \
              .norm_eps = 1e-5f, .rope = {.factor = 1}, .bos = 1, .eos = 2}
#define NARROW {.width = 12, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .ffn = 1, .vocab = 17, .context = 12, \
                .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}
#define LONG {.width = 24, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 6, .ffn = 20, .vocab = 17, .context = 230, \
              .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}

#define FOLD PREFER_EXCHANGES
#define LEAN PREFER_BYTES
#define LORA PRIVATE_LORA
#define LAYERS PRIVATE_LAYERS
static const Form forms[] = {
    {LLAMA, 4, EVERY, FOLD, LORA, {.norms = true}, 15, .merge = 2},
    {LLAMA, 4, EVERY, LEAN, LORA, {.norms = true}, 17, .known = 3},
    {LLAMA, 4, NO_ATTENTION, FOLD, LORA, {.norms = true}, 14, .frozen = 1},
    {LLAMA, 3, 1 << MAT_Q | 1 << MAT_V | 1 << MAT_O | 1 << MAT_DOWN, FOLD, LORA, {.norms = true}, 15, .quantised = true},
    {LLAMA, 3, EVERY, LEAN, LORA, {.norms = true}, 17, .quantised = true, .frozen = 1, .merge = 2, .known = 5},
    {LLAMA, 0, 0, FOLD, LAYERS, {.norms = true}, 15, .known = 2},
    {LLAMA, 3, EVERY, LEAN, LAYERS, {.norms = true}, 15, .merge = 2},
    {LLAMA, 0, 0, FOLD, LAYERS, {.norms = true}, 15, .quantised = true},
    {GPT2, 0, 0, FOLD, LAYERS, {.norms = true}, 14, .merge = 2, .known = 4},
    {GPT2, 3, 1 << MAT_V | 1 << MAT_O | 1 << MAT_GATE, LEAN, LAYERS, {.norms = true}, 15, .frozen = 1},
    {LLAMA, 4, EVERY, FOLD, LORA, {.bounds = true}, 16, .merge = 2},
    {LLAMA, 4, EVERY, LEAN, LORA, {.bounds = true}, 21, .known = 3},
    {LLAMA, 0, 0, LEAN, LAYERS, {.bounds = true}, 21, .frozen = 1},
    {LLAMA, 4, NO_ATTENTION, FOLD, LORA, {.norms = true, .bounds = true}, 12, .merge = 2, .known = 5},
    {GPT2, 0, 0, FOLD, LAYERS, {.bounds = true}, 15, .merge = 2},
    {GPT2, 0, 0, LEAN, LAYERS, {.norms = true, .bounds = true}, 13, .known = 3},
    {LLAMA, 4, EVERY, FOLD, LORA, {.beside = true}, 12, .merge = 2, .known = 2},
    {LLAMA, 4, EVERY, LEAN, LORA, {.beside = true}, 15, .frozen = 1},
    {LLAMA, 0, 0, FOLD, LAYERS, {.beside = true}, 12, .known = 3},
    {LLAMA, 3, EVERY, LEAN, LAYERS, {.beside = true}, 15, .merge = 2},
    {LLAMA, 3, 1 << MAT_Q | 1 << MAT_UP | 1 << MAT_O | 1 << MAT_DOWN, FOLD, LORA, {.beside = true}, 12, .quantised = true},
    {GPT2, 0, 0, FOLD, LAYERS, {.beside = true}, 11, .merge = 2},
    {GPT2, 0, 0, LEAN, LAYERS, {.beside = true, .bounds = true}, 12, .known = 3},
    {LLAMA, 4, EVERY, FOLD, LORA, {.norms = true, .beside = true}, 11, .known = 3},
    {LLAMA, 4, EVERY, FOLD, LORA, {.norms = true, .bounds = true, .beside = true}, 9, .merge = 2},
    {LLAMA, 4, NO_ATTENTION, FOLD, LORA, {.norms = true, .bounds = true, .beside = true}, 8, .frozen = 1},
    {LLAMA, 3, EVERY, LEAN, LORA, {.norms = true, .bounds = true, .beside = true}, 11, .quantised = true},
    {LLAMA, 0, 0, LEAN, LAYERS, {.norms = true, .bounds = true, .beside = true}, 9, .known = 5},
    {NARROW, 0, 0, FOLD, LORA, {.norms = true}, 12, .known = 0},
    {NARROW, 2, EVERY, FOLD, LORA, {.norms = true}, 15, .known = 0}};
enum { FORMS = sizeof forms / sizeof *forms };

static Model model;
static Adapter adapter;
static const Adapter *with;                    // the adapter, or NULL
static Plan plan;
enum { KNOWN_MOST = 80, TEXT = 600 };
static int32_t tokens[TEXT], prefix[KNOWN_MOST];
static float norm[64], bound[64];

// ---- a model that was tuned so ---------------------------------------------------------------------------------------

/* What tuning would have found: constants and bounds near the mean. */
typedef struct Habits { double square[32][2], rows[32][2], top[32][32]; int half[32]; uint32_t heads, softmax[32], tops[32]; } Habits;

static void habit_see(void *ctx, uint32_t layer, Sight what, const float *x, size_t len)
{
    Habits *h = ctx;
    if (what == SEE_SCORE) {
        double high = (double)x[0];
        for (size_t i = 1; i < len; i++) high = fmax(high, (double)x[i]);
        h->top[layer][h->softmax[layer]++ % h->heads] += high, h->tops[layer]++;
    }
    if (what != SEE_MEAN_SQUARE || layer >= model.config.layers) return;
    int half = h->half[layer] ^= 1;
    for (size_t i = 0; i < len; i++) h->square[layer][!half] += (double)x[i], h->rows[layer][!half]++;
}

static void variant_make(Variant *v, const Form *f)
{
    Arena a;
    Habits h = {.heads = f->config.heads / (f->merge > 1 ? f->merge : 1)};
    uint32_t context = f->config.context < 20 ? f->config.context : 20;
    arena_init(&a, false);
    float *logits = arena_new(&a, float, (size_t)context * f->config.vocab);
    *v = (Variant){.first = f->frozen, .heads.size = f->merge, .side_by_side = f->change.beside};
    PlainState *s = plain_new(&model, with, context, &a);
    plain_vary(s, v);
    plain_watch(s, &(Watch){habit_see, &h});
    CHECK_OK(plain_forward(s, logits, tokens, context));
    for (uint32_t l = f->frozen; l < f->config.layers; l++)
        for (int half = 0; half < 2; half++)
            norm[(l - f->frozen) * 2 + (uint32_t)half] = (float)(sqrt(h.rows[l][half] / h.square[l][half]) * (0.8 + 0.4 * test_random()));
    for (uint32_t l = f->frozen; l < f->config.layers; l++)
        for (uint32_t i = 0; i < h.heads; i++)
            bound[(l - f->frozen) * h.heads + i] = (float)(h.top[l][i] * h.heads / h.tops[l] + 0.5 * test_random());
    if (f->change.norms) v->norm = norm, v->norm_mix = 1;
    if (f->change.bounds) v->row_bound = bound;
    arena_free(&a);
}

static void setup(const Form *f)
{
    model_free(&model), arena_free(&adapter.arena);
    plan_free(&plan);
    random_model(&model, &f->config, f->change.bounds ? 0.5 : 1.2);   // scores of a size that trained models have, though held norms do not even rows out
    if (f->quantised) {
        Model floats = model;
        CHECK_OK(model_quantise(&floats, test_folder(), NULL));
        CHECK_OK(model_open(&model, test_folder()));
        model_free(&floats);
    }
    with = NULL, adapter = (Adapter){0};
    if (f->rank) random_adapter(&adapter, &f->config, f->frozen, f->rank, f->kinds, f->change.bounds ? 0.1 : 0.5), with = &adapter;
    for (size_t i = 0; i < TEXT; i++) tokens[i] = 3 + (int32_t)(test_random() * (f->config.vocab - 3));
    prefix[0] = f->config.bos;
    for (size_t i = 1; i < KNOWN_MOST; i++) prefix[i] = 3 + (int32_t)(test_random() * (f->config.vocab - 3));
    PlanOptions o = {.frozen = f->frozen, .prefer = f->prefer, .private_part = f->private_part, .prefix = prefix + 1, .prefix_len = f->known};
    variant_make(&o.variant, f);
    CHECK_OK(plan_make(&plan, &model, with, &o, tokens, TEXT));
}

/* Hidden states at the cut of `rows` tokens behind the known ones, and what the float network makes of them. */
typedef struct Prompt { const float *keys[32], *values[32]; float *x, *want; } Prompt;
static Arena prompt_arena;

static Prompt prompt_new(const int32_t *ids, size_t rows)
{
    const ModelConfig *c = &model.config;
    Prompt p = {0};
    size_t all = plan.known + rows;
    int32_t *id = malloc(all * sizeof *id);
    arena_free(&prompt_arena);
    arena_init(&prompt_arena, false);
    memcpy(id, prefix, plan.known * sizeof *id), memcpy(id + plan.known, ids, rows * sizeof *id);
    p.x = arena_new(&prompt_arena, float, all * c->width), p.want = arena_new(&prompt_arena, float, all * c->vocab);
    PlainState *whole = plain_new(&model, with, plan.context, &prompt_arena), *cut = plain_new(&model, with, plan.context, &prompt_arena);
    Variant variant = plan_variant(&plan);
    plain_vary(whole, &variant);
    CHECK_OK(plain_forward(whole, p.want, id, all));
    CHECK_OK(plain_embed(cut, p.x, id, all));
    plain_layers(cut, p.x, all, 0, plan.frozen);
    for (uint32_t l = 0; l < plan.layers; l++)
        p.keys[l] = plain_keys(whole, plan.frozen + l), p.values[l] = plain_values(whole, plan.frozen + l);
    p.x += plan.known * c->width, p.want += plan.known * c->vocab;
    free(id);
    return p;
}

// ---- all five roles --------------------------------------------------------------------------------------------------

/* Batches of a conversation, the number of rows each; 0 ends them. ahead: before which the client works ahead. */
typedef struct Run { Prompt prompt; const size_t *batch; size_t ahead; float *logits[5]; } Run;

static void program(Party *p)
{
    Run *run = p->ctx;
    bool private = p->role == ROLE_SERVER || p->role == ROLE_CLEAR, client = p->role == ROLE_CLIENT || p->role == ROLE_CLEAR;
    SecureNet *net;
    Pinned *const *pins;
    CHECK_OK(secure_new(&net, p->engine, &p->session, &model.config, &plan, private || client ? &model : NULL, private ? with : NULL));
    for (size_t i = 0, count = secure_pins(net, &pins); i < count; i++) party_pin(p, pins[i]);
    KnownPrefix known = {run->prompt.keys, run->prompt.values};
    size_t width = model.config.width, vocab = model.config.vocab, at = 0, rows = 0;
    for (const size_t *b = run->batch; *b; b++) rows += *b;
    float *logits = run->logits[p->role] = arena_new(&p->session, float, rows * vocab);
    for (size_t i = 0; run->batch[i]; at += run->batch[i++]) {
        uint8_t keys[4][KEY_BYTES];
        segment_keys(keys, at, 4, 1);
        if (p->role == ROLE_CLIENT && i == run->ahead) CHECK_OK(secure_ahead(net, 4, at, (const uint8_t (*)[KEY_BYTES])keys));
        party_begin(p, run->batch[i], at);
        CHECK_OK(secure_forward(net, run->batch[i], client ? run->prompt.x + at * width : NULL, private ? &known : NULL, logits + at * vocab, false));
    }
}

static void add_cost(Cost *total, const Cost *c)
{
    total->exchanges += c->exchanges, total->bytes.client_to_server += c->bytes.client_to_server;
    total->bytes.server_to_client += c->bytes.server_to_client, total->bytes.third_to_server += c->bytes.third_to_server;
}

/* The parties give what CLEAR gives, to the bit, at the cost that the plan names; returns CLEAR's logits in `party`. */
static void parties_agree(Party party[5], Run *run, size_t rows)
{
    Cost total = {0};
    uint32_t at = 0;
    parties_run(party, program, run);
    for (size_t j = 0; j < rows * model.config.vocab; j++) CHECK(run->logits[ROLE_CLEAR][j] == run->logits[ROLE_CLIENT][j]);
    for (const size_t *b = run->batch; *b; at += (uint32_t)*b++) {
        Cost c;
        CHECK_OK(plan_cost(&c, &plan, &model.config, at ? plan.known + at : 0, *b, false));
        add_cost(&total, &c);
    }
    Cost spent = engine_cost(party[ROLE_SERVER].engine);
    CHECK_EQUAL(total.exchanges, spent.exchanges);
    CHECK(total.bytes.client_to_server == spent.bytes.client_to_server && total.bytes.server_to_client == spent.bytes.server_to_client);
    CHECK_EQUAL(total.bytes.third_to_server, spent.bytes.third_to_server);
}

static void close_to_plain(const float *got, const float *want, size_t len, const char *name, size_t form)
{
    double most = 0, squares = 0, size = 0;
    for (size_t i = 0; i < len; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        most = fmax(most, d), squares += d * d, size += (double)want[i] * (double)want[i];
    }
    double rms = sqrt(squares / (double)len), scale = sqrt(size / (double)len);
    printf("    %s %zu: logits of rms %.3f, error max %.4f, rms %.5f\n", name, form, scale, most, rms);
    fflush(stdout);
    CHECK(most < 0.1 * scale && rms < 0.02 * scale);
}

TEST(parties_clear_and_plain_agree)
{
    static const size_t batch[] = {5, 1, 1, 3, 0};
    for (size_t i = 0; i < FORMS; i++) {
        setup(&forms[i]);
        Run run = {.prompt = prompt_new(tokens + 40, 10), .batch = batch, .ahead = i % 3};
        Party party[5];
        Cost c;
        parties_agree(party, &run, 10);
        close_to_plain(run.logits[ROLE_CLEAR], run.prompt.want, 10 * model.config.vocab, "form", i);
        CHECK_OK(plan_cost(&c, &plan, &model.config, 0, 3, true));
        CHECK_EQUAL(plan.layers * forms[i].each + 5, c.exchanges);
        parties_end(party);
    }
}

/* Contexts of several pages, a known prefix of more than one of them. */
TEST(long_conversations_agree)
{
    static const size_t batch[] = {58, 1, 1, 1, 60, 9, 0};
    static const Form longer[] = {{LONG, 3, EVERY, FOLD, LORA, {.norms = true}, 15, .merge = 2},
                                  {LONG, 0, 0, LEAN, LAYERS, {.norms = true}, 15, .known = 68, .frozen = 1}};
    for (size_t i = 0; i < sizeof longer / sizeof *longer; i++) {
        setup(&longer[i]);
        Run run = {.prompt = prompt_new(tokens + 40, 130), .batch = batch, .ahead = 1};
        Party party[5];
        parties_agree(party, &run, 130);
        close_to_plain(run.logits[ROLE_CLEAR], run.prompt.want, 130 * model.config.vocab, "long", i);
        parties_end(party);
    }
}

/* Rows of zeros, where a norm that is computed would have nothing to divide by, tiny ones, and larger ones than any seen. */
TEST(edges_agree)
{
    static const size_t batch[] = {4, 1, 0};
    for (size_t i = 0; i < FORMS; i++) {
        setup(&forms[i]);
        Run run = {.prompt = prompt_new(tokens + 40, 5), .batch = batch};
        static const float times[] = {0, 1e-3f, -1, 1.15f, 0};
        for (size_t j = 0; j < 5 * model.config.width; j++) run.prompt.x[j] *= times[j / model.config.width];
        Party party[5];
        parties_agree(party, &run, 5);
        parties_end(party);
    }
}

// ---- plans -----------------------------------------------------------------------------------------------------------

static Buffer text_of(const Plan *p)
{
    Buffer b = {0};
    plan_json(p, &b);
    buffer_u8(&b, 0);
    return b;
}

TEST(plans_as_json_and_back)
{
    for (size_t i = 0; i < FORMS; i++) {
        Plan q;
        uint8_t h[2][HASH_BYTES];
        setup(&forms[i]);
        Buffer a = text_of(&plan);
        CHECK_OK(plan_parse(&q, (char *)a.data, a.len - 1));
        CHECK_OK(plan_check(&q, &model.config));
        Buffer b = text_of(&q);
        CHECK(a.len == b.len && !memcmp(a.data, b.data, a.len));
        plan_hash(&plan, &model.config, h[0]), plan_hash(&q, &model.config, h[1]);
        CHECK(!memcmp(h[0], h[1], HASH_BYTES));
        plan_free(&q);
        buffer_free(&a), buffer_free(&b);
    }
}

/* The plan's text with the first `from` after `anchor` replaced. */
static Result parse_edited(const Buffer *text, const char *anchor, const char *from, const char *to)
{
    char *at = strstr((char *)text->data, anchor);
    CHECK(at != NULL && (at = strstr(at, from)) != NULL);
    Buffer b = {0};
    buffer_append(&b, text->data, (size_t)(at - (char *)text->data));
    buffer_append(&b, to, strlen(to));
    buffer_append(&b, at + strlen(from), strlen(at + strlen(from)));
    Plan p;
    Result r = plan_parse(&p, (char *)b.data, b.len);
    if (!failed(r)) r = plan_check(&p, &model.config);
    plan_free(&p);
    buffer_free(&b);
    return r;
}

TEST(plans_that_lie_are_refused)
{
    setup(&forms[0]);
    Buffer t = text_of(&plan);
    CHECK_OK(parse_edited(&t, "\"norm\"", "[", "["));
    CHECK_FAILS(parse_edited(&t, "\"norm\"", "[", "[[1, 1],"), "norm is not a list for each of 2 layers");
    CHECK_FAILS(parse_edited(&t, "\"norm\"", "0.", "1, 0."), "does not have 2 numbers");
    CHECK_FAILS(parse_edited(&t, "\"norm\"", "0.", "-0."), "held norms");
    CHECK_FAILS(parse_edited(&t, "\"norm\"", "0.", "5000."), "unsound plan");            // another power of two: x leaves its ring
    CHECK_FAILS(parse_edited(&t, "\"norm\": [", "\"norm\"", "\"norms\""), "unknown field 'norms'");
    CHECK_FAILS(parse_edited(&t, "\"attention_norm\"", "\"low_rank\"", "\"lowrank\""), "low_rank: not an object");
    plan_free(&plan);
    PlanOptions o = {.variant = {.norm = norm, .norm_mix = 0.5f}};
    CHECK_FAILS(plan_make(&plan, &model, with, &o, tokens, TEXT), "on the way to a constant");
    norm[1] = 0, o.variant.norm_mix = 1;
    plan_free(&plan);
    CHECK_FAILS(plan_make(&plan, &model, with, &o, tokens, TEXT), "norm is 0");
    buffer_free(&t);
}

TEST(bounds_that_lie_are_refused)
{
    Form f = forms[0];
    f.change = (Change){.bounds = true};
    setup(&f);
    CHECK(plan.layer[0].row_slack > 0);
    Buffer t = text_of(&plan);
    CHECK_FAILS(parse_edited(&t, "\"row_bound\"", "[", "[[1, 1],"), "row_bound is not a list for each of 2 layers");
    CHECK_FAILS(parse_edited(&t, "\"row_bound\"", "0.", "1, 0."), "does not have");
    CHECK_FAILS(parse_edited(&t, "\"row_bound\"", "0.", "99999."), "bounds of row maxima");
    CHECK_FAILS(parse_edited(&t, "\"row_slack\"", ": ", ": -"), "bounds of row maxima");
    CHECK_FAILS(parse_edited(&t, "\"row_slack\"", ": ", ": 100"), "bounds of row maxima");
    CHECK_FAILS(parse_edited(&t, "\"row_slack\"", "\"row_slack\"", "\"row_slick\""), "unknown field 'row_slick'");
    CHECK_FAILS(parse_edited(&t, "\"score_exp\"", "\"ceiling\": 0", "\"ceiling\": 3"), "exp table");
    CHECK_FAILS(parse_edited(&t, "\"score_exp\"", "\"never_positive\": false", "\"never_positive\": true"), "exp table");
    plan.row_bound = NULL;
    CHECK_FAILS(plan_check(&plan, &model.config), "bounds of row maxima");
    buffer_free(&t);
}

/* Row maxima all over the place: the plan computes them, whatever bounds there are. */
TEST(bounds_that_do_not_hold_are_not_used)
{
    Form f = forms[0];
    f.change = (Change){0};
    setup(&f);
    PlanOptions o = {.variant = {.heads.size = f.merge, .row_bound = bound}};
    for (int i = 0; i < 64; i++) bound[i] = -500;
    plan_free(&plan);
    CHECK_OK(plan_make(&plan, &model, with, &o, tokens, TEXT));
    CHECK(plan.layer[0].row_slack == 0 && plan.layer[1].row_slack == 0 && plan.row_bound != NULL);
}

/* A score above its bound and slack gets a weight of at most 1 until far above, never the table's other end. */
TEST(scores_above_the_slack_saturate)
{
    Form f = forms[0];
    f.change = (Change){.bounds = true};
    setup(&f);
    const LookupSpec *s = &plan.layer[0].score_exp;
    Arena a;
    arena_init(&a, false);
    Table *t = table_new(s, &a);
    size_t cells = (size_t)1 << (s->t - s->k), top = cells / 2;
    double scale = ldexp(1, (int)s->f0);
    for (uint64_t low = 0; low < UINT64_C(1) << s->k; low += 37) {
        double at = ldexp((double)low, -(int)s->f) - 2;        // of the top cell that is exact: below 0 by at most its width
        CHECK_NEAR(exp(at), (double)table_word(t, low, 0, top - 3) / scale, 1.0 / scale);
        CHECK_NEAR(1, (double)table_word(t, low, 0, top - 2) / scale, 1.0 / scale);
        CHECK_NEAR(1, (double)table_word(t, low, 0, top - 1) / scale, 1.0 / scale);
    }
    arena_free(&a);
}

/* A plan without tables of 1/rms that does not hold its norms. */
TEST(a_norm_needs_a_table_or_a_constant)
{
    Form f = forms[0];
    f.change.norms = false;
    setup(&f);
    plan.layer[1].ffn.rsqrt = (LookupSpec){0};
    CHECK_FAILS(plan_check(&plan, &model.config), "1/rms table");
}

// ---- costs -----------------------------------------------------------------------------------------------------------

static uint64_t bytes_of(const Cost *c) { return c->bytes.client_to_server + c->bytes.server_to_client + c->bytes.third_to_server; }

/* What the change saves of a token, on shapes that people use. */
TEST(published_shapes_cost_less)
{
    static const char *const shapes[] = {"open-llama-3b", "llama2-7b"};
    static const float ones[] = {1, 1, 1, 1}, zeros[128];
    for (int s = 0; s < 2; s++)
        for (Prefer prefer = FOLD; prefer <= LEAN; prefer++)
            for (int rank = 0; rank < 2; rank++) {
                ModelConfig c;
                Cost cost[3];
                CHECK_OK(shape_config(shapes[s], &c));
                c.layers = 2, c.vocab = 8;
                for (int held = 0; held < 3; held++) {
                    Plan p;
                    PlanOptions o = {.context = 128, .prefer = prefer, .private_part = rank ? PRIVATE_LORA : PRIVATE_LAYERS, .weight_bits = 8,
                                     .variant = {.norm = held == 1 ? ones : NULL, .norm_mix = held == 1, .row_bound = held == 2 ? zeros : NULL}};
                    CHECK_OK(plan_assume(&p, &c, &o, rank ? 64 : 0));
                    CHECK_OK(plan_cost_layers(&cost[held], &p, &c, 127, 1));
                    plan_free(&p);
                }
                printf("    %s, %s, %s: %llu exchanges after %llu; C to S %.2f, S to C %.2f, T to S %.2f of the bytes\n", shapes[s],
                       prefer == FOLD ? "fold" : "lean", rank ? "LoRA" : "private layers", (unsigned long long)cost[1].exchanges / 2,
                       (unsigned long long)cost[0].exchanges / 2,
                       (double)cost[1].bytes.client_to_server / (double)cost[0].bytes.client_to_server,
                       (double)cost[1].bytes.server_to_client / (double)cost[0].bytes.server_to_client,
                       (double)cost[1].bytes.third_to_server / (double)cost[0].bytes.third_to_server);
                CHECK_EQUAL(2 * (prefer == FOLD ? 15U : rank ? 17U : 15U), cost[1].exchanges);
                CHECK_EQUAL(cost[0].exchanges - 4, cost[2].exchanges);
                printf("    .. bounds: T to S %.2f\n", (double)cost[2].bytes.third_to_server / (double)cost[0].bytes.third_to_server);
                CHECK(bytes_of(&cost[1]) < bytes_of(&cost[0]) && bytes_of(&cost[2]) < bytes_of(&cost[0]));
            }
}

int main(int argc, char **argv) { num_init(NUM_BEST); crypto_init(false); return test_main(argc, argv); }
