/* test_formats.c - training data in JSON and TSV: what is read as what, what is learned of it, what is refused and where. */
#include <fcntl.h>
#include "test.h"
#include "model/layers.h"
#include "tune/data_json.h"
#include "tune/data_split.h"
#include "tune/train.h"

static Arena arena;
static Tokenizer *tokenizer;

static const char *write_text(const char *name, const char *text)
{
    const char *path = arena_format(&arena, "%s/%s", test_folder(), name);
    CHECK_OK(file_write(path, text, strlen(text), 0644));
    return path;
}

static void tokenizer_make(void)
{
    const char *text = "User: Hi.\nAssistant: Hello there, what is it?\nSystem: Be brief.\n", *path = write_text("tokenizer.model", "");
    CHECK_OK(tokenizer_train(text, strlen(text), 300, path));
    CHECK_OK(tokenizer_load(&tokenizer, path));
}

// Writes what is shown: learned text in brackets.
static void show_begin(void *ctx, size_t number, size_t tokens, size_t learned)
{
    buffer_format(ctx, "%zu:%zu:%zu|", number, tokens, learned);
}

static void show_text(void *ctx, const uint8_t *text, size_t len, bool learned)
{
    buffer_format(ctx, "%s%.*s%s", learned ? "{" : "", (int)len, (const char *)text, learned ? "}" : "");
}

static const char *load(DataSet *d, const DataSource *s, DataPart part, uint32_t context)
{
    if (!tokenizer) tokenizer_make();
    Buffer out = {0};
    SampleView view = {.count = 1, .ctx = &out, .begin = show_begin, .text = show_text};
    CHECK_OK(data_load(d, s, 1, part, tokenizer, context, 1, 0, &arena));
    CHECK_OK(data_show(d, tokenizer, &view));
    buffer_u8(&out, 0);
    const char *text = strchr((const char *)out.data, '|');
    return text ? text + 1 : "";
}

/* The one sample of a file of jsonl, what is learned in braces. */
static const char *shown(const char *json, const char *template)
{
    DataSet d;
    DataSource s = {.kind = "jsonl", .path = write_text("one.jsonl", json), .template = template, .weight = 1};
    const char *text = load(&d, &s, PART_ALL, 1024);
    CHECK_EQUAL(1, d.count);
    CHECK_EQUAL(0, d.sample[0].learn[0]);
    return text;
}

#define CHECK_TEXT(want, got) do { const char *got_ = (got); if (strcmp(want, got_)) { \
    fprintf(stderr, "%s:%d: '%s', not '%s'\n", __FILE__, __LINE__, got_, want); exit(1); } } while (0)

