/* product_amx.c - products of floats rounded to bf16, in tiles of 16 by 16 sums (AMX-BF16).
 *
 * A tile instruction adds to 16 rows by 16 columns of float sums the products of 32 columns of A with 32 rows of B, one such
 * instruction in 16 cycles: some ten times what vectors of floats do. The operands are rounded and packed on the way: a block
 * of B, which stays in the second-level cache, and then 32 rows of A at a time, which stay in the first.
 *
 * Both are packed in *panels* of 32 lines (rows of A, columns of B), each a sequence of steps of 32 in k, each step two tiles
 * of 16 lines. A tile is 16 rows of 16 pairs of neighbours in k: of A a row for each line, of B a row for each pair. What lies
 * the other way in memory is turned with 16 by 16 moves of pairs. Lines and pairs beyond the edges are zeros. */
#include "model/product_amx.h"

#ifdef __x86_64__
#include <immintrin.h>
#include <pthread.h>
#include <stdlib.h>

#define AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")))
#define AMX_INLINE AMX __attribute__((always_inline)) static inline
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum {
    TILE = 16, PANEL = 32, STEP = 32,          // lines of a tile and of a panel; k of a step
    TILE_BYTES = 1024, STEP_BYTES = 2 * TILE_BYTES, PITCH = 64,
    DEPTH = 1024,                              // k at a time
    A_BYTES = DEPTH / STEP * STEP_BYTES, B_BYTES = 8 * A_BYTES     // at most so much of A, and of B
};

typedef struct Scratch { uint8_t a[A_BYTES], b[B_BYTES]; } Scratch;

// ---- scratch of a thread ---------------------------------------------------------------------------------------------

static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static pthread_key_t scratch_key;

static void scratch_start(void)
{
    if (pthread_key_create(&scratch_key, free) != 0) bug("pthread_key_create failed");
}

/* Made at a thread's first product, freed with the thread. */
static Scratch *scratch_get(void)
{
    pthread_once(&scratch_once, scratch_start);
    Scratch *s = pthread_getspecific(scratch_key);
    if (s) return s;
    s = aligned_alloc(4096, sizeof *s);
    if (!s || pthread_setspecific(scratch_key, s) != 0) bug("out of memory: %zu bytes", sizeof *s);
    return s;
}

// ---- packing ---------------------------------------------------------------------------------------------------------

/* An operand: line l, number i in k at at[l * ld + i], or at[i * ld + l] if across. */
typedef struct Operand { const float *at; size_t ld; bool across; } Operand;

AMX_INLINE __mmask16 lanes(size_t left)
{
    return (__mmask16)(left >= 16 ? 0xFFFF : (1u << left) - 1);
}

/* v[l]: the 16 pairs of line l. */
AMX_INLINE void pairs_of_lines(__m512i v[TILE], const float *at, size_t ld, size_t lines, size_t len)
{
    __mmask16 low = lanes(len), high = lanes(len > 16 ? len - 16 : 0);
    UNROLL for (size_t l = 0; l < TILE; l++) {
        const float *from = at + l * ld;
        if (l < lines)
            v[l] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, from + 16), _mm512_maskz_loadu_ps(low, from));
        else v[l] = _mm512_setzero_si512();
    }
}

