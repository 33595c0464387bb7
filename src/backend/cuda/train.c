/* train.c - the training table on the GPU. Products go through cuBLASLt: activations in bf16 as
 * they lie, float32 inputs rounded to bf16 in scratch of their own, matrices that are not bf16
 * decoded a part at a time. Where cuBLASLt cannot, train.cu does them. */
#include <math.h>
#include <string.h>

#include "backend/cuda/cuda_int.h"
#include "backend/cuda/train_dev.h"
#include "base/mem.h"

enum {
    THREADS = 256,
    LINES = 65535,        /* the second axis of a grid */
    PART_BYTES = 64 << 20 /* of a matrix, decoded */
};

static float *floats(const struct gpu_room *r)
{
    return (float *)(uintptr_t)r->p;
}

/* ---- what is known of memory ---- */

static void forget_halves(struct cuda *b)
{
    for (size_t i = 0; i < TRAIN_HALVES; i++)
        b->half[i].x = NULL;
}

void cuda_train_forget(struct cuda *b, const void *p, size_t n)
{
    const uintptr_t from = (uintptr_t)p;

    forget_halves(b);
    b->train8.x = NULL;
    if (!p)
        b->n_copy = 0; /* what was there may be something else's memory soon */
    for (size_t i = 0; i < b->n_copy; i++) {
        const uintptr_t at = (uintptr_t)b->copy[i].w;

        if (at < from + n && from < at + b->copy[i].n * sizeof(float))
            b->copy[i].half = 0;
    }
}

/* What was noted before is launched; with `all` what was rounded before counts no longer, unless
 * nothing but parameters is rounded, of which an op that writes some says so itself. */
static struct cuda *begin(struct ctx *c, bool all)
{
    struct cuda *b = c->backend;

    if (b->n_op || all)
        b->train8.x = NULL;
    if (!c->half && (b->n_op || all))
        forget_halves(b);
    cuda_run(b, false);
    b->have.x = NULL;
    return b;
}

/* y [n] has other values now. */
static void wrote(struct cuda *b, const float *y, size_t n)
{
    for (size_t i = 0; i < TRAIN_HALVES; i++) {
        struct train_half *h = &b->half[i];

        if (h->x && h->x < y + n && h->x + (h->lines - 1) * h->ld + h->len > y)
            h->x = NULL;
    }
    if (b->train8.x && b->train8.x < y + n && b->train8.x + b->train8.T * b->train8.cols > y)
        b->train8.x = NULL;
}

/* The kernel for float32 activations, or the one for bf16 behind it. */
static enum kernel of_both(const struct cuda *b, enum kernel f32)
{
    return (enum kernel)((int)f32 + b->ctx.half);
}

/* Blocks for n values of activations, eight at a time where they can be. */
static size_t blocks_of(size_t n)
{
    return over(n, n % 8 ? THREADS : 8 * THREADS);
}

/* ---- operands ---- */

/* Element (i, j) at i * rs + j * cs of p, float32 or bf16; one of the strides is 1. */
struct operand {
    CUdeviceptr p;
    size_t rs, cs;
    bool half;
};

/* Values in bf16: those of `lines` lines of len values, `to` apart. */
static void launch_half(struct cuda *b, CUdeviceptr y, const float *x, size_t lines, size_t len,
                        size_t ld, size_t to)
{
    int len_int = (int)len, to_int = (int)to;

    cuda_launch(b, KERN_train_half, over(to, THREADS), lines < LINES ? lines : LINES, 1, THREADS,
                (void *[]){ &y, &x, &lines, &len_int, &ld, &to_int });
}

/* The copy that is to hold these. */
static struct train_copy *find_copy(const struct cuda *b, const float *w, size_t n)
{
    for (size_t i = 0; i < b->n_copy; i++)
        if (b->copy[i].w <= w && w + n <= b->copy[i].w + b->copy[i].n)
            return &b->copy[i];
    return NULL;
}

/* Of n values that learn: the copy that the optimiser wrote, or 0, and it will write one. */
static CUdeviceptr ask_copy(struct cuda *b, const float *w, size_t n)
{
    const struct train_copy *k = find_copy(b, w, n);

    if (k)
        return k->half && k->done == k->n ? k->half + (CUdeviceptr)(w - k->w) * sizeof(uint16_t)
                                          : 0;
    b->copy = xrealloc(b->copy, (b->n_copy + 1) * sizeof(*b->copy));
    b->copy[b->n_copy++] = (struct train_copy){ .w = w, .n = n };
    return 0;
}

/* a [R, C], float32, in bf16: what was rounded last is often wanted again. */
static bool rounded(struct cuda *b, struct operand *o, const struct mat *a, size_t R, size_t C)
{
    const bool rows = a->cs == 1;
    const size_t lines = rows ? R : C, len = rows ? C : R, ld = rows ? a->rs : a->cs;
    const size_t to = over(len, 8) * 8; /* lines begin at multiples of 16 bytes */
    struct train_half *h = &b->half[0];
    const bool whole = !a->act && len % 8 == 0 && (ld == len || lines == 1);
    const CUdeviceptr copy = whole ? ask_copy(b, a->p, lines * len) : 0;

    if (copy) {
        *o = (struct operand){ copy, rows ? len : 1, rows ? 1 : len, true };
        return !b->failed;
    }
    for (size_t i = 0; i < TRAIN_HALVES; i++) {
        struct train_half *k = &b->half[i];

        if (k->x == a->p && k->lines == lines && k->len == len && (k->ld == ld || lines == 1)) {
            h = k;
            break;
        }
        if (k->used < h->used)
            h = k;
    }
    if (h->x != a->p || h->lines != lines || h->len != len || (h->ld != ld && lines != 1)) {
        h->x = NULL;
        if (!cuda_room(b, &h->room, lines * to * sizeof(uint16_t)))
            return false;
        launch_half(b, h->room.p, a->p, lines, len, ld, to);
        h->x = a->p;
        h->lines = lines;
        h->len = len;
        h->ld = ld;
    }
    h->used = ++b->half_turn;
    *o = (struct operand){ h->room.p, rows ? to : 1, rows ? 1 : to, true };
    return !b->failed;
}

