/* schema.c - JSON schema (draft 2020-12 and what is common of the older ones).
 *
 * The grammar of a schema may match less than the schema allows (members in the order they are
 * declared in, no members beyond them unless asked for, dates that exist in every year), never
 * more: what constrains a value and cannot be kept is refused by its path. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "grammar/schema_int.h"

enum { MERGES_MAX = 2000, COUNT_MAX = 100000, NEST_MAX = 128 };

int schema_fail(struct schema *c, const char *fmt, ...)
{
    char msg[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    return err_set(c->e, ERR_USAGE, "at #%.200s: %s", c->path.p, msg);
}

int schema_count(struct schema *c, const json_t *v, const char *key, int32_t *out)
{
    const json_t *n = json_object_get(v, key);
    const double x = json_number_value(n);

    if (!n)
        return 0;
    if (!json_is_number(n) || !(x >= 0 && x <= COUNT_MAX) || x != (double)(int32_t)x)
        return schema_fail(c, "%s is no count from 0 to %d", key, COUNT_MAX);
    *out = (int32_t)x;
    return 0;
}

int schema_find(struct schema *c, const char *ref, const json_t **out)
{
    const json_t *v = c->root;
    const char *p = ref;

    if (*p++ != '#' || (*p && *p != '/'))
        return schema_fail(c, "$ref '%.80s': only places in the same schema, #/..., are supported",
                           ref);
    while (*p == '/' && v) {
        const size_t n = strcspn(++p, "/");
        char *name = xmemdup0(p, n), *to = name;

        for (const char *s = name; *s; s++) {
            const bool escape = s[0] == '~' && (s[1] == '0' || s[1] == '1');

            *to++ = escape ? (s[1] == '0' ? '~' : '/') : *s;
            s += escape;
        }
        *to = 0;
        if (json_is_array(v))
            v = json_array_get(v, strtoul(name, NULL, 10));
        else
            v = json_object_get(v, name);
        free(name);
        p += n;
    }
    if (!v)
        return schema_fail(c, "$ref '%.80s' leads nowhere", ref);
    *out = v;
    return 0;
}

/* ---- both of two schemas ---- */

static json_t *pair(const char *key, const json_t *a, const json_t *b)
{
    json_t *list = json_array();

    json_array_append(list, (json_t *)(uintptr_t)a);
    json_array_append(list, (json_t *)(uintptr_t)b);
    return json_pack("{s:o}", key, list);
}

static bool listed(const json_t *list, const json_t *v)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), v))
            return true;
    return false;
}

static json_t *as_list(const json_t *v)
{
    return json_is_array(v) ? json_copy((json_t *)(uintptr_t)v)
                            : json_pack("[O]", (json_t *)(uintptr_t)v);
}

static json_t *merge_types(const json_t *a, const json_t *b)
{
    json_t *la = as_list(a), *lb = as_list(b), *both = json_array();
    json_t *integer = json_string("integer"), *number = json_string("number");

    for (size_t i = 0; i < json_array_size(la); i++) {
        json_t *t = json_array_get(la, i);

        if (listed(lb, t) || (json_equal(t, integer) && listed(lb, number)))
            json_array_append(both, t);
        else if (json_equal(t, number) && listed(lb, integer))
            json_array_append(both, integer);
    }
    json_decref(la);
    json_decref(lb);
    json_decref(integer);
    json_decref(number);
    return both;
}

static json_t *merge_lists(const json_t *a, const json_t *b, bool both)
{
    json_t *out = json_array();

    for (size_t i = 0; i < json_array_size(a); i++)
        if (!both || listed(b, json_array_get(a, i)))
            json_array_append(out, json_array_get(a, i));
    for (size_t i = 0; i < json_array_size(b) && !both; i++)
        if (!listed(out, json_array_get(b, i)))
            json_array_append(out, json_array_get(b, i));
    return out;
}

