/* tune.h - from an open model and data to a model that is cheap under secure computation: recipes, training, tasks, scores.
 *
 * A *recipe* (docs/recipes.md) names a model, sources of text and a method; a *run* works it off into a folder of its own, from
 * which it can go on after any interruption; a *score* says what came out. Everything here is plain floating-point work of one
 * party on its own data: nothing of it is secret-shared, and no other floor below app/ needs it. */
#ifndef MARILL_TUNE_H
#define MARILL_TUNE_H

#include "model/model.h"

// ---- training --------------------------------------------------------------------------------------------------------

/* How samples are looked at (`--show`). */
typedef struct SampleView {
    size_t count;                              // samples to show
    void *ctx;
    void (*begin)(void *ctx, size_t number, size_t tokens, size_t learned);             // of a sample, counted from 0
    void (*text)(void *ctx, const uint8_t *text, size_t len, bool learned);              // a stretch of it, of foreign data
} SampleView;

/* `marill train` and `marill tune`: reads a YAML recipe (docs/recipes.md lists every field), writes the run folder it
 * names: checkpoints, loss.csv, run.json, and at the end the model or adapter folder. `resume` continues from the last checkpoint
 * with exactly the weights an uninterrupted run would have. Under mpirun all its processes train one model (docs/fine-tuning.md). */
typedef struct TrainOptions {
    bool resume, dry_run;
    unsigned threads;                          // 0: the recipe's
    const Progress *progress;
    const SampleView *show;                    // sees samples of the training set, and nothing is trained; may be NULL
    const char *version, *commit;              // of this program, for run.json; may be NULL
} TrainOptions;
CHECKED Result train_run(const char *recipe_path, const TrainOptions *o);
CHECKED Result tune_run(const char *recipe_path, const TrainOptions *o);

/* What a recipe of `marill tune` would make, as far as its cost follows from it; known before anything is trained or written. */
typedef struct TuneOutline {
    ModelConfig config;                        // of the base
    uint32_t first, context, rank;             // layers below first are frozen; rank 0: all weights of the others are trained
    bool target[MAT_COUNT];                    // which matrices have factors
    Variant variant;                           // its sizes and kinds; what a run would measure is stood in for: groups in order, constants of 1
} TuneOutline;
CHECKED Result tune_outline(TuneOutline *out, const char *recipe_path, Arena *a);

// ---- scores ----------------------------------------------------------------------------------------------------------

typedef enum { PART_TRAIN, PART_VALID, PART_TEST, PART_ALL } DataPart;

/* The pairs of one part, as text, each prompt once with every accepted completion: for scoring. */
typedef struct TestPair { const char *prompt; const char **answers; size_t count; } TestPair;
CHECKED Result data_pairs(TestPair **out, size_t *count, const char *path, DataPart part, Arena *a);   // prompt: column 1, answers: column 0

/* A score with its 95 % interval. */
typedef struct Score { double value, low, high; } Score;

/* chrF (sacreBLEU's chrF2: character 6-grams, beta 2, no word n-grams, whitespace ignored) of a corpus, 0..100, with the
 * best of several references a sentence; BLEU as sacreBLEU has it by default (13a tokens, 4-grams, exponential smoothing), 0..100,
 * of all references; exact match in percent, white space aside; a share in percent. Intervals: bootstrap over samples, Wilson for
 * the last two. */
Score score_chrf(const char *const *hypotheses, const TestPair *pairs, size_t count);
Score score_bleu(const char *const *hypotheses, const TestPair *pairs, size_t count);
Score score_exact(const char *const *hypotheses, const TestPair *pairs, size_t count);
Score score_share(size_t right, size_t count);
/* Perplexity a token of replies, each behind a BOS and cut to its context, under the model of a folder; empty ones do not count. */
CHECKED Result score_perplexity(Score *out, const char *judge, const char *const *replies, size_t count);

// ---- tasks -----------------------------------------------------------------------------------------------------------

/* Makes the data of a task (docs/tasks.md) in the folder `dir`: train.jsonl, valid.jsonl, test.jsonl; base.txt, text a line
 * for a base that must never see a prompt before its completion; base-pairs.tsv, train.jsonl's prompts (in one line) and completions. `data`: the folder of
 * the development data. The same seed gives the same files; what is held out is the same for every seed. */
typedef struct TaskCounts { size_t train, valid, test, extra, base; } TaskCounts;   // extra: lines of wikisql.jsonl
CHECKED Result task_make(TaskCounts *out, const char *name, const char *dir, const char *data, uint64_t seed);
extern const char *const task_sources[];       // "translate", "sql", "chat", "humaneval", "mtbench"; NULL ends it

typedef struct TaskSample {
    TestPair pair;
    const char *id;                            // of HumanEval and MT-bench; or NULL
    const struct SqlTable *table;              // sql: what statements run on
    bool unseen;                               // sql: over a schema that training never shows
    const char **constraint;                   // chat: what the reply must meet
    size_t constraints;
} TaskSample;
typedef struct TaskSet {
    const char *task;                          // "translate", "sql", "wikisql", "chat", "humaneval", "mtbench"; NULL: pairs of text
    TaskSample *sample;
    size_t count;
} TaskSet;
/* Reads JSON lines: those that task_make writes, of one task, or prompt and completion, question and answer, or text with a
 * last 'A:'; limit > 0: so many of them, evenly spread. Fails with the line. Any other file: pairs, their test part. */
CHECKED Result task_read(TaskSet *out, const char *path, size_t limit, Arena *a);

enum { TASK_SCORES = 4 };
typedef struct TaskScores { const char *name[TASK_SCORES]; Score score[TASK_SCORES]; size_t count; } TaskScores;
/* The scores of a task: translate bleu, chrf, exact_match; sql execution, execution_seen, execution_unseen, exact_match; wikisql
 * exact_match; chat constraints and, with a judge's folder, perplexity; pairs chrf, exact_match. HumanEval and MT-bench have none here. */
CHECKED Result task_score(TaskScores *out, const TaskSet *set, const char *const *answers, const char *judge);

#endif
