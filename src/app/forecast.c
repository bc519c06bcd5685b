/* forecast.c - how long a batch will take: what COUNT counts, times what this machine was seen to do.
 *
 * Products are counted by kind and timed by kind, at one row (bound by memory) and at many. Everything else that a party does,
 * expanding masks, packing, summing tables, multiplying words, goes along with the bytes that all links carry, and with the rows,
 * whose norms have tables of their own. It is timed whole: one layer of the plan, narrowed to few and to more heads and as much
 * of the feed-forward half, is run as client, server and third, threads of this process; what their products do not explain
 * is a * rows + b * bytes. Then a batch takes, over its exchanges,
 *
 *     the slower one's computing  +  latencies  +  the larger direction's bytes / bandwidth
 *
 * and no less than the transfer of the third's words, its computing, or all computing on the cores there are (3pc). */
#include "app/forecast.h"
#include "app/idle_feed.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "model/layers.h"

// ---- products --------------------------------------------------------------------------------------------------------

enum { MANY_ROWS = 64, SIDE = 2048, TURNS = 3 };

/* Of processor time: what other processes take does not count. */
static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum { READ = 64 << 20, READ_NEAR = 2 << 20 };  // bytes: beyond the caches of one core; of a small layer's matrix

/* Seconds a multiply-add of one kind, the least of a few runs: one row with a matrix of `read` bytes, many with one that stays
 * near. data: READ bytes. */
typedef struct Probe { ProductKind kind; unsigned bits; size_t rows, n; const void *data; uint64_t *x, *y; } Probe;

static void probe_run(const Probe *p)
{
    switch (p->kind) {
    case PRODUCT_BYTES: ring_linear_i8(p->y, p->x, p->data, p->rows, p->n, SIDE, p->bits); break;
    case PRODUCT_SMALL: ring_linear_i16(p->y, p->x, p->data, p->rows, p->n, SIDE, p->bits); break;
    default: ring_matmul(p->y, p->n, p->x, SIDE, p->data, SIDE, p->rows, p->n, SIDE, p->bits, false); break;
    }
}

static double probe(const void *data, ProductKind kind, unsigned bits, bool many, size_t read)
{
    static const size_t bytes[PRODUCT_KINDS] = {1, 2, 8};
    size_t rows = many ? MANY_ROWS : 1, n = many ? SIDE : read / (SIDE * bytes[kind]);
    Probe p = {kind, bits, rows, n, data, calloc(rows * SIDE, 8), calloc(rows * n, 8)};
    if (!p.x || !p.y) bug("out of memory");
    double best = 1e9;
    probe_run(&p);
    for (int i = 0; i < TURNS; i++) {
        double start = thread_seconds();
        probe_run(&p);
        best = fmin(best, thread_seconds() - start);
    }
    free(p.x), free(p.y);
    return best / ((double)rows * (double)n * SIDE);
}

/* Queries with keys: a head's dimension long. */
static double probe_attend(const void *data, unsigned bits, size_t rows)
{
    enum { SEES = 256, DIM = 128, CALLS = 32 };
    uint64_t out[8 * SEES];
    double best = 1e9;
    for (int i = 0; i <= TURNS; i++) {
        double start = thread_seconds();
        for (int k = 0; k < CALLS; k++)
            ring_matmul(out, SEES, data, DIM, (const uint64_t *)data + DIM * 8, DIM, rows, SEES, DIM, bits, false);
        best = fmin(best, thread_seconds() - start);
    }
    return best / ((double)rows * SEES * DIM * CALLS);
}

static unsigned work_bits(const Work *w) { return w->macs ? (unsigned)((w->bits + w->macs / 2) / w->macs) : 64; }

static void products_measure(Rates *r, const Plan *p, const Cost *c, const void *data)
{
    ProductKind public = p->weight_bits == 8 ? PRODUCT_BYTES : PRODUCT_SMALL;
    unsigned pinned = work_bits(&c->work[WORK_PINNED]);
    for (int many = 0; many < 2; many++) {
        for (int near = 0; near < 2; near++) {
            double (*to)[2] = near ? r->near_product : r->product;
            size_t read = near ? READ_NEAR : READ;
            to[RATE_PUBLIC][many] = probe(data, public, work_bits(&c->work[WORK_PUBLIC]), many, read);
            to[RATE_PINNED][many] = probe(data, PRODUCT_SMALL, pinned, many, read);
            to[RATE_PAD][many] = probe(data, PRODUCT_WIDE, pinned, many, read);
        }
        r->product[RATE_ATTEND][many] = probe_attend(data, work_bits(&c->work[WORK_ATTEND]), many ? 8 : 1);
        r->near_product[RATE_ATTEND][many] = r->product[RATE_ATTEND][many];
    }
}

