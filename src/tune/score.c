/* score.c - how close texts are to their references, and how sure one may be of a score.
 *
 * A share of samples has Wilson's interval (1927). A score of a corpus is a function of sums over its samples, so its interval
 * comes from drawing the samples again with replacement: 1,000 times, from a fixed seed, and taking the middle 95 %.
 *
 * chrF (Popovic 2015) compares bags of character n-grams. This is sacreBLEU's chrF2 (signature nrefs:var, case:mixed,
 * eff:yes, nc:6, nw:0, space:no), digit for digit: counts are added up over the corpus, each sentence taking those of the
 * reference that suits it best; precision and recall are averaged over the orders that both sides reach. */
#include "tune/score.h"
#include "tune/data_split.h"
#include "tune/task.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ORDER = 6, BETA_SQUARED = 4, CODE_BITS = 21, DRAWS = 1000 };

typedef struct Counts { double hypothesis[ORDER], reference[ORDER], match[ORDER]; } Counts;
typedef unsigned __int128 Ngram;               // up to six code points

// ---- intervals -------------------------------------------------------------------------------------------------------

static int real_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

Score score_bootstrap(double (*score)(const double *sum), const double *stat, size_t count, size_t width)
{
    Arena a;
    arena_init(&a, false);
    double *sum = arena_new(&a, double, width), *draw = arena_new(&a, double, DRAWS);
    uint64_t random = 1;
    for (size_t i = 0; i < count * width; i++) sum[i % width] += stat[i];
    Score s = {.value = count ? score(sum) : 0};
    for (size_t d = 0; count && d < DRAWS; d++) {
        memset(sum, 0, width * sizeof *sum);
        for (size_t i = 0; i < count; i++) {
            const double *row = stat + random_index(&random, count) * width;
            for (size_t k = 0; k < width; k++) sum[k] += row[k];
        }
        draw[d] = score(sum);
    }
    qsort(draw, DRAWS, sizeof *draw, real_compare);
    s.low = draw[DRAWS * 25 / 1000], s.high = draw[DRAWS * 975 / 1000 - 1];
    arena_free(&a);
    return s;
}

Score score_share(size_t right, size_t count)
{
    const double z = 1.959963984540054;        // of the normal distribution, 2.5 % on either side
    if (!count) return (Score){0, 0, 100};
    double n = (double)count, p = (double)right / n, wide = 1 + z * z / n;
    double centre = (p + z * z / (2 * n)) / wide, half = z / wide * sqrt(p * (1 - p) / n + z * z / (4 * n * n));
    return (Score){100 * p, right ? 100 * (centre - half) : 0, right < count ? 100 * (centre + half) : 100};
}

// ---- characters ------------------------------------------------------------------------------------------------------

uint32_t code_next(const uint8_t **at)
{
    const uint8_t *p = *at;
    unsigned more = *p < 0xC2 ? 0 : *p < 0xE0 ? 1 : *p < 0xF0 ? 2 : *p < 0xF5 ? 3 : 0;
    uint32_t code = more == 0 ? *p : *p & (0x3Fu >> more);
    *at += 1;
    if (*p >= 0x80 && more == 0) return 0xFFFD;
    for (unsigned i = 1; i <= more; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0xFFFD;
        code = code << 6 | (p[i] & 0x3F);
    }
    *at += more;
    return code;
}

bool code_is_white(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* The code points of a text without white space. */
static size_t codes_of(uint32_t **out, const char *text, Arena *a)
{
    size_t n = 0;
    *out = arena_new(a, uint32_t, strlen(text) + 1);
    for (const uint8_t *at = (const uint8_t *)text; *at;) {
        uint32_t code = code_next(&at);
        if (!code_is_white(code)) (*out)[n++] = code;
    }
    return n;
}

static int ngram_compare(const void *a, const void *b)
{
    Ngram x = *(const Ngram *)a, y = *(const Ngram *)b;
    return (x > y) - (x < y);
}

/* All n-grams of a text in ascending order; returns their number. */
static size_t ngrams_of(Ngram **out, const uint32_t *code, size_t len, size_t n, Arena *a)
{
    size_t count = len < n ? 0 : len - n + 1;
    *out = arena_new(a, Ngram, count + 1);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < n; k++) (*out)[i] = (*out)[i] << CODE_BITS | code[i + k];
    qsort(*out, count, sizeof **out, ngram_compare);
    return count;
}

