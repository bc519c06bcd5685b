/* secure.c - the secure network as a whole: what a role sets up for a session, batches, the head, and the cost. */
#include <math.h>
#include "model/secure_parts.h"

// ---- setup -----------------------------------------------------------------------------------------------------------

static bool holds_private(const SecureNet *s)
{
    return engine_role(s->e) == ROLE_SERVER || engine_role(s->e) == ROLE_CLEAR;
}

static bool holds_public(const SecureNet *s) { return holds_private(s) || engine_role(s->e) == ROLE_CLIENT; }

static CHECKED Result pin_new(SecureNet *s, const Pinned **out, Arena *session, const Model *m, const Adapter *a, uint32_t layer, Pin pin)
{
    PinShape shape = pin_shape(s->plan, &s->config, layer, pin);
    *out = NULL;
    if (shape.outputs == 0) return OK;
    Arena scratch;
    arena_init(&scratch, true);
    int32_t *w = NULL;
    Result r = holds_private(s) ? pin_weights(&w, s->plan, m, a, layer, pin, &scratch) : OK;
    if (!failed(r)) {
        unsigned f = (unsigned)pin_f(s->plan, layer, pin);
        const char *name = arena_format(&scratch, "layer %u, %s, (%zu, %zu) mod 2^%u, %u fraction bits", s->plan->frozen + layer,
                                        pin_names[pin], shape.outputs, shape.inputs, shape.n, f);
        *out = s->pin[s->pins] = pinned_new(s->e, session, name, shape.outputs, shape.inputs, shape.n, f, w);
        if (*out) s->pins++;
        else r = fail(FAIL_SYSTEM, "there is no memory for the masked matrix of %s", name);
    }
    arena_free(&scratch);
    return r;
}

static CHECKED Result matrix_new(const SecureNet *s, PublicMatrix *out, Arena *session, const Model *m, uint32_t layer, MatrixKind kind)
{
    *out = (PublicMatrix){matrix_rows(&s->config, kind), matrix_cols(&s->config, kind), s->plan->layer[layer].weight_f[kind], NULL, NULL, NULL};
    return holds_public(s) ? public_matrix(out, s->plan, m, layer, kind, session) : OK;
}

static CHECKED Result half_new(SecureNet *s, NormNet *n, Arena *session, const Model *m, const Adapter *a, uint32_t layer, int half)
{
    const LayerPlan *p = &s->plan->layer[layer];
    MatrixKind kind[GROUP_MOST];
    unsigned count = group_kinds(s->plan, half, kind);
    const NormPlan *norm = half == ATTN ? &p->attn : &p->ffn;
    if (count == 0) return OK;
    n->rsqrt = s->plan->norm ? NULL : tables_find(s->table, s->tables, &norm->rsqrt);
    n->rsqrt_fine = n->rsqrt && norm->rsqrt.border ? tables_find(s->table, s->tables, &norm->rsqrt_fine) : NULL;
    GUARD(pin_new(s, &n->a, session, m, a, layer, half == ATTN ? PIN_A_ATTN : PIN_A_FFN));
    for (unsigned k = 0; k < count; k++) {
        GUARD(pin_new(s, &n->b[k], session, m, a, layer, pin_of_b(kind[k])));
        if (s->plan->private_part == PRIVATE_LORA) GUARD(matrix_new(s, &n->w[k], session, m, layer, kind[k]));
    }
    return OK;
}

/* The angles, shared by layers with the same fraction bits. */
static void angles_new(SecureNet *s, LayerNet *l, Arena *session, uint32_t layer)
{
    unsigned f = l->plan->rope_f;
    for (uint32_t before = 0; before < layer; before++)
        if (s->layer[before].plan->rope_f == f) l->rope = s->layer[before].rope;
    if (!holds_public(s) || l->rope || f == 0) return;
    int32_t *angle = arena_new(session, int32_t, (size_t)s->plan->context * s->config.head_dim);
    rope_integers(angle, &s->config, s->plan->context, f);
    l->rope = angle;
}

/* Heads of a group stand side by side: key-value heads in the plan's order, and the query heads that share them alike. Where some
 * are pruned, the matrices give and take the others in that order. */
