/* quantise.c - a model folder of 8-bit weights, made from one of floats. */
#include "app/app.h"

const char quantise_usage[] =
    "--model DIR --out DIR\n"
    "  --model DIR                  a Hugging Face folder of a Llama\n"
    "  --out DIR                    gets config.json, marill-base.q8, and copies of tokenizer.model and marill.json\n"
    "The weights become 8-bit integers with one scale for each output row, norms folded in, in one file that is mapped and\n"
    "shared by all processes that use it; a weight is off by at most 1/254 of its row's largest. The new folder takes the place of\n"
    "the old one in every command but train, tune and export; 'calibrate' makes its plan, and what 'plain' then runs is the\n"
    "quantised model. An adapter serves both folders.\n";

enum { SMALL_FILE = 1 << 26 };

static Result copy_small(const char *from, const char *to, const char *name, bool needed)
{
    Arena a;
    Buffer bytes = {0};
    arena_init(&a, false);
    const char *path = arena_format(&a, "%s/%s", from, name);
    Result r = OK;
    if (needed || file_exists(path)) {
        r = file_read(&bytes, path, SMALL_FILE);
        if (!failed(r)) r = file_write(arena_format(&a, "%s/%s", to, name), bytes.data, bytes.len, 0644);
    }
    buffer_free(&bytes);
    arena_free(&a);
    return r;
}

Result quantise_command(int argc, char **argv)
{
    const char *model = NULL, *out = NULL;
    Option options[] = {OPTION("--model", OPT_TEXT, &model, .required = true), OPTION("--out", OPT_TEXT, &out, .required = true)};
    GUARD(OPTIONS_PARSE(options, argc, argv));
    threads_start(0);
    Model m;
    Result r = model_load(&m, model);
    if (!failed(r)) r = model_quantise(&m, out, &terminal_progress);
    if (!failed(r)) r = copy_small(model, out, "tokenizer.model", true);
    if (!failed(r)) r = copy_small(model, out, "marill.json", false);
    if (!failed(r)) printf("%s\n", out);
    model_free(&m);
    return r;
}
