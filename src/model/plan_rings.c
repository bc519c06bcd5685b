/* plan_rings.c - the rings of the products between two openings, from the widths of the opened wires.
 *
 * A value that ends in n bits with f fraction bits was computed, at scale g > f, in n - f + g bits: every local shift takes
 * its bits off the ring. So a chain of products needs its fraction bits, added up, on top of what the result keeps; 64 in
 * all. Each line below is one such sum. */
#include <math.h>
#include "model/secure_parts.h"

unsigned group_kinds(const Plan *p, int half, MatrixKind out[GROUP_MOST])
{
    unsigned count = 0;
    if (half == ATTN) out[0] = MAT_Q, out[1] = MAT_K, out[2] = MAT_V, count = 3;
    if (half != (p->side_by_side ? ATTN : FFN)) return count;
    out[count++] = MAT_GATE;
    if (p->arch != ARCH_GPT2) out[count++] = MAT_UP;
    return count;
}

int kind_half(MatrixKind kind)
{
    if (kind == MAT_Q || kind == MAT_K || kind == MAT_V) return ATTN;
    return kind == MAT_GATE || kind == MAT_UP ? FFN : HALVES;
}

double norm_mantissa(const Plan *p, uint32_t layer, int half, int *shift)
{
    int up = 0;
    double mantissa = 1;
    if (p->norm && half < HALVES) {
        const float *constant = p->norm + HALVES * layer;
        frexp((double)constant[p->side_by_side ? ATTN : half], &up);
        mantissa = ldexp((double)constant[half], -up);
    }
    if (shift) *shift = -up;
    return mantissa;
}

/* The table's value is 1 from 4 below its end on, two of its cells, and the cell below may be met from there. */
double bound_shift(const LayerPlan *l) { return ldexp(1, (int)l->score_exp.t - 1 - (int)l->score_exp.f) - 6 - l->row_slack; }

unsigned quant_fraction(const Plan *p, MatrixKind kind)
{
    return QUANT_F + (p->norm && kind_half(kind) < HALVES ? 3 : 0);
}

int lookup_f(const LookupSpec *s) { return (int)(s->f1 + s->fp); }

int private_f(const Plan *p, uint32_t layer, MatrixKind kind)
{
    return (int)(p->private_part == PRIVATE_LAYERS ? p->layer[layer].weight_f[kind] : p->adapter_f);
}

unsigned square_bits(uint32_t width)
{
    unsigned b = 0;
    while (UINT64_C(1) << b < width) b++;
    return b;
}

static int above(Width w) { return (int)w.n - (int)w.f; }

Width gate_width(const Plan *p, const LayerPlan *l) { return p->activation ? l->gate : (Width){l->silu.t, l->silu.f}; }
Width score_width(const Plan *p, const LayerPlan *l) { return p->softmax ? l->score : (Width){l->score_exp.t, l->score_exp.f}; }

int activation_f(const Plan *p, const LayerPlan *l)
{
    return p->activation == ACTIVATION_QUAD ? 2 * (int)l->gate.f + 3 : p->activation ? (int)l->gate.f : lookup_f(&l->silu);
}

int weight_f(const Plan *p, const LayerPlan *l)
{
    if (p->softmax == SOFTMAX_EXP) return (int)l->score_exp.f0 + 14;
    return (p->softmax == SOFTMAX_2QUAD ? 2 : 1) * (int)l->score.f + l->weight_unit;
}

/* Weights that are exponentials are at most 1. */
int sum_range(const Plan *p, const LayerPlan *l)
{
    int b = 1;
    if (p->softmax) return l->range.sum;
    while (UINT64_C(1) << b < p->context) b++;
    return b;
}

static int kind_room(const Plan *p, const LayerPlan *l, MatrixKind k)
{
    switch (k) {
    case MAT_Q: return above(l->query) + (int)l->rope_f;
    case MAT_K: return above(l->key) + (int)l->rope_f;
    case MAT_V: return above(l->value);
    case MAT_GATE: return above(gate_width(p, l));
    default: return above(l->up);
    }
}

static void norm_rings(NormRings *r, const Plan *p, const LayerPlan *l, int half)
{
    const NormPlan *n = half == ATTN ? &l->attn : &l->ffn;
    MatrixKind kind[GROUP_MOST];
    unsigned count = group_kinds(p, half, kind);
    bool private = p->private_part == PRIVATE_LAYERS, lean = p->prefer == PREFER_BYTES, adapted = false;
    int fx = (int)l->residual.f, fa = private_f(p, (uint32_t)(l - p->layer), kind[0]);
    *r = (NormRings){.inverse_f = lean ? (int)n->inverse.f : lookup_f(&n->rsqrt), .most = INT32_MIN};
    if (lean) r->inverse_times = above(n->inverse) + lookup_f(&n->rsqrt);
    for (unsigned k = 0; k < count; k++) {
        r->room[k] = kind_room(p, l, kind[k]), r->extra[k] = kind[k] == MAT_Q ? (int)p->query_bits : 0;
        if (r->room[k] + r->extra[k] > r->most) r->most = r->room[k] + r->extra[k];
        adapted |= !private && p->adapted[kind[k]];
        int lift = lean ? r->room[k] + (int)n->normed.f + (int)l->weight_f[kind[k]]
                        : (int)n->product.n - (int)n->product.f + fx + (int)l->weight_f[kind[k]];
        if (!private && lift > r->lift) r->lift = lift;
    }
    if (!lean) {
        if (!private && (int)n->sum > r->lift) r->lift = (int)n->sum;
        r->times = r->most + (int)n->product.f + r->inverse_f;
        if (private || adapted) r->pinned_a = (int)l->residual.n;
        if (adapted) r->pinned_b = (int)n->low_rank.n;
        return;
    }
    r->times = (int)n->normed.n + fx + r->inverse_f - (int)n->normed.f;
    r->normed_opened = !private || (half == ATTN && p->arch == ARCH_LLAMA);
    if (private) r->pinned_a = r->most + (int)n->normed.f + fa;
    if (private && r->normed_opened) r->lift = r->pinned_a;
    if (adapted) {
        r->pinned_a = (int)l->residual.n;
        r->pinned_b = (int)n->low_rank_normed.n;
        r->times_low_rank = r->pinned_b + (int)n->low_rank.f + r->inverse_f - (int)n->low_rank_normed.f;
    }
}