static const char chat[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief. \"}, {\"role\": \"user\", \"content\": \"Hi.\"},"
    " {\"role\": \"assistant\", \"content\": \"Hello!\"}, {\"role\": \"user\", \"content\": \"\\nMore\"},"
    " {\"role\": \"assistant\", \"content\": \"No.\"}]}\n";

TEST(every_answer_is_learned_and_nothing_else)
{
    CHECK_TEXT("<s>System: Be brief.\nUser: Hi.\nAssistant:{ Hello!</s>}User: More\nAssistant:{ No.</s>}", shown(chat, NULL));
    CHECK_TEXT("<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n{Hello!</s>}"
               "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n{No.</s>}", shown(chat, "chatml"));
    CHECK_TEXT("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi. [/INST]{ Hello! </s>}<s>[INST] More [/INST]{ No. </s>}", shown(chat, "llama2"));
    CHECK_TEXT("<s>Be brief.\n\n### Instruction:\nHi.\n\n### Response:\n{Hello!</s>}### Instruction:\nMore\n\n### Response:\n{No.</s>}",
               shown(chat, "alpaca"));
}

TEST(a_weight_of_zero_is_not_learned)
{
    CHECK_TEXT("<s>User: a\nAssistant: b</s>User: c\nAssistant:{ d</s>}",
               shown("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\", \"weight\": 0},"
                     "{\"role\": \"user\", \"content\": \"c\"}, {\"role\": \"assistant\", \"content\": \"d\", \"weight\": 1}]}", "plain"));
}

TEST(the_other_forms_are_recognised)
{
    CHECK_TEXT("<s>two and \n{one</s>}", shown("{\"prompt\": \"two and \\n\", \"completion\": \"one\", \"task\": \"x\", \"references\": [1]}", NULL));
    CHECK_TEXT("<s>{Once, a text.</s>}", shown("\r\n{\"text\": \"Once, a text.\"}\r\n\r\n", NULL));
    CHECK_TEXT("<s>User: a\nAssistant:{ b</s>}",
               shown("{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"gpt\", \"value\": \"b\"}], \"id\": 7}", NULL));
    CHECK_TEXT("<s>User: Add.\n1, 2\nAssistant:{ 3</s>}",
               shown("{\"instruction\": \"Add.\", \"input\": \"1, 2\", \"output\": \"3\", \"text\": \"passed over\"}", NULL));
    const char *with = shown("[\n{\"instruction\": \"Add.\", \"input\": \"1\", \"output\": \"3\"}\n]\n", "alpaca");
    CHECK(strstr(with, "paired with an input") && strstr(with, "### Instruction:\nAdd.\n\n### Input:\n1\n\n### Response:\n{3</s>}"));
    const char *without = shown("[{\"instruction\": \"Add.\", \"output\": \"3\"}]", "alpaca");
    CHECK(!strstr(without, "Input") && strstr(without, "### Instruction:\nAdd.\n\n### Response:\n{3</s>}"));
}

TEST(prompt_and_completion_are_one_text)
{
    DataSet d;
    DataSource s = {.kind = "jsonl", .path = write_text("p.jsonl", "{\"prompt\": \"User: Hi.\\n\", \"completion\": \"Hello there\"}"), .weight = 1};
    (void)load(&d, &s, PART_ALL, 64);
    int32_t *ids;
    size_t count = 0;
    CHECK_OK(tokenizer_encode(tokenizer, "User: Hi.\nHello there", 21, &ids, &count, &arena));
    CHECK_EQUAL(count + 2, d.sample[0].len);
    CHECK(!memcmp(ids, d.sample[0].tokens + 1, count * sizeof *ids));
}

// ---- what is refused -------------------------------------------------------------------------------------------------

static Result try(const char *text)
{
    DataSet d;
    DataSource s = {.kind = "jsonl", .path = write_text("bad.jsonl", text), .weight = 1};
    if (!tokenizer) tokenizer_make();
    return data_load(&d, &s, 1, PART_ALL, tokenizer, 64, 1, 0, &arena);
}

#define GOOD "{\"prompt\": \"a\", \"completion\": \"b\"}\n"
#define CHATS(list) GOOD_CHAT "{\"messages\": [" list "]}\n"
#define GOOD_CHAT "{\"messages\": [" USER ", " REPLY "]}\n"
#define USER "{\"role\": \"user\", \"content\": \"a\"}"
#define REPLY "{\"role\": \"assistant\", \"content\": \"b\"}"

TEST(bad_records_are_refused_by_line_and_reason)
{
    CHECK_OK(try(GOOD));
    CHECK_FAILS(try(GOOD "\n{\"prompt\": "), "bad.jsonl: line 3: not JSON");
    CHECK_FAILS(try(GOOD "7\n"), "line 2: not JSON");
    CHECK_FAILS(try(GOOD "{\"prompt\": \"a\"}\n"), "line 2: completion is absent");
    CHECK_FAILS(try(GOOD "{\"completion\": \"a\"}\n"), "line 2: prompt is absent");
    CHECK_FAILS(try(GOOD "{\"prompt\": 5, \"completion\": \"b\"}\n"), "line 2: prompt is an integer, not a text");
    CHECK_FAILS(try(GOOD "{\"prompt\": \"a\", \"completion\": \" \\n\"}\n"), "line 2: an empty completion");
    CHECK_FAILS(try("{\"prompt\": \"\", \"completion\": \"b\"}\n"), "line 1: prompt is empty");
    CHECK_FAILS(try(GOOD "{\"text\": \"a\"}\n"), "line 2: a record of text in a file of prompt and completion");
    CHECK_FAILS(try("{\"texts\": \"a\"}\n"), "line 1: none of");
    CHECK_FAILS(try("{\"text\": \"a\", \"text\": \"b\"}\n"), "line 1: not JSON");
    CHECK_FAILS(try("{\"text\": \"a\\u0000b\"}\n"), "line 1: not JSON");
    CHECK_FAILS(try("{\"text\": \"a\", \"n\": 123456789012345678901234567890}\n"), "line 1: not JSON");
    CHECK_FAILS(try(GOOD "{\"prompt\": \"\xFF\", \"completion\": \"b\"}\n"), "line 2: not UTF-8");
    CHECK_FAILS(try("{\"instruction\": \"a\", \"output\": \"\"}\n"), "output is an empty completion");
    CHECK_FAILS(try("{\"instruction\": \"a\", \"input\": 3, \"output\": \"b\"}\n"), "input is an integer");
    CHECK_FAILS(try("{\"instruction\": \"a\"}\n"), "output is absent");
}

TEST(bad_conversations_are_refused_by_message)
{
    CHECK_OK(try(GOOD_CHAT));
    CHECK_FAILS(try(CHATS("")), "line 2: a conversation without");
    CHECK_FAILS(try(CHATS(USER)), "line 2: message 1, the last, is the user's");
    CHECK_FAILS(try(CHATS(REPLY)), "line 2: message 1 is the assistant's, where the user's belongs");
    CHECK_FAILS(try(CHATS(USER ", " USER ", " REPLY)), "message 2 is the user's");
    CHECK_FAILS(try(CHATS(USER ", " REPLY ", {\"role\": \"system\", \"content\": \"a\"}")), "message 3 is the system's");
    CHECK_FAILS(try(CHATS(USER ", {\"role\": \"tool\", \"content\": \"a\"}")), "message 2: unknown role 'tool'");
    CHECK_FAILS(try(CHATS(USER ", {\"role\": \"assistant\", \"content\": \" \"}")), "message 2 is an empty completion");
    CHECK_FAILS(try(CHATS(USER ", {\"role\": \"assistant\", \"content\": [\"b\"]}")), "message 2: content is an array");
    CHECK_FAILS(try(CHATS(USER ", {\"role\": \"assistant\", \"content\": null}")), "message 2: content is absent");
    CHECK_FAILS(try(CHATS(USER ", {\"role\": \"assistant\", \"content\": \"b\", \"weight\": 2}")), "message 2: weight is 2");
    CHECK_FAILS(try(CHATS(USER ", {\"role\": \"assistant\", \"content\": \"b\", \"weight\": 0}")), "nothing to learn");
    CHECK_FAILS(try(CHATS(USER ", 5")), "message 2: not an object");
    CHECK_FAILS(try("{\"conversations\": [{\"from\": \"user\", \"value\": \"a\"}]}"), "unknown role 'user'");
    CHECK_FAILS(try("{\"messages\": 5}"), "messages is an integer");
}

TEST(bad_arrays_are_refused_by_line)
{
    CHECK_OK(try("[]"));
    CHECK_FAILS(try("[\n" GOOD ",\n{\"prompt\": \"a\"}]"), "line 4: completion is absent");
    CHECK_FAILS(try("[\n" GOOD ",\n 5]"), "line 4: record 2 is not an object");
    CHECK_FAILS(try("[\n" GOOD ",]"), "record 2 is not an object");
    CHECK_FAILS(try("[" GOOD GOOD "]"), "neither a comma");
    CHECK_FAILS(try("[" GOOD), "does not end");
    CHECK_FAILS(try("[" GOOD ","), "does not end");
    CHECK_FAILS(try("["), "does not end");
    CHECK_FAILS(try("[{\"text\": \"a]"), "not JSON");
    CHECK_FAILS(try("[" GOOD "]\n" GOOD), "line 3: text after the end");
}

TEST(files_that_are_too_large_or_too_deep_are_refused)
{
    Buffer b = {0};
    buffer_format(&b, "{\"text\": \"");
    for (int i = 0; i < 9 << 20; i++) buffer_u8(&b, 'a');
    buffer_format(&b, "\"}");
    buffer_u8(&b, 0);
    CHECK_FAILS(try((char *)b.data), "line 1: a record of");
    b.len = 0;
    buffer_format(&b, "{\"text\": ");
    for (int i = 0; i < 100000; i++) buffer_u8(&b, '[');
    buffer_u8(&b, 0);
    CHECK_FAILS(try((char *)b.data), "deeper");
    const char *path = write_text("large.jsonl", "");
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)10 << 30) == 0 && close(fd) == 0);
    DataSet d;
    DataSource s = {.kind = "jsonl", .path = path, .weight = 1};
    CHECK_FAILS(data_load(&d, &s, 1, PART_ALL, tokenizer, 64, 1, 0, &arena), "larger than");
    CHECK_EQUAL(0, unlink(path));
}

