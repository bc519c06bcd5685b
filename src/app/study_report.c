/* study_report.c - what the study's rows say, made from study.json alone: `bench study-report` prints tables, what is asked beside what was
 * measured, and the rule for frozen layers and merged heads; `bench study-plot` prints the points of a plot; `bench study-large` makes
 * rows of the costs that `marill plan` predicts for a large shape. */
#include "app/study.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STUDY_LIMIT = 1 << 24 };
#define ASKED_SHARE 0.95                       // of standard fine-tuning's gain over the base

static const char *const tasks[] = {"translate", "sql", "chat"}, *const settings[] = {"dealer", "3pc"};
static const char *const networks[] = {"loopback", "lan", "wan"};
static const char *const plot_names[] = {"pareto", "frozen", "rank", "heads", NULL};
enum { PLOT_PARETO, PLOT_FROZEN, PLOT_RANK, PLOT_HEADS };

// ---- rows ------------------------------------------------------------------------------------------------------------

static bool has(const Json *row, const char *key) { return json_find(row, key) != NULL; }

/* The i-th row of a task that is the first of its cell; NULL at the end. */
static const Json *cell_next(const Json *rows, const char *task, size_t *i)
{
    const char *before = *i ? text_of(json_at(rows, *i - 1), "cell") : "";
    while (*i < json_count(rows)) {
        const Json *row = json_at(rows, (*i)++);
        if (strcmp(text_of(row, "task"), task) != 0) before = "";
        else if (strcmp(text_of(row, "cell"), before) != 0) return row;
    }
    return NULL;
}

static const Json *cell_find(const Json *rows, const char *task, const char *name)
{
    for (size_t i = 0; i < json_count(rows); i++)
        if (!strcmp(text_of(json_at(rows, i), "task"), task) && !strcmp(text_of(json_at(rows, i), "cell"), name)) return json_at(rows, i);
    return NULL;
}

static const Json *row_find(const Json *rows, const Json *cell, const char *setting, const char *network)
{
    for (size_t i = 0; i < json_count(rows); i++) {
        const Json *row = json_at(rows, i);
        if (!strcmp(text_of(row, "task"), text_of(cell, "task")) && !strcmp(text_of(row, "cell"), text_of(cell, "cell")) &&
            !strcmp(text_of(row, "setting"), setting) && !strcmp(text_of(row, "network"), network)) return row;
    }
    return NULL;
}

/* The share of standard fine-tuning's gain over the base, both in float on the sample, that a cell keeps under secure computation. NAN:
 * not known, or standard fine-tuning gains nothing. */
static double kept_share(const Json *rows, const Json *cell)
{
    const char *task = text_of(cell, "task");
    const Json *base = cell_find(rows, task, "base"), *standard = cell_find(rows, task, "standard");
    if (!has(base, "quality_plain_sample") || !has(standard, "quality_plain_sample") || !has(cell, "quality_secure")) return NAN;
    double floor = real_of(base, "quality_plain_sample"), gain = real_of(standard, "quality_plain_sample") - floor;
    return gain > 0 ? (real_of(cell, "quality_secure") - floor) / gain : NAN;
}

typedef struct Text { char text[64]; } Text;

static Text quality_text(const Json *row, const char *key)
{
    Text x = {"-"};
    char low[64], high[64];
    snprintf(low, sizeof low, "%s_95.0", key), snprintf(high, sizeof high, "%s_95.1", key);
    if (has(row, key)) snprintf(x.text, sizeof x.text, "%.1f (%.1f to %.1f)", real_of(row, key), real_of(row, low), real_of(row, high));
    return x;
}

static Text share_text(double share)
{
    Text x = {"-"};
    if (isfinite(share)) snprintf(x.text, sizeof x.text, "%.0f %%", 100 * share);
    return x;
}

static Text cost_text(const Json *row, const char *key, double unit, int digits)
{
    Text x = {"-"};
    if (has(row, key)) snprintf(x.text, sizeof x.text, "%.*f", digits, unit * real_of(row, key));
    return x;
}

// ---- tables ----------------------------------------------------------------------------------------------------------

