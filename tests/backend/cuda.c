/* The CUDA backend: every op and every encoding against the scalar truth on awkward shapes, goldens
 * of tiny models, recorded passes. Skipped, and counted as skipped, where there is no GPU. */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/turn.h"
#include "model/deberta.h"
#include "planes.h"
#include "support_gpu.h"
#include "support_model.h"

/* Products of w by x [T, cols], plain and added, against ref. */
static void check_linear(struct ctx *c, struct weight *w, size_t T, double limit)
{
    const size_t n = T * w->rows, m = T * w->cols;
    struct ctx ref = { .op = &ops_ref, .compute = c->compute };
    float *x = random_floats(m, T + w->cols), *want = xcalloc(n, sizeof(*want));
    float *got = xcalloc(2 * n, sizeof(*got));
    const struct linear_out truth = { want, w };

    ops_ref.linear(&ref, &truth, 1, x, T);
    for (size_t i = 0; i < n; i++)
        got[i] = NAN, got[n + i] = 1; /* what is not written shows */
    float *dx = to_gpu(c, x, m * sizeof(*x)), *dy = to_gpu(c, got, 2 * n * sizeof(*got));
    const struct linear_out out[] = { { dy, w } };

    c->op->linear(c, out, 1, dx, T);
    c->op->linear_add(c, dy + n, w, dx, T);
    check_calls(c);
    from_gpu(c, got, dy, 2 * n * sizeof(*got));
    const double e = rel_error(got, want, n);

    if (!(e <= limit * (n < 33 ? 8 : 1)))
        MISS("%s, compute %d, %zu x %zu, T %zu: relative error %g\n", w->name, (int)c->compute,
             w->rows, w->cols, T, e);
    for (size_t i = 0; i < n; i++)
        got[n + i] -= 1;
    const double add = rel_error(got + n, got, n);

    if (!(add <= 1e-3)) /* 1 was added to small sums and taken away again */
        MISS("%s added, %zu x %zu, T %zu: relative difference %g\n", w->name, w->rows, w->cols, T,
             add);
    c->be->release(c, dx, 0);
    c->be->release(c, dy, 0);
    free(x);
    free(want);
    free(got);
}

static void check_weight(struct ctx *c, struct weight *w)
{
    static const size_t T[] = { 1, 3, 9, 17, 40, 64, 70 };
    /* the fast path: inputs of 11 bits, or 8 for bf16 weights (which ref rounds alike only with
     * COMPUTE_BF16); from 17 rows on products are in bf16 on both sides. Four-bit floats are not
     * rounded to the model's type as ref does. */
    const bool table = w->enc == ENC_NF4 || w->enc == ENC_FP4;
    const double fast = table ? 9e-3 : 6e-3, f32 = 1e-5;
    const size_t wide = w->rows < 100 ? 40 : 17; /* on an emulated device */
    struct err e;

    OK(c->be->place(c, w, &e), e);
    for (size_t i = 0; i < ARRAY_LEN(T); i++)
        if (!gpu_emulated() || (c->compute == COMPUTE_F32 ? T[i] < 9 : T[i] == wide))
            check_linear(c, w, T[i], c->compute == COMPUTE_F32 ? f32 : fast);
    /* a row alone, as a table of embeddings has it */
    int32_t ids[] = { (int32_t)w->rows - 1, 0, (int32_t)w->rows / 2 };
    float *want = xcalloc(3 * w->cols, sizeof(*want)), *got = xcalloc(3 * w->cols, sizeof(*got));
    int32_t *dids = to_gpu(c, ids, sizeof(ids));
    float *dy = to_gpu(c, got, 3 * w->cols * sizeof(*got));

    if (!w->p.group_of) {
        ops_ref.embed(NULL, want, w, ids, 3);
        c->op->embed(c, dy, w, dids, 3);
        check_calls(c);
        from_gpu(c, got, dy, 3 * w->cols * sizeof(*got));
        /* scales are rounded to f16 in the packed layout */
        if (!(rel_error(got, want, 3 * w->cols) <= (c->compute == COMPUTE_F32 ? 1e-6 : 3e-3)))
            MISS("%s, %zu x %zu: rows differ by %g\n", w->name, w->rows, w->cols,
                 rel_error(got, want, 3 * w->cols));
    }
    c->be->release(c, dids, 0);
    c->be->release(c, dy, 0);
    c->be->unplace(c, w);
    free(want);
    free(got);
}

static const size_t some_rows[] = { 1, 24, 200 }, some_cols[] = { 7, 96, 256, 288, 576, 1536 };

/* On an emulated device: shapes that give every kernel something to do, and no more. */
static bool has_time(size_t rows, size_t cols)
{
    return !gpu_emulated() || (rows == 24 && cols <= 256) || (rows == 200 && cols == 576);
}

/* The products of `few` rows beside those of `many`. */
static void check_alone(struct ctx *c, struct weight *w, size_t few, size_t many)
{
    const size_t n = many * w->rows, m = many * w->cols;
    float *x = random_floats(m, w->cols), *got = xcalloc(2 * n, sizeof(*got));
    float *dx = to_gpu(c, x, m * sizeof(*x)), *dy = to_gpu(c, got, 2 * n * sizeof(*x));
    const struct linear_out all = { dy, w }, some = { dy + n, w };
    struct err e;

    OK(c->be->place(c, w, &e), e);
    c->op->linear(c, &all, 1, dx, many);
    c->op->linear(c, &some, 1, dx, few);
    check_calls(c);
    from_gpu(c, got, dy, 2 * n * sizeof(*got));
    if (memcmp(got, got + n, few * w->rows * sizeof(*got)) != 0)
        MISS("%s, %zu x %zu: rows depend on their neighbours\n", w->name, w->rows, w->cols);
    c->be->unplace(c, w);
    c->be->release(c, dx, 0);
    c->be->release(c, dy, 0);
    free(x);
    free(got);
}

