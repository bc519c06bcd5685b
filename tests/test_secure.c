/* test_secure.c - the secure layers: against the float network, in batches and one by one, as three parties against the
 * ideal functionality, in bytes and exchanges, and on a real checkpoint. */
#define TEST_SECONDS 280
#include "models.h"
#include "model/secure.h"
#include "parties.h"

enum { EVERY = (1 << MAT_COUNT) - 1 };

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

#define PLAIN_SHAPE {.width = 32, .layers = 2, .heads = 4, .kv_heads = 4, .head_dim = 8, .ffn = 48, .vocab = 40, .context = 24, \
                     .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}
#define ODD_SHAPE {.width = 30, .layers = 3, .heads = 6, .kv_heads = 2, .head_dim = 10, .ffn = 37, .vocab = 33, .context = 70, \
                   .norm_eps = 1e-6f, .rope_theta = 500000, .rope = {8, 1, 4, 16}, .tied = true, .bos = 1, .eos = 2}
#define ONE_HEAD {.width = 16, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 16, .ffn = 24, .vocab = 17, .context = 12, \
                  .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = -1, .eos = -1}

#define GPT2_SHAPE {.arch = ARCH_GPT2, .width = 36, .layers = 2, .heads = 4, .kv_heads = 4, .head_dim = 8, .ffn = 50, .vocab = 40, .context = 40, \
                    .norm_eps = 1e-5f, .rope = {.factor = 1}, .bos = 1, .eos = 2}

#define NARROW_SHAPE {.width = 12, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .ffn = 1, .vocab = 17, .context = 12, \
                      .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}

#define LONG_SHAPE {.width = 16, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 6, .ffn = 20, .vocab = 17, .context = 230, \
                    .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}

static Model model;
static Adapter adapter;
static Plan plan;
static const Adapter *with;                    // the adapter, or NULL
enum { KNOWN_MOST = 80 };
static int32_t tokens[4096], prefix[KNOWN_MOST];// prefix: of the known positions
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
    model_free(&model), arena_free(&adapter.arena);
    plan_free(&plan);
    random_model(&model, &c->config, 1.5);
    if (c->quantised) {
        Model floats = model;
        CHECK_OK(model_quantise(&floats, test_folder(), NULL));
        CHECK_OK(model_open(&model, test_folder()));
        model_free(&floats);
    }
    with = NULL;
    if (c->rank) random_adapter(&adapter, &c->config, c->frozen, c->rank, c->kinds, 0.5), with = &adapter;
    for (size_t i = 0; i < 600; i++) tokens[i] = 3 + (int32_t)(test_random() * (c->config.vocab - 3));
    PlanOptions o = {.frozen = c->frozen, .prefer = c->prefer, .private_part = c->private_part};
    prefix[0] = c->config.bos;
    for (size_t i = 1; i < KNOWN_MOST; i++) prefix[i] = 3 + (int32_t)(test_random() * (c->config.vocab - 3));
    o.prefix = prefix + 1, o.prefix_len = c->more.known;
    HeadGroups *g = &o.variant.heads;
    g->size = c->more.merge, o.variant.score_scale = c->more.scale;
    if (c->more.shuffled) g->order = order_random(&c->config, c->config.layers - c->frozen), g->heads = c->config.kv_heads;
    CHECK_OK(plan_make(&plan, &model, with, &o, tokens, 600));
}

/* Keys and values of the known prefix, and hidden states at the cut of `rows` tokens after it; want: logits of the float network. */
typedef struct Prompt { const float *keys[32], *values[32]; float *x, *want; size_t rows; PlainState *state; } Prompt;
static Arena prompt_arena;

