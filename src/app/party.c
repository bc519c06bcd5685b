/* party.c - a deployment by hand: keys, the provider, the third, the client. */
#include "app/synthetic.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char keygen_usage[] =
    "NAME\n"
    "Writes NAME.key, which is secret, and prints the public key: 64 hex digits that the others are told.\n";
const char serve_usage[] =
    "--model DIR [--adapter DIR] --key FILE --client HEX... --third-key HEX [options]\n"
    "  --plan FILE                  (marill-plan.json of the adapter folder, or of the model folder)\n"
    "  --listen HOST:PORT           where clients connect (127.0.0.1:7100); port 0 lets the system choose\n"
    "  --setting 3pc|dealer         (3pc)\n"
    "  --client HEX                 public key of a client that may connect; may be repeated\n"
    "  --third HOST:PORT --third-key HEX\n"
    "  --pool FILE --tape FILE      dealer: the pool that the third wrote, and our tape of it\n"
    "  --epoch N                    (0); another one after a client was revoked: new pads, and pools of before are refused\n"
    "  --reveal generated|every     (generated); which logits a client may have: of the tokens that it generates, or of every\n"
    "                               position of its text too, as scoring needs\n"
    "  --once                       end after one session\n"
    "  --make-pool N --name HEX     make a pool of N positions with the third and one client, keep --tape FILE, and end;\n"
    "                               32 hex digits that both call it by\n"
    "  --net NET                    shapes the links as a network, all parties alike and on one machine: see 'marill run'\n"
    "  --trace FILE                 what was sent and received when, in the last session\n"
    "  --synthetic SEED [--synthetic-past]   factors of the plan's rank from a seed, for benchmarks\n"
    "  --threads N                  (one a core)\n";
const char third_usage[] =
    "--key FILE --client HEX... --provider HEX... [options]\n"
    "  --listen HOST:PORT           (127.0.0.1:7200); port 0 lets the system choose\n"
    "  --write POOL                 write one pool for the dealer setting to this file, and end\n"
    "  --once                       end after one session\n"
    "  --net NET                    as of 'marill serve'\n"
    "  --trace FILE                 as of 'marill serve'\n"
    "  --threads N                  (one a core)\n";
const char chat_usage[] =
    "--model DIR --key FILE --provider HOST:PORT --provider-key HEX [options]\n"
    "  --plan FILE                  the provider's plan, which is public (marill-plan.json of the model folder)\n"
    "  --setting 3pc|dealer         (3pc)\n"
    "  --third HOST:PORT --third-key HEX\n"
    "  --tape FILE                  dealer: our tape of the pool\n"
    "  --max-tokens N --temperature T --top-p P --seed N\n"
    "  --net NET                    as of 'marill serve'\n"
    "  --make-pool N --name HEX     make a pool of N positions with the third and the provider, keep --tape FILE, and end\n"
    "Reads lines and prints the reply to each. A line is a conversation of its own. A marill.json beside the plan,\n"
    "{\"template\": \"..{}..\"}, says what is put around it.\n";
static const char *const party_settings[] = {"dealer", "3pc", NULL}, *const reveals[] = {"generated", "every", NULL};

static void announce(void *ctx, uint16_t port)
{
    const char *host = ctx;
    printf(strchr(host, ':') ? "listening on [%s]:%u\n" : "listening on %s:%u\n", host, port);
    fflush(stdout);
}

static void say(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "%s\n", line);
}

static const Progress log_lines = {say, NULL};                // of a long-running party: also where nobody sits

Result keygen_command(int argc, char **argv)
{
    const char *name = NULL;
    Option options[] = {OPTION("NAME", OPT_TEXT, &name, .required = true)};
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Identity id;
    Arena a;
    char hex[65];
    arena_init(&a, false);
    identity_generate(&id);
    Result r = identity_save(&id, arena_format(&a, "%s.key", name));
    hex_encode(hex, id.public_key, 32);
    if (!failed(r)) printf("%s\n", hex);
    identity_free(&id);
    arena_free(&a);
    return r;
}

// ---- the provider ----------------------------------------------------------------------------------------------------

