/* Every encoding against blocks decoded and encoded by the gguf package, bit by bit. */
#include "support.h"

#include <math.h>

#include "format/enc/enc.h"
#include "format/safetensors.h"

static struct st *open_data(const char *name)
{
    struct err e = { 0 };
    struct st *s = NULL;

    OK(st_open(&s, data_path(name), &e), e);
    return s;
}

static const struct tensor_view *tensor(const struct st *s, const char *name)
{
    const struct tensor_view *t = st_find(s, name);

    if (!t)
        fail_msg("no tensor %s", name);
    return t;
}

static void decode_equals_gguf(void **state)
{
    static const struct {
        enum enc enc;
        const char *blocks, *values;
    } row[] = {
        { ENC_Q4_0, "Q4_0.blocks", "Q4_0.values" }, { ENC_Q4_1, "Q4_1.blocks", "Q4_1.values" },
        { ENC_Q4_K, "Q4_K.blocks", "Q4_K.values" }, { ENC_Q5_0, "Q5_0.blocks", "Q5_0.values" },
        { ENC_Q5_1, "Q5_1.blocks", "Q5_1.values" }, { ENC_Q5_K, "Q5_K.blocks", "Q5_K.values" },
        { ENC_Q6_K, "Q6_K.blocks", "Q6_K.values" }, { ENC_Q8_0, "Q8_0.blocks", "Q8_0.values" },
    };
    struct st *s = open_data("encodings/blocks.safetensors");

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        const struct tensor_view *b = tensor(s, row[i].blocks), *v = tensor(s, row[i].values);
        const struct enc_info *info = &enc_table[row[i].enc];
        const size_t n = v->nbytes / sizeof(float);
        float *y = malloc(v->nbytes);
        uint8_t *odd = malloc(b->nbytes + 1);

        assert_int_equal(b->nbytes, n / info->block * info->bytes);
        memcpy(odd + 1, b->data, b->nbytes); /* no address is special */
        info->decode(y, odd + 1, n);
        if (memcmp(y, v->data, v->nbytes))
            fail_msg("%s differs from gguf", info->name);
        free(y);
        free(odd);
    }
    st_close(s);
}

static void encode_equals_gguf(void **state)
{
    static const struct {
        enum enc enc;
        const char *name;
    } row[] = { { ENC_Q4_0, "Q4_0" }, { ENC_Q4_1, "Q4_1" }, { ENC_Q5_0, "Q5_0" },
                { ENC_Q5_1, "Q5_1" }, { ENC_Q8_0, "Q8_0" } };
    struct st *s = open_data("encodings/encoded.safetensors");
    const struct tensor_view *x = tensor(s, "x");
    float *in = malloc(x->nbytes);

    (void)state;
    memcpy(in, x->data, x->nbytes);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        const struct tensor_view *want = tensor(s, row[i].name);
        uint8_t *have = malloc(want->nbytes);

        enc_table[row[i].enc].encode(have, in, x->nbytes / sizeof(float));
        for (size_t k = 0; k < want->nbytes; k++)
            if (have[k] != want->data[k])
                fail_msg("%s: byte %zu (block %zu) is %02x, gguf has %02x", row[i].name, k,
                         k / enc_table[row[i].enc].bytes, have[k], want->data[k]);
        free(have);
    }
    free(in);
    st_close(s);
}

/* What no finite block holds must not be undefined either. */
static void encode_survives_nonsense(void **state)
{
    float x[32];
    uint8_t block[4 * 32];

    (void)state;
    for (int i = 0; i < 32; i++)
        x[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    for (int i = 0; i < ENC_COUNT; i++)
        if (enc_table[i].encode)
            enc_table[i].encode(block, x, 32);
}

static void rounding_equals_torch(void **state)
{
    static const struct {
        enum enc enc;
        const char *name;
    } row[] = { { ENC_BF16, "round.bf16" }, { ENC_F16, "round.f16" } };
    struct st *s = open_data("encodings/blocks.safetensors");
    const struct tensor_view *x = tensor(s, "round.in");
    const size_t n = x->nbytes / sizeof(float);
    float *in = malloc(x->nbytes), *back = malloc(x->nbytes);
    uint16_t *have = malloc(2 * n);

    (void)state;
    memcpy(in, x->data, x->nbytes);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        const struct tensor_view *want = tensor(s, row[i].name);

        enc_table[row[i].enc].encode(have, in, n);
        for (size_t k = 0; k < n; k++) {
            uint16_t w;

            memcpy(&w, want->data + 2 * k, 2);
            if (have[k] != w && !isnan(in[k]))
                fail_msg("%s: %a gives %04x, torch %04x", row[i].name, (double)in[k], have[k], w);
        }
        /* every 16-bit value survives the way to float32 and back */
        enc_table[row[i].enc].decode(back, have, n);
        enc_table[row[i].enc].encode(have, back, n);
        for (size_t k = 0; k < n; k++) {
            uint16_t w;

            memcpy(&w, want->data + 2 * k, 2);
            if (have[k] != w && !isnan(in[k]))
                fail_msg("%s: %04x is not stable", row[i].name, w);
        }
    }
    free(in);
    free(back);
    free(have);
    st_close(s);
}

static void f32_is_itself(void **state)
{
    const float x[3] = { 1.5f, -0.0f, 3e38f };
    uint8_t bytes[13];
    float y[3];

    (void)state;
    enc_table[ENC_F32].encode(bytes + 1, x, 3);
    enc_table[ENC_F32].decode(y, bytes + 1, 3);
    assert_memory_equal(x, y, sizeof(x));
}

static void table_is_consistent(void **state)
{
    size_t n;

    (void)state;
    for (int i = 0; i < ENC_COUNT; i++) {
        assert_int_equal(enc_from_name(enc_table[i].name), i);
        if (enc_table[i].gguf >= 0)
            assert_int_equal(enc_from_gguf((uint32_t)enc_table[i].gguf), i);
        assert_true(2048 % enc_table[i].block == 0);
    }
    assert_int_equal(enc_from_name("Q4_K"), ENC_Q4_K);
    assert_int_equal(enc_from_name("q9_9"), -1);
    assert_int_equal(enc_from_gguf(4), -1);
    assert_int_equal(enc_from_gguf(UINT32_MAX), -1);
    assert_true(enc_size(ENC_Q4_K, 512, 256, &n));
    assert_int_equal(n, 288);
    assert_false(enc_size(ENC_Q4_K, 512, 128, &n));
    assert_false(enc_size(ENC_F32, UINT64_MAX / 2, 1, &n));
    assert_true(enc_size(ENC_F32, 0, 1, &n));
    assert_int_equal(n, 0);
}

TEST_MAIN(cmocka_unit_test(decode_equals_gguf), cmocka_unit_test(encode_equals_gguf),
          cmocka_unit_test(encode_survives_nonsense), cmocka_unit_test(rounding_equals_torch),
          cmocka_unit_test(f32_is_itself), cmocka_unit_test(table_is_consistent))
