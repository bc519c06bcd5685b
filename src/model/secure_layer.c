/* secure_layer.c - one decoder layer on shares, written once for the five roles.
 *
 * Fold takes 18 exchanges. The norm comes after the matrix, W (x / rms) = (W x) / rms, so that the matrices run while the
 * lookup of 1/rms travels; 1/rms and 1/sum, one value a row, multiply many elements as secrets of a lookup:
 *
 *      1  x^                                        sum of squares and z = A x are then local
 *      2  index of 1/rms; z one way to S            private layers: y^ already
 *      3  columns of 1/rms; y^ = (W x + B z)^       q, k, v = y / rms; RoPE is public and linear
 *      4  q^ k^ v^                                  scores are local
 *      5  index of the scores
 *      6  zero tests of the counts a cell
 *      7  row maximum
 *      8  column of exp
 *      9  weights^; index of their sum              mixed values are local
 *     10  mixed^; columns of 1/sum
 *     11  attention^                                to lift it
 *     12  attention and its z one way to S          output matrix; residual
 *     13-15  as 1-3, for gate and up
 *     16  index of SiLU (the gate), up^
 *     17  columns of SiLU                           times up, in the same product
 *     18  hidden and its z one way to S             down matrix; residual
 *
 * Lean takes 23: 1/rms (twice) and 1/sum become opened wires, one exchange each and far fewer dealt words an element, and x
 * / rms is opened (or sent) before the matrices, one more for each norm. Exchanges in which nothing travels (12 and 18
 * where nothing is private) are left out.
 *
 * Side by side, attention and FFN read the same x behind one norm (q k v and gate up leave 3 together), and the FFN's exchanges
 * 16-18 travel in the attention's 4, 5 and 6: 12 in all, lean 15. Norms held at constants take 1 or 2 exchanges instead of 3
 * (secure_norm.c), and below a bound of the scores' maximum 6 and 7 are left out.
 *
 * GPT-2 takes 17 and 22: its attention output goes to S unlifted (11 is left out), since no ring is spent on RoPE. It has no
 * `up`: GELU's columns are lifted instead. Its matrices are pinned, and a bias is a number that S adds to its share. */
#include <math.h>
#include "model/secure_parts.h"

// ---- RoPE ------------------------------------------------------------------------------------------------------------

typedef struct Turn { const int32_t *angle; uint32_t past; size_t heads, dim; } Turn;

/* Hugging Face's form: the first half of a head turns with the second. */
static void turn_row(const void *ctx, size_t row, uint64_t *out, const uint64_t *in)
{
    const Turn *t = ctx;
    size_t half = t->dim / 2;
    const int32_t *angle = t->angle + (t->past + row) * t->dim;
    for (size_t h = 0; h < t->heads; h++, in += t->dim, out += t->dim) {
        for (size_t i = 0; i < half; i++) {
            uint64_t c = (uint64_t)(int64_t)angle[2 * i], s = (uint64_t)(int64_t)angle[2 * i + 1];
            out[i] = in[i] * c - in[half + i] * s;
            out[half + i] = in[half + i] * c + in[i] * s;
        }
    }
}

static Wire rope(SecureNet *s, const LayerNet *l, Wire a, size_t heads, Width to)
{
    if (l->plan->rope_f == 0) return wire_to(s->e, a, to.n, to.f);
    Turn t = {l->rope, s->past, heads, s->config.head_dim};
    return wire_to(s->e, wire_map(s->e, a, a.at, l->plan->rope_f, turn_row, &t), to.n, to.f);
}

// ---- merged heads ----------------------------------------------------------------------------------------------------

static size_t merge_size(const SecureNet *s) { return s->plan->heads.size > 1 ? s->plan->heads.size : 1; }
static size_t merged_heads(const SecureNet *s) { return s->config.heads / merge_size(s); }
static size_t merged_dim(const SecureNet *s) { return s->config.head_dim * merge_size(s); }

/* The order of heads; inverse: back to it. */
typedef struct Order { const uint32_t *head; size_t heads, dim; bool inverse; } Order;

