/* forecast.c - how long a batch will take: what COUNT counts, times what this machine was seen to do.
 *
 * Products are counted by kind and timed by kind: at many rows, which compute, and at one, which reads its weights (and its cache)
 * from memory, as every layer of a model does whose weights no cache holds. Pads are timed as parties use them, made panel by panel.
 * The third's words cost the provider so much a byte, from a pool or from a link. Everything else that a party does, expanding
 * masks, packing, sealing, summing tables, multiplying words, goes along with the bytes that all links carry, and with the rows,
 * whose norms have tables of their own. It is timed whole: one layer of the plan, narrowed to few and to more heads and as much
 * of the feed-forward half, is run over TLS by client, server and third, threads of this process; what their products do not explain
 * is a * rows + b * bytes. Then a batch takes, over its exchanges,
 *
 *     the slower one's computing  +  latencies  +  the larger direction's bytes / bandwidth
 *
 * and no less than the transfer of the third's words (3pc). Every party is taken to have processors of its own. */
#include "app/forecast.h"
#include "app/idle_feed.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "model/layers.h"
#include "crypto/tools.h"                      // what seals a pool
#include "serve/party.h"                       // live words, and the buffers of a session's channels

// ---- products --------------------------------------------------------------------------------------------------------

/* Bytes: what is read through, so that nothing of it is in a cache when its turn comes again; what a run reads of that; what stays
 * in a core's own cache. */
enum { MEMORY = 256 << 20, READ = 32 << 20, READ_NEAR = 2 << 20 };

enum { MANY_ROWS = 128, OUTPUTS = 1024, SIDE = 2048, TURNS = 3 };

/* Of a layer's matrices, by their share of the multiply-adds: where rows of x leave the caches, a product slows down. */
static size_t mean_inputs(const ModelConfig *c)
{
    double sum = 0;
    for (MatrixKind m = 0; m < MAT_COUNT; m++) sum += (double)matrix_rows(c, m) * matrix_cols(c, m) * matrix_cols(c, m);
    size_t mean = (size_t)(sum / layer_macs(c)) / 64 * 64;
    return mean < 64 ? 64 : mean < READ_NEAR / 128 ? mean : READ_NEAR / 128;
}

/* Of processor time: what other processes take does not count. */
static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The next READ bytes of `data`, MEMORY bytes long, those that were read longest ago. */
typedef struct Stream { const uint8_t *data; size_t at; } Stream;

static const void *stream_next(Stream *s, bool near)
{
    if (near) return s->data;
    s->at = (s->at + READ) % MEMORY;
    return s->data + s->at;
}

/* Seconds a multiply-add with small weights, the least of a few runs: one row with READ bytes of them, many with a matrix that stays. */
static double probe(Stream *from, ProductKind kind, size_t inputs, unsigned bits, bool many)
{
    size_t rows = many ? MANY_ROWS : 1, bytes = kind == PRODUCT_BYTES ? 1 : 2, n = READ / (inputs * bytes);
    if (many && n > OUTPUTS) n = OUTPUTS;
    uint64_t *x = calloc(rows * inputs, sizeof *x), *y = calloc(rows * n, sizeof *y);
    if (!x || !y) bug("out of memory");
    double best = 1e9;
    for (int i = 0; i <= TURNS; i++) {         // the first one touches x and y
        const void *data = stream_next(from, many);
        double start = thread_seconds();
        if (kind == PRODUCT_BYTES) ring_linear_i8(y, x, data, rows, n, inputs, bits);
        else ring_linear_i16(y, x, data, rows, n, inputs, bits);
        if (i > 0) best = fmin(best, thread_seconds() - start);
    }
    free(x), free(y);
    return best / ((double)rows * (double)n * (double)inputs);
}

