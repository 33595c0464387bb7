/* jinja_parse.c - template text to a tree. Blocks and expressions are read in one pass. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/jinja_int.h"

enum tkind { T_END, T_NAME, T_STR, T_INT, T_FLOAT, T_OP };
struct token {
    enum tkind kind;
    const char *p;
    size_t n;
    int line;
};

struct parser {
    struct jinja *t;
    const char *p, *end;
    int line, depth;
    struct token tok; /* the current one, inside a tag */
    bool block;       /* the tag is {% %}, else {{ }} */
    int loops;
    int open;         /* brackets: a tag does not end between them */
    const char *stop; /* name of the tag that ended a body */
    struct err *e;
};

static int fail(struct parser *s, const char *what)
{
    return err_set(s->e, ERR_FORMAT, "chat template, line %d: %s", s->line, what);
}

static void *get(struct parser *s, size_t n)
{
    void *p = pool_get(&s->t->pool, n);

    if (!p)
        fail(s, "too large");
    return p;
}

static char *keep(struct parser *s, const char *p, size_t n)
{
    char *c = get(s, n + 1);

    if (c)
        memcpy(c, p, n);
    return c;
}

/* ---- tokens ---- */

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void skip_space(struct parser *s)
{
    for (; s->p < s->end && is_space(*s->p); s->p++)
        s->line += *s->p == '\n';
}

static int next_token(struct parser *s)
{
    static const char *const ops[] = { "**", "//", "==", "!=", "<=", ">=" };

    skip_space(s);
    s->tok = (struct token){ .kind = T_END, .p = s->p, .line = s->line };
    if (s->p == s->end)
        return fail(s, "a tag without end");
    const char c = *s->p;
    const char *end = s->block ? "%}" : "}}";

    if (!s->open && s->end - s->p >= 2 && memcmp(s->p, end, 2) == 0)
        return 0;
    if (!s->open && (c == '-' || c == '+') && s->end - s->p >= 3 && memcmp(s->p + 1, end, 2) == 0)
        return 0;
    if (c >= '0' && c <= '9') {
        s->tok.kind = T_INT;
        while (s->p < s->end && ((*s->p >= '0' && *s->p <= '9') || *s->p == '_'))
            s->p++;
        if (s->end - s->p >= 2 && *s->p == '.' && s->p[1] >= '0' && s->p[1] <= '9') {
            s->tok.kind = T_FLOAT;
            s->p++;
            while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
                s->p++;
        }
        const char *x = s->p;

        if (x < s->end && (*x == 'e' || *x == 'E')) {
            x += 1 + (s->end - x > 1 && (x[1] == '-' || x[1] == '+'));
            if (x < s->end && *x >= '0' && *x <= '9') {
                s->tok.kind = T_FLOAT;
                for (s->p = x; s->p < s->end && *s->p >= '0' && *s->p <= '9';)
                    s->p++;
            }
        }
    } else if (is_name(c)) {
        s->tok.kind = T_NAME;
        while (s->p < s->end && is_name(*s->p))
            s->p++;
    } else if (c == '"' || c == '\'') {
        s->tok.kind = T_STR;
        for (s->p++; s->p < s->end && *s->p != c; s->p++) {
            s->line += *s->p == '\n';
            if (*s->p == '\\' && s->p + 1 < s->end)
                s->p++;
        }
        if (s->p == s->end)
            return fail(s, "a string without end");
        s->p++;
    } else {
        s->tok.kind = T_OP;
        s->p++;
        for (size_t i = 0; i < ARRAY_LEN(ops); i++)
            if (s->p < s->end && c == ops[i][0] && *s->p == ops[i][1]) {
                s->p++;
                break;
            }
        if (!strchr("+-*/%~<>=!()[]{}.,:|", c) || (c == '!' && s->p - s->tok.p == 1))
            return fail(s, "an unexpected character");
        s->open += strchr("([{", c) ? 1 : strchr(")]}", c) && s->open ? -1 : 0;
    }
    s->tok.n = (size_t)(s->p - s->tok.p);
    return 0;
}

static bool is(const struct parser *s, enum tkind kind, const char *text)
{
    return s->tok.kind == kind && s->tok.n == strlen(text) && memcmp(s->tok.p, text, s->tok.n) == 0;
}

static bool op(const struct parser *s, const char *text)
{
    return is(s, T_OP, text);
}

static bool word(const struct parser *s, const char *text)
{
    return is(s, T_NAME, text);
}