/* v[p]: pair p of the 16 lines. */
AMX_INLINE void lines_of_pairs(__m512i v[TILE], const float *at, size_t ld, size_t lines, size_t len)
{
    const __m512i by_pair = _mm512_add_epi16(_mm512_set1_epi32(0x00100000), _mm512_set_epi32(
        0x000F000F, 0x000E000E, 0x000D000D, 0x000C000C, 0x000B000B, 0x000A000A, 0x00090009, 0x00080008,
        0x00070007, 0x00060006, 0x00050005, 0x00040004, 0x00030003, 0x00020002, 0x00010001, 0));
    UNROLL for (size_t p = 0; p < TILE; p++) {
        const float *from = at + 2 * p * ld;
        __m512 even = _mm512_maskz_loadu_ps(2 * p < len ? lanes(lines) : 0, from);
        __m512 odd = _mm512_maskz_loadu_ps(2 * p + 1 < len ? lanes(lines) : 0, from + ld);
        v[p] = _mm512_permutexvar_epi16(by_pair, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
    }
}

/* v[i][j] and v[j][i] change places; elements are pairs. */
AMX_INLINE void turn16(__m512i v[TILE])
{
    __m512i t[TILE];
    UNROLL for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    UNROLL for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]), v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]), v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {       // v[i], v[i + 4], ..: column 4 q + i in quarter q
        __m512i a = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88), b = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xDD);
        __m512i c = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88), d = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xDD);
        t[i] = _mm512_shuffle_i32x4(a, c, 0x88), t[i + 8] = _mm512_shuffle_i32x4(a, c, 0xDD);
        t[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88), t[i + 12] = _mm512_shuffle_i32x4(b, d, 0xDD);
    }
    UNROLL for (int i = 0; i < 16; i++) v[i] = t[i];
}

/* One tile; by_line: a row for each line (A), else for each pair (B). */
AMX static void tile_pack(uint8_t *to, const Operand *o, size_t line, size_t lines, size_t at, size_t len, bool by_line)
{
    __m512i v[TILE];
    if (o->across) lines_of_pairs(v, o->at + at * o->ld + line, o->ld, lines, len);
    else pairs_of_lines(v, o->at + line * o->ld + at, o->ld, lines, len);
    if (o->across == by_line) turn16(v);
    UNROLL for (size_t i = 0; i < TILE; i++) _mm512_store_si512(to + i * PITCH, v[i]);
}

/* Up to 32 lines from `line` on, k from `at` on. */
AMX static void panel_pack(uint8_t *to, const Operand *o, size_t line, size_t lines, size_t at, size_t len, bool by_line)
{
    for (size_t done = 0; done < len; done += STEP, to += STEP_BYTES) {
        tile_pack(to, o, line, lines, at + done, len - done, by_line);
        if (lines > TILE) tile_pack(to + TILE_BYTES, o, line + TILE, lines - TILE, at + done, len - done, by_line);
    }
}

// ---- tiles -----------------------------------------------------------------------------------------------------------

/* Tiles 0..3: sums of two by two; 4, 5: A; 6, 7: B. All of full size. */
AMX static void tiles_begin(void)
{
    struct { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes[i] = PITCH, config.rows[i] = TILE;
    __asm__ volatile("" ::: "memory");         // the compiler does not know what the tile instructions read
    _tile_loadconfig(&config);
}

AMX_INLINE void tiles_zero(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* The second halves of panels of at most 16 lines are not there. */
AMX_INLINE void tiles_add(const uint8_t *a, const uint8_t *b, size_t steps, bool two_a, bool two_b)
{
    __asm__ volatile("" ::: "memory");
    for (; steps; steps--, a += STEP_BYTES, b += STEP_BYTES) {
        _tile_loadd(4, a, PITCH);
        _tile_loadd(6, b, PITCH);
        _tile_dpbf16ps(0, 4, 6);
        if (two_b) {
            _tile_loadd(7, b + TILE_BYTES, PITCH);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (two_a) {
            _tile_loadd(5, a + TILE_BYTES, PITCH);
            _tile_dpbf16ps(2, 5, 6);
            if (two_b) _tile_dpbf16ps(3, 5, 7);
        }
    }
}

/* 32 by 32 of out as they lie, alpha 1. */
AMX static void square_whole(float *out, size_t ld, bool add, const uint8_t *a, const uint8_t *b, size_t steps)
{
    size_t pitch = ld * sizeof *out;
    float *low = out + TILE * ld;
    if (add) {
        _tile_loadd(0, out, pitch);
        _tile_loadd(1, out + TILE, pitch);
        _tile_loadd(2, low, pitch);
        _tile_loadd(3, low + TILE, pitch);
    } else tiles_zero();
    tiles_add(a, b, steps, true, true);
    _tile_stored(0, out, pitch);
    _tile_stored(1, out + TILE, pitch);
    _tile_stored(2, low, pitch);
    _tile_stored(3, low + TILE, pitch);
    __asm__ volatile("" ::: "memory");
}

/* At most 32 by 32, at an edge or with a factor. */
AMX static void square_part(float *out, size_t ld, size_t rows, size_t columns, float alpha, bool add, const uint8_t *a, const uint8_t *b,
                            size_t steps)
{
    _Alignas(64) float sum[PANEL * PANEL];
    size_t pitch = PANEL * sizeof *sum;
    bool two_a = rows > TILE, two_b = columns > TILE;
    tiles_zero();
    if (two_a && two_b) tiles_add(a, b, steps, true, true);
    else if (two_a) tiles_add(a, b, steps, true, false);
    else if (two_b) tiles_add(a, b, steps, false, true);
    else tiles_add(a, b, steps, false, false);
    _tile_stored(0, sum, pitch);
    _tile_stored(1, sum + TILE, pitch);
    _tile_stored(2, sum + TILE * PANEL, pitch);
    _tile_stored(3, sum + TILE * PANEL + TILE, pitch);
    __asm__ volatile("" ::: "memory");
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < columns; c += TILE) {
            __mmask16 there = lanes(columns - c);
            __m512 x = _mm512_mul_ps(_mm512_load_ps(sum + r * PANEL + c), _mm512_set1_ps(alpha));
            if (add) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(there, out + r * ld + c));
            _mm512_mask_storeu_ps(out + r * ld + c, there, x);
        }
    }
}

