/* test_approx.c - variants that exist to be compared with: pruned heads, polynomials and ReLU in place of the activation and of the
 * exponential. Each against the float network, in batches and one by one, as three parties against the ideal functionality, and in
 * what it costs. */
#include "networks.h"
#include "plans.h"

enum { LAYERS_MOST = 3 };

/* kept: key-value heads that are left, 0 for all of them. */
typedef struct Case {
    ModelConfig config;
    uint32_t frozen, rank;
    unsigned kinds;
    Prefer prefer;
    Private private_part;
    bool quantised;
    uint32_t merge, kept;
    Activation activation;
    Softmax softmax;
} Case;

#define GROUPED_SHAPE {.width = 30, .layers = 3, .heads = 8, .kv_heads = 4, .head_dim = 10, .ffn = 37, .vocab = 33, .context = 70, \
                       .norm_eps = 1e-6f, .rope_theta = 500000, .rope = {8, 1, 4, 16}, .tied = true, .bos = 1, .eos = 2}

static const Case cases[] = {
    {PLAIN_SHAPE, 0, 4, EVERY, PREFER_EXCHANGES, PRIVATE_LORA, false, 1, 3, 0, 0},
    {PLAIN_SHAPE, 1, 3, EVERY, PREFER_BYTES, PRIVATE_LORA, true, 2, 2, 0, 0},
    {GROUPED_SHAPE, 1, 3, 1 << MAT_O | 1 << MAT_K | 1 << MAT_Q, PREFER_EXCHANGES, PRIVATE_LORA, true, 1, 1, 0, 0},
    {GROUPED_SHAPE, 0, 0, 0, PREFER_BYTES, PRIVATE_LAYERS, false, 2, 2, 0, 0},
    {GPT2_SHAPE, 0, 0, 0, PREFER_EXCHANGES, PRIVATE_LAYERS, false, 1, 2, 0, 0},
    {GPT2_SHAPE, 1, 3, 1 << MAT_V | 1 << MAT_O | 1 << MAT_GATE, PREFER_BYTES, PRIVATE_LAYERS, false, 2, 2, 0, 0},
    {PLAIN_SHAPE, 0, 4, EVERY, PREFER_EXCHANGES, PRIVATE_LORA, false, 1, 0, ACTIVATION_RELU, 0},
    {GROUPED_SHAPE, 1, 0, 0, PREFER_BYTES, PRIVATE_LAYERS, false, 1, 0, ACTIVATION_RELU, 0},
    {GPT2_SHAPE, 0, 0, 0, PREFER_EXCHANGES, PRIVATE_LAYERS, false, 1, 0, ACTIVATION_RELU, 0},
    {PLAIN_SHAPE, 0, 4, EVERY, PREFER_BYTES, PRIVATE_LORA, true, 1, 0, ACTIVATION_QUAD, 0},
    {GROUPED_SHAPE, 1, 0, 0, PREFER_EXCHANGES, PRIVATE_LAYERS, false, 1, 0, ACTIVATION_QUAD, 0},
    {GPT2_SHAPE, 1, 0, 0, PREFER_BYTES, PRIVATE_LAYERS, false, 1, 0, ACTIVATION_QUAD, 0},
    {PLAIN_SHAPE, 0, 4, EVERY, PREFER_EXCHANGES, PRIVATE_LORA, false, 1, 0, 0, SOFTMAX_2QUAD},
    {GROUPED_SHAPE, 1, 3, EVERY, PREFER_BYTES, PRIVATE_LORA, true, 2, 2, 0, SOFTMAX_2QUAD},
    {GPT2_SHAPE, 0, 0, 0, PREFER_EXCHANGES, PRIVATE_LAYERS, false, 2, 0, ACTIVATION_QUAD, SOFTMAX_2QUAD},
    {PLAIN_SHAPE, 0, 4, EVERY, PREFER_BYTES, PRIVATE_LORA, false, 1, 0, 0, SOFTMAX_2RELU},
    {GROUPED_SHAPE, 1, 0, 0, PREFER_EXCHANGES, PRIVATE_LAYERS, false, 1, 0, 0, SOFTMAX_2RELU},
    {GPT2_SHAPE, 1, 0, 0, PREFER_BYTES, PRIVATE_LAYERS, false, 1, 3, ACTIVATION_RELU, SOFTMAX_2RELU},
};
enum { CASES = sizeof cases / sizeof *cases };

static uint32_t head_order[LAYERS_MOST * 8];

