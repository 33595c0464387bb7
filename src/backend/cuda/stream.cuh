/* stream.cuh - y = x W^T for at most 16 rows of x: packed weights (dev.h) read once, at the
 * memory's speed, onto the tensor cores, and whatever elementwise work comes before and after.
 *
 * A block has a run of tiles of 16 rows of W, which are the tensor cores' A; rows of x are B, and
 * those beyond T are zeros and cost nothing that counts. The warps of a block are one, two or four
 * teams, each with tiles of its own, which its warps share by columns: each takes every so many'th
 * stage (a record, or a piece of 16 rows) into a ring of its own in shared memory that runs on from
 * tile to tile, and from one product of a program to the next, whose weights do not depend on
 * anything: so that reading never stops. Codes are widened to f16 in registers, exactly; scales
 * meet the sums, in float32, at the end of a group. The second of a pair meets the sum of x, which
 * is a product with ones. One warp ends a tile, in turns, while the others go on. Columns are
 * summed in an order that depends on nothing but the shape of W, so a row's result is the same in
 * any batch. */
#pragma once

#include "backend/cuda/barrier.cuh"
#include "backend/cuda/codes.cuh"
#include "backend/cuda/inputs.cuh"
#include "backend/cuda/mma.cuh"
#include "backend/cuda/whole.cuh"

/* ---- the rings ---- */

template <int CLASS> struct ring_of {
    static constexpr bool rows = CLASS == CLASS_W16 || CLASS == CLASS_F8;
    static constexpr int slot = RING_SLOT(CLASS), depth = RING_DEPTH(CLASS, BIG);
    static constexpr int piece = slot / DEV_TILE; /* of rows: bytes of each */
};

/* Where a warp's reading is: stage s of tile `item` of a feed; p is this lane's first byte of it.
 */
struct cursor {
    const uint8_t *p;
    int item, last, s, stages, stride, feed, swiglu, teams;
    int size, step; /* of its team; bytes from a stage to the next of this warp */
    int top;        /* the last of the tile's rows that there is */
};

/* A program's state in a block. */
struct program {
    const program_args *a;
    const stream_feed *feeds;
    uint8_t *ring;    /* this warp's */
    uint32_t ring_at; /* as shared memory is addressed */
    float *scratch;
    uint16_t *inputs; /* x of the phase, if it is kept */
    float *factor;    /* [DEV_STREAM_ROWS] of its rows, if it is scaled */
    const uint32_t *lut;
    uint32_t full, empty; /* [SUM_BARRIERS] barriers: sums are there, were read */
    cursor ask;
    unsigned tag;     /* of what the first phase takes, if it does */
    int slot;         /* of the stage that is used next */
    int turns[TEAMS]; /* tiles so far, in phases of 2^i teams */
};

/* The warps of a team of 2^teams, this one's team, and its place in it. */
__device__ static __forceinline__ int team_size(int teams)
{
    return STREAM_WARPS >> teams;
}

__device__ static __forceinline__ int team_of(int teams)
{
    return threadIdx.x / WARP >> ((BIG ? 4 : 3) - teams);
}

__device__ static __forceinline__ int place_of(int teams)
{
    return threadIdx.x / WARP & (team_size(teams) - 1);
}

/* The team's tile number n, of those in units of 1 or 2. Blocks share the units in turns, and then
 * their teams, so that what all of them read at a time lies together. */
__device__ static __forceinline__ int item_at(int n, int unit, int teams)
{
    return (blockIdx.x + ((n / unit << teams) + team_of(teams)) * gridDim.x) * unit + n % unit;
}

/* The one after it. */
__device__ static __forceinline__ int next_tile(int item, int swiglu, int teams)
{
    const int step = gridDim.x << teams;

    return swiglu && item % 2 == 0 ? item + 1 : item + (swiglu ? 2 * step - 1 : step);
}

/* Which of a feed's matrices a tile is of. */
__device__ static __forceinline__ int out_at(const stream_feed &f, int item)
{
    return f.swiglu ? item % 2 : item >= f.tile0[2] ? 2 : item >= f.tile0[1] ? 1 : 0;
}

