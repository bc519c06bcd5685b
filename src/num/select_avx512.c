/* select_avx512.c - selection with mask registers: the bits are masks as they are, 64 entries at a time.
 *
 * Table words are loaded whole before the mask meets them: a load under a mask of secret bits may take a time that depends on
 * them. Sums are kept in lanes as wide as the words, since only they are asked for. */
#ifdef __x86_64__
#include "num/avx512.h"
#include "num/select.h"

/* Vectors are turned by scalar shifts of BMI2, which leave the vector units to the sums. */
#define SELECT __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx512ifma,popcnt,bmi2")))
#define SELECT_INLINE SELECT __attribute__((always_inline)) static inline

enum { GROUP = 4 };                            // vectors whose lanes are added up together

/* Keeps the compiler from making a load of it that the mask controls. */
SELECT_INLINE __m512i loaded(__m512i v)
{
    __asm__("" : "+v"(v));
    return v;
}

/* sum += the words of 64 entries under the mask. */
SELECT_INLINE __m512i column_add(__m512i sum, const uint8_t *column, uint64_t mask, unsigned bytes)
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
SELECT_INLINE __m512i column_add_few(__m512i sum, const uint8_t *column, uint64_t mask, unsigned bytes, size_t cells)
{
    uint8_t whole[64 * 8];
    UNROLL for (unsigned i = 0; i < bytes; i++) {
        size_t size = cells * bytes, at = 64 * i;
        _mm512_storeu_si512(whole + at, _mm512_maskz_loadu_epi8(size > at ? bytes64(size - at) : 0, column + (size > at ? at : 0)));
    }
    return column_add(sum, whole, mask, bytes);
}

/* out[i] = the sum of the lanes of v[i], of `bytes` bytes, mod 2^(8 bytes). */
SELECT_INLINE void lanes_sum(uint64_t *out, const __m512i v[GROUP], unsigned bytes, size_t count)
{
    __m512i x[GROUP];
    UNROLL for (unsigned i = 0; i < GROUP; i++) {
        x[i] = v[i];
        if (bytes == 1) x[i] = _mm512_sad_epu8(x[i], _mm512_setzero_si512());
        if (bytes == 2) x[i] = _mm512_madd_epi16(x[i], _mm512_set1_epi16(1));
    }
#define ADD(a, b) (bytes == 8 ? _mm512_add_epi64(a, b) : _mm512_add_epi32(a, b))
    __m512i ab = ADD(_mm512_shuffle_i64x2(x[0], x[1], 0x44), _mm512_shuffle_i64x2(x[0], x[1], 0xEE));
    __m512i cd = ADD(_mm512_shuffle_i64x2(x[2], x[3], 0x44), _mm512_shuffle_i64x2(x[2], x[3], 0xEE));
    __m512i sum = ADD(_mm512_shuffle_i64x2(ab, cd, 0x88), _mm512_shuffle_i64x2(ab, cd, 0xDD));     // one in each quarter
    sum = ADD(sum, _mm512_shuffle_epi32(sum, 0x4E));
    if (bytes == 2 || bytes == 4) sum = ADD(sum, _mm512_shuffle_epi32(sum, 0xB1));
#undef ADD
    __m256i words = _mm512_castsi512_si256(_mm512_permutexvar_epi64(_mm512_set_epi64(0, 0, 0, 0, 6, 4, 2, 0), sum));
    if (bytes < 8) words = _mm256_and_si256(words, _mm256_set1_epi64x((long long)ring_low(~UINT64_C(0), 8 * bytes)));
    _mm256_mask_storeu_epi64(out, lanes(count) & 0xF, words);
}

typedef struct Sums { __m512i sum[SELECT_COLUMNS]; uint64_t ones; } Sums;

/* One vector. b0, b1: the bytes of the columns' words, constants wherever this is inlined; b1 0: one column. */
SELECT_INLINE Sums select_one(const uint8_t *row, const uint8_t *bits, size_t cells, size_t turn, unsigned b0, unsigned b1)
{
    const uint8_t *second = row + cells * b0;
    Sums s = {{_mm512_setzero_si512(), _mm512_setzero_si512()}, 0};
    if (cells < 64) {
        uint64_t mask = bits_turned(bits, cells, turn, 0);
        s.sum[0] = column_add_few(s.sum[0], row, mask, b0, cells);
        if (b1) s.sum[1] = column_add_few(s.sum[1], second, mask, b1, cells);
        s.ones = (uint64_t)__builtin_popcountll(mask);
        return s;
    }
    size_t last = cells / 64 - 1, at = turn / 64;
    uint64_t low = bits_word(bits, at);
    for (size_t w = 0; w <= last; w++, row += 64 * b0, second += 64 * b1) {
        at = (at + 1) & last;
        uint64_t high = bits_word(bits, at), mask = low >> turn % 64 | high << 1 << (~turn % 64);
        s.sum[0] = column_add(s.sum[0], row, mask, b0);
        if (b1) s.sum[1] = column_add(s.sum[1], second, mask, b1);
        s.ones += (uint64_t)__builtin_popcountll(high);
        low = high;
    }
    return s;
}

