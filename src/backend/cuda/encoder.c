/* encoder.c - launches encoder.cu's attention with relative positions. */
#include "backend/cuda/cuda_int.h"

void cuda_attn_rel(struct cuda *b, const struct op *o)
{
    enum { SHARED = 48 << 10, PER = 8 }; /* what any kernel may have; queries of a block */
    const struct rel_attn *r = &o->rel;
    const size_t each = (r->n + r->hd) * sizeof(float), per = SHARED / each;
    struct rel_args a = { .y = o->y,
                          .q = r->q,
                          .k = r->k,
                          .v = r->v,
                          .rel_q = r->rel_q,
                          .rel_k = r->rel_k,
                          .bucket = r->bucket,
                          .rows = (int)r->rows,
                          .n = (int)r->n,
                          .H = (int)r->H,
                          .hd = (int)r->hd,
                          .per = (int)(per < PER ? per : PER) };

    if (per == 0) {
        if (!b->failed)
            err_set(&b->fault, ERR_HARDWARE,
                    "%zu tokens and heads of %zu values: the GPU's attention of encoders takes %zu "
                    "of both; use --device cpu",
                    r->n, r->hd, SHARED / sizeof(float));
        b->failed = true;
        return;
    }
    cuda_launch_with(b, KERN_attn_rel, (r->rows + (size_t)a.per - 1) / (size_t)a.per, r->H, 1, 256,
                     (size_t)a.per * each, (void *[]){ &a });
}

void cuda_affine(struct cuda *b, const struct op *o)
{
    enum { FEWEST = 8, THREADS = 256 };
    const struct linear_out *out = &o->out[0];
    const struct dev_weight *w = cuda_placed(out->w);
    const struct blas_product p = { .y = out->y,
                                    .ldy = out->w->rows,
                                    .rows = out->w->rows,
                                    .T = o->T,
                                    .kp = out->w->cols,
                                    .w = (CUdeviceptr)(uintptr_t)w->q,
                                    .x = (CUdeviceptr)(uintptr_t)o->x,
                                    .type = BLAS_F32,
                                    .add = o->add };
    int rows = (int)out->w->rows;
    float *y = out->y;

    if (!b->blas || o->T < FEWEST || w->enc != DEV_ENC_F32 || w->kind != DEV_RAW ||
        !blas_run(b, &p))
        cuda_product(b, out, o->x, o->T, o->add);
    cuda_launch(b, KERN_bias, (out->w->rows + THREADS - 1) / THREADS, o->T, 1, THREADS,
                (void *[]){ &y, (void *)(uintptr_t)&o->bias, &rows });
}
