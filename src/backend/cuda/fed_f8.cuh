/* fed_f8.cuh - products of E4M3 by E4M3 in programs on Hopper: as fed.cuh, but by wgmma, which
 * takes both as they are, so that weights need no instructions but those that ask for them.
 *
 * A product of a warpgroup has 64 rows of W. Here they are 16 rows by four pieces of 128 columns,
 * so that tiles stay small enough to be shared by all blocks; the rows of x lie likewise, each once
 * for a piece, and of the sums those are of use where both pieces are the same one. Four
 * warpgroups have a quarter of a group each: piece n is number n / 4 of warpgroup n % 4.
 *
 *   W, a group   [2 halves of 8 rows][16 pieces][8 rows][128], as two copies bring it
 *   x, its image [stage][4 warpgroups][4 pieces][FED8_BESIDE rows of x][128]
 *
 * both in lines of 128 bytes with wgmma's swizzle. A row that is alone lies beside itself: two
 * stages share a place in its image, and of their sums either has its own. Tensor cores sum 128
 * columns, as exactly as they do it; those sums meet in float32, in an order that the shape of W
 * decides.
 *
 * One row's inputs come from the phase before without a gate, as words that are ABSENT until they
 * are there (barrier.cuh), and that are made so again when all blocks have read them (link_floats()
 * in program.c). */
#pragma once

#include "backend/cuda/fed.cuh"
#include "backend/cuda/hopper.cuh"

/* Of the rows of x: the warps' largest values, and what they are multiplied by. */
struct fed8_rule {
    __align__(16) float part[DEV_STREAM_ROWS][STREAM_WARPS];
    float inverse[DEV_STREAM_ROWS];
};

#if HOPPER
/* The maps of all weights are what they are in memory, and the barriers of x ready. All threads,
 * before they wait for one another. */
__device__ static inline void fed8_begin(const program_args &a, uint32_t x_landed)
{
    if (threadIdx.x < FED8_BARRIERS)
        bar_init(x_landed + threadIdx.x * 8, 1);
    for (int i = threadIdx.x; i < a.n_feeds * DEV_OUTS; i += STREAM_WARPS * WARP) {
        const uint8_t *const map = a.feed[i / DEV_OUTS].q[i % DEV_OUTS];

        if (map)
            fence_map(map);
    }
}

/* Where the halves of a tile's rows are. */
struct fed8_tile {
    const uint8_t *map[2];
    int row[2];
};

__device__ static __forceinline__ fed8_tile fed8_tile_of(const stream_feed &f, int tile)
{
    if (f.swiglu)
        return { { f.q[0], f.q[1] }, { tile * 8, tile * 8 } };
    const feed_tile at = feed_at(f, tile);
    const int row = at.tile * DEV_TILE;

    return { { at.q, at.q }, { row, row + 8 } };
}

/* feed_ring() of boxes: of each half of a tile's rows one for a group. */
__device__ static __forceinline__ void feed8_ring(const program &p, fed_ring r)
{
    const int groups = p.a->groups;
    fed_window asked = {};

#pragma unroll 1
    for (int i = 0; i < p.a->n_feeds; i++) {
        const stream_feed f = p.feeds[i];
        /* even: blocks that had less to do before would claim so early as to end last what all wait
         * for. 4, 8 and 16 rows of 8B make 1501, 2549 and 4098 tok/s on an H200, else 1477, 2509 and
         * 3983 */
        fed_tiles<true>(p, i, f.tiles, f.stages, [&](int tile, bool last) {
            const fed8_tile t = fed8_tile_of(f, tile);

#pragma unroll 1
            for (int at = 0; at < f.stages; at++) {
                const uint32_t to = r.to + slot_of(r.now.place) * FED8_GROUP,
                               bar = r.landed + slot_of(r.now.place) * 8;

                fed_room(r, asked, i, groups);
                if (elected()) {
                    r.tile[slot_of(r.now.place)] = 2 * tile + last;
                    bar_expect(bar, FED8_GROUP);
                    box_copy_once(to, t.map[0], 0, t.row[0], at * (FED8_COLS / 128), bar);
                    box_copy_once(to + FED8_GROUP / 2, t.map[1], 0, t.row[1],
                                  at * (FED8_COLS / 128), bar);
                }
                __syncwarp();
                r.now.place = fed_next(r.now.place, groups);
            }
        });
    }
}