// ---- products --------------------------------------------------------------------------------------------------------

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* out (m, n) = or += alpha A B, n at most what fits the scratch and k at most DEPTH, both from `at` on in k. */
AMX static void block_multiply(Product how, float *out, size_t ld, const Operand *a, const Operand *b, size_t m, size_t n, size_t at, size_t k)
{
    Scratch *s = scratch_get();
    size_t steps = (k + STEP - 1) / STEP;
    for (size_t j = 0; j < n; j += PANEL) panel_pack(s->b + j / PANEL * steps * STEP_BYTES, b, j, least(n - j, PANEL), at, k, false);
    for (size_t i = 0; i < m; i += PANEL) {
        size_t rows = least(m - i, PANEL);
        panel_pack(s->a, a, i, rows, at, k, true);
        const uint8_t *panel = s->b;
        for (size_t j = 0; j < n; j += PANEL, panel += steps * STEP_BYTES) {
            size_t columns = least(n - j, PANEL);
            float *to = out + i * ld + j;
            if (rows == PANEL && columns == PANEL && how.alpha == 1.0f) square_whole(to, ld, how.accumulate, s->a, panel, steps);
            else square_part(to, ld, rows, columns, how.alpha, how.accumulate, s->a, panel, steps);
        }
    }
}

AMX void product_amx(Product how, float *out, size_t ld_out, const float *a, size_t ld_a, const float *b, size_t ld_b,
                     size_t m, size_t n, size_t k)
{
    tiles_begin();
    for (size_t at = 0; at == 0 || at < k; at += DEPTH) {
        size_t len = least(k - at, DEPTH), bytes = (len + STEP - 1) / STEP * STEP_BYTES;       // of a panel
        size_t wide = bytes ? B_BYTES / bytes * PANEL : n;
        for (size_t j = 0; j < n; j += wide) {
            Operand left = {a, ld_a, how.turn_a}, right = {how.turn_b ? b + j * ld_b : b + j, ld_b, !how.turn_b};
            block_multiply(how, out + j, ld_out, &left, &right, m, least(n - j, wide), at, len);
        }
        how.accumulate = true;
    }
    _tile_release();
}
#else
void product_amx(Product how, float *out, size_t ld_out, const float *a, size_t ld_a, const float *b, size_t ld_b,
                 size_t m, size_t n, size_t k)
{
    (void)how, (void)out, (void)ld_out, (void)a, (void)ld_a, (void)b, (void)ld_b, (void)m, (void)n, (void)k;
    bug("this processor has no tiles");
}
#endif
