/* narrow.c - words of few bits, kept in as few bytes: what a histogram of secret cells is made of.
 *
 * A word of n bits lies in the smallest of 1, 2 and 4 bytes that holds it, as the streams of masks spend them; bits above n mean
 * nothing. Rows are turned by public numbers; the place of a one is secret, and every word of its row is written. */
#include "num/kernels.h"

#include <string.h>

enum { PART = 64 };                            // words at a time, whole bytes in the packed form

#define EACH(type, statement) do { type *w = words; statement } while (0)

void portable_narrow_unpack(void *words, const uint8_t *in, size_t len, unsigned n)
{
    uint64_t part[PART];
    unsigned bytes = narrow_bytes(n);
    for (size_t at = 0; at < len; at += PART, words = (uint8_t *)words + PART * bytes) {
        size_t count = len - at < PART ? len - at : PART;
        portable_unpack(part, in + at / 8 * n, count, n);
        if (bytes == 1) EACH(uint8_t, for (size_t i = 0; i < count; i++) w[i] = (uint8_t)part[i];);
        else if (bytes == 2) EACH(uint16_t, for (size_t i = 0; i < count; i++) w[i] = (uint16_t)part[i];);
        else EACH(uint32_t, for (size_t i = 0; i < count; i++) w[i] = (uint32_t)part[i];);
    }
    wipe(part, sizeof part);
}

void portable_narrow_pack(uint8_t *out, const void *words, size_t len, unsigned n)
{
    uint64_t part[PART];
    unsigned bytes = narrow_bytes(n);
    for (size_t at = 0; at < len; at += PART, words = (const uint8_t *)words + PART * bytes) {
        size_t count = len - at < PART ? len - at : PART;
        if (bytes == 1) EACH(const uint8_t, for (size_t i = 0; i < count; i++) part[i] = w[i];);
        else if (bytes == 2) EACH(const uint16_t, for (size_t i = 0; i < count; i++) part[i] = w[i];);
        else EACH(const uint32_t, for (size_t i = 0; i < count; i++) part[i] = w[i];);
        portable_pack(out + at / 8 * n, part, count, n);
    }
    wipe(part, sizeof part);
}

/* In two parts, before and after the row's end comes round. */
#define TURNED(type) do { \
        const type *row = (const type *)rows + i * cells; \
        type *to = sum; \
        for (size_t d = 0; d < cells - at; d++) to[d] = (type)(to[d] + row[at + d]); \
        for (size_t d = cells - at; d < cells; d++) to[d] = (type)(to[d] + row[d - (cells - at)]); \
    } while (0)

void portable_narrow_turned(void *sum, const void *rows, const uint64_t *turn, size_t count, size_t cells, unsigned n)
{
    for (size_t i = 0; i < count; i++) {
        size_t at = (size_t)turn[i];
        if (narrow_bytes(n) == 1) TURNED(uint8_t);
        else if (narrow_bytes(n) == 2) TURNED(uint16_t);
        else TURNED(uint32_t);
    }
}

#define ONEHOT(type) EACH(type, for (size_t c = 0; c < cells; c++) w[i * cells + c] = (type)((c == point[i]) - w[i * cells + c]);)

void portable_narrow_onehot(void *words, const uint64_t *point, size_t count, size_t cells, unsigned n)
{
    for (size_t i = 0; i < count; i++) {
        if (narrow_bytes(n) == 1) ONEHOT(uint8_t);
        else if (narrow_bytes(n) == 2) ONEHOT(uint16_t);
        else ONEHOT(uint32_t);
    }
}

void narrow_unpack(void *words, const uint8_t *in, size_t len, unsigned n)
{
    ASSERT(n >= 1 && n <= 32);
    num_kernel->narrow_unpack(words, in, len, n);
}

void narrow_pack(uint8_t *out, const void *words, size_t len, unsigned n)
{
    ASSERT(n >= 1 && n <= 32);
    num_kernel->narrow_pack(out, words, len, n);
}

void narrow_turned(void *sum, const void *rows, const uint64_t *turn, size_t count, size_t cells, unsigned n)
{
    ASSERT(cells && (cells & (cells - 1)) == 0 && n >= 1 && n <= 32);
    num_kernel->narrow_turned(sum, rows, turn, count, cells, n);
}

void narrow_onehot(void *words, const uint64_t *point, size_t count, size_t cells, unsigned n)
{
    ASSERT(n >= 1 && n <= 32);
    num_kernel->narrow_onehot(words, point, count, cells, n);
}

uint64_t narrow_packed(const uint8_t *in, size_t at, unsigned n)
{
    size_t bit = at * n, from = bit / 8, size = (bit + n + 7) / 8 - from;
    uint64_t v = 0;
    memcpy(&v, in + from, size);
    return ring_low(v >> bit % 8, n);
}