// ---- parts -----------------------------------------------------------------------------------------------------------

/* A file of 600 lines, each "q" and its number between two texts. */
static const char *many(const char *name, const char *before, const char *after)
{
    Buffer b = {0};
    for (int i = 0; i < 600; i++) buffer_format(&b, "%sq%d%s\n", before, i, after);
    buffer_u8(&b, 0);
    return write_text(name, (char *)b.data);
}

TEST(parts_follow_the_prompt_whatever_the_form)
{
    DataSource s[4] = {{.kind = "jsonl", .path = many("a.jsonl", "{\"prompt\": \"", "\\n\", \"completion\": \"x\"}"), .weight = 1},
                       {.kind = "jsonl", .path = many("b.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"", "\"}, " REPLY "]}"), .weight = 1},
                       {.kind = "jsonl", .template = "llama2", .weight = 1},
                       {.kind = "tsv", .path = many("c.tsv", "", "\tan answer"), .prompt = "{0}\n", .completion = "{1}", .weight = 1}};
    s[2].path = s[1].path;
    DataSet d[3];
    size_t want[3];
    for (size_t i = 0; i < 4; i++) {
        size_t sum = 0;
        for (DataPart p = PART_TRAIN; p <= PART_TEST; p++) {
            (void)load(&d[p], &s[i], p, 128);
            sum += d[p].count;
            if (i == 0) want[p] = d[p].count;
            CHECK_EQUAL(want[p], d[p].count);
        }
        CHECK_EQUAL(600, sum);
    }
    CHECK(want[PART_TRAIN] > 550 && want[PART_VALID] > 0 && want[PART_TEST] > 0);
    s[3].part = "valid";                       // the file is that part, as a whole
    (void)load(&d[0], &s[3], PART_TRAIN, 128);
    CHECK_EQUAL(0, d[0].count);
    (void)load(&d[0], &s[3], PART_VALID, 128);
    CHECK_EQUAL(600, d[0].count);
    (void)load(&d[0], &s[3], PART_VALID, 8);   // too long: counted
    CHECK_EQUAL(600, d[0].count + d[0].too_long);
    CHECK(d[0].too_long > 0);
}

