/* mma.cuh - 16 x 16 by 16 x 8 on the tensor cores, float32 sums, or bytes, and how operands come
 * out of shared memory; and powers of two. */
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* c += a b; bf16 or f16 */
template <bool BF16>
__device__ static inline void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    if (BF16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* d = a b + c in whole numbers, 32 unsigned bytes of 16 rows by 32 signed ones of 8 columns: lane
 * 4 g + q has of a rows g and g + 8, bytes 4 q on, then those from 16 + 4 q on; of b those of
 * column g; of c and d what it has of mma's */
__device__ static inline void mma_bytes(int d[4], const uint32_t a[4], const uint2 &b,
                                    const int c[4])
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%11,%12,%13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(c[0]), "r"(c[1]),
          "r"(c[2]), "r"(c[3]));
}

/* Two values in 16 bits, the first in the lower half. */
template <bool BF16> __device__ static inline uint32_t pair16(float a, float b)
{
    if constexpr (BF16) {
        const __nv_bfloat162 p = __floats2bfloat162_rn(a, b);

        return *(const uint32_t *)&p;
    } else {
        const __half2 p = __floats2half2_rn(a, b);

        return *(const uint32_t *)&p;
    }
}

/* Four 8 x 8 matrices of 16-bit values; `at` is where the lane's row of 16 bytes begins. */
template <bool TRANS> __device__ static inline void load_matrices(uint32_t r[4], uint32_t at)
{
    if (TRANS)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
}

/* 16 bytes number `chunk` of a row of shared memory: neighbouring rows are in other banks. */
template <int SIZE> __device__ static inline uint32_t place(int row, int chunk)
{
    return (row * (SIZE / 8) + (chunk ^ (row & 7))) * 16;
}

/* A matrix of 8 x 8 values of 16 bits, two neighbours of a row in a lane, transposed. */
__device__ static inline uint32_t transposed(uint32_t v)
{
    uint32_t r;

    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
    return r;
}

/* Word k of lane l of four to word l of lane k. */
__device__ static inline void transpose4(uint32_t (&w)[4])
{
#pragma unroll
    for (int d = 1; d < 4; d *= 2) {
        const bool high = threadIdx.x & d;

#pragma unroll
        for (int k = 0; k < 4; k++)
            if (!(k & d)) {
                const uint32_t got = __shfl_xor_sync(~0u, high ? w[k] : w[k | d], d);

                (high ? w[k] : w[k | d]) = got;
            }
    }
}

/* 2^x; denormal results are zero. */
__device__ static inline float exp2_fast(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
