/* test_mpc.c - every move against its ideal functionality, on random and edge inputs, as C, S, T, CLEAR and COUNT. */
#include "base/random.h"
#include "mpc/table.h"
#include "parties.h"

/* A wire of the given values, re-shared by the client. */
static Wire input(Party *p, size_t columns, unsigned n, unsigned f, double (*value)(size_t i))
{
    const Layout *at = layout_uniform(p->engine, columns);
    size_t len = layout_len(at);
    uint64_t *x = arena_new(&p->session, uint64_t, len);
    for (size_t i = 0; i < len; i++) x[i] = ring_from_real(value(i), f);
    return wire_input_client(p->engine, at, n, f, x);
}

static double hash_real(size_t i, double range)               // in (-range, range), the same everywhere
{
    uint64_t z = random_mix((uint64_t)i * RANDOM_STEP + 0x1234567);
    return range * ((double)(z >> 11) * 0x1p-52 - 1);
}
static double a60(size_t i) { return i < 4 ? (double[]){0, 63.9, -63.9, 0x1p-10}[i] : hash_real(i, 60); }
static double b60(size_t i) { return i < 4 ? (double[]){63.9, -63.9, 1, 0}[i] : hash_real(i + 1000, 60); }

enum { ROWS = 3, COLS = 37 };

static void products(Party *p)
{
    Engine *e = p->engine;
    party_begin(p, ROWS, 0);
    Wire a = input(p, COLS, 19, 10, a60), b = input(p, COLS, 21, 10, b60), wide = input(p, COLS, 40, 10, a60);
    Opened *ao = wire_open(e, a), *bo = wire_open(e, b), *wo = wire_open(e, wide);
    CHECK_OK(engine_exchange(e, "open"));
    party_record(p, factor_mul(e, opened_factor(e, ao, 50), opened_factor(e, bo, 50), 1, 50));
    party_record(p, factor_mul(e, opened_factor(e, ao, 64), NULL, 1, 64));
    party_record(p, opened_sumsq(e, bo, 48, 64));
    party_record(p, opened_sumsq(e, wo, 40, 40));
    party_record(p, factor_mul(e, opened_factor(e, wo, 40), NULL, 1, 40));
    party_record(p, wire_to(e, wide, 30, 4));
    CHECK_OK(engine_end(e));
}

TEST(products_lifts_and_sums_of_squares)
{
    Party party[5];
    parties_run(party, products, NULL);
    parties_compare(party);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        double a = rint(a60(i) * 1024) / 1024, b = rint(b60(i) * 1024) / 1024;
        CHECK_NEAR(a * b, record_value(&party[ROLE_CLEAR], 0, i, 20), 0);
        CHECK_NEAR(a, record_value(&party[ROLE_CLEAR], 1, i, 10), 0);
        CHECK_NEAR(a, record_value(&party[ROLE_CLEAR], 4, i, 10), 0);
        CHECK_NEAR(a, record_value(&party[ROLE_CLEAR], 5, i, 4), 1.0 / 16);
    }
    parties_end(party);
}

static void pinned(Party *p)
{
    Engine *e = p->engine;
    int32_t a[5 * COLS], b[7 * 5];
    for (size_t i = 0; i < 5 * COLS; i++) a[i] = (int32_t)hash_real(i, 500);
    for (size_t i = 0; i < 7 * 5; i++) b[i] = (int32_t)hash_real(i + 77, 500);
    Pinned *pa = pinned_new(e, &p->session, "a", 5, COLS, 50, 8, a), *pb = pinned_new(e, &p->session, "b", 7, 5, 40, 8, b);
    Pinned *pc = pinned_new(e, &p->session, "c", 5, COLS, 40, 8, a), *pd = pinned_new(e, &p->session, "d", 7, 2, 34, 8, b);
    party_pin(p, pa), party_pin(p, pb), party_pin(p, pc), party_pin(p, pd);
    party_begin(p, ROWS, 0);
    Wire x = input(p, COLS, 50, 10, a60), y = wire_narrow(x, 40);
    Pinning *g = pinned_send(e, x, pa), *h = pinned_send_after(e, pinned_send(e, x, pa), 0, 40, 12, pb);
    Opened *o = wire_open(e, y);
    Pinning *i = pinned_after_open(e, o, pc), *j = pinned_send_after(e, i, 0, 34, 12, pd), *k = pinned_send_after(e, i, 3, 34, 12, pd);
    CHECK_OK(engine_exchange(e, "x"));
    party_record(p, pinned_take(e, g));
    party_record(p, pinned_take(e, h));
    party_record(p, pinned_open(e, o, pc));
    party_record(p, pinned_take(e, i));
    party_record(p, pinned_take(e, j)), party_record(p, pinned_take(e, k));
    CHECK_OK(engine_end(e));
}