static void orders_new(SecureNet *s, LayerNet *l, Arena *session, uint32_t layer)
{
    const ModelConfig *c = &s->config;
    const HeadGroups *g = &s->plan->heads;
    uint32_t share = c->heads / c->kv_heads, size = g->size > 1 ? g->size : 1;
    if (!g->order && (size == 1 || share == 1)) return;
    uint32_t *key = arena_new(session, uint32_t, c->kv_heads), *query = arena_new(session, uint32_t, c->heads);
    for (uint32_t i = 0; i < c->kv_heads; i++) key[i] = group_head(g, layer, i);
    l->known_order = key;
    if (s->known_heads > c->kv_heads) return;
    for (uint32_t i = 0; i < c->heads; i++) {
        uint32_t merged = i / size, member = i % size;
        query[i] = key[merged / share * size + member] * share + merged % share;
    }
    l->key_order = key, l->query_order = query;
}

static void bounds_new(SecureNet *s, LayerNet *l, Arena *session, uint32_t layer)
{
    uint32_t heads = s->plan->bound_heads;
    if (l->plan->row_slack == 0) return;
    uint64_t *words = arena_new(session, uint64_t, heads);
    for (uint32_t h = 0; h < heads; h++)
        words[h] = ring_from_real(bound_shift(l->plan) - (double)s->plan->row_bound[layer * heads + h], l->plan->query.f + l->plan->key.f);
    l->bound = words;
}

/* Fraction bits of the result to which the bias of a matrix is added. */
static unsigned bias_fraction(const SecureNet *s, const LayerNet *l, uint32_t layer, MatrixKind matrix)
{
    if (matrix == MAT_O || matrix == MAT_DOWN)
        return (matrix == MAT_O ? l->plan->attention.f : l->plan->hidden.f) + (unsigned)private_f(s->plan, layer, matrix);
    int half = kind_half(matrix) == FFN && !s->plan->side_by_side ? FFN : ATTN;
    const NormPlan *n = half == FFN ? &l->plan->ffn : &l->plan->attn;
    const NormRings *r = &l->rings.norm[half];
    if (s->plan->prefer == PREFER_BYTES || r->held) return n->product.f;
    return n->product.f + (unsigned)(r->inverse_f + (matrix == MAT_Q ? r->extra[0] : 0));
}

static CHECKED Result bias_new(SecureNet *s, LayerNet *l, Arena *session, const Model *m, const Adapter *a, uint32_t layer, MatrixKind kind)
{
    double *bias;
    const uint32_t *kept = kind == MAT_O ? NULL : kept_heads(s->plan, &m->config, layer, kind, session);
    GUARD(private_bias(&bias, s->plan, m, a, s->plan->frozen + layer, kind, session));
    if (!bias) return OK;
    size_t rows = matrix_rows(&s->config, kind);
    unsigned f = l->bias_f[kind] = bias_fraction(s, l, layer, kind);
    uint64_t *words = arena_new(session, uint64_t, rows);
    for (size_t i = 0; i < rows; i++) {
        double v = bias[kept ? kept[i] : i];
        if (!(fabs(ldexp(v, (int)f)) < 0x1p62))
            return fail(FAIL_DATA, "layer %u %s: a bias of %g does not fit the plan", s->plan->frozen + layer, matrix_names[kind], v);
        words[i] = ring_from_real(v, f);
    }
    l->bias[kind] = words;
    return OK;
}