static void print_quality(const Json *rows, const char *task)
{
    Text heading;
    snprintf(heading.text, sizeof heading.text, "## %s: quality", task);
    Section s = {heading.text};
    char text[256];
    const Json *base = cell_find(rows, task, "base");
    snprintf(text, sizeof text, "Score: %s, with its 95 %% interval; %.0f samples, then an even %.0f of them. m: merged, -m: pruned.",
             study_score(task), real_of(base, "samples_plain"), real_of(base, "samples_secure"));
    Table t = {&s, text, "cell | f | r | m | float, whole test | float | secure | kept | secure not, since", false};
    const Json *row;
    for (size_t i = 0; (row = cell_next(rows, task, &i));) {
        double prune = real_of(row, "prune");
        table_row(&t, "%s | %.0f | %.0f | %.0f | %s | %s | %s | %s | %s", text_of(row, "cell"), real_of(row, "frozen"),
                  real_of(row, "rank"), prune > 1 ? -prune : real_of(row, "merge"), quality_text(row, "quality_plain").text,
                  quality_text(row, "quality_plain_sample").text, quality_text(row, "quality_secure").text,
                  share_text(kept_share(rows, row)).text, text_of(row, "reason"));
    }
    table_end(&t);
}

static void print_costs(const Json *rows, const char *task, const char *heading)
{
    Section s = {heading};
    Table t = {&s, NULL, "cell | setting | loopback, s | LAN, s | WAN, s | MB | exchanges", false};
    const Json *cell;
    for (size_t i = 0; (cell = cell_next(rows, task, &i));)
        for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
            const Json *row[3];
            for (size_t n = 0; n < 3; n++) row[n] = row_find(rows, cell, settings[k], networks[n]);
            if (!has(row[0], "seconds_per_token")) continue;
            table_row(&t, "%s | %s | %s | %s | %s | %s | %s", text_of(cell, "cell"), settings[k],
                      cost_text(row[0], "seconds_per_token", 1, 4).text, cost_text(row[1], "seconds_per_token", 1, 4).text,
                      cost_text(row[2], "seconds_per_token", 1, 3).text, cost_text(row[0], "bytes_per_token", 1e-6, 3).text,
                      cost_text(row[0], "exchanges_per_token", 1, 1).text);
        }
    table_end(&t);
}

/* "yes", "no", or that the intervals do not tell. */
static const char *above_text(const Json *a, const Json *b)
{
    bool above = real_of(a, "quality_secure") > real_of(b, "quality_secure");
    const Json *high = above ? a : b, *low = above ? b : a;
    bool apart = real_of(high, "quality_secure_95.0") > real_of(low, "quality_secure_95.1");
    return above ? apart ? "yes" : "yes, intervals overlap" : apart ? "**no**" : "**no**, intervals overlap";
}

static const char *share_met(double share) { return !isfinite(share) ? "-" : share >= ASKED_SHARE ? "yes" : "**no**"; }

static void print_asked(const Json *rows)
{
    Section s = {"## What is asked"};
    Table kept = {&s, "Of standard fine-tuning's gain over the base (both in float), what is kept under secure computation; asked: 95 %.",
                  "task | marill | met | marill-best | met", false};
    for (size_t k = 0; k < 3; k++) {
        double share = kept_share(rows, cell_find(rows, tasks[k], "marill"));
        double best = kept_share(rows, cell_find(rows, tasks[k], "marill-best"));
        if (!isfinite(share) && !isfinite(best)) continue;
        table_row(&kept, "%s | %s | %s | %s | %s", tasks[k], share_text(share).text, share_met(share), share_text(best).text,
                  share_met(best));
    }
    table_end(&kept);
    Table heads = {&s, "Merging against pruning, otherwise alike.", "task | m | merged | pruned | merging is better", false};
    for (size_t k = 0; k < 3; k++)
        for (int m = 2; m <= 8; m *= 2) {
            Text merged, pruned;
            snprintf(merged.text, sizeof merged.text, m == 4 ? "marill" : "marill-merge-%d", m);
            snprintf(pruned.text, sizeof pruned.text, "marill-prune-%d", m);
            const Json *a = cell_find(rows, tasks[k], merged.text), *b = cell_find(rows, tasks[k], pruned.text);
            if (!has(a, "quality_secure") || !has(b, "quality_secure")) continue;
            table_row(&heads, "%s | %d | %s | %s | %s", tasks[k], m, quality_text(a, "quality_secure").text,
                      quality_text(b, "quality_secure").text, above_text(a, b));
        }
    table_end(&heads);
}

// ---- the rule --------------------------------------------------------------------------------------------------------

