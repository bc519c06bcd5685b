/* test_tokenizer.c - sentencepiece BPE against published vectors, and against files that lie. */
#include "test.h"

#include "model/tokenizer.h"

#define SEPARATOR "\n__ggml_vocab_test__\n"

static Tokenizer *load(const char *name)
{
    Tokenizer *t;
    CHECK_OK(tokenizer_load(&t, test_data(name)));
    return t;
}

static void decode_all(const Tokenizer *t, const int32_t *ids, size_t count, Buffer *out)
{
    for (size_t i = 0; i < count; i++) CHECK_OK(tokenizer_decode(t, i ? ids[i - 1] : -1, ids[i], out));
}

// ---- known answers ---------------------------------------------------------------------------------------------------

static void check_vector(const Tokenizer *t, const char *text, size_t len, const char *line, Arena *a)
{
    int32_t *ids;
    size_t count, i = 0;
    CHECK_OK(tokenizer_encode(t, text, len, &ids, &count, a));
    for (char *end; ; line = end, i++) {
        long want = strtol(line, &end, 10);
        if (end == line) break;
        CHECK(i < count);
        CHECK_EQUAL(want, ids[i]);
    }
    CHECK_EQUAL(i, count);
    Buffer back = {0};
    decode_all(t, ids, count, &back);
    CHECK_EQUAL(len, back.len);
    CHECK(len == 0 || memcmp(back.data, text, len) == 0);
    buffer_free(&back);
}

TEST(llama_vectors)
{
    Tokenizer *t = load("tokenizers/llama2/tokenizer.model");
    Buffer in = {0}, out = {0};
    Arena a;
    arena_init(&a, false);
    CHECK_OK(file_read(&in, test_data("tokenizers/vectors/llama-spm.inp"), 1 << 20));
    CHECK_OK(file_read(&out, test_data("tokenizers/vectors/llama-spm.out"), 1 << 20));
    char *text = (char *)in.data, *line = (char *)out.data;
    int cases = 0;
    for (;;) {
        char *end = strstr(text, SEPARATOR), *line_end = strchr(line, '\n');
        size_t len = end ? (size_t)(end - text) : strlen(text);
        if (line_end) *line_end = 0;
        if (!end && len && text[len - 1] == '\n') len--;       // the file's own last newline
        check_vector(t, text, len, line, &a);
        cases++;
        if (!end) break;
        CHECK(line_end);
        text = end + strlen(SEPARATOR), line = line_end + 1;
    }
    CHECK_EQUAL(47, cases);
    CHECK_EQUAL(32000, tokenizer_vocab(t));
    CHECK_EQUAL(1, tokenizer_bos(t));
    CHECK_EQUAL(2, tokenizer_eos(t));
    tokenizer_free(t);
}

TEST(small_vocabulary_squeezes_spaces)
{
    Tokenizer *t = load("weights/stories260K/tokenizer.model");
    static const int32_t want[] = {403, 407, 261, 378};
    static const char *const texts[] = {"Once upon a time", "  Once   upon a time ", "Once upon a time  "};
    Arena a;
    arena_init(&a, false);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t *ids;
        size_t count;
        CHECK_OK(tokenizer_encode(t, texts[i], strlen(texts[i]), &ids, &count, &a));
        CHECK_EQUAL(4, count);
        CHECK(memcmp(want, ids, sizeof want) == 0);
    }
    int32_t *ids;
    size_t count;
    CHECK_OK(tokenizer_encode(t, "   ", 3, &ids, &count, &a));
    CHECK_EQUAL(0, count);
    Buffer out = {0};
    CHECK_OK(tokenizer_decode(t, tokenizer_bos(t), 403, &out));            // no space after the beginning of the text
    CHECK_EQUAL(4, out.len);
    CHECK_OK(tokenizer_decode(t, 403, 407, &out));
    CHECK(out.len == 9 && memcmp(out.data, "Once upon", 9) == 0);
    CHECK_FAILS(tokenizer_decode(t, -1, 512, &out), "512");
    CHECK_FAILS(tokenizer_decode(t, -1, -1, &out), "-1");
}

TEST(long_text_is_fast_and_round_trips)
{
    Tokenizer *t = load("tokenizers/llama2/tokenizer.model");
    enum { LEN = 1 << 20 };
    char *text = malloc(LEN);
    for (size_t i = 0; i < LEN; i++) text[i] = i % 7 == 6 ? ' ' : (char)('a' + (int)(test_random() * 4));
    memset(text + LEN / 2, 'a', LEN / 4);                      // one run of equal letters, the worst case of naive merging
    Arena a;
    arena_init(&a, false);
    int32_t *ids;
    size_t count;
    double start = clock_cpu_seconds();
    CHECK_OK(tokenizer_encode(t, text, LEN, &ids, &count, &a));
    CHECK(clock_cpu_seconds() - start < 20);
    Buffer back = {0};
    decode_all(t, ids, count, &back);
    CHECK(back.len == LEN && memcmp(back.data, text, LEN) == 0);
}