/* One query with the keys that it sees, and its weights with the values: head after head, as attention does it for every row. */
static double probe_attend(Stream *from, const Plan *p, const ModelConfig *c, unsigned bits, bool near)
{
    size_t group = p->heads.size > 1 ? p->heads.size : 1, dim = c->head_dim * group, heads = c->kv_heads / group, width = heads * dim;
    size_t most = (near ? READ_NEAR : READ) / sizeof(uint64_t) / (2 * width), sees = most < p->context ? most : p->context;
    uint64_t *x = calloc(dim + sees, sizeof *x);
    if (!x) bug("out of memory");
    double best = 1e9;
    for (int i = 0; i <= TURNS; i++) {
        const uint64_t *keys = stream_next(from, near), *values = keys + sees * width;
        double start = thread_seconds();
        for (size_t h = 0; h < heads; h++) {
            ring_matmul(x + dim, sees, x, dim, keys + h * dim, width, 1, sees, dim, bits, true);
            ring_vecmat_add(x, x + dim, values + h * dim, width, dim, sees, bits);
        }
        if (i > 0) best = fmin(best, thread_seconds() - start);
    }
    free(x);
    return best / (2.0 * (double)(heads * dim) * (double)sees);
}

static unsigned work_bits(const Work *w) { return w->macs ? (unsigned)((w->bits + w->macs / 2) / w->macs) : 64; }

// ---- the third's words -----------------------------------------------------------------------------------------------

enum { PIECE = 64 << 10 };                     // of a pool; of what a row takes of live words, about

/* Read and unsealed by pieces, as from a pool. Sealing takes as long. */
static double words_sealed(Stream *from)
{
    static const uint8_t key[KEY_BYTES];
    uint8_t piece[PIECE], tag[SEAL_TAG], *out = malloc(READ);
    if (!out) bug("out of memory");
    memset(out, 0, READ);
    const uint8_t *data = stream_next(from, false);
    double start = thread_seconds();
    for (size_t at = 0; at < READ; at += PIECE) {
        memcpy(piece, data + at, PIECE);
        seal(out + at, tag, key, at, NULL, 0, piece, PIECE);
    }
    double took = thread_seconds() - start;
    free(out);
    return took / READ;
}

typedef struct Wording { Listener *at; Identity id[2]; const uint8_t *data; Result end; } Wording;

static Result words_write(const Wording *w, Channel **c)
{
    size_t which;
    LiveFeed f;
    GUARD(channel_accept(c, &which, w->at, &w->id[1], (const uint8_t (*)[32])w->id[0].public_key, 1, 10));
    channel_buffers(*c, WORDS_SEND, 0);
    live_feed(&f, *c);
    Result r = OK;
    for (size_t at = 0; at < READ && !failed(r); at += PIECE) r = f.feed.write(&f.feed, 0, w->data + at, PIECE);
    if (!failed(r)) r = live_feed_flush(&f);
    live_feed_free(&f);
    return r;
}

static void *words_thread(void *ctx)
{
    Wording *w = ctx;
    Channel *c = NULL;
    w->end = words_write(w, &c);
    if (failed(w->end) && c) channel_abort(c, "failed");
    channel_close(c);
    return NULL;
}

static Result words_read(const Wording *w, Channel **c)
{
    LiveFeed f;
    GUARD(channel_connect(c, "127.0.0.1", listener_port(w->at), &w->id[0], w->id[1].public_key, 10));
    channel_buffers(*c, PEER_SEND, WORDS_AHEAD);
    live_feed(&f, *c);
    uint8_t *room = malloc(READ);
    if (!room) bug("out of memory");
    Result r = OK;
    for (size_t at = 0; at < READ && !failed(r); at += PIECE) r = f.feed.read(&f.feed, 0, room + at, PIECE);
    free(room);
    live_feed_free(&f);
    return r;
}

