/* fuzz_plan.c - a plan from anywhere, for a shape from anywhere: it is refused, or sound for the shape, and then it can be
 * counted and hashed, and the third can deal a batch under it or says what it has no memory for.
 *
 * The first bytes choose the shape and the options of a plan for it; the rest is a plan's text. A text that is no plan, as most
 * are, leaves the plan that was chosen, with one of its numbers changed. */
#include <stdlib.h>
#include <string.h>
#include "crypto/crypto.h"
#include "model/secure.h"

enum { HEAD = 16, BATCH = 2, SMALL = 1 << 18 };

/* Small sizes and the largest ones that a config may name, and what lies around a bound. */
static uint32_t size_of(uint8_t byte, uint32_t most)
{
    uint32_t power = UINT32_C(1) << (byte >> 2 & 31) % 22, v = (byte & 3) == 0 ? power : power + (byte & 3) - 2;
    return v < 1 ? 1 : v > most ? most : v;
}

static ModelConfig shape_of(const uint8_t *h)
{
    ModelConfig c = {.arch = h[0] & 1 ? ARCH_GPT2 : ARCH_LLAMA, .width = size_of(h[1], 1 << 16), .layers = size_of(h[2], 64),
                     .kv_heads = size_of(h[3], 1024), .head_dim = 2 * size_of(h[4], 512), .ffn = size_of(h[5], 1 << 20),
                     .vocab = size_of(h[6], 1 << 20), .context = size_of(h[7], 1 << 17), .norm_eps = 1e-5f, .rope_theta = 10000,
                     .rope = {.factor = 1}, .bos = h[0] & 2 ? 0 : -1, .eos = -1};
    c.heads = c.arch == ARCH_GPT2 || c.kv_heads > 256 ? c.kv_heads : c.kv_heads * (1 + h[0] / 64);
    return c;
}

static Result plan_chosen(Plan *p, const ModelConfig *c, const uint8_t *h)
{
    PlanOptions o = {.context = c->context, .frozen = h[8] % c->layers, .prefer = h[9] & 1 ? PREFER_BYTES : PREFER_EXCHANGES,
                     .private_part = h[9] & 2 || c->arch == ARCH_GPT2 ? PRIVATE_LAYERS : PRIVATE_LORA, .weight_bits = h[9] & 4 ? 8 : 16,
                     .variant.heads.size = h[9] & 8 ? h[10] : 0, .prefix_len = h[9] & 16 ? h[10] : 0};
    static float ones[2 * 64], zeros[64 * 1024];
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++) ones[i] = 1;
    if (h[12] & 1) o.variant.norm = ones, o.variant.norm_mix = 1;
    if (h[12] & 2) o.variant.row_bound = zeros;
    o.variant.side_by_side = h[12] & 4;
    return plan_assume(p, c, &o, o.private_part == PRIVATE_LORA && h[9] & 32 ? 1 + h[11] : 0);
}

/* The number before which the text's `at`-th colon stands becomes another. */
static Result plan_changed(Plan *p, unsigned at, int by)
{
    Buffer text = {0}, changed = {0};
    plan_json(p, &text);
    buffer_u8(&text, 0);
    plan_free(p);
    char *from = (char *)text.data, *end, *next = from;
    for (; next && (next = strchr(next, ':')) && at > 0; at--) next++;
    if (next) {
        long v = strtol(next + 1, &end, 10);
        buffer_append(&changed, from, (size_t)(next + 1 - from));
        buffer_format(&changed, " %ld", v + by);
        buffer_append(&changed, end, strlen(end));
    }
    Result r = plan_parse(p, (const char *)changed.data, changed.len);
    buffer_free(&text), buffer_free(&changed);
    return r;
}

static bool is_quick(const Plan *p, const ModelConfig *c)
{
    double row = c->width + 2.0 * c->ffn + (c->heads + 2.0 * c->kv_heads) * c->head_dim + 16.0 * c->heads * (p->known + BATCH);
    return plan_setup_bytes(p, c) < SMALL && p->layers * row + c->vocab + (double)p->known * c->kv_heads * c->head_dim < SMALL / 8;
}

static Result drop(Feed *f, size_t row, const void *data, size_t len)
{
    (void)f, (void)row, (void)data, (void)len;
    return OK;
}

static void deal(const Plan *p, const ModelConfig *c)
{
    static const uint8_t keys[BATCH][KEY_BYTES] = {{1}, {2}};
    Feed feed = {.write = drop};
    size_t rows = p->context - p->known < BATCH ? 1 : BATCH;
    Arena a;
    SecureNet *net;
    arena_init(&a, false);
    Engine *e = engine_new(ROLE_THIRD, NULL, &feed);
    Result r = secure_new(&net, e, &a, c, p, NULL, NULL);
    if (!failed(r)) {
        engine_begin(e, rows, 0, keys, keys);
        r = secure_forward(net, rows, NULL, NULL, NULL, false);
    }
    if (failed(r) && r.kind != FAIL_SYSTEM) bug("a sound plan cannot be dealt for: %s", result_text());
    engine_free(e);
    arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool started;
    if (!started) num_init(NUM_BEST), crypto_init(false), started = true;
    if (size < HEAD) return 0;
    ModelConfig c = shape_of(data);
    Plan p;
    Result r = plan_parse(&p, (const char *)data + HEAD, size - HEAD);
    if (failed(r)) {
        plan_free(&p);
        r = plan_chosen(&p, &c, data);
        if (!failed(r) && data[12]) r = plan_changed(&p, data[13] | (unsigned)(data[14] & 3) << 8, (int8_t)data[15]);
    }
    if (!failed(r) && !failed(plan_check(&p, &c))) {
        Cost cost;
        uint8_t hash[HASH_BYTES];
        size_t rows = p.context - p.known < 3 ? 1 : 3;
        if (failed(plan_cost(&cost, &p, &c, 0, rows, true))) bug("a sound plan cannot be counted: %s", result_text());
        if ((uint64_t)p.context * c.head_dim < SMALL) plan_hash(&p, &c, hash);
        if (is_quick(&p, &c)) deal(&p, &c);
    }
    plan_free(&p);
    return 0;
}
