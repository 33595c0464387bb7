/* tests/text/toolencode.c - written calls against those of Meta's tool_utils.py. */
#include "support.h"

#include "text/toolencode.h"

static void every_line(void **state)
{
    struct rows r = rows_open(data_path("golden/toolencode.jsonl"));
    struct buf out;

    (void)state;
    buf_init(&out, 1 << 20);
    while (rows_next(&r)) {
        buf_clear(&out);
        tool_call_write(&out,
                        strcmp(str(r.row, "format"), "function_tag") == 0 ? TOOL_FORMAT_FUNCTION_TAG
                                                                          : TOOL_FORMAT_PYTHON_LIST,
                        str(r.row, "name"), json_object_get(r.row, "arguments"));
        assert_string_equal(out.p, str(r.row, "text"));
    }
    assert_int_equal(r.n, 16);
    buf_release(&out);
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
