/* test_secure.c - the secure layers: against the float network, in batches and one by one, as three parties against the
 * ideal functionality, in bytes and exchanges, and on a real checkpoint. */
#define TEST_SECONDS 280
#include "networks.h"

/* merge: heads a group; shuffled: groups of any heads; known: tokens that both know after BOS; scale: of scores. */
typedef struct Case {
    ModelConfig config;
    uint32_t frozen, rank;
    unsigned kinds;
    Prefer prefer;
    Private private_part;
    bool quantised;
    struct { uint32_t merge; bool shuffled; uint32_t known; float scale; } more;
} Case;

#define ODD_SHAPE {.width = 30, .layers = 3, .heads = 6, .kv_heads = 2, .head_dim = 10, .ffn = 37, .vocab = 33, .context = 70, \
                   .norm_eps = 1e-6f, .rope_theta = 500000, .rope = {8, 1, 4, 16}, .tied = true, .bos = 1, .eos = 2}
#define ONE_HEAD {.width = 16, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 16, .ffn = 24, .vocab = 17, .context = 12, \
                  .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = -1, .eos = -1}

#define LONG_SHAPE {.width = 16, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 6, .ffn = 20, .vocab = 17, .context = 230, \
                    .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}

static uint32_t head_order[4 * 8];

/* A random permutation of the key-value heads for each layer. */
static const uint32_t *order_random(const ModelConfig *c, uint32_t layers)
{
    for (uint32_t l = 0; l < layers; l++) {
        uint32_t *head = head_order + l * c->kv_heads;
        for (uint32_t i = 0; i < c->kv_heads; i++) head[i] = i;
        for (uint32_t i = c->kv_heads - 1; i > 0; i--) {
            uint32_t j = (uint32_t)(test_random() * (i + 1)), v = head[i];
            head[i] = head[j], head[j] = v;
        }
    }
    return head_order;
}

static void setup(const Case *c)
{
    network_new(&c->config, 1.5, c->quantised);
    network_adapt(c->frozen, c->rank, c->kinds, 0.5);
    text_draw();
    ids_draw(prefix + 1, KNOWN_MOST - 1);
    PlanOptions o = {.frozen = c->frozen, .prefer = c->prefer, .private_part = c->private_part,
                     .prefix = prefix + 1, .prefix_len = c->more.known, .variant.score_scale = c->more.scale};
    HeadGroups *g = &o.variant.heads;
    g->size = c->more.merge;
    if (c->more.shuffled) g->order = order_random(&c->config, c->config.layers - c->frozen), g->heads = c->config.kv_heads;
    network_plan(&o);
}

