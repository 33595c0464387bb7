/* num.h - 16-bit floats, read the same by the C compiler and nvcc.
 * Conversions to 16 bits round to nearest even, as IEEE 754 and torch do. */
#ifndef PUNA_BASE_NUM_H
#define PUNA_BASE_NUM_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define HD __host__ __device__
#else
#define HD
#endif

typedef uint16_t f16;  /* IEEE binary16 bits */
typedef uint16_t bf16; /* the upper half of a binary32 */

HD static inline float f32_from_bits(uint32_t u)
{
    float f;

    memcpy(&f, &u, 4);
    return f;
}

HD static inline uint32_t f32_bits(float f)
{
    uint32_t u;

    memcpy(&u, &f, 4);
    return u;
}

HD static inline float bf16_to_f32(bf16 h)
{
    return f32_from_bits((uint32_t)h << 16);
}

HD static inline bf16 f32_to_bf16(float f)
{
    const uint32_t u = f32_bits(f);

    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return (bf16)(u >> 16 | 0x40); /* a quiet NaN stays one */
    return (bf16)((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}

HD static inline float f16_to_f32(f16 h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    const uint32_t exp = h >> 10 & 31, man = h & 0x3FF;

    if (exp == 31)
        return f32_from_bits(sign | 0x7F800000u | man << 13);
    if (exp == 0) {
        /* subnormal: man * 2^-24, exact in binary32 */
        const float f = (float)man * 5.9604644775390625e-8f;

        return sign ? -f : f;
    }
    return f32_from_bits(sign | (exp + 112) << 23 | man << 13);
}

HD static inline f16 f32_to_f16(float f)
{
    const uint32_t u = f32_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7FFFFFFFu;

    if (a > 0x7F800000u)
        return (f16)(sign | 0x7E00 | (a >> 13 & 0x3FF));
    if (a >= 0x477FF000u) /* rounds beyond 65504 */
        return (f16)(sign | 0x7C00);
    if (a < 0x38800000u) {
        /* subnormal or zero: adding 0.5 makes the hardware round at 2^-24 */
        const uint32_t r = f32_bits(f32_from_bits(a) + 0.5f) - 0x3F000000u;

        return (f16)(sign | r);
    }
    return (f16)(sign | ((a + 0xFFF + (a >> 13 & 1) - 0x38000000u) >> 13));
}

#endif
