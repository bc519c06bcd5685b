/* data.c - sources to shuffled samples.
 *
 * A source is read into records, each a few columns of text or the turns of a conversation. Records of other parts and
 * held-out ones fall away, equal ones count once, templates make a prompt and a completion of each, and both are tokenised as
 * one text: what follows a newline has no dummy prefix, in training as in use. A turn after the first is a text of its own. Everything is drawn from (seed, epoch, number of the source), so an
 * epoch can be made again, on another machine too, without anything kept from the last one. */
#include "base/random.h"
#include "tune/data.h"
#include "tune/data_json.h"
#include "tune/data_split.h"

#include <string.h>

enum { COLUMNS = 2 };
#define STORY_END "<|endoftext|>"
#define WEIGHT_LIMIT 1000.0

// Columns for templates, or else turns that are made already.
typedef struct Record { const char *column[COLUMNS]; const Turn *turn; uint32_t turns; } Record;
typedef struct Records {
    Record *record;
    size_t count;
    unsigned columns;                          // 0: turns
    bool whole;                                // text without a prompt, which may be cut
    bool begin;                                // BOS before every turn
    const char *form;                          // of turns: the prompt with {} for what a user says; NULL: there is none
} Records;

typedef struct Loader {
    DataSet *out;
    size_t cap;
    const Tokenizer *tokenizer;
    uint32_t context;
    DataPart part;                             // PART_ALL where the source at hand is the part as a whole
    uint64_t random;                           // state of the generator
    Buffer *plain;                             // data_text: where the text goes instead of to the tokenizer
    Arena *arena;                              // samples
    Arena text;                                // files and records of the source at hand
} Loader;

/* The generator's state for a source, or for the order of all. */
static uint64_t random_from(uint64_t seed, uint64_t epoch, uint64_t source)
{
    uint64_t state = seed;
    state = random_draw(&state) ^ epoch;
    state = random_draw(&state) ^ source;
    return random_draw(&state);
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
    *r = (Records){arena_new(&l->text, Record, most), .columns = 1, .whole = !s->prompt};
    for (const char *at = text; at < end;) {
        const char *stop = strstr(at, mark);
        if (!stop && stories) break;                                  // cut in the middle
        if (!stop) stop = end;
        record_add(r, l, s->held_out ? &held_out : NULL, at, (size_t)(stop - at));
        at = stop + strlen(mark);
    }
    return OK;
}

static Result records_read_stories(Records *r, Loader *l, const DataSource *s) { return records_read_text(r, l, s, true); }
static Result records_read_lines(Records *r, Loader *l, const DataSource *s) { return records_read_text(r, l, s, false); }

static Result records_read_pairs(Records *r, Loader *l, const DataSource *s)
{
    PairFile f;
    GUARD(pair_file_read(&f, s->path, &l->text));
    *r = (Records){arena_new(&l->text, Record, f.count), .columns = 2};
    for (uint32_t i = 0; i < f.count; i++) {
        if (l->part != PART_ALL && f.part[f.pair[i][0]] != l->part) continue;
        for (unsigned c = 0; c < 2; c++) r->record[r->count].column[c] = f.sentence.text[f.pair[i][c]];
        r->count++;
    }
    return OK;
}

static Result records_read_tsv(Records *r, Loader *l, const DataSource *s)
{
    char *text = NULL;
    size_t len = 0, lines = 1, number = 0;
    GUARD(text_read(&text, &len, s->path, &l->text));
    for (size_t i = 0; i < len; i++) lines += text[i] == '\n';
    *r = (Records){arena_new(&l->text, Record, lines), .columns = 2};
    PairLine line;
    bool more = true;
    for (const char *at = text;;) {
        Result next = pair_next(&line, &more, &number, &at, text + len);
        if (failed(next)) return fail_in(next, "%s", s->path);
        if (!more) return OK;
        if (l->part != PART_ALL && text_part(line.column[0], line.len[0]) != l->part) continue;
        for (unsigned c = 0; c < 2; c++)
            r->record[r->count].column[c] = arena_format(&l->text, "%.*s", (int)line.len[c], line.column[c]);
        r->count++;
    }
}

