/* eval.c - how near a setting is to the plain model: teacher-forced loss over text, or over the answers of a task with the
 * scores of what is generated (eval_task.c), each beside the folder's own floating-point model in the same run. */
#include "app/eval.h"

#include <math.h>
#include <string.h>

const char eval_usage[] =
    "--model DIR [--adapter DIR] --setting S (--text FILE | --task FILE) [options]\n"
    "  --text FILE                  UTF-8; cut into windows of the plan's context, each behind a BOS token\n"
    "  --task FILE                  pairs, a line an answer, a tab, a prompt (their held-out test part); or JSON lines of prompt\n"
    "                               and completion, question and answer, or text with a last 'A:', or of 'marill task'\n"
    "  --limit N                    positions of a text, samples of a task, evenly spread (all)\n"
    "  --max-tokens N               of an answer (64; chat: 160)\n"
    "  --judge DIR                  chat: the model under which the replies' perplexity is taken\n"
    "  --answers FILE               write what was answered, a JSON line a sample\n"
    "  --frozen N --private layers|lora --prefer exchanges|bytes --plan FILE\n"
    "  --net NET                    as of 'marill run'\n"
    "  --threads N\n"
    "  --json\n"
    "With --private layers the embedding and the head stay those of the public base, which flatters it in a comparison.\n";

enum { FILE_LIMIT = 1 << 28 };

static bool has_sessions(const Eval *e) { return e->parties.setting == SETTING_DEALER; }

Result conversation_open(Eval *e, size_t positions)
{
    return has_sessions(e) ? parties_open(&e->parties, &e->bundle, positions) : OK;
}

Result conversation_close(Eval *e, Result r)
{
    if (failed(r) || !has_sessions(e)) return r;
    return parties_close_session(&e->parties);
}

uint32_t eval_room(const Eval *e) { return e->bundle.plan.context - e->bundle.plan.known; }

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

Result window_score(Eval *e, const int32_t *tokens, size_t count, size_t from)
{
    uint32_t vocab = e->bundle.model.config.vocab;
    Arena a;
    arena_init(&a, true);
    float *got = arena_alloc(&a, count * vocab, sizeof *got), *plain = got;
    bool alone = e->parties.setting == SETTING_PLAIN;         // the same model twice
    if (!alone) plain = arena_alloc(&a, count * vocab, sizeof *plain);
    Result r = conversation_open(e, count);
    if (!failed(r)) r = conversation_close(e, score_window(got, &e->bundle, e->parties.setting, e->parties.client, tokens, count));
    if (!failed(r) && !alone) r = score_window(plain, &e->plain, SETTING_PLAIN, NULL, tokens, count);
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
    for (size_t at = 0; !failed(r) && at + 1 < count && (!e->k->limit || e->sums.positions < e->k->limit); at += eval_room(e)) {
        size_t len = count - at < eval_room(e) ? count - at : eval_room(e);
        if (e->k->limit && len > e->k->limit - e->sums.positions + 1) len = (size_t)(e->k->limit - e->sums.positions + 1);
        r = window_score(e, ids + at, len, 0);
        progress(&terminal_progress, "%llu positions: loss %.4f, plain %.4f", (unsigned long long)e->sums.positions,
                 e->sums.loss / (double)e->sums.positions, e->sums.plain_loss / (double)e->sums.positions);
    }
    return r;
}

// ---- the command -----------------------------------------------------------------------------------------------------

static Json *json_of_score(Score s)
{
    Json *o = json_new_object();
    json_put(o, "value", json_of_real(s.value));
    json_put(o, "low", json_of_real(s.low));
    json_put(o, "high", json_of_real(s.high));
    return o;
}

static void eval_print(const Eval *e)
{
    const Sums *s = &e->sums;
    double n = s->positions ? (double)s->positions : 1;
    const char *setting = setting_names[e->parties.setting];
    if (!e->k->json) {
        printf("%-24s %12s %12s\n", "", setting, "plain");
        printf("%-24s %12.4f %12.4f\n", "loss, nats a token", s->loss / n, s->plain_loss / n);
        if (e->samples) {
            for (size_t i = 0; i < e->scores.count; i++) {
                Score got = e->scores.score[i], want = e->plain_scores.score[i];
                printf("%-24s %12.2f %12.2f    95 %%: %.2f to %.2f, %.2f to %.2f\n", e->scores.name[i], got.value, want.value, got.low,
                       got.high, want.low, want.high);
            }
            printf("%-24s %12zu\n", "samples", e->samples);
            if (e->skipped) printf("skipped: %s\n", e->skipped);
            if (e->too_long) printf("%-24s %12zu\n", "prompts without room", e->too_long);
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
    for (size_t i = 0; i < e->scores.count; i++) {
        char name[64];
        snprintf(name, sizeof name, "plain_%s", e->scores.name[i]);
        json_put(scores, e->scores.name[i], json_of_score(e->scores.score[i]));
        json_put(scores, name, json_of_score(e->plain_scores.score[i]));
    }
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
    EvalArgs k = {.net = "loopback"};
    Option options[] = {
        OPTION("--model", OPT_TEXT, &k.model, .required = true),
        OPTION("--adapter", OPT_TEXT, &k.adapter),
        OPTION("--setting", OPT_CHOICE, &k.setting, .required = true, .choices = setting_choices),
        OPTION("--text", OPT_TEXT, &k.text),
        OPTION("--task", OPT_TEXT, &k.task),
        OPTION("--limit", OPT_UINT, &k.limit, .min = 1),
        OPTION("--max-tokens", OPT_UINT, &k.max_tokens, .min = 1, .max = 1 << 20),
        OPTION("--judge", OPT_TEXT, &k.judge),
        OPTION("--answers", OPT_TEXT, &k.answers),
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
