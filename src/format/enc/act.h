/* act.h - what a checkpoint's own library makes of the inputs of a matrix, read the same by the C
 * compiler and nvcc. COMPUTE_AUTO follows it.
 *
 * Sources: FBGEMM's quantize_fp8_per_row and vLLM (FP8), compressed-tensors' calculate_qparams and
 * fake_quantize (8-bit integers: [-128, 127] is 255 steps wide, hence 127.5), bitsandbytes'
 * int8_vectorwise_quant (inputs become f16 before anything else). */
#ifndef PUNA_FORMAT_ENC_ACT_H
#define PUNA_FORMAT_ENC_ACT_H

#include <math.h>

#include "format/enc/f8.h"

enum act {
    ACT_KEEP,
    ACT_F8,        /* E4M3: s = max(min(max|x|, bound) / 448, 1 / (448 * 512)) */
    ACT_F8_STATIC, /* E4M3 with the scale in the file */
    ACT_I8,        /* 8-bit integers: s = max|x| / 127.5 */
    ACT_I8_STATIC, /* 8-bit integers with the scale in the file */
    ACT_BNB8,      /* LLM.int8: s = max|f16(x)| of those below `bound`; the others stay floats */
};

/* What x adds to the largest magnitude of its group. */
HD static inline float act_magnitude(int act, float bound, float x)
{
    if (act != ACT_BNB8)
        return fabsf(x);
    const float h = fabsf(f16_to_f32(f32_to_f16(x)));

    return h < bound ? h : 0;
}

/* The scale of a group; `fixed` is the one in the file. */
HD static inline float act_scale(int act, float bound, float fixed, float max)
{
    switch (act) {
    case ACT_F8:
        return fmaxf(fminf(max, bound) / F8_E4M3_MAX, 1 / (F8_E4M3_MAX * 512));
    case ACT_I8:
        return max / 127.5f;
    case ACT_BNB8:
        return max;
    default:
        return fixed;
    }
}

/* x as the library sees it. */
HD static inline float act_round(int act, float bound, float s, float x)
{
    float q;

    switch (act) {
    case ACT_F8:
    case ACT_F8_STATIC:
        return f8_e4m3_to_f32(f32_to_f8_e4m3(x / s)) * s;
    case ACT_I8:
    case ACT_I8_STATIC:
        if (s == 0)
            return 0;
        q = rintf(x / s);
        return (q < -128 ? -128 : q > 127 ? 127 : q) * s;
    case ACT_BNB8:
        q = f16_to_f32(f32_to_f16(x));
        if (!(fabsf(q) < bound))
            return x;
        return s > 0 ? rintf(q * (127 / s)) * (s / 127) : 0;
    default:
        return x;
    }
}

#endif
