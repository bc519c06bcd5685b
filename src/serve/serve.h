/* serve.h - a party's life: handshakes, sessions, generation, pools, receipts.
 *
 * Three programs meet over TLS. The *third* listens. The *provider* listens for clients and dials the third. The *client*
 * dials both. The client names the session by 16 random bytes; client and provider show the same name to the third, which
 * pairs them by it and by their pinned keys. Nobody sends a masked word before all of this agrees: version, setting, roles,
 * hash of the public model, salted commitment to the private part, hash of the plan.
 *
 * In `3pc` the third streams its words while the other two compute; it is told how many rows a batch has, and runs ahead of
 * the generation by the 32 MB that the provider takes in before it needs them, and by what the sockets hold. In `dealer` it
 * wrote the same words ahead of time, a segment a position, to a pool at the provider, and is absent. Both run the same SecureNet.
 *
 * A session that fails is over: the others are told why in one line, keys and shares are wiped, nothing is retried.
 */
#ifndef MARILL_SERVE_H
#define MARILL_SERVE_H

#include "model/model.h"
#include "model/secure.h"
#include "serve/trace.h"

enum { PROTOCOL_VERSION = 1 };
typedef enum { SETTING_PLAIN, SETTING_CLEAR, SETTING_DEALER, SETTING_3PC, SETTING_2PC } Setting;
extern const char *const setting_names[5];
CHECKED Result setting_parse(Setting *out, const char *name); // 2pc is named as not available yet

typedef struct Address { const char *host; uint16_t port; uint8_t key[32]; } Address;   // of a peer, with its pinned key

// ---- what a party brings ---------------------------------------------------------------------------------------------

/* A model folder, with an adapter where the party has one, and the plan for them (DIR/marill-plan.json of the adapter
 * folder, or of the model folder without an adapter). */
typedef struct Bundle {
    Model model;
    Adapter adapter;
    bool has_adapter;
    Plan plan;
    Variant variant;                           // of the plain setting: the plan's own, or what marill.json says
    Tokenizer *tokenizer;
    const int32_t *known_tokens;               // (plan.known) as the plan names them; NULL: BOS
    KnownPrefix *known_given;                  // benchmarks: keys and values of the known positions, which then have no tokens
} Bundle;
/* adapter_dir: NULL without one. plan_path: NULL takes the default place. want_adapter_weights false (a client): only the
 * plan is read from the adapter folder. */
CHECKED Result bundle_load(Bundle *b, const char *model_dir, const char *adapter_dir, const char *plan_path, bool want_adapter_weights);
void bundle_free(Bundle *b);

// ---- the provider ----------------------------------------------------------------------------------------------------

typedef struct ProviderOptions {
    const char *host; uint16_t port;           // port 0: the system chooses; announce tells
    Identity *identity;
    const uint8_t (*clients)[32]; size_t client_count;        // who may connect
    Setting setting;
    Address third;                             // 3pc; dealer: its key alone, which signed the pool
    const char *pool, *tape;                   // dealer: the pool file and the provider's tape of it
    uint64_t epoch;                            // of the adapter's pads: a new one after a client was revoked
    bool every;                                // reveals logits of all positions (client_score), not of generated tokens alone
    uint32_t sessions;                         // end after so many sessions; 0: never
    const Progress *progress;
    void (*announce)(void *ctx, uint16_t port); void *announce_ctx;
    Net net;                                   // shapes the links to clients and third; zeros: not at all. All parties alike
    Trace *trace;                              // of the last session; may be NULL
} ProviderOptions;
/* A session that fails is reported through `progress`, and the next one is served. The result is that of the last. */
CHECKED Result provider_serve(const Bundle *b, const ProviderOptions *o);

// ---- the third -------------------------------------------------------------------------------------------------------

typedef struct ThirdOptions {
    const char *host; uint16_t port;
    Identity *identity;
    const uint8_t (*clients)[32]; size_t client_count;
    const uint8_t (*providers)[32]; size_t provider_count;
    const char *pool;                          // write one pool to this path and end; NULL: serve live sessions
    uint32_t sessions;                         // end after so many sessions; 0: never
    const Progress *progress;
    void (*announce)(void *ctx, uint16_t port); void *announce_ctx;
    Net net;                                   // of live sessions
    Trace *trace;
} ThirdOptions;
CHECKED Result third_serve(const ThirdOptions *o);
/* A pool of `positions` positions for one conversation: the provider's and the client's parts of its making, each of which
 * dials the third and leaves its own tape file. name: what both agreed to call it (16 bytes). */