static void order_row(const void *ctx, size_t row, uint64_t *out, const uint64_t *in)
{
    const Order *o = ctx;
    (void)row;
    for (size_t h = 0; h < o->heads; h++) {
        size_t to = o->inverse ? o->head[h] : h, from = o->inverse ? h : o->head[h];
        for (size_t i = 0; i < o->dim; i++) out[to * o->dim + i] = in[from * o->dim + i];
    }
}

/* Heads in the order of their groups, which then are as wide heads one after the other; inverse: back to the model's order. */
static Wire heads_order(SecureNet *s, Wire a, const uint32_t *head, size_t heads, bool inverse)
{
    Order o = {head, heads, s->config.head_dim, inverse};
    return head ? wire_map(s->e, a, a.at, 0, order_row, &o) : a;
}

// ---- output and down projection --------------------------------------------------------------------------------------

typedef struct OutNet {
    MatrixKind kind;
    const PublicMatrix *w;
    const Pinned *a, *b;
    const OutRings *rings;
    Width low_rank;
    const char *name;
} OutNet;

/* x := x + W in, and queues B A in, for which C sends both of its messages. NULL where nothing is private. */
static Pinning *project_send(SecureNet *s, const LayerNet *l, const OutNet *o, Wire in, Wire *x)
{
    Engine *e = s->e;
    Width res = l->plan->residual;
    *x = wire_narrow(*x, res.n);
    Pinning *sent = NULL;
    if (o->a) sent = pinned_send(e, wire_narrow(in, (unsigned)o->rings->pinned_a), o->a);
    if (o->b) sent = pinned_send_after(e, sent, 0, o->low_rank.n, o->low_rank.f, o->b);
    if (s->plan->private_part == PRIVATE_LAYERS) return sent;
    engine_post(e, in.at->rows * o->w->outputs * o->w->inputs);
    Wire y = wire_linear(e, wire_narrow(in, (unsigned)o->rings->public), o->w);
    *x = wire_add(e, *x, wire_to(e, y, res.n, res.f));
    return sent;
}

/* x := x + B A in, after the exchange. */
static void project_take(SecureNet *s, const LayerNet *l, const OutNet *o, Pinning *sent, Wire *x)
{
    if (!sent) return;
    Wire y = pinned_take(s->e, sent);
    if (s->plan->private_part == PRIVATE_LAYERS) y = bias_add(s->e, l, o->kind, y);
    *x = wire_add(s->e, *x, wire_to(s->e, y, l->plan->residual.n, l->plan->residual.f));
}

/* Both, in one exchange or in none. */
static CHECKED Result project(SecureNet *s, const LayerNet *l, const OutNet *o, Wire in, Wire *x)
{
    Pinning *sent = project_send(s, l, o, in, x);
    if (sent) GUARD(engine_exchange(s->e, o->name));
    project_take(s, l, o, sent, x);
    return OK;
}

// ---- feed-forward, in steps that end where an exchange is due --------------------------------------------------------

typedef struct Ffn {
    SecureNet *s;
    const LayerNet *l;
    Wire *x, gate, up;                         // gate, up: as the norm's matrices give them; GPT-2 has no up
    Opened *index, *up_open;
    Looked *look;
    Pinning *sent;
    unsigned steps;                            // side by side: taken so far
} Ffn;

static bool ffn_gelu(const Ffn *f) { return f->s->config.arch == ARCH_GPT2; }

static OutNet ffn_out(const Ffn *f)
{
    const LayerNet *l = f->l;
    return (OutNet){MAT_DOWN, &l->down, l->down_a, l->down_b, &l->rings.down, l->plan->low_rank_down, "ffn: hidden to the server"};
}

static void ffn_open(Ffn *f)
{
    const LayerPlan *p = f->l->plan;
    f->index = wire_open_to(f->s->e, f->gate, p->silu.t, p->silu.f);
    if (!ffn_gelu(f)) f->up_open = wire_open_to(f->s->e, f->up, p->up.n, p->up.f);
}

static void ffn_select(Ffn *f) { f->look = lookup_select(f->s->e, f->index, f->l->silu); }

