/* train.c - the training table of the CPU. Work is shared by rows, columns or sequences so that
 * every sum has one owner and one order. */
#include <math.h>
#include <stdatomic.h>

#include "backend/cpu/gemm.h"
#include "base/rng.h"

static const struct cpu_kern *kern(const struct ctx *c)
{
    return &((const struct cpu *)c->backend)->k;
}

/* ---- products ---- */

enum {
    DECODED = 4 << 20,  /* bytes of W that are decoded at a time, or 512 rows: 29 MB of 14336 */
    DECODED_ROWS = 512, /* columns; a product of fewer reads and writes its sums too often */
    DECODE_ROWS = 8,    /* whose floats a thread holds at a time */
    /* rows that one product sums over: the copy of the gradient of so many columns is to stay in a
     * cache */
    SUMMED = 2 * GEMM_K
};

/* A multiple of 16. */
static size_t decoded_rows(size_t row_bytes)
{
    const size_t n = DECODED / row_bytes / LANES * LANES;

    return n > DECODED_ROWS ? n : DECODED_ROWS;
}

struct decode_job {
    const struct cpu_kern *k;
    const struct weight *w;
    size_t r0, n; /* r0 a multiple of 16 */
    void *to;     /* bf16 where `half`, else float32 */
    bool half;
    uint8_t *room; /* decode_bytes for each thread, where `half` */
};

/* Rows or groups in between. */
static size_t decode_bytes(const struct weight *w)
{
    const size_t rows = DECODE_ROWS * w->cols * sizeof(float), panel = CHUNK * sizeof(struct group);

    return rows > panel ? (rows + 63) / 64 * 64 : panel;
}

/* Groups of sixteen rows, as the 8-bit products unpack them. */
static void decode_groups(const struct decode_job *j, size_t lo, size_t hi, struct group *panel)
{
    const struct weight *w = j->w;
    const size_t G = w->cols / GROUP;

    for (size_t r = lo; r < hi; r += LANES) {
        const size_t R = hi - r < LANES ? hi - r : LANES;
        const struct rows16 rows = rows_at(w, j->r0 + r, R, LANES);

        for (size_t g = 0; g < G; g += CHUNK) {
            const size_t ng = G - g < CHUNK ? G - g : CHUNK;

            j->k->unpack[w->enc](panel, &rows, g, ng);
            j->k->group_bf16((bf16 *)j->to + r * w->cols + g * GROUP, w->cols, panel, ng,
                             j->k->codes[w->enc], j->k->offset[w->enc], R);
        }
    }
}

static void decode_part(void *arg, int me, int n)
{
    const struct decode_job *j = arg;
    const struct weight *w = j->w;
    uint8_t *room = j->room + (size_t)me * decode_bytes(w);
    size_t lo, hi;

    team_part(j->n, LANES, me, n, &lo, &hi);
    if (j->half && j->k->group_bf16 && j->k->unpack[w->enc]) {
        decode_groups(j, lo, hi, (struct group *)(void *)room);
        return;
    }
    for (size_t r = lo; r < hi; r += DECODE_ROWS) {
        const size_t m = hi - r < DECODE_ROWS ? hi - r : DECODE_ROWS;
        float *y = j->half ? (float *)(void *)room : (float *)j->to + r * w->cols;

        if (enc_has_planes(w->enc))
            j->k->decode_planes[w->enc](y, w, j->r0 + r, m);
        else
            for (size_t i = 0; i < m; i++)
                weight_decode_row(y + i * w->cols, w, j->r0 + r + i);
        if (j->half)
            j->k->to_bf16((bf16 *)j->to + r * w->cols, y, m * w->cols);
    }
}

/* Rows r0 .. r0+*n of W as an operand: all of them where it lies, or a part decoded, and rounded
 * where that is how it is multiplied. */