TEST(pinned_matrices)
{
    Party party[5];
    parties_run(party, pinned, NULL);
    parties_compare(party);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < 5; i++) {
            double y = 0;
            for (size_t j = 0; j < COLS; j++) y += trunc(hash_real(i * COLS + j, 500)) / 256 * rint(a60(r * COLS + j) * 1024) / 1024;
            CHECK_NEAR(y, record_value(&party[ROLE_CLEAR], 0, r * 5 + i, 18), 1e-9);
            CHECK_NEAR(y, record_value(&party[ROLE_CLEAR], 2, r * 5 + i, 18), 1e-9);
            CHECK_NEAR(y, record_value(&party[ROLE_CLEAR], 3, r * 5 + i, 18), 1e-9);
        }
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < 7; i++)                         // of columns 0, 1 and of 3, 4 of the product
            for (size_t part = 0; part < 2; part++) {
                double z = 0;
                for (size_t j = 0; j < 2; j++)
                    z += trunc(hash_real(i * 2 + j + 77, 500)) / 256 * record_value(&party[ROLE_CLEAR], 3, r * 5 + 3 * part + j, 18);
                CHECK_NEAR(z, record_value(&party[ROLE_CLEAR], 4 + part, r * 7 + i, 20), 4.0 / 4096);
            }
    parties_end(party);
}

/* The product of two wires after a turn, which moved them and took the memory of all else. */
static void turned(Party *p)
{
    Engine *e = p->engine;
    party_begin(p, ROWS, 0);
    Wire a = input(p, COLS, 19, 10, a60), b = input(p, 1, 21, 10, b60);
    wire_open(e, a);
    CHECK_OK(engine_exchange(e, "for nothing"));
    size_t used = engine_arena(e)->used;
    engine_turn(e, (Wire *const[]){&a, &b}, 2);
    CHECK(engine_arena(e)->used < used && layout_len(a.at) == ROWS * COLS && layout_len(b.at) == ROWS);
    party_record(p, a);
    Opened *ao = wire_open(e, a), *bo = wire_open(e, b);
    CHECK_OK(engine_exchange(e, "open"));
    party_record(p, factor_mul(e, opened_factor(e, ao, 50), opened_factor(e, bo, 50), COLS, 50));
    CHECK_OK(engine_end(e));
}

TEST(a_turn_keeps_its_wires_and_nothing_else)
{
    Party party[5];
    parties_run(party, turned, NULL);
    parties_compare(party);
    for (size_t i = 0; i < ROWS * COLS; i++)
        CHECK_NEAR(rint(a60(i) * 1024) / 1024 * rint(b60(i / COLS) * 1024) / 1024, record_value(&party[ROLE_CLEAR], 1, i, 20), 0);
    parties_end(party);
}

static const LookupSpec silu = {.fn = FN_SILU, .t = 14, .k = 6, .f = 9, .f0 = 11, .m0 = 18, .f1 = 12, .m1 = 11, .fp = 6, .gain = 1, .floor = -1e9, .ceiling = 1e9};
static const LookupSpec rsqrt = {.fn = FN_RSQRT, .t = 20, .k = 8, .f = 10, .f0 = 20, .m0 = 64, .f1 = 16, .m1 = 64, .fp = 6, .gain = 1, .floor = 0.5, .ceiling = 1e9, .from_zero = true};
static const LookupSpec coarse = {.fn = FN_RECIPROCAL, .t = 20, .k = 10, .f = 13, .f0 = 24, .m0 = 64, .f1 = 18, .m1 = 64, .fp = 6, .gain = 1, .floor = 0.012, .ceiling = 1e9, .from_zero = true, .border = 16};
static const LookupSpec fine = {.fn = FN_RECIPROCAL, .t = 14, .k = 5, .f = 13, .f0 = 24, .m0 = 64, .f1 = 18, .m1 = 64, .fp = 6, .gain = 1, .floor = 0.012, .ceiling = 1e9, .from_zero = true};
static double gate(size_t i) { return i < 3 ? (double[]){0, 15.9, -15.9}[i] : hash_real(i, 4); }
static double square(size_t i) { return 520 + hash_real(i, 500); }
static double sum(size_t i) { return i < 2 ? (double[]){0.5, 126}[i] : i % 2 ? 1 + fabs(hash_real(i, 120)) : 0.5 + fabs(hash_real(i, 3)); }

