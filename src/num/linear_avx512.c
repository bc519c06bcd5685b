/* linear_avx512.c - products with small weights, by the dot product of bytes (VNNI); limbs.h tells how shares become bytes.
 *
 * From two rows on, a lane is a column of limbs: the four weights that meet four words are broadcast, and sums need no more
 * than to be put together at the end. A tile is up to 3 vectors of columns by 8 outputs.
 *
 * One row has too few columns for the lanes, and is bound by memory: there a lane is a stretch of k, and limb l of all of x
 * is a vector of bytes in its own right. Weights are read once, several rows of them at a time. */
#ifdef __x86_64__
#include "num/limbs.h"

enum {
    ROWS = 64,                                 // at most so many at once
    OUTPUTS = 8,
    PANEL = LIMBS_LEN + 64,                    // bytes between rows of a panel of weights
    PLANE = 24576                              // bytes of k of one row at once: more than models have
};

// ---- rows ------------------------------------------------------------------------------------------------------------

/* sum (8, columns): `vectors` times 16 of them, over `groups` of four weights. */
AVX512_INLINE void linear_tile(int32_t *sum, const Limbs *l, const uint8_t *x, const uint8_t *panel, size_t groups, int vectors)
{
    __m512i acc[3 * OUTPUTS], v[3];
    UNROLL for (int i = 0; i < 3 * OUTPUTS; i++) acc[i] = _mm512_setzero_si512();
    for (size_t g = 0; g < groups; g++) {
        UNROLL for (int t = 0; t < vectors; t++) v[t] = _mm512_loadu_si512(x + 64 * g + (size_t)t * 16 * l->stretch);
        UNROLL for (int j = 0; j < OUTPUTS; j++) {
            __m512i w = _mm512_set1_epi32(((const int32_t *)(const void *)(panel + j * PANEL))[g]);
            if (vectors > 1) LOADED(w);
            UNROLL for (int t = 0; t < vectors; t++) acc[j * 3 + t] = _mm512_dpbusd_epi32(acc[j * 3 + t], v[t], w);
        }
    }
    UNROLL for (int j = 0; j < OUTPUTS; j++)
        UNROLL for (int t = 0; t < vectors; t++) _mm512_storeu_si512(sum + (size_t)j * l->columns + 16 * t, acc[j * 3 + t]);
}

/* Words at..at + len of k for rows row..row + rows, whose limbs are given. */
AVX512 static void linear_rows(const Linear *p, size_t begin, size_t end, const Limbs *l, size_t row, size_t rows, size_t at, size_t len)
{
    _Alignas(64) uint8_t panel[OUTPUTS * PANEL];
    _Alignas(64) int32_t sum[OUTPUTS * ROWS * 8];
    uint64_t plus[ROWS];
    for (size_t r = 0; r < rows && p->bytes == 2; r++) plus[r] = words_sum(p->x + (row + r) * p->k + at, len) << 7;
    LimbSums s = {sum, l->columns, rows, (p->bits + 7) / 8, true, p->bytes == 2 ? plus : NULL};
    size_t size = len * p->bytes, groups = (size + 3) / 4;
    for (size_t j = begin; j < end; j += OUTPUTS) {
        size_t valid = end - j < OUTPUTS ? end - j : OUTPUTS;
        limbs_panel(panel, PANEL, (const uint8_t *)p->w + (j * p->k + at) * p->bytes, p->k * p->bytes, OUTPUTS, valid, size, p->bytes);
        for (size_t c = 0, left = l->columns / 16; left;) {
            size_t vectors = left == 4 ? 2 : left < 3 ? left : 3;
            if (vectors == 3) linear_tile(sum + c, l, l->at + c * l->stretch, panel, groups, 3);
            else if (vectors == 2) linear_tile(sum + c, l, l->at + c * l->stretch, panel, groups, 2);
            else linear_tile(sum + c, l, l->at + c * l->stretch, panel, groups, 1);
            c += 16 * vectors, left -= vectors;
        }
        limbs_combine(p->out + row * p->n + j, p->n, valid, at > 0, &s);
    }
    wipe(panel, sizeof panel);                 // W may be private
    wipe(sum, OUTPUTS * l->columns * sizeof *sum);
    wipe(plus, sizeof plus);
}

