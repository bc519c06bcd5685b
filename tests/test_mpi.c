/* test_mpi.c - training by several ranks: the same steps as one process of as many threads, the same losses as one thread, files of
 * rank 0 alone, and what is left when a rank dies. Runs the program itself under mpirun. */
#include <fcntl.h>
#include <glob.h>

#include "tune/ranks.h"
#include "tune/tune.h"
#include "test.h"

static const char marill[] = BUILD_DIR "/marill";

static const char *in_folder(const char *name)
{
    static char path[8][4200];
    static unsigned next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", test_folder(), name);
    return p;
}

static void need_mpi(void)
{
    if (!ranks_built()) SKIP("built without MPI");
    if (access(marill, X_OK) != 0) SKIP("there is no marill beside this test");
    if (system("mpirun --version > /dev/null 2>&1") != 0) SKIP("there is no mpirun");
    const char *const names[] = {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"};
    for (int i = 0; i < 3; i++) setenv(names[i], "1", 1);
    setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);           // MPI keeps memory to the end
}

static pid_t job_begin(const char *command, const char *log)           // of words without spaces
{
    pid_t child = fork();
    if (child) return child;
    char text[8192], *word[64];
    int count = 0, out = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    snprintf(text, sizeof text, "%s", command);
    for (char *w = strtok(text, " "); w && count < 63; w = strtok(NULL, " ")) word[count++] = w;
    word[count] = NULL;
    dup2(out, 1), dup2(out, 2);
    execvp(word[0], word);
    _exit(127);
}

