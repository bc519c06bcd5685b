/* eval.c - how near a setting is to the plain model: teacher-forced loss over text, or over the answers of a task with the
 * scores of what is generated, each beside the folder's own floating-point model in the same run. */
#include "app/app.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char eval_usage[] =
    "--model DIR [--adapter DIR] --setting S (--text FILE | --task FILE) [options]\n"
    "  --text FILE                  UTF-8; cut into windows of the plan's context, each behind a BOS token\n"
    "  --task FILE                  pairs, a line an answer, a tab, a prompt (their held-out test part); or JSON lines of prompt\n"
    "                               and completion, question and answer, or text with a last 'A:'\n"
    "  --limit N                    positions of a text, samples of a task (all)\n"
    "  --max-tokens N               of an answer (64)\n"
    "  --frozen N --private layers|lora --prefer exchanges|bytes --plan FILE\n"
    "  --net NET                    as of 'marill run'\n"
    "  --threads N\n"
    "  --json\n"
    "With --private layers the embedding and the head stay those of the public base, which flatters it in a comparison.\n";

enum { FILE_LIMIT = 1 << 28, LINE_LIMIT = 1 << 20 };

typedef struct EvalArgs {
    const char *model, *adapter, *plan, *text, *task, *net;
    unsigned setting, private, prefer;
    uint64_t limit, max_tokens, threads;
    double frozen;
    bool json;
} EvalArgs;

typedef struct Sums { uint64_t positions, agree; double loss, plain_loss, error; } Sums;

typedef struct Eval {
    const EvalArgs *k;
    Parties parties;
    Bundle bundle;                             // with everything: this process measures, and shows nothing of privacy
    Bundle plain;
    const char *form;
    Sums sums;
    size_t samples;
    double chrf, plain_chrf, exact, plain_exact;
    Arena arena;                               // of the run
} Eval;

static bool has_sessions(const Eval *e) { return e->parties.setting == SETTING_DEALER; }

/* dealer: every conversation has a pool of its own, so a session of its own. */
static Result conversation_open(Eval *e, size_t positions)
{
    return has_sessions(e) ? parties_open(&e->parties, &e->bundle, positions) : OK;
}

static Result conversation_close(Eval *e, Result r)
{
    if (failed(r) || !has_sessions(e)) return r;
    return parties_close_session(&e->parties);
}

static uint32_t room(const Eval *e) { return e->bundle.plan.context - e->bundle.plan.known; }

static void row_add(Sums *s, const float *got, const float *plain, uint32_t vocab, int32_t target)
{
    uint32_t best = 0, plain_best = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        if (got[i] > got[best]) best = i;
        if (plain[i] > plain[plain_best]) plain_best = i;
        double error = fabs((double)got[i] - (double)plain[i]);
        if (!(error <= s->error)) s->error = error;
    }
    s->positions++;
    s->agree += best == plain_best;
    s->loss += cross_entropy(got, vocab, target);
    s->plain_loss += cross_entropy(plain, vocab, target);
}

/* Teacher-forced: rows from `from` on predict the token after them. */
static Result window_score(Eval *e, const int32_t *tokens, size_t count, size_t from)
{
    uint32_t vocab = e->bundle.model.config.vocab;
    Arena a;
    arena_init(&a, true);
    float *got = arena_alloc(&a, count * vocab, sizeof *got), *plain = arena_alloc(&a, count * vocab, sizeof *plain);
    Result r = conversation_open(e, count);
    if (!failed(r)) r = conversation_close(e, score_window(got, &e->bundle, e->parties.setting, e->parties.client, tokens, count));
    if (!failed(r)) r = score_window(plain, &e->plain, SETTING_PLAIN, NULL, tokens, count);
    for (size_t i = from; !failed(r) && i + 1 < count; i++) row_add(&e->sums, got + i * vocab, plain + i * vocab, vocab, tokens[i + 1]);
    arena_free(&a);
    return r;
}

// ---- a text ----------------------------------------------------------------------------------------------------------

