#include "format/enc/q5_0.h"

#include "format/enc/quant.h"

void q5_0_decode_row(float *y, const void *src, size_t n)
{
    const struct q5_0 *b = src;

    for (size_t i = 0; i < n / Q5_0_N; i++)
        q5_0_decode(y + i * Q5_0_N, &b[i]);
}

void q5_0_encode_row(void *dst, const float *x, size_t n)
{
    struct q5_0 *b = dst;

    for (size_t i = 0; i < n / Q5_0_N; i++, x += Q5_0_N) {
        const float d = quant_extreme(x, Q5_0_N) / -16;
        const float inv = quant_inverse(d);

        enc_store16(b[i].d, f32_to_f16(d));
        memset(b[i].qh, 0, sizeof(b[i].qh));
        for (int j = 0; j < 16; j++) {
            const unsigned lo = quant_code(quant_fma(x[j], inv, 16.5f), 31);
            const unsigned hi = quant_code(quant_fma(x[j + 16], inv, 16.5f), 31);

            b[i].qs[j] = (uint8_t)((lo & 15) | (hi & 15) << 4);
            b[i].qh[j / 8] |= (uint8_t)(lo >> 4 << (j % 8));
            b[i].qh[2 + j / 8] |= (uint8_t)(hi >> 4 << (j % 8));
        }
    }
}