SELECT_INLINE void select_rows(const Selection *s, size_t count, unsigned b0, unsigned b1)
{
    const SelectTable *t = s->table;
    size_t cells = t->cells, size = cells * (b0 + b1);
    __m512i sum[SELECT_COLUMNS][GROUP] = {{_mm512_setzero_si512()}};
    for (size_t i = 0; i < count; i++) {
        Sums one = select_one((const uint8_t *)t->rows + s->low[i] * size, s->bits + i * (cells / 8), cells, (size_t)s->turn[i], b0, b1);
        sum[0][i % GROUP] = one.sum[0];
        if (b1) sum[1][i % GROUP] = one.sum[1];
        if (s->ones) s->ones[i] = one.ones;
        if (i % GROUP != GROUP - 1 && i + 1 < count) continue;
        size_t first = i / GROUP * GROUP;
        lanes_sum(s->sum[0] + first, sum[0], b0, i + 1 - first);
        if (b1) lanes_sum(s->sum[1] + first, sum[1], b1, i + 1 - first);
    }
}

SELECT void avx512_select(const Selection *s, size_t count)
{
    const SelectTable *t = s->table;
#define CASE(a, b) case 16 * a + b: select_rows(s, count, a, b); break;
#define CASES(a) CASE(a, 0) CASE(a, 1) CASE(a, 2) CASE(a, 4) CASE(a, 8)
    switch (16 * t->bytes[0] + (t->columns > 1 ? t->bytes[1] : 0)) { CASES(1) CASES(2) CASES(4) CASES(8) }
#undef CASES
#undef CASE
}

/* Vectors of up to 512 bits, of `words` words: 8 / words of them in a register. */
AVX512 static void onehot_short(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t count, size_t words, bool flip)
{
    size_t each = 8 / words;
    __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), low = _mm512_set1_epi64(63), one = _mm512_set1_epi64(1);
    __m512i vector = _mm512_srl_epi64(lane, _mm_cvtsi32_si128(__builtin_ctzll(words)));
    __m512i word = _mm512_and_si512(lane, _mm512_set1_epi64((long long)words - 1));
    for (size_t i = 0; i < count; i += each) {
        size_t now = count - i < each ? count - i : each;
        __mmask8 whole = lanes(now * words);
        __m512i v = whole == 0xFF ? _mm512_loadu_si512(bits) : _mm512_maskz_loadu_epi64(whole, bits);
        __m512i at = _mm512_permutexvar_epi64(vector, _mm512_maskz_loadu_epi64(lanes(now), point + i));
        __mmask8 there = _mm512_cmpeq_epi64_mask(_mm512_srli_epi64(at, 6), word);
        __m512i hit = _mm512_maskz_sllv_epi64(there, one, _mm512_and_si512(at, low));
        unsigned held = _mm512_test_epi64_mask(v, hit);
        for (size_t k = 0; k < now; k++) sign[i + k] = sign_of(is_nonzero(held >> k * words & ((1u << words) - 1)));
        if (flip && whole == 0xFF) _mm512_storeu_si512(bits, _mm512_xor_si512(v, hit));
        else if (flip) _mm512_mask_storeu_epi64(bits, whole, _mm512_xor_si512(v, hit));
        bits += 64;
    }
}

AVX512 void avx512_onehot(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t count, size_t cells, bool flip)
{
    size_t words = cells / 64;
    if (words < 1) portable_onehot(bits, sign, point, count, cells, flip);
    else if (words <= 8) onehot_short(bits, sign, point, count, words, flip);
    else for (size_t i = 0; i < count; i++) {
        __m512i one = _mm512_sllv_epi64(_mm512_set1_epi64(1), _mm512_set1_epi64((long long)(point[i] % 64)));
        __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), at = _mm512_set1_epi64((long long)(point[i] / 64));
        unsigned held = 0;
        for (size_t w = 0; w < words; w += 8, bits += 64, lane = _mm512_add_epi64(lane, _mm512_set1_epi64(8))) {
            __m512i v = _mm512_loadu_si512(bits), hit = _mm512_maskz_mov_epi64(_mm512_cmpeq_epi64_mask(lane, at), one);
            held |= _mm512_test_epi64_mask(v, hit);
            if (flip) _mm512_storeu_si512(bits, _mm512_xor_si512(v, hit));
        }
        sign[i] = sign_of(is_nonzero(held));
    }
}
#endif
