/* tune_cost.c - what a recipe's model would cost under secure computation, predicted before it is trained, beside the standard
 * model: every layer secure, every weight of them private. From typical ranges (plan_assume), with the bytes and exchanges that COUNT
 * counts and seconds from this machine's rates (forecast.c). */
#include "app/forecast.h"
#include "app/tune_cost.h"

#include <string.h>

static const Setting settings[] = {SETTING_DEALER, SETTING_3PC};
static const char *const networks[] = {"lan", "wan"};

// ---- what the secure layers take of the variant ----------------------------------------------------------------------

typedef enum { PART_HEADS, PART_SCALE, PART_ACTIVATION, PART_SOFTMAX, PART_BESIDE, PART_NORM, PART_BOUNDS, PART_CELLS, PARTS } FormPart;

static void part_take(Variant *to, const Variant *from, FormPart part)
{
    switch (part) {
    case PART_HEADS: to->heads = from->heads; break;
    case PART_SCALE: to->score_scale = from->score_scale; break;
    case PART_ACTIVATION: to->activation = from->activation; break;
    case PART_SOFTMAX: to->softmax = from->softmax, to->score_shift = from->score_shift; break;
    case PART_BESIDE: to->side_by_side = from->side_by_side; break;
    case PART_NORM: to->norm = from->norm, to->norm_mix = from->norm_mix; break;
    case PART_BOUNDS: to->row_bound = from->row_bound; break;
    case PART_CELLS: to->cells = from->cells; break;
    case PARTS: break;
    }
}

/* Takes the recipe's form part by part; a part that the secure layers refuse is left out, with their words. */
static Result recipe_plan(TuneCost *out, Plan *p, const TuneOutline *t)
{
    PlanOptions o = {.context = t->context, .frozen = t->first, .private_part = t->rank ? PRIVATE_LORA : PRIVATE_LAYERS,
                     .targets = t->rank ? t->target : NULL, .variant.first = t->first};
    GUARD(plan_assume(p, &t->config, &o, t->rank));
    for (FormPart part = 0; part < PARTS; part++) {
        PlanOptions more = o;
        Plan with = {0};
        part_take(&more.variant, &t->variant, part);
        if (!memcmp(&more.variant, &o.variant, sizeof o.variant)) continue;
        if (failed(plan_assume(&with, &t->config, &more, t->rank))) {
            snprintf(out->refused[out->refusals++], sizeof out->refused[0], "%s", result_text());
            plan_free(&with);
            continue;
        }
        plan_free(p);
        *p = with, o = more;
    }
    return OK;
}

// ---- the prediction --------------------------------------------------------------------------------------------------

static Result model_cost(ModelCost *out, const Plan *p, const ModelConfig *c)
{
    Forecast f = {0};
    Cost whole;
    GUARD(forecast_make(&f, p, c, SETTING_DEALER));
    GUARD(plan_cost(&whole, p, c, 0, p->context - p->known, true));
    out->frozen = p->frozen, out->layers = p->layers, out->rank = p->rank;
    out->exchanges = f.decode.cost.exchanges, out->pool = whole.bytes.third_to_server;
    for (int s = 0; s < 2; s++) {
        Batch token = f.decode;
        token.setting = settings[s], token.threads = party_threads(0, settings[s]);
        out->bytes[s] = batch_bytes(&token);
        for (int n = 0; n < 2; n++) {
            Net net;
            GUARD(net_parse(&net, networks[n]));
            out->seconds[s][n] = forecast_seconds(&f.rates, &token, &net);
        }
    }
    return OK;
}

Result tune_cost(TuneCost *out, const char *recipe)
{
    TuneOutline t;
    Plan plan = {0}, standard = {0};
    Arena a;
    *out = (TuneCost){0};
    arena_init(&a, false);
    Result r = tune_outline(&t, recipe, &a);
    if (!failed(r)) r = recipe_plan(out, &plan, &t);
    if (!failed(r)) r = plan_assume(&standard, &t.config, &(PlanOptions){.context = t.context, .private_part = PRIVATE_LAYERS}, 0);
    if (!failed(r)) out->context = plan.context;
    if (!failed(r)) r = model_cost(&out->tuned, &plan, &t.config);
    if (!failed(r)) r = model_cost(&out->standard, &standard, &t.config);
    plan_free(&plan);
    plan_free(&standard);
    arena_free(&a);
    return r;
}

// ---- printing --------------------------------------------------------------------------------------------------------

static uint64_t bytes_sum(const LinkBytes *b)
{
    return b->client_to_server + b->server_to_client + b->third_to_client + b->third_to_server + b->client_to_third + b->server_to_third;
}

static void model_print(const char *name, const ModelCost *m)
{
    char pool[32];
    for (int s = 0; s < 2; s++)
        printf("%-12s %-8s %12.4f %12.3f %11.3f %10llu %12s\n", s ? "" : name, setting_names[settings[s]], m->seconds[s][0], m->seconds[s][1],
               (double)bytes_sum(&m->bytes[s]) / 1e6, (unsigned long long)m->exchanges,
               settings[s] == SETTING_DEALER ? bytes_text(pool, m->pool) : "-");
}

static Json *model_json(const ModelCost *m)
{
    Json *o = json_new_object();
    json_put(o, "frozen", json_of_uint(m->frozen));
    json_put(o, "secure_layers", json_of_uint(m->layers));
    json_put(o, "private", json_of_text(private_names[m->rank ? PRIVATE_LORA : PRIVATE_LAYERS]));
    json_put(o, "rank", json_of_uint(m->rank));
    for (int s = 0; s < 2; s++) {
        Json *of = json_new_object(), *seconds = json_new_object();
        for (int n = 0; n < 2; n++) json_put(seconds, networks[n], json_of_real(m->seconds[s][n]));
        json_put(of, "seconds_per_token", seconds);
        json_put(of, "exchanges_per_token", json_of_uint(m->exchanges));
        json_put(of, "bytes_per_token", json_of_bytes(&m->bytes[s]));
        if (settings[s] == SETTING_DEALER) json_put(of, "pool_bytes", json_of_uint(m->pool));
        json_put(o, setting_names[settings[s]], of);
    }
    return o;
}

static void tune_cost_json(const TuneCost *t)
{
    Json *o = json_new_object(), *refused = json_new_array();
    for (int i = 0; i < t->refusals; i++) json_add(refused, json_of_text(t->refused[i]));
    json_put(o, "context", json_of_uint(t->context));
    json_put(o, "recipe", model_json(&t->tuned));
    json_put(o, "standard", model_json(&t->standard));
    json_put(o, "left_out", refused);
    print_json(o);
}

void tune_cost_print(const TuneCost *t, bool json)
{
    if (json) {
        tune_cost_json(t);
        return;
    }
    const ModelCost *m = &t->tuned;
    printf("%u layers frozen and public, %u secure, ", m->frozen, m->layers);
    if (m->rank) printf("with private factors of rank %u", m->rank);
    else printf("all their weights private");
    printf("; standard: all %u secure and private\npredicted, a token at the end of a context of %u; the pool is that of a whole conversation\n\n",
           t->standard.layers, t->context);
    printf("%-12s %-8s %12s %12s %11s %10s %12s\n", "", "", "LAN, s", "WAN, s", "MB a token", "exchanges", "pool");
    model_print("this recipe", m);
    model_print("standard", &t->standard);
    printf("\nembedding and head are the public base's in both, which flatters the standard model\n");
    for (int i = 0; i < t->refusals; i++) printf("not counted: %s\n", t->refused[i]);
}
