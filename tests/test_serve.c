/* test_serve.c - the three parties over TLS on this machine, each a process: generation in both settings against the float network,
 * and that whatever goes wrong ends for everyone within seconds, with a line that names it. */
#define TEST_SECONDS 100
#include "processes.h"

#include <sys/time.h>

static const double near = 0.25;               // of logits, whose rms is about 1.5

// ---- generation against the float network ----------------------------------------------------------------------------

typedef struct Seen { float *logits; size_t rows; Buffer text; } Seen;
static void see_logits(void *ctx, const float *row, uint32_t vocab)
{
    Seen *s = ctx;
    memcpy(s->logits + s->rows++ * vocab, row, vocab * sizeof *row);
}
static void see_token(void *ctx, int32_t id, const uint8_t *text, size_t len)
{
    (void)id;
    if (len) buffer_append(&((Seen *)ctx)->text, text, len);
}

static const char prompt[] = "the third keeps the words";

/* Generates, and compares each logit row with the float network on the same tokens. */
static void generate_and_compare(Generated *g, const Bundle *b, Setting setting, Client *c, uint32_t max_tokens, Arena *a)
{
    Seen seen = {.logits = arena_new(a, float, (size_t)shape.context * shape.vocab)};
    Generation wanted = {.prompt = prompt, .prompt_len = strlen(prompt), .max_tokens = max_tokens, .token = see_token, .logits = see_logits, .ctx = &seen};
    CHECK_OK(generate(g, b, setting, c, &wanted, a));
    CHECK(!strcmp(g->finish_reason, "stop") || g->count == max_tokens || g->count + g->receipt.prompt_tokens == shape.context - b->plan.known + 1);
    CHECK_EQUAL(g->count, seen.rows);
    CHECK(seen.text.len <= g->text.len && !memcmp(seen.text.data, g->text.data, seen.text.len));
    int32_t *ids, all[64] = {shape.bos};
    size_t count, known = b->plan.known;
    if (b->known_tokens) memcpy(all, b->known_tokens, known * sizeof *all);
    CHECK_OK(tokenizer_encode(b->tokenizer, prompt, strlen(prompt), &ids, &count, a));
    CHECK_EQUAL(count, g->receipt.prompt_tokens);
    memcpy(all + known, ids, count * sizeof *ids);
    memcpy(all + known + count, g->tokens, g->count * sizeof *ids);
    PlainState *s = plain_new(&bundle.model, &bundle.adapter, 64, a);
    float *want = arena_new(a, float, (size_t)64 * shape.vocab);
    CHECK_OK(plain_forward(s, want, all, known + count + g->count));
    for (size_t i = 0; i < g->count; i++) {
        const float *w = want + (known + count - 1 + i) * shape.vocab;
        float most = w[0];
        for (size_t v = 0; v < shape.vocab; v++) {
            CHECK_NEAR((double)w[v], (double)seen.logits[i * shape.vocab + v], near);
            if (v < 300 && w[v] > most) most = w[v];
        }
        CHECK((double)w[g->tokens[i]] > (double)most - 2 * near);
    }
    buffer_free(&seen.text);
    buffer_free(&g->text);
}

/* The measured cost is the plan's, to the byte. */
static void check_cost(const Generated *g, bool live)
{
    Cost prefill, step;
    Receipt r = g->receipt;
    uint32_t past = r.prompt_tokens + bundle.plan.known;
    CHECK_OK(plan_cost(&prefill, &bundle.plan, &shape, 0, r.prompt_tokens, true));
    CHECK_EQUAL(prefill.exchanges, r.prefill.exchanges);
    CHECK_EQUAL(prefill.bytes.client_to_server, r.prefill.bytes.client_to_server);
    CHECK_EQUAL(prefill.bytes.server_to_client, r.prefill.bytes.server_to_client);
    CHECK_EQUAL(live ? prefill.bytes.third_to_server : 0, r.prefill.bytes.third_to_server);
    Cost decode = {0};
    for (size_t i = 0; i + 1 < g->count; i++) {
        CHECK_OK(plan_cost(&step, &bundle.plan, &shape, past++, 1, true));
        decode.exchanges += step.exchanges;
        decode.bytes.client_to_server += step.bytes.client_to_server;
        decode.bytes.server_to_client += step.bytes.server_to_client;
        decode.bytes.third_to_server += step.bytes.third_to_server;
    }
    CHECK_EQUAL(decode.exchanges, r.decode.exchanges);
    CHECK_EQUAL(decode.bytes.client_to_server, r.decode.bytes.client_to_server);
    CHECK_EQUAL(decode.bytes.server_to_client, r.decode.bytes.server_to_client);
    CHECK_EQUAL(live ? decode.bytes.third_to_server : 0, r.decode.bytes.third_to_server);
    CHECK(r.setup.bytes.server_to_third >= plan_setup_bytes(&bundle.plan, &shape));
}

