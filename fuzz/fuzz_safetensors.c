/* fuzz_safetensors.c - the header of a tensor file, and the tensors it describes. */
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    TensorFile f;
    Arena a;
    arena_init(&a, false);
    if (!failed(tensors_parse(&f, data, len, &a))) {
        for (size_t i = 0; i < f.count; i++) {
            const float *out;
            const Tensor *t = &f.tensor[i];
            if (failed(tensors_take(&out, &f, t->name, t->dims == 1 ? 0 : t->shape[0], t->shape[1], true, &a))) ASSERT(*result_text());
        }
    }
    arena_free(&a);
    return 0;
}
