/* layers.c - the layers of a Llama in float, each forward above its backward.
 *
 * Nearly all of the work is matrix products (product.c), each thread computing a slice of the output. Every other loop is
 * written so that the compiler can vectorise it: sums run in 16 lanes that are added up in a fixed order, and the exponential
 * is a polynomial without branches. */
#include "model/layers.h"

#include <math.h>
#include <string.h>

enum { LANES = 16, FEW_ROWS = 32 };

// Ranges that are worth a thread: some 2^16 operations, or an even split of many rows.
static size_t grain_for(size_t cost)
{
    size_t grain = 65536 / (cost ? cost : 1);
    return grain ? grain : 1;
}

// ---- linear layers ---------------------------------------------------------------------------------------------------

typedef struct Linear {
    float *d_in, *d_w, *out;
    const float *d_out, *in, *w;
    size_t rows, n, k;
    Product how;
} Linear;

static Product product_how(unsigned how)
{
    return (Product){.accumulate = how & LINEAR_ADD, .bf16 = (how & LINEAR_BF16) != 0, .alpha = 1};
}

static void forward_rows(void *ctx, size_t begin, size_t end)
{
    const Linear *l = ctx;
    product(l->how, l->out + begin * l->n, l->n, l->in + begin * l->k, l->k, l->w, l->k, end - begin, l->n, l->k);
}

static void forward_columns(void *ctx, size_t begin, size_t end)
{
    const Linear *l = ctx;
    product(l->how, l->out + begin, l->n, l->in, l->k, l->w + begin * l->k, l->k, l->rows, end - begin, l->k);
}

/* Slices of a product for the threads; the whole of it for one that has no others to call on, since every slice packs its
 * operands anew. */
static void slices_run(size_t len, size_t grain, void (*body)(void *ctx, size_t begin, size_t end), Linear *l)
{
    if (parallel_inside()) body(l, 0, len);
    else parallel_for(len, grain, body, l);
}

void linear_forward(float *out, const float *in, const float *w, size_t rows, size_t n, size_t k, unsigned how)
{
    Linear l = {.out = out, .in = in, .w = w, .rows = rows, .n = n, .k = k, .how = product_how(how)};
    l.how.turn_b = true;
    if (rows >= FEW_ROWS) slices_run(rows, FEW_ROWS / 2, forward_rows, &l);
    else slices_run(n, grain_for(rows * k), forward_columns, &l);
}

static void backward_in(void *ctx, size_t begin, size_t end)
{
    const Linear *l = ctx;
    product(l->how, l->d_in + begin * l->k, l->k, l->d_out + begin * l->n, l->n, l->w, l->k, end - begin, l->k, l->n);
}

static void backward_w(void *ctx, size_t begin, size_t end)
{
    const Linear *l = ctx;
    Product how = {.turn_a = true, .accumulate = true, .bf16 = l->how.bf16, .alpha = 1};
    product(how, l->d_w + begin * l->k, l->k, l->d_out + begin, l->n, l->in, l->k, end - begin, l->k, l->rows);
}

void linear_backward(float *d_in, float *d_w, const float *d_out, const float *in, const float *w,
                     size_t rows, size_t n, size_t k, unsigned how)
{
    Linear l = {.d_in = d_in, .d_w = d_w, .d_out = d_out, .in = in, .w = w, .rows = rows, .n = n, .k = k, .how = product_how(how)};
    if (d_in) slices_run(rows, FEW_ROWS / 2, backward_in, &l);
    if (d_w) slices_run(n, grain_for(rows * k), backward_w, &l);
}

// ---- norms -----------------------------------------------------------------------------------------------------------

