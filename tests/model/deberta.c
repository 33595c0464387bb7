/* DeBERTa against transformers' float64 run of a small random model. */
#include "support.h"

#include <jansson.h>
#include <math.h>

#include "backend/cpu/cpu.h"
#include "model/deberta.h"

static void buckets(void **state)
{
    json_t *j = json_load_file(data_path("deberta/buckets.json"), 0, NULL), *v;
    const int min = (int)json_integer_value(json_object_get(j, "rel_min"));
    size_t i;

    (void)state;
    assert_non_null(j);
    json_array_foreach(json_object_get(j, "bucket"), i, v)
        assert_int_equal(deberta_bucket(min + (int)i, 128, 512), json_integer_value(v));
    assert_int_equal(i, 1023);
    json_decref(j);
}

static void near(double got, const json_t *want, const char *what)
{
    const double w = json_number_value(want);

    if (!(fabs(got - w) <= 1e-4 * (1 + fabs(w))))
        fail_msg("%s: %.7f, want %.7f", what, got, w);
}

static void golden_at(unsigned flags, int threads)
{
    json_t *j = json_load_file(data_path("deberta/cases.json"), 0, NULL), *c;
    struct deberta *m;
    struct ctx *ctx;
    struct err e;
    size_t i;

    assert_non_null(j);
    OK(cpu_ctx_new(&ctx, threads, flags, COMPUTE_F32, &e), e);
    OK(deberta_open(&m, ctx, data_path("deberta"), &e), e);
    assert_int_equal(deberta_labels(m), 3);
    assert_string_equal(deberta_label(m, 2), "JAILBREAK");
    json_array_foreach(json_object_get(j, "cases"), i, c)
    {
        const json_t *list = json_object_get(c, "ids"), *mask = json_object_get(c, "mask");
        int32_t ids[64];
        float logits[3], alone[3], hidden[4 * 64 * 48];
        size_t n = 0;

        for (size_t k = 0; k < json_array_size(list); k++) /* padding is at the end */
            if (json_integer_value(json_array_get(mask, k)))
                ids[n++] = (int32_t)json_integer_value(json_array_get(list, k));
        OK(deberta_forward(m, ids, n, logits, hidden, &e), e);
        /* without them the last layer is computed for one token */
        OK(deberta_forward(m, ids, n, alone, NULL, &e), e);
        float feature[48];

        OK(deberta_feature(m, ids, n, feature, &e), e);
        assert_int_equal(deberta_dim(m), 48);
        for (size_t d = 0; d < 48; d++)
            assert_true(fabsf(feature[d] - hidden[3 * n * 48 + d]) < 1e-5f);
        for (size_t k = 0; k < 3; k++)
            near((double)alone[k], json_array_get(json_object_get(c, "logits"), k), "logits");
        for (size_t k = 0; k < 3; k++)
            near((double)logits[k], json_array_get(json_object_get(c, "logits"), k), "logits");
        for (size_t l = 0; l < 4; l++)
            for (size_t d = 0; d < 6; d++)
                near((double)hidden[l * n * 48 + d],
                     json_array_get(json_array_get(json_object_get(c, "h_first"), l), d),
                     "h_first");
    }
    assert_int_equal(i, 8);
    deberta_close(m);
    cpu_ctx_free(ctx);
    json_decref(j);
}

static void golden(void **state)
{
    (void)state;
    golden_at(0, 1);
    golden_at(cpu_flags(), 1);
    golden_at(cpu_flags(), 3);
}

TEST_MAIN(cmocka_unit_test(buckets), cmocka_unit_test(golden))
