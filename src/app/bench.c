/* bench.c - `marill bench`: measured cost. Races, reports, and the subcommands' frame. */
#include "app/bench.h"
#include "app/study.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char bench_usage[] =
    "limits|lookup|matmul|deal|pack [--seconds S] [--threads N] [--kernels K] [--json]\n"
    "  limits                       what this machine gives: units of the processor, memory, loopback\n"
    "  lookup, matmul, deal, pack   what the kernels reach of it\n"
    "  --seconds S                  for each race (0.5); more is steadier\n"
    "  --threads N                  (1)\n"
    "  --kernels K                  portable, avx2, avx512, amx or best: none better than this (best); the JSON names those used\n\n"
    "       marill bench block --shape NAME --setting dealer|3pc [options] [--threads N] [--kernels K] [--json]\n"
    "  one secure layer between three processes, beside the float forward of the same layer\n"
    "  --shape NAME                 gpt2-small, open-llama-3b or llama2-7b; weights and inputs are random, of unit scale\n"
    "  --tokens N                   rows of the batch (128)\n"
    "  --past N                     positions before it, in the caches (0)\n"
    "  --private layers|lora        (layers)\n"
    "  --rank R                     of the private factors (64)\n"
    "  --merge M                    heads that share one softmax (1)\n"
    "  --prefer exchanges|bytes     (bytes)\n"
    "  --net NET                    loopback, lan, wan or RTT=..ms,BW=..Mbit (loopback)\n"
    "  --repeat N                   repetitions, by turns with the float forward (5)\n"
    "  --seed N                     of weights and inputs (1)\n\n"
    "       marill bench generate --shape NAME --setting dealer|3pc [options] [--threads N] [--json]\n"
    "  a generation at the size of a real model, beside its plain forward: a synthetic 8-bit base of the real shape, made once\n"
    "  (3.4 or 6.7 GB), synthetic factors; three processes\n"
    "  --shape open-llama-3b|llama2-7b or DIR/ with config.json  --prefer exchanges|bytes  --private lora|layers\n"
    "  --prompt-tokens N (128)  --tokens N (16)  --frozen F (0.5)  --rank R (64)  --merge M (1)  --context N  --net NET\n"
    "  --known-prefix N             positions at the start whose tokens both know (1: BOS)\n"
    "  --synthetic-past N           the cache begins with N positions of synthetic keys and values, under fresh masks\n"
    "  --layers L                   runs 1 and L secure layers, and scales what a layer adds to all of them\n"
    "  --cache DIR                  of the base ($XDG_CACHE_HOME/marill, or ~/.cache/marill)\n"
    "  --seed N                     (1)\n\n"
    "       marill bench threads [options] [--kernels K] [--json]\n"
    "  one secure layer's work of each party alone, its peer's frames lying ready: one thread and several, by turns\n"
    "  --shape NAME (gpt2-small)  --tokens N (128)  --prefer exchanges|bytes (bytes)  --threads N (2)  --repeat N (5)\n\n"
    "       marill bench pool [options] [--json]\n"
    "  writing a pool, against dealing alone and the disk\n"
    "  --shape NAME (open-llama-3b)  --layers N (1)  --positions N (32)  --rank R  --prefer exchanges|bytes  --folder DIR (.)\n"
    "  --repeat N (5)  --threads N (1)\n\n"
    "       marill bench costs [--shape NAME] [--json]\n"
    "  exact bytes and exchanges of a token through the secure layers (llama2-7b), beside what is asked of them\n\n"
    "       marill bench report DIR      the results in a folder as Markdown, asked beside measured\n"
    "       marill bench pick FILE PATH...  single values of a result: bytes.client_to_server, figures.0.best\n"
    "       marill bench same CLEAR CLEAR FILE...  whether runs agree with clear, but for rounding: results of 'marill run --json', with\n"
    "                                    --logits beside them (FILE.json, FILE.logits)\n"
    "       marill bench study DIR             the rows of a study's folder as JSON; study-large DIR: of plans\n"
    "       marill bench study-report FILE [--large FILE]   tables from those rows; study-plot FILE --task TASK --plot pareto|frozen|\n"
    "                                    rank|heads: the points of a plot\n";

// ---- races -----------------------------------------------------------------------------------------------------------

enum { MOST_TURNS = 200 };
static const double turn_seconds = 3e-3;
static const uint64_t most_times = UINT64_C(1) << 40;         // of what does nothing any more, a broken connection

