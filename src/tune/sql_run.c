/* sql_run.c - the only user of SQLite. */
#include "tune/sql_run.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { STATEMENT_LIMIT = 4096, TEXT_LIMIT = 1 << 16, ROW_LIMIT = 1000, STEPS = 1000, STEPS_MOST = 1000 };

struct SqlBase { sqlite3 *db; const char *table; unsigned ticks; };

static const char *const functions[] = {"count", "avg", "sum", "total", "min", "max", "like", "lower", "upper", "length", "abs", "round"};

static int authorize(void *ctx, int action, const char *one, const char *two, const char *database, const char *trigger)
{
    const SqlBase *b = ctx;
    (void)database, (void)trigger;
    if (action == SQLITE_SELECT) return SQLITE_OK;
    if (action == SQLITE_READ) return one && (!*one || !strcasecmp(one, b->table)) ? SQLITE_OK : SQLITE_DENY;
    if (action != SQLITE_FUNCTION) return SQLITE_DENY;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (two && !strcasecmp(two, functions[i])) return SQLITE_OK;
    return SQLITE_DENY;
}

static int tick(void *ctx)
{
    SqlBase *b = ctx;
    return ++b->ticks > STEPS_MOST;            // ends the statement
}

static void limits_set(SqlBase *b)
{
    sqlite3_limit(b->db, SQLITE_LIMIT_SQL_LENGTH, STATEMENT_LIMIT);
    sqlite3_limit(b->db, SQLITE_LIMIT_LENGTH, TEXT_LIMIT);
    sqlite3_limit(b->db, SQLITE_LIMIT_COLUMN, 64);
    sqlite3_limit(b->db, SQLITE_LIMIT_EXPR_DEPTH, 50);
    sqlite3_limit(b->db, SQLITE_LIMIT_COMPOUND_SELECT, 4);
    sqlite3_limit(b->db, SQLITE_LIMIT_VDBE_OP, 25000);
    sqlite3_limit(b->db, SQLITE_LIMIT_FUNCTION_ARG, 8);
    sqlite3_limit(b->db, SQLITE_LIMIT_ATTACHED, 0);
    sqlite3_limit(b->db, SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100);
    sqlite3_limit(b->db, SQLITE_LIMIT_TRIGGER_DEPTH, 1);
    sqlite3_db_config(b->db, SQLITE_DBCONFIG_DQS_DML, 0, (int *)NULL);        // "x" is a name, never a text
    sqlite3_db_config(b->db, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    sqlite3_set_authorizer(b->db, authorize, b);
    sqlite3_progress_handler(b->db, STEPS, tick, b);
}

static char *text_create(const SqlTable *t)
{
    sqlite3_str *s = sqlite3_str_new(NULL);
    sqlite3_str_appendf(s, "CREATE TABLE \"%w\" (", t->name);
    for (size_t c = 0; c < t->columns; c++)
        sqlite3_str_appendf(s, "%s\"%w\" %s", c ? ", " : "", t->column[c], t->number[c] ? "INTEGER" : "TEXT");
    sqlite3_str_appendall(s, ")");
    return sqlite3_str_finish(s);
}

static char *text_insert(const SqlTable *t)
{
    sqlite3_str *s = sqlite3_str_new(NULL);
    sqlite3_str_appendf(s, "INSERT INTO \"%w\" VALUES (", t->name);
    for (size_t c = 0; c < t->columns; c++) sqlite3_str_appendall(s, c ? ", ?" : "?");
    sqlite3_str_appendall(s, ")");
    return sqlite3_str_finish(s);
}

static bool rows_insert(SqlBase *b, const SqlTable *t)
{
    char *text = text_insert(t);
    sqlite3_stmt *insert = NULL;
    bool good = text && sqlite3_prepare_v2(b->db, text, -1, &insert, NULL) == SQLITE_OK;
    for (size_t r = 0; good && r < t->rows; r++) {
        for (size_t c = 0; c < t->columns; c++) {
            const char *cell = t->cell[r * t->columns + c];
            if (t->number[c]) sqlite3_bind_int64(insert, (int)c + 1, strtoll(cell, NULL, 10));
            else sqlite3_bind_text(insert, (int)c + 1, cell, -1, SQLITE_STATIC);
        }
        good = sqlite3_step(insert) == SQLITE_DONE && sqlite3_reset(insert) == SQLITE_OK;
    }
    sqlite3_finalize(insert);
    sqlite3_free(text);
    return good;
}

Result sql_open(SqlBase **out, const SqlTable *t)
{
    SqlBase *b = calloc(1, sizeof *b);
    ASSERT(b);
    *out = b, b->table = t->name;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(":memory:", &b->db, flags, NULL) != SQLITE_OK)
        return fail(FAIL_SYSTEM, "SQLite does not open a database in memory");
    char *text = text_create(t);
    bool good = text && sqlite3_exec(b->db, text, NULL, NULL, NULL) == SQLITE_OK && rows_insert(b, t);
    sqlite3_free(text);
    if (!good) return fail(FAIL_DATA, "table %s: %s", t->name, sqlite3_errmsg(b->db));
    limits_set(b);
    return OK;
}

