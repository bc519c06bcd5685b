/* processes.h - a small model with an adapter and a plan in a folder, and the three parties over it, each a process. */
#ifndef MARILL_PROCESSES_H
#define MARILL_PROCESSES_H

#include "models.h"
#include "serve/message.h"
#include "tapes.h"

#pragma GCC diagnostic ignored "-Wunused-function"             // no test needs all of it

static const ModelConfig shape = {.width = 32, .layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 8, .ffn = 48, .vocab = 310, .context = 40,
                                  .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .bos = 1, .eos = 2};
enum { FROZEN = 1, RANK = 3, EVERY = (1 << MAT_COUNT) - 1, SECONDS = 12 };

static char folder[4096], plan_path[4200];
static Identity client_id, provider_id, third_id, stranger_id;
static Bundle bundle;                          // with the adapter

static const char *in_folder(const char *name)
{
    static char path[4][4200];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static const char sentences[] = "the quick brown fox jumps over the lazy dog\nsmall models learn small words\nwe keep the prompt and the weights apart\n"
                                "a third deals the masks and sees no text\nnothing is sent before everyone agrees\n";

static void write_model(const char *dir, double size)
{
    Model m;
    random_model(&m, &shape, size);
    CHECK_OK(folder_make(in_folder(dir), 0700));
    CHECK_OK(model_save(&m, in_folder(dir), "F32"));
    char path[4200];
    snprintf(path, sizeof path, "%s/tokenizer.model", in_folder(dir));
    CHECK_OK(tokenizer_train(sentences, sizeof sentences - 1, 300, path));
    model_free(&m);
}

static void write_plan(const Model *m, const Adapter *a, uint32_t context, const char *path)
{
    static int32_t tokens[600];
    Plan p;
    for (size_t i = 0; i < 600; i++) tokens[i] = 3 + (int32_t)(test_random() * (shape.vocab - 3));
    PlanOptions o = {.context = context, .frozen = FROZEN, .prefer = PREFER_EXCHANGES, .private_part = PRIVATE_LORA};
    CHECK_OK(plan_make(&p, m, a, &o, tokens, 600));
    CHECK_OK(plan_save(&p, path));
    plan_free(&p);
}

static void setup(void)
{
    crypto_init(false);
    signal(SIGPIPE, SIG_DFL);
    snprintf(folder, sizeof folder, "%s", test_folder());
    identity_generate(&client_id), identity_generate(&provider_id), identity_generate(&third_id), identity_generate(&stranger_id);
    write_model("model", 1.5);
    Model m;
    Adapter a;
    CHECK_OK(model_load(&m, in_folder("model")));
    random_adapter(&a, &shape, FROZEN, RANK, EVERY, 0.5);
    CHECK_OK(folder_make(in_folder("adapter"), 0700));
    CHECK_OK(adapter_save(&a, in_folder("adapter"), &shape, "model"));
    snprintf(plan_path, sizeof plan_path, "%s/adapter/marill-plan.json", folder);
    write_plan(&m, &a, 0, plan_path);
    model_free(&m), adapter_free(&a);
    CHECK_OK(bundle_load(&bundle, in_folder("model"), in_folder("adapter"), NULL, true));
}

// ---- parties as processes --------------------------------------------------------------------------------------------

typedef struct Process { pid_t id; int port_pipe; uint16_t port; char name[32]; } Process;

static void announce(void *ctx, uint16_t port)
{
    if (write(*(int *)ctx, &port, sizeof port) != sizeof port) exit(1);
}

static void log_line(void *ctx, const char *line)
{
    FILE *f = fopen(ctx, "a");
    if (f) fprintf(f, "%s\n", line), fclose(f);
}

/* The parent gets the port; the child goes on in `run`, whose failure it writes to NAME.out. */
static void process_start(Process *p, const char *name, Result (*run)(int pipe, void *ctx), void *ctx)
{
    int ends[2];
    static char out[4200];
    CHECK(pipe(ends) == 0);
    snprintf(p->name, sizeof p->name, "%s", name);
    fflush(NULL);
    p->id = fork();
    if (p->id == 0) {
        close(ends[0]);
        alarm(TEST_SECONDS);
        snprintf(out, sizeof out, "%s/%s.out", folder, name);
        Result r = run(ends[1], ctx);
        log_line(out, failed(r) ? result_text() : "fine");
        exit(failed(r));
    }
    close(ends[1]);
    p->port_pipe = ends[0];
}

static void process_port(Process *p)
{
    if (read(p->port_pipe, &p->port, sizeof p->port) != sizeof p->port) p->port = 0;
    close(p->port_pipe);
}

/* Waits at most SECONDS for it to end; what it said must contain `part`. */
static void process_end(Process *p, const char *part)
{
    int status;
    double until = clock_seconds() + SECONDS;
    while (waitpid(p->id, &status, WNOHANG) == 0) {
        if (clock_seconds() > until) fprintf(stderr, "the %s goes on\n", p->name), exit(1);
        usleep(5000);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) <= 1);                             // not a signal, not a leak
    char path[4300];
    Buffer text = {0};
    snprintf(path, sizeof path, "%s/%s.out", folder, p->name);
    CHECK_OK(file_read(&text, path, 1 << 16));
    if (!strstr((const char *)text.data, part)) {
        fprintf(stderr, "the %s said '%s', which does not name '%s'\n", p->name, (const char *)text.data, part);
        exit(1);
    }
    buffer_free(&text);
}