static Result records_read_json(Records *r, Loader *l, const DataSource *s)
{
    const ChatTemplate *form = chat_template(s->template ? s->template : "plain");
    char *text = NULL;
    size_t len = 0;
    JsonRecords all;
    GUARD(text_read(&text, &len, s->path, &l->text));
    Result parsed = json_records_parse(&all, text, len, form, &l->text);
    if (failed(parsed)) return fail_in(parsed, "%s", s->path);
    *r = (Records){arena_new(&l->text, Record, all.count), .whole = all.form == FORM_TEXT};
    r->begin = form->begin;
    if (all.form == FORM_COMPLETION) r->form = "{}";
    else if (!r->whole) r->form = chat_form(form, &l->text);
    for (size_t i = 0; i < all.count; i++) {
        const JsonRecord *j = &all.record[i];
        if (l->part == PART_ALL || j->part == l->part) r->record[r->count++] = (Record){.turn = j->turn, .turns = j->turns};
    }
    return OK;
}

static const struct {
    const char *name;
    Result (*read)(Records *r, Loader *l, const DataSource *s);
} kinds[] = {
    {"stories", records_read_stories}, {"lines", records_read_lines}, {"pairs", records_read_pairs},
    {"tsv", records_read_tsv}, {"jsonl", records_read_json},
};

static size_t kind_find(const char *name)      // past the last one: unknown
{
    size_t k = 0;
    while (k < sizeof kinds / sizeof *kinds && strcmp(kinds[k].name, name)) k++;
    return k;
}

static const char *const part_names[] = {"train", "valid", "test"};

static DataPart part_find(const char *name)    // PART_ALL: unknown
{
    DataPart p = PART_TRAIN;
    while (p < PART_ALL && strcmp(part_names[p], name)) p++;
    return p;
}

Result data_check(const DataSource *s)
{
    if (!s->kind || !s->path) return fail(FAIL_DATA, "a source needs a kind and a path");
    if (kind_find(s->kind) == sizeof kinds / sizeof *kinds)
        return fail(FAIL_DATA, "kind must be stories, lines, pairs, tsv or jsonl, not '%s'", s->kind);
    bool json = !strcmp(s->kind, "jsonl"), text = !strcmp(s->kind, "stories") || !strcmp(s->kind, "lines");
    if (!json && !s->completion) return fail(FAIL_DATA, "%s: a source of %s needs a completion", s->path, s->kind);
    if (json && (s->prompt || s->completion || s->noise != 0))
        return fail(FAIL_DATA, "%s: records of jsonl say themselves what is prompt and completion: no such field, and no noise", s->path);
    if (s->template && !json) return fail(FAIL_DATA, "%s: template is for jsonl alone", s->path);
    if (s->template && !chat_template(s->template))
        return fail(FAIL_DATA, "%s: template must be plain, chatml, llama2 or alpaca, not '%s'", s->path, s->template);
    if (s->part && part_find(s->part) == PART_ALL) return fail(FAIL_DATA, "%s: part must be train, valid or test, not '%s'", s->path, s->part);
    if (s->held_out && !text) return fail(FAIL_DATA, "%s: held_out is for stories and lines alone", s->path);
    if (!(s->weight > 0 && s->weight <= WEIGHT_LIMIT)) return fail(FAIL_DATA, "%s: weight %g is not above 0 and at most %g", s->path, s->weight, WEIGHT_LIMIT);
    if (!(s->noise >= 0 && s->noise <= 1)) return fail(FAIL_DATA, "%s: noise %g is not in 0..1", s->path, s->noise);
    return OK;
}

