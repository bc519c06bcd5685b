/* evp.c - SHA-256, key derivation, sealing and Ed25519, all from OpenSSL's libcrypto, and randomness from the system.
 *
 * None of these calls can fail on valid arguments except by exhaustion or a broken library, and no caller could go on: they are
 * asserted. Only what depends on a file or a peer (a key file, a seal, a signature) yields a failure. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/tools.h"

void random_bytes(void *out, size_t len)
{
    uint8_t *to = out;
    while (len > 0) {
        ssize_t n = getrandom(to, len, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) bug("the system gives no random bytes: %s", strerror(errno));
        to += n;
        len -= (size_t)n;
    }
}

// ---- hashes ----------------------------------------------------------------------------------------------------------

/* Fetched once: a lookup by name on every use would cost more than a short hash. */
static EVP_MD *sha256;
static EVP_CIPHER *aes256_gcm;
static void fetch_all(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    aes256_gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    ASSERT(sha256 && aes256_gcm);
}

static void fetch(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fetch_all);
}

void hash_init(Hash *h)
{
    fetch();
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    ASSERT(c && EVP_DigestInit_ex2(c, sha256, NULL) == 1);
    h->state = c;
}

void hash_add(Hash *h, const void *data, size_t len)
{
    ASSERT(EVP_DigestUpdate(h->state, data, len) == 1);
}

void hash_end(Hash *h, uint8_t out[HASH_BYTES])
{
    ASSERT(EVP_DigestFinal_ex(h->state, out, NULL) == 1);
    EVP_MD_CTX_free(h->state);                                         // which wipes it
    h->state = NULL;
}

void hash_bytes(uint8_t out[HASH_BYTES], const void *data, size_t len)
{
    Hash h;
    hash_init(&h);
    hash_add(&h, data, len);
    hash_end(&h, out);
}

void derive_key(uint8_t out[KEY_BYTES], const uint8_t key[KEY_BYTES], const char *label, const void *context, size_t context_len)
{
    uint8_t pad[64], inner[HASH_BYTES];                                // FIPS 198-1
    fetch();
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    memset(pad, 0x36, sizeof pad);
    for (int i = 0; i < KEY_BYTES; i++) pad[i] ^= key[i];
    ASSERT(c && EVP_DigestInit_ex2(c, sha256, NULL) == 1 && EVP_DigestUpdate(c, pad, sizeof pad) == 1);
    ASSERT(EVP_DigestUpdate(c, label, strlen(label) + 1) == 1);        // the 0 between label and context is its terminator
    if (context_len > 0) ASSERT(EVP_DigestUpdate(c, context, context_len) == 1);
    ASSERT(EVP_DigestFinal_ex(c, inner, NULL) == 1);
    for (size_t i = 0; i < sizeof pad; i++) pad[i] ^= 0x36 ^ 0x5C;
    ASSERT(EVP_DigestInit_ex2(c, sha256, NULL) == 1 && EVP_DigestUpdate(c, pad, sizeof pad) == 1);
    ASSERT(EVP_DigestUpdate(c, inner, sizeof inner) == 1 && EVP_DigestFinal_ex(c, out, NULL) == 1);
    EVP_MD_CTX_free(c);
    wipe(pad, sizeof pad);
    wipe(inner, sizeof inner);
}

