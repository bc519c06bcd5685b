/* grad_buckets.c - see grad_buckets.h. */
#include "tune/grad_buckets.h"

#include "tune/ranks.h"

enum { BUCKET_FLOATS = 1 << 18, MOST_PARTS = 256 };

/* Walks the blocks from the last to the first, those outside of layers apart: they lie before and behind all layers. */
static void buckets_cut(GradBuckets *out, const Params *p, bool outside)
{
    bool open = false;
    for (size_t i = p->count; i-- > 0;) {
        const ParamBlock *b = &p->block[i];
        GradBucket *last = open ? &out->bucket[out->count - 1] : NULL;
        if ((b->layer == PARAM_OUTSIDE) != outside) {
            open = open && !outside;           // the layers lie between
            continue;
        }
        if (last && !outside && last->len >= BUCKET_FLOATS && b->layer != last->lowest) last = NULL;
        if (!last) last = &out->bucket[out->count++], last->outside = outside, open = true;
        last->at = b->at, last->len += b->len, last->lowest = b->layer;
    }
}

void buckets_make(GradBuckets *out, const Params *p, float *const *part, unsigned parts, Arena *a)
{
    ASSERT(parts <= MOST_PARTS);
    *out = (GradBuckets){.bucket = arena_new(a, GradBucket, p->count), .next = arena_new(a, size_t, parts), .part = part, .parts = parts};
    buckets_cut(out, p, false);
    buckets_cut(out, p, true);
}

void buckets_begin(GradBuckets *b)
{
    for (size_t i = 0; i < b->count; i++) atomic_store(&b->bucket[i].left, b->parts);
    for (unsigned i = 0; i < b->parts; i++) b->next[i] = 0;
}

static void bucket_leave(GradBuckets *b, unsigned part)
{
    GradBucket *k = &b->bucket[b->next[part]++];
    if (atomic_fetch_sub(&k->left, 1) != 1) return;
    float *at[MOST_PARTS];
    for (unsigned i = 0; i < b->parts; i++) at[i] = b->part[i] + k->at;
    if (b->parts > 1) grads_sum(at[0], at, b->parts, k->len);
    ranks_sum_begin(at[0], k->len);
}

void buckets_leave(GradBuckets *b, unsigned part, uint32_t layer)
{
    while (b->next[part] < b->count && !b->bucket[b->next[part]].outside && b->bucket[b->next[part]].lowest >= layer) bucket_leave(b, part);
    ranks_sum_move();
}

void buckets_leave_all(GradBuckets *b, unsigned part)
{
    while (b->next[part] < b->count) bucket_leave(b, part);
}
