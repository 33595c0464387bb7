/* run.c - what ops.c noted, launched: which kernel, on which grid, and which neighbours share one.
 *
 * With few rows all layers are one kernel (program.c), each of five phases: q k v; attention with
 * the rotation and the cache; o, which adds to the residual and writes the next norm's input; gate
 * and up with the gated product; down, which does as o does. A norm's own factor comes out of the
 * sums of squares that o and down leave behind, and is applied to what the product makes of the
 * unnormalised row. */
#include <math.h>
#include <string.h>

#include "backend/cuda/cuda_int.h"

enum { THREADS = 256, CHUNK = DEV_CHUNK };

struct copy16 { /* as in small.cu */
    CUdeviceptr p;
    int mode, kp;
};

static size_t over(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

const struct dev_weight *cuda_placed(const struct weight *w)
{
    if (!w->placed)
        BUG("%s is not on the device", w->name);
    return &((struct placed *)w->placed)->w;
}

/* ---- what is read and written later ---- */

static bool meets(const float *p, size_t n, const float *lo, const float *hi)
{
    return p && p < hi && p + n > lo;
}

static bool is_product(const struct op *o)
{
    return o->kind == OP_LINEAR || o->kind == OP_AFFINE;
}

static bool reads(const struct cuda *b, const struct op *o, const float *lo, const float *hi)
{
    const size_t n = o->T * o->D;

    /* gather reads any row of the pass */
    if (meets(o->x, o->kind == OP_GATHER ? (b->rows + o->T) * o->D : n, lo, hi) ||
        meets(o->u, n, lo, hi))
        return true;
    return is_product(o) && o->add && meets(o->out[0].y, o->T * o->out[0].w->rows, lo, hi);
}

/* How far o writes all anew from lo on; lo: it does not. */
static const float *overwritten(const struct op *o, const float *lo)
{
    const float *to = lo;

    for (size_t i = 0; is_product(o) && i < o->n; i++)
        if (o->out[i].y <= lo && o->out[i].y + o->T * o->out[i].w->rows > to)
            to = o->out[i].y + o->T * o->out[i].w->rows;
    if (!is_product(o) && o->y && o->y <= lo && o->y + o->T * o->D > to)
        to = o->y + o->T * o->D;
    return to;
}

/* Whether nobody reads y [n] from op i on before it is written again, perhaps row after row. */
static bool dead(const struct cuda *b, size_t i, const float *y, size_t n)
{
    const float *const end = y + n;

    for (; i < b->n_op && y < end; i++) {
        if (reads(b, &b->op[i], y, end))
            return false;
        y = overwritten(&b->op[i], y);
    }
    return y >= end || b->ending;
}

/* ---- products: which way, and what they want of their inputs ---- */

enum route { ROUTE_PLAIN, ROUTE_STREAM, ROUTE_WIDE, ROUTE_LIBRARY };

struct inputs {
    bool act, bf16;       /* float32 inputs changed: by the weight's rule, rounded to bf16 */
    int mode;             /* enum prep_mode; PREP_F32: the product rounds them, by that rule */
    const int32_t *order; /* of w's columns, and on the device */
    const int32_t *dev_order, *place;
    size_t kp;
};

static size_t record_cols(const struct dev_weight *d)
{
    return d->kind == DEV_U8 ? 64 : 128;
}

/* Tiles of 8 rows that wide.cu has a kernel for. */
static size_t wide_tiles(size_t T)
{
    return T <= 32 ? 4 : 8;
}

static size_t wide_shared(const struct dev_weight *d, size_t T)
{
    return (size_t)WIDE_SHARED(d->kind, d->rec, (int)record_cols(d), (int)wide_tiles(T));
}

static enum kernel wide_kernel(const struct dev_weight *d, size_t T)
{
    const enum kernel k = d->kind == DEV_U8   ? (d->pair ? KERN_wide_u8_pair_4 : KERN_wide_u8_4)
                          : d->kind == DEV_U4 ? (d->pair ? KERN_wide_u4_pair_4 : KERN_wide_u4_4)
                          : d->kind == DEV_U6 ? KERN_wide_u6_4
                                              : KERN_wide_n4_4;

    return (enum kernel)((int)k + (wide_tiles(T) == 8));
}

static bool is_wide(const struct cuda *b, const struct dev_weight *d, size_t T)
{
    const bool codes =
        d->kind == DEV_U8 || d->kind == DEV_U4 || d->kind == DEV_U6 || d->kind == DEV_N4;

    /* On an H200 8B in Q4_0 makes 3619 tok/s so in batches of 32, 2370 widened; of 64 3380, 3960 */
    return codes && T > DEV_STREAM_ROWS &&
           T <= (b->tries & CUDA_TRY_WIDE ? WIDE_ROWS : WIDE_PAYS) &&
           wide_shared(d, T) <= b->dynamic[wide_kernel(d, T)];
}

static enum route route_of(const struct cuda *b, const struct weight *w, size_t T)
{
    enum { FEWEST = 8 }; /* rows from which widening all of a weight pays */
    const struct dev_weight *d = cuda_placed(w);

    if (b->ctx.compute == COMPUTE_F32 || d->enc == DEV_ENC_F32)
        return ROUTE_PLAIN;
    if (d->kind == DEV_RAW)
        return b->blas && T >= FEWEST ? ROUTE_LIBRARY : ROUTE_PLAIN;
    if (is_wide(b, d, T))
        return ROUTE_WIDE;
    return b->blas && T > DEV_STREAM_ROWS ? ROUTE_LIBRARY : ROUTE_STREAM;
}

/* Whether a phase of a program rounds inputs by w's rule as it loads them. */
static bool can_load(const struct cuda *b, const struct weight *w, size_t T)
{
    const struct dev_weight *d = cuda_placed(w);
    const bool groups = w->p.act == ACT_F8 && w->p.act_group < w->cols;

    /* On an H200 8 layers of 8B decode in FP8 at 725 tok/s so, at 562 with kernels that round
     * before; in LLM.int8 at 559 and 554, and four rows at 1724 and 2145. */
    return T <= DEV_STREAM_ROWS && d->kind == DEV_F8 && !d->order && w->cols % 4 == 0 &&
           (!groups || w->p.act_group == DEV_CHUNK) && route_of(b, w, T) == ROUTE_STREAM;
}

static struct inputs inputs_of(const struct cuda *b, const struct weight *w, size_t T)
{
    const struct dev_weight *d = cuda_placed(w);
    const bool library = route_of(b, w, T) == ROUTE_LIBRARY;
    const bool half = d->kind == DEV_B16 || (library && d->kind != DEV_H16);
    const bool act = b->ctx.compute == COMPUTE_AUTO && w->p.act != ACT_KEEP;

    return (struct inputs){ .act = act,
                            .bf16 = b->ctx.compute == COMPUTE_BF16 && d->kind != DEV_B16,
                            .mode = act && can_load(b, w, T) ? PREP_F32
                                    : half                   ? PREP_BF16
                                                             : PREP_F16,
                            .order = d->order ? w->p.order : NULL,
                            .dev_order = d->order,
                            .place = d->place,
                            .kp = (size_t)d->kp };
}

static bool same_order(const int32_t *a, const int32_t *b, size_t n)
{
    return a == b || (a && b && memcmp(a, b, n * sizeof(*a)) == 0);
}

/* Inputs that are x rounded to 16 bits, perhaps in another order, and nothing else. */
static bool only16(const struct inputs *in)
{
    return !in->act && !in->bf16;
}

static bool plain(const struct inputs *in)
{
    return only16(in) && !in->order;
}

static bool same_inputs(const struct cuda *b, const struct weight *a, const struct weight *w,
                        size_t T)
{
    const struct inputs p = inputs_of(b, a, T), q = inputs_of(b, w, T);

    return p.act == q.act && p.bf16 == q.bf16 && p.mode == q.mode && p.kp == q.kp &&
           same_order(p.order, q.order, a->cols) && (!p.act || weight_same_act(a, w));
}

/* What all products of o read of their input, if they read the same. */
static bool one_input(const struct cuda *b, const struct op *o, struct inputs *in)
{
    for (size_t i = 0; i < o->n; i++)
        if (route_of(b, o->out[i].w, o->T) == ROUTE_PLAIN ||
            !same_inputs(b, o->out[0].w, o->out[i].w, o->T))
            return false;
    if (o->n)
        *in = inputs_of(b, o->out[0].w, o->T);
    return o->n > 0;
}

/* Whether a program writes what o reads, in->kp columns, in 16 bits at once in their order. A
 * weight that is away may not be there yet, nor its order. */
static bool takes16(const struct cuda *b, const struct op *o, const struct inputs *in)
{
    return plain(in) || (only16(in) && o->T <= DEV_STREAM_ROWS &&
                         route_of(b, o->out[0].w, o->T) == ROUTE_STREAM && !b->away.live);
}

/* The same of D columns, or as they are where o rounds them itself. Nobody would write the zeros of
 * padding. */
static bool takes_made(const struct cuda *b, const struct op *o, size_t D, struct inputs *in)
{
    return one_input(b, o, in) && (in->mode == PREP_F32 || (in->kp == D && takes16(b, o, in)));
}

/* The op after i, if it is a product of y [T, D]. */
static const struct op *consumer(const struct cuda *b, size_t i, const float *y, size_t T, size_t D)
{
    const struct op *o = i + 1 < b->n_op ? &b->op[i + 1] : NULL;

    return o && o->kind == OP_LINEAR && o->x == y && o->T == T && o->D == D ? o : NULL;
}

static struct gpu_room *next16(struct cuda *b)
{
    return &b->x16[1 - b->cur];
}

/* x16 holds a copy of x from now on. */
static void have(struct cuda *b, const float *x, size_t T, int kp, int mode, bool scaled)
{
    b->cur = 1 - b->cur;
    b->have.x = x;
    b->have.T = T;
    b->have.kp = kp;
    b->have.mode = mode;
    b->have.raw = NULL;
    b->have.order = NULL;
    b->have.scaled = scaled;
}

/* The place for y [T, D] that a program makes for the products that `in` is about. */
static bool room_for_made(struct cuda *b, const struct inputs *in, size_t n)
{
    return cuda_room(b, next16(b), n * (in->mode == PREP_F32 ? sizeof(float) : sizeof(uint16_t)));
}

/* a makes it there. */
static void make_next(struct cuda *b, const struct inputs *in, size_t D, struct stream_args *a)
{
    const CUdeviceptr p = next16(b)->p;

    a->mode16 = in->mode;
    a->kp16 = (int)D;
    a->place = in->place;
    if (in->mode == PREP_F32)
        a->y32 = (float *)(uintptr_t)p;
    else
        a->y16 = (uint16_t *)(uintptr_t)p;
}

/* It did: y is there from now on. */
static void have_made(struct cuda *b, const struct inputs *in, const float *y, size_t T, size_t D,
                      bool scaled)
{
    have(b, y, T, (int)D, in->mode, scaled);
    b->have.order = in->order;
    if (in->mode == PREP_F32)
        b->have.raw = (const float *)(uintptr_t)b->x16[b->cur].p;
}

/* A copy in 16 bits of y, which op i writes, for the product that follows. y becomes NULL where
 * nobody wants more than that. place: where its columns go, for a program; NULL: they stay. */
static struct copy16 copy_for(struct cuda *b, size_t i, float **y, size_t T, size_t D,
                              const int32_t **place)
{
    const struct op *o = consumer(b, i, *y, T, D);
    struct inputs in;

    b->have.x = NULL;
    if (!o || !one_input(b, o, &in) || !(place ? takes16(b, o, &in) : plain(&in)) ||
        !cuda_room(b, next16(b), T * in.kp * sizeof(uint16_t)))
        return (struct copy16){ 0 };
    have(b, *y, T, (int)in.kp, in.mode, false);
    b->have.order = in.order;
    if (place)
        *place = in.place;
    if (dead(b, i + 2, *y, T * D))
        *y = NULL;
    return (struct copy16){ b->x16[b->cur].p, in.mode, (int)in.kp };
}

/* ---- inputs in 16 or 8 bits ---- */

static struct act_args act_of(const struct inputs *in, const struct weight *w, const float *x,
                              size_t T)
{
    return (struct act_args){ .x = x,
                              .T = (int)T,
                              .cols = (int)w->cols,
                              .kp = (int)in->kp,
                              .mode16 = in->mode,
                              .act = in->act ? (int)w->p.act : ACT_KEEP,
                              .group =
                                  (int)(in->act && w->p.act == ACT_F8 ? w->p.act_group : w->cols),
                              .bf16 = in->bf16,
                              .bound = w->p.act_bound,
                              .scale = w->p.act_scale };
}

static void launch_act(struct cuda *b, struct act_args *a)
{
    cuda_launch(b, KERN_act, over((size_t)a->cols, (size_t)a->group), (size_t)a->T, 1, THREADS,
                (void *[]){ a });
}

/* x as the weight's rule or --dtype bf16 changes it, in float32. */
static const float *changed(struct cuda *b, const struct inputs *in, const struct weight *w,
                            const float *x, size_t T)
{
    if ((!in->act && !in->bf16) || !cuda_room(b, &b->rounded, T * w->cols * sizeof(float)))
        return x;
    struct act_args a = act_of(in, w, x, T);

    a.y = (float *)(uintptr_t)b->rounded.p;
    launch_act(b, &a);
    return a.y;
}

/* x in 16 bits, to x16; nothing to do where the op before left it there. */
static bool prepare(struct cuda *b, const struct inputs *in, const struct weight *w, const float *x,
                    size_t T)
{
    int cols = (int)w->cols, kp = (int)in->kp, mode = in->mode;
    const int32_t *order = in->dev_order;

    if (mode == PREP_F32) {
        if (b->have.raw && b->have.x == x && b->have.T == T)
            return !b->failed;
        b->have.x = b->have.raw = x;
        b->have.T = T;
        b->have.kp = cols;
        b->have.mode = mode;
        b->have.scaled = false;
        return !b->failed;
    }
    if (only16(in) && b->have.x == x && b->have.T == T && b->have.kp == kp &&
        b->have.mode == mode && same_order(b->have.order, in->order, w->cols))
        return !b->failed;
    if (!cuda_room(b, next16(b), T * in->kp * sizeof(uint16_t)))
        return false;
    const CUdeviceptr to = next16(b)->p;

    have(b, plain(in) ? x : NULL, T, kp, mode, false);
    if ((in->act || in->bf16) && !order) {
        struct act_args a = act_of(in, w, x, T);

        a.y16 = (uint16_t *)(uintptr_t)to;
        launch_act(b, &a);
        return !b->failed;
    }
    const float *from = changed(b, in, w, x, T);

    cuda_launch(b, KERN_prep, in->kp / 128, T, 1, 128,
                (void *[]){ (void *)(uintptr_t)&to, &from, &cols, &kp, &order, &mode });
    return !b->failed;
}

/* ---- products of few rows ---- */

/* Whether one kernel can do both. */
static bool same_stream(const struct dev_weight *a, const struct dev_weight *w)
{
    return a->kind == w->kind && a->kp == w->kp && a->rec == w->rec && a->gs == w->gs &&
           a->pair == w->pair && a->zeros == w->zeros && a->zero_const == w->zero_const &&
           (a->kind != DEV_N4 || memcmp(a->table, w->table, sizeof(a->table)) == 0);
}

/* n outputs of one layout from x16, at most DEV_STREAM_ROWS rows. */
static struct stream_args stream_of(struct cuda *b, const struct linear_out *out, size_t n,
                                    size_t T, bool add)
{
    struct stream_args a = { .n = (int)n,
                             .T = (int)T,
                             .add = add,
                             .x = (uint16_t *)(uintptr_t)b->x16[b->cur].p,
                             .D = (int)out[0].w->cols };

    for (size_t i = 0; i < n; i++) {
        a.out[i] = (struct dev_out){ *cuda_placed(out[i].w), out[i].y, a.tiles };
        a.tiles += (int)over(out[i].w->rows, DEV_TILE);
    }
    if (b->have.x && b->have.mode == PREP_F32) {
        const struct inputs in = inputs_of(b, out[0].w, T);
        const struct act_args f = act_of(&in, out[0].w, b->have.raw, T);

        a.load = (struct load_args){ .x = f.x,
                                     .cols = f.cols,
                                     .act = f.act,
                                     .group = f.group,
                                     .bound = f.bound,
                                     .scale = f.scale };
    }
    if (b->have.x && b->have.scaled) {
        a.ss = (const float *)(uintptr_t)b->ss[b->cur].p;
        a.n_ss = b->have.n_ss;
        a.eps = b->have.eps;
    }
    return a;
}

/* More rows than a block takes go in turns. */
static void stream(struct cuda *b, const struct linear_out *out, size_t n, size_t T, bool add)
{
    const size_t kp = (size_t)cuda_placed(out[0].w)->kp;

    for (size_t t = 0; t < T; t += DEV_STREAM_ROWS) {
        const size_t rows = T - t < DEV_STREAM_ROWS ? T - t : DEV_STREAM_ROWS;
        struct stream_args a = stream_of(b, out, n, rows, add);

        a.x += t * kp;
        for (size_t i = 0; i < n; i++)
            a.out[i].y += t * out[i].w->rows;
        program_stream(b, &a);
    }
}

/* ---- products of some rows ---- */

/* n outputs of one layout from x16, at most WIDE_ROWS rows. How columns are cut depends on the
 * weights and the device alone. */
static void wide(struct cuda *b, const struct linear_out *out, size_t n, size_t T, bool add)
{
    const struct dev_weight *d = cuda_placed(out[0].w);
    struct wide_args a = { .s = stream_of(b, out, n, T, add) };
    const size_t records = (size_t)d->kp / record_cols(d);
    const size_t groups = over((size_t)a.s.tiles, WIDE_WARPS);
    size_t splits = 2 * b->sms / groups; /* two blocks fit on a multiprocessor */

    splits = splits > records / 4 ? records / 4 : splits; /* what is begun has to be filled first */
    splits = splits ? splits : 1;
    const size_t per = over(records, splits);

    splits = over(records, per);
    if (splits > 1) {
        const size_t sums = (size_t)a.s.tiles * DEV_TILE * WIDE_ROWS;

        if (!cuda_room(b, &b->part, splits * sums * sizeof(float)) ||
            !cuda_room(b, &b->done, groups * sizeof(int)))
            return;
        a.part = (float *)(uintptr_t)b->part.p;
        a.done = (int *)(uintptr_t)b->done.p;
    }
    a.splits = (int)splits;
    a.per = (int)per;
    cuda_launch_with(b, wide_kernel(d, T), groups, splits, 1, WIDE_WARPS * 32, wide_shared(d, T),
                     (void *[]){ &a });
}

/* ---- products of many rows: cuBLASLt ---- */

/* E4M3 by E4M3, where the checkpoint's rule for inputs is that. */
static bool takes_f8(const struct cuda *b, const struct weight *w, const struct inputs *in)
{
    const enum act act = w->p.act;

    return cuda_placed(w)->kind == DEV_F8 && cuda_placed(w)->n_groups == 1 && in->act &&
           (act == ACT_F8_STATIC || (act == ACT_F8 && w->p.act_group >= w->cols)) && blas_has_f8(b);
}

/* x8 and the scales behind it. */
static bool f8_room(struct cuda *b, struct act_args *a)
{
    const size_t T = (size_t)a->T, kp = (size_t)a->kp;

    if (!cuda_room(b, &b->x8, T * (kp + sizeof(float))))
        return false;
    a->y8 = (uint8_t *)(uintptr_t)b->x8.p;
    a->scales = (float *)(uintptr_t)(b->x8.p + T * kp);
    return true;
}

/* x8 is x from now on, as w wants it. */
static void have_f8(struct cuda *b, const float *x, size_t T, const struct weight *w)
{
    b->have8.x = x, b->have8.T = T, b->have8.w = w;
}

/* x, or its norm with weights `norm`, in the ways that a has room for. */
static void norm_rows(struct cuda *b, struct act_args *a, const float *norm, float eps)
{
    cuda_launch(b, KERN_norm_rows, (size_t)a->T, 1, 1, 256, (void *[]){ a, &norm, &eps });
}

static bool whole_rows(const struct act_args *a)
{
    return a->cols % 4 == 0 && a->cols <= ROWS_MOST && a->kp <= ROWS_MOST;
}

/* half: where y goes in bf16 instead; or NULL */
static struct blas_product product_f8(const struct cuda *b, const struct linear_out *out, size_t T,
                                      bool add, void *half)
{
    const struct dev_weight *w = cuda_placed(out->w);
    const size_t kp = (size_t)w->kp;

    return (struct blas_product){ .y = half ? half : out->y,
                                  .half_y = half != NULL,
                                  .ldy = out->w->rows,
                                  .w = (CUdeviceptr)(uintptr_t)w->q,
                                  .rows = out->w->rows,
                                  .x = b->x8.p,
                                  .T = T,
                                  .kp = kp,
                                  .type = BLAS_F8,
                                  .add = add,
                                  .w_scale = (CUdeviceptr)(uintptr_t)w->scale,
                                  .x_scale = b->x8.p + T * kp };
}

/* Whether cuBLASLt has all products of o in E4M3, of one input. */
static bool all_f8(struct cuda *b, const struct op *o)
{
    for (size_t i = 0; i < o->n; i++) {
        const struct inputs in = inputs_of(b, o->out[i].w, o->T);
        const struct blas_product p = product_f8(b, &o->out[i], o->T, o->add, NULL);

        if (!takes_f8(b, o->out[i].w, &in) || !weight_same_act(o->out[0].w, o->out[i].w) ||
            !blas_can(b, &p))
            return false;
    }
    return true;
}

/* x in E4M3, to x8, where w takes that; nothing to do where it is there. */
static bool prepare_f8(struct cuda *b, const struct inputs *in, const struct weight *w,
                       const float *x, size_t T)
{
    struct act_args a = act_of(in, w, x, T);

    if (!takes_f8(b, w, in) || !f8_room(b, &a))
        return false;
    if (b->have8.x != x || b->have8.T != T || !weight_same_act(b->have8.w, w)) {
        if (whole_rows(&a))
            norm_rows(b, &a, NULL, 0);
        else
            launch_act(b, &a);
        have_f8(b, x, T, w);
    }
    return !b->failed;
}

static bool library_f8(struct cuda *b, const struct linear_out *out, const float *x, size_t T,
                       bool add, const struct inputs *in, void *half)
{
    if (!prepare_f8(b, in, out->w, x, T))
        return false;
    const struct blas_product p = product_f8(b, out, T, add, half);

    return blas_run(b, &p);
}

/* The same from x16, of a weight that is bf16 or f16. */
static struct blas_product product16(const struct cuda *b, const struct linear_out *out, size_t T,
                                     bool add, void *half)
{
    const struct dev_weight *w = cuda_placed(out->w);

    return (struct blas_product){ .y = half ? half : out->y,
                                  .half_y = half != NULL,
                                  .ldy = out->w->rows,
                                  .w = (CUdeviceptr)(uintptr_t)w->q,
                                  .rows = out->w->rows,
                                  .x = b->x16[b->cur].p,
                                  .T = T,
                                  .kp = (size_t)w->kp,
                                  .type = w->kind == DEV_H16 ? BLAS_F16 : BLAS_BF16,
                                  .add = add };
}

/* What is neither bf16 nor f16 is widened first, a slice of rows at a time. half as for library_f8.
 */
static bool library(struct cuda *b, const struct linear_out *out, const float *x, size_t T,
                    bool add, const struct inputs *in, void *half)
{
    const struct dev_weight *w = cuda_placed(out->w);
    const size_t kp = (size_t)w->kp, rows = out->w->rows;
    size_t slice = ((size_t)128 << 20) / (kp * 2);

    if (library_f8(b, out, x, T, add, in, half))
        return true;
    if (!prepare(b, in, out->w, x, T))
        return false;
    struct blas_product p = product16(b, out, T, add, half);

    if (w->kind == DEV_B16 || w->kind == DEV_H16)
        return blas_run(b, &p);
    slice = slice > 65535 ? 65535 : slice < 128 ? 128 : slice / 128 * 128;
    slice = slice > rows ? rows : slice;
    if (!cuda_room(b, &b->dequant, slice * kp * 2))
        return false;
    p.w = b->dequant.p;
    for (size_t r = 0; r < rows; r += slice) {
        p.rows = rows - r < slice ? rows - r : slice;
        p.y = half ? (void *)((uint16_t *)half + r) : (void *)(out->y + r);
        cuda_widen(b, w, r, p.rows);
        if (!blas_run(b, &p)) {
            if (r) /* a part is there: nothing can be begun again */
                cuda_ok(b, CUDA_ERROR_NOT_SUPPORTED, "cuBLASLt product");
            return r > 0;
        }
    }
    return true;
}

void cuda_product(struct cuda *b, const struct linear_out *out, const float *x, size_t T, bool add)
{
    int t = (int)T, plus = add;
    float *y = out->y;

    cuda_launch(b, KERN_product, over(out->w->rows, 8), over(T, 4), 1, THREADS,
                (void *[]){ &y, (void *)(uintptr_t)cuda_placed(out->w), &x, &t, &plus });
}

/* The outputs of o from number i on that go along with it; how many they are. */
static size_t some(struct cuda *b, const struct op *o, size_t i)
{
    const struct linear_out *out = &o->out[i];
    const struct inputs in = inputs_of(b, out->w, o->T);
    enum route route = route_of(b, out->w, o->T);
    size_t n = 1;

    if (o->T > 65535 * 4 || out->w->rows == 0 || o->T == 0)
        return 1;
    if (route == ROUTE_LIBRARY) {
        if (library(b, out, o->x, o->T, o->add, &in, NULL))
            return 1;
        route = cuda_placed(out->w)->kind == DEV_RAW ? ROUTE_PLAIN : ROUTE_STREAM;
    }
    if (route == ROUTE_PLAIN) {
        cuda_product(b, out, changed(b, &in, out->w, o->x, o->T), o->T, o->add);
        return 1;
    }
    while (i + n < o->n && route_of(b, out[n].w, o->T) == route &&
           same_stream(cuda_placed(out[0].w), cuda_placed(out[n].w)) &&
           same_inputs(b, out[0].w, out[n].w, o->T))
        n++;
    if (!prepare(b, &in, out->w, o->x, o->T))
        return n;
    if (route == ROUTE_WIDE)
        wide(b, out, n, o->T, o->add);
    else
        stream(b, out, n, o->T, o->add);
    return n;
}

/* ---- neighbours in one kernel ---- */

static bool streams(const struct cuda *b, const struct op *o)
{
    for (size_t i = 0; i < o->n; i++)
        if (route_of(b, o->out[i].w, o->T) != ROUTE_STREAM)
            return false;
    return o->kind == OP_LINEAR && o->T > 0 && o->T <= DEV_STREAM_ROWS;
}

/* gate and up, swiglu, and a product of that: the gated values in 16 bits alone. */
static bool gated(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i], *s = &b->op[i + 1];
    struct inputs made;

    if (i + 2 >= b->n_op || o->n != 2 || o->add || !streams(b, o) || s->kind != OP_SWIGLU ||
        s->x != o->out[0].y || s->u != o->out[1].y || s->T != o->T)
        return false;
    const struct weight *g = o->out[0].w, *u = o->out[1].w;
    const struct inputs in = inputs_of(b, g, o->T);
    const struct op *next = consumer(b, i + 1, s->y, s->T, s->D);
    const size_t n = s->T * s->D;

    if (!next || !takes_made(b, next, s->D, &made) || g->rows != u->rows ||
        !same_stream(cuda_placed(g), cuda_placed(u)) || !same_inputs(b, g, u, o->T) ||
        !dead(b, i + 3, s->y, n) || (s->y != s->x && !dead(b, i + 2, s->x, n)) ||
        !dead(b, i + 2, s->u, n) || !prepare(b, &in, g, o->x, o->T) || !room_for_made(b, &made, n))
        return false;
    struct stream_args a = stream_of(b, o->out, 2, o->T, false);

    a.swiglu = 1;
    make_next(b, &made, s->D, &a);
    program_stream(b, &a);
    have_made(b, &made, s->y, s->T, s->D, false);
    return true;
}

