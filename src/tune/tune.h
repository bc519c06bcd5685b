/* tune.h - from an open model and data to a model that is cheap under secure computation: recipes, training, tasks, scores.
 *
 * A *recipe* (docs/recipes.md) names a model, sources of text and a method; a *run* works it off into a folder of its own, from
 * which it can go on after any interruption; a *score* says what came out. Everything here is plain floating-point work of one
 * party on its own data: nothing of it is secret-shared, and no other floor below app/ needs it. */
#ifndef MARILL_TUNE_H
#define MARILL_TUNE_H

#include "model/model.h"

// ---- training --------------------------------------------------------------------------------------------------------

/* `marill train` and `marill tune`: reads a YAML recipe (docs/recipes.md lists every field), writes the run folder it
 * names: checkpoints, loss.csv, and at the end the model or adapter folder. `resume` continues from the last checkpoint
 * with exactly the weights an uninterrupted run would have. */
typedef struct TrainOptions { bool resume, dry_run; unsigned threads; const Progress *progress; } TrainOptions;
CHECKED Result train_run(const char *recipe_path, const TrainOptions *o);
CHECKED Result tune_run(const char *recipe_path, const TrainOptions *o);

// ---- scores ----------------------------------------------------------------------------------------------------------

typedef enum { PART_TRAIN, PART_VALID, PART_TEST, PART_ALL } DataPart;

/* The pairs of one part, as text, each prompt once with every accepted completion: for scoring. */
typedef struct TestPair { const char *prompt; const char **answers; size_t count; } TestPair;
CHECKED Result data_pairs(TestPair **out, size_t *count, const char *path, DataPart part, Arena *a);   // prompt: column 1, answers: column 0

/* chrF (sacreBLEU's chrF2: character 6-grams, beta 2, no word n-grams, whitespace ignored) of a corpus, 0..100, with the
 * best of several references a sentence; and exact match in percent. */
double score_chrf(const char *const *hypotheses, const TestPair *pairs, size_t count);
double score_exact(const char *const *hypotheses, const TestPair *pairs, size_t count);

// ---- tasks -----------------------------------------------------------------------------------------------------------

/* Makes the data of a task (docs/tasks.md) in the folder `dir`: train.jsonl, valid.jsonl, test.jsonl, and base.txt, text a line
 * for a base that must never see a prompt beside its completion. `data`: the folder of the development data. The same seed gives
 * the same files; what is held out is the same for every seed. */
typedef struct TaskCounts { size_t train, valid, test, extra, base; } TaskCounts;   // extra: lines of wikisql.jsonl
CHECKED Result task_make(TaskCounts *out, const char *name, const char *dir, const char *data, uint64_t seed);
extern const char *const task_sources[];       // "translate", "sql", "chat", "humaneval", "mtbench"; NULL ends it

#endif
