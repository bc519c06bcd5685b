/* fuzz_data.c - a file of training data: a byte for the kind and the template, then the file. */
#include "tune/data.h"
#include "tune/data_json.h"
#include "tune/data_split.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Whatever is taken has something to learn in every turn. */
static void json_check(const char *text, size_t len, const char *template)
{
    JsonRecords all;
    Arena a;
    arena_init(&a, false);
    if (failed(json_records_parse(&all, text, len, chat_template(template), &a))) ASSERT(*result_text());
    else
        for (size_t i = 0; i < all.count; i++) {
            ASSERT(all.record[i].turns > 0 && all.record[i].part < PART_ALL);
            for (uint32_t t = 0; t < all.record[i].turns; t++) ASSERT(*all.record[i].turn[t].completion);
        }
    arena_free(&a);
}

static Tokenizer *tokenizer_make(void)
{
    static const char text[] = "User: a word and another one\nAssistant: so it is, said the other one\n";
    char path[] = "/tmp/marill-fuzz-XXXXXX";
    Tokenizer *t = NULL;
    int fd = mkstemp(path);
    ASSERT(fd >= 0);
    close(fd);
    ASSERT(!failed(tokenizer_train(text, sizeof text - 1, 290, path)) && !failed(tokenizer_load(&t, path)));
    unlink(path);
    return t;
}

static void load_check(const DataSource *s)
{
    static Tokenizer *t;
    if (!t) t = tokenizer_make();
    DataSet set;
    Arena a;
    arena_init(&a, false);
    if (failed(data_load(&set, s, 1, PART_ALL, t, 64, 1, 0, &a))) ASSERT(*result_text());
    else
        for (size_t i = 0; i < set.count; i++) ASSERT(set.sample[i].len <= 64 && !set.sample[i].learn[0]);
    arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const char *const kinds[] = {"jsonl", "jsonl", "jsonl", "jsonl", "tsv", "pairs", "lines", "stories"};
    static const char *const templates[] = {"plain", "chatml", "llama2", "alpaca"};
    static int fd = -1;
    if (!len) return 0;
    bool json = data[0] % 8 < 4, pairs = data[0] % 8 == 4 || data[0] % 8 == 5;
    if (fd < 0) fd = memfd_create("data", 0);
    ASSERT(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, data + 1, len - 1, 0) == (ssize_t)(len - 1));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DataSource s = {.kind = kinds[data[0] % 8], .path = path, .weight = 1, .prompt = pairs ? "{1}\n" : NULL,
                    .completion = json ? NULL : "{0}", .template = json ? templates[data[0] % 4] : NULL};
    load_check(&s);
    if (json && utf8_invalid_at(data + 1, len - 1) == len - 1 && !memchr(data + 1, 0, len - 1))
        json_check((const char *)data + 1, len - 1, s.template);
    return 0;
}
