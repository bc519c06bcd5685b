/* data_split.h - a file of sentence pairs, split by connected component (private to tune/; see data.h). */
#ifndef MARILL_DATA_SPLIT_H
#define MARILL_DATA_SPLIT_H

#include "tune/data.h"
#include "base/text_table.h"

typedef struct PairFile {
    TextTable sentence;                        // of both columns, trimmed, each once
    uint32_t (*pair)[2];                       // (count) numbers of the sentences, in the order of the file
    uint32_t count;
    uint8_t *part;                             // (sentence.count) the DataPart of the sentence's component
} PairFile;

/* Reads tab-separated lines; columns from the third on (sources, licences) are passed over, and so is a first line that
 * numbers the columns. Fails on a line without two sentences. */
CHECKED Result pair_file_read(PairFile *out, const char *path, Arena *a);

/* The part of a text by its hash: 96 % train, 2 % validation, 2 % test. */
DataPart text_part(const char *text, size_t len);
/* text without the white space at its ends: moves *text, returns the new length. */
size_t text_trim(const char **text, size_t len);
/* Reads a whole file of UTF-8 without NUL into the arena, of at most 1 GiB. Failures name the file, and the line. */
CHECKED Result text_read(char **out, size_t *len, const char *path, Arena *a);
/* Cuts the next line off *at, without its newline; false at the end. */
bool line_next(const char **line, size_t *len, const char **at, const char *end);
/* Column `column` of a line with tabs between, trimmed; NULL if the line has fewer. */
const char *line_column(size_t *len, const char *line, size_t line_len, unsigned column);
/* The next line of pairs: passes over empty lines and a first one that numbers the columns. *more: false at the end. `number`
 * counts lines. Fails, with the line, on one whose first two columns are not both filled. */
typedef struct PairLine { const char *column[2]; size_t len[2]; } PairLine;
CHECKED Result pair_next(PairLine *out, bool *more, size_t *number, const char **at, const char *end);

#endif