static void products(enum compute compute, unsigned tries)
{
    static const enum enc encs[] = { ENC_F32,  ENC_F16,  ENC_BF16, ENC_Q4_0, ENC_Q4_1, ENC_Q5_0,
                                     ENC_Q5_1, ENC_Q8_0, ENC_Q4_K, ENC_Q5_K, ENC_Q6_K };
    struct ctx *c = gpu_context(compute);

    cuda_try(c, tries);
    for (size_t k = 0; k < ARRAY_LEN(encs); k++)
        for (size_t r = 0; r < ARRAY_LEN(some_rows); r++)
            for (size_t m = 0; m < ARRAY_LEN(some_cols); m++) {
                void *owned;

                if (some_cols[m] % enc_table[encs[k]].block ||
                    !has_time(some_rows[r], some_cols[m]))
                    continue;
                struct weight w = plain(encs[k], some_rows[r], some_cols[m], &owned);

                check_weight(c, &w);
                /* with more padding than a quarter there is no packed form */
                if (tries & CUDA_TRY_WIDE && enc_table[encs[k]].block > 1 &&
                    (!gpu_emulated() || some_rows[r] == 24) &&
                    (some_cols[m] + 127) / 128 * 128 <= some_cols[m] * 5 / 4)
                    check_alone(c, &w, 17, 64);
                free(owned);
            }
    for (size_t k = 0; k < plane_kinds_n; k++)
        for (size_t r = 1; r < ARRAY_LEN(some_rows); r++)
            for (size_t m = 1; m < ARRAY_LEN(some_cols); m++) {
                struct planes_owned o;

                if (!has_time(some_rows[r], some_cols[m]))
                    continue;
                struct weight w = planes_new(&plane_kinds[k], some_rows[r], some_cols[m], &o);

                check_weight(c, &w);
                planes_release(&o);
            }
    c->be->free(c);
    gpu_settle();
}

static void products_auto(void **state)
{
    (void)state;
    gpu_for_programs();
    products(COMPUTE_AUTO, 0);
}

static void products_f32(void **state)
{
    (void)state;
    products(COMPUTE_F32, 0);
}

static void products_bf16(void **state)
{
    (void)state;
    gpu_for_programs();
    products(COMPUTE_BF16, 0);
}

static void products_wide(void **state)
{
    (void)state;
    products(COMPUTE_AUTO, CUDA_TRY_WIDE);
}

/* Inputs that a rule rounds or reorders, by the products themselves. */
static void products_load(void **state)
{
    static const size_t rows[] = { 24, 200 }, cols[] = { 320, 2304, 14400 }, T[] = { 1, 3, 7, 16 };

    (void)state;
    gpu_for_programs();
    struct ctx *c = gpu_context(COMPUTE_AUTO);

    cuda_try(c, CUDA_TRY_DETERMINISTIC);
    for (size_t k = 0; k < plane_kinds_n; k++) /* the longest: rows that find no room */
        for (size_t r = 0; r < 2 + (plane_kinds[k].act == ACT_F8); r++) {
            struct planes_owned o;
            struct err e;

            if (plane_kinds[k].act == ACT_KEEP && !plane_kinds[k].act_order)
                continue;
            struct weight w = planes_new(&plane_kinds[k], rows[r % 2], cols[r], &o);

            OK(c->be->place(c, &w, &e), e);
            for (size_t t = 0; t < ARRAY_LEN(T); t += gpu_emulated() ? 3 : 1)
                check_linear(c, &w, T[t], 6e-3);
            c->be->unplace(c, &w);
            check_alone(c, &w, 1, 16);
            if (!gpu_emulated())
                check_alone(c, &w, 5, 13);
            planes_release(&o);
        }
    c->be->free(c);
    gpu_settle();
}

/* Gate and up, and a product of what they make, [T, 512] to [T, 48], as one pass; F values between,
 * made of bf16 where not at once: 4.1e-3. */
static void check_gated(struct ctx *c, enum enc enc, size_t F, size_t T)
{
    enum { IN = 512, OUT = 48 };
    static char key[64], *at = key;
    const struct batch b = one_row();
    struct pass p = { .b = &b, .V = 1, .D = 1, .key = { &b, c, at++ } };
    struct ctx ref = { .op = &ops_ref, .compute = c->compute };
    struct planes_owned o[3] = { 0 };
    struct weight w[] = { weight_of(enc, F, IN, &o[0]), weight_of(enc, F, IN, &o[1]),
                          weight_of(enc, OUT, F, &o[2]) };
    float *x = random_floats(T * IN, T), *g = xcalloc(T * F, sizeof(*g)),
          *u = xcalloc(T * F, sizeof(*u)), *want = xcalloc(T * OUT, sizeof(*want)),
          *got = xcalloc(T * OUT, sizeof(*got));
    const struct linear_out out[] = { { g, &w[0] }, { u, &w[1] } }, last = { want, &w[2] };
    struct err e;

    ops_ref.linear(&ref, out, 2, x, T);
    ops_ref.swiglu(&ref, g, g, u, T, F);
    ops_ref.linear(&ref, &last, 1, g, T);
    float *dx = to_gpu(c, x, T * IN * sizeof(*x)), *dg = to_gpu(c, g, T * F * sizeof(*g));
    float *du = to_gpu(c, u, T * F * sizeof(*u)), *dy = to_gpu(c, got, T * OUT * sizeof(*got));
    const struct linear_out dout[] = { { dg, &w[0] }, { du, &w[1] } }, dlast = { dy, &w[2] };

    for (size_t i = 0; i < ARRAY_LEN(w); i++)
        OK(c->be->place(c, &w[i], &e), e);
    assert_true(c->be->enter(c, &p, &e) >= 0);
    c->op->linear(c, dout, 2, dx, T);
    c->op->swiglu(c, dg, dg, du, T, F);
    c->op->linear(c, &dlast, 1, dg, T);
    OK(c->be->leave(c, &p, &e), e);
    from_gpu(c, got, dy, T * OUT * sizeof(*got));
    if (!(rel_error(got, want, T * OUT) <= (enc == ENC_F8 ? 2e-2 : 5e-3)))
        MISS("gated %s of %zu, T %zu: relative error %g\n", w[0].name, F, T,
             rel_error(got, want, T * OUT));
    for (size_t i = 0; i < ARRAY_LEN(w); i++) {
        c->be->unplace(c, &w[i]);
        planes_release(&o[i]);
    }
    c->be->release(c, dx, 0);
    c->be->release(c, dg, 0);
    c->be->release(c, du, 0);
    c->be->release(c, dy, 0);
    free(x);
    free(g);
    free(u);
    free(want);
    free(got);
}

