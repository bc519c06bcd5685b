/* tls.c - a link over TCP under TLS 1.3, both sides known by their Ed25519 keys.
 *
 * Each side shows a certificate made on the spot from its long-term key. Nothing in it matters but the public key, which TLS proves
 * the possession of and which is compared with the pinned ones: no authorities, no names, no dates. Sessions are never resumed and
 * nothing is sent early, so every connection has fresh ephemeral keys (X25519), which keep out the third, who knows the masks.
 *
 * The socket never blocks, and a link is used by one thread, its owner. What the socket does not take at once is sent by a thread of
 * the link's own, the pump, while the owner computes; it also takes in ahead what arrives, as far as the owner allows. While an owner
 * waits for room to send, its pump takes in whatever comes: two parties may send each other any amount at the same time. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "crypto/link.h"

enum {
    RECORD = 16384,                            // the most plaintext that a TLS record holds
    HANDSHAKE_SECONDS = 10,
    REKEY_BYTES = 1 << 26,                     // AES-GCM allows 2^24.5 records a key (RFC 8446, 5.5): far above, and cheap
    INPUT_BYTES = 1 << 30,                     // the most that is taken in while a send waits
    SLICE = 1 << 18,                           // that the pump moves before it lets the owner in
    IDLE_MOST_MS = 8
};
static const double SPIN_SECONDS = 100e-6;     // a processor that sleeps is back after some 30-60 us
static const double YIELD_SECONDS = 10e-6;     // longer than a yield takes where nobody else wants the processor
static const double CLOSE_SECONDS = 1, CLOSE_MOST_SECONDS = 5;   // without progress, and in all, until bytes that wait are given up

typedef struct Tls {
    Link link;                                 // of the owner, who also has `fd` for waiting
    int fd, wake;                              // wake: of the pump
    bool spin;                                 // another processor can run the peer meanwhile
    pthread_mutex_t lock;                      // of all that follows: the owner and the pump share it
    SSL *ssl;
    Fifo in, out;                              // taken in ahead; still to leave
    size_t send, ahead;                        // their bounds
    bool ended, cut;                           // nothing more can be read, written
    const char *reason;                        // why, where TLS knows
    bool present;                              // the owner waits on the link
    bool pumping, stop;
    uint64_t calls;                            // of the owner
    pthread_t pump;
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

// ---- what both threads do, under the lock ----------------------------------------------------------------------------

static bool may_retry(int error) { return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE; }

/* An SSL_get_error that waiting does not mend: the first one says why. After a failed send, what the peer sent before may still be
 * read. */
static void tls_note_end(Tls *t, int error, bool *which)
{
    const char *reason = error == SSL_ERROR_SSL ? ERR_reason_error_string(ERR_peek_last_error()) : NULL;
    if (!t->ended && !t->cut) t->reason = reason;
    *which = true;
}