/* To stage s of the cursor's tile, or of the next one that has stages for this warp. */
template <int CLASS> __device__ static __forceinline__ void enter_tile(program &p)
{
    typedef ring_of<CLASS> R;
    cursor &c = p.ask;
    const int lane = threadIdx.x % WARP;

    for (;;) {
        while (c.s >= c.stages && c.item < c.last) {
            c.item = next_tile(c.item, c.swiglu, c.teams);
            c.s = place_of(c.teams);
        }
        if (c.item < c.last)
            break;
        if (++c.feed >= p.a->n_feeds)
            return;
        const stream_feed &f = p.feeds[c.feed];

        c.swiglu = f.swiglu;
        c.teams = f.teams;
        c.size = team_size(c.teams);
        c.step = c.size * (R::rows ? R::piece : f.stride);
        c.item = item_at(0, c.swiglu ? 2 : 1, c.teams);
        c.last = f.tiles;
        c.s = place_of(c.teams);
        c.stages = f.stages;
        c.stride = f.stride;
    }
    const stream_feed &f = p.feeds[c.feed];
    const int o = out_at(f, c.item);
    const int tile = f.swiglu ? c.item / 2 : c.item - f.tile0[o];

    if constexpr (R::rows) {
        c.top = f.rows[o] - 1 - tile * DEV_TILE;
        c.p = f.q[o] + (size_t)tile * DEV_TILE * c.stride + c.s * R::piece + lane * 16 % R::piece;
    } else {
        c.p = f.q[o] + ((size_t)tile * c.stages + c.s) * c.stride + lane * 16;
    }
}

/* Asks for the cursor's stage and moves on; an empty group at the end keeps the count. */
template <int CLASS> __device__ static __forceinline__ void fetch(program &p, int slot)
{
    typedef ring_of<CLASS> R;
    cursor &c = p.ask;
    const int lane = threadIdx.x % WARP;
    uint32_t to = p.ring_at + slot * R::slot;

    if (c.item < c.last) {
        if constexpr (R::rows) {
            constexpr int lanes = R::piece / 16, at_once = WARP / lanes; /* of a row, rows */
            const int slab = lane % lanes / 4, row = lane / lanes;

            to += slab * 1024 + ((row * 4 + lane % 4) ^ (slab & 1) << 2) * 16;
#pragma unroll
            for (int i = 0; i < DEV_TILE; i += at_once)
                copy_async(to + i * 64, c.p + (size_t)(min(row + i, c.top) * c.stride));
        } else {
            to += lane * 16;
#pragma unroll
            for (int i = 0; i < R::slot; i += WARP * 16)
                if (i + WARP * 16 <= 1024 || lane * 16 < c.stride - i)
                    copy_async(to + i, c.p + i);
        }
        c.p += c.step;
        c.s += c.size;
        if (c.s >= c.stages)
            enter_tile<CLASS>(p);
    }
    copy_commit();
}

/* ---- a stage ---- */

/* Eight columns of a row of x that go with the lane's of block j of slab b. */
template <int KIND> __device__ static inline uint4 inputs_at(const uint16_t *x, int b, int j, int c)
{
    if constexpr (KIND == DEV_U6) {
        const uint2 lo = *(const uint2 *)(x + 32 * j + 4 * c);
        const uint2 hi = *(const uint2 *)(x + 32 * j + 16 + 4 * c);

        return make_uint4(lo.x, lo.y, hi.x, hi.y);
    } else if constexpr (KIND == DEV_F8) {
        return *(const uint4 *)(x + 64 * b + 16 * c + 8 * j);
    } else {
        return *(const uint4 *)(x + 32 * (kind_of<KIND>::blocks * b + j) + 8 * c);
    }
}

/* This lane's inputs, N blocks of 32 columns from x on; those of rows beyond T are left. */
template <int KIND, int NT, int N>
__device__ static __forceinline__ void load_inputs(uint4 *into, const uint16_t *x, int stride,
                                                   int T)
{
    constexpr int blocks = kind_of<KIND>::blocks;
    const int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;

#pragma unroll
    for (int i = 0; i < NT; i++)
        if (i * 8 + g < T) {
            const uint16_t *from = x + (i * 8 + g) * stride;

#pragma unroll
            for (int b = 0; b < N; b++)
                into[b * NT + i] = inputs_at<KIND>(from, b / blocks, b % blocks, c);
        }
}