VECTOR_INLINE float lanes_sum(const float lane[LANES])
{
    float sum = 0;
    for (size_t j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

typedef struct Norm {
    float *out, *inv_out, *d_in, *d_gain;
    const float *in, *gain, *d_out, *inv;
    size_t rows, width;
    float eps;
    NormHold hold;
} Norm;

static float held(NormHold h, float inv) { return h.mix > 0 ? (1 - h.mix) * inv + h.mix * h.constant : inv; }

VECTOR_LOOPS static float row_squares(const float *x, size_t width)
{
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += x[i + j] * x[i + j];
    for (; i < width; i++) lane[0] += x[i] * x[i];
    return lanes_sum(lane);
}

VECTOR_LOOPS static void row_scale(float *restrict out, const float *restrict x, const float *restrict gain, float inv, size_t width)
{
    for (size_t i = 0; i < width; i++) out[i] = x[i] * inv * gain[i];
}

static void norm_forward_rows(void *ctx, size_t begin, size_t end)
{
    const Norm *n = ctx;
    for (size_t r = begin; r < end; r++) {
        const float *x = n->in + r * n->width;
        float inv = 1.0f / sqrtf(row_squares(x, n->width) / (float)n->width + n->eps);
        row_scale(n->out + r * n->width, x, n->gain, held(n->hold, inv), n->width);
        if (n->inv_out) n->inv_out[r] = inv;
    }
}

void rmsnorm_forward(float *out, float *inv, const float *in, const float *gain, size_t rows, size_t width, float eps)
{
    rmsnorm_held_forward(out, inv, in, gain, rows, width, eps, (NormHold){0, 0});
}

void rmsnorm_held_forward(float *out, float *inv, const float *in, const float *gain, size_t rows, size_t width, float eps, NormHold hold)
{
    Norm n = {.out = out, .inv_out = inv, .in = in, .gain = gain, .rows = rows, .width = width, .eps = eps, .hold = hold};
    parallel_for(rows, grain_for(width), norm_forward_rows, &n);
}

VECTOR_LOOPS static void row_centre(float *restrict out, const float *restrict x, size_t width)
{
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += x[i + j];
    for (; i < width; i++) lane[0] += x[i];
    float mean = lanes_sum(lane) / (float)width;
    for (i = 0; i < width; i++) out[i] = x[i] - mean;
}

static void centre_rows(void *ctx, size_t begin, size_t end)
{
    const Norm *n = ctx;
    for (size_t r = begin; r < end; r++) row_centre(n->out + r * n->width, n->in + r * n->width, n->width);
}

void rows_centre(float *out, const float *in, size_t rows, size_t width)
{
    Norm n = {.out = out, .in = in, .rows = rows, .width = width};
    parallel_for(rows, grain_for(width), centre_rows, &n);
}

void layernorm_forward(float *out, const float *in, const float *gain, const float *shift, size_t rows, size_t width, float eps,
                       NormHold hold)
{
    rows_centre(out, in, rows, width);
    for (size_t r = 0; r < rows; r++, out += width) {
        float inv = held(hold, 1.0f / sqrtf(row_squares(out, width) / (float)width + eps));
        for (size_t i = 0; i < width; i++) out[i] = out[i] * inv * gain[i] + (shift ? shift[i] : 0);
    }
}

/* With y = x factor gain and g = d_out * gain: d_x = factor g - x by / width * sum(g x). The norm itself has factor
 * inv, by = inv^3; of a held one only the part of the factor that is still inv depends on x. */
VECTOR_LOOPS static void row_norm_backward(float *restrict d_x, const float *restrict d_y, const float *restrict x,
                                           const float *restrict gain, float factor, float by, size_t width)
{
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += d_y[i + j] * gain[i + j] * x[i + j];
    for (; i < width; i++) lane[0] += d_y[i] * gain[i] * x[i];
    float pull = lanes_sum(lane) * by / (float)width;
    for (i = 0; i < width; i++) d_x[i] += d_y[i] * gain[i] * factor - x[i] * pull;
}

static void norm_backward_rows(void *ctx, size_t begin, size_t end)
{
    const Norm *n = ctx;
    for (size_t r = begin; r < end; r++) {
        size_t at = r * n->width;
        float inv = n->inv[r], by = (1 - n->hold.mix) * inv * inv * inv;
        row_norm_backward(n->d_in + at, n->d_out + at, n->in + at, n->gain, held(n->hold, inv), by, n->width);
    }
}

VECTOR_LOOPS static void row_gain_backward(float *restrict d_gain, const float *restrict d_y, const float *restrict x,
                                           float inv, size_t len)
{
    for (size_t i = 0; i < len; i++) d_gain[i] += d_y[i] * x[i] * inv;
}

static void norm_backward_columns(void *ctx, size_t begin, size_t end)
{
    const Norm *n = ctx;
    for (size_t r = 0; r < n->rows; r++) {
        size_t at = r * n->width + begin;
        row_gain_backward(n->d_gain + begin, n->d_out + at, n->in + at, held(n->hold, n->inv[r]), end - begin);
    }
}

void rmsnorm_backward(float *d_in, float *d_gain, const float *d_out, const float *in, const float *gain, const float *inv,
                      size_t rows, size_t width)
{
    rmsnorm_held_backward(d_in, d_gain, d_out, in, gain, inv, rows, width, (NormHold){0, 0});
}

void rmsnorm_held_backward(float *d_in, float *d_gain, const float *d_out, const float *in, const float *gain, const float *inv,
                           size_t rows, size_t width, NormHold hold)
{
    Norm n = {.d_in = d_in, .d_gain = d_gain, .d_out = d_out, .in = in, .gain = gain, .inv = inv, .rows = rows, .width = width,
              .hold = hold};
    parallel_for(rows, grain_for(width), norm_backward_rows, &n);
    if (d_gain) parallel_for(width, LANES, norm_backward_columns, &n);
}

// ---- rotary position embedding ---------------------------------------------------------------------------------------

/* Frequencies as Hugging Face computes them: those with a wavelength beyond original_context / low_freq_factor turn
 * `factor` times slower, those below original_context / high_freq_factor are left alone, between the two a blend. */
static double rope_frequency(const ModelConfig *c, uint32_t pair)
{
    double f = pow((double)c->rope_theta, -2.0 * pair / c->head_dim);
    const RopeScaling *s = &c->rope;
    if (s->factor == 1.0f || s->factor == 0.0f) return f;
    double wavelength = 6.283185307179586 / f, turns = (double)s->original_context / wavelength;
    if (turns < (double)s->low_freq_factor) return f / (double)s->factor;
    if (turns > (double)s->high_freq_factor) return f;
    double blend = (turns - (double)s->low_freq_factor) / ((double)s->high_freq_factor - (double)s->low_freq_factor);
    return (1 - blend) * f / (double)s->factor + blend * f;
}

void rope_table(float *table, const ModelConfig *c, uint32_t positions)
{
    uint32_t half = c->head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        double f = rope_frequency(c, i);
        for (uint32_t p = 0; p < positions; p++) {
            table[((size_t)p * half + i) * 2] = (float)cos(p * f);
            table[((size_t)p * half + i) * 2 + 1] = (float)sin(p * f);
        }
    }
}

typedef struct Rope { float *x; const float *table; const uint32_t *position; uint32_t heads, head_dim; bool inverse; } Rope;

static void rope_rows(void *ctx, size_t begin, size_t end)
{
    const Rope *t = ctx;
    size_t half = t->head_dim / 2;
    for (size_t r = begin; r < end; r++) {
        const float *angle = t->table + t->position[r] * half * 2;
        float *x = t->x + r * t->heads * t->head_dim;
        for (uint32_t h = 0; h < t->heads; h++, x += t->head_dim) {
            for (size_t i = 0; i < half; i++) {
                float c = angle[2 * i], s = t->inverse ? -angle[2 * i + 1] : angle[2 * i + 1];
                float a = x[i], b = x[half + i];
                x[i] = a * c - b * s;
                x[half + i] = b * c + a * s;
            }
        }
    }
}

void rope_turn(float *x, const float *table, const uint32_t *position, size_t rows, uint32_t heads, uint32_t head_dim, bool inverse)
{
    Rope t = {x, table, position, heads, head_dim, inverse};
    parallel_for(rows, grain_for((size_t)heads * head_dim * 2), rope_rows, &t);
}

// ---- exponential, SwiGLU and GELU -----------------------------------------------------------------------------------

/* exp(x) = 2^n exp(r), |r| <= ln(2) / 2: n is rounded by adding 1.5 * 2^23, ln(2) is subtracted in two parts so that
 * n ln(2) is exact to 2^-32, exp(r) is Cephes's polynomial of degree 7, and 2^n is written into the exponent. */
VECTOR_INLINE float exp_polynomial(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { float f; uint32_t u; } bits = {.f = shifted}, power;
    power.u = (bits.u + 127u) << 23;                       // the low bits of `shifted` are n
    return p * power.f;
}

VECTOR_LOOPS float exp_shifted(float *x, float shift, size_t len)
{
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= len; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += x[i + j] = exp_polynomial(x[i + j] - shift);
    if (i < len) {                             // the rest as one more vector: most rows of attention are short
        float rest[LANES] = {0};
        for (size_t j = 0; i + j < len; j++) rest[j] = x[i + j] - shift;
        for (size_t j = 0; j < LANES; j++) rest[j] = exp_polynomial(rest[j]);
        for (size_t j = 0; i + j < len; j++) lane[j] += x[i + j] = rest[j];
    }
    return lanes_sum(lane);
}

VECTOR_LOOPS float vector_largest(const float *x, size_t len)
{
    float lane[LANES], best = x[0];
    size_t i = 0;
    for (size_t j = 0; j < LANES; j++) lane[j] = x[0];
    for (; i + LANES <= len; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i < len; i++) best = x[i] > best ? x[i] : best;
    for (size_t j = 0; j < LANES; j++) best = lane[j] > best ? lane[j] : best;
    return best;
}

VECTOR_LOOPS void vector_scale(float *x, float by, size_t len)
{
    for (size_t i = 0; i < len; i++) x[i] *= by;
}

typedef struct Swiglu { float *out, *d_gate, *d_up; const float *gate, *up, *d_out; } Swiglu;

VECTOR_LOOPS static void swiglu_forward_range(float *restrict out, const float *restrict gate, const float *restrict up, size_t len)
{
    for (size_t i = 0; i < len; i++) out[i] = gate[i] / (1.0f + exp_polynomial(-gate[i])) * up[i];
}

static void swiglu_forward_body(void *ctx, size_t begin, size_t end)
{
    const Swiglu *s = ctx;
    swiglu_forward_range(s->out + begin, s->gate + begin, s->up + begin, end - begin);
}

void swiglu_forward(float *out, const float *gate, const float *up, size_t len)
{
    Swiglu s = {.out = out, .gate = gate, .up = up};
    parallel_for(len, 16384, swiglu_forward_body, &s);
}

VECTOR_LOOPS static void swiglu_backward_range(float *restrict d_gate, float *restrict d_up, const float *restrict d_out,
                                               const float *restrict gate, const float *restrict up, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        float sigmoid = 1.0f / (1.0f + exp_polynomial(-gate[i]));
        d_up[i] = d_out[i] * gate[i] * sigmoid;
        d_gate[i] = d_out[i] * up[i] * sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
    }
}

static void swiglu_backward_body(void *ctx, size_t begin, size_t end)
{
    const Swiglu *s = ctx;
    swiglu_backward_range(s->d_gate + begin, s->d_up + begin, s->d_out + begin, s->gate + begin, s->up + begin, end - begin);
}

void swiglu_backward(float *d_gate, float *d_up, const float *d_out, const float *gate, const float *up, size_t len)
{
    Swiglu s = {.d_gate = d_gate, .d_up = d_up, .d_out = d_out, .gate = gate, .up = up};
    parallel_for(len, 16384, swiglu_backward_body, &s);
}

VECTOR_LOOPS static void gelu_range(float *restrict out, const float *restrict gate, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        float v = gate[i], z = 0.7978845608f * (v + 0.044715f * v * v * v);
        out[i] = v / (1.0f + exp_polynomial(-2.0f * z));       // (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z))
    }
}

static void gelu_body(void *ctx, size_t begin, size_t end)
{
    const Swiglu *s = ctx;
    gelu_range(s->out + begin, s->gate + begin, end - begin);
}

void gelu_forward(float *out, const float *gate, size_t len)
{
    Swiglu s = {.out = out, .gate = gate};
    parallel_for(len, 16384, gelu_body, &s);
}
