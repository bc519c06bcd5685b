/* pack_avx512.c - packing by byte permutations (VBMI).
 *
 * From 8 bits a word on, eight words make exactly n bytes, a byte comes from at most two words, and each word is shifted
 * by less than 8 bits to where it lies within its bytes. So packing is a shift and two permutations, unpacking a
 * permutation and a shift; a word of more than 57 bits may reach into a ninth byte, which takes a permutation more.
 * Below 8 bits, 64 words become bytes first and are then joined two and two; they make 8 n bytes.
 *
 * The permutations depend on n alone and are kept for every n: num_init calls avx512_prepare. */
#ifdef __x86_64__
#include "num/avx512.h"

typedef struct {
    uint8_t first[64], second[64];             // packing: the byte that begins in byte j, and where another one ends in it
    uint64_t two;                              // the bytes j that have a second
    uint8_t from[64];                          // unpacking: the bytes of each word, or of eight words
    uint8_t shift[64];                         // of each word, as 64-bit lanes; of each byte, where n < 8
} Layout;

static Layout layouts[65];

static void layout_small(Layout *l, unsigned n)
{
    for (unsigned i = 0; i < 64; i++) {
        unsigned lane = i / 8, byte = i % 8;   // a lane holds eight words of n bits, n bytes
        l->from[i] = (uint8_t)(lane * n + (byte < n ? byte : 0));
        l->shift[i] = (uint8_t)(byte * n);
        l->first[i] = (uint8_t)(i / n * 8 + i % n);                // beyond 8 n bytes: not stored
    }
}

static void layout_large(Layout *l, unsigned n)
{
    for (unsigned j = 0; j < n; j++) {
        unsigned begins = 8 * j / n, ends = (8 * j + 7) / n, at = j - begins * n / 8;
        l->first[j] = (uint8_t)(at == 8 ? 64 + begins * 8 : begins * 8 + at);          // 64: the vector of ninth bytes
        l->second[j] = (uint8_t)(ends * 8 + (j - ends * n / 8));
        if (begins != ends) l->two |= UINT64_C(1) << j;
    }
    for (unsigned i = 0; i < 64; i++) {
        l->from[i] = (uint8_t)(i / 8 * n / 8 + i % 8);
        l->shift[i] = (uint8_t)(i % 8 == 0 ? i / 8 * n % 8 : 0);
    }
}

void avx512_prepare(void)
{
    for (unsigned n = 1; n <= 64; n++) {
        layouts[n] = (Layout){.two = 0};
        if (n < 8) layout_small(&layouts[n], n);
        else layout_large(&layouts[n], n);
    }
}

/* Where there is room, whole vectors are stored: what is too much is overwritten by the next. */
AVX512_INLINE void store_bytes(uint8_t *out, __m512i v, size_t count, size_t room)
{
    if (room >= 64) _mm512_storeu_si512(out, v);
    else _mm512_mask_storeu_epi8(out, bytes64(count), v);
}

AVX512_INLINE __m512i load_bytes(const uint8_t *in, size_t left)
{
    return left >= 64 ? _mm512_loadu_si512(in) : _mm512_maskz_loadu_epi8(bytes64(left), in);
}

/* 64 words to 64 bytes; what is missing is zero. */
AVX512_INLINE __m512i narrow64(const uint64_t *x, size_t left)
{
    __m128i part[8];
    UNROLL for (size_t i = 0; i < 8; i++) {
        size_t rest = left > 8 * i ? left - 8 * i : 0;
        part[i] = _mm512_cvtepi64_epi8(_mm512_maskz_loadu_epi64(lanes(rest), rest ? x + 8 * i : x));
    }
    __m512i v = _mm512_castsi128_si512(_mm_unpacklo_epi64(part[0], part[1]));
    v = _mm512_inserti32x4(v, _mm_unpacklo_epi64(part[2], part[3]), 1);
    v = _mm512_inserti32x4(v, _mm_unpacklo_epi64(part[4], part[5]), 2);
    return _mm512_inserti32x4(v, _mm_unpacklo_epi64(part[6], part[7]), 3);
}

AVX512 static void pack_small(uint8_t *out, const uint64_t *x, size_t len, unsigned n)
{
    const Layout *l = &layouts[n];
    size_t room = ring_packed_size(len, n);
    __m512i low = _mm512_set1_epi8((char)((1 << n) - 1)), first = _mm512_loadu_si512(l->first);
    __m512i by1 = _mm512_set1_epi16((short)(1 | 1 << (8 + n))), by2 = _mm512_set1_epi32(1 | 1 << (16 + 2 * n));
    __m512i low32 = _mm512_set1_epi64(0xFFFFFFFF);
    for (size_t i = 0; i < len; i += 64) {
        __m512i v = _mm512_and_si512(narrow64(x + i, len - i), low);
        v = _mm512_maddubs_epi16(by1, v);      // a + 2^n b in 16 bits: by1 is the unsigned one, since 2^7 has no sign to spare
        v = _mm512_madd_epi16(v, by2);         // and so on in 32
        v = _mm512_or_si512(_mm512_and_si512(v, low32), _mm512_slli_epi64(_mm512_srli_epi64(v, 32), 4 * n));
        store_bytes(out, _mm512_permutexvar_epi8(first, v), room < 8 * n ? room : 8 * n, room);
        out += 8 * n, room -= room < 8 * n ? room : 8 * n;
    }
}