static struct operand rows_of(struct ctx *c, const struct weight *w, size_t r0, bool exact,
                              size_t *n)
{
    const bool half = w->enc == ENC_BF16, aligned = (uintptr_t)w->data % 4 == 0;

    if (half || (w->enc == ENC_F32 && aligned)) {
        *n = w->rows - r0;
        return (struct operand){
            .p = (const uint8_t *)w->data + r0 * w->row_bytes, .rs = w->cols, .cs = 1, .half = half
        };
    }
    struct cpu *b = c->backend;
    struct decode_job j = {
        .k = &b->k, .w = w, .r0 = r0, .half = c->compute == COMPUTE_BF16 && !exact
    };
    const size_t row_bytes = w->cols * (j.half ? sizeof(bf16) : sizeof(float));
    const size_t most = decoded_rows(row_bytes);

    *n = j.n = w->rows - r0 < most ? w->rows - r0 : most;
    j.room = room_get(&b->train_thread, (size_t)team_size(c->team) * decode_bytes(w));
    j.to = room_get(&b->train_w, most * row_bytes);
    cpu_share(c, decode_part, &j, j.n * w->cols);
    return (struct operand){ .p = j.to, .rs = w->cols, .cs = 1, .half = j.half };
}

void gemm_linear(struct ctx *c, float *y, const struct weight *w, const float *bias, const float *x,
                 size_t T, bool add, bool exact)
{
    for (size_t r = 0, n; r < w->rows; r += n) {
        const struct operand o = rows_of(c, w, r, exact, &n);
        const struct gemm_call g = { .c = y + r,
                                     .M = T,
                                     .N = n,
                                     .K = w->cols,
                                     .ldc = w->rows,
                                     .a = { .p = x, .rs = w->cols, .cs = 1 },
                                     .b = { .p = o.p, .rs = 1, .cs = o.rs, .half = o.half },
                                     .bias = bias ? bias + r : NULL,
                                     .by = 1,
                                     .add = add,
                                     .exact = exact };

        gemm_run(c, &g);
    }
}

static void linear_fwd_cpu(struct ctx *c, float *y, const struct weight *w, const float *x,
                           size_t T, const float *to)
{
    if (to && to != y)
        memcpy(y, to, T * w->rows * sizeof(*y));
    gemm_linear(c, y, w, NULL, x, T, to, false);
}

static void linear_dx_cpu(struct ctx *c, float *dx, const struct weight *w, const float *dy,
                          size_t T, bool add)
{
    for (size_t r = 0, n; r < w->rows; r += n) {
        const struct operand o = rows_of(c, w, r, false, &n);

        n = n < SUMMED ? n : SUMMED;
        const struct gemm_call g = { .c = dx,
                                     .M = T,
                                     .N = w->cols,
                                     .K = n,
                                     .ldc = w->cols,
                                     .a = { .p = dy + r, .rs = w->rows, .cs = 1 },
                                     .b = o,
                                     .by = 1,
                                     .add = add || r > 0 };

        gemm_run(c, &g);
    }
}

static void product_cpu(struct ctx *c, const struct product *p)
{
    const struct gemm_call g = { .c = p->c,
                                 .M = p->M,
                                 .N = p->N,
                                 .K = p->K,
                                 .ldc = p->ldc ? p->ldc : p->N,
                                 .a = { .p = p->a.p, .rs = p->a.rs, .cs = p->a.cs },
                                 .b = { .p = p->b.p, .rs = p->b.rs, .cs = p->b.cs },
                                 .by = p->by,
                                 .add = p->add };

    gemm_run(c, &g);
}

/* ---- attention ---- */

enum { ATTN_ROWS = 64 }; /* queries that meet their keys together */

struct attn_job {
    struct ctx *c;
    const struct attn_shape *s;
    const float *q, *k, *v, *dy, *o_in, *lse_in;
    float *o, *lse, *dq, *dk, *dv;
    size_t longest;
    float *room;
    size_t room_n; /* floats for each thread */
    atomic_size_t next;
};

