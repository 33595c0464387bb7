/* The CPU backend on every instruction set of this machine: against the scalar truth on awkward
 * shapes, and against itself, bit for bit, for any batch, cut and number of threads. */
#include "backend/cpu/cpu.h"
#include "base/mem.h"
#include "base/num.h"
#include "backend/prompts.h"
#include "ops/backend.h"
#include "support.h"

static const char *const isa[] = { "generic", "avx2", "avx512", "avx512_bf16", "amx" };

/* Calls fn with the flags of every instruction set here. */
static void every_isa(void (*fn)(unsigned flags))
{
    for (size_t i = 0; i < ARRAY_LEN(isa); i++) {
        unsigned flags;

        if (isa_here(isa[i], &flags))
            fn(flags);
    }
}

static struct ctx *context(int threads, unsigned flags, enum compute compute)
{
    struct ctx *c = NULL;
    struct err e;

    OK(cpu_ctx_new(&c, threads, flags, compute, &e), e);
    return c;
}

/* Two bytes of a positive f16 of about 0.01 at p. */
static void put_scale(uint8_t *p, size_t i)
{
    const f16 d = f32_to_f16(0.005f + 0.001f * (float)(i % 11));

    memcpy(p, &d, 2);
}

/* A weight of random values at an odd address; *owned is what to free. */
static struct weight weight_new(enum enc enc, size_t rows, size_t cols, void **owned)
{
    const struct enc_info *info = &enc_table[enc];
    struct weight w = { .enc = enc, .rows = rows, .cols = cols, .name = info->name };

    w.row_bytes = cols / info->block * info->bytes;
    uint8_t *p = xmalloc(rows * w.row_bytes + 1);
    float *x = random_floats(rows * cols, 7 + rows * cols);

    if (info->encode) {
        info->encode(p + 1, x, rows * cols);
    } else {
        const size_t blocks = rows * cols / info->block;

        for (size_t i = 0; i < rows * w.row_bytes; i++)
            p[1 + i] = (uint8_t)(x[i % (rows * cols)] * 127.0f + (float)(i % 3));
        for (size_t i = 0; i < blocks; i++) {
            uint8_t *b = p + 1 + i * info->bytes;

            if (enc == ENC_Q6_K) {
                put_scale(b + 208, i);
            } else {
                put_scale(b, i);
                put_scale(b + 2, i + 5);
            }
        }
    }
    free(x);
    w.data = p + 1;
    *owned = p;
    return w;
}

static const enum enc encs[] = { ENC_F32,  ENC_F16,  ENC_BF16, ENC_Q4_0, ENC_Q4_1, ENC_Q5_0,
                                 ENC_Q5_1, ENC_Q8_0, ENC_Q4_K, ENC_Q5_K, ENC_Q6_K };
static const size_t some_rows[] = { 1, 3, 33 };
static const size_t some_cols[] = { 7, 32, 256, 288, 576, 1536 };
static const size_t some_T[] = { 1, 2, 5, 17 };

/* T rows, of which one in three has values far above the others, in one group or two. */
static float *inputs(size_t T, size_t cols)
{
    float *x = random_floats(T * cols, T);

    for (size_t t = 1; t < T; t += 3) {
        x[t * cols + cols / 3] *= 90;
        x[t * cols + cols * 3 / 4] *= t % 2 ? 200 : 1;
    }
    return x;
}

