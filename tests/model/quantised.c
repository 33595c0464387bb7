/* Logits of quantised checkpoints against those of the libraries that wrote them. */
#include "base/mem.h"
#include "support.h"
#include "support_model.h"

enum { T = 96, V = 1024 };

static const struct {
    const char *name, *logits;
    double f32, fast, bf16; /* limits on the relative error */
} model[] = {
    /* the fast path has inputs of 8 bits in groups of 32: 2.4e-2 measured */
    { "awq", "logits_dequant_f32", 1e-3, 3e-2, 2e-2 },
    { "gptq", "logits_dequant_f32", 1e-3, 3e-2, 2e-2 },
    { "gptq-actorder", "logits_dequant_f32", 1e-3, 3e-2, 2e-2 },
    { "gptq-asym", "logits_dequant_f32", 1e-3, 3e-2, 2e-2 },
    { "bnb-nf4", "logits_dequant_f32", 1e-3, 2e-2, 2e-2 },
    { "bnb-nf4-dq", "logits_dequant_f32", 1e-3, 2e-2, 2e-2 },
    /* Rounding to 8 bits amplifies any difference of the inputs: the same rule on inputs
     * rounded to bf16 first is as far from itself as from no rule at all (3e-2). What the rule
     * gives with the rest in float32 is tested below. */
    { "fbgemm-fp8", "logits_weight_only_f32", 1e-3, 5e-2, 2e-2 },
    { "fbgemm-fp8", "logits_dynamic_act_f32", 5e-2, 5e-2, 5e-2 },
    /* the library's own run, in bf16 with inputs of 8 bits: the same */
    { "bnb-int8", "logits_dequant_f32", 6e-2, 6e-2, 6e-2 },
};

static size_t argmax(const float *x)
{
    size_t best = 0;

    for (size_t i = 1; i < V; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

static float margin(const float *x)
{
    const size_t best = argmax(x);
    float second = -1e30f;

    for (size_t i = 0; i < V; i++)
        second = i != best && x[i] > second ? x[i] : second;
    return x[best] - second;
}

static float *logits_of(const char *path, enum compute compute, int threads, size_t chunk,
                        const int32_t *ids)
{
    struct engine *g = engine_for(path, compute, threads, -1, chunk);
    struct session *s = session_for(g, 256);
    float *out = xcalloc(T * V, sizeof(*out));
    struct err e;

    OK(session_eval_rows(s, ids, T, NULL, 0, out, &e), e);
    session_free(s);
    engine_close(g);
    return out;
}

static void logits(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(model); i++) {
        char *path = quantised_new(model[i].name), file[256];
        size_t n;

        snprintf(file, sizeof(file), "tests/data/quantised/%s/golden.safetensors", model[i].name);
        float *want = golden(file, model[i].logits, ENC_F32, &n);
        int32_t *ids = golden(file, "ids", ENC_I32, &n);

        for (enum compute c = COMPUTE_AUTO; c <= COMPUTE_BF16; c++) {
            const double limit = c == COMPUTE_F32    ? model[i].f32
                                 : c == COMPUTE_BF16 ? model[i].bf16
                                                     : model[i].fast;
            float *got = logits_of(path, c, 2, 0, ids);
            const double err = rel_error(got, want, T * V);

            if (!(err < limit))
                fail_msg("%s, compute %d: relative error %g, limit %g", model[i].name, (int)c, err,
                         limit);
            for (size_t t = 0; limit <= 2e-2 && t < T; t++)
                if (margin(want + t * V) > 0.05f)
                    assert_int_equal(argmax(got + t * V), argmax(want + t * V));
            free(got);
        }
        free(want);
        free(ids);
        quantised_free(path);
    }
}

/* The same matrices as compressed-tensors packs them: the same decoded values, hence the same
 * logits. */
static void packed(void **state)
{
    static const char *const name[] = { "gptq", "gptq-asym", "gptq-actorder" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(name); i++) {
        char *gptq = quantised_new(name[i]), *path = quantised_new(name[i]), file[256];
        size_t n;

        repack(path);
        snprintf(file, sizeof(file), "tests/data/quantised/%s/golden.safetensors", name[i]);
        int32_t *ids = golden(file, "ids", ENC_I32, &n);

        for (enum compute c = COMPUTE_AUTO; c <= COMPUTE_BF16; c++) {
            float *want = logits_of(gptq, c, 2, 0, ids), *got = logits_of(path, c, 1, 11, ids);

            assert_memory_equal(got, want, T * V * sizeof(*got));
            free(want);
            free(got);
        }
        free(ids);
        quantised_free(gptq);
        quantised_free(path);
    }
}

/* The same bits for any number of threads and any cut of the prompt. */
static void invariant(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(model); i++) {
        char *path = quantised_new(model[i].name), file[256];
        size_t n;

        snprintf(file, sizeof(file), "tests/data/quantised/%s/golden.safetensors", model[i].name);
        int32_t *ids = golden(file, "ids", ENC_I32, &n);
        float *whole = logits_of(path, COMPUTE_AUTO, 1, 0, ids);
        float *cut = logits_of(path, COMPUTE_AUTO, 3, 7, ids);

        assert_memory_equal(whole, cut, T * V * sizeof(*cut));
        free(whole);
        free(cut);
        free(ids);
        quantised_free(path);
    }
}

