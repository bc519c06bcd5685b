/* teacher.c - distillation: a teacher's hidden states and logits, and how far the student is from them.
 *
 * The teacher runs on the very pack that the student learns from, so nothing of it is stored and no row is cut to its largest
 * logits. Where its lower layers are the student's it begins at the cut. Errors of hidden states are relative to the teacher's
 * row: a position with a huge residual stream, as the first one of a text has, counts as much as any other. */
#include "tune/teacher.h"

#include <math.h>

#include "model/layers.h"

struct Teacher {
    Net net;                                   // first = layers: no layer of it is differentiated
    NetScratch *scratch;
    uint32_t cut;
    bool shares_cut;
    float **after;                             // (layers - cut): (rows, width) the residual stream after each upper layer
    float *x, *top, *top_norm, *logits;        // below the cut; learned rows; (HEAD_ROWS, vocab)
    size_t rows;
};

Teacher *teacher_new(const Model *m, const Net *student, bool shares_cut, size_t rows, Arena *a)
{
    const ModelConfig *c = &m->config;
    uint32_t cut = student->first;
    Teacher *t = arena_new(a, Teacher, 1);
    *t = (Teacher){.net = {.model = m, .first = c->layers, .rope = student->rope, .bf16 = student->bf16}, .cut = cut, .shares_cut = shares_cut, .rows = rows};
    t->scratch = net_scratch(&t->net, rows, a);
    t->after = arena_new(a, float *, c->layers - cut);
    for (uint32_t l = cut; l < c->layers; l++) t->after[l - cut] = arena_new(a, float, rows * c->width);
    t->x = arena_new(a, float, rows * c->width);
    t->top = arena_new(a, float, rows * c->width);
    t->top_norm = arena_new(a, float, rows * c->width);
    t->logits = arena_new(a, float, (size_t)HEAD_ROWS * c->vocab);
    return t;
}

void teacher_run(Teacher *t, const Pack *p, const float *cut)
{
    const Model *m = t->net.model;
    const ModelConfig *c = &m->config;
    ASSERT(p->rows <= t->rows);
    const float *x = cut;
    if (!t->shares_cut) {
        net_embed(m, t->x, p->token, p->rows);
        for (uint32_t l = 0; l < t->cut; l++) net_forward(&t->net, t->scratch, l, t->x, t->x, p);
        x = t->x;
    }
    for (uint32_t l = t->cut; l < c->layers; l++, x = t->after[l - 1 - t->cut])
        net_forward(&t->net, t->scratch, l, t->after[l - t->cut], x, p);
    size_t learned = rows_learned(t->top, x, p, c->width);
    rmsnorm_forward(t->top_norm, NULL, t->top, m->final_norm, learned, c->width, c->norm_eps);
}

float *teacher_logits(Teacher *t, size_t begin, size_t count)
{
    const ModelConfig *c = &t->net.model->config;
    ASSERT(count <= HEAD_ROWS);
    linear_forward(t->logits, t->top_norm + begin * c->width, t->net.model->head, count, c->vocab, c->width, t->net.bf16 ? LINEAR_BF16 : 0);
    return t->logits;
}

/* x -= its largest; out = exp(x). Returns the logarithm of out's sum: x less it is the logarithm of the softmax. */
static float shares_of(float *out, float *x, uint32_t vocab)
{
    float top = vector_largest(x, vocab);
    for (uint32_t i = 0; i < vocab; i++) out[i] = x[i] -= top;
    float sum = exp_shifted(out, 0, vocab);
    vector_scale(out, 1.0f / sum, vocab);
    return logf(sum);
}

double divergence_row(float *d_logits, float *student, float *teacher, float *work, uint32_t vocab, float temperature, float weight)
{
    vector_scale(student, 1.0f / temperature, vocab);
    vector_scale(teacher, 1.0f / temperature, vocab);
    float less = shares_of(work, student, vocab);          // work: the student's shares
    for (uint32_t i = 0; i < vocab; i++) d_logits[i] += weight * temperature * work[i];
    float more = shares_of(work, teacher, vocab);          // work: the teacher's
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        d_logits[i] -= weight * temperature * work[i];
        sum += (double)work[i] * (double)((teacher[i] - more) - (student[i] - less));
    }
    return sum * (double)temperature * (double)temperature;
}

double hidden_error(const Teacher *t, float *d_x, const float *x, uint32_t layer, size_t rows, float weight)
{
    const ModelConfig *c = &t->net.model->config;
    const float *want = t->after[layer - t->cut];
    double sum = 0, layers = c->layers - t->cut;
    for (size_t r = 0; r < rows; r++, x += c->width, want += c->width) {
        double off = 0, size = 1e-20;
        for (size_t i = 0; i < c->width; i++) {
            double d = (double)x[i] - (double)want[i];
            off += d * d, size += (double)want[i] * (double)want[i];
        }
        sum += off / size / layers;
        float by = (float)(2 * (double)weight / size / layers);
        for (size_t i = 0; d_x && i < c->width; i++) d_x[r * c->width + i] += by * (x[i] - want[i]);
    }
    return sum;
}
