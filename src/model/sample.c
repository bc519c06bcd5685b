/* sample.c - the next token from logits, and the loss of one.
 *
 * Nothing is allocated and nothing sorted. Top-p keeps the most likely tokens that together reach p; where the cut lies is
 * found by histograms of weight over the bits of the weights themselves, since positive floats are ordered as their bits
 * are. Three passes of 10 bits settle it exactly; equal weights at the cut are kept from the lowest id on. */
#include "base/random.h"
#include "model/model.h"

#include <math.h>
#include <string.h>

enum { DIGIT_BITS = 10, DIGITS = 1 << DIGIT_BITS };

void sampler_init(Sampler *s, float temperature, float top_p, uint64_t seed)
{
    *s = (Sampler){.temperature = temperature, .top_p = top_p, .state = seed};
}

static uint32_t largest(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++) best = logits[i] > logits[best] ? i : best;
    return best;
}

/* The weight of a token relative to the likeliest, in [0, 1], as bits: below 2^30. */
typedef struct Weights { const float *logits; uint32_t vocab; float max, inverse; } Weights;

static uint32_t weight_bits(const Weights *w, uint32_t i)
{
    float v = expf((w->logits[i] - w->max) * w->inverse);
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return bits;
}

static double weight_value(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, 4);
    return (double)v;
}

/* The cut: tokens above `bits` are kept, and `ties` of those at it; mass is the weight of what is kept. */
typedef struct Cut { uint32_t bits; uint64_t ties; double mass; } Cut;

static Cut cut_find(const Weights *w, double share)
{
    double total = 0, above = 0;
    uint32_t prefix = 0;
    for (uint32_t i = 0; i < w->vocab; i++) total += weight_value(weight_bits(w, i));
    if (!(share > 0 && share < 1)) return (Cut){0, w->vocab, total};
    for (int shift = 2 * DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        double mass[DIGITS] = {0};
        for (uint32_t i = 0; i < w->vocab; i++) {
            uint32_t bits = weight_bits(w, i);
            if ((uint64_t)bits >> (shift + DIGIT_BITS) == prefix) mass[bits >> shift & (DIGITS - 1)] += weight_value(bits);
        }
        uint32_t digit = DIGITS - 1;
        while (digit > 0 && above + mass[digit] < share * total) above += mass[digit--];
        prefix = prefix << DIGIT_BITS | digit;
    }
    double one = weight_value(prefix), ties = one > 0 ? ceil((share * total - above) / one) : (double)w->vocab;
    if (!(ties >= 1)) ties = 1;
    return (Cut){prefix, (uint64_t)ties, above + ties * one};
}

int32_t sampler_pick(Sampler *s, const float *logits, uint32_t vocab)
{
    uint32_t best = largest(logits, vocab), last = best;
    if (!(s->temperature > 0)) return (int32_t)best;
    Weights w = {logits, vocab, logits[best], 1.0f / s->temperature};
    Cut cut = cut_find(&w, (double)s->top_p);
    double left = random_unit(&s->state) * cut.mass;
    for (uint32_t i = 0; i < vocab; i++) {
        uint32_t bits = weight_bits(&w, i);
        if (bits < cut.bits || (bits == cut.bits && cut.ties == 0)) continue;
        if (bits == cut.bits) cut.ties--;
        last = i;
        left -= weight_value(bits);
        if (left < 0) return (int32_t)i;
    }
    return (int32_t)last;                      // rounding left a crumb of the mass over
}

double cross_entropy(const float *logits, uint32_t vocab, int32_t target)
{
    ASSERT(target >= 0 && (uint32_t)target < vocab);
    double max = (double)logits[largest(logits, vocab)], sum = 0;
    for (uint32_t i = 0; i < vocab; i++) sum += exp((double)logits[i] - max);
    return max + log(sum) - (double)logits[target];
}
