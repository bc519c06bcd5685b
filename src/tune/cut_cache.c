/* cut_cache.c - see cut_cache.h. */
#include "tune/cut_cache.h"

#include <string.h>

void cut_cache_init(CutCache *c, size_t width, size_t limit)
{
    *c = (CutCache){.width = width, .limit = limit};
    arena_init(&c->arena, false);
    table_init(&c->tokens, &c->arena);
}

void cut_cache_free(CutCache *c)
{
    arena_free(&c->arena);
    *c = (CutCache){0};
}

static void room_make(CutCache *c)
{
    if (c->tokens.count < c->room) return;
    float **more = arena_new(&c->arena, float *, 2 * c->room + 1024);
    if (c->room) memcpy(more, c->cut, c->room * sizeof *more);
    c->cut = more, c->room = 2 * c->room + 1024;
}

float *cut_cache_place(CutCache *c, const Sample *s, bool *fresh)
{
    const char *bytes = (const char *)s->tokens;
    size_t len = s->len * sizeof *s->tokens;
    *fresh = false;
    if (s->len < 2) return NULL;
    uint32_t at = table_find(&c->tokens, bytes, len);
    if (at != TABLE_NONE) return c->cut[at];
    size_t need = (s->len - 1) * c->width * sizeof(float) + len;
    if (need > c->limit - c->used) return NULL;
    float *cut = arena_try(&c->arena, (s->len - 1) * c->width, sizeof *cut);
    if (!cut) return NULL;
    c->used += need;
    room_make(c);
    c->cut[table_add(&c->tokens, bytes, len)] = cut;
    *fresh = true;
    return cut;
}
