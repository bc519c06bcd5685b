/* plan.c - the proof that a plan is sound, and its hash.
 *
 * plan_check walks through the layer as secure_layer.c does and proves, by intervals, that inside the planned bounds no
 * wire leaves its ring, that no local shift takes more bits than there are, and that every table's words fit their
 * columns. A plan read from a file may ask for anything: what passes here can neither abort a move nor ask for more memory
 * than the limits below (a session that finds less fails: secure_new; a batch, and the keys and values up to its end, have a check
 * of their own: secure_room). Whether it is accurate is for calibration to see; whether it is the agreed one, for the hash. */
#include <math.h>
#include <stdio.h>
#include "model/variant.h"
#include "model/secure_parts.h"

enum { MOST_CONTEXT = 1 << 17, MOST_RANK = 4096, MOST_LAYERS = 1024 };
static const double most_table_bytes = 0x1p31, wide_table_bytes = 0x1p23;   // of all tables that are kept; a wide one is not
/* What a session keeps grows with products of bounded numbers, which have bounds of their own: keys and values at C and S (llama2-7b
 * at 4,096 positions: 2^34 bytes), its masked matrices (all of llama2-7b's: 5.2e10), and the words of an angle table. */
static const double most_cache_bytes = 0x1p35, most_pinned_bytes = 0x1p36, most_angles = 0x1p24;

void plan_free(Plan *p)
{
    arena_free(&p->arena);
    *p = (Plan){0};
}

// ---- what is checked -------------------------------------------------------------------------------------------------

/* The first thing found wrong is kept; a check after it changes nothing. */
typedef struct Check { const Plan *p; const ModelConfig *c; char where[48]; const char *wrong; double tables; } Check;

static void need(Check *k, bool holds, const char *what)
{
    if (!holds && !k->wrong) k->wrong = what;
}

static bool is_ring(int n) { return n >= 1 && n <= 64; }

/* |value| < 2^range at scale f fits the wire, with `spare` more bits: 1 for the sign, 2 where it is lifted. */
static void need_range(Check *k, Width w, int range, int spare, const char *what)
{
    need(k, is_ring((int)w.n) && range + (int)w.f + spare <= (int)w.n, what);
}

/* A wire of ring n and scale f ends as `to`: the shift is no growth and leaves enough. */
static void need_to(Check *k, int n, int f, Width to, const char *what)
{
    need(k, is_ring(n) && is_ring((int)to.n) && f >= (int)to.f && n - (f - (int)to.f) >= (int)to.n, what);
}

// ---- lookups ---------------------------------------------------------------------------------------------------------

/* Bounds of the two columns, as real numbers: of the function's values, and of the line's slope over half a cell, which is
 * at most 1.24 times the function's variation inside of a cell (two of the five nodes' weights, times K / (K - 1) <= 2). */
static void lookup_bounds(const LookupSpec *s, double *value, double *slope)
{
    double steps = ldexp(1, -(int)s->f), reach = ldexp(steps, (int)s->t - 1), cell = ldexp(steps, (int)s->k);
    switch (s->fn) {
    case FN_EXP: *value = exp(fmin((s->never_positive ? cell - steps : reach) + s->offset, s->ceiling)), *slope = 0; break;
    case FN_SILU:
    case FN_GELU:                              // steepest: 1.0999 and 1.1291
        *value = reach - cell / 4, *slope = 0.62 * 1.13 * cell * ldexp(1, (int)s->k) / (ldexp(1, (int)s->k) - 1);
        break;
    case FN_RSQRT: *value = 1 / sqrt(s->floor), *slope = 1.24 * *value; break;
    default: *value = 1 / s->floor, *slope = 1.24 * *value; break;
    }
}

static unsigned word_bytes(unsigned m) { return m <= 8 ? 1 : m <= 16 ? 2 : m <= 32 ? 4 : 8; }

static bool column_fits(double bound, unsigned f, unsigned m)
{
    return m >= 4 && m <= 64 && f <= 48 && ldexp(bound, (int)f) + 1 < ldexp(1, m < 52 ? (int)m - 2 : 50);   // tables round below 2^51
}

