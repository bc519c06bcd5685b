/* plan_fit.c - from calibrated ranges to widths: how the 64 bits of each segment are spent.
 *
 * Ranges get a margin and become powers of two. Fraction bits start generous; where a chain of products between two
 * openings then needs more than 64 bits, they are taken back one by one, in the order of least harm. The arithmetic of a
 * chain is plan_rings.c's: the sum of what its factors carry below the point and what its result keeps above. */
#include <math.h>
#include <string.h>
#include "model/variant.h"
#include "model/secure_parts.h"

static const double assumed_weight = 1.5;      // the largest weight of a model that is only a shape
static const double margin = 2, table_margin = 1.4;    // of ranges; of those whose tables lose resolution with it

/* |x| <= seen becomes |x| < 2^bits. */
static int bits_of(double seen, double times)
{
    return (int)ceil(log2(fmax(seen * times, 0x1p-20)) + 1e-9);
}

static int least(int a, int b) { return a < b ? a : b; }
static int most(int a, int b) { return a > b ? a : b; }
static int clamp(int v, int low, int high) { return most(low, least(v, high)); }
static Width width(int n, int f) { return (Width){(unsigned)most(n, 0), (unsigned)most(f, 0)}; }
static int above(Width w) { return (int)w.n - (int)w.f; }

// ---- tables ----------------------------------------------------------------------------------------------------------

static const double no_limit = 0x1p40;
static const int guard_bits = 4;               // lean: of 1/rms before it is rounded to be opened

/* 1/rms of mean squares seen in [low, high], with a safety octave on each side. Uniform cells: 16 of them, of 64 steps, to
 * the smallest value, so that the line is right to 2^-12 there; at most 2^16. The value needs `bits` bits where it is smallest
 * and bits + spare below the largest. The slope is some 2^-6 of the value, so its coordinate needs few fraction bits. */
static LookupSpec rsqrt_spec(const ModelConfig *c, double low, double high, int bits, int spare)
{
    int l = (int)square_bits(c->width);
    double unit = ldexp(1, l) / c->width;                     // the index is in units of this many mean squares
    int top = (int)ceil(log2(high * 2 / unit)), bottom = (int)floor(log2(low / 2 / unit));
    int cells = clamp(4 + top - bottom, 8, 16), k = 6, t = cells + k;
    int high_f = bits + (int)ceil(top / 2.0), low_f = bits + spare + (int)floor(bottom / 2.0), f = clamp(most(high_f, low_f), 9, 26);
    LookupSpec s = {.fn = FN_RSQRT, .t = (unsigned)t, .k = (unsigned)k, .f = (unsigned)most(t - top, 0), .f0 = (unsigned)f, .m0 = 64,
                    .f1 = (unsigned)(f - 4), .m1 = 64, .fp = 4, .offset = (double)c->norm_eps / unit, .gain = unit,
                    .floor = ldexp(unit, bottom - 1), .ceiling = no_limit, .from_zero = true};
    return s;
}

/* The same in two levels of 1,024 cells or fewer: for a wide range, far fewer dealt bits a row, and a factor of more terms. */
static void rsqrt_levels(LookupSpec *coarse, LookupSpec *fine)
{
    if (coarse->t <= 17) return;
    coarse->border = 16, coarse->k = coarse->t - 10;
    *fine = *coarse;
    fine->border = 0, fine->t = coarse->k + 4, fine->k = 6;
}

/* Steps of 2^-9, cells of width 2, the column with f bits: exp is at most 1 below the top of the row. */
static LookupSpec exp_spec(int cells, int f, int bits)
{
    return (LookupSpec){.fn = FN_EXP, .t = (unsigned)cells + 10, .k = 10, .f = 9, .f0 = (unsigned)f, .m0 = (unsigned)bits,
                        .offset = -2, .gain = 1,
                        .floor = -no_limit, .ceiling = no_limit, .never_positive = true};
}

/* The same below a bound: signed cells around it, of which the top two are free. What lies above the slack gets a weight of at
 * most 1 instead of a table's other end. */
static LookupSpec exp_bound_spec(int cells, int f, int bits)
{
    LookupSpec s = exp_spec(cells, f, bits + 1);               // 1 itself occurs
    s.never_positive = false, s.offset = 4 - ldexp(1, cells), s.ceiling = 0;
    return s;
}

/* Bits of a cell's number: those that are wished, or else 256 cells, which serve +-64 as well as a table of 13 bits would; wider
 * ranges get 512. */
static int silu_cells(int wished, int range) { return wished ? wished : range > 6 ? 9 : 8; }

/* The top cell of the signed table stays free, since it may wrap: what a range grows by for it. */
static double silu_rim(int wished) { return wished && wished < 7 ? 1 / (1 - ldexp(2, -wished)) : 1 + 1.0 / 64; }

/* The columns fit 16 and 8 bits: |silu| < 2^range, and the slope over half a cell, some 2^(range - cells), which with the
 * low part's coordinate shares the result's f fraction bits so that their roundings weigh the same. Few cells are wide: the index keeps
 * the steps that 256 would have. */
