/* bench_generate.c - `marill bench generate`: a generation at the real size of a model that people use.
 *
 * The weights are synthetic: an 8-bit base of the shape, made once from a seed and kept in a cache, mapped by every process;
 * and low-rank factors from the same seed, which the provider's process makes for itself. Everything else is what a
 * deployment does: three processes over TLS, the pool or the live third, prompt and tokens. Beside it, in the same run, the
 * plain forward of the same quantised model on all cores; and the secure logits are compared with the plain ones.
 *
 * A session on loopback is replayed over LAN and WAN on a virtual clock (serve/trace.h). Where all layers would take too long,
 * --layers runs two sessions, of one secure layer and of more: what a layer adds on the virtual clock, which counts processor
 * time and is steadier than a clock on the wall, is added for those that were not run. Bytes and exchanges of a layer are the
 * same for all of them, so theirs are exact: the plan's prediction for the whole must be met. */
#include "app/bench.h"
#include "app/synthetic.h"
#include "serve/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct GenerateArgs {
    const char *shape, *cache, *net;
    unsigned setting, prefer, private;
    uint64_t prompt, tokens, rank, merge, context, known, past, layers, seed, threads;
    double frozen;
    bool json;
} GenerateArgs;

enum { NETWORKS = 3 };
static const char *const network_names[NETWORKS] = {"loopback", "lan", "wan"};

typedef struct Memory { double peak_mb, map_mb; } Memory;     // peak of all; of it, mapped files

typedef struct Session {                       // what one run of the three parties gave
    uint32_t layers;                           // secure ones
    Receipt receipt;
    double *step, setup_seconds, pool_seconds; // step (tokens - 1): seconds each
    Memory memory[3];
    NetworkTime on[NETWORKS];                  // on the virtual clock
    double cpu[3][3];                          // of each process: seconds so far, before the prompt, after it, after the reply
    double max_error, logit_rms;               // against the plain forward with the same factors; max_error < 0: not compared
} Session;

typedef struct Plain { double prefill_seconds, step_seconds, best, bytes; } Plain; // median and best; bytes: of weights that a step reads

typedef struct Generate {
    const GenerateArgs *k;
    ModelConfig config;                        // the whole shape
    uint32_t frozen, secure, context, known;
    int32_t *ids;                              // (known + prompt + tokens): known ones, the prompt, then what was generated
    const char *folder;                        // of the base
    Arena arena;
    Session session[2];                        // --layers: of one layer, then of more; else the first alone
    size_t sessions;
    Plain plain;
} Generate;

// ---- the plain forward -----------------------------------------------------------------------------------------------

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Leaves v in order. */
static double median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, ascending);
    return v[n / 2];
}

/* The quantised base alone, all of its layers: factors that are merged cost nothing. */
static CHECKED Result plain_measure(const Generate *g, Plain *out, bool prefill)
{
    const ModelConfig *c = &g->config;
    size_t prompt = g->k->prompt, steps = g->k->tokens > 1 ? g->k->tokens - 1 : 1;
    Model m;
    Arena a;
    arena_init(&a, false);
    Result r = model_open(&m, g->folder);
    if (!failed(r)) {
        PlainState *s = plain_new(&m, NULL, g->context, &a);
        float *x = arena_new(&a, float, prompt * c->width), *logits = arena_new(&a, float, c->vocab);
        double *seconds = arena_new(&a, double, steps), start = clock_seconds();
        plain_advance(s, g->known);
        if (prefill) {
            r = plain_embed(s, x, g->ids + g->known, prompt);
            plain_layers(s, x, prompt, 0, c->layers);
            plain_logits(s, logits, x + (prompt - 1) * c->width, 1);
        }
        out->prefill_seconds = clock_seconds() - start;
        plain_advance(s, prompt);
        for (size_t i = 0; i < steps && !failed(r); i++) {
            start = clock_seconds();
            r = plain_forward(s, logits, g->ids + g->known + i % prompt, 1);
            seconds[i] = clock_seconds() - start;
            plain_truncate(s, plain_past(s) - 1);
        }
        out->step_seconds = median(seconds, steps), out->best = seconds[0];
        out->bytes = (double)m.file.len - (double)c->vocab * c->width;        // of the embedding a row is read
    }
    model_free(&m);
    arena_free(&a);
    return r;
}

