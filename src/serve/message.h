/* message.h - what the parties say to each other outside of the moves (private to serve/).
 *
 * Every message is one frame: a byte that says which, then its fields, integers little-endian. A message that is longer or
 * shorter than its fields, that comes out of turn or that states something impossible is refused by a line of text that names it.
 *
 * Opening a session, `3pc`                                    `dealer`
 *     C to S   client hello                                       the same, with the state of the tape
 *     S to C   provider hello                                     the same, with the pool's header
 *     C to T   third hello       T to C   waiting                 -
 *     C to S   go                                                 go
 *     S to T   third hello       T to S   go                      -
 *     S to T   shape, pinned matrices     T to S   ready          -
 *     S to C   ready                                              ready
 *
 * A conversation: begin, as many steps as there are, end; the provider answers the end with a report. In `dealer` both say
 * `reserved` after the begin, before any masked word. In `3pc` the provider passes begin and end on to the third and asks for
 * single rows a few ahead, so that it neither waits for them nor leaves more than a few behind. The third sends `words`, and
 * answers an end with one of its own, at which both agree again on what lies between them. */
#ifndef MARILL_MESSAGE_H
#define MARILL_MESSAGE_H

#include "serve/serve.h"

enum { SESSION_BYTES = 16, HEADER_LIMIT = 1024, SHAPE_LIMIT = 64 << 20, WORDS_LIMIT = 64 << 10 };

typedef enum {
    MSG_CLIENT_HELLO = 1, MSG_PROVIDER_HELLO, MSG_THIRD_HELLO, MSG_WAITING, MSG_GO, MSG_SHAPE, MSG_READY, MSG_POOL, MSG_RESERVED, MSG_MADE,
    MSG_BEGIN, MSG_STEP, MSG_END, MSG_REPORT, MSG_WORDS, MSG_BYE, MSG_COUNT
} Message;

/* What all have to agree on. */
typedef struct Agreement { uint8_t public_model[HASH_BYTES], plan[HASH_BYTES], config[HASH_BYTES]; } Agreement;
/* Fails with the name of what differs, seen by the party that compares. */
CHECKED Result agreement_check(const Agreement *mine, const Agreement *theirs, const char *peer);

/* A message without fields. */
CHECKED Result message_send(Channel *c, Message m);
CHECKED Result message_expect(Channel *c, Message m, const char *peer);
/* The next message, whichever, of at most `limit` bytes: its fields in `body`, which points into `frame`. */
CHECKED Result message_next(Channel *c, Buffer *frame, size_t limit, Message *m, Cursor *body, const char *peer);
/* The failure of a message that is out of turn. */
CHECKED Result message_unexpected(Message m, const char *due, const char *peer);

typedef struct ClientHello {
    Setting setting;
    uint8_t session[SESSION_BYTES], random[KEY_BYTES];
    Agreement agreement;
    uint8_t tape[HASH_BYTES];                  // dealer: hash of its pool's header, and how many of its segments are gone
    uint64_t tape_mark, tape_segments;
} ClientHello;
CHECKED Result client_hello_send(Channel *c, const ClientHello *h);
CHECKED Result client_hello_receive(Channel *c, ClientHello *h);

typedef struct ProviderHello {
    uint8_t session[SESSION_BYTES], random[KEY_BYTES];
    Agreement agreement;
    uint8_t commitment[HASH_BYTES], pad_seed[KEY_BYTES];
    uint8_t header[HEADER_LIMIT];              // dealer: of the pool
    size_t header_len;
    uint64_t tape_mark;
} ProviderHello;
CHECKED Result provider_hello_send(Channel *c, const ProviderHello *h);
CHECKED Result provider_hello_receive(Channel *c, ProviderHello *h);

typedef struct ThirdHello {
    Role role;
    bool pool;                                 // to make one of `positions` positions; else a live session
    uint64_t positions;
    uint8_t session[SESSION_BYTES];            // or the pool's name
    uint8_t partner[32];                       // public key of the other party
    Agreement agreement;
    uint8_t commitment[HASH_BYTES];            // the provider's
    uint64_t epoch;                            // the provider's
    uint8_t tape_seed[KEY_BYTES];
} ThirdHello;
CHECKED Result third_hello_send(Channel *c, const ThirdHello *h);
CHECKED Result third_hello_receive(Channel *c, ThirdHello *h);

/* The plan and the shape of the model, as JSON, from the provider to the third. */
CHECKED Result shape_send(Channel *c, const Plan *p, const ModelConfig *config);
CHECKED Result shape_receive(Channel *c, Plan *p, ModelConfig *config);
void config_hash(const ModelConfig *c, uint8_t out[HASH_BYTES]);

typedef struct Begin { uint32_t rows, more; bool every; } Begin;       // every: logits of every row, not of the last alone
CHECKED Result begin_send(Channel *c, const Begin *b);
CHECKED Result begin_parse(Begin *b, Cursor *body);

/* Bytes that only the provider can count: with ready those of the setup, with a report those of the phases. */
typedef struct Report { uint64_t first, second; } Report;
CHECKED Result report_send(Channel *c, Message m, const Report *r);
CHECKED Result report_receive(Channel *c, Message m, Report *r, const char *peer);

void pool_about_write(Buffer *out, const PoolAbout *a);
CHECKED Result pool_header_send(Channel *c, const Buffer *header);
CHECKED Result pool_header_receive(Channel *c, Buffer *header);

#endif
