/* variant.h - what a variant says of one layer; variants as JSON and back (private to model/, tune/ and app/). */
#ifndef MARILL_VARIANT_H
#define MARILL_VARIANT_H

#include "model/json.h"
#include "model/layers.h"

/* A variant as one layer has it, with all that was left out filled in. */
typedef struct LayerVariant {
    uint32_t size, groups, share;              // key-value heads a group; groups; query heads a key-value head
    uint32_t head_dim;
    const uint32_t *order;                     // (groups * size) key-value heads; NULL: in their own order
    bool pruned;                               // groups leave heads out
    float scale;                               // of the scores, 1 / sqrt(head_dim) included
    float shift;                               // of 2Quad
    Activation activation;
    Softmax softmax;
    bool side_by_side;
    NormHold hold[2];                          // of the attention's norm, of the FFN's
    const float *row_bound;                    // (merged query heads), or NULL
} LayerVariant;
LayerVariant variant_layer(const Variant *v, const ModelConfig *c, uint32_t layer);        // v may be NULL

/* Query heads that have a softmax of their own. */
static inline uint32_t merged_heads(const LayerVariant *v) { return v->groups * v->share; }
/* Where member t of a merged query head has its query and output, and its key and value: columns. */
typedef struct HeadMember { size_t query, key; } HeadMember;
HeadMember head_member(const LayerVariant *v, uint32_t merged, uint32_t t);

/* For each of `layers` layers its groups, each a list of key-value heads: [[[0, 3], [1, 2]], ..]. All groups have the same size. */
Json *head_groups_json(const HeadGroups *g, uint32_t layers);
CHECKED Result head_groups_read(HeadGroups *out, const Json *lists, uint32_t layers, Arena *a);
/* Groups of a size that divides the heads, and an order (where there is one) that names each head of each layer at most once. */
CHECKED Result head_groups_check(const HeadGroups *g, const ModelConfig *c, uint32_t layers);
/* A member of `rows` lists of `columns` numbers each; *out stays as it is without it. */
Json *rows_json(const float *x, size_t rows, size_t columns);
CHECKED Result rows_read(const float **out, const Json *o, const char *name, size_t rows, size_t columns, Arena *a);
/* The constants that norms are held at, (layers, 2): positive and of a size that makes sense. */
CHECKED Result held_norms_check(const float *norm, uint32_t layers);
CHECKED Result cells_check(uint32_t cells);                   // 0 or a power of two that a table can have
bool head_groups_pruned(const HeadGroups *g, const ModelConfig *c);

/* The member "variant" of marill.json: what is not zero. */
Json *variant_json(const Variant *v, const ModelConfig *c);
CHECKED Result variant_read(Variant *out, const Json *o, const ModelConfig *c, uint32_t first, Arena *a);

#endif
