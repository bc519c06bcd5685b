/* networks.h - secure networks in tests: a random model with factors and the plan made of them, one at a time; prompts behind what is
 * known; the program that every role runs; and what must hold of its logits and its cost. */
#ifndef MARILL_NETWORKS_H
#define MARILL_NETWORKS_H

#include "models.h"
#include "model/secure.h"
#include "parties.h"

#define PLAIN_SHAPE {.width = 32, .layers = 2, .heads = 4, .kv_heads = 4, .head_dim = 8, .ffn = 48, .vocab = 40, .context = 24, \
                     .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}
#define GPT2_SHAPE {.arch = ARCH_GPT2, .width = 36, .layers = 2, .heads = 4, .kv_heads = 4, .head_dim = 8, .ffn = 50, .vocab = 40, \
                    .context = 40, .norm_eps = 1e-5f, .rope = {.factor = 1}, .bos = 1, .eos = 2}
#define NARROW_SHAPE {.width = 12, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .ffn = 1, .vocab = 17, .context = 12, \
                      .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2}

enum { EVERY = (1 << MAT_COUNT) - 1, KNOWN_MOST = 80, TEXT = 600 };

static Model model;
static Adapter adapter;
static const Adapter *with;                    // the adapter, or NULL
static Plan plan;
static int32_t tokens[TEXT], prefix[KNOWN_MOST];       // what calibration reads; BOS and what may be known behind it
static Arena prompt_arena;

/* A fresh model (see random_model), written as 8-bit integers and opened again where asked. */
static inline void network_new(const ModelConfig *c, double size, bool quantised)
{
    model_free(&model), arena_free(&adapter.arena), plan_free(&plan);
    with = NULL, adapter = (Adapter){0};
    random_model(&model, c, size);
    if (!quantised) return;
    Model floats = model;
    CHECK_OK(model_quantise(&floats, test_folder(), NULL));
    CHECK_OK(model_open(&model, test_folder()));
    model_free(&floats);
}

/* Factors of it (see random_adapter), none of rank 0. */
static inline void network_adapt(uint32_t first, uint32_t rank, unsigned kinds, double delta)
{
    if (rank) random_adapter(&adapter, &model.config, first, rank, kinds, delta), with = &adapter;
}

static inline void ids_draw(int32_t *ids, size_t len)
{
    for (size_t i = 0; i < len; i++) ids[i] = 3 + (int32_t)(test_random() * (model.config.vocab - 3));
}

static inline void text_draw(void)
{
    ids_draw(tokens, TEXT);
    prefix[0] = model.config.bos;
}

static inline void network_plan(const PlanOptions *o) { CHECK_OK(plan_make(&plan, &model, with, o, tokens, TEXT)); }

/* Keys and values of what is known, hidden states at the cut of the rows behind it, and the float network's logits: until the next one. */
typedef struct Prompt { const float *keys[32], *values[32]; float *x, *want; } Prompt;

static inline Prompt prompt_new(const int32_t *ids, size_t rows)
{
    const ModelConfig *c = &model.config;
    Arena *a = &prompt_arena;
    size_t all = plan.known + rows;
    arena_free(a);
    Prompt p = {.x = arena_new(a, float, all * c->width), .want = arena_new(a, float, all * c->vocab)};
    int32_t *id = arena_new(a, int32_t, all);
    memcpy(id, prefix, plan.known * sizeof *id), memcpy(id + plan.known, ids, rows * sizeof *id);
    PlainState *whole = plain_new(&model, with, plan.context, a), *cut = plain_new(&model, with, plan.context, a);
    Variant variant = plan_variant(&plan);
    plain_vary(whole, &variant);
    CHECK_OK(plain_forward(whole, p.want, id, all));
    CHECK_OK(plain_embed(cut, p.x, id, all));
    plain_layers(cut, p.x, all, 0, plan.frozen);
    for (uint32_t l = 0; l < plan.layers; l++)
        p.keys[l] = plain_keys(whole, plan.frozen + l), p.values[l] = plain_values(whole, plan.frozen + l);
    p.x += plan.known * c->width, p.want += plan.known * c->vocab;
    return p;
}

