/* tests/text/jinja.c - templates against what jinja2 made of them (tests/record/jinja.py), marks,
 * and hostile templates. */
#include "support.h"

#include "text/jinja.h"
#include "text/pyjson.h"

static int render(const char *template, const json_t *request, struct buf *text, struct buf *marks,
                  struct err *e)
{
    static const char *const names[] = { "bos_token", "eos_token" };
    static const char *const values[] = { "<|begin_of_text|>", "<|eot_id|>" };
    const struct jinja_vars vars = { request, names, values, 2, 1732406400 };
    struct jinja *j = NULL;
    int rc = -1;

    buf_init(text, 1 << 24);
    buf_init(marks, 1 << 24);
    if (jinja_parse(&j, template, strlen(template), e) == 0)
        rc = jinja_render(j, &vars, text, marks, e);
    jinja_free(j);
    return rc;
}

static void recorded(void **state)
{
    struct rows r = rows_open(data_path("jinja/templates.jsonl"));
    char *template = NULL;

    (void)state;
    while (rows_next(&r)) {
        const json_t *j = r.row;
        struct buf text, marks;
        struct err e;
        const char *want = json_string_value(json_object_get(j, "output"));
        const char *own = json_string_value(json_object_get(j, "template"));

        if (own) { /* else that of the line before */
            free(template);
            template = strdup(own);
        }
        assert_non_null(template);
        const int rc = render(template, json_object_get(j, "request"), &text, &marks, &e);

        if (rc != (want ? 0 : -1) || (want && strcmp(text.p, want) != 0))
            fail_msg("%s: got \"%s\" (%s), not \"%s\"", template, text.p, rc ? e.msg : "ok",
                     want ? want : "an error");
        if (rc == 0)
            assert_int_equal(text.len, marks.len);
        buf_release(&text);
        buf_release(&marks);
    }
    assert_true(r.n > 130);
    free(template);
}

/* What the request wrote is marked wherever it goes. */
static void marks_follow(void **state)
{
    static const char *const templates[] = {
        "<{{ x }}>",
        "{{ '<' + x ~ '>' }}",
        "{% set y = '<' + x %}{{ (y + '>')|trim }}",
        "<{{ ('  ' + x)|trim }}>",
        "<{{ x.replace('', '') }}>",
        "{{ '<y>'.replace('y', x) }}",
        "{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(x) }}",
        "<{{ (x + x)[:5] }}>",
        "<{{ [x]|join('') }}>",
        "<{{ x.split('q')[0] }}>",
        "<{% filter lower %}{{ x }}{% endfilter %}>",
        "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}{{ x }}{% endcall %}",
        "<{{ x|upper|lower|title|lower }}>",
    };
    json_t *request = json_pack("{s:s}", "x", "<|a|>");

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(templates); i++) {
        struct buf text, marks;
        struct err e;

        OK(render(templates[i], request, &text, &marks, &e), e);
        assert_string_equal(text.p, "<<|a|>>");
        assert_memory_equal(marks.p, "\0\1\1\1\1\1\0", 7);
        buf_release(&text);
        buf_release(&marks);
    }
    json_decref(request);
}

static void hostile(void **state)
{
    static const char *const templates[] = {
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ range(1000000) }}",
        "{{ 'x' * 999999999 }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}"
        "{% endfor %}{{ ns.s }}",
        "{{ 1 | nofilter }}",
        "{{ 1 is notest }}",
        "{% include 'x' %}",
        "{% if x %}",
        "{{ 'x",
        "{{ 1 // 0 }}",
        "{{ [].append(1) }}",
        "{% for i in [1] recursive %}{{ loop(i) }}{% endfor %}",
        "{% for i in [1] %}{{ loop.cycle() }}{% endfor %}",
        "{% macro m() %}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}",
        "{% filter nofilter %}{% endfilter %}",
        "{% raw %}{% endraw",
        "{{ '\u0130'|lower }}",
    };
    json_t *request = json_object();
    struct buf text, marks, deep;
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(templates); i++) {
        if (render(templates[i], request, &text, &marks, &e) == 0)
            fail_msg("%s was accepted", templates[i]);
        assert_non_null(strstr(e.msg, "chat template, line 1: "));
        buf_release(&text);
        buf_release(&marks);
    }
    for (const char *c = "(["; *c; c++) {
        buf_init(&deep, 1 << 20);
        buf_adds(&deep, "{{ ");
        for (int i = 0; i < 100000; i++)
            buf_addc(&deep, *c);
        assert_int_equal(render(deep.p, request, &text, &marks, &e), -1);
        buf_release(&text);
        buf_release(&marks);
        buf_release(&deep);
    }
    json_decref(request);
}

TEST_MAIN(cmocka_unit_test(recorded), cmocka_unit_test(marks_follow), cmocka_unit_test(hostile))
