/* crypto.h - cryptographic tools: randomness, streams of masks, keys, channels, tapes.
 *
 * Everything that `dealer` and `3pc` need is AES-128 in counter mode, SHA-256, Ed25519 and TLS 1.3. AES-CTR expands masks
 * (AES-NI or VAES where the processor has them, a constant-time portable path elsewhere, chosen once by crypto_init);
 * OpenSSL does the rest.
 *
 * A *channel* carries frames between two parties: over TLS 1.3 with both sides authenticated by pinned Ed25519 keys, or
 * over memory inside one process, for tests. Both count payload bytes in each direction. Sending never deadlocks against a
 * peer that sends too: what the socket does not take at once leaves while the sender goes on, and while a send waits,
 * arriving bytes are taken in.
 *
 * A *tape* is a party's ratchet of segment keys: k(i+1) = KDF(k(i)). Taking a segment's key destroys the way back to it.
 * A live session keeps its tape in memory; a pool keeps it in a file whose durable counter only grows.
 */
#ifndef MARILL_CRYPTO_H
#define MARILL_CRYPTO_H

#include "base/base.h"

void crypto_init(bool portable);               // once at start; portable: the plain C AES, for tests
const char *crypto_kernels(void);              // "vaes", "aesni" or "portable"

// ---- randomness, hashes ----------------------------------------------------------------------------------------------

enum { KEY_BYTES = 32, HASH_BYTES = 32 };
void random_bytes(void *out, size_t len);      // from the system; a failure of the system aborts

typedef struct Hash { void *state; } Hash;     // SHA-256, streaming
void hash_init(Hash *h);
void hash_add(Hash *h, const void *data, size_t len);
void hash_end(Hash *h, uint8_t out[HASH_BYTES]);
void hash_bytes(uint8_t out[HASH_BYTES], const void *data, size_t len);
/* HMAC-SHA256 of (label, 0, context) under key: every key in Marill is derived from another by one call of this, with a
 * label that occurs once in the source. */
void derive_key(uint8_t out[KEY_BYTES], const uint8_t key[KEY_BYTES], const char *label, const void *context, size_t context_len);
void hex_encode(char *out /* 2 len + 1 */, const uint8_t *data, size_t len);
bool hex_decode(uint8_t *out, size_t len, const char *hex);   // exactly 2 len hex digits

// ---- prg -------------------------------------------------------------------------------------------------------------

/* The AES-128-CTR stream of one key, read in order; at most 2^36 blocks (asserted). */
typedef struct Prg { uint32_t round_key[44]; uint64_t block; uint8_t left[16]; unsigned left_len; } Prg;
void prg_init(Prg *p, const uint8_t key[16]);
void prg_bytes(Prg *p, void *out, size_t len);
/* len words of n bits; the stream spends 1, 2, 4 or 8 whole bytes a word. Upper bits come out zero. */
static inline unsigned prg_word_bytes(unsigned n) { return n <= 8 ? 1 : n <= 16 ? 2 : n <= 32 ? 4 : 8; }
void prg_words(Prg *p, uint64_t *out, size_t len, unsigned n);
/* The same words `skip` bytes ahead; the stream does not move. So the parts of a long read can be made side by side. */
void prg_words_at(const Prg *p, uint64_t skip, uint64_t *out, size_t len, unsigned n);
void prg_skip(Prg *p, uint64_t bytes);         // as if they had been read

// ---- identities ------------------------------------------------------------------------------------------------------

/* A party's long-term Ed25519 key. On disk: one file, mode 0600, PKCS#8 PEM, written whole or not at all. Its public half
 * is what others pin: 64 hex digits. */
typedef struct Identity { void *key; uint8_t public_key[32]; } Identity;
void identity_generate(Identity *out);
CHECKED Result identity_save(const Identity *id, const char *path);          // refuses to overwrite
CHECKED Result identity_load(Identity *out, const char *path);               // refuses a file that others may read
void identity_free(Identity *id);
void identity_sign(const Identity *id, uint8_t out[64], const void *data, size_t len);
bool identity_verify(const uint8_t public_key[32], const uint8_t signature[64], const void *data, size_t len);

// ---- channels --------------------------------------------------------------------------------------------------------

typedef struct Channel Channel;
typedef struct Listener Listener;

