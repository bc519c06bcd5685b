/* eval_task.c - a task's answers, generated greedily in a setting and by the plain model, and their scores.
 *
 * The plain model answers many samples at once, a thread each. Prompts of 'marill task' are whole as they are, and the first line is
 * the answer; those of other files go through the folder's template, and all of the text is the answer. */
#include "app/eval.h"

#include <stdlib.h>
#include <string.h>

enum { ANSWER_TOKENS = 64, STORY_TOKENS = 160 };
#define PARALLEL_BYTES 2e9                     // of caches, above which samples are answered one by one

typedef struct Ask {                           // a sample, ready to be asked
    const char *prompt;
    size_t len, tokens;
    uint32_t most;                             // tokens of the answer; 0: the prompt has no room
} Ask;

typedef struct Round {                         // plain answers, in parallel
    const Eval *e;
    const Ask *ask;
    char **answer;                             // (samples) owned
    Failure *failure;
    char **why;                                // (samples) owned
    bool first_line;
} Round;

/* The text of an answer without white space at its ends; to be freed. */
static char *answer_text(const Buffer *text, bool first_line)
{
    size_t from = 0, to = text->len;
    while (from < to && strchr(" \t\n", text->data[from])) from++;
    for (size_t i = from; first_line && i < to; i++)
        if (text->data[i] == '\n') to = i;
    while (to > from && strchr(" \t\n", text->data[to - 1])) to--;
    char *out = strndup(to > from ? (const char *)text->data + from : "", to - from);
    ASSERT(out);
    return out;
}

static Result answer_generate(char **out, const Bundle *b, Setting setting, Client *client, const Ask *ask, bool first_line)
{
    Generated g = {0};
    Generation want = {.prompt = ask->prompt, .prompt_len = ask->len, .max_tokens = ask->most, .top_p = 1};
    Arena a;
    Result r = OK;
    arena_init(&a, false);
    if (ask->most) r = generate(&g, b, setting, client, &want, &a);
    if (!failed(r)) *out = answer_text(&g.text, first_line);
    buffer_free(&g.text);
    arena_free(&a);
    return r;
}

static void plain_answers(void *ctx, size_t begin, size_t end)
{
    const Round *t = ctx;
    for (size_t i = begin; i < end; i++) {
        Result r = answer_generate(&t->answer[i], &t->e->plain, SETTING_PLAIN, NULL, &t->ask[i], t->first_line);
        t->failure[i] = r.kind;
        if (failed(r)) t->why[i] = strdup(result_text());      // a failure's text is its thread's own
    }
}

/* Fewer samples than all at a time, so that progress can be told. */
static Result plain_round(Eval *e, const Ask *ask, const char **answer, size_t count, bool first_line)
{
    const ModelConfig *c = &e->plain.model.config;
    double cache = 8.0 * c->layers * e->plain.plan.context * c->kv_heads * c->head_dim * threads_count();
    size_t some = cache > PARALLEL_BYTES ? 1 : 16 * (size_t)threads_count();
    Arena *a = &e->arena;
    Round t = {.e = e, .ask = ask, .first_line = first_line, .answer = arena_new(a, char *, some), .failure = arena_new(a, Failure, some),
               .why = arena_new(a, char *, some)};
    Result r = OK;
    for (size_t at = 0; at < count && !failed(r); at += some) {
        size_t n = count - at < some ? count - at : some;
        t.ask = ask + at;
        if (some == 1) plain_answers(&t, 0, 1);
        else parallel_for(n, 1, plain_answers, &t);
        for (size_t i = 0; i < n; i++) {
            if (t.failure[i] != FAIL_NONE && !failed(r)) r = fail(t.failure[i], "%s", t.why[i] ? t.why[i] : "out of memory");
            if (t.answer[i]) answer[at + i] = arena_string(a, t.answer[i]);
            free(t.answer[i]), free(t.why[i]);
            t.answer[i] = t.why[i] = NULL;
        }
        if (!failed(r)) progress(&terminal_progress, "plain: %zu of %zu", at + n, count);
    }
    return r;
}

static Result ask_make(Ask *out, Eval *e, const TaskSet *set, const TestPair *pair)
{
    int32_t *ids;
    uint64_t most = e->k->max_tokens ? e->k->max_tokens : set->task && !strcmp(set->task, "chat") ? STORY_TOKENS : ANSWER_TOKENS;
    out->prompt = template_fill(set->task ? "{}" : e->form, pair->prompt, strlen(pair->prompt), &out->len, &e->arena);
    GUARD(tokenizer_encode(e->bundle.tokenizer, out->prompt, out->len, &ids, &out->tokens, &e->arena));
    bool fits = out->tokens && out->tokens + 1 < eval_room(e);
    if (!fits && !set->task)
        return fail(FAIL_USE, "the prompt '%.60s' has %zu tokens, the plan's context room for %u", out->prompt, out->tokens, eval_room(e));
    uint64_t left = fits ? eval_room(e) - out->tokens : 0;
    out->most = (uint32_t)(left < most ? left : most);
    e->too_long += !fits;
    return OK;
}

