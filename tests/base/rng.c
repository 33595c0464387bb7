#include "support.h"

#include "base/rng.h"

/* Philox4x32-10 of the Random123 distribution's known answers: counter and key all zero. */
static void known_answer(void **state)
{
    (void)state;
    /* words 0 and 1 of the answer: 6627e8d5 e169c58d */
    assert_true(rng_u64(0, 0) == 0xe169c58d6627e8d5u);
}

static void uniform_is_uniform(void **state)
{
    enum { N = 100000 };
    int bin[16] = { 0 };
    double chi = 0;

    (void)state;
    for (uint64_t i = 0; i < N; i++) {
        const double u = rng_uniform(7, i);

        assert_true(u >= 0 && u < 1);
        bin[(int)(u * 16)]++;
    }
    for (int i = 0; i < 16; i++)
        chi += (bin[i] - N / 16.0) * (bin[i] - N / 16.0) / (N / 16.0);
    assert_true(chi < 50); /* 15 degrees of freedom: chance is 1e-5 */
    assert_true(rng_u64(1, 0) != rng_u64(2, 0) && rng_u64(1, 0) != rng_u64(1, 1));
}

TEST_MAIN(cmocka_unit_test(known_answer), cmocka_unit_test(uniform_is_uniform))
