/* bench_report.c - tables from the JSON of benchmarks: `bench report DIR` prints them all as Markdown, what was asked beside what
 * was measured; `bench pick` prints single values, for plots. */
#include "app/bench.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RESULTS = 256, RESULT_LIMIT = 16 << 20 };

typedef struct Saved { char *path, *name; Json *json; } Saved;

static const char *text_of(const Json *o, const char *key)
{
    const char *text = NULL;
    return failed(json_get_text(&text, o, key)) ? "" : text;
}

static double real_of(const Json *o, const char *key)
{
    double v = 0;
    return failed(json_get_real(&v, o, key, -1e300, 1e300)) ? 0 : v;
}

static const char *yes_no(const Json *o)
{
    bool met = false;
    if (!json_find(o, "met") || failed(json_get_bool(&met, o, "met"))) return "";
    return met ? "yes" : "**no**";
}

// ---- Markdown --------------------------------------------------------------------------------------------------------

static void print_figures(const Json *figures)
{
    printf("| figure | best | median | unit | reached | asked | met |\n| --- | ---: | ---: | --- | --- | --- | --- |\n");
    for (size_t i = 0; i < json_count(figures); i++) {
        const Json *f = json_at(figures, i);
        char reached[96] = "", asked[32] = "";
        const char *ask = text_of(f, "ask");
        bool times = !strcmp(ask, "times"), most = !strcmp(ask, "at most");
        if (json_find(f, "of"))
            snprintf(reached, sizeof reached, times ? "%.2fx %s" : "%.0f %% of %s", real_of(f, "share") * (times ? 1 : 100),
                     text_of(f, "of"));
        if (*ask) snprintf(asked, sizeof asked, most ? "<= %g" : times ? ">= %gx" : ">= %.0f %%",
                           real_of(f, "asked") * (most || times ? 1 : 100));
        printf("| %s | %.4g | %.4g | %s | %s | %s | %s |\n", text_of(f, "name"), real_of(f, "best"), real_of(f, "median"),
               text_of(f, "unit"), reached, asked, yes_no(f));
    }
    printf("\n");
}

static void print_asked(const Json *asked)
{
    printf("| figure | asked | measured | met |\n| --- | ---: | ---: | --- |\n");
    for (size_t i = 0; i < json_count(asked); i++) {
        const Json *a = json_at(asked, i);
        char most[32] = "";
        if (json_find(a, "asked")) snprintf(most, sizeof most, "<= %.4g", real_of(a, "asked"));
        printf("| %s | %s | %.4g | %s |\n", text_of(a, "name"), most, real_of(a, "value"), yes_no(a));
    }
    printf("\n");
}

static void print_machine(const Json *o)
{
    const Json *m = json_find(o, "machine");
    if (!m) return;
    printf("%s; %s and %s kernels; load %.1f%s%s.\n\n", text_of(m, "processor"), text_of(m, "ring_kernels"), text_of(m, "aes_kernel"),
           real_of(m, "load"), *text_of(m, "commit") ? "; commit " : "", text_of(m, "commit"));
}

static void print_parties(const Json *o, const char *title, const char *key)
{
    const Json *p = json_find(o, key);
    if (p) printf("| %s | %.4g | %.4g | %.4g |\n", title, real_of(p, "client"), real_of(p, "server"), real_of(p, "third"));
}

static void print_block(const Json *o)
{
    const Json *b = json_find(o, "bytes"), *kinds = json_find(o, "time_by_kind");
    printf("%.4f s from shared input to shared output, float forward %.4f s: %.1fx. %.0f exchanges; %.2f MB to the server, %.2f MB back, "
           "%.2f MB of the third; largest error %.4f.\n\n", real_of(o, "seconds"), real_of(o, "plain_seconds"), real_of(o, "ratio"),
           real_of(o, "exchanges"), real_of(b, "client_to_server") / 1e6, real_of(b, "server_to_client") / 1e6,
           real_of(o, "correlation_bytes") / 1e6, real_of(o, "max_abs_error"));
    printf("| | client | server | third |\n| --- | ---: | ---: | ---: |\n");
    print_parties(o, "CPU seconds, work ahead included", "cpu_seconds");
    print_parties(o, "CPU seconds online", "online_cpu_seconds");
    print_parties(o, "peak RSS, MB", "peak_rss_mb");
    printf("\n");
    for (JsonEach e = {0}; kinds && json_each(kinds, &e);) {
        printf("Time of the %s:", e.key);
        const char *comma = " ";
        for (JsonEach k = {0}; json_each(e.value, &k); comma = ", ") {
            double v = 0;
            if (!failed(json_as_real(&v, k.value, k.key, 0, 1))) printf("%s%s %.0f %%", comma, k.key, 100 * v);
        }
        printf(".\n\n");
    }
}

static void print_result(const Saved *s)
{
    const Json *figures = json_find(s->json, "figures"), *asked = json_find(s->json, "asked");
    if (!figures && !asked) return;
    printf("## %s\n\n", s->name);
    print_machine(s->json);
    if (figures) print_figures(figures);
    if (!strcmp(text_of(s->json, "bench"), "block")) print_block(s->json);
    if (json_count(asked)) print_asked(asked);
}

// ---- the folder ------------------------------------------------------------------------------------------------------

static int by_name(const void *a, const void *b) { return strcmp(((const Saved *)a)->name, ((const Saved *)b)->name); }

static Result folder_read(Saved *all, size_t *count, const char *dir, Arena *a)
{
    DIR *d = opendir(dir);
    if (!d) return fail(FAIL_SYSTEM, "%s: %s", dir, strerror(errno));
    Result r = OK;
    for (struct dirent *e; (e = readdir(d)) && !failed(r);) {
        size_t len = strlen(e->d_name);
        if (len < 6 || strcmp(e->d_name + len - 5, ".json") != 0) continue;
        if (*count == MOST_RESULTS) r = fail(FAIL_DATA, "%s: more than %d results", dir, MOST_RESULTS);
        else {
            Saved *s = &all[(*count)++];
            s->path = arena_format(a, "%s/%s", dir, e->d_name);
            s->name = arena_format(a, "%.*s", (int)len - 5, e->d_name);
            r = json_read(&s->json, s->path, RESULT_LIMIT);
        }
    }
    closedir(d);
    qsort(all, *count, sizeof *all, by_name);
    return r;
}

Result bench_report(int argc, char **argv)
{
    const char *dir = NULL;
    Option options[] = {OPTION("DIR", OPT_TEXT, &dir, .required = true)};
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Arena a;
    arena_init(&a, false);
    Saved *all = arena_new(&a, Saved, MOST_RESULTS);
    size_t count = 0;
    Result r = folder_read(all, &count, dir, &a);
    for (size_t i = 0; i < count && !failed(r); i++) print_result(&all[i]);
    for (size_t i = 0; i < count; i++) json_free(all[i].json);
    arena_free(&a);
    return r;
}

// ---- single values ---------------------------------------------------------------------------------------------------

/* "a.b.2.c": members by name, elements by number. */
static const Json *walk(const Json *v, const char *path)
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
        r = value_print(walk(o, argv[i]), argv[i], argv[0]);
    }
    putchar('\n');
    json_free(o);
    return r;
}
