/* kernels.h - private to num/: the kernel families, and which of them were chosen.
 *
 * NAME.c has the public functions and a portable kernel, NAME_FAMILY.c those of a family, where it has its own. The latter
 * alone know intrinsics; their functions carry the target as an attribute, so that the binary runs anywhere. */
#ifndef MARILL_NUM_KERNELS_H
#define MARILL_NUM_KERNELS_H

#include "num/num.h"

/* A product of ring_linear_*: out (rows, n) = x (rows, k) W^T; W (n, k) of `bytes` (1, 2) each. */
typedef struct { uint64_t *out; const uint64_t *x; const void *w; unsigned bytes, bits; size_t rows, n, k; } Linear;
/* A product of ring_matmul. */
typedef struct { uint64_t *out; const uint64_t *a, *b; size_t ldo, lda, ldb, rows, n, k; unsigned bits; bool accumulate; } Matmul;

typedef struct {
    const char *name;
    size_t columns;                            // parts of a product are multiples of so many columns of out
    void (*add)(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len);
    void (*sub)(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len);
    void (*mul)(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len);
    void (*mul_add)(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len);
    void (*shift)(uint64_t *out, const uint64_t *x, size_t len, unsigned k, uint64_t plus);    // (x + plus) >> k
    void (*pack)(uint8_t *out, const uint64_t *x, size_t len, unsigned n);
    void (*unpack)(uint64_t *x, const uint8_t *in, size_t len, unsigned n);
    void (*linear)(const Linear *p, size_t begin, size_t end);     // columns begin..end of out
    void (*matmul)(const Matmul *p, size_t begin, size_t end);
    void (*vecmat_add)(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t ldb, size_t n, size_t k, unsigned bits);
    uint64_t (*dot)(const uint64_t *a, const uint64_t *b, size_t len);
    void (*select)(const Selection *s, size_t count);
    void (*onehot)(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t count, size_t cells, bool flip);
    void (*narrow_unpack)(void *words, const uint8_t *in, size_t len, unsigned n);
    void (*narrow_pack)(uint8_t *out, const void *words, size_t len, unsigned n);
    void (*narrow_turned)(void *sum, const void *rows, const uint64_t *turn, size_t count, size_t cells, unsigned n);
    void (*narrow_onehot)(void *words, const uint64_t *point, size_t count, size_t cells, unsigned n);
} Kernels;

extern const Kernels *num_kernel;              // the chosen ones
extern const Kernels num_portable, num_avx2, num_avx512, num_amx;

#define KERNEL(kernel) \
    void kernel##_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len); \
    void kernel##_sub(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len); \
    void kernel##_mul(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len); \
    void kernel##_mul_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len); \
    void kernel##_shift(uint64_t *out, const uint64_t *x, size_t len, unsigned k, uint64_t plus); \
    void kernel##_pack(uint8_t *out, const uint64_t *x, size_t len, unsigned n); \
    void kernel##_unpack(uint64_t *x, const uint8_t *in, size_t len, unsigned n); \
    void kernel##_linear(const Linear *p, size_t begin, size_t end); \
    void kernel##_matmul(const Matmul *p, size_t begin, size_t end); \
    void kernel##_vecmat_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t ldb, size_t n, size_t k, unsigned bits); \
    uint64_t kernel##_dot(const uint64_t *a, const uint64_t *b, size_t len); \
    void kernel##_select(const Selection *s, size_t count); \
    void kernel##_onehot(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t count, size_t cells, bool flip); \
    void kernel##_narrow_unpack(void *words, const uint8_t *in, size_t len, unsigned n); \
    void kernel##_narrow_pack(uint8_t *out, const void *words, size_t len, unsigned n); \
    void kernel##_narrow_turned(void *sum, const void *rows, const uint64_t *turn, size_t count, size_t cells, unsigned n); \
    void kernel##_narrow_onehot(void *words, const uint64_t *point, size_t count, size_t cells, unsigned n);
KERNEL(portable)
KERNEL(avx512)
KERNEL(avx2)
void amx_linear(const Linear *p, size_t begin, size_t end);
void amx_matmul(const Matmul *p, size_t begin, size_t end);
bool amx_prepare(void);                        // whether there are tiles, and the kernel lets this process use them
bool amx_has_bf16(void);                       // whether tiles can multiply bf16, and vectors round to it; after amx_prepare
void avx512_prepare(void);                     // the permutations of packing; before the first use
void avx512_prepare_narrow(void);
#undef KERNEL

#endif
