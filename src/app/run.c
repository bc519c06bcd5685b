/* run.c - one generation, all parties on this machine, each in a process of its own. */
#include "app/app.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char run_usage[] =
    "--model DIR [--adapter DIR] --setting S (--prompt TEXT | --prompt-file FILE|-) [options]\n"
    "  --setting S                  plain, clear, dealer, 3pc or 2pc\n"
    "  --max-tokens N               at most so many new tokens (128)\n"
    "  --temperature T              0 takes the likeliest token (0)\n"
    "  --top-p P                    draw from the likeliest tokens of this mass (1)\n"
    "  --seed N                     decides the draws (0)\n"
    "  --frozen N                   layers that the client runs by itself; a fraction if below 1\n"
    "  --private layers|lora        what the provider keeps (lora with an adapter)\n"
    "  --prefer exchanges|bytes     fewer exchanges or fewer bytes\n"
    "  --plan FILE                  the fixed-point plan (marill-plan.json of the folder)\n"
    "  --net NET                    loopback, lan (0.5 ms, 3 Gbit/s), wan (40 ms, 200 Mbit/s) or RTT=..ms,BW=..Mbit: delays what the\n"
    "                               parties send each other as that network would (loopback); virtual or virtual:NET: runs at full\n"
    "                               speed and says how long it would have taken there\n"
    "  --threads N                  of each party\n"
    "  --json                       the result as JSON\n"
    "  --logits FILE                float32 rows, one for each generated token\n"
    "With --private layers the embedding and the head stay those of the public base.\n";

enum { PROMPT_LIMIT = 1 << 24 };

typedef struct RunArgs {
    const char *model, *adapter, *plan, *prompt, *prompt_file, *net, *logits;
    unsigned setting, private, prefer;
    uint64_t max_tokens, seed, threads;
    double temperature, top_p, frozen;
    bool json, replay;                         // replay: --net virtual
} RunArgs;

typedef struct Run {
    const RunArgs *k;
    PlanWish wish;
    Parties parties;
    Bundle bundle;
    Arena arena;
    const char *prompt;
    size_t prompt_len;
    Buffer rows;                               // --logits
    Trace trace[PARTIES_COUNT];                // --net virtual
    bool shown;                                // text has gone to standard output
} Run;

static Result prompt_read(Run *run)
{
    const RunArgs *k = run->k;
    const char *name = k->prompt ? "--prompt" : k->prompt_file;
    if (!k->prompt == !k->prompt_file) return fail(FAIL_USE, "one of --prompt and --prompt-file must be given");
    if (k->prompt) run->prompt = k->prompt, run->prompt_len = strlen(k->prompt);
    else {
        Buffer text = {0};
        const char *path = strcmp(k->prompt_file, "-") ? k->prompt_file : "/dev/stdin";
        Result r = file_read(&text, path, PROMPT_LIMIT);
        if (!failed(r)) {
            char *copy = arena_alloc(&run->arena, text.len + 1, 1);
            memcpy(copy, text.data, text.len);
            run->prompt = copy, run->prompt_len = text.len;
        }
        buffer_free(&text);
        GUARD(r);
    }
    if (run->prompt_len == 0) return fail(FAIL_USE, "%s: the prompt is empty", name);
    size_t bad = utf8_invalid_at((const uint8_t *)run->prompt, run->prompt_len);
    if (bad < run->prompt_len)
        return fail(FAIL_USE, "%s: the prompt is not UTF-8: byte %zu is 0x%02x", name, bad, (uint8_t)run->prompt[bad]);
    return OK;
}

// ---- the generation --------------------------------------------------------------------------------------------------

static void on_token(void *ctx, int32_t id, const uint8_t *text, size_t len)
{
    Run *run = ctx;
    (void)id;
    run->shown = true;
    print_text(stdout, text, len);
}

static void on_logits(void *ctx, const float *row, uint32_t vocab)
{
    Run *run = ctx;
    for (uint32_t i = 0; i < vocab; i++) {
        uint32_t bits;
        memcpy(&bits, &row[i], 4);
        buffer_u32(&run->rows, bits);
    }
}

static Json *phase_json(const PhaseCost *p, const uint32_t *tokens, bool exchanges)
{
    Json *o = json_new_object();
    if (tokens) json_put(o, "tokens", json_of_uint(*tokens));
    json_put(o, "seconds", json_of_real(p->seconds));
    if (exchanges) json_put(o, "exchanges", json_of_uint(p->exchanges));
    json_put(o, "bytes", json_of_bytes(&p->bytes));
    return o;
}

