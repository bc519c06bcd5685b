/* test_gemm.c - products of bf16: what is rounded and how, the shapes, the way without tiles, and a training in them. */
#include "model/layers.h"
#include "num/num.h"
#include "tune/train.h"
#include "test.h"

static const unsigned how_turned[4][2] = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};

static void fill(float *x, size_t len)
{
    for (size_t i = 0; i < len; i++) x[i] = (float)(2 * test_random() - 1);
}

/* The nearest bf16, ties to even, by arithmetic: 2^e of the last bit, then rint. */
static double rounded(float x)
{
    if (x == 0) return 0;
    double unit = ldexp(1, ilogb((double)x) - 7);
    return rint((double)x / unit) * unit;
}

static float element(const float *x, size_t ld, bool turned, size_t row, size_t column)
{
    return turned ? x[column * ld + row] : x[row * ld + column];
}

/* One shape, with room between rows: every sum against rounded operands in double, the rest of `out` untouched. */
static void product_case(Product how, size_t m, size_t n, size_t k)
{
    Arena a;
    arena_init(&a, false);
    size_t ld_a = (how.turn_a ? m : k) + 3, ld_b = (how.turn_b ? k : n) + 5, ld_out = n + 2;
    size_t len_a = ld_a * (how.turn_a ? k : m), len_b = ld_b * (how.turn_b ? n : k), len = ld_out * m;
    float *x = arena_new(&a, float, len_a), *y = arena_new(&a, float, len_b);
    float *out = arena_new(&a, float, len), *old = arena_new(&a, float, len), *plain = arena_new(&a, float, len);
    fill(x, len_a), fill(y, len_b), fill(out, len);
    memcpy(old, out, len * sizeof *out);
    memcpy(plain, out, len * sizeof *out);
    product(how, out, ld_out, x, ld_a, y, ld_b, m, n, k);
    how.bf16 = false;
    product(how, plain, ld_out, x, ld_a, y, ld_b, m, n, k);
    for (size_t r = 0; r < m; r++) {
        for (size_t c = 0; c < ld_out; c++) {
            size_t at = r * ld_out + c;
            double sum = 0, size = 0, before = how.accumulate ? (double)old[at] : 0;
            if (c >= n) {
                CHECK(out[at] == old[at]);
                continue;
            }
            for (size_t i = 0; i < k; i++) {
                double term = rounded(element(x, ld_a, how.turn_a, r, i)) * rounded(element(y, ld_b, how.turn_b, i, c));
                sum += term, size += fabs(term);
            }
            size *= fabs((double)how.alpha);
            CHECK_NEAR(before + (double)how.alpha * sum, out[at], 1e-6 + 2e-6 * size);
            CHECK_NEAR(plain[at], out[at], 1e-6 + 0x1p-7 * size);              // each operand is off by 2^-9 of itself
        }
    }
    arena_free(&a);
}

static void product_cases(void)
{
    static const size_t shape[][3] = {{1, 1, 1}, {16, 16, 32}, {32, 32, 32}, {33, 17, 31}, {15, 70, 65}, {64, 96, 160}, {100, 8, 47},
                                      {7, 33, 1100}, {31, 64, 0}, {5, 300, 1030}};
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++)
        for (unsigned i = 0; i < 8; i++)
            product_case((Product){how_turned[i / 2][0], how_turned[i / 2][1], i % 2, true, i % 2 && s % 2 ? -0.375f : 1},
                         shape[s][0], shape[s][1], shape[s][2]);
}

TEST(product_of_bf16_in_tiles)
{
    num_init(NUM_BEST);
    if (!num_bf16_tiles()) SKIP("no tiles of bf16 here");
    product_cases();
}

TEST(product_of_bf16_without_tiles)
{
    num_init(NUM_AVX512);
    CHECK(!num_bf16_tiles());
    product_cases();
}

/* More columns than the packed part of B holds, more rows than one panel, by two threads at once. */
static void wide_case(void *ctx, size_t begin, size_t end)
{
    (void)ctx;
    for (size_t i = begin; i < end; i++) product_case((Product){.turn_b = i % 2, .bf16 = true, .alpha = 1}, 40, 700, 1000);
}

TEST(product_of_bf16_wide_and_threaded)
{
    num_init(NUM_BEST);
    threads_start(2);
    parallel_for(4, 1, wide_case, NULL);
}

// ---- training --------------------------------------------------------------------------------------------------------

static const ModelConfig small = {.width = 32, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 8, .ffn = 72, .vocab = 40, .context = 32,
                                  .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .tied = true};
enum { SAMPLES = 12, LENGTH = 20, STEPS = 60 };

/* Counting by a step of each sample's own, with every fourth token at random: some of it can be learned. */
static Pack *pack_make(Arena *a)
{
    Sample s[SAMPLES];
    for (size_t i = 0; i < SAMPLES; i++) {
        s[i] = (Sample){.tokens = arena_new(a, int32_t, LENGTH), .learn = arena_new(a, uint8_t, LENGTH), .len = LENGTH};
        for (size_t t = 0; t < LENGTH; t++) {
            s[i].tokens[t] = t % 4 == 3 ? (int32_t)(test_random() * 40) : (int32_t)((t * (i % 3 + 1)) % 40);
            s[i].learn[t] = 1;
        }
    }
    Pack *p = pack_new(SAMPLES * LENGTH, a);
    CHECK_EQUAL(SAMPLES, pack_fill(p, SAMPLES * LENGTH, s, SAMPLES));
    return p;
}

/* The loss, in float, after STEPS steps from the same start; of the first one in *first. */
static double trained_loss(bool bf16, const Pack *p, double *first)
{
    Arena a;
    arena_init(&a, false);
    Model m = {.config = small};
    Params params;
    params_of_model(&params, &small, &a);
    float *values = arena_new(&a, float, params.total), *grad_values = arena_new(&a, float, params.total);
    float *moment1 = arena_new(&a, float, params.total), *moment2 = arena_new(&a, float, params.total);
    float *rope = arena_new(&a, float, (size_t)small.context * small.head_dim);
    params_bind_model(&m, values, &a);
    params_init_model(&m, values, 0.1, 1);
    rope_table(rope, &small, small.context);
    Grads grads;
    params_bind_grads(&grads, &small, NULL, grad_values, &a);
    Net net = {.model = &m, .rope = rope, .bf16 = bf16};
    NetScratch *s = net_scratch(&net, p->rows, &a);
    Adam adam = {0.9, 0.95, 1e-8, 0.1};
    for (uint64_t step = 1; step <= STEPS; step++) {
        memset(grad_values, 0, params.total * sizeof *grad_values);
        double loss = net_run(&net, s, p, &grads, 1.0f / (float)p->learned) / (double)p->learned;
        if (step == 1) *first = loss;
        adam_step(values, moment1, moment2, grad_values, &params, &adam, schedule_rate(3e-3, 0.1, step, 5, STEPS), step);
    }
    double loss = net_run(&net, s, p, NULL, 0) / (double)p->learned;
    arena_free(&a);
    return loss;
}

TEST(training_in_bf16_reaches_the_loss_of_floats)
{
    Arena a;
    arena_init(&a, false);
    num_init(NUM_BEST);
    Pack *p = pack_make(&a);
    double start = 0, start_rounded = 0, exact = trained_loss(false, p, &start), fast = trained_loss(true, p, &start_rounded);
    CHECK(exact < start - 1);                  // something was learned
    CHECK(start_rounded != start);             // and bf16 was what it says
    CHECK_NEAR(start, start_rounded, 0.01 * start);
    CHECK_NEAR(exact, fast, 0.01 * exact);
    arena_free(&a);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
