/* train_dev.h - arguments of the kernels of training, as host code and kernels both know them. */
#ifndef PUNA_BACKEND_CUDA_TRAIN_DEV_H
#define PUNA_BACKEND_CUDA_TRAIN_DEV_H

#include <stdint.h>

enum { TRAIN_HEAD = 128 /* the largest head */ };

/* c[M, N], ldc apart, = or += by a b; element (i, j) of an operand is at i * rs + j * cs. */
struct train_product_args {
    float *c;
    const void *a, *b;
    unsigned long long ldc, M, N, K, a_rs, a_cs, b_rs, b_cs;
    float by;
    int add, half; /* half: operands are bf16, else float32 */
};

/* Sequences end to end (struct attn_shape); the first row of arrays is the batch's first. */
struct train_attn_args {
    float *o, *lse, *dq, *dk, *dv;
    const float *q, *k, *v, *dy, *dots; /* dots: [T, H] of dy and o */
    const int32_t *cu;
    int n_seq, H, K, hd;
    float scale;
};

/* struct adamw with what follows from it: rest = 1 - beta, lr / (1 - beta1^t), 1 / (1 - beta2^t).
 */
struct train_adamw_args {
    float beta1, rest1, beta2, rest2, lr, grow2, keep, eps, clip;
};

#endif
