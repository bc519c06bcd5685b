/* limits.c - what one core gives at best, by the widest unit that it has: the references of `marill bench`.
 *
 * The loops do nothing else and nothing useful. They choose their unit by what the processor has, not by the kernels that
 * num_init chose: a limit is the machine's. */
#include "num/limits.h"

volatile uint64_t limit_sink;

static bool always(void) { return true; }

static uint64_t load_words(const void *data, size_t len, uint64_t times)
{
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (uint64_t t = 0; t < times; t++) {
        const uint64_t *w = data;
        for (size_t i = 0; i + 4 <= len / 8; i += 4) a ^= w[i], b ^= w[i + 1], c ^= w[i + 2], d ^= w[i + 3];
    }
    limit_sink = a ^ b ^ c ^ d;
    return len / 32 * 32 * times;
}

static uint64_t products_words(uint64_t steps)
{
    uint64_t x[8] = {3, 5, 7, 9, 11, 13, 15, 17};
    for (uint64_t s = 0; s < steps; s++)
        for (int i = 0; i < 8; i++) x[i] = x[i] * x[i] + s;
    for (int i = 0; i < 8; i++) limit_sink = x[i];
    return steps * 8;
}

static const Limits portable = {always, NULL, NULL, products_words, load_words};

static const Limits *limits(void)
{
#if defined(__x86_64__)
    if (limits_avx512.runs()) return &limits_avx512;
    if (limits_avx2.runs()) return &limits_avx2;
#endif
    return &portable;
}

uint64_t limit_aes(uint64_t steps) { return limits()->aes ? limits()->aes(steps) : 0; }
uint64_t limit_bytes(uint64_t steps) { return limits()->bytes ? limits()->bytes(steps) : 0; }
uint64_t limit_products(uint64_t steps) { return limits()->products ? limits()->products(steps) : products_words(steps); }
uint64_t limit_load(const void *data, size_t len, uint64_t times) { return limits()->load(data, len, times); }