static CHECKED Result layer_new(SecureNet *s, Arena *session, const Model *m, const Adapter *a, uint32_t layer)
{
    LayerNet *l = &s->layer[layer];
    const LayerPlan *p = l->plan = &s->plan->layer[layer];
    const ModelConfig *c = &s->config;
    layer_rings(&l->rings, s->plan, layer);
    GUARD(half_new(s, &l->norm[ATTN], session, m, a, layer, ATTN));
    GUARD(pin_new(s, &l->out_a, session, m, a, layer, PIN_A_OUT));
    GUARD(pin_new(s, &l->out_b, session, m, a, layer, PIN_B_OUT));
    GUARD(half_new(s, &l->norm[FFN], session, m, a, layer, FFN));
    GUARD(pin_new(s, &l->down_a, session, m, a, layer, PIN_A_DOWN));
    GUARD(pin_new(s, &l->down_b, session, m, a, layer, PIN_B_DOWN));
    if (s->plan->private_part == PRIVATE_LORA) {
        GUARD(matrix_new(s, &l->out, session, m, layer, MAT_O));
        GUARD(matrix_new(s, &l->down, session, m, layer, MAT_DOWN));
    }
    l->score_exp = tables_find(s->table, s->tables, &p->score_exp);
    l->sum_coarse = tables_find(s->table, s->tables, &p->sum_coarse);
    l->sum_fine = p->sum_coarse.border ? tables_find(s->table, s->tables, &p->sum_fine) : NULL;
    l->silu = tables_find(s->table, s->tables, &p->silu);
    angles_new(s, l, session, layer);
    orders_new(s, l, session, layer);
    bounds_new(s, l, session, layer);
    for (MatrixKind k = 0; k < MAT_COUNT && holds_private(s); k++) GUARD(bias_new(s, l, session, m, a, layer, k));
    size_t kv = (size_t)c->kv_heads * c->head_dim;
    s->cache[s->caches++] = l->keys = cache_new(session, s->plan->context, kv, p->key.n, p->key.f);
    s->cache[s->caches++] = l->values = cache_new(session, s->plan->context, kv, p->value.n, p->value.f);
    return OK;
}

/* What the plan says is public must hold all that differs from the public base. */
static CHECKED Result adapter_fits(const Plan *p, const ModelConfig *c, const Adapter *a)
{
    if (!a) return p->rank ? fail(FAIL_DATA, "the plan was made for an adapter of rank %u, and there is none", p->rank) : OK;
    if (a->layers != c->layers) return fail(FAIL_DATA, "the adapter has %u layers, the model %u", a->layers, c->layers);
    for (uint32_t l = 0; l < a->layers; l++) {
        for (MatrixKind k = 0; k < MAT_COUNT; k++) {
            if (!a->pair[l][k].a) continue;
            if (l < p->frozen) {
                return fail(FAIL_DATA, "the adapter has factors in layer %u, below the %u that the client runs", l, p->frozen);
            }
            if (p->private_part == PRIVATE_LORA && !p->adapted[k]) {
                return fail(FAIL_DATA, "the adapter has factors of %s, the plan none", matrix_names[k]);
            }
        }
    }
    return OK;
}

Result secure_new(SecureNet **out, Engine *e, Arena *session, const ModelConfig *c, const Plan *p, const Model *m, const Adapter *a)
{
    SecureNet *s = *out = arena_new(session, SecureNet, 1);
    GUARD(plan_check(p, c));
    s->e = e, s->session = session, s->config = plan_shape(p, c), s->known_heads = c->kv_heads, s->plan = p;
    ASSERT(!holds_public(s) || m);
    if (holds_private(s)) GUARD(adapter_fits(p, c, a));
    s->tables = tables_new(p, &s->table, session);
    s->layer = arena_new(session, LayerNet, p->layers);
    s->pin = arena_new(session, Pinned *, (size_t)p->layers * PIN_COUNT);
    s->cache = arena_new(session, Cache *, (size_t)p->layers * 2);
    for (uint32_t l = 0; l < p->layers; l++) GUARD(layer_new(s, session, m, a, l));
    s->head = (PublicMatrix){c->vocab, c->width, p->head_f, NULL, NULL, NULL};
    if (holds_public(s)) GUARD(public_head(&s->head, p, m, session));
    if (engine_role(e) == ROLE_CLIENT || engine_role(e) == ROLE_CLEAR) s->head_bias = m->head_bias;
    s->final_norm = tables_find(s->table, s->tables, &p->final_norm);
    return OK;
}

size_t secure_pins(const SecureNet *s, Pinned *const **pins)
{
    *pins = s->pin;
    return s->pins;
}

uint32_t secure_past(const SecureNet *s) { return s->past; }

void secure_truncate(SecureNet *s, uint32_t past)
{
    for (size_t i = 0; i < s->caches; i++) cache_truncate(s->cache[i], past);
    s->past = past;
}

void secure_restart(SecureNet *s)
{
    secure_truncate(s, 0);
}

// ---- a batch ---------------------------------------------------------------------------------------------------------