/* In a process of its own, whose threads take every core while no party runs. */
static CHECKED Result plain_apart(const Generate *g, Plain *out, bool prefill)
{
    typedef struct Answer { Plain plain; bool good; char why[256]; } Answer;
    Answer *answer = mmap(NULL, sizeof *answer, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (answer == MAP_FAILED) return fail(FAIL_SYSTEM, "cannot share memory");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        threads_start(0);
        answer->good = !failed(plain_measure(g, &answer->plain, prefill));
        snprintf(answer->why, sizeof answer->why, "%s", answer->good ? "" : result_text());
        _exit(0);
    }
    if (child > 0) waitpid(child, NULL, 0);
    Result r = child > 0 && answer->good ? OK : fail(FAIL_SYSTEM, "the plain forward failed: %s", answer->why);
    *out = answer->plain;
    munmap(answer, sizeof *answer);
    return r;
}

// ---- a session -------------------------------------------------------------------------------------------------------

static CHECKED Result memory_read(Memory *out, pid_t pid)
{
    char path[64], line[256];
    double kb;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f) return fail(FAIL_SYSTEM, "%s: cannot open", path);
    *out = (Memory){0};
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmHWM: %lf kB", &kb) == 1) out->peak_mb = kb / 1024;
        if (sscanf(line, "RssFile: %lf kB", &kb) == 1) out->map_mb = kb / 1024;
    }
    fclose(f);
    return OK;
}