static const Case cases[] = {
    {PLAIN_SHAPE, 0, 4, EVERY, PREFER_EXCHANGES, PRIVATE_LORA, false, {0}},
    {PLAIN_SHAPE, 0, 4, EVERY, PREFER_BYTES, PRIVATE_LORA, false, {0}},
    {PLAIN_SHAPE, 0, 0, 0, PREFER_EXCHANGES, PRIVATE_LAYERS, false, {0}},
    {PLAIN_SHAPE, 0, 0, 0, PREFER_BYTES, PRIVATE_LAYERS, false, {0}},
    {ODD_SHAPE, 1, 3, 1 << MAT_Q | 1 << MAT_V, PREFER_EXCHANGES, PRIVATE_LORA, false, {0}},
    {ODD_SHAPE, 1, 3, 1 << MAT_O | 1 << MAT_UP | 1 << MAT_DOWN, PREFER_BYTES, PRIVATE_LORA, false, {0}},
    {ODD_SHAPE, 1, 5, EVERY, PREFER_EXCHANGES, PRIVATE_LAYERS, false, {0}},
    {ODD_SHAPE, 0, 0, 0, PREFER_BYTES, PRIVATE_LAYERS, false, {0}},
    {ONE_HEAD, 0, 0, 0, PREFER_EXCHANGES, PRIVATE_LORA, false, {0}},
    {ONE_HEAD, 0, 2, 1 << MAT_GATE, PREFER_BYTES, PRIVATE_LORA, false, {0}},
    {PLAIN_SHAPE, 0, 4, EVERY, PREFER_BYTES, PRIVATE_LORA, true, {0}},
    {ODD_SHAPE, 1, 3, EVERY, PREFER_EXCHANGES, PRIVATE_LORA, true, {0}},
    {ODD_SHAPE, 1, 0, 0, PREFER_EXCHANGES, PRIVATE_LAYERS, true, {0}},
    {ONE_HEAD, 0, 0, 0, PREFER_BYTES, PRIVATE_LORA, true, {0}},
    {GPT2_SHAPE, 0, 0, 0, PREFER_EXCHANGES, PRIVATE_LAYERS, false, {0}},
    {GPT2_SHAPE, 1, 3, 1 << MAT_V | 1 << MAT_O | 1 << MAT_GATE, PREFER_BYTES, PRIVATE_LAYERS, false, {0}},
    {PLAIN_SHAPE, 0, 4, EVERY, PREFER_BYTES, PRIVATE_LORA, false, {2, false, 0, 0.5f}},
    {PLAIN_SHAPE, 1, 3, EVERY, PREFER_EXCHANGES, PRIVATE_LORA, true, {4, false, 5, 0}},
    {ODD_SHAPE, 1, 2, 1 << MAT_K | 1 << MAT_O, PREFER_EXCHANGES, PRIVATE_LORA, false, {2, false, 3, 0}},
    {NARROW_SHAPE, 0, 2, EVERY, PREFER_EXCHANGES, PRIVATE_LORA, false, {0}},
    {NARROW_SHAPE, 0, 0, 0, PREFER_BYTES, PRIVATE_LORA, false, {0}},
    {NARROW_SHAPE, 0, 0, 0, PREFER_EXCHANGES, PRIVATE_LAYERS, false, {0}},
    {GPT2_SHAPE, 0, 0, 0, PREFER_EXCHANGES, PRIVATE_LAYERS, false, {2, true, 6, 0.7f}},
    {ODD_SHAPE, 0, 0, 0, PREFER_BYTES, PRIVATE_LAYERS, false, {1, true, 1, 0}}};
enum { CASES = sizeof cases / sizeof *cases };

TEST(close_to_the_float_network)
{
    for (size_t i = 0; i < CASES; i++) setup(&cases[i]), clear_is_close("case", i);
}

TEST(a_batch_is_its_positions_one_by_one)
{
    for (size_t i = 0; i < CASES; i++) setup(&cases[i]), clear_is_the_same_one_by_one(9);
}

// ---- three parties ---------------------------------------------------------------------------------------------------

/* The client works ahead not at all; for everything at the start; for the first rows of the prompt, then for the steps. */
TEST(three_parties_give_what_the_specification_gives)
{
    static const Step steps[3][4] = {{{.rows = 5}, {.rows = 1}, {.rows = 1, .last_only = true}, {0}},
                                     {{.rows = 5, .ahead = 7}, {.rows = 1}, {.rows = 1, .last_only = true}, {0}},
                                     {{.rows = 5, .ahead = 3}, {.rows = 1, .ahead = 2}, {.rows = 1, .last_only = true}, {0}}};
    for (size_t i = 0; i < CASES; i++) {
        setup(&cases[i]);
        Run run = {.prompt = prompt_new(tokens + 40, 7), .steps = steps[(i + i / 3) % 3]};
        Cost c;
        run_agrees(&run);
        CHECK_OK(plan_cost(&c, &plan, &model.config, 0, 5, false));
        uint64_t each = (cases[i].prefer == PREFER_BYTES ? 23U : 18U) - (model.config.arch == ARCH_GPT2);
        if (cases[i].private_part == PRIVATE_LAYERS || cases[i].kinds == EVERY) CHECK_EQUAL(plan.layers * each + 5, c.exchanges);
        run_end(&run);
    }
}