/* Layout of `columns` words in every row, or in the last one alone. */
static const Layout *head_layout(SecureNet *s, size_t rows, size_t columns, bool last_only)
{
    if (!last_only) return layout_uniform(s->e, columns);
    size_t *each = arena_new(engine_arena(s->e), size_t, rows);
    each[rows - 1] = columns;
    return layout_ragged(s->e, each);
}

typedef struct Picked { const Layout *at; const PublicMatrix *head; unsigned bits; } Picked;

static void pick_row(const void *ctx, size_t row, uint64_t *out, const uint64_t *in)
{
    const Layout *at = ctx;
    for (size_t i = 0; i < at->begin[row + 1] - at->begin[row]; i++) out[i] = in[i];
}

static void head_row(const void *ctx, size_t row, uint64_t *out, const uint64_t *in)
{
    const Picked *p = ctx;
    if (p->at->begin[row + 1] > p->at->begin[row]) public_product(out, in, p->head, 1, p->bits);
}

/* Final norm, head, and the reveal of logits to C: 5 exchanges. */
static CHECKED Result head_forward(SecureNet *s, Wire x, size_t rows, float *logits, bool last_only)
{
    Engine *e = s->e;
    const Plan *p = s->plan;
    size_t width = s->config.width, vocab = s->config.vocab;
    const Layout *at = head_layout(s, rows, width, last_only), *out = head_layout(s, rows, vocab, last_only);
    if (last_only) x = wire_map(e, x, at, 0, pick_row, at);
    Wire normed;
    GUARD(norm_fused(s, &normed, x, head_layout(s, rows, 1, last_only), p->final_residual, s->final_norm, p->final_sum,
                     (unsigned)final_times(p)));
    normed = wire_to(e, normed, p->final.n, p->final.f);
    Wire l = last_only ? wire_map(e, normed, out, p->head_f, head_row, &(Picked){out, &s->head, normed.n}) : wire_linear(e, normed, &s->head);
    Reveal *reveal = reveal_send(e, wire_to(e, l, p->logit.n, p->logit.f), p->logit_drop);
    GUARD(engine_exchange(e, "logits to the server, masked"));
    reveal_answer(e, reveal);
    GUARD(engine_exchange(e, "logits to the client"));
    const int64_t *words = reveal_take(e, reveal);
    if (words && logits)
        for (size_t i = 0; i < layout_len(out); i++) {
            double bias = s->head_bias ? (double)s->head_bias[i % vocab] : 0;
            logits[i] = (float)(ldexp((double)words[i], -(int)(p->logit.f - p->logit_drop)) + bias);
        }
    return OK;
}

/* What LayerNorm takes out of a row, before anything is computed on it. */
static double row_mean(const SecureNet *s, const float *x)
{
    double sum = 0;
    if (s->config.arch != ARCH_GPT2) return 0;
    for (size_t i = 0; i < s->config.width; i++) sum += (double)x[i];
    return sum / s->config.width;
}

typedef struct Cut {
    const SecureNet *s;
    uint64_t *out;                             // (rows, width)
    const float *x;                            // (rows, width)
    double bound, *beyond;                     // beyond (rows): a value of the row that is not below the bound, or 0
} Cut;

static void cut_rows(void *ctx, size_t begin, size_t end)
{
    const Cut *c = ctx;
    size_t width = c->s->config.width;
    for (size_t r = begin; r < end; r++) {
        const float *x = c->x + r * width;
        double mean = row_mean(c->s, x);
        for (size_t i = 0; i < width; i++) {
            double v = (double)x[i] - mean;
            if (fabs(v) < c->bound) c->out[r * width + i] = ring_from_real(v, c->s->plan->layer[0].residual.f);
            else c->beyond[r] = v;
        }
    }
}

/* C's hidden state at the cut, as words. */
static CHECKED Result cut_words(SecureNet *s, uint64_t **out, const float *x, size_t rows)
{
    Arena *a = engine_arena(s->e);
    Cut c = {s, arena_new(a, uint64_t, rows * s->config.width), x, ldexp(1, s->plan->layer[0].range.residual), arena_new(a, double, rows)};
    *out = c.out;
    parallel_for(rows, 8, cut_rows, &c);
    for (size_t r = 0; r < rows; r++) {
        if (c.beyond[r] != 0)                  // NaN, too
            return fail(FAIL_DATA, "the hidden state at the cut, %g, lies outside of the plan's +-%g", c.beyond[r], c.bound);
    }
    return OK;
}

