/* select_avx512.c - selection with mask registers: the bits are masks as they are, 64 entries at a time.
 *
 * Table words are loaded whole before the mask meets them: a load under a mask of secret bits may take a time that depends on
 * them. Sums are kept in lanes as wide as the words, since only they are asked for. */
#ifdef __x86_64__
#include "num/avx512.h"
#include "num/select.h"

enum { MASKS = 8 };                            // bits of 512 entries at a time

/* Keeps the compiler from making a load of it that the mask controls. */
AVX512_INLINE __m512i loaded(__m512i v)
{
    __asm__("" : "+v"(v));
    return v;
}

/* The first words of a vector of at most 512 bits, turned. A shift by 64 gives zero. */
AVX512_INLINE void masks_turn(uint64_t mask[MASKS], const uint8_t *bits, size_t words, size_t turn)
{
    __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), last = _mm512_set1_epi64((long long)words - 1);
    __m512i v = _mm512_maskz_loadu_epi64(lanes(words), bits), s = _mm512_set1_epi64((long long)turn % 64);
    __m512i low = _mm512_add_epi64(lane, _mm512_set1_epi64((long long)turn / 64)), high = _mm512_add_epi64(low, _mm512_set1_epi64(1));
    low = _mm512_permutexvar_epi64(_mm512_and_si512(low, last), v), high = _mm512_permutexvar_epi64(_mm512_and_si512(high, last), v);
    v = _mm512_or_si512(_mm512_srlv_epi64(low, s), _mm512_sllv_epi64(high, _mm512_sub_epi64(_mm512_set1_epi64(64), s)));
    _mm512_storeu_si512(mask, v);
}

/* sum += the words of 64 entries under the mask. */
AVX512_INLINE __m512i column_add(__m512i sum, const uint8_t *column, uint64_t mask, unsigned bytes)
{
    UNROLL for (unsigned i = 0; i < bytes; i++) {
        __m512i v = loaded(_mm512_loadu_si512(column + 64 * i));
        if (bytes == 1) sum = _mm512_mask_add_epi8(sum, mask, sum, v);
        if (bytes == 2) sum = _mm512_mask_add_epi16(sum, (__mmask32)(mask >> 32 * i), sum, v);
        if (bytes == 4) sum = _mm512_mask_add_epi32(sum, (__mmask16)(mask >> 16 * i), sum, v);
        if (bytes == 8) sum = _mm512_mask_add_epi64(sum, (__mmask8)(mask >> 8 * i), sum, v);
    }
    return sum;
}

/* Fewer than 64 entries: what is loaded ends where they do, which is public. */
AVX512_INLINE __m512i column_add_few(__m512i sum, const uint8_t *column, uint64_t mask, unsigned bytes, size_t cells)
{
    uint8_t whole[64 * 8];
    UNROLL for (unsigned i = 0; i < bytes; i++) {
        size_t size = cells * bytes, at = 64 * i;
        _mm512_storeu_si512(whole + at, _mm512_maskz_loadu_epi8(size > at ? bytes64(size - at) : 0, column + (size > at ? at : 0)));
    }
    return column_add(sum, whole, mask, bytes);
}

/* The sum of the lanes of `bytes` bytes, mod 2^(8 bytes). */
AVX512_INLINE uint64_t lanes_sum(__m512i v, unsigned bytes)
{
    if (bytes == 8) return sum64(v);
    if (bytes == 1) return sum64(_mm512_sad_epu8(v, _mm512_setzero_si512())) & 0xFF;
    if (bytes == 2) v = _mm512_madd_epi16(v, _mm512_set1_epi16(1));
    __m256i w = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4E));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0xB1));
    uint32_t sum = (uint32_t)_mm_cvtsi128_si32(x);
    return bytes == 2 ? sum & 0xFFFF : sum;
}

