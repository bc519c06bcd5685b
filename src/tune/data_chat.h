/* data_chat.h - conversations to text: the templates of chats (private to tune/; docs/recipes.md writes them out). */
#ifndef MARILL_DATA_CHAT_H
#define MARILL_DATA_CHAT_H

#include "base/base.h"

/* What is asked and what answers it. The text of a turn is its prompt and its completion, nothing between, and the end of
 * text after it. */
typedef struct Turn { const char *prompt, *completion; bool learned; } Turn;

typedef enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT } Role;
typedef struct Message { Role role; const char *text; bool learned; } Message;           // learned: of an assistant's message

typedef struct ChatTemplate {
    const char *name;
    const char *open, *open_input;             // before the first user's message; of an instruction with an input
    const char *system[2];                     // instead, around a system message
    const char *next;                          // before a later user's message
    const char *user[2], *answer[2];           // around a user's and an assistant's message
    const char *input;                         // between an instruction and its input
    bool begin;                                // every turn begins with BOS, not the first alone
} ChatTemplate;

const ChatTemplate *chat_template(const char *name);          // NULL: there is none of that name
/* The turns of a conversation: perhaps a system message, then user and assistant by turns, the last word the
 * assistant's. Fails on another order and on an empty message, naming its number. White space at the ends of messages goes. */
CHECKED Result chat_turns(Turn **out, uint32_t *turns, const ChatTemplate *t, const Message *m, size_t count, Arena *a);
/* The one turn of an instruction; an empty input is none. */
CHECKED Result chat_instruction(Turn *out, const ChatTemplate *t, const char *instruction, const char *input, const char *output, Arena *a);
/* A first user's message in the template with {} in its place: the "template" of marill.json. */
const char *chat_form(const ChatTemplate *t, Arena *a);

#endif
