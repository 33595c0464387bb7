/* The training ops: ref against finite differences, every instruction set against ref on awkward
 * shapes, and the same bits at any number of threads. */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "base/mem.h"
#include "support.h"

static const char *const isa[] = { "generic", "avx2", "avx512", "avx512_bf16", "amx" };

static struct ctx *context(int threads, unsigned flags, enum compute compute)
{
    struct ctx *c = NULL;
    struct err e;

    OK(cpu_ctx_new(&c, threads, flags, compute, &e), e);
    return c;
}

/* Four sequences, one of a single token, one longer than a block of queries. */
static const int32_t cu[] = { 0, 5, 6, 23, 100 };
enum { T = 100, H = 4, K = 2, HEAD = 20, Q = H * HEAD, KV = K * HEAD, D = 70, V = 131, F = 77 };
static const struct attn_shape shape = { H, K, HEAD, cu, 4, T, 77 };

/* Everything that one pass over the table gives, one after another. */
struct out {
    float o[T * Q], lse[T * H], dq[T * Q], dk[T * KV], dv[T * KV];
    float nll[T], z[T * V], dw[V * D], y[T * V], dx[T * D], ny[T * D], nw[D];
    float dg[T * F], du[T * F], w[D], m[D], v[D];
    float tn[T * V], nt[F * D], tt[16 * F];
    float snll[T], sz[T * V], fnll[T], fz[T * V], low[T * 16], da[16 * V];
    float cd[F], cs[T * F], drop[T * F], odd[T * V], dodd[T * D];
};

