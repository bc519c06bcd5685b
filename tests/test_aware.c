/* test_aware.c - what the secure run makes of floats: its emulation against CLEAR, value by value and coin by coin, and plans of
 * every number of cells against the float network. */
#include "models.h"
#include "model/emulate.h"
#include "model/secure_parts.h"
#include "parties.h"

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

int main(int argc, char **argv) { return test_main(argc, argv); }
