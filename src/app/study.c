/* study.c - the study's rows: `bench study DIR` reads what tools/study left in DIR/TASK/CELL/ and prints, as JSON, a row for each cell,
 * setting and network; `bench study-report FILE` (study_report.c) makes every table and plot from those rows alone.
 *
 * A cell's folder has cell.json (what the cell is), plain.json (scores of the whole test in float), clear.json (scores of an even sample
 * under secure computation, beside the same sample in float), run-SETTING-N.json (generations with their costs) and agree.txt,
 * which is written when dealer and 3pc agreed with clear (see below). Where there is none, refused.txt has the reason. */
#include "app/study.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RUNS = 64, STUDY_LIMIT = 1 << 24, LOGITS_LIMIT = 1 << 28, REASON_LIMIT = 4096, MOST_NAMES = 256 };
#define MOST_APART 4.0                         // how far from clear a run may be, in distances of two runs of clear

static const char *const settings[] = {"dealer", "3pc"}, *const networks[] = {"loopback", "lan", "wan"};

const char *study_score(const char *task)
{
    return !strcmp(task, "sql") ? "execution" : !strcmp(task, "chat") ? "constraints" : "chrf";
}

// ---- a cell ----------------------------------------------------------------------------------------------------------

typedef struct Cell {
    const char *task;
    Json *about, *plain, *sample;              // sample: clear.json, or of a cell that needs no secure computation sample.json
    bool secure, agreed;                       // sample is of clear; dealer and 3pc agree with it
    const char *reason;                        // why there is no secure quality, or NULL
    Json *run[2][MOST_RUNS];                   // by setting
    size_t runs[2];
} Cell;

static CHECKED Result json_maybe(Json **out, const char *path)
{
    *out = NULL;
    return file_exists(path) ? json_read(out, path, STUDY_LIMIT) : OK;
}

static CHECKED Result reason_read(const char **out, const char *path, Arena *a)
{
    Buffer text = {0};
    if (!file_exists(path)) return OK;
    Result r = file_read(&text, path, REASON_LIMIT);
    if (!failed(r)) *out = arena_format(a, "%.*s", (int)strcspn((const char *)text.data, "\n"), (const char *)text.data);
    buffer_free(&text);
    return r;
}

static CHECKED Result cell_read(Cell *c, const char *dir, Arena *a)
{
    GUARD(json_read(&c->about, arena_format(a, "%s/cell.json", dir), STUDY_LIMIT));
    GUARD(json_maybe(&c->plain, arena_format(a, "%s/plain.json", dir)));
    GUARD(json_maybe(&c->sample, arena_format(a, "%s/clear.json", dir)));
    c->secure = c->sample != NULL;
    if (!c->sample) GUARD(json_maybe(&c->sample, arena_format(a, "%s/sample.json", dir)));
    c->agreed = file_exists(arena_format(a, "%s/agree.txt", dir));
    for (size_t s = 0; s < 2; s++)
        for (; c->runs[s] < MOST_RUNS; c->runs[s]++) {
            Json **run = &c->run[s][c->runs[s]];
            GUARD(json_maybe(run, arena_format(a, "%s/run-%s-%zu.json", dir, settings[s], c->runs[s] + 1)));
            if (!*run) break;
        }
    GUARD(reason_read(&c->reason, arena_format(a, "%s/refused.txt", dir), a));
    if (!c->reason && !c->secure) c->reason = "not measured yet";
    if (!c->reason && !c->agreed) c->reason = "dealer and 3pc have not been found to agree with clear";
    return OK;
}

static void cell_free(Cell *c)
{
    json_free(c->about), json_free(c->plain), json_free(c->sample);
    for (size_t s = 0; s < 2; s++)
        for (size_t i = 0; i < c->runs[s]; i++) json_free(c->run[s][i]);
}

// ---- rows ------------------------------------------------------------------------------------------------------------

/* key, and its interval key_95: [low, high]; null without the score. */
static void score_put(Json *row, const char *key, const char *interval, const Json *eval, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "scores.%s", name);
    const Json *score = result_walk(eval, path);
    if (!score) return;
    Json *both = json_new_array();
    json_add(both, json_of_real(real_of(score, "low")));
    json_add(both, json_of_real(real_of(score, "high")));
    json_put(row, key, json_of_real(real_of(score, "value")));
    json_put(row, interval, both);
}

static void qualities_put(Json *row, const Cell *c)
{
    const char *name = study_score(c->task);
    char plain[32];
    snprintf(plain, sizeof plain, c->secure ? "plain_%s" : "%s", name);
    json_put(row, "score", json_of_text(name));
    score_put(row, "quality_plain", "quality_plain_95", c->plain, name);
    score_put(row, "quality_plain_sample", "quality_plain_sample_95", c->sample, plain);
    if (!c->reason) score_put(row, "quality_secure", "quality_secure_95", c->sample, name);
    else json_put(row, "reason", json_of_text(c->reason));
    if (c->plain) json_put(row, "samples_plain", json_of_real(real_of(c->plain, "samples")));
    if (c->sample) json_put(row, "samples_secure", json_of_real(real_of(c->sample, "samples")));
    if (c->secure) json_put(row, "same_likeliest_token", json_of_real(real_of(c->sample, "argmax_agreement")));
}

