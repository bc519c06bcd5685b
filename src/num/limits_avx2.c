/* limits_avx2.c - what AES-NI and AVX2 give. Without VNNI a byte product is a pair of multiplications and an addition; without
 * IFMA a wide one is a scalar multiplication. */
#if defined(__x86_64__)
#include "num/avx512.h"
#include "num/limits.h"

#define WIDE __attribute__((target("avx2,aes")))
enum { FLIGHT = 8 };

static bool runs(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("pclmul");     // every AVX2 processor with it has AES-NI
}

WIDE static void sink(__m256i *x)
{
    UNROLL for (int i = 1; i < FLIGHT; i++) x[0] = _mm256_xor_si256(x[0], x[i]);
    limit_sink = (uint64_t)_mm256_extract_epi64(x[0], 0);
}

WIDE static uint64_t aes(uint64_t steps)
{
    __m128i x[FLIGHT], key = _mm_set1_epi64x(0x0123456789ABCDEF);
    UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm_set1_epi64x(i);
    for (uint64_t s = 0; s < steps; s++) {
        UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm_xor_si128(x[i], key);
        for (int round = 0; round < 10; round++) {
            UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm_aesenc_si128(x[i], key);
        }
    }
    UNROLL for (int i = 1; i < FLIGHT; i++) x[0] = _mm_xor_si128(x[0], x[i]);
    limit_sink = (uint64_t)_mm_cvtsi128_si64(x[0]);
    return steps * FLIGHT;
}

WIDE static uint64_t bytes(uint64_t steps)
{
    __m256i x[FLIGHT], one = _mm256_set1_epi16(1);
    UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm256_set1_epi64x(i);
    for (uint64_t s = 0; s < steps; s++) {
        UNROLL for (int i = 0; i < FLIGHT; i++)
            x[i] = _mm256_add_epi32(x[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x[i], x[i]), one));
    }
    sink(x);
    return steps * FLIGHT * 32;
}

WIDE static uint64_t load(const void *data, size_t len, uint64_t times)
{
    __m256i x[FLIGHT];
    UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm256_setzero_si256();
    for (uint64_t t = 0; t < times; t++) {
        const uint8_t *p = data;
        for (size_t at = 0; at + FLIGHT * 32 <= len; at += FLIGHT * 32) {
            UNROLL for (int i = 0; i < FLIGHT; i++)
                x[i] = _mm256_xor_si256(x[i], _mm256_loadu_si256((const __m256i *)(const void *)(p + at + 32 * (size_t)i)));
        }
    }
    sink(x);
    return len / (FLIGHT * 32) * (FLIGHT * 32) * times;
}

const Limits limits_avx2 = {runs, aes, bytes, NULL, load};
#else
typedef int limits_avx2_is_empty;
#endif