static void lookups(Party *p)
{
    Engine *e = p->engine;
    Table *ts = table_new(&silu, &p->session), *tr = table_new(&rsqrt, &p->session), *tc = table_new(&coarse, &p->session), *tf = table_new(&fine, &p->session);
    party_begin(p, ROWS, 5);
    Opened *gi = wire_open(e, input(p, COLS, 14, 9, gate)), *up = wire_open(e, input(p, COLS, 17, 8, a60));
    Opened *ri = wire_open(e, input(p, 1, 20, 10, square)), *si = wire_open(e, input(p, COLS, 20, 13, sum));
    Opened *x = wire_open(e, input(p, COLS, 25, 13, a60));
    CHECK_OK(engine_exchange(e, "indices"));
    Looked *sl = lookup_select(e, gi, ts), *rl = lookup_select(e, ri, tr);
    Looked2 *l2 = lookup2_select(e, si, tc, tf);
    CHECK_OK(engine_exchange(e, "columns"));
    party_record(p, factor_mul_once(e, looked_factor(e, sl, 50), NULL, 50));
    party_record(p, factor_mul_once(e, looked_factor(e, sl, 64), opened_factor(e, up, 64), 64));
    party_record(p, factor_mul(e, opened_factor(e, x, 64), looked_factor(e, rl, 64), COLS, 60));
    party_record(p, factor_mul_once(e, looked2_factor(e, l2, 64), NULL, 50));
    party_record(p, factor_mul(e, opened_factor(e, x, 64), looked2_factor(e, l2, 64), 1, 64));
    CHECK_OK(engine_end(e));
}

TEST(split_lookups)
{
    Party party[5];
    parties_run(party, lookups, NULL);
    parties_compare(party);
    const Party *c = &party[ROLE_CLEAR];
    for (size_t i = 0; i < ROWS * COLS; i++) {
        double g = gate(i), s = g / (1 + exp(-g)), r = 1 / sqrt(square(i / COLS)), u = 1 / sum(i);
        CHECK_NEAR(s, record_value(c, 0, i, 18), .006);
        CHECK_NEAR(s * rint(a60(i) * 256) / 256, record_value(c, 1, i, 26), .4);
        CHECK_NEAR(a60(i) * r, record_value(c, 2, i, 13 + 22), 64 * r * 0.002 + 1e-3);
        CHECK_NEAR(u, record_value(c, 3, i, 24), u * 0.002);
        CHECK_NEAR(a60(i) * u, record_value(c, 4, i, 37), 64 * u * 0.002 + 1e-3);
    }
    parties_end(party);
}

/* Values of one column, which meet a lookup's element by element as those of many columns do, and it may meet several. */
static void looked_twice(Party *p)
{
    Engine *e = p->engine;
    Table *t = table_new(&rsqrt, &p->session);
    party_begin(p, ROWS, 5);
    Opened *index = wire_open(e, input(p, 1, 20, 10, square)), *a = wire_open(e, input(p, 1, 25, 13, a60)), *b = wire_open(e, input(p, 1, 25, 13, b60));
    CHECK_OK(engine_exchange(e, "index"));
    Looked *l = lookup_select(e, index, t);
    CHECK_OK(engine_exchange(e, "columns"));
    const Factor *inverse = looked_factor(e, l, 60);
    party_record(p, factor_mul(e, opened_factor(e, a, 60), inverse, 1, 60));
    party_record(p, factor_mul(e, opened_factor(e, b, 60), inverse, 1, 60));
    CHECK_OK(engine_end(e));
}

TEST(a_looked_up_value_meets_several_single_ones)
{
    Party party[5];
    parties_run(party, looked_twice, NULL);
    parties_compare(party);
    for (size_t i = 0; i < ROWS; i++) {
        double r = 1 / sqrt(square(i)), tol = 64 * r * 0.002 + 1e-3;
        CHECK_NEAR(a60(i) * r, record_value(&party[ROLE_CLEAR], 0, i, 13 + 22), tol);
        CHECK_NEAR(b60(i) * r, record_value(&party[ROLE_CLEAR], 1, i, 13 + 22), tol);
    }
    parties_end(party);
}

