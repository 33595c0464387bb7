/* wide_wgmma.cu - what wide.cu computes, y = x W^T for 9 to 64 rows of x and codes in records
 * (dev.h), with products of whole warpgroups: Hopper.
 *
 * A group is 256 rows of W by 128 columns (U8: 64), or 128 rows by twice as many: a record for
 * each of 16 warps. A step is one of the groups along the columns. A team of blocks has a group at
 * a time, each of them as many of its steps; each ends some of the group's sums, and the others'
 * parts of those come by words that tell that they are there. Codes are widened in registers, times
 * their scales, rounded to f16: wgmma's first operand. Its second is x, in shared memory, all rows
 * of it, which lies in memory as wgmma wants it (image.cuh): four threads bring both by bulk
 * copies, records before the kernels before have ended, and then ask for what the next product will
 * read first. How work is cut depends on W and the device alone, and so does the order of every
 * sum: a row's result is the same beside any others. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/image.cuh"
#include "backend/cuda/silu.cuh"
#include "backend/cuda/stream.cuh"
#include "backend/cuda/wide_args.h"

enum { COMPUTE = WG_WARPS * WARP }; /* threads that do; more bring what they read */
/* Named barriers: of those that compute; of the others; of all. */
enum { MEETING = 1, BEGUN, BEGINNING };

#if HOPPER
template <int KIND, int N> struct wide_of {
    typedef kind_of<KIND> K;
    static constexpr int cols = K::blocks * 32, slab = N * SWIZZLE_ROW, x = N * cols * 2;
};

/* Which block of its team this is, which of the teams; the steps of each group that it has. */
struct part {
    int rank, team, from, to;
};

__device__ static inline part part_of(const wg_records &r, int rank, int team)
{
    const int from = rank * r.per + min(rank, r.more);

    return { rank, team, from, from + r.per + (rank < r.more) };
}

/* A tile of all outputs' in memory. */
__device__ static inline const uint8_t *tile_of(const wg_records &r, int item)
{
    const int o = r.gated                        ? item % 2
                  : r.n > 2 && item >= r.tile0[2] ? 2
                  : r.n > 1 && item >= r.tile0[1] ? 1
                                                  : 0;

    return r.q[o] + (size_t)(r.gated ? item / 2 : item - r.tile0[o]) * r.bytes;
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

/* Where things lie in shared memory: stages, x before records; barriers of those that are full, and
 * after them of those that are free. */
struct places {
    uint32_t at, records, full;
};

/* x of all steps, by one thread. */
template <int KIND, int N>
__device__ static inline void bring_x(const wg_args &a, const part &me, const places &p)
{
    const int x = a.ways * wide_of<KIND, N>::x;
    const uint8_t *const image = (const uint8_t *)a.s.x;
    stage g = { 0, 0 };

    wait_for_before();
    for (int first = me.team * a.now.each; first < a.now.tiles; first += a.now.teams * a.now.each)
        for (int s = me.from; s < me.to; s++) {
            const uint32_t bar = p.full + 8 * g.slot;

            bar_wait(bar + 8 * a.stages, g.parity ^ 1);
            bar_expect(bar, x);
            bulk_copy(p.at + g.slot * a.stage, image + (size_t)s * x, x, bar);
            step(g, a.stages);
        }
}

/* And records, by a thread of each of three warps: every third tile's. */
__device__ static inline void bring_records(const wg_args &a, const part &me, const places &p,
                                            int warp)
{
    enum { WARPS = WG_BRINGING - 1, SHARE = (WG_WARPS + WARPS - 1) / WARPS };
    const int bytes = a.now.step;
    stage g = { 0, 0 };

    for (int first = me.team * a.now.each; first < a.now.tiles; first += a.now.teams * a.now.each) {
        const int n = (min(a.now.each, a.now.tiles - first) - warp + WARPS - 1) / WARPS;
        const uint8_t *from[SHARE];

#pragma unroll
        for (int i = 0; i < SHARE; i++)
            if (i < n)
                from[i] = tile_of(a.now, first + warp + WARPS * i);
        for (int s = me.from; s < me.to; s++) {
            const uint32_t bar = p.full + 8 * g.slot;
            const uint32_t to = p.records + g.slot * a.stage + warp * bytes;

            bar_wait(bar + 8 * a.stages, g.parity ^ 1);
            bar_expect(bar, n * bytes);
#pragma unroll
            for (int i = 0; i < SHARE; i++)
                if (i < n)
                    bulk_copy_once(to + WARPS * i * bytes, from[i] + (size_t)s * bytes, bytes, bar);
            step(g, a.stages);
        }
    }
}

/* The next product's first records to the second-level cache, while this one's sums meet; by the
 * same threads. */
__device__ static inline void ask_ahead(const wg_records &r, int most, int warp)
{
    const int grid = gridDim.x * gridDim.y;

    for (int b = blockIdx.y * gridDim.x + blockIdx.x; b < r.team * r.teams; b += grid) {
        const part it = part_of(r, b % r.team, b / r.team);
        const int first = it.team * r.each, last = min(first + r.each, r.tiles);

        for (int i = first + warp; i < last; i += WG_BRINGING - 1)
            l2_prefetch(tile_of(r, i) + (size_t)it.from * r.step,
                        min(most, it.to - it.from) * r.step);
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

    /* p: rows g's and g + 8's of the first */
    __device__ inline void read(const uint8_t *p, int gs)
    {
#pragma unroll
        for (int k = 0; k < groups; k++) {
            const int i = KIND == DEV_U6 ? k : gs > 1 ? k : 0; /* groups are blocks, or all of it */

            s[k] = *(const uint32_t *)(p + i * (PAIR ? 64 : 32));
            if (PAIR)
                m[k] = *(const uint32_t *)(p + 32 + i * 64);
            if (ZEROS)
                z[k] = *(const uint16_t *)(p + gs * 32 + i * 16 - threadIdx.x % WARP / 4 * 2);
        }
    }
};

/* A record's block j: wgmma's first operand, for both of its products. */
template <int KIND, bool PAIR, bool ZEROS>
__device__ static inline void widen(uint32_t (&x)[2][4], const uint4 (&v)[2], const uint4 &hi,
                                    int j, const scaling<KIND, PAIR, ZEROS> &by, int gs,
                                    uint32_t zero, const uint32_t *lut)
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

        code_pairs<KIND>(q, v[r], r ? make_uint2(hi.z, hi.w) : make_uint2(hi.x, hi.y), j, z[r],
                         lut);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (KIND == DEV_U6 && i % 2 == 0)
                scales_of(s, by.s[2 * j + i / 2]);
            x[i / 2][2 * (i % 2) + r] = PAIR ? h2_fma(q[i], s[r], m[r]) : h2_mul(q[i], s[r]);
        }
    }
}

