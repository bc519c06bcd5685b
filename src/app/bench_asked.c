/* bench_asked.c - the first tables of a report: every figure that is asked for, in the order of the asking, beside what was measured.
 *
 * Each value, and whether it suffices, comes from a result's file; what a benchmark does not judge itself is judged here, by the
 * constants below. A missed figure points to the page that says why. */
#include "app/bench_report.h"

#include <math.h>
#include <string.h>

// ---- one block -------------------------------------------------------------------------------------------------------

static const char *const settings[] = {"dealer", "3pc", "dealer", "3pc"}, *const kinds[] = {"", "", "-avx512", "-avx512"};
enum { COLUMNS = 4 };

/* only: the setting that the figure is asked of, or NULL. */
typedef struct BlockFigure { const char *title, *name, *prefer, *only; } BlockFigure;

static const BlockFigure block_figures[] = {
    {"online time, `dealer`, times the float forward", "seconds to plain_seconds", "bytes", "dealer"},
    {"online MB, client to server, `--prefer bytes`", "client_to_server MB", "bytes", NULL},
    {"online MB, server to client, `--prefer bytes`", "server_to_client MB", "bytes", NULL},
    {"exchanges, `--prefer exchanges`", "exchanges", "exchanges", NULL},
    {"exchanges, `--prefer bytes`", "exchanges", "bytes", NULL},
    {"correlation MB, provider, `--prefer bytes`", "correlation MB of the server", "bytes", NULL},
    {"third's CPU time, times the float forward", "third's cpu_seconds to plain_seconds", "bytes", NULL},
    {"MB over all links, `3pc`, `--prefer bytes`", "all links MB", "bytes", "3pc"},
    {"time, `3pc`, all three on two cores, times the float forward", "seconds to plain_seconds", "bytes", "3pc"},
    {"peak RSS of a party, MB", "peak_rss_mb of a party", "bytes", NULL},
    {"largest error, outputs of rms 1", "max_abs_error, to outputs of rms 1", "bytes", NULL},
};

static const Json *block_find(const Results *r, int column, const char *prefer)
{
    char name[96];
    snprintf(name, sizeof name, "block-gpt2-small-%s-%s%s", settings[column], prefer, kinds[column]);
    return result_find(r, name);
}

static void block_row(Table *t, const Results *r, const BlockFigure *f)
{
    char cell[COLUMNS][32] = {""}, asked[32] = "";
    bool met = true, any = false;
    for (int c = 0; c < COLUMNS; c++) {
        const Json *a = asked_find(block_find(r, c, f->prefer), f->name);
        if (!a || (f->only && strcmp(f->only, settings[c]) != 0)) continue;
        snprintf(cell[c], sizeof cell[c], "%.3g", real_of(a, "value"));
        snprintf(asked, sizeof asked, "<= %.4g", real_of(a, "asked"));
        met &= real_of(a, "met") > 0, any = true;
    }
    if (any) table_row(t, "%s | %s | %s | %s | %s | %s | %s", f->title, asked, cell[0], cell[1], cell[2], cell[3], met_text(met));
}

/* The client holds a key where peers hold correlations: all that it gets from T, and gives it, is counted. */
static void client_row(Table *t, const Results *r)
{
    char cell[COLUMNS][32] = {""};
    bool met = true, any = false;
    for (int c = 0; c < COLUMNS; c++) {
        const Json *b = block_find(r, c, "bytes");
        if (!b) continue;
        double bytes = real_of(b, "bytes.third_to_client") + real_of(b, "setup_bytes.third_to_client") +
                       real_of(b, "setup_bytes.client_to_third");
        snprintf(cell[c], sizeof cell[c], "%.0f bytes", bytes);
        met &= bytes <= KEY_BYTES, any = true;
    }
    if (any) table_row(t, "correlations of the client | a key | %s | %s | %s | %s | %s", cell[0], cell[1], cell[2], cell[3], met_text(met));
}

static void report_block(const Results *r)
{
    Section s = {"## 1. One GPT-2-small block of 128 tokens: asked and measured"};
    Table t = {&s, "All weights private. The columns on the right are without matrix tiles (`--kernels avx512`).",
               "figure | asked | dealer | 3pc | dealer, avx512 | 3pc, avx512 | met", false};
    for (size_t i = 0; i < sizeof block_figures / sizeof *block_figures; i++) {
        if (!strcmp(block_figures[i].name, "third's cpu_seconds to plain_seconds")) client_row(&t, r);
        block_row(&t, r, &block_figures[i]);
    }
    table_end(&t);
}

// ---- kernels, networks, pools ----------------------------------------------------------------------------------------

static void figures_asked(Table *t, const Results *r, const char *file)
{
    const Json *figures = result_walk(result_find(r, file), "figures");
    for (size_t i = 0; i < json_count(figures); i++) {
        const Json *f = json_at(figures, i);
        if (!*text_of(f, "ask")) continue;
        FigureText x = figure_text(f);
        table_row(t, "%s: %s | %s | %s | %s", file, text_of(f, "name"), x.asked, x.reached, x.met);
    }
}