static LookupSpec silu_spec(Function fn, int cells, int range, int f)
{
    int k = most(6, 14 - cells), wide = most(8 - cells, 0), low = clamp((f - cells + range) / 2, 2, (fn == FN_GELU ? 6 : 5) + wide);
    int slope = clamp(f - low, 2, cells + 5 - range);
    return (LookupSpec){.fn = fn, .t = (unsigned)(cells + k), .k = (unsigned)k, .f = (unsigned)(cells + k - 1 - range),
                        .f0 = (unsigned)least(14 - range, slope + low), .m0 = 16, .f1 = (unsigned)slope, .m1 = 8, .fp = (unsigned)low,
                        .gain = 1, .floor = -no_limit, .ceiling = no_limit};
}

/* 1/sum of sums in (e^-4 2^-deeper, 2^bits), f fraction bits; steps of 2^-step. One level for short rows, else 16 coarse cells looked
 * at again. */
static void sum_specs(LookupSpec *coarse, LookupSpec *fine, int bits, int step, int f, int deeper)
{
    LookupSpec s = {.fn = FN_RECIPROCAL, .t = (unsigned)(bits + step), .k = 6, .f = (unsigned)step, .f0 = (unsigned)f, .m0 = 64,
                    .f1 = (unsigned)(f - 3), .m1 = 64, .fp = 3, .gain = 1, .floor = ldexp(1, -7 - deeper), .ceiling = no_limit, .from_zero = true};
    *coarse = s, *fine = (LookupSpec){0};
    if (bits + deeper <= 5) return;
    coarse->border = 16, coarse->k = (unsigned)(10 + most(0, bits - 6) / 2 + deeper / 2);
    *fine = s;
    fine->k = 4, fine->t = coarse->k + 4;      // 0.02 is some ten cells from 0
}

// ---- where fraction bits begin ---------------------------------------------------------------------------------------

/* What may be taken from the attention half: fraction bits of cos and sin, of y (lean: z), of queries, keys, x / rms, and of
 * the softmax weights. */
enum { KNOB_ROPE, KNOB_Y, KNOB_Q, KNOB_K, KNOB_X, KNOB_E, KNOBS };

/* Fraction bits that the fit starts with. */
typedef struct Start {
    int residual;                              // of a residual of rms 1
    int private, least_private;                // of private weights
    int knob[KNOBS], low[KNOBS];               // queries: besides those that their 1 / sqrt(head_dim) takes
    int ffn_y, ffn_x;                          // as KNOB_Y and KNOB_X, of the FFN half
    int exp, exp_bits;                         // column of exp, and its width
    int value, mixed, attention;               // values, mixed values, attention output
    int sum;                                   // of 1/sum, besides those of the longest row
    int inverse, inverse_spare;                // of 1/rms where it is smallest; more of its bits where it is largest
    int gelu, hidden;                          // GPT-2: of GELU, and of what is sent of it
} Start;

/* Rows of public 16-bit weights: accuracy as far as the rings go. */
static Start start_llama(bool lean, bool private)
{
    return (Start){.residual = 10, .private = private ? 14 : lean ? 10 : 12, .least_private = 7,
                   .knob = {14, lean ? 10 : 14, 12, 12, 12, 15}, .low = {10, lean ? 7 : 12, 9, 9, 10, 13}, .ffn_y = lean ? 10 : 13,
                   .ffn_x = 12, .exp = 16, .exp_bits = 19, .value = 11, .mixed = 14, .attention = 12, .sum = lean ? 13 : 16,
                   .inverse = 12, .inverse_spare = 6};
}

/* A sum of products loses 2^-x / 2.4 by the rounding of x and 2^-w sqrt(inputs) / 3.5 by that of the weights, so that where both
 * cost a bit of the same ring, the weights get some four bits more. */
static Start start_gpt2(bool lean)
{
    return (Start){.residual = lean ? 8 : 9, .private = lean ? 14 : 13, .least_private = 11,
                   .knob = {0, 12, 9, 9, 10, 14}, .low = {0, 10, 9, 9, 9, 12}, .ffn_y = 12, .ffn_x = lean ? 11 : 10,
                   .exp = 14, .exp_bits = 16, .value = lean ? 10 : 9, .mixed = 13, .attention = 11, .sum = lean ? 10 : 7,
                   .inverse = lean ? 9 : 11, .inverse_spare = 3, .gelu = 16, .hidden = 11};
}

// ---- the widths that layers share ------------------------------------------------------------------------------------

typedef struct Fit {
    Plan *p;
    const PlanSeen *seen;
    const ModelConfig *c;
    const Model *m;                            // NULL: only the shape is known
    int fx;                                    // fraction bits of the residual
    bool private, lean, gpt2;
    Start start;
} Fit;

static bool half_adapted(const Fit *f, int half)
{
    MatrixKind kind[GROUP_MOST];
    for (unsigned k = 0, count = group_kinds(f->p, half, kind); k < count; k++)
        if (!f->private && f->p->adapted[kind[k]]) return true;
    return false;
}

/* The same behind a held norm: of x as it is sent to S, or opened with low-rank values behind it. */
static int held_room(const Fit *f, const LayerRange *r, int half)
{
    int fa = (int)f->p->adapter_f, ffn = most(r->gate + (f->p->activation ? 2 : 1), f->gpt2 ? 0 : r->up + 2);
    if (f->private) return half == ATTN || f->p->side_by_side ? 0 : ffn + fa;
    if (!half_adapted(f, half)) return 0;
    if (half == FFN) return ffn + 2 * fa;
    return f->lean ? r->low_rank[half] + 2 + fa : r->product[half] + 2 + 2 * fa;
}

