/* Any bytes as a model's answer: whole, and cut where the first byte says; both must agree, and
 * arguments must be JSON objects.
 * seeds: tests/data/golden/toolcalls.jsonl */
#include <string.h>

#include "text/pyjson.h"
#include "text/toolcall.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(struct tool_answer *a, const struct tool_options *o, const char *s, size_t n,
                  size_t cut)
{
    tool_answer_init(a);
    const struct tool_events ev = tool_answer_events(a);
    struct tool_parser *p = tool_parser_new(o, &ev);

    tool_parser_markup(p, s, cut);
    tool_parser_markup(p, s + cut, n - cut);
    tool_parser_end(p, TOOL_END_OF_TURN);
    tool_parser_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tool_answer a, b;
    struct err e;

    if (size < 2)
        return 0;
    const struct tool_options o = { .any = (data[0] & 1) == 0,
                                    .code = data[0] & 2,
                                    .coerce = true };
    const char *s = (const char *)data + 1;
    const size_t n = size - 1, cut = (size_t)data[0] % n;

    parse(&a, &o, s, n, 0);
    parse(&b, &o, s, n, cut);
    if (a.content.len != b.content.len || memcmp(a.content.p, b.content.p, a.content.len) ||
        a.n != b.n)
        __builtin_trap();
    for (size_t i = 0; i < a.n; i++) {
        json_t *v;

        if (a.calls[i].args.len != b.calls[i].args.len ||
            memcmp(a.calls[i].args.p, b.calls[i].args.p, a.calls[i].args.len) ||
            pyjson_read(&v, a.calls[i].args.p, a.calls[i].args.len, 0, "args", &e) ||
            !json_is_object(v))
            __builtin_trap();
        json_decref(v);
    }
    tool_answer_release(&a);
    tool_answer_release(&b);
    return 0;
}
