/* text_table.c - a set of strings, numbered. */
#include "base/text_table.h"
#include "base/random.h"

#include <string.h>

uint64_t text_hash(const char *text, size_t len)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < len; i++) h = (h ^ (uint8_t)text[i]) * 0x100000001B3u;
    return random_mix(h);
}

static uint32_t *table_slot(const TextTable *t, const char *text, size_t len)
{
    for (uint32_t i = (uint32_t)text_hash(text, len);; i++) {
        uint32_t *slot = &t->slot[i & (t->slots - 1)];
        if (!*slot || (t->len[*slot - 1] == len && memcmp(t->text[*slot - 1], text, len) == 0)) return slot;
    }
}

static void table_grow(TextTable *t)
{
    ASSERT(t->cap <= UINT32_MAX / 8);
    TextTable old = *t;
    t->cap = old.cap ? old.cap * 2 : 1024;
    t->slots = t->cap * 2;
    t->text = arena_new(t->arena, char *, t->cap);
    t->len = arena_new(t->arena, uint32_t, t->cap);
    t->slot = arena_new(t->arena, uint32_t, t->slots);
    for (uint32_t i = 0; i < old.count; i++) {
        t->text[i] = old.text[i], t->len[i] = old.len[i];
        *table_slot(t, t->text[i], t->len[i]) = i + 1;
    }
}

void table_init(TextTable *t, Arena *a)
{
    *t = (TextTable){.arena = a};
    table_grow(t);
}

uint32_t table_add(TextTable *t, const char *text, size_t len)
{
    ASSERT(len < UINT32_MAX);
    if (t->count == t->cap) table_grow(t);
    uint32_t *slot = table_slot(t, text, len);
    if (*slot) return *slot - 1;
    t->text[t->count] = arena_alloc(t->arena, len + 1, 1);
    memcpy(t->text[t->count], text, len);
    t->len[t->count] = (uint32_t)len;
    *slot = ++t->count;
    return t->count - 1;
}

uint32_t table_find(const TextTable *t, const char *text, size_t len)
{
    return *table_slot(t, text, len) - 1;      // 0 - 1 is TABLE_NONE
}