/* Ring bits above the scale that the residual needs in this layer: to be lifted, and for what is computed on it open. */
static int residual_room(const Fit *f, const LayerRange *r, uint32_t layer)
{
    int room = r->residual + 2, fa = (int)f->p->adapter_f, shift;
    for (int half = 0; half < HALVES; half++) {
        norm_mantissa(f->p, layer, half, &shift);
        if (f->p->norm) room = most(room, held_room(f, r, half) + shift);
        if (f->p->norm) continue;
        if (f->private && !f->lean) room = most(room, r->product[half] + 2 + fa);
        if (half_adapted(f, half)) room = most(room, f->lean ? r->low_rank[half] + 2 + fa : r->product[half] + 2 + 2 * fa);
    }
    return room;
}

/* Fraction bits of the private factors that the input of the down projection has to leave room for. */
static int down_cost(const Fit *f)
{
    int fa = (int)f->p->adapter_f;
    bool adapted = f->p->adapted[MAT_O] || f->p->adapted[MAT_DOWN];
    int public = f->p->weight_bits == 8 ? QUANT_F : adapted ? 13 : 14;
    return f->private ? fa : adapted ? most(2 * fa, public) : public;
}

/* What is left for the fraction bits of the hidden values; the residual of a layer is at least as wide as of those above. */
static int hidden_left(const Fit *f)
{
    int room = f->p->final_range + 2, left = 64;
    for (uint32_t l = f->p->layers; l-- > 0;) {
        room = most(room, residual_room(f, &f->p->layer[l].range, l));
        f->p->layer[l].residual = width(room + f->fx, f->fx);
        left = least(left, 64 - room - down_cost(f));
    }
    return left;
}

/* The most fraction bits of private weights, `from` at most, that leave the hidden values theirs. */
static CHECKED Result fit_private(Fit *f, int from)
{
    for (int hidden = 18; hidden >= 16; hidden -= 2) {
        for (int fa = from; fa >= f->start.least_private; fa--) {
            f->p->adapter_f = (unsigned)fa;
            if (hidden_left(f) >= hidden) return OK;
        }
    }
    return fail(FAIL_DATA, "the ranges of the residual do not fit 64 bits");
}

// ---- one layer -------------------------------------------------------------------------------------------------------

/* A coordinate is at most sqrt(width) times the rms, whose table has an octave to spare. */
static int residual_bits(const ModelConfig *c, double seen, double square)
{
    return least(bits_of(seen, margin), bits_of(sqrt(2 * square * c->width), 1));
}

static void fit_range(const Fit *f, LayerRange *r, const LayerSeen *s, double next_residual, double next_square)
{
    r->residual = residual_bits(f->c, fmax(s->residual, next_residual), fmax(next_square, fmax(s->square_high[ATTN], s->square_high[FFN])));
    for (int h = 0; h < HALVES; h++) {
        r->normed[h] = bits_of(s->normed[h], margin);
        r->product[h] = bits_of(s->product[h], margin);
        r->low_rank[h] = half_adapted(f, h) ? bits_of(s->low_rank[h], margin) : 0;
    }
    if (f->p->side_by_side) {                  // one group behind one norm
        r->product[ATTN] = most(r->product[ATTN], r->product[FFN]);
        r->low_rank[ATTN] = half_adapted(f, ATTN) ? bits_of(fmax(s->low_rank[ATTN], s->low_rank[FFN]), margin) : 0;
    }
    r->query = bits_of(s->query, margin), r->key = bits_of(s->key, margin);
    r->value = bits_of(s->value, margin), r->mixed = bits_of(s->mixed, margin);
    r->gate = clamp(bits_of(s->gate, table_margin * silu_rim(f->seen->cells)), 1, 12), r->up = bits_of(s->up, margin);
}

/* A bound serves where the maxima of rows lie within some 6 nats around it, margins included: beyond, rows lose too many bits. */
enum { DEEPEST = 6 };
static const double bound_margin = 0.5;

/* How many more bits a row of weights takes whose maximum may lie lower than e^-4: the top of the table costs two nats. */
static int deeper_bits(const LayerPlan *l, const LayerSeen *s)
{
    return l->row_slack == 0 ? 0 : most(0, (int)ceil((2 + l->row_slack + bound_margin - s->row_low - 4) / log(2)));
}

static void fit_bound(const Fit *f, LayerPlan *l, const LayerSeen *s)
{
    l->row_slack = f->p->row_bound && !f->p->softmax ? fmax(s->row_high, 0) + bound_margin : 0;
    if (!(s->row_low <= s->row_high) || deeper_bits(l, s) > DEEPEST) l->row_slack = 0;
}

static int score_cells(const LayerPlan *l, const LayerSeen *s)
{
    if (l->row_slack > 0) return most(4, bits_of(8 + l->row_slack + fmax(s->score_below, 0) * 1.25, 1) - 1);
    return most(4, bits_of(s->score * 1.25 + 2, 1));
}

