/* narrow_avx512.c - narrow words by byte permutations (VBMI), a register of bytes or of 16-bit words at a time.
 *
 * Eight words of up to 8 bits, or four of up to 16, are a lane of 64 bits: 8 n or 4 n of these are used, and lanes follow each
 * other in the packed form, which may be half a byte apart. Words of more than 16 bits, which a row of 2^16 scores would
 * need, are left to the portable code. */
#ifdef __x86_64__
#include "num/avx512.h"

typedef struct Lanes {
    uint8_t first[64], second[64];             // packing: the byte that begins in byte j, and where the next lane's begins in it
    uint64_t two;                              // the bytes j that have a second
    uint8_t from[64], shift[64];               // unpacking: the bytes of a lane; where in it each byte of the words begins
    uint64_t half[8];                          // 4 bits, where a lane begins in the middle of a byte
} Lanes;

static Lanes lanes_of[17];

void avx512_prepare_narrow(void)
{
    for (unsigned n = 1; n <= 16; n++) {
        Lanes *l = &lanes_of[n];
        unsigned used = n <= 8 ? 8 * n : 4 * n, bytes = narrow_bytes(n);
        *l = (Lanes){.two = 0};
        for (unsigned j = 0; j < used; j++) {
            unsigned begins = 8 * j / used, ends = (8 * j + 7) / used;
            l->first[j] = (uint8_t)(begins * 8 + j - begins * used / 8);
            l->second[j] = (uint8_t)(ends * 8 + j - ends * used / 8);
            if (begins != ends) l->two |= UINT64_C(1) << j;
        }
        for (unsigned i = 0; i < 64; i++) {
            unsigned lane = i / 8, byte = i % 8, begin = lane * used;
            l->from[i] = (uint8_t)((begin / 8 + byte) % 64);
            l->shift[i] = (uint8_t)(begin % 8 + byte / bytes * n + byte % bytes * 8);
            l->half[lane] = begin % 8;
        }
    }
}

/* Bits below n of every word. */
AVX512_INLINE __m512i low_bits(unsigned n)
{
    return n <= 8 ? _mm512_set1_epi8((char)((1 << n) - 1)) : _mm512_set1_epi16((short)((1 << n) - 1));
}

AVX512 void avx512_narrow_unpack(void *words, const uint8_t *in, size_t len, unsigned n)
{
    if (n > 16) {
        portable_narrow_unpack(words, in, len, n);
        return;
    }
    const Lanes *l = &lanes_of[n];
    size_t bytes = narrow_bytes(n), size = len * bytes, left = ring_packed_size(len, n), step = n * 8 / bytes;
    __m512i from = _mm512_loadu_si512(l->from), shift = _mm512_loadu_si512(l->shift), low = low_bits(n);
    for (uint8_t *out = words; size; out += 64, in += step) {
        __m512i v = left >= 64 ? _mm512_loadu_si512(in) : _mm512_maskz_loadu_epi8(bytes64(left), in);
        v = _mm512_and_si512(_mm512_multishift_epi64_epi8(shift, _mm512_permutexvar_epi8(from, v)), low);
        if (size < 64) {
            _mm512_mask_storeu_epi8(out, bytes64(size), v);
            return;
        }
        _mm512_storeu_si512(out, v);
        size -= 64, left -= left < step ? left : step;
    }
}

/* A lane's words side by side. */
AVX512_INLINE __m512i lane_join(__m512i v, unsigned n)
{
    __m512i low32 = _mm512_set1_epi64(0xFFFFFFFF);
    unsigned pair = 2 * n;
    if (n <= 8) {
        __m512i high = _mm512_sllv_epi16(_mm512_srli_epi16(v, 8), _mm512_set1_epi16((short)n));
        v = _mm512_or_si512(_mm512_and_si512(v, _mm512_set1_epi16(0xFF)), high);
        v = _mm512_or_si512(_mm512_and_si512(v, _mm512_set1_epi32(0xFFFF)), _mm512_slli_epi32(_mm512_srli_epi32(v, 16), 2 * n));
        pair = 4 * n;
    } else v = _mm512_or_si512(_mm512_and_si512(v, _mm512_set1_epi32(0xFFFF)), _mm512_slli_epi32(_mm512_srli_epi32(v, 16), n));
    return _mm512_or_si512(_mm512_and_si512(v, low32), _mm512_slli_epi64(_mm512_srli_epi64(v, 32), pair));
}

