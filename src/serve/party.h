/* party.h - what client, provider and third share (private to serve/): how long they wait, what they tell each other when
 * they fail, how they count segments, and the two ways in which the third's words reach the provider. */
#ifndef MARILL_PARTY_H
#define MARILL_PARTY_H

#include "serve/message.h"

enum {
    HELLO_SECONDS = 20,                        // an opening message
    WORK_SECONDS = 120,                        // a message that the peer has to compute for
    IDLE_SECONDS = 600,                        // the user's next sentence
    THIRD_IDLE_SECONDS = 660,                  // the provider gives up first, and says so
    POOL_SECONDS = 3600,                       // the other party of a pool that is about to be made
    CONNECT_SECONDS = 5
};
enum {                                         // of channel_buffers
    PEER_SEND = 64 << 20, PEER_AHEAD = 256 << 20,             // client and provider: a whole message of a long prompt, each way
    WORDS_SEND = 1 << 20, WORDS_AHEAD = 32 << 20              // third to provider: how far the third may run ahead
};

// ---- failing ---------------------------------------------------------------------------------------------------------

/* Tells the peers (NULL: none) why the session ends, and returns the failure as it was. hide: the failure is one of this
 * party's own computation, whose text may describe what it computes on: the peers hear only that there was one. */
Result party_abort(Result r, bool hide, Channel *a, Channel *b);
/* True of failures that describe a peer or a key and nothing that was computed. */
bool failure_is_public(Result r);

// ---- what is agreed --------------------------------------------------------------------------------------------------

CHECKED Result agreement_make(Agreement *out, const Bundle *b);
const int32_t *bundle_known(const Bundle *b);  // (plan.known) the known tokens
uint32_t bundle_room(const Bundle *b);         // positions of a conversation after the known ones
/* The seed of the input's shares: both sides put in random bytes. */
void session_seed(uint8_t out[KEY_BYTES], const uint8_t client[KEY_BYTES], const uint8_t provider[KEY_BYTES],
                  const uint8_t session[SESSION_BYTES]);
/* The provider's lasting secrets, from its identity and its private integers: the same in every process that serves the
 * same adapter under the same plan, and different as soon as one number of it changes, so that no pad covers two matrices. A new
 * epoch changes them all. */
CHECKED Result provider_secrets(uint8_t commitment[HASH_BYTES], uint8_t pad_seed[KEY_BYTES], const Bundle *b, const Identity *me,
                                uint64_t epoch);
/* Keys and values of the known positions, by the float network with its adapter: arena memory. */
CHECKED Result known_prefix(KnownPrefix *out, const Bundle *b, Arena *a);
/* The one-time message of S to T: each pinned matrix a frame. */
CHECKED Result pins_send(Channel *third, const SecureNet *net);
CHECKED Result pins_receive(Channel *provider, SecureNet *net);
static inline const Adapter *bundle_adapter(const Bundle *b) { return b->has_adapter ? &b->adapter : NULL; }

// ---- segments --------------------------------------------------------------------------------------------------------

/* The keys of the present conversation, from one tape. All parties of a session count alike: a conversation of `rows` and
 * `more` consumes as many segments whether or not it uses them. */
typedef struct Segments {
    Tape *tape;
    uint64_t next;                             // of the present conversation; first of the next one after segments_end
    uint64_t end;
    Buffer keys;                               // of [next - used, end), KEY_BYTES each
    size_t used;
} Segments;
enum { LIVE_SEGMENTS = INT32_MAX };            // of a live tape: what a session may consume
void segments_live(Segments *s, const uint8_t seed[KEY_BYTES]);
/* Fails, before anything is burnt, if the tape has too few left. */
CHECKED Result segments_check(const Segments *s, uint64_t count);
/* whole: to the tape's end, which a pool's conversation takes at once. */
CHECKED Result segments_reserve(Segments *s, uint64_t count, bool whole);
const uint8_t (*segments_take(Segments *s, size_t rows))[KEY_BYTES];         // valid until the next take
const uint8_t (*segments_coming(const Segments *s))[KEY_BYTES];             // of the next ones, not taken yet
void segments_end(Segments *s);                // burns what is left of the conversation
void segments_free(Segments *s);               // closes the tape

// ---- words -----------------------------------------------------------------------------------------------------------

/* Live: frames of MSG_WORDS. A frame ends with its batch at the latest. Words are waited for as long as for one message of their
 * size, in however many frames they come. */
typedef struct LiveFeed {
    Feed feed;
    Channel *channel;
    Buffer frame;
    size_t at;                                 // S: read so far
    uint64_t bytes;                            // words only
} LiveFeed;
void live_feed(LiveFeed *f, Channel *c);
CHECKED Result live_feed_flush(LiveFeed *f);   // T: at the end of a batch
/* S: forgets words up to the third's end of the conversation, of which at most `most` bytes may come: those of rows that were asked for and
 * not used. */
CHECKED Result live_feed_drain(LiveFeed *f, uint64_t most);
void live_feed_free(LiveFeed *f);

/* From a pool: a segment a row, decrypted 64 KB at a time as the network asks for its words. */
typedef struct PoolFeed {
    Feed feed;
    Pool *pool;
    PoolReader *row;                           // (rows)
    size_t rows, room;
    uint64_t bytes;
} PoolFeed;
void pool_feed(PoolFeed *f, Pool *p);
CHECKED Result pool_feed_load(PoolFeed *f, uint64_t first, size_t rows, const uint8_t (*keys)[KEY_BYTES]);
void pool_feed_free(PoolFeed *f);

/* To a pool: the feed of the third's engine. Without a writer the words are counted and dropped. */
typedef struct PoolSink { Feed feed; PoolWriter *writer; uint64_t bytes; } PoolSink;
void pool_sink(PoolSink *s);
/* The bytes of the segments of a conversation's positions, counted. */
CHECKED Result pool_sizes(uint64_t *sizes, const Plan *p, const ModelConfig *c, uint64_t positions);
typedef struct PoolDeal {
    Engine *engine; SecureNet *net;            // of the third; its feed is the sink's
    Segments *client, *server;
    PoolSink *sink;
    const uint64_t *sizes; uint64_t positions;
    Result (*made)(void *ctx, size_t positions); void *ctx;            // after each batch; may be NULL
} PoolDeal;
CHECKED Result pool_deal(const PoolDeal *d);

#endif
