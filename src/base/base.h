/* base.h - ground: results, memory, bytes, files, threads, time.
 *
 * Every floor above stands on this one, and this one on the C library and POSIX alone. It settles four questions once.
 *
 * What happens when something fails? Three classes that never mix. A *bug* (a broken invariant, a misuse of a function)
 * calls `bug` and aborts, in release builds too: going on would risk a secret. *Foreign data* (a file, a peer, an HTTP
 * body, a command line) can only ever yield a failed `Result`, whose text names the thing that was wrong; it never
 * aborts. A *cryptographic failure* is a failed Result of kind FAIL_CRYPTO; whoever owns the session wipes it and ends it.
 * A function that can fail returns `Result` and must be checked; GUARD passes a failure up.
 *
 * Where does memory come from? Arenas, passed in. An arena is freed as a whole, or rolled back to a mark; nothing in the
 * token loop calls malloc. Three lifetimes: the model (mapped read-only), the session, the step. Running out of memory
 * is a bug-class abort: lengths that come from outside are compared with a limit *before* anything is allocated, and what
 * is as large as a session is asked for (arena_try, memory_left), and an error where there is none.
 *
 * How are foreign bytes read? Through a `Cursor`, which cannot run past its end.
 *
 * Who runs in parallel? One pool of threads a process, started once; `parallel_for` is the only way to use it.
 */
#ifndef MARILL_BASE_H
#define MARILL_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- results ---------------------------------------------------------------------------------------------------------

typedef enum {
    FAIL_NONE,
    FAIL_USE,                                  // bad command line: exit status 2
    FAIL_DATA,                                 // a file or a message does not say what it must
    FAIL_SYSTEM,                               // the operating system said no
    FAIL_PEER,                                 // the other party vanished, refused or disagrees
    FAIL_CRYPTO                                // authentication failed, a key was used up: the session is over
} Failure;

typedef struct { Failure kind; } Result;       // the text is kept per thread: see result_text

#define CHECKED __attribute__((warn_unused_result))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))
#define OK ((Result){FAIL_NONE})
#define GUARD(call) do { Result guard_ = (call); if (guard_.kind != FAIL_NONE) return guard_; } while (0)

static inline bool failed(Result r) { return r.kind != FAIL_NONE; }

/* Makes a failure with a text of one line (control characters are replaced: the text may quote foreign data). */
CHECKED Result fail(Failure kind, const char *format, ...) PRINTF(2, 3);
/* Puts "format: " before the text of a failure: fail_in(r, "%s", path). Returns r. */
CHECKED Result fail_in(Result r, const char *format, ...) PRINTF(2, 3);
/* The text of this thread's last failure, valid until the next one. */
const char *result_text(void);
/* Reports a broken invariant on standard error and aborts. */
_Noreturn void bug(const char *format, ...) PRINTF(1, 2);
#define ASSERT(cond) do { if (!(cond)) bug("%s:%d: %s", __FILE__, __LINE__, #cond); } while (0)

// ---- memory ----------------------------------------------------------------------------------------------------------

/* A growing region of memory, freed at once. Blocks are 64-byte aligned and zeroed. A *secret* arena is locked into
 * memory where the system allows it, left out of core dumps, and wiped on rollback and on free. Not thread-safe. */
typedef struct Arena { struct ArenaChunk *last; bool secret; size_t used, peak; } Arena;
typedef struct { struct ArenaChunk *chunk; size_t at, used; } ArenaMark;

void arena_init(Arena *a, bool secret);
void *arena_alloc(Arena *a, size_t count, size_t size);       // count * size bytes, overflow checked; never NULL
void *arena_try(Arena *a, size_t count, size_t size);         // the same, or NULL where the system has no more
#define arena_new(a, type, count) ((type *)arena_alloc((a), (count), sizeof(type)))
char *arena_string(Arena *a, const char *text);               // a copy
char *arena_format(Arena *a, const char *format, ...) PRINTF(2, 3);
ArenaMark arena_mark(const Arena *a);
void arena_rollback(Arena *a, ArenaMark to);                  // everything allocated since is gone
/* The same, but its bytes stay as they are until they are given out again or the arena is wiped: for memory that is taken
 * again at once, mostly by arena_raw, whose blocks are not zeroed. */
