/* avx512.h - private to the *_avx512.c files: what all of them need. They are empty on other processors. */
#ifndef MARILL_NUM_AVX512_H
#define MARILL_NUM_AVX512_H

#include <immintrin.h>
#include "num/kernels.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx512ifma,popcnt")))
#define AVX512_INLINE AVX512 __attribute__((always_inline)) static inline

/* Before a loop over registers, which must be unrolled to keep them in registers. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Keeps what was loaded in its register: else it is loaded again for every use. */
#define LOADED(v) __asm__("" : "+v"(v))

/* The first min(left, 8) lanes; the first min(left, 64) bytes. */
AVX512_INLINE __mmask8 lanes(size_t left)
{
    return (__mmask8)(left >= 8 ? 0xFF : (1u << left) - 1);
}

AVX512_INLINE __mmask64 bytes64(size_t left)
{
    return left >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
}

/* The sum of the lanes. (The compiler's own reduction adds signed words, whose overflow is undefined.) */
AVX512_INLINE uint64_t sum64(__m512i v)
{
    v = _mm512_add_epi64(v, _mm512_shuffle_i64x2(v, v, 0x4E));
    v = _mm512_add_epi64(v, _mm512_shuffle_i64x2(v, v, 0xB1));
    return (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(_mm512_add_epi64(v, _mm512_unpackhi_epi64(v, v))));
}

/* The sums of the lanes of each of eight vectors. */
AVX512_INLINE __m512i sums8(const __m512i v[8])
{
    __m512i p[4], q[2];
    UNROLL for (int i = 0; i < 4; i++)
        p[i] = _mm512_add_epi64(_mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]));
    UNROLL for (int i = 0; i < 2; i++)
        q[i] = _mm512_add_epi64(_mm512_shuffle_i64x2(p[2 * i], p[2 * i + 1], 0x88), _mm512_shuffle_i64x2(p[2 * i], p[2 * i + 1], 0xDD));
    return _mm512_add_epi64(_mm512_shuffle_i64x2(q[0], q[1], 0x88), _mm512_shuffle_i64x2(q[0], q[1], 0xDD));
}

/* v[i] lane j <-> v[j] lane i, lanes of 64 bits. */
AVX512_INLINE void transpose8(__m512i v[8])
{
    __m512i t[8];
    UNROLL for (int i = 0; i < 8; i += 2) t[i] = _mm512_unpacklo_epi64(v[i], v[i + 1]), t[i + 1] = _mm512_unpackhi_epi64(v[i], v[i + 1]);
    UNROLL for (int i = 0; i < 8; i += 4)
        UNROLL for (int j = i; j < i + 2; j++)
            v[j] = _mm512_shuffle_i64x2(t[j], t[j + 2], 0x88), v[j + 2] = _mm512_shuffle_i64x2(t[j], t[j + 2], 0xDD);
    UNROLL for (int j = 0; j < 4; j++)
        t[j] = _mm512_shuffle_i64x2(v[j], v[j + 4], 0x88), t[j + 4] = _mm512_shuffle_i64x2(v[j], v[j + 4], 0xDD);
    UNROLL for (int j = 0; j < 8; j++) v[j] = t[j];
}

#endif