static bool is_library(const struct cuda *b, const struct op *o)
{
    for (size_t i = 0; i < o->n; i++)
        if (route_of(b, o->out[i].w, o->T) != ROUTE_LIBRARY)
            return false;
    return o->kind == OP_LINEAR && o->n > 0 && o->T > 0;
}

/* Whether the input of all products of o is there as they take it, and nothing but they remain. */
static bool input_ready(struct cuda *b, const struct op *o)
{
    for (size_t i = 0; i < o->n; i++) {
        const struct inputs in = inputs_of(b, o->out[i].w, o->T);
        const int kind = cuda_placed(o->out[i].w)->kind;

        if (takes_f8(b, o->out[i].w, &in)) {
            if (b->have8.x != o->x || b->have8.T != o->T ||
                !weight_same_act(b->have8.w, o->out[i].w) || !all_f8(b, o))
                return false;
        } else if ((kind != DEV_B16 && kind != DEV_H16) || !plain(&in) || b->have.x != o->x ||
                   b->have.T != o->T || b->have.kp != (int)in.kp || b->have.mode != in.mode) {
            return false;
        }
    }
    return true;
}

/* Queries, keys and values of many rows, side by side: those of keys and values do not fill the
 * device. half: as for library, of each. How many of o's outputs are there. */