static double cpu_read(pid_t pid)
{
    char path[64], line[1024];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = pid > 0 ? fopen(path, "r") : NULL;
    if (!f) return 0;
    size_t len = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    line[len] = 0;
    const char *rest = strrchr(line, ')');
    if (!rest || sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2) return 0;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void cpu_note(Session *s, const Parties *p, int when)
{
    const pid_t pid[3] = {getpid(), p->provider.pid, p->third.pid};
    for (int i = 0; i < 3; i++) s->cpu[i][when] = cpu_read(pid[i]);
}

/* c: the shape with so many secure layers. */
static CHECKED Result plan_of(const Generate *g, Plan *p, ModelConfig *c, uint32_t layers)
{
    const GenerateArgs *k = g->k;
    *c = g->config;
    c->layers = g->frozen + layers;
    PlanOptions o = {.context = g->context, .frozen = g->frozen, .prefer = (Prefer)k->prefer, .private_part = (Private)k->private,
                     .weight_bits = 8, .variant.heads.size = (uint32_t)k->merge};
    GUARD(plan_assume(p, c, &o, (uint32_t)k->rank));
    p->known = g->known;
    if (p->known > 1 && !k->past) p->known_token = g->ids;
    return plan_check(p, c);
}

static CHECKED Result plan_write(const Generate *g, uint32_t layers, Plan *p, const char *path)
{
    ModelConfig c;
    Model m;
    GUARD(plan_of(g, p, &c, layers));
    Result r = model_open(&m, g->folder);
    m.config.layers = c.layers;
    if (!failed(r)) r = public_hash(p, &m, p->model_hash);
    if (!failed(r)) r = plan_save(p, path);
    model_free(&m);
    return r;
}

static CHECKED Result tokens_make(Generate *g, Session *s, const Parties *p, float *logits)
{
    Client *client = p->client;
    const GenerateArgs *k = g->k;
    Sampler sampler;
    sampler_init(&sampler, 0, 1, 0);
    int32_t *made = g->ids + g->known + k->prompt;
    size_t vocab = g->config.vocab;
    cpu_note(s, p, 0);
    GUARD(client_prompt(client, g->ids + g->known, k->prompt, (uint32_t)k->tokens - 1, logits));
    cpu_note(s, p, 1);
    for (size_t i = 0;; i++) {
        made[i] = sampler_pick(&sampler, logits + i * vocab, g->config.vocab);
        if (i + 1 == k->tokens) break;
        double start = clock_seconds();
        GUARD(client_step(client, made[i], logits + (i + 1) * vocab));
        s->step[i] = clock_seconds() - start;
    }
    cpu_note(s, p, 2);
    return OK;
}

/* The same tokens through the float network with the same factors. */
static CHECKED Result tokens_check(const Generate *g, Session *s, const Bundle *client, const float *logits)
{
    const GenerateArgs *k = g->k;
    const ModelConfig *c = &client->model.config;
    Adapter factors;
    Arena a;
    arena_init(&a, false);
    synthetic_factors(&factors, &client->plan, c, k->seed);
    PlainState *state = plain_new(&client->model, client->plan.rank ? &factors : NULL, g->context, &a);
    Variant variant = plan_variant(&client->plan);
    plain_vary(state, &variant);
    size_t first = g->known + k->prompt;
    float *x = arena_new(&a, float, first * c->width), *want = arena_new(&a, float, c->vocab);
    double squares = 0, most = 0;
    Result r = plain_embed(state, x, g->ids, first);
    if (!failed(r)) {
        plain_layers(state, x, first, 0, c->layers);
        plain_logits(state, want, x + (first - 1) * c->width, 1);
        plain_advance(state, first);
    }
    for (size_t i = 0; i < k->tokens && !failed(r); i++) {
        for (size_t j = 0; j < c->vocab; j++) {
            double d = (double)logits[i * c->vocab + j] - (double)want[j];
            most = fmax(most, fabs(d)), squares += (double)want[j] * (double)want[j];
        }
        if (i + 1 < k->tokens) r = plain_forward(state, want, g->ids + first + i, 1);
    }
    s->max_error = most, s->logit_rms = sqrt(squares / (double)(k->tokens * c->vocab));
    adapter_free(&factors);
    arena_free(&a);
    return r;
}

static CHECKED Result session_talk(Generate *g, Session *s, Parties *p, const Bundle *b, float *logits)
{
    const GenerateArgs *k = g->k;
    GUARD(parties_open(p, b, k->prompt + k->tokens));
    GUARD(tokens_make(g, s, p, logits));
    GUARD(memory_read(&s->memory[0], getpid()));
    GUARD(memory_read(&s->memory[1], p->provider.pid));
    s->memory[2].peak_mb = p->third.peak_rss_mb;               // dealer: it has gone
    if (p->third.pid > 0) GUARD(memory_read(&s->memory[2], p->third.pid));
    GUARD(client_finish(p->client));
    client_receipt(p->client, &s->receipt);
    s->pool_seconds = p->setup_seconds, s->setup_seconds = s->receipt.setup.seconds;
    return OK;
}

static CHECKED Result session_replay(Session *s, Parties *p)
{
    Trace trace[PARTIES_COUNT];
    Result r = parties_traces(p, trace);
    for (int i = 0; i < NETWORKS && !failed(r); i++) {
        Net net;
        r = net_parse(&net, network_names[i]);
        if (!failed(r)) r = network_time(&s->on[i], trace, &net);
    }
    for (int i = 0; i < PARTIES_COUNT; i++) trace_free(&trace[i]);
    return r;
}

static CHECKED Result session_run(Generate *g, Session *s, uint32_t layers)
{
    const GenerateArgs *k = g->k;
    const char *scratch;
    char seed[24];
    Bundle b;
    Plan plan;
    GUARD(scratch_folder(&scratch));
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)k->seed);
    const char *path = arena_format(&g->arena, "%s/plan.%u.json", scratch, layers);
    Parties p = {.setting = (Setting)k->setting, .model = g->folder, .plan = path, .net = k->net, .synthetic = seed,
                 .synthetic_past = k->past > 0, .traced = !strcmp(k->net, network_names[0]), .pools = (unsigned)(s - g->session),
                 .threads = party_threads(k->threads, (Setting)k->setting)};
    *s = (Session){.layers = layers, .step = arena_new(&g->arena, double, k->tokens), .max_error = -1};
    Result r = plan_write(g, layers, &plan, path);
    plan_free(&plan);
    GUARD(r);
    GUARD(parties_start(&p));
    r = synthetic_bundle(&b, g->folder, path, k->seed, k->past > 0, false);
    float *logits = malloc(k->tokens * g->config.vocab * sizeof *logits);
    if (!logits) bug("out of memory");
    if (!failed(r)) r = session_talk(g, s, &p, &b, logits);
    r = parties_end(&p, r);
    if (!failed(r) && p.traced) r = session_replay(s, &p);
    if (!failed(r) && !k->past) r = tokens_check(g, s, &b, logits);
    free(logits);
    bundle_free(&b);
    return r;
}

