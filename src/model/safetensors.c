/* safetensors.c - reading and writing tensor files. See safetensors.h. */
#include "model/safetensors.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model/json.h"

enum { HEADER_LIMIT = 64 << 20, NAME_LIMIT = 256, DIMS_LIMIT = 8 };

// ---- the header ------------------------------------------------------------------------------------------------------

static size_t type_size(TensorType t) { return t == TENSOR_F32 ? 4 : 2; }

static Result tensor_parse_type(Tensor *t, const Json *entry)
{
    const char *name;
    GUARD(json_get_text(&name, entry, "dtype"));
    if (strcmp(name, "F32") == 0) t->type = TENSOR_F32;
    else if (strcmp(name, "BF16") == 0) t->type = TENSOR_BF16;
    else return fail(FAIL_DATA, "dtype '%s' is not supported, only F32 and BF16", name);
    return OK;
}

/* Elements are counted with a limit of what the data could hold, so that no product overflows. */
static Result tensor_parse_shape(Tensor *t, const Json *entry, uint64_t limit)
{
    const Json *list;
    GUARD(json_get_array(&list, entry, "shape", DIMS_LIMIT));
    t->dims = (unsigned)json_count(list);
    t->count = 1;
    t->shape[0] = t->shape[1] = 1;
    for (unsigned i = 0; i < t->dims; i++) {
        uint64_t n = 0;
        GUARD(json_as_uint(&n, json_at(list, i), "shape", 1, UINT64_MAX));
        if (n > limit / t->count) return fail(FAIL_DATA, "shape has more elements than the file");
        t->count *= n;
        if (t->dims == 1) t->shape[1] = n;
        else if (i < 2) t->shape[i] = n;
    }
    return OK;
}

static Result tensor_parse(Tensor *t, const Json *entry, const uint8_t *data, size_t len)
{
    const Json *ends;
    uint64_t begin = 0, end = 0;
    if (json_kind(entry) != KIND_OBJECT) return fail(FAIL_DATA, "not described by an object");
    GUARD(tensor_parse_type(t, entry));
    GUARD(tensor_parse_shape(t, entry, len / type_size(t->type)));
    GUARD(json_get_array(&ends, entry, "data_offsets", 2));
    if (json_count(ends) != 2) return fail(FAIL_DATA, "data_offsets is not a pair");
    GUARD(json_as_uint(&begin, json_at(ends, 0), "data_offsets", 0, UINT64_MAX));
    GUARD(json_as_uint(&end, json_at(ends, 1), "data_offsets", 0, UINT64_MAX));
    if (begin > end || end > len) {
        return fail(FAIL_DATA, "data_offsets %llu..%llu do not fit the file's %zu bytes of data", (unsigned long long)begin,
                    (unsigned long long)end, len);
    }
    if (end - begin != t->count * type_size(t->type)) {
        return fail(FAIL_DATA, "data_offsets span %llu bytes, but the shape needs %llu", (unsigned long long)(end - begin),
                    (unsigned long long)(t->count * type_size(t->type)));
    }
    t->data = data + begin;
    return OK;
}

static int tensor_by_place(const void *a, const void *b)
{
    const Tensor *x = a, *y = b;
    return x->data < y->data ? -1 : x->data > y->data;
}

static int tensor_by_name(const void *a, const void *b) { return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name); }

/* Sorts by place and checks that the tensors lie end to end over all of the data. */
static Result tensors_check_tiling(TensorFile *f, const uint8_t *data, size_t len)
{
    if (f->count) qsort(f->tensor, f->count, sizeof *f->tensor, tensor_by_place);
    const uint8_t *at = data;
    for (size_t i = 0; i < f->count; i++) {
        const Tensor *t = &f->tensor[i];
        if (t->data < at) return fail(FAIL_DATA, "tensor '%s' overlaps tensor '%s'", t->name, f->tensor[i - 1].name);
        if (t->data > at) return fail(FAIL_DATA, "%zu bytes before tensor '%s' belong to no tensor", (size_t)(t->data - at), t->name);
        at += t->count * type_size(t->type);
    }
    if (at != data + len) return fail(FAIL_DATA, "%zu bytes at the end belong to no tensor", (size_t)(data + len - at));
    return OK;
}

