/* limbs_avx512.c - shares to limbs and back, by permutations of bytes and transpositions of sixteen rows. */
#ifdef __x86_64__
#include "num/limbs.h"

/* v[i] lane j <-> v[j] lane i, lanes of 32 bits. */
AVX512_INLINE void transpose16(__m512i v[16])
{
    __m512i t[16];
    UNROLL for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    UNROLL for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]), v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]), v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 16; i += 8)
        UNROLL for (int j = i; j < i + 4; j++)
            t[j] = _mm512_shuffle_i32x4(v[j], v[j + 4], 0x88), t[j + 4] = _mm512_shuffle_i32x4(v[j], v[j + 4], 0xDD);
    UNROLL for (int j = 0; j < 8; j++)
        v[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88), v[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xDD);
}

/* Where byte b of lane 2 limb + half comes from, within a vector of words; the bytes that there are. */
static uint64_t limbs_index(uint8_t index[64], unsigned bytes)
{
    uint64_t used = 0;
    for (unsigned i = 0; i < 64; i++) {
        unsigned limb = i / 8, half = i / 4 % 2, b = i % 4, high = bytes == 2 ? b % 2 : 0;     // of the weight's two bytes
        unsigned word = bytes == 1 ? 4 * half + b : 2 * half + b / 2;
        bool there = limb >= high;
        index[i] = there ? (uint8_t)(8 * word + limb - high) : 0;
        used |= (uint64_t)there << i;
    }
    return used;
}

/* Two groups of 4 bytes of k, for up to 16 columns, which may reach into the next tile. */
AVX512_INLINE void columns_store(const Limbs *l, size_t group, size_t column, __mmask16 there, const __m512i v[2])
{
    size_t lane = column % 16, size = 16 * l->stretch;
    uint8_t *to = l->at + column / 16 * size + 64 * group + 4 * lane;
    __mmask16 here = (__mmask16)(there & 0xFFFF >> lane), next = (__mmask16)(there & ~(0xFFFF >> lane));
    _mm512_mask_storeu_epi32(to, here, v[0]);
    _mm512_mask_storeu_epi32(to + 64, here, v[1]);
    if (!next) return;
    _mm512_mask_storeu_epi32(to + size - 64, next, v[0]);
    _mm512_mask_storeu_epi32(to + size, next, v[1]);
}

AVX512 void limbs_make(const Limbs *l, const uint64_t *x, size_t ldx, size_t rows, size_t len, unsigned bytes, unsigned count)
{
    uint8_t bytes_from[64];
    __mmask64 used = limbs_index(bytes_from, bytes);
    __m512i from = _mm512_loadu_si512(bytes_from), v[16];
    size_t step = 8 / bytes, padded = (len * bytes + 63) / 64 * 64 / bytes;
    for (size_t row = 0; row < rows; row += 16) {
        size_t height = rows - row < 16 ? rows - row : 16;
        __mmask16 there = (__mmask16)((1u << height) - 1);
        for (size_t i = 0; i < padded; i += step) {
            __mmask8 m = i < len ? lanes(len - i < step ? len - i : step) : 0;
            const uint64_t *at = x + row * ldx + (m ? i : 0);
            UNROLL for (size_t r = 0; r < 16; r++)
                v[r] = r >= height ? _mm512_setzero_si512() :
                    _mm512_maskz_permutexvar_epi8(used, from, _mm512_maskz_loadu_epi64(m, at + r * ldx));
            transpose16(v);
            for (unsigned limb = 0; limb < count; limb++) columns_store(l, i * bytes / 4, limb * rows + row, there, v + 2 * limb);
        }
    }
    size_t columns = rows * count;
    if (columns == l->columns) return;
    const __m512i zero[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t g = 0; g < padded * bytes / 4; g += 2)
        columns_store(l, g, columns, (__mmask16)((1u << (l->columns - columns)) - 1), zero);
}

AVX512_INLINE void combine(uint64_t *out, size_t ldo, size_t valid, bool add, const LimbSums *s, bool is_signed)
{
    __mmask8 m = lanes(valid);
    for (size_t row = 0; row < s->rows; row += 8) {
        __mmask8 there = lanes(s->rows - row);
        __m512i v[8], plus = s->plus ? _mm512_maskz_loadu_epi64(there, s->plus + row) : _mm512_setzero_si512();
        UNROLL for (size_t j = 0; j < 8; j++) {
            const int32_t *sum = s->sum + j * s->columns + row;
            v[j] = _mm512_setzero_si512();
            for (unsigned limb = s->count; limb-- > 0;) {
                __m256i lane = _mm256_maskz_loadu_epi32(there, sum + limb * s->rows);
                v[j] = _mm512_add_epi64(_mm512_slli_epi64(v[j], 8), is_signed ? _mm512_cvtepi32_epi64(lane) : _mm512_cvtepu32_epi64(lane));
            }
            v[j] = _mm512_add_epi64(v[j], plus);
        }
        transpose8(v);
        UNROLL for (size_t r = 0; r < 8; r++) {
            if (row + r >= s->rows) break;
            uint64_t *o = out + (row + r) * ldo;
            if (add) v[r] = _mm512_add_epi64(v[r], _mm512_maskz_loadu_epi64(m, o));
            _mm512_mask_storeu_epi64(o, m, v[r]);
        }
    }
}

AVX512 void limbs_combine(uint64_t *out, size_t ldo, size_t valid, bool add, const LimbSums *s)
{
    if (s->is_signed) combine(out, ldo, valid, add, s, true);
    else combine(out, ldo, valid, add, s, false);
}

AVX512 void limbs_panel(uint8_t *to, size_t stride, const uint8_t *w, size_t pitch, size_t rows, size_t valid, size_t size, unsigned bytes)
{
    __m512i flip = _mm512_set1_epi16(bytes == 2 ? FLIP : 0);
    for (size_t j = 0; j < rows; j++)
        for (size_t i = 0; i < size; i += 64) {
            __m512i v = _mm512_setzero_si512();
            const uint8_t *from = w + j * pitch + i;
            if (j < valid && size - i >= 64) v = _mm512_xor_si512(flip, _mm512_loadu_si512(from));
            else if (j < valid) v = _mm512_xor_si512(flip, _mm512_maskz_loadu_epi8(bytes64(size - i), from));
            _mm512_storeu_si512(to + j * stride + i, v);
        }
}
#endif
