/* Rotary frequencies against those that transformers computed for the published models. */
#include "support.h"

#include <math.h>

#include "base/json.h"
#include "format/hparams.h"

static int64_t ulps(float a, float b)
{
    int32_t x, y;

    memcpy(&x, &a, 4);
    memcpy(&y, &b, 4);
    return x > y ? (int64_t)x - y : (int64_t)y - x;
}

static double number(const json_t *j, const char *key)
{
    return json_number_value(json_object_get(j, key));
}

static void llama3_equals_transformers(void **state)
{
    struct err e = { 0 };
    json_t *all, *m;
    size_t i;

    (void)state;
    OK(json_parse_file(&all, data_path("rope/inv_freq.json"), 1 << 20, &e), e);
    assert_int_equal(json_array_size(all), 4);
    json_array_foreach(all, i, m)
    {
        const json_t *want = json_object_get(m, "inv_freq");
        struct hparams h = { .head_dim = (int64_t)number(m, "head_dim") };
        float have[64];
        size_t exact = 0;

        h.rope = (struct rope_params){
            .type = ROPE_LLAMA3,
            .theta = number(m, "theta"),
            .factor = number(m, "factor"),
            .low_freq_factor = number(m, "low_freq_factor"),
            .high_freq_factor = number(m, "high_freq_factor"),
            .original_ctx = (int64_t)number(m, "original_max_position_embeddings"),
        };
        rope_inv_freq(have, &h, NULL);
        for (size_t k = 0; k < (size_t)h.head_dim / 2; k++) {
            const float w = (float)json_number_value(json_array_get(want, k));

            if (ulps(have[k], w) > 1)
                fail_msg("%s: frequency %zu is %.9g, transformers has %.9g",
                         json_string_value(json_object_get(m, "model")), k, (double)have[k],
                         (double)w);
            exact += have[k] == w;
        }
        print_message("%s: %zu of %lld equal to the bit\n",
                      json_string_value(json_object_get(m, "model")), exact,
                      (long long)h.head_dim / 2);
    }
    json_decref(all);
}

/* GGUF ships the same scaling as divisors of the plain frequencies. */
static void divisors_replace_the_formula(void **state)
{
    struct hparams h = { .head_dim = 128 };
    float plain[64], scaled[64], div[64], have[64];

    (void)state;
    h.rope = (struct rope_params){ .type = ROPE_PLAIN, .theta = 500000 };
    rope_inv_freq(plain, &h, NULL);
    h.rope = (struct rope_params){ .type = ROPE_LLAMA3,
                                   .theta = 500000,
                                   .factor = 8,
                                   .low_freq_factor = 1,
                                   .high_freq_factor = 4,
                                   .original_ctx = 8192 };
    rope_inv_freq(scaled, &h, NULL);
    for (int i = 0; i < 64; i++)
        div[i] = plain[i] / scaled[i];
    h.rope.type = ROPE_PLAIN;
    rope_inv_freq(have, &h, div);
    for (int i = 0; i < 64; i++)
        assert_true(ulps(have[i], scaled[i]) <= 1);
    assert_true(div[0] == 1 && fabsf(div[63] - 8) < 1e-5f);
}

static void linear_divides(void **state)
{
    struct hparams h = { .head_dim = 8,
                         .rope = { .type = ROPE_LINEAR, .theta = 10000, .factor = 4 } };
    float have[4];

    (void)state;
    rope_inv_freq(have, &h, NULL);
    assert_true(have[0] == 0.25f);
    assert_true(fabsf(have[2] - 0.0025f) < 1e-9f);
}

TEST_MAIN(cmocka_unit_test(llama3_equals_transformers),
          cmocka_unit_test(divisors_replace_the_formula), cmocka_unit_test(linear_divides))
