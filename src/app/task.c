/* task.c - the data of a task, made from templates and from files on this machine. */
#include "app/app.h"

const char task_usage[] =
    "translate|sql|chat|humaneval|mtbench --out DIR [options]\n"
    "  --out DIR                    where train.jsonl, valid.jsonl, test.jsonl and base.txt go\n"
    "  --data DIR                   the development data (../shared/data)\n"
    "  --seed N                     decides what is drawn, never what is held out (1)\n";

Result task_command(int argc, char **argv)
{
    unsigned task = 0;
    const char *out = NULL, *data = "../shared/data";
    uint64_t seed = 1;
    Option options[] = {
        OPTION("TASK", OPT_CHOICE, &task, .required = true, .choices = task_sources),
        OPTION("--out", OPT_TEXT, &out, .required = true),
        OPTION("--data", OPT_TEXT, &data),
        OPTION("--seed", OPT_UINT, &seed, .max = 9e15),
    };
    TaskCounts n;
    GUARD(OPTIONS_PARSE(options, argc, argv));
    GUARD(task_make(&n, task_sources[task], out, data, seed));
    printf("%s: %zu to train, %zu to validate, %zu to test", out, n.train, n.valid, n.test);
    if (n.extra) printf(", %zu of WikiSQL", n.extra);
    if (n.base) printf("; %zu lines for a base", n.base);
    printf("\n");
    return OK;
}
