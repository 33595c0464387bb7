/* The network against what transformers computed from the same files. */
#include <math.h>

#include "support.h"
#include "support_model.h"

#include "base/json.h"

#define TINY        data_path("tiny-llama31")
#define TINY_GOLDEN data_path("golden/tiny-llama31.safetensors")

enum { ROWS = 96, V = 1024 }; /* of the tiny model's goldens: ids [2, 96], logits [2, 96, 1024] */

static int32_t argmax(const float *x, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return (int32_t)best;
}

/* Top-two distance of a row. */
static float margin(const float *x, size_t n)
{
    float a = -1e30f, b = -1e30f;

    for (size_t i = 0; i < n; i++) {
        if (x[i] > a) {
            b = a;
            a = x[i];
        } else if (x[i] > b) {
            b = x[i];
        }
    }
    return a - b;
}

/* Logits of both golden rows, or of the first at position `first`: [n_seq * ROWS, V] */
static float *tiny_logits(enum compute compute, int isa, size_t n_seq, int32_t first)
{
    struct engine *g = engine_for(TINY, compute, 2, isa, 0);
    struct session *s = session_for(g, 256);
    float *out = calloc(n_seq * ROWS * V, sizeof(*out));
    struct err e;
    size_t n;
    int32_t *ids = golden(TINY_GOLDEN, "ids", ENC_I32, &n);

    for (size_t i = 0; i < n_seq; i++) {
        session_cut(s, 0);
        session_set_position(s, first);
        OK(session_eval_rows(s, ids + i * ROWS, ROWS, NULL, 0, out + i * ROWS * V, &e), e);
    }
    free(ids);
    session_free(s);
    engine_close(g);
    return out;
}

static void tiny_f32(void **state)
{
    size_t n;
    float *want = golden(TINY_GOLDEN, "logits_f32", ENC_F32, &n);
    static const char *isa[] = { "generic", "avx2", "avx512", "avx512_bf16", "amx" };

    (void)state;
    assert_int_equal(n, 2 * ROWS * V);
    for (size_t i = 0; i < ARRAY_LEN(isa); i++) {
        unsigned flags;

        if (!isa_here(isa[i], &flags))
            continue;
        float *got = tiny_logits(COMPUTE_F32, (int)flags, 2, 0);
        const double err = rel_error(got, want, n);

        if (err > 1e-3)
            fail_msg("%s: relative error %g", isa[i], err);
        free(got);
    }
    free(want);
}

static void tiny_bf16(void **state)
{
    size_t n, m;
    float *want = golden(TINY_GOLDEN, "logits_f32", ENC_F32, &n);
    int32_t *top = golden(TINY_GOLDEN, "logits_bf16_argmax", ENC_I32, &m);

    (void)state;
    for (enum compute c = COMPUTE_AUTO; c <= COMPUTE_BF16; c++) {
        float *got = tiny_logits(c, -1, 2, 0);

        assert_true(rel_error(got, want, n) < 2e-2);
        for (size_t t = 0; t < 2 * ROWS; t++)
            if (margin(want + t * V, V) > 0.05f) {
                assert_int_equal(argmax(got + t * V, V), argmax(want + t * V, V));
                if (c == COMPUTE_BF16)
                    assert_int_equal(argmax(got + t * V, V), top[t]);
            }
        free(got);
    }
    free(want);
    free(top);
}

static void tiny_far_positions(void **state)
{
    size_t n, one;
    float *want = golden(TINY_GOLDEN, "far_logits_f32", ENC_F32, &n);
    int32_t *first = golden(TINY_GOLDEN, "far_position_start", ENC_I32, &one);
    float *got = tiny_logits(COMPUTE_F32, -1, 1, first[0]);

    (void)state;
    assert_int_equal(first[0], 120000);
    assert_true(rel_error(got, want, n) < 1e-3);
    free(got);
    free(want);
    free(first);
}

/* Rows that nobody wants are left out of the last layer; the rest, and the cache, is as ever. */
static void tiny_few_rows(void **state)
{
    static const int32_t pos[] = { 3, 41, ROWS - 2 };
    struct engine *g = engine_for(TINY, COMPUTE_AUTO, 2, -1, 0);
    struct session *s = session_for(g, 256);
    float *all = tiny_logits(COMPUTE_AUTO, -1, 1, 0), got[ARRAY_LEN(pos) * V];
    struct err e;
    size_t n;
    int32_t *ids = golden(TINY_GOLDEN, "ids", ENC_I32, &n);

    (void)state;
    OK(session_eval_rows(s, ids, ROWS - 1, pos, ARRAY_LEN(pos), got, &e), e);
    for (size_t i = 0; i < ARRAY_LEN(pos); i++)
        assert_memory_equal(got + i * V, all + (size_t)pos[i] * V, V * sizeof(*got));
    OK(session_eval_rows(s, ids + ROWS - 1, 1, NULL, 0, got, &e), e);
    assert_memory_equal(got, all + (ROWS - 1) * V, V * sizeof(*got));
    session_free(s);
    engine_close(g);
    free(all);
    free(ids);
}

