/* measure.h - what calibration text says of a model's upper layers: which heads look alike and which matter, where norms and
 * row maxima lie (private to tune/ and app/). What is found goes into a Variant. */
#ifndef MARILL_MEASURE_H
#define MARILL_MEASURE_H

#include "model/model.h"

// A model, and the text that it is watched on. Layers below `first` are left alone.
typedef struct Study {
    const Model *model;                        // with floats: a quantised base is refused
    const Adapter *adapter;                    // may be NULL
    uint32_t first;
    const int32_t *tokens;                     // read in windows of STUDY_WINDOW, each behind a BOS token if the model has one
    size_t count;
} Study;
enum { STUDY_WINDOW = 128, STUDY_LEAST = 16 };

/* Groups of `size` key-value heads, balanced. By MAPS, heads whose softmaxes weigh the same positions: 1 less the Jensen-Shannon
 * divergence in bits of two rows, averaged over rows and over the pairs of query heads that merging would join. By WEIGHTS, the
 * cosine of the forms Wq^T Wk (angles aside), averaged over the same pairs. Pairs that are most alike begin a group, which takes
 * what is most like it; then heads are swapped as long as groups become more alike. ADJACENT and RANDOM need no tokens. */
typedef enum { GROUP_MAPS, GROUP_WEIGHTS, GROUP_ADJACENT, GROUP_RANDOM } GroupBy;
CHECKED Result heads_group(HeadGroups *out, const Study *s, uint32_t size, GroupBy by, uint64_t seed, Arena *a);

/* Keeps one of `of` key-value heads of each layer, with the query heads that share it: merging's rival at the same number of
 * softmaxes. By GRADIENT, the largest sum over windows of |dL/dgate|, the gate being a factor of what the head puts out (Michel et
 * al. 2019); by OUTPUT, the largest mean square of what it adds to the residual stream. */
typedef enum { KEEP_GRADIENT, KEEP_OUTPUT } KeepBy;
CHECKED Result heads_keep(HeadGroups *out, const Study *s, uint32_t of, KeepBy by, Arena *a);

/* Variant.norm: the mean of 1/rms over all rows but each window's first; Variant.row_bound: the mean of the largest score of those
 * rows, for the heads and the scale that v has. */
CHECKED Result norms_measure(const float **out, const Study *s, const Variant *v, Arena *a);
CHECKED Result row_bounds_measure(const float **out, const Study *s, const Variant *v, Arena *a);

/* What is behind the groupings, (layers - first, kv_heads, kv_heads) and symmetric, and behind the choices, (layers - first, kv_heads). */
CHECKED Result map_similarity(double *out, const Study *s);
CHECKED Result weight_similarity(double *out, const Study *s);
CHECKED Result output_importance(double *out, const Study *s);
CHECKED Result gradient_importance(double *out, const Study *s);
/* order (count) := a permutation of `count` heads whose runs of `size` are groups that are alike (count, count). */
void heads_cluster(uint32_t *order, const double *alike, uint32_t count, uint32_t size);

#endif
