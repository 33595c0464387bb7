/* product.c - inputs of products in 16 or 8 bits, and products by the way that route.c says. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/run_int.h"
#include "backend/cuda/wide_args.h"

enum { THREADS = 256 };

struct gpu_room *input_next16(struct cuda *b)
{
    return &b->x16[1 - b->cur];
}

void input_have(struct cuda *b, const float *x, size_t T, int kp, int mode, bool scaled)
{
    b->cur = 1 - b->cur;
    b->have.x = x;
    b->have.T = T;
    b->have.kp = kp;
    b->have.mode = mode;
    b->have.image = 0;
    b->have.raw = NULL;
    b->have.order = NULL;
    b->have.scaled = scaled;
}

bool input_room_made(struct cuda *b, const struct inputs *in, size_t T, size_t D)
{
    const size_t rows = in->image ? (size_t)abs(in->image) : T; /* an image may have more */

    return cuda_room(b, input_next16(b),
                     rows * D * (in->mode == PREP_F32 ? sizeof(float) : sizeof(uint16_t)));
}

void input_make(struct cuda *b, const struct inputs *in, size_t D, struct stream_args *a)
{
    const CUdeviceptr p = input_next16(b)->p;

    a->mode16 = in->mode;
    a->kp16 = (int)D;
    a->place = in->place;
    if (in->mode == PREP_F32)
        a->y32 = (float *)(uintptr_t)p;
    else
        a->y16 = (uint16_t *)(uintptr_t)p;
}

void input_have_made(struct cuda *b, const struct inputs *in, const float *y, size_t T, size_t D,
                     bool scaled)
{
    input_have(b, y, T, (int)D, in->mode, scaled);
    b->have.image = in->image;
    b->have.order = in->order;
    if (in->mode == PREP_F32)
        b->have.raw = (const float *)(uintptr_t)b->x16[b->cur].p;
}

struct copy16 input_copy_for(struct cuda *b, size_t i, float **y, size_t T, size_t D,
                             const int32_t **place)
{
    const struct op *o = op_consumer(b, i, *y, T, D);
    struct inputs in;

    b->have.x = NULL;
    if (!o || !inputs_one(b, o, &in) || !(place ? inputs_take16(b, o, &in) : inputs_plain(&in)) ||
        !input_room_made(b, &in, T, in.kp))
        return (struct copy16){ 0 };
    input_have(b, *y, T, (int)in.kp, in.mode, false);
    b->have.image = in.image;
    b->have.order = in.order;
    if (place)
        *place = in.place;
    if (op_dead(b, i + 2, *y, T * D))
        *y = NULL;
    return (struct copy16){ b->x16[b->cur].p, in.mode, (int)in.kp, in.image };
}

/* ---- inputs in 16 or 8 bits ---- */

struct act_args input_act(const struct inputs *in, const struct weight *w, const float *x, size_t T)
{
    return (struct act_args){ .x = x,
                              .T = (int)T,
                              .cols = (int)w->cols,
                              .kp = (int)in->kp,
                              .mode16 = in->mode,
                              .image = in->image,
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
    struct act_args a = input_act(in, w, x, T);

    a.y = (float *)(uintptr_t)b->rounded.p;
    launch_act(b, &a);
    return a.y;
}

bool input_prepare(struct cuda *b, const struct inputs *in, const struct weight *w, const float *x,
                   size_t T)
{
    int cols = (int)w->cols, kp = (int)in->kp, mode = in->mode, image = in->image;
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
    if (inputs_only16(in) && b->have.x == x && b->have.T == T && b->have.kp == kp &&
        b->have.mode == mode && b->have.image == image &&
        inputs_same_order(b->have.order, in->order, w->cols))
        return !b->failed;
    if (!input_room_made(b, in, T, in->kp))
        return false;
    const CUdeviceptr to = input_next16(b)->p;

    input_have(b, inputs_plain(in) ? x : NULL, T, kp, mode, false);
    b->have.image = image;
    if ((in->act || in->bf16) && !order) {
        struct act_args a = input_act(in, w, x, T);

        a.y16 = (uint16_t *)(uintptr_t)to;
        launch_act(b, &a);
        return !b->failed;
    }
    const float *from = changed(b, in, w, x, T);

    cuda_launch(b, KERN_prep, in->kp / 128, T, 1, 128,
                (void *[]){ (void *)(uintptr_t)&to, &from, &cols, &kp, &order, &mode, &image });
    return !b->failed;
}

/* ---- products of few rows ---- */

bool product_same_stream(const struct dev_weight *a, const struct dev_weight *w)
{
    return a->kind == w->kind && a->kp == w->kp && a->rec == w->rec && a->gs == w->gs &&
           a->pair == w->pair && a->zeros == w->zeros && a->zero_const == w->zero_const &&
           (a->kind != DEV_N4 || memcmp(a->table, w->table, sizeof(a->table)) == 0);
}

struct stream_args product_stream(struct cuda *b, const struct linear_out *out, size_t n, size_t T,
                                  bool add)
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
        const struct act_args f = input_act(&in, out[0].w, b->have.raw, T);

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
        struct stream_args a = product_stream(b, out, n, rows, add);

