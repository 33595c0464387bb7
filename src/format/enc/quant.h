/* quant.h - pieces that the encoders of several formats share. */
#ifndef PUNA_FORMAT_ENC_QUANT_H
#define PUNA_FORMAT_ENC_QUANT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* v cut down to an integer in [0, max]; NaN gives 0. */
static inline unsigned quant_code(float v, unsigned max)
{
    if (!(v > 0))
        return 0;
    return v >= (float)max ? max : (unsigned)v;
}

/* The value of largest magnitude, the first of several. */
static inline float quant_extreme(const float *x, int n)
{
    float amax = 0, extreme = 0;

    for (int i = 0; i < n; i++) {
        if (fabsf(x[i]) > amax) {
            amax = fabsf(x[i]);
            extreme = x[i];
        }
    }
    return extreme;
}

static inline void quant_range(const float *x, int n, float *min, float *max)
{
    *min = *max = x[0];
    for (int i = 1; i < n; i++) {
        *min = x[i] < *min ? x[i] : *min;
        *max = x[i] > *max ? x[i] : *max;
    }
}

/* 1/d, or 0 for a block of zeros. */
static inline float quant_inverse(float d)
{
    return d != 0 ? 1 / d : 0;
}

/* x * inv + half with one rounding, as a fused multiply-add gives it: the product of two
 * floats is exact in double. The reference's codes depend on it. */
static inline float quant_fma(float x, float inv, float half)
{
    return (float)((double)x * (double)inv + (double)half);
}

#endif