/* The rules of the libraries alone (tests/record/quantised.py): everything else in float32 on both
 * sides, every `stride`th row. */
static const struct {
    const char *name, *file;
    size_t n, stride; /* ids */
    enum compute compute;
    bool alone; /* each id a sequence of its own; the typical one counts */
} rule[] = {
    { "fbgemm-fp8", "exact", 96, 8, COMPUTE_AUTO, false },
    { "bnb-int8", "exact", 96, 8, COMPUTE_AUTO, true },
    { "small/fp8-blocks", "golden", 32, 4, COMPUTE_AUTO, false },
    { "small/fp8-dynamic", "golden", 32, 4, COMPUTE_AUTO, false },
    { "small/gptq8", "golden", 32, 4, COMPUTE_F32, false },
    { "small/gptq8-actorder", "golden", 32, 4, COMPUTE_F32, false },
    { "small/w4a16-asym", "golden", 32, 4, COMPUTE_F32, false },
    { "small/w8a16", "golden", 32, 4, COMPUTE_F32, false },
    { "small/w8a8", "golden", 32, 4, COMPUTE_AUTO, false },
};

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void rule_at(size_t i, const char *path, int isa)
{
    const size_t n = rule[i].n, rows = n / rule[i].stride;
    char file[256];
    size_t n_ids, n_want;

    snprintf(file, sizeof(file), "tests/data/quantised/%s/%s.safetensors", rule[i].name,
             rule[i].file);
    float *want = golden(file, "logits", ENC_F32, &n_want);
    int32_t *ids = golden(file, "ids", ENC_I32, &n_ids);
    struct engine *g = engine_for(path, rule[i].compute, 2, isa, 0);
    float *got = xcalloc(n * V, sizeof(*got));
    double err[16];
    struct err e;

    assert_int_equal(n_ids, n);
    assert_int_equal(n_want, rows * V);
    for (size_t t = 0; t < n; t += rule[i].alone ? 1 : n) {
        struct session *s = session_for(g, 128);

        OK(session_eval_rows(s, ids + t, rule[i].alone ? 1 : n, NULL, 0, got + t * V, &e), e);
        session_free(s);
    }
    for (size_t r = 0; r < rows; r++)
        err[r] = rel_error(got + ((r + 1) * rule[i].stride - 1) * V, want + r * V, V);
    qsort(err, rows, sizeof(*err), ascending);
    if (!(err[rule[i].alone ? rows / 2 : rows - 1] < 1e-3))
        fail_msg("%s, isa %d: relative errors of %zu rows up to %g, half below %g", rule[i].name,
                 isa, rows, err[rows - 1], err[rows / 2]);
    engine_close(g);
    free(got);
    free(want);
    free(ids);
}

static void rules(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rule); i++) {
        char *path = quantised_new(rule[i].name);

        widen(path);
        rule_at(i, path, -1);
        rule_at(i, path, 0);
        quantised_free(path);
    }
}

TEST_MAIN(cmocka_unit_test(logits), cmocka_unit_test(packed), cmocka_unit_test(invariant),
          cmocka_unit_test(rules))