/* Tensors of many blocks: several rows of them, or one. */
typedef struct Wide { size_t rows, columns; } Wide;

static void wide(Party *p)
{
    const Wide *w = p->ctx;
    Engine *e = p->engine;
    enum { OUTPUTS = 16 };
    int32_t *weight = arena_new(&p->session, int32_t, OUTPUTS * w->columns);
    for (size_t i = 0; i < OUTPUTS * w->columns; i++) weight[i] = (int32_t)hash_real(i, 500);
    Pinned *pin = pinned_new(e, &p->session, "wide", OUTPUTS, w->columns, 50, 8, weight);
    party_pin(p, pin);
    Table *t = table_new(&silu, &p->session);
    party_begin(p, w->rows, 0);
    Wire a = input(p, w->columns, 19, 10, a60), b = input(p, w->columns, 21, 10, b60), one = input(p, 1, 21, 10, b60);
    Opened *ao = wire_open(e, a), *bo = wire_open(e, b), *oo = wire_open(e, one), *index = wire_open(e, input(p, w->columns, 14, 9, gate));
    Pinning *sent = pinned_send(e, input(p, w->columns, 50, 10, a60), pin);
    CHECK_OK(engine_exchange(e, "open"));
    party_record(p, pinned_take(e, sent));
    party_record(p, factor_mul(e, opened_factor(e, ao, 50), opened_factor(e, bo, 50), 1, 50));
    party_record(p, factor_mul(e, opened_factor(e, ao, 50), opened_factor(e, oo, 50), w->columns, 50));
    party_record(p, opened_sumsq(e, bo, 48, 64));
    Looked *l = lookup_select(e, index, t);
    CHECK_OK(engine_exchange(e, "columns"));
    Wire h = factor_mul(e, opened_factor(e, ao, 60), looked_factor(e, l, 60), 1, 60);
    engine_turn(e, (Wire *const[]){&h}, 1);
    party_record(p, wire_columns(e, wire_to(e, h, 50, 20), 3, w->columns - 3));
    CHECK_OK(engine_end(e));
}

TEST(threads_do_not_matter)
{
    static const Wide shapes[] = {{9, 2500}, {1, 20001}};
    Party alone[2][5], party[5];
    for (int k = 0; k < 2; k++) parties_run(alone[k], wide, (void *)&shapes[k]);
    threads_start(3);
    for (int k = 0; k < 2; k++) {
        parties_run(party, wide, (void *)&shapes[k]);
        parties_compare(party);
        for (size_t r = 0; r < party[ROLE_CLEAR].records; r++) {
            const Record *x = &alone[k][ROLE_CLEAR].record[r], *y = &party[ROLE_CLEAR].record[r];
            CHECK_EQUAL(x->len, y->len);
            for (size_t i = 0; i < x->len; i++) CHECK(ring_low(x->c[i], x->n) == ring_low(y->c[i], y->n) && ring_low(x->s[i], x->n) == ring_low(y->s[i], y->n));
        }
        parties_end(party), parties_end(alone[k]);
    }
}

/* A word made alone, as CLEAR does, and the same word of a row made by vector code. */
TEST(table_rows_hold_the_words_of_the_specification)
{
    const LookupSpec *specs[] = {&silu, &rsqrt, &coarse, &fine};
    Arena a;
    arena_init(&a, false);
    for (size_t k = 0; k < 4; k++) {
        Table *t = table_new(specs[k], &a);
        void *scratch = arena_new(&a, uint8_t, table_scratch(t));
        for (uint64_t low = 0; low < (UINT64_C(1) << t->spec.k); low += 7) {
            SelectTable rows = table_select(t, low, scratch);
            const uint8_t *row = (const uint8_t *)rows.rows + (t->rows ? low * t->row_bytes : 0);
            for (unsigned j = 0; j < t->columns; row += t->cells * t->bytes[j++])
                for (size_t h = 0; h < t->cells; h += 3) {
                    uint64_t w = 0;
                    memcpy(&w, row + (t->cells - h) % t->cells * t->bytes[j], t->bytes[j]);
                    CHECK(w == ring_low(table_word(t, low, j, h), 8 * t->bytes[j]));
                }
        }
    }
    arena_free(&a);
}