AVX512 static void unpack_small(uint64_t *x, const uint8_t *in, size_t len, unsigned n)
{
    const Layout *l = &layouts[n];
    size_t left = ring_packed_size(len, n);
    __m512i low = _mm512_set1_epi8((char)((1 << n) - 1)), from = _mm512_loadu_si512(l->from), shift = _mm512_loadu_si512(l->shift);
    __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    for (size_t i = 0; i < len; i += 64) {
        __m512i v = _mm512_permutexvar_epi8(from, load_bytes(in, left));
        v = _mm512_and_si512(_mm512_multishift_epi64_epi8(shift, v), low);
        UNROLL for (size_t g = 0; g < 8; g++) {
            if (i + 8 * g >= len) return;
            __m512i index = _mm512_add_epi64(lane, _mm512_set1_epi64((long long)(8 * g)));
            __m512i words = _mm512_maskz_permutexvar_epi8(0x0101010101010101, index, v);
            _mm512_mask_storeu_epi64(x + i + 8 * g, lanes(len - i - 8 * g), words);
        }
        in += 8 * n, left -= left < 8 * n ? left : 8 * n;
    }
}

/* `nine`, a constant wherever this is inlined: n > 57. */
AVX512_INLINE void pack_large(uint8_t *out, const uint64_t *x, size_t len, unsigned n, bool nine)
{
    const Layout *l = &layouts[n];
    size_t room = ring_packed_size(len, n);
    __m512i first = _mm512_loadu_si512(l->first), second = _mm512_loadu_si512(l->second), shift = _mm512_loadu_si512(l->shift);
    __m512i rest = _mm512_sub_epi64(_mm512_set1_epi64(64), shift), low = _mm512_set1_epi64((long long)ring_low(~UINT64_C(0), n));
    for (size_t i = 0; i < len; i += 8) {
        size_t left = len - i;
        __m512i v = left >= 8 ? _mm512_loadu_si512(x + i) : _mm512_maskz_loadu_epi64(lanes(left), x + i);
        v = _mm512_and_si512(v, low);
        __m512i w = _mm512_sllv_epi64(v, shift), a;
        if (nine) a = _mm512_permutex2var_epi8(w, first, _mm512_srlv_epi64(v, rest));
        else a = _mm512_permutexvar_epi8(first, w);
        a = _mm512_or_si512(a, _mm512_maskz_permutexvar_epi8(l->two, second, w));
        store_bytes(out, a, room < n ? room : n, room);
        out += n, room -= room < n ? room : n;
    }
}

AVX512_INLINE void unpack_large(uint64_t *x, const uint8_t *in, size_t len, unsigned n, bool nine)
{
    const Layout *l = &layouts[n];
    size_t left = ring_packed_size(len, n);
    __m512i from = _mm512_loadu_si512(l->from), shift = _mm512_loadu_si512(l->shift);
    __m512i ninth = _mm512_add_epi8(from, _mm512_set1_epi8(1));    // at each word's byte 7
    __m512i rest = _mm512_sub_epi64(_mm512_set1_epi64(8), shift), low = _mm512_set1_epi64((long long)ring_low(~UINT64_C(0), n));
    for (size_t i = 0; i < len; i += 8) {
        __m512i bytes = load_bytes(in, left), v = _mm512_srlv_epi64(_mm512_permutexvar_epi8(from, bytes), shift);
        if (nine) v = _mm512_or_si512(v, _mm512_sllv_epi64(_mm512_maskz_permutexvar_epi8(0x8080808080808080, ninth, bytes), rest));
        v = _mm512_and_si512(v, low);
        if (len - i >= 8) _mm512_storeu_si512(x + i, v);
        else _mm512_mask_storeu_epi64(x + i, lanes(len - i), v);
        in += n, left -= left < n ? left : n;
    }
}

AVX512 void avx512_pack(uint8_t *out, const uint64_t *x, size_t len, unsigned n)
{
    if (n < 8) pack_small(out, x, len, n);
    else if (n <= 57) pack_large(out, x, len, n, false);
    else pack_large(out, x, len, n, true);
}

AVX512 void avx512_unpack(uint64_t *x, const uint8_t *in, size_t len, unsigned n)
{
    if (n < 8) unpack_small(x, in, len, n);
    else if (n <= 57) unpack_large(x, in, len, n, false);
    else unpack_large(x, in, len, n, true);
}
#endif
