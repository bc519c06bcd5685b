/* message.c - the parties' messages, to bytes and back. See message.h. */
#include "serve/message.h"

#include <string.h>

enum { SMALL = 4096 };                         // the most bytes of a message without a stated limit

static const char *const message_names[MSG_COUNT] = {
    [MSG_CLIENT_HELLO] = "client hello", [MSG_PROVIDER_HELLO] = "provider hello", [MSG_THIRD_HELLO] = "hello to the third",
    [MSG_WAITING] = "waiting", [MSG_GO] = "go", [MSG_SHAPE] = "shape", [MSG_READY] = "ready", [MSG_POOL] = "pool header",
    [MSG_RESERVED] = "reserved", [MSG_MADE] = "made",
    [MSG_BEGIN] = "begin", [MSG_STEP] = "step", [MSG_END] = "end", [MSG_REPORT] = "report", [MSG_WORDS] = "words", [MSG_BYE] = "bye",
};

Result agreement_check(const Agreement *mine, const Agreement *theirs, const char *peer)
{
    const struct { const char *what; const uint8_t *mine, *theirs; } pair[] = {
        {"shape of the model", mine->config, theirs->config},
        {"plan", mine->plan, theirs->plan},
        {"public model", mine->public_model, theirs->public_model},
    };
    for (size_t i = 0; i < sizeof pair / sizeof *pair; i++) {
        if (memcmp(pair[i].mine, pair[i].theirs, HASH_BYTES) == 0) continue;
        char here[17], there[17];
        hex_encode(here, pair[i].mine, 8);
        hex_encode(there, pair[i].theirs, 8);
        return fail(FAIL_PEER, "the %s differs: its hash begins with %s here and with %s at the %s", pair[i].what, here, there, peer);
    }
    return OK;
}

// ---- frames ----------------------------------------------------------------------------------------------------------

Result message_send(Channel *c, Message m)
{
    return channel_send(c, &(uint8_t){(uint8_t)m}, 1);
}

Result message_unexpected(Message m, const char *due, const char *peer)
{
    return fail(FAIL_PEER, "the %s sent '%s' where '%s' was due", peer, message_names[m], due);
}

Result message_next(Channel *c, Buffer *frame, size_t limit, Message *m, Cursor *body, const char *peer)
{
    GUARD(channel_receive(c, frame, limit + 1));
    if (frame->len == 0) return fail(FAIL_DATA, "the %s sent an empty message", peer);
    if (frame->data[0] == 0 || frame->data[0] >= MSG_COUNT)
        return fail(FAIL_DATA, "the %s sent a message of unknown kind %u", peer, frame->data[0]);
    *m = (Message)frame->data[0];
    *body = (Cursor){frame->data + 1, frame->len - 1, 0, message_names[*m]};
    return OK;
}

static Result message_want(Channel *c, Buffer *frame, size_t limit, Message want, Cursor *body, const char *peer)
{
    Message m;
    GUARD(message_next(c, frame, limit, &m, body, peer));
    return m == want ? OK : message_unexpected(m, message_names[want], peer);
}

Result message_expect(Channel *c, Message want, const char *peer)
{
    Buffer frame = {0};
    Cursor body;
    Result r = message_want(c, &frame, SMALL, want, &body, peer);
    if (!failed(r)) r = cursor_end(&body);
    buffer_free(&frame);
    return r;
}

/* Receives a message of bounded size and parses it. */
typedef Result Parse(void *out, Cursor *body);
static Result message_parse(Channel *c, Message want, size_t limit, const char *peer, Parse *parse, void *out)
{
    Buffer frame = {.secret = true};           // hellos hold seeds
    Cursor body;
    Result r = message_want(c, &frame, limit, want, &body, peer);
    if (!failed(r)) r = parse(out, &body);
    if (!failed(r)) r = cursor_end(&body);
    buffer_free(&frame);
    return r;
}

static Result buffer_send(Channel *c, Buffer *b)
{
    Result r = channel_send(c, b->data, b->len);
    buffer_free(b);
    return r;
}

// ---- fields ----------------------------------------------------------------------------------------------------------

static Result take_bytes(Cursor *c, void *out, size_t len)
{
    const uint8_t *p;
    GUARD(cursor_take(c, &p, len));
    memcpy(out, p, len);
    return OK;
}

static Result take_bool(Cursor *c, bool *out)
{
    uint8_t v;
    GUARD(cursor_u8(c, &v));
    *out = v;
    return v <= 1 ? OK : fail(FAIL_DATA, "%s: %u where 0 or 1 is due", c->what, v);
}

