/* num.h - numbers: vectors over Z_2^n, their packed form, and products.
 *
 * A ring element of width n (1..64) is kept in a uint64_t whose upper 64-n bits mean nothing: every operation is computed
 * mod 2^64, which is right mod 2^n as well, and only packing, shifting, comparison and decoding look at the width. So a
 * width costs nothing until a value leaves the machine.
 *
 * Each kernel (packing, products, selection) is a file with a portable version and one for each family of processors;
 * `num_init` picks the best family once, at start. Tests compare them all with the portable one. Nothing here branches, or
 * indexes memory, on the value of an element: elements may be secret. (Selection reads a table row at a *public* offset.)
 */
#ifndef MARILL_NUM_H
#define MARILL_NUM_H

#include "base/base.h"

/* Families of kernels, in the order of their speed. avx512 has VBMI, VNNI and IFMA (Ice Lake, Zen 4 and later); amx is avx512
 * with products in tiles. */
typedef enum { NUM_BEST, NUM_PORTABLE, NUM_AVX2, NUM_AVX512, NUM_AMX } NumFamily;
/* Chooses the best that this processor has, up to `most` (NUM_BEST: all; less for tests and benchmarks). Call it before anything else here. */
void num_init(NumFamily most);
const char *num_kernels(void);                 // "portable", "avx2", "avx512", "amx"
bool num_bf16_tiles(void);                     // amx was chosen, and the processor has tiles of bf16 (AMX-BF16, AVX512-BF16) as well

// ---- ring vectors ----------------------------------------------------------------------------------------------------

static inline uint64_t ring_low(uint64_t x, unsigned n) { return n >= 64 ? x : x & ((UINT64_C(1) << n) - 1); }
static inline int64_t ring_signed(uint64_t x, unsigned n) { return (int64_t)(x << (64 - n)) >> (64 - n); }   // two's complement
/* round(x * 2^f), ties to even, as a two's complement word. Aborts where |x| 2^f >= 2^62. */
uint64_t ring_from_real(double x, unsigned f);

void ring_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len);
void ring_sub(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len);
void ring_add_to(uint64_t *out, const uint64_t *a, size_t len);                        // out += a
void ring_sub_from(uint64_t *out, const uint64_t *a, size_t len);                      // out -= a
void ring_mul(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len);        // elementwise
void ring_mul_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len);    // out += a b, elementwise
/* out[i] = x[i] / 2^k mod 2^(n-k), rounded up (up) or down: the local half of the move `shift` (mpc.h). */
void ring_shift(uint64_t *out, const uint64_t *x, size_t len, unsigned n, unsigned k, bool up);

// ---- packing ---------------------------------------------------------------------------------------------------------

/* n bits a word, little-endian, no gaps; the last byte is padded with zero bits. */
static inline size_t ring_packed_size(size_t len, unsigned n) { return (size_t)(((unsigned __int128)len * n + 7) / 8); }
void ring_pack(uint8_t *out /* ring_packed_size(len, n) */, const uint64_t *x, size_t len, unsigned n);
void ring_unpack(uint64_t *x, const uint8_t *in, size_t len, unsigned n);              // upper bits come out zero

// ---- products --------------------------------------------------------------------------------------------------------

/* Products are right mod 2^bits, bits in 1..64; what a result has above them means nothing. A narrower ring is faster. */

/* out (rows, n) = x (rows, k) W^T, W (n, k) small public or private integers. Threaded over n. */
void ring_linear_i8(uint64_t *out, const uint64_t *x, const int8_t *w, size_t rows, size_t n, size_t k, unsigned bits);
void ring_linear_i16(uint64_t *out, const uint64_t *x, const int16_t *w, size_t rows, size_t n, size_t k, unsigned bits);
/* out (rows, n) (+)= a (rows, k) B^T, B (n, k) with row stride ldb words; a has row stride lda, out ldo. */
void ring_matmul(uint64_t *out, size_t ldo, const uint64_t *a, size_t lda, const uint64_t *b, size_t ldb, size_t rows, size_t n, size_t k,
                 unsigned bits, bool accumulate);
/* out (n) += a (k) B, B (k, n) with row stride ldb words. */
void ring_vecmat_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t ldb, size_t n, size_t k, unsigned bits);
uint64_t ring_dot(const uint64_t *a, const uint64_t *b, size_t len);

// ---- selection -------------------------------------------------------------------------------------------------------

/* A table: rows of one or two columns, one after another, each of `cells` unsigned words (a power of two, at least 8) of
 * bytes[j] (1, 2, 4, 8) each. */
enum { SELECT_COLUMNS = 2 };
typedef struct SelectTable { const void *rows; size_t cells; unsigned columns, bytes[SELECT_COLUMNS]; } SelectTable;
/* Bit vectors (count, cells / 8 bytes), each with the row that it selects from and how far it is turned, both public: bit c of
 * vector i stands for entry (c - turn[i]) mod cells of row low[i]. */
typedef struct Selection {
    const SelectTable *table;
    const uint8_t *bits;
    const uint64_t *low, *turn;                // (count); turn below cells
    uint64_t *sum[SELECT_COLUMNS];             // (count): the words of column j whose bit is set, added up mod 2^(8 bytes[j])
    uint64_t *ones;                            // (count): the number of set bits; may be NULL
} Selection;
/* Every word of a row is read, whatever the bits are. */
void ring_select(const Selection *s, size_t count);
/* sign[i] = 1 if bit point[i] of vector i is set, else -1 mod 2^64; flip: and the bit is flipped. Points are secret: every byte of
 * a vector is touched. */
void ring_onehot(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t count, size_t cells, bool flip);

// ---- narrow words ----------------------------------------------------------------------------------------------------

/* Words of n bits, n <= 32, in as few bytes each; bits above n mean nothing. */
static inline unsigned narrow_bytes(unsigned n) { return n <= 8 ? 1 : n <= 16 ? 2 : 4; }
void narrow_unpack(void *words, const uint8_t *in, size_t len, unsigned n);            // of ring_pack's form; upper bits come out zero
void narrow_pack(uint8_t *out, const void *words, size_t len, unsigned n);
uint64_t narrow_packed(const uint8_t *in, size_t at, unsigned n);                      // one word of the packed form; `at` is public
/* sum[d] += rows[i][(turn[i] + d) mod cells] for every i; rows (count, cells), cells a power of two, turns below it and public. */
void narrow_turned(void *sum, const void *rows, const uint64_t *turn, size_t count, size_t cells, unsigned n);
/* words[i][c] := (c == point[i]) - words[i][c]; words (count, cells), points secret; one beyond the cells is nowhere. */
void narrow_onehot(void *words, const uint64_t *point, size_t count, size_t cells, unsigned n);

// ---- limits ----------------------------------------------------------------------------------------------------------

/* What one core gives at best, for benchmarks: each call keeps one unit busy, from registers or from the given memory, and
 * returns how many operations that was (the caller takes the time), or 0 where the processor has no such unit. */
uint64_t limit_aes(uint64_t steps);            // AES-128 blocks
uint64_t limit_bytes(uint64_t steps);          // multiply-adds of bytes into 32 bits (VNNI where there is any)
uint64_t limit_products(uint64_t steps);       // wide multiply-adds: 52 bits (IFMA), or 64 without it
uint64_t limit_load(const void *data, size_t len, uint64_t times);           // bytes; data is read so many times over

#endif
