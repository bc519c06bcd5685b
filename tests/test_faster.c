/* test_faster.c - changes of the network that take exchanges out of a secure layer: norms held at constants, bounds in
 * place of row maxima, attention and feed-forward side by side. Against the float
 * network, as three parties against the ideal functionality, in exchanges and bytes, and as plans that lie. */
#define TEST_SECONDS 200
#include "mpc/table.h"
#include "networks.h"
#include "plans.h"

enum { NO_ATTENTION = EVERY - (1 << MAT_Q | 1 << MAT_K | 1 << MAT_V) };

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
    {GPT2_SHAPE, 0, 0, FOLD, LAYERS, {.norms = true}, 14, .merge = 2, .known = 4},
    {GPT2_SHAPE, 3, 1 << MAT_V | 1 << MAT_O | 1 << MAT_GATE, LEAN, LAYERS, {.norms = true}, 15, .frozen = 1},
    {LLAMA, 4, EVERY, FOLD, LORA, {.bounds = true}, 16, .merge = 2},
    {LLAMA, 4, EVERY, LEAN, LORA, {.bounds = true}, 21, .known = 3},
    {LLAMA, 0, 0, LEAN, LAYERS, {.bounds = true}, 21, .frozen = 1},
    {LLAMA, 4, NO_ATTENTION, FOLD, LORA, {.norms = true, .bounds = true}, 12, .merge = 2, .known = 5},
    {GPT2_SHAPE, 0, 0, FOLD, LAYERS, {.bounds = true}, 15, .merge = 2},
    {GPT2_SHAPE, 0, 0, LEAN, LAYERS, {.norms = true, .bounds = true}, 13, .known = 3},
    {LLAMA, 4, EVERY, FOLD, LORA, {.beside = true}, 12, .merge = 2, .known = 2},
    {LLAMA, 4, EVERY, LEAN, LORA, {.beside = true}, 15, .frozen = 1},
    {LLAMA, 0, 0, FOLD, LAYERS, {.beside = true}, 12, .known = 3},
    {LLAMA, 3, EVERY, LEAN, LAYERS, {.beside = true}, 15, .merge = 2},
    {LLAMA, 3, 1 << MAT_Q | 1 << MAT_UP | 1 << MAT_O | 1 << MAT_DOWN, FOLD, LORA, {.beside = true}, 12, .quantised = true},
    {GPT2_SHAPE, 0, 0, FOLD, LAYERS, {.beside = true}, 11, .merge = 2},
    {GPT2_SHAPE, 0, 0, LEAN, LAYERS, {.beside = true, .bounds = true}, 12, .known = 3},
    {LLAMA, 4, EVERY, FOLD, LORA, {.norms = true, .beside = true}, 11, .known = 3},
    {LLAMA, 4, EVERY, FOLD, LORA, {.norms = true, .bounds = true, .beside = true}, 9, .merge = 2},
    {LLAMA, 4, NO_ATTENTION, FOLD, LORA, {.norms = true, .bounds = true, .beside = true}, 8, .frozen = 1},
    {LLAMA, 3, EVERY, LEAN, LORA, {.norms = true, .bounds = true, .beside = true}, 11, .quantised = true},
    {LLAMA, 0, 0, LEAN, LAYERS, {.norms = true, .bounds = true, .beside = true}, 9, .known = 5},
    {NARROW_SHAPE, 0, 0, FOLD, LORA, {.norms = true}, 12, .known = 0},
    {NARROW_SHAPE, 2, EVERY, FOLD, LORA, {.norms = true}, 15, .known = 0}};
enum { FORMS = sizeof forms / sizeof *forms };

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
    network_new(&f->config, f->change.bounds ? 0.5 : 1.2, f->quantised);   // scores of a size that trained models have, though held norms do not even rows out
    network_adapt(f->frozen, f->rank, f->kinds, f->change.bounds ? 0.1 : 0.5);
    text_draw();
    ids_draw(prefix + 1, KNOWN_MOST - 1);
    PlanOptions o = {.frozen = f->frozen, .prefer = f->prefer, .private_part = f->private_part, .prefix = prefix + 1, .prefix_len = f->known};
    variant_make(&o.variant, f);
    network_plan(&o);
}

// ---- all five roles --------------------------------------------------------------------------------------------------

TEST(parties_clear_and_plain_agree)
{
    for (size_t i = 0; i < FORMS; i++) {
        setup(&forms[i]);
        Step steps[] = {{.rows = 5}, {.rows = 1}, {.rows = 1}, {.rows = 3}, {0}};
        Run run = {.prompt = prompt_new(tokens + 40, 10), .steps = steps};
        Cost c;
        steps[i % 3].ahead = 4;
        run_agrees(&run);
        logits_close(run.prompt.want, run.logits[ROLE_CLEAR], 10, "form", i);
        CHECK_OK(plan_cost(&c, &plan, &model.config, 0, 3, true));
        CHECK_EQUAL(plan.layers * forms[i].each + 5, c.exchanges);
        run_end(&run);
    }
}

/* Contexts of several pages, a known prefix of more than one of them. */
TEST(long_conversations_agree)
{
    static const Step steps[] = {{.rows = 58}, {.rows = 1, .ahead = 4}, {.rows = 1}, {.rows = 1}, {.rows = 60}, {.rows = 9}, {0}};
    static const Form longer[] = {{LONG, 3, EVERY, FOLD, LORA, {.norms = true}, 15, .merge = 2},
                                  {LONG, 0, 0, LEAN, LAYERS, {.norms = true}, 15, .known = 68, .frozen = 1}};
    for (size_t i = 0; i < sizeof longer / sizeof *longer; i++) {
        setup(&longer[i]);
        Run run = {.prompt = prompt_new(tokens + 40, 130), .steps = steps};
        run_agrees(&run);
        logits_close(run.prompt.want, run.logits[ROLE_CLEAR], 130, "long", i);
        run_end(&run);
    }
}

/* Rows of zeros, where a norm that is computed would have nothing to divide by, tiny ones, and larger ones than any seen. */
TEST(edges_agree)
{
    static const Step steps[] = {{.rows = 4, .ahead = 4}, {.rows = 1}, {0}};
    static const float times[] = {0, 1e-3f, -1, 1.15f, 0};
    for (size_t i = 0; i < FORMS; i++) {
        setup(&forms[i]);
        Run run = {.prompt = prompt_new(tokens + 40, 5), .steps = steps};
        for (size_t j = 0; j < 5 * model.config.width; j++) run.prompt.x[j] *= times[j / model.config.width];
        run_agrees(&run);
        run_end(&run);
    }
}

// ---- plans -----------------------------------------------------------------------------------------------------------

TEST(plans_as_json_and_back)
{
    for (size_t i = 0; i < FORMS; i++) {
        Plan again;
        setup(&forms[i]);
        plan_returns(&again, &plan, &model.config);
        plan_free(&again);
    }
}

static Result parse_edited(const Buffer *text, const char *anchor, const char *from, const char *to)
{
    return plan_edited(text, &model.config, anchor, from, to);
}

TEST(plans_that_lie_are_refused)
{
    setup(&forms[0]);
    Buffer t = plan_text(&plan);
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
    Buffer t = plan_text(&plan);
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