// ---- bad input -------------------------------------------------------------------------------------------------------

TEST(text_that_is_not_utf8)
{
    Tokenizer *t = load("tokenizers/llama2/tokenizer.model");
    static const char *const bad[] = {"abc\xFF", "abc\xC0\x80", "abc\xED\xA0\x80", "abc\xF4\x90\x80\x80", "abc\xE2\x96", "abc\x80"};
    Arena a;
    arena_init(&a, false);
    int32_t *ids;
    size_t count;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_FAILS(tokenizer_encode(t, bad[i], strlen(bad[i]), &ids, &count, &a), "offset 3");
    }
}

TEST(utf8_holds_back_only_what_may_become_whole)
{
    static const struct { const char *text; size_t complete, invalid; } cases[] = {
        {"", 0, 0}, {"abc", 3, 3}, {"a\xC3\xA4", 3, 3}, {"a\xC3", 1, 1}, {"\xE2\x96", 0, 0}, {"\xE2\x96\x81", 3, 3},
        {"\xF0\x9F\xA6", 0, 0}, {"\xF0\x9F\xA6\x99", 4, 4}, {"a\xFF", 2, 1}, {"a\x80", 2, 1}, {"a\xC3\x28", 3, 1},
        {"\xED\xA0", 2, 0}, {"\xF4\x90", 2, 0}, {"\xC1", 1, 0}, {"a\x80\x80\x80\x80", 5, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint8_t *text = (const uint8_t *)cases[i].text;
        CHECK_EQUAL(cases[i].complete, utf8_complete(text, strlen(cases[i].text)));
        CHECK_EQUAL(cases[i].invalid, utf8_invalid_at(text, strlen(cases[i].text)));
    }
}

/* A sentencepiece model made by hand: unk, two control pieces, the bytes, then what a case adds. */
typedef struct Proto { Buffer out; int pieces; } Proto;

static void put_varint(Buffer *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7) buffer_u8(b, (uint8_t)(v | 0x80));
    buffer_u8(b, (uint8_t)v);
}

static void put_message(Buffer *b, unsigned number, const Buffer *inner)
{
    put_varint(b, number << 3 | 2);
    put_varint(b, inner->len);
    buffer_append(b, inner->data, inner->len);
}

static void put_number(Buffer *b, unsigned number, uint64_t v)
{
    put_varint(b, number << 3);
    put_varint(b, v);
}

static void put_piece(Proto *p, const char *text, float score, unsigned type)
{
    Buffer inner = {0};
    put_varint(&inner, 1 << 3 | 2);
    put_varint(&inner, strlen(text));
    buffer_append(&inner, text, strlen(text));
    put_varint(&inner, 2 << 3 | 5);
    buffer_append(&inner, &score, 4);
    if (type != 1) put_number(&inner, 3, type);
    put_message(&p->out, 1, &inner);
    buffer_free(&inner);
    p->pieces++;
}

static void put_start(Proto *p)
{
    char name[8];
    put_piece(p, "<unk>", 0, 2);
    put_piece(p, "<s>", 0, 3);
    put_piece(p, "</s>", 0, 3);
    for (unsigned i = 0; i < 256; i++) {
        snprintf(name, sizeof name, "<0x%02X>", i);
        put_piece(p, name, 0, 6);
    }
}

static void put_specs(Proto *p, unsigned type, unsigned bytes, unsigned dummy, unsigned squeeze)
{
    Buffer inner = {0};
    put_number(&inner, 3, type);
    put_number(&inner, 35, bytes);
    put_message(&p->out, 2, &inner);
    inner.len = 0;
    put_number(&inner, 3, dummy);
    put_number(&inner, 4, squeeze);
    put_message(&p->out, 3, &inner);
    buffer_free(&inner);
}

static Result parse(Tokenizer **t, const Proto *p) { return tokenizer_parse(t, p->out.data, p->out.len); }

static void expect(const Tokenizer *t, const char *text, const int32_t *want, size_t n)
{
    Arena a;
    arena_init(&a, false);
    int32_t *ids;
    size_t count;
    CHECK_OK(tokenizer_encode(t, text, strlen(text), &ids, &count, &a));
    CHECK_EQUAL(n, count);
    for (size_t i = 0; i < n; i++) CHECK_EQUAL(want[i], ids[i]);
    arena_free(&a);
}