static int expect(struct parser *s, const char *text)
{
    if (!op(s, text))
        return err_set(s->e, ERR_FORMAT, "chat template, line %d: %s expected", s->line, text);
    return next_token(s);
}

static int take_name(struct parser *s, const char **out)
{
    if (s->tok.kind != T_NAME)
        return fail(s, "a name expected");
    *out = keep(s, s->tok.p, s->tok.n);
    return *out ? next_token(s) : -1;
}

/* ---- expressions ---- */

static struct expr *parse_expr(struct parser *s);
static struct expr *parse_unary(struct parser *s);

static struct expr *node(struct parser *s, enum ekind kind, struct expr *a, struct expr *b)
{
    struct expr *x = get(s, sizeof(*x));

    if (x)
        *x = (struct expr){ .kind = kind, .line = s->tok.line, .a = a, .b = b };
    return x;
}

static int add_arg(struct parser *s, struct expr *x, const char *key, struct expr *arg)
{
    if ((x->n & (x->n - 1)) == 0) {
        const size_t cap = x->n ? x->n * 2 : 1;
        struct expr **args = get(s, cap * sizeof(*args));
        const char **keys = get(s, cap * sizeof(*keys));

        if (!args || !keys)
            return -1;
        if (x->n) {
            memcpy(args, x->args, x->n * sizeof(*args));
            memcpy(keys, x->keys, x->n * sizeof(*keys));
        }
        x->args = args;
        x->keys = keys;
    }
    x->keys[x->n] = key;
    x->args[x->n++] = arg;
    return 0;
}

/* Behind the opening bracket, to behind the closing one. */
static int parse_args(struct parser *s, struct expr *x, const char *close, bool keys)
{
    while (!op(s, close)) {
        const struct token t = s->tok;
        struct expr *arg = parse_expr(s);
        const char *key = NULL;

        if (!arg)
            return -1;
        if (keys && t.kind == T_NAME && arg->kind == E_NAME && op(s, "=")) {
            key = arg->name;
            if (next_token(s) || !(arg = parse_expr(s)))
                return -1;
        }
        if (add_arg(s, x, key, arg))
            return -1;
        if (!op(s, ","))
            break;
        if (next_token(s))
            return -1;
    }
    return expect(s, close);
}

/* A string literal's content, its escapes resolved. */
static struct expr *string(struct parser *s)
{
    static const char from[] = "ntr\\'\"", to[] = "\n\t\r\\'\"";
    struct expr *x = node(s, E_LIT, NULL, NULL);
    const size_t n = s->tok.n - 2;
    char *c = get(s, n + 1);
    uint8_t *m = get(s, n + 1);
    size_t k = 0;
    const char *p = s->tok.p + 1, *end = p + n;

    if (!x || !c || !m)
        return NULL;
    while (p < end) {
        const char *at = p[0] == '\\' && p + 1 < end ? memchr(from, p[1], 6) : NULL;
        const int hex = p[0] == '\\' && p + 1 < end && p[1] == 'u'   ? hex_digits(p + 2, end, 4)
                        : p[0] == '\\' && p + 1 < end && p[1] == 'x' ? hex_digits(p + 2, end, 2)
                                                                     : -1;

        if (at) {
            c[k++] = to[at - from];
            p += 2;
        } else if (hex >= 0 && !(hex >= 0xD800 && hex <= 0xDFFF)) {
            char u[4];
            const size_t len = utf8_put(u, hex);

            memcpy(c + k, u, len);
            k += len;
            p += p[1] == 'u' ? 6 : 4;
        } else {
            c[k++] = *p++;
        }
    }
    x->value = (struct jv){ .type = J_STR, .s = { c, m, k } };
    return next_token(s) ? NULL : x;
}

static struct expr *number(struct parser *s)
{
    struct expr *x = node(s, E_LIT, NULL, NULL);
    char text[64];
    size_t n = 0;

    for (size_t i = 0; i < s->tok.n && n < sizeof(text) - 1; i++)
        if (s->tok.p[i] != '_')
            text[n++] = s->tok.p[i];
    text[n] = 0;
    if (!x || n > 18 + 20 * (s->tok.kind == T_FLOAT)) {
        fail(s, "a number that is too long");
        return NULL;
    }
    if (s->tok.kind == T_INT)
        x->value = (struct jv){ .type = J_INT, .i = strtoll(text, NULL, 10) };
    else
        x->value = (struct jv){ .type = J_FLOAT, .f = strtod(text, NULL) };
    return next_token(s) ? NULL : x;
}