static bool operand_of(struct cuda *b, struct operand *o, const struct mat *a, size_t R, size_t C)
{
    const bool half = b->ctx.half && a->act;

    *o = (struct operand){ (CUdeviceptr)(uintptr_t)a->p, a->rs, a->cs, half };
    if (half)
        return !b->failed;
    return b->ctx.compute == COMPUTE_BF16 ? rounded(b, o, a, R, C) : !b->failed;
}

/* Rows r .. r + *n of W, [n, cols] at multiples of *ld: all of them where it lies, or a part
 * decoded or rounded. */
static bool weight_part(struct cuda *b, const struct weight *w, size_t r, size_t *n,
                        struct operand *o)
{
    const struct dev_weight *d = cuda_placed(w);
    const bool half = b->ctx.compute == COMPUTE_BF16, raw = d->kind == DEV_RAW;
    const size_t kp = (size_t)d->kp, cols = w->cols, each = half ? sizeof(uint16_t) : sizeof(float);
    const CUdeviceptr q = (CUdeviceptr)(uintptr_t)d->q + r * d->row_bytes;
    size_t part = PART_BYTES / (kp * each) / 128 * 128;

    *n = w->rows - r;
    if (half && d->kind == DEV_B16) {
        *o = (struct operand){ (CUdeviceptr)(uintptr_t)d->q + r * kp * each, kp, 1, true };
        return true;
    }
    if (raw && d->enc == (half ? DEV_ENC_BF16 : DEV_ENC_F32)) {
        *o = (struct operand){ q, cols, 1, half };
        return true;
    }
    part = part < 128 ? 128 : part > LINES ? LINES / 128 * 128 : part;
    *n = *n < part ? *n : part;
    if (!cuda_room(b, &b->dequant, over(*n, DEV_TILE) * DEV_TILE * kp * each))
        return false;
    if (!half) {
        int first = (int)r;

        cuda_launch(b, KERN_train_decode, over(cols, 32 * 128), *n, 1, 128,
                    (void *[]){ &b->dequant.p, (void *)(uintptr_t)d, &first });
        *o = (struct operand){ b->dequant.p, cols, 1, false };
    } else if (raw && d->enc == DEV_ENC_F32) {
        launch_half(b, b->dequant.p, (const float *)(uintptr_t)q, *n, cols, cols, kp);
        *o = (struct operand){ b->dequant.p, kp, 1, true };
    } else {
        cuda_widen(b, d, r, *n);
        *o = (struct operand){ b->dequant.p, kp, 1, true };
    }
    if (half && d->order) {
        int cols_int = (int)cols, kp_int = (int)kp;

        if (!cuda_room(b, &b->ordered, *n * kp * each))
            return false;
        cuda_launch(b, KERN_train_order, over(cols, 128), *n, 1, 128,
                    (void *[]){ &b->ordered.p, &b->dequant.p, (void *)(uintptr_t)&d->order,
                                &cols_int, &kp_int });
        o->p = b->ordered.p;
    }
    return !b->failed;
}

/* ---- products ---- */

struct size3 {
    size_t M, N, K;
};

/* From line to line of an operand [R, C]; a single line may say anything. */
static size_t apart(struct operand o, size_t R, size_t C)
{
    const size_t ld = o.cs == 1 ? o.rs : o.cs, len = o.cs == 1 ? C : R;

    return ld < len ? len : ld;
}

/* Where products go, and what they are added to, NULL = nothing: values ld apart. */
struct target {
    float *p;
    const float *to;
    size_t ld;
    bool half;
};

/* Values i on. */
static struct target from_value(const struct target *c, size_t i)
{
    const size_t at = i * (c->half ? sizeof(uint16_t) : sizeof(float));
    struct target t = *c;

    t.p = (float *)(uintptr_t)((CUdeviceptr)(uintptr_t)c->p + at);
    t.to = c->to ? (float *)(uintptr_t)((CUdeviceptr)(uintptr_t)c->to + at) : NULL;
    return t;
}

/* c[M, N] = c.to + by a b. */
static void multiply(struct cuda *b, struct target c, struct size3 z, struct operand x,
                     struct operand y, float by)
{
    const struct blas_product p = { .y = c.p,
                                    .ldy = c.ld,
                                    .half_y = c.half,
                                    .rows = z.N,
                                    .T = z.M,
                                    .kp = z.K,
                                    .w = y.p,
                                    .x = x.p,
                                    .ldw = apart(y, z.K, z.N),
                                    .ldx = apart(x, z.M, z.K),
                                    .w_across = y.cs == 1,
                                    .x_across = x.cs != 1,
                                    .by = &by,
                                    .type = x.half ? BLAS_BF16 : BLAS_F32,
                                    .to = c.to };
    struct train_product_args a = { .c = c.p,
                                    .a = (const void *)(uintptr_t)x.p,
                                    .b = (const void *)(uintptr_t)y.p,
                                    .ldc = c.ld,
                                    .M = z.M,
                                    .N = z.N,
                                    .K = z.K,
                                    .a_rs = x.rs,
                                    .a_cs = x.cs,
                                    .b_rs = y.rs,
                                    .b_cs = y.cs,
                                    .by = by,
                                    .to = c.to,
                                    .half = x.half,
                                    .half_c = c.half };

