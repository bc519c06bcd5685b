/* sign.c - the sign of an opened index: one bit opened, from the one-hot vectors of split lookups.
 *
 * i^ = i + r, both split at bit k: i = 2^k (h^ - h_r) + (l^ - p). T deals a one-hot bit vector at h_r, XOR-shared. Each party's
 * parity of the bits at the cells that count as positive is a share mod 2 of the answer, which is opened under a bit of mask: one
 * bit on the wire, and b = beta + (1 - 2 beta) rho, beta public and rho T's, meets any product as a factor of two terms.
 *
 * Cell 0 holds all i from l^ - 2^k + 1 to l^, and counts as positive where its middle does: the sign is wrong for some i of less
 * than half a cell, whose product with the bit is then off by |i|. An index of t bits is looked at mod 2^(t-1), where it fits. */
#include "mpc/onehot.h"

struct Signed {
    Opened *bit;
    uint64_t *value;                           // CLEAR
};

typedef struct SignJob {
    const Engine *e;
    const Opened *index;
    unsigned t, k;                             // bits looked at
    uint64_t *mine, *other, *value;            // C, S, CLEAR: this party's share; CLEAR: S's, and the answer
} SignJob;

typedef struct Scratch { uint64_t point[BULK_MOST], sign[BULK_MOST]; _Alignas(64) uint8_t bits[]; } Scratch;

/* Bits of word w of a vector from place `from` on, up to `to`. */
static uint64_t word_range(size_t w, size_t from, size_t to)
{
    size_t low = from > 64 * w ? from - 64 * w : 0, high = to > 64 * w ? to - 64 * w : 0;
    if (low >= 64 || high <= low) return 0;
    return (high >= 64 ? UINT64_MAX : (UINT64_C(1) << high) - 1) & UINT64_MAX << low;
}

/* Parity of `count` bits from place `from` on, cyclically. The places are public, the bits are not. */
static uint64_t bits_parity(const uint8_t *bits, size_t cells, size_t from, size_t count)
{
    size_t end = from + count, step = cells < 64 ? cells / 8 : 8;
    uint64_t all = 0;
    for (size_t w = 0; w < (cells + 63) / 64; w++) {
        uint64_t v = 0;
        memcpy(&v, bits + w * step, step);
        all ^= v & (word_range(w, from, end < cells ? end : cells) | word_range(w, 0, end > cells ? end - cells : 0));
    }
    for (unsigned s = 32; s > 0; s /= 2) all ^= all >> s;
    return all & 1;
}

/* Cells 1 .. cells / 2 - 1 are positive, and 0 where its middle is: the vector's places h^ - cell. */
static uint64_t positive_parity(const SignJob *j, const uint8_t *bits, uint64_t hat, size_t cells)
{
    size_t zero = ring_low(hat, j->k) >> (j->k - 1), count = cells / 2 - 1 + zero;
    return bits_parity(bits, cells, ((size_t)(hat >> j->k) + cells - cells / 2 + 1) & (cells - 1), count);
}

static void sign_block(void *ctx, const Bulk *b)
{
    const SignJob *j = ctx;
    const Engine *e = j->e;
    Scratch *x = b->scratch;
    size_t cells = (size_t)1 << (j->t - j->k);
    uint8_t *bits = b->dealt ? b->dealt : x->bits;             // C's half: at S the other, which T makes of it
    if (b->prg) prg_bytes(b->prg, bits, b->count * (cells / 8));
    for (size_t i = 0; e->third && i < b->count; i++) x->point[i] = ring_low(opened_mask(j->index, b->from + i), j->t) >> j->k;
    if (e->role == ROLE_THIRD) {
        ring_onehot(bits, x->sign, x->point, b->count, cells, true);
        return;
    }
    for (size_t i = 0; i < b->count; i++) {
        size_t at = b->from + i;
        uint64_t hat = ring_low(j->index->p[at], j->t), zero = ring_low(hat, j->k) >> (j->k - 1);
        j->mine[at] = positive_parity(j, bits + i * (cells / 8), hat, cells);
        if (!e->clear) continue;
        size_t cell = (size_t)((hat >> j->k) - x->point[i]) & (cells - 1);
        j->value[at] = cell < cells / 2 && cell + zero > 0;
        j->other[at] = j->value[at] - j->mine[at];
    }
}

Signed *sign_select(Engine *e, const Opened *index, unsigned k)
{
    unsigned t = index->n - 1;
    ASSERT(k >= 1 && t >= k + 3 && t <= k + 16 && !index->row_n);
    size_t bytes = (size_t)1 << (t - k - 3), len = layout_len(index->at);
    Signed *s = arena_new(&e->step, Signed, 1);
    Wire u = wire_new(e, index->at, 1, 0);
    SignJob j = {e, index, t, k, e->server ? u.s.word : u.c.word, u.s.word, words_if(e, e->clear, len)};
    BulkRow *row = arena_new(&e->step, BulkRow, index->at->rows);
    for (size_t r = 0; r < index->at->rows; r++) row[r] = (BulkRow){bytes, bytes, 1};
    source_bulk(e, index->at, &(BulkJob){row, sign_block, &j, sizeof(Scratch) + bulk_bytes(bytes)});
    *s = (Signed){wire_open_last(e, u), j.value};
    return s;
}

typedef struct BitJob { const Opened *bit; uint64_t *beta, *turn; } BitJob;

static void bit_words(void *ctx, size_t begin, size_t end)
{
    const BitJob *j = ctx;
    for (size_t i = begin; i < end; i++) j->beta[i] = ring_low(j->bit->p[i], 1), j->turn[i] = 1 - 2 * j->beta[i];
}

const Factor *sign_factor(Engine *e, const Signed *s, unsigned n)
{
    size_t len = layout_len(s->bit->at);
    BitJob j = {s->bit, words_raw(e, e->online || e->clear, len), words_raw(e, e->online || e->clear, len)};
    if (j.beta) parallel_for(len, 4096, bit_words, &j);
    Factor *x = factor_new(e, s->bit->at, 0, n);
    x->value = s->value;
    *factor_term(x) = (Term){.g = j.beta, .one = true, .ring = n};
    *factor_term(x) = (Term){.g = j.turn, .mask = s->bit, .ring = n};
    return x;
}