static struct gemm_call call(float *c, size_t ldc, size_t M, size_t N, size_t K, struct operand a,
                             struct operand b, bool add)
{
    return (struct gemm_call){
        .c = c, .M = M, .N = N, .K = K, .ldc = ldc, .a = a, .b = b, .by = 1, .add = add
    };
}

static struct operand by_rows(const float *p, size_t ld)
{
    return (struct operand){ .p = p, .rs = ld, .cs = 1 };
}

static struct operand by_cols(const float *p, size_t ld)
{
    return (struct operand){ .p = p, .rs = 1, .cs = ld };
}

/* p[rows, n] = e^(score - what normalises its row), zero beyond the row's own position; `first` is
 * the position of row 0. Without lse the rows are normalised here and it is written. */
static void weights(const struct attn_job *j, float *p, size_t rows, size_t n, size_t first,
                    float *lse, size_t stride, bool given)
{
    const struct cpu_kern *k = kern(j->c);
    const float scale = 1 / sqrtf((float)j->s->hd);

    for (size_t r = 0; r < rows; r++) {
        float *x = p + r * n;
        const size_t seen = first + r + 1;

        if (given) {
            k->exp_sum(x, x, seen, scale, lse[r * stride]);
        } else {
            const float max = k->largest(x, seen) * scale;
            const float sum = k->exp_sum(x, x, seen, scale, max), by = 1 / sum;

            for (size_t i = 0; i < seen; i++)
                x[i] *= by;
            lse[r * stride] = max + logf(sum);
        }
        memset(x + seen, 0, (n - seen) * sizeof(*x));
    }
}

/* A query head of one sequence, forward. */
static void head_fwd(const struct attn_job *j, size_t t0, size_t n, size_t h, float *room)
{
    const struct attn_shape *s = j->s;
    const size_t ld = s->H * s->hd, kld = s->K * s->hd, kh = h / (s->H / s->K);
    const float *q = j->q + t0 * ld + h * s->hd;
    const float *k = j->k + t0 * kld + kh * s->hd, *v = j->v + t0 * kld + kh * s->hd;
    float *p = room, *pack = p + ATTN_ROWS * j->longest;

    for (size_t i = 0; i < n; i += ATTN_ROWS) {
        const size_t rows = n - i < ATTN_ROWS ? n - i : ATTN_ROWS, m = i + rows;
        struct gemm_call g =
            call(p, m, rows, m, s->hd, by_rows(q + i * ld, ld), by_cols(k, kld), false);

        gemm_serial(kern(j->c), j->c->compute, &g, pack);
        weights(j, p, rows, m, i, j->lse + (t0 + i) * s->H + h, s->H, false);
        g = call(j->o + (t0 + i) * ld + h * s->hd, ld, rows, s->hd, m, by_rows(p, m),
                 by_rows(v, kld), false);
        gemm_serial(kern(j->c), j->c->compute, &g, pack);
    }
}

/* Backward: dk and dv of the kv head are summed over its query heads and their blocks in order. */
static void head_bwd(const struct attn_job *j, size_t t0, size_t n, size_t h, float *room)
{
    const struct attn_shape *s = j->s;
    const struct cpu_kern *kn = kern(j->c);
    const size_t hd = s->hd, ld = s->H * hd, kld = s->K * hd, kh = h / (s->H / s->K);
    const size_t kat = t0 * kld + kh * hd;
    const float *k = j->k + kat, *v = j->v + kat, scale = 1 / sqrtf((float)hd);
    float *p = room, *ds = p + ATTN_ROWS * j->longest, *pack = ds + ATTN_ROWS * j->longest;

    for (size_t i = 0; i < n; i += ATTN_ROWS) {
        const size_t rows = n - i < ATTN_ROWS ? n - i : ATTN_ROWS, m = i + rows;
        const size_t at = (t0 + i) * ld + h * hd;
        struct gemm_call g =
            call(p, m, rows, m, hd, by_rows(j->q + at, ld), by_cols(k, kld), false);

        gemm_serial(kn, j->c->compute, &g, pack);
        weights(j, p, rows, m, i, (float *)(uintptr_t)(j->lse_in + (t0 + i) * s->H + h), s->H,
                true);
        g = call(ds, m, rows, m, hd, by_rows(j->dy + at, ld), by_cols(v, kld), false);
        gemm_serial(kn, j->c->compute, &g, pack);
        for (size_t r = 0; r < rows; r++) {
            const float D = kn->dot_one(j->dy + at + r * ld, j->o_in + at + r * ld, hd);

            for (size_t c = 0; c < m; c++)
                ds[r * m + c] = p[r * m + c] * (ds[r * m + c] - D) * scale;
        }
        g = call(j->dq + at, ld, rows, hd, m, by_rows(ds, m), by_rows(k, kld), false);
        gemm_serial(kn, j->c->compute, &g, pack);
        g = call(j->dk + kat, kld, m, hd, rows, by_cols(ds, m), by_rows(j->q + at, ld), true);
        gemm_serial(kn, j->c->compute, &g, pack);
        g = call(j->dv + kat, kld, m, hd, rows, by_cols(p, m), by_rows(j->dy + at, ld), true);
        gemm_serial(kn, j->c->compute, &g, pack);
    }
}