static void process_kill(Process *p)
{
    kill(p->id, SIGKILL);
    waitpid(p->id, NULL, 0);
}

typedef struct Setup { Setting setting; uint16_t third_port; uint32_t sessions; const char *pool, *tape; bool every; } Setup;

static Result provider_main(int pipe, void *ctx)
{
    const Setup *s = ctx;
    static char log[4200];
    snprintf(log, sizeof log, "%s/provider.out", folder);
    ProviderOptions o = {.host = "127.0.0.1", .identity = &provider_id, .clients = (const uint8_t (*)[32])client_id.public_key, .client_count = 1,
                         .setting = s->setting, .third = {.host = "127.0.0.1", .port = s->third_port}, .pool = s->pool, .tape = s->tape, .every = s->every,
                         .sessions = s->sessions, .progress = &(Progress){log_line, log}, .announce = announce, .announce_ctx = &pipe};
    memcpy(o.third.key, third_id.public_key, 32);
    return provider_serve(&bundle, &o);
}

static Result third_main(int pipe, void *ctx)
{
    const Setup *s = ctx;
    ThirdOptions o = {.host = "127.0.0.1", .identity = &third_id, .clients = (const uint8_t (*)[32])client_id.public_key, .client_count = 1,
                      .providers = (const uint8_t (*)[32])provider_id.public_key, .provider_count = 1, .pool = s->pool, .sessions = s->sessions,
                      .announce = announce, .announce_ctx = &pipe};
    return third_serve(&o);
}

static Process provider, third;

static bool reveal_every;                      // of providers that are started from now on

static void start_live(uint32_t sessions)
{
    static Setup s;
    s = (Setup){.setting = SETTING_3PC, .sessions = sessions, .every = reveal_every};
    process_start(&third, "third", third_main, &s);
    process_port(&third);
    s.third_port = third.port;
    process_start(&provider, "provider", provider_main, &s);
    process_port(&provider);
    CHECK(third.port && provider.port);
}

static ClientOptions client_options(Setting setting)
{
    ClientOptions o = {.identity = &client_id, .setting = setting, .provider = {.host = "127.0.0.1", .port = provider.port},
                       .third = {.host = "127.0.0.1", .port = third.port}, .tape = setting == SETTING_DEALER ? in_folder("client.tape") : NULL};
    memcpy(o.provider.key, provider_id.public_key, 32);
    memcpy(o.third.key, third_id.public_key, 32);
    return o;
}

static Client *open_session(const Bundle *b, Setting setting)
{
    Client *c;
    ClientOptions o = client_options(setting);
    CHECK_OK(client_open(&c, b, &o));
    return c;
}

/* The client's bundle: the public base alone. */
static void client_bundle(Bundle *b)
{
    CHECK_OK(bundle_load(b, in_folder("model"), in_folder("adapter"), NULL, false));
    CHECK(!b->has_adapter);
}

// ---- pools -----------------------------------------------------------------------------------------------------------

typedef struct Making { uint16_t port; uint32_t positions; } Making;
static const uint8_t pool_name[16] = "a pool of tests";

static Address third_address(uint16_t port)
{
    Address a = {.host = "127.0.0.1", .port = port};
    memcpy(a.key, third_id.public_key, 32);
    return a;
}

static Result making_main(int pipe, void *ctx)
{
    const Making *m = ctx;
    (void)pipe;
    Address a = third_address(m->port);
    return provider_pool(&bundle, &provider_id, &a, client_id.public_key, pool_name, m->positions, 0, in_folder("provider.tape"));
}

static void make_pool(const Bundle *b, uint32_t positions)
{
    Setup s = {.pool = in_folder("pool")};
    Process making, dealer;
    process_start(&dealer, "dealer", third_main, &s);
    process_port(&dealer);
    Making m = {dealer.port, positions};
    process_start(&making, "making", making_main, &m);
    Address a = third_address(dealer.port);
    CHECK_OK(client_pool(b, &client_id, &a, provider_id.public_key, pool_name, positions, in_folder("client.tape")));
    process_end(&making, "fine");
    process_end(&dealer, "fine");
}

static void start_dealer(uint32_t sessions)
{
    static Setup s;
    s = (Setup){.setting = SETTING_DEALER, .sessions = sessions, .pool = in_folder("pool"), .tape = in_folder("provider.tape")};
    process_start(&provider, "provider", provider_main, &s);
    process_port(&provider);
}

static uint64_t client_mark(void)
{
    Tape *t;
    CHECK_OK(tape_open(&t, in_folder("client.tape")));
    uint64_t mark = tape_mark(t);
    tape_close(t);
    return mark;
}

#endif
