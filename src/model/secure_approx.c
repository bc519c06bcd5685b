/* secure_approx.c - other activations and softmaxes, on shares: Quad and ReLU, 2Quad and 2ReLU.
 *
 * They are here to be compared with. A polynomial of degree two of an opened value is local; a ReLU is the opened value times its
 * sign, which opens one bit (mpc.h). Exchanges, beside those of secure_layer.c:
 *
 *     2Quad    scores                                   instead of 5-8: the weights are local
 *     2ReLU    scores | signs                           instead of 5-8
 *     Quad     gate^, up^ | activation^                 as 16 and 17; GPT-2, which has no up: gate^ alone
 *     ReLU     gate^, up^ | (gate times up)^, signs     as 16 and 17; GPT-2: gate^ | signs
 *
 * The shift of 2Quad and the halves of Quad are public numbers of the polynomial; 2^-weight_unit and 1/8 are matters of scale. */
#include <math.h>
#include "model/secure_parts.h"

Result approx_weights(SecureNet *s, const LayerNet *l, Wire scores, Wire *out)
{
    Engine *e = s->e;
    const LayerPlan *p = l->plan;
    unsigned ring = (unsigned)l->rings.exp_times;
    Opened *x = wire_open_to(e, scores, p->score.n, p->score.f);
    Wire w;
    GUARD(engine_exchange(e, "attention: scores"));
    if (s->plan->softmax == SOFTMAX_2QUAD) {
        int64_t shift = llrint(ldexp(s->plan->score_shift, (int)p->score.f));
        w = factor_mul_once(e, opened_quadratic(e, x, ring, 2 * shift, shift * shift), NULL, ring);
    } else {
        Signed *sign = sign_select(e, x, p->score_cell);
        GUARD(engine_exchange(e, "attention: signs of the scores"));
        w = factor_mul_once(e, sign_factor(e, sign, ring), opened_factor(e, x, ring), ring);
    }
    *out = wire_to(e, wire_label(w, (unsigned)weight_f(s->plan, p)), p->exp.n, p->exp.f);
    return OK;
}

/* 8 (x^2 / 8 + x / 4 + 1 / 2) = x^2 + 2 x + 4 of the opened gate. */
static Wire quad(SecureNet *s, const LayerNet *l, Opened *gate, unsigned ring)
{
    int64_t one = INT64_C(1) << gate_width(s->plan, l->plan).f;
    Wire w = factor_mul_once(s->e, opened_quadratic(s->e, gate, ring, 2 * one, 4 * one * one), NULL, ring);
    return wire_label(w, (unsigned)activation_f(s->plan, l->plan));
}

static CHECKED Result gate_alone(SecureNet *s, const LayerNet *l, Opened *gate, Wire *out)
{
    Engine *e = s->e;
    unsigned ring = (unsigned)l->rings.gelu_times;
    Wire h;
    GUARD(engine_exchange(e, "ffn: gate"));
    if (s->plan->activation == ACTIVATION_QUAD) h = quad(s, l, gate, ring);
    else {
        Signed *sign = sign_select(e, gate, l->plan->gate_cell);
        GUARD(engine_exchange(e, "ffn: signs of the gate"));
        h = factor_mul_once(e, sign_factor(e, sign, ring), opened_factor(e, gate, ring), ring);
    }
    *out = wire_to(e, h, l->plan->hidden.n, l->plan->hidden.f);
    return OK;
}

Result approx_hidden(SecureNet *s, const LayerNet *l, Wire gate, Wire up, Wire *out)
{
    Engine *e = s->e;
    const LayerPlan *p = l->plan;
    unsigned times = (unsigned)l->rings.gated_times, ring = p->hidden.n;
    Opened *g = wire_open_to(e, gate, p->gate.n, p->gate.f);
    if (s->config.arch == ARCH_GPT2) return gate_alone(s, l, g, out);
    Opened *u = wire_open_to(e, up, p->up.n, p->up.f);
    GUARD(engine_exchange(e, "ffn: gate; up"));
    if (s->plan->activation == ACTIVATION_QUAD) {
        Opened *a = wire_open_to(e, quad(s, l, g, times), p->gated.n, p->gated.f);
        GUARD(engine_exchange(e, "ffn: activation"));
        *out = factor_mul_once(e, opened_factor(e, u, ring), opened_factor(e, a, ring), ring);
        return OK;
    }
    Wire both = factor_mul_once(e, opened_factor(e, g, times), opened_factor(e, u, times), times);
    Opened *b = wire_open_to(e, both, p->gated.n, p->gated.f);
    Signed *sign = sign_select(e, g, p->gate_cell);
    GUARD(engine_exchange(e, "ffn: gate times up; signs of the gate"));
    *out = factor_mul_once(e, sign_factor(e, sign, ring), opened_factor(e, b, ring), ring);
    return OK;
}
