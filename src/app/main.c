/* main.c - finds the command, says how it ended. */
#include "app/app.h"

#include <signal.h>
#include <string.h>

static const Command commands[] = {
    {"demo", "translate privately, three processes on this machine", demo_usage, demo_command},
    {"run", "one generation, all parties on this machine", run_usage, run_command},
    {"eval", "loss or task scores, beside those of the plain model", eval_usage, eval_command},
    {"task", "make the data of a task: train, valid, test, and text for a base", task_usage, task_command},
    {"train", "train a whole model from a recipe", train_usage, train_command},
    {"tune", "fine-tune: factors of the upper layers, from a recipe", tune_usage, tune_command},
    {"export", "write a plain Hugging Face folder, adapter merged", export_usage, export_command},
    {"calibrate", "make the fixed-point plan of a folder", calibrate_usage, calibrate_command},
    {"quantise", "8-bit weights in one mapped file, from a folder of floats", quantise_usage, quantise_command},
    {"plan", "predict the cost of a token", plan_usage, plan_command},
    {"bench", "measured cost", bench_usage, bench_command},
    {"keygen", "make a party's key", keygen_usage, keygen_command},
    {"serve", "be the provider", serve_usage, serve_command},
    {"third", "be the third party", third_usage, third_command},
    {"chat", "be the client", chat_usage, chat_command},
    {"pool", "show what is left in a pool", pool_usage, pool_command},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_help(void)
{
    printf("Marill: private inference of fine-tuned language models.\n\nusage: marill COMMAND [options]\n\n");
    for (size_t i = 0; i < COMMANDS; i++) printf("  %-10s %s\n", commands[i].name, commands[i].about);
    printf("\n'marill COMMAND --help' lists the options of a command, 'marill --version' the version.\n");
}

static Result command_run(const Command *c, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") != 0 && strcmp(argv[i], "-h") != 0) continue;
        printf("marill %s: %s\n\nusage: marill %s %s", c->name, c->about, c->name, c->usage);
        return OK;
    }
    Result r = c->run(argc, argv);
    return r.kind == FAIL_USE ? fail_in(r, "%s", c->name) : r;
}

static Result dispatch(int argc, char **argv)
{
    if (argc < 2) return fail(FAIL_USE, "no command is given; 'marill --help' lists them");
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) return print_help(), OK;
    if (!strcmp(name, "--version")) return printf("marill %s\n", MARILL_VERSION), OK;
    for (size_t i = 0; i < COMMANDS; i++)
        if (!strcmp(commands[i].name, name)) return command_run(&commands[i], argc - 2, argv + 2);
    return fail(FAIL_USE, "unknown command '%s'; 'marill --help' lists them", name);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);                  // a peer or a reader that left is a failed write
    launch_begin();
    crypto_init(false);
    num_init(NUM_BEST);
    Result r = dispatch(argc, argv);
    if (!failed(r)) r = output_flush();
    else fflush(stdout);
    launch_end();
    if (!failed(r)) return 0;
    fprintf(stderr, "marill: %s\n", result_text());
    return r.kind == FAIL_USE ? 2 : 1;
}