/* Four sums of a lane, two rows of x and of W: of item number `item` of a group, eight rows of x by
 * a tile, the two of a pair of tiles one after the other; their place among all. */
template <int N> struct four {
    static constexpr int eights = N / 8;
    int tile, t, at;
    __device__ inline four(int item, int lane)
        : tile(item / 2 / eights * 2 + item % 2), t(item / 2 % eights * 8 + lane % 4 * 2),
          at(item * WARP + lane)
    {
    }
};

template <int N> __device__ static inline int item_of(int tile, int eight)
{
    return (tile / 2 * (N / 8) + eight) * 2 + tile % 2;
}

__device__ static inline void add_four(float4 &v, const float4 &w)
{
    v.x += w.x, v.y += w.y, v.z += w.z, v.w += w.w;
}

/* Words of memory that other blocks' sums come in, complements: 0 is what is not there. */
__device__ static inline float4 complement(const float4 &v)
{
    const auto word = [](float f) { return __uint_as_float(~__float_as_uint(f)); };

    return make_float4(word(v.x), word(v.y), word(v.z), word(v.w));
}

/* All blocks' parts, in order: this block's are in shared memory; parts: of the group, so many
 * values each. */
__device__ static inline float4 all_fours(const wg_args &a, int rank, const float4 *sums,
                                          float4 *parts, int part, int at)
{
    enum { AT_ONCE = 4 }; /* are asked for */
    float4 sum = make_float4(0, 0, 0, 0);

    if (a.now.team == 1)
        return sums[at];
    for (int p = 0; p < a.now.team; p += AT_ONCE) {
        float4 v[AT_ONCE];
        bool all;

        do {
            all = true;
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                v[k] = make_float4(0, 0, 0, 0);
                if (p + k < a.now.team && p + k != rank) {
                    v[k] = complement(load_shared(parts + (p + k) * part + at));
                    all &= !is_absent(v[k]);
                }
            }
        } while (!all);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (p + k == rank) {
                add_four(sum, sums[at]);
            } else if (p + k < a.now.team) {
                add_four(sum, v[k]);
                parts[(p + k) * part + at] = make_float4(0, 0, 0, 0);
            }
    }
    return sum;
}