TEST(plain_and_clear)
{
    setup();
    Arena a;
    arena_init(&a, false);
    Generated g, h;
    generate_and_compare(&g, &bundle, SETTING_PLAIN, NULL, 6, &a);
    generate_and_compare(&h, &bundle, SETTING_CLEAR, NULL, 6, &a);
    generate_and_compare(&h, &bundle, SETTING_PLAIN, NULL, 100, &a);                  // to the end of the context
    CHECK(!strcmp(h.finish_reason, "length") || !strcmp(h.finish_reason, "stop"));
}

TEST(three_parties)
{
    setup();
    Bundle b;
    client_bundle(&b);
    Arena a;
    arena_init(&a, false);
    reveal_every = true;
    start_live(1);
    Client *c = open_session(&b, SETTING_3PC);
    Generated g;
    for (int i = 0; i < 2; i++) {                                                     // two conversations in one session
        generate_and_compare(&g, &b, SETTING_3PC, c, 7, &a);
        if (!strcmp(g.finish_reason, "length")) check_cost(&g, true);
    }
    static float got[12 * 310], want[12 * 310];
    int32_t window[12];
    for (int i = 0; i < 12; i++) window[i] = 3 + 17 * i;
    CHECK_OK(score_window(want, &bundle, SETTING_PLAIN, NULL, window, 12));
    CHECK_OK(score_window(got, &b, SETTING_3PC, c, window, 12));
    for (size_t i = 0; i < 12 * shape.vocab; i++) CHECK_NEAR((double)want[i], (double)got[i], near);
    CHECK_OK(score_window(got, &bundle, SETTING_CLEAR, NULL, window, 12));
    for (size_t i = 0; i < 12 * shape.vocab; i++) CHECK_NEAR((double)want[i], (double)got[i], near);
    client_close(c);
    process_end(&provider, "fine");
    process_end(&third, "fine");
}

/* A GPT-2 is made in memory, and its files are not read: the third hears of it from the provider alone. */
TEST(three_parties_over_a_gpt2)
{
    static const ModelConfig gpt2 = {.arch = ARCH_GPT2, .width = 36, .layers = 2, .heads = 4, .kv_heads = 4, .head_dim = 8, .ffn = 50, .vocab = 60,
                                     .context = 40, .norm_eps = 1e-5f, .rope = {.factor = 1}, .tied = true, .bos = 1, .eos = -1};
    enum { PROMPT = 5, STEPS = 4, ALL = 1 + PROMPT + STEPS };
    static float logits[(ALL - PROMPT) * 60], want[ALL * 60];
    int32_t tokens[600];
    setup();
    bundle_free(&bundle);
    bundle = (Bundle){0};
    model_random(&bundle.model, &gpt2, 7);
    for (size_t i = 0; i < 600; i++) tokens[i] = 2 + (int32_t)(test_random() * (gpt2.vocab - 2));
    PlanOptions o = {.prefer = PREFER_EXCHANGES, .private_part = PRIVATE_LAYERS};
    CHECK_OK(plan_make(&bundle.plan, &bundle.model, NULL, &o, tokens, 600));
    start_live(1);
    Client *c = open_session(&bundle, SETTING_3PC);
    tokens[0] = gpt2.bos;
    CHECK_OK(client_prompt(c, tokens + 1, PROMPT, STEPS, logits));
    for (size_t i = 0; i < STEPS; i++) CHECK_OK(client_step(c, tokens[1 + PROMPT + i], logits + (i + 1) * gpt2.vocab));
    client_close(c);
    process_end(&provider, "fine");
    process_end(&third, "fine");
    Arena a;
    arena_init(&a, false);
    PlainState *s = plain_new(&bundle.model, NULL, ALL, &a);
    CHECK_OK(plain_forward(s, want, tokens, ALL));
    for (size_t i = 0; i < (1 + STEPS) * gpt2.vocab; i++) CHECK_NEAR((double)want[PROMPT * gpt2.vocab + i], (double)logits[i], near);
}

