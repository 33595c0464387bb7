/* Training on the GPU: every op of train.def against the scalar truth on awkward shapes, in float32
 * and bf16, and the same bits twice. Skipped, and counted as skipped, where there is no GPU. */
#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "planes.h"
#include "support_gpu.h"

static void near(const float *got, const float *want, size_t n, double limit, const char *what)
{
    const double e = rel_error(got, want, n);

    if (!(e <= limit))
        MISS("%s: relative error %g\n", what, e);
}

/* n values here and there; activations are bf16 there where the context has them so. */
struct pair {
    float *h, *d;
    size_t n;
    bool act;
};

/* Here they become what is there. */
static void up(struct ctx *c, const struct pair *p)
{
    uint16_t *half = xmalloc((p->n + 1) * sizeof(*half));
    const bool halves = p->act && c->half;
    struct err e;

    for (size_t i = 0; halves && i < p->n; i++) {
        half[i] = f32_to_bf16(p->h[i]);
        p->h[i] = bf16_to_f32(half[i]);
    }
    OK(c->be->upload(c, p->d, halves ? (void *)half : (void *)p->h,
                     p->n * (halves ? sizeof(*half) : sizeof(float)), &e),
       e);
    free(half);
}

/* What the device has, free() it. */
static float *down(struct ctx *c, const struct pair *p)
{
    float *got = xmalloc((p->n + 1) * sizeof(*got));
    const bool halves = p->act && c->half;
    struct err e;

    OK(c->be->settle(c, &e), e);
    OK(c->be->download(c, got, p->d, p->n * (halves ? sizeof(uint16_t) : sizeof(float)), &e), e);
    for (size_t i = p->n; halves && i-- > 0;)
        got[i] = bf16_to_f32(((uint16_t *)(void *)got)[i]);
    return got;
}

static struct pair pair_of(struct ctx *c, size_t n, uint64_t seed, bool act)
{
    struct pair p = { .h = random_floats(n, seed), .n = n, .act = act };
    struct err e;
    void *d;

    OK(c->be->alloc(c, &d, n * sizeof(float), "test", &e), e);
    p.d = d;
    up(c, &p);
    return p;
}

/* Activations; and what is float32 everywhere. */
static struct pair pair_new(struct ctx *c, size_t n, uint64_t seed)
{
    return pair_of(c, n, seed, true);
}

static struct pair floats_new(struct ctx *c, size_t n, uint64_t seed)
{
    return pair_of(c, n, seed, false);
}

/* float32 throughout, bf16 products of float32, bf16 throughout. */
enum { WAYS = 3 };

static struct ctx *way_of(int k)
{
    struct ctx *c = gpu_context(k ? COMPUTE_BF16 : COMPUTE_F32);

    c->half = k == 2;
    return c;
}

/* How far rounding alone takes what is kept in bf16, and `exact` elsewhere. */
static double limit_of(const struct ctx *c, double exact)
{
    return c->half ? fmax(exact, 4e-3) : exact;
}

static void pair_free(struct ctx *c, struct pair *p)
{
    c->be->release(c, p->d, 0);
    free(p->h);
}

/* Ints on the device. */
static int32_t *ints(struct ctx *c, const int32_t *p, size_t n)
{
    struct err e;
    void *d;

    OK(c->be->alloc(c, &d, n * sizeof(*p), "test", &e), e);
    OK(c->be->upload(c, d, p, n * sizeof(*p), &e), e);
    return d;
}

/* What ref made of p's host copy against what the device made of its own; then both are as ref
 * says. */
static void check(struct ctx *c, struct pair *p, double limit, const char *what)
{
    float *got = down(c, p);

    near(got, p->h, p->n, limit, what);
    free(got);
    up(c, p);
}

/* ---- products ---- */

static const struct train_ops *const ref = &train_ops_ref, *const op = &train_ops_cuda;

/* One of the eight ways of operands: a across, b across, added. */
static void one_product(struct ctx *c, struct ctx *host, size_t M, size_t N, size_t K, int way,
                        int acts)
{
    struct pair x = pair_of(c, M * K + 5, 1, acts & 1), y = pair_of(c, K * N + 5, 2, acts & 2);
    const size_t ldc = way & 1 ? N + 8 : 0;
    struct pair z = pair_of(c, M * (ldc ? ldc : N), 3, acts & 4);
    const size_t off = way & 1; /* not where memory begins */
    const size_t there = off * (c->half && x.act ? sizeof(uint16_t) : sizeof(float));
    struct product p = {
        .M = M, .N = N, .K = K, .by = 0.5f, .add = way & 4, .act = z.act, .ldc = ldc
    };
    char what[80];

    p.a = way & 1 ? (struct mat){ .rs = 1, .cs = M } : (struct mat){ .rs = K, .cs = 1 };
    p.b = way & 2 ? (struct mat){ .rs = 1, .cs = K } : (struct mat){ .rs = N, .cs = 1 };
    p.c = z.h, p.a.p = x.h + off, p.b.p = y.h;
    ref->product(host, &p);
    p.a.act = x.act, p.b.act = y.act;
    p.c = z.d, p.a.p = (float *)(void *)((char *)x.d + there), p.b.p = y.d;
    op->product(c, &p);
    snprintf(what, sizeof(what), "product %zu x %zu x %zu, way %d, compute %d, acts %d", M, N, K,
             way, (int)c->compute, acts);
    check(c, &z, z.act ? limit_of(c, 1e-5) : 1e-5, what);
    pair_free(c, &x);
    pair_free(c, &y);
    pair_free(c, &z);
}

