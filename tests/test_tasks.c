/* test_tasks.c - the data of the tasks: made alike from the same seed, held apart, true to what they say; statements run safely;
 * and scores that are full for the references and low for less. */
#include "test.h"
#include "base/text_table.h"
#include "model/json.h"
#include "tune/sql_run.h"
#include "tune/sql_schemas.h"
#include "tune/task_story.h"
#include "tune/tune.h"

static Arena arena;

static const char *in_folder(const char *name)
{
    return arena_format(&arena, "%s/%s", test_folder(), name);
}

static const char *write_text(const char *name, const char *text)
{
    const char *path = in_folder(name);
    CHECK_OK(file_write(path, text, strlen(text), 0644));
    return path;
}

static const char *text_of(const char *path)
{
    Buffer b = {0};
    CHECK_OK(file_read(&b, path, 1 << 28));
    char *text = arena_format(&arena, "%.*s", (int)b.len, (const char *)b.data);
    buffer_free(&b);
    return text;
}

static const char *make(const char *task, const char *data, uint64_t seed, TaskCounts *n)
{
    const char *dir = in_folder(arena_format(&arena, "%s%llu", task, (unsigned long long)seed));
    TaskCounts counts;
    CHECK_OK(task_make(n ? n : &counts, task, dir, data, seed));
    return dir;
}

static TaskSet part(const char *dir, const char *name)
{
    TaskSet set;
    CHECK_OK(task_read(&set, arena_format(&arena, "%s/%s.jsonl", dir, name), 0, &arena));
    return set;
}

static const char *development_data(void)      // skips where it is absent
{
    test_data("tasks/tatoeba_eng_deu.txt");
    return SOURCE_DIR "/../shared/data";
}

// ---- parts -----------------------------------------------------------------------------------------------------------

/* Adds what a sample must not share with another part: its prompt, for sql the question alone, and every answer if they tell. */
static void samples_note(TextTable *t, const TaskSet *set, bool answers)
{
    for (size_t i = 0; i < set->count; i++) {
        const TestPair *p = &set->sample[i].pair;
        const char *line = strchr(p->prompt, '\n') + 1;
        table_add(t, p->prompt, strlen(p->prompt));
        if (*line) table_add(t, line, strlen(line) - 1);
        for (size_t k = 0; answers && k < p->count; k++) table_add(t, p->answers[k], strlen(p->answers[k]));
    }
}

static void check_apart(const TextTable *x, const TextTable *y)
{
    CHECK(x->count > 100 && y->count > 100);
    for (uint32_t i = 0; i < x->count; i++)
        if (table_find(y, x->text[i], x->len[i]) != TABLE_NONE) {
            fprintf(stderr, "in two parts: %s\n", x->text[i]);
            exit(1);
        }
}

static void base_note(TextTable *t, const char *dir)
{
    const char *text = text_of(arena_format(&arena, "%s/base.txt", dir));
    for (const char *at = text, *stop; (stop = strchr(at, '\n')); at = stop + 1) table_add(t, at, (size_t)(stop - at));
}

/* A line has a prompt of training, as one line, and its completion, in train.jsonl's order: nothing else, so nothing held out. */
static void check_base_pairs(const char *dir, const TaskSet *train)
{
    const char *at = text_of(arena_format(&arena, "%s/base-pairs.tsv", dir));
    for (size_t i = 0; i < train->count; i++) {
        const TestPair *p = &train->sample[i].pair;
        char *want = arena_format(&arena, "%.*s\t%s\n", (int)strlen(p->prompt) - 1, p->prompt, p->answers[0]);
        for (char *line = strchr(want, '\n'); line[1]; line = strchr(line, '\n')) *line = ' ';
        CHECK(!strncmp(at, want, strlen(want)));
        at += strlen(want);
    }
    CHECK(!*at);
}

