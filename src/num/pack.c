/* pack.c - the packed form of ring vectors: n bits a word, no gaps. What is done depends on n and len alone. */
#include "num/kernels.h"

#include <string.h>

void portable_pack(uint8_t *out, const uint64_t *x, size_t len, unsigned n)
{
    uint64_t word = 0;                         // the bits that are not yet written, `fill` of them
    unsigned fill = 0;
    for (size_t i = 0; i < len; i++) {
        uint64_t v = ring_low(x[i], n);
        word |= v << fill;
        if (fill + n < 64) {
            fill += n;
            continue;
        }
        memcpy(out, &word, 8);
        out += 8;
        word = fill ? v >> (64 - fill) : 0;
        fill = fill + n - 64;
    }
    memcpy(out, &word, (fill + 7) / 8);
}

/* The word of n bits at bit `bit` of `in`, where 9 bytes may be read. */
static uint64_t word_at(const uint8_t *in, size_t bit, unsigned n)
{
    uint64_t low;
    memcpy(&low, in + bit / 8, 8);
    unsigned shift = bit % 8;
    uint64_t high = (uint64_t)in[bit / 8 + 8] << 1 << (63 - shift);           // a shift by 64, where shift is 0
    return ring_low(low >> shift | high, n);
}

void portable_unpack(uint64_t *x, const uint8_t *in, size_t len, unsigned n)
{
    size_t size = ring_packed_size(len, n), i = 0;
    if (size >= 9) {
        size_t safe = ((size - 9) * 8 + 7) / n + 1;                           // words that begin no later than 9 bytes before the end
        for (; i < len && i < safe; i++) x[i] = word_at(in, i * n, n);
    }
    uint8_t tail[32] = {0};
    size_t from = i * n / 8;
    ASSERT(size - from < sizeof tail - 9);
    memcpy(tail, in + from, size - from);
    for (; i < len; i++) x[i] = word_at(tail, i * n - from * 8, n);
}

void ring_pack(uint8_t *out, const uint64_t *x, size_t len, unsigned n)
{
    ASSERT(n >= 1 && n <= 64);
    num_kernel->pack(out, x, len, n);
}

void ring_unpack(uint64_t *x, const uint8_t *in, size_t len, unsigned n)
{
    ASSERT(n >= 1 && n <= 64);
    num_kernel->unpack(x, in, len, n);
}
