/* link.h - private to crypto/: what a channel runs over, a stream of bytes in each direction.
 *
 * channel.c makes frames of the bytes; memory.c and tls.c carry them, fifo.c holds those that wait, socket.c makes the connections. */
#ifndef MARILL_LINK_H
#define MARILL_LINK_H

#include "crypto/crypto.h"

typedef struct Link {                          // first member of every kind of link
    const struct LinkKind *kind;
    char peer[64];                             // failures say "the <peer> ..."
    double timeout;                            // of link_deadline; < 0: none
    double waited;                             // seconds that the caller has waited for the peer, in all
} Link;

typedef struct LinkKind {
    /* Sends head and data, all of it, or keeps the rest to send. While it waits for the peer to take bytes it takes in those
     * that arrive. */
    Result (*write)(Link *l, const uint8_t *head, size_t head_len, const uint8_t *data, size_t len);
    Result (*read)(Link *l, uint8_t *out, size_t len);                   // exactly len bytes
    void (*buffers)(Link *l, size_t send, size_t ahead);                 // see channel_buffers; NULL: as much as there is
    void (*close)(Link *l, bool linger);       // linger: wait a moment so that the peer sees the last frame; frees l
} LinkKind;

/* When a read or a write of len bytes that begins now has failed: the timeout, and what they take at the least rate.
 * The deadline does not move with what arrives, or a peer that drips bytes would hold us for as long as it likes. */
static inline double link_deadline(const Link *l, size_t len)
{
    return l->timeout < 0 ? -1 : clock_seconds() + l->timeout + (double)len / CHANNEL_LEAST_RATE;
}
CHECKED Result link_late(const Link *l, size_t left, size_t len);        // the failure of a read that has all but `left` of len bytes

/* Bytes that wait: arrived, and nobody has asked for them yet; or still to leave. Those that were read are wiped. All zeros is an
 * empty one. */
enum { FIFO_CHUNK = 256 << 10 };
typedef struct FifoChunk FifoChunk;
typedef struct Fifo { FifoChunk *first, *last, *spare; size_t spares, len; } Fifo;
uint8_t *fifo_space(Fifo *f, size_t len);                                // room for len more bytes, a chunk's at most
void fifo_added(Fifo *f, size_t len);
void fifo_append(Fifo *f, const uint8_t *data, size_t len);
size_t fifo_take(Fifo *f, uint8_t *out, size_t len);                     // what there is of len bytes
const uint8_t *fifo_front(Fifo *f, size_t *len);                         // the first bytes, as many as lie in one piece
void fifo_skip(Fifo *f, size_t len);                                     // of these
void fifo_free(Fifo *f);                                                 // wipes
static inline size_t fifo_len(const Fifo *f) { return f->len; }

enum { LINK_SEND_BYTES = 64 << 20 };           // that may wait to leave before a sender waits, unless channel_buffers says otherwise

Channel *channel_over(Link *l);                // owns l from now on
Link *link_shaped(Link *inner, const Net *net);                          // owns inner
/* Tells the peer that the channel stands, or (refusal not NULL) why it does not, and hears the same from it. */
CHECKED Result channel_greet(Channel *c, const char *refusal);

/* Waits until fd is ready for `events` of poll(2) or the clock shows `deadline` (< 0: never); 0 if it does. */
short socket_wait(int fd, short events, double deadline);
CHECKED Result socket_accept(int *fd, char *from, size_t from_size, Listener *l, double timeout);
CHECKED Result socket_connect(int *fd, const char *host, uint16_t port, double timeout);

#endif
