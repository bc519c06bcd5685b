/* task_sql.c - questions about small tables, and the statements that answer them.
 *
 * A *shape* is a statement with slots and several wordings of the question that it answers. A question is a shape whose
 * slots are filled from a schema. Whole schemas are held out for validation and for the test; over the others a statement
 * belongs to one part, with all its wordings. What is scored by execution brings a filled table along, in which the
 * statement's answer is neither empty nor that of the statement without its condition. */
#include "tune/sql_run.h"
#include "tune/sql_schemas.h"
#include "tune/task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TEST_SCHEMAS = 18, VALID_SCHEMAS = 8,      // held out whole
    TRAIN_EACH = 170,                          // questions a schema that is shown
    VALID_HALF = 500, TEST_HALF = 640,         // over shown schemas; as many over those held out
    ROWS = 30, FILLINGS = 20, TRIES = 400,
    PROMPT_LIMIT = 150, STATEMENT_LIMIT = 110  // bytes: three a token, in a context of 128
};

/* Slots of a statement: {T} table; {A} {B} columns that are shown; {L} the column that names the row; {C} {D} text columns of
 * conditions with values {V} {U}, {W} another value of C; {Q} a text column to group by; {N} a number column with values {X} < {Y};
 * {K} a small number; {P} a first letter, {Z} a part of a value of L. A wording has these, and {S} a row, and phrases: {E} C is V,
 * {F} D is U, {G} N above X, {M} N below X, {R} N from X to Y, {H} {J} the row whose N is largest, smallest. */
typedef struct SqlShape { const char *statement, *wording[6]; } SqlShape;

