/* The code interpreter as a chat uses it: one session over several runs. */
#include "support.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/code.h"

/* Inside a chroot or a container the kernel may refuse what the sandbox is made of. */
static bool has_namespaces(void)
{
    const pid_t p = fork();
    int status = -1;

    if (p == 0)
        _exit((geteuid() == 0 && setresuid(65534, 65534, 65534)) || unshare(CLONE_NEWUSER));
    return p > 0 && waitpid(p, &status, 0) == p && status == 0;
}

static int setup(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN); /* as the program does */
    return 0;
}

static void need_namespaces(void)
{
    if (has_namespaces())
        return;
    print_message("not run: no user namespaces here, so no sandbox\n");
    skip();
}

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
    need_namespaces();
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
    char *source;
    struct code *c;

    (void)state;
    need_namespaces();
    source = malloc(n + 64);
    c = code_new(&code_limits_default);
    memset(source, ' ', n);
    snprintf(source, 8, "s = '''");
    source[7] = ' ';
    snprintf(source + n, 64, "'''\nlen(s)");
    expect(c, source, CODE_OK, "", "3145721");
    free(source);
    code_free(c);
}

TEST_MAIN(cmocka_unit_test_setup(session, setup), cmocka_unit_test_setup(large, setup))
