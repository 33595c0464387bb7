/* ops.c - the op table: which kernel, on which grid. */
#include <math.h>
#include <string.h>

#include "backend/cuda/cuda_int.h"

enum { THREADS = 256, CHUNK = DEV_CHUNK, GROUP_OUTS = DEV_OUTS };

struct copy16 { /* as in small.cu */
    CUdeviceptr p;
    int mode, kp;
};

static struct cuda *of(struct ctx *c)
{
    return c->backend;
}

static size_t over(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static struct dev_weight *placed(const struct weight *w)
{
    if (!w->placed)
        BUG("%s is not on the device", w->name);
    return &((struct placed *)w->placed)->w;
}

/* Room for a copy of y [T, cols] in 16 bits, which the product that follows is likely to read. */
static struct copy16 copy_for(struct cuda *b, const float *y, size_t T, size_t cols)
{
    const size_t kp = over(cols, CHUNK) * CHUNK;

    b->have.x = NULL;
    if (b->hint < 0 || !cuda_room(b, &b->x16, T * kp * sizeof(uint16_t)))
        return (struct copy16){ 0 };
    b->have.x = y;
    b->have.T = T;
    b->have.kp = (int)kp;
    b->have.mode = b->hint;
    b->have.sums = false;
    return (struct copy16){ b->x16.p, b->hint, (int)kp };
}

/* ---- one row after the other ---- */

static void embed_cuda(struct ctx *c, float *y, const struct weight *w, const int32_t *ids,
                       size_t T)
{
    struct cuda *b = of(c);

    b->have.x = NULL;
    cuda_launch(b, KERN_embed, T, 1, 1, 128, (void *[]){ &y, placed(w), &ids });
}

static void gather_cuda(struct ctx *c, float *y, const float *x, const int32_t *rows, size_t n,
                        size_t D)
{
    struct cuda *b = of(c);
    int d = (int)D;

    b->have.x = NULL;
    cuda_launch(b, KERN_gather, n, 1, 1, THREADS, (void *[]){ &y, &x, &rows, &d });
}

static void scale_cuda(struct ctx *c, float *x, size_t n, float by)
{
    struct cuda *b = of(c);

    b->have.x = NULL;
    cuda_launch(b, KERN_scale, over(n, THREADS), 1, 1, THREADS, (void *[]){ &x, &n, &by });
}

static void rmsnorm_cuda(struct ctx *c, float *y, const float *x, const float *w, size_t T,
                         size_t D, float eps)
{
    struct cuda *b = of(c);
    struct copy16 copy = copy_for(b, y, T, D);
    int d = (int)D;

    cuda_launch(b, KERN_rmsnorm, T, 1, 1, D > 1024 ? 1024 : THREADS,
                (void *[]){ &y, &x, &w, &d, &eps, &copy });
}

static void swiglu_cuda(struct ctx *c, float *h, const float *g, const float *u, size_t T, size_t F)
{
    struct cuda *b = of(c);
    struct copy16 copy = copy_for(b, h, T, F);
    int f = (int)F;

    cuda_launch(b, KERN_swiglu, over(over(F, CHUNK) * CHUNK, THREADS), T, 1, THREADS,
                (void *[]){ &h, &g, &u, &f, &copy });
}

static void rope_cuda(struct ctx *c, float *x, size_t heads, size_t hd, const int32_t *pos,
                      const float *inv_freq, bool interleaved, size_t T)
{
    struct cuda *b = of(c);
    int h = (int)heads, d = (int)hd, inter = interleaved;

    b->have.x = NULL;
    cuda_launch(b, KERN_rope, over(heads * (hd / 2), 128), T, 1, 128,
                (void *[]){ &x, &h, &d, &pos, &inv_freq, &inter });
}

/* ---- the cache ---- */

static void kv_write_cuda(struct ctx *c, const float *k, const float *v, const struct kv_cache *kv,
                          size_t layer, const struct batch *at)
{
    struct cuda *b = of(c);
    int enc = (int)kv->enc, K = (int)kv->kv_heads, hd = (int)kv->head_dim;
    const int32_t *slot = at->slot, *seq = at->seq, *const *table = at->block_table;
    void *kc = kv->layer[layer].k, *vc = kv->layer[layer].v;

    cuda_launch(b, KERN_kv_write, over(kv->kv_heads * kv->head_dim, 128), at->T, 1, 128,
                (void *[]){ &k, &v, &kc, &vc, &enc, &K, &hd, &slot, &seq, &table });
}

/* Spans of slots: enough blocks to fill the device about four times, none below 128 slots. */
static void choose_splits(const struct cuda *b, size_t blocks, size_t *splits, size_t *span)
{
    size_t n = over(4 * (size_t)b->sms, blocks);
    const size_t most = b->slots / 128;

    n = n > most ? most : n ? n : 1;
    *span = over(over(b->slots, n), KV_BLOCK) * KV_BLOCK;
    *splits = over(b->slots, *span);
}

static void attn_cuda(struct ctx *c, float *y, const float *q, size_t H, const struct kv_cache *kv,
                      size_t layer, const struct batch *at)
{
    static const enum kernel kern[3][3] = {
        { KERN_attn_f32_1, KERN_attn_f32_4, KERN_attn_f32_8 },
        { KERN_attn_f16_1, KERN_attn_f16_4, KERN_attn_f16_8 },
        { KERN_attn_bf16_1, KERN_attn_bf16_4, KERN_attn_bf16_8 },
    };
    static const size_t heads[] = { 1, 4, 8 };
    struct cuda *b = of(c);
    const size_t hd = kv->head_dim, K = kv->kv_heads, group = H / K;
    const size_t size = group == 1 ? 0 : group <= 4 ? 1 : 2, parts = over(group, heads[size]);
    const int enc = kv->enc == ENC_F32 ? 0 : kv->enc == ENC_F16 ? 1 : 2;
    size_t splits, span;

    if (hd % 8 || hd > 256) {
        if (!b->failed)
            err_set(&b->fault, ERR_HARDWARE,
                    "heads of %zu values: the GPU's attention takes multiples of 8 up to 256; use "
                    "--device cpu",
                    hd);
        b->failed = true;
        return;
    }
    choose_splits(b, at->T * K * parts, &splits, &span);
    if (splits > 1 && !cuda_room(b, &b->part, at->T * H * splits * (hd + 2) * sizeof(float)))
        return;
    const struct copy16 copy = copy_for(b, y, at->T, H * hd);
    const bool pad = (size_t)copy.kp != H * hd; /* nobody would write the zeros */
    struct attn_args a = { .y = y,
                           .q = q,
                           .part = splits > 1 ? (float *)(uintptr_t)b->part.p : NULL,
                           .k = kv->layer[layer].k,
                           .v = kv->layer[layer].v,
                           .slot = at->slot,
                           .seq = at->seq,
                           .table = at->block_table,
                           .H = (int)H,
                           .K = (int)K,
                           .hd = (int)hd,
                           .splits = (int)splits,
                           .span = (int)span,
                           .scale = (float)(1 / sqrt((double)hd) * M_LOG2E),
                           .y16 = pad ? NULL : (uint16_t *)(uintptr_t)copy.p,
                           .mode16 = copy.mode,
                           .kp16 = copy.kp };

    if (pad)
        b->have.x = NULL;
    cuda_launch(b, kern[enc][size], splits, K * parts, at->T, 128, (void *[]){ &a });
    if (splits > 1)
        cuda_launch(b, KERN_attn_merge, H, at->T, 1, hd < 128 ? 64 : 128, (void *[]){ &a });
}

/* ---- products ---- */

static bool fine(const struct dev_weight *w)
{
    return w->group % CHUNK != 0;
}

/* What a product wants of its inputs. */
struct inputs {
    bool act, bf16; /* float32 inputs changed: by the weight's rule, rounded to bf16 */
    int mode;       /* 16 bits: enum prep_mode */
    const int32_t *order;
    bool sums;
};

static struct inputs inputs_of(const struct ctx *c, const struct weight *w)
{
    const struct dev_weight *d = placed(w);

    return (struct inputs){ .act = c->compute == COMPUTE_AUTO && w->p.act != ACT_KEEP,
                            .bf16 = c->compute == COMPUTE_BF16 && d->kind != DEV_B16,
                            .mode = d->kind == DEV_B16 ? PREP_BF16 : PREP_F16,
                            .order = d->order,
                            .sums = d->pair };
}

/* x as the weight's rule or --dtype bf16 changes it, in float32. */
static const float *changed(struct cuda *b, const struct inputs *in, const struct weight *w,
                            const float *x, size_t T)
{
    const size_t cols = w->cols, group = in->act && w->p.act == ACT_F8 ? w->p.act_group : cols;

    if (!in->act && !in->bf16)
        return x;
    if (!cuda_room(b, &b->rounded, T * cols * sizeof(float)))
        return x;
    struct act_args a = { .y = (float *)(uintptr_t)b->rounded.p,
                          .x = x,
                          .T = (int)T,
                          .cols = (int)cols,
                          .act = in->act ? (int)w->p.act : ACT_KEEP,
                          .group = (int)group,
                          .bf16 = in->bf16,
                          .bound = w->p.act_bound,
                          .scale = w->p.act_scale };

    cuda_launch(b, KERN_act, over(cols, group), T, 1, THREADS, (void *[]){ &a });
    return a.y;
}

/* x in 16 bits, to b->x16; nothing to do where the op before left it there. */
static bool prepare(struct cuda *b, const struct inputs *in, const struct weight *w, const float *x,
                    size_t T, int mode)
{
    const bool plain = !in->act && !in->bf16 && !in->order;
    int kp = placed(w)->kp, cols = (int)w->cols;

    b->hint = plain && !in->sums ? mode : -1;
    if (plain && b->have.x == x && b->have.T == T && b->have.kp == kp && b->have.mode == mode &&
        (b->have.sums || !in->sums))
        return !b->failed;
    if (!cuda_room(b, &b->x16, T * (size_t)kp * sizeof(uint16_t)) ||
        (in->sums && !cuda_room(b, &b->xsum, T * (size_t)kp / 32 * sizeof(float))))
        return false;
    const float *from = changed(b, in, w, x, T);
    const CUdeviceptr none = 0;

    cuda_launch(b, KERN_prep, (size_t)kp / 128, T, 1, 128,
                (void *[]){ &b->x16.p, in->sums ? &b->xsum.p : (void *)(uintptr_t)&none, &from,
                            &cols, &kp, (void *)(uintptr_t)&in->order, &mode });
    b->have.x = plain ? x : NULL;
    b->have.T = T;
    b->have.kp = kp;
    b->have.mode = mode;
    b->have.sums = in->sums;
    return !b->failed;
}

static bool same_inputs(const struct ctx *c, const struct weight *a, const struct weight *w)
{
    const struct inputs p = inputs_of(c, a), q = inputs_of(c, w);

    return p.act == q.act && p.mode == q.mode && p.order == q.order && p.sums == q.sums &&
           (!p.act || weight_same_act(a, w));
}

static enum kernel tile_kernel(const struct dev_weight *w, size_t T)
{
    const enum kernel first = w->kind == DEV_B16   ? KERN_tile_b16_1
                              : w->kind == DEV_H16 ? KERN_tile_h16_1
                              : w->kind == DEV_F8  ? KERN_tile_f8_1
                              : w->kind == DEV_U8 ? (fine(w) ? KERN_tile_u8_fine_1 : KERN_tile_u8_1)
                              : fine(w)           ? KERN_tile_u4_fine_1
                                                  : KERN_tile_u4_1;

    return (enum kernel)((int)first + (T <= 8 ? 0 : T <= 16 ? 1 : 2));
}

/* n outputs of one layout from x16; more rows than a block takes go in turns. */
static void tiles(struct cuda *b, const struct linear_out *out, size_t n, size_t T, bool add)
{
    const struct dev_weight *w = placed(out[0].w);

    for (size_t t = 0; t < T; t += DEV_MAX_ROWS) {
        const size_t rows = T - t < DEV_MAX_ROWS ? T - t : DEV_MAX_ROWS, kp = (size_t)w->kp;
        struct tile_args a = { .n = (int)n,
                               .T = (int)rows,
                               .add = add,
                               .x = (const uint16_t *)(uintptr_t)b->x16.p + t * kp,
                               .xsum = (const float *)(uintptr_t)b->xsum.p + t * kp / 32 };
        size_t tile = 0;

        for (size_t i = 0; i < n; i++) {
            a.out[i] =
                (struct dev_out){ *placed(out[i].w), out[i].y + t * out[i].w->rows, (int)tile };
            tile += over(out[i].w->rows, DEV_TILE);
        }
        cuda_launch(b, tile_kernel(w, rows), tile, 1, 1, THREADS, (void *[]){ &a });
    }
}

/* Through cuBLASLt in bf16; what is not bf16 is widened first, a slice of rows at a time. */
static bool by_library(struct cuda *b, const struct linear_out *out, const float *x, size_t T,
                       bool add, const struct inputs *in)
{
    const struct dev_weight *w = placed(out->w);
    const size_t kp = (size_t)w->kp, rows = out->w->rows;
    const void *x16 = (const void *)(uintptr_t)b->x16.p;
    size_t slice = ((size_t)128 << 20) / (kp * 2);
    struct dev_weight copy = *w;

    if (!b->blas || !prepare(b, in, out->w, x, T, PREP_BF16))
        return false;
    x16 = (const void *)(uintptr_t)b->x16.p;
    if (w->kind == DEV_B16)
        return blas_product(b, out->y, rows, (CUdeviceptr)(uintptr_t)w->q, rows, x16, T, kp, add);
    slice = slice > 65535 ? 65535 : slice < 128 ? 128 : slice / 128 * 128;
    slice = slice > rows ? rows : slice;
    if (!cuda_room(b, &b->dequant, slice * kp * 2))
        return false;
    for (size_t r = 0; r < rows; r += slice) {
        const size_t n = rows - r < slice ? rows - r : slice;
        int first = (int)r;

        cuda_launch(b, KERN_dequant, over(kp / 32, 128), n, 1, 128,
                    (void *[]){ &b->dequant.p, &copy, &first });
        if (!blas_product(b, out->y + r, rows, b->dequant.p, n, x16, T, kp, add)) {
            if (r) /* a part is there: nothing can be begun again */
                cuda_ok(b, CUDA_ERROR_NOT_SUPPORTED, "cuBLASLt product");
            return r > 0;
        }
    }
    return true;
}

static void product(struct cuda *b, const struct linear_out *out, const float *x, size_t T,
                    bool add, const struct inputs *in)
{
    const float *from = changed(b, in, out->w, x, T);
    const size_t rows = out->w->rows;
    int t = (int)T, plus = add;
    float *y = out->y;

    cuda_launch(b, KERN_product, over(rows, 8), over(T, 4), 1, THREADS,
                (void *[]){ &y, placed(out->w), &from, &t, &plus });
}

/* The first of n outputs, and as many of those after it as can go along; how many went. */
static size_t some(struct ctx *c, const struct linear_out *out, size_t n, const float *x, size_t T,
                   bool add)
{
    enum { LIBRARY = 8 }; /* rows from which widening all of a weight pays */
    struct cuda *b = of(c);
    const struct dev_weight *w = placed(out[0].w);
    const struct inputs in = inputs_of(c, out[0].w);
    size_t k = 1;

    if (T > 65535 * 4 || out[0].w->rows == 0 || T == 0)
        return 1;
    if (c->compute == COMPUTE_F32 || w->enc == DEV_ENC_F32) {
        product(b, out, x, T, add, &in);
    } else if (w->kind == DEV_RAW) {
        if (T < LIBRARY || !by_library(b, out, x, T, add, &in))
            product(b, out, x, T, add, &in);
    } else if (T <= DEV_MAX_ROWS || !by_library(b, out, x, T, add, &in)) {
        for (; k < n && k < GROUP_OUTS; k++) {
            const struct dev_weight *v = placed(out[k].w);

            if (v->kind != w->kind || v->kp != w->kp || fine(v) != fine(w) ||
                !same_inputs(c, out[0].w, out[k].w))
                break;
        }
        if (prepare(b, &in, out[0].w, x, T, in.mode))
            tiles(b, out, k, T, add);
    }
    return k;
}

static void linear_cuda(struct ctx *c, const struct linear_out *out, size_t n, const float *x,
                        size_t T)
{
    for (size_t i = 0; i < n;)
        i += some(c, out + i, n - i, x, T, false);
}

static void linear_add_cuda(struct ctx *c, float *y, const struct weight *w, const float *x,
                            size_t T)
{
    const struct linear_out out = { y, w };

    some(c, &out, 1, x, T, true);
    if (of(c)->have.x == y)
        of(c)->have.x = NULL;
}

const struct ops ops_cuda = {
    .attn = attn_cuda,
    .embed = embed_cuda,
    .gather = gather_cuda,
    .kv_write = kv_write_cuda,
    .linear = linear_cuda,
    .linear_add = linear_add_cuda,
    .rmsnorm = rmsnorm_cuda,
    .rope = rope_cuda,
    .scale = scale_cuda,
    .swiglu = swiglu_cuda,
};