static int job_end(pid_t job)
{
    int status;
    CHECK_EQUAL(job, waitpid(job, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool says(const char *log, const char *part)
{
    Buffer text = {0};
    CHECK_OK(file_read(&text, log, 1 << 24));
    buffer_u8(&text, 0);
    bool there = strstr((const char *)text.data, part) != NULL;
    buffer_free(&text);
    return there;
}

static int run(const char *command)
{
    int status = job_end(job_begin(command, in_folder("log")));
    if (status && status != 1 && status != 2) fprintf(stderr, "%s: %d\n", command, status);
    return status;
}

/* A recipe of small size with its own run folder `name`; returns the recipe's path. */
static const char *recipe_make(const char *name, const char *steps, const char *more)
{
    Buffer text = {0}, corpus = {0};
    static const char *const word[] = {"cat", "dog", "friend", "bird", "sees", "likes", "hears"};
    for (int i = 0; i < 700; i++) buffer_format(&corpus, "the %s %s a %s number %d\n", word[i % 4], word[4 + i / 4 % 3], word[i / 12 % 4], i);
    CHECK_OK(file_write(in_folder("corpus.txt"), corpus.data, corpus.len, 0644));
    buffer_format(&text, "out: %s\nsteps: %s\ncheckpoint_every: 25\ncontext: 48\nbatch_tokens: 640\nlog_every: 1\neval_every: 20\n"
                  "learning_rate: 3e-3\nwarmup: 4\nsources:\n  - {kind: lines, path: corpus.txt, completion: \"{0}\"}\n%s", name, steps, more);
    char file[64];
    snprintf(file, sizeof file, "%s.yaml", name);
    CHECK_OK(file_write(in_folder(file), text.data, text.len, 0644));
    buffer_free(&text);
    buffer_free(&corpus);
    return strdup(in_folder(file));
}

#define WHOLE "vocab: 300\nkeep: best\nshape: {width: 32, layers: 4, heads: 4, kv_heads: 2, ffn: 48}\n"
#define LORA "base: whole/model\nfrozen: 1\nlora: {rank: 4, dropout: 0.1}\n"

static int train(const char *how, const char *command, const char *recipe, const char *options)
{
    char line[8192];
    snprintf(line, sizeof line, "%s%s %s %s %s", how, marill, command, recipe, options);
    return run(line);
}

static void same_files(const char *a, const char *b)
{
    Buffer text[2] = {{0}, {0}};
    CHECK_OK(file_read(&text[0], in_folder(a), 1 << 24));
    CHECK_OK(file_read(&text[1], in_folder(b), 1 << 24));
    CHECK_EQUAL(text[0].len, text[1].len);
    CHECK(!memcmp(text[0].data, text[1].data, text[0].len));
    for (int i = 0; i < 2; i++) buffer_free(&text[i]);
}

enum { MOST_ROWS = 1024 };

/* The training losses of a loss.csv; returns how many. */
static size_t losses_read(double *loss, const char *name)
{
    FILE *f = fopen(in_folder(name), "r");
    char line[256];
    size_t count = 0;
    if (!f || !fgets(line, sizeof line, f)) return f ? (size_t)fclose(f) : 0;
    for (; count < MOST_ROWS && fgets(line, sizeof line, f); count++) CHECK_EQUAL(1, sscanf(line, "%*u,%*u,%*f,%lf", &loss[count]));
    fclose(f);
    return count;
}

TEST(two_ranks_lose_what_one_does)
{
    need_mpi();
    static double one[MOST_ROWS], two[MOST_ROWS];
    CHECK_EQUAL(0, train("", "train", recipe_make("whole", "50", WHOLE), "--threads 1"));
    CHECK_EQUAL(0, train("mpirun -n 2 ", "train", recipe_make("both", "50", WHOLE), "--threads 1"));
    CHECK_EQUAL(50, losses_read(one, "whole/loss.csv"));
    CHECK_EQUAL(50, losses_read(two, "both/loss.csv"));
    for (int i = 0; i < 50; i++) CHECK_NEAR(one[i], two[i], 1e-4);
    CHECK(one[49] < 0.5 * one[0]);
    CHECK(says(in_folder("both/run.json"), "\"ranks\": 2"));
}

TEST(two_ranks_are_two_threads_bit_for_bit)
{
    need_mpi();
    CHECK_EQUAL(0, train("", "train", recipe_make("whole", "30", WHOLE), "--threads 2"));
    CHECK_EQUAL(0, train("mpirun -n 2 ", "train", recipe_make("both", "30", WHOLE), "--threads 1"));
    same_files("whole/model/model.safetensors", "both/model/model.safetensors");
    CHECK_EQUAL(0, train("", "tune", recipe_make("lora", "40", LORA), "--threads 2"));
    CHECK_EQUAL(0, train("mpirun -n 2 ", "tune", recipe_make("loras", "40", LORA), "--threads 1"));
    same_files("lora/adapter/adapter_model.safetensors", "loras/adapter/adapter_model.safetensors");
}

TEST(ranks_of_several_threads_lose_the_same)
{
    need_mpi();
    static double one[MOST_ROWS], two[MOST_ROWS];
    CHECK_EQUAL(0, train("", "train", recipe_make("whole", "20", WHOLE), "--threads 1"));
    CHECK_EQUAL(0, train("mpirun -n 3 ", "train", recipe_make("six", "20", WHOLE), "--threads 2"));
    CHECK_EQUAL(20, losses_read(one, "whole/loss.csv"));
    CHECK_EQUAL(20, losses_read(two, "six/loss.csv"));
    for (int i = 0; i < 20; i++) CHECK_NEAR(one[i], two[i], 1e-4);
}

TEST(ranks_that_disagree_are_refused)
{
    need_mpi();
    char line[8192];
    const char *recipe = recipe_make("whole", "5", WHOLE);
    snprintf(line, sizeof line, "mpirun -n 1 %s train %s --threads 1 : -n 1 %s train %s --threads 2", marill, recipe, marill, recipe);
    CHECK(run(line) != 0);
    CHECK(says(in_folder("log"), "the ranks differ in their number of threads"));
}

/* The process that is rank `index` of a run of the recipe, by its environment; 0: none. */
static pid_t rank_find(const char *recipe, unsigned index)
{
    glob_t all;
    pid_t found = 0;
    char want[2][64];
    snprintf(want[0], sizeof want[0], "OMPI_COMM_WORLD_RANK=%u", index), snprintf(want[1], sizeof want[1], "PMI_RANK=%u", index);
    CHECK_EQUAL(0, glob("/proc/[0-9]*/environ", 0, NULL, &all));
    for (size_t i = 0; i < all.gl_pathc && !found; i++) {
        static char text[2][65536];
        char path[64];
        pid_t pid = (pid_t)strtol(all.gl_pathv[i] + strlen("/proc/"), NULL, 10);
        bool ours = false, rank = false;
        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof path, "/proc/%d/%s", pid, k ? "environ" : "cmdline");
            FILE *f = fopen(path, "r");
            size_t len = f ? fread(text[k], 1, sizeof text[k] - 1, f) : 0;
            text[k][len] = 0;
            if (f) fclose(f);
            for (char *at = text[k]; at < text[k] + len; at += strlen(at) + 1) {
                ours |= !k && !strcmp(at, recipe) && !strcmp(text[0], marill);
                rank |= k && (!strcmp(at, want[0]) || !strcmp(at, want[1]));
            }
        }
        if (ours && rank) found = pid;
    }
    globfree(&all);
    return found;
}

/* Begins a run of two ranks and waits until it has logged some steps. */
static pid_t pair_begin(const char *recipe, const char *csv)
{
    static double loss[MOST_ROWS];
    char line[8192];
    snprintf(line, sizeof line, "mpirun -n 2 %s train %s --threads 1", marill, recipe);
    pid_t job = job_begin(line, in_folder("log"));
    for (int i = 0; i < 6000 && losses_read(loss, csv) < 35; i++) usleep(10000);
    CHECK(losses_read(loss, csv) >= 35);
    return job;
}

static void pair_resume(const char *recipe, const char *model)
{
    CHECK_EQUAL(0, train("mpirun -n 2 ", "train", recipe, "--threads 1 --resume"));
    CHECK_EQUAL(0, train("", "train", recipe_make("whole", "250", WHOLE), "--threads 2"));
    same_files("whole/model/model.safetensors", model);
}

TEST(a_killed_rank_ends_the_job_and_leaves_a_checkpoint)
{
    need_mpi();
    const char *recipe = recipe_make("killed", "250", WHOLE);
    pid_t job = pair_begin(recipe, "killed/loss.csv"), rank = rank_find(recipe, 1);
    CHECK(rank > 0 && kill(rank, SIGKILL) == 0);
    CHECK(job_end(job) != 0);
    CHECK(says(in_folder("log"), "--resume continues from there: the other ranks do not answer"));
    pair_resume(recipe, "killed/model/model.safetensors");
}

TEST(the_first_rank_killed_leaves_the_last_checkpoint)
{
    need_mpi();
    const char *recipe = recipe_make("killed", "250", WHOLE);
    pid_t job = pair_begin(recipe, "killed/loss.csv"), rank = rank_find(recipe, 0);
    CHECK(rank > 0 && kill(rank, SIGKILL) == 0);
    CHECK(job_end(job) != 0);
    pair_resume(recipe, "killed/model/model.safetensors");
}

TEST(a_job_asked_to_stop_goes_on_bit_for_bit)
{
    need_mpi();
    const char *recipe = recipe_make("stopped", "250", WHOLE);
    pid_t job = pair_begin(recipe, "stopped/loss.csv");
    pid_t rank[2] = {rank_find(recipe, 0), rank_find(recipe, 1)};
    for (int i = 0; i < 2; i++) CHECK(rank[i] > 0 && kill(rank[i], SIGTERM) == 0);
    CHECK(job_end(job) != 0);
    CHECK(says(in_folder("log"), "--resume continues from"));
    CHECK(train("", "train", recipe, "--threads 1 --resume") != 0);
    CHECK(says(in_folder("log"), "ranks 2, this run 1"));
    pair_resume(recipe, "stopped/model/model.safetensors");
}

TEST(a_launcher_that_does_not_fit_is_named)
{
    if (access(marill, X_OK) != 0) SKIP("there is no marill beside this test");
    setenv("PMI_SIZE", "2", 1);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    setenv("OMPI_MCA_plm_rsh_agent", "true", 1);           // MPI may look for one when it starts alone
    CHECK(train("", "train", recipe_make("alone", "5", WHOLE), "--threads 1") != 0);
    CHECK(says(in_folder("log"), "one of 2 processes"));
}

int main(int argc, char **argv) { return test_main(argc, argv); }
