/* tune_cost.h - private to app/: the predicted cost of what a recipe would make. See tune_cost.c. */
#ifndef MARILL_TUNE_COST_H
#define MARILL_TUNE_COST_H

#include "app/app.h"

// Of a token at the end of the context. First index: dealer, 3pc; second: LAN, WAN.
typedef struct ModelCost {
    uint32_t frozen, layers, rank;             // layers: secure ones; rank 0: all their weights are private
    uint64_t exchanges, pool;                  // pool: bytes that dealer takes for a conversation of the whole context
    LinkBytes bytes[2];
    double seconds[2][2];
} ModelCost;

enum { MOST_REFUSALS = 8 };
typedef struct TuneCost {
    uint32_t context;
    ModelCost tuned, standard;
    char refused[MOST_REFUSALS][256];          // parts of the recipe's form that are not counted, and why
    int refusals;
} TuneCost;

/* Reads the recipe and its base's shape, measures this machine for some seconds; before threads_start. Writes nothing. */
CHECKED Result tune_cost(TuneCost *out, const char *recipe);
void tune_cost_print(const TuneCost *t, bool json);           // on standard output

#endif