// ---- what a role does ------------------------------------------------------------------------------------------------

static inline bool has_private(const Party *p) { return p->role == ROLE_SERVER || p->role == ROLE_CLEAR; }
static inline bool has_hidden(const Party *p) { return p->role == ROLE_CLIENT || p->role == ROLE_CLEAR; }

/* The secure network, its matrices pinned. */
static inline SecureNet *network_start(Party *p)
{
    SecureNet *net;
    Pinned *const *pins;
    const Model *m = has_private(p) || has_hidden(p) ? &model : NULL;
    CHECK_OK(secure_new(&net, p->engine, &p->session, &model.config, &plan, m, has_private(p) ? with : NULL));
    for (size_t i = 0, count = secure_pins(net, &pins); i < count; i++) party_pin(p, pins[i]);
    return net;
}

/* Rows of the prompt from `at` on, as the segments of those numbers; logits: of the whole prompt. */
static inline void network_run(Party *p, SecureNet *net, const Prompt *prompt, size_t at, size_t rows, float *logits, bool last_only)
{
    KnownPrefix known = {prompt->keys, prompt->values};
    party_begin(p, rows, at);
    CHECK_OK(secure_forward(net, rows, has_hidden(p) ? prompt->x + at * model.config.width : NULL, has_private(p) ? &known : NULL,
                            logits + at * model.config.vocab, last_only));
}

/* The client works ahead for the segments from `at` on. */
static inline void network_ahead(Party *p, SecureNet *net, size_t at, size_t rows)
{
    uint8_t keys[16][KEY_BYTES];
    ASSERT(rows <= 16);
    if (p->role != ROLE_CLIENT || rows == 0) return;
    segment_keys(keys, at, rows, 1);
    Cost before = engine_cost(p->engine), after;
    CHECK_OK(secure_ahead(net, rows, at, (const uint8_t (*)[KEY_BYTES])keys));
    after = engine_cost(p->engine);
    CHECK(!memcmp(&before, &after, sizeof before));
    if (secure_pins(net, &(Pinned *const *){NULL})) CHECK_EQUAL(rows, engine_ahead_left(p->engine));
}

// ---- what must hold --------------------------------------------------------------------------------------------------

static inline void logits_equal(const float *want, const float *got, size_t rows)
{
    for (size_t i = 0; i < rows * model.config.vocab; i++) CHECK(want[i] == got[i]);
}

static inline void logits_close(const float *want, const float *got, size_t rows, const char *what, size_t number)
{
    double most = 0, squares = 0, size = 0, len = (double)(rows * model.config.vocab);
    for (size_t i = 0; i < rows * model.config.vocab; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        most = fmax(most, d), squares += d * d, size += (double)want[i] * (double)want[i];
    }
    double rms = sqrt(squares / len), scale = sqrt(size / len);
    printf("    %s %zu: logits of rms %.3f, error max %.4f, rms %.5f\n", what, number, scale, most, rms);
    fflush(stdout);
    CHECK(most < 0.1 * scale && rms < 0.02 * scale);
}

// ---- CLEAR -----------------------------------------------------------------------------------------------------------

/* The prompt in CLEAR, in batches of at most so many rows; logits (rows, vocab). */
static inline void clear_run(const Prompt *prompt, size_t rows, size_t batch, float *logits)
{
    Party p;
    party_alone(&p, ROLE_CLEAR);
    SecureNet *net = network_start(&p);
    for (size_t at = 0; at < rows; at += batch) network_run(&p, net, prompt, at, rows - at < batch ? rows - at : batch, logits, false);
    party_end(&p);
}

/* A whole context but its last two positions, each of them alone: near the float network's logits. */
static inline void clear_is_close(const char *what, size_t number)
{
    size_t rows = plan.context - plan.known;
    Prompt prompt = prompt_new(tokens + 40, rows);
    float *got = calloc(rows * model.config.vocab, sizeof *got);
    Party p;
    party_alone(&p, ROLE_CLEAR);
    SecureNet *net = network_start(&p);
    network_run(&p, net, &prompt, 0, rows - 2, got, false);
    network_run(&p, net, &prompt, rows - 2, 1, got, false);
    network_run(&p, net, &prompt, rows - 1, 1, got, true);
    logits_close(prompt.want, got, rows, what, number);
    party_end(&p);
    free(got);
}