void arena_reuse(Arena *a, ArenaMark to);
void *arena_raw(Arena *a, size_t count, size_t size);
void arena_wipe(Arena *a);                                    // gives back and zeroes everything
void arena_free(Arena *a);

bool memory_left(size_t bytes);                               // whether the system would map so much now; no promise
void wipe(void *p, size_t len);                               // zeroes memory and is never optimised away
bool equal_secret(const void *a, const void *b, size_t len);  // in constant time

// ---- bytes -----------------------------------------------------------------------------------------------------------

/* A growing byte string, owned. Integers are little-endian everywhere in Marill's own formats. */
typedef struct Buffer { uint8_t *data; size_t len, cap; bool secret; } Buffer;
void buffer_free(Buffer *b);                                  // wipes first if secret
void buffer_reserve(Buffer *b, size_t more);
void buffer_append(Buffer *b, const void *data, size_t len);
void buffer_u8(Buffer *b, uint8_t v);
void buffer_u32(Buffer *b, uint32_t v);
void buffer_u64(Buffer *b, uint64_t v);
void buffer_text(Buffer *b, const char *text);                // u32 length, bytes
void buffer_format(Buffer *b, const char *format, ...) PRINTF(2, 3);  // text appended without terminator

/* A bounded reader over foreign bytes. `what` names the source in failures ("handshake of the client"). */
typedef struct Cursor { const uint8_t *data; size_t len, at; const char *what; } Cursor;
CHECKED Result cursor_take(Cursor *c, const uint8_t **out, size_t len);
CHECKED Result cursor_u8(Cursor *c, uint8_t *out);
CHECKED Result cursor_u32(Cursor *c, uint32_t *out);
CHECKED Result cursor_u64(Cursor *c, uint64_t *out);
CHECKED Result cursor_text(Cursor *c, char **out, size_t limit, Arena *a);   // as buffer_text wrote it; no NUL inside
CHECKED Result cursor_end(const Cursor *c);                   // fails if bytes are left over

// ---- files -----------------------------------------------------------------------------------------------------------

CHECKED Result file_read(Buffer *out, const char *path, size_t limit);       // a NUL follows the bytes (not counted)
typedef struct FileMap { const uint8_t *data; size_t len; } FileMap;         // read-only, shared between processes
CHECKED Result file_map(FileMap *out, const char *path);
void file_unmap(FileMap *m);
/* Writes beside the file, syncs, renames over it and syncs the folder: readers see the old file or the new one. */
CHECKED Result file_write(const char *path, const void *data, size_t len, unsigned mode);
bool file_exists(const char *path);
CHECKED Result folder_make(const char *path, unsigned mode);                 // with its parents; fine if there

// ---- threads and time ------------------------------------------------------------------------------------------------

void threads_start(unsigned count);            // once, before the first parallel_for; at most 256; 0: one a core. Without it: 1
unsigned threads_count(void);
/* Calls body(ctx, begin, end) over disjoint ranges that cover 0..n, each at least `grain` long (unless n is less), and
 * returns when all are done. The split depends on n, grain and the number of threads alone. */
void parallel_for(size_t n, size_t grain, void (*body)(void *ctx, size_t begin, size_t end), void *ctx);
/* Whether the caller runs inside a parallel_for: one that it calls would run its parts one after another. */
bool parallel_inside(void);
double clock_seconds(void);                    // monotonic
double clock_cpu_seconds(void);                // of this process, all threads
double peak_rss_mb(void);                      // of this process

/* Progress of long work goes up through a callback; floors below serve/ never print. */
typedef struct Progress { void (*say)(void *ctx, const char *line); void *ctx; } Progress;
void progress(const Progress *p, const char *format, ...) PRINTF(2, 3);      // does nothing if p or p->say is NULL

#endif
