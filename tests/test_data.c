/* test_data.c - the split by component, held-out texts, templates, noise, shuffles; vocabularies that encode what they saw. */
#include "test.h"
#include "tune/data.h"
#include "tune/recipe.h"

static Arena arena;

static const char *write_text(const char *name, const char *text)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", test_folder(), name);
    CHECK_OK(file_write(path, text, strlen(text), 0644));
    return arena_string(&arena, path);
}

/* A vocabulary of bytes, the characters of `text` and a few merges. */
static Tokenizer *small_tokenizer(const char *text, uint32_t vocab)
{
    Tokenizer *t = NULL;
    const char *path = write_text("tokenizer.model", "");
    CHECK_OK(tokenizer_train(text, strlen(text), vocab, path));
    CHECK_OK(tokenizer_load(&t, path));
    CHECK_EQUAL(vocab, tokenizer_vocab(t));
    return t;
}

static const char *decode(const Tokenizer *t, const int32_t *ids, size_t count)
{
    Buffer b = {0};
    for (size_t i = 0; i < count; i++) CHECK_OK(tokenizer_decode(t, i ? ids[i - 1] : -1, ids[i], &b));
    buffer_u8(&b, 0);
    return (const char *)b.data;
}

static const char *sample_text(const Tokenizer *t, const Sample *s)      // without BOS and EOS
{
    CHECK_EQUAL(tokenizer_bos(t), s->tokens[0]);
    bool end = s->tokens[s->len - 1] == tokenizer_eos(t);
    return decode(t, s->tokens + 1, s->len - 1 - end);
}

/* 400 pairs "w<i>" / "d<i>", of which the first ten share a German side with their neighbour. */
static const char *many_pairs(void)
{
    Buffer b = {0};
    buffer_format(&b, "1\t2\n");
    for (int i = 0; i < 400; i++) buffer_format(&b, "w%d w%d\t d%d d%d \tsource\r\n", i, i, i < 10 ? i / 2 : i, i < 10 ? i / 2 : i);
    buffer_u8(&b, 0);
    return write_text("pairs.tsv", (char *)b.data);
}

TEST(parts_are_disjoint_and_complete)
{
    const char *path = many_pairs();
    size_t all = 0, sum = 0, answers = 0;
    TestPair *p, *q;
    CHECK_OK(data_pairs(&p, &all, path, PART_ALL, &arena));
    CHECK_EQUAL(395, all);                     // distinct German sides; the header is none
    CHECK_EQUAL(2, p[0].count);
    CHECK(!strcmp(p[0].prompt, "d0 d0") && !strcmp(p[0].answers[1], "w1 w1"));
    for (DataPart part = PART_TRAIN; part <= PART_TEST; part++) {
        size_t n = 0;
        CHECK_OK(data_pairs(&q, &n, path, part, &arena));
        sum += n;
        for (size_t i = 0; i < n; i++) answers += q[i].count;
        if (part == PART_TRAIN) CHECK(n > 340 && n < 395);
        else CHECK(n > 0 && n < 40);
    }
    CHECK_EQUAL(all, sum);
    CHECK_EQUAL(400, answers);
}

TEST(components_lie_in_one_part)
{
    size_t count[3];
    TestPair *part[3];
    const char *path = test_data("tasks/tatoeba_eng_deu.txt");
    double start = clock_seconds();
    for (DataPart i = PART_TRAIN; i <= PART_TEST; i++) CHECK_OK(data_pairs(&part[i], &count[i], path, i, &arena));
    CHECK(clock_seconds() - start < 10);
    CHECK(count[PART_TEST] > 500 && count[PART_VALID] > 500 && count[PART_TRAIN] > 40000);
    const char *text = write_text("held.txt", "Nothing of this is a pair.\n");
    Buffer lines = {0};                        // every sentence of the test part as a line: none may come through
    buffer_format(&lines, "%s\n", "Nothing of this is a pair.");
    for (size_t i = 0; i < count[PART_TEST]; i++) {
        buffer_format(&lines, "%s\n", part[PART_TEST][i].prompt);
        for (size_t k = 0; k < part[PART_TEST][i].count; k++) buffer_format(&lines, "He said: \"%s\" And left.\n%s\n", "No.", part[PART_TEST][i].answers[k]);
    }
    CHECK_OK(file_write(text, lines.data, lines.len, 0644));
    DataSource s = {.kind = "lines", .path = text, .completion = "{0}", .weight = 1, .held_out = path};
    DataSet d;
    Tokenizer *t = small_tokenizer("Nothing of this is a pair.\n", 280);
    CHECK_OK(data_load(&d, &s, 1, PART_ALL, t, 256, 1, 0, &arena));
    for (size_t i = 0; i < d.count; i++) CHECK(!strncmp(sample_text(t, &d.sample[i]), "Nothing", 7) || !strncmp(sample_text(t, &d.sample[i]), "He said", 7));
    for (size_t i = 0; i < count[PART_TEST]; i += 7)          // and no test sentence is a training sentence
        for (size_t k = 0; k < count[PART_TRAIN]; k++) CHECK(strcmp(part[PART_TEST][i].prompt, part[PART_TRAIN][k].prompt) != 0);
}