TEST(sources_that_contradict_themselves_are_refused)
{
    DataSource s = {.kind = "jsonl", .path = "a", .weight = 1};
    CHECK_OK(data_check(&s));
    s.prompt = "{0}";
    CHECK_FAILS(data_check(&s), "no such field");
    s = (DataSource){.kind = "jsonl", .path = "a", .weight = 1, .template = "vicuna"};
    CHECK_FAILS(data_check(&s), "'vicuna'");
    s = (DataSource){.kind = "jsonl", .path = "a", .weight = 1, .part = "dev"};
    CHECK_FAILS(data_check(&s), "'dev'");
    s = (DataSource){.kind = "tsv", .path = "a", .weight = 1, .completion = "{0}", .template = "plain"};
    CHECK_FAILS(data_check(&s), "template is for jsonl");
    s = (DataSource){.kind = "tsv", .path = "a", .weight = 1, .completion = "{0}", .held_out = "b"};
    CHECK_FAILS(data_check(&s), "held_out");
    s = (DataSource){.kind = "tsv", .path = "a", .weight = 1};
    CHECK_FAILS(data_check(&s), "completion");
}

TEST(the_form_for_use_is_that_of_training)
{
    DataSource s[2] = {{.kind = "jsonl", .path = write_text("chat.jsonl", chat), .weight = 1, .part = "train"},
                       {.kind = "tsv", .path = "absent", .prompt = "User: {1}\\nAssistant:", .completion = " {0}", .weight = 1}};
    const char *form = NULL;
    CHECK_OK(data_form(&form, s, 2, &arena));
    CHECK_TEXT("User: {}\nAssistant:", form);
    s[0].template = "llama2";
    CHECK_OK(data_form(&form, s, 1, &arena));
    CHECK_TEXT("[INST] {} [/INST]", form);
    CHECK_OK(data_form(&form, s, 2, &arena));
    CHECK(!form);
    s[0].path = write_text("pairs.jsonl", GOOD);
    CHECK_OK(data_form(&form, s, 1, &arena));
    CHECK_TEXT("{}", form);
    s[0].path = write_text("texts.jsonl", "{\"text\": \"a\"}");
    CHECK_OK(data_form(&form, s, 2, &arena));
    CHECK_TEXT("User: {}\nAssistant:", form);
}

