/* wide_wgmma.cu - what wide.cu computes, y = x W^T for 17 to 64 rows of x and codes in records
 * (dev.h), with products of whole warpgroups: Hopper.
 *
 * A group is 256 rows of W by 128 columns (U8: 64), or 128 rows by twice as many, where two warpgroups
 * add up what they have: a record for each of 16 warps. A step is one of the groups along the columns.
 * All steps of all groups are cut into equal runs, one for each block, often the same number of
 * blocks for each group; what several have of a group's sums meets in memory, and who ends last adds
 * it up, in order. Codes are widened in registers, times their scales, rounded to f16: wgmma's first
 * operand. Its second is x, in shared memory, all rows of it, which lies in memory as wgmma wants it
 * (image.cuh): four threads bring both by bulk copies, records before the kernels before have ended.
 * How work is cut depends on W and the device alone, and so does the order of every sum: a row's
 * result is the same beside any others. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/image.cuh"
#include "backend/cuda/silu.cuh"
#include "backend/cuda/stream.cuh"
#include "backend/cuda/wide_args.h"

enum { COMPUTE = WG_TILES * WARP }; /* threads that do; a warpgroup more brings what they read */
enum { MEETING = 2, PAIRS }; /* named barriers; of pairs of warps from PAIRS on */

#if HOPPER
template <int KIND, int N> struct wide_of {
    typedef kind_of<KIND> K;
    static constexpr int cols = K::blocks * 32, slab = N * SWIZZLE_ROW, x = N * cols * 2;
};

/* The first step of block b; the block that step s is of. */
__device__ static inline int first_step(const wg_args &a, int b)
{
    return (unsigned)a.total * b / gridDim.x;
}

__device__ static inline int block_of(const wg_args &a, int s)
{
    return ((unsigned)(s + 1) * gridDim.x - 1) / a.total;
}

/* A ring's stage. */
struct stage {
    int slot, parity;
};

__device__ static inline void step(stage &g, int stages)
{
    if (++g.slot == stages)
        g.slot = 0, g.parity ^= 1;
}

/* All that is read, by a thread of each of a warpgroup's warps: every fourth tile, x by the first. */
template <int KIND, int N>
__device__ static inline void bring(const wg_args &a, uint32_t at, uint32_t records, uint32_t full)
{
    enum { SHARE = WG_TILES / 4 };
    const dev_weight &w = a.s.out[0].w;
    const int tiles = WG_TILES / a.ways, bytes = a.ways * w.rec;
    const int warp = threadIdx.x / WARP % 4, x = a.ways * wide_of<KIND, N>::x;
    const uint8_t *const image = (const uint8_t *)a.s.x;
    const int end = first_step(a, blockIdx.x + 1);
    stage g = { 0, 0 };

    if (warp == 0) /* the others' records are on their way before x is there */
        wait_for_before();
    for (int s = first_step(a, blockIdx.x); s < end;) {
        const int group = s / a.steps, begin = group * a.steps, last = min(end, begin + a.steps);
        const int n = (min(tiles, a.s.tiles - group * tiles) - warp + 3) / 4;
        const uint8_t *from[SHARE];

#pragma unroll
        for (int i = 0; i < SHARE; i++)
            if (i < n) {
                int tile;
                const dev_out &out = out_of(a.s, group * tiles + warp + 4 * i, &tile);

                from[i] = out.w.q + (size_t)tile * a.steps * bytes;
            }
        for (; s < last; s++) {
            const uint32_t bar = full + 8 * g.slot, to = records + g.slot * WG_TILES * w.rec;
            const size_t in = s - begin;

            bar_wait(bar + 8 * a.stages, g.parity ^ 1);
            bar_expect(bar, n * bytes + (warp ? 0 : x));
            if (warp == 0)
                bulk_copy(at + g.slot * x, image + in * x, x, bar);
#pragma unroll
            for (int i = 0; i < SHARE; i++)
                if (i < n)
                    bulk_copy_once(to + (warp + 4 * i) * bytes, from[i] + in * bytes, bytes, bar);
            step(g, a.stages);
        }
    }
}

__device__ static inline uint32_t h2_mul(uint32_t a, uint32_t b)
{
    const __half2 r = __hmul2(*(const __half2 *)&a, *(const __half2 *)&b);

    return *(const uint32_t *)&r;
}