typedef struct ServeArgs {
    const char *model, *adapter, *plan, *key, *pool, *tape, *net, *trace;
    Net shape;
    Keys clients;
    Address listen, third;
    unsigned setting, reveal;                  // of party_settings, of reveals
    uint64_t positions, epoch, threads;
    uint8_t name[16];
    uint64_t seed;                             // synthetic
    bool once, synthetic, past;
} ServeArgs;

static Result serve_needs(const ServeArgs *k, const Option *options)
{
    bool dealer = k->setting == 0, making = option_given(options, "--make-pool");
    Arena a;
    arena_init(&a, false);
    const char *plan = k->plan ? k->plan : arena_format(&a, "%s/marill-plan.json", k->adapter ? k->adapter : k->model);
    Result r = OK;
    if (making && (!option_given(options, "--name") || !k->tape || !k->third.host))
        r = fail(FAIL_USE, "--make-pool needs --name, --tape and --third");
    else if (making && k->clients.count != 1) r = fail(FAIL_USE, "--make-pool needs one --client");
    else if (!making && !dealer && !k->third.host) r = fail(FAIL_USE, "setting 3pc needs --third");
    else if (!making && dealer && (!k->pool || !k->tape)) r = fail(FAIL_USE, "setting dealer needs --pool and --tape");
    else if (!file_exists(plan))
        r = fail(FAIL_DATA, "there is no plan %s; make it: marill calibrate --model %s%s%s --text FILE --out %s", plan, k->model,
                 k->adapter ? " --adapter " : "", k->adapter ? k->adapter : "", plan);
    arena_free(&a);
    return r;
}

static Result serve_run(const ServeArgs *k, const Identity *me)
{
    Bundle b;
    Trace trace = {0};
    Identity mine = *me;
    GUARD(k->synthetic ? synthetic_bundle(&b, k->model, k->plan, k->seed, k->past, true)
                       : bundle_load(&b, k->model, k->adapter, k->plan, true));
    ProviderOptions o = {.host = k->listen.host,
                         .port = k->listen.port,
                         .identity = &mine,
                         .clients = k->clients.key,
                         .client_count = k->clients.count,
                         .setting = k->setting ? SETTING_3PC : SETTING_DEALER,
                         .third = k->third,
                         .pool = k->pool,
                         .tape = k->tape,
                         .epoch = k->epoch,
                         .every = k->reveal == 1,
                         .sessions = k->once,
                         .progress = &log_lines,
                         .announce = announce,
                         .announce_ctx = (void *)(uintptr_t)k->listen.host,
                         .net = k->shape,
                         .trace = k->trace ? &trace : NULL};
    Result r = k->positions ? provider_pool(&b, me, &k->third, k->clients.key[0], k->name, (uint32_t)k->positions, k->epoch, k->tape)
                            : provider_serve(&b, &o);
    if (!failed(r) && k->trace) r = trace_save(&trace, k->trace);
    trace_free(&trace);
    bundle_free(&b);
    return r;
}

