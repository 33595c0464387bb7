/* gemm.h - what gemm.cu's kernels of heads take, as gemm.c gives it. */
#ifndef PUNA_BACKEND_CUDA_GEMM_H
#define PUNA_BACKEND_CUDA_GEMM_H

#include "backend/cuda/dev.h"

enum { GEMM_HEAD = 128 }; /* values of a head */

/* H heads of queries, K of keys, K of values, the rows of g.w[0] and g.w_scale[0] (those of 1 are
 * the same): rotated, queries in 16 bits times `scale`, keys and values in the cache; an even
 * number of heads. g.y is not there. */
struct gemm_heads_args {
    struct gemm_args g;
    const float *turn;   /* [T][GEMM_HEAD / 2] cosine and sine (small.cu, turns) */
    const int32_t *line; /* [T] where a row's first head is in the cache, in heads */
    uint16_t *q16;       /* [T][H * GEMM_HEAD] */
    uint8_t *kc, *vc;
    float scale;
    int H, K, enc;
};

#endif
