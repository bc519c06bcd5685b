/* avx2.h - private to the *_avx2.c files: what all of them need. They are empty on other processors. */
#ifndef MARILL_NUM_AVX2_H
#define MARILL_NUM_AVX2_H

#include <immintrin.h>
#include "num/kernels.h"

#define AVX2 __attribute__((target("avx2,bmi2")))
#define AVX2_INLINE AVX2 __attribute__((always_inline)) static inline

AVX2_INLINE __m256i load4(const uint64_t *x)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)x);
}

AVX2_INLINE void store4(uint64_t *x, __m256i v)
{
    _mm256_storeu_si256((__m256i *)(void *)x, v);
}

/* The lanes below `left`, which is less than 4; the others are zero and not touched in memory. */
AVX2_INLINE __m256i lanes4(size_t left)
{
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x((long long)left), _mm256_set_epi64x(3, 2, 1, 0));
}

AVX2_INLINE __m256i load_some(const uint64_t *x, __m256i lanes)
{
    return _mm256_maskload_epi64((const long long *)(const void *)x, lanes);
}

AVX2_INLINE void store_some(uint64_t *x, __m256i lanes, __m256i v)
{
    _mm256_maskstore_epi64((long long *)(void *)x, lanes, v);
}

/* The two parts of a product of 64-bit words from products of 32 bits: low counts once, high 2^32 times. */
typedef struct { __m256i low, high; } Product;

AVX2_INLINE Product product_zero(void)
{
    return (Product){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

/* `narrow`, a constant wherever this is inlined: at most 32 bits are wanted. xh, yh: the upper halves of x, y. */
AVX2_INLINE Product product_add(Product p, __m256i x, __m256i xh, __m256i y, __m256i yh, bool narrow)
{
    p.low = _mm256_add_epi64(p.low, _mm256_mul_epu32(x, y));
    if (narrow) return p;
    p.high = _mm256_add_epi64(p.high, _mm256_add_epi64(_mm256_mul_epu32(x, yh), _mm256_mul_epu32(xh, y)));
    return p;
}

AVX2_INLINE __m256i upper(__m256i x)
{
    return _mm256_srli_epi64(x, 32);
}

AVX2_INLINE __m256i product_words(Product p)
{
    return _mm256_add_epi64(p.low, _mm256_slli_epi64(p.high, 32));
}

#endif
