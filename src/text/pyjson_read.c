#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/pyjson.h"

struct reader {
    const char *start, *p, *end;
    unsigned flags;
    int depth;
    struct err *e;
};

static int fail(const struct reader *r, const char *why)
{
    return err_set(r->e, ERR_FORMAT, "not valid JSON: %s at byte %zu", why,
                   (size_t)(r->p - r->start));
}

static void blanks(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n' || *r->p == '\r'))
        r->p++;
}

static bool lenient(const struct reader *r)
{
    return (r->flags & PYJSON_LENIENT) != 0;
}

/* r->p stands behind the backslash. */
static int unescape(struct reader *r, struct buf *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char utf8[4];

    if (r->p == r->end)
        return fail(r, "unfinished string");
    const char c = *r->p++;
    const char *at = memchr(from, c, sizeof(from) - 1);

    if (at) {
        buf_addc(out, to[at - from]);
        return 0;
    }
    if (c == 'u' || (c == 'x' && lenient(r))) {
        const size_t n = c == 'u' ? 4 : 2;
        int32_t cp = hex_digits(r->p, r->end, n);

        if (cp < 0)
            return fail(r, "bad \\ escape");
        r->p += n;
        if (cp >= 0xD800 && cp < 0xDC00 && r->end - r->p >= 6 && r->p[0] == '\\' &&
            r->p[1] == 'u') {
            const int32_t low = hex_digits(r->p + 2, r->end, 4);

            if (low >= 0xDC00 && low <= 0xDFFF) {
                cp = 0x10000 + ((cp - 0xD800) << 10 | (low - 0xDC00));
                r->p += 6;
            }
        }
        buf_add(out, utf8, utf8_put(utf8, cp));
        return 0;
    }
    if (!lenient(r))
        return fail(r, "bad \\ escape");
    if (c == '\n')
        return 0; /* Python: a line continued */
    if (c != '\'')
        buf_addc(out, '\\'); /* Python keeps an escape that it does not know */
    r->p--; /* the character itself may be more than one byte: left to the caller */
    if (c == '\'')
        buf_addc(out, *r->p++);
    return 0;
}

static int string(struct reader *r, struct buf *out)
{
    const char quote = *r->p++;

    while (r->p < r->end && *r->p != quote) {
        if (*r->p == '\\') {
            r->p++;
            if (unescape(r, out))
                return -1;
            continue;
        }
        if ((uint8_t)*r->p < 0x20 && !lenient(r))
            return fail(r, "control character in a string");
        const char *from = r->p++;

        while (r->p < r->end && *r->p != quote && *r->p != '\\' && (uint8_t)*r->p >= 0x20)
            r->p++;
        utf8_sanitize(out, from, (size_t)(r->p - from));
    }
    if (r->p == r->end)
        return fail(r, "unfinished string");
    r->p++;
    return 0;
}

/* A number that jansson has no type for, as its text. */
static json_t *keep(const char *p, size_t n)
{
    char *s = xmalloc(n + 1);

    s[0] = (char)0xFF;
    memcpy(s + 1, p, n);
    json_t *v = json_stringn_nocheck(s, n + 1);

    free(s);
    return v;
}

static int not_finite(struct reader *r, const char *name, json_t **out)
{
    if (r->flags & PYJSON_FINITE)
        return fail(r, "a number that is not finite");
    *out = keep(name, strlen(name));
    return 0;
}

static size_t digits(const char *p, const char *end)
{
    const char *s = p;

    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return (size_t)(p - s);
}

static int number(struct reader *r, json_t **out)
{
    const char *s = r->p, *p = s;
    bool real = false;

    if (p < r->end && (*p == '-' || (*p == '+' && lenient(r))))
        p++;
    const char *whole = p;
    size_t n = digits(p, r->end);

    if (n == 0 || (n > 1 && *whole == '0'))
        return fail(r, n ? "a number with a leading zero" : "unexpected character");
    p += n;
    if (p + 1 < r->end && *p == '.' && (n = digits(p + 1, r->end)) > 0) {
        p += 1 + n;
        real = true;
    }
    if (p < r->end && (*p == 'e' || *p == 'E')) {
        const char *q = p + 1;

        if (q < r->end && (*q == '+' || *q == '-'))
            q++;
        if ((n = digits(q, r->end)) > 0) {
            p = q + n;
            real = true;
        }
    }
    if (*s == '+')
        s++;
    char *text = xmemdup0(s, (size_t)(p - s));
    int rc = 0;

    r->p = p;
    errno = 0;
    if (real) {
        const double x = strtod(text, NULL);

        if (isfinite(x))
            *out = json_real(x);
        else
            rc = not_finite(r, x > 0 ? "Infinity" : "-Infinity", out);
    } else {
        const long long i = strtoll(text, NULL, 10);

        *out = errno == ERANGE ? keep(text, strlen(text)) : json_integer(i);
    }
    free(text);
    return rc;
}

static bool word(struct reader *r, const char *w)
{
    const size_t n = strlen(w);

    if ((size_t)(r->end - r->p) < n || memcmp(r->p, w, n) != 0)
        return false;
    r->p += n;
    return true;
}