TEST(held_out_sentences_hide_in_stories)
{
    const char *pairs = many_pairs();
    size_t n = 0;
    TestPair *p;
    CHECK_OK(data_pairs(&p, &n, pairs, PART_TEST, &arena));
    CHECK(n > 0);
    char held[256];                            // the sentences have no full stop: a line of a story is one
    snprintf(held, sizeof held, "Good story.<|endoftext|>Bad story. One.\n  \"%s\"\nMore.<|endoftext|>Worse.\n%s\n<|endoftext|>Cut", p[0].prompt, p[0].answers[0]);
    DataSource s = {.kind = "stories", .path = write_text("stories.txt", held), .completion = "{0}", .weight = 1};
    Tokenizer *t = small_tokenizer(held, 300);
    DataSet d;
    CHECK_OK(data_load(&d, &s, 1, PART_ALL, t, 256, 1, 0, &arena));
    CHECK_EQUAL(3, d.count);                   // the last one is cut
    s.held_out = pairs;
    CHECK_OK(data_load(&d, &s, 1, PART_ALL, t, 256, 1, 0, &arena));
    CHECK_EQUAL(1, d.count);
    CHECK(!strcmp(sample_text(t, &d.sample[0]), "Good story."));
}

TEST(templates_and_masks)
{
    DataSource s = {.kind = "pairs", .path = write_text("p.tsv", "Go on.\tMach weiter.\nGo.\tMach weiter.\n"), .prompt = "{1}\\n", .completion = "{0}", .weight = 1};
    Tokenizer *t = small_tokenizer("Mach weiter.\nGo on.\n", 280);
    DataSet d;
    int32_t *ids;
    size_t prompt = 0;
    CHECK_OK(data_load(&d, &s, 1, PART_ALL, t, 64, 1, 0, &arena));
    CHECK_EQUAL(2, d.count);
    CHECK_OK(tokenizer_encode(t, "Mach weiter.\n", 13, &ids, &prompt, &arena));
    for (size_t k = 0; k < 2; k++) {
        const Sample *x = &d.sample[k];
        const char *text = sample_text(t, x);
        CHECK(!strcmp(text, "Mach weiter.\nGo on.") || !strcmp(text, "Mach weiter.\nGo."));
        CHECK_EQUAL(tokenizer_eos(t), x->tokens[x->len - 1]);
        for (uint32_t i = 0; i < x->len; i++) CHECK_EQUAL(i > prompt, x->learn[i]);
        CHECK(!memcmp(x->tokens + 1, ids, prompt * sizeof *ids));        // the prompt alone is encoded as in training
    }
    s.completion = "{1}";                      // the same text twice is one sample
    CHECK_OK(data_load(&d, &s, 1, PART_ALL, t, 64, 1, 0, &arena));
    CHECK_EQUAL(1, d.count);
    CHECK_OK(data_load(&d, &s, 1, PART_ALL, t, 8, 1, 0, &arena));        // too long: left out
    CHECK_EQUAL(0, d.count);
    s.completion = "{2}";
    CHECK_FAILS(data_load(&d, &s, 1, PART_ALL, t, 64, 1, 0, &arena), "{2}");
    s.completion = "{0}", s.path = write_text("bad.tsv", "fine\tgut\nalone\n");
    CHECK_FAILS(data_load(&d, &s, 1, PART_ALL, t, 64, 1, 0, &arena), "line 2");
    s.kind = "poems";
    CHECK_FAILS(data_load(&d, &s, 1, PART_ALL, t, 64, 1, 0, &arena), "poems");
}