/* Positions that were decoded: the first token comes from the prompt's batch, the end of text from a step of its own. */
static uint32_t steps_of(const Generated *g)
{
    return (uint32_t)g->count - (g->count > 0 && !strcmp(g->finish_reason, "length"));
}

// ---- other networks --------------------------------------------------------------------------------------------------

/* The networks that --net virtual replays the session over. */
static const char *const all_networks[] = {"loopback", "lan", "wan"};
static const char virtual_net[] = "virtual";

static size_t networks_of(const RunArgs *k, const char *const **out)
{
    static const char *one;
    *out = all_networks;
    if (k->net[sizeof virtual_net - 1] != ':') return sizeof all_networks / sizeof *all_networks;
    one = k->net + sizeof virtual_net;
    *out = &one;
    return 1;
}

static Result net_choose(RunArgs *k)
{
    const char *const *name = &k->net;
    Net net;
    k->replay = !strcmp(k->net, virtual_net) || !strncmp(k->net, "virtual:", sizeof virtual_net);
    size_t count = k->replay ? networks_of(k, &name) : 1;
    for (size_t i = 0; i < count; i++) GUARD(net_parse(&net, name[i]));
    return OK;
}

static Result run_replay(const Run *run, const char *name, NetworkTime *out)
{
    Net net;
    GUARD(net_parse(&net, name));
    return network_time(out, run->trace, &net);
}

static Result networks_json(const Run *run, Json *o)
{
    const char *const *name;
    size_t count = networks_of(run->k, &name);
    Json *all = json_new_object();
    json_put(o, "networks", all);
    for (size_t i = 0; i < count; i++) {
        NetworkTime t;
        GUARD(run_replay(run, name[i], &t));
        Json *one = json_new_object();
        json_put(one, "setup_seconds", json_of_real(t.seconds[PHASE_SETUP]));
        json_put(one, "prefill_seconds", json_of_real(t.seconds[PHASE_PREFILL]));
        json_put(one, "decode_seconds", json_of_real(t.seconds[PHASE_DECODE]));
        json_put(all, name[i], one);
    }
    return OK;
}

static Result networks_print(const Run *run)
{
    const char *const *name;
    size_t count = networks_of(run->k, &name);
    for (size_t i = 0; i < count; i++) {
        NetworkTime t;
        GUARD(run_replay(run, name[i], &t));
        printf("%-20s prompt %.3f s, reply %.3f s\n", name[i], t.seconds[PHASE_PREFILL], t.seconds[PHASE_DECODE]);
    }
    return OK;
}

static Result run_json(const Run *run, const Generated *g)
{
    uint32_t steps = steps_of(g);
    Json *o = json_new_object(), *tokens = json_new_array(), *rss = json_new_object();
    for (size_t i = 0; i < g->count; i++) json_add(tokens, json_of_int(g->tokens[i]));
    Buffer text = {0};
    buffer_append(&text, g->text.data, g->text.len);
    buffer_u8(&text, 0);
    json_put(o, "setting", json_of_text(setting_names[run->parties.setting]));
    json_put(o, "prompt_tokens", json_of_uint(g->receipt.prompt_tokens));
    json_put(o, "tokens", tokens);
    json_put(o, "text", json_of_text((const char *)text.data));
    json_put(o, "finish_reason", json_of_text(g->finish_reason));
    json_put(o, "prefill", phase_json(&g->receipt.prefill, NULL, true));
    json_put(o, "decode", phase_json(&g->receipt.decode, &steps, true));
    json_put(o, "setup", phase_json(&g->receipt.setup, NULL, false));
    json_put(rss, "client", json_of_real(peak_rss_mb()));
    json_put(rss, "server", json_of_real(run->parties.provider.peak_rss_mb));
    json_put(rss, "third", json_of_real(run->parties.third.peak_rss_mb));
    json_put(o, "peak_rss_mb", rss);
    buffer_free(&text);
    Result r = run->k->replay ? networks_json(run, o) : OK;
    if (failed(r)) json_free(o);
    else print_json(o);
    return r;
}

static Result run_open(Run *run)
{
    const RunArgs *k = run->k;
    Parties *p = &run->parties;
    if (p->setting == SETTING_PLAIN) {
        GUARD(bundle_load_plain(&run->bundle, k->model, k->adapter));
        return known_adopt(&run->bundle, k->model, k->adapter, k->plan);
    }
    GUARD(plan_settle(&p->plan, &run->wish));
    GUARD(parties_start(p));
    GUARD(bundle_load(&run->bundle, k->model, k->adapter, p->plan, p->setting == SETTING_CLEAR));
    int32_t *ids;
    size_t count;
    uint32_t room = run->bundle.plan.context - run->bundle.plan.known;
    GUARD(tokenizer_encode(run->bundle.tokenizer, run->prompt, run->prompt_len, &ids, &count, &run->arena));
    if (count > room) return fail(FAIL_USE, "the prompt has %zu tokens, the plan's context room for %u", count, room);
    size_t positions = count + k->max_tokens < room ? count + k->max_tokens : room;
    return parties_open(p, &run->bundle, positions);
}

