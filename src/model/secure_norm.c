/* secure_norm.c - a norm and the matrices behind it, on shares: the first exchanges of either half of a layer.
 *
 * Fold (3 exchanges): y = W x + B z is opened, and 1/rms, still a lookup, multiplies it. Lean (5): 1/rms is opened as a wire
 * and x / rms meets the matrices, opened and lifted in between; private matrices that need no ring for RoPE take it unlifted.
 * Private attention matrices of a Llama spend an exchange on the lift (6 in all), and win it back at the attention output
 * (secure_layer.c).
 *
 * Held (1 or 2, 3 lean): 1/rms is a public constant, folded into the weights, so x meets the matrices at once: opened and lifted
 * for the public ones, with z = A x on its way to S in the same exchange, or sent to S for the private ones. Where low-rank
 * values meet RoPE the sum (lean: z) is opened and lifted: 64 bits do not hold x, A, B and the angles. Private attention
 * matrices need the lift of x. */
#include <stdio.h>
#include "model/secure_parts.h"

/* Keeps the rows that `at` keeps. */
static void keep_row(const void *ctx, size_t row, uint64_t *out, const uint64_t *in)
{
    const Layout *at = ctx;
    for (size_t i = 0; i < at->begin[row + 1] - at->begin[row]; i++) out[i] = in[i];
}

/* Queues the opening of 1/rms's index. The sum of squares is read as a number near the mean square (see square_bits).
 * ring: in which x is multiplied later, with the same dealt words. at: one word a row that has an x (NULL: every row). */
static Opened *norm_index_open(SecureNet *s, Opened *x, unsigned fx, const LookupSpec *rsqrt, unsigned sum, unsigned ring, const Layout *at)
{
    Wire squares = opened_sumsq(s->e, x, sum, ring > sum ? ring : sum);
    if (at) squares = wire_map(s->e, squares, at, 0, keep_row, at);
    squares = wire_label(squares, 2 * fx + square_bits(s->config.width));
    return wire_open(s->e, wire_to(s->e, squares, rsqrt->t, rsqrt->f));
}

Result norm_fused(SecureNet *s, Wire *out, Wire x, const Layout *rows, Width opened, const Table *rsqrt, unsigned sum, unsigned times)
{
    Engine *e = s->e;
    Opened *xo = wire_open(e, wire_narrow(x, opened.n));
    GUARD(engine_exchange(e, "final norm: x"));
    const Factor *xf = opened_factor(e, xo, times > sum ? times : sum);
    Opened *index = norm_index_open(s, xo, opened.f, table_spec(rsqrt), sum, times, rows);
    GUARD(engine_exchange(e, "final norm: mean square index"));
    Looked *look = lookup_select(e, index, rsqrt);
    GUARD(engine_exchange(e, "final norm: 1/rms columns"));
    *out = factor_mul(e, xf, looked_factor(e, look, times), s->config.width, times);
    return OK;
}

Inverse inverse_select(Engine *e, const Opened *index, const Table *coarse, const Table *fine)
{
    if (fine) return (Inverse){NULL, lookup2_select(e, index, coarse, fine)};
    return (Inverse){lookup_select(e, index, coarse), NULL};
}

const Factor *inverse_factor(Engine *e, Inverse i, unsigned ring)
{
    return i.one ? looked_factor(e, i.one, ring) : looked2_factor(e, i.two, ring);
}

Wire bias_add(Engine *e, const LayerNet *l, MatrixKind kind, Wire a)
{
    if (!l->bias[kind]) return a;
    ASSERT(a.f == l->bias_f[kind]);
    return wire_add_server(e, a, l->bias[kind]);
}

typedef struct Half {                          // what the code below needs of one half
    SecureNet *s;
    const LayerPlan *plan;
    const NormPlan *norm;
    const NormNet *net;
    const NormRings *rings;
    MatrixKind kind[GROUP_MOST];
    unsigned count;
    size_t outputs[GROUP_MOST];
    bool private;
    const char *name;
} Half;

static Half half_of(SecureNet *s, const LayerNet *l, int half)
{
    Half h = {.s = s, .plan = l->plan, .norm = half == ATTN ? &l->plan->attn : &l->plan->ffn, .net = &l->norm[half],
              .rings = &l->rings.norm[half], .private = s->plan->private_part == PRIVATE_LAYERS};
    h.name = s->plan->side_by_side ? "layer" : half == ATTN ? "attention" : "ffn";
    h.count = group_kinds(s->plan, half, h.kind);
    for (unsigned k = 0; k < h.count; k++) h.outputs[k] = matrix_rows(&s->config, h.kind[k]);
    return h;
}

