/* test_cost.c - the golden tables: exact bytes and exchanges of a batch, by shape and plan, and of every exchange of a layer. A
 * change of a byte shows here and belongs into the commit's message: run with MARILL_GOLDEN=write to rewrite them. */
#include "model/secure.h"
#include "test.h"

/* layers: the secure layers alone, as many as the shape has, and no known prefix; else with the head. kept: key-value heads that are
 * left in each layer (0: all). */
typedef struct Line {
    const char *name;
    ModelConfig config;
    uint32_t frozen, rank, past;
    size_t rows;
    bool layers;
    uint32_t context, merge;
    struct { uint32_t kept; Activation activation; Softmax softmax; unsigned faster; } more;
} Line;
enum { NORMS = 1, BOUNDS = 2, BESIDE = 4 };    // of faster: norms held, bounds of row maxima, halves side by side

#define TAIL .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2
#define SMALL {.width = 160, .layers = 8, .heads = 8, .kv_heads = 4, .head_dim = 16, .ffn = 448, .vocab = 2048, .context = 128, .tied = true, TAIL}
#define SEVEN {.width = 4096, .layers = 1, .heads = 32, .kv_heads = 32, .head_dim = 128, .ffn = 11008, .vocab = 32000, .context = 128, TAIL}

#define GPT2 {.arch = ARCH_GPT2, .width = 768, .layers = 1, .heads = 12, .kv_heads = 12, .head_dim = 64, .ffn = 3072, .vocab = 8, .context = 128, \
              .norm_eps = 1e-5f, .bos = 1, .eos = 2}
#define LAYERS(count) {.width = 4096, .layers = count, .heads = 32, .kv_heads = 32, .head_dim = 128, .ffn = 11008, .vocab = 8, .context = 2048, TAIL}

static const Line lines[] = {
    {"embedded, prefill of 12", SMALL, 4, 32, 0, 12, false, 128, 1, {.kept = 0}},
    {"embedded, token after 32", SMALL, 4, 32, 32, 1, false, 128, 1, {.kept = 0}},
    {"embedded, token after 127", SMALL, 4, 32, 127, 1, false, 128, 1, {.kept = 0}},
    {"llama2-7b, one layer and the head, token after 127", SEVEN, 0, 64, 127, 1, false, 128, 1, {.kept = 0}},
    {"gpt2-small, one layer, prefill of 128", GPT2, 0, 0, 0, 128, true, 128, 1, {.kept = 0}},
    {"gpt2-small, one layer, token after 127", GPT2, 0, 0, 127, 1, true, 128, 1, {.kept = 0}},
    {"llama2-7b, 32 layers, token after 127", LAYERS(32), 0, 64, 127, 1, true, 128, 1, {.kept = 0}},
    {"the same, planned for 2,048", LAYERS(32), 0, 64, 127, 1, true, 2048, 1, {.kept = 0}},
    {"the same, after 2,047", LAYERS(32), 0, 64, 2047, 1, true, 2048, 1, {.kept = 0}},
    {"llama2-7b, 16 layers merged by 4, token after 127", LAYERS(16), 0, 64, 127, 1, true, 128, 4, {.kept = 0}},
    {"the same, planned for 2,048", LAYERS(16), 0, 64, 127, 1, true, 2048, 4, {.kept = 0}},
    {"the same, after 2,047", LAYERS(16), 0, 64, 2047, 1, true, 2048, 4, {.kept = 0}},
    {"gpt2-small, one layer, prefill of 128, 3 heads left", GPT2, 0, 0, 0, 128, true, 128, 1, {.kept = 3}},
    {"the same, all heads, ReLU", GPT2, 0, 0, 0, 128, true, 128, 1, {.activation = ACTIVATION_RELU}},
    {"the same, Quad", GPT2, 0, 0, 0, 128, true, 128, 1, {.activation = ACTIVATION_QUAD}},
    {"the same, GELU and 2Quad", GPT2, 0, 0, 0, 128, true, 128, 1, {.softmax = SOFTMAX_2QUAD}},
    {"the same, GELU and 2ReLU", GPT2, 0, 0, 0, 128, true, 128, 1, {.softmax = SOFTMAX_2RELU}},
    {"the same, Quad and 2Quad", GPT2, 0, 0, 0, 128, true, 128, 1, {.activation = ACTIVATION_QUAD, .softmax = SOFTMAX_2QUAD}},
    {"llama2-7b, 16 layers, token after 127, 8 heads left", LAYERS(16), 0, 64, 127, 1, true, 128, 1, {.kept = 8}},
    {"the same, all heads, ReLU", LAYERS(16), 0, 64, 127, 1, true, 128, 1, {.activation = ACTIVATION_RELU}},
    {"the same, Quad", LAYERS(16), 0, 64, 127, 1, true, 128, 1, {.activation = ACTIVATION_QUAD}},
    {"the same, SiLU and 2Quad", LAYERS(16), 0, 64, 127, 1, true, 128, 1, {.softmax = SOFTMAX_2QUAD}},
    {"the same, SiLU and 2ReLU", LAYERS(16), 0, 64, 127, 1, true, 128, 1, {.softmax = SOFTMAX_2RELU}},
    {"the same, Quad and 2Quad", LAYERS(16), 0, 64, 127, 1, true, 128, 1, {.activation = ACTIVATION_QUAD, .softmax = SOFTMAX_2QUAD}},
    {"llama2-7b, 16 layers, token after 127, held norms", LAYERS(16), 0, 64, 127, 1, true, 128, 1, {.faster = NORMS}},
    {"the same, bounds of row maxima instead", LAYERS(16), 0, 64, 127, 1, true, 128, 1, {.faster = BOUNDS}},
    {"the same, halves side by side instead", LAYERS(16), 0, 64, 127, 1, true, 128, 1, {.faster = BESIDE}},
    {"the same, all three, merged by 4", LAYERS(16), 0, 64, 127, 1, true, 128, 4, {.faster = NORMS | BOUNDS | BESIDE}},
    {"gpt2-small, one layer, prefill of 128, all three", GPT2, 0, 0, 0, 128, true, 128, 1, {.faster = NORMS | BOUNDS | BESIDE}}};

