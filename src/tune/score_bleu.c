/* score_bleu.c - BLEU (Papineni et al. 2002) with sacreBLEU's defaults (Post 2018; signature nrefs:var, case:mixed, eff:no,
 * tok:13a, smooth:exp): texts are cut into tokens as WMT's mteval-v13a does it; a corpus' n-grams, each counted at most as often as
 * in the reference that has it most, give four precisions, an empty one halved again for each before it; and what is shorter than
 * the references closest in length pays for it. */
#include "tune/score.h"
#include "base/text_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ORDER = 4 };

/* Sums over samples; a row of the bootstrap. */
typedef struct Sums { double hypothesis_len, reference_len, match[ORDER], total[ORDER]; } Sums;
typedef unsigned __int128 Ngram;               // numbers of up to four tokens
typedef struct Tokens { uint32_t *id; size_t count; } Tokens;

// ---- tokens ----------------------------------------------------------------------------------------------------------

static char *text_replace(const char *text, const char *what, const char *with, Arena *a)
{
    size_t len = strlen(what), n = 0;
    char *out = arena_alloc(a, strlen(text) + 1, 1);           // nothing grows
    while (*text) {
        if (!strncmp(text, what, len)) text += len, memcpy(out + n, with, strlen(with)), n += strlen(with);
        else out[n++] = *text++;
    }
    return out;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_stop(char c) { return c == '.' || c == ','; }
static bool is_symbol(char c)
{
    return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') ||
           (c >= ':' && c <= '@') || c == '/';
}

/* One of mteval's substitutions: a space before and after c, or after the first of two, as a regular expression would, left to right
 * and never twice over the same byte. Bytes of longer characters are neither digits nor marks, so bytes do for characters. */
static char *text_space(const char *in, unsigned pass, Arena *a)
{
    char *out = arena_alloc(a, 3 * strlen(in) + 1, 1);
    size_t n = 0;
    for (; *in; in++) {
        char c = in[0], d = in[1];
        if (pass == 0 && is_symbol(c)) out[n++] = ' ', out[n++] = c, out[n++] = ' ';
        else if (pass == 1 && !is_digit(c) && is_stop(d)) out[n++] = c, out[n++] = ' ', out[n++] = d, out[n++] = ' ', in++;
        else if (pass == 2 && is_stop(c) && d && !is_digit(d)) out[n++] = ' ', out[n++] = c, out[n++] = ' ', out[n++] = d, in++;
        else if (pass == 3 && is_digit(c) && d == '-') out[n++] = c, out[n++] = ' ', out[n++] = d, out[n++] = ' ', in++;
        else out[n++] = c;
    }
    return out;
}

static Tokens tokens_of(const char *text, TextTable *words, Arena *a)
{
    static const char *const plain[][2] = {
        {"<skipped>", ""}, {"-\n", ""}, {"\n", " "}, {"&quot;", "\""}, {"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"},
    };
    const char *end = text + strlen(text);
    while (end > text && strchr(" \t\r\n", end[-1])) end--;
    text = arena_format(a, "%.*s", (int)(end - text), text);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) text = text_replace(text, plain[i][0], plain[i][1], a);
    text = arena_format(a, " %s ", text);
    for (unsigned pass = 0; pass < 4; pass++) text = text_space(text, pass, a);
    Tokens t = {arena_new(a, uint32_t, strlen(text)), 0};
    for (const uint8_t *at = (const uint8_t *)text, *from = at; *at;) {
        const uint8_t *next = at;
        bool white = code_is_white(code_next(&next));
        if (white && at > from) t.id[t.count++] = table_add(words, (const char *)from, (size_t)(at - from));
        if (white) from = next;                // the text ends with a space
        at = next;
    }
    return t;
}

// ---- n-grams ---------------------------------------------------------------------------------------------------------

static int ngram_compare(const void *a, const void *b)
{
    Ngram x = *(const Ngram *)a, y = *(const Ngram *)b;
    return (x > y) - (x < y);
}

