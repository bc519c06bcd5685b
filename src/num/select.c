/* select.c - sums of the table words that a vector of secret bits selects, and the number of its bits.
 *
 * A bit becomes a mask of a whole word (0 or all ones), so nothing depends on it but values. */
#include "num/kernels.h"

#include <string.h>

static uint64_t bit_mask(const uint8_t *bits, size_t c)
{
    return -(uint64_t)(bits[c / 8] >> c % 8 & 1);
}

uint64_t portable_select(const void *row, unsigned bytes, const uint8_t *bits, size_t cells)
{
    const uint8_t *r1 = row;
    const uint16_t *r2 = row;
    const uint32_t *r4 = row;
    const uint64_t *r8 = row;
    uint64_t sum = 0;
    if (bytes == 1) for (size_t c = 0; c < cells; c++) sum += r1[c] & bit_mask(bits, c);
    if (bytes == 2) for (size_t c = 0; c < cells; c++) sum += r2[c] & bit_mask(bits, c);
    if (bytes == 4) for (size_t c = 0; c < cells; c++) sum += r4[c] & bit_mask(bits, c);
    if (bytes == 8) for (size_t c = 0; c < cells; c++) sum += r8[c] & bit_mask(bits, c);
    return sum;
}

/* By sums of neighbours: a table of the compiler's would be indexed by the bits. */
static uint64_t word_popcount(uint64_t v)
{
    v -= v >> 1 & 0x5555555555555555u;
    v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
    v = (v + (v >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
    return v * 0x0101010101010101u >> 56;
}

uint64_t portable_popcount(const uint8_t *bits, size_t cells)
{
    uint64_t sum = 0;
    for (; cells >= 64; cells -= 64, bits += 8) {
        uint64_t v;
        memcpy(&v, bits, 8);
        sum += word_popcount(v);
    }
    uint64_t v = 0;
    memcpy(&v, bits, (cells + 7) / 8);
    return cells ? sum + word_popcount(ring_low(v, (unsigned)cells)) : sum;
}

uint64_t ring_select(const void *row, unsigned bytes, const uint8_t *bits, size_t cells)
{
    ASSERT(bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8);
    return num_kernel->select(row, bytes, bits, cells);
}

uint64_t ring_popcount(const uint8_t *bits, size_t cells)
{
    return num_kernel->popcount(bits, cells);
}
