/* onehot.c - what T deals in bulk: the bits and words of one-hot vectors, block by block.
 *
 * They are most of what T sends, and most of what C's streams are spent on; no tensor of them is ever in memory. The elements
 * of each row are cut into tasks, which threads take; a task goes through its elements in blocks that stay in the first cache,
 * where the stream is expanded, used and overwritten. S reads, and T writes, the words of some tasks at a time, in program
 * order. Which thread takes a task depends on public sizes alone. */
#include "mpc/onehot.h"

enum { BLOCK_BYTES = 8192, TASK_BLOCKS = 4, TASKS = 256, WINDOW_BYTES = 1 << 20 };

typedef struct Task { size_t row, from, count, stream; uint8_t *dealt; } Task;   // stream: where its bytes begin

typedef struct Window {
    Engine *e;
    const BulkJob *job;
    size_t dealt, count, lanes, scratch;       // dealt: bytes of all tasks; lanes: who work side by side, each with a scratch
    uint8_t *lane_scratch;
    Task task[TASKS];
} Window;

static size_t block_count(const BulkRow *s)
{
    size_t bytes = s->stream > s->dealt ? s->stream : s->dealt, count = BLOCK_BYTES / bytes;
    return count < 1 ? 1 : count > BULK_MOST ? BULK_MOST : count;
}

size_t bulk_bytes(size_t each)
{
    return each > BLOCK_BYTES ? each : each * BULK_MOST < BLOCK_BYTES ? each * BULK_MOST : BLOCK_BYTES;
}

static void task_run(const Window *w, const Task *t, void *scratch)
{
    const Engine *e = w->e;
    const BulkRow *s = &w->job->row[t->row];
    size_t most = block_count(s);
    Prg prg;
    for (size_t at = 0; at < t->count; at += most) {
        Bulk b = {.row = t->row, .from = t->from + at, .count = t->count - at < most ? t->count - at : most, .scratch = scratch};
        if (e->client_prg) {
            prg = e->client_prg[t->row];
            prg_skip(&prg, t->stream + at * s->stream);
            b.prg = &prg;
        }
        if (t->dealt) b.dealt = t->dealt + at * s->dealt;
        w->job->body(w->job->ctx, &b);
    }
    wipe(&prg, sizeof prg);
}

static void lanes_run(void *ctx, size_t begin, size_t end)
{
    const Window *w = ctx;
    for (size_t l = begin; l < end; l++)
        for (size_t i = l; i < w->count; i += w->lanes) task_run(w, &w->task[i], w->lane_scratch + l * w->scratch);
}

/* Neighbouring tasks of one row, whose words travel together: returns the end, counts the bytes. */
static size_t tasks_of_row(const Window *w, size_t from, size_t *bytes)
{
    size_t end = from;
    *bytes = 0;
    for (; end < w->count && w->task[end].row == w->task[from].row; end++)
        *bytes += w->task[end].count * w->job->row[w->task[end].row].dealt;
    return end;
}

static void window_run(Window *w)
{
    Engine *e = w->e;
    bool deals = e->role == ROLE_SERVER || e->role == ROLE_THIRD;
    uint8_t *room = deals ? feed_room(e, w->dealt) : NULL;
    size_t bytes;
    for (size_t i = 0, next; deals && i < w->count; i = next) {
        next = tasks_of_row(w, i, &bytes);
        uint8_t *words = e->server ? (uint8_t *)(uintptr_t)feed_words(e, w->task[i].row, room, bytes) : room;
        room += bytes;
        for (; i < next; i++) {
            w->task[i].dealt = words;
            words += w->task[i].count * w->job->row[w->task[i].row].dealt;
        }
    }
    parallel_for(w->lanes < w->count ? w->lanes : w->count, 1, lanes_run, w);
    for (size_t i = 0, next; e->role == ROLE_THIRD && i < w->count; i = next) {
        next = tasks_of_row(w, i, &bytes);
        feed_write(e, w->task[i].row, w->task[i].dealt, bytes);
    }
    w->count = w->dealt = 0;
}

/* Elements that one task takes: whole units, some blocks of them. */
static size_t task_count(const BulkRow *s)
{
    size_t count = block_count(s) * TASK_BLOCKS;
    return count < s->unit ? s->unit : count / s->unit * s->unit;
}

static void bulk_skip(Engine *e, const Layout *at, const BulkJob *job)
{
    for (size_t r = 0; e->client_prg && r < at->rows; r++) prg_skip(&e->client_prg[r], row_words(at, r) * job->row[r].stream);
}

void source_bulk(Engine *e, const Layout *at, const BulkJob *job)
{
    for (size_t r = 0; r < at->rows; r++) e->cost.bytes.third_to_server += (at->begin[r + 1] - at->begin[r]) * job->row[r].dealt;
    if (e->role == ROLE_COUNT) {
        bulk_skip(e, at, job);                 // where C works ahead
        return;
    }
    ArenaMark mark = arena_mark(&e->step);
    Window *w = arena_new(&e->step, Window, 1);
    *w = (Window){.e = e, .job = job, .lanes = threads_count() > 1 ? 4 * threads_count() : 1, .scratch = (job->scratch + 63) / 64 * 64};
    w->lane_scratch = arena_new(&e->step, uint8_t, w->lanes * w->scratch);
    for (size_t r = 0; r < at->rows; r++) {
        const BulkRow *s = &job->row[r];
        size_t len = at->begin[r + 1] - at->begin[r], most = len ? task_count(s) : 0;
        for (size_t i = 0; i < len; i += most) {
            size_t count = len - i < most ? len - i : most;
            if (w->count == TASKS || (w->count && w->dealt + count * s->dealt > WINDOW_BYTES)) window_run(w);
            w->task[w->count++] = (Task){.row = r, .from = at->begin[r] + i, .count = count, .stream = i * s->stream};
            w->dealt += count * s->dealt;
        }
    }
    if (w->count) window_run(w);
    bulk_skip(e, at, job);
    arena_rollback(&e->step, mark);
}