static void need_lookup(Check *k, const LookupSpec *s, Function fn, const char *what)
{
    bool exp = fn == FN_EXP, silu = fn == FN_SILU || fn == FN_GELU;
    bool shape = s->fn == fn && s->k >= 1 && s->k <= 16 && s->t >= s->k + 3 && s->t <= s->k + 16 && s->f <= 48 && s->fp <= 16;
    bool side = s->from_zero == (!exp && !silu) && (exp || !s->never_positive), bounded = exp && !s->never_positive;
    bool real = fabs(s->offset) <= 0x1p20 && s->gain >= 0x1p-20 && s->gain <= 0x1p20 && s->ceiling <= 0x1p40;
    if (exp || silu) real &= s->gain == 1 && s->floor == -0x1p40 && s->ceiling == (bounded ? 0 : 0x1p40);
    else real &= s->floor >= 0x1p-40 && s->floor <= s->ceiling;
    need(k, shape && side && real, what);
    if (k->wrong) return;
    double value, slope;
    lookup_bounds(s, &value, &slope);
    bool line = exp || (column_fits(slope, s->f1, s->m1) && s->f0 <= s->f1 + s->fp && s->f1 + s->fp - s->f0 < 32);
    need(k, column_fits(value, s->f0, s->m0) && line, what);
    need(k, s->border == 0 || (!exp && !silu && s->border == 16), what);
    double bytes = ldexp(1, (int)s->t + 1) * (exp ? word_bytes(s->m0) : word_bytes(s->m0) + word_bytes(s->m1) + (s->border ? 8u : 0u));
    if (bytes <= wide_table_bytes) k->tables += bytes;
}

/* ceil(log2) of the largest value of a rank-2 lookup with a floor. */
static int lookup_range(const LookupSpec *s)
{
    double value, slope;
    lookup_bounds(s, &value, &slope);
    return (int)ceil(log2(value)) + 1;
}

/* The second level of a lookup, where it has one. */
static void need_fine(Check *k, const LookupSpec *s, const LookupSpec *fine, Function fn, const char *what)
{
    if (s->border == 0) return;
    need_lookup(k, fine, fn, what);
    need(k, fine->border == 0 && fine->t == s->k + 4 && s->t > fine->t && fine->f == s->f && lookup_f(fine) == lookup_f(s), what);
    need(k, s->m0 == 64 && s->m1 == 64 && fine->m0 == 64 && fine->m1 == 64, what);
}

/* The sum of squares, shifted and narrowed to the index, in a ring that holds the index. */
static void need_squares(Check *k, const LookupSpec *s, unsigned sum, unsigned fx)
{
    need_lookup(k, s, FN_RSQRT, "1/rms table");
    need_to(k, (int)sum, (int)(2 * fx + square_bits(k->c->width)), (Width){s->t, s->f}, "sum of squares");
}

// ---- a half: norm and matrices ---------------------------------------------------------------------------------------

typedef struct Out { Width to; int turned; } Out;            // what becomes of a result; turned: bits that RoPE adds

static Out out_of(const Plan *p, const LayerPlan *l, MatrixKind kind)
{
    switch (kind) {
    case MAT_Q: return (Out){l->query, (int)l->rope_f};
    case MAT_K: return (Out){l->key, (int)l->rope_f};
    case MAT_V: return (Out){l->value, 0};
    case MAT_GATE: return (Out){gate_width(p, l), 0};
    default: return (Out){l->up, 0};
    }
}

static void check_fold(Check *k, const LayerPlan *l, const NormPlan *n, const NormRings *r, int half, bool adapted)
{
    const Plan *p = k->p;
    MatrixKind kind[GROUP_MOST];
    unsigned count = group_kinds(p, half, kind);
    int fx = (int)l->residual.f, fa = private_f(p, (uint32_t)(l - p->layer), kind[0]);
    need(k, n->rsqrt.border == 0, "1/rms table");
    need_range(k, n->product, l->range.product[half], 2, "product");
    need(k, is_ring(r->times), "product with 1/rms");
    for (unsigned i = 0; i < count; i++) {
        Out o = out_of(p, l, kind[i]);
        int f = (int)n->product.f + r->inverse_f;
        need(k, r->room[i] >= 1 && f + o.turned >= (int)o.to.f, "product with 1/rms");
        if (p->private_part == PRIVATE_LORA) need_to(k, r->lift, fx + (int)l->weight_f[kind[i]], n->product, "public product");
    }
    if (p->private_part == PRIVATE_LAYERS) need_to(k, (int)l->residual.n, fx + fa, n->product, "private product");
    if (!adapted) return;
    need_to(k, (int)l->residual.n, fx + fa, n->low_rank, "low-rank values");
    need_range(k, n->low_rank, l->range.low_rank[half], 1, "low-rank values");
    need_to(k, (int)n->low_rank.n, (int)n->low_rank.f + fa, n->product, "low-rank product");
}

