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
/* Reads a whole file of UTF-8 without NUL into the arena. */
CHECKED Result text_read(char **out, size_t *len, const char *path, Arena *a);

#endif
