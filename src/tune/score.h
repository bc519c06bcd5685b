/* score.h - what scores share (private to tune/). */
#ifndef MARILL_SCORE_H
#define MARILL_SCORE_H

#include "tune/tune.h"

/* The interval of a score of sums: stat (count, width) has a row for each sample. */
Score score_bootstrap(double (*score)(const double *sum), const double *stat, size_t count, size_t width);
/* The next code point; a byte that is not UTF-8 (a model may stop inside a character) stands for U+FFFD. */
uint32_t code_next(const uint8_t **at);
bool code_is_white(uint32_t code);             // as Python's str.split sees it

#endif
