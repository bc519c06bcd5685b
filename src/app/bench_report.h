/* bench_report.h - private to app/: results of benchmarks as read from their JSON files, and their tables. */
#ifndef MARILL_BENCH_REPORT_H
#define MARILL_BENCH_REPORT_H

#include "app/app.h"

typedef struct Saved { char *path, *name; Json *json; } Saved;               // name: of the file, without .json
typedef struct Results { Saved *saved; size_t count; } Results;              // block-2 before block-16

const Json *result_find(const Results *r, const char *name); // NULL: there is no such file
/* "a.b.2.c": members by name, elements by number; NULL if absent. */
const Json *result_walk(const Json *v, const char *path);
const char *text_of(const Json *o, const char *key);         // "" if absent
double real_of(const Json *o, const char *path);             // 0 if absent
/* The entry of an `asked` list of that name, or NULL. */
const Json *asked_find(const Json *o, const char *name);

/* A Markdown table that appears with its first row, and under its section's heading if that has not appeared yet. */
typedef struct Section { const char *heading; } Section;
typedef struct Table { Section *section; const char *text, *columns; bool begun; } Table;    // text: before the table, or NULL
void table_row(Table *t, const char *format, ...) PRINTF(2, 3);
void table_end(const Table *t);
/* "yes", or a "no" that points to the reasons. */
const char *met_text(bool met);
/* What a figure of a list asks for, and what it reached, as text. */
typedef struct FigureText { char asked[64], reached[96]; const char *met; } FigureText;
FigureText figure_text(const Json *figure);

void report_asked(const Results *r);                          // bench_asked.c: what is asked, beside what was measured
void report_models(const Results *r);                         // bench_models.c: models that people use

#endif
