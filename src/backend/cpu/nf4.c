/* nf4.c - nf4.h in plain C, from the file's order. */
#include "backend/cpu/nf4.h"

size_t nf4_bytes(const struct weight *w, enum exact_in in)
{
    const float top = nf4_largest(w->p.map);

    (void)in;
    if (w->cols % 64 || w->p.group % 64 || w->p.group > NF4_GROUP || w->cols % w->p.group ||
        !(top >= 1e-6f && top <= 1e6f))
        return 0;
    return nf4_scales(w->cols) + w->cols * sizeof(int16_t);
}

size_t nf4_unit(const struct weight *w)
{
    return w->cols / w->p.group * LANES * sizeof(float) + w->cols / 2 * LANES;
}

static void form(void *to, const struct weight *w, enum exact_in in, const float *x)
{
    float *d = to;
    int16_t *q = (int16_t *)((uint8_t *)to + nf4_scales(w->cols));

    (void)in;
    for (size_t k = 0; k < w->cols; k += GROUP, x += GROUP, q += GROUP, d++) {
        float largest = 0, sum[16];

        for (size_t i = 0; i < GROUP; i++)
            largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
        for (size_t i = 0; i < 16; i++)
            sum[i] = fabsf(x[i]) + fabsf(x[i + 16]);
        for (size_t n = 8; n; n /= 2)
            for (size_t i = 0; i < n; i++)
                sum[i] += sum[i + n];
        *d = nf4_x_scale(largest, sum[0]);
        for (size_t i = 0; i < GROUP; i++)
            q[i] = *d > 0 ? (int16_t)rintf(x[i] / *d) : 0;
    }
}

static void dot(float *y, size_t ys, const struct weight *w, size_t r0, size_t R, enum exact_in in,
                const void *x, size_t T, bool add)
{
    const size_t K = w->cols, group = w->p.group, apart = exact_apart(nf4_bytes(w, in));
    const uint8_t *codes = weight_copy(w);
    int16_t table[16];
    const float by = nf4_table(table, w);

    for (size_t r = 0; r < R; r++) {
        for (size_t t = 0; t < T; t++) {
            const float *d = (const float *)((const uint8_t *)x + t * apart);
            const int16_t *q = (const int16_t *)((const uint8_t *)d + nf4_scales(K));
            float acc = 0, dw[LANES];

            for (size_t k = 0; k < K; k += GROUP) {
                int32_t sum = 0;

                if (k % group == 0)
                    nf4_weight_scales(dw, 1, w, by, r0 + r, 1, k / group, 1);
                for (size_t i = k; i < k + GROUP; i++)
                    sum += table[bnb4_code(codes, (r0 + r) * K + i)] * q[i];
                acc = fmaf((float)sum, dw[0] * d[k / GROUP], acc);
            }
            y[t * ys + r] = acc + (add ? y[t * ys + r] : 0);
        }
    }
}

void cpu_kern_nf4(struct cpu_kern *k)
{
    k->exact[EXACT_FLOAT][ENC_NF4] = k->exact[EXACT_FLOAT][ENC_FP4] =
        (struct exact_kern){ .bytes = nf4_bytes, .form = form, .dot = dot };
}
