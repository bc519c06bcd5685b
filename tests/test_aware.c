/* test_aware.c - what the secure run makes of floats: its emulation against CLEAR, value by value and coin by coin, and plans of
 * every number of cells against the float network. */
#include "models.h"
#include "model/emulate.h"
#include "model/secure_parts.h"
#include "parties.h"
#define Net TrainedNet                         // Net is a speed of links in crypto.h
#include "tune/dropout.h"
#undef Net

// ---- one value, many coins -------------------------------------------------------------------------------------------

enum { COUNT = 1 << 15, OUTCOMES = 8192 };

/* What a program of one move gave, as reals. */
typedef struct Many { double x; unsigned n, f; LookupSpec spec; Width to; double *out; } Many;

static Wire many_begin(Party *p)
{
    const Many *m = p->ctx;
    uint64_t *x = arena_new(&p->session, uint64_t, COUNT);
    party_begin(p, 1, 0);
    for (size_t i = 0; i < COUNT; i++) x[i] = ring_from_real(m->x, m->f);
    return wire_input_client(p->engine, layout_uniform(p->engine, COUNT), m->n, m->f, x);
}

static void many_end(Party *p, Wire w)
{
    Many *m = p->ctx;
    party_record(p, w);
    for (size_t i = 0; p->role == ROLE_CLEAR && i < COUNT; i++)
        m->out[i] = ldexp((double)ring_signed(w.c.word[i] + w.s.word[i], w.n), -(int)w.f);
    CHECK_OK(engine_end(p->engine));
}

static void looked(Party *p)
{
    const Many *m = p->ctx;
    Table *t = table_new(&m->spec, &p->session);
    Opened *index = wire_open_to(p->engine, many_begin(p), m->spec.t, m->spec.f);
    CHECK_OK(engine_exchange(p->engine, "index"));
    Looked *l = lookup_select(p->engine, index, t);
    CHECK_OK(engine_exchange(p->engine, "columns"));
    many_end(p, factor_mul(p->engine, looked_factor(p->engine, l, 60), NULL, 1, 60));
}

static void rounded(Party *p)
{
    const Many *m = p->ctx;
    many_end(p, wire_to(p->engine, many_begin(p), m->to.n, m->to.f));
}

