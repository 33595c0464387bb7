/* json.h - the one door to jansson for input we do not trust.
 *
 * Duplicate keys, NaN, comments, trailing values and nesting beyond jansson's
 * own limit (2048) are errors. json_t and its functions are used directly
 * everywhere else (DESIGN: jansson may be used where JSON is the subject). */
#ifndef PUNA_BASE_JSON_H
#define PUNA_BASE_JSON_H

#include <jansson.h>

#include "base/err.h"

/* Parses n bytes of UTF-8; `what` (a path, "request") prefixes the message with
 * line and column. The caller owns *out (json_decref). */
int json_parse(json_t **out, const char *text, size_t n, const char *what, struct err *e) MUST_USE;
/* The same for a whole file of at most max bytes. */
int json_parse_file(json_t **out, const char *path, size_t max, struct err *e) MUST_USE;

/* Typed fields of an object. `what` names the object in messages. They return
 * 1 = found (and *out set), 0 = absent or null (*out untouched), -1 = wrong type
 * or out of [min, max]. Borrowed pointers live as long as obj. */
int json_get_int(const json_t *obj, const char *key, int64_t min, int64_t max, int64_t *out,
                 const char *what, struct err *e) MUST_USE;
int json_get_num(const json_t *obj, const char *key, double min, double max, double *out,
                 const char *what, struct err *e) MUST_USE;
int json_get_bool(const json_t *obj, const char *key, bool *out, const char *what,
                  struct err *e) MUST_USE;
int json_get_str(const json_t *obj, const char *key, const char **out, size_t *len,
                 const char *what, struct err *e) MUST_USE;
int json_get_obj(const json_t *obj, const char *key, json_t **out, const char *what,
                 struct err *e) MUST_USE;
int json_get_arr(const json_t *obj, const char *key, json_t **out, const char *what,
                 struct err *e) MUST_USE;

#endif