/* Widths behind a held norm, from the fraction bits y of the sums and x of x times the constant. */
static void fit_held(const Fit *f, LayerPlan *l, int half, int y, int x)
{
    NormPlan *n = half == ATTN ? &l->attn : &l->ffn;
    uint32_t layer = (uint32_t)(l - f->p->layer);
    LayerRings r;
    const NormRings *q = &r.norm[half];
    int fa = (int)f->p->adapter_f, fz = 12, shift;
    norm_mantissa(f->p, layer, half, &shift);
    x = least(x, (int)l->residual.f + shift);
    *n = (NormPlan){.product = width(0, 14), .normed = width(l->range.residual - shift + 2 + x, x)};
    layer_rings(&r, f->p, layer);
    if (f->private && !q->normed_opened) n->normed.n = (unsigned)most(0, q->pinned_a);
    if (!half_adapted(f, half)) return;
    if (q->y_opened) n->product = width(l->range.product[half] + 2 + y, y);
    n->low_rank = width((q->y_opened ? above(n->product) : q->most) + fz + fa, fz);
    if (q->z_opened) {
        n->low_rank_normed = n->low_rank;
        n->low_rank.n = (unsigned)(l->range.low_rank[half] + 2 + fz);
    }
    n->normed.n = (unsigned)most((int)n->normed.n, (int)n->low_rank.n + x + fa - fz);
}

/* Norm widths of one half, from the fraction bits y (fold: of y; lean: of z) and x (lean: of x / rms). */
static void fit_norm(const Fit *f, LayerPlan *l, int half, int y, int x)
{
    NormPlan *n = half == ATTN ? &l->attn : &l->ffn;
    LayerRings r;
    int fa = (int)f->p->adapter_f, fz = 12;
    if (f->p->norm) {
        fit_held(f, l, half, y, x);
        return;
    }
    if (!f->lean) {
        n->product = width(l->range.product[half] + 2 + y, y);
        n->low_rank = half_adapted(f, half) ? width(l->range.product[half] + 2 + fz + fa, fz) : (Width){0, 0};
        return;
    }
    n->product = (Width){0, 14};
    n->inverse.f = (unsigned)(lookup_f(&n->rsqrt) - guard_bits);
    n->normed = width(l->range.normed[half] + 2 + x, x);
    layer_rings(&r, f->p, (uint32_t)(l - f->p->layer));
    const NormRings *q = &r.norm[half];
    if (!q->normed_opened) n->normed.n = (unsigned)most(0, q->pinned_a);
    if (half_adapted(f, half)) {
        n->low_rank = width(l->range.low_rank[half] + 2 + y, y);
        n->low_rank_normed = width(q->most + 10 + fa, 10);
    }
    layer_rings(&r, f->p, (uint32_t)(l - f->p->layer));
    n->inverse.n = (unsigned)least(64 - guard_bits, most(q->times, q->times_low_rank));
}

static void fit_values(const Fit *f, LayerPlan *l, int fe, int fv, int fo)
{
    int room = sum_range(f->p, l) + l->range.mixed + 2;       // of the mixed values, un-normalised
    l->mix = width(room + fo, fo);
    if (f->p->softmax) fe = least(fe, weight_f(f->p, l)), room = most(room, l->range.weight + 2 - fv);
    l->exp = width(room + fe + fv, fe);
    l->value = width(room + fe + fv, fv);
}

static void fit_scores(const Fit *f, LayerPlan *l, int cells, int fq, int fk, int deeper)
{
    int room = f->p->softmax ? above(l->score) : cells + 1;
    if (!f->p->softmax)
        l->score_exp = (l->row_slack > 0 ? exp_bound_spec : exp_spec)(cells, f->start.exp + deeper, f->start.exp_bits + deeper);
    l->query = width(room + fq + fk, fq);
    l->key = width(room + fq + fk, fk);
}

// ---- another softmax, another activation -----------------------------------------------------------------------------

/* The sign of an opened x of f fraction bits, |x| < 2^range, which is wrong for some |x| below half a cell. Cells of width 2^-fine;
 * beyond 512 of them 1/4 will do. */
static unsigned sign_cell(int range, int f, int fine)
{
    int cells = clamp(least(range + 1 + fine, most(9, range + 3)), 3, 14);
    return (unsigned)most(1, range + 1 + f - cells);
}

/* Weights are counted in a unit in which the lowest sum is some 2^-6, as it is of exponentials; sums of less than 2^-12 of the
 * largest are taken for that. */
static void fit_softmax(const Fit *f, LayerPlan *l, const LayerSeen *s)
{
    LayerRange *r = &l->range;
    bool quad = f->p->softmax == SOFTMAX_2QUAD;
    r->score = most(1, bits_of(s->score * 1.25 + 1, silu_rim(0)));
    double bound = ldexp(1, r->score) + fabs(f->p->score_shift), low = fmax(fmax(s->sum_low, s->sum_high * 0x1p-12), 0x1p-20) / 2;
    l->weight_unit = (int)floor(log2(low)) + 6;
    r->weight = bits_of(quad ? bound * bound : bound, 1) - l->weight_unit;
    r->sum = most(1, bits_of(ldexp(s->sum_high, -l->weight_unit), margin));
    int fs = quad ? clamp((16 - l->weight_unit) / 2, 8, 14) : clamp(15 - l->weight_unit, 8, 14);
    l->score = width(r->score + 2 + fs, fs);
    l->score_cell = quad ? 0 : sign_cell(r->score, fs, 4);
}

