/* test_num.c - the kernels of num/: the portable ones against plain definitions, the fast ones against the portable. */
#include "test.h"
#include "num/num.h"

static const size_t LENGTHS[] = {0, 1, 7, 8, 9, 63, 64, 65, 130, 1000};
enum { LENGTHS_COUNT = sizeof LENGTHS / sizeof *LENGTHS, MOST = 1000 };

static uint64_t word(void)                     // any, the same in every run
{
    static uint64_t s = 0x2545F4914F6CDD1Du;
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return s * 0x9E3779B97F4A7C15u;
}

static uint64_t *words(size_t len)             // on the heap at its exact size, so that a sanitizer sees a step beyond
{
    uint64_t *x = malloc(len * 8 + (len == 0));
    if (!x) abort();
    for (size_t i = 0; i < len; i++) x[i] = word();
    return x;
}

static void *copy(const void *x, size_t size)
{
    void *y = malloc(size + (size == 0));
    if (!y) abort();
    return size ? memcpy(y, x, size) : y;
}

static void need_family(NumFamily family)
{
    static const char *const names[] = {[NUM_PORTABLE] = "portable", [NUM_AVX2] = "avx2", [NUM_AVX512] = "avx512", [NUM_AMX] = "amx"};
    num_init(family);
    if (strcmp(num_kernels(), names[family])) SKIP("the processor has no such instructions");
}