    if (b->failed || z.M == 0 || z.N == 0 || (b->blas && blas_run(b, &p)) || b->failed)
        return;
    for (size_t i = 0; i < z.M; i += (size_t)32 * LINES) { /* a grid's second axis */
        const size_t left = z.M - i, m = left < (size_t)32 * LINES ? left : (size_t)32 * LINES;
        const size_t each = x.half ? sizeof(uint16_t) : sizeof(float);

        a.M = m;
        const struct target part = from_value(&c, i * c.ld);

        a.c = part.p;
        a.to = part.to;
        a.a = (const void *)(uintptr_t)(x.p + i * x.rs * each);
        cuda_launch(b, KERN_train_product, over(z.N, 32), over(m, 32), 1, THREADS,
                    (void *[]){ &a });
    }
}

static void product_cuda(struct ctx *ctx, const struct product *p)
{
    struct cuda *b = begin(ctx, false);
    const size_t ldc = p->ldc ? p->ldc : p->N;
    struct operand x, y;

    if (operand_of(b, &x, &p->a, p->M, p->K) && operand_of(b, &y, &p->b, p->K, p->N))
        multiply(b, (struct target){ p->c, p->add ? p->c : NULL, ldc, p->act && ctx->half },
                 (struct size3){ p->M, p->N, p->K }, x, y, p->by);
    wrote(b, p->c, p->M * ldc);
}

/* ---- products with frozen matrices of E4M3 whose rule rounds inputs to E4M3 by the row ---- */

static bool takes_f8(const struct cuda *b, const struct weight *w, enum f8_products least)
{
    const struct dev_weight *d = cuda_placed(w);

    return b->ctx.half && b->ctx.f8 >= least && d->kind == DEV_F8 && d->n_groups == 1 &&
           w->p.act == ACT_F8 && w->p.act_group >= w->cols && w->rows % 16 == 0 &&
           w->cols % 16 == 0 && blas_has_f8(b);
}

/* x [T, cols] to x8, kp apart, and its scales behind; by: as train_f8_args has it. */
static bool round_f8(struct cuda *b, const float *x, size_t T, size_t cols, size_t kp,
                     const float *by, float bound)
{
    const bool same = !by && b->train8.x == x && b->train8.T == T && b->train8.cols == cols &&
                      b->train8.bound == bound;

    if (same)
        return !b->failed;
    b->train8.x = NULL;
    if (!cuda_room(b, &b->x8, T * (kp + sizeof(float))))
        return false;
    struct train_f8_args a = { .y = (uint8_t *)(uintptr_t)b->x8.p,
                               .scale = (float *)(uintptr_t)(b->x8.p + T * kp),
                               .x = (const uint16_t *)(const void *)x,
                               .by = by,
                               .bound = bound,
                               .cols = (int)cols,
                               .kp = (int)kp };

    cuda_launch(b, KERN_train_f8, T, 1, 1, THREADS, (void *[]){ &a });
    if (!by) {
        b->train8.x = x;
        b->train8.T = T;
        b->train8.cols = cols;
        b->train8.bound = bound;
    }
    return !b->failed;
}

/* y = to + x W^T as the checkpoint's rule has it; false: it has none, or cuBLASLt cannot. */
static bool fwd_f8(struct cuda *b, float *y, const struct weight *w, const float *x, size_t T,
                   const float *to)
{
    const struct dev_weight *d = cuda_placed(w);
    const size_t kp = (size_t)d->kp;

    if (!takes_f8(b, w, F8_FORWARD) || !cuda_room(b, &b->x8, T * (kp + sizeof(float))))
        return false;
    const struct blas_product p = { .y = y,
                                    .ldy = w->rows,
                                    .half_y = true,
                                    .rows = w->rows,
                                    .T = T,
                                    .kp = kp,
                                    .w = (CUdeviceptr)(uintptr_t)d->q,
                                    .x = b->x8.p,
                                    .w_scale = (CUdeviceptr)(uintptr_t)d->scale,
                                    .x_scale = b->x8.p + T * kp,
                                    .type = BLAS_F8,
                                    .to = to };

    return round_f8(b, x, T, w->cols, kp, NULL, w->p.act_bound) && blas_run(b, &p);
}

/* dx = to + dy W over W's first rows, in parts; returns how many of them. Their scales go into dy,
 * which is rounded to E4M3 by the row, and W is turned: E4M3 is multiplied along what lies together
 * alone. */
