/* ring.c - the choice of kernels, and elementwise operations on ring vectors. */
#include "num/kernels.h"

#include <math.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the packed form is read and written as words of the machine");

/* `product` has the large products of a family, `kernel` all else. */
#define TABLE(name, columns, kernel, product) {#name, columns, \
    kernel##_add, kernel##_sub, kernel##_mul, kernel##_mul_add, kernel##_shift, kernel##_pack, kernel##_unpack, \
    product##_linear, product##_matmul, kernel##_vecmat_add, kernel##_dot, kernel##_select, kernel##_onehot, \
    kernel##_narrow_unpack, kernel##_narrow_pack, kernel##_narrow_turned, kernel##_narrow_onehot}
const Kernels num_portable = TABLE(portable, 1, portable, portable);
const Kernels *num_kernel = &num_portable;
static bool bf16_tiles;
#ifdef __x86_64__
const Kernels num_avx2 = TABLE(avx2, 8, avx2, avx2);
const Kernels num_avx512 = TABLE(avx512, 8, avx512, avx512);
const Kernels num_amx = TABLE(amx, 32, avx512, amx);
#endif

#ifdef __x86_64__
static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512ifma") && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi2");
}
#endif

void num_init(NumFamily most)
{
    num_kernel = &num_portable, bf16_tiles = false;
    if (most == NUM_BEST) most = NUM_AMX;
#ifdef __x86_64__
    if (most >= NUM_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"))
        num_kernel = &num_avx2;
    if (most >= NUM_AVX512 && has_avx512()) avx512_prepare(), avx512_prepare_narrow(), num_kernel = &num_avx512;
    if (most >= NUM_AMX && num_kernel == &num_avx512 && amx_prepare()) num_kernel = &num_amx, bf16_tiles = amx_has_bf16();
#endif
}

bool num_bf16_tiles(void)
{
    return bf16_tiles;
}

const char *num_kernels(void)
{
    return num_kernel->name;
}

uint64_t ring_from_real(double x, unsigned f)
{
    double y = ldexp(x, (int)f);
    if (!(fabs(y) < 0x1p62)) bug("ring_from_real: %g does not fit with %u fraction bits", x, f);
    return (uint64_t)(int64_t)rint(y);         // to nearest, ties to even: the rounding mode is never changed
}

void portable_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len)
{
    for (size_t i = 0; i < len; i++) out[i] = a[i] + b[i];
}

void portable_sub(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len)
{
    for (size_t i = 0; i < len; i++) out[i] = a[i] - b[i];
}

void portable_mul(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len)
{
    for (size_t i = 0; i < len; i++) out[i] = a[i] * b[i];
}

void portable_mul_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len)
{
    for (size_t i = 0; i < len; i++) out[i] += a[i] * b[i];
}

void portable_shift(uint64_t *out, const uint64_t *x, size_t len, unsigned k, uint64_t plus)
{
    for (size_t i = 0; i < len; i++) out[i] = (x[i] + plus) >> k;
}

void ring_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len) { num_kernel->add(out, a, b, len); }
void ring_sub(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len) { num_kernel->sub(out, a, b, len); }
void ring_add_to(uint64_t *out, const uint64_t *a, size_t len) { num_kernel->add(out, out, a, len); }
void ring_sub_from(uint64_t *out, const uint64_t *a, size_t len) { num_kernel->sub(out, out, a, len); }
void ring_mul(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len) { num_kernel->mul(out, a, b, len); }
void ring_mul_add(uint64_t *out, const uint64_t *a, const uint64_t *b, size_t len) { num_kernel->mul_add(out, a, b, len); }

/* The upper bits of x, which mean nothing, stay above the n-k bits of the result; where adding 2^k - 1 passes 2^64, the
 * result is 0, which is 2^(n-k). So the width does not matter here either. */
void ring_shift(uint64_t *out, const uint64_t *x, size_t len, unsigned n, unsigned k, bool up)
{
    ASSERT(n <= 64 && k < n);
    num_kernel->shift(out, x, len, k, up ? (UINT64_C(1) << k) - 1 : 0);
}