static void check_lean(Check *k, const LayerPlan *l, const NormPlan *n, const NormRings *r, int half, bool adapted)
{
    const Plan *p = k->p;
    bool private = p->private_part == PRIVATE_LAYERS;
    MatrixKind kind[GROUP_MOST];
    unsigned count = group_kinds(p, half, kind);
    int fx = (int)l->residual.f, fa = private_f(p, (uint32_t)(l - p->layer), kind[0]), inverse = lookup_range(&n->rsqrt);
    need_fine(k, &n->rsqrt, &n->rsqrt_fine, FN_RSQRT, "fine 1/rms table");
    if (k->wrong) return;
    need_to(k, r->inverse_times, lookup_f(&n->rsqrt), n->inverse, "1/rms");
    need_range(k, n->inverse, inverse, 2, "1/rms");
    need_range(k, n->normed, l->range.normed[half], r->normed_opened ? 2 : 1, "x / rms");
    need_to(k, r->times, fx + r->inverse_f, n->normed, "x / rms");
    if (private) need(k, is_ring(r->pinned_a) && (r->normed_opened || (int)n->normed.n == r->pinned_a), "ring of the private matrix");
    for (unsigned i = 0; i < count; i++) {
        Out o = out_of(p, l, kind[i]);
        Width sum = {(unsigned)(r->room[i] > 0 ? r->room[i] : 0) + n->product.f, n->product.f};
        need(k, (int)n->product.f + o.turned >= (int)o.to.f, "fraction bits of the sum");
        int weight = private ? fa + r->extra[i] : (int)l->weight_f[kind[i]];
        need_to(k, private ? r->pinned_a : r->lift, (int)n->normed.f + weight, sum, "product");
        if (adapted && p->adapted[kind[i]]) need_to(k, r->pinned_b, (int)n->low_rank_normed.f + fa, sum, "low-rank product");
    }
    if (!adapted) return;
    need_to(k, (int)l->residual.n, fx + fa, n->low_rank, "low-rank values");
    need_range(k, n->low_rank, l->range.low_rank[half], 2, "low-rank values");
    need_to(k, r->times_low_rank, (int)n->low_rank.f + r->inverse_f, n->low_rank_normed, "low-rank values / rms");
    need_range(k, n->low_rank_normed, l->range.low_rank[half] + inverse, 1, "low-rank values / rms");
}

/* What is looked at is x times the constant's power of two. */
static void check_held(Check *k, const LayerPlan *l, const NormPlan *n, const NormRings *r, int half, bool adapted)
{
    const Plan *p = k->p;
    bool private = p->private_part == PRIVATE_LAYERS;
    MatrixKind kind[GROUP_MOST];
    unsigned count = group_kinds(p, half, kind);
    int fa = private_f(p, (uint32_t)(l - p->layer), kind[0]);
    need_to(k, (int)l->residual.n, (int)l->residual.f + r->shift, n->normed, "x of a held norm");
    need_range(k, n->normed, l->range.residual - r->shift, r->normed_opened ? 2 : 1, "x of a held norm");
    if (private) need(k, is_ring(r->pinned_a) && (r->normed_opened || (int)n->normed.n == r->pinned_a), "ring of the private matrix");
    for (unsigned i = 0; i < count; i++) {
        Out o = out_of(p, l, kind[i]);
        Width sum = {(unsigned)(r->room[i] > 0 ? r->room[i] : 0) + n->product.f, n->product.f};
        need(k, (int)n->product.f + o.turned >= (int)o.to.f, "fraction bits of the sum");
        if (r->lifted[i]) {
            need_range(k, n->product, l->range.product[half], 2, "product");
            need(k, is_ring((int)sum.n), "lifted product");
            sum = n->product;
        }
        int weight = private ? fa + r->extra[i] : (int)l->weight_f[kind[i]];
        need_to(k, private ? r->pinned_a : r->lift, (int)n->normed.f + weight, sum, "product");
        if (adapted && p->adapted[kind[i]]) need_to(k, r->pinned_b, (int)n->low_rank.f + fa, sum, "low-rank product");
    }
    if (!adapted) return;
    need_to(k, r->pinned_a, (int)n->normed.f + fa, n->low_rank, "low-rank values");
    need_range(k, n->low_rank, l->range.low_rank[half], r->z_opened ? 2 : 1, "low-rank values");
    if (r->z_opened) need(k, n->low_rank_normed.f == n->low_rank.f, "lifted low-rank values");
}

