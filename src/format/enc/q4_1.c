#include "format/enc/q4_1.h"

#include "format/enc/quant.h"

void q4_1_decode_row(float *y, const void *src, size_t n)
{
    const struct q4_1 *b = src;

    for (size_t i = 0; i < n / Q4_1_N; i++)
        q4_1_decode(y + i * Q4_1_N, &b[i]);
}

void q4_1_encode_row(void *dst, const float *x, size_t n)
{
    struct q4_1 *b = dst;

    for (size_t i = 0; i < n / Q4_1_N; i++, x += Q4_1_N) {
        float min, max;

        quant_range(x, Q4_1_N, &min, &max);
        const float d = (max - min) / 15, inv = quant_inverse(d);

        enc_store16(b[i].d, f32_to_f16(d));
        enc_store16(b[i].m, f32_to_f16(min));
        for (int j = 0; j < 16; j++)
            b[i].qs[j] = (uint8_t)(quant_code((x[j] - min) * inv + 0.5f, 15) |
                                   quant_code((x[j + 16] - min) * inv + 0.5f, 15) << 4);
    }
}