static Prompt prompt_new(const int32_t *ids, size_t rows)
{
    const ModelConfig *c = &model.config;
    Prompt p = {.rows = rows};
    arena_free(&prompt_arena);
    arena_init(&prompt_arena, false);
    p.state = plain_new(&model, with, plan.context, &prompt_arena);
    p.x = arena_new(&prompt_arena, float, (rows + plan.known) * c->width);
    p.want = arena_new(&prompt_arena, float, (rows + plan.known) * c->vocab);
    int32_t *all = arena_new(&prompt_arena, int32_t, rows + plan.known);
    for (uint32_t i = 0; i < plan.known; i++) all[i] = prefix[i];
    Variant variant = plan_variant(&plan);
    plain_vary(p.state, &variant);
    memcpy(all + plan.known, ids, rows * sizeof *ids);
    CHECK_OK(plain_forward(p.state, p.want, all, rows + plan.known));
    PlainState *cut = plain_new(&model, with, plan.context, &prompt_arena);
    CHECK_OK(plain_embed(cut, p.x, all, rows + plan.known));
    plain_layers(cut, p.x, rows + plan.known, 0, plan.frozen);
    for (uint32_t l = 0; l < plan.layers; l++)
        p.keys[l] = plain_keys(p.state, plan.frozen + l), p.values[l] = plain_values(p.state, plan.frozen + l);
    p.x += plan.known * c->width, p.want += plan.known * c->vocab;
    return p;
}

// ---- CLEAR -----------------------------------------------------------------------------------------------------------

typedef struct Clear { Engine *e; Arena session; SecureNet *net; uint64_t segment; } Clear;

static void clear_start(Clear *c)
{
    static const uint8_t seed[KEY_BYTES] = {3}, pad[KEY_BYTES] = {4};
    *c = (Clear){.e = engine_new(ROLE_CLEAR, NULL, NULL)};
    arena_init(&c->session, false);
    engine_shared_seed(c->e, seed), engine_pad_seed(c->e, pad);
    CHECK_OK(secure_new(&c->net, c->e, &c->session, &model.config, &plan, &model, with));
}

static void clear_end(Clear *c)
{
    engine_free(c->e);
    arena_free(&c->session);
}

static void clear_batch(Clear *c, const Prompt *p, size_t from, size_t rows, float *logits, bool last_only)
{
    Party here = {.engine = c->e, .role = ROLE_CLEAR};
    party_begin(&here, rows, c->segment);
    c->segment += rows;
    KnownPrefix known = {p->keys, p->values};
    CHECK_OK(secure_forward(c->net, rows, p->x + from * model.config.width, &known, logits, last_only));
}

static double difference(const float *a, const float *b, size_t len, double *rms)
{
    double most = 0, sum = 0;
    for (size_t i = 0; i < len; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        most = fmax(most, d), sum += d * d;
    }
    *rms = sqrt(sum / (double)len);
    return most;
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
    for (size_t i = 0; i < CASES; i++) {
        setup(&cases[i]);
        size_t rows = plan.context - plan.known, vocab = model.config.vocab;
        Prompt p = prompt_new(tokens + 40, rows);
        float *got = calloc(rows * vocab, sizeof *got);
        Clear c;
        clear_start(&c);
        clear_batch(&c, &p, 0, rows - 2, got, false);
        clear_batch(&c, &p, rows - 2, 1, got + (rows - 2) * vocab, false);
        clear_batch(&c, &p, rows - 1, 1, got + (rows - 1) * vocab, true);
        double rms, zero_rms, most = difference(got, p.want, rows * vocab, &rms);
        float *zero = calloc(rows * vocab, sizeof *got);
        difference(zero, p.want, rows * vocab, &zero_rms);
        printf("    case %zu: logits of rms %.3f, error max %.4f, rms %.5f\n", i, zero_rms, most, rms);
        CHECK(most < 0.1 * zero_rms && rms < 0.02 * zero_rms);
        clear_end(&c);
        free(got), free(zero);
    }
}

/* Masks belong to positions, not to batches: a prompt at once is the prompt token by token, bit for bit. */
TEST(a_batch_is_its_positions_one_by_one)
{
    for (size_t i = 0; i < CASES; i++) {
        setup(&cases[i]);
        size_t rows = 9, vocab = model.config.vocab;
        Prompt p = prompt_new(tokens + 40, rows);
        float *at_once = calloc(rows * vocab, sizeof *at_once), *each = calloc(rows * vocab, sizeof *each);
        Clear c;
        clear_start(&c);
        clear_batch(&c, &p, 0, rows, at_once, false);
        clear_end(&c);
        clear_start(&c);
        for (size_t r = 0; r < rows; r++) clear_batch(&c, &p, r, 1, each + r * vocab, false);
        clear_end(&c);
        for (size_t j = 0; j < rows * vocab; j++) CHECK(at_once[j] == each[j]);
        free(at_once), free(each);
    }
}