/* First in every hello: parties of different versions part before they misread each other. */
static void put_version(Buffer *b)
{
    buffer_u32(b, PROTOCOL_VERSION);
}

static Result take_version(Cursor *c)
{
    uint32_t v;
    GUARD(cursor_u32(c, &v));
    if (v == PROTOCOL_VERSION) return OK;
    return fail(FAIL_PEER, "the protocol version differs: %d here, %u in the %s", PROTOCOL_VERSION, v, c->what);
}

static Result take_agreement(Cursor *c, Agreement *a)
{
    return take_bytes(c, a, sizeof *a);
}

// ---- hellos ----------------------------------------------------------------------------------------------------------

Result client_hello_send(Channel *c, const ClientHello *h)
{
    Buffer b = {.secret = true};
    buffer_u8(&b, MSG_CLIENT_HELLO);
    put_version(&b);
    buffer_u8(&b, (uint8_t)h->setting);
    buffer_append(&b, h->session, sizeof h->session);
    buffer_append(&b, h->random, sizeof h->random);
    buffer_append(&b, &h->agreement, sizeof h->agreement);
    buffer_append(&b, h->tape, sizeof h->tape);
    buffer_u64(&b, h->tape_mark);
    buffer_u64(&b, h->tape_segments);
    return buffer_send(c, &b);
}

static Result client_hello_parse(void *out, Cursor *c)
{
    ClientHello *h = out;
    uint8_t setting;
    GUARD(take_version(c));
    GUARD(cursor_u8(c, &setting));
    if (setting > SETTING_2PC) return fail(FAIL_DATA, "%s: unknown setting %u", c->what, setting);
    h->setting = (Setting)setting;
    GUARD(take_bytes(c, h->session, sizeof h->session));
    GUARD(take_bytes(c, h->random, sizeof h->random));
    GUARD(take_agreement(c, &h->agreement));
    GUARD(take_bytes(c, h->tape, sizeof h->tape));
    GUARD(cursor_u64(c, &h->tape_mark));
    return cursor_u64(c, &h->tape_segments);
}

Result client_hello_receive(Channel *c, ClientHello *h)
{
    return message_parse(c, MSG_CLIENT_HELLO, SMALL, "client", client_hello_parse, h);
}

Result provider_hello_send(Channel *c, const ProviderHello *h)
{
    Buffer b = {.secret = true};
    buffer_u8(&b, MSG_PROVIDER_HELLO);
    put_version(&b);
    buffer_append(&b, h->session, sizeof h->session);
    buffer_append(&b, h->random, sizeof h->random);
    buffer_append(&b, &h->agreement, sizeof h->agreement);
    buffer_append(&b, h->commitment, sizeof h->commitment);
    buffer_append(&b, h->pad_seed, sizeof h->pad_seed);
    buffer_u64(&b, h->tape_mark);
    buffer_u32(&b, (uint32_t)h->header_len);
    buffer_append(&b, h->header, h->header_len);
    return buffer_send(c, &b);
}

static Result provider_hello_parse(void *out, Cursor *c)
{
    ProviderHello *h = out;
    uint32_t len;
    GUARD(take_version(c));
    GUARD(take_bytes(c, h->session, sizeof h->session));
    GUARD(take_bytes(c, h->random, sizeof h->random));
    GUARD(take_agreement(c, &h->agreement));
    GUARD(take_bytes(c, h->commitment, sizeof h->commitment));
    GUARD(take_bytes(c, h->pad_seed, sizeof h->pad_seed));
    GUARD(cursor_u64(c, &h->tape_mark));
    GUARD(cursor_u32(c, &len));
    if (len > sizeof h->header) return fail(FAIL_DATA, "%s: a pool header of %u bytes", c->what, len);
    h->header_len = len;
    return take_bytes(c, h->header, len);
}

Result provider_hello_receive(Channel *c, ProviderHello *h)
{
    return message_parse(c, MSG_PROVIDER_HELLO, SMALL, "provider", provider_hello_parse, h);
}

Result third_hello_send(Channel *c, const ThirdHello *h)
{
    Buffer b = {.secret = true};
    buffer_u8(&b, MSG_THIRD_HELLO);
    put_version(&b);
    buffer_u8(&b, (uint8_t)h->role);
    buffer_u8(&b, h->pool);
    buffer_u64(&b, h->positions);
    buffer_append(&b, h->session, sizeof h->session);
    buffer_append(&b, h->partner, sizeof h->partner);
    buffer_append(&b, &h->agreement, sizeof h->agreement);
    buffer_append(&b, h->commitment, sizeof h->commitment);
    buffer_u64(&b, h->epoch);
    buffer_append(&b, h->tape_seed, sizeof h->tape_seed);
    return buffer_send(c, &b);
}