static void products(void **state)
{
    static const size_t shapes[][3] = { { 1, 1, 1 },    { 1, 7, 3 },    { 33, 1, 40 },
                                        { 17, 33, 65 }, { 64, 16, 96 }, { 70, 131, 77 } };

    (void)state;
    for (int k = 0; k < WAYS; k++) {
        struct ctx *c = way_of(k), host = { .compute = c->compute };

        for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
            for (int way = 0; way < 8; way++)
                for (int acts = 0; acts < (c->half ? 8 : 1); acts++)
                    one_product(c, &host, shapes[i][0], shapes[i][1], shapes[i][2], way, acts);
        c->be->free(c);
    }
    gpu_settle();
}

/* Both passes of a matrix; rounded: by how much the packed layout's scales differ from the file's.
 */
static void one_linear(struct ctx *c, struct ctx *host, struct weight *w, size_t T, double limit)
{
    struct pair x = pair_new(c, T * w->cols, 1), y = pair_new(c, T * w->rows, 2);
    struct pair z = pair_new(c, T * w->rows, 3);
    char what[120];

    for (int add = 0; add < 3; add++) { /* to nothing, to what is there, to something else */
        ref->linear_fwd(host, y.h, w, x.h, T, add == 1 ? y.h : add ? z.h : NULL);
        op->linear_fwd(c, y.d, w, x.d, T, add == 1 ? y.d : add ? z.d : NULL);
        snprintf(what, sizeof(what), "%s %zu x %zu, T %zu, add %d, compute %d", w->name, w->rows,
                 w->cols, T, add, (int)c->compute);
        check(c, &y, limit, what);
    }
    for (int add = 1; add >= 0; add--) {
        ref->linear_dx(host, x.h, w, y.h, T, add);
        op->linear_dx(c, x.d, w, y.d, T, add);
        snprintf(what, sizeof(what), "%s %zu x %zu, T %zu, backward, add %d, compute %d", w->name,
                 w->rows, w->cols, T, add, (int)c->compute);
        check(c, &x, limit, what);
    }
    pair_free(c, &x);
    pair_free(c, &y);
    pair_free(c, &z);
}

static void both_linear(struct ctx *c, struct weight *w, double limit)
{
    struct ctx host = { .compute = c->compute };
    struct err e;

    OK(c->be->place(c, w, &e), e);
    one_linear(c, &host, w, 1, limit);
    one_linear(c, &host, w, 70, limit);
    c->be->unplace(c, w);
}

static void linears(void **state)
{
    static const enum enc encs[] = { ENC_F32, ENC_F16, ENC_BF16, ENC_Q4_0, ENC_Q8_0 };
    static const size_t shape[][2] = { { 24, 96 }, { 144, 512 }, { 200, 288 }, { 200, 576 } };

    (void)state;
    for (int k = 0; k < WAYS; k++) {
        struct ctx *c = way_of(k);

        for (size_t s = 0; s < ARRAY_LEN(shape); s++) {
            const size_t rows = shape[s][0], cols = shape[s][1];

            /* an emulated device has time for one; what is packed comes with the second */
            if (gpu_emulated() && s != (size_t)(k > 0))
                continue;

            for (size_t i = 0; i < ARRAY_LEN(encs); i++) {
                const struct enc_info *info = &enc_table[encs[i]];
                float *x = random_floats(rows * cols, 9);
                uint8_t *p = xmalloc(rows * cols * 4);
                struct weight w = { .enc = encs[i],
                                    .rows = rows,
                                    .cols = cols,
                                    .data = p,
                                    .row_bytes = cols / info->block * info->bytes,
                                    .name = info->name };

                if (info->encode) {
                    info->encode(p, x, rows * cols);
                    both_linear(c, &w, k ? limit_of(c, 3e-3) : 1e-5);
                }
                free(x);
                free(p);
            }
            for (size_t i = 0; i < plane_kinds_n; i++) {
                struct planes_owned o;
                struct weight w = planes_new(&plane_kinds[i], rows, cols, &o);

                /* whose inputs are rounded to E4M3 in both passes, on a device that multiplies it
                 */
                const bool f8 = c->half && w.p.act == ACT_F8 && w.p.act_group >= cols;

                both_linear(c, &w, k ? limit_of(c, 6e-3) : 1e-5);
                c->f8 = F8_BOTH;
                if (f8)
                    both_linear(c, &w, 4e-2);
                c->f8 = F8_NONE;
                planes_release(&o);
            }
        }
        c->be->free(c);
    }
    gpu_settle();
}