/* linear and linear_add of one shape, on contexts of several numbers of threads */
static void check_shape(unsigned flags, struct ctx *const *ctx, size_t n_ctx,
                        const struct weight *w, size_t T)
{
    const enum compute compute = ctx[0]->compute;
    const size_t n = T * w->rows;
    /* 8 bits per group leave errors of half a percent; bf16 products differ in order alone */
    const double limit = compute == COMPUTE_F32 ? 1e-5 : compute == COMPUTE_BF16 ? 1e-4 : 2e-2;
    struct ctx ref = { .op = &ops_ref, .compute = compute };
    float *x = inputs(T, w->cols), *want = xcalloc(n, sizeof(*want));
    float *got = xcalloc(n, sizeof(*got)), *first = xcalloc(n, sizeof(*first));
    const struct linear_out truth = { want, w };

    ops_ref.linear(&ref, &truth, 1, x, T);
    for (size_t i = 0; i < n_ctx; i++) {
        struct ctx *c = ctx[i];
        const struct linear_out out = { got, w }, both[] = { { got, w }, { first, w } };

        c->op->linear(c, i ? &out : both, i ? 1 : 2, x, T);
        assert_memory_equal(got, first, n * sizeof(*got));
        if (i && i + 1 < n_ctx) /* rows alone, and sums, on one thread and on the most */
            continue;
        for (size_t t = 0; t < T; t++) {
            const struct linear_out row = { got + t * w->rows, w };

            c->op->linear(c, &row, 1, x + t * w->cols, 1);
        }
        assert_memory_equal(got, first, n * sizeof(*got));
        c->op->linear_add(c, got, w, x, T);
        for (size_t k = 0; k < n; k++)
            assert_true(got[k] == first[k] + first[k]);
    }
    /* a few sums alone may cancel almost to nothing */
    if (rel_error(first, want, n) > limit * (n < 33 ? 8 : 1))
        fail_msg("%s, flags %u, compute %d, %zu x %zu, T %zu: relative error %g", w->name, flags,
                 (int)compute, w->rows, w->cols, T, rel_error(first, want, n));
    if (compute == COMPUTE_AUTO && enc_table[w->enc].block > 1 && flags) {
        struct ctx *c = context(1, 0, compute);
        const struct linear_out out = { got, w };

        c->op->linear(c, &out, 1, x, T);
        assert_memory_equal(got, first, n * sizeof(*got));
        cpu_ctx_free(c);
    }
    free(x);
    free(want);
    free(got);
    free(first);
}

static void linear_isa(unsigned flags)
{
    static const int threads[] = { 1, 2, 3, 5 };
    const size_t n = SANITIZED ? 2 : ARRAY_LEN(threads), step = SANITIZED ? 3 : 1;
    struct ctx *ctx[3][ARRAY_LEN(threads)];

    for (enum compute c = COMPUTE_AUTO; c <= COMPUTE_BF16; c++)
        for (size_t i = 0; i < n; i++)
            ctx[c][i] = context(threads[i * step], flags, c);
    for (size_t e = 0; e < ARRAY_LEN(encs); e++) {
        for (size_t r = 0; r < ARRAY_LEN(some_rows); r++) {
            for (size_t k = 0; k < ARRAY_LEN(some_cols); k++) {
                if (some_cols[k] % enc_table[encs[e]].block)
                    continue;
                void *owned;
                const struct weight w = weight_new(encs[e], some_rows[r], some_cols[k], &owned);

                for (size_t t = 0; t < ARRAY_LEN(some_T); t += step)
                    for (enum compute c = COMPUTE_AUTO; c <= COMPUTE_BF16; c++)
                        check_shape(flags, ctx[c], n, &w, some_T[t]);
                free(owned);
            }
        }
        /* tokens for which there are other kernels */
        void *owned;
        const struct weight w = weight_new(encs[e], 33, 768, &owned);

        check_shape(flags, ctx[COMPUTE_AUTO], 2, &w, 65);
        check_prompts(ctx[COMPUTE_AUTO][1], &w, 1);
        check_prompts(ctx[COMPUTE_AUTO][1], &w, 70);
        free(owned);
    }
    for (enum compute c = COMPUTE_AUTO; c <= COMPUTE_BF16; c++)
        for (size_t i = 0; i < n; i++)
            cpu_ctx_free(ctx[c][i]);
}

static void linear(void **state)
{
    (void)state;
    every_isa(linear_isa);
}

