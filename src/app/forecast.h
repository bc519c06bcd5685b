/* forecast.h - private to app/: predicting seconds from counted work and from what this machine does. See forecast.c. */
#ifndef MARILL_FORECAST_H
#define MARILL_FORECAST_H

#include "app/app.h"

typedef enum { PRODUCT_BYTES, PRODUCT_SMALL, PRODUCT_KINDS } ProductKind;     // weights of 8, 16 bits
/* Products with public weights; with the provider's own; with its pads, as the client expands them and as the third unpacks them; with
 * the cache. */
typedef enum { RATE_PUBLIC, RATE_PINNED, RATE_CLIENT_PAD, RATE_THIRD_PAD, RATE_ATTEND, RATE_KINDS } RateKind;

/* Index [many]: one row, or many. Seconds of one thread. */
typedef struct Rates {
    double product[RATE_KINDS][2];             // a multiply-add; one row finds weights and cache in memory, beyond the processor's caches
    double rest_byte[3][2], rest_row[3][2];    // by role: everything else, a byte of what all links carry, and a row of a layer
    double words[2];                           // a byte of the third's words: read from a pool; [1] sent, or received, as it is dealt
    double plain[2];                           // a float multiply-add of the client's own layers
    double loopback_bandwidth, loopback_latency;               // bytes a second; seconds from process to process, over TLS
} Rates;
/* About a second; before threads_start: the rates are those of one thread. */
CHECKED Result rates_measure(Rates *r, const Plan *p, const ModelConfig *c);
Json *rates_json(const Rates *r);

typedef struct Batch {
    Cost cost;                                 // plan_cost, or plan_cost_layers
    size_t rows;
    uint32_t layers;                           // secure ones
    double frozen_macs, head_macs;             // of the client's layers in float; of the head, at client and server
    Setting setting;
    bool ahead;                                // the client's products with pads are done before
    double group;                              // layer_group
    unsigned threads;                          // of each party
} Batch;
double layer_macs(const ModelConfig *c);       // multiply-adds of one row in one layer's matrices
double layer_group(const ModelConfig *c);      // the share of them in the largest group of matrices that run together
double forecast_cpu(const Rates *r, const Batch *b, Role role);              // seconds of one thread
double forecast_seconds(const Rates *r, const Batch *b, const Net *net);
/* In dealer the third's words lie in the pool: they are not on a link. */
LinkBytes batch_bytes(const Batch *b);

// A prompt of half the plan's context, and a token at its end, after `past` positions (plan.c). net is left alone.
typedef struct Forecast { Batch prefill, decode; size_t past; Rates rates; Net net; } Forecast;
CHECKED Result forecast_make(Forecast *f, const Plan *p, const ModelConfig *c, Setting setting);

/* TLS between two processes' worth of threads on this machine (bench_limits.c): some 0.1 s. */
CHECKED Result loopback_measure(double *bandwidth, double *latency);

#endif
