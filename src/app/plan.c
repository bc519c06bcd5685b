/* plan.c - predicting what a prompt and a token cost: bytes and exchanges exactly, as COUNT counts them; seconds from the same
 * counts and from what this machine is seen to do in a second or two (forecast.c). */
#include "app/forecast.h"
#include "app/synthetic.h"

#include <stdlib.h>
#include <string.h>

const char plan_usage[] =
    "(--shape NAME | --model DIR [--adapter DIR]) --setting S [options]\n"
    "  --shape NAME                 gpt2-small, open-llama-3b or llama2-7b, with ranges that are typical of trained models\n"
    "  --setting S                  dealer or 3pc\n"
    "  --frozen F                   layers that the client runs by itself; a fraction if below 1\n"
    "  --rank R                     of the private factors of a shape; without it all weights are private\n"
    "  --merge M                    heads of a shape that share one softmax (1)\n"
    "  --cells N                    of a shape's table of SiLU or GELU (256)\n"
    "  --constant-norms             of a shape: tuning holds its norms at constants\n"
    "  --side-by-side               of a shape: attention and feed-forward read the same x\n"
    "  --row-bound                  of a shape: tuning keeps the largest score of a row near a bound\n"
    "  --prefer exchanges|bytes     --private layers|lora        of a folder (those of its plan)\n"
    "  --context N                  positions (128 of a shape); half of them are the prompt\n"
    "  --bytes                      of a shape: public weights of 8 bits with a scale of each row, instead of 16\n"
    "  --net NET                    loopback, lan, wan or RTT=..ms,BW=..Mbit (loopback)\n"
    "  --json\n";

typedef struct PlanArgs {
    const char *shape, *model, *adapter, *net;
    unsigned setting, prefer, private;
    uint64_t rank, context, merge, cells;
    double frozen;
    bool json, bytes;
    Change change;
    PlanWish wish;
} PlanArgs;

Result forecast_make(Forecast *f, const Plan *p, const ModelConfig *c, Setting setting)
{
    Batch batch = {.layers = p->layers, .setting = setting, .threads = party_threads(0, setting), .head_macs = (double)c->vocab * c->width};
    batch.group = layer_group(c);
    f->prefill = f->decode = batch;
    f->prefill.rows = p->context / 2 > p->known ? p->context / 2 : 1, f->decode.rows = 1;
    f->past = p->context - 1 > p->known ? p->context - 1 : p->known;
    f->decode.frozen_macs = p->frozen * layer_macs(c), f->prefill.frozen_macs = (double)f->prefill.rows * f->decode.frozen_macs;
    GUARD(plan_cost(&f->prefill.cost, p, c, 0, f->prefill.rows, true));
    GUARD(plan_cost(&f->decode.cost, p, c, (uint32_t)f->past, 1, true));
    return rates_measure(&f->rates, p, c);
}

LinkBytes batch_bytes(const Batch *b)
{
    LinkBytes l = b->cost.bytes;
    if (b->setting == SETTING_DEALER) l.third_to_server = 0;
    return l;
}

// ---- printing --------------------------------------------------------------------------------------------------------

static Json *batch_json(const Forecast *f, const Batch *b, bool per_token)
{
    Json *o = json_new_object();
    LinkBytes bytes = batch_bytes(b);
    if (!per_token) json_put(o, "tokens", json_of_uint(b->rows));
    json_put(o, per_token ? "exchanges_per_token" : "exchanges", json_of_uint(b->cost.exchanges));
    json_put(o, per_token ? "bytes_per_token" : "bytes", json_of_bytes(&bytes));
    json_put(o, "correlation_bytes", json_of_uint(b->cost.bytes.third_to_server));
    json_put(o, per_token ? "seconds_per_token" : "seconds", json_of_real(forecast_seconds(&f->rates, b, &f->net)));
    return o;
}

static void forecast_json(const Forecast *f, const Plan *p, const ModelConfig *c, const PlanArgs *k)
{
    Json *o = json_new_object(), *net = json_new_object();
    json_put(o, "setting", json_of_text(setting_names[k->setting]));
    json_put(o, "context", json_of_uint(p->context));
    json_put(o, "frozen", json_of_uint(p->frozen));
    json_put(o, "secure_layers", json_of_uint(p->layers));
    json_put(o, "prefill", batch_json(f, &f->prefill, false));
    json_put(o, "decode", batch_json(f, &f->decode, true));
    json_put(o, "setup_bytes", json_of_uint(plan_setup_bytes(p, c)));
    json_put(net, "rtt_seconds", json_of_real(f->net.rtt));
    json_put(net, "bytes_per_second", json_of_real(f->net.bandwidth));
    json_put(o, "net", net);
    json_put(o, "measured", rates_json(&f->rates));
    print_json(o);
}

