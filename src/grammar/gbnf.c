/* gbnf.c - grammars as llama.cpp writes them (GBNF), and as EBNF is commonly written:
 *
 *     root   ::= "yes" | number ("," number)*   # a comment
 *     number ::= [0-9]{1,3}
 *
 * `:` may stand for `::=`, quotes may be single, /.../ is a regular expression, and a rule may go
 * on over lines. The answer is `root`, or `start`, or else the first rule. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "grammar/read.h"

enum { COUNT_MAX = 100000, LAST_CHAR = 0x10FFFF };

struct reader {
    struct exprs *x;
    const char *s;
    size_t n, at;
    int depth;
    json_t *rules; /* name to number; owned */
    struct err *e;
};

static int fail(struct reader *r, const char *what)
{
    size_t line = 1, from = 0;

    for (size_t i = 0; i < r->at && i < r->n; i++)
        if (r->s[i] == '\n') {
            line++;
            from = i + 1;
        }
    return err_set(r->e, ERR_USAGE, "line %zu, byte %zu: %s", line, r->at - from + 1, what);
}

static int peek(const struct reader *r)
{
    return r->at < r->n ? (unsigned char)r->s[r->at] : -1;
}

static bool accept(struct reader *r, const char *s)
{
    const size_t n = strlen(s);

    if (r->n - r->at < n || memcmp(r->s + r->at, s, n) != 0)
        return false;
    r->at += n;
    return true;
}

static void skip_space(struct reader *r)
{
    for (; r->at < r->n; r->at++) {
        if (peek(r) == '#')
            while (r->at < r->n && peek(r) != '\n')
                r->at++;
        if (r->at == r->n || !memchr(" \t\r\n", peek(r), 4))
            return;
    }
}

static size_t name_length(const struct reader *r, size_t at)
{
    size_t n = 0;

    for (; at + n < r->n; n++) {
        const char c = r->s[at + n];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_' || c == '-'))
            break;
    }
    return n;
}

/* Whether a rule begins here: a name and its sign, which is skipped with `go`. */
static bool rule_begins(struct reader *r, bool go)
{
    struct reader ahead = *r;

    ahead.at += name_length(r, r->at);
    if (ahead.at == r->at)
        return false;
    skip_space(&ahead);
    if (!accept(&ahead, "::=") && !accept(&ahead, ":"))
        return false;
    if (go)
        r->at = ahead.at;
    return true;
}

/* The number of a rule, which may be read later. */
static uint32_t rule_of(struct reader *r, const char *name, size_t n)
{
    json_t *known = json_object_getn(r->rules, name, n);

    if (!known) {
        known = json_integer((json_int_t)ex_new_rule(r->x, name, n));
        json_object_setn_new(r->rules, name, n, known);
    }
    return (uint32_t)json_integer_value(known);
}

static int hex(struct reader *r, int n, int32_t *cp)
{
    for (*cp = 0; n > 0; n--, r->at++) {
        const int d = hex_digit(peek(r));

        if (d < 0 || *cp > LAST_CHAR >> 4)
            return fail(r, "\\x takes 2, \\u 4 and \\U 8 hexadecimal digits");
        *cp = *cp << 4 | d;
    }
    return *cp >= 0xD800 && *cp <= 0xDFFF ? fail(r, "half of a surrogate pair") : 0;
}

static int read_char(struct reader *r, int32_t *cp)
{
    static const char from[] = "nrt0", to[] = "\n\r\t";
    const char *p;

    if (r->at == r->n)
        return fail(r, "a text or class that is not closed");
    r->at += utf8_next(r->s + r->at, r->n - r->at, cp);
    if (*cp < 0)
        return fail(r, "it is not UTF-8");
    if (*cp != '\\')
        return 0;
    *cp = peek(r);
    if (*cp < 0)
        return fail(r, "a backslash at the end");
    r->at++;
    if (*cp == 'x' || *cp == 'u' || *cp == 'U')
        return hex(r, *cp == 'x' ? 2 : *cp == 'u' ? 4 : 8, cp);
    p = *cp > 0 ? strchr(from, *cp) : NULL;
    if (p && *p)
        *cp = to[p - from];
    else if (*cp <= 0 || !strchr("\"'\\[]-^/", *cp))
        return fail(r, "an escape that is not known");
    return 0;
}

/* Behind the quote. */
static int read_text(struct reader *r, char quote, uint32_t *out)
{
    struct buf b;
    int rc = 0;

    buf_init(&b, 1 << 20);
    while (rc == 0 && peek(r) != quote) {
        int32_t cp;
        char s[4];

        rc = read_char(r, &cp);
        if (rc == 0)
            buf_add(&b, s, utf8_put(s, cp));
    }
    if (rc == 0) {
        r->at++;
        *out = ex_textn(r->x, b.p, b.len);
        if (peek(r) == 'i')
            rc = fail(r, "texts in either case, \"...\"i, are not supported");
    }
    buf_release(&b);
    return rc;
}

/* Behind [ */
static int read_class(struct reader *r, uint32_t *out)
{
    struct charset set = { 0 };
    const bool not = accept(r, "^");
    int rc = 0;

    while (rc == 0 && !accept(r, "]")) {
        int32_t lo = 0, hi;

        rc = read_char(r, &lo);
        hi = lo;
        if (rc == 0 && peek(r) == '-' && r->at + 1 < r->n && r->s[r->at + 1] != ']') {
            r->at++;
            rc = read_char(r, &hi);
        }
        if (rc == 0 && hi < lo)
            rc = fail(r, "a range that runs backwards");
        if (rc == 0)
            charset_add(&set, lo, hi);
    }
    if (rc == 0) {
        charset_tidy(&set, not );
        *out = ex_charset(r->x, &set);
    }
    charset_release(&set);
    return rc;
}