/* One value far above the others must not cost them their precision: 8 bits for the group alone
 * would leave an error of a hundredth here. */
static void outlier_isa(unsigned flags)
{
    enum { COLS = 768, ROWS = 33 };
    float *x = random_floats(COLS, 1), want[ROWS], got[ROWS];
    struct ctx ref = { .op = &ops_ref, .compute = COMPUTE_F32 };
    struct ctx *c = context(1, flags, COMPUTE_AUTO);

    for (size_t i = 0; i < COLS; i++)
        x[i] *= i < 32 ? i == 5 ? 300.0f : 10 : 1e-3f;
    for (size_t e = 0; e < ARRAY_LEN(encs); e++) {
        void *owned;
        const struct weight w = weight_new(encs[e], ROWS, COLS, &owned);
        const struct linear_out truth = { want, &w }, out = { got, &w };

        ops_ref.linear(&ref, &truth, 1, x, 1);
        c->op->linear(c, &out, 1, x, 1);
        if (enc_table[encs[e]].block > 1 && rel_error(got, want, ROWS) > 1e-4)
            fail_msg("%s, flags %u: relative error %g", w.name, flags, rel_error(got, want, ROWS));
        free(owned);
    }
    cpu_ctx_free(c);
    free(x);
}

static void outlier(void **state)
{
    (void)state;
    every_isa(outlier_isa);
}

/* Two sequences in a scattered cache: one as long as `length`, of which rows from `from` on are
 * asked for, one a single row; all at once, and each row alone. Slots below `prompt` are a
 * prompt's, which may be less accurate. */
static void check_rows_of(unsigned flags, enum enc enc, size_t length, size_t from, size_t group,
                          size_t hd, size_t prompt)
{
    enum { K = 2, BLOCKS = 40, LONGEST = 2200 };
    const size_t H = K * group, T = length + 1, plane = BLOCKS * K * KV_BLOCK * hd * 4;
    const size_t rows = T - from, n = rows * H * hd;
    int32_t slot[LONGEST], seq[LONGEST], far[LONGEST / KV_BLOCK + 1];
    static const int32_t near[] = { 3 };
    const int32_t prompts[] = { (int32_t)prompt, prompt > 0 };
    const int32_t *const table[] = { far, near };
    struct kv_layer layer = { xcalloc(1, plane), xcalloc(1, plane) };
    const struct kv_cache kv = {
        .enc = enc, .kv_heads = K, .head_dim = hd, .blocks = BLOCKS, .layers = 1, .layer = &layer
    };
    float *q = random_floats(n, 3), *k = random_floats(T * K * hd, 4);
    float *v = random_floats(T * K * hd, 5);
    float *want = xcalloc(n, sizeof(*want)), *got = xcalloc(n, sizeof(*got));
    float *first = xcalloc(n, sizeof(*first));

    for (size_t i = 0; i < ARRAY_LEN(far); i++)
        far[i] = (int32_t)(i < 3 ? 7 - 3 * i : 5 + i);
    for (size_t t = 0; t < T; t++) {
        slot[t] = t < length ? (int32_t)t : 0;
        seq[t] = t < length ? 0 : 1;
    }
    const struct batch all = { .T = T, .slot = slot, .seq = seq, .n_seq = 2, .block_table = table };
    struct batch b = all;

    b.T = rows;
    b.slot += from;
    b.seq += from;
    for (size_t i = 0; i < n; i++)
        q[i] *= 3;
    ops_ref.kv_write(NULL, k, v, &kv, 0, &all);
    ops_ref.attn(NULL, want, q, H, &kv, 0, &b);
    for (int threads = 1; threads <= 3; threads++) {
        struct ctx *c = context(threads, flags, COMPUTE_AUTO);

        /* what was never written may be no number */
        memset(layer.k, 0xFF, plane);
        memset(layer.v, 0xFF, plane);
        c->op->kv_write(c, k, v, &kv, 0, &all);
        b.prompt = prompts;
        c->pass = prompt ? &b : NULL;
        c->op->attn(c, got, q, H, &kv, 0, &b);
        if (threads == 1)
            memcpy(first, got, n * sizeof(*got));
        assert_memory_equal(got, first, n * sizeof(*got));
        for (size_t t = 0; t < rows; t++) {
            struct batch one = b;

            one.T = 1;
            one.slot += t;
            one.seq += t;
            c->pass = prompt ? &one : NULL;
            c->op->attn(c, got, q + t * H * hd, H, &kv, 0, &one);
            assert_memory_equal(got, first + t * H * hd, H * hd * sizeof(*got));
        }
        cpu_ctx_free(c);
    }
    if (rel_error(first, want, n) > (prompt ? 1e-2 : 2e-6))
        fail_msg("flags %u, cache %s, length %zu, group %zu, head %zu: relative error %g", flags,
                 enc_table[enc].name, length, group, hd, rel_error(first, want, n));
    free(layer.k);
    free(layer.v);
    free(q);
    free(k);
    free(v);
    free(want);
    free(got);
    free(first);
}

