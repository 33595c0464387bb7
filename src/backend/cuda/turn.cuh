/* turn.cuh - the rotation of pairs, and values in 16 bits as inputs and caches have them. */
#pragma once

#include "backend/cuda/mma.cuh"
#include "backend/cuda/unit.cuh"

__device__ static inline void rotate(float *v, int a, int b, float s, float c)
{
    const float va = v[a], vb = v[b];

    v[a] = va * c - vb * s;
    v[b] = vb * c + va * s;
}

/* Two values in 16 bits. */
__device__ static inline uint32_t two16(const float *v, int mode)
{
    return mode == PREP_BF16 ? pair16<true>(v[0], v[1])
                             : to16(v[0], mode) | (uint32_t)to16(v[1], mode) << 16;
}

/* A cache of 16 bits as a mode. */
__device__ static inline int mode_of(int enc)
{
    return enc == DEV_ENC_BF16 ? PREP_BF16 : PREP_F16;
}