/* Over TLS, from a thread to another: half of the processor time, all threads of the links included. */
static Result words_live(double *byte, Stream *from)
{
    Wording w = {.data = stream_next(from, false)};
    Channel *c = NULL;
    pthread_t thread;
    GUARD(listener_open(&w.at, "127.0.0.1", 0));
    for (int i = 0; i < 2; i++) identity_generate(&w.id[i]);
    double start = clock_cpu_seconds();
    if (pthread_create(&thread, NULL, words_thread, &w) != 0) bug("cannot start a thread");
    Result r = words_read(&w, &c);
    pthread_join(thread, NULL);
    *byte = (clock_cpu_seconds() - start) / 2 / READ;
    channel_close(c);
    listener_close(w.at);
    for (int i = 0; i < 2; i++) identity_free(&w.id[i]);
    return failed(r) ? r : w.end;
}

// ---- pads ------------------------------------------------------------------------------------------------------------

enum { KEYS_MOST = MANY_ROWS };
static void segment_keys(uint8_t (*keys)[KEY_BYTES], const uint8_t seed[KEY_BYTES], uint64_t first, size_t rows)
{
    for (size_t r = 0; r < rows; r++) {
        uint64_t i = first + r;
        derive_key(keys[r], seed, "forecast: segment", &i, sizeof i);
    }
}

/* One pinned product: C's is work ahead. */
static Result pad_product(Engine *e, const Pinned *p, uint64_t first, size_t rows, size_t inputs, unsigned bits)
{
    static const uint8_t seed[KEY_BYTES];
    uint8_t keys[KEYS_MOST][KEY_BYTES];
    bool third = engine_role(e) == ROLE_THIRD;
    segment_keys(keys, seed, first, rows);
    const uint8_t (*k)[KEY_BYTES] = (const uint8_t (*)[KEY_BYTES])keys;
    if (third) engine_begin(e, rows, first, k, k);
    else engine_ahead(e, rows, first, k);
    Pinning *sent = pinned_send(e, wire_input_client(e, layout_uniform(e, inputs), bits, 0, NULL), p);
    GUARD(engine_exchange(e, "a pinned product"));
    (void)pinned_take(e, sent);
    if (third) return engine_end(e);
    engine_ahead_end(e);
    return OK;
}

/* A role's pads: made panel by panel, then multiplied. Seconds a multiply-add. */
static Result pads_measure(double to[2], Role role, size_t inputs, unsigned bits, const uint8_t *words)
{
    static const uint8_t seed[KEY_BYTES];
    Arena a;
    IdleFeed feed;
    Result r = OK;
    uint64_t first = 0;
    arena_init(&a, true);
    idle_feed(&feed, words, READ);
    Engine *e = engine_new(role, NULL, &feed.feed);
    engine_pad_seed(e, seed);
    const Pinned *p = pinned_new(e, &a, "pads", OUTPUTS, inputs, bits, 0, NULL);
    if (!p) r = fail(FAIL_SYSTEM, "there is no memory for a matrix of pads");
    for (int many = 0; many < 2 && !failed(r); many++) {
        size_t rows = many ? MANY_ROWS : 1;
        double best = 1e9;
        for (int i = 0; i < TURNS && !failed(r); i++, first += rows) {
            double start = thread_seconds();
            r = pad_product(e, p, first, rows, inputs, bits);
            best = fmin(best, thread_seconds() - start);
        }
        to[many] = best / ((double)rows * OUTPUTS * (double)inputs);
    }
    engine_free(e);
    arena_free(&a);
    return r;
}

static Result products_measure(Rates *r, const Plan *p, const ModelConfig *c, const Cost *cost, Stream *from)
{
    ProductKind public = p->weight_bits == 8 ? PRODUCT_BYTES : PRODUCT_SMALL;
    size_t inputs = mean_inputs(c);
    unsigned public_bits = work_bits(&cost->work[WORK_PUBLIC]), pinned = work_bits(&cost->work[WORK_PINNED]);
    for (int many = 0; many < 2; many++) {
        r->product[RATE_PUBLIC][many] = probe(from, public, inputs, public_bits, many);
        r->product[RATE_PINNED][many] = probe(from, PRODUCT_SMALL, inputs, pinned, many);
        r->product[RATE_ATTEND][many] = probe_attend(from, p, c, work_bits(&cost->work[WORK_ATTEND]), many);
    }
    GUARD(pads_measure(r->product[RATE_CLIENT_PAD], ROLE_CLIENT, inputs, pinned, from->data));
    return pads_measure(r->product[RATE_THIRD_PAD], ROLE_THIRD, inputs, pinned, from->data);
}