template <int NT> __device__ static inline void flush(float acc[NT][4], float tmp[NT][4], float2 s)
{
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            acc[n][i] = fmaf(i < 2 ? s.x : s.y, tmp[n][i], acc[n][i]);
            tmp[n][i] = 0;
        }
}

/* What the weights of one launch have in common, in registers. */
struct shared_form {
    int gs, zeros;
    uint32_t zero; /* 1024 + zero_const, twice */
    bool one;      /* FINE all the same: a record is one group */
};

__device__ static inline shared_form form_of(const dev_weight &w, bool one = false)
{
    return { w.gs, w.zeros, 0x64006400 | (uint32_t)w.zero_const * 0x00010001, one };
}

/* One stage in shared memory times its columns of x, each XS after the one before. ZEROS: groups
 * have zero points of their own. */
template <int KIND, bool FINE, bool PAIR, bool ZEROS, int NT, int XS = 1>
__device__ static inline void stage_product(float acc[NT][4], const uint8_t *p,
                                            const shared_form &w, const uint4 *x,
                                            const uint32_t *lut, int lane = threadIdx.x % WARP)
{
    typedef kind_of<KIND> K;
    constexpr bool plain = KIND == DEV_B16 || KIND == DEV_H16;
    const int g = lane / 4;
    const uint8_t *scales = p + K::codes;
    float tmp[NT][4] = {}, ones[NT][4] = {};
    uint32_t z[2] = { w.zero, w.zero };

    if (!FINE && ZEROS)
        record_zeros(z, scales + w.gs * 32, 0, g);
#pragma unroll
    for (int b = 0; b < kind_of<KIND>::slabs; b++) {
        const uint4 *at = (const uint4 *)(p + b * 1024) + (lane ^ (b & 1) << 2);
        const uint4 v[2] = { at[0], at[WARP] };
        uint4 hi = make_uint4(0, 0, 0, 0);

        if constexpr (KIND == DEV_U6)
            hi = ((const uint4 *)(p + 1024))[lane];
#pragma unroll
        for (int j = 0; j < K::blocks; j++) {
            const int gi = w.one ? 0 : j; /* FINE: a group for each block */
            uint32_t q[2][4];

            if (FINE && ZEROS)
                record_zeros(z, scales + w.gs * 32, gi, g);
            code_pairs<KIND>(q[0], v[0], make_uint2(hi.x, hi.y), j, z[0], lut);
            code_pairs<KIND>(q[1], v[1], make_uint2(hi.z, hi.w), j, z[1], lut);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint32_t a[4] = { q[0][2 * h], q[1][2 * h], q[0][2 * h + 1],
                                        q[1][2 * h + 1] };
                const uint32_t one[4] = { 0x3C003C00, 0x3C003C00, 0x3C003C00, 0x3C003C00 };

#pragma unroll
                for (int n = 0; n < NT; n++) {
                    const uint4 &u = x[((b * K::blocks + j) * NT + n) * XS];

                    mma<KIND == DEV_B16>(plain ? acc[n] : tmp[n], a, h ? u.z : u.x, h ? u.w : u.y);
                    if (PAIR)
                        mma<KIND == DEV_B16>(ones[n], one, h ? u.z : u.x, h ? u.w : u.y);
                }
                if (KIND == DEV_U6)
                    flush<NT>(acc, tmp, record_scales(scales, 2 * j + h, 32, g));
            }
            if (FINE && KIND != DEV_U6)
                flush<NT>(acc, tmp, record_scales(scales, gi, PAIR ? 64 : 32, g));
            if (PAIR)
                flush<NT>(acc, ones, record_scales(scales + 32, gi, 64, g));
        }
    }
    if (!FINE && !plain && !K::rows)
        flush<NT>(acc, tmp, w.gs ? record_scales(scales, 0, 32, g) : make_float2(1, 1));
    if (KIND == DEV_F8) {
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                acc[n][i] = tmp[n][i];
    }
}

/* ---- a product ---- */

__device__ static inline const dev_out &out_of(const stream_args &a, int item, int *tile)
{
    const int o = a.swiglu                            ? item % 2
                  : a.n > 2 && item >= a.out[2].tile0 ? 2
                  : a.n > 1 && item >= a.out[1].tile0 ? 1
                                                      : 0;

    *tile = a.swiglu ? item / 2 : item - a.out[o].tile0;
    return a.out[o];
}

