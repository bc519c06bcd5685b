/* json.c - the wrapper around jansson, which alone knows that library.
 *
 * Json is jansson's json_t under another name. Running out of memory while building is a bug-class abort, as for arenas;
 * while parsing it is a failure like any other, since the text is foreign. */
#include "model/json.h"

#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model/model.h"

static json_t *inner(const Json *v) { return (json_t *)(uintptr_t)v; }
static Json *outer(json_t *v)
{
    if (!v) bug("json: out of memory, or a value that JSON cannot hold");
    return (Json *)v;
}

// ---- reading ---------------------------------------------------------------------------------------------------------

/* jansson stops at 2,048 levels; nothing that Marill reads needs more than a few, and freeing recurses as well. */
static bool depth_within(const char *text, size_t len, unsigned limit)
{
    unsigned depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') i++;
            else if (c == '"') quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            if (++depth > limit) return false;
        } else if ((c == '}' || c == ']') && depth) {
            depth--;
        }
    }
    return true;
}

Result json_parse(Json **out, const char *text, size_t len)
{
    *out = NULL;
    if (!depth_within(text, len, JSON_DEPTH)) return fail(FAIL_DATA, "JSON is nested deeper than %d levels", JSON_DEPTH);
    json_error_t e;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
    if (!root) return fail(FAIL_DATA, "not JSON: line %d: %s", e.line, e.text);
    *out = (Json *)root;
    return OK;
}

Result json_read(Json **out, const char *path, size_t limit)
{
    *out = NULL;
    Buffer text = {0};
    Result r = file_read(&text, path, limit);
    if (!failed(r)) {
        r = json_parse(out, (const char *)text.data, text.len);
        if (failed(r)) r = fail_in(r, "%s", path);
    }
    buffer_free(&text);
    return r;
}

void json_free(Json *root) { json_decref(inner(root)); }

JsonKind json_kind(const Json *v)
{
    if (!v) return KIND_ABSENT;
    switch (json_typeof(inner(v))) {
    case JSON_OBJECT: return KIND_OBJECT;
    case JSON_ARRAY: return KIND_ARRAY;
    case JSON_STRING: return KIND_TEXT;
    case JSON_INTEGER: return KIND_INTEGER;
    case JSON_REAL: return KIND_REAL;
    case JSON_TRUE:
    case JSON_FALSE: return KIND_BOOL;
    case JSON_NULL: return KIND_ABSENT;
    }
    return KIND_ABSENT;
}

size_t json_count(const Json *v)
{
    JsonKind k = json_kind(v);
    return k == KIND_OBJECT ? json_object_size(inner(v)) : k == KIND_ARRAY ? json_array_size(inner(v)) : 0;
}

const Json *json_at(const Json *array, size_t i)
{
    ASSERT(json_kind(array) == KIND_ARRAY && i < json_array_size(inner(array)));
    return (const Json *)json_array_get(inner(array), i);
}

const Json *json_find(const Json *object, const char *key)
{
    if (json_kind(object) != KIND_OBJECT) return NULL;
    const Json *v = (const Json *)json_object_get(inner(object), key);
    return json_kind(v) == KIND_ABSENT ? NULL : v;
}

bool json_each(const Json *object, JsonEach *e)
{
    if (json_kind(object) != KIND_OBJECT) return false;
    e->place = e->place ? json_object_iter_next(inner(object), e->place) : json_object_iter(inner(object));
    if (!e->place) return false;
    e->key = json_object_iter_key(e->place);
    e->value = (const Json *)json_object_iter_value(e->place);
    return true;
}

static Result mismatch(const Json *v, const char *name, const char *wanted)
{
    static const char *const kinds[] = {"absent", "an object", "an array", "a text", "an integer", "a real", "a truth value"};
    return fail(FAIL_DATA, "%s is %s, not %s", name, kinds[json_kind(v)], wanted);
}

Result json_as_int(int64_t *out, const Json *v, const char *name, int64_t min, int64_t max)
{
    if (json_kind(v) != KIND_INTEGER) return mismatch(v, name, "an integer");
    int64_t got = json_integer_value(inner(v));
    if (got < min || got > max) {
        return fail(FAIL_DATA, "%s is %lld, outside of %lld..%lld", name, (long long)got, (long long)min, (long long)max);
    }
    *out = got;
    return OK;
}

Result json_as_uint(uint64_t *out, const Json *v, const char *name, uint64_t min, uint64_t max)
{
    int64_t got = 0, most = max > INT64_MAX ? INT64_MAX : (int64_t)max;
    GUARD(json_as_int(&got, v, name, min > INT64_MAX ? INT64_MAX : (int64_t)min, most));
    *out = (uint64_t)got;
    return OK;
}

Result json_as_real(double *out, const Json *v, const char *name, double min, double max)
{
    JsonKind k = json_kind(v);
    if (k != KIND_INTEGER && k != KIND_REAL) return mismatch(v, name, "a number");
    double got = json_number_value(inner(v));
    if (!(got >= min && got <= max)) return fail(FAIL_DATA, "%s is %g, outside of %g..%g", name, got, min, max);
    *out = got;
    return OK;
}

Result json_as_bool(bool *out, const Json *v, const char *name)
{
    if (json_kind(v) != KIND_BOOL) return mismatch(v, name, "a truth value");
    *out = json_typeof(inner(v)) == JSON_TRUE;
    return OK;
}