static void clear_run(Many *m, void (*program)(Party *))
{
    Party party[5];
    m->out = malloc(COUNT * sizeof *m->out);
    parties_run(party, program, m);
    parties_compare(party);
    parties_end(party);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The distinct outcomes, in order, and how often each occurred. Those nearer than 2^-20 are one. */
typedef struct Outcomes { size_t count, times[OUTCOMES]; double value[OUTCOMES]; } Outcomes;

static void outcomes_of(Outcomes *o, double *x)
{
    qsort(x, COUNT, sizeof *x, ascending);
    o->count = 0;
    for (size_t i = 0; i < COUNT; i++) {
        if (o->count && x[i] - o->value[o->count - 1] < 0x1p-20) o->times[o->count - 1]++;
        else {
            CHECK(o->count < OUTCOMES);
            o->value[o->count] = x[i], o->times[o->count++] = 1;
        }
    }
}

/* The same outcomes, as often but for chance: five standard deviations. What is expected less than 30 times may be missing. */
static void same_outcomes(double *a, double *b)
{
    static Outcomes x, y;
    outcomes_of(&x, a), outcomes_of(&y, b);
    size_t i = 0, j = 0;
    while (i < x.count || j < y.count) {
        double gap = i == x.count ? 1 : j == y.count ? -1 : x.value[i] - y.value[j];
        double n = gap < 0x1p-19 ? (double)x.times[i] : 0, k = gap > -0x1p-19 ? (double)y.times[j] : 0;
        if (fabs(n - k) > 5 * sqrt(n + k) + 3) {
            fprintf(stderr, "%.8g: %g times of %d in CLEAR, %g emulated\n", gap < 0x1p-19 ? x.value[i] : y.value[j], n, COUNT, k);
            exit(1);
        }
        i += gap < 0x1p-19, j += gap > -0x1p-19;
    }
}

static void emulated_outcomes(double *out, const EmulatedTable *t, float x, float steps)
{
    float *row = malloc(COUNT * sizeof *row);
    for (size_t i = 0; i < COUNT; i++) row[i] = x;
    if (t) row_look_up(row, row, COUNT, t, 12345);
    else row_round(row, COUNT, steps, 12345);
    for (size_t i = 0; i < COUNT; i++) out[i] = (double)row[i];
    free(row);
}

static void lookup_agrees(const LookupSpec *s, double x, unsigned n, unsigned f)
{
    Arena a;
    arena_init(&a, false);
    Many m = {.x = x, .n = n, .f = f, .spec = *s};
    EmulatedTable t;
    clear_run(&m, looked);
    emulated_table(&t, s, &a);
    double *out = malloc(COUNT * sizeof *out);
    emulated_outcomes(out, &t, (float)x, 0);
    same_outcomes(m.out, out);
    free(out), free(m.out);
    arena_free(&a);
}

static const LookupSpec silu256 = {.fn = FN_SILU, .t = 14, .k = 6, .f = 9, .f0 = 10, .m0 = 16, .f1 = 8, .m1 = 8, .fp = 4, .gain = 1,
                                   .floor = -0x1p40, .ceiling = 0x1p40};
static const LookupSpec silu16 = {.fn = FN_SILU, .t = 14, .k = 10, .f = 10, .f0 = 10, .m0 = 16, .f1 = 5, .m1 = 8, .fp = 6, .gain = 1,
                                  .floor = -0x1p40, .ceiling = 0x1p40};
static const LookupSpec reciprocal = {.fn = FN_RECIPROCAL, .t = 12, .k = 6, .f = 8, .f0 = 14, .m0 = 64, .f1 = 11, .m1 = 64, .fp = 3, .gain = 1,
                                      .floor = 0x1p-7, .ceiling = 0x1p40, .from_zero = true};
static const LookupSpec exponential = {.fn = FN_EXP, .t = 14, .k = 7, .f = 6, .f0 = 14, .m0 = 17, .offset = -2, .gain = 1, .floor = -0x1p40,
                                       .ceiling = 0x1p40, .never_positive = true};

TEST(an_emulated_lookup_is_clears)
{
    static const double x[] = {0, 0.3, -0.7001, 3.1415, -7.2, 13.37, -15.9};
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) lookup_agrees(&silu256, x[i], 24, 15);
    for (size_t i = 0; i < sizeof x / sizeof *x - 2; i++) lookup_agrees(&silu16, x[i] / 2, 24, 15);
    lookup_agrees(&reciprocal, 3.703, 30, 22);
    lookup_agrees(&exponential, -1.234, 30, 22);
}

TEST(an_emulated_wire_is_rounded_as_clears)
{
    static const double x[] = {0.3, -0.301, 17.7777, -250.5, 0.25};
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) {
        Many m = {.x = x[i], .n = 40, .f = 20, .to = {24, 6}};
        clear_run(&m, rounded);
        double *out = malloc(COUNT * sizeof *out);
        emulated_outcomes(out, NULL, (float)x[i], 64);
        same_outcomes(m.out, out);
        free(out), free(m.out);
    }
}

// ---- softmax, SwiGLU -------------------------------------------------------------------------------------------------

static LookupSpec softmax_spec(void)
{
    return (LookupSpec){.fn = FN_EXP, .t = 15, .k = 10, .f = 9, .f0 = 16, .m0 = 19, .offset = -2, .gain = 1, .floor = -0x1p40,
                        .ceiling = 0x1p40, .never_positive = true};
}

