/* select.h - private to num/: turned bit vectors, for the select*.c files. */
#ifndef MARILL_NUM_SELECT_H
#define MARILL_NUM_SELECT_H

#include <string.h>
#include "num/kernels.h"

static inline uint64_t bits_word(const uint8_t *bits, size_t at)
{
    uint64_t v;
    memcpy(&v, bits + 8 * at, 8);
    return v;
}

/* Bits 64 at .. 64 at + 63 of the vector turned down by `turn`: bit e is bit (e + turn) mod cells. Beyond the cells: zero. */
static inline uint64_t bits_turned(const uint8_t *bits, size_t cells, size_t turn, size_t at)
{
    if (cells >= 64) {
        size_t words = cells / 64, low = at + turn / 64;
        unsigned s = turn % 64;
        return bits_word(bits, low & (words - 1)) >> s | bits_word(bits, (low + 1) & (words - 1)) << 1 << (63 - s);
    }
    uint64_t v = 0;
    memcpy(&v, bits, cells / 8);
    return ring_low(v >> turn | v << (cells - turn), (unsigned)cells);
}

/* A bit as 1 or -1, and whether a word is zero: by arithmetic, since compilers make branches of comparisons. */
static inline uint64_t sign_of(uint64_t bit) { return 2 * bit - 1; }
static inline uint64_t is_nonzero(uint64_t v) { return (v | (0 - v)) >> 63; }

/* Where the words of column j begin in a row. */
static inline size_t column_start(const SelectTable *t, unsigned j) { return j ? t->cells * t->bytes[0] : 0; }
static inline size_t row_size(const SelectTable *t) { return t->cells * (t->bytes[0] + (t->columns > 1 ? t->bytes[1] : 0)); }

#endif
