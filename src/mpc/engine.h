/* engine.h - what the files of mpc/ share: the engine's inside, streams, dealt words, opened values (private to mpc/).
 *
 * Each move is written once, as what C does, what S does and what T does, one after the other. `e->client` says that this
 * engine has C's column (C and CLEAR), `e->server` that it has S's by protocol (S only), `e->third` that it has the masks'
 * secrets (T and CLEAR). CLEAR computes C's column as C does and obtains S's by subtracting it from the value that the
 * ideal functionality gives. COUNT has nothing. */
#ifndef MARILL_ENGINE_H
#define MARILL_ENGINE_H

#include <string.h>
#include "mpc/mpc.h"

/* A message queued for the next exchange. sum := what both sides sent, added up mod 2^n, at everyone who learns it. */
typedef struct Pending {
    bool from_client, from_server;
    const Layout *at;
    const uint8_t *row_n;                      // width by row, or NULL: n
    unsigned n;
    const uint64_t *mine;                      // C, S: what this party sends
    uint64_t *sum;
    struct Opened *opened;                     // to be completed with the sum, or NULL
} Pending;

struct Engine {
    Role role;
    bool client, server, third, clear, online; // online: C or S, with a peer
    Channel *peer;
    Feed *feed;
    Arena step;
    size_t rows;
    uint64_t next;                             // the first segment that no batch has used
    Prg *client_prg, *server_prg;              // (rows)
    uint8_t shared_seed[KEY_BYTES];
    uint8_t pad_seed[KEY_BYTES];
    bool has_shared_seed, has_pad_seed;
    Prg *shared_prg;                           // C, S, CLEAR: (rows)
    Pending queue[64];
    size_t queued;
    Cost cost;
    uint64_t dealt_before;                     // third_to_server at the last exchange, for the tracer
    Tracer *trace;
    void *trace_ctx;
    Buffer out, in, words;
    Failure failure;                           // sticky, with its text
    char failure_text[512];
};

struct Opened {
    const Layout *at;
    unsigned n, f;
    const uint8_t *row_n;
    uint64_t *hat;                             // x + 2^(n-2) + r mod 2^n: what travelled; C, S, CLEAR after the exchange
    uint64_t *p;                               // hat - 2^(n-2): x = p - r
    Share rc, rs;                              // mask shares, below 2^n: C has rc, S has rs, T and CLEAR have both
    uint64_t *value;                           // CLEAR: x, sign-extended
    Factor *factor;                            // as made last
};

/* One summand g * mu of a factor: g public now, mu known to T beforehand. */
typedef struct Term {
    const uint64_t *g;                         // NULL: the constant k
    uint64_t k;
    const uint64_t *mu;                        // T, CLEAR
    bool one;                                  // mu is the constant 1
    unsigned v;                                // 2^v divides g
    bool shared;                               // shares of mu are there, mod 2^(ring - v)
    bool widen;                                // mu is a mask: its shares mod 2^m are free, T deals the carry
    unsigned ring;
    Share c, s;
} Term;

enum { FACTOR_TERMS = 12 };
struct Factor {
    const Layout *at;
    unsigned f, ring, count;
    Term term[FACTOR_TERMS];
    const Opened *mask;                        // of the term that is to be widened
    const uint64_t *value;                     // CLEAR: the value, mod 2^ring
};

// ---- engine.c --------------------------------------------------------------------------------------------------------

uint64_t *words_new(Engine *e, size_t len);                   // step arena; NULL at COUNT
uint64_t *words_if(Engine *e, bool wanted, size_t len);
Wire wire_new(Engine *e, const Layout *at, unsigned n, unsigned f);          // shares allocated where held
void engine_fail(Engine *e, Result r);                        // keeps the first failure
void engine_queue(Engine *e, Pending p);
unsigned row_width(unsigned n, const uint8_t *row_n, size_t row);
uint64_t wire_value(const Engine *e, const Wire *a, size_t i);               // CLEAR: c + s mod 2^64
void wire_settle(const Engine *e, Wire *a, const uint64_t *value);           // CLEAR: s := value - c

// ---- source.c --------------------------------------------------------------------------------------------------------

/* A uniform mask: C's share from its stream, S's from its own. No bytes. */
void source_mask(Engine *e, Share *rc, Share *rs, const Layout *at, unsigned n, const uint8_t *row_n);
void source_mask_client(Engine *e, Share *rc, const Layout *at, unsigned n);
void source_mask_server(Engine *e, Share *rs, const Layout *at, unsigned n);
/* Shares of T's value (T; NULL elsewhere) mod 2^n: C's from its stream, n bits a word to S. */
void source_deal(Engine *e, Share *c, Share *s, const uint64_t *value, const Layout *at, unsigned n);
/* XOR shares of one-hot bit vectors at point[i] < cells, cells a multiple of 8: bits (len * cells / 8 bytes). T and CLEAR
 * learn which party holds the one: sign[i] = 1 (C) or -1. */
void source_onehot(Engine *e, uint8_t **c, uint8_t **s, uint64_t *sign, const uint64_t *point, const Layout *at, size_t cells);
/* Additive shares mod 2^w of one-hot word vectors, for one row: (len, cells). */
void source_onehot_words(Engine *e, size_t row, uint64_t *c, uint64_t *s, const uint64_t *point, size_t len, size_t cells, unsigned w);

// ---- product.c, lookup.c ---------------------------------------------------------------------------------------------

Opened *opened_new(Engine *e, const Layout *at, unsigned n, unsigned f);
void opened_complete(const Engine *e, Opened *o);             // after the exchange
uint64_t opened_mask(const Opened *o, size_t i);              // T, CLEAR: r, below 2^n
Factor *factor_new(Engine *e, const Layout *at, unsigned f, unsigned ring);
Term *factor_term(Factor *x);

#endif