/* Train, validation, test and the base's text share nothing, and no line of the base has a prompt with its completion. */
static void check_parts(const char *dir, const char *other_seed)
{
    TextTable seen, valid, test;
    TaskSet train = part(dir, "train"), v = part(dir, "valid"), t = part(dir, "test"), again = part(other_seed, "train");
    table_init(&seen, &arena), table_init(&valid, &arena), table_init(&test, &arena);
    samples_note(&seen, &train, true), samples_note(&valid, &v, true), samples_note(&test, &t, true);
    check_apart(&valid, &test);
    uint32_t trained = seen.count;
    base_note(&seen, dir);
    CHECK(seen.count < 2 * trained);           // the base's text is what training shows, and what a schema line or a passage adds
    base_note(&seen, other_seed);
    check_base_pairs(dir, &train);
    check_apart(&seen, &test);
    check_apart(&seen, &valid);
    TextTable own, answers;
    table_init(&own, &arena), table_init(&answers, &arena);
    for (size_t i = 0; i < t.count; i++) table_add(&answers, t.sample[i].pair.answers[0], strlen(t.sample[i].pair.answers[0]));
    for (size_t i = 0; i < again.count; i++) table_add(&own, again.sample[i].pair.answers[0], strlen(again.sample[i].pair.answers[0]));
    check_apart(&answers, &own);               // what is held out does not hang on the seed
    const char *text = text_of(arena_format(&arena, "%s/base.txt", dir));
    for (size_t i = 0; i < train.count; i += 1 + train.count / 300) {
        const TestPair *p = &train.sample[i].pair;
        CHECK(!strstr(text, arena_format(&arena, "%s%s", p->prompt, p->answers[0])));
    }
}

TEST(sql_is_made_alike_and_held_apart)
{
    TaskCounts n, m;
    const char *dir = make("sql", "/nowhere", 1, &n), *other = make("sql", "/nowhere", 2, &m);
    const char *files[] = {"train.jsonl", "valid.jsonl", "test.jsonl", "base.txt"};
    CHECK(n.train >= 12000 && n.test >= 1200 && n.extra == 0);
    CHECK_EQUAL(1000, n.valid);
    const char *first[4];
    for (size_t i = 0; i < 4; i++) first[i] = text_of(arena_format(&arena, "%s/%s", dir, files[i]));
    CHECK(strcmp(first[2], text_of(arena_format(&arena, "%s/test.jsonl", other))) != 0);
    make("sql", "/nowhere", 1, NULL);
    for (size_t i = 0; i < 4; i++) CHECK(!strcmp(first[i], text_of(arena_format(&arena, "%s/%s", dir, files[i]))));
    check_parts(dir, other);
}

TEST(sql_holds_out_whole_schemas)
{
    const char *dir = make("sql", "/nowhere", 1, NULL);
    TaskSet train = part(dir, "train"), test = part(dir, "test");
    TextTable seen, unseen, names;
    size_t over_unseen = 0, count = 0;
    SqlSchema *schema;
    table_init(&seen, &arena), table_init(&unseen, &arena), table_init(&names, &arena);
    for (size_t i = 0; i < train.count; i++) table_add(&seen, train.sample[i].pair.prompt, strcspn(train.sample[i].pair.prompt, ":"));
    for (size_t i = 0; i < test.count; i++) {
        const TaskSample *s = &test.sample[i];
        size_t len = strcspn(s->pair.prompt, ":");
        CHECK_EQUAL(s->unseen, table_find(&seen, s->pair.prompt, len) == TABLE_NONE);
        if (s->unseen) table_add(&unseen, s->pair.prompt, len), over_unseen++;
        CHECK(strlen(s->pair.prompt) + strlen(s->pair.answers[0]) <= 260);
    }
    CHECK(seen.count >= 80 && unseen.count >= 14);
    CHECK_EQUAL(test.count, 2 * over_unseen);
    sql_schemas(&schema, &count, &arena);
    for (size_t i = 0; i < count; i++) table_add(&names, schema[i].table, strlen(schema[i].table));
    CHECK_EQUAL(count, names.count);
}

