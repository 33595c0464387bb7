/* codes.cuh - a lane's share of packed codes (dev.h) as the tensor cores' operand: pairs of 16-bit
 * floats, exactly. */
#pragma once

#include "backend/cuda/unit.cuh"

__device__ static inline uint32_t h2_sub(uint32_t a, uint32_t b)
{
    const __half2 r = __hsub2(*(const __half2 *)&a, *(const __half2 *)&b);

    return *(const uint32_t *)&r;
}

__device__ static inline uint32_t h2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    const __half2 r = __hfma2(*(const __half2 *)&a, *(const __half2 *)&b, *(const __half2 *)&c);

    return *(const uint32_t *)&r;
}

/* (a & mask) | 0x6400 twice, which is one instruction where neither constant is an immediate. */
__device__ static inline uint32_t in_1024(uint32_t a, uint32_t mask)
{
#ifdef __CUDA_ARCH__
    uint32_t r;

    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(r) : "r"(a), "r"(mask), "r"(0x64006400));
    return r;
#else
    return (a & mask) | 0x64006400;
#endif
}

__device__ static inline uint32_t word_of(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

#ifdef __CUDA_ARCH__
enum { BIG = __CUDA_ARCH__ >= 900 };
#else
enum { BIG = 1 }; /* as the emulated device of the tests is */
#endif

enum { STREAM_WARPS = RING_WARPS(BIG) };

/* How a kind lies: blocks of 32 columns in a lane's 16 bytes, and what the code means. */
template <int KIND> struct kind_of {
    static constexpr bool rows = KIND == DEV_B16 || KIND == DEV_H16 || KIND == DEV_F8;
    static constexpr int blocks = KIND == DEV_B16 || KIND == DEV_H16 ? 1
                                  : KIND == DEV_U8 || KIND == DEV_F8 ? 2
                                                                     : 4;
    /* of a stage: 16 rows by 64 bytes, or a record */
    static constexpr int slabs = KIND == DEV_F8 ? RING_SLOT(CLASS_F8) / 1024
                                 : rows         ? RING_SLOT(CLASS_W16) / 1024
                                                : 1;
    static constexpr int codes = KIND == DEV_U6 ? 1536 : 1024;
};

/* The lane's 8 columns of block j as four pairs, column 2 i in the low half of p[i]. zero: 1024 +
 * zero point, twice (0x6400 is 1024 in f16, whose last bit is worth 1); hi: U6's; lut: N4's pairs of
 * values by byte, a copy for each lane. */
template <int KIND>
__device__ static inline void code_pairs(uint32_t p[4], const uint4 &v, const uint2 &hi, int j,
                                         uint32_t zero, const uint32_t *lut)
{
    if constexpr (KIND == DEV_B16 || KIND == DEV_H16) {
        p[0] = v.x, p[1] = v.y, p[2] = v.z, p[3] = v.w;
    } else if constexpr (KIND == DEV_U4) {
        const uint32_t q = word_of(v, j);

        /* codes four bits up are 16 times as large: 1024 + 16 q becomes 64 + q - (64 + zero) */
        const uint32_t less = h2_sub(0x63806380, zero); /* 960 */

        p[0] = h2_sub(in_1024(q, 0x000F000F), zero);
        p[1] = h2_fma(in_1024(q, 0x00F000F0), 0x2C002C00, less);
        p[2] = h2_sub(in_1024(q >> 8, 0x000F000F), zero);
        p[3] = h2_fma(in_1024(q >> 8, 0x00F000F0), 0x2C002C00, less);
    } else if constexpr (KIND == DEV_N4) {
        const uint32_t q = word_of(v, j);

#pragma unroll
        for (int i = 0; i < 4; i++)
            p[i] = lut[(q >> 8 * i & 255) * WARP + threadIdx.x % WARP];
    } else if constexpr (KIND == DEV_U6) {
        const uint32_t q = word_of(v, j), h = j < 2 ? hi.x : hi.y;

#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int s = 2 * i + 8 * (j % 2) - 4;
            const uint32_t top = s < 0 ? h << -s : h >> s;

            p[i] = h2_sub(in_1024(q >> 4 * i, 0x000F000F) | (top & 0x00300030), zero);
        }
    } else {
        const uint32_t half[2] = { j % 2 ? v.z : v.x, j % 2 ? v.w : v.y };

#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (KIND == DEV_U8)
                p[i] = h2_sub(__byte_perm(half[i / 2], 0x64646464, i % 2 ? 0x4342 : 0x4140), zero);
            else
                p[i] = half_pair(half[i / 2], i % 2);
        }
    }
}

/* A record's scales of rows g and g + 8 for group gi. */
__device__ static inline float2 record_scales(const uint8_t *scales, int gi, int stride, int g)
{
    return __half22float2(*(const __half2 *)(scales + gi * stride + g * 4));
}

/* Their zero points as h2_sub wants them. */
__device__ static inline void record_zeros(uint32_t z[2], const uint8_t *zeros, int gi, int g)
{
    const uint32_t both = *(const uint16_t *)(zeros + gi * 16 + g * 2);

    z[0] = 0x64006400 | (both & 255) * 0x00010001;
    z[1] = 0x64006400 | (both >> 8) * 0x00010001;
}
