/* test_cost.c - the golden table: exact bytes and exchanges of one token, by shape and plan. A change of a byte shows here
 * and belongs into the commit's message: run with MARILL_GOLDEN=write to rewrite the table. */
#include "model/secure.h"
#include "test.h"

typedef struct Line { const char *name; ModelConfig config; uint32_t frozen, rank, past; size_t rows; } Line;

#define TAIL .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2
#define SMALL {.width = 160, .layers = 8, .heads = 8, .kv_heads = 4, .head_dim = 16, .ffn = 448, .vocab = 2048, .context = 128, .tied = true, TAIL}
#define SEVEN {.width = 4096, .layers = 1, .heads = 32, .kv_heads = 32, .head_dim = 128, .ffn = 11008, .vocab = 32000, .context = 128, TAIL}

static const Line lines[] = {
    {"embedded, prefill of 12", SMALL, 4, 32, 0, 12},
    {"embedded, token after 32", SMALL, 4, 32, 32, 1},
    {"embedded, token after 127", SMALL, 4, 32, 127, 1},
    {"llama2-7b, one layer and the head, token after 127", SEVEN, 0, 64, 127, 1}};

TEST(bytes_and_exchanges_are_those_of_the_golden_table)
{
    Buffer table = {0}, golden = {0};
    buffer_format(&table, "%-52s %-9s %-7s %9s %9s %9s %9s\n", "batch", "prefer", "private", "exchanges", "C to S", "S to C", "T to S");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        for (int k = 0; k < 4; k++) {
            Plan p;
            Cost c;
            PlanOptions o = {.context = 128, .frozen = lines[i].frozen, .prefer = k & 1 ? PREFER_BYTES : PREFER_EXCHANGES,
                             .private_part = k & 2 ? PRIVATE_LAYERS : PRIVATE_LORA};
            CHECK_OK(plan_assume(&p, &lines[i].config, &o, k & 2 ? 0 : lines[i].rank));
            CHECK_OK(plan_cost(&c, &p, &lines[i].config, lines[i].past, lines[i].rows, true));
            CHECK_EQUAL(p.layers * (k & 1 ? 23 : 18) + 5, c.exchanges);
            CHECK_EQUAL(0, c.bytes.third_to_client);
            buffer_format(&table, "%-52s %-9s %-7s %9llu %9llu %9llu %9llu\n", lines[i].name, k & 1 ? "bytes" : "exchanges", k & 2 ? "layers" : "lora",
                          (unsigned long long)c.exchanges, (unsigned long long)c.bytes.client_to_server, (unsigned long long)c.bytes.server_to_client,
                          (unsigned long long)c.bytes.third_to_server);
            plan_free(&p);
        }
    const char *path = SOURCE_DIR "/tests/golden_costs.txt";
    if (getenv("MARILL_GOLDEN")) CHECK_OK(file_write(path, table.data, table.len, 0644));
    CHECK_OK(file_read(&golden, path, 1 << 20));
    if (golden.len != table.len || memcmp(golden.data, table.data, table.len)) {
        fprintf(stderr, "the table is now\n%.*s", (int)table.len, (const char *)table.data);
        exit(1);
    }
    buffer_free(&table), buffer_free(&golden);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
