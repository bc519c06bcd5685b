/* aes.c - AES-128 in plain C, without a table or a branch that a secret could select.
 *
 * Bitsliced: bit b of 64 bytes (four blocks) lies in one word, q[b], so that the S-box is a circuit of ANDs and XORs. Four such
 * words side by side make a Slice, 16 blocks in all, which the compiler maps to whatever vectors the machine has. Byte k of
 * the i-th 8-byte word of the input lies at bit 8 k + i: within a block (words 2m and 2m + 1), the row of the AES state is
 * k mod 4 and its column 2 (i mod 2) + k / 4. So rows are turned by rotating the 32-bit halves of a word by bytes.
 *
 * The S-box is the circuit of Boyar and Peralta ("A depth-16 circuit for the AES S-box", ePrint 2011/332), in their names. */
#include "crypto/aes.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "Marill's formats and kernels are little-endian");

typedef uint64_t Slice __attribute__((vector_size(32)));
enum { LANES = 4, BLOCKS = 4 * LANES, ROUNDS = 10 };

static void sub_bytes(Slice q[8])
{
    Slice x0 = q[7], x1 = q[6], x2 = q[5], x3 = q[4], x4 = q[3], x5 = q[2], x6 = q[1], x7 = q[0];
    Slice y14 = x3 ^ x5, y13 = x0 ^ x6, y9 = x0 ^ x3, y8 = x0 ^ x5, t0 = x1 ^ x2, y1 = t0 ^ x7, y4 = y1 ^ x3;
    Slice y12 = y13 ^ y14, y2 = y1 ^ x0, y5 = y1 ^ x6, y3 = y5 ^ y8, t1 = x4 ^ y12, y15 = t1 ^ x5, y20 = t1 ^ x1;
    Slice y6 = y15 ^ x7, y10 = y15 ^ t0, y11 = y20 ^ y9, y7 = x7 ^ y11, y17 = y10 ^ y11, y19 = y10 ^ y8;
    Slice y16 = t0 ^ y11, y21 = y13 ^ y16, y18 = x0 ^ y16;

    Slice t2 = y12 & y15, t3 = y3 & y6, t4 = t3 ^ t2, t5 = y4 & x7, t6 = t5 ^ t2, t7 = y13 & y16, t8 = y5 & y1, t9 = t8 ^ t7;
    Slice t10 = y2 & y7, t11 = t10 ^ t7, t12 = y9 & y11, t13 = y14 & y17, t14 = t13 ^ t12, t15 = y8 & y10, t16 = t15 ^ t12;
    Slice t17 = t4 ^ t14, t18 = t6 ^ t16, t19 = t9 ^ t14, t20 = t11 ^ t16;
    Slice t21 = t17 ^ y20, t22 = t18 ^ y19, t23 = t19 ^ y21, t24 = t20 ^ y18;

    Slice t25 = t21 ^ t22, t26 = t21 & t23, t27 = t24 ^ t26, t28 = t25 & t27, t29 = t28 ^ t22, t30 = t23 ^ t24, t31 = t22 ^ t26;
    Slice t32 = t31 & t30, t33 = t32 ^ t24, t34 = t23 ^ t33, t35 = t27 ^ t33, t36 = t24 & t35, t37 = t36 ^ t34, t38 = t27 ^ t36;
    Slice t39 = t29 & t38, t40 = t25 ^ t39;

    Slice t41 = t40 ^ t37, t42 = t29 ^ t33, t43 = t29 ^ t40, t44 = t33 ^ t37, t45 = t42 ^ t41;
    Slice z0 = t44 & y15, z1 = t37 & y6, z2 = t33 & x7, z3 = t43 & y16, z4 = t40 & y1, z5 = t29 & y7, z6 = t42 & y11;
    Slice z7 = t45 & y17, z8 = t41 & y10, z9 = t44 & y12, z10 = t37 & y3, z11 = t33 & y4, z12 = t43 & y13, z13 = t40 & y5;
    Slice z14 = t29 & y2, z15 = t42 & y9, z16 = t45 & y14, z17 = t41 & y8;

    Slice t46 = z15 ^ z16, t47 = z10 ^ z11, t48 = z5 ^ z13, t49 = z9 ^ z10, t50 = z2 ^ z12, t51 = z2 ^ z5, t52 = z7 ^ z8;
    Slice t53 = z0 ^ z3, t54 = z6 ^ z7, t55 = z16 ^ z17, t56 = z12 ^ t48, t57 = t50 ^ t53, t58 = z4 ^ t46, t59 = z3 ^ t54;
    Slice t60 = t46 ^ t57, t61 = z14 ^ t57, t62 = t52 ^ t58, t63 = t49 ^ t58, t64 = z4 ^ t59, t65 = t61 ^ t62, t66 = z1 ^ t63;
    Slice t67 = t64 ^ t65, s3 = t53 ^ t66;
    q[7] = t59 ^ t63;
    q[6] = t64 ^ ~s3;
    q[5] = t55 ^ ~t67;
    q[4] = s3;
    q[3] = t51 ^ t66;
    q[2] = t47 ^ t65;
    q[1] = t56 ^ ~t62;
    q[0] = t48 ^ ~t60;
}

static void swap_bits(Slice *a, Slice *b, unsigned by, uint64_t low)      // the high bits of each group of *a with the low of *b
{
    Slice x = *a, y = *b;
    *a = (x & low) | ((y & low) << by);
    *b = ((x & ~low) >> by) | (y & ~low);
}

