/* train_loop.c - the loop that `train` and `tune` share: batches, steps, validation, the run folder.
 *
 * The run folder has checkpoint.bin, loss.csv, what run_record.h lists, and the result folder: the parameters of the lowest
 * held-out loss so far, or of the last checkpoint. It is written before the checkpoint that knows of it, so a run that is killed
 * anywhere and resumed comes to the same files. A signal to stop is noticed between steps and ends the run with a checkpoint.
 *
 * With several ranks, rank 0 writes the files and the others follow; a batch is cut into as many shares as all ranks have threads.
 * A launcher that loses a rank sends the others the signal to stop and kills them soon after. They cannot finish the step at hand,
 * so rank 0, whose parameters are still those of the step before, saves these at once. */
#include "tune/cut_cache.h"
#include "tune/dropout.h"
#include "tune/grad_buckets.h"
#include "tune/ranks.h"
#include "tune/run_record.h"
#include "tune/train.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PACK_ROWS = 512, CSV_LIMIT = 1 << 28 };
static const double lead_waits = 0.2, others_wait = 60;        // seconds that a rank waits for others after a signal to stop
static const char csv_head[] = "step,tokens,lr,train_loss,valid_loss,tokens_per_s\n";

// One thread's share of a batch, and what it computes of it.
typedef struct Share {
    NetScratch *scratch;
    Pack *pack;
    Grads grads;
    float *grad_values;
    const Sample *samples;
    size_t count;
    Teacher *teacher;                          // NULL: none
    Losses losses;
    GradBuckets *buckets;                      // NULL: this rank is the only one
    unsigned index;                            // of the share
} Share;

typedef struct Loop {
    const TrainJob *job;
    unsigned threads;
    size_t pack_rows;
    TrainState state;
    DataSet set, valid;                        // of the epoch at hand; held out
    Arena arena, set_arena;
    Share *share;                              // (threads)
    float **grad_values;                       // (threads)
    Objective objective;                       // of the batch at hand
    bool learning;                             // else validating
    bool stop;                                 // all ranks know that one of them was asked to
    double asked;                              // when a rank that waits was first seen to be asked; 0: it was not
    uint64_t rescued;                          // the step whose parameters were saved since others do not answer; 0: none
    GradBuckets buckets;
    const Sample *batch;                       // whose cuts are, where they are kept,
    const float **cut;                         // (samples of the batch); NULL: none is known
    float **fresh;                             // (fresh_count) places in the cache to fill
    const Sample **fresh_sample;
    size_t fresh_count;
    CutCache cache;
    bool caching;
    Arena step_arena;
    const char *checkpoint_path, *csv_path;
    FILE *csv;
    double loss_sum, since;                    // since the last row of the CSV: losses, and when
    uint64_t loss_steps, loss_tokens;
} Loop;

// ---- signals ---------------------------------------------------------------------------------------------------------

static volatile sig_atomic_t stop_asked;

static void stop_note(int number)
{
    (void)number;
    stop_asked = 1;
}

typedef struct Signals { struct sigaction term, interrupt; } Signals;

static void signals_take(Signals *old)
{
    struct sigaction note = {.sa_handler = stop_note};
    sigemptyset(&note.sa_mask);
    stop_asked = 0;
    sigaction(SIGTERM, &note, &old->term);
    sigaction(SIGINT, &note, &old->interrupt);
}

static void signals_give_back(const Signals *old)
{
    sigaction(SIGTERM, &old->term, NULL);
    sigaction(SIGINT, &old->interrupt, NULL);
}

// ---- data ------------------------------------------------------------------------------------------------------------

static size_t sample_rows(const Sample *s)
{
    return s->len ? s->len - 1 : 0;
}

static size_t samples_learned(const Sample *s, size_t count)
{
    size_t learned = 0;
    for (size_t i = 0; i < count; i++)
        for (uint32_t t = 1; t < s[i].len; t++) learned += s[i].learn[t] != 0;
    return learned;
}

