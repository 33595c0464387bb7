/* pyjson.h - JSON as Python's json module reads and writes it, over jansson trees.
 *
 * Prompts hold JSON that was printed by Python when the models were trained, so its bytes
 * matter: `0.1` not `0.10000000000000001`, `1e-07` not `1e-7`, `\u00e9` in lower case.
 * Two values have no jansson type: numbers beyond 64 bits (and NaN, Infinity, 1E400),
 * and lone surrogates. The first are kept as a string whose first byte is 0xFF followed by
 * the source text, the second as their three-byte form (ED A0 80). No string that came
 * in as text can look like either, since invalid UTF-8 is replaced while reading. */
#ifndef PUNA_TEXT_PYJSON_H
#define PUNA_TEXT_PYJSON_H

#include <jansson.h>

#include "base/buf.h"

enum pyjson_write_flags {
    PYJSON_ASCII = 1, /* ensure_ascii=True: everything beyond ASCII, and DEL, is escaped */
    PYJSON_SORT = 2,  /* sort_keys=True, at all depths */
    PYJSON_HTML = 4,  /* as Jinja's tojson: < > & ' in strings become \u003c ... */
};
/* json.dumps(v): separators ", " and ": " on one line when indent is 0, else one element per
 * line, indented, and "," at line ends. A size limit is the buffer's. */
void pyjson_write(struct buf *out, const json_t *v, unsigned flags, int indent);
/* True for a string that is text, not a number kept as described above. */
bool pyjson_is_text(const json_t *v);
/* A string with its quotes. */
void pyjson_string(struct buf *out, const char *p, size_t n, unsigned flags);
/* repr(float): the shortest text that reads back as x. */
void pyjson_float(struct buf *out, double x);

enum pyjson_read_flags {
    PYJSON_UNIQUE = 1,  /* a key that appears twice is an error; otherwise the last one wins */
    PYJSON_FINITE = 2,  /* NaN and infinities are errors: what is written must be JSON to anyone */
    PYJSON_LENIENT = 4, /* what models write: Python's literals, quotes and tuples, raw control
                           characters in strings, a comma before a closing bracket */
};
enum { PYJSON_DEPTH = 256 }; /* nesting beyond it is an error */

/* The whole of p[0..n); `what` prefixes messages. The caller owns *out. */
int pyjson_read(json_t **out, const char *p, size_t n, unsigned flags, const char *what,
                struct err *e) MUST_USE;
/* The value that p[0..n) starts with (after white space); *used = bytes up to its end. */
int pyjson_read_prefix(json_t **out, const char *p, size_t n, size_t *used, unsigned flags,
                       struct err *e) MUST_USE;

#endif