/* T rows by all planes of four bits. */
static void check_planes4(struct ctx *c, size_t rows, size_t cols, size_t T)
{
    for (size_t k = 0; k < plane_kinds_n; k++) {
        const enum enc enc = plane_kinds[k].enc;
        struct planes_owned o;
        struct err e;

        if (enc != ENC_AWQ && enc != ENC_GPTQ4 && enc != ENC_PACKED4 && enc != ENC_FP4)
            continue;
        struct weight w = planes_new(&plane_kinds[k], rows, cols, &o);

        OK(c->be->place(c, &w, &e), e);
        check_linear(c, &w, T, 6e-3);
        c->be->unplace(c, &w);
        planes_release(&o);
    }
}

/* One row by codes of four bits in whole numbers. */
static void products_whole(void **state)
{
    static const enum enc encs[] = { ENC_Q4_0, ENC_Q4_1, ENC_Q4_K, ENC_NF4 };
    static const size_t rows[] = { 10, 200 }, cols[] = { 768, 2304 };

    (void)state;
    gpu_for_programs();
    struct ctx *c = gpu_context(COMPUTE_AUTO);
    struct err e;

    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        for (size_t k = 0; k < ARRAY_LEN(encs); k++) {
            struct planes_owned o = { 0 };
            struct weight w = weight_of(encs[k], rows[r], cols[r], &o);

            OK(c->be->place(c, &w, &e), e);
            check_linear(c, &w, 1, 3e-3);
            c->be->unplace(c, &w);
            planes_release(&o);
        }
        check_planes4(c, rows[r] / 8 * 8, cols[r], 1);
        check_gated(c, r ? ENC_NF4 : ENC_Q4_0, 1280, 1);
    }
    c->be->free(c);
    gpu_settle();
}

/* Tiles for one, two and four teams of a block's warps (stream.cuh). */
static void products_teams(void **state)
{
    static const enum enc encs[] = { ENC_F16, ENC_Q4_0, ENC_Q4_K, ENC_Q6_K, ENC_Q8_0 };
    static const size_t real[] = { 2200, 4240, 8500 }, few[] = { 40, 200, 10 };
    static const size_t T[] = { 1, 6, 16 };

    (void)state;
    gpu_for_programs();
    const size_t *const rows = gpu_emulated() ? few : real;
    struct ctx *c = gpu_context(COMPUTE_AUTO);

    cuda_try(c, CUDA_TRY_DETERMINISTIC);
    for (size_t k = 0; k < ARRAY_LEN(encs); k++)
        for (size_t r = 0; r < ARRAY_LEN(real); r++) {
            void *owned;
            struct weight w = plain(encs[k], rows[r], 768, &owned);
            struct err e;

            OK(c->be->place(c, &w, &e), e);
            for (size_t t = 0; t < ARRAY_LEN(T); t++)
                check_linear(c, &w, T[t], 3e-3);
            c->be->unplace(c, &w);
            check_alone(c, &w, 1, 16);
            check_alone(c, &w, 5, 13);
            free(owned);
        }
    for (size_t t = 0; t < ARRAY_LEN(T); t++) {
        check_gated(c, ENC_Q4_0, 1280, T[t]);
        check_gated(c, ENC_Q4_0, 4352, T[t]);
        check_gated(c, ENC_Q8_0, 8704, T[t]);
    }
    for (int f8 = 0; f8 < 2; f8++) /* of many rows; then of more tiles than a GPU has blocks */
        check_gated(c, f8 ? ENC_F8 : ENC_BF16, f8 ? 2056 : 136, 1030);
    c->be->free(c);
    gpu_settle();
}

/* Groups of a fed ring, not whole, more and fewer than it has; a row's bits in any batch. */
static void check_fed(struct ctx *c, enum enc enc, size_t rows, size_t cols)
{
    static const size_t T[] = { 1, 2, 3, 8, 9, 16 };
    struct planes_owned o = { 0 };
    struct weight w = weight_of(enc, rows, cols, &o);
    struct err e;

    OK(c->be->place(c, &w, &e), e);
    for (size_t t = 0; t < ARRAY_LEN(T); t += gpu_emulated() ? 4 : 1)
        check_linear(c, &w, T[t], 6e-3);
    c->be->unplace(c, &w);
    check_alone(c, &w, 1, 16);
    planes_release(&o);
}

/* fn with kernels that `tries` asks for; on an emulated device for each order k of copies. */
static void in_each_order(unsigned tries, void (*fn)(struct ctx *c, size_t k))
{
    static const char *const when[] = { "early", "late", "by chance" };

    gpu_for_programs();
    for (size_t k = 0; k < (gpu_emulated() ? ARRAY_LEN(when) : 1); k++) {
        setenv("EMULATED_COPIES", when[k], 1);
        struct ctx *c = gpu_context(COMPUTE_AUTO);

        cuda_try(c, tries);
        fn(c, k);
        c->be->free(c);
    }
    unsetenv("EMULATED_COPIES");
    gpu_settle();
}

static void fed_codes_in_order(struct ctx *c, size_t k)
{
    static const enum enc encs[] = { ENC_Q4_0, ENC_Q4_K, ENC_Q6_K, ENC_Q8_0, ENC_Q5_1, ENC_NF4 };
    static const size_t cols[] = { 256, 2304, 4608, 9728 };

    for (size_t i = 0; i < ARRAY_LEN(encs); i++)
        for (size_t j = 0; j < ARRAY_LEN(cols); j++)
            if (!gpu_emulated() || (i + j + k) % 4 == 0)
                check_fed(c, encs[i], j == 1 ? 10 : 200, cols[j]);
    check_planes4(c, 200, 2304, k ? 11 : 1);
    check_gated(c, ENC_Q4_0, 1280, k ? 6 : 1);
    check_gated(c, ENC_NF4, k ? 4352 : 1280, k ? 11 : 1);
    check_gated(c, k ? ENC_Q8_0 : ENC_Q4_0, 4352, 16); /* a ring of the fewest groups */
}

static void products_fed_codes(void **state)
{
    (void)state;
    in_each_order(CUDA_TRY_DETERMINISTIC, fed_codes_in_order);
}

static void fed_in_order(struct ctx *c, size_t k)
{
    static const size_t cols[] = { 256, 1536, 2176, 4480 };

    for (size_t i = 0; i < ARRAY_LEN(cols); i++)
        check_fed(c, i + k == 2 ? ENC_F16 : ENC_BF16, i == 2 ? 10 : 200, cols[i]);
    check_gated(c, ENC_BF16, 1280, 6);
}

