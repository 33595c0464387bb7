/* whole.cuh - one row of x in whole numbers, and records of codes of four bits (dev.h) times it on
 * the tensor cores as bytes: m16n8k32, u8 by s8, sums in 32 bits. A word of codes is the first
 * operand but for a mask and a shift, where f16 takes three times the instructions to make.
 *
 * A row in f16 becomes integers below 2^13 beside a power of two, for each block of 32 columns, in
 * two bytes, a signed upper and a signed lower one: two columns of the second operand, whose sums
 * meet as 256 u + l, exactly. A block's largest value is so rounded to 2^-14 of itself, any other
 * by no more. Columns 2 j and 2 j + 1 are block j's: four products add up in one set of sums, and
 * lane c of four has those of block c, whose scales they meet. Codes are not negative; what their
 * zero point takes away is the sum of the block's x.
 *
 *   x      [record of 128 columns] WHOLE_RECORD bytes:
 *          [block][byte, upper first][lane c] 8 bytes: of columns 8 c .. 8 c + 7 of the block those
 *          that meet (0 4 1 5) and (2 6 3 7)
 *          [block] a word (whole_by, whole_sum) */
#pragma once

#include "backend/cuda/inputs.cuh"
#include "backend/cuda/mma.cuh"

enum { WHOLE_PLANES = 256 }; /* bytes of them */
static_assert(WHOLE_RECORD == WHOLE_PLANES + 4 * sizeof(uint32_t), "dev.h");

/* A block of x in a word: the power of two that its integers are multiplied by, as a float's bits,
 * and in the 23 bits below the sum of those integers, 2^19 more. */
enum { WHOLE_SUM = 1 << 19 };

__device__ static __forceinline__ float whole_by(uint32_t word)
{
    return __uint_as_float(word & 0x7F800000);
}

/* The sum: 2^23 more is a float with those bits. */
__device__ static __forceinline__ float whole_sum(uint32_t word)
{
    return __uint_as_float((word & 0x007FFFFF) | 0x4B000000) - (8388608.f + (float)WHOLE_SUM);
}

/* 2^23 + 2^22 as a float; its bits, to which an integer below 2^22 is added as if that were added
 * to the float. */
#define WHOLE_ONE 12582912.f
enum { WHOLE_BITS = 0x4B400000 };

/* Eight neighbouring columns, a lane's share of a block, to their record. All lanes of a warp
 * together, whether or not theirs are there. */
__device__ static __forceinline__ void whole_put(uint8_t *to, const uint4 &v, int block, int c,
                                                 bool there)
{
    const uint32_t pair[4] = { v.x, v.y, v.z, v.w };
    float x[8], top = 0;

#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float2 f = __half22float2(*(const __half2 *)&pair[k]);

        x[2 * k] = f.x, x[2 * k + 1] = f.y;
        top = fmaxf(top, fmaxf(fabsf(f.x), fabsf(f.y)));
    }
#pragma unroll
    for (int d = 1; d < 4; d *= 2)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    /* the largest has bit 12; f16's least is 2^-24 */
    const uint32_t e = max((int)(__float_as_uint(top) >> 23), 103);
    const float inverse = __uint_as_float((127 + 12 + 127 - e) << 23);
    uint32_t q[8]; /* 128 more, so that the lower byte is signed once its top bit is turned */
    int sum = 0;

#pragma unroll
    for (int k = 0; k < 8; k++) {
        q[k] = __float_as_uint(fmaf(x[k], inverse, WHOLE_ONE)) + 128;
        sum += (int)q[k] - (WHOLE_BITS + 128);
    }
#pragma unroll
    for (int d = 1; d < 4; d *= 2)
        sum += __shfl_xor_sync(~0u, sum, d);
    const auto bytes = [&](int n, int a, int b, int c, int d) {
        return __byte_perm(__byte_perm(q[a], q[b], n | (4 + n) << 4),
                           __byte_perm(q[c], q[d], n | (4 + n) << 4), 0x5410);
    };
    if (!there)
        return;
    uint2 *const planes = (uint2 *)to + block * 8 + c;

    planes[0] = make_uint2(bytes(1, 0, 4, 1, 5), bytes(1, 2, 6, 3, 7));
    planes[4] = make_uint2(bytes(0, 0, 4, 1, 5) ^ 0x80808080, bytes(0, 2, 6, 3, 7) ^ 0x80808080);
    if (c == 0)
        ((uint32_t *)(to + WHOLE_PLANES))[block] =
            (e - 12) << 23 | (uint32_t)(WHOLE_SUM + sum);
}

