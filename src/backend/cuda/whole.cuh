/* whole.cuh - one row of x in whole numbers, and records of codes of four bits (dev.h) times it on
 * the tensor cores as bytes: m16n8k32, u8 by s8, sums in 32 bits. A word of codes is the first
 * operand almost as it is, where f16 takes four times the instructions to make.
 *
 * A byte of codes is l + 16 h, and masked it is 16 h. With integers X for the column that l meets and
 * H for that of h, the first is multiplied by X and the second by H - X: what comes is X l + 16 H h.
 * The first operand of one product is a lane's four words as they lie, blocks 0 to 3 of a row of W: the
 * tensor cores take it for two rows' sums, with blocks 0 and 1 in the lower half of 32 columns and 2
 * and 3 in the upper. Where the second operand has a block's x only in its own columns and half, and
 * zeros elsewhere, each block's sum is found in one of the two rows of its own columns.
 *
 * So a row's columns become integers of one step for each block of 32, X of that step and H of
 * sixteen of it, up to MOST and a sixteenth of it: no value is rounded by more than 2^-11 of the
 * block's largest, which is what f16 may do to that one.
 *
 * X and H - X are two bytes each, a signed upper and a signed lower one: two columns of the second
 * operand, whose sums meet as 256 u + l, exactly. Columns 2 j and 2 j + 1 are block j's, and lane c of
 * four has block c's sums, whose scale they meet. What codes' zero point takes away is the sum of
 * the block's x.
 *
 *   x      [record of 128 columns] WHOLE_RECORD bytes:
 *          [block][byte, upper first][lane c] 8 bytes: X of columns 0 4 1 5 of 8 c .. 8 c + 7 of the
 *          block, H - X of 2 6 3 7
 *          [block] a word (whole_by, whole_sum) */
#pragma once

#include "backend/cuda/inputs.cuh"
#include "backend/cuda/mma.cuh"

enum { WHOLE_PLANES = 256 }; /* bytes of them */
static_assert(WHOLE_RECORD == WHOLE_PLANES + 4 * sizeof(uint32_t), "dev.h");

/* A block of x in a word: the step, a float's bits down to two of its fraction; and in those below
 * the sum of the block in steps, 2^20 more. */
enum { WHOLE_STEP = 0x7FE00000, WHOLE_REST = 0x001FFFFF, WHOLE_SUM = 1 << 20 };
#define WHOLE_MOST 30000.f /* of X; with H it stays below 2^15 - 128, and 32 of it below WHOLE_SUM */

__device__ static __forceinline__ float whole_by(uint32_t word)
{
    return __uint_as_float(word & WHOLE_STEP);
}

__device__ static __forceinline__ int whole_sum(uint32_t word)
{
    return (int)(word & WHOLE_REST) - WHOLE_SUM;
}

/* The integer that v is rounded to, below 2^22: 2^23 + 2^22 more is a float that ends in its bits. */
__device__ static __forceinline__ int whole_of(float v, float by)
{
    return (int)__float_as_uint(fmaf(v, by, 12582912.f)) - 0x4B400000;
}

/* The step of a block whose largest is the `top` of one of four lanes, rounded up; that of f16's least
 * value is above 2^-40. */
__device__ static __forceinline__ uint32_t whole_step(float top)
{
#pragma unroll
    for (int d = 1; d < 4; d *= 2)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    return max(__float_as_uint(top * (1 / WHOLE_MOST)) + WHOLE_REST, 87u << 23) & WHOLE_STEP;
}

/* Eight columns of f16, a lane's share of a block, and that block's step. */
__device__ static __forceinline__ uint32_t whole_open(float x[8], const uint4 &v)
{
    const uint32_t pair[4] = { v.x, v.y, v.z, v.w };
    float top = 0;

#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float2 f = __half22float2(*(const __half2 *)&pair[k]);

        x[2 * k] = f.x, x[2 * k + 1] = f.y;
        top = fmaxf(top, fmaxf(fabsf(f.x), fabsf(f.y)));
    }
    return whole_step(top);
}

/* Of four values the bytes n. */
__device__ static __forceinline__ uint32_t whole_bytes(int n, uint32_t a, uint32_t b, uint32_t c,
                                                       uint32_t d)
{
    return __byte_perm(__byte_perm(a, b, n | (4 + n) << 4), __byte_perm(c, d, n | (4 + n) << 4),
                       0x5410);
}

/* Eight neighbouring columns, a lane's share of a block, to their record. All lanes of a warp
 * together, whether or not theirs are there. */
