/* LoRA adapters: logits against PEFT, several in one batch, on every base encoding. */
#include "base/mem.h"
#include "model/lora.h"
#include "support.h"
#include "support_model.h"

enum { T = 64, V = 1024 };

static const char final[] = "tests/data/adapters/final";
static const char after[] = "tests/data/adapters/lora_after.safetensors";
static const char more[] = "tests/data/adapters/more.safetensors";
static const char tiny[] = "tests/data/tiny-llama31";

/* n ids with one adapter or none */
static float *logits_for(struct engine *g, const struct lora *l, const int32_t *ids, size_t n)
{
    struct session *s = session_for(g, 256);
    float *out = xcalloc(n * V, sizeof(*out));
    struct err e;

    session_set_adapter(s, l);
    OK(session_eval_rows(s, ids, n, NULL, 0, out, &e), e);
    session_free(s);
    return out;
}

static float *logits_of(struct engine *g, const struct lora *l, const int32_t *ids)
{
    return logits_for(g, l, ids, T);
}

static struct lora *adapter(struct engine *g, const char *dir)
{
    struct lora *l;
    struct err e;

    OK(engine_adapter(&l, g, dir, &e), e);
    return l;
}

static void equals_peft(void **state)
{
    struct engine *g = engine_for(tiny, COMPUTE_F32, 2, -1, 0);
    struct lora *l = adapter(g, final);
    size_t n;
    int32_t *ids = golden(after, "ids", ENC_I32, &n);
    float *want = golden(after, "logits_adapter", ENC_F32, &n);
    float *got = logits_of(g, l, ids), *without = logits_of(g, NULL, ids);

    (void)state;
    assert_true(rel_error(got, want, n) < 1e-3);
    assert_true(rel_error(without, want, n) > 1e-1);
    lora_close(l);
    engine_close(g);
    free(ids);
    free(want);
    free(got);
    free(without);
}

/* DoRA, biases, whole modules, embedding and tokens, against PEFT: tests/record/adapters.py. */
static void equals_peft_more(void **state)
{
    static const char *const kind[] = { "dora", "saved", "embed", "tokens", "whole" };
    struct engine *g = engine_for(tiny, COMPUTE_F32, 2, -1, 0);
    size_t n, n_ids;
    int32_t *ids = golden(more, "ids", ENC_I32, &n_ids);
    float *without = logits_for(g, NULL, ids, n_ids);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(kind); i++) {
        char *path = xasprintf("tests/data/adapters/%s", kind[i]);
        struct lora *l = adapter(g, path);
        float *want = golden(more, kind[i], ENC_F32, &n);
        float *got = logits_for(g, l, ids, n_ids);

        assert_int_equal(n, n_ids * V);
        assert_true(rel_error(got, want, n) < 1e-5);
        assert_true(rel_error(without, want, n) > 1e-2);
        lora_close(l);
        free(path);
        free(want);
        free(got);
    }
    engine_close(g);
    free(ids);
    free(without);
}

/* Eight sequences, each with an adapter of its own or none, in one pass over their last rows. */
static void check_batch(const char *base)
{
    enum { SEQ = 8, ROWS = 7, MADE = 3 };
    static const char *const kind[] = { "rslora", "pattern", "all",   "dora",
                                        "saved",  "embed",   "tokens" };
    struct engine *g = engine_for(base, COMPUTE_AUTO, 2, -1, 0);
    struct lora *l[SEQ] = { NULL }; /* the first sequence has none */
    char *path[SEQ] = { NULL };
    struct kv_cache kv;
    struct err e;
    size_t n;
    int32_t *ids = golden(after, "ids", ENC_I32, &n), block[SEQ];
    int32_t token[SEQ * ROWS], pos[SEQ * ROWS], seq[SEQ * ROWS], want[SEQ * ROWS], prompt[SEQ];
    const int32_t *table[SEQ];
    float *got = xcalloc(SEQ * ROWS * V, sizeof(*got));
    float *alone[SEQ];

    for (size_t i = 0; i < SEQ; i++) {
        if (i) {
            path[i] = i <= MADE ? adapter_new(final, kind[i - 1])
                                : xasprintf("tests/data/adapters/%s", kind[i - 1]);
            l[i] = adapter(g, path[i]);
        }
        block[i] = (int32_t)(SEQ - 1 - i);
        table[i] = &block[i];
        prompt[i] = ROWS; /* as alone */
        alone[i] = logits_of(g, l[i], ids);
        for (size_t t = 0; t < ROWS; t++) {
            const size_t at = i * ROWS + t;

            token[at] = ids[t];
            pos[at] = (int32_t)t;
            seq[at] = (int32_t)i;
            want[at] = (int32_t)at;
        }
    }
    OK(kv_new(&kv, g->ctx, g->model->hp, g->model->hp->dtype, SEQ, &e), e);
    const struct batch b = { .T = SEQ * ROWS,
                             .token = token,
                             .pos = pos,
                             .slot = pos,
                             .seq = seq,
                             .n_seq = SEQ,
                             .prompt = prompt,
                             .block_table = table,
                             .want = want,
                             .n_want = SEQ * ROWS,
                             .lora = (const struct lora *const *)l };

    OK(llama_forward(g->ctx, g->model, g->acts, &kv, &b, got, &e), e);
    for (size_t i = 0; i < SEQ; i++) {
        assert_memory_equal(got + i * ROWS * V, alone[i], ROWS * V * sizeof(*got));
        for (size_t k = 0; k < i; k++) /* and they differ from one another */
            assert_true(rel_error(alone[i], alone[k], T * V) > 1e-2);
    }
    kv_release(&kv);
    for (size_t i = 0; i < SEQ; i++) {
        lora_close(l[i]);
        if (i && i <= MADE)
            quantised_free(path[i]);
        else
            free(path[i]);
        free(alone[i]);
    }
    engine_close(g);
    free(ids);
    free(got);
}

static void one_batch(void **state)
{
    static const char *const base[] = { "awq", "bnb-nf4-dq", "fbgemm-fp8", "gptq-actorder" };

    (void)state;
    check_batch(tiny);
    for (size_t i = 0; i < ARRAY_LEN(base); i++) {
        char *path = quantised_new(base[i]);

        check_batch(path);
        quantised_free(path);
    }
}

/* A change of adapter forgets the cache: its keys and values were another model's. */
static void change(void **state)
{
    struct engine *g = engine_for(tiny, COMPUTE_F32, 1, -1, 0);
    struct lora *l = adapter(g, final);
    struct session *s = session_for(g, 128);
    size_t n;
    int32_t *ids = golden(after, "ids", ENC_I32, &n);
    const float *logits;
    struct err e;

    (void)state;
    OK(session_eval(s, ids, 8, &logits, NULL, NULL, NULL, &e), e);
    session_set_adapter(s, NULL);
    assert_int_equal(session_len(s), 8);
    session_set_adapter(s, l);
    assert_int_equal(session_len(s), 0);
    session_free(s);
    lora_close(l);
    engine_close(g);
    free(ids);
}

TEST_MAIN(cmocka_unit_test(equals_peft), cmocka_unit_test(equals_peft_more),
          cmocka_unit_test(one_batch), cmocka_unit_test(change))