static void products_fed(void **state)
{
    (void)state;
    in_each_order(0, fed_in_order);
}

/* What goes row by row, [T, D]. */
static void check_rows(struct ctx *c, size_t T, size_t D)
{
    const size_t n = T * D;
    float *x = random_floats(n, 1), *u = random_floats(n, 2), *w = random_floats(D, 3);
    float *want = xcalloc(n, sizeof(*want)), *got = xcalloc(n, sizeof(*got));
    int32_t *pos = xcalloc(T, sizeof(*pos));

    for (size_t t = 0; t < T; t++)
        pos[t] = (int32_t)(T - 1 - t);
    float *dx = to_gpu(c, x, n * sizeof(*x)), *du = to_gpu(c, u, n * sizeof(*u));
    float *dw = to_gpu(c, w, D * sizeof(*w)), *dy = to_gpu(c, got, n * sizeof(*got));
    int32_t *dpos = to_gpu(c, pos, T * sizeof(*pos));

    ops_ref.rmsnorm(NULL, want, x, w, T, D, 1e-5f);
    c->op->rmsnorm(c, dy, dx, dw, T, D, 1e-5f);
    from_gpu(c, got, dy, n * sizeof(*got));
    assert_true(rel_error(got, want, n) < 1e-6);
    ops_ref.swiglu(NULL, want, x, u, T, D);
    c->op->swiglu(c, dy, dx, du, T, D);
    from_gpu(c, got, dy, n * sizeof(*got));
    assert_true(rel_error(got, want, n) < 1e-6);
    ops_ref.gather(NULL, want, x, pos, T, D);
    c->op->gather(c, dy, dx, dpos, T, D);
    from_gpu(c, got, dy, n * sizeof(*got));
    assert_memory_equal(got, want, n * sizeof(*got));
    ops_ref.scale(NULL, want, n, 0.3f);
    c->op->scale(c, dy, n, 0.3f);
    from_gpu(c, got, dy, n * sizeof(*got));
    assert_memory_equal(got, want, n * sizeof(*got));
    for (size_t t = 0; t < T; t++)
        pos[t] = (int32_t)(t * 3711);
    struct err e;

    OK(c->be->upload(c, dpos, pos, T * sizeof(*pos), &e), e);
    for (int interleaved = 0; interleaved < 2 && D % 2 == 0; interleaved++) {
        memcpy(want, x, n * sizeof(*want));
        OK(c->be->upload(c, dy, x, n * sizeof(*x), &e), e);
        ops_ref.rope(NULL, want, 1, D, pos, w, interleaved, T);
        c->op->rope(c, dy, 1, D, dpos, dw, interleaved, T);
        from_gpu(c, got, dy, n * sizeof(*got));
        assert_true(rel_error(got, want, n) < 2e-6);
    }
    check_calls(c);
    void *const all[] = { dx, du, dw, dy, dpos };

    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        c->be->release(c, all[i], 0);
    free(x);
    free(u);
    free(w);
    free(want);
    free(got);
    free(pos);
}

static void rows(void **state)
{
    static const size_t T[] = { 1, 3, 40 }, D[] = { 1, 2, 17, 64, 576, 1500, 4096 };
    struct ctx *c = gpu_context(COMPUTE_AUTO);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(T); i++)
        for (size_t k = 0; k < ARRAY_LEN(D); k++)
            check_rows(c, T[i], D[k]);
    c->be->free(c);
}

/* Rows of a batch from `from` on, which are enough for the tensor cores, in a pass of their own:
 * bit by bit what `got` has for them. */
static void check_rest(struct ctx *c, const struct pass *all, size_t from,
                       const struct kv_cache *kv, size_t H, const float *dq, float *dy,
                       const float *got)
{
    const size_t row = H * kv->head_dim;
    struct batch b = *all->b;
    struct err e;

    b.T -= from;
    b.token += from, b.pos += from, b.slot += from, b.seq += from;
    struct pass p = { .b = &b, .V = 1, .D = 1, .key = { c, kv, dq + from * row } };
    float *alone = xcalloc(b.T * row, sizeof(*alone));

    assert_true(c->be->enter(c, &p, &e) >= 0);
    c->op->attn(c, dy, dq + from * row, H, kv, 0, &p.at);
    OK(c->be->leave(c, &p, &e), e);
    from_gpu(c, alone, dy, b.T * row * sizeof(*alone));
    if (memcmp(alone, got + from * row, b.T * row * sizeof(*alone)) != 0)
        MISS("attention %s, %zu/%zu heads of %zu, rows from %zu: other bits without those before\n",
             enc_table[kv->enc].name, H, kv->kv_heads, kv->head_dim, from);
    free(alone);
}

