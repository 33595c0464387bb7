/* tok_int.h - the inside of struct tok, for the files that fill it. */
#ifndef PUNA_TEXT_TOK_INT_H
#define PUNA_TEXT_TOK_INT_H

#include "text/bpe.h"
#include "text/split.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

struct tok {
    const char *kind;
    struct vocab vocab;
    struct bpe bpe;
    struct splitter *split;
    struct trie names;      /* added and special tokens */
    struct trie meta_names; /* the same with Meta's names; tiktoken files only */
    int32_t bos, eos;       /* -1 = none */
    bool adds_bos;
    char *chat_template;    /* owned; NULL = none */
};

/* A tokenizer with nothing in it yet but the default ids. */
struct tok *tok_new(const char *kind);

/* How a token outside the ordinary vocabulary is treated. Text in content must never turn
 * into a control token, so one that looks like a control token is one, even where a file
 * declares it an ordinary added token (llama.cpp does the same for the names it knows). */
enum token_class token_class_of(const char *text, size_t n, bool special);
/* Registers an added or special token: its text for matching and, where no token has the id
 * yet, its bytes. Refuses one whose text is also that of an ordinary token. */
int tok_add_named(struct tok *t, int32_t id, const char *text, size_t n, bool special,
                  struct err *e) MUST_USE;

/* GGUF's name for how this tokenizer splits and merges (tokenizer.ggml.pre); NULL = it has none. */
const char *tok_gguf_pre(const struct tok *t);

#endif