/* GPT-2: of the gate alone. */
static void fit_approx_gate(const Fit *f, LayerPlan *l)
{
    bool quad = f->p->activation == ACTIVATION_QUAD;
    l->hidden = width(above(l->residual) + (int)l->weight_f[MAT_DOWN] + f->start.hidden, f->start.hidden);
    int fg = quad ? clamp((64 - above(l->hidden) - 3) / 2, (f->start.hidden - 2) / 2, 8) : f->start.hidden;
    l->gate = width(l->range.gate + 2 + fg, fg);
    l->gate_cell = quad ? 0 : sign_cell(l->range.gate, fg, 3);
}

/* Llama: times up; up and gated share the hidden values' fraction bits, of which `left` are there. */
static CHECKED Result fit_approx_hidden(const Fit *f, LayerPlan *l, int left)
{
    bool quad = f->p->activation == ACTIVATION_QUAD;
    const int fg = 9;
    int range = quad ? most(2 * l->range.gate - 2, 1) : l->range.gate + l->range.up, up = 10, gated = quad ? 10 : least(left, 14);
    while (quad && up + gated > left && up > 6) --*(up > gated - 2 ? &up : &gated);
    if (up + gated > left && (quad || gated < 10)) return fail(FAIL_DATA, "hidden values do not fit 64 bits");
    l->gate = width(l->range.gate + 2 + fg, fg);
    l->gate_cell = quad ? 0 : sign_cell(l->range.gate, fg, 3);
    l->up = width(l->range.up + 2 + up, up);
    l->gated = width(range + 2 + gated, gated);
    l->hidden.f = (unsigned)(quad ? up + gated : gated);
    l->hidden.n = (unsigned)(range + (quad ? l->range.up : 0) + 1) + l->hidden.f;
    return OK;
}

/* The knob with the most to spare among those that shorten the chain that is too long; KNOBS if there is none. */
static int knob_pick(const NormRings *r, bool lean, const int knob[KNOBS], const int low[KNOBS])
{
    bool values = r->room[2] == r->most;       // else queries (as long as keys have fewer bits) or keys
    bool low_rank = r->times_low_rank > 64, entry = r->lift > 64 || r->pinned_a > 64;
    bool sum = r->held ? r->times > 64 : !lean || low_rank, x = r->held ? entry : lean && entry && !low_rank;
    bool helps[KNOBS] = {!values, sum, !values && r->room[1] == r->most, !values && r->room[0] == r->most, x, values};
    int pick = KNOBS;
    for (int k = 0; k < KNOBS; k++)
        if (helps[k] && knob[k] > low[k] && (pick == KNOBS || knob[k] - low[k] > knob[pick] - low[pick])) pick = k;
    return pick;
}

static CHECKED Result fit_attention_half(const Fit *f, LayerPlan *l, const LayerSeen *s)
{
    int dim_bits = ((int)square_bits(f->c->head_dim) + 1) / 2;             // queries carry their 1 / sqrt(head_dim)
    int knob[KNOBS], low[KNOBS], deeper = deeper_bits(l, s);
    for (int k = 0; k < KNOBS; k++) {
        int extra = k == KNOB_Q ? dim_bits : k == KNOB_E ? deeper : 0;
        knob[k] = f->start.knob[k] + extra, low[k] = f->start.low[k] + extra;
    }
    int cells = score_cells(l, s);
    uint32_t layer = (uint32_t)(l - f->p->layer);
    for (;;) {
        LayerRings r;
        l->rope_f = (unsigned)knob[KNOB_ROPE];
        fit_scores(f, l, cells, knob[KNOB_Q], knob[KNOB_K], deeper);
        fit_values(f, l, knob[KNOB_E], f->start.value, f->start.mixed + deeper);
        fit_norm(f, l, ATTN, knob[KNOB_Y], knob[KNOB_X]);
        layer_rings(&r, f->p, layer);
        const NormRings *n = &r.norm[ATTN];
        if (n->lift <= 64 && n->times <= 64 && n->times_low_rank <= 64 && n->pinned_a <= 64 && n->pinned_b <= 64) return OK;
        int pick = knob_pick(n, f->lean, knob, low);
        if (pick == KNOBS) return fail(FAIL_DATA, "layer %u: queries, keys and values do not fit 64 bits", f->p->frozen + layer);
        knob[pick]--;
    }
}

