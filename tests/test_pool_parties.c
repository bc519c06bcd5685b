/* test_pool_parties.c - a pool between the parties: every field of its header counts, copied and restored halves are refused in every
 * combination, and the third cannot read what it has written. */
#define TEST_SECONDS 100
#include "processes.h"
#include "serve/party.h"

#include <sys/time.h>

static float logits[310];

static void converse(void)                     // one conversation, from beginning to end
{
    start_dealer(1);
    Client *c = open_session(&bundle, SETTING_DEALER);
    CHECK_OK(client_prompt(c, (int32_t[]){5, 6}, 2, 1, logits));
    CHECK_OK(client_step(c, 7, logits));
    client_close(c);
    process_end(&provider, "fine");
    unlink(in_folder("provider.out"));
}

static void client_refuses(const char *why)
{
    Client *c;
    ClientOptions o = client_options(SETTING_DEALER);
    CHECK_FAILS(client_open(&c, &bundle, &o), why);
}

static void provider_refuses(const char *why)  // to start
{
    start_dealer(1);
    CHECK_EQUAL(0, provider.port);
    process_end(&provider, why);
    unlink(in_folder("provider.out"));
}

// ---- copies ----------------------------------------------------------------------------------------------------------

typedef enum { LATEST, COPY_OVER, COPY_NEW, IMAGE } Half;      // how a half was put back; an image keeps the file's identity
static const char *const tape_names[2] = {"client.tape", "provider.tape"};
static Buffer unused[2], used[2];

static void half_put(int side, Half how)
{
    const char *path = in_folder(tape_names[side]), *copy = in_folder("a.copy");
    if (how == LATEST) tape_put_back(path, &used[side]);
    else if (how == IMAGE) tape_put_back(path, &unused[side]);
    else {
        CHECK_OK(file_write(copy, unused[side].data, unused[side].len, 0600));
        tape_copy(path, copy, how == COPY_OVER);
    }
}

static void make_and_use(void)
{
    setup();
    make_pool(&bundle, 8);
    for (int i = 0; i < 2; i++) CHECK_OK(file_read(&unused[i], in_folder(tape_names[i]), 1 << 12));
    converse();
    for (int i = 0; i < 2; i++) CHECK_OK(file_read(&used[i], in_folder(tape_names[i]), 1 << 12));
}

/* A client that does not look at its own mark: the provider has to. */
static void hello_refused(uint64_t mark, const char *why)
{
    Channel *c;
    ClientHello h = {.setting = SETTING_DEALER, .tape_mark = mark, .tape_segments = 8};
    ProviderHello answer;
    TapeAbout t;
    CHECK_OK(agreement_make(&h.agreement, &bundle));
    CHECK_OK(tape_about(&t, in_folder("client.tape")));
    memcpy(h.tape, t.id, sizeof h.tape);
    CHECK_OK(channel_connect(&c, "127.0.0.1", provider.port, &client_id, provider_id.public_key, 5));
    CHECK_OK(client_hello_send(c, &h));
    CHECK_FAILS(provider_hello_receive(c, &answer), why);
    channel_close(c);
}

TEST(halves_put_back_are_refused_in_every_combination)
{
    make_and_use();
    for (Half client = LATEST; client <= IMAGE; client++)
        for (Half server = LATEST; server <= IMAGE; server++) {
            if (client == IMAGE && server == IMAGE) continue;                          // see the next test
            for (int order = 0; order < 2; order++) half_put(order, order ? server : client);
            if (server == LATEST) provider_refuses("is used");
            else if (server != IMAGE) provider_refuses("is a copy");
            for (int order = 1; order >= 0; order--) half_put(order, order ? server : client);   // the other way round
            if (server != IMAGE) {
                if (client != IMAGE) client_refuses(client == LATEST ? "is used" : "is a copy");
                continue;                                                              // nobody listens
            }
            start_dealer(1);                                                           // it believes that it was never used
            CHECK(provider.port);
            client_refuses(client == LATEST ? "is used" : "is a copy");
            hello_refused(8, "the pool is used: the client's tape of it has begun before");
            process_end(&provider, "the pool is used");
            unlink(in_folder("provider.out"));
        }
}

TEST(client_put_back_by_an_image_is_refused_by_the_provider)
{
    setup();
    make_pool(&bundle, 8);
    CHECK_OK(file_read(&unused[0], in_folder("client.tape"), 1 << 12));
    start_dealer(2);
    Client *c = open_session(&bundle, SETTING_DEALER);
    CHECK_OK(client_prompt(c, &(int32_t){5}, 1, 2, logits));
    client_close(c);
    half_put(0, IMAGE);
    client_refuses("the pool is used: it serves one conversation");
    process_end(&provider, "the pool is used");
}

