/* wide_wgmma.cu - what wide.cu computes, y = x W^T for 17 to 64 rows of x and codes in records (dev.h),
 * with products of whole warpgroups: Hopper.
 *
 * A block takes one unit after the other: up to 16 tiles of 16 rows of W, a warp each, by a part of
 * the columns, record by record. Codes are widened in registers, times their scales, rounded to f16:
 * wgmma's first operand. Its second is x, in shared memory, all rows of it. A warpgroup brings
 * both, records by bulk copies and x by hand, eight columns of a lane to where that lane's codes meet
 * them; a ring of stages runs on from unit to unit. Parts of the columns are added up, in their order,
 * by the block that ends last. How columns are cut depends on W and the device alone, and so does the
 * order of every sum: a row's result is the same beside any others. What holds it back is widening: some
 * 200 instructions a record and warp. */
#include "backend/cuda/block.cuh"
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/wide.cuh"

enum { LOADERS = WIDE_WGMMA_THREADS - WARPGROUP }; /* the first of those who bring what is read */

#if HOPPER
template <int KIND, int N> struct wide_of {
    typedef kind_of<KIND> K;
    static constexpr int cols = K::blocks * 32, slab = N * SWIZZLE_ROW, x = N * cols * 2;
    static constexpr int chunks = N * cols / 8 / WARPGROUP; /* of 8 values, a thread's of x */
};

/* Where a block is: a unit's records. */
struct spot {
    int unit, s, last;
};

__device__ static inline bool enter(const wide_args &a, spot &p, int n_rec)
{
    const int split = p.unit % a.splits;

    p.s = split * a.per;
    p.last = min(n_rec, p.s + a.per);
    return p.unit < a.units;
}

