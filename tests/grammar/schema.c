/* JSON schemas: documents they take and refuse, bounds against arithmetic, and hostile ones. */
#include "accepts.h"

#include <math.h>

#include "base/json.h"
#include "grammar/read.h"

static struct states *compiled(const char *schema)
{
    struct exprs x;
    struct err e;
    json_t *v;

    OK(json_parse(&v, schema, strlen(schema), "schema", &e), e);
    exprs_init(&x);
    if (read_schema(&x, v, &e))
        fail_msg("%s: %s", schema, e.msg);
    json_decref(v);
    return states_of(&x);
}

static void takes_what_is_valid(void **state)
{
    /* long: a table */
    static const struct {
        const char *schema, *yes[8], *no[8];
    } t[] = {
        { "{}", { "1", "\"x\"", "[null, {\"a\":true}]", "-0.5e-3" }, { "", "01", "[1,]", "tru" } },
        { "true", { "{}" }, { "" } },
        { "{\"type\":\"string\"}",
          { "\"\"", "\"a\\n\\u00e9\xc3\xa9\"", "\"\\ud83e\\udd99\"" },
          { "\"\n\"", "\"\\ud83e\"", "\"\\x\"", "\"a", "1", "\"\\udd99\"" } },
        { "{\"type\":[\"integer\",\"null\"]}", { "null", "-12", "0" }, { "1.5", "-0", "\"\"" } },
        { "{\"enum\":[\"a\\\"b\",1,null,[1,{\"k\":0.1}]]}",
          { "\"a\\\"b\"", "1", "null", "[1, {\"k\":0.1}]" },
          { "2", "\"a\"" } },
        { "{\"type\":\"string\",\"enum\":[\"a\",1]}", { "\"a\"" }, { "1" } },
        { "{\"const\":{\"a\":[true]}}", { "{\"a\":[true]}", "{\"a\": [true]}" }, { "{}" } },
        { "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"boolean\"},"
          "\"b\":{\"type\":\"null\"},\"c\":{\"const\":1}},\"required\":[\"b\"]}",
          { "{\"b\":null}", "{\"a\":true,\"b\":null}", "{\"b\":null, \"c\":1}",
            "{\n  \"a\": false,\n  \"b\": null,\n  \"c\": 1\n}" },
          { "{}", "{\"a\":true}", "{\"b\":null,\"a\":true}", "{\"b\":null,}", "{,\"b\":null}",
            "{\"b\":null,\"d\":1}", "{\"a\":1,\"b\":null}" } },
        { "{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}},\"additionalProperties\":false}",
          { "{}", "{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":2}" },
          { "{\"c\":1}", "{\"a\":1,}", "{\"a\":1,\"a\":1}" } },
        { "{\"type\":\"object\",\"properties\":{\"ab\":{\"const\":1},\"abc\":{\"const\":1},"
          "\"\xc3\xa9\":{\"const\":1}},\"required\":[\"ab\"],"
          "\"additionalProperties\":{\"type\":\"boolean\"}}",
          { "{\"ab\":1}", "{\"ab\":1,\"a\":true,\"abcd\":false,\"\xc3\xa8\":true,\"x\":true}",
            "{\"ab\":1,\"abc\":1,\"\xc3\xa9\":1,\"\":true}" },
          { "{\"ab\":1,\"ab\":true}", "{\"ab\":1,\"abc\":true}", "{\"ab\":1,\"\xc3\xa9\":true}",
            "{\"ab\":1,\"x\":1}", "{\"ab\":1,\"\\u0061b\":true}" } },
        { "{\"type\":\"object\"}", { "{}", "{\"a\": {\"b\": []}}" }, { "[]", "{1:2}" } },
        { "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"},"
          "\"minProperties\":1,\"maxProperties\":2}",
          { "{\"a\":1}", "{\"a\":1,\"b\":2}" },
          { "{}", "{\"a\":1,\"b\":2,\"c\":3}", "{\"a\":\"x\"}" } },
        { "{\"required\":[\"z\"]}", { "{\"z\":[1]}" }, { "{}", "{\"y\":1}" } },
        { "{\"patternProperties\":{\"^x-\":{\"type\":\"integer\"},\"b$\":{\"type\":\"null\"}}}",
          { "{}", "{\"x-a\":1,\"ab\":null}" },
          { "{\"a\":1}", "{\"x-\":null}" } },
        { "{\"propertyNames\":{\"enum\":[\"a\",\"b\"]},\"additionalProperties\":{\"const\":0}}",
          { "{\"a\":0}", "{\"b\":0,\"a\":0}" },
          { "{\"c\":0}" } },
        { "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}",
          { "[1]", "[1,2, 3]", "[\n  1,\n  2\n]" },
          { "[]", "[1,2,3,4]", "[\"a\"]", "[1,]", "[ \n1]" } },
        { "{\"type\":\"array\",\"maxItems\":0}", { "[]", "[ ]" }, { "[1]" } },
        { "{\"prefixItems\":[{\"const\":1},{\"const\":\"b\"}]}", { "[1,\"b\"]" }, { "[1]" } },
        { "{\"prefixItems\":[{\"const\":1}],\"items\":{\"type\":\"null\"},\"minItems\":2}",
          { "[1,null]", "[1,null,null]" },
          { "[1]", "[null]" } },
        { "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":2}]}",
          { "5", "\"ab\"", "\"\\u00e9\xf0\x9f\xa6\x99\"" },
          { "\"abc\"", "null" } },
        { "{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1}},"
          "\"oneOf\":[{\"required\":[\"a\"]},{\"properties\":{\"b\":{\"const\":2}},"
          "\"required\":[\"b\"]}]}",
          { "{\"a\":1}", "{\"b\":2}", "{\"a\":1,\"b\":2}" },
          { "{}", "{\"b\":1}" } },
        { "{\"allOf\":[{\"$ref\":\"#/$defs/a\"},{\"properties\":{\"y\":{\"const\":2}},"
          "\"required\":[\"y\"]}],\"$defs\":{\"a\":{\"type\":\"object\","
          "\"properties\":{\"x\":{\"const\":1}},\"required\":[\"x\"]}}}",
          { "{\"x\":1,\"y\":2}" },
          { "{\"x\":1}", "{\"y\":2}" } },
        { "{\"allOf\":[{\"type\":[\"number\",\"null\"],\"minimum\":2},"
          "{\"type\":\"integer\",\"maximum\":4}]}",
          { "2", "3", "4" },
          { "1", "5", "null", "2.5" } },
        { "{\"$ref\":\"#/$defs/tree\",\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":"
          "{\"v\":{\"type\":\"integer\"},\"kids\":{\"type\":\"array\",\"items\":"
          "{\"$ref\":\"#/$defs/tree\"}}},\"required\":[\"v\"]}}}",
          { "{\"v\":1}", "{\"v\":1,\"kids\":[{\"v\":2},{\"v\":3,\"kids\":[]}]}" },
          { "{\"kids\":[]}", "{\"v\":1,\"kids\":[1]}" } },
        { "{\"properties\":{\"a~b/c\":{\"const\":1},\"d\":{\"$ref\":\"#/properties/a~0b~1c\"}}}",
          { "{\"d\":1}" },
          { "{\"d\":2}" } },
        { "{\"type\":\"string\",\"pattern\":\"^[a-z]+$\",\"maxLength\":3,\"minLength\":2}",
          { "\"ab\"", "\"abc\"" },
          { "\"a\"", "\"abcd\"" } },
        { "{\"type\":\"string\",\"pattern\":\"b[\\\"\\\\n]\"}",
          { "\"ab\\\"c\"", "\"b\\n\"", "\"\\u0041b\\\"\"" },
          { "\"ab\"", "\"b\"\"" } },
        { "{\"type\":\"string\",\"minLength\":2}", { "\"ab\"", "\"\\n\\n\"" }, { "\"a\"" } },
        { "{\"type\":\"string\",\"format\":\"date\"}",
          { "\"2024-12-31\"", "\"1999-02-28\"" },
          { "\"2024-13-01\"", "\"2024-02-30\"", "\"24-01-01\"" } },
        { "{\"type\":\"string\",\"format\":\"date-time\"}",
          { "\"2024-12-31T23:59:00Z\"", "\"2024-04-30T00:00:00.25+02:00\"" },
          { "\"2024-04-31T00:00:00Z\"", "\"2024-12-31\"" } },
        { "{\"type\":\"string\",\"format\":\"email\"}",
          { "\"a.b+c@example.org\"" },
          { "\"a@b\"", "\"a b@c.de\"" } },
        { "{\"type\":\"string\",\"format\":\"ipv4\"}",
          { "\"255.0.10.199\"" },
          { "\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\"" } },
        { "{\"type\":\"string\",\"format\":\"uuid\"}",
          { "\"123e4567-e89b-12d3-a456-426614174000\"" },
          { "\"123e4567\"" } },
        { "{\"type\":\"string\",\"format\":\"uri\"}",
          { "\"https://example.org/a/b?c=d#e\"", "\"http://a.b:80\"" },
          { "\"example.org\"" } },
        { "{\"type\":\"string\",\"nullable\":true,\"title\":\"x\"}", { "null", "\"\"" }, { "1" } },
        { "{\"type\":\"integer\",\"exclusiveMinimum\":0,\"maximum\":10,\"multipleOf\":1}",
          { "1", "10" },
          { "0", "11", "01", "1.0" } },
        { "{\"properties\":{\"a\":false,\"b\":{\"const\":1}}}",
          { "{}", "{\"b\":1}" },
          { "{\"a\":1}" } },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        struct states *s = compiled(t[i].schema);

        for (size_t k = 0; t[i].yes[k]; k++)
            if (matches(s, t[i].yes[k]) != 1)
                fail_msg("%s refuses %s", t[i].schema, t[i].yes[k]);
        for (size_t k = 0; t[i].no[k]; k++)
            if (matches(s, t[i].no[k]) == 1)
                fail_msg("%s takes %s", t[i].schema, t[i].no[k]);
        states_free(s);
    }
}