static Result tls_broken(const Tls *t)
{
    if (t->reason) return fail(FAIL_CRYPTO, "the connection of the %s broke: %s", t->link.peer, t->reason);
    return fail(FAIL_PEER, "the %s closed the connection", t->link.peer);
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

/* How many of len bytes the socket takes now. A record that it took in part is offered again by the next call, which must
 * begin with the same bytes. */
static size_t tls_put(Tls *t, const uint8_t *data, size_t len)
{
    size_t done = 0;
    while (done < len && !t->cut) {
        ERR_clear_error();
        int n = SSL_write(t->ssl, data + done, len - done < RECORD ? (int)(len - done) : RECORD);
        if (n <= 0) {
            int error = SSL_get_error(t->ssl, n);
            if (may_retry(error)) break;
            tls_note_end(t, error, &t->cut);
            break;
        }
        done += (size_t)n;
        t->since_rekey += (uint64_t)n;
        tls_rekey(t);
    }
    return done;
}

/* Of the bytes that wait to leave, at most `most`. */
static size_t tls_put_waiting(Tls *t, size_t most)
{
    size_t done = 0, piece = 0, n = 0;
    while (done < most && fifo_len(&t->out) > 0 && n == piece) {
        const uint8_t *front = fifo_front(&t->out, &piece);
        n = tls_put(t, front, piece);
        fifo_skip(&t->out, n);
        done += n;
    }
    return done;
}

/* Takes what has arrived into the FIFO, up to `most` bytes there; returns how much it was. */
static size_t tls_take_in(Tls *t, size_t most)
{
    size_t before = fifo_len(&t->in);
    while (!t->ended && fifo_len(&t->in) < most) {
        ERR_clear_error();
        int n = SSL_read(t->ssl, fifo_space(&t->in, RECORD), RECORD);
        if (n <= 0) {
            int error = SSL_get_error(t->ssl, n);
            if (!may_retry(error)) tls_note_end(t, error, &t->ended);  // reported by the next read
            break;
        }
        fifo_added(&t->in, (size_t)n);
    }
    return fifo_len(&t->in) - before;
}

// ---- the pump --------------------------------------------------------------------------------------------------------

/* A thread that a link starts when it has more to send than the socket takes, or when its owner wants bytes taken in ahead.
 * While the owner waits on the link it does all of that itself, and the pump nothing, so that a message costs no change of threads;
 * and since the owner's coming and going is not announced, the pump looks every millisecond, less often when nothing happens. */
static void *pump_run(void *ctx)
{
    Tls *t = ctx;
    int idle = 1;
    uint64_t calls = 0;
    pthread_mutex_lock(&t->lock);
    while (!t->stop) {
        size_t most = fifo_len(&t->in) + SLICE < t->ahead ? fifo_len(&t->in) + SLICE : t->ahead;
        size_t sent = t->present ? 0 : tls_put_waiting(t, SLICE), taken = t->present ? 0 : tls_take_in(t, most);
        bool out = fifo_len(&t->out) > 0 && !t->cut, in = taken >= RECORD && fifo_len(&t->in) < t->ahead;
        idle = sent || taken || t->calls != calls ? 1 : idle < IDLE_MOST_MS ? 2 * idle : IDLE_MOST_MS;
        calls = t->calls;
        int wait = t->ahead > 0 || out ? idle : -1;
        struct pollfd p[2] = {{t->wake, POLLIN, 0}, {t->fd, (short)((out ? POLLOUT : 0) | (in ? POLLIN : 0)), 0}};
        bool watch = !t->present && (out || in);
        pthread_mutex_unlock(&t->lock);
        if (poll(p, watch ? 2 : 1, wait) > 0 && p[0].revents) (void)!read(t->wake, &(uint64_t){0}, sizeof(uint64_t));
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void pump_wake(Tls *t)
{
    if (write(t->wake, &(uint64_t){1}, sizeof(uint64_t)) < 0) bug("eventfd: %s", strerror(errno));
}

static void pump_start(Tls *t)
{
    sigset_t all, before;
    if (t->pumping) return pump_wake(t);
    t->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);                         // signals are for the owner
    if (t->wake < 0 || pthread_create(&t->pump, NULL, pump_run, t) != 0) bug("no thread for a channel: %s", strerror(errno));
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    t->pumping = true;
}

// ---- the link --------------------------------------------------------------------------------------------------------

/* Looks for a while before the owner sleeps, which costs more than most waits of a token. Once another has had the processor meanwhile,
 * it sleeps: who yields to a busy process stays behind it for milliseconds, who is woken does not. */
static bool tls_look(const Tls *t, short events)
{
    struct pollfd p = {t->fd, events, 0};
    double begin = clock_seconds(), now = begin, before = begin;
    while (now - begin < SPIN_SECONDS) {
        if (poll(&p, 1, 0) > 0) return true;
        if (now - before > YIELD_SECONDS) return false;
        before = clock_seconds();
        sched_yield();
        now = clock_seconds();
    }
    return false;
}

/* The owner waits for `events`, without the lock; false from the deadline on (< 0: none), whatever is ready: it was not enough. */
static bool tls_wait(Tls *t, short events, double deadline)
{
    double begin = clock_seconds();
    if (deadline >= 0 && begin >= deadline) return false;
    t->present = true;
    pthread_mutex_unlock(&t->lock);
    bool ready = (t->spin && tls_look(t, events)) || socket_wait(t->fd, events, deadline) != 0;
    pthread_mutex_lock(&t->lock);
    t->present = false;
    t->link.waited += clock_seconds() - begin;
    return ready;
}

/* Waits until some of what waits has left, and takes in whatever comes meanwhile: the peer may be doing the same. */
static Result tls_make_room(Tls *t, double deadline)
{
    while (tls_put_waiting(t, SLICE) == 0) {
        if (t->cut) return tls_broken(t);
        tls_take_in(t, INPUT_BYTES);
        if (fifo_len(&t->in) >= INPUT_BYTES) return fail(FAIL_PEER, "the %s sent more than a GB without taking anything", t->link.peer);
        if (!tls_wait(t, t->ended ? POLLOUT : POLLIN | POLLOUT, deadline))
            return fail(FAIL_PEER, "the %s took nothing or too little: %zu bytes wait", t->link.peer, fifo_len(&t->out));
    }
    return OK;
}

/* Sends or keeps all of it. */
static Result tls_append(Tls *t, const uint8_t *data, size_t len)
{
    size_t n = fifo_len(&t->out) == 0 ? tls_put(t, data, len) : 0, all = fifo_len(&t->out) + (len - n);
    const double deadline = link_deadline(&t->link, all > t->send ? all - t->send : 0);
    data += n, len -= n;
    while (len > 0 && !t->cut) {
        size_t waiting = fifo_len(&t->out);
        n = waiting < t->send ? t->send - waiting : 0;
        if (n > len) n = len;
        if (n == 0) {
            GUARD(tls_make_room(t, deadline));
            continue;
        }
        fifo_append(&t->out, data, n);
        data += n, len -= n;
        if (waiting == 0) pump_start(t);
    }
    return t->cut ? tls_broken(t) : OK;
}

static Result tls_write(Link *l, const uint8_t *head, size_t head_len, const uint8_t *data, size_t len)
{
    Tls *t = (Tls *)l;
    uint8_t first[RECORD];                     // a small frame is one record and one packet
    size_t n = len < sizeof first - head_len ? len : sizeof first - head_len;
    memcpy(first, head, head_len);
    if (n > 0) memcpy(first + head_len, data, n);
    pthread_mutex_lock(&t->lock);
    t->calls++;
    Result r = tls_append(t, first, head_len + n);
    if (!failed(r) && n < len) r = tls_append(t, data + n, len - n);
    pthread_mutex_unlock(&t->lock);
    wipe(first, head_len + n);
    return r;
}

static Result tls_get(Tls *t, uint8_t *out, size_t len)
{
    const double deadline = link_deadline(&t->link, len);
    const size_t all = len;
    while (len > 0) {
        size_t n = fifo_take(&t->in, out, len);
        if (n == 0 && t->ended) return tls_broken(t);
        ERR_clear_error();
        int got = n > 0 ? (int)n : SSL_read(t->ssl, out, len < INPUT_BYTES ? (int)len : INPUT_BYTES);
        if (got > 0) {
            out += got;
            len -= (size_t)got;
            continue;
        }
        int error = SSL_get_error(t->ssl, got);
        if (!may_retry(error)) {
            tls_note_end(t, error, &t->ended);
            continue;
        }
        tls_put_waiting(t, SLICE);
        bool out_too = error == SSL_ERROR_WANT_WRITE || (fifo_len(&t->out) > 0 && !t->cut);
        if (!tls_wait(t, out_too ? POLLIN | POLLOUT : POLLIN, deadline)) return link_late(&t->link, len, all);
    }
    return OK;
}

static Result tls_read(Link *l, uint8_t *out, size_t len)
{
    Tls *t = (Tls *)l;
    pthread_mutex_lock(&t->lock);
    t->calls++;
    Result r = tls_get(t, out, len);
    pthread_mutex_unlock(&t->lock);
    return r;
}

static void tls_buffers(Link *l, size_t send, size_t ahead)
{
    Tls *t = (Tls *)l;
    pthread_mutex_lock(&t->lock);
    t->send = send;
    t->ahead = ahead;
    if (ahead > 0) pump_start(t);
    pthread_mutex_unlock(&t->lock);
}

/* What was sent before the end must leave before it, as long as the peer takes it. */
static void pump_end(Tls *t)
{
    if (!t->pumping) return;
    pthread_mutex_lock(&t->lock);
    for (double now = clock_seconds(), end = now + CLOSE_MOST_SECONDS; fifo_len(&t->out) > 0 && now < end; now = clock_seconds())
        if (failed(tls_make_room(t, now + CLOSE_SECONDS < end ? now + CLOSE_SECONDS : end))) break;
    t->stop = true;
    pump_wake(t);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->pump, NULL);
    close(t->wake);
}

static void tls_close(Link *l, bool linger)
{
    Tls *t = (Tls *)l;
    char scrap[4096];
    pump_end(t);
    ERR_clear_error();
    if (SSL_is_init_finished(t->ssl)) (void)SSL_shutdown(t->ssl);
    shutdown(t->fd, SHUT_WR);
    /* To close a socket with unread bytes resets the connection, and the peer may lose our last frame: read until it has closed. */
    for (double until = clock_seconds() + 0.5; linger && socket_wait(t->fd, POLLIN, until);)
        if (recv(t->fd, scrap, sizeof scrap, 0) <= 0 || clock_seconds() > until) break;
    SSL_free(t->ssl);                                                  // with its BIO
    close(t->fd);
    fifo_free(&t->in);
    fifo_free(&t->out);
    pthread_mutex_destroy(&t->lock);
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
    SSL_CTX_set_options(c, SSL_OP_CLEANSE_PLAINTEXT);                          // a record that was read does not stay: some hold seeds
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
        if (clock_seconds() >= deadline || !socket_wait(t->fd, error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline))
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
    static const LinkKind kind = {tls_write, tls_read, tls_buffers, tls_close};
    const double deadline = clock_seconds() + HANDSHAKE_SECONDS;
    uint8_t key[32];
    Tls *t = calloc(1, sizeof *t);
    if (!t) bug("out of memory");
    t->link.kind = &kind;
    snprintf(t->link.peer, sizeof t->link.peer, "%s", name);
    t->fd = fd;
    t->spin = sysconf(_SC_NPROCESSORS_ONLN) > 1;
    t->send = LINK_SEND_BYTES;
    pthread_mutex_init(&t->lock, NULL);
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
