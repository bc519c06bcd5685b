/* train_state.c - checkpoints: everything that a stopped run needs to go on exactly.
 *
 * A checkpoint is a header of integers, the parameters and both moments, and a checksum over all of it; it is written
 * beside the old one and renamed over it. There is no random state: the order of the samples follows from (seed, epoch), what
 * dropout drops from (seed, step, sample).
 * The numbers of threads and ranks are part of it because gradients are summed thread by thread and rank by rank. */
#include "tune/train.h"

#include <string.h>

static const char magic[8] = "MARTRN03";
static const size_t header_size = 8 + 5 * 4 + 9 * 8;

static uint64_t checksum(const uint8_t *data, size_t len)              // FNV-1a over 64-bit words: against damage, not malice
{
    uint64_t sum = 0xCBF29CE484222325u;
    for (size_t i = 0; i < len; i += 8) {
        uint64_t word = 0;
        memcpy(&word, data + i, len - i < 8 ? len - i : 8);
        sum = (sum ^ word) * 0x100000001B3u;
    }
    return sum;
}

Result checkpoint_write(const TrainState *s, const Recipe *r, Division d, const char *path)
{
    Buffer b = {0};
    size_t bytes = s->total * sizeof(float);
    uint64_t best;
    memcpy(&best, &s->best_loss, sizeof best);
    buffer_reserve(&b, header_size + 3 * bytes + 8);
    buffer_append(&b, magic, sizeof magic);
    buffer_u32(&b, r->seed);
    buffer_u32(&b, r->steps);
    buffer_u32(&b, r->batch_tokens);
    buffer_u32(&b, d.threads);
    buffer_u32(&b, d.ranks);
    buffer_u64(&b, s->total);
    buffer_u64(&b, s->step);
    buffer_u64(&b, s->epoch);
    buffer_u64(&b, s->sample);
    buffer_u64(&b, s->tokens);
    buffer_u64(&b, (uint64_t)(s->seconds * 1000));
    buffer_u64(&b, best);
    buffer_u64(&b, s->best_step);
    buffer_u64(&b, s->stale);
    buffer_append(&b, s->values, bytes);
    buffer_append(&b, s->moment1, bytes);
    buffer_append(&b, s->moment2, bytes);
    buffer_u64(&b, checksum(b.data, b.len));
    Result result = file_write(path, b.data, b.len, 0644);
    buffer_free(&b);
    return result;
}

static Result same(uint64_t here, uint64_t there, const char *what)
{
    if (here == there) return OK;
    return fail(FAIL_DATA, "the checkpoint has %s %llu, this run %llu", what, (unsigned long long)there, (unsigned long long)here);
}

static Result header_read(Cursor *c, TrainState *s, const Recipe *r, Division d)
{
    const uint8_t *mark;
    uint32_t seed, steps, batch, threads, ranks;
    uint64_t total, milliseconds, best;
    GUARD(cursor_take(c, &mark, sizeof magic));
    if (memcmp(mark, magic, sizeof magic)) return fail(FAIL_DATA, "not a checkpoint");
    GUARD(cursor_u32(c, &seed));
    GUARD(cursor_u32(c, &steps));
    GUARD(cursor_u32(c, &batch));
    GUARD(cursor_u32(c, &threads));
    GUARD(cursor_u32(c, &ranks));
    GUARD(cursor_u64(c, &total));
    GUARD(cursor_u64(c, &s->step));
    GUARD(cursor_u64(c, &s->epoch));
    GUARD(cursor_u64(c, &s->sample));
    GUARD(cursor_u64(c, &s->tokens));
    GUARD(cursor_u64(c, &milliseconds));
    GUARD(cursor_u64(c, &best));
    GUARD(cursor_u64(c, &s->best_step));
    GUARD(cursor_u64(c, &s->stale));
    s->seconds = (double)milliseconds / 1000;
    memcpy(&s->best_loss, &best, sizeof best);
    GUARD(same(r->seed, seed, "seed"));
    GUARD(same(r->steps, steps, "steps"));
    GUARD(same(r->batch_tokens, batch, "batch_tokens"));
    GUARD(same(d.threads, threads, "threads"));
    GUARD(same(d.ranks, ranks, "ranks"));
    return same(s->total, total, "parameters");
}

static Result body_read(const FileMap *m, TrainState *s, const Recipe *r, Division d)
{
    Cursor c = {m->data, m->len, 0, "checkpoint"};
    const uint8_t *array;
    uint64_t sum;
    size_t bytes = s->total * sizeof(float);
    GUARD(header_read(&c, s, r, d));
    GUARD(cursor_take(&c, &array, bytes));
    memcpy(s->values, array, bytes);
    GUARD(cursor_take(&c, &array, bytes));
    memcpy(s->moment1, array, bytes);
    GUARD(cursor_take(&c, &array, bytes));
    memcpy(s->moment2, array, bytes);
    size_t len = c.at;
    GUARD(cursor_u64(&c, &sum));
    if (sum != checksum(m->data, len)) return fail(FAIL_DATA, "the checkpoint is damaged: its checksum is wrong");
    return cursor_end(&c);
}

Result checkpoint_read(TrainState *s, const Recipe *r, Division d, const char *path)
{
    FileMap m;
    GUARD(file_map(&m, path));
    Result result = body_read(&m, s, r, d);
    file_unmap(&m);
    return failed(result) ? fail_in(result, "%s", path) : OK;
}
