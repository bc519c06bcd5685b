/* data_json.h - training data in JSON: one object a line, or one array of them (private to tune/). */
#ifndef MARILL_DATA_JSON_H
#define MARILL_DATA_JSON_H

#include "tune/data_chat.h"
#include "tune/tune.h"

/* What the objects of a file are; all of a file are the same. The first whose member is there counts, further ones are
 * passed over. */
typedef enum {
    FORM_NONE,
    FORM_MESSAGES,                             // {"messages": [{"role": "system|user|assistant", "content"}]}; "weight": 0 is not learned
    FORM_CONVERSATIONS,                        // {"conversations": [{"from": "system|human|gpt", "value"}]}
    FORM_COMPLETION,                           // {"prompt", "completion"}, as they are
    FORM_INSTRUCTION,                          // {"instruction", "input" (may be absent), "output"}
    FORM_TEXT                                  // {"text"}: a turn without a prompt
} JsonForm;

typedef struct JsonRecord {
    Turn *turn;                                // (turns), at least one; a completion is never empty
    uint32_t turns;
    DataPart part;                             // by the hash of the first thing asked, before any template; of the text, if it is one
} JsonRecord;

typedef struct JsonRecords { JsonRecord *record; size_t count; JsonForm form; } JsonRecords;

/* Reads UTF-8 without NUL (as text_read gives it). Fails with the line of a record that is wrong in any way: not JSON, too large
 * or too deep, a member absent, empty or of a wrong type, another form than the records before. Empty lines are passed over. */
CHECKED Result json_records_parse(JsonRecords *out, const char *text, size_t len, const ChatTemplate *t, Arena *a);

#endif
