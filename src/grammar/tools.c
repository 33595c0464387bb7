/* tools.c - answers that are tool calls, in the form that every chat format asks for and the parser
 * of answers reads: {"name": NAME, "parameters": {...}}, with {"type": "function", in front where a
 * model likes it, and "; " between calls. Or any text, until it opens a call. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "grammar/read.h"

enum { CALLS_MAX = 16, OPENINGS = 4 };

/* How a call opens in free text, before the tool's name; toolcall_judge.c knows the same. */
static const char *const openings[OPENINGS] = {
    "{\"name\": ",
    "{\"name\":",
    "{\"type\": \"function\", \"name\": ",
    "{\"type\":\"function\",\"name\":",
};

static uint32_t seq3(struct exprs *x, uint32_t a, uint32_t b, uint32_t c)
{
    return ex_seq(x, ex_seq(x, a, b), c);
}

/* The arguments of one tool. A schema that cannot be kept binds only a strict tool: others were
 * promised nothing but an object. */
static int arguments(struct json_rules *j, const json_t *f, uint32_t *out, struct err *e)
{
    const json_t *schema = json_object_get(f, "parameters");
    const bool strict = json_is_true(json_object_get(f, "strict"));
    struct err why;

    if (!schema || json_is_null(schema)) {
        *out = ex_text(j->x, "{}");
        return 0;
    }
    if (read_schema_expr(j->x, j, schema, out, &why) == 0)
        return 0;
    if (strict)
        return err_set(e, why.code, "%s", why.msg);
    *out = json_any_object(j);
    return 0;
}

static int one_call(struct json_rules *j, const json_t *tool, bool free, uint32_t *out,
                    struct err *e)
{
    const json_t *f = json_object_get(tool, "function");
    const json_t *name = json_object_get(f, "name");
    struct exprs *x = j->x;
    uint32_t args, open, key;

    if (!json_is_string(name))
        return err_set(e, ERR_USAGE, "a tool without a name");
    if (arguments(j, f, &args, e))
        return err_wrap(e, "tool '%.64s'", json_string_value(name));
    if (free) {
        open = EX_NONE;
        for (size_t i = 0; i < OPENINGS; i++)
            open = ex_alt(x, open, ex_text(x, openings[i]));
        key = ex_alt(x, ex_text(x, "parameters"), ex_text(x, "arguments"));
        key = seq3(x, ex_text(x, "\""), key, ex_text(x, "\""));
        key = seq3(x, seq3(x, ex_text(x, ","), json_space(j), key), ex_text(x, ":"),
                   ex_opt(x, ex_text(x, " ")));
        args = ex_seq(x, args, json_space(j));
    } else {
        open = ex_seq(x, ex_text(x, "{"), ex_opt(x, ex_text(x, "\"type\": \"function\", ")));
        open = ex_seq(x, open, ex_text(x, "\"name\": "));
        key = ex_text(x, ", \"parameters\": ");
    }
    open = seq3(x, open, json_literal(j, name), key);
    *out = seq3(x, open, args, ex_text(x, "}"));
    return 0;
}

/* ---- any text, until it opens a call ---- */

/* The openings as a tree: what follows a brace, byte by byte. */
struct opening {
    uint32_t child, next; /* 0 = none; node 0 is the brace */
    char byte;
};

struct tree {
    struct opening *node; /* owned */
    uint32_t n, cap;
};

static uint32_t grow(struct tree *t, uint32_t from, char byte)
{
    uint32_t *at;

    for (at = &t->node[from].child; *at; at = &t->node[*at].next)
        if (t->node[*at].byte == byte)
            return *at;
    if (t->n < t->cap) {
        *at = t->n;
    } else {
        const size_t place = (size_t)((char *)at - (char *)t->node);

        t->cap *= 2;
        t->node = xrealloc(t->node, t->cap * sizeof(*t->node));
        memcpy((char *)t->node + place, &t->n, sizeof(t->n));
    }
    t->node[t->n] = (struct opening){ .byte = byte };
    return t->n++;
}

