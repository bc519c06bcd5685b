/* score.c - how close translations are to their references.
 *
 * chrF (Popovic 2015) compares bags of character n-grams. This is sacreBLEU's chrF2 (signature nrefs:var, case:mixed,
 * eff:yes, nc:6, nw:0, space:no), digit for digit: counts are added up over the corpus, each sentence taking those of the
 * reference that suits it best; precision and recall are averaged over the orders that both sides reach. */
#include "tune/data.h"
#include "tune/data_split.h"

#include <stdlib.h>
#include <string.h>

enum { ORDER = 6, BETA_SQUARED = 4, CODE_BITS = 21 };

typedef struct Counts { uint64_t hypothesis[ORDER], reference[ORDER], match[ORDER]; } Counts;
typedef unsigned __int128 Ngram;               // up to six code points

/* The next code point; a byte that is not UTF-8 (a model may stop inside a character) stands for U+FFFD. */
static uint32_t code_next(const uint8_t **at)
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

static bool is_white(uint32_t c)               // as Python's str.split sees it
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
        if (!is_white(code)) (*out)[n++] = code;
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
        c.hypothesis[n - 1] = ny ? nx : 0;     // an order that the reference does not reach counts for neither
        c.reference[n - 1] = ny;
        c.match[n - 1] = match;
    }
    return c;
}

static double counts_score(const Counts *c)
{
    double precision = 0, recall = 0;
    unsigned orders = 0;
    for (unsigned n = 0; n < ORDER; n++) {
        if (!c->hypothesis[n] || !c->reference[n]) continue;
        precision += (double)c->match[n] / (double)c->hypothesis[n];
        recall += (double)c->match[n] / (double)c->reference[n];
        orders++;
    }
    if (precision + recall == 0) return 0;
    precision /= orders, recall /= orders;
    return 100 * (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall);
}

double score_chrf(const char *const *hypotheses, const TestPair *pairs, size_t count)
{
    Counts total = {0};
    Arena a;
    arena_init(&a, false);
    for (size_t i = 0; i < count; i++) {
        Counts best = {0};
        double best_score = -1;
        for (size_t r = 0; r < pairs[i].count; r++) {
            ArenaMark mark = arena_mark(&a);
            Counts c = counts_of(hypotheses[i], pairs[i].answers[r], &a);
            arena_rollback(&a, mark);
            double score = counts_score(&c);
            if (score > best_score) best = c, best_score = score;
        }
        for (unsigned n = 0; n < ORDER; n++) {
            total.hypothesis[n] += best.hypothesis[n];
            total.reference[n] += best.reference[n];
            total.match[n] += best.match[n];
        }
    }
    arena_free(&a);
    return counts_score(&total);
}

double score_exact(const char *const *hypotheses, const TestPair *pairs, size_t count)
{
    size_t right = 0;
    for (size_t i = 0; i < count; i++) {
        const char *hyp = hypotheses[i];
        size_t hyp_len = text_trim(&hyp, strlen(hyp)), r = 0;
        for (; r < pairs[i].count; r++) {
            const char *ref = pairs[i].answers[r];
            if (text_trim(&ref, strlen(ref)) == hyp_len && memcmp(hyp, ref, hyp_len) == 0) break;
        }
        right += r < pairs[i].count;
    }
    return count ? 100.0 * (double)right / (double)count : 0;
}