Result serve_command(int argc, char **argv)
{
    ServeArgs k = {.listen = {.host = "127.0.0.1", .port = 7100}, .setting = 1, .net = "loopback"};
    Option options[] = {
        OPTION("--model", OPT_TEXT, &k.model, .required = true),
        OPTION("--adapter", OPT_TEXT, &k.adapter),
        OPTION("--plan", OPT_TEXT, &k.plan),
        OPTION("--key", OPT_TEXT, &k.key, .required = true),
        OPTION("--client", OPT_KEYS, &k.clients, .required = true),
        OPTION("--listen", OPT_ADDRESS, &k.listen),
        OPTION("--setting", OPT_CHOICE, &k.setting, .choices = party_settings),
        OPTION("--third", OPT_ADDRESS, &k.third),
        OPTION("--third-key", OPT_KEY, k.third.key, .required = true),
        OPTION("--pool", OPT_TEXT, &k.pool),
        OPTION("--tape", OPT_TEXT, &k.tape),
        OPTION("--make-pool", OPT_UINT, &k.positions, .min = 1, .max = 1 << 20),
        OPTION("--name", OPT_KEY, k.name, .len = 16),
        OPTION("--epoch", OPT_UINT, &k.epoch, .max = UINT32_MAX),
        OPTION("--reveal", OPT_CHOICE, &k.reveal, .choices = reveals),
        OPTION("--once", OPT_FLAG, &k.once),
        OPTION("--net", OPT_TEXT, &k.net),
        OPTION("--trace", OPT_TEXT, &k.trace),
        OPTION("--synthetic", OPT_UINT, &k.seed),
        OPTION("--synthetic-past", OPT_FLAG, &k.past),
        OPTION("--threads", OPT_UINT, &k.threads, .min = 1, .max = 256),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    k.synthetic = option_given(options, "--synthetic");
    GUARD(serve_needs(&k, options));
    GUARD(net_parse(&k.shape, k.net));
    Identity me;
    GUARD(identity_load(&me, k.key));
    threads_start((unsigned)k.threads);
    Result r = serve_run(&k, &me);
    identity_free(&me);
    return r;
}

// ---- the third -------------------------------------------------------------------------------------------------------

Result third_command(int argc, char **argv)
{
    static Keys clients, providers;
    Address listen = {.host = "127.0.0.1", .port = 7200};
    const char *key = NULL, *pool = NULL, *net = "loopback", *path = NULL;
    bool once = false;
    uint64_t threads = 0;
    Option options[] = {
        OPTION("--key", OPT_TEXT, &key, .required = true),
        OPTION("--client", OPT_KEYS, &clients, .required = true),
        OPTION("--provider", OPT_KEYS, &providers, .required = true),
        OPTION("--listen", OPT_ADDRESS, &listen),
        OPTION("--write", OPT_TEXT, &pool),
        OPTION("--once", OPT_FLAG, &once),
        OPTION("--net", OPT_TEXT, &net),
        OPTION("--trace", OPT_TEXT, &path),
        OPTION("--threads", OPT_UINT, &threads, .min = 1, .max = 256),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Net shape;
    Trace trace = {0};
    GUARD(net_parse(&shape, net));
    if (pool && file_exists(pool)) return fail(FAIL_SYSTEM, "%s: is there already, and a pool is not overwritten", pool);
    Identity me;
    GUARD(identity_load(&me, key));
    threads_start((unsigned)threads);
    ThirdOptions o = {.host = listen.host, .port = listen.port, .identity = &me, .clients = clients.key, .client_count = clients.count,
                      .providers = providers.key, .provider_count = providers.count, .pool = pool, .sessions = once, .progress = &log_lines,
                      .announce = announce, .announce_ctx = (void *)(uintptr_t)listen.host, .net = shape, .trace = path ? &trace : NULL};
    Result r = third_serve(&o);
    if (!failed(r) && path) r = trace_save(&trace, path);
    trace_free(&trace);
    identity_free(&me);
    return r;
}

// ---- the client ------------------------------------------------------------------------------------------------------

typedef struct ChatArgs {
    const char *model, *plan, *key, *tape, *net;
    Address provider, third;
    unsigned setting;
    uint64_t positions, max_tokens, seed, threads;
    double temperature, top_p;
    uint8_t name[16];
} ChatArgs;

typedef struct Chat { const ChatArgs *k; Bundle bundle; Client *client; const char *form; Setting setting; Arena arena; } Chat;

static void on_token(void *ctx, int32_t id, const uint8_t *text, size_t len)
{
    (void)ctx, (void)id;
    print_text(stdout, text, len);
}

static Result chat_line(Chat *c, const char *text, size_t len)
{
    const ChatArgs *k = c->k;
    Generated g = {0};
    size_t prompt_len;
    ArenaMark mark = arena_mark(&c->arena);
    const char *prompt = template_fill(c->form, text, len, &prompt_len, &c->arena);
    Generation want = {.prompt = prompt,
                       .prompt_len = prompt_len,
                       .max_tokens = (uint32_t)k->max_tokens,
                       .temperature = (float)k->temperature,
                       .top_p = (float)k->top_p,
                       .seed = k->seed,
                       .token = on_token};
    Result r = generate(&g, &c->bundle, c->setting, c->client, &want, &c->arena);
    putchar('\n');
    if (!failed(r)) r = output_flush();
    if (!failed(r) && isatty(STDERR_FILENO)) print_receipt(stderr, &g, c->setting);
    buffer_free(&g.text);
    arena_rollback(&c->arena, mark);
    return r;
}

static Result chat_lines(Chat *c)
{
    char *line = NULL;
    size_t cap = 0;
    Result r = OK;
    bool ask = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    for (;;) {
        if (ask) fprintf(stderr, "> ");
        ssize_t len = getline(&line, &cap, stdin);
        if (len < 0) break;
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r')) len--;
        size_t bad = utf8_invalid_at((const uint8_t *)line, (size_t)len);
        if (len == 0) continue;
        if (bad < (size_t)len) r = fail(FAIL_DATA, "standard input: not UTF-8 at byte %zu of a line", bad);
        else r = chat_line(c, line, (size_t)len);
        if (failed(r)) break;
    }
    wipe(line, cap);                           // the text is the client's secret
    free(line);
    return r;
}

static Result chat_run(Chat *c, Identity *me)
{
    const ChatArgs *k = c->k;
    GUARD(bundle_load(&c->bundle, k->model, NULL, k->plan, false));
    if (k->positions) return client_pool(&c->bundle, me, &k->third, k->provider.key, k->name, (uint32_t)k->positions, k->tape);
    const char *slash = k->plan ? strrchr(k->plan, '/') : NULL;
    const char *beside = !k->plan ? NULL : slash ? arena_format(&c->arena, "%.*s", (int)(slash - k->plan), k->plan) : ".";
    GUARD(template_load(&c->form, (const char *const[]){beside, k->model}, 2, &c->arena));
    ClientOptions o = {.identity = me, .setting = c->setting, .provider = k->provider, .third = k->third, .tape = k->tape};
    GUARD(net_parse(&o.net, k->net));
    GUARD(client_open(&c->client, &c->bundle, &o));
    return chat_lines(c);
}

Result chat_command(int argc, char **argv)
{
    ChatArgs k = {.setting = 1, .max_tokens = 128, .top_p = 1, .net = "loopback"};
    Option options[] = {
        OPTION("--model", OPT_TEXT, &k.model, .required = true),
        OPTION("--plan", OPT_TEXT, &k.plan),
        OPTION("--key", OPT_TEXT, &k.key, .required = true),
        OPTION("--provider", OPT_ADDRESS, &k.provider),
        OPTION("--provider-key", OPT_KEY, k.provider.key, .required = true),
        OPTION("--setting", OPT_CHOICE, &k.setting, .choices = party_settings),
        OPTION("--third", OPT_ADDRESS, &k.third),
        OPTION("--third-key", OPT_KEY, k.third.key),
        OPTION("--tape", OPT_TEXT, &k.tape),
        OPTION("--max-tokens", OPT_UINT, &k.max_tokens, .min = 1, .max = 1 << 20),
        OPTION("--temperature", OPT_REAL, &k.temperature, .max = 100),
        OPTION("--top-p", OPT_REAL, &k.top_p, .min = 1e-6, .max = 1),
        OPTION("--seed", OPT_UINT, &k.seed),
        OPTION("--net", OPT_TEXT, &k.net),
        OPTION("--make-pool", OPT_UINT, &k.positions, .min = 1, .max = 1 << 20),
        OPTION("--name", OPT_KEY, k.name, .len = 16),
        OPTION("--threads", OPT_UINT, &k.threads, .min = 1, .max = 256),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    bool third = option_given(options, "--third") && option_given(options, "--third-key");
    if (k.positions && (!third || !k.tape || !option_given(options, "--name")))
        return fail(FAIL_USE, "--make-pool needs --name, --tape, --third and --third-key");
    if (!k.positions && !k.provider.host) return fail(FAIL_USE, "--provider is missing");
    if (!k.positions && k.setting == 1 && !third) return fail(FAIL_USE, "setting 3pc needs --third and --third-key");
    if (!k.positions && k.setting == 0 && !k.tape) return fail(FAIL_USE, "setting dealer needs --tape");
    Chat c = {.k = &k, .setting = k.setting ? SETTING_3PC : SETTING_DEALER};
    Identity me;
    GUARD(identity_load(&me, k.key));
    threads_start((unsigned)k.threads);
    arena_init(&c.arena, true);
    Result r = chat_run(&c, &me);
    client_close(c.client);
    bundle_free(&c.bundle);
    arena_free(&c.arena);
    identity_free(&me);
    return r;
}
