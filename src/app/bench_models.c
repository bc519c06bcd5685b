/* bench_models.c - the part of a report on models that people use: a token to the plain forward, memory, bytes of a 7b shape, and
 * three variants of it, one layer of which was measured. */
#include "app/bench_report.h"

#include <math.h>
#include <string.h>

/* What is asked of `bench generate`, which judges nothing itself: a token to the plain forward's, MB beyond the shared map, MB of
 * the machine. */
static const double most_token = 4, most_beyond_map = 2000, most_machine = 24000;
static const char *const settings[] = {"dealer", "3pc"}, *const parties[] = {"client", "server", "third"};
enum { SETTINGS = 2, PARTIES = 3 };

static const Json *generate_find(const Results *r, const char *shape, const char *setting)
{
    char name[96];
    snprintf(name, sizeof name, "generate-%s-%s", shape, setting);
    return result_find(r, name);
}

static double party_of(const Json *o, const char *key, int party)
{
    char path[64];
    snprintf(path, sizeof path, "%s.%s", key, parties[party]);
    return real_of(o, path);
}

static void ratio_row(Table *t, const Json *g, const char *setting)
{
    if (!g) return;
    double v = real_of(g, "to_plain.token");
    table_row(t, "open-llama-3b, %s: a token on loopback, times the plain forward | <= %g | %.1f | %s", setting, most_token, v,
              met_text(v <= most_token));
}

static void memory_row(Table *t, const Json *g, const char *setting)
{
    if (!g) return;
    double v[PARTIES], most = 0;
    for (int p = 0; p < PARTIES; p++) v[p] = party_of(g, "peak_rss_beyond_map_mb", p), most = fmax(most, v[p]);
    table_row(t, "open-llama-3b, %s, context %.0f: RSS beyond the map, MB: client, provider, third | <= %g | %.0f, %.0f, %.0f | %s",
              setting, real_of(g, "context"), most_beyond_map, v[0], v[1], v[2], met_text(most <= most_beyond_map));
}

/* All processes, the map once. With fewer layers than the model's, the row says how many. */
static void machine_row(Table *t, const Json *g, const char *setting)
{
    if (!g) return;
    double map = 0, sum = 0, run = real_of(g, "scaled.secure_layers_run.1");
    char layers[64] = "";
    for (int p = 0; p < PARTIES; p++) {
        double beyond = party_of(g, "peak_rss_beyond_map_mb", p);
        sum += beyond, map = fmax(map, party_of(g, "peak_rss_mb", p) - beyond);
    }
    if (run > 0) snprintf(layers, sizeof layers, " (%.0f of %.0f secure layers run)", run, real_of(g, "secure_layers"));
    table_row(t, "llama2-7b, %s: RSS of all, the map once, MB%s | <= %g | %.0f | %s", setting, layers, most_machine, map + sum,
              met_text(map + sum <= most_machine));
}

static void costs_rows(Table *t, const Results *r)
{
    const Json *c = result_find(r, "costs"), *asked = result_walk(c, "asked");
    for (int with = 1; with >= 0; with--)
        for (size_t i = 0; i < json_count(asked); i++) {
            const Json *a = json_at(asked, i);
            bool asks = json_find(a, "asked") != NULL;
            if (asks != (with == 1) || (!asks && strstr(text_of(a, "name"), "exchanges a layer"))) continue;
            char most[32] = "";
            if (asks) snprintf(most, sizeof most, "<= %.4g", real_of(a, "asked"));
            table_row(t, "%s, %s | %s | %.4g | %s", text_of(c, "shape"), text_of(a, "name"), most, real_of(a, "value"),
                      asks ? met_text(real_of(a, "met") > 0) : "");
        }
}

static void generate_table(Section *s, const Results *r)
{
    Table t = {s, "Half of the layers frozen, rank 64, heads merged by 4; seconds on loopback, all parties on two cores, beside those of\n"
                  "the plain forward of the same quantised model. Positions that both know cost no layer. MB of RSS are beyond the map.",
               "run | known | prompt | prompt, s | plain, s | token, s | plain, s | token to plain | client, MB | provider | third", false};
    for (size_t i = 0; i < r->count; i++) {
        const Json *g = r->saved[i].json;
        if (strcmp(text_of(g, "bench"), "generate") != 0) continue;
        table_row(&t, "%s | %.0f | %.0f | %.2f | %.2f | %.4f | %.4f | %.1fx | %.0f | %.0f | %.0f", r->saved[i].name, real_of(g, "known"),
                  real_of(g, "prompt_tokens"), real_of(g, "prefill.seconds"), real_of(g, "plain.prefill_seconds"),
                  real_of(g, "decode.seconds_per_token"), real_of(g, "plain.seconds_per_token"), real_of(g, "to_plain.token"),
                  party_of(g, "peak_rss_beyond_map_mb", 0), party_of(g, "peak_rss_beyond_map_mb", 1),
                  party_of(g, "peak_rss_beyond_map_mb", 2));
    }
    table_end(&t);
}

