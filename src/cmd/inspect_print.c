/* inspect_print.c - the report as tables for a person. */
#include "cmd/inspect_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Text from a file, unable to steer the terminal. */
static void print_clean(const char *s, int width)
{
    int n = 0;

    for (; *s; s++) {
        putchar((unsigned char)*s < ' ' || *s == 0x7F ? '?' : *s);
        n += (*s & 0xC0) != 0x80; /* a character, not a byte */
    }
    printf("%*s", n < width ? width - n : 0, "");
}

static void print_value(const json_t *v)
{
    if (json_is_string(v)) {
        print_clean(json_string_value(v), 0);
    } else if (json_is_array(v) || json_is_object(v)) {
        char *s = json_dumps(v, JSON_REAL_PRECISION(9));

        print_clean(s ? s : "", 0);
        free(s);
    } else if (json_is_real(v)) {
        printf("%.9g", json_real_value(v));
    } else if (json_is_integer(v)) {
        printf("%" JSON_INTEGER_FORMAT, json_integer_value(v));
    } else {
        fputs(json_is_true(v) ? "true" : "false", stdout);
    }
}

static int longest_key(const json_t *o)
{
    const char *key;
    json_t *v;
    size_t n = 0;

    json_object_foreach((json_t *)(uintptr_t)o, key, v) n = strlen(key) > n ? strlen(key) : n;
    return n < 48 ? (int)n : 48;
}

static void print_object(const char *title, const json_t *o)
{
    const int width = longest_key(o);
    const char *key;
    json_t *v;

    printf("\n%s\n", title);
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        fputs("  ", stdout);
        print_clean(key, width + 2);
        print_value(v);
        putchar('\n');
    }
}

static void shape_text(char out[160], const json_t *shape)
{
    size_t at = 0;

    snprintf(out, 160, "scalar");
    for (size_t i = 0; i < json_array_size(shape) && at < 140; i++)
        at += (size_t)snprintf(out + at, 160 - at, i ? " x %lld" : "%lld",
                               (long long)json_integer_value(json_array_get(shape, i)));
}

static void print_tensors(const json_t *list)
{
    int width = 6;
    size_t i;
    json_t *t;
    char shape[160];

    json_array_foreach(list, i, t)
    {
        const int n = (int)json_string_length(json_object_get(t, "name"));

        width = n > width && n <= 64 ? n : width;
    }
    printf("\n  %-*s  %-8s  %-20s  %14s\n", width, "TENSOR", "ENCODING", "SHAPE", "BYTES");
    json_array_foreach(list, i, t)
    {
        shape_text(shape, json_object_get(t, "shape"));
        fputs("  ", stdout);
        print_clean(json_string_value(json_object_get(t, "name")), width + 2);
        printf("%-8s  %-20s  %14" JSON_INTEGER_FORMAT "\n",
               json_string_value(json_object_get(t, "encoding")), shape,
               json_integer_value(json_object_get(t, "bytes")));
    }
}

static void print_encodings(const json_t *list)
{
    size_t i;
    json_t *j;

    printf("\n  ENCODING  MATRICES          VALUES           BYTES  DETAIL\n");
    json_array_foreach(list, i, j)
        printf("  %-8s  %8" JSON_INTEGER_FORMAT "  %14" JSON_INTEGER_FORMAT
               "  %14" JSON_INTEGER_FORMAT "%s%s\n",
               json_string_value(json_object_get(j, "encoding")),
               json_integer_value(json_object_get(j, "matrices")),
               json_integer_value(json_object_get(j, "values")),
               json_integer_value(json_object_get(j, "bytes")),
               *json_string_value(json_object_get(j, "detail")) ? "  " : "",
               json_string_value(json_object_get(j, "detail")));
}

void report_print(const json_t *top)
{
    static const char *const part[] = { "adapter", "hparams", "generation", "tokenizer",
                                        "metadata" };
    const json_t *totals = json_object_get(top, "totals");
    const char *container = json_string_value(json_object_get(top, "container"));

    print_clean(json_string_value(json_object_get(top, "path")), 0);
    printf(": %s%s%s\n", json_string_value(json_object_get(top, "kind")), container ? ", " : "",
           container ? container : "");
    for (size_t i = 0; i < ARRAY_LEN(part); i++)
        if (json_object_get(top, part[i]))
            print_object(part[i], json_object_get(top, part[i]));
    if (json_object_get(top, "tensors"))
        print_tensors(json_object_get(top, "tensors"));
    if (json_object_get(top, "encodings"))
        print_encodings(json_object_get(top, "encodings"));
    if (totals)
        printf("\n  %lld tensors, %lld values, %lld bytes\n",
               (long long)json_integer_value(json_object_get(totals, "tensors")),
               (long long)json_integer_value(json_object_get(totals, "values")),
               (long long)json_integer_value(json_object_get(totals, "bytes")));
}
