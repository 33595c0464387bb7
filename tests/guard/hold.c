/* tests/guard/hold.c - text that waits for a guard: nothing of a sentence before its end, and all
 * of it in the end, whatever the pieces. */
#include "support.h"

#include "guard/hold.h"

static const char text[] =
    "The value is 3.5 and it stays, as far as anybody here can tell. Here comes a second sentence "
    "that is long enough! \xE3\x81\x93\xE3\x82\x8C\xE3\x81\xAF\xE4\xB8\x89\xE3\x80\x82 And "
    "one more that nobody ends";

static void pieces(void **state)
{
    size_t whole[16], n_whole = 0;

    (void)state;
    for (size_t step = sizeof(text); step > 0; step--) {
        struct hold h;
        size_t n = 0;

        hold_init(&h);
        for (size_t at = 0; at < sizeof(text) - 1; at += step) {
            const size_t left = sizeof(text) - 1 - at;
            size_t due;

            hold_add(&h, text + at, step < left ? step : left);
            for (; (due = hold_due(&h, false)) > 0; n++) {
                assert_true(due > h.judged && due <= h.text.len && n < 16);
                assert_non_null(strchr(".!\x82", text[due - 1]));
                h.judged = due;
                if (step == sizeof(text))
                    whole[n_whole++] = due;
                assert_int_equal(due, whole[n]); /* the same places, however it came */
            }
            assert_true(h.text.len - h.judged < 160);
        }
        assert_int_equal(n, n_whole);
        assert_true(h.judged > 60);
        assert_int_equal(hold_due(&h, true), sizeof(text) - 1);
        h.judged = h.text.len;
        assert_int_equal(hold_due(&h, true), 0);
        hold_release(&h);
    }
}

static void without_an_end(void **state)
{
    struct hold h;

    (void)state;
    hold_init(&h);
    for (int i = 0; i < 1999; i++)
        hold_add(&h, "x", 1);
    hold_add(&h, "\xC3\xA9", 2); /* over the place where 2000 bytes end */
    assert_int_equal(hold_due(&h, false), 1999);
    h.judged = 1999;
    assert_int_equal(hold_due(&h, false), 0);
    assert_int_equal(hold_due(&h, true), 2001);
    hold_release(&h);
}

TEST_MAIN(cmocka_unit_test(pieces), cmocka_unit_test(without_an_end))
