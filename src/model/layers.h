/* layers.h - the layers of a Llama in float, each forward above its backward (private to model/ and tune/).
 *
 * Tensors are (rows, columns), rows = batch * time. A backward function *adds* to the gradients it is given, except that
 * it *sets* d_in where the comment says so. Large products go through OpenBLAS or tiles; the rest is plain loops over rows in
 * parallel_for. */
#ifndef MARILL_LAYERS_H
#define MARILL_LAYERS_H

#include "model/model.h"

/* Plain loops that the compiler should unroll, vectorise, and emit once for each width of vector unit; the copy is picked at
 * load time. Floats are never contracted or reassociated, so every copy computes the same bits. Jumps are not threaded: a path
 * of its own for each limit of the exponential would be computed for every number and thrown away, and numbers below 2^-126, which
 * only those paths have, take hundreds of cycles. Sanitizers get no copies: the loader picks before they have begun. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define VECTOR_OPTIONS optimize("O3", "no-trapping-math", "no-thread-jumps", "no-split-paths")
#define VECTOR_INLINE static inline __attribute__((VECTOR_OPTIONS))           // what such loops call
#define VECTOR_LOOPS __attribute__((VECTOR_OPTIONS, target_clones("default", "avx2", "avx512f")))
#else
#define VECTOR_INLINE static inline
#define VECTOR_LOOPS
#endif

/* out (m, n) = or += alpha * A B by one thread: A (m, k) or, turned, (k, m); B (k, n) or, turned, (n, k). ld..: distance
 * between rows in floats. bf16: A and B are rounded to bf16 (to nearest, ties to even) and the sums are floats, in tiles where
 * num_bf16_tiles() says so, else by OpenBLAS and slower. The two differ in the order of the sums, and tiles take numbers below
 * 2^-126 for zeros. */
typedef struct Product { bool turn_a, turn_b, accumulate, bf16; float alpha; } Product;
void product(Product how, float *out, size_t ld_out, const float *a, size_t ld_a, const float *b, size_t ld_b,
             size_t m, size_t n, size_t k);

/* How a linear layer is computed. A bool that says whether to add will do where nothing else is asked. */
enum { LINEAR_ADD = 1, LINEAR_BF16 = 2 };      // out += , d_in += ; products of bf16
/* out (rows, n) = in (rows, k) W^T, W (n, k). */
void linear_forward(float *out, const float *in, const float *w, size_t rows, size_t n, size_t k, unsigned how);
/* d_in (rows, k) = or += d_out W; d_w (n, k) += d_out^T in. Either may be NULL. */
void linear_backward(float *d_in, float *d_w, const float *d_out, const float *in, const float *w,
                     size_t rows, size_t n, size_t k, unsigned how);

/* out = in / sqrt(mean(in^2) + eps) * gain, by rows; inv (rows) keeps 1/sqrt for the backward pass (may be NULL). */
void rmsnorm_forward(float *out, float *inv, const float *in, const float *gain, size_t rows, size_t width, float eps);
void rmsnorm_backward(float *d_in /* += */, float *d_gain /* +=, may be NULL */, const float *d_out, const float *in,
                      const float *gain, const float *inv, size_t rows, size_t width);

/* The same with (1 - mix) / sqrt(..) + mix * constant in place of 1/sqrt; inv still keeps the latter. */
typedef struct NormHold { float constant, mix; } NormHold;
void rmsnorm_held_forward(float *out, float *inv, const float *in, const float *gain, size_t rows, size_t width, float eps, NormHold hold);
void rmsnorm_held_backward(float *d_in, float *d_gain, const float *d_out, const float *in, const float *gain, const float *inv,
                           size_t rows, size_t width, NormHold hold);

/* LayerNorm: out = (in - mean) / sqrt(mean((in - mean)^2) + eps) * gain + shift, by rows; shift may be NULL. */
void layernorm_forward(float *out, const float *in, const float *gain, const float *shift, size_t rows, size_t width, float eps,
                       NormHold hold);
/* out = in less the mean of its row. */
void rows_centre(float *out, const float *in, size_t rows, size_t width);

/* Angles: table (positions, head_dim / 2, 2) of cos, sin, with the llama3 scaling if the config has it. */
void rope_table(float *table, const ModelConfig *c, uint32_t positions);
/* Turns x (rows, heads * head_dim) in place, as Hugging Face's Llama does (first half with second half); row r has
 * position position[r]. inverse: turns back, which is the backward pass. */
void rope_turn(float *x, const float *table, const uint32_t *position, size_t rows, uint32_t heads, uint32_t head_dim, bool inverse);

/* x[i] = exp(x[i] - shift); returns the sum. Relative error below 3e-7; x[i] - shift below -87 counts as -87. One thread. */
float exp_shifted(float *x, float shift, size_t len);

float vector_largest(const float *x, size_t len);              // len >= 1. One thread
void vector_scale(float *x, float by, size_t len);             // x *= by. One thread

/* SwiGLU: out = gate / (1 + exp(-gate)) * up. */
void swiglu_forward(float *out, const float *gate, const float *up, size_t len);
void swiglu_backward(float *d_gate /* set */, float *d_up /* set */, const float *d_out, const float *gate, const float *up, size_t len);

/* GELU in its tanh form, as GPT-2 has it: out = gate / 2 (1 + tanh(sqrt(2 / pi) (gate + 0.044715 gate^3))). */
void gelu_forward(float *out, const float *gate, size_t len);

/* What MPCFormer puts in place of SiLU, GELU and exp (approximations.c). out = how(gate) * up; up NULL: 1. how: not the base's. */
void gated_forward(float *out, const float *gate, const float *up, Activation how, size_t len);
void gated_backward(float *d_gate /* set */, float *d_up /* set */, const float *d_out, const float *gate, const float *up, Activation how,
                    size_t len);
/* x = (x + shift)^2; x = max(x, 0). Return the sum. One thread. */
float row_quad(float *x, float shift, size_t len);
float row_relu(float *x, size_t len);

#endif
