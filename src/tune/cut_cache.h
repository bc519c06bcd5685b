/* cut_cache.h - what the frozen layers made of samples, kept from epoch to epoch (private to tune/).
 *
 * The residual stream at the cut is a function of a sample's tokens alone and is computed sample by sample, so that keeping it
 * changes no bit of a run. Samples that no longer fit are computed whenever they come. */
#ifndef MARILL_CUT_CACHE_H
#define MARILL_CUT_CACHE_H

#include "base/text_table.h"
#include "tune/data.h"

typedef struct CutCache {
    Arena arena;                               // owns everything
    TextTable tokens;                          // the samples, as the bytes of their tokens
    float **cut;                               // (tokens.count) (len - 1, width)
    size_t room, width, used, limit;           // of `cut`; floats a row; bytes
} CutCache;

void cut_cache_init(CutCache *c, size_t width, size_t limit /* bytes */);
void cut_cache_free(CutCache *c);
/* Where the sample's rows lie, or NULL where there is no room; fresh: nobody has filled them yet, the caller does. */
float *cut_cache_place(CutCache *c, const Sample *s, bool *fresh);

#endif
