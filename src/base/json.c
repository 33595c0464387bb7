#include "base/json.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"

int json_parse(json_t **out, const char *text, size_t n, const char *what, struct err *e)
{
    json_error_t je;
    json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &je);

    if (!j)
        return err_set(e, ERR_FORMAT, "%s: not valid JSON: %s (line %d, column %d)", what, je.text,
                       je.line, je.column);
    *out = j;
    return 0;
}

int json_parse_file(json_t **out, const char *path, size_t max, struct err *e)
{
    char *text;
    size_t n;

    if (file_read(&text, &n, path, max, e))
        return -1;
    const int rc = json_parse(out, text, n, path, e);
    free(text);
    return rc;
}

/* The field, or NULL when it is absent or null. */
static json_t *field(const json_t *obj, const char *key)
{
    json_t *v = json_object_get(obj, key);

    return json_is_null(v) ? NULL : v;
}

static int wrong(const char *what, const char *key, const char *want, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s: \"%s\" must be %s", what, key, want);
}

int json_get_int(const json_t *obj, const char *key, int64_t min, int64_t max, int64_t *out,
                 const char *what, struct err *e)
{
    const json_t *v = field(obj, key);

    if (!v)
        return 0;
    if (!json_is_integer(v))
        return wrong(what, key, "an integer", e);
    const int64_t n = json_integer_value(v);
    if (n < min || n > max)
        return err_set(e, ERR_FORMAT, "%s: \"%s\" is %lld, outside %lld..%lld", what, key,
                       (long long)n, (long long)min, (long long)max);
    *out = n;
    return 1;
}

int json_get_num(const json_t *obj, const char *key, double min, double max, double *out,
                 const char *what, struct err *e)
{
    const json_t *v = field(obj, key);

    if (!v)
        return 0;
    if (!json_is_number(v))
        return wrong(what, key, "a number", e);
    const double x = json_number_value(v);
    if (!(x >= min && x <= max)) /* catches NaN too */
        return err_set(e, ERR_FORMAT, "%s: \"%s\" is %g, outside %g..%g", what, key, x, min, max);
    *out = x;
    return 1;
}

int json_get_bool(const json_t *obj, const char *key, bool *out, const char *what, struct err *e)
{
    const json_t *v = field(obj, key);

    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return wrong(what, key, "true or false", e);
    *out = json_is_true(v);
    return 1;
}

int json_get_str(const json_t *obj, const char *key, const char **out, size_t *len,
                 const char *what, struct err *e)
{
    const json_t *v = field(obj, key);

    if (!v)
        return 0;
    if (!json_is_string(v))
        return wrong(what, key, "a string", e);
    *out = json_string_value(v);
    if (len)
        *len = json_string_length(v);
    return 1;
}

int json_get_obj(const json_t *obj, const char *key, json_t **out, const char *what, struct err *e)
{
    json_t *v = field(obj, key);

    if (!v)
        return 0;
    if (!json_is_object(v))
        return wrong(what, key, "an object", e);
    *out = v;
    return 1;
}

int json_get_arr(const json_t *obj, const char *key, json_t **out, const char *what, struct err *e)
{
    json_t *v = field(obj, key);

    if (!v)
        return 0;
    if (!json_is_array(v))
        return wrong(what, key, "an array", e);
    *out = v;
    return 1;
}