TEST(merging_rules)
{
    Proto p = {0};
    Tokenizer *t;
    put_start(&p);
    put_piece(&p, "a", -10, 1);                                // 259
    put_piece(&p, "aa", -1, 1);                                // 260
    put_piece(&p, "aaa", -5, 1);                               // 261
    put_piece(&p, "ab", -1, 1);                                // 262
    put_piece(&p, "b", -11, 1);                                // 263
    put_piece(&p, "[aa]", 0, 4);                               // 264, user-defined
    put_piece(&p, "[aa]b", 0, 4);                              // 265
    put_specs(&p, 2, 1, 0, 0);
    CHECK_OK(parse(&t, &p));
    expect(t, "aaa", (int32_t[]){261}, 1);                     // aa, leftmost, then aaa
    expect(t, "aab", (int32_t[]){260, 263}, 2);                // aa and ab tie: the left one
    expect(t, "aaaa", (int32_t[]){260, 260}, 2);               // aaaa is no piece
    expect(t, "a[aa]a", (int32_t[]){259, 264, 259}, 3);        // a user-defined symbol joins nothing
    expect(t, "[aa]b[aa", (int32_t[]){265, 3 + '[', 260}, 3);  // the longest one wins; [ is bytes
    expect(t, "<s>", (int32_t[]){3 + '<', 3 + 's', 3 + '>'}, 3);           // control pieces never come from text
    expect(t, "<0x41>", (int32_t[]){3 + '<', 3 + '0', 3 + 'x', 3 + '4', 3 + '1', 3 + '>'}, 6);
    expect(t, "\xC3\xA4", (int32_t[]){3 + 0xC3, 3 + 0xA4}, 2);
    Buffer out = {0};
    CHECK_OK(tokenizer_decode(t, -1, 1, &out));
    CHECK_EQUAL(0, out.len);
    CHECK_OK(tokenizer_decode(t, -1, 0, &out));
    CHECK(out.len == 5 && memcmp(out.data, " \xE2\x81\x87 ", 5) == 0);
}

TEST(files_that_cannot_be_honoured)
{
    Tokenizer *t;
    Proto p = {0}, q = {0};
    put_start(&p);
    size_t start = p.out.len;
    struct { unsigned type, bytes; const char *names; } specs[] = {{1, 1, "model_type"}, {2, 0, "byte_fallback"}};
    for (size_t i = 0; i < 2; i++) {
        p.out.len = start;
        put_specs(&p, specs[i].type, specs[i].bytes, 1, 0);
        CHECK_FAILS(parse(&t, &p), specs[i].names);
        CHECK(t == NULL);
    }
    struct { const char *text; float score; unsigned type; const char *names; } pieces[] = {
        {"<s>", 0, 1, "twice"}, {"", 0, 1, "piece 259: no text"}, {"x", NAN, 1, "not finite"}, {"x", 0, 5, "type 5"},
        {"x", 0, 2, "unknown"}, {"<0xg0>", 0, 6, "piece 259"}, {"\xFF", 0, 1, "UTF-8"},
    };
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        p.out.len = start;
        put_piece(&p, pieces[i].text, pieces[i].score, pieces[i].type);
        put_specs(&p, 2, 1, 1, 0);
        CHECK_FAILS(parse(&t, &p), pieces[i].names);
    }
    put_piece(&q, "<unk>", 0, 2);
    put_specs(&q, 2, 1, 1, 0);
    CHECK_FAILS(parse(&t, &q), "<0x00>");
    p.out.len = start;
    put_specs(&p, 2, 1, 1, 0);
    CHECK_OK(parse(&t, &p));
    Buffer charsmap = {0};
    buffer_append(&charsmap, "\x12\x01x", 3);
    put_message(&p.out, 3, &charsmap);
    CHECK_FAILS(parse(&t, &p), "precompiled_charsmap");
    CHECK_FAILS(tokenizer_load(&t, "/nonexistent/tokenizer.model"), "/nonexistent/tokenizer.model");
}

TEST(files_cut_or_changed_anywhere)
{
    Buffer file = {0};
    Tokenizer *t;
    Arena a;
    arena_init(&a, false);
    CHECK_OK(file_read(&file, test_data("weights/stories260K/tokenizer.model"), 1 << 20));
    for (size_t len = 0; len < file.len; len++) {
        if (failed(tokenizer_parse(&t, file.data, len))) continue;
        CHECK(len + 40 > file.len);                            // only the normaliser, whose settings have defaults, may be missing
        tokenizer_free(t);
    }
    for (int i = 0; i < 2000; i++) {                           // must end, whatever it says
        size_t at = (size_t)(test_random() * (double)file.len);
        uint8_t was = file.data[at];
        file.data[at] = (uint8_t)(test_random() * 256);
        if (!failed(tokenizer_parse(&t, file.data, file.len))) {
            int32_t *ids;
            size_t count;
            CHECK_OK(tokenizer_encode(t, "Once upon a time", 16, &ids, &count, &a));
            tokenizer_free(t);
        }
        file.data[at] = was;
    }
}

int main(int argc, char **argv) { return test_main(argc, argv); }