/* Two rows of 2 heads, scores over a cache: row i sees i + 3 positions (two are the server's own). */
enum { HEADS = 2, DIM = 4, KNOWN = 2 };
static const LookupSpec soft = {.fn = FN_EXP, .t = 16, .k = 10, .f = 9, .f0 = 16, .m0 = 20, .offset = -2, .gain = 1, .floor = -1e9, .ceiling = 0, .never_positive = true};
static double query(size_t i) { return hash_real(i + 5, 5); }
static double key(size_t i) { return hash_real(i + 500, 2); }
static double known(size_t i) { return hash_real(i + 900, 3); }

static void attention(Party *p)
{
    Engine *e = p->engine;
    party_begin(p, ROWS, 0);
    size_t *one = arena_new(&p->session, size_t, 2), *columns = arena_new(&p->session, size_t, ROWS), *group_len = arena_new(&p->session, size_t, ROWS * HEADS);
    one[1] = KNOWN * DIM;
    Layout *known_at = arena_new(&p->session, Layout, 1);
    *known_at = (Layout){1, one};
    uint64_t x[KNOWN * DIM];
    for (size_t i = 0; i < KNOWN * DIM; i++) x[i] = ring_from_real(known(i), 10);
    bool knows = p->role == ROLE_SERVER || p->role == ROLE_CLEAR;
    Cache *keys = cache_new(&p->session, 16, DIM, 33, 10);
    CHECK_OK(cache_reserve(e, &p->session, &keys, 1, KNOWN + ROWS));
    Opened *ko = server_open(e, known_at, 33, 10, knows ? x : NULL);
    Opened *q = wire_open(e, input(p, HEADS * DIM, 33, 10, query)), *k = wire_open(e, input(p, DIM, 33, 10, key));
    CHECK_OK(engine_exchange(e, "q k"));
    cache_append(e, keys, ko), cache_append(e, keys, k);
    for (size_t r = 0; r < ROWS; r++) columns[r] = HEADS * (KNOWN + r + 1), group_len[r * HEADS] = group_len[r * HEADS + 1] = KNOWN + r + 1;
    Wire s = attend_scores(e, q, keys, HEADS, DIM, layout_ragged(e, columns));
    party_record(p, s);
    Opened *index = wire_open(e, wire_to(e, s, 16, 9));
    CHECK_OK(engine_exchange(e, "index"));
    const Layout *groups = layout_uniform(e, HEADS);
    RowMax *m = rowmax_count(e, index, 10, groups, group_len);
    CHECK_OK(engine_exchange(e, "counts"));
    Wire top = rowmax_take(e, m);
    party_record(p, top);
    Opened *max = wire_open(e, top);
    CHECK_OK(engine_exchange(e, "maximum"));
    Table *exp_table = table_new(&soft, &p->session);
    Looked *l = lookup_select_below(e, index, exp_table, max, groups);
    CHECK_OK(engine_exchange(e, "exp"));
    Wire w = wire_to(e, factor_mul(e, looked_factor(e, l, 60), NULL, 1, 60), 33, 16);
    party_record(p, w);
    Opened *wo = wire_open(e, w);
    CHECK_OK(engine_exchange(e, "weights"));
    Wire mixed = attend_values(e, wo, keys, HEADS, DIM, 33);
    party_record(p, mixed);
    Reveal *v = reveal_send(e, wire_narrow(mixed, 30), 18);
    CHECK_OK(engine_exchange(e, "reveal"));
    reveal_answer(e, v);
    CHECK_OK(engine_exchange(e, "answer"));
    const int64_t *out = reveal_take(e, v);
    CHECK((out != NULL) == (p->role == ROLE_CLIENT || p->role == ROLE_CLEAR));
    for (size_t i = 0; p->role == ROLE_CLEAR && i < ROWS * HEADS * DIM; i++) CHECK_NEAR(record_value(p, 3, i, 18), (double)out[i], 1);
    if (out) p->ctx = copy_words(&p->session, (const uint64_t *)out, ROWS * HEADS * DIM);
    CHECK_OK(engine_end(e));
}

