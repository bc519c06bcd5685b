/* task_score.c - task files read back, and the scores of what a model answered. */
#include "tune/sql_run.h"
#include "tune/task.h"
#include "tune/task_story.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 1 << 28, MOST_REFERENCES = 4096, MOST_CELLS = 1 << 16, MOST_COLUMNS = 32 };

// ---- reading ---------------------------------------------------------------------------------------------------------

/* prompt and completion, question and answer, or text, cut behind its last 'A:'. */
static Result pair_read(TestPair *out, const Json *o, Arena *a)
{
    const char *prompt = NULL, *answer = NULL, *text = NULL;
    const Json *references;
    GUARD(json_get_text_or(&prompt, o, json_find(o, "question") ? "question" : "prompt", NULL));
    GUARD(json_get_text_or(&answer, o, json_find(o, "answer") ? "answer" : "completion", NULL));
    GUARD(json_get_text_or(&text, o, "text", NULL));
    if (!prompt && text) {
        const char *mark = NULL;
        for (const char *at = text; (at = strstr(at, "\nA:")); at++) mark = at;
        if (!mark) return fail(FAIL_DATA, "text has no 'A:'");
        prompt = arena_format(a, "%.*s", (int)(mark + 3 - text), text), answer = mark + 3;
    }
    if (!prompt || !answer) return fail(FAIL_DATA, "neither prompt and completion, nor question and answer, nor text");
    *out = (TestPair){arena_string(a, prompt), arena_new(a, const char *, 1), 1};
    out->answers[0] = arena_string(a, answer);
    if (!json_find(o, "references")) return OK;
    GUARD(json_get_array(&references, o, "references", MOST_REFERENCES));
    if (!(out->count = json_count(references))) return fail(FAIL_DATA, "references is empty");
    out->answers = arena_new(a, const char *, out->count);
    for (size_t i = 0; i < out->count; i++) {
        GUARD(json_as_text(&answer, json_at(references, i), "references"));
        out->answers[i] = arena_string(a, answer);
    }
    return OK;
}

static Result row_read(SqlTable *t, size_t r, const Json *row, Arena *a)
{
    if (json_kind(row) != KIND_ARRAY || json_count(row) != t->columns)
        return fail(FAIL_DATA, "table: row %zu has not %zu cells", r + 1, t->columns);
    for (size_t c = 0; c < t->columns; c++) {
        const char **cell = &t->cell[r * t->columns + c];
        int64_t number;
        if (t->number[c]) {
            GUARD(json_as_int(&number, json_at(row, c), "rows", INT64_MIN, INT64_MAX));
            *cell = arena_format(a, "%lld", (long long)number);
        } else {
            GUARD(json_as_text(cell, json_at(row, c), "rows"));
            *cell = arena_string(a, *cell);
        }
    }
    return OK;
}

static Result table_read(const SqlTable **out, const Json *o, Arena *a)
{
    const Json *columns, *types, *rows;
    const char *text;
    GUARD(json_get_text(&text, o, "name"));
    GUARD(json_get_array(&columns, o, "columns", MOST_COLUMNS));
    GUARD(json_get_array(&types, o, "types", MOST_COLUMNS));
    GUARD(json_get_array(&rows, o, "rows", MOST_CELLS / MOST_COLUMNS));
    SqlTable *t = arena_new(a, SqlTable, 1);
    size_t n = json_count(columns);
    bool *number = arena_new(a, bool, n + 1);
    if (!n || json_count(types) != n) return fail(FAIL_DATA, "table: %zu columns and %zu types", n, json_count(types));
    *t = (SqlTable){arena_string(a, text), arena_new(a, const char *, n), number, n, json_count(rows), NULL};
    for (size_t c = 0; c < n; c++) {
        GUARD(json_as_text(&text, json_at(columns, c), "columns"));
        t->column[c] = arena_string(a, text);
        GUARD(json_as_text(&text, json_at(types, c), "types"));
        if (strcmp(text, "text") != 0 && strcmp(text, "integer") != 0)
            return fail(FAIL_DATA, "types: '%s' is neither text nor integer", text);
        number[c] = *text == 'i';
    }
    t->cell = arena_new(a, const char *, n * t->rows + 1);
    for (size_t r = 0; r < t->rows; r++) GUARD(row_read(t, r, json_at(rows, r), a));
    *out = t;
    return OK;
}

