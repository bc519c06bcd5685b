/* mpc.h - arithmetic on shares: wires, the moves that C and S make with them, and the source of correlated randomness.
 *
 * Three roles. The *client* C and the *server* S hold additive shares of every value; the *third* T holds none, and deals
 * correlated randomness. One program - the secure network of model/ - is written once against the moves below and executed
 * by five interpreters, one an Engine role: C and S compute on their own shares and talk; T runs the same program on masks
 * alone and sends words to S; CLEAR computes the ideal functionality of every move, share-level, in one process (the
 * executable specification: equal to C and S bit for bit, given the same seeds); COUNT computes nothing and counts bytes.
 *
 * A *wire* is a tensor of shares mod 2^n with f fraction bits. Its rows are token positions. Every row draws its masks from
 * streams of its own (keyed by the segment of the tape that the position consumes), so a batch of positions and the same
 * positions one by one consume the same randomness.
 *
 * A *move* is local, or it queues a message for the next *exchange*: one simultaneous swap between C and S (half a round
 * trip). What a move returns while its message is queued (Opened, Pinning, Looked) may be used after the exchange.
 *
 *     Opened *x = wire_open(e, residual);          // queued: n bits a word, each way
 *     Pinning *b = pinned_send(e, z, B);           // queued: C to S only
 *     GUARD(engine_exchange(e, "x^, z to S"));     // both travel now
 *     Wire y = pinned_take(e, b);
 *
 * Each move's ideal functionality, messages and simulation argument are in docs/protocols.md under the name it has here.
 * T's words ("dealt") are read by S and derived by C from its stream, in program order: the order of calls is part of the
 * protocol. Failures are sticky: after a failed read every move computes on, nothing is sent any more, and the next
 * engine_exchange or engine_end returns the failure. A width that does not fit is a bug and aborts: the plan's checker has
 * excluded it. All memory comes from the engine's step arena and lives until engine_begin of the next batch, or engine_turn.
 */
#ifndef MARILL_MPC_H
#define MARILL_MPC_H

#include "crypto/crypto.h"
#include "num/num.h"

typedef enum { ROLE_CLIENT, ROLE_SERVER, ROLE_THIRD, ROLE_CLEAR, ROLE_COUNT } Role;

// ---- engine ----------------------------------------------------------------------------------------------------------

typedef struct Engine Engine;

/* The third's words: written by T, read by S; `row` is the row of the batch that they belong to. Within a row they are in
 * program order; a move writes, and reads, all of its words of one row before those of the next. */
typedef struct Feed Feed;
struct Feed {
    Result (*read)(Feed *f, size_t row, void *out, size_t len);
    Result (*write)(Feed *f, size_t row, const void *data, size_t len);
    /* read without a copy: the words where they lie, untouched until the next call for that row. NULL: they lie nowhere. */
    Result (*take)(Feed *f, size_t row, const uint8_t **out, size_t len);
};

typedef struct LinkBytes { uint64_t client_to_server, server_to_client, third_to_client, third_to_server, client_to_third, server_to_third; } LinkBytes;
/* Multiply-adds of a party, by kind: with public weights, with pinned ones, queries and weights with the cache (one of the
 * two products that C and S each make of every pair; T makes one). bits / macs: the average width of their rings. */
typedef enum { WORK_PUBLIC, WORK_PINNED, WORK_ATTEND, WORK_KINDS } WorkKind;
typedef struct Work { uint64_t macs, bits; } Work;
typedef struct Cost { uint64_t exchanges; LinkBytes bytes; Work work[WORK_KINDS]; } Cost;