static void pass(struct out *r, const struct train_ops *op, struct ctx *c, enum enc enc)
{
    float *x = random_floats(T * 1024, 1), *w = random_floats(V * D, 2);
    int32_t ids[T];
    const struct adamw a = { 0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.5f, 3 };
    uint8_t *enc_w = xmalloc(V * D * 4 + 8);
    const struct weight wt = { .enc = enc,
                               .rows = V,
                               .cols = D,
                               .data = enc_w,
                               .row_bytes = D * enc_table[enc].bytes,
                               .name = "w" };
    double sum;

    enc_table[enc].encode(enc_w, w, V * D);
    memset(r, 0, sizeof(*r));
    for (int i = 0; i < T; i++)
        ids[i] = (i * 37) % V;
    op->attn(c, r->o, r->lse, &shape, x, x + 9000, x + 20000);
    op->attn_bwd(c, r->dq, r->dk, r->dv, x + 30000, &shape, x, x + 9000, x + 20000, r->o, r->lse);
    memcpy(r->z, x + 100, sizeof(r->z));
    op->cross_entropy(c, r->nll, r->z, ids, x + 7, (struct loss_form){ 0 }, T, V);
    memcpy(r->sz, x + 100, sizeof(r->sz));
    op->cross_entropy(c, r->snll, r->sz, ids, x + 7, (struct loss_form){ .smooth = 0.2f }, T, V);
    memcpy(r->fz, x + 100, sizeof(r->fz));
    op->cross_entropy(c, r->fnll, r->fz, ids, x + 7, (struct loss_form){ .dft = true }, T, V);
    op->embed_bwd(c, r->dw, D, 1, x, ids, T, D);
    op->columns(c, r->low, w, ids, T, 16, V);
    op->embed_bwd(c, r->da, 1, V, x, ids, T, 16);
    op->linear_fwd(c, r->y, &wt, x, T, NULL);
    op->linear_fwd(c, r->y, &wt, x + 11, T, r->y);
    op->linear_dx(c, r->dx, &wt, x, T, true);
    struct weight odd = wt; /* rows of which every other one starts within a word */

    odd.cols = D - 1;
    odd.row_bytes = odd.cols * enc_table[enc].bytes;
    op->linear_fwd(c, r->odd, &odd, x, T, NULL);
    op->linear_dx(c, r->dodd, &odd, x, T, false);
    op->rmsnorm_bwd(c, r->ny, r->nw, x, x + 500, w, T, D, 1e-5f);
    op->swiglu_bwd(c, r->dg, r->du, x, x + 3, x + 9, T, F);
    memcpy(r->w, w, sizeof(r->w));
    memcpy(r->m, w + 100, sizeof(r->m));
    for (int i = 0; i < D; i++)
        r->v[i] = fabsf(w[200 + i]);
    const struct adamw_values learnt[] = { { r->w, r->m, r->v, x, D - 9, true, false },
                                           { r->w + D - 9, r->m + D - 9, r->v + D - 9, x + D - 9, 9,
                                             false, false } };

    op->adamw(c, &a, learnt, ARRAY_LEN(learnt));
    const struct product nn = { .c = r->tn,
                                .M = T,
                                .N = V,
                                .K = D,
                                .a = { .p = x, .rs = D, .cs = 1 },
                                .b = { .p = x + 5, .rs = V, .cs = 1 },
                                .by = 0.5f,
                                .add = false };
    const struct product tn = { .c = r->nt,
                                .M = F,
                                .N = D,
                                .K = T - 1,
                                .a = { .p = x, .rs = 1, .cs = F },
                                .b = { .p = x + 5, .rs = D, .cs = 1 },
                                .by = 2,
                                .add = true };
    const struct product tt = { .c = r->tt,
                                .M = 16,
                                .N = F,
                                .K = D - 1,
                                .a = { .p = x, .rs = 1, .cs = 16 },
                                .b = { .p = x + 5, .rs = 1, .cs = D },
                                .by = 1,
                                .add = false };

    op->product(c, &nn);
    op->product(c, &tn);
    op->product(c, &tt);
    const struct adamw_values squared[] = { { .g = x, .n = T * 600 },
                                            { .g = x + T * 600, .n = T * 300 } };

    op->square_sum(c, &sum, squared, ARRAY_LEN(squared));
    r->tt[0] += (float)sum * 1e-6f;
    op->col_dot(c, r->cd, x, x + 77, x + 9, T, F);
    op->col_scale(c, r->cs, x, x + 3, T, F, false);
    op->col_scale(c, r->cs, x + 5, x + 7, T, F, true);
    op->dropout(c, r->drop, x, T * F - 1, 0.3f, 5, false);
    op->dropout(c, r->drop, x + 1, T * F - 1, 0.3f, 6, true);
    free(x);
    free(w);
    free(enc_w);
}

#define EACH(F_)                                                                                   \
    F_(o)                                                                                          \
    F_(lse)                                                                                        \
    F_(dq)                                                                                         \
    F_(dk)                                                                                         \
    F_(dv)                                                                                         \
    F_(nll)                                                                                        \
    F_(z)                                                                                          \
    F_(dw)                                                                                         \
    F_(y)                                                                                          \
    F_(dx)                                                                                         \
    F_(ny)                                                                                         \
    F_(nw) F_(dg) F_(du) F_(w) F_(m) F_(v) F_(tn) F_(nt) F_(tt) F_(cd) F_(cs) F_(drop) F_(odd)     \
        F_(dodd) F_(snll) F_(sz) F_(fnll) F_(fz) F_(low) F_(da)