/* The samples from `at` on that fill a batch: as many whole ones as fit, at least one. */
static size_t batch_count(const DataSet *set, size_t at, size_t tokens)
{
    size_t rows = 0, count = 0;
    for (; at + count < set->count; count++) {
        rows += sample_rows(&set->sample[at + count]);
        if (rows > tokens && count) break;
    }
    return count;
}

/* Batches in an epoch: the last one is left out if it is less than half full, unless it is the only one. */
static bool batch_is_whole(const DataSet *set, size_t at, size_t count, size_t tokens)
{
    size_t rows = 0;
    for (size_t i = at; i < at + count; i++) rows += sample_rows(&set->sample[i]);
    return count && (at + count < set->count || at == 0 || 2 * rows >= tokens);
}

static uint64_t epoch_batches(const DataSet *set, size_t tokens)
{
    uint64_t batches = 0;
    for (size_t at = 0, count; at < set->count; at += count) {
        count = batch_count(set, at, tokens);
        batches += batch_is_whole(set, at, count, tokens);
    }
    return batches;
}

static Result epoch_load(Loop *l)
{
    const Recipe *r = l->job->recipe;
    arena_free(&l->set_arena);
    arena_init(&l->set_arena, false);
    GUARD(data_load(&l->set, r->sources, r->source_count, PART_TRAIN, l->job->tokenizer, r->context, r->seed, l->state.epoch,
                    &l->set_arena));
    if (samples_learned(l->set.sample, l->set.count)) return OK;
    return fail(FAIL_DATA, "the sources have nothing to learn in their training part");
}

/* Held-out samples, the same at every validation, up to eval_tokens. */
static Result valid_load(Loop *l)
{
    const Recipe *r = l->job->recipe;
    if (!r->eval_every) return OK;
    GUARD(data_load(&l->valid, r->sources, r->source_count, PART_VALID, l->job->tokenizer, r->context, r->seed, 0, &l->arena));
    size_t rows = 0, count = 0;
    for (; count < l->valid.count && rows < r->eval_tokens; count++) rows += sample_rows(&l->valid.sample[count]);
    l->valid.count = count;
    return OK;
}

// ---- steps -----------------------------------------------------------------------------------------------------------

/* Cuts samples into consecutive shares of about the same number of rows, of which this rank's are kept. */
static void shares_cut(Loop *l, const Sample *samples, size_t count)
{
    unsigned shares = l->threads * ranks_count(), first = l->threads * ranks_index();
    size_t total = 0, rows = 0, at = 0;
    for (size_t i = 0; i < count; i++) total += sample_rows(&samples[i]);
    for (unsigned w = 0; w < shares; w++) {
        size_t begin = at, until = total * (w + 1) / shares;
        for (; at < count && (rows + sample_rows(&samples[at]) / 2 < until || w + 1 == shares); at++) rows += sample_rows(&samples[at]);
        if (w < first || w - first >= l->threads) continue;
        l->share[w - first].samples = samples + begin;
        l->share[w - first].count = at - begin;
    }
}

static bool keeps_best(const Loop *l)
{
    return l->job->recipe->keep == KEEP_BEST && l->job->recipe->eval_every && l->valid.count;
}

static Division division_of(const Loop *l)
{
    return (Division){l->threads, ranks_count()};
}

/* The result is written first: a checkpoint never knows of a better one than the folder has. */
static Result state_write(const Loop *l)
{
    const TrainJob *j = l->job;
    if (!keeps_best(l)) GUARD(j->save(j->ctx));
    return checkpoint_write(&l->state, j->recipe, division_of(l), l->checkpoint_path);
}

/* Saves the step before the one at hand, whose gradients are on their way. */
static void state_rescue(Loop *l)
{
    if (l->rescued || !ranks_lead() || !l->learning || !l->state.step) return;
    if (!failed(state_write(l))) l->rescued = l->state.step;
}