AVX512 static void linear_many(const Linear *p, size_t begin, size_t end)
{
    _Alignas(64) uint8_t space[LIMBS_SIZE];
    unsigned count = (p->bits + 7) / 8;
    for (size_t row = 0; row < p->rows; row += ROWS) {
        size_t rows = p->rows - row < ROWS ? p->rows - row : ROWS;
        Limbs l = limbs_layout(space, rows, count, p->k * p->bytes);
        size_t stretch = l.stretch / p->bytes;
        for (size_t at = 0; at < p->k; at += stretch) {
            size_t len = p->k - at < stretch ? p->k - at : stretch;
            limbs_make(&l, p->x + row * p->k + at, p->k, rows, len, p->bytes, count);
            linear_rows(p, begin, end, &l, row, rows, at, len);
        }
        wipe(space, l.columns * l.stretch);    // shares
    }
}

// ---- one row ---------------------------------------------------------------------------------------------------------

/* plane (count, PLANE): limb l of len words; for 16-bit weights, limbs l and l - 1 by turns. */
AVX512 static void planes_make(uint8_t *plane, const uint64_t *x, size_t len, unsigned bytes, unsigned count)
{
    size_t step = 64 / bytes;
    for (size_t i = 0; i < len; i += step)
        for (unsigned limb = 0; limb < count; limb++) {
            __m512i v = _mm512_setzero_si512();
            const __m512i eighth = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
            for (size_t w = 0; w < step && i + w < len; w += 8 / bytes) {
                size_t left = len - i - w;
                __mmask8 m = lanes(left < 8 / bytes ? left : 8 / bytes);
                __m512i words = _mm512_maskz_loadu_epi64(m, x + i + w);
                __m512i low = _mm512_srl_epi64(words, _mm_cvtsi32_si128((int)(8 * limb))), out;
                if (bytes == 1) out = _mm512_castsi128_si512(_mm512_cvtepi64_epi8(low));
                else {
                    __m512i high = limb ? _mm512_srl_epi64(words, _mm_cvtsi32_si128((int)(8 * limb - 8))) : _mm512_setzero_si512();
                    low = _mm512_mask_mov_epi8(low, 0x0202020202020202, _mm512_slli_epi64(high, 8));
                    out = _mm512_castsi128_si512(_mm512_cvtepi64_epi16(low));
                }
                __mmask8 where = (__mmask8)(1u << (w * bytes / 8));
                v = _mm512_mask_permutexvar_epi64(v, where, _mm512_sub_epi64(eighth, _mm512_set1_epi64((long long)(w * bytes / 8))), out);
            }
            _mm512_storeu_si512(plane + limb * PLANE + i * bytes, v);
        }
}

/* The sum of the lanes of 32 bits, signed. */
AVX512_INLINE __m512i lanes_widen(__m512i v)
{
    return _mm512_add_epi64(_mm512_srai_epi64(_mm512_slli_epi64(v, 32), 32), _mm512_srai_epi64(v, 32));
}

/* sum[j] over `size` bytes of k, for some outputs. The next outputs' weights, `ahead` bytes further, are fetched meanwhile. */
AVX512_INLINE void row_tile(uint64_t sum[OUTPUTS], const uint8_t *plane, const uint8_t *const *w, size_t size, size_t ahead,
                            unsigned bytes, int outputs, int count)
{
    __m512i acc[4 * 8], total[OUTPUTS], v[4], flip = _mm512_set1_epi16(bytes == 2 ? FLIP : 0);
    UNROLL for (int i = 0; i < outputs * count; i++) acc[i] = _mm512_setzero_si512();
    for (size_t i = 0; i < size; i += 64) {
        __mmask64 m = bytes64(size - i);
        UNROLL for (int j = 0; j < outputs; j++) {
            _mm_prefetch((const char *)w[j] + i + ahead, _MM_HINT_T1);
            __m512i y = _mm512_maskz_loadu_epi8(m, w[j] + i);
            if (bytes == 2) y = _mm512_xor_si512(y, flip);         // beyond the end, x is zero
            LOADED(y);
            v[j] = y;
        }
        UNROLL for (int l = 0; l < count; l++) {
            __m512i x = _mm512_loadu_si512(plane + l * PLANE + i);
            UNROLL for (int j = 0; j < outputs; j++) acc[l * outputs + j] = _mm512_dpbusd_epi32(acc[l * outputs + j], x, v[j]);
        }
    }
    UNROLL for (int j = 0; j < OUTPUTS; j++) total[j] = _mm512_setzero_si512();
    UNROLL for (int l = 1; l <= count; l++)                        // the upper limbs first
        UNROLL for (int j = 0; j < outputs; j++)
            total[j] = _mm512_add_epi64(_mm512_slli_epi64(total[j], 8), lanes_widen(acc[(count - l) * outputs + j]));
    _mm512_storeu_si512(sum, sums8(total));
}