static double turn(const Bout *b, double *operations)
{
    double start = clock_seconds();
    *operations = b->run(b->ctx, b->times);
    return b->clock ? *b->clock : clock_seconds() - start;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_race(Bout *bouts, size_t count, double seconds)
{
    double *rate = calloc(count * MOST_TURNS, sizeof *rate), operations;
    if (!rate) bug("out of memory");
    for (size_t i = 0; i < count; i++) {
        bouts[i].times = 1;
        for (double t; bouts[i].times < most_times && (t = turn(&bouts[i], &operations)) < turn_seconds; )
            bouts[i].times = (uint64_t)ceil((double)bouts[i].times * fmin(8, fmax(1.3, 1.1 * turn_seconds / fmax(t, 1e-7))));
    }
    size_t turns = 0;
    for (double start = clock_seconds(); turns < MOST_TURNS && (turns < 5 || clock_seconds() - start < seconds); turns++)
        for (size_t i = 0; i < count; i++) {
            double t = turn(&bouts[i], &operations);
            rate[i * MOST_TURNS + turns] = operations / t;
        }
    for (size_t i = 0; i < count; i++) {
        double *r = rate + i * MOST_TURNS;
        qsort(r, turns, sizeof *r, ascending);
        bouts[i].best = r[turns - 1], bouts[i].median = r[turns / 2];
    }
    free(rate);
}

void *bench_memory(size_t len)
{
    size_t size = (len + 63) / 64 * 64;
    uint64_t *p = aligned_alloc(64, size), x = 0x9E3779B97F4A7C15;
    if (!p) bug("out of memory");
    for (size_t i = 0; i < size / 8; i++) x ^= x << 13, x ^= x >> 7, x ^= x << 17, p[i] = x;
    return p;
}

// ---- reports ---------------------------------------------------------------------------------------------------------

const char *const kernel_names[] = {"best", "portable", "avx2", "avx512", "amx", NULL};
_Static_assert(NUM_BEST == 0 && NUM_PORTABLE == 1 && NUM_AVX2 == 2 && NUM_AVX512 == 3 && NUM_AMX == 4, "in the order of the names");

void kernels_limit(unsigned most)
{
    if (most != NUM_BEST) num_init((NumFamily)most);
}

static Figure *figure_new(Figures *r, const char *unit, const char *format, va_list args)
{
    ASSERT(r->count < MOST_FIGURES);
    Figure *f = &r->figure[r->count++];
    *f = (Figure){0};
    vsnprintf(f->name, sizeof f->name, format, args);
    snprintf(f->unit, sizeof f->unit, "%s", unit);
    return f;
}

Figure *figure_rate(Figures *r, const char *unit, double scale, const Bout *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    Figure *f = figure_new(r, unit, format, args);
    va_end(args);
    f->best = b->best / scale, f->median = b->median / scale;
    return f;
}

Figure *figure_time(Figures *r, const char *unit, double scale, const Bout *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    Figure *f = figure_new(r, unit, format, args);
    va_end(args);
    f->best = scale / b->best, f->median = scale / b->median;
    return f;
}

void figure_hold(Figure *f, const Bout *own, const Bout *reference, double scale, const char *of, Ask ask, double asked)
{
    f->of = of, f->ask = asked > 0 ? ask : ASK_NOTHING, f->asked = asked;
    f->share = reference->best > 0 ? own->best * scale / reference->best : 0;
}

bool ask_met(Ask ask, double asked, double value) { return ask == ASK_AT_MOST ? value <= asked : value >= asked; }

static double figure_value(const Figure *f) { return f->ask == ASK_AT_MOST ? f->best : f->share; }

static const char *first_line_of(char *out, size_t size, const char *path, const char *key)
{
    FILE *f = fopen(path, "r");
    char line[512];
    *out = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        const char *text = strchr(line, ':');
        text = text ? text + 1 : line;
        snprintf(out, size, "%s", text + strspn(text, " \t"));
        out[strcspn(out, "\n")] = 0;
        break;
    }
    if (f) fclose(f);
    return out;
}

Json *machine_json(void)
{
    Json *o = json_new_object();
    char cpu[128];
    double load[1] = {0};
    const char *commit = getenv("MARILL_COMMIT");
    json_put(o, "processor", json_of_text(first_line_of(cpu, sizeof cpu, "/proc/cpuinfo", "model name")));
    json_put(o, "ring_kernels", json_of_text(num_kernels()));
    json_put(o, "aes_kernel", json_of_text(crypto_kernels()));
    json_put(o, "threads", json_of_uint(threads_count()));
    if (getloadavg(load, 1) == 1) json_put(o, "load", json_of_real(load[0]));
    if (commit) json_put(o, "commit", json_of_text(commit));
    return o;
}

