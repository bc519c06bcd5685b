/* task.c - tasks from data: the parts of each as JSON lines, and the text that a base may read.
 *
 * The base's text never holds a prompt beside its completion: sentences of both languages, schemas, questions, statements
 * and passages stand alone, in an order of their own. What a base may read of how the two sides go together, as a model that has read
 * much would have, is a table of the training pairs. */
#include "tune/task.h"
#include "tune/data_split.h"

#include <string.h>

enum { FILE_LIMIT = 1 << 28 };

bool random_chance(uint64_t *state, unsigned percent)
{
    return random_index(state, 100) < percent;
}

Json *task_object(const char *task, const char *prompt, const char *completion)
{
    Json *o = json_new_object();
    json_put(o, "task", json_of_text(task));
    json_put(o, "prompt", json_of_text(prompt));
    json_put(o, "completion", json_of_text(completion));
    return o;
}

static void line_append(Buffer *out, Json *line)
{
    json_print(out, line, 0, 17);
    buffer_u8(out, '\n');
    json_free(line);
}

/* Both sides in columns; a line of the prompt ends in a blank. */
static void pair_append(Buffer *out, const Json *line)
{
    const char *prompt = "", *completion = "";
    if (failed(json_get_text(&prompt, line, "prompt")) || failed(json_get_text(&completion, line, "completion"))) bug("a line without its sides");
    for (size_t i = 0; prompt[i + 1]; i++) buffer_u8(out, prompt[i] == '\n' ? ' ' : (uint8_t)prompt[i]);
    buffer_format(out, "\t%s\n", completion);
}

void task_line(TaskMaker *m, DataPart part, Json *line)
{
    if (part == PART_TRAIN) pair_append(&m->base_pairs, line);
    size_t *count[PART_ALL] = {&m->counts.train, &m->counts.valid, &m->counts.test};
    line_append(&m->part[part], line);
    ++*count[part];
}

void task_base(TaskMaker *m, const char *text)
{
    table_add(&m->base, text, strlen(text));
}

// ---- translation -----------------------------------------------------------------------------------------------------

static Json *references_of(const TestPair *p)
{
    Json *list = json_new_array();
    for (size_t i = 0; i < p->count; i++) json_add(list, json_of_text(p->answers[i]));
    return list;
}

/* Training takes every pair; what is scored takes every prompt once, with all of its answers. */
static Result make_translate(TaskMaker *m)
{
    const char *path = arena_format(&m->arena, "%s/tasks/tatoeba_eng_deu.txt", m->data);
    for (DataPart part = PART_TRAIN; part < PART_ALL; part++) {
        TestPair *pair = NULL;
        size_t count = 0;
        GUARD(data_pairs(&pair, &count, path, part, &m->arena));
        for (size_t i = 0; i < count; i++) {
            const char *prompt = arena_format(&m->arena, "%s\n", pair[i].prompt);
            for (size_t k = 0; k < (part == PART_TRAIN ? pair[i].count : 1); k++) {
                Json *line = task_object("translate", prompt, pair[i].answers[k]);
                if (part != PART_TRAIN) json_put(line, "references", references_of(&pair[i]));
                task_line(m, part, line);
                if (part == PART_TRAIN) task_base(m, pair[i].answers[k]);
            }
            if (part == PART_TRAIN) task_base(m, pair[i].prompt);
        }
    }
    return OK;
}

// ---- tasks for large models ------------------------------------------------------------------------------------------

/* Calls `add` for every line of a file of JSON objects. */
static Result lines_each(TaskMaker *m, const char *path, Result (*add)(TaskMaker *m, const Json *line))
{
    Buffer text = {0};
    GUARD(file_read(&text, path, FILE_LIMIT));
    const char *at = (const char *)text.data, *end = at + text.len;
    Result r = OK;
    for (size_t number = 1; !failed(r) && at < end; number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((stop ? stop : end) - at);
        Json *o = NULL;
        if (len) r = json_parse(&o, at, len);
        if (len && !failed(r)) r = add(m, o);
        r = fail_in(r, "%s: line %zu", path, number);
        json_free(o);
        at += len + 1;
    }
    buffer_free(&text);
    return r;
}

