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

enum { MATRIX = 256 << 20 };

static size_t large(const struct ctx *c, const struct weight *w)
{
    (void)c;
    (void)w;
    return MATRIX;
}

static int never(struct ctx *c, void *to, const void *from, size_t n, struct err *e)
{
    (void)c;
    (void)to;
    (void)from;
    return err_set(e, ERR_USAGE, "%zu bytes", n);
}

static void refuses_away(const struct engine *g, const struct engine_opts *o, size_t have,
                         size_t host, const char *says)
{
    struct err e = { 0 };
    int64_t away = 7;

    assert_int_equal(engine_offload(&away, g, o, have, host, &e), -1);
    assert_int_equal(e.code, ERR_MEMORY);
    assert_int_equal(away, 0);
    if (!strstr(e.msg, says))
        fail_msg("%s: %s", says, e.msg);
}

/* Which layers a GPU that is too small leaves in host memory, asked of an engine on the CPU: four
 * of seven matrices, which would be large on the device. */
static void offloads(void **state)
{
    struct engine *g = engine_for(data_path("tiny-llama31"), COMPUTE_AUTO, 1, -1, 64);
    const struct backend *const cpu = g->ctx->be;
    struct backend gpu = *cpu;
    struct engine_opts o = { .offload_tokens = 64 };
    const size_t layer = (size_t)7 * MATRIX, norms = 9 * (size_t)g->model->hp->dim * 2;
    const size_t need = 4 * layer + (g->model->hp->tied ? 1 : 2) * (size_t)MATRIX + norms +
                        acts_bytes(g->model->hp, 64);
    int64_t away = 7;
    struct err e = { 0 };

    (void)state;
    gpu.upload = never; /* not the host */
    gpu.placed_size = large;
    g->ctx->be = &gpu;
    OK(engine_offload(&away, g, &o, need, 1, &e), e);
    assert_int_equal(away, 0);
    /* two buffers take the room of two layers; the GPU's libraries want some too */
    refuses_away(g, &o, need - 1, 0, "--offload (3 of 4 layers in host memory, 5.25 GiB), or");
    refuses_away(g, &o, need - 1, 3 * layer - 1, "a smaller encoding, or --device cpu");
    o.offload = true;
    OK(engine_offload(&away, g, &o, need - 1, 3 * layer, &e), e);
    assert_int_equal(away, 3);
    refuses_away(g, &o, need - 1, 3 * layer - 1, "3 of 4 layers (--offload), 5.25 GiB, need host");
    OK(engine_offload(&away, g, &o, need - layer, 0, &e), e);
    assert_int_equal(away, 4);
    refuses_away(g, &o, need - 2 * layer, 0, "with all layers in host memory (--offload) the GPU");
    g->ctx->be = cpu;
    engine_close(g);
}

TEST_MAIN(cmocka_unit_test(scratch), cmocka_unit_test(refuses), cmocka_unit_test(offloads))
