/* train_act.cuh - activations of training, float32 or bf16, as kernels read and write them, and sums
 * over threads. */
#pragma once

#include "backend/cuda/unit.cuh"

/* A kernel for both: NAME_f32 and NAME_b16 call body<T>. */
#define BOTH(name, body, params, args)                                                             \
    namespace of_##name                                                                            \
    {                                                                                              \
    typedef float T;                                                                               \
    extern "C" __global__ void name##_f32 params                                                   \
    {                                                                                              \
        body<T> args;                                                                              \
    }                                                                                              \
    }                                                                                              \
    namespace of_##name##_b16                                                                      \
    {                                                                                              \
    typedef uint16_t T;                                                                            \
    extern "C" __global__ void name##_b16 params                                                   \
    {                                                                                              \
        body<T> args;                                                                              \
    }                                                                                              \
    }

__device__ static inline float get(const float *p)
{
    return *p;
}

__device__ static inline float get(const uint16_t *p)
{
    return bf16_to_f32(*p);
}

__device__ static inline void put(float *p, float v)
{
    *p = v;
}

__device__ static inline void put(uint16_t *p, float v)
{
    *p = __bfloat16_as_ushort(__float2bfloat16_rn(v));
}

__device__ static inline size_t thread_of_grid()
{
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* Neighbours; eight of them begin at a multiple of 16 bytes. */
template <class T> __device__ static inline void load_n(float (&v)[1], const T *p)
{
    v[0] = get(p);
}

template <class T> __device__ static inline void store_n(T *p, const float (&v)[1])
{
    put(p, v[0]);
}

__device__ static inline void load_n(float (&v)[8], const float *p)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float4 f = ((const float4 *)p)[i];

        v[4 * i] = f.x, v[4 * i + 1] = f.y, v[4 * i + 2] = f.z, v[4 * i + 3] = f.w;
    }
}

__device__ static inline void load_n(float (&v)[8], const uint16_t *p)
{
    const uint4 u = *(const uint4 *)p;
    const uint32_t w[4] = { u.x, u.y, u.z, u.w };

#pragma unroll
    for (int i = 0; i < 4; i++)
        v[2 * i] = __uint_as_float(w[i] << 16), v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000);
}

__device__ static inline void store_n(float *p, const float (&v)[8])
{
#pragma unroll
    for (int i = 0; i < 2; i++)
        ((float4 *)p)[i] = make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
}

__device__ static inline void store_n(uint16_t *p, const float (&v)[8])
{
    uint32_t w[4];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        const __nv_bfloat162 b = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);

        w[i] = *(const uint32_t *)&b;
    }
    *(uint4 *)p = make_uint4(w[0], w[1], w[2], w[3]);
}
