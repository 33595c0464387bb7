/* What a guard may write, and what is read from it. */
#include "support.h"

#include "guard/llama_guard.h"

static void parse(void **state)
{
    static const struct {
        const char *text;
        int said;
        const char *codes;
    } all[] = {
        { "safe", 0, "" },
        { "\n\nsafe", 0, "" },
        { " Safe \n", 0, "" },
        { "safe\nS1", 0, "" },
        { "unsafe", 1, "" },
        { "unsafe\nS1", 1, "S1" },
        { "\n\nunsafe\nS1,S10", 1, "S1,S10" },
        { "UNSAFE\r\nS1 , S14\r\nS9", 1, "S1,S14" },
        { "unsafe\nS1, hate, S, X2, S2x, S3", 1, "S1,S3" },
        { "unsafe\n\nS99", 1, "S99" },
        { "unsafe\n,,", 1, "" },
        { "", -1, "" },
        { "unsafer", -1, "" },
        { "not safe", -1, "" },
        { "I cannot help", -1, "" },
    };
    char many[2048];
    int n = snprintf(many, sizeof(many), "unsafe\n");
    struct guard_verdict v;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (llama_guard_parse(all[i].text, &v) != all[i].said)
            fail_msg("'%s' is not read as %d", all[i].text, all[i].said);
        assert_string_equal(v.codes, all[i].codes);
    }
    for (int i = 0; i < 300; i++) /* more than there is room for: the first are kept, whole */
        n += snprintf(many + n, sizeof(many) - (size_t)n, "S12,");
    assert_int_equal(llama_guard_parse(many, &v), 1);
    assert_true(strlen(v.codes) < sizeof(v.codes));
    assert_string_equal(v.codes + strlen(v.codes) - 4, ",S12");
}

TEST_MAIN(cmocka_unit_test(parse))