/* The scale of a row whose largest magnitude is `max`. */
__device__ static __forceinline__ float fed8_scale(const load_args &l, float max)
{
    return l.act == ACT_F8 ? act_scale(ACT_F8, l.bound, 0, max) : l.scale;
}

/* The largest of a warp's values that are not negative. */
__device__ static __forceinline__ float fed8_most(float v)
{
    return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(v)));
}

__device__ static __forceinline__ float fed8_most(float max, const float4 &v)
{
    return fmaxf(fmaxf(max, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
}

/* norm_factor(), whose loads do not wait for one another. */
__device__ static __forceinline__ float fed8_norm(const stream_args &a, int t, int lane)
{
    const float *const from = a.ss + (size_t)t * a.n_ss;
    float s = 0;

#pragma unroll 8
    for (int i = lane; i < a.n_ss; i += WARP)
        s += from[i];
    return 1 / sqrtf(warp_sum(s) / (float)a.D + a.eps);
}

/* The image of rows first .. first + n of x, and what the rows are to be multiplied by. A thread has
 * four columns of each stage, KEPT quads in registers. What takes time here is that all warps go
 * through it: hence few instructions, and no calls, beside which wgmma would be waited for one by
 * one. */
__device__ static __forceinline__ void fed8_round(const stream_args &a, fed8_rule &r, int first,
                                                  int n, uint8_t *image, float *by)
{
    enum { EACH = STREAM_WARPS * WARP, KEPT = FED8_ROUNDED };
    const load_args &l = a.load;
    const int thread = thread_now(), warp = thread / WARP, lane = thread % WARP;
    const int beside = FED8_BESIDE(a.T), stages = FED8_STAGES(a.out[0].w.kp), quads = l.cols / 4,
              items = n * stages;
    const float4 *const x = (const float4 *)l.x + (size_t)first * quads;
    const auto load = [&](int t, int k) {
        const int i = k * EACH + thread;

        return i < quads ? x[t * quads + i] : float4{ 0, 0, 0, 0 };
    };
    float4 kept[KEPT] = {};

#pragma unroll
    for (int j = 0, t = 0, k = 0; j < KEPT; j++, k++) {
        if (k == stages)
            k = 0, t++;
        if (j < items)
            kept[j] = load(t, k);
    }
    const float norm = a.ss && warp < n ? fed8_norm(a, first + warp, lane) : 1;
    float max = 0;
    int t = 0, k = 0;
    const auto next = [&](const float4 &v) {
        max = fed8_most(max, v);
        if (++k == stages) {
            max = fed8_most(max);
            if (lane == 0)
                r.part[t][warp] = max;
            t++, max = 0, k = 0;
        }
    };

#pragma unroll
    for (int j = 0; j < KEPT; j++)
        if (j < items)
            next(kept[j]);
#pragma unroll 4
    for (int j = KEPT; j < items; j++)
        next(load(t, k));
    named_sync(WORKERS, EACH);
    if (warp < n) {
        const float s = fed8_scale(l, fed8_most(r.part[warp][lane % STREAM_WARPS]) * norm);

        if (lane == 0)
            r.inverse[warp] = norm / s, by[first + warp] = s;
    }
    named_sync(WORKERS, EACH);
    /* its piece of a stage is the warp's number */
    const auto put = [&](int t, int k, const float4 &v) {
        const float f[4] = { v.x, v.y, v.z, v.w };
        const int line = warp / 4 * beside + first + t;

        *(uint32_t *)(image + ((k * 4 + warp % 4) * 4 * beside + line) * SWIZZLE_ROW +
                      ((lane / 4 ^ line) % 8 * 16 + lane % 4 * 4)) = four_f8(f, r.inverse[t]);
    };

    t = 0, k = 0;
#pragma unroll
    for (int j = 0; j < KEPT; j++, k++) {
        if (k == stages)
            k = 0, t++;
        if (j < items)
            put(t, k, kept[j]);
    }
#pragma unroll 4
    for (int j = KEPT; j < items; j++, k++) {
        if (k == stages)
            k = 0, t++;
        put(t, k, load(t, k));
    }
}

/* The same of the only row, of up to KEPT stages, to shared memory at `image`; what it is to be
 * multiplied by. takes: x and ss come word by word; what is not there yet is asked for again. */
template <int KEPT>
__device__ static __forceinline__ float fed8_one_of(const stream_args &a, fed8_rule &r,
                                                    uint32_t image, bool takes)
{
    enum { EACH = STREAM_WARPS * WARP, SUMS = 8, LINES = FED8_LINES(1) };
    const load_args &l = a.load;
    const int thread = thread_now(), warp = thread / WARP, lane = thread % WARP;
    const int line = warp / 4 * FED8_BESIDE(1), quads = l.cols / 4;
    const uint32_t even = image + (warp % 4 * LINES + line) * SWIZZLE_ROW +
                          ((lane / 4 ^ line) % 8 * 16 + lane % 4 * 4),
                   odd = (even ^ 16) + SWIZZLE_ROW; /* of stages */
    const float4 *const x = (const float4 *)l.x + thread;
    const float absent = __uint_as_float(ABSENT);
    const int n_ss = a.ss && warp == 0 ? a.n_ss : 0; /* the first warp finds the norm's factor */
    float4 kept[KEPT];
    float part[SUMS], sum = 0, max = 0;

#pragma unroll
    for (int j = 0; j < KEPT; j++)
        kept[j] = j * EACH + thread < quads ? float4{ absent, absent, absent, absent }
                                            : float4{ 0, 0, 0, 0 };
#pragma unroll
    for (int k = 0; k < SUMS; k++)
        part[k] = k * WARP + lane < n_ss ? absent : 0;
#pragma unroll 1
    for (bool there = false; !there;) {
#pragma unroll
        for (int j = 0; j < KEPT; j++)
            if (is_absent(kept[j]))
                kept[j] = load_shared(x + j * EACH);
        if (n_ss)
#pragma unroll
            for (int k = 0; k < SUMS; k++)
                if (is_absent(part[k]))
                    part[k] = load_shared(a.ss + k * WARP + lane);
        there = true;
#pragma unroll
        for (int j = 0; j < KEPT; j++)
            there = there & !is_absent(kept[j]);
#pragma unroll
        for (int k = 0; k < SUMS; k++)
            there = there & !is_absent(part[k]);
        there = there || !takes;
    }
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        max = fed8_most(max, kept[j]);
    max = fed8_most(max);
    if (lane == 0)
        r.part[0][warp] = max;
    if (warp == 0) {
#pragma unroll
        for (int k = 0; k < SUMS; k++)
            sum += part[k];
#pragma unroll 1
        for (int i = SUMS * WARP + lane; i < n_ss; i += WARP) {
            float v = load_shared(a.ss + i);

            while (takes && is_absent(v))
                v = load_shared(a.ss + i);
            sum += v;
        }
        r.inverse[0] = n_ss ? 1 / sqrtf(warp_sum(sum) / (float)a.D + a.eps) : 1;
    }
    named_sync(WORKERS, EACH);
    /* every thread for itself: less than once more waiting for one another */
    const float norm = r.inverse[0];
    const float s = fed8_scale(l, fed8_most(r.part[0][lane % STREAM_WARPS]) * norm);
    const float inverse = norm / s;

#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const float f[4] = { kept[k].x, kept[k].y, kept[k].z, kept[k].w };

        if (k < FED8_STAGES(a.out[0].w.kp))
            shared_store((k % 2 ? odd : even) + k / 2 * 4 * LINES * SWIZZLE_ROW,
                         four_f8(f, inverse));
    }
    return s;
}

__device__ static __forceinline__ float fed8_one(const stream_args &a, fed8_rule &r, uint32_t image,
                                                 bool takes)
{
    const int stages = FED8_STAGES(a.out[0].w.kp);

    return stages <= 2   ? fed8_one_of<2>(a, r, image, takes)
           : stages <= 4 ? fed8_one_of<4>(a, r, image, takes)
           : stages <= 8 ? fed8_one_of<8>(a, r, image, takes)
                         : fed8_one_of<FED8_KEPT>(a, r, image, takes);
}

/* A lane's sums of a group that are of use: of its row g pieces 2 (w % 2), of g + 8 the next.
 * second: of the row that lies beside the first. */
template <int N, int BLOCKS>
__device__ static __forceinline__ void fed8_add(float acc[BLOCKS][4], const float d[N / 2],
                                                bool odd, bool second)
{
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int at = (N >= 32 ? i / 2 * (N / 8) : 0) + 4 * b + i;

            acc[b][i] += N == 8 ? (second ? d[at ^ 1] : d[at]) : odd ? d[N / 4 + at] : d[at];
        }
}

