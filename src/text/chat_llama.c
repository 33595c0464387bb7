/* chat_llama.c - the formats of the Hugging Face templates of Llama 3, 3.1 and 3.2.
 *
 * 3.1: always a system message with two date lines; tools in the first user message unless
 * tools_in_user_message is false; one call in a turn; a tool's result as JSON. 3.2 has no built-in
 * tools and takes this day's date where 3.1 has a fixed one. 3 has messages only. Where the
 * template raises an exception, an error is returned. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/chat_int.h"
#include "text/pyjson.h"

/* ---- recognising ---- */

#define HEADER(role) "`<|start_header_id|>" role "<|end_header_id|>\\n\\n`"
#define TURN                                                                                       \
    "`<|start_header_id|>`+message[`role`]+`<|end_header_id|>\\n\\n`+message[`content`]|trim+"     \
    "`<|eot_id|>`"
#define FORMAT_LINES                                                                               \
    "{{`Respond in the format {\"name\": function name, \"parameters\": dictionary of argument "   \
    "name and its value}.`}}",                                                                     \
        "{{`Do not use variables.\\n\\n`}}", "{%for t in tools%}", "{{t|tojson(indent=4)}}",       \
        "{{`\\n\\n`}}"
#define FIRST_LINES                                                                                \
    "{%set tools=none%}", "{%set system_message=messages[0][`content`]|trim%}",                    \
        "{%set messages=messages[1:]%}", "{%set system_message=``%}"
#define SYSTEM_LINES                                                                               \
    "{{`Cutting Knowledge Date: December 2023\\n`}}", "{{`Today Date: `+date_string+`\\n\\n`}}",   \
        "{%if tools is not none and not tools_in_user_message%}",                                  \
        "{{`You have access to the following functions. To call a function, please respond with "  \
        "JSON for a function call.`}}",                                                            \
        FORMAT_LINES, "{{system_message}}", "{{`<|eot_id|>`}}",                                    \
        "{%if tools_in_user_message and not tools is none%}",                                      \
        "{%set first_user_message=messages[0][`content`]|trim%}", "{%set messages=messages[1:]%}", \
        "{{raise_exception(`Cannot put tools in the first user message", "{{" HEADER("user") "}}", \
        "{{`Given the following functions, please respond with a JSON for a function call `}}",    \
        "{{`with its proper arguments that best answers the given prompt.\\n\\n`}}", FORMAT_LINES, \
        "{{first_user_message+`<|eot_id|>`}}",                                                     \
        "{%if not(message.role==`ipython`or message.role==`tool`or`tool_calls`in message)%}",      \
        "{{" TURN "}}", "{{raise_exception(`This model only supports single tool-calls",           \
        "{%set tool_call=message.tool_calls[0].function%}"
#define CALL_LINES                                                                                 \
    "{{" HEADER("assistant") "}}", "{{`{\"name\": \"`+tool_call.name+`\", `}}",                    \
        "{{`\"parameters\": `}}", "{{tool_call.arguments|tojson}}", "{{`}`}}"
#define LAST_LINES                                                                                 \
    "{{" HEADER("ipython") "}}",                                                                   \
        "{%if message.content is mapping or message.content is iterable%}",                        \
        "{{message.content|tojson}}", "{{message.content}}", "{{`<|eot_id|>`}}",                   \
        "{%if add_generation_prompt%}", "{{" HEADER("assistant") "}}"

static const char *const parts31[] = {
    "{{bos_token}}",
    "{%set tools=custom_tools%}",
    "{%set tools_in_user_message=true%}",
    "{%set date_string=`26 Jul 2024`%}",
    FIRST_LINES,
    "{{" HEADER("system") "}}",
    "{%if builtin_tools is defined or tools is not none%}",
    "{{`Environment: ipython\\n`}}",
    "{{`Tools: `+builtin_tools|reject(`equalto`,`code_interpreter`)|join(`, `)+`\\n\\n`}}",
    SYSTEM_LINES,
    "{%if builtin_tools is defined and tool_call.name in builtin_tools%}",
    "{{" HEADER("assistant") "}}",
    "{{`<|python_tag|>`+tool_call.name+`.call(`}}",
    "{{arg_name+`=\"`+arg_val+`\"`}}",
    "{{`, `}}",
    "{{`)`}}",
    CALL_LINES,
    "{%if builtin_tools is defined%}",
    "{{`<|eom_id|>`}}",
    "{{`<|eot_id|>`}}",
    LAST_LINES,
};

