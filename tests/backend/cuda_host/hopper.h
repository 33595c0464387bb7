/* hopper.h - what barrier.cuh and hopper.cuh have, for the emulated device. */
#pragma once

#include "format/enc/f8.h"

static inline void bar_init(uint32_t bar, uint32_t arrivals)
{
    barrier_init(bar, arrivals);
}

static inline void bar_fence_init()
{
}

static inline void bar_arrive(uint32_t bar)
{
    barrier_arrive(bar, 0);
}

static inline void bar_expect(uint32_t bar, uint32_t bytes)
{
    barrier_arrive(bar, bytes);
}

static inline void bar_wait(uint32_t bar, uint32_t parity)
{
    barrier_wait(bar, parity);
}

static inline void bar_wait_warp(uint32_t bar, uint32_t parity)
{
    barrier_wait(bar, parity);
}

static inline bool bar_test(uint32_t bar, uint32_t parity)
{
    return barrier_test(bar, parity);
}

static inline void bar_spin(uint32_t bar, uint32_t parity)
{
    barrier_wait(bar, parity);
}

static inline bool elected()
{
    __syncwarp();
    return threadIdx.x % 32 == 0;
}

static inline void named_sync(int id, int threads)
{
    named_barrier(id, threads, true);
}

static inline void named_arrive(int id, int threads)
{
    named_barrier(id, threads, false);
}

static inline void tile_copy(uint32_t to, const void *map, int c, int r, uint32_t bar)
{
    tile_begin(to, map, c, r, 0, bar);
}

static inline void box_copy_once(uint32_t to, const void *map, int c, int r, int n, uint32_t bar)
{
    tile_begin(to, map, c, r, n, bar);
}

static inline void fence_map(const void *)
{
}

static inline void bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    bulk_begin(to, from, bytes, bar);
}

static inline void bulk_copy_once(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    bulk_begin(to, from, bytes, bar);
}

static inline void l2_prefetch(const void *p, uint32_t bytes)
{
    const volatile uint8_t *q = (const uint8_t *)p;

    (void)q[0], (void)q[bytes - 1]; /* they exist */
}

static inline void fence_async()
{
}

static inline void fence_async_all()
{
}

template <int N> static inline void registers_less()
{
}

template <int N> static inline void registers_more()
{
}

static inline float exp2_fast(float x)
{
    return exp2f(x);
}

static inline float tanh_fast(float x)
{
    return tanhf(x);
}

static inline float reciprocal(float x)
{
    return 1 / x;
}

static inline uint32_t pair_of_f8(uint16_t two)
{
    return f32_to_f16(f8_e4m3_to_f32((uint8_t)two)) |
           (uint32_t)f32_to_f16(f8_e4m3_to_f32((uint8_t)(two >> 8))) << 16;
}

static inline void wgmma_fence()
{
}

static inline void wgmma_commit()
{
    products_commit();
}

template <int N> static inline void wgmma_wait()
{
    products_wait(N);
}

template <int N> static inline void hold(float (&)[N])
{
}

template <bool BF16, int N>
static inline void wgmma_ss(float (&d)[N], uint64_t a, uint64_t b, bool add)
{
    product_begin({ d, 2 * N, add, BF16, false, false, false, {}, a, b });
}

template <int N> static inline void wgmma_f8(float (&d)[N], uint64_t a, uint64_t b, bool add)
{
    product_begin({ d, 2 * N, add, false, true, false, false, {}, a, b });
}

/* a: in registers of the lane's quad. */
static inline void product_begin_registers(wgmma_product p, const uint32_t *a)
{
    const lane_words *all = warp_meet(a, 4);

    for (int q = 0; q < 4; q++)
        memcpy(p.a[q], all[threadIdx.x % 32 / 4 * 4 + q], sizeof(p.a[q]));
    product_begin(p);
}

template <bool BF16, int N>
static inline void wgmma_rs(float (&d)[N], const uint32_t *a, uint64_t b, bool add)
{
    product_begin_registers({ d, 2 * N, add, BF16, false, true, true, {}, 0, b }, a);
}

template <int N> static inline void wgmma_rk(float (&d)[N], const uint32_t *a, uint64_t b, bool add)
{
    product_begin_registers({ d, 2 * N, add, false, false, false, true, {}, 0, b }, a);
}
