/* narrow_avx2.c - narrow words on processors without AVX-512: eight words of up to 8 bits, or four of up to 16, are spread out
 * from the packed form, or drawn together, by one instruction of BMI2, whose mask is public. */
#ifdef __x86_64__
#include <string.h>
#include "num/avx2.h"

/* Bits below n of each word in a register. */
static uint64_t words_low(unsigned n)
{
    return n <= 8 ? ring_low(~UINT64_C(0), n) * 0x0101010101010101u : ring_low(~UINT64_C(0), n) * 0x0001000100010001u;
}

AVX2 void avx2_narrow_unpack(void *words, const uint8_t *in, size_t len, unsigned n)
{
    size_t each = n <= 8 ? 8 : 4, i = 0, size = ring_packed_size(len, n);
    uint8_t *out = words;
    if (n <= 16)
        for (size_t bit = 0; i + each <= len && bit / 8 + 9 <= size; i += each, bit += each * n, out += 8) {
            uint64_t v, x;
            memcpy(&v, in + bit / 8, 8);
            v = v >> bit % 8 | (uint64_t)in[bit / 8 + 8] << 1 << (63 - bit % 8);
            x = _pdep_u64(v, words_low(n));
            memcpy(out, &x, 8);
        }
    i = i / 8 * 8;                             // whole bytes of the packed form
    portable_narrow_unpack((uint8_t *)words + i * narrow_bytes(n), in + i / 8 * n, len - i, n);
}

AVX2 void avx2_narrow_pack(uint8_t *out, const void *words, size_t len, unsigned n)
{
    size_t i = 0, room = ring_packed_size(len, n);
    const uint8_t *in = words;
    for (; n <= 16 && i + 8 <= len && i / 8 * n + 16 <= room; i += 8, in += 8 * narrow_bytes(n)) {
        uint64_t x, y = 0;                     // eight words are n bytes; what is too much is overwritten by the next
        memcpy(&x, in, 8);
        x = _pext_u64(x, words_low(n));
        if (n > 8) {
            memcpy(&y, in + 8, 8);
            y = _pext_u64(y, words_low(n));
            if (n < 16) x |= y << 4 * n, y >>= 64 - 4 * n;     // n 16: the two are whole
        }
        memcpy(out + i / 8 * n, &x, 8);
        memcpy(out + i / 8 * n + 8, &y, 8);
    }
    portable_narrow_pack(out + i / 8 * n, (const uint8_t *)words + i * narrow_bytes(n), len - i, n);
}

/* to += from, size bytes of words of 1 or 2 bytes. */
AVX2_INLINE void words_add(uint8_t *to, const uint8_t *from, size_t size, unsigned bytes)
{
    size_t i = 0;
    for (; i + 32 <= size; i += 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(to + i));
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(from + i));
        _mm256_storeu_si256((__m256i *)(void *)(to + i), bytes == 1 ? _mm256_add_epi8(a, b) : _mm256_add_epi16(a, b));
    }
    for (; bytes == 1 && i < size; i++) to[i] = (uint8_t)(to[i] + from[i]);
    for (; i < size; i += 2) {
        uint16_t a, b;
        memcpy(&a, to + i, 2), memcpy(&b, from + i, 2);
        a = (uint16_t)(a + b);
        memcpy(to + i, &a, 2);
    }
}

AVX2_INLINE void turned_add(uint8_t *sum, const uint8_t *rows, const uint64_t *turn, size_t count, size_t cells, unsigned bytes)
{
    size_t size = cells * bytes;
    for (size_t i = 0; i < count; i++, rows += size) {
        size_t at = (size_t)turn[i] * bytes;
        words_add(sum, rows + at, size - at, bytes);
        words_add(sum + size - at, rows, at, bytes);
    }
}

AVX2 void avx2_narrow_turned(void *sum, const void *rows, const uint64_t *turn, size_t count, size_t cells, unsigned n)
{
    if (n <= 8) turned_add(sum, rows, turn, count, cells, 1);
    else if (n <= 16) turned_add(sum, rows, turn, count, cells, 2);
    else portable_narrow_turned(sum, rows, turn, count, cells, n);
}

/* A lane of 64 bits at a time: the one that holds the point is found by comparing lanes. */
AVX2_INLINE void onehot_minus(uint8_t *words, const uint64_t *point, size_t count, size_t size, unsigned bytes)
{
    unsigned each = 8 / bytes;
    for (size_t i = 0; i < count; i++) {
        __m256i one = _mm256_set1_epi64x((long long)(UINT64_C(1) << (point[i] % each * 8 * bytes)));
        __m256i where = _mm256_set1_epi64x((long long)(point[i] / each)), lane = _mm256_set_epi64x(3, 2, 1, 0);
        for (size_t at = 0; at < size; at += 32, words += 32, lane = _mm256_add_epi64(lane, _mm256_set1_epi64x(4))) {
            __m256i hit = _mm256_and_si256(_mm256_cmpeq_epi64(lane, where), one);
            __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)words);
            _mm256_storeu_si256((__m256i *)(void *)words, bytes == 1 ? _mm256_sub_epi8(hit, v) : _mm256_sub_epi16(hit, v));
        }
    }
}

AVX2 void avx2_narrow_onehot(void *words, const uint64_t *point, size_t count, size_t cells, unsigned n)
{
    size_t size = cells * narrow_bytes(n);
    if (size % 32 || n > 16) portable_narrow_onehot(words, point, count, cells, n);
    else if (n <= 8) onehot_minus(words, point, count, size, 1);
    else onehot_minus(words, point, count, size, 2);
}
#endif