/* The series that a row of a sweep belongs to, or -1; x: its place. What else differs between two points of a series: nothing. */
static int sweep_of(const Json *row, unsigned plot, double *x)
{
    const char *method = text_of(row, "method");
    double frozen = real_of(row, "frozen"), rank = real_of(row, "rank"), merge = real_of(row, "merge"), prune = real_of(row, "prune");
    bool freezing = !strcmp(method, "freezing") || !strcmp(method, "standard");
    bool lora = !strcmp(method, "freezing+lora") || !strcmp(method, "lora");
    *x = plot == PLOT_FROZEN ? frozen : plot == PLOT_RANK ? rank : fmax(merge, prune);
    if (plot == PLOT_FROZEN) return freezing ? 0 : lora && rank > 63 ? 1 : -1;
    if (plot == PLOT_RANK) return !strcmp(method, "freezing+lora") && frozen > 3 && frozen < 5 ? 0 : -1;
    if (!strcmp(method, "marill") || (!strcmp(method, "merging") && rank > 0)) return 0;
    return !strcmp(method, "pruning") ? 1 : -1;
}

/* The largest x of a series up to which every point keeps what is asked; -1 without such a point. */
static double largest_kept(const Json *rows, const char *task, unsigned plot, int series)
{
    const Json *row;
    double largest = -1, first_bad = INFINITY, x;
    for (size_t i = 0; (row = cell_next(rows, task, &i));)
        if (sweep_of(row, plot, &x) == series && kept_share(rows, row) < ASKED_SHARE) first_bad = fmin(first_bad, x);
    for (size_t i = 0; (row = cell_next(rows, task, &i));)
        if (sweep_of(row, plot, &x) == series && kept_share(rows, row) >= ASKED_SHARE && x < first_bad) largest = fmax(largest, x);
    return largest;
}

static Text largest_text(const Json *rows, const char *task, unsigned plot, int series)
{
    Text x = {"-"};
    double most = largest_kept(rows, task, plot, series);
    if (most >= 0) snprintf(x.text, sizeof x.text, "%.0f", most);
    return x;
}

static void print_rule(const Json *rows)
{
    Section s = {"## The rule for f and m"};
    Table t = {&s, "Freeze and merge as far as the curves keep 95 % of the gain: the largest f and m up to which every cell of the\n"
                   "sweep does. "
                   "\"-\": none does, or none was measured.",
               "task | f, all weights | f, LoRA of rank 64 | m, merged | m, pruned", false};
    for (size_t k = 0; k < 3; k++) {
        if (!cell_find(rows, tasks[k], "base")) continue;
        table_row(&t, "%s | %s | %s | %s | %s", tasks[k], largest_text(rows, tasks[k], PLOT_FROZEN, 0).text,
                  largest_text(rows, tasks[k], PLOT_FROZEN, 1).text, largest_text(rows, tasks[k], PLOT_HEADS, 0).text,
                  largest_text(rows, tasks[k], PLOT_HEADS, 1).text);
    }
    table_end(&t);
}

static const char head[] =
    "# The study\n\n"
    "Made by `make study` from bench/results/study.json; nothing here is typed. A cell is a way to fine-tune the base; f\n"
    "layers are frozen, r is the rank of the factors (0: all weights), m heads share a softmax. Cells that begin with\n"
    "`marill` have half of the layers frozen, rank 64, heads merged by 4 unless said, and but for `undistilled` the\n"
    "`standard` cell as teacher. *Secure* is the setting `clear`, on the fixed-point arithmetic of the secure run; some\n"
    "prompts of each cell are run in dealer and 3pc, and agree with `clear` but for rounding, which is drawn anew in\n"
    "every run and decides between tokens that tie. *Kept* is the share of standard fine-tuning's gain over the base, on\n"
    "the sample, that the cell has under secure computation. Embedding and head are the public base's in every cell,\n"
    "which flatters `standard` in cost. Seconds a token are measured: these runs at full speed, replayed on a virtual\n"
    "clock over each network, each party with a processor of its own (`--net virtual`). Bytes and exchanges are counted:\n"
    "of all links online; what a dealer wrote before is not among them.\n\n";

Result bench_study_report(int argc, char **argv)
{
    const char *file = NULL, *large = NULL;
    Option options[] = {OPTION("FILE", OPT_TEXT, &file, .required = true), OPTION("--large", OPT_TEXT, &large)};
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Json *rows, *sized = NULL;
    GUARD(json_read(&rows, file, STUDY_LIMIT));
    Result r = large ? json_read(&sized, large, STUDY_LIMIT) : OK;
    if (!failed(r)) {
        printf("%s", head);
        print_asked(rows);
        print_rule(rows);
        for (size_t k = 0; k < 3; k++) {
            Text heading;
            snprintf(heading.text, sizeof heading.text, "## %s: cost of a token", tasks[k]);
            print_quality(rows, tasks[k]);
            print_costs(rows, tasks[k], heading.text);
        }
        if (sized) print_costs(sized, "none", "## open-llama-3b: cost of a token, predicted by `marill plan`");
    }
    json_free(rows), json_free(sized);
    return r;
}

