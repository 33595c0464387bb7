/* barrier.cuh - how threads wait for one another, and for copies that the hardware makes: barriers
 * in shared memory that count arrivals and bytes, named barriers of some of a block's threads, and
 * gates between the blocks of a grid that all run at once.
 *
 * A barrier in shared memory is 8 bytes, told by its address there; its phases have parity 0, 1, 0,
 * ... and waiting for a parity ends where the phase before the running one had it. */
#pragma once

#include <stdint.h>

#include "backend/cuda/dev.h"

/* ---- barriers in shared memory ---- */

__device__ static inline uint32_t bar_at(const uint64_t *bar)
{
    return (uint32_t)__cvta_generic_to_shared(bar);
}

__device__ static inline void bar_init(uint32_t bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

__device__ static inline void bar_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* Whether the phase of this parity is over. */
__device__ static inline bool bar_test(uint32_t bar, uint32_t parity)
{
    uint32_t done;

    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; "
                 "selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(bar), "r"(parity)
                 : "memory");
    return done;
}

/* Asks until it is. */
__device__ static inline void bar_spin(uint32_t bar, uint32_t parity)
{
    while (!bar_test(bar, parity))
        ;
}

/* From here on of compute capability 9.0: until it is; the hardware may let the warp sleep
 * meanwhile. */
__device__ static inline void bar_wait(uint32_t bar, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\n"
                 "bra again;\n"
                 "done:\n"
                 "}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

/* The same of whole warps: the compiler knows that none of its threads goes on alone. */
__device__ static inline void bar_wait_warp(uint32_t bar, uint32_t parity)
{
    uint32_t done;

    do
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(bar), "r"(parity)
                     : "memory");
    while (!__all_sync(~0u, done));
}

/* What was initialised is seen by the copy engine and by all threads after the next barrier. */
__device__ static inline void bar_fence_init(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* True for one thread of a whole warp, and the compiler knows it: instructions that take their
 * operands from the warp, as copies do, need no loop over its threads. */
__device__ static inline bool elected(void)
{
    uint32_t one;

    asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(one));
    return one;
}

/* Arrives, and so many bytes will. */
__device__ static inline void bar_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

/* Bytes as they lie, a multiple of 16, which arrive at the barrier. */
__device__ static inline void bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], "
                 "%2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar)
                 : "memory");
}

/* The same of what is read once: it goes from the second-level cache before anything else. */
__device__ static inline void bulk_copy_once(uint32_t to, const void *from, uint32_t bytes,
                                             uint32_t bar)
{
    uint64_t once;

    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
        "[%1], %2, [%3], %4;" ::"r"(to),
        "l"(from), "r"(bytes), "r"(bar), "l"(once)
        : "memory");
}

/* Bytes to the second-level cache, a multiple of 16. */
__device__ static inline void l2_prefetch(const void *p, uint32_t bytes)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
}

/* The thread's number, read anew: what is derived from it is not kept in registers, or even in
 * local memory, from a program's beginning on. */
__device__ static inline int thread_now()
{
#ifdef __CUDA_ARCH__
    int t;

    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(t));
    return t;
#else
    return threadIdx.x;
#endif
}

/* Values in shared memory are read again after this: registers are few. */
__device__ static __forceinline__ void forget()
{
    asm volatile("" ::: "memory");
}

/* A value that is not computed anew wherever it is used. */
template <class X> __device__ static __forceinline__ X held(X x)
{
    asm volatile("" : "+r"(x));
    return x;
}

/* ---- named barriers ---- */

/* Those of a program's blocks but the warp that feeds (stream.cuh), and of blocks without one: all.
 */
enum { WORKERS = 1 };

/* Until `threads` of the block, whole warps, have come; 0 is __syncthreads'. */
__device__ static inline void named_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ static inline void named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ---- between blocks ---- */

/* One thread of a block: what the block wrote before is seen by those that see the count. */
__device__ static inline void gate_arrive(unsigned *gate)
{
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(gate) : "memory");
}

__device__ static inline void gate_wait(unsigned *gate, unsigned target)
{
    unsigned seen;

    do
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(gate) : "memory");
    while (seen < target);
}

/* ---- between kernels ---- */

/* The next kernel of the stream may have its blocks begin where there is room, if it is one of those
 * (cuda_launch_early). */
__device__ static inline void next_may_begin(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Until what the kernels before have written is there. */
__device__ static inline void wait_for_before(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* ---- words that tell by a tag that they are there ---- */

/* The tag of what a phase takes, made when it is needed; what it gives has the next one. */
struct phase_tag {
    const unsigned *first; /* that of phase 0 */
    const int *number;     /* the phase's */
    __device__ unsigned takes() const
    {
        return *first + *number;
    }
    __device__ unsigned gives() const
    {
        return takes() + 1;
    }
};

/* Data in the low half, a tag that grows in the high one: written at once, and seen without a gate.
 */
__device__ static inline void tagged_store(uint64_t *to, uint32_t data, unsigned tag)
{
    const uint64_t v = data | (uint64_t)tag << 32;

    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(v) : "memory");
}

/* Two neighbouring words, as they are now. */
__device__ static inline void tagged_load(uint64_t v[2], const uint64_t *from)
{
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(v[0]), "=l"(v[1])
                 : "l"(from)
                 : "memory");
}

/* Whether N words have the tag. */
template <int N> __device__ static inline bool tagged(const uint64_t *v, unsigned tag)
{
    bool there = true;

#pragma unroll
    for (int i = 0; i < N; i++)
        there = there && (unsigned)(v[i] >> 32) == tag;
    return there;
}

/* The first n of N runs of two neighbouring words each, `step` words apart, once all of them have
 * the tag. */
template <int N>
__device__ static inline void tagged_wait(uint2 *data, const uint64_t *from, int step, int n,
                                          unsigned tag)
{
    uint64_t v[2 * N];
    bool there;

    do {
        there = true;
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < n)
                tagged_load(v + 2 * i, from + i * step);
#pragma unroll
        for (int i = 0; i < N; i++)
            there = there && (i >= n || tagged<2>(v + 2 * i, tag));
    } while (!there);
#pragma unroll
    for (int i = 0; i < N; i++)
        data[i] = make_uint2((uint32_t)v[2 * i], (uint32_t)v[2 * i + 1]);
}

/* ---- words that are ABSENT until they are there ---- */

/* Whether it has to be loaded again. */
__device__ static inline bool is_absent(float v)
{
    return __float_as_uint(v) == ABSENT;
}

__device__ static inline bool is_absent(const float4 &v)
{
    return is_absent(v.x) | is_absent(v.y) | is_absent(v.z) | is_absent(v.w);
}

/* What other blocks may have written since a gate, or write meanwhile, as the second-level cache
 * has it. */
__device__ static inline float load_shared(const float *from)
{
    float v;

    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(v) : "l"(from) : "memory");
    return v;
}

__device__ static inline float4 load_shared(const float4 *from)
{
    float4 v;

    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(from)
                 : "memory");
    return v;
}

/* What other blocks wait for. */
__device__ static inline void store_shared(float *to, float v)
{
    asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(to), "f"(v) : "memory");
}