static json_t *merge_members(const json_t *a, const json_t *b)
{
    json_t *out = json_copy((json_t *)(uintptr_t)a), *v;
    const char *key;

    json_object_foreach((json_t *)(uintptr_t)b, key, v)
    {
        json_t *old = json_object_get(out, key);

        if (old)
            json_object_set_new(out, key, pair("allOf", old, v));
        else
            json_object_set(out, key, v);
    }
    return out;
}

/* The value of a keyword that both have; NULL = they do not go together. */
static json_t *merge_key(const char *key, const json_t *a, const json_t *b)
{
    static const char *const most[] = { "minimum", "exclusiveMinimum", "minLength", "minItems",
                                        "minProperties" };
    static const char *const least[] = { "maximum", "exclusiveMaximum", "maxLength", "maxItems",
                                         "maxProperties" };
    const json_t *v = NULL;

    if (json_equal(a, b))
        v = a;
    for (size_t i = 0; i < ARRAY_LEN(most) && !v; i++) {
        if (strcmp(key, most[i]) == 0)
            v = json_number_value(a) > json_number_value(b) ? a : b;
        if (strcmp(key, least[i]) == 0)
            v = json_number_value(a) < json_number_value(b) ? a : b;
    }
    if (v)
        return json_incref((json_t *)(uintptr_t)v);
    if (strcmp(key, "type") == 0)
        return merge_types(a, b);
    if (strcmp(key, "required") == 0)
        return merge_lists(a, b, false);
    if (strcmp(key, "enum") == 0)
        return merge_lists(a, b, true);
    if (strcmp(key, "properties") == 0)
        return merge_members(a, b);
    if (strcmp(key, "items") == 0 && !json_is_array(a) && !json_is_array(b))
        return pair("allOf", a, b);
    if (strcmp(key, "allOf") == 0)
        return merge_lists(a, b, false);
    return NULL;
}

static bool is_note(const char *key)
{
    static const char *const notes[] = {
        "title", "description", "default", "examples",         "example",         "$schema",
        "$id",   "$comment",    "$anchor", "deprecated",       "readOnly",        "writeOnly",
        "$defs", "definitions", "id",      "contentMediaType", "contentEncoding",
    };

    for (size_t i = 0; i < ARRAY_LEN(notes); i++)
        if (strcmp(key, notes[i]) == 0)
            return true;
    return false;
}

/* Members that a lets nobody add, and b declares: only those of both could be there. */
static bool closed_against(const json_t *a, const json_t *b)
{
    json_t *theirs = json_object_get(b, "properties"), *v;
    const char *key;

    if (!json_is_false(json_object_get(a, "additionalProperties")))
        return false;
    json_object_foreach(theirs, key,
                        v) if (!json_object_get(json_object_get(a, "properties"), key)) return true;
    return false;
}

int schema_merge(struct schema *c, const json_t *a, const json_t *b, const json_t **out)
{
    json_t *both, *v;
    const char *key;

    if (json_array_size(c->made) == MERGES_MAX)
        return schema_fail(c, "more than %d schemas to be put together", MERGES_MAX);
    if (json_is_boolean(a) || json_is_boolean(b)) {
        *out = json_is_false(a) || json_is_true(b) ? a : b;
        return 0;
    }
    if (!json_is_object(a) || !json_is_object(b))
        return schema_fail(c, "a schema is an object, true or false");
    if (closed_against(a, b) || closed_against(b, a))
        return schema_fail(c, "additionalProperties false here, and other properties there");
    both = json_copy((json_t *)(uintptr_t)a);
    json_array_append_new(c->made, both);
    json_object_foreach((json_t *)(uintptr_t)b, key, v)
    {
        const json_t *old = json_object_get(both, key);
        json_t *merged = !old || is_note(key) ? NULL : merge_key(key, old, v);

        if (old && !merged && !is_note(key))
            return schema_fail(c, "two values of %.40s do not go together", key);
        if (merged)
            json_object_set_new(both, key, merged);
        else if (!old)
            json_object_set(both, key, v);
    }
    *out = both;
    return 0;
}