TEST(emulated_softmax_is_near_softmax)
{
    Arena a;
    arena_init(&a, false);
    EmulatedTable t;
    LookupSpec s = softmax_spec();
    emulated_table(&t, &s, &a);
    for (uint32_t key = 0; key < 200; key++) {
        float x[40], y[40], top;
        size_t len = 1 + key % 40;
        for (size_t i = 0; i < len; i++) x[i] = y[i] = (float)(12 * test_random() - 6);
        float sum = row_exp(x, &top, len, &t, 32768, key), most = vector_largest(y, len), want = exp_shifted(y, most, len);
        CHECK(top >= most && top <= most + 4.01f);
        for (size_t i = 0; i < len; i++) CHECK_NEAR(y[i] / want, x[i] / sum, 0.006 * (double)(y[i] / want) + 0.004);
        CHECK_NEAR(most + logf(want), top + logf(sum), 0.01);
    }
    arena_free(&a);
}

TEST(emulated_gates_go_straight_through)
{
    enum { LEN = 64 };
    Arena a;
    arena_init(&a, false);
    EmulatedTable t;
    emulated_table(&t, &silu16, &a);
    float gate[LEN], up[LEN], d[LEN], out[LEN], moved[LEN], d_gate[LEN], d_up[LEN], smooth_gate[LEN], smooth_up[LEN];
    for (size_t i = 0; i < LEN; i++)
        gate[i] = (float)(10 * test_random() - 5), up[i] = (float)(2 * test_random() - 1), d[i] = (float)(2 * test_random() - 1);
    row_gated(out, gate, up, LEN, &t, 7);
    row_gated_backward(d_gate, d_up, d, gate, up, LEN, &t, 7);
    swiglu_backward(smooth_gate, smooth_up, d, gate, up, LEN);
    for (size_t i = 0; i < LEN; i++) up[i] += 1;
    row_gated(moved, gate, up, LEN, &t, 7);
    double error = 0;
    for (size_t i = 0; i < LEN; i++) {
        CHECK(d_gate[i] == smooth_gate[i]);
        CHECK_NEAR(d[i] * (moved[i] - out[i]), d_up[i], 1e-5);             // up's own gradient is exact, of the very line
        CHECK_NEAR(smooth_up[i], d_up[i], 0.08 * (double)fabsf(d[i]));
        error += (double)fabsf(d_up[i] - smooth_up[i]);
    }
    CHECK(error > 0.01);
    arena_free(&a);
}

// ---- plans of few cells ----------------------------------------------------------------------------------------------

static const ModelConfig shape = {.width = 32, .layers = 2, .heads = 4, .kv_heads = 4, .head_dim = 8, .ffn = 48, .vocab = 40, .context = 24,
                                  .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2};

TEST(plans_have_the_cells_that_are_asked_for)
{
    Model m;
    int32_t tokens[600];
    uint64_t last = UINT64_MAX;
    random_model(&m, &shape, 1.5);
    for (size_t i = 0; i < 600; i++) tokens[i] = 3 + (int32_t)(test_random() * (shape.vocab - 3));
    for (uint32_t cells = 1024; cells >= 8; cells /= 2) {
        for (int prefer = 0; prefer < 2; prefer++) {
            Plan p;
            Cost cost;
            PlanOptions o = {.prefer = (Prefer)prefer, .private_part = PRIVATE_LAYERS, .variant.cells = cells};
            CHECK_OK(plan_make(&p, &m, NULL, &o, tokens, 600));
            for (uint32_t l = 0; l < p.layers; l++) CHECK_EQUAL(cells, 1 << (p.layer[l].silu.t - p.layer[l].silu.k));
            CHECK_OK(plan_cost(&cost, &p, &m.config, 0, 8, true));
            if (prefer == 0) {
                CHECK(cost.bytes.third_to_server < last);
                last = cost.bytes.third_to_server;
            }
            plan_free(&p);
        }
    }
    Plan p;
    PlanOptions o = {.private_part = PRIVATE_LAYERS, .variant.cells = 24};
    CHECK_FAILS(plan_make(&p, &m, NULL, &o, tokens, 600), "not a power of two");
    plan_free(&p);
    for (int range = 2; range < 5; range++) {
        PlanOptions narrow = {.private_part = PRIVATE_LAYERS, .variant.cells = 16, .silu_range = ldexp(1, range)};
        CHECK_OK(plan_make(&p, &m, NULL, &narrow, tokens, 600));
        for (uint32_t l = 0; l < p.layers; l++) CHECK(p.layer[l].range.gate <= range);
        plan_free(&p);
    }
    model_free(&m);
}