static void check_half(Check *k, const LayerPlan *l, const LayerRings *rings, int half)
{
    const Plan *p = k->p;
    const NormPlan *n = half == ATTN ? &l->attn : &l->ffn;
    MatrixKind kind[GROUP_MOST];
    bool adapted = false;
    for (unsigned i = 0; i < group_kinds(p, half, kind); i++) adapted |= p->private_part == PRIVATE_LORA && p->adapted[kind[i]];
    if (!p->norm) need_squares(k, &n->rsqrt, n->sum, l->residual.f);
    for (unsigned i = 1; i < group_kinds(p, half, kind); i++)
        need(k, p->private_part == PRIVATE_LORA || l->weight_f[kind[i]] == l->weight_f[kind[0]], "fraction bits of stacked matrices");
    if (k->wrong) return;
    if (p->norm) check_held(k, l, n, &rings->norm[half], half, adapted);
    else if (p->prefer == PREFER_EXCHANGES) check_fold(k, l, n, &rings->norm[half], half, adapted);
    else check_lean(k, l, n, &rings->norm[half], half, adapted);
}

// ---- the rest of a layer ---------------------------------------------------------------------------------------------

static void check_sum(Check *k, const LayerPlan *l, const LayerRings *r)
{
    const LookupSpec *s = &l->sum_coarse, *fine = &l->sum_fine;
    need_lookup(k, s, FN_RECIPROCAL, "1/sum table");
    need_fine(k, s, fine, FN_RECIPROCAL, "fine 1/sum table");
    need(k, (int)s->t >= sum_range(k->p, l) + (int)s->f, "1/sum table");
    need_to(k, (int)l->exp.n, (int)l->exp.f, (Width){s->t, s->f}, "index of 1/sum");
    if (k->wrong || k->p->prefer == PREFER_EXCHANGES) return;
    need_to(k, r->sum_times, lookup_f(s), l->sum_inverse, "1/sum");
    need_range(k, l->sum_inverse, lookup_range(s), 2, "1/sum");
}

/* Cells of a sign, of an index of `opened` bits. */
static void need_sign(Check *k, Width opened, unsigned cell, const char *what)
{
    need(k, cell >= 1 && opened.n >= cell + 4 && opened.n <= cell + 17, what);
}

/* Another softmax: (x + shift)^2, or max(x, 0), in units of 2^weight_unit. */
static void check_weights(Check *k, const LayerPlan *l)
{
    const LayerRange *r = &l->range;
    bool quad = k->p->softmax == SOFTMAX_2QUAD;
    need_range(k, l->score, r->score, 2, "scores");
    need(k, r->score >= 0 && l->score.f <= 20, "scores");
    if (k->wrong) return;
    double most = ldexp(1, r->score) + fabs(k->p->score_shift), bound = ldexp(quad ? most * most : most, -l->weight_unit);
    if (!quad) need_sign(k, l->score, l->score_cell, "sign of the scores");
    need(k, bound <= ldexp(1, r->weight), "softmax weights");
}

/* What is added to the scores fits the table, of which it takes at most all. */
static void check_bounds(Check *k, const LayerPlan *l)
{
    const Plan *p = k->p;
    if (l->row_slack == 0 || k->wrong) return;
    double reach = ldexp(1, (int)l->score_exp.t - 10), shift = bound_shift(l);
    need(k, p->row_bound != NULL && l->row_slack > 0, "bounds of row maxima");
    for (uint32_t h = 0; p->row_bound && h < p->bound_heads; h++) {
        double v = (double)p->row_bound[(uint32_t)(l - p->layer) * p->bound_heads + h];
        need(k, fabs(v) <= 1e4 && fabs(shift - v) <= 2 * reach, "bounds of row maxima");
    }
    need(k, l->query.f + l->key.f <= 60 && reach <= 0x1p20 && ldexp(2 * reach, (int)(l->query.f + l->key.f)) <= 0x1p62, "bounds of row maxima");
}

