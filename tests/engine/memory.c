/* The plan beside what an engine really holds. */
#include "support.h"
#include "support_model.h"

#include "base/mem.h"
#include "engine/memory.h"

enum { TOKENS = 200 };

static void evaluate(struct session *s, size_t n, int32_t vocab)
{
    int32_t *ids = calloc(n, sizeof(*ids));
    const float *logits;
    struct err e;

    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i * 7919 % (size_t)vocab);
    OK(session_eval(s, ids, n, &logits, NULL, NULL, NULL, &e), e);
    free(ids);
}

/* The backend's rooms are what was planned, and at most the quarter more that they grow by. */
static void scratch(void **state)
{
    static const enum compute computes[] = { COMPUTE_AUTO, COMPUTE_F32, COMPUTE_BF16 };
    const char *const path[] = { data_path("tiny-llama31"), smollm2_path() };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(path); i++) {
        for (size_t k = 0; k < ARRAY_LEN(computes); k++) {
            struct engine *g = engine_for(path[i], computes[k], 2, -1, 64);
            struct session *s = session_for(g, 256);
            struct plan_use u;

            evaluate(s, TOKENS, (int32_t)g->model->hp->vocab);
            engine_plan(&u, g, 256, 1);
            const size_t is = cpu_ctx_scratch(g->ctx);

            if (is < u.scratch || is > u.scratch + u.scratch / 4 + 6 * 64)
                fail_msg("%s, compute %d: %zu bytes planned, %zu held", path[i], (int)computes[k],
                         u.scratch, is);
            assert_int_equal(u.kv_cache, kv_bytes(g->model->hp, g->kv, 4));
            assert_int_equal(u.activations, acts_bytes(g->model->hp, 64));
            assert_int_equal(u.weights, checkpoint_bytes(g->model->ckpt));
            session_free(s);
            engine_close(g);
        }
    }
}

static void refuses(void **state)
{
    struct engine *g = engine_for(data_path("tiny-llama31"), COMPUTE_AUTO, 1, -1, 0);
    struct err e = { 0 };

    (void)state;
    if (engine_admit(g, 4096, 1, &e))
        fail_msg("%s", e.msg);
    assert_true(engine_fits(g, 4096, 1));
    /* 2^50 tokens of 1 KiB */
    assert_false(engine_fits(g, (size_t)1 << 50, 1));
    assert_int_equal(engine_admit(g, (size_t)1 << 50, 1, &e), -1);
    assert_int_equal(e.code, ERR_MEMORY);
    assert_non_null(strstr(e.msg, "GiB are available: "));
    engine_close(g);
}

TEST_MAIN(cmocka_unit_test(scratch), cmocka_unit_test(refuses))