/* Behind a norm that is held. Low-rank values that meet RoPE's ring are lifted on their way: it has no room for two private
 * factors on top of x. */
static void held_rings(NormRings *r, const Plan *p, const LayerPlan *l, int half)
{
    const NormPlan *n = half == ATTN ? &l->attn : &l->ffn;
    MatrixKind kind[GROUP_MOST];
    unsigned count = group_kinds(p, half, kind);
    bool private = p->private_part == PRIVATE_LAYERS, lean = p->prefer == PREFER_BYTES, adapted = false;
    int fa = private_f(p, (uint32_t)(l - p->layer), kind[0]);
    *r = (NormRings){.held = true, .most = INT32_MIN, .normed_opened = !private || half == ATTN};
    norm_mantissa(p, (uint32_t)(l - p->layer), half, &r->shift);
    for (unsigned k = 0; k < count; k++) {
        r->room[k] = kind_room(p, l, kind[k]), r->extra[k] = kind[k] == MAT_Q ? (int)p->query_bits : 0;
        if (r->room[k] + r->extra[k] > r->most) r->most = r->room[k] + r->extra[k];
        adapted |= !private && p->adapted[kind[k]];
    }
    r->z_opened = adapted && half == ATTN && lean;
    for (unsigned k = 0; k < count && !private; k++) {
        r->lifted[k] = half == ATTN && !lean && p->adapted[kind[k]] && r->room[k] > above(n->product);
        r->y_opened |= r->lifted[k];
        int room = r->lifted[k] ? above(n->product) : r->room[k];
        int lift = room + (int)n->normed.f + (int)l->weight_f[kind[k]];
        if (lift > r->lift) r->lift = lift;
    }
    if (private) r->pinned_a = r->most + (int)n->normed.f + fa;
    if (private && r->normed_opened) r->lift = r->pinned_a;
    if (adapted) r->pinned_a = (int)n->normed.n, r->pinned_b = (int)(r->z_opened ? n->low_rank_normed.n : n->low_rank.n);
    if (r->y_opened) r->times = r->most + (int)n->product.f;
}

/* in_f: fraction bits of the input; z: the low-rank wire between A and B. */
static void out_rings(OutRings *r, const Plan *p, const LayerPlan *l, MatrixKind kind, int in_f, Width z)
{
    int room = above(l->residual), fa = private_f(p, (uint32_t)(l - p->layer), kind);
    *r = (OutRings){0};
    if (p->private_part == PRIVATE_LAYERS) r->pinned_a = room + in_f + fa;
    else {
        r->public = room + in_f + (int)l->weight_f[kind];
        if (p->adapted[kind]) r->pinned_a = above(z) + in_f + fa, r->pinned_b = (int)z.n;
    }
    r->lift = r->public > r->pinned_a ? r->public : r->pinned_a;
}

void layer_rings(LayerRings *r, const Plan *p, uint32_t layer)
{
    const LayerPlan *l = &p->layer[layer];
    r->norm[FFN] = (NormRings){0};
    for (int half = 0; half < (p->side_by_side ? FFN : HALVES); half++) (p->norm ? held_rings : norm_rings)(&r->norm[half], p, l, half);
    bool lean = p->prefer == PREFER_BYTES;
    int looked = lookup_f(&l->sum_coarse);
    r->exp_times = above(l->exp) + weight_f(p, l);
    r->sum_f = lean ? (int)l->sum_inverse.f : looked;
    r->sum_times = lean ? above(l->sum_inverse) + looked : 0;
    r->mix_times = above(l->attention) + (int)l->mix.f + r->sum_f;
    r->gelu_times = p->arch == ARCH_GPT2 ? above(l->hidden) + activation_f(p, l) : 0;
    if (p->arch == ARCH_LLAMA && p->activation)
        r->gated_times = above(l->gated) + activation_f(p, l) + (p->activation == ACTIVATION_RELU ? (int)l->up.f : 0);
    out_rings(&r->out, p, l, MAT_O, (int)l->attention.f, l->low_rank_out);
    out_rings(&r->down, p, l, MAT_DOWN, (int)l->hidden.f, l->low_rank_down);
}

int final_times(const Plan *p) { return above(p->final) + (int)p->final_residual.f + lookup_f(&p->final_norm); }
