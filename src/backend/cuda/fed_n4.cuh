/* fed_n4.cuh - one row of x in whole numbers (whole.cuh) and records of codes that a table gives
 * values (N4, dev.h), in programs on Hopper.
 *
 * Values of bitsandbytes' NF4 lie near a line: code q is worth step * (line * q + rest[q] - zero),
 * all of them integers and rest[q] a signed byte, by no more than 2^-11 of the largest value from
 * what it was (program.c). What is not in a byte is a product of codes as they lie, as of U4.
 *
 * Of eight bytes those that four codes say are one instruction; where a code is 8 or more it has the
 * byte's sign instead, 0 or -1. So codes below 8 are looked up in one table and all others by their
 * complement in a second one, each of which knows what the other one adds.
 *
 *   x      [record of 128 columns] N4_RECORD bytes:
 *          [block][byte, upper first][lane c] 16 bytes: X of columns 8 c .. 8 c + 7 of the block in
 *          order, X of 0 2 4 6, H of 1 3 5 7 less those
 *          [block] a word (whole_by, whole_sum) */
#pragma once

#include "backend/cuda/fed_codes.cuh"

/* mma_bytes() of signed bytes. */
__device__ static __forceinline__ void mma_signed(int d[4], const uint32_t a[4], const uint2 &b)
{
#ifdef __CUDA_ARCH__
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
#else
    uint32_t less[4];
    int t[4] = {};

    for (int i = 0; i < 4; i++)
        less[i] = a[i] >> 7 & 0x01010101;
    mma_bytes(d, a, b, d);
    mma_bytes(t, less, b, t);
    for (int i = 0; i < 4; i++)
        d[i] -= 256 * t[i];
#endif
}

/* Bytes of eight, first the lower four, by the four lower nibbles of `which`; by those of 8 and more
 * the sign of byte nibble - 8. */
__device__ static __forceinline__ uint32_t bytes_at(const int8_t bytes[8], uint32_t which)
{
#ifdef __CUDA_ARCH__
    const uint32_t *const from = (const uint32_t *)bytes;
    uint32_t r;

    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(from[0]), "r"(from[1]), "r"(which));
    return r;
#else
    uint32_t r = 0;

    for (int i = 0; i < 4; i++) {
        const int n = which >> 4 * i & 15, byte = bytes[n % 8];

        r |= (uint32_t)(uint8_t)(n < 8 ? byte : byte < 0 ? -1 : 0) << 8 * i;
    }
    return r;
#endif
}

/* What bytes_at() takes of a word's eight codes: the upper four, or what either four lack to 15. By a
 * product of 16 bits, for shifts and masks wait where look-ups do: a record in which all were so took
 * 1.04 times as long on an H200. */
