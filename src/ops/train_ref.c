/* train_ref.c - the scalar truth of the training ops: plain C, one thread, sums in double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "ops/train.h"

static void adamw_one(const struct adamw *a, float *w, float *m, float *v, const float *g, size_t n)
{
    const double c1 = 1 - pow((double)a->beta1, (double)a->step);
    const double c2 = 1 - pow((double)a->beta2, (double)a->step);

    for (size_t i = 0; i < n; i++) {
        const double gi = (double)g[i] * a->clip;

        m[i] = (float)((double)a->beta1 * m[i] + (1 - (double)a->beta1) * gi);
        v[i] = (float)((double)a->beta2 * v[i] + (1 - (double)a->beta2) * gi * gi);
        w[i] = (float)(w[i] * (1 - (double)a->lr * a->decay) -
                       a->lr / c1 * m[i] / (sqrt(v[i] / c2) + (double)a->eps));
    }
}

static void adamw_ref(struct ctx *c, const struct adamw *a, const struct adamw_values *of,
                      size_t count)
{
    (void)c;
    for (size_t i = 0; i < count; i++) {
        struct adamw own = *a;

        own.decay = of[i].decays ? a->decay : 0;
        adamw_one(&own, of[i].w, of[i].m, of[i].v, of[i].g, of[i].n);
    }
}

void adamw_round_at_random(uint16_t *to, const float *x, size_t n, uint64_t seed, int64_t step,
                           size_t at)
{
    const uint64_t first = (uint64_t)step << 36 | at / 4;
    uint64_t bits = 0;

    for (size_t i = 0; i < n; i++) {
        if (i % 4 == 0)
            bits = rng_u64(seed, first + i / 4);
        const uint32_t u = f32_bits(x[i]);

        to[i] =
            isfinite(x[i]) ? (uint16_t)((u + (uint32_t)(bits & 0xffff)) >> 16) : f32_to_bf16(x[i]);
        bits >>= 16;
    }
}

/* Moments at .. at + n as they are kept, to or from m. */
static void moments(float *m, float *kept, uint8_t *code, float *max, const struct bnb_map *map,
                    size_t at, size_t n, bool store)
{
    if (kept && store)
        memcpy(kept + at, m, n * sizeof(*m));
    else if (kept)
        memcpy(m, kept + at, n * sizeof(*m));
    else if (store)
        max[at / ADAMW_BLOCK] = bnb_encode8(code + at, map, m, n);
    for (size_t i = 0; i < n && !kept && !store; i++)
        m[i] = map->map[code[at + i]] * max[at / ADAMW_BLOCK];
}

static void adamw_packed_ref(struct ctx *c, const struct adamw *a, const struct adamw_packed *p)
{
    (void)c;
    for (size_t at = 0; at < p->n; at += ADAMW_BLOCK) {
        const size_t n = p->n - at < ADAMW_BLOCK ? p->n - at : ADAMW_BLOCK;
        float m[ADAMW_BLOCK], v[ADAMW_BLOCK], room[ADAMW_BLOCK], *w = p->half ? room : p->w + at;
        float wide[ADAMW_BLOCK];

        for (size_t i = 0; p->half_g && i < n; i++)
            wide[i] = bf16_to_f32(((const uint16_t *)(const void *)p->g)[at + i]);

        for (size_t i = 0; p->half && i < n; i++)
            w[i] = bf16_to_f32(p->half[at + i]);
        moments(m, p->m, p->m_code, p->m_max, &p->map[0], at, n, false);
        moments(v, p->v, p->v_code, p->v_max, &p->map[1], at, n, false);
        adamw_one(a, w, m, v, p->half_g ? wide : p->g + at, n);
        moments(m, p->m, p->m_code, p->m_max, &p->map[0], at, n, true);
        moments(v, p->v, p->v_code, p->v_max, &p->map[1], at, n, true);
        if (p->half)
            adamw_round_at_random(p->half + at, w, n, p->seed, a->step, at);
    }
}