/* Attention of T rows, the last ones of two sequences of `len` positions, through a paged cache. */
static void check_attention(struct ctx *c, enum enc enc, size_t H, size_t K, size_t hd, size_t T,
                            size_t len)
{
    const size_t blocks = 2 * ((len + KV_BLOCK - 1) / KV_BLOCK), all = 2 * len, n = 2 * T * H * hd;
    const size_t bytes = blocks * K * KV_BLOCK * hd * enc_table[enc].bytes;
    float *k = random_floats(all * K * hd, 1), *v = random_floats(all * K * hd, 2);
    float *q = random_floats(n, 3), *want = xcalloc(n, sizeof(*want)),
          *got = xcalloc(n, sizeof(*got));
    int32_t *row = xcalloc(3 * all, sizeof(*row)), *slot = row + all, *zero = slot + all;
    int32_t *order = xcalloc(blocks, sizeof(*order));
    const int32_t *const table[] = { order, order + blocks / 2 };
    struct kv_layer host = { xcalloc(1, bytes), xcalloc(1, bytes) };
    struct kv_cache kv = {
        .enc = enc, .kv_heads = K, .head_dim = hd, .blocks = blocks, .layers = 1, .layer = &host
    };
    struct kv_layer there = { to_gpu(c, host.k, bytes), to_gpu(c, host.v, bytes) };
    struct kv_cache dkv = kv;
    struct err e;

    dkv.layer = &there;
    for (size_t i = 0; i < blocks; i++) /* every block is somewhere else */
        order[i] = (int32_t)(blocks - 1 - i);
    for (size_t i = 0; i < all; i++)
        row[i] = (int32_t)(i / len), slot[i] = (int32_t)(i % len);
    struct batch b = { .T = all,
                       .token = zero,
                       .pos = slot,
                       .slot = slot,
                       .seq = row,
                       .n_seq = 2,
                       .block_table = table };
    struct pass p = { .b = &b, .V = 1, .D = 1, .key = { c, &kv, q } };
    float *dk = to_gpu(c, k, all * K * hd * sizeof(*k)),
          *dv = to_gpu(c, v, all * K * hd * sizeof(*v));
    float *dq = to_gpu(c, q, n * sizeof(*q)), *dy = to_gpu(c, got, n * sizeof(*got));

    ops_ref.kv_write(NULL, k, v, &kv, 0, &b);
    assert_true(c->be->enter(c, &p, &e) >= 0);
    c->op->kv_write(c, dk, dv, &dkv, 0, &p.at);
    OK(c->be->leave(c, &p, &e), e);
    uint8_t *back = xmalloc(bytes);

    from_gpu(c, back, there.k, bytes);
    assert_memory_equal(back, host.k, bytes);
    from_gpu(c, back, there.v, bytes);
    assert_memory_equal(back, host.v, bytes);
    /* the second sequence has fewer rows: of a batch of more than 64, some are then on their own */
    b.T = T == 100 ? T + 5 : 2 * T;
    for (size_t i = 0; i < b.T; i++)
        row[i] = (int32_t)(i / T), slot[i] = (int32_t)(len - T + i % T);
    ops_ref.attn(NULL, want, q, H, &kv, 0, &b);
    p.key[0] = &p;
    assert_true(c->be->enter(c, &p, &e) >= 0);
    c->op->attn(c, dy, dq, H, &dkv, 0, &p.at);
    OK(c->be->leave(c, &p, &e), e);
    from_gpu(c, got, dy, n * sizeof(*got));
    /* runs of rows, many rows, long contexts: 16 bits on the tensor cores */
    const bool half = enc != ENC_F32 && (hd == 64 || hd == 128) &&
                      (b.T > 64 || ((b.T > 16 || len > 8192) && H / K <= 8));
    const double err = rel_error(got, want, b.T * H * hd);

    if (!(err < (!half ? 3e-6 : enc == ENC_BF16 ? 6e-3 : 1e-3)))
        MISS("attention %s, %zu/%zu heads of %zu, %zu rows at %zu: relative error %g\n",
             enc_table[enc].name, H, K, hd, T, len, err);
    if (enc != ENC_F32 && (hd == 64 || hd == 128) && T > 64 + 19 && b.T == 2 * T) {
        check_rest(c, &p, T, &dkv, H, dq, dy, got);
        check_rest(c, &p, T + 19, &dkv, H, dq, dy, got);
    }
    void *const gpu[] = { there.k, there.v, dk, dv, dq, dy };
    void *const mem[] = { host.k, host.v, k, v, q, want, got, row, order, back };

    for (size_t i = 0; i < ARRAY_LEN(gpu); i++)
        c->be->release(c, gpu[i], 0);
    for (size_t i = 0; i < ARRAY_LEN(mem); i++)
        free(mem[i]);
}

/* Attention in no time; by an emulated device: one prompt, and in a program spans of many steps. */
static bool has_attention_time(enum enc enc, size_t hd, size_t rows, size_t len)
{
    if (!gpu_emulated() || len > 8192)
        return len <= 8192 || (hd == 64 && enc != ENC_F32 && enc != ENC_F16);
    return len >= 200       ? len == 5000 && enc == ENC_BF16 && hd == 128
           : enc == ENC_F32 ? rows < 10
                            : rows == 9 || (rows == 33 && (hd == 64 || hd == 128));
}

static void attention(void **state)
{
    static const enum enc encs[] = { ENC_F32, ENC_F16, ENC_BF16, ENC_F8_E4M3 };
    static const size_t heads[][3] = { { 4, 4, 16 },  { 9, 3, 64 },   { 8, 2, 128 }, { 8, 1, 64 },
                                       { 16, 2, 80 }, { 16, 1, 128 }, { 4, 2, 256 } };
    static const size_t rows_len[][2] = { { 1, 1 },     { 1, 65 },    { 3, 3 },    { 2, 700 },
                                          { 9, 70 },    { 9, 700 },   { 20, 70 },  { 33, 130 },
                                          { 100, 300 }, { 130, 130 }, { 3, 8200 }, { 1, 5000 } };

    (void)state;
    gpu_for_programs();
    struct ctx *c = gpu_context(COMPUTE_AUTO);

    for (size_t i = 0; i < ARRAY_LEN(encs); i++)
        for (size_t h = 0; h < ARRAY_LEN(heads); h++)
            for (size_t r = 0; r < ARRAY_LEN(rows_len); r++)
                if (has_attention_time(encs[i], heads[h][2], rows_len[r][0], rows_len[r][1]))
                    check_attention(c, encs[i], heads[h][0], heads[h][1], heads[h][2],
                                    rows_len[r][0], rows_len[r][1]);
    c->be->free(c);
    gpu_settle();
}

/* Rows enough for the tensor cores, by the device's own kernel and by the one for all. */
static void attention_prompts(void **state)
{
    static const enum enc encs[] = { ENC_F16, ENC_BF16, ENC_F8_E4M3 };
    static const size_t heads[][3] = { { 6, 2, 64 }, { 4, 1, 128 } };
    static const size_t len[] = { 63, 64, 65, 127, 129 };
    static const unsigned tries[] = { 0, CUDA_TRY_MMA };
    const size_t many = gpu_emulated() ? 400 : 700;

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(tries); k++) {
        struct ctx *c = gpu_context(COMPUTE_AUTO);

        cuda_try(c, tries[k]);
        for (size_t i = 0; i < ARRAY_LEN(encs); i++) {
            for (size_t h = 0; h < ARRAY_LEN(heads); h++)
                for (size_t r = 0; r < ARRAY_LEN(len); r++)
                    check_attention(c, encs[i], heads[h][0], heads[h][1], heads[h][2], len[r],
                                    len[r]);
            check_attention(c, encs[i], 2, 1, 128, 85, gpu_emulated() ? 400 : 1000);
        }
        check_attention(c, ENC_BF16, 1, 1, 128, many, many);
        c->be->free(c);
    }
    gpu_settle();
}

/* ---- whole models ---- */