/* The same of lines that take exchanges out: see docs/protocols.md. */
static uint64_t faster_saved(const Line *l, bool lean, bool private)
{
    unsigned beside = l->more.faster & BESIDE ? (lean ? 8 : 6) : 0, bounds = l->more.faster & BOUNDS ? 2 : 0;
    if (!(l->more.faster & NORMS)) return beside + bounds;
    if (!lean) return (beside ? 7 : 3) + bounds;
    if (l->config.arch == ARCH_GPT2) return (beside ? 11 : 7) + bounds;
    return (private ? 8U : 6U) + (beside ? 4U : 0U) + bounds;
}

/* Exchanges of a layer: what a line's variant saves of 18, or of 23. */
static uint64_t exchanges_saved(const Line *l, bool lean, bool private)
{
    bool gpt2 = l->config.arch == ARCH_GPT2;
    unsigned softmax = l->more.softmax == SOFTMAX_2QUAD ? 3 : l->more.softmax == SOFTMAX_2RELU ? 2 : 0;
    return faster_saved(l, lean, private) + gpt2 + softmax + (gpt2 && l->more.activation == ACTIVATION_QUAD);
}

static Variant line_variant(const Line *l)
{
    static uint32_t order[32 * 8];
    static float ones[2 * 32], zeros[32 * 32];
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++) ones[i] = 1;
    for (uint32_t i = 0; l->more.kept && i < l->config.layers * l->more.kept; i++) order[i] = i % l->more.kept;
    return (Variant){.heads = {.size = l->merge, .order = l->more.kept ? order : NULL, .heads = l->more.kept}, .activation = l->more.activation,
                     .softmax = l->more.softmax, .norm = l->more.faster & NORMS ? ones : NULL, .norm_mix = (l->more.faster & NORMS) != 0,
                     .row_bound = l->more.faster & BOUNDS ? zeros : NULL, .side_by_side = l->more.faster & BESIDE};
}

static void golden_compare(Buffer *table, const char *path)
{
    Buffer golden = {0};
    if (getenv("MARILL_GOLDEN")) CHECK_OK(file_write(path, table->data, table->len, 0644));
    CHECK_OK(file_read(&golden, path, 1 << 20));
    if (golden.len != table->len || memcmp(golden.data, table->data, table->len)) {
        fprintf(stderr, "%s is now\n%.*s", path, (int)table->len, (const char *)table->data);
        exit(1);
    }
    buffer_free(table), buffer_free(&golden);
}