// ---- results ---------------------------------------------------------------------------------------------------------

/* What the secure layers that were not run would add to a phase over a network. */
static double missing_seconds(const Generate *g, Phase phase, int network)
{
    if (g->sessions == 1) return 0;
    double one = g->session[0].on[network].seconds[phase], more = g->session[1].on[network].seconds[phase];
    return (more - one) / (g->session[1].layers - 1) * (g->secure - g->session[1].layers);
}

/* Of one secure layer and of more, the count for all of them. */
static uint64_t scaled_count(const Generate *g, uint64_t one, uint64_t more)
{
    return g->sessions == 1 ? one : one + (more - one) / (g->session[1].layers - 1) * (g->secure - 1);
}

static PhaseCost scaled_phase(const Generate *g, const PhaseCost *a, const PhaseCost *b, Phase phase)
{
    const LinkBytes *x = &a->bytes, *y = &b->bytes;
    PhaseCost p = {b->seconds + missing_seconds(g, phase, 0), scaled_count(g, a->exchanges, b->exchanges), {0}};
    p.bytes.client_to_server = scaled_count(g, x->client_to_server, y->client_to_server);
    p.bytes.server_to_client = scaled_count(g, x->server_to_client, y->server_to_client);
    p.bytes.third_to_client = scaled_count(g, x->third_to_client, y->third_to_client);
    p.bytes.third_to_server = scaled_count(g, x->third_to_server, y->third_to_server);
    p.bytes.client_to_third = scaled_count(g, x->client_to_third, y->client_to_third);
    p.bytes.server_to_third = scaled_count(g, x->server_to_third, y->server_to_third);
    return p;
}

typedef struct Outcome {
    PhaseCost setup, prefill, decode;
    double step_seconds, step_best;            // median and best
    uint64_t correlations[2];                  // of the prompt and of the reply
} Outcome;

/* The phases of all layers. What the plan predicts for the prompt's batch must be what the sessions counted. */
static CHECKED Result outcome_make(Outcome *o, Generate *g)
{
    const Receipt *a = &g->session[0].receipt, *b = &g->session[g->sessions - 1].receipt;
    Plan p;
    ModelConfig c;
    Cost cost;
    *o = (Outcome){.setup = scaled_phase(g, &a->setup, &b->setup, PHASE_SETUP),
                   .prefill = scaled_phase(g, &a->prefill, &b->prefill, PHASE_PREFILL),
                   .decode = scaled_phase(g, &a->decode, &b->decode, PHASE_DECODE)};
    size_t steps = g->k->tokens - 1;
    if (steps) {
        double *step = g->session[g->sessions - 1].step, missing = missing_seconds(g, PHASE_DECODE, 0) / (double)steps;
        o->step_seconds = median(step, steps) + missing, o->step_best = step[0] + missing;
    }
    Result r = plan_of(g, &p, &c, g->secure);
    if (!failed(r)) r = plan_cost(&cost, &p, &c, 0, g->k->prompt, true);
    plan_free(&p);
    GUARD(r);
    const LinkBytes *want = &cost.bytes, *got = &o->prefill.bytes;
    bool live = g->k->setting == SETTING_3PC;
    if (cost.exchanges != o->prefill.exchanges || want->client_to_server != got->client_to_server ||
        want->server_to_client != got->server_to_client || (live && want->third_to_server != got->third_to_server))
        return fail(FAIL_DATA, "the prompt cost other bytes or exchanges than the plan says");
    o->correlations[0] = want->third_to_server;
    o->correlations[1] = live ? o->decode.bytes.third_to_server : o->setup.bytes.third_to_server - want->third_to_server;
    return OK;
}

