/* data.h - training sets: from files on disk to samples of tokens with a loss mask (private to tune/).
 *
 * A *source* names a file, how its records are cut, and a template that turns a record into a prompt and a completion; a
 * conversation is several of these in one sample. Completions alone are learned, each with the end of text after it.
 * Pairs (tab-separated) are split into train, validation and test by *connected component*: two pairs that share a
 * sentence on either side are in the same component, and a component lies in one part only. The part of a component is a
 * hash of its smallest sentence, so every recipe over the same file agrees on it: what is held out for the adapter is held
 * out for the base as well. Records of other kinds are split by a hash of what they ask, which no template changes; a source may
 * say instead that its file is one part as a whole. */
#ifndef MARILL_DATA_H
#define MARILL_DATA_H

#include "tune/tune.h"

typedef struct DataSource {
    const char *kind;                          // "stories" (documents between <|endoftext|>, a cut last one dropped), "lines", "pairs",
                                               // "tsv" (as pairs, split by the first column), "jsonl" (data_json.h)
    const char *path;
    const char *prompt, *completion;           // templates: {0}, {1} are the columns, \n a newline; completion alone: learn everything
    double weight;                             // how often an epoch repeats the source (0.5: half of it, 3: three times); equal records of it count once
    double noise;                              // share of the prompt's words dropped or swapped, drawn anew each epoch
    const char *part;                          // "train", "valid", "test": the file is that part as a whole; NULL: it is split
    const char *template;                      // of "jsonl": what is around messages and instructions (data_chat.h); NULL: "plain"
    const char *held_out;                      // for "lines"/"stories": a pairs file whose held-out sentences must not occur; may be NULL
} DataSource;

typedef struct Sample { int32_t *tokens; uint8_t *learn; uint32_t len; } Sample;   // BOS first, EOS last; learn[i]: token i is a target

typedef struct DataSet {
    Sample *sample;
    size_t count;
    uint64_t tokens;
    size_t too_long;                           // samples that were left out because the context is shorter
} DataSet;

/* Whether the fields of a source make sense together; no file is looked at. */
CHECKED Result data_check(const DataSource *s);
/* The samples of one part and epoch in a shuffled order that (seed, epoch) fixes. Samples longer than `context` are cut
 * into pieces (text without a prompt; EOS ends the last piece alone) or left out and counted. Fails on a source that cannot be
 * read, with the line that is wrong. */
CHECKED Result data_load(DataSet *out, const DataSource *sources, size_t count, DataPart part, const Tokenizer *t, uint32_t context, uint64_t seed, uint64_t epoch, Arena *a);

/* Appends the training part of the sources that have no prompt as plain text, a newline after each record: what
 * tokenizer_train learns a vocabulary from. */
CHECKED Result data_text(Buffer *out, const DataSource *sources, size_t count, uint64_t seed);

/* What a user's text is put into before a model so trained reads it, with {} in its place: the prompt of every source that has
 * one. NULL if there is none, or if two sources disagree. Reads the files of jsonl. */
CHECKED Result data_form(const char **out, const DataSource *sources, size_t count, Arena *a);

/* Shows the first `view->count` samples. */
CHECKED Result data_show(const DataSet *set, const Tokenizer *t, const SampleView *view);

#endif