static Result constraints_read(TaskSample *s, const Json *o, Arena *a)
{
    const Json *list;
    GUARD(json_get_array(&list, o, "constraints", 64));
    s->constraints = json_count(list);
    s->constraint = arena_new(a, const char *, s->constraints + 1);
    for (size_t i = 0; i < s->constraints; i++) {
        GUARD(json_as_text(&s->constraint[i], json_at(list, i), "constraints"));
        GUARD(constraint_check(s->constraint[i]));
        s->constraint[i] = arena_string(a, s->constraint[i]);
    }
    return OK;
}

static Result sample_read(TaskSet *set, TaskSample *s, const Json *o, Arena *a)
{
    static const char *const tasks[] = {"translate", "sql", "wikisql", "chat", "humaneval", "mtbench"};
    const char *task, *schema;
    GUARD(pair_read(&s->pair, o, a));
    GUARD(json_get_text_or(&task, o, "task", NULL));
    if (set->count && (!task != !set->task || (task && strcmp(task, set->task) != 0)))
        return fail(FAIL_DATA, "task is %s, and %s in the lines before", task ? task : "none", set->task ? set->task : "none");
    for (size_t i = 0; task && !set->count && i < sizeof tasks / sizeof *tasks; i++)
        if (!strcmp(tasks[i], task)) set->task = tasks[i];
    if (!set->task != !task) return fail(FAIL_DATA, "task '%s' is unknown", task);
    if (!task) return OK;
    if (!strcmp(task, "chat")) return constraints_read(s, o, a);
    if (json_find(o, "question_id")) {
        uint64_t id;
        GUARD(json_get_uint(&id, o, "question_id", 0, 1 << 20));
        s->id = arena_format(a, "%llu", (unsigned long long)id);
    }
    GUARD(json_get_text_or(&s->id, o, "task_id", s->id));
    if (s->id) s->id = arena_string(a, s->id);
    if (strcmp(task, "sql") != 0 || !json_find(o, "table")) return OK;           // lines to train on have no table
    GUARD(json_get_text_or(&schema, o, "schema", "seen"));
    s->unseen = !strcmp(schema, "unseen");
    return table_read(&s->table, json_find(o, "table"), a);
}

static Result lines_read(TaskSet *out, const char *path, Arena *a)
{
    Buffer text = {0};
    GUARD(file_read(&text, path, FILE_LIMIT));
    size_t lines = 1, number = 0;
    for (size_t i = 0; i < text.len; i++) lines += text.data[i] == '\n';
    out->sample = arena_new(a, TaskSample, lines);
    Result r = OK;
    for (const char *at = (const char *)text.data, *end = at + text.len; !failed(r) && at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((stop ? stop : end) - at);
        Json *o = NULL;
        number++;
        if (len) r = json_parse(&o, at, len);
        if (len && !failed(r)) r = sample_read(out, &out->sample[out->count], o, a);
        if (len && !failed(r)) out->count++;
        r = fail_in(r, "%s: line %zu", path, number);
        json_free(o);
        at += len + 1;
    }
    buffer_free(&text);
    return r;
}

static Result pairs_take(TaskSet *out, const char *path, Arena *a)
{
    TestPair *pair;
    GUARD(data_pairs(&pair, &out->count, path, PART_TEST, a));
    out->sample = arena_new(a, TaskSample, out->count + 1);
    for (size_t i = 0; i < out->count; i++) out->sample[i].pair = pair[i];
    return OK;
}