static double gradient_at(const struct adafactor *p, size_t i, double clip)
{
    return clip *
           (double)(p->half_g ? bf16_to_f32(((const uint16_t *)(const void *)p->g)[i]) : p->g[i]);
}

/* Means of squares, and what a gradient is multiplied by for them: by_row[rows], by_col[cols]. */
static void factors(const struct adafactor *p, double clip, double b2, double *by_row,
                    double *by_col)
{
    double mean = 0;

    for (size_t i = 0; i < p->cols; i++)
        by_col[i] = 0;
    for (size_t r = 0; r < p->rows; r++) {
        double s = 0;

        for (size_t i = 0; i < p->cols; i++) {
            const double g = gradient_at(p, r * p->cols + i, clip), x = g * g + 1e-30;

            s += x;
            by_col[i] += x;
        }
        if (p->row)
            p->row[r] = (float)(b2 * (double)p->row[r] + (1 - b2) * s / (double)p->cols);
        by_row[r] = p->row ? (double)p->row[r] : 1;
        mean += by_row[r] / (double)p->rows;
    }
    for (size_t r = 0; r < p->rows; r++)
        by_row[r] = sqrt(mean / by_row[r]);
    for (size_t i = 0; i < p->cols; i++) {
        p->col[i] = (float)(b2 * (double)p->col[i] + (1 - b2) * by_col[i] / (double)p->rows);
        by_col[i] = 1 / sqrt((double)p->col[i]);
    }
}

void train_adafactor(struct ctx *c, const struct adamw *a, const struct adafactor *p)
{
    enum { SOME = 4096 };
    const size_t n = p->rows * p->cols, C = p->cols;
    const double clip = (double)a->clip, b2 = 1 - pow((double)a->step, -0.8);
    double *by_row = xmalloc((p->rows + C) * sizeof(*by_row)), *by_col = by_row + p->rows, sum = 0;

    (void)c;
    factors(p, clip, b2, by_row, by_col);
    for (size_t i = 0; i < n; i++) {
        const double u = gradient_at(p, i, clip) * by_row[i / C] * by_col[i % C];

        sum += u * u;
    }
    const double rms = sqrt(sum / (double)n), lr = (double)a->lr / (rms > 1 ? rms : 1);
    const double keep = 1 - (double)a->lr * (double)a->decay;

    for (size_t at = 0; at < n; at += SOME) {
        const size_t m = n - at < SOME ? n - at : SOME;
        float room[SOME], *w = p->half ? room : p->w + at;

        for (size_t k = 0; k < m; k++) {
            const size_t i = at + k;
            const double was = (double)(p->half ? bf16_to_f32(p->half[i]) : w[k]);

            w[k] =
                (float)(was * keep - lr * gradient_at(p, i, clip) * by_row[i / C] * by_col[i % C]);
        }
        if (p->half)
            adamw_round_at_random(p->half + at, w, m, p->seed, a->step, at);
    }
    free(by_row);
}

/* Where head h of row t lies in a matrix of `heads` heads. */
static size_t head_at(const struct attn_shape *s, size_t t, size_t heads, size_t h)
{
    return (t * heads + h) * s->hd;
}

static double rounded(const struct ctx *c, float x)
{
    return c->compute == COMPUTE_BF16 ? bf16_to_f32(f32_to_bf16(x)) : x;
}

static double dot(const float *a, const float *b, size_t n)
{
    double s = 0;

    for (size_t i = 0; i < n; i++)
        s += (double)a[i] * b[i];
    return s;
}

/* The same of values as they are multiplied. */
static double dot_rounded(const struct ctx *c, const float *a, const float *b, size_t n)
{
    double s = 0;

    for (size_t i = 0; i < n; i++)
        s += rounded(c, a[i]) * rounded(c, b[i]);
    return s;
}