static Result text_eval(Eval *e)
{
    Buffer text = {0};
    int32_t *ids = NULL;
    size_t count = 0;
    Result r = file_read(&text, e->k->text, FILE_LIMIT);
    if (!failed(r))
        r = fail_in(tokenizer_encode(e->bundle.tokenizer, (const char *)text.data, text.len, &ids, &count, &e->arena), "%s", e->k->text);
    buffer_free(&text);
    if (!failed(r) && count < 2) r = fail(FAIL_DATA, "%s: too short to predict anything", e->k->text);
    for (size_t at = 0; !failed(r) && at + 1 < count && (!e->k->limit || e->sums.positions < e->k->limit); at += room(e)) {
        size_t len = count - at < room(e) ? count - at : room(e);
        if (e->k->limit && len > e->k->limit - e->sums.positions + 1) len = (size_t)(e->k->limit - e->sums.positions + 1);
        r = window_score(e, ids + at, len, 0);
        progress(&terminal_progress, "%llu positions: loss %.4f, plain %.4f", (unsigned long long)e->sums.positions,
                 e->sums.loss / (double)e->sums.positions, e->sums.plain_loss / (double)e->sums.positions);
    }
    return r;
}

// ---- a task ----------------------------------------------------------------------------------------------------------

static Result pair_from_json(TestPair *out, const Json *o, Arena *a)
{
    const char *prompt = NULL, *answer = NULL, *text = NULL;
    GUARD(json_get_text_or(&prompt, o, json_find(o, "question") ? "question" : "prompt", NULL));
    GUARD(json_get_text_or(&answer, o, json_find(o, "answer") ? "answer" : "completion", NULL));
    GUARD(json_get_text_or(&text, o, "text", NULL));
    if (!prompt && text) {
        const char *mark = NULL;
        for (const char *at = text; (at = strstr(at, "\nA:")); at++) mark = at;
        if (!mark) return fail(FAIL_DATA, "text has no 'A:'");
        prompt = arena_format(a, "%.*s", (int)(mark + 3 - text), text), answer = mark + 3;
    }
    if (!prompt || !answer) return fail(FAIL_DATA, "neither prompt and completion, nor question and answer, nor text");
    out->answers = arena_new(a, const char *, 1);
    out->prompt = arena_string(a, prompt), out->answers[0] = arena_string(a, answer), out->count = 1;
    return OK;
}

static Result pairs_from_lines(TestPair **out, size_t *count, const char *path, Arena *a)
{
    Buffer text = {0};
    GUARD(file_read(&text, path, FILE_LIMIT));
    size_t lines = 1, number = 0;
    for (size_t i = 0; i < text.len; i++) lines += text.data[i] == '\n';
    *out = arena_new(a, TestPair, lines);
    *count = 0;
    Result r = OK;
    for (const char *at = (const char *)text.data, *end = at + text.len; !failed(r) && at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((stop ? stop : end) - at);
        Json *o = NULL;
        number++;
        if (len) r = json_parse(&o, at, len);
        if (len && !failed(r)) r = pair_from_json(&(*out)[(*count)++], o, a);
        r = fail_in(r, "%s: line %zu", path, number);
        json_free(o);
        at += len + 1;
    }
    buffer_free(&text);
    return r;
}

static Result task_read(TestPair **out, size_t *count, const Eval *e, Arena *a)
{
    const char *path = e->k->task, *dot = strrchr(path, '.');
    if (dot && (!strcmp(dot, ".jsonl") || !strcmp(dot, ".json"))) GUARD(pairs_from_lines(out, count, path, a));
    else GUARD(data_pairs(out, count, path, PART_TEST, a));
    if (*count == 0) return fail(FAIL_DATA, "%s: no samples", path);
    if (e->k->limit && *count > e->k->limit) *count = (size_t)e->k->limit;
    return OK;
}

static Result answer_generate(Eval *e, const char **out, bool plain, const char *prompt, size_t len, uint32_t most)
{
    Generated g = {0};
    Generation want = {.prompt = prompt, .prompt_len = len, .max_tokens = most, .top_p = 1};
    const Bundle *b = plain ? &e->plain : &e->bundle;
    Result r = generate(&g, b, plain ? SETTING_PLAIN : e->parties.setting, plain ? NULL : e->parties.client, &want, &e->arena);
    const uint8_t *text = g.text.data;
    size_t from = 0, to = g.text.len;
    while (from < to && strchr(" \t\n", text[from])) from++;
    while (to > from && strchr(" \t\n", text[to - 1])) to--;
    if (!failed(r)) *out = arena_format(&e->arena, "%.*s", (int)(to - from), text ? (const char *)text + from : "");
    buffer_free(&g.text);
    return r;
}

