/* train.h - the operations that training adds to ops.h: products of both passes, gradients, the
 * optimiser. train_ref.c is the scalar truth.
 *
 * Contract of every backend: the same inputs give the same bits at any number of threads. Products
 * follow ctx.compute: COMPUTE_F32 keeps float32, COMPUTE_BF16 rounds what is multiplied to bf16;
 * sums are float32. COMPUTE_AUTO counts as COMPUTE_F32 here: no rule for activations is followed.
 *
 * The gradient of rope is rope at the negated positions. */
#ifndef PUNA_OPS_TRAIN_H
#define PUNA_OPS_TRAIN_H

#include "ops/ops.h"

/* An operand: element (i, j) is at p[i * rs + j * cs]; one of the strides is 1. */
struct mat {
    const float *p;
    size_t rs, cs;
};

struct product {
    float *c; /* [M, N], rows N apart */
    size_t M, N, K;
    struct mat a, b; /* [M, K], [K, N] */
    float by;
    bool add;
};

/* Sequences laid end to end: sequence s is rows cu[s] .. cu[s + 1]; none sees another. */
struct attn_shape {
    size_t H, K, hd;   /* query heads, kv heads, head size */
    const int32_t *cu; /* [n_seq + 1] */
    size_t n_seq;
    size_t T, longest; /* rows of all sequences, of the longest */
};

struct adamw {
    float lr, beta1, beta2, eps, decay;
    float clip;   /* factor of every gradient */
    int64_t step; /* from 1 */
};

/* What the largest pass of a run asks of a backend beside its arguments. */
struct train_need {
    size_t T, wide;    /* rows, and the longest side of the matrices that they meet */
    size_t rows, cols; /* of the largest matrix that learns whole and is not among those; or 0 */
    size_t hd;
    bool encoded; /* matrices that are neither bf16 nor float32 */
};

struct train_ops {
#define OP(ret, name, args) ret(*name) args;
#include "ops/train.def"
#undef OP
};

extern const struct train_ops train_ops_ref; /* plain C, one thread, sums in double */

#endif
