/* tokenizer.c - sentencepiece's byte-pair encoding: its file, encoding and decoding.
 *
 * The file is a protobuf message (sentencepiece_model.proto), read field by field through a Cursor. What would change the
 * ids and is not implemented is refused by name: other model types, normalisation tables, unused pieces.
 *
 * Encoding follows sentencepiece's bpe_model.cc: the text is cut into characters and user-defined symbols, then the
 * adjacent pair whose joined piece has the best score is joined, leftmost first on ties, until no pair joins. Pairs wait in
 * a heap and symbols are a linked list, so n characters take O(n log n). Pieces are looked up by binary search: unlike in
 * a hash table, no file can make that slow. */
#include "model/tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 64 << 20, MAX_PIECES = 1 << 20, MAX_SYMBOL_BYTES = 256, MAX_TEXT = 16 << 20 };
enum { PIECE_NORMAL = 1, PIECE_UNKNOWN = 2, PIECE_CONTROL = 3, PIECE_USER = 4, PIECE_BYTE = 6 };
enum { MODEL_BPE = 2, MARK_BYTES = 3 };
static const char space_mark[] = "\xE2\x96\x81";              // U+2581 stands for a space
static const char unknown_text[] = " \xE2\x81\x87 ";          // U+2047, as sentencepiece shows what it does not know

typedef struct Piece { const char *text; uint32_t len; float score; uint8_t type, byte; } Piece;
typedef struct PieceRef { const char *text; uint32_t len; int32_t id; } PieceRef;

struct Tokenizer {
    Arena arena;
    Piece *piece;                              // (count) by id
    uint32_t count;
    PieceRef *known, *user;                    // sorted: pieces that text can give; user-defined symbols alone
    uint32_t known_count, user_count, user_longest;
    int32_t byte_id[256];
    int32_t bos, eos;                          // -1: none
    bool dummy_prefix, squeeze;                // squeeze: spaces at the ends go, runs of them become one
};

// ---- protobuf --------------------------------------------------------------------------------------------------------

typedef struct Field { uint64_t number, value; const uint8_t *data; size_t len; unsigned wire; } Field;

static Result varint_read(Cursor *c, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        uint8_t b = 0;
        GUARD(cursor_u8(c, &b));
        if (shift < 64) *out |= (uint64_t)(b & 0x7F) << shift;
        if (b < 0x80) return OK;
    }
    return fail(FAIL_DATA, "%s: a varint of more than 10 bytes at offset %zu", c->what, c->at);
}

/* Wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes. */
static Result field_read(Cursor *c, Field *f)
{
    uint64_t key = 0, len = 0;
    *f = (Field){0};
    GUARD(varint_read(c, &key));
    f->number = key >> 3;
    f->wire = key & 7;
    switch (f->wire) {
    case 0: return varint_read(c, &f->value);
    case 1: len = 8; break;
    case 2: GUARD(varint_read(c, &len)); break;
    case 5: len = 4; break;
    default: return fail(FAIL_DATA, "%s: wire type %u at offset %zu", c->what, f->wire, c->at);
    }
    if (len > c->len - c->at) {
        return fail(FAIL_DATA, "%s: a field of %llu bytes runs past the end at offset %zu", c->what, (unsigned long long)len, c->at);
    }
    f->len = (size_t)len;
    return cursor_take(c, &f->data, f->len);
}

static Result field_expect(const Field *f, unsigned wire, const char *what)
{
    return f->wire == wire ? OK : fail(FAIL_DATA, "%s has wire type %u, not %u", what, f->wire, wire);
}

// ---- the file --------------------------------------------------------------------------------------------------------