/* b0, b1: the bytes of the columns' words, constants wherever this is inlined; b1 0: one column. */
AVX512_INLINE void select_rows(const Selection *s, size_t count, unsigned b0, unsigned b1)
{
    const SelectTable *t = s->table;
    size_t cells = t->cells, words = (cells + 63) / 64, size = cells * (b0 + b1);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *row = (const uint8_t *)t->rows + s->low[i] * size, *second = row + cells * b0, *bits = s->bits + i * (cells / 8);
        size_t turn = (size_t)s->turn[i];
        __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0;
        uint64_t mask[MASKS], ones = 0;
        if (cells < 64) {
            mask[0] = bits_turned(bits, cells, turn, 0);
            sum0 = column_add_few(sum0, row, mask[0], b0, cells);
            if (b1) sum1 = column_add_few(sum1, second, mask[0], b1, cells);
            ones = (uint64_t)__builtin_popcountll(mask[0]);
        } else for (size_t w = 0; w < words; w++) {
            if (words == 1) mask[0] = bits_turned(bits, 64, turn, 0);
            else if (words > MASKS) mask[w % MASKS] = bits_turned(bits, cells, turn, w);
            else if (w == 0) masks_turn(mask, bits, words, turn);
            sum0 = column_add(sum0, row + 64 * b0 * w, mask[w % MASKS], b0);
            if (b1) sum1 = column_add(sum1, second + 64 * b1 * w, mask[w % MASKS], b1);
            ones += (uint64_t)__builtin_popcountll(mask[w % MASKS]);
        }
        s->sum[0][i] = lanes_sum(sum0, b0);
        if (b1) s->sum[1][i] = lanes_sum(sum1, b1);
        if (s->ones) s->ones[i] = ones;
    }
}

AVX512 void avx512_select(const Selection *s, size_t count)
{
    const SelectTable *t = s->table;
#define CASE(a, b) case 16 * a + b: select_rows(s, count, a, b); break;
#define CASES(a) CASE(a, 0) CASE(a, 1) CASE(a, 2) CASE(a, 4) CASE(a, 8)
    switch (16 * t->bytes[0] + (t->columns > 1 ? t->bytes[1] : 0)) { CASES(1) CASES(2) CASES(4) CASES(8) }
#undef CASES
#undef CASE
}

/* Vectors of 64 bits, eight at a time. */
AVX512 static void onehot_words(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t count, bool flip)
{
    __m512i one = _mm512_set1_epi64(1), minus = _mm512_set1_epi64(-1);
    for (size_t i = 0; i < count; i += 8) {
        __mmask8 m = lanes(count - i);
        __m512i hit = _mm512_sllv_epi64(one, _mm512_maskz_loadu_epi64(m, point + i)), v = _mm512_maskz_loadu_epi64(m, bits + 8 * i);
        _mm512_mask_storeu_epi64(sign + i, m, _mm512_mask_blend_epi64(_mm512_test_epi64_mask(v, hit), minus, one));
        if (flip) _mm512_mask_storeu_epi64(bits + 8 * i, m, _mm512_xor_si512(v, hit));
    }
}

AVX512 void avx512_onehot(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t count, size_t cells, bool flip)
{
    size_t words = cells / 64;
    if (words < 1) portable_onehot(bits, sign, point, count, cells, flip);
    else if (words == 1) onehot_words(bits, sign, point, count, flip);
    else for (size_t i = 0; i < count; i++) {
        __m512i one = _mm512_sllv_epi64(_mm512_set1_epi64(1), _mm512_set1_epi64((long long)point[i] % 64));
        __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), at = _mm512_set1_epi64((long long)point[i] / 64);
        unsigned held = 0;
        for (size_t w = 0; w < words; w += 8, lane = _mm512_add_epi64(lane, _mm512_set1_epi64(8))) {
            __mmask8 m = lanes(words - w);
            __m512i v = _mm512_maskz_loadu_epi64(m, bits + 8 * w), hit = _mm512_maskz_mov_epi64(_mm512_cmpeq_epi64_mask(lane, at), one);
            held |= _mm512_test_epi64_mask(v, hit);
            if (flip) _mm512_mask_storeu_epi64(bits + 8 * w, m, _mm512_xor_si512(v, hit));
        }
        bits += cells / 8;
        sign[i] = (uint64_t)(held != 0) * 2 - 1;
    }
}
#endif