enum { ROWS = 96, V = 1024 };
#define GOLDEN data_path("golden/tiny-llama31.safetensors")

/* Tokens of each golden prompt that passes of few rows have: on an emulated device, what it has
 * time for. */
static size_t few_rows(void)
{
    return gpu_emulated() ? 7 : ROWS;
}

static void tiny(void **state)
{
    static const struct {
        enum compute compute;
        double limit;
    } how[] = { { COMPUTE_AUTO, 2e-2 }, { COMPUTE_F32, 1e-3 }, { COMPUTE_BF16, 2e-2 } };
    static const int32_t few = ROWS - 9;
    size_t n, n_ids;

    (void)state;
    gpu_for_programs();
    const size_t rows = few_rows();

    for (size_t i = 0; i < (gpu_emulated() ? 1 : ARRAY_LEN(how)); i++) {
        struct engine *g;
        struct session *s = open_on(&g, data_path("tiny-llama31"), how[i].compute, "cuda", 256);
        float *want = golden(GOLDEN, "logits_f32", ENC_F32, &n);
        int32_t *ids = golden(GOLDEN, "ids", ENC_I32, &n_ids);
        float *got = xcalloc(n, sizeof(*got));
        const float *last;
        struct err e;

        for (size_t k = 0; k < 2 && !gpu_emulated(); k++) {
            session_cut(s, 0);
            OK(session_eval_rows(s, ids + k * ROWS, ROWS, NULL, 0, got + k * ROWS * V, &e), e);
        }
        if (!gpu_emulated() && !(rel_error(got, want, n) < how[i].limit))
            MISS("compute %d: relative error %g\n", (int)how[i].compute, rel_error(got, want, n));
        /* one row of a pass of many, whose last layer is spared the others */
        session_cut(s, 0);
        OK(session_eval_rows(s, ids, ROWS, &few, 1, got, &e), e);
        assert_true(rel_error(got, want + few * V, V) < how[i].limit);
        /* token by token: eager, recorded, started again */
        session_cut(s, 0);
        for (size_t t = 0; t < rows; t++)
            OK(session_eval_rows(s, ids + t, 1, NULL, 0, got + t * V, &e), e);
        if (!(rel_error(got, want, rows * V) < how[i].limit))
            MISS("one by one, compute %d: relative error %g\n", (int)how[i].compute,
                 rel_error(got, want, rows * V));
        /* rows that see one another, in a pass of few */
        for (size_t step = 5; step <= 13; step += 8) {
            session_cut(s, 0);
            for (size_t t = 0; t < rows; t += step)
                OK(session_eval_rows(s, ids + t, t + step < rows ? step : rows - t, NULL, 0,
                                     got + t * V, &e),
                   e);
            if (!(rel_error(got, want, rows * V) < how[i].limit))
                MISS("%zu at a time, compute %d: relative error %g\n", step, (int)how[i].compute,
                     rel_error(got, want, rows * V));
        }
        session_cut(s, 0);
        OK(session_eval(s, ids, 5, &last, NULL, NULL, NULL, &e), e); /* the others are not wanted */
        assert_true(i > 0 || memcmp(last, got + 4 * V, V * sizeof(*got)) == 0);
        free(want);
        free(ids);
        free(got);
        session_free(s);
        engine_close(g);
    }
    gpu_settle();
}

/* The first `rows` golden tokens of tiny's second and then its first prompt, by `step` at a time,
 * into got [2 * ROWS, V]. */
static void eval_by(struct session *s, const int32_t *ids, size_t rows, size_t step, float *got)
{
    struct err e;

    for (size_t k = 2; k-- > 0;) {
        session_cut(s, 0);
        for (size_t t = 0; t < rows; t += step)
            OK(session_eval_rows(s, ids + k * ROWS + t, t + step < rows ? step : rows - t, NULL, 0,
                                 got + (k * ROWS + t) * V, &e),
               e);
    }
}

/* A cache in E4M3, whose truth is ref's, with or without a GPU. */
static void fp8_cache(void **state)
{
    static const size_t steps[] = { ROWS, 1, 5, 13 };
    struct engine_opts o = {
        .threads = 1, .compute = COMPUTE_F32, .isa = -1, .no_tokenizer = true
    };
    size_t n, n_ids;
    float *exact = golden(GOLDEN, "logits_f32", ENC_F32, &n);
    int32_t *ids = golden(GOLDEN, "ids", ENC_I32, &n_ids);
    float *want = xcalloc(n, sizeof(*want)), *got = xcalloc(n, sizeof(*got));
    struct engine *g;
    struct session *s;
    struct err e;

    (void)state;
    OK(engine_open(&g, data_path("tiny-llama31"), &o, &e), e);
    assert_int_equal(kv_from_name("fp8"), ENC_F8_E4M3);
    g->kv = ENC_F8_E4M3;
    g->ctx->op = &ops_ref;
    OK(session_new(&s, g, 256, &e), e);
    eval_by(s, ids, ROWS, ROWS, want);
    session_free(s);
    engine_close(g);
    const double rounded = rel_error(want, exact, n);

    assert_true(rounded > 1e-3 && rounded < 0.2);
    free(exact);
    o.kv = "fp8";
    o.device = "cuda";
    if (gpu_there())
        gpu_for_programs();
    const size_t rows = few_rows(), compared = gpu_emulated() ? rows * V : n;

    for (int k = gpu_emulated(); k < 2 && gpu_there(); k++) {
        o.compute = k ? COMPUTE_AUTO : COMPUTE_F32;
        OK(engine_open(&g, data_path("tiny-llama31"), &o, &e), e);
        OK(session_new(&s, g, 256, &e), e);
        for (size_t i = 0; i < (gpu_emulated() ? 2 : ARRAY_LEN(steps)); i++) {
            eval_by(s, ids, rows, steps[i], got);
            /* a value near the middle of two of the cache's falls to either side */
            if (!(rel_error(got, want, compared) < (k ? rounded : 5e-3)))
                MISS("%zu at a time, compute %d: relative error %g\n", steps[i], (int)o.compute,
                     rel_error(got, want, compared));
        }
        session_free(s);
        engine_close(g);
    }
    free(want);
    free(got);
    free(ids);
    gpu_settle();
    gpu_or_skip();
}

/* A model of which some layers wait in host memory, as engine_open makes one where there is no
 * room. */
