/* encoder.c - ops of encoders (ops.def) on the CPU: products in float32, attention with relative
 * positions.
 *
 * Attention: score(i, j) = Q_i K_j + Q_i Kr[b] + K_j Qr[b] with b = bucket(i - j). Each of the
 * three is a product of matrices; of the tables only the rows that a block's i - j reach are
 * multiplied. What a key says of every position, its row of K Qr^T, is brought into the order of
 * the queries and turned into columns of the scores; then each block of queries adds its own rows.
 */
#include <math.h>
#include <stdatomic.h>

#include "backend/cpu/gemm.h"

static const struct cpu_kern *kern(const struct ctx *c)
{
    return &((const struct cpu *)c->backend)->k;
}

void affine_cpu(struct ctx *c, float *y, const struct weight *w, const float *b, const float *x,
                size_t T, bool add)
{
    gemm_linear(c, y, w, b, x, T, add, true);
}

struct rows_job {
    const struct cpu_kern *k;
    float *y;
    const float *x, *w, *b;
    size_t T, D;
    float eps;
};

static void gelu_part(void *arg, int me, int n)
{
    const struct rows_job *j = arg;
    size_t lo, hi;

    team_part(j->T * j->D, 64, me, n, &lo, &hi);
    j->k->gelu(j->y + lo, hi - lo);
}

void gelu_cpu(struct ctx *c, float *x, size_t T, size_t D)
{
    struct rows_job j = { .k = kern(c), .y = x, .T = T, .D = D };

    cpu_share(c, gelu_part, &j, T * D);
}

static void layernorm_part(void *arg, int me, int n)
{
    const struct rows_job *j = arg;
    size_t lo, hi;

    team_part(j->T, 1, me, n, &lo, &hi);
    for (size_t t = lo; t < hi; t++)
        j->k->layernorm(j->y + t * j->D, j->x + t * j->D, j->w, j->b, j->D, j->eps);
}

void layernorm_cpu(struct ctx *c, float *y, const float *x, const float *w, const float *b,
                   size_t T, size_t D, float eps)
{
    struct rows_job j = { kern(c), y, x, w, b, T, D, eps };

    cpu_share(c, layernorm_part, &j, T * D / 2);
}

/* ---- attention with relative positions ---- */

enum {
    BLOCK = 96,             /* keys or queries of a unit: a multiple of every gemm_rows */
    SCORE_BYTES = 16 << 20, /* scores of as many heads as fit are alive at a time */
    APART = 16,             /* floats behind a row: pick reads them, and rows share no cache set */
};

struct rel_job {
    const struct cpu_kern *k;
    const struct rel_attn *a;
    float *y, *score; /* score: [heads][rows][pitch] */
    size_t pitch, D;
    size_t h0, heads; /* of this round */
    float *room;
    size_t room_n; /* floats for each thread */
    atomic_size_t next;
};

static size_t width(size_t n)
{
    return (n + 15) / 16 * 16 + APART;
}

/* c = or += rows of a times rows of b, both D apart and hd long */
static void meet(const struct rel_job *j, float *c, size_t ldc, const float *a, size_t M,
                 const float *b, size_t N, bool add, float *room)
{
    const struct gemm_call g = { .c = c,
                                 .M = M,
                                 .N = N,
                                 .K = j->a->hd,
                                 .ldc = ldc,
                                 .a = { .p = a, .rs = j->D, .cs = 1 },
                                 .b = { .p = b, .rs = 1, .cs = j->D },
                                 .by = 1,
                                 .add = add };

    gemm_serial(j->k, COMPUTE_F32, &g, room);
}

/* Columns k0 .. k1 of a head's scores: K_j Qr[b]. */
static void keys(const struct rel_job *j, size_t h, size_t k0, size_t k1, float *room)
{
    const struct rel_attn *a = j->a;
    const int32_t *zero = a->bucket + a->n - 1; /* of i - j = 0 */
    const int32_t first = zero[-(ptrdiff_t)(k1 - 1)];
    const size_t span = (size_t)(zero[(ptrdiff_t)a->rows - 1 - (ptrdiff_t)k0] - first) + 1;
    const size_t ld = width(span), line = width(a->rows);
    float *table = room + GEMM_ROOM, *turn = table + BLOCK * width(a->span);
    float *score = j->score + (h - j->h0) * a->rows * j->pitch;

    meet(j, table, ld, a->k + k0 * j->D + h * a->hd, k1 - k0,
         a->rel_q + (size_t)first * j->D + h * a->hd, span, false, room);
    for (size_t k = k0; k < k1; k += 16) {
        const size_t m = k1 - k < 16 ? k1 - k : 16;

        for (size_t r = 0; r < m; r++)
            j->k->pick(turn + r * line, table + (k - k0 + r) * ld, zero - (k + r), first, a->rows,
                       false, false);
        j->k->transpose(score + k, j->pitch, turn, line, m, a->rows);
    }
}