/* Words of the largest tensor of a batch, as a number that does not overflow. */
static double batch_words(const Plan *p, const ModelConfig *c, uint32_t past, size_t rows, bool last_only)
{
    double heads = (double)c->heads / (p->heads.size > 1 ? p->heads.size : 1), seen = past + ((double)rows + 1) / 2;
    double row = fmax(fmax(c->width, 2.0 * c->ffn), ((double)c->heads + 2.0 * c->kv_heads) * c->head_dim);
    return fmax((double)rows * fmax(row, heads * seen), (last_only ? 1.0 : (double)rows) * c->vocab);
}

/* Tensors of that size at once, measured: T's scores, the most, with the masks of both sides. */
enum { BATCH_TENSORS = 12 };
static const double most_batch_words = 0x1p29, small_batch_words = 0x1p21;

/* A batch, and keys and values of all positions before `end`: the step arena keeps what the largest batch took, so both are held at
 * once from some token on. */
static CHECKED Result batch_room(const SecureNet *s, uint32_t past, size_t rows, bool last_only, size_t end)
{
    double words = batch_words(s->plan, &s->config, past, rows, last_only);
    if (words > most_batch_words)
        return fail(FAIL_DATA, "a batch of %zu positions after %u is too large: a tensor of %.0f words", rows, past, words);
    size_t bytes = words < small_batch_words ? 0 : (size_t)words * BATCH_TENSORS * sizeof(uint64_t);
    bytes += cache_missing(s->e, s->cache, s->caches, end);
    if (bytes == 0 || memory_left(bytes)) return OK;
    return fail(FAIL_SYSTEM, "there is no memory for a batch of %zu positions after %u", rows, past);
}

Result secure_room(const SecureNet *s, uint32_t past, size_t rows, bool last_only)
{
    return batch_room(s, past, rows, last_only, past + rows);
}

Result secure_room_conversation(const SecureNet *s, size_t rows, bool last_only, uint32_t more)
{
    uint32_t known = s->plan->known;
    size_t end = known + rows + more;
    GUARD(batch_room(s, known, rows, last_only, end));
    return more ? batch_room(s, (uint32_t)end - 1, 1, true, end) : OK;
}

static CHECKED Result layers_forward(SecureNet *s, size_t rows, const float *x, const KnownPrefix *known, bool last_only, Wire *w)
{
    const Plan *p = s->plan;
    Engine *e = s->e;
    bool enter = s->past == 0 && p->known > 0, client = engine_role(e) == ROLE_CLIENT || engine_role(e) == ROLE_CLEAR;
    ASSERT(rows > 0 && (x || !client) && (!enter || known || !holds_private(s)));
    uint32_t past = enter ? p->known : s->past;
    if (rows > p->context - past) {
        return fail(FAIL_DATA, "%zu positions after %u do not fit the plan's context of %u", rows, past, p->context);
    }
    if (engine_role(e) != ROLE_COUNT) GUARD(engine_refuse(e, secure_room(s, past, rows, last_only)));
    GUARD(engine_refuse(e, cache_reserve(e, s->session, s->cache, s->caches, past + rows)));
    uint64_t *words = NULL;
    if (client) GUARD(cut_words(s, &words, x, rows));
    s->past = past;
    engine_position(e, past);
    *w = wire_input_client(e, layout_uniform(e, s->config.width), p->layer[0].residual.n, p->layer[0].residual.f, words);
    for (uint32_t l = 0; l < p->layers; l++) {
        bool mine = enter && holds_private(s);
        GUARD(engine_refuse(e, layer_forward(s, &s->layer[l], w, enter, mine ? known->keys[l] : NULL, mine ? known->values[l] : NULL)));
    }
    return OK;
}

Result secure_layers(SecureNet *s, size_t rows, const float *x, const KnownPrefix *known, Wire *out)
{
    GUARD(layers_forward(s, rows, x, known, true, out));
    GUARD(engine_end(s->e));
    s->past += (uint32_t)rows;
    return OK;
}

Result secure_forward(SecureNet *s, size_t rows, const float *x, const KnownPrefix *known, float *logits, bool last_only)
{
    Wire w;
    GUARD(layers_forward(s, rows, x, known, last_only, &w));
    GUARD(head_forward(s, w, rows, logits, last_only));
    GUARD(engine_end(s->e));
    s->past += (uint32_t)rows;
    return OK;
}

