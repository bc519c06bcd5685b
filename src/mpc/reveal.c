/* reveal.c - a value leaves to C alone, shifted at an opening towards S.
 *
 * C sends x_C + r_C; S adds x_S + r_S and has x^ = x + r, which r hides from it. With r = 2^k h_r + p and x^ = 2^k h^ + l^,
 * h^ - h_r is x / 2^k rounded by a coin (p) that T alone knows. S answers with h^ minus its dealt share of h_r, and C
 * subtracts its own. C must not see l^: with h_r it would have x + p, and the coin would be its own. */
#include "mpc/engine.h"

struct Reveal {
    const Layout *at;
    unsigned n, k;
    const uint64_t *x_s;
    Share rs, hc, hs;
    uint64_t *hat;                             // S: what C sent
    uint64_t *answer;                          // C: what S sent
    int64_t *value;
};

Reveal *reveal_send(Engine *e, Wire a, unsigned k)
{
    ASSERT(k >= 1 && k < a.n);
    size_t len = layout_len(a.at);
    Reveal *v = arena_new(&e->step, Reveal, 1);
    *v = (Reveal){.at = a.at, .n = a.n, .k = k, .x_s = a.s.word};
    Share rc;
    source_mask_client(e, &rc, a.at, a.n);
    source_mask_server(e, &v->rs, a.at, a.n);
    uint64_t *h = words_if(e, e->third, len);
    for (size_t i = 0; h && i < len; i++) h[i] = ring_low(rc.word[i] + v->rs.word[i], a.n) >> k;
    source_deal(e, &v->hc, &v->hs, h, a.at, a.n - k);
    v->hat = words_if(e, e->server, len);
    engine_send(e, (Pending){.from_client = true, .at = a.at, .n = a.n, .to = v->hat}, a.c.word, rc.word);
    if (e->clear) {
        v->value = (int64_t *)words_new(e, len);
        for (size_t i = 0; i < len; i++) {
            uint64_t hat = ring_low(wire_value(e, &a, i) + rc.word[i] + v->rs.word[i], a.n);
            v->value[i] = ring_signed((hat >> k) - h[i], a.n - k);
        }
    }
    return v;
}

void reveal_answer(Engine *e, Reveal *v)
{
    size_t len = layout_len(v->at);
    uint64_t *mine = words_if(e, e->server, len);
    for (size_t i = 0; mine && i < len; i++)
        mine[i] = (ring_low(v->hat[i] + v->x_s[i] + v->rs.word[i], v->n) >> v->k) - v->hs.word[i];
    v->answer = words_if(e, e->role == ROLE_CLIENT, len);
    engine_send(e, (Pending){.from_server = true, .at = v->at, .n = v->n - v->k, .to = v->answer}, mine, NULL);
}

const int64_t *reveal_take(Engine *e, Reveal *v)
{
    if (e->role != ROLE_CLIENT) return v->value;
    size_t len = layout_len(v->at);
    v->value = (int64_t *)words_new(e, len);
    for (size_t i = 0; i < len; i++) v->value[i] = ring_signed(v->answer[i] - v->hc.word[i], v->n - v->k);
    return v->value;
}
