/* engine.h - what the files of mpc/ share: the engine's inside, streams, dealt words, opened values (private to mpc/).
 *
 * Each move is written once, as what C does, what S does and what T does, one after the other. `e->client` says that this
 * engine has C's column (C and CLEAR), `e->server` that it has S's by protocol (S only), `e->third` that it has the masks'
 * secrets (T and CLEAR). CLEAR computes C's column as C does and obtains S's by subtracting it from the value that the
 * ideal functionality gives. COUNT has nothing; but where C works ahead its engine is COUNT with C's streams, and every move
 * must leave them where C's own would. */
#ifndef MARILL_ENGINE_H
#define MARILL_ENGINE_H

#include <string.h>
#include "mpc/mpc.h"

/* Work on tensors goes by blocks of this many words: what a block needs stays in the first caches, and blocks of any row can be
 * made side by side. A block begins at a whole byte of anything packed. */
enum { BLOCK = 1024 };

/* A message queued for the next exchange; what this party sends is packed already. `to` receives what the other side sent. */
typedef struct Pending {
    bool from_client, from_server;
    const Layout *at;
    const uint8_t *row_n;                      // width by row, or NULL: n
    unsigned n;
    uint64_t *to;                              // NULL: not for this party
    bool add;                                  // to += theirs: what this party sent is there
    bool opened;                               // they make a masked value, and `to` becomes its p
    const size_t *byte;                        // where each row begins (rows + 1); NULL where nobody is online
} Pending;

/* C's shares of pinned products, (rows, outputs) each, made ahead in the order in which the network asks for them. */
typedef struct AheadShare { struct AheadShare *next; size_t outputs; uint64_t *word; } AheadShare;
typedef struct Ahead {
    Arena arena;
    uint64_t first, past;                      // of the first row: its segment, and its position in the conversation
    size_t rows;
    AheadShare *head, *last;
    bool working;                              // between engine_ahead and engine_ahead_end: the role is COUNT, with C's streams
    Cost spent;                                // before that
    AheadShare *next;                          // in a batch: what the next product takes, for its first `covered` rows
    size_t covered, from;                      // from: the batch's first row among ours
} Ahead;

struct Engine {
    Role role;
    bool client, server, third, clear, online; // online: C or S, with a peer
    Channel *peer;
    Feed *feed;
    Arena step, kept;                          // kept: of a turn, what stays
    ArenaMark begun;                           // of step: the streams lie before it
    size_t rows;
    uint64_t next;                             // the first segment that no batch has used
    Prg *client_prg, *server_prg;              // (rows)
    uint8_t shared_seed[KEY_BYTES];
    uint8_t pad_seed[KEY_BYTES];
    bool has_shared_seed, has_pad_seed;
    Prg *shared_prg;                           // C, S, CLEAR: (rows)
    Pending queue[64];
    size_t queued, left;                       // left: bytes of `out` that are on their way already
    Ahead ahead;
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
    uint64_t *p;                               // C, S, CLEAR after the exchange: x = p - r. See opened_hat
    Share rc, rs;                              // mask shares, below 2^n: C has rc, S has rs, T and CLEAR have both
    uint64_t *value;                           // CLEAR: x, sign-extended
    Factor *factor;                            // as made last
};

/* One summand g * mu of a factor: g public now, mu known to T beforehand. Both come from opened values where they can, and are
 * then made block by block. */
typedef struct Term {
    const uint64_t *g;                         // g in words; or
    const Opened *shown, *wrap;                // 2^up p of `shown`; 2^(m + up) where `wrap`, of ring m, may have wrapped; or
    uint64_t k;                                // the constant k
    unsigned up;
    const uint64_t *mu;                        // T, CLEAR: a factor of mu, in words; NULL: 1
    const Opened *mask;                        // the mask of `mask` (or the top bit of that of `wrap`) is another
    bool one;                                  // mu is the constant 1
    unsigned v;                                // 2^v divides g
    bool shared;                               // shares of mu are there, mod 2^(ring - v)
    bool spent;                                // they were, and nobody kept them (see factor_mul_once)
    bool widen;                                // mu is a mask: its shares mod 2^m are free, T deals the carry
    unsigned ring;
    Share c, s;
} Term;

enum { FACTOR_TERMS = 12 };
struct Factor {
    const Layout *at;
    unsigned f, ring, count;
    Term term[FACTOR_TERMS];
    const uint64_t *value;                     // CLEAR: the value, mod 2^ring
};

// ---- engine.c --------------------------------------------------------------------------------------------------------

uint64_t *words_new(Engine *e, size_t len);                   // step arena; NULL at COUNT
uint64_t *words_if(Engine *e, bool wanted, size_t len);
uint64_t *words_raw(Engine *e, bool wanted, size_t len);      // not zeroed: for those who write every word
Wire wire_raw(Engine *e, const Layout *at, unsigned n, unsigned f);          // as wire_new, of words_raw
Wire wire_new(Engine *e, const Layout *at, unsigned n, unsigned f);          // shares allocated where held
static inline void work_note(Engine *e, WorkKind kind, size_t macs, unsigned bits)
{
    if (!e->ahead.working) e->cost.work[kind].macs += macs, e->cost.work[kind].bits += macs * bits;
}
void engine_fail(Engine *e, Result r);                        // keeps the first failure
AheadShare *ahead_keep(Engine *e, size_t outputs);            // working ahead: room for the next product's shares
AheadShare *ahead_take(Engine *e, size_t outputs);            // in a batch: the next product's, or NULL
/* Queues a message. Where this party sends it: where it is to be packed, row r from byte p->byte[r] on; else NULL. The
 * address is good until the next message is queued. */