static struct expr *name(struct parser *s)
{
    struct expr *x = node(s, E_NAME, NULL, NULL);

    if (!x)
        return NULL;
    if (word(s, "true") || word(s, "True"))
        *x = (struct expr){ .kind = E_LIT, .value = { .type = J_BOOL, .on = true } };
    else if (word(s, "false") || word(s, "False"))
        *x = (struct expr){ .kind = E_LIT, .value = { .type = J_BOOL } };
    else if (word(s, "none") || word(s, "None"))
        *x = (struct expr){ .kind = E_LIT, .value = { .type = J_NONE } };
    else if (!(x->name = keep(s, s->tok.p, s->tok.n)))
        return NULL;
    return next_token(s) ? NULL : x;
}

static struct expr *dict(struct parser *s)
{
    struct expr *x = node(s, E_DICT, NULL, NULL), *k, *v;

    if (!x || next_token(s))
        return NULL;
    while (!op(s, "}")) {
        if (!(k = parse_expr(s)) || expect(s, ":") || !(v = parse_expr(s)) ||
            add_arg(s, x, NULL, k) || add_arg(s, x, NULL, v))
            return NULL;
        if (!op(s, ","))
            break;
        if (next_token(s))
            return NULL;
    }
    return expect(s, "}") ? NULL : x;
}

static struct expr *paren(struct parser *s)
{
    struct expr *x, *t;

    if (next_token(s))
        return NULL;
    if (op(s, ")")) {
        x = node(s, E_TUPLE, NULL, NULL);
        return x && next_token(s) == 0 ? x : NULL;
    }
    if (!(x = parse_expr(s)))
        return NULL;
    if (op(s, ",")) {
        t = node(s, E_TUPLE, NULL, NULL);
        if (!t || add_arg(s, t, NULL, x) || next_token(s) || parse_args(s, t, ")", false))
            return NULL;
        return t;
    }
    return expect(s, ")") ? NULL : x;
}

static struct expr *primary(struct parser *s)
{
    struct expr *x;

    if (s->tok.kind == T_STR) {
        x = string(s);
        while (x && s->tok.kind == T_STR) { /* 'a' 'b' is one string */
            struct expr *y = string(s);

            x = y ? node(s, E_BIN, x, y) : NULL;
            if (x)
                x->name = "~";
        }
        return x;
    }
    if (s->tok.kind == T_INT || s->tok.kind == T_FLOAT)
        return number(s);
    if (s->tok.kind == T_NAME)
        return name(s);
    if (op(s, "("))
        return paren(s);
    if (op(s, "{"))
        return dict(s);
    if (op(s, "[")) {
        x = node(s, E_LIST, NULL, NULL);
        return x && next_token(s) == 0 && parse_args(s, x, "]", false) == 0 ? x : NULL;
    }
    fail(s, "an expression expected");
    return NULL;
}

/* Behind a[ */
static struct expr *subscript(struct parser *s, struct expr *a)
{
    struct expr *x = node(s, E_ITEM, a, NULL), **part[] = { &x->b, &x->c, &x->d };
    size_t i = 0;

    if (!x)
        return NULL;
    for (;;) {
        if (!op(s, ":") && !op(s, "]") && !(*part[i] = parse_expr(s)))
            return NULL;
        if (!op(s, ":") || ++i == 3)
            break;
        x->kind = E_SLICE;
        if (next_token(s))
            return NULL;
    }
    if (x->kind == E_ITEM && !x->b) {
        fail(s, "an index expected");
        return NULL;
    }
    return expect(s, "]") ? NULL : x;
}

static struct expr *filter(struct parser *s, struct expr *a)
{
    struct expr *x = node(s, E_FILTER, a, NULL);

    if (!x || take_name(s, &x->name))
        return NULL;
    if (op(s, "(") && (next_token(s) || parse_args(s, x, ")", true)))
        return NULL;
    return x;
}

static struct expr *test(struct parser *s, struct expr *a)
{
    struct expr *x, *arg;
    bool negated = false;