/* A unit is one sequence and one kv head. */
static void attn_part(void *arg, int me, int n)
{
    struct attn_job *j = arg;
    const struct attn_shape *s = j->s;
    const size_t group = s->H / s->K;
    float *room = j->room + (size_t)me * j->room_n;

    (void)n;
    for (size_t u; (u = atomic_fetch_add(&j->next, 1)) < s->n_seq * s->K;) {
        const size_t t0 = (size_t)s->cu[u / s->K], len = (size_t)s->cu[u / s->K + 1] - t0;
        const size_t kh = u % s->K;

        for (size_t t = t0; j->dk && t < t0 + len; t++) {
            memset(j->dk + (t * s->K + kh) * s->hd, 0, s->hd * sizeof(float));
            memset(j->dv + (t * s->K + kh) * s->hd, 0, s->hd * sizeof(float));
        }
        for (size_t h = kh * group; h < (kh + 1) * group; h++) {
            if (j->dk)
                head_bwd(j, t0, len, h, room);
            else
                head_fwd(j, t0, len, h, room);
        }
    }
}

/* Room of a thread for sequences of up to n rows. */
static size_t attn_floats(size_t hd, size_t n)
{
    /* A is a block of scores, as it is or turned, or a block of queries */
    const size_t copy = GEMM_COPY(ATTN_ROWS, n > hd ? n : hd);

    return (2 * ATTN_ROWS * n + GEMM_ROOM + copy + 15) / 16 * 16;
}

static void attn_run(struct ctx *c, struct attn_job *j)
{
    struct cpu *b = c->backend;
    const struct attn_shape *s = j->s;

    j->longest = s->longest;
    j->c = c;
    j->room_n = attn_floats(s->hd, j->longest);
    j->room = room_get(&b->train_thread, (size_t)team_size(c->team) * j->room_n * sizeof(float));
    cpu_share(c, attn_part, j, s->T * j->longest);
}

static void attn_cpu_train(struct ctx *c, float *o, float *lse, const struct attn_shape *s,
                           const float *q, const float *k, const float *v)
{
    struct attn_job j = { .s = s, .q = q, .k = k, .v = v, .o = o, .lse = lse };

    attn_run(c, &j);
}

static void attn_bwd_cpu(struct ctx *c, float *dq, float *dk, float *dv, const float *dy,
                         const struct attn_shape *s, const float *q, const float *k, const float *v,
                         const float *o, const float *lse)
{
    struct attn_job j = { .s = s,
                          .q = q,
                          .k = k,
                          .v = v,
                          .dy = dy,
                          .o_in = o,
                          .lse_in = lse,
                          .dq = dq,
                          .dk = dk,
                          .dv = dv };

    attn_run(c, &j);
}

/* ---- rows ---- */

struct loss_job {
    const struct cpu_kern *k;
    float *nll, *z;
    const int32_t *label;
    const float *coef;
    struct loss_form form;
    size_t T, V;
};

