/* tests/text/pyjson.c - JSON as Python's json module writes and reads it. What is expected was
 * printed by CPython 3.11 (json.dumps, repr). */
#include "support.h"

#include <math.h>

#include "text/pyjson.h"

static struct buf out;

static const char *dumped(const json_t *v, unsigned flags, int indent)
{
    buf_clear(&out);
    pyjson_write(&out, v, flags, indent);
    return out.p;
}

/* Reads, writes and compares. */
static void round_trip(const char *in, const char *want, unsigned flags, int indent)
{
    struct err e;
    json_t *v;

    OK(pyjson_read(&v, in, strlen(in), 0, "test", &e), e);
    assert_string_equal(dumped(v, flags, indent), want);
    json_decref(v);
}

static void refused(const char *in, unsigned flags, const char *why)
{
    struct err e = { 0 };
    json_t *v = NULL;

    if (pyjson_read(&v, in, strlen(in), flags, "test", &e) == 0)
        fail_msg("%s was read", in);
    assert_null(v);
    if (!strstr(e.msg, why))
        fail_msg("%s: \"%s\", want \"%s\"", in, e.msg, why);
}

static void floats(void **state)
{
    static const struct {
        double x;
        const char *repr;
    } known[] = {
        { 0.1, "0.1" },
        { 0.0, "0.0" },
        { -0.0, "-0.0" },
        { 1.0, "1.0" },
        { -1.5, "-1.5" },
        { 100.0, "100.0" },
        { 1e15, "1000000000000000.0" },
        { 1e16, "1e+16" },
        { 1e22, "1e+22" },
        { 123456789012345680.0, "1.2345678901234568e+17" },
        { 0.0001, "0.0001" },
        { 0.00001, "1e-05" },
        { 1e-7, "1e-07" },
        { 1.5e300, "1.5e+300" },
        { 5e-324, "5e-324" },
        { 2.2250738585072014e-308, "2.2250738585072014e-308" },
        { 1.7976931348623157e308, "1.7976931348623157e+308" },
        { 0.30000000000000004, "0.30000000000000004" },
        { 3.141592653589793, "3.141592653589793" },
        { 9007199254740993.0, "9007199254740992.0" },
        { 123.456, "123.456" },
        /* below a power of two the numbers lie closer: the shortest text is not the nearest one of
         * its length */
        { 0x1p-24, "5.960464477539063e-08" },
        { 0x1p-44, "5.684341886080802e-14" },
        { 0x1p89, "6.189700196426902e+26" },
        { 0x1p-1017, "7.120236347223045e-307" },
        { 0x1p976, "6.386688990511104e+293" },
        { -0x1p122, "-5.316911983139664e+36" },
        { 0x1p-1074, "5e-324" },
        { 0x1p1023, "8.98846567431158e+307" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        buf_clear(&out);
        pyjson_float(&out, known[i].x);
        assert_string_equal(out.p, known[i].repr);
    }
    buf_clear(&out);
    pyjson_float(&out, (double)NAN);
    pyjson_float(&out, (double)INFINITY);
    pyjson_float(&out, -(double)INFINITY);
    assert_string_equal(out.p, "NaNInfinity-Infinity");
}

/* Whatever is printed reads back as the same number. */
static void floats_read_back(void **state)
{
    uint64_t bits = 88172645463325252u;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        double x, y;

        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        memcpy(&x, &bits, sizeof(x));
        if (!isfinite(x))
            continue;
        buf_clear(&out);
        pyjson_float(&out, x);
        y = strtod(out.p, NULL);
        assert_memory_equal(&x, &y, sizeof(x));
        assert_true(out.len <= 24);
    }
}

