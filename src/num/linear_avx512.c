/* linear_avx512.c - products with small weights, in tiles of columns by rows that stay in registers.
 *
 * Small weights: the dot product instructions (VNNI) multiply bytes or 16-bit words and add up in 32 bits, so the shares
 * are split into eight byte limbs. One vector holds all limbs of a few consecutive words of a row of x: its 32-bit lane
 * 2 l + h holds limb l of the h-th half of them. The weights of these words are 8 bytes, read as they lie and broadcast.
 * At the end lane 2 l + h counts 2^(8 l) times: no weight is ever moved or widened.
 *
 *     int8:  8 words a vector, 4 products a lane of at most 255 * 128; 512 words add up to less than 2^23.
 *     int16: 4 words a vector, 2 products a lane of at most 255 * 2^15; 512 words add up to at most 256 * 255 * 2^15 < 2^31.
 *
 * Hence the stretches of 512. */
#ifdef __x86_64__
#include "num/avx512.h"

#include <string.h>

enum { STRETCH = 512, ROWS = 4, COLUMNS = 8 }; // words of k at a time; the largest tile is 4 rows by 4 or 2 by 8

/* Writes or adds a tile of sums, sum[r * columns + j], of which `valid` columns exist. */
AVX512_INLINE void tile_store(uint64_t *out, size_t ldo, const uint64_t *sum, int rows, int columns, size_t valid, bool add)
{
    __mmask8 m = lanes(valid < (size_t)columns ? valid : (size_t)columns);
    UNROLL for (int r = 0; r < rows; r++) {
        uint64_t *o = out + (size_t)r * ldo;
        __m512i v = _mm512_maskz_loadu_epi64(m, sum + r * columns);
        _mm512_mask_storeu_epi64(o, m, add ? _mm512_add_epi64(v, _mm512_maskz_loadu_epi64(m, o)) : v);
    }
}

/* The limbs of `len` words of x, 8 / bytes words a vector; the last vector is filled with zeros. Lane l of 64 bits takes
 * byte l of each word; 16-bit words have a zero byte above. */
