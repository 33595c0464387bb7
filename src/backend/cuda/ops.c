/* ops.c - the op table. An op is noted down and no more; run.c launches what was noted, many ops
 * later, when it can see what comes after each: what is only read in 16 bits is not written in 32,
 * and neighbours go into one kernel. */
#include "backend/cuda/cuda_int.h"

static struct cuda *of(struct ctx *c)
{
    return c->backend;
}

static struct op *note(struct ctx *c, enum op_kind kind, float *y, const float *x, size_t T,
                       size_t D)
{
    struct cuda *b = of(c);

    if (b->n_op == OPS)
        cuda_run(b, false);
    struct op *o = &b->op[b->n_op++];

    *o = (struct op){ .kind = kind, .y = y, .x = x, .T = T, .D = D };
    return o;
}

static void embed_cuda(struct ctx *c, float *y, const struct weight *w, const int32_t *ids,
                       size_t T)
{
    struct op *o = note(c, OP_EMBED, y, NULL, T, w->cols);

    o->out[0].w = w;
    o->ids = ids;
}

static void gather_cuda(struct ctx *c, float *y, const float *x, const int32_t *rows, size_t n,
                        size_t D)
{
    note(c, OP_GATHER, y, x, n, D)->ids = rows;
}

static void affine_cuda(struct ctx *c, float *y, const struct weight *w, const float *b,
                        const float *x, size_t T, bool add)
{
    struct op *o = note(c, OP_AFFINE, NULL, x, T, w->cols);

    o->n = 1;
    o->out[0] = (struct linear_out){ y, w };
    o->bias = b;
    o->add = add;
}

static void attn_rel_cuda(struct ctx *c, float *y, const struct rel_attn *a)
{
    note(c, OP_ATTN_REL, y, a->q, a->rows, a->H * a->hd)->rel = *a;
}

static void gelu_cuda(struct ctx *c, float *x, size_t T, size_t D)
{
    note(c, OP_GELU, x, x, T, D);
}

static void layernorm_cuda(struct ctx *c, float *y, const float *x, const float *w, const float *b,
                           size_t T, size_t D, float eps)
{
    struct op *o = note(c, OP_LAYERNORM, y, x, T, D);

    o->u = w;
    o->bias = b;
    o->by = eps;
}

static void scale_cuda(struct ctx *c, float *x, size_t n, float by)
{
    note(c, OP_SCALE, x, x, 1, n)->by = by;
}

static void rmsnorm_cuda(struct ctx *c, float *y, const float *x, const float *w, size_t T,
                         size_t D, float eps)
{
    struct op *o = note(c, OP_RMSNORM, y, x, T, D);

    o->u = w;
    o->by = eps;
}

static void swiglu_cuda(struct ctx *c, float *h, const float *g, const float *u, size_t T, size_t F)
{
    note(c, OP_SWIGLU, h, g, T, F)->u = u;
}

static void rope_cuda(struct ctx *c, float *x, size_t heads, size_t hd, const int32_t *pos,
                      const float *inv_freq, bool interleaved, size_t T)
{
    struct op *o = note(c, OP_ROPE, x, x, T, heads * hd);

    o->H = heads;
    o->hd = hd;
    o->ids = pos;
    o->u = inv_freq;
    o->interleaved = interleaved;
}

static void kv_write_cuda(struct ctx *c, const float *k, const float *v, const struct kv_cache *kv,
                          size_t layer, const struct batch *at)
{
    struct op *o = note(c, OP_KV_WRITE, NULL, k, at->T, kv->kv_heads * kv->head_dim);

    o->u = v;
    o->kv = kv;
    o->layer = layer;
    o->at = at;
}

static void attn_cuda(struct ctx *c, float *y, const float *q, size_t H, const struct kv_cache *kv,
                      size_t layer, const struct batch *at)
{
    struct op *o = note(c, OP_ATTN, y, q, at->T, H * kv->head_dim);

    o->H = H;
    o->kv = kv;
    o->layer = layer;
    o->at = at;
}

static void linear_cuda(struct ctx *c, const struct linear_out *out, size_t n, const float *x,
                        size_t T)
{
    for (size_t i = 0; i < n; i += DEV_OUTS) {
        struct op *o = note(c, OP_LINEAR, NULL, x, T, out[i].w->cols);

        o->n = n - i < DEV_OUTS ? n - i : DEV_OUTS;
        for (size_t k = 0; k < o->n; k++)
            o->out[k] = out[i + k];
    }
}

static void linear_add_cuda(struct ctx *c, float *y, const struct weight *w, const float *x,
                            size_t T)
{
    struct op *o = note(c, OP_LINEAR, NULL, x, T, w->cols);

    o->n = 1;
    o->out[0] = (struct linear_out){ y, w };
    o->add = true;
}

const struct ops ops_cuda = {
    .affine = affine_cuda,
    .attn = attn_cuda,
    .attn_rel = attn_rel_cuda,
    .embed = embed_cuda,
    .gather = gather_cuda,
    .gelu = gelu_cuda,
    .kv_write = kv_write_cuda,
    .layernorm = layernorm_cuda,
    .linear = linear_cuda,
    .linear_add = linear_add_cuda,
    .rmsnorm = rmsnorm_cuda,
    .rope = rope_cuda,
    .scale = scale_cuda,
    .swiglu = swiglu_cuda,
};