/* Row g's half of a pair of scales twice, and row g + 8's. */
__device__ static inline void scales_of(uint32_t s[2], uint32_t both)
{
    s[0] = __byte_perm(both, both, 0x1010);
    s[1] = __byte_perm(both, both, 0x3232);
}

/* What scales a record's codes in rows g and g + 8, by group, read before codes are widened. */
template <int KIND, bool PAIR, bool ZEROS> struct scaling {
    static constexpr int groups = KIND == DEV_U6 ? 8 : kind_of<KIND>::blocks;
    uint32_t s[groups], m[PAIR ? groups : 1];
    uint16_t z[ZEROS ? groups : 1];

    /* apart: its groups are blocks, not all of it */
    __device__ inline void read(const uint8_t *p, int gs, int apart, int g)
    {
#pragma unroll
        for (int k = 0; k < groups; k++) {
            const int i = KIND == DEV_U6 ? k : k * apart;

            s[k] = *(const uint32_t *)(p + i * (PAIR ? 64 : 32) + g * 4);
            if (PAIR)
                m[k] = *(const uint32_t *)(p + 32 + i * 64 + g * 4);
            if (ZEROS)
                z[k] = *(const uint16_t *)(p + gs * 32 + i * 16 + g * 2);
        }
    }
};

/* A record's block j: wgmma's first operand, for both of its products. */
template <int KIND, bool PAIR, bool ZEROS>
__device__ static inline void widen(uint32_t (&x)[2][4], const uint4 (&v)[2], const uint4 &hi, int j,
                                    const scaling<KIND, PAIR, ZEROS> &by, int gs, uint32_t zero,
                                    const uint32_t *lut)
{
    uint32_t s[2], m[2], z[2] = { zero, zero };

    if (ZEROS) {
        z[0] = 0x64006400 | (by.z[j] & 255) * 0x00010001;
        z[1] = 0x64006400 | (by.z[j] >> 8) * 0x00010001;
    }
    if (KIND != DEV_U6)
        scales_of(s, by.s[j]);
    if (PAIR)
        scales_of(m, by.m[j]);
    else if (KIND == DEV_U8) /* of whole rows: no branch, which wgmma would have to wait for */
        s[0] = gs ? s[0] : 0x3C003C00, s[1] = gs ? s[1] : 0x3C003C00;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t q[4];

        code_pairs<KIND>(q, v[r], r ? make_uint2(hi.z, hi.w) : make_uint2(hi.x, hi.y), j, z[r], lut);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (KIND == DEV_U6 && i % 2 == 0)
                scales_of(s, by.s[2 * j + i / 2]);
            x[i / 2][2 * (i % 2) + r] = PAIR ? h2_fma(q[i], s[r], m[r]) : h2_mul(q[i], s[r]);
        }
    }
}

/* Of a lane's sum number i: which row of x it is of, from the lane's first on; whether it is of row
 * g + 8 of W, not g. */
__device__ static constexpr int row_of(int i)
{
    return i / 4 * 8 + i % 2;
}

__device__ static constexpr int half_of(int i)
{
    return i / 2 % 2;
}

/* Gated values for the product that follows instead of sums: of two warps the first has those of
 * gate, the second of up, and sends them through shared memory. rows: of x from the lane's first on. */
template <int N>
__device__ static inline void end_gated(const wg_args &a, int row, int rows, const bool (&there)[2],
                                        float *meet, const float (&sum)[N / 2])
{
    const int warp = threadIdx.x / WARP, t0 = 2 * (threadIdx.x % 4);
    float *const up = meet + warp / 2 * (N / 2 * WARP) + threadIdx.x % WARP;

    if (warp % 2)
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            up[i * WARP] = sum[i];
    named_sync(PAIRS + warp / 2, 2 * WARP);
    if (warp % 2 == 0) {
        const uint32_t eight = 8 * (a.image ? 64 : a.s.kp16); /* from a row of x to row 8 after it */
        uint16_t *y[2][2];

#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int t = 0; t < 2; t++)
                y[h][t] = a.s.y16 + input_at(a.image, a.s.kp16, t0 + t, row + 8 * h);
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            if (row_of(i) < rows & there[half_of(i)])
                y[half_of(i)][i % 2][i / 4 * eight] = to16(silu(sum[i]) * up[i * WARP], a.s.mode16);
    }
    named_sync(PAIRS + warp / 2, 2 * WARP);
}