/* Asked while this rank waits for others. Once all know of the signal nobody is missing; a validation is waited for. */
static bool loop_gives_up(void *ctx)
{
    Loop *l = ctx;
    if (!stop_asked || l->stop || !l->learning) return false;
    if (l->asked <= 0) l->asked = clock_seconds();
    if (clock_seconds() - l->asked < (ranks_lead() ? lead_waits : others_wait)) return false;
    state_rescue(l);
    return true;
}

static void layer_left(void *ctx, uint32_t layer)
{
    const Share *s = ctx;
    buckets_leave(s->buckets, s->index, layer);
}

static void share_run(void *ctx, size_t begin, size_t end)
{
    Loop *l = ctx;
    const Net *n = l->job->net;
    for (size_t w = begin; w < end; w++) {
        Share *s = &l->share[w];
        Objective o = l->objective;
        o.teacher = s->teacher;
        s->losses = (Losses){0};
        if (l->learning) memset(s->grad_values, 0, l->job->params->total * sizeof *s->grad_values);
        for (size_t done = 0, taken; done < s->count; done += taken) {
            size_t first = (size_t)(s->samples - l->batch) + done;
            taken = pack_fill(s->pack, l->pack_rows, s->samples + done, s->count - done);
            s->grads.left = s->buckets && done + taken == s->count ? layer_left : NULL;
            if (s->buckets && w == 0 && stop_asked) state_rescue(l);
            for (size_t i = 0; i < s->pack->samples; i++) {
                size_t sample = first + s->pack->source[i];
                if (l->learning && n->dropout > 0) s->pack->noise[i] = noise_of(l->job->recipe->seed, l->state.step, sample);
                uint64_t step = l->learning ? l->state.step : UINT64_MAX;
                if (n->secure) s->pack->coin[i] = noise_of(~(uint64_t)l->job->recipe->seed, step, sample);
                s->pack->cut[i] = l->cut ? l->cut[sample] : NULL;
            }
            Losses more = net_learn(n, s->scratch, s->pack, &o, l->learning ? &s->grads : NULL);
            s->losses.labels += more.labels, s->losses.logits += more.logits;
            s->losses.hidden += more.hidden, s->losses.row_bound += more.row_bound;
        }
        if (l->learning && s->buckets) buckets_leave_all(s->buckets, s->index);
    }
}

static void cuts_run(void *ctx, size_t begin, size_t end)              // thread `begin` of l->threads fills its part
{
    Loop *l = ctx;
    for (size_t w = begin; w < end; w++)
        for (size_t i = w; i < l->fresh_count; i += l->threads)
            net_cut(l->job->net, l->share[w].scratch, l->fresh[i], l->fresh_sample[i]->tokens, l->fresh_sample[i]->len - 1);
}

/* Finds the cuts of this rank's part of a batch, and computes those that will be kept. */
static void cuts_find(Loop *l, const Sample *samples, size_t count)
{
    l->cut = NULL, l->fresh_count = 0;
    if (!l->caching) return;
    l->cut = arena_new(&l->step_arena, const float *, count);
    l->fresh = arena_new(&l->step_arena, float *, count);
    l->fresh_sample = arena_new(&l->step_arena, const Sample *, count);
    const Share *last = &l->share[l->threads - 1];
    size_t end = (size_t)(last->samples - samples) + last->count;
    for (size_t i = (size_t)(l->share[0].samples - samples); i < end; i++) {
        bool fresh;
        float *place = cut_cache_place(&l->cache, &samples[i], &fresh);
        l->cut[i] = place;
        if (fresh) l->fresh[l->fresh_count] = place, l->fresh_sample[l->fresh_count++] = &samples[i];
    }
    if (l->fresh_count) parallel_for(l->threads, 1, cuts_run, l);
}

