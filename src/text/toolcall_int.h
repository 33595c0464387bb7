/* toolcall_int.h - the parts that the tool-call parser is built from. Private to src/text. */
#ifndef PUNA_TEXT_TOOLCALL_INT_H
#define PUNA_TEXT_TOOLCALL_INT_H

#include <jansson.h>

#include "base/buf.h"

/* ---- toolcall_json.c: one JSON value, byte by byte, as models write it ---- */

enum jpipe_where {
    JPIPE_VALUE, /* a value must come */
    JPIPE_FIRST, /* a first element, or the end of the list */
    JPIPE_KEY,   /* a key, or the end of the object */
    JPIPE_COLON,
    JPIPE_MORE, /* a comma, or the end */
    JPIPE_STRING,
    JPIPE_SCALAR,
    JPIPE_DONE,
    JPIPE_ERROR,
};

enum { JPIPE_DEPTH = 256, JPIPE_KEYS = 4, JPIPE_SCALAR_MAX = 1024 };

/* Reads leniently (pyjson.h, PYJSON_LENIENT) and writes canonically: ", " and ": ", double
 * quotes, the shortest escapes, no trailing comma. Every appended byte is final, except what a
 * `value_end` hook rewrites. */
struct jpipe {
    struct buf out;
    enum jpipe_where where;
    char stack[JPIPE_DEPTH];   /* the closing bracket of each open level */
    size_t start[JPIPE_DEPTH]; /* where in out each open level starts */
    size_t depth;
    struct {
        size_t at, n;
    } key[JPIPE_KEYS]; /* of each of the first levels: where in out, without its quotes */
    size_t value_at;   /* where in out the string or number that is being read starts */
    char scalar[JPIPE_SCALAR_MAX];
    size_t n_scalar;
    char quote;         /* the string's */
    bool is_key, comma; /* the string is a key; a comma must precede the next element */
    bool escape;        /* behind a backslash */
    int hex_left;       /* digits of \u or \x still to come */
    int32_t hex, high;  /* their value so far; the first half of a surrogate pair, 0 = none */
    /* Called at the first byte of a value and behind its last, with its depth (0 = the whole). For
     * the value of a key, key[depth - 1] names it. NULL = not called. */
    void (*value_start)(void *arg, size_t depth, char first);
    void (*value_end)(void *arg, size_t depth, size_t from);
    void *arg;
};
void jpipe_init(struct jpipe *j, size_t max);
void jpipe_release(struct jpipe *j);
/* Back to the start; hooks stay. */
void jpipe_reset(struct jpipe *j);
/* One byte of valid UTF-8. JPIPE_DONE as soon as a value that has brackets or quotes is
 * complete; JPIPE_ERROR means that this byte cannot follow. */
void jpipe_byte(struct jpipe *j, char c);
bool jpipe_in_string(const struct jpipe *j);

/* ---- toolcall_python.c: calls with Python's keyword arguments ---- */

/* `[f(a=1), g()]`: appends {"name", "arguments"} objects to calls. False = not such a list. */
bool python_list_read(json_t *calls, const char *p, size_t n);
/* `f.call(query="x"); g.call("y")`, apart by `;` or white space; a lone string argument is
 * `query`, and its text may hold bare quotes when it is the only call. */
bool python_calls_read(json_t *calls, const char *p, size_t n);
/* Bytes of the identifier that p[0..n) starts with. */
size_t python_name(const char *p, size_t n);

/* ---- toolcall_coerce.c: values as the tool's JSON schema wants them ---- */

/* Whether a value of this schema that starts with byte `first` may have to be rewritten. */
bool coerce_wanted(const json_t *schema, char first);
/* The value as the schema's type, or NULL when it is fine or cannot be. The caller owns it. */
json_t *coerce_value(const json_t *schema, const json_t *v);
/* The properties of an object, each by its own schema; returns how many changed. */
size_t coerce_object(const json_t *parameters, json_t *object);

#endif