static double pad_seconds(const double rate[RATE_KINDS][2], const Cost *c, Role role, bool many)
{
    static const RateKind kind[] = {RATE_CLIENT_PAD, RATE_PINNED, RATE_THIRD_PAD};
    return (double)c->work[WORK_PINNED].macs * rate[kind[role]][many];
}

/* Seconds of a role's products, but for those with pinned weights or their pads. */
static double products_seconds(const double rate[RATE_KINDS][2], const Cost *c, Role role, bool many)
{
    const Work *w = c->work;
    double public = (double)w[WORK_PUBLIC].macs * rate[RATE_PUBLIC][many], attend = (double)w[WORK_ATTEND].macs * rate[RATE_ATTEND][many];
    return role == ROLE_THIRD ? attend : public + 2 * attend;
}

static double link_bytes(const Cost *c)
{
    return (double)(c->bytes.client_to_server + c->bytes.server_to_client + c->bytes.third_to_server);
}

// ---- the small layer -------------------------------------------------------------------------------------------------

enum { MANY_TURNS = 2, STEPS = 3, SIZES = 2 };                  // batches of many rows, then steps of one; few heads, then more
static const double small_weights = 16e6;      // of a small layer, about at most: making it takes longer than running it

/* All weights and inputs are zero: no time depends on a value. */
typedef struct Small {
    ModelConfig config;
    size_t rows, past;                         // of the batch of many rows; before a step
    Plan plan, step_plan;                      // share everything with the plan that is to be forecast; of a step, the past is known
    Model model;
    Adapter adapter;
    Identity id[2];                            // C, S: they meet over TLS, as parties do
    Listener *at;
    uint8_t *words;                            // in place of T's
    const uint8_t *memory;                     // MEMORY bytes: reading them empties the processor's caches
    uint8_t seed[2][KEY_BYTES];
    double cpu[2][3];                          // seconds of a batch without C's work ahead: [many][role]
    Result end[3];
    char why[3][256];
} Small;

typedef struct SmallParty { IdleFeed feed; Small *s; Role role; } SmallParty;

enum { WORDS = 8 << 20 };                      // the third's: what they say means nothing here. Their way is timed apart

typedef struct SmallRun { SmallParty *p; Engine *e; SecureNet *net; const float *x; KnownPrefix known; } SmallRun;

/* A batch of segments first.., in seconds. */
static Result small_batch(const SmallRun *run, double *least, uint64_t first, size_t rows)
{
    const SmallParty *p = run->p;
    uint8_t keys[2][KEYS_MOST][KEY_BYTES];
    for (int i = 0; i < 2; i++) segment_keys(keys[i], p->s->seed[i], first, rows);
    const uint8_t (*c)[KEY_BYTES] = (const uint8_t (*)[KEY_BYTES])keys[0], (*s)[KEY_BYTES] = (const uint8_t (*)[KEY_BYTES])keys[1];
    Wire out;
    if (p->role == ROLE_CLIENT) GUARD(secure_ahead(run->net, rows, first, c));
    if (rows == 1) (void)limit_load(p->s->memory, MEMORY, 1);  // a step finds nothing of the one before: other layers come between
    double start = thread_seconds();
    engine_begin(run->e, rows, first, p->role == ROLE_SERVER ? NULL : c, p->role == ROLE_CLIENT ? NULL : s);
    GUARD(secure_layers(run->net, rows, p->role == ROLE_CLIENT ? run->x : NULL, &run->known, &out));
    GUARD(engine_end(run->e));
    *least = fmin(*least, thread_seconds() - start);
    return OK;
}

