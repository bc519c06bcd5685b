/* arena.c - regions of memory that are freed at once.
 *
 * An arena is a list of chunks, each straight from the system. `last` is the one in use; those before it are full, those
 * after it are spares that a rollback gave back. A loop that marks, allocates and rolls back therefore asks the system
 * for memory in its first round only.
 *
 * The invariant: in every chunk the bytes past `at` and past `dirty` are zero. A rollback restores it by zeroing what it takes
 * back, which for a secret arena is the wiping as well, so that allocating is moving `at`. arena_reuse leaves its bytes behind,
 * below `dirty`, for those who write all of what they get; others have it zeroed then. */
#include "base/base.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGN = 64, CHUNK_FIRST = 64 << 10, CHUNK_DOUBLED = 16 << 20, CLEARED_A_PART = 128 << 10 };

struct ArenaChunk {
    _Alignas(ALIGN) struct ArenaChunk *prev;
    struct ArenaChunk *next;
    size_t size, at, dirty;                    // bytes after this header: in all, given out, and ever left unzeroed
};

static uint8_t *chunk_data(struct ArenaChunk *c)
{
    return (uint8_t *)(c + 1);
}

static struct ArenaChunk *chunk_make(size_t size, bool secret)          // NULL: the system has no more
{
    size_t bytes = 0;
    if (__builtin_add_overflow(size, sizeof(struct ArenaChunk) + 4095, &bytes)) return NULL;
    bytes &= ~(size_t)4095;
    struct ArenaChunk *c = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c == MAP_FAILED) return NULL;
    if (secret) {
        (void)!mlock(c, bytes);                // beyond the system's limit a page may be swapped: docs/security.md says so
        madvise(c, bytes, MADV_DONTDUMP);
    }
    c->size = bytes - sizeof *c;
    return c;
}

static void clear_part(void *ctx, size_t begin, size_t end)
{
    wipe((uint8_t *)ctx + begin, end - begin);
}

/* As wipe, by all threads where it is long. */
static void clear(uint8_t *p, size_t len)
{
    parallel_for(len, CLEARED_A_PART, clear_part, p);
}

static void chunk_clear(struct ArenaChunk *c, size_t from)
{
    if (c->at > from) clear(chunk_data(c) + from, c->at - from);
    c->at = from;
}

static void chunk_clean(struct ArenaChunk *c)
{
    if (c->at < c->dirty) c->at = c->dirty;
    chunk_clear(c, 0);
    c->dirty = 0;
}

static void chunk_free(struct ArenaChunk *c, bool secret)
{
    if (secret) chunk_clean(c);
    munmap(c, c->size + sizeof *c);
}

/* Makes `last` a chunk with room for `size` bytes. A spare that is too small is let go, so that chunks grow to what is
 * asked for. False: there is no memory, and the arena is as it was but for those spares. */
static bool arena_grow(Arena *a, size_t size)
{
    struct ArenaChunk *spare = a->last ? a->last->next : NULL;
    while (spare && spare->size < size) {
        struct ArenaChunk *after = spare->next;
        chunk_free(spare, a->secret);
        spare = after;
    }
    if (a->last) a->last->next = spare;
    if (!spare) {
        size_t wish = a->last ? a->last->size * 2 : CHUNK_FIRST;
        if (wish > CHUNK_DOUBLED) wish = CHUNK_DOUBLED;
        spare = chunk_make(size > wish ? size : wish, a->secret);
        if (!spare) return false;
    }
    spare->prev = a->last;
    if (a->last) a->last->next = spare;
    a->last = spare;
    return true;
}

void arena_init(Arena *a, bool secret)
{
    *a = (Arena){.secret = secret};
}

static void *arena_take(Arena *a, size_t count, size_t size, bool zero)      // NULL: there is no memory
{
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (bytes == 0) bytes = ALIGN;             // an empty block still has an address of its own
    if (!a->last || a->last->size - a->last->at < bytes) {
        if (!arena_grow(a, bytes)) return NULL;
    }
    void *block = chunk_data(a->last) + a->last->at;
    if (zero && a->last->dirty > a->last->at) {
        size_t left = a->last->dirty - a->last->at;
        clear(block, left < bytes ? left : bytes);
    }
    a->last->at += bytes;
    a->used += bytes;
    if (a->used > a->peak) a->peak = a->used;
    return block;
}

static void *arena_must(Arena *a, size_t count, size_t size, bool zero)
{
    void *block = arena_take(a, count, size, zero);
    if (!block) bug("out of memory: %zu x %zu bytes", count, size);
    return block;
}

void *arena_alloc(Arena *a, size_t count, size_t size) { return arena_must(a, count, size, true); }
void *arena_raw(Arena *a, size_t count, size_t size) { return arena_must(a, count, size, false); }
void *arena_try(Arena *a, size_t count, size_t size) { return arena_take(a, count, size, true); }

bool memory_left(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p != MAP_FAILED && munmap(p, bytes) == 0;
}

char *arena_string(Arena *a, const char *text)
{
    size_t len = strlen(text) + 1;
    return memcpy(arena_alloc(a, len, 1), text, len);
}

char *arena_format(Arena *a, const char *format, ...)
{
    ASSERT(format);
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    ASSERT(len >= 0);
    char *text = arena_alloc(a, (size_t)len + 1, 1);
    vsnprintf(text, (size_t)len + 1, format, again);
    va_end(again);
    va_end(args);
    return text;
}

ArenaMark arena_mark(const Arena *a)
{
    return (ArenaMark){a->last, a->last ? a->last->at : 0, a->used};
}

static void chunk_leave(struct ArenaChunk *c, size_t from)
{
    if (c->dirty < c->at) c->dirty = c->at;
    c->at = from;
}

static void arena_back(Arena *a, ArenaMark to, void (*give)(struct ArenaChunk *c, size_t from))
{
    ASSERT(to.used <= a->used);
    if (!a->last) return;
    while (a->last != to.chunk && a->last->prev) {
        give(a->last, 0);
        a->last = a->last->prev;
    }
    ASSERT(!to.chunk || a->last == to.chunk);  // a mark of the empty arena names no chunk: the first one stays as a spare
    give(a->last, to.at);
    a->used = to.used;
}

void arena_rollback(Arena *a, ArenaMark to) { arena_back(a, to, chunk_clear); }
void arena_reuse(Arena *a, ArenaMark to) { arena_back(a, to, chunk_leave); }

void arena_wipe(Arena *a)
{
    arena_back(a, (ArenaMark){0}, chunk_leave);
    for (struct ArenaChunk *c = a->last; c; c = c->next) chunk_clean(c);
}

void arena_free(Arena *a)
{
    struct ArenaChunk *c = a->last;
    while (c && c->next) c = c->next;
    while (c) {
        struct ArenaChunk *prev = c->prev;
        chunk_free(c, a->secret);
        c = prev;
    }
    arena_init(a, a->secret);
}

void wipe(void *p, size_t len)
{
    if (len) explicit_bzero(p, len);
}

bool equal_secret(const void *a, const void *b, size_t len)
{
    const volatile uint8_t *x = a, *y = b;
    uint8_t differ = 0;
    for (size_t i = 0; i < len; i++) differ = (uint8_t)(differ | (x[i] ^ y[i]));
    return differ == 0;
}