static const SqlShape shapes[] = {
    {"SELECT {A} FROM {T}",
     {"list the {A} of all {T}", "show the {A} of every {S}", "what is the {A} of each {S}?", "give me all values of {A} in {T}"}},
    {"SELECT {A}, {B} FROM {T}",
     {"list the {A} and {B} of all {T}", "show {A} and {B} of every {S}", "what are the {A} and the {B} of each {S}?"}},
    {"SELECT * FROM {T}", {"show all {T}", "list everything about the {T}", "show the whole table of {T}"}},
    {"SELECT * FROM {T} WHERE {C} = '{V}'", {"show all {T} {E}", "list everything about {T} {E}", "give me all columns of the {T} {E}"}},
    {"SELECT DISTINCT {Q} FROM {T}",
     {"what different {Q} values do the {T} have?", "list the distinct {Q} of the {T}", "show each {Q} of {T} once"}},
    {"SELECT COUNT(*) FROM {T}", {"how many {T} are there?", "count the {T}", "what is the number of {T}?", "number of {T} in total"}},
    {"SELECT COUNT(*) FROM {T} WHERE {C} = '{V}'",
     {"how many {T} {E} are there?", "count the {T} {E}", "how many {T} have {C} {V}?", "what is the number of {T} {E}?"}},
    {"SELECT COUNT(*) FROM {T} WHERE {N} > {X}",
     {"how many {T} {G} are there?", "count the {T} {G}", "how many {T} have a {N} above {X}?"}},
    {"SELECT COUNT(*) FROM {T} WHERE {N} < {X}",
     {"how many {T} {M} are there?", "count the {T} {M}", "how many {T} have a {N} under {X}?"}},
    {"SELECT {A} FROM {T} WHERE {C} = '{V}'",
     {"what is the {A} of the {T} {E}?", "show the {A} of {T} {E}", "list the {A} of all {T} {E}", "{A} of {T} {E}"}},
    {"SELECT {A} FROM {T} WHERE {N} > {X}", {"what is the {A} of the {T} {G}?", "show the {A} of {T} {G}", "list the {A} of all {T} {G}"}},
    {"SELECT {A} FROM {T} WHERE {N} < {X}", {"what is the {A} of the {T} {M}?", "show the {A} of {T} {M}", "list the {A} of all {T} {M}"}},
    {"SELECT {A}, {B} FROM {T} WHERE {C} = '{V}'",
     {"show {A} and {B} of the {T} {E}", "list the {A} and {B} of all {T} {E}", "what are {A} and {B} of {T} {E}?"}},
    {"SELECT {A} FROM {T} WHERE {N} = {X}",
     {"what is the {A} of the {T} with {N} {X}?", "show the {A} of {T} whose {N} is {X}",
      "which {A} has a {S} with a {N} of exactly {X}?"}},
    {"SELECT {A} FROM {T} WHERE {N} BETWEEN {X} AND {Y}",
     {"show the {A} of {T} {R}", "list the {A} of all {T} {R}", "what is the {A} of {T} {R}?"}},
    {"SELECT COUNT(*) FROM {T} WHERE {N} BETWEEN {X} AND {Y}", {"how many {T} {R} are there?", "count the {T} {R}"}},
    {"SELECT AVG({N}) FROM {T}", {"what is the average {N} of the {T}?", "average {N} of all {T}", "show the mean {N} of the {T}"}},
    {"SELECT MAX({N}) FROM {T}", {"what is the highest {N} of the {T}?", "maximum {N} of all {T}", "show the largest {N} of any {S}"}},
    {"SELECT MIN({N}) FROM {T}", {"what is the lowest {N} of the {T}?", "minimum {N} of all {T}", "show the smallest {N} of any {S}"}},
    {"SELECT SUM({N}) FROM {T}", {"what is the total {N} of the {T}?", "sum of the {N} of all {T}", "add up the {N} of the {T}"}},
    {"SELECT AVG({N}) FROM {T} WHERE {C} = '{V}'",
     {"what is the average {N} of {T} {E}?", "average {N} of the {T} {E}", "show the mean {N} of all {T} {E}"}},
    {"SELECT MAX({N}) FROM {T} WHERE {C} = '{V}'",
     {"what is the highest {N} of {T} {E}?", "maximum {N} of the {T} {E}", "show the largest {N} of all {T} {E}"}},
    {"SELECT MIN({N}) FROM {T} WHERE {C} = '{V}'",
     {"what is the lowest {N} of {T} {E}?", "minimum {N} of the {T} {E}", "show the smallest {N} of all {T} {E}"}},
    {"SELECT SUM({N}) FROM {T} WHERE {C} = '{V}'",
     {"what is the total {N} of {T} {E}?", "sum of the {N} of all {T} {E}", "add up the {N} of {T} {E}"}},
    {"SELECT {A} FROM {T} ORDER BY {N} DESC LIMIT 1", {"what is the {A} of {H}?", "show the {A} of {H}", "which {A} belongs to {H}?"}},
    {"SELECT {A} FROM {T} ORDER BY {N} LIMIT 1", {"what is the {A} of {J}?", "show the {A} of {J}", "which {A} belongs to {J}?"}},
    {"SELECT {A} FROM {T} ORDER BY {N} DESC LIMIT {K}",
     {"show the {A} of the {K} {T} with the highest {N}", "what is the {A} of the top {K} {T} by {N}?"}},
    {"SELECT {A} FROM {T} ORDER BY {N} LIMIT {K}",
     {"show the {A} of the {K} {T} with the lowest {N}", "what is the {A} of the bottom {K} {T} by {N}?"}},
    {"SELECT {A} FROM {T} ORDER BY {N}",
     {"list the {A} of all {T} sorted by {N}", "show the {A} of the {T} from lowest to highest {N}", "{A} of {T} in order of {N}"}},
    {"SELECT {A} FROM {T} ORDER BY {N} DESC",
     {"list the {A} of all {T} sorted by {N} from high to low", "show the {A} of the {T} from highest to lowest {N}"}},
    {"SELECT {A} FROM {T} WHERE {C} = '{V}' ORDER BY {N}",
     {"list the {A} of {T} {E} sorted by {N}", "show the {A} of the {T} {E} in order of {N}"}},
    {"SELECT {A} FROM {T} WHERE {C} = '{V}' ORDER BY {N} DESC LIMIT 1",
     {"what is the {A} of the {S} {E} with the highest {N}?", "of the {T} {E}, show the {A} of the one with the largest {N}"}},
    {"SELECT {Q}, COUNT(*) FROM {T} GROUP BY {Q}",
     {"how many {T} are there for each {Q}?", "count the {T} by {Q}", "show each {Q} and its number of {T}"}},
    {"SELECT {Q}, AVG({N}) FROM {T} GROUP BY {Q}",
     {"what is the average {N} of the {T} for each {Q}?", "average {N} of {T} by {Q}", "show each {Q} and the mean {N} of its {T}"}},
    {"SELECT {Q}, MAX({N}) FROM {T} GROUP BY {Q}", {"what is the highest {N} of the {T} for each {Q}?", "maximum {N} of {T} by {Q}"}},
    {"SELECT {Q}, MIN({N}) FROM {T} GROUP BY {Q}", {"what is the lowest {N} of the {T} for each {Q}?", "minimum {N} of {T} by {Q}"}},
    {"SELECT {Q}, SUM({N}) FROM {T} GROUP BY {Q}", {"what is the total {N} of the {T} for each {Q}?", "sum of the {N} of {T} by {Q}"}},
    {"SELECT {Q} FROM {T} GROUP BY {Q} HAVING COUNT(*) > {K}",
     {"which {Q} has more than {K} {T}?", "list each {Q} with over {K} {T}", "show the {Q} values shared by more than {K} {T}"}},
    {"SELECT COUNT(DISTINCT {Q}) FROM {T}",
     {"how many different {Q} values do the {T} have?", "count the distinct {Q} of the {T}", "number of different {Q} in {T}"}},
    {"SELECT {A} FROM {T} WHERE {C} = '{V}' AND {D} = '{U}'",
     {"show the {A} of {T} {E} and {F}", "what is the {A} of the {T} {E} and {F}?", "list the {A} of all {T} {E} and {F}"}},
    {"SELECT {A} FROM {T} WHERE {C} = '{V}' AND {N} > {X}", {"show the {A} of {T} {E} and {G}", "what is the {A} of the {T} {E} and {G}?"}},
    {"SELECT {A} FROM {T} WHERE {C} = '{V}' AND {N} < {X}", {"show the {A} of {T} {E} and {M}", "what is the {A} of the {T} {E} and {M}?"}},
    {"SELECT COUNT(*) FROM {T} WHERE {C} = '{V}' AND {D} = '{U}'", {"how many {T} {E} and {F} are there?", "count the {T} {E} and {F}"}},
    {"SELECT COUNT(*) FROM {T} WHERE {C} = '{V}' AND {N} > {X}", {"how many {T} {E} and {G} are there?", "count the {T} {E} and {G}"}},
    {"SELECT {A} FROM {T} WHERE {C} = '{V}' OR {C} = '{W}'",
     {"show the {A} of {T} whose {C} is {V} or {W}", "list the {A} of all {T} with {C} {V} or {W}"}},
    {"SELECT {A} FROM {T} WHERE {C} <> '{V}'", {"show the {A} of {T} whose {C} is not {V}", "list the {A} of all {T} without {C} {V}"}},
    {"SELECT {L} FROM {T} WHERE {L} LIKE '{P}%'",
     {"list each {L} in {T} that starts with {P}", "which {L} of a {S} begins with {P}?", "show the {L} of {T} starting with {P}"}},
    {"SELECT {A} FROM {T} WHERE {L} LIKE '{P}%'",
     {"show the {A} of {T} whose {L} starts with {P}", "what is the {A} of the {T} with a {L} beginning with {P}?"}},
    {"SELECT {L} FROM {T} WHERE {L} LIKE '%{Z}%'", {"list each {L} in {T} that contains {Z}", "which {L} of a {S} has {Z} in it?"}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct Question {
    const SqlSchema *schema;
    const SqlColumn *a, *b, *c, *d, *n, *q;
    const char *v, *u, *w, *z;
    int64_t x, y, k;
    char prompt[512], text[256], statement[256];
} Question;

// ---- drawing ---------------------------------------------------------------------------------------------------------

/* A column that is text or a number as asked, from column `first` on, and none of `not`; NULL if there is none. */
static const SqlColumn *column_draw(const SqlSchema *s, int text, size_t first, const SqlColumn *const not[], size_t nots,
                                    uint64_t *random)
{
    const SqlColumn *fit[SCHEMA_COLUMNS];
    size_t count = 0;
    for (size_t i = first; i < s->columns; i++) {
        bool good = text < 0 || (s->column[i].value != NULL) == text;
        for (size_t k = 0; k < nots; k++) good &= not[k] != &s->column[i];
        if (good) fit[count++] = &s->column[i];
    }
    return count ? fit[random_index(random, count)] : NULL;
}

/* Numbers of a wide range are round ones. */
static int64_t number_draw(const SqlColumn *c, uint64_t *random)
{
    int64_t range = c->high - c->low, step = 1;
    while (range / step > 300 && c->high < 3000 ? step < 10 : range / step > 300) step *= 10;
    if (c->low >= 1400 && c->high <= 2030) step = 1;                  // years
    int64_t v = c->low + (int64_t)random_index(random, (size_t)range + 1);
    return step == 1 ? v : (v + step - 1) / step * step;
}

static const char *value_draw(const SqlColumn *c, const char *not, uint64_t *random)
{
    const char *v;
    do v = c->value[random_index(random, c->values)];
    while (not && !strcmp(v, not));
    return v;
}

static bool slot_used(const SqlShape *shape, char slot)
{
    const char text[4] = {'{', slot, '}', 0};
    return strstr(shape->statement, text) != NULL;
}

/* Fills the slots of a shape; false where the schema has too few columns for it. */
static bool slots_draw(Question *q, const SqlShape *shape, const SqlSchema *s, uint64_t *random)
{
    *q = (Question){.schema = s};
    if (slot_used(shape, 'C') && !(q->c = column_draw(s, 1, 0, NULL, 0, random))) return false;
    if (slot_used(shape, 'D') && !(q->d = column_draw(s, 1, 0, &q->c, 1, random))) return false;
    if (slot_used(shape, 'N') && !(q->n = column_draw(s, 0, 0, NULL, 0, random))) return false;
    if (slot_used(shape, 'Q') && !(q->q = column_draw(s, 1, 1, NULL, 0, random))) return false;
    const SqlColumn *label = &s->column[0], *taken[5] = {q->c, q->d, q->n, slot_used(shape, 'L') ? label : NULL, NULL};
    if (slot_used(shape, 'A')) {
        bool plain = q->c != label && q->d != label && !taken[3] && random_chance(random, 45);
        if (!(q->a = plain ? label : column_draw(s, -1, 0, taken, 4, random))) return false;
        taken[4] = q->a;
    }
    if (slot_used(shape, 'B') && !(q->b = column_draw(s, -1, 0, taken, 5, random))) return false;
    if (q->c) q->v = value_draw(q->c, NULL, random), q->w = value_draw(q->c, q->v, random);
    if (q->d) q->u = value_draw(q->d, NULL, random);
    if (q->n) {
        q->x = number_draw(q->n, random), q->y = number_draw(q->n, random);
        if (q->x > q->y) { int64_t t = q->x; q->x = q->y, q->y = t; }
        if (slot_used(shape, 'Y') && q->x == q->y) return false;
    }
    q->k = 2 + (int64_t)random_index(random, 4);
    q->z = value_draw(label, NULL, random);
    return true;
}

// ---- wording ---------------------------------------------------------------------------------------------------------

typedef struct Comparison { const char *column, *above, *below, *most, *least; } Comparison;
static const Comparison comparisons[] = {
    {"age", "older than", "younger than", "oldest", "youngest"},
    {"price", "that cost more than", "that cost less than", "most expensive", "cheapest"},
    {"height", "taller than", "shorter than", "tallest", "shortest"},
    {"weight", "heavier than", "lighter than", "heaviest", "lightest"},
    {"length", "longer than", "shorter than", "longest", "shortest"},
    {"speed", "faster than", "slower than", "fastest", "slowest"},
    {"depth", "deeper than", "shallower than", "deepest", "shallowest"},
    {"year", "from after", "from before", "newest", "oldest"},
    {"salary", "that earn more than", "that earn less than", "best paid", "worst paid"},
};
static const char *const relations[][2] = {
    {"country", "from"}, {"city", "in"}, {"region", "in the"}, {"continent", "in"}, {"artist", "by"}, {"author", "by"}, {"director", "by"},
    {"brand", "made by"}, {"maker", "made by"}, {"teacher", "taught by"}, {"owner", "owned by"}, {"material", "made of"}, {"month", "in"},
    {"day", "on"}, {"school", "at"}, {"origin", "from"}, {"destination", "to"}, {"sender", "sent by"}, {"receiver", "sent to"},
};

static const Comparison *comparison_of(const SqlColumn *c)
{
    for (size_t i = 0; i < sizeof comparisons / sizeof *comparisons; i++)
        if (!strcmp(comparisons[i].column, c->name)) return &comparisons[i];
    return NULL;
}

static void equal_append(Buffer *out, const SqlColumn *c, const char *value, uint64_t *random)
{
    size_t way = random_index(random, 4);
    for (size_t i = 0; way < 2 && i < sizeof relations / sizeof *relations; i++)
        if (!strcmp(relations[i][0], c->name)) {
            buffer_format(out, "%s %s", relations[i][1], value);
            return;
        }
    if (way == 3) buffer_format(out, "whose %s is %s", c->name, value);
    else buffer_format(out, "with %s %s", c->name, value);
}

static void bound_append(Buffer *out, const Question *q, bool above, uint64_t *random)
{
    static const char *const words[2][3] = {{"below", "under", "less than"}, {"above", "over", "more than"}};
    const Comparison *c = comparison_of(q->n);
    const char *word = words[above][random_index(random, 3)];
    long long x = q->x;
    if (c && random_chance(random, 50)) buffer_format(out, "%s %lld", above ? c->above : c->below, x);
    else if (random_chance(random, 50)) buffer_format(out, "whose %s is %s %lld", q->n->name, word, x);
    else buffer_format(out, "with %s %s %lld", q->n->name, word, x);
}

static void best_append(Buffer *out, const Question *q, bool most, uint64_t *random)
{
    static const char *const words[2][3] = {{"lowest", "smallest", "least"}, {"highest", "largest", "most"}};
    const Comparison *c = comparison_of(q->n);
    if (c && random_chance(random, 50)) buffer_format(out, "the %s %s", most ? c->most : c->least, q->schema->row);
    else buffer_format(out, "the %s with the %s %s", q->schema->row, words[most][random_index(random, 3)], q->n->name);
}

static void slot_append(Buffer *out, const Question *q, char slot, uint64_t *random)
{
    const SqlColumn *column = slot == 'A' ? q->a : slot == 'B' ? q->b : slot == 'C' ? q->c : slot == 'D' ? q->d : slot == 'N' ? q->n
                              : slot == 'Q' ? q->q : slot == 'L' ? &q->schema->column[0] : NULL;
    const char *text = slot == 'T' ? q->schema->table : slot == 'S' ? q->schema->row : slot == 'V' ? q->v : slot == 'U' ? q->u
                       : slot == 'W' ? q->w : column ? column->name : NULL;
    long long x = q->x, y = q->y, k = q->k;
    if (text) {
        buffer_append(out, text, strlen(text));
        return;
    }
    switch (slot) {
    case 'X': buffer_format(out, "%lld", x); break;
    case 'Y': buffer_format(out, "%lld", y); break;
    case 'K': buffer_format(out, "%lld", k); break;
    case 'P': buffer_format(out, "%c", q->z[0]); break;
    case 'Z': buffer_format(out, "%.3s", q->z + 1); break;
    case 'E': equal_append(out, q->c, q->v, random); break;
    case 'F': equal_append(out, q->d, q->u, random); break;
    case 'G': bound_append(out, q, true, random); break;
    case 'M': bound_append(out, q, false, random); break;
    case 'R':
        buffer_format(out, random_chance(random, 50) ? "with %s between %lld and %lld" : "with %s from %lld to %lld", q->n->name, x, y);
        break;
    case 'H': best_append(out, q, true, random); break;
    case 'J': best_append(out, q, false, random); break;
    default: bug("slot {%c}", slot);
    }
}

static bool shape_expand(char *out, size_t size, const char *form, const Question *q, uint64_t *random)
{
    Buffer text = {0};
    for (const char *at = form; *at; at++) {
        if (*at == '{') slot_append(&text, q, at[1], random), at += 2;
        else buffer_u8(&text, (uint8_t)*at);
    }
    bool fits = text.len < size;
    if (fits) snprintf(out, size, "%.*s", (int)text.len, (const char *)text.data);
    buffer_free(&text);
    return fits;
}

static void schema_line(char *out, size_t size, const SqlSchema *s)
{
    size_t at = (size_t)snprintf(out, size, "table %s:", s->table);
    for (size_t i = 0; i < s->columns; i++) at += (size_t)snprintf(out + at, size - at, "%s %s", i ? "," : "", s->column[i].name);
    ASSERT(at < size);
}

/* A question over the schema; false if the draw came to nothing. */
static bool question_draw(Question *q, const SqlSchema *s, uint64_t *random)
{
    const SqlShape *shape = &shapes[random_index(random, SHAPES)];
    char line[256];
    size_t wordings = 0;
    if (!slots_draw(q, shape, s, random)) return false;
    while (wordings < 6 && shape->wording[wordings]) wordings++;
    if (!shape_expand(q->statement, sizeof q->statement, shape->statement, q, random)) return false;
    if (!shape_expand(q->text, sizeof q->text, shape->wording[random_index(random, wordings)], q, random)) return false;
    schema_line(line, sizeof line, s);
    int len = snprintf(q->prompt, sizeof q->prompt, "%s\n%s\n", line, q->text);
    return len <= PROMPT_LIMIT && strlen(q->statement) <= STATEMENT_LIMIT;
}

// ---- tables ----------------------------------------------------------------------------------------------------------

/* A cell: often a value of the question, or next to it. Other words come from a few of the pool, so that they repeat. */
static const char *cell_draw(const Question *q, const SqlColumn *c, size_t few, bool matches, uint64_t *random, Arena *a)
{
    if (!c->value) {
        int64_t v = number_draw(c, random);
        if (c == q->n && random_chance(random, 20)) v = (random_chance(random, 50) ? q->x : q->y) + (int64_t)random_index(random, 3) - 1;
        return arena_format(a, "%lld", (long long)(v < c->low ? c->low : v));
    }
    if (c == q->c && (matches || random_chance(random, 15))) return random_chance(random, 80) ? q->v : q->w;
    if (c == q->d && (matches || random_chance(random, 15))) return q->u;
    if (c == &q->schema->column[0]) return random_chance(random, 10) ? q->z : value_draw(c, NULL, random);
    return c->value[(few + random_index(random, 5)) % c->values];
}

static void table_fill(SqlTable *t, const Question *q, uint64_t *random, Arena *a)
{
    const SqlSchema *s = q->schema;
    bool *number = arena_new(a, bool, s->columns);
    size_t few = random_index(random, 64);
    *t = (SqlTable){.name = s->table, .number = number, .columns = s->columns, .rows = ROWS,
                    .column = arena_new(a, const char *, s->columns), .cell = arena_new(a, const char *, ROWS * s->columns)};
    for (size_t c = 0; c < s->columns; c++) t->column[c] = s->column[c].name, number[c] = !s->column[c].value;
    for (size_t r = 0; r < ROWS; r++) {
        bool matches = random_chance(random, 25);
        for (size_t c = 0; c < s->columns; c++) t->cell[r * s->columns + c] = cell_draw(q, &s->column[c], few, matches, random, a);
    }
}

/* Whether the answer says something: it has rows that are neither NULL nor 0, and the condition changes it. */
static Result table_tells(bool *out, const SqlTable *t, const char *statement, Arena *a)
{
    SqlBase *base = NULL;
    SqlAnswer answer, other;
    const char *where = strstr(statement, " WHERE ");
    Result r = sql_open(&base, t);
    *out = false;
    if (!failed(r) && !sql_ask(&answer, base, statement, a)) r = fail(FAIL_DATA, "%s: does not run", statement);
    if (!failed(r)) *out = answer.rows && strcmp(answer.row[0], "null;") != 0 && strcmp(answer.row[0], "0;") != 0;
    if (!failed(r) && where && *out) {
        char *rest = arena_format(a, "%.*s", (int)(where - statement), statement);
        *out = sql_ask(&other, base, rest, a) && !sql_same(&answer, &other, false);
    }
    sql_close(base);
    return r;
}

static Json *json_of_table(const SqlTable *t)
{
    Json *o = json_new_object(), *columns = json_new_array(), *types = json_new_array(), *rows = json_new_array();
    for (size_t c = 0; c < t->columns; c++) {
        json_add(columns, json_of_text(t->column[c]));
        json_add(types, json_of_text(t->number[c] ? "integer" : "text"));
    }
    for (size_t r = 0; r < t->rows; r++) {
        Json *row = json_new_array();
        for (size_t c = 0; c < t->columns; c++) {
            const char *cell = t->cell[r * t->columns + c];
            json_add(row, t->number[c] ? json_of_int(strtoll(cell, NULL, 10)) : json_of_text(cell));
        }
        json_add(rows, row);
    }
    json_put(o, "name", json_of_text(t->name));
    json_put(o, "columns", columns);
    json_put(o, "types", types);
    json_put(o, "rows", rows);
    return o;
}

/* False where no filling of the table tells the statement from lesser ones. */
static Result question_add(bool *added, TaskMaker *m, DataPart part, const Question *q, bool shown)
{
    Json *line = NULL;
    *added = false;
    for (unsigned i = 0; part != PART_TRAIN && !line && i < FILLINGS; i++) {
        ArenaMark mark = arena_mark(&m->arena);
        SqlTable t;
        bool tells = false;
        table_fill(&t, q, &m->random, &m->arena);
        GUARD(table_tells(&tells, &t, q->statement, &m->arena));
        if (tells) {
            line = task_object("sql", q->prompt, q->statement);
            json_put(line, "schema", json_of_text(shown ? "seen" : "unseen"));
            json_put(line, "table", json_of_table(&t));
        }
        arena_rollback(&m->arena, mark);
    }
    if (part == PART_TRAIN) line = task_object("sql", q->prompt, q->statement);
    if (line) task_line(m, part, line), *added = true;
    return OK;
}

// ---- the task --------------------------------------------------------------------------------------------------------

static DataPart statement_part(const char *statement)
{
    uint64_t percent = text_hash(statement, strlen(statement)) % 100;
    return percent < 86 ? PART_TRAIN : percent < 92 ? PART_VALID : PART_TEST;
}

typedef struct SqlTask { TaskMaker *m; TextTable questions; SqlSchema *schema; size_t schemas; uint8_t *part; } SqlTask;

/* Which schemas are held out hangs on their names alone: the smallest hashes. */
static void schemas_part(SqlTask *t)
{
    t->part = arena_new(&t->m->arena, uint8_t, t->schemas);
    for (size_t i = 0; i < t->schemas; i++) {
        uint64_t mine = text_hash(t->schema[i].table, strlen(t->schema[i].table));
        size_t rank = 0;
        for (size_t k = 0; k < t->schemas; k++) rank += text_hash(t->schema[k].table, strlen(t->schema[k].table)) < mine;
        t->part[i] = rank < TEST_SCHEMAS ? PART_TEST : rank < TEST_SCHEMAS + VALID_SCHEMAS ? PART_VALID : PART_TRAIN;
    }
}

/* One new question of `part` over the schema. No text of a question is used twice, in any part. */
static Result question_make(bool *added, SqlTask *t, const SqlSchema *s, DataPart part, bool shown)
{
    Question q;
    *added = false;
    for (unsigned i = 0; i < TRIES && !*added; i++) {
        if (!question_draw(&q, s, &t->m->random) || (shown && statement_part(q.statement) != part)) continue;
        if (table_find(&t->questions, q.text, strlen(q.text)) != TABLE_NONE) continue;
        GUARD(question_add(added, t->m, part, &q, shown));
        if (!*added) continue;
        table_add(&t->questions, q.text, strlen(q.text));
        if (part == PART_TRAIN) {
            char line[256];
            schema_line(line, sizeof line, s);
            task_base(t->m, line), task_base(t->m, q.text), task_base(t->m, q.statement);
        }
    }
    return OK;
}

/* `count` questions of `part`, by turns over the schemas of `home`. */
static Result questions_make(SqlTask *t, DataPart part, DataPart home, size_t count)
{
    size_t made = 0, idle = 0;
    for (size_t i = 0; made < count; i = (i + 1) % t->schemas) {
        bool added = false;
        if (t->part[i] == home) GUARD(question_make(&added, t, &t->schema[i], part, home == PART_TRAIN));
        made += added, idle = added ? 0 : idle + 1;
        if (idle > 2 * t->schemas) return fail(FAIL_DATA, "only %zu of %zu questions could be made", made, count);
    }
    return OK;
}

Result task_make_sql(TaskMaker *m)
{
    SqlTask t = {.m = m};
    size_t shown = 0;
    sql_schemas(&t.schema, &t.schemas, &m->arena);
    table_init(&t.questions, &m->arena);
    schemas_part(&t);
    for (size_t i = 0; i < t.schemas; i++) shown += t.part[i] == PART_TRAIN;
    GUARD(questions_make(&t, PART_TEST, PART_TEST, TEST_HALF));
    GUARD(questions_make(&t, PART_TEST, PART_TRAIN, TEST_HALF));
    GUARD(questions_make(&t, PART_VALID, PART_VALID, VALID_HALF));
    GUARD(questions_make(&t, PART_VALID, PART_TRAIN, VALID_HALF));
    return questions_make(&t, PART_TRAIN, PART_TRAIN, TRAIN_EACH * shown);
}
