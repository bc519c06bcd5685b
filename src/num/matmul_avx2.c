/* matmul_avx2.c - products by those of 32 bits: three for a word of 64, one for a ring of at most 32.
 *
 * Tiles of 2 rows by 2 columns stay in registers; small weights are widened, a few rows of W at a time, and then are a ring
 * matrix as any other. */
#ifdef __x86_64__
#include "num/avx2.h"

enum { COLUMNS = 2, STRETCH = 512 };

AVX2_INLINE uint64_t product_sum(Product p)
{
    uint64_t w[4];
    store4(w, product_words(p));
    return w[0] + w[1] + w[2] + w[3];
}

typedef struct { uint64_t *out; const uint64_t *a, *b; size_t ldo, lda, ldb, len; bool add; } Tile;

AVX2_INLINE void tile_step(Product p[4], const __m256i x[2], const __m256i y[2], int rows, int columns, bool narrow)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) p[2 * r + c] = product_add(p[2 * r + c], x[r], upper(x[r]), y[c], upper(y[c]), narrow);
}

AVX2_INLINE void tile_dots(const Tile *t, int rows, int columns, bool narrow)
{
    Product p[4] = {product_zero(), product_zero(), product_zero(), product_zero()};
    const uint64_t *a1 = t->a + (rows > 1 ? t->lda : 0), *b1 = t->b + (columns > 1 ? t->ldb : 0);
    size_t i = 0;
    for (; i + 4 <= t->len; i += 4) {
        __m256i x[2] = {load4(t->a + i), load4(a1 + i)}, y[2] = {load4(t->b + i), load4(b1 + i)};
        tile_step(p, x, y, rows, columns, narrow);
    }
    if (i < t->len) {
        __m256i m = lanes4(t->len - i);
        __m256i x[2] = {load_some(t->a + i, m), load_some(a1 + i, m)}, y[2] = {load_some(t->b + i, m), load_some(b1 + i, m)};
        tile_step(p, x, y, rows, columns, narrow);
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            uint64_t *o = t->out + (size_t)r * t->ldo + c;
            *o = product_sum(p[2 * r + c]) + (t->add ? *o : 0);
        }
}

AVX2 static void tile_narrow(const Tile *t, size_t rows, size_t columns)
{
    if (rows == 2 && columns == 2) tile_dots(t, 2, 2, true);
    else if (rows == 2) tile_dots(t, 2, 1, true);
    else if (columns == 2) tile_dots(t, 1, 2, true);
    else tile_dots(t, 1, 1, true);
}

AVX2 static void tile_wide(const Tile *t, size_t rows, size_t columns)
{
    if (rows == 2 && columns == 2) tile_dots(t, 2, 2, false);
    else if (rows == 2) tile_dots(t, 2, 1, false);
    else if (columns == 2) tile_dots(t, 1, 2, false);
    else tile_dots(t, 1, 1, false);
}

/* All rows by up to two columns: one stretch of k. */
static void columns_dots(Tile t, size_t rows, size_t columns, unsigned bits)
{
    for (size_t left = rows, height; left; left -= height, t.a += height * t.lda, t.out += height * t.ldo) {
        height = left < 2 ? 1 : 2;
        if (bits <= 32) tile_narrow(&t, height, columns);
        else tile_wide(&t, height, columns);
    }
}

void avx2_matmul(const Matmul *p, size_t begin, size_t end)
{
    size_t at = 0;
    do {                                       // once where k is 0: out is set
        size_t len = p->k - at < STRETCH ? p->k - at : STRETCH;
        for (size_t j = begin; j < end; j += COLUMNS)
            columns_dots((Tile){p->out + j, p->a + at, p->b + j * p->ldb + at, p->ldo, p->lda, p->ldb, len, p->accumulate || at > 0},
                         p->rows, end - j < COLUMNS ? end - j : COLUMNS, p->bits);
        at += len;
    } while (at < p->k);
}

AVX2 static void widen(uint64_t *out, const Linear *p, size_t from, size_t len)
{
    const int8_t *w8 = (const int8_t *)p->w + from;
    const int16_t *w16 = (const int16_t *)p->w + from;
    if (p->bytes == 1) for (size_t i = 0; i < len; i++) out[i] = (uint64_t)(int64_t)w8[i];
    else for (size_t i = 0; i < len; i++) out[i] = (uint64_t)(int64_t)w16[i];
}

void avx2_linear(const Linear *p, size_t begin, size_t end)
{
    uint64_t wide[COLUMNS * STRETCH];
    size_t at = 0;
    do {
        size_t len = p->k - at < STRETCH ? p->k - at : STRETCH;
        for (size_t j = begin; j < end; j += COLUMNS) {
            size_t columns = end - j < COLUMNS ? end - j : COLUMNS;
            for (size_t c = 0; c < columns; c++) widen(wide + c * STRETCH, p, (j + c) * p->k + at, len);
            columns_dots((Tile){p->out + j, p->x + at, wide, p->n, p->k, STRETCH, len, at > 0}, p->rows, columns, p->bits);
        }
        at += len;
    } while (at < p->k);
    wipe(wide, sizeof wide);                   // W may be private
}

AVX2_INLINE void vecmat_bits(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t ldb, size_t n, size_t k, bool narrow)
{
    size_t j = 0;
    for (; j + 8 <= n; j += 8) {
        Product p[2] = {product_zero(), product_zero()};
        for (size_t i = 0; i < k; i++) {
            __m256i x = _mm256_set1_epi64x((long long)a[i]), y[2] = {load4(b + i * ldb + j), load4(b + i * ldb + j + 4)};
            for (int v = 0; v < 2; v++) p[v] = product_add(p[v], x, upper(x), y[v], upper(y[v]), narrow);
        }
        for (int v = 0; v < 2; v++) store4(out + j + 4 * v, _mm256_add_epi64(load4(out + j + 4 * v), product_words(p[v])));
    }
    if (j < n) portable_vecmat_add(out + j, a, b + j, ldb, n - j, k, 64);
}

AVX2 void avx2_vecmat_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t ldb, size_t n, size_t k, unsigned bits)
{
    if (bits <= 32) vecmat_bits(out, a, b, ldb, n, k, true);
    else vecmat_bits(out, a, b, ldb, n, k, false);
}

uint64_t avx2_dot(const uint64_t *a, const uint64_t *b, size_t len)
{
    uint64_t out = 0;
    tile_wide(&(Tile){&out, a, b, 1, 0, 0, len, false}, 1, 1);
    return out;
}
#endif