/* This warp's sums of a tile, of its two pieces together, to those of the others. */
template <int N, int BLOCKS>
__device__ static __forceinline__ void fed8_give(const program &p, int turn, int T,
                                                 const float acc[BLOCKS][4], int warp, int lane)
{
    const int g = lane / 4, c = lane % 4;
    const int k = turn & ((1 << p.a->buffers) - 1), use = turn >> p.a->buffers;
    const int t0 = N == 8 ? 0 : N == 16 ? c % 2 * 2 : 2 * c;
    const bool mine = N == 8 ? c == warp % 2 * 2 : N == 16 ? c < 2 : true;
    float *const sum =
        p.scratch + (k * FED8_SUMS + warp / 4 * 2 + warp % 2) * T * DEV_TILE + warp % 4 / 2 * 8 + g;
    float v[BLOCKS][2];

#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < 2;
             i++) /* the other piece's of these columns has another lane, or not */
            v[b][i] =
                acc[b][i] + (N < 32 ? __shfl_xor_sync(~0u, acc[b][2 + i], N / 8) : acc[b][2 + i]);
    if (use > 0)
        bar_wait(p.empty + k * 8, (use - 1) & 1);
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (mine && 8 * b + t0 + i < T)
                sum[(8 * b + t0 + i) * DEV_TILE] = v[b][i];
    __syncwarp();
    if (lane == 0)
        bar_arrive(p.full + k * 8);
}

