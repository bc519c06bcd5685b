/* select_avx2.c - selection without mask registers: bits become masks of whole words by comparing with the bit that each word
 * stands for. Sums are kept in lanes as wide as the words, since only they are asked for. */
#ifdef __x86_64__
#include "num/avx2.h"
#include "num/select.h"

#define SELECT __attribute__((target("avx2,bmi2,popcnt")))
#define SELECT_INLINE SELECT __attribute__((always_inline)) static inline

/* All ones in the words, of `bytes` bytes, whose bit among the lowest 32 / bytes of `bits` is set. */
SELECT_INLINE __m256i words_masked(uint64_t bits, unsigned bytes)
{
    __m256i v, bit;
    if (bytes == 1) {
        __m256i from = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
        v = _mm256_shuffle_epi8(_mm256_set1_epi32((int)(uint32_t)bits), from);
        bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
        return _mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit);
    }
    if (bytes == 2) {
        v = _mm256_set1_epi16((short)(uint16_t)bits);
        bit = _mm256_set_epi16((short)-0x8000, 0x4000, 0x2000, 0x1000, 0x800, 0x400, 0x200, 0x100, 0x80, 0x40, 0x20, 0x10, 8, 4, 2, 1);
        return _mm256_cmpeq_epi16(_mm256_and_si256(v, bit), bit);
    }
    if (bytes == 4) {
        v = _mm256_set1_epi32((int)(uint32_t)bits);
        bit = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
        return _mm256_cmpeq_epi32(_mm256_and_si256(v, bit), bit);
    }
    v = _mm256_set1_epi64x((long long)bits);
    bit = _mm256_set_epi64x(8, 4, 2, 1);
    return _mm256_cmpeq_epi64(_mm256_and_si256(v, bit), bit);
}

/* sum += the words of 64 entries whose bit is set. */
SELECT_INLINE __m256i column_add(__m256i sum, const uint8_t *column, uint64_t bits, unsigned bytes)
{
    for (unsigned i = 0; i < 2 * bytes; i++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(column + 32 * i));
        v = _mm256_and_si256(v, words_masked(bits >> (32 / bytes * i), bytes));
        if (bytes == 1) sum = _mm256_add_epi8(sum, v);
        if (bytes == 2) sum = _mm256_add_epi16(sum, v);
        if (bytes == 4) sum = _mm256_add_epi32(sum, v);
        if (bytes == 8) sum = _mm256_add_epi64(sum, v);
    }
    return sum;
}

/* The sum of the lanes, of `bytes` bytes, mod 2^(8 bytes). */
SELECT_INLINE uint64_t lanes_sum(__m256i v, unsigned bytes)
{
    if (bytes == 1) v = _mm256_sad_epu8(v, _mm256_setzero_si256());
    if (bytes == 2) v = _mm256_madd_epi16(v, _mm256_set1_epi16(1));
    if (bytes == 2 || bytes == 4) {            // to 64 bits: what carries over is cut off below
        __m256i low = _mm256_and_si256(v, _mm256_set1_epi64x(0xFFFFFFFF));
        v = _mm256_add_epi64(low, _mm256_srli_epi64(v, 32));
    }
    __m128i x = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    x = _mm_add_epi64(x, _mm_unpackhi_epi64(x, x));
    return ring_low((uint64_t)_mm_cvtsi128_si64(x), 8 * bytes);
}

/* b0, b1: the bytes of the columns' words, constants wherever this is inlined; b1 0: one column. */
SELECT_INLINE void select_rows(const Selection *s, size_t count, unsigned b0, unsigned b1)
{
    size_t cells = s->table->cells, size = cells * (b0 + b1);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *row = (const uint8_t *)s->table->rows + s->low[i] * size, *second = row + cells * b0;
        const uint8_t *bits = s->bits + i * (cells / 8);
        __m256i sum0 = _mm256_setzero_si256(), sum1 = sum0;
        uint64_t ones = 0;
        for (size_t w = 0; w < cells / 64; w++, row += 64 * b0, second += 64 * b1) {
            uint64_t mask = bits_turned(bits, cells, (size_t)s->turn[i], w);
            sum0 = column_add(sum0, row, mask, b0);
            if (b1) sum1 = column_add(sum1, second, mask, b1);
            ones += (uint64_t)_mm_popcnt_u64(mask);
        }
        s->sum[0][i] = lanes_sum(sum0, b0);
        if (b1) s->sum[1][i] = lanes_sum(sum1, b1);
        if (s->ones) s->ones[i] = ones;
    }
}

SELECT void avx2_select(const Selection *s, size_t count)
{
    const SelectTable *t = s->table;
    if (t->cells < 64) {
        portable_select(s, count);
        return;
    }
#define CASE(a, b) case 16 * a + b: select_rows(s, count, a, b); break;
#define CASES(a) CASE(a, 0) CASE(a, 1) CASE(a, 2) CASE(a, 4) CASE(a, 8)
    switch (16 * t->bytes[0] + (t->columns > 1 ? t->bytes[1] : 0)) { CASES(1) CASES(2) CASES(4) CASES(8) }
#undef CASES
#undef CASE
}

/* A few words a vector: vector units are no faster. */
void avx2_onehot(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t count, size_t cells, bool flip)
{
    portable_onehot(bits, sign, point, count, cells, flip);
}
#endif