/* The limit that docs/security.md states: no message between two parties that have both forgotten can tell them. */
TEST(both_put_back_by_images_are_beyond_any_protocol)
{
    make_and_use();
    for (int side = 0; side < 2; side++) half_put(side, IMAGE);
    converse();
}

TEST(copies_on_other_paths_and_while_running_are_refused)
{
    setup();
    make_pool(&bundle, 8);
    for (int i = 0; i < 2; i++) tape_copy(in_folder(i ? "p.copy" : "c.copy"), in_folder(tape_names[i]), false);
    start_dealer(1);
    ClientOptions o = client_options(SETTING_DEALER);
    Client *c, *d;
    static char copy[4200];
    snprintf(copy, sizeof copy, "%s", in_folder("c.copy"));
    o.tape = copy;
    CHECK_FAILS(client_open(&d, &bundle, &o), "is a copy");
    c = open_session(&bundle, SETTING_DEALER);
    client_refuses("in use by another process");
    tape_copy(in_folder("c.copy"), in_folder("client.tape"), false);                  // while it is open, before the reservation
    CHECK_FAILS(client_open(&d, &bundle, &o), "is a copy");
    Setup second = {.setting = SETTING_DEALER, .sessions = 1, .pool = in_folder("pool"), .tape = in_folder("p.copy")};
    Process other;
    process_start(&other, "other", provider_main, &second);
    process_end(&other, "is a copy");
    second.tape = in_folder("provider.tape");
    process_start(&other, "other", provider_main, &second);
    process_end(&other, "in use by another process");
    CHECK_OK(client_prompt(c, (int32_t[]){5, 6}, 2, 1, logits));
    tape_copy(in_folder("c.copy"), in_folder("client.tape"), false);                  // and after it
    CHECK_FAILS(client_open(&d, &bundle, &o), "is a copy");
    client_close(c);
    process_end(&provider, "fine");
}

TEST(a_tape_is_of_its_party)
{
    setup();
    make_pool(&bundle, 8);
    start_dealer(1);
    ClientOptions o = client_options(SETTING_DEALER);
    Client *c;
    o.tape = in_folder("provider.tape");
    process_kill(&provider);
    CHECK_FAILS(client_open(&c, &bundle, &o), "is the tape of the provider, not the client's");
    CHECK(rename(in_folder("client.tape"), in_folder("provider.tape")) == 0);
    provider_refuses("is the tape of the client, not the provider's");
}

// ---- the header ------------------------------------------------------------------------------------------------------

typedef struct Forged { const char *field; size_t at; const char *provider, *maker; } Forged;
#define FIELD(name, provider, maker) {#name, offsetof(PoolAbout, name), provider, maker}
static const Forged forged[] = {                                       // NULL: any value is as good, and it is the hash that tells
    FIELD(positions, "its header says", "another length"),
    FIELD(bytes, "its header says", NULL),
    FIELD(epoch, "was made for epoch", "another model"),
    FIELD(nonce, "is not the tape of", NULL),
    FIELD(name, "is not the tape of", "another name"),
    FIELD(client, "is not the tape of", "other parties"),
    FIELD(provider, "was made for another provider", "other parties"),
    FIELD(third, "names another third party", "other parties"),
    FIELD(config, "shape of the model differs", "another model"),
    FIELD(plan, "plan differs", "another model"),
    FIELD(public_model, "public model differs", "another model"),
    FIELD(commitment, "was made for another adapter", "another model"),
};
enum { FORGED = sizeof forged / sizeof *forged };

/* A header that is good but for one field, signed by the third all the same. */
static void forge(Buffer *out, const PoolAbout *good, const Forged *f)
{
    PoolAbout a = *good;
    if (f) ((uint8_t *)&a)[f->at] ^= 1;
    out->len = 0;
    pool_about_write(out, &a);
}

static void pool_of(const Buffer *header, const char *path)
{
    static const uint64_t sizes[3] = {10, 20, 30};
    static const uint8_t keys[3][KEY_BYTES] = {{1}, {2}, {3}}, data[30];
    PoolWriter *w;
    unlink(path);
    CHECK_OK(pool_create(&w, path, header->data, header->len, sizes, 3));
    pool_begin(w, 3, keys);
    for (size_t i = 0; i < 3; i++) CHECK_OK(pool_append(w, i, data, sizes[i]));
    CHECK_OK(pool_finish(w, &third_id));
}

static void about_good(PoolAbout *a)
{
    uint8_t pads[KEY_BYTES], commitment[HASH_BYTES];
    Agreement agreed;
    CHECK_OK(agreement_make(&agreed, &bundle));
    CHECK_OK(provider_secrets(commitment, pads, &bundle, &provider_id, 0));
    *a = (PoolAbout){.positions = 3, .bytes = 60};
    memcpy(a->name, pool_name, sizeof a->name);
    memcpy(a->client, client_id.public_key, 32), memcpy(a->provider, provider_id.public_key, 32), memcpy(a->third, third_id.public_key, 32);
    memcpy(a->config, agreed.config, 32), memcpy(a->plan, agreed.plan, 32), memcpy(a->public_model, agreed.public_model, 32);
    memcpy(a->commitment, commitment, 32);
}

