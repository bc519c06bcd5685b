/* bpe_train.c - a byte-pair vocabulary from text, written as sentencepiece writes one.
 *
 * Lines are cut at spaces into words, each with the space before it as "▁", and words into runs of one kind: letters, an
 * apostrophe with the letters after it ("don" "'t"), one digit, or punctuation. Merges stay inside a run, so no piece ever
 * joins letters to a full stop and an encoder that knows the pieces alone cuts as the training did. The first word of a
 * line counts half with and half without "▁": in a text of several lines only the first one has the dummy prefix.
 *
 * Pieces: <unk>, <s>, </s>, the 256 bytes, the merges in the order in which they were made, the characters. The score of
 * a merge is minus its rank, the order in which an encoder has to apply them (Sennrich et al. 2016; Kudo and Richardson
 * 2018). Characters so rare that all of them make less than 0.05 % of the text are left to the bytes. */
#include "base/text_table.h"
#include "model/model.h"

#include <stdio.h>
#include <string.h>

enum { PIECE_NORMAL = 1, PIECE_UNKNOWN = 2, PIECE_CONTROL = 3, PIECE_BYTE = 6 };
enum { SPECIAL_PIECES = 3, BYTE_PIECES = 256, FIRST_MERGE = SPECIAL_PIECES + BYTE_PIECES };
enum { VOCAB_LIMIT = 65536, TEXT_LIMIT = 1 << 28 };
#define RARE_SHARE 0.0005
#define SPACE_MARK "\xE2\x96\x81"
#define NO_SYMBOL UINT32_MAX

typedef enum { KIND_LETTER, KIND_DIGIT, KIND_PUNCTUATION, KIND_SPACE } CharKind;

/* A distinct run with the number of times it occurs, doubled so that halves are whole. */
typedef struct Run { uint32_t *symbol; uint32_t len; uint64_t count; } Run;
typedef struct Pair { uint32_t left, right; uint64_t count; } Pair;

/* Symbols are numbers of `names`: characters first, then what merges make. */
typedef struct Trainer {
    Arena arena;
    TextTable text;                            // distinct runs
    uint64_t *run_count;                       // (run_cap)
    uint32_t run_cap;
    Run *run;                                  // (text.count)
    TextTable names;
    uint32_t characters;                       // kept: the first of names
    uint32_t *merged;                          // (merges) symbols in the order of their making
    uint32_t merges;
    Pair *pair;                                // (pair_slots) hash table with open addressing; count may fall to 0
    uint32_t pair_count, pair_slots;
} Trainer;

// ---- runs ------------------------------------------------------------------------------------------------------------

