/* fifo.c - bytes that wait in a link: chunks of one size, so that a queue takes what it holds and no byte is moved twice.
 *
 * They are shares, words, seeds: a byte is wiped as soon as it was read, and no chunk is written to a dump. Chunks are not locked into
 * memory: a long message would take what the system allows to be locked from the keys. */
#include <string.h>
#include <sys/mman.h>

#include "crypto/link.h"

enum { SPARE_MOST = 32 };                      // chunks that are kept for the next bytes: new pages cost more than the copy

struct FifoChunk {
    FifoChunk *next;
    size_t begin, end;
    uint8_t data[FIFO_CHUNK];
};

static void chunk_free(FifoChunk *k)
{
    wipe(k->data + k->begin, k->end - k->begin);
    munmap(k, sizeof *k);
}

static FifoChunk *chunk_make(void)
{
    FifoChunk *k = mmap(NULL, sizeof *k, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (k == MAP_FAILED) bug("out of memory");
    madvise(k, sizeof *k, MADV_DONTDUMP);
    return k;
}

static FifoChunk *chunk_add(Fifo *f)
{
    FifoChunk *k = f->spare;
    if (k) f->spare = k->next, f->spares--;
    else k = chunk_make();
    k->next = NULL;
    k->begin = k->end = 0;
    if (f->last) f->last->next = k;
    else f->first = k;
    return f->last = k;
}

/* Lets go of chunks that have been read; the last one begins anew, so that what comes into an empty queue lies in one piece. */
static void chunks_pass(Fifo *f)
{
    while (f->first && f->first->begin == f->first->end) {
        FifoChunk *k = f->first;
        if (k == f->last) {
            k->begin = k->end = 0;
            return;
        }
        f->first = k->next;
        if (f->spares < SPARE_MOST) k->next = f->spare, f->spare = k, f->spares++;
        else chunk_free(k);
    }
}

uint8_t *fifo_space(Fifo *f, size_t len)
{
    ASSERT(len <= FIFO_CHUNK);
    chunks_pass(f);
    FifoChunk *k = f->last;
    if (!k || FIFO_CHUNK - k->end < len) k = chunk_add(f);
    return k->data + k->end;
}

void fifo_added(Fifo *f, size_t len)
{
    f->last->end += len;
    f->len += len;
}

void fifo_append(Fifo *f, const uint8_t *data, size_t len)
{
    chunks_pass(f);
    while (len > 0) {
        FifoChunk *k = f->last && f->last->end < FIFO_CHUNK ? f->last : chunk_add(f);
        size_t n = FIFO_CHUNK - k->end < len ? FIFO_CHUNK - k->end : len;
        memcpy(k->data + k->end, data, n);
        fifo_added(f, n);
        data += n;
        len -= n;
    }
}

const uint8_t *fifo_front(Fifo *f, size_t *len)
{
    chunks_pass(f);
    *len = f->first ? f->first->end - f->first->begin : 0;
    return f->first ? f->first->data + f->first->begin : NULL;
}

void fifo_skip(Fifo *f, size_t len)
{
    wipe(f->first->data + f->first->begin, len);
    f->first->begin += len;
    f->len -= len;
}

size_t fifo_take(Fifo *f, uint8_t *out, size_t len)
{
    size_t done = 0, n;
    while (done < len && f->len > 0) {
        const uint8_t *front = fifo_front(f, &n);
        if (n > len - done) n = len - done;
        memcpy(out + done, front, n);
        fifo_skip(f, n);
        done += n;
    }
    return done;
}

void fifo_free(Fifo *f)
{
    for (FifoChunk *k = f->first, *next; k; k = next) next = k->next, chunk_free(k);
    for (FifoChunk *k = f->spare, *next; k; k = next) next = k->next, chunk_free(k);
    *f = (Fifo){0};
}
