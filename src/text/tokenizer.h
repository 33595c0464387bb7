/* tokenizer.h - byte-level BPE of the Llama 3 and GPT-2 families.
 *
 * Read from Meta's tokenizer.model (tiktoken lines), a Hugging Face tokenizer.json,
 * a GGUF vocabulary or a model folder. A struct tok is immutable after it is opened
 * and may be used by many threads. Rules: ids are int32_t, NUL is an ordinary byte,
 * invalid UTF-8 is replaced (WHATWG) before encoding, decoding gives exact bytes. */
#ifndef PUNA_TEXT_TOKENIZER_H
#define PUNA_TEXT_TOKENIZER_H

#include "base/buf.h"
#include "base/err.h"
#include "format/gguf.h"

struct tok;

/* A growing list of token ids. */
struct ids {
    int32_t *p; /* owned */
    size_t n, cap;
};
void ids_add(struct ids *v, int32_t id);
void ids_append(struct ids *v, const int32_t *p, size_t n);
void ids_release(struct ids *v);

/* By path: a tokenizer.model, a tokenizer.json, a GGUF file or a model folder (which is
 * searched for tokenizer.json, then tokenizer.model, then original/tokenizer.model). */
int tok_open(struct tok **out, const char *path, struct err *e) MUST_USE;
int tok_from_gguf(struct tok **out, const struct gguf *g, struct err *e) MUST_USE;
int tok_from_json(struct tok **out, const char *text, size_t n, const char *what,
                  struct err *e) MUST_USE;
int tok_from_tiktoken(struct tok **out, const char *text, size_t n, const char *what,
                      struct err *e) MUST_USE;
void tok_free(struct tok *t);

enum tok_flags {
    TOK_PLAIN = 0,
    TOK_ALLOW_SPECIAL = 1, /* control-token text in the input becomes control tokens */
    TOK_META_CHUNKS = 2,   /* Meta's 400,000 / 25,000 character chunking (text.md 1.3) */
    TOK_META_NAMES =
        4, /* tiktoken files: Meta 0.3.0's names of reserved tokens instead of Hugging Face's */
};
/* Appends the ids of text[0..n). Never adds BOS. */
int tok_encode(const struct tok *t, const char *text, size_t n, unsigned flags, struct ids *out,
               struct err *e) MUST_USE;

int32_t tok_size(const struct tok *t);                 /* highest id + 1 */
int32_t tok_id(const struct tok *t, const char *name); /* a special token by its text; -1 = none */
bool tok_is_special(const struct tok *t, int32_t id);
/* The bytes of a token (a special token's are its text), or NULL for an id that has none. */
const char *tok_bytes(const struct tok *t, int32_t id, size_t *n);
int32_t tok_bos(const struct tok *t); /* -1 = none */
int32_t tok_eos(const struct tok *t); /* -1 = none */
bool tok_adds_bos(
    const struct tok *t); /* plain text starts with BOS (post-processor, GGUF add_bos_token) */
/* The chat template that came with it (tokenizer_config.json, chat_template.jinja, GGUF), or NULL.
 */
const char *tok_chat_template(const struct tok *t);
/* The one of another tokenizer_config.json in its place. Before t is shared between threads. */
int tok_read_template(struct tok *t, const char *path, struct err *e) MUST_USE;
/* Another one, copied; NULL = none. Before t is shared between threads. */
void tok_set_chat_template(struct tok *t, const char *text);
const char *tok_kind(const struct tok *t); /* "tiktoken", "tokenizer.json", "gguf" */

/* Appends the exact bytes of ids; with skip_special, special tokens give nothing. */
void tok_decode(const struct tok *t, const int32_t *ids, size_t n, bool skip_special,
                struct buf *out);

/* Streaming: feed ids, get text that is whole characters only; invalid bytes come
 * out as U+FFFD as soon as they are known to be invalid. */
struct tok_stream {
    char tail[4]; /* an unfinished character */
    size_t n;
};
void tok_stream_add(struct tok_stream *s, const struct tok *t, int32_t id, bool skip_special,
                    struct buf *out);
void tok_stream_end(struct tok_stream *s, struct buf *out); /* flushes the tail */

#endif
