/* sql_run.h - statements of a model, run on a small table in memory (private to tune/).
 *
 * A statement comes from a model that may write anything. SQLite is told to prepare nothing but one SELECT over this one
 * table, with functions of a short list; the work, the rows and every length are limited. Nothing touches the disk. */
#ifndef MARILL_SQL_RUN_H
#define MARILL_SQL_RUN_H

#include "base/base.h"

typedef struct SqlTable {
    const char *name;
    const char **column;                       // (columns)
    const bool *number;                        // (columns) whether its cells are integers
    size_t columns, rows;
    const char **cell;                         // (rows, columns)
} SqlTable;

typedef struct SqlBase SqlBase;                // the table, in a database of its own
CHECKED Result sql_open(SqlBase **out, const SqlTable *t);
void sql_close(SqlBase *b);                    // NULL is fine

typedef struct SqlAnswer { char **row; size_t rows; } SqlAnswer;     // a row as one text that is equal where the row is
/* False where the statement is not one plain SELECT that SQLite can run within the limits. */
bool sql_ask(SqlAnswer *out, SqlBase *b, const char *statement, Arena *a);
/* The same rows: in the same order if `ordered`, else each as often. Sorts both if not ordered. */
bool sql_same(SqlAnswer *x, SqlAnswer *y, bool ordered);
bool sql_is_ordered(const char *statement);    // has an ORDER BY

#endif