/* What the cell is: of cell.json, name and number as they stand there. */
static Json *row_new(const Cell *c, const char *setting, const char *network)
{
    static const char *const texts[] = {"cell", "method"}, *const numbers[] = {"frozen", "rank", "merge", "prune"};
    Json *row = json_new_object();
    json_put(row, "task", json_of_text(c->task));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) json_put(row, texts[i], json_of_text(text_of(c->about, texts[i])));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_put(row, numbers[i], json_of_uint((uint64_t)real_of(c->about, numbers[i])));
    json_put(row, "setting", json_of_text(setting));
    json_put(row, "network", json_of_text(network));
    qualities_put(row, c);
    return row;
}

double study_bytes(const Json *links)
{
    double sum = 0;
    for (JsonEach e = {0}; json_each(links, &e);) sum += real_of(links, e.key);
    return sum;
}

/* Of the tokens that all runs decoded: seconds as the runs are replayed over the network, the rest as counted. */
static void costs_put(Json *row, const Cell *c, size_t setting, const char *network)
{
    char path[64];
    double tokens = 0, exchanges = 0, bytes = 0, seconds = 0;
    snprintf(path, sizeof path, "networks.%s.decode_seconds", network);
    for (size_t i = 0; i < c->runs[setting]; i++) {
        const Json *run = c->run[setting][i];
        tokens += real_of(run, "decode.tokens"), exchanges += real_of(run, "decode.exchanges");
        seconds += real_of(run, path), bytes += study_bytes(result_walk(run, "decode.bytes"));
    }
    if (tokens < 1) return;
    json_put(row, "seconds_per_token", json_of_real(seconds / tokens));
    json_put(row, "bytes_per_token", json_of_real(bytes / tokens));
    json_put(row, "exchanges_per_token", json_of_real(exchanges / tokens));
    json_put(row, "tokens_measured", json_of_real(tokens));
}

static void cell_rows(Json *rows, const Cell *c)
{
    if (!c->runs[0] && !c->runs[1]) {
        json_add(rows, row_new(c, "plain", "none"));
        return;
    }
    for (size_t s = 0; s < 2; s++)
        for (size_t n = 0; n < sizeof networks / sizeof *networks; n++) {
            Json *row = row_new(c, settings[s], networks[n]);
            costs_put(row, c, s, networks[n]);
            json_add(rows, row);
        }
}

// ---- folders ---------------------------------------------------------------------------------------------------------

typedef struct Names { const char **name; size_t count; } Names;

static int by_version(const void *a, const void *b) { return strverscmp(*(const char *const *)a, *(const char *const *)b); }

/* The folders in a folder that have a file of that name inside; inside NULL: all. */
static CHECKED Result names_read(Names *out, const char *dir, Arena *a)
{
    DIR *d = opendir(dir);
    if (!d) return fail(FAIL_SYSTEM, "%s: %s", dir, strerror(errno));
    Result r = OK;
    *out = (Names){arena_new(a, const char *, MOST_NAMES), 0};
    for (struct dirent *e; (e = readdir(d)) && !failed(r);) {
        if (e->d_name[0] == '.' || e->d_type == DT_REG) continue;
        if (out->count == MOST_NAMES) r = fail(FAIL_DATA, "%s: more than %d folders", dir, MOST_NAMES);
        else out->name[out->count++] = arena_string(a, e->d_name);
    }
    closedir(d);
    qsort(out->name, out->count, sizeof *out->name, by_version);
    return r;
}

static CHECKED Result task_rows(Json *rows, const char *dir, const char *task, Arena *a)
{
    Names cells;
    const char *folder = arena_format(a, "%s/%s", dir, task);
    GUARD(names_read(&cells, folder, a));
    for (size_t i = 0; i < cells.count; i++) {
        const char *path = arena_format(a, "%s/%s", folder, cells.name[i]);
        if (!file_exists(arena_format(a, "%s/cell.json", path))) continue;
        Cell *c = arena_new(a, Cell, 1);
        c->task = task;
        Result r = cell_read(c, path, a);
        if (!failed(r)) cell_rows(rows, c);
        cell_free(c);
        GUARD(r);
    }
    return OK;
}

Result bench_study(int argc, char **argv)
{
    const char *dir = NULL;
    Option options[] = {OPTION("DIR", OPT_TEXT, &dir, .required = true)};
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Arena a;
    Names tasks;
    arena_init(&a, false);
    Json *rows = json_new_array();
    Result r = names_read(&tasks, dir, &a);
    for (size_t i = 0; i < tasks.count && !failed(r); i++) r = task_rows(rows, dir, tasks.name[i], &a);
    if (!failed(r) && !json_count(rows)) r = fail(FAIL_DATA, "%s: there is no cell of a study", dir);
    arena_free(&a);
    if (failed(r)) json_free(rows);
    else print_json(rows);
    return r;
}