/* What a thread has to do with the end of a tile: row r of W and row t of x. */
struct tile_end {
    int t, row;
    bool there;    /* there are such rows */
    float old, by; /* of the residual, of the next norm; asked for before the sums are there */
};

/* Whether this warp ends the tiles of unit n of its team: other ones each time. A team of fewer
 * warps than that takes has some end more: those so far apart. */
__device__ static __forceinline__ int end_turn(int n, int ends, int teams)
{
    return (place_of(teams) - n * ends) & (team_size(teams) - 1);
}

__device__ static __forceinline__ tile_end end_of(const stream_args &a, const dev_out &out,
                                                  int tile, int turn)
{
    const int i = turn * WARP + threadIdx.x % WARP;
    tile_end e = { i / DEV_TILE, tile * DEV_TILE + i % DEV_TILE };

    e.there = e.t < a.T && e.row < out.w.rows;
    if (a.add && e.there)
        e.old = load_shared(out.y + (size_t)e.t * out.w.rows + e.row);
    if (a.norm && e.there)
        e.by = a.norm[e.row];
    return e;
}

/* A value of the next product's input. */
__device__ static __forceinline__ void put_next(const stream_args &a, const tile_end &e, float v)
{
    const size_t row = (size_t)e.t * a.kp16;

    if (a.y16)
        a.y16[row + (a.place ? a.place[e.row] : e.row)] = to16(v, a.mode16);
    else
        a.y32[row + e.row] = v;
}

/* What becomes of the sum v. gate: of swiglu, from the tile before. */
__device__ static inline void finish(const stream_args &a, const dev_out &out, bool second,
                                     int tile, const tile_end &e, float v, float &gate)
{
    if (a.swiglu) {
        if (!second)
            gate = v;
        else if (e.there)
            put_next(a, e, gate / (1 + expf(-gate)) * v);
        return;
    }
    v += e.old;
    if (e.there)
        out.y[(size_t)e.t * out.w.rows + e.row] = v;
    if (!a.norm)
        return;
    float s = e.there ? v * v : 0;

    if (e.there)
        put_next(a, e, v * e.by);
    for (int d = DEV_TILE / 2; d; d /= 2)
        s += __shfl_xor_sync(~0u, s, d);
    if (e.row % DEV_TILE == 0 && e.t < a.T)
        a.ss_out[(size_t)e.t * a.tiles + tile] = s;
}

/* The rows of x to shared memory. */
__device__ static __forceinline__ void keep_inputs(const stream_args &a, uint16_t *to, int stride)
{
    const int kp = a.out[0].w.kp;

    for (int t = 0; t < a.T; t++)
#pragma unroll 4
        for (int i = threadIdx.x; i < kp / 8; i += STREAM_WARPS * WARP)
            ((uint4 *)(to + t * stride))[i] = *((const uint4 *)(a.x + (size_t)t * kp) + i);
}

/* The factors of rows, for the ends of tiles: of their norms, or of what was loaded. */
__device__ static inline void row_factors(const stream_args &a, float *factor)
{
    for (int t = threadIdx.x / WARP; t < a.T; t += STREAM_WARPS) {
        const float f = a.load.by ? a.load.by[t] : norm_factor(a, t);

        if (threadIdx.x % WARP == 0)
            factor[t] = f;
    }
}

/* Where the sums of a team's tile are, and how often the place was used before. */
struct sum_place {
    float *sum; /* of the team's first warp */
    uint32_t full, empty;
    int use;
};

__device__ static __forceinline__ sum_place sums_at(const program &p, int turn, int T, int teams)
{
    const int k = turn & ((1 << p.a->buffers) - 1), team = team_of(teams);
    const int bar = (((1 << teams) - 1 + team) << SUM_BUFFERS) + k;

    return { p.scratch + (k * STREAM_WARPS + team * team_size(teams)) * T * DEV_TILE,
             p.full + bar * 8, p.empty + bar * 8, turn >> p.a->buffers };
}