static const char *const parts32[] = {
    "{{bos_token}}",
    "{%set tools=custom_tools%}",
    "{%set tools_in_user_message=true%}",
    "{%set date_string=strftime_now(`%d %b %Y`)%}",
    "{%set date_string=`26 Jul 2024`%}",
    FIRST_LINES,
    "{{" HEADER("system") "}}",
    "{%if tools is not none%}",
    "{{`Environment: ipython\\n`}}",
    SYSTEM_LINES,
    CALL_LINES,
    "{{`<|eot_id|>`}}",
    LAST_LINES,
};

/* The whole of it. */
static const char parts3[] = "{%set loop_messages=messages%}{%for message in loop_messages%}"
                             "{%set content=" TURN "%}{%if loop.index0==0%}"
                             "{%set content=bos_token+content%}{%endif%}{{content}}{%endfor%}"
                             "{%if add_generation_prompt%}{{" HEADER("assistant") "}}{%endif%}";

static bool has_tokens(const struct tok *t)
{
    return tok_id(t, "<|begin_of_text|>") >= 0 && tok_id(t, "<|start_header_id|>") >= 0 &&
           tok_id(t, "<|end_header_id|>") >= 0 && tok_id(t, "<|eot_id|>") >= 0;
}

static bool prints(const struct tok *t, const char *template, const char *const *parts, size_t n)
{
    bool text;
    char *canon = template_canon(template, &text);
    const bool is = has_tokens(t) && !text && template_has(canon, parts, n);

    free(canon);
    return is;
}

static bool detect31(const struct tok *t, const char *template)
{
    return prints(t, template, parts31, ARRAY_LEN(parts31));
}

static bool detect32(const struct tok *t, const char *template)
{
    return prints(t, template, parts32, ARRAY_LEN(parts32));
}

static bool detect3(const struct tok *t, const char *template)
{
    bool text;
    char *canon = template_canon(template, &text);
    const bool is = has_tokens(t) && strcmp(canon, parts3) == 0;

    free(canon);
    return is;
}

/* ---- rendering ---- */

enum version { LLAMA_31, LLAMA_32 };

struct request {
    json_t *messages;
    size_t first;            /* message after the system message */
    json_t *tools, *builtin; /* NULL = not given */
    bool in_user, generate, several;
    char today[32];
    const char *date; /* NULL = no date lines */
    size_t date_len;
};

static int read_date(struct request *r, const json_t *j, enum version v, struct err *e)
{
    r->date = "26 Jul 2024"; /* the template's own */
    r->date_len = strlen(r->date);
    const int rc = json_get_str(j, "date_string", &r->date, &r->date_len, "request", e);

    if (rc < 0)
        return -1;
    if (rc == 0 ? v == LLAMA_32 : strcmp(r->date, "today") == 0) {
        chat_today(r->today, false);
        r->date = r->today;
        r->date_len = strlen(r->date);
    } else if (strcmp(r->date, "none") == 0) {
        r->date = NULL;
    }
    return 0;
}

static int read_request(struct request *r, const json_t *j, enum version v, struct err *e)
{
    enum role role;
    json_t *name;
    size_t i;

    *r = (struct request){ .in_user = true, .generate = true };
    if (chat_messages(j, &r->messages, e) || read_date(r, j, v, e) ||
        json_get_arr(j, "tools", &r->tools, "request", e) < 0 ||
        json_get_arr(j, "custom_tools", &r->tools, "request", e) < 0 ||
        json_get_bool(j, "tools_in_user_message", &r->in_user, "request", e) < 0 ||
        json_get_bool(j, "parallel_tool_calls", &r->several, "request", e) < 0 ||
        json_get_bool(j, "add_generation_prompt", &r->generate, "request", e) < 0 ||
        chat_role(json_array_get(r->messages, 0), 0, &role, e))
        return -1;
    r->first = role == ROLE_SYSTEM;
    if (v == LLAMA_31 && json_get_arr(j, "builtin_tools", &r->builtin, "request", e) < 0)
        return -1;
    json_array_foreach(r->builtin, i, name)
    {
        if (!pyjson_is_text(name))
            return err_set(e, ERR_USAGE, "request: builtin_tools[%zu] is not a name", i);
    }
    return 0;
}

static bool is_builtin(const struct request *r, const char *name)
{
    for (size_t i = 0; i < json_array_size(r->builtin); i++)
        if (strcmp(json_string_value(json_array_get(r->builtin, i)), name) == 0)
            return true;
    return false;
}

static int trimmed(const struct request *r, size_t i, struct buf *out, struct err *e)
{
    struct buf b;
    int rc;

    buf_init(&b, out->max);
    rc = chat_content(json_array_get(r->messages, i), i, &b, e);
    if (rc == 0)
        rc = buf_check(&b, "message", e);
    if (rc == 0) {
        const char *p = b.p;
        size_t n = b.len;

        chat_trim(&p, &n);
        buf_add(out, p, n);
    }
    buf_release(&b);
    return rc;
}