/* What counts at the step at hand: the labels, or first a teacher's hidden states and then its logits beside the labels. */
static Objective objective_of(const Loop *l, size_t rows, size_t learned)
{
    const Recipe *r = l->job->recipe;
    const DistillRecipe *d = &r->distill;
    float each = learned ? 1.0f / (float)learned : 0;
    if (!l->learning || !l->job->teacher) return (Objective){.labels = each, .row_bound = each};
    bool hidden = (double)l->state.step < d->hidden_share * r->steps, both = d->hidden_share <= 0;
    Objective o = {.row_bound = each, .temperature = (float)d->temperature};
    if ((hidden || both) && rows) o.hidden = (float)d->hidden / (float)rows;
    if (!hidden || both) o.labels = each * (float)d->labels, o.logits = each * (float)d->logits;
    return o;
}

/* Adds up what the shares computed, at all ranks; whether a rank was asked to stop goes with it. */
static Result losses_add(Loop *l, Losses *sum)
{
    double all[5] = {[4] = stop_asked};
    for (unsigned w = 0; w < l->threads; w++) {
        const Losses *s = &l->share[w].losses;
        all[0] += s->labels, all[1] += s->logits, all[2] += s->hidden, all[3] += s->row_bound;
    }
    GUARD(ranks_sum_wait());
    GUARD(ranks_add(all, 5));
    if (l->learning) l->stop = all[4] > 0;
    *sum = (Losses){all[0], all[1], all[2], all[3]};
    return OK;
}

/* The objective over the samples, which is their mean cross-entropy in nats where nothing else is learned from or where it is
 * held-out ones; with `learning` the gradients in the shares, or, with several ranks, their sum in the first. */
static Result samples_run(Loop *l, double *out, const Sample *samples, size_t count, bool learning)
{
    size_t learned = samples_learned(samples, count), rows = 0;
    for (size_t i = 0; i < count; i++) rows += sample_rows(&samples[i]);
    ArenaMark mark = arena_mark(&l->step_arena);
    Losses sum = {0};
    l->learning = learning, l->batch = samples;
    l->objective = objective_of(l, rows, learned);
    shares_cut(l, samples, count);
    cuts_find(l, samples, count);
    if (learning && ranks_count() > 1) buckets_begin(&l->buckets);
    parallel_for(l->threads, 1, share_run, l);
    arena_rollback(&l->step_arena, mark);
    GUARD(losses_add(l, &sum));
    const Objective *o = &l->objective;
    if (!learning) *out = learned ? sum.labels / (double)learned : 0;
    else *out = (double)o->labels * sum.labels + (double)o->logits * sum.logits + (double)o->hidden * sum.hidden +
           (double)o->row_bound * (double)l->job->net->row_weight * sum.row_bound;
    return OK;
}

/* Norms become constants over the first share of the steps. */
static void norms_anneal(const Loop *l)
{
    const Recipe *r = l->job->recipe;
    double steps = r->form.anneal * r->steps, mix = steps > 0 ? (double)(l->state.step + 1) / steps : 1;
    if (l->job->variant && l->job->variant->norm) l->job->variant->norm_mix = (float)(mix < 1 ? mix : 1);
}

static double rate_at(const Recipe *r, uint64_t step)
{
    return schedule_rate(r->learning_rate, r->min_ratio, step, r->warmup, r->steps);
}

static Result step_run(Loop *l)
{
    const Recipe *r = l->job->recipe;
    TrainState *s = &l->state;
    size_t count = batch_count(&l->set, s->sample, r->batch_tokens);
    if (!batch_is_whole(&l->set, s->sample, count, r->batch_tokens)) {
        s->epoch++, s->sample = 0;
        GUARD(epoch_load(l));
        count = batch_count(&l->set, 0, r->batch_tokens);
    }
    const Sample *batch = l->set.sample + s->sample;
    norms_anneal(l);
    double loss;
    GUARD(samples_run(l, &loss, batch, count, true));
    float *grads = l->grad_values[0];
    double norm = grads_sum(grads, l->grad_values, ranks_count() > 1 ? 1 : l->threads, s->total);
    if (!isfinite(loss) || !isfinite(norm))
        return fail(FAIL_DATA, "the loss is no longer a number at step %llu: try a lower learning_rate", (unsigned long long)s->step + 1);
    if (r->clip > 0 && norm > r->clip) grads_scale(grads, s->total, (float)(r->clip / norm));
    s->step++;
    Adam adam = {r->beta1, r->beta2, r->epsilon, r->weight_decay};
    adam_step(s->values, s->moment1, s->moment2, grads, l->job->params, &adam, rate_at(r, s->step), s->step);
    s->sample += count;
    for (size_t i = 0; i < count; i++) s->tokens += sample_rows(&batch[i]), l->loss_tokens += sample_rows(&batch[i]);
    l->loss_sum += loss, l->loss_steps++;
    return OK;
}

