/* tests/text/toolcall.c - every recorded answer (tests/data/golden/toolcalls.jsonl), whole and cut
 * in every way; what the goldens do not hold: schemas, tools that are not declared, early events.
 */
#include "support.h"

#include "base/mem.h"
#include "text/pyjson.h"
#include "text/toolcall.h"

static const struct tool_options any = { .any = true, .code = true, .coerce = true, .seed = 7 };

static struct tok *meta;

static int open_meta(void **state)
{
    struct err e;

    (void)state;
    return tok_open(&meta, meta_tokenizer_path(), &e);
}

static int close_meta(void **state)
{
    (void)state;
    tok_free(meta);
    return 0;
}

static json_t *read_json(const char *s)
{
    struct err e;
    json_t *v;

    OK(pyjson_read(&v, s, strlen(s), 0, "test", &e), e);
    return v;
}

/* Parses text[0..n) in three feeds, cut at a and b. */
static void parse_cut(struct tool_answer *a, const struct tool_options *o, const char *text,
                      size_t n, size_t c1, size_t c2, enum tool_stop stop)
{
    tool_answer_init(a);
    const struct tool_events ev = tool_answer_events(a);
    struct tool_parser *p = tool_parser_new(o, &ev);

    tool_parser_markup(p, text, c1);
    tool_parser_markup(p, text + c1, c2 - c1);
    tool_parser_markup(p, text + c2, n - c2);
    tool_parser_end(p, stop);
    tool_parser_free(p);
}

static void parse(struct tool_answer *a, const struct tool_options *o, const char *text)
{
    const size_t n = strlen(text);

    parse_cut(a, o, text, n, n, n, TOOL_END_OF_TURN);
}

static void assert_same(const struct tool_answer *a, const struct tool_answer *b, const char *text)
{
    bool same = a->content.len == b->content.len &&
                memcmp(a->content.p, b->content.p, a->content.len) == 0 && a->n == b->n &&
                a->stop == b->stop;

    for (size_t i = 0; i < a->n && same; i++)
        same = strcmp(a->calls[i].name, b->calls[i].name) == 0 &&
               strcmp(a->calls[i].id, b->calls[i].id) == 0 &&
               strcmp(a->calls[i].args.p, b->calls[i].args.p) == 0;
    if (!same)
        fail_msg("%s\n  content \"%s\" and \"%s\", %zu and %zu calls, args %s and %s", text,
                 a->content.p, b->content.p, a->n, b->n, a->n ? a->calls[0].args.p : "",
                 b->n ? b->calls[0].args.p : "");
}

static void assert_is(const struct tool_answer *a, const json_t *want, const char *text)
{
    const json_t *calls = json_object_get(want, "tool_calls");

    if (strcmp(a->content.p, json_string_value(json_object_get(want, "content"))) != 0 ||
        strcmp(tool_stop_name(a->stop), json_string_value(json_object_get(want, "stop_reason"))) ||
        a->n != json_array_size(calls))
        fail_msg("%s: content \"%s\", %zu calls, %s", text, a->content.p, a->n,
                 tool_stop_name(a->stop));
    for (size_t i = 0; i < a->n; i++) {
        const json_t *call = json_array_get(calls, i);
        json_t *args = read_json(a->calls[i].args.p);

        assert_string_equal(a->calls[i].name, json_string_value(json_object_get(call, "name")));
        if (!json_equal(args, json_object_get(call, "arguments")))
            fail_msg("%s: arguments %s", text, a->calls[i].args.p);
        json_decref(args);
    }
}

/* Control names become tokens, except where a string of the call holds one. */
static void encode(struct ids *ids, const char *text)
{
    const char *last = strstr(text, "; <|eot_id|>\\\"") ? strrchr(text, '}') + 1 : NULL;
    struct err e;

    if (!last)
        last = strstr(text, "; <|eot_id|>") ? strrchr(text, '}') + 1 : NULL;
    if (!last) {
        OK(tok_encode(meta, text, strlen(text), TOK_ALLOW_SPECIAL, ids, &e), e);
        return;
    }
    if (strncmp(text, "<|python_tag|>", 14) == 0) {
        ids_add(ids, tok_id(meta, "<|python_tag|>"));
        text += 14;
    }
    OK(tok_encode(meta, text, (size_t)(last - text), TOK_PLAIN, ids, &e), e);
    OK(tok_encode(meta, last, strlen(last), TOK_ALLOW_SPECIAL, ids, &e), e);
}