static double mean_of(const float *z, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)z[i];
    return sum / (double)n;
}

static void loss_part(void *arg, int me, int n)
{
    const struct loss_job *j = arg;
    const float e = j->coef ? j->form.smooth : 0;
    size_t lo, hi;

    team_part(j->T, 1, me, n, &lo, &hi);
    for (size_t t = lo; t < hi; t++) {
        float *z = j->z + t * j->V;
        const size_t label = (size_t)j->label[t];
        const float max = j->k->largest(z, j->V), own = z[label];
        const double above = e > 0 ? (double)own - mean_of(z, j->V) : 0;
        const float sum = j->k->exp_sum(z, z, j->V, 1, max);

        j->nll[t] = max - own + logf(sum);
        if (!j->coef)
            continue;
        const float p = j->form.dft ? expf(-j->nll[t]) : 1, coef = j->coef[t] * p;
        const float by = coef / sum, all = coef * e / (float)j->V;

        j->nll[t] = p * (j->nll[t] + (float)((double)e * above));
        for (size_t i = 0; i < j->V; i++)
            z[i] = z[i] * by - all;
        z[label] -= coef * (1 - e);
    }
}

static void cross_entropy_cpu(struct ctx *c, float *nll, float *z, const int32_t *label,
                              const float *coef, struct loss_form form, size_t T, size_t V)
{
    struct loss_job j = { kern(c), nll, z, label, coef, form, T, V };

    cpu_share(c, loss_part, &j, T * V);
}

struct col_job {
    float *y;
    const float *x, *z, *by;
    size_t T, N;
    bool add;
};

static void col_dot_part(void *arg, int me, int n)
{
    const struct col_job *j = arg;
    size_t lo, hi;

    team_part(j->N, 64, me, n, &lo, &hi);
    for (size_t i = lo; i < hi; i += 64) {
        const size_t m = hi - i < 64 ? hi - i : 64;
        float s[64] = { 0 };

        for (size_t t = 0; t < j->T; t++)
            for (size_t k = 0; k < m; k++)
                s[k] += j->x[t * j->N + i + k] * j->z[t * j->N + i + k];
        for (size_t k = 0; k < m; k++)
            j->y[i + k] += s[k] * j->by[i + k];
    }
}

static void col_dot_cpu(struct ctx *c, float *d, const float *x, const float *y, const float *by,
                        size_t T, size_t N)
{
    struct col_job j = { d, x, y, by, T, N, true };

    cpu_share(c, col_dot_part, &j, T * N);
}

static void col_scale_part(void *arg, int me, int n)
{
    const struct col_job *j = arg;
    size_t lo, hi;

    team_part(j->T, 1, me, n, &lo, &hi);
    for (size_t t = lo; t < hi; t++) {
        float *y = j->y + t * j->N;
        const float *x = j->x + t * j->N;

        for (size_t i = 0; i < j->N; i++)
            y[i] = x[i] * j->by[i] + (j->add ? y[i] : 0);
    }
}

static void col_scale_cpu(struct ctx *c, float *y, const float *x, const float *by, size_t T,
                          size_t N, bool add)
{
    struct col_job j = { .y = y, .x = x, .by = by, .T = T, .N = N, .add = add };

    cpu_share(c, col_scale_part, &j, T * N);
}

struct drop_job {
    float *y;
    const float *x;
    size_t n;
    float p;
    uint64_t seed;
    bool add;
};

static void dropout_part(void *arg, int me, int n)
{
    const struct drop_job *j = arg;
    const float by = 1 / (1 - j->p), below = j->p * 65536;
    size_t lo, hi;

    team_part(j->n, 4, me, n, &lo, &hi);
    for (size_t i = lo; i < hi; i += 4) {
        uint64_t bits = rng_u64(j->seed, i / 4);

        for (size_t k = i; k < i + 4 && k < hi; k++, bits >>= 16)
            j->y[k] = (j->add ? j->y[k] : 0) + ((float)(bits & 0xffff) < below ? 0 : j->x[k] * by);
    }
}