static void add_tools(struct buf *b, const json_t *tools)
{
    buf_adds(b, "Respond in the format {\"name\": function name, \"parameters\": dictionary of "
                "argument name and its value}.Do not use variables.\n\n");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        pyjson_write(b, json_array_get(tools, i), 0, 4);
        buf_adds(b, "\n\n");
    }
}

static int system_turn(struct pen *w, const struct request *r, struct buf *b)
{
    bool first = true;

    if (r->builtin || r->tools)
        buf_adds(b, "Environment: ipython\n");
    if (r->builtin) {
        buf_adds(b, "Tools: ");
        for (size_t i = 0; i < json_array_size(r->builtin); i++) {
            const char *name = json_string_value(json_array_get(r->builtin, i));

            if (strcmp(name, "code_interpreter") == 0)
                continue;
            buf_addf(b, "%s%s", first ? "" : ", ", name);
            first = false;
        }
        buf_adds(b, "\n\n");
    }
    if (r->date) {
        buf_adds(b, "Cutting Knowledge Date: December 2023\nToday Date: ");
        buf_add(b, r->date, r->date_len);
        buf_adds(b, "\n\n");
    }
    if (r->tools && !r->in_user) {
        buf_adds(b, "You have access to the following functions. To call a function, please "
                    "respond with JSON for a function call.");
        add_tools(b, r->tools);
    }
    if (r->first && trimmed(r, 0, b, w->e))
        return -1;
    pen_header(w, "system");
    pen_text(w, b->p, b->len);
    pen_control(w, "<|eot_id|>");
    return 0;
}

/* The tools, and the text of the first message. */
static int tools_turn(struct pen *w, const struct request *r, struct buf *b)
{
    if (r->first >= json_array_size(r->messages))
        return err_set(w->e, ERR_USAGE,
                       "Cannot put tools in the first user message when there's no "
                       "first user message!");
    buf_adds(b, "Given the following functions, please respond with a JSON for a function call "
                "with its proper arguments that best answers the given prompt.\n\n");
    add_tools(b, r->tools);
    if (trimmed(r, r->first, b, w->e))
        return -1;
    pen_header(w, "user");
    pen_text(w, b->p, b->len);
    pen_control(w, "<|eot_id|>");
    return 0;
}

/* name.call(key="value", ...), nothing escaped. */
static int builtin_call(struct buf *b, const struct call *c, size_t i, struct err *e)
{
    buf_addf(b, "%s.call(", c->name);
    for (void *it = json_object_iter(c->args); it; it = json_object_iter_next(c->args, it)) {
        const char *key = json_object_iter_key(it);
        const json_t *v = json_object_iter_value(it);

        if (!pyjson_is_text(v))
            return err_set(e, ERR_USAGE,
                           "messages[%zu]: argument '%.40s' of the built-in tool %.40s "
                           "is not text",
                           i, key, c->name);
        buf_adds(b, it == json_object_iter(c->args) ? "" : ", ");
        buf_add(b, key, json_object_iter_key_len(it));
        buf_adds(b, "=\"");
        buf_add(b, json_string_value(v), json_string_length(v));
        buf_addc(b, '"');
    }
    buf_addc(b, ')');
    return 0;
}

static int calls_turn(struct pen *w, const struct request *r, const json_t *calls, size_t i,
                      struct buf *b)
{
    const size_t n = json_array_size(calls);
    bool python = false;

    if (n != 1 && !(n > 1 && r->several))
        return err_set(w->e, ERR_USAGE,
                       "This model only supports single tool-calls at once! "
                       "(messages[%zu] has %zu; parallel_tool_calls allows several)",
                       i, n);
    for (size_t k = 0; k < n; k++) {
        struct call c;
        int rc = 0;

        if (chat_call(json_array_get(calls, k), i, k, &c, w->e))
            return -1;
        buf_adds(b, k ? "; " : "");
        if (is_builtin(r, c.name)) {
            python = true;
            rc = n > 1 ? err_set(w->e, ERR_USAGE,
                                 "messages[%zu]: a call of the built-in tool %.40s "
                                 "stands alone, here are %zu calls",
                                 i, c.name, n)
                       : builtin_call(b, &c, i, w->e);
        } else {
            buf_adds(b, "{\"name\": \"");
            buf_add(b, c.name, c.name_len);
            buf_adds(b, "\", \"parameters\": ");
            pyjson_write(b, c.args, 0, 0);
            buf_addc(b, '}');
        }
        chat_call_release(&c);
        if (rc)
            return -1;
    }
    pen_header(w, "assistant");
    if (python)
        pen_control(w, "<|python_tag|>");
    pen_text(w, b->p, b->len);
    pen_control(w, r->builtin ? "<|eom_id|>" : "<|eot_id|>");
    return 0;
}