static void forecast_print(const Forecast *f, const Plan *p, const ModelConfig *c)
{
    char text[2][32];
    LinkBytes a = batch_bytes(&f->prefill), b = batch_bytes(&f->decode);
    const Rates *r = &f->rates;
    printf("%u of %u layers are secure; context %u; once: %s from the provider to the third\n\n", p->layers, c->layers, p->context,
           bytes_text(text[0], plan_setup_bytes(p, c)));
    printf("%-20s %12s %16s\n", "", "prompt", "token");
    printf("%-20s %12zu %12s %zu\n", "tokens", f->prefill.rows, "after", f->past);
    printf("%-20s %12llu %14llu\n", "exchanges", (unsigned long long)f->prefill.cost.exchanges,
           (unsigned long long)f->decode.cost.exchanges);
    printf("%-20s %12s %14s\n", "client > provider", bytes_text(text[0], a.client_to_server), bytes_text(text[1], b.client_to_server));
    printf("%-20s %12s %14s\n", "provider > client", bytes_text(text[0], a.server_to_client), bytes_text(text[1], b.server_to_client));
    printf("%-20s %12s %14s\n", "third > provider", bytes_text(text[0], a.third_to_server), bytes_text(text[1], b.third_to_server));
    if (f->prefill.setting == SETTING_DEALER)
        printf("%-20s %12s %14s\n", "in the pool", bytes_text(text[0], f->prefill.cost.bytes.third_to_server),
               bytes_text(text[1], f->decode.cost.bytes.third_to_server));
    printf("%-20s %10.3f s %12.3f s\n", "about", forecast_seconds(r, &f->prefill, &f->net), forecast_seconds(r, &f->decode, &f->net));
    printf("\nmeasured here, one thread: %.1f and %.1f G multiply-adds a second of public weights (one row, many rows), %.1f and %.1f of\n"
           "pads; everything else %.2f and %.2f ns for each byte on the links at the provider; loopback %.1f GB/s and %.0f us\n",
           1e-9 / r->product[RATE_PUBLIC][0], 1e-9 / r->product[RATE_PUBLIC][1], 1e-9 / r->product[RATE_CLIENT_PAD][0],
           1e-9 / r->product[RATE_CLIENT_PAD][1],
           1e9 * r->rest_byte[ROLE_SERVER][0], 1e9 * r->rest_byte[ROLE_SERVER][1], r->loopback_bandwidth / 1e9, r->loopback_latency * 1e6);
}

// ---- where the plan comes from ---------------------------------------------------------------------------------------

static Result shape_plan(Plan *out, ModelConfig *c, const PlanArgs *k, const Option *options)
{
    GUARD(shape_config(k->shape, c));
    PlanOptions o = {.context = k->context ? (uint32_t)k->context : 128,
                     .prefer = (Prefer)k->prefer,
                     .variant.heads.size = (uint32_t)k->merge,
                     .variant.cells = (uint32_t)k->cells,
                     .private_part = k->rank ? PRIVATE_LORA : PRIVATE_LAYERS,
                     .weight_bits = k->bytes ? 8 : 16};
    if (option_given(options, "--private") && k->private == PRIVATE_LORA && !k->rank)
        return fail(FAIL_USE, "--private lora of a shape needs --rank");
    if (option_given(options, "--private") && k->private == PRIVATE_LAYERS) o.private_part = PRIVATE_LAYERS;
    if (o.context > c->context) return fail(FAIL_USE, "--context %u is more than the %u of %s", o.context, c->context, k->shape);
    if (option_given(options, "--frozen")) GUARD(frozen_count(&o.frozen, k->frozen, c->layers));
    if (c->arch == ARCH_LLAMA) o.weight_bits = 8;              // a base of that size is used quantised
    Arena a;
    arena_init(&a, false);
    synthetic_variant(&o.variant, &k->change, c, &a);
    Result r = plan_assume(out, c, &o, o.private_part == PRIVATE_LORA ? (uint32_t)k->rank : 0);
    arena_free(&a);
    return r;
}

static Result folder_plan(Plan *out, ModelConfig *c, const PlanArgs *k)
{
    const char *path;
    if (k->rank) return fail(FAIL_USE, "--rank is for shapes: a folder's adapter has its own");
    if (k->change.norms || k->change.bounds || k->change.beside)
        return fail(FAIL_USE, "changes of a shape's layers: those of a folder are in its marill.json");
    if (k->cells) return fail(FAIL_USE, "--cells is for shapes: a folder's plan has its own");
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
        OPTION("--cells", OPT_UINT, &k.cells, .max = 4096),
        OPTION("--constant-norms", OPT_FLAG, &k.change.norms),
        OPTION("--row-bound", OPT_FLAG, &k.change.bounds),
        OPTION("--side-by-side", OPT_FLAG, &k.change.beside),
        OPTION("--bytes", OPT_FLAG, &k.bytes),
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
    if (setting != SETTING_DEALER && setting != SETTING_3PC)
        return fail(FAIL_USE, "setting '%s' costs no communication: 'dealer' and '3pc' do", setting_names[setting]);
    if (!k.shape == !k.model) return fail(FAIL_USE, "one of --shape and --model must be given");
    k.wish = (PlanWish){.model = k.model, .adapter = k.adapter, .positions = k.context};
    wish_read(&k.wish, options, k.frozen, k.private, k.prefer);
    Result r = k.shape ? shape_plan(&p, &c, &k, options) : folder_plan(&p, &c, &k);
    if (!failed(r)) r = forecast_make(&f, &p, &c, setting);
    if (!failed(r) && k.json) forecast_json(&f, &p, &c, &k);
    else if (!failed(r)) forecast_print(&f, &p, &c);
    plan_free(&p);
    return r;
}
