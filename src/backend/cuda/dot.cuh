/* dot.cuh - one row of x in whole numbers, and records of codes (dev.h) times it by the dot
 * products of two 16-bit and two 8-bit numbers that ordinary units have: a third of the
 * instructions that widening codes for the tensor cores takes, which would use one column in eight
 * there. Two rows would take about as many as those, for any number of rows up to eight.
 *
 * A row in f16 becomes 16-bit integers beside a power of two for 128 columns: exactly, but for
 * values below a sixteenth of the largest of them, which are rounded to 2^-15 of it. Sums within a
 * group of a weight's scale are exact. */
#pragma once

#include "backend/cuda/inputs.cuh"

/* What a record is multiplied by. */
struct __align__(16) dot_record
{
    uint4 x[4][4];  /* of block j and lane c: of columns e of eight (0 4) (1 5) (2 6) (3 7) */
    uint4 first[4]; /* of lane c, by block: what its sums begin with (dot_first) */
    float by, none[3];
};

static_assert(sizeof(dot_record) == DOT_RECORD, "dev.h");

/* float(2^23 + 2^22) as an integer: an integer below 2^22 added to it is a float that much larger
 */
enum { DOT_WHOLE = 0x4B400000 };

/* sum + the products of two signed numbers of x and two bytes of q, its lower or its upper ones. */
template <int HALF> __device__ static inline int dot2(uint32_t x, uint32_t q, int sum)
{
#ifdef __CUDA_ARCH__
    int r;

    if (HALF)
        asm("dp2a.hi.s32.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(q), "r"(sum));
    else
        asm("dp2a.lo.s32.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(q), "r"(sum));
    return r;
#else
    q >>= 16 * HALF;
    return (int)((uint32_t)sum + (uint32_t)((int16_t)x * (int)(q & 255)) +
                 (uint32_t)((int16_t)(x >> 16) * (int)(q >> 8 & 255)));
#endif
}

/* x of a product to shared memory, and its norm's factor, by all of a block's warps, which wait for
 * one another before they read it. */
__device__ static __forceinline__ void dot_inputs(const stream_args &a, dot_record *to,
                                                  float *factor)
{
    enum { KEPT = 4, STEP = STREAM_WARPS * WARP };
    const dev_weight &w = a.out[0].w;
    const uint32_t n = w.kp / 8;
    const uint4 *const from = (const uint4 *)a.x;
    bool norm = a.ss && threadIdx.x / WARP == 0;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i / WARP * WARP < n; i += KEPT * STEP) {
        uint4 v[KEPT] = {};

#pragma unroll
        for (int k = 0; k < KEPT; k++) /* all that is on its way at once */
            if (i + k * STEP < n)
                v[k] = from[i + k * STEP];
        if (norm) { /* meanwhile */
            const float f = norm_factor(a, 0);

            if (i == 0)
                *factor = f;
            norm = false;
        }
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (i + k * STEP < n)
                to[(i + k * STEP) / 16].x[i / 4 % 4][i % 4] = v[k];
    }
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i / WARP * WARP < n; i += STEP) {
        const bool there = i < n;
        dot_record &r = to[min(i, n - 1) / 16];
        uint4 &at = r.x[i / 4 % 4][i % 4];
        const uint4 v = at;
        const uint32_t pair[4] = { v.x, v.y, v.z, v.w };
        float x[8], top = 0;

#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float2 f = __half22float2(*(const __half2 *)&pair[k]);

            x[2 * k] = f.x, x[2 * k + 1] = f.y;
            top = fmaxf(top, fmaxf(fabsf(f.x), fabsf(f.y)));
        }
#pragma unroll
        for (int d = 1; d < 16; d *= 2)
            top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
        /* the largest has bit 14; f16's least is 2^-24 */
        const uint32_t e = max((int)(__float_as_uint(top) >> 23), 103);
        const float inverse = __uint_as_float((127 + 14 + 127 - e) << 23);
        uint32_t q[8], both[4];
        int sum = 0;

#pragma unroll
        for (int k = 0; k < 8; k++)
            q[k] = __float_as_uint(fmaf(x[k], inverse, __uint_as_float(DOT_WHOLE)));
#pragma unroll
        for (int k = 0; k < 4; k++) {
            both[k] = __byte_perm(q[k], q[k + 4], 0x5410);
            sum = dot2<0>(both[k], 0x0101, sum);
        }
        /* groups of all 128 columns: the four blocks' together */
        if (w.gs == 1)
#pragma unroll
            for (int d = 4; d < 16; d *= 2)
                sum += __shfl_xor_sync(~0u, sum, d);
        if (there) {
            at = make_uint4(both[0], both[1], both[2], both[3]);
            r.by = __uint_as_float((e - 14) << 23);
            ((uint32_t *)&r.first[i % 4])[i / 4 % 4] =
                w.pair    ? __float_as_uint((float)sum)
                : w.zeros ? (uint32_t)sum
                          : (uint32_t)(-w.zero_const * sum + (w.gs == 1 ? 0 : DOT_WHOLE));
        }
    }
}

