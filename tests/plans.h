/* plans.h - plans as text in tests: written, edited, read again. */
#ifndef MARILL_PLANS_H
#define MARILL_PLANS_H

#include "model/secure.h"
#include "test.h"

/* With a NUL behind it, which counts. */
static inline Buffer plan_text(const Plan *p)
{
    Buffer b = {0};
    plan_json(p, &b);
    buffer_u8(&b, 0);
    return b;
}

/* A plan's text is read as a sound plan, left in `again`, of the same text and the same hash. */
static inline void plan_returns(Plan *again, const Plan *p, const ModelConfig *c)
{
    uint8_t h[2][HASH_BYTES];
    Buffer a = plan_text(p);
    CHECK_OK(plan_parse(again, (char *)a.data, a.len - 1));
    CHECK_OK(plan_check(again, c));
    Buffer b = plan_text(again);
    CHECK(a.len == b.len && !memcmp(a.data, b.data, a.len));
    plan_hash(p, c, h[0]), plan_hash(again, c, h[1]);
    CHECK(!memcmp(h[0], h[1], HASH_BYTES));
    buffer_free(&a), buffer_free(&b);
}

/* Reads and checks the text with the first `from` after `anchor` replaced. */
static inline Result plan_edited(const Buffer *text, const ModelConfig *c, const char *anchor, const char *from, const char *to)
{
    char *at = strstr((char *)text->data, anchor);
    CHECK(at != NULL && (at = strstr(at, from)) != NULL);
    Buffer b = {0};
    buffer_append(&b, text->data, (size_t)(at - (char *)text->data));
    buffer_append(&b, to, strlen(to));
    buffer_append(&b, at + strlen(from), strlen(at + strlen(from)));
    Plan p;
    Result r = plan_parse(&p, (char *)b.data, b.len);
    if (!failed(r)) r = plan_check(&p, c);
    plan_free(&p);
    buffer_free(&b);
    return r;
}

#endif
