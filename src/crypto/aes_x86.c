/* aes_x86.c - AES-128 with the instructions of x86: AES-NI, eight blocks in flight, and VAES, eight vectors of four.
 *
 * An AES round takes three to five cycles but one starts every cycle (or half), hence the eight. Functions carry their
 * target as an attribute, so the rest of the program stays runnable anywhere; aes.c decides what is called. */
#include "crypto/aes.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define NI __attribute__((target("aes,sse4.1")))
#define VAES __attribute__((target("aes,vaes,avx512f,avx512bw,avx512vl,avx512dq")))
#define EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

bool aes_ni_runs(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_AES) && __builtin_cpu_supports("sse4.1");
}

bool aes_vaes_runs(void)
{
    unsigned a, b, c, d;
    return aes_ni_runs() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 9)) && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

// ---- AES-NI ----------------------------------------------------------------------------------------------------------

NI static inline __m128i key_step(__m128i k, __m128i assist)
{
    k = _mm_xor_si128(k, _mm_slli_si128(k, 4));
    k = _mm_xor_si128(k, _mm_slli_si128(k, 8));
    return _mm_xor_si128(k, _mm_shuffle_epi32(assist, 0xFF));
}

NI static void ni_expand(uint32_t round_key[44], const uint8_t key[16])
{
    __m128i k = _mm_loadu_si128((const __m128i *)(const void *)key);
    __m128i *out = (__m128i *)(void *)round_key;
    _mm_storeu_si128(out++, k);
#define STEP(constant) k = key_step(k, _mm_aeskeygenassist_si128(k, constant)); _mm_storeu_si128(out++, k);
    STEP(0x01) STEP(0x02) STEP(0x04) STEP(0x08) STEP(0x10) STEP(0x20) STEP(0x40) STEP(0x80) STEP(0x1B) STEP(0x36)
#undef STEP
}

NI static void ni_counter(uint8_t *out, size_t blocks, const uint32_t round_key[44], const uint64_t start[2])
{
    __m128i k[11], at = _mm_set_epi64x((long long)start[1], (long long)start[0]);
    for (int r = 0; r < 11; r++) k[r] = _mm_loadu_si128((const __m128i *)(const void *)(round_key + 4 * r));
    for (; blocks >= 8; blocks -= 8, out += 8 * 16) {
#define BEGIN(i) __m128i b##i = _mm_xor_si128(_mm_add_epi64(at, _mm_set_epi64x(0, i)), k[0]);
#define ROUND(i) b##i = _mm_aesenc_si128(b##i, k[r]);
#define STORE(i) _mm_storeu_si128((__m128i *)(void *)(out + 16 * i), _mm_aesenclast_si128(b##i, k[10]));
        EIGHT(BEGIN)
        for (int r = 1; r < 10; r++) { EIGHT(ROUND) }
        EIGHT(STORE)
#undef BEGIN
#undef ROUND
#undef STORE
        at = _mm_add_epi64(at, _mm_set_epi64x(0, 8));
    }
    for (; blocks > 0; blocks--, out += 16) {
        __m128i b = _mm_xor_si128(at, k[0]);
        for (int r = 1; r < 10; r++) b = _mm_aesenc_si128(b, k[r]);
        _mm_storeu_si128((__m128i *)(void *)out, _mm_aesenclast_si128(b, k[10]));
        at = _mm_add_epi64(at, _mm_set_epi64x(0, 1));
    }
}

/* SSE4.1 widens two words at a time, which is no faster than the compiler's loop. */
static void ni_widen(uint64_t *out, const uint8_t *in, size_t len, unsigned bytes, uint64_t mask)
{
    aes_portable.widen(out, in, len, bytes, mask);
}

const AesKernel aes_ni = {"aesni", ni_expand, ni_counter, ni_widen};

// ---- VAES ------------------------------------------------------------------------------------------------------------

VAES static void vaes_counter(uint8_t *out, size_t blocks, const uint32_t round_key[44], const uint64_t start[2])
{
    __m512i k[11];
    for (int r = 0; r < 11; r++) k[r] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(round_key + 4 * r)));
    __m512i at = _mm512_broadcast_i32x4(_mm_set_epi64x((long long)start[1], (long long)start[0]));
    at = _mm512_add_epi64(at, _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0));
    const __m512i one = _mm512_set_epi64(0, 4, 0, 4, 0, 4, 0, 4);      // one vector of blocks
    for (; blocks >= 32; blocks -= 32, out += 32 * 16) {
#define BEGIN(i) __m512i b##i = _mm512_xor_si512(at, k[0]); at = _mm512_add_epi64(at, one);
#define ROUND(i) b##i = _mm512_aesenc_epi128(b##i, k[r]);
#define STORE(i) _mm512_storeu_si512(out + 64 * i, _mm512_aesenclast_epi128(b##i, k[10]));
        EIGHT(BEGIN)
        for (int r = 1; r < 10; r++) { EIGHT(ROUND) }
        EIGHT(STORE)
#undef BEGIN
#undef ROUND
#undef STORE
    }
    for (; blocks > 0; out += 64) {
        size_t n = blocks < 4 ? blocks : 4;
        __m512i b = _mm512_xor_si512(at, k[0]);
        for (int r = 1; r < 10; r++) b = _mm512_aesenc_epi128(b, k[r]);
        b = _mm512_aesenclast_epi128(b, k[10]);
        _mm512_mask_storeu_epi64(out, (__mmask8)((1u << (2 * n)) - 1), b);
        at = _mm512_add_epi64(at, one);
        blocks -= n;
    }
}

VAES static void vaes_widen(uint64_t *out, const uint8_t *in, size_t len, unsigned bytes, uint64_t mask)
{
    const __m512i m = _mm512_set1_epi64((long long)mask);
    size_t i = 0;
    if (bytes == 1) {
        for (; i + 8 <= len; i += 8) {
            __m128i v = _mm_loadl_epi64((const __m128i *)(const void *)(in + i));
            _mm512_storeu_si512(out + i, _mm512_and_si512(m, _mm512_cvtepu8_epi64(v)));
        }
    } else if (bytes == 2) {
        for (; i + 8 <= len; i += 8) {
            __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i));
            _mm512_storeu_si512(out + i, _mm512_and_si512(m, _mm512_cvtepu16_epi64(v)));
        }
    } else {
        for (; i + 8 <= len; i += 8) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(in + 4 * i));
            _mm512_storeu_si512(out + i, _mm512_and_si512(m, _mm512_cvtepu32_epi64(v)));
        }
    }
    aes_portable.widen(out + i, in + i * bytes, len - i, bytes, mask);
}

const AesKernel aes_vaes = {"vaes", ni_expand, vaes_counter, vaes_widen};

#else
typedef int aes_x86_is_empty;
#endif
