/* quant.c - the file of a quantised base: its order, reading by mapping, writing in a stream. See quant.h. */
#include "model/quant.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char quant_file[] = "marill-base.q8";

static const char magic[16] = "marill base q8\n";
enum { ALIGN = 64, SHAPE_WORDS = 7, FIXED = 128, SUM_AT = 64 };   // FIXED: bytes before the table of checksums

static size_t aligned(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

// ---- the order of the file -------------------------------------------------------------------------------------------

typedef struct Walk { QuantTensor *out; size_t count, at; } Walk;

static QuantTensor *walk_add(Walk *w, const char *name, size_t rows, size_t cols)
{
    QuantTensor *t = &w->out[w->count++];
    *t = (QuantTensor){.name = name, .matrix = rows > 0, .rows = rows, .cols = cols, .at = w->at};
    t->steps = t->at + aligned((rows ? rows : cols) * 4);
    t->end = t->steps + aligned(rows * cols);
    w->at = t->end;
    return t;
}

static void walk_layer(Walk *w, const ModelConfig *c, uint32_t layer)
{
    QuantTensor *first = &w->out[w->count];
    walk_add(w, "input_layernorm", 0, c->width);
    walk_add(w, "post_attention_layernorm", 0, c->width);
    for (MatrixKind k = 0; k < MAT_COUNT; k++) walk_add(w, matrix_names[k], matrix_rows(c, k), matrix_cols(c, k))->kind = k;
    for (QuantTensor *t = first; t < &w->out[w->count]; t++) t->in_layer = true, t->layer = layer;
}

size_t quant_tensors(QuantTensor **out, size_t *size, const ModelConfig *c, Arena *a)
{
    size_t count = 3 + (size_t)c->layers * (2 + MAT_COUNT);
    Walk w = {arena_new(a, QuantTensor, count), 0, aligned(FIXED + 8 * count)};
    walk_add(&w, "embed_tokens", c->vocab, c->width);
    for (uint32_t l = 0; l < c->layers; l++) walk_layer(&w, c, l);
    walk_add(&w, "norm", 0, c->width);
    walk_add(&w, "lm_head", c->vocab, c->width);
    ASSERT(w.count == count);
    *out = w.out, *size = w.at;
    return count;
}

static Result tensor_fail(const QuantTensor *t, const char *what)
{
    if (t->in_layer) return fail(FAIL_DATA, "layer %u %s: %s", t->layer, t->name, what);
    return fail(FAIL_DATA, "%s: %s", t->name, what);
}

// ---- checksums -------------------------------------------------------------------------------------------------------

/* Eight lanes of multiply and turn, so that reading bounds it and not the multiplier; each lane's last word counts as much as
 * its first. */
uint64_t quant_checksum(const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t lane[8], sum = len;
    ASSERT(len % ALIGN == 0);
    for (unsigned j = 0; j < 8; j++) lane[j] = UINT64_C(0x9E3779B97F4A7C15) * (j + 1);
    for (size_t i = 0; i < len; i += ALIGN) {
        _Pragma("GCC unroll 8") for (unsigned j = 0; j < 8; j++) {
            uint64_t v;
            memcpy(&v, p + i + 8 * j, 8);
            lane[j] = (lane[j] ^ v) * UINT64_C(0xD6E8FEB86659FD93);
            lane[j] ^= lane[j] >> 32;
        }
    }
    for (unsigned j = 0; j < 8; j++) sum = (sum ^ lane[j]) * UINT64_C(0xD6E8FEB86659FD93), sum ^= sum >> 29;
    return sum;
}

// ---- the header ------------------------------------------------------------------------------------------------------

/* magic 16 | shape 7 * 4 | fraction bits 4 | synthetic 4 | 4 zero | seed 8 | checksum 8 at SUM_AT, of the header with this as
 * zero | length 8 | zeros to FIXED | a checksum of each tensor | zeros to a multiple of 64. */
static void header_make(Buffer *out, const ModelConfig *c, const QuantSource *s, const uint64_t *sums, size_t count, size_t size)
{
    const uint32_t shape[SHAPE_WORDS] = {c->width, c->layers, c->heads, c->kv_heads, c->head_dim, c->ffn, c->vocab};
    out->len = 0;
    buffer_append(out, magic, sizeof magic);
    for (int i = 0; i < SHAPE_WORDS; i++) buffer_u32(out, shape[i]);
    buffer_u32(out, QUANT_F);
    buffer_u32(out, s->synthetic);
    buffer_u32(out, 0);
    buffer_u64(out, s->seed);
    ASSERT(out->len == SUM_AT);
    buffer_u64(out, 0);
    buffer_u64(out, size);
    while (out->len < FIXED) buffer_u8(out, 0);
    for (size_t i = 0; i < count; i++) buffer_u64(out, sums[i]);
    while (out->len % ALIGN) buffer_u8(out, 0);
    uint64_t sum = quant_checksum(out->data, out->len);
    for (unsigned b = 0; b < 8; b++) out->data[SUM_AT + b] = (uint8_t)(sum >> 8 * b);
}

static uint64_t read_u64(const uint8_t *p)
{
    uint64_t v = 0;
    for (unsigned b = 0; b < 8; b++) v |= (uint64_t)p[b] << 8 * b;
    return v;
}

/* The header must be the one that would be written for this shape, its origin and its table of checksums aside. */
static Result header_check(const ModelConfig *c, const uint8_t *data, size_t len, size_t count, size_t size)
{
    if (len < FIXED || memcmp(data, magic, sizeof magic) != 0) return fail(FAIL_DATA, "is not a quantised base");
    Arena a;
    arena_init(&a, false);
    Buffer want = {0};
    size_t header = aligned(FIXED + 8 * count);
    uint64_t *sums = arena_new(&a, uint64_t, count);
    for (size_t i = 0; i < count && header <= len; i++) sums[i] = read_u64(data + FIXED + 8 * i);
    QuantSource from = {.synthetic = data[48] != 0, .seed = read_u64(data + 56)};
    header_make(&want, c, &from, sums, count, size);
    Result r = OK;
    if (memcmp(data + 16, want.data + 16, 4 * SHAPE_WORDS) != 0) r = fail(FAIL_DATA, "has another shape than config.json");
    else if (memcmp(data + 44, want.data + 44, 4) != 0) r = fail(FAIL_DATA, "its scales have other fraction bits than %d", QUANT_F);
    else if (len != size) r = fail(FAIL_DATA, "has %zu bytes where its shape takes %zu", len, size);
    else if (memcmp(data, want.data, want.len) != 0) r = fail(FAIL_DATA, "its header is damaged");
    buffer_free(&want);
    arena_free(&a);
    return r;
}

// ---- reading ---------------------------------------------------------------------------------------------------------

typedef struct Reading { const QuantTensor *tensor; const uint8_t *data; atomic_size_t bad[3]; } Reading;
enum { BAD_SUM, BAD_SCALE, BAD_GAIN };

static void note_bad(Reading *r, int what, size_t tensor)
{
    size_t expected = SIZE_MAX;
    atomic_compare_exchange_strong(&r->bad[what], &expected, tensor);
}

static void tensors_check(void *ctx, size_t begin, size_t end)
{
    Reading *r = ctx;
    for (size_t i = begin; i < end; i++) {
        const QuantTensor *t = &r->tensor[i];
        const void *values = r->data + t->at;
        if (quant_checksum(r->data + t->at, t->end - t->at) != read_u64(r->data + FIXED + 8 * i)) {
            note_bad(r, BAD_SUM, i);
            continue;
        }
        for (size_t j = 0; t->matrix && j < t->rows; j++) {
            int32_t v = ((const int32_t *)values)[j];
            if (v < 1 || v > QUANT_SCALE_MOST) note_bad(r, BAD_SCALE, i);
        }
        for (size_t j = 0; !t->matrix && j < t->cols; j++)
            if (!isfinite(((const float *)values)[j])) note_bad(r, BAD_GAIN, i);
    }
}

static void tensor_bind(Model *m, const QuantTensor *t, size_t index, size_t count, const uint8_t *data)
{
    const void *values = data + t->at;
    QuantMatrix q = {(const int8_t *)(data + t->steps), values};
    if (index == 0) m->quant_embed = q;
    else if (index + 1 == count) m->quant_head = q;
    else if (index + 2 == count) m->final_norm = values;
    else if (t->matrix) m->layer[t->layer].quant[t->kind] = q;
    else if (m->layer[t->layer].attn_norm) m->layer[t->layer].ffn_norm = values;
    else m->layer[t->layer].attn_norm = values;
}

Result quant_bind(Model *m, const uint8_t *data, size_t len)
{
    const ModelConfig *c = &m->config;
    QuantTensor *tensor;
    size_t size, count = quant_tensors(&tensor, &size, c, &m->arena);
    GUARD(header_check(c, data, len, count, size));
    Reading r = {tensor, data, {SIZE_MAX, SIZE_MAX, SIZE_MAX}};
    parallel_for(count, 1, tensors_check, &r);
    static const char *const what[] = {"is damaged: its checksum differs", "has a scale that is out of range",
                                       "holds a NaN or an infinity"};
    for (int b = 0; b < 3; b++)
        if (r.bad[b] != SIZE_MAX) return tensor_fail(&tensor[r.bad[b]], what[b]);
    m->layer = arena_new(&m->arena, LayerWeights, c->layers);
    for (size_t i = 0; i < count; i++) tensor_bind(m, &tensor[i], i, count, data);
    m->quantised = true;
    return OK;
}

// ---- writing ---------------------------------------------------------------------------------------------------------

typedef struct Writer { int fd; const char *path; } Writer;

static Result write_at(const Writer *w, const void *data, size_t len, size_t at)
{
    const uint8_t *p = data;
    while (len) {
        ssize_t put = pwrite(w->fd, p, len < 1u << 30 ? len : 1u << 30, (off_t)at);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return fail(FAIL_SYSTEM, "%s: cannot write: %s", w->path, strerror(put ? errno : ENOSPC));
        p += put, at += (size_t)put, len -= (size_t)put;
    }
    return OK;
}

typedef struct Rows {
    const QuantSource *s;
    const QuantTensor *t;
    int32_t *scale;
    int8_t *steps;
    atomic_bool bad;
    char why[256];
} Rows;

static void rows_make(void *ctx, size_t begin, size_t end)
{
    Rows *r = ctx;
    for (size_t i = begin; i < end; i++) {
        if (!failed(r->s->row(r->s->ctx, r->t, i, &r->scale[i], r->steps + i * r->t->cols, NULL))) continue;
        if (!atomic_exchange(&r->bad, true)) snprintf(r->why, sizeof r->why, "%s", result_text());   // texts are kept a thread
    }
}

/* The whole tensor is in memory once: an embedding of 32,000 by 4,096 is 131 MB. */
static Result tensor_make(uint8_t *out, const QuantTensor *t, const QuantSource *s)
{
    memset(out, 0, t->end - t->at);
    if (!t->matrix) return s->row(s->ctx, t, 0, NULL, NULL, (float *)(void *)out);
    Rows r = {.s = s, .t = t, .scale = (int32_t *)(void *)out, .steps = (int8_t *)out + (t->steps - t->at)};
    parallel_for(t->rows, 1 + 65536 / t->cols, rows_make, &r);
    return r.bad ? tensor_fail(t, r.why) : OK;
}

static Result tensors_put(const Writer *w, const ModelConfig *c, const QuantSource *s, const Progress *p)
{
    Arena a;
    Buffer header = {0};
    QuantTensor *tensor;
    arena_init(&a, false);
    size_t size, count = quant_tensors(&tensor, &size, c, &a), largest = 0;
    for (size_t i = 0; i < count; i++) if (tensor[i].end - tensor[i].at > largest) largest = tensor[i].end - tensor[i].at;
    uint8_t *block = arena_new(&a, uint8_t, largest);
    uint64_t *sums = arena_new(&a, uint64_t, count);
    Result r = OK;
    for (size_t i = 0; i < count && !failed(r); i++) {
        const QuantTensor *t = &tensor[i];
        r = tensor_make(block, t, s);
        if (failed(r)) break;
        sums[i] = quant_checksum(block, t->end - t->at);
        r = write_at(w, block, t->end - t->at, t->at);
        if (t->in_layer && t->kind == MAT_DOWN) progress(p, "quantised base: layer %u of %u", t->layer + 1, c->layers);
    }
    header_make(&header, c, s, sums, count, size);
    if (!failed(r)) r = write_at(w, header.data, header.len, 0);
    buffer_free(&header);
    arena_free(&a);
    return r;
}

/* Under another name until it is whole: a reader finds the old file or the new one. */
Result quant_write(const char *dir, const ModelConfig *c, const QuantSource *s, const Progress *p)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    if (c->arch != ARCH_LLAMA) return fail(FAIL_USE, "only a Llama's weights can be quantised");
    GUARD(folder_make(dir, 0755));
    if (snprintf(path, sizeof path, "%s/config.json", dir) >= (int)sizeof path - 32) return fail(FAIL_SYSTEM, "%s: too long a path", dir);
    GUARD(config_write(c, path));
    snprintf(path, sizeof path, "%s/%s", dir, quant_file);
    snprintf(temporary, sizeof temporary, "%s/%s.XXXXXX", dir, quant_file);      // fits: checked above
    Writer w = {mkostemp(temporary, O_CLOEXEC), path};
    if (w.fd < 0) return fail(FAIL_SYSTEM, "%s: cannot write: %s", path, strerror(errno));
    Result r = tensors_put(&w, c, s, p);
    if (!failed(r) && (fchmod(w.fd, 0644) != 0 || fsync(w.fd) != 0)) r = fail(FAIL_SYSTEM, "%s: cannot write: %s", path, strerror(errno));
    if (close(w.fd) != 0 && !failed(r)) r = fail(FAIL_SYSTEM, "%s: cannot write: %s", path, strerror(errno));
    if (!failed(r) && rename(temporary, path) != 0) r = fail(FAIL_SYSTEM, "%s: cannot replace: %s", path, strerror(errno));
    if (failed(r)) unlink(temporary);
    return r;
}

bool model_is_synthetic(const ModelConfig *c, uint64_t seed, const char *dir)
{
    char path[PATH_MAX];
    uint8_t head[FIXED];
    Arena a;
    QuantTensor *tensor;
    Buffer want = {0};
    if (snprintf(path, sizeof path, "%s/%s", dir, quant_file) >= (int)sizeof path) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    arena_init(&a, false);
    size_t size, count = quant_tensors(&tensor, &size, c, &a);
    header_make(&want, c, &(QuantSource){.synthetic = true, .seed = seed}, arena_new(&a, uint64_t, count), count, size);
    bool same = pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head && lseek(fd, 0, SEEK_END) == (off_t)size;
    same = same && memcmp(head, want.data, SUM_AT) == 0;
    close(fd);
    buffer_free(&want);
    arena_free(&a);
    return same;
}