// ---- plots -----------------------------------------------------------------------------------------------------------

/* x, series, quality, its interval, cell. */
static void point_print(const Json *row, double x, int series)
{
    printf("%.6g %d %.6g %.6g %.6g %s\n", x, series, real_of(row, "quality_secure"), real_of(row, "quality_secure_95.0"),
           real_of(row, "quality_secure_95.1"), text_of(row, "cell"));
}

Result bench_study_plot(int argc, char **argv)
{
    const char *file = NULL, *task = NULL;
    unsigned plot = 0;
    Option options[] = {OPTION("FILE", OPT_TEXT, &file, .required = true), OPTION("--task", OPT_TEXT, &task, .required = true),
                        OPTION("--plot", OPT_CHOICE, &plot, .required = true, .choices = plot_names)};
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Json *rows;
    const Json *row;
    GUARD(json_read(&rows, file, STUDY_LIMIT));
    printf("# x series quality low high cell\n");
    for (size_t i = 0; (row = cell_next(rows, task, &i));) {
        double x = 0;
        const Json *wan = row_find(rows, row, "3pc", "wan");
        int series = plot == PLOT_PARETO ? 0 : sweep_of(row, plot, &x);
        if (plot == PLOT_PARETO) x = real_of(wan, "seconds_per_token");
        if (series < 0 || !has(row, "quality_secure") || (plot == PLOT_PARETO && x <= 0)) continue;
        point_print(row, x, series);
    }
    json_free(rows);
    return OK;
}

// ---- large shapes ----------------------------------------------------------------------------------------------------

/* A row from a file NAME-SETTING-NETWORK.json that `marill plan --json` printed. */
static CHECKED Result large_row(Json *rows, const char *path, const char *name, const char *setting, const char *network)
{
    Json *plan;
    GUARD(json_read(&plan, path, STUDY_LIMIT));
    Json *row = json_new_object();
    json_put(row, "task", json_of_text("none"));
    json_put(row, "cell", json_of_text(name));
    json_put(row, "shape", json_of_text("open-llama-3b"));
    json_put(row, "frozen", json_of_uint((uint64_t)real_of(plan, "frozen")));
    json_put(row, "setting", json_of_text(setting));
    json_put(row, "network", json_of_text(network));
    json_put(row, "seconds_per_token", json_of_real(real_of(plan, "decode.seconds_per_token")));
    json_put(row, "bytes_per_token", json_of_real(study_bytes(result_walk(plan, "decode.bytes_per_token"))));
    json_put(row, "exchanges_per_token", json_of_real(real_of(plan, "decode.exchanges_per_token")));
    json_add(rows, row);
    json_free(plan);
    return OK;
}

static int by_version(const struct dirent **a, const struct dirent **b) { return strverscmp((*a)->d_name, (*b)->d_name); }

static CHECKED Result large_rows(Json *rows, const char *dir, const char *file, Arena *a)
{
    static const char first[] = "-dealer-loopback.json";
    size_t len = strlen(file);
    if (len < sizeof first || strcmp(file + len - (sizeof first - 1), first) != 0) return OK;
    const char *name = arena_format(a, "%.*s", (int)(len - (sizeof first - 1)), file);
    for (size_t s = 0; s < 2; s++)
        for (size_t n = 0; n < 3; n++)
            GUARD(large_row(rows, arena_format(a, "%s/%s-%s-%s.json", dir, name, settings[s], networks[n]), name, settings[s],
                            networks[n]));
    return OK;
}

Result bench_study_large(int argc, char **argv)
{
    const char *dir = NULL;
    struct dirent **file;
    Option options[] = {OPTION("DIR", OPT_TEXT, &dir, .required = true)};
    GUARD(OPTIONS_PARSE(options, argc, argv));
    int count = scandir(dir, &file, NULL, by_version);
    if (count < 0) return fail(FAIL_SYSTEM, "%s: %s", dir, strerror(errno));
    Arena a;
    arena_init(&a, false);
    Json *rows = json_new_array();
    Result r = OK;
    for (int i = 0; i < count; i++) {
        if (!failed(r)) r = large_rows(rows, dir, file[i]->d_name, &a);
        free(file[i]);
    }
    free(file);
    arena_free(&a);
    if (failed(r)) json_free(rows);
    else print_json(rows);
    return r;
}