// ---- variants --------------------------------------------------------------------------------------------------------

/* The secure layers of each variant of llama2-7b. */
static const struct { const char *name; double layers; } variants[] = {{"standard", 32}, {"lora", 16}, {"marill", 16}};
enum { VARIANTS = 3 };
static const char *const phases[] = {"prefill", "decode"};

/* The sum of values of one measured layer, times the layers. False: a variant is missing. */
static bool variants_take(double out[VARIANTS], const Results *r, const char *setting, const char *phase,
                          const char *const *paths, size_t count)
{
    for (int v = 0; v < VARIANTS; v++) {
        char name[96];
        snprintf(name, sizeof name, "variant-%s-%s-%s", variants[v].name, setting, phase);
        const Json *o = result_find(r, name);
        if (!o) return false;
        out[v] = 0;
        for (size_t i = 0; i < count; i++) out[v] += variants[v].layers * real_of(o, paths[i]);
    }
    return true;
}

static void variants_seconds(Section *s, const Results *r)
{
    Table t = {s, "Three variants of llama2-7b: *standard* (32 secure layers, all weights private), *frozen+LoRA* (16, rank 64),\n"
                  "*Marill* (16, rank 64, heads merged by 4). One layer is measured between three processes and multiplied by the\n"
                  "secure layers. In: all that travels and is computed from the shared input on (`--prefer bytes` for the prompt of\n"
                  "128, exchanges for the token after 127), with pool and input-independent work ready. Out: one-time pinned masks,\n"
                  "the pool (dealer), embedding, the client's own layers, head. Networks are replayed on a virtual clock.",
               "setting | phase | network | standard, s | frozen+LoRA, s | Marill, s | standard / LoRA | standard / Marill", false};
    static const char *const paths[] = {"replayed_seconds.loopback", "replayed_seconds.lan", "replayed_seconds.wan"};
    for (int setting = 0; setting < SETTINGS; setting++)
        for (int phase = 0; phase < 2; phase++)
            for (int n = 0; n < 3; n++) {
                double v[VARIANTS];
                if (variants_take(v, r, settings[setting], phases[phase], &paths[n], 1) && v[1] > 0 && v[2] > 0)
                    table_row(&t, "%s | %s | %s | %.3f | %.3f | %.3f | %.1fx | %.1fx", settings[setting], phases[phase],
                              strchr(paths[n], '.') + 1, v[0], v[1], v[2], v[0] / v[1], v[0] / v[2]);
            }
    table_end(&t);
}

static void variants_bytes(Section *s, const Results *r)
{
    static const char *const bytes[] = {"bytes.client_to_server", "bytes.server_to_client", "bytes.third_to_server"};
    static const char *const exchanges[] = {"exchanges"};
    static const struct { const char *title; const char *const *paths; size_t count; double unit; } what[] = {
        {"MB online, both ways", bytes, 2, 1e6}, {"MB over all links (3pc)", bytes, 3, 1e6}, {"exchanges", exchanges, 1, 1}};
    Table t = {s, NULL, "phase | | standard | frozen+LoRA | Marill | standard / LoRA | standard / Marill", false};
    for (int phase = 0; phase < 2; phase++)
        for (size_t i = 0; i < sizeof what / sizeof *what; i++) {
            double v[VARIANTS], unit = what[i].unit;
            if (variants_take(v, r, "3pc", phases[phase], what[i].paths, what[i].count) && v[1] > 0 && v[2] > 0)
                table_row(&t, "%s | %s | %.4g | %.4g | %.4g | %.1fx | %.1fx", phases[phase], what[i].title, v[0] / unit, v[1] / unit,
                          v[2] / unit, v[0] / v[1], v[0] / v[2]);
        }
    table_end(&t);
}

void report_models(const Results *r)
{
    Section s = {"## 3. Models that people use"};
    Table t = {&s, NULL, "figure | asked | measured | met", false};
    for (int i = 0; i < SETTINGS; i++) ratio_row(&t, generate_find(r, "open-llama-3b", settings[i]), settings[i]);
    for (int i = 0; i < SETTINGS; i++) memory_row(&t, generate_find(r, "open-llama-3b", settings[i]), settings[i]);
    for (int i = 0; i < SETTINGS; i++) machine_row(&t, generate_find(r, "llama2-7b", settings[i]), settings[i]);
    costs_rows(&t, r);
    table_end(&t);
    generate_table(&s, r);
    variants_seconds(&s, r);
    variants_bytes(&s, r);
}