CHECKED Result provider_pool(const Bundle *b, const Identity *me, const Address *third, const uint8_t client[32], const uint8_t name[16],
                             uint32_t positions, uint64_t epoch, const char *tape);
CHECKED Result client_pool(const Bundle *b, const Identity *me, const Address *third, const uint8_t provider[32], const uint8_t name[16],
                           uint32_t positions, const char *tape);

/* What the header of a pool says (pool_header of crypto.h). */
typedef struct PoolAbout {
    uint64_t positions, bytes;                 // segments, and bytes of all of them together
    uint64_t epoch;                            // the provider's
    uint8_t nonce[16];                         // of the third: no two pools are alike, whatever they are called
    uint8_t name[16], client[32], provider[32], third[32];    // public keys
    uint8_t config[HASH_BYTES], plan[HASH_BYTES], public_model[HASH_BYTES], commitment[HASH_BYTES];
} PoolAbout;
CHECKED Result pool_about(PoolAbout *out, const uint8_t *header, size_t len);

/* Makes a pool of a plan in `folder`, with matrices of nobody, and removes it: seconds that it takes, and beside it those of dealing the
 * same words to nowhere and of writing as many bytes plainly; and those of reading it as a provider does. Each the least of `repeat`
 * turns. */
typedef struct PoolRates { uint64_t bytes; double deal, disk, pool, read; } PoolRates;
CHECKED Result pool_rates(PoolRates *out, const Plan *p, const ModelConfig *c, uint32_t positions, const char *folder, unsigned repeat);

// ---- the client ------------------------------------------------------------------------------------------------------

typedef struct ClientOptions {
    Identity *identity;
    Setting setting;
    Address provider, third;                   // third: 3pc
    const char *tape;                          // dealer
    Net net;
    Trace *trace;
} ClientOptions;

typedef struct PhaseCost { double seconds; uint64_t exchanges; LinkBytes bytes; } PhaseCost;
typedef struct Receipt { PhaseCost setup, prefill, decode; uint32_t prompt_tokens, tokens, positions_planned; } Receipt;

/* One conversation with a provider. logits of a step belong to the last token given (or to every one, client_score). */
typedef struct Client Client;
CHECKED Result client_open(Client **out, const Bundle *b, const ClientOptions *o);
/* Begins a conversation: forgets the previous one. At most `prompt + more` positions will be used: the provider and the
 * third reserve them. prompt: tokens after the known ones (BOS). logits (vocab) of its last token. */
CHECKED Result client_prompt(Client *c, const int32_t *prompt, size_t count, uint32_t more, float *logits);
CHECKED Result client_step(Client *c, int32_t token, float *logits);
/* One batch, teacher-forced. Only with a provider that reveals as much. logits (count, vocab). */
CHECKED Result client_score(Client *c, const int32_t *tokens, size_t count, float *logits);
CHECKED Result client_finish(Client *c);                      // the conversation is over; the session may go on with another (3pc)
void client_receipt(const Client *c, Receipt *out);
void client_abort(Client *c, const char *reason);             // tells the others
void client_close(Client *c);

// ---- generation, the same over every setting ------------------------------------------------------------------------

typedef struct Generation {
    const char *prompt; size_t prompt_len;     // text; BOS is the known position before it
    uint32_t max_tokens; float temperature, top_p; uint64_t seed;
    void (*token)(void *ctx, int32_t id, const uint8_t *text, size_t len);   // streaming: whole UTF-8 characters; may be NULL
    void (*logits)(void *ctx, const float *row, uint32_t vocab);             // each generated token's; may be NULL
    void *ctx;
} Generation;

typedef struct Generated {
    int32_t *tokens; size_t count;             // up to the end of text, without it
    Buffer text;
    const char *finish_reason;                 // "stop" or "length"
    Receipt receipt;
    double first_token_seconds;                // from the call to the first token
} Generated;

/* client: an open session for dealer and 3pc, NULL for plain and clear (which need the adapter's weights in the bundle). */
CHECKED Result generate(Generated *out, const Bundle *b, Setting setting, Client *client, const Generation *g, Arena *a);
/* Logits of every position of a window that begins after BOS, in the given setting: (count, vocab). */
CHECKED Result score_window(float *logits, const Bundle *b, Setting setting, Client *client, const int32_t *tokens, size_t count);

#endif
