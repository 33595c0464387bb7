#include <string.h>

#include "text/pyjson.h"
#include "text/toolcall_int.h"

struct scan {
    const char *p, *end;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void blanks(struct scan *s)
{
    while (s->p < s->end && is_blank(*s->p))
        s->p++;
}

static bool take(struct scan *s, const char *word)
{
    const size_t n = strlen(word);

    if ((size_t)(s->end - s->p) < n || memcmp(s->p, word, n) != 0)
        return false;
    s->p += n;
    return true;
}

/* ASCII letters, digits after the first, and underscore; every byte beyond ASCII counts as one. */
size_t python_name(const char *p, size_t n)
{
    size_t i = 0;

    for (; i < n; i++) {
        const char c = p[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (uint8_t)c >= 0x80 ||
              (i > 0 && c >= '0' && c <= '9')))
            break;
    }
    return i;
}

/* One string without a keyword, up to the closing parenthesis. */
static bool positional(struct scan *s, json_t *args, const char *name)
{
    struct err e;
    size_t used;
    json_t *v;

    if (pyjson_read_prefix(&v, s->p, (size_t)(s->end - s->p), &used, PYJSON_LENIENT, &e))
        return false;
    s->p += used;
    json_object_set_new(args, name, v);
    blanks(s);
    return take(s, ")");
}

/* Behind the opening parenthesis: k=v, ... ). `lone` names a single string without a keyword. */
static bool arguments(struct scan *s, json_t *args, const char *lone)
{
    blanks(s);
    if (take(s, ")"))
        return true;
    if (lone && s->p < s->end && (*s->p == '"' || *s->p == '\''))
        return positional(s, args, lone);
    for (;;) {
        const char *key = s->p;
        const size_t n = python_name(s->p, (size_t)(s->end - s->p));
        struct err e;
        size_t used;
        json_t *v;

        s->p += n;
        blanks(s);
        if (n == 0 || json_object_getn(args, key, n) || !take(s, "="))
            return false;
        if (pyjson_read_prefix(&v, s->p, (size_t)(s->end - s->p), &used,
                               PYJSON_LENIENT | PYJSON_FINITE, &e))
            return false;
        s->p += used;
        json_object_setn_new_nocheck(args, key, n, v);
        blanks(s);
        if (take(s, ")"))
            return true;
        if (!take(s, ","))
            return false;
        blanks(s);
        if (take(s, ")"))
            return true;
    }
}

/* NAME middle ARGUMENTS */
static bool call(struct scan *s, json_t *calls, const char *middle, const char *lone)
{
    const char *name = s->p;
    const size_t n = python_name(s->p, (size_t)(s->end - s->p));
    json_t *args, *one;

    s->p += n;
    if (lone == NULL)
        blanks(s);
    if (n == 0 || !take(s, middle))
        return false;
    args = json_object();
    if (!arguments(s, args, lone)) {
        json_decref(args);
        return false;
    }
    one = json_object();
    json_object_set_new(one, "name", json_stringn(name, n));
    json_object_set_new(one, "arguments", args);
    json_array_append_new(calls, one);
    return true;
}

bool python_list_read(json_t *calls, const char *p, size_t n)
{
    struct scan s = { p, p + n };

    blanks(&s);
    if (!take(&s, "["))
        return false;
    for (;;) {
        blanks(&s);
        if (!call(&s, calls, "(", NULL))
            return false;
        blanks(&s);
        if (take(&s, ","))
            blanks(&s);
        else if (s.p == s.end || *s.p != ']')
            return false;
        if (take(&s, "]")) {
            blanks(&s);
            return s.p == s.end;
        }
    }
}

/* name.call(query="...") whose text holds quotes that are not escaped: up to the last one. */
static bool bare_quotes(json_t *calls, const char *p, size_t n)
{
    struct scan s = { p, p + n };
    const char *name, *text;
    json_t *one;

    blanks(&s);
    name = s.p;
    const size_t n_name = python_name(s.p, (size_t)(s.end - s.p));

    s.p += n_name;
    if (n_name == 0 || !take(&s, ".call("))
        return false;
    take(&s, "query=");
    if (!take(&s, "\""))
        return false;
    text = s.p;
    while (s.end > text && (is_blank(s.end[-1]) || s.end[-1] == ';'))
        s.end--;
    if (s.end - text < 2 || s.end[-1] != ')' || s.end[-2] != '"')
        return false;
    one = json_object();
    json_object_set_new(one, "name", json_stringn(name, n_name));
    json_object_set_new(one, "arguments",
                        json_pack("{s:s%}", "query", text, (size_t)(s.end - 2 - text)));
    json_array_append_new(calls, one);
    return true;
}

bool python_calls_read(json_t *calls, const char *p, size_t n)
{
    struct scan s = { p, p + n };

    for (;;) {
        while (s.p < s.end && (is_blank(*s.p) || *s.p == ';'))
            s.p++;
        if (s.p == s.end)
            return json_array_size(calls) > 0;
        if (call(&s, calls, ".call(", "query"))
            continue;
        if (json_array_size(calls) > 0) {
            json_array_clear(calls);
            return false;
        }
        return bare_quotes(calls, p, n);
    }
}
