/* openai_tools.c - the tools of a chat request: read, and shown to models whose template has none.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "server/openai.h"

enum { MAX_TOOLS = 128, MAX_TOOL_NAME = 64 };

static int check_tool(const json_t *list, size_t i, struct err *e)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    const json_t *t = json_array_get(list, i), *f = json_object_get(t, "function");
    const json_t *type = json_object_get(t, "type");
    json_t *parameters = NULL;
    const char *name, *what = "description";
    size_t n = 0;

    if (!json_is_object(f) ||
        (type && strcmp(json_is_string(type) ? json_string_value(type) : "", "function") != 0))
        return err_set(e, ERR_USAGE, "tools[%zu] is no {\"type\": \"function\", \"function\"}", i);
    if (json_get_str(f, "name", &name, &n, "tools", e) < 0 ||
        json_get_str(f, "description", &what, NULL, "tools", e) < 0 ||
        json_get_obj(f, "parameters", &parameters, "tools", e) < 0)
        return -1;
    if (n == 0 || n > MAX_TOOL_NAME || strspn(name, letters) != n)
        return err_set(e, ERR_USAGE,
                       "tools[%zu]: a name is 1 to %d letters, digits, underscores, dots or dashes",
                       i, MAX_TOOL_NAME);
    for (size_t k = 0; k < i; k++)
        if (!strcmp(name, json_string_value(json_object_get(
                              json_object_get(json_array_get(list, k), "function"), "name"))))
            return err_set(e, ERR_USAGE, "tools[%zu]: a second tool '%s'", i, name);
    return 0;
}

static bool declared(const json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!strcmp(name, json_string_value(json_object_get(
                              json_object_get(json_array_get(list, i), "function"), "name"))))
            return true;
    return false;
}

static int read_choice(const json_t *body, struct oai *o, struct err *e)
{
    const json_t *v = json_object_get(body, "tool_choice");
    const char *s = json_string_value(v);

    if (!v || json_is_null(v) || (s && strcmp(s, "auto") == 0))
        return 0;
    if (json_is_object(v))
        s = json_string_value(json_object_get(json_object_get(v, "function"), "name"));
    else if (s && (strcmp(s, "none") == 0 || strcmp(s, "required") == 0)) {
        o->choice = *s == 'n' ? TOOLS_NONE : TOOLS_REQUIRED;
        if (o->choice == TOOLS_REQUIRED && !o->tools)
            return err_set(e, ERR_USAGE, "tool_choice is \"required\", and there are no tools");
        return 0;
    }
    if (!s || !declared(o->tools, s))
        return err_set(e, ERR_USAGE,
                       "tool_choice is none of auto, none, required, or the name of a tool");
    o->choice = TOOLS_NAMED;
    o->tool = xstrdup(s);
    return 0;
}

/* A call that must come: the answer is one from its first token on. */
static int force_call(struct call *c, struct oai *o, struct err *e)
{
    json_t *what;
    int rc;

    if (o->choice != TOOLS_REQUIRED && o->choice != TOOLS_NAMED)
        return 0;
    if (o->grammar)
        return err_set(e, ERR_USAGE, "tool_choice: a call is forced, and another form asked for");
    what = json_pack("{s:O, s:s?, s:b}", "tools", o->tools, "only", o->tool, "parallel",
                     o->parallel);
    rc = grammars_get_json(c->s->engine->grammars, GRAMMAR_TOOLS, what, &o->grammar, e);
    json_decref(what);
    return rc ? err_wrap(e, "tool_choice") : 0;
}

int oai_read_tools(struct call *c, struct oai *o, struct err *e)
{
    json_t *list = NULL;

    o->parallel = true;
    if (json_get_arr(c->body, "tools", &list, "request", e) < 0 ||
        json_get_bool(c->body, "parallel_tool_calls", &o->parallel, "request", e) < 0)
        return -1;
    if (json_array_size(list) > MAX_TOOLS)
        return err_set(e, ERR_USAGE, "tools: %zu of them, at most %d", json_array_size(list),
                       MAX_TOOLS);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (check_tool(list, i, e))
            return -1;
    if (json_array_size(list))
        o->tools = json_incref(list);
    if (read_choice(c->body, o, e) || force_call(c, o, e))
        return -1;
    if (o->choice == TOOLS_NONE || !o->tools)
        json_object_del(c->body, "tools");
    o->builtin = json_incref(json_object_get(c->body, "builtin_tools"));
    return 0;
}

/* ---- templates without tools ---- */

static void append_text(json_t *message, const char *text)
{
    json_t *content = json_object_get(message, "content");

    if (json_is_array(content))
        json_array_append_new(content, json_pack("{s:s, s:s}", "type", "text", "text", text));
    else
        json_object_set_new(
            message, "content",
            json_sprintf("%s%s", json_is_string(content) ? json_string_value(content) : "", text));
}

/* A turn's calls, as the model is asked to write them. */
static void spell_calls(json_t *message)
{
    json_t *calls = json_object_get(message, "tool_calls");

    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *f = json_object_get(json_array_get(calls, i), "function");
        const json_t *name = json_object_get(f, "name"), *args = json_object_get(f, "arguments");
        char *a = json_is_string(args) ? xstrdup(json_string_value(args))
                                       : json_dumps(args, JSON_COMPACT | JSON_ENCODE_ANY);
        struct buf b;

        buf_init(&b, 64 << 20);
        buf_addf(&b, "%s{\"name\": \"%s\", \"parameters\": %s}", i ? "; " : "",
                 json_is_string(name) ? json_string_value(name) : "", a ? a : "{}");
        append_text(message, b.p);
        buf_release(&b);
        free(a);
    }
    json_object_del(message, "tool_calls");
}

static void spell_tools(json_t *messages, const json_t *tools)
{
    char *list = json_dumps(tools, JSON_INDENT(1));
    struct buf b;
    size_t i = json_array_size(messages);

    while (i > 0 &&
           strcmp(json_string_value(json_object_get(json_array_get(messages, i - 1), "role")) ?: "",
                  "user") != 0)
        i--;
    if (i > 0 && list) {
        buf_init(&b, 64 << 20);
        buf_addf(&b,
                 "\n\nThese functions can be called:\n%s\nTo call one, answer with nothing but "
                 "{\"name\": its name, \"parameters\": an object of its arguments}.",
                 list);
        append_text(json_array_get(messages, i - 1), b.p);
        buf_release(&b);
    }
    free(list);
}

int oai_adapt_messages(struct call *c, struct err *e)
{
    json_t *messages = json_object_get(c->body, "messages");
    const bool no_tools = c->s->format->no_tools;

    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i);
        const char *role = json_string_value(json_object_get(m, "role"));

        if (role && strcmp(role, "assistant") != 0 && json_is_null(json_object_get(m, "content")))
            return err_set(e, ERR_USAGE, "messages[%zu]: content is null", i);
        if (role && strcmp(role, "developer") == 0) /* what OpenAI calls a system message now */
            json_object_set_new(m, "role", json_string("system"));
        if (no_tools && json_is_array(json_object_get(m, "tool_calls")))
            spell_calls(m);
    }
    if (no_tools && json_object_get(c->body, "tools")) {
        spell_tools(messages, json_object_get(c->body, "tools"));
        json_object_del(c->body, "tools");
    }
    return 0;
}