/* The widths behind the mixed values. direct: the output goes to S unlifted; else the lift went to the queries instead. */
static CHECKED Result fit_attention(const Fit *f, LayerPlan *l, int deeper)
{
    int room = above(l->residual), mixed = l->range.mixed, bits = sum_range(f->p, l), fo = f->start.attention, fs;
    bool direct = f->private && (f->lean || f->gpt2);
    l->attention_opened = !direct;
    for (;;) {
        int fa = private_f(f->p, (uint32_t)(l - f->p->layer), MAT_O);
        l->attention = direct ? width(room + fo + fa, fo) : width(mixed + 2 + fo, fo);
        int ring = above(l->attention) + (int)l->mix.f;
        fs = least(bits + f->start.sum, 64 - ring);
        if (f->lean) l->sum_inverse = width(least(ring + fs, 64 - (bits + 16 - fs)), fs);
        if (fs >= bits + (f->gpt2 ? 7 : 9)) break;
        if (direct && deeper && (!f->gpt2 || fa <= f->start.least_private)) {
            direct = false, l->attention_opened = true;       // an exchange for the bits that the bound's rows take
            continue;
        }
        if (!f->gpt2 || fa <= f->start.least_private)
            return fail(FAIL_DATA, "layer %u: attention does not fit 64 bits", f->p->frozen + (uint32_t)(l - f->p->layer));
        l->weight_f[MAT_O]--;                  // attention output is smaller than what the other matrices see
    }
    sum_specs(&l->sum_coarse, &l->sum_fine, bits, least(14 + deeper, (int)l->exp.f), f->lean ? bits + 16 : fs, deeper);
    if (f->p->softmax == SOFTMAX_2RELU) l->sum_coarse.offset = ldexp(SOFTMAX_FLOOR, -l->weight_unit);
    if (l->sum_coarse.border) l->sum_fine.offset = l->sum_coarse.offset;
    return OK;
}

static unsigned weight_fraction(double largest, int cap)
{
    int f = 15;
    while (f > 0 && ldexp(largest, f) > INT16_MAX - 1) f--;
    return (unsigned)clamp(least(f, cap), 0, 15);
}

/* As many fraction bits as 16-bit integers allow; fewer, down to 12, where x meets the matrices with many of its own. */
static void fit_weights(const Fit *f, LayerPlan *l, uint32_t layer)
{
    for (MatrixKind k = 0; k < MAT_COUNT; k++) {
        if (f->private) {
            bool fine = f->lean && (k == MAT_O || (k == MAT_GATE && !f->p->norm && !f->p->side_by_side));
            l->weight_f[k] = f->gpt2 && (k == MAT_DOWN || fine) ? 15 : f->p->adapter_f;
            continue;
        }
        if (f->p->weight_bits == 8) {
            l->weight_f[k] = quant_fraction(f->p, k);
            continue;
        }
        int cap = k == MAT_O ? 64 - above(l->residual) - 12 : k == MAT_DOWN ? 15 : f->lean || f->p->norm ? 14 : 64 - f->fx - 20;
        double largest = f->m ? public_largest(f->p, f->m, f->p->frozen + layer, k) : assumed_weight;
        l->weight_f[k] = weight_fraction(largest * norm_mantissa(f->p, layer, kind_half(k), NULL), most(cap, 12));
    }
}

static Width fit_low_rank(const Fit *f, const LayerPlan *l, MatrixKind kind)
{
    const int fz = 12;
    return f->private || !f->p->adapted[kind] ? (Width){0, 0} : width(above(l->residual) + fz + (int)f->p->adapter_f, fz);
}

/* GELU and the down projection. */
static void fit_gelu(const Fit *f, LayerPlan *l)
{
    l->silu = silu_spec(FN_GELU, silu_cells(f->seen->cells, l->range.gate), l->range.gate, f->start.gelu);
    l->up = (Width){0, 0};
    l->hidden = width(above(l->residual) + (int)l->weight_f[MAT_DOWN] + f->start.hidden, f->start.hidden);
}

/* The down projection, behind hidden values whose fraction bits are settled. */
static void fit_down(const Fit *f, LayerPlan *l, int room)
{
    int cap = 64 - room - (int)l->hidden.f;
    if (!f->private && f->p->weight_bits == 16 && (int)l->weight_f[MAT_DOWN] > cap) l->weight_f[MAT_DOWN] = (unsigned)clamp(cap, 0, 15);
    l->low_rank_out = fit_low_rank(f, l, MAT_O), l->low_rank_down = fit_low_rank(f, l, MAT_DOWN);
}

/* SiLU, up, and the down projection: the hidden values take what the residual and the weights leave. */
static CHECKED Result fit_hidden(const Fit *f, LayerPlan *l)
{
    int room = above(l->residual), left = 64 - room - down_cost(f), range = l->range.gate;
    LayerRings r;
    if (f->p->activation) {
        GUARD(fit_approx_hidden(f, l, left));
        fit_down(f, l, room);
        layer_rings(&r, f->p, (uint32_t)(l - f->p->layer));
        l->hidden.n = (unsigned)most(r.down.lift, (int)l->hidden.n);
        return OK;
    }
    int up = 10, cells = silu_cells(f->seen->cells, range), silu = clamp(cells + 10 - range, 8, 15);
    while (up + silu > left && up > 8) up--;
    while (up + silu > left && silu > 10) silu--;
    while (up + silu > left && up > 6) up--;
    if (up + silu > left) return fail(FAIL_DATA, "hidden values do not fit 64 bits");
    l->silu = silu_spec(FN_SILU, cells, range, silu);
    l->up = width(l->range.up + 2 + up, up);
    l->hidden.f = (unsigned)lookup_f(&l->silu) + l->up.f;
    fit_down(f, l, room);
    layer_rings(&r, f->p, (uint32_t)(l - f->p->layer));
    l->hidden.n = (unsigned)most(r.down.lift, range + l->range.up + (int)l->hidden.f + 1);
    return OK;
}