/* Parts of x that do not lie in shared memory, brought there by a warpgroup's first warp, DEPTH - 1
 * stages ahead. */
template <int N> struct fed8_parts {
    enum { PART = N * 128, DEPTH = FED8_DEPTH(N / 4) };
    const uint8_t *from; /* the warpgroup's of the first stage */
    uint32_t to, bars;
    int turn, next, stages, team; /* turn: of the part that is used next; next: stage to ask for */
    bool asks;

    __device__ __forceinline__ void ask(int n)
    {
        if (asks && elected()) {
            bar_expect(bars + n % DEPTH * 8, PART);
            bulk_copy(to + n % DEPTH * PART, from + next * 4 * PART, PART, bars + n % DEPTH * 8);
        }
        __syncwarp();
        next = next + 1 < stages ? next + 1 : 0;
    }
    __device__ __forceinline__ void wait()
    {
        bar_wait(bars + turn % DEPTH * 8, turn / DEPTH % 2);
        turn++;
    }
    __device__ __forceinline__ void begin()
    {
        for (int i = 0; i < DEPTH - 1; i++)
            ask(turn + i);
    }
    /* Where the next one is. */
    __device__ __forceinline__ uint32_t take()
    {
        const uint32_t at = to + turn % DEPTH * PART;

        named_sync(ENDERS + 1 + team, WARPGROUP); /* all are through with the one before */
        ask(turn + DEPTH - 1);
        wait();
        return at;
    }
    __device__ __forceinline__ void end()
    {
        for (int i = 0; i < DEPTH - 1; i++)
            wait();
        turn %= 2 * DEPTH;
    }
};

