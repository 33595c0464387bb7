/* gemm.h - private to the CPU backend: dense products of training and of encoders. */
#ifndef PUNA_BACKEND_CPU_GEMM_H
#define PUNA_BACKEND_CPU_GEMM_H

#include "backend/cpu/cpu_int.h"

/* Element (i, j) at i * rs + j * cs; one stride is 1. */
struct operand {
    const void *p; /* float32, or bf16 where `half` */
    size_t rs, cs;
    bool half;
};

/* c [M, N], rows ldc apart, = or += by * a b + bias. */
struct gemm_call {
    float *c;
    size_t M, N, K, ldc;
    struct operand a, b; /* a is float32 */
    const float *bias;   /* [N], or NULL */
    float by;
    bool add;
    bool exact; /* in float32 whatever ctx.compute says */
};

/* Each value of c is one chain over k, whatever the threads. */
void gemm_run(struct ctx *c, const struct gemm_call *g);
/* The same on the calling thread, which brings room for GEMM_ROOM floats and in COMPUTE_BF16 for
 * GEMM_COPY(M, K) more. */
void gemm_serial(const struct cpu_kern *k, enum compute compute, const struct gemm_call *g,
                 float *room);

/* y [T, rows] = or += x [T, cols] W^T + bias, any encoding of W; bias may be NULL (train.c). */
void gemm_linear(struct ctx *c, float *y, const struct weight *w, const float *bias, const float *x,
                 size_t T, bool add, bool exact);

enum { GEMM_K = 1024, GEMM_ROOM = GEMM_COLS * GEMM_K + PAIR_ROWS * GEMM_COLS + GEMM_K };
#define GEMM_COPY(M, K) (((M) + 32) * ((K) + 32))

#endif