/* Seconds of a role's products. */
static double products_seconds(const double rate[RATE_KINDS][2], const Cost *c, Role role, bool many)
{
    const Work *w = c->work;
    double public = (double)w[WORK_PUBLIC].macs * rate[RATE_PUBLIC][many], attend = (double)w[WORK_ATTEND].macs * rate[RATE_ATTEND][many];
    double pinned = (double)w[WORK_PINNED].macs * rate[role == ROLE_SERVER ? RATE_PINNED : RATE_PAD][many];
    return role == ROLE_THIRD ? pinned + attend : public + pinned + 2 * attend;
}

static double link_bytes(const Cost *c)
{
    return (double)(c->bytes.client_to_server + c->bytes.server_to_client + c->bytes.third_to_server);
}

// ---- the small layer -------------------------------------------------------------------------------------------------

enum { STEPS = 5, SIZES = 2 };                 // one batch of many rows, then steps of one; few heads, then more
static const double small_weights = 16e6;      // of a small layer, about at most: making it takes longer than running it

/* All weights and inputs are zero: no time depends on a value. */
typedef struct Small {
    ModelConfig config;
    size_t rows, past;                         // of the batch of many rows; before a step
    Plan plan;                                 // shares everything with the plan that is to be forecast
    Model model;
    Adapter adapter;
    Channel *peer[2];                          // C, S
    uint8_t *words;                            // in place of T's
    uint8_t seed[2][KEY_BYTES];
    double cpu[2][3];                          // seconds of a batch: [many][role]
    Result end[3];
    char why[3][256];
} Small;

typedef struct SmallParty { IdleFeed feed; Small *s; Role role; } SmallParty;

enum { WORDS = 8 << 20 };                      // the third's: what they say means nothing here. Their way is timed apart

static void small_keys(uint8_t (*keys)[KEY_BYTES], const uint8_t seed[KEY_BYTES], uint64_t first, size_t rows)
{
    for (size_t r = 0; r < rows; r++) {
        uint64_t i = first + r;
        derive_key(keys[r], seed, "forecast: segment", &i, sizeof i);
    }
}

static Result small_batch(SmallParty *p, Engine *e, SecureNet *net, uint64_t first, size_t rows, const float *x)
{
    uint8_t c[MANY_ROWS][KEY_BYTES], s[MANY_ROWS][KEY_BYTES];
    Wire out;
    small_keys(c, p->s->seed[0], first, rows), small_keys(s, p->s->seed[1], first, rows);
    engine_begin(e, rows, first, p->role == ROLE_SERVER ? NULL : (const uint8_t (*)[KEY_BYTES])c,
                 p->role == ROLE_CLIENT ? NULL : (const uint8_t (*)[KEY_BYTES])s);
    GUARD(secure_layers(net, rows, p->role == ROLE_CLIENT ? x : NULL, NULL, &out));
    return engine_end(e);
}

static Result small_run(SmallParty *p, Engine *e, Arena *a)
{
    Small *s = p->s;
    SecureNet *net;
    bool third = p->role == ROLE_THIRD;
    GUARD(secure_new(&net, e, a, &s->config, &s->plan, third ? NULL : &s->model,
                     p->role == ROLE_SERVER && s->plan.rank ? &s->adapter : NULL));
    float *x = arena_new(a, float, (size_t)MANY_ROWS * s->config.width);
    double *cpu = &s->cpu[1][p->role], *step = &s->cpu[0][p->role], start;
    uint64_t segment = 0;
    *cpu = *step = 1e9;
    for (int i = 0; i < TURNS; i++, segment += s->rows) {
        secure_restart(net);
        start = thread_seconds();
        GUARD(small_batch(p, e, net, segment, s->rows, x));
        *cpu = fmin(*cpu, thread_seconds() - start);
    }
    for (int i = 0; i < STEPS; i++, segment++) {
        secure_truncate(net, (uint32_t)s->past);
        start = thread_seconds();
        GUARD(small_batch(p, e, net, segment, 1, x));
        *step = fmin(*step, thread_seconds() - start);
    }
    return OK;
}

