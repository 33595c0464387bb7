/* Quantised checkpoints as GPTQModel, bitsandbytes and others wrote them: every matrix that their
 * library dequantised, bit by bit, and what is refused. */
#include "support.h"

#include <math.h>
#include <unistd.h>

#include "base/mem.h"
#include "format/checkpoint.h"
#include "format/enc/f8.h"
#include "support_model.h"

static const char *const models[] = { "awq",           "bnb-nf4",   "bnb-nf4-dq", "gptq",
                                      "gptq-actorder", "gptq-asym", "bnb-int8",   "fbgemm-fp8" };

static struct checkpoint *open_model(const char *path)
{
    struct checkpoint *c;
    struct err e;

    OK(checkpoint_open(&c, path, &e), e);
    return c;
}

static void dequantised(void **state)
{
    size_t matrices = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        char *path = quantised_new(models[i]), file[256];
        struct checkpoint *c = open_model(path);
        struct st *golden;
        struct err e;

        snprintf(file, sizeof(file), "tests/data/quantised/%s/golden.safetensors", models[i]);
        OK(st_open(&golden, file, &e), e);
        OK(checkpoint_check(c, &e), e);
        OK(checkpoint_check_values(c, &e), e);
        for (size_t k = 0; k < st_tensors(golden); k++) {
            static const char prefix[] = "dequant.";
            const struct tensor_view *t = st_tensor(golden, k);
            struct weight w;

            if (strncmp(t->name, prefix, strlen(prefix)))
                continue;
            OK(checkpoint_weight(c, t->name + strlen(prefix), &w, &e), e);
            assert_true(t->shape[0] == w.rows && t->shape[1] == w.cols);
            float *row = xmalloc(2 * w.cols * sizeof(*row)), *want = row + w.cols;

            for (size_t r = 0; r < w.rows; r++) {
                const size_t bytes = w.cols * enc_table[t->enc].bytes;

                weight_decode_row(row, &w, r);
                enc_table[t->enc].decode(want, t->data + r * bytes, w.cols);
                for (size_t n = 0; n < w.cols; n++)
                    if (row[n] != want[n])
                        fail_msg("%s: %s[%zu, %zu] is %a, the library has %a", models[i], t->name,
                                 r, n, (double)row[n], (double)want[n]);
            }
            free(row);
            matrices++;
        }
        st_close(golden);
        checkpoint_close(c);
        quantised_free(path);
    }
    assert_true(matrices >= 9);
}

/* All codes of E4M3 and E5M2, and rounding, as torch does it. */
static void eight_bit_floats(void **state)
{
    struct st *s;
    struct err e;
    size_t tested = 0;

    (void)state;
    OK(st_open(&s, data_path("encodings/f8.safetensors"), &e), e);
    const struct tensor_view *codes = st_find(s, "F8_E4M3.values"), *x = st_find(s, "round.in");
    const struct tensor_view *e5 = st_find(s, "F8_E5M2.values"),
                             *rounded = st_find(s, "round.f8_e4m3");

    assert_true(codes && x && e5 && rounded);
    for (unsigned i = 0; i < 256; i++) {
        const float a = enc_loadf(codes->data + 4 * i), b = enc_loadf(e5->data + 4 * i);

        assert_true(f8_e4m3_to_f32((uint8_t)i) == a ||
                    (isnan(a) && isnan(f8_e4m3_to_f32((uint8_t)i))));
        assert_true(f8_e5m2_to_f32((uint8_t)i) == b ||
                    (isnan(b) && isnan(f8_e5m2_to_f32((uint8_t)i))));
    }
    for (size_t i = 0; i < x->nbytes / 4; i++) {
        const float f = enc_loadf(x->data + 4 * i);

        if (fabsf(f) > F8_E4M3_MAX)
            continue; /* torch gives NaN, puna the largest value */
        if (f32_to_f8_e4m3(f) != rounded->data[i])
            fail_msg("%a gives %02x, torch %02x", (double)f, f32_to_f8_e4m3(f), rounded->data[i]);
        tested++;
    }
    assert_true(tested > 100);
    assert_int_equal(f32_to_f8_e4m3(1e9f), 0x7E);
    assert_int_equal(f32_to_f8_e4m3(-INFINITY), 0xFE);
    st_close(s);
}

/* By hand: what the libraries make of a row of inputs. */
static void inputs(void **state)
{
    const float x[] = { 1, -0.5f, 0.3f, 8 }, tiny[] = { 0, 0, 1e-9f, 0 };
    struct weight w = { .enc = ENC_F8,
                        .rows = 1,
                        .cols = 4,
                        .p = { .act = ACT_F8, .act_bound = 1200, .act_group = 4 } };
    float y[4];

    (void)state;
    weight_act(y, &w, x); /* s = 8 / 448: 56, -28, 16.8, 448 */
    assert_true(y[0] == 56 * (8.0f / 448) && y[1] == -28 * (8.0f / 448) &&
                y[2] == 16 * (8.0f / 448) && y[3] == 8);
    w.p.act_bound = 4; /* bounds the largest input: s = 4 / 448, and 896 saturates */
    weight_act(y, &w, x);
    assert_true(y[3] == 4 && y[0] == 112 * (4.0f / 448));
    w.p.act_group = 3; /* of their own: 1, -0.5, 0.3 and 8 */
    weight_act(y, &w, x);
    assert_true(fabsf(y[0] - 1) < 1e-6f && y[3] == 4);
    w.p.act_group = 4;
    weight_act(y, &w, tiny); /* the scale has a floor: 1 / (448 * 512) */
    assert_true(y[2] == 0);
    w.p.act = ACT_F8_STATIC;
    w.p.act_scale = 0.001f;
    weight_act(y, &w, x);
    assert_true(y[3] == 448 * 0.001f);
    w.p.act = ACT_I8; /* s = 8 / 127.5: 15.9, -8, 4.8, and 127.5, which is clamped */
    weight_act(y, &w, x);
    assert_true(y[0] == 16 * (8 / 127.5f) && y[1] == -8 * (8 / 127.5f) &&
                y[2] == 5 * (8 / 127.5f) && y[3] == 127 * (8 / 127.5f));
    w.p.act = ACT_I8_STATIC;
    weight_act(y, &w, x);
    assert_true(y[3] == 127 * 0.001f && y[1] == -128 * 0.001f);
    w.p.act = ACT_BNB8;
    w.p.act_bound = 6; /* 8 stays; the scale is that of the others: 1 / 127 */
    weight_act(y, &w, x);
    assert_true(y[3] == 8 && y[0] == 127 * (1.0f / 127) && y[2] == 38 * (1.0f / 127));
    /* 0.5 / 127 * 63.5 and more: as f16 it is the tie, which goes to the even 64 */
    const float near[] = { 1, 0.49999f, -5.9999f, 6 };

    weight_act(y, &w, near); /* 5.9999 is 6 in f16 */
    assert_true(y[1] == 64 * (1.0f / 127) && y[2] == -5.9999f && y[3] == 6);
}

TEST_MAIN(cmocka_unit_test(dequantised), cmocka_unit_test(eight_bit_floats),
          cmocka_unit_test(inputs))
