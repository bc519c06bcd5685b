/* json.h - JSON documents, read with suspicion and written plainly.
 *
 * Reading refuses what invites two readings: duplicate keys, text after the end, NULs, numbers outside of the range that
 * the caller names, nesting deeper than JSON_DEPTH. Every failure names the key. A key whose value is null counts as
 * absent, as in the files of Hugging Face.
 *
 * A root is owned by who parsed or made it and is freed with json_free; everything reached from it lives as long.
 * The only user of the jansson library is json.c. */
#ifndef MARILL_JSON_H
#define MARILL_JSON_H

#include "base/base.h"

#define JSON_DEPTH 64

typedef struct Json Json;                      // a value of any kind
typedef enum { KIND_ABSENT, KIND_OBJECT, KIND_ARRAY, KIND_TEXT, KIND_INTEGER, KIND_REAL, KIND_BOOL } JsonKind;

// ---- reading ---------------------------------------------------------------------------------------------------------

/* The document must be one object or one array. *out is NULL after a failure. */
CHECKED Result json_parse(Json **out, const char *text, size_t len);
CHECKED Result json_read(Json **out, const char *path, size_t limit);        // failures name the path
void json_free(Json *root);                                                   // NULL is fine

JsonKind json_kind(const Json *v);                            // KIND_ABSENT for NULL and for null
size_t json_count(const Json *v);                             // members of an object or array; else 0
const Json *json_at(const Json *array, size_t i);
const Json *json_find(const Json *object, const char *key);   // NULL if absent or null

/* for (JsonEach e = {0}; json_each(object, &e);) ... e.key, e.value: in the order of the file. */
typedef struct JsonEach { const char *key; const Json *value; void *place; } JsonEach;
bool json_each(const Json *object, JsonEach *e);

/* The value as what it must be; `name` is for the failure. Bounds are inclusive. An integer is a real, too. */
CHECKED Result json_as_uint(uint64_t *out, const Json *v, const char *name, uint64_t min, uint64_t max);
CHECKED Result json_as_int(int64_t *out, const Json *v, const char *name, int64_t min, int64_t max);
CHECKED Result json_as_real(double *out, const Json *v, const char *name, double min, double max);
CHECKED Result json_as_bool(bool *out, const Json *v, const char *name);
CHECKED Result json_as_text(const char **out, const Json *v, const char *name);

/* A member that must be there. */
CHECKED Result json_get_uint(uint64_t *out, const Json *o, const char *key, uint64_t min, uint64_t max);
CHECKED Result json_get_u32(uint32_t *out, const Json *o, const char *key, uint32_t min, uint32_t max);
CHECKED Result json_get_int(int64_t *out, const Json *o, const char *key, int64_t min, int64_t max);
CHECKED Result json_get_real(double *out, const Json *o, const char *key, double min, double max);
CHECKED Result json_get_bool(bool *out, const Json *o, const char *key);
CHECKED Result json_get_text(const char **out, const Json *o, const char *key);
CHECKED Result json_get_object(const Json **out, const Json *o, const char *key);
CHECKED Result json_get_array(const Json **out, const Json *o, const char *key, size_t max_count);

/* A member that may be absent. */
CHECKED Result json_get_u32_or(uint32_t *out, const Json *o, const char *key, uint32_t min, uint32_t max, uint32_t otherwise);
CHECKED Result json_get_real_or(double *out, const Json *o, const char *key, double min, double max, double otherwise);
CHECKED Result json_get_bool_or(bool *out, const Json *o, const char *key, bool otherwise);
CHECKED Result json_get_text_or(const char **out, const Json *o, const char *key, const char *otherwise);

// ---- writing ---------------------------------------------------------------------------------------------------------

Json *json_new_object(void);
Json *json_new_array(void);
Json *json_of_uint(uint64_t v);                               // at most INT64_MAX
Json *json_of_int(int64_t v);
Json *json_of_real(double v);                                 // finite
Json *json_of_float(float v);                                 // the shortest decimal that reads back as v
Json *json_of_bool(bool v);
Json *json_of_text(const char *text);                         // bytes that are not UTF-8 become U+FFFD
void json_put(Json *object, const char *key, Json *v);        // takes v; a key is set once
void json_add(Json *array, Json *v);                          // takes v

/* Appends the text of v, members in the order they were put, one a line if indent > 0. Reals have `digits` significant
 * digits: 17 keeps every double, 15 keeps decimals as they were written. */
void json_print(Buffer *out, const Json *v, unsigned indent, unsigned digits);
CHECKED Result json_write(const Json *v, const char *path);   // indented, 17 digits, a newline at the end

#endif
