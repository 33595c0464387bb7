/* Rules in GBNF and EBNF: what they match, what is refused, and hostile ones. */
#include "accepts.h"

#include "grammar/read.h"

static struct states *compiled(const char *rules)
{
    struct exprs x;
    struct err e;

    exprs_init(&x);
    OK(read_gbnf(&x, rules, strlen(rules), &e), e);
    return states_of(&x);
}

static void matches_what_it_says(void **state)
{
    static const struct {
        const char *rules, *yes[6], *no[6];
    } t[] = {
        { "root ::= \"yes\" | 'no'", { "yes", "no" }, { "", "yesno" } },
        { "# first\nroot ::= a b* # and\n  | \"z\"\na ::= [ab]\nb ::= (\"x\"\n  | \"y\")+ \"-\"",
          { "a", "bx-", "axy-x-", "z" },
          { "x-", "ax", "zz" } },
        { "root ::= [^a-y\\n]{2} \"\\x41\\u00e9\\\"\" .?",
          { "zzA\xc3\xa9\"", "\xc3\xa9\xf0\x9f\xa6\x99"
                             "A\xc3\xa9\"\n" },
          { "azA\xc3\xa9\"" } },
        { "expr ::= term (\"+\" term)*\nterm ::= [0-9]+ | \"(\" expr \")\"",
          { "1+2", "(1+(23))+4", "((((1))))" },
          { "1+", "(1", ")" } },
        { "list ::= item | item \",\" list\nitem ::= \"x\"", { "x", "x,x,x" }, { "x," } },
        { "start: greeting /[a-z]+\\d{2}/ \"!\";\ngreeting: \"hi \"",
          { "hi abc12!" },
          { "hi 12!" } },
        { "a ::= \"1\"\nroot ::= \"r\" a", { "r1" }, { "1" } },
        { "root ::= e e \"x\"\ne ::= \"y\"?", { "x", "yx", "yyx" }, { "yyyx" } },
        { "root ::= (\"\" | \"a\")* \"b\"", { "b", "aab" }, { "a" } },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        struct states *s = compiled(t[i].rules);

        for (size_t k = 0; t[i].yes[k]; k++)
            if (matches(s, t[i].yes[k]) != 1)
                fail_msg("%s\ndoes not match '%s'", t[i].rules, t[i].yes[k]);
        for (size_t k = 0; t[i].no[k]; k++)
            if (matches(s, t[i].no[k]) == 1)
                fail_msg("%s\nmatches '%s'", t[i].rules, t[i].no[k]);
        states_free(s);
    }
}

static void refused(const char *rules, const char *why)
{
    struct automaton a;
    struct exprs x;
    struct err e;
    int rc;

    exprs_init(&x);
    rc = read_gbnf(&x, rules, strlen(rules), &e);
    if (rc == 0 && (rc = automaton_new(&a, &x, &e)) == 0)
        automaton_release(&a);
    if (rc == 0)
        fail_msg("%.200s was taken", rules);
    if (!strstr(e.msg, why))
        fail_msg("%.200s: '%s' says nothing of '%s'", rules, e.msg, why);
    exprs_release(&x);
}

static void refuses_by_name(void **state)
{
    (void)state;
    refused("", "no rule");
    refused("root", "should begin here");
    refused("root ::= a", "'a' is used");
    refused("root ::= \"a", "not closed");
    refused("root ::= (\"a\"", "not closed");
    refused("root ::= [a", "not closed");
    refused("root ::= \"a\"{3,2}", "counts");
    refused("root ::= \"a\"{1000000}", "100000");
    refused("root ::= \"\\q\"", "escape");
    refused("root ::= * \"a\"", "should be");
    refused("root ::= \"a\"\nroot ::= \"b\"", "second rule");
    refused("root ::= root \"a\" | \"b\"", "'root' can call itself");
    refused("root ::= a\na ::= b \"x\" | \"y\"\nb ::= c? a\nc ::= \"z\"", "left recursion");
    refused("root ::= \"a\" root", "no end");
    refused("root ::= \"x\" | a\na ::= (a)*", "left recursion");
    refused("root ::= \"a\"i", "either case");
    refused("root ::= \"a\\", "backslash");
    refused("root ::= /a\\", "not closed");
    refused("root ::= a # c", "'a' is used");
}

static void hostile_ones_stay_cheap(void **state)
{
    struct states *s;
    struct buf b;

    (void)state;
    buf_init(&b, 4 << 20);
    buf_adds(&b, "root ::= ");
    for (int i = 0; i < 60000; i++)
        buf_addc(&b, '(');
    refused(b.p, "nested too deeply");
    /* a billion laughs: 2^40 copies of a text, one after the other */
    buf_clear(&b);
    buf_adds(&b, "root ::= a0\na40 ::= \"ha\"\n");
    for (int i = 0; i < 40; i++)
        buf_addf(&b, "a%d ::= a%d a%d\n", i, i + 1, i + 1);
    s = compiled(b.p);
    assert_int_equal(matches(s, "hahahahaha"), 0);
    states_free(s);
    /* ambiguous without end: as many stacks as ways, but few of them differ */
    s = compiled("root ::= s \".\"\ns ::= \"a\" s s | \"a\" s | \"a\"");
    buf_clear(&b);
    for (int i = 0; i < 60; i++)
        buf_addc(&b, 'a');
    assert_int_equal(matches(s, b.p), 0);
    states_free(s);
    /* deeper than we go: no match, and no overflow */
    s = compiled("root ::= \"(\" root \")\" | \"x\"");
    buf_clear(&b);
    for (int i = 0; i < 1000; i++)
        buf_addc(&b, '(');
    assert_int_equal(matches(s, b.p), 0);
    for (int i = 0; i < 100; i++)
        buf_addc(&b, '(');
    assert_int_equal(matches(s, b.p), -1);
    states_free(s);
    buf_release(&b);
}

TEST_MAIN(cmocka_unit_test(matches_what_it_says), cmocka_unit_test(refuses_by_name),
          cmocka_unit_test(hostile_ones_stay_cheap))
