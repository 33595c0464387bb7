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
    what =
        json_pack("{s:O, s:s?, s:b}", "tools", o->tools, "only", o->tool, "parallel", o->parallel);
    rc = grammars_get_json(c->m->engine->grammars, GRAMMAR_TOOLS, what, &o->grammar, e);
    json_decref(what);
    return rc ? err_wrap(e, "tool_choice") : 0;
}

/* Where the model may call tools and a schema binds the answer: it is calls or else JSON of the
 * schema, from its first byte on. Code comes behind a control token, which
 * no grammar lets pass. */
static int calls_or_schema(struct call *c, struct oai *o, struct err *e)
{
    const json_t *schema = request_schema(c->body);
    struct grammar *both;
    json_t *what;
    int rc;

    if (o->choice != TOOLS_AUTO || !o->tools || !schema ||
        json_object_get(c->body, "builtin_tools"))
        return 0;
    what = json_pack("{s:O, s:b, s:O}", "tools", o->tools, "parallel", o->parallel, "or", schema);
    rc = grammars_get_json(c->m->engine->grammars, GRAMMAR_TOOLS, what, &both, e);
    json_decref(what);
    if (rc)
        return err_wrap(e, "tools beside response_format");
    grammar_unref(o->grammar);
    o->grammar = both;
    return 0;
}

static bool any_strict(const json_t *tools)
{
    for (size_t i = 0; i < json_array_size(tools); i++)
        if (json_is_true(
                json_object_get(json_object_get(json_array_get(tools, i), "function"), "strict")))
            return true;
    return false;
}

/* Where a tool is strict the answer is any text until the model opens a call, and then nothing but
 * calls with arguments of the tools' schemas. <|python_tag|> may come before it. */
static int strict_calls(struct call *c, struct oai *o, struct err *e)
{
    const int32_t tag = tok_id(c->m->engine->tok, "<|python_tag|>");
    json_t *what;
    int rc;

    if (o->choice != TOOLS_AUTO || o->grammar || !any_strict(o->tools))
        return 0;
    what = json_pack("{s:O, s:b, s:b}", "tools", o->tools, "parallel", o->parallel, "free", true);
    rc = grammars_get_json(c->m->engine->grammars, GRAMMAR_TOOLS, what, &o->grammar, e);
    json_decref(what);
    if (rc)
        return err_wrap(e, "strict tools");
    o->exact = true;
    o->r.gen.aside = tag > 0 ? tag : 0;
    return 0;
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
    if (read_choice(c->body, o, e) || force_call(c, o, e) || calls_or_schema(c, o, e) ||
        strict_calls(c, o, e))
        return -1;
    if (o->choice == TOOLS_NONE || !o->tools)
        json_object_del(c->body, "tools");
    o->builtin = json_incref(json_object_get(c->body, "builtin_tools"));
    return 0;
}

int oai_adapt_messages(struct call *c, struct err *e)
{
    json_t *messages = json_object_get(c->body, "messages");

    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i);
        const char *role = json_string_value(json_object_get(m, "role"));

        if (role && strcmp(role, "assistant") != 0 && json_is_null(json_object_get(m, "content")))
            return err_set(e, ERR_USAGE, "messages[%zu]: content is null", i);
        if (role && strcmp(role, "developer") == 0) /* what OpenAI calls a system message now */
            json_object_set_new(m, "role", json_string("system"));
    }
    if (c->m->format->no_tools)
        chat_spell_tools(c->body);
    return 0;
}