static size_t side_by_side(struct cuda *b, const struct op *o, void *const *half)
{
    size_t n = 0;

    if (o->n != 1 + BLAS_SIDES || !is_library(b, o) || !input_ready(b, o) || b->failed)
        return 0;
    program_flush(b);
    cuda_ok(b, b->d.cuEventRecord(b->fork, b->stream), "products");
    for (size_t i = 0; i < o->n; i++) {
        const struct inputs in = inputs_of(b, o->out[i].w, o->T);

        if (i)
            cuda_ok(b, b->d.cuStreamWaitEvent(b->side[i - 1], b->fork, 0), "products");
        b->lane = i;
        n += n == i && library(b, &o->out[i], o->x, o->T, o->add, &in, half[i]);
        b->lane = 0;
        if (i) {
            cuda_ok(b, b->d.cuEventRecord(b->joined[i - 1], b->side[i - 1]), "products");
            cuda_ok(b, b->d.cuStreamWaitEvent(b->stream, b->joined[i - 1], 0), "products");
        }
    }
    return n;
}

/* Where the gated values go for the product o: in E4M3 or 16 bits; false: as they are. */
static bool gated_for(struct cuda *b, const struct op *o, struct gated_args *a)
{
    const struct weight *w = o->out[0].w;
    const struct inputs in = inputs_of(b, w, o->T);
    struct act_args f = act_of(&in, w, o->x, o->T);

    a->kp = (int)in.kp;
    a->mode16 = in.mode;
    a->act = f.act;
    a->bound = f.bound;
    a->scale = f.scale;
    if (in.kp > GATED_MOST || o->n != 1)
        return false;
    if (takes_f8(b, w, &in)) {
        if (!all_f8(b, o) || !f8_room(b, &f))
            return false;
        a->y8 = f.y8;
        a->scales = f.scales;
        return true;
    }
    if (!plain(&in) || !cuda_room(b, next16(b), o->T * in.kp * sizeof(uint16_t)))
        return false;
    a->y16 = (uint16_t *)(uintptr_t)next16(b)->p;
    return true;
}