/* A matrix that learns: it lies on the device as it is. */
static void adopted(void **state)
{
    struct ctx *c = gpu_context(COMPUTE_BF16), host = { .compute = COMPUTE_BF16 };
    struct pair m = pair_new(c, 70 * 50, 4), y = pair_new(c, 3 * 50, 5);
    struct weight w = { .enc = ENC_F32, .rows = 70, .cols = 50, .row_bytes = 200, .name = "own" };
    struct weight there = w;
    int32_t ids[] = { 69, 0, 3 }, *dids = ints(c, ids, 3);

    (void)state;
    w.data = m.h;
    there.data = m.d;
    c->be->adopt(c, &there);
    ops_ref.embed(NULL, y.h, &w, ids, 3);
    c->op->embed(c, y.d, &there, dids, 3);
    check(c, &y, 0, "rows of a matrix that learns");
    for (int i = 0; i < 2; i++) { /* the second time it has other values */
        struct pair x = pair_new(c, 9 * 50, 6), z = pair_new(c, 9 * 70, 7);

        ref->linear_fwd(&host, z.h, &w, x.h, 9, NULL);
        op->linear_fwd(c, z.d, &there, x.d, 9, NULL);
        check(c, &z, 1e-5, "a matrix that learns");
        m.h[5] += 9;
        up(c, &m);
        pair_free(c, &x);
        pair_free(c, &z);
    }
    c->be->unplace(c, &there);
    c->be->release(c, dids, 0);
    pair_free(c, &m);
    pair_free(c, &y);
    c->be->free(c);
    gpu_settle();
}

/* ---- attention ---- */

static void one_attention(struct ctx *c, size_t H, size_t K, size_t hd, const int32_t *cu,
                          size_t n_seq)
{
    const size_t T = (size_t)cu[n_seq], nq = T * H * hd, nk = T * K * hd;
    struct attn_shape s = { .H = H, .K = K, .hd = hd, .cu = cu, .n_seq = n_seq, .T = T };
    struct pair q = pair_new(c, nq, 1), k = pair_new(c, nk, 2), v = pair_new(c, nk, 3);
    struct pair dy = pair_new(c, nq, 4), o = pair_new(c, nq, 5), lse = floats_new(c, T * H, 6);
    struct pair dq = pair_new(c, nq, 7), dk = pair_new(c, nk, 8), dv = pair_new(c, nk, 9);
    struct pair *const all[] = { &q, &k, &v, &dy, &o, &lse, &dq, &dk, &dv };
    struct attn_shape there = s;
    int32_t *dcu = ints(c, cu, n_seq + 1);
    struct ctx host = { .compute = c->compute };
    const double limit = c->compute == COMPUTE_BF16 ? 2e-2 : 3e-6;
    char what[80];

    for (size_t i = 0; i < n_seq; i++)
        s.longest =
            (size_t)(cu[i + 1] - cu[i]) > s.longest ? (size_t)(cu[i + 1] - cu[i]) : s.longest;
    there = s;
    there.cu = dcu;
    ref->attn(&host, o.h, lse.h, &s, q.h, k.h, v.h);
    op->attn(c, o.d, lse.d, &there, q.d, k.d, v.d);
    snprintf(what, sizeof(what), "attention %zu/%zu heads of %zu, %zu rows, compute %d", H, K, hd,
             T, (int)c->compute);
    check(c, &o, limit, what);
    check(c, &lse, limit, "log of its sums");
    ref->attn_bwd(&host, dq.h, dk.h, dv.h, dy.h, &s, q.h, k.h, v.h, o.h, lse.h);
    op->attn_bwd(c, dq.d, dk.d, dv.d, dy.d, &there, q.d, k.d, v.d, o.d, lse.d);
    float *first = down(c, &dk);

    op->attn_bwd(c, dq.d, dk.d, dv.d, dy.d, &there, q.d, k.d, v.d, o.d, lse.d);
    float *second = down(c, &dk);

    assert_memory_equal(first, second, nk * sizeof(float));
    snprintf(what, sizeof(what), "its gradient, %zu/%zu heads of %zu, %zu rows, compute %d", H, K,
             hd, T, (int)c->compute);
    if (T > 1 || c->compute == COMPUTE_F32) { /* of one row they are nothing but rounding */
        check(c, &dq, limit, what);
        check(c, &dk, limit, what);
    }
    check(c, &dv, limit, what);
    free(first);
    free(second);
    c->be->release(c, dcu, 0);
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        pair_free(c, all[i]);
}

static void attention(void **state)
{
    static const int32_t a[] = { 0, 5, 6, 23, 100 }, b[] = { 0, 1 }, d[] = { 0, 130, 131, 200 };
    static const size_t heads[][3] = { { 4, 2, 20 }, { 3, 3, 7 }, { 9, 3, 64 }, { 8, 1, 128 } };

    (void)state;
    for (int k = 0; k < WAYS; k++) {
        struct ctx *c = way_of(k);

        cuda_try(c, CUDA_TRY_MMA);
        for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
            const size_t H = heads[i][0], K = heads[i][1], hd = heads[i][2];

            one_attention(c, H, K, hd, a, 4);
            one_attention(c, H, K, hd, b, 1);
            if (!gpu_emulated()) /* which has no time for it */
                one_attention(c, H, K, hd, d, 3);
        }
        c->be->free(c);
    }
    gpu_settle();
}