static size_t char_len(const char *at)
{
    uint8_t c = (uint8_t)*at;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

static CharKind char_kind(const char *at)
{
    uint8_t c = (uint8_t)*at, d = c < 0x80 ? 0 : (uint8_t)at[1];
    if (c == ' ') return KIND_SPACE;
    if (c >= '0' && c <= '9') return KIND_DIGIT;
    if (c < 0x80) return (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? KIND_LETTER : KIND_PUNCTUATION;
    if (c == 0xC2) return KIND_PUNCTUATION;                                    // Latin-1 signs, the no-break space
    if (c == 0xE2 && d >= 0x80 && d <= 0xAF) return KIND_PUNCTUATION;          // U+2000..2BFF: quotes, dashes, symbols
    return KIND_LETTER;
}

static void run_count(Trainer *t, const char *run, size_t len, uint64_t count)
{
    if (!len) return;
    uint32_t at = table_add(&t->text, run, len);
    if (at >= t->run_cap) {
        uint64_t *old = t->run_count;
        uint32_t cap = t->run_cap ? t->run_cap * 2 : 4096;
        t->run_count = arena_new(&t->arena, uint64_t, cap);
        if (old) memcpy(t->run_count, old, t->run_cap * sizeof *old);
        t->run_cap = cap;
    }
    t->run_count[at] += count;
}

/* The length of the run of one kind at `at`, at least one character. */
static size_t run_len(const char *at, const char *end, bool after_letter)
{
    CharKind kind = char_kind(at);
    const char *p = at + char_len(at);
    if (kind == KIND_DIGIT) return (size_t)(p - at);
    if (*at == '\'' && after_letter && p < end && char_kind(p) == KIND_LETTER) kind = KIND_LETTER;
    while (p < end && char_kind(p) == kind) p += char_len(p);
    return (size_t)(p - at);
}

static void line_count(Trainer *t, const char *at, const char *end)
{
    char made[512];
    size_t mark = strlen(SPACE_MARK);
    bool space = true, first = true, letter = false;
    memcpy(made, SPACE_MARK, mark);
    while (at < end) {
        if (*at == ' ') {
            if (space) run_count(t, SPACE_MARK, mark, first ? 1 : 2);
            space = true, first = letter = false, at++;
            continue;
        }
        size_t len = run_len(at, end, letter);
        bool whole = space && char_kind(at) != KIND_DIGIT && len + mark <= sizeof made;
        if (space && !whole) run_count(t, SPACE_MARK, mark, 2);
        if (whole) {
            memcpy(made + mark, at, len);
            run_count(t, made, len + mark, first ? 1 : 2);
        }
        if (!whole || first) run_count(t, at, len, whole ? 1 : 2);
        letter = char_kind(at) == KIND_LETTER || (*at == '\'' && letter && len > 1);
        at += len, space = first = false;
    }
}

static void text_count(Trainer *t, const char *text, size_t len)
{
    for (const char *at = text, *end = text + len; at < end; at++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        line_count(t, at, stop > at && stop[-1] == '\r' ? stop - 1 : stop);
        at = stop;
    }
}

// ---- characters ------------------------------------------------------------------------------------------------------

/* Numbers the characters by falling frequency, equal ones by their bytes, and keeps all but the rare ones. */
static void characters_choose(Trainer *t)
{
    TextTable all;
    table_init(&all, &t->arena);
    uint64_t *count = arena_new(&t->arena, uint64_t, 0x110000), total = 0, covered = 0;
    for (uint32_t r = 0; r < t->text.count; r++)
        for (const char *at = t->text.text[r]; *at; at += char_len(at))
            count[table_add(&all, at, char_len(at))] += t->run_count[r], total += t->run_count[r];
    while (t->names.count < all.count && (double)covered < (double)total * (1 - RARE_SHARE)) {
        uint32_t best = NO_SYMBOL;
        for (uint32_t c = 0; c < all.count; c++)
            if (count[c] && (best == NO_SYMBOL || count[c] > count[best] || (count[c] == count[best] && strcmp(all.text[c], all.text[best]) < 0)))
                best = c;
        table_add(&t->names, all.text[best], all.len[best]);
        covered += count[best], count[best] = 0;
    }
    t->characters = t->names.count;
}

static void runs_spell(Trainer *t)
{
    t->run = arena_new(&t->arena, Run, t->text.count);
    for (uint32_t r = 0; r < t->text.count; r++) {
        Run *run = &t->run[r];
        run->symbol = arena_new(&t->arena, uint32_t, t->text.len[r]);
        run->count = t->run_count[r];
        for (const char *at = t->text.text[r]; *at; at += char_len(at)) run->symbol[run->len++] = table_find(&t->names, at, char_len(at));
    }
}

// ---- merges ----------------------------------------------------------------------------------------------------------

static Pair *pair_slot(Trainer *t, uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    for (uint32_t i = (uint32_t)(h >> 32);; i++) {
        Pair *p = &t->pair[i & (t->pair_slots - 1)];
        if ((p->left == left && p->right == right) || p->left == NO_SYMBOL) return p;
    }
}

static void pairs_grow(Trainer *t)
{
    Pair *old = t->pair;
    uint32_t slots = t->pair_slots;
    t->pair_slots = slots ? slots * 2 : 1 << 14;
    t->pair = arena_new(&t->arena, Pair, t->pair_slots);
    for (uint32_t i = 0; i < t->pair_slots; i++) t->pair[i].left = NO_SYMBOL;
    for (uint32_t i = 0; i < slots; i++)
        if (old[i].left != NO_SYMBOL) *pair_slot(t, old[i].left, old[i].right) = old[i];
}

/* Adds (or takes away) the pairs of one run. */
static void pairs_count(Trainer *t, const Run *r, bool add)
{
    for (uint32_t i = 0; i + 1 < r->len; i++) {
        if (r->symbol[i] == NO_SYMBOL || r->symbol[i + 1] == NO_SYMBOL) continue;
        if (t->pair_count * 2 >= t->pair_slots) pairs_grow(t);
        Pair *p = pair_slot(t, r->symbol[i], r->symbol[i + 1]);
        if (p->left == NO_SYMBOL) *p = (Pair){r->symbol[i], r->symbol[i + 1], 0}, t->pair_count++;
        p->count += add ? r->count : (uint64_t)0 - r->count;
    }
}

/* The most frequent pair; of equal ones that of the older symbols. False if none is left. */
static bool pair_best(const Trainer *t, Pair *out)
{
    *out = (Pair){NO_SYMBOL, NO_SYMBOL, 0};
    for (uint32_t i = 0; i < t->pair_slots; i++) {
        const Pair *p = &t->pair[i];
        if (p->left == NO_SYMBOL || p->count < out->count || p->count == 0) continue;
        if (p->count > out->count || p->left < out->left || (p->left == out->left && p->right < out->right)) *out = *p;
    }
    return out->count > 0;
}

static void pair_merge(Trainer *t, const Pair *p)
{
    char *name = arena_format(&t->arena, "%s%s", t->names.text[p->left], t->names.text[p->right]);
    uint32_t known = t->names.count, symbol = table_add(&t->names, name, strlen(name));
    if (symbol == known) t->merged[t->merges++] = symbol;      // else another pair made the same piece before
    for (uint32_t r = 0; r < t->text.count; r++) {
        Run *run = &t->run[r];
        uint32_t at = 0, to = 0;
        while (at + 1 < run->len && (run->symbol[at] != p->left || run->symbol[at + 1] != p->right)) at++;
        if (at + 1 >= run->len) continue;
        pairs_count(t, run, false);
        for (at = 0; at < run->len; to++) {
            bool both = at + 1 < run->len && run->symbol[at] == p->left && run->symbol[at + 1] == p->right;
            run->symbol[to] = both ? symbol : run->symbol[at];
            at += both ? 2 : 1;
        }
        run->len = to;
        pairs_count(t, run, true);
    }
}

static Result merges_make(Trainer *t, uint32_t vocab)
{
    uint32_t fixed = FIRST_MERGE + t->characters;
    if (vocab < fixed) return fail(FAIL_DATA, "a vocabulary of %u pieces is too small for this text: it needs %u before the first merge", vocab, fixed);
    t->merged = arena_new(&t->arena, uint32_t, vocab - fixed + 1);
    pairs_grow(t);
    for (uint32_t r = 0; r < t->text.count; r++) pairs_count(t, &t->run[r], true);
    while (t->merges < vocab - fixed) {
        Pair best;
        if (!pair_best(t, &best)) return fail(FAIL_DATA, "a vocabulary of %u pieces is too large for this text: it yields %u", vocab, fixed + t->merges);
        pair_merge(t, &best);
    }
    return OK;
}

// ---- the file --------------------------------------------------------------------------------------------------------

/* Protocol buffers: a field is (number << 3 | wire type), then a varint (0), 4 bytes (5), or a length and bytes (2). */
static void field_varint(Buffer *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7) buffer_u8(b, (uint8_t)(v | 0x80));
    buffer_u8(b, (uint8_t)v);
}

static void field_number(Buffer *b, unsigned field, uint64_t v)
{
    field_varint(b, field << 3);
    field_varint(b, v);
}

static void field_bytes(Buffer *b, unsigned field, const void *data, size_t len)
{
    field_varint(b, field << 3 | 2);
    field_varint(b, len);
    buffer_append(b, data, len);
}

static void write_piece(Buffer *out, const char *name, float score, unsigned type)
{
    Buffer piece = {0};
    uint32_t bits = 0;
    memcpy(&bits, &score, sizeof bits);
    field_bytes(&piece, 1, name, strlen(name));
    field_varint(&piece, 2 << 3 | 5);
    buffer_u32(&piece, bits);
    field_number(&piece, 3, type);
    field_bytes(out, 1, piece.data, piece.len);
    buffer_free(&piece);
}

static void write_specs(Buffer *out, uint32_t vocab)
{
    Buffer spec = {0};
    field_number(&spec, 3, 2);                 // model_type: BPE
    field_number(&spec, 4, vocab);
    field_number(&spec, 25, 1);                // split_digits
    field_number(&spec, 35, 1);                // byte_fallback
    field_number(&spec, 40, 0);                // unk_id, bos_id, eos_id, pad_id (none)
    field_number(&spec, 41, 1);
    field_number(&spec, 42, 2);
    field_number(&spec, 43, (uint64_t)-1);
    field_bytes(out, 2, spec.data, spec.len);
    spec.len = 0;
    field_bytes(&spec, 1, "identity", 8);
    field_number(&spec, 3, 1);                 // add_dummy_prefix
    field_number(&spec, 4, 0);                 // remove_extra_whitespaces
    field_number(&spec, 5, 1);                 // escape_whitespaces
    field_bytes(out, 3, spec.data, spec.len);
    buffer_free(&spec);
}

static Result write_model(const Trainer *t, uint32_t vocab, const char *path)
{
    Buffer out = {0};
    write_piece(&out, "<unk>", 0, PIECE_UNKNOWN);
    write_piece(&out, "<s>", 0, PIECE_CONTROL);
    write_piece(&out, "</s>", 0, PIECE_CONTROL);
    for (unsigned i = 0; i < BYTE_PIECES; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        write_piece(&out, name, 0, PIECE_BYTE);
    }
    for (uint32_t i = 0; i < t->merges; i++) write_piece(&out, t->names.text[t->merged[i]], -(float)i, PIECE_NORMAL);
    for (uint32_t i = 0; i < t->characters; i++) write_piece(&out, t->names.text[i], -(float)(t->merges + i), PIECE_NORMAL);
    write_specs(&out, vocab);
    Result r = file_write(path, out.data, out.len, 0644);
    buffer_free(&out);
    return r;
}

static Result train(Trainer *t, const char *text, size_t len, uint32_t vocab, const char *path)
{
    text_count(t, text, len);
    characters_choose(t);
    runs_spell(t);
    GUARD(merges_make(t, vocab));
    return write_model(t, vocab, path);
}

Result tokenizer_train(const char *text, size_t len, uint32_t vocab, const char *path)
{
    if (len > TEXT_LIMIT) return fail(FAIL_DATA, "training text of %zu bytes, more than %d", len, TEXT_LIMIT);
    if (vocab > VOCAB_LIMIT) return fail(FAIL_DATA, "a vocabulary of %u pieces, more than %d", vocab, VOCAB_LIMIT);
    size_t bad = utf8_invalid_at((const uint8_t *)text, len);
    if (bad < len) return fail(FAIL_DATA, "training text: not UTF-8 at byte %zu", bad);
    if (memchr(text, 0, len)) return fail(FAIL_DATA, "training text: a NUL inside");
    Trainer t = {0};
    arena_init(&t.arena, false);
    table_init(&t.text, &t.arena);
    table_init(&t.names, &t.arena);
    Result r = train(&t, text, len, vocab, path);
    arena_free(&t.arena);
    return r;
}
