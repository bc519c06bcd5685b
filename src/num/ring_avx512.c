/* ring_avx512.c - elementwise operations, eight words at a time. */
#ifdef __x86_64__
#include "num/avx512.h"

typedef enum { ADD, SUB, MUL, MUL_ADD } Op;

/* One vector; `op` is a constant wherever this is inlined. */
AVX512_INLINE void step(uint64_t *out, const uint64_t *a, const uint64_t *b, __mmask8 m, Op op)
{
    __m512i x = _mm512_maskz_loadu_epi64(m, a), y = _mm512_maskz_loadu_epi64(m, b), z;
    if (op == ADD) z = _mm512_add_epi64(x, y);
    else if (op == SUB) z = _mm512_sub_epi64(x, y);
    else if (op == MUL) z = _mm512_mullo_epi64(x, y);
    else z = _mm512_add_epi64(_mm512_maskz_loadu_epi64(m, out), _mm512_mullo_epi64(x, y));
    _mm512_mask_storeu_epi64(out, m, z);
}

AVX512_INLINE void each(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len, Op op)
{
    size_t i = 0;
    for (; i + 8 <= len; i += 8) step(out + i, a + i, b + i, 0xFF, op);
    if (i < len) step(out + i, a + i, b + i, lanes(len - i), op);
}

AVX512 void avx512_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len)
{
    each(out, a, b, len, ADD);
}

AVX512 void avx512_sub(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len)
{
    each(out, a, b, len, SUB);
}

AVX512 void avx512_mul(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len)
{
    each(out, a, b, len, MUL);
}

AVX512 void avx512_mul_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len)
{
    each(out, a, b, len, MUL_ADD);
}

AVX512 void avx512_shift(uint64_t *out, const uint64_t *x, size_t len, unsigned k, uint64_t plus)
{
    __m512i p = _mm512_set1_epi64((long long)plus);
    for (size_t i = 0; i < len; i += 8) {
        __mmask8 m = lanes(len - i);
        _mm512_mask_storeu_epi64(out + i, m, _mm512_srli_epi64(_mm512_add_epi64(_mm512_maskz_loadu_epi64(m, x + i), p), k));
    }
}
#endif
