/* tok_export.h - a tokenizer as files hold it: Hugging Face's tokenizer.json or the vocabulary of a
 * GGUF file, from whatever it was read. Both give the same ids as the source for any text. */
#ifndef PUNA_TEXT_TOK_EXPORT_H
#define PUNA_TEXT_TOK_EXPORT_H

#include "format/gguf_write.h"
#include "text/tokenizer.h"

/* Appends a tokenizer.json, laid out as Hugging Face's library prints it. A tiktoken file's merges
 * are every split of a token into two tokens, in the order of transformers' converter. */
int tok_to_json(const struct tok *t, struct buf *out, struct err *e) MUST_USE;
/* Adds tokenizer.ggml.* (model, pre, tokens, token_type, merges, bos, add_bos_token) and the chat
 * template; ids from the tokenizer's size up to vocab become unused tokens. Refuses a way of
 * splitting that GGUF has no name for, and a tokenizer with more than vocab ids. */
int tok_to_gguf(const struct tok *t, int64_t vocab, struct gguf_meta *m, struct err *e) MUST_USE;

#endif