/* The loss over the completion, its end of text included. */
static Result completion_score(Eval *e, const Ask *ask, const TestPair *pair)
{
    const Tokenizer *t = e->bundle.tokenizer;
    int32_t *ids;
    size_t count;
    const char *whole = arena_format(&e->arena, "%s%s", ask->prompt, pair->answers[0]);
    if (!ask->most) return OK;
    GUARD(tokenizer_encode(t, whole, strlen(whole), &ids, &count, &e->arena));
    if (count >= eval_room(e)) count = eval_room(e) - 1;
    int32_t *window = arena_new(&e->arena, int32_t, count + 1);
    memcpy(window, ids, count * sizeof *ids);
    if (tokenizer_eos(t) >= 0) window[count++] = tokenizer_eos(t);
    return count > ask->tokens ? window_score(e, window, count, ask->tokens - 1) : OK;
}

static Result setting_round(Eval *e, const Ask *ask, const char **answer, size_t count, bool first_line)
{
    for (size_t i = 0; i < count; i++) {
        char *text = NULL;
        if (ask[i].most) GUARD(conversation_open(e, ask[i].tokens + ask[i].most));
        Result r = answer_generate(&text, &e->bundle, e->parties.setting, e->parties.client, &ask[i], first_line);
        if (ask[i].most) r = conversation_close(e, r);
        if (!failed(r)) answer[i] = arena_string(&e->arena, text);
        free(text);
        GUARD(r);
        progress(&terminal_progress, "%zu of %zu: %s", i + 1, count, answer[i]);
    }
    return OK;
}

static Result answers_write(const char *path, const TaskSet *set, const char *const *answer, const char *const *plain)
{
    Buffer out = {0};
    for (size_t i = 0; i < set->count; i++) {
        Json *o = json_new_object();
        if (set->sample[i].id) json_put(o, "task_id", json_of_text(set->sample[i].id));
        json_put(o, "prompt", json_of_text(set->sample[i].pair.prompt));
        json_put(o, "completion", json_of_text(answer[i]));
        json_put(o, "plain", json_of_text(plain[i]));
        json_print(&out, o, 0, 17);
        buffer_u8(&out, '\n');
        json_free(o);
    }
    Result r = file_write(path, out.data, out.len, 0644);
    buffer_free(&out);
    return r;
}

/* HumanEval and MT-bench have replies of many lines; the others answer in one. */
static bool answers_in_a_line(const TaskSet *set)
{
    return set->task && strcmp(set->task, "humaneval") != 0 && strcmp(set->task, "mtbench") != 0;
}

Result task_eval(Eval *e)
{
    TaskSet set;
    const char *folders[2] = {e->k->adapter, e->k->model};
    GUARD(template_load(&e->form, folders, 2, &e->arena));
    GUARD(task_read(&set, e->k->task, (size_t)e->k->limit, &e->arena));
    Ask *ask = arena_new(&e->arena, Ask, set.count);
    const char **plain = arena_new(&e->arena, const char *, set.count), **answer = plain;
    bool first_line = answers_in_a_line(&set);
    for (size_t i = 0; i < set.count; i++) GUARD(ask_make(&ask[i], e, &set, &set.sample[i].pair));
    GUARD(plain_round(e, ask, plain, set.count, first_line));
    if (e->parties.setting != SETTING_PLAIN) {
        answer = arena_new(&e->arena, const char *, set.count);
        GUARD(setting_round(e, ask, answer, set.count, first_line));
    }
    for (size_t i = 0; i < set.count; i++) GUARD(completion_score(e, &ask[i], &set.sample[i].pair));
    const char *judge = e->k->judge;
    if (set.task && !strcmp(set.task, "chat") && (!judge || !file_exists(arena_format(&e->arena, "%s/config.json", judge)))) {
        e->skipped = judge ? arena_format(&e->arena, "perplexity: no model at %s", judge) : "perplexity: no --judge", judge = NULL;
    }
    if (e->k->answers) GUARD(answers_write(e->k->answers, &set, answer, plain));
    e->samples = set.count;
    GUARD(task_score(&e->plain_scores, &set, plain, judge));
    e->scores = e->plain_scores;
    return answer == plain ? OK : task_score(&e->scores, &set, answer, judge);
}