Result json_as_text(const char **out, const Json *v, const char *name)
{
    if (json_kind(v) != KIND_TEXT) return mismatch(v, name, "a text");
    *out = json_string_value(inner(v));
    return OK;
}

Result json_get_uint(uint64_t *out, const Json *o, const char *key, uint64_t min, uint64_t max)
{
    return json_as_uint(out, json_find(o, key), key, min, max);
}

Result json_get_u32(uint32_t *out, const Json *o, const char *key, uint32_t min, uint32_t max)
{
    uint64_t v = 0;
    GUARD(json_get_uint(&v, o, key, min, max));
    *out = (uint32_t)v;
    return OK;
}

Result json_get_int(int64_t *out, const Json *o, const char *key, int64_t min, int64_t max)
{
    return json_as_int(out, json_find(o, key), key, min, max);
}

Result json_get_real(double *out, const Json *o, const char *key, double min, double max)
{
    return json_as_real(out, json_find(o, key), key, min, max);
}

Result json_get_bool(bool *out, const Json *o, const char *key) { return json_as_bool(out, json_find(o, key), key); }
Result json_get_text(const char **out, const Json *o, const char *key) { return json_as_text(out, json_find(o, key), key); }

Result json_get_object(const Json **out, const Json *o, const char *key)
{
    *out = json_find(o, key);
    return json_kind(*out) == KIND_OBJECT ? OK : mismatch(*out, key, "an object");
}

Result json_get_array(const Json **out, const Json *o, const char *key, size_t max_count)
{
    *out = json_find(o, key);
    if (json_kind(*out) != KIND_ARRAY) return mismatch(*out, key, "an array");
    if (json_count(*out) > max_count) return fail(FAIL_DATA, "%s has more than %zu elements", key, max_count);
    return OK;
}

Result json_get_u32_or(uint32_t *out, const Json *o, const char *key, uint32_t min, uint32_t max, uint32_t otherwise)
{
    if (json_find(o, key)) return json_get_u32(out, o, key, min, max);
    *out = otherwise;
    return OK;
}

Result json_get_real_or(double *out, const Json *o, const char *key, double min, double max, double otherwise)
{
    if (json_find(o, key)) return json_get_real(out, o, key, min, max);
    *out = otherwise;
    return OK;
}

Result json_get_bool_or(bool *out, const Json *o, const char *key, bool otherwise)
{
    if (json_find(o, key)) return json_get_bool(out, o, key);
    *out = otherwise;
    return OK;
}

Result json_get_text_or(const char **out, const Json *o, const char *key, const char *otherwise)
{
    if (json_find(o, key)) return json_get_text(out, o, key);
    *out = otherwise;
    return OK;
}

// ---- writing ---------------------------------------------------------------------------------------------------------

Json *json_new_object(void) { return outer(json_object()); }
Json *json_new_array(void) { return outer(json_array()); }
Json *json_of_int(int64_t v) { return outer(json_integer(v)); }
Json *json_of_real(double v) { return outer(json_real(v)); }
Json *json_of_bool(bool v) { return outer(json_boolean(v)); }

Json *json_of_uint(uint64_t v)
{
    ASSERT(v <= INT64_MAX);
    return json_of_int((int64_t)v);
}

Json *json_of_float(float v)
{
    char text[32];
    for (int digits = 1; digits <= FLT_DECIMAL_DIG; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        double short_form = strtod(text, NULL);
        if ((float)short_form == v) return json_of_real(short_form);
    }
    return json_of_real((double)v);            // NaN and infinity, which json_of_real aborts on
}

Json *json_of_text(const char *text)
{
    size_t len = strlen(text), at = 0;
    Buffer clean = {0};
    while (at < len) {
        size_t good = utf8_invalid_at((const uint8_t *)text + at, len - at);
        buffer_append(&clean, text + at, good);
        at += good;
        if (at < len) buffer_append(&clean, "\xEF\xBF\xBD", 3), at++;
    }
    Json *v = outer(json_stringn(clean.len ? (const char *)clean.data : "", clean.len));
    buffer_free(&clean);
    return v;
}

void json_put(Json *object, const char *key, Json *v)
{
    ASSERT(!json_object_get(inner(object), key));
    if (json_object_set_new(inner(object), key, inner(v)) != 0) bug("json: cannot put '%s'", key);
}

void json_add(Json *array, Json *v)
{
    if (json_array_append_new(inner(array), inner(v)) != 0) bug("json: cannot add to an array");
}

static int print_piece(const char *text, size_t len, void *ctx)
{
    buffer_append(ctx, text, len);
    return 0;
}

void json_print(Buffer *out, const Json *v, unsigned indent, unsigned digits)
{
    size_t flags = JSON_INDENT(indent) | JSON_REAL_PRECISION(digits) | (indent ? 0 : JSON_COMPACT) | JSON_ENCODE_ANY;
    if (json_dump_callback(inner(v), print_piece, out, flags) != 0) bug("json: cannot print");
}

Result json_write(const Json *v, const char *path)
{
    Buffer text = {0};
    json_print(&text, v, 1, 17);
    buffer_u8(&text, '\n');
    Result r = file_write(path, text.data, text.len, 0644);
    buffer_free(&text);
    return r;
}