/* A case for every family of kernels. */
#define FAMILIES(name, check) \
    TEST(name##_portable) { need_family(NUM_PORTABLE); check(); } \
    TEST(name##_avx2) { need_family(NUM_AVX2); check(); } \
    TEST(name##_avx512) { need_family(NUM_AVX512); check(); } \
    TEST(name##_amx) { need_family(NUM_AMX); check(); }

// ---- vectors ---------------------------------------------------------------------------------------------------------

static void elementwise_check(void)
{
    for (size_t t = 0; t < LENGTHS_COUNT; t++) {
        size_t len = LENGTHS[t];
        uint64_t *a = words(len), *b = words(len), *o = words(len), *p = copy(o, len * 8);
        ring_add(o, a, b, len);
        for (size_t i = 0; i < len; i++) CHECK(o[i] == a[i] + b[i]);
        ring_sub(o, a, b, len);
        for (size_t i = 0; i < len; i++) CHECK(o[i] == a[i] - b[i]);
        ring_mul(o, a, b, len);
        for (size_t i = 0; i < len; i++) CHECK(o[i] == a[i] * b[i]);
        memcpy(p, o, len * 8);
        ring_mul_add(o, a, b, len);
        ring_add_to(o, a, len);
        ring_sub_from(o, b, len);
        for (size_t i = 0; i < len; i++) CHECK(o[i] == p[i] + a[i] * b[i] + a[i] - b[i]);
        free(a), free(b), free(o), free(p);
    }
}

FAMILIES(ring_elementwise, elementwise_check)

TEST(ring_signed_and_real)
{
    CHECK_EQUAL(-1, ring_signed(1, 1));
    CHECK_EQUAL(-8, ring_signed(0xF8, 4));
    CHECK_EQUAL(7, ring_signed(0xF7, 4));
    CHECK_EQUAL(INT64_MIN, ring_signed(UINT64_C(1) << 63, 64));
    CHECK_EQUAL(5, (int64_t)ring_low(0xF5, 4));
    CHECK_EQUAL(-1, (int64_t)ring_low(~UINT64_C(0), 64));
    CHECK_EQUAL(3 << 12, (int64_t)ring_from_real(3, 12));
    CHECK_EQUAL(2, (int64_t)ring_from_real(2.5, 0));               // ties to even
    CHECK_EQUAL(-4, (int64_t)ring_from_real(-3.5, 0));
    CHECK_EQUAL(-2, (int64_t)ring_from_real(-0.5, 2));
}

static int status_of(void (*run)(void))        // what becomes of a child that runs this
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        fclose(stderr);
        run();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

static void real_too_large(void) { ring_from_real(1, 62); }
static void real_nan(void) { ring_from_real(NAN, 3); }
TEST(ring_from_real_aborts) { CHECK(WIFSIGNALED(status_of(real_too_large))); CHECK(WIFSIGNALED(status_of(real_nan))); }

/* x = c + s mod 2^n: C rounds up, S down. The sum is x / 2^k rounded one way or the other, exact where 2^k divides x, and
 * over all the ways to share x it is x / 2^k on average. */
static void shift_check(void)
{
    for (unsigned n = 2; n <= 64; n++)
        for (unsigned k = 0; k < n; k += 1 + k / 3) {
            uint64_t x[64], c[64], s[64];
            for (int i = 0; i < 64; i++) x[i] = i % 4 ? word() : word() << k, c[i] = word(), s[i] = x[i] - c[i];
            ring_shift(c, c, 64, n, k, true);
            ring_shift(s, s, 64, n, k, false);
            for (int i = 0; i < 64; i++) {
                uint64_t v = ring_low(x[i], n), sum = ring_low(c[i] + s[i], n - k);
                uint64_t down = ring_low(v >> k, n - k), up = ring_low(down + 1, n - k);
                CHECK(sum == down || sum == up);
                if (ring_low(v, k) == 0 || k == 0) CHECK(sum == down);
            }
        }
}

FAMILIES(ring_shift_rounds, shift_check)

TEST(ring_shift_is_unbiased)
{
    enum { N = 8, K = 3 };
    num_init(NUM_BEST);
    for (uint64_t x = 0; x < 1 << N; x++) {
        uint64_t ups = 0;
        for (uint64_t r = 0; r < 1 << N; r++) {
            uint64_t c, s, cs = r, ss = x - r;
            ring_shift(&c, &cs, 1, N, K, true);
            ring_shift(&s, &ss, 1, N, K, false);
            ups += ring_low(c + s, N - K) != x >> K;
        }
        CHECK_EQUAL((x & ((1 << K) - 1)) << (N - K), ups);         // of 2^N: the fraction that is lost
    }
}

// ---- packing ---------------------------------------------------------------------------------------------------------

TEST(pack_is_little_endian_without_gaps)
{
    num_init(NUM_PORTABLE);
    for (unsigned n = 1; n <= 64; n++) {
        uint64_t x[77];
        uint8_t out[77 * 8 + 1], want[77 * 8 + 1] = {0};
        for (int i = 0; i < 77; i++) {
            x[i] = word();
            for (unsigned b = 0; b < n; b++) {
                size_t at = (size_t)i * n + b;
                want[at / 8] = (uint8_t)(want[at / 8] | (x[i] >> b & 1) << at % 8);
            }
        }
        ring_pack(out, x, 77, n);
        CHECK(!memcmp(want, out, ring_packed_size(77, n)));
    }
}

static void round_trip_check(void)
{
    for (unsigned n = 1; n <= 64; n++)
        for (size_t len = 0; len <= MOST; len += len < 140 ? 1 : 215) {
            size_t size = ring_packed_size(len, n);
            uint64_t *x = words(len), *y = words(len);
            uint8_t *packed = malloc(size + 1), *exact = NULL;
            packed[size] = 0xA5;
            ring_pack(packed, x, len, n);
            CHECK_EQUAL(0xA5, packed[size]);
            if (len * n % 8) CHECK_EQUAL(0, packed[size - 1] >> (len * n % 8));       // padded with zeros
            exact = copy(packed, size);
            ring_unpack(y, exact, len, n);
            for (size_t i = 0; i < len; i++) CHECK(y[i] == ring_low(x[i], n));
            free(x), free(y), free(packed), free(exact);
        }
}

FAMILIES(pack_round_trip, round_trip_check)

TEST(pack_is_the_same_in_all_families)
{
    for (unsigned n = 1; n <= 64; n++)
        for (size_t t = 0; t < LENGTHS_COUNT; t++) {
            size_t len = LENGTHS[t], size = ring_packed_size(len, n);
            uint64_t *x = words(len);
            uint8_t *a = malloc(size + 1), *b = malloc(size + 1);
            num_init(NUM_PORTABLE);
            ring_pack(a, x, len, n);
            for (NumFamily f = NUM_AVX2; f <= NUM_AMX; f++) {
                num_init(f);
                ring_pack(b, x, len, n);
                CHECK(!memcmp(a, b, size));
            }
            free(x), free(a), free(b);
        }
}

// ---- products --------------------------------------------------------------------------------------------------------

static unsigned bits_next(void)                // a ring; all of them in turn
{
    static unsigned bits;
    return bits++ % 64 + 1;
}

/* Both widths of weights, their extremes among them; `most`: every product as large as it gets. */
static void linear_case(size_t rows, size_t n, size_t k, bool most, unsigned bits)
{
    uint64_t *x = words(rows * k), *out = words(rows * n);
    int8_t *w8 = malloc(n * k + (k == 0));
    int16_t *w16 = malloc(2 * n * k + (k == 0));
    for (size_t i = 0; i < n * k; i++) w8[i] = most ? -128 : (int8_t)word(), w16[i] = most ? INT16_MIN : (int16_t)word();
    if (most) memset(x, 0xFF, rows * k * 8);
    for (int wide = 0; wide < 2; wide++) {
        if (wide) ring_linear_i16(out, x, w16, rows, n, k, bits);
        else ring_linear_i8(out, x, w8, rows, n, k, bits);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < n; j++) {
                uint64_t sum = 0;
                for (size_t i = 0; i < k; i++) sum += x[r * k + i] * (uint64_t)(wide ? (int64_t)w16[j * k + i] : w8[j * k + i]);
                CHECK(ring_low(sum - out[r * n + j], bits) == 0);
            }
    }
    free(x), free(out), free(w8), free(w16);
}

static void linear_check(void)
{
    static const size_t ks[] = {0, 1, 3, 4, 7, 8, 9, 63, 64, 65, 511, 512, 513, 1000, 1543};
    static const size_t ns[] = {1, 3, 4, 7, 8, 9, 21};
    for (size_t a = 0; a < sizeof ks / sizeof *ks; a++)
        for (size_t b = 0; b < sizeof ns / sizeof *ns; b++)
            for (size_t rows = 1; rows <= 8; rows += rows < 4 ? 1 : 3) linear_case(rows, ns[b], ks[a], (a + b) % 3 == 0, bits_next());
    for (unsigned bits = 1; bits <= 64; bits++) linear_case(1 + bits % 40, 9, 70, bits % 2 == 0, bits);
    for (unsigned bits = 1; bits <= 64; bits++)                    // whole tiles, with and without a rest
        linear_case(1 + bits % 20, 31 + bits % 35, 64 * (1 + bits % 3), bits % 2 == 0, bits);
    linear_case(4, 8, 2048, true, 64);
    linear_case(1, 4, 9000, true, 61);
    linear_case(70, 3, 4100, true, 64);            // more rows and more of k than are taken at once
    linear_case(0, 3, 5, false, 64);
}

FAMILIES(linear, linear_check)
TEST(linear_threaded) { num_init(NUM_BEST); threads_start(3); linear_case(9, 301, 770, false, 64); linear_case(64, 67, 1000, true, 47); }

static void matmul_case(size_t rows, size_t n, size_t k, unsigned bits, bool most)
{
    size_t lda = k + 3, ldb = k + 1, ldo = n + 2;
    uint64_t *a = words(rows * lda), *b = words(n * ldb), *out = words(rows * ldo), *old = copy(out, rows * ldo * 8);
    if (most) memset(a, 0xFF, rows * lda * 8), memset(b, 0xFF, n * ldb * 8);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        memcpy(old, out, rows * ldo * 8);
        ring_matmul(out, ldo, a, lda, b, ldb, rows, n, k, bits, accumulate);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < ldo; j++) {
                uint64_t sum = j >= n || accumulate ? old[r * ldo + j] : 0;
                if (j < n) for (size_t i = 0; i < k; i++) sum += a[r * lda + i] * b[j * ldb + i];
                CHECK(ring_low(sum - out[r * ldo + j], j < n ? bits : 64) == 0);       // and the gaps stay as they were
            }
    }
    free(a), free(b), free(out), free(old);
}

static void matmul_check(void)
{
    for (size_t t = 0; t < LENGTHS_COUNT; t++)
        for (size_t rows = 1; rows <= 9; rows++) matmul_case(rows, 1 + (t * 7 + rows) % 20, LENGTHS[t], bits_next(), false);
    for (unsigned bits = 1; bits <= 64; bits++) matmul_case(1 + bits % 40, 9, 70, bits, false);
    for (unsigned bits = 1; bits <= 64; bits++) matmul_case(48, 40, 128, bits, bits % 2 == 0);
    matmul_case(33, 65, 100, 64, false);
    matmul_case(130, 33, 1100, 52, true);            // more rows and more of k than are taken at once
    matmul_case(130, 33, 1100, 64, true);
}

FAMILIES(matmul, matmul_check)
TEST(matmul_threaded) { num_init(NUM_BEST); threads_start(3); matmul_case(64, 203, 400, 50, false); matmul_case(64, 203, 400, 64, true); }

static void vecmat_check(void)
{
    for (size_t t = 0; t < LENGTHS_COUNT; t++)
        for (size_t k = 0; k < 40; k += 13) {
            size_t n = LENGTHS[t], ldb = n + 3;
            uint64_t *a = words(k), *b = words(k * ldb), *out = words(n), *old = copy(out, n * 8);
            unsigned bits = bits_next();
            ring_vecmat_add(out, a, b, ldb, n, k, bits);
            for (size_t j = 0; j < n; j++) {
                for (size_t i = 0; i < k; i++) old[j] += a[i] * b[i * ldb + j];
                CHECK(ring_low(old[j] - out[j], bits) == 0);
            }
            uint64_t *c = words(n), dot = 0;
            for (size_t j = 0; j < n; j++) dot += c[j] * out[j];
            CHECK(dot == ring_dot(c, out, n));
            free(a), free(b), free(out), free(old), free(c);
        }
}

FAMILIES(vecmat_and_dot, vecmat_check)

// ---- selection -------------------------------------------------------------------------------------------------------

static uint64_t entry(const SelectTable *t, size_t row, unsigned j, size_t e)
{
    uint64_t v = 0;
    size_t size = t->cells * (t->bytes[0] + (t->columns > 1 ? t->bytes[1] : 0));
    memcpy(&v, (const uint8_t *)t->rows + row * size + (j ? t->cells * t->bytes[0] : 0) + e * t->bytes[j], t->bytes[j]);
    return v;
}

static bool bit_of(const uint8_t *bits, size_t at) { return bits[at / 8] >> at % 8 & 1; }

/* One table, a vector for every `step`-th turn; kind: all words and all bits at most, no bit, random ones. */
static void select_table(const SelectTable *t, int kind)
{
    size_t cells = t->cells, step = cells > 64 ? cells / 32 + 1 : 1, count = cells / step;
    uint8_t *bits = (uint8_t *)words(count * cells / 64 + 1), *exact = copy(bits, count * cells / 8);
    uint64_t *low = words(count), *turn = words(count), *out = words(3 * count);
    if (kind < 2) memset(exact, kind == 0 ? 0xFF : 0, count * cells / 8);
    for (size_t i = 0; i < count; i++) low[i] %= 3, turn[i] = i * step;
    ring_select(&(Selection){t, exact, low, turn, {out, out + count}, out + 2 * count}, count);
    for (size_t i = 0; i < count; i++) {
        uint64_t sum[2] = {0}, ones = 0;
        for (size_t c = 0; c < cells; c++) {
            if (!bit_of(exact + i * cells / 8, c)) continue;
            ones++;
            for (unsigned j = 0; j < t->columns; j++) sum[j] += entry(t, low[i], j, (c + cells - turn[i]) % cells);
        }
        for (unsigned j = 0; j < t->columns; j++) CHECK(ring_low(sum[j], 8 * t->bytes[j]) == out[j * count + i]);
        CHECK(ones == out[2 * count + i]);
    }
    free(bits), free(exact), free(low), free(turn), free(out);
}

static void select_check(void)
{
    for (size_t cells = 8; cells <= 2048; cells *= 2)
        for (unsigned b0 = 1; b0 <= 8; b0 *= 2)
            for (unsigned b1 = 0; b1 <= 8; b1 = b1 ? 2 * b1 : 1)
                for (int kind = 0; kind < 3; kind++) {
                    size_t size = 3 * cells * (b0 + b1);
                    void *any = words(size / 8 + 1), *rows = copy(any, size);
                    if (kind == 0) memset(rows, 0xFF, size);
                    select_table(&(SelectTable){rows, cells, b1 ? 2 : 1, {b0, b1}}, kind);
                    free(any), free(rows);
                }
}

static void onehot_check(void)
{
    for (size_t cells = 8; cells <= 2048; cells *= 2)
        for (int flip = 0; flip < 2; flip++) {
            size_t count = 67, size = cells / 8;
            uint8_t *any = (uint8_t *)words(count * size / 8 + 1), *bits = copy(any, count * size);
            uint64_t *point = words(count), *sign = words(count);
            for (size_t i = 0; i < count; i++) point[i] %= cells;
            ring_onehot(bits, sign, point, count, cells, flip);
            for (size_t i = 0; i < count; i++) {
                uint8_t *old = any + i * size;
                CHECK(sign[i] == (bit_of(old, point[i]) ? 1 : UINT64_MAX));
                if (flip) old[point[i] / 8] = (uint8_t)(old[point[i] / 8] ^ 1u << point[i] % 8);
                CHECK(!memcmp(old, bits + i * size, size));
            }
            free(any), free(bits), free(point), free(sign);
        }
}

FAMILIES(select, select_check)
FAMILIES(onehot, onehot_check)

// ---- narrow words ----------------------------------------------------------------------------------------------------

static uint64_t narrow_at(const uint8_t *w, size_t i, unsigned n)
{
    uint64_t v = 0;
    memcpy(&v, w + i * narrow_bytes(n), narrow_bytes(n));
    return ring_low(v, n);
}

/* Against ring_pack and ring_unpack, which have tests of their own. */
static void narrow_packing_check(void)
{
    for (unsigned n = 1; n <= 32; n++)
        for (size_t k = 0; k < LENGTHS_COUNT; k++) {
            size_t len = LENGTHS[k], size = len * narrow_bytes(n), packed = ring_packed_size(len, n);
            uint64_t *any = words(len + 1), *wide = words(len);
            uint8_t *x = copy(any, size), *y = copy(any, size), *want = copy(any, packed), *got = copy(any, packed);
            for (size_t i = 0; i < len; i++) wide[i] = narrow_at(x, i, n);
            ring_pack(want, wide, len, n);
            narrow_pack(got, x, len, n);
            CHECK(!memcmp(want, got, packed));
            narrow_unpack(y, want, len, n);
            for (size_t i = 0; i < len; i++) {
                uint64_t v = 0;
                memcpy(&v, y + i * narrow_bytes(n), narrow_bytes(n));
                CHECK(v == wide[i] && narrow_packed(want, i, n) == v);
            }
            free(any), free(wide), free(x), free(y), free(want), free(got);
        }
}

static void narrow_rows_check(void)
{
    for (unsigned n = 1; n <= 20; n++)
        for (size_t cells = 4; cells <= 512; cells *= 2) {
            size_t count = 9, row = cells * narrow_bytes(n);
            uint64_t *any = words(count * row / 8 + 8), *turn = words(count);
            uint8_t *x = copy(any, count * row), *sum = copy(any + 3, row), *old = copy(sum, row);
            for (size_t i = 0; i < count; i++) turn[i] = i < 2 ? i * (cells - 1) : turn[i] % cells;
            narrow_turned(sum, x, turn, count, cells, n);
            for (size_t d = 0; d < cells; d++) {
                uint64_t want = narrow_at(old, d, n);
                for (size_t i = 0; i < count; i++) want += narrow_at(x, i * cells + (turn[i] + d) % cells, n);
                CHECK(ring_low(want, n) == narrow_at(sum, d, n));
            }
            turn[2] = cells + 3;                           // a point that lies in another part of its row
            narrow_onehot(x, turn, count, cells, n);
            for (size_t i = 0; i < count * cells; i++)
                CHECK(ring_low((i % cells == turn[i / cells]) - narrow_at((uint8_t *)any, i, n), n) == narrow_at(x, i, n));
            free(any), free(turn), free(x), free(sum), free(old);
        }
}

FAMILIES(narrow_packing, narrow_packing_check)
FAMILIES(narrow_rows, narrow_rows_check)

int main(int argc, char **argv) { return test_main(argc, argv); }
