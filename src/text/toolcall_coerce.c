#include <math.h>
#include <string.h>

#include "text/pyjson.h"
#include "text/toolcall_int.h"

/* A schema's "type" may be one name or a list of names. */
static bool allows(const json_t *schema, const char *type)
{
    const json_t *t = json_object_get(schema, "type");

    if (json_is_string(t))
        return strcmp(json_string_value(t), type) == 0;
    for (size_t i = 0; i < json_array_size(t); i++) {
        const char *s = json_string_value(json_array_get(t, i));

        if (s && strcmp(s, type) == 0)
            return true;
    }
    return false;
}

bool coerce_wanted(const json_t *schema, char first)
{
    const bool string = allows(schema, "string");

    if (!json_object_get(schema, "type"))
        return false;
    if (first == '"' || first == '\'')
        return !string;
    if (first == '{')
        return string && !allows(schema, "object");
    if (first == '[' || first == '(')
        return string && !allows(schema, "array");
    return true; /* a number or a word: its type is known at its end */
}

static const char *type_of(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "object";
    case JSON_ARRAY:
        return "array";
    case JSON_STRING: /* pyjson.h: numbers without a jansson type */
        return (uint8_t)*json_string_value(v) == 0xFF ? "integer" : "string";
    case JSON_INTEGER:
        return "integer";
    case JSON_REAL:
        return "number";
    case JSON_NULL:
        return "null";
    default:
        return "boolean";
    }
}

static bool fits(const json_t *schema, const json_t *v)
{
    const char *type = type_of(v);

    return allows(schema, type) || (strcmp(type, "integer") == 0 && allows(schema, "number"));
}

/* 10.0 where an integer is wanted. */
static json_t *whole(const json_t *schema, const json_t *v)
{
    const double x = json_real_value(v);

    return json_is_real(v) && allows(schema, "integer") && x == floor(x) && fabs(x) < 9e15
               ? json_integer((json_int_t)x)
               : NULL;
}

json_t *coerce_value(const json_t *schema, const json_t *v)
{
    struct err e;
    json_t *u = NULL, *i;

    if (!json_object_get(schema, "type") || fits(schema, v))
        return NULL;
    if (strcmp(type_of(v), "string") == 0) {
        /* "10", "true", "[1, 2]": only where the whole text is such a value */
        if (pyjson_read(&u, json_string_value(v), json_string_length(v),
                        PYJSON_LENIENT | PYJSON_FINITE, "", &e))
            return NULL;
        if (fits(schema, u))
            return u;
        i = whole(schema, u);
        json_decref(u);
        return i;
    }
    if ((u = whole(schema, v)) || !allows(schema, "string") || json_is_null(v))
        return u;
    struct buf text;

    buf_init(&text, SIZE_MAX);
    pyjson_write(&text, v, 0, 0);
    u = json_stringn_nocheck(text.p, text.len);
    buf_release(&text);
    return u;
}

size_t coerce_object(const json_t *parameters, json_t *object)
{
    const json_t *properties = json_object_get(parameters, "properties");
    size_t n = 0;

    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const json_t *schema =
            json_object_getn(properties, json_object_iter_key(it), json_object_iter_key_len(it));
        json_t *v = coerce_value(schema, json_object_iter_value(it));

        if (v && json_object_iter_set_new(object, it, v) == 0)
            n++;
    }
    return n;
}