TEST(hash_of_a_shape_tells_architectures_apart)
{
    ModelConfig c = shape;
    uint8_t llama[HASH_BYTES], gpt2[HASH_BYTES];
    config_hash(&c, llama);
    c.arch = ARCH_GPT2;
    config_hash(&c, gpt2);
    CHECK(memcmp(llama, gpt2, HASH_BYTES) != 0);
}

/* A system prompt that both know: it comes before every text, in every setting, and C computes and sends nothing for it. */
TEST(known_prefix)
{
    setup();
    Arena a;
    arena_init(&a, false);
    static int32_t tokens[600];
    int32_t *prefix, unknown[8];
    size_t count;
    CHECK_OK(tokenizer_encode(bundle.tokenizer, "we keep", 7, &prefix, &count, &a));
    CHECK(count > 0 && count < 8);
    for (size_t i = 0; i < 600; i++) tokens[i] = 3 + (int32_t)(test_random() * (shape.vocab - 3));
    PlanOptions o = {.frozen = FROZEN, .prefix = prefix, .prefix_len = (uint32_t)count};
    Plan p, q;
    Buffer text = {0};
    CHECK_OK(plan_make(&p, &bundle.model, &bundle.adapter, &o, tokens, 600));
    CHECK_EQUAL(1 + count, p.known);
    CHECK_EQUAL(shape.bos, p.known_token[0]);
    plan_json(&p, &text);
    CHECK_OK(plan_parse(&q, (const char *)text.data, text.len));
    CHECK(!memcmp(p.known_token, q.known_token, p.known * sizeof *p.known_token));
    uint8_t hash[2][HASH_BYTES];
    plan_hash(&p, &shape, hash[0]);
    q.known_token[1]++;                                                               // who knows other tokens has another plan
    plan_hash(&q, &shape, hash[1]);
    CHECK(memcmp(hash[0], hash[1], HASH_BYTES) != 0);
    q.known_token[1] = (int32_t)shape.vocab;
    CHECK_FAILS(plan_check(&q, &shape), "known tokens");
    CHECK_OK(plan_save(&p, plan_path));
    plan_free(&q), plan_free(&p), buffer_free(&text);
    bundle_free(&bundle);
    CHECK_OK(bundle_load(&bundle, in_folder("model"), in_folder("adapter"), NULL, true));
    Generated g;
    generate_and_compare(&g, &bundle, SETTING_PLAIN, NULL, 6, &a);
    generate_and_compare(&g, &bundle, SETTING_CLEAR, NULL, 6, &a);
    Bundle b;
    client_bundle(&b);
    start_live(2);
    Client *c = open_session(&b, SETTING_3PC);
    for (int i = 0; i < 2; i++) {
        generate_and_compare(&g, &b, SETTING_3PC, c, 7, &a);
        if (!strcmp(g.finish_reason, "length")) check_cost(&g, true);
    }
    client_close(c);
    memcpy(unknown, b.known_tokens, b.plan.known * sizeof *unknown);
    b.plan.known_token = unknown;
    unknown[1] = 7;
    ClientOptions other = client_options(SETTING_3PC);
    CHECK_FAILS(client_open(&c, &b, &other), "the plan differs");
    process_end(&provider, "the plan differs");
    bundle_free(&b);
    process_kill(&third);
    make_pool(&bundle, 20);
    start_dealer(1);
    client_bundle(&b);
    c = open_session(&b, SETTING_DEALER);
    generate_and_compare(&g, &b, SETTING_DEALER, c, 4, &a);
    if (!strcmp(g.finish_reason, "length")) check_cost(&g, false);
    client_close(c);
    process_end(&provider, "fine");
}