/* Where there are, by Hopper's own products: tiles that are full and not, all groups of heads. */
static void attention_wgmma(void **state)
{
    static const int32_t a[] = { 0, 5, 6, 23, 100 }, b[] = { 0, 130, 131, 200 }, d[] = { 0, 257 };
    static const size_t heads[][3] = { { 2, 2, 64 }, { 3, 1, 64 }, { 2, 2, 128 }, { 4, 1, 128 } };
    struct ctx *c = way_of(2);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
        const size_t H = heads[i][0], K = heads[i][1], hd = heads[i][2];

        one_attention(c, H, K, hd, a, 4);
        one_attention(c, H, K, hd, b, 3);
        if (H == K || !gpu_emulated())
            one_attention(c, H, K, hd, d, 1);
    }
    one_attention(c, 8, 1, 64, a, 4);
    c->be->free(c);
    gpu_settle();
}

/* ---- rows ---- */

static void one_rows(struct ctx *c, size_t T, size_t D)
{
    const size_t n = T * D;
    struct pair x = pair_new(c, n, 1), y = pair_new(c, n, 2), g = pair_new(c, n, 3);
    struct pair w = floats_new(c, D, 4), dw = floats_new(c, D, 5), nll = floats_new(c, T, 6);
    struct pair coef = floats_new(c, T, 7), table = floats_new(c, 37 * D, 8);
    struct pair z = pair_new(c, n, 9);
    const double exact = limit_of(c, 2e-6);
    struct pair *const all[] = { &x, &y, &g, &w, &dw, &nll, &coef, &table, &z };
    int32_t *ids = xcalloc(2 * T, sizeof(*ids)), *label = ids + T;

    for (size_t t = 0; t < T; t++) {
        ids[t] = (int32_t)(t * 7 % 37 % (t % 3 ? 5 : 37)); /* some often */
        label[t] = (int32_t)(t * 31 % D);
    }
    int32_t *dids = ints(c, ids, 2 * T), *dlabel = dids + T;

    ref->rmsnorm_bwd(NULL, x.h, dw.h, y.h, g.h, w.h, T, D, 1e-5f);
    op->rmsnorm_bwd(c, x.d, dw.d, y.d, g.d, w.d, T, D, 1e-5f);
    check(c, &x, exact, "norm backward");
    check(c, &dw, 2e-6, "norm backward, weight");
    ref->rmsnorm_bwd(NULL, x.h, NULL, y.h, g.h, w.h, T, D, 1e-5f);
    op->rmsnorm_bwd(c, x.d, NULL, y.d, g.d, w.d, T, D, 1e-5f);
    check(c, &x, exact, "norm backward, frozen weight");
    ref->col_dot(NULL, dw.h, x.h, g.h, w.h, T, D);
    op->col_dot(c, dw.d, x.d, g.d, w.d, T, D);
    check(c, &dw, 2e-6, "dots of columns");
    for (int add = 0; add < 2; add++) {
        ref->col_scale(NULL, x.h, add ? g.h : x.h, w.h, T, D, add);
        op->col_scale(c, x.d, add ? g.d : x.d, w.d, T, D, add);
        check(c, &x, exact, "scaled columns");
    }
    ref->swiglu_bwd(NULL, x.h, y.h, g.h, x.h, y.h, T, D);
    op->swiglu_bwd(c, x.d, y.d, g.d, x.d, y.d, T, D);
    check(c, &x, exact, "swiglu backward, gate");
    check(c, &y, exact, "swiglu backward, up");
    for (size_t cs = 1; cs < 38; cs += 36) { /* rows, columns */
        const size_t rs = cs == 1 ? D : 1;

        ref->embed_bwd(NULL, table.h, rs, cs, g.h, ids, T, D);
        op->embed_bwd(c, table.d, rs, cs, g.d, dids, T, D);
        check(c, &table, 2e-6, "embedding backward");
    }
    ref->columns(NULL, z.h, table.h, ids, T, D, 37);
    op->columns(c, z.d, table.d, dids, T, D, 37);
    check(c, &z, exact, "columns");
    for (int k = 0; k < 4; k++) {
        const struct loss_form form = { k == 2 ? 0.3f : 0, k == 3 };

        ref->cross_entropy(NULL, nll.h, z.h, label, k ? coef.h : NULL, form, T, D);
        op->cross_entropy(c, nll.d, z.d, dlabel, k ? coef.d : NULL, form, T, D);
        check(c, &nll, 2e-6, "loss");
        if (k)
            check(c, &z, exact, "loss backward");
        free(z.h);
        z.h = random_floats(n, 10 + (uint64_t)k);
        up(c, &z);
    }
    ref->dropout(NULL, x.h, y.h, n, 0.3f, 5, false);
    op->dropout(c, x.d, y.d, n, 0.3f, 5, false);
    ref->dropout(NULL, x.h, g.h, n, 0.4f, 6, true);
    op->dropout(c, x.d, g.d, n, 0.4f, 6, true);
    check(c, &x, exact, "dropout");
    ref->noise(NULL, x.h, n, 77, 0.25, 3);
    op->noise(c, x.d, n, 77, 0.25, 3);
    check(c, &x, exact, "noise");
    for (size_t t = 0; t < T; t++)
        label[t] = (int32_t)(T - 1 - t);
    struct err e;

    OK(c->be->upload(c, dlabel, label, T * sizeof(*label), &e), e);
    ref->scatter(NULL, y.h, x.h, label, T, D);
    op->scatter(c, y.d, x.d, dlabel, T, D);
    check(c, &y, 0, "scatter");
    ref->copy(NULL, y.h, x.h, n * sizeof(float));
    op->copy(c, y.d, x.d, n * act_bytes(c));
    ref->zero(NULL, x.h, (n - 1) * sizeof(float));
    op->zero(c, x.d, (n - 1) * act_bytes(c));
    check(c, &y, 0, "copy");
    check(c, &x, 0, "zero");
    c->be->release(c, dids, 0);
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        pair_free(c, all[i]);
    free(ids);
}