static struct engine *engine_away(const char *path, enum compute compute, int64_t away)
{
    struct engine *g = xcalloc(1, sizeof(*g));
    struct err e;

    OK(model_open(&g->model, path, &e), e);
    OK(cuda_ctx_new(&g->ctx, compute, &e), e);
    g->turn = xmalloc(sizeof(*g->turn));
    turn_init(g->turn);
    g->chunk = 128;
    g->kv = ENC_F32;
    g->away = away;
    OK(model_place(g->model, g->ctx, away, NULL, NULL, &e), e);
    OK(acts_new(&g->acts, g->model, g->ctx, g->chunk, &e), e);
    return g;
}

/* The same bits as with all layers on the device, in prompts and token by token, pass after pass.
 */
static void offload_of(const char *path, enum compute compute)
{
    enum { MOST = 40 };
    const size_t N = gpu_emulated() ? 5 : MOST, steps[] = { N, 1, 5, 1 };
    float *want[ARRAY_LEN(steps)] = { 0 };
    int32_t ids[MOST];

    for (int64_t away = 0; away <= 4; away += gpu_emulated() ? 3 : 1) {
        struct engine *g = engine_away(path, compute, away);
        const size_t vocab = (size_t)g->model->hp->vocab;
        float *got = xcalloc(N * vocab, sizeof(*got));
        struct session *s = session_for(g, 64);
        struct err e;

        assert_int_equal(g->model->hp->layers, 4);
        for (size_t k = 0; k < N; k++)
            ids[k] = (int32_t)(rng_u64(9, k) % vocab);
        for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
            session_cut(s, 0);
            for (size_t t = 0; t < N; t += steps[i])
                OK(session_eval_rows(s, ids + t, steps[i], NULL, 0, got + t * vocab, &e), e);
            if (away == 0)
                want[i] = (float *)(void *)xmemdup0(got, N * vocab * sizeof(*got));
            else if (memcmp(got, want[i], N * vocab * sizeof(*got)) != 0)
                MISS("%s, %d layers away, %zu at a time: relative error %g\n", path, (int)away,
                     steps[i], rel_error(got, want[i], N * vocab));
        }
        free(got);
        session_free(s);
        engine_close(g);
    }
    for (size_t i = 0; i < ARRAY_LEN(steps); i++)
        free(want[i]);
}

static void offload(void **state)
{
    (void)state;
    gpu_for_programs();
    if (!gpu_emulated())
        offload_of(data_path("tiny-llama31"), COMPUTE_F32);
    offload_of(data_path("tiny-llama31"), COMPUTE_AUTO);
    gpu_settle();
}

/* Quantised checkpoints, and the default model when it is there, against the CPU in float32. */
static void beside_cpu(const char *path, double limit)
{
    enum { MOST = 40 };
    const size_t N = gpu_emulated() ? 22 : MOST; /* 18 at once: more than a program takes */
    float *want = NULL;

    for (int i = 0; i < 3; i += gpu_emulated() ? 2 : 1) {
        struct engine *g;
        struct session *s =
            open_on(&g, path, i < 2 ? COMPUTE_F32 : COMPUTE_AUTO, i ? "cuda" : "cpu", 64);
        const size_t vocab = (size_t)g->model->hp->vocab;
        float *got = xcalloc(N * vocab, sizeof(*got));
        int32_t ids[MOST];
        struct err e;

        for (size_t k = 0; k < N; k++)
            ids[k] = (int32_t)(rng_u64(9, k) % vocab);
        OK(session_eval_rows(s, ids, N - 4, NULL, 0, got, &e), e);
        for (size_t k = N - 4; k < N; k++)
            OK(session_eval_rows(s, ids + k, 1, NULL, 0, got + k * vocab, &e), e);
        if (!want) {
            want = got;
        } else {
            const double err = rel_error(got, want, N * vocab), most = i == 1 ? 1e-3 : limit;

            if (!(err < most))
                MISS("%s, %s: relative error %g\n", path, i == 1 ? "f32" : "auto", err);
            free(got);
        }
        session_free(s);
        engine_close(g);
    }
    free(want);
}

static void quantised(void **state)
{
    static const char *const names[] = { "awq",        "bnb-int8", "bnb-nf4",       "bnb-nf4-dq",
                                         "fbgemm-fp8", "gptq",     "gptq-actorder", "gptq-asym" };

    (void)state;
    gpu_for_programs();
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = quantised_new(names[i]);

        beside_cpu(path, 5e-2);
        quantised_free(path);
    }
    gpu_settle();
}

/* The logits of N tokens of a quantised model, `step` at a time. */
static void eval_quantised(const char *path, const char *device, size_t n, size_t step, float *got)
{
    struct engine *g;
    struct session *s = open_on(&g, path, COMPUTE_AUTO, device, 64);
    const size_t vocab = (size_t)g->model->hp->vocab;
    int32_t ids[64];
    struct err e;

    for (size_t k = 0; k < n; k++)
        ids[k] = (int32_t)(rng_u64(9, (uint64_t)k) % vocab);
    for (size_t t = 0; t < n; t += step)
        OK(session_eval_rows(s, ids + t, t + step < n ? step : n - t, NULL, 0, got + t * vocab, &e),
           e);
    session_free(s);
    engine_close(g);
}

/* Inputs that programs round and reorder, and those they take as they are: as on the CPU, and the
 * same bits by one row or many. */
static void quantised_load(void **state)
{
    enum { MOST = 26, VOCAB = 1024 };
    static const char *const names[] = { "fbgemm-fp8", "bnb-int8", "gptq-actorder", "awq" };
    static const size_t steps[] = { 13, 5, 1 };

    (void)state;
    gpu_for_programs();
    const size_t N = gpu_emulated() ? 6 : MOST;
    float *want = xcalloc(MOST * VOCAB, sizeof(*want)),
          *first = xcalloc(MOST * VOCAB, sizeof(*first));
    float *got = xcalloc(MOST * VOCAB, sizeof(*got));

    setenv("PUNA_CUDA_TRY", "deterministic", 1);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = quantised_new(names[i]);

        eval_quantised(path, "cpu", N, 13, want);
        for (size_t k = 0; k < ARRAY_LEN(steps); k++) {
            eval_quantised(path, "cuda", N, steps[k], k ? got : first);
            if (k && memcmp(got, first, N * VOCAB * sizeof(*got)) != 0)
                MISS("%s, %zu rows at a time: other bits than %zu, relative difference %g\n",
                     names[i], steps[k], steps[0], rel_error(got, first, N * VOCAB));
        }
        if (!(rel_error(first, want, N * VOCAB) < 4e-2))
            MISS("%s: relative difference %g\n", names[i], rel_error(first, want, N * VOCAB));
        quantised_free(path);
    }
    free(want);
    free(first);
    free(got);
    unsetenv("PUNA_CUDA_TRY");
    gpu_settle();
}