        a.x += t * kp;
        for (size_t i = 0; i < n; i++)
            a.out[i].y += t * out[i].w->rows;
        program_stream(b, &a);
    }
}

/* ---- products of some rows ---- */

/* Room for the sums of parts of the columns, and who is done. */
static bool part_room(struct cuda *b, struct wide_args *a, size_t groups)
{
    const size_t sums = (size_t)a->s.tiles * DEV_TILE * WIDE_ROWS;

    if (a->splits == 1)
        return true;
    if (!cuda_room(b, &b->part, (size_t)a->splits * sums * sizeof(float)) ||
        !cuda_room(b, &b->done, groups * sizeof(int)))
        return false;
    a->part = (float *)(uintptr_t)b->part.p;
    a->done = (int *)(uintptr_t)b->done.p;
    return true;
}

/* How wide_wgmma.cu cuts its work: tiles of a group, and so how many records of each a step has;
 * blocks of a team; teams. What takes least, by what steps and ends took on an H200. The weights'
 * shape and the device alone decide. */
static void cut(const struct cuda *b, const struct dev_weight *d, struct wg_records *r)
{
    enum { STEP = 520, END = 700, PARTS = 900, PART = 50 }; /* ns */
    const size_t records = (size_t)d->kp / record_cols(d);
    size_t best = SIZE_MAX;

    for (size_t ways = 1; ways <= 2; ways++) {
        const size_t each = WG_WARPS / ways, groups = over((size_t)r->tiles, each);
        const size_t steps = records / ways;
        const size_t most = records % ways ? 0 : steps < WG_BLOCKS ? steps : WG_BLOCKS;

        for (size_t team = 1; team <= most && team <= b->sms; team++) {
            const size_t at_once = b->sms / team, teams = groups < at_once ? groups : at_once;
            const size_t end = END + (team > 1 ? PARTS + team * PART : 0);
            const size_t cost = over(groups, teams) * (over(steps, team) * STEP + end);

            if (cost >= best)
                continue;
            best = cost;
            r->each = (int)each;
            r->step = (int)ways * d->rec;
            r->bytes = (int)records * d->rec;
            r->team = (int)team;
            r->teams = (int)teams;
            r->per = (int)(steps / team);
            r->more = (int)(steps % team);
        }
    }
}

static enum kernel wgmma_kernel(const struct dev_weight *d, size_t T)
{
    const enum kernel k = d->kind == DEV_U6   ? KERN_wgwide_u6_16
                          : d->kind == DEV_N4 ? KERN_wgwide_n4_16
                          : d->kind == DEV_U8 ? (d->pair    ? KERN_wgwide_u8_pair_16
                                                 : d->zeros ? KERN_wgwide_u8_zeros_16
                                                            : KERN_wgwide_u8_16)
                          : d->pair           ? KERN_wgwide_u4_pair_16
                          : d->zeros          ? KERN_wgwide_u4_zeros_16
                                              : KERN_wgwide_u4_16;

    return (enum kernel)((int)k + (T > 16) + (T > 32));
}