static size_t dx_f8(struct cuda *b, float *dx, const struct weight *w, const float *dy, size_t T,
                    const float *to)
{
    const struct dev_weight *d = cuda_placed(w);
    const size_t N = w->rows, K = w->cols, most = PART_BYTES / K / 128 * 128;
    const size_t part = most < 128 ? 128 : most < N ? most : N;
    struct blas_product p = { .y = dx,
                              .ldy = K,
                              .half_y = true,
                              .rows = K,
                              .T = T,
                              .kp = part,
                              .ldx = N,
                              .type = BLAS_F8,
                              .to = to };
    size_t r = 0;

    if (!takes_f8(b, w, F8_BOTH) || !cuda_room(b, &b->x8, T * (N + sizeof(float))) ||
        !cuda_room(b, &b->dequant, K * (part + sizeof(float))))
        return 0;
    p.w = b->dequant.p;
    p.w_scale = b->dequant.p + K * part; /* ones */
    p.x = b->x8.p;
    p.x_scale = b->x8.p + T * N;
    if (!round_f8(b, dy, T, N, N, (const float *)(const void *)d->scale, 0))
        return 0;
    for (int cols = (int)K, kp = d->kp; r < N; r += p.kp) {
        const uint8_t *from = d->q + r * (size_t)kp;
        int n = (int)(N - r < part ? N - r : part);

        p.kp = (size_t)n;
        p.x = b->x8.p + r;
        cuda_launch(b, KERN_train_turn, over(K, 128), over(p.kp, 128), 1, THREADS,
                    (void *[]){ &p.w, &p.w_scale, &from, &n, &cols, &kp });
        if (!blas_run(b, &p))
            break;
        p.to = dx;
    }
    return r;
}

static void linear_fwd_cuda(struct ctx *c, float *y, const struct weight *w, const float *x,
                            size_t T, const float *to)
{
    struct cuda *b = begin(c, false);
    const struct mat a = { .p = x, .rs = w->cols, .cs = 1, .act = true };
    const struct target into = { y, to, w->rows, c->half };
    struct operand left, part;

    if (fwd_f8(b, y, w, x, T, to)) {
        wrote(b, y, T * w->rows);
        return;
    }
    for (size_t r = 0, n; r < w->rows; r += n) {
        if (!weight_part(b, w, r, &n, &part) || !operand_of(b, &left, &a, T, w->cols))
            return;
        const struct operand across = { part.p, 1, part.rs, part.half };

        multiply(b, from_value(&into, r), (struct size3){ T, n, w->cols }, left, across, 1);
    }
    wrote(b, y, T * w->rows);
}

static void linear_dx_cuda(struct ctx *c, float *dx, const struct weight *w, const float *dy,
                           size_t T, bool add)
{
    struct cuda *b = begin(c, false);
    const struct mat a = { .p = dy, .rs = w->rows, .cs = 1, .act = true };
    struct target to = { dx, add ? dx : NULL, w->cols, c->half };
    struct operand left, part;

    size_t r = dx_f8(b, dx, w, dy, T, to.to);

    to.to = r ? dx : to.to;
    for (size_t n; r < w->rows; r += n) {
        if (!weight_part(b, w, r, &n, &part) || !operand_of(b, &left, &a, T, w->rows))
            return;
        left.p += r * (left.half ? sizeof(uint16_t) : sizeof(float));
        multiply(b, to, (struct size3){ T, w->cols, n }, left, part, 1);
        to.to = dx;
    }
    wrote(b, dx, T * w->cols);
}

/* ---- attention ---- */

static struct train_attn_args attn_args_of(const struct attn_shape *s)
{
    return (struct train_attn_args){ .cu = s->cu,
                                     .n_seq = (int)s->n_seq,
                                     .H = (int)s->H,
                                     .K = (int)s->K,
                                     .hd = (int)s->hd,
                                     .scale = (float)(1 / sqrt((double)s->hd)) };
}

/* Tiles of all sequences, and a few too many: how long each is the device knows. */
static size_t tiles_of(const struct attn_shape *s, size_t tile)
{
    return s->T / tile + s->n_seq;
}

static bool head_fits(struct cuda *b, const struct attn_shape *s)
{
    if (s->hd <= TRAIN_HEAD)
        return !b->failed;
    if (!b->failed)
        err_set(&b->fault, ERR_HARDWARE,
                "heads of %zu values: training on the GPU takes up to %d; use --device cpu", s->hd,
                (int)TRAIN_HEAD);
    b->failed = true;
    return false;
}

/* Whether train_attn.cu has kernels for these. */
static bool on_tensor_cores(const struct cuda *b, const struct attn_shape *s)
{
    return b->ctx.half && (s->hd == 64 || s->hd == 128);
}

/* Whether train_wgmma.cu does: on Hopper, in less than half the time. */
static bool by_wgmma(const struct cuda *b)
{
    return b->wgmma && !(b->tries & CUDA_TRY_MMA);
}

/* One of its kernels, 64 or 128: for heads of so many values. */
static void launch_wgmma(struct cuda *b, const struct attn_shape *s, struct train_wgmma_args *w,
                         enum kernel for_64, enum kernel for_128, size_t heads)
{
    cuda_launch_with(b, s->hd == 64 ? for_64 : for_128, tiles_of(s, TRAIN_WGMMA_ROWS), heads, 1,
                     TRAIN_WGMMA_THREADS, TRAIN_WGMMA_SHARED(s->hd), (void *[]){ w });
}

static bool map_inputs(struct cuda *b, const struct attn_shape *s, struct train_wgmma_args *w)
{
    const size_t wide = s->H * s->hd, narrow = s->K * s->hd;

    return cuda_map(b, &w->map[0], w->a.q, BLAS_BF16, s->T, wide, 64) &&
           cuda_map(b, &w->map[1], w->a.k, BLAS_BF16, s->T, narrow, 64) &&
           cuda_map(b, &w->map[2], w->a.v, BLAS_BF16, s->T, narrow, 64) &&
           (!w->a.dy || cuda_map(b, &w->map[3], w->a.dy, BLAS_BF16, s->T, wide, 64));
}