/* A warp's sums of a tile to those of the others. */
template <int NT>
__device__ static __forceinline__ void give_sums(const program &p, int turn, int T, int teams,
                                                 const float acc[NT][4])
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    const sum_place at = sums_at(p, turn, T, teams);
    float *const sum = at.sum + place_of(teams) * T * DEV_TILE;

    if (at.use > 0)
        bar_spin(at.empty, (at.use - 1) & 1);
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (n * 8 + 2 * c + i % 2 < T)
                sum[(n * 8 + 2 * c + i % 2) * DEV_TILE + g + i / 2 * 8] = acc[n][i];
    __syncwarp();
    if (lane == 0)
        bar_arrive(at.full);
}

/* The same of one row of x, whose columns the four lanes of a row of W share. */
__device__ static __forceinline__ void give_whole(const program &p, int turn, int teams,
                                                 const float acc[2])
{
    const int lane = threadIdx.x % WARP, c = lane % 4;
    const sum_place at = sums_at(p, turn, 1, teams);
    float v = c % 2 ? acc[1] : acc[0];

    v += __shfl_xor_sync(~0u, c % 2 ? acc[0] : acc[1], 1);
    v += __shfl_xor_sync(~0u, v, 2);
    if (at.use > 0)
        bar_spin(at.empty, (at.use - 1) & 1);
    if (c < 2)
        at.sum[place_of(teams) * DEV_TILE + lane / 4 + c * 8] = v;
    __syncwarp();
    if (lane == 0)
        bar_arrive(at.full);
}

/* Their total, once all are there. */
__device__ static __forceinline__ float take_sums(const program &p, int turn, int T, int teams,
                                                  const tile_end &e)
{
    const sum_place at = sums_at(p, turn, T, teams);
    float v = 0;

    bar_spin(at.full, at.use & 1);
    if (e.there)
#pragma unroll 4
        for (int o = 0; o < team_size(teams); o++)
            v += at.sum[(o * T + e.t) * DEV_TILE + e.row % DEV_TILE];
    __syncwarp();
    if (threadIdx.x % WARP == 0)
        bar_arrive(at.empty);
    return v;
}

