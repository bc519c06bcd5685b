/* data_chat.c - conversations to text.
 *
 * A template says what stands around each message. It never writes the end of an assistant's message: that is the token
 * for the end of text, in every template, since generation stops at that token alone. */
#include "tune/data_chat.h"
#include "tune/data_split.h"

#include <string.h>

static const ChatTemplate templates[] = {
    {.name = "plain", .open = "", .open_input = "", .system = {"System: ", "\n"}, .next = "",
     .user = {"User: ", "\nAssistant:"}, .answer = {" ", ""}, .input = "\n"},
    {.name = "chatml", .open = "", .open_input = "", .system = {"<|im_start|>system\n", "<|im_end|>\n"}, .next = "",
     .user = {"<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"}, .answer = {"", ""}, .input = "\n"},
    {.name = "llama2", .open = "[INST] ", .open_input = "[INST] ", .system = {"[INST] <<SYS>>\n", "\n<</SYS>>\n\n"}, .next = "[INST] ",
     .user = {"", " [/INST]"}, .answer = {" ", " "}, .input = "\n", .begin = true},
    {.name = "alpaca",
     .open = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n",
     .open_input = "Below is an instruction that describes a task, paired with an input that provides further context. "
                   "Write a response that appropriately completes the request.\n\n",
     .system = {"", "\n\n"}, .next = "", .user = {"### Instruction:\n", "\n\n### Response:\n"}, .answer = {"", ""},
     .input = "\n\n### Input:\n"},
};

const ChatTemplate *chat_template(const char *name)
{
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++)
        if (!strcmp(templates[i].name, name)) return &templates[i];
    return NULL;
}

static const char *trimmed(const char *text, Arena *a)
{
    size_t len = text_trim(&text, strlen(text));
    char *copy = arena_alloc(a, len + 1, 1);
    memcpy(copy, text, len);
    return copy;
}

static const char *joined(const char *const *part, size_t count, Arena *a)
{
    size_t len = 0;
    for (size_t i = 0; i < count; i++) len += strlen(part[i]);
    char *out = arena_alloc(a, len + 1, 1), *at = out;
    for (size_t i = 0; i < count; at += strlen(part[i]), i++) memcpy(at, part[i], strlen(part[i]));
    return out;
}

#define JOINED(a, ...) \
    joined((const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *), a)

static Result order_check(const Message *m, size_t count, size_t first)
{
    static const char *const owner[] = {"the system's", "the user's", "the assistant's"};
    for (size_t i = first; i < count; i++) {
        Role want = (i - first) % 2 ? ROLE_ASSISTANT : ROLE_USER;
        if (m[i].role != want) return fail(FAIL_DATA, "message %zu is %s, where %s belongs", i + 1, owner[m[i].role], owner[want]);
    }
    if (count == first) return fail(FAIL_DATA, "a conversation without a user's message");
    if ((count - first) % 2) return fail(FAIL_DATA, "message %zu, the last, is the user's: nothing answers it", count);
    return OK;
}

Result chat_turns(Turn **out, uint32_t *turns, const ChatTemplate *t, const Message *m, size_t count, Arena *a)
{
    size_t first = count && m[0].role == ROLE_SYSTEM;
    GUARD(order_check(m, count, first));
    const char *system = first ? trimmed(m[0].text, a) : "";
    *turns = (uint32_t)((count - first) / 2);
    *out = arena_new(a, Turn, *turns);
    for (uint32_t i = 0; i < *turns; i++) {
        const Message *ask = &m[first + 2 * i], *reply = ask + 1;
        const char *user = trimmed(ask->text, a), *answer = trimmed(reply->text, a);
        const char *const *around = t->system;
        if (!*user) return fail(FAIL_DATA, "message %zu is empty", first + 2 * i + 1);
        if (!*answer) return fail(FAIL_DATA, "message %zu is an empty completion", first + 2 * i + 2);
        const char *open = i ? t->next : *system ? JOINED(a, around[0], system, around[1]) : t->open;
        (*out)[i] = (Turn){JOINED(a, open, t->user[0], user, t->user[1]), JOINED(a, t->answer[0], answer, t->answer[1]), reply->learned};
    }
    return OK;
}

Result chat_instruction(Turn *out, const ChatTemplate *t, const char *instruction, const char *input, const char *output, Arena *a)
{
    const char *ask = trimmed(instruction, a), *with = trimmed(input, a), *answer = trimmed(output, a);
    if (!*ask) return fail(FAIL_DATA, "instruction is empty");
    if (!*answer) return fail(FAIL_DATA, "output is an empty completion");
    if (*with) ask = JOINED(a, ask, t->input, with);
    *out = (Turn){JOINED(a, *with ? t->open_input : t->open, t->user[0], ask, t->user[1]), JOINED(a, t->answer[0], answer, t->answer[1]), true};
    return OK;
}

const char *chat_form(const ChatTemplate *t, Arena *a)
{
    return JOINED(a, t->open, t->user[0], "{}", t->user[1]);
}
