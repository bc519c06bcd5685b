/* secure_tables.c - the plan's lookup tables: which there are, and each distinct one once. */
#include "model/secure_parts.h"

void plan_lookups(const Plan *p, void (*visit)(void *ctx, const LookupSpec *s), void *ctx)
{
    for (uint32_t l = 0; l < p->layers; l++) {
        const LayerPlan *q = &p->layer[l];
        if (!p->norm) visit(ctx, &q->attn.rsqrt);
        if (!p->norm && q->attn.rsqrt.border) visit(ctx, &q->attn.rsqrt_fine);
        if (p->softmax == SOFTMAX_EXP) visit(ctx, &q->score_exp);
        visit(ctx, &q->sum_coarse);
        if (q->sum_coarse.border) visit(ctx, &q->sum_fine);
        if (!p->norm && !p->side_by_side) visit(ctx, &q->ffn.rsqrt);
        if (!p->norm && !p->side_by_side && q->ffn.rsqrt.border) visit(ctx, &q->ffn.rsqrt_fine);
        if (p->activation == ACTIVATION_BASE) visit(ctx, &q->silu);
    }
    visit(ctx, &p->final_norm);
}

bool lookup_same(const LookupSpec *a, const LookupSpec *b)
{
    return a->fn == b->fn && a->t == b->t && a->k == b->k && a->f == b->f && a->f0 == b->f0 && a->m0 == b->m0 && a->f1 == b->f1 &&
           a->m1 == b->m1 && a->fp == b->fp && a->offset == b->offset && a->gain == b->gain && a->floor == b->floor &&
           a->ceiling == b->ceiling && a->from_zero == b->from_zero && a->never_positive == b->never_positive && a->border == b->border;
}

typedef struct Collect { Table **table; size_t count; Arena *arena; } Collect;

const Table *tables_find(Table *const *tables, size_t count, const LookupSpec *s)
{
    for (size_t i = 0; i < count; i++)
        if (lookup_same(table_spec(tables[i]), s)) return tables[i];
    return NULL;
}

static void collect(void *ctx, const LookupSpec *s)
{
    Collect *c = ctx;
    if (!tables_find(c->table, c->count, s)) c->table[c->count++] = table_new(s, c->arena);
}

size_t tables_new(const Plan *p, Table ***out, Arena *a)
{
    Collect c = {arena_new(a, Table *, (size_t)p->layers * 8 + 1), 0, a};
    plan_lookups(p, collect, &c);
    *out = c.table;
    return c.count;
}