static void dropout_cpu(struct ctx *c, float *y, const float *x, size_t n, float p, uint64_t seed,
                        bool add)
{
    struct drop_job j = { y, x, n, p, seed, add };

    cpu_share(c, dropout_part, &j, 8 * n);
}

struct embed_job {
    float *dw;
    const float *dy;
    const int32_t *ids;
    size_t rs, cs, T, D;
};

static void embed_part(void *arg, int me, int n)
{
    const struct embed_job *j = arg;
    size_t lo, hi;

    team_part(j->D, 16, me, n, &lo, &hi);
    for (size_t t = 0; t < j->T; t++)
        for (size_t i = lo; i < hi; i++)
            j->dw[(size_t)j->ids[t] * j->rs + i * j->cs] += j->dy[t * j->D + i];
}

static void embed_bwd_cpu(struct ctx *c, float *dw, size_t rs, size_t cs, const float *dy,
                          const int32_t *ids, size_t T, size_t D)
{
    struct embed_job j = { dw, dy, ids, rs, cs, T, D };

    cpu_share(c, embed_part, &j, T * D);
}

struct norm_job {
    struct ctx *c;
    float *dx, *dw, *r;
    const float *dy, *x, *w;
    size_t T, D;
    float eps;
};

static void norm_part(void *arg, int me, int n)
{
    const struct norm_job *j = arg;
    size_t lo, hi;

    team_part(j->T, 1, me, n, &lo, &hi);
    for (size_t t = lo; t < hi; t++)
        kern(j->c)->rmsnorm_bwd(j->dx + t * j->D, j->r + t, j->dy + t * j->D, j->x + t * j->D, j->w,
                                j->D, j->eps);
    if (!j->dw)
        return;
    if (n > 1)
        team_barrier(j->c->team, me);
    team_part(j->D, 16, me, n, &lo, &hi);
    for (size_t t = 0; t < j->T; t++)
        for (size_t i = lo; i < hi; i++)
            j->dw[i] += j->dy[t * j->D + i] * j->x[t * j->D + i] * j->r[t];
}

static void rmsnorm_bwd_cpu(struct ctx *c, float *dx, float *dw, const float *dy, const float *x,
                            const float *w, size_t T, size_t D, float eps)
{
    struct cpu *b = c->backend;
    struct norm_job j = { c, dx, dw, room_get(&b->train_thread, T * sizeof(float)), dy, x, w,
                          T, D,  eps };

    cpu_share(c, norm_part, &j, T * D);
}

struct swiglu_job {
    const struct cpu_kern *k;
    float *dg, *du;
    const float *dh, *g, *u;
    size_t n;
};

static void swiglu_part(void *arg, int me, int n)
{
    const struct swiglu_job *j = arg;
    size_t lo, hi;

    team_part(j->n, 64, me, n, &lo, &hi);
    j->k->swiglu_bwd(j->dg + lo, j->du + lo, j->dh + lo, j->g + lo, j->u + lo, hi - lo);
}

static void swiglu_bwd_cpu(struct ctx *c, float *dg, float *du, const float *dh, const float *g,
                           const float *u, size_t T, size_t F)
{
    struct swiglu_job j = { kern(c), dg, du, dh, g, u, T * F };

    cpu_share(c, swiglu_part, &j, T * F);
}

/* ---- the optimiser ---- */

struct adamw_job {
    const struct cpu_kern *k;
    const struct adamw *a;
    float c1, c2;
    float *w, *m, *v;
    const float *g;
    size_t n;
};

static void adamw_part(void *arg, int me, int n)
{
    const struct adamw_job *j = arg;
    size_t lo, hi;

    team_part(j->n, 64, me, n, &lo, &hi);
    j->k->adamw(j->a, j->c1, j->c2, j->w + lo, j->m + lo, j->v + lo, j->g + lo, hi - lo);
}

