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

#endif