static Result humaneval_add(TaskMaker *m, const Json *line)
{
    const char *prompt, *solution, *test, *entry, *id;
    GUARD(json_get_text(&prompt, line, "prompt"));
    GUARD(json_get_text(&solution, line, "canonical_solution"));
    GUARD(json_get_text(&test, line, "test"));
    GUARD(json_get_text(&entry, line, "entry_point"));
    GUARD(json_get_text(&id, line, "task_id"));
    Json *o = task_object("humaneval", prompt, solution);
    json_put(o, "task_id", json_of_text(id));
    json_put(o, "test", json_of_text(test));
    json_put(o, "entry_point", json_of_text(entry));
    task_line(m, PART_TEST, o);
    return OK;
}

/* The first turn is the prompt; a judge asks the others after the model's reply. */
static Result mtbench_add(TaskMaker *m, const Json *line)
{
    const Json *turns, *references = json_find(line, "reference");
    const char *category, *turn, *answer = "";
    uint64_t id;
    GUARD(json_get_uint(&id, line, "question_id", 0, 1 << 20));
    GUARD(json_get_text(&category, line, "category"));
    GUARD(json_get_array(&turns, line, "turns", 16));
    if (!json_count(turns)) return fail(FAIL_DATA, "turns is empty");
    GUARD(json_as_text(&turn, json_at(turns, 0), "turns"));
    if (json_count(references)) GUARD(json_as_text(&answer, json_at(references, 0), "reference"));
    Json *o = task_object("mtbench", turn, answer), *more = json_new_array();
    json_put(o, "question_id", json_of_uint(id));
    json_put(o, "category", json_of_text(category));
    for (size_t i = 1; i < json_count(turns); i++) {
        const char *text = NULL;
        Result r = json_as_text(&text, json_at(turns, i), "turns");
        if (failed(r)) {
            json_free(more), json_free(o);
            return r;
        }
        json_add(more, json_of_text(text));
    }
    json_put(o, "turns", more);
    task_line(m, PART_TEST, o);
    return OK;
}

static Result make_humaneval(TaskMaker *m)
{
    const char *path = arena_format(&m->arena, "%s/tasks/HumanEval.jsonl", m->data), *packed = arena_format(&m->arena, "%s.gz", path);
    if (!file_exists(path) && file_exists(packed)) return fail(FAIL_DATA, "%s is packed: unpack it first (gzip -dk)", packed);
    return lines_each(m, path, humaneval_add);
}

static Result make_mtbench(TaskMaker *m)
{
    return lines_each(m, arena_format(&m->arena, "%s/tasks/mt_bench_question.jsonl", m->data), mtbench_add);
}

// ---- WikiSQL ---------------------------------------------------------------------------------------------------------

enum { WIKI_FITS = 240 };                      // bytes of prompt and completion that a context of 128 tokens holds

/* "table: T\ncolumns: C\nQ: question\nA: statement" in the form of our own prompts. */
static Result wiki_convert(const char **prompt, const char **completion, const Json *line, Arena *a)
{
    const char *text, *mark[4] = {"table: ", "\ncolumns: ", "\nQ: ", "\nA: "}, *at[5];
    GUARD(json_get_text(&text, line, "text"));
    if (strncmp(text, mark[0], strlen(mark[0])) != 0) return fail(FAIL_DATA, "text does not begin with 'table: '");
    at[0] = text, at[4] = text + strlen(text);
    size_t len[4];
    for (unsigned i = 1; i < 4; i++)
        if (!(at[i] = strstr(at[i - 1], mark[i]))) return fail(FAIL_DATA, "text has no '%s'", mark[i] + 1);
    for (unsigned i = 0; i < 4; i++) {
        at[i] += strlen(mark[i]);
        const char *end = i < 3 ? at[i + 1] : at[4];
        len[i] = text_trim(&at[i], (size_t)(end - at[i]));
    }
    *prompt = arena_format(a, "table %.*s: %.*s\n%.*s\n", (int)len[0], at[0], (int)len[1], at[1], (int)len[2], at[2]);
    *completion = arena_format(a, "%.*s", (int)len[3], at[3]);
    return OK;
}