static Wire ffn_hidden(const Ffn *f)
{
    Engine *e = f->s->e;
    const LayerPlan *p = f->l->plan;
    if (ffn_gelu(f)) {
        unsigned ring = (unsigned)f->l->rings.gelu_times;
        return wire_to(e, factor_mul_once(e, looked_factor(e, f->look, ring), NULL, ring), p->hidden.n, p->hidden.f);
    }
    unsigned ring = p->hidden.n;
    return factor_mul_once(e, opened_factor(e, f->up_open, ring), looked_factor(e, f->look, ring), ring);
}

/* The next step of a feed-forward that stands beside the attention. */
static void ffn_step(Ffn *f)
{
    OutNet out = ffn_out(f);
    switch (f->steps++) {
    case 0: ffn_open(f); break;
    case 1: ffn_select(f); break;
    case 2: f->sent = project_send(f->s, f->l, &out, ffn_hidden(f), f->x); break;
    case 3: project_take(f->s, f->l, &out, f->sent, f->x); break;
    default: break;
    }
}

/* An exchange of the attention, which takes along what the feed-forward beside it (or NULL) has to send. */
static CHECKED Result attention_exchange(SecureNet *s, Ffn *beside, const char *name)
{
    if (beside) ffn_step(beside);
    return engine_exchange(s->e, name);
}

// ---- attention -------------------------------------------------------------------------------------------------------

typedef struct Rows { const Layout *scores; size_t heads; } Rows;

static void sum_row(const void *ctx, size_t row, uint64_t *out, const uint64_t *in)
{
    const Rows *r = ctx;
    size_t len = (r->scores->begin[row + 1] - r->scores->begin[row]) / r->heads;
    for (size_t h = 0; h < r->heads; h++) {
        out[h] = 0;
        for (size_t j = 0; j < len; j++) out[h] += in[h * len + j];
    }
}

/* Positions that each row sees, once for every head. */
static const Layout *score_layout(SecureNet *s, size_t rows, size_t **group_len)
{
    size_t heads = merged_heads(s), *columns = arena_new(engine_arena(s->e), size_t, rows);
    *group_len = arena_new(engine_arena(s->e), size_t, rows * heads);
    for (size_t r = 0; r < rows; r++) {
        columns[r] = heads * (s->past + r + 1);
        for (size_t h = 0; h < heads; h++) (*group_len)[r * heads + h] = s->past + r + 1;
    }
    return layout_ragged(s->e, columns);
}

/* The column of exp, queued: two exchanges below the row maximum, none below its bound. */
static CHECKED Result exp_select(SecureNet *s, const LayerNet *l, Ffn *beside, Wire scores, const Layout *groups, const size_t *group_len,
                                 Looked **out)
{
    Engine *e = s->e;
    const LookupSpec *exp = &l->plan->score_exp;
    if (l->bound) scores = wire_add_public(e, scores, merged_heads(s), l->bound);
    Opened *index = wire_open_to(e, scores, exp->t, exp->f);
    GUARD(attention_exchange(s, beside, "attention: score index"));
    if (l->bound) return *out = lookup_select(e, index, l->score_exp), OK;
    RowMax *max = rowmax_count(e, index, exp->k, groups, group_len);
    GUARD(attention_exchange(s, beside, "attention: zero tests of the counts"));
    Opened *top = wire_open(e, rowmax_take(e, max));
    GUARD(attention_exchange(s, beside, "attention: row maximum"));
    *out = lookup_select_below(e, index, l->score_exp, top, groups);
    return OK;
}

/* softmax weights, opened, and their row sums. */
static CHECKED Result weights(SecureNet *s, const LayerNet *l, Ffn *beside, const Opened *q, Opened **out, Wire *sums)
{
    Engine *e = s->e;
    const LayerPlan *p = l->plan;
    size_t heads = merged_heads(s), *group_len;
    const Layout *groups = layout_uniform(e, heads), *at = score_layout(s, groups->rows, &group_len);
    Wire scores = attend_scores(e, q, l->keys, heads, merged_dim(s), at), w;
    if (s->plan->softmax) {
        GUARD(approx_weights(s, l, scores, &w));
        *out = wire_open(e, w);
        *sums = wire_map(e, w, groups, 0, sum_row, &(Rows){at, heads});
        return OK;
    }
    Looked *look;
    GUARD(exp_select(s, l, beside, scores, groups, group_len, &look));
    GUARD(attention_exchange(s, beside, "attention: exp column"));
    unsigned ring = (unsigned)l->rings.exp_times;
    w = wire_to(e, factor_mul_once(e, looked_factor(e, look, ring), NULL, ring), p->exp.n, p->exp.f);
    *out = wire_open(e, w);
    *sums = wire_map(e, w, groups, 0, sum_row, &(Rows){at, heads});
    return OK;
}