/* Masks belong to positions, not to batches: a prompt at once is the prompt token by token, bit for bit. */
static inline void clear_is_the_same_one_by_one(size_t rows)
{
    Prompt prompt = prompt_new(tokens + 40, rows);
    float *at_once = calloc(rows * model.config.vocab, sizeof *at_once), *each = calloc(rows * model.config.vocab, sizeof *each);
    clear_run(&prompt, rows, rows, at_once), clear_run(&prompt, rows, 1, each);
    logits_equal(at_once, each, rows);
    free(at_once), free(each);
}

// ---- all five roles --------------------------------------------------------------------------------------------------

enum { RESTART = -1 };

/* A batch of a conversation: its rows (0: none, the end), the positions that the client works ahead for before it, and where the
 * conversation goes back to after it: RESTART, or so many positions behind the known ones (0: it goes on). */
typedef struct Step { size_t rows, ahead; int back; bool last_only; } Step;
typedef struct Run { Prompt prompt; const Step *steps; Party party[5]; float *logits[5]; } Run;

static inline size_t steps_rows(const Step *s)
{
    size_t rows = 0;
    for (; s->rows; s++) rows += s->rows;
    return rows;
}

/* Positions in the cache after a batch; and where the conversation went back to from there. */
static inline uint32_t past_after(uint32_t past, const Step *s) { return (past ? past : plan.known) + (uint32_t)s->rows; }
static inline uint32_t past_back(uint32_t past, const Step *s)
{
    return s->back == RESTART ? 0 : s->back ? plan.known + (uint32_t)s->back : past;
}

static inline void run_program(Party *p)
{
    Run *run = p->ctx;
    SecureNet *net = network_start(p);
    uint32_t past = 0;
    size_t at = 0;
    float *logits = run->logits[p->role] = arena_new(&p->session, float, steps_rows(run->steps) * model.config.vocab);
    for (const Step *s = run->steps; s->rows; at += s++->rows) {
        network_ahead(p, net, at, s->ahead);
        network_run(p, net, &run->prompt, at, s->rows, logits, s->last_only);
        past = past_after(past, s);
        CHECK_EQUAL(past, secure_past(net));
        if (s->back == RESTART) secure_restart(net);
        if (s->back > 0) secure_truncate(net, plan.known + (uint32_t)s->back);
        past = past_back(past, s);
    }
}

/* Plays the steps over a prompt: the parties give what CLEAR gives, to the bit, at the cost that the plan names. */
static inline void run_agrees(Run *r)
{
    Cost want = {0}, got;
    uint32_t past = 0;
    parties_run(r->party, run_program, r);
    logits_equal(r->logits[ROLE_CLEAR], r->logits[ROLE_CLIENT], steps_rows(r->steps));
    for (const Step *s = r->steps; s->rows; past = past_back(past_after(past, s), s), s++) {
        Cost c;
        CHECK_OK(plan_cost(&c, &plan, &model.config, past, s->rows, s->last_only));
        want.exchanges += c.exchanges, want.bytes.client_to_server += c.bytes.client_to_server;
        want.bytes.server_to_client += c.bytes.server_to_client, want.bytes.third_to_server += c.bytes.third_to_server;
    }
    got = engine_cost(r->party[ROLE_SERVER].engine);
    CHECK_EQUAL(want.exchanges, got.exchanges);
    CHECK_EQUAL(want.bytes.client_to_server, got.bytes.client_to_server);
    CHECK_EQUAL(want.bytes.server_to_client, got.bytes.server_to_client);
    CHECK_EQUAL(want.bytes.third_to_server, got.bytes.third_to_server);
}

static inline void run_end(Run *r) { parties_end(r->party); }

#endif
