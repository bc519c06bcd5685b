/* adapter.h - what tests and fuzzers need of adapters beyond model.h (private to model/). */
#ifndef MARILL_ADAPTER_H
#define MARILL_ADAPTER_H

#include "model/model.h"

/* What adapter_config.json says. */
typedef struct AdapterConfig {
    uint32_t rank;
    float scale, dropout;
    bool wanted[MAT_COUNT];                    // matrices adapted in every chosen layer, where every_layer or chosen[layer]
    bool every_layer, *chosen;                 // chosen: (layers)
    bool (*single)[MAT_COUNT];                 // (layers): targets named by their full path
} AdapterConfig;
CHECKED Result adapter_config_parse(AdapterConfig *out, const char *json, size_t len, const ModelConfig *c, Arena *a);

#endif