    if (next_token(s))
        return NULL;
    if (word(s, "not")) {
        negated = true;
        if (next_token(s))
            return NULL;
    }
    x = node(s, E_TEST, a, NULL);
    if (!x || take_name(s, &x->name))
        return NULL;
    if (op(s, "(")) {
        if (next_token(s) || parse_args(s, x, ")", false))
            return NULL;
    } else if ((s->tok.kind == T_NAME && !word(s, "else") && !word(s, "or") && !word(s, "and") &&
                !word(s, "is") && !word(s, "if") && !word(s, "in") && !word(s, "not")) ||
               s->tok.kind == T_STR || s->tok.kind == T_INT || op(s, "[")) {
        if (!(arg = primary(s)) || add_arg(s, x, NULL, arg))
            return NULL;
    }
    return negated ? node(s, E_NOT, x, NULL) : x;
}

static struct expr *postfix(struct parser *s, struct expr *x, bool filters)
{
    for (int i = 0; x; i++) {
        struct expr *y;

        if (i == JINJA_DEPTH * 10) {
            fail(s, "an expression that is too long");
            return NULL;
        }
        if (op(s, ".")) {
            if (next_token(s) || !(y = node(s, E_ATTR, x, NULL)))
                return NULL;
            if (s->tok.kind == T_INT) {
                y->kind = E_ITEM;
                y->b = number(s);
                x = y->b ? y : NULL;
            } else {
                x = take_name(s, &y->name) ? NULL : y;
            }
        } else if (op(s, "[")) {
            x = next_token(s) ? NULL : subscript(s, x);
        } else if (op(s, "(")) {
            y = node(s, E_CALL, x, NULL);
            x = y && next_token(s) == 0 && parse_args(s, y, ")", true) == 0 ? y : NULL;
        } else if (filters && op(s, "|")) {
            x = next_token(s) ? NULL : filter(s, x);
        } else if (filters && word(s, "is")) {
            x = test(s, x);
        } else {
            return x;
        }
    }
    return NULL;
}

static struct expr *parse_unary(struct parser *s)
{
    struct expr *x;

    if (++s->depth > JINJA_DEPTH) {
        fail(s, "nested too deeply");
        return NULL;
    }
    if (op(s, "-") || op(s, "+")) {
        const enum ekind kind = op(s, "-") ? E_NEG : E_POS;

        x = next_token(s) ? NULL : parse_unary(s);
        x = x ? node(s, kind, x, NULL) : NULL;
    } else {
        x = postfix(s, primary(s), false);
    }
    x = postfix(s, x, true);
    s->depth--;
    return x;
}

/* Left-associative operators by level, weakest first. */
static struct expr *binary(struct parser *s, int level)
{
    static const char *const ops[4][5] = {
        { "+", "-" }, { "~" }, { "*", "/", "//", "%" }, { "**" }
    };
    struct expr *x = level == 4 ? parse_unary(s) : binary(s, level + 1);

    while (x && level < 4) {
        const char *name_of = NULL;

        for (size_t i = 0; i < 5 && ops[level][i]; i++)
            if (op(s, ops[level][i]))
                name_of = ops[level][i];
        if (!name_of)
            break;
        struct expr *y = next_token(s) ? NULL : binary(s, level + 1);

        x = y ? node(s, E_BIN, x, y) : NULL;
        if (x)
            x->name = name_of;
    }
    return x;
}

static struct expr *compare(struct parser *s)
{
    static const char *const ops[] = { "==", "!=", "<=", ">=", "<", ">" };
    struct expr *first = binary(s, 0), *x = first, *all = NULL;

    while (x) {
        const char *name_of = NULL;

        for (size_t i = 0; i < ARRAY_LEN(ops); i++)
            if (op(s, ops[i]))
                name_of = ops[i];
        if (word(s, "in"))
            name_of = "in";
        if (word(s, "not")) {
            name_of = "not in";
            if (next_token(s))
                return NULL;
            if (!word(s, "in")) {
                fail(s, "`in` expected");
                return NULL;
            }
        }
        if (!name_of)
            break;
        struct expr *y = next_token(s) ? NULL : binary(s, 0), *c = NULL;

        if (y)
            c = node(s, E_COMPARE, x, y);
        if (!c)
            return NULL;
        c->name = name_of;
        all = all ? node(s, E_AND, all, c) : c; /* a < b < c */
        x = y;
    }
    return all && x ? all : x ? first : NULL;
}

static struct expr *parse_not(struct parser *s)
{
    struct expr *x;

    if (!word(s, "not"))
        return compare(s);
    if (++s->depth > JINJA_DEPTH) {
        fail(s, "nested too deeply");
        return NULL;
    }
    x = next_token(s) ? NULL : parse_not(s);
    s->depth--;
    return x ? node(s, E_NOT, x, NULL) : NULL;
}

