#include "format/enc/q8_0.h"

#include "format/enc/quant.h"

void q8_0_decode_row(float *y, const void *src, size_t n)
{
    const struct q8_0 *b = src;

    for (size_t i = 0; i < n / Q8_0_N; i++)
        q8_0_decode(y + i * Q8_0_N, &b[i]);
}

void q8_0_encode_row(void *dst, const float *x, size_t n)
{
    struct q8_0 *b = dst;

    for (size_t i = 0; i < n / Q8_0_N; i++, x += Q8_0_N) {
        const float d = fabsf(quant_extreme(x, Q8_0_N)) / 127;
        const float inv = quant_inverse(d);

        enc_store16(b[i].d, f32_to_f16(d));
        for (int j = 0; j < Q8_0_N; j++) {
            const float v = roundf(x[j] * inv);

            b[i].q[j] = (int8_t)(v >= 127 ? 127 : v > -128 ? v : v <= -128 ? -128 : 0);
        }
    }
}
