#include "support.h"

#include "base/rng.h"
#include "base/utf8.h"

static void one(const char *in, size_t n, const char *want)
{
    struct buf b;

    buf_init(&b, 1 << 20);
    utf8_sanitize(&b, in, n);
    assert_string_equal(b.p, want);
    assert_int_equal(utf8_valid(in, n), !strcmp(in, want) && strlen(want) == n);
    buf_release(&b);
}

#define FFFD "\xEF\xBF\xBD"

static void invalid_subparts(void **state)
{
    (void)state;
    one("plain", 5, "plain");
    one("\xED\xA0\x80", 3, FFFD FFFD FFFD); /* a surrogate */
    one("\xF0\x9F\x98", 3, FFFD);           /* a cut emoji is one subpart */
    one("\xF0\x9F\x98"
        "x",
        4, FFFD "x");
    one("\xC0\xAF", 2, FFFD FFFD); /* overlong */
    one("\xE0\x80\xAF", 3, FFFD FFFD FFFD);
    one("\xF5\x80\x80\x80", 4, FFFD FFFD FFFD FFFD); /* beyond U+10FFFF */
    one("\xF4\x90\x80\x80", 4, FFFD FFFD FFFD FFFD);
    one("a\x80"
        "b",
        3, "a" FFFD "b");
    one("\xE2\x82\xAC\xE2\x82", 5, "\xE2\x82\xAC" FFFD);
}

static void round_trip_of_every_scalar(void **state)
{
    (void)state;
    for (int32_t c = 0; c < 0x110000; c++) {
        char p[4];
        int32_t got;

        if (c >= 0xD800 && c < 0xE000)
            continue;
        const size_t n = utf8_put(p, c);

        if (utf8_next(p, n, &got) != n || got != c)
            fail_msg("U+%04X came back as %d", (unsigned)c, got);
        for (size_t k = 1; k < n; k++)
            assert_int_equal(utf8_complete(p, k), 0); /* a stream waits for the rest */
        assert_int_equal(utf8_complete(p, n), n);
    }
}

/* Whatever the cut, what a stream shows piece by piece equals the whole. */
static void streaming_any_bytes(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        char in[24], tail[32];
        size_t held = 0;
        struct buf whole, parts;

        for (size_t i = 0; i < sizeof(in); i++) {
            static const char some[] = "a\xF0\x9F\x98\x80\xE2\x82\xAC\xC3\xA9\xFF\x80\xED\xA0";

            in[i] = some[rng_u64(seed, i) % (sizeof(some) - 1)];
        }
        buf_init(&whole, 1 << 20);
        buf_init(&parts, 1 << 20);
        utf8_sanitize(&whole, in, sizeof(in));
        for (size_t i = 0; i < sizeof(in); i++) {
            tail[held++] = in[i];
            const size_t k = utf8_complete(tail, held);

            assert_true(held - k <= 3);
            utf8_sanitize(&parts, tail, k);
            memmove(tail, tail + k, held - k);
            held -= k;
        }
        utf8_sanitize(&parts, tail, held);
        assert_string_equal(parts.p, whole.p);
        buf_release(&whole);
        buf_release(&parts);
    }
}

static void hexadecimal(void **state)
{
    static const char all[] = "0123456789abcdefABCDEF";

    (void)state;
    for (int c = -1; c < 256; c++) {
        const char *at = c > 0 ? strchr(all, c) : NULL;
        const int v = at ? (int)(at - all) : -1;

        assert_int_equal(hex_digit(c), v >= 16 ? v - 6 : v);
    }
    for (size_t n = 0; n <= 5; n++) {
        static const char text[] = "12aFg";

        assert_int_equal(hex_digits(text, text + 5, n), n < 5 ? 0x12aF >> (4 * (4 - n)) : -1);
        assert_int_equal(hex_digits(text, text + n, 4), n < 4 ? -1 : 0x12aF);
    }
}

TEST_MAIN(cmocka_unit_test(hexadecimal), cmocka_unit_test(invalid_subparts),
          cmocka_unit_test(round_trip_of_every_scalar), cmocka_unit_test(streaming_any_bytes))