static Result small_net(SmallRun *run, Arena *a, const Plan *plan)
{
    const Small *s = run->p->s;
    Role role = run->p->role;
    return secure_new(&run->net, run->e, a, &s->config, plan, role == ROLE_THIRD ? NULL : &s->model,
                      role == ROLE_SERVER && plan->rank ? &s->adapter : NULL);
}

static Result small_run(SmallParty *p, Engine *e, Arena *a)
{
    Small *s = p->s;
    SmallRun run = {.p = p, .e = e, .x = arena_new(a, float, (size_t)MANY_ROWS * s->config.width)};
    const float *zero = arena_new(a, float, (s->past + 1) * s->config.kv_heads * s->config.head_dim), *const layer[] = {zero};
    run.known = (KnownPrefix){layer, layer};
    double *cpu = s->cpu[1], *step = s->cpu[0], first = 1e9;
    uint64_t segment = 0;
    cpu[p->role] = step[p->role] = 1e9;
    GUARD(small_net(&run, a, &s->plan));
    for (int i = 0; i < MANY_TURNS; i++, segment += s->rows) {
        secure_restart(run.net);
        GUARD(small_batch(&run, &cpu[p->role], segment, s->rows));
    }
    GUARD(small_net(&run, a, &s->step_plan));
    for (int i = 0; i <= STEPS; i++, segment++) {              // before the first one, the past is entered
        GUARD(small_batch(&run, i ? &step[p->role] : &first, segment, 1));
        secure_truncate(run.net, (uint32_t)s->past);
    }
    return OK;
}

static Result small_meet(const SmallParty *p, Channel **peer)
{
    const Small *s = p->s;
    size_t which;
    if (p->role == ROLE_CLIENT) GUARD(channel_connect(peer, "127.0.0.1", listener_port(s->at), &s->id[0], s->id[1].public_key, 10));
    else GUARD(channel_accept(peer, &which, s->at, &s->id[1], (const uint8_t (*)[32])s->id[0].public_key, 1, 10));
    channel_buffers(*peer, PEER_SEND, PEER_AHEAD);
    return OK;
}

static Result small_life(SmallParty *p, Channel *peer)
{
    Small *s = p->s;
    Arena a;
    arena_init(&a, true);
    idle_feed(&p->feed, s->words, WORDS);
    Engine *e = engine_new(p->role, peer, p->role == ROLE_CLIENT ? NULL : &p->feed.feed);
    if (p->role != ROLE_THIRD) engine_shared_seed(e, s->seed[0]), engine_pad_seed(e, s->seed[1]);
    Result r = small_run(p, e, &a);
    engine_free(e);
    arena_free(&a);
    return r;
}

