/* test_pages.c - keys and values in pages of 64 positions, under all five roles: batches that end on, before and after a page's edge,
 * rows that are forgotten and written again, and what attention makes of them, against plain sums. */
#define TEST_SECONDS 60
#include "parties.h"

enum { HEADS = 4, GROUPS = 2, DIM = 3, WIDTH = GROUPS * DIM, POSITIONS = 200, SCORE_BITS = 33, VALUE_BITS = 40 };

/* What is kept of the rows so far (-1: all), and the rows that come. */
typedef struct Step { int keep; size_t rows; } Step;
static const Step steps[] = {{-1, 63}, {-1, 1}, {-1, 1}, {64, 1}, {63, 70}, {130, 1}, {1, 64},
                             {65, 128}, {-1, 7}, {128, 72}, {0, 129}, {64, 64}, {0, POSITIONS}};
enum { STEPS = sizeof steps / sizeof *steps };

typedef enum { QUERY, KEY, VALUE, KINDS } Kind;
static uint64_t word(size_t step, Kind kind, size_t i)
{
    return (uint64_t)((int64_t)((i * 2654435761u + (step * KINDS + kind) * 40503u) % 4001) - 2000);
}

static Opened *input_open(Party *p, size_t step, Kind kind, size_t columns, unsigned n)
{
    const Layout *at = layout_uniform(p->engine, columns);
    uint64_t *x = arena_new(&p->session, uint64_t, layout_len(at));
    for (size_t i = 0; i < layout_len(at); i++) x[i] = word(step, kind, i);
    return wire_open(p->engine, wire_input_client(p->engine, at, n, 10, x));
}

/* Of each step: the scores, and the values mixed by them. */
static void conversation(Party *p)
{
    Engine *e = p->engine;
    uint64_t first = 0;
    size_t used = 0;
    Cache *c[2] = {cache_new(&p->session, POSITIONS, WIDTH, SCORE_BITS, 10), cache_new(&p->session, POSITIONS, WIDTH, VALUE_BITS, 10)};
    for (size_t t = 0; t < STEPS; t++) {
        size_t rows = steps[t].rows;
        if (steps[t].keep >= 0) {
            used = (size_t)steps[t].keep;
            for (int k = 0; k < 2; k++) cache_truncate(c[k], used);
        }
        CHECK_OK(cache_reserve(e, &p->session, c, 2, used + rows));
        CHECK_EQUAL(0, cache_missing(e, c, 2, used + rows));
        party_begin(p, rows, first);
        Opened *q = input_open(p, t, QUERY, HEADS * DIM, SCORE_BITS);
        Opened *k = input_open(p, t, KEY, WIDTH, SCORE_BITS), *v = input_open(p, t, VALUE, WIDTH, VALUE_BITS);
        CHECK_OK(engine_exchange(e, "queries, keys and values"));
        cache_append(e, c[0], k), cache_append(e, c[1], v);
        first += rows, used += rows;
        size_t *columns = arena_new(&p->session, size_t, rows);
        for (size_t r = 0; r < rows; r++) columns[r] = HEADS * (used - rows + r + 1);
        Wire score = attend_scores(e, q, c[0], HEADS, DIM, layout_ragged(e, columns));
        party_record(p, score);
        Opened *weights = wire_open(e, score);
        CHECK_OK(engine_exchange(e, "weights"));
        party_record(p, attend_values(e, weights, c[1], HEADS, DIM, SCORE_BITS));
        CHECK_OK(engine_end(e));
    }
}

static void check_word(const Record *r, size_t i, uint64_t want)
{
    CHECK_EQUAL(ring_low(want, r->n), ring_low(r->c[i] + r->s[i], r->n));
}

/* Row r of a step that ends with `used` positions, whose scores begin at word `at`. */
static void check_row(const Record record[2], size_t t, size_t r, size_t at, size_t used, uint64_t (*keys)[WIDTH], uint64_t (*values)[WIDTH])
{
    size_t seen = used - steps[t].rows + r + 1;
    for (size_t h = 0; h < HEADS; h++) {
        uint64_t mixed[DIM] = {0};
        for (size_t j = 0; j < seen; j++) {
            uint64_t sum = 0;
            size_t column = h / (HEADS / GROUPS) * DIM;
            for (size_t d = 0; d < DIM; d++) sum += word(t, QUERY, (r * HEADS + h) * DIM + d) * keys[j][column + d];
            for (size_t d = 0; d < DIM; d++) mixed[d] += sum * values[j][column + d];
            check_word(&record[0], at + h * seen + j, sum);
        }
        for (size_t d = 0; d < DIM; d++) check_word(&record[1], (r * HEADS + h) * DIM + d, mixed[d]);
    }
}

TEST(rows_are_forgotten_and_written_again)
{
    static uint64_t keys[POSITIONS][WIDTH], values[POSITIONS][WIDTH];
    Party party[5];
    size_t used = 0;
    parties_run(party, conversation, NULL);
    parties_compare(party);
    CHECK_EQUAL(2 * STEPS, party[ROLE_CLEAR].records);
    for (size_t t = 0; t < STEPS; t++) {
        if (steps[t].keep >= 0) used = (size_t)steps[t].keep;
        for (size_t i = 0; i < steps[t].rows * WIDTH; i++) {
            keys[used + i / WIDTH][i % WIDTH] = word(t, KEY, i);
            values[used + i / WIDTH][i % WIDTH] = word(t, VALUE, i);
        }
        used += steps[t].rows;
        const Record *record = &party[ROLE_CLEAR].record[2 * t];
        for (size_t r = 0, at = 0; r < steps[t].rows; r++) {
            check_row(record, t, r, at, used, keys, values);
            at += HEADS * (used - steps[t].rows + r + 1);
        }
    }
    parties_end(party);
}

int main(int argc, char **argv)
{
    num_init(NUM_BEST);
    crypto_init(false);
    return test_main(argc, argv);
}