AVX512_INLINE void row_outputs(const Linear *p, size_t begin, size_t end, const uint8_t *plane, size_t at, size_t len, unsigned bytes,
                               int count)
{
    const int outputs = count <= 6 ? 4 : 3;
    uint64_t plus = bytes == 2 ? words_sum(p->x + at, len) << 7 : 0, sum[OUTPUTS];
    for (size_t j = begin; j < end; j += (size_t)outputs) {
        const uint8_t *w[4];
        for (size_t c = 0; c < (size_t)outputs; c++)               // outputs that do not exist repeat the last
            w[c] = (const uint8_t *)p->w + ((j + c < end ? j + c : end - 1) * p->k + at) * bytes;
        row_tile(sum, plane, w, len * bytes, (size_t)outputs * p->k * bytes, bytes, outputs, count);
        for (size_t c = 0; c < (size_t)outputs && j + c < end; c++) p->out[j + c] = sum[c] + plus + (at ? p->out[j + c] : 0);
    }
    wipe(sum, sizeof sum);
}

/* A function for each: their inner loops need nearly all registers. */
#define ROW(bytes, count) \
    AVX512 static void linear_row_##bytes##_##count(const Linear *p, size_t begin, size_t end, const uint8_t *plane, size_t at, \
                                                    size_t len) \
    { row_outputs(p, begin, end, plane, at, len, bytes, count); }
#define ROWS_OF(bytes) ROW(bytes, 1) ROW(bytes, 2) ROW(bytes, 3) ROW(bytes, 4) ROW(bytes, 5) ROW(bytes, 6) ROW(bytes, 7) ROW(bytes, 8)
ROWS_OF(1)
ROWS_OF(2)
typedef void RowKernel(const Linear *p, size_t begin, size_t end, const uint8_t *plane, size_t at, size_t len);
#define ROW_KERNELS(bytes) {linear_row_##bytes##_1, linear_row_##bytes##_2, linear_row_##bytes##_3, linear_row_##bytes##_4, \
                            linear_row_##bytes##_5, linear_row_##bytes##_6, linear_row_##bytes##_7, linear_row_##bytes##_8}
static RowKernel *const row_kernels[2][8] = {ROW_KERNELS(1), ROW_KERNELS(2)};

AVX512 static void linear_one(const Linear *p, size_t begin, size_t end)
{
    _Alignas(64) uint8_t plane[8 * PLANE];
    size_t stretch = PLANE / p->bytes, used = p->k < stretch ? p->k * p->bytes : PLANE;
    for (size_t at = 0; at < p->k; at += stretch) {
        size_t len = p->k - at < stretch ? p->k - at : stretch;
        planes_make(plane, p->x + at, len, p->bytes, (p->bits + 7) / 8);
        row_kernels[p->bytes - 1][(p->bits - 1) / 8](p, begin, end, plane, at, len);
    }
    for (unsigned l = 0; l < (p->bits + 7) / 8; l++) wipe(plane + l * PLANE, used);        // shares
}

AVX512 void avx512_linear(const Linear *p, size_t begin, size_t end)
{
    if (p->k == 0) portable_linear(p, begin, end);
    else if (p->rows == 1) linear_one(p, begin, end);
    else linear_many(p, begin, end);
}
#endif
