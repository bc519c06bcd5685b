/* matmul_avx512.c - products of ring matrices, in tiles of rows by columns whose sums stay in registers.
 *
 * A ring of at most 52 bits takes one instruction for eight products: the low half of a 52-bit product (IFMA) ignores the
 * upper 12 bits of its operands and adds to 64-bit sums, so a sum is right mod 2^52 however often it passes 2^64. Wider
 * rings take the 64-bit product, which is three such steps on most processors.
 *
 * A stretch of k is short enough for the columns of a tile to stay in the first cache while all rows pass by. */
#ifdef __x86_64__
#include "num/avx512.h"

enum { STRETCH = 384, COLUMNS = 8 };           // words of k: 8 columns of them are 24 KB

/* `narrow`, a constant wherever this is inlined: at most 52 bits are wanted. */
AVX512_INLINE __m512i mul_add(__m512i sum, __m512i x, __m512i y, bool narrow)
{
    return narrow ? _mm512_madd52lo_epu64(sum, x, y) : _mm512_add_epi64(sum, _mm512_mullo_epi64(x, y));
}

typedef struct { uint64_t *out; const uint64_t *a, *b; size_t ldo, lda, ldb, len, columns; bool add; } Tile;

/* out (rows, 8) of a tile, of which t->columns exist: one stretch of k. */
AVX512_INLINE void tile_rows(const Tile *t, int rows, bool narrow)
{
    const uint64_t *b[COLUMNS];
    __m512i acc[3 * COLUMNS], x[3];
    for (size_t c = 0; c < COLUMNS; c++) b[c] = t->b + (c < t->columns ? c : t->columns - 1) * t->ldb;
    UNROLL for (int i = 0; i < rows * COLUMNS; i++) acc[i] = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 8 <= t->len; i += 8) {
        UNROLL for (int r = 0; r < rows; r++) x[r] = _mm512_loadu_si512(t->a + (size_t)r * t->lda + i);
        UNROLL for (int c = 0; c < COLUMNS; c++) {
            __m512i y = _mm512_loadu_si512(b[c] + i);
            if (rows > 1) LOADED(y);
            UNROLL for (int r = 0; r < rows; r++) acc[r * COLUMNS + c] = mul_add(acc[r * COLUMNS + c], x[r], y, narrow);
        }
    }
    if (i < t->len) {
        __mmask8 m = lanes(t->len - i);
        UNROLL for (int r = 0; r < rows; r++) x[r] = _mm512_maskz_loadu_epi64(m, t->a + (size_t)r * t->lda + i);
        UNROLL for (int c = 0; c < COLUMNS; c++) {
            __m512i y = _mm512_maskz_loadu_epi64(m, b[c] + i);
            UNROLL for (int r = 0; r < rows; r++) acc[r * COLUMNS + c] = mul_add(acc[r * COLUMNS + c], x[r], y, narrow);
        }
    }
    __mmask8 m = lanes(t->columns);
    UNROLL for (int r = 0; r < rows; r++) {
        __m512i sum = sums8(acc + r * COLUMNS);
        uint64_t *o = t->out + (size_t)r * t->ldo;
        if (t->add) sum = _mm512_add_epi64(sum, _mm512_maskz_loadu_epi64(m, o));
        _mm512_mask_storeu_epi64(o, m, sum);
    }
}

AVX512_INLINE void matmul_bits(const Matmul *p, size_t begin, size_t end, bool narrow)
{
    size_t stretch = p->rows > 3 ? STRETCH : p->k, at = 0;
    do {
        size_t len = p->k - at < stretch ? p->k - at : stretch;
        for (size_t j = begin; j < end; j += COLUMNS) {
            Tile t = {p->out + j, p->a + at, p->b + j * p->ldb + at, p->ldo, p->lda, p->ldb, len,
                      end - j < COLUMNS ? end - j : COLUMNS, p->accumulate || at > 0};
            for (size_t left = p->rows; left;) {
                size_t rows = left == 4 ? 2 : left < 3 ? left : 3;
                if (rows == 3) tile_rows(&t, 3, narrow);
                else if (rows == 2) tile_rows(&t, 2, narrow);
                else tile_rows(&t, 1, narrow);
                left -= rows, t.out += rows * t.ldo, t.a += rows * t.lda;
            }
        }
        at += len;
    } while (at < p->k);
}

AVX512 void avx512_matmul(const Matmul *p, size_t begin, size_t end)
{
    if (p->bits <= 52) matmul_bits(p, begin, end, true);
    else matmul_bits(p, begin, end, false);
}

/* `vectors` times eight columns, those of the last vector under a mask. */
AVX512_INLINE void vecmat_columns(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t ldb, size_t k, int vectors, __mmask8 last,
                                  bool narrow)
{
    __m512i acc[8];
    UNROLL for (int v = 0; v < vectors; v++) acc[v] = _mm512_maskz_loadu_epi64(v + 1 < vectors ? 0xFF : last, out + 8 * v);
    for (size_t i = 0; i < k; i++) {
        __m512i x = _mm512_set1_epi64((long long)a[i]);
        UNROLL for (int v = 0; v < vectors; v++)
            acc[v] = mul_add(acc[v], x, _mm512_maskz_loadu_epi64(v + 1 < vectors ? 0xFF : last, b + i * ldb + 8 * v), narrow);
    }
    UNROLL for (int v = 0; v < vectors; v++) _mm512_mask_storeu_epi64(out + 8 * v, v + 1 < vectors ? 0xFF : last, acc[v]);
}

AVX512_INLINE void vecmat_bits(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t ldb, size_t n, size_t k, bool narrow)
{
    size_t j = 0;
    for (; j + 64 <= n; j += 64) vecmat_columns(out + j, a, b + j, ldb, k, 8, 0xFF, narrow);
    if (j + 32 <= n) vecmat_columns(out + j, a, b + j, ldb, k, 4, 0xFF, narrow), j += 32;
    for (; j < n; j += 8) vecmat_columns(out + j, a, b + j, ldb, k, 1, lanes(n - j), narrow);
}

AVX512 void avx512_vecmat_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t ldb, size_t n, size_t k, unsigned bits)
{
    if (bits <= 52) vecmat_bits(out, a, b, ldb, n, k, true);
    else vecmat_bits(out, a, b, ldb, n, k, false);
}

AVX512 uint64_t avx512_dot(const uint64_t *a, const uint64_t *b, size_t len)
{
    __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    size_t i = 0;
    for (; i + 32 <= len; i += 32)
        UNROLL for (size_t v = 0; v < 4; v++)
            sum[v] = mul_add(sum[v], _mm512_loadu_si512(a + i + 8 * v), _mm512_loadu_si512(b + i + 8 * v), false);
    for (; i < len; i += 8) {
        __mmask8 m = lanes(len - i);
        sum[0] = mul_add(sum[0], _mm512_maskz_loadu_epi64(m, a + i), _mm512_maskz_loadu_epi64(m, b + i), false);
    }
    return sum64(_mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3])));
}
#endif