static Result wiki_train_add(TaskMaker *m, const Json *line)
{
    const char *prompt, *completion;
    GUARD(wiki_convert(&prompt, &completion, line, &m->arena));
    if (strlen(prompt) + strlen(completion) > WIKI_FITS) return OK;
    task_line(m, PART_TRAIN, task_object("wikisql", prompt, completion));
    return OK;
}

static Result wiki_test_add(TaskMaker *m, const Json *line)
{
    const char *prompt, *completion;
    GUARD(wiki_convert(&prompt, &completion, line, &m->arena));
    line_append(&m->extra, task_object("wikisql", prompt, completion));
    m->counts.extra++;
    return OK;
}

/* Our own questions need no data; WikiSQL joins where it is there. */
static Result make_sql(TaskMaker *m)
{
    const char *train = arena_format(&m->arena, "%s/tasks/wikisql/train.jsonl", m->data);
    GUARD(task_make_sql(m));
    if (!file_exists(train)) return OK;
    GUARD(lines_each(m, train, wiki_train_add));
    return lines_each(m, arena_format(&m->arena, "%s/tasks/wikisql/test.jsonl", m->data), wiki_test_add);
}

// ---- files -----------------------------------------------------------------------------------------------------------

static Result lines_write(TaskMaker *m, const char *dir, const char *name, const Buffer *lines)
{
    return lines->len ? file_write(arena_format(&m->arena, "%s/%s", dir, name), lines->data, lines->len, 0644) : OK;
}

static Result maker_write(TaskMaker *m, const char *dir)
{
    Buffer text = {0};
    uint32_t count = m->base.count, *order = arena_new(&m->arena, uint32_t, count + 1);
    for (uint32_t i = 0; i < count; i++) order[i] = i;
    for (uint32_t i = count; i > 1; i--) {
        size_t j = random_index(&m->random, i);
        uint32_t last = order[i - 1];
        order[i - 1] = order[j], order[j] = last;
    }
    for (uint32_t i = 0; i < count; i++) buffer_format(&text, "%s\n", m->base.text[order[i]]);
    m->counts.base = count;
    GUARD(folder_make(dir, 0755));
    GUARD(lines_write(m, dir, "train.jsonl", &m->part[PART_TRAIN]));
    GUARD(lines_write(m, dir, "valid.jsonl", &m->part[PART_VALID]));
    GUARD(lines_write(m, dir, "test.jsonl", &m->part[PART_TEST]));
    GUARD(lines_write(m, dir, "wikisql.jsonl", &m->extra));
    GUARD(lines_write(m, dir, "base-pairs.tsv", &m->base_pairs));
    Result r = lines_write(m, dir, "base.txt", &text);
    buffer_free(&text);
    return r;
}

const char *const task_sources[] = {"translate", "sql", "chat", "humaneval", "mtbench", NULL};

Result task_make(TaskCounts *out, const char *name, const char *dir, const char *data, uint64_t seed)
{
    static Result (*const make[])(TaskMaker *) = {make_translate, make_sql, task_make_chat, make_humaneval, make_mtbench};
    TaskMaker m = {.data = data, .random = seed};
    Result r = fail(FAIL_USE, "no task is called '%s'", name);
    arena_init(&m.arena, false);
    table_init(&m.base, &m.arena);
    random_draw(&m.random);
    for (size_t i = 0; task_sources[i]; i++)
        if (!strcmp(task_sources[i], name)) r = make[i](&m);
    if (!failed(r)) r = maker_write(&m, dir);
    *out = m.counts;
    for (unsigned i = 0; i < PART_ALL; i++) buffer_free(&m.part[i]);
    buffer_free(&m.extra), buffer_free(&m.base_pairs);
    arena_free(&m.arena);
    return r;
}
