/* toolcall_call.c - what the parser sends: text, and calls as their JSON objects come in. */
#include <string.h>

#include "base/rng.h"
#include "text/pyjson.h"
#include "text/toolcall_int.h"
#include "text/toolencode.h"

/* ---- tools ---- */

static const json_t *function_of(const json_t *tool)
{
    const json_t *f = json_object_get(tool, "function");

    return json_is_object(f) ? f : tool;
}

const json_t *tp_tool(const struct tool_parser *p, const char *name)
{
    for (size_t i = 0; i < json_array_size(p->o.tools); i++) {
        const json_t *f = function_of(json_array_get(p->o.tools, i));
        const char *s = json_string_value(json_object_get(f, "name"));

        if (s && strcmp(s, name) == 0)
            return f;
    }
    return NULL;
}

bool tp_declared(const struct tool_parser *p, const char *name)
{
    if (p->o.any)
        return *name != 0;
    for (size_t i = 0; i < json_array_size(p->o.builtin_tools); i++) {
        const char *s = json_string_value(json_array_get(p->o.builtin_tools, i));

        if (s && strcmp(s, name) == 0)
            return true;
    }
    return tp_tool(p, name) || (p->o.code && strcmp(name, "code_interpreter") == 0);
}

static const json_t *schema_of(const struct tool_parser *p)
{
    return json_object_get(tp_tool(p, p->name), "parameters");
}

/* ---- events ---- */

void tp_flush_text(struct tool_parser *p)
{
    if (p->text.len && p->ev.content)
        p->ev.content(p->ev.arg, p->text.p, p->text.len);
    buf_clear(&p->text);
}

void tp_say(struct tool_parser *p, const char *s, size_t n)
{
    buf_add(&p->text, s, n);
    for (size_t i = 0; i < n && !p->spoken; i++)
        p->spoken = !s[i] || !strchr(" \t\r\n", s[i]);
}

void tp_call_begin(struct tool_parser *p, const char *name)
{
    char id[] = "call_........................";

    for (size_t i = 5; i < sizeof(id) - 1; i++) {
        const uint64_t k = rng_u64(p->o.seed, p->ids++) % 52;

        id[i] = (char)(k < 26 ? 'a' + k : 'A' + (k - 26));
    }
    tp_flush_text(p);
    if (p->ev.call_begin)
        p->ev.call_begin(p->ev.arg, p->calls, id, name);
    p->calls++;
}

void tp_call_args(struct tool_parser *p, const char *s, size_t n)
{
    if (n && p->ev.call_args)
        p->ev.call_args(p->ev.arg, p->calls - 1, s, n);
}

void tp_call_end(struct tool_parser *p)
{
    if (p->ev.call_end)
        p->ev.call_end(p->ev.arg, p->calls - 1);
}

/* Arguments that are there as a whole: given their types, and for a built-in tool without a schema
 * made into its one `query`. */
void tp_call_whole(struct tool_parser *p, const char *name, json_t *args)
{
    const json_t *schema = json_object_get(tp_tool(p, name), "parameters");
    struct buf text;

    if (p->o.coerce)
        p->coerced += coerce_object(schema, args);
    if (!schema && tool_is_builtin(name) && json_object_size(args)) {
        json_t *v = json_object_get(args, "query");

        if (!v)
            v = json_object_iter_value(json_object_iter(args));
        json_incref(v);
        json_object_clear(args);
        json_object_set_new(args, "query", v);
    }
    buf_init(&text, SIZE_MAX);
    pyjson_write(&text, args, 0, 0);
    tp_call_begin(p, name);
    tp_call_args(p, text.p, text.len);
    tp_call_end(p);
    buf_release(&text);
}

/* ---- a JSON call ---- */

static void on_value_start(void *arg, size_t depth, char first);
static void on_value_end(void *arg, size_t depth, size_t from);

void tp_reset(struct tool_parser *p)
{
    jpipe_reset(&p->j);
    p->j.value_start = on_value_start;
    p->j.value_end = on_value_end;
    buf_clear(&p->args);
    p->nested = p->has_name = p->begun = p->done = p->whole = false;
    p->has_args = p->in_args = p->args_done = false;
    p->sent = 0;
    p->hold = SIZE_MAX;
}

static bool key_is(const struct jpipe *j, size_t depth, const char *s)
{
    const size_t n = strlen(s);

    return depth <= JPIPE_KEYS && j->key[depth - 1].n == n &&
           memcmp(j->out.p + j->key[depth - 1].at, s, n) == 0;
}

static bool in_call(const struct tool_parser *p, size_t depth)
{
    return depth == 1 || (depth == 2 && p->nested);
}

static bool args_key(const struct jpipe *j, size_t depth)
{
    return key_is(j, depth, "parameters") || key_is(j, depth, "arguments");
}

void tp_args_begin(struct tool_parser *p, size_t depth)
{
    p->has_args = p->in_args = true;
    p->args_depth = depth;
    p->sent = p->j.out.len;
    p->whole = !p->has_name || (tool_is_builtin(p->name) && !schema_of(p));
}