static void refused(const char *schema, const char *why)
{
    struct automaton a;
    struct exprs x;
    struct err e;
    json_t *v;
    int rc;

    OK(json_parse(&v, schema, strlen(schema), "schema", &e), e);
    exprs_init(&x);
    rc = read_schema(&x, v, &e);
    if (rc == 0 && (rc = automaton_new(&a, &x, &e)) == 0)
        automaton_release(&a);
    if (rc == 0)
        fail_msg("%.200s was taken", schema);
    if (!strstr(e.msg, why))
        fail_msg("%.200s: '%s' says nothing of '%s'", schema, e.msg, why);
    exprs_release(&x);
    json_decref(v);
}

static void refuses_what_it_cannot_keep(void **state)
{
    (void)state;
    refused("{\"not\":{}}", "not is not supported");
    refused("{\"type\":\"array\",\"uniqueItems\":true}", "uniqueItems");
    refused("{\"properties\":{\"a\":{\"items\":{\"if\":{}}}}}", "#/properties/a/items: if");
    refused("{\"type\":\"text\"}", "unknown type 'text'");
    refused("{\"type\":5}", "type is no name");
    refused("{\"$ref\":\"http://x\"}", "same schema");
    refused("{\"$ref\":\"#/nowhere\"}", "leads nowhere");
    refused("{\"$ref\":\"#\"}", "no end");
    refused("{\"allOf\":[{\"$ref\":\"#\"}],\"type\":\"object\"}", "");
    refused("{\"type\":\"string\",\"pattern\":\"(?=a)b\"}", "look-around");
    refused("{\"type\":\"string\",\"pattern\":\"(ab)+\",\"maxLength\":9}", "beside a pattern");
    refused("{\"type\":\"string\",\"format\":\"regex\"}", "format 'regex'");
    refused("{\"type\":\"string\",\"minLength\":-1}", "minLength");
    refused("{\"type\":\"string\",\"minLength\":5,\"maxLength\":2}", "no text matches");
    refused("{\"type\":\"array\",\"minItems\":5,\"maxItems\":1}", "no text matches");
    refused("{\"type\":\"number\",\"multipleOf\":0.5}", "multipleOf");
    refused("{\"enum\":[\"a\"],\"minLength\":2}", "minLength beside enum");
    refused("{\"properties\":{\"a\":{}},\"required\":[\"b\"],\"additionalProperties\":false}",
            "'b'");
    refused("{\"allOf\":[{\"additionalProperties\":false},{\"properties\":{\"a\":{}}}]}",
            "additionalProperties false");
    refused("{\"allOf\":[{\"pattern\":\"a\"},{\"pattern\":\"b\"}]}", "pattern do not go together");
    refused("false", "no text matches");
    refused("5", "a schema is an object");
    refused("{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "no text matches");
}

static bool inside(double v, double lo, double hi, int open)
{
    return (open & 1 ? v > lo : v >= lo) && (open & 2 ? v < hi : v <= hi);
}

/* Every number of a few digits, between bounds of all kinds. */
static void bounds_are_exact(void **state)
{
    static const double at[] = { -120, -20.5, -7, -1, -0.25, 0,   0.125, 0.5,
                                 1,    3.75,  9,  10, 99.9,  100, 105 };
    char schema[256], text[32];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(at); i++)
        for (size_t k = i; k < ARRAY_LEN(at); k++)
            for (int open = 0; open < 8; open++) {
                const bool integer = open & 4;
                struct exprs x;
                struct automaton a;
                struct states *s;
                struct err e;
                json_t *v;
                bool any = false;

                snprintf(schema, sizeof(schema), "{\"type\":\"%s\",\"%s\":%g,\"%s\":%g}",
                         integer ? "integer" : "number", open & 1 ? "exclusiveMinimum" : "minimum",
                         at[i], open & 2 ? "exclusiveMaximum" : "maximum", at[k]);
                OK(json_parse(&v, schema, strlen(schema), "schema", &e), e);
                exprs_init(&x);
                OK(read_schema(&x, v, &e), e);
                json_decref(v);
                s = automaton_new(&a, &x, &e) ? NULL : states_new(&a, 1 << 20);
                exprs_release(&x);
                for (int n = -1300; n <= 1300; n++) {
                    const int digits = integer ? 0 : n % 10 == 0 ? 1 : n % 5 == 0 ? 3 : 2;
                    const double value = integer ? n : n / 10.0 + (digits == 3 ? 0.025 : 0);

                    snprintf(text, sizeof(text), "%.*f", digits, value);
                    if (strcmp(text, "-0") == 0 || strncmp(text, "-0.0", 4) == 0)
                        continue;
                    const bool ok = inside(strtod(text, NULL), at[i], at[k], open);

                    any |= ok;
                    if ((s ? matches(s, text) == 1 : false) != ok)
                        fail_msg("%s: %s should be %s", schema, text, ok ? "taken" : "refused");
                }
                assert_true(s || !any);
                states_free(s);
            }
}