static Result piece_parse(Piece *p, const Field *message)
{
    Cursor c = {message->data, message->len, 0, "piece"};
    Field f;
    *p = (Piece){.text = "", .type = PIECE_NORMAL};
    while (c.at < c.len) {
        GUARD(field_read(&c, &f));
        if (f.number == 1) {
            GUARD(field_expect(&f, 2, "piece text"));
            if (f.len > 1 << 16) return fail(FAIL_DATA, "text of %zu bytes", f.len);
            p->text = (const char *)f.data, p->len = (uint32_t)f.len;
        } else if (f.number == 2) {
            GUARD(field_expect(&f, 5, "piece score"));
            memcpy(&p->score, f.data, sizeof p->score);
        } else if (f.number == 3) {
            GUARD(field_expect(&f, 0, "piece type"));
            if (f.value != PIECE_NORMAL && f.value != PIECE_UNKNOWN && f.value != PIECE_CONTROL && f.value != PIECE_USER
                && f.value != PIECE_BYTE) {
                return fail(FAIL_DATA, "type %llu is not supported", (unsigned long long)f.value);
            }
            p->type = (uint8_t)f.value;
        }
    }
    if (p->len == 0) return fail(FAIL_DATA, "no text");
    if (utf8_invalid_at((const uint8_t *)p->text, p->len) != p->len) return fail(FAIL_DATA, "text that is not UTF-8");
    return isfinite(p->score) ? OK : fail(FAIL_DATA, "a score that is not finite");
}

static Result trainer_parse(Tokenizer *t, const Field *message, bool *bpe, bool *bytes)
{
    Cursor c = {message->data, message->len, 0, "trainer_spec"};
    Field f;
    while (c.at < c.len) {
        GUARD(field_read(&c, &f));
        if (f.number != 3 && f.number != 24 && f.number != 35 && f.number != 41 && f.number != 42) continue;
        GUARD(field_expect(&f, 0, "a number of trainer_spec"));
        if (f.number == 3) *bpe = f.value == MODEL_BPE;
        else if (f.number == 24 && f.value) return fail(FAIL_DATA, "treat_whitespace_as_suffix is not supported");
        else if (f.number == 35) *bytes = f.value != 0;
        else if (f.number == 41) t->bos = (int32_t)(uint32_t)f.value;
        else if (f.number == 42) t->eos = (int32_t)(uint32_t)f.value;
    }
    return OK;
}

static Result normalizer_parse(Tokenizer *t, const Field *message)
{
    Cursor c = {message->data, message->len, 0, "normalizer_spec"};
    Field f;
    while (c.at < c.len) {
        GUARD(field_read(&c, &f));
        if ((f.number == 2 || f.number == 6) && f.len) {
            return fail(FAIL_DATA, "a normalisation table (precompiled_charsmap) is not supported");
        }
        if (f.number < 3 || f.number > 5) continue;
        GUARD(field_expect(&f, 0, "a number of normalizer_spec"));
        if (f.number == 3) t->dummy_prefix = f.value != 0;
        else if (f.number == 4) t->squeeze = f.value != 0;
        else if (!f.value) return fail(FAIL_DATA, "escape_whitespaces false is not supported");
    }
    return OK;
}

/* First pass: the settings and the number of pieces. */
static Result model_parse(Tokenizer *t, Cursor c)
{
    bool bpe = false, bytes = false;
    Field f;
    while (c.at < c.len) {
        GUARD(field_read(&c, &f));
        if (f.number < 1 || f.number > 3) continue;
        GUARD(field_expect(&f, 2, "a message of the model"));
        if (f.number == 1 && ++t->count > MAX_PIECES) return fail(FAIL_DATA, "more than %d pieces", MAX_PIECES);
        if (f.number == 2) GUARD(trainer_parse(t, &f, &bpe, &bytes));
        if (f.number == 3) GUARD(normalizer_parse(t, &f));
    }
    if (!bpe) return fail(FAIL_DATA, "model_type is not BPE");
    return bytes ? OK : fail(FAIL_DATA, "byte_fallback is off, which is not supported");
}

