/* chat_meta.c - prompts as Meta's own code writes them (llama-models, ChatFormat).
 *
 * meta: the messages alone, content as it is. meta-docs and meta-stack put a system message of
 * dates and tools in front, and describe custom tools in a user message of its own: meta-docs as
 * prompt_format.md of llama-models, meta-stack as llama-stack. Tools come as OpenAI's objects or as
 * Meta's {"tool_name", "description", "parameters": {NAME: {"param_type", "description",
 * "required"}}}; built-in tools are known by their names wherever they stand. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/chat_int.h"
#include "text/pyjson.h"
#include "text/toolencode.h"

enum layout { PLAIN, DOCS, STACK };

struct request {
    json_t *messages;
    size_t first;    /* message after the system message */
    json_t *builtin; /* names, owned */
    json_t *custom;  /* Meta's tool objects, owned */
    enum tool_format form;
    bool generate;
    char today[32];
    const char *date; /* NULL = no date lines */
    size_t date_len;
    const char *choice; /* of a tool: "auto", "none", "required" or a name */
};

static bool is_code(const char *name)
{
    return strcmp(name, "code_interpreter") == 0;
}

/* ---- the request ---- */

/* JSON Schema's {"properties": {NAME: {"type", "description"}}, "required": [...]} to Meta's
 * parameters. */
static json_t *from_schema(const json_t *schema)
{
    const json_t *required = json_object_get(schema, "required"), *item;
    json_t *out = json_object(), *v;
    const char *key;
    size_t n, i;

    for (void *it = json_object_iter(json_object_get(schema, "properties")); it;
         it = json_object_iter_next(json_object_get(schema, "properties"), it)) {
        json_t *p = json_object();
        bool must = false;

        key = json_object_iter_key(it);
        n = json_object_iter_key_len(it);
        v = json_object_iter_value(it);
        json_array_foreach(required, i, item)
        {
            must |= json_is_string(item) && json_string_length(item) == n &&
                    memcmp(json_string_value(item), key, n) == 0;
        }
        json_object_set(p, "param_type", json_object_get(v, "type"));
        json_object_set(p, "description", json_object_get(v, "description"));
        json_object_set_new(p, "required", json_boolean(must));
        json_object_setn_new_nocheck(out, key, n, p);
    }
    return out;
}

static int read_tool(struct request *r, json_t *tool, const char *list, size_t i, struct err *e)
{
    json_t *f = json_object_get(tool, "function"), *params, *out;
    json_t *name = f ? json_object_get(f, "name") : json_object_get(tool, "tool_name");

    if (json_is_string(tool))
        name = tool; /* builtin_tools: ["brave_search"] */
    if (!pyjson_is_text(name))
        return err_set(e, ERR_USAGE, "request: %s[%zu] has no name", list, i);
    if (tool_is_builtin(json_string_value(name)) || is_code(json_string_value(name))) {
        json_array_append(r->builtin, name);
        return 0;
    }
    if (!json_is_object(tool))
        return err_set(e, ERR_USAGE, "request: %s[%zu]: no built-in tool '%.40s'", list, i,
                       json_string_value(name));
    params = json_object_get(f ? f : tool, "parameters");
    if (params && !json_is_null(params) && !json_is_object(params))
        return err_set(e, ERR_USAGE, "request: %s[%zu]: parameters are no object", list, i);
    out = json_object();
    json_object_set(out, "tool_name", name);
    json_object_set(out, "description", json_object_get(f ? f : tool, "description"));
    if (f)
        json_object_set_new(out, "parameters", from_schema(params));
    else
        json_object_set(out, "parameters", params);
    json_array_append_new(r->custom, out);
    return 0;
}

static int read_tools(struct request *r, const json_t *j, struct err *e)
{
    static const char *const lists[] = { "builtin_tools", "tools", "custom_tools" };

    for (size_t k = 0; k < ARRAY_LEN(lists); k++) {
        json_t *list = NULL;

        if (json_get_arr(j, lists[k], &list, "request", e) < 0)
            return -1;
        for (size_t i = 0; i < json_array_size(list); i++)
            if (read_tool(r, json_array_get(list, i), lists[k], i, e))
                return -1;
    }
    return 0;
}

static int read_choice(struct request *r, const json_t *j, struct err *e)
{
    const json_t *v = json_object_get(j, "tool_choice");

    if (json_is_object(v))
        v = json_object_get(json_object_get(v, "function"), "name");
    else if (!v || json_is_null(v))
        return 0;
    if (!pyjson_is_text(v))
        return err_set(e, ERR_USAGE,
                       "request: tool_choice is none of auto, none, required, a name");
    r->choice = json_string_value(v);
    return 0;
}