static int literal(struct reader *r, json_t **out)
{
    if (word(r, "true") || (lenient(r) && word(r, "True")))
        *out = json_true();
    else if (word(r, "false") || (lenient(r) && word(r, "False")))
        *out = json_false();
    else if (word(r, "null") || (lenient(r) && word(r, "None")))
        *out = json_null();
    else if (word(r, "NaN"))
        return not_finite(r, "NaN", out);
    else if (word(r, "Infinity"))
        return not_finite(r, "Infinity", out);
    else if (word(r, "-Infinity"))
        return not_finite(r, "-Infinity", out);
    else
        return number(r, out);
    return 0;
}

static int element(struct reader *r, json_t **out);

/* After an element: 1 = another follows, 0 = closed, both consumed. */
static int more(struct reader *r, char close)
{
    blanks(r);
    if (r->p < r->end && *r->p == ',') {
        r->p++;
        blanks(r);
        if (!(lenient(r) && r->p < r->end && *r->p == close))
            return 1;
    }
    if (r->p == r->end || *r->p != close)
        return fail(r,
                    r->p == r->end ? "it ends too early" : "expected a comma or a closing bracket");
    r->p++;
    return 0;
}

static int object(struct reader *r, json_t *obj)
{
    int rc = 1;

    r->p++;
    blanks(r);
    if (r->p < r->end && *r->p == '}') {
        r->p++;
        return 0;
    }
    while (rc == 1) {
        struct buf key;
        json_t *v;

        blanks(r);
        if (r->p == r->end || !(*r->p == '"' || (*r->p == '\'' && lenient(r))))
            return fail(r,
                        r->p == r->end ? "it ends too early" : "expected a key in double quotes");
        buf_init(&key, SIZE_MAX);
        rc = string(r, &key);
        blanks(r);
        if (rc == 0 && (r->p == r->end || *r->p != ':'))
            rc = fail(r, "expected a colon");
        if (rc == 0 && r->flags & PYJSON_UNIQUE && json_object_getn(obj, key.p, key.len))
            rc = fail(r, "a key that appears twice");
        r->p += rc == 0;
        if (rc == 0)
            rc = element(r, &v);
        if (rc == 0 && json_object_setn_new_nocheck(obj, key.p, key.len, v))
            rc = err_set(r->e, ERR_MEMORY, "no memory for a JSON object");
        buf_release(&key);
        if (rc == 0)
            rc = more(r, '}');
    }
    return rc;
}

static int array(struct reader *r, json_t *arr)
{
    const char close = *r->p == '(' ? ')' : ']';
    int rc = 1;

    r->p++;
    blanks(r);
    if (r->p < r->end && *r->p == close) {
        r->p++;
        return 0;
    }
    while (rc == 1) {
        json_t *v;

        rc = element(r, &v);
        if (rc == 0 && json_array_append_new(arr, v))
            rc = err_set(r->e, ERR_MEMORY, "no memory for a JSON list");
        if (rc == 0)
            rc = more(r, close);
    }
    return rc;
}

static int element(struct reader *r, json_t **out)
{
    json_t *v = NULL;
    int rc = 0;

    blanks(r);
    if (r->p == r->end)
        return fail(r, "it ends too early");
    const char c = *r->p;

    if (c == '{' || c == '[' || (c == '(' && lenient(r))) {
        if (r->depth == PYJSON_DEPTH)
            return fail(r, "nested too deeply");
        r->depth++;
        v = c == '{' ? json_object() : json_array();
        rc = c == '{' ? object(r, v) : array(r, v);
        r->depth--;
    } else if (c == '"' || (c == '\'' && lenient(r))) {
        struct buf s;

        buf_init(&s, SIZE_MAX);
        rc = string(r, &s);
        if (rc == 0)
            v = json_stringn_nocheck(s.p, s.len);
        buf_release(&s);
    } else {
        rc = literal(r, &v);
    }
    if (rc == 0 && !v)
        rc = err_set(r->e, ERR_MEMORY, "no memory for a JSON value");
    if (rc) {
        json_decref(v);
        return -1;
    }
    *out = v;
    return 0;
}

int pyjson_read_prefix(json_t **out, const char *p, size_t n, size_t *used, unsigned flags,
                       struct err *e)
{
    struct reader r = { .start = p, .p = p, .end = p + n, .flags = flags, .e = e };

    if (element(&r, out))
        return -1;
    *used = (size_t)(r.p - p);
    return 0;
}

int pyjson_read(json_t **out, const char *p, size_t n, unsigned flags, const char *what,
                struct err *e)
{
    struct reader r = { .start = p, .p = p, .end = p + n, .flags = flags, .e = e };
    json_t *v = NULL;
    int rc = element(&r, &v);

    if (rc == 0) {
        blanks(&r);
        if (r.p != r.end)
            rc = fail(&r, "more text after the value");
    }
    if (rc) {
        json_decref(v);
        return err_wrap(e, "%s", what);
    }
    *out = v;
    return 0;
}
