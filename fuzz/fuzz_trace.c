/* fuzz_trace.c - traces from anywhere: refused, or replayed over a network in an end, or found not to be of one session. */
#include "serve/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Trace t[PARTIES_COUNT] = {{0}};
    NetworkTime out;
    size_t part = size / PARTIES_COUNT;
    bool good = true;
    for (size_t i = 0; i < PARTIES_COUNT; i++) good &= !failed(trace_parse(&t[i], data + i * part, part, "trace"));
    if (good && failed(network_time(&out, t, &(Net){1e-3, 1e6})) && !*result_text()) bug("a failure without a text");
    for (size_t i = 0; i < PARTIES_COUNT; i++) trace_free(&t[i]);
    return 0;
}