static Result sample_eval(Eval *e, const TestPair *pair, const char **hypothesis, const char **plain)
{
    const Tokenizer *t = e->bundle.tokenizer;
    size_t len, prompt_tokens, count;
    int32_t *ids;
    const char *prompt = template_fill(e->form, pair->prompt, strlen(pair->prompt), &len, &e->arena);
    GUARD(tokenizer_encode(t, prompt, len, &ids, &prompt_tokens, &e->arena));
    if (prompt_tokens + 1 >= room(e))
        return fail(FAIL_USE, "the prompt '%.60s' has %zu tokens, the plan's context room for %u", prompt, prompt_tokens, room(e));
    uint32_t most = room(e) - (uint32_t)prompt_tokens < e->k->max_tokens ? room(e) - (uint32_t)prompt_tokens : (uint32_t)e->k->max_tokens;
    GUARD(conversation_open(e, prompt_tokens + most));
    GUARD(conversation_close(e, answer_generate(e, hypothesis, false, prompt, len, most)));
    GUARD(answer_generate(e, plain, true, prompt, len, most));
    const char *whole = arena_format(&e->arena, "%s%s", prompt, pair->answers[0]);
    GUARD(tokenizer_encode(t, whole, strlen(whole), &ids, &count, &e->arena));
    if (count >= room(e)) count = room(e) - 1;
    int32_t *window = arena_new(&e->arena, int32_t, count + 1);
    memcpy(window, ids, count * sizeof *ids);
    if (tokenizer_eos(t) >= 0) window[count++] = tokenizer_eos(t);
    return count > prompt_tokens ? window_score(e, window, count, prompt_tokens - 1) : OK;
}

static Result task_eval(Eval *e)
{
    TestPair *pair;
    size_t count;
    const char *folders[2] = {e->k->adapter, e->k->model};
    GUARD(template_load(&e->form, folders, 2, &e->arena));
    GUARD(task_read(&pair, &count, e, &e->arena));
    const char **hypothesis = arena_new(&e->arena, const char *, count), **plain = arena_new(&e->arena, const char *, count);
    for (size_t i = 0; i < count; i++) {
        GUARD(sample_eval(e, &pair[i], &hypothesis[i], &plain[i]));
        progress(&terminal_progress, "%zu of %zu: %s", i + 1, count, hypothesis[i]);
    }
    e->samples = count;
    e->chrf = score_chrf(hypothesis, pair, count), e->plain_chrf = score_chrf(plain, pair, count);
    e->exact = score_exact(hypothesis, pair, count), e->plain_exact = score_exact(plain, pair, count);
    return OK;
}

// ---- the command -----------------------------------------------------------------------------------------------------

static void eval_print(const Eval *e)
{
    const Sums *s = &e->sums;
    double n = s->positions ? (double)s->positions : 1;
    const char *setting = setting_names[e->parties.setting];
    if (!e->k->json) {
        printf("%-24s %12s %12s\n", "", setting, "plain");
        printf("%-24s %12.4f %12.4f\n", "loss, nats a token", s->loss / n, s->plain_loss / n);
        if (e->samples) {
            printf("%-24s %12.2f %12.2f\n", "chrF", e->chrf, e->plain_chrf);
            printf("%-24s %11.2f%% %11.2f%%\n", "exact match", e->exact, e->plain_exact);
            printf("%-24s %12zu\n", "samples", e->samples);
        }
        printf("%-24s %12llu\n", "positions", (unsigned long long)s->positions);
        printf("%-24s %11.2f%%\n", "same likeliest token", 100 * (double)s->agree / n);
        printf("%-24s %12.4f\n", "largest error of a logit", s->error);
        return;
    }
    Json *o = json_new_object(), *scores = json_new_object();
    json_put(o, "setting", json_of_text(setting));
    json_put(o, "positions", json_of_uint(s->positions));
    json_put(o, "loss", json_of_real(s->loss / n));
    json_put(o, "plain_loss", json_of_real(s->plain_loss / n));
    json_put(o, "argmax_agreement", json_of_real((double)s->agree / n));
    json_put(o, "max_abs_error", json_of_real(s->error));
    json_put(scores, "chrf", json_of_real(e->chrf));
    json_put(scores, "exact_match", json_of_real(e->exact));
    json_put(scores, "plain_chrf", json_of_real(e->plain_chrf));
    json_put(scores, "plain_exact_match", json_of_real(e->plain_exact));
    if (e->k->task) json_put(o, "samples", json_of_uint(e->samples)), json_put(o, "scores", scores);
    else json_free(scores);
    print_json(o);
}