static void attn_ref(struct ctx *c, float *o, float *lse, const struct attn_shape *s,
                     const float *q, const float *k, const float *v)
{
    const double scale = 1 / sqrt((double)s->hd);

    for (size_t i = 0; i < s->n_seq; i++) {
        for (size_t t = (size_t)s->cu[i]; t < (size_t)s->cu[i + 1]; t++) {
            for (size_t h = 0; h < s->H; h++) {
                const size_t kh = h / (s->H / s->K), first = (size_t)s->cu[i];
                const float *qt = q + head_at(s, t, s->H, h);
                float *to = o + head_at(s, t, s->H, h);
                double max = -INFINITY, sum = 0;

                for (size_t j = first; j <= t; j++)
                    max = fmax(max, dot_rounded(c, qt, k + head_at(s, j, s->K, kh), s->hd) * scale);
                for (size_t j = first; j <= t; j++)
                    sum +=
                        exp(dot_rounded(c, qt, k + head_at(s, j, s->K, kh), s->hd) * scale - max);
                lse[t * s->H + h] = (float)(max + log(sum));
                memset(to, 0, s->hd * sizeof(*to));
                for (size_t j = first; j <= t; j++) {
                    const size_t at = head_at(s, j, s->K, kh);
                    const double score = dot_rounded(c, qt, k + at, s->hd) * scale;
                    const double p = rounded(c, (float)(exp(score - max) / sum));

                    for (size_t d = 0; d < s->hd; d++)
                        to[d] += (float)(p * rounded(c, v[at + d]));
                }
            }
        }
    }
}

static void attn_bwd_ref(struct ctx *c, float *dq, float *dk, float *dv, const float *dy,
                         const struct attn_shape *s, const float *q, const float *k, const float *v,
                         const float *o, const float *lse)
{
    const double scale = 1 / sqrt((double)s->hd);
    const size_t T = s->T;

    memset(dq, 0, T * s->H * s->hd * sizeof(*dq));
    memset(dk, 0, T * s->K * s->hd * sizeof(*dk));
    memset(dv, 0, T * s->K * s->hd * sizeof(*dv));
    for (size_t i = 0; i < s->n_seq; i++) {
        for (size_t t = (size_t)s->cu[i]; t < (size_t)s->cu[i + 1]; t++) {
            for (size_t h = 0; h < s->H; h++) {
                const size_t at = head_at(s, t, s->H, h), kh = h / (s->H / s->K);
                const double D = dot(dy + at, o + at, s->hd);

                for (size_t j = (size_t)s->cu[i]; j <= t; j++) {
                    const size_t kat = head_at(s, j, s->K, kh);
                    const double p =
                        exp(dot_rounded(c, q + at, k + kat, s->hd) * scale - lse[t * s->H + h]);
                    const double slope = p * (dot_rounded(c, dy + at, v + kat, s->hd) - D) * scale;
                    const double ds = rounded(c, (float)slope), by = rounded(c, (float)p);

                    for (size_t d = 0; d < s->hd; d++) {
                        dq[at + d] += (float)(ds * rounded(c, k[kat + d]));
                        dk[kat + d] += (float)(ds * rounded(c, q[at + d]));
                        dv[kat + d] += (float)(by * rounded(c, dy[at + d]));
                    }
                }
            }
        }
    }
}

static void copy_ref(struct ctx *c, void *y, const void *x, size_t bytes)
{
    (void)c;
    memcpy(y, x, bytes);
}

static void zero_ref(struct ctx *c, void *y, size_t bytes)
{
    (void)c;
    memset(y, 0, bytes);
}

static void scatter_ref(struct ctx *c, float *y, const float *x, const int32_t *rows, size_t n,
                        size_t D)
{
    (void)c;
    for (size_t i = 0; i < n; i++)
        memcpy(y + (size_t)rows[i] * D, x + i * D, D * sizeof(*y));
}

static void noise_ref(struct ctx *c, float *x, size_t n, uint64_t first, double by, uint64_t seed)
{
    (void)c;
    for (size_t i = 0; i < n; i++)
        x[i] += (float)((2 * rng_uniform(seed, first + i) - 1) * by);
}

