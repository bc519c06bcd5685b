/* bench_kernels.c - what the kernels reach of what the machine gives: `bench lookup`, `matmul`, `deal`, `pack`. */
#include "app/bench.h"

#include <stdlib.h>
#include <string.h>

// ---- packing ---------------------------------------------------------------------------------------------------------

enum { PACK_WORDS = 1 << 15 };                 // with their packed form they fill some of the second cache

typedef struct Pack { uint64_t *words; uint8_t *packed; unsigned n; } Pack;

static double pack_bytes(const Pack *p) { return (double)(PACK_WORDS * 8 + ring_packed_size(PACK_WORDS, p->n)); }

static double pack_run(void *ctx, uint64_t times)
{
    const Pack *p = ctx;
    for (uint64_t t = 0; t < times; t++) ring_pack(p->packed, p->words, PACK_WORDS, p->n);
    return (double)times * pack_bytes(p);
}

static double unpack_run(void *ctx, uint64_t times)
{
    const Pack *p = ctx;
    for (uint64_t t = 0; t < times; t++) ring_unpack(p->words, p->packed, PACK_WORDS, p->n);
    return (double)times * pack_bytes(p);
}

Result bench_pack(const BenchArgs *k)
{
    static const unsigned widths[] = {8, 11, 16, 19, 24, 31, 37, 48, 52, 63};
    Figures r = {.name = "pack"};
    uint64_t *words = bench_memory(PACK_WORDS * 8);
    uint8_t *packed = bench_memory(PACK_WORDS * 8);
    LoadBout load = {(const uint8_t *)words, PACK_WORDS * 8};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        Pack p = {words, packed, widths[i]};
        Bout bout[] = {{.run = bout_load, .ctx = &load}, {.run = pack_run, .ctx = &p}, {.run = unpack_run, .ctx = &p}};
        bench_race(bout, 3, k->seconds / 2);
        for (int un = 0; un < 2; un++) {
            Figure *f = figure_rate(&r, "GB/s", 1e9, &bout[1 + un], "%spack words of %u bits", un ? "un" : "", p.n);
            figure_hold(f, &bout[1 + un], &bout[0], 1, "L2 loads", ASK_NOTHING, 0);
        }
    }
    free(words), free(packed);
    figures_print(&r, k->json);
    return OK;
}

// ---- seed expansion --------------------------------------------------------------------------------------------------

enum { DEAL_WORDS = 3072 };                    // a row of the widest wire of a GPT-2 block

typedef struct Deal { Prg prg; uint64_t *out; unsigned n; } Deal;    // n 0: bytes

static double deal_run(void *ctx, uint64_t times)                   // in AES blocks
{
    Deal *d = ctx;
    d->prg.block = 0;
    for (uint64_t t = 0; t < times; t++) {
        if (d->n) prg_words(&d->prg, d->out, DEAL_WORDS, d->n);
        else prg_bytes(&d->prg, d->out, DEAL_WORDS * 8);
    }
    unsigned bytes = d->n > 32 || !d->n ? 8 : d->n > 16 ? 4 : d->n > 8 ? 2 : 1;
    return (double)times * DEAL_WORDS * bytes / 16;
}

Result bench_deal(const BenchArgs *k)
{
    static const unsigned widths[] = {0, 64, 45, 32, 19, 16, 11, 8};
    Figures r = {.name = "deal"};
    uint8_t key[KEY_BYTES];
    random_bytes(key, sizeof key);
    Deal d = {.out = bench_memory(DEAL_WORDS * 8)};
    prg_init(&d.prg, key);
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        d.n = widths[i];
        Bout bout[] = {{.run = bout_aes}, {.run = deal_run, .ctx = &d}};
        bench_race(bout, 2, k->seconds);
        bout[0].best /= threads_count();       // the streams run on one thread here
        Figure *f = d.n ? figure_rate(&r, "G/s", 1e9, &bout[1], "blocks as words of %u bits", d.n)
                        : figure_rate(&r, "G/s", 1e9, &bout[1], "blocks as bytes");
        figure_hold(f, &bout[1], &bout[0], 1, "AES limit", ASK_SHARE, 0.6);
    }
    free(d.out);
    figures_print(&r, k->json);
    return OK;
}

// ---- products --------------------------------------------------------------------------------------------------------

typedef struct Product {
    uint64_t *out, *x, *w64;
    void *w;
    unsigned bytes, bits;                      // of a weight; of the ring
    size_t rows, n, k;
} Product;

static double product_work(const Product *p) { return (double)p->rows * (double)p->n * (double)p->k; }

static double linear_run(void *ctx, uint64_t times)
{
    const Product *p = ctx;
    for (uint64_t t = 0; t < times; t++) {
        if (p->bytes == 1) ring_linear_i8(p->out, p->x, p->w, p->rows, p->n, p->k, p->bits);
        else ring_linear_i16(p->out, p->x, p->w, p->rows, p->n, p->k, p->bits);
    }
    return (double)times * product_work(p);
}