/* Ring of the sum of squares: the index's bits on top of what is shifted away; x's own ring costs nothing. */
static unsigned sum_ring(const Fit *f, const LookupSpec *s)
{
    return s->t + 2 * (unsigned)f->fx + square_bits(f->c->width) - s->f;
}

static CHECKED Result fit_layer(const Fit *f, uint32_t layer)
{
    LayerPlan *l = &f->p->layer[layer];
    const LayerSeen *s = &f->seen->layer[layer];
    for (int h = 0; h < (f->p->norm ? ATTN : f->p->side_by_side ? FFN : HALVES); h++) {
        NormPlan *n = h == ATTN ? &l->attn : &l->ffn;
        n->rsqrt = rsqrt_spec(f->c, s->square_low[h], s->square_high[h], f->start.inverse + (f->lean ? guard_bits : 0), f->start.inverse_spare);
        n->sum = sum_ring(f, &n->rsqrt);
        n->rsqrt_fine = (LookupSpec){0};
        if (f->lean) rsqrt_levels(&n->rsqrt, &n->rsqrt_fine);
    }
    fit_weights(f, l, layer);
    if (f->p->softmax) fit_softmax(f, l, s);
    fit_bound(f, l, s);
    if (f->gpt2 && f->p->activation) fit_approx_gate(f, l);
    else if (f->gpt2) fit_gelu(f, l);
    else GUARD(fit_hidden(f, l));
    GUARD(fit_attention_half(f, l, s));
    GUARD(fit_attention(f, l, deeper_bits(l, s)));
    if (!f->p->side_by_side) fit_norm(f, l, FFN, f->start.ffn_y, f->start.ffn_x);
    return OK;
}

// ---- the whole -------------------------------------------------------------------------------------------------------

static void fit_head(const Fit *f)
{
    Plan *p = f->p;
    const int logit = 16, normed = 14;
    p->final_residual = width(p->final_range + 2 + f->fx, f->fx);
    p->final_norm = rsqrt_spec(f->c, f->seen->square_low, f->seen->square_high, 12, 6);
    p->final_sum = sum_ring(f, &p->final_norm);
    p->head_f = p->weight_bits == 8 ? QUANT_F : weight_fraction(f->m ? head_largest(f->m) : assumed_weight, 15);
    p->logit_range = bits_of(f->seen->logit, margin);
    p->logit = width(p->logit_range + 1 + logit, logit);
    p->logit_drop = 8;
    p->final = width(p->logit_range + 1 + (int)p->head_f + normed, normed);
}

/* A residual that is small somewhere needs more fraction bits: 2^-12 of an rms of 1/4, up to 16 bits. A held norm says what it takes
 * the rms to be. */
static int residual_fraction(const Plan *p, const PlanSeen *s, int start)
{
    double low = s->square_low;
    for (uint32_t i = 0; i < p->layers * HALVES; i++)
        low = fmin(low, p->norm ? pow((double)p->norm[i], -2) : s->layer[i / HALVES].square_low[i % HALVES]);
    return clamp(start - (int)floor(log2(fmax(low, 1e-12)) / 2), least(start + 3, 12), 16);
}

Result plan_fit(Plan *p, const PlanSeen *seen, const ModelConfig *c, const Model *m)
{
    Fit f = {.p = p, .seen = seen, .c = c, .m = m, .private = p->private_part == PRIVATE_LAYERS,
             .lean = p->prefer == PREFER_BYTES, .gpt2 = c->arch == ARCH_GPT2};
    f.start = f.gpt2 ? start_gpt2(f.lean) : start_llama(f.lean, f.private);
    f.fx = residual_fraction(p, seen, f.start.residual);
    p->final_range = residual_bits(c, seen->residual, seen->square_high);
    for (uint32_t l = 0; l < p->layers; l++)
        fit_range(&f, &p->layer[l].range, &seen->layer[l], l + 1 < p->layers ? seen->layer[l + 1].residual : seen->residual,
                  l + 1 < p->layers ? seen->layer[l + 1].square_high[ATTN] : seen->square_high);
    Result r = fail(FAIL_DATA, "no widths tried");
    for (int from = f.start.private; from >= f.start.least_private && failed(r); from = (int)p->adapter_f - 1) {
        r = fit_private(&f, from);
        if (failed(r)) break;
        for (uint32_t l = 0; l < p->layers && !failed(r); l++) r = fit_layer(&f, l);
    }
    if (failed(r)) return fail_in(r, "calibration");
    fit_head(&f);
    return OK;
}

double gate_bound(int range, uint32_t cells) { return ldexp(1 - 1e-6, range) / (table_margin * silu_rim(cell_bits(cells))); }

int cell_bits(uint32_t cells)
{
    int bits = 0;
    while (cells >> bits > 1) bits++;
    return bits;
}

Variant plan_variant(const Plan *p)
{
    return (Variant){.first = p->frozen, .heads = p->heads, .side_by_side = p->side_by_side, .activation = p->activation,
                     .softmax = p->softmax, .score_scale = (float)p->score_scale, .score_shift = (float)p->score_shift,
                     .norm = p->norm, .norm_mix = p->norm ? 1 : 0, .row_bound = p->row_bound};
}