static Result third_hello_parse(void *out, Cursor *c)
{
    ThirdHello *h = out;
    uint8_t role;
    GUARD(take_version(c));
    GUARD(cursor_u8(c, &role));
    if (role != ROLE_CLIENT && role != ROLE_SERVER) return fail(FAIL_DATA, "%s: unknown role %u", c->what, role);
    h->role = (Role)role;
    GUARD(take_bool(c, &h->pool));
    GUARD(cursor_u64(c, &h->positions));
    GUARD(take_bytes(c, h->session, sizeof h->session));
    GUARD(take_bytes(c, h->partner, sizeof h->partner));
    GUARD(take_agreement(c, &h->agreement));
    GUARD(take_bytes(c, h->commitment, sizeof h->commitment));
    GUARD(cursor_u64(c, &h->epoch));
    return take_bytes(c, h->tape_seed, sizeof h->tape_seed);
}

Result third_hello_receive(Channel *c, ThirdHello *h)
{
    return message_parse(c, MSG_THIRD_HELLO, SMALL, "peer", third_hello_parse, h);
}

// ---- shape -----------------------------------------------------------------------------------------------------------

/* As config.json says it, for a GPT-2 in the words of a Llama where they mean the same. Nine digits give every float back. */
static void config_json(const ModelConfig *c, Buffer *out)
{
    const bool gpt2 = c->arch == ARCH_GPT2;
    buffer_format(out, "{\"model_type\": \"%s\", \"hidden_size\": %u, \"intermediate_size\": %u, ", gpt2 ? "gpt2" : "llama", c->width, c->ffn);
    buffer_format(out, "\"num_hidden_layers\": %u, ", c->layers);
    buffer_format(out, "\"num_attention_heads\": %u, \"num_key_value_heads\": %u, \"head_dim\": %u, ", c->heads, c->kv_heads, c->head_dim);
    buffer_format(out, "\"vocab_size\": %u, \"max_position_embeddings\": %u, \"tie_word_embeddings\": %s, ", c->vocab, c->context,
                  c->tied ? "true" : "false");
    buffer_format(out, "\"%s\": %.9g, ", gpt2 ? "layer_norm_epsilon" : "rms_norm_eps", (double)c->norm_eps);
    if (!gpt2) buffer_format(out, "\"rope_theta\": %.9g, ", (double)c->rope_theta);
    if (c->rope.factor > 1) {
        const RopeScaling *r = &c->rope;
        buffer_format(out, "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": %.9g, \"low_freq_factor\": %.9g, ", (double)r->factor,
                      (double)r->low_freq_factor);
        buffer_format(out, "\"high_freq_factor\": %.9g, \"original_max_position_embeddings\": %.9g}, ", (double)r->high_freq_factor,
                      (double)r->original_context);
    }
    if (c->bos >= 0) buffer_format(out, "\"bos_token_id\": %d, ", c->bos);   // both know what this position holds
    buffer_format(out, "\"hidden_act\": \"%s\"}", gpt2 ? "gelu" : "silu");
}

void config_hash(const ModelConfig *c, uint8_t out[HASH_BYTES])
{
    Buffer json = {0};
    config_json(c, &json);
    hash_bytes(out, json.data, json.len);
    buffer_free(&json);
}

static void put_json(Buffer *b, Buffer *json)
{
    buffer_u32(b, (uint32_t)json->len);
    buffer_append(b, json->data, json->len);
    buffer_free(json);
}

Result shape_send(Channel *c, const Plan *p, const ModelConfig *config)
{
    Buffer b = {0}, plan = {0}, shape = {0};
    plan_json(p, &plan);
    config_json(config, &shape);
    buffer_u8(&b, MSG_SHAPE);
    put_json(&b, &shape);
    put_json(&b, &plan);
    return buffer_send(c, &b);
}

typedef struct Shape { Plan *plan; ModelConfig *config; } Shape;

static Result shape_parse(void *out, Cursor *c)
{
    Shape *s = out;
    Arena a;
    char *config = NULL, *plan = NULL;
    arena_init(&a, false);
    Result r = cursor_text(c, &config, SMALL, &a);
    if (!failed(r)) r = cursor_text(c, &plan, SHAPE_LIMIT, &a);
    if (!failed(r)) r = fail_in(config_parse_any(s->config, config, strlen(config)), "the provider's shape");
    if (!failed(r)) r = fail_in(plan_parse(s->plan, plan, strlen(plan)), "the provider's plan");
    arena_free(&a);
    return r;
}