static Json *phase_json(const PhaseCost *p, bool exchanges)
{
    Json *o = json_new_object();
    json_put(o, "seconds", json_of_real(p->seconds));
    if (exchanges) json_put(o, "exchanges", json_of_uint(p->exchanges));
    json_put(o, "bytes", json_of_bytes(&p->bytes));
    return o;
}

static const char *const party_of[3] = {"client", "server", "third"};

static Json *memory_json(const Generate *g, bool beyond)
{
    Json *o = json_new_object();
    const Session *s = &g->session[g->sessions - 1];
    for (int i = 0; i < 3; i++) json_put(o, party_of[i], json_of_real(s->memory[i].peak_mb - (beyond ? s->memory[i].map_mb : 0)));
    return o;
}

/* of: 0 the prompt, 1 the reply; of the layers that were run. The third's of a pool was spent before the session, and is not in it. */
static Json *cpu_json(const Generate *g, int of)
{
    Json *o = json_new_object();
    const Session *s = &g->session[g->sessions - 1];
    for (int i = 0; i < 3; i++) json_put(o, party_of[i], json_of_real(s->cpu[i][of + 1] - s->cpu[i][of]));
    return o;
}

static Json *texts_json(const char *const *text, size_t count)
{
    Json *a = json_new_array();
    for (size_t i = 0; i < count; i++) json_add(a, json_of_text(text[i]));
    return a;
}

static void shape_json(const Generate *g, Json *o)
{
    const GenerateArgs *k = g->k;
    json_put(o, "bench", json_of_text("generate"));
    json_put(o, "shape", json_of_text(k->shape));
    json_put(o, "setting", json_of_text(setting_names[k->setting]));
    json_put(o, "prefer", json_of_text(prefer_names[k->prefer]));
    json_put(o, "private", json_of_text(private_names[k->private]));
    json_put(o, "net", json_of_text(k->net));
    json_put(o, "threads", json_of_uint(party_threads(k->threads, (Setting)k->setting)));
    json_put(o, "frozen", json_of_uint(g->frozen));
    json_put(o, "secure_layers", json_of_uint(g->secure));
    json_put(o, "rank", json_of_uint(k->private == PRIVATE_LORA ? k->rank : 0));
    json_put(o, "merge", json_of_uint(k->merge));
    json_put(o, "context", json_of_uint(g->context));
    json_put(o, "known", json_of_uint(g->known));
}

static void scaled_json(const Generate *g, Json *o)
{
    if (g->sessions == 1) return;
    Json *s = json_new_object(), *run = json_new_array();
    for (size_t i = 0; i < g->sessions; i++) json_add(run, json_of_uint(g->session[i].layers));
    json_put(s, "secure_layers_run", run);
    json_put(s, "to", json_of_uint(g->secure));
    json_put(s, "what", texts_json((const char *const[]){"seconds", "exchanges", "bytes"}, 3));
    json_put(s, "as_run", texts_json((const char *const[]){"cpu_seconds", "peak_rss_mb"}, 2));
    json_put(o, "scaled", s);
}

static void networks_json(const Generate *g, Json *o)
{
    const Session *s = &g->session[g->sessions - 1];
    uint64_t steps = g->k->tokens - 1;
    if (strcmp(g->k->net, network_names[0]) != 0) return;
    Json *all = json_new_object();
    for (int i = 0; i < NETWORKS; i++) {
        Json *one = json_new_object();
        double prefill = s->on[i].seconds[PHASE_PREFILL] + missing_seconds(g, PHASE_PREFILL, i);
        double decode = s->on[i].seconds[PHASE_DECODE] + missing_seconds(g, PHASE_DECODE, i);
        json_put(one, "prefill_seconds", json_of_real(prefill));
        if (steps) json_put(one, "seconds_per_token", json_of_real(decode / (double)steps));
        json_put(all, network_names[i], one);
    }
    json_put(o, "virtual_networks", all);
}

