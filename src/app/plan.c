/* plan.c - predicting what a token costs: bytes and exchanges exactly, from the plan; seconds from a network and a measured rate.
 *
 *     seconds = exchanges * RTT / 2 + bytes of the slowest direction / bandwidth + multiplications / rate
 *
 * The rate is that of products of 16-bit weights with one row of shares (a token) or with 32 (a prompt), measured on this
 * machine for some milliseconds; what the moves cost besides is not in it. */
#include "app/app.h"

#include <stdlib.h>
#include <string.h>

const char plan_usage[] =
    "(--shape NAME | --model DIR [--adapter DIR]) --setting S [options]\n"
    "  --shape NAME                 gpt2-small, open-llama-3b or llama2-7b, with ranges that are typical of trained models\n"
    "  --setting S                  dealer or 3pc\n"
    "  --frozen F                   layers that the client runs by itself; a fraction if below 1\n"
    "  --rank R                     of the private factors of a shape; without it all weights are private\n"
    "  --merge M                    heads of a shape that share one softmax (1)\n"
    "  --prefer exchanges|bytes     --private layers|lora        of a folder (those of its plan)\n"
    "  --context N                  positions (128 of a shape); half of them are the prompt\n"
    "  --net NET                    loopback, lan, wan or RTT=..ms,BW=..Mbit (loopback)\n"
    "  --json\n";


typedef struct PlanArgs {
    const char *shape, *model, *adapter, *net;
    unsigned setting, prefer, private;
    uint64_t rank, context, merge;
    double frozen;
    bool json;
    PlanWish wish;
} PlanArgs;

typedef struct Forecast { Cost prefill, decode; size_t prompt, past; double rate[2], work; Net net; } Forecast;

static const Net loopback = {60e-6, 2.5e9};     // what "loopback" stands for here: TLS between two processes

/* Multiplications a second of rows of shares with 16-bit weights, on the threads of one party. */
static double rate_measure(size_t rows)
{
    enum { SIDE = 2048 };
    int16_t *w = calloc((size_t)SIDE * SIDE, sizeof *w);
    uint64_t *x = calloc(rows * SIDE, sizeof *x), *y = calloc(rows * SIDE, sizeof *y);
    if (!w || !x || !y) bug("out of memory");
    ring_linear_i16(y, x, w, rows, SIDE, SIDE, 64);
    double start = clock_seconds(), n = 0;
    while (clock_seconds() - start < 0.05) ring_linear_i16(y, x, w, rows, SIDE, SIDE, 64), n += (double)rows;
    double rate = n * SIDE * SIDE / (clock_seconds() - start);
    free(w), free(x), free(y);
    return rate;
}

static uint64_t most_of(const uint64_t *v, size_t n)
{
    uint64_t best = 0;
    for (size_t i = 0; i < n; i++) best = v[i] > best ? v[i] : best;
    return best;
}

static double forecast_seconds(const Forecast *f, const Cost *c, double rows)
{
    const LinkBytes *b = &c->bytes;
    uint64_t worst = most_of((const uint64_t[]){b->client_to_server, b->server_to_client, b->third_to_server, b->server_to_third}, 4);
    return (double)c->exchanges * f->net.rtt / 2 + (double)worst / f->net.bandwidth + rows * f->work / f->rate[rows > 1];
}

static Result forecast_make(Forecast *f, const Plan *p, const ModelConfig *c, Setting setting)
{
    f->prompt = p->context / 2 > p->known ? p->context / 2 : 1;
    f->past = p->context - 1 > p->known ? p->context - 1 : p->known;
    GUARD(plan_cost(&f->prefill, p, c, 0, f->prompt, true));
    GUARD(plan_cost(&f->decode, p, c, (uint32_t)f->past, 1, true));
    if (setting == SETTING_DEALER) f->prefill.bytes.third_to_server = f->decode.bytes.third_to_server = 0;      // they lie in the pool
    f->work = (double)c->vocab * c->width;
    for (MatrixKind m = 0; m < MAT_COUNT; m++) f->work += (double)p->layers * matrix_rows(c, m) * matrix_cols(c, m);
    f->rate[0] = rate_measure(1), f->rate[1] = rate_measure(32);
    return OK;
}

// ---- printing --------------------------------------------------------------------------------------------------------

static Json *cost_json(const Forecast *f, const Cost *c, double rows, bool per_token)
{
    Json *o = json_new_object();
    if (!per_token) json_put(o, "tokens", json_of_uint((uint64_t)rows));
    json_put(o, per_token ? "exchanges_per_token" : "exchanges", json_of_uint(c->exchanges));
    json_put(o, per_token ? "bytes_per_token" : "bytes", json_of_bytes(&c->bytes));
    json_put(o, per_token ? "seconds_per_token" : "seconds", json_of_real(forecast_seconds(f, c, rows)));
    return o;
}

