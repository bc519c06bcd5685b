/* socket.c - TCP connections: listening, accepting, connecting, waiting. Every socket is non-blocking. */
#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "crypto/link.h"

struct Listener { int fd; uint16_t port; };

short socket_wait(int fd, short events, double deadline)
{
    struct pollfd p = {fd, events, 0};
    for (;;) {
        double left = deadline < 0 ? 0 : deadline - clock_seconds();
        int ms = deadline < 0 ? -1 : left <= 0 ? 0 : left > 1e6 ? 1000000000 : (int)ceil(left * 1e3);
        int n = poll(&p, 1, ms);
        if (n > 0) return p.revents;
        if (n == 0 && (deadline < 0 || clock_seconds() >= deadline)) return 0;
        if (n < 0 && errno != EINTR && errno != EAGAIN) bug("poll: %s", strerror(errno));
    }
}

static Result address_find(struct addrinfo **out, const char *host, uint16_t port, int flags, int *code)
{
    char service[8];
    const struct addrinfo hints = {.ai_flags = flags | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    snprintf(service, sizeof service, "%u", port);
    *code = getaddrinfo(host, service, &hints, out);
    return *code == 0 ? OK : fail(FAIL_SYSTEM, "%s: %s", host, gai_strerror(*code));
}

static void address_text(char *out, size_t size, const struct sockaddr *a, socklen_t len)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    int bad = getnameinfo(a, len, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    if (bad) snprintf(out, size, "unknown address");
    else snprintf(out, size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static void set_flag(int fd, int level, int name)
{
    int on = 1;
    (void)setsockopt(fd, level, name, &on, sizeof on);                 // an optimisation, or a convenience: not worth a failure
}

// ---- listening -------------------------------------------------------------------------------------------------------

static int listen_at(const struct addrinfo *a)                         // a socket, or -1 and errno
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0) return -1;
    set_flag(fd, SOL_SOCKET, SO_REUSEADDR);                            // a port in TIME_WAIT is free
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 16) == 0) return fd;
    int bad = errno;
    close(fd);
    errno = bad;
    return -1;
}

Result listener_open(Listener **out, const char *host, uint16_t port)
{
    struct addrinfo *all;
    struct sockaddr_storage got = {0};
    socklen_t got_len = sizeof got;
    int fd = -1, bad = EADDRNOTAVAIL, code;
    GUARD(address_find(&all, host, port, AI_PASSIVE, &code));
    for (const struct addrinfo *a = all; a && fd < 0; a = a->ai_next) {
        fd = listen_at(a);
        if (fd < 0) bad = errno;
    }
    freeaddrinfo(all);
    if (fd < 0 && bad == EADDRINUSE) return fail(FAIL_SYSTEM, "port %u of %s is in use", port, host);
    if (fd < 0) return fail(FAIL_SYSTEM, "cannot listen on port %u of %s: %s", port, host, strerror(bad));
    getsockname(fd, (struct sockaddr *)&got, &got_len);
    *out = calloc(1, sizeof **out);
    if (!*out) bug("out of memory");
    (*out)->fd = fd;
    (*out)->port = ntohs(got.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&got)->sin6_port : ((struct sockaddr_in *)&got)->sin_port);
    return OK;
}

uint16_t listener_port(const Listener *l)
{
    return l->port;
}

int listener_fd(const Listener *l)
{
    return l->fd;
}

void listener_close(Listener *l)
{
    if (!l) return;
    close(l->fd);
    free(l);
}

Result socket_accept(int *fd, char *from, size_t from_size, Listener *l, double timeout)
{
    const double deadline = timeout < 0 ? -1 : clock_seconds() + timeout;
    struct sockaddr_storage a;
    for (;;) {
        socklen_t len = sizeof a;
        *fd = accept4(l->fd, (struct sockaddr *)&a, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (*fd >= 0) {
            address_text(from, from_size, (struct sockaddr *)&a, len);
            set_flag(*fd, IPPROTO_TCP, TCP_NODELAY);
            return OK;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!socket_wait(l->fd, POLLIN, deadline)) return fail(FAIL_PEER, "nobody connected to port %u within %g s", l->port, timeout);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return fail(FAIL_SYSTEM, "port %u: cannot accept: %s", l->port, strerror(errno));
        }
    }
}

// ---- connecting ------------------------------------------------------------------------------------------------------

static int connect_to(const struct addrinfo *a, double deadline)       // a connected socket, or -1 and errno
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol), bad = 0;
    if (fd < 0) return -1;
    set_flag(fd, IPPROTO_TCP, TCP_NODELAY);
    if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) bad = errno;
    if (bad == EINPROGRESS || bad == EINTR) {
        socklen_t len = sizeof bad;
        if (!socket_wait(fd, POLLOUT, deadline)) bad = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &bad, &len) != 0) bad = errno;
    }
    if (bad == 0) return fd;
    close(fd);
    errno = bad;
    return -1;
}

static bool may_come(int error)                                        // nobody listens yet, or the way there is not up yet
{
    return error == ECONNREFUSED || error == ECONNRESET || error == EHOSTUNREACH || error == ENETUNREACH || error == ETIMEDOUT;
}

Result socket_connect(int *fd, const char *host, uint16_t port, double timeout)
{
    const double begin = clock_seconds(), pause = 0.02;
    for (;;) {
        struct addrinfo *all = NULL;
        int code, bad = ECONNREFUSED;
        Result r = address_find(&all, host, port, 0, &code);
        if (failed(r) && code != EAI_AGAIN) return r;                  // EAI_AGAIN: the name may be known soon
        for (const struct addrinfo *a = all; a; a = a->ai_next) {
            double left = begin + timeout - clock_seconds();
            *fd = connect_to(a, clock_seconds() + (left > 1 ? left : 1));
            if (*fd < 0) bad = errno;
            else break;
        }
        bool connected = all && *fd >= 0;
        if (all) freeaddrinfo(all);
        if (connected) return OK;
        if (!failed(r) && !may_come(bad)) return fail(FAIL_PEER, "cannot connect to %s:%u: %s", host, port, strerror(bad));
        if (clock_seconds() + pause >= begin + timeout) {
            if (failed(r)) return r;
            return fail(FAIL_PEER, "nobody listens on %s:%u (tried for %g s: %s)", host, port, timeout, strerror(bad));
        }
        nanosleep(&(struct timespec){0, (long)(pause * 1e9)}, NULL);
    }
}
