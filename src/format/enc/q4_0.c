#include "format/enc/q4_0.h"

#include "format/enc/quant.h"

void q4_0_decode_row(float *y, const void *src, size_t n)
{
    const struct q4_0 *b = src;

    for (size_t i = 0; i < n / Q4_0_N; i++)
        q4_0_decode(y + i * Q4_0_N, &b[i]);
}

void q4_0_encode_row(void *dst, const float *x, size_t n)
{
    struct q4_0 *b = dst;

    for (size_t i = 0; i < n / Q4_0_N; i++, x += Q4_0_N) {
        /* The extreme value keeps its sign and lands on code 0, which reaches one step further. */
        const float d = quant_extreme(x, Q4_0_N) / -8;
        const float inv = quant_inverse(d);

        enc_store16(b[i].d, f32_to_f16(d));
        for (int j = 0; j < 16; j++)
            b[i].qs[j] = (uint8_t)(quant_code(quant_fma(x[j], inv, 8.5f), 15) |
                                   quant_code(quant_fma(x[j + 16], inv, 8.5f), 15) << 4);
    }
}
