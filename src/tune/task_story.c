/* task_story.c - instructions over stories: a passage, and what is true of it.
 *
 * Passages are runs of whole sentences of one story; stories go to the parts by the hash that sources of kind "stories" use, so
 * a base trained on those has not seen what is tested here. Words and names are counted over the training stories alone. */
#include "tune/task_story.h"
#include "tune/data_split.h"
#include "tune/task.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SENTENCES_LEAST = 3, SENTENCES_MOST = 6, WORDS_MOST = 90,
    COMMON_WORDS = 150, SEEN_LEAST = 8,        // a word to ask for is rarer than so many others, and not rare
    PROMPTS_TRAIN = 2, PROMPTS_SCORED = 4,     // of a passage, each with other constraints
    ASKED_WORDS = 3, ASKED_FEATURES = 2, WORD_LIMIT = 32, PASSAGE_LIMIT = 1024
};
#define STORY_END "<|endoftext|>"
#define OPENING "Once upon a time"

// ---- sentences and words ---------------------------------------------------------------------------------------------

static bool is_letter(char c)
{
    return isalpha((unsigned char)c) != 0;
}

static bool is_title_before(const char *text, const char *stop)
{
    static const char *const titles[] = {"Mr", "Mrs", "Ms", "Dr"};
    for (size_t i = 0; i < sizeof titles / sizeof *titles; i++) {
        size_t len = strlen(titles[i]);
        bool fits = (size_t)(stop - text) >= len && !memcmp(stop - len, titles[i], len);
        if (fits && (stop - len == text || !is_letter(*(stop - len - 1)))) return true;
    }
    return false;
}

/* A mark ends a sentence where the text ends or a capital, a digit or a quote begins the next: not in '"Hi!" he said'. */
size_t sentence_length(const char *text)
{
    for (const char *at = text; *at; at++) {
        if (!strchr(".!?", *at) || (*at == '.' && is_title_before(text, at))) continue;
        const char *end = at + 1;
        while (*end && strchr(".!?\"')", *end)) end++;
        const char *next = end + strspn(end, " \t\r\n");
        bool begins = isupper((unsigned char)*next) || isdigit((unsigned char)*next) || *next == '"';
        if (!*next || (next > end && begins)) return (size_t)(end - text);
    }
    return strlen(text);
}

size_t story_sentences(const char *text)
{
    size_t count = 0;
    for (const char *at = text + strspn(text, " \t\r\n"); *at; count++) {
        at += sentence_length(at);
        at += strspn(at, " \t\r\n");
    }
    return count;
}

/* The next run of letters at or after *at, which may be the half of a contraction; NULL at the end. */
static const char *word_next(const char **at, size_t *len)
{
    const char *from = *at;
    while (*from && !is_letter(*from)) from++;
    for (*len = 0; is_letter(from[*len]);) ++*len;
    *at = from + *len;
    return *len ? from : NULL;
}

static bool is_contracted(const char *word, size_t len)              // "wasn" of "wasn't"
{
    return word[len] == '\'' && is_letter(word[len + 1]);
}

static size_t words_count(const char *text)
{
    size_t count = 0;
    for (size_t i = 0; text[i]; i++) count += text[i] != ' ' && (i == 0 || text[i - 1] == ' ');
    return count;
}

static bool letters_equal(const char *x, const char *y, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (tolower((unsigned char)x[i]) != tolower((unsigned char)y[i])) return false;
    return true;
}

static bool has_word(const char *text, const char *word)
{
    size_t len, want = strlen(word);
    for (const char *at = text, *found; (found = word_next(&at, &len));)
        if (len == want && letters_equal(found, word, len)) return true;
    return false;
}

static size_t quotes_count(const char *text)
{
    size_t count = 0;
    for (const char *at = text; *at; at++) count += *at == '"' || !strncmp(at, "\xE2\x80\x9C", 3) || !strncmp(at, "\xE2\x80\x9D", 3);
    return count;
}

// ---- constraints -----------------------------------------------------------------------------------------------------

/* What follows the kind and a space; NULL if the constraint is of another kind. */
static const char *constraint_value(const char *constraint, const char *kind)
{
    size_t len = strlen(kind);
    return !strncmp(constraint, kind, len) && constraint[len] == ' ' && constraint[len + 1] ? constraint + len + 1 : NULL;
}