TEST(logits_of_a_prompt_are_refused)            // unless the provider wants it so: three_parties
{
    setup();
    static float logits[4 * 310];
    start_live(2);
    Client *c = open_session(&bundle, SETTING_3PC);
    CHECK_FAILS(client_score(c, (int32_t[]){5, 6, 7, 8}, 4, logits), "logits of every position are not revealed here");
    client_close(c);
    c = open_session(&bundle, SETTING_3PC);
    CHECK_OK(client_prompt(c, (int32_t[]){5, 6, 7, 8}, 4, 1, logits));
    client_close(c);
    process_end(&provider, "session failed: logits of every position");
    process_kill(&third);
}

TEST(sessions_one_after_the_other)              // the provider keeps its network, and nothing else
{
    setup();
    Bundle b;
    client_bundle(&b);
    Arena a;
    arena_init(&a, false);
    start_live(3);
    Generated g;
    static float logits[310];
    for (int i = 0; i < 3; i++) {
        Client *c = open_session(&b, SETTING_3PC);
        if (i == 1) {                                                                 // this one breaks off inside of a conversation
            CHECK_OK(client_prompt(c, &(int32_t){5}, 1, 20, logits));
            client_abort(c, "enough");
        } else {
            generate_and_compare(&g, &b, SETTING_3PC, c, 7, &a);
            if (!strcmp(g.finish_reason, "length")) check_cost(&g, true);
        }
        client_close(c);
    }
    process_end(&provider, "session failed: the client ended the session: enough");
    process_end(&third, "fine");
}

TEST(conversation_that_stops_early)
{
    setup();
    static float logits[310];
    int32_t ids[3] = {5, 6, 7};
    start_live(1);
    Client *c = open_session(&bundle, SETTING_3PC);
    for (int i = 0; i < 3; i++) {                                                     // 20 steps planned, i made
        CHECK_OK(client_prompt(c, ids, 3, 20, logits));
        for (int k = 0; k < i; k++) CHECK_OK(client_step(c, 9, logits));
    }
    CHECK_FAILS(client_prompt(c, ids, 3, 99, logits), "context");                     // refused here, and the session goes on
    CHECK_FAILS(client_prompt(c, ids, 0, 1, logits), "empty");
    CHECK_FAILS(client_prompt(c, &(int32_t){310}, 1, 1, logits), "310");
    CHECK_OK(client_prompt(c, ids, 3, 1, logits));
    CHECK_OK(client_step(c, 9, logits));
    CHECK_FAILS(client_step(c, 9, logits), "used up");
    client_close(c);
    process_end(&provider, "fine");
    process_end(&third, "fine");
}

TEST(pool_serves_one_conversation)
{
    setup();
    Bundle b;
    client_bundle(&b);
    Arena a;
    arena_init(&a, false);
    make_pool(&b, 30);
    start_dealer(2);
    Client *c = open_session(&b, SETTING_DEALER);
    static float logits[310];
    int32_t ids[31] = {5, 6, 7};
    CHECK_FAILS(client_prompt(c, ids, 3, 28, logits), "exhausted");                   // and nothing is burnt
    Generated g;
    generate_and_compare(&g, &b, SETTING_DEALER, c, 7, &a);
    if (!strcmp(g.finish_reason, "length")) check_cost(&g, false);
    CHECK(g.receipt.setup.bytes.third_to_server > 0);
    CHECK_FAILS(client_prompt(c, ids, 3, 1, logits), "exhausted");
    client_close(c);
    CHECK_EQUAL(30, client_mark());
    ClientOptions o = client_options(SETTING_DEALER);
    CHECK_FAILS(client_open(&c, &b, &o), "is used");
    process_kill(&provider);
    start_dealer(1);                                                                  // another process on the used pool
    process_end(&provider, "is used");
}

