/* bench_block.c - `bench block`: one secure layer between three processes, beside the float forward of the same layer. */
#include "app/bench_block.h"
#include "app/forecast.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct BlockArgs {
    const char *shape, *net;
    unsigned setting, private, prefer, kernels;
    uint64_t tokens, past, rank, merge, repeats, seed;
    bool json;
} BlockArgs;

/* Networks that a repetition without one is replayed over. */
enum { NETS = 3 };
static const char *const net_names[NETS] = {"loopback", "lan", "wan"};

typedef struct Bench {
    const BlockArgs *k;
    Block b;
    Arena arena;
    Model model;                               // the parent's, for the float forward
    Adapter adapter;
    PlainState *plain;
    float *want;                               // (rows, width)
    Cost counted;                              // by COUNT, of one repetition
    double predicted[NETS], output_rms;
    double plain_seconds[MOST_REPEATS], replayed[NETS][MOST_REPEATS], error;
    pid_t child[PARTIES];
    double rss[PARTIES];
} Bench;

// ---- the layer -------------------------------------------------------------------------------------------------------

static float *factor_new(Arena *a, size_t len, double size, uint64_t *state)
{
    float *w = arena_new(a, float, len);
    for (size_t i = 0; i < len; i++) {
        double sum = -1.5;
        for (int k = 0; k < 3; k++) *state = *state * 6364136223846793005u + 1442695040888963407u, sum += (double)(*state >> 11) * 0x1p-53;
        w[i] = (float)(2 * size * sum);
    }
    return w;
}

void block_model(Model *m, Adapter *a, const Block *b, bool private)
{
    const ModelConfig *c = &b->config;
    ModelConfig public = *c;
    uint64_t state = b->seed;
    if (!private && !b->rank) public.layers = 0;               // embedding and head alone
    model_random(m, &public, b->seed);
    m->config = *c;
    *a = (Adapter){0};
    if (!b->rank || !private) return;
    *a = (Adapter){.layers = c->layers};
    arena_init(&a->arena, false);
    a->pair = arena_alloc(&a->arena, c->layers, sizeof *a->pair);
    for (MatrixKind k = 0; k < MAT_COUNT; k++) {
        size_t out = matrix_rows(c, k), in = matrix_cols(c, k);
        if (!out) continue;
        a->pair[0][k] = (LoraPair){.rank = b->rank, .scale = 1,
                                   .a = factor_new(&a->arena, b->rank * in, 1 / sqrt((double)in), &state),
                                   .b = factor_new(&a->arena, out * b->rank, 0.25 / sqrt(b->rank), &state)};
    }
}

/* The plan, from other random tokens than those that are timed. */
static Result block_plan(Bench *n)
{
    Block *b = &n->b;
    size_t all = b->past + b->rows, calibration = 4 * all > 512 ? 4 * all : 512;
    int32_t *tokens = arena_new(&n->arena, int32_t, calibration + all);
    uint64_t state = b->seed + 1;
    for (size_t i = 0; i < calibration + all; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        tokens[i] = (int32_t)((state >> 33) % b->config.vocab);
    }
    PlanOptions o = {.context = (uint32_t)all, .prefer = (Prefer)n->k->prefer, .private_part = b->rank ? PRIVATE_LORA : PRIVATE_LAYERS,
                     .variant.heads.size = (uint32_t)n->k->merge};
    GUARD(plan_make(&b->plan, &n->model, b->rank ? &n->adapter : NULL, &o, tokens, calibration));
    b->x = arena_new(&n->arena, float, all * b->config.width);
    n->want = arena_new(&n->arena, float, b->rows * b->config.width);
    Arena scratch;
    arena_init(&scratch, false);
    Result r = plain_embed(plain_new(&n->model, NULL, (uint32_t)all, &scratch), b->x, tokens + calibration, all);
    arena_free(&scratch);
    return r;
}