static void by_tokens(const struct tool_answer *whole, const char *text, enum tool_stop stop)
{
    struct tool_answer a;
    struct ids ids = { 0 };

    tool_answer_init(&a);
    const struct tool_events ev = tool_answer_events(&a);
    struct tool_parser *p = tool_parser_new(&any, &ev);

    encode(&ids, text);
    for (size_t i = 0; i < ids.n; i++)
        tool_parser_token(p, meta, ids.p[i]);
    tool_parser_end(p, stop);
    assert_same(&a, whole, text);
    tool_parser_free(p);
    tool_answer_release(&a);
    ids_release(&ids);
}

static void by_bytes(const struct tool_answer *whole, const char *text, enum tool_stop stop)
{
    struct tool_answer a;

    tool_answer_init(&a);
    const struct tool_events ev = tool_answer_events(&a);
    struct tool_parser *p = tool_parser_new(&any, &ev);

    for (size_t i = 0; text[i]; i++)
        tool_parser_markup(p, text + i, 1);
    tool_parser_end(p, stop);
    assert_same(&a, whole, text);
    tool_parser_free(p);
    tool_answer_release(&a);
}

static void golden_line(const json_t *j)
{
    const char *text = json_string_value(json_object_get(j, "text"));
    const enum tool_stop stop =
        strcmp(json_string_value(json_object_get(j, "stop_reason_in")), "out_of_tokens") == 0
            ? TOOL_OUT_OF_TOKENS
            : TOOL_END_OF_TURN;
    const json_t *want = json_object_get(j, "want");
    const size_t n = strlen(text);
    struct tool_answer whole, a;

    parse_cut(&whole, &any, text, n, n, n, stop);
    if (!want)
        want = json_object_get(j, "meta");
    if (want)
        assert_is(&whole, want, text);
    for (size_t cut = 0; cut <= n; cut++) {
        parse_cut(&a, &any, text, n, cut, cut, stop);
        assert_same(&a, &whole, text);
        tool_answer_release(&a);
    }
    by_bytes(&whole, text, stop);
    by_tokens(&whole, text, stop);
    tool_answer_release(&whole);
}

static void goldens(void **state)
{
    struct rows r = rows_open(data_path("golden/toolcalls.jsonl"));

    (void)state;
    while (rows_next(&r))
        golden_line(r.row);
    assert_int_equal(r.n, 120);
}

/* TEXT gives content C and the calls of a JSON list [[name, arguments], ...]. */
static void expect(const struct tool_options *o, const char *text, const char *content,
                   const char *calls)
{
    json_t *want = read_json(calls);
    const size_t n = strlen(text);
    struct tool_answer a, b;

    parse(&a, o, text);
    if (strcmp(a.content.p, content) != 0 || a.n != json_array_size(want))
        fail_msg("%s: content \"%s\", %zu calls", text, a.content.p, a.n);
    for (size_t i = 0; i < a.n; i++) {
        const json_t *one = json_array_get(want, i);
        json_t *args = read_json(a.calls[i].args.p);

        assert_string_equal(a.calls[i].name, json_string_value(json_array_get(one, 0)));
        if (!json_equal(args, json_array_get(one, 1)))
            fail_msg("%s: arguments %s", text, a.calls[i].args.p);
        json_decref(args);
    }
    for (size_t cut = 0; cut <= n; cut++) {
        parse_cut(&b, o, text, n, cut, cut, TOOL_END_OF_TURN);
        assert_same(&b, &a, text);
        tool_answer_release(&b);
    }
    tool_answer_release(&a);
    json_decref(want);
}

