/* eval.h - one measurement of how near a setting is to the plain model (eval.c: over text; eval_task.c: over a task). */
#ifndef MARILL_EVAL_H
#define MARILL_EVAL_H

#include "app/app.h"

typedef struct EvalArgs {
    const char *model, *adapter, *plan, *text, *task, *net, *judge, *answers;
    unsigned setting, private, prefer;
    uint64_t limit, max_tokens, threads;       // max_tokens 0: what the task is given
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
    size_t samples, too_long;                  // too_long: prompts without room in the context, which count as answered by nothing
    const char *skipped;                       // a score that could not be had, and why
    TaskScores scores, plain_scores;
    Arena arena;                               // of the run
} Eval;

/* dealer: every conversation has a pool of its own, so a session of its own. */
CHECKED Result conversation_open(Eval *e, size_t positions);
CHECKED Result conversation_close(Eval *e, Result r);
uint32_t eval_room(const Eval *e);             // tokens that the context has room for
/* Teacher-forced: rows from `from` on predict the token after them. */
CHECKED Result window_score(Eval *e, const int32_t *tokens, size_t count, size_t from);

CHECKED Result task_eval(Eval *e);

#endif