void hex_encode(char *out, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = "0123456789abcdef"[data[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[data[i] & 15];
    }
    out[2 * len] = 0;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool hex_decode(uint8_t *out, size_t len, const char *hex)
{
    for (size_t i = 0; i < len; i++) {
        int high = hex_digit(hex[2 * i]), low = high < 0 ? -1 : hex_digit(hex[2 * i + 1]);
        if (low < 0) return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return hex[2 * len] == 0;
}

// ---- seals -----------------------------------------------------------------------------------------------------------

enum { PIECE = 1 << 30 };                                              // OpenSSL counts in int

static void seal_update(EVP_CIPHER_CTX *c, uint8_t *out, const uint8_t *data, size_t len)
{
    for (size_t at = 0; at < len;) {
        int n = len - at < PIECE ? (int)(len - at) : PIECE, got;
        ASSERT(EVP_CipherUpdate(c, out ? out + at : NULL, &got, data + at, n) == 1 && got == n);
        at += (size_t)n;
    }
}

static EVP_CIPHER_CTX *seal_begin(const uint8_t key[KEY_BYTES], uint64_t number, const void *bound, size_t bound_len, int encrypt)
{
    uint8_t nonce[12] = {0};
    fetch();
    memcpy(nonce, &number, sizeof number);
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    ASSERT(c && EVP_CipherInit_ex2(c, aes256_gcm, key, nonce, encrypt, NULL) == 1);
    seal_update(c, NULL, bound, bound_len);
    return c;
}

void seal(uint8_t *out, uint8_t tag[SEAL_TAG], const uint8_t key[KEY_BYTES], uint64_t number, const void *bound, size_t bound_len,
          const void *data, size_t len)
{
    EVP_CIPHER_CTX *c = seal_begin(key, number, bound, bound_len, 1);
    uint8_t none[16];
    int n;
    seal_update(c, out, data, len);
    ASSERT(EVP_CipherFinal_ex(c, none, &n) == 1 && n == 0);
    ASSERT(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, SEAL_TAG, tag) == 1);
    EVP_CIPHER_CTX_free(c);
}

bool unseal(uint8_t *out, const uint8_t tag[SEAL_TAG], const uint8_t key[KEY_BYTES], uint64_t number, const void *bound, size_t bound_len,
            const void *data, size_t len)
{
    EVP_CIPHER_CTX *c = seal_begin(key, number, bound, bound_len, 0);
    uint8_t want[SEAL_TAG], none[16];
    int n;
    memcpy(want, tag, SEAL_TAG);                                       // OpenSSL's argument is not const
    seal_update(c, out, data, len);
    ASSERT(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, SEAL_TAG, want) == 1);
    bool good = EVP_CipherFinal_ex(c, none, &n) == 1;
    EVP_CIPHER_CTX_free(c);
    if (!good) wipe(out, len);
    return good;
}

// ---- identities ------------------------------------------------------------------------------------------------------

static void identity_publish(Identity *id)
{
    size_t len = sizeof id->public_key;
    ASSERT(EVP_PKEY_get_raw_public_key(id->key, id->public_key, &len) == 1 && len == sizeof id->public_key);
}

void identity_generate(Identity *out)
{
    uint8_t secret[32];
    random_bytes(secret, sizeof secret);
    out->key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, secret, sizeof secret);
    wipe(secret, sizeof secret);
    ASSERT(out->key);
    identity_publish(out);
}

Result identity_save(const Identity *id, const char *path)
{
    BIO *pem = BIO_new(BIO_s_secmem());
    char *text;
    ASSERT(pem && PEM_write_bio_PKCS8PrivateKey(pem, id->key, NULL, NULL, 0, NULL, NULL) == 1);
    long len = BIO_get_mem_data(pem, &text);
    Result r = file_create(path, text, (size_t)len);
    wipe(text, (size_t)len);
    BIO_free(pem);
    return r;
}

static int no_password(char *to, int size, int writing, void *ctx)     // else OpenSSL would ask on the terminal
{
    (void)to, (void)size, (void)writing, (void)ctx;
    return -1;
}

Result identity_load(Identity *out, const char *path)
{
    enum { LIMIT = 8192 };
    char text[LIMIT];
    int fd;
    size_t len = 0;
    GUARD(file_open_private(&fd, path));
    for (ssize_t n = 1; n != 0 && len < LIMIT; len += (size_t)n) {
        n = read(fd, text + len, LIMIT - len);
        if (n < 0) {
            close(fd);
            return fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
        }
    }
    close(fd);
    BIO *pem = BIO_new_mem_buf(text, (int)len);
    ASSERT(pem);
    EVP_PKEY *key = len < LIMIT ? PEM_read_bio_PrivateKey(pem, NULL, no_password, NULL) : NULL;
    BIO_free(pem);
    wipe(text, sizeof text);
    if (!key) return fail(FAIL_DATA, "%s: is not a private key in PEM", path);
    if (EVP_PKEY_get_id(key) != EVP_PKEY_ED25519) {
        EVP_PKEY_free(key);
        return fail(FAIL_DATA, "%s: is not an Ed25519 key", path);
    }
    out->key = key;
    identity_publish(out);
    return OK;
}

void identity_free(Identity *id)
{
    EVP_PKEY_free(id->key);                                            // which wipes it
    *id = (Identity){0};
}

void identity_sign(const Identity *id, uint8_t out[64], const void *data, size_t len)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    size_t out_len = 64;
    ASSERT(c && EVP_DigestSignInit(c, NULL, NULL, NULL, id->key) == 1);
    ASSERT(EVP_DigestSign(c, out, &out_len, data, len) == 1 && out_len == 64);
    EVP_MD_CTX_free(c);
}

bool identity_verify(const uint8_t public_key[32], const uint8_t signature[64], const void *data, size_t len)
{
    EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, 32);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    ASSERT(c);
    bool good = key && EVP_DigestVerifyInit(c, NULL, NULL, NULL, key) == 1 && EVP_DigestVerify(c, signature, 64, data, len) == 1;
    EVP_MD_CTX_free(c);
    EVP_PKEY_free(key);
    return good;
}