static void attn_cuda(struct ctx *c, float *o, float *lse, const struct attn_shape *s,
                      const float *q, const float *k, const float *v)
{
    struct cuda *b = begin(c, true);
    struct train_attn_args a = attn_args_of(s);

    a.o = o;
    a.lse = lse;
    a.q = q;
    a.k = k;
    a.v = v;
    struct train_wgmma_args w = { .a = a };

    if (on_tensor_cores(b, s) && by_wgmma(b) && map_inputs(b, s, &w))
        launch_wgmma(b, s, &w, KERN_train_wgmma_fwd_64, KERN_train_wgmma_fwd_128, s->H);
    else if (on_tensor_cores(b, s))
        cuda_launch_with(b, s->hd == 64 ? KERN_train_attn_fwd_64 : KERN_train_attn_fwd_128,
                         tiles_of(s, TRAIN_ATTN_ROWS), s->H, 1, TRAIN_ATTN_THREADS,
                         TRAIN_ATTN_SHARED(s->hd), (void *[]){ &a });
    else if (head_fits(b, s))
        cuda_launch(b, of_both(b, KERN_train_attn_f32), tiles_of(s, 16), s->H, 1, THREADS,
                    (void *[]){ &a });
}

static void attn_bwd_cuda(struct ctx *c, float *dq, float *dk, float *dv, const float *dy,
                          const struct attn_shape *s, const float *q, const float *k,
                          const float *v, const float *o, const float *lse)
{
    struct cuda *b = begin(c, true);
    struct train_attn_args a = attn_args_of(s);
    size_t n = s->T * s->H;
    int hd = (int)s->hd;

    if (!head_fits(b, s) || !cuda_room(b, &b->sums, n * sizeof(float)))
        return;
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    a.q = q;
    a.k = k;
    a.v = v;
    a.dy = dy;
    a.lse = (float *)(uintptr_t)lse;
    a.dots = floats(&b->sums);
    if (on_tensor_cores(b, s)) {
        const size_t tiles = tiles_of(s, TRAIN_ATTN_ROWS);

        a.o = (void *)(uintptr_t)o;
        struct train_wgmma_args w = { .a = a };

        if (by_wgmma(b) && map_inputs(b, s, &w)) {
            launch_wgmma(b, s, &w, KERN_train_wgmma_bwd_q_64, KERN_train_wgmma_bwd_q_128, s->H);
            launch_wgmma(b, s, &w, KERN_train_wgmma_bwd_kv_64, KERN_train_wgmma_bwd_kv_128, s->K);
            return;
        }
        cuda_launch_with(b, s->hd == 64 ? KERN_train_attn_bwd_q_64 : KERN_train_attn_bwd_q_128,
                         tiles, s->H, 1, TRAIN_ATTN_THREADS, TRAIN_ATTN_SHARED(s->hd),
                         (void *[]){ &a });
        cuda_launch_with(b, s->hd == 64 ? KERN_train_attn_bwd_kv_64 : KERN_train_attn_bwd_kv_128,
                         tiles, s->K, 1, TRAIN_ATTN_THREADS, TRAIN_ATTN_SHARED_KV(s->hd),
                         (void *[]){ &a });
        return;
    }
    cuda_launch(b, of_both(b, KERN_train_attn_dot_f32), over(n, 8), 1, 1, THREADS,
                (void *[]){ &b->sums.p, &dy, &o, &n, &hd });
    cuda_launch(b, of_both(b, KERN_train_attn_dq_f32), tiles_of(s, 16), s->H, 1, THREADS,
                (void *[]){ &a });
    cuda_launch(b, of_both(b, KERN_train_attn_dkv_f32), tiles_of(s, 16), s->K, 1, THREADS,
                (void *[]){ &a });
}

/* ---- rows ---- */

static void cross_entropy_cuda(struct ctx *c, float *nll, float *z, const int32_t *label,
                               const float *coef, struct loss_form form, size_t T, size_t V)
{
    struct cuda *b = begin(c, true);
    int v = (int)V, dft = form.dft;

    cuda_launch(b, of_both(b, KERN_train_entropy_f32), T, 1, 1, 512,
                (void *[]){ &nll, &z, &label, &coef, &form.smooth, &dft, &v });
}

static void scatter_cuda(struct ctx *c, float *y, const float *x, const int32_t *rows, size_t n,
                         size_t D)
{
    struct cuda *b = begin(c, true);
    int d = (int)D;

    cuda_launch(b, of_both(b, KERN_train_scatter_f32), over(D, D % 8 ? THREADS : 8 * THREADS), n, 1,
                THREADS, (void *[]){ &y, &x, &rows, &d });
}

static void columns_cuda(struct ctx *c, float *y, const float *w, const int32_t *ids, size_t T,
                         size_t r, size_t V)
{
    struct cuda *b = begin(c, true);
    int t = (int)T, rank = (int)r;

    cuda_launch(b, of_both(b, KERN_train_columns_f32), over(T * r, THREADS), 1, 1, THREADS,
                (void *[]){ &y, &w, &ids, &t, &rank, &V });
}

static void embed_bwd_cuda(struct ctx *c, float *dw, size_t rs, size_t cs, const float *dy,
                           const int32_t *ids, size_t T, size_t D)
{
    struct cuda *b = begin(c, true);
    int t = (int)T, d = (int)D;

    cuda_launch(b, of_both(b, KERN_train_embed_f32), T, 1, 1, THREADS,
                (void *[]){ &dw, &rs, &cs, &dy, &ids, &t, &d });
}

enum { SUM_ROWS = 64 }; /* summed by one thread */

/* d[D] += by times the sum over rows of x y r; by, r NULL = 1. part: room for a row of each chunk.
 */