static void transpose(Slice q[8])               // words to slices; its own inverse
{
    for (int i = 0; i < 8; i += 2) swap_bits(&q[i], &q[i + 1], 1, 0x5555555555555555u);
    for (int i = 0; i < 8; i += 4) {
        swap_bits(&q[i], &q[i + 2], 2, 0x3333333333333333u);
        swap_bits(&q[i + 1], &q[i + 3], 2, 0x3333333333333333u);
    }
    for (int i = 0; i < 4; i++) swap_bits(&q[i], &q[i + 4], 4, 0x0F0F0F0F0F0F0F0Fu);
}

static void shift_rows(Slice q[8])
{
    for (int i = 0; i < 8; i++) {
        Slice x = q[i];
        Slice row1 = ((x & 0x0000FF0000000000u) >> 32) | ((x & 0x000000000000AA00u) << 31) | ((x & 0x0000000000005500u) << 33);
        Slice row2 = ((x & 0x0055000000550000u) << 1) | ((x & 0x00AA000000AA0000u) >> 1);
        Slice row3 = ((x & 0x00000000FF000000u) << 32) | ((x & 0xAA00000000000000u) >> 33) | ((x & 0x5500000000000000u) >> 31);
        q[i] = (x & 0x000000FF000000FFu) | row1 | row2 | row3;
    }
}

/* out_r = 2 (a_r + a_(r+1)) + a_(r+1) + a_(r+2) + a_(r+3) over the rows r of each column. */
static void mix_columns(Slice q[8])
{
    Slice next[8], sum[8], pair[8];
    for (int i = 0; i < 8; i++) {
        next[i] = ((q[i] >> 8) & 0x00FFFFFF00FFFFFFu) | ((q[i] << 24) & 0xFF000000FF000000u);
        sum[i] = q[i] ^ next[i];
        pair[i] = ((sum[i] >> 16) & 0x0000FFFF0000FFFFu) | ((sum[i] << 16) & 0xFFFF0000FFFF0000u);
    }
    for (int i = 0; i < 8; i++) {
        Slice twice = i > 0 ? sum[i - 1] : sum[7];
        if (i == 1 || i == 3 || i == 4) twice ^= sum[7];               // x^8 = x^4 + x^3 + x + 1
        q[i] = twice ^ next[i] ^ pair[i];
    }
}

static void add_key(Slice q[8], const uint64_t key[8])
{
    for (int i = 0; i < 8; i++) q[i] ^= key[i];
}

static uint32_t sub_word(uint32_t w)
{
    Slice q[8] = {{w}};
    transpose(q);
    sub_bytes(q);
    transpose(q);
    return (uint32_t)q[0][0];
}

static void portable_expand(uint32_t round_key[44], const uint8_t key[16])
{
    uint32_t constant = 1;
    memcpy(round_key, key, 16);
    for (int i = 4; i < 44; i++) {
        uint32_t w = round_key[i - 1];
        if (i % 4 == 0) {
            w = sub_word((w >> 8) | (w << 24)) ^ constant;
            constant = (constant << 1) ^ (constant >> 7 ? 0x11B : 0);
        }
        round_key[i] = round_key[i - 4] ^ w;
    }
}

static void portable_counter(uint8_t *out, size_t blocks, const uint32_t round_key[44], const uint64_t start[2])
{
    uint64_t key[ROUNDS + 1][8];
    for (int r = 0; r <= ROUNDS; r++) {
        Slice q[8];
        uint64_t word[2];
        memcpy(word, round_key + 4 * r, 16);
        for (int i = 0; i < 8; i++) q[i] = (Slice){word[i % 2]};
        transpose(q);
        for (int i = 0; i < 8; i++) key[r][i] = q[i][0];
    }
    for (size_t done = 0; done < blocks; done += BLOCKS) {
        Slice q[8];
        for (unsigned m = 0; m < 4; m++) {
            for (unsigned lane = 0; lane < LANES; lane++) {
                q[2 * m][lane] = start[0] + done + 4 * lane + m;
                q[2 * m + 1][lane] = start[1];
            }
        }
        transpose(q);
        add_key(q, key[0]);
        for (int r = 1; r <= ROUNDS; r++) {
            sub_bytes(q);
            shift_rows(q);
            if (r < ROUNDS) mix_columns(q);
            add_key(q, key[r]);
        }
        transpose(q);
        size_t n = blocks - done < BLOCKS ? blocks - done : BLOCKS;
        for (size_t b = 0; b < n; b++) {
            uint64_t word[2] = {q[2 * (b % 4)][b / 4], q[2 * (b % 4) + 1][b / 4]};
            memcpy(out + 16 * (done + b), word, 16);
        }
    }
    wipe(key, sizeof key);
}

static void portable_widen(uint64_t *out, const uint8_t *in, size_t len, unsigned bytes, uint64_t mask)
{
    if (bytes == 1) {
        for (size_t i = 0; i < len; i++) out[i] = in[i] & mask;
    } else if (bytes == 2) {
        for (size_t i = 0; i < len; i++) {
            uint16_t w;
            memcpy(&w, in + 2 * i, sizeof w);
            out[i] = w & mask;
        }
    } else {
        for (size_t i = 0; i < len; i++) {
            uint32_t w;
            memcpy(&w, in + 4 * i, sizeof w);
            out[i] = w & mask;
        }
    }
}

const AesKernel aes_portable = {"portable", portable_expand, portable_counter, portable_widen};

const AesKernel *aes_kernel(unsigned i)
{
    const AesKernel *runs[3];
    unsigned n = 0;
#if defined(__x86_64__)
    if (aes_vaes_runs()) runs[n++] = &aes_vaes;
    if (aes_ni_runs()) runs[n++] = &aes_ni;
#endif
    runs[n++] = &aes_portable;
    return i < n ? runs[i] : NULL;
}
