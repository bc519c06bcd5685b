/* fuzz_config.c - config.json and adapter_config.json. */
#include "model/adapter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    ModelConfig c, shape = {.layers = 5};
    AdapterConfig g;
    Arena a;
    arena_init(&a, false);
    if (failed(config_parse(&c, (const char *)data, len))) ASSERT(*result_text());
    if (failed(adapter_config_parse(&g, (const char *)data, len, &shape, &a))) ASSERT(*result_text());
    arena_free(&a);
    return 0;
}