/* Opened queries against the cache: the normalised mixture of values. 6 exchanges, lean 7. */
static CHECKED Result attention(SecureNet *s, const LayerNet *l, Ffn *beside, const Opened *q, Wire *out)
{
    Engine *e = s->e;
    const LayerPlan *p = l->plan;
    const LayerRings *r = &l->rings;
    size_t heads = merged_heads(s), dim = merged_dim(s);
    unsigned times = (unsigned)r->mix_times;
    Opened *w;
    Wire sums;
    GUARD(weights(s, l, beside, q, &w, &sums));
    Opened *index = wire_open_to(e, sums, p->sum_coarse.t, p->sum_coarse.f);
    GUARD(attention_exchange(s, beside, "attention: weights; sum index"));
    Inverse look = inverse_select(e, index, l->sum_coarse, l->sum_fine);
    engine_post(e, sums.at->rows * (s->past + sums.at->rows) * heads * dim);
    Wire mixed = wire_to(e, attend_values(e, w, l->values, heads, dim, p->exp.n), p->mix.n, p->mix.f);
    const Factor *inverse = NULL;
    Opened *mo, *io = NULL;
    if (s->plan->prefer == PREFER_BYTES) {
        GUARD(engine_exchange(e, "attention: 1/sum columns"));
        Wire i = factor_mul_once(e, inverse_factor(e, look, (unsigned)r->sum_times), NULL, (unsigned)r->sum_times);
        io = wire_open_to(e, i, p->sum_inverse.n, p->sum_inverse.f);
        mo = wire_open(e, mixed);
        GUARD(engine_exchange(e, "attention: mixed; 1/sum"));
        inverse = opened_factor(e, io, times);
    } else {
        mo = wire_open(e, mixed);
        GUARD(engine_exchange(e, "attention: mixed; 1/sum columns"));
        inverse = inverse_factor(e, look, times);
    }
    *out = wire_to(e, factor_mul(e, opened_factor(e, mo, times), inverse, dim, times), p->attention.n, p->attention.f);
    return OK;
}

// ---- the layer -------------------------------------------------------------------------------------------------------

/* Queues the known prefix as values of S: one row of the layout holds all of its positions. */
static CHECKED Result known_open(SecureNet *s, const LayerNet *l, Opened **out, Width to, int range, const float *v, const char *name)
{
    Engine *e = s->e;
    size_t heads = s->config.kv_heads, dim = s->config.head_dim, len = s->plan->known * heads * dim, all = s->known_heads;
    size_t *begin = arena_new(engine_arena(e), size_t, 2);
    begin[1] = len;
    Layout *at = arena_new(engine_arena(e), Layout, 1);
    *at = (Layout){1, begin};
    uint64_t *x = NULL;
    if (v) {
        x = arena_new(engine_arena(e), uint64_t, len);
        for (size_t i = 0; i < len; i++) {
            size_t head = i / dim % heads, of = l->known_order ? l->known_order[head] : head;
            size_t from = (i / (heads * dim) * all + of) * dim + i % dim;
            if (!(fabs((double)v[from]) < ldexp(1, range))) {
                return fail(FAIL_DATA, "a %s of the known prefix, %g, lies outside of the plan's range", name, (double)v[from]);
            }
            x[i] = ring_from_real((double)v[from], to.f);
        }
    }
    *out = server_open(e, at, to.n, to.f, x);
    return OK;
}