/* A tool's result: text, lists and objects as JSON, other values as Python prints them. */
static void tool_turn(struct pen *w, const json_t *m, struct buf *b)
{
    const json_t *v = json_object_get(m, "content");

    if (!v || json_is_null(v))
        buf_adds(b, "\"\"");
    else if (json_is_boolean(v))
        buf_adds(b, json_is_true(v) ? "True" : "False");
    else
        pyjson_write(b, v, 0, 0);
    pen_header(w, "ipython");
    pen_text(w, b->p, b->len);
    pen_control(w, "<|eot_id|>");
}

static int message_turn(struct pen *w, const struct request *r, size_t i, struct buf *b)
{
    static const char *const names[] = { "system", "user", "assistant", "ipython" };
    const json_t *m = json_array_get(r->messages, i);
    json_t *calls = NULL;
    enum role role;

    if (chat_role(m, i, &role, w->e) || json_get_arr(m, "tool_calls", &calls, "message", w->e) < 0)
        return -1;
    if (calls)
        return calls_turn(w, r, calls, i, b);
    if (role == ROLE_TOOL) {
        tool_turn(w, m, b);
        return 0;
    }
    if (trimmed(r, i, b, w->e))
        return -1;
    pen_header(w, names[role]);
    pen_text(w, b->p, b->len);
    pen_control(w, "<|eot_id|>");
    return 0;
}

static int render(const struct tok *t, const json_t *request, struct prompt *p, struct err *e,
                  enum version v)
{
    struct pen w = { .p = p, .t = t, .e = e };
    struct request r;
    struct buf b;
    int rc = -1;

    if (read_request(&r, request, v, e))
        return -1;
    const bool tools_turned = r.tools && r.in_user;

    buf_init(&b, p->text.max);
    pen_control(&w, "<|begin_of_text|>");
    if (system_turn(&w, &r, &b))
        goto done;
    buf_clear(&b);
    if (tools_turned && tools_turn(&w, &r, &b))
        goto done;
    for (size_t i = r.first + tools_turned; i < json_array_size(r.messages); i++) {
        buf_clear(&b);
        if (message_turn(&w, &r, i, &b))
            goto done;
    }
    if (r.generate)
        pen_header(&w, "assistant");
    rc = buf_check(&b, "message", e) || pen_done(&w) ? -1 : 0;
done:
    buf_release(&b);
    return rc;
}

static int render31(const struct tok *t, const json_t *request, struct prompt *p, struct err *e)
{
    return render(t, request, p, e, LLAMA_31);
}

static int render32(const struct tok *t, const json_t *request, struct prompt *p, struct err *e)
{
    return render(t, request, p, e, LLAMA_32);
}

static int render3(const struct tok *t, const json_t *request, struct prompt *p, struct err *e)
{
    static const char *const names[] = { "system", "user", "assistant", "ipython" };
    struct pen w = { .p = p, .t = t, .e = e };
    struct request r;
    struct buf b;
    int rc = -1;

    if (read_request(&r, request, LLAMA_32, e))
        return -1;
    if (r.tools)
        return err_set(e, ERR_USAGE, "request: the chat format llama3 has no tools");
    buf_init(&b, p->text.max);
    pen_control(&w, "<|begin_of_text|>");
    for (size_t i = 0; i < json_array_size(r.messages); i++) {
        const json_t *m = json_array_get(r.messages, i);
        enum role role;

        buf_clear(&b);
        if (chat_role(m, i, &role, e) || trimmed(&r, i, &b, e))
            goto done;
        pen_header(&w, names[role]);
        pen_text(&w, b.p, b.len);
        pen_control(&w, "<|eot_id|>");
    }
    if (r.generate)
        pen_header(&w, "assistant");
    rc = buf_check(&b, "message", e) || pen_done(&w) ? -1 : 0;
done:
    buf_release(&b);
    return rc;
}

static const char *const stop[] = { "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", NULL };

const struct chat_format chat_llama3 = {
    .name = "llama3",
    .what = "Llama 3: messages only",
    .no_tools = true,
    .detect = detect3,
    .render = render3,
    .stop = stop,
};

const struct chat_format chat_llama31 = {
    .name = "llama3.1",
    .what = "Llama 3.1 and 3.3, as their Hugging Face template",
    .builtins = true,
    .detect = detect31,
    .render = render31,
    .stop = stop,
};

const struct chat_format chat_llama32 = {
    .name = "llama3.2",
    .what = "Llama 3.2, as its Hugging Face template",
    .detect = detect32,
    .render = render32,
    .stop = stop,
};