TEST(long_texts_are_cut_into_pieces)
{
    const char *text = "one two three four five six seven eight nine ten";
    DataSource s = {.kind = "lines", .path = write_text("l.txt", text), .completion = "{0}", .weight = 1};
    Tokenizer *t = small_tokenizer(text, 280);
    DataSet d;
    CHECK_OK(data_load(&d, &s, 1, PART_ALL, t, 12, 1, 0, &arena));
    size_t length = 0, ends = 0;
    for (size_t i = 0; i < d.count; i++) {
        CHECK(d.sample[i].len <= 12 && !d.sample[i].learn[0] && d.sample[i].learn[1]);
        ends += d.sample[i].tokens[d.sample[i].len - 1] == tokenizer_eos(t);
        length += d.sample[i].len - 1;
    }
    int32_t *ids;
    size_t count = 0;
    CHECK_OK(tokenizer_encode(t, text, strlen(text), &ids, &count, &arena));
    CHECK_EQUAL(1, ends);
    CHECK_EQUAL(count + 1, length);
}

static uint64_t order_hash(const DataSet *d)
{
    uint64_t h = 0;
    for (size_t i = 0; i < d->count; i++)
        for (uint32_t k = 0; k < d->sample[i].len; k++) h = (h ^ (uint64_t)d->sample[i].tokens[k]) * 0x100000001B3u + i;
    return h;
}

TEST(epochs_are_shuffled_and_repeatable)
{
    DataSource s = {.kind = "pairs", .path = many_pairs(), .prompt = "{1}\n", .completion = "{1}", .weight = 1, .noise = 0.3};
    Tokenizer *t = small_tokenizer("w0 w1 w2 d3 d4 d5 d6 d7 d8 d9\n", 272);
    DataSet a, b, c;
    CHECK_OK(data_load(&a, &s, 1, PART_TRAIN, t, 64, 7, 3, &arena));
    CHECK_OK(data_load(&b, &s, 1, PART_TRAIN, t, 64, 7, 3, &arena));
    CHECK_OK(data_load(&c, &s, 1, PART_TRAIN, t, 64, 7, 4, &arena));
    CHECK(a.count == b.count && order_hash(&a) == order_hash(&b));
    CHECK(a.count == c.count && order_hash(&a) != order_hash(&c));
    size_t changed = 0;
    for (size_t i = 0; i < a.count; i++) {
        char *text = arena_string(&arena, sample_text(t, &a.sample[i])), *cut = strchr(text, '\n');
        CHECK(cut && cut > text);              // a word always stays
        *cut = 0;
        changed += strcmp(text, cut + 1) != 0;
    }
    CHECK(changed > a.count / 8 && changed < a.count / 2);               // two equal words: only a drop shows, 1 - 0.85^2 of them
    s.weight = 2.5, s.noise = 0;
    CHECK_OK(data_load(&b, &s, 1, PART_TRAIN, t, 64, 7, 3, &arena));
    CHECK_EQUAL((size_t)(2.5 * (double)a.count + 0.5), b.count);
    s.weight = 0;
    CHECK_FAILS(data_load(&b, &s, 1, PART_TRAIN, t, 64, 7, 3, &arena), "weight");
}

TEST(vocabulary_of_the_training_sentences)
{
    size_t count = 0, tokens = 0, words = 0;
    TestPair *p;
    CHECK_OK(data_pairs(&p, &count, test_data("tasks/tatoeba_eng_deu.txt"), PART_TRAIN, &arena));
    Buffer text = {0};
    for (size_t i = 0; i < count; i++) buffer_format(&text, "%s\n%s\n", p[i].prompt, p[i].answers[0]);
    const char *path = write_text("tokenizer.model", "");
    double start = clock_seconds();
    CHECK_OK(tokenizer_train((char *)text.data, text.len, 2048, path));
    CHECK(clock_seconds() - start < 60);
    Tokenizer *t;
    CHECK_OK(tokenizer_load(&t, path));
    CHECK_EQUAL(2048, tokenizer_vocab(t));
    for (size_t i = 0; i < count; i += 50) {
        int32_t *ids;
        size_t n = 0;
        CHECK_OK(tokenizer_encode(t, p[i].prompt, strlen(p[i].prompt), &ids, &n, &arena));
        CHECK(!strcmp(decode(t, ids, n), p[i].prompt));
        tokens += n, words++;
        for (const char *c = p[i].prompt; *c; c++) words += *c == ' ';
    }
    CHECK(tokens < words * 3);                 // about two pieces a word, the full stop being one
}