static void one_dora(struct ctx *c, size_t out, size_t r)
{
    struct pair mag = floats_new(c, out, 1), b = floats_new(c, out * r, 2);
    struct pair squares = floats_new(c, out, 3), aw = floats_new(c, r * out, 4);
    struct pair aa = floats_new(c, r * r, 5), gain = floats_new(c, 3 * out, 6);
    struct dora here = { mag.h, b.h, squares.h, aw.h, aa.h, gain.h, gain.h + out, gain.h + 2 * out,
                         out,   r,   0.5f };
    struct dora there = { mag.d, b.d, squares.d, aw.d, aa.d, gain.d, gain.d + out, gain.d + 2 * out,
                          out,   r,   0.5f };

    for (size_t i = 0; i < out; i++)
        squares.h[i] = 100 + fabsf(squares.h[i]);
    up(c, &squares);
    ref->dora_gain(NULL, &here);
    op->dora_gain(c, &there);
    check(c, &gain, 1e-6, "gains of DoRA");
    pair_free(c, &mag);
    pair_free(c, &b);
    pair_free(c, &squares);
    pair_free(c, &aw);
    pair_free(c, &aa);
    pair_free(c, &gain);
}

/* What training takes from ops.h. */
static void shared_rows(struct ctx *c, size_t T, size_t D)
{
    const size_t heads = D % 64 ? 1 : D / 64, hd = D / heads / 2 * 2, turned = T * heads * hd;
    struct pair x = pair_new(c, T * D, 1), y = pair_new(c, T * D, 2), w = floats_new(c, D, 3);
    struct pair table = floats_new(c, 7 * D, 4), freq = floats_new(c, hd / 2 + 1, 5);
    struct pair z = pair_new(c, turned + 1, 6);
    int32_t *ids = xcalloc(2 * T, sizeof(*ids)), *pos = ids + T;
    struct weight here = { .enc = ENC_F32,
                           .rows = 7,
                           .cols = D,
                           .data = table.h,
                           .row_bytes = D * sizeof(float),
                           .name = "table" };
    struct weight there = here;
    const double exact = limit_of(c, 2e-6);

    for (size_t t = 0; t < T; t++) {
        ids[t] = (int32_t)(t * 5 % 7 < T ? t * 5 % 7 : 0);
        pos[t] = (int32_t)(3 * t);
    }
    int32_t *dids = ints(c, ids, 2 * T), *dpos = dids + T;

    there.data = table.d;
    c->be->adopt(c, &there);
    ops_ref.embed(NULL, y.h, &here, ids, T);
    c->op->embed(c, y.d, &there, dids, T);
    check(c, &y, exact, "embed");
    ops_ref.gather(NULL, x.h, y.h, ids, T, D);
    c->op->gather(c, x.d, y.d, dids, T, D);
    check(c, &x, 0, "gather");
    ops_ref.rmsnorm(NULL, y.h, x.h, w.h, T, D, 1e-5f);
    c->op->rmsnorm(c, y.d, x.d, w.d, T, D, 1e-5f);
    check(c, &y, exact, "norm");
    ops_ref.swiglu(NULL, x.h, x.h, y.h, T, D);
    c->op->swiglu(c, x.d, x.d, y.d, T, D);
    check(c, &x, exact, "swiglu");
    for (int inter = 0; inter < 2 && hd; inter++) {
        ops_ref.rope(NULL, z.h, heads, hd, pos, freq.h, inter, T);
        c->op->rope(c, z.d, heads, hd, dpos, freq.d, inter, T);
        check(c, &z, limit_of(c, 1e-5), "rope");
    }
    c->be->unplace(c, &there);
    c->be->release(c, dids, 0);
    pair_free(c, &x);
    pair_free(c, &y);
    pair_free(c, &z);
    pair_free(c, &w);
    pair_free(c, &table);
    pair_free(c, &freq);
    free(ids);
}

static void rows(void **state)
{
    static const size_t shape[][2] = { { 1, 1 },     { 3, 17 },   { 5, 1500 },
                                       { 130, 131 }, { 300, 64 }, { 2, 4096 } };

    (void)state;
    for (int k = 0; k < WAYS; k += 2) {
        struct ctx *c = way_of(k);

        for (size_t i = 0; i < ARRAY_LEN(shape); i++) {
            one_rows(c, shape[i][0], shape[i][1]);
            shared_rows(c, shape[i][0], shape[i][1]);
            one_dora(c, shape[i][1], 1 + i);
        }
        c->be->free(c);
    }
    gpu_settle();
}

