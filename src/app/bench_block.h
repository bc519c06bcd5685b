/* bench_block.h - private to app/: one secure layer between real processes.
 *
 * The command's process makes the plan and the inputs, forks client, server and third, and from then on only measures: it
 * runs the float forward of the same layer by turns with them. They meet over TLS as in a deployment, with throw-away keys
 * known before the fork; times, costs and output shares come back in shared memory, where a gate keeps all four in step. */
#ifndef MARILL_BENCH_BLOCK_H
#define MARILL_BENCH_BLOCK_H

#include <stdatomic.h>
#include "app/bench.h"
#include "serve/trace.h"

enum { PARTIES = 3, MOST_REPEATS = 100, BLOCK_PATH = 512 };
extern const char *const party_names[PARTIES]; // client, server, third: a Role each

// ---- the gate --------------------------------------------------------------------------------------------------------

/* In shared memory: everyone arrives, then everyone goes on, unless one has failed. */
typedef struct Gate { atomic_uint round, arrived; atomic_bool broken; } Gate;
CHECKED Result gate_pass(Gate *g, unsigned everyone);
void gate_break(Gate *g);

// ---- where the time goes ---------------------------------------------------------------------------------------------

/* Samples of this process's program counter, by the kind of work that the function there does. */
typedef enum {
    KIND_PRG, KIND_PACK, KIND_MASK, KIND_PRODUCT, KIND_LOOKUP, KIND_SHARES, KIND_MEMORY, KIND_TRANSFER, KIND_OTHER, KIND_COUNT
} Kind;
extern const char *const kind_names[KIND_COUNT];
void profile_start(void);
void profile_stop(void);
enum { BUSIEST = 8 };
typedef struct Profile {
    uint32_t kind[KIND_COUNT], all;            // samples
    struct { char name[48]; uint32_t count; } busiest[BUSIEST];
} Profile;
void profile_read(Profile *p);                 // what was sampled since the last call

// ---- a block ---------------------------------------------------------------------------------------------------------

typedef struct BlockRun {                      // of one party and one repetition
    double begin, end, cpu;                    // seconds; cpu with the work ahead
    double online_cpu;                         // from begin to end
} BlockRun;

typedef struct BlockShared {
    Gate gate;
    BlockRun run[PARTIES][MOST_REPEATS];
    Cost cost[PARTIES];                        // of one repetition
    LinkBytes setup;                           // keys and pinned matrices, once
    uint64_t pool_bytes;                       // dealer: of one repetition
    double setup_cpu[PARTIES];
    Profile profile[PARTIES];
    char why[PARTIES][512];                    // of a failure
    unsigned out_n, out_f;
    uint64_t out[];                            // (2, rows * width): shares of C and S
} BlockShared;

typedef struct Block {
    ModelConfig config;
    Plan plan;
    uint64_t seed;
    uint32_t rank;                             // 0: no adapter
    Setting setting;
    Net net;
    unsigned threads, repeats;
    size_t past, rows;                         // positions in the caches; rows of the batch that is timed
    float *x;                                  // (past + rows, width)
    Identity id[PARTIES];
    Listener *at_server, *at_third;
    const char *folder;                        // for pools and traces
    BlockShared *shared;
    size_t shared_len;
} Block;

/* Weights of the layer, and the private factors where there are any: the same whoever makes them. private false: what a client has. */
void block_model(Model *m, Adapter *a, const Block *b, bool private);
/* A block has one phase, and each party notes when it was through: under phases of their own, since both have a share of the output. */
static inline Phase block_phase(Role r) { return r == ROLE_CLIENT ? PHASE_PREFILL : r == ROLE_SERVER ? PHASE_DECODE : PHASE_SETUP; }
void trace_path(char out[BLOCK_PATH], const Block *b, Role r);        // of the last repetition
/* The whole life of a party in its process. */
CHECKED Result block_party(const Block *b, Role role);

#endif