// ---- three parties ---------------------------------------------------------------------------------------------------

enum { FIRST = 5, THEN = 2, ALL = FIRST + THEN };
typedef struct Run { Prompt prompt; float *logits[5]; size_t rows; int ahead; } Run;

/* What the client does before its batch at `at`: nothing; everything at the start; the first rows of the prompt, then the steps. */
static void work_ahead(Party *p, SecureNet *net, int form, size_t at)
{
    uint8_t keys[ALL][KEY_BYTES];
    size_t rows = at == 0 ? (form == 1 ? ALL : form == 2 ? 3 : 0) : at == FIRST && form == 2 ? THEN : 0;
    if (p->role != ROLE_CLIENT || rows == 0) return;
    segment_keys(keys, at, rows, 1);
    Cost before = engine_cost(p->engine), after;
    CHECK_OK(secure_ahead(net, rows, at, (const uint8_t (*)[KEY_BYTES])keys));
    after = engine_cost(p->engine);
    CHECK(!memcmp(&before, &after, sizeof before));
    if (secure_pins(net, &(Pinned *const *){NULL})) CHECK_EQUAL(rows, engine_ahead_left(p->engine));
}

static void program(Party *p)
{
    Run *run = p->ctx;
    bool private = p->role == ROLE_SERVER || p->role == ROLE_CLEAR, client = p->role == ROLE_CLIENT || p->role == ROLE_CLEAR;
    SecureNet *net;
    Pinned *const *pins;
    CHECK_OK(secure_new(&net, p->engine, &p->session, &model.config, &plan, private || client ? &model : NULL, private ? with : NULL));
    for (size_t i = 0, count = secure_pins(net, &pins); i < count; i++) party_pin(p, pins[i]);
    KnownPrefix known = {run->prompt.keys, run->prompt.values};
    size_t width = model.config.width, vocab = model.config.vocab;
    float *logits = run->logits[p->role] = arena_new(&p->session, float, ALL * vocab);
    for (size_t at = 0, rows = FIRST; at < ALL; at += rows, rows = 1) {
        work_ahead(p, net, run->ahead, at);
        party_begin(p, rows, at);
        CHECK_OK(secure_forward(net, rows, client ? run->prompt.x + at * width : NULL, private ? &known : NULL, logits + at * vocab,
                                at + 1 == ALL));
    }
    CHECK_EQUAL(plan.known + ALL, secure_past(net));
}

TEST(three_parties_give_what_the_specification_gives)
{
    for (size_t i = 0; i < CASES; i++) {
        setup(&cases[i]);
        Run run = {.prompt = prompt_new(tokens + 40, ALL), .ahead = (int)(i + i / 3) % 3};
        Party party[5];
        parties_run(party, program, &run);
        for (size_t j = 0; j < ALL * model.config.vocab; j++) CHECK(run.logits[ROLE_CLEAR][j] == run.logits[ROLE_CLIENT][j]);
        Cost total = {0};
        for (uint32_t at = 0, rows = FIRST; at < ALL; at += rows, rows = 1) {
            Cost c;
            CHECK_OK(plan_cost(&c, &plan, &model.config, at ? plan.known + at : 0, rows, at + 1 == ALL));
            total.exchanges += c.exchanges, total.bytes.client_to_server += c.bytes.client_to_server;
            total.bytes.server_to_client += c.bytes.server_to_client, total.bytes.third_to_server += c.bytes.third_to_server;
            uint64_t each = (cases[i].prefer == PREFER_BYTES ? 23U : 18U) - (model.config.arch == ARCH_GPT2);
            if (cases[i].private_part == PRIVATE_LAYERS || cases[i].kinds == EVERY) CHECK_EQUAL(plan.layers * each + 5, c.exchanges);
        }
        Cost spent = engine_cost(party[ROLE_SERVER].engine);
        CHECK_EQUAL(total.exchanges, spent.exchanges);
        CHECK_EQUAL(total.bytes.client_to_server, spent.bytes.client_to_server);
        CHECK_EQUAL(total.bytes.server_to_client, spent.bytes.server_to_client);
        CHECK_EQUAL(total.bytes.third_to_server, spent.bytes.third_to_server);
        parties_end(party);
    }
}

