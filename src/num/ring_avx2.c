/* ring_avx2.c - elementwise operations and packing, four words at a time. */
#ifdef __x86_64__
#include "num/avx2.h"

typedef enum { ADD, SUB, MUL, MUL_ADD } Op;

/* `op` is a constant wherever this is inlined. */
AVX2_INLINE __m256i step(__m256i x, __m256i y, __m256i old, Op op)
{
    if (op == ADD) return _mm256_add_epi64(x, y);
    if (op == SUB) return _mm256_sub_epi64(x, y);
    __m256i z = product_words(product_add(product_zero(), x, upper(x), y, upper(y), false));
    return op == MUL ? z : _mm256_add_epi64(old, z);
}

AVX2_INLINE void each(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len, Op op)
{
    size_t i = 0;
    for (; i + 4 <= len; i += 4) {
        __m256i old = op == MUL_ADD ? load4(out + i) : _mm256_setzero_si256();
        store4(out + i, step(load4(a + i), load4(b + i), old, op));
    }
    if (i == len) return;
    __m256i m = lanes4(len - i);
    store_some(out + i, m, step(load_some(a + i, m), load_some(b + i, m), load_some(out + i, m), op));
}

AVX2 void avx2_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len) { each(out, a, b, len, ADD); }
AVX2 void avx2_sub(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len) { each(out, a, b, len, SUB); }
AVX2 void avx2_mul(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len) { each(out, a, b, len, MUL); }
AVX2 void avx2_mul_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len) { each(out, a, b, len, MUL_ADD); }

AVX2 void avx2_shift(uint64_t *out, const uint64_t *x, size_t len, unsigned k, uint64_t plus)
{
    __m256i p = _mm256_set1_epi64x((long long)plus);
    __m128i by = _mm_cvtsi32_si128((int)k);
    size_t i = 0;
    for (; i + 4 <= len; i += 4) store4(out + i, _mm256_srl_epi64(_mm256_add_epi64(load4(x + i), p), by));
    if (i == len) return;
    __m256i m = lanes4(len - i);
    store_some(out + i, m, _mm256_srl_epi64(_mm256_add_epi64(load_some(x + i, m), p), by));
}

/* Two neighbours of at most 32 bits make one word of 2 n bits: half as many words are left for the rest of the way. */
AVX2 static void pack_pairs(uint64_t *out, const uint64_t *x, size_t len, unsigned n)
{
    __m256i low = _mm256_set1_epi64x((long long)ring_low(~UINT64_C(0), n));
    __m128i by = _mm_cvtsi32_si128((int)n);
    for (size_t i = 0; i < len; i += 8) {
        __m256i a = _mm256_and_si256(load4(x + i), low), b = _mm256_and_si256(load4(x + i + 4), low);
        __m256i pairs = _mm256_or_si256(_mm256_unpacklo_epi64(a, b), _mm256_sll_epi64(_mm256_unpackhi_epi64(a, b), by));
        store4(out + i / 2, _mm256_permute4x64_epi64(pairs, 0xD8));            // in the order of a, then b
    }
}

void avx2_pack(uint8_t *out, const uint64_t *x, size_t len, unsigned n)
{
    enum { BATCH = 128 };                      // words: whole bytes, whatever n is, and at every halving
    uint64_t pairs[BATCH / 2];
    for (; n <= 32 && len >= BATCH; x += BATCH, len -= BATCH, out += BATCH / 8 * n) {
        size_t count = BATCH / 2;
        unsigned width = 2 * n;
        for (pack_pairs(pairs, x, BATCH, n); width <= 32 && count > 8; count /= 2, width *= 2) pack_pairs(pairs, pairs, count, width);
        portable_pack(out, pairs, count, width);
    }
    portable_pack(out, x, len, n);
    wipe(pairs, sizeof pairs);
}

/* Eight bytes from here and eight from there. */
AVX2_INLINE __m128i load_two(const uint8_t *first, const uint8_t *second)
{
    __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)first);
    return _mm_unpacklo_epi64(low, _mm_loadl_epi64((const __m128i *)(const void *)second));
}

/* Four words at bits 0, n, 2 n, 3 n of `in`, of at most 57 bits: each lies within eight bytes. */
AVX2 static size_t unpack_fours(uint64_t *x, const uint8_t *in, size_t len, size_t size, unsigned n)
{
    __m256i low = _mm256_set1_epi64x((long long)ring_low(~UINT64_C(0), n)), seven = _mm256_set1_epi64x(7);
    __m256i bit = _mm256_set_epi64x(3 * (int)n, 2 * (int)n, (int)n, 0), ahead = _mm256_set1_epi64x(4 * (int)n);
    size_t i = 0, at = 0;
    for (; i + 4 <= len && (at + 3 * n) / 8 + 8 <= size; i += 4, at += 4 * n) {
        __m256i v = _mm256_set_m128i(load_two(in + (at + 2 * n) / 8, in + (at + 3 * n) / 8), load_two(in + at / 8, in + (at + n) / 8));
        store4(x + i, _mm256_and_si256(_mm256_srlv_epi64(v, _mm256_and_si256(bit, seven)), low));
        bit = _mm256_add_epi64(bit, ahead);
    }
    return i;
}

void avx2_unpack(uint64_t *x, const uint8_t *in, size_t len, unsigned n)
{
    size_t done = n <= 57 ? unpack_fours(x, in, len, ring_packed_size(len, n), n) / 8 * 8 : 0;         // whole bytes
    portable_unpack(x + done, in + done / 8 * n, len - done, n);
}
#endif
