/* generate.c - text to text, the same over every setting.
 *
 * A *runner* gives the logits of a prompt and of one token more: the float network with its adapter (`plain`), the secure
 * layers in this process on both shares (`clear`), or an open session (`dealer`, `3pc`). */
#include "serve/party.h"

typedef struct Runner {
    const Bundle *b;
    Setting setting;
    Client *client;                            // dealer, 3pc
    PlainState *plain;                         // plain: the whole network; clear: the frozen layers
    Engine *engine;                            // clear
    SecureNet *net;
    KnownPrefix known;
    Segments c, s;
    Arena arena;
    float *x;                                  // (context, width)
    Receipt receipt;
} Runner;

// ---- clear -----------------------------------------------------------------------------------------------------------

/* The frozen layers, as the client runs them. */
static Result clear_lower(Runner *r, const int32_t *tokens, size_t rows)
{
    GUARD(plain_embed(r->plain, r->x, tokens, rows));
    plain_layers(r->plain, r->x, rows, 0, r->b->plan.frozen);
    plain_advance(r->plain, rows);
    return OK;
}

static Result clear_new(Runner *r)
{
    const Bundle *b = r->b;
    uint8_t seed[4][KEY_BYTES];
    random_bytes(seed, sizeof seed);
    r->engine = engine_new(ROLE_CLEAR, NULL, NULL);
    engine_shared_seed(r->engine, seed[0]);
    engine_pad_seed(r->engine, seed[1]);
    segments_live(&r->c, seed[2]);
    segments_live(&r->s, seed[3]);
    wipe(seed, sizeof seed);
    r->plain = plain_new(&b->model, NULL, b->plan.context, &r->arena);
    GUARD(secure_new(&r->net, r->engine, &r->arena, &b->model.config, &b->plan, &b->model, bundle_adapter(b)));
    GUARD(known_prefix(&r->known, b, &r->arena));
    return b->plan.known ? clear_lower(r, bundle_known(b), b->plan.known) : OK;
}

static Result clear_batch(Runner *r, const int32_t *tokens, size_t rows, float *logits, bool last_only)
{
    GUARD(clear_lower(r, tokens, rows));
    uint64_t first = r->c.next;
    GUARD(segments_reserve(&r->c, rows, false));
    GUARD(segments_reserve(&r->s, rows, false));
    engine_begin(r->engine, rows, first, segments_take(&r->c, rows), segments_take(&r->s, rows));
    return secure_forward(r->net, rows, r->x, &r->known, logits, last_only);
}

// ---- plain -----------------------------------------------------------------------------------------------------------

/* r->x := the rows after the last layer. */
static Result plain_rows(Runner *r, const int32_t *tokens, size_t rows)
{
    GUARD(plain_embed(r->plain, r->x, tokens, rows));
    plain_layers(r->plain, r->x, rows, 0, r->b->model.config.layers);
    plain_advance(r->plain, rows);
    return OK;
}

static Result plain_batch(Runner *r, const int32_t *tokens, size_t rows, float *logits, bool last_only)
{
    GUARD(plain_rows(r, tokens, rows));
    size_t from = last_only ? rows - 1 : 0;
    plain_logits(r->plain, logits, r->x + from * r->b->model.config.width, rows - from);
    return OK;
}

// ---- runners ---------------------------------------------------------------------------------------------------------

static Result runner_new(Runner *r, const Bundle *b, Setting setting, Client *client)
{
    bool online = setting == SETTING_DEALER || setting == SETTING_3PC;
    *r = (Runner){.b = b, .setting = setting, .client = online ? client : NULL};
    arena_init(&r->arena, true);
    if (setting == SETTING_2PC) return fail(FAIL_USE, "setting '2pc' is not available yet: 'dealer' and '3pc' are");
    if (online && !client) return fail(FAIL_USE, "setting '%s' needs an open session", setting_names[setting]);
    if (online) return OK;
    r->x = arena_new(&r->arena, float, (size_t)b->plan.context * b->model.config.width);
    if (setting == SETTING_CLEAR) return clear_new(r);
    r->plain = plain_new(&b->model, bundle_adapter(b), b->plan.context, &r->arena);
    plain_vary(r->plain, &b->variant);
    return b->plan.known ? plain_rows(r, bundle_known(b), b->plan.known) : OK;
}

static void runner_free(Runner *r)
{
    engine_free(r->engine);
    segments_free(&r->c);
    segments_free(&r->s);
    arena_free(&r->arena);
}

/* Logits of the last of `count` tokens, or of every one. */
static Result runner_batch(Runner *r, const int32_t *tokens, size_t count, float *logits, bool every)
{
    return r->setting == SETTING_CLEAR ? clear_batch(r, tokens, count, logits, !every) : plain_batch(r, tokens, count, logits, !every);
}