/* One more, and how many there were before: what was written before by those who arrived is seen. */
__device__ static inline int arrive_both(int *done)
{
#ifdef __CUDA_ARCH__
    int before;

    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(done) : "memory");
    return before;
#else
    return atomicAdd(done, 1);
#endif
}

/* Whether the other blocks' parts of a warp's sums are there, or of those of a pair of warps. */
__device__ static inline bool last_part(int *done, int others, bool pair)
{
    __shared__ int before[WG_TILES];
    const int warp = threadIdx.x / WARP, at = pair ? warp / 2 * 2 : warp;

    if (pair)
        named_sync(PAIRS + warp / 2, 2 * WARP);
    __syncwarp();
    if (threadIdx.x % WARP == 0 && warp == at) {
        before[at] = arrive_both(done + at);
        if (before[at] == others)
            done[at] = 0;
    }
    __syncwarp();
    if (pair)
        named_sync(PAIRS + warp / 2, 2 * WARP);
    return *(volatile int *)&before[at] == others;
}

/* A warp's parts of blocks from .. to of the group that begins with step `begin`, in order. */
template <int N>
__device__ static inline void add_parts(const wg_args &a, int begin, int from, int to,
                                        float (&sum)[N / 2])
{
    enum { BESIDE = 2, CHUNK = 8 }; /* asked for at once */

#pragma unroll
    for (int i = 0; i < N / 2; i++)
        sum[i] = 0;
#pragma unroll
    for (int i = 0; i < N / 2; i += CHUNK)
        for (int b = from; b <= to; b += BESIDE) {
            float v[BESIDE][CHUNK];

#pragma unroll
            for (int k = 0; k < BESIDE; k++)
                if (b + k <= to) {
                    const int slot = 2 * (b + k) + (begin > first_step(a, b + k));
                    const float *const p = a.part + (size_t)slot * COMPUTE * (N / 2) + threadIdx.x;

#pragma unroll
                    for (int j = 0; j < CHUNK; j++)
                        v[k][j] = load_shared(p + (i + j) * COMPUTE);
                }
#pragma unroll
            for (int k = 0; k < BESIDE; k++)
#pragma unroll
                for (int j = 0; j < CHUNK; j++)
                    sum[i + j] += b + k <= to ? v[k][j] : 0;
        }
}

/* What a block has of a group, found while its first step is on its way, and kept in shared memory. */
struct share {
    int group, from, to, slot; /* of the blocks that have parts; of this block's */
};

__device__ static inline share share_of(const wg_args &a, int s)
{
    const int group = s / a.steps, begin = group * a.steps, me = blockIdx.x;

    return { group, block_of(a, begin), block_of(a, begin + a.steps - 1),
             2 * me + (s > first_step(a, me)) };
}

