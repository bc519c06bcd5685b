/* result.c - failures and their text, bugs, progress.
 *
 * A Result is one word; its text waits in a buffer of the thread that failed. A text may quote a file or a peer, so it is
 * cleaned as it is kept: whoever prints it cannot be made to send a terminal an escape sequence, or to break a log line. */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_SIZE = 1024 };
static _Thread_local char text_kept[TEXT_SIZE];

/* Replaces control characters: those of ASCII, and those of Latin-1 in their UTF-8 form (C2 80..9F). */
static void text_clean(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        if (*c < 0x20 || *c == 0x7F) *c = '?';
        else if (*c == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0) *c++ = '?', *c = '?';
    }
}

/* The arguments may point into the text kept, so the new one is made aside. */
static void text_keep(const char *before, const char *after)
{
    char made[TEXT_SIZE];
    snprintf(made, sizeof made, "%s%s%s", before, *before && *after ? ": " : "", after);
    text_clean(made);
    memcpy(text_kept, made, sizeof made);
}

Result fail(Failure kind, const char *format, ...)
{
    ASSERT(kind != FAIL_NONE);
    char text[TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    text_keep("", text);
    return (Result){kind};
}

Result fail_in(Result r, const char *format, ...)
{
    if (!failed(r)) return r;
    char text[TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    text_keep(text, text_kept);
    return r;
}

const char *result_text(void)
{
    return text_kept;
}

void bug(const char *format, ...)
{
    char text[TEXT_SIZE], line[TEXT_SIZE + 32];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    text_clean(text);
    int len = snprintf(line, sizeof line, "marill: bug: %s\n", text);
    if (len > 0 && write(STDERR_FILENO, line, (size_t)len) < 0) abort();      // nowhere left to say it
    abort();
}

void progress(const Progress *p, const char *format, ...)
{
    if (!p || !p->say) return;
    char line[TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    p->say(p->ctx, line);
}