TEST(provider_checks_every_field)
{
    setup();
    PoolAbout good;
    Buffer header = {0};
    about_good(&good);
    forge(&header, &good, NULL);
    CHECK_OK(tape_create(in_folder("provider.tape"), header.data, header.len, "provider", (uint8_t[KEY_BYTES]){9}, 3));
    for (size_t i = 0; i < FORGED; i++) {
        forge(&header, &good, &forged[i]);
        pool_of(&header, in_folder("pool"));
        provider_refuses(forged[i].provider);
    }
    forge(&header, &good, NULL);
    pool_of(&header, in_folder("pool"));
    start_dealer(1);
    CHECK(provider.port);                                              // the good one is taken
    process_kill(&provider);
    buffer_free(&header);
}

/* Fields that the third chooses, or that only the provider knows: the maker goes on, until the third is gone. */
static bool field_free(const Forged *f, Role maker)
{
    return !f->maker || (maker == ROLE_CLIENT && (!strcmp(f->field, "epoch") || !strcmp(f->field, "commitment")));
}

/* A third that shows each maker another header than was asked for. */
static Result lying_third(int pipe, void *ctx)
{
    Buffer header = {0};
    Listener *l;
    PoolAbout good;
    about_good(&good);
    GUARD(listener_open(&l, "127.0.0.1", 0));
    announce(&pipe, listener_port(l));
    for (size_t i = 0; i < FORGED; i++) {
        Channel *c;
        size_t which;
        ThirdHello h;
        GUARD(channel_accept(&c, &which, l, &third_id, (const uint8_t (*)[32])ctx, 1, 10));
        GUARD(third_hello_receive(c, &h));
        GUARD(message_send(c, h.role == ROLE_CLIENT ? MSG_WAITING : MSG_GO));
        forge(&header, &good, &forged[i]);
        GUARD(pool_header_send(c, &header));
        channel_timeout(c, field_free(&forged[i], h.role) ? 0.3 : 20);
        Buffer rest = {0};
        Result r = OK;
        while (!failed(r)) {                                           // the provider's setup, its tape, then that it goes
            r = channel_receive(c, &rest, 1 << 24);
            bool tape = !failed(r) && rest.len == 1 && rest.data[0] == MSG_RESERVED;
            if (tape && link(in_folder("forged.tape"), in_folder("forged.kept")) != 0) return fail(FAIL_SYSTEM, "no link");
        }
        buffer_free(&rest);
        channel_close(c);
    }
    listener_close(l);
    buffer_free(&header);
    return OK;
}

/* What the disk has of the tape of a pool that was not made. */
static bool forged_tape_is_erased(void)
{
    Buffer left = {0};
    CHECK_OK(file_read(&left, in_folder("forged.kept"), 1 << 16));
    size_t i = 0;
    while (i < left.len && left.data[i] == 0) i++;
    bool zeros = i == left.len && i > 0;
    buffer_free(&left);
    return unlink(in_folder("forged.kept")) == 0 && zeros;
}

TEST(makers_check_every_field)
{
    setup();
    for (int side = 0; side < 2; side++) {
        process_start(&third, "lying", lying_third, side ? provider_id.public_key : client_id.public_key);
        process_port(&third);
        Address a = third_address(third.port);
        for (size_t i = 0; i < FORGED; i++) {
            const char *tape = in_folder("forged.tape"), *why = forged[i].maker;
            Result r = side ? provider_pool(&bundle, &provider_id, &a, client_id.public_key, pool_name, 3, 0, tape)
                            : client_pool(&bundle, &client_id, &a, provider_id.public_key, pool_name, 3, tape);
            bool goes_on = field_free(&forged[i], side ? ROLE_SERVER : ROLE_CLIENT);
            CHECK_FAILS(r, goes_on ? "third" : why);
            CHECK(!file_exists(tape));
            CHECK(file_exists(in_folder("forged.kept")) == goes_on);
            CHECK(!goes_on || forged_tape_is_erased());
        }
        process_end(&third, "fine");
        unlink(in_folder("lying.out"));
    }
}

