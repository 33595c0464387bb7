#include "text/pyjson.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

/* One code point of a jansson string that may hold the three-byte form of a surrogate. */
static size_t next(const char *p, size_t n, int32_t *cp)
{
    const uint8_t *u = (const uint8_t *)p;

    if (n >= 3 && u[0] == 0xED && u[1] >= 0xA0 && u[1] <= 0xBF && u[2] >= 0x80 && u[2] <= 0xBF) {
        *cp = 0xD000 | (u[1] & 0x3F) << 6 | (u[2] & 0x3F);
        return 3;
    }
    return utf8_next(p, n, cp);
}

static void escape(struct buf *out, int32_t cp)
{
    if (cp >= 0x10000) {
        const unsigned v = (unsigned)cp - 0x10000;

        buf_addf(out, "\\u%04x\\u%04x", 0xD800 + (v >> 10), 0xDC00 + (v & 0x3FF));
    } else {
        buf_addf(out, "\\u%04x", (unsigned)cp);
    }
}

void pyjson_string(struct buf *out, const char *p, size_t n, unsigned flags)
{
    static const char short_of[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    size_t plain = 0; /* start of bytes that stand for themselves */

    buf_addc(out, '"');
    for (size_t i = 0; i < n;) {
        int32_t cp;
        const size_t k = next(p + i, n - i, &cp);
        const bool surrogate = cp >= 0xD800 && cp <= 0xDFFF;
        const char *s = NULL;

        for (size_t j = 0; j + 1 < sizeof(short_of) && cp < 0x80; j += 2)
            if (short_of[j] == cp)
                s = short_of + j + 1;
        if (!s && cp >= 0x20 && !surrogate && !(flags & PYJSON_ASCII && cp >= 0x7F) &&
            !(flags & PYJSON_HTML && (cp == '<' || cp == '>' || cp == '&' || cp == '\''))) {
            i += k;
            continue;
        }
        buf_add(out, p + plain, i - plain);
        i += k;
        plain = i;
        if (s) {
            buf_addc(out, '\\');
            buf_addc(out, *s);
        } else {
            escape(out, cp < 0 ? 0xFFFD : cp);
        }
    }
    buf_add(out, p + plain, n - plain);
    buf_addc(out, '"');
}

/* %.*e of x, with the last digit one higher; false when all digits are 9. */
static bool digit_up(char *s)
{
    char *p = strchr(s, 'e');

    while (p-- > s && (*p == '9' || *p == '.'))
        if (*p == '9')
            *p = '0';
    if (p < s || *p == '-')
        return false;
    ++*p;
    return true;
}

/* The fewest digits that read back as x, as %e writes them. Below a power of two the numbers lie
 * half as far apart: there the nearest text of a length may miss while the next one up reads
 * back. */
static void shortest(char s[40], double x)
{
    int exponent;
    const bool power = fabs(frexp(x, &exponent)) == 0.5;

    for (int prec = 0; prec <= 16; prec++) {
        snprintf(s, 40, "%.*e", prec, x);
        if (strtod(s, NULL) == x || (power && digit_up(s) && strtod(s, NULL) == x))
            return;
    }
}

void pyjson_float(struct buf *out, double x)
{
    char s[40], digits[24];
    int n = 0, e10;

    if (!isfinite(x)) {
        buf_adds(out, isnan(x) ? "NaN" : x > 0 ? "Infinity" : "-Infinity");
        return;
    }
    shortest(s, x);
    const char *p = s;

    if (*p == '-')
        buf_addc(out, *p++);
    for (; *p != 'e'; p++)
        if (*p != '.')
            digits[n++] = *p;
    e10 = (int)strtol(p + 1, NULL, 10);
    if (e10 < -4 || e10 >= 16) {
        buf_addc(out, digits[0]);
        if (n > 1) {
            buf_addc(out, '.');
            buf_add(out, digits + 1, (size_t)n - 1);
        }
        buf_addf(out, "e%c%02d", e10 < 0 ? '-' : '+', e10 < 0 ? -e10 : e10);
    } else if (e10 < 0) {
        buf_adds(out, "0.");
        for (int i = -1; i > e10; i--)
            buf_addc(out, '0');
        buf_add(out, digits, (size_t)n);
    } else {
        for (int i = 0; i <= e10; i++)
            buf_addc(out, i < n ? digits[i] : '0');
        buf_addc(out, '.');
        if (n > e10 + 1)
            buf_add(out, digits + e10 + 1, (size_t)(n - e10 - 1));
        else
            buf_addc(out, '0');
    }
}

bool pyjson_is_text(const json_t *v)
{
    return json_is_string(v) && (uint8_t)*json_string_value(v) != 0xFF;
}

static void newline(struct buf *out, int indent, int depth)
{
    if (!indent)
        return;
    buf_addc(out, '\n');
    for (int i = 0; i < indent * depth; i++)
        buf_addc(out, ' ');
}

struct member {
    const char *key;
    size_t n;
    const json_t *v;
};

/* By code points, which for UTF-8 is by bytes. */
static int by_key(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    const int c = memcmp(x->key, y->key, x->n < y->n ? x->n : y->n);

    return c ? c : (x->n > y->n) - (x->n < y->n);
}

static void value(struct buf *out, const json_t *v, unsigned flags, int indent, int depth);

static void object(struct buf *out, const json_t *v, unsigned flags, int indent, int depth)
{
    const size_t n = json_object_size(v);
    struct member *m = xcalloc(n, sizeof(*m));
    size_t i = 0;

    for (void *it = json_object_iter((json_t *)(uintptr_t)v); it;
         it = json_object_iter_next((json_t *)(uintptr_t)v, it))
        m[i++] = (struct member){ json_object_iter_key(it), json_object_iter_key_len(it),
                                  json_object_iter_value(it) };
    if (flags & PYJSON_SORT)
        qsort(m, n, sizeof(*m), by_key);
    for (i = 0; i < n; i++) {
        if (i)
            buf_adds(out, indent ? "," : ", ");
        newline(out, indent, depth + 1);
        pyjson_string(out, m[i].key, m[i].n, flags);
        buf_adds(out, ": ");
        value(out, m[i].v, flags, indent, depth + 1);
    }
    free(m);
}

static void value(struct buf *out, const json_t *v, unsigned flags, int indent, int depth)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        buf_addc(out, '{');
        if (json_object_size(v)) {
            object(out, v, flags, indent, depth);
            newline(out, indent, depth);
        }
        buf_addc(out, '}');
        break;
    case JSON_ARRAY:
        buf_addc(out, '[');
        for (size_t i = 0; i < json_array_size(v); i++) {
            if (i)
                buf_adds(out, indent ? "," : ", ");
            newline(out, indent, depth + 1);
            value(out, json_array_get(v, i), flags, indent, depth + 1);
        }
        if (json_array_size(v))
            newline(out, indent, depth);
        buf_addc(out, ']');
        break;
    case JSON_STRING:
        if (pyjson_is_text(v))
            pyjson_string(out, json_string_value(v), json_string_length(v), flags);
        else
            buf_add(out, json_string_value(v) + 1, json_string_length(v) - 1);
        break;
    case JSON_INTEGER:
        buf_addf(out, "%lld", (long long)json_integer_value(v));
        break;
    case JSON_REAL:
        pyjson_float(out, json_real_value(v));
        break;
    case JSON_TRUE:
        buf_adds(out, "true");
        break;
    case JSON_FALSE:
        buf_adds(out, "false");
        break;
    case JSON_NULL:
        buf_adds(out, "null");
        break;
    default:
        BUG("json type %d", (int)json_typeof(v));
    }
}

void pyjson_write(struct buf *out, const json_t *v, unsigned flags, int indent)
{
    value(out, v, flags, indent, 0);
}
