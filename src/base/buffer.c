/* buffer.c - byte strings that grow, and bounded reading of foreign bytes. */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buffer_free(Buffer *b)
{
    if (b->secret && b->data) wipe(b->data, b->cap);
    free(b->data);
    *b = (Buffer){.secret = b->secret};
}

void buffer_reserve(Buffer *b, size_t more)
{
    if (more <= b->cap - b->len) return;
    size_t need = 0;
    if (__builtin_add_overflow(b->len, more, &need) || need > SIZE_MAX / 2) bug("out of memory: a buffer of %zu + %zu bytes", b->len, more);
    size_t cap = b->cap * 2 > need ? b->cap * 2 : need < 64 ? 64 : need;
    if (!b->secret) {
        b->data = realloc(b->data, cap);
        if (!b->data) bug("out of memory: a buffer of %zu bytes", cap);
    } else {                                   // realloc would leave a copy behind
        uint8_t *data = malloc(cap);
        if (!data) bug("out of memory: a buffer of %zu bytes", cap);
        if (b->len) memcpy(data, b->data, b->len);
        if (b->data) wipe(b->data, b->cap);
        free(b->data);
        b->data = data;
    }
    b->cap = cap;
}

void buffer_append(Buffer *b, const void *data, size_t len)
{
    if (!len) return;
    buffer_reserve(b, len);
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

void buffer_u8(Buffer *b, uint8_t v)
{
    buffer_append(b, &v, 1);
}

void buffer_u32(Buffer *b, uint32_t v)
{
    uint8_t bytes[4];
    for (int i = 0; i < 4; i++) bytes[i] = (uint8_t)(v >> 8 * i);
    buffer_append(b, bytes, 4);
}

void buffer_u64(Buffer *b, uint64_t v)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(v >> 8 * i);
    buffer_append(b, bytes, 8);
}

void buffer_text(Buffer *b, const char *text)
{
    size_t len = strlen(text);
    ASSERT(len <= UINT32_MAX);
    buffer_u32(b, (uint32_t)len);
    buffer_append(b, text, len);
}

void buffer_format(Buffer *b, const char *format, ...)
{
    ASSERT(format);
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    ASSERT(len >= 0);
    buffer_reserve(b, (size_t)len + 1);        // the terminator is written, not counted
    vsnprintf((char *)b->data + b->len, (size_t)len + 1, format, again);
    b->len += (size_t)len;
    va_end(again);
    va_end(args);
}

static const char *cursor_name(const Cursor *c)
{
    return c->what ? c->what : "data";
}

Result cursor_take(Cursor *c, const uint8_t **out, size_t len)
{
    if (len > c->len - c->at)
        return fail(FAIL_DATA, "%s: cut short: %zu bytes wanted at byte %zu of %zu", cursor_name(c), len, c->at, c->len);
    *out = len ? c->data + c->at : (const uint8_t *)"";       // never NULL, even where data is
    c->at += len;
    return OK;
}

Result cursor_u8(Cursor *c, uint8_t *out)
{
    const uint8_t *p = NULL;
    GUARD(cursor_take(c, &p, 1));
    *out = p[0];
    return OK;
}

Result cursor_u32(Cursor *c, uint32_t *out)
{
    const uint8_t *p = NULL;
    GUARD(cursor_take(c, &p, 4));
    *out = 0;
    for (int i = 0; i < 4; i++) *out |= (uint32_t)p[i] << 8 * i;
    return OK;
}

Result cursor_u64(Cursor *c, uint64_t *out)
{
    const uint8_t *p = NULL;
    GUARD(cursor_take(c, &p, 8));
    *out = 0;
    for (int i = 0; i < 8; i++) *out |= (uint64_t)p[i] << 8 * i;
    return OK;
}

Result cursor_text(Cursor *c, char **out, size_t limit, Arena *a)
{
    size_t start = c->at;
    uint32_t len = 0;
    const uint8_t *p = NULL;
    GUARD(cursor_u32(c, &len));
    if (len > limit) return fail(FAIL_DATA, "%s: a text of %u bytes at byte %zu, longer than %zu", cursor_name(c), len, start, limit);
    GUARD(cursor_take(c, &p, len));
    if (len && memchr(p, 0, len)) return fail(FAIL_DATA, "%s: a text with a NUL inside at byte %zu", cursor_name(c), start);
    *out = arena_alloc(a, (size_t)len + 1, 1);
    memcpy(*out, p, len);
    return OK;
}

Result cursor_end(const Cursor *c)
{
    if (c->at == c->len) return OK;
    return fail(FAIL_DATA, "%s: %zu bytes left over at byte %zu of %zu", cursor_name(c), c->len - c->at, c->at, c->len);
}