/* x of a product to shared memory, and its norm's factor, by all of a block's warps, which wait for
 * one another before they read it. */
__device__ static __forceinline__ void whole_inputs(const stream_args &a, uint8_t *to,
                                                    float *factor)
{
    enum { KEPT = 4, STEP = STREAM_WARPS * WARP };
    const int n = a.out[0].w.kp / 8;
    bool norm = a.ss && threadIdx.x / WARP == 0;

#pragma unroll 1
    for (int i = threadIdx.x; i / WARP * WARP < n; i += KEPT * STEP) {
        uint4 v[KEPT] = {};

#pragma unroll
        for (int k = 0; k < KEPT; k++) /* all that is on its way at once */
            if (i + k * STEP < n)
                v[k] = ((const uint4 *)a.x)[i + k * STEP];
        if (norm) { /* meanwhile */
            const float f = norm_factor(a, 0);

            if (i == 0)
                *factor = f;
            norm = false;
        }
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            const int at = i + k * STEP;

            if (at / WARP * WARP >= n)
                break;
            whole_put(to + at / 16 * WHOLE_RECORD, v[k], at / 4 % 4, at % 4, at < n);
        }
    }
}

/* A lane's share of x of a record: of block g / 2 the byte g % 2, and block c's word. */
struct whole_share {
    uint2 bytes;
    uint32_t word;
};

__device__ static __forceinline__ whole_share whole_load(const uint8_t *x, int s)
{
    const uint8_t *const at = x + s * WHOLE_RECORD;

    return { ((const uint2 *)at)[threadIdx.x % WARP],
             ((const uint32_t *)(at + WHOLE_PLANES))[threadIdx.x % 4] };
}

/* One record of U4 in shared memory times x, to a lane's sums of block c of rows g and g + 8. */
template <bool FINE, bool PAIR, bool ZEROS>
__device__ static __forceinline__ void whole_stage(float acc[2], const uint8_t *p, int gs, int zero,
                                                   const whole_share &x)
{
    const int lane = threadIdx.x % WARP, g = lane / 4, gi = FINE ? lane % 4 : 0;
    const uint8_t *const scales = p + 1024;
    const uint4 v[2] = { ((const uint4 *)p)[lane], ((const uint4 *)p)[lane + WARP] };
    const float2 s = record_scales(scales, gi, PAIR ? 64 : 32, g);
    const float2 m = PAIR ? record_scales(scales + 32, gi, 64, g) : make_float2(0, 0);
    const uint32_t zeros = ZEROS ? *(const uint16_t *)(scales + gs * 32 + gi * 16 + g * 2) : 0;
    const float by = whole_by(x.word), all = whole_sum(x.word);
    int d[4] = { 0, WHOLE_BITS, 0, WHOLE_BITS };

#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint32_t q = word_of(v[0], j), r = word_of(v[1], j);
        const uint32_t a[4] = { q & 0x0F0F0F0F, r & 0x0F0F0F0F, q >> 4 & 0x0F0F0F0F,
                                r >> 4 & 0x0F0F0F0F };

        mma_bytes(d, a, g / 2 == j ? x.bytes : make_uint2(0, 0), d);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float v = __uint_as_float((uint32_t)(d[2 * r] * 256 + d[2 * r + 1])) - WHOLE_ONE;
        const float scale = (r ? s.y : s.x) * by;
        const float z = ZEROS ? (float)(r ? zeros >> 8 : zeros & 255) : (float)zero;

        if (PAIR)
            acc[r] = fmaf((r ? m.y : m.x) * by, all, fmaf(scale, v, acc[r]));
        else
            acc[r] = fmaf(scale, fmaf(-z, all, v), acc[r]);
    }
}
