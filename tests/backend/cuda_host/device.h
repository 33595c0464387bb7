/* device.h - CUDA C++ for g++: kernels of src/backend/cuda as host code.
 *
 * tests/backend/cuda_host.sh runs the GPU's tests without a GPU: the backend's host code as it is,
 * over a driver (device.cpp, as libcuda.so.1) that runs a kernel's blocks one after the other, its
 * threads as fibers that change places at barriers, shuffles and the tensor cores' products; the
 * blocks of a program (program.cuh), which wait for one another, at the same time, in turns, on a
 * device of a few multiprocessors (EMULATED_MULTIPROCESSORS). kernels.cpp is compiled once for each
 * .cu file, and has what is PTX otherwise; cublas.c stands in for cuBLASLt.
 * `make build/tests/cuda_host/puna` is the whole program over it, for small models (sft with -q: no
 * yardstick of products).
 *
 * What it shows: results, on the shapes of the tests; barriers and shuffles that not all threads
 * come to, and waits that never end; memory read before it was written (it begins as NaN) and
 * written beyond its end; background copies that are used before they were waited for, or whose
 * place is still read when they begin (they land at once or at the last moment, by chance, or as
 * EMULATED_COPIES=early or late says, and their place is NaN until then), or that a block leaves
 * behind; vectors at addresses that are not theirs. What it cannot show: registers,
 * shared memory's size, time, what the hardware's own exp2f and the like round otherwise, missing
 * fences, and races but by the few orders in which threads come: they run in turns. */
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "base/num.h"

/* thread_local goes with extern too, as static would not; there is one thread */
#define __global__
#define __device__
#define __host__
#define __shared__      thread_local
#define __noinline__    __attribute__((noinline))
#define __forceinline__ inline
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

/* ---- the running thread (device.cpp) ---- */

struct dim3_at {
    unsigned x, y, z;
};
extern dim3_at threadIdx, blockIdx, blockDim, gridDim;

enum { WARP_WORDS = 12 };
void __syncthreads();
int __syncthreads_or(int v);
/* Waits for the lanes of the warp; what each of them brought, until the next call: [32]. */
typedef uint32_t lane_words[WARP_WORDS];
const lane_words *warp_meet(const uint32_t *mine, int n);
/* cp.async: to is an address as __cvta_generic_to_shared gives it. */
void copy_begin(uint32_t to, const void *from, int n);
void copy_commit();
void copy_wait_for(int pending);
size_t __cvta_generic_to_shared(const void *p);
const void *shared_at(uint32_t at);

/* ---- barriers (barrier.cuh), and what Hopper has (hopper.cuh) ---- */

/* Barriers in shared memory, and those of some of a block's threads. */
void barrier_init(uint32_t bar, uint32_t arrivals);
void barrier_arrive(uint32_t bar, uint32_t expected); /* bytes, first */
void barrier_wait(uint32_t bar, uint32_t parity);
bool barrier_test(uint32_t bar, uint32_t parity);
void named_barrier(int id, int threads, bool wait);
/* Between the blocks of a program. */
void gate_arrive(unsigned *gate);
void gate_wait(unsigned *gate, unsigned target);
/* Others have their turn before this thread looks again for what they write. */
void look_again();
/* Copies that land whenever it pleases them, at a barrier's last arrival at the latest. */
void bulk_begin(uint32_t to, const void *from, uint32_t bytes, uint32_t bar);
void tile_begin(uint32_t to, const void *map, int c, int r, int n, uint32_t bar);
/* A thread's share of d [64][n] (+)= a b: done when it pleases the device, in order, at
 * products_wait at the latest. */
struct wgmma_product {
    float *d;
    int n;
    bool add, bf16, f8, across; /* f8: E4M3, 32 values of the sum; across: b is MN-major */
    bool registers;             /* a is in those of the lane's quad, by lanes; else at a_at */
    uint32_t a[4][4];
    uint64_t a_at, b_at;
};
void product_begin(const wgmma_product &p);
void products_commit();
void products_wait(int pending);

/* ---- its library ---- */

static inline void __syncwarp()
{
    warp_meet(nullptr, 0);
}

template <class T> static inline T __shfl_sync(unsigned, T v, int lane)
{
    static_assert(sizeof(T) == 4, "a word at a time");
    uint32_t u;

    memcpy(&u, &v, 4);
    memcpy(&v, &warp_meet(&u, 1)[lane & 31][0], 4);
    return v;
}

static inline uint32_t __reduce_max_sync(unsigned, uint32_t v)
{
    const lane_words *const all = warp_meet(&v, 1);

    for (int i = 0; i < 32; i++)
        v = all[i][0] > v ? all[i][0] : v;
    return v;
}