/* Outputs of o from k on that one kernel makes. */
static size_t product_n(const struct cuda *b, const struct op *o, size_t k)
{
    const struct linear_out *out = &o->out[k];
    const enum route route = route_of(b, out->w, o->T);
    size_t n = 1;

    while (k + n < o->n && route_of(b, out[n].w, o->T) == route &&
           product_same_stream(cuda_placed(out[0].w), cuda_placed(out[n].w)) &&
           inputs_same(b, out[0].w, out[n].w, o->T))
        n++;
    return n;
}

/* The first product from o on, if wide_wgmma.cu computes it. */
static bool next_wide(const struct cuda *b, const struct op *o, struct wg_records *r)
{
    const struct op *const end = b->op + b->n_op;

    while (o < end && o->kind != OP_LINEAR)
        o++;
    if (o >= end || b->away.live || o->n == 0 || o->T == 0)
        return false;
    for (size_t i = 0; i < o->n; i++)
        if (!o->out[i].w->placed)
            return false;
    if (route_of(b, o->out[0].w, o->T) != ROUTE_WIDE)
        return false;
    r->n = (int)product_n(b, o, 0);
    r->gated = r->n == 2 && o + 1 < end && o[1].kind == OP_SWIGLU && o[1].x == o->out[0].y &&
               o[1].u == o->out[1].y;
    for (int i = 0; i < r->n; i++) {
        r->q[i] = cuda_placed(o->out[i].w)->q;
        r->tile0[i] = r->tiles;
        r->tiles += (int)over(o->out[i].w->rows, DEV_TILE);
    }
    cut(b, cuda_placed(o->out[0].w), r);
    return true;
}

/* By wide_wgmma.cu; after: the ops that follow. */
static void wide_wgmma(struct cuda *b, const struct dev_weight *d, const struct stream_args *s,
                       int image, const struct op *after)
{
    enum { STAGES = 8, AHEAD = 4 }; /* AHEAD: records of a tile */
    const size_t T = (size_t)s->T, rec = (size_t)d->rec;
    const int lines = (int)wide_lines(T);
    const enum kernel k = wgmma_kernel(d, T);
    struct wg_args a = { .s = *s, .image = image };
    struct wg_records *const r = &a.now;

    r->n = s->n, r->gated = s->swiglu, r->tiles = s->tiles;
    for (int i = 0; i < s->n; i++) {
        r->q[i] = s->out[i].w.q;
        r->tile0[i] = s->out[i].tile0;
    }
    cut(b, d, r);
    a.ways = (int)((size_t)r->step / rec);
    const size_t groups = over((size_t)r->tiles, (size_t)r->each), sums = (size_t)WG_SUMS(lines);
    const size_t stage = (size_t)WG_STAGE(d->rec, (int)record_cols(d), lines, a.ways);

    a.apart = groups > (size_t)r->teams;
    const size_t besides = (size_t)WG_BESIDES(d->kind) + (a.apart ? sums : 0);
    const size_t fit = (b->dynamic[k] - besides) / (stage + WG_BARS((size_t)1));

    a.stages = (int)(fit < STAGES ? fit : STAGES);
    a.stage = (int)stage;
    a.table = a.stages * a.stage;
    a.sums = a.apart ? a.table + WG_BESIDES(d->kind) - 1024 : 0;
    a.bars = (int)(besides - 1024) + a.table;
    BUG_ON(!a.apart && (size_t)a.table < sums);
    if (next_wide(b, after, &a.next))
        a.ahead = (int)over(AHEAD * rec, (size_t)a.next.step);
    if (r->team > 1 && !cuda_room(b, &b->met, groups * (size_t)r->team * sums / (size_t)a.ways))
        return;
    a.part = (float *)(uintptr_t)b->met.p;
    cuda_launch_early(b, k, (size_t)r->team, (size_t)r->teams, WG_THREADS,
                      besides + (stage + WG_BARS((size_t)1)) * (size_t)a.stages, (void *[]){ &a });
}