static Result run_generate(Run *run, Generated *g)
{
    const RunArgs *k = run->k;
    GUARD(run_open(run));
    Generation want = {.prompt = run->prompt,
                       .prompt_len = run->prompt_len,
                       .max_tokens = (uint32_t)k->max_tokens,
                       .temperature = (float)k->temperature,
                       .top_p = (float)k->top_p,
                       .seed = k->seed,
                       .token = k->json ? NULL : on_token,
                       .logits = k->logits ? on_logits : NULL,
                       .ctx = run};
    GUARD(generate(g, &run->bundle, run->parties.setting, run->parties.client, &want, &run->arena));
    g->receipt.setup.seconds += run->parties.setup_seconds;
    return OK;
}

static Result run_finish(Run *run, const Generated *g)
{
    const RunArgs *k = run->k;
    if (k->logits) GUARD(file_write(k->logits, run->rows.data, run->rows.len, 0644));
    if (k->json) return run_json(run, g);
    putchar('\n');
    if (k->replay) GUARD(networks_print(run));
    GUARD(output_flush());
    if (isatty(STDERR_FILENO)) print_receipt(stderr, g, run->parties.setting);
    return OK;
}

static Result run_all(const RunArgs *k, const Option *options)
{
    Run run = {.k = k};
    Generated g = {0};
    arena_init(&run.arena, false);
    unsigned threads = party_threads(k->threads, (Setting)k->setting);
    run.wish = (PlanWish){.model = k->model, .adapter = k->adapter, .plan = k->plan};
    wish_read(&run.wish, options, k->frozen, k->private, k->prefer);
    run.parties = (Parties){.model = k->model, .adapter = k->adapter, .net = k->replay ? NULL : k->net, .traced = k->replay,
                            .threads = threads};
    Result r = setting_choose(&run.parties.setting, k->setting);
    if (!failed(r)) r = prompt_read(&run);
    run.wish.positions = run.prompt_len + k->max_tokens + 2;
    if (!failed(r)) threads_start(threads);
    if (!failed(r)) r = run_generate(&run, &g);
    r = parties_end(&run.parties, r);
    if (!failed(r) && k->replay) r = parties_traces(&run.parties, run.trace);
    if (!failed(r)) r = run_finish(&run, &g);
    else if (run.shown) putchar('\n');
    bundle_free(&run.bundle);
    buffer_free(&g.text);
    buffer_free(&run.rows);
    arena_free(&run.arena);
    for (int i = 0; i < PARTIES_COUNT; i++) trace_free(&run.trace[i]);
    return r;
}

Result run_command(int argc, char **argv)
{
    RunArgs k = {.max_tokens = 128, .top_p = 1, .net = "loopback"};
    Option options[] = {
        OPTION("--model", OPT_TEXT, &k.model, .required = true),
        OPTION("--adapter", OPT_TEXT, &k.adapter),
        OPTION("--setting", OPT_CHOICE, &k.setting, .required = true, .choices = setting_choices),
        OPTION("--prompt", OPT_TEXT, &k.prompt),
        OPTION("--prompt-file", OPT_TEXT, &k.prompt_file),
        OPTION("--max-tokens", OPT_UINT, &k.max_tokens, .min = 1, .max = 1 << 20),
        OPTION("--temperature", OPT_REAL, &k.temperature, .max = 100),
        OPTION("--top-p", OPT_REAL, &k.top_p, .min = 1e-6, .max = 1),
        OPTION("--seed", OPT_UINT, &k.seed),
        OPTION("--frozen", OPT_REAL, &k.frozen, .max = 1e6),
        OPTION("--private", OPT_CHOICE, &k.private, .choices = private_names),
        OPTION("--prefer", OPT_CHOICE, &k.prefer, .choices = prefer_names),
        OPTION("--plan", OPT_TEXT, &k.plan),
        OPTION("--net", OPT_TEXT, &k.net),
        OPTION("--threads", OPT_UINT, &k.threads, .min = 1, .max = 256),
        OPTION("--json", OPT_FLAG, &k.json),
        OPTION("--logits", OPT_TEXT, &k.logits),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    GUARD(net_choose(&k));
    if (k.replay && k.setting != SETTING_DEALER && k.setting != SETTING_3PC)
        return fail(FAIL_USE, "--net virtual needs parties: dealer or 3pc");
    return run_all(&k, options);
}