static void tiny_long_context(void **state)
{
    size_t n, n_ids, n_pos;
    float *want = golden(TINY_GOLDEN, "long_logits_f32", ENC_F32, &n);
    int32_t *ids = golden(TINY_GOLDEN, "long_ids", ENC_I32, &n_ids);
    int32_t *pos = golden(TINY_GOLDEN, "long_pos", ENC_I32, &n_pos);
    struct engine *g = engine_for(TINY, COMPUTE_F32, 2, -1, 0);
    struct session *s = session_for(g, n_ids);
    float *got = calloc(n, sizeof(*got));
    struct err e;

    (void)state;
    assert_true(n_ids > 8192);
    OK(session_eval_rows(s, ids, n_ids, pos, n_pos, got, &e), e);
    for (size_t i = 0; i < n_pos; i++) {
        const double err = rel_error(got + i * V, want + i * V, V);

        if (err > 1e-3)
            fail_msg("position %d: relative error %g", pos[i], err);
    }
    session_free(s);
    engine_close(g);
    free(got);
    free(want);
    free(ids);
    free(pos);
}

static void tiny_greedy(void **state)
{
    size_t n;
    int32_t *want = golden(TINY_GOLDEN, "greedy", ENC_I32, &n);
    struct engine *g = engine_for(TINY, COMPUTE_F32, 1, -1, 0);
    struct session *s = session_for(g, 256);
    static const int32_t eos[] = { 1009, 1010, 1011 };
    struct gen_request r = {
        .prompt = want, .n_prompt = 16, .max_new_tokens = 64, .eos = eos, .n_eos = ARRAY_LEN(eos)
    };
    struct gen_result out;
    struct err e;

    (void)state;
    sampling_init(&r.sampling);
    r.sampling.temperature = 0;
    OK(generate(s, &r, &out, &e), e);
    assert_int_equal(out.ids.n, n - 16);
    assert_memory_equal(out.ids.p, want + 16, (n - 16) * sizeof(*want));
    assert_int_equal(out.finish, FINISH_STOP);
    gen_result_release(&out);
    session_free(s);
    engine_close(g);
    free(want);
}

static void smollm2_logits(void **state)
{
    const char *path = data_path("smollm2/logits.safetensors");
    size_t n, n_ids;
    float *want = golden(path, "logits_f32", ENC_F32, &n);
    int32_t *ids = golden(path, "ids", ENC_I32, &n_ids), rows[16];
    struct err e;

    (void)state;
    for (int i = 0; i < 16; i++)
        rows[i] = 8 * i;
    /* 8-bit activations in groups of 32, the peer's grain: 5.7e-2 measured */
    for (enum compute c = COMPUTE_AUTO; c <= COMPUTE_F32; c++) {
        struct engine *g = engine_for(smollm2_path(), c, 2, -1, 0);
        struct session *s = session_for(g, 256);
        float *got = calloc(n, sizeof(*got));

        OK(session_eval_rows(s, ids, n_ids, rows, 16, got, &e), e);
        const double err = rel_error(got, want, n);

        print_message("smollm2 logits, compute %d: relative error %.2e\n", (int)c, err);
        assert_true(err < (c == COMPUTE_F32 ? 1e-3 : 8e-2));
        free(got);
        session_free(s);
        engine_close(g);
    }
    free(want);
    free(ids);
}

/* -log softmax(row)[id] in double precision */
static double surprise(const float *row, size_t n, int32_t id)
{
    double max = row[0], sum = 0;

    for (size_t i = 1; i < n; i++)
        max = row[i] > max ? row[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += exp(row[i] - max);
    return log(sum) + max - row[id];
}

/* All 2048 recorded tokens, 128 at a time; the first passes have a figure of their own. */
static void smollm2_perplexity(void **state)
{
    enum { STEP = 128, FEW = 2 * STEP, VOCAB = 49152 };
    struct engine *g = engine_for(smollm2_path(), COMPUTE_F32, 2, -1, STEP);
    json_t *want;
    struct err e;

    (void)state;
    OK(json_parse_file(&want, data_path("smollm2/perplexity.json"), 1 << 20, &e), e);
    const json_t *list = json_object_get(want, "ids");
    const size_t n = json_array_size(list);
    int32_t *ids = calloc(n, sizeof(*ids));
    float *logits = calloc((size_t)STEP * VOCAB, sizeof(*logits));
    struct session *s = session_for(g, n);
    double nll = 0, few = 0;

    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    assert_int_equal(n, 2048);
    for (size_t at = 0; at < (SANITIZED ? FEW : n); at += STEP) {
        OK(session_eval_rows(s, ids + at, STEP, NULL, 0, logits, &e), e);
        for (size_t i = 0; i < STEP && at + i + 1 < n; i++)
            nll += surprise(logits + i * VOCAB, VOCAB, ids[at + i + 1]);
        if (at + STEP == FEW)
            few = exp(nll / FEW);
    }
    const double got = exp(nll / (double)(n - 1));
    const double ref = json_real_value(json_object_get(want, "perplexity"));

    print_message("smollm2 perplexity: %.4f of %d tokens\n", few, FEW);
    assert_true(fabs(few / 21.7924 - 1) < 1e-3); /* of the run that meets the recorded one */
    if (!SANITIZED) {
        print_message("smollm2 perplexity: %.4f, recorded %.4f\n", got, ref);
        assert_true(fabs(got / ref - 1) < 1e-3);
    }
    session_free(s);
    engine_close(g);
    json_decref(want);
    free(ids);
    free(logits);
}

TEST_MAIN(cmocka_unit_test(tiny_f32), cmocka_unit_test(tiny_bf16),
          cmocka_unit_test(tiny_far_positions), cmocka_unit_test(tiny_few_rows),
          cmocka_unit_test(tiny_long_context), cmocka_unit_test(tiny_greedy),
          cmocka_unit_test(smollm2_logits), cmocka_unit_test(smollm2_perplexity))