static void cross_entropy_ref(struct ctx *c, float *nll, float *z, const int32_t *label,
                              const float *coef, struct loss_form form, size_t T, size_t V)
{
    const double e = coef ? (double)form.smooth : 0;

    (void)c;
    for (size_t t = 0; t < T; t++) {
        float *zt = z + t * V;
        double max = -INFINITY, sum = 0, mean = 0;

        for (size_t i = 0; i < V; i++) {
            max = fmax(max, zt[i]);
            mean += (double)zt[i] / (double)V;
        }
        for (size_t i = 0; i < V; i++)
            sum += exp(zt[i] - max);
        const double loss = max + log(sum) - (double)zt[label[t]];
        const double p = coef && form.dft ? exp(-loss) : 1;

        nll[t] = (float)(p * (loss + e * ((double)zt[label[t]] - mean)));
        for (size_t i = 0; coef && i < V; i++)
            zt[i] = (float)(coef[t] * p *
                            (exp(zt[i] - max) / sum - e / (double)V -
                             (i == (size_t)label[t] ? 1 - e : 0.0)));
    }
}

void train_columns(struct ctx *c, float *y, const float *w, const int32_t *ids, size_t T, size_t r,
                   size_t V)
{
    (void)c;
    for (size_t t = 0; t < T; t++)
        for (size_t k = 0; k < r; k++)
            y[t * r + k] = w[k * V + (size_t)ids[t]];
}

static void col_dot_ref(struct ctx *c, float *d, const float *x, const float *y, const float *by,
                        size_t T, size_t N)
{
    (void)c;
    for (size_t i = 0; i < N; i++) {
        double s = 0;

        for (size_t t = 0; t < T; t++)
            s += (double)x[t * N + i] * (double)y[t * N + i];
        d[i] += (float)(s * (double)by[i]);
    }
}

void train_dora_gain(struct ctx *c, const struct dora *d)
{
    const double s = (double)d->scale;

    (void)c;
    for (size_t o = 0; o < d->out; o++) {
        const float *b = d->b + o * d->r;
        double sum = (double)d->squares[o];

        for (size_t k = 0; k < d->r; k++) {
            double square = 0;

            for (size_t j = 0; j < d->r; j++)
                square += (double)b[j] * (double)d->aa[k * d->r + j];
            sum += (double)b[k] * (2 * s * (double)d->aw[k * d->out + o] + s * s * square);
        }
        d->length[o] = sum > 0 ? (float)(1 / sqrt(sum)) : 0;
        d->gain[o] = d->mag[o] * d->length[o];
        d->gain_less[o] = d->gain[o] - 1;
    }
}

static void col_scale_ref(struct ctx *c, float *y, const float *x, const float *by, size_t T,
                          size_t N, bool add)
{
    (void)c;
    for (size_t i = 0; i < T * N; i++)
        y[i] = x[i] * by[i % N] + (add ? y[i] : 0);
}

static void dropout_ref(struct ctx *c, float *y, const float *x, size_t n, float p, uint64_t seed,
                        bool add)
{
    (void)c;
    for (size_t i = 0; i < n; i++) {
        const uint64_t bits = rng_u64(seed, i / 4) >> (16 * (i % 4)) & 0xffff;

        y[i] = (add ? y[i] : 0) + ((float)bits < p * 65536 ? 0 : x[i] / (1 - p));
    }
}

static void embed_bwd_ref(struct ctx *c, float *dw, size_t rs, size_t cs, const float *dy,
                          const int32_t *ids, size_t T, size_t D)
{
    (void)c;
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < D; i++)
            dw[(size_t)ids[t] * rs + i * cs] += dy[t * D + i];
}