TEST(translation_and_stories_are_held_apart)
{
    const char *data = development_data();
    check_parts(make("translate", data, 1, NULL), make("translate", data, 2, NULL));
    const char *dir = make("chat", data, 1, NULL);
    check_parts(dir, make("chat", data, 2, NULL));
    TaskSet set = part(make("translate", data, 1, NULL), "test");
    size_t several = 0;
    for (size_t i = 0; i < set.count; i++) several += set.sample[i].pair.count > 1;
    CHECK(set.count > 500 && several > 10);
}

TEST(wikisql_stands_apart)
{
    TaskCounts n;
    const char *dir = make("sql", development_data(), 1, &n);
    TaskSet train = {0}, test = part(dir, "wikisql");
    TextTable seen, held;
    CHECK_FAILS(task_read(&train, arena_format(&arena, "%s/train.jsonl", dir), 0, &arena), "in the lines before");     // two tasks in a file
    CHECK_EQUAL(100, n.extra);
    CHECK_EQUAL(100, test.count);
    table_init(&seen, &arena), table_init(&held, &arena);
    samples_note(&held, &test, false);
    const char *text = text_of(arena_format(&arena, "%s/train.jsonl", dir));
    CHECK(strstr(text, "\"wikisql\""));
    for (uint32_t i = 0; i < held.count; i++) CHECK(!strstr(text, held.text[i]));
}

// ---- statements ------------------------------------------------------------------------------------------------------

static SqlBase *pets(void)
{
    static const char *columns[] = {"name", "age"}, *cells[] = {"Rex", "3", "Tom", "5", "Ida", "5", "it's", "1"};
    static const bool number[] = {false, true};
    static const SqlTable t = {"pets", columns, number, 2, 4, cells};
    SqlBase *base;
    CHECK_OK(sql_open(&base, &t));
    return base;
}

static bool runs(SqlBase *b, const char *statement)
{
    SqlAnswer a;
    return sql_ask(&a, b, statement, &arena);
}

TEST(hostile_statements_are_refused)
{
    SqlBase *b = pets();
    static const char *const hostile[] = {
        "", "hello", "DROP TABLE pets", "DELETE FROM pets", "INSERT INTO pets VALUES ('x', 1)", "UPDATE pets SET age = 0", "CREATE TABLE x (y)",
        "PRAGMA table_info(pets)", "ATTACH '/tmp/x' AS y", "VACUUM INTO '/tmp/x'", "SELECT 1; SELECT 2", "SELECT name FROM pets; DROP TABLE pets",
        "SELECT * FROM sqlite_master", "SELECT load_extension('x')", "SELECT zeroblob(1000000000)", "SELECT randomblob(9)", "SELECT printf('%1000000d', 1)",
        "SELECT name FROM nobody", "SELECT \"Rex\" FROM pets", "EXPLAIN SELECT 1", "BEGIN", "SELECT * FROM pragma_database_list",
        "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT COUNT(*) FROM r",
        "SELECT a.name FROM pets a, pets b, pets c, pets d, pets e, pets f", "SELECT SUM(a.age) FROM pets a, pets b, pets c, pets d, pets e, pets f, pets g, "
        "pets h, pets i, pets j, pets k, pets l, pets m, pets n, pets o"};
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++)
        if (runs(b, hostile[i])) {
            fprintf(stderr, "runs: %s\n", hostile[i]);
            exit(1);
        }
    char *wide = arena_alloc(&arena, 10001, 1);
    memset(wide, '(', 10000);
    CHECK(!runs(b, wide));
    CHECK(!runs(b, arena_format(&arena, "SELECT %s1", "1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + "
                                                       "1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + ")));
    CHECK(runs(b, "SELECT COUNT(*) FROM pets"));            // nothing of it did harm
    sql_close(b);
}