/* The same where all rows are answers', and where most are a prompt's. */
static void check_attn(unsigned flags, enum enc enc, size_t length, size_t from, size_t group,
                       size_t hd)
{
    check_rows_of(flags, enc, length, from, group, hd, 0);
    check_rows_of(flags, enc, length, from, group, hd, length - length / 8);
}

static void attn_isa(unsigned flags)
{
    static const size_t lengths[] = { 1, 63, 64, 65 }, groups[] = { 1, 3, 4, 8 };
    static const enum enc caches[] = { ENC_F32, ENC_F16, ENC_BF16, ENC_Q8_0 };
    static const size_t heads[] = { 64, 128, 96, 36, 6 };

    for (size_t e = 0; e < ARRAY_LEN(caches); e++) {
        for (size_t l = 0; l < ARRAY_LEN(lengths); l++)
            for (size_t g = 0; g < ARRAY_LEN(groups); g++)
                if (!SANITIZED || g == l)
                    check_attn(flags, caches[e], lengths[l], 0, groups[g], 64);
        check_attn(flags, caches[e], 200, 0, groups[e], 64); /* some with some, for it takes long */
        for (size_t h = 1; h < ARRAY_LEN(heads); h++)
            if (heads[h] % enc_table[caches[e]].block == 0)
                check_attn(flags, caches[e], 65, 0, 2, heads[h]);
    }
    /* several spans with sums of their own, from the last rows before there are on */
    check_attn(flags, ENC_F16, 1025, 960, 3, 6);
    check_attn(flags, ENC_BF16, 2100, 2000, 1, 16);
}

static void attn(void **state)
{
    (void)state;
    every_isa(attn_isa);
}