template <class T> static inline T __shfl_xor_sync(unsigned all, T v, int d)
{
    return __shfl_sync(all, v, (int)(threadIdx.x % 32) ^ d);
}

static inline uint32_t __ballot_sync(unsigned, int v) /* of whole warps */
{
    const uint32_t one = v != 0;
    const lane_words *all = warp_meet(&one, 1);
    uint32_t bits = 0;

    for (int i = 0; i < 32; i++)
        bits |= all[i][0] << i;
    return bits;
}

static inline int __all_sync(unsigned all, int v)
{
    return __ballot_sync(all, v) == 0xFFFFFFFF;
}

static inline int __any_sync(unsigned all, int v)
{
    return __ballot_sync(all, v) != 0;
}

static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}

static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}

template <class T> static inline T atomicAdd(T *p, std::decay_t<T> v)
{
    const T old = *p;

    *p += v;
    return old;
}

static inline void __threadfence()
{
}

template <class T> static inline T __ldcs(const T *p)
{
    return *p;
}

template <class T> static inline T __ldcg(const T *p)
{
    return *p;
}

static inline int min(int a, int b)
{
    return a < b ? a : b;
}

static inline int max(int a, int b)
{
    return a > b ? a : b;
}

static inline float __fdividef(float a, float b)
{
    return a / b;
}

static inline uint32_t __float_as_uint(float f)
{
    return f32_bits(f);
}

static inline float __uint_as_float(uint32_t u)
{
    return f32_from_bits(u);
}

static inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t which)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t r = 0;

    for (int i = 0; i < 4; i++)
        r |= (uint32_t)(both >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
    return r;
}

/* The larger of either half. */
static inline uint32_t __vmaxu2(uint32_t a, uint32_t b)
{
    const uint32_t lo = (a & 0xFFFF) > (b & 0xFFFF) ? a : b, hi = a >> 16 > b >> 16 ? a : b;

    return (lo & 0xFFFF) | (hi & 0xFFFF0000);
}

struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

static inline uint2 make_uint2(uint32_t x, uint32_t y)
{
    return { x, y };
}

static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return { x, y, z, w };
}

static inline float2 make_float2(float x, float y)
{
    return { x, y };
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    return { x, y, z, w };
}

/* ---- cuda_fp16.h ---- */

struct __half {
    f16 bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

static inline __half __float2half_rn(float f)
{
    return { f32_to_f16(f) };
}

static inline float __half2float(__half h)
{
    return f16_to_f32(h.bits);
}

static inline unsigned short __half_as_ushort(__half h)
{
    return h.bits;
}

static inline float2 __half22float2(__half2 h)
{
    return { __half2float(h.x), __half2float(h.y) };
}

static inline __half2 __floats2half2_rn(float x, float y)
{
    return { __float2half_rn(x), __float2half_rn(y) };
}

static inline __half2 __float2half2_rn(float f)
{
    return __floats2half2_rn(f, f);
}

static inline __half2 __hmul2(__half2 a, __half2 b)
{
    return __floats2half2_rn(__half2float(a.x) * __half2float(b.x),
                             __half2float(a.y) * __half2float(b.y));
}

static inline __half2 __hsub2(__half2 a, __half2 b)
{
    return __floats2half2_rn(__half2float(a.x) - __half2float(b.x),
                             __half2float(a.y) - __half2float(b.y));
}

/* Rounded to float32 first, which is seen in a half's last place at most. */
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    return __floats2half2_rn(fmaf(__half2float(a.x), __half2float(b.x), __half2float(c.x)),
                             fmaf(__half2float(a.y), __half2float(b.y), __half2float(c.y)));
}

/* ---- cuda_bf16.h ---- */

struct alignas(4) __nv_bfloat162 {
    bf16 x, y;
};

struct __nv_bfloat16 {
    bf16 bits;
};

static inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    return { f32_to_bf16(f) };
}

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h)
{
    return h.bits;
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return { f32_to_bf16(x), f32_to_bf16(y) };
}

/* ---- kernels by name ---- */

typedef std::function<void()> emulated_call;

template <class... A, size_t... I>
emulated_call kernel_bind(void (*f)(A...), void **args, std::index_sequence<I...>)
{
    const std::tuple<std::decay_t<A>...> held(*(std::decay_t<A> *)args[I]...);

    return [f, held] { std::apply(f, held); };
}

/* A kernel with the arguments that cuLaunchKernel's args point to, copied. */
template <class... A> emulated_call kernel_bind(void (*f)(A...), void **args)
{
    return kernel_bind(f, args, std::index_sequence_for<A...>());
}

struct kernel_listed {
    kernel_listed(const char *name, emulated_call (*bind)(void **args));
};