static void check_attention(Check *k, const LayerPlan *l, const LayerRings *r)
{
    const LookupSpec *s = &l->score_exp;
    int bits = sum_range(k->p, l), weight = k->p->softmax ? l->range.weight + 1 : 1;
    need_range(k, l->query, l->range.query, 1, "query");
    need_range(k, l->key, l->range.key, 1, "key");
    need_range(k, l->value, l->range.value, 1, "value");
    need(k, k->p->arch == ARCH_GPT2 ? l->rope_f == 0 : l->rope_f >= 4 && l->rope_f <= 20, "angles");
    if (k->p->softmax) check_weights(k, l);
    else {
        need_lookup(k, s, FN_EXP, "exp table");
        need(k, s->f == 9 && s->k == 10 && s->t - s->k <= 12 && s->never_positive == (l->row_slack == 0), "exp table");
        need(k, s->offset == (s->never_positive ? -2 : 4 - ldexp(1, (int)s->t - 10)), "exp table");
    }
    check_bounds(k, l);
    need(k, l->query.n == l->key.n, "query and key");
    need_to(k, (int)l->query.n, (int)(l->query.f + l->key.f), score_width(k->p, l), "score index");
    need_to(k, r->exp_times, weight_f(k->p, l), l->exp, "softmax weights");
    need_range(k, l->exp, weight, 1, "softmax weights");
    check_sum(k, l, r);
    need(k, l->value.n >= l->exp.n, "value");
    need_to(k, (int)l->exp.n, (int)(l->exp.f + l->value.f), l->mix, "mixed values");
    need_range(k, l->mix, bits + l->range.mixed, 2, "mixed values");
    need_to(k, r->mix_times, (int)l->mix.f + r->sum_f, l->attention, "attention output");
    need_range(k, l->attention, l->range.mixed, l->attention_opened ? 2 : 1, "attention output");
    need(k, l->attention_opened || (int)l->attention.n >= r->out.lift, "attention output");
}

static void check_out(Check *k, const LayerPlan *l, const OutRings *r, MatrixKind kind, unsigned in_f, Width z, const char *what)
{
    int fa = private_f(k->p, (uint32_t)(l - k->p->layer), kind);
    need(k, is_ring(r->lift), what);
    if (k->p->private_part == PRIVATE_LAYERS) {
        need_to(k, r->pinned_a, (int)in_f + fa, l->residual, what);
        return;
    }
    need_to(k, r->public, (int)(in_f + l->weight_f[kind]), l->residual, what);
    if (!k->p->adapted[kind]) return;
    need_to(k, r->pinned_a, (int)in_f + fa, z, what);
    need_to(k, r->pinned_b, (int)z.f + fa, l->residual, what);
}

/* max(x, 0), and x^2 / 8 + x / 4 + 1 / 2, which is below 2^(2 g - 2) (or 2) for |x| < 2^g. */
static void check_approx_hidden(Check *k, const LayerPlan *l, const LayerRings *r)
{
    bool quad = k->p->activation == ACTIVATION_QUAD, gpt2 = k->p->arch == ARCH_GPT2;
    int range = !quad ? l->range.gate : l->range.gate > 1 ? 2 * l->range.gate - 2 : 1, f = activation_f(k->p, l);
    need_range(k, l->gate, l->range.gate, 2, "gate");
    need(k, l->range.gate >= 0 && l->gate.f <= 20, "gate");
    if (!quad) need_sign(k, l->gate, l->gate_cell, "sign of the gate");
    need(k, (int)l->hidden.n >= r->down.lift, "hidden");
    if (gpt2) {
        need_to(k, r->gelu_times, f, l->hidden, "hidden");
        need_range(k, l->hidden, range, 1, "hidden");
        return;
    }
    need_range(k, l->up, l->range.up, 2, "up");
    need_range(k, l->gated, quad ? range : range + l->range.up, 2, "activation");
    need_to(k, r->gated_times, quad ? f : f + (int)l->up.f, l->gated, "activation");
    need(k, l->hidden.f == l->gated.f + (quad ? l->up.f : 0), "hidden");
    need_range(k, l->hidden, range + l->range.up, 1, "hidden");
}