/* peer: the channel between C and S (NULL for the other roles). feed: T's words (S and T). */
Engine *engine_new(Role role, Channel *peer, Feed *feed);
void engine_free(Engine *e);                                  // wipes
/* Another session of the same engine, as if it were new: all is wiped but its role, its pad seed, and what was pinned under that. */
void engine_session(Engine *e, Channel *peer, Feed *feed);
Role engine_role(const Engine *e);
Arena *engine_arena(Engine *e);                               // of the step
/* Two seeds that C and S share and T does not know. Of a session: the shares of inputs. Of the provider's epoch: the pads of
 * its pinned weights; one epoch has one version of the weights (another A under the same D would show the difference). */
void engine_shared_seed(Engine *e, const uint8_t seed[KEY_BYTES]);
void engine_pad_seed(Engine *e, const uint8_t seed[KEY_BYTES]);
/* Starts a batch of `rows` positions. client, server: their tape keys of the rows' segments; a role passes NULL for keys
 * it does not have (T and CLEAR have both, COUNT none). first: index of the first segment. */
void engine_begin(Engine *e, size_t rows, uint64_t first, const uint8_t (*client)[KEY_BYTES], const uint8_t (*server)[KEY_BYTES]);
/* Work ahead, at C. Its shares of pinned products depend on no message: between engine_ahead and engine_ahead_end the network
 * is run as for a batch of segments that are to come, first.. , and computes nothing but those shares, from C's streams alone;
 * nothing is sent or counted. The batches of these segments, in any division, then take them. What an earlier run left is
 * wiped. Memory: 8 bytes an output of a pinned matrix and row, until all rows are used. */
void engine_ahead(Engine *e, size_t rows, uint64_t first, const uint8_t (*client)[KEY_BYTES]);
void engine_ahead_end(Engine *e);
size_t engine_ahead_left(const Engine *e);                    // rows that no batch has used
/* Before the first move of a batch, or of work ahead: the position of its first row in the conversation. What was made ahead for
 * its segments at other positions (a cache has been truncated since) is forgotten. */
void engine_position(Engine *e, uint64_t past);
/* Sends what is queued and receives what the other side queued. Costs one exchange (none at T). */
CHECKED Result engine_exchange(Engine *e, const char *name);
/* Sends what is queued ahead of its exchange, where the local work that comes before it, of so many multiply-adds, is worth a frame
 * more: the work overlaps with the transfer. Bytes, their order and the exchanges stay what they are; a failure shows in the exchange.
 * Large messages leave like this by themselves. */
void engine_post(Engine *e, size_t macs);
/* Makes a failure of the network (a value outside of its range) final: what is queued and has not left is never sent. Returns r. */
CHECKED Result engine_refuse(Engine *e, Result r);
CHECKED Result engine_end(Engine *e);                         // end of a batch: all queues must be empty
Cost engine_cost(const Engine *e);                            // since engine_new
/* Where set, called at every exchange with its name and its bytes C to S, S to C, and T to S since the last one. */
typedef void Tracer(void *ctx, const char *name, uint64_t c_to_s, uint64_t s_to_c, uint64_t t_to_s);
void engine_trace(Engine *e, Tracer *t, void *ctx);

// ---- wires -----------------------------------------------------------------------------------------------------------

/* Rows of a tensor: row r holds words [begin[r], begin[r+1]). */
typedef struct Layout { size_t rows; const size_t *begin; } Layout;
const Layout *layout_uniform(Engine *e, size_t columns);      // engine's rows
const Layout *layout_ragged(Engine *e, const size_t *columns);// columns (rows)
static inline size_t layout_len(const Layout *l) { return l->begin[l->rows]; }

typedef struct Share { uint64_t *word; } Share;               // one party's; NULL where this role does not hold it

typedef struct Wire { const Layout *at; unsigned n, f; Share c, s; } Wire;

/* Forgets everything in the step arena but `count` wires, which move: the memory of what was computed before them is used
 * again, and wiped with the rest of the batch. Between exchanges, with nothing queued; every Opened, Factor and Layout made before is gone. */
void engine_turn(Engine *e, Wire *const *keep, size_t count);

