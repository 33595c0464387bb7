/* The code interpreter as a chat uses it: one session over several runs. */
#include "support.h"

#include "tools/code.h"

static void expect(struct code *c, const char *source, enum code_end end, const char *out,
                   const char *value)
{
    struct code_result r;
    struct err e;

    code_result_init(&r);
    OK(code_run(c, source, strlen(source), &r, &e), e);
    if (r.end != end)
        fail_msg("'%s' ends as %d, want %d: %s%s", source, (int)r.end, (int)end, r.err.p, r.why);
    assert_string_equal(r.out.p, out);
    assert_string_equal(r.value.p, value);
    code_result_release(&r);
}

static void session(void **state)
{
    struct code_limits limits = code_limits_default;
    struct code *c, *other;

    (void)state;
    limits.wall = 10;
    c = code_new(&limits);
    other = code_new(&limits);
    expect(c, "x = 40", CODE_OK, "", "");
    expect(c, "open('/box/f', 'w').write('kept')\nx += 2", CODE_OK, "", "");
    expect(c, "print(x); open('/box/f').read()", CODE_OK, "42\n", "'kept'");
    expect(c, "1 / 0", CODE_ERROR, "", "");
    expect(c, "x", CODE_OK, "", "42"); /* an exception costs nothing */
    expect(c, "_ + 1", CODE_OK, "", "43");
    expect(other, "x", CODE_ERROR, "", ""); /* another chat */
    expect(c, "def f(:", CODE_ERROR, "", "");
    expect(c, "import sys; sys.exit(0)", CODE_OK, "", "");
    expect(c, "import os; os._exit(0)", CODE_DIED, "", "");
    expect(c, "x", CODE_ERROR, "", ""); /* a fresh one */
    expect(c, "", CODE_OK, "", "");
    expect(c, "'\\N{SNOWMAN}'", CODE_OK, "", "'\xe2\x98\x83'");
    code_free(other);
    code_free(c);
}

static void large(void **state)
{
    const size_t n = 3 << 20; /* beyond what any pipe holds */
    char *source = malloc(n + 64);
    struct code *c = code_new(&code_limits_default);

    (void)state;
    memset(source, ' ', n);
    snprintf(source, 8, "s = '''");
    source[7] = ' ';
    snprintf(source + n, 64, "'''\nlen(s)");
    expect(c, source, CODE_OK, "", "3145721");
    free(source);
    code_free(c);
}

TEST_MAIN(cmocka_unit_test(session), cmocka_unit_test(large))