/* By wide.cu. */
static void wide_mma(struct cuda *b, const struct dev_weight *d, struct wide_args *a)
{
    const size_t T = (size_t)a->s.T, records = (size_t)d->kp / record_cols(d);
    const size_t groups = over((size_t)a->s.tiles, WIDE_WARPS);
    size_t splits = 2 * b->sms / groups; /* two blocks fit on a multiprocessor */

    splits = splits > records / 4 ? records / 4 : splits; /* what is begun has to be filled first */
    splits = splits ? splits : 1;
    a->per = (int)over(records, splits);
    a->splits = (int)over(records, (size_t)a->per);
    if (part_room(b, a, groups))
        cuda_launch_with(b, wide_kernel(d, T), groups, (size_t)a->splits, 1, WIDE_WARPS * 32,
                         wide_shared(d, T), (void *[]){ a });
}

/* n outputs of one layout from x16, at most WIDE_ROWS rows. How columns are cut depends on the
 * weights and the device alone. */
static void wide(struct cuda *b, const struct linear_out *out, size_t n, size_t T, bool add,
                 const struct op *after)
{
    const struct dev_weight *d = cuda_placed(out[0].w);
    struct wide_args a = { .s = product_stream(b, out, n, T, add) };

    if (b->wgmma)
        wide_wgmma(b, d, &a.s, 0, after);
    else
        wide_mma(b, d, &a);
}

void product_gated_wide(struct cuda *b, const struct stream_args *a, int image,
                        const struct op *after)
{
    wide_wgmma(b, &a->out[0].w, a, image, after);
}

/* ---- products of many rows: cuBLASLt ---- */

bool product_takes_f8(const struct cuda *b, const struct weight *w, const struct inputs *in)
{
    const enum act act = w->p.act;

    return cuda_placed(w)->kind == DEV_F8 && cuda_placed(w)->n_groups == 1 && in->act &&
           (act == ACT_F8_STATIC || (act == ACT_F8 && w->p.act_group >= w->cols)) && blas_has_f8(b);
}

bool input_room_f8(struct cuda *b, struct act_args *a)
{
    const size_t T = (size_t)a->T, kp = (size_t)a->kp;

    if (!cuda_room(b, &b->x8, T * (kp + sizeof(float))))
        return false;
    a->y8 = (uint8_t *)(uintptr_t)b->x8.p;
    a->scales = (float *)(uintptr_t)(b->x8.p + T * kp);
    return true;
}

void input_have_f8(struct cuda *b, const float *x, size_t T, const struct weight *w)
{
    b->have8.x = x, b->have8.T = T, b->have8.w = w;
}

void input_norm_rows(struct cuda *b, struct act_args *a, const float *norm, float eps)
{
    const bool half = a->cols <= ROWS_MOST / 2 && a->kp <= ROWS_MOST / 2;

    cuda_launch(b, half ? KERN_norm_rows_half : KERN_norm_rows, (size_t)a->T, 1, 1, NORM_THREADS,
                (void *[]){ a, &norm, &eps });
}

void input_gated_rows(struct cuda *b, struct gated_args *a, size_t T)
{
    if (a->kp <= GATED_MOST / 8)
        cuda_launch(b, KERN_gated_4k, T, 1, 1, 256, (void *[]){ a });
    else
        cuda_launch(b, a->kp <= GATED_MOST / 2 ? KERN_gated_16k : KERN_gated_32k, T, 1, 1, 512,
                    (void *[]){ a });
}

bool input_whole_rows(const struct act_args *a)
{
    return a->cols % 4 == 0 && a->cols <= ROWS_MOST && a->kp <= ROWS_MOST;
}