__device__ static inline bool next(const wide_args &a, spot &p, int n_rec)
{
    if (++p.s < p.last)
        return true;
    p.unit += gridDim.x;
    return enter(a, p, n_rec);
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

/* Where a loading warp's tiles of a unit begin: every fourth. */
enum { SHARE = WIDE_TILES / 4 };
struct share {
    const uint8_t *from[SHARE];
    int n;
};

__device__ static inline void take_share(const wide_args &a, share &f, int unit, int n_rec)
{
    const int first = unit / a.splits * a.each, warp = threadIdx.x % WARPGROUP / WARP;
    const int n = min(a.each, a.s.tiles - first);

    f.n = (n - warp + 3) / 4;
#pragma unroll
    for (int k = 0; k < SHARE; k++)
        if (k < f.n) {
            int tile;
            const dev_out &out = out_of(a.s, first + warp + 4 * k, &tile);

            f.from[k] = out.w.q + (size_t)tile * n_rec * out.w.rec;
        }
}

/* Records s of them, by one thread. One at a time: loops over the copies of several would be a loop over
 * lanes for each, which took 2 us a stage. */
__device__ static inline void feed(const share &f, uint32_t to, uint32_t bar, int s, int rec)
{
    const int warp = threadIdx.x % WARPGROUP / WARP;

    bar_expect(bar, f.n * rec);
#pragma unroll
    for (int k = 0; k < SHARE; k++)
        if (k < f.n)
            bulk_copy_once(to + (warp + 4 * k) * rec, f.from[k] + (size_t)s * rec, rec, bar);
}

/* A thread's chunks of x: of row i / 4 % 8 + 8 .., columns 8 (i % 4) of block ...; rows beyond T are
 * zeros. */
template <int KIND, int N>
__device__ static inline void ask(uint4 (&v)[wide_of<KIND, N>::chunks], const wide_args &a, int s)
{
    typedef wide_of<KIND, N> W;
    const int i = threadIdx.x % WARPGROUP, c = i % 4;

#pragma unroll
    for (int k = 0; k < W::chunks; k++) {
        const int at = i / 4 + k * (WARPGROUP / 4), row = at % N, j = at / N;
        const uint16_t *const from =
            a.s.x + (size_t)row * a.s.out[0].w.kp + (size_t)s * W::cols + 32 * j;

        v[k] = make_uint4(0, 0, 0, 0);
        if (row >= a.s.T)
            continue;
        if constexpr (KIND == DEV_U6) {
            const uint2 lo = *(const uint2 *)(from + 4 * c), hi = *(const uint2 *)(from + 16 + 4 * c);

            v[k] = make_uint4(lo.x, lo.y, hi.x, hi.y);
        } else {
            v[k] = *(const uint4 *)(from + 8 * c);
        }
    }
}

/* To where they meet the codes of lane c: pairs 2 h and 2 h + 1 are its columns of product h of the
 * block, 2 c and 2 c + 8 on. */
template <int KIND, int N>
__device__ static inline void put(uint8_t *to, const uint4 (&v)[wide_of<KIND, N>::chunks])
{
    typedef wide_of<KIND, N> W;
    const int i = threadIdx.x % WARPGROUP, c = i % 4;

#pragma unroll
    for (int k = 0; k < W::chunks; k++) {
        const int at = i / 4 + k * (WARPGROUP / 4), row = at % N, j = at / N;
        uint8_t *const slab = to + j / 2 * W::slab + 4 * c;

#pragma unroll
        for (int q = 0; q < 4; q++)
            *(uint32_t *)(slab + swizzled(row, j % 2 * 4 + q)) = word_of(v[k], q);
    }
}

/* All that is read, by a warpgroup: x is asked for one or two records ahead, as registers allow. A warp
 * arrives as one. */
template <int KIND, int N>
__device__ static inline void bring(const wide_args &a, uint8_t *shared, uint32_t records,
                                    uint32_t full, int n_rec)
{
    typedef wide_of<KIND, N> W;
    const int rec = a.s.out[0].w.rec;
    constexpr int early = W::chunks <= 4 ? 2 : 1;
    uint4 v[early][W::chunks];
    spot here = { (int)blockIdx.x }, ahead = here;
    stage g = { 0, 0 };
    share mine;
    int unit = -1;
    bool on = enter(a, here, n_rec), more[early];

    enter(a, ahead, n_rec);
#pragma unroll
    for (int k = 0; k < early; k++) {
        more[k] = on = on && (k == 0 || next(a, ahead, n_rec));
        if (on)
            ask<KIND, N>(v[k], a, ahead.s);
    }
    while (more[0]) {
#pragma unroll
        for (int k = 0; k < early; k++) {
            if (!more[k])
                break;
            if (unit != here.unit)
                take_share(a, mine, unit = here.unit, n_rec);
            bar_wait(full + 8 * (a.stages + g.slot), g.parity ^ 1);
            if (elected())
                feed(mine, records + g.slot * a.each * rec, full + 8 * g.slot, here.s, rec);
            put<KIND, N>(shared + g.slot * W::x, v[k]);
            fence_async();
            __syncwarp();
            if (threadIdx.x % WARP == 0)
                bar_arrive(full + 8 * g.slot);
            step(g, a.stages);
            next(a, here, n_rec);
            more[k] = on = on && next(a, ahead, n_rec);
            if (on)
                ask<KIND, N>(v[k], a, ahead.s);
        }
    }
}

__device__ static inline uint32_t h2_mul(uint32_t a, uint32_t b)
{
    const __half2 r = __hmul2(*(const __half2 *)&a, *(const __half2 *)&b);

    return *(const uint32_t *)&r;
}

/* Row g's half of a pair of scales twice, and row g + 8's. */
__device__ static inline void scales_at(uint32_t s[2], const uint8_t *scales, int gi, int stride, int g)
{
    const uint32_t both = *(const uint32_t *)(scales + gi * stride + g * 4);

    s[0] = __byte_perm(both, both, 0x1010);
    s[1] = __byte_perm(both, both, 0x3232);
}

/* A record's block j: wgmma's first operand, for both of its products. Its group of scales is number
 * j, or 0 where `apart` is. */
template <int KIND, bool PAIR, bool ZEROS>
__device__ static inline void widen(uint32_t (&x)[2][4], const uint4 (&v)[2], const uint4 &hi, int j,
                                    const uint8_t *scales, int gs, int apart, uint32_t zero,
                                    const uint32_t *lut)
{
    const int g = threadIdx.x % WARP / 4, group = j * apart;
    uint32_t s[2], m[2], z[2] = { zero, zero };

    if (ZEROS)
        record_zeros(z, scales + gs * 32, group, g);
    if (KIND != DEV_U6)
        scales_at(s, scales, group, PAIR ? 64 : 32, g);
    if (PAIR)
        scales_at(m, scales + 32, group, 64, g);
    else if (KIND == DEV_U8) /* of whole rows: no branch, which wgmma would have to wait for */
        s[0] = gs ? s[0] : 0x3C003C00, s[1] = gs ? s[1] : 0x3C003C00;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t q[4];

        code_pairs<KIND>(q, v[r], r ? make_uint2(hi.z, hi.w) : make_uint2(hi.x, hi.y), j, z[r], lut);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (KIND == DEV_U6 && i % 2 == 0)
                scales_at(s, scales, 2 * j + i / 2, 32, g);
            x[i / 2][2 * (i % 2) + r] = PAIR ? h2_fma(q[i], s[r], m[r]) : h2_mul(q[i], s[r]);
        }
    }
}

