/* head_groups.h - merged heads as JSON and back, and what makes them sound (private to model/ and app/). */
#ifndef MARILL_HEAD_GROUPS_H
#define MARILL_HEAD_GROUPS_H

#include "model/json.h"
#include "model/model.h"

/* For each of `layers` layers its groups, each a list of key-value heads: [[[0, 3], [1, 2]], ..]. All groups have the same size. */
Json *head_groups_json(const HeadGroups *g, uint32_t layers);
CHECKED Result head_groups_read(HeadGroups *out, const Json *lists, uint32_t layers, Arena *a);
/* Groups of a size that divides the heads, and an order (where there is one) that names each head of each layer once. */
CHECKED Result head_groups_check(const HeadGroups *g, const ModelConfig *c, uint32_t layers);

#endif