/* A conversation that goes back, in the midst of segments that C has worked ahead for: their streams are now used elsewhere. */
TEST(work_ahead_serves_no_other_position)
{
    static const size_t some[] = {0, 3, 15, 18};
    static const Step steps[] = {{.rows = 2}, {.rows = 1, .ahead = 5, .back = 1}, {.rows = 1}, {.rows = 1, .back = RESTART},
                                 {.rows = 2}, {0}};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        setup(&cases[some[i]]);
        Run run = {.prompt = prompt_new(tokens + 40, 7), .steps = steps};
        run_agrees(&run);
        run_end(&run);
    }
}

// ---- caches that grow ------------------------------------------------------------------------------------------------

/* Contexts of several pages of 64 positions: BOS alone, merged heads, and a known prefix that takes more than a page itself. */
static const Case long_cases[] = {
    {LONG_SHAPE, 1, 3, EVERY, PREFER_EXCHANGES, PRIVATE_LORA, false, {0}},
    {LONG_SHAPE, 0, 0, 0, PREFER_BYTES, PRIVATE_LAYERS, false, {2, false, 3, 0}},
    {LONG_SHAPE, 1, 2, 1 << MAT_K | 1 << MAT_O, PREFER_BYTES, PRIVATE_LORA, false, {2, true, 68, 0}}};
enum { LONG_CASES = sizeof long_cases / sizeof *long_cases, LONG_ROWS = 150 };

TEST(a_conversation_that_grows_is_the_same_at_once)
{
    static const size_t batch[] = {58, 1, 1, 1, 1, 1, 1, 1, 60, 1, 3, LONG_ROWS - 129};
    for (size_t i = 0; i < LONG_CASES; i++) {
        setup(&long_cases[i]);
        Prompt prompt = prompt_new(tokens + 40, LONG_ROWS);
        size_t len = LONG_ROWS * model.config.vocab;
        float *at_once = calloc(len, sizeof *at_once), *grown = calloc(len, sizeof *grown);
        Party p;
        clear_run(&prompt, LONG_ROWS, LONG_ROWS, at_once);
        party_alone(&p, ROLE_CLEAR);
        SecureNet *net = network_start(&p);
        for (size_t b = 0, at = 0; b < sizeof batch / sizeof *batch; at += batch[b++])
            network_run(&p, net, &prompt, at, batch[b], grown, false);
        CHECK_EQUAL(plan.known + LONG_ROWS, secure_past(net));
        party_end(&p);
        logits_equal(at_once, grown, LONG_ROWS);
        free(at_once), free(grown);
    }
}

/* Over the end of a page, back before it, on in one batch over two more, and from the start again. */
TEST(three_parties_agree_while_caches_grow)
{
    static const Step steps[] = {{.rows = 62}, {.rows = 1, .ahead = 8}, {.rows = 1, .ahead = 8}, {.rows = 1, .ahead = 8},
                                 {.rows = 1, .ahead = 8, .back = 60}, {.rows = 2, .ahead = 8}, {.rows = 77, .ahead = 8},
                                 {.rows = 1, .ahead = 8, .back = RESTART}, {.rows = 4, .ahead = 8}, {0}};
    for (size_t i = 0; i < LONG_CASES; i++) {
        setup(&long_cases[i]);
        Run run = {.prompt = prompt_new(tokens + 40, LONG_ROWS), .steps = steps};
        run_agrees(&run);
        run_end(&run);
    }
}