static void *small_thread(void *ctx)
{
    SmallParty *p = ctx;
    Small *s = p->s;
    Arena a;
    arena_init(&a, true);
    idle_feed(&p->feed, p->s->words, WORDS);
    Engine *e = engine_new(p->role, p->role == ROLE_THIRD ? NULL : s->peer[p->role], p->role == ROLE_CLIENT ? NULL : &p->feed.feed);
    if (p->role != ROLE_THIRD) engine_shared_seed(e, s->seed[0]), engine_pad_seed(e, s->seed[1]);
    s->end[p->role] = small_run(p, e, &a);
    if (failed(s->end[p->role])) snprintf(s->why[p->role], sizeof s->why[p->role], "%s", result_text());
    if (failed(s->end[p->role]) && p->role != ROLE_THIRD) channel_abort(s->peer[p->role], "failed");
    engine_free(e);
    arena_free(&a);
    return NULL;
}

static void small_model(Small *s)
{
    const ModelConfig *c = &s->config;
    Model *m = &s->model;
    *m = (Model){.config = *c, .quantised = s->plan.weight_bits == 8};
    arena_init(&m->arena, false);
    size_t most = (size_t)c->vocab * c->width;
    for (MatrixKind k = 0; k < MAT_COUNT; k++) {
        size_t len = (size_t)matrix_rows(c, k) * matrix_cols(c, k);
        most = len > most ? len : most;
    }
    const float *zero = arena_new(&m->arena, float, most);      // 8-bit weights and scales are zeros of it as well
    QuantMatrix quant = {(const int8_t *)zero, (const int32_t *)(const void *)zero};
    m->layer = arena_new(&m->arena, LayerWeights, 1);
    m->final_norm = m->layer->attn_norm = m->layer->ffn_norm = zero;
    for (MatrixKind k = 0; k < MAT_COUNT; k++) {
        if (matrix_rows(c, k) == 0) continue;
        if (m->quantised) m->layer->quant[k] = quant;
        else m->layer->mat[k] = zero;
        if (c->arch == ARCH_GPT2) m->layer->bias[k] = zero;
    }
    if (c->arch == ARCH_GPT2) m->layer->attn_shift = m->layer->ffn_shift = m->positions = m->head_bias = zero;
    if (m->quantised) m->quant_embed = m->quant_head = quant;
    else m->embed = m->head = zero;
}

static void small_adapter(Small *s)
{
    const ModelConfig *c = &s->config;
    s->adapter.layers = 1;
    arena_init(&s->adapter.arena, false);
    s->adapter.pair = arena_alloc(&s->adapter.arena, 1, sizeof *s->adapter.pair);
    for (MatrixKind k = 0; k < MAT_COUNT; k++) {
        LoraPair *pair = &s->adapter.pair[0][k];
        if (!s->plan.adapted[k]) continue;
        *pair = (LoraPair){.rank = s->plan.rank, .scale = 1};
        pair->a = arena_new(&s->adapter.arena, float, (size_t)s->plan.rank * matrix_cols(c, k));
        pair->b = arena_new(&s->adapter.arena, float, (size_t)s->plan.rank * matrix_rows(c, k));
    }
}

static void small_make(Small *s, const Plan *p, const ModelConfig *c, unsigned size)
{
    double heads = fmin(6, fmax(2, small_weights * c->kv_heads / layer_macs(c)));
    uint32_t group = p->heads.size > 1 ? p->heads.size : 1, share = c->heads / c->kv_heads;
    uint32_t kv = (size ? (uint32_t)heads : (uint32_t)fmax(1, heads / 3)) * group;
    if (kv > c->kv_heads) kv = c->kv_heads;
    s->config = *c, s->plan = *p;
    s->plan.layers = 1, s->plan.frozen = s->plan.known = 0;
    s->plan.heads = (HeadGroups){.size = group};
    s->config.layers = 1, s->config.kv_heads = kv, s->config.heads = kv * share, s->config.vocab = 16;
    s->config.ffn = (uint32_t)((uint64_t)c->ffn * kv / c->kv_heads);
    s->past = p->context - 1 < MANY_ROWS ? p->context - 1 : MANY_ROWS, s->rows = s->past ? s->past : 1;
    small_model(s);
    if (s->plan.rank) small_adapter(s);
    random_bytes(s->seed, sizeof s->seed);
    channel_memory(&s->peer[0], &s->peer[1]);
    s->words = malloc(WORDS);
    if (!s->words) bug("out of memory");
    memset(s->words, 1, WORDS);
}