/* Where the product o reads inputs in bf16 and no more; NULL: it does not. */
static uint16_t *gated_there(struct cuda *b, const struct op *o)
{
    const struct inputs in = inputs_of(b, o->out[0].w, o->T);

    return o->n == 1 && plain(&in) && in.mode == PREP_BF16 && in.kp == o->D &&
                   cuda_room(b, next16(b), o->T * in.kp * sizeof(uint16_t))
               ? (uint16_t *)(uintptr_t)next16(b)->p
               : NULL;
}

/* The gated values of o in bf16 by one kernel of ours: where they are, as `next` takes them if
 * *there; NULL: there is no such kernel. */
static uint16_t *gated_at_once(struct cuda *b, const struct op *o, const struct op *next,
                               bool *there)
{
    const struct inputs in = inputs_of(b, o->out[0].w, o->T);
    const bool f8 = takes_f8(b, o->out[0].w, &in);
    struct blas_product p[2];

    if (f8 ? !all_f8(b, o) || !prepare_f8(b, &in, o->out[0].w, o->x, o->T)
           : !same_inputs(b, o->out[0].w, o->out[1].w, o->T) ||
                 !prepare(b, &in, o->out[0].w, o->x, o->T))
        return NULL;
    uint16_t *y = gated_there(b, next);

    *there = y != NULL;
    if (!y && cuda_room(b, &b->gate_up, o->T * next->D * sizeof(*y)))
        y = (uint16_t *)(uintptr_t)b->gate_up.p;
    for (size_t i = 0; i < 2; i++) {
        if (!y || (!f8 && cuda_placed(o->out[i].w)->kind != DEV_B16))
            return NULL;
        p[i] = f8 ? product_f8(b, &o->out[i], o->T, false, y)
                  : product16(b, &o->out[i], o->T, false, y);
    }
    return gemm_gated(b, p, y) ? y : NULL;
}

