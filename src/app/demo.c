/* demo.c - the embedded model: German to English, three processes on this machine, and a receipt after each reply.
 *
 * This process is the client. It opens the public base, the plan and the template; the adapter's weights are opened by the
 * provider's process alone. */
#include "app/app.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char demo_usage[] =
    "[--net NET]                    of 'marill run'\n"
    "Translates German to English in the setting 3pc. On a terminal it asks for sentences; else it reads lines from standard\n"
    "input, and three built-in sentences if there are none. $MARILL_MODELS names the folder of base/ and translate/.\n";

static const char *const sentences[] = {"Ich habe Hunger.", "Wo ist der Bahnhof?", "Das M\303\244dchen liest ein Buch."};
enum { REPLY_TOKENS = 48 };

typedef struct Demo {
    char base[PATH_MAX], adapter[PATH_MAX], plan[PATH_MAX];
    const char *net;
    Bundle bundle;
    Parties parties;
    const char *form;
    Arena arena;
    bool terminal;
    size_t replies;
} Demo;

// ---- the models' folder ----------------------------------------------------------------------------------------------

static bool models_in(Demo *d, const char *folder)
{
    bool fits = snprintf(d->base, sizeof d->base, "%s/base", folder) < (int)sizeof d->base
                && snprintf(d->adapter, sizeof d->adapter, "%s/translate", folder) < (int)sizeof d->adapter
                && snprintf(d->plan, sizeof d->plan, "%s/translate/marill-plan.json", folder) < (int)sizeof d->plan;
    return fits && file_exists(d->base) && file_exists(d->plan);
}

/* $MARILL_MODELS; else models/ beside the folder of this binary; else that of the sources it was built from. */
static Result models_find(Demo *d)
{
    char exe[PATH_MAX], folder[PATH_MAX + 32];
    const char *named = getenv("MARILL_MODELS");
    if (named && *named)
        return models_in(d, named) ? OK : fail(FAIL_DATA, "%s (MARILL_MODELS): base/ or translate/marill-plan.json is missing", named);
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[len > 0 ? len : 0] = 0;
    char *slash = strrchr(exe, '/');
    if (slash) {
        *slash = 0;
        snprintf(folder, sizeof folder, "%s/../models", exe);
        if (models_in(d, folder)) return OK;
    }
    snprintf(folder, sizeof folder, "%s", __FILE__);           // CMake compiles with absolute paths
    for (int i = 0; i < 3 && (slash = strrchr(folder, '/')); i++) *slash = 0;
    snprintf(folder + strlen(folder), sizeof folder - strlen(folder), "/models");
    if (models_in(d, folder)) return OK;
    return fail(FAIL_DATA, "%s: base/ or translate/marill-plan.json is missing; MARILL_MODELS can name another folder", folder);
}

// ---- what is said ----------------------------------------------------------------------------------------------------

static void say_start(const Demo *d)
{
    const Plan *p = &d->bundle.plan;
    printf("Marill demo: German to English, privately, by three processes on this machine that talk over TLS.\n\n"
           "    client     your text; the public base, whose first %u of %u layers it runs by itself\n"
           "    provider   the fine-tuned part, which is private (%s)\n"
           "    third      deals random numbers; sees neither text nor weights\n\n",
           p->frozen, d->bundle.model.config.layers, p->private_part == PRIVATE_LORA ? "low-rank factors" : "every matrix of its layers");
}

static void say_learned(const Receipt *r)
{
    printf("\n    The client learned the reply and the model's scores for each of its words, which say a little about the\n"
           "    private part. The provider learned that %u + %u tokens went by, and when; nothing of the text. The third\n"
           "    learned the same counts. This holds while no two of them work together; here all three are you.\n",
           r->prompt_tokens, r->tokens);
}

static void on_token(void *ctx, int32_t id, const uint8_t *text, size_t len)
{
    (void)ctx, (void)id;
    print_text(stdout, text, len);
}

static Result demo_reply(Demo *d, const char *text, size_t len)
{
    Generated g = {0};
    size_t prompt_len;
    ArenaMark mark = arena_mark(&d->arena);
    size_t bad = utf8_invalid_at((const uint8_t *)text, len);
    if (bad < len) return fail(FAIL_DATA, "standard input: not UTF-8 at byte %zu of a line", bad);
    const char *prompt = template_fill(d->form, text, len, &prompt_len, &d->arena);
    if (!d->terminal) printf("> "), print_text(stdout, (const uint8_t *)text, len), putchar('\n');
    printf("  ");
    Generation want = {.prompt = prompt, .prompt_len = prompt_len, .max_tokens = REPLY_TOKENS, .top_p = 1, .token = on_token};
    Result r = generate(&g, &d->bundle, SETTING_3PC, d->parties.client, &want, &d->arena);
    printf("\n\n");
    if (!failed(r)) {
        print_receipt(stdout, &g, SETTING_3PC);
        if (d->replies++ == 0) say_learned(&g.receipt);
        putchar('\n');
        r = output_flush();
    }
    buffer_free(&g.text);
    arena_rollback(&d->arena, mark);
    return r;
}

/* A sentence that is too long is the user's to shorten: the session goes on. */
static Result demo_line(Demo *d, const char *text, size_t len)
{
    Result r = demo_reply(d, text, len);
    if (r.kind != FAIL_USE || !d->terminal) return r;
    printf("  (%s)\n\n", result_text());
    return OK;
}

static Result demo_lines(Demo *d)
{
    char *line = NULL;
    size_t cap = 0;
    Result r = OK;
    while (!failed(r)) {
        if (d->terminal) printf("> "), fflush(stdout);
        ssize_t len = getline(&line, &cap, stdin);
        if (len < 0) break;
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r')) len--;
        if (len == 0 && d->terminal) break;
        if (len > 0) r = demo_line(d, line, (size_t)len);
    }
    if (line) wipe(line, cap);
    free(line);
    bool nothing = !d->terminal && d->replies == 0;
    for (size_t i = 0; nothing && !failed(r) && i < sizeof sentences / sizeof *sentences; i++)
        r = demo_line(d, sentences[i], strlen(sentences[i]));
    return r;
}

static Result demo_run(Demo *d)
{
    GUARD(models_find(d));
    d->parties = (Parties){.setting = SETTING_3PC, .model = d->base, .adapter = d->adapter, .plan = d->plan, .net = d->net, .threads = 1};
    GUARD(parties_start(&d->parties));
    GUARD(bundle_load(&d->bundle, d->base, NULL, d->plan, false));
    GUARD(template_load(&d->form, (const char *const[]){d->adapter, d->base}, 2, &d->arena));
    GUARD(parties_open(&d->parties, &d->bundle, 0));
    say_start(d);
    if (d->terminal) printf("A German sentence, please; an empty line ends.\n\n");
    return demo_lines(d);
}

Result demo_command(int argc, char **argv)
{
    const char *name = "loopback";
    Net net;
    Option options[] = {OPTION("--net", OPT_TEXT, &name)};
    GUARD(OPTIONS_PARSE(options, argc, argv));
    GUARD(net_parse(&net, name));
    Demo d = {.net = name, .terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
    threads_start(1);
    arena_init(&d.arena, true);
    Result r = parties_end(&d.parties, demo_run(&d));
    bundle_free(&d.bundle);
    arena_free(&d.arena);
    return r;
}
