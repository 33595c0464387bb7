/* block.cuh - what the threads of a block make together. */
#pragma once

#include "backend/cuda/barrier.cuh"
#include "backend/cuda/unit.cuh"

/* The sum, or the largest, of a block's values, to all of its threads. */
template <bool MAX> __device__ static inline float block_all(float v)
{
    __shared__ float part[WARP];
    const int lane = threadIdx.x % WARP;

    v = MAX ? warp_max(v) : warp_sum(v);
    if (lane == 0)
        part[threadIdx.x / WARP] = v;
    __syncthreads();
    v = lane < blockDim.x / WARP ? part[lane] : MAX ? -INFINITY : 0;
    v = MAX ? warp_max(v) : warp_sum(v);
    __syncthreads(); /* part is free again */
    return v;
}

__device__ static inline float block_sum(float v)
{
    return block_all<false>(v);
}

__device__ static inline float block_max(float v)
{
    return block_all<true>(v);
}

/* Whether all other of `splits` blocks, which `done` counts, have come here already, and what they
 * wrote is there; zero before and after. `threads` of each do. */
__device__ static inline bool last_of(int *done, int splits, int threads)
{
    __shared__ bool last;

    __threadfence();
    named_sync(WORKERS, threads);
    if (thread_now() == 0) {
        last = atomicAdd(done, 1) == splits - 1;
        if (last)
            *done = 0;
    }
    named_sync(WORKERS, threads);
    __threadfence();
    return last;
}

/* What the blocks of a program wait for before a phase: so many arrivals at a gate; 0: nothing. */
struct gate_stop {
    unsigned *gate;
    unsigned target;
};

/* `threads` of the block, once all of them are here. */
__device__ static inline void stop_at(const gate_stop &s, int threads)
{
    if (s.target && thread_now() == 0)
        gate_wait(s.gate, s.target);
    named_sync(WORKERS, threads);
}