/* A copy without a keyword. */
static const json_t *without(struct schema *c, const json_t *v, const char *key)
{
    json_t *out = json_copy((json_t *)(uintptr_t)v);

    json_object_del(out, key);
    json_array_append_new(c->made, out);
    return out;
}

/* Whether v says nothing beside `key` and notes. */
static bool is_alone(const json_t *v, const char *key)
{
    const char *k;
    json_t *x;

    json_object_foreach((json_t *)(uintptr_t)v, k,
                        x) if (strcmp(k, key) != 0 && !is_note(k)) return false;
    return true;
}

/* ---- one schema ---- */

static bool has_type(const json_t *v, const char *type)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return strcmp(type, "object") == 0;
    case JSON_ARRAY:
        return strcmp(type, "array") == 0;
    case JSON_STRING:
        return strcmp(type, "string") == 0;
    case JSON_INTEGER:
        return strcmp(type, "integer") == 0 || strcmp(type, "number") == 0;
    case JSON_REAL:
        return strcmp(type, "number") == 0;
    case JSON_TRUE:
    case JSON_FALSE:
        return strcmp(type, "boolean") == 0;
    default:
        return strcmp(type, "null") == 0;
    }
}

static bool may_be(const json_t *types, const json_t *v)
{
    if (!types)
        return true;
    for (size_t i = 0; i < json_array_size(types); i++)
        if (json_is_string(json_array_get(types, i)) &&
            has_type(v, json_string_value(json_array_get(types, i))))
            return true;
    return json_is_string(types) && has_type(v, json_string_value(types));
}

/* enum and const: what else the schema says of a value is not looked at, so it may not be there. */
static int values(struct schema *c, const json_t *v, uint32_t *out)
{
    const json_t *list = json_object_get(v, "enum"), *one = json_object_get(v, "const");
    const json_t *types = json_object_get(v, "type");
    const char *key;
    json_t *x;

    json_object_foreach((json_t *)(uintptr_t)v, key,
                        x) if (strcmp(key, "enum") != 0 && strcmp(key, "const") != 0 &&
                               strcmp(key, "type") != 0 && strcmp(key, "nullable") != 0 &&
                               !is_note(key)) return schema_fail(c, "%.40s beside enum or const",
                                                                 key);
    if (list && !json_is_array(list))
        return schema_fail(c, "enum is no list");
    *out = EX_NONE;
    if (one && may_be(types, one) && (!list || listed(list, one)))
        *out = json_literal(&c->j, one);
    for (size_t i = 0; i < json_array_size(list) && !one; i++)
        if (may_be(types, json_array_get(list, i)))
            *out = ex_alt(c->x, *out, json_literal(&c->j, json_array_get(list, i)));
    return 0;
}

static int by_type(struct schema *c, const json_t *v, const char *type, uint32_t *out)
{
    struct exprs *x = c->x;

    if (strcmp(type, "object") == 0)
        return schema_object(c, v, out);
    if (strcmp(type, "array") == 0)
        return schema_array(c, v, out);
    if (strcmp(type, "string") == 0)
        return schema_string(c, v, out);
    if (strcmp(type, "integer") == 0 || strcmp(type, "number") == 0)
        return schema_number(c, v, *type == 'i', out);
    if (strcmp(type, "boolean") == 0)
        *out = ex_alt(x, ex_text(x, "true"), ex_text(x, "false"));
    else if (strcmp(type, "null") == 0)
        *out = ex_text(x, "null");
    else
        return schema_fail(c, "unknown type '%.40s'", type);
    return 0;
}

