/* Codes, scales and maps as bitsandbytes makes them (tests/record/train_parts.py). */
#include <math.h>

#include "base/mem.h"
#include "format/enc/bnb_encode.h"
#include "format/enc/floats.h"
#include "format/safetensors.h"
#include "support.h"

static const struct tensor_view *golden(struct st *s, const char *name)
{
    const struct tensor_view *t = st_find(s, name);

    if (!t)
        fail_msg("%s is not there", name);
    return t;
}

static struct st *open_golden(void)
{
    struct st *s;
    struct err e;

    OK(st_open(&s, data_path("train/parts.safetensors"), &e), e);
    return s;
}

/* The last bits of torch's linspace depend on its vector width. */
static void test_maps(void **state)
{
    struct st *s = open_golden();

    (void)state;
    for (int sign = 0; sign < 2; sign++) {
        const uint8_t *want = golden(s, sign ? "map.signed" : "map.unsigned")->data;
        float map[256];

        bnb_dynamic_map(map, sign);
        for (size_t i = 0; i < 256; i++) {
            const float w = enc_loadf(want + 4 * i);

            if (fabsf(map[i] - w) > 3e-7f * fabsf(w))
                fail_msg("value %zu is %.9g, %.9g wanted", i, (double)map[i], (double)w);
        }
    }
    st_close(s);
}

/* Every value goes to its nearest: beside every bound, and beyond both ends. */
static void test_nearest(void **state)
{
    (void)state;
    for (int sign = 0; sign < 2; sign++) {
        struct bnb_map m;
        float x[513] = { 1 };
        uint8_t code[513];

        bnb_map_init(&m, sign);
        for (int i = 0; i < 255; i++) {
            x[1 + 2 * i] = nextafterf(m.bound[i], -2);
            x[2 + 2 * i] = nextafterf(m.bound[i], 2);
        }
        assert_true(bnb_encode8(code, &m, x, 511) == 1);
        assert_int_equal(code[0], 255);
        for (int i = 0; i < 255; i++) {
            assert_int_equal(code[1 + 2 * i], i);
            assert_int_equal(code[2 + 2 * i], i + 1);
        }
        memset(x, 0, sizeof(x));
        assert_true(bnb_encode8(code, &m, x, 3) == 0);
        assert_true(m.map[code[2]] == 0);
    }
}

static void one_kind(struct st *s, const char *kind, const float map[16])
{
    const struct tensor_view *w = golden(s, "w"), *t;
    const size_t n = w->nbytes / 2, blocks = (n + 63) / 64;
    float *x = xmalloc(n * sizeof(*x)), *absmax = xmalloc(blocks * sizeof(*absmax));
    uint8_t *codes = xcalloc(n, 1);
    char name[40];
    struct bnb_map m8;
    double mean = 0;

    bf16_decode_row(x, w->data, n);
    for (size_t b = 0; b < blocks; b++) {
        const size_t len = n - b * 64 < 64 ? n - b * 64 : 64;

        absmax[b] = bnb_encode4(codes + b * 32, map, x + b * 64, len);
        mean += (double)absmax[b] / (double)blocks;
    }
    snprintf(name, sizeof(name), "%s.codes", kind);
    t = golden(s, name);
    assert_int_equal(t->nbytes, n / 2);
    assert_memory_equal(codes, t->data, n / 2);

    snprintf(name, sizeof(name), "%s.offset", kind);
    const float offset = enc_loadf(golden(s, name)->data);

    assert_true(fabs(mean - (double)offset) < 1e-7);
    bnb_map_init(&m8, true);
    for (size_t b = 0; b < blocks; b++)
        absmax[b] -= offset;
    snprintf(name, sizeof(name), "%s.nested", kind);
    for (size_t b = 0; b < blocks; b += 256)
        assert_true(bnb_encode8(codes + b, &m8, absmax + b, blocks - b < 256 ? blocks - b : 256) ==
                    enc_loadf(golden(s, name)->data + b / 256 * 4));
    snprintf(name, sizeof(name), "%s.absmax", kind);
    assert_memory_equal(codes, golden(s, name)->data, blocks);
    free(x);
    free(absmax);
    free(codes);
}

static void test_4bit(void **state)
{
    struct st *s = open_golden();

    (void)state;
    one_kind(s, "nf4", bnb_nf4);
    one_kind(s, "fp4", bnb_fp4);
    st_close(s);
}

TEST_MAIN(cmocka_unit_test(test_maps), cmocka_unit_test(test_nearest), cmocka_unit_test(test_4bit))