static void add_dots(struct cuda *b, float *d, const float *x, const float *y, const float *r,
                     const float *by, float *part, size_t T, size_t D)
{
    const size_t chunks = over(T, SUM_ROWS);
    int t = (int)T, cols = (int)D, n = (int)chunks, per = SUM_ROWS;

    cuda_launch(b, of_both(b, KERN_train_dot_rows_f32), over(D, 128), chunks, 1, 128,
                (void *[]){ &part, &x, &y, &r, &t, &cols, &per });
    cuda_launch(b, KERN_train_add_rows, over(D, 128), 1, 1, 128,
                (void *[]){ &d, &part, &by, &n, &cols });
}

static void rmsnorm_bwd_cuda(struct ctx *c, float *dx, float *dw, const float *dy, const float *x,
                             const float *w, size_t T, size_t D, float eps)
{
    struct cuda *b = begin(c, true);
    int d = (int)D;

    if (!cuda_room(b, &b->sums, (T + over(T, SUM_ROWS) * D) * sizeof(float)))
        return;
    float *r = floats(&b->sums);

    cuda_launch(b, of_both(b, KERN_train_norm_f32), T, 1, 1, THREADS,
                (void *[]){ &dx, &r, &dy, &x, &w, &d, &eps });
    if (dw)
        add_dots(b, dw, dy, x, r, NULL, r + T, T, D);
}

static void col_dot_cuda(struct ctx *c, float *d, const float *x, const float *y, const float *by,
                         size_t T, size_t N)
{
    struct cuda *b = begin(c, true);

    if (cuda_room(b, &b->sums, over(T, SUM_ROWS) * N * sizeof(float)))
        add_dots(b, d, x, y, NULL, by, floats(&b->sums), T, N);
}

static void col_scale_cuda(struct ctx *c, float *y, const float *x, const float *by, size_t T,
                           size_t N, bool add)
{
    struct cuda *b = begin(c, true);
    int d = (int)N, plus = add;

    cuda_launch(b, of_both(b, KERN_train_col_scale_f32), over(N, N % 8 ? THREADS : 8 * THREADS), T,
                1, THREADS, (void *[]){ &y, &x, &by, &d, &plus });
}

static void dora_gain_cuda(struct ctx *c, const struct dora *d)
{
    struct cuda *b = begin(c, true);
    struct train_dora_args a = { d->mag,       d->b,      d->squares, d->aw,     d->aa,   d->gain,
                                 d->gain_less, d->length, d->out,     (int)d->r, d->scale };

    cuda_launch(b, KERN_train_dora, over(d->out, 128), 1, 1, 128, (void *[]){ &a });
}

static void swiglu_bwd_cuda(struct ctx *c, float *dg, float *du, const float *dh, const float *g,
                            const float *u, size_t T, size_t F)
{
    struct cuda *b = begin(c, true);
    size_t n = T * F;

    cuda_launch(b, of_both(b, KERN_train_swiglu_f32), blocks_of(n), 1, 1, THREADS,
                (void *[]){ &dg, &du, &dh, &g, &u, &n });
}

static void dropout_cuda(struct ctx *c, float *y, const float *x, size_t n, float p, uint64_t seed,
                         bool add)
{
    struct cuda *b = begin(c, false);
    int plus = add;

    cuda_launch(b, of_both(b, KERN_train_dropout_f32), over(n, 4 * THREADS), 1, 1, THREADS,
                (void *[]){ &y, &x, &n, &p, &seed, &plus });
    wrote(b, y, n);
}

static void noise_cuda(struct ctx *c, float *x, size_t n, uint64_t first, double by, uint64_t seed)
{
    struct cuda *b = begin(c, true);

    cuda_launch(b, of_both(b, KERN_train_noise_f32), over(n, THREADS), 1, 1, THREADS,
                (void *[]){ &x, &n, &first, &by, &seed });
}

static void copy_cuda(struct ctx *c, void *y, const void *x, size_t bytes)
{
    struct cuda *b = begin(c, false);

    if (!b->failed && bytes)
        cuda_ok(b,
                b->d.cuMemcpyDtoDAsync((CUdeviceptr)(uintptr_t)y, (CUdeviceptr)(uintptr_t)x, bytes,
                                       b->stream),
                "copy");
    wrote(b, y, bytes / sizeof(float));
}

static void zero_cuda(struct ctx *c, void *y, size_t bytes)
{
    struct cuda *b = begin(c, false);

    if (!b->failed && bytes)
        cuda_ok(b, b->d.cuMemsetD8Async((CUdeviceptr)(uintptr_t)y, 0, bytes, b->stream), "zeros");
    wrote(b, y, bytes / sizeof(float));
}

/* ---- the optimiser ---- */

static struct train_adamw_args adamw_args_of(const struct adamw *a)
{
    const double grow = 1 / (1 - pow((double)a->beta1, (double)a->step));

    return (struct train_adamw_args){
        .beta1 = a->beta1,
        .rest1 = (float)(1 - (double)a->beta1),
        .beta2 = a->beta2,
        .rest2 = (float)(1 - (double)a->beta2),
        .lr = (float)((double)a->lr * grow),
        .grow2 = (float)(1 / (1 - pow((double)a->beta2, (double)a->step))),
        .keep = 1 - a->lr * a->decay,
        .eps = a->eps,
        .clip = a->clip,
    };
}

