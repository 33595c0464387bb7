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
