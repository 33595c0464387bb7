/* Calls of tools as a grammar: forced ones, and any text until it opens a call. */
#include "accepts.h"

#include "grammar/read.h"
#include "text/pyjson.h"
#include "text/toolcall.h"

static const char two[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"get\", \"strict\": true, \"parameters\": "
    "{\"type\": \"object\", \"properties\": {\"unit\": {\"enum\": [\"C\", \"F\"]}}, \"required\": "
    "[\"unit\"], \"additionalProperties\": false}}}, {\"type\": \"function\", \"function\": "
    "{\"name\": \"get_all\"}}]";

static json_t *json(const char *s)
{
    struct err e;
    json_t *v;

    OK(pyjson_read(&v, s, strlen(s), 0, "test", &e), e);
    return v;
}

static struct states *compiled(bool free, bool parallel)
{
    struct exprs x;
    struct err e;
    json_t *v =
        json_pack("{s:o, s:b, s:b}", "tools", json(two), "parallel", parallel, "free", free);

    exprs_init(&x);
    OK(read_tools(&x, v, &e), e);
    json_decref(v);
    return states_of(&x);
}

static void is(struct states *s, const char *text, int want)
{
    const int got = matches(s, text);

    if (got != want)
        fail_msg("%s: %d, not %d", text, got, want);
}

#define C_CALL "{\"name\": \"get\", \"parameters\": {\"unit\": \"C\"}}"
#define ALL    "{\"name\": \"get_all\", \"parameters\": {}}"

static void forced(void **state)
{
    struct states *s = compiled(false, true);

    (void)state;
    is(s, C_CALL, 1);
    is(s, C_CALL "; " ALL, 1);
    is(s, "{\"type\": \"function\", \"name\": \"get\", \"parameters\": {\"unit\": \"F\"}}", 1);
    is(s, "{\"name\": \"get\", \"parameters\": {\"unit\": \"K", -1);
    is(s, "Well", -1);
    states_free(s);
}

static void free_text_until_a_call_opens(void **state)
{
    static const char *const texts[] = {
        "",
        "Well, {\"name\": \"Bob\"} it is { \"name\": \"get\" }",
        "{",
        "{{{\"name\": {\"na",
        "{\"name\": \"ge",
        "{\"name\": \"getter\", \"parameters\": 7}",
        "{\"type\": \"function\", \"function\": 5} \xF0\x9F\xA6\x99 \xff",
        "{\"{\"name\": \"nobody\"}",
        C_CALL,
        "It is {" C_CALL,
        "{\"name\":\"get\",\"arguments\":{\"unit\": \"F\"}}",
        "{\"type\": \"function\", \"name\": \"get\", \"parameters\": {\"unit\": \"F\"}}",
        "x\n\n" ALL,
        C_CALL "; " ALL,
    };
    static const char *const opened[] = {
        "{\"name\": \"get\"",
        "Let me see: {\"{\"name\": \"get\", \"parameters\": {\"unit\": \"C\"",
        "{\"name\":\"get_all\",\n  \"arguments\":",
        C_CALL "; ",
    };
    static const char *const never[] = {
        "{\"name\": \"get\"}",
        "{\"name\": \"get\", \"parameters\": {\"unit\": \"K\"",
        "so {{\"name\":\"get\",\"parameters\":{}",
        "{\"type\": \"function\", \"name\": \"get\", \"parameters\": 7",
        C_CALL " and more",
        "{\"name\": \"get_all\", \"parameters\": {\"a\"",
    };
    struct states *s = compiled(true, true), *one = compiled(true, false);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        is(s, texts[i], 1);
    for (size_t i = 0; i < ARRAY_LEN(opened); i++)
        is(s, opened[i], 0);
    for (size_t i = 0; i < ARRAY_LEN(never); i++)
        is(s, never[i], -1);
    is(one, C_CALL "; ", -1);
    states_free(s);
    states_free(one);
}

/* Whatever text the grammar lets pass: what a parser takes for a call of the strict tool has
 * arguments of its schema. */
static void no_call_slips_by(void **state)
{
    static const char *const parts[] = {
        "{",
        "}",
        "\"",
        "[",
        "]",
        ", ",
        ";",
        "; ",
        "\n",
        "```json\n",
        "```",
        "<function=get>",
        "</function>",
        "get",
        "get.call(query=\"x\")",
        "[get(unit=\"K\")]",
        "{\"name\": \"get\"",
        "{\"name\":\"get\"",
        "{ \"name\": \"get\"",
        "{\"type\": \"function\", \"name\": ",
        "\"get\"",
        ", \"parameters\": ",
        ",\"arguments\":",
        "{\"unit\": \"C\"}",
        "{\"unit\": \"K\"}",
        "{\"function\": ",
        "\"parameters\": {\"unit\": 1}, ",
        "{\"name\": \"g\\u0065t\"",
        C_CALL,
        ALL,
        " and ",
        "<|python_tag|>",
    };
    struct states *s = compiled(true, true);
    json_t *tools = json(two);
    const struct tool_options o = { .tools = tools, .exact = true, .coerce = true };
    unsigned r = 1, passed = 0, calls = 0;

    (void)state;
    for (int i = 0; i < 60000; i++) {
        struct buf text, bytes; /* with and without control tokens */
        struct tool_answer a;

        buf_init(&text, 1 << 10);
        buf_init(&bytes, 1 << 10);
        buf_adds(&text, "");
        buf_adds(&bytes, "");
        for (int k = 0; k < 1 + i % 6; k++) {
            const char *part = parts[(r = r * 1664525u + 1013904223u) / 65536 % ARRAY_LEN(parts)];
            const bool control = strncmp(part, "<|", 2) == 0;

            /* it may come where the text may end */
            if (control && matches(s, bytes.p) != 1)
                continue;
            buf_adds(&text, part);
            buf_adds(&bytes, control ? "" : part);
        }
        const bool passes = matches(s, bytes.p) == 1;

        buf_release(&bytes);
        if (!passes) {
            buf_release(&text);
            continue;
        }
        passed++;
        tool_answer_init(&a);
        const struct tool_events ev = tool_answer_events(&a);
        struct tool_parser *p = tool_parser_new(&o, &ev);

        tool_parser_markup(p, text.p, text.len);
        tool_parser_end(p, TOOL_END_OF_TURN);
        tool_parser_free(p);
        for (size_t k = 0; k < a.n; k++) {
            calls++;
            if (!strcmp(a.calls[k].name, "get") && strcmp(a.calls[k].args.p, "{\"unit\": \"C\"}"))
                fail_msg("%s: get called with %s", text.p, a.calls[k].args.p);
        }
        tool_answer_release(&a);
        buf_release(&text);
    }
    assert_true(passed > 5000 && calls > 1000);
    json_decref(tools);
    states_free(s);
}

TEST_MAIN(cmocka_unit_test(forced), cmocka_unit_test(free_text_until_a_call_opens),
          cmocka_unit_test(no_call_slips_by))
