/* data_json.c - training data in JSON.
 *
 * A file is cut into objects before any is parsed, lines of JSONL and elements of one large array alike, so that memory is
 * bounded by the largest object, and every failure has a line. */
#include "tune/data_json.h"
#include "model/json.h"
#include "tune/data_split.h"

#include <string.h>

enum { RECORD_LIMIT = 8 << 20, MESSAGE_LIMIT = 1024 };

typedef struct Reader {
    JsonRecords *out;
    size_t cap;
    const ChatTemplate *form;
    Arena *arena;
} Reader;

static const char *const form_names[] = {"nothing", "messages", "conversations", "prompt and completion", "instruction and output", "text"};

// ---- one record ------------------------------------------------------------------------------------------------------

static JsonForm form_of(const Json *o)
{
    if (json_find(o, "messages")) return FORM_MESSAGES;
    if (json_find(o, "conversations")) return FORM_CONVERSATIONS;
    if (json_find(o, "prompt") || json_find(o, "completion")) return FORM_COMPLETION;
    if (json_find(o, "instruction") || json_find(o, "output")) return FORM_INSTRUCTION;
    return json_find(o, "text") ? FORM_TEXT : FORM_NONE;
}

static DataPart part_of(const char *text)
{
    size_t len = text_trim(&text, strlen(text));
    return text_part(text, len);
}

static bool is_blank(const char *text)
{
    return text_trim(&text, strlen(text)) == 0;
}

static Result message_read(Message *out, const Json *o, bool openai)
{
    static const char *const roles[2][3] = {{"system", "human", "gpt"}, {"system", "user", "assistant"}};
    const char *role = NULL;
    uint32_t weight = 1;
    if (json_kind(o) != KIND_OBJECT) return fail(FAIL_DATA, "not an object");
    GUARD(json_get_text(&role, o, openai ? "role" : "from"));
    GUARD(json_get_text(&out->text, o, openai ? "content" : "value"));
    if (openai) GUARD(json_get_u32_or(&weight, o, "weight", 0, 1, 1));
    out->learned = weight;
    for (out->role = ROLE_SYSTEM; out->role <= ROLE_ASSISTANT; out->role++)
        if (!strcmp(role, roles[openai][out->role])) return OK;
    return fail(FAIL_DATA, "unknown role '%.40s': it must be %s, %s or %s", role, roles[openai][0], roles[openai][1], roles[openai][2]);
}

static Result chat_read(Reader *r, JsonRecord *out, const Json *o, bool openai)
{
    const Json *list = NULL;
    const char *key = openai ? "messages" : "conversations";
    GUARD(json_get_array(&list, o, key, MESSAGE_LIMIT));
    size_t count = json_count(list), learned = 0;
    Message *m = arena_new(r->arena, Message, count);
    for (size_t i = 0; i < count; i++) {
        Result read = message_read(&m[i], json_at(list, i), openai);
        if (failed(read)) return fail_in(read, "message %zu", i + 1);
        learned += m[i].role == ROLE_ASSISTANT && m[i].learned;
    }
    GUARD(chat_turns(&out->turn, &out->turns, r->form, m, count, r->arena));
    if (!learned) return fail(FAIL_DATA, "every message of the assistant has the weight 0: there is nothing to learn");
    out->part = part_of(m[m[0].role == ROLE_SYSTEM].text);
    return OK;
}

static Result instruction_read(Reader *r, JsonRecord *out, const Json *o)
{
    const char *instruction = NULL, *input = NULL, *output = NULL;
    GUARD(json_get_text(&instruction, o, "instruction"));
    GUARD(json_get_text_or(&input, o, "input", ""));
    GUARD(json_get_text(&output, o, "output"));
    GUARD(chat_instruction(out->turn, r->form, instruction, input, output, r->arena));
    Buffer asked = {0};
    buffer_append(&asked, instruction, strlen(instruction));
    buffer_u8(&asked, '\n');
    buffer_append(&asked, input, strlen(input) + 1);
    out->part = part_of((const char *)asked.data);
    buffer_free(&asked);
    return OK;
}

static Result pair_read(Reader *r, JsonRecord *out, const Json *o, bool text)
{
    const char *prompt = "", *completion = NULL, *key = text ? "text" : "completion";
    if (!text) GUARD(json_get_text(&prompt, o, "prompt"));
    GUARD(json_get_text(&completion, o, key));
    if (!text && is_blank(prompt)) return fail(FAIL_DATA, "prompt is empty: {\"text\"} is for what has none");
    if (is_blank(completion)) return fail(FAIL_DATA, text ? "text is empty" : "an empty completion");
    *out->turn = (Turn){arena_string(r->arena, prompt), arena_string(r->arena, completion), true};
    out->part = part_of(text ? completion : prompt);
    return OK;
}

