/* matmul_amx.c - products in tiles of 16 outputs by 16 columns of limbs (AMX); limbs.h tells what the columns are.
 *
 * A tile instruction multiplies 16 rows of 64 bytes with 64 bytes of each of 16 columns, some twenty times what a vector
 * does. Small weights are loaded as they lie. A ring matrix is split into limbs as well: limb s of a result is the sum of
 * limb i of the one times limb s - i of the other, i = 0..s, and the limbs above the ring are never computed.
 *
 * Sums have 32 bits. Small weights: LIMBS_LEN bytes of at most 255 * 128, below 2^31. Ring matrices: 8 * STRETCH products of
 * at most 255^2, below 2^32. The tiles hold shares: they are released, which clears them, when a part is done. */
#ifdef __x86_64__
#include "num/limbs.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx512ifma,popcnt,amx-tile,amx-int8")))
#define AMX_INLINE AMX __attribute__((always_inline)) static inline

enum {
    OUTPUTS = 32, TILE = 16, STEP = 64,        // two tiles of outputs; rows or columns, and bytes of k, of a tile
    SMALL_ROWS = 64, WIDE_ROWS = 128,          // at most so many at once
    STRETCH = 1024,                            // words of k of a ring matrix
    PANEL = LIMBS_LEN + 64
};

/* The kernel saves tiles only for processes that have asked for it. */
bool amx_prepare(void)
{
    enum { TILES_AND_INT8 = 1 << 24 | 1 << 25, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & TILES_AND_INT8) != TILES_AND_INT8) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

bool amx_has_bf16(void)
{
    enum { TILES_OF_BF16 = 1 << 22, VECTORS_OF_BF16 = 1 << 5 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & TILES_OF_BF16)) return false;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & VECTORS_OF_BF16;
}