TEST(memory_follows_the_conversation)
{
    setup(&long_cases[0]);
    Prompt prompt = prompt_new(tokens + 40, LONG_ROWS);
    Party p;
    float *logits = calloc(LONG_ROWS * model.config.vocab, sizeof *logits);
    size_t page = 64 * model.config.kv_heads * model.config.head_dim * 2 * plan.layers * 3 * sizeof(uint64_t);   // of CLEAR, which keeps most
    party_alone(&p, ROLE_CLEAR);
    SecureNet *net = network_start(&p);
    size_t before = p.session.used, first = 64 - plan.known;
    network_run(&p, net, &prompt, 0, 10, logits, false);
    CHECK_EQUAL(before + page, p.session.used);
    network_run(&p, net, &prompt, 10, first - 10, logits, false);
    CHECK_EQUAL(before + page, p.session.used);
    network_run(&p, net, &prompt, first, 1, logits, false);
    CHECK_EQUAL(before + 2 * page, p.session.used);
    secure_restart(net);
    network_run(&p, net, &prompt, first + 1, 80, logits, false);
    CHECK_EQUAL(before + 2 * page, p.session.used);
    party_end(&p);
    free(logits);
}

// ---- the secure layers alone -----------------------------------------------------------------------------------------

/* The difference of shared rows from float ones; a LayerNorm's residual stream goes without its mean. */
static double rows_difference(Wire got, const float *want, size_t rows, double *rms)
{
    const ModelConfig *c = &model.config;
    double most = 0, sum = 0;
    for (size_t r = 0; r < rows; r++) {
        double mean = 0;
        for (size_t i = 0; i < c->width && c->arch == ARCH_GPT2; i++) mean += (double)want[r * c->width + i] / c->width;
        for (size_t i = r * c->width; i < (r + 1) * c->width; i++) {
            double d = fabs(ldexp((double)ring_signed(got.c.word[i] + got.s.word[i], got.n), -(int)got.f) - ((double)want[i] - mean));
            most = fmax(most, d), sum += d * d;
        }
    }
    *rms = sqrt(sum / (double)(rows * c->width));
    return most;
}

/* Random rows and weights of unit scale, under the plan that predicts the shape's costs. */
TEST(a_block_of_gpt2_small)
{
    enum { ROWS = 128 };
    ModelConfig c;
    CHECK_OK(shape_config("gpt2-small", &c));
    c.layers = 1, c.vocab = 8, c.bos = 1, c.eos = 2;
    model_random(&model, &c, 7);
    for (int lean = 0; lean < 2; lean++) {
        PlanOptions o = {.context = ROWS, .prefer = lean ? PREFER_BYTES : PREFER_EXCHANGES, .private_part = PRIVATE_LAYERS};
        CHECK_OK(plan_assume(&plan, &c, &o, 0));
        plan.known = 0;
        Arena a;
        arena_init(&a, false);
        PlainState *s = plain_new(&model, NULL, ROWS, &a);
        float *x = random_weights(&a, (size_t)ROWS * c.width, 1), *want = arena_new(&a, float, (size_t)ROWS * c.width);
        memcpy(want, x, (size_t)ROWS * c.width * sizeof *x);
        plain_layers(s, want, ROWS, 0, 1);
        Party clear;
        Wire got;
        party_alone(&clear, ROLE_CLEAR);
        SecureNet *net = network_start(&clear);
        party_begin(&clear, ROWS, 0);
        CHECK_OK(secure_layers(net, ROWS, x, NULL, &got));
        double rms, most = rows_difference(got, want, ROWS, &rms);
        printf("    %s: error max %.4f, rms %.5f\n", lean ? "lean" : "fold", most, rms);
        CHECK(most < 0.01 && rms < 0.002);
        Cost cost;
        CHECK_OK(plan_cost_layers(&cost, &plan, &c, 0, ROWS));
        CHECK_EQUAL(lean ? 22 : 17, cost.exchanges);
        party_end(&clear);
        arena_free(&a);
        plan_free(&plan);
    }
}

// ---- a real checkpoint -----------------------------------------------------------------------------------------------

typedef struct Fidelity { size_t positions, agree; double loss, plain_loss, most, squares; } Fidelity;

static size_t read_text(int32_t **ids, Arena *a)
{
    Buffer text = {0};
    Tokenizer *t;
    size_t count;
    CHECK_OK(file_read(&text, test_data("text/tinystories_sample_2MiB.txt"), 1 << 22));
    CHECK_OK(tokenizer_load(&t, test_data("weights/stories260K/tokenizer.model")));
    CHECK_OK(tokenizer_encode(t, (const char *)text.data, utf8_complete(text.data, 160000), ids, &count, a));
    tokenizer_free(t);
    buffer_free(&text);
    return count;
}