static void more_forms(void **state)
{
    (void)state;
    expect(&any, "[{\"name\":\"f\",\"parameters\":{}}, {\"name\":\"g\",\"arguments\":{\"a\":[]}}]",
           "", "[[\"f\",{}],[\"g\",{\"a\":[]}]]");
    expect(&any, "{\"parameters\": {\"a\": 1}, \"name\": \"f\"}", "", "[[\"f\",{\"a\":1}]]");
    expect(&any, "{\"name\": \"f\", \"parameters\": \"{\\\"a\\\": 1}\"}", "",
           "[[\"f\",{\"a\":1}]]");
    expect(&any, "{'name': 'f', 'parameters': {'a': True, 'b': None, 'c': (1, 2)}}", "",
           "[[\"f\",{\"a\":true,\"b\":null,\"c\":[1,2]}]]");
    expect(&any, "{\"name\": \"f\", \"parameters\": {\"a\": \"\\ud83e\\udd99 \\ud800\"}}", "",
           "[[\"f\",{\"a\":\"🦙 \xEF\xBF\xBD\"}]]");
    expect(&any, "{\"name\": \"f\", \"parameters\": {\"a\": 1}} and so on", " and so on",
           "[[\"f\",{\"a\":1}]]");
    expect(&any, "Look:\n```json\n{\"name\": \"f\", \"parameters\": {}}\n```\nDone.",
           "Look:\n\nDone.", "[[\"f\",{}]]");
    expect(&any, "[f(a=1), g(b='x')]", "", "[[\"f\",{\"a\":1}],[\"g\",{\"b\":\"x\"}]]");
    expect(&any, "int main() { return `x`[0] < 1; }", "int main() { return `x`[0] < 1; }", "[]");
    expect(&any, "{{\"name\": \"f\", \"parameters\": {}}", "{", "[[\"f\",{}]]");
    expect(&any, "{\"name\": \"f\", \"parameters\": {\"a\": oops}}",
           "{\"name\": \"f\", \"parameters\": {\"a\": oops}}", "[]");
    expect(&any, "<|python_tag|>brave_search.call(query=\"say \"hi\" now\")<|eom_id|>", "",
           "[[\"brave_search\",{\"query\":\"say \\\"hi\\\" now\"}]]");
    expect(&any, "<|python_tag|>brave_search.call(query=\"a\")\nprint(1)<|eom_id|>", "",
           "[[\"code_interpreter\",{\"code\":\"brave_search.call(query=\\\"a\\\")\\nprint(1)\"}]]");
    expect(&any, "<|python_tag|>{x: y for x, y in z}<|eom_id|>", "",
           "[[\"code_interpreter\",{\"code\":\"{x: y for x, y in z}\"}]]");
    expect(&any, "I compute. <|python_tag|>print(\"ä\")<|eom_id|>", "I compute. ",
           "[[\"code_interpreter\",{\"code\":\"print(\\\"ä\\\")\"}]]");
}

static void declared_only(void **state)
{
    json_t *tools =
        read_json("[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{"
                  "\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\"},"
                  "\"s\":{\"type\":\"string\"},\"l\":{\"type\":\"array\"},"
                  "\"b\":{\"type\":[\"boolean\",\"null\"]}}}}}]");
    const struct tool_options o = { .tools = tools, .coerce = true, .seed = 1 };
    const struct tool_options as_is = { .tools = tools, .seed = 1 };
    const struct tool_options none = { .seed = 1 };

    (void)state;
    expect(&o, "{\"name\": \"g\", \"parameters\": {}}", "{\"name\": \"g\", \"parameters\": {}}",
           "[]");
    expect(&none, "{\"name\": \"f\", \"parameters\": {}}", "{\"name\": \"f\", \"parameters\": {}}",
           "[]");
    expect(&none, "<|python_tag|>print(1)<|eom_id|>", "print(1)", "[]");
    expect(&o,
           "{\"name\": \"f\", \"parameters\": {\"n\": \"10\", \"s\": 5, \"l\": \"[1]\", \"b\": "
           "\"true\"}}",
           "", "[[\"f\",{\"n\":10,\"s\":\"5\",\"l\":[1],\"b\":true}]]");
    expect(&o, "<function=f>{\"n\": 3.0, \"s\": \"10\", \"b\": null, \"x\": \"1\"}</function>", "",
           "[[\"f\",{\"n\":3,\"s\":\"10\",\"b\":null,\"x\":\"1\"}]]");
    expect(&o, "[f(n=\"7\")]", "", "[[\"f\",{\"n\":7}]]");
    expect(&o, "{\"name\": \"f\", \"parameters\": {\"n\": \"ten\"}}", "",
           "[[\"f\",{\"n\":\"ten\"}]]");
    expect(&as_is, "{\"name\": \"f\", \"parameters\": {\"n\": \"10\"}}", "",
           "[[\"f\",{\"n\":\"10\"}]]");
    json_decref(tools);
}