static void generate_json(const Generate *g, const Outcome *out)
{
    const GenerateArgs *k = g->k;
    const Session *s = &g->session[g->sessions - 1];
    Json *o = json_new_object(), *tokens = json_new_array(), *plain = json_new_object(), *ratio = json_new_object();
    shape_json(g, o);
    json_put(o, "prompt_tokens", json_of_uint(k->prompt));
    for (size_t i = 0; i < k->tokens; i++) json_add(tokens, json_of_int(g->ids[g->known + k->prompt + i]));
    json_put(o, "tokens", tokens);
    json_put(o, "finish_reason", json_of_text("length"));
    json_put(o, "setup", phase_json(&out->setup, false));
    Json *prefill = phase_json(&out->prefill, true);
    json_put(prefill, "cpu_seconds", cpu_json(g, 0));
    json_put(o, "prefill", prefill);
    Json *decode = phase_json(&out->decode, true);
    json_put(decode, "tokens", json_of_uint(k->tokens - 1));
    json_put(decode, "seconds_per_token", json_of_real(out->step_seconds));
    json_put(decode, "best_seconds_per_token", json_of_real(out->step_best));
    json_put(decode, "cpu_seconds", cpu_json(g, 1));
    json_put(o, "decode", decode);
    Json *words = json_new_object();
    json_put(words, "prefill", json_of_uint(out->correlations[0]));
    json_put(words, "decode", json_of_uint(out->correlations[1]));
    json_put(words, "pool_seconds", json_of_real(s->pool_seconds));
    json_put(o, "correlation_bytes", words);
    json_put(o, "peak_rss_mb", memory_json(g, false));
    json_put(o, "peak_rss_beyond_map_mb", memory_json(g, true));
    json_put(plain, "prefill_seconds", json_of_real(g->plain.prefill_seconds));
    json_put(plain, "seconds_per_token", json_of_real(g->plain.step_seconds));
    json_put(plain, "best_seconds_per_token", json_of_real(g->plain.best));
    json_put(plain, "weight_bytes_per_second", json_of_real(g->plain.bytes / g->plain.best));
    json_put(o, "plain", plain);
    json_put(ratio, "prefill", json_of_real(out->prefill.seconds / g->plain.prefill_seconds));
    json_put(ratio, "token", json_of_real(out->step_seconds / g->plain.step_seconds));
    json_put(ratio, "best_token", json_of_real(out->step_best / g->plain.best));
    json_put(o, "to_plain", ratio);
    if (s->max_error >= 0) json_put(o, "max_abs_error", json_of_real(s->max_error)), json_put(o, "logit_rms", json_of_real(s->logit_rms));
    json_put(o, "synthetic", texts_json((const char *const[]){"base", "factors", "tokens", "past"}, k->past ? 4 : 3));
    networks_json(g, o);
    scaled_json(g, o);
    json_put(o, "machine", machine_json());
    print_json(o);
}