TEST(attention_row_maximum_and_reveal)
{
    Party party[5];
    parties_run(party, attention, NULL);
    parties_compare(party);
    CHECK(!memcmp(party[ROLE_CLIENT].ctx, party[ROLE_CLEAR].ctx, ROWS * HEADS * DIM * 8));
    const Party *c = &party[ROLE_CLEAR];
    for (size_t r = 0, at = 0; r < ROWS; r++)
        for (size_t h = 0; h < HEADS; h++) {
            size_t n = KNOWN + r + 1;
            double score[16], top = -1e9;
            for (size_t j = 0; j < n; j++) {
                score[j] = 0;
                for (size_t d = 0; d < DIM; d++) score[j] += query(r * HEADS * DIM + h * DIM + d) * (j < KNOWN ? known(j * DIM + d) : key((j - KNOWN) * DIM + d));
                CHECK_NEAR(score[j], record_value(c, 0, at + j, 20), .02);
                top = fmax(top, score[j]);
            }
            double cell = record_value(c, 1, r * HEADS + h, 0);
            cell = cell < 0 ? cell + 64 : cell;
            CHECK(top / 2 + 32 - cell > -1.1 && top / 2 + 32 - cell < 2.1);   // the index's own low part moves it by up to a cell
            for (size_t j = 0; j < n; j++) CHECK_NEAR(exp(score[j] - 2 * (cell - 32) - 2), record_value(c, 2, at + j, 16), .01);
            at += n;
        }
    parties_end(party);
}

/* Maxima of rows of many lengths, so of words of many widths: row r has PEAK_HEADS groups of peak_len[r] scores. */
enum { PEAK_ROWS = 5, PEAK_HEADS = 2, PEAK_K = 4 };
static size_t peak_len[PEAK_ROWS], peak_cells;
static double peak_score(size_t i) { return floor(hash_real(i, (double)peak_cells * 5)); }        // of 16 a cell: the top cells stay free

static void peaks(Party *p)
{
    Engine *e = p->engine;
    unsigned H = 0;
    while ((size_t)1 << H < peak_cells) H++;
    party_begin(p, PEAK_ROWS, 0);
    size_t *columns = arena_new(&p->session, size_t, PEAK_ROWS), *group_len = arena_new(&p->session, size_t, PEAK_ROWS * PEAK_HEADS);
    for (size_t r = 0; r < PEAK_ROWS; r++) {
        columns[r] = PEAK_HEADS * peak_len[r];
        for (size_t h = 0; h < PEAK_HEADS; h++) group_len[r * PEAK_HEADS + h] = peak_len[r];
    }
    const Layout *at = layout_ragged(e, columns);
    uint64_t *x = arena_new(&p->session, uint64_t, layout_len(at));
    for (size_t i = 0; i < layout_len(at); i++) x[i] = (uint64_t)(int64_t)peak_score(i);
    Opened *index = wire_open(e, wire_input_client(e, at, H + PEAK_K, 0, x));
    CHECK_OK(engine_exchange(e, "index"));
    RowMax *m = rowmax_count(e, index, PEAK_K, layout_uniform(e, PEAK_HEADS), group_len);
    CHECK_OK(engine_exchange(e, "counts"));
    party_record(p, rowmax_take(e, m));
    CHECK_OK(engine_end(e));
}

static void peaks_check(const size_t len[PEAK_ROWS], size_t cells)
{
    Party party[5];
    memcpy(peak_len, len, sizeof peak_len), peak_cells = cells;
    parties_run(party, peaks, NULL);
    parties_compare(party);
    for (size_t g = 0, at = 0; g < PEAK_ROWS * PEAK_HEADS; g++) {
        double top = -1e9, cell = record_value(&party[ROLE_CLEAR], 0, g, 0);
        for (size_t i = 0; i < len[g / PEAK_HEADS]; i++) top = fmax(top, peak_score(at++));
        cell = (cell < 0 ? cell + (double)cells : cell) - (double)cells / 2 - floor(top / (1 << PEAK_K));
        CHECK(cell == 0 || cell == 1);
    }
    parties_end(party);
}

TEST(row_maxima_of_short_and_long_rows)
{
    peaks_check((size_t[]){1, 2, 3, 7, 130}, 8);
    peaks_check((size_t[]){1, 255, 256, 300, 2048}, 64);
    peaks_check((size_t[]){5, 100, 511, 512, 600}, 256);
    peaks_check((size_t[]){1, 1, 9, 4095, 70000}, 8);
}