/* Behind the first slash. */
static int read_slashes(struct reader *r, uint32_t *out)
{
    const size_t from = r->at;

    while (r->at < r->n && peek(r) != '/' && peek(r) != '\n')
        r->at += peek(r) == '\\' && r->at + 1 < r->n ? 2 : 1;
    if (peek(r) != '/')
        return fail(r, "a regular expression that is not closed");
    return regex_expr(r->x, r->s + from, r->at++ - from, NULL, false, out, r->e);
}

static int read_alternatives(struct reader *r, uint32_t *out);

static int read_atom(struct reader *r, uint32_t *out)
{
    static const struct chars any[] = { { 0, 0xD7FF }, { 0xE000, LAST_CHAR } };
    const size_t n = name_length(r, r->at);
    const int c = peek(r);

    if (n) {
        *out = ex_rule(r->x, rule_of(r, r->s + r->at, n));
        r->at += n;
        return 0;
    }
    r->at++;
    switch (c) {
    case '"':
    case '\'':
        return read_text(r, (char)c, out);
    case '[':
        return read_class(r, out);
    case '/':
        return read_slashes(r, out);
    case '.':
        *out = ex_chars(r->x, any, ARRAY_LEN(any));
        return 0;
    case '(':
        if (++r->depth > DEPTH_MAX)
            return fail(r, "groups are nested too deeply");
        if (read_alternatives(r, out))
            return -1;
        r->depth--;
        return accept(r, ")") ? 0 : fail(r, "a group that is not closed");
    default:
        r->at--;
        return fail(r, "here a rule's name, a text, a class or a group should be");
    }
}

static int read_number(struct reader *r, int32_t *out)
{
    int digits = 0;

    for (*out = 0; peek(r) >= '0' && peek(r) <= '9'; r->at++, digits++)
        *out = *out > COUNT_MAX ? *out : *out * 10 + (peek(r) - '0');
    skip_space(r);
    return digits == 0 || *out > COUNT_MAX ? fail(r, "a count is a number up to 100000") : 0;
}

static int read_repeat(struct reader *r, uint32_t *e)
{
    int32_t min = 1, max = 1;

    if (accept(r, "*")) {
        min = 0;
        max = -1;
    } else if (accept(r, "+")) {
        max = -1;
    } else if (accept(r, "?")) {
        min = 0;
    } else if (accept(r, "{")) {
        skip_space(r);
        if (read_number(r, &min))
            return -1;
        max = min;
        if (accept(r, ",")) {
            skip_space(r);
            max = -1;
            if (peek(r) != '}' && read_number(r, &max))
                return -1;
        }
        if (!accept(r, "}") || (max >= 0 && max < min))
            return fail(r, "counts are {m}, {m,} or {m,n}, upwards");
    } else {
        return 0;
    }
    *e = ex_repeat(r->x, *e, min, max);
    return 0;
}

static int read_sequence(struct reader *r, uint32_t *out)
{
    uint32_t all = EX_EMPTY, e;

    skip_space(r);
    while (r->at < r->n && peek(r) != '|' && peek(r) != ')' && peek(r) != ';' &&
           !rule_begins(r, false)) {
        if (read_atom(r, &e) || read_repeat(r, &e))
            return -1;
        all = ex_seq(r->x, all, e);
        skip_space(r);
    }
    *out = all;
    return 0;
}

static int read_alternatives(struct reader *r, uint32_t *out)
{
    uint32_t all = EX_NONE, e;

    do {
        if (read_sequence(r, &e))
            return -1;
        all = ex_alt(r->x, all, e);
    } while (accept(r, "|"));
    *out = all;
    return 0;
}

static int read_rules(struct reader *r)
{
    uint32_t body;

    for (skip_space(r); r->at < r->n; skip_space(r)) {
        const size_t n = name_length(r, r->at);
        const char *name = r->s + r->at;

        if (!rule_begins(r, true))
            return fail(r, "a rule, NAME ::= ..., should begin here");
        const uint32_t rule = rule_of(r, name, n);

        if (r->x->rule[rule].body != EX_NONE && !r->x->full)
            return fail(r, "a second rule of that name");
        if (read_alternatives(r, &body))
            return -1;
        r->x->rule[rule].body = body;
        accept(r, ";");
    }
    return 0;
}

int read_gbnf(struct exprs *x, const char *s, size_t n, struct err *e)
{
    struct reader r = { .x = x, .s = s, .n = n, .rules = json_object(), .e = e };
    const uint32_t root = ex_new_rule(x, NULL, 0);
    uint32_t first = 1;
    int rc = read_rules(&r);

    for (size_t i = 1; i < x->n_rules && rc == 0; i++) {
        const char *name = x->rule[i].name;

        if (x->rule[i].body == EX_NONE)
            rc = err_set(e, ERR_USAGE, "rule '%.40s' is used, and not there", name);
        if (strcmp(name, "root") == 0 ||
            (strcmp(name, "start") == 0 && strcmp(x->rule[first].name, "root") != 0))
            first = (uint32_t)i;
    }
    if (rc == 0 && x->n_rules < 2)
        rc = err_set(e, ERR_USAGE, "there is no rule in it");
    if (rc == 0)
        x->rule[root].body = ex_rule(x, first);
    json_decref(r.rules);
    return rc;
}