TEST(abandoned_conversation_burns_the_pool)
{
    setup();
    make_pool(&bundle, 20);
    CHECK_FAILS(client_pool(&bundle, &client_id, &(Address){0}, provider_id.public_key, pool_name, 20, in_folder("client.tape")), "exists already");
    static float logits[310];
    int32_t ids[3] = {5, 6, 7};
    start_dealer(1);
    Client *c = open_session(&bundle, SETTING_DEALER);
    CHECK_OK(client_prompt(c, ids, 3, 5, logits));
    client_abort(c, "enough");
    CHECK_FAILS(client_step(c, 9, logits), "enough");
    client_close(c);
    CHECK_EQUAL(20, client_mark());
    ClientOptions o = client_options(SETTING_DEALER);
    CHECK_FAILS(client_open(&c, &bundle, &o), "is used");
    process_end(&provider, "the client ended the session: enough");
}

TEST(provider_refuses_a_tape_that_was_rolled_back)      // by an image of the disk, which the client cannot notice
{
    setup();
    make_pool(&bundle, 8);
    Buffer tape = {0};
    CHECK_OK(file_read(&tape, in_folder("client.tape"), 1 << 12));
    static float logits[310];
    start_dealer(2);
    Client *c = open_session(&bundle, SETTING_DEALER);
    CHECK_OK(client_prompt(c, &(int32_t){5}, 1, 2, logits));
    client_close(c);
    tape_put_back(in_folder("client.tape"), &tape);
    ClientOptions o = client_options(SETTING_DEALER);
    CHECK_FAILS(client_open(&c, &bundle, &o), "the pool is used");
    process_end(&provider, "the pool is used");
    buffer_free(&tape);
}

// ---- disagreement ----------------------------------------------------------------------------------------------------

TEST(disagreement_is_named)
{
    setup();
    start_live(4);
    Client *c;
    Bundle other;
    ClientOptions o = client_options(SETTING_3PC);
    o.identity = &stranger_id;                                                        // refused before it is a session
    CHECK_FAILS(client_open(&c, &bundle, &o), "key");
    o = client_options(SETTING_3PC);
    o.provider.key[0] ^= 1;
    CHECK_FAILS(client_open(&c, &bundle, &o), "key");
    o = client_options(SETTING_DEALER);
    make_pool(&bundle, 4);
    CHECK_FAILS(client_open(&c, &bundle, &o), "setting differs");

    write_plan(&bundle.model, &bundle.adapter, 30, in_folder("other-plan.json"));
    CHECK_OK(bundle_load(&other, in_folder("model"), in_folder("adapter"), in_folder("other-plan.json"), false));
    o = client_options(SETTING_3PC);
    CHECK_FAILS(client_open(&c, &other, &o), "the plan differs");
    bundle_free(&other);

    write_model("other", 1.2);
    CHECK_FAILS(bundle_load(&other, in_folder("other"), in_folder("adapter"), NULL, true), "another model");
    CHECK_OK(bundle_load(&other, in_folder("model"), in_folder("adapter"), NULL, false));
    float *head = arena_new(&other.model.arena, float, (size_t)shape.vocab * shape.width);
    memcpy(head, other.model.head, (size_t)shape.vocab * shape.width * sizeof *head);
    head[77] /= 2;
    other.model.head = head;
    CHECK_FAILS(client_open(&c, &other, &o), "the public model differs");
    bundle_free(&other);

    c = open_session(&bundle, SETTING_3PC);                                           // the provider is still well
    static float logits[310];
    CHECK_OK(client_prompt(c, &(int32_t){5}, 1, 0, logits));
    client_close(c);
    process_end(&provider, "fine");
}

TEST(third_refuses_strangers)
{
    setup();
    Setup s = {.sessions = 1};
    process_start(&third, "third", third_main, &s);
    process_port(&third);
    Address a = third_address(third.port);
    CHECK_FAILS(client_pool(&bundle, &client_id, &a, provider_id.public_key, pool_name, 4, in_folder("client.tape")), "writes no pool");
    CHECK_FAILS(client_pool(&bundle, &provider_id, &a, provider_id.public_key, pool_name, 4, in_folder("client.tape")), "not one of a client");
    CHECK_FAILS(client_pool(&bundle, &stranger_id, &a, provider_id.public_key, pool_name, 4, in_folder("client.tape")), "key");
    CHECK_FAILS(client_pool(&bundle, &client_id, &a, provider_id.public_key, pool_name, 400, in_folder("client.tape")), "context");
    CHECK(!file_exists(in_folder("client.tape")));
}

