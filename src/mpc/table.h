/* table.h - the inside of a table, for lookup.c (private to mpc/). */
#ifndef MARILL_TABLE_H
#define MARILL_TABLE_H

#include "mpc/mpc.h"

enum { TABLE_COLUMNS = 3 };                    // constant, slope, indicator of the cells below the border

struct Table {
    LookupSpec spec;
    size_t cells;
    unsigned columns, bytes[TABLE_COLUMNS];    // bytes of a stored word
    uint8_t *rows;                             // narrow tables: (2^k) rows; NULL: a row is made at every use
};

/* The columns of row l^ = low. Entry (cells - h) % cells is cell h; a row is stored twice over, so that for any h^ the words
 * of the cells h^ - c (mod cells), c = 0.., begin at entry (cells - h^) % cells. scratch: table_scratch bytes, 8-byte
 * aligned, which the columns may point into. */
void table_row(const Table *t, uint64_t low, const uint8_t *column[TABLE_COLUMNS], void *scratch);
size_t table_scratch(const Table *t);
uint64_t table_word(const Table *t, uint64_t low, unsigned column, size_t cell);             // one word, sign-extended
uint64_t table_low_exp(const Table *t, uint64_t p);
uint64_t table_low_line(const Table *t, uint64_t p);
unsigned column_width(const Table *t, unsigned column);       // ring in which the column is opened

#endif