static Counts counts_of(const char *hypothesis, const char *reference, Arena *a)
{
    Counts c = {0};
    uint32_t *hyp = NULL, *ref = NULL;
    size_t hyp_len = codes_of(&hyp, hypothesis, a), ref_len = codes_of(&ref, reference, a);
    for (size_t n = 1; n <= ORDER; n++) {
        Ngram *x = NULL, *y = NULL;
        size_t nx = ngrams_of(&x, hyp, hyp_len, n, a), ny = ngrams_of(&y, ref, ref_len, n, a), match = 0;
        for (size_t i = 0, k = 0; i < nx && k < ny;) {
            if (x[i] == y[k]) match++, i++, k++;
            else if (x[i] < y[k]) i++;
            else k++;
        }
        c.hypothesis[n - 1] = ny ? (double)nx : 0;      // an order that the reference does not reach counts for neither
        c.reference[n - 1] = (double)ny;
        c.match[n - 1] = (double)match;
    }
    return c;
}

/* sum: the fields of Counts. */
static double counts_score(const double *sum)
{
    const double *hypothesis = sum, *reference = sum + ORDER, *match = sum + 2 * ORDER;
    double precision = 0, recall = 0;
    unsigned orders = 0;
    for (unsigned n = 0; n < ORDER; n++) {
        if (hypothesis[n] == 0 || reference[n] == 0) continue;
        precision += match[n] / hypothesis[n];
        recall += match[n] / reference[n];
        orders++;
    }
    if (precision + recall == 0) return 0;
    precision /= orders, recall /= orders;
    return 100 * (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall);
}

Score score_chrf(const char *const *hypotheses, const TestPair *pairs, size_t count)
{
    Arena a;
    arena_init(&a, false);
    Counts *best = arena_new(&a, Counts, count + 1);
    for (size_t i = 0; i < count; i++) {
        double best_score = -1;
        for (size_t r = 0; r < pairs[i].count; r++) {
            ArenaMark mark = arena_mark(&a);
            Counts c = counts_of(hypotheses[i], pairs[i].answers[r], &a);
            arena_rollback(&a, mark);
            double score = counts_score(c.hypothesis);
            if (score > best_score) best[i] = c, best_score = score;
        }
    }
    Score s = score_bootstrap(counts_score, best[0].hypothesis, count, sizeof *best / sizeof(double));
    arena_free(&a);
    return s;
}

// ---- exact match -----------------------------------------------------------------------------------------------------

/* Equal but for white space at the ends and how much of it stands between words. */
static bool texts_match(const char *x, const char *y)
{
    for (;;) {
        size_t x_space = strspn(x, " \t\r\n"), y_space = strspn(y, " \t\r\n");
        x += x_space, y += y_space;
        if (!*x || !*y) return !*x && !*y;
        size_t len = strcspn(x, " \t\r\n");
        if (strcspn(y, " \t\r\n") != len || memcmp(x, y, len) != 0) return false;
        x += len, y += len;
    }
}

Score score_exact(const char *const *hypotheses, const TestPair *pairs, size_t count)
{
    size_t right = 0;
    for (size_t i = 0; i < count; i++) {
        size_t r = 0;
        while (r < pairs[i].count && !texts_match(hypotheses[i], pairs[i].answers[r])) r++;
        right += r < pairs[i].count;
    }
    return score_share(right, count);
}
