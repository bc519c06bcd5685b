/* dropout.c - see dropout.h. */
#include "tune/dropout.h"

#include "base/random.h"
#include "model/layers.h"

#include <string.h>

static uint64_t mix(uint64_t z) { return random_draw(&z); }

uint64_t noise_of(uint64_t seed, uint64_t step, uint64_t sample)
{
    return mix(mix(mix(seed) ^ step) ^ sample) | 1;
}

uint32_t noise_key(uint64_t noise, uint64_t site, size_t row)
{
    return (uint32_t)(mix(mix(noise ^ site * 0xD1B54A32D192ED03u) + row) >> 32);
}

VECTOR_INLINE float kept(uint32_t key, uint32_t column, uint32_t threshold, float scale)
{
    uint32_t h = key ^ (column * 0x9E3779B9u);             // murmur3's finaliser
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    h ^= h >> 16;
    return h >= threshold ? scale : 0.0f;
}

VECTOR_LOOPS static void row_apply(float *restrict out, const float *restrict in, size_t columns, uint32_t key, uint32_t threshold,
                                   float scale)
{
    for (size_t i = 0; i < columns; i++) out[i] = in[i] * kept(key, (uint32_t)i, threshold, scale);
}

VECTOR_LOOPS static void row_add(float *restrict out, const float *restrict in, size_t columns, uint32_t key, uint32_t threshold,
                                 float scale)
{
    for (size_t i = 0; i < columns; i++) out[i] += in[i] * kept(key, (uint32_t)i, threshold, scale);
}

static void rows_walk(float *out, const float *in, const Pack *p, uint64_t site, size_t columns, float share, bool add)
{
    uint32_t threshold = (uint32_t)((double)share * 4294967296.0);
    float scale = 1.0f / (1.0f - share);
    for (size_t i = 0; i < p->samples; i++) {
        for (size_t r = p->start[i]; r < p->start[i + 1]; r++) {
            uint32_t key = noise_key(p->noise[i], site, r - p->start[i]);
            uint32_t least = p->noise[i] ? threshold : 0;
            (add ? row_add : row_apply)(out + r * columns, in + r * columns, columns, key, least, p->noise[i] ? scale : 1.0f);
        }
    }
}

void dropout_apply(float *out, const float *in, const Pack *p, uint64_t site, size_t columns, float share)
{
    rows_walk(out, in, p, site, columns, share, false);
}

void dropout_add(float *d_in, const float *d_out, const Pack *p, uint64_t site, size_t columns, float share)
{
    rows_walk(d_in, d_out, p, site, columns, share, true);
}