static struct expr *parse_and(struct parser *s)
{
    struct expr *x = parse_not(s);

    while (x && word(s, "and")) {
        struct expr *y = next_token(s) ? NULL : parse_not(s);

        x = y ? node(s, E_AND, x, y) : NULL;
    }
    return x;
}

static struct expr *parse_or(struct parser *s)
{
    struct expr *x = parse_and(s);

    while (x && word(s, "or")) {
        struct expr *y = next_token(s) ? NULL : parse_and(s);

        x = y ? node(s, E_OR, x, y) : NULL;
    }
    return x;
}

static struct expr *parse_expr(struct parser *s)
{
    struct expr *x;

    if (++s->depth > JINJA_DEPTH) {
        fail(s, "nested too deeply");
        return NULL;
    }
    x = parse_or(s);
    while (x && word(s, "if")) {
        struct expr *c = next_token(s) ? NULL : parse_or(s), *other = NULL;

        if (!c)
            return NULL;
        if (word(s, "else") && (next_token(s) || !(other = parse_expr(s))))
            return NULL;
        x = node(s, E_IF, c, x);
        if (x)
            x->c = other;
    }
    s->depth--;
    return x;
}

/* a, b is a tuple; `element` reads one of them */
static struct expr *parse_tuple_of(struct parser *s, struct expr *(*element)(struct parser *s))
{
    struct expr *x = element(s), *t;

    if (!x || !op(s, ","))
        return x;
    t = node(s, E_TUPLE, NULL, NULL);
    if (!t || add_arg(s, t, NULL, x))
        return NULL;
    while (op(s, ",")) {
        if (next_token(s))
            return NULL;
        if (s->tok.kind == T_END || word(s, "if") || word(s, "recursive"))
            break;
        if (!(x = element(s)) || add_arg(s, t, NULL, x))
            return NULL;
    }
    return t;
}

static struct expr *parse_tuple(struct parser *s)
{
    return parse_tuple_of(s, parse_expr);
}

/* ---- statements ---- */

static int parse_body(struct parser *s, struct stmt **out, const char *stops);

static struct stmt *stmt(struct parser *s, enum skind kind)
{
    struct stmt *x = get(s, sizeof(*x));

    if (x)
        *x = (struct stmt){ .kind = kind, .line = s->line };
    return x;
}

/* From the last token of a tag to behind it, with what it trims. */
static int end_tag(struct parser *s)
{
    bool trim = false, keep_newline = !s->block;

    if (s->tok.kind != T_END)
        return fail(s, "the end of the tag expected");
    if (*s->p == '-' || *s->p == '+') {
        trim = *s->p == '-';
        keep_newline = true;
        s->p++;
    }
    s->p += 2;
    if (trim) {
        skip_space(s);
    } else if (!keep_newline && s->p < s->end && *s->p == '\n') {
        s->p++;
        s->line++;
    }
    return 0;
}

static int names(struct parser *s, struct stmt *x)
{
    const bool open = op(s, "(");

    x->names = get(s, 16 * sizeof(*x->names));
    if (!x->names || (open && next_token(s)))
        return -1;
    do {
        if (x->n && next_token(s))
            return -1;
        if (x->n == 16)
            return fail(s, "more than 16 names");
        if (op(s, "("))
            return fail(s, "names in brackets within names, a, (b, c), are not supported");
        if (take_name(s, &x->names[x->n++]))
            return -1;
    } while (op(s, ","));
    return open ? expect(s, ")") : 0;
}

static int stmt_if(struct parser *s, struct stmt *x)
{
    if (!(x->e = parse_tuple(s)) || end_tag(s) || parse_body(s, &x->body, "elif else endif"))
        return -1;
    if (strcmp(s->stop, "elif") == 0) {
        if (!(x->other = stmt(s, S_IF)))
            return -1;
        if (++s->depth > JINJA_DEPTH)
            return fail(s, "nested too deeply");
        const int rc = stmt_if(s, x->other);

        s->depth--;
        return rc;
    }
    if (strcmp(s->stop, "else") == 0 && (end_tag(s) || parse_body(s, &x->other, "endif")))
        return -1;
    return end_tag(s);
}