/* The same of many rows: gate and up, or what comes of them, are in bf16 between, as reference
 * libraries have them. */
static bool gated_many(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i], *s = &b->op[i + 1];

    if (i + 2 >= b->n_op || o->n != 2 || o->add || !is_library(b, o) || s->kind != OP_SWIGLU ||
        s->x != o->out[0].y || s->u != o->out[1].y || s->T != o->T || s->D % 8)
        return false;
    const struct weight *w[] = { o->out[0].w, o->out[1].w };
    const struct op *next = consumer(b, i + 1, s->y, s->T, s->D);
    const size_t n = s->T * s->D;
    struct gated_args a = { .F = (int)s->D };

    if (!next || !is_library(b, next) || w[0]->rows != s->D || w[1]->rows != s->D ||
        cuda_placed(w[0])->kind == DEV_H16 || cuda_placed(w[1])->kind == DEV_H16 ||
        !dead(b, i + 3, s->y, n) || (s->y != s->x && !dead(b, i + 2, s->x, n)) ||
        !dead(b, i + 2, s->u, n))
        return false;
    bool there = false;
    uint16_t *half = gated_at_once(b, o, next, &there);
    const bool once = half != NULL;

    if (!once && cuda_room(b, &b->gate_up, 2 * n * sizeof(*half)))
        half = (uint16_t *)(uintptr_t)b->gate_up.p;
    if (!half)
        return false;
    for (size_t k = 0; k < 2 && !once; k++) {
        const struct inputs in = inputs_of(b, w[k], o->T);

        if (!library(b, &o->out[k], o->x, o->T, false, &in, half + k * n))
            return false;
    }
    if (!gated_for(b, next, &a))
        return false;
    a.g = half;
    a.u = once ? NULL : half + n;
    if (!there || !once)
        cuda_launch(b, KERN_gated, s->T, 1, 1, 512, (void *[]){ &a });
    if (a.y8)
        have_f8(b, s->y, s->T, next->out[0].w);
    else
        have(b, s->y, s->T, a.kp, a.mode16, false);
    return true;
}

