/* soften.cuh - probabilities of 64 rows by 128 scores in a warpgroup's registers (wgmma's layout),
 * for attention that meets keys a part at a time. */
#pragma once

#include "backend/cuda/hopper.cuh"
#include "backend/cuda/mma.cuh"

#if HOPPER
/* A lane's two rows, number 0 and 8 of its warp. */
struct rows {
    int slot[2]; /* the last that it sees; -1 = no row */
    float max[2], sum[2];
};

/* Scores to probabilities, powers of 2 of them times `scale`, and what the values so far are to be
 * multiplied by. */
__device__ static inline void soften(float (&s)[64], rows &r, float by[2], float scale)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float m[2] = { r.max[i], r.max[i] }, part[2] = {};

#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                m[e] = fmaxf(m[e], s[4 * j + 2 * i + e]);
        m[0] = fmaxf(m[0], m[1]);
        m[0] = fmaxf(m[0], __shfl_xor_sync(~0u, m[0], 1));
        m[0] = fmaxf(m[0], __shfl_xor_sync(~0u, m[0], 2));
        const float base = m[0] == -INFINITY ? 0 : m[0] * scale;

        by[i] = exp2_fast(fmaf(r.max[i], scale, -base));
        r.max[i] = m[0];
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &v = s[4 * j + 2 * i + e];

                v = exp2_fast(fmaf(v, scale, -base));
                part[e] += v;
            }
        r.sum[i] = r.sum[i] * by[i] + (part[0] + part[1]);
    }
}

/* The sums of all lanes of each row. */
__device__ static inline void sum_lanes(rows &r)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        r.sum[i] += __shfl_xor_sync(~0u, r.sum[i], 1);
        r.sum[i] += __shfl_xor_sync(~0u, r.sum[i], 2);
    }
}

/* first: the slot of the first score. */
__device__ static inline void mask(float (&s)[64], const rows &r, int first)
{
    first += threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < 16; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (first + 8 * j + e % 2 > r.slot[e / 2])
                s[4 * j + e] = -INFINITY;
}

/* As the left factor of wgmma_rs. */
template <bool BF16, int N>
__device__ static inline void pack(uint32_t (&p)[N / 2], const float (&s)[N])
{
#pragma unroll
    for (int k = 0; k < N / 2; k++)
        p[k] = pair16<BF16>(s[2 * k], s[2 * k + 1]);
}
#endif