static void numbers(void **state)
{
    (void)state;
    round_trip("[0, -0, 7, -12]", "[0, 0, 7, -12]", 0, 0);
    round_trip("9223372036854775807", "9223372036854775807", 0, 0);
    round_trip("-9223372036854775808", "-9223372036854775808", 0, 0);
    round_trip("9223372036854775808", "9223372036854775808", 0, 0);
    round_trip("[123456789012345678901234567890]", "[123456789012345678901234567890]", 0, 0);
    round_trip("[1.0, 1e2, 1E-7, 0.10, 1e16]", "[1.0, 100.0, 1e-07, 0.1, 1e+16]", 0, 0);
    round_trip("[1E400, -1E400, NaN, Infinity, -Infinity]",
               "[Infinity, -Infinity, NaN, Infinity, -Infinity]", 0, 0);
    refused("[NaN]", PYJSON_FINITE, "finite");
    refused("1e999", PYJSON_FINITE, "finite");
    refused("-Infinity", PYJSON_FINITE, "finite");
    refused("01", 0, "leading zero");
    refused("-01", 0, "leading zero");
    refused("1.", 0, "more text");
    refused(".5", 0, "unexpected");
    refused("+1", 0, "unexpected");
    refused("1e", 0, "more text");
    refused("-", 0, "unexpected");
    refused("0x10", 0, "more text");
}

static void strings(void **state)
{
    json_t *v;

    (void)state;
    round_trip("\"\\u00e9\\n\\t\\\"\\\\\\/\\b\\f\\r\"", "\"\xC3\xA9\\n\\t\\\"\\\\/\\b\\f\\r\"", 0,
               0);
    round_trip("\"\\u0001\\u001f\\u007f\"", "\"\\u0001\\u001f\x7f\"", 0, 0);
    round_trip("\"\xC3\xA9 \xF0\x9F\xA6\x99 \\u007f\"", "\"\\u00e9 \\ud83e\\udd99 \\u007f\"",
               PYJSON_ASCII, 0);
    round_trip("\"\\ud83e\\udd99\"", "\"\xF0\x9F\xA6\x99\"", 0, 0);
    /* halves of a pair, alone or in the wrong order, stay what they are */
    round_trip("\"\\ud800\"", "\"\\ud800\"", 0, 0);
    round_trip("\"\\udc00\\ud800x\"", "\"\\udc00\\ud800x\"", 0, 0);
    round_trip("\"\\ud83e\\u0041\"", "\"\\ud83eA\"", PYJSON_ASCII, 0);
    round_trip("\"<b>&'\\\"\"", "\"\\u003cb\\u003e\\u0026\\u0027\\\"\"", PYJSON_HTML, 0);
    round_trip("{\"a\\u0000b\": \"\\u0000\"}", "{\"a\\u0000b\": \"\\u0000\"}", 0, 0);
    round_trip("\"\"", "\"\"", 0, 0);
    /* invalid UTF-8 in a text is replaced: it cannot pose as a kept number or a surrogate */
    round_trip("\"\xFF"
               "12\"",
               "\"\xEF\xBF\xBD"
               "12\"",
               0, 0);
    round_trip("\"\xED\xA0\x80\"", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"", 0, 0);
    refused("\"abc", 0, "unfinished");
    refused("\"abc\\", 0, "unfinished");
    refused("\"\\x41\"", 0, "escape");
    refused("\"\\u12g4\"", 0, "escape");
    refused("\"\\u12", 0, "escape");
    refused("\"a\nb\"", 0, "control character");
    refused("'a'", 0, "unexpected");

    struct err e;

    static const char mixed[] = "[\"x\", 99999999999999999999]";

    OK(pyjson_read(&v, mixed, strlen(mixed), 0, "test", &e), e);
    assert_true(pyjson_is_text(json_array_get(v, 0)));
    assert_false(pyjson_is_text(json_array_get(v, 1)));
    assert_false(pyjson_is_text(NULL));
    json_decref(v);
}

static void layout(void **state)
{
    static const char in[] = "{\"b\":[1,{\"y\":null,\"x\":[]}],\"a\":{},\"\":[true,false]}";

    (void)state;
    round_trip(in, "{\"b\": [1, {\"y\": null, \"x\": []}], \"a\": {}, \"\": [true, false]}", 0, 0);
    round_trip(in, "{\"\": [true, false], \"a\": {}, \"b\": [1, {\"x\": [], \"y\": null}]}",
               PYJSON_SORT, 0);
    round_trip(in,
               "{\n    \"b\": [\n        1,\n        {\n            \"y\": null,\n"
               "            \"x\": []\n        }\n    ],\n    \"a\": {},\n    \"\": [\n"
               "        true,\n        false\n    ]\n}",
               0, 4);
    round_trip("{\"b\": 1, \"a\": 2, \"b\": 3}", "{\"b\": 3, \"a\": 2}", 0, 0);
    refused("{\"a\": 1, \"a\": 2}", PYJSON_UNIQUE, "twice");
    round_trip(" \t\r\n[ 1 , 2 ] \n", "[1, 2]", 0, 0);
    refused("[1,]", 0, "unexpected");
    refused("{\"a\": 1,}", 0, "key");
    refused("{a: 1}", 0, "key");
    refused("{\"a\" 1}", 0, "colon");
    refused("[1 2]", 0, "comma");
    refused("[1", 0, "too early");
    refused("{", 0, "too early");
    refused("", 0, "too early");
    refused("[] []", 0, "more text");
    refused("tru", 0, "unexpected");
    refused("True", 0, "unexpected");
}