static int stmt_for(struct parser *s, struct stmt *x)
{
    if (names(s, x))
        return -1;
    if (!word(s, "in"))
        return fail(s, "`in` expected");
    if (next_token(s) || !(x->e = parse_tuple_of(s, parse_or)))
        return -1;
    if (word(s, "if") && (next_token(s) || !(x->cond = parse_expr(s))))
        return -1;
    if (word(s, "recursive"))
        return fail(s, "recursive loops are not supported");
    s->loops++;
    if (end_tag(s) || parse_body(s, &x->body, "else endfor"))
        return -1;
    s->loops--;
    if (strcmp(s->stop, "else") == 0 && (end_tag(s) || parse_body(s, &x->other, "endfor")))
        return -1;
    return end_tag(s);
}

static int stmt_set(struct parser *s, struct stmt *x)
{
    if (names(s, x))
        return -1;
    if (op(s, ".") && (next_token(s) || take_name(s, &x->attr)))
        return -1;
    if (op(s, "=")) {
        if (next_token(s) || !(x->e = parse_tuple(s)))
            return -1;
        return end_tag(s);
    }
    return end_tag(s) || parse_body(s, &x->body, "endset") || end_tag(s) ? -1 : 0;
}

/* {% with a = 1, b = 2 %} */
static int stmt_with(struct parser *s, struct stmt *x)
{
    x->names = get(s, 16 * sizeof(*x->names));
    x->defaults = get(s, 16 * sizeof(*x->defaults));
    if (!x->names || !x->defaults)
        return -1;
    while (s->tok.kind != T_END) {
        if (x->n == 16)
            return fail(s, "more than 16 names");
        if (op(s, "("))
            return fail(s, "names in brackets within names, a, (b, c), are not supported");
        if ((x->n && expect(s, ",")) || take_name(s, &x->names[x->n]) || expect(s, "=") ||
            !(x->defaults[x->n] = parse_expr(s)))
            return -1;
        x->n++;
    }
    return end_tag(s) || parse_body(s, &x->body, "endwith") || end_tag(s) ? -1 : 0;
}

/* (a, b=1), which may be left out where it is optional */
static int parameters(struct parser *s, struct stmt *x, bool optional)
{
    x->names = get(s, 16 * sizeof(*x->names));
    x->defaults = get(s, 16 * sizeof(*x->defaults));
    if (!x->names || !x->defaults)
        return -1;
    if (optional && !op(s, "("))
        return 0;
    if (expect(s, "("))
        return -1;
    while (!op(s, ")")) {
        if (x->n == 16)
            return fail(s, "more than 16 parameters");
        if (take_name(s, &x->names[x->n]))
            return -1;
        if (op(s, "=") && (next_token(s) || !(x->defaults[x->n] = parse_expr(s))))
            return -1;
        x->n++;
        if (!op(s, ","))
            break;
        if (next_token(s))
            return -1;
    }
    return expect(s, ")");
}

static int stmt_macro(struct parser *s, struct stmt *x)
{
    const int loops = s->loops;

    if (take_name(s, &x->name) || parameters(s, x, false))
        return -1;
    s->loops = 0;
    if (end_tag(s) || parse_body(s, &x->body, "endmacro"))
        return -1;
    s->loops = loops;
    return end_tag(s);
}

/* The text of a block as a value: {% call(a) m(b) %} is {% macro CALLER(a) %} and
 * {{ m(b, caller=CALLER) }}. No template can write the name. */
static int stmt_call(struct parser *s, struct stmt *x)
{
    const int loops = s->loops;
    struct expr *made;

    x->name = " caller";
    if (parameters(s, x, true) || !(x->next = stmt(s, S_PRINT)) || !(x->next->e = parse_expr(s)))
        return -1;
    if (x->next->e->kind != E_CALL)
        return fail(s, "the call of a macro expected");
    if (!(made = node(s, E_NAME, NULL, NULL)) || add_arg(s, x->next->e, "caller", made))
        return -1;
    made->name = x->name;
    s->loops = 0;
    if (end_tag(s) || parse_body(s, &x->body, "endcall"))
        return -1;
    s->loops = loops;
    return end_tag(s);
}

/* {% filter f %} is {% set TEXT %} and {{ TEXT|f }}. */
static int stmt_filter(struct parser *s, struct stmt *x)
{
    static const char *const text[] = { " filter" };
    struct expr *e = node(s, E_NAME, NULL, NULL);

    if (!e || !(x->names = get(s, sizeof(*x->names))) || !(x->next = stmt(s, S_PRINT)))
        return -1;
    x->names[0] = e->name = text[0];
    x->n = 1;
    if (s->tok.kind != T_NAME)
        return fail(s, "the name of a filter expected");
    do {
        if (!(e = filter(s, e)))
            return -1;
    } while (op(s, "|") && next_token(s) == 0);
    x->next->e = e;
    return end_tag(s) || parse_body(s, &x->body, "endfilter") || end_tag(s) ? -1 : 0;
}