static void *small_thread(void *ctx)
{
    SmallParty *p = ctx;
    Small *s = p->s;
    Channel *peer = NULL;
    Result r = p->role == ROLE_THIRD ? OK : small_meet(p, &peer);
    if (!failed(r)) r = small_life(p, peer);
    s->end[p->role] = r;
    if (failed(r)) snprintf(s->why[p->role], sizeof s->why[p->role], "%s", result_text());
    if (failed(r) && peer) channel_abort(peer, "failed");
    channel_close(peer);
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
    double heads = fmin(12, fmax(2, small_weights * c->kv_heads / layer_macs(c)));
    uint32_t group = p->heads.size > 1 ? p->heads.size : 1, share = c->heads / c->kv_heads;
    uint32_t kv = (size ? (uint32_t)heads : (uint32_t)fmax(1, heads / 3)) * group;
    if (kv > c->kv_heads) kv = c->kv_heads;
    s->config = *c, s->plan = *p;
    s->plan.layers = 1, s->plan.frozen = s->plan.known = 0;
    s->plan.heads = (HeadGroups){.size = group};
    s->config.layers = 1, s->config.kv_heads = kv, s->config.heads = kv * share, s->config.vocab = 16;
    s->config.ffn = (uint32_t)((uint64_t)c->ffn * kv / c->kv_heads);
    s->past = p->context - 1, s->rows = p->context < MANY_ROWS ? p->context : MANY_ROWS;
    s->step_plan = s->plan, s->step_plan.known = (uint32_t)s->past;
    small_model(s);
    if (p->row_bound) {                        // of other heads: any will do
        uint32_t bounds = kv / group * share;
        s->plan.bound_heads = s->step_plan.bound_heads = bounds;
        s->plan.row_bound = s->step_plan.row_bound = arena_new(&s->model.arena, float, bounds);
    }
    if (s->plan.rank) small_adapter(s);
    random_bytes(s->seed, sizeof s->seed);
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
    for (int i = 0; i < 2; i++) identity_generate(&s->id[i]);
    GUARD(listener_open(&s->at, "127.0.0.1", 0));
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
    const double (*rate)[2] = (const double (*)[2])r->product;
    for (int many = 0; many < 2; many++) {
        double rows = many ? (double)s->rows : 1, bytes[SIZES], rest[SIZES];
        for (int role = 0; role < 3; role++) {
            for (int i = 0; i < SIZES; i++) {
                Cost c;
                GUARD(plan_cost_layers(&c, &s[i].plan, &s[i].config, many ? 0 : (uint32_t)s->past, (size_t)rows));
                bytes[i] = link_bytes(&c);
                double products = products_seconds(rate, &c, (Role)role, many);
                if (role != ROLE_CLIENT) products += pad_seconds(rate, &c, (Role)role, many);
                rest[i] = fmax(0, s[i].cpu[many][role] - products);
            }
            double slope = bytes[1] > bytes[0] ? (rest[1] - rest[0]) / (bytes[1] - bytes[0]) : rest[0] / bytes[0];
            slope = fmin(fmax(slope, 0), rest[1] / bytes[1]);   // neither part is negative
            r->rest_byte[role][many] = slope;
            r->rest_row[role][many] = (rest[1] - slope * bytes[1]) / rows;
        }
    }
    return OK;
}

static Result small_measure(Rates *r, const Plan *p, const ModelConfig *c, const uint8_t *memory)
{
    Small s[SIZES] = {0};
    Result result = OK;
    char why[400];
    for (unsigned i = 0; i < SIZES; i++) {
        small_make(&s[i], p, c, i);
        s[i].memory = memory;
        if (!failed(result)) result = small_parties(&s[i]);
    }
    if (!failed(result)) result = rest_measure(r, s);
    snprintf(why, sizeof why, "%s", result_text());            // closing channels leaves a text of its own
    for (int i = 0; i < SIZES; i++) {
        listener_close(s[i].at);
        for (int k = 0; k < 2; k++) identity_free(&s[i].id[k]);
        free(s[i].words);
        model_free(&s[i].model), adapter_free(&s[i].adapter);
    }
    return failed(result) ? fail(result.kind, "%s", why) : OK;
}

// ---- rates -----------------------------------------------------------------------------------------------------------