static const struct {
    const char *key, *type; /* the type that it is about */
} about[] = {
    { "properties", "object" },
    { "required", "object" },
    { "additionalProperties", "object" },
    { "patternProperties", "object" },
    { "minProperties", "object" },
    { "maxProperties", "object" },
    { "propertyNames", "object" },
    { "items", "array" },
    { "prefixItems", "array" },
    { "minItems", "array" },
    { "maxItems", "array" },
    { "pattern", "string" },
    { "format", "string" },
    { "minLength", "string" },
    { "maxLength", "string" },
    { "minimum", "number" },
    { "maximum", "number" },
    { "exclusiveMinimum", "number" },
    { "exclusiveMaximum", "number" },
    { "multipleOf", "number" },
};

/* The types a schema without `type` speaks of; none = any value. */
static int implied(struct schema *c, const json_t *v, uint32_t *out)
{
    const char *last = "";
    uint32_t e;

    *out = EX_NONE;
    for (size_t i = 0; i < ARRAY_LEN(about); i++) {
        if (!json_object_get(v, about[i].key) || strcmp(last, about[i].type) == 0)
            continue;
        last = about[i].type;
        if (by_type(c, v, last, &e))
            return -1;
        *out = ex_alt(c->x, *out, e);
    }
    if (*last == 0)
        *out = json_any(&c->j);
    return 0;
}

static int check_keywords(struct schema *c, const json_t *v)
{
    static const char *const not_kept[] = {
        "not",
        "if",
        "then",
        "else",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "contains",
        "minContains",
        "maxContains",
        "unevaluatedItems",
        "$dynamicRef",
        "$recursiveRef",
        "uniqueItems",
    };

    for (size_t i = 0; i < ARRAY_LEN(not_kept); i++) {
        const json_t *k = json_object_get(v, not_kept[i]);

        if (k && !json_is_false(k))
            return schema_fail(c, "%s is not supported", not_kept[i]);
    }
    return 0;
}

static int alternatives(struct schema *c, const json_t *v, const char *key, uint32_t *out)
{
    const json_t *list = json_object_get(v, key), *rest = NULL;
    uint32_t e;

    if (!json_is_array(list) || json_array_size(list) == 0)
        return schema_fail(c, "%s is no list of schemas", key);
    if (!is_alone(v, key))
        rest = without(c, v, key);
    *out = EX_NONE;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        const json_t *ref = json_object_get(one, "$ref");

        if (rest && json_is_string(ref) && is_alone(one, "$ref") &&
            schema_find(c, json_string_value(ref), &one))
            return -1;
        if (rest && schema_merge(c, rest, one, &one))
            return -1;
        if (schema_expr(c, key, (int)i, one, &e))
            return -1;
        *out = ex_alt(c->x, *out, e);
    }
    return 0;
}

static int all_of(struct schema *c, const json_t *v, uint32_t *out)
{
    const json_t *list = json_object_get(v, "allOf"), *all;

    if (!json_is_array(list) || json_array_size(list) == 0)
        return schema_fail(c, "allOf is no list of schemas");
    if (is_alone(v, "allOf") && json_array_size(list) == 1)
        return schema_expr(c, "allOf", 0, json_array_get(list, 0), out);
    all = without(c, v, "allOf");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);

        for (int hops = 0; json_is_string(json_object_get(one, "$ref")); hops++) {
            const json_t *to, *rest = without(c, one, "$ref");

            if (hops == DEPTH_MAX)
                return schema_fail(c, "$ref leads in circles");
            if (schema_find(c, json_string_value(json_object_get(one, "$ref")), &to) ||
                schema_merge(c, to, rest, &one))
                return -1;
        }
        if (schema_merge(c, all, one, &all))
            return -1;
    }
    return schema_expr(c, NULL, -1, all, out);
}