static void generate_print(const Generate *g, const Outcome *o)
{
    const GenerateArgs *k = g->k;
    const Session *s = &g->session[g->sessions - 1];
    const PhaseCost *cost[3] = {&o->setup, &o->prefill, &o->decode};
    static const char *const who[3] = {"client", "provider", "third"};
    char text[3][32];
    printf("%s, %s, --prefer %s, --private %s: %u layers at the client, %u secure, rank %llu, context %u, %u known\n", k->shape,
           setting_names[k->setting], prefer_names[k->prefer], private_names[k->private], g->frozen, g->secure,
           (unsigned long long)(k->private == PRIVATE_LORA ? k->rank : 0), g->context, g->known);
    if (k->merge > 1) printf("heads of the secure layers merged by %llu\n", (unsigned long long)k->merge);
    printf("synthetic: base, factors, tokens%s\n", k->past ? ", and the keys and values of the known positions" : "");
    if (g->sessions > 1) printf("scaled to %u secure layers from sessions of 1 and of %u\n", g->secure, g->session[1].layers);
    printf("\n%-20s %12s %12s %12s\n", "", "set-up", "prompt", "reply");
    printf("%-20s %12s %12llu %12llu\n", "tokens", "", (unsigned long long)k->prompt, (unsigned long long)k->tokens - 1);
    printf("%-20s %10.2f s %10.2f s %10.2f s\n", "time", cost[0]->seconds, cost[1]->seconds, cost[2]->seconds);
    printf("%-20s %12s %10.2f s %10.3f s a token\n", "plain, all cores", "", g->plain.prefill_seconds, g->plain.step_seconds);
    printf("%-20s %12s %11.2fx %11.2fx (%.3f s a token)\n", "secure to plain", "", o->prefill.seconds / g->plain.prefill_seconds,
           o->step_seconds / g->plain.step_seconds, o->step_seconds);
    printf("%-20s %12s %12llu %12llu\n", "exchanges", "", (unsigned long long)cost[1]->exchanges, (unsigned long long)cost[2]->exchanges);
    for (int link = 0; link < 6; link++) {
        static const char *const names[6] = {"client > provider", "provider > client", "third > client",
                                             "third > provider",  "client > third",    "provider > third"};
        for (int i = 0; i < 3; i++) {
            const LinkBytes *b = &cost[i]->bytes;
            const uint64_t v[6] = {b->client_to_server, b->server_to_client, b->third_to_client, b->third_to_server, b->client_to_third,
                                   b->server_to_third};
            bytes_text(text[i], v[link]);
        }
        printf("%-20s %12s %12s %12s\n", names[link], text[0], text[1], text[2]);
    }
    printf("%-20s %12s %12s %12s\n", "correlations", "", bytes_text(text[0], o->correlations[0]), bytes_text(text[1], o->correlations[1]));
    for (int i = 0; i < NETWORKS && !strcmp(k->net, network_names[0]); i++)
        printf("%-20s %12s %10.2f s %10.2f s on the virtual clock\n", network_names[i], "",
               s->on[i].seconds[PHASE_PREFILL] + missing_seconds(g, PHASE_PREFILL, i),
               s->on[i].seconds[PHASE_DECODE] + missing_seconds(g, PHASE_DECODE, i));
    for (int i = 0; i < 3; i++)
        printf("%-20s %9.0f MB, %.0f MB of it beyond the map\n", who[i], s->memory[i].peak_mb, s->memory[i].peak_mb - s->memory[i].map_mb);
    if (s->max_error >= 0) printf("%-20s %12.4f at most, of logits of rms %.3f\n", "error", s->max_error, s->logit_rms);
}

// ---- the command -----------------------------------------------------------------------------------------------------

/* A published shape, or that of a folder with config.json (with a / in its name). */
static CHECKED Result shape_read(const char *name, ModelConfig *out)
{
    return strchr(name, '/') ? config_read(out, name) : shape_config(name, out);
}

static CHECKED Result base_ready(Generate *g)
{
    const GenerateArgs *k = g->k;
    const char *home = getenv("HOME"), *xdg = getenv("XDG_CACHE_HOME"), *cache = k->cache;
    if (!cache && xdg && *xdg) cache = arena_format(&g->arena, "%s/marill", xdg);
    if (!cache) cache = home && *home ? arena_format(&g->arena, "%s/.cache/marill", home) : "/tmp/marill-cache";
    const char *slash = strrchr(k->shape, '/'), *name = slash ? slash + 1 : k->shape;
    g->folder = arena_format(&g->arena, "%s/%s-%llu", cache, *name ? name : "folder", (unsigned long long)k->seed);
    if (model_is_synthetic(&g->config, k->seed, g->folder)) return OK;
    fprintf(stderr, "making the synthetic base %s, once\n", g->folder);
    return model_synthesise(&g->config, k->seed, g->folder, &terminal_progress);
}