/* The sums of a group, by the warps that have them. */
template <int KIND, int N>
__device__ static inline void end_group(const wg_args &a, const share &have, float *meet,
                                        float (&sum)[N / 2])
{
    enum { EARLY = N == 32, CHUNK = 16 }; /* for more there are no registers */
    const int item = have.group * (WG_TILES / a.ways) + threadIdx.x / WARP;
    const int from = have.from, to = have.to;
    int tile;
    const dev_out &out = out_of(a.s, min(item, a.s.tiles - 1), &tile);
    const int row = tile * DEV_TILE + threadIdx.x % WARP / 4, t0 = 2 * (threadIdx.x % 4);
    const bool there[2] = { item < a.s.tiles && row < out.w.rows,
                            item < a.s.tiles && row + 8 < out.w.rows };
    const int rows = a.s.T - t0;
    float *const y = out.y + (size_t)t0 * out.w.rows + row;
    float by[2] = { 1, 1 }, old[N / 2];
    const auto old_of = [&](int i) {
        return a.s.add & row_of(i) < rows & there[half_of(i)]
                   ? y[(uint32_t)row_of(i) * out.w.rows + 8 * half_of(i)]
                   : 0;
    };

    wait_for_before();
    if (from < to) {
        float *const p = a.part + (size_t)have.slot * COMPUTE * (N / 2) + threadIdx.x;

#pragma unroll
        for (int i = 0; i < N / 2; i++)
            p[i * COMPUTE] = sum[i];
    }
    /* before it is known whether the sums are complete */
    if (EARLY)
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            old[i] = old_of(i);
    if (KIND == DEV_U8 && out.w.gs == 0)
#pragma unroll
        for (int h = 0; h < 2; h++)
            by[h] = scale_at(out.w, min(row + 8 * h, out.w.rows - 1) / out.w.row_group);
    if (from < to) {
        if (!last_part(a.done + have.group * WG_TILES, to - from, a.s.swiglu))
            return;
        add_parts<N>(a, have.group * a.steps, from, to, sum);
    }
    if (a.s.swiglu) {
        end_gated<N>(a, row, rows, there, meet, sum);
        return;
    }
#pragma unroll
    for (int i = 0; i < N / 2; i += CHUNK) {
        if (!EARLY)
#pragma unroll
            for (int j = i; j < i + CHUNK; j++)
                old[j] = old_of(j);
#pragma unroll
        for (int j = i; j < i + CHUNK; j++)
            if (row_of(j) < rows & there[half_of(j)])
                y[(uint32_t)row_of(j) * out.w.rows + 8 * half_of(j)] =
                    fmaf(sum[j], by[half_of(j)], old[j]);
    }
}

/* An operand elsewhere: addresses are in its lower half, and do not carry. */
__device__ static inline uint64_t with_low(uint64_t d, uint32_t low)
{
    return (d & ~(uint64_t)0xFFFFFFFF) | low;
}

/* By the warpgroups that have tiles. */
template <int KIND, bool PAIR, bool ZEROS, int N>
__device__ static inline void compute(const wg_args &a, const uint8_t *shared, uint32_t at,
                                      int records, uint32_t full, float *meet, const uint32_t *lut)
{
    typedef wide_of<KIND, N> W;
    typedef kind_of<KIND> K;
    const int lane = threadIdx.x % WARP, threads = COMPUTE / a.ways;
    const int way = threadIdx.x / threads, in = threadIdx.x % threads;
    const dev_weight &w = a.s.out[0].w; /* what all outputs share */
    const uint32_t zero = 0x64006400 | (uint32_t)w.zero_const * 0x00010001;
    const uint8_t *const mine = shared + records + (in / WARP * a.ways + way) * w.rec;
    const uint64_t x0 = operand(at + way * W::x, 16, SWIZZLE_ATOM);
    const uint32_t x_lo = (uint32_t)x0;
    const int end = first_step(a, blockIdx.x + 1);
    __shared__ share have[WG_TILES];
    stage ring = { 0, 0 };

    /* all lines of the arguments, which are far at first, while the ring fills */
#pragma unroll
    for (size_t i = 0; i < sizeof(a) / 4; i += 16)
        asm volatile("" ::"r"(((const int *)&a)[i]));
    for (int s = first_step(a, blockIdx.x); s < end;) {
        const int begin = s / a.steps * a.steps, first = s, last = min(end, begin + a.steps);
        uint32_t x[2][2][4];
        float sum[N / 2] = {};
        int before = 0;

        __syncwarp();
        if (lane == 0)
            have[threadIdx.x / WARP] = share_of(a, first);

        for (; s < last; s++) {
            const uint8_t *const p = mine + ring.slot * WG_TILES * w.rec, *scales = p + K::codes;
            const uint32_t b = x_lo + (ring.slot * a.ways * W::x >> 4);
            uint4 hi = make_uint4(0, 0, 0, 0);
            scaling<KIND, PAIR, ZEROS> by;

            bar_wait(full + 8 * ring.slot, ring.parity);
            const uint4 v[2] = { ((const uint4 *)p)[lane], ((const uint4 *)p)[lane + WARP] };

            if constexpr (KIND == DEV_U6)
                hi = ((const uint4 *)(p + 1024))[lane];
            by.read(scales, w.gs, w.gs > 1, lane / 4);
#pragma unroll
            for (int j = 0; j < K::blocks; j++) {
                wgmma_wait<1>(); /* these registers are free again */
                if (j == 1 && s > first && lane == 0)
                    bar_arrive(full + 8 * (a.stages + before));
                widen<KIND, PAIR, ZEROS>(x[j % 2], v, hi, j, by, w.gs, zero, lut);
                wgmma_fence();
#pragma unroll
                for (int h = 0; h < 2; h++)
                    wgmma_rk(sum, x[j % 2][h],
                             with_low(x0, b + ((j / 2 * W::slab + j % 2 * 64 + h * 32) >> 4)), true);
                wgmma_commit();
            }
            before = ring.slot;
            step(ring, a.stages);
        }
        wgmma_wait<0>();
        hold(sum);
        if (lane == 0)
            bar_arrive(full + 8 * (a.stages + before));
        if (a.ways > 1) {
            if (way == 1)
#pragma unroll
                for (int i = 0; i < N / 2; i++)
                    meet[i * (COMPUTE / 2) + in] = sum[i];
            named_sync(MEETING, COMPUTE);
            if (way == 0)
#pragma unroll
                for (int i = 0; i < N / 2; i++)
                    sum[i] += meet[i * (COMPUTE / 2) + in];
            named_sync(MEETING, COMPUTE);
        }
        __syncwarp();
        if (way == 0)
            end_group<KIND, N>(a, have[threadIdx.x / WARP], meet, sum);
    }
}

