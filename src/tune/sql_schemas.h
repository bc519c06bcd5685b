/* sql_schemas.h - the small tables that questions are asked about (private to tune/). */
#ifndef MARILL_SQL_SCHEMAS_H
#define MARILL_SQL_SCHEMAS_H

#include "base/base.h"

enum { SCHEMA_COLUMNS = 6 };

typedef struct SqlColumn {
    const char *name;
    const char *const *value;                  // (values) what a text column may hold; NULL: a number from low to high
    size_t values;
    int64_t low, high;
} SqlColumn;

/* The first column is text and names the row. */
typedef struct SqlSchema {
    const char *table, *row;                   // "singers", "singer"
    SqlColumn column[SCHEMA_COLUMNS];
    size_t columns;
} SqlSchema;

/* All of them, parsed once into the arena. No two share a table's name. */
void sql_schemas(SqlSchema **out, size_t *count, Arena *a);

#endif