Result task_read(TaskSet *out, const char *path, size_t limit, Arena *a)
{
    const char *dot = strrchr(path, '.');
    *out = (TaskSet){0};
    if (dot && (!strcmp(dot, ".jsonl") || !strcmp(dot, ".json"))) GUARD(lines_read(out, path, a));
    else GUARD(pairs_take(out, path, a));
    if (!out->count) return fail(FAIL_DATA, "%s: no samples", path);
    if (!limit || limit >= out->count) return OK;
    for (size_t i = 0; i < limit; i++) out->sample[i] = out->sample[i * out->count / limit];
    out->count = limit;
    return OK;
}

// ---- scoring ---------------------------------------------------------------------------------------------------------

static void score_add(TaskScores *s, const char *name, Score score)
{
    ASSERT(s->count < TASK_SCORES);
    s->name[s->count] = name, s->score[s->count++] = score;
}

/* *right: whether the answer gives the same rows as the reference. */
static Result statement_score(bool *right, const TaskSample *s, const char *answer, Arena *a)
{
    SqlBase *base = NULL;
    SqlAnswer want, got;
    const char *reference = s->pair.answers[0];
    if (!s->table) return fail(FAIL_DATA, "a line has no table to run '%.100s' on", reference);
    Result r = sql_open(&base, s->table);
    if (!failed(r) && !sql_ask(&want, base, reference, a)) r = fail(FAIL_DATA, "the reference '%.100s' does not run", reference);
    if (!failed(r)) *right = sql_ask(&got, base, answer, a) && sql_same(&want, &got, sql_is_ordered(reference));
    sql_close(base);
    return r;
}

static Result statements_score(TaskScores *out, const TaskSet *set, const char *const *answers)
{
    size_t right[2] = {0}, count[2] = {0};
    Arena a;
    Result r = OK;
    arena_init(&a, false);
    for (size_t i = 0; i < set->count && !failed(r); i++) {
        bool good = false;
        ArenaMark mark = arena_mark(&a);
        r = statement_score(&good, &set->sample[i], answers[i], &a);
        arena_rollback(&a, mark);
        right[set->sample[i].unseen] += good, count[set->sample[i].unseen]++;
    }
    arena_free(&a);
    score_add(out, "execution", score_share(right[0] + right[1], count[0] + count[1]));
    if (count[0]) score_add(out, "execution_seen", score_share(right[0], count[0]));
    if (count[1]) score_add(out, "execution_unseen", score_share(right[1], count[1]));
    return r;
}

static Score constraints_score(const TaskSet *set, const char *const *answers)
{
    size_t met = 0, count = 0;
    for (size_t i = 0; i < set->count; i++)
        for (size_t k = 0; k < set->sample[i].constraints; k++, count++) met += constraint_met(set->sample[i].constraint[k], answers[i]);
    return score_share(met, count);
}

Result task_score(TaskScores *out, const TaskSet *set, const char *const *answers, const char *judge)
{
    const char *task = set->task ? set->task : "";
    *out = (TaskScores){0};
    if (!strcmp(task, "humaneval") || !strcmp(task, "mtbench")) return OK;
    if (!strcmp(task, "chat")) {
        Score perplexity;
        score_add(out, "constraints", constraints_score(set, answers));
        if (!judge) return OK;
        GUARD(score_perplexity(&perplexity, judge, answers, set->count));
        score_add(out, "perplexity", perplexity);
        return OK;
    }
    Arena a;
    arena_init(&a, false);
    TestPair *pair = arena_new(&a, TestPair, set->count + 1);
    for (size_t i = 0; i < set->count; i++) pair[i] = set->sample[i].pair;
    Result r = OK;
    if (!strcmp(task, "sql")) r = statements_score(out, set, answers);
    if (!strcmp(task, "translate")) score_add(out, "bleu", score_bleu(answers, pair, set->count));
    if (!strcmp(task, "translate") || !*task) score_add(out, "chrf", score_chrf(answers, pair, set->count));
    score_add(out, "exact_match", score_exact(answers, pair, set->count));
    arena_free(&a);
    return r;
}