static Result object_read(Reader *r, JsonRecord *out, const Json *o)
{
    JsonForm form = form_of(o);
    if (json_kind(o) != KIND_OBJECT) return fail(FAIL_DATA, "not an object");
    if (form == FORM_NONE) return fail(FAIL_DATA, "none of messages, conversations, prompt, instruction or text is there");
    if (r->out->form && form != r->out->form)
        return fail(FAIL_DATA, "a record of %s in a file of %s", form_names[form], form_names[r->out->form]);
    r->out->form = form;
    if (form == FORM_MESSAGES || form == FORM_CONVERSATIONS) return chat_read(r, out, o, form == FORM_MESSAGES);
    out->turn = arena_new(r->arena, Turn, 1);
    out->turns = 1;
    return form == FORM_INSTRUCTION ? instruction_read(r, out, o) : pair_read(r, out, o, form == FORM_TEXT);
}

static Result record_parse(Reader *r, const char *text, size_t len)
{
    JsonRecords *all = r->out;
    Json *root = NULL;
    if (len > RECORD_LIMIT) return fail(FAIL_DATA, "a record of %zu bytes, where %d are the most", len, RECORD_LIMIT);
    if (all->count == r->cap) {
        JsonRecord *old = all->record;
        r->cap = r->cap ? 2 * r->cap : 1024;
        all->record = arena_new(r->arena, JsonRecord, r->cap);
        if (old) memcpy(all->record, old, all->count * sizeof *old);
    }
    GUARD(json_parse(&root, text, len));
    Result result = object_read(r, &all->record[all->count], root);
    json_free(root);
    if (!failed(result)) all->count++;
    return result;
}

// ---- the file --------------------------------------------------------------------------------------------------------

/* A place in the file, and its line. */
typedef struct Place { const char *at, *end; size_t line; } Place;

static bool space_pass(Place *p)               // false at the end
{
    for (; p->at < p->end && strchr(" \t\r\n", *p->at); p->at++) p->line += *p->at == '\n';
    return p->at < p->end;
}

/* Moves over the object that begins here: to behind the bracket that closes it, or to the end. */
static void object_pass(Place *p)
{
    size_t depth = 0;
    bool quoted = false;
    while (p->at < p->end) {
        char c = *p->at++;
        p->line += c == '\n';
        if (quoted) {
            if (c == '\\' && p->at < p->end) p->at++;
            else quoted = c != '"';
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if ((c == '}' || c == ']') && --depth == 0) {
            return;
        }
    }
}

static Result element_next(Reader *r, Place *p)
{
    const char *from = p->at;
    if (*from != '{') return fail(FAIL_DATA, "record %zu is not an object", r->out->count + 1);
    object_pass(p);
    GUARD(record_parse(r, from, (size_t)(p->at - from)));
    if (!space_pass(p)) return fail(FAIL_DATA, "the array does not end");
    if (*p->at != ',' && *p->at != ']') return fail(FAIL_DATA, "neither a comma nor the array's end after record %zu", r->out->count);
    return OK;
}

static Result array_parse(Reader *r, Place *p)
{
    p->at++;                                   // the opening bracket
    bool more = space_pass(p) && *p->at != ']';
    while (more) {
        size_t line = p->line;
        Result result = element_next(r, p);
        if (failed(result)) return fail_in(result, "line %zu", line);
        more = *p->at == ',';
        if (more) p->at++, (void)space_pass(p);
        if (p->at == p->end) break;
    }
    if (p->at == p->end) return fail(FAIL_DATA, "line %zu: the array does not end", p->line);
    p->at++;
    return space_pass(p) ? fail(FAIL_DATA, "line %zu: text after the end of the array", p->line) : OK;
}

Result json_records_parse(JsonRecords *out, const char *text, size_t len, const ChatTemplate *t, Arena *a)
{
    *out = (JsonRecords){0};
    Reader r = {.out = out, .form = t, .arena = a};
    Place p = {text, text + len, 1};
    if (space_pass(&p) && *p.at == '[') return array_parse(&r, &p);
    const char *line = NULL;
    size_t line_len = 0, number = 0;
    for (const char *at = text; line_next(&line, &line_len, &at, text + len);) {
        number++;
        line_len = text_trim(&line, line_len);
        if (line_len == 0) continue;
        Result result = record_parse(&r, line, line_len);
        if (failed(result)) return fail_in(result, "line %zu", number);
    }
    return OK;
}
