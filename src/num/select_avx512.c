/* select_avx512.c - selection with mask registers: the bits are masks as they are, 64 cells at a time.
 *
 * Table words are loaded whole and zeroed by the mask afterwards: a load under a mask of secret bits may take a time that
 * depends on them. Masks on loads are those of a row's end, which is public. */
#ifdef __x86_64__
#include "num/avx512.h"

/* The bits of the next 64 cells, or of all that are left. */
AVX512_INLINE uint64_t bits_next(const uint8_t *bits, size_t left)
{
    if (left >= 64) return (uint64_t)_mm_cvtsi128_si64(_mm_loadl_epi64((const __m128i *)(const void *)bits));
    __m128i v = _mm_maskz_loadu_epi8((__mmask16)((1u << (left + 7) / 8) - 1), bits);
    return ring_low((uint64_t)_mm_cvtsi128_si64(v), (unsigned)left);
}

/* 64 bytes at `at` of a row of `size` bytes; zeros beyond its end. */
AVX512_INLINE __m512i row_load(const uint8_t *row, size_t at, size_t size)
{
    size_t left = at < size ? size - at : 0;
    return _mm512_maskz_loadu_epi8(bytes64(left), left ? row + at : row);
}

AVX512 static uint64_t select1(const uint8_t *row, const uint8_t *bits, size_t cells)
{
    __m512i sum = _mm512_setzero_si512();
    for (size_t c = 0; c < cells; c += 64) {
        __m512i v = _mm512_maskz_mov_epi8(bits_next(bits + c / 8, cells - c), row_load(row, c, cells));
        sum = _mm512_add_epi64(sum, _mm512_sad_epu8(v, _mm512_setzero_si512()));
    }
    return sum64(sum);
}

/* Low and high bytes are added up apart, in 32-bit lanes, which do not overflow below 2^28 cells. */
AVX512 static uint64_t select2(const uint8_t *row, const uint8_t *bits, size_t cells)
{
    __m512i low = _mm512_setzero_si512(), high = low, low_bytes = _mm512_set1_epi16(1), high_bytes = _mm512_set1_epi16(256);
    for (size_t c = 0; c < cells; c += 64) {
        uint64_t b = bits_next(bits + c / 8, cells - c);
        UNROLL for (unsigned i = 0; i < 2; i++) {
            __m512i v = _mm512_maskz_mov_epi16((__mmask32)(b >> 32 * i), row_load(row, 2 * c + 64 * i, 2 * cells));
            low = _mm512_dpbusd_epi32(low, v, low_bytes);
            high = _mm512_dpbusd_epi32(high, v, high_bytes);
        }
    }
    __m512i mask = _mm512_set1_epi64(0xFFFFFFFF);
    low = _mm512_add_epi64(_mm512_and_si512(low, mask), _mm512_srli_epi64(low, 32));
    high = _mm512_add_epi64(_mm512_and_si512(high, mask), _mm512_srli_epi64(high, 32));
    return sum64(_mm512_add_epi64(low, _mm512_slli_epi64(high, 8)));
}

AVX512 static uint64_t select4(const uint8_t *row, const uint8_t *bits, size_t cells)
{
    __m512i even = _mm512_setzero_si512(), odd = even, mask = _mm512_set1_epi64(0xFFFFFFFF);
    for (size_t c = 0; c < cells; c += 64) {
        uint64_t b = bits_next(bits + c / 8, cells - c);
        UNROLL for (unsigned i = 0; i < 4; i++) {
            __m512i v = _mm512_maskz_mov_epi32((__mmask16)(b >> 16 * i), row_load(row, 4 * c + 64 * i, 4 * cells));
            even = _mm512_add_epi64(even, _mm512_and_si512(v, mask));
            odd = _mm512_add_epi64(odd, _mm512_srli_epi64(v, 32));
        }
    }
    return sum64(_mm512_add_epi64(even, odd));
}

AVX512 static uint64_t select8(const uint8_t *row, const uint8_t *bits, size_t cells)
{
    __m512i sum = _mm512_setzero_si512();
    for (size_t c = 0; c < cells; c += 64) {
        uint64_t b = bits_next(bits + c / 8, cells - c);
        UNROLL for (unsigned i = 0; i < 8; i++)
            sum = _mm512_mask_add_epi64(sum, (__mmask8)(b >> 8 * i), sum, row_load(row, 8 * c + 64 * i, 8 * cells));
    }
    return sum64(sum);
}

AVX512 uint64_t avx512_select(const void *row, unsigned bytes, const uint8_t *bits, size_t cells)
{
    const size_t most = (size_t)1 << 27;
    if (cells > most) {
        const uint8_t *rest = (const uint8_t *)row + most * bytes;
        return avx512_select(row, bytes, bits, most) + avx512_select(rest, bytes, bits + most / 8, cells - most);
    }
    if (bytes == 1) return select1(row, bits, cells);
    if (bytes == 2) return select2(row, bits, cells);
    if (bytes == 4) return select4(row, bits, cells);
    return select8(row, bits, cells);
}

AVX512 uint64_t avx512_popcount(const uint8_t *bits, size_t cells)
{
    uint64_t sum = 0;
    for (size_t c = 0; c < cells; c += 64) sum += (uint64_t)__builtin_popcountll(bits_next(bits + c / 8, cells - c));
    return sum;
}
#endif
