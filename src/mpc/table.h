/* table.h - the inside of a table, for lookup.c (private to mpc/). */
#ifndef MARILL_TABLE_H
#define MARILL_TABLE_H

#include "mpc/mpc.h"

struct Table {
    LookupSpec spec;
    size_t cells, row_bytes;
    unsigned columns, bytes[SELECT_COLUMNS];   // bytes of a stored word
    uint8_t *rows;                             // narrow tables: (2^k) rows; NULL: a row is made at every use
};

/* The table for ring_select: a bit c of a one-hot vector turned by h^ is entry (c - h^) mod cells, so entry (cells - h) % cells is
 * cell h. Of a wide table it is the one row l^ = low, made in `scratch` (table_scratch bytes, aligned to 64; NULL at others). */
SelectTable table_select(const Table *t, uint64_t low, void *scratch);
size_t table_scratch(const Table *t);          // 0: the rows are there
uint64_t table_word(const Table *t, uint64_t low, unsigned column, size_t cell);             // one word, sign-extended
/* What the low parts p (len) contribute at T: exp(-p), or the line's coordinate. */
void table_low(const Table *t, uint64_t *out, const uint64_t *p, size_t len);
unsigned column_width(const Table *t, unsigned column);       // ring in which the column is opened

#endif