/* By the warpgroups that have tiles. */
template <int KIND, bool PAIR, bool ZEROS, int N>
__device__ static inline void compute(const wide_args &a, const uint8_t *shared, uint32_t at,
                                      int records, uint32_t full, int n_rec, const uint32_t *lut,
                                      int live)
{
    typedef wide_of<KIND, N> W;
    typedef kind_of<KIND> K;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    const dev_weight &w = a.s.out[0].w; /* what all outputs share */
    const uint32_t zero = 0x64006400 | (uint32_t)w.zero_const * 0x00010001;
    stage ring = { 0, 0 };

    for (int unit = blockIdx.x; unit < a.units; unit += gridDim.x) {
        const int item = unit / a.splits * a.each, n = min(a.each, a.s.tiles - item);
        const int split = unit % a.splits, first = split * a.per, last = min(n_rec, first + a.per);
        const uint8_t *const mine = shared + records + min(warp, n - 1) * w.rec;
        uint32_t x[2][2][4];
        float sum[N / 2];
        int before = 0;

        for (int s = first; s < last; s++) {
            const uint8_t *const p = mine + ring.slot * a.each * w.rec, *scales = p + K::codes;
            const uint64_t b = operand(at + ring.slot * W::x, 16, SWIZZLE_ATOM);
            uint4 hi = make_uint4(0, 0, 0, 0);

            bar_wait(full + 8 * ring.slot, ring.parity);
            const uint4 v[2] = { ((const uint4 *)p)[lane], ((const uint4 *)p)[lane + WARP] };

            if constexpr (KIND == DEV_U6)
                hi = ((const uint4 *)(p + 1024))[lane];
#pragma unroll
            for (int j = 0; j < K::blocks; j++) {
                wgmma_wait<1>(); /* these registers are free again */
                if (j == 1 && s > first && lane == 0)
                    bar_arrive(full + 8 * (a.stages + before));
                widen<KIND, PAIR, ZEROS>(x[j % 2], v, hi, j, scales, w.gs, w.gs > 1, zero, lut);
                wgmma_fence();
#pragma unroll
                for (int h = 0; h < 2; h++)
                    wgmma_rk(sum, x[j % 2][h], b + ((j / 2 * W::slab + j % 2 * 64 + h * 32) >> 4),
                             s > first || j > 0 || h > 0);
                wgmma_commit();
            }
            before = ring.slot;
            step(ring, a.stages);
        }
        wgmma_wait<0>();
        hold(sum);
        if (lane == 0)
            bar_arrive(full + 8 * (a.stages + before));
        int tile;
        const dev_out &out = out_of(a.s, min(item + warp, a.s.tiles - 1), &tile);

#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const int t = i / 4 * 8 + 2 * c + i % 2, r = g + i / 2 % 2 * 8, row = tile * DEV_TILE + r;

            if (t >= a.s.T || warp >= n)
                continue;
            if (a.splits > 1)
                part_at(a, split, t)[(item + warp) * DEV_TILE + r] = sum[i];
            else if (row < out.w.rows)
                end_sum(a.s, out, t, row, sum[i]);
        }
        if (a.splits > 1 && last_of(a.done + unit / a.splits, a.splits, live))
            add_parts(a, item, n, live);
    }
}

template <int KIND, bool PAIR, bool ZEROS, int N>
__device__ static __forceinline__ void wide_body(const wide_args &a)
{
    typedef wide_of<KIND, N> W;
    extern __shared__ __align__(1024) uint8_t unaligned[];
    const uint32_t begin = (uint32_t)__cvta_generic_to_shared(unaligned);
    const uint32_t at = (begin + SWIZZLE_ATOM - 1) / SWIZZLE_ATOM * SWIZZLE_ATOM;
    uint8_t *const shared = unaligned + (at - begin);
    const dev_weight &w = a.s.out[0].w;
    const int n_rec = w.kp / W::cols, records = a.stages * W::x;
    const int table = records + a.stages * a.each * w.rec;
    const uint32_t full = at + table + (KIND == DEV_N4 ? LUT_N4 : 0);
    const int live = (a.each + 3) / 4 * WARPGROUP; /* threads that compute */
    const uint32_t *lut = NULL;

    if constexpr (KIND == DEV_N4) {
        for (int i = threadIdx.x; i < 256 * WARP; i += WIDE_WGMMA_THREADS)
            ((uint32_t *)(shared + table))[i] =
                w.table[i / WARP & 15] | (uint32_t)w.table[i / WARP >> 4] << 16;
        lut = (const uint32_t *)(shared + table);
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < a.stages; i++) {
            bar_init(full + 8 * i, 2 * WARPGROUP / WARP); /* records, and x */
            bar_init(full + 8 * (a.stages + i), live / WARP);
        }
        bar_fence_init();
    }
    __syncthreads();
    if (threadIdx.x < live)
        compute<KIND, PAIR, ZEROS, N>(a, shared, at, records, full, n_rec, lut, live);
    else if (threadIdx.x >= LOADERS)
        bring<KIND, N>(a, shared, at + records, full, n_rec);
}
#endif

/* grid: as many blocks as run at once, or as there are units; WIDE_WGMMA_THREADS */
#define WIDE(name, n, ...)                                                                         \
    extern "C" __global__ void __launch_bounds__(HOPPER ? WIDE_WGMMA_THREADS : WARP, 1)            \
        wgwide_##name##_##n(const __grid_constant__ wide_args a)                                   \
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