static void test_every_isa(void **state)
{
    struct out *want = xmalloc(sizeof(*want)), *got = xmalloc(sizeof(*got));
    struct out *again = xmalloc(sizeof(*again));

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(isa); i++) {
        unsigned flags;

        if (!isa_here(isa[i], &flags))
            continue;
        for (int k = 0; k < 4; k++) {
            const enum compute compute = k % 2 ? COMPUTE_BF16 : COMPUTE_F32;
            const enum enc enc = k < 2 ? ENC_BF16 : ENC_F16;
            struct ctx *c = context(1, flags, compute), *c3 = context(3, flags, compute);
            const struct train_need need = {
                .T = T, .wide = V, .rows = T, .cols = V, .hd = HEAD, .encoded = enc == ENC_F16
            };
            const size_t before = cpu_ctx_scratch(c3);

            pass(want, &train_ops_ref, c, enc);
            pass(got, &train_ops_cpu, c, enc);
            pass(again, &train_ops_cpu, c3, enc);
            assert_memory_equal(got, again, sizeof(*got));
            /* rooms grow by a quarter more than they are asked for */
            assert_true(cpu_ctx_scratch(c3) - before <=
                        train_ops_cpu.scratch(c3, &need) / 4 * 5 + (1 << 10));
#define CHECK(f)                                                                                   \
    if (rel_error(got->f, want->f, ARRAY_LEN(want->f)) > 3e-5)                                     \
        fail_msg("%s, %d: %s differs by %g", isa[i], k, #f,                                        \
                 rel_error(got->f, want->f, ARRAY_LEN(want->f)));
            EACH(CHECK)
#undef CHECK
            cpu_ctx_free(c);
            cpu_ctx_free(c3);
        }
    }
    free(want);
    free(got);
    free(again);
}

/* ---- finite differences of ref: L = sum of dy * f(x) ---- */

static double weighted(const float *y, const float *by, size_t n)
{
    double s = 0;

    for (size_t i = 0; i < n; i++)
        s += (double)y[i] * by[i];
    return s;
}

static double attn_loss(struct ctx *c, const float *q, const float *k, const float *v,
                        const float *dy)
{
    static float o[T * Q], lse[T * H];

    train_ops_ref.attn(c, o, lse, &shape, q, k, v);
    return weighted(o, dy, T * Q);
}

static void near(double slope, double grad, const char *what)
{
    if (fabs(slope - grad) > 2e-3 * (fabs(slope) + 1))
        fail_msg("%s: gradient %g, slope %g", what, grad, slope);
}

static void test_slopes(void **state)
{
    static struct out r;
    struct ctx *c = context(1, 0, COMPUTE_F32);
    float *x = random_floats(T * 1024, 1);
    float *q = x, *k = x + 9000, *v = x + 20000, *dy = x + 30000;
    const float h = 1e-2f;

    (void)state;
    train_ops_ref.attn(c, r.o, r.lse, &shape, q, k, v);
    train_ops_ref.attn_bwd(c, r.dq, r.dk, r.dv, dy, &shape, q, k, v, r.o, r.lse);
    for (size_t i = 3; i < T * KV; i += 977) {
        float *const at[] = { q + i, k + i, v + i };
        const float grad[] = { r.dq[i], r.dk[i], r.dv[i] };

        for (size_t n = 0; n < 3; n++) {
            const float was = *at[n];

            *at[n] = was + h;
            const double up = attn_loss(c, q, k, v, dy);
            *at[n] = was - h;
            const double down = attn_loss(c, q, k, v, dy);
            *at[n] = was;
            near((up - down) / (2 * (double)h), grad[n], "attention");
        }
    }
    float w[D], y[2][D];

    for (int i = 0; i < D; i++)
        w[i] = 1 + x[i];
    train_ops_ref.rmsnorm_bwd(c, r.ny, r.nw, dy, x, w, 1, D, 1e-5f);
    for (int i = 0; i < D; i += 7) {
        const float was = x[i];

        x[i] = was + h;
        ops_ref.rmsnorm(c, y[0], x, w, 1, D, 1e-5f);
        x[i] = was - h;
        ops_ref.rmsnorm(c, y[1], x, w, 1, D, 1e-5f);
        x[i] = was;
        near((weighted(y[0], dy, D) - weighted(y[1], dy, D)) / (2 * (double)h), r.ny[i], "norm");
    }
    train_ops_ref.swiglu_bwd(c, r.dg, r.du, dy, x, x + 90, 1, D);
    for (int i = 0; i < D; i += 9) {
        const float was = x[i];

        x[i] = was + h;
        ops_ref.swiglu(c, y[0], x, x + 90, 1, D);
        x[i] = was - h;
        ops_ref.swiglu(c, y[1], x, x + 90, 1, D);
        x[i] = was;
        near((weighted(y[0], dy, D) - weighted(y[1], dy, D)) / (2 * (double)h), r.dg[i], "silu");
    }
    free(x);
    cpu_ctx_free(c);
}

