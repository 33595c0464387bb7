/* train_dev.h - arguments of the kernels of training, as host code and kernels both know them. */
#ifndef PUNA_BACKEND_CUDA_TRAIN_DEV_H
#define PUNA_BACKEND_CUDA_TRAIN_DEV_H

#include "backend/cuda/dev.h"

#define TRAIN_LEAST_SQUARE 1e-30f /* of Adafactor's means */

enum { TRAIN_HEAD = 128 /* the largest head */, TRAIN_ROPE_ROWS = 4 /* of a block */ };

/* train_attn.cu: rows of a block, 16 for each warp, and rows that they meet at a time; shared
 * memory of its kernels, two times the latter of two matrices, and for dk and dv the former of two
 * more. */
enum { TRAIN_ATTN_ROWS = 64, TRAIN_ATTN_STEP = 64, TRAIN_ATTN_THREADS = TRAIN_ATTN_ROWS / 16 * 32 };
#define TRAIN_ATTN_SHARED(hd)    (4 * TRAIN_ATTN_STEP * (hd)*2)
#define TRAIN_ATTN_SHARED_KV(hd) (TRAIN_ATTN_SHARED(hd) + 2 * TRAIN_ATTN_ROWS * (hd)*2)

/* train_wgmma.cu: rows of a block, of a copied box of 64 values; threads; shared memory, of which
 * 1 KiB is for its beginning to be at a multiple of that. */
enum { TRAIN_WGMMA_ROWS = 128, TRAIN_WGMMA_BOX = 64, TRAIN_WGMMA_THREADS = 384 };
#define TRAIN_WGMMA_SHARED(hd) (1024 + 6 * TRAIN_WGMMA_ROWS * (hd)*2 + 256)

/* c[M, N] = to + by a b, both ldc apart, `to` like c or NULL; element (i, j) of an operand is at i
 * * rs + j * cs. */
struct train_product_args {
    void *c;
    const void *to, *a, *b;
    unsigned long long ldc, M, N, K, a_rs, a_cs, b_rs, b_cs;
    float by;
    int half, half_c; /* half: operands are bf16, else float32; half_c: c is */
};

/* Rows of x [cols] as E4M3 [kp], each with a scale of its own: of a forward pass as the weight's
 * rule for inputs says (ACT_F8 with `bound`), or, with `by`, of a gradient times by[cols]. */
struct train_f8_args {
    uint8_t *y;
    float *scale; /* [rows] */
    const uint16_t *x;
    const float *by;
    float bound;
    int cols, kp;
};

/* Sequences end to end (struct attn_shape); the first row of arrays is the batch's first. */
struct train_attn_args {
    void *o, *dq, *dk, *dv; /* activations */
    const void *q, *k, *v, *dy;
    float *lse, *dots; /* [T, H]; dots: of dy and o */
    const int32_t *cu;
    int n_seq, H, K, hd;
    float scale;
};

/* The same for train_wgmma.cu: q, k, v and, for the gradient, dy as rows
 * of all their heads. */
struct train_wgmma_args {
    struct dev_map map[4];
    struct train_attn_args a;
};

/* struct dora (ops/train.h) */
struct train_dora_args {
    const float *mag, *b, *squares, *aw, *aa;
    float *gain, *gain_less, *length;
    unsigned long long out;
    int r;
    float scale;
};

/* struct adamw with what follows from it: rest = 1 - beta, lr / (1 - beta1^t), 1 / (1 - beta2^t).
 */
struct train_adamw_args {
    float beta1, rest1, beta2, rest2, lr, grow2, keep, eps, clip;
};

/* Lists of values (struct adamw_values), and where a copy of w in bf16 goes, or NULL. Blocks of a
 * launch from number `first` on are list i's, so many values each. */
enum { TRAIN_LISTS = 56, TRAIN_ADAMW_VALUES = 1024 };
struct train_list {
    float *w, *m, *v;
    const void *g; /* float32, or bf16 where half_g */
    uint16_t *half;
    unsigned long long n;
    unsigned first;
    bool decays, half_g;
};
struct train_lists {
    struct train_list of[TRAIN_LISTS];
    int count;
};

/* struct adamw_packed (ops/train.h): of each pair of pointers one is NULL. */
enum { TRAIN_ADAMW_BLOCK = 256 };
struct train_packed_args {
    float *w, *m, *v, *m_max, *v_max;
    uint16_t *half;
    uint8_t *m_code, *v_code;
    const void *g;                     /* float32, or bf16 where half_g */
    unsigned long long n, seed, first; /* first: of the step's random numbers */
    bool half_g;
    float map[2][256];
    struct train_adamw_args a;
};

/* struct adafactor (ops/train.h). sums: mean of the means by row, sum of the squares of all u;
 * part: sums over `per` rows each, by column, or of u, TRAIN_FACTOR_VALUES each. */
enum { TRAIN_FACTOR_VALUES = 1 << 14 };
struct train_factor_args {
    float *w;
    uint16_t *half;
    const void *g; /* float32, or bf16 where half_g */
    float *row, *col;
    double *sums;
    void *part;
    unsigned long long rows, cols, seed, first; /* first: of the step's random numbers */
    float clip, beta2, rest2, lr, keep;
    int per;
    bool half_g;
};

#endif