static void optimiser(void **state)
{
    static const size_t n[] = { 1, 255, 16385, 100000 };
    struct ctx *c = gpu_context(COMPUTE_F32);
    struct err e;
    void *sum;

    (void)state;
    OK(c->be->alloc(c, &sum, sizeof(double), "test", &e), e);
    for (size_t i = 0; i < ARRAY_LEN(n); i++) {
        struct pair w = pair_new(c, n[i], 1), m = pair_new(c, n[i], 2), v = pair_new(c, n[i], 3);
        struct pair g = pair_new(c, n[i], 4);
        const struct adamw a = { 0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.5f, 3 };
        const size_t cut = n[i] / 8 * 4; /* lists begin at multiples of 16 bytes */
        const struct adamw_values here[] = { { w.h, m.h, v.h, g.h, cut, true, false },
                                             { w.h + cut, m.h + cut, v.h + cut, g.h + cut,
                                               n[i] - cut, false, false } };
        const struct adamw_values there[] = { { w.d, m.d, v.d, g.d, cut, true, false },
                                              { w.d + cut, m.d + cut, v.d + cut, g.d + cut,
                                                n[i] - cut, false, false } };
        double want, got;

        for (size_t k = 0; k < n[i]; k++)
            v.h[k] = fabsf(v.h[k]);
        up(c, &v);
        ref->square_sum(NULL, &want, here, ARRAY_LEN(here));
        op->square_sum(c, sum, there, ARRAY_LEN(there));
        OK(c->be->download(c, &got, sum, sizeof(got), &e), e);
        assert_true(fabs(got - want) <= 1e-12 * want);
        ref->adamw(NULL, &a, here, ARRAY_LEN(here));
        op->adamw(c, &a, there, ARRAY_LEN(there));
        check(c, &w, 1e-6, "adamw");
        check(c, &m, 1e-6, "first moment");
        check(c, &v, 1e-6, "second moment");
        pair_free(c, &w);
        pair_free(c, &m);
        pair_free(c, &v);
        pair_free(c, &g);
    }
    c->be->release(c, sum, 0);
    c->be->free(c);
    gpu_settle();
}

/* More lists than a launch takes, some empty; then a product with what two of them, which lie
 * together, became, of which it has a copy. */
static void many_lists(void **state)
{
    enum { LISTS = 150, MOST = 2100, M = 24, K = 16 };
    struct ctx *c = way_of(2), host = { .compute = COMPUTE_BF16 };
    struct pair w = floats_new(c, LISTS * MOST, 1), m = floats_new(c, LISTS * MOST, 2);
    struct pair v = floats_new(c, LISTS * MOST, 3), g = floats_new(c, LISTS * MOST, 4);
    struct pair x = pair_new(c, M * K, 5), y = pair_new(c, M * M, 6);
    const struct adamw a = { 0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.5f, 3 };
    struct adamw_values here[LISTS], there[LISTS];
    struct product p = { .M = M, .N = M, .K = K, .by = 1, .act = true };

    (void)state;
    for (size_t k = 0; k < v.n; k++)
        v.h[k] = fabsf(v.h[k]);
    up(c, &v);
    for (size_t i = 0; i < LISTS; i++) {
        const size_t half = M * K / 2, at = i == 78 ? 77 * MOST + half : i * MOST;
        const size_t n = i == 77 || i == 78 ? half : i * 37 % MOST;

        here[i] = (struct adamw_values){ w.h + at, m.h + at, v.h + at, g.h + at, n, i % 3, false };
        there[i] = (struct adamw_values){ w.d + at, m.d + at, v.d + at, g.d + at, n, i % 3, false };
    }
    for (int step = 0; step < 3; step++) {
        p.a = (struct mat){ .p = x.h, .rs = K, .cs = 1, .act = true };
        p.b = (struct mat){ .p = here[77].w, .rs = 1, .cs = K };
        p.c = y.h;
        ref->product(&host, &p);
        p.a.p = x.d;
        p.b.p = there[77].w;
        p.c = y.d;
        op->product(c, &p);
        check(c, &y, 4e-3, "product with what learns");
        ref->adamw(NULL, &a, here, LISTS);
        op->adamw(c, &a, there, LISTS);
        check(c, &m, 1e-6, "first moments"); /* uploads: copies of w stay */
        if (step == 1)
            check(c, &w, 1e-6, "lists"); /* and here they go */
    }
    check(c, &w, 1e-6, "lists");
    pair_free(c, &w);
    pair_free(c, &m);
    pair_free(c, &v);
    pair_free(c, &g);
    pair_free(c, &x);
    pair_free(c, &y);
    c->be->free(c);
    gpu_settle();
}

/* Of gradients in bf16. */
static void squares_of(struct ctx *c, const struct pair *g, size_t n)
{
    const struct adamw_values here = { .g = g->h, .n = n, .half_g = true };
    const struct adamw_values there = { .g = g->d, .n = n, .half_g = true };
    double want, got;
    struct err e;
    void *sum;

    OK(c->be->alloc(c, &sum, sizeof(double), "test", &e), e);
    ref->square_sum(NULL, &want, &here, 1);
    op->square_sum(c, sum, &there, 1);
    OK(c->be->download(c, &got, sum, sizeof(got), &e), e);
    assert_true(fabs(got - want) <= 1e-12 * want);
    c->be->release(c, sum, 0);
}

