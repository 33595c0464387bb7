/* utf8.h - UTF-8 as the WHATWG decoder sees it (Encoding Standard, "utf-8 decode"). */
#ifndef PUNA_BASE_UTF8_H
#define PUNA_BASE_UTF8_H

#include "base/buf.h"

/* Decodes one code point from p[0..n), n >= 1. Returns bytes consumed (>= 1);
 * *cp is the code point, or -1 when those bytes are one maximal invalid subpart. */
size_t utf8_next(const char *p, size_t n, int32_t *cp);
/* Bytes written (1..4) to out for a valid scalar value. */
size_t utf8_put(char out[4], int32_t cp);
/* True when p[0..n) is valid UTF-8. */
bool utf8_valid(const char *p, size_t n);
/* Appends p[0..n) with each maximal invalid subpart replaced by U+FFFD. */
void utf8_sanitize(struct buf *out, const char *p, size_t n);
/* Length of the longest prefix of p[0..n) that does not end inside a character
 * that could still be completed: what a stream may show now (n - result <= 3). */
size_t utf8_complete(const char *p, size_t n);
/* What escapes such as \u00e9 are written in: a hexadecimal digit's value, -1 = c is none; that of
 * the n <= 7 digits at p, -1 where another character or the end comes first. */
int hex_digit(int c);
int32_t hex_digits(const char *p, const char *end, size_t n);

#endif
