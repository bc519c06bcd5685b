/* tls.c - a link over TCP under TLS 1.3, both sides known by their Ed25519 keys.
 *
 * Each side shows a certificate made on the spot from its long-term key. Nothing in it matters but the public key, which TLS proves
 * the possession of and which is compared with the pinned ones: no authorities, no names, no dates. Sessions are never resumed and
 * nothing is sent early, so every connection has fresh ephemeral keys (X25519), which keep out the third, who knows the masks.
 *
 * The socket never blocks. A send that the socket does not take at once waits for it to become writable *or* readable, and puts what
 * arrives into a FIFO, so two parties may send each other any amount at the same time. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "crypto/link.h"

enum {
    RECORD = 16384,                            // the most plaintext that a TLS record holds
    HANDSHAKE_SECONDS = 10,
    REKEY_BYTES = 1 << 26,                     // AES-GCM allows 2^24.5 records a key (RFC 8446, 5.5): far above, and cheap
    INPUT_BYTES = 1 << 30                      // the most that is taken in while a send waits
};
static const double SPIN_SECONDS = 30e-6;      // about what it costs to sleep and be woken

typedef struct Tls {
    Link link;
    int fd;
    SSL *ssl;
    Fifo in;
    bool ended;                                // the peer sends no more
    bool spin;                                 // another processor can run the peer meanwhile
    uint64_t since_rekey;                      // bytes sent
} Tls;

// ---- bytes of the socket ---------------------------------------------------------------------------------------------

/* OpenSSL's own socket BIO writes with write(2), which raises SIGPIPE. */
static int bio_write(BIO *b, const char *data, int len)
{
    ssize_t n = send(((Tls *)BIO_get_data(b))->fd, data, (size_t)len, MSG_NOSIGNAL);
    BIO_clear_retry_flags(b);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_write(b);
    return (int)n;
}

static int bio_read(BIO *b, char *out, int len)
{
    ssize_t n = recv(((Tls *)BIO_get_data(b))->fd, out, (size_t)len, 0);
    BIO_clear_retry_flags(b);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_read(b);
    if (n == 0) BIO_set_flags(b, BIO_FLAGS_IN_EOF);
    return (int)n;
}

static long bio_control(BIO *b, int command, long number, void *pointer)
{
    (void)number, (void)pointer;
    if (command == BIO_CTRL_EOF) return BIO_test_flags(b, BIO_FLAGS_IN_EOF) != 0;
    return command == BIO_CTRL_FLUSH;
}

static BIO *bio_over(Tls *t)
{
    static BIO_METHOD *method;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (!method) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "marill socket");
        ASSERT(method && BIO_meth_set_write(method, bio_write) && BIO_meth_set_read(method, bio_read));
        ASSERT(BIO_meth_set_ctrl(method, bio_control));
    }
    pthread_mutex_unlock(&lock);
    BIO *b = BIO_new(method);
    ASSERT(b);
    BIO_set_data(b, t);
    BIO_set_init(b, 1);
    return b;
}

// ---- the link --------------------------------------------------------------------------------------------------------

static Result tls_closed(const Tls *t)
{
    return fail(FAIL_PEER, "the %s closed the connection", t->link.peer);
}

static Result tls_broken(Tls *t, int error)     // an SSL_get_error that waiting does not mend
{
    const char *reason = error == SSL_ERROR_SSL ? ERR_reason_error_string(ERR_peek_last_error()) : NULL;
    t->ended = true;
    return reason ? fail(FAIL_CRYPTO, "the connection of the %s broke: %s", t->link.peer, reason) : tls_closed(t);
}

static double tls_deadline(const Tls *t)
{
    return t->link.timeout < 0 ? -1 : clock_seconds() + t->link.timeout;
}

/* Takes what has arrived into the FIFO. */
static Result tls_take_in(Tls *t)
{
    for (;;) {
        ERR_clear_error();
        int n = SSL_read(t->ssl, fifo_space(&t->in, RECORD), RECORD);
        if (n <= 0) {
            int error = SSL_get_error(t->ssl, n);
            if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) t->ended = true;   // reported by the next read
            return OK;
        }
        fifo_added(&t->in, (size_t)n);
        if (fifo_len(&t->in) > INPUT_BYTES) return fail(FAIL_PEER, "the %s sent more than a GB without taking anything", t->link.peer);
    }
}

static Result tls_wait_write(Tls *t)
{
    for (double deadline = tls_deadline(t);;) {
        short ready = socket_wait(t->fd, t->ended ? POLLOUT : POLLIN | POLLOUT, deadline);
        if (!ready) return fail(FAIL_PEER, "the %s took nothing for %g s", t->link.peer, t->link.timeout);
        if (ready & POLLIN) GUARD(tls_take_in(t));
        if (ready & (POLLOUT | POLLERR | POLLHUP)) return OK;
    }
}