static void hostile_ones_stay_cheap(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 400; i++)
        buf_adds(&b, "{\"items\":");
    buf_adds(&b, "{}");
    for (int i = 0; i < 400; i++)
        buf_adds(&b, "}");
    refused(b.p, "deep");
    /* a billion laughs, by references and by merging */
    for (int how = 0; how < 2; how++) {
        buf_clear(&b);
        buf_adds(&b, "{\"$ref\":\"#/$defs/a0\",\"$defs\":{\"a40\":{\"type\":\"null\"}");
        for (int i = 0; i < 40; i++)
            buf_addf(&b,
                     ",\"a%d\":{\"%s\":[{\"$ref\":\"#/$defs/a%d\"},"
                     "{\"$ref\":\"#/$defs/a%d\",\"minLength\":%d}]}",
                     i, how ? "allOf" : "prefixItems", i + 1, i + 1, i);
        buf_adds(&b, "}}");
        struct states *s = compiled(b.p);

        assert_int_equal(matches(s, how ? "null" : "[[[["), how);
        states_free(s);
    }
    /* many optional members: the grammar grows with their number, not with its power */
    buf_clear(&b);
    buf_adds(&b, "{\"properties\":{");
    for (int i = 0; i < 2000; i++)
        buf_addf(&b, "%s\"p%d\":{\"type\":[\"string\",\"object\"]}", i ? "," : "", i);
    buf_adds(&b, "}}");
    struct states *s = compiled(b.p);

    assert_int_equal(matches(s, "{\"p7\":\"x\",\"p1999\":{}}"), 1);
    assert_int_equal(matches(s, "{\"p7\":\"x\",\"p6\":{}}"), -1);
    states_free(s);
    buf_release(&b);
}

TEST_MAIN(cmocka_unit_test(takes_what_is_valid), cmocka_unit_test(refuses_what_it_cannot_keep),
          cmocka_unit_test(bounds_are_exact), cmocka_unit_test(hostile_ones_stay_cheap))
