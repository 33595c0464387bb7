#include "text/toolencode.h"

#include <string.h>

#include "text/pyjson.h"

bool tool_is_builtin(const char *name)
{
    return strcmp(name, "brave_search") == 0 || strcmp(name, "wolfram_alpha") == 0 ||
           strcmp(name, "photogen") == 0;
}

static void python_value(struct buf *out, const json_t *v);

/* k=v, ... */
static void keywords(struct buf *out, const json_t *object)
{
    bool first = true;

    for (void *it = json_object_iter((json_t *)(uintptr_t)object); it;
         it = json_object_iter_next((json_t *)(uintptr_t)object, it)) {
        if (!first)
            buf_adds(out, ", ");
        first = false;
        buf_add(out, json_object_iter_key(it), json_object_iter_key_len(it));
        buf_addc(out, '=');
        python_value(out, json_object_iter_value(it));
    }
}

static void python_value(struct buf *out, const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        buf_addc(out, '{');
        keywords(out, v);
        buf_addc(out, '}');
        break;
    case JSON_ARRAY:
        buf_addc(out, '[');
        for (size_t i = 0; i < json_array_size(v); i++) {
            if (i)
                buf_adds(out, ", ");
            python_value(out, json_array_get(v, i));
        }
        buf_addc(out, ']');
        break;
    case JSON_TRUE:
        buf_adds(out, "True");
        break;
    case JSON_FALSE:
        buf_adds(out, "False");
        break;
    case JSON_NULL:
        buf_adds(out, "None");
        break;
    case JSON_STRING:
        if ((uint8_t)*json_string_value(v) != 0xFF) {
            buf_addc(out, '"');
            buf_add(out, json_string_value(v), json_string_length(v));
            buf_addc(out, '"');
            break;
        }
        /* a number that pyjson kept as its text */
        /* fall through */
    default:
        pyjson_write(out, v, 0, 0);
    }
}

/* A string argument as it is, anything else as Python's str() would nearly print it. */
static void bare(struct buf *out, const json_t *v)
{
    if (json_is_string(v) && (uint8_t)*json_string_value(v) != 0xFF)
        buf_add(out, json_string_value(v), json_string_length(v));
    else if (v)
        python_value(out, v);
}

void tool_call_write(struct buf *out, enum tool_format format, const char *name,
                     const json_t *arguments)
{
    if (tool_is_builtin(name)) {
        buf_addf(out, "%s.call(query=\"", name);
        bare(out, json_object_get(arguments, "query"));
        buf_adds(out, "\")");
    } else if (strcmp(name, "code_interpreter") == 0) {
        bare(out, json_object_get(arguments, "code"));
    } else if (format == TOOL_FORMAT_JSON) {
        buf_adds(out, "{\"type\": \"function\", \"name\": ");
        pyjson_string(out, name, strlen(name), PYJSON_ASCII);
        buf_adds(out, ", \"parameters\": ");
        pyjson_write(out, arguments, PYJSON_ASCII, 0);
        buf_addc(out, '}');
    } else if (format == TOOL_FORMAT_FUNCTION_TAG) {
        buf_addf(out, "<function=%s>", name);
        pyjson_write(out, arguments, PYJSON_ASCII, 0);
        buf_adds(out, "</function>");
    } else {
        buf_addf(out, "[%s(", name);
        keywords(out, arguments);
        buf_adds(out, ")]");
    }
}