AVX512_INLINE void limbs_make(__m512i *limbs, const uint64_t *x, size_t len, unsigned bytes)
{
    __m512i index = _mm512_set_epi64(0x0707070707070707, 0x0606060606060606, 0x0505050505050505, 0x0404040404040404,
                                     0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    index = _mm512_add_epi64(index, _mm512_set1_epi64(bytes == 1 ? 0x3830282018100800 : 0x1818101008080000));
    __mmask64 used = bytes == 1 ? ~UINT64_C(0) : 0x5555555555555555;
    size_t step = 8 / bytes;
    for (size_t i = 0; i < len; i += step) {
        __mmask8 m = lanes(len - i < step ? len - i : step);
        *limbs++ = _mm512_maskz_permutexvar_epi8(used, index, _mm512_maskz_loadu_epi64(m, x + i));
    }
}

AVX512_INLINE __m512i limbs_dot(__m512i sum, __m512i x, __m512i w, unsigned bytes)
{
    return bytes == 1 ? _mm512_dpbusd_epi32(sum, x, w) : _mm512_dpwssd_epi32(sum, x, w);
}

/* sum[r * columns + j] = x row r . W row j over one stretch; `size`: its weights' bytes a row. */
AVX512_INLINE void linear_tile(uint64_t *sum, const __m512i *x, const uint8_t *const *w, size_t size, unsigned bytes, int rows, int columns)
{
    const size_t stride = STRETCH / 8 * bytes;                     // vectors a row of x
    __m512i acc[16];
    UNROLL for (int i = 0; i < rows * columns; i++) acc[i] = _mm512_setzero_si512();
    for (size_t s = 0; s < size / 8; s++)
        UNROLL for (int j = 0; j < columns; j++) {
            long long v;
            memcpy(&v, w[j] + 8 * s, 8);
            __m512i wide = _mm512_set1_epi64(v);
            UNROLL for (int r = 0; r < rows; r++)
                acc[r * columns + j] = limbs_dot(acc[r * columns + j], x[(size_t)r * stride + s], wide, bytes);
        }
    if (size % 8)
        UNROLL for (int j = 0; j < columns; j++) {
            __m512i wide = _mm512_broadcastq_epi64(_mm_maskz_loadu_epi8((__mmask16)((1u << size % 8) - 1), w[j] + size / 8 * 8));
            UNROLL for (int r = 0; r < rows; r++)
                acc[r * columns + j] = limbs_dot(acc[r * columns + j], x[(size_t)r * stride + size / 8], wide, bytes);
        }
    const __m512i place = _mm512_set_epi64(56, 48, 40, 32, 24, 16, 8, 0);
    UNROLL for (int i = 0; i < rows * columns; i++) {
        __m512i even = _mm512_srai_epi64(_mm512_slli_epi64(acc[i], 32), 32), odd = _mm512_srai_epi64(acc[i], 32);
        acc[i] = _mm512_sllv_epi64(_mm512_add_epi64(even, odd), place);
    }
    UNROLL for (int i = 0; i < rows * columns; i += 8) _mm512_storeu_si512(sum + i, sums8(acc + i));
}

/* One stretch of k, from word `at`, for `rows` rows of x from `row` on, whose limbs are given. */
AVX512_INLINE void linear_rows(const Linear *p, size_t begin, size_t end, size_t at, size_t row, const __m512i *x,
                               unsigned bytes, int rows, int columns)
{
    size_t len = p->k - at < STRETCH ? p->k - at : STRETCH;
    uint64_t sum[16 + 8];                      // tile_store may load past a row of four
    for (size_t j = begin; j < end; j += (size_t)columns) {
        const uint8_t *w[COLUMNS];
        for (size_t c = 0; c < (size_t)columns; c++)               // columns that do not exist repeat the last
            w[c] = (const uint8_t *)p->w + ((j + c < end ? j + c : end - 1) * p->k + at) * bytes;
        linear_tile(sum, x, w, len * bytes, bytes, rows, columns);
        tile_store(p->out + row * p->n + j, p->n, sum, rows, columns, end - j, at > 0);
    }
}

AVX512_INLINE void linear_bytes(const Linear *p, size_t begin, size_t end, unsigned bytes)
{
    __m512i x[ROWS * STRETCH / 4];
    for (size_t at = 0; at < p->k; at += STRETCH) {
        size_t len = p->k - at < STRETCH ? p->k - at : STRETCH, left = 0;
        for (size_t row = 0; row < p->rows; row += left >= 4 ? 4 : left >= 2 ? 2 : 1) {
            left = p->rows - row;
            size_t rows = left >= 4 ? 4 : left >= 2 ? 2 : 1;
            for (size_t r = 0; r < rows; r++) limbs_make(x + r * (STRETCH / 8) * bytes, p->x + (row + r) * p->k + at, len, bytes);
            if (rows == 4) linear_rows(p, begin, end, at, row, x, bytes, 4, 4);
            else if (rows == 2) linear_rows(p, begin, end, at, row, x, bytes, 2, 8);
            else linear_rows(p, begin, end, at, row, x, bytes, 1, 8);
        }
    }
    size_t stretch = p->k < STRETCH ? p->k : STRETCH, used = (stretch * bytes + 7) / 8;
    for (size_t r = 0; r < ROWS && r < p->rows; r++) wipe(x + r * (STRETCH / 8) * bytes, used * sizeof *x);       // shares
}

AVX512 void avx512_linear(const Linear *p, size_t begin, size_t end)
{
    if (p->k == 0) portable_linear(p, begin, end);
    else if (p->bytes == 1) linear_bytes(p, begin, end, 1);
    else linear_bytes(p, begin, end, 2);
}
#endif