/* Tiles 0..3: sums of two times two; 4, 5: outputs; 6, 7: columns. All of full size. */
AMX static void tiles_begin(void)
{
    struct { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes[i] = STEP, config.rows[i] = TILE;
    __asm__ volatile("" ::: "memory");         // the compiler does not know what the tile instructions read
    _tile_loadconfig(&config);
}

/* Where tiles of outputs lie: the second 16 of them `half` bytes from the first; the next STEP bytes of k at `step`. */
typedef struct { const uint8_t *at; size_t pitch, half, step; } Outputs;

/* sum += outputs times one or two tiles of columns, the second one at x + second, over `steps` STEPs of k. */
AMX_INLINE void tiles_add(const Outputs *o, const uint8_t *x, size_t second, size_t steps, bool two, bool is_signed)
{
    const uint8_t *w = o->at;
    __asm__ volatile("" ::: "memory");
    for (size_t i = 0; i < steps; i++) {
        _tile_loadd(6, x, STEP);
        _tile_loadd(4, w, o->pitch);
        if (is_signed) _tile_dpbsud(0, 4, 6);
        else _tile_dpbuud(0, 4, 6);
        _tile_loadd(5, w + o->half, o->pitch);
        if (is_signed) _tile_dpbsud(2, 5, 6);
        else _tile_dpbuud(2, 5, 6);
        if (two) {
            _tile_loadd(7, x + second, STEP);
            if (is_signed) _tile_dpbsud(1, 4, 7);
            else _tile_dpbuud(1, 4, 7);
            if (is_signed) _tile_dpbsud(3, 5, 7);
            else _tile_dpbuud(3, 5, 7);
        }
        w += o->step, x += STEP * TILE;
    }
}

AMX_INLINE void tiles_zero(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* sum (32, columns), from a column on. */
AMX_INLINE void tiles_store(int32_t *sum, size_t columns, bool two)
{
    _tile_stored(0, sum, columns * 4);
    _tile_stored(2, sum + TILE * columns, columns * 4);
    if (two) {
        _tile_stored(1, sum + TILE, columns * 4);
        _tile_stored(3, sum + TILE * columns + TILE, columns * 4);
    }
}

/* The words of up to 32 outputs from their sums. */
static void outputs_combine(uint64_t *out, size_t ldo, size_t valid, bool add, LimbSums s)
{
    for (size_t j = 0; j < valid; j += 8, s.sum += 8 * s.columns) limbs_combine(out + j, ldo, valid - j < 8 ? valid - j : 8, add, &s);
}

// ---- small weights ---------------------------------------------------------------------------------------------------

typedef struct { size_t row, rows, at, len; } Block;               // of x: rows, and words of k

AMX static void linear_block(const Linear *p, size_t begin, size_t end, const Limbs *l, Block b)
{
    _Alignas(64) uint8_t panel[OUTPUTS * PANEL];
    _Alignas(64) int32_t sum[OUTPUTS * SMALL_ROWS * 8];
    uint64_t plus[SMALL_ROWS];
    for (size_t r = 0; r < b.rows && p->bytes == 2; r++) plus[r] = words_sum(p->x + (b.row + r) * p->k + b.at, b.len) << 7;
    LimbSums s = {sum, l->columns, b.rows, (p->bits + 7) / 8, true, p->bytes == 2 ? plus : NULL};
    size_t size = b.len * p->bytes, pitch = p->k * p->bytes, steps = (size + STEP - 1) / STEP, copied = 0;
    for (size_t j = begin; j < end; j += OUTPUTS) {
        size_t valid = end - j < OUTPUTS ? end - j : OUTPUTS;
        const uint8_t *w = (const uint8_t *)p->w + j * pitch + b.at * p->bytes;
        Outputs o = {w, pitch, TILE * pitch, STEP};
        if (p->bytes == 2 || valid < OUTPUTS || size % STEP) {
            limbs_panel(panel, PANEL, w, pitch, OUTPUTS, valid, size, p->bytes);
            o = (Outputs){panel, PANEL, TILE * PANEL, STEP};
            copied = sizeof panel;
        }
        for (size_t c = 0; c < l->columns; c += 2 * TILE) {
            bool two = c + 2 * TILE <= l->columns;
            tiles_zero();
            if (two) tiles_add(&o, l->at + c * l->stretch, TILE * l->stretch, steps, true, true);
            else tiles_add(&o, l->at + c * l->stretch, 0, steps, false, true);
            tiles_store(sum + c, l->columns, two);
        }
        outputs_combine(p->out + b.row * p->n + j, p->n, valid, b.at > 0, s);
    }
    wipe(panel, copied);                       // W may be private
    wipe(sum, OUTPUTS * l->columns * sizeof *sum);
    wipe(plus, sizeof plus);
}

AMX void amx_linear(const Linear *p, size_t begin, size_t end)
{
    if (p->k == 0 || p->rows < 2) {            // one row is bound by memory
        avx512_linear(p, begin, end);
        return;
    }
    _Alignas(64) uint8_t space[LIMBS_SIZE];
    unsigned count = (p->bits + 7) / 8;
    tiles_begin();
    for (Block b = {.row = 0}; b.row < p->rows; b.row += SMALL_ROWS) {
        b.rows = p->rows - b.row < SMALL_ROWS ? p->rows - b.row : SMALL_ROWS;
        Limbs l = limbs_layout(space, b.rows, count, p->k * p->bytes);
        size_t stretch = l.stretch / p->bytes;
        for (b.at = 0; b.at < p->k; b.at += stretch) {
            b.len = p->k - b.at < stretch ? p->k - b.at : stretch;
            limbs_make(&l, p->x + b.row * p->k + b.at, p->k, b.rows, b.len, p->bytes, count);
            linear_block(p, begin, end, &l, b);
        }
        wipe(space, l.columns * l.stretch);    // shares
    }
    _tile_release();
}

// ---- ring matrices ---------------------------------------------------------------------------------------------------

/* The limbs of 64 words, as vectors of bytes. */
AMX_INLINE void limbs_of64(__m512i v[8], const uint64_t *x, size_t left)
{
    const __m512i by_limb = _mm512_add_epi64(_mm512_set1_epi64(0x3830282018100800),
        _mm512_set_epi64(0x0707070707070707, 0x0606060606060606, 0x0505050505050505, 0x0404040404040404,
                         0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0));
    UNROLL for (size_t i = 0; i < 8; i++) {
        __m512i words = left >= 64 ? _mm512_loadu_si512(x + 8 * i)
                                   : _mm512_maskz_loadu_epi64(lanes(left > 8 * i ? left - 8 * i : 0), left > 8 * i ? x + 8 * i : x);
        v[i] = _mm512_permutexvar_epi8(by_limb, words);
    }
    transpose8(v);
}

/* plane[limb][step][tile of outputs]: tiles of 16 rows by 64 bytes, for `valid` rows of B; others are zeros. */
AMX static void planes_make(uint8_t *plane, const uint64_t *b, size_t ldb, size_t valid, size_t len, unsigned count)
{
    size_t steps = (len + STEP - 1) / STEP;
    for (size_t j = 0; j < OUTPUTS; j++)
        for (size_t s = 0; s < steps; s++) {
            __m512i v[8];
            if (j < valid) limbs_of64(v, b + j * ldb + s * STEP, len - s * STEP);
            else UNROLL for (int i = 0; i < 8; i++) v[i] = _mm512_setzero_si512();
            uint8_t *to = plane + (2 * s + j / TILE) * (TILE * STEP) + j % TILE * STEP;
            UNROLL for (unsigned limb = 0; limb < 8; limb++)
                if (limb < count) _mm512_store_si512(to + limb * steps * (2 * TILE * STEP), v[limb]);
        }
}

AMX static void matmul_block(const Matmul *p, size_t begin, size_t end, const Limbs *l, Block b)
{
    _Alignas(64) uint8_t plane[8 * OUTPUTS * STRETCH];
    _Alignas(64) int32_t sum[OUTPUTS * WIDE_ROWS * 8];
    unsigned count = (p->bits + 7) / 8;
    size_t steps = (b.len + STEP - 1) / STEP;
    LimbSums s = {sum, l->columns, b.rows, count, false, NULL};
    for (size_t j = begin; j < end; j += OUTPUTS) {
        size_t valid = end - j < OUTPUTS ? end - j : OUTPUTS;
        planes_make(plane, p->b + j * p->ldb + b.at, p->ldb, valid, b.len, count);
        for (unsigned limb = 0; limb < count; limb++)
            for (size_t row = 0; row < b.rows; row += 2 * TILE) {
                bool two = row + 2 * TILE <= b.rows;
                tiles_zero();
                for (unsigned i = 0; i <= limb; i++) {
                    Outputs o = {plane + i * steps * (2 * TILE * STEP), STEP, TILE * STEP, 2 * TILE * STEP};
                    const uint8_t *x = l->at + ((limb - i) * b.rows + row) * l->stretch;
                    if (two) tiles_add(&o, x, TILE * l->stretch, steps, true, false);
                    else tiles_add(&o, x, 0, steps, false, false);
                }
                tiles_store(sum + limb * b.rows + row, l->columns, two);
            }
        outputs_combine(p->out + b.row * p->ldo + j, p->ldo, valid, p->accumulate || b.at > 0, s);
    }
    wipe(plane, count * steps * (2 * TILE * STEP));
    wipe(sum, OUTPUTS * l->columns * sizeof *sum);
}

/* Whole tiles of rows here; the rest is for vectors, and so are few rows where six or seven limbs compete with one product
 * of 52 bits: splitting B takes about as long as 16 rows. */
AMX void amx_matmul(const Matmul *p, size_t begin, size_t end)
{
    size_t whole = p->rows / TILE * TILE, least = p->bits > 40 && p->bits <= 52 ? 2 * TILE : TILE;
    if (p->k < STEP || whole < least) whole = 0;
    if (whole) {
        _Alignas(64) uint8_t space[LIMBS_SIZE];
        unsigned count = (p->bits + 7) / 8;
        tiles_begin();
        for (Block b = {.row = 0}; b.row < whole; b.row += WIDE_ROWS) {
            b.rows = whole - b.row < WIDE_ROWS ? whole - b.row : WIDE_ROWS;
            Limbs l = limbs_layout(space, b.rows, count, p->k < STRETCH ? p->k : STRETCH);
            for (b.at = 0; b.at < p->k; b.at += l.stretch) {
                b.len = p->k - b.at < l.stretch ? p->k - b.at : l.stretch;
                limbs_make(&l, p->a + b.row * p->lda + b.at, p->lda, b.rows, b.len, 1, count);
                matmul_block(p, begin, end, &l, b);
            }
            wipe(space, l.columns * l.stretch);                                // shares
        }
        _tile_release();
    }
    Matmul rest = *p;
    rest.rows -= whole, rest.a += whole * p->lda, rest.out += whole * p->ldo;
    if (rest.rows) avx512_matmul(&rest, begin, end);
}
#endif