/* A conversation that goes back, in the midst of segments that C has worked ahead for: their streams are now used elsewhere. */
static void program_back(Party *p)
{
    static const struct { size_t rows; int back; } step[] = {{2, -1}, {1, 1}, {1, -1}, {1, 0}, {2, -1}};   // back: positions left after it
    Run *run = p->ctx;
    bool private = p->role == ROLE_SERVER || p->role == ROLE_CLEAR, client = p->role == ROLE_CLIENT || p->role == ROLE_CLEAR;
    SecureNet *net;
    Pinned *const *pins;
    uint8_t keys[ALL][KEY_BYTES];
    CHECK_OK(secure_new(&net, p->engine, &p->session, &model.config, &plan, private || client ? &model : NULL, private ? with : NULL));
    for (size_t i = 0, count = secure_pins(net, &pins); i < count; i++) party_pin(p, pins[i]);
    KnownPrefix known = {run->prompt.keys, run->prompt.values};
    float *logits = run->logits[p->role] = arena_new(&p->session, float, ALL * model.config.vocab);
    segment_keys(keys, 2, ALL - 2, 1);
    for (size_t i = 0, at = 0; i < sizeof step / sizeof *step; at += step[i++].rows) {
        if (i == 1 && p->role == ROLE_CLIENT) CHECK_OK(secure_ahead(net, ALL - 2, 2, (const uint8_t (*)[KEY_BYTES])keys));
        party_begin(p, step[i].rows, at);
        CHECK_OK(secure_forward(net, step[i].rows, client ? run->prompt.x + at * model.config.width : NULL, private ? &known : NULL,
                                logits + at * model.config.vocab, false));
        if (step[i].back == 0) secure_restart(net);
        if (step[i].back > 0) secure_truncate(net, plan.known + (uint32_t)step[i].back);
    }
}

TEST(work_ahead_serves_no_other_position)
{
    static const size_t some[] = {0, 3, 15, 18};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        setup(&cases[some[i]]);
        Run run = {.prompt = prompt_new(tokens + 40, ALL)};
        Party party[5];
        parties_run(party, program_back, &run);
        for (size_t j = 0; j < ALL * model.config.vocab; j++) CHECK(run.logits[ROLE_CLEAR][j] == run.logits[ROLE_CLIENT][j]);
        parties_end(party);
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
        size_t vocab = model.config.vocab, from = 0;
        Prompt p = prompt_new(tokens + 40, LONG_ROWS);
        float *at_once = calloc(LONG_ROWS * vocab, sizeof *at_once), *grown = calloc(LONG_ROWS * vocab, sizeof *grown);
        Clear c;
        clear_start(&c);
        clear_batch(&c, &p, 0, LONG_ROWS, at_once, false);
        clear_end(&c);
        clear_start(&c);
        for (size_t b = 0; b < sizeof batch / sizeof *batch; from += batch[b++])
            clear_batch(&c, &p, from, batch[b], grown + from * vocab, false);
        CHECK_EQUAL(LONG_ROWS, from);
        clear_end(&c);
        for (size_t j = 0; j < LONG_ROWS * vocab; j++) CHECK(at_once[j] == grown[j]);
        free(at_once), free(grown);
    }
}

