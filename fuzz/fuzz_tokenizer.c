/* fuzz_tokenizer.c - a tokenizer.model, and text under it: two bytes of text length, the text, the file. */
#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void round_trip(const Tokenizer *t, const char *text, size_t len)
{
    Arena a;
    Buffer out = {0};
    int32_t *ids;
    size_t count;
    arena_init(&a, false);
    if (!failed(tokenizer_encode(t, text, len, &ids, &count, &a))) {
        for (size_t i = 0; i < count; i++) ASSERT(!failed(tokenizer_decode(t, i ? ids[i - 1] : -1, ids[i], &out)));
    }
    buffer_free(&out);
    arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    Tokenizer *t;
    if (len < 2) return 0;
    size_t text = (size_t)data[0] | (size_t)data[1] << 8;
    if (text > len - 2) text = len - 2;
    if (failed(tokenizer_parse(&t, data + 2 + text, len - 2 - text))) return 0;
    round_trip(t, (const char *)data + 2, text);
    tokenizer_free(t);
    return 0;
}