static void adamw_cpu(struct ctx *c, const struct adamw *a, const struct adamw_values *of,
                      size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct adamw_values *x = &of[i];
        struct adamw own = *a;
        struct adamw_job j = {
            .k = kern(c), .a = &own, .w = x->w, .m = x->m, .v = x->v, .g = x->g, .n = x->n
        };

        own.decay = x->decays ? a->decay : 0;
        j.c1 = (float)(1 / (1 - pow((double)a->beta1, (double)a->step)));
        j.c2 = (float)(1 / (1 - pow((double)a->beta2, (double)a->step)));
        cpu_share(c, adamw_part, &j, x->n);
    }
}

enum { SUM_PART = 1 << 14 }; /* values summed in float32; their sums are added in double */

static double squares(const struct cpu_kern *k, const float *x, size_t n)
{
    double s = 0;

    for (size_t i = 0; i < n; i += SUM_PART) {
        const size_t m = n - i < SUM_PART ? n - i : SUM_PART;

        s += (double)k->dot_one(x + i, x + i, m);
    }
    return s;
}

static void square_sum_cpu(struct ctx *c, double *out, const struct adamw_values *of, size_t count)
{
    *out = 0;
    for (size_t i = 0; i < count; i++)
        *out += squares(kern(c), of[i].g, of[i].n);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t scratch_cpu(const struct ctx *c, const struct train_need *need)
{
    const bool half = c->compute == COMPUTE_BF16;
    const size_t value = half && kern(c)->gemm_bf16 ? sizeof(bf16) : sizeof(float);
    const size_t copy =
        larger(GEMM_COPY(need->T, larger(need->wide, SUMMED)), GEMM_COPY(need->rows, need->cols));
    const size_t row = need->wide * (half ? sizeof(bf16) : sizeof(float));
    const size_t decoded = need->encoded ? larger(DECODED, DECODED_ROWS * row) : 0;
    const size_t thread = larger(attn_floats(need->hd, need->T), DECODE_ROWS * need->wide);

    return copy * value + decoded + (size_t)team_size(c->team) * thread * sizeof(float);
}

/* ---- what moves values ---- */

static void copy_cpu(struct ctx *c, void *y, const void *x, size_t bytes)
{
    (void)c;
    memcpy(y, x, bytes);
}

static void zero_cpu(struct ctx *c, void *y, size_t bytes)
{
    (void)c;
    memset(y, 0, bytes);
}

static void scatter_cpu(struct ctx *c, float *y, const float *x, const int32_t *rows, size_t n,
                        size_t D)
{
    (void)c;
    for (size_t i = 0; i < n; i++)
        memcpy(y + (size_t)rows[i] * D, x + i * D, D * sizeof(*y));
}

static void noise_cpu(struct ctx *c, float *x, size_t n, uint64_t first, double by, uint64_t seed)
{
    (void)c;
    for (size_t i = 0; i < n; i++)
        x[i] += (float)((2 * rng_uniform(seed, first + i) - 1) * by);
}

const struct train_ops train_ops_cpu = {
    .adafactor = train_adafactor,
    .adamw = adamw_cpu,
    .attn = attn_cpu_train,
    .attn_bwd = attn_bwd_cpu,
    .col_dot = col_dot_cpu,
    .col_scale = col_scale_cpu,
    .columns = train_columns,
    .copy = copy_cpu,
    .cross_entropy = cross_entropy_cpu,
    .dora_gain = train_dora_gain,
    .dropout = dropout_cpu,
    .embed_bwd = embed_bwd_cpu,
    .linear_dx = linear_dx_cpu,
    .linear_fwd = linear_fwd_cpu,
    .noise = noise_cpu,
    .product = product_cpu,
    .rmsnorm_bwd = rmsnorm_bwd_cpu,
    .scatter = scatter_cpu,
    .scratch = scratch_cpu,
    .square_sum = square_sum_cpu,
    .swiglu_bwd = swiglu_bwd_cpu,
    .zero = zero_cpu,
};