/* Values of more than one panel's worth of k, against float32 of another order. */
static void test_long_products(void **state)
{
    enum { M = 13, N = 40, LONG = 2500 };
    float *a = random_floats(M * LONG, 3), *b = random_floats(N * LONG, 4);
    float want[M * N], got[M * N];
    struct ctx *c = context(2, cpu_flags(), COMPUTE_BF16);
    const struct product p = { .c = want,
                               .M = M,
                               .N = N,
                               .K = LONG,
                               .a = { .p = a, .rs = LONG, .cs = 1 },
                               .b = { .p = b, .rs = 1, .cs = LONG },
                               .by = 1,
                               .add = false };
    struct product g = p;

    (void)state;
    g.c = got;
    train_ops_ref.product(c, &p);
    train_ops_cpu.product(c, &g);
    assert_true(rel_error(got, want, M * N) < 1e-5);
    free(a);
    free(b);
    cpu_ctx_free(c);
}

/* Every encoding of blocks, decoded and rounded on the way: more groups than a panel has, and rows
 * that fill none. A value that is rounded the other way, for its last bit before, is 2^-9 off. */
static void test_decoded(void **state)
{
    enum { ROWS = 37, COLS = 768, TOKENS = 3 };
    float *x = random_floats(TOKENS * COLS, 5), *w = random_floats(ROWS * COLS, 6);
    uint8_t *data = xmalloc(ROWS * COLS * 4);
    float want[TOKENS * ROWS], got[TOKENS * ROWS];
    static float dwant[TOKENS * COLS], dgot[TOKENS * COLS];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(isa); i++) {
        unsigned flags;

        if (!isa_here(isa[i], &flags))
            continue;
        struct ctx *c = context(2, flags, COMPUTE_BF16);

        for (int e = 0; e < ENC_COUNT; e++) {
            const struct enc_info *enc = &enc_table[e];

            if (enc->block < 32 || !enc->encode || !enc->decode)
                continue;
            const struct weight wt = { .enc = (enum enc)e,
                                       .rows = ROWS,
                                       .cols = COLS,
                                       .data = data,
                                       .row_bytes = COLS / enc->block * enc->bytes,
                                       .name = "w" };

            enc->encode(data, w, ROWS * COLS);
            memset(dwant, 0, sizeof(dwant));
            memset(dgot, 0, sizeof(dgot));
            train_ops_ref.linear_fwd(c, want, &wt, x, TOKENS, false);
            train_ops_cpu.linear_fwd(c, got, &wt, x, TOKENS, false);
            train_ops_ref.linear_dx(c, dwant, &wt, x, TOKENS, true);
            train_ops_cpu.linear_dx(c, dgot, &wt, x, TOKENS, true);
            if (rel_error(got, want, TOKENS * ROWS) > 1e-4 ||
                rel_error(dgot, dwant, TOKENS * COLS) > 1e-4)
                fail_msg("%s, %s: %g and %g off", isa[i], enc->name,
                         rel_error(got, want, TOKENS * ROWS),
                         rel_error(dgot, dwant, TOKENS * COLS));
        }
        cpu_ctx_free(c);
    }
    free(x);
    free(w);
    free(data);
}

TEST_MAIN(cmocka_unit_test(test_every_isa), cmocka_unit_test(test_slopes),
          cmocka_unit_test(test_long_products), cmocka_unit_test(test_decoded))