/* The ops of encoders against ref: 1.. of n queries, heads of hd. */
static void check_encoder(struct ctx *c, size_t rows, size_t n, size_t hd)
{
    enum { HEADS = 2, SPAN = 9 };
    const size_t D = HEADS * hd, m = n * D;
    float *x = random_floats(5 * m + 2 * SPAN * D + D * D, n), *want = xcalloc(m, sizeof(*want));
    float *got = xcalloc(m, sizeof(*got)), *d = to_gpu(c, x, (5 * m + 2 * SPAN * D) * sizeof(*x));
    float *dy = to_gpu(c, got, m * sizeof(*got));
    int32_t *bucket = xcalloc(2 * n, sizeof(*bucket));

    for (size_t i = 0; i < 2 * n - 1; i++)
        bucket[i] = (int32_t)(i * SPAN / (2 * n));
    int32_t *db = to_gpu(c, bucket, 2 * n * sizeof(*bucket));
    struct rel_attn a = { x, x + m, x + 2 * m, x + 5 * m, x + 5 * m + SPAN * D, bucket, rows,
                          n, HEADS, hd,        SPAN };

    ops_ref.attn_rel(NULL, want, &a);
    a = (struct rel_attn){ d, d + m, d + 2 * m, d + 5 * m, d + 5 * m + SPAN * D, db, rows,
                           n, HEADS, hd,        SPAN };
    c->op->attn_rel(c, dy, &a);
    from_gpu(c, got, dy, m * sizeof(*got));
    assert_true(rel_error(got, want, rows * D) < 2e-6);
    ops_ref.layernorm(NULL, want, x, x + m, x + 2 * m, n, D, 1e-7f);
    c->op->layernorm(c, dy, d, d + m, d + 2 * m, n, D, 1e-7f);
    from_gpu(c, got, dy, m * sizeof(*got));
    assert_true(rel_error(got, want, m) < 2e-6);
    ops_ref.gelu(NULL, want, n, D);
    c->op->gelu(c, dy, n, D);
    from_gpu(c, got, dy, m * sizeof(*got));
    assert_true(rel_error(got, want, m) < 2e-6);
    struct weight w = { .enc = ENC_F32,
                        .rows = D,
                        .cols = D,
                        .data = x + 5 * m + 2 * SPAN * D,
                        .row_bytes = D * sizeof(float),
                        .name = "w" };
    struct err e;

    OK(c->be->place(c, &w, &e), e);
    for (int add = 0; add < 2; add++) {
        ops_ref.affine(NULL, want, &w, x + m, x, n, add);
        c->op->affine(c, dy, &w, d + m, d, n, add);
    }
    from_gpu(c, got, dy, m * sizeof(*got));
    assert_true(rel_error(got, want, m) < 2e-6);
    check_calls(c);
    c->be->unplace(c, &w);
    c->be->release(c, d, 0);
    c->be->release(c, dy, 0);
    c->be->release(c, db, 0);
    free(x);
    free(want);
    free(got);
    free(bucket);
}

/* Their ops, and a small Prompt Guard beside the CPU, often enough to be recorded. */
static void encoder(void **state)
{
    struct ctx *c = gpu_context(COMPUTE_AUTO), *host;
    struct deberta *m, *truth;
    float logits[DEBERTA_LABELS], want[DEBERTA_LABELS];
    static float hidden[4 * 64 * 48], hidden_want[4 * 64 * 48];
    int32_t ids[64];
    struct err e;

    (void)state;
    check_encoder(c, 1, 1, 5);
    check_encoder(c, 1, 40, 16);
    check_encoder(c, 70, 70, 33);
    check_encoder(c, 30, 1600, 8);
    OK(cpu_ctx_new(&host, 1, cpu_flags(), COMPUTE_AUTO, &e), e);
    OK(deberta_open(&m, c, data_path("deberta"), &e), e);
    OK(deberta_open(&truth, host, data_path("deberta"), &e), e);
    for (int i = 0; i < 64; i++)
        ids[i] = i * 7 % (int)deberta_vocab(m);
    for (int k = 0; k < 8; k++) {
        const size_t n = k < 4 ? 20 : deberta_positions(m) < 64 ? deberta_positions(m) : 64;
        const bool all = k % 4 == 3;

        ids[3] = k;
        OK(deberta_forward(truth, ids, n, want, all ? hidden_want : NULL, &e), e);
        OK(deberta_forward(m, ids, n, logits, all ? hidden : NULL, &e), e);
        if (rel_error(logits, want, deberta_labels(m)) > 1e-4 ||
            (all && rel_error(hidden, hidden_want, 4 * n * 48) > 1e-4))
            MISS("%d: %g off\n", k, rel_error(logits, want, deberta_labels(m)));
    }
    deberta_close(m);
    deberta_close(truth);
    cpu_ctx_free(host);
    c->be->free(c);
    gpu_settle();
}

/* The cases that are enough to drive an emulated device (GPU_RUN). */
#define DRIVEN                                                                                     \
    cmocka_unit_test(rows), cmocka_unit_test(tiny), cmocka_unit_test(products_fed),                \
        cmocka_unit_test(products_load), cmocka_unit_test(products_wide),                          \
        cmocka_unit_test(fp8_cache), cmocka_unit_test(encoder), cmocka_unit_test(offload)

int main(int argc, char **argv)
{
    const struct CMUnitTest few[] = { DRIVEN }, all[] = {
        DRIVEN,
        cmocka_unit_test(attention),
        cmocka_unit_test(attention_prompts),
        cmocka_unit_test(products_f32),
        cmocka_unit_test(products_auto),
        cmocka_unit_test(products_bf16),
        cmocka_unit_test(products_fed_codes),
        cmocka_unit_test(products_teams),
        cmocka_unit_test(products_whole),
        cmocka_unit_test(quantised),
        cmocka_unit_test(quantised_load),
    };

    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* some of them */
    return GPU_RUN(few, all);
}