static int read_date(struct request *r, const json_t *j, struct err *e)
{
    const char *iso;
    size_t n;
    int rc = json_get_str(j, "date_string", &r->date, &r->date_len, "request", e);

    if (rc < 0)
        return -1;
    if (rc == 1 && strcmp(r->date, "none") == 0)
        r->date = NULL;
    if (rc == 1 && (!r->date || strcmp(r->date, "today") != 0))
        return 0;
    chat_today(r->today, true);
    rc = json_get_str(j, "date", &iso, &n, "request", e);
    if (rc < 0 || (rc == 1 && chat_iso_date(iso, r->today, e)))
        return -1;
    r->date = r->today;
    r->date_len = strlen(r->date);
    return 0;
}

static int read_form(struct request *r, const json_t *j, struct err *e)
{
    static const char *const names[] = { "json", "function_tag", "python_list" };
    const char *form = "json";
    size_t n;

    if (json_get_str(j, "tool_prompt_format", &form, &n, "request", e) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(form, names[i]) == 0) {
            r->form = (enum tool_format)i;
            return 0;
        }
    }
    return err_set(e, ERR_USAGE,
                   "request: tool_prompt_format '%.40s' is none of json, "
                   "function_tag, python_list",
                   form);
}

static int read_request(struct request *r, const json_t *j, struct err *e)
{
    enum role role;

    if (chat_messages(j, &r->messages, e) || read_tools(r, j, e) || read_choice(r, j, e) ||
        read_date(r, j, e) || read_form(r, j, e) ||
        json_get_bool(j, "add_generation_prompt", &r->generate, "request", e) < 0 ||
        chat_role(json_array_get(r->messages, 0), 0, &role, e))
        return -1;
    r->first = role == ROLE_SYSTEM;
    return 0;
}

/* ---- the tools ---- */

/* A text as Jinja prints it: None when it is absent. */
static int add_text(struct buf *b, const json_t *obj, const char *key, struct err *e)
{
    const json_t *v = json_object_get(obj, key);

    if (v && !json_is_null(v) && !pyjson_is_text(v))
        return err_set(e, ERR_USAGE, "request: the %s of a tool is not text", key);
    if (pyjson_is_text(v))
        buf_add(b, json_string_value(v), json_string_length(v));
    else
        buf_adds(b, "None");
    return 0;
}

/* "required" is true unless it is said otherwise. */
static bool is_required(const json_t *param)
{
    return !json_is_false(json_object_get(param, "required"));
}