static CHECKED Result half_exchange(const Half *h, const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "%s: %s", h->name, what);
    return engine_exchange(h->s->e, name);
}

/* Matrices of the half that have low-rank factors. */
static size_t half_factors(const Half *h)
{
    size_t count = 0;
    for (unsigned k = 0; k < h->count; k++) count += h->net->b[k] != NULL;
    return count;
}

/* The columns of matrix k in a stacked wire: `each` of every matrix with factors, or (0) all outputs of every matrix. */
static Wire stacked_part_to(const Half *h, Wire a, unsigned k, size_t each, unsigned n, unsigned f)
{
    size_t from = 0;
    for (unsigned i = 0; i < k; i++) from += each ? (size_t)(h->net->b[i] != NULL) * each : h->outputs[i];
    return wire_columns_to(h->s->e, a, from, each ? each : h->outputs[k], n, f);
}

static Wire stacked_part(const Half *h, Wire a, unsigned k, size_t each) { return stacked_part_to(h, a, k, each, a.n, a.f); }

/* Queues B z of every matrix that has one. z: stacked. */
static void half_send_low_rank(const Half *h, Wire z, Pinning *out[GROUP_MOST])
{
    for (unsigned k = 0; k < h->count; k++)
        out[k] = h->net->b[k] ? pinned_send(h->s->e, stacked_part(h, z, k, h->s->plan->rank), h->net->b[k]) : NULL;
}

/* W x of a lifted x, at scale f in a ring of `room` bits above it; and B z, where there is one, added to it. */
static Wire half_public(const Half *h, Wire x, unsigned k, int room, unsigned f)
{
    return wire_to(h->s->e, wire_linear(h->s->e, x, &h->net->w[k]), (unsigned)room + f, f);
}

static size_t half_macs(const Half *h, size_t rows)
{
    size_t macs = 0;
    for (unsigned k = 0; k < h->count; k++) macs += rows * h->outputs[k] * h->s->config.width;
    return macs;
}

static Wire half_low_rank(const Half *h, Wire y, Pinning *low_rank)
{
    return low_rank ? wire_add(h->s->e, y, wire_to(h->s->e, pinned_take(h->s->e, low_rank), y.n, y.f)) : y;
}

static CHECKED Result half_fold(const Half *h, Wire x, Wire out[GROUP_MOST])
{
    Engine *e = h->s->e;
    const NormPlan *n = h->norm;
    const NormRings *r = h->rings;
    Opened *xo = wire_open(e, wire_narrow(x, h->plan->residual.n)), *y[GROUP_MOST];
    GUARD(half_exchange(h, "x"));
    Wire lifted = {0}, stacked = {0};
    Pinning *low_rank[GROUP_MOST] = {NULL};
    if (!h->private) lifted = factor_mul(e, opened_factor(e, xo, (unsigned)r->lift), NULL, 1, (unsigned)r->lift);
    Opened *index = norm_index_open(h->s, xo, h->plan->residual.f, &n->rsqrt, n->sum, (unsigned)r->lift, NULL);
    if (h->private) {
        stacked = wire_to(e, pinned_open(e, xo, h->net->a), n->product.n, n->product.f);
        for (unsigned k = 0; k < h->count; k++) y[k] = wire_open(e, stacked_part(h, stacked, k, 0));
    } else if (h->net->a) {
        half_send_low_rank(h, wire_to(e, pinned_open(e, xo, h->net->a), n->low_rank.n, n->low_rank.f), low_rank);
    }
    Wire public[GROUP_MOST];
    if (!h->private) engine_post(e, half_macs(h, x.at->rows));
    for (unsigned k = 0; k < h->count && !h->private; k++)
        public[k] = half_public(h, lifted, k, (int)n->product.n - (int)n->product.f, n->product.f);
    GUARD(half_exchange(h, h->private ? "mean square index; y" : "mean square index; z to the server"));
    Looked *look = lookup_select(e, index, h->net->rsqrt);
    for (unsigned k = 0; k < h->count && !h->private; k++) y[k] = wire_open(e, half_low_rank(h, public[k], low_rank[k]));
    GUARD(half_exchange(h, h->private ? "1/rms columns" : "1/rms columns; y"));
    const Factor *inverse = looked_factor(e, look, (unsigned)r->times);
    for (unsigned k = 0; k < h->count; k++) {
        unsigned ring = (unsigned)(r->room[k] + r->extra[k] + r->inverse_f) + n->product.f;
        Wire z = factor_mul(e, opened_factor(e, y[k], ring), inverse, h->outputs[k], ring);
        out[k] = wire_label(z, z.f + (unsigned)r->extra[k]);
    }
    return OK;
}