/* A place that is pointed to is one rule, however often. */
static int reference(struct schema *c, const json_t *v, uint32_t *out)
{
    const char *ref = json_string_value(json_object_get(v, "$ref"));
    const json_t *to;
    uint32_t rule, body;

    if (!ref)
        return schema_fail(c, "$ref is no text");
    if (schema_find(c, ref, &to))
        return -1;
    if (!is_alone(v, "$ref"))
        return schema_merge(c, to, without(c, v, "$ref"), &to) ? -1
                                                               : schema_expr(c, NULL, -1, to, out);
    for (size_t i = 0; i < c->n_refs; i++)
        if (c->ref[i].to == to) {
            *out = ex_rule(c->x, c->ref[i].rule);
            return 0;
        }
    rule = ex_new_rule(c->x, ref, strlen(ref));
    if (c->n_refs == c->cap_refs) {
        c->cap_refs = c->cap_refs ? 2 * c->cap_refs : 16;
        c->ref = xrealloc(c->ref, c->cap_refs * sizeof(*c->ref));
    }
    c->ref[c->n_refs++] = (struct schema_ref){ to, rule };
    if (schema_expr(c, NULL, -1, to, &body))
        return -1;
    c->x->rule[rule].body = body;
    *out = ex_rule(c->x, rule);
    return 0;
}

static int one_schema(struct schema *c, const json_t *v, uint32_t *out)
{
    const json_t *type = json_object_get(v, "type");
    uint32_t e;

    if (json_is_boolean(v)) {
        *out = json_is_true(v) ? json_any(&c->j) : EX_NONE;
        return 0;
    }
    if (!json_is_object(v))
        return schema_fail(c, "a schema is an object, true or false");
    if (check_keywords(c, v))
        return -1;
    if (json_object_get(v, "$ref"))
        return reference(c, v, out);
    if (json_object_get(v, "allOf"))
        return all_of(c, v, out);
    if (json_object_get(v, "anyOf"))
        return alternatives(c, v, "anyOf", out);
    if (json_object_get(v, "oneOf"))
        return alternatives(c, v, "oneOf", out);
    if (json_object_get(v, "enum") || json_object_get(v, "const"))
        return values(c, v, out);
    if (json_is_string(type))
        return by_type(c, v, json_string_value(type), out);
    if (!type)
        return implied(c, v, out);
    *out = EX_NONE;
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *t = json_string_value(json_array_get(type, i));

        if (!t)
            return schema_fail(c, "type is no name or list of names");
        if (by_type(c, v, t, &e))
            return -1;
        *out = ex_alt(c->x, *out, e);
    }
    return json_is_array(type) ? 0 : schema_fail(c, "type is no name or list of names");
}

int schema_expr(struct schema *c, const char *key, int i, const json_t *v, uint32_t *out)
{
    const size_t was = c->path.len;
    int rc;

    if (c->depth == NEST_MAX)
        return schema_fail(c, "schemas within each other, more than %d deep", NEST_MAX);
    if (key)
        buf_addf(&c->path, "/%.80s", key);
    if (i >= 0)
        buf_addf(&c->path, "/%d", i);
    c->depth++;
    rc = one_schema(c, v, out);
    c->depth--;
    if (rc == 0 && json_is_true(json_object_get(v, "nullable"))) /* OpenAPI */
        *out = ex_alt(c->x, *out, ex_text(c->x, "null"));
    buf_cut(&c->path, was);
    return rc;
}

int read_schema_expr(struct exprs *x, struct json_rules *j, const json_t *v, uint32_t *out,
                     struct err *e)
{
    struct schema c = { .x = x, .j = *j, .root = v, .made = json_array(), .e = e };
    int rc;

    buf_init(&c.path, 1 << 16);
    rc = schema_expr(&c, NULL, -1, v, out);
    *j = c.j;
    json_decref(c.made);
    free(c.ref);
    buf_release(&c.path);
    return rc;
}

int read_schema(struct exprs *x, const json_t *v, struct err *e)
{
    struct json_rules j = { .x = x };
    const uint32_t root = ex_new_rule(x, "#", 1);
    uint32_t body;

    if (read_schema_expr(x, &j, v, &body, e))
        return -1;
    x->rule[root].body = body;
    return 0;
}
