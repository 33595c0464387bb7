/* Any bytes as an object that is walked in place: on a text that the JSON door accepts, the walk
 * finds the same fields. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/jscan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void compare(const json_t *j, const struct jfield *f)
{
    struct err e;
    json_t *have = json_object_get(j, f->name), *v;

    if (!have != !f->value.p)
        __builtin_trap();
    if (!have)
        return;
    if (json_parse(&v, f->value.p, f->value.n, "field", &e) || !json_equal(v, have))
        __builtin_trap();
    json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct jfield fields[] = { { .name = "model" }, { .name = "a" }, { .name = "vocab" } };
    struct jscan s = { .p = text, .end = text + size, .start = text };
    struct jslice slice;
    struct err e = { 0 };
    char out[64];
    size_t len;
    int32_t n;
    json_t *j;
    const int walked = js_fields(&s, fields, ARRAY_LEN(fields), &e);

    if (json_parse(&j, text, size, "fuzz", &e) == 0) {
        if (json_is_object(j) && walked)
            __builtin_trap();
        for (size_t i = 0; walked == 0 && i < ARRAY_LEN(fields); i++)
            compare(j, &fields[i]);
        json_decref(j);
    }
    s = (struct jscan){ .p = text, .end = text + size, .start = text };
    if (js_string(&s, out, sizeof(out), &len, &e) == 0 && len > sizeof(out))
        __builtin_trap();
    s = (struct jscan){ .p = text, .end = text + size, .start = text };
    if (js_int(&s, 1000, &n, &e) == 0 && (n < 0 || n > 1000))
        __builtin_trap();
    s = (struct jscan){ .p = text, .end = text + size, .start = text };
    if (js_skip(&s, &slice, &e) == 0 && slice.n > size)
        __builtin_trap();
    return 0;
}
