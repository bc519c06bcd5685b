/* source.c - masks and dealt words: the correlated randomness as each role sees it.
 *
 * A row of the batch has a stream of C's and a stream of S's, both known to T. Masks and C's half of everything dealt are
 * read from the streams in program order; what T deals is a value minus C's half, packed, to S. */
#include "mpc/engine.h"

static void streams_read(Prg *prg, uint64_t *out, const Layout *at, unsigned n, const uint8_t *row_n)
{
    for (size_t r = 0; r < at->rows; r++)
        prg_words(&prg[r], out + at->begin[r], at->begin[r + 1] - at->begin[r], row_width(n, row_n, r));
}

void source_mask_client(Engine *e, Share *rc, const Layout *at, unsigned n)
{
    rc->word = words_if(e, e->client_prg != NULL, layout_len(at));
    if (rc->word) streams_read(e->client_prg, rc->word, at, n, NULL);
}

void source_mask_server(Engine *e, Share *rs, const Layout *at, unsigned n)
{
    rs->word = words_if(e, e->server_prg != NULL, layout_len(at));
    if (rs->word) streams_read(e->server_prg, rs->word, at, n, NULL);
}

void source_mask(Engine *e, Share *rc, Share *rs, const Layout *at, unsigned n, const uint8_t *row_n)
{
    rc->word = words_if(e, e->client_prg != NULL, layout_len(at));
    rs->word = words_if(e, e->server_prg != NULL, layout_len(at));
    if (rc->word) streams_read(e->client_prg, rc->word, at, n, row_n);
    if (rs->word) streams_read(e->server_prg, rs->word, at, n, row_n);
}

// ---- words of T ------------------------------------------------------------------------------------------------------

static void feed_write(Engine *e, size_t row, const void *data, size_t len)
{
    if (e->failure != FAIL_NONE || len == 0) return;
    Result r = e->feed->write(e->feed, row, data, len);
    if (failed(r)) engine_fail(e, r);
}

/* After a failure the words are zero: nothing computed from them is ever sent. */
static void feed_read(Engine *e, size_t row, void *out, size_t len)
{
    if (len == 0) return;
    if (e->failure == FAIL_NONE) {
        Result r = e->feed->read(e->feed, row, out, len);
        if (!failed(r)) return;
        engine_fail(e, r);
    }
    memset(out, 0, len);
}

static uint8_t *scratch(Engine *e, size_t len)
{
    e->words.len = 0;
    buffer_reserve(&e->words, len);
    return e->words.data;
}

/* T: packs len words for S. S: reads them. Both count. */
static void words_travel(Engine *e, size_t row, uint64_t *words, size_t len, unsigned n)
{
    size_t bytes = ring_packed_size(len, n);
    e->cost.bytes.third_to_server += bytes;
    if (e->role == ROLE_THIRD) {
        uint8_t *packed = scratch(e, bytes);
        ring_pack(packed, words, len, n);
        feed_write(e, row, packed, bytes);
    } else if (e->role == ROLE_SERVER) {
        uint8_t *packed = scratch(e, bytes);
        feed_read(e, row, packed, bytes);
        ring_unpack(words, packed, len, n);
    }
}

void source_deal(Engine *e, Share *c, Share *s, const uint64_t *value, const Layout *at, unsigned n)
{
    size_t len = layout_len(at);
    c->word = words_if(e, e->client_prg != NULL, len);
    s->word = words_if(e, e->server || e->role == ROLE_THIRD, len);
    if (c->word) streams_read(e->client_prg, c->word, at, n, NULL);
    if (e->role == ROLE_THIRD) ring_sub(s->word, value, c->word, len);
    for (size_t r = 0; r < at->rows; r++)
        words_travel(e, r, s->word ? s->word + at->begin[r] : NULL, at->begin[r + 1] - at->begin[r], n);
}

// ---- one-hot vectors -------------------------------------------------------------------------------------------------

/* T flips the bit at each point: C's stream becomes S's half. Which party holds the one is the sign. The point is a secret
 * of T: every byte of a vector is touched, none is addressed by it. */
static void onehot_signs(uint8_t *bits, uint64_t *sign, const uint64_t *point, size_t len, size_t bytes, bool flip)
{
    for (size_t i = 0; i < len; i++, bits += bytes) {
        uint64_t at = point[i] >> 3;
        uint8_t one = (uint8_t)(1u << (point[i] & 7)), held = 0;
        for (size_t j = 0; j < bytes; j++) {
            uint8_t hit = (uint8_t)(one & (uint8_t)-(uint8_t)(j == at));
            held |= (uint8_t)(bits[j] & hit);
            bits[j] ^= (uint8_t)(hit & (uint8_t)-(uint8_t)flip);
        }
        sign[i] = (uint64_t)(held != 0) * 2 - 1;
    }
}

void source_onehot(Engine *e, uint8_t **c, uint8_t **s, uint64_t *sign, const uint64_t *point, const Layout *at, size_t cells)
{
    ASSERT(cells >= 8 && cells % 8 == 0);
    size_t bytes = cells / 8, len = layout_len(at);
    *c = *s = NULL;
    if (e->client_prg) *c = arena_new(&e->step, uint8_t, len * bytes);
    if (e->server) *s = arena_new(&e->step, uint8_t, len * bytes);
    for (size_t r = 0; r < at->rows; r++) {
        size_t from = at->begin[r], count = at->begin[r + 1] - from;
        if (*c) prg_bytes(&e->client_prg[r], *c + from * bytes, count * bytes);
        e->cost.bytes.third_to_server += count * bytes;
        if (e->third) onehot_signs(*c + from * bytes, sign + from, point + from, count, bytes, e->role == ROLE_THIRD);
        if (e->role == ROLE_THIRD) feed_write(e, r, *c + from * bytes, count * bytes);
        if (e->server) feed_read(e, r, *s + from * bytes, count * bytes);
    }
}

void source_onehot_words(Engine *e, size_t row, uint64_t *c, uint64_t *s, const uint64_t *point, size_t len, size_t cells, unsigned w)
{
    if (e->client_prg) prg_words(&e->client_prg[row], c, len * cells, w);
    if (e->role == ROLE_THIRD)
        for (size_t i = 0; i < len; i++)
            for (size_t k = 0; k < cells; k++) s[i * cells + k] = (uint64_t)(k == point[i]) - c[i * cells + k];
    words_travel(e, row, s, len * cells, w);
}