/* The third alone, then the other two. */
static Result small_parties(Small *s)
{
    pthread_t thread;
    SmallParty party[3];
    for (int i = 0; i < 3; i++) party[i] = (SmallParty){.s = s, .role = (Role)i};
    small_thread(&party[ROLE_THIRD]);
    if (pthread_create(&thread, NULL, small_thread, &party[ROLE_SERVER]) != 0) bug("cannot start a thread");
    small_thread(&party[ROLE_CLIENT]);
    pthread_join(thread, NULL);
    for (int i = 2; i >= 0; i--)
        if (failed(s->end[i])) return fail(s->end[i].kind, "the small layer that times this machine: %s", s->why[i]);
    return OK;
}

/* What products do not explain: a line through the two sizes. */
static Result rest_measure(Rates *r, const Small s[SIZES])
{
    for (int many = 0; many < 2; many++) {
        double rows = many ? (double)s->rows : 1, bytes[SIZES], rest[SIZES];
        for (int role = 0; role < 3; role++) {
            for (int i = 0; i < SIZES; i++) {
                Cost c;
                GUARD(plan_cost_layers(&c, &s[i].plan, &s[i].config, many ? 0 : (uint32_t)s->past, (size_t)rows));
                bytes[i] = link_bytes(&c);
                rest[i] = fmax(0, s[i].cpu[many][role] - products_seconds((const double (*)[2])r->near_product, &c, (Role)role, many));
            }
            double slope = bytes[1] > bytes[0] ? (rest[1] - rest[0]) / (bytes[1] - bytes[0]) : rest[0] / bytes[0];
            slope = fmin(fmax(slope, 0), rest[1] / bytes[1]);   // neither part is negative
            r->rest_byte[role][many] = slope;
            r->rest_row[role][many] = (rest[1] - slope * bytes[1]) / rows;
        }
    }
    return OK;
}

static Result small_measure(Rates *r, const Plan *p, const ModelConfig *c)
{
    Small s[SIZES] = {0};
    Result result = OK;
    char why[400];
    for (unsigned i = 0; i < SIZES; i++) {
        small_make(&s[i], p, c, i);
        if (!failed(result)) result = small_parties(&s[i]);
    }
    if (!failed(result)) result = rest_measure(r, s);
    snprintf(why, sizeof why, "%s", result_text());            // closing channels leaves a text of its own
    for (int i = 0; i < SIZES; i++) {
        for (int k = 0; k < 2; k++) channel_close(s[i].peer[k]);
        free(s[i].words);
        model_free(&s[i].model), adapter_free(&s[i].adapter);
    }
    return failed(result) ? fail(result.kind, "%s", why) : OK;
}

// ---- rates -----------------------------------------------------------------------------------------------------------

/* The client's own layers: one row reads each weight once; many compute. */
static void plain_measure(Rates *r, const Plan *p, const void *data)
{
    float *x = calloc((size_t)2 * MANY_ROWS * SIDE, sizeof *x);
    if (!x) bug("out of memory");
    double best[2] = {1e9, 1e9}, start;
    for (int i = 0; i < TURNS; i++) {
        start = thread_seconds();
        (void)limit_load(data, READ, 1);
        best[0] = fmin(best[0], thread_seconds() - start);
        start = thread_seconds();
        linear_forward(x, x + (size_t)MANY_ROWS * SIDE, data, MANY_ROWS, SIDE, SIDE, false);
        best[1] = fmin(best[1], thread_seconds() - start);
    }
    r->plain[0] = best[0] / READ * (p->weight_bits == 8 ? 1 : 4);
    r->plain[1] = best[1] / ((double)MANY_ROWS * SIDE * SIDE);
    free(x);
}