static Result tls_wait_read(Tls *t)
{
    if (t->spin) {
        for (double begin = clock_seconds(); clock_seconds() - begin < SPIN_SECONDS; sched_yield()) {
            struct pollfd p = {t->fd, POLLIN, 0};
            if (poll(&p, 1, 0) > 0) return OK;
        }
    }
    if (socket_wait(t->fd, POLLIN, tls_deadline(t))) return OK;
    return fail(FAIL_PEER, "the %s sent nothing for %g s", t->link.peer, t->link.timeout);
}

static Result tls_put(Tls *t, const uint8_t *data, size_t len)
{
    while (len > 0) {
        ERR_clear_error();
        int n = SSL_write(t->ssl, data, len < INPUT_BYTES ? (int)len : INPUT_BYTES);
        if (n > 0) {
            data += n;
            len -= (size_t)n;
            t->since_rekey += (uint64_t)n;
            continue;
        }
        int error = SSL_get_error(t->ssl, n);
        if (error != SSL_ERROR_WANT_WRITE && error != SSL_ERROR_WANT_READ) return tls_broken(t, error);
        GUARD(tls_wait_write(t));
    }
    return OK;
}

/* Changes the sending key now and then. Only while the socket takes bytes: OpenSSL reads nothing until the message that says so has
 * left, and two parties that wait for each other in that state would wait for ever. */
static void tls_rekey(Tls *t)
{
    struct pollfd p = {t->fd, POLLOUT, 0};
    if (t->since_rekey < REKEY_BYTES || poll(&p, 1, 0) <= 0 || !(p.revents & POLLOUT)) return;
    if (SSL_key_update(t->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1) (void)SSL_do_handshake(t->ssl);   // a failure shows in the next send
    t->since_rekey = 0;
}

static Result tls_write(Link *l, const uint8_t *head, size_t head_len, const uint8_t *data, size_t len)
{
    Tls *t = (Tls *)l;
    uint8_t first[RECORD];                     // a small frame is one record and one packet
    size_t n = len < sizeof first - head_len ? len : sizeof first - head_len;
    tls_rekey(t);
    memcpy(first, head, head_len);
    if (n > 0) memcpy(first + head_len, data, n);
    Result r = tls_put(t, first, head_len + n);
    wipe(first, head_len + n);
    return failed(r) || n == len ? r : tls_put(t, data + n, len - n);
}

static Result tls_read(Link *l, uint8_t *out, size_t len)
{
    Tls *t = (Tls *)l;
    size_t n = fifo_take(&t->in, out, len);
    out += n;
    len -= n;
    while (len > 0) {
        ERR_clear_error();
        int got = SSL_read(t->ssl, out, len < INPUT_BYTES ? (int)len : INPUT_BYTES);
        if (got > 0) {
            out += got;
            len -= (size_t)got;
            continue;
        }
        int error = SSL_get_error(t->ssl, got);
        if (error == SSL_ERROR_WANT_READ) GUARD(tls_wait_read(t));
        else if (error == SSL_ERROR_WANT_WRITE) GUARD(tls_wait_write(t));
        else return tls_broken(t, error);
        size_t more = fifo_take(&t->in, out, len);                     // waiting to write may have taken bytes in
        out += more;
        len -= more;
    }
    return OK;
}

static void tls_close(Link *l, bool linger)
{
    Tls *t = (Tls *)l;
    char scrap[4096];
    ERR_clear_error();
    if (SSL_is_init_finished(t->ssl)) (void)SSL_shutdown(t->ssl);
    shutdown(t->fd, SHUT_WR);
    /* To close a socket with unread bytes resets the connection, and the peer may lose our last frame: read until it has closed. */
    for (double until = clock_seconds() + 0.5; linger && socket_wait(t->fd, POLLIN, until);)
        if (recv(t->fd, scrap, sizeof scrap, 0) <= 0 || clock_seconds() > until) break;
    SSL_free(t->ssl);                                                  // with its BIO
    close(t->fd);
    buffer_free(&t->in.bytes);
    free(t);
}

// ---- the handshake ---------------------------------------------------------------------------------------------------

static X509 *certificate_make(const Identity *me)
{
    uint64_t serial;
    X509 *x = X509_new();
    random_bytes(&serial, sizeof serial);
    ASSERT(x && X509_set_version(x, X509_VERSION_3) && ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), serial >> 1));
    ASSERT(X509_gmtime_adj(X509_getm_notBefore(x), -86400) && X509_gmtime_adj(X509_getm_notAfter(x), 86400));
    X509_NAME *name = X509_get_subject_name(x);
    ASSERT(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"marill", -1, -1, 0));
    ASSERT(X509_set_issuer_name(x, name) && X509_set_pubkey(x, me->key) && X509_sign(x, me->key, NULL));
    return x;
}

static int any_certificate(X509_STORE_CTX *store, void *ctx)            // tls_open compares its key afterwards
{
    (void)store, (void)ctx;
    return 1;
}