static void tree_init(struct tree *t, const json_t *tools)
{
    *t = (struct tree){ .cap = 256, .n = 1 };
    t->node = xcalloc(t->cap, sizeof(*t->node));
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *f = json_object_get(json_array_get(tools, i), "function");
        const char *name = json_string_value(json_object_get(f, "name"));

        for (size_t k = 0; name && k < OPENINGS; k++) {
            uint32_t at = 0;

            for (const char *p = openings[k] + 1; *p; p++)
                at = grow(t, at, *p);
            at = grow(t, at, '"');
            for (const char *p = name; *p; p++)
                at = grow(t, at, *p);
            grow(t, at, '"');
        }
    }
}

/* All bytes but a brace and those that lead on from `at`. */
static uint32_t leaves(struct exprs *x, const struct tree *t, uint32_t at)
{
    bool on[256] = { ['{'] = true };
    uint32_t all = EX_NONE;

    for (uint32_t i = t->node[at].child; i; i = t->node[i].next)
        on[(uint8_t)t->node[i].byte] = true;
    for (int lo = 0, hi; lo < 256; lo = hi + 1) {
        for (hi = lo; hi < 256 && !on[hi]; hi++)
            ;
        if (hi > lo)
            all = ex_alt(x, all, ex_byte(x, (uint8_t)lo, (uint8_t)(hi - 1)));
    }
    return all;
}

/* What may follow a brace without opening a call: the beginning of an opening, after which another
 * brace or the end comes; or, with `miss`, such a beginning and a byte that does not lead on. */
static uint32_t beginnings(struct exprs *x, const struct tree *t, uint32_t at, bool miss)
{
    uint32_t all = miss ? leaves(x, t, at) : EX_EMPTY;

    for (uint32_t i = t->node[at].child; i; i = t->node[i].next) {
        const char byte = t->node[i].byte;

        if (t->node[i].child) /* else the opening is complete */
            all = ex_alt(
                x, all,
                ex_seq(x, ex_byte(x, (uint8_t)byte, (uint8_t)byte), beginnings(x, t, i, miss)));
    }
    return all;
}

/* Any text in which no call opens, and then the calls or nothing. Openings have a brace at their
 * start and nowhere else. */
static uint32_t free_text(struct exprs *x, const json_t *tools, uint32_t calls)
{
    const uint32_t brace = ex_new_rule(x, NULL, 0), open = ex_byte(x, '{', '{');
    uint32_t braces, text;
    struct tree t;

    tree_init(&t, tools);
    x->rule[brace].body = ex_seq(x, open, beginnings(x, &t, 0, false));
    braces = ex_repeat(x, ex_rule(x, brace), 0, -1);
    text = seq3(x, braces, open, beginnings(x, &t, 0, true));
    text = ex_alt(x, ex_alt(x, ex_byte(x, 0, '{' - 1), ex_byte(x, '{' + 1, 255)), text);
    free(t.node);
    return seq3(x, ex_repeat(x, text, 0, -1), braces, ex_opt(x, calls));
}

int read_tools(struct exprs *x, const json_t *v, struct err *e)
{
    const json_t *tools = json_object_get(v, "tools");
    const char *only = json_string_value(json_object_get(v, "only"));
    const json_t *form = json_object_get(v, "or");
    const bool free = json_is_true(json_object_get(v, "free"));
    const bool many = !only && json_is_true(json_object_get(v, "parallel"));
    struct json_rules j = { .x = x };
    const uint32_t root = ex_new_rule(x, "calls", 5), call = ex_new_rule(x, "call", 4);
    uint32_t all = EX_NONE, one = EX_NONE, more;

    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i);
        const json_t *name = json_object_get(json_object_get(tool, "function"), "name");

        if (only && (!json_is_string(name) || strcmp(only, json_string_value(name)) != 0))
            continue;
        if (one_call(&j, tool, free, &one, e))
            return -1;
        all = ex_alt(x, all, one);
    }
    x->rule[call].body = all;
    more = ex_seq(x, ex_text(x, "; "), ex_rule(x, call));
    all = ex_rule(x, call);
    all = many ? ex_seq(x, all, ex_repeat(x, more, 0, CALLS_MAX - 1)) : all;
    if (form) {
        if (read_schema_expr(x, &j, form, &one, e))
            return -1;
        all = ex_alt(x, all, one);
    }
    x->rule[root].body = free ? free_text(x, tools, all) : all;
    return 0;
}
