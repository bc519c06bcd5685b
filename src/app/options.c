/* options.c - command lines, read strictly: a misspelt or repeated option is an error, never a guess. */
#include "app/app.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const setting_choices[] = {"plain", "clear", "dealer", "3pc", "2pc", NULL};
const char *const prefer_names[] = {"exchanges", "bytes", NULL};
const char *const private_names[] = {"lora", "layers", NULL};

static Result read_uint(uint64_t *out, const Option *o, const char *text)
{
    char *end = NULL;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    bool digits = *text >= '0' && *text <= '9' && !*end && errno == 0;         // strtoull would take signs and spaces
    if (!digits || (double)v < o->min || (o->max > 0 && (double)v > o->max)) {
        if (o->max > 0) return fail(FAIL_USE, "%s must be a whole number from %.0f to %.0f, not '%s'", o->name, o->min, o->max, text);
        return fail(FAIL_USE, "%s must be a whole number of at least %.0f, not '%s'", o->name, o->min, text);
    }
    *out = v;
    return OK;
}

static Result read_real(double *out, const Option *o, const char *text)
{
    char *end = NULL;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < o->min || v > o->max)
        return fail(FAIL_USE, "%s must be a number from %g to %g, not '%s'", o->name, o->min, o->max, text);
    *out = v;
    return OK;
}

static Result read_choice(unsigned *out, const Option *o, const char *text)
{
    char names[256] = "";
    for (unsigned i = 0; o->choices[i]; i++) {
        if (!strcmp(o->choices[i], text)) return *out = i, OK;
        size_t at = strlen(names);
        snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", o->choices[i]);
    }
    return fail(FAIL_USE, "%s is one of %s, not '%s'", o->name, names, text);
}

/* HOST:PORT, an IPv6 host in brackets. The text is cut in place: the host points into it. */
static Result read_address(Address *out, const Option *o, char *text)
{
    char *colon = strrchr(text, ':');
    uint64_t port = 0;
    Option number = {.name = "port", .max = 65535};
    if (!colon || colon == text || failed(read_uint(&port, &number, colon + 1)))
        return fail(FAIL_USE, "%s must be HOST:PORT, not '%s'", o->name, text);
    *colon = 0;
    size_t len = strlen(text);
    if (*text == '[' && text[len - 1] == ']') text[len - 1] = 0, text++;
    out->host = text, out->port = (uint16_t)port;
    return OK;
}

static Result read_key(uint8_t *out, size_t len, const Option *o, const char *text)
{
    if (!hex_decode(out, len, text)) return fail(FAIL_USE, "%s must be %zu hex digits, not '%s'", o->name, 2 * len, text);
    return OK;
}

static Result read_value(Option *o, char *text)
{
    Keys *keys = o->to;
    switch (o->kind) {
    case OPT_TEXT: *(const char **)o->to = text; return OK;
    case OPT_UINT: return read_uint(o->to, o, text);
    case OPT_REAL: return read_real(o->to, o, text);
    case OPT_CHOICE: return read_choice(o->to, o, text);
    case OPT_ADDRESS: return read_address(o->to, o, text);
    case OPT_KEY: return read_key(o->to, o->len ? o->len : 32, o, text);
    case OPT_KEYS:
        if (keys->count == MOST_KEYS) return fail(FAIL_USE, "%s is given more than %d times", o->name, MOST_KEYS);
        return read_key(keys->key[keys->count++], 32, o, text);
    case OPT_FLAG: break;
    }
    bug("option %s", o->name);
}

static Option *option_find(Option *options, size_t count, const char *name, size_t len)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(options[i].name) == len && !memcmp(options[i].name, name, len)) return &options[i];
    return NULL;
}

static Result read_named(Option *options, size_t count, int argc, char **argv, int *at)
{
    char *text = argv[*at], *equals = strchr(text, '=');
    size_t len = equals ? (size_t)(equals - text) : strlen(text);
    Option *o = option_find(options, count, text, len);
    if (!o) return fail(FAIL_USE, "unknown option %.*s", (int)(len < 100 ? len : 100), text);
    if (o->given && o->kind != OPT_KEYS) return fail(FAIL_USE, "%s is given twice", o->name);
    o->given = true;
    if (o->kind == OPT_FLAG) {
        if (equals) return fail(FAIL_USE, "%s takes no value", o->name);
        *(bool *)o->to = true;
        return OK;
    }
    if (equals) return read_value(o, equals + 1);
    if (*at + 1 >= argc) return fail(FAIL_USE, "%s needs a value", o->name);
    return read_value(o, argv[++*at]);
}

Result options_parse(Option *options, size_t count, int argc, char **argv)
{
    size_t place = 0;
    for (int at = 0; at < argc; at++) {
        if (argv[at][0] == '-' && argv[at][1]) {
            GUARD(read_named(options, count, argc, argv, &at));
            continue;
        }
        while (place < count && options[place].name[0] == '-') place++;
        if (place == count) return fail(FAIL_USE, "unexpected argument '%s'", argv[at]);
        options[place].given = true;
        GUARD(read_value(&options[place++], argv[at]));
    }
    for (size_t i = 0; i < count; i++)
        if (options[i].required && !options[i].given) return fail(FAIL_USE, "%s is missing", options[i].name);
    return OK;
}

bool option_given(const Option *options, const char *name)
{
    while (strcmp(options->name, name) != 0) options++;
    return options->given;
}

Result setting_choose(Setting *out, unsigned choice)
{
    return setting_parse(out, setting_names[choice]);
}