/* An operand whose 8 rows lie end to end, the next ones `stride` further on; + 2: 32 columns on. */
__device__ static __forceinline__ uint64_t fed8_operand(uint32_t at, uint32_t stride)
{
    return (uint64_t)(stride >> 4 | 1u << 30) << 32 | at;
}

/* phase: its number; others: there are phases after it; N: lines of an image's part; NEAR: it is in
 * shared memory
 */
template <int N, bool NEAR>
__device__ static __forceinline__ void fed8_phase(const program &p, fed_ring &r,
                                                  const stream_args &a, int phase, bool others)
{
    constexpr int BLOCKS = N < 64 ? 1 : N / 32, PART = N * 128;
    const int thread = thread_now(), warp = held(thread / WARP), lane = held(thread % WARP);
    const int team = warp / 4, stages = held(FED8_STAGES(a.out[0].w.kp)), groups = p.a->groups;
    const int T = held(a.T), tiles = a.swiglu ? (a.out[0].w.rows + 7) / 8 : a.tiles;
    const bool one = NEAR && N == 8 && T == 1;
    const uint32_t image = (uint32_t)__cvta_generic_to_shared(p.inputs);
    /* in units of 16 bytes */
    const uint32_t w_at = held((r.to + team * SWIZZLE_ATOM) >> 4);
    const uint32_t x_at = held((image + team * PART) >> 4);
    fed8_parts<N> parts = { (const uint8_t *)a.x + team * PART,
                            image + team * (fed8_parts<N>::DEPTH * PART),
                            r.x_landed + team * 32,
                            r.now.x_turn,
                            0,
                            stages,
                            team,
                            warp % 4 == 0 };
    int place = held(r.now.place), turn = held(r.now.turn);

    if (!NEAR)
        fence_async_all();
    named_sync(WORKERS, STREAM_WARPS * WARP);
    if (threadIdx.x == 0)
        *r.begins = *r.begins + 1;
    if (!NEAR)
        parts.begin();
#pragma unroll 1
    for (bool more = (int)blockIdx.x < tiles; more;) {
        bar_wait(r.landed + slot_of(place) * 8, round_of(place));
        const int tile = r.tile[slot_of(place)];

        fed_begin(p, r, turn, { tile / 2, phase });
        float acc[BLOCKS][4] = {};
        const auto group = [&](float(&d)[N / 2], int at, int k) {
            const uint32_t w = w_at + slot_of(at) * (FED8_GROUP >> 4);
            const uint32_t x = NEAR ? x_at + (one ? k / 2 : k) * (4 * PART >> 4)
                                    : parts.take() >> 4;

            wgmma_fence();
#pragma unroll
            for (int s = 0; s < 4; s++)
                wgmma_f8(d, fed8_operand(w + 2 * s, 4 * SWIZZLE_ATOM),
                         fed8_operand(x + 2 * s, SWIZZLE_ATOM), s > 0);
            wgmma_commit();
        };
        const auto done = [&](float(&d)[N / 2], int at, bool second) {
            hold(d);
            fed8_add<N, BLOCKS>(acc, d, warp % 2, second);
            __syncwarp();
            if (lane == 0)
                bar_arrive(r.freed + slot_of(at) * 8);
        };
        int k = 0;

        if constexpr (NEAR && N <= 32) { /* two groups at a time */
#pragma unroll 1
            for (; k + 1 < stages; k += 2) {
                const int next = fed_next(place, groups);
                float d[2][N / 2];

                if (k)
                    bar_wait(r.landed + slot_of(place) * 8, round_of(place));
                bar_wait(r.landed + slot_of(next) * 8, round_of(next));
                group(d[0], place, k);
                group(d[1], next, k + 1);
                wgmma_wait<0>();
                done(d[0], place, false);
                done(d[1], next, one);
                place = fed_next(next, groups);
            }
        }
#pragma unroll 1
        for (; k < stages; k++) {
            float d[N / 2];

            if (k)
                bar_wait(r.landed + slot_of(place) * 8, round_of(place));
            group(d, place, k);
            wgmma_wait<0>();
            done(d, place, false);
            place = fed_next(place, groups);
        }
        fed8_give<N, BLOCKS>(p, turn++, T, acc, warp, lane);
        more = tile % 2 == 0;
    }
    if (!NEAR)
        parts.end();
    if (others)
        fed_mark<1>(p, r, turn, T, { NO_TILE, phase });
    /* attention that waits at no gate may write where the sums of this block's tiles are read */
    if (others && a.give_x && p.a->attn == 0)
        fed_wait_read(p, turn);
    turn += others;
    r.now.place = place, r.now.turn = turn;
    if (!NEAR)
        r.now.x_turn = parts.turn;
}