void sql_close(SqlBase *b)
{
    if (!b) return;
    sqlite3_close(b->db);
    free(b);
}

/* Numbers are compared as numbers: 3 is 3.0. */
static void cell_append(Buffer *out, sqlite3_stmt *s, int c)
{
    int kind = sqlite3_column_type(s, c), len = 0;
    if (kind == SQLITE_NULL) buffer_format(out, "null;");
    else if (kind == SQLITE_INTEGER || kind == SQLITE_FLOAT) buffer_format(out, "%.12g;", sqlite3_column_double(s, c));
    else {
        const void *data = sqlite3_column_blob(s, c);
        len = sqlite3_column_bytes(s, c);
        buffer_format(out, "%c%d:%.*s;", kind == SQLITE_TEXT ? 't' : 'b', len, len, data ? (const char *)data : "");
    }
}

bool sql_ask(SqlAnswer *out, SqlBase *b, const char *statement, Arena *a)
{
    const char *rest = NULL;
    sqlite3_stmt *s = NULL;
    size_t len = strlen(statement);
    *out = (SqlAnswer){0};
    b->ticks = 0;
    if (len >= STATEMENT_LIMIT || sqlite3_prepare_v2(b->db, statement, (int)len + 1, &s, &rest) != SQLITE_OK || !s) return false;
    bool good = rest[strspn(rest, " \t\r\n;")] == 0 && sqlite3_stmt_readonly(s) && !sqlite3_stmt_isexplain(s);
    out->row = arena_new(a, char *, ROW_LIMIT);
    Buffer row = {0};
    int state = SQLITE_DONE;
    while (good && (state = sqlite3_step(s)) == SQLITE_ROW) {
        if (!(good = out->rows < ROW_LIMIT)) break;
        row.len = 0;
        for (int c = 0; c < sqlite3_column_count(s); c++) cell_append(&row, s, c);
        out->row[out->rows++] = arena_format(a, "%.*s", (int)row.len, (const char *)row.data);
    }
    buffer_free(&row);
    sqlite3_finalize(s);
    return good && state == SQLITE_DONE;
}

static int row_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool sql_same(SqlAnswer *x, SqlAnswer *y, bool ordered)
{
    if (x->rows != y->rows) return false;
    if (!ordered) {
        qsort(x->row, x->rows, sizeof *x->row, row_compare);
        qsort(y->row, y->rows, sizeof *y->row, row_compare);
    }
    for (size_t i = 0; i < x->rows; i++)
        if (strcmp(x->row[i], y->row[i]) != 0) return false;
    return true;
}

bool sql_is_ordered(const char *statement)
{
    for (const char *at = statement; *at; at++)
        if (!strncasecmp(at, "order by", 8)) return true;
    return false;
}
