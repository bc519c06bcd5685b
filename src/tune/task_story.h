/* task_story.h - what can be asked of a story (private to tune/).
 *
 * A constraint is a text: "word needle", "name Lily", "dialogue", "no dialogue", "start Once upon a time", "sentences 4". */
#ifndef MARILL_TASK_STORY_H
#define MARILL_TASK_STORY_H

#include "base/base.h"

CHECKED Result constraint_check(const char *constraint);      // fails on one that is none of these
/* Words and names are whole words in any case; an empty reply meets nothing. */
bool constraint_met(const char *constraint, const char *reply);
size_t story_sentences(const char *text);                     // how many
/* Bytes of the first sentence of a text without white space in front: up to its mark and the quotes that close on it. */
size_t sentence_length(const char *text);

#endif