static size_t ngrams_of(Ngram **out, const Tokens *t, size_t n, Arena *a)
{
    size_t count = t->count < n ? 0 : t->count - n + 1;
    *out = arena_new(a, Ngram, count + 1);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < n; k++) (*out)[i] = (*out)[i] << 32 | (t->id[i + k] + 1);
    qsort(*out, count, sizeof **out, ngram_compare);
    return count;
}

static size_t run_of(const Ngram *sorted, size_t count, size_t at)    // equal ones from `at` on
{
    size_t len = 0;
    while (at + len < count && sorted[at + len] == sorted[at]) len++;
    return len;
}

static size_t times_in(const Ngram *sorted, size_t count, Ngram what)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sorted[middle] < what) low = middle + 1;
        else high = middle;
    }
    return low < count && sorted[low] == what ? run_of(sorted, count, low) : 0;
}

static size_t matches_of(const Tokens *hypothesis, const Tokens *reference, size_t references, size_t n, Arena *a)
{
    Ngram *mine, **other = arena_new(a, Ngram *, references + 1);
    size_t count = ngrams_of(&mine, hypothesis, n, a), *others = arena_new(a, size_t, references + 1), match = 0;
    for (size_t r = 0; r < references; r++) others[r] = ngrams_of(&other[r], &reference[r], n, a);
    for (size_t i = 0, run; i < count; i += run) {
        size_t most = 0;
        run = run_of(mine, count, i);
        for (size_t r = 0; r < references; r++) {
            size_t times = times_in(other[r], others[r], mine[i]);
            if (times > most) most = times;
        }
        match += run < most ? run : most;
    }
    return match;
}

static Sums sums_of(const char *hypothesis, const TestPair *p, Arena *a)
{
    TextTable words;
    table_init(&words, a);
    Tokens mine = tokens_of(hypothesis, &words, a), *reference = arena_new(a, Tokens, p->count + 1);
    Sums s = {.hypothesis_len = (double)mine.count};
    for (size_t r = 0; r < p->count; r++) {
        reference[r] = tokens_of(p->answers[r], &words, a);
        double len = (double)reference[r].count, far = fabs(len - s.hypothesis_len), best = fabs(s.reference_len - s.hypothesis_len);
        if (r == 0 || far < best || (far == best && len < s.reference_len)) s.reference_len = len;
    }
    for (size_t n = 1; n <= ORDER; n++) {
        s.match[n - 1] = (double)matches_of(&mine, reference, p->count, n, a);
        s.total[n - 1] = mine.count < n ? 0 : (double)(mine.count - n + 1);
    }
    return s;
}

/* sum: the fields of Sums. */
static double sums_score(const double *sum)
{
    const double hypothesis_len = sum[0], reference_len = sum[1], *match = sum + 2, *total = match + ORDER;
    double logs = 0, smooth = 1;
    if (match[0] == 0) return 0;               // and so no longer n-gram matches
    for (unsigned n = 0; n < ORDER; n++) {
        if (total[n] == 0) return 0;           // a precision of nothing: its logarithm ends the score
        if (match[n] == 0) smooth *= 2;
        logs += log(100 * (match[n] > 0 ? match[n] : 1 / smooth) / total[n]);
    }
    double brevity = hypothesis_len < reference_len ? exp(1 - reference_len / hypothesis_len) : 1;
    return brevity * exp(logs / ORDER);
}

Score score_bleu(const char *const *hypotheses, const TestPair *pairs, size_t count)
{
    Arena a;
    arena_init(&a, false);
    Sums *sums = arena_new(&a, Sums, count + 1);
    for (size_t i = 0; i < count; i++) {
        ArenaMark mark = arena_mark(&a);
        sums[i] = sums_of(hypotheses[i], &pairs[i], &a);
        arena_rollback(&a, mark);
    }
    Score s = score_bootstrap(sums_score, &sums[0].hypothesis_len, count, sizeof *sums / sizeof(double));
    arena_free(&a);
    return s;
}
