/* test_crypto.c - hashes, streams of masks, seals and identities against published vectors and against each other. */
#include "crypto/crypto.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "crypto/aes.h"
#include "crypto/link.h"
#include "crypto/tools.h"
#include "test.h"

static void check_hex(const void *got, size_t len, const char *want)
{
    char hex[1025];
    CHECK(2 * len < sizeof hex);
    hex_encode(hex, got, len);
    if (strcmp(hex, want)) fprintf(stderr, "%s\nis not %s\n", hex, want);
    CHECK(!strcmp(hex, want));
}

static const char *file_in(const char *folder, const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

TEST(sha256_of_fips_180)
{
    uint8_t out[HASH_BYTES];
    hash_bytes(out, "abc", 3);
    check_hex(out, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash_bytes(out, NULL, 0);
    check_hex(out, 32, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    Hash h;
    hash_init(&h);
    hash_add(&h, "a", 1);
    hash_add(&h, "bc", 2);
    hash_end(&h, out);
    check_hex(out, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(derive_key_is_hmac)        // hmac.new(bytes(range(32)), b"label\0context", "sha256") of Python
{
    uint8_t key[32], out[32];
    for (int i = 0; i < 32; i++) key[i] = (uint8_t)i;
    derive_key(out, key, "label", "context", 7);
    check_hex(out, 32, "8f59e7b5a0844bdf632c592f5c0507cab2da64b1cf89506bf2118baed8279ba7");
    derive_key(out, key, "label", NULL, 0);
    check_hex(out, 32, "15a249696252d0aa3ea010196b093b83964659178e776237bfef6d328d48122d");
    derive_key(key, key, "label", NULL, 0);                            // in place
    CHECK(!memcmp(key, out, 32));
}

TEST(hex_goes_both_ways)
{
    uint8_t out[4];
    CHECK(hex_decode(out, 3, "00fFa9"));
    check_hex(out, 3, "00ffa9");
    CHECK(!hex_decode(out, 3, "00ffa"));
    CHECK(!hex_decode(out, 3, "00ffa9a"));
    CHECK(!hex_decode(out, 3, "00ffag"));
    CHECK(!hex_decode(out, 3, ""));
}

TEST(random_bytes_differ)
{
    uint8_t a[32], b[32];
    random_bytes(a, sizeof a);
    random_bytes(b, sizeof b);
    CHECK(memcmp(a, b, sizeof a) != 0);
}

static void check_kernel(const AesKernel *k, const char *key_hex, const char *in_hex, const char *want)
{
    uint8_t key[16], in[16], out[16];
    uint32_t round_key[44];
    uint64_t start[2];
    CHECK(hex_decode(key, 16, key_hex) && hex_decode(in, 16, in_hex));
    memcpy(start, in, 16);
    k->expand(round_key, key);
    k->counter(out, 1, round_key, start);
    check_hex(out, 16, want);
}

TEST(aes_of_fips_197_and_sp_800_38a)
{
    for (unsigned i = 0; aes_kernel(i); i++) {
        const AesKernel *k = aes_kernel(i);
        const char *key = "2b7e151628aed2a6abf7158809cf4f3c";
        check_kernel(k, "000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a");
        check_kernel(k, key, "6bc1bee22e409f96e93d7e117393172a", "3ad77bb40d7a3660a89ecaf32466ef97");
        check_kernel(k, key, "ae2d8a571e03ac9c9eb76fac45af8e51", "f5d3d58503b9699de785895a96fdbaaf");
        check_kernel(k, key, "30c81c46a35ce411e5fbc1191a0a52ef", "43b1cd7f598ece23881b00e3ed030688");
        check_kernel(k, key, "f69f2445df4f9b17ad2b417be66c3710", "7b0c785e27e8ad3f8223207104725dd4");
    }
}

TEST(aes_kernels_agree)
{
    enum { MOST = 131 };
    static uint8_t want[16 * MOST + 1], got[16 * MOST + 1];
    static uint64_t wide[MOST], wide_got[MOST];
    uint8_t key[16];
    uint32_t a[44], b[44];
    for (int round = 0; round < 20; round++) {
        uint64_t start[2] = {(uint64_t)(test_random() * 0x1p64), (uint64_t)(test_random() * 0x1p64)};
        if (round == 0) start[0] = ~(uint64_t)0 - 3;                   // a counter that wraps does not carry
        random_bytes(key, sizeof key);
        aes_portable.expand(a, key);
        for (unsigned i = 0; aes_kernel(i); i++) {
            const AesKernel *k = aes_kernel(i);
            k->expand(b, key);
            CHECK(!memcmp(a, b, sizeof a));
            for (size_t n = 0; n <= MOST; n++) {
                memset(got, 0xA5, sizeof got);
                aes_portable.counter(want, n, a, start);
                k->counter(got, n, a, start);
                CHECK(!memcmp(want, got, 16 * n) && got[16 * n] == 0xA5);
            }
            for (unsigned bytes = 1; bytes <= 4; bytes *= 2) {
                aes_portable.widen(wide, want, MOST, bytes, 0x1FFFF);
                k->widen(wide_got, want, MOST, bytes, 0x1FFFF);
                CHECK(!memcmp(wide, wide_got, sizeof wide));
            }
        }
    }
}

TEST(crypto_init_chooses)
{
    CHECK(!strcmp(crypto_kernels(), "portable"));
    crypto_init(false);
    CHECK(!strcmp(crypto_kernels(), aes_kernel(0)->name));
    crypto_init(true);
    CHECK(!strcmp(crypto_kernels(), "portable"));
}

TEST(prg_stream_is_fixed)       // SHA-256 of AES-128-ECB over the blocks (i, 0), made by another implementation
{
    static uint8_t stream[10000];
    uint8_t key[16], out[32];
    for (int i = 0; i < 16; i++) key[i] = (uint8_t)i;
    for (int portable = 0; portable < 2; portable++) {
        Prg p;
        crypto_init(portable);
        prg_init(&p, key);
        prg_bytes(&p, stream, sizeof stream);
        hash_bytes(out, stream, sizeof stream);
        check_hex(out, 32, "e427d0292a6079abe7406e19c13a3f3372b48b0597f14f603d1b611c082394e3");
    }
}

TEST(prg_pieces_do_not_matter)
{
    static uint8_t want[20000], got[20000];
    uint8_t key[16] = {7};
    crypto_init(false);
    Prg p;
    prg_init(&p, key);
    prg_bytes(&p, want, sizeof want);
    for (int round = 0; round < 50; round++) {
        prg_init(&p, key);
        for (size_t at = 0; at < sizeof got;) {
            size_t n = (size_t)(test_random() * (round < 25 ? 40 : 2000));
            if (n > sizeof got - at) n = sizeof got - at;
            prg_bytes(&p, got + at, n);
            at += n;
        }
        CHECK(!memcmp(want, got, sizeof want));
    }
}

TEST(prg_words_are_cut_integers_of_the_stream)
{
    enum { LEN = 5003 };
    static uint64_t words[LEN];
    static uint8_t stream[8 * LEN + 3];
    uint8_t key[16] = {9};
    for (int portable = 0; portable < 2; portable++) {
        crypto_init(portable);
        for (unsigned n = 1; n <= 64; n++) {
            size_t bytes = n <= 8 ? 1 : n <= 16 ? 2 : n <= 32 ? 4 : 8;
            uint8_t head[3], next[5];
            Prg p, q;
            prg_init(&p, key);
            prg_init(&q, key);
            prg_bytes(&p, head, 3);
            prg_bytes(&p, stream, bytes * LEN);
            prg_bytes(&q, head, 3);                                    // words need not begin at a block
            prg_words(&q, words, LEN, n);
            for (size_t i = 0; i < LEN; i++) {
                uint64_t w = 0;
                memcpy(&w, stream + bytes * i, bytes);
                CHECK(words[i] == (n == 64 ? w : w & (((uint64_t)1 << n) - 1)));
            }
            prg_bytes(&p, stream, 5);
            prg_bytes(&q, next, 5);
            CHECK(!memcmp(stream, next, 5));
        }
    }
}

TEST(prg_words_ahead_are_those_of_the_stream)
{
    static uint64_t want[700], got[700];
    uint8_t key[16] = {11};
    for (int portable = 0; portable < 2; portable++) {
        crypto_init(portable);
        for (int round = 0; round < 300; round++) {
            size_t before = (size_t)(test_random() * 50), skip = (size_t)(test_random() * 300), len = (size_t)(test_random() * 700);
            unsigned n = 1 + (unsigned)(test_random() * 64);
            uint8_t bytes[300];
            Prg p, q;
            prg_init(&p, key), prg_init(&q, key);
            prg_bytes(&p, bytes, before), prg_bytes(&q, bytes, before);
            prg_words_at(&q, skip, got, len, n);               // q stays where it is
            prg_bytes(&p, bytes, skip), prg_skip(&q, skip);
            prg_words(&p, want, len, n);
            CHECK(!memcmp(want, got, len * sizeof *want));
            prg_words(&q, got, len, n);
            CHECK(!memcmp(want, got, len * sizeof *want));
        }
    }
}

TEST(prg_ends_after_2_36_blocks)
{
    uint8_t key[16] = {0}, out[32];
    Prg p;
    prg_init(&p, key);
    p.block = ((uint64_t)1 << 36) - 2;
    prg_bytes(&p, out, 32);
    pid_t child = fork();
    if (child == 0) {
        close(2);                                                      // what it says is expected
        prg_bytes(&p, out, 1);
        exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

TEST(seal_is_aes_256_gcm)       // test case 14 of the GCM submission
{
    uint8_t key[32] = {0}, zeros[16] = {0}, out[16], tag[16], back[16];
    seal(out, tag, key, 0, NULL, 0, zeros, 16);
    check_hex(out, 16, "cea7403d4d606b6e074ec5d3baf39d18");
    check_hex(tag, 16, "d0d1c8a799996bf0265b98b5d48ab919");
    CHECK(unseal(back, tag, key, 0, NULL, 0, out, 16) && !memcmp(back, zeros, 16));
    CHECK(!unseal(back, tag, key, 0, "x", 1, out, 16));
    CHECK(!unseal(back, tag, key, 1, NULL, 0, out, 16));
    tag[3] ^= 1;
    CHECK(!unseal(back, tag, key, 0, NULL, 0, out, 16));
}

TEST(identity_verifies_rfc_8032)
{
    uint8_t key[32], sig[64];
    CHECK(hex_decode(key, 32, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"));
    CHECK(hex_decode(sig, 64, "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595b"
                              "be24655141438e7a100b"));
    CHECK(identity_verify(key, sig, NULL, 0));
    CHECK(!identity_verify(key, sig, "a", 1));
    sig[5] ^= 1;
    CHECK(!identity_verify(key, sig, NULL, 0));
}

TEST(identity_signs)
{
    Identity a, b;
    uint8_t sig[64];
    identity_generate(&a);
    identity_generate(&b);
    CHECK(memcmp(a.public_key, b.public_key, 32) != 0);
    identity_sign(&a, sig, "text", 4);
    CHECK(identity_verify(a.public_key, sig, "text", 4));
    CHECK(!identity_verify(b.public_key, sig, "text", 4));
    identity_free(&a);
    identity_free(&b);
}

TEST(identity_on_disk)
{
    const char *path = file_in(test_folder(), "key.pem");
    Identity a, b;
    struct stat s;
    uint8_t sig[64];
    identity_generate(&a);
    CHECK_OK(identity_save(&a, path));
    CHECK(stat(path, &s) == 0 && (s.st_mode & 0777) == 0600);
    CHECK_OK(identity_load(&b, path));
    CHECK(!memcmp(a.public_key, b.public_key, 32));
    identity_sign(&b, sig, "text", 4);
    CHECK(identity_verify(a.public_key, sig, "text", 4));
    CHECK_FAILS(identity_save(&a, path), "key.pem");                   // never overwritten
    CHECK(chmod(path, 0640) == 0);
    CHECK_FAILS(identity_load(&b, path), "key.pem");                   // others may read it
    CHECK_FAILS(identity_load(&b, "/nowhere/key.pem"), "/nowhere/key.pem");
    CHECK_FAILS(identity_save(&a, "/nowhere/key.pem"), "/nowhere/key.pem");
    identity_free(&a);
    identity_free(&b);
}

static void write_private(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

TEST(identity_reads_rfc_8410)
{
    const char *path = file_in(test_folder(), "key.pem");
    Identity id;
    write_private(path, "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
                        "-----END PRIVATE KEY-----\n");
    CHECK_OK(identity_load(&id, path));
    check_hex(id.public_key, 32, "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1");
    identity_free(&id);
    write_private(path, "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp\n-----END PRIVATE KEY-----\n");
    CHECK_FAILS(identity_load(&id, path), "key.pem");
    write_private(path, "");
    CHECK_FAILS(identity_load(&id, path), "key.pem");
}

TEST(aes_rates)                 // not a check: shown when the case is asked for by name and MARILL_RATES is set
{
    if (!getenv("MARILL_RATES")) exit(77);
    enum { LEN = 1 << 16 };
    static uint8_t out[LEN];
    static uint64_t words[4096];
    const AesKernel *k;
    for (unsigned i = 0; (k = aes_kernel(i)); i++) {
        uint32_t round_key[44];
        uint8_t key[16] = {1};
        k->expand(round_key, key);
        double begin = clock_seconds(), bytes = 0, count = 0;
        for (; clock_seconds() - begin < 0.2; bytes += LEN) k->counter(out, LEN / 16, round_key, (uint64_t[2]){0, 0});
        printf("    %s: %.2f GB/s", k->name, bytes / (clock_seconds() - begin) * 1e-9);
        for (begin = clock_seconds(); clock_seconds() - begin < 0.2; count++) k->expand(round_key, key);
        printf(", a key %.3f us\n", (clock_seconds() - begin) / count * 1e6);
    }
    crypto_init(false);
    for (unsigned n = 8; n <= 64; n *= 2) {
        Prg p;
        uint8_t key[16] = {1};
        prg_init(&p, key);
        double begin = clock_seconds(), done = 0;
        for (; clock_seconds() - begin < 0.2; done += 4096) prg_words(&p, words, 4096, n);
        printf("    words of %u bits: %.3f ns\n", n, (clock_seconds() - begin) / done * 1e9);
    }
    uint8_t key[32] = {0};
    double begin = clock_seconds(), count = 0;
    for (; clock_seconds() - begin < 0.2; count++) derive_key(key, key, "a label", &count, sizeof count);
    printf("    derive_key: %.2f us\n", (clock_seconds() - begin) / count * 1e6);
}

// ---- bytes that wait -------------------------------------------------------------------------------------------------

static bool all_zero(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) if (p[i]) return false;
    return true;
}

TEST(fifo_keeps_nothing_of_what_was_read)
{
    enum { CHUNKS = 4 };
    static uint8_t out[CHUNKS * FIFO_CHUNK];
    uint8_t *at[CHUNKS];
    Fifo f = {0};
    size_t n;
    for (int k = 0; k < CHUNKS; k++) {
        at[k] = fifo_space(&f, FIFO_CHUNK);
        memset(at[k], 0x5C, FIFO_CHUNK);
        fifo_added(&f, FIFO_CHUNK);
    }
    CHECK_EQUAL(1000, fifo_take(&f, out, 1000));
    CHECK(all_zero(at[0], 1000) && at[0][1000] == 0x5C);                             // at once, not when the chunk is over
    CHECK_EQUAL(FIFO_CHUNK, fifo_take(&f, out, FIFO_CHUNK));
    CHECK(fifo_front(&f, &n) == at[1] + 1000);
    fifo_skip(&f, n);
    CHECK_EQUAL(2 * FIFO_CHUNK, fifo_take(&f, out, sizeof out));
    CHECK_EQUAL(0, fifo_len(&f));
    for (int k = 0; k < CHUNKS; k++) CHECK(all_zero(at[k], FIFO_CHUNK));             // spare ones, and the last, which stays
    fifo_free(&f);
}

/* The line of /proc/self/smaps on what the system may do with these pages. */
static void flags_of(char out[200], const void *p)
{
    char line[400];
    FILE *maps = fopen("/proc/self/smaps", "r");
    bool here = false;
    out[0] = 0;
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) here = (uintptr_t)p >= from && (uintptr_t)p < to;
        if (here && !strncmp(line, "VmFlags:", 8)) snprintf(out, 200, "%.199s", line);
    }
    if (maps) fclose(maps);
}

TEST(fifo_is_left_out_of_dumps)
{
    char flags[200];
    Fifo f = {0};
    flags_of(flags, fifo_space(&f, 1));
    if (!flags[0]) SKIP("this system does not tell the flags of memory");
    CHECK(strstr(flags, " dd"));
    fifo_free(&f);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