struct blas_product product_f8(const struct cuda *b, const struct linear_out *out, size_t T,
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

bool product_all_f8(struct cuda *b, const struct op *o)
{
    for (size_t i = 0; i < o->n; i++) {
        const struct inputs in = inputs_of(b, o->out[i].w, o->T);
        const struct blas_product p = product_f8(b, &o->out[i], o->T, o->add, NULL);

        if (!product_takes_f8(b, o->out[i].w, &in) || !weight_same_act(o->out[0].w, o->out[i].w) ||
            !blas_can(b, &p))
            return false;
    }
    return true;
}

/* Whether w's rows follow a's on the device, and it multiplies the same inputs. */
static bool follows(const struct cuda *b, const struct weight *a, const struct weight *w, size_t T)
{
    const struct dev_weight *p = cuda_placed(a), *q = cuda_placed(w);
    const size_t bytes = a->rows * (size_t)p->kp * (p->kind == DEV_F8 ? 1 : 2);

    return q->kind == p->kind && (p->kind == DEV_F8 || p->kind == DEV_B16) && q->kp == p->kp &&
           p->n_groups <= 1 && q->n_groups <= 1 && q->q == p->q + bytes &&
           (p->kind != DEV_F8 || q->scale == p->scale + a->rows * sizeof(float)) &&
           inputs_same(b, a, w, T);
}

bool product_joined(struct cuda *b, const struct op *o, void *half, struct blas_product *p)
{
    const struct weight *w = o->out[0].w;
    const struct inputs in = inputs_of(b, w, o->T);
    const bool f8 = product_takes_f8(b, w, &in);
    size_t rows = w->rows;

    for (size_t i = 1; i < o->n; i++) {
        if (!follows(b, o->out[i - 1].w, o->out[i].w, o->T))
            return false;
        rows += o->out[i].w->rows;
    }
    if (f8 ? !input_prepare_f8(b, &in, w, o->x, o->T)
           : cuda_placed(w)->kind != DEV_B16 || !input_prepare(b, &in, w, o->x, o->T))
        return false;
    *p = f8 ? product_f8(b, &o->out[0], o->T, false, half)
            : product16(b, &o->out[0], o->T, false, half);
    p->rows = p->ldy = rows;
    return true;
}

bool input_prepare_f8(struct cuda *b, const struct inputs *in, const struct weight *w,
                      const float *x, size_t T)
{
    struct act_args a = input_act(in, w, x, T);

    if (!product_takes_f8(b, w, in) || !input_room_f8(b, &a))
        return false;
    if (b->have8.x != x || b->have8.T != T || !weight_same_act(b->have8.w, w)) {
        if (input_whole_rows(&a))
            input_norm_rows(b, &a, NULL, 0);
        else
            launch_act(b, &a);
        input_have_f8(b, x, T, w);
    }
    return !b->failed;
}

static bool library_f8(struct cuda *b, const struct linear_out *out, const float *x, size_t T,
                       bool add, const struct inputs *in, void *half)
{
    if (!input_prepare_f8(b, in, out->w, x, T))
        return false;
    const struct blas_product p = product_f8(b, out, T, add, half);

    return blas_run(b, &p);
}

struct blas_product product16(const struct cuda *b, const struct linear_out *out, size_t T,
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

bool product_library(struct cuda *b, const struct linear_out *out, const float *x, size_t T,
                     bool add, const struct inputs *in, void *half)
{
    const struct dev_weight *w = cuda_placed(out->w);
    const size_t kp = (size_t)w->kp, rows = out->w->rows;
    size_t slice = ((size_t)128 << 20) / (kp * 2);

    if (library_f8(b, out, x, T, add, in, half))
        return true;
    if (!input_prepare(b, in, out->w, x, T))
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

size_t product_some(struct cuda *b, const struct op *o, size_t i)
{
    const struct linear_out *out = &o->out[i];
    const struct inputs in = inputs_of(b, out->w, o->T);
    enum route route = route_of(b, out->w, o->T);
    size_t n = 1;

    if (o->T > 65535 * 4 || out->w->rows == 0 || o->T == 0)
        return 1;
    if (route == ROUTE_LIBRARY) {
        if (product_library(b, out, o->x, o->T, o->add, &in, NULL))
            return 1;
        route = cuda_placed(out->w)->kind == DEV_RAW ? ROUTE_PLAIN : ROUTE_STREAM;
    }
    if (route == ROUTE_PLAIN) {
        cuda_product(b, out, changed(b, &in, out->w, o->x, o->T), o->T, o->add);
        return 1;
    }
    if (route == route_of(b, out->w, o->T))
        n = product_n(b, o, i);
    if (!input_prepare(b, &in, out->w, o->x, o->T))
        return n;
    if (route == ROUTE_WIDE)
        wide(b, out, n, o->T, o->add, o + 1);
    else
        stream(b, out, n, o->T, o->add);
    return n;
}