static Result tensors_parse_header(TensorFile *out, const Json *root, const uint8_t *data, size_t len, Arena *a)
{
    if (json_kind(root) != KIND_OBJECT) return fail(FAIL_DATA, "the header is not an object");
    out->tensor = arena_new(a, Tensor, json_count(root) + 1);
    for (JsonEach e = {0}; json_each(root, &e);) {
        if (strcmp(e.key, "__metadata__") == 0) continue;
        if (strlen(e.key) > NAME_LIMIT) return fail(FAIL_DATA, "a tensor name is longer than %d bytes", NAME_LIMIT);
        Tensor *t = &out->tensor[out->count];
        Result r = tensor_parse(t, e.value, data, len);
        if (failed(r)) return fail_in(r, "tensor '%s'", e.key);
        t->name = arena_string(a, e.key);
        out->count++;
    }
    GUARD(tensors_check_tiling(out, data, len));
    if (out->count) qsort(out->tensor, out->count, sizeof *out->tensor, tensor_by_name);
    return OK;
}

Result tensors_parse(TensorFile *out, const uint8_t *data, size_t len, Arena *a)
{
    Cursor c = {data, len, 0, "tensor file"};
    const uint8_t *header;
    uint64_t size = 0;
    Json *root;
    *out = (TensorFile){0};
    GUARD(cursor_u64(&c, &size));
    if (size > HEADER_LIMIT || size > len - c.at) {
        return fail(FAIL_DATA, "header of %llu bytes does not fit the file", (unsigned long long)size);
    }
    GUARD(cursor_take(&c, &header, (size_t)size));
    Result r = json_parse(&root, (const char *)header, (size_t)size);
    if (failed(r)) return fail_in(r, "header");
    r = tensors_parse_header(out, root, data + c.at, len - c.at, a);
    json_free(root);
    return r;
}

// ---- the tensors -----------------------------------------------------------------------------------------------------

static Tensor *tensors_find(const TensorFile *f, const char *name)
{
    Tensor key = {.name = name};
    return f->count ? bsearch(&key, f->tensor, f->count, sizeof key, tensor_by_name) : NULL;
}

bool tensors_have(const TensorFile *f, const char *name) { return tensors_find(f, name) != NULL; }

/* Checks a range of a tensor for NaN and infinity, and expands it where it is copied. */
typedef struct TensorJob { const Tensor *t; float *copy; atomic_bool bad; } TensorJob;

static void tensor_job(void *ctx, size_t begin, size_t end)
{
    TensorJob *job = ctx;
    bool wide = job->t->type == TENSOR_F32, bad = false;
    for (size_t i = begin; i < end; i++) {
        uint32_t bits;
        uint16_t half;
        if (wide) memcpy(&bits, job->t->data + 4 * i, 4);
        else memcpy(&half, job->t->data + 2 * i, 2), bits = (uint32_t)half << 16;
        bad |= (bits & 0x7F800000u) == 0x7F800000u;
        if (job->copy) memcpy(job->copy + i, &bits, 4);
    }
    if (bad) atomic_store(&job->bad, true);
}

static void shape_print(char out[48], unsigned dims, uint64_t rows, uint64_t cols)
{
    if (dims == 2) snprintf(out, 48, "(%llu, %llu)", (unsigned long long)rows, (unsigned long long)cols);
    else if (dims == 1) snprintf(out, 48, "(%llu)", (unsigned long long)cols);
    else snprintf(out, 48, "of %u dimensions", dims);
}

static Result tensor_check_shape(const Tensor *t, uint64_t rows, uint64_t cols)
{
    unsigned dims = rows ? 2 : 1;
    if (t->dims == dims && (!rows || t->shape[0] == rows) && t->shape[1] == cols) return OK;
    char want[48], got[48];
    shape_print(want, dims, rows, cols);
    shape_print(got, t->dims, t->shape[0], t->shape[1]);
    return fail(FAIL_DATA, "tensor '%s' has shape %s, not %s", t->name, got, want);
}