/* What becomes of four sums that are complete. */
template <int KIND> struct ending {
    float *y;
    const dev_weight *w;
    int row, t, T, rows;
    /* item: a tile of all */
    __device__ inline ending(const wg_args &a, int item, int first, int lane) : t(first), T(a.s.T)
    {
        int tile;
        const dev_out &out = out_of(a.s, min(item, a.s.tiles - 1), &tile);

        w = &out.w;
        row = tile * DEV_TILE + lane / 4;
        rows = item < a.s.tiles ? out.w.rows : 0;
        y = out.y + (size_t)first * out.w.rows + row;
    }
    __device__ inline bool has(int k) const
    {
        return row + k / 2 * 8 < rows & t + k % 2 < T;
    }
    __device__ inline float *at(int k) const
    {
        return y + (k % 2 ? rows : 0) + k / 2 * 8;
    }
    __device__ inline void eight_on()
    {
        t += 8;
        y += 8 * (size_t)rows;
    }
    __device__ inline float4 old(bool add) const
    {
        return make_float4(add & has(0) ? *at(0) : 0, add & has(1) ? *at(1) : 0,
                           add & has(2) ? *at(2) : 0, add & has(3) ? *at(3) : 0);
    }
    __device__ inline void put(const float4 &v, const float4 &old) const
    {
        const float sum[4] = { v.x, v.y, v.z, v.w }, plus[4] = { old.x, old.y, old.z, old.w };

#pragma unroll
        for (int k = 0; k < 4; k++)
            if (has(k)) {
                const float by = KIND == DEV_U8 && w->gs == 0
                                     ? scale_at(*w, (row + k / 2 * 8) / w->row_group)
                                     : 1;

                *at(k) = fmaf(sum[k], by, plus[k]);
            }
    }
};

/* Gated values for the product that follows; of tile number `pair` of gate and of up. */
__device__ static inline void put_gated(const wg_args &a, int pair, int t, int lane,
                                        const float4 &g, const float4 &u)
{
    const float v[4] = { silu(g.x) * u.x, silu(g.y) * u.y, silu(g.z) * u.z, silu(g.w) * u.w };
    const int row = pair * DEV_TILE + lane / 4;

#pragma unroll
    for (int k = 0; k < 4; k++)
        if (row + k / 2 * 8 < a.s.out[0].w.rows & t + k % 2 < a.s.T)
            a.s.y16[input_at(a.image, a.s.kp16, t + k % 2, row + k / 2 * 8)] =
                to16(v[k], a.s.mode16);
}

/* The group from tile `begin` on has come to its end; mine: the warp's tile of it. Sums that other
 * blocks end go to them, the others to shared memory, where what becomes of them is found. */
template <int KIND, int N>
__device__ static inline void end_group(const wg_args &a, const part &me, int begin, int way,
                                        int mine, float4 *sums, const float (&sum)[N / 2])
{
    const int items = a.now.each * (N / 8), part = items * WARP;
    const int each = (items / 2 + a.now.team - 1) / a.now.team * 2;
    const int thread = thread_now(), warp = thread / WARP, lane = thread % WARP;
    const int first = me.rank * each, end = min(first + each, items);
    const bool alone = a.now.team == 1 & !a.s.swiglu; /* no warp needs another one's sums */
    float4 *const parts = (float4 *)a.part + (size_t)(begin / a.now.each) * a.now.team * part;
    const auto four_at = [&](int k) {
        return make_float4(sum[4 * k], sum[4 * k + 1], sum[4 * k + 2], sum[4 * k + 3]);
    };

    if (a.ways > 1) {
        if (way)
#pragma unroll
            for (int k = 0; k < N / 8; k++)
                sums[item_of<N>(mine, k) * WARP + lane] = four_at(k);
        named_sync(MEETING, COMPUTE);
    }
    wait_for_before();
    if (way == 0) {
        ending<KIND> to(a, begin + mine, lane % 4 * 2, lane);

#pragma unroll
        for (int k = 0; k < N / 8; k++) {
            const int item = item_of<N>(mine, k), at = item * WARP + lane;
            const float4 old = alone ? to.old(a.s.add) : make_float4(0, 0, 0, 0);
            float4 v = four_at(k);

            if (a.ways > 1)
                add_four(v, sums[at]);
            if (alone)
                to.put(v, old), to.eight_on();
            else if (item < first || item >= end)
                parts[me.rank * part + at] = complement(v);
            else
                sums[at] = v;
        }
    }
    if (alone)
        return;
    named_sync(MEETING, COMPUTE);
    if (a.s.swiglu) {
        for (int i = first + 2 * warp; i < end; i += 2 * WG_WARPS) {
            const four<N> f(i, lane);
            const float4 g = all_fours(a, me.rank, sums, parts, part, f.at);
            const float4 u = all_fours(a, me.rank, sums, parts, part, f.at + WARP);

            put_gated(a, (begin + f.tile) / 2, f.t, lane, g, u);
        }
        return;
    }
    for (int i = first + warp; i < end; i += WG_WARPS) {
        const four<N> f(i, lane);
        const ending<KIND> to(a, begin + f.tile, f.t, lane);
        const float4 old = to.old(a.s.add);
        const float4 v = all_fours(a, me.rank, sums, parts, part, f.at);

        to.put(v, old);
    }
}