/* Laid out by hand, as the model was shown it: properties are a list, types are lost. */
static int tool_json(struct buf *b, const json_t *tool, struct err *e)
{
    json_t *params = json_object_get(tool, "parameters"), *required = json_array();
    int rc = -1;

    buf_adds(b, "{\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"");
    if (add_text(b, tool, "tool_name", e))
        goto done;
    buf_adds(b, "\",\n        \"description\": \"");
    if (add_text(b, tool, "description", e))
        goto done;
    buf_adds(b, "\",\n        \"parameters\": {\n            \"type\": \"object\",\n"
                "            \"properties\": [");
    for (void *it = json_object_iter(params); it;) {
        const char *key = json_object_iter_key(it);
        const size_t n = json_object_iter_key_len(it);
        const json_t *p = json_object_iter_value(it);

        if (is_required(p))
            json_array_append_new(required, json_stringn_nocheck(key, n));
        buf_adds(b, "\n                {\n                    \"");
        buf_add(b, key, n);
        buf_adds(b, "\": {\n                        \"type\": \"object\",\n"
                    "                        \"description\": \"");
        if (add_text(b, p, "description", e))
            goto done;
        buf_adds(b, "\"\n                    }\n                }");
        it = json_object_iter_next(params, it);
        buf_adds(b, it ? "," : "");
    }
    buf_adds(b, "\n            ],\n            \"required\": ");
    pyjson_write(b, required, PYJSON_ASCII | PYJSON_SORT | PYJSON_HTML, 0);
    buf_adds(b, "\n        }\n    }\n}\n");
    rc = 0;
done:
    json_decref(required);
    return rc;
}

static int tool_tag(struct buf *b, const json_t *tool, struct err *e)
{
    json_t *params = json_object_get(tool, "parameters"), *shown = json_object();
    int rc = -1;

    for (void *it = json_object_iter(params); it; it = json_object_iter_next(params, it)) {
        const json_t *p = json_object_iter_value(it);
        json_t *description = json_object_get(p, "description");
        json_t *type = json_object_get(p, "param_type"), *one = json_object();

        json_object_set_new(one, "description",
                            description ? json_incref(description) : json_null());
        json_object_set_new(one, "param_type", type ? json_incref(type) : json_null());
        json_object_set_new(one, "required", json_boolean(is_required(p)));
        json_object_setn_new_nocheck(shown, json_object_iter_key(it), json_object_iter_key_len(it),
                                     one);
    }
    buf_adds(b, "Use the function '");
    if (add_text(b, tool, "tool_name", e))
        goto done;
    buf_adds(b, "' to '");
    if (add_text(b, tool, "description", e))
        goto done;
    buf_adds(b, "':\n{\"name\": \"");
    if (add_text(b, tool, "tool_name", e))
        goto done;
    buf_adds(b, "\", \"description\": \"");
    if (add_text(b, tool, "description", e))
        goto done;
    buf_adds(b, "\", \"parameters\": ");
    pyjson_write(b, shown, PYJSON_ASCII | PYJSON_SORT | PYJSON_HTML, 0);
    buf_adds(b, "}\n\n");
    rc = 0;
done:
    json_decref(shown);
    return rc;
}

static int tools_turn(struct pen *w, const struct request *r, struct buf *b)
{
    const bool tag = r->form == TOOL_FORMAT_FUNCTION_TAG;

    if (r->form == TOOL_FORMAT_PYTHON_LIST)
        return err_set(w->e, ERR_USAGE,
                       "request: Meta shows Llama 3.1 custom tools in the forms "
                       "json and function_tag, not python_list");
    buf_adds(b, tag ? "You have access to the following functions:\n\n"
                    : "Answer the user's question by making use of the following functions if "
                      "needed.\nIf none of the function can be used, please say so.\nHere is a "
                      "list of functions in JSON format:\n");
    for (size_t i = 0; i < json_array_size(r->custom); i++) {
        const json_t *tool = json_array_get(r->custom, i);

        if (tag ? tool_tag(b, tool, w->e) : tool_json(b, tool, w->e))
            return -1;
    }
    buf_adds(b, tag ? "Think very carefully before calling functions.\nIf you choose to call a "
                      "function ONLY reply in the following format with no prefix or suffix:\n\n"
                      "<function=example_function_name>{\"example_name\": \"example_value\"}"
                      "</function>\n\nReminder:\n- If looking for real time information use "
                      "relevant functions before falling back to brave_search\n- Function calls "
                      "MUST follow the specified format, start with <function= and end with "
                      "</function>\n- Required parameters MUST be specified\n- Only call one "
                      "function at a time\n- Put the entire function call reply on one line"
                    : "\nReturn function calls in JSON format.");
    pen_header(w, "user");
    pen_text(w, b->p, b->len);
    pen_control(w, "<|eot_id|>");
    return 0;
}

static void add_choice(struct buf *b, const char *choice)
{
    if (strcmp(choice, "required") == 0)
        buf_adds(b, "\nYou MUST use one of the provided functions/tools to answer the user query.");
    else if (strcmp(choice, "auto") != 0 && strcmp(choice, "none") != 0)
        buf_addf(b, "\nYou MUST use the tool `%s` to answer the user query.", choice);
}

static int system_turn(struct pen *w, const struct request *r, enum layout layout, struct buf *b)
{
    const bool none = strcmp(r->choice, "none") == 0;
    bool any = false;

    if (!none && json_array_size(r->builtin) + json_array_size(r->custom)) {
        buf_adds(b, "Environment: ipython\n");
        for (size_t i = 0; i < json_array_size(r->builtin); i++) {
            const char *name = json_string_value(json_array_get(r->builtin, i));

            if (is_code(name))
                continue;
            buf_addf(b, "%s%s", any ? ", " : "Tools: ", name);
            any = true;
        }
        buf_addc(b, '\n');
    }
    if (r->date) {
        buf_adds(b, "Cutting Knowledge Date: December 2023\nToday Date: ");
        buf_add(b, r->date, r->date_len);
    }
    if (r->first) {
        buf_adds(b, layout == DOCS ? "\n\n" : "\n");
        if (chat_content(json_array_get(r->messages, 0), 0, b, w->e))
            return -1;
    }
    if (layout == STACK) {
        add_choice(b, r->choice);
        while (b->len && b->p[b->len - 1] == '\n')
            buf_cut(b, b->len - 1);
    } else {
        buf_addc(b, '\n');
    }
    pen_header(w, "system");
    pen_text(w, b->p, b->len);
    pen_control(w, "<|eot_id|>");
    return 0;
}

/* ---- calls ---- */

static int add_call(struct buf *b, const struct request *r, const struct call *c, size_t i,
                    struct err *e)
{
    const char *key = is_code(c->name) ? "code" : "query";

    if ((tool_is_builtin(c->name) || is_code(c->name)) &&
        !pyjson_is_text(json_object_get(c->args, key)))
        return err_set(e, ERR_USAGE, "messages[%zu]: the call of %s has no \"%s\" that is text", i,
                       c->name, key);
    tool_call_write(b, r->form, c->name, c->args);
    return 0;
}

/* The calls of an assistant, one after the other and tokenised one by one. */
static int calls(struct pen *w, const struct request *r, const json_t *list, size_t i,
                 const struct buf *content)
{
    struct buf b;
    int rc = 0;

    buf_init(&b, w->p->text.max);
    for (size_t k = 0; k < json_array_size(list) && rc == 0; k++) {
        struct call c;

        rc = chat_call(json_array_get(list, k), i, k, &c, w->e);
        if (rc)
            break;
        if (k == 0) {
            if (is_code(c.name))
                pen_control(w, "<|python_tag|>");
            pen_text(w, content->p, content->len);
        }
        buf_clear(&b);
        rc = add_call(&b, r, &c, i, w->e);
        if (rc == 0)
            rc = buf_check(&b, "tool call", w->e);
        pen_text(w, b.p, b.len);
        chat_call_release(&c);
    }
    buf_release(&b);
    return rc;
}

static int message_turn(struct pen *w, const struct request *r, size_t i, struct buf *b)
{
    static const char *const names[] = { "system", "user", "assistant", "ipython" };
    const json_t *m = json_array_get(r->messages, i), *v;
    const char *context = NULL, *stop = "";
    json_t *list = NULL;
    enum role role;
    size_t n = 0, ns;

    if (chat_role(m, i, &role, w->e) || json_get_arr(m, "tool_calls", &list, "message", w->e) < 0 ||
        json_get_str(m, "context", &context, &n, "message", w->e) < 0 ||
        json_get_str(m, "stop_reason", &stop, &ns, "message", w->e) < 0)
        return -1;
    v = json_object_get(m, "content");
    if (role == ROLE_TOOL && (json_is_object(v) || json_is_number(v)))
        pyjson_write(b, v, 0, 0);
    else if (chat_content(m, i, b, w->e))
        return -1;
    pen_header(w, names[role]);
    if (role == ROLE_ASSISTANT && json_array_size(list)) {
        if (calls(w, r, list, i, b))
            return -1;
    } else {
        pen_text(w, b->p, b->len);
    }
    if (context && role == ROLE_USER) { /* retrieved text */
        pen_str(w, "\n\n");
        pen_text(w, context, n);
    }
    pen_control(w, role == ROLE_ASSISTANT && strcmp(stop, "end_of_message") == 0 ? "<|eom_id|>"
                                                                                 : "<|eot_id|>");
    return 0;
}

static int write_prompt(struct pen *w, const struct request *r, enum layout layout, struct buf *b)
{
    pen_control(w, "<|begin_of_text|>");
    if (layout != PLAIN && system_turn(w, r, layout, b))
        return -1;
    buf_clear(b);
    if (layout != PLAIN && strcmp(r->choice, "none") != 0 && json_array_size(r->custom) &&
        tools_turn(w, r, b))
        return -1;
    for (size_t i = layout == PLAIN ? 0 : r->first; i < json_array_size(r->messages); i++) {
        buf_clear(b);
        if (message_turn(w, r, i, b))
            return -1;
    }
    if (r->generate)
        pen_header(w, "assistant");
    return buf_check(b, "message", w->e) || pen_done(w) ? -1 : 0;
}

static int render(const struct tok *t, const json_t *j, struct prompt *p, struct err *e,
                  enum layout layout)
{
    struct request r = {
        .generate = true, .choice = "auto", .builtin = json_array(), .custom = json_array()
    };
    struct pen w = { .p = p, .t = t, .e = e };
    struct buf b;
    int rc = -1;

    buf_init(&b, p->text.max);
    if (read_request(&r, j, e) == 0)
        rc = write_prompt(&w, &r, layout, &b);
    buf_release(&b);
    json_decref(r.builtin);
    json_decref(r.custom);
    return rc;
}

static int render_plain(const struct tok *t, const json_t *j, struct prompt *p, struct err *e)
{
    return render(t, j, p, e, PLAIN);
}

static int render_docs(const struct tok *t, const json_t *j, struct prompt *p, struct err *e)
{
    return render(t, j, p, e, DOCS);
}

static int render_stack(const struct tok *t, const json_t *j, struct prompt *p, struct err *e)
{
    return render(t, j, p, e, STACK);
}

static const char *const stop[] = { "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", NULL };

const struct chat_format chat_meta = {
    .name = "meta",
    .what = "Llama 3.1 as Meta's ChatFormat: no system message of its own",
    .render = render_plain,
    .stop = stop,
};

const struct chat_format chat_meta_docs = {
    .name = "meta-docs",
    .what = "Llama 3.1 as Meta's prompt_format.md: dates, built-in and custom tools",
    .builtins = true,
    .render = render_docs,
    .stop = stop,
};

const struct chat_format chat_meta_stack = {
    .name = "meta-stack",
    .what = "Llama 3.1 as llama-stack: dates, built-in and custom tools",
    .builtins = true,
    .render = render_stack,
    .stop = stop,
};
