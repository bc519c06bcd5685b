/* secure_rope.c - the angles of rotary position embedding as integers, the same bits on every machine.
 *
 * Both sides turn their shares by these integers, so they must agree on every bit, and the last bit of a libm function
 * may differ between machines. Hence series of plain IEEE operations in a fixed order, right to about 1e-11, which is
 * far below the integers' step. The frequencies are those of Hugging Face's Llama, with its llama3 scaling. */
#include <math.h>
#include "model/secure_parts.h"

static const double ln2 = 0x1.62e42fefa39efp-1, tau = 0x1.921fb54442d18p+2;

static double series_exp(double x)
{
    double n = rint(x / ln2), r = x - n * ln2, sum = 1, term = 1;
    for (int i = 1; i <= 16; i++) {
        term = term * r / i;
        sum = sum + term;
    }
    return ldexp(sum, (int)n);
}

/* ln(m 2^e) = e ln 2 + 2 atanh((m - 1) / (m + 1)), m in [1/2, 1). */
static double series_log(double x)
{
    int e;
    double m = frexp(x, &e), s = (m - 1) / (m + 1), square = s * s, power = s, sum = 0;
    for (int i = 0; i < 20; i++) {
        sum = sum + power / (2 * i + 1);
        power = power * square;
    }
    return e * ln2 + 2 * sum;
}

/* |x| up to 2^18: x minus a multiple of pi / 2, whose first 33 bits and rest are subtracted in turn. */
static void series_turn(double x, double *cosine, double *sine)
{
    const double half_pi_high = 0x1.921fb54400000p+0, half_pi_low = 0x1.0b4611a626331p-34;
    double n = rint(x * 0x1.45f306dc9c883p-1), r = (x - n * half_pi_high) - n * half_pi_low;
    double c = 1, s = r, term = r;
    for (int i = 2; i <= 20; i++) {
        if (i % 2 == 0) {
            term = -term * r / i;              // (-1)^(i/2) r^i / i!
            c = c + term;
        } else {
            term = term * r / i;
            s = s + term;
        }
    }
    long long quarter = (long long)n & 3;
    *cosine = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
    *sine = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
}

static double frequency(const ModelConfig *c, uint32_t pair)
{
    double f = series_exp(-2.0 * pair / c->head_dim * series_log((double)c->rope_theta));
    const RopeScaling *s = &c->rope;
    if (s->factor == 1.0f || s->factor == 0.0f) return f;
    double turns = (double)s->original_context * f / tau;
    if (turns < (double)s->low_freq_factor) return f / (double)s->factor;
    if (turns > (double)s->high_freq_factor) return f;
    double blend = (turns - (double)s->low_freq_factor) / ((double)s->high_freq_factor - (double)s->low_freq_factor);
    return (1 - blend) * f / (double)s->factor + blend * f;
}

void rope_integers(int32_t *out, const ModelConfig *c, uint32_t positions, unsigned f)
{
    size_t half = c->head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        double step = frequency(c, i);
        for (uint32_t p = 0; p < positions; p++) {
            double cosine, sine;
            series_turn(p * step, &cosine, &sine);
            out[(p * half + i) * 2] = (int32_t)rint(ldexp(cosine, (int)f));
            out[(p * half + i) * 2 + 1] = (int32_t)rint(ldexp(sine, (int)f));
        }
    }
}