/* An operand elsewhere: addresses are in its lower half, and do not carry. */
__device__ static inline uint64_t with_low(uint64_t d, uint32_t low)
{
    return (d & ~(uint64_t)0xFFFFFFFF) | low;
}

/* What a warp multiplies of a record, in registers. */
template <int KIND, bool PAIR, bool ZEROS> struct codes_of {
    uint4 v[2], hi;
    scaling<KIND, PAIR, ZEROS> by;

    /* codes, scales: the lane's */
    __device__ inline void read(const uint8_t *codes, const uint8_t *scales, int gs)
    {
        v[0] = *(const uint4 *)codes;
        v[1] = *(const uint4 *)(codes + 16 * WARP);
        hi = make_uint4(0, 0, 0, 0);
        if constexpr (KIND == DEV_U6)
            hi = *(const uint4 *)(codes + 1024);
        by.read(scales, gs);
    }
};

/* What a warp that computes has of a step: which of the ways, which tile of the group; where a
 * lane's codes are, from a stage's beginning, and its scales. */
struct warp_part {
    int lane, way, tile, codes, scales;
};

template <int KIND>
__device__ static inline warp_part warp_part_of(const wg_args &a, const places &p)
{
    const int lane = threadIdx.x % WARP, first = threadIdx.x / WARP;
    const int tile = first & (a.now.each - 1);
    const int way = __shfl_sync(~0u, (int)(first >= a.now.each), 0);
    const int record = p.records - p.at + (tile * a.ways + way) * a.s.out[0].w.rec;

    return { lane, way, tile, record + lane * 16, record + kind_of<KIND>::codes + lane / 4 * 4 };
}

/* All steps of a group. */
template <int KIND, bool PAIR, bool ZEROS, int N>
__device__ static inline void multiply(const wg_args &a, const part &me, const places &p,
                                       const warp_part &at, const uint8_t *shared, stage &ring,
                                       uint32_t zero, const uint32_t *lut, float (&sum)[N / 2])
{
    typedef wide_of<KIND, N> W;
    typedef kind_of<KIND> K;
    const dev_weight &w = a.s.out[0].w;
    const uint64_t x0 = operand(p.at, 16, SWIZZLE_ATOM);
    const uint32_t x_lo = (uint32_t)operand(p.at + at.way * W::x, 16, SWIZZLE_ATOM);
    constexpr int AT_ONCE = N < 64 && K::blocks > 2 ? 4 : 2; /* as registers allow */
    codes_of<KIND, PAIR, ZEROS> now;
    uint32_t x[2][2][4];
    int before = 0;

    bar_wait_warp(p.full + 8 * ring.slot, ring.parity);
    now.read(shared + at.codes + ring.slot * a.stage, shared + at.scales + ring.slot * a.stage,
             w.gs);
    /* what is next becomes what is now without moves, and x keeps its registers */
#pragma unroll AT_ONCE
    for (int s = me.from; s < me.to; s++) {
        const uint64_t b = with_low(x0, x_lo + (ring.slot * a.stage >> 4));
        codes_of<KIND, PAIR, ZEROS> next;
        stage after = ring;

        step(after, a.stages);
#pragma unroll
        for (int j = 0; j < K::blocks; j++) {
            wgmma_wait<1>(); /* these registers are free again */
            if (j == 1 && s > me.from && at.lane == 0)
                bar_arrive(p.full + 8 * (a.stages + before));
            widen<KIND, PAIR, ZEROS>(x[j % 2], now.v, now.hi, j, now.by, w.gs, zero, lut);
            wgmma_fence();
#pragma unroll
            for (int h = 0; h < 2; h++)
                wgmma_rk(sum, x[j % 2][h],
                         b + ((j / 2 * W::slab + j % 2 * 64 + h * 32) >> 4), true);
            wgmma_commit();
            /* what is multiplied next, while this is; after the last one what lies there */
            if (j == K::blocks / 2 - 1) {
                if (s + 1 < me.to)
                    bar_wait_warp(p.full + 8 * after.slot, after.parity);
                next.read(shared + at.codes + after.slot * a.stage,
                          shared + at.scales + after.slot * a.stage, w.gs);
            }
        }
        before = ring.slot;
        ring = after;
        now = next;
    }
    wgmma_wait<0>();
    hold(sum);
    if (at.lane == 0)
        bar_arrive(p.full + 8 * (a.stages + before));
}

