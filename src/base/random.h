/* random.h - numbers that follow from a seed: starting weights, orders, samples, models for measuring.
 *
 * The generator is splitmix64 (Steele, Lea and Flood 2014): a counter, finished by a mixing function. Runs with equal seeds are equal,
 * so what it yields never changes. It is no source of keys or masks: those come from crypto.h. */
#ifndef MARILL_RANDOM_H
#define MARILL_RANDOM_H

#include "base/base.h"

#define RANDOM_STEP UINT64_C(0x9E3779B97F4A7C15)              // 2^64 over the golden ratio, odd

/* The mixing function: a bijection of words in which every bit of z moves half of the result's. 0 stays 0. */
static inline uint64_t random_mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* The next 64 bits; *state may start as any number. */
static inline uint64_t random_draw(uint64_t *state) { return random_mix(*state += RANDOM_STEP); }

/* Uniform in [0, 1), of 53 bits. */
static inline double random_unit(uint64_t *state) { return (double)(random_draw(state) >> 11) * 0x1p-53; }

/* Uniform in 0..n-1. */
static inline size_t random_index(uint64_t *state, size_t n) { return (size_t)((unsigned __int128)random_draw(state) * n >> 64); }

#endif
