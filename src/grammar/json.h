/* json.h - JSON as expressions: the parts that schemas and tool calls are put together from.
 *
 * White space is bounded: nothing, one blank, or a new line with up to 20 blanks, behind { [ , and
 * before } ]; nothing or one blank behind a colon. So are numbers: 16 digits before and behind the
 * point. Half surrogate pairs cannot be written. All that comes out is valid for every reader. */
#ifndef PUNA_GRAMMAR_JSON_H
#define PUNA_GRAMMAR_JSON_H

#include <jansson.h>

#include "grammar/expr.h"

enum { JSON_DIGITS = 16 };

/* Rules of x that exist already; 0 = not yet (0 is the root's). */
struct json_rules {
    struct exprs *x;
    uint32_t space, ch, string, number, value, object, array;
};

uint32_t json_space(struct json_rules *j);
uint32_t json_colon(struct json_rules *j); /* with the blank behind it */
uint32_t json_comma(struct json_rules *j); /* with the space behind it */
uint32_t json_char(struct json_rules *j);  /* one character of a string, escaped or not */
uint32_t json_any_string(struct json_rules *j);
uint32_t json_any_number(struct json_rules *j);
uint32_t json_any_array(struct json_rules *j);
uint32_t json_any_object(struct json_rules *j);
uint32_t json_any(struct json_rules *j);
/* open item, item ... close, with items from min to max (-1 = no end). */
uint32_t json_list(struct json_rules *j, const char *open, uint32_t item, const char *close,
                   int32_t min, int32_t max);
/* A value that is known. */
uint32_t json_literal(struct json_rules *j, const json_t *v);
/* A set of characters inside a string, escaped where they must be; the set is tidy and is released.
 */
uint32_t json_charset(struct json_rules *j, struct charset *set);

#endif
