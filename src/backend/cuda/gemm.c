/* gemm.c - products of many rows by a kernel of our own (gemm.cu) instead of cuBLASLt. */
#include "backend/cuda/cuda_int.h"

bool gemm_gated(struct cuda *b, const struct blas_product *p, uint16_t *y)
{
    enum { FEWEST = 1024 }; /* rows from which it was seen to be faster than two and their gate */
    const bool f8 = p->type == BLAS_F8;
    const size_t tiles = over(p->T, GEMM_ROWS) * over(p->rows, GEMM_COLS);
    struct gemm_args a = { .y = y,
                           .x_scale = (const float *)(uintptr_t)p->x_scale,
                           .T = (int)p->T,
                           .N = (int)p->rows,
                           .K = (int)p->kp };

    if (!b->wgmma || (!f8 && p->type != BLAS_BF16) || p[1].type != p->type || p->T < FEWEST ||
        p->rows % 8 || p->kp % 128 ||
        !cuda_map(b, &a.x, (const void *)(uintptr_t)p->x, p->type, p->T, p->kp, GEMM_ROWS))
        return false;
    for (size_t i = 0; i < 2; i++) {
        a.w_scale[i] = (const float *)(uintptr_t)p[i].w_scale;
        if (p[i].w_scale % 16 || !cuda_map(b, &a.w[i], (const void *)(uintptr_t)p[i].w, p->type,
                                           p->rows, p->kp, GEMM_COLS))
            return false;
    }
    cuda_launch_with(b, f8 ? KERN_gemm_gated_f8 : KERN_gemm_gated_bf16,
                     tiles < b->sms ? tiles : b->sms, 1, 1, GEMM_THREADS, GEMM_SHARED,
                     (void *[]){ &a });
    return !b->failed;
}
