/* tools.c - answers that are tool calls, in the form that every chat format asks for and the parser
 * of answers reads: {"name": NAME, "parameters": {...}}, with {"type": "function", in front where a
 * model likes it, and "; " between calls. */
#include <string.h>

#include "grammar/read.h"

enum { CALLS_MAX = 16 };

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

static int one_call(struct json_rules *j, const json_t *tool, uint32_t *out, struct err *e)
{
    const json_t *f = json_object_get(tool, "function");
    const json_t *name = json_object_get(f, "name");
    struct exprs *x = j->x;
    uint32_t args, open;

    if (!json_is_string(name))
        return err_set(e, ERR_USAGE, "a tool without a name");
    if (arguments(j, f, &args, e))
        return err_wrap(e, "tool '%.64s'", json_string_value(name));
    open = ex_seq(x, ex_text(x, "{"), ex_opt(x, ex_text(x, "\"type\": \"function\", ")));
    open = seq3(x, open, ex_text(x, "\"name\": "), json_literal(j, name));
    open = seq3(x, open, ex_text(x, ", \"parameters\": "), args);
    *out = ex_seq(x, open, ex_text(x, "}"));
    return 0;
}

int read_tools(struct exprs *x, const json_t *v, struct err *e)
{
    const json_t *tools = json_object_get(v, "tools");
    const char *only = json_string_value(json_object_get(v, "only"));
    const json_t *form = json_object_get(v, "or");
    const bool many = !only && json_is_true(json_object_get(v, "parallel"));
    struct json_rules j = { .x = x };
    const uint32_t root = ex_new_rule(x, "calls", 5), call = ex_new_rule(x, "call", 4);
    uint32_t all = EX_NONE, one = EX_NONE, more;

    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i);
        const json_t *name = json_object_get(json_object_get(tool, "function"), "name");

        if (only && (!json_is_string(name) || strcmp(only, json_string_value(name)) != 0))
            continue;
        if (one_call(&j, tool, &one, e))
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
    x->rule[root].body = all;
    return 0;
}