static void check_hidden(Check *k, const LayerPlan *l, const LayerRings *r)
{
    bool gelu = k->p->arch == ARCH_GPT2;
    need_lookup(k, &l->silu, gelu ? FN_GELU : FN_SILU, gelu ? "GELU table" : "SiLU table");
    need(k, (int)l->silu.t - 1 - (int)l->silu.f >= l->range.gate && l->silu.offset == 0, "gate");
    need(k, (int)l->hidden.n >= r->down.lift, "hidden");
    if (gelu) {
        need_to(k, r->gelu_times, lookup_f(&l->silu), l->hidden, "hidden");
        need_range(k, l->hidden, l->range.gate, 1, "hidden");
        return;
    }
    need_range(k, l->up, l->range.up, 2, "up");
    need(k, (int)l->hidden.f == lookup_f(&l->silu) + (int)l->up.f, "hidden");
    need_range(k, l->hidden, l->range.gate + l->range.up, 1, "hidden");
}

static bool fraction_fits(const Plan *p, unsigned f, MatrixKind m) { return p->weight_bits == 8 ? f == quant_fraction(p, m) : f <= 15; }

static void check_layer(Check *k, uint32_t layer)
{
    const Plan *p = k->p;
    const LayerPlan *l = &p->layer[layer];
    LayerRings r;
    layer_rings(&r, p, layer);
    snprintf(k->where, sizeof k->where, "layer %u", p->frozen + layer);
    need_range(k, l->residual, l->range.residual, 2, "residual");
    Width next = layer + 1 < p->layers ? p->layer[layer + 1].residual : p->final_residual;
    need(k, l->residual.n >= next.n && l->residual.f == next.f, "residual");
    for (MatrixKind m = 0; m < MAT_COUNT; m++)
        need(k, p->private_part == PRIVATE_LAYERS ? l->weight_f[m] <= 24 : fraction_fits(p, l->weight_f[m], m), "fraction bits of weights");
    check_half(k, l, &r, ATTN);
    check_attention(k, l, &r);
    check_out(k, l, &r.out, MAT_O, l->attention.f, l->low_rank_out, "output projection");
    if (!p->side_by_side) check_half(k, l, &r, FFN);
    if (p->activation) check_approx_hidden(k, l, &r);
    else check_hidden(k, l, &r);
    check_out(k, l, &r.down, MAT_DOWN, l->hidden.f, l->low_rank_down, "down projection");
}

static void check_head(Check *k)
{
    const Plan *p = k->p;
    snprintf(k->where, sizeof k->where, "head");
    need_range(k, p->final_residual, p->final_range, 2, "residual");
    need(k, p->final_norm.border == 0, "1/rms table");
    need_squares(k, &p->final_norm, p->final_sum, p->final_residual.f);
    need(k, is_ring(final_times(p)), "normalised x");
    need_to(k, final_times(p), (int)p->final_residual.f + lookup_f(&p->final_norm), p->final, "normalised x");
    need_to(k, (int)p->final.n, (int)(p->final.f + p->head_f), p->logit, "logits");
    need_range(k, p->logit, p->logit_range, 1, "logits");
    need(k, fraction_fits(p, p->head_f, MAT_COUNT) && p->logit_drop >= 1 && p->logit_drop <= p->logit.f && p->logit_drop + 1 < p->logit.n, "logits");
}

static void check_memory(Check *k)
{
    const Plan *p = k->p;
    const ModelConfig shape = plan_shape(p, k->c), *c = &shape;
    double width = (double)c->kv_heads * c->head_dim, caches = 4.0 * sizeof(uint64_t) * p->context * width * p->layers;    // two masks each
    snprintf(k->where, sizeof k->where, "memory");
    need(k, caches <= most_cache_bytes, "keys and values too large");
    need(k, (double)p->context * c->head_dim <= most_angles, "angles too large");
    if (!k->wrong) need(k, (double)plan_setup_bytes(p, c) <= most_pinned_bytes, "private matrices too large");
}

