/* source.c - masks and dealt words: the correlated randomness as each role sees it.
 *
 * A row of the batch has a stream of C's and a stream of S's, both known to T. Masks and C's half of everything dealt are
 * read from the streams in program order; what T deals is a value minus C's half, packed, to S. */
#include "mpc/engine.h"

void source_skip(Prg *prg, const Layout *at, unsigned n, const uint8_t *row_n)
{
    for (size_t r = 0; prg && r < at->rows; r++) prg_skip(&prg[r], (uint64_t)row_words(at, r) * prg_word_bytes(row_width(n, row_n, r)));
}

typedef struct MaskJob { const Prg *prg; uint64_t *r; unsigned n; } MaskJob;

static void mask_part(void *ctx, const Block *b)
{
    const MaskJob *j = ctx;
    mask_block(j->prg, b, j->r, j->n);
}

void source_peek(const Prg *prg, uint64_t *r, const Layout *at, unsigned n) { rows_run(at, mask_part, &(MaskJob){prg, r, n}); }

static void mask_read(Engine *e, Share *r, Prg *prg, const Layout *at, unsigned n)
{
    r->word = words_raw(e, prg != NULL, layout_len(at));
    if (prg) source_peek(prg, r->word, at, n);
    source_skip(prg, at, n, NULL);
}

void source_mask_client(Engine *e, Share *rc, const Layout *at, unsigned n) { mask_read(e, rc, e->client_prg, at, n); }
void source_mask_server(Engine *e, Share *rs, const Layout *at, unsigned n) { mask_read(e, rs, e->server_prg, at, n); }

// ---- words of T ------------------------------------------------------------------------------------------------------

void feed_write(Engine *e, size_t row, const void *data, size_t len)
{
    if (e->failure != FAIL_NONE || len == 0) return;
    Result r = e->feed->write(e->feed, row, data, len);
    if (failed(r)) engine_fail(e, r);
}

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

const uint8_t *feed_words(Engine *e, size_t row, uint8_t *room, size_t len)
{
    const uint8_t *there;
    if (len == 0 || e->failure != FAIL_NONE || !e->feed->take) {
        feed_read(e, row, room, len);
        return room;
    }
    Result r = e->feed->take(e->feed, row, &there, len);
    if (!failed(r)) return there;
    engine_fail(e, r);
    memset(room, 0, len);
    return room;
}

uint8_t *feed_room(Engine *e, size_t len)
{
    e->words.len = 0;
    buffer_reserve(&e->words, len + 1);        // of no words, too, there is an address
    return e->words.data;
}

// ---- the words of a move ---------------------------------------------------------------------------------------------

enum { DEAL_BYTES = 2 << 20 };                 // of packed words at a time, but at least a row

static size_t deal_row_bytes(const Field *field, size_t count, size_t row)
{
    size_t bytes = 0;
    for (size_t k = 0; k < count; k++) bytes += ring_packed_size(row_words(field[k].at, row), field[k].n);
    return bytes;
}

/* From `begin` on: the rows whose words fit DEAL_BYTES. */
static size_t deal_end(const Deal *d, size_t begin, size_t *bytes)
{
    size_t end = begin;
    for (*bytes = 0; end < d->e->rows; end++) {
        size_t more = deal_row_bytes(d->field, d->count, end);
        if (end > begin && *bytes + more > DEAL_BYTES) break;
        *bytes += more;
    }
    return end;
}

/* Finds the words of the rows [begin, end) at S, and room for them at T. */
static void deal_load(Deal *d, size_t begin, size_t end, size_t bytes)
{
    Engine *e = d->e;
    if (e->role == ROLE_CLIENT || e->clear) return;
    uint8_t *at = feed_room(e, bytes);
    for (size_t r = begin; r < end; r++) {
        size_t len = deal_row_bytes(d->field, d->count, r);
        d->packed[r] = at;
        if (e->server) d->packed[r] = (uint8_t *)(uintptr_t)feed_words(e, r, at, len);
        at += len;
    }
}

void deal_run(Engine *e, const Field *field, size_t count, DealStage *stage, void *ctx)
{
    Deal d = {e, field, count, NULL};
    for (size_t r = 0; r < e->rows; r++) e->cost.bytes.third_to_server += deal_row_bytes(field, count, r);
    if (e->role != ROLE_COUNT) {
        d.packed = arena_alloc(&e->step, e->rows, sizeof *d.packed);
        for (size_t begin = 0, end, bytes; begin < e->rows; begin = end) {
            end = deal_end(&d, begin, &bytes);
            deal_load(&d, begin, end, bytes);
            stage(ctx, &d, begin, end);
            for (size_t r = begin; e->role == ROLE_THIRD && r < end; r++) feed_write(e, r, d.packed[r], deal_row_bytes(field, count, r));
        }
    }
    for (size_t k = 0; k < count; k++) source_skip(e->client_prg, field[k].at, field[k].n, NULL);
}

void deal_block(const Deal *d, size_t k, const Block *b, uint64_t *c, uint64_t *s, const uint64_t *value)
{
    const Engine *e = d->e;
    unsigned n = d->field[k].n;
    uint64_t skip = 0;
    size_t byte = b->from * n / 8;
    for (size_t j = 0; j < k; j++) {
        size_t words = row_words(d->field[j].at, b->row);
        skip += (uint64_t)words * prg_word_bytes(d->field[j].n), byte += ring_packed_size(words, d->field[j].n);
    }
    if (e->server) ring_unpack(s, d->packed[b->row] + byte, b->len, n);
    else prg_words_at(&e->client_prg[b->row], skip + b->from * prg_word_bytes(n), c, b->len, n);
    if (e->role != ROLE_THIRD) return;
    uint64_t *dealt = b->tmp[BLOCK_TEMPS - 1];
    ring_sub(dealt, value, c, b->len);
    ring_pack(d->packed[b->row] + byte, dealt, b->len, n);
}

typedef struct DealJob { const Deal *deal; uint64_t *c, *s; const uint64_t *value; } DealJob;

static void deal_part(void *ctx, const Block *b)
{
    const DealJob *j = ctx;
    deal_block(j->deal, 0, b, j->c ? j->c + b->i : b->tmp[0],         // T has no use for C's words
               j->s ? j->s + b->i : NULL, j->value ? j->value + b->i : NULL);
}

static void deal_stage(void *ctx, const Deal *d, size_t begin, size_t end)
{
    DealJob *j = ctx;
    j->deal = d;
    blocks_run(d->field->at, begin, end, deal_part, j);
}

void source_deal(Engine *e, Share *c, Share *s, const uint64_t *value, const Layout *at, unsigned n)
{
    DealJob job = {.c = words_raw(e, e->client, layout_len(at)), .s = words_raw(e, e->server, layout_len(at)), .value = value};
    deal_run(e, &(Field){at, n}, 1, deal_stage, &job);
    c->word = job.c, s->word = job.s;
}
