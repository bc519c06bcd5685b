/* data.c - sources to shuffled samples.
 *
 * A source is read into records, each a few columns of text. Records of other parts and held-out ones fall away, equal
 * ones count once, templates make a prompt and a completion of each, and both are tokenised as one text: what follows a
 * newline has no dummy prefix, in training as in use. Everything is drawn from (seed, epoch, number of the source), so an
 * epoch can be made again, on another machine too, without anything kept from the last one. */
#include "tune/data.h"
#include "tune/data_split.h"

#include <string.h>

enum { COLUMNS = 2 };
#define STORY_END "<|endoftext|>"
#define WEIGHT_LIMIT 1000.0

typedef struct Record { const char *column[COLUMNS]; } Record;
typedef struct Records { Record *record; size_t count; unsigned columns; } Records;

typedef struct Loader {
    DataSet *out;
    size_t cap;
    const Tokenizer *tokenizer;
    uint32_t context;
    DataPart part;
    uint64_t random;                           // state of the generator
    Buffer *plain;                             // data_text: where the text goes instead of to the tokenizer
    Arena *arena;                              // samples
    Arena text;                                // files and records of the source at hand
} Loader;

// ---- random numbers --------------------------------------------------------------------------------------------------

static uint64_t random_next(uint64_t *state)                          // splitmix64
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static uint64_t random_from(uint64_t seed, uint64_t epoch, uint64_t source)
{
    uint64_t state = seed;
    state = random_next(&state) ^ epoch;
    state = random_next(&state) ^ source;
    return random_next(&state);
}