static Variant variant_of(const Case *c)
{
    Variant v = {.first = c->frozen, .heads.size = c->merge, .activation = c->activation, .softmax = c->softmax};
    uint32_t heads = c->config.kv_heads;
    if (c->kept) v.heads.order = head_order, v.heads.heads = c->kept;
    for (uint32_t l = 0; l < c->config.layers - c->frozen; l++)
        for (uint32_t i = 0; i < c->kept; i++) head_order[l * c->kept + i] = (3 * (i + l) + 1) % heads;
    return v;
}

static void setup(const Case *c)
{
    network_new(&c->config, 1.5, c->quantised);
    network_adapt(c->frozen, c->rank, c->kinds, 0.5);
    text_draw();
    network_plan(&(PlanOptions){.frozen = c->frozen, .prefer = c->prefer, .private_part = c->private_part, .variant = variant_of(c)});
    CHECK_EQUAL(1, plan.known);
}

// ---- moves -----------------------------------------------------------------------------------------------------------

enum { ROWS = 3, COLUMNS = 211, INDEX_BITS = 12, INDEX_F = 6, CELL_BITS = 3 };

/* Edges first: both ends, zero, and both sides of it. */
static double moved(size_t i)
{
    static const double edge[] = {15.8, -15.8, 0, 1.0 / 64, -1.0 / 64, 3.0 / 64, -3.0 / 64, 4.0 / 64, -4.0 / 64, 5.0 / 64, -5.0 / 64};
    uint64_t z = (uint64_t)(i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 29) * 0xBF58476D1CE4E5B9u, z ^= z >> 32;
    if (i < sizeof edge / sizeof *edge) return edge[i];
    return ((double)(z >> 11) * 0x1p-53 - 0.5) * (i % 2 ? 31.6 : 0.5);
}

static void moves(Party *p)
{
    Engine *e = p->engine;
    party_begin(p, ROWS, 0);
    const Layout *at = layout_uniform(e, COLUMNS);
    uint64_t *x = arena_new(&p->session, uint64_t, layout_len(at));
    for (size_t i = 0; i < layout_len(at); i++) x[i] = ring_from_real(moved(i), INDEX_F);
    Wire a = wire_input_client(e, at, INDEX_BITS, INDEX_F, x), wide = wire_input_client(e, at, 40, INDEX_F, x);
    Opened *o = wire_open(e, a), *w = wire_open(e, wide);
    CHECK_OK(engine_exchange(e, "index"));
    Signed *s = sign_select(e, o, CELL_BITS), *all = sign_select(e, o, 1), *few = sign_select(e, o, INDEX_BITS - 4);
    const int64_t one = 1 << INDEX_F;
    party_record(p, factor_mul_once(e, opened_quadratic(e, o, 40, 2 * one, 4 * one * one), NULL, 40));
    party_record(p, factor_mul_once(e, opened_quadratic(e, w, 40, -3 * one, 5), NULL, 40));
    party_record(p, factor_mul_once(e, opened_quadratic(e, o, 50, one, 0), opened_factor(e, w, 50), 50));
    party_record(p, factor_mul_once(e, opened_quadratic(e, o, INDEX_BITS + 1, 0, 0), NULL, INDEX_BITS + 1));
    CHECK_OK(engine_exchange(e, "signs"));
    party_record(p, factor_mul_once(e, sign_factor(e, s, 45), opened_factor(e, o, 45), 45));
    party_record(p, factor_mul_once(e, sign_factor(e, all, 20), NULL, 20));
    party_record(p, factor_mul_once(e, sign_factor(e, few, 20), NULL, 20));
    CHECK_OK(engine_end(e));
}

TEST(polynomials_and_signs)
{
    Party party[5];
    parties_run(party, moves, NULL);
    parties_compare(party);
    const Party *c = &party[ROLE_CLEAR];
    for (size_t i = 0; i < ROWS * COLUMNS; i++) {
        double x = rint(moved(i) * 64) / 64, sign;
        CHECK_NEAR(x * x + 2 * x + 4, record_value(c, 0, i, 12), 0);
        CHECK_NEAR(x * x - 3 * x + 5.0 / 4096, record_value(c, 1, i, 12), 0);
        CHECK_NEAR((x * x + x) * x, record_value(c, 2, i, 18), 0);
        CHECK_NEAR(x > 0 ? x : 0, record_value(c, 4, i, INDEX_F), fabs(x) < 4.0 / 64 ? fabs(x) : 0);
        sign = record_value(c, 5, i, 0);
        CHECK(x == 0 ? sign == 0 || sign == 1 : sign == (x > 0));
        sign = record_value(c, 6, i, 0);
        CHECK((sign == 0 || sign == 1) && (fabs(x) < 2 || fabs(x) > 12 || sign == (x > 0)));
    }
    parties_end(party);
}