Result constraint_check(const char *c)
{
    const char *number = constraint_value(c, "sentences");
    bool known = constraint_value(c, "word") || constraint_value(c, "name") || constraint_value(c, "start") || !strcmp(c, "dialogue") ||
                 !strcmp(c, "no dialogue") || (number && number[strspn(number, "0123456789")] == 0);
    return known ? OK : fail(FAIL_DATA, "'%s' is no constraint", c);
}

bool constraint_met(const char *c, const char *reply)
{
    const char *value;
    reply += strspn(reply, " \t\r\n");
    if (!*reply) return false;
    if ((value = constraint_value(c, "word")) || (value = constraint_value(c, "name"))) return has_word(reply, value);
    if ((value = constraint_value(c, "start"))) return strlen(reply) >= strlen(value) && letters_equal(reply, value, strlen(value));
    if ((value = constraint_value(c, "sentences"))) return story_sentences(reply) == strtoull(value, NULL, 10);
    return (quotes_count(reply) >= 2) == !strcmp(c, "dialogue");
}

// ---- the corpus ------------------------------------------------------------------------------------------------------

typedef struct WordCount { uint32_t lower, inner, all; } WordCount;   // in small letters, with a capital inside a sentence, in all

typedef struct Corpus {
    TaskMaker *m;
    char **story;                              // (stories) ASCII on one line
    uint8_t *part;
    size_t stories;
    TextTable words;                           // in small letters
    WordCount *count;                          // (words.count)
    uint8_t *content;                          // (words.count) whether one may ask for it
    TextTable used;                            // passages and prompts so far: none comes twice
} Corpus;

/* One line of plain ASCII: typographic quotes made straight, white space single. NULL if other characters are left. */
static char *story_clean(const char *text, size_t len, Arena *a)
{
    static const char *const typographic[][2] = {
        {"\xE2\x80\x9C", "\""}, {"\xE2\x80\x9D", "\""}, {"\xE2\x80\x99", "'"}, {"\xE2\x80\x98", "'"},
    };
    char *out = arena_alloc(a, len + 1, 1);
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        char c = text[i];
        size_t step = 1;
        for (size_t k = 0; k < 4 && step == 1; k++)
            if (len - i >= 3 && !memcmp(text + i, typographic[k][0], 3)) c = *typographic[k][1], step = 3;
        if ((unsigned char)c >= 0x80 || c == '\\') return NULL;
        if (isspace((unsigned char)c)) c = ' ';
        if (c != ' ' || (n && out[n - 1] != ' ')) out[n++] = c;
        i += step;
    }
    return out;
}

static Result stories_read(Corpus *c)
{
    Arena *a = &c->m->arena;
    char *text = NULL;
    size_t len = 0, most = 1;
    GUARD(text_read(&text, &len, arena_format(a, "%s/text/tinystories_sample_2MiB.txt", c->m->data), a));
    for (const char *at = text; (at = strstr(at, STORY_END)); at++) most++;
    c->story = arena_new(a, char *, most), c->part = arena_new(a, uint8_t, most);
    for (const char *at = text, *stop; (stop = strstr(at, STORY_END)); at = stop + strlen(STORY_END)) {
        const char *story = at;
        size_t size = text_trim(&story, (size_t)(stop - at));
        if (!size || !(c->story[c->stories] = story_clean(story, size, a))) continue;
        c->part[c->stories++] = (uint8_t)text_part(story, size);
    }
    return OK;
}

static void word_lower(char out[WORD_LIMIT], const char *word, size_t len)
{
    for (size_t i = 0; i < len; i++) out[i] = (char)tolower((unsigned char)word[i]);
    out[len] = 0;
}

/* Counts the words of one text whose sentences are whole. */
static void words_note(Corpus *c, const char *text, bool first_pass)
{
    for (const char *sentence = text; *sentence;) {
        size_t size = sentence_length(sentence), len;
        bool inside = false;
        for (const char *at = sentence, *word; (word = word_next(&at, &len)) && word < sentence + size; inside = true) {
            char lower[WORD_LIMIT];
            if (len >= WORD_LIMIT || is_contracted(word, len)) continue;
            word_lower(lower, word, len);
            uint32_t id = table_add(&c->words, lower, len);
            if (first_pass) continue;
            bool quoted = word > sentence && word[-1] == '"';
            c->count[id].all++;
            c->count[id].lower += islower((unsigned char)*word) != 0;
            c->count[id].inner += inside && !quoted && isupper((unsigned char)*word);
        }
        sentence += size;
        sentence += strspn(sentence, " ");
    }
}

