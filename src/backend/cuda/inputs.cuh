/* inputs.cuh - inputs of few rows as the library of a checkpoint's encoding rounds them
 * (format/enc/act.h): by the largest of a row or of a group of its columns, which is known only
 * once all of them are there. So every block of a program that multiplies by such rows does it for
 * itself as it loads them: less than one more wait of all blocks for one another would take. */
#pragma once

#include "backend/cuda/barrier.cuh"
#include "backend/cuda/codes.cuh"

/* The factor of row t's norm, to all lanes of a warp. */
__device__ static inline float norm_factor(const stream_args &a, int t)
{
    float s = 0;

    for (int i = threadIdx.x % WARP; i < a.n_ss; i += WARP)
        s += a.ss[(size_t)t * a.n_ss + i];
    for (int d = WARP / 2; d; d /= 2)
        s += __shfl_xor_sync(~0u, s, d);
    return 1 / sqrtf(s / (float)a.D + a.eps);
}

__device__ static inline float4 times(const float4 &v, float by)
{
    return { v.x * by, v.y * by, v.z * by, v.w * by };
}

/* The largest that counts of four values and `max`. */
template <bool CODES>
__device__ static inline float largest(const load_args &l, const float4 &v, float max)
{
    const float x[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
    for (int i = 0; i < 4; i++)
        max = fmaxf(max, CODES ? fabsf(x[i]) : act_magnitude(l.act, l.bound, x[i]));
    return max;
}

/* Four values with the scale s in f16: E4M3 as its codes, which are worth s * HALF_BY, where CODES
 * says so; `inverse` is 1 / s. */
template <bool CODES>
__device__ static inline uint2 rounded(const load_args &l, const float4 &v, float s, float inverse)
{
    const float x[4] = { v.x, v.y, v.z, v.w };

    if constexpr (CODES) {
        const uint32_t q = four_f8(x, inverse);

        return make_uint2(half_pair(q, 0), half_pair(q, 1));
    } else {
        uint16_t y[4];

#pragma unroll
        for (int i = 0; i < 4; i++)
            y[i] = to16(act_round(l.act, l.bound, s, x[i]), PREP_F16);
        return make_uint2(y[0] | (uint32_t)y[1] << 16, y[2] | (uint32_t)y[3] << 16);
    }
}

/* load_rows() of one rule. CODES: whole rows in E4M3, the rule of FP8 checkpoints. It stands by
 * itself because blocks run through this code once a product: with every rule in it, eight times
 * unrolled, fetching it took more time than anything it does. */
template <bool CODES>
__device__ static __noinline__ void load_rows_as(const stream_args &a, int first, int n,
                                                 uint16_t *to, int stride, float *by)
{
    enum { KEPT = 8 }; /* of a thread, in registers: all of 16384 columns beside one row */
    __shared__ float part[2][STREAM_WARPS];
    const load_args l = a.load;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, packed = a.out[0].w.kp / 4;
    const bool whole = CODES || l.group >= l.cols;
    const float4 none = { 0, 0, 0, 0 };
    int warps = STREAM_WARPS, turn = 0; /* warps: of a row */

    while (warps > 1 && warps * n > STREAM_WARPS)
        warps /= 2;
    const int per = warps * WARP, in = threadIdx.x % per, begin = warp / warps * warps;

    for (int t0 = first; t0 < first + n; t0 += STREAM_WARPS / warps, turn ^= 1) {
        const int t = t0 + warp / warps;
        const bool there = t < first + n;
        const int quads = there ? l.cols / 4 : 0;
        const float4 *x = (const float4 *)(l.x + (size_t)t * l.cols);
        float4 kept[KEPT];
        float max = 0;

#pragma unroll
        for (int k = 0; k < KEPT; k++)
            kept[k] = in + k * per < quads ? x[in + k * per] : none;
        const float norm = a.ss && there ? norm_factor(a, t) : 1;

#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            kept[k] = times(kept[k], norm);
            max = largest<CODES>(l, kept[k], max);
        }
        for (int i = in + KEPT * per; i < quads; i += per)
            max = largest<CODES>(l, times(x[i], norm), max);
        max = warp_max(max);
        if (lane == 0)
            part[turn][warp] = max;
        named_sync(WORKERS, STREAM_WARPS * WARP);
        for (int w = 0; w < warps; w++)
            max = fmaxf(max, part[turn][begin + w]);
        const float s = act_scale(l.act, l.bound, l.scale, max), inverse = 1 / s;
        uint2 *row = (uint2 *)(to + (size_t)t * stride);

        /* columns of a group are those of a warp: no lane of it goes without the others */
        const auto put = [&](int i, const float4 &v) {
            row[i] = rounded<CODES>(
                l, v,
                whole ? s : act_scale(l.act, l.bound, l.scale, warp_max(largest<CODES>(l, v, 0))),
                inverse);
        };

        if (!there)
            continue;
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (in + k * per < packed)
                put(in + k * per, kept[k]);
        for (int i = in + KEPT * per; i < packed; i += per)
            put(i, i < quads ? times(x[i], norm) : none);
        if (in == 0)
            by[t] = CODES ? s * HALF_BY : 1;
    }
}

/* Rows first .. first + n of a's inputs, rounded, to `to` (row t at t * stride), zeros to the end
 * of the packed row, and what they are to be multiplied by to by[t]. All threads of a block; those
 * that read it wait for one another first. */
__device__ static inline void load_rows(const stream_args &a, int first, int n, uint16_t *to,
                                        int stride, float *by)
{
    const load_args &l = a.load;

    if (l.group >= l.cols && (l.act == ACT_F8 || l.act == ACT_F8_STATIC))
        load_rows_as<true>(a, first, n, to, stride, by);
    else
        load_rows_as<false>(a, first, n, to, stride, by);
}

/* The same as a phase of its own, for blocks that have no room for so many rows. */
__device__ static inline void load_apart(const stream_args &a)
{
    for (int t = blockIdx.x; t < a.T; t += gridDim.x) {
        load_rows(a, t, 1, a.x, a.out[0].w.kp, a.load.by);
        named_sync(WORKERS, STREAM_WARPS * WARP); /* the largest of its parts has been read */
    }
}