__device__ static __forceinline__ uint32_t half_of(uint32_t q, uint32_t by, uint32_t more)
{
#ifdef __CUDA_ARCH__
    uint32_t r;

    asm("dp2a.lo.u32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(q), "r"(by), "r"(more));
    return r;
#else
    return more + (q & 0xFFFF) * (int8_t)by + (q >> 16) * (int8_t)(by >> 8);
#endif
}

__device__ static __forceinline__ uint32_t upper_codes(uint32_t q)
{
    return half_of(q, 0x0100, 0);
}

__device__ static __forceinline__ uint32_t lower_rest(uint32_t q)
{
    return half_of(q, 0x00FF, 0xFFFF);
}

__device__ static __forceinline__ uint32_t upper_rest(uint32_t q)
{
    return half_of(q, 0xFF00, 0xFFFF);
}

/* A lane's share of x of a record: of block g / 2 the byte g % 2; of the two pairs of blocks the one
 * that is not its own has zeros, always. And block c's word. */
struct n4_share {
    uint4 pair0, pair1; /* no array, lest it is indexed by the lane, in local memory */
    uint32_t word;
};

/* A lane's share of a record: of rows g and g + 8 the words of blocks 2 i and 2 i + 1. */
struct n4_record {
    uint2 q[2][2];
    float2 scale;
};

/* to = *from in shared memory, if `so`: without a register more for what it was. */
__device__ static __forceinline__ void load_if(uint4 &to, const uint4 *from, bool so)
{
#ifdef __CUDA_ARCH__
    asm volatile("{.reg .pred p; setp.ne.b32 p, %5, 0; @p ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];}"
                 : "+r"(to.x), "+r"(to.y), "+r"(to.z), "+r"(to.w)
                 : "r"((uint32_t)__cvta_generic_to_shared(from)), "r"((int)so)
                 : "memory");
#else
    if (so)
        to = *from;
#endif
}

struct whole_n4 {
    enum { RECORD = N4_RECORD, PLANES = 512 };
    typedef n4_share own;

    __device__ static __forceinline__ int planes_at(int lane)
    {
        return lane * (int)sizeof(uint4);
    }
    __device__ static __forceinline__ int word_at(int lane)
    {
        return PLANES + lane % 4 * (int)sizeof(uint32_t);
    }

    __device__ static __forceinline__ void put(uint8_t *to, const uint4 &v, int block, int c,
                                               bool there)
    {
        float x[8];
        const uint32_t step = whole_open(x, v);
        const float inverse = __fdividef(1, __uint_as_float(step));
        uint32_t X[8], H[4]; /* 128 more, for the lower byte is signed */
        int sum = 0;

#pragma unroll
        for (int k = 0; k < 8; k += 2) {
            const int l = whole_of(x[k], inverse), h = whole_of(x[k + 1], inverse / 16);

            X[k] = l + 128;
            X[k + 1] = whole_of(x[k + 1], inverse) + 128;
            H[k / 2] = h - l + 128;
            sum += l + 16 * h;
        }
#pragma unroll
        for (int d = 1; d < 4; d *= 2)
            sum += __shfl_xor_sync(~0u, sum, d);
        const auto plane = [&](int n) {
            return make_uint4(
                whole_bytes(n, X[0], X[1], X[2], X[3]), whole_bytes(n, X[4], X[5], X[6], X[7]),
                whole_bytes(n, X[0], X[2], X[4], X[6]), whole_bytes(n, H[0], H[1], H[2], H[3]));
        };
        if (!there)
            return;
        uint4 *const planes = (uint4 *)to + block * 8 + c;
        uint4 low = plane(0);

        low.x ^= 0x80808080, low.y ^= 0x80808080, low.z ^= 0x80808080, low.w ^= 0x80808080;
        planes[0] = plane(1);
        planes[4] = low;
        if (c == 0)
            ((uint32_t *)(to + PLANES))[block] = step | (uint32_t)(WHOLE_SUM + sum);
    }
    __device__ static __forceinline__ void load(n4_share &x, const uint8_t *planes,
                                                const uint8_t *word, int lane)
    {
        load_if(x.pair0, (const uint4 *)planes, lane < WARP / 2);
        load_if(x.pair1, (const uint4 *)planes, lane >= WARP / 2);
        x.word = *(const uint32_t *)word;
    }
    __device__ static __forceinline__ n4_record read(const uint8_t *p, int lane)
    {
        const uint2 *const q = (const uint2 *)p + lane * 2;

        return { { { q[0], q[1] }, { q[2 * WARP], q[2 * WARP + 1] } },
                 record_scales(p + 1024, lane % 4, 32, lane / 4) };
    }
    /* whole_add(), but for the table's step. */
    __device__ static __forceinline__ void add(float acc[2], const n4_record &w,
                                               const whole_values &values, const n4_share &x,
                                               bool odd, bool there)
    {
        const float by = whole_by(x.word);
        const int less = values.zero * whole_sum(x.word);

#pragma unroll
        for (int r = 0; r < 2; r++) {
            int line[4] = {}, rest[4] = {};

#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t u = w.q[r][i].x, v = w.q[r][i].y;
                const uint4 &b = i ? x.pair1 : x.pair0;
                const uint32_t a[4] = { u, v, u & 0xF0F0F0F0, v & 0xF0F0F0F0 };
                const uint32_t low[4] = { bytes_at(values.rest[0], u), bytes_at(values.rest[0], v),
                                          bytes_at(values.rest[0], upper_codes(u)),
                                          bytes_at(values.rest[0], upper_codes(v)) };
                const uint32_t high[4] = { bytes_at(values.rest[1], lower_rest(u)),
                                           bytes_at(values.rest[1], lower_rest(v)),
                                           bytes_at(values.rest[1], upper_rest(u)),
                                           bytes_at(values.rest[1], upper_rest(v)) };

                mma_bytes(line, a, make_uint2(b.z, b.w), line);
                mma_signed(rest, low, make_uint2(b.x, b.y));
                mma_signed(rest, high, make_uint2(b.x, b.y));
            }
            int t[4];

#pragma unroll
            for (int k = 0; k < 4; k++)
                t[k] = line[k] * values.line + rest[k];
            const int v = (odd ? t[2] : t[0]) * 256 + ((odd ? t[3] : t[1]) - less);
            const float sum = fmaf((r ? w.scale.y : w.scale.x) * by, (float)v, acc[r]);

            acc[r] = there ? sum : acc[r];
        }
    }
    /* fed_whole_group() */
    __device__ static __forceinline__ void group(float acc[2], n4_share &own, const uint8_t *records,
                                                 int apart, const uint8_t *planes,
                                                 const uint8_t *word, int step, int left,
                                                 const fed_share &share, const whole_values &values)
    {
        n4_record w[FED_RECORDS];

#pragma unroll
        for (int i = 0; i < FED_RECORDS; i++)
            w[i] = read(records + i * apart, share.lane);
#pragma unroll
        for (int i = 0; i < FED_RECORDS; i++) {
            const bool there = i * share.cols < left;
            const int to = there ? i * step : 0;

            load(own, planes + to, word + to, share.lane);
            add(acc, w[i], values, own, share.lane % 2, there);
        }
    }
};
template <> struct whole_way<DEV_N4> {
    typedef whole_n4 type;
};