/* One record of U4 in shared memory times x, to a lane's sums of its columns of rows g and g + 8.
 */
template <bool FINE, bool PAIR, bool ZEROS>
__device__ static __forceinline__ void dot_stage(float acc[2], const uint8_t *p, int gs,
                                                 const dot_record &x)
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    const uint8_t *const scales = p + 1024, *const zeros = scales + gs * 32 + g * 2;
    const uint4 v[2] = { ((const uint4 *)p)[lane], ((const uint4 *)p)[lane + WARP] };
    const uint4 first = FINE ? x.first[c] : make_uint4(x.first[c].x, 0, 0, 0);
    float part[2] = {};
    int sum[2] = {};

#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint4 u = x.x[j][c];
        const float2 s = FINE ? record_scales(scales, j, PAIR ? 64 : 32, g) : make_float2(1, 1);
        const float2 more = PAIR ? record_scales(scales + 32, j, 64, g) : make_float2(0, 0);
        const int f = (int)word_of(first, j);
        const uint32_t z = FINE && ZEROS ? *(const uint16_t *)(zeros + j * 16) : 0;

#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t q = word_of(v[h], j), lo = q & 0x0F0F0F0F, hi = q >> 4 & 0x0F0F0F0F;
            int t = FINE    ? (PAIR    ? (int)DOT_WHOLE
                               : ZEROS ? DOT_WHOLE - (int)(h ? z >> 8 : z & 255) * f
                                       : f)
                    : j     ? sum[h]
                    : ZEROS ? 0
                            : f;

            t = dot2<0>(u.x, lo, t);
            t = dot2<0>(u.z, hi, t);
            t = dot2<1>(u.y, lo, t);
            t = dot2<1>(u.w, hi, t);
            if (FINE)
                part[h] = fmaf(h ? s.y : s.x,
                               __uint_as_float((uint32_t)t) - __uint_as_float(DOT_WHOLE), part[h]);
            else
                sum[h] = t;
            if (PAIR)
                part[h] = fmaf(h ? more.y : more.x, __uint_as_float((uint32_t)f), part[h]);
        }
    }
    if (!FINE) {
        const float2 s = record_scales(scales, 0, 32, g);
        const uint32_t z = ZEROS ? *(const uint16_t *)zeros : 0;

        part[0] = s.x * (float)(ZEROS ? sum[0] - (int)(z & 255) * (int)first.x : sum[0]);
        part[1] = s.y * (float)(ZEROS ? sum[1] - (int)(z >> 8) * (int)first.x : sum[1]);
    }
    acc[0] = fmaf(x.by, part[0], acc[0]);
    acc[1] = fmaf(x.by, part[1], acc[1]);
}