// ---- training --------------------------------------------------------------------------------------------------------

enum { SAMPLES = 20, LENGTH = 22, STEPS = 120, CELLS = 8 };

typedef struct Learner {
    Arena arena;
    Model model;
    Params params;
    float *values, *gradient, *moment1, *moment2, *rope;
    Grads grads;
    TrainedNet net;
    NetScratch *scratch;
    Pack *pack;
    Emulated secure;
    Sample sample[SAMPLES];
    int32_t text[SAMPLES * LENGTH];
    size_t text_len;
} Learner;

/* Random sequences behind a BOS, to be learned by heart. */
static void samples_make(Learner *w)
{
    for (size_t i = 0; i < SAMPLES; i++) {
        Sample *s = &w->sample[i];
        *s = (Sample){.tokens = arena_new(&w->arena, int32_t, LENGTH), .learn = arena_new(&w->arena, uint8_t, LENGTH), .len = LENGTH};
        for (uint32_t t = 0; t < LENGTH; t++) {
            s->tokens[t] = t ? 3 + (int32_t)(test_random() * (shape.vocab - 3)) : shape.bos;
            s->learn[t] = t > 1;
            if (t) w->text[w->text_len++] = s->tokens[t];
        }
    }
    w->pack = pack_new(SAMPLES * LENGTH, &w->arena);
    CHECK_EQUAL(SAMPLES, pack_fill(w->pack, SAMPLES * LENGTH, w->sample, SAMPLES));
}

/* range: of the SiLU table that gates are trained into; 0: as they are. */
static void learner_new(Learner *w, double range)
{
    *w = (Learner){.net.rope = NULL};
    arena_init(&w->arena, false);
    random_model(&w->model, &shape, 2);
    samples_make(w);
    params_of_layers(&w->params, &shape, 0, &w->arena);
    w->values = arena_new(&w->arena, float, w->params.total), w->gradient = arena_new(&w->arena, float, w->params.total);
    w->moment1 = arena_new(&w->arena, float, w->params.total), w->moment2 = arena_new(&w->arena, float, w->params.total);
    w->rope = arena_new(&w->arena, float, (size_t)shape.context * shape.head_dim);
    rope_table(w->rope, &shape, shape.context);
    params_bind_layers(&w->model, 0, w->values, &w->arena);
    params_bind_layer_grads(&w->grads, &shape, 0, w->gradient, &w->arena);
    w->net = (TrainedNet){.model = &w->model, .rope = w->rope};
    w->scratch = net_scratch(&w->net, SAMPLES * LENGTH, &w->arena);
    Variant v = {.cells = CELLS};
    EmulateOptions o = {.context = shape.context, .variant = &v, .tables = true, .rounding = true, .silu_range = range};
    CHECK_OK(emulated_make(&w->secure, &w->model, NULL, &o, w->text, w->text_len, &w->arena));
    w->secure.range_weight = 0.3f;
}

static void learner_free(Learner *w)
{
    model_free(&w->model);
    arena_free(&w->arena);
}

static double learner_run(Learner *w, uint64_t step, bool backward)
{
    float each = 1.0f / (float)w->pack->learned;
    for (size_t i = 0; i < SAMPLES; i++) w->pack->coin[i] = noise_of(9, step, i);
    memset(w->gradient, 0, w->params.total * sizeof *w->gradient);
    Objective o = {.labels = each, .row_bound = each};
    return (double)each * net_learn(&w->net, w->scratch, w->pack, &o, backward ? &w->grads : NULL).labels;
}