/* Local and free: */
Wire wire_add(Engine *e, Wire a, Wire b);                     // same f; ring: the smaller
Wire wire_add_server(Engine *e, Wire a, const uint64_t *row); // S adds its own words (columns) to every row; row at S and CLEAR
/* C adds public words to its share: word[g] to the g-th of `runs` equal runs of every row. */
Wire wire_add_public(Engine *e, Wire a, size_t runs, const uint64_t *word);
Wire wire_narrow(Wire a, unsigned n);                         // forget high bits
Wire wire_shift(Engine *e, Wire a, unsigned k);               // drop k bits: ring n-k, scale f-k; C rounds up, S down
Wire wire_to(Engine *e, Wire a, unsigned n, unsigned f);      // shift to scale f, narrow to ring n: how a product ends
Wire wire_label(Wire a, unsigned f);                          // same bits, other scale: a free factor 2^(old f - f)
Wire wire_columns(Engine *e, Wire a, size_t from, size_t count);          // of a uniform wire
Wire wire_columns_to(Engine *e, Wire a, size_t from, size_t count, unsigned n, unsigned f);   // wire_to of them, in one pass
/* Any Z-linear map of one row to another: body(ctx, row, out, in) on each share; out has layout `at`. */
typedef void LinearBody(const void *ctx, size_t row, uint64_t *out, const uint64_t *in);
Wire wire_map(Engine *e, Wire a, const Layout *at, unsigned add_f, LinearBody *body, const void *ctx);
/* Public integer weights (outputs, inputs) with f fraction bits: 16-bit words or, where scale is not NULL, bytes, times the scale
 * (outputs) of the row, whose fraction bits are then all there are. */
typedef struct PublicMatrix { size_t outputs, inputs; unsigned f; const int16_t *w16; const int8_t *w8; const int32_t *scale; } PublicMatrix;
/* out (rows, outputs) = x (rows, inputs) W^T of one share, mod 2^bits. */
void public_product(uint64_t *out, const uint64_t *x, const PublicMatrix *m, size_t rows, unsigned bits);
Wire wire_linear(Engine *e, Wire a, const PublicMatrix *m);   // scale f + m->f

/* C's own value (words of the ring), re-shared from the seed of C and S. x may be NULL at the other roles. No bytes. */
Wire wire_input_client(Engine *e, const Layout *at, unsigned n, unsigned f, const uint64_t *x);

// ---- open, lift, product (product.c) -------------------------------------------------------------------------------

/* A value under a mask that both know: x = p - r. */
typedef struct Opened Opened;
/* n bits a word each way. row_n: widths by row instead of a.n (may be NULL). */
Opened *wire_open(Engine *e, Wire a);
Opened *wire_open_rows(Engine *e, Wire a, const uint8_t *row_n);
Opened *wire_open_to(Engine *e, Wire a, unsigned n, unsigned f);             // wire_open of wire_to, in one pass
/* A value that S alone knows becomes an opened one: n bits a word, S to C only. x at S (and CLEAR). */
Opened *server_open(Engine *e, const Layout *at, unsigned n, unsigned f, const uint64_t *x);

/* A *factor*: sum of public times secret-of-T. Products of factors are local, for dealt words: one word of at most n bits
 * to S for each pair of secrets and element. */
typedef struct Factor Factor;
const Factor *opened_factor(Engine *e, Opened *o, unsigned n);// lifts if n > o's ring: |x| < 2^(n-2) must hold
/* a * b in ring n; element i of a meets element i / spread of b. b NULL: the number 1 (a lift, a sign fix). */
Wire factor_mul(Engine *e, const Factor *a, const Factor *b, size_t spread, unsigned n);
/* The same element by element, of factors that meet no other product after it: what is dealt for their secrets is not kept. */
Wire factor_mul_once(Engine *e, const Factor *a, const Factor *b, unsigned n);
/* x^2 + k1 x + k0, k1 in steps of 2^-f and k0 of 2^-2f: scale 2 f. */
const Factor *opened_quadratic(Engine *e, Opened *o, unsigned n, int64_t k1, int64_t k0);
/* Row sums of squares of an opened wire, in ring n; `ring` >= n: that of a factor made of the same wire. A word a row
 * dealt, and n - m bits an element if n exceeds its ring m. */