/* Room for the copies that products have asked for; none is there any more. */
static bool place_copies(struct cuda *b)
{
    size_t bytes = 0;

    for (size_t i = 0; i < b->n_copy; i++) {
        b->copy[i].half = 0;
        b->copy[i].done = 0;
        b->copy[i].at = bytes;
        bytes += over(b->copy[i].n * sizeof(uint16_t), 256) * 256;
    }
    return cuda_room(b, &b->copies, bytes);
}

/* Lists at .. at + of->count, `per` values a block; returns how many blocks. */
static size_t lists_of(struct train_lists *l, const struct adamw_values *of, size_t count,
                       size_t per)
{
    size_t blocks = 0;

    l->count = 0;
    for (size_t i = 0; i < count; i++) {
        if (of[i].n == 0)
            continue;
        l->of[l->count++] = (struct train_list){ .w = of[i].w,
                                                 .m = of[i].m,
                                                 .v = of[i].v,
                                                 .g = of[i].g,
                                                 .n = of[i].n,
                                                 .first = (unsigned)blocks,
                                                 .decays = of[i].decays,
                                                 .half_g = of[i].half_g };
        blocks += over(of[i].n, per);
    }
    return blocks;
}

static void adamw_cuda(struct ctx *c, const struct adamw *a, const struct adamw_values *of,
                       size_t count)
{
    struct cuda *b = begin(c, true);
    struct train_adamw_args args = adamw_args_of(a);
    struct train_lists l;

    forget_halves(b);
    if (!place_copies(b))
        return;
    for (size_t at = 0; at < count; at += TRAIN_LISTS) {
        const size_t some = count - at < TRAIN_LISTS ? count - at : TRAIN_LISTS;
        const size_t blocks = lists_of(&l, of + at, some, TRAIN_ADAMW_VALUES);

        for (int i = 0; i < l.count; i++) {
            struct train_copy *k = find_copy(b, l.of[i].w, l.of[i].n);

            if (!k)
                continue;
            k->half = b->copies.p + k->at;
            k->done += l.of[i].n;
            l.of[i].half = (uint16_t *)(uintptr_t)k->half + (l.of[i].w - k->w);
        }
        cuda_launch(b, KERN_train_adamw, blocks, 1, 1, THREADS, (void *[]){ &l, &args });
    }
}

static void adamw_packed_cuda(struct ctx *c, const struct adamw *a, const struct adamw_packed *p)
{
    struct cuda *b = begin(c, true);
    struct train_packed_args k = { .w = p->w,
                                   .m = p->m,
                                   .v = p->v,
                                   .m_max = p->m_max,
                                   .v_max = p->v_max,
                                   .half = p->half,
                                   .m_code = p->m_code,
                                   .v_code = p->v_code,
                                   .g = p->g,
                                   .half_g = p->half_g,
                                   .n = p->n,
                                   .seed = p->seed,
                                   .first = (uint64_t)a->step << 36,
                                   .a = adamw_args_of(a) };

    for (size_t i = 0; i < 2; i++)
        memcpy(k.map[i], p->map[i].map, sizeof(k.map[i]));
    cuda_launch(b, KERN_train_adamw_packed, over(over(p->n, TRAIN_ADAMW_BLOCK), THREADS / 32), 1, 1,
                THREADS, (void *[]){ &k });
    if (p->w)
        wrote(b, p->w, p->n);
}

/* Rows of a chunk, and chunks at most, whose squares are summed by column one after the other. */
enum { FACTOR_ROWS = 64, FACTOR_CHUNKS = 128 };

static void adafactor_cuda(struct ctx *c, const struct adamw *a, const struct adafactor *p)
{
    struct cuda *b = begin(c, true);
    const double beta2 = 1 - pow((double)a->step, -0.8);
    const size_t n = p->rows * p->cols, each = over(p->rows, FACTOR_CHUNKS);
    const size_t per = each > FACTOR_ROWS ? each : FACTOR_ROWS, chunks = over(p->rows, per);
    const size_t blocks = over(n, TRAIN_FACTOR_VALUES), head = 2 * sizeof(double);
    const size_t cols = chunks * p->cols * sizeof(float), squares = blocks * sizeof(double);

    if (!cuda_room(b, &b->sums, head + (cols > squares ? cols : squares)))
        return;
    CUdeviceptr part = b->sums.p + head, sum = b->sums.p + sizeof(double);
    struct train_factor_args k = { .w = p->w,
                                   .half = p->half,
                                   .g = p->g,
                                   .half_g = p->half_g,
                                   .row = p->row,
                                   .col = p->col,
                                   .sums = (double *)(uintptr_t)b->sums.p,
                                   .part = (void *)(uintptr_t)part,
                                   .rows = p->rows,
                                   .cols = p->cols,
                                   .seed = p->seed,
                                   .first = (uint64_t)a->step << 36,
                                   .clip = a->clip,
                                   .beta2 = (float)beta2,
                                   .rest2 = (float)(1 - beta2),
                                   .lr = a->lr,
                                   .keep = 1 - a->lr * a->decay,
                                   .per = (int)per };
    int n_chunks = (int)chunks, n_blocks = (int)blocks;

    if (p->row)
        cuda_launch(b, KERN_train_factor_rows, p->rows, 1, 1, THREADS, (void *[]){ &k });
    cuda_launch(b, KERN_train_factor_cols, over(p->cols, THREADS), chunks, 1, THREADS,
                (void *[]){ &k });
    cuda_launch(b, KERN_train_factor_means, over(p->cols, THREADS), 1, 1, THREADS,
                (void *[]){ &k, &n_chunks });
    cuda_launch(b, KERN_train_factor_squares, blocks, 1, 1, THREADS, (void *[]){ &k });
    cuda_launch(b, KERN_train_squares_all, 1, 1, 1, THREADS, (void *[]){ &sum, &part, &n_blocks });
    cuda_launch(b, KERN_train_factor_step, over(n, 4 * THREADS), 1, 1, THREADS, (void *[]){ &k });
    forget_halves(b);
    cuda_train_forget(b, p->half ? (void *)p->half : p->w, n * sizeof(float));
}