static Json *figure_json(const Figure *f)
{
    Json *o = json_new_object();
    json_put(o, "name", json_of_text(f->name));
    json_put(o, "best", json_of_real(f->best));
    json_put(o, "median", json_of_real(f->median));
    json_put(o, "unit", json_of_text(f->unit));
    if (f->of) json_put(o, "of", json_of_text(f->of)), json_put(o, "share", json_of_real(f->share));
    if (f->ask == ASK_NOTHING) return o;
    static const char *const asks[] = {"", "share", "times", "at most"};
    json_put(o, "ask", json_of_text(asks[f->ask]));
    json_put(o, "asked", json_of_real(f->asked));
    json_put(o, "met", json_of_bool(ask_met(f->ask, f->asked, figure_value(f))));
    return o;
}

static void figure_print(const Figure *f)
{
    char share[32] = "", asked[48] = "";
    bool times = f->ask == ASK_TIMES;
    if (f->of) snprintf(share, sizeof share, times ? "%.2fx" : "%.0f %%", f->share * (times ? 1 : 100));
    if (f->ask == ASK_SHARE) snprintf(asked, sizeof asked, ">= %.0f %%", f->asked * 100);
    if (f->ask == ASK_TIMES) snprintf(asked, sizeof asked, ">= %gx", f->asked);
    if (f->ask == ASK_AT_MOST) snprintf(asked, sizeof asked, "<= %g", f->asked);
    bool missed = f->ask != ASK_NOTHING && !ask_met(f->ask, f->asked, figure_value(f));
    printf("%-44s %9.4g %9.4g %-8s %7s %-22s %s%s\n", f->name, f->best, f->median, f->unit, share, f->of ? f->of : "", asked,
           missed ? "  MISSED" : "");
}

void figures_print(const Figures *r, bool json)
{
    if (json) {
        Json *o = json_new_object(), *a = json_new_array();
        for (size_t i = 0; i < r->count; i++) json_add(a, figure_json(&r->figure[i]));
        json_put(o, "bench", json_of_text(r->name));
        json_put(o, "machine", machine_json());
        json_put(o, "figures", a);
        print_json(o);
        return;
    }
    char cpu[128];
    printf("%s; %s and %s kernels, %u thread%s\n\n", first_line_of(cpu, sizeof cpu, "/proc/cpuinfo", "model name"), num_kernels(),
           crypto_kernels(), threads_count(), threads_count() == 1 ? "" : "s");
    printf("%-44s %9s %9s %-8s %7s %-22s %s\n", r->name, "best", "median", "", "share", "of", "asked");
    for (size_t i = 0; i < r->count; i++) figure_print(&r->figure[i]);
}

// ---- the command -----------------------------------------------------------------------------------------------------

static const struct { const char *name; Result (*run)(const BenchArgs *k); } kernels[] = {
    {"limits", bench_limits}, {"lookup", bench_lookup}, {"matmul", bench_matmul}, {"deal", bench_deal}, {"pack", bench_pack}};

static const struct { const char *name; Result (*run)(int argc, char **argv); } others[] = {
    {"block", bench_block}, {"threads", bench_threads}, {"generate", bench_generate}, {"pool", bench_pool}, {"costs", bench_costs},
    {"report", bench_report}, {"pick", bench_pick}, {"same", bench_same}, {"study", bench_study},
    {"study-report", bench_study_report}, {"study-plot", bench_study_plot}, {"study-large", bench_study_large}};

static Result kernels_command(const char *what, int argc, char **argv)
{
    uint64_t threads = 1;
    unsigned most = NUM_BEST;
    BenchArgs k = {.seconds = 0.5};
    Option options[] = {
        OPTION("--threads", OPT_UINT, &threads, .min = 1, .max = 256),
        OPTION("--kernels", OPT_CHOICE, &most, .choices = kernel_names),
        OPTION("--seconds", OPT_REAL, &k.seconds, .min = 0.001, .max = 100),
        OPTION("--json", OPT_FLAG, &k.json),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        if (strcmp(kernels[i].name, what) != 0) continue;
        kernels_limit(most);
        threads_start((unsigned)threads);
        return kernels[i].run(&k);
    }
    return fail(FAIL_USE, "'%s' is none of limits, lookup, matmul, deal, pack, pool, block, threads, generate, costs", what);
}

Result bench_command(int argc, char **argv)
{
    if (argc < 1 || argv[0][0] == '-') return fail(FAIL_USE, "what to measure is missing; 'marill bench --help' lists it");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(argv[0], others[i].name)) return others[i].run(argc - 1, argv + 1);
    return kernels_command(argv[0], argc - 1, argv + 1);
}