static CHECKED Result layer_attention(SecureNet *s, LayerNet *l, Wire *x, bool enter_known, const float *known_keys,
                                      const float *known_values)
{
    Engine *e = s->e;
    const LayerPlan *p = l->plan;
    const ModelConfig *c = &s->config;
    Opened *known[2];
    if (enter_known) {
        GUARD(known_open(s, l, &known[0], p->key, p->range.key, known_keys, "key"));
        GUARD(known_open(s, l, &known[1], p->value, p->range.value, known_values, "value"));
    }
    Wire y[GROUP_MOST] = {0};
    GUARD(norm_matrices(s, l, ATTN, *x, y));
    if (enter_known) cache_append(e, l->keys, known[0]), cache_append(e, l->values, known[1]);
    bool side = s->plan->side_by_side;
    engine_turn(e, (Wire *const[]){x, &y[0], &y[1], &y[2], &y[3], &y[4]}, !side ? 4 : c->arch == ARCH_GPT2 ? 5 : 6);
    Ffn ffn = {.s = s, .l = l, .x = x, .gate = y[3], .up = y[4]}, *beside = side ? &ffn : NULL;
    Opened *q = wire_open(e, heads_order(s, rope(s, l, y[0], c->heads, p->query), l->query_order, c->heads, false));
    Opened *k = wire_open(e, heads_order(s, rope(s, l, y[1], c->kv_heads, p->key), l->key_order, c->kv_heads, false));
    Opened *v = wire_open_to(e, heads_order(s, y[2], l->key_order, c->kv_heads, false), p->value.n, p->value.f);
    GUARD(attention_exchange(s, beside, "attention: q, k, v"));
    cache_append(e, l->keys, k), cache_append(e, l->values, v);
    Wire o;
    GUARD(attention(s, l, beside, q, &o));
    ASSERT(!beside || ffn.steps >= 4);         // it ends well before
    o = heads_order(s, o, l->query_order, c->heads, true);
    engine_turn(e, (Wire *const[]){x, &o}, 2);
    if (p->attention_opened) {
        Opened *oo = wire_open(e, o);
        GUARD(engine_exchange(e, "attention: output, to lift it"));
        o = factor_mul(e, opened_factor(e, oo, (unsigned)l->rings.out.lift), NULL, 1, (unsigned)l->rings.out.lift);
    }
    OutNet out = {MAT_O, &l->out, l->out_a, l->out_b, &l->rings.out, p->low_rank_out, "attention: output to the server"};
    return project(s, l, &out, o, x);
}

/* SiLU of the gate times up, or GELU of the gate: 2 exchanges. */
static CHECKED Result hidden(Ffn *f, Wire *out)
{
    Engine *e = f->s->e;
    ffn_open(f);
    GUARD(engine_exchange(e, ffn_gelu(f) ? "ffn: GELU index" : "ffn: SiLU index; up"));
    ffn_select(f);
    GUARD(engine_exchange(e, ffn_gelu(f) ? "ffn: GELU columns" : "ffn: SiLU columns"));
    *out = ffn_hidden(f);
    return OK;
}

static CHECKED Result layer_ffn(SecureNet *s, LayerNet *l, Wire *x)
{
    Engine *e = s->e;
    Wire y[GROUP_MOST] = {0}, h;
    engine_turn(e, &x, 1);
    GUARD(norm_matrices(s, l, FFN, *x, y));
    engine_turn(e, (Wire *const[]){x, &y[0], &y[1]}, s->config.arch == ARCH_GPT2 ? 2 : 3);
    Ffn f = {.s = s, .l = l, .x = x, .gate = y[0], .up = y[1]};
    if (s->plan->activation) GUARD(approx_hidden(s, l, y[0], y[1], &h));
    else GUARD(hidden(&f, &h));
    engine_turn(e, (Wire *const[]){x, &h}, 2);
    OutNet out = ffn_out(&f);
    return project(s, l, &out, h, x);
}

Result layer_forward(SecureNet *s, LayerNet *l, Wire *x, bool enter_known, const float *known_keys, const float *known_values)
{
    GUARD(layer_attention(s, l, x, enter_known, known_keys, known_values));
    return s->plan->side_by_side ? OK : layer_ffn(s, l, x);
}