Result rates_measure(Rates *r, const Plan *p, const ModelConfig *c)
{
    Cost cost;
    *r = (Rates){0};
    GUARD(plan_cost_layers(&cost, p, c, 0, 1));
    GUARD(loopback_measure(&r->loopback_bandwidth, &r->loopback_latency));
    void *data = aligned_alloc(64, READ);
    if (!data) bug("out of memory");
    memset(data, 1, READ);
    products_measure(r, p, &cost, data);
    plain_measure(r, p, data);
    free(data);
    return small_measure(r, p, c);
}

static Json *pair_json(const double v[2])        // in nanoseconds
{
    Json *o = json_new_object();
    json_put(o, "one_row", json_of_real(1e9 * v[0]));
    json_put(o, "many_rows", json_of_real(1e9 * v[1]));
    return o;
}

Json *rates_json(const Rates *r)
{
    static const char *const products[RATE_KINDS] = {"public", "pinned", "pad", "cache"}, *const roles[3] = {"client", "server", "third"};
    Json *o = json_new_object(), *macs = json_new_object(), *bytes = json_new_object(), *rows = json_new_object();
    for (int k = 0; k < RATE_KINDS; k++) json_put(macs, products[k], pair_json(r->product[k]));
    json_put(macs, "plain", pair_json(r->plain));
    for (int p = 0; p < 3; p++) json_put(bytes, roles[p], pair_json(r->rest_byte[p])), json_put(rows, roles[p], pair_json(r->rest_row[p]));
    json_put(o, "ns_a_multiply_add", macs);
    json_put(o, "ns_a_byte_on_the_links", bytes);
    json_put(o, "ns_a_row_of_a_layer", rows);
    json_put(o, "loopback_bytes_per_second", json_of_real(r->loopback_bandwidth));
    json_put(o, "loopback_latency_seconds", json_of_real(r->loopback_latency));
    return o;
}

// ---- the forecast ----------------------------------------------------------------------------------------------------

double layer_macs(const ModelConfig *c)
{
    double macs = 0;
    for (MatrixKind m = 0; m < MAT_COUNT; m++) macs += (double)matrix_rows(c, m) * matrix_cols(c, m);
    return macs;
}

double forecast_cpu(const Rates *r, const Batch *b, Role role)
{
    const Cost *c = &b->cost;
    bool many = b->rows > 1;
    const double (*rate)[2] = (const double (*)[2])(b->near ? r->near_product : r->product);
    double t = products_seconds(rate, c, role, many) + r->rest_byte[role][many] * link_bytes(c);
    t += r->rest_row[role][many] * (double)b->rows * b->layers;
    if (role == ROLE_CLIENT) t += b->frozen_macs * r->plain[many];
    if (role == ROLE_CLIENT && b->ahead) t -= (double)c->work[WORK_PINNED].macs * rate[RATE_PAD][many];
    if (role != ROLE_CLIENT) t += (double)c->bytes.third_to_server / r->loopback_bandwidth / 2;   // half of a transfer seals, half opens
    return role == ROLE_THIRD ? t : t + b->head_macs * r->product[RATE_PUBLIC][0];
}

double forecast_seconds(const Rates *r, const Batch *b, const Net *net)
{
    const LinkBytes *l = &b->cost.bytes;
    double bandwidth = net->bandwidth > 0 ? fmin(net->bandwidth, r->loopback_bandwidth) : r->loopback_bandwidth, cpu[3];
    for (int p = 0; p < 3; p++) cpu[p] = forecast_cpu(r, b, (Role)p) / b->threads;
    double worst = (double)(l->client_to_server > l->server_to_client ? l->client_to_server : l->server_to_client);
    double online = fmax(cpu[ROLE_CLIENT], cpu[ROLE_SERVER]) + worst / bandwidth;
    online += (double)b->cost.exchanges * (net->rtt / 2 + r->loopback_latency);
    if (b->setting == SETTING_DEALER) return online;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    double words = net->rtt / 2 + (double)l->third_to_server / bandwidth;
    double all = (cpu[0] + cpu[1] + cpu[2]) * b->threads / (double)(cores > 0 ? cores : 1);
    return fmax(fmax(online, words), fmax(cpu[ROLE_THIRD], all));
}
