/* text_table.h - a set of strings, numbered from 0 in the order in which they came. */
#ifndef MARILL_TEXT_TABLE_H
#define MARILL_TEXT_TABLE_H

#include "base/base.h"

#define TABLE_NONE UINT32_MAX

typedef struct TextTable {
    Arena *arena;                              // owns everything here
    char **text;                               // (count), each with a NUL after it
    uint32_t *len;                             // (count) bytes
    uint32_t *slot;                            // (slots) hash table with open addressing: number + 1, or 0
    uint32_t count, cap, slots;                // slots: a power of two, at least twice cap
} TextTable;

uint64_t text_hash(const char *text, size_t len);                             // FNV-1a, mixed once more; the same on every machine
void table_init(TextTable *t, Arena *a);
uint32_t table_add(TextTable *t, const char *text, size_t len);               // its number, old or new
uint32_t table_find(const TextTable *t, const char *text, size_t len);        // its number, or TABLE_NONE

#endif
