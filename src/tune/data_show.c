/* data_show.c - samples as text, for eyes: what a template makes of a record, and what of it is learned. */
#include "tune/data.h"

static const char *mark_of(const Tokenizer *t, int32_t id)    // NULL: a token of text
{
    return id == tokenizer_bos(t) ? "<s>" : id == tokenizer_eos(t) ? "</s>" : NULL;
}

/* Appends tokens [from, to). A text begins anew behind a mark. */
static Result tokens_append(Buffer *out, const Sample *s, const Tokenizer *t, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        const char *mark = mark_of(t, s->tokens[i]);
        if (mark) buffer_format(out, "%s", mark);
        else GUARD(tokenizer_decode(t, i && !mark_of(t, s->tokens[i - 1]) ? s->tokens[i - 1] : -1, s->tokens[i], out));
    }
    return OK;
}

static Result sample_show(const Sample *s, const Tokenizer *t, const SampleView *view)
{
    Buffer text = {0};
    Result r = OK;
    for (uint32_t from = 0, to; from < s->len && !failed(r); from = to) {
        for (to = from + 1; to < s->len && s->learn[to] == s->learn[from]; to++) continue;
        text.len = 0;
        r = tokens_append(&text, s, t, from, to);
        if (!failed(r)) view->text(view->ctx, text.data, text.len, s->learn[from] != 0);
    }
    buffer_free(&text);
    return r;
}

Result data_show(const DataSet *set, const Tokenizer *t, const SampleView *view)
{
    for (size_t i = 0; i < set->count && i < view->count; i++) {
        const Sample *s = &set->sample[i];
        size_t learned = 0;
        for (uint32_t k = 0; k < s->len; k++) learned += s->learn[k] != 0;
        view->begin(view->ctx, i, s->len, learned);
        GUARD(sample_show(s, t, view));
    }
    return OK;
}
