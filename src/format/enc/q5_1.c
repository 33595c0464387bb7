#include "format/enc/q5_1.h"

#include "format/enc/quant.h"

void q5_1_decode_row(float *y, const void *src, size_t n)
{
    const struct q5_1 *b = src;

    for (size_t i = 0; i < n / Q5_1_N; i++)
        q5_1_decode(y + i * Q5_1_N, &b[i]);
}

void q5_1_encode_row(void *dst, const float *x, size_t n)
{
    struct q5_1 *b = dst;

    for (size_t i = 0; i < n / Q5_1_N; i++, x += Q5_1_N) {
        float min, max;

        quant_range(x, Q5_1_N, &min, &max);
        const float d = (max - min) / 31, inv = quant_inverse(d);

        enc_store16(b[i].d, f32_to_f16(d));
        enc_store16(b[i].m, f32_to_f16(min));
        memset(b[i].qh, 0, sizeof(b[i].qh));
        for (int j = 0; j < 16; j++) {
            const unsigned lo = quant_code((x[j] - min) * inv + 0.5f, 31);
            const unsigned hi = quant_code((x[j + 16] - min) * inv + 0.5f, 31);

            b[i].qs[j] = (uint8_t)((lo & 15) | (hi & 15) << 4);
            b[i].qh[j / 8] |= (uint8_t)(lo >> 4 << (j % 8));
            b[i].qh[2 + j / 8] |= (uint8_t)(hi >> 4 << (j % 8));
        }
    }
}
