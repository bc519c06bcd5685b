/* data_split.c - sentence pairs and who may see them.
 *
 * Translations are many-to-many, so a random split would put "Hi. / Hallo!" into training and "Hello! / Hallo!" into the
 * test. Sentences are the nodes of a graph and pairs its edges; a component of it is learned or held out as a whole. */
#include "tune/data_split.h"

#include <string.h>

enum { FILE_LIMIT = 1 << 30 };
/* A component above this share of the pairs is learned whatever its hash: it would make a part out of near-copies. */
enum { LARGE_SHARE = 1000, LARGE_AT_LEAST = 32 };

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

size_t text_trim(const char **text, size_t len)
{
    while (len && is_space((*text)[len - 1])) len--;
    while (len && is_space(**text)) (*text)++, len--;
    return len;
}

DataPart text_part(const char *text, size_t len)
{
    uint64_t percent = text_hash(text, len) % 100;
    return percent < 96 ? PART_TRAIN : percent < 98 ? PART_VALID : PART_TEST;
}

static size_t line_number(const uint8_t *text, size_t at)
{
    size_t line = 1;
    for (size_t i = 0; i < at; i++) line += text[i] == '\n';
    return line;
}

Result text_read(char **out, size_t *len, const char *path, Arena *a)
{
    Buffer b = {0};
    Result r = file_read(&b, path, FILE_LIMIT);
    if (!failed(r)) {
        size_t bad = utf8_invalid_at(b.data, b.len);
        const uint8_t *nul = b.len ? memchr(b.data, 0, bad) : NULL;
        if (nul) bad = (size_t)(nul - b.data);
        if (bad < b.len) r = fail(FAIL_DATA, "%s: line %zu: %s", path, line_number(b.data, bad), nul ? "a NUL inside" : "not UTF-8");
    }
    if (!failed(r)) {
        *out = arena_alloc(a, b.len + 1, 1);
        memcpy(*out, b.data, b.len);
        *len = b.len;
    }
    buffer_free(&b);
    return r;
}

bool line_next(const char **line, size_t *len, const char **at, const char *end)
{
    if (*at >= end) return false;
    const char *stop = memchr(*at, '\n', (size_t)(end - *at));
    *line = *at;
    *len = (size_t)((stop ? stop : end) - *at);
    *at = stop ? stop + 1 : end;
    return true;
}

const char *line_column(size_t *len, const char *line, size_t line_len, unsigned column)
{
    const char *at = line, *end = line + line_len;
    for (;; column--) {
        const char *tab = memchr(at, '\t', (size_t)(end - at));
        if (column == 0) {
            *len = text_trim(&at, (size_t)((tab ? tab : end) - at));
            return at;
        }
        if (!tab) return NULL;
        at = tab + 1;
    }
}

static bool is_column_numbers(const char *line, size_t len)
{
    for (unsigned c = 0; c < 2; c++) {
        size_t n = 0;
        const char *text = line_column(&n, line, len, c);
        if (!text || n != 1 || text[0] != (char)('1' + c)) return false;
    }
    return true;
}

Result pair_next(PairLine *out, bool *more, size_t *number, const char **at, const char *end)
{
    const char *line = NULL;
    size_t line_len = 0;
    while ((*more = line_next(&line, &line_len, at, end))) {
        const char *trimmed = line;
        ++*number;
        if (text_trim(&trimmed, line_len) == 0 || (*number == 1 && is_column_numbers(line, line_len))) continue;
        for (unsigned c = 0; c < 2; c++) {
            out->column[c] = line_column(&out->len[c], line, line_len, c);
            if (!out->column[c] || !out->len[c])
                return fail(FAIL_DATA, "line %zu has no sentence in column %u (columns are separated by a tab)", *number, c);
        }
        return OK;
    }
    return OK;
}

static uint32_t root_of(uint32_t *parent, uint32_t at)
{
    while (parent[at] != at) at = parent[at] = parent[parent[at]];
    return at;
}

/* The part of each component: the hash of its smallest sentence, unless it is large. */
static void parts_assign(PairFile *f, Arena *a)
{
    uint32_t n = f->sentence.count, limit = f->count / LARGE_SHARE > LARGE_AT_LEAST ? f->count / LARGE_SHARE : LARGE_AT_LEAST;
    uint32_t *parent = arena_new(a, uint32_t, n), *smallest = arena_new(a, uint32_t, n), *size = arena_new(a, uint32_t, n);
    f->part = arena_new(a, uint8_t, n);
    for (uint32_t i = 0; i < n; i++) parent[i] = smallest[i] = i;
    for (uint32_t i = 0; i < f->count; i++) parent[root_of(parent, f->pair[i][0])] = root_of(parent, f->pair[i][1]);
    for (uint32_t i = 0; i < f->count; i++) size[root_of(parent, f->pair[i][0])]++;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t r = root_of(parent, i);
        if (strcmp(f->sentence.text[i], f->sentence.text[smallest[r]]) < 0) smallest[r] = i;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t r = root_of(parent, i), s = smallest[r];
        f->part[i] = (uint8_t)(size[r] > limit ? PART_TRAIN : text_part(f->sentence.text[s], f->sentence.len[s]));
    }
}

Result pair_file_read(PairFile *out, const char *path, Arena *a)
{
    char *text = NULL;
    size_t len = 0, lines = 1, number = 0;
    GUARD(text_read(&text, &len, path, a));
    for (size_t i = 0; i < len; i++) lines += text[i] == '\n';
    *out = (PairFile){.pair = arena_alloc(a, lines, sizeof *out->pair)};
    table_init(&out->sentence, a);
    PairLine line;
    bool more = true;
    for (const char *at = text;;) {
        Result r = pair_next(&line, &more, &number, &at, text + len);
        if (failed(r)) return fail_in(r, "%s", path);
        if (!more) break;
        for (unsigned c = 0; c < 2; c++) out->pair[out->count][c] = table_add(&out->sentence, line.column[c], line.len[c]);
        out->count++;
    }
    parts_assign(out, a);
    return OK;
}

// ---- pairs for scoring -----------------------------------------------------------------------------------------------

Result data_pairs(TestPair **out, size_t *count, const char *path, DataPart part, Arena *a)
{
    PairFile f;
    GUARD(pair_file_read(&f, path, a));
    uint32_t *answers = arena_new(a, uint32_t, f.sentence.count), *entry = arena_new(a, uint32_t, f.sentence.count);
    for (uint32_t i = 0; i < f.count; i++) answers[f.pair[i][1]]++;
    *out = arena_new(a, TestPair, f.count);
    *count = 0;
    for (uint32_t i = 0; i < f.count; i++) {
        uint32_t prompt = f.pair[i][1];
        if (part != PART_ALL && f.part[prompt] != part) continue;
        if (!entry[prompt]) {
            (*out)[*count] = (TestPair){f.sentence.text[prompt], arena_alloc(a, answers[prompt], sizeof(char *)), 0};
            entry[prompt] = (uint32_t)++*count;
        }
        TestPair *p = &(*out)[entry[prompt] - 1];
        p->answers[p->count++] = f.sentence.text[f.pair[i][0]];
    }
    return OK;
}
