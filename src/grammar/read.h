/* read.h - the notations in which a grammar can be given, read into expressions. Each fills *x,
 * which is initialised and empty, from its root (rule 0) on; what it does not support it refuses by
 * name, for a rule that is left out would let wrong answers pass. */
#ifndef PUNA_GRAMMAR_READ_H
#define PUNA_GRAMMAR_READ_H

#include "grammar/json.h"

/* A regular expression over whole texts: ECMAScript's and Python's common part. */
int read_regex(struct exprs *x, const char *s, size_t n, struct err *e) MUST_USE;
/* The same as an expression. j: characters are those of a JSON string, escaped where they must be
 * (NULL = plain text); search: the text may go on before and behind, unless ^ and $ say otherwise.
 */
int regex_expr(struct exprs *x, const char *s, size_t n, struct json_rules *j, bool search,
               uint32_t *out, struct err *e) MUST_USE;
/* llama.cpp's GBNF; see gbnf.c for what else is taken. */
int read_gbnf(struct exprs *x, const char *s, size_t n, struct err *e) MUST_USE;
/* One of a list of texts. */
int read_choice(struct exprs *x, const json_t *list, struct err *e) MUST_USE;
/* A JSON schema: what its values look like. Refused by path: keywords that bind a value and are not
 * kept. */
int read_schema(struct exprs *x, const json_t *schema, struct err *e) MUST_USE;
/* The same as an expression; *j keeps the rules that several schemas share. */
int read_schema_expr(struct exprs *x, struct json_rules *j, const json_t *schema, uint32_t *out,
                     struct err *e) MUST_USE;
/* {"tools": OpenAI's list, "only"?: NAME, "parallel": bool, "or"?: SCHEMA, "free"?: bool}: one call
 * of a tool, or several; or else JSON of the schema. free: any text, from the place on where it
 * opens a call ({"name": "NAME", with "type" before it, or without the blanks) nothing else. */
int read_tools(struct exprs *x, const json_t *v, struct err *e) MUST_USE;
/* Any JSON object. */
void read_json(struct exprs *x);

#endif
