/* select.c - sums of the table words that vectors of secret bits select, and the making of such vectors.
 *
 * A bit becomes a mask of a whole word (0 or all ones), so nothing depends on it but values. A vector is turned by a public
 * number before it meets the row, so that rows lie once in memory and are read from their beginning. */
#include "num/select.h"

/* The lowest 8 / bytes bits as masks of the words of that many bytes in a register: each word picks its own bit, and a carry to
 * its top says whether the bit was there. */
static uint64_t words_masked(uint64_t bits, unsigned bytes)
{
    const uint64_t each = bytes == 1 ? 0x0101010101010101u : bytes == 2 ? 0x0001000100010001u : bytes == 4 ? 0x0000000100000001u : 1;
    const uint64_t pick = bytes == 1 ? 0x8040201008040201u : bytes == 2 ? 0x0008000400020001u : bytes == 4 ? 0x0000000200000001u : 1;
    unsigned top = 8 * bytes - 1;
    uint64_t picked = (bits & ring_low(~UINT64_C(0), 8 / bytes)) * each & pick;
    uint64_t there = (picked + each * ((UINT64_C(1) << top) - 1)) >> top & each;
    return there * (UINT64_MAX >> (63 - top));
}

/* The sum of `count` words, at most 64, under their bits: neighbours are added up in lanes twice as wide. */
static uint64_t column_sum(const uint8_t *column, unsigned bytes, uint64_t bits, size_t count)
{
    const uint64_t even = bytes == 1 ? 0x00FF00FF00FF00FFu : bytes == 2 ? 0x0000FFFF0000FFFFu : 0x00000000FFFFFFFFu;
    uint64_t sum = 0;
    for (size_t at = 0; at < count * bytes / 8; at++, bits >>= 8 / bytes) {
        uint64_t v = bits_word(column, at) & words_masked(bits, bytes);
        sum += bytes == 8 ? v : (v & even) + (v >> 8 * bytes & even);
    }
    if (bytes == 1) return sum * 0x0001000100010001u >> 48;
    return bytes == 2 ? (sum & 0xFFFFFFFF) + (sum >> 32) : sum;
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
            for (unsigned j = 0; j < t->columns; j++) {
                const uint8_t *column = row + column_start(t, j) + 64 * at * t->bytes[j];
                if (t->bytes[j] == 1) sum[j] += column_sum(column, 1, b, step);
                else if (t->bytes[j] == 2) sum[j] += column_sum(column, 2, b, step);
                else if (t->bytes[j] == 4) sum[j] += column_sum(column, 4, b, step);
                else sum[j] += column_sum(column, 8, b, step);
            }
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
