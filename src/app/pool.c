/* pool.c - what is left of a pool: read from either party's half, which may be in use meanwhile. */
#include "app/app.h"

#include <string.h>

const char pool_usage[] =
    "show TAPE\n"
    "       marill pool show POOL --third-key HEX [--tape TAPE]\n"
    "  TAPE                         a client's or a provider's: what is left in tokens, and of which pool\n"
    "  POOL                         the file that the third wrote and signed; with the provider's tape, what is left of it\n"
    "Nothing is opened for use or changed.\n";

static void show_key(const char *what, const uint8_t *key, size_t len)
{
    char hex[65];
    hex_encode(hex, key, len);
    printf("%-16s %s\n", what, hex);
}

static void show_about(const PoolAbout *a)
{
    char size[32];
    show_key("pool", a->name, 16);
    printf("%-16s %llu\n%-16s %s\n%-16s %llu\n", "tokens", (unsigned long long)a->positions, "size", bytes_text(size, a->bytes), "epoch",
           (unsigned long long)a->epoch);
    show_key("client", a->client, 32);
    show_key("provider", a->provider, 32);
    show_key("third", a->third, 32);
    show_key("public model", a->public_model, 32);
    show_key("private part", a->commitment, 32);
    show_key("plan", a->plan, 32);
}

/* A pool serves one conversation, which takes all of it when it begins: what is left is all or nothing. */
static void show_left(const TapeAbout *t)
{
    printf("%-16s %s's\n%-16s %llu%s\n", "half", t->role, "left", (unsigned long long)(t->copy ? 0 : t->segments - t->mark),
           t->copy ? " (a copy, or restored from one: it is refused)" : t->mark ? " (used)" : "");
}

static Result show_tape(const char *path)
{
    TapeAbout t;
    PoolAbout a;
    GUARD(tape_about(&t, path));
    GUARD(fail_in(pool_about(&a, t.header, t.header_len), "%s", path));
    show_about(&a);
    show_left(&t);
    return OK;
}

static Result show_opened(const Pool *p, const char *path, const char *tape)
{
    const uint8_t *header;
    size_t len;
    TapeAbout t;
    PoolAbout a;
    uint8_t hash[HASH_BYTES];
    pool_header(p, &header, &len);
    hash_bytes(hash, header, len);
    GUARD(fail_in(pool_about(&a, header, len), "%s", path));
    if (tape) GUARD(tape_about(&t, tape));
    if (tape && memcmp(t.id, hash, sizeof hash) != 0) return fail(FAIL_DATA, "%s: is not a tape of %s", tape, path);
    show_about(&a);
    if (tape) show_left(&t);
    else printf("What is left of it, the tapes of the provider and of the client say.\n");
    return OK;
}

Result pool_command(int argc, char **argv)
{
    const char *verb = NULL, *path = NULL, *tape = NULL;
    uint8_t third[32];
    Pool *p;
    Option options[] = {
        OPTION("show", OPT_TEXT, &verb, .required = true),
        OPTION("FILE", OPT_TEXT, &path, .required = true),
        OPTION("--third-key", OPT_KEY, third),
        OPTION("--tape", OPT_TEXT, &tape),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    if (strcmp(verb, "show") != 0) return fail(FAIL_USE, "'%s' is not 'show'", verb);
    if (!option_given(options, "--third-key")) return tape ? fail(FAIL_USE, "--tape goes with a pool and --third-key") : show_tape(path);
    GUARD(pool_open(&p, path, third));
    Result r = show_opened(p, path, tape);
    pool_close(p);
    return r;
}