static Result block_prepare(Bench *n, Setting setting)
{
    const BlockArgs *k = n->k;
    Block *b = &n->b;
    GUARD(strchr(k->shape, '/') ? config_read(&b->config, k->shape) : shape_config(k->shape, &b->config));
    b->config.layers = 1, b->config.vocab = 1024, b->config.tied = false;
    b->config.bos = b->config.eos = -1;        // nothing is known to both
    if (k->tokens + k->past > b->config.context)
        return fail(FAIL_USE, "--past %llu and --tokens %llu are more than the context of %s", (unsigned long long)k->past,
                    (unsigned long long)k->tokens, k->shape);
    b->setting = setting, b->seed = k->seed, b->rows = k->tokens, b->past = k->past, b->repeats = (unsigned)k->repeats;
    b->rank = k->private == PRIVATE_LORA ? (uint32_t)k->rank : 0;
    b->config.context = (uint32_t)(b->past + b->rows);
    GUARD(scratch_folder(&b->folder));
    block_model(&n->model, &n->adapter, b, true);
    Result r = block_plan(n);
    model_free(&n->model), adapter_free(&n->adapter);           // the processes make their own: none has another's
    GUARD(r);
    for (int i = 0; i < PARTIES; i++) identity_generate(&b->id[i]);
    GUARD(listener_open(&b->at_server, "127.0.0.1", 0));
    GUARD(listener_open(&b->at_third, "127.0.0.1", 0));
    b->shared_len = sizeof(BlockShared) + 2 * b->rows * b->config.width * sizeof(uint64_t);
    b->shared = mmap(NULL, b->shared_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return b->shared == MAP_FAILED ? fail(FAIL_SYSTEM, "shared memory: %s", strerror(errno)) : OK;
}

// ---- processes -------------------------------------------------------------------------------------------------------

static Result children_start(Bench *n)
{
    pid_t parent = getpid();
    fflush(NULL);
    for (int i = 0; i < PARTIES; i++) {
        n->child[i] = fork();
        if (n->child[i] < 0) return fail(FAIL_SYSTEM, "cannot start the %s: %s", party_names[i], strerror(errno));
        if (n->child[i] > 0) continue;
        signal(SIGINT, SIG_DFL), signal(SIGTERM, SIG_DFL), signal(SIGHUP, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        _exit(failed(block_party(&n->b, (Role)i)) ? 1 : 0);
    }
    return OK;
}

/* All children; one that ended badly breaks the gate for the others, and its words are the failure. */
static Result children_end(Bench *n, Result r)
{
    BlockShared *s = n->b.shared;
    bool killed = false;
    if (failed(r)) gate_break(&s->gate);
    for (int i = 0; i < PARTIES; i++) {
        struct rusage used = {0};
        int status = 0;
        if (n->child[i] <= 0 || wait4(n->child[i], &status, 0, &used) < 0) continue;
        n->rss[i] = (double)used.ru_maxrss / 1024;
        killed |= WIFSIGNALED(status);
        if (WIFSIGNALED(status)) r = fail(FAIL_PEER, "the %s was ended by signal %d", party_names[i], WTERMSIG(status));
        n->child[i] = 0;
    }
    for (int i = 0; i < PARTIES && !killed; i++)
        if (s->why[i][0] && strcmp(s->why[i], "another party failed") != 0) return fail(FAIL_PEER, "%s: %s", party_names[i], s->why[i]);
    return r;
}

/* A child that died without a word would leave the others at the gate. */
static Result gate_watch(Bench *n)
{
    siginfo_t gone = {0};
    if (waitid(P_ALL, 0, &gone, WEXITED | WNOHANG | WNOWAIT) == 0 && gone.si_pid && (gone.si_code != CLD_EXITED || gone.si_status != 0))
        gate_break(&n->b.shared->gate);
    return gate_pass(&n->b.shared->gate, PARTIES + 1);
}

// ---- repetitions -----------------------------------------------------------------------------------------------------

static void plain_past_fill(Bench *n)
{
    const Block *b = &n->b;
    if (!b->past) return;
    float *x = arena_new(&n->arena, float, b->past * b->config.width);
    memcpy(x, b->x, b->past * b->config.width * sizeof *x);
    plain_layers(n->plain, x, b->past, 0, 1);
    plain_advance(n->plain, b->past);
}

static double plain_run(Bench *n)
{
    const Block *b = &n->b;
    memcpy(n->want, b->x + b->past * b->config.width, b->rows * b->config.width * sizeof *n->want);
    double start = clock_seconds();
    plain_layers(n->plain, n->want, b->rows, 0, 1);
    return clock_seconds() - start;
}

/* Where LayerNorm takes the mean off, the secure layer never has it: the same must be off the float output. */
static void want_centre(Bench *n)
{
    size_t width = n->b.config.width;
    if (n->b.config.arch != ARCH_GPT2) return;
    for (size_t r = 0; r < n->b.rows; r++) {
        double mean = 0;
        for (size_t i = 0; i < width; i++) mean += (double)n->want[r * width + i] / (double)width;
        for (size_t i = 0; i < width; i++) n->want[r * width + i] -= (float)mean;
    }
}

static void error_note(Bench *n)
{
    const BlockShared *s = n->b.shared;
    size_t width = n->b.config.width, len = n->b.rows * width;
    double sum = 0;
    want_centre(n);
    for (size_t i = 0; i < len; i++) {
        sum += (double)n->want[i] * (double)n->want[i];
        double got = ldexp((double)ring_signed(s->out[i] + s->out[len + i], s->out_n), -(int)s->out_f);
        n->error = fmax(n->error, fabs(got - (double)n->want[i]));
    }
    n->output_rms = sqrt(sum / (double)len);
}

static Result replay(Bench *n, unsigned repeat)
{
    Trace trace[PARTIES_COUNT] = {0};
    Result r = OK;
    for (int p = 0; p < PARTIES && !failed(r); p++) {
        char path[BLOCK_PATH];
        if (p == ROLE_THIRD && n->b.setting == SETTING_DEALER) continue;
        trace_path(path, &n->b, (Role)p);
        r = trace_load(&trace[p], path);
    }
    for (int i = 0; i < NETS && !failed(r); i++) {
        Net net;
        NetworkTime t;
        r = net_parse(&net, net_names[i]);
        if (!failed(r)) r = network_time(&t, trace, &net);
        for (int p = 0; p < PARTIES && !failed(r); p++)
            n->replayed[i][repeat] = fmax(n->replayed[i][repeat], t.seconds[block_phase((Role)p)]);
    }
    for (int p = 0; p < PARTIES_COUNT; p++) trace_free(&trace[p]);
    return r;
}

static Result repeat_all(Bench *n)
{
    enum { PLAIN_RUNS = 3 };
    GUARD(gate_watch(n));                      // set up
    GUARD(gate_watch(n));                      // the pool is written
    for (unsigned i = 0; i < n->b.repeats; i++) {
        GUARD(gate_watch(n));                  // ready: nobody computes but this process
        n->plain_seconds[i] = plain_run(n);
        for (int more = 1; more < PLAIN_RUNS; more++) n->plain_seconds[i] = fmin(n->plain_seconds[i], plain_run(n));
        GUARD(gate_watch(n));
        GUARD(gate_watch(n));                  // done
        error_note(n);
        if (!net_is_shaped(&n->b.net)) GUARD(replay(n, i));
    }
    return OK;
}

/* The three parties of 3pc share two cores, as the figure that is asked for says, wherever there are more. */
static void cores_limit(const Block *b)
{
    cpu_set_t all, two;
    CPU_ZERO(&two);
    if (b->setting != SETTING_3PC || b->threads != 1 || sched_getaffinity(0, sizeof all, &all) != 0) return;
    for (size_t i = 0; i < CPU_SETSIZE && CPU_COUNT(&two) < 2; i++)
        if (CPU_ISSET(i, &all)) CPU_SET(i, &two);
    sched_setaffinity(0, sizeof two, &two);
}

/* What `plan` would have said of this block. */
static Result block_predict(Bench *n)
{
    const Block *b = &n->b;
    Rates rates;
    Batch batch = {.rows = b->rows, .layers = 1, .setting = b->setting, .ahead = b->setting == SETTING_DEALER, .threads = b->threads};
    batch.group = layer_group(&b->config);
    GUARD(plan_cost_layers(&batch.cost, &b->plan, &b->config, (uint32_t)b->past, b->rows));
    n->counted = batch.cost;
    GUARD(rates_measure(&rates, &b->plan, &b->config));
    for (int i = 0; i < NETS; i++) {
        Net net;
        GUARD(net_parse(&net, net_names[i]));
        n->predicted[i] = forecast_seconds(&rates, &batch, &net);
    }
    return OK;
}

static Result block_measure(Bench *n)
{
    Block *b = &n->b;
    GUARD(block_predict(n));
    cores_limit(b);
    Result r = children_start(n);
    if (!failed(r)) {
        threads_start(b->threads);
        block_model(&n->model, &n->adapter, b, true);
        n->plain = plain_new(&n->model, b->rank ? &n->adapter : NULL, b->config.context, &n->arena);
        Variant variant = plan_variant(&b->plan);
        plain_vary(n->plain, &variant);
        plain_past_fill(n);
        r = repeat_all(n);
    }
    return children_end(n, r);
}

// ---- results ---------------------------------------------------------------------------------------------------------

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct Spread { double least, median; } Spread;

static Spread spread_of(const double *v, unsigned count)
{
    double sorted[MOST_REPEATS];
    memcpy(sorted, v, count * sizeof *v);
    qsort(sorted, count, sizeof *sorted, ascending);
    return (Spread){sorted[0], sorted[count / 2]};
}

typedef struct Outcome {
    Spread seconds, plain, replayed[NETS], cpu[PARTIES], online_cpu[PARTIES];
    LinkBytes bytes, setup;
    uint64_t exchanges, correlation;
    uint64_t samples;                          // of C's and S's time
    double share[PARTIES][KIND_COUNT], overhead;               // overhead: PRG, packing and masking, of these
} Outcome;

static void outcome_make(Outcome *o, const Bench *n)
{
    const Block *b = &n->b;
    const BlockShared *s = b->shared;
    bool dealer = b->setting == SETTING_DEALER;
    double wall[MOST_REPEATS], cpu[PARTIES][MOST_REPEATS], online[PARTIES][MOST_REPEATS];
    for (unsigned i = 0; i < b->repeats; i++) {
        double begin = INFINITY, end = 0;
        for (int p = 0; p < PARTIES; p++) {
            const BlockRun *run = &s->run[p][i];
            cpu[p][i] = run->cpu, online[p][i] = run->online_cpu;
            if (run->end > 0) begin = fmin(begin, run->begin), end = fmax(end, run->end);
        }
        wall[i] = end - begin;
    }
    *o = (Outcome){.seconds = spread_of(wall, b->repeats), .plain = spread_of(n->plain_seconds, b->repeats), .setup = s->setup};
    for (int i = 0; i < NETS; i++) o->replayed[i] = spread_of(n->replayed[i], b->repeats);
    o->exchanges = s->cost[ROLE_CLIENT].exchanges;
    o->bytes = s->cost[ROLE_CLIENT].bytes;
    o->bytes.third_to_server = dealer ? 0 : s->cost[ROLE_SERVER].bytes.third_to_server;
    o->correlation = dealer ? s->pool_bytes : o->bytes.third_to_server;
    if (dealer) o->setup.third_to_server = s->pool_bytes;
    uint64_t all = 0, over = 0;
    for (int p = 0; p < PARTIES; p++) {
        const Profile *f = &s->profile[p];
        o->cpu[p] = spread_of(cpu[p], b->repeats), o->online_cpu[p] = spread_of(online[p], b->repeats);
        for (int k = 0; k < KIND_COUNT; k++) o->share[p][k] = f->all ? (double)f->kind[k] / f->all : 0;
        if (p != ROLE_THIRD) all += f->all, over += f->kind[KIND_PRG] + f->kind[KIND_PACK] + f->kind[KIND_MASK];
    }
    o->samples = all;
    o->overhead = all ? (double)over / (double)all : 0;
}

/* What was counted beforehand is what was sent, to the byte. */
static Result outcome_check(const Outcome *o, const Bench *n)
{
    const LinkBytes *want = &n->counted.bytes, *got = &o->bytes;
    if (o->exchanges == n->counted.exchanges && got->client_to_server == want->client_to_server &&
        got->server_to_client == want->server_to_client && o->correlation == want->third_to_server) return OK;
    return fail(FAIL_DATA, "the plan counts %llu exchanges, %llu, %llu and %llu bytes, the run took %llu, %llu, %llu and %llu",
                (unsigned long long)n->counted.exchanges, (unsigned long long)want->client_to_server,
                (unsigned long long)want->server_to_client, (unsigned long long)want->third_to_server, (unsigned long long)o->exchanges,
                (unsigned long long)got->client_to_server, (unsigned long long)got->server_to_client, (unsigned long long)o->correlation);
}

static Json *parties_json(const double v[PARTIES])
{
    Json *o = json_new_object();
    for (int p = 0; p < PARTIES; p++) json_put(o, party_names[p], json_of_real(v[p]));
    return o;
}

/* Parties that computed while time was taken. */
static Json *shares_json(const Bench *n, const Outcome *o)
{
    Json *all = json_new_object();
    for (int p = 0; p < PARTIES; p++) {
        if (!n->b.shared->profile[p].all) continue;
        Json *one = json_new_object();
        for (int k = 0; k < KIND_COUNT; k++) json_put(one, kind_names[k], json_of_real(o->share[p][k]));
        json_put(all, party_names[p], one);
    }
    return all;
}

static Json *busiest_json(const Bench *n)
{
    Json *all = json_new_object();
    for (int p = 0; p < PARTIES; p++) {
        const Profile *f = &n->b.shared->profile[p];
        if (!f->all) continue;
        Json *one = json_new_object();
        for (int i = 0; i < BUSIEST && f->busiest[i].count; i++)
            json_put(one, f->busiest[i].name, json_of_real((double)f->busiest[i].count / f->all));
        json_put(all, party_names[p], one);
    }
    return all;
}

/* What the issue asks of a GPT-2-small block of 128 tokens. */
typedef struct Asked { const char *name; double value, most; bool applies; } Asked;

static size_t asked_list(Asked out[16], const Bench *n, const Outcome *o)
{
    const BlockArgs *k = n->k;
    bool shaped = net_is_shaped(&n->b.net);
    bool peer = !strcmp(k->shape, "gpt2-small") && k->tokens == 128 && !k->past && k->merge == 1 && !n->b.rank;
    peer &= n->b.threads == 1 && !shaped;
    bool dealer = n->b.setting == SETTING_DEALER, lean = k->prefer == PREFER_BYTES;
    const LinkBytes *b = &o->bytes;
    double plain = o->plain.least, mb = 1e-6;
    double links = mb * (double)(b->client_to_server + b->server_to_client + b->third_to_server);
    double rss = fmax(fmax(n->rss[0], n->rss[1]), n->rss[2]);
    Asked list[] = {
        {"seconds to plain_seconds", o->seconds.least / plain, dealer ? 12 : 35, peer},
        {"client_to_server MB", mb * (double)b->client_to_server, 8.7, peer && lean},
        {"server_to_client MB", mb * (double)b->server_to_client, 5.7, peer && lean},
        {"exchanges", (double)o->exchanges, lean ? 22 : 17, peer},
        {"correlation MB of the server", mb * (double)o->correlation, 45.1, peer && lean},
        {"third's cpu_seconds to plain_seconds", o->cpu[ROLE_THIRD].least / plain, 25, peer},
        {"all links MB", links, 59.5, peer && lean && !dealer},
        {"peak_rss_mb of a party", rss, 250, peer},
        {"max_abs_error, to outputs of rms 1", n->error / n->output_rms, 0.01, peer},
        {"packing, masking and PRG, share of online time", o->overhead, 0.15, o->samples >= 100},
        {"error of the prediction, loopback", fabs(n->predicted[0] / o->replayed[0].least - 1), 0.3, !shaped},
        {"error of the prediction, lan", fabs(n->predicted[1] / o->replayed[1].least - 1), 0.3, !shaped},
        {"error of the prediction, wan", fabs(n->predicted[2] / o->replayed[2].least - 1), 0.3, !shaped},
    };
    memcpy(out, list, sizeof list);
    return sizeof list / sizeof *list;
}

static void block_json(const Bench *n, const Outcome *o)
{
    const BlockArgs *k = n->k;
    Json *j = json_new_object(), *asked = json_new_array(), *median = json_new_object();
    double cpu[PARTIES], online[PARTIES];
    for (int p = 0; p < PARTIES; p++) cpu[p] = o->cpu[p].least, online[p] = o->online_cpu[p].least;
    json_put(j, "bench", json_of_text("block"));
    json_put(j, "machine", machine_json());
    json_put(j, "shape", json_of_text(k->shape));
    json_put(j, "tokens", json_of_uint(k->tokens));
    json_put(j, "past", json_of_uint(k->past));
    json_put(j, "setting", json_of_text(setting_names[n->b.setting]));
    json_put(j, "prefer", json_of_text(prefer_names[k->prefer]));
    json_put(j, "private", json_of_text(private_names[n->b.rank ? PRIVATE_LORA : PRIVATE_LAYERS]));
    json_put(j, "merge", json_of_uint(k->merge));
    json_put(j, "net", json_of_text(k->net));
    json_put(j, "repeats", json_of_uint(n->b.repeats));
    json_put(j, "statistic", json_of_text("minimum of the repetitions"));
    json_put(j, "seconds", json_of_real(o->seconds.least));
    json_put(j, "plain_seconds", json_of_real(o->plain.least));
    json_put(j, "ratio", json_of_real(o->seconds.least / o->plain.least));
    if (!net_is_shaped(&n->b.net)) {
        Json *nets = json_new_object(), *predicted = json_new_object();
        for (int i = 0; i < NETS; i++) {
            json_put(nets, net_names[i], json_of_real(o->replayed[i].least));
            json_put(predicted, net_names[i], json_of_real(n->predicted[i]));
        }
        json_put(j, "replayed_seconds", nets);
        json_put(j, "predicted_seconds", predicted);
    }
    json_put(median, "seconds", json_of_real(o->seconds.median));
    json_put(median, "plain_seconds", json_of_real(o->plain.median));
    json_put(j, "median", median);
    json_put(j, "cpu_seconds", parties_json(cpu));
    json_put(j, "online_cpu_seconds", parties_json(online));
    json_put(j, "setup_cpu_seconds", parties_json(n->b.shared->setup_cpu));
    json_put(j, "exchanges", json_of_uint(o->exchanges));
    json_put(j, "bytes", json_of_bytes(&o->bytes));
    json_put(j, "correlation_bytes", json_of_uint(o->correlation));
    json_put(j, "setup_bytes", json_of_bytes(&o->setup));
    json_put(j, "max_abs_error", json_of_real(n->error));
    json_put(j, "output_rms", json_of_real(n->output_rms));
    json_put(j, "peak_rss_mb", parties_json(n->rss));
    json_put(j, "time_by_kind", shares_json(n, o));
    json_put(j, "busiest_functions", busiest_json(n));
    Asked list[16];
    for (size_t i = 0, count = asked_list(list, n, o); i < count; i++) {
        if (!list[i].applies) continue;
        Json *one = json_new_object();
        json_put(one, "name", json_of_text(list[i].name));
        json_put(one, "value", json_of_real(list[i].value));
        json_put(one, "asked", json_of_real(list[i].most));
        json_put(one, "met", json_of_bool(list[i].value <= list[i].most));
        json_add(asked, one);
    }
    json_put(j, "asked", asked);
    print_json(j);
}

static void block_print(const Bench *n, const Outcome *o)
{
    char text[3][32];
    printf("%s, one layer, %zu tokens after %zu, %s, private %s, prefer %s, %s, %u thread%s a party; least of %u\n\n",
           n->k->shape, n->b.rows, n->b.past,
           setting_names[n->b.setting], private_names[n->b.rank ? PRIVATE_LORA : PRIVATE_LAYERS], prefer_names[n->k->prefer], n->k->net,
           n->b.threads, n->b.threads == 1 ? "" : "s", n->b.repeats);
    printf("%-36s %10.4f s (median %.4f)\n", "from shared input to shared output", o->seconds.least, o->seconds.median);
    printf("%-36s %10.4f s (median %.4f): %.1fx\n", "float forward", o->plain.least, o->plain.median, o->seconds.least / o->plain.least);
    for (int i = 0; i < NETS && !net_is_shaped(&n->b.net); i++)
        printf("%s %-26s %10.4f s (median %.4f), predicted %.4f: %+.0f %%\n", "replayed,", net_names[i], o->replayed[i].least,
               o->replayed[i].median, n->predicted[i], 100 * (n->predicted[i] / o->replayed[i].least - 1));
    printf("%-36s %10.6f (outputs of rms %.2f)\n", "largest error", n->error, n->output_rms);
    printf("%-36s %10llu\n", "exchanges", (unsigned long long)o->exchanges);
    printf("%-36s %10s, %s back\n", "client to server", bytes_text(text[0], o->bytes.client_to_server),
           bytes_text(text[1], o->bytes.server_to_client));
    printf("%-36s %10s; pinned, once: %s\n\n", "third to server", bytes_text(text[0], o->correlation),
           bytes_text(text[1], o->setup.server_to_third));
    printf("%-10s %11s %11s %10s", "", "CPU s", "online", "RSS");
    for (int k = 0; k < KIND_COUNT; k++) printf(" %9s", kind_names[k]);
    for (int p = 0; p < PARTIES; p++) {
        printf("\n%-10s %11.4f %11.4f %7.0f MB", party_names[p], o->cpu[p].least, o->online_cpu[p].least, n->rss[p]);
        for (int k = 0; k < KIND_COUNT; k++) printf(" %7.0f %%", 100 * o->share[p][k]);
    }
    for (int p = 0; p < PARTIES; p++) {
        const Profile *f = &n->b.shared->profile[p];
        for (int i = 0; i < BUSIEST && f->busiest[i].count; i++)
            printf("%s%s %.0f %%", i ? ", " : p ? "\n" : "\n\n", f->busiest[i].name, 100.0 * f->busiest[i].count / f->all);
    }
    printf("\n\n%-48s %10s %10s\n", "", "measured", "asked");
    Asked list[16];
    for (size_t i = 0, count = asked_list(list, n, o); i < count; i++)
        if (list[i].applies)
            printf("%-48s %10.4g %10.4g%s\n", list[i].name, list[i].value, list[i].most, list[i].value <= list[i].most ? "" : "  MISSED");
}

Result bench_block(int argc, char **argv)
{
    BlockArgs k = {.tokens = 128, .rank = 64, .merge = 1, .repeats = 5, .seed = 1, .private = PRIVATE_LAYERS, .prefer = PREFER_BYTES,
                   .net = "loopback"};
    uint64_t threads = 1;
    Option options[] = {
        OPTION("--shape", OPT_TEXT, &k.shape, .required = true),
        OPTION("--setting", OPT_CHOICE, &k.setting, .required = true, .choices = setting_choices),
        OPTION("--tokens", OPT_UINT, &k.tokens, .min = 1, .max = 4096),
        OPTION("--past", OPT_UINT, &k.past, .max = 1 << 16),
        OPTION("--private", OPT_CHOICE, &k.private, .choices = private_names),
        OPTION("--rank", OPT_UINT, &k.rank, .min = 1, .max = 4096),
        OPTION("--merge", OPT_UINT, &k.merge, .min = 1, .max = 1024),
        OPTION("--prefer", OPT_CHOICE, &k.prefer, .choices = prefer_names),
        OPTION("--repeat", OPT_UINT, &k.repeats, .min = 1, .max = MOST_REPEATS),
        OPTION("--seed", OPT_UINT, &k.seed),
        OPTION("--threads", OPT_UINT, &threads, .min = 1, .max = 256),
        OPTION("--kernels", OPT_CHOICE, &k.kernels, .choices = kernel_names),
        OPTION("--net", OPT_TEXT, &k.net),
        OPTION("--json", OPT_FLAG, &k.json),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Setting setting;
    GUARD(setting_choose(&setting, k.setting));
    if (setting != SETTING_DEALER && setting != SETTING_3PC) return fail(FAIL_USE, "--setting of a block is dealer or 3pc");
    Net net = {0};
    GUARD(net_parse(&net, k.net));
    kernels_limit(k.kernels);
    Bench n = {.k = &k, .b = {.threads = (unsigned)threads, .net = net}};
    arena_init(&n.arena, false);
    Result r = block_prepare(&n, setting);
    if (!failed(r)) r = block_measure(&n);
    Outcome o;
    if (!failed(r)) {
        outcome_make(&o, &n);
        r = outcome_check(&o, &n);
    }
    if (!failed(r)) {
        if (k.json) block_json(&n, &o);
        else block_print(&n, &o);
    }
    listener_close(n.b.at_server), listener_close(n.b.at_third);
    for (int i = 0; i < PARTIES; i++) identity_free(&n.b.id[i]);
    model_free(&n.model), adapter_free(&n.adapter);
    plan_free(&n.b.plan);
    arena_free(&n.arena);
    return r;
}