static int count_compare(const void *a, const void *b)                // descending
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

static void words_count_all(Corpus *c)
{
    Arena *a = &c->m->arena;
    table_init(&c->words, a);
    for (unsigned pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < c->stories; i++)
            if (c->part[i] == PART_TRAIN) words_note(c, c->story[i], pass == 0);
        if (pass == 0) c->count = arena_new(a, WordCount, c->words.count + 1);
    }
    uint32_t *order = arena_new(a, uint32_t, c->words.count + COMMON_WORDS);
    for (uint32_t i = 0; i < c->words.count; i++) order[i] = c->count[i].all;
    qsort(order, c->words.count, sizeof *order, count_compare);
    c->content = arena_new(a, uint8_t, c->words.count + 1);
    for (uint32_t i = 0; i < c->words.count; i++)
        c->content[i] = c->words.len[i] >= 3 && c->count[i].all >= SEEN_LEAST && c->count[i].all < order[COMMON_WORDS - 1] &&
                        2 * c->count[i].lower > c->count[i].all;
}

/* A word that is hardly ever written small and stands inside sentences with a capital. */
static bool is_name(const Corpus *c, uint32_t id)
{
    return c->words.len[id] >= 3 && c->count[id].inner >= SEEN_LEAST && 20 * c->count[id].lower < c->count[id].all;
}

// ---- prompts ---------------------------------------------------------------------------------------------------------

typedef struct Asked { char text[ASKED_WORDS + ASKED_FEATURES][WORD_LIMIT + 16]; size_t count; } Asked;

/* Up to ASKED_WORDS content words of the passage in an order of chance, and the name that it has most often, or "". */
static size_t words_choose(const Corpus *c, const char *passage, char name[WORD_LIMIT], char words[ASKED_WORDS][WORD_LIMIT])
{
    uint32_t found[WORDS_MOST * 2], times[WORDS_MOST * 2], best = 0;
    size_t founds = 0, len, count = 0;
    name[0] = 0;
    for (const char *at = passage, *word; (word = word_next(&at, &len)) && founds < WORDS_MOST * 2;) {
        char lower[WORD_LIMIT];
        size_t i = 0;
        if (len >= WORD_LIMIT || is_contracted(word, len)) continue;
        word_lower(lower, word, len);
        uint32_t id = table_find(&c->words, lower, len);
        if (id == TABLE_NONE) continue;
        while (i < founds && found[i] != id) i++;
        if (i == founds) found[founds] = id, times[founds++] = 0;
        if (++times[i] > best && is_name(c, id)) best = times[i], snprintf(name, WORD_LIMIT, "%.*s", (int)len, word);
    }
    for (size_t left = founds; left && count < ASKED_WORDS;) {
        size_t i = random_index(&c->m->random, left);
        uint32_t id = found[i];
        found[i] = found[--left];
        if (c->content[id]) snprintf(words[count++], WORD_LIMIT, "%s", c->words.text[id]);
    }
    return count;
}

/* Adds a feature that is true of the passage; its sentence goes to the prompt. */
static void feature_ask(Asked *asked, Buffer *prompt, unsigned kind, const char *passage, const char *name)
{
    char *out = asked->text[asked->count];
    size_t size = sizeof asked->text[0];
    bool dialogue = quotes_count(passage) >= 2;
    if (kind == 0) {
        snprintf(out, size, "%s", dialogue ? "dialogue" : "no dialogue");
        buffer_format(prompt, " It has %s.", dialogue ? "a dialogue" : "no dialogue");
    } else if (kind == 1 && *name) {
        snprintf(out, size, "name %s", name);
        buffer_format(prompt, " It is about %s.", name);
    } else if (kind == 2 && !strncmp(passage, OPENING, strlen(OPENING))) {
        snprintf(out, size, "start " OPENING);
        buffer_format(prompt, " It starts with \"" OPENING "\".");
    } else if (kind == 3) {
        snprintf(out, size, "sentences %zu", story_sentences(passage));
        buffer_format(prompt, " It has %zu sentences.", story_sentences(passage));
    } else return;
    asked->count++;
}