static void depth(void **state)
{
    char text[2 * PYJSON_DEPTH + 3];
    struct err e;
    json_t *v;

    (void)state;
    memset(text, '[', PYJSON_DEPTH);
    memset(text + PYJSON_DEPTH, ']', PYJSON_DEPTH);
    text[(size_t)2 * PYJSON_DEPTH] = 0;
    OK(pyjson_read(&v, text, (size_t)2 * PYJSON_DEPTH, 0, "test", &e), e);
    assert_string_equal(dumped(v, 0, 0), text);
    json_decref(v);
    memset(text, '[', PYJSON_DEPTH + 1);
    memset(text + PYJSON_DEPTH + 1, ']', PYJSON_DEPTH + 1);
    text[(size_t)2 * PYJSON_DEPTH + 2] = 0;
    refused(text, 0, "deep");
}

static void lenient_is(const char *in, const char *want)
{
    struct err e;
    json_t *v;

    OK(pyjson_read(&v, in, strlen(in), PYJSON_LENIENT, "test", &e), e);
    assert_string_equal(dumped(v, 0, 0), want);
    json_decref(v);
}

static void lenient(void **state)
{
    (void)state;
    lenient_is("{'a': True, \"b\": False, 'c': None,}", "{\"a\": true, \"b\": false, \"c\": null}");
    lenient_is("(1, +2, 'x',)", "[1, 2, \"x\"]");
    lenient_is("[\"a\nb\tc\"]", "[\"a\\nb\\tc\"]");
    lenient_is("'it\\'s \\x41 \\q \"q\"'", "\"it's A \\\\q \\\"q\\\"\"");
    lenient_is("'a\\\nb'", "\"ab\"");
    lenient_is("{}", "{}");
    refused("[1,,2]", PYJSON_LENIENT, "unexpected");
    refused("{'a': }", PYJSON_LENIENT, "unexpected");
    refused("(1]", PYJSON_LENIENT, "comma");
    refused("'\\", PYJSON_LENIENT, "unfinished");
    refused("{1: 2}", PYJSON_LENIENT, "key");
}

static void prefix(void **state)
{
    static const char text[] = "  {\"a\": [1]}; {\"b\": 2}";
    struct err e;
    size_t used;
    json_t *v;

    (void)state;
    OK(pyjson_read_prefix(&v, text, strlen(text), &used, 0, &e), e);
    assert_int_equal(used, 12);
    assert_string_equal(dumped(v, 0, 0), "{\"a\": [1]}");
    json_decref(v);
    assert_int_equal(pyjson_read_prefix(&v, "{\"a\"", 4, &used, 0, &e), -1);
}

/* A full buffer drops, and says so; it never grows past its limit. */
static void limit(void **state)
{
    static const char text[] = "[\"aaaaaaaaaaaaaaaaaaaa\"]";
    struct err e;
    struct buf small;
    json_t *v;

    (void)state;
    OK(pyjson_read(&v, text, strlen(text), 0, "test", &e), e);
    buf_init(&small, 8);
    pyjson_write(&small, v, 0, 0);
    assert_true(small.len <= 8);
    assert_int_equal(buf_check(&small, "text", &e), -1);
    buf_release(&small);
    json_decref(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats),  cmocka_unit_test(floats_read_back), cmocka_unit_test(numbers),
        cmocka_unit_test(strings), cmocka_unit_test(layout),           cmocka_unit_test(depth),
        cmocka_unit_test(lenient), cmocka_unit_test(prefix),           cmocka_unit_test(limit),
    };

    buf_init(&out, 1 << 20);
    const int rc = cmocka_run_group_tests_name(__FILE__, tests, NULL, NULL);
    buf_release(&out);
    return rc;
}