template <int N>
__device__ static __forceinline__ void fed8_rows(const program &p, fed_ring &r,
                                                 const stream_args &a, int phase, bool others)
{
    if (a.kept)
        fed8_phase<N, true>(p, r, a, phase, others);
    else
        fed8_phase<N, false>(p, r, a, phase, others);
}

/* A phase, but for attention. */
template <int NT>
__device__ static __forceinline__ void fed8_product(const program &p, fed_ring &r,
                                                    const dev_phase &now, int phase, bool others)
{
    __shared__ fed8_rule rule;
    const stream_args &a = now.u.s;
    const bool apart = now.kind == PHASE_LOAD; /* a row a block, where all find it */

    if (apart) {
        for (int t = blockIdx.x; t < a.T; t += gridDim.x) {
            fed8_round(a, rule, t, 1, (uint8_t *)a.x, a.load.by);
            named_sync(WORKERS, STREAM_WARPS * WARP); /* the rule has been read */
        }
        fence_async_all();
        return;
    }
    if (a.load.x && a.T > 1) {
        fed8_round(a, rule, 0, a.T, (uint8_t *)p.inputs, p.factor);
    } else if (a.load.x) {
        const float s = fed8_one(a, rule, (uint32_t)__cvta_generic_to_shared(p.inputs),
                                 now.takes);

        if (thread_now() == 0)
            p.factor[0] = s;
    }
    fence_async();
    if (!a.load.x && a.scaled)
        row_factors(a, p.factor);
    if constexpr (NT == 2)
        fed8_rows<64>(p, r, a, phase, others);
    else if (a.T <= 2)
        fed8_rows<8>(p, r, a, phase, others);
    else if (a.T <= 4)
        fed8_rows<16>(p, r, a, phase, others);
    else
        fed8_rows<32>(p, r, a, phase, others);
}

template <int NT> struct fed8 {
    __device__ static __forceinline__ void begin(const program_args &a, uint32_t x_landed)
    {
        fed8_begin(a, x_landed);
    }
    __device__ static __forceinline__ void feed(const program &p, const fed_ring &r)
    {
        feed8_ring(p, r);
    }
    __device__ static __forceinline__ void product(const program &p, fed_ring &r,
                                                   const dev_phase &now, int phase, bool others)
    {
        fed8_product<NT>(p, r, now, phase, others);
    }
};
#endif
