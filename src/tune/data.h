/* data.h - training sets: from files on disk to samples of tokens with a loss mask (private to tune/).
 *
 * A *source* names a file, how its records are cut, and a template that turns a record into a prompt and a completion.
 * Pairs (tab-separated) are split into train, validation and test by *connected component*: two pairs that share a
 * sentence on either side are in the same component, and a component lies in one part only. The part of a component is a
 * hash of its smallest sentence, so every recipe over the same file agrees on it: what is held out for the adapter is held
 * out for the base as well. */
#ifndef MARILL_DATA_H
#define MARILL_DATA_H

#include "tune/tune.h"

typedef struct DataSource {
    const char *kind;                          // "stories" (documents between <|endoftext|>, a cut last one dropped), "lines", "pairs"
    const char *path;
    const char *prompt, *completion;           // templates: {0}, {1} are the columns, \n a newline; completion alone: learn everything
    double weight;                             // how often an epoch repeats the source (0.5: half of it, 3: three times); equal records of it count once
    double noise;                              // share of the prompt's words dropped or swapped, drawn anew each epoch
    const char *held_out;                      // for "lines"/"stories": a pairs file whose held-out sentences must not occur; may be NULL
} DataSource;

typedef struct Sample { int32_t *tokens; uint8_t *learn; uint32_t len; } Sample;   // BOS first, EOS last; learn[i]: token i is a target

typedef struct DataSet { Sample *sample; size_t count; uint64_t tokens; } DataSet;

/* The samples of one part and epoch in a shuffled order that (seed, epoch) fixes. Samples longer than `context` are cut
 * into pieces (text without a prompt; EOS ends the last piece alone) or left out. Fails on a source that cannot be read. */
CHECKED Result data_load(DataSet *out, const DataSource *sources, size_t count, DataPart part, const Tokenizer *t, uint32_t context, uint64_t seed, uint64_t epoch, Arena *a);

/* Appends the training part of the sources that have no prompt as plain text, a newline after each record: what
 * tokenizer_train learns a vocabulary from. */
CHECKED Result data_text(Buffer *out, const DataSource *sources, size_t count, uint64_t seed);

#endif
