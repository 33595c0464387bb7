/* jinja.h - the part of Jinja2 that chat templates use, as transformers sets it up: trim_blocks,
 * lstrip_blocks, loop controls, an immutable sandbox, `raise_exception`, `strftime_now`, and
 * `tojson` without HTML escapes.
 *
 * Every byte knows where it came from: text of the template, or a value of the request. The
 * mark follows the bytes through concatenation, slices, replacement and JSON, so the prompt
 * can be tokenised with control tokens only where the template wrote them. Work, memory, depth
 * and output are bounded: a hostile template gets an error with its line. */
#ifndef PUNA_TEXT_JINJA_H
#define PUNA_TEXT_JINJA_H

#include <jansson.h>
#include <time.h>

#include "base/buf.h"

struct jinja;

/* A template is immutable once parsed and may be rendered by many threads. */
int jinja_parse(struct jinja **out, const char *text, size_t n, struct err *e) MUST_USE;
void jinja_free(struct jinja *t);

struct jinja_vars {
    const json_t *request;     /* an object: its members are variables, marked */
    const char *const *names;  /* further variables: names[i] = values[i], as if the template */
    const char *const *values; /* had written them; n of them */
    size_t n;
    time_t now; /* for strftime_now, in UTC */
};

/* Appends the output to text, and to marks one byte for each of text: 1 = from the request. Both
 * buffers' limits apply. */
int jinja_render(const struct jinja *t, const struct jinja_vars *vars, struct buf *text,
                 struct buf *marks, struct err *e) MUST_USE;

#endif
