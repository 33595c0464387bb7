/* jscan.h - walks a large JSON text in place, for the two parts of a tokenizer.json that
 * hold hundreds of thousands of strings; a document tree of those takes ten times the
 * memory and the time. Everything else in the file goes through base/json.h: js_skip finds
 * where a value ends and leaves checking its inside to that parser. Private to src/text. */
#ifndef PUNA_TEXT_JSCAN_H
#define PUNA_TEXT_JSCAN_H

#include "base/err.h"

struct jscan {
    const char *p, *end; /* what is still to read */
    const char *start;   /* for positions in messages */
};

struct jslice {
    const char *p; /* NULL = absent */
    size_t n;
};

/* The next byte that is not white space, or 0 at the end; it is not consumed. */
char js_peek(struct jscan *s);
/* Consumes c, or fails. */
int js_expect(struct jscan *s, char c, struct err *e) MUST_USE;
/* After an element of a list or object that ends with `close`: 1 = a comma, another one
 * follows; 0 = it closed. Both are consumed. */
int js_more(struct jscan *s, char close, struct err *e) MUST_USE;
/* A string, unescaped, into out[0..max). */
int js_string(struct jscan *s, char *out, size_t max, size_t *len, struct err *e) MUST_USE;
/* A non-negative integer of at most max. */
int js_int(struct jscan *s, int32_t max, int32_t *out, struct err *e) MUST_USE;
/* Steps over one value; *out is its text. Strings and brackets are balanced, no more is known. */
int js_skip(struct jscan *s, struct jslice *out, struct err *e) MUST_USE;

/* Fields of an object, found in one pass. */
struct jfield {
    const char *name;
    struct jslice value;
};
/* Fills the values of fields[0..n) from the object that s stands at; every other value goes
 * through base/json.h and is dropped. Refuses a key that appears twice. */
int js_fields(struct jscan *s, struct jfield *fields, size_t n, struct err *e) MUST_USE;

#endif