AVX512 void avx512_narrow_pack(uint8_t *out, const void *words, size_t len, unsigned n)
{
    if (n > 16) {
        portable_narrow_pack(out, words, len, n);
        return;
    }
    const Lanes *l = &lanes_of[n];
    size_t bytes = narrow_bytes(n), size = len * bytes, room = ring_packed_size(len, n), step = n * 8 / bytes;
    __m512i first = _mm512_loadu_si512(l->first), second = _mm512_loadu_si512(l->second), half = _mm512_loadu_si512(l->half);
    __m512i low = low_bits(n);
    for (const uint8_t *in = words; room; in += 64, out += step) {
        __m512i v = size >= 64 ? _mm512_loadu_si512(in) : _mm512_maskz_loadu_epi8(bytes64(size), in);
        v = _mm512_sllv_epi64(lane_join(_mm512_and_si512(v, low), n), half);
        v = _mm512_or_si512(_mm512_permutexvar_epi8(first, v), _mm512_maskz_permutexvar_epi8(l->two, second, v));
        size_t now = room < step ? room : step;
        if (room >= 64) _mm512_storeu_si512(out, v);           // what is too much is overwritten by the next
        else _mm512_mask_storeu_epi8(out, bytes64(now), v);
        size -= size < 64 ? size : 64, room -= now;
    }
}

/* Words at .. of a row from `from` on, `from` public: within one vector (row of at most 64 bytes), or across two. */
AVX512_INLINE __m512i turned(const uint8_t *row, size_t size, size_t from, unsigned bytes, __m512i lane, size_t cells)
{
    __m512i by = bytes == 1 ? _mm512_set1_epi8((char)(from % 64)) : _mm512_set1_epi16((short)(from % 32));
    __m512i at = bytes == 1 ? _mm512_add_epi8(lane, by) : _mm512_add_epi16(lane, by);
    if (size <= 64) {
        __m512i v = _mm512_maskz_loadu_epi8(bytes64(size), row);
        at = _mm512_and_si512(at, bytes == 1 ? _mm512_set1_epi8((char)(cells - 1)) : _mm512_set1_epi16((short)(cells - 1)));
        return bytes == 1 ? _mm512_permutexvar_epi8(at, v) : _mm512_permutexvar_epi16(at, v);
    }
    size_t block = from * bytes / 64, next = (block + 1) & (size / 64 - 1);
    __m512i v = _mm512_loadu_si512(row + 64 * block), w = _mm512_loadu_si512(row + 64 * next);
    return bytes == 1 ? _mm512_permutex2var_epi8(v, at, w) : _mm512_permutex2var_epi16(v, at, w);
}

AVX512_INLINE void turned_add(uint8_t *sum, const uint8_t *rows, const uint64_t *turn, size_t count, size_t cells, unsigned bytes)
{
    uint8_t number[64];
    for (unsigned i = 0; i < 64; i++) number[i] = (uint8_t)(bytes == 1 ? i : i % 2 ? 0 : i / 2);
    __m512i lane = _mm512_loadu_si512(number);
    size_t size = cells * bytes;
    for (size_t at = 0; at < size; at += 64) {
        __mmask64 whole = bytes64(size - at);
        __m512i v = _mm512_maskz_loadu_epi8(whole, sum + at);
        for (size_t i = 0; i < count; i++) {
            __m512i w = turned(rows + i * size, size, (at / bytes + (size_t)turn[i]) & (cells - 1), bytes, lane, cells);
            v = bytes == 1 ? _mm512_add_epi8(v, w) : _mm512_add_epi16(v, w);
        }
        _mm512_mask_storeu_epi8(sum + at, whole, v);
    }
}

AVX512 void avx512_narrow_turned(void *sum, const void *rows, const uint64_t *turn, size_t count, size_t cells, unsigned n)
{
    if (n <= 8) turned_add(sum, rows, turn, count, cells, 1);
    else if (n <= 16) turned_add(sum, rows, turn, count, cells, 2);
    else portable_narrow_turned(sum, rows, turn, count, cells, n);
}

AVX512_INLINE void onehot_minus(uint8_t *words, const uint64_t *point, size_t count, size_t cells, unsigned bytes)
{
    size_t size = cells * bytes;
    for (size_t i = 0; i < count; i++, words += size) {
        uint64_t each = 64 / bytes, one = UINT64_C(1) << (point[i] & (each - 1)), where = point[i] / each;
        for (size_t at = 0; at < size; at += 64) {
            __mmask64 whole = bytes64(size - at);
            uint64_t hit = one & -(uint64_t)(at / 64 == where);
            __m512i v = _mm512_maskz_loadu_epi8(whole, words + at);
            if (bytes == 1) v = _mm512_sub_epi8(_mm512_maskz_set1_epi8(hit, 1), v);
            else v = _mm512_sub_epi16(_mm512_maskz_set1_epi16((__mmask32)hit, 1), v);
            _mm512_mask_storeu_epi8(words + at, whole, v);
        }
    }
}

AVX512 void avx512_narrow_onehot(void *words, const uint64_t *point, size_t count, size_t cells, unsigned n)
{
    if (n <= 8) onehot_minus(words, point, count, cells, 1);
    else if (n <= 16) onehot_minus(words, point, count, cells, 2);
    else portable_narrow_onehot(words, point, count, cells, n);
}
#endif