/* x / rms where the matrices want it: lifted, or in the ring of the private matrix. z / rms leaves beside the opening. */
static CHECKED Result half_normed(const Half *h, Opened *xo, Opened *zo, Opened *inverse, Wire *normed, Pinning *low_rank[GROUP_MOST])
{
    Engine *e = h->s->e;
    const NormPlan *n = h->norm;
    const NormRings *r = h->rings;
    unsigned times = (unsigned)r->times, times_z = (unsigned)r->times_low_rank;
    *normed = factor_mul(e, opened_factor(e, xo, times), opened_factor(e, inverse, times), h->s->config.width, times);
    *normed = wire_to(e, *normed, n->normed.n, n->normed.f);
    if (!r->normed_opened) return OK;
    Opened *opened = wire_open(e, *normed);
    if (zo) {
        size_t ranks = half_factors(h) * h->s->plan->rank;
        Wire zn = factor_mul(e, opened_factor(e, zo, times_z), opened_factor(e, inverse, times_z), ranks, times_z);
        half_send_low_rank(h, wire_to(e, zn, n->low_rank_normed.n, n->low_rank_normed.f), low_rank);
    }
    GUARD(half_exchange(h, zo ? "x / rms; z to the server" : "x / rms"));
    *normed = factor_mul(e, opened_factor(e, opened, (unsigned)r->lift), NULL, 1, (unsigned)r->lift);
    return OK;
}

/* A stacked private product as its parts, whose scales are corrected. */
static void stacked_split(const Half *h, Wire stacked, Wire out[GROUP_MOST])
{
    for (unsigned k = 0; k < h->count; k++) {
        Wire y = wire_label(stacked, stacked.f + (unsigned)h->rings->extra[k]);
        out[k] = stacked_part_to(h, y, k, 0, (unsigned)h->rings->room[k] + h->norm->product.f, h->norm->product.f);
    }
}

static CHECKED Result half_lean(const Half *h, Wire x, Wire out[GROUP_MOST])
{
    Engine *e = h->s->e;
    const NormPlan *n = h->norm;
    const NormRings *r = h->rings;
    Opened *xo = wire_open(e, wire_narrow(x, h->plan->residual.n)), *zo = NULL;
    GUARD(half_exchange(h, "x"));
    Opened *index = norm_index_open(h->s, xo, h->plan->residual.f, &n->rsqrt, n->sum, (unsigned)r->times, NULL);
    if (!h->private && h->net->a) zo = wire_open_to(e, pinned_open(e, xo, h->net->a), n->low_rank.n, n->low_rank.f);
    GUARD(half_exchange(h, zo ? "mean square index; z" : "mean square index"));
    Inverse look = inverse_select(e, index, h->net->rsqrt, h->net->rsqrt_fine);
    GUARD(half_exchange(h, "1/rms columns"));
    unsigned ring = (unsigned)r->inverse_times;
    Wire i = factor_mul_once(e, inverse_factor(e, look, ring), NULL, ring);
    Opened *inverse = wire_open_to(e, i, n->inverse.n, n->inverse.f);
    GUARD(half_exchange(h, "1/rms"));
    Wire normed;
    Pinning *low_rank[GROUP_MOST] = {NULL};
    GUARD(half_normed(h, xo, zo, inverse, &normed, low_rank));
    if (!h->private) {
        for (unsigned k = 0; k < h->count; k++) {
            out[k] = half_low_rank(h, half_public(h, normed, k, r->room[k], n->product.f), low_rank[k]);
        }
        return OK;
    }
    Pinning *sent = pinned_send(e, normed, h->net->a);
    GUARD(half_exchange(h, "x / rms to the server"));
    stacked_split(h, pinned_take(e, sent), out);
    return OK;
}

static Wire half_lift(const Half *h, Opened *x, unsigned ring) { return factor_mul(h->s->e, opened_factor(h->s->e, x, ring), NULL, 1, ring); }