/* False where the passage has no word to ask for. */
static bool prompt_make(Buffer *prompt, Asked *asked, const Corpus *c, const char *passage)
{
    char name[WORD_LIMIT], words[ASKED_WORDS][WORD_LIMIT];
    size_t count = words_choose(c, passage, name, words), want = 1 + random_index(&c->m->random, ASKED_WORDS);
    if (!count) return false;
    if (count > want) count = want;
    *asked = (Asked){0}, prompt->len = 0;
    buffer_format(prompt, "Write a story with the word%s", count > 1 ? "s" : "");
    for (size_t i = 0; i < count; i++) {
        buffer_format(prompt, "%s %s", i ? "," : "", words[i]);
        snprintf(asked->text[asked->count++], sizeof asked->text[0], "word %s", words[i]);
    }
    buffer_format(prompt, ".");
    size_t features = random_index(&c->m->random, ASKED_FEATURES + 1), first = random_index(&c->m->random, 4);
    for (unsigned i = 0; i < 4 && asked->count < count + features; i++)
        feature_ask(asked, prompt, (unsigned)(first + i) % 4, passage, name);
    buffer_format(prompt, "\n");
    buffer_u8(prompt, 0);
    return true;
}

static void passage_ask(Corpus *c, DataPart part, const char *passage)
{
    Buffer prompt = {0};
    for (unsigned i = 0; i < (part == PART_TRAIN ? PROMPTS_TRAIN : PROMPTS_SCORED); i++) {
        Asked asked;
        if (!prompt_make(&prompt, &asked, c, passage)) break;
        uint32_t prompts = c->used.count, len = (uint32_t)strlen((char *)prompt.data);
        if (table_add(&c->used, (char *)prompt.data, len) != prompts) continue;
        Json *line = task_object("chat", (char *)prompt.data, passage), *list = json_new_array();
        for (size_t k = 0; k < asked.count; k++) json_add(list, json_of_text(asked.text[k]));
        json_put(line, "constraints", list);
        task_line(c->m, part, line);
    }
    buffer_free(&prompt);
}

// ---- passages --------------------------------------------------------------------------------------------------------

/* Cuts a passage of `want` sentences or fewer off *at. NULL where what comes next is none: it is passed over. */
static char *passage_cut(const char **at, size_t want, Arena *a)
{
    const char *end = *at, *sentence = *at;
    size_t sentences = 0, words = 0;
    while (*sentence && sentences < want) {
        size_t size = sentence_length(sentence);
        char *text = arena_format(a, "%.*s", (int)size, sentence);
        words += words_count(text);
        if (words > WORDS_MOST) break;
        end = sentence + size, sentences++;
        sentence = end + strspn(end, " ");
    }
    size_t len = (size_t)(end - *at);
    char *passage = arena_format(a, "%.*s", (int)len, *at);
    if (!sentences) end += sentence_length(end);
    *at = end + strspn(end, " ");
    bool whole = sentences >= SENTENCES_LEAST && len < PASSAGE_LIMIT && quotes_count(passage) % 2 == 0 && strchr(".!?\"", passage[len - 1]);
    return whole ? passage : NULL;
}

/* Formulas stand in many stories: a passage of a held-out story is never one of training, whoever comes first. */
static void stories_pass(Corpus *c, bool training)
{
    for (size_t i = 0; i < c->stories; i++) {
        if ((c->part[i] == PART_TRAIN) != training) continue;
        for (const char *at = c->story[i]; *at;) {
            size_t want = SENTENCES_LEAST + random_index(&c->m->random, SENTENCES_MOST - SENTENCES_LEAST + 1);
            const char *passage = passage_cut(&at, want, &c->m->arena);
            uint32_t before = c->used.count;
            if (!passage || table_add(&c->used, passage, strlen(passage)) != before) continue;
            passage_ask(c, (DataPart)c->part[i], passage);
            if (training) task_base(c->m, passage);
        }
    }
}

Result task_make_chat(TaskMaker *m)
{
    Corpus c = {.m = m};
    GUARD(stories_read(&c));
    words_count_all(&c);
    table_init(&c.used, &m->arena);
    stories_pass(&c, false);
    stories_pass(&c, true);
    return OK;
}