TEST(junk_is_refused_and_the_next_is_served)
{
    setup();
    start_live(6);
    static const uint8_t junk[][6] = {{0}, {1, 1, 0, 0, 0, 3}, {1, 9, 0, 0, 0, 3}, {11, 1, 0, 0, 0, 0}, {200, 1}};
    static const char *const names[] = {"unknown kind", "cut short", "version", "'begin' where", "unknown kind"};
    for (size_t i = 0; i < sizeof junk / sizeof *junk; i++) {
        Channel *c;
        Buffer answer = {0};
        CHECK_OK(channel_connect(&c, "127.0.0.1", provider.port, &client_id, provider_id.public_key, 5));
        CHECK_OK(channel_send(c, junk[i], sizeof junk[i]));
        CHECK_FAILS(channel_receive(c, &answer, 100), names[i]);
        channel_close(c);
        buffer_free(&answer);
    }
    Client *c = open_session(&bundle, SETTING_3PC);
    static float logits[310];
    CHECK_OK(client_prompt(c, &(int32_t){5}, 1, 0, logits));
    client_close(c);
    process_end(&provider, "fine");
}

/* Each message whole, cut, longer, and with bytes changed: taken or refused, and never more than that. */
static void mutate(Channel *a, Channel *b, Result (*receive)(Channel *c))
{
    Buffer whole = {0}, part = {0};
    CHECK_OK(channel_receive(b, &whole, 1 << 24));
    CHECK_OK(channel_send(a, whole.data, whole.len));
    CHECK_OK(receive(b));
    for (int i = 0; i < 300; i++) {
        part.len = 0;
        buffer_append(&part, whole.data, i < 100 ? (size_t)(test_random() * (double)whole.len) : whole.len);
        if (i >= 100 && i < 110) buffer_u8(&part, 0);
        for (int k = i % 7; i >= 110 && k >= 0; k--) part.data[(size_t)(test_random() * (double)part.len)] = (uint8_t)(test_random() * 256);
        CHECK_OK(channel_send(a, part.data, part.len));
        bool refused = failed(receive(b));
        CHECK(refused || i >= 110);
    }
    buffer_free(&whole), buffer_free(&part);
}

static Result receive_client(Channel *c) { ClientHello h; return client_hello_receive(c, &h); }
static Result receive_provider(Channel *c) { ProviderHello h; return provider_hello_receive(c, &h); }
static Result receive_third(Channel *c) { ThirdHello h; return third_hello_receive(c, &h); }
static Result receive_report(Channel *c) { Report r; return report_receive(c, MSG_READY, &r, "provider"); }
static Result receive_shape(Channel *c)
{
    Plan p = {0};
    ModelConfig config;
    Result r = shape_receive(c, &p, &config);
    if (!failed(r)) r = plan_check(&p, &config);
    plan_free(&p);
    return r;
}
static Result receive_header(Channel *c)
{
    Buffer header = {0};
    PoolAbout about;
    Result r = pool_header_receive(c, &header);
    if (!failed(r)) r = pool_about(&about, header.data, header.len);
    buffer_free(&header);
    return r;
}

TEST(messages_are_bounded)
{
    setup();
    Channel *a, *b;
    Buffer header = {0};
    channel_memory(&a, &b);
    CHECK_OK(client_hello_send(a, &(ClientHello){.setting = SETTING_3PC}));
    mutate(a, b, receive_client);
    CHECK_OK(provider_hello_send(a, &(ProviderHello){.header_len = 100}));
    mutate(a, b, receive_provider);
    CHECK_OK(third_hello_send(a, &(ThirdHello){.role = ROLE_SERVER}));
    mutate(a, b, receive_third);
    CHECK_OK(report_send(a, MSG_READY, &(Report){1, 2}));
    mutate(a, b, receive_report);
    pool_about_write(&header, &(PoolAbout){.positions = 7});
    CHECK_OK(pool_header_send(a, &header));
    mutate(a, b, receive_header);
    CHECK_OK(shape_send(a, &bundle.plan, &shape));
    mutate(a, b, receive_shape);
    buffer_free(&header);
    channel_close(a), channel_close(b);
}

