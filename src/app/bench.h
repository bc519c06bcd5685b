/* bench.h - private to app/: what the benchmarks share.
 *
 * A *bout* is something that is run again and again and says how many operations it did. Bouts that are to be compared run
 * by turns, a few milliseconds each, so that whatever else the machine does hits all of them: `bench_race`. A *figure* is a
 * rate with what it is held against and what is asked of it; a list of them prints as a table, or as JSON. */
#ifndef MARILL_BENCH_H
#define MARILL_BENCH_H

#include "app/app.h"

// ---- races -----------------------------------------------------------------------------------------------------------

typedef struct Bout {
    double (*run)(void *ctx, uint64_t times);  // returns operations done
    void *ctx;
    const double *clock;                       // where run leaves the seconds that count; NULL: all of its time does
    double best, median;                       // operations a second
    uint64_t times;                            // of one turn
} Bout;
/* About `seconds` for all of them, at least 5 turns each. */
void bench_race(Bout *bouts, size_t count, double seconds);

// ---- reports ---------------------------------------------------------------------------------------------------------

typedef enum { ASK_NOTHING, ASK_SHARE, ASK_TIMES, ASK_AT_MOST } Ask;  // share of or times the reference; a value at most

typedef struct Figure {
    char name[64], unit[16];
    double best, median;
    const char *of;                            // the reference, or NULL
    double share;                              // best to the reference's best
    Ask ask;
    double asked;
} Figure;

enum { MOST_FIGURES = 64 };
typedef struct Figures { const char *name; Figure figure[MOST_FIGURES]; size_t count; } Figures;
Figure *figure_rate(Figures *r, const char *unit, double scale, const Bout *b, const char *format, ...) PRINTF(5, 6);   // rate / scale
/* Seconds of one operation instead of a rate, times `scale`. */
Figure *figure_time(Figures *r, const char *unit, double scale, const Bout *b, const char *format, ...) PRINTF(5, 6);
/* Holds a figure against `share` of a reference's rate; asked 0 asks nothing. */
void figure_hold(Figure *f, const Bout *own, const Bout *reference, double scale, const char *of, Ask ask, double asked);
void figures_print(const Figures *r, bool json);
Json *machine_json(void);                      // processor, kernels, threads, load, commit if known
bool ask_met(Ask ask, double asked, double value);

/* --kernels: what a processor that has no better family would use. AES stays as it is. Before threads are started. */
extern const char *const kernel_names[];       // NumFamily
void kernels_limit(unsigned most);

// ---- what is measured ------------------------------------------------------------------------------------------------

typedef struct BenchArgs { bool json; double seconds; } BenchArgs;    // seconds: a race
CHECKED Result bench_limits(const BenchArgs *k);
CHECKED Result bench_lookup(const BenchArgs *k);
CHECKED Result bench_matmul(const BenchArgs *k);
CHECKED Result bench_deal(const BenchArgs *k);
CHECKED Result bench_pack(const BenchArgs *k);
// Arguments after the name.
CHECKED Result bench_pool(int argc, char **argv);
CHECKED Result bench_block(int argc, char **argv);
CHECKED Result bench_threads(int argc, char **argv);
CHECKED Result bench_generate(int argc, char **argv);         // bench_generate.c
CHECKED Result bench_costs(int argc, char **argv);
CHECKED Result bench_report(int argc, char **argv);
CHECKED Result bench_pick(int argc, char **argv);

/* The machine's own units as bouts, on every thread at once. load: of `len` bytes a thread, from `data` (threads * len). */
typedef struct LoadBout { const uint8_t *data; size_t len; } LoadBout;
double bout_aes(void *ctx, uint64_t times);
double bout_bytes(void *ctx, uint64_t times);
double bout_products(void *ctx, uint64_t times);
double bout_load(void *ctx /* LoadBout */, uint64_t times);

void *bench_memory(size_t len);                // 64-byte aligned, filled with pseudo-random bytes; free() it

#endif