/* A norm whose product takes E4M3. */
static bool norm_f8(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i];
    const struct op *next = o->kind == OP_RMSNORM ? consumer(b, i, o->y, o->T, o->D) : NULL;

    if (!next || !is_library(b, next))
        return false;
    const struct weight *w = next->out[0].w;
    const struct inputs in = inputs_of(b, w, o->T);
    struct act_args a = act_of(&in, w, o->x, o->T);

    if (!all_f8(b, next) || !whole_rows(&a) || !f8_room(b, &a))
        return false;
    a.y = dead(b, i + 2, o->y, o->T * o->D) ? NULL : o->y;
    norm_rows(b, &a, o->u, o->by);
    have_f8(b, o->y, o->T, w);
    b->have.x = NULL;
    return true;
}

/* A product added to the residual, its norm, and a product of that. */
static bool normed(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i], *s = &b->op[i + 1];
    struct inputs made;

    if (i + 2 >= b->n_op || o->n != 1 || !o->add || !streams(b, o) || s->kind != OP_RMSNORM ||
        s->x != o->out[0].y || s->T != o->T || s->D != o->out[0].w->rows)
        return false;
    const struct weight *w = o->out[0].w;
    const struct inputs in = inputs_of(b, w, o->T);
    const struct op *next = consumer(b, i + 1, s->y, s->T, s->D);
    const size_t n = s->T * s->D, tiles = over(w->rows, DEV_TILE);

    if (!next || !streams(b, next) || !takes_made(b, next, s->D, &made) ||
        !dead(b, i + 3, s->y, n) || !prepare(b, &in, w, o->x, o->T) ||
        !room_for_made(b, &made, n) ||
        !cuda_room(b, &b->ss[1 - b->cur], s->T * tiles * sizeof(float)))
        return false;
    struct stream_args a = stream_of(b, o->out, 1, o->T, true);

    a.norm = s->u;
    a.ss_out = (float *)(uintptr_t)b->ss[1 - b->cur].p;
    make_next(b, &made, s->D, &a);
    program_stream(b, &a);
    have_made(b, &made, s->y, s->T, s->D, true);
    b->have.n_ss = (int)tiles;
    b->have.eps = s->by;
    return true;
}