/* A provider that shows another header than that of the client's tape, in any field. */
static Result lying_provider(int pipe, void *ctx)
{
    const PoolAbout *good = ctx;
    Buffer header = {0};
    Listener *l;
    GUARD(listener_open(&l, "127.0.0.1", 0));
    announce(&pipe, listener_port(l));
    for (size_t i = 0; i < FORGED; i++) {
        Channel *c;
        size_t which;
        ClientHello h;
        ProviderHello mine = {0};
        GUARD(channel_accept(&c, &which, l, &provider_id, (const uint8_t (*)[32])client_id.public_key, 1, 10));
        GUARD(client_hello_receive(c, &h));
        forge(&header, good, &forged[i]);
        memcpy(mine.header, header.data, mine.header_len = header.len);
        memcpy(mine.session, h.session, sizeof mine.session);
        memcpy(mine.commitment, good->commitment, sizeof mine.commitment);
        mine.agreement = h.agreement;
        GUARD(provider_hello_send(c, &mine));
        Buffer rest = {0};
        if (!failed(channel_receive(c, &rest, 1 << 10))) return fail(FAIL_PEER, "the client went on");
        buffer_free(&rest);
        channel_close(c);
    }
    listener_close(l);
    buffer_free(&header);
    return OK;
}

TEST(client_checks_every_field)
{
    setup();
    PoolAbout good;
    Buffer header = {0};
    about_good(&good);
    forge(&header, &good, NULL);
    CHECK_OK(tape_create(in_folder("client.tape"), header.data, header.len, "client", (uint8_t[KEY_BYTES]){9}, 3));
    process_start(&provider, "lying", lying_provider, &good);
    process_port(&provider);
    for (size_t i = 0; i < FORGED; i++) client_refuses("the pool differs: the provider's is not the one of this tape");
    process_end(&provider, "fine");
    buffer_free(&header);
}

// ---- what the third keeps --------------------------------------------------------------------------------------------

static uint8_t wanted[4][KEY_BYTES];           // seeds and first keys, each byte inverted: the search must not find itself
static size_t wanted_count;

static void want(const uint8_t key[KEY_BYTES])
{
    for (size_t k = 0; k < KEY_BYTES; k++) wanted[wanted_count][k] = (uint8_t)~key[k];
    wanted_count++;
}

static bool key_at(const uint8_t *p, const uint8_t inverted[KEY_BYTES])
{
    for (size_t k = 0; k < KEY_BYTES; k++) if ((p[k] ^ inverted[k]) != 0xFF) return false;
    return true;
}

static size_t wanted_in_memory(void)           // of this process, wherever it can write
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512], mode[8];
    unsigned long begin, end;
    size_t found = 0;
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx %7s", &begin, &end, mode) != 3 || mode[0] != 'r' || mode[1] != 'w' || strstr(line, "[v")) continue;
        for (const uint8_t *p = (const uint8_t *)begin; p + KEY_BYTES <= (const uint8_t *)end; p++)
            for (size_t i = 0; i < wanted_count; i++) found += key_at(p, wanted[i]);
    }
    fclose(maps);
    return found;
}

static Result forgetful_third(int pipe, void *ctx)
{
    GUARD(third_main(pipe, ctx));
    int ready;
    while ((ready = open(in_folder("wanted"), O_RDONLY)) < 0) usleep(1000);            // the parent knows the seeds from the tapes
    CHECK(read(ready, wanted, sizeof wanted) == sizeof wanted);
    wanted_count = 4;
    close(ready);
    size_t found = wanted_in_memory();
    return found ? fail(FAIL_DATA, "%zu keys are still in the memory of the third", found) : fail(FAIL_DATA, "forgotten");
}

TEST(third_forgets_what_it_has_written)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("a sanitizer's own memory cannot be searched");
#endif
    setup();
    Setup s = {.pool = in_folder("pool")};
    Process making, dealer;
    process_start(&dealer, "dealer", forgetful_third, &s);
    process_port(&dealer);
    Making m = {dealer.port, 8};
    process_start(&making, "making", making_main, &m);
    Address a = third_address(dealer.port);
    CHECK_OK(client_pool(&bundle, &client_id, &a, provider_id.public_key, pool_name, 8, in_folder("client.tape")));
    process_end(&making, "fine");
    for (size_t side = 0; side < 2; side++) {
        Buffer b = {0};
        Tape *t;
        uint8_t first[1][KEY_BYTES];
        CHECK_OK(file_read(&b, in_folder(tape_names[side]), 1 << 12));
        const uint8_t *seed = b.data + b.len - HASH_BYTES - KEY_BYTES;                 // k(0), of a tape that is unused
        tape_live(&t, seed, 8);
        CHECK_OK(tape_reserve(t, 0, 1, first));
        tape_close(t);
        want(seed), want(first[0]);
        CHECK(wanted_in_memory() >= 1);                                              // the search finds what is there: b and first
        buffer_free(&b);
    }
    CHECK_OK(file_write(in_folder("wanted.part"), wanted, sizeof wanted, 0600));
    CHECK(rename(in_folder("wanted.part"), in_folder("wanted")) == 0);
    process_end(&dealer, "forgotten");
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