static double random_unit(uint64_t *state)
{
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

static size_t random_below(uint64_t *state, size_t n)
{
    return (size_t)((unsigned __int128)random_next(state) * n >> 64);
}

// ---- records ---------------------------------------------------------------------------------------------------------

static bool is_sentence_end(char c)
{
    return c == '.' || c == '!' || c == '?';
}

/* Is any line, or any sentence inside a line, one of the held-out sentences? Quotation marks around it do not hide it. */
static bool is_held_out(const PairFile *f, const char *text, size_t len)
{
    for (const char *at = text, *end = text + len, *line = text; at < end; at++) {
        const char *next = at + 1;
        bool line_end = next == end || *next == '\n', stop = line_end || (is_sentence_end(*at) && strchr(" \t\"')", *next));
        if (!stop) continue;
        const char *candidate[3] = {text, line, text};
        size_t size[3] = {(size_t)(next - text), (size_t)(next - line), 0};
        size[2] = size[0];
        for (unsigned i = 0; i < 3; i++) {
            size[i] = text_trim(&candidate[i], size[i]);
            if (i == 2) while (size[i] && strchr("\"') \t", *candidate[i])) candidate[i]++, size[i]--;
            if (i == 2 && line_end) while (size[i] && strchr("\"')", candidate[i][size[i] - 1])) size[i]--;
            uint32_t found = table_find(&f->sentence, candidate[i], size[i]);
            if (found != TABLE_NONE && f->part[found] != PART_TRAIN) return true;
        }
        text = next;
        if (line_end) line = next;
    }
    return false;
}

static void record_add(Records *r, Loader *l, const PairFile *held_out, const char *text, size_t len)
{
    len = text_trim(&text, len);
    if (len == 0 || (l->part != PART_ALL && text_part(text, len) != l->part) || (held_out && is_held_out(held_out, text, len))) return;
    char *copy = arena_alloc(&l->text, len + 1, 1);
    memcpy(copy, text, len);
    r->record[r->count++].column[0] = copy;
}

static Result records_read_text(Records *r, Loader *l, const DataSource *s, bool stories)
{
    PairFile held_out = {0};
    char *text = NULL;
    size_t len = 0, most = 1;
    if (s->held_out) GUARD(pair_file_read(&held_out, s->held_out, &l->text));
    GUARD(text_read(&text, &len, s->path, &l->text));
    const char *mark = stories ? STORY_END : "\n", *end = text + len;
    for (const char *at = text; (at = strstr(at, mark)); at += strlen(mark)) most++;
    *r = (Records){arena_new(&l->text, Record, most), 0, 1};
    for (const char *at = text; at < end;) {
        const char *stop = strstr(at, mark);
        if (!stop && stories) break;                                  // cut in the middle
        if (!stop) stop = end;
        record_add(r, l, s->held_out ? &held_out : NULL, at, (size_t)(stop - at));
        at = stop + strlen(mark);
    }
    return OK;
}

static Result records_read_pairs(Records *r, Loader *l, const DataSource *s)
{
    PairFile f;
    GUARD(pair_file_read(&f, s->path, &l->text));
    *r = (Records){arena_new(&l->text, Record, f.count), 0, 2};
    for (uint32_t i = 0; i < f.count; i++) {
        if (l->part != PART_ALL && f.part[f.pair[i][0]] != l->part) continue;
        for (unsigned c = 0; c < 2; c++) r->record[r->count].column[c] = f.sentence.text[f.pair[i][c]];
        r->count++;
    }
    return OK;
}

static Result records_read(Records *r, Loader *l, const DataSource *s)
{
    if (strcmp(s->kind, "pairs") == 0) return records_read_pairs(r, l, s);
    if (strcmp(s->kind, "stories") == 0) return records_read_text(r, l, s, true);
    if (strcmp(s->kind, "lines") == 0) return records_read_text(r, l, s, false);
    return fail(FAIL_DATA, "a source of kind '%s': it must be stories, lines or pairs", s->kind);
}

// ---- templates -------------------------------------------------------------------------------------------------------

/* Checks a template once: what is in braces must be a column that the kind has. */
static Result template_check(const char *template, unsigned columns, const char *path)
{
    for (const char *at = template; at && (at = strchr(at, '{')); at++)
        if (at[1] < '0' || at[1] >= (char)('0' + columns) || at[2] != '}')
            return fail(FAIL_DATA, "template of %s: '%.8s' is none of its %u columns ({0} is the first)", path, at, columns);
    return OK;
}

/* Appends a text of words, each dropped with probability noise / 2 or swapped with the next one with probability
 * noise / 2. One word always stays. */
static void append_noisy(Buffer *out, const char *text, double noise, Loader *l)
{
    size_t words = 1, kept = 0, len = strlen(text);
    for (size_t i = 0; i < len; i++) words += text[i] == ' ';
    ArenaMark mark = arena_mark(&l->text);
    const char **word = arena_new(&l->text, const char *, words), **order = arena_new(&l->text, const char *, words);
    word[0] = text;
    for (size_t i = 0, w = 1; i < len; i++)
        if (text[i] == ' ') word[w++] = text + i + 1;
    for (size_t i = 0; i < words; i++) {
        double u = random_unit(&l->random);
        bool swap = u >= noise / 2 && u < noise && i + 1 < words;
        if (u < noise / 2 && kept + words - i > 1) continue;
        order[kept++] = swap ? word[i + 1] : word[i];
        if (swap) order[kept++] = word[i++];
    }
    for (size_t i = 0; i < kept; i++) {
        if (i) buffer_u8(out, ' ');
        buffer_append(out, order[i], strcspn(order[i], " "));
    }
    arena_rollback(&l->text, mark);
}

static void append_template(Buffer *out, const char *template, const Record *r, double noise, Loader *l)
{
    for (const char *at = template; at && *at;) {
        if (*at == '{') {
            const char *text = r->column[at[1] - '0'];
            if (noise > 0) append_noisy(out, text, noise, l);
            else buffer_append(out, text, strlen(text));
            at += 3;
        } else if (at[0] == '\\' && at[1] == 'n') {
            buffer_u8(out, '\n');
            at += 2;
        } else buffer_u8(out, (uint8_t)*at++);
    }
}

/* Leaves out records that make the text of an earlier one: a sentence with ten translations is not ten sentences. */
static void records_unique(Records *r, Loader *l, const DataSource *s)
{
    TextTable seen;
    Buffer text = {0};
    size_t kept = 0;
    table_init(&seen, &l->text);
    for (size_t i = 0; i < r->count; i++) {
        text.len = 0;
        append_template(&text, s->prompt, &r->record[i], 0, l);
        buffer_u8(&text, 0);
        append_template(&text, s->completion, &r->record[i], 0, l);
        if (table_add(&seen, (char *)text.data, text.len) == kept) r->record[kept++] = r->record[i];
    }
    r->count = kept;
    buffer_free(&text);
}

// ---- samples ---------------------------------------------------------------------------------------------------------

static void sample_add(Loader *l, const Sample *s)
{
    DataSet *out = l->out;
    if (out->count == l->cap) {
        Sample *old = out->sample;
        l->cap = l->cap ? l->cap * 2 : 4096;
        out->sample = arena_new(l->arena, Sample, l->cap);
        if (old) memcpy(out->sample, old, out->count * sizeof *old);
    }
    out->sample[out->count++] = *s;
    out->tokens += s->len;
}

/* BOS, tokens [from, to), EOS if they are the last; tokens from `learn` on are targets. */
static void sample_make(Loader *l, const int32_t *ids, size_t from, size_t to, size_t learn, bool last)
{
    uint32_t len = (uint32_t)(to - from) + 1 + last;
    Sample s = {arena_new(l->arena, int32_t, len), arena_new(l->arena, uint8_t, len), len};
    s.tokens[0] = tokenizer_bos(l->tokenizer);
    memcpy(s.tokens + 1, ids + from, (to - from) * sizeof *ids);
    if (last) s.tokens[len - 1] = tokenizer_eos(l->tokenizer);
    for (uint32_t i = 1; i < len; i++) s.learn[i] = from + i - 1 >= learn;
    sample_add(l, &s);
}

/* Adds the samples of one record: a text is cut into pieces of the context's length, a prompt with its completion is
 * left out if it is too long. */
static Result samples_add(Loader *l, const DataSource *s, const Record *r, Buffer *text)
{
    int32_t *ids = NULL, *prompt = NULL;
    size_t count = 0, prompt_count = 0, learn = 0, prompt_len = 0;
    ArenaMark mark = arena_mark(&l->text);
    text->len = 0;
    append_template(text, s->prompt, r, s->noise, l);
    prompt_len = text->len;
    append_template(text, s->completion, r, 0, l);
    GUARD(tokenizer_encode(l->tokenizer, (char *)text->data, text->len, &ids, &count, &l->text));
    if (prompt_len) GUARD(tokenizer_encode(l->tokenizer, (char *)text->data, prompt_len, &prompt, &prompt_count, &l->text));
    while (learn < prompt_count && learn < count && ids[learn] == prompt[learn]) learn++;
    bool cut = !prompt_len && strcmp(s->kind, "pairs") != 0;
    if (count + 2 <= l->context) sample_make(l, ids, 0, count, learn, true);
    else if (cut)
        for (size_t from = 0, room = l->context - 2; from < count; from += room)
            sample_make(l, ids, from, from + room < count ? from + room : count, learn, from + room >= count);
    arena_rollback(&l->text, mark);
    return OK;
}

/* Fills order with the records of one pass over `weight` of them: each as often as the weight's whole part says, and
 * a random choice for the rest. */
static size_t *order_draw(size_t *length, size_t count, double weight, Loader *l)
{
    size_t whole = (size_t)weight, rest = (size_t)((weight - (double)whole) * (double)count + 0.5);
    size_t *order = arena_new(&l->text, size_t, (whole + 1) * count);
    for (size_t i = 0; i < (whole + 1) * count; i++) order[i] = i % count;
    size_t *tail = order + whole * count;
    for (size_t i = 0; i < rest; i++) {
        size_t j = i + random_below(&l->random, count - i), t = tail[i];
        tail[i] = tail[j], tail[j] = t;
    }
    *length = whole * count + rest;
    return order;
}

static Result source_load(Loader *l, const DataSource *s)
{
    Records r;
    Buffer text = {0};
    if (!s->kind || !s->path || !s->completion) return fail(FAIL_DATA, "a source needs a kind, a path and a completion");
    if (!(s->weight > 0 && s->weight <= WEIGHT_LIMIT)) return fail(FAIL_DATA, "%s: weight %g is not above 0 and at most %g", s->path, s->weight, WEIGHT_LIMIT);
    if (!(s->noise >= 0 && s->noise <= 1)) return fail(FAIL_DATA, "%s: noise %g is not in 0..1", s->path, s->noise);
    GUARD(records_read(&r, l, s));
    GUARD(template_check(s->prompt, r.columns, s->path));
    GUARD(template_check(s->completion, r.columns, s->path));
    records_unique(&r, l, s);
    if (!r.count) return OK;
    bool fixed = !l->plain && (s->noise == 0 || !s->prompt);          // the same tokens each time: made once
    size_t length = 0, *order = order_draw(&length, r.count, s->weight, l);
    size_t *first = arena_new(&l->text, size_t, r.count), *after = arena_new(&l->text, size_t, r.count);
    for (size_t i = 0; i < length; i++) {
        size_t at = order[i];
        if (fixed && after[at]) {
            for (size_t k = first[at]; k < after[at]; k++) sample_add(l, &l->out->sample[k]);
            continue;
        }
        if (l->plain) {
            append_template(l->plain, s->completion, &r.record[at], 0, l);
            buffer_u8(l->plain, '\n');
            continue;
        }
        first[at] = l->out->count;
        Result made = samples_add(l, s, &r.record[at], &text);
        if (failed(made)) {
            buffer_free(&text);
            return fail_in(made, "%s", s->path);
        }
        after[at] = l->out->count;
    }
    buffer_free(&text);
    return OK;
}

static Result sources_load(Loader *l, const DataSource *sources, size_t count, uint64_t seed, uint64_t epoch)
{
    Result r = OK;
    for (size_t i = 0; i < count && !failed(r); i++) {
        if (l->plain && sources[i].prompt) continue;
        arena_init(&l->text, false);
        l->random = random_from(seed, epoch, i);
        r = source_load(l, &sources[i]);
        arena_free(&l->text);
    }
    return r;
}

Result data_text(Buffer *out, const DataSource *sources, size_t count, uint64_t seed)
{
    Loader l = {.plain = out, .part = PART_TRAIN};
    return sources_load(&l, sources, count, seed, 0);
}

Result data_load(DataSet *out, const DataSource *sources, size_t count, DataPart part, const Tokenizer *t, uint32_t context, uint64_t seed, uint64_t epoch, Arena *a)
{
    Loader l = {.out = out, .tokenizer = t, .context = context, .part = part, .arena = a};
    *out = (DataSet){0};
    ASSERT(context >= 3);                      // BOS, a token, EOS
    GUARD(sources_load(&l, sources, count, seed, epoch));
    uint64_t random = random_from(seed, epoch, UINT64_MAX);
    for (size_t i = out->count; i > 1; i--) {
        size_t j = random_below(&random, i);
        Sample last = out->sample[i - 1];
        out->sample[i - 1] = out->sample[j], out->sample[j] = last;
    }
    return OK;
}