enum { AHEAD_BYTES = 64 << 20 };

Result secure_ahead(SecureNet *s, size_t rows, uint64_t first, const uint8_t (*client)[KEY_BYTES])
{
    uint32_t past = s->past;
    size_t each = 0;
    for (uint32_t l = 0; l < s->plan->layers; l++)
        for (Pin pin = 0; pin < PIN_COUNT; pin++) each += pin_shape(s->plan, &s->config, l, pin).outputs * sizeof(uint64_t);
    if (each == 0) return OK;
    if (rows > AHEAD_BYTES / each) rows = AHEAD_BYTES / each;
    if (rows == 0) return OK;
    engine_ahead(s->e, rows, first, client);
    Result r = secure_forward(s, rows, NULL, NULL, NULL, true);
    engine_ahead_end(s->e);
    secure_truncate(s, past);
    return r;
}

// ---- cost ------------------------------------------------------------------------------------------------------------

/* A cache of `past` positions, without their words. */
static CHECKED Result pretend_past(SecureNet *s, uint32_t past)
{
    Engine *e = s->e;
    for (uint32_t l = 0; l < s->plan->layers; l++) {
        const LayerPlan *p = &s->plan->layer[l];
        size_t kv = (size_t)s->config.kv_heads * s->config.head_dim, *begin = arena_new(engine_arena(e), size_t, 2);
        begin[1] = past * kv;
        Layout *at = arena_new(engine_arena(e), Layout, 1);
        *at = (Layout){1, begin};
        cache_append(e, s->layer[l].keys, server_open(e, at, p->key.n, p->key.f, NULL));
        cache_append(e, s->layer[l].values, server_open(e, at, p->value.n, p->value.f, NULL));
        GUARD(engine_exchange(e, "past"));
    }
    s->past = past;
    return OK;
}

typedef enum { HEAD_NONE, HEAD_LAST, HEAD_ALL } HeadRows;

static CHECKED Result cost_count(Cost *out, const Plan *p, const ModelConfig *c, uint32_t past, size_t rows, HeadRows head)
{
    Wire w;
    Arena a;
    arena_init(&a, false);
    Engine *e = engine_new(ROLE_COUNT, NULL, NULL);
    SecureNet *s = NULL;
    Cost before = {0};
    Result r = secure_new(&s, e, &a, c, p, NULL, NULL);
    if (!failed(r) && past > p->context) r = fail(FAIL_USE, "%u positions exceed the plan's context of %u", past, p->context);
    if (!failed(r)) {
        engine_begin(e, rows, 0, NULL, NULL);
        if (past) {
            r = pretend_past(s, past);
            before = engine_cost(e);
        }
        if (!failed(r) && head == HEAD_NONE) r = secure_layers(s, rows, NULL, NULL, &w);
        else if (!failed(r)) r = secure_forward(s, rows, NULL, NULL, NULL, head == HEAD_LAST);
    }
    if (!failed(r)) {
        *out = engine_cost(e);
        out->exchanges -= before.exchanges;
        out->bytes.client_to_server -= before.bytes.client_to_server;
        out->bytes.server_to_client -= before.bytes.server_to_client;
        out->bytes.third_to_server -= before.bytes.third_to_server;
    }
    engine_free(e);
    arena_free(&a);
    return r;
}

Result plan_cost(Cost *out, const Plan *p, const ModelConfig *c, uint32_t past, size_t rows, bool last_only)
{
    return cost_count(out, p, c, past, rows, last_only ? HEAD_LAST : HEAD_ALL);
}

Result plan_cost_layers(Cost *out, const Plan *p, const ModelConfig *c, uint32_t past, size_t rows)
{
    return cost_count(out, p, c, past, rows, HEAD_NONE);
}

uint64_t plan_setup_bytes(const Plan *p, const ModelConfig *c)
{
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < p->layers; l++) {
        for (Pin pin = 0; pin < PIN_COUNT; pin++) {
            PinShape s = pin_shape(p, c, l, pin);
            bytes += ring_packed_size(s.outputs * s.inputs, s.n);
        }
    }
    return bytes;
}