/* What the secure layers cannot do. */
static CHECKED Result variant_refuse(const Variant *v)
{
    const char *what = v->norm && v->norm_mix > 0 && v->norm_mix < 1 ? "norms on the way to a constant" : NULL;
    if (!what && v->side_by_side && (v->activation || v->softmax)) what = "halves side by side, with another function in one";
    return what ? fail(FAIL_USE, "the secure layers cannot run this variant yet: it has %s", what) : OK;
}

/* Groups of one head in their own order are none. */
static CHECKED Result heads_begin(Plan *out, const HeadGroups *g, const ModelConfig *c)
{
    GUARD(head_groups_check(g, c, out->layers));
    if (g->size <= 1 && !g->order) return OK;
    out->heads = (HeadGroups){.size = g->size, .heads = g->heads};
    size_t len = (size_t)out->layers * g->heads;
    uint32_t *order = g->order ? arena_new(&out->arena, uint32_t, len) : NULL;
    if (order) memcpy(order, g->order, len * sizeof *order);
    out->heads.order = order;
    return OK;
}

/* A member of the variant with `columns` numbers a layer, in the plan's own memory. */
static const float *numbers_keep(Plan *p, const float *x, size_t columns)
{
    float *own = x ? arena_new(&p->arena, float, p->layers * columns) : NULL;
    if (own) memcpy(own, x, p->layers * columns * sizeof *own);
    return own;
}

static CHECKED Result norms_begin(Plan *out, const Variant *v)
{
    if (!v->norm || v->norm_mix == 0) return OK;
    GUARD(held_norms_check(v->norm, out->layers));
    out->norm = numbers_keep(out, v->norm, HALVES);
    return OK;
}

static void bounds_begin(Plan *out, const Variant *v, const ModelConfig *c)
{
    if (!v->row_bound) return;
    LayerVariant one = variant_layer(v, c, v->first);
    out->bound_heads = merged_heads(&one);
    out->row_bound = numbers_keep(out, v->row_bound, out->bound_heads);
}

Result plan_begin(Plan *out, const ModelConfig *c, const PlanOptions *o)
{
    uint32_t context = o->context && o->context < c->context ? o->context : c->context;
    *out = (Plan){.arch = c->arch, .context = context, .frozen = o->frozen, .prefer = o->prefer, .private_part = o->private_part};
    arena_init(&out->arena, false);
    if (o->frozen >= c->layers) return fail(FAIL_USE, "%u frozen layers of %u leave none to run securely", o->frozen, c->layers);
    if (c->arch == ARCH_GPT2 && o->private_part == PRIVATE_LORA)
        return fail(FAIL_USE, "a GPT-2 runs with all weights of its secure layers private");
    out->layers = c->layers - o->frozen;
    out->layer = arena_new(&out->arena, LayerPlan, out->layers);
    out->known = context > 1;
    if (o->prefix_len >= context - out->known)
        return fail(FAIL_USE, "a known prefix of %u tokens leaves no room in a context of %u", o->prefix_len, context);
    out->known += o->prefix_len;
    out->query_bits = o->private_part == PRIVATE_LAYERS ? square_bits(c->head_dim) / 2 : 0;
    GUARD(variant_refuse(&o->variant));
    out->activation = o->variant.activation, out->softmax = o->variant.softmax;
    out->score_scale = o->variant.score_scale == 1 ? 0 : (double)o->variant.score_scale;
    if (out->softmax == SOFTMAX_2QUAD) out->score_shift = o->variant.score_shift != 0 ? (double)o->variant.score_shift : SOFTMAX_SHIFT;
    GUARD(cells_check(o->variant.cells));
    out->side_by_side = o->variant.side_by_side;
    GUARD(norms_begin(out, &o->variant));
    GUARD(heads_begin(out, &o->variant.heads, c));
    bounds_begin(out, &o->variant, c);
    return OK;
}

Result plan_assume(Plan *out, const ModelConfig *c, const PlanOptions *o, uint32_t rank)
{
    GUARD(plan_begin(out, c, o));
    out->weight_bits = o->weight_bits == 8 ? 8 : 16;
    out->rank = o->private_part == PRIVATE_LORA ? rank : 0;
    for (MatrixKind k = 0; k < MAT_COUNT; k++) out->adapted[k] = out->rank > 0 && (!o->targets || o->targets[k]);
    LayerSeen typical = {.residual = 200, .square_low = {0x1p-5, 0x1p-5}, .square_high = {0x1p+5, 0x1p+5}, .normed = {32, 32},
                         .product = {200, 200}, .low_rank = {60, 60}, .query = 2, .key = 15, .value = 7, .score = 48, .mixed = 4,
                         .gate = c->arch == ARCH_GPT2 ? 11 : 40, .up = 30, .sum_low = 25, .sum_high = 50.0 * out->context,
                         .row_low = -1, .row_high = 1, .score_below = 90};
    PlanSeen seen = {arena_new(&out->arena, LayerSeen, out->layers), 200, 0x1p-5, 0x1p+5, 30, cell_bits(o->variant.cells)};
    for (uint32_t l = 0; l < out->layers; l++) seen.layer[l] = typical;
    GUARD(plan_fit(out, &seen, c, NULL));
    return plan_check(out, c);
}