static int add_text(struct parser *s, struct stmt ***tail, const char *p, size_t n);

/* {% endraw %} at p: where its sign stands (NULL = it is something else), and its end. */
static const char *endraw(const struct parser *s, const char *p, const char **end)
{
    const char *const sign = p + 2;

    if (s->end - p < 2 || memcmp(p, "{%", 2) != 0)
        return NULL;
    p += 2 + (s->end - sign > 0 && (*sign == '-' || *sign == '+'));
    while (p < s->end && is_space(*p))
        p++;
    if (s->end - p < 6 || memcmp(p, "endraw", 6) != 0)
        return NULL;
    for (p += 6; p < s->end && is_space(*p);)
        p++;
    if (s->end - p < 2 + (*p == '-' || *p == '+'))
        return NULL;
    *end = p;
    return memcmp(p + (*p == '-' || *p == '+'), "%}", 2) == 0 ? sign : NULL;
}

/* Behind the word raw, to behind {% endraw %}: text as it is. */
static int raw(struct parser *s, struct stmt **out)
{
    const char *from, *stop, *end = NULL, *sign = NULL;

    if (s->tok.kind != T_END || *s->p == '+')
        return fail(s, "the end of the tag expected");
    const bool trim = *s->p == '-';

    s->p += 2 + trim;
    if (trim)
        skip_space(s);
    from = s->p;
    for (stop = from; stop < s->end && !(sign = endraw(s, stop, &end)); stop++)
        s->line += *stop == '\n';
    if (!sign)
        return fail(s, "it ends before endraw");
    if (*sign == '-') {
        while (stop > from && is_space(stop[-1]))
            stop--;
    } else if (*sign != '+') {
        const char *p = stop;

        while (p > from && (p[-1] == ' ' || p[-1] == '\t'))
            p--;
        if (p > from ? p[-1] == '\n' : from[-1] == '\n')
            stop = p;
    }
    s->p = end;
    s->block = true;
    s->tok.kind = T_END;
    return add_text(s, &out, from, (size_t)(stop - from)) || end_tag(s) ? -1 : 1;
}

static bool in_words(const char *words, const struct token *t)
{
    for (const char *p = words; p && *p;) {
        const size_t n = strcspn(p, " ");

        if (n == t->n && memcmp(p, t->p, n) == 0)
            return true;
        p += n + (p[n] == ' ');
    }
    return false;
}

/* Behind {%: 1 = a statement is in *out (NULL = none), 0 = one of `stops`. */
static int parse_block(struct parser *s, struct stmt **out, const char *stops)
{
    struct stmt *x;

    *out = NULL;
    if (s->tok.kind != T_NAME)
        return fail(s, "the name of a tag expected");
    if (in_words(stops, &s->tok)) {
        s->stop = keep(s, s->tok.p, s->tok.n);
        return s->stop && next_token(s) == 0 ? 0 : -1;
    }
    static const struct {
        const char *name;
        enum skind kind;
        int (*parse)(struct parser *s, struct stmt *x);
    } tags[] = { { "if", S_IF, stmt_if },         { "for", S_FOR, stmt_for },
                 { "set", S_SET, stmt_set },      { "macro", S_MACRO, stmt_macro },
                 { "call", S_MACRO, stmt_call },  { "filter", S_SET, stmt_filter },
                 { "with", S_WITH, stmt_with },   { "break", S_BREAK, NULL },
                 { "continue", S_CONTINUE, NULL } };

    if (word(s, "raw"))
        return next_token(s) ? -1 : raw(s, out);

    if (word(s, "generation") || word(s, "endgeneration")) /* marks what is trained on: no text */
        return next_token(s) || end_tag(s) ? -1 : 1;
    for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
        if (!word(s, tags[i].name))
            continue;
        if (!(x = stmt(s, tags[i].kind)) || next_token(s))
            return -1;
        if (!tags[i].parse && s->loops == 0)
            return fail(s, "break or continue outside of a loop");
        if (tags[i].parse ? tags[i].parse(s, x) : end_tag(s))
            return -1;
        *out = x;
        return 1;
    }
    return err_set(s->e, ERR_FORMAT, "chat template, line %d: the tag %.*s is not known here",
                   s->line, (int)(s->tok.n < 40 ? s->tok.n : 40), s->tok.p);
}

