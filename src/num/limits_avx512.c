/* limits_avx512.c - what VAES, VNNI, IFMA and 64-byte loads give: sixteen operations in flight, from registers. */
#if defined(__x86_64__)
#include <cpuid.h>
#include "num/avx512.h"
#include "num/limits.h"

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512ifma,aes,vaes")))
enum { FLIGHT = 16 };

static bool runs(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512ifma") &&
           __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 9));
}

WIDE static void sink(__m512i *x)
{
    UNROLL for (int i = 1; i < FLIGHT; i++) x[0] = _mm512_xor_si512(x[0], x[i]);
    limit_sink = (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(x[0]));
}

WIDE static uint64_t aes(uint64_t steps)
{
    __m512i x[FLIGHT], key = _mm512_set1_epi64(0x0123456789ABCDEF);
    UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm512_set1_epi64(i);
    for (uint64_t s = 0; s < steps; s++) {
        UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm512_xor_si512(x[i], key);
        for (int round = 0; round < 10; round++) {
            UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm512_aesenc_epi128(x[i], key);
        }
    }
    sink(x);
    return steps * FLIGHT * 4;
}

WIDE static uint64_t bytes(uint64_t steps)
{
    __m512i x[FLIGHT], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
    UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm512_set1_epi64(i);
    for (uint64_t s = 0; s < steps; s++) {
        UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm512_dpbusd_epi32(x[i], a, b);
    }
    sink(x);
    return steps * FLIGHT * 64;
}

WIDE static uint64_t products(uint64_t steps)
{
    __m512i x[FLIGHT], a = _mm512_set1_epi64(0xFEDCBA987654), b = _mm512_set1_epi64(0x123456789ABC);
    UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm512_set1_epi64(i);
    for (uint64_t s = 0; s < steps; s++) {
        UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm512_madd52lo_epu64(x[i], a, b);
    }
    sink(x);
    return steps * FLIGHT * 8;
}

WIDE static uint64_t load(const void *data, size_t len, uint64_t times)
{
    __m512i x[FLIGHT];
    UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm512_setzero_si512();
    for (uint64_t t = 0; t < times; t++) {
        const uint8_t *p = data;
        for (size_t at = 0; at + FLIGHT * 64 <= len; at += FLIGHT * 64) {
            UNROLL for (int i = 0; i < FLIGHT; i++) x[i] = _mm512_xor_si512(x[i], _mm512_loadu_si512(p + at + 64 * (size_t)i));
        }
    }
    sink(x);
    return len / (FLIGHT * 64) * (FLIGHT * 64) * times;
}

const Limits limits_avx512 = {runs, aes, bytes, products, load};
#else
typedef int limits_avx512_is_empty;
#endif