static void check_rows(struct ctx *c, size_t T, size_t D)
{
    const size_t n = T * D;
    float *x = random_floats(n, 1), *u = random_floats(n, 2), *w = random_floats(D, 3);
    float *want = xcalloc(n, sizeof(*want)), *got = xcalloc(n, sizeof(*got));
    float *one = xcalloc(n, sizeof(*one));
    int32_t pos[64];

    for (size_t i = 0; i < n; i++)
        x[i] *= 30;
    ops_ref.rmsnorm(NULL, want, x, w, T, D, 1e-5f);
    c->op->rmsnorm(c, got, x, w, T, D, 1e-5f);
    assert_true(rel_error(got, want, n) < 5e-7);
    for (size_t t = 0; t < T; t++)
        c->op->rmsnorm(c, one + t * D, x + t * D, w, 1, D, 1e-5f);
    assert_memory_equal(one, got, n * sizeof(*got));

    ops_ref.swiglu(NULL, want, x, u, T, D);
    c->op->swiglu(c, got, x, u, T, D);
    assert_true(rel_error(got, want, n) < 5e-7);
    for (size_t t = 0; t < T; t++)
        c->op->swiglu(c, one + t * D, x + t * D, u + t * D, 1, D);
    assert_memory_equal(one, got, n * sizeof(*got));

    for (size_t t = 0; t < T; t++)
        pos[t] = (int32_t)(T - 1 - t);
    ops_ref.gather(NULL, want, x, pos, T, D);
    c->op->gather(c, got, x, pos, T, D);
    assert_memory_equal(want, got, n * sizeof(*got));
    assert_memory_equal(got, x + (T - 1) * D, D * sizeof(*got));
    ops_ref.scale(NULL, want, n, 0.3f);
    c->op->scale(c, got, n, 0.3f);
    assert_memory_equal(want, got, n * sizeof(*got));

    for (size_t t = 0; t < T; t++)
        pos[t] = (int32_t)(t * 3711);
    for (int interleaved = 0; interleaved < 2 && D % 2 == 0; interleaved++) {
        memcpy(want, x, n * sizeof(*want));
        memcpy(got, x, n * sizeof(*got));
        ops_ref.rope(NULL, want, 1, D, pos, w, interleaved, T);
        c->op->rope(c, got, 1, D, pos, w, interleaved, T);
        assert_true(rel_error(got, want, n) < 1e-6);
    }
    free(x);
    free(u);
    free(w);
    free(want);
    free(got);
    free(one);
}

static void rows_isa(unsigned flags)
{
    static const size_t T[] = { 1, 3, 40 }, D[] = { 1, 2, 17, 64, 576, 1500 };

    for (int threads = 1; threads <= 3; threads += 2) {
        struct ctx *c = context(threads, flags, COMPUTE_AUTO);

        for (size_t t = 0; t < ARRAY_LEN(T); t++)
            for (size_t d = 0; d < ARRAY_LEN(D); d++)
                check_rows(c, T[t], D[d]);
        cpu_ctx_free(c);
    }
}

static void rows(void **state)
{
    (void)state;
    every_isa(rows_isa);
}

/* ---- ops of encoders ---- */

static void check_near(const float *got, const float *want, size_t n, const char *what)
{
    if (rel_error(got, want, n) > 1e-5)
        fail_msg("%s: differs by %g", what, rel_error(got, want, n));
}

/* What an encoder's ops make of T rows of D, after one another. */
static void encoder_ops(struct ctx *c, const struct ops *op, float *y, size_t T, size_t D)
{
    float *x = random_floats(T * D, D), *w = random_floats(2 * D, T);

    for (size_t i = 0; i < T * D; i++)
        x[i] *= 6;
    op->layernorm(c, y, x, w, w + D, T, D, 1e-7f);
    op->gelu(c, x, T, D);
    memcpy(y + T * D, x, T * D * sizeof(*y));
    op->layernorm(c, x, x, w, w + D, T, D, 1e-7f);
    memcpy(y + 2 * T * D, x, T * D * sizeof(*y));
    free(x);
    free(w);
}

static void affine_ops(struct ctx *c, const struct ops *op, float *y, const struct weight *w,
                       size_t T)
{
    float *x = random_floats(T * w->cols, T), *b = random_floats(w->rows, 3);

    op->affine(c, y, w, b, x, T, false);
    op->affine(c, y, w, b, x, T, true);
    free(x);
    free(b);
}

/* The first `rows` of n queries; buckets of `near` positions to each side, then of two, then of 20.
 */