static void square_sum_cuda(struct ctx *c, double *out, const struct adamw_values *of, size_t count)
{
    enum {
        FEW = 1 << 13,
        MANY = 1 << 17
    }; /* of a block: many, where there are many blocks anyway */
    struct cuda *b = begin(c, false);
    struct train_lists l;
    size_t all = 0, parts = 0, first = 0;

    for (size_t i = 0; i < count; i++)
        all += of[i].n;
    int per = all / FEW > 1 << 14 ? MANY : FEW;

    for (size_t i = 0; i < count; i++)
        parts += over(of[i].n, (size_t)per);
    if (!cuda_room(b, &b->sums, (parts + 1) * sizeof(double)))
        return;
    for (size_t at = 0; at < count; at += TRAIN_LISTS) {
        const size_t some = count - at < TRAIN_LISTS ? count - at : TRAIN_LISTS;
        const size_t blocks = lists_of(&l, of + at, some, (size_t)per);
        CUdeviceptr to = b->sums.p + first * sizeof(double);

        cuda_launch(b, KERN_train_squares, blocks, 1, 1, THREADS, (void *[]){ &to, &l, &per });
        first += blocks;
    }
    int n = (int)parts;

    cuda_launch(b, KERN_train_squares_all, 1, 1, 1, THREADS, (void *[]){ &out, &b->sums.p, &n });
}

/* Rooms are a quarter larger than what was asked for: two parts of decoded matrices, inputs in
 * bf16 and in E4M3, sums of attention (as many heads as a row is wide at most) and of norms. */
static size_t scratch_cuda(const struct ctx *c, const struct train_need *need)
{
    const size_t half = c->compute == COMPUTE_BF16 ? sizeof(uint16_t) : 0;
    const size_t inputs =
        TRAIN_HALVES * half *
        (need->T * need->wide > need->rows * need->cols ? need->T * need->wide
                                                        : need->rows * need->cols);
    const size_t rows = need->T * (need->wide / need->hd + need->wide / 16);
    const size_t factors = need->adafactor ? FACTOR_CHUNKS * need->wide : 0;
    const size_t sums = (rows > factors ? rows : factors) * sizeof(float);
    const size_t f8 = need->f8 ? need->T * (need->wide + sizeof(float)) : 0;

    return (2 * (size_t)PART_BYTES + inputs + sums + f8 + need->pairs * half) / 4 * 5;
}

bool cuda_train_op(struct cuda *b, struct op *o)
{
    int d = (int)o->D, h = (int)o->H, hd = (int)o->hd, inter = o->interleaved, rows = (int)o->T;
    size_t n = o->T * o->D;
    float *y = o->y;

    switch (o->kind) {
    case OP_EMBED:
        cuda_launch(b, KERN_train_lookup, o->T, 1, 1, 128,
                    (void *[]){ &y, (void *)(uintptr_t)cuda_placed(o->out[0].w), &o->ids });
        return true;
    case OP_GATHER:
        cuda_launch(b, KERN_train_gather, over(o->D, o->D % 8 ? THREADS : 8 * THREADS), o->T, 1,
                    THREADS, (void *[]){ &y, &o->x, &o->ids, &d });
        return true;
    case OP_RMSNORM:
        cuda_launch(b, KERN_train_rmsnorm, o->T, 1, 1, THREADS,
                    (void *[]){ &y, &o->x, &o->u, &d, &o->by });
        return true;
    case OP_ROPE:
        cuda_launch_with(b, KERN_train_rope, over(o->T, TRAIN_ROPE_ROWS), 1, 1, THREADS,
                         TRAIN_ROPE_ROWS * o->hd * sizeof(float),
                         (void *[]){ &y, &h, &hd, &rows, &o->ids, &o->u, &inter });
        return true;
    case OP_SWIGLU:
        cuda_launch(b, KERN_train_gate, over(n, n % 8 ? THREADS : 8 * THREADS), 1, 1, THREADS,
                    (void *[]){ &y, &o->x, &o->u, &n });
        return true;
    default:
        return false;
    }
}

const struct train_ops train_ops_cuda = {
    .adafactor = adafactor_cuda,
    .adamw = adamw_cuda,
    .adamw_packed = adamw_packed_cuda,
    .attn = attn_cuda,
    .attn_bwd = attn_bwd_cuda,
    .col_dot = col_dot_cuda,
    .col_scale = col_scale_cuda,
    .columns = columns_cuda,
    .copy = copy_cuda,
    .cross_entropy = cross_entropy_cuda,
    .dora_gain = dora_gain_cuda,
    .dropout = dropout_cuda,
    .embed_bwd = embed_bwd_cuda,
    .linear_dx = linear_dx_cuda,
    .linear_fwd = linear_fwd_cuda,
    .noise = noise_cuda,
    .product = product_cuda,
    .rmsnorm_bwd = rmsnorm_bwd_cuda,
    .scatter = scatter_cuda,
    .scratch = scratch_cuda,
    .square_sum = square_sum_cuda,
    .swiglu_bwd = swiglu_bwd_cuda,
    .zero = zero_cuda,
};
