/* score_judge.c - how likely replies are to a model that had no part in them. */
#include "tune/score.h"

#include <math.h>
#include <string.h>

typedef struct Judge {
    const Model *model;
    const Tokenizer *tokenizer;
    const char *const *reply;
    double (*stat)[2];                         // (replies) nats, tokens
} Judge;

static void reply_judge(const Judge *j, size_t i, float *logits, PlainState *state, Arena *a)
{
    const ModelConfig *c = &j->model->config;
    int32_t *ids = NULL;
    size_t count = 0;
    Result r = tokenizer_encode(j->tokenizer, j->reply[i], strlen(j->reply[i]), &ids, &count, a);
    if (failed(r) || !count) return;
    if (count >= c->context) count = c->context - 1;
    int32_t *tokens = arena_new(a, int32_t, count + 1);
    tokens[0] = tokenizer_bos(j->tokenizer);
    memcpy(tokens + 1, ids, count * sizeof *ids);
    plain_truncate(state, 0);
    if (failed(plain_forward(state, logits, tokens, count))) return;
    for (size_t k = 0; k < count; k++) j->stat[i][0] += cross_entropy(logits + k * c->vocab, c->vocab, tokens[k + 1]);
    j->stat[i][1] = (double)count;
}

static void replies_judge(void *ctx, size_t begin, size_t end)
{
    const Judge *j = ctx;
    const ModelConfig *c = &j->model->config;
    Arena a;
    arena_init(&a, false);
    PlainState *state = plain_new(j->model, NULL, c->context, &a);
    float *logits = arena_new(&a, float, (size_t)c->context * c->vocab);
    for (size_t i = begin; i < end; i++) {
        ArenaMark mark = arena_mark(&a);
        reply_judge(j, i, logits, state, &a);
        arena_rollback(&a, mark);
    }
    arena_free(&a);
}

static double perplexity(const double *sum)
{
    return sum[1] > 0 ? exp(sum[0] / sum[1]) : 0;
}

Result score_perplexity(Score *out, const char *judge, const char *const *replies, size_t count)
{
    Model model = {0};
    Tokenizer *tokenizer = NULL;
    Arena a;
    arena_init(&a, false);
    Result r = model_load(&model, judge);
    if (!failed(r)) r = tokenizer_load(&tokenizer, arena_format(&a, "%s/tokenizer.model", judge));
    if (!failed(r) && (tokenizer_vocab(tokenizer) > model.config.vocab || tokenizer_bos(tokenizer) < 0))
        r = fail(FAIL_DATA, "%s: the tokenizer does not fit the model", judge);
    if (!failed(r)) {
        Judge j = {&model, tokenizer, replies, arena_alloc(&a, count + 1, sizeof *j.stat)};
        parallel_for(count, 16, replies_judge, &j);
        *out = score_bootstrap(perplexity, j.stat[0], count, 2);
        if (count && out->value == 0) r = fail(FAIL_DATA, "%s: could judge none of %zu replies", judge, count);
    }
    tokenizer_free(tokenizer);
    model_free(&model);
    arena_free(&a);
    return r;
}
