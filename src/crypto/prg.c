/* prg.c - streams of masks: AES-128 in counter mode over the kernel that crypto_init chose.
 *
 * Block i of a stream is AES_key(i, 0), the two as little-endian words. A stream is a sequence of bytes, whoever reads it and
 * in whatever pieces: words of n bits are the little-endian integers of the next 1, 2, 4 or 8 bytes, cut to n bits. */
#include "crypto/crypto.h"

#include <string.h>

#include "crypto/aes.h"

static const AesKernel *kernel = &aes_portable;

void crypto_init(bool portable)
{
    kernel = portable ? &aes_portable : aes_kernel(0);
}

const char *crypto_kernels(void)
{
    return kernel->name;
}

void prg_init(Prg *p, const uint8_t key[16])
{
    *p = (Prg){0};
    kernel->expand(p->round_key, key);
}

static void blocks_at(const Prg *p, uint64_t block, uint8_t *out, size_t blocks)
{
    const uint64_t most = (uint64_t)1 << 36;
    ASSERT(block <= most && blocks <= most - block);
    kernel->counter(out, blocks, p->round_key, (const uint64_t[2]){block, 0});
}

static void prg_blocks(Prg *p, uint8_t *out, size_t blocks)
{
    blocks_at(p, p->block, out, blocks);
    p->block += blocks;
}

static uint64_t prg_position(const Prg *p) { return p->block * 16 - p->left_len; }

/* Bytes of the stream from its byte `at` on. */
static void bytes_at(const Prg *p, uint64_t at, uint8_t *out, size_t len)
{
    uint8_t part[16];
    uint64_t block = at / 16;
    size_t skip = (size_t)(at % 16);
    if (skip && len) {
        size_t n = len < 16 - skip ? len : 16 - skip;
        blocks_at(p, block++, part, 1);
        memcpy(out, part + skip, n);
        out += n, len -= n;
    }
    if (len >= 16) blocks_at(p, block, out, len / 16);
    if (len % 16) {
        blocks_at(p, block + len / 16, part, 1);
        memcpy(out + len / 16 * 16, part, len % 16);
    }
    wipe(part, sizeof part);
}

void prg_skip(Prg *p, uint64_t bytes)
{
    uint64_t to = prg_position(p) + bytes;
    ASSERT(bytes <= (uint64_t)16 << 36);
    p->block = to / 16;
    p->left_len = 0;
    if (to % 16) {
        prg_blocks(p, p->left, 1);
        p->left_len = 16 - (unsigned)(to % 16);
    }
}

void prg_bytes(Prg *p, void *out, size_t len)
{
    uint8_t *to = out;
    size_t n = len < p->left_len ? len : p->left_len;                  // what the last call left of its last block
    memcpy(to, p->left + 16 - p->left_len, n);
    p->left_len -= (unsigned)n;
    to += n;
    len -= n;
    if (len >= 16) {
        prg_blocks(p, to, len / 16);
        to += len / 16 * 16;
        len %= 16;
    }
    if (len > 0) {
        prg_blocks(p, p->left, 1);
        memcpy(to, p->left, len);
        p->left_len = 16 - (unsigned)len;
    }
}

void prg_words_at(const Prg *p, uint64_t skip, uint64_t *out, size_t len, unsigned n)
{
    ASSERT(n >= 1 && n <= 64);
    const uint64_t mask = ~(uint64_t)0 >> (64 - n);
    const unsigned bytes = prg_word_bytes(n);
    uint64_t at = prg_position(p) + skip;
    if (bytes == 8) {
        bytes_at(p, at, (uint8_t *)out, 8 * len);
        if (n < 64) for (size_t i = 0; i < len; i++) out[i] &= mask;
        return;
    }
    uint8_t narrow[4096];                                              // stays in the first cache
    const size_t most = sizeof narrow / bytes;
    const size_t used = (len < most ? len : most) * bytes;
    while (len > 0) {
        size_t now = len < most ? len : most;
        bytes_at(p, at, narrow, now * bytes);
        kernel->widen(out, narrow, now, bytes, mask);
        at += now * bytes;
        out += now;
        len -= now;
    }
    wipe(narrow, used);
}

void prg_words(Prg *p, uint64_t *out, size_t len, unsigned n)
{
    prg_words_at(p, 0, out, len, n);
    prg_skip(p, (uint64_t)len * prg_word_bytes(n));
}