/* ---- what has been said after each byte ---- */

struct log {
    struct buf b;
};

static void log_content(void *arg, const char *p, size_t n)
{
    struct log *l = arg;

    buf_addc(&l->b, 'c');
    buf_add(&l->b, p, n);
}

static void log_begin(void *arg, size_t index, const char *id, const char *name)
{
    struct log *l = arg;

    assert_int_equal(strlen(id), 29);
    assert_memory_equal(id, "call_", 5);
    buf_addf(&l->b, "<%zu %s>", index, name);
}

static void log_args(void *arg, size_t index, const char *p, size_t n)
{
    struct log *l = arg;

    (void)index;
    buf_add(&l->b, p, n);
}

static void log_cancel(void *arg, size_t index)
{
    struct log *l = arg;

    buf_addf(&l->b, "<cancel %zu>", index);
}

static void said(const struct tool_options *o, const char *text, const char *want)
{
    struct log l;
    const struct tool_events ev = {
        .arg = &l,
        .content = log_content,
        .call_begin = log_begin,
        .call_args = log_args,
        .call_cancel = log_cancel,
    };
    struct tool_parser *p = tool_parser_new(o, &ev);

    buf_init(&l.b, 1 << 16);
    tool_parser_text(p, text, strlen(text));
    assert_string_equal(l.b.p, want);
    buf_release(&l.b);
    tool_parser_free(p);
}

static void early(void **state)
{
    (void)state;
    said(&any, "Hello wor", "cHello wor");
    said(&any, "Sure! {\"na", "cSure! ");
    said(&any, "{\"name\": \"f\"", "");
    said(&any, "{\"name\": \"f\", \"parameters\": {\"a\": \"xy", "<0 f>{\"a\": \"xy");
    said(&any, "<function=f>{\"a\":12", "<0 f>{\"a\": ");
    said(&any, "{\"name\": \"f\", \"parameters\": {\"a\": x",
         "<0 f><cancel 0>"
         "c{\"name\": \"f\", \"parameters\": {\"a\": x");
    said(&any, "f < g", "cf < g");
    said(&any, "f <fun", "cf ");
    said(&any, "   ", "");
}

static void finish(void **state)
{
    (void)state;
    assert_string_equal(tool_finish_reason(TOOL_END_OF_TURN, 0), "stop");
    assert_string_equal(tool_finish_reason(TOOL_END_OF_MESSAGE, 0), "stop");
    assert_string_equal(tool_finish_reason(TOOL_OUT_OF_TOKENS, 0), "length");
    assert_string_equal(tool_finish_reason(TOOL_END_OF_TURN, 1), "tool_calls");
}

/* A long answer costs time in its length only, and a deep one is refused. */
static void large(void **state)
{
    const size_t n = 1 << 20;
    char *s = xmalloc(n + 1);
    struct tool_answer a;

    (void)state;
    for (const char *c = "{[<`( \"'"; *c; c++) {
        memset(s, *c, n);
        s[n] = 0;
        parse(&a, &any, s);
        assert_int_equal(a.n, 0);
        assert_int_equal(a.content.len, n);
        tool_answer_release(&a);
    }
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goldens), cmocka_unit_test(more_forms), cmocka_unit_test(declared_only),
        cmocka_unit_test(early),   cmocka_unit_test(finish),     cmocka_unit_test(large),
    };

    return cmocka_run_group_tests_name(__FILE__, tests, open_meta, close_meta);
}
