/* task.h - how the data of a task are made (private to tune/).
 *
 * A generator adds *lines* to the parts of a task and *texts* to what a base may read. Its choices come from one stream of
 * random numbers that the seed decides, but never which part something falls into: that hangs on a hash of the thing
 * itself, so a base and a task made with different seeds still agree on what is held out. */
#ifndef MARILL_TASK_H
#define MARILL_TASK_H

#include "base/random.h"
#include "base/text_table.h"
#include "model/json.h"
#include "tune/tune.h"

typedef struct TaskMaker {
    const char *data;                          // folder of the development data
    uint64_t random;
    Buffer part[PART_ALL];                     // JSON lines
    Buffer extra;                              // a second test: WikiSQL's
    TextTable base;                            // lines of the base's text, each once
    Buffer base_pairs;                         // the training pairs in two columns, for a base that has read such pairs
    TaskCounts counts;
    Arena arena;
} TaskMaker;

bool random_chance(uint64_t *state, unsigned percent);        // true for so many of 100 draws

/* {"task", "prompt", "completion"}, to which more may be put before task_line takes it. */
Json *task_object(const char *task, const char *prompt, const char *completion);
void task_line(TaskMaker *m, DataPart part, Json *line);      // frees it
void task_base(TaskMaker *m, const char *text);               // a line of text without its partner

CHECKED Result task_make_sql(TaskMaker *m);
CHECKED Result task_make_chat(TaskMaker *m);

#endif