/* Of attention's scores, for exponents in base 2. */
static float attn_scale(size_t hd)
{
    return (float)(1 / sqrt((double)hd) * M_LOG2E);
}

/* Whether q and the next two ops are the rotation of queries and keys, and the cache. */
static bool is_rotation(const struct op *q)
{
    const struct op *k = q + 1, *w = q + 2;

    return q->kind == OP_ROPE && k->kind == OP_ROPE && w->kind == OP_KV_WRITE && w->x == k->y &&
           k->hd == q->hd && k->u == q->u && k->ids == q->ids && k->T == q->T && w->T == q->T &&
           k->interleaved == q->interleaved && w->kv->head_dim == q->hd && w->kv->kv_heads == k->H;
}

/* The rotation of queries and keys, and the cache: how many ops from i on that is; 0 = not that. */
static size_t rotated(struct cuda *b, size_t i)
{
    const struct op *q = &b->op[i], *k = q + 1, *w = q + 2;

    if (i + 2 >= b->n_op || !is_rotation(q))
        return 0;
    struct rope_args a = { .q = q->y,
                           .k = k->y,
                           .v = w->u,
                           .inv_freq = q->u,
                           .pos = q->ids,
                           .slot = w->at->slot,
                           .seq = w->at->seq,
                           .table = w->at->block_table,
                           .kc = w->kv->layer[w->layer].k,
                           .vc = w->kv->layer[w->layer].v,
                           .H = (int)q->H,
                           .K = (int)k->H,
                           .hd = (int)q->hd,
                           .enc = (int)w->kv->enc,
                           .interleaved = q->interleaved };

    const struct op *y = i + 3 < b->n_op ? &b->op[i + 3] : NULL;

    /* attention that follows at once does it too */
    if (y && attn_in_program(b, y) && y->x == q->y && y->kv == w->kv && y->layer == w->layer &&
        y->T == q->T && dead(b, i + 4, q->y, q->T * q->D) && dead(b, i + 3, k->y, k->T * k->D))
        program_rope(b, &a, q->T);
    else
        cuda_rope_kv(b, &a, q->T);
    return 3;
}

/* Queries, keys and values in bf16, as reference libraries have them, and what rotated() does: how
 * many ops from i on that is; 0 = not that. */
static size_t rotated_many(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i], *q = o + 1, *k = o + 2, *w = o + 3, *y = o + 4;

    if (i + 3 >= b->n_op || o->n != 3 || o->add || b->ctx.half || !is_library(b, o) ||
        !is_rotation(q) || q->y != o->out[0].y || k->y != o->out[1].y || w->u != o->out[2].y ||
        q->T != o->T || q->hd % 16 || q->hd > 256 || w->kv->enc == ENC_F32 ||
        !dead(b, i + 4, k->y, k->T * k->D) || !dead(b, i + 4, w->u, w->T * w->D))
        return 0;
    const size_t n[] = { q->T * q->D, k->T * k->D, w->T * w->D };
    int mode = PREP_BF16;

    for (size_t j = 0; j < o->n; j++)
        if (cuda_placed(o->out[j].w)->kind == DEV_H16 || o->out[j].w->rows * o->T != n[j])
            return 0;
    if (!cuda_room(b, &b->qkv, (n[0] + n[1] + n[2]) * sizeof(uint16_t)))
        return 0;
    uint16_t *const half = (uint16_t *)(uintptr_t)b->qkv.p;
    void *const to[] = { half, half + n[0], half + n[0] + n[1] };
    const bool attends = i + 4 < b->n_op && y->kind == OP_ATTN && y->x == q->y && y->T == q->T;
    const bool takes16 = attends && attn_takes16(b, y, &mode);
    const bool none = !attends && dead(b, i + 4, q->y, n[0]);

    for (size_t j = none ? 1 : side_by_side(b, o, to); j < o->n; j++) {
        const struct inputs in = inputs_of(b, o->out[j].w, o->T);

        if (!library(b, &o->out[j], o->x, o->T, false, &in, to[j]))
            return 0;
    }
    struct rope16_args a = { .q = none ? NULL : half,
                             .k = to[1],
                             .v = to[2],
                             .q32 = takes16 && dead(b, i + 5, q->y, n[0]) ? NULL : q->y,
                             .q16 = takes16 ? half : NULL,
                             .scale = attn_scale(q->hd),
                             .mode16 = mode,
                             .inv_freq = q->u,
                             .pos = q->ids,
                             .slot = w->at->slot,
                             .seq = w->at->seq,
                             .table = w->at->block_table,
                             .kc = w->kv->layer[w->layer].k,
                             .vc = w->kv->layer[w->layer].v,
                             .H = (int)q->H,
                             .K = (int)k->H,
                             .hd = (int)q->hd,
                             .enc = (int)w->kv->enc,
                             .interleaved = q->interleaved };

    cuda_launch(b, KERN_rope16, q->T, 1, 1, 384, (void *[]){ &a });
    for (size_t j = 0; j < o->n; j++)
        if (b->have.x == o->out[j].y)
            b->have.x = NULL;
    b->q16 = takes16 ? q->y : NULL;
    return 4;
}

/* ---- attention ---- */

/* The product after attention i, if it takes E4M3 and is all that reads it: made of bf16 in next16,
 * as a says; or NULL. */
static const struct op *rounded_next(struct cuda *b, size_t i, struct gated_args *a)
{
    const struct op *o = &b->op[i], *next = consumer(b, i, o->y, o->T, o->D);

    return next && is_library(b, next) && o->D % 8 == 0 && dead(b, i + 2, o->y, o->T * o->D) &&
                   gated_for(b, next, a) && a->y8 &&
                   cuda_room(b, next16(b), o->T * o->D * sizeof(uint16_t))
               ? next
               : NULL;
}