TEST(bytes_and_exchanges_are_those_of_the_golden_table)
{
    Buffer table = {0};
    buffer_format(&table, "%-52s %-9s %-7s %9s %9s %9s %9s\n", "batch", "prefer", "private", "exchanges", "C to S", "S to C", "T to S");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        for (int k = 0; k < 4; k++) {
            Plan p;
            Cost c;
            const Line *line = &lines[i];
            bool gpt2 = line->config.arch == ARCH_GPT2;
            if (gpt2 && !(k & 2)) continue;
            PlanOptions o = {.context = line->context, .frozen = line->frozen, .prefer = k & 1 ? PREFER_BYTES : PREFER_EXCHANGES,
                             .private_part = k & 2 ? PRIVATE_LAYERS : PRIVATE_LORA, .variant = line_variant(line)};
            CHECK_OK(plan_assume(&p, &line->config, &o, k & 2 ? 0 : line->rank));
            if (line->layers) p.known = 0;
            if (line->layers) CHECK_OK(plan_cost_layers(&c, &p, &line->config, line->past, line->rows));
            else CHECK_OK(plan_cost(&c, &p, &line->config, line->past, line->rows, true));
            CHECK_EQUAL(p.layers * ((k & 1 ? 23U : 18U) - exchanges_saved(line, k & 1, k & 2)) + (line->layers ? 0U : 5U), c.exchanges);
            CHECK_EQUAL(0, c.bytes.third_to_client);
            buffer_format(&table, "%-52s %-9s %-7s %9llu %9llu %9llu %9llu\n", lines[i].name, k & 1 ? "bytes" : "exchanges", k & 2 ? "layers" : "lora",
                          (unsigned long long)c.exchanges, (unsigned long long)c.bytes.client_to_server, (unsigned long long)c.bytes.server_to_client,
                          (unsigned long long)c.bytes.third_to_server);
            plan_free(&p);
        }
    golden_compare(&table, SOURCE_DIR "/tests/golden_costs.txt");
}

static void exchange_note(void *ctx, const char *name, uint64_t c_to_s, uint64_t s_to_c, uint64_t t_to_s)
{
    buffer_format(ctx, "  %-48s %9llu %9llu %9llu\n", name, (unsigned long long)c_to_s, (unsigned long long)s_to_c, (unsigned long long)t_to_s);
}

/* What each exchange of one layer carries, for a prompt: the moves, as they meet on the wire. */
TEST(moves_of_a_layer_are_those_of_the_golden_table)
{
    static const struct { const char *name; ModelConfig config; Private private; size_t rows; } layers[] = {
        {"gpt2-small, all weights private, 128 rows", GPT2, PRIVATE_LAYERS, 128}, {"llama2-7b, LoRA 64, 16 rows", LAYERS(1), PRIVATE_LORA, 16}};
    Buffer table = {0};
    for (size_t i = 0; i < 2; i++)
        for (Prefer prefer = PREFER_EXCHANGES; prefer <= PREFER_BYTES; prefer++) {
            Plan p;
            Arena a;
            SecureNet *net;
            Wire out;
            const ModelConfig *c = &layers[i].config;
            PlanOptions o = {.context = 128, .prefer = prefer, .private_part = layers[i].private};
            arena_init(&a, false);
            CHECK_OK(plan_assume(&p, c, &o, layers[i].private == PRIVATE_LORA ? 64 : 0));
            p.known = 0;
            Engine *e = engine_new(ROLE_COUNT, NULL, NULL);
            buffer_format(&table, "%s, prefer %s: bytes C to S, S to C, T to S\n", layers[i].name, prefer == PREFER_BYTES ? "bytes" : "exchanges");
            engine_trace(e, exchange_note, &table);
            CHECK_OK(secure_new(&net, e, &a, c, &p, NULL, NULL));
            engine_begin(e, layers[i].rows, 0, NULL, NULL);
            CHECK_OK(secure_layers(net, layers[i].rows, NULL, NULL, &out));
            CHECK_EQUAL((prefer == PREFER_BYTES ? 23U : 18U) - (c->arch == ARCH_GPT2), engine_cost(e).exchanges);
            engine_free(e);
            arena_free(&a), plan_free(&p);
        }
    golden_compare(&table, SOURCE_DIR "/tests/golden_moves.txt");
}

/* Multiply-adds that seconds are predicted from: every row meets what it sees of keys and of values, and every weight. */
TEST(multiply_adds_are_counted)
{
    Plan p;
    Cost c;
    ModelConfig config = GPT2;
    PlanOptions o = {.context = 128, .private_part = PRIVATE_LAYERS};
    const uint64_t past = 5, rows = 16, seen = rows * past + rows * (rows + 1) / 2;
    CHECK_OK(plan_assume(&p, &config, &o, 0));
    p.known = 0, p.layers = config.layers = 1;
    CHECK_OK(plan_cost_layers(&c, &p, &config, 0, past + rows));
    Cost all = c;
    CHECK_OK(plan_cost_layers(&c, &p, &config, (uint32_t)past, rows));
    CHECK_EQUAL(2 * seen * config.heads * config.head_dim, c.work[WORK_ATTEND].macs);
    CHECK_EQUAL(2 * (seen + past * (past + 1) / 2) * config.heads * config.head_dim, all.work[WORK_ATTEND].macs);
    CHECK_EQUAL(12 * rows * config.width * config.width, c.work[WORK_PINNED].macs);
    CHECK_EQUAL(0, c.work[WORK_PUBLIC].macs);
    plan_free(&p);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
