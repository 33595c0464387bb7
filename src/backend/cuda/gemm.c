/* gemm.c - products of many rows by a kernel of our own (gemm.cu) instead of cuBLASLt. */
#include "backend/cuda/cuda_int.h"
#include "backend/cuda/gemm.h"

/* Rows from which it was seen to be faster than products and what follows them. */
enum { FEWEST = 1024 };

/* What all kernels take of p. */
static bool begin(struct cuda *b, const struct blas_product *p, struct gemm_args *a)
{
    *a = (struct gemm_args){ .x_scale = (const float *)(uintptr_t)p->x_scale,
                             .T = (int)p->T,
                             .N = (int)p->rows,
                             .K = (int)p->kp };
    return b->wgmma && (p->type == BLAS_F8 || p->type == BLAS_BF16) && p->T >= FEWEST &&
           p->kp % 128 == 0 &&
           cuda_map(b, &a->x, (const void *)(uintptr_t)p->x, p->type, p->T, p->kp, GEMM_ROWS);
}

/* W of p as matrix i. */
static bool take(struct cuda *b, const struct blas_product *p, struct gemm_args *a, size_t i)
{
    a->w_scale[i] = (const float *)(uintptr_t)p->w_scale;
    return p->w_scale % 16 == 0 &&
           cuda_map(b, &a->w[i], (const void *)(uintptr_t)p->w, p->type, p->rows, p->kp, GEMM_COLS);
}

static bool launch(struct cuda *b, enum kernel k, size_t tiles, void *args)
{
    cuda_launch_with(b, k, tiles < b->sms ? tiles : b->sms, 1, 1, GEMM_THREADS, GEMM_SHARED,
                     (void *[]){ args });
    return !b->failed;
}

bool gemm_gated(struct cuda *b, const struct blas_product *p, uint16_t *y)
{
    struct gemm_args a;

    if (!begin(b, p, &a) || p[1].type != p->type || p->rows % 8 || !take(b, &p[0], &a, 0) ||
        !take(b, &p[1], &a, 1))
        return false;
    a.y = y;
    return launch(b, p->type == BLAS_F8 ? KERN_gemm_gated_f8 : KERN_gemm_gated_bf16,
                  over(p->T, GEMM_ROWS) * over(p->rows, GEMM_COLS), &a);
}

/* What rows turn by, and where they are in the cache: once a pass. */
static bool have_turns(struct cuda *b, struct gemm_heads_args *a, const struct rope_args *r)
{
    enum { HALF = GEMM_HEAD / 2 };
    const size_t T = (size_t)a->g.T, turn_bytes = T * HALF * 2 * sizeof(float);

    if (!cuda_room(b, &b->turns.room, turn_bytes + T * sizeof(*a->line)))
        return false;
    float *turn = (float *)(uintptr_t)b->turns.room.p;
    int32_t *line = (int32_t *)(uintptr_t)(b->turns.room.p + turn_bytes);

    a->turn = turn;
    a->line = line;
    if (b->turns.pos == r->pos && b->turns.inv_freq == r->inv_freq && b->turns.T == T &&
        b->turns.K == (size_t)r->K)
        return true;
    b->turns.pos = r->pos;
    b->turns.inv_freq = r->inv_freq;
    b->turns.T = T;
    b->turns.K = (size_t)r->K;
    cuda_launch(b, KERN_turns, T, 1, 1, HALF, (void *[]){ &turn, &line, (void *)(uintptr_t)r });
    return !b->failed;
}

bool gemm_heads(struct cuda *b, const struct blas_product *p, const struct rope16_args *r)
{
    struct gemm_heads_args a = { .q16 = r->q16,
                                 .kc = r->to.kc,
                                 .vc = r->to.vc,
                                 .scale = r->scale,
                                 .H = r->to.H,
                                 .K = r->to.K,
                                 .enc = r->to.enc };

    /* in bf16 cuBLASLt and the rotation by itself are as fast: 89.2 and 88.4 thousand tok/s of 16
     * layers of 8B on an H200 */
    if (p->type != BLAS_F8 || r->to.hd != GEMM_HEAD || r->to.interleaved || r->to.q ||
        (r->to.H && !r->q16) || p->rows % ((size_t)2 * GEMM_COLS) || !begin(b, p, &a.g) ||
        !take(b, p, &a.g, 0) || !take(b, p, &a.g, 1) || !have_turns(b, &a, &r->to))
        return false;
    return launch(b, KERN_gemm_heads_f8,
                  over(p->T, GEMM_ROWS) * (p->rows / ((size_t)2 * GEMM_COLS)), &a);
}