static void attention(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i];
    const size_t hd = o->kv->head_dim;
    const int32_t *place = NULL;
    float *y = o->y;
    struct gated_args f = { .F = (int)o->D };
    const struct op *const next = rounded_next(b, i, &f);
    /* nobody would write the zeros of padding */
    const struct copy16 copy =
        next           ? (struct copy16){ next16(b)->p, PREP_BF16, f.F }
        : o->D % CHUNK ? (struct copy16){ 0 }
                       : copy_for(b, i, &y, o->T, o->D, attn_in_program(b, o) ? &place : NULL);
    struct attn_args a = { .y = next ? NULL : y,
                           .q = o->x,
                           .k = o->kv->layer[o->layer].k,
                           .v = o->kv->layer[o->layer].v,
                           .slot = o->at->slot,
                           .seq = o->at->seq,
                           .table = o->at->block_table,
                           .H = (int)o->H,
                           .K = (int)o->kv->kv_heads,
                           .hd = (int)hd,
                           .scale = attn_scale(hd),
                           .y16 = (uint16_t *)(uintptr_t)copy.p,
                           .mode16 = copy.mode,
                           .kp16 = copy.kp,
                           .place = place };

    if (o->D % CHUNK || next)
        b->have.x = NULL;
    cuda_attention(b, &a, o);
    if (next) {
        f.g = a.y16;
        cuda_launch(b, KERN_gated, o->T, 1, 1, 512, (void *[]){ &f });
        have_f8(b, o->y, o->T, next->out[0].w);
    }
}

/* ---- one op ---- */

static void small(struct cuda *b, size_t i)
{
    struct op *o = &b->op[i];
    int d = (int)o->D, h = (int)o->H, hd = (int)o->hd, inter = o->interleaved;
    float *y = o->y;
    struct copy16 copy;

    if (b->ctx.half && cuda_train_op(b, o))
        return;
    switch (o->kind) {
    case OP_AFFINE:
        cuda_affine(b, o);
        break;
    case OP_ATTN_REL:
        cuda_attn_rel(b, o);
        break;
    case OP_GELU:
        cuda_launch(b, KERN_gelu, over(o->D, THREADS), o->T, 1, THREADS, (void *[]){ &y, &d });
        break;
    case OP_LAYERNORM:
        cuda_launch(b, KERN_layernorm, o->T, 1, 1, THREADS,
                    (void *[]){ &y, &o->x, &o->u, &o->bias, &d, &o->by });
        break;
    case OP_EMBED:
        cuda_launch(b, KERN_embed, o->T, 1, 1, 128,
                    (void *[]){ &y, (void *)(uintptr_t)cuda_placed(o->out[0].w), &o->ids });
        break;
    case OP_GATHER:
        cuda_launch(b, KERN_gather, over(o->D, THREADS), o->T, 1, THREADS,
                    (void *[]){ &y, &o->x, &o->ids, &d });
        break;
    case OP_SCALE:
        cuda_launch(b, KERN_scale, over(o->D, THREADS), 1, 1, THREADS,
                    (void *[]){ &y, &o->D, &o->by });
        break;
    case OP_RMSNORM:
        copy = copy_for(b, i, &y, o->T, o->D, NULL);
        if (o->D % 4 == 0 && o->D <= ROWS_MOST && copy.kp <= ROWS_MOST) {
            struct act_args a = { .y = y,
                                  .y16 = (uint16_t *)(uintptr_t)copy.p,
                                  .x = o->x,
                                  .cols = d,
                                  .kp = copy.kp,
                                  .mode16 = copy.mode,
                                  .T = (int)o->T };

            norm_rows(b, &a, o->u, o->by);
            return;
        }
        cuda_launch(b, KERN_rmsnorm, o->T, 1, 1, o->D > 1024 ? 1024 : THREADS,
                    (void *[]){ &y, &o->x, &o->u, &d, &o->by, &copy });
        return;
    case OP_SWIGLU:
        copy = copy_for(b, i, &y, o->T, o->D, NULL);
        cuda_launch(b, KERN_swiglu, over(over(o->D, CHUNK) * CHUNK, THREADS), o->T, 1, THREADS,
                    (void *[]){ &y, &o->x, &o->u, &d, &copy });
        return;
    case OP_ROPE:
        cuda_launch(b, KERN_rope, over(o->D / 2, 128), o->T, 1, 128,
                    (void *[]){ &y, &h, &hd, &o->ids, &o->u, &inter });
        break;
    case OP_KV_WRITE: {
        int enc = (int)o->kv->enc, K = (int)o->kv->kv_heads;

        hd = (int)o->kv->head_dim;
        cuda_launch(b, KERN_kv_write, over(o->D, 128), o->T, 1, 128,
                    (void *[]){ &o->x, &o->u, &o->kv->layer[o->layer].k, &o->kv->layer[o->layer].v,
                                &enc, &K, &hd, (void *)(uintptr_t)&o->at->slot,
                                (void *)(uintptr_t)&o->at->seq,
                                (void *)(uintptr_t)&o->at->block_table });
        return;
    }
    default:
        BUG("op %d", (int)o->kind);
    }
    b->have.x = NULL;
}

void cuda_run(struct cuda *b, bool ending)
{
    size_t i = 0;

    b->ending = ending;
    while (i < b->n_op) {
        const struct op *o = &b->op[i];
        size_t n;

        away_enter(b, o);
        b->q16 = o->kind == OP_ATTN ? b->q16 : NULL;
        b->have8.x = i && b->have8.x && o->kind == OP_LINEAR ? b->have8.x : NULL;
        if (gated(b, i) || gated_many(b, i) || normed(b, i)) {
            i += 2;
        } else if (norm_f8(b, i)) {
            i++;
        } else if ((n = rotated_many(b, i)) > 0 || (n = rotated(b, i)) > 0) {
            i += n;
        } else if (o->kind == OP_LINEAR) {
            for (size_t k = side_by_side(b, o, (void *[DEV_OUTS]){ 0 }); k < o->n;)
                k += some(b, o, k);
            for (size_t k = 0; k < o->n; k++)
                if (b->have.x == o->out[k].y)
                    b->have.x = NULL;
            i++;
        } else {
            if (o->kind == OP_ATTN)
                attention(b, i);
            else
                small(b, i);
            i++;
        }
        away_leave(b, o);
    }
    program_flush(b);
    b->n_op = 0;
}