/* The records of the wanted part. A file that is another part as a whole has none, and is not opened. */
static Result records_read(Records *r, Loader *l, const DataSource *s)
{
    DataPart wanted = l->part;
    *r = (Records){0};
    if (s->part && wanted != PART_ALL && part_find(s->part) != wanted) return OK;
    if (s->part) l->part = PART_ALL;
    Result read = kinds[kind_find(s->kind)].read(r, l, s);
    l->part = wanted;
    return read;
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

static uint32_t record_turns(const Record *r)
{
    return r->turn ? r->turns : 1;
}

/* The text of turn i of a record; returns how much of it is the prompt. */
static size_t turn_text(Buffer *out, const DataSource *s, const Record *r, uint32_t i, double noise, Loader *l)
{
    out->len = 0;
    if (r->turn) buffer_append(out, r->turn[i].prompt, strlen(r->turn[i].prompt));
    else append_template(out, s->prompt, r, noise, l);
    size_t prompt = out->len;
    if (r->turn) buffer_append(out, r->turn[i].completion, strlen(r->turn[i].completion));
    else append_template(out, s->completion, r, 0, l);
    return prompt;
}

/* Leaves out records that make the text of an earlier one: a sentence with ten translations is not ten sentences. */
static void records_unique(Records *r, Loader *l, const DataSource *s)
{
    TextTable seen;
    Buffer text = {0}, all = {0};
    size_t kept = 0;
    table_init(&seen, &l->text);
    for (size_t i = 0; i < r->count; i++) {
        all.len = 0;
        for (uint32_t t = 0; t < record_turns(&r->record[i]); t++) {
            size_t prompt = turn_text(&text, s, &r->record[i], t, 0, l);
            buffer_append(&all, text.data, text.len);
            buffer_u64(&all, prompt);
            buffer_u64(&all, text.len);
            buffer_u8(&all, !r->record[i].turn || r->record[i].turn[t].learned);
        }
        if (table_add(&seen, (char *)all.data, all.len) == kept) r->record[kept++] = r->record[i];
    }
    r->count = kept;
    buffer_free(&text);
    buffer_free(&all);
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

// A turn as tokens; those from `learn` on are targets, and so is the EOS after it.
typedef struct TurnIds { int32_t *ids; size_t count, learn; bool learned; } TurnIds;

static Result turn_encode(TurnIds *out, Loader *l, const DataSource *s, const Record *r, uint32_t i, Buffer *text)
{
    int32_t *prompt = NULL;
    size_t prompt_count = 0, prompt_len = turn_text(text, s, r, i, s->noise, l);
    *out = (TurnIds){.learned = !r->turn || r->turn[i].learned};
    GUARD(tokenizer_encode(l->tokenizer, (char *)text->data, text->len, &out->ids, &out->count, &l->text));
    if (prompt_len) GUARD(tokenizer_encode(l->tokenizer, (char *)text->data, prompt_len, &prompt, &prompt_count, &l->text));
    while (out->learn < prompt_count && out->learn < out->count && out->ids[out->learn] == prompt[out->learn]) out->learn++;
    return OK;
}

/* One sample: BOS, and each turn with EOS behind it; `begin`: BOS before each turn. */
static void turns_add(Loader *l, const TurnIds *turn, uint32_t turns, uint32_t len, bool begin)
{
    Sample s = {arena_new(l->arena, int32_t, len), arena_new(l->arena, uint8_t, len), len};
    uint32_t at = 0;
    for (const TurnIds *t = turn; t < turn + turns; t++) {
        if (t == turn || begin) s.tokens[at++] = tokenizer_bos(l->tokenizer);
        memcpy(s.tokens + at, t->ids, t->count * sizeof *t->ids);
        s.tokens[at + t->count] = tokenizer_eos(l->tokenizer);
        for (size_t i = t->learn; i <= t->count; i++) s.learn[at + i] = t->learned;
        at += (uint32_t)t->count + 1;
    }
    sample_add(l, &s);
}

/* A text in pieces of the context's length: BOS before each, EOS after the last. */
static void pieces_add(Loader *l, const TurnIds *t)
{
    for (size_t from = 0, room = l->context - 2; from < t->count; from += room) {
        bool last = from + room >= t->count;
        size_t count = last ? t->count - from : room;
        uint32_t len = (uint32_t)count + 1 + last;
        Sample s = {arena_new(l->arena, int32_t, len), arena_new(l->arena, uint8_t, len), len};
        s.tokens[0] = tokenizer_bos(l->tokenizer);
        memcpy(s.tokens + 1, t->ids + from, count * sizeof *t->ids);
        if (last) s.tokens[len - 1] = tokenizer_eos(l->tokenizer);
        memset(s.learn + 1, 1, len - 1);
        sample_add(l, &s);
    }
}

/* Adds the samples of one record: a text is cut into pieces of the context's length, prompts with their completions are
 * left out if they are too long. */
static Result samples_add(Loader *l, const DataSource *s, const Records *all, const Record *r, Buffer *text)
{
    ArenaMark mark = arena_mark(&l->text);
    uint32_t turns = record_turns(r);
    size_t len = 1;
    TurnIds *turn = arena_new(&l->text, TurnIds, turns);
    for (uint32_t i = 0; i < turns; i++) {
        GUARD(turn_encode(&turn[i], l, s, r, i, text));
        len += turn[i].count + 1 + (i && all->begin);
    }
    if (len <= l->context) turns_add(l, turn, turns, (uint32_t)len, all->begin);
    else if (all->whole) pieces_add(l, turn);
    else l->out->too_long++;
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
        size_t j = i + random_index(&l->random, count - i), t = tail[i];
        tail[i] = tail[j], tail[j] = t;
    }
    *length = whole * count + rest;
    return order;
}

static Result source_load(Loader *l, const DataSource *s)
{
    Records r;
    Buffer text = {0};
    GUARD(data_check(s));
    GUARD(records_read(&r, l, s));
    if (!r.count) return OK;
    GUARD(template_check(s->prompt, r.columns, s->path));
    GUARD(template_check(s->completion, r.columns, s->path));
    records_unique(&r, l, s);
    if (l->plain && !r.whole && !r.columns) return OK;        // records with prompts of their own
    bool fixed = !l->plain && (s->noise == 0 || !s->prompt);          // the same tokens each time: made once
    size_t length = 0, *order = order_draw(&length, r.count, s->weight, l);
    size_t *first = arena_new(&l->text, size_t, r.count), *after = arena_new(&l->text, size_t, r.count);
    for (size_t i = 0; i < length; i++) {
        size_t at = order[i];
        if (fixed && after[at]) {
            for (size_t k = first[at]; k < after[at]; k++) sample_add(l, &l->out->sample[k]);
            l->out->too_long += first[at] == after[at];
            continue;
        }
        if (l->plain) {
            (void)turn_text(&text, s, &r.record[at], 0, 0, l);
            buffer_append(l->plain, text.data, text.len);
            buffer_u8(l->plain, '\n');
            continue;
        }
        first[at] = l->out->count;
        Result made = samples_add(l, s, &r, &r.record[at], &text);
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

/* A prompt's template with {} for its one column; NULL if it has none or several. */
static const char *prompt_form(const char *template, Loader *l)
{
    Record hole = {.column = {"{}", "{}"}};
    Buffer text = {0};
    append_template(&text, template, &hole, 0, l);
    buffer_u8(&text, 0);
    const char *form = arena_string(l->arena, (const char *)text.data), *at = strstr(form, "{}");
    buffer_free(&text);
    return at && !strstr(at + 1, "{}") ? form : NULL;
}

static Result source_form(const char **form, bool *asks, Loader *l, const DataSource *s)
{
    Records r;
    *form = NULL;
    *asks = s->prompt != NULL;
    GUARD(data_check(s));
    if (s->prompt) {
        GUARD(template_check(s->prompt, COLUMNS, s->path));
        *form = prompt_form(s->prompt, l);
    }
    if (strcmp(s->kind, "jsonl")) return OK;
    GUARD(records_read(&r, l, s));
    *asks = r.form != NULL;
    if (r.form) *form = arena_string(l->arena, r.form);
    return OK;
}

Result data_form(const char **out, const DataSource *sources, size_t count, Arena *a)
{
    bool any = false;
    *out = NULL;
    for (size_t i = 0; i < count; i++) {
        Loader l = {.part = PART_TRAIN, .arena = a};
        const char *form = NULL;
        bool asks = false;
        arena_init(&l.text, false);
        Result r = source_form(&form, &asks, &l, &sources[i]);
        arena_free(&l.text);
        GUARD(r);
        if (!asks) continue;
        if (any && (!form || !*out || strcmp(form, *out))) form = NULL;
        *out = form;
        any = true;
        if (!form) return OK;
    }
    return OK;
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
        size_t j = random_index(&random, i);
        Sample last = out->sample[i - 1];
        out->sample[i - 1] = out->sample[j], out->sample[j] = last;
    }
    return OK;
}
