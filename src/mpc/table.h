/* table.h - the inside of a table, for lookup.c (private to mpc/). */
#ifndef MARILL_TABLE_H
#define MARILL_TABLE_H

#include "mpc/mpc.h"

enum { TABLE_COLUMNS = 3 };                    // constant, slope, indicator of the cells below the border

struct Table {
    LookupSpec spec;
    size_t cells;
    unsigned columns, bytes[TABLE_COLUMNS];    // bytes of a stored word
    void **row;                                // (2^k, TABLE_COLUMNS), each (2 cells) words; NULL until asked for
};

/* Row of l^ = low: entry (cells - h) % cells is cell h; the row is stored twice over, so that for any h^ the words of the
 * cells h^ - c (mod cells), c = 0.., begin at entry (cells - h^) % cells. */
const void *table_row(const Table *t, size_t low, unsigned column);
uint64_t table_word(const Table *t, size_t low, unsigned column, size_t cell);
uint64_t table_low_exp(const Table *t, uint64_t p);
uint64_t table_low_line(const Table *t, uint64_t p);
unsigned column_width(const Table *t, unsigned column);       // ring in which the column is opened

#endif
