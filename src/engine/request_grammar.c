/* request_grammar.c - the fields by which the APIs ask for answers of a certain form. */
#include <string.h>

#include "base/json.h"
#include "engine/request.h"

struct reader {
    const struct engine *g;
    struct grammar *found; /* owned */
    const char *by;        /* the field that asked for it */
    struct err *e;
};

/* Takes the grammar that `field` asks for. Two of them would have to hold at once. */
static int use(struct reader *r, const char *field, enum grammar_kind kind, const json_t *v)
{
    const char *text = json_string_value(v);
    int rc;

    if (r->found)
        return err_set(r->e, ERR_USAGE, "request: both %s and %s; one grammar holds for an answer",
                       r->by, field);
    if (!v && kind != GRAMMAR_JSON)
        rc = err_set(r->e, ERR_USAGE, "what the answer must be is missing");
    else if (kind == GRAMMAR_JSON)
        rc = grammars_get(r->g->grammars, kind, "", 0, &r->found, r->e);
    else if ((kind == GRAMMAR_REGEX || kind == GRAMMAR_GBNF) && !text)
        rc = err_set(r->e, ERR_USAGE, "it is no text");
    else if (text)
        rc = grammars_get(r->g->grammars, kind, text, json_string_length(v), &r->found, r->e);
    else
        rc = grammars_get_json(r->g->grammars, kind, v, &r->found, r->e);
    r->by = field;
    return rc ? err_wrap(r->e, "%s", field) : 0;
}

struct field {
    const char *name;
    enum grammar_kind kind;
};

static int read_fields(struct reader *r, const json_t *j, const struct field *f, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_object_get(j, f[i].name);

        if (v && !json_is_null(v) && !(f[i].kind == GRAMMAR_JSON && json_is_false(v)) &&
            use(r, f[i].name, f[i].kind, v))
            return -1;
    }
    return 0;
}

/* {"json_schema": {"name", "schema"}}; TGI writes "value" in place of either key. */
static const json_t *schema_of(const json_t *format)
{
    const json_t *named = json_object_get(format, "json_schema"), *schema;

    if (!named)
        named = json_object_get(format, "value");
    schema = json_object_get(named, "schema");
    return schema ? schema : json_object_get(named, "value");
}

const json_t *request_schema(const json_t *j)
{
    const json_t *format = json_object_get(j, "response_format");
    const char *type = json_string_value(json_object_get(format, "type"));

    return type && strcmp(type, "json_schema") == 0 ? schema_of(format) : NULL;
}

/* {"type", ...}: OpenAI's response_format, TGI's, and TGI's grammar. */
static int read_format(struct reader *r, const json_t *j, const char *field)
{
    const json_t *format = json_object_get(j, field), *value = json_object_get(format, "value");
    const char *type = NULL;

    if (!format || json_is_null(format))
        return 0;
    if (!json_is_object(format))
        return err_set(r->e, ERR_USAGE, "request: %s is no object", field);
    if (json_get_str(format, "type", &type, NULL, field, r->e) < 0)
        return -1;
    if (!type || strcmp(type, "text") == 0)
        return type ? 0 : err_set(r->e, ERR_USAGE, "%s: its type is missing", field);
    if (strcmp(type, "json_object") == 0 && !value)
        return use(r, field, GRAMMAR_JSON, NULL);
    if (strcmp(type, "regex") == 0)
        return use(r, field, GRAMMAR_REGEX, value);
    if (strcmp(type, "json") == 0 || strcmp(type, "json_object") == 0) /* huggingface_hub */
        return use(r, field, GRAMMAR_SCHEMA, value);
    if (strcmp(type, "json_schema") == 0)
        return use(r, field, GRAMMAR_SCHEMA, schema_of(format));
    return err_set(r->e, ERR_USAGE, "%s: '%.40s' is not supported", field, type);
}

/* vLLM's structured_outputs: a key that we do not know would bind the answer, too. */
static int read_outputs(struct reader *r, json_t *j)
{
    static const struct field outputs[] = {
        { "choice", GRAMMAR_CHOICE },    { "grammar", GRAMMAR_GBNF }, { "json", GRAMMAR_SCHEMA },
        { "json_object", GRAMMAR_JSON }, { "regex", GRAMMAR_REGEX },
    };
    const char *key;
    json_t *v;

    json_object_foreach(j, key, v)
    {
        bool known = json_is_null(v) || strncmp(key, "disable_", 8) == 0;

        for (size_t i = 0; i < ARRAY_LEN(outputs) && !known; i++)
            known = strcmp(key, outputs[i].name) == 0;
        if (!known)
            return err_set(r->e, ERR_USAGE, "structured_outputs: '%.40s' is not supported", key);
    }
    return read_fields(r, j, outputs, ARRAY_LEN(outputs));
}

int request_grammar(struct grammar **out, const json_t *j, const struct engine *g, struct err *e)
{
    static const struct field fields[] = {
        { "guided_choice", GRAMMAR_CHOICE }, { "guided_json", GRAMMAR_SCHEMA },
        { "guided_grammar", GRAMMAR_GBNF },  { "ebnf", GRAMMAR_GBNF },
        { "guided_regex", GRAMMAR_REGEX },   { "json_schema", GRAMMAR_SCHEMA },
        { "regex", GRAMMAR_REGEX },
    };
    static const struct field rules = { "grammar", GRAMMAR_GBNF };
    struct reader r = { .g = g, .e = e };
    json_t *structured = NULL;

    if (json_get_obj(j, "structured_outputs", &structured, "request", e) < 0 ||
        read_format(&r, j, "response_format") ||
        (json_is_object(json_object_get(j, "grammar")) ? read_format(&r, j, "grammar")
                                                       : read_fields(&r, j, &rules, 1)) ||
        read_fields(&r, j, fields, ARRAY_LEN(fields)) || read_outputs(&r, structured)) {
        grammar_unref(r.found);
        return -1;
    }
    *out = r.found;
    return 0;
}
