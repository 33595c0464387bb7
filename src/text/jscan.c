#include "text/jscan.h"

#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

static int wrong(const struct jscan *s, const char *what, struct err *e)
{
    return err_set(e, ERR_FORMAT, "not valid JSON: %s at byte %zu", what,
                   (size_t)(s->p - s->start));
}

char js_peek(struct jscan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t'))
        s->p++;
    return s->p < s->end ? *s->p : 0;
}

int js_expect(struct jscan *s, char c, struct err *e)
{
    const char what[] = { '\'', c, '\'', ' ', 'e', 'x', 'p', 'e', 'c', 't', 'e', 'd', 0 };

    if (js_peek(s) != c || s->p == s->end)
        return wrong(s, what, e);
    s->p++;
    return 0;
}

int js_more(struct jscan *s, char close, struct err *e)
{
    const char c = js_peek(s);

    if (s->p == s->end || (c != ',' && c != close))
        return wrong(s, "a comma or the end of the list expected", e);
    s->p++;
    return c == ',';
}

/* What follows a backslash, as UTF-8 in out; 0 = wrong. */
static size_t escape(struct jscan *s, char out[4])
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char c = s->p < s->end ? *s->p++ : 0;
    const char *at = c ? strchr(from, c) : NULL;
    int32_t cp;

    if (at) {
        out[0] = to[at - from];
        return 1;
    }
    if (c != 'u' || (cp = hex_digits(s->p, s->end, 4)) < 0)
        return 0;
    s->p += 4;
    if (cp >= 0xD800 && cp <= 0xDFFF) {
        /* a pair of surrogates; half a pair is no character */
        if (cp >= 0xDC00 || s->end - s->p < 6 || s->p[0] != '\\' || s->p[1] != 'u')
            return 0;
        s->p += 2;
        const int32_t low = hex_digits(s->p, s->end, 4);
        if (low < 0xDC00 || low > 0xDFFF)
            return 0;
        s->p += 4;
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
    }
    return utf8_put(out, cp);
}

/* Any string: *len is its whole length, out[0..max) takes what fits. */
static int read_string(struct jscan *s, char *out, size_t max, size_t *len, struct err *e)
{
    size_t n = 0;

    if (js_expect(s, '"', e))
        return -1;
    while (s->p < s->end && *s->p != '"') {
        char c[4] = { *s->p };
        size_t k = 1;

        if ((uint8_t)*s->p < 0x20)
            return wrong(s, "a control character in a string", e);
        s->p++;
        if (c[0] == '\\' && (k = escape(s, c)) == 0)
            return wrong(s, "a wrong escape", e);
        if (n < max)
            memcpy(out + n, c, k < max - n ? k : max - n);
        n += k;
    }
    if (s->p == s->end)
        return wrong(s, "a string without end", e);
    s->p++;
    *len = n;
    return 0;
}

int js_string(struct jscan *s, char *out, size_t max, size_t *len, struct err *e)
{
    if (read_string(s, out, max, len, e))
        return -1;
    if (*len > max)
        return err_set(e, ERR_FORMAT, "a string of %zu bytes (at most %zu) before byte %zu", *len,
                       max, (size_t)(s->p - s->start));
    return 0;
}

int js_int(struct jscan *s, int32_t max, int32_t *out, struct err *e)
{
    int64_t v = 0;
    int digits = 0;

    js_peek(s);
    for (; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++, digits++) {
        v = v * 10 + (*s->p - '0');
        if (v > max)
            return err_set(e, ERR_FORMAT, "a number above %d at byte %zu", (int)max,
                           (size_t)(s->p - s->start));
    }
    if (digits == 0)
        return wrong(s, "a non-negative integer expected", e);
    *out = (int32_t)v;
    return 0;
}

/* From an opening quote to behind the closing one. */
static int skip_string(struct jscan *s, struct err *e)
{
    for (s->p++; s->p < s->end; s->p++) {
        if (*s->p == '"') {
            s->p++;
            return 0;
        }
        if (*s->p == '\\' && ++s->p == s->end)
            break;
    }
    return wrong(s, "a string without end", e);
}

int js_skip(struct jscan *s, struct jslice *out, struct err *e)
{
    const char *from;
    size_t depth = 0;

    if (js_peek(s) == 0)
        return wrong(s, "a value expected", e);
    from = s->p;
    while (s->p < s->end) {
        const char c = *s->p;

        if (c == '"') {
            if (skip_string(s, e))
                return -1;
            if (depth == 0)
                break;
            continue;
        }
        if (c == '[' || c == '{') {
            depth++;
        } else if (c == ']' || c == '}') {
            if (depth == 0)
                break; /* the end of what holds a bare number or word */
            if (--depth == 0) {
                s->p++;
                break;
            }
        } else if (depth == 0 && (c == ',' || c == ' ' || c == '\n' || c == '\r' || c == '\t')) {
            break;
        }
        s->p++;
    }
    if (depth > 0 || s->p == from)
        return wrong(s, "a value without end", e);
    *out = (struct jslice){ from, (size_t)(s->p - from) };
    return 0;
}

/* Takes the value under key: one of the fields, or something that only has to be JSON. */
static int take_field(struct jscan *s, const char *key, size_t len, struct jfield *fields, size_t n,
                      struct err *e)
{
    struct jslice value;
    json_t *other;

    if (js_skip(s, &value, e))
        return -1;
    for (size_t i = 0; i < n; i++)
        if (strlen(fields[i].name) == len && memcmp(fields[i].name, key, len) == 0) {
            if (fields[i].value.p)
                return err_set(e, ERR_FORMAT, "\"%s\" appears twice", fields[i].name);
            fields[i].value = value;
            return 0;
        }
    if (json_parse(&other, value.p, value.n, "a value", e))
        return -1;
    json_decref(other);
    return 0;
}

int js_fields(struct jscan *s, struct jfield *fields, size_t n, struct err *e)
{
    if (js_expect(s, '{', e))
        return -1;
    if (js_peek(s) == '}') {
        s->p++;
        return 0;
    }
    for (int more = 1; more;) {
        char key[128]; /* a longer key is none of the fields */
        size_t len;

        if (read_string(s, key, sizeof(key), &len, e) || js_expect(s, ':', e) ||
            take_field(s, key, len, fields, n, e))
            return -1;
        more = js_more(s, '}', e);
        if (more < 0)
            return -1;
    }
    return 0;
}