TEST(vocabulary_is_refused_where_it_cannot_be)
{
    const char *path = write_text("tokenizer.model", ""), *text = "aab aab 12 it's\n";
    CHECK_FAILS(tokenizer_train(text, strlen(text), 262, path), "too small");
    CHECK_FAILS(tokenizer_train(text, strlen(text), 2000, path), "too large");
    CHECK_FAILS(tokenizer_train("a\xFFz", 3, 300, path), "byte 1");
    CHECK_FAILS(tokenizer_train("", 0, 300, path), "too large");
}

// ---- the embedded model ----------------------------------------------------------------------------------------------

TEST(embedded_vocabulary_can_be_made_again)
{
    (void)test_data("tasks/tatoeba_eng_deu.txt");
    Recipe r;
    Buffer text = {0}, made = {0}, kept = {0};
    const char *path = write_text("tokenizer.model", "");
    CHECK_OK(recipe_read(&r, SOURCE_DIR "/recipes/base.yaml", RECIPE_TRAIN));
    CHECK_OK(data_text(&text, r.sources, r.source_count, r.seed));
    CHECK_OK(tokenizer_train((char *)text.data, text.len, 2048, path));
    CHECK_OK(file_read(&made, path, 1 << 20));
    CHECK_OK(file_read(&kept, SOURCE_DIR "/models/base/tokenizer.model", 1 << 20));
    CHECK(made.len == kept.len && !memcmp(made.data, kept.data, made.len));
    recipe_free(&r);
}

/* The greedy answer to a prompt and a newline. */
static const char *translate(const Tokenizer *t, PlainState *s, float *logits, uint32_t vocab, const char *prompt)
{
    const char *text = arena_format(&arena, "%s\n", prompt);
    int32_t *ids;
    size_t count = 0, rows;
    CHECK_OK(tokenizer_encode(t, text, strlen(text), &ids, &count, &arena));
    int32_t *in = arena_new(&arena, int32_t, count + 1), previous = ids[count - 1], next;
    in[0] = tokenizer_bos(t);
    memcpy(in + 1, ids, count * sizeof *ids);
    plain_truncate(s, 0);
    CHECK_OK(plain_forward(s, logits, in, rows = count + 1));
    Sampler sampler;
    sampler_init(&sampler, 0, 1, 1);
    Buffer out = {0};
    for (int i = 0; i < 48; i++, rows = 1, previous = next) {
        next = sampler_pick(&sampler, logits + (rows - 1) * vocab, vocab);
        if (next == tokenizer_eos(t)) break;
        CHECK_OK(tokenizer_decode(t, previous, next, &out));
        CHECK_OK(plain_forward(s, logits, &next, 1));
    }
    buffer_u8(&out, 0);
    return (const char *)out.data;
}

TEST(embedded_adapter_translates_what_it_never_saw)
{
    Model m;
    Adapter adapter;
    Tokenizer *t;
    TestPair *p;
    size_t count = 0, used = 0;
    CHECK_OK(model_load(&m, SOURCE_DIR "/models/base"));
    CHECK_OK(adapter_load(&adapter, SOURCE_DIR "/models/translate", &m.config));
    CHECK_OK(tokenizer_load(&t, SOURCE_DIR "/models/base/tokenizer.model"));
    CHECK_OK(data_pairs(&p, &count, test_data("tasks/tatoeba_eng_deu.txt"), PART_TEST, &arena));
    PlainState *base = plain_new(&m, NULL, m.config.context, &arena), *tuned = plain_new(&m, &adapter, m.config.context, &arena);
    float *logits = arena_new(&arena, float, (size_t)m.config.context * m.config.vocab);
    const char *before[200], *after[200];
    for (size_t i = 0; i < count && used < 200; i += count / 200, used++) {
        before[used] = translate(t, base, logits, m.config.vocab, p[i].prompt);
        after[used] = translate(t, tuned, logits, m.config.vocab, p[i].prompt);
        p[used] = p[i];
    }
    double chrf = score_chrf(after, p, used).value;
    printf("    %zu held-out sentences: chrF %.1f, exact %.1f %%; the base alone %.1f\n", used, chrf,
           score_exact(after, p, used).value, score_chrf(before, p, used).value);
    CHECK(chrf > 45 && chrf > 2 * score_chrf(before, p, used).value);
}

int main(int argc, char **argv)
{
    arena_init(&arena, false);
    return test_main(argc, argv);
}
