/* limbs.h - private to the kernels that multiply bytes: shares split into bytes, and sums of bytes put together again.
 *
 * A word of x is count = ceil(bits / 8) limbs of a byte. Rows and limbs together are the *columns* of a byte matrix, column
 * limb * rows + row, and the instructions add up products of four bytes in a lane of 32 bits, one lane a column. Sixteen
 * columns are a tile:
 *
 *     [4 bytes of k of column 0] [of column 1] ... [of column 15]    the next 4 bytes of k follow after 64 bytes
 *
 * This is the form of a tile's right side (AMX) and of vectors with a column a lane (VNNI), where weights are broadcast as
 * they lie. So limbs above the ring are never made, and no lane is empty, however few the rows are.
 *
 * A weight of 16 bits is two bytes as they lie in memory, low and high: at limb l, x has the pair (limb l, limb l - 1) for
 * them. Weights must be signed bytes; so the low byte is taken less 128 (a flipped bit), and 128 times the sum of x added. */
#ifndef MARILL_NUM_LIMBS_H
#define MARILL_NUM_LIMBS_H

#include "num/avx512.h"

enum {
    LIMBS_SIZE = 1 << 20,                      // bytes of a part of x that has been split: within the second cache
    LIMBS_LEN = 4096,                          // at most so many bytes of k, whose sums stay below 2^31
    FLIP = 0x0080                              // what turns the bytes of 16-bit weights into signed ones
};

/* Columns are filled up to whole tiles; `stretch` bytes of k are taken at a time, a tile then being 16 * stretch bytes. */
typedef struct { uint8_t *at; size_t columns, stretch; } Limbs;

/* Space for `rows` of x and up to size bytes of k in LIMBS_SIZE bytes; the stretch is a multiple of 64. */
static inline Limbs limbs_layout(uint8_t *at, size_t rows, unsigned count, size_t size)
{
    size_t columns = (rows * count + 15) / 16 * 16, most = LIMBS_SIZE / columns / 64 * 64, whole = (size + 63) / 64 * 64;
    if (most > LIMBS_LEN) most = LIMBS_LEN;
    return (Limbs){at, columns, whole < most ? whole : most};
}

/* Splits x (rows, len words, row stride ldx) for weights of `bytes`; up to whole 64 bytes of k it is filled with zeros. */
void limbs_make(const Limbs *l, const uint64_t *x, size_t ldx, size_t rows, size_t len, unsigned bytes, unsigned count);

/* What 8 outputs' lanes have added up to: sum + j * columns, output j. */
typedef struct { const int32_t *sum; size_t columns, rows; unsigned count; bool is_signed; const uint64_t *plus; } LimbSums;
/* out (rows, valid <= 8) (+)= the words whose limbs were added up, and plus[row] if given. */
void limbs_combine(uint64_t *out, size_t ldo, size_t valid, bool add, const LimbSums *s);

/* For 16-bit weights, whose low bytes are taken less 128: 128 times this is to be added. */
static inline uint64_t words_sum(const uint64_t *x, size_t len)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < len; i++) sum += x[i];
    return sum;
}

/* The bytes of rows of W as signed ones (see above), `rows` of them with `valid` that exist; others are zeros. Row j goes to
 * to + j * stride, filled up with zeros to a multiple of 64 bytes. size: bytes of a row. */
void limbs_panel(uint8_t *to, size_t stride, const uint8_t *w, size_t pitch, size_t rows, size_t valid, size_t size, unsigned bytes);

#endif