static CHECKED Result held_private(const Half *h, Wire x, Wire out[GROUP_MOST])
{
    Engine *e = h->s->e;
    const NormRings *r = h->rings;
    if (r->normed_opened) {
        Opened *opened = wire_open_to(e, x, h->norm->normed.n, h->norm->normed.f);
        GUARD(half_exchange(h, "x"));
        x = half_lift(h, opened, (unsigned)r->lift);
    } else {
        x = wire_to(e, x, h->norm->normed.n, h->norm->normed.f);
    }
    Pinning *sent = pinned_send(e, x, h->net->a);
    GUARD(half_exchange(h, "x to the server"));
    stacked_split(h, pinned_take(e, sent), out);
    return OK;
}

/* Queues B z of every matrix that has one, z its columns of the stacked A x, of which only C has its share yet. */
static void half_send_after(const Half *h, Pinning *z, Pinning *out[GROUP_MOST])
{
    size_t from = 0;
    for (unsigned k = 0; k < h->count; k++) {
        if (!h->net->b[k]) continue;
        out[k] = pinned_send_after(h->s->e, z, from, h->norm->low_rank.n, h->norm->low_rank.f, h->net->b[k]);
        from += h->s->plan->rank;
    }
}

/* W x + B z; opened and lifted where the ring asks for it. */
static CHECKED Result held_sums(const Half *h, Wire lifted, Pinning *const low_rank[GROUP_MOST], Wire out[GROUP_MOST])
{
    const NormPlan *n = h->norm;
    const NormRings *r = h->rings;
    Opened *opened[GROUP_MOST] = {NULL};
    for (unsigned k = 0; k < h->count; k++) {
        bool lift = r->lifted[k];
        int room = lift ? (int)n->product.n - (int)n->product.f : r->room[k];
        out[k] = half_low_rank(h, half_public(h, lifted, k, room, n->product.f), low_rank[k]);
        if (lift) opened[k] = wire_open(h->s->e, out[k]);
    }
    if (!r->y_opened) return OK;
    GUARD(half_exchange(h, "y"));
    for (unsigned k = 0; k < h->count; k++)
        if (opened[k]) out[k] = half_lift(h, opened[k], (unsigned)r->room[k] + n->product.f);
    return OK;
}

static CHECKED Result half_held(const Half *h, Wire x, Wire out[GROUP_MOST])
{
    Engine *e = h->s->e;
    const NormPlan *n = h->norm;
    const NormRings *r = h->rings;
    x = wire_label(x, (unsigned)((int)x.f + r->shift));
    if (h->private) return held_private(h, x, out);
    Opened *opened = wire_open_to(e, x, n->normed.n, n->normed.f);
    Pinning *z = h->net->a ? pinned_after_open(e, opened, h->net->a) : NULL, *low_rank[GROUP_MOST] = {NULL};
    if (z && !r->z_opened) half_send_after(h, z, low_rank);
    GUARD(half_exchange(h, z && !r->z_opened ? "x; z to the server" : "x"));
    Wire lifted = half_lift(h, opened, (unsigned)r->lift);
    if (!r->z_opened) return held_sums(h, lifted, low_rank, out);
    Opened *zo = wire_open_to(e, pinned_take(e, z), n->low_rank.n, n->low_rank.f);
    GUARD(half_exchange(h, "z"));
    half_send_low_rank(h, half_lift(h, zo, (unsigned)r->pinned_b), low_rank);
    engine_post(e, half_macs(h, x.at->rows));
    Wire public[GROUP_MOST];
    for (unsigned k = 0; k < h->count; k++) public[k] = half_public(h, lifted, k, r->room[k], n->product.f);
    GUARD(half_exchange(h, "z to the server"));
    for (unsigned k = 0; k < h->count; k++) out[k] = half_low_rank(h, public[k], low_rank[k]);
    return OK;
}

Result norm_matrices(SecureNet *s, const LayerNet *l, int half, Wire x, Wire out[GROUP_MOST])
{
    Half h = half_of(s, l, half);
    GUARD(h.rings->held ? half_held(&h, x, out) : s->plan->prefer == PREFER_BYTES ? half_lean(&h, x, out) : half_fold(&h, x, out));
    for (unsigned k = 0; k < h.count; k++) out[k] = bias_add(s->e, l, h.kind[k], out[k]);
    return OK;
}
