/* tokenizer.h - what tests and fuzzers need of the tokenizer beyond model.h (private to model/). */
#ifndef MARILL_TOKENIZER_H
#define MARILL_TOKENIZER_H

#include "model/model.h"

/* As tokenizer_load, from the bytes of a sentencepiece ModelProto. */
CHECKED Result tokenizer_parse(Tokenizer **out, const uint8_t *data, size_t len);
/* The text of a piece, for messages; len bytes, perhaps no UTF-8. */
const char *tokenizer_piece(const Tokenizer *t, int32_t id, size_t *len);

#endif