static void report_kernels(const Results *r)
{
    Section s = {"## 2. Kernels: shares of what the machine gives in the same run"};
    Table t = {&s, NULL, "kernel | asked | measured | met", false};
    static const char *const files[] = {"deal", "lookup", "matmul", "pack", "threads"};
    static const char share[] = "packing, masking and PRG, share of online time";
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) figures_asked(&t, r, files[i]);
    for (size_t i = 0; i < r->count; i++) {
        const Json *a = asked_find(r->saved[i].json, share);
        if (a) table_row(&t, "%s: %s | <= %.0f %% | %.1f %% | %s", r->saved[i].name, share, 100 * real_of(a, "asked"),
                         100 * real_of(a, "value"), met_text(real_of(a, "met") > 0));
    }
    table_end(&t);
}

static const double most_network_error = 0.15;  // what tests/test_network.sh allows

static void report_networks(const Results *r)
{
    Section s = {"## 4. Networks: the virtual clock, against links that are really shaped"};
    Table t = {&s, "One GPT-2-small block of 128 tokens over a WAN (40 ms, 200 Mbit/s).",
               "setting | shaped, s | virtual clock, s | difference | asked | met", false};
    for (int c = 0; c < 2; c++) {
        char name[64];
        snprintf(name, sizeof name, "network-wan-%s", settings[c]);
        const Json *shaped = result_find(r, name), *replayed = block_find(r, c, "bytes");
        double took = real_of(shaped, "seconds"), clock = real_of(replayed, "replayed_seconds.wan");
        if (took > 0 && clock > 0)
            table_row(&t, "%s | %.3f | %.3f | %+.1f %% | <= %.0f %% | %s", settings[c], took, clock, 100 * (clock / took - 1),
                      100 * most_network_error, met_text(fabs(clock / took - 1) <= most_network_error));
    }
    table_end(&t);
    Table models = {&s, "Generations on the virtual clock.",
                    "run | prompt, loopback, s | lan | wan | token, loopback, s | lan | wan", false};
    for (size_t i = 0; i < r->count; i++) {
        const Json *v = result_walk(r->saved[i].json, "virtual_networks");
        if (v) table_row(&models, "%s | %.2f | %.2f | %.2f | %.3f | %.3f | %.3f", r->saved[i].name, real_of(v, "loopback.prefill_seconds"),
                         real_of(v, "lan.prefill_seconds"), real_of(v, "wan.prefill_seconds"), real_of(v, "loopback.seconds_per_token"),
                         real_of(v, "lan.seconds_per_token"), real_of(v, "wan.seconds_per_token"));
    }
    table_end(&models);
}

static void report_pools(const Results *r)
{
    Section s = {"## 5. Pools"};
    Table t = {&s, NULL, "figure | MB/s | reached | asked | met", false};
    const Json *figures = result_walk(result_find(r, "pool"), "figures");
    for (size_t i = 0; i < json_count(figures); i++) {
        const Json *f = json_at(figures, i);
        FigureText x = figure_text(f);
        table_row(&t, "%s | %.0f | %s | %s | %s", text_of(f, "name"), real_of(f, "best"), x.reached, x.asked, x.met);
    }
    table_end(&t);
}

// ---- predictions -----------------------------------------------------------------------------------------------------

static void report_predictions(const Results *r)
{
    static const char *const nets[] = {"loopback", "lan", "wan"};
    Section s = {"## 6. Seconds that `plan` predicts, against the virtual clock"};
    Table t = {&s, "Bytes and exchanges are exact: every run checks them. Asked of seconds: within 30 %; negative is too low.",
               "case | loopback | lan | wan | met", false};
    for (size_t i = 0; i < r->count; i++) {
        char cell[3][32], path[64];
        bool met = true, any = false;
        for (int n = 0; n < 3; n++) {
            snprintf(path, sizeof path, "predicted_seconds.%s", nets[n]);
            double predicted = real_of(r->saved[i].json, path);
            snprintf(path, sizeof path, "replayed_seconds.%s", nets[n]);
            double took = real_of(r->saved[i].json, path);
            snprintf(path, sizeof path, "error of the prediction, %s", nets[n]);
            const Json *a = asked_find(r->saved[i].json, path);
            bool good = !a || real_of(a, "met") > 0;
            cell[n][0] = 0;
            if (predicted <= 0 || took <= 0) continue;
            snprintf(cell[n], sizeof cell[n], good ? "%+.0f %%" : "**%+.0f %%**", 100 * (predicted / took - 1));
            met &= good, any = true;
        }
        if (any) table_row(&t, "%s | %s | %s | %s | %s", r->saved[i].name, cell[0], cell[1], cell[2], met_text(met));
    }
    table_end(&t);
}

void report_asked(const Results *r)
{
    report_block(r);
    report_kernels(r);
    report_models(r);
    report_networks(r);
    report_pools(r);
    report_predictions(r);
}
