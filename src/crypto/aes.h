/* aes.h - private to crypto/: the AES-128 kernels behind prg.c.
 *
 * All of them compute the same function of the same round keys, so a stream does not depend on the machine. The round keys
 * lie in memory as FIPS 197 numbers their bytes. A counter block is two little-endian words, (start[0] + i, start[1]). */
#ifndef MARILL_AES_H
#define MARILL_AES_H

#include "base/base.h"

typedef struct AesKernel {
    const char *name;
    void (*expand)(uint32_t round_key[44], const uint8_t key[16]);
    /* out: 16 * blocks bytes, the encrypted counter blocks i = 0 .. blocks - 1. */
    void (*counter)(uint8_t *out, size_t blocks, const uint32_t round_key[44], const uint64_t start[2]);
    /* out[i] = the i-th little-endian integer of `bytes` (1, 2 or 4) bytes in `in`, masked. */
    void (*widen)(uint64_t *out, const uint8_t *in, size_t len, unsigned bytes, uint64_t mask);
} AesKernel;

/* The kernels that this processor runs, from the fastest (0) to the portable one (the last); NULL after that. */
const AesKernel *aes_kernel(unsigned i);
extern const AesKernel aes_portable;
#if defined(__x86_64__)
extern const AesKernel aes_ni, aes_vaes;
bool aes_ni_runs(void);
bool aes_vaes_runs(void);
#endif

#endif
