/* train.c - training from recipes, and writing the result as a plain folder. */
#include "app/tune_cost.h"

#include <unistd.h>

#ifndef MARILL_COMMIT
#define MARILL_COMMIT ""                           // built from no repository
#endif

const char train_usage[] =
    "RECIPE [options]\n"
    "  --dry-run                    read everything, train nothing\n"
    "  --show N                     print N samples of the training set, what is learned marked, and train nothing\n"
    "  --resume                     go on from the last checkpoint\n"
    "  --threads N                  (those of the recipe)\n";
const char tune_usage[] =
    "RECIPE [options]\n"
    "  --dry-run                    read everything, train nothing\n"
    "  --show N                     print N samples of the training set, what is learned marked, and train nothing\n"
    "  --resume                     go on from the last checkpoint\n"
    "  --threads N                  (those of the recipe)\n";
const char export_usage[] =
    "--merged DIR --model DIR [--adapter DIR] [options]\n"
    "  --merged DIR                 the folder to write: config.json, model.safetensors, tokenizer.model\n"
    "  --dtype f32|bf16             of the weights (f32)\n";

enum { TOKENIZER_LIMIT = 1 << 28 };

static void show_begin(void *ctx, size_t number, size_t tokens, size_t learned)
{
    (void)ctx;
    printf("%s---- sample %zu: %zu tokens, %zu learned\n", number ? "\n" : "", number + 1, tokens, learned);
}

/* What is learned is green on a terminal, in brackets elsewhere. */
static void show_text(void *ctx, const uint8_t *text, size_t len, bool learned)
{
    const bool *colour = ctx;
    if (learned) fputs(*colour ? "\x1b[32m" : "⟦", stdout);
    print_text(stdout, text, len);
    if (learned) fputs(*colour ? "\x1b[0m" : "⟧", stdout);
}

static Result recipe_command(int argc, char **argv, bool tune)
{
    const char *recipe = NULL;
    uint64_t threads = 0, show = 0;
    bool json = false, colour = isatty(STDOUT_FILENO);
    SampleView view = {.ctx = &colour, .begin = show_begin, .text = show_text};
    TrainOptions o = {.progress = &terminal_progress, .version = MARILL_VERSION, .commit = MARILL_COMMIT};
    Option options[] = {
        OPTION("RECIPE", OPT_TEXT, &recipe, .required = true),
        OPTION("--dry-run", OPT_FLAG, &o.dry_run),
        OPTION("--show", OPT_UINT, &show, .min = 1, .max = 1000000),
        OPTION("--resume", OPT_FLAG, &o.resume),
        OPTION("--threads", OPT_UINT, &threads, .min = 1, .max = 256),
        OPTION("--json", OPT_FLAG, &json),     // of tune
    };
    TuneCost cost;
    GUARD(options_parse(options, sizeof options / sizeof *options - !tune, argc, argv));
    if (json && !o.dry_run) return fail(FAIL_USE, "--json goes with --dry-run");
    bool costs = tune && o.dry_run && !show;
    if (costs) GUARD(tune_cost(&cost, recipe));
    o.threads = (unsigned)threads;
    threads_start((unsigned)threads);          // the recipe's number of shares may be another
    view.count = (size_t)show;
    if (show) o.show = &view;
    GUARD(tune ? tune_run(recipe, &o) : train_run(recipe, &o));
    if (!show && !costs) return OK;
    if (costs) tune_cost_print(&cost, json);
    else putchar('\n');
    return output_flush();
}

Result train_command(int argc, char **argv) { return recipe_command(argc, argv, false); }
Result tune_command(int argc, char **argv) { return recipe_command(argc, argv, true); }

static Result tokenizer_copy_to(const char *from, const char *to, Arena *a)
{
    Buffer bytes = {0};
    Result r = file_read(&bytes, arena_format(a, "%s/tokenizer.model", from), TOKENIZER_LIMIT);
    if (!failed(r)) r = file_write(arena_format(a, "%s/tokenizer.model", to), bytes.data, bytes.len, 0644);
    buffer_free(&bytes);
    return r;
}

Result export_command(int argc, char **argv)
{
    const char *merged = NULL, *model = NULL, *adapter = NULL;
    unsigned dtype = 0;
    Option options[] = {
        OPTION("--merged", OPT_TEXT, &merged, .required = true),
        OPTION("--model", OPT_TEXT, &model, .required = true),
        OPTION("--adapter", OPT_TEXT, &adapter),
        OPTION("--dtype", OPT_CHOICE, &dtype, .choices = (const char *const[]){"f32", "bf16", NULL}),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    threads_start(0);
    Bundle b;
    Model whole = {0};
    Arena a;
    arena_init(&a, false);
    Result r = bundle_load_plain(&b, model, adapter);
    if (!failed(r) && b.model.quantised) r = fail(FAIL_USE, "%s: holds a quantised base, where the floats that it was made from are needed", model);
    if (!failed(r) && adapter) model_merge(&whole, &b.model, &b.adapter);
    if (!failed(r)) r = folder_make(merged, 0755);
    if (!failed(r)) r = model_save(adapter ? &whole : &b.model, merged, dtype ? "BF16" : "F32");
    if (!failed(r)) r = tokenizer_copy_to(model, merged, &a);
    if (!failed(r)) printf("%s\n", merged);
    model_free(&whole);
    bundle_free(&b);
    arena_free(&a);
    return r;
}
