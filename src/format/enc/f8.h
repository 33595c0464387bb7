/* f8.h - 8-bit floats, read the same by the C compiler and nvcc.
 * E4M3 (the "fn" kind of every FP8 checkpoint): bias 7, no infinity, NaN 0x7F and 0xFF, largest
 * value 448. Conversion rounds to nearest even and saturates. */
#ifndef PUNA_FORMAT_ENC_F8_H
#define PUNA_FORMAT_ENC_F8_H

#include "format/enc/floats.h"

#define F8_E4M3_MAX 448.0f

HD static inline float f8_e4m3_to_f32(uint8_t b)
{
    const uint32_t sign = (uint32_t)(b & 0x80) << 24, a = b & 0x7F;

    if (a == 0x7F)
        return f32_from_bits(sign | 0x7FC00000u);
    /* the bits of 2^-120 times the value: a product repairs the bias, subnormals included */
    return f32_from_bits(sign | a << 20) * 0x1p120f;
}

HD static inline float f8_e5m2_to_f32(uint8_t b)
{
    return f16_to_f32((f16)(b << 8));
}

HD static inline uint8_t f32_to_f8_e4m3(float f)
{
    const uint32_t u = f32_bits(f), sign = u >> 24 & 0x80, a = u & 0x7FFFFFFFu;

    if (a > 0x7F800000u)
        return (uint8_t)(sign | 0x7F);
    if (a >= 0x43E80000u) /* 464, half way to the value after 448 */
        return (uint8_t)(sign | 0x7E);
    if (a < 0x3C800000u) {
        /* below 2^-6 the step is 2^-9: adding 2^14 makes the hardware round there */
        const uint32_t r = f32_bits(f32_from_bits(a) + 0x1p14f) - 0x46800000u;

        return (uint8_t)(sign | r);
    }
    return (uint8_t)(sign | ((a + 0x7FFFF + (a >> 20 & 1) - 0x3C000000u) >> 20));
}

#endif