/* Queries i0 .. i1 of a head, to the end. */
static void queries(const struct rel_job *j, size_t h, size_t i0, size_t i1, float *room)
{
    const struct rel_attn *a = j->a;
    const int32_t *zero = a->bucket + a->n - 1;
    const int32_t first = a->bucket[i0];
    const size_t span = (size_t)(zero[i1 - 1] - first) + 1, ld = width(span), M = i1 - i0;
    const float *q = a->q + i0 * j->D + h * a->hd, scale = 1 / sqrtf(3 * (float)a->hd);
    float *table = room + GEMM_ROOM, *y = j->y + i0 * j->D + h * a->hd, by[BLOCK];
    float *score = j->score + ((h - j->h0) * a->rows + i0) * j->pitch;

    meet(j, table, ld, q, M, a->rel_k + (size_t)first * j->D + h * a->hd, span, false, room);
    for (size_t i = 0; i < M; i++)
        j->k->pick(score + i * j->pitch, table + i * ld, zero + i0 + i, first, a->n, true, true);
    meet(j, score, j->pitch, q, M, a->k + h * a->hd, a->n, true, room);
    for (size_t i = 0; i < M; i++) {
        float *row = score + i * j->pitch;
        const float max = j->k->largest(row, a->n) * scale;

        by[i] = 1 / j->k->exp_sum(row, row, a->n, scale, max);
    }
    const struct gemm_call g = { .c = y,
                                 .M = M,
                                 .N = a->hd,
                                 .K = a->n,
                                 .ldc = j->D,
                                 .a = { .p = score, .rs = j->pitch, .cs = 1 },
                                 .b = { .p = a->v + h * a->hd, .rs = j->D, .cs = 1 },
                                 .by = 1 };

    gemm_serial(j->k, COMPUTE_F32, &g, room);
    for (size_t i = 0; i < M; i++)
        for (size_t d = 0; d < a->hd; d++)
            y[i * j->D + d] *= by[i];
}

typedef void unit_fn(const struct rel_job *j, size_t h, size_t from, size_t to, float *room);

static void units(struct rel_job *j, unit_fn *fn, size_t n, int me)
{
    const size_t blocks = (n + BLOCK - 1) / BLOCK;

    for (size_t u; (u = atomic_fetch_add(&j->next, 1)) < j->heads * blocks;) {
        const size_t from = u % blocks * BLOCK;

        fn(j, j->h0 + u / blocks, from, n - from < BLOCK ? n : from + BLOCK,
           j->room + (size_t)me * j->room_n);
    }
}

static void keys_part(void *arg, int me, int n)
{
    struct rel_job *j = arg;

    (void)n;
    units(j, keys, j->a->n, me);
}

static void queries_part(void *arg, int me, int n)
{
    struct rel_job *j = arg;

    (void)n;
    units(j, queries, j->a->rows, me);
}

void attn_rel_cpu(struct ctx *c, float *y, const struct rel_attn *a)
{
    struct cpu *b = c->backend;
    struct rel_job j = {
        .k = &b->k, .a = a, .y = y, .pitch = width(a->n), .D = a->H * a->hd, .heads = a->H
    };
    const size_t most = SCORE_BYTES / sizeof(float) / (a->rows * j.pitch);
    const size_t round = most < 1 ? 1 : most < a->H ? most : a->H;

    BUG_ON(a->rows < 1 || a->rows > a->n);
    j.score = room_get(&b->score, round * a->rows * j.pitch * sizeof(float));
    j.room_n = (GEMM_ROOM + BLOCK * width(a->span) + 16 * width(a->rows) + 15) / 16 * 16;
    j.room = room_get(&b->train_thread, (size_t)team_size(c->team) * j.room_n * sizeof(float));
    for (j.h0 = 0; j.h0 < a->H; j.h0 += j.heads) {
        const size_t values = round * a->rows * a->n * a->hd;

        j.heads = a->H - j.h0 < round ? a->H - j.h0 : round;
        j.next = 0;
        cpu_share(c, keys_part, &j, values);
        j.next = 0;
        cpu_share(c, queries_part, &j, values);
    }
}