Result shape_receive(Channel *c, Plan *p, ModelConfig *config)
{
    return message_parse(c, MSG_SHAPE, SHAPE_LIMIT, "provider", shape_parse, &(Shape){p, config});
}

// ---- conversations ---------------------------------------------------------------------------------------------------

Result begin_send(Channel *c, const Begin *b)
{
    Buffer f = {0};
    buffer_u8(&f, MSG_BEGIN);
    buffer_u32(&f, b->rows);
    buffer_u32(&f, b->more);
    buffer_u8(&f, b->every);
    return buffer_send(c, &f);
}

Result begin_parse(Begin *b, Cursor *body)
{
    GUARD(cursor_u32(body, &b->rows));
    GUARD(cursor_u32(body, &b->more));
    GUARD(take_bool(body, &b->every));
    GUARD(cursor_end(body));
    return b->rows > 0 ? OK : fail(FAIL_DATA, "begin: a conversation of no rows");
}

Result report_send(Channel *c, Message m, const Report *r)
{
    Buffer f = {0};
    buffer_u8(&f, (uint8_t)m);
    buffer_u64(&f, r->first);
    buffer_u64(&f, r->second);
    return buffer_send(c, &f);
}

static Result report_parse(void *out, Cursor *c)
{
    Report *r = out;
    GUARD(cursor_u64(c, &r->first));
    return cursor_u64(c, &r->second);
}

Result report_receive(Channel *c, Message m, Report *r, const char *peer)
{
    return message_parse(c, m, SMALL, peer, report_parse, r);
}

// ---- pools -----------------------------------------------------------------------------------------------------------

static const char pool_magic[] = "marill pool";

void pool_about_write(Buffer *out, const PoolAbout *a)
{
    buffer_text(out, pool_magic);
    put_version(out);
    buffer_u64(out, a->positions);
    buffer_u64(out, a->bytes);
    buffer_u64(out, a->epoch);
    buffer_append(out, a->nonce, sizeof a->nonce);
    buffer_append(out, a->name, sizeof a->name);
    buffer_append(out, a->client, sizeof a->client);
    buffer_append(out, a->provider, sizeof a->provider);
    buffer_append(out, a->third, sizeof a->third);
    buffer_append(out, a->config, HASH_BYTES);
    buffer_append(out, a->plan, HASH_BYTES);
    buffer_append(out, a->public_model, HASH_BYTES);
    buffer_append(out, a->commitment, HASH_BYTES);
}

Result pool_about(PoolAbout *a, const uint8_t *header, size_t len)
{
    Cursor c = {header, len, 0, "pool header"};
    const uint8_t *magic;
    uint32_t magic_len;
    GUARD(cursor_u32(&c, &magic_len));
    if (magic_len != sizeof pool_magic - 1) return fail(FAIL_DATA, "pool header: not one of Marill");
    GUARD(cursor_take(&c, &magic, magic_len));
    if (memcmp(magic, pool_magic, magic_len) != 0) return fail(FAIL_DATA, "pool header: not one of Marill");
    GUARD(take_version(&c));
    GUARD(cursor_u64(&c, &a->positions));
    GUARD(cursor_u64(&c, &a->bytes));
    GUARD(cursor_u64(&c, &a->epoch));
    GUARD(take_bytes(&c, a->nonce, sizeof a->nonce));
    GUARD(take_bytes(&c, a->name, sizeof a->name));
    GUARD(take_bytes(&c, a->client, sizeof a->client));
    GUARD(take_bytes(&c, a->provider, sizeof a->provider));
    GUARD(take_bytes(&c, a->third, sizeof a->third));
    GUARD(take_bytes(&c, a->config, HASH_BYTES));
    GUARD(take_bytes(&c, a->plan, HASH_BYTES));
    GUARD(take_bytes(&c, a->public_model, HASH_BYTES));
    GUARD(take_bytes(&c, a->commitment, HASH_BYTES));
    return cursor_end(&c);
}

Result pool_header_send(Channel *c, const Buffer *header)
{
    Buffer f = {0};
    buffer_u8(&f, MSG_POOL);
    buffer_append(&f, header->data, header->len);
    return buffer_send(c, &f);
}

static Result pool_header_parse(void *out, Cursor *c)
{
    Buffer *header = out;
    buffer_append(header, c->data + c->at, c->len - c->at);
    c->at = c->len;
    return OK;
}

Result pool_header_receive(Channel *c, Buffer *header)
{
    return message_parse(c, MSG_POOL, HEADER_LIMIT, "third", pool_header_parse, header);
}
