/* ref.c - the scalar truth of every op: plain C, one thread, sums in double, so
 * that a fast path is compared with something closer to the mathematics than itself. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "format/enc/f8.h"
#include "ops/ops.h"

/* n values of a cache; E4M3 has no decode and encode of its own, for it is no encoding of weights.
 */
static void cache_get(float *y, enum enc enc, const uint8_t *from, size_t n)
{
    if (enc != ENC_F8_E4M3)
        enc_table[enc].decode(y, from, n);
    else
        for (size_t i = 0; i < n; i++)
            y[i] = f8_e4m3_to_f32(from[i]);
}

static void cache_put(uint8_t *to, enum enc enc, const float *x, size_t n)
{
    if (enc != ENC_F8_E4M3)
        enc_table[enc].encode(to, x, n);
    else
        for (size_t i = 0; i < n; i++)
            to[i] = f32_to_f8_e4m3(x[i]);
}

static void attn_ref(struct ctx *c, float *y, const float *q, size_t H, const struct kv_cache *kv,
                     size_t layer, const struct batch *b)
{
    const size_t hd = kv->head_dim, K = kv->kv_heads, row_bytes = kv_row_bytes(kv->enc, hd);
    const double scale = 1 / sqrt((double)hd);
    float *row = xmalloc(hd * sizeof(*row));

    (void)c;
    for (size_t t = 0; t < b->T; t++) {
        const int32_t *table = b->block_table[b->seq[t]];
        const size_t n = (size_t)b->slot[t] + 1;
        double *p = xmalloc(n * sizeof(*p)), *acc = xmalloc(hd * sizeof(*acc));

        for (size_t h = 0; h < H; h++) {
            const float *qh = q + (t * H + h) * hd;
            const size_t kh = h / (H / K);
            double max = -INFINITY, sum = 0;

            for (size_t j = 0; j < n; j++) {
                const size_t at =
                    (((size_t)table[j / KV_BLOCK] * K + kh) * KV_BLOCK + j % KV_BLOCK) * row_bytes;
                double s = 0;

                cache_get(row, kv->enc, (const uint8_t *)kv->layer[layer].k + at, hd);
                for (size_t i = 0; i < hd; i++)
                    s += (double)qh[i] * row[i];
                p[j] = s * scale;
                max = fmax(max, p[j]);
            }
            for (size_t i = 0; i < hd; i++)
                acc[i] = 0;
            for (size_t j = 0; j < n; j++) {
                const size_t at =
                    (((size_t)table[j / KV_BLOCK] * K + kh) * KV_BLOCK + j % KV_BLOCK) * row_bytes;
                const double e = exp(p[j] - max);

                cache_get(row, kv->enc, (const uint8_t *)kv->layer[layer].v + at, hd);
                sum += e;
                for (size_t i = 0; i < hd; i++)
                    acc[i] += e * row[i];
            }
            for (size_t i = 0; i < hd; i++)
                y[(t * H + h) * hd + i] = (float)(acc[i] / sum);
        }
        free(p);
        free(acc);
    }
    free(row);
}

static void affine_ref(struct ctx *c, float *y, const struct weight *w, const float *b,
                       const float *x, size_t T, bool add)
{
    float *row = xmalloc(w->cols * sizeof(*row));

    (void)c;
    for (size_t r = 0; r < w->rows; r++) {
        weight_decode_row(row, w, r);
        for (size_t t = 0; t < T; t++) {
            double s = (double)b[r] + (add ? (double)y[t * w->rows + r] : 0);

            for (size_t i = 0; i < w->cols; i++)
                s += (double)row[i] * x[t * w->cols + i];
            y[t * w->rows + r] = (float)s;
        }
    }
    free(row);
}

static void attn_rel_ref(struct ctx *c, float *y, const struct rel_attn *a)
{
    const size_t D = a->H * a->hd;
    double *p = xmalloc(a->n * sizeof(*p));

    (void)c;
    for (size_t u = 0; u < a->rows * a->H; u++) {
        const size_t i = u / a->H, h = u % a->H;
        const float *q = a->q + i * D + h * a->hd;
        double max = -INFINITY, sum = 0;

        for (size_t j = 0; j < a->n; j++) {
            const size_t b = (size_t)a->bucket[i + a->n - 1 - j];
            const float *k = a->k + j * D + h * a->hd;
            const float *rq = a->rel_q + b * D + h * a->hd, *rk = a->rel_k + b * D + h * a->hd;

            p[j] = 0;
            for (size_t d = 0; d < a->hd; d++)
                p[j] += (double)q[d] * k[d] + (double)q[d] * rk[d] + (double)k[d] * rq[d];
            p[j] /= sqrt(3 * (double)a->hd);
            max = fmax(max, p[j]);
        }
        for (size_t j = 0; j < a->n; j++)
            sum += p[j] = exp(p[j] - max);
        for (size_t d = 0; d < a->hd; d++) {
            double s = 0;

            for (size_t j = 0; j < a->n; j++)
                s += p[j] * a->v[j * D + h * a->hd + d];
            y[i * D + h * a->hd + d] = (float)(s / sum);
        }
    }
    free(p);
}

static void gelu_ref(struct ctx *c, float *x, size_t T, size_t D)
{
    (void)c;
    for (size_t i = 0; i < T * D; i++)
        x[i] = (float)(0.5 * (double)x[i] * erfc(-(double)x[i] / sqrt(2)));
}