static int add_text(struct parser *s, struct stmt ***tail, const char *p, size_t n)
{
    struct stmt *x;
    uint8_t *m;

    if (n == 0)
        return 0;
    x = stmt(s, S_TEXT);
    m = get(s, n);
    if (!x || !m)
        return -1;
    x->text = (struct jv){ .type = J_STR, .s = { p, m, n } };
    **tail = x;
    *tail = &x->next;
    return 0;
}

/* Plain text up to the next tag, without what that tag trims; *from = where the tag starts. */
static const char *plain(struct parser *s, const char **tag)
{
    const char *from = s->p, *p = s->p, *stop;

    while (p + 1 < s->end && !(p[0] == '{' && (p[1] == '{' || p[1] == '%' || p[1] == '#')))
        s->line += *p++ == '\n';
    if (p + 1 >= s->end) {
        *tag = NULL;
        s->p = s->end;
        return s->end;
    }
    *tag = p;
    stop = p;
    const char sign = p + 2 < s->end ? p[2] : 0;

    if (sign == '-') {
        while (stop > from && is_space(stop[-1]))
            stop--;
    } else if (p[1] != '{' && sign != '+') {
        while (stop > from && (stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        if (stop > s->t->text && stop[-1] != '\n')
            stop = p;
    }
    s->p = p + 2 + (sign == '-' || sign == '+');
    return stop;
}

static int comment(struct parser *s)
{
    const char *p = s->p;

    while (p + 1 < s->end && memcmp(p, "#}", 2) != 0)
        s->line += *p++ == '\n';
    if (p + 1 >= s->end)
        return fail(s, "a comment without end");
    const bool trim = p > s->p && p[-1] == '-', keep_newline = p > s->p && p[-1] == '+';

    s->p = p + 2;
    if (trim) {
        skip_space(s);
    } else if (!keep_newline && s->p < s->end && *s->p == '\n') {
        s->p++;
        s->line++;
    }
    return 0;
}

static int parse_body(struct parser *s, struct stmt **out, const char *stops)
{
    struct stmt **tail = out;
    int rc = -1;

    *out = NULL;
    if (++s->depth > JINJA_DEPTH)
        return fail(s, "nested too deeply");
    for (;;) {
        const char *from = s->p, *tag, *stop = plain(s, &tag);
        struct stmt *x;

        if (add_text(s, &tail, from, (size_t)(stop - from)))
            break;
        if (!tag) {
            rc = stops ? err_set(s->e, ERR_FORMAT, "chat template, line %d: it ends before %s",
                                 s->line, stops)
                       : 0;
            break;
        }
        if (tag[1] == '#') {
            if (comment(s))
                break;
            continue;
        }
        s->block = tag[1] == '%';
        s->open = 0;
        if (next_token(s))
            break;
        if (s->block) {
            const int got = parse_block(s, &x, stops);

            if (got <= 0) {
                rc = got;
                break;
            }
        } else {
            x = stmt(s, S_PRINT);
            if (!x || !(x->e = parse_tuple(s)) || end_tag(s))
                break;
        }
        for (; x; x = x->next) {
            *tail = x;
            tail = &x->next;
        }
    }
    s->depth--;
    return rc;
}

int jinja_parse(struct jinja **out, const char *text, size_t n, struct err *e)
{
    struct jinja *t;
    struct parser s = { .line = 1, .e = e };

    if (n > JINJA_TEMPLATE_MAX)
        return err_set(e, ERR_FORMAT, "chat template: %zu bytes, at most %d", n,
                       JINJA_TEMPLATE_MAX);
    if (!utf8_valid(text, n))
        return err_set(e, ERR_FORMAT, "chat template: not valid UTF-8");
    t = xcalloc(1, sizeof(*t));
    t->text = xmemdup0(text, n);
    if (n && text[n - 1] == '\n') /* keep_trailing_newline is off */
        n--;
    s.t = t;
    s.p = t->text;
    s.end = t->text + n;
    if (parse_body(&s, &t->body, NULL)) {
        jinja_free(t);
        return -1;
    }
    *out = t;
    return 0;
}

void jinja_free(struct jinja *t)
{
    if (!t)
        return;
    pool_release(&t->pool);
    free(t->text);
    free(t);
}
