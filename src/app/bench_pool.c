/* bench_pool.c - `bench pool`: how fast the third writes a pool, against dealing alone and against the disk. */
#include "app/bench.h"

#include <string.h>

typedef struct PoolArgs {
    const char *shape, *folder;
    uint64_t layers, positions, rank, repeat, threads;
    unsigned prefer;
    bool json;
} PoolArgs;

static void report(const PoolArgs *k, const PoolRates *rates)
{
    Figures r = {.name = "pool"};
    const double bytes = (double)rates->bytes;
    Bout deal = {.best = bytes / rates->deal}, disk = {.best = bytes / rates->disk}, pool = {.best = bytes / rates->pool};
    Bout read = {.best = bytes / rates->read}, *all[] = {&deal, &disk, &pool, &read}, *slower = deal.best < disk.best ? &deal : &disk;
    for (int i = 0; i < 4; i++) all[i]->median = all[i]->best;         // each is the best of its turns
    figure_rate(&r, "MB/s", 1e6, &deal, "dealing alone");
    figure_rate(&r, "MB/s", 1e6, &disk, "plain write to the same folder, synced");
    figure_hold(figure_rate(&r, "MB/s", 1e6, &pool, "pool of %.1f MB", bytes / 1e6), &pool, slower, 1,
                slower == &deal ? "dealing alone" : "plain write", ASK_SHARE, 0.6);
    figure_rate(&r, "MB/s", 1e6, &read, "reading it, decrypted and checked");
    figures_print(&r, k->json);
}

Result bench_pool(int argc, char **argv)
{
    PoolArgs k = {.shape = "open-llama-3b", .folder = ".", .layers = 1, .positions = 32, .repeat = 5, .threads = 1};
    Option options[] = {
        OPTION("--shape", OPT_TEXT, &k.shape),
        OPTION("--layers", OPT_UINT, &k.layers, .min = 1, .max = 1024),
        OPTION("--positions", OPT_UINT, &k.positions, .min = 1, .max = 1 << 16),
        OPTION("--rank", OPT_UINT, &k.rank, .min = 1, .max = 4096),
        OPTION("--prefer", OPT_CHOICE, &k.prefer, .choices = prefer_names),
        OPTION("--folder", OPT_TEXT, &k.folder),
        OPTION("--repeat", OPT_UINT, &k.repeat, .min = 1, .max = 100),
        OPTION("--threads", OPT_UINT, &k.threads, .min = 1, .max = 256),
        OPTION("--json", OPT_FLAG, &k.json),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    ModelConfig c;
    GUARD(shape_config(k.shape, &c));
    if (k.layers > c.layers) return fail(FAIL_USE, "--layers %llu: %s has %u", (unsigned long long)k.layers, k.shape, c.layers);
    c.layers = (uint32_t)k.layers;
    Plan p;
    PlanOptions o = {.context = (uint32_t)k.positions + 1,
                     .prefer = (Prefer)k.prefer,
                     .private_part = k.rank ? PRIVATE_LORA : PRIVATE_LAYERS};
    GUARD(plan_assume(&p, &c, &o, (uint32_t)k.rank));
    threads_start((unsigned)k.threads);
    PoolRates rates;
    Result r = pool_rates(&rates, &p, &c, (uint32_t)k.positions, k.folder, (unsigned)k.repeat);
    plan_free(&p);
    if (!failed(r)) report(&k, &rates);
    return r;
}
