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

/* Whether this machine has other kernels than the portable ones; leaves those chosen. */
static void need_fast(void)
{
    num_init(false);
    if (!strcmp(num_kernels(), "portable")) SKIP("the processor has no AVX-512");
}

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

TEST(ring_elementwise_portable) { num_init(true); CHECK(!strcmp(num_kernels(), "portable")); elementwise_check(); }
TEST(ring_elementwise_fast) { need_fast(); elementwise_check(); }

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

TEST(ring_shift_rounds_portable) { num_init(true); shift_check(); }
TEST(ring_shift_rounds_fast) { need_fast(); shift_check(); }

TEST(ring_shift_is_unbiased)
{
    enum { N = 8, K = 3 };
    num_init(false);
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
    num_init(true);
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

TEST(pack_round_trip_portable) { num_init(true); round_trip_check(); }
TEST(pack_round_trip_fast) { need_fast(); round_trip_check(); }

TEST(pack_fast_is_portable)
{
    need_fast();
    for (unsigned n = 1; n <= 64; n++)
        for (size_t t = 0; t < LENGTHS_COUNT; t++) {
            size_t len = LENGTHS[t], size = ring_packed_size(len, n);
            uint64_t *x = words(len);
            uint8_t *a = malloc(size + 1), *b = malloc(size + 1);
            num_init(true);
            ring_pack(a, x, len, n);
            num_init(false);
            ring_pack(b, x, len, n);
            CHECK(!memcmp(a, b, size));
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
    linear_case(4, 8, 2048, true, 64);
    linear_case(1, 4, 9000, true, 61);
    linear_case(70, 3, 4100, true, 64);            // more rows and more of k than are taken at once
    linear_case(0, 3, 5, false, 64);
}

TEST(linear_portable) { num_init(true); linear_check(); }
TEST(linear_fast) { need_fast(); linear_check(); }
TEST(linear_threaded) { num_init(false); threads_start(3); linear_case(9, 301, 770, false, 64); linear_case(64, 67, 1000, true, 47); }

static void matmul_case(size_t rows, size_t n, size_t k, unsigned bits)
{
    size_t lda = k + 3, ldb = k + 1, ldo = n + 2;
    uint64_t *a = words(rows * lda), *b = words(n * ldb), *out = words(rows * ldo), *old = copy(out, rows * ldo * 8);
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
        for (size_t rows = 1; rows <= 9; rows++) matmul_case(rows, 1 + (t * 7 + rows) % 20, LENGTHS[t], bits_next());
    for (unsigned bits = 1; bits <= 64; bits++) matmul_case(1 + bits % 40, 9, 70, bits);
    matmul_case(33, 65, 100, 64);
    matmul_case(130, 33, 1100, 52);            // more rows and more of k than are taken at once
    matmul_case(130, 33, 1100, 64);
}

TEST(matmul_portable) { num_init(true); matmul_check(); }
TEST(matmul_fast) { need_fast(); matmul_check(); }
TEST(matmul_threaded) { num_init(false); threads_start(3); matmul_case(64, 203, 400, 50); matmul_case(64, 203, 400, 64); }

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

TEST(vecmat_and_dot_portable) { num_init(true); vecmat_check(); }
TEST(vecmat_and_dot_fast) { need_fast(); vecmat_check(); }

// ---- selection -------------------------------------------------------------------------------------------------------

static uint64_t table_word(const uint8_t *row, unsigned bytes, size_t c)
{
    uint64_t v = 0;
    memcpy(&v, row + c * bytes, bytes);
    return v;
}

static void select_check(void)
{
    static const size_t cells_of[] = {0, 1, 2, 4, 7, 8, 16, 32, 63, 64, 65, 128, 256, 512, 1000, 4096};
    for (size_t t = 0; t < sizeof cells_of / sizeof *cells_of; t++)
        for (unsigned bytes = 1; bytes <= 8; bytes *= 2)
            for (int kind = 0; kind < 4; kind++) {                 // random; all words and all bits at most; no bit; few words
                size_t cells = cells_of[t], size = cells * bytes, packed = (cells + 7) / 8;
                uint64_t *any = words(cells + 1);
                uint8_t *row = copy(any, size), *bits = copy(any, packed);
                for (size_t i = 0; i < packed; i++) bits[i] = (uint8_t)word();
                if (kind == 1) memset(row, 0xFF, size), memset(bits, 0xFF, packed);       // beyond the cells too
                if (kind == 2) memset(bits, 0, packed);
                if (kind == 3) memset(row, 0x80, size);
                uint64_t sum = 0, count = 0;
                for (size_t c = 0; c < cells; c++)
                    if (bits[c / 8] >> c % 8 & 1) sum += table_word(row, bytes, c), count++;
                CHECK(sum == ring_select(row, bytes, bits, cells));
                CHECK(count == ring_popcount(bits, cells));
                free(any), free(row), free(bits);
            }
}

TEST(select_portable) { num_init(true); select_check(); }
TEST(select_fast) { need_fast(); select_check(); }

int main(int argc, char **argv) { return test_main(argc, argv); }