__device__ static __forceinline__ void whole_put(uint8_t *to, const uint4 &v, int block, int c,
                                                 bool there)
{
    float x[8];
    const uint32_t step = whole_open(x, v);
    const float inverse = __fdividef(1, __uint_as_float(step));
    uint32_t q[8]; /* by byte, X and H - X: 128 more, for the lower byte is signed */
    int sum = 0;

#pragma unroll
    for (int b = 0; b < 4; b++) {
        const int lo = b / 2 + b % 2 * 4; /* 0 4 1 5 */
        const int X = whole_of(x[lo], inverse), H = whole_of(x[lo + 2], inverse / 16);

        q[b] = X + 128, q[4 + b] = H - X + 128;
        sum += X + 16 * H;
    }
#pragma unroll
    for (int d = 1; d < 4; d *= 2)
        sum += __shfl_xor_sync(~0u, sum, d);
    const auto bytes = [&](int n, const uint32_t *q) {
        return whole_bytes(n, q[0], q[1], q[2], q[3]);
    };
    if (!there)
        return;
    uint2 *const planes = (uint2 *)to + block * 8 + c;

    planes[0] = make_uint2(bytes(1, q), bytes(1, q + 4));
    planes[4] = make_uint2(bytes(0, q) ^ 0x80808080, bytes(0, q + 4) ^ 0x80808080);
    if (c == 0)
        ((uint32_t *)(to + WHOLE_PLANES))[block] = step | (uint32_t)(WHOLE_SUM + sum);
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

/* A lane's share of x of a record, as two products' second operands: of block g / 2 the byte g % 2 of
 * X, and of H - X, in the half of the columns where the block is; and block c's word. */
struct whole_share {
    uint2 all, high;
    uint32_t word;
};

/* planes: the lane's in a record; word: block c's there. */
__device__ static __forceinline__ whole_share whole_load(const uint8_t *planes, const uint8_t *word,
                                                         int lane)
{
    const uint2 x = *(const uint2 *)planes;
    const bool lower = lane < WARP / 2;

    return { make_uint2(lower ? x.x : 0, lower ? 0 : x.x),
             make_uint2(lower ? x.y : 0, lower ? 0 : x.y), *(const uint32_t *)word };
}

/* Where a lane's are in a record: bytes of planes, of words. */
__device__ static __forceinline__ int whole_planes_at(int lane)
{
    return lane * (int)sizeof(uint2);
}

__device__ static __forceinline__ int whole_word_at(int lane)
{
    return WHOLE_PLANES + lane % 4 * (int)sizeof(uint32_t);
}

/* A lane's share of a record of U4: codes of rows g and g + 8, and of its group gi scales and, where
 * there are any, what is added or zero points. */
struct whole_record {
    uint4 v[2];
    float2 scale, more;
    uint32_t zeros;
};

template <bool PAIR, bool ZEROS>
__device__ static __forceinline__ whole_record whole_read(const uint8_t *p, int gs, int gi, int lane)
{
    const int g = lane / 4;
    const uint8_t *const scales = p + 1024;
    whole_record r = { { ((const uint4 *)p)[lane], ((const uint4 *)p)[lane + WARP] } };

    r.scale = record_scales(scales, gi, PAIR ? 64 : 32, g);
    if (PAIR)
        r.more = record_scales(scales + 32, gi, 64, g);
    if (ZEROS)
        r.zeros = *(const uint16_t *)(scales + gs * 32 + gi * 16 + g * 2);
    return r;
}

/* It times x, added to a lane's sums of block c of rows g and g + 8, if it is there. */
template <bool PAIR, bool ZEROS>
__device__ static __forceinline__ void whole_add(float acc[2], const whole_record &w, int zero,
                                                 const whole_share &x, int lane, bool there = true)
{
    const float by = whole_by(x.word);
    const int all = whole_sum(x.word);
    const bool second = lane % 2; /* of the two rows of sums */

#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint4 &v = w.v[r];
        const uint32_t q[4] = { v.x, v.y, v.z, v.w };
        const uint32_t high[4] = { v.x & 0xF0F0F0F0, v.y & 0xF0F0F0F0, v.z & 0xF0F0F0F0,
                                   v.w & 0xF0F0F0F0 };
        int d[4] = {};

        mma_bytes(d, q, x.all, d);
        mma_bytes(d, high, x.high, d);
        const int sum = (second ? d[2] : d[0]) * 256 + (second ? d[3] : d[1]);
        const int z = ZEROS ? (int)(r ? w.zeros >> 8 : w.zeros & 255) : zero;
        const float scale = (r ? w.scale.y : w.scale.x) * by;
        const float to = PAIR ? fmaf((r ? w.more.y : w.more.x) * by, (float)all,
                                     fmaf(scale, (float)sum, acc[r]))
                              : fmaf(scale, (float)(sum - z * all), acc[r]);

        acc[r] = there ? to : acc[r];
    }
}