/* Over the end of a page, back before it, on in one batch over two more, and from the start again. */
static void program_long(Party *p)
{
    static const struct { size_t rows; int back; } step[] = {{62, -1}, {1, -1}, {1, -1}, {1, -1}, {1, 60}, {2, -1},
                                                              {77, -1}, {1, 0}, {4, -1}};
    Run *run = p->ctx;
    bool private = p->role == ROLE_SERVER || p->role == ROLE_CLEAR, client = p->role == ROLE_CLIENT || p->role == ROLE_CLEAR;
    SecureNet *net;
    Pinned *const *pins;
    CHECK_OK(secure_new(&net, p->engine, &p->session, &model.config, &plan, private || client ? &model : NULL, private ? with : NULL));
    for (size_t i = 0, count = secure_pins(net, &pins); i < count; i++) party_pin(p, pins[i]);
    KnownPrefix known = {run->prompt.keys, run->prompt.values};
    size_t at = 0, vocab = model.config.vocab;
    float *logits = run->logits[p->role] = arena_new(&p->session, float, LONG_ROWS * vocab);
    for (size_t i = 0; i < sizeof step / sizeof *step; at += step[i++].rows) {
        uint8_t keys[8][KEY_BYTES];
        segment_keys(keys, at, 8, 1);
        if (p->role == ROLE_CLIENT && i > 0) CHECK_OK(secure_ahead(net, 8, at, (const uint8_t (*)[KEY_BYTES])keys));
        party_begin(p, step[i].rows, at);
        CHECK_OK(secure_forward(net, step[i].rows, client ? run->prompt.x + at * model.config.width : NULL, private ? &known : NULL,
                                logits + at * vocab, false));
        if (step[i].back == 0) secure_restart(net);
        if (step[i].back > 0) secure_truncate(net, plan.known + (uint32_t)step[i].back);
    }
    CHECK_EQUAL(LONG_ROWS, at);
}

TEST(three_parties_agree_while_caches_grow)
{
    for (size_t i = 0; i < LONG_CASES; i++) {
        setup(&long_cases[i]);
        Run run = {.prompt = prompt_new(tokens + 40, LONG_ROWS)};
        Party party[5];
        parties_run(party, program_long, &run);
        for (size_t j = 0; j < LONG_ROWS * model.config.vocab; j++) CHECK(run.logits[ROLE_CLEAR][j] == run.logits[ROLE_CLIENT][j]);
        parties_end(party);
    }
}

TEST(memory_follows_the_conversation)
{
    setup(&long_cases[0]);
    Prompt p = prompt_new(tokens + 40, LONG_ROWS);
    Clear c;
    float *logits = calloc(LONG_ROWS * model.config.vocab, sizeof *logits);
    size_t page = 64 * model.config.kv_heads * model.config.head_dim * 2 * plan.layers * 3 * sizeof(uint64_t);   // of CLEAR, which keeps most
    clear_start(&c);
    size_t before = c.session.used;
    clear_batch(&c, &p, 0, 10, logits, false);
    CHECK_EQUAL(before + page, c.session.used);
    clear_batch(&c, &p, 10, 64 - 10 - plan.known, logits, false);
    CHECK_EQUAL(before + page, c.session.used);
    clear_batch(&c, &p, 64 - plan.known, 1, logits, false);
    CHECK_EQUAL(before + 2 * page, c.session.used);
    secure_restart(c.net);
    clear_batch(&c, &p, 0, 100, logits, false);
    CHECK_EQUAL(before + 2 * page, c.session.used);
    clear_end(&c);
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
        Clear clear;
        clear_start(&clear);
        Party here = {.engine = clear.e, .role = ROLE_CLEAR};
        party_begin(&here, ROWS, 0);
        Wire got;
        CHECK_OK(secure_layers(clear.net, ROWS, x, NULL, &got));
        double rms, most = rows_difference(got, want, ROWS, &rms);
        printf("    %s: error max %.4f, rms %.5f\n", lean ? "lean" : "fold", most, rms);
        CHECK(most < 0.01 && rms < 0.002);
        Cost cost;
        CHECK_OK(plan_cost_layers(&cost, &plan, &c, 0, ROWS));
        CHECK_EQUAL(lean ? 22 : 17, cost.exchanges);
        clear_end(&clear);
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
    Clear c;
    clear_start(&c);
    for (size_t at = 0; at < rows; at += 64) clear_batch(&c, &p, at, rows - at < 64 ? rows - at : 64, got + at * vocab, false);
    clear_end(&c);
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
