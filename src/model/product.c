/* product.c - matrix products in float: OpenBLAS's, and those of operands rounded to bf16.
 *
 * This is the only file that knows of OpenBLAS. It is called from our own threads on slices of the output, and told to start
 * none itself, so that the pool of base.h stays the only one at work. Where the processor has tiles for bf16 (product_amx.c),
 * OpenBLAS has no part in a product of bf16; elsewhere it multiplies operands that were rounded beforehand. */
#include "model/product_amx.h"
#include "num/num.h"

#include <cblas.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

/* OpenBLAS built without threads (Debian's "serial" flavour) may give two threads that call it at once the same buffer, and
 * both a wrong product, without a word. Such a build is therefore let in by one thread at a time; one with threads is told
 * to use a single one for each call, and is safe. */
static pthread_once_t blas_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t blas_lock = PTHREAD_MUTEX_INITIALIZER;
static bool blas_alone;

static void blas_start(void)
{
    openblas_set_num_threads(1);
    blas_alone = openblas_get_parallel() != OPENBLAS_THREAD;
}

static void product_blas(Product how, float *out, size_t ld_out, const float *a, size_t ld_a, const float *b, size_t ld_b,
                         size_t m, size_t n, size_t k)
{
    ASSERT(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX && ld_out <= INT_MAX && ld_a <= INT_MAX && ld_b <= INT_MAX);
    pthread_once(&blas_once, blas_start);
    float beta = how.accumulate ? 1.0f : 0.0f;
    if (blas_alone) pthread_mutex_lock(&blas_lock);
    if (m == 1 && !how.turn_a && how.turn_b)               // one row: a matrix-vector product needs no packing
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)n, (int)k, how.alpha, b, (int)ld_b, a, 1, beta, out, 1);
    else
        cblas_sgemm(CblasRowMajor, how.turn_a ? CblasTrans : CblasNoTrans, how.turn_b ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k,
                    how.alpha, a, (int)ld_a, b, (int)ld_b, beta, out, (int)ld_out);
    if (blas_alone) pthread_mutex_unlock(&blas_lock);
}

// ---- bf16 without tiles ----------------------------------------------------------------------------------------------

enum { BLOCK = 256 };                          // rows and columns of an operand that are rounded at a time

/* The nearest float of which the lower 16 bits are zero, ties to even; what is not a number stays so. */
VECTOR_LOOPS static void row_round(float *restrict out, const float *restrict in, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        union { float f; uint32_t u; } x = {.f = in[i]};
        uint32_t up = x.u + 0x7FFFu + (x.u >> 16 & 1), not_a_number = (x.u & 0x7FFFFFFFu) > 0x7F800000u;
        x.u = (not_a_number ? x.u | 0x400000u : up) & 0xFFFF0000u;
        out[i] = x.f;
    }
}

static void block_round(float *out, const float *in, size_t ld, size_t rows, size_t columns)
{
    for (size_t r = 0; r < rows; r++) row_round(out + r * BLOCK, in + r * ld, columns);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Slower than a product of floats, for the same result as with tiles up to the order of the sums. */
static void product_rounded(Product how, float *out, size_t ld_out, const float *a, size_t ld_a, const float *b, size_t ld_b,
                            size_t m, size_t n, size_t k)
{
    Arena space;
    arena_init(&space, false);
    float *x = arena_new(&space, float, BLOCK * BLOCK), *y = arena_new(&space, float, BLOCK * BLOCK);
    for (size_t at = 0; at == 0 || at < k; at += BLOCK) {
        size_t len = least(k - at, BLOCK);
        Product part = how;
        part.accumulate = how.accumulate || at;
        for (size_t j = 0; j < n; j += BLOCK) {
            size_t columns = least(n - j, BLOCK);
            if (how.turn_b) block_round(y, b + j * ld_b + at, ld_b, columns, len);
            else block_round(y, b + at * ld_b + j, ld_b, len, columns);
            for (size_t i = 0; i < m; i += BLOCK) {
                size_t rows = least(m - i, BLOCK);
                if (how.turn_a) block_round(x, a + at * ld_a + i, ld_a, len, rows);
                else block_round(x, a + i * ld_a + at, ld_a, rows, len);
                product_blas(part, out + i * ld_out + j, ld_out, x, BLOCK, y, BLOCK, rows, columns, len);
            }
        }
    }
    arena_free(&space);
}

void product(Product how, float *out, size_t ld_out, const float *a, size_t ld_a, const float *b, size_t ld_b,
             size_t m, size_t n, size_t k)
{
    if (!m || !n) return;
    if (!how.bf16) product_blas(how, out, ld_out, a, ld_a, b, ld_b, m, n, k);
    else if (num_bf16_tiles()) product_amx(how, out, ld_out, a, ld_a, b, ld_b, m, n, k);
    else product_rounded(how, out, ld_out, a, ld_a, b, ld_b, m, n, k);
}