static void rel_ops(struct ctx *c, const struct ops *op, float *y, size_t rows, size_t n, size_t hd,
                    int near)
{
    enum { HEADS = 3 };
    const size_t D = HEADS * hd;
    int32_t *bucket = xmalloc(2 * n * sizeof(*bucket));
    struct rel_attn a = { .rows = rows, .n = n, .H = HEADS, .hd = hd, .bucket = bucket };

    for (int r = 1 - (int)n; r < (int)n; r++) {
        const int far = abs(r) - near,
                  b = far <= 0 ? abs(r) : near + (far < 40 ? far / 2 : 20 + far / 20);

        bucket[r + (int)n - 1] = r < 0 ? -b : b;
    }
    const int32_t low = bucket[0];

    for (size_t i = 0; i < 2 * n - 1; i++)
        bucket[i] -= low;
    a.span = (size_t)bucket[2 * n - 2] + 1;
    float *x = random_floats((2 * n + rows + 2 * a.span) * D, n + hd);

    for (size_t i = 0; i < (2 * n + rows + 2 * a.span) * D; i++)
        x[i] *= 3;
    a.k = x;
    a.v = a.k + n * D;
    a.q = a.v + n * D;
    a.rel_q = a.q + rows * D;
    a.rel_k = a.rel_q + a.span * D;
    op->attn_rel(c, y, &a);
    free(x);
    free(bucket);
}

static void encoder_isa(unsigned flags)
{
    static const size_t T[] = { 1, 7, 40 }, D[] = { 1, 17, 48, 1024, 1030 };
    static const struct {
        size_t rows, n, hd;
        int near;
    } rel[] = { { 1, 1, 5, 4 },      { 17, 17, 16, 4 },     { 1, 130, 12, 20 },
                { 130, 130, 33, 9 }, { 100, 200, 64, 128 }, { 200, 200, 8, 2 } };
    static float want[200 * 1030], got[2][200 * 1030];
    /* products are in float32 whatever the context says */
    struct ctx *c[] = { context(1, flags, COMPUTE_AUTO), context(3, flags, COMPUTE_BF16) };

    for (size_t i = 0; i < ARRAY_LEN(T) * ARRAY_LEN(D); i++) {
        const size_t t = T[i % ARRAY_LEN(T)], d = D[i / ARRAY_LEN(T)];

        encoder_ops(NULL, &ops_ref, want, t, d);
        for (int k = 0; k < 2; k++)
            encoder_ops(c[k], c[k]->op, got[k], t, d);
        check_near(got[0], want, 3 * t * d, "layernorm, gelu");
        assert_memory_equal(got[0], got[1], 3 * t * d * sizeof(float));
        for (size_t e = 0; e < 3; e++) {
            void *owned;
            const struct weight w = weight_new(encs[e], 70, d, &owned);

            affine_ops(NULL, &ops_ref, want, &w, t);
            for (int k = 0; k < 2; k++)
                affine_ops(c[k], c[k]->op, got[k], &w, t);
            check_near(got[0], want, t * 70, "affine");
            assert_memory_equal(got[0], got[1], t * 70 * sizeof(float));
            free(owned);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(rel); i++) {
        const size_t n = rel[i].rows * 3 * rel[i].hd;

        rel_ops(NULL, &ops_ref, want, rel[i].rows, rel[i].n, rel[i].hd, rel[i].near);
        for (int k = 0; k < 2; k++)
            rel_ops(c[k], c[k]->op, got[k], rel[i].rows, rel[i].n, rel[i].hd, rel[i].near);
        check_near(got[0], want, n, "attn_rel");
        assert_memory_equal(got[0], got[1], n * sizeof(float));
    }
    cpu_ctx_free(c[0]);
    cpu_ctx_free(c[1]);
}

static void encoder(void **state)
{
    (void)state;
    every_isa(encoder_isa);
}

static void embed(void **state)
{
    static const int32_t ids[] = { 5, 0, 31, 5 };
    float want[4 * 256], got[4 * 256];

    (void)state;
    for (size_t e = 0; e < ARRAY_LEN(encs); e++) {
        void *owned;
        const struct weight w = weight_new(encs[e], 32, 256, &owned);
        struct ctx *c = context(2, cpu_flags(), COMPUTE_AUTO);

        ops_ref.embed(NULL, want, &w, ids, 4);
        c->op->embed(c, got, &w, ids, 4);
        assert_memory_equal(got, want, sizeof(want));
        cpu_ctx_free(c);
        free(owned);
    }
}

/* A weight in the kernels' own order gives the bits of the file's. */
static void check_placed(struct ctx *c, const struct weight *w, size_t T)
{
    const size_t n = T * w->rows, room = n + w->cols;
    struct weight p = *w;
    float *x = inputs(T, w->cols), *want = xcalloc(room, sizeof(*want));
    float *got = xcalloc(room, sizeof(*got));
    const int32_t ids[] = { 17, 0, (int32_t)w->rows - 1 };
    struct linear_out out = { want, w };
    struct err e;

    p.with.before = 16 * (T - 1); /* other shares, down to those of no thread */
    p.with.rows = p.with.before + w->rows + 16 * (T % 3);
    OK(c->be->place(c, &p, &e), e);
    assert_non_null(p.placed);
    c->op->linear(c, &out, 1, x, T);
    c->op->linear_add(c, want, w, x, T);
    out = (struct linear_out){ got, &p };
    c->op->linear(c, &out, 1, x, T);
    c->op->linear_add(c, got, &p, x, T);
    if (w->cols == 288)
        check_prompts(c, &p, T);
    if (memcmp(got, want, n * sizeof(*got)))
        fail_msg("%s, %zu x %zu, T %zu: other bits when placed", w->name, w->rows, w->cols, T);
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        c->op->embed(c, want, w, ids + i, 1);
        c->op->embed(c, got, &p, ids + i, 1);
        assert_memory_equal(got, want, w->cols * sizeof(*got));
    }
    c->be->unplace(c, &p);
    assert_null(p.placed);
    free(x);
    free(want);
    free(got);
}