Result tensors_take(const float **out, TensorFile *f, const char *name, uint64_t rows, uint64_t cols, bool copy, Arena *a)
{
    Tensor *t = tensors_find(f, name);
    if (!t) return fail(FAIL_DATA, "tensor '%s' is missing", name);
    GUARD(tensor_check_shape(t, rows, cols));
    if (t->type != TENSOR_F32 || (uintptr_t)t->data % _Alignof(float) != 0) copy = true;
    TensorJob job = {.t = t, .copy = copy ? arena_new(a, float, t->count) : NULL};
    parallel_for(t->count, 1 << 16, tensor_job, &job);
    if (atomic_load(&job.bad)) return fail(FAIL_DATA, "tensor '%s' holds a NaN or an infinity", name);
    t->taken = true;
    *out = copy ? job.copy : (const float *)(const void *)t->data;
    return OK;
}

Result tensors_finish(const TensorFile *f, const char *spare)
{
    size_t tail = spare ? strlen(spare) : 0;
    for (size_t i = 0; i < f->count; i++) {
        const char *name = f->tensor[i].name;
        size_t len = strlen(name);
        if (f->tensor[i].taken || (spare && len >= tail && strcmp(name + len - tail, spare) == 0)) continue;
        return fail(FAIL_DATA, "tensor '%s' is not part of the model", name);
    }
    return OK;
}

// ---- writing ---------------------------------------------------------------------------------------------------------

static uint64_t tensor_out_count(const TensorOut *t) { return (t->rows ? t->rows : 1) * t->cols; }

static uint16_t bf16_round(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16);
}

static void tensors_print_header(Buffer *out, const TensorOut *t, size_t count, const char *dtype, size_t size)
{
    Json *root = json_new_object(), *meta = json_new_object();
    uint64_t at = 0;
    json_put(meta, "format", json_of_text("pt"));              // what Hugging Face's loaders ask for
    json_put(root, "__metadata__", meta);
    for (size_t i = 0; i < count; i++) {
        Json *entry = json_new_object(), *shape = json_new_array(), *ends = json_new_array();
        if (t[i].rows) json_add(shape, json_of_uint(t[i].rows));
        json_add(shape, json_of_uint(t[i].cols));
        json_add(ends, json_of_uint(at));
        at += tensor_out_count(&t[i]) * size;
        json_add(ends, json_of_uint(at));
        json_put(entry, "dtype", json_of_text(dtype));
        json_put(entry, "shape", shape);
        json_put(entry, "data_offsets", ends);
        json_put(root, t[i].name, entry);
    }
    json_print(out, root, 0, 17);
    json_free(root);
    while (out->len % 64 != 0) buffer_u8(out, ' ');            // so that mapped floats are aligned
}

Result tensors_write(const char *path, const TensorOut *t, size_t count, const char *dtype)
{
    bool wide = strcmp(dtype, "F32") == 0;
    if (!wide && strcmp(dtype, "BF16") != 0) return fail(FAIL_USE, "dtype '%s' is not supported, only F32 and BF16", dtype);
    Buffer out = {0};
    buffer_u64(&out, 0);                                       // the header's length, known below
    tensors_print_header(&out, t, count, dtype, wide ? 4 : 2);
    uint64_t header = out.len - 8, total = 0;
    memcpy(out.data, &header, 8);
    for (size_t i = 0; i < count; i++) total += tensor_out_count(&t[i]);
    buffer_reserve(&out, (size_t)total * (wide ? 4 : 2));
    for (size_t i = 0; i < count; i++) {
        uint64_t n = tensor_out_count(&t[i]);
        if (wide) {
            buffer_append(&out, t[i].data, n * 4);
            continue;
        }
        for (uint64_t j = 0; j < n; j++) {
            uint16_t half = bf16_round(t[i].data[j]);
            buffer_append(&out, &half, 2);
        }
    }
    Result r = file_write(path, out.data, out.len, 0644);
    buffer_free(&out);
    return r;
}