static void layernorm_ref(struct ctx *c, float *y, const float *x, const float *w, const float *b,
                          size_t T, size_t D, float eps)
{
    (void)c;
    for (size_t t = 0; t < T; t++, x += D, y += D) {
        double mean = 0, var = 0;

        for (size_t i = 0; i < D; i++)
            mean += (double)x[i] / (double)D;
        for (size_t i = 0; i < D; i++)
            var += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)D;
        for (size_t i = 0; i < D; i++)
            y[i] = (float)(((double)x[i] - mean) / sqrt(var + (double)eps) * (double)w[i] +
                           (double)b[i]);
    }
}

static void embed_ref(struct ctx *c, float *y, const struct weight *w, const int32_t *ids, size_t T)
{
    (void)c;
    for (size_t t = 0; t < T; t++)
        weight_decode_row(y + t * w->cols, w, (size_t)ids[t]);
}

static void gather_ref(struct ctx *c, float *y, const float *x, const int32_t *rows, size_t n,
                       size_t D)
{
    (void)c;
    for (size_t i = 0; i < n; i++)
        memcpy(y + i * D, x + (size_t)rows[i] * D, D * sizeof(*y));
}

static void kv_write_ref(struct ctx *c, const float *k, const float *v, const struct kv_cache *kv,
                         size_t layer, const struct batch *b)
{
    const size_t hd = kv->head_dim, K = kv->kv_heads, row_bytes = kv_row_bytes(kv->enc, hd);

    (void)c;
    for (size_t t = 0; t < b->T; t++) {
        const size_t slot = (size_t)b->slot[t];
        const size_t block = (size_t)b->block_table[b->seq[t]][slot / KV_BLOCK];

        for (size_t h = 0; h < K; h++) {
            const size_t at = ((block * K + h) * KV_BLOCK + slot % KV_BLOCK) * row_bytes;

            cache_put((uint8_t *)kv->layer[layer].k + at, kv->enc, k + (t * K + h) * hd, hd);
            cache_put((uint8_t *)kv->layer[layer].v + at, kv->enc, v + (t * K + h) * hd, hd);
        }
    }
}

/* What a product makes of a row of inputs. */
static void inputs(float *y, const struct ctx *c, const struct weight *w, const float *x)
{
    if (c->compute == COMPUTE_AUTO) {
        weight_act(y, w, x);
        return;
    }
    for (size_t i = 0; i < w->cols; i++)
        y[i] = c->compute == COMPUTE_BF16 ? bf16_to_f32(f32_to_bf16(x[i])) : x[i];
}

/* y[T, rows] (+)= x[T, cols] W^T */
static void product(const struct ctx *c, float *y, const struct weight *w, const float *x, size_t T,
                    bool add)
{
    float *row = xmalloc(w->cols * sizeof(*row)), *in = xmalloc((T * w->cols + 1) * sizeof(*in));

    for (size_t t = 0; t < T; t++)
        inputs(in + t * w->cols, c, w, x + t * w->cols);
    for (size_t r = 0; r < w->rows; r++) {
        weight_decode_row(row, w, r);
        for (size_t t = 0; t < T; t++) {
            double s = 0;

            for (size_t i = 0; i < w->cols; i++)
                s += (double)row[i] * in[t * w->cols + i];
            y[t * w->rows + r] = (float)(s + (add ? (double)y[t * w->rows + r] : 0.0));
        }
    }
    free(row);
    free(in);
}

static void linear_ref(struct ctx *c, const struct linear_out *out, size_t n, const float *x,
                       size_t T)
{
    for (size_t i = 0; i < n; i++)
        product(c, out[i].y, out[i].w, x, T, false);
}

static void linear_add_ref(struct ctx *c, float *y, const struct weight *w, const float *x,
                           size_t T)
{
    product(c, y, w, x, T, true);
}

static void rmsnorm_ref(struct ctx *c, float *y, const float *x, const float *w, size_t T, size_t D,
                        float eps)
{
    (void)c;
    for (size_t t = 0; t < T; t++) {
        const float *xt = x + t * D;
        double s = 0;

        for (size_t i = 0; i < D; i++)
            s += (double)xt[i] * xt[i];
        const double r = 1 / sqrt(s / (double)D + (double)eps);
        for (size_t i = 0; i < D; i++)
            y[t * D + i] = (float)(xt[i] * r * w[i]);
    }
}

static void rope_ref(struct ctx *c, float *x, size_t heads, size_t hd, const int32_t *pos,
                     const float *inv_freq, bool interleaved, size_t T)
{
    const size_t half = hd / 2;

    (void)c;
    for (size_t t = 0; t < T; t++) {
        for (size_t i = 0; i < half; i++) {
            /* the angle is rounded to float32 first, as the reference does: at position
             * 120,000 the difference is visible */
            const float angle = (float)pos[t] * inv_freq[i];
            const float cs = (float)cos((double)angle), sn = (float)sin((double)angle);
            const size_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;

            for (size_t h = 0; h < heads; h++) {
                float *v = x + (t * heads + h) * hd;
                const float va = v[a], vb = v[b];

                v[a] = va * cs - vb * sn;
                v[b] = vb * cs + va * sn;
            }
        }
    }
}

static void scale_ref(struct ctx *c, float *x, size_t n, float by)
{
    (void)c;
    for (size_t i = 0; i < n; i++)
        x[i] *= by;
}

static void swiglu_ref(struct ctx *c, float *h, const float *g, const float *u, size_t T, size_t F)
{
    (void)c;
    for (size_t i = 0; i < T * F; i++)
        h[i] = (float)((double)g[i] / (1 + exp(-(double)g[i])) * u[i]);
}

const struct ops ops_ref = {
#define OP(ret, name, args) .name = name##_ref,
#include "ops/ops.def"
#undef OP
};