static const LookupSpec tiny = {.fn = FN_GELU, .t = 7, .k = 4, .f = 2, .f0 = 8, .m0 = 16, .f1 = 8, .m1 = 16, .fp = 4, .gain = 1, .floor = -1e9, .ceiling = 1e9};
static void shared_out(Party *p)
{
    Engine *e = p->engine;
    party_begin(p, 7, 0);
    Opened *g = wire_open(e, input(p, 900, 14, 9, gate)), *t = wire_open(e, input(p, 900, 7, 2, gate)), *s = wire_open(e, input(p, 9, 20, 13, sum));
    CHECK_OK(engine_exchange(e, "indices"));
    Table *tc = table_new(&coarse, &p->session), *tf = table_new(&fine, &p->session);
    Looked *lg = lookup_select(e, g, table_new(&silu, &p->session)), *lt = lookup_select(e, t, table_new(&tiny, &p->session));
    Looked2 *ls = lookup2_select(e, s, tc, tf);
    CHECK_OK(engine_exchange(e, "columns"));
    party_record(p, factor_mul(e, looked_factor(e, lg, 50), NULL, 1, 50));
    party_record(p, factor_mul(e, looked_factor(e, lt, 50), NULL, 1, 50));
    party_record(p, factor_mul(e, looked2_factor(e, ls, 64), NULL, 1, 50));
    CHECK_OK(engine_end(e));
}

/* The same bits, whoever computes which part and with which kernels. */
TEST(lookups_and_maxima_on_several_threads_and_fast_kernels)
{
    Party one[5], many[5];
    parties_run(one, shared_out, NULL);
    parties_compare(one);
    threads_start(3);
    num_init(NUM_BEST), crypto_init(false);
    parties_run(many, shared_out, NULL);
    parties_compare(many);
    for (size_t k = 0; k < one[ROLE_CLEAR].records; k++)
        CHECK(!memcmp(one[ROLE_CLEAR].record[k].s, many[ROLE_CLEAR].record[k].s, one[ROLE_CLEAR].record[k].len * 8));
    parties_end(one), parties_end(many);
    peaks_check((size_t[]){3, 200, 256, 300, 2048}, 64);
    peaks_check((size_t[]){1, 127, 2048, 4096, 33000}, 256);
}

static double full(size_t i) { return (double)i * 32 - 16384; }    // every 32nd index of 15 bits, every cell

static void edges(Party *p)
{
    Engine *e = p->engine;
    LookupSpec s = silu;                       // wider: every cell and both ends
    s.t = 15, s.f = 9, s.k = 7, s.m0 = 20, s.m1 = 13;
    party_begin(p, 1, 9);
    Wire w = wire_label(input(p, 1023, 15, 0, full), 9);
    Opened *o = wire_open(e, w);
    CHECK_OK(engine_exchange(e, "index"));
    Table *t = table_new(&s, &p->session);
    Looked *l = lookup_select(e, o, t);
    CHECK_OK(engine_exchange(e, "columns"));
    party_record(p, factor_mul(e, looked_factor(e, l, 40), NULL, 1, 40));
    CHECK_OK(engine_end(e));
}

TEST(a_lookup_over_its_whole_domain)
{
    Party party[5];
    parties_run(party, edges, NULL);
    parties_compare(party);
    for (size_t i = 0; i < 1023; i++) {
        double g = full(i) / 512;
        if (g < 32 - 0.25) CHECK_NEAR(g / (1 + exp(-g)), record_value(&party[ROLE_CLEAR], 0, i, 18), .015);   // the top cell may wrap
    }
    parties_end(party);
}

/* Rounding by shares is unbiased: many shares of one value. */
static double three(size_t i) { (void)i; return 3; }
static void shifts(Party *p)
{
    party_begin(p, 1, 3);
    party_record(p, wire_shift(p->engine, input(p, 100000, 40, 8, three), 3));
    party_record(p, wire_label(wire_shift(p->engine, wire_label(input(p, 100000, 40, 0, three), 8), 5), 3));
}
TEST(shift_is_exact_or_unbiased)
{
    Party party[5];
    parties_run(party, shifts, NULL);
    parties_compare(party);
    double mean = 0;
    for (size_t i = 0; i < 100000; i++) {
        CHECK_NEAR(3, record_value(&party[ROLE_CLEAR], 0, i, 5), 0);
        mean += record_value(&party[ROLE_CLEAR], 1, i, 0) / 100000;
    }
    CHECK_NEAR(3.0 / 32, mean, 5e-3);
    parties_end(party);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
