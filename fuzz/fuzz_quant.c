/* fuzz_quant.c - the header of a quantised base, and the tensors that it vouches for. */
#include <string.h>
#include "model/quant.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void put_u64(uint8_t *p, uint64_t v)
{
    for (unsigned b = 0; b < 8; b++) p[b] = (uint8_t)(v >> 8 * b);
}

/* Makes the checksums right, which no input would hit upon: of each tensor, at 128, and of the header, at 64. */
static void sums_mend(uint8_t *file, size_t len, const ModelConfig *c, Arena *a)
{
    QuantTensor *t;
    size_t size, count = quant_tensors(&t, &size, c, a);
    if (len < size) return;
    for (size_t i = 0; i < count; i++) put_u64(file + 128 + 8 * i, quant_checksum(file + t[i].at, t[i].end - t[i].at));
    put_u64(file + 64, 0);
    put_u64(file + 64, quant_checksum(file, t[0].at));
}

/* The first byte says whether the checksums are mended. The bytes after it lie as a mapped file does. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    Arena a;
    Model m = {.config = {.width = 2, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .ffn = 3, .vocab = 2, .context = 4}};
    arena_init(&a, false);
    arena_init(&m.arena, false);
    bool mend = len > 0 && data[0] & 1;
    if (len) data++, len--;
    uint8_t *file = arena_new(&a, uint8_t, len + 1);
    if (len) memcpy(file, data, len);
    if (mend) sums_mend(file, len, &m.config, &a);
    if (failed(quant_bind(&m, file, len))) ASSERT(*result_text());
    else ASSERT(m.quantised && m.quant_head.scale[1] > 0);
    arena_free(&m.arena);
    arena_free(&a);
    return 0;
}
