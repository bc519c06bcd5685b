/* bench_costs.c - `bench costs`: the exact bytes and exchanges of one token through the secure layers of a 7-billion-parameter shape,
 * beside what is asked of them. Nothing is run: COUNT gives what a session's own counters equal. */
#include "app/bench.h"

#include <string.h>

typedef struct Case {
    const char *name;
    double frozen;                             // of the layers
    uint32_t merge, context, past;
    Prefer prefer;
    double both_ways, all_links;               // asked, MB; 0: shown beside
    double exchanges;                          // asked, a layer; 0: shown beside
} Case;

static const Case cases[] = {
    {"32 layers, LoRA 64", 0, 1, 128, 127, PREFER_BYTES, 20.8, 106, 0},
    {"32 layers, LoRA 64", 0, 1, 128, 127, PREFER_EXCHANGES, 0, 0, 18},
    {"half frozen, heads merged by 4", 0.5, 4, 128, 127, PREFER_BYTES, 9.4, 43, 0},
    {"half frozen, heads merged by 4", 0.5, 4, 128, 127, PREFER_EXCHANGES, 0, 0, 18},
    {"32 layers, LoRA 64", 0, 1, 2048, 127, PREFER_BYTES, 0, 0, 0},
    {"half frozen, heads merged by 4", 0.5, 4, 2048, 127, PREFER_BYTES, 0, 0, 0},
    {"32 layers, LoRA 64", 0, 1, 2048, 2047, PREFER_BYTES, 0, 0, 0},
    {"half frozen, heads merged by 4", 0.5, 4, 2048, 2047, PREFER_BYTES, 0, 0, 0},
};
enum { CASES = sizeof cases / sizeof *cases, RANK = 64 };

typedef struct Counted { double both_ways, all_links, exchanges; } Counted;   // MB; a layer

static Result count(Counted *out, const Case *k, const char *shape)
{
    ModelConfig c;
    Plan p;
    Cost cost;
    GUARD(shape_config(shape, &c));
    PlanOptions o = {.context = k->context, .frozen = (uint32_t)(k->frozen * c.layers), .prefer = k->prefer,
                     .private_part = PRIVATE_LORA, .variant.heads.size = k->merge};
    GUARD(plan_assume(&p, &c, &o, RANK));
    Result r = plan_cost_layers(&cost, &p, &c, k->past, 1);
    if (!failed(r)) {
        const LinkBytes *b = &cost.bytes;
        out->both_ways = 1e-6 * (double)(b->client_to_server + b->server_to_client);
        out->all_links = out->both_ways + 1e-6 * (double)b->third_to_server;
        out->exchanges = (double)cost.exchanges / p.layers;
    }
    plan_free(&p);
    return r;
}

static void asked_add(Json *list, const Case *k, const char *what, double value, double asked)
{
    char name[160];
    snprintf(name, sizeof name, "%s, prefer %s, plan for %u, after %u: %s", k->name, prefer_names[k->prefer], k->context, k->past, what);
    Json *one = json_new_object();
    json_put(one, "name", json_of_text(name));
    json_put(one, "value", json_of_real(value));
    if (asked > 0) json_put(one, "asked", json_of_real(asked)), json_put(one, "met", json_of_bool(value <= asked));
    json_add(list, one);
}

Result bench_costs(int argc, char **argv)
{
    const char *shape = "llama2-7b";
    bool json = false;
    Option options[] = {OPTION("--shape", OPT_TEXT, &shape), OPTION("--json", OPT_FLAG, &json)};
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Counted n[CASES];
    for (size_t i = 0; i < CASES; i++) GUARD(count(&n[i], &cases[i], shape));
    if (json) {
        Json *o = json_new_object(), *list = json_new_array();
        for (size_t i = 0; i < CASES; i++) {
            asked_add(list, &cases[i], "MB online both ways", n[i].both_ways, cases[i].both_ways);
            asked_add(list, &cases[i], "MB over all links", n[i].all_links, cases[i].all_links);
            asked_add(list, &cases[i], "exchanges a layer", n[i].exchanges, cases[i].exchanges);
        }
        json_put(o, "bench", json_of_text("costs"));
        json_put(o, "shape", json_of_text(shape));
        json_put(o, "asked", list);
        print_json(o);
        return OK;
    }
    printf("%s, one token, decoder layers alone\n\n%-34s %-10s %6s %6s %12s %12s %12s\n", shape, "", "prefer", "plan", "after", "both ways",
           "all links", "exchanges");
    for (size_t i = 0; i < CASES; i++) {
        const Case *k = &cases[i];
        bool missed = (k->both_ways > 0 && n[i].both_ways > k->both_ways) || (k->all_links > 0 && n[i].all_links > k->all_links) ||
                      (k->exchanges > 0 && n[i].exchanges > k->exchanges);
        printf("%-34s %-10s %6u %6u %9.2f MB %9.2f MB %12.4g%s\n", k->name, prefer_names[k->prefer], k->context, k->past, n[i].both_ways,
               n[i].all_links, n[i].exchanges, missed ? "  MISSED" : "");
    }
    return OK;
}