static double matmul_run(void *ctx, uint64_t times)
{
    const Product *p = ctx;
    for (uint64_t t = 0; t < times; t++) ring_matmul(p->out, p->n, p->x, p->k, p->w64, p->k, p->rows, p->n, p->k, p->bits, false);
    return (double)times * product_work(p);
}

/* The plain 64-bit loop, as the compiler makes it. */
static double plain_run(void *ctx, uint64_t times)
{
    const Product *p = ctx;
    for (uint64_t t = 0; t < times; t++)
        for (size_t i = 0; i < p->rows; i++)
            for (size_t j = 0; j < p->n; j++) {
                const uint64_t *a = p->x + i * p->k, *b = p->w64 + j * p->k;
                uint64_t sum = 0;
                for (size_t h = 0; h < p->k; h++) sum += a[h] * b[h];
                p->out[i * p->n + j] = sum;
            }
    return (double)times * product_work(p);
}

/* Byte products of a multiplication that is right mod 2^bits: those of limb pairs below the ring's width. */
static double limb_pairs(unsigned bits, unsigned bytes)
{
    unsigned limbs = (bits + 7) / 8;
    return bytes == 1 ? limbs : 2 * limbs - 1;
}

static void linear_figures(Figures *r, const BenchArgs *k)
{
    static const unsigned widths[] = {64, 48, 32};
    enum { ROWS = 32, N = 3072, K = 768 };
    Product p = {.rows = ROWS, .n = N, .k = K};
    p.w = bench_memory((size_t)N * K * 2), p.x = bench_memory((size_t)ROWS * K * 8), p.out = bench_memory((size_t)ROWS * N * 8);
    for (p.bytes = 1; p.bytes <= 2; p.bytes++)
        for (size_t i = 0; i < 3; i++) {
            p.bits = widths[i];
            Bout bout[] = {{.run = bout_bytes}, {.run = linear_run, .ctx = &p}};
            bench_race(bout, 2, k->seconds);
            figure_hold(figure_rate(r, "G/s", 1e9, &bout[1], "%u-bit weights, 32 rows, ring of %u", 8 * p.bytes, p.bits), &bout[1],
                        &bout[0], limb_pairs(p.bits, p.bytes), "byte limit / limb pairs", ASK_SHARE, 0.6);
        }
    free(p.w), free(p.x), free(p.out);
}

static void stream_figures(Figures *r, const BenchArgs *k)
{
    enum { N = 1 << 16, K = 4096 };            // 256 MiB of bytes: far beyond the caches of one core
    Product p = {.rows = 1, .k = K, .bits = 64};
    unsigned threads = threads_count();
    p.w = bench_memory((size_t)N * K), p.x = bench_memory(K * 8), p.out = bench_memory(N * 8);
    LoadBout load = {p.w, (size_t)N * K / threads / 64 * 64};
    for (p.bytes = 1; p.bytes <= 2; p.bytes++) {
        p.n = N / p.bytes;
        Bout bout[] = {{.run = bout_load, .ctx = &load}, {.run = linear_run, .ctx = &p}};
        bench_race(bout, 2, 2 * k->seconds);
        bout[1].best *= p.bytes, bout[1].median *= p.bytes;
        figure_hold(figure_rate(r, "GB/s", 1e9, &bout[1], "%u-bit weights, 1 row, ring of %u", 8 * p.bytes, p.bits), &bout[1],
                    &bout[0], 1, "memory bandwidth", ASK_SHARE, 0.8);
    }
    free(p.w), free(p.x), free(p.out);
}

static void wide_figures(Figures *r, const BenchArgs *k)
{
    static const struct { unsigned bits; size_t rows; } cases[] = {{64, 128}, {52, 128}, {40, 128}, {32, 128}, {52, 1}};
    enum { ROWS = 128, N = 768, K = 768 };
    Product p = {.n = N, .k = K};
    p.w64 = bench_memory((size_t)N * K * 8), p.x = bench_memory((size_t)ROWS * K * 8), p.out = bench_memory((size_t)ROWS * N * 8);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        p.bits = cases[i].bits, p.rows = cases[i].rows;
        Bout bout[] = {{.run = bout_products}, {.run = plain_run, .ctx = &p}, {.run = matmul_run, .ctx = &p}};
        bench_race(bout, 3, 2 * k->seconds);
                Figure *f = figure_rate(r, "G/s", 1e9, &bout[2], "wide times wide, %zu row%s, ring of %u", p.rows, p.rows > 1 ? "s" : "",
                                p.bits);
        figure_hold(f, &bout[2], &bout[1],
                    1.0 / threads_count(), "plain 64-bit loop", ASK_TIMES, p.rows > 1 ? 4 : 0);
        if (p.bits <= 52)
            figure_hold(figure_rate(r, "G/s", 1e9, &bout[2], "  the same"), &bout[2], &bout[0], 1, "52-bit product limit", ASK_SHARE, 0);
    }
    free(p.w64), free(p.x), free(p.out);
}

Result bench_matmul(const BenchArgs *k)
{
    Figures r = {.name = "matmul"};
    linear_figures(&r, k);
    stream_figures(&r, k);
    wide_figures(&r, k);
    figures_print(&r, k->json);
    return OK;
}