static Result runner_prompt(Runner *r, const int32_t *tokens, size_t count, uint32_t more, float *logits)
{
    if (r->client) return client_prompt(r->client, tokens, count, more, logits);
    double begin = clock_seconds();
    GUARD(runner_batch(r, tokens, count, logits, false));
    r->receipt.prefill.seconds = clock_seconds() - begin;
    return OK;
}

static Result runner_step(Runner *r, int32_t token, float *logits)
{
    if (r->client) return client_step(r->client, token, logits);
    double begin = clock_seconds();
    GUARD(runner_batch(r, &token, 1, logits, false));
    r->receipt.decode.seconds += clock_seconds() - begin;
    return OK;
}

// ---- generation ------------------------------------------------------------------------------------------------------

static bool is_end(const Bundle *b, int32_t token)
{
    return token >= 0 && (token == tokenizer_eos(b->tokenizer) || token == b->model.config.eos);
}

/* Gives the text of a token to whoever streams, in whole characters: what is left of one waits for the next token. */
static Result token_emit(const Generation *g, const Bundle *b, Generated *out, size_t *shown, int32_t previous, int32_t token)
{
    GUARD(tokenizer_decode(b->tokenizer, previous, token, &out->text));
    size_t whole = utf8_complete(out->text.data, out->text.len);
    if (whole < *shown) whole = *shown;
    if (g->token) g->token(g->ctx, token, out->text.len ? out->text.data + *shown : NULL, whole - *shown);
    *shown = whole;
    return OK;
}

static Result tokens_make(Generated *out, Runner *r, const Generation *g, const int32_t *prompt, size_t count, float *logits)
{
    const Bundle *b = r->b;
    const uint32_t left = bundle_room(b) - (uint32_t)count, most = g->max_tokens - 1 < left ? g->max_tokens - 1 : left;
    double begin = clock_seconds();
    int32_t previous = prompt[count - 1];
    size_t shown = 0;
    Sampler sampler;
    sampler_init(&sampler, g->temperature, g->top_p, g->seed);
    out->finish_reason = "length";
    GUARD(runner_prompt(r, prompt, count, most, logits));
    for (;;) {
        int32_t token = sampler_pick(&sampler, logits, tokenizer_vocab(b->tokenizer));   // the head may have more rows
        if (out->count == 0) out->first_token_seconds = clock_seconds() - begin;
        if (is_end(b, token)) {
            out->finish_reason = "stop";
            return OK;
        }
        if (g->logits) g->logits(g->ctx, logits, b->model.config.vocab);
        out->tokens[out->count++] = token;
        GUARD(token_emit(g, b, out, &shown, previous, token));
        previous = token;
        if (out->count > most) return OK;
        GUARD(runner_step(r, token, logits));
    }
}

static Result generation_run(Generated *out, Runner *r, const Generation *g, Arena *a)
{
    const Bundle *b = r->b;
    int32_t *prompt;
    size_t count, room = bundle_room(b);
    if (g->max_tokens == 0) return fail(FAIL_USE, "at least one token must be asked for");
    if (g->prompt_len == 0) return fail(FAIL_USE, "the prompt is empty");
    GUARD(fail_in(tokenizer_encode(b->tokenizer, g->prompt, g->prompt_len, &prompt, &count, a), "prompt"));
    if (count == 0) return fail(FAIL_USE, "the prompt is empty");
    if (count > room) return fail(FAIL_USE, "the prompt has %zu tokens, where the plan's context has room for %zu", count, room);
    out->tokens = arena_new(a, int32_t, room - count + 1);
    float *logits = arena_new(a, float, b->model.config.vocab);
    GUARD(tokens_make(out, r, g, prompt, count, logits));
    if (r->client) {
        GUARD(client_finish(r->client));
        client_receipt(r->client, &r->receipt);
    }
    r->receipt.prompt_tokens = (uint32_t)count;
    r->receipt.tokens = (uint32_t)out->count;
    r->receipt.positions_planned = b->plan.context;
    out->receipt = r->receipt;
    return OK;
}

Result generate(Generated *out, const Bundle *b, Setting setting, Client *client, const Generation *g, Arena *a)
{
    Runner r;
    *out = (Generated){0};
    double begin = clock_seconds();
    Result done = runner_new(&r, b, setting, client);
    double setup = clock_seconds() - begin;
    r.receipt.setup.seconds = setup;
    if (!failed(done)) done = generation_run(out, &r, g, a);
    out->first_token_seconds += setup;
    runner_free(&r);
    if (failed(done)) buffer_free(&out->text);
    return done;
}

Result score_window(float *logits, const Bundle *b, Setting setting, Client *client, const int32_t *tokens, size_t count)
{
    Runner r;
    if (count == 0 || count > bundle_room(b))
        return fail(FAIL_USE, "a window of %zu tokens does not fit the plan's context of %u", count, b->plan.context);
    Result done = runner_new(&r, b, setting, client);
    if (!failed(done)) done = r.client ? client_score(client, tokens, count, logits) : runner_batch(&r, tokens, count, logits, true);
    runner_free(&r);
    return done;
}