// ---- networks --------------------------------------------------------------------------------------------------------

TEST(close_to_the_float_network)
{
    for (size_t i = 0; i < CASES; i++) setup(&cases[i]), clear_is_close("case", i);
}

TEST(a_batch_is_its_positions_one_by_one)
{
    for (size_t i = 0; i < CASES; i++) setup(&cases[i]), clear_is_the_same_one_by_one(9);
}

TEST(three_parties_give_what_the_specification_gives_at_the_cost_of_the_plan)
{
    static const Step steps[] = {{.rows = 5, .ahead = 7}, {.rows = 1}, {.rows = 1, .last_only = true}, {0}};
    for (size_t i = 0; i < CASES; i++) {
        setup(&cases[i]);
        Run run = {.prompt = prompt_new(tokens + 40, 7), .steps = steps};
        run_agrees(&run);
        run_end(&run);
    }
}

// ---- plans -----------------------------------------------------------------------------------------------------------

TEST(plans_as_json_and_back)
{
    for (size_t i = 0; i < CASES; i++) {
        Plan again;
        setup(&cases[i]);
        plan_returns(&again, &plan, &model.config);
        plan_free(&again);
    }
}

static void lie(const LayerPlan *good, const char *found)
{
    CHECK_FAILS(plan_check(&plan, &model.config), found);
    plan.layer[0] = *good;
}

/* Every width that an approximation adds is proved, whichever way a plan has it wrong. */
TEST(plans_that_lie_are_refused)
{
    for (size_t i = 6; i < CASES; i++) {
        const Case *c = &cases[i];
        setup(c);
        const LayerPlan good = plan.layer[0];
        LayerPlan *l = &plan.layer[0];
        const ModelConfig *m = &model.config;
        bool gated = c->activation && c->config.arch == ARCH_LLAMA, signs = c->activation == ACTIVATION_RELU;
        if (c->activation) l->gate.n--, lie(&good, "unsound plan");
        if (c->activation) l->range.gate++, lie(&good, "unsound plan");
        if (signs) l->gate_cell = 0, lie(&good, "sign of the gate");
        if (signs) l->gate_cell = l->gate.n - 3, lie(&good, "sign of the gate");
        if (gated) l->gated.n--, lie(&good, "unsound plan");
        if (gated) l->gated.f++, lie(&good, "unsound plan");
        if (c->softmax) l->range.score++, lie(&good, "unsound plan");
        if (c->softmax) l->weight_unit -= 2, lie(&good, "softmax weights");
        if (c->softmax) l->range.sum += 3, lie(&good, "unsound plan");
        if (c->softmax == SOFTMAX_2RELU) l->score_cell = 60, lie(&good, "sign of the scores");
        CHECK_OK(plan_check(&plan, m));
        plan.score_shift += c->softmax == SOFTMAX_2QUAD ? 1e4 : 1;
        CHECK_FAILS(plan_check(&plan, m), "shift of the scores");
    }
}

/* What a pruned plan pins, opens and keeps is that of a model that never had the heads. */
TEST(pruned_heads_cost_nothing)
{
    const ModelConfig c = GROUPED_SHAPE;
    ModelConfig fewer = c;
    fewer.heads = 4, fewer.kv_heads = 2;
    for (int form = 0; form < 4; form++) {
        PlanOptions o = {.context = 60, .prefer = form & 1 ? PREFER_BYTES : PREFER_EXCHANGES,
                         .private_part = form & 2 ? PRIVATE_LAYERS : PRIVATE_LORA};
        Plan pruned, without;
        Cost a, b;
        CHECK_OK(plan_assume(&without, &fewer, &o, 4));
        const Case of = {.config = c, .merge = 1, .kept = 2};
        o.variant = variant_of(&of);
        CHECK_OK(plan_assume(&pruned, &c, &o, 4));
        CHECK_OK(plan_cost(&a, &pruned, &c, 0, 7, true));
        CHECK_OK(plan_cost(&b, &without, &fewer, 0, 7, true));
        CHECK(!memcmp(&a, &b, sizeof a));
        CHECK_EQUAL(plan_setup_bytes(&without, &fewer), plan_setup_bytes(&pruned, &c));
        plan_free(&pruned), plan_free(&without);
    }
}

int main(int argc, char **argv) { num_init(NUM_BEST); crypto_init(false); return test_main(argc, argv); }