/* Two ends of an in-memory channel (each for one thread). */
void channel_memory(Channel **a, Channel **b);
/* Listens on host:port (port 0: the system chooses; listener_port tells). A port in use fails, named. */
CHECKED Result listener_open(Listener **out, const char *host, uint16_t port);
uint16_t listener_port(const Listener *l);
int listener_fd(const Listener *l);            // for poll
void listener_close(Listener *l);
/* Accepts one connection, completes TLS, and checks that the peer's key is one of `allowed` (count keys of 32 bytes):
 * *which tells. A peer of an unknown key, or one that does not finish the handshake within 10 s, is a failed Result and
 * is closed; the listener goes on. timeout in seconds; < 0: none. */
CHECKED Result channel_accept(Channel **out, size_t *which, Listener *l, const Identity *me, const uint8_t (*allowed)[32], size_t count,
                              double timeout);
/* Connects, trying again for `timeout` seconds while nobody listens. Fails unless the peer has exactly this key. */
CHECKED Result channel_connect(Channel **out, const char *host, uint16_t port, const Identity *me, const uint8_t peer[32], double timeout);
void channel_name(Channel *c, const char *peer);              // "server": how failures call the other side
/* Fails a frame that has not begun to arrive after so many seconds, and one whose rest is not here so many seconds and what it takes at the
 * least rate later; a send alike, of what has no room here. In however small steps the peer goes. < 0: never (default 120). */
enum { CHANNEL_LEAST_RATE = 125000 };          // bytes a second
void channel_timeout(Channel *c, double seconds);

/* How much of a TLS channel happens while its owner computes: up to `send` bytes wait here to leave (64 MB unless said), a
 * send beyond that waits; up to `ahead` bytes are taken in before anybody asks for them (none unless said), and the peer's
 * sends wait beyond what the sockets hold. */
void channel_buffers(Channel *c, size_t send, size_t ahead);

/* One frame, of less than 2^32 bytes. channel_send returns before the bytes are with the peer. */
CHECKED Result channel_send(Channel *c, const void *data, size_t len);
/* The beginning, or more, of a message that the receiver takes by channel_expect: its parts, at least a byte each, and at the end
 * what is left by channel_part or channel_send, must be as long as it expects in all. */
CHECKED Result channel_part(Channel *c, const void *data, size_t len);
/* The next frame, whole; fails if it is longer than limit. */
CHECKED Result channel_receive(Channel *c, Buffer *out, size_t limit);
/* The next message, one frame or in parts, which must have exactly `len` bytes; `what` names it in the failure. */
CHECKED Result channel_expect(Channel *c, void *out, size_t len, const char *what);
/* Bytes of a stream that the sender cut into frames as it liked. Do not mix with the two above on one direction. */
CHECKED Result channel_read(Channel *c, void *out, size_t len);
/* Tells the peer why the session ends; its next receive fails with that text (cleaned, 200 characters at most). */
void channel_abort(Channel *c, const char *reason);
void channel_close(Channel *c);                // orderly; NULL is fine
typedef struct ChannelCount { uint64_t sent, received; uint64_t frames_sent, frames_received; } ChannelCount;
ChannelCount channel_count(const Channel *c);  // payload bytes, without framing and TLS records
/* Called after every frame: its bytes, and how long this end waited for the peer since the last call. */
typedef void ChannelWatch(void *ctx, bool sent, size_t bytes, double waited);
void channel_watch(Channel *c, ChannelWatch *w, void *ctx);

/* A network between two parties, for measurements on one machine: seconds there and back, bytes a second in each direction of
 * each link. Zeros: none. */
typedef struct Net { double rtt, bandwidth; } Net;
enum { FRAME_HEAD_BYTES = 5 };                 // a frame costs so many bytes of bandwidth beside its payload
/* "loopback" (zeros), "lan" (0.5 ms, 3 Gbit/s), "wan" (40 ms, 200 Mbit/s), "RTT=40ms,BW=200Mbit"; FAIL_USE otherwise. */
CHECKED Result net_parse(Net *out, const char *text);
bool net_is_shaped(const Net *n);
/* From now on the bytes of this channel arrive as over that network. The other end must say the same, before any frame. */
void channel_shape(Channel *c, const Net *n);

// ---- tapes -----------------------------------------------------------------------------------------------------------

/* A ratchet of segment keys. Segment i can be taken once, in order; then k(i) is overwritten by k(i+1). In a file it belongs to
 * a pool, whose header it keeps, and cannot be copied: a copy is refused, and so is an older state put back. */