/* Values in float32 or bf16, moments in 32 or 8 bits: as ref has them but where a last bit decides.
 */
static void one_packed(struct ctx *c, size_t n, bool half, bool codes, bool half_g)
{
    const size_t blocks = (n + ADAMW_BLOCK - 1) / ADAMW_BLOCK, words = (n + 15) / 16 * 4;
    struct pair w = floats_new(c, n, 1), m = floats_new(c, n, 2), v = floats_new(c, n, 3);
    struct pair g = floats_new(c, n, 4), max = floats_new(c, 2 * blocks, 5);
    uint32_t *code = xcalloc(2 * words, sizeof(*code));
    struct adamw a = { 0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.5f, 1 };
    struct bnb_map map[2];
    uint16_t *halves = xmalloc((n + 1) * sizeof(*halves));
    struct adamw_packed here = { .g = g.h, .map = map, .n = n, .seed = 9, .half_g = half_g };
    struct adamw_packed there = { .g = g.d, .map = map, .n = n, .seed = 9, .half_g = half_g };
    int32_t *dcode = ints(c, (const int32_t *)(const void *)code, 2 * words);
    float *got = xmalloc((n + 1) * sizeof(*got));
    struct err e;

    for (size_t i = 0; i < n; i++)
        v.h[i] = fabsf(v.h[i]), halves[i] = f32_to_bf16(w.h[i]);
    up(c, &v);
    if (half_g) {
        for (size_t i = 0; i < n; i++) /* what is read later is written later */
            ((uint16_t *)(void *)g.h)[i] = f32_to_bf16(g.h[i]);
        OK(c->be->upload(c, g.d, g.h, n * sizeof(uint16_t), &e), e);
        squares_of(c, &g, n);
    }
    bnb_map_init(&map[0], true);
    bnb_map_init(&map[1], false);
    if (half) {
        OK(c->be->upload(c, w.d, halves, n * sizeof(*halves), &e), e);
        here.half = halves;
        there.half = (uint16_t *)(void *)w.d;
    } else {
        here.w = w.h;
        there.w = w.d;
    }
    if (codes) {
        here.m_code = (uint8_t *)code, here.v_code = (uint8_t *)(code + words);
        there.m_code = (uint8_t *)dcode, there.v_code = (uint8_t *)(dcode + words);
        here.m_max = max.h, here.v_max = max.h + blocks;
        there.m_max = max.d, there.v_max = max.d + blocks;
        memset(max.h, 0, 2 * blocks * sizeof(float));
        up(c, &max);
    } else {
        here.m = m.h, here.v = v.h;
        there.m = m.d, there.v = v.d;
    }
    for (a.step = 1; a.step < 4; a.step++) {
        ref->adamw_packed(NULL, &a, &here);
        op->adamw_packed(c, &a, &there);
    }
    OK(c->be->settle(c, &e), e);
    OK(c->be->download(c, got, w.d, n * (half ? sizeof(*halves) : sizeof(float)), &e), e);
    for (size_t i = n; half && i-- > 0;) {
        got[i] = bf16_to_f32(((uint16_t *)(void *)got)[i]);
        w.h[i] = bf16_to_f32(halves[i]);
    }
    near(got, w.h, n, half ? 1e-3 : codes ? 1e-5 : 1e-6, half ? "adamw in bf16" : "adamw, packed");
    for (size_t i = 0, far = 0; half && i < n; i++) /* random bits are the same ones */
        if (f32_to_bf16(got[i]) != halves[i] && ++far > 1 + n / 1000)
            MISS("adamw in bf16: %zu of %zu values differ\n", far, n);
    if (codes) {
        uint32_t *theirs = xmalloc(2 * words * sizeof(*theirs));
        const size_t most = 2 + n / (half_g ? 50 : 500); /* bf16 may lie halfway between two */
        const uint8_t *one = (const uint8_t *)code, *two = (const uint8_t *)theirs;

        OK(c->be->download(c, theirs, dcode, 2 * words * sizeof(*theirs), &e), e);
        for (size_t i = 0, far = 0; i < 8 * words; i++) /* a last bit before a bound */
            if (one[i] != two[i] && (abs(one[i] - two[i]) > 1 || ++far > most))
                MISS("codes of moments: %zu of %zu differ\n", far, 2 * n);
        free(theirs);
    }
    free(got);
    free(code);
    free(halves);
    c->be->release(c, dcode, 0);
    pair_free(c, &w);
    pair_free(c, &m);
    pair_free(c, &v);
    pair_free(c, &g);
    pair_free(c, &max);
}

static void packed(void **state)
{
    static const size_t n[] = { 1, 255, 256, 4099, 100000 };
    struct ctx *c = gpu_context(COMPUTE_BF16);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(n); i++)
        for (int way = 1; way < 4; way++)
            one_packed(c, n[i], way & 1, way & 2, way == 3 && i % 2);
    c->be->free(c);
    gpu_settle();
}

