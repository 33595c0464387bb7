/* Any bytes through the JSON door: what is accepted can be written and read again as the same
 * value, and no typed field leaves its bounds. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fields(const json_t *j)
{
    struct err e;
    const char *key, *s;
    json_t *v;
    int64_t n;
    double x;
    size_t len;
    bool b;

    json_object_foreach((json_t *)(uintptr_t)j, key, v)
    {
        if (json_get_int(j, key, -5, 5, &n, "fuzz", &e) > 0 && (n < -5 || n > 5))
            __builtin_trap();
        if (json_get_num(j, key, -5, 5, &x, "fuzz", &e) > 0 && !(x >= -5 && x <= 5))
            __builtin_trap();
        if (json_get_bool(j, key, &b, "fuzz", &e) > 0 && !json_is_boolean(v))
            __builtin_trap();
        if (json_get_str(j, key, &s, &len, "fuzz", &e) > 0 && len != json_string_length(v))
            __builtin_trap();
        if (json_get_obj(j, key, &v, "fuzz", &e) > 0 && !json_is_object(v))
            __builtin_trap();
        if (json_get_arr(j, key, &v, "fuzz", &e) > 0 && !json_is_array(v))
            __builtin_trap();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = { 0 };
    json_t *j, *again;
    char *text;

    if (json_parse(&j, (const char *)data, size, "fuzz", &e)) {
        if (!e.msg[0] || strchr(e.msg, '\n'))
            __builtin_trap();
        return 0;
    }
    text = json_dumps(j, JSON_ENCODE_ANY);
    if (!text || json_parse(&again, text, strlen(text), "again", &e) || !json_equal(j, again))
        __builtin_trap();
    if (json_is_object(j))
        fields(j);
    json_decref(again);
    json_decref(j);
    free(text);
    return 0;
}