/* CLEAR's mean loss over the samples, by a plan of CELLS cells. */
static double clear_loss(Learner *w)
{
    static float x[LENGTH * 32], logits[LENGTH * 40];
    const uint32_t rows = LENGTH - 1, vocab = shape.vocab;
    Party here;
    SecureNet *net;
    Plan p;
    double loss = 0;
    PlanOptions o = {.private_part = PRIVATE_LAYERS, .variant.cells = CELLS};
    CHECK_OK(plan_make(&p, &w->model, NULL, &o, w->text, w->text_len));
    party_alone(&here, ROLE_CLEAR);
    CHECK_OK(secure_new(&net, here.engine, &here.session, &w->model.config, &p, &w->model, NULL));
    PlainState *plain = plain_new(&w->model, NULL, p.context, &here.session);
    CHECK_OK(plain_forward(plain, logits, &shape.bos, 1));
    const float *keys[] = {plain_keys(plain, 0), plain_keys(plain, 1)}, *values[] = {plain_values(plain, 0), plain_values(plain, 1)};
    for (size_t i = 0; i < SAMPLES; i++) {
        const int32_t *token = w->sample[i].tokens;
        secure_restart(net);
        party_begin(&here, rows, i * rows);
        CHECK_OK(plain_embed(plain, x, token + 1, rows));
        CHECK_OK(secure_forward(net, rows, x, &(KnownPrefix){keys, values}, logits, false));
        for (size_t r = 0; r + 1 < rows; r++) loss += cross_entropy(logits + r * vocab, vocab, token[r + 2]) / (SAMPLES * (rows - 1));
    }
    party_end(&here);
    plan_free(&p);
    return loss;
}

/* The emulated network loses what CLEAR does, and floats do not; its gradient points where the float network's does. */
TEST(emulated_training_sees_what_clear_computes)
{
    Learner w;
    learner_new(&w, 0);
    double emulated = 0, floats = learner_run(&w, 0, true), dot = 0, size[2] = {0, 0};
    float *smooth = arena_new(&w.arena, float, w.params.total);
    memcpy(smooth, w.gradient, w.params.total * sizeof *smooth);
    w.net.secure = &w.secure;
    for (uint64_t step = 0; step < 60; step++) emulated += learner_run(&w, step, step == 59) / 60;
    for (size_t i = 0; i < w.params.total; i++) {
        dot += (double)smooth[i] * (double)w.gradient[i];
        size[0] += (double)smooth[i] * (double)smooth[i], size[1] += (double)w.gradient[i] * (double)w.gradient[i];
    }
    double clear = clear_loss(&w);
    fprintf(stderr, "    loss: %.4f in floats, %.4f emulated, %.4f in clear; cosine of the gradients %.4f\n", floats, emulated, clear,
            dot / sqrt(size[0] * size[1]));
    CHECK(fabs(clear - floats) > 0.005 && fabs(emulated - clear) < 0.4 * fabs(clear - floats));
    CHECK(dot / sqrt(size[0] * size[1]) > 0.7);
    learner_free(&w);
}

TEST(training_for_few_cells_loses_less_by_them)
{
    Learner w;
    double plain[2], clear[2];
    learner_new(&w, 8);
    float *start = arena_new(&w.arena, float, w.params.total);
    size_t bytes = w.params.total * sizeof *start;
    memcpy(start, w.values, bytes);
    for (int aware = 0; aware < 2; aware++) {
        memcpy(w.values, start, bytes);
        memset(w.moment1, 0, bytes), memset(w.moment2, 0, bytes);
        w.net.secure = aware ? &w.secure : NULL;
        Adam adam = {0.9, 0.95, 1e-8, 0};
        for (uint64_t step = 1; step <= STEPS; step++) {
            learner_run(&w, step, true);
            adam_step(w.values, w.moment1, w.moment2, w.gradient, &w.params, &adam, 4e-3, step);
        }
        w.net.secure = NULL;
        plain[aware] = learner_run(&w, 0, false), clear[aware] = clear_loss(&w);
    }
    fprintf(stderr, "    %d cells: trained in floats %.4f, in clear %.4f; trained for them %.4f, in clear %.4f\n", CELLS, plain[0], clear[0],
            plain[1], clear[1]);
    CHECK(clear[1] < clear[0] - 0.05);
    learner_free(&w);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
