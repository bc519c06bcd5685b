/* bench_report.c - tables from the JSON of benchmarks: `bench report DIR` prints them all as Markdown, first what is asked beside what
 * was measured (bench_asked.c), then the details; `bench pick` prints single values, for plots. */
#include "app/bench_report.h"
#include "app/bench.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RESULTS = 256, RESULT_LIMIT = 16 << 20 };

// ---- values ----------------------------------------------------------------------------------------------------------

const Json *result_find(const Results *r, const char *name)
{
    for (size_t i = 0; i < r->count; i++)
        if (!strcmp(r->saved[i].name, name)) return r->saved[i].json;
    return NULL;
}

const Json *result_walk(const Json *v, const char *path)
{
    char part[64];
    while (v && *path) {
        size_t len = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)len, path);
        v = json_kind(v) == KIND_ARRAY ? json_at(v, strtoul(part, NULL, 10)) : json_find(v, part);
        path += len + (path[len] == '.');
    }
    return v;
}

const char *text_of(const Json *o, const char *key)
{
    const char *text = NULL;
    return !o || failed(json_get_text(&text, o, key)) ? "" : text;
}

double real_of(const Json *o, const char *path)
{
    const Json *v = result_walk(o, path);
    bool truth = false;
    double real = 0;
    if (json_kind(v) == KIND_BOOL) return !failed(json_as_bool(&truth, v, path)) && truth;
    return !v || failed(json_as_real(&real, v, path, -1e300, 1e300)) ? 0 : real;
}

const Json *asked_find(const Json *o, const char *name)
{
    const Json *list = result_walk(o, "asked");
    for (size_t i = 0; i < json_count(list); i++)
        if (!strcmp(text_of(json_at(list, i), "name"), name)) return json_at(list, i);
    return NULL;
}

// ---- Markdown --------------------------------------------------------------------------------------------------------

void table_row(Table *t, const char *format, ...)
{
    if (!t->begun) {
        if (t->section->heading) printf("%s\n\n", t->section->heading);
        if (t->text) printf("%s\n\n", t->text);
        printf("| %s |\n| ---", t->columns);
        for (const char *c = t->columns; (c = strchr(c, '|')); c++) printf(" | ---:");
        printf(" |\n");
        t->section->heading = NULL, t->begun = true;
    }
    va_list args;
    va_start(args, format);
    printf("| ");
    vprintf(format, args);
    printf(" |\n");
    va_end(args);
}

void table_end(const Table *t) { if (t->begun) putchar('\n'); }

const char *met_text(bool met) { return met ? "yes" : "[**no**](../../docs/benchmarks.md#figures-that-are-missed-and-why)"; }

FigureText figure_text(const Json *f)
{
    FigureText x = {.met = ""};
    const char *ask = text_of(f, "ask"), *of = text_of(f, "of");
    bool times = !strcmp(ask, "times"), most = !strcmp(ask, "at most");
    if (*of) snprintf(x.reached, sizeof x.reached, times ? "%.2fx %s" : "%.0f %% of %s", real_of(f, "share") * (times ? 1 : 100), of);
    if (most) snprintf(x.reached, sizeof x.reached, "%.3g %s", real_of(f, "best"), text_of(f, "unit"));
    if (!*ask) return x;
    double asked = real_of(f, "asked");
    snprintf(x.asked, sizeof x.asked, most ? "<= %g" : times ? ">= %gx" : ">= %.0f %%", most || times ? asked : 100 * asked);
    x.met = met_text(real_of(f, "met") > 0);
    return x;
}

// ---- details ---------------------------------------------------------------------------------------------------------

typedef struct Machine { const char *processor, *ring, *aes, *commit; } Machine;

static Machine machine_of(const Json *o)
{
    const Json *m = result_walk(o, "machine");
    return (Machine){text_of(m, "processor"), text_of(m, "ring_kernels"), text_of(m, "aes_kernel"), text_of(m, "commit")};
}

static bool machine_same(Machine a, Machine b)
{
    return !strcmp(a.processor, b.processor) && !strcmp(a.ring, b.ring) && !strcmp(a.aes, b.aes) && !strcmp(a.commit, b.commit);
}