// ---- packing ---------------------------------------------------------------------------------------------------------

enum { CONTEXT = 64 };

typedef struct Small { Model model; Params params; float *values, *grad; Grads grads; Net net; NetScratch *scratch; Pack *pack; } Small;

static void small_make(Small *w)
{
    *w = (Small){.model.config = {.width = 16, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 4, .ffn = 24, .vocab = tokenizer_vocab(tokenizer),
                                  .context = CONTEXT, .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .tied = true}};
    const ModelConfig *c = &w->model.config;
    params_of_model(&w->params, c, &arena);
    w->values = arena_new(&arena, float, w->params.total);
    w->grad = arena_new(&arena, float, w->params.total);
    params_bind_model(&w->model, w->values, &arena);
    params_init_model(&w->model, w->values, 0.3, 1);
    float *rope = arena_new(&arena, float, (size_t)CONTEXT * c->head_dim);
    rope_table(rope, c, CONTEXT);
    w->net = (Net){.model = &w->model, .rope = rope};
    params_bind_grads(&w->grads, c, NULL, w->grad, &arena);
    w->scratch = net_scratch(&w->net, 2 * CONTEXT, &arena);
    w->pack = pack_new(2 * CONTEXT, &arena);
}

/* The loss of samples packed together; their gradient is added to w->grad. */
static double packed(Small *w, const Sample *s, size_t count)
{
    CHECK_EQUAL(count, pack_fill(w->pack, 2 * CONTEXT, s, count));
    return net_run(&w->net, w->scratch, w->pack, &w->grads, 1);
}

TEST(samples_in_one_pack_do_not_see_each_other)
{
    DataSet d;
    DataSource s = {.kind = "jsonl", .weight = 1, .path = write_text("two.jsonl", GOOD_CHAT "{\"messages\": [" USER ", " REPLY ", " USER ", {\"role\": \"assistant\", \"content\": \"Hello there\"}]}\n")};
    (void)load(&d, &s, PART_ALL, CONTEXT);
    CHECK_EQUAL(2, d.count);
    Small w;
    small_make(&w);
    double apart = packed(&w, &d.sample[0], 1) + packed(&w, &d.sample[1], 1), size = 0;
    float *sum = arena_new(&arena, float, w.params.total);
    memcpy(sum, w.grad, w.params.total * sizeof *sum);
    memset(w.grad, 0, w.params.total * sizeof *sum);
    CHECK_NEAR(apart, packed(&w, d.sample, 2), 1e-5 * apart);
    for (size_t i = 0; i < w.params.total; i++) size = fmax(size, fabs((double)sum[i]));
    CHECK(size > 0.1);
    for (size_t i = 0; i < w.params.total; i++) CHECK_NEAR(sum[i], w.grad[i], 1e-5 * size);
}

int main(int argc, char **argv)
{
    arena_init(&arena, false);
    return test_main(argc, argv);
}
