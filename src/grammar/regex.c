/* regex.c - regular expressions: literals, classes, groups, alternatives and counts. */
#include <string.h>

#include "base/utf8.h"
#include "grammar/read.h"

enum { COUNT_MAX = 100000, LAST_CHAR = 0x10FFFF };

struct reader {
    struct exprs *x;
    struct json_rules *j; /* NULL = plain text */
    const char *s;
    size_t n, at;
    int depth;
    bool search;
    struct err *e;
};

static int fail(struct reader *r, const char *what)
{
    return err_set(r->e, ERR_USAGE, "regular expression, byte %zu: %s", r->at + 1, what);
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

static int next_char(struct reader *r, int32_t *cp)
{
    if (r->at == r->n)
        return fail(r, "it ends in the middle");
    r->at += utf8_next(r->s + r->at, r->n - r->at, cp);
    return *cp < 0 ? fail(r, "it is not UTF-8") : 0;
}

static uint32_t set_expr(struct reader *r, struct charset *set)
{
    uint32_t e;

    if (r->j)
        return json_charset(r->j, set);
    e = ex_charset(r->x, set);
    charset_release(set);
    return e;
}

/* ---- escapes and classes ---- */

/* The set of \d \w \s and their opposites; false = it is none of them. */
static bool class_escape(struct charset *set, char c)
{
    struct charset s = { 0 };

    switch (c | 0x20) {
    case 'd':
        charset_add(&s, '0', '9');
        break;
    case 'w':
        charset_add(&s, '0', '9');
        charset_add(&s, 'A', 'Z');
        charset_add(&s, '_', '_');
        charset_add(&s, 'a', 'z');
        break;
    case 's':
        charset_add(&s, '\t', '\r');
        charset_add(&s, ' ', ' ');
        break;
    default:
        return false;
    }
    charset_tidy(&s, c < 'a');
    for (size_t i = 0; i < s.n; i++)
        charset_add(set, s.r[i].lo, s.r[i].hi);
    charset_release(&s);
    return true;
}

static int hex(struct reader *r, int digits, int32_t *cp)
{
    const bool braces = digits == 4 && accept(r, "{");
    int n = 0;

    for (*cp = 0; n < (braces ? 6 : digits); n++) {
        const int d = hex_digit(peek(r));

        if (d < 0)
            break;
        *cp = *cp << 4 | d;
        r->at++;
    }
    if (n == 0 || (!braces && n < digits) || (braces && !accept(r, "}")) || *cp > LAST_CHAR ||
        (*cp >= 0xD800 && *cp <= 0xDFFF))
        return fail(r, "\\x takes 2 and \\u 4 hexadecimal digits, of a character");
    return 0;
}

/* Behind a backslash: one character. */
static int char_escape(struct reader *r, int32_t *cp)
{
    static const char from[] = "nrtfv0", to[] = "\n\r\t\f\v";
    const char *p;

    if (next_char(r, cp))
        return -1;
    if (*cp == 'x')
        return hex(r, 2, cp);
    if (*cp == 'u')
        return hex(r, 4, cp);
    p = *cp > 0 && *cp < 0x80 ? strchr(from, (char)*cp) : NULL;
    if (p && *p && !(*p == '0' && peek(r) >= '0' && peek(r) <= '9'))
        *cp = to[p - from];
    else if (*cp == 'b' || *cp == 'B' || *cp == 'A' || *cp == 'Z' || *cp == 'z' || *cp == 'G')
        return fail(r, "\\b, \\B, \\A, \\z and \\G are not supported");
    else if (*cp == 'p' || *cp == 'P')
        return fail(r, "\\p, a class by Unicode property, is not supported");
    else if (*cp >= '0' && *cp <= '9')
        return fail(r, "a reference to a group is not supported");
    else if ((*cp | 0x20) >= 'a' && (*cp | 0x20) <= 'z')
        return fail(r, "an escaped letter that has no meaning here");
    return 0;
}

/* Behind [ */
static int read_class(struct reader *r, uint32_t *out)
{
    struct charset set = { 0 };
    const bool not = accept(r, "^");
    int rc = 0;

    if (peek(r) == ']')
        return fail(r, "an empty class; write \\] for the bracket");
    while (rc == 0 && !accept(r, "]")) {
        int32_t lo, hi;

        if (r->at == r->n) {
            rc = fail(r, "a class that is not closed");
            break;
        }
        if (accept(r, "\\")) {
            if (peek(r) > 0 && class_escape(&set, (char)peek(r))) {
                r->at++;
                continue;
            }
            rc = accept(r, "b") ? (lo = '\b', 0) : char_escape(r, &lo);
        } else {
            rc = next_char(r, &lo);
        }
        hi = lo;
        if (rc == 0 && r->at + 1 < r->n && r->s[r->at] == '-' && r->s[r->at + 1] != ']') {
            r->at++;
            rc = accept(r, "\\") ? char_escape(r, &hi) : next_char(r, &hi);
            if (rc == 0 && hi < lo)
                rc = fail(r, "a range that runs backwards");
        }
        if (rc == 0)
            charset_add(&set, lo, hi);
    }
    if (rc) {
        charset_release(&set);
        return -1;
    }
    charset_tidy(&set, not );
    *out = set_expr(r, &set);
    return 0;
}

/* ---- the rest ---- */

static int read_alternatives(struct reader *r, uint32_t *out);

static int read_group(struct reader *r, uint32_t *out)
{
    if (accept(r, "?")) {
        if (accept(r, "P<") || (peek(r) == '<' && r->at + 1 < r->n && r->s[r->at + 1] != '=' &&
                                r->s[r->at + 1] != '!')) {
            while (r->at < r->n && !accept(r, ">"))
                r->at++;
        } else if (!accept(r, ":")) {
            return fail(r, "of groups that begin with (? only (?: and named ones are supported: no "
                           "look-around, no flags");
        }
    }
    if (++r->depth > DEPTH_MAX)
        return fail(r, "groups are nested too deeply");
    if (read_alternatives(r, out))
        return -1;
    r->depth--;
    return accept(r, ")") ? 0 : fail(r, "a group that is not closed");
}

static int read_atom(struct reader *r, uint32_t *out)
{
    struct charset set = { 0 };
    int32_t cp;

    switch (peek(r)) {
    case '(':
        r->at++;
        return read_group(r, out);
    case '[':
        r->at++;
        return read_class(r, out);
    case '.':
        r->at++;
        charset_add(&set, '\n', '\n');
        charset_add(&set, '\r', '\r');
        charset_tidy(&set, true);
        *out = set_expr(r, &set);
        return 0;
    case '*':
    case '+':
    case '?':
        return fail(r, "nothing to repeat");
    case '^':
    case '$':
        return fail(r, "^ and $ are supported at the ends of the whole expression only");
    case '\\':
        r->at++;
        if (r->at == r->n)
            return fail(r, "a backslash at the end");
        if (class_escape(&set, r->s[r->at])) {
            r->at++;
            charset_tidy(&set, false);
            *out = set_expr(r, &set);
            return 0;
        }
        if (char_escape(r, &cp))
            return -1;
        break;
    default:
        if (next_char(r, &cp))
            return -1;
    }
    charset_add(&set, cp, cp);
    *out = set_expr(r, &set);
    return 0;
}

/* {m}, {m,}, {m,n} or {,n} behind the brace. 0 = it is none: literal text. */
static int read_counts(struct reader *r, int32_t *min, int32_t *max)
{
    const size_t start = r->at;
    int32_t v[2] = { 0, -1 };
    int part = 0, digits[2] = { 0, 0 };

    for (; r->at < r->n; r->at++) {
        const char c = r->s[r->at];

        if (c >= '0' && c <= '9') {
            if (digits[part]++ == 0)
                v[part] = 0;
            v[part] = v[part] > COUNT_MAX ? v[part] : v[part] * 10 + (c - '0');
        } else if (c == ',' && part == 0) {
            part = 1;
        } else {
            break;
        }
    }
    if (peek(r) != '}' || digits[0] + digits[1] == 0) {
        r->at = start;
        return 0;
    }
    r->at++;
    *min = v[0];
    *max = part ? v[1] : v[0];
    if (*min > COUNT_MAX || *max > COUNT_MAX || (*max >= 0 && *max < *min))
        return fail(r, "counts run upwards, to 100000 at most");
    return 1;
}

static int read_repeat(struct reader *r, uint32_t *e)
{
    int32_t min = 1, max = 1;
    int rc = 1;

    if (accept(r, "*"))
        min = 0, max = -1;
    else if (accept(r, "+"))
        max = -1;
    else if (accept(r, "?"))
        min = 0;
    else if (accept(r, "{")) {
        rc = read_counts(r, &min, &max);
        if (rc == 0)
            r->at--;
    } else {
        rc = 0;
    }
    if (rc <= 0)
        return rc;
    *e = ex_repeat(r->x, *e, min, max);
    accept(r, "?"); /* lazy: the same texts */
    if (peek(r) == '*' || peek(r) == '+' || peek(r) == '?')
        return fail(r, "a count on a count");
    return 0;
}

/* One alternative. Anchors belong to the whole, so only the outermost may have them. */
static int read_sequence(struct reader *r, uint32_t *out)
{
    const bool outer = r->depth == 0;
    bool from_start = !r->search, to_end = !r->search;
    uint32_t all = EX_EMPTY, any = EX_EMPTY;

    if (outer && accept(r, "^"))
        from_start = true;
    while (r->at < r->n && peek(r) != '|' && peek(r) != ')') {
        uint32_t e;

        if (outer && peek(r) == '$' && (r->at + 1 == r->n || r->s[r->at + 1] == '|')) {
            r->at++;
            to_end = true;
            break;
        }
        if (read_atom(r, &e))
            return -1;
        if (read_repeat(r, &e))
            return -1;
        all = ex_seq(r->x, all, e);
    }
    if (outer && r->j && !(from_start && to_end))
        any = ex_repeat(r->x, json_char(r->j), 0, -1);
    if (outer && !from_start)
        all = ex_seq(r->x, any, all);
    if (outer && !to_end)
        all = ex_seq(r->x, all, any);
    *out = all;
    return 0;
}

static int read_alternatives(struct reader *r, uint32_t *out)
{
    uint32_t all, e;

    if (read_sequence(r, &all))
        return -1;
    while (accept(r, "|")) {
        if (read_sequence(r, &e))
            return -1;
        all = ex_alt(r->x, all, e);
    }
    *out = all;
    return 0;
}

int regex_expr(struct exprs *x, const char *s, size_t n, struct json_rules *j, bool search,
               uint32_t *out, struct err *e)
{
    struct reader r = { .x = x, .j = j, .s = s, .n = n, .search = search, .e = e };

    if (read_alternatives(&r, out))
        return -1;
    return r.at < n ? fail(&r, "a closing parenthesis without its opening one") : 0;
}

int read_regex(struct exprs *x, const char *s, size_t n, struct err *e)
{
    const uint32_t root = ex_new_rule(x, "root", 4);
    uint32_t body;

    if (regex_expr(x, s, n, NULL, false, &body, e))
        return -1;
    x->rule[root].body = body;
    return 0;
}