/* Three steps of a matrix, or of a single row; values and gradients in float32 or bf16. */
static void one_adafactor(struct ctx *c, size_t R, size_t C, bool half)
{
    const size_t n = R * C;
    struct pair w = floats_new(c, n, 1), g = floats_new(c, n, 2), s = floats_new(c, R + C, 3);
    struct adamw a = { .lr = 0.01f, .decay = 0.1f, .clip = 0.5f };
    struct adafactor here = { .rows = R, .cols = C, .seed = 9, .half_g = half };
    uint16_t *halves = xmalloc((2 * n + 1) * sizeof(*halves)), *slopes = halves + n;
    float *got = xmalloc((n + 1) * sizeof(*got));
    struct err e;

    memset(s.h, 0, (R + C) * sizeof(float));
    up(c, &s);
    for (size_t i = 0; i < n; i++)
        halves[i] = f32_to_bf16(w.h[i]), slopes[i] = f32_to_bf16(g.h[i]);
    struct adafactor there = here;

    here.row = R > 1 ? s.h : NULL, here.col = s.h + R;
    there.row = R > 1 ? s.d : NULL, there.col = s.d + R;
    here.g = half ? (const float *)(const void *)slopes : g.h, there.g = g.d;
    if (half) {
        OK(c->be->upload(c, w.d, halves, n * sizeof(*halves), &e), e);
        OK(c->be->upload(c, g.d, slopes, n * sizeof(*slopes), &e), e);
        here.half = halves, there.half = (uint16_t *)(void *)w.d;
    } else {
        here.w = w.h, there.w = w.d;
    }
    for (a.step = 1; a.step < 4; a.step++) {
        ref->adafactor(NULL, &a, &here);
        op->adafactor(c, &a, &there);
    }
    check(c, &s, 1e-6, "means of squares");
    OK(c->be->download(c, got, w.d, n * (half ? sizeof(*halves) : sizeof(float)), &e), e);
    for (size_t i = n, far = 0; half && i-- > 0;) { /* random bits are the same ones */
        const uint16_t one = ((uint16_t *)(void *)got)[i];

        if (one != halves[i] && ++far > 1 + n / 1000)
            MISS("adafactor in bf16: %zu of %zu values differ\n", far, n);
    }
    if (!half)
        near(got, w.h, n, 1e-6, "adafactor");
    free(got);
    free(halves);
    pair_free(c, &w);
    pair_free(c, &g);
    pair_free(c, &s);
}

static void adafactor(void **state)
{
    static const size_t shape[][2] = { { 1, 1 },    { 1, 4099 }, { 3, 17 },
                                       { 300, 65 }, { 9001, 5 }, { 40, 1000 } };
    struct ctx *c = gpu_context(COMPUTE_BF16);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shape); i++)
        for (int half = 0; half < 2; half++)
            one_adafactor(c, shape[i][0], shape[i][1], half);
    c->be->free(c);
    gpu_settle();
}

/* Memory that comes and goes: zero at first, whose it is, and no more of it than a page of the
 * device's above what was asked for. */
static void memory(void **state)
{
    enum { N = 30, LAST = 4 };
    struct ctx *c;
    struct err e;
    uint8_t *got, want[LAST] = { 0 };
    void *p[N];
    size_t all = 0;

    (void)state;
    setenv("EMULATED_ADDRESSES", "1", 1);
    c = gpu_context(COMPUTE_F32);
    unsetenv("EMULATED_ADDRESSES");
    got = xmalloc(N * 99991 + LAST); /* not before: without a GPU the test has ended */
    const size_t before = c->be->available(c);

    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < N; i++) {
            const size_t n = i * 99991 + LAST;

            if (round && i % 3 == 0)
                c->be->release(c, p[i], n);
            if (round && i % 3) { /* as it was left */
                OK(c->be->download(c, got, (uint8_t *)p[i] + n - LAST, LAST, &e), e);
                memset(want, (int)i, LAST);
                assert_memory_equal(got, want, LAST);
                continue;
            }
            OK(c->be->alloc(c, &p[i], n, "test", &e), e);
            OK(c->be->download(c, got, p[i], n, &e), e);
            for (size_t k = 0; k < n; k++)
                assert_int_equal(got[k], 0);
            memset(got, (int)i, n);
            OK(c->be->upload(c, p[i], got, n, &e), e);
            all += round ? 0 : n;
        }
    assert_true(before - c->be->available(c) < all + (33 << 20));
    for (size_t i = 0; i < N; i++)
        c->be->release(c, p[i], 0);
    assert_int_equal(c->be->available(c), before);
    free(got);
    c->be->free(c);
    gpu_settle();
}

/* As in cuda.c. */
#define DRIVEN                                                                                     \
    cmocka_unit_test(products), cmocka_unit_test(adopted), cmocka_unit_test(optimiser),            \
        cmocka_unit_test(many_lists), cmocka_unit_test(packed), cmocka_unit_test(memory)

int main(void)
{
    const struct CMUnitTest few[] = { DRIVEN }, all[] = {
        DRIVEN,
        cmocka_unit_test(linears),
        cmocka_unit_test(attention),
        cmocka_unit_test(attention_wgmma),
        cmocka_unit_test(rows),
        cmocka_unit_test(adafactor),
    };

    return GPU_RUN(few, all);
}