/* Each machine once, with the files that were measured on it. */
static void print_machines(const Results *r)
{
    Section s = {"## Details"};
    Table t = {&s, "Where and of what each file was measured.", "processor | kernels | commit | files (load before)", false};
    Buffer files = {0};
    for (size_t i = 0; i < r->count; i++) {
        Machine m = machine_of(r->saved[i].json);
        bool before = !*m.processor;           // predictions alone have none
        for (size_t j = 0; j < i; j++) before |= machine_same(m, machine_of(r->saved[j].json));
        if (before) continue;
        files.len = 0;
        for (size_t j = i; j < r->count; j++)
            if (machine_same(m, machine_of(r->saved[j].json)))
                buffer_format(&files, "%s%s (%.1f)", files.len ? ", " : "", r->saved[j].name, real_of(r->saved[j].json, "machine.load"));
        table_row(&t, "%s | %s, %s | %s | %.*s", m.processor, m.ring, m.aes, m.commit, (int)files.len, (const char *)files.data);
    }
    buffer_free(&files);
    table_end(&t);
}

static void print_figures(const Saved *saved)
{
    char heading[128];
    snprintf(heading, sizeof heading, "### %s", saved->name);
    Section s = {heading};
    Table t = {&s, NULL, "figure | best | median | unit | reached", false};
    const Json *figures = result_walk(saved->json, "figures");
    for (size_t i = 0; i < json_count(figures); i++) {
        const Json *f = json_at(figures, i);
        FigureText x = figure_text(f);
        table_row(&t, "%s | %.4g | %.4g | %s | %s", text_of(f, "name"), real_of(f, "best"), real_of(f, "median"), text_of(f, "unit"),
                  x.reached);
    }
    table_end(&t);
}

static bool is_block(const Json *o) { return !strcmp(text_of(o, "bench"), "block"); }

/* "a / b / c", of client, server and third; "-" for whom there is no value. */
typedef struct PartiesText { char text[64]; } PartiesText;

static PartiesText parties_text(const Json *o, const char *path, double unit, int digits)
{
    PartiesText x = {""};
    const char *const name[] = {"client", "server", "third"};
    for (int p = 0; p < 3; p++) {
        char of[64];
        snprintf(of, sizeof of, path, name[p]);
        size_t len = strlen(x.text);
        if (result_walk(o, of)) snprintf(x.text + len, sizeof x.text - len, "%s%.*f", p ? " / " : "", digits, unit * real_of(o, of));
        else snprintf(x.text + len, sizeof x.text - len, "%s-", p ? " / " : "");
    }
    return x;
}

static void print_blocks(const Results *r)
{
    Section s = {"### Layers"};
    Table t = {&s, "One layer each, from shared input to shared output, on loopback but for network-wan. CPU seconds and RSS: client /\n"
                   "server / third; work ahead of the input is included.",
               "case | s | float, s | ratio | exchanges | MB to server | MB back | MB of the third | CPU, s | RSS, MB | largest error",
               false};
    for (size_t i = 0; i < r->count; i++) {
        const Json *o = r->saved[i].json;
        if (!is_block(o)) continue;
        table_row(&t, "%s | %.4f | %.4f | %.1f | %.0f | %.2f | %.2f | %.2f | %s | %s | %.4f", r->saved[i].name, real_of(o, "seconds"),
                  real_of(o, "plain_seconds"), real_of(o, "ratio"), real_of(o, "exchanges"), real_of(o, "bytes.client_to_server") / 1e6,
                  real_of(o, "bytes.server_to_client") / 1e6, real_of(o, "correlation_bytes") / 1e6,
                  parties_text(o, "cpu_seconds.%s", 1, 3).text, parties_text(o, "peak_rss_mb.%s", 1, 0).text, real_of(o, "max_abs_error"));
    }
    table_end(&t);
}