Wire opened_sumsq(Engine *e, Opened *o, unsigned n, unsigned ring);

/* Opened rows that stay: keys or values of earlier positions, each under its own mask for life. */
typedef struct Cache Cache;
/* Empty, and without memory for rows: cache_reserve gives it that, up to `positions`. */
Cache *cache_new(Arena *session, size_t positions, size_t width, unsigned n, unsigned f);
/* Room for at least so many positions in each of the caches, in steps of 64; fails, and changes nothing, where there is no memory
 * for all of it. What a cache holds stays where it lies. A position and column take 16 bytes at C and S, 8 at T. */
CHECKED Result cache_reserve(const Engine *e, Arena *session, Cache *const *caches, size_t count, size_t positions);
size_t cache_missing(const Engine *e, Cache *const *caches, size_t count, size_t positions);   // bytes that this would take
void cache_append(Engine *e, Cache *k, const Opened *o);      // all rows of o, which there is room for (COUNT: always)
void cache_truncate(Cache *k, size_t positions);              // forgets all rows but the first ones, and wipes them
/* The scores of every row against the cache, whose last rows are the batch's own: causal. q (rows, heads * dim); result
 * ragged, row i: (heads, len - rows + i + 1). One dealt word a score, in the ring of q. Queries of `heads` heads share
 * keys of cache width / dim heads. */
Wire attend_scores(Engine *e, const Opened *q, const Cache *k, size_t heads, size_t dim, const Layout *at);
/* The mixture of values under weights w (ragged as above): (rows, heads * dim). One dealt word an output, ring n. */
Wire attend_values(Engine *e, const Opened *w, const Cache *v, size_t heads, size_t dim, unsigned n);

// ---- pinned private weights (pinned.c) -----------------------------------------------------------------------------

/* S's private matrix (outputs, inputs) of ring n with f fraction bits. S and CLEAR: A; C and CLEAR: D, expanded from the
 * pad seed, bound to `name` (which names the matrix, its version and its ring); T: M = A - D, sent by S once. NULL: T has no memory for M. */
typedef struct Pinned Pinned;
Pinned *pinned_new(Engine *e, Arena *session, const char *name, size_t outputs, size_t inputs, unsigned n, unsigned f, const int32_t *a /* S, CLEAR */);
size_t pinned_setup_bytes(const Pinned *p);
void pinned_export(const Pinned *p, uint8_t *out);            // S: M, packed
void pinned_import(Pinned *p, const uint8_t *in);             // T
/* A x of a wire: C to S only, n bits a word; n bits an output dealt. C's share of the result is there at once. */
typedef struct Pinning Pinning;
Pinning *pinned_send(Engine *e, Wire x, const Pinned *p);
/* B z in the same exchange, z the columns of A x from `from` on, .to(n, f). */
Pinning *pinned_send_after(Engine *e, Pinning *x, size_t from, unsigned n, unsigned f, const Pinned *p);
Wire pinned_take(Engine *e, Pinning *p);                      // after the exchange; again, the same
/* A x of a wire that is open in the pinned ring: no online byte; n bits an output dealt. */
Wire pinned_open(Engine *e, const Opened *x, const Pinned *p);
Pinning *pinned_after_open(Engine *e, const Opened *x, const Pinned *p);     // of one whose opening is queued: taken after the exchange

// ---- split lookups (lookup.c, table.c) -----------------------------------------------------------------------------

typedef enum { FN_EXP, FN_SILU, FN_GELU, FN_RSQRT, FN_RECIPROCAL } Function;