static void placed_isa(unsigned flags)
{
    static const enum enc here[] = { ENC_BF16, ENC_Q4_0, ENC_Q4_1, ENC_Q5_0, ENC_Q5_1,
                                     ENC_Q8_0, ENC_Q4_K, ENC_Q5_K, ENC_Q6_K, ENC_F16 };
    static const size_t cols[] = { 32, 256, 288, 1536 }, many[] = { 1, 2, 5, 8, 9, 17, 300 };
    struct ctx *c = context(3, flags, COMPUTE_AUTO), *f = context(1, flags, COMPUTE_F32);
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(here); i++) {
        for (size_t k = 0; k < ARRAY_LEN(cols); k++) {
            if (cols[k] % enc_table[here[i]].block)
                continue;
            void *owned, *other;
            struct weight w = weight_new(here[i], 320, cols[k], &owned);
            struct weight odd = weight_new(here[i], 33, cols[k], &other);

            OK(c->be->place(c, &odd, &e), e);
            assert_null(odd.placed); /* not whole units */
            OK(f->be->place(f, &w, &e), e);
            assert_null(w.placed); /* arithmetic that reads the file's order */
            /* float16 as it is where it is large */
            const bool placed = here[i] == ENC_F16 ? cols[k] == 1536
                                                   : flags & (here[i] == ENC_BF16 ? CPU_AVX512_BF16
                                                              : here[i] == ENC_Q8_0 ? CPU_AVX512
                                                                                    : CPU_AVX2);

            for (size_t t = 0; placed && t < ARRAY_LEN(many); t++)
                check_placed(c, &w, many[t]);
            free(owned);
            free(other);
        }
    }
    cpu_ctx_free(c);
    cpu_ctx_free(f);
}

static void placed(void **state)
{
    (void)state;
    every_isa(placed_isa);
}

TEST_MAIN(cmocka_unit_test(linear), cmocka_unit_test(outlier), cmocka_unit_test(attn),
          cmocka_unit_test(rows), cmocka_unit_test(embed), cmocka_unit_test(encoder),
          cmocka_unit_test(placed))
