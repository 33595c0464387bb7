/* Any bytes as JSON, strict and lenient: what is read can be written, and reading that again and
 * writing it gives the same text.
 * seeds: tests/data/golden/prompts.jsonl tests/data/tiny-llama31/config.json */
#include <stdlib.h>
#include <string.h>

#include "text/pyjson.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const json_t *v, unsigned flags, int indent)
{
    struct err e = { 0 };
    struct buf a, b;
    json_t *again;

    buf_init(&a, (size_t)1 << 26);
    buf_init(&b, (size_t)1 << 26);
    pyjson_write(&a, v, flags, indent);
    if (!a.full) {
        if (pyjson_read(&again, a.p, a.len, PYJSON_UNIQUE, "fuzz", &e))
            __builtin_trap();
        pyjson_write(&b, again, flags, indent);
        if (a.len != b.len || memcmp(a.p, b.p, a.len) != 0)
            __builtin_trap();
        json_decref(again);
    }
    buf_release(&a);
    buf_release(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct err e = { 0 };
    size_t used;
    json_t *v;

    if (size > 1 << 16)
        return 0;
    if (pyjson_read(&v, text, size, 0, "fuzz", &e) == 0) {
        check(v, 0, 0);
        check(v, PYJSON_ASCII | PYJSON_SORT | PYJSON_HTML, 2);
        json_decref(v);
    }
    if (pyjson_read_prefix(&v, text, size, &used, PYJSON_LENIENT, &e) == 0) {
        if (used > size)
            __builtin_trap();
        check(v, PYJSON_ASCII, 0);
        json_decref(v);
    }
    return 0;
}