static SSL *ssl_make(const Identity *me, bool server)
{
    SSL_CTX *c = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    ASSERT(c && SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) && SSL_CTX_set_max_proto_version(c, TLS1_3_VERSION));
    ASSERT(SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256") && SSL_CTX_set1_groups_list(c, "X25519"));
    ASSERT(SSL_CTX_set1_sigalgs_list(c, "ed25519") && SSL_CTX_set_num_tickets(c, 0) && SSL_CTX_set_max_early_data(c, 0));
    SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);   // frames say where a session ends, not TLS
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(c, 1);                                      // one recv(2) for many records
    SSL_CTX_set_default_read_buffer_len(c, 8 * RECORD);
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(c, any_certificate, NULL);
    X509 *x = certificate_make(me);
    ASSERT(SSL_CTX_use_certificate(c, x) == 1 && SSL_CTX_use_PrivateKey(c, me->key) == 1);
    X509_free(x);
    SSL *ssl = SSL_new(c);
    ASSERT(ssl);
    SSL_CTX_free(c);                                                   // the SSL holds it
    return ssl;
}

static Result handshake(Tls *t, double deadline)
{
    for (;;) {
        ERR_clear_error();
        int n = SSL_do_handshake(t->ssl);
        if (n == 1) return OK;
        int error = SSL_get_error(t->ssl, n);
        const char *reason = error == SSL_ERROR_SSL ? ERR_reason_error_string(ERR_peek_last_error()) : NULL;
        if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
            return fail(FAIL_PEER, "the %s did not complete the TLS handshake: %s", t->link.peer, reason ? reason : "it closed it");
        if (!socket_wait(t->fd, error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline))
            return fail(FAIL_PEER, "the %s did not complete the TLS handshake within %d s", t->link.peer, HANDSHAKE_SECONDS);
    }
}

static bool peer_key(const Tls *t, uint8_t out[32])
{
    X509 *x = SSL_get1_peer_certificate(t->ssl);
    EVP_PKEY *key = x ? X509_get0_pubkey(x) : NULL;
    size_t len = 32;
    bool good = key && EVP_PKEY_get_id(key) == EVP_PKEY_ED25519 && EVP_PKEY_get_raw_public_key(key, out, &len) == 1 && len == 32;
    X509_free(x);
    return good;
}

/* Makes a channel of a connected socket, which it owns (also when it fails). */
static Result tls_open(Channel **out, size_t *which, int fd, const char *name, bool server, const Identity *me,
                       const uint8_t (*allowed)[32], size_t count)
{
    static const LinkKind kind = {tls_write, tls_read, tls_close};
    const double deadline = clock_seconds() + HANDSHAKE_SECONDS;
    uint8_t key[32];
    Tls *t = calloc(1, sizeof *t);
    if (!t) bug("out of memory");
    t->link.kind = &kind;
    snprintf(t->link.peer, sizeof t->link.peer, "%s", name);
    t->fd = fd;
    t->spin = sysconf(_SC_NPROCESSORS_ONLN) > 1;
    t->ssl = ssl_make(me, server);
    BIO *bio = bio_over(t);
    SSL_set_bio(t->ssl, bio, bio);
    if (server) SSL_set_accept_state(t->ssl);
    else SSL_set_connect_state(t->ssl);
    Result r = handshake(t, deadline);
    if (!failed(r) && !peer_key(t, key)) r = fail(FAIL_CRYPTO, "the %s showed no Ed25519 key", name);
    if (failed(r)) {
        tls_close(&t->link, false);
        return r;
    }
    size_t i = 0;
    while (i < count && memcmp(key, allowed[i], 32) != 0) i++;
    char hex[65], refusal[200];
    hex_encode(hex, key, 32);
    snprintf(refusal, sizeof refusal, "the %s has the key %s, which is not %s", server ? "client" : "server", hex,
             count == 1 ? "the one expected" : "one of those expected");
    Channel *c = channel_over(&t->link);
    channel_timeout(c, deadline - clock_seconds() > 0.1 ? deadline - clock_seconds() : 0.1);
    r = channel_greet(c, i < count ? NULL : refusal);
    if (failed(r)) {
        if (i == count) r = fail_in(r, "%s", name);
        channel_close(c);
        return r;
    }
    channel_timeout(c, 120);
    channel_name(c, "peer");
    if (which) *which = i;
    *out = c;
    return OK;
}

Result channel_accept(Channel **out, size_t *which, Listener *l, const Identity *me, const uint8_t (*allowed)[32], size_t count,
                      double timeout)
{
    char from[64], name[64];
    int fd;
    GUARD(socket_accept(&fd, from, sizeof from, l, timeout));
    snprintf(name, sizeof name, "peer at %.50s", from);
    return tls_open(out, which, fd, name, true, me, allowed, count);
}

Result channel_connect(Channel **out, const char *host, uint16_t port, const Identity *me, const uint8_t peer[32], double timeout)
{
    uint8_t pinned[1][32];
    char name[64];
    int fd;
    GUARD(socket_connect(&fd, host, port, timeout));
    memcpy(pinned[0], peer, 32);
    snprintf(name, sizeof name, "peer at %.48s:%u", host, port);
    return tls_open(out, NULL, fd, name, false, me, (const uint8_t (*)[32])pinned, 1);
}
