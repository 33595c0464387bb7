/* train.h - the operations that training adds to ops.h: products of both passes, gradients, the
 * optimiser. train_ref.c is the scalar truth.
 *
 * Contract of every backend: the same inputs give the same bits at any number of threads. Products
 * follow ctx.compute: COMPUTE_F32 keeps float32, COMPUTE_BF16 rounds what is multiplied to bf16;
 * sums are float32. COMPUTE_AUTO counts as COMPUTE_F32 here: no rule for activations is followed.
 * What passes between operations is float32, or bf16 where ctx.half: what is not said to be float32
 * (parameters, their gradients, log-sums, losses) then has two bytes behind its float pointer.
 *
 * The gradient of rope is rope at the negated positions. */
#ifndef PUNA_OPS_TRAIN_H
#define PUNA_OPS_TRAIN_H

#include "format/enc/bnb_encode.h"
#include "ops/ops.h"

/* An operand: element (i, j) is at p[i * rs + j * cs]; one of the strides is 1. */
struct mat {
    const float *p;
    size_t rs, cs;
    bool act; /* activations: bf16 where ctx.half */
};

struct product {
    float *c; /* [M, N], rows ldc apart, or N where that is 0 */
    size_t M, N, K;
    struct mat a, b; /* [M, K], [K, N] */
    float by;
    bool add;
    bool act; /* c are activations, or a gradient in bf16: bf16 where ctx.half */
    size_t ldc;
};

/* Bytes of an activation. */
static inline size_t act_bytes(const struct ctx *c)
{
    return c->half ? sizeof(uint16_t) : sizeof(float);
}

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

/* n values that learn in float32: they, their moments and their gradient. */
struct adamw_values {
    float *w, *m, *v;
    const float *g;
    size_t n;
    bool decays; /* adamw.decay holds for them */
    bool half_g; /* of square_sum: g is bf16 */
};

/* Values that learn, n of them: float32 at w, or bf16 at half, rounded at random
 * (adamw_round_at_random). Moments: float32 at m and v, or codes of bitsandbytes' maps in blocks of
 * 256, with and without a sign, and each block's largest magnitude. Of each pair one is NULL. Each
 * array begins at a multiple of 16 bytes, of a buffer of its own or of a larger one. */
enum { ADAMW_BLOCK = 256 };
struct adamw_packed {
    float *w;
    uint16_t *half;
    const float *g;
    float *m, *v;
    uint8_t *m_code, *v_code;
    float *m_max, *v_max;
    const struct bnb_map *map; /* [2] */
    size_t n;
    uint64_t seed;
    bool half_g; /* g is bf16 */
};

/* A matrix that learns by Adafactor (Shazeer and Stern, arXiv:1804.04235) with transformers'
 * constants, without relative steps. Of its squared gradients means by row and by column are kept;
 * of a single row no means, and `row` is NULL. Values as struct adamw_packed has them; of struct
 * adamw lr, decay, clip and step count. */
struct adafactor {
    float *w;
    uint16_t *half;
    const float *g;
    float *row, *col; /* [rows], [cols] */
    size_t rows, cols;
    uint64_t seed;
    bool half_g; /* g is bf16 */
};
void train_adafactor(struct ctx *c, const struct adamw *a, const struct adafactor *p); /* where
    memory is the process's own */

/* n values to bf16, up with the probability of what is cut off: four values share 64 random bits,
 * those of a step's values `at` on, a multiple of 4. */
void adamw_round_at_random(uint16_t *to, const float *x, size_t n, uint64_t seed, int64_t step,
                           size_t at);

/* |W + scale B A|^2 of a row is |w|^2 + 2 scale b . (A w) + scale^2 b . (A A^T b): no matrix of W's
 * size. float32 throughout. */
struct dora {
    const float *mag, *b, *squares;   /* [out], B [out, r], [out] |row of W|^2 */
    const float *aw, *aa;             /* A W^T [r, out], A A^T [r, r] */
    float *gain, *gain_less, *length; /* [out] length = 1 / |row|, gain = mag length, gain - 1 */
    size_t out, r;
    float scale;
};
void train_dora_gain(struct ctx *c, const struct dora *d); /* where memory is the process's own */

/* Op `columns`, where memory is the process's own. */
void train_columns(struct ctx *c, float *y, const float *w, const int32_t *ids, size_t T, size_t r,
                   size_t V);

/* What learning makes of a row's loss: all zero changes nothing; the two do not go together. */
struct loss_form {
    float
        smooth; /* share of the label that all tokens have alike: + smooth (z[label] - mean of z) */
    bool dft;   /* times the label's probability, taken as a constant (arXiv:2508.05629) */
};

/* What the largest pass of a run asks of a backend beside its arguments. */
struct train_need {
    size_t T, wide;    /* rows, and the longest side of the matrices that they meet */
    size_t rows, cols; /* of the largest matrix that learns whole and is not among those; or 0 */
    size_t hd, pairs;  /* values of all pairs */
    bool encoded;      /* matrices that are neither bf16 nor float32 */
    bool f8;           /* and are E4M3 */
    bool adafactor;    /* is the optimiser */
};

struct train_ops {
#define OP(ret, name, args) ret(*name) args;
#include "ops/train.def"
#undef OP
};

extern const struct train_ops train_ops_ref; /* plain C, one thread, sums in double */

#endif
