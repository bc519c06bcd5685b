/* select.c - sums of the table words that vectors of secret bits select, and the making of such vectors.
 *
 * A bit becomes a mask of a whole word (0 or all ones), so nothing depends on it but values. A vector is turned by a public
 * number before it meets the row, so that rows lie once in memory and are read from their beginning. */
#include "num/select.h"

static uint64_t bit_mask(uint64_t bits, size_t c) { return -(bits >> c & 1); }

/* Of entries 64 at .. of a column. */
static uint64_t column_sum(const uint8_t *column, unsigned bytes, uint64_t bits, size_t at, size_t count)
{
    const uint8_t *r1 = column + 64 * at;
    const uint16_t *r2 = (const uint16_t *)(const void *)column + 64 * at;
    const uint32_t *r4 = (const uint32_t *)(const void *)column + 64 * at;
    const uint64_t *r8 = (const uint64_t *)(const void *)column + 64 * at;
    uint64_t sum = 0;
    if (bytes == 1) for (size_t c = 0; c < count; c++) sum += r1[c] & bit_mask(bits, c);
    if (bytes == 2) for (size_t c = 0; c < count; c++) sum += r2[c] & bit_mask(bits, c);
    if (bytes == 4) for (size_t c = 0; c < count; c++) sum += r4[c] & bit_mask(bits, c);
    if (bytes == 8) for (size_t c = 0; c < count; c++) sum += r8[c] & bit_mask(bits, c);
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

void portable_select(const Selection *s, size_t count)
{
    const SelectTable *t = s->table;
    size_t words = (t->cells + 63) / 64, step = t->cells < 64 ? t->cells : 64;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *row = (const uint8_t *)t->rows + s->low[i] * row_size(t), *bits = s->bits + i * (t->cells / 8);
        uint64_t sum[SELECT_COLUMNS] = {0}, ones = 0;
        for (size_t at = 0; at < words; at++) {
            uint64_t b = bits_turned(bits, t->cells, (size_t)s->turn[i], at);
            ones += word_popcount(b);
            for (unsigned j = 0; j < t->columns; j++) sum[j] += column_sum(row + column_start(t, j), t->bytes[j], b, at, step);
        }
        for (unsigned j = 0; j < t->columns; j++) s->sum[j][i] = ring_low(sum[j], 8 * t->bytes[j]);
        if (s->ones) s->ones[i] = ones;
    }
}

/* Every word of a vector is read and written, whichever holds the point. */
void portable_onehot(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t count, size_t cells, bool flip)
{
    size_t size = cells < 64 ? cells / 8 : 8, words = (cells + 63) / 64;
    for (size_t i = 0; i < count; i++) {
        uint64_t one = UINT64_C(1) << point[i] % 64, held = 0;
        for (size_t at = 0; at < words; at++, bits += size) {
            uint64_t v = 0, hit = one & -(uint64_t)(at == point[i] / 64);
            memcpy(&v, bits, size);
            held |= v & hit;
            v ^= hit & -(uint64_t)flip;
            memcpy(bits, &v, size);
        }
        sign[i] = sign_of(is_nonzero(held));
    }
}

void ring_select(const Selection *s, size_t count)
{
    const SelectTable *t = s->table;
    ASSERT(t->cells >= 8 && (t->cells & (t->cells - 1)) == 0 && (t->columns == 1 || t->columns == SELECT_COLUMNS));
    num_kernel->select(s, count);
}

void ring_onehot(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t count, size_t cells, bool flip)
{
    ASSERT(cells >= 8 && (cells & (cells - 1)) == 0);
    num_kernel->onehot(bits, sign, point, count, cells, flip);
}