// ---- records ---------------------------------------------------------------------------------------------------------

static Result csv_fail(const Loop *l)
{
    return fail(FAIL_SYSTEM, "%s: cannot write", l->csv_path);
}

/* Opens loss.csv without the rows of steps beyond the state's, which a resumed run will write again. */
static Result csv_open(Loop *l)
{
    Buffer old = {0}, kept = {0};
    buffer_append(&kept, csv_head, strlen(csv_head));
    if (l->state.step && file_exists(l->csv_path)) {
        GUARD(file_read(&old, l->csv_path, CSV_LIMIT));
        for (const char *line = (const char *)old.data, *end; (end = strchr(line, '\n')); line = end + 1) {
            unsigned long long step = strtoull(line, NULL, 10);
            if (step && step <= l->state.step) buffer_append(&kept, line, (size_t)(end - line) + 1);
        }
    }
    Result r = file_write(l->csv_path, kept.data, kept.len, 0644);
    buffer_free(&old);
    buffer_free(&kept);
    GUARD(r);
    l->csv = fopen(l->csv_path, "a");
    return l->csv ? OK : csv_fail(l);
}

static void time_say(char out[32], double seconds)
{
    unsigned long s = seconds < 1e6 ? (unsigned long)(seconds + 0.5) : 999999;
    snprintf(out, 32, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
}

/* A row of loss.csv and a line of progress over the steps since the last one; valid < 0: none. */
static Result row_write(Loop *l, double valid)
{
    const Recipe *r = l->job->recipe;
    TrainState *s = &l->state;
    if (!l->loss_steps && valid < 0) return OK;
    if (!ranks_lead()) return OK;
    double now = clock_seconds(), spent = now - l->since, rate = spent > 0 ? (double)l->loss_tokens / spent : 0;
    double train = l->loss_steps ? l->loss_sum / (double)l->loss_steps : 0;
    s->seconds += spent;
    char valid_text[32] = "", left[32];
    if (valid >= 0) snprintf(valid_text, sizeof valid_text, "%.5f", valid);
    time_say(left, s->seconds / (double)s->step * (double)(r->steps - s->step));
    unsigned long long step = s->step, tokens = s->tokens;
    if (fprintf(l->csv, "%llu,%llu,%.6g,%.5f,%s,%.0f\n", step, tokens, rate_at(r, step), train, valid_text, rate) < 0) return csv_fail(l);
    if (fflush(l->csv) != 0) return csv_fail(l);
    progress(l->job->options->progress, "step %llu of %u, loss %.4f%s%s, rate %.3g, %.0f tokens/s, %s left", step, r->steps,
             train, valid >= 0 ? ", held out " : "", valid_text, rate_at(r, step), rate, left);
    l->loss_sum = 0, l->loss_steps = l->loss_tokens = 0, l->since = clock_seconds();
    return OK;
}

/* All ranks go on from rank 0's state, so that no difference between their processors grows, and a resumed run is the same. */
static Result state_spread(Loop *l)
{
    TrainState *s = &l->state;
    size_t bytes = s->total * sizeof *s->values;
    float *const own[3] = {s->values, s->moment1, s->moment2};
    GUARD(ranks_copy(s, sizeof *s));
    s->values = own[0], s->moment1 = own[1], s->moment2 = own[2];
    for (int i = 0; i < 3; i++) GUARD(ranks_copy(own[i], bytes));
    return OK;
}

/* Nobody leaves before it is written: the launcher would end the others. */
static Result checkpoint_save(Loop *l)
{
    double met = 1;
    GUARD(state_spread(l));
    if (ranks_lead()) GUARD(state_write(l));
    return ranks_add(&met, 1);
}

static Result result_save(Loop *l)
{
    return ranks_lead() ? l->job->save(l->job->ctx) : OK;
}

/* Judges the parameters at hand by held-out loss. While norms are on their way to constants they are not yet a result. */
static Result step_judge(Loop *l, double *valid)
{
    const TrainJob *j = l->job;
    TrainState *s = &l->state;
    GUARD(samples_run(l, valid, l->valid.sample, l->valid.count, false));
    if (j->variant && j->variant->norm && j->variant->norm_mix < 1) return OK;
    if (s->best_step && *valid >= s->best_loss) {
        s->stale++;
        return OK;
    }
    s->best_loss = *valid, s->best_step = s->step, s->stale = 0;
    return keeps_best(l) ? result_save(l) : OK;
}

// ---- the run ---------------------------------------------------------------------------------------------------------

/* Whether two models have the same embedding and the same layers below `until`. */
static bool layers_equal(const Model *a, const Model *b, uint32_t until)
{
    const ModelConfig *c = &a->config;
    size_t row = c->width * sizeof(float);
    if (memcmp(a->embed, b->embed, c->vocab * row)) return false;
    for (uint32_t l = 0; l < until; l++) {
        const LayerWeights *x = &a->layer[l], *y = &b->layer[l];
        if (memcmp(x->attn_norm, y->attn_norm, row) || memcmp(x->ffn_norm, y->ffn_norm, row)) return false;
        for (MatrixKind m = 0; m < MAT_COUNT; m++)
            if (memcmp(x->mat[m], y->mat[m], (size_t)matrix_rows(c, m) * matrix_cols(c, m) * sizeof(float))) return false;
    }
    return true;
}

/* Cuts are kept where samples come again: in more than one epoch, and with prompts that are not drawn anew. */
static void cache_start(Loop *l, uint64_t batches)
{
    const Recipe *r = l->job->recipe;
    l->caching = r->cache && r->cache_mb && l->job->net->first && r->steps > batches;
    for (size_t i = 0; i < r->source_count; i++) l->caching &= r->sources[i].noise <= 0;
    if (l->caching) cut_cache_init(&l->cache, l->job->net->model->config.width, (size_t)r->cache_mb << 20);
}

static void shares_new(Loop *l)
{
    const TrainJob *j = l->job;
    const Recipe *r = j->recipe;
    l->pack_rows = r->context > PACK_ROWS ? r->context : PACK_ROWS;
    bool shares_cut = j->teacher && layers_equal(j->teacher, j->net->model, j->net->first);
    l->share = arena_new(&l->arena, Share, l->threads);
    l->grad_values = arena_new(&l->arena, float *, l->threads);
    for (unsigned w = 0; w < l->threads; w++) {
        Share *s = &l->share[w];
        s->scratch = net_scratch(j->net, l->pack_rows, &l->arena);
        s->pack = pack_new(l->pack_rows, &l->arena);
        s->grad_values = l->grad_values[w] = arena_new(&l->arena, float, j->params->total);
        const ModelConfig *c = &j->net->model->config;
        if (j->layers_only) params_bind_layer_grads(&s->grads, c, j->net->first, s->grad_values, &l->arena);
        else params_bind_grads(&s->grads, c, j->net->adapter, s->grad_values, &l->arena);
        if (j->teacher) s->teacher = teacher_new(j->teacher, j->net, shares_cut, l->pack_rows, &l->arena);
        s->index = w, s->grads.ctx = s;
        if (ranks_count() > 1) s->buckets = &l->buckets;
    }
    if (ranks_count() > 1) buckets_make(&l->buckets, j->params, l->grad_values, l->threads, &l->arena);
    l->state.total = j->params->total;
    l->state.values = j->values;
    l->state.moment1 = arena_new(&l->arena, float, j->params->total);
    l->state.moment2 = arena_new(&l->arena, float, j->params->total);
}

/* Fills recipe->steps where the recipe counts in epochs, and says what the run will be. */
static Result plan_make(Loop *l)
{
    Recipe *r = l->job->recipe;
    uint64_t batches = epoch_batches(&l->set, r->batch_tokens);
    if (r->epochs > 0) {
        double steps = floor(r->epochs * (double)batches + 0.5);
        if (steps > 1e9 || steps < r->warmup) return fail(FAIL_DATA, "epochs make %.0f steps, warmup is %u", steps, r->warmup);
        r->steps = steps < 1 ? 1 : (uint32_t)steps;
    }
    cache_start(l, batches);
    const Progress *p = l->job->options->progress;
    if (ranks_count() > 1) progress(p, "%u ranks, each of %u threads", ranks_count(), l->threads);
    progress(p, "%zu parameters; %u steps on %u threads", l->job->params->total, r->steps, l->threads * ranks_count());
    progress(p, "an epoch: %zu samples, %llu tokens, %llu batches; held out: %zu samples", l->set.count,
             (unsigned long long)l->set.tokens, (unsigned long long)batches, l->valid.count);
    size_t long_ones = l->set.too_long + l->valid.too_long;
    if (long_ones) progress(p, "left out: %zu samples longer than the context of %u tokens", long_ones, r->context);
    return OK;
}

static Result folder_take(Loop *l)
{
    const Recipe *r = l->job->recipe;
    GUARD(folder_make(r->out, 0755));
    bool there = file_exists(l->checkpoint_path), resume = l->job->options->resume;
    if (there && !resume) return fail(FAIL_USE, "%s is there already: resume that run, or give another folder as 'out'", l->checkpoint_path);
    if (!there && resume) return fail(FAIL_USE, "%s is absent: there is no run to resume", l->checkpoint_path);
    GUARD(record_begin(r, resume));
    return resume ? checkpoint_read(&l->state, r, division_of(l), l->checkpoint_path) : OK;
}

static Result start_or_resume(Loop *l)
{
    if (ranks_lead()) GUARD(folder_take(l));
    GUARD(state_spread(l));
    if (l->state.epoch) GUARD(epoch_load(l));
    if (l->state.sample > l->set.count) return fail(FAIL_DATA, "%s: made with other data", l->checkpoint_path);
    if (l->job->options->resume) progress(l->job->options->progress, "resumed at step %llu", (unsigned long long)l->state.step);
    return ranks_lead() ? csv_open(l) : OK;
}

/* What all ranks must have in common, or they would follow different samples. */
static Result ranks_compare(const Loop *l)
{
    const Recipe *r = l->job->recipe;
    uint64_t data[4] = {l->set.count, l->set.tokens, l->valid.count, l->job->params->total}, sum = 0;
    for (size_t i = 0; i < l->set.count; i++)
        for (uint32_t t = 0; t < l->set.sample[i].len; t++) sum = (sum ^ (uint64_t)l->set.sample[i].tokens[t]) * 0x100000001B3u;
    GUARD(ranks_same(&l->threads, sizeof l->threads, "their number of threads"));
    GUARD(ranks_same(r->text.data, r->text.len, "the recipe"));
    GUARD(ranks_same(data, sizeof data, "the size of model and data"));
    return ranks_same(&sum, sizeof sum, "the data");
}

static bool due(uint64_t step, uint32_t every, uint32_t steps)
{
    return step == steps || (every && step % every == 0);
}

static bool over(const Loop *l)                // all steps are done, or the held-out loss falls no more
{
    const Recipe *r = l->job->recipe;
    return l->state.step >= r->steps || (r->patience && l->state.stale >= r->patience);
}

static Result loop_steps(Loop *l)
{
    const Recipe *r = l->job->recipe;
    TrainState *s = &l->state;
    l->since = clock_seconds();
    while (!over(l)) {
        GUARD(step_run(l));
        bool stop = l->stop, judge = r->eval_every && l->valid.count && due(s->step, r->eval_every, r->steps);
        double valid = -1;
        if (judge) GUARD(step_judge(l, &valid));
        bool save = due(s->step, r->checkpoint_every, r->steps) || stop || over(l);
        if (save || judge || due(s->step, r->log_every, r->steps)) GUARD(row_write(l, valid));
        if (save) GUARD(checkpoint_save(l));
        if (save) l->since = clock_seconds();
        if (stop && !over(l))
            return fail(FAIL_SYSTEM, "stopped by a signal after step %llu of %u; --resume continues from its checkpoint",
                        (unsigned long long)s->step, r->steps);
    }
    if (!keeps_best(l) || !s->best_step) return result_save(l);
    progress(l->job->options->progress, "kept: step %llu, held out %.4f", (unsigned long long)s->best_step, s->best_loss);
    return OK;
}

/* loss.svg and run.json, once the result is there. */
static Result loop_close(Loop *l)
{
    Result r = fclose(l->csv) != 0 ? csv_fail(l) : OK;
    l->csv = NULL;
    GUARD(r);
    GUARD(curve_draw(l->csv_path, arena_format(&l->arena, "%s/loss.svg", l->job->recipe->out)));
    return record_end(l->job, &l->state, division_of(l));
}

static Result loop_run(Loop *l)
{
    const TrainJob *j = l->job;
    GUARD(epoch_load(l));
    GUARD(valid_load(l));
    GUARD(plan_make(l));
    if (j->options->show) return data_show(&l->set, j->tokenizer, j->options->show);
    if (j->options->dry_run) return OK;
    GUARD(ranks_compare(l));
    shares_new(l);
    GUARD(start_or_resume(l));
    Signals old;
    signals_take(&old);
    ranks_patience(loop_gives_up, l);
    Result r = loop_steps(l);
    ranks_patience(NULL, NULL);
    signals_give_back(&old);
    if (failed(r) && l->rescued)
        return fail_in(r, "stopped within step %llu of %u, and step %llu is saved; --resume continues from there",
                       (unsigned long long)l->rescued + 1, j->recipe->steps, (unsigned long long)l->rescued);
    return failed(r) || !ranks_lead() ? r : loop_close(l);
}

Result train_loop(const TrainJob *job)
{
    const Recipe *r = job->recipe;
    Loop l = {.job = job, .threads = job->options->threads ? job->options->threads : r->threads ? r->threads : threads_count()};
    arena_init(&l.arena, false);
    arena_init(&l.set_arena, false);
    arena_init(&l.step_arena, false);
    l.checkpoint_path = arena_format(&l.arena, "%s/checkpoint.bin", r->out);
    l.csv_path = arena_format(&l.arena, "%s/loss.csv", r->out);
    Result result = loop_run(&l);
    if (l.csv && fclose(l.csv) != 0 && !failed(result)) result = csv_fail(&l);
    arena_free(&l.arena);
    arena_free(&l.set_arena);
    arena_free(&l.step_arena);
    if (l.caching) cut_cache_free(&l.cache);
    return result;
}

Result ranks_run(const char *recipe_path, const TrainOptions *o, Result (*work)(const char *recipe_path, const TrainOptions *o))
{
    GUARD(ranks_start());
    TrainOptions own = *o;
    if (!ranks_lead()) own.progress = NULL;
    Result r = work(recipe_path, &own);
    if (failed(r)) return ranks_lead() ? r : fail_in(r, "rank %u", ranks_index());
    ranks_end();
    return OK;
}

Result tokenizer_copy(const char *from, const char *folder)
{
    Buffer text = {0};
    Arena a;
    arena_init(&a, false);
    Result r = file_read(&text, from, 1 << 28);
    if (!failed(r)) r = file_write(arena_format(&a, "%s/tokenizer.model", folder), text.data, text.len, 0644);
    buffer_free(&text);
    arena_free(&a);
    return r;
}