static void product_ref(struct ctx *c, const struct product *p)
{
    for (size_t i = 0; i < p->M; i++) {
        for (size_t j = 0; j < p->N; j++) {
            float *at = &p->c[i * (p->ldc ? p->ldc : p->N) + j];
            double s = 0;

            for (size_t k = 0; k < p->K; k++)
                s += rounded(c, p->a.p[i * p->a.rs + k * p->a.cs]) *
                     rounded(c, p->b.p[k * p->b.rs + j * p->b.cs]);
            *at = (float)(s * p->by + (p->add ? (double)*at : 0.0));
        }
    }
}

/* W as float32; free() it. */
static float *decoded(const struct weight *w)
{
    float *p = xmalloc((w->rows * w->cols + 1) * sizeof(*p));

    for (size_t r = 0; r < w->rows; r++)
        weight_decode_row(p + r * w->cols, w, r);
    return p;
}

static void linear_dx_ref(struct ctx *c, float *dx, const struct weight *w, const float *dy,
                          size_t T, bool add)
{
    float *full = decoded(w);
    const struct product p = { .c = dx,
                               .M = T,
                               .N = w->cols,
                               .K = w->rows,
                               .a = { .p = dy, .rs = w->rows, .cs = 1 },
                               .b = { .p = full, .rs = w->cols, .cs = 1 },
                               .by = 1,
                               .add = add };

    product_ref(c, &p);
    free(full);
}

static void linear_fwd_ref(struct ctx *c, float *y, const struct weight *w, const float *x,
                           size_t T, const float *to)
{
    float *full = decoded(w);
    const struct product p = { .c = y,
                               .M = T,
                               .N = w->rows,
                               .K = w->cols,
                               .a = { .p = x, .rs = w->cols, .cs = 1 },
                               .b = { .p = full, .rs = 1, .cs = w->cols },
                               .by = 1,
                               .add = to };

    if (to && to != y)
        memcpy(y, to, T * w->rows * sizeof(*y));
    product_ref(c, &p);
    free(full);
}

static void rmsnorm_bwd_ref(struct ctx *c, float *dx, float *dw, const float *dy, const float *x,
                            const float *w, size_t T, size_t D, float eps)
{
    (void)c;
    for (size_t t = 0; t < T; t++) {
        const float *xt = x + t * D, *dyt = dy + t * D;
        double s = 0;
        const double r = 1 / sqrt(dot(xt, xt, D) / (double)D + (double)eps);

        for (size_t i = 0; i < D; i++)
            s += (double)dyt[i] * w[i] * xt[i];
        for (size_t i = 0; i < D; i++) {
            dx[t * D + i] += (float)(r * dyt[i] * w[i] - r * r * r / (double)D * s * xt[i]);
            if (dw)
                dw[i] += (float)(dyt[i] * xt[i] * r);
        }
    }
}

static size_t scratch_ref(const struct ctx *c, const struct train_need *need)
{
    (void)c;
    (void)need;
    return 0;
}

static void square_sum_ref(struct ctx *c, double *out, const struct adamw_values *of, size_t count)
{
    (void)c;
    *out = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < of[i].n; k++) {
            const double g =
                (double)(of[i].half_g ? bf16_to_f32(((const uint16_t *)(const void *)of[i].g)[k])
                                      : of[i].g[k]);

            *out += g * g;
        }
}

static void swiglu_bwd_ref(struct ctx *c, float *dg, float *du, const float *dh, const float *g,
                           const float *u, size_t T, size_t F)
{
    (void)c;
    for (size_t i = 0; i < T * F; i++) {
        const double gi = g[i], ui = u[i], s = 1 / (1 + exp(-gi));

        dg[i] = (float)(dh[i] * ui * s * (1 + gi * (1 - s)));
        du[i] = (float)(dh[i] * gi * s);
    }
}

/* those that the CPU has too */
#define adafactor_ref train_adafactor
#define columns_ref   train_columns
#define dora_gain_ref train_dora_gain
const struct train_ops train_ops_ref = {
#define OP(ret, name, args) .name = name##_ref,
#include "ops/train.def"
#undef OP
};
