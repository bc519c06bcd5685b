/* run_record.h - what a run folder says about its run, beside checkpoint and loss.csv (private to tune/).
 *
 * recipe.yaml is the recipe as it was read; run.json says with what it was worked off and what came out, each file by its
 * SHA-256; loss.svg draws loss.csv. */
#ifndef MARILL_RUN_RECORD_H
#define MARILL_RUN_RECORD_H

#include "tune/train.h"

/* A new run copies its recipe; a resumed one refuses another recipe than the copy. */
CHECKED Result record_begin(const Recipe *r, bool resumed);
/* run.json, of a run that is over. */
CHECKED Result record_end(const TrainJob *job, const TrainState *s, Division d);
/* Draws the train_loss and valid_loss of a loss.csv over its steps. */
CHECKED Result curve_draw(const char *csv_path, const char *svg_path);

#endif