/* The client's own layers: one row reads each weight once; many compute. */
static void plain_measure(Rates *r, const Plan *p, Stream *from)
{
    float *x = calloc((size_t)2 * MANY_ROWS * SIDE, sizeof *x);
    if (!x) bug("out of memory");
    double best[2] = {1e9, 1e9}, start;
    for (int i = 0; i < TURNS; i++) {
        const void *data = stream_next(from, false);
        start = thread_seconds();
        (void)limit_load(data, READ, 1);
        best[0] = fmin(best[0], thread_seconds() - start);
        start = thread_seconds();
        linear_forward(x, x + (size_t)MANY_ROWS * SIDE, (const float *)from->data, MANY_ROWS, SIDE, SIDE, false);
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
    uint8_t *data = aligned_alloc(64, MEMORY);
    if (!data) return fail(FAIL_SYSTEM, "there is no memory to measure");
    memset(data, 1, MEMORY);
    Stream from = {data, 0};
    const ModelConfig shape = plan_shape(p, c);
    Result result = products_measure(r, p, &shape, &cost, &from);
    if (!failed(result)) {
        plain_measure(r, p, &from);
        r->words[0] = words_sealed(&from);
        result = words_live(&r->words[1], &from);
    }
    if (!failed(result)) result = small_measure(r, p, &shape, data);
    free(data);
    return result;
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
    static const char *const products[RATE_KINDS] = {"public", "pinned", "pad_client", "pad_third", "cache"};
    static const char *const roles[3] = {"client", "server", "third"};
    Json *o = json_new_object(), *macs = json_new_object(), *bytes = json_new_object(), *rows = json_new_object();
    for (int k = 0; k < RATE_KINDS; k++) json_put(macs, products[k], pair_json(r->product[k]));
    json_put(macs, "plain", pair_json(r->plain));
    for (int p = 0; p < 3; p++) json_put(bytes, roles[p], pair_json(r->rest_byte[p])), json_put(rows, roles[p], pair_json(r->rest_row[p]));
    json_put(o, "ns_a_multiply_add", macs);
    json_put(o, "ns_a_byte_on_the_links", bytes);
    json_put(o, "ns_a_row_of_a_layer", rows);
    json_put(o, "ns_a_byte_of_words_from_a_pool", json_of_real(1e9 * r->words[0]));
    json_put(o, "ns_a_byte_of_words_live", json_of_real(1e9 * r->words[1]));
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

double layer_group(const ModelConfig *c)
{
    static const int group_of[MAT_COUNT] = {[MAT_O] = 1, [MAT_GATE] = 2, [MAT_UP] = 2, [MAT_DOWN] = 3};      // queries, keys, values: 0
    double macs[4] = {0};
    for (MatrixKind m = 0; m < MAT_COUNT; m++) macs[group_of[m]] += (double)matrix_rows(c, m) * matrix_cols(c, m);
    return fmax(fmax(macs[0], macs[1]), fmax(macs[2], macs[3])) / layer_macs(c);
}

double forecast_cpu(const Rates *r, const Batch *b, Role role)
{
    const Cost *c = &b->cost;
    bool many = b->rows > 1;
    const double (*rate)[2] = (const double (*)[2])r->product;
    double t = products_seconds(rate, c, role, many) + r->rest_byte[role][many] * link_bytes(c);
    t += r->rest_row[role][many] * (double)b->rows * b->layers;
    if (role != ROLE_CLIENT || !b->ahead) t += pad_seconds(rate, c, role, many);
    if (role == ROLE_CLIENT) t += b->frozen_macs * r->plain[many];
    if (role != ROLE_CLIENT) t += (double)c->bytes.third_to_server * r->words[b->setting == SETTING_3PC];
    return role == ROLE_THIRD ? t : t + b->head_macs * r->product[RATE_PUBLIC][0];
}

/* In 3pc the third multiplies the pads of a group of matrices, then the client does: two machines that each job passes one after the
 * other, and through both only one job, at most the largest, goes alone. */
double forecast_seconds(const Rates *r, const Batch *b, const Net *net)
{
    const LinkBytes *l = &b->cost.bytes;
    bool shaped = net->bandwidth > 0, live = b->setting == SETTING_3PC;
    double cpu[3], worst = (double)(l->client_to_server > l->server_to_client ? l->client_to_server : l->server_to_client);
    for (int p = 0; p < 3; p++) cpu[p] = forecast_cpu(r, b, (Role)p) / b->threads;
    double pads = pad_seconds((const double (*)[2])r->product, &b->cost, ROLE_CLIENT, b->rows > 1) / b->threads;
    double computing = cpu[ROLE_CLIENT];
    if (live) computing = fmax(computing, cpu[ROLE_THIRD]) + pads * b->group / b->layers;
    double latency = (double)b->cost.exchanges * (net->rtt / 2 + r->loopback_latency);
    double online = fmax(computing, cpu[ROLE_SERVER]) + latency + (shaped ? worst / net->bandwidth : 0);
    double words = live && shaped ? net->rtt / 2 + (double)l->third_to_server / net->bandwidth : 0;
    return fmax(online, words);
}