uint8_t *engine_queue(Engine *e, Pending *p);
/* Many bytes that are packed leave at once, instead of at the exchange. Called when a move has packed all that it queued. */
void engine_packed(Engine *e);
/* Queues a message of words a + b (b NULL: a), to be packed at once. */
void engine_send(Engine *e, Pending p, const uint64_t *a, const uint64_t *b);
unsigned row_width(unsigned n, const uint8_t *row_n, size_t row);
static inline size_t row_words(const Layout *at, size_t row) { return at->begin[row + 1] - at->begin[row]; }
uint64_t wire_value(const Engine *e, const Wire *a, size_t i);               // CLEAR: c + s mod 2^64
void wire_settle(const Engine *e, Wire *a, const uint64_t *value);           // CLEAR: s := value - c

/* Calls body for every block of the rows [begin, end), in parallel: words [from, from + len) of `row`, which lie at `i` of the
 * tensor. tmp: BLOCK words each for the body's use, wiped later; the last one is deal_block's. */
enum { BLOCK_TEMPS = 6 };
typedef struct Block { size_t row, from, len, i; uint64_t (*tmp)[BLOCK]; } Block;
typedef void BlockBody(void *ctx, const Block *b);
void blocks_run(const Layout *at, size_t begin, size_t end, BlockBody *body, void *ctx);
static inline void rows_run(const Layout *at, BlockBody *body, void *ctx) { blocks_run(at, 0, at->rows, body, ctx); }
/* out := a op b, op being ring_add or ring_sub; out may be a. */
typedef void RingOp(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len);
void rows_apply(const Layout *at, RingOp *op, uint64_t *out, const uint64_t *a, const uint64_t *b);
/* The same of (len) words that lie in no rows, out apart from a; a NULL: zeros. op NULL: a copy of a. In parallel. */
void words_apply(RingOp *op, uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len);

// ---- source.c --------------------------------------------------------------------------------------------------------

/* A uniform mask: C's share from its stream, S's from its own. No bytes. (wire_open makes its masks block by block.) */
void source_mask_client(Engine *e, Share *rc, const Layout *at, unsigned n);
void source_mask_server(Engine *e, Share *rs, const Layout *at, unsigned n);
/* Shares of T's value (T; NULL elsewhere) mod 2^n: C's from its stream, n bits a word to S. */
void source_deal(Engine *e, Share *c, Share *s, const uint64_t *value, const Layout *at, unsigned n);
/* What T deals in one move is a list of fields, and the words of a row are those of its fields, one after the other: in the
 * row's stream at C, packed in the feed of S. deal_run makes the words of a few rows at a time available to `stage`, which
 * takes them block by block. Nothing is computed by roles that have no numbers; all roles count. */
typedef struct Field { const Layout *at; unsigned n; } Field;
typedef struct Deal {
    Engine *e;
    const Field *field;
    size_t count;
    uint8_t **packed;                          // by row of the batch: from the feed (S), for it (T)
} Deal;
typedef void DealStage(void *ctx, const Deal *d, size_t begin, size_t end);  // rows [begin, end)
void deal_run(Engine *e, const Field *field, size_t count, DealStage *stage, void *ctx);
/* A block of field k: c := C's words (C, T, CLEAR), s := S's (S). value: T's secrets (T), which are dealt. */
void deal_block(const Deal *d, size_t k, const Block *b, uint64_t *c, uint64_t *s, const uint64_t *value);
/* A block of a mask of n bits, the next words of a row's stream: source_skip moves all of them on. */
static inline void mask_block(const Prg *prg, const Block *b, uint64_t *r, unsigned n)
{
    prg_words_at(&prg[b->row], b->from * prg_word_bytes(n), r + b->i, b->len, n);
}
void source_peek(const Prg *prg, uint64_t *r, const Layout *at, unsigned n); // all of its blocks; the stream does not move
void source_skip(Prg *prg, const Layout *at, unsigned n, const uint8_t *row_n);
/* T's words of a row. S: the next ones, in the feed's own memory where it offers that, else in `room`; zeros after a failure: nothing
 * computed from them is ever sent. T: writes them. */
const uint8_t *feed_words(Engine *e, size_t row, uint8_t *room, size_t len);
void feed_write(Engine *e, size_t row, const void *data, size_t len);
uint8_t *feed_room(Engine *e, size_t len);                    // for packed words, until the next call

// ---- product.c, lookup.c ---------------------------------------------------------------------------------------------

Opened *wire_open_last(Engine *e, Wire a);                    // in the wire's own words, which are gone
Opened *opened_new(Engine *e, const Layout *at, unsigned n, unsigned f);
static inline uint64_t opened_centre(unsigned n) { return n > 1 ? UINT64_C(1) << (n - 2) : 0; }
/* x + 2^(n-2) + r mod 2^n: what travelled. */
static inline uint64_t opened_hat(const Opened *o, size_t i) { return o->p[i] + opened_centre(o->n); }
static inline uint64_t opened_mask(const Opened *o, size_t i) { return ring_low(o->rc.word[i] + o->rs.word[i], o->n); }   // T, CLEAR: r
/* All words of g (C, S, CLEAR) and of mu (T, CLEAR), where they are needed more than once. */
uint64_t *term_public_words(Engine *e, const Term *t, const Layout *at);
uint64_t *term_secret_words(Engine *e, const Term *t, const Layout *at);
Factor *factor_new(Engine *e, const Layout *at, unsigned f, unsigned ring);
Term *factor_term(Factor *x);

#endif