TEST(answers_are_compared_as_sets_or_in_order)
{
    SqlBase *b = pets();
    static const struct { const char *x, *y; bool ordered, same; } cases[] = {
        {"SELECT name FROM pets", "select NAME from PETS order by age desc;", false, true},
        {"SELECT name FROM pets ORDER BY name", "SELECT name FROM pets ORDER BY name DESC", true, false},
        {"SELECT age FROM pets", "SELECT DISTINCT age FROM pets", false, false},        // each as often
        {"SELECT age, name FROM pets", "SELECT name, age FROM pets", false, false},
        {"SELECT SUM(age) FROM pets", "SELECT 14.0", false, true},                      // a number is a number
        {"SELECT '14'", "SELECT 14", false, false},
        {"SELECT NULL", "SELECT 'null'", false, false},
        {"SELECT name FROM pets WHERE age > 9", "SELECT name FROM pets WHERE age > 8", false, true},
        {"SELECT name FROM pets WHERE name LIKE 'it''s'", "SELECT name FROM pets WHERE age = 1", false, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SqlAnswer x, y;
        CHECK(sql_ask(&x, b, cases[i].x, &arena) && sql_ask(&y, b, cases[i].y, &arena));
        if (sql_same(&x, &y, cases[i].ordered) != cases[i].same) fprintf(stderr, "%s\n", cases[i].x), exit(1);
    }
    CHECK(sql_is_ordered("select a from b Order By c") && !sql_is_ordered("SELECT orders FROM b"));
    sql_close(b);
}

static Score score_of(const TaskSet *set, const char *const *answers, const char *name)
{
    TaskScores s;
    CHECK_OK(task_score(&s, set, answers, NULL));
    for (size_t i = 0; i < s.count; i++)
        if (!strcmp(s.name[i], name)) return s.score[i];
    fprintf(stderr, "no score is called %s\n", name);
    exit(1);
}

static const char *cut_at(const char *text, const char *mark)
{
    const char *at = strstr(text, mark);
    return at ? arena_format(&arena, "%.*s", (int)(at - text), text) : text;
}

TEST(execution_tells_statements_apart)
{
    TaskSet set = part(make("sql", "/nowhere", 1, NULL), "test");
    const char **right = arena_new(&arena, const char *, set.count), **spelt = arena_new(&arena, const char *, set.count);
    const char **empty = arena_new(&arena, const char *, set.count), **loose = arena_new(&arena, const char *, set.count);
    size_t conditions = 0;
    for (size_t i = 0; i < set.count; i++) {
        const char *s = set.sample[i].pair.answers[0];
        right[i] = s, empty[i] = "";
        spelt[i] = arena_format(&arena, "%s ;", s);
        loose[i] = cut_at(s, " WHERE ");
        conditions += loose[i] != s;
    }
    CHECK(score_of(&set, right, "execution").value == 100 && score_of(&set, right, "execution").low > 99);
    CHECK(score_of(&set, spelt, "execution").value == 100 && score_of(&set, spelt, "exact_match").value == 0);
    CHECK(score_of(&set, empty, "execution").value == 0 && score_of(&set, empty, "execution_unseen").value == 0);
    CHECK_NEAR(100 * (1 - (double)conditions / (double)set.count), score_of(&set, loose, "execution").value, 1e-9);
    CHECK(conditions > set.count / 3);
    for (size_t i = 0; i < set.count; i++) loose[i] = cut_at(right[i], " ORDER BY ");
    CHECK(score_of(&set, loose, "execution").value < 90);
}

// ---- stories ---------------------------------------------------------------------------------------------------------

TEST(sentences_are_counted)
{
    static const struct { const char *text; size_t count; } cases[] = {
        {"", 0}, {"  ", 0}, {"One day", 1}, {"He ran. She sat!  \"Why?\" Then home.", 4}, {"\"Hi!\" he said. He left.", 2},
        {"Mr. Bear and Mrs. Fox ate. Dr. Owl slept.", 2}, {"It cost 3.50 now. 7 cats came...", 2}, {"Wait... what? Yes.", 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) CHECK_EQUAL(cases[i].count, story_sentences(cases[i].text));
}

TEST(constraints_are_met_or_not)
{
    const char *story = "Once upon a time, Lily had a needle. \"Share it!\" said Tom. They did.";
    static const char *const met[] = {"word needle", "word NEEDLE", "name Lily", "dialogue", "start Once upon a time", "sentences 3"};
    static const char *const missed[] = {"word need", "word needles", "name Lil", "no dialogue", "start One day", "sentences 4"};
    for (size_t i = 0; i < 6; i++) {
        CHECK_OK(constraint_check(met[i]));
        CHECK(constraint_met(met[i], story) && !constraint_met(missed[i], story) && !constraint_met(met[i], " \n"));
    }
    CHECK(constraint_met("no dialogue", "They sat.") && !constraint_met("no dialogue", ""));
    CHECK_FAILS(constraint_check("rhymes"), "rhymes");
    CHECK_FAILS(constraint_check("sentences many"), "sentences many");
    CHECK_FAILS(constraint_check("word "), "word ");
}

TEST(passages_meet_what_is_asked_of_them)
{
    const char *data = development_data(), *parts[] = {"train", "valid", "test"};
    const char *dir = make("chat", data, 1, NULL);
    for (size_t p = 0; p < 3; p++) {
        TaskSet set = part(dir, parts[p]);
        const char **passage = arena_new(&arena, const char *, set.count), **other = arena_new(&arena, const char *, set.count);
        for (size_t i = 0; i < set.count; i++) {
            passage[i] = set.sample[i].pair.answers[0];
            other[i] = set.sample[(i + set.count / 2) % set.count].pair.answers[0];
            size_t sentences = story_sentences(passage[i]);
            CHECK(sentences >= 3 && sentences <= 6 && set.sample[i].constraints >= 1);
        }
        CHECK(score_of(&set, passage, "constraints").value == 100);
        CHECK(score_of(&set, other, "constraints").value < 40);
    }
    TaskSet set = part(dir, "test");
    const char **passage = arena_new(&arena, const char *, set.count), **shuffled = arena_new(&arena, const char *, set.count);
    set.count = 40;
    for (size_t i = 0; i < set.count; i++) passage[i] = set.sample[i * 3].pair.answers[0], shuffled[i] = "The the of cat, was! Tree run a.";
    Score real, noise;
    const char *judge = SOURCE_DIR "/../shared/data/weights/stories260K";
    CHECK_OK(score_perplexity(&real, judge, passage, set.count));
    CHECK_OK(score_perplexity(&noise, judge, shuffled, set.count));
    CHECK(real.low > 1 && real.low < real.value && real.value < real.high && real.high < noise.low);
    CHECK_FAILS(score_perplexity(&real, "/nowhere", passage, 1), "/nowhere");
}

// ---- files -----------------------------------------------------------------------------------------------------------

TEST(bad_task_files_are_refused)
{
    static const struct { const char *text, *says; } cases[] = {
        {"{\"task\":\"sing\",\"prompt\":\"a\",\"completion\":\"b\"}", "sing"},
        {"{\"prompt\":\"a\"}", "line 1"},
        {"{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"task\":\"sql\",\"prompt\":\"a\",\"completion\":\"b\"}", "line 2"},
        {"{\"task\":\"chat\",\"prompt\":\"a\",\"completion\":\"b\",\"constraints\":[\"rhymes\"]}", "rhymes"},
        {"{\"task\":\"chat\",\"prompt\":\"a\",\"completion\":\"b\"}", "constraints"},
        {"{\"task\":\"translate\",\"prompt\":\"a\",\"completion\":\"b\",\"references\":[]}", "references"},
        {"{\"task\":\"sql\",\"prompt\":\"a\",\"completion\":\"b\",\"table\":{\"name\":\"t\",\"columns\":[\"x\"],\"types\":[],\"rows\":[]}}", "types"},
        {"{\"task\":\"sql\",\"prompt\":\"a\",\"completion\":\"b\",\"table\":{\"name\":\"t\",\"columns\":[\"x\"],\"types\":[\"real\"],\"rows\":[]}}", "real"},
        {"{\"task\":\"sql\",\"prompt\":\"a\",\"completion\":\"b\",\"table\":{\"name\":\"t\",\"columns\":[\"x\"],\"types\":[\"text\"],\"rows\":[[1]]}}", "rows"},
        {"{\"task\":\"sql\",\"prompt\":\"a\",\"completion\":\"b\",\"table\":{\"name\":\"t\",\"columns\":[\"x\"],\"types\":[\"text\"],\"rows\":[[]]}}", "row 1"},
        {"\n", "no samples"}, {"{", "line 1"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        TaskSet set;
        CHECK_FAILS(task_read(&set, write_text("bad.jsonl", cases[i].text), 0, &arena), cases[i].says);
    }
    TaskSet set;
    TaskScores s;
    const char *answer = "SELECT 1";
    CHECK_OK(task_read(&set, write_text("sql.jsonl", "{\"task\":\"sql\",\"prompt\":\"a\",\"completion\":\"b\"}"), 0, &arena));
    CHECK_FAILS(task_score(&s, &set, &answer, NULL), "no table");
    CHECK_OK(task_read(&set, write_text("twice.jsonl", "{\"task\":\"sql\",\"prompt\":\"a\",\"completion\":\"SELEC\",\"table\":{\"name\":\"t\","
                                                       "\"columns\":[\"x\"],\"types\":[\"text\"],\"rows\":[[\"1\"]]}}"), 0, &arena));
    CHECK_FAILS(task_score(&s, &set, &answer, NULL), "SELEC");
}

TEST(a_limit_is_an_even_sample)
{
    Buffer b = {0};
    TaskSet set;
    for (int i = 0; i < 100; i++) buffer_format(&b, "{\"prompt\":\"%d\",\"completion\":\"x\"}\n", i);
    buffer_u8(&b, 0);
    CHECK_OK(task_read(&set, write_text("many.jsonl", (char *)b.data), 10, &arena));
    CHECK_EQUAL(10, set.count);
    for (size_t i = 0; i < 10; i++) CHECK_EQUAL(10 * i, atoi(set.sample[i].pair.prompt));
    buffer_free(&b);
}

TEST(tasks_of_large_models_load)
{
    TaskCounts n;
    const char *data = development_data(), *folder = in_folder("data/tasks");
    TaskSet set = part(make("mtbench", data, 1, &n), "test");
    CHECK_EQUAL(80, set.count);
    CHECK(strcmp(set.sample[0].id, "81") == 0 && strstr(set.sample[0].pair.prompt, "Hawaii"));
    CHECK_OK(folder_make(folder, 0755));
    CHECK_FAILS(task_make(&n, "humaneval", in_folder("x"), data, 1), "unpack it first");
    if (system(arena_format(&arena, "gzip -dc %s/tasks/HumanEval.jsonl.gz > %s/HumanEval.jsonl", data, folder)) != 0) SKIP("no gzip");
    set = part(make("humaneval", in_folder("data"), 1, &n), "test");
    CHECK_EQUAL(164, set.count);
    CHECK(!strcmp(set.sample[0].id, "HumanEval/0") && strstr(set.sample[0].pair.prompt, "has_close_elements") && *set.sample[0].pair.answers[0]);
}

int main(int argc, char **argv)
{
    arena_init(&arena, false);
    return test_main(argc, argv);
}