typedef struct Tape Tape;
enum { TAPE_ROLE = 16, TAPE_HEADER = 1024 };
typedef struct TapeAbout {
    char role[TAPE_ROLE];                      // whose it is: "client", "provider"
    uint8_t header[TAPE_HEADER];               // of the pool
    size_t header_len;
    uint8_t id[HASH_BYTES];                    // SHA-256 of the header
    uint64_t segments, mark;                   // in all; already reserved, now or ever
    bool copy;                                 // tape_open will refuse it
} TapeAbout;
void tape_live(Tape **out, const uint8_t seed[KEY_BYTES], uint64_t segments);               // in memory
/* Creates the state file (mode 0600, refuses to overwrite): seed as k(0), mark 0. */
CHECKED Result tape_create(const char *path, const void *header, size_t header_len, const char *role, const uint8_t seed[KEY_BYTES],
                           uint64_t segments);
/* Opens and locks it; a second process is refused, by whichever name. */
CHECKED Result tape_open(Tape **out, const char *path);
/* Reads what it says without opening it for use: nothing is locked or changed, also while another process has it open. */
CHECKED Result tape_about(TapeAbout *out, const char *path);
const uint8_t *tape_id(const Tape *t);         // (HASH_BYTES)
const char *tape_role(const Tape *t);
uint64_t tape_mark(const Tape *t);
uint64_t tape_segments(const Tape *t);
/* Reserves segments [from, from + count), from >= tape_mark: durable (written, synced, renamed, folder synced, the old state
 * overwritten) before it returns. keys (count): derived by walking the ratchet; skipped segments are burnt. Fails if the tape
 * is too short; a tape that has failed to write gives nothing more. Costs some five syncs of a disk. */
CHECKED Result tape_reserve(Tape *t, uint64_t from, uint64_t count, uint8_t (*keys)[KEY_BYTES]);
void tape_close(Tape *t);
CHECKED Result tape_discard(const char *path); // overwrites a tape that will not be used, and removes it; fine if there is none

// ---- pools -----------------------------------------------------------------------------------------------------------

/* A pool: the third's words for one ordered conversation, a file at the provider. A header (opaque to this floor), the sizes of
 * the segments, then the segments, each sealed under a key derived from the provider's tape key of that segment and from the
 * hash of header and sizes. The third signs header, sizes and all tags. */
typedef struct PoolWriter PoolWriter;
/* sizes (segments): bytes of each, settled before any is dealt. Takes the room on the disk, or fails. */
CHECKED Result pool_create(PoolWriter **out, const char *path, const void *header, size_t header_len, const uint64_t *sizes,
                           uint64_t segments);
/* The next `count` segments are written side by side from now on; the ones before must be full. */
void pool_begin(PoolWriter *w, size_t count, const uint8_t (*tape_keys)[KEY_BYTES]);
/* More bytes of the row-th of them. Memory: 64 KB a segment that is being written. */
CHECKED Result pool_append(PoolWriter *w, size_t row, const void *data, size_t len);
CHECKED Result pool_finish(PoolWriter *w, const Identity *third);           // gives it its name; w is gone, also on failure
void pool_abandon(PoolWriter *w);              // removes what was written
typedef struct Pool Pool;
CHECKED Result pool_open(Pool **out, const char *path, const uint8_t third[32]);            // checks the signature and sizes
void pool_header(const Pool *p, const uint8_t **data, size_t *len);
uint64_t pool_segments(const Pool *p);
uint64_t pool_size(const Pool *p, uint64_t i); // bytes of segment i
/* A segment as it is read, in order: opened with its tape key, decrypted piece by piece as far as it is asked for. Begins as
 * zeros; may be used again for another segment. */
typedef struct PoolReader PoolReader;
struct PoolReader { Pool *pool; uint64_t segment, piece, pieces; uint8_t key[KEY_BYTES]; Buffer plain; size_t at; };
CHECKED Result pool_read_begin(PoolReader *r, Pool *p, uint64_t i, const uint8_t tape_key[KEY_BYTES]);
/* The next len bytes, in place: valid until the next call on this reader. FAIL_CRYPTO if the segment was altered, FAIL_DATA if the
 * file was cut meanwhile or the segment is too short; the failure names it, and nothing of an altered piece is given out. */
CHECKED Result pool_read(PoolReader *r, const uint8_t **out, size_t len);
void pool_read_end(PoolReader *r);             // wipes
void pool_close(Pool *p);

#endif