TEST(prompts_are_checked)
{
    setup();
    Arena a;
    arena_init(&a, false);
    Generated g;
    Generation w = {.prompt = "", .max_tokens = 3};
    CHECK_FAILS(generate(&g, &bundle, SETTING_PLAIN, NULL, &w, &a), "empty");
    w.prompt = "ab\xff" "cd", w.prompt_len = 5;
    CHECK_FAILS(generate(&g, &bundle, SETTING_PLAIN, NULL, &w, &a), "UTF-8");
    char text[400];
    memset(text, 'z', sizeof text);
    w.prompt = text, w.prompt_len = sizeof text;
    CHECK_FAILS(generate(&g, &bundle, SETTING_CLEAR, NULL, &w, &a), "context");
    w.prompt_len = 1, w.max_tokens = 0;
    CHECK_FAILS(generate(&g, &bundle, SETTING_PLAIN, NULL, &w, &a), "one token");
    w.max_tokens = 1;
    CHECK_FAILS(generate(&g, &bundle, SETTING_3PC, NULL, &w, &a), "session");
    CHECK_FAILS(generate(&g, &bundle, SETTING_2PC, NULL, &w, &a), "2pc");
    Setting s;
    CHECK_OK(setting_parse(&s, "dealer"));
    CHECK_EQUAL(SETTING_DEALER, s);
    CHECK_FAILS(setting_parse(&s, "2pc"), "not available");
    CHECK_FAILS(setting_parse(&s, "4pc"), "4pc");
    CHECK_FAILS(bundle_load(&bundle, in_folder("model"), NULL, NULL, true), "no such plan");
}

// ---- who vanishes ----------------------------------------------------------------------------------------------------

static float logits_here[310];

TEST(third_vanishes)
{
    setup();
    start_live(1);
    Client *c = open_session(&bundle, SETTING_3PC);
    CHECK_OK(client_prompt(c, &(int32_t){5}, 1, 20, logits_here));
    process_kill(&third);
    Result r = OK;
    for (int i = 0; i < 20 && !failed(r); i++) r = client_step(c, 9, logits_here);    // what was dealt ahead is still good
    CHECK(failed(r));
    if (!strstr(result_text(), "the provider ended the session: the third")) fprintf(stderr, "%s\n", result_text()), exit(1);
    client_close(c);
    process_end(&provider, "the third");
}

TEST(provider_vanishes)
{
    setup();
    start_live(1);
    Client *c = open_session(&bundle, SETTING_3PC);
    CHECK_OK(client_prompt(c, &(int32_t){5}, 1, 20, logits_here));
    process_kill(&provider);
    CHECK_FAILS(client_step(c, 9, logits_here), "the provider");
    client_close(c);
    process_end(&third, "the provider");
}

static Result vanishing_main(int pipe, void *ctx)
{
    (void)ctx;
    Client *c = open_session(&bundle, SETTING_3PC);
    CHECK_OK(client_prompt(c, &(int32_t){5}, 1, 20, logits_here));
    announce(&pipe, 1);
    pause();
    return OK;
}

TEST(client_vanishes_and_the_next_is_served)
{
    setup();
    start_live(2);
    Process client;
    process_start(&client, "client", vanishing_main, NULL);
    process_port(&client);
    CHECK_EQUAL(1, client.port);
    process_kill(&client);
    Client *c = open_session(&bundle, SETTING_3PC);
    CHECK_OK(client_prompt(c, &(int32_t){5}, 1, 1, logits_here));
    client_close(c);
    process_end(&provider, "session failed: the client closed the connection");
    process_end(&third, "fine");
}

TEST(nobody_is_there)
{
    setup();
    start_live(1);
    process_kill(&third);
    ClientOptions o = client_options(SETTING_3PC);
    Client *c;
    double begin = clock_seconds();
    CHECK_FAILS(client_open(&c, &bundle, &o), "third: ");
    CHECK(clock_seconds() - begin < 20);
    process_end(&provider, "the client ended the session: third: ");
}

int main(int argc, char **argv) { return test_main(argc, argv); }
