/* chat_tools.c - tools for a chat format that has none: they are described in the last user
 * message, and a turn that called one is spelt as the model was asked to write it. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/chat.h"

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

void chat_spell_tools(json_t *request)
{
    json_t *messages = json_object_get(request, "messages");

    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i), *content = json_object_get(m, "content");
        const char *role = json_string_value(json_object_get(m, "role"));

        if (json_is_array(json_object_get(m, "tool_calls")))
            spell_calls(m);
        if (role && strcmp(role, "tool") == 0 && json_is_object(content)) {
            char *text = json_dumps(content, 0);

            json_object_set_new(m, "content", json_string(text ? text : ""));
            free(text);
        }
    }
    if (json_object_get(request, "tools"))
        spell_tools(messages, json_object_get(request, "tools"));
    json_object_del(request, "tools");
}