/* FINE: scales change within a record. TILES: of 8 rows of x; 0: one row in whole numbers. */
template <int CLASS, int KIND, bool FINE, bool PAIR, int TILES>
__device__ static __forceinline__ void stream_phase(program &p, const stream_args &a)
{
    typedef ring_of<CLASS> R;
    constexpr int NT = TILES ? TILES : 1;
    constexpr int n_x = kind_of<KIND>::slabs * kind_of<KIND>::blocks, cols = n_x * 32;
    const int lane = threadIdx.x % WARP, g = lane / 4;
    const int kp = a.out[0].w.kp, stages = kp / cols, T = TILES ? a.T : 1, unit = a.swiglu ? 2 : 1;
    const uint16_t *const from = a.kept ? p.inputs : a.x;
    const int stride = a.kept ? a.kept / 2 : kp;
    const shared_form form = form_of(a.out[0].w);
    float gate[NT] = {};
    uint4 x[n_x * NT] = {}; /* rows beyond T stay zeros */
    const int teams = a.teams, size = team_size(teams), ends = (T + 1) / 2;
    const int step = gridDim.x << teams, at = item_at(0, 1, teams), units = a.tiles / unit;
    const int n_tiles = at < units ? ((units - at - 1) / step + 1) * unit : 0;
    const int turn0 = teams == 0 ? p.turns[0] : teams == 1 ? p.turns[1] : p.turns[2];
    /* A tile is ended that much later, when no warp's sums need waiting for; before it is the turn
     * of the same warp again. On an H200 8B decodes 2 % faster in Q4_0, 8 of it 4 % faster in Q8_0,
     * and bf16 1.5 % slower. */
    const int behind = CLASS == CLASS_W16
                           ? 0
                           : max(0, min(p.a->buffers, (int)((unsigned)size / (unsigned)ends) - 1));
    tile_end e[NT] = {}; /* of this warp's turns: with few warps of a team it has two */

    if constexpr (TILES == 0)
        whole_inputs(a, (uint8_t *)p.inputs, p.factor);
    else if (a.kept && !a.load.x)
        keep_inputs(a, p.inputs, stride);
    if (TILES && a.scaled && !a.load.x)
        row_factors(a, p.factor);
    if (a.kept || a.scaled)
        named_sync(WORKERS, STREAM_WARPS * WARP);
    for (int n = 0; n < n_tiles + behind; n++) {
        const bool begins = n < n_tiles;
        int tile;
        float acc[NT][4] = {};

        if (begins && end_turn(n / unit, ends, teams) < ends) {
            const dev_out &out = out_of(a, item_at(n, unit, teams), &tile);

#pragma unroll
            for (int i = 0; i < NT; i++)
                e[i] = end_of(a, out, tile, end_turn(n / unit, ends, teams) + i * size);
        }
        for (int s = begins ? place_of(teams) : stages; s < stages; s += size) {
            const uint8_t *const stage = p.ring + p.slot * R::slot;

            whole_share share;

            if constexpr (TILES)
                load_inputs<KIND, NT, n_x>(x, from + s * cols, stride, T);
            else {
                const uint8_t *const record = (const uint8_t *)p.inputs + s * WHOLE_RECORD;

                share = whole_load(record + whole_planes_at(lane), record + whole_word_at(lane),
                                   lane);
            }
            copy_wait<R::depth - 2>();
            __syncwarp();
            /* the slot of the stage before is free again */
            fetch<CLASS>(p, p.slot ? p.slot - 1 : R::depth - 1);
            if constexpr (TILES == 0) {
                const int zero = a.out[0].w.zero_const, gi = FINE ? lane % 4 : 0;

                if (!PAIR && form.zeros)
                    whole_add<PAIR, true>(acc[0], whole_read<PAIR, true>(stage, form.gs, gi, lane),
                                          zero, share, lane);
                else
                    whole_add<PAIR, false>(acc[0], whole_read<PAIR, false>(stage, form.gs, gi, lane),
                                           zero, share, lane);
            } else if constexpr (KIND == DEV_F8) {
                const dev_weight &w = out_of(a, item_at(n, unit, teams), &tile).w;
                float part[NT][4];
                float2 by = make_float2(1, 1);

                if (w.n_groups > 1) {
                    const int r0 = tile * DEV_TILE + g, k = s * cols / w.group;
                    const size_t at0 = min(r0, w.rows - 1) / w.row_group;
                    const size_t at8 = min(r0 + 8, w.rows - 1) / w.row_group;

                    by = make_float2(scale_at(w, at0 * w.n_groups + k),
                                     scale_at(w, at8 * w.n_groups + k));
                }
                stage_product<KIND, FINE, PAIR, false, NT>(part, stage, form, x, p.lut);
                flush<NT>(acc, part, by);
            } else if ((KIND == DEV_U4 || KIND == DEV_U8) && !PAIR && form.zeros) {
                stage_product<KIND, FINE, PAIR, true, NT>(acc, stage, form, x, p.lut);
            } else {
                stage_product<KIND, FINE, PAIR, false, NT>(acc, stage, form, x, p.lut);
            }
            p.slot = p.slot + 1 == R::depth ? 0 : p.slot + 1;
        }
        if (begins && TILES == 0)
            give_whole(p, turn0 + n, teams, acc[0]);
        else if (begins)
            give_sums<NT>(p, turn0 + n, T, teams, acc);
        if (n < behind)
            continue;
        const int turn = end_turn((n - behind) / unit, ends, teams);
        const int item = item_at(n - behind, unit, teams);
        const dev_out &out = out_of(a, item, &tile);
        const dev_weight &w = out.w;

#pragma unroll
        for (int i = 0; i < NT; i++) {
            if (turn + i * size >= ends)
                break;
            float v = take_sums(p, turn0 + n - behind, T, teams, e[i]);

            if (KIND == DEV_F8)
                v *= HALF_BY;
            if ((KIND == DEV_F8 && w.n_groups == 1) || (KIND == DEV_U8 && w.gs == 0))
                v *= e[i].there ? scale_at(w, (size_t)e[i].row / w.row_group) : 0;
            if (a.scaled && e[i].there)
                v *= p.factor[e[i].t];
            finish(a, out, a.swiglu && item % 2, tile, e[i], v, gate[i]);
        }
    }
    p.turns[0] += teams == 0 ? n_tiles : 0; /* one by one: in registers */
    p.turns[1] += teams == 1 ? n_tiles : 0;
    p.turns[2] += teams == 2 ? n_tiles : 0;
}
