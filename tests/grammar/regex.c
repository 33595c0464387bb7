/* Regular expressions: what they match, what they refuse, and what hostile ones cost. */
#include "accepts.h"

#include "grammar/read.h"

static struct states *compiled(const char *pattern)
{
    struct exprs x;
    struct err e;

    exprs_init(&x);
    OK(read_regex(&x, pattern, strlen(pattern), &e), e);
    return states_of(&x);
}

static void matches_whole_texts(void **state)
{
    static const struct {
        const char *pattern, *yes[6], *no[6];
    } t[] = {
        { "abc", { "abc" }, { "", "ab", "abcd", "xabc" } },
        { "^abc$", { "abc" }, { "ab", "abcd" } },
        { "a|bc|", { "a", "bc", "" }, { "b", "abc" } },
        { "(ab)+?c*", { "ab", "ababcc" }, { "", "aab", "c" } },
        { "a{2,3}b{2}c{0,1}d{1,}e{,2}",
          { "aabbd", "aaabbcddee" },
          { "abbd", "aabbe", "aabbdeee" } },
        { "a{x}", { "a{x}" }, { "a" } },
        { "[a-cx-]+", { "abcx-" }, { "d", "" } },
        { "[^a-c]", { "d", "\xc3\xa9", "\xf0\x9f\xa6\x99", "\n" }, { "a", "\xff", "dd" } },
        { "\\d+\\.\\d{2}", { "1.50", "123.45" }, { "1.5", "x.50", "1x50" } },
        { "\\w\\W\\s\\S", { "_- x", "a\xe2\x82\xac\tb" }, { "-- x", "a- \n" } },
        { ".", { "x", "\xf4\x8f\xbf\xbf", "\xe2\x82\xac" }, { "", "\n", "\x80", "\xed\xa0\x80" } },
        { "[\xc3\xa9-\xe2\x82\xac]",
          { "\xc3\xa9", "\xe2\x82\xac", "\xdf\xbf", "\xe0\xa0\x80" },
          { "\xc3\xa8", "\xe2\x82\xad", "e" } },
        { "[\\u00e9\\x41\\n]", { "\xc3\xa9", "A", "\n" }, { "a" } },
        { "(?:a|b)(?P<n>c)(?<m>d)", { "acd", "bcd" }, { "cd" } },
        { "(a|ab)(c|bcd)", { "abc", "abcd", "ac" }, { "abcdd" } },
        { "((a{100}){100}){2}", { NULL }, { "aaa" } },
        { "(a*)*b", { "aaab", "b" }, { "aa" } },
        { "\\(\\[\\{\\^\\$\\.\\|\\*\\+\\?\\\\", { "([{^$.|*+?\\" }, { "" } },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        struct states *s = compiled(t[i].pattern);

        for (size_t k = 0; t[i].yes[k]; k++)
            if (matches(s, t[i].yes[k]) != 1)
                fail_msg("%s does not match '%s'", t[i].pattern, t[i].yes[k]);
        for (size_t k = 0; t[i].no[k]; k++)
            if (matches(s, t[i].no[k]) == 1)
                fail_msg("%s matches '%s'", t[i].pattern, t[i].no[k]);
        states_free(s);
    }
}

static void refuses_by_name(void **state)
{
    static const char *const t[][2] = {
        { "(a", "not closed" },         { "a)", "closing parenthesis" },
        { "[a", "not closed" },         { "[]", "empty class" },
        { "*a", "nothing to repeat" },  { "a**", "count on a count" },
        { "a++", "count on" },          { "(?=a)", "look-around" },
        { "(?i)a", "flags" },           { "(a)\\1", "reference" },
        { "\\bword", "not supported" }, { "\\p{L}", "Unicode" },
        { "a^b", "ends of the" },       { "a$b", "ends of the" },
        { "a{3,2}", "upwards" },        { "a{1000000}", "100000" },
        { "[b-a]", "backwards" },       { "\\", "backslash" },
        { "\\xZ1", "hexadecimal" },     { "\xff", "UTF-8" },
        { "\\q", "no meaning" },        { "\\uD800", "hexadecimal" },
        { "[\\U]", "no meaning" },
        { "[\\", "in the middle" },  { "[a-\\", "in the middle" },  { "[a-", "not closed" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        struct exprs x;
        struct err e;

        exprs_init(&x);
        if (read_regex(&x, t[i][0], strlen(t[i][0]), &e) == 0)
            fail_msg("%s was taken", t[i][0]);
        if (!strstr(e.msg, t[i][1]))
            fail_msg("%s: '%s' says nothing of '%s'", t[i][0], e.msg, t[i][1]);
        exprs_release(&x);
    }
}

/* Whatever backtracks would not come back from these. */
static void hostile_ones_stay_cheap(void **state)
{
    static const char *const t[] = { "(a*)*b",         "(a|a)*b",   "(a+)+b",
                                     "(a?){60}a{60}b", "((a*)*)*b", "(a|aa|aaa)*b" };
    struct exprs x;
    struct automaton a;
    struct err e;
    struct buf b;
    char text[200];

    (void)state;
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        struct states *s = compiled(t[i]);

        assert_int_equal(matches(s, i == 3 ? "aab" : text), i == 3 ? -1 : 0);
        states_free(s);
    }
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 60000; i++)
        buf_addc(&b, '(');
    exprs_init(&x);
    assert_int_equal(read_regex(&x, b.p, b.len, &e), -1);
    exprs_release(&x);
    buf_clear(&b);
    for (int i = 0; i < 9; i++) /* 900,000 states */
        buf_adds(&b, "a{100000}");
    exprs_init(&x);
    OK(read_regex(&x, b.p, b.len, &e), e);
    assert_int_equal(automaton_new(&a, &x, &e), -1);
    assert_non_null(strstr(e.msg, "too large"));
    exprs_release(&x);
    buf_release(&b);
}

TEST_MAIN(cmocka_unit_test(matches_whole_texts), cmocka_unit_test(refuses_by_name),
          cmocka_unit_test(hostile_ones_stay_cheap))
