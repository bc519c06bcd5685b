/* fuzz_plan.c - a plan from anywhere: it is refused, or sound for the shape, and then it can be counted and hashed. */
#include "crypto/crypto.h"
#include "model/secure.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ModelConfig shape = {.width = 24, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 6, .ffn = 20, .vocab = 30,
                                      .context = 80,
                                      .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2};
    static bool started;
    if (!started) num_init(NUM_BEST), crypto_init(false), started = true;
    Plan p;
    if (!failed(plan_parse(&p, (const char *)data, size)) && !failed(plan_check(&p, &shape))) {
        Cost c;
        uint8_t hash[HASH_BYTES];
        size_t rows = p.context - p.known < 3 ? 1 : 3;
        if (failed(plan_cost(&c, &p, &shape, 0, rows, true))) bug("a sound plan cannot be counted: %s", result_text());
        plan_hash(&p, &shape, hash);
    }
    plan_free(&p);
    return 0;
}