static Result eval_work(Eval *e, const PlanWish *wish)
{
    const EvalArgs *k = e->k;
    Parties *p = &e->parties;
    bool plain = p->setting == SETTING_PLAIN;
    if (!plain) GUARD(plan_settle(&p->plan, wish));
    GUARD(parties_start(p));
    GUARD(plain ? bundle_load_plain(&e->bundle, k->model, k->adapter) : bundle_load(&e->bundle, k->model, k->adapter, p->plan, true));
    GUARD(bundle_load_plain(&e->plain, k->model, k->adapter));
    const char *plan = plain ? k->plan : p->plan;
    GUARD(known_adopt(&e->plain, k->model, k->adapter, plan));
    if (plain) GUARD(known_adopt(&e->bundle, k->model, k->adapter, plan));
    if (!has_sessions(e)) GUARD(parties_open(p, &e->bundle, 0));
    return k->task ? task_eval(e) : text_eval(e);
}

static Result eval_run(const EvalArgs *k, const Option *options)
{
    Eval e = {.k = k, .form = "{}"};
    unsigned threads = party_threads(k->threads, (Setting)k->setting);
    PlanWish wish = {.model = k->model, .adapter = k->adapter, .plan = k->plan};
    wish_read(&wish, options, k->frozen, k->private, k->prefer);
    e.parties = (Parties){.model = k->model, .adapter = k->adapter, .net = k->net, .scores = true, .threads = threads};
    GUARD(setting_choose(&e.parties.setting, k->setting));
    if (!k->text == !k->task) return fail(FAIL_USE, "one of --text and --task must be given");
    threads_start(threads);
    arena_init(&e.arena, false);
    Result r = parties_end(&e.parties, eval_work(&e, &wish));
    if (!failed(r)) eval_print(&e);
    bundle_free(&e.bundle);
    bundle_free(&e.plain);
    arena_free(&e.arena);
    return r;
}

Result eval_command(int argc, char **argv)
{
    EvalArgs k = {.max_tokens = 64, .net = "loopback"};
    Option options[] = {
        OPTION("--model", OPT_TEXT, &k.model, .required = true),
        OPTION("--adapter", OPT_TEXT, &k.adapter),
        OPTION("--setting", OPT_CHOICE, &k.setting, .required = true, .choices = setting_choices),
        OPTION("--text", OPT_TEXT, &k.text),
        OPTION("--task", OPT_TEXT, &k.task),
        OPTION("--limit", OPT_UINT, &k.limit, .min = 1),
        OPTION("--max-tokens", OPT_UINT, &k.max_tokens, .min = 1, .max = 1 << 20),
        OPTION("--frozen", OPT_REAL, &k.frozen, .max = 1e6),
        OPTION("--private", OPT_CHOICE, &k.private, .choices = private_names),
        OPTION("--prefer", OPT_CHOICE, &k.prefer, .choices = prefer_names),
        OPTION("--plan", OPT_TEXT, &k.plan),
        OPTION("--net", OPT_TEXT, &k.net),
        OPTION("--threads", OPT_UINT, &k.threads, .min = 1, .max = 256),
        OPTION("--json", OPT_FLAG, &k.json),
    };
    GUARD(OPTIONS_PARSE(options, argc, argv));
    Net net;
    GUARD(net_parse(&net, k.net));
    return eval_run(&k, options);
}