/* A function of an index wire of t bits, split into 2^(t-k) cells of 2^k steps. The real argument of index i (signed; from
 * 0 if from_zero) is i 2^-f + offset, times `gain`. Rank 2: two columns of widths m0, m1 and scales f0, f1; p enters with
 * fp fraction bits; the result has scale f1 + fp. Rank 1 (FN_EXP only): one column of width m0, scale f0, and exp(-p) with
 * 14 bits: scale f0 + 14; `floor` clamps the function's argument from below, `ceiling` from above. */
typedef struct LookupSpec {
    Function fn;
    unsigned t, k, f, f0, m0, f1, m1, fp;
    double offset, gain, floor, ceiling;
    bool from_zero;                            // cells count from 0 (two-level lookups) instead of being signed
    bool never_positive;                       // cells are 0, -1, -2, .. down from the maximum (softmax after a row maximum)
    unsigned border;                           // cells below it are zero in both columns and one in a third, of 64 bits
} LookupSpec;
typedef struct Table Table;                    // bit-identical on every machine: plain IEEE operations in a fixed order
Table *table_new(const LookupSpec *s, Arena *a);
const LookupSpec *table_spec(const Table *t);
void table_hash(const Table *t, Hash *h);
/* The table in floats, for who emulates lookups. line (2^k, 2^(t-k), 2): constant and slope of each low part l^ and cell h, rank 1
 * as a slope alone. low (2^k): what a mask's low part p multiplies the slope by. */
void table_floats(const Table *t, float *line, float *low);

typedef struct Looked Looked; typedef struct Looked2 Looked2;
/* Selects at the opened index and queues the opening of the columns. Dealt: 2^(t-k) bits an element. */
Looked *lookup_select(Engine *e, const Opened *index, const Table *t);
/* The same with cells counted down from a row maximum m (opened cell numbers, one a group of `counts` elements). */
Looked *lookup_select_below(Engine *e, const Opened *index, const Table *t, const Opened *max, const Layout *groups);
const Factor *looked_factor(Engine *e, Looked *l, unsigned n);               // after the exchange
/* Two levels from one opened index (from_zero tables): coarse has the border, fine looks at the low bits. */
Looked2 *lookup2_select(Engine *e, const Opened *index, const Table *coarse, const Table *fine);
const Factor *looked2_factor(Engine *e, Looked2 *l, unsigned n);

/* The maximum cell of every group (a head's row of scores) among 2^H cells of an opened index: step one queues the zero
 * tests' opening, step two (after the exchange) gives the maximum plus half the range, as a wire mod 2^H. Dealt: cells words
 * of log2(row) bits a score, cells * H * 2^log2(row) bits a group. */
typedef struct RowMax RowMax;
RowMax *rowmax_count(Engine *e, const Opened *index, unsigned k, const Layout *groups, const size_t *group_len);
Wire rowmax_take(Engine *e, RowMax *m);

/* Whether an opened index of t bits, |x| < 2^(t-2) - 2^k, is positive: 1 or 0, either for |x| < 2^(k-1). 1 bit each way; dealt: 2^(t-1-k). */
typedef struct Signed Signed;
Signed *sign_select(Engine *e, const Opened *index, unsigned k);
const Factor *sign_factor(Engine *e, const Signed *s, unsigned n);           // after the exchange

// ---- output (reveal.c) -----------------------------------------------------------------------------------------------

/* Reveals a wire to C alone, shifted by k at an opening: the rounding coin is T's. Two exchanges: n bits a word C to S
 * (reveal_send), n - k bits S to C (reveal_answer); n - k dealt. After them C and CLEAR have signed words of scale f - k. */
typedef struct Reveal Reveal;
Reveal *reveal_send(Engine *e, Wire a, unsigned k);
void reveal_answer(Engine *e, Reveal *r);
const int64_t *reveal_take(Engine *e, Reveal *r);             // (layout); NULL at the other roles

#endif