static void print_kinds(const Results *r)
{
    Section s = {"### Where the time goes"};
    Table t = {&s, "Per cent of the client's / server's / third's time online.",
               "case | PRG | packing | masking | products | lookups | shares | memory | transfer | other", false};
    static const char *const paths[] = {"%s.prg", "%s.packing", "%s.masking", "%s.products", "%s.lookups", "%s.shares", "%s.memory",
                                        "%s.transfer", "%s.other"};
    for (size_t i = 0; i < r->count; i++) {
        const Json *all = result_walk(r->saved[i].json, "time_by_kind");
        char row[1024] = "";
        for (size_t k = 0; all && k < sizeof paths / sizeof *paths; k++) {
            size_t len = strlen(row);
            snprintf(row + len, sizeof row - len, " | %s", parties_text(all, paths[k], 100, 0).text);
        }
        if (all) table_row(&t, "%s%s", r->saved[i].name, row);
    }
    table_end(&t);
}

// ---- the folder ------------------------------------------------------------------------------------------------------

/* Numbers in names in the order of their values. */
static int by_name(const void *a, const void *b) { return strverscmp(((const Saved *)a)->name, ((const Saved *)b)->name); }

static CHECKED Result folder_read(Results *out, const char *dir, Arena *a)
{
    DIR *d = opendir(dir);
    if (!d) return fail(FAIL_SYSTEM, "%s: %s", dir, strerror(errno));
    Result r = OK;
    for (struct dirent *e; (e = readdir(d)) && !failed(r);) {
        size_t len = strlen(e->d_name);
        if (len < 6 || strcmp(e->d_name + len - 5, ".json") != 0) continue;
        if (out->count == MOST_RESULTS) r = fail(FAIL_DATA, "%s: more than %d results", dir, MOST_RESULTS);
        else {
            Saved *s = &out->saved[out->count++];
            s->path = arena_format(a, "%s/%s", dir, e->d_name);
            s->name = arena_format(a, "%.*s", (int)len - 5, e->d_name);
            r = json_read(&s->json, s->path, RESULT_LIMIT);
        }
    }
    closedir(d);
    qsort(out->saved, out->count, sizeof *out->saved, by_name);
    return r;
}

static void report_print(const Results *r)
{
    report_asked(r);
    print_machines(r);
    for (size_t i = 0; i < r->count; i++) print_figures(&r->saved[i]);
    print_blocks(r);
    print_kinds(r);
}

Result bench_report(int argc, char **argv)
{
    const char *dir = NULL;
    Option options[] = {OPTION("DIR", OPT_TEXT, &dir, .required = true)};
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Arena a;
    arena_init(&a, false);
    Results all = {arena_new(&a, Saved, MOST_RESULTS), 0};
    Result r = folder_read(&all, dir, &a);
    if (!failed(r)) report_print(&all);
    for (size_t i = 0; i < all.count; i++) json_free(all.saved[i].json);
    arena_free(&a);
    return r;
}

// ---- single values ---------------------------------------------------------------------------------------------------

static Result value_print(const Json *v, const char *path, const char *file)
{
    const char *text;
    double real;
    bool truth;
    switch (json_kind(v)) {
    case KIND_TEXT: GUARD(json_as_text(&text, v, path)); printf("%s", text); return OK;
    case KIND_INTEGER:
    case KIND_REAL: GUARD(json_as_real(&real, v, path, -1e300, 1e300)); printf("%.10g", real); return OK;
    case KIND_BOOL: GUARD(json_as_bool(&truth, v, path)); printf(truth ? "true" : "false"); return OK;
    default: return fail(FAIL_DATA, "%s: there is no value %s", file, path);
    }
}

Result bench_pick(int argc, char **argv)
{
    Json *o;
    if (argc < 2) return fail(FAIL_USE, "pick needs a file, and paths of values in it");
    GUARD(json_read(&o, argv[0], RESULT_LIMIT));
    Result r = OK;
    for (int i = 1; i < argc && !failed(r); i++) {
        if (i > 1) putchar(' ');
        r = value_print(result_walk(o, argv[i]), argv[i], argv[0]);
    }
    putchar('\n');
    json_free(o);
    return r;
}