static void check_shape(Check *k)
{
    const Plan *p = k->p;
    const ModelConfig *c = k->c;
    bool adapted = false;
    for (MatrixKind m = 0; m < MAT_COUNT; m++) adapted |= p->adapted[m];
    snprintf(k->where, sizeof k->where, "shape");
    need(k, p->arch == c->arch && (p->arch == ARCH_LLAMA || p->private_part == PRIVATE_LAYERS), "architecture");
    need(k, p->layers >= 1 && p->layers <= MOST_LAYERS && p->frozen < c->layers && p->layers == c->layers - p->frozen, "number of layers");
    need(k, p->context >= 1 && p->context <= MOST_CONTEXT && p->context <= c->context, "context");
    need(k, p->known < p->context, "known positions");
    for (uint32_t i = 0; p->known_token && i < p->known && i < p->context; i++)
        need(k, p->known_token[i] >= 0 && (uint32_t)p->known_token[i] < c->vocab, "known tokens");
    need(k, p->rank <= MOST_RANK && (p->rank > 0) == adapted && (p->private_part == PRIVATE_LORA || !adapted), "adapted matrices");
    need(k, p->query_bits == 0 || p->private_part == PRIVATE_LAYERS, "scale of the queries");
    need(k, fabs(p->score_shift) <= 1024 && (p->score_shift != 0) == (p->softmax == SOFTMAX_2QUAD), "shift of the scores");
    need(k, p->adapter_f <= 24, "fraction bits of private weights");
    need(k, p->weight_bits == 8 || p->weight_bits == 16, "bits of public weights");
    need(k, c->head_dim % 2 == 0 && c->heads % c->kv_heads == 0, "heads");
    need(k, !failed(head_groups_check(&p->heads, c, p->layers)), "merged heads");
    uint32_t size = p->heads.size > 1 ? p->heads.size : 1;
    need(k, !p->row_bound || p->bound_heads == (p->heads.order ? p->heads.heads : c->kv_heads) / size * (c->heads / c->kv_heads), "bounds of row maxima");
    need(k, !p->side_by_side || !(p->activation || p->softmax), "side by side");
    if (failed(held_norms_check(p->norm, p->layers))) need(k, false, "held norms");
    need(k, p->score_scale >= 0 && p->score_scale <= 64 && (p->score_scale <= 0 || p->weight_bits == 16), "scale of the scores");
}

Result plan_check(const Plan *p, const ModelConfig *c)
{
    Check k = {.p = p, .c = c};
    check_shape(&k);
    for (uint32_t l = 0; l < p->layers && !k.wrong; l++) check_layer(&k, l);
    if (!k.wrong) check_head(&k);
    if (!k.wrong) check_memory(&k);
    need(&k, k.tables < most_table_bytes, "tables too large");
    return k.wrong ? fail(FAIL_DATA, "unsound plan: %s: %s", k.where, k.wrong) : OK;
}

// ---- hash ------------------------------------------------------------------------------------------------------------

/* Every number is written out: floats as they print exactly. */
static void shape_text(const ModelConfig *c, Buffer *out)
{
    buffer_format(out, "%u %u %u %u %u ", c->width, c->layers, c->heads, c->kv_heads, c->head_dim);
    buffer_format(out, "%u %u %u %d %a %a ", c->ffn, c->vocab, c->context, c->tied, (double)c->norm_eps, (double)c->rope_theta);
    buffer_format(out, "%a %a %a %a", (double)c->rope.factor, (double)c->rope.low_freq_factor, (double)c->rope.high_freq_factor,
                  (double)c->rope.original_context);
}

static void hash_angles(Hash *h, const Plan *p, const ModelConfig *c)
{
    if (p->arch == ARCH_GPT2) return;
    Arena a;
    arena_init(&a, false);
    size_t len = (size_t)p->context * c->head_dim;
    int32_t *angle = arena_new(&a, int32_t, len);
    rope_integers(angle, c, p->context, p->layer[0].rope_f);
    for (size_t i = 0; i < len; i++) {
        uint8_t little[4];
        for (unsigned b = 0; b < 4; b++) little[b] = (uint8_t)((uint32_t)angle[i] >> 8 * b);
        hash_add(h, little, sizeof little);
    }
    arena_free(&a);
}

void plan_hash(const Plan *p, const ModelConfig *c, uint8_t out[HASH_BYTES])
{
    Buffer text = {0};
    Arena a;
    Table **table;
    Hash h;
    arena_init(&a, false);
    hash_init(&h);
    plan_json(p, &text);
    shape_text(c, &text);
    hash_add(&h, text.data, text.len);
    hash_angles(&h, p, c);
    size_t tables = tables_new(p, &table, &a);
    for (size_t i = 0; i < tables; i++) table_hash(table[i], &h);
    hash_end(&h, out);
    buffer_free(&text);
    arena_free(&a);
}