static uint32_t best(const float *logits)
{
    Sampler s;
    sampler_init(&s, 0, 1, 0);
    return (uint32_t)sampler_pick(&s, logits, model.config.vocab);
}

/* Teacher-forced over `rows` tokens after BOS, in one batch. */
static void fidelity_window(Fidelity *f, const int32_t *ids, size_t rows)
{
    size_t vocab = model.config.vocab;
    Prompt p = prompt_new(ids, rows);
    float *got = malloc(rows * vocab * sizeof *got);
    clear_run(&p, rows, 64, got);
    for (size_t r = 0; r + 1 < rows; r++) {
        const float *a = got + r * vocab, *b = p.want + r * vocab;
        f->positions++, f->agree += best(a) == best(b);
        f->loss += cross_entropy(a, (uint32_t)vocab, ids[r + 1]), f->plain_loss += cross_entropy(b, (uint32_t)vocab, ids[r + 1]);
        for (size_t i = 0; i < vocab; i++) {
            double d = fabs((double)a[i] - (double)b[i]);
            f->most = fmax(f->most, d), f->squares += d * d / (double)vocab;
        }
    }
    free(got);
}

static Fidelity fidelity(const PlanOptions *o, const int32_t *ids, size_t calibration, const int32_t *text, size_t positions)
{
    Fidelity f = {0};
    plan_free(&plan);
    prefix[0] = model.config.bos;
    CHECK_OK(plan_make(&plan, &model, with, o, ids, calibration));
    if (getenv("MARILL_TEST_PLAN")) CHECK_OK(plan_save(&plan, getenv("MARILL_TEST_PLAN")));
    size_t rows = plan.context - plan.known;
    for (size_t at = 0; at < positions; at += rows) fidelity_window(&f, text + at, rows);
    f.loss /= (double)f.positions, f.plain_loss /= (double)f.positions;
    return f;
}

TEST(fidelity_on_a_real_checkpoint)
{
    Arena a;
    int32_t *ids;
    const char *asked = getenv("MARILL_TEST_POSITIONS");       // more than a test has time for
    size_t positions = asked ? (size_t)atol(asked) : 120;
    arena_init(&a, false);
    size_t count = read_text(&ids, &a);
    CHECK_OK(model_load(&model, test_data("weights/stories260K")));
    CHECK(count > 20000 + positions * 2);
    for (int form = 0; form < 6; form++) {
        Private private_part = form % 3 == 2 ? PRIVATE_LAYERS : PRIVATE_LORA;
        with = form % 3 == 1 ? &adapter : NULL;
        arena_free(&adapter.arena);
        if (with) random_adapter(&adapter, &model.config, 0, 8, EVERY, 0.1);
        PlanOptions o = {.context = asked ? 256 : 64, .prefer = form < 3 ? PREFER_EXCHANGES : PREFER_BYTES, .private_part = private_part};
        Fidelity f = fidelity(&o, ids, 4000, ids + 20000, positions);
        printf("    %s, %s: %zu positions, agreement %.2f %%, loss %.4f (float %.4f), logits off by %.3f at most, rms %.4f\n",
               form < 3 ? "fold" : "lean", form % 3 == 2 ? "private layers" : with ? "private adapter" : "nothing private", f.positions,
               100.0 * (double)f.agree / (double)f.positions, f.loss, f.plain_loss, f.most, sqrt(f.squares / (double)f.positions));
        fflush(stdout);
        CHECK((double)f.agree >= (double)f.positions * (asked ? 0.99 : 0.97));
        CHECK(fabs(f.loss - f.plain_loss) < (asked ? 0.005 : 0.02));
    }
    arena_free(&a);
}

int main(int argc, char **argv) { num_init(NUM_BEST); crypto_init(false); return test_main(argc, argv); }
