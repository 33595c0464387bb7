/* grammars.h - the compiled grammars of one vocabulary: each text is compiled once while it is in
 * use or among the last that were. Any thread. */
#ifndef PUNA_GRAMMAR_GRAMMARS_H
#define PUNA_GRAMMAR_GRAMMARS_H

#include <jansson.h>

#include "grammar/grammar.h"

enum grammar_kind {
    GRAMMAR_JSON,   /* any JSON object; no text */
    GRAMMAR_REGEX,  /* a regular expression over the whole answer */
    GRAMMAR_CHOICE, /* a JSON list of texts */
    GRAMMAR_SCHEMA, /* a JSON schema: its values */
    GRAMMAR_GBNF,   /* rules: llama.cpp's GBNF, or EBNF */
    GRAMMAR_TOOLS,  /* calls of tools: see read_tools */
};

enum { GRAMMAR_TEXT_MAX = 256 << 10 }; /* bytes */

struct grammars;

/* tok is borrowed; vocab as the logits have it. Cheap: the trie is built for the first grammar. */
struct grammars *grammars_new(const struct tok *tok, size_t vocab);
void grammars_free(struct grammars *gs); /* legal on NULL; all grammars must be gone */
/* A reference to be dropped with grammar_unref. */
int grammars_get(struct grammars *gs, enum grammar_kind kind, const char *text, size_t n,
                 struct grammar **out, struct err *e) MUST_USE;
/* The same for a JSON value, as its text. */
int grammars_get_json(struct grammars *gs, enum grammar_kind kind, const json_t *v,
                      struct grammar **out, struct err *e) MUST_USE;

#endif