static int ref_compare(const void *a, const void *b)
{
    const PieceRef *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

/* Byte pieces are called <0x00> to <0xFF>. */
static Result piece_note_byte(Tokenizer *t, int32_t id)
{
    Piece *p = &t->piece[id];
    int high = p->len == 6 ? hex_digit(p->text[3]) : -1, low = p->len == 6 ? hex_digit(p->text[4]) : -1;
    if (high < 0 || low < 0 || memcmp(p->text, "<0x", 3) != 0 || p->text[5] != '>') return fail(FAIL_DATA, "not the name of a byte");
    p->byte = (uint8_t)(high << 4 | low);
    t->byte_id[p->byte] = id;
    return OK;
}

/* Sorts all pieces by text, refuses duplicates, and keeps those that text can give. */
static Result pieces_index(Tokenizer *t)
{
    t->known = arena_new(&t->arena, PieceRef, t->count);
    t->user = arena_new(&t->arena, PieceRef, t->count);
    for (uint32_t i = 0; i < t->count; i++) t->known[i] = (PieceRef){t->piece[i].text, t->piece[i].len, (int32_t)i};
    qsort(t->known, t->count, sizeof *t->known, ref_compare);
    for (uint32_t i = 0; i < t->count; i++) {
        PieceRef ref = t->known[i];
        if (i && ref_compare(&t->known[i - 1], &ref) == 0) {
            return fail(FAIL_DATA, "piece '%.*s' is defined twice", (int)(ref.len < 64 ? ref.len : 64), ref.text);
        }
    }
    for (uint32_t i = 0; i < t->count; i++) {
        PieceRef ref = t->known[i];
        uint8_t type = t->piece[ref.id].type;
        if (type == PIECE_NORMAL || type == PIECE_USER) t->known[t->known_count++] = ref;
        if (type != PIECE_USER) continue;
        if (ref.len > MAX_SYMBOL_BYTES) return fail(FAIL_DATA, "a user-defined symbol of %u bytes", ref.len);
        t->user[t->user_count++] = ref;
        if (ref.len > t->user_longest) t->user_longest = ref.len;
    }
    return OK;
}

static Result control_check(const Tokenizer *t, int32_t id, const char *name)
{
    if (id < 0 || ((uint32_t)id < t->count && t->piece[id].type == PIECE_CONTROL)) return OK;
    return fail(FAIL_DATA, "%s %d is not a control piece", name, id);
}

static Result pieces_parse(Tokenizer *t, Cursor c)
{
    int32_t id = 0;
    uint32_t unknown = 0;
    Field f;
    t->piece = arena_new(&t->arena, Piece, t->count);
    for (int i = 0; i < 256; i++) t->byte_id[i] = -1;
    while (c.at < c.len) {
        GUARD(field_read(&c, &f));
        if (f.number != 1) continue;
        Result r = piece_parse(&t->piece[id], &f);
        if (!failed(r) && t->piece[id].type == PIECE_BYTE) r = piece_note_byte(t, id);
        if (failed(r)) return fail_in(r, "piece %d", id);
        unknown += t->piece[id++].type == PIECE_UNKNOWN;
    }
    GUARD(pieces_index(t));
    if (unknown != 1) return fail(FAIL_DATA, "%u pieces of type unknown, not 1", unknown);
    for (int i = 0; i < 256; i++) {
        if (t->byte_id[i] < 0) return fail(FAIL_DATA, "piece <0x%02X> is missing", i);
    }
    GUARD(control_check(t, t->bos, "bos_id"));
    return control_check(t, t->eos, "eos_id");
}

Result tokenizer_parse(Tokenizer **out, const uint8_t *data, size_t len)
{
    Arena a;
    arena_init(&a, false);
    *out = NULL;
    if (len > FILE_LIMIT) return fail(FAIL_DATA, "larger than %d bytes", FILE_LIMIT);
    uint8_t *copy = arena_new(&a, uint8_t, len + 1);           // piece texts stay in it
    if (len) memcpy(copy, data, len);
    Tokenizer *t = arena_new(&a, Tokenizer, 1);
    *t = (Tokenizer){.arena = a, .bos = 1, .eos = 2, .dummy_prefix = true, .squeeze = true};   // the format's defaults
    Cursor c = {copy, len, 0, "tokenizer model"};
    Result r = model_parse(t, c);
    if (!failed(r)) r = pieces_parse(t, c);
    if (failed(r)) tokenizer_free(t);
    else *out = t;
    return r;
}

Result tokenizer_load(Tokenizer **out, const char *path)
{
    Buffer file = {0};
    *out = NULL;
    Result r = file_read(&file, path, FILE_LIMIT);
    if (!failed(r)) {
        r = tokenizer_parse(out, file.data, file.len);
        if (failed(r)) r = fail_in(r, "%s", path);
    }
    buffer_free(&file);
    return r;
}

void tokenizer_free(Tokenizer *t)
{
    if (!t) return;
    Arena a = t->arena;                        // the tokenizer lies in it
    arena_free(&a);
}

uint32_t tokenizer_vocab(const Tokenizer *t) { return t->count; }
int32_t tokenizer_bos(const Tokenizer *t) { return t->bos; }
int32_t tokenizer_eos(const Tokenizer *t) { return t->eos; }

const char *tokenizer_piece(const Tokenizer *t, int32_t id, size_t *len)
{
    ASSERT(id >= 0 && (uint32_t)id < t->count);
    *len = t->piece[id].len;
    return t->piece[id].text;
}

// ---- encoding --------------------------------------------------------------------------------------------------------

static int32_t piece_find(const PieceRef *list, uint32_t count, const char *text, uint32_t len)
{
    PieceRef key = {text, len, 0};
    const PieceRef *hit = count ? bsearch(&key, list, count, sizeof key, ref_compare) : NULL;
    return hit ? hit->id : -1;
}

/* Spaces become marks, one is put before the text, and those too many go: sentencepiece's normalizer.cc, identity rules. */
static uint32_t text_normalize(const Tokenizer *t, char *out, const char *text, size_t len)
{
    if (t->squeeze) {
        while (len && *text == ' ') text++, len--;
        while (len && text[len - 1] == ' ') len--;
    }
    if (len == 0) return 0;
    char *at = out;
    if (t->dummy_prefix) memcpy(at, space_mark, MARK_BYTES), at += MARK_BYTES;
    for (size_t i = 0; i < len; i++) {
        if (text[i] != ' ') *at++ = text[i];
        else if (!t->squeeze || text[i - 1] != ' ') memcpy(at, space_mark, MARK_BYTES), at += MARK_BYTES;
    }
    while (t->squeeze && at - out >= MARK_BYTES && memcmp(at - MARK_BYTES, space_mark, MARK_BYTES) == 0) at -= MARK_BYTES;
    return (uint32_t)(at - out);
}

/* A run of the text that is one symbol so far. len 0: it was joined to its left neighbour. fixed: user-defined, joins
 * nothing. */
typedef struct Symbol { uint32_t at, len; int32_t prev, next; bool fixed; } Symbol;
/* Two neighbours that could join into a piece, `len` bytes together; stale once either has changed. */
typedef struct Join { float score; int32_t left, right; uint32_t len; } Join;

typedef struct Encoder {
    const Tokenizer *t;
    const char *text;
    Symbol *symbol;
    Join *heap;                                // best first; see join_better
    size_t count, symbols;
} Encoder;

static bool join_better(const Join *a, const Join *b) { return a->score > b->score || (a->score == b->score && a->left < b->left); }

static void heap_push(Encoder *e, Join j)
{
    size_t i = e->count++;
    for (; i > 0 && join_better(&j, &e->heap[(i - 1) / 2]); i = (i - 1) / 2) e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = j;
}

static Join heap_pop(Encoder *e)
{
    Join top = e->heap[0], last = e->heap[--e->count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < e->count; i = child) {
        if (child + 1 < e->count && join_better(&e->heap[child + 1], &e->heap[child])) child++;
        if (!join_better(&e->heap[child], &last)) break;
        e->heap[i] = e->heap[child];
    }
    e->heap[i] = last;
    return top;
}

static void encoder_consider(Encoder *e, int32_t left, int32_t right)
{
    if (left < 0 || right < 0 || e->symbol[left].fixed || e->symbol[right].fixed) return;
    uint32_t len = e->symbol[left].len + e->symbol[right].len;
    int32_t id = piece_find(e->t->known, e->t->known_count, e->text + e->symbol[left].at, len);
    if (id >= 0) heap_push(e, (Join){e->t->piece[id].score, left, right, len});
}

/* The length of the symbol at the start of text: the longest user-defined one, else one character. */
static uint32_t symbol_length(const Tokenizer *t, const char *text, uint32_t len, bool *user)
{
    for (uint32_t n = t->user_longest < len ? t->user_longest : len; n > 0; n--) {
        *user = piece_find(t->user, t->user_count, text, n) >= 0;
        if (*user) return n;
    }
    *user = false;
    uint8_t lead = (uint8_t)text[0];
    uint32_t n = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    return n < len ? n : len;
}

static void encoder_split(Encoder *e, uint32_t len)
{
    for (uint32_t at = 0; at < len;) {
        int32_t i = (int32_t)e->symbols++;
        Symbol *s = &e->symbol[i];
        *s = (Symbol){.at = at, .prev = i - 1, .next = i + 1};
        s->len = symbol_length(e->t, e->text + at, len - at, &s->fixed);
        at += s->len;
    }
    if (e->symbols) e->symbol[e->symbols - 1].next = -1;
}

/* The heap holds at most two joins a symbol: each neighbouring pair at first, and a net one more for every join made. */
static void encoder_join(Encoder *e)
{
    for (int32_t i = 0; i + 1 < (int32_t)e->symbols; i++) encoder_consider(e, i, i + 1);
    while (e->count) {
        Join j = heap_pop(e);
        Symbol *left = &e->symbol[j.left], *right = &e->symbol[j.right];
        if (!left->len || !right->len || left->len + right->len != j.len) continue;
        left->len = j.len;
        right->len = 0;
        left->next = right->next;
        if (left->next >= 0) e->symbol[left->next].prev = j.left;
        encoder_consider(e, left->prev, j.left);
        encoder_consider(e, j.left, left->next);
    }
}

static size_t encoder_emit(const Encoder *e, int32_t *ids)
{
    size_t n = 0;
    for (int32_t i = e->symbols ? 0 : -1; i >= 0; i = e->symbol[i].next) {
        const Symbol *s = &e->symbol[i];
        int32_t id = piece_find(e->t->known, e->t->known_count, e->text + s->at, s->len);
        if (id >= 0) ids[n++] = id;
        else for (uint32_t j = 0; j < s->len; j++) ids[n++] = e->t->byte_id[(uint8_t)e->text[s->at + j]];
    }
    return n;
}

Result tokenizer_encode(const Tokenizer *t, const char *text, size_t len, int32_t **ids, size_t *count, Arena *a)
{
    *ids = NULL, *count = 0;
    if (len > MAX_TEXT) return fail(FAIL_DATA, "text of %zu bytes, longer than %d", len, MAX_TEXT);
    size_t bad = utf8_invalid_at((const uint8_t *)text, len);
    if (bad != len) return fail(FAIL_DATA, "text is not UTF-8 at offset %zu", bad);
    Arena scratch;
    arena_init(&scratch, a->secret);
    char *normal = arena_new(&scratch, char, MARK_BYTES * (len + 1));
    uint32_t size = text_normalize(t, normal, text, len);
    Encoder e = {.t = t, .text = normal, .symbol = arena_new(&scratch, Symbol, size), .heap = arena_new(&scratch, Join, 2 * (size_t)size)};
    encoder_split(&e, size);
    encoder_join(&e);
    *ids = arena_new(a, int32_t, size);
    *count = encoder_emit(&e, *ids);
    arena_free(&scratch);
    return OK;
}

// ---- decoding --------------------------------------------------------------------------------------------------------

Result tokenizer_decode(const Tokenizer *t, int32_t previous, int32_t id, Buffer *out)
{
    if (id < 0 || (uint32_t)id >= t->count) return fail(FAIL_DATA, "token %d is not in the vocabulary of %u", id, t->count);
    const Piece *p = &t->piece[id];
    if (p->type == PIECE_CONTROL) return OK;
    if (p->type == PIECE_BYTE) {
        buffer_u8(out, p->byte);
        return OK;
    }
    if (p->type == PIECE_UNKNOWN) {
        buffer_append(out, unknown_text, sizeof unknown_text - 1);
        return OK;
    }
    bool first = (previous < 0 || previous == t->bos) && (t->dummy_prefix || t->squeeze);
    for (uint32_t i = 0; i < p->len;) {
        bool mark = p->len - i >= MARK_BYTES && memcmp(p->text + i, space_mark, MARK_BYTES) == 0;
        if (!mark) buffer_u8(out, (uint8_t)p->text[i]);
        else if (i > 0 || !first) buffer_u8(out, ' ');
        i += mark ? MARK_BYTES : 1;
    }
    return OK;
}