static void forecast_print(const Forecast *f, const Plan *p, const ModelConfig *c, const PlanArgs *k)
{
    if (k->json) {
        Json *o = json_new_object(), *net = json_new_object();
        json_put(o, "setting", json_of_text(setting_names[k->setting]));
        json_put(o, "context", json_of_uint(p->context));
        json_put(o, "frozen", json_of_uint(p->frozen));
        json_put(o, "secure_layers", json_of_uint(p->layers));
        json_put(o, "prefill", cost_json(f, &f->prefill, (double)f->prompt, false));
        json_put(o, "decode", cost_json(f, &f->decode, 1, true));
        json_put(o, "setup_bytes", json_of_uint(plan_setup_bytes(p, c)));
        json_put(net, "rtt_seconds", json_of_real(f->net.rtt));
        json_put(net, "bytes_per_second", json_of_real(f->net.bandwidth));
        json_put(net, "multiplications_per_second", json_of_real(f->rate[0]));
        json_put(o, "assumed", net);
        print_json(o);
        return;
    }
    char text[3][32];
    const LinkBytes *a = &f->prefill.bytes, *b = &f->decode.bytes;
    printf("%u of %u layers are secure; context %u; once: %s from the provider to the third\n\n", p->layers, c->layers, p->context,
           bytes_text(text[0], plan_setup_bytes(p, c)));
    printf("%-20s %12s %16s\n", "", "prompt", "token");
    printf("%-20s %12zu %12s %zu\n", "tokens", f->prompt, "after", f->past);
    printf("%-20s %12llu %14llu\n", "exchanges", (unsigned long long)f->prefill.exchanges, (unsigned long long)f->decode.exchanges);
    printf("%-20s %12s %14s\n", "client > provider", bytes_text(text[0], a->client_to_server), bytes_text(text[1], b->client_to_server));
    printf("%-20s %12s %14s\n", "provider > client", bytes_text(text[0], a->server_to_client), bytes_text(text[1], b->server_to_client));
    printf("%-20s %12s %14s\n", "third > provider", bytes_text(text[0], a->third_to_server), bytes_text(text[1], b->third_to_server));
    printf("%-20s %10.3f s %12.3f s\n", "about", forecast_seconds(f, &f->prefill, (double)f->prompt),
           forecast_seconds(f, &f->decode, 1));
}

// ---- where the plan comes from ---------------------------------------------------------------------------------------

static Result shape_plan(Plan *out, ModelConfig *c, const PlanArgs *k, const Option *options)
{
    GUARD(shape_config(k->shape, c));
    PlanOptions o = {.context = k->context ? (uint32_t)k->context : 128,
                     .prefer = (Prefer)k->prefer,
                     .heads.size = (uint32_t)k->merge,
                     .private_part = k->rank ? PRIVATE_LORA : PRIVATE_LAYERS};
    if (option_given(options, "--private") && k->private == PRIVATE_LORA && !k->rank)
        return fail(FAIL_USE, "--private lora of a shape needs --rank");
    if (option_given(options, "--private") && k->private == PRIVATE_LAYERS) o.private_part = PRIVATE_LAYERS;
    if (o.context > c->context) return fail(FAIL_USE, "--context %u is more than the %u of %s", o.context, c->context, k->shape);
    if (option_given(options, "--frozen")) GUARD(frozen_count(&o.frozen, k->frozen, c->layers));
    if (c->arch == ARCH_LLAMA) o.weight_bits = 8;              // a base of that size is used quantised
    return plan_assume(out, c, &o, o.private_part == PRIVATE_LORA ? (uint32_t)k->rank : 0);
}

static Result folder_plan(Plan *out, ModelConfig *c, const PlanArgs *k)
{
    const char *path;
    if (k->rank) return fail(FAIL_USE, "--rank is for shapes: a folder's adapter has its own");
    if (k->merge != 1) return fail(FAIL_USE, "--merge is for shapes: a folder's plan has its own groups of heads");
    GUARD(config_read(c, k->model));
    GUARD(plan_settle(&path, &k->wish));
    GUARD(plan_load(out, path));
    GUARD(fail_in(plan_check(out, c), "%s", path));
    if (k->context > out->context)
        return fail(FAIL_USE, "--context %llu is more than the %u of the plan", (unsigned long long)k->context, out->context);
    if (k->context) out->context = (uint32_t)k->context;
    return OK;
}

Result plan_command(int argc, char **argv)
{
    PlanArgs k = {.net = "loopback", .merge = 1};
    Option options[] = {
        OPTION("--shape", OPT_TEXT, &k.shape),
        OPTION("--model", OPT_TEXT, &k.model),
        OPTION("--adapter", OPT_TEXT, &k.adapter),
        OPTION("--setting", OPT_CHOICE, &k.setting, .required = true, .choices = setting_choices),
        OPTION("--prefer", OPT_CHOICE, &k.prefer, .choices = prefer_names),
        OPTION("--private", OPT_CHOICE, &k.private, .choices = private_names),
        OPTION("--frozen", OPT_REAL, &k.frozen, .max = 1e6),
        OPTION("--rank", OPT_UINT, &k.rank, .min = 1, .max = 4096),
        OPTION("--merge", OPT_UINT, &k.merge, .min = 1, .max = 1024),
        OPTION("--context", OPT_UINT, &k.context, .min = 2, .max = 1 << 17),
        OPTION("--net", OPT_TEXT, &k.net),
        OPTION("--json", OPT_FLAG, &k.json),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Setting setting;
    Forecast f = {0};
    Plan p = {0};
    ModelConfig c;
    GUARD(setting_choose(&setting, k.setting));
    GUARD(net_parse(&f.net, k.net));
    if (!net_is_shaped(&f.net)) f.net = loopback;
    if (setting != SETTING_DEALER && setting != SETTING_3PC)
        return fail(FAIL_USE, "setting '%s' costs no communication: 'dealer' and '3pc' do", setting_names[setting]);
    if (!k.shape == !k.model) return fail(FAIL_USE, "one of --shape and --model must be given");
    k.wish = (PlanWish){.model = k.model, .adapter = k.adapter, .positions = k.context};
    wish_read(&k.wish, options, k.frozen, k.private, k.prefer);
    threads_start(party_threads(0, setting));
    Result r = k.shape ? shape_plan(&p, &c, &k, options) : folder_plan(&p, &c, &k);
    if (!failed(r)) r = forecast_make(&f, &p, &c, setting);
    if (!failed(r)) forecast_print(&f, &p, &c, &k);
    plan_free(&p);
    return r;
}