static CHECKED Result generate_ready(Generate *g, const Option *options)
{
    const GenerateArgs *k = g->k;
    Setting setting;
    Net net;
    GUARD(setting_choose(&setting, k->setting));
    GUARD(net_parse(&net, k->net));
    if (setting != SETTING_DEALER && setting != SETTING_3PC)
        return fail(FAIL_USE, "--setting is dealer or 3pc here, not '%s'", setting_names[setting]);
    GUARD(shape_read(k->shape, &g->config));
    if (g->config.arch != ARCH_LLAMA) return fail(FAIL_USE, "--shape %s: only Llamas have a quantised base", k->shape);
    GUARD(frozen_count(&g->frozen, k->frozen, g->config.layers));
    if (k->layers && strcmp(k->net, network_names[0]) != 0)
        return fail(FAIL_USE, "--layers needs --net loopback, which is replayed over the others");
    if (k->known > 1 && k->past) return fail(FAIL_USE, "--known-prefix and --synthetic-past are for the same positions: give one");
    g->secure = g->config.layers - g->frozen;
    g->known = (uint32_t)(k->past ? k->past : k->known);
    uint64_t need = g->known + k->prompt + k->tokens;
    if (option_given(options, "--context") && k->context < need)
        return fail(FAIL_USE, "--context %llu is less than the %llu positions that are used", (unsigned long long)k->context,
                    (unsigned long long)need);
    g->context = (uint32_t)(k->context > need ? k->context : need);
    if (g->context > g->config.context)
        return fail(FAIL_USE, "%u positions are more than the %u of %s", g->context, g->config.context, k->shape);
    if (k->layers && (k->layers < 2 || k->layers > g->secure))
        return fail(FAIL_USE, "--layers must be from 2 to the %u secure ones", g->secure);
    g->ids = arena_new(&g->arena, int32_t, need);
    for (uint64_t i = 0; i < g->known + k->prompt; i++) g->ids[i] = synthetic_token(&g->config, k->seed, i);
    return base_ready(g);
}

/* The plain forward runs before and after the sessions, and the better of the two counts: what else the machine does must not help us. */
static CHECKED Result generate_run(Generate *g)
{
    const GenerateArgs *k = g->k;
    Plain again;
    Outcome o;
    GUARD(plain_apart(g, &g->plain, true));
    bool some = k->layers && k->layers < g->secure;
    g->sessions = some ? 2 : 1;
    threads_start(party_threads(k->threads, (Setting)k->setting));
    for (size_t i = 0; i < g->sessions; i++) GUARD(session_run(g, &g->session[i], !some ? g->secure : i == 0 ? 1 : (uint32_t)k->layers));
    GUARD(plain_apart(g, &again, false));
    g->plain.step_seconds = fmin(g->plain.step_seconds, again.step_seconds), g->plain.best = fmin(g->plain.best, again.best);
    GUARD(outcome_make(&o, g));
    if (k->json) generate_json(g, &o);
    else generate_print(g, &o);
    return OK;
}

Result bench_generate(int argc, char **argv)
{
    GenerateArgs k = {.prompt = 128, .tokens = 16, .rank = 64, .merge = 1, .known = 1, .seed = 1, .frozen = 0.5, .net = "loopback"};
    Option options[] = {
        OPTION("--shape", OPT_TEXT, &k.shape, .required = true),
        OPTION("--prompt-tokens", OPT_UINT, &k.prompt, .min = 1, .max = 1 << 16),
        OPTION("--tokens", OPT_UINT, &k.tokens, .min = 1, .max = 1 << 16),
        OPTION("--frozen", OPT_REAL, &k.frozen, .max = 1e6),
        OPTION("--rank", OPT_UINT, &k.rank, .min = 1, .max = 4096),
        OPTION("--merge", OPT_UINT, &k.merge, .min = 1, .max = 1024),
        OPTION("--setting", OPT_CHOICE, &k.setting, .required = true, .choices = setting_choices),
        OPTION("--prefer", OPT_CHOICE, &k.prefer, .choices = prefer_names),
        OPTION("--private", OPT_CHOICE, &k.private, .choices = private_names),
        OPTION("--context", OPT_UINT, &k.context, .min = 2, .max = 1 << 17),
        OPTION("--known-prefix", OPT_UINT, &k.known, .min = 1, .max = 1 << 16),
        OPTION("--synthetic-past", OPT_UINT, &k.past, .min = 1, .max = 1 << 16),
        OPTION("--layers", OPT_UINT, &k.layers, .min = 2, .max = 1024),
        OPTION("--seed", OPT_UINT, &k.seed),
        OPTION("--cache", OPT_TEXT, &k.cache),
        OPTION("--net", OPT_TEXT, &k.net),
        OPTION("--threads", OPT_UINT, &k.threads, .min = 1, .max = 256),
        OPTION("--json", OPT_FLAG, &k.json),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Generate g = {.k = &k};
    arena_init(&g.arena, false);
    Result r = generate_ready(&g, options);
    if (!failed(r)) r = generate_run(&g);
    arena_free(&g.arena);
    return r;
}
