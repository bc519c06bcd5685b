/* idle_feed.h - the third's words where only their number matters: what T writes is forgotten, and S reads any. For measuring. */
#ifndef MARILL_IDLE_FEED_H
#define MARILL_IDLE_FEED_H

#include "mpc/mpc.h"

typedef struct IdleFeed { Feed feed; const uint8_t *words; size_t size; } IdleFeed;
/* words (size) are read over and over, each row from a page of its own; a move of a row takes at most `size`. */
void idle_feed(IdleFeed *f, const uint8_t *words, size_t size);

#endif