/* By the warps that have tiles. */
template <int KIND, bool PAIR, bool ZEROS, int N>
__device__ static inline void compute(const wg_args &a, const part &me, const places &p,
                                      const uint8_t *shared, float4 *sums, const uint32_t *lut)
{
    warp_part at = warp_part_of<KIND>(a, p);
    const uint32_t zero = held(0x64006400 | (uint32_t)a.s.out[0].w.zero_const * 0x00010001);
    const int on = a.now.teams * a.now.each;
    stage ring = { 0, 0 };

    at.codes = held(at.codes), at.scales = held(at.scales);
    for (int first = me.team * a.now.each; first < a.now.tiles; first += on) {
        float sum[N / 2] = {};

        multiply<KIND, PAIR, ZEROS, N>(a, me, p, at, shared, ring, zero, lut, sum);
        if (!a.apart) /* sums have the ring's place, which nobody reads any more */
            named_sync(MEETING, COMPUTE);
        end_group<KIND, N>(a, me, first, at.way, at.tile, sums, sum);
        if (a.apart && first + on < a.now.tiles)
            named_sync(MEETING, COMPUTE);
    }
}

template <int KIND, bool PAIR, bool ZEROS, int N>
__device__ static __forceinline__ void wide_body(const wg_args &a)
{
    typedef wide_of<KIND, N> W;
    extern __shared__ __align__(1024) uint8_t unaligned[];
    const uint32_t begin = (uint32_t)__cvta_generic_to_shared(unaligned);
    const uint32_t at = (begin + SWIZZLE_ATOM - 1) / SWIZZLE_ATOM * SWIZZLE_ATOM;
    const uint32_t pad = held(at - begin);
    uint8_t *const shared = unaligned + pad;
    const places p = { at, at + a.ways * W::x, at + a.bars };
    const part me = part_of(a.now, blockIdx.x, blockIdx.y);
    const int bringing = threadIdx.x / WARP - WG_WARPS;

    next_may_begin();
    if (bringing >= 0) { /* does not wait for the others to begin */
        if (bringing == 0 && elected()) {
            for (int i = 0; i < a.stages; i++) {
                bar_init(p.full + 8 * i, WG_BRINGING);
                bar_init(p.full + 8 * (a.stages + i), WG_WARPS);
            }
            bar_fence_init();
        }
        named_sync(BEGUN, WG_THREADS - COMPUTE);
        named_arrive(BEGINNING, WG_THREADS);
        if (elected()) {
            if (bringing == WG_BRINGING - 1) {
                bring_x<KIND, N>(a, me, p);
            } else {
                bring_records(a, me, p, bringing);
                if (a.ahead)
                    ask_ahead(a.next, a.ahead, bringing);
            }
        }
        return;
    }
    const uint32_t *lut = NULL;

    if constexpr (KIND == DEV_N4) {
        const dev_weight &w = a.s.out[0].w;

        lut = (const uint32_t *)(shared + a.table);
        for (int i = threadIdx.x; i < 256 * WARP; i += COMPUTE)
            ((uint32_t *)lut)[i] =
                w.table[i / WARP & 15] | (uint32_t)w.table[i / WARP >> 4] << 16;
    }
    /* all lines of the arguments, which are far at first */
#pragma unroll
    for (size_t i = 0; i < sizeof(a) / 4; i += 16)
        asm volatile("" ::"r"(((const int *)&a)[i]));
    named_sync(BEGINNING, WG_THREADS);
    compute<KIND, PAIR, ZEROS, N>(a, me, p, shared, (float4 *)(shared + a.sums), lut);
}
#endif

/* grid: blocks of a team x teams, all of which run at once; WG_THREADS */
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

WIDES(16)
WIDES(32)
WIDES(64)