// ---- agreement -------------------------------------------------------------------------------------------------------

/* A run and its logits, FILE.json and FILE.logits. Masks are fresh in every run, clear's too, and with them the stochastic rounding: so
 * two runs of one setting differ by a few hundredths in each logit, and where two tokens tie within that, in the token. */
typedef struct Told { const char *path; Json *run; Buffer logits; size_t tokens, vocab; } Told;

static CHECKED Result told_read(Told *t, const char *path, Arena *a)
{
    size_t len = strlen(path);
    t->path = path;
    if (len < 6 || strcmp(path + len - 5, ".json") != 0) return fail(FAIL_USE, "%s is not named FILE.json", path);
    GUARD(json_read(&t->run, path, STUDY_LIMIT));
    const Json *tokens = result_walk(t->run, "tokens");
    if (json_kind(tokens) != KIND_ARRAY) return fail(FAIL_DATA, "%s: there are no tokens", path);
    const char *rows = arena_format(a, "%.*s.logits", (int)len - 5, path);
    GUARD(file_read(&t->logits, rows, LOGITS_LIMIT));
    t->tokens = json_count(tokens);
    t->vocab = t->tokens ? t->logits.len / sizeof(float) / t->tokens : 0;
    if (t->vocab * t->tokens * sizeof(float) != t->logits.len || (t->tokens && !t->vocab))
        return fail(FAIL_DATA, "%s: not a row of logits for each of %zu tokens", rows, t->tokens);
    return OK;
}

static float logit_at(const Told *t, size_t i)
{
    float v;
    memcpy(&v, t->logits.data + i * sizeof v, sizeof v);
    return v;
}

static double token_at(const Told *t, size_t i)                // -1: the end
{
    char path[32];
    snprintf(path, sizeof path, "tokens.%zu", i);
    return i < t->tokens ? real_of(t->run, path) : -1;
}

typedef struct Apart { size_t tokens; bool whole; double rms; } Apart;     // tokens that agree; all; of the logits behind equal tokens

static CHECKED Result apart_take(Apart *out, const Told *x, const Told *y)
{
    double sum = 0;
    size_t rows = x->tokens < y->tokens ? x->tokens : y->tokens;
    *out = (Apart){0};
    if (rows && x->vocab != y->vocab) return fail(FAIL_DATA, "%s has %zu logits a token, %s has %zu", x->path, x->vocab, y->path, y->vocab);
    while (out->tokens < rows && !(fabs(token_at(x, out->tokens) - token_at(y, out->tokens)) > 0)) out->tokens++;
    out->whole = out->tokens == x->tokens && out->tokens == y->tokens;
    size_t seen = out->tokens < rows ? out->tokens + 1 : rows;
    for (size_t i = 0; i < seen * x->vocab; i++) {
        double d = (double)logit_at(x, i) - (double)logit_at(y, i);
        if (!isfinite(d)) return fail(FAIL_DATA, "%s or %s has a logit that is no number", x->path, y->path);
        sum += d * d;
    }
    out->rms = seen ? sqrt(sum / (double)(seen * x->vocab)) : 0;
    return OK;
}

/* FIRST SECOND OTHER...: the first two are of clear, and say how far runs are apart by rounding alone. Every other must give the first's
 * tokens, up to one that rounding decides: its logits are no further from the first's than MOST_APART times that. */
static CHECKED Result told_compare(const Told *told, size_t count)
{
    Apart own, a;
    GUARD(apart_take(&own, &told[0], &told[1]));
    for (size_t i = 2; i < count; i++) {
        GUARD(apart_take(&a, &told[0], &told[i]));
        if (a.rms > MOST_APART * own.rms)
            return fail(FAIL_DATA, "%s disagrees with %s: logits differ by %.3g (RMS), rounding alone makes %.3g", told[i].path,
                        told[0].path, a.rms, own.rms);
        if (a.whole) printf("%s: all %zu tokens, logits within %.3g (RMS; rounding alone: %.3g)\n", told[i].path, a.tokens, a.rms, own.rms);
        else printf("%s: %zu tokens, then one that rounding decides; logits within %.3g (RMS; rounding alone: %.3g)\n", told[i].path,
                    a.tokens, a.rms, own.rms);
    }
    return OK;
}

Result bench_same(int argc, char **argv)
{
    Told told[MOST_RUNS] = {0};
    size_t count = (size_t)argc;
    if (argc < 3 || argc > MOST_RUNS) return fail(FAIL_USE, "same needs two runs of clear and others, %d at most", MOST_RUNS);
    Arena a;
    arena_init(&a, false);
    Result r = OK;
    for (size_t i = 0; i < count && !failed(r); i++) r = told_read(&told[i], argv[i], &a);
    if (!failed(r)) r = told_compare(told, count);
    for (size_t i = 0; i < count; i++) json_free(told[i].run), buffer_free(&told[i].logits);
    arena_free(&a);
    return r;
}