static void on_value_start(void *arg, size_t depth, char first)
{
    struct tool_parser *p = arg;
    const struct jpipe *j = &p->j;

    if (p->in_args) {
        if (depth == p->args_depth + 1 && depth <= JPIPE_KEYS && p->o.coerce && !p->whole) {
            const json_t *properties = json_object_get(schema_of(p), "properties");
            const json_t *schema =
                json_object_getn(properties, j->out.p + j->key[depth - 1].at, j->key[depth - 1].n);

            if (coerce_wanted(schema, first))
                p->hold = j->out.len;
        }
        return;
    }
    if (depth == 0 || !in_call(p, depth))
        return;
    if (depth == 1 && first == '{' && key_is(j, depth, "function"))
        p->nested = true;
    else if (first == '{' && !p->has_args && args_key(j, depth))
        tp_args_begin(p, depth);
}

/* A property of the arguments is complete: it gets its declared type. */
static void coerce_property(struct tool_parser *p, size_t depth, size_t from)
{
    struct jpipe *j = &p->j;
    const json_t *properties = json_object_get(schema_of(p), "properties");
    const json_t *schema =
        json_object_getn(properties, j->out.p + j->key[depth - 1].at, j->key[depth - 1].n);
    struct err e;
    json_t *v, *u;

    p->hold = SIZE_MAX;
    if (pyjson_read(&v, j->out.p + from, j->out.len - from, 0, "", &e))
        return;
    u = coerce_value(schema, v);
    if (u) {
        buf_cut(&j->out, from);
        pyjson_write(&j->out, u, 0, 0);
        p->coerced++;
    }
    json_decref(u);
    json_decref(v);
}

static void take_name(struct tool_parser *p, const json_t *v)
{
    const char *s = json_string_value(v);

    if (p->has_name || !s)
        return;
    p->has_name = true;
    p->name[0] = 0; /* too long, or with a NUL: nobody declared it */
    if (json_string_length(v) < sizeof(p->name) && strlen(s) == json_string_length(v))
        memcpy(p->name, s, strlen(s) + 1);
}

/* "parameters": null, or a string that holds a JSON object. */
static void take_args(struct tool_parser *p, const json_t *v)
{
    const char *s = json_string_value(v);
    struct err e;
    json_t *u = NULL;

    if (p->has_args)
        return;
    if (s && (pyjson_read(&u, s, json_string_length(v), PYJSON_LENIENT | PYJSON_FINITE, "", &e) ||
              !json_is_object(u))) {
        json_decref(u);
        return;
    }
    if (!s && !json_is_null(v))
        return;
    if (u)
        pyjson_write(&p->args, u, 0, 0);
    else
        buf_adds(&p->args, "{}");
    json_decref(u);
    p->has_args = p->args_done = p->whole = true;
}

static void on_value_end(void *arg, size_t depth, size_t from)
{
    struct tool_parser *p = arg;
    struct jpipe *j = &p->j;
    struct err e;
    json_t *v;

    if (p->in_args) {
        if (depth == p->args_depth + 1 && p->hold != SIZE_MAX)
            coerce_property(p, depth, from);
        if (depth == p->args_depth) {
            p->in_args = false;
            p->args_done = true;
            if (p->whole)
                buf_add(&p->args, j->out.p + from, j->out.len - from);
        }
        return;
    }
    if (depth == 0 || !in_call(p, depth))
        return;
    if (depth == 1 && p->nested && key_is(j, depth, "function")) {
        p->nested = false;
        return;
    }
    const bool name = key_is(j, depth, "name") || key_is(j, depth, "function");

    if (!name && !args_key(j, depth))
        return;
    if (pyjson_read(&v, j->out.p + from, j->out.len - from, 0, "", &e))
        return;
    if (name)
        take_name(p, v);
    else
        take_args(p, v);
    json_decref(v);
}

void tp_args_flush(struct tool_parser *p)
{
    const size_t end = p->hold < p->j.out.len ? p->hold : p->j.out.len;

    if (p->begun && !p->done && end > p->sent) {
        tp_call_args(p, p->j.out.p + p->sent, end - p->sent);
        p->sent = end;
    }
}

/* Sends of the candidate what is certain. */
void tp_send(struct tool_parser *p)
{
    if (p->done || !p->has_args || !p->has_name)
        return;
    if (p->whole) {
        struct err e;
        json_t *args;

        if (!p->args_done || pyjson_read(&args, p->args.p, p->args.len, 0, "", &e))
            return;
        tp_call_whole(p, p->name, args);
        json_decref(args);
        p->begun = p->done = true;
    } else {
        if (!p->begun)
            tp_call_begin(p, p->name);
        p->begun = true;
        if (p->args_done) {
            tp_args_flush(p);
            tp_call_end(p);
            p->done = true;
        }
    }
}
