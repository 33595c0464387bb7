/* tests/text/toolencode.c - written calls against those of Meta's tool_utils.py. */
#include "support.h"

#include "base/file.h"
#include "base/json.h"
#include "text/toolencode.h"

static void every_line(void **state)
{
    FILE *f = fopen(data_path("golden/toolencode.jsonl"), "re");
    struct buf line, out;
    struct err e;
    size_t n = 0;

    (void)state;
    assert_non_null(f);
    buf_init(&line, 1 << 20);
    buf_init(&out, 1 << 20);
    for (; file_line(&line, f, &e) == 1; n++) {
        json_t *j;

        OK(json_parse(&j, line.p, line.len, "line", &e), e);
        const char *format = json_string_value(json_object_get(j, "format"));

        buf_clear(&out);
        tool_call_write(&out,
                        strcmp(format, "function_tag") == 0 ? TOOL_FORMAT_FUNCTION_TAG
                                                            : TOOL_FORMAT_PYTHON_LIST,
                        json_string_value(json_object_get(j, "name")),
                        json_object_get(j, "arguments"));
        assert_string_equal(out.p, json_string_value(json_object_get(j, "text")));
        json_decref(j);
    }
    assert_int_equal(n, 16);
    buf_release(&line);
    buf_release(&out);
    fclose(f);
}

static void json_form(void **state)
{
    json_t *args = json_pack("{s:s, s:f}", "city", "Köln", "x", 0.1);
    struct buf out;

    (void)state;
    buf_init(&out, 1 << 10);
    tool_call_write(&out, TOOL_FORMAT_JSON, "f", args);
    assert_string_equal(out.p, "{\"type\": \"function\", \"name\": \"f\", \"parameters\": "
                               "{\"city\": \"K\\u00f6ln\", \"x\": 0.1}}");
    buf_release(&out);
    json_decref(args);
}

TEST_MAIN(cmocka_unit_test(every_line), cmocka_unit_test(json_form))
