/* test_methods.c - the methods of tuning: gradients of each against finite differences, and that each of them learns. */
#include "model/layers.h"
#include "tune/dropout.h"
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
        s->objective.teacher = teacher_new(&s->taught, rope, f->first, f->shares_cut, 128, &s->arena);
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

int main(int argc, char **argv) { return test_main(argc, argv); }
