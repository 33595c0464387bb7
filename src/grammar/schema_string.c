/* schema_string.c - strings: lengths, patterns and formats. */
#include <string.h>

#include "grammar/schema_int.h"

#define HOST "([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?){0,5}"
#define DAY                                                                                        \
    "[1-9]\\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|"                                        \
    "(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))"
#define TIME "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define BYTE "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"

/* Texts that are right wherever the format is; not all of them. pattern NULL = not supported. */
static const struct {
    const char *name, *pattern;
} formats[] = {
    { "date", "^" DAY "$" },
    { "date-time", "^" DAY "T" TIME "$" },
    { "duration", "^P(\\d{1,4}[YMWD]|T\\d{1,4}[HMS])$" },
    { "email", "^[a-z0-9_%+-]{1,32}(\\.[a-z0-9_%+-]{1,16}){0,3}@" HOST "\\.[a-z]{2,12}$" },
    { "hostname", "^" HOST "$" },
    { "idn-email", NULL },
    { "idn-hostname", NULL },
    { "ipv4", "^" BYTE "(\\." BYTE "){3}$" },
    { "ipv6", "^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}$" },
    { "iri", NULL },
    { "iri-reference", NULL },
    { "json-pointer", NULL },
    { "regex", NULL },
    { "relative-json-pointer", NULL },
    { "time", "^" TIME "$" },
    { "uri", "^(https?|ftp)://" HOST "(:[1-9]\\d{0,3})?(/[A-Za-z0-9._~-]*)*"
             "(\\?[A-Za-z0-9._~=&-]*)?(#[A-Za-z0-9._~-]*)?$" },
    { "uri-reference", NULL },
    { "uri-template", NULL },
    { "uuid", "^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$" },
};

enum { NO_END = INT32_MAX };

struct span {
    int64_t min, max; /* characters */
};

static int64_t cap(int64_t n)
{
    return n < NO_END ? n : NO_END;
}

/* How long an expression that regex_expr made for a JSON string may be: texts in it are escapes of
 * one character. */
static struct span length(const struct exprs *x, uint32_t id)
{
    const struct expr *e = &x->expr[id];
    struct span s = { 0, 0 }, t;

    switch (e->kind) {
    case X_CHARS:
    case X_TEXT:
        return (struct span){ 1, 1 };
    case X_SEQ:
        for (; e->kind == X_SEQ; e = &x->expr[id = e->a]) {
            t = length(x, e->b);
            s = (struct span){ cap(s.min + t.min), cap(s.max + t.max) };
        }
        t = length(x, id);
        return (struct span){ cap(s.min + t.min), cap(s.max + t.max) };
    case X_ALT:
        s = length(x, e->b);
        for (id = e->a; x->expr[id].kind == X_ALT; id = x->expr[id].a) {
            t = length(x, x->expr[id].b);
            s = (struct span){ t.min < s.min ? t.min : s.min, t.max > s.max ? t.max : s.max };
        }
        t = length(x, id);
        return (struct span){ t.min < s.min ? t.min : s.min, t.max > s.max ? t.max : s.max };
    case X_REPEAT:
        t = length(x, e->a);
        return (struct span){ cap(t.min * e->min), e->max < 0 ? NO_END : cap(t.max * e->max) };
    case X_RULE: /* json_char */
        return (struct span){ 1, 1 };
    default:
        return s;
    }
}

/* A pattern whose length is bound as well. */
static int bounded(struct schema *c, uint32_t e, int32_t min, int32_t max, uint32_t *out)
{
    const struct span s = length(c->x, e);
    const struct expr *r = &c->x->expr[e];

    *out = e;
    if (s.min >= min && (max < 0 || s.max <= max))
        return 0;
    if (s.max < min || (max >= 0 && s.min > max)) {
        *out = EX_NONE;
        return 0;
    }
    if (r->kind == X_REPEAT) {
        const struct span one = length(c->x, r->a);

        if (one.min == 1 && one.max == 1) {
            *out = ex_repeat(c->x, r->a, min > r->min ? min : r->min,
                             r->max < 0 || (max >= 0 && max < r->max) ? max : r->max);
            return 0;
        }
    }
    return schema_fail(c, "minLength or maxLength beside a pattern or format of other lengths");
}

int schema_string(struct schema *c, const json_t *v, uint32_t *out)
{
    struct exprs *x = c->x;
    const json_t *pattern = json_object_get(v, "pattern");
    const char *format = json_string_value(json_object_get(v, "format"));
    const char *regex = json_string_value(pattern);
    size_t n = pattern ? json_string_length(pattern) : 0;
    int32_t min = 0, max = -1;
    uint32_t body;

    if (schema_count(c, v, "minLength", &min) || schema_count(c, v, "maxLength", &max))
        return -1;
    if (pattern && !regex)
        return schema_fail(c, "pattern is no text");
    for (size_t i = 0; i < ARRAY_LEN(formats) && format; i++) {
        if (strcmp(format, formats[i].name) != 0)
            continue;
        if (!formats[i].pattern)
            return schema_fail(c, "format '%s' is not supported", format);
        if (regex)
            return schema_fail(c, "pattern beside format '%s'", format);
        regex = formats[i].pattern;
        n = strlen(regex);
    }
    if (!regex && min == 0 && max < 0) {
        *out = json_any_string(&c->j);
        return 0;
    }
    if (!regex) {
        body = max >= 0 && max < min ? EX_NONE : ex_repeat(x, json_char(&c->j), min, max);
    } else {
        if (regex_expr(x, regex, n, &c->j, true, &body, c->e))
            return err_wrap(c->e, "at #%.200s", c->path.p);
        if (bounded(c, body, min, max, &body))
            return -1;
    }
    body = ex_seq(x, ex_byte(x, '"', '"'), body);
    *out = ex_seq(x, body, ex_byte(x, '"', '"'));
    return 0;
}