template <int KIND, bool PAIR, bool ZEROS, int N>
__device__ static __forceinline__ void wide_body(const wg_args &a)
{
    typedef wide_of<KIND, N> W;
    extern __shared__ __align__(1024) uint8_t unaligned[];
    const uint32_t begin = (uint32_t)__cvta_generic_to_shared(unaligned);
    const uint32_t at = (begin + SWIZZLE_ATOM - 1) / SWIZZLE_ATOM * SWIZZLE_ATOM;
    uint8_t *const shared = unaligned + (at - begin);
    const dev_weight &w = a.s.out[0].w;
    const int records = a.stages * a.ways * W::x;
    const int table = records + a.stages * WG_TILES * w.rec;
    const int meet = table + (KIND == DEV_N4 ? LUT_N4 : 0);
    const uint32_t full = at + meet + WG_MEET(a.ways, a.s.swiglu, N);
    const uint32_t *lut = NULL;

    next_may_begin();
    if constexpr (KIND == DEV_N4) {
        for (int i = threadIdx.x; i < 256 * WARP; i += WG_THREADS)
            ((uint32_t *)(shared + table))[i] =
                w.table[i / WARP & 15] | (uint32_t)w.table[i / WARP >> 4] << 16;
        lut = (const uint32_t *)(shared + table);
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < a.stages; i++) {
            bar_init(full + 8 * i, WARPGROUP / WARP);
            bar_init(full + 8 * (a.stages + i), WG_TILES);
        }
        bar_fence_init();
    }
    __syncthreads();
    if (threadIdx.x < COMPUTE)
        compute<KIND, PAIR, ZEROS, N>(a, shared, at, records, full, (float *)(shared + meet), lut);
    else if (elected())
        bring<KIND, N>(a, at, at + records, full);
}
#endif

/* grid: as many blocks as run at once, or as there are steps; WG_THREADS */
#define WIDE(name, n, ...)                                                                         \
    extern "C" __global__ void __launch_bounds__(HOPPER ? WG_THREADS : WARP, 1)            \
        wgwide_##name##_##n(const __grid_constant__ wg_args a)                                   \
    {                                                                                              \
        __VA_ARGS__;                                                                               \
    }
#if HOPPER
#define BODY(...) wide_body<__VA_ARGS__>(a)
#else
#define BODY(...)
#endif
/* Kinds with zero points of their own or without; those with pairs. */
#define CODES(name, n, kind)                                                                       \
    WIDE(name, n, BODY(kind, false, false, n))                                                     \
    WIDE(name##_zeros, n, BODY(kind, false, true, n))                                              \
    WIDE(name##_pair, n, BODY(kind, true, false, n))
#define WIDES(n)                                                                                   \
    CODES(u8, n, DEV_U8)                                                                           \
    CODES(u4, n, DEV_U4)                                                                           \
    WIDE(u6, n, BODY(DEV_U6, false, false, n))                                                     \
    WIDE(n4, n, BODY(DEV_N4, false, false, n))

WIDES(32)
WIDES(64)
