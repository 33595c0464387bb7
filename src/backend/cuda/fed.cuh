/* fed.cuh - products of weights of 16 bits in programs on Hopper. As in
 * stream.cuh a block has tiles of 16 rows of W, whose columns its warps share;
 * but there is one ring for all of them, which a warp more fills with bulk
 * copies: ordinary loads of a multiprocessor come back in the order in which
 * they were asked for, and inputs, residuals and the gate would wait behind a
 * ring of cp.async.
 *
 * Multiprocessors get unequal shares of a busy memory, so tiles are not dealt
 * out beforehand: a block's first of a product is its own, every other one it
 * claims when it has asked for most of the one before. What a row's sums are
 * depends on nothing but the shape of W. Of a gated product a tile is 8 rows of
 * the gate and the same 8 of the other; of records (fed_codes.cuh) it is 16 of
 * both. Warps of their own end tiles, two rows of x at a time.
 */
#pragma once

#include "backend/cuda/silu.cuh"
#include "backend/cuda/stream.cuh"

/* A tile whose sums are there, of that phase; FED_TWO: the next one's too (fed_codes.cuh). NO_TILE ends
 * it, and of one row's programs FED_LAST with its last tile; LAST ends the program. */
struct fed_done {
    int tile, phase;
};

enum { NO_TILE = -1, LAST = -2, FED_ROUND = 256, FED_LAST = 1 << 30, FED_TWO = 1 << 29 };
enum { ENDERS = WORKERS + 1 }; /* a named barrier: the warps that end tiles */

/* Where a warp is in a ring. */
struct fed_place {
    int place;  /* used next */
    int turn;   /* tiles before, and ends of phases */
    int x_turn; /* FED8: parts of x that were copied */
};

/* What the ring is to a thread. */
struct fed_ring {
    uint8_t *at;            /* groups */
    uint32_t to;            /* the same, as copies take it */
    uint32_t landed, freed; /* [FED_GROUPS] barriers */
    int *tile;              /* [FED_GROUPS] which a group is of, FED_TWO, and FED_LAST, if it is
                             * the block's last of a phase; NO_TILE: there is none */
    fed_done *done;         /* [2^SUM_BUFFERS] */
    uint32_t begun;         /* the same barriers: done is there */
    volatile int *begins;   /* products whose inputs are there */
    fed_place now;
    uint32_t x_landed; /* FED8: [FED8_BARRIERS] parts of x are there */
    uint32_t brought;  /* [PHASES_KEPT] phases are there, by their numbers */
};

/* Until phase i is there: the first was from the beginning. */
__device__ static __forceinline__ void fed_wait_brought(uint32_t brought, unsigned i)
{
    if (i > 0)
        bar_wait(brought + i % PHASES_KEPT * 8, (i - 1) / PHASES_KEPT & 1);
}

/* Whether weights are records. */
template <int CLASS> __device__ static constexpr bool fed_records()
{
    return CLASS == CLASS_FED_CODES || CLASS == CLASS_FED_N4;
}

/* What programs of FED8 do instead: fed_f8.cuh, in the one file that makes some. */
template <int NT> struct fed8;

/* A value that is held, where there are registers for it. */
template <int NT, class X> __device__ static __forceinline__ X few(X x)
{
    return NT == 1 ? held(x) : x;
}

__device__ static __forceinline__ int slot_of(int place)
{
    return place & (FED_ROUND - 1);
}

__device__ static __forceinline__ int round_of(int place)
{
    return place >= FED_ROUND;
}

/* The next group of a ring; `place` is a slot, with FED_ROUND in every other
 * round. */
__device__ static __forceinline__ int fed_next(int place, int groups)
{
    const int slot = slot_of(place) + 1;

    return slot == groups ? (place & FED_ROUND) ^ FED_ROUND : place + 1;
}

/* Groups that are asked for: the first that was not there when last looked, and how many. */
struct fed_window {
    int past, under_way;
};

/* Waits until the next group, of this feed, has a slot, and until it is not one too many under way. */
__device__ static __forceinline__ void fed_room(const fed_ring &r, fed_window &w, int feed,
                                                int groups)
{
    bar_wait(r.freed + slot_of(r.now.place) * 8, round_of(r.now.place) ^ 1);
    for (const int most = feed < *r.begins ? FED_AHEAD : 1; w.under_way >= most; w.under_way--) {
        bar_wait(r.landed + slot_of(w.past) * 8, round_of(w.past));
        w.past = fed_next(w.past, groups);
    }
    w.under_way++;
}

/* A group that stands for the tiles of a feed that this block has none of. */
__device__ static __forceinline__ void feed_nothing(fed_ring &r, fed_window &w, int feed,
                                                    int groups)
{
    fed_room(r, w, feed, groups);
    if (elected()) {
        r.tile[slot_of(r.now.place)] = NO_TILE;
        bar_arrive(r.landed + slot_of(r.now.place) * 8);
    }
    __syncwarp();
    r.now.place = fed_next(r.now.place, groups);
}

/* A block's tiles of product number i, of n in so many groups each, one after the other, and whether
 * each is the last. Two are its own, the others are claimed two tiles before, for memory takes long
 * to answer; but if the ring has room for all, so that they come before they are used, what counts
 * is that blocks have as many: all are dealt out. EVEN: none has many more than its share. */
template <bool EVEN, class F>
__device__ static __forceinline__ void fed_tiles(const program &p, int i, int n, int each_groups,
                                                 const F &each)
{
    const int grid = gridDim.x, lane = threadIdx.x % WARP, share = (n - 1) / grid + 1;
    const bool dealt = n * each_groups <= p.a->groups * grid;
    int claims = share + share / 16 - 2;
    /* the tile after the next */
    const auto claim = [&](int next) {
        const bool may = n > 2 * grid && (!EVEN || claims-- > 0);

        return dealt              ? next + grid
               : may && lane == 0 ? 2 * grid + (int)atomicAdd(p.a->claims + i, 1u)
                                  : n;
    };

#pragma unroll 1
    for (int tile = blockIdx.x, even = tile + grid; tile < n;) {
        const int odd = claim(even); /* two registers, so that none is waited for to be copied */
        const int second = __shfl_sync(~0u, even, 0);

        each(tile, second >= n);
        if (second >= n)
            break;
        even = claim(odd);
        tile = __shfl_sync(~0u, odd, 0);
        each(second, tile >= n);
    }
}

/* The matrix that a tile is of, and which it is there. A feed that is in registers stays there, for it
 * has no index that varies. */
struct feed_tile {
    const uint8_t *q;
    int tile;
};

__device__ static __forceinline__ feed_tile feed_at(const stream_feed &f, int tile)
{
    const bool third = tile >= f.tile0[2], second = tile >= f.tile0[1];

    return { third ? f.q[2] : second ? f.q[1] : f.q[0],
             tile - (third ? f.tile0[2] : second ? f.tile0[1] : 0) };
}

/* The warp that feeds: asks for groups as soon as there is room, on and on,
 * whatever the others wait for; no more than FED_AHEAD at a time, which keep
 * the memory busy, and one of a product whose inputs are not there: those are
 * waited for, and are quicker beside less. */
__device__ static __forceinline__ void feed_ring(const program &p, fed_ring r)
{
    const int lane = threadIdx.x % WARP, groups = p.a->groups;
    fed_window asked = {};

#pragma unroll 1
    for (int i = 0; i < p.a->n_feeds; i++) {
        const stream_feed &f = p.feeds[i];
        const int stride = f.stride, bytes = f.stages * 256;

#pragma unroll 1
        for (int tile = blockIdx.x; tile < f.tiles;) {
            const int o = f.swiglu ? 0 : out_at(f, tile),
                      row = (tile - f.tile0[o]) * (f.swiglu ? 8 : 16);
            const int top = f.rows[o] - 1 - row; /* the last of the tile's rows that there is */
            const uint8_t *const first = f.q[o] + (size_t)row * stride;
            const uint8_t *const second =
                f.swiglu ? f.q[1] + (size_t)row * stride : first + (size_t)min(8, top) * stride;
            const int top2 = f.swiglu ? top : top - 8;
            int next = f.tiles; /* what is claimed */

#pragma unroll 1
            for (int at = 0; at < bytes; at += FED_ROW) {
                const int n = min((int)FED_ROW, bytes - at);
                const int left = (bytes - at - 1) / FED_ROW; /* groups after this one */

                if (f.tiles > (int)gridDim.x && (left == 2 || (left < 2 && at == 0)) && lane == 0)
                    next = (int)gridDim.x + (int)atomicAdd(p.a->claims + i, 1u);
                const uint32_t to = r.to + slot_of(r.now.place) * FED_GROUP,
                               bar = r.landed + slot_of(r.now.place) * 8;

                fed_room(r, asked, i, groups);
                if (left == 0)
                    next = __shfl_sync(~0u, next, 0);
                if (elected()) {
                    const uint8_t *x = first + at, *y = second + at;

                    r.tile[slot_of(r.now.place)] =
                        left == 0 && next >= f.tiles ? tile | FED_LAST : tile;
                    bar_expect(bar, DEV_TILE * n);
#pragma unroll
                    for (int k = 0; k < 8; k++) {
                        bulk_copy_once(to + k * FED_PITCH, x, n, bar);
                        bulk_copy_once(to + (k + 8) * FED_PITCH, y, n, bar);
                        x += k < top ? stride : 0;
                        y += k < top2 ? stride : 0;
                    }
                }
                __syncwarp();
                r.now.place = fed_next(r.now.place, groups);
            }
            tile = next;
        }
        if ((int)blockIdx.x >= f.tiles)
            feed_nothing(r, asked, i, groups);
    }
}

/* The warps that share a tile of records of one row of x: half of a block's where another half has the
 * tile that gates it. */
__device__ static __forceinline__ int fed_team(bool gated)
{
    return gated ? STREAM_WARPS / 2 : STREAM_WARPS;
}

/* One group times this warp's columns of x. */
template <int KIND, int NT>
__device__ static __forceinline__ void fed_group(float acc[2][NT][4], const uint8_t *group,
                                                 const uint4 *x)
{
    const uint4 *const at = (const uint4 *)group;

#pragma unroll
    for (int b = 0; b < FED_COLS / 32; b++) {
        const uint4 v = at[b * 4], w = at[8 * FED_PITCH / 16 + b * 4];
        const uint32_t a[2][4] = { { v.x, w.x, v.y, w.y }, { v.z, w.z, v.w, w.w } };

#pragma unroll
        for (int n = 0; n < NT; n++) {
            mma<KIND == DEV_B16>(acc[0][n], a[0], x[b * NT + n].x, x[b * NT + n].y);
            mma<KIND == DEV_B16>(acc[1][n], a[1], x[b * NT + n].z, x[b * NT + n].w);
        }
    }
}

/* The lane's value of a tile, as end_of. */
template <int CLASS>
__device__ static __forceinline__ tile_end fed_end_of(const stream_args &a, int tile, int turn)
{
    if (!a.swiglu) {
        int in;
        const dev_out &out = out_of(a, tile, &in);

        return end_of(a, out, in, turn);
    }
    constexpr int rows = CLASS == CLASS_FED_CODES ? (int)DEV_TILE : 8;
    const int i = turn * WARP + threadIdx.x % WARP;
    tile_end e = { i / DEV_TILE, tile * rows + i % rows };

    e.there = i % DEV_TILE < rows && e.t < a.T && e.row < a.out[0].w.rows;
    return e;
}

/* The lane's value and its neighbour's, of the next product's input. */
__device__ static __forceinline__ void fed_give_pair(const stream_args &a, const tile_end &e,
                                                     float v, unsigned tag)
{
    const uint32_t mine = e.there ? to16(v, a.mode16) : 0;
    const uint32_t pair = mine | __shfl_xor_sync(~0u, mine, 1) << 16;

    if (e.there && e.row % 2 == 0)
        tagged_store(a.give_x + ((size_t)e.t * a.kp16 + e.row) / 2, pair, tag);
}

/* A value of the next product's input, of all lanes, to where that waits for it. */
template <int CLASS>
__device__ static __forceinline__ void fed_give_value(const stream_args &a, const tile_end &e,
                                                      float v, unsigned tag)
{
    if constexpr (CLASS != CLASS_FED8)
        fed_give_pair(a, e, v, tag);
    else if (e.there)
        store_shared(a.given + (size_t)e.t * a.kp16 + e.row, v);
}

/* The scale of the row of E4M3 that the lane has a sum of; 0: there is none. */
__device__ static __forceinline__ float fed_scale(const stream_args &a, int tile, const tile_end &e)
{
    int in;
    const int row = a.swiglu ? tile * 8 + threadIdx.x % 8 : e.row;
    const dev_weight &w = a.swiglu ? a.out[threadIdx.x / 8 % 2].w : out_of(a, tile, &in).w;

    return e.t < a.T && row < w.rows ? scale_at(w, (size_t)row / w.row_group) : 0;
}

/* Where sums of two tiles at a time lie: floats of a warp's part, and those of row t of x and row r of
 * a tile in it. Two rows of x stand side by side, some turned, so that neither the lanes that give nor
 * those that take meet in a bank. */
__device__ static __forceinline__ int two_part(int T)
{
    return (T + 1) / 2 * 2 * DEV_TILE;
}

__device__ static __forceinline__ int two_at(int t, int r)
{
    const int pair = t / 2;

    return (pair * 2 + ((t ^ pair) & 1)) * DEV_TILE + (r ^ (pair & 2) * 4);
}

/* Two rows of x of a tile. sum: the warps'; scale: of the lane's row of W */
template <int CLASS>
__device__ static __forceinline__ void fed_end(const stream_args &a, const float *sum,
                                               const float *factor, int tile, int turn,
                                               const tile_end &e, float scale, unsigned tag)
{
    constexpr bool F8 = CLASS == CLASS_FED8, records = CLASS == CLASS_FED_CODES;
    const int t = turn * 2 + threadIdx.x % WARP / DEV_TILE;
    const bool there = t < a.T, gives = F8 ? a.given != NULL : a.give_x != NULL;
    float v = 0, up = 0, none = 0;
    int in;

    if (records && there) {
        const int part = two_part(a.T);

        sum += two_at(t, threadIdx.x % DEV_TILE);
#pragma unroll
        for (int o = 0; o < STREAM_WARPS; o++)
            v += sum[o * part];
        if (a.swiglu)
#pragma unroll
            for (int o = 0; o < STREAM_WARPS; o++)
                up += sum[(STREAM_WARPS + o) * part];
    } else if (there) {
#pragma unroll
        for (int o = 0; o < (F8 ? (int)FED8_SUMS : (int)STREAM_WARPS); o++)
            v += sum[(o * a.T + t) * DEV_TILE + threadIdx.x % DEV_TILE];
    }
    if (F8)
        v *= scale;
    if (a.scaled && there)
        v *= factor[t], up *= factor[t];
    if (a.swiglu) {
        if (!records)
            up = __shfl_xor_sync(~0u, v, 8);
        const float gated = v / (1 + expf(-v)) * up;

        if (gives)
            fed_give_value<CLASS>(a, e, gated, tag);
        else if (e.there)
            put_next(a, e, gated);
        return;
    }
    const dev_out &out = out_of(a, tile, &in);

    if (a.give_x && !a.norm) { /* to attention */
        if (e.there)
            tagged_store(a.give_x + ((size_t)t * a.tiles + tile) * DEV_TILE + e.row % DEV_TILE,
                         __float_as_uint(v), tag);
        return;
    }
    if (gives) { /* first, for others wait for it */
        const float sum = v + e.old;
        float s = e.there ? sum * sum : 0;

        fed_give_value<CLASS>(a, e, sum * e.by, tag);
        for (int d = DEV_TILE / 2; d; d /= 2)
            s += __shfl_xor_sync(~0u, s, d);
        if (F8 && e.row % DEV_TILE == 0 && there)
            store_shared(a.given_ss + (size_t)t * a.tiles + in, s);
        else if (e.row % DEV_TILE == 0 && there)
            tagged_store(a.give_ss + (size_t)t * a.tiles + in, __float_as_uint(s), tag);
    }
    finish(a, out, false, in, e, v, none);
}

/* A warp ends two rows of x of a tile in each of its turns: so many with NT
 * tiles of 8 rows, of so many tiles at a time. */
__device__ static constexpr int fed_turns(int NT, int tiles = 1)
{
    return (4 * NT * tiles + FED_ENDS - 1) / FED_ENDS;
}

/* A lane's part of n tagged sums of squares, an even number. */
__device__ static __forceinline__ float fed_taken(const uint64_t *from, int n, unsigned tag)
{
    const int lane = threadIdx.x % WARP, pair = lane / 2 * 2; /* of words: two lanes read both */
    float s = 0;
    int i = pair;

#pragma unroll 1
    for (; i + 3 * WARP < n; i += 4 * WARP) {
        uint2 w[4];

        tagged_wait<4>(w, from + i, WARP, 4, tag);
#pragma unroll
        for (int k = 0; k < 4; k++)
            s += __uint_as_float(lane % 2 ? w[k].y : w[k].x);
    }
#pragma unroll 1
    for (; i < n; i += WARP) {
        uint2 w;

        tagged_wait<1>(&w, from + i, 0, 1, tag);
        s += __uint_as_float(lane % 2 ? w.y : w.x);
    }
    return s;
}

/* The factors of the norms of some of the rows, pairs of which go round among the warps that end
 * tiles; sum: a lane's part of the squares of row t. */
template <int NT, class F>
__device__ static __forceinline__ void fed_factors(const stream_args &a, float *factor, int mine,
                                                   const F &sum)
{
    const int lane = threadIdx.x % WARP;
    float s[2 * fed_turns(NT)] = {};

#pragma unroll
    for (int k = 0; k < 2 * fed_turns(NT); k++) {
        const int t = (mine + k / 2 * FED_ENDS) * 2 + k % 2;

        if (t < a.T)
            s[k] = sum(t);
    }
#pragma unroll
    for (int k = 0; k < 2 * fed_turns(NT); k++) {
        const int t = (mine + k / 2 * FED_ENDS) * 2 + k % 2;

        if (t >= a.T)
            continue;
        for (int d = WARP / 2; d; d /= 2)
            s[k] += __shfl_xor_sync(~0u, s[k], d);
        if (lane == 0)
            factor[t] = 1 / sqrtf(s[k] / (float)a.D + a.eps);
    }
    named_sync(ENDERS, FED_ENDS * WARP);
}

/* The block's share of words that nobody reads anymore. */
__device__ static __forceinline__ void fed_clear(const stream_args &a, int thread)
{
    enum { EACH = FED_ENDS * WARP };

    for (int i = blockIdx.x * EACH + thread; i < a.n_spent; i += gridDim.x * EACH)
        store_shared(a.spent + i, __uint_as_float(ABSENT));
}

/* The warps that end tiles, and phases when all of theirs are ended. Of records, whose programs of one
 * row alone have fed_ends_one(), they may be two at a time. */
template <int CLASS, int NT>
__device__ static __forceinline__ void fed_ends(const program &p, const fed_ring &r,
                                                const dev_phase *phases)
{
    constexpr bool F8 = CLASS == CLASS_FED8, TWO = CLASS == CLASS_FED_CODES;
    enum { TURNS = fed_turns(NT, TWO ? 2 : 1) };
    const int lane = threadIdx.x % WARP, T = p.a->T, buffers = 1 << p.a->buffers;
    const int mine = threadIdx.x / WARP - STREAM_WARPS - 1;
    const int pairs = (T + 1) / 2, sums = F8 ? (int)FED8_SUMS : (int)STREAM_WARPS;
    const int part = TWO ? two_part(T) : T * DEV_TILE, parts = TWO ? 2 * sums : sums;
    bool knows = false; /* the rows' factors */
    /* pairs of rows go round among the warps from tile to tile, for with few rows one alone would
     * have all the tiles' ends to do, one after the other */
    int first = mine;

#pragma unroll 1
    for (int k = 0, round = 0;;) {
        bar_wait(r.begun + k * 8, round);
        const fed_done d = r.done[k];
        const dev_phase &ph = phases[d.phase % PHASES_KEPT];
        const stream_args &a = ph.u.s;
        const unsigned tag = p.tag + d.phase; /* of what the phase takes; it gives the next */
        tile_end e[TURNS];
        float scale[TURNS] = {};
        const int ends = TWO && d.tile >= 0 && d.tile & FED_TWO ? 2 * pairs : pairs;
        /* of turn i: whether it is of the second tile; which tile it is of */
        const auto second = [&](int i) { return TWO && first + i * FED_ENDS >= pairs ? 1 : 0; };
        const auto tile = [&](int i) { return TWO ? (d.tile & ~FED_TWO) + second(i) : d.tile; };

        if (d.tile >= 0) {
#pragma unroll
            for (int i = 0; i < TURNS; i++)
                if (first + i * FED_ENDS < ends) {
                    e[i] = fed_end_of<CLASS>(a, tile(i), first + i * FED_ENDS - second(i) * pairs);
                    if (F8)
                        scale[i] = fed_scale(a, d.tile, e[i]);
                }
            if (!F8 && a.scaled && !knows)
                fed_factors<NT>(a, p.factor, mine, [&](int t) {
                    float s = 0;

#pragma unroll 4
                    for (int i = lane; i < a.n_ss; i += WARP)
                        s += a.ss[(size_t)t * a.n_ss + i];
                    return s;
                });
            knows = true;
        } else if (d.tile == NO_TILE) {
            knows = false;
            if (F8)
                fed_clear(a, mine * WARP + lane);
            if (ph.gives)
                __threadfence(); /* what it added to and cleared, long before others do */
            named_sync(ENDERS, FED_ENDS * WARP);
            if (!ph.gives && mine == 0 && lane == 0)
                gate_arrive(p.a->gate);
        }
        bar_wait(p.full + k * 8, round);
        if (d.tile >= 0) {
#pragma unroll
            for (int i = 0; i < TURNS; i++)
                if (first + i * FED_ENDS < ends)
                    fed_end<CLASS>(a, p.scratch + (k * parts + second(i) * sums) * part, p.factor,
                                   tile(i), first + i * FED_ENDS - second(i) * pairs, e[i],
                                   scale[i], tag + 1);
            first = (first - ends) % FED_ENDS;
            first += first < 0 ? FED_ENDS : 0;
        }
        const dev_phase &then = phases[(d.phase + 1) % PHASES_KEPT];
        const stream_args &next = then.u.s;

        if (d.tile == NO_TILE)
            fed_wait_brought(r.brought, d.phase + 1);
        const bool early = !F8 && d.tile == NO_TILE && ph.gives && then.kind == PHASE_PRODUCT &&
                           next.take_ss;

        __syncwarp();
        if (lane == 0)
            bar_arrive(p.empty + k * 8); /* from here on ph may be another one */
        if (d.tile == LAST)
            break;
        if (early) { /* as the words come, which is before there are sums to be scaled */
            fed_factors<NT>(next, p.factor, mine, [&](int t) {
                return fed_taken(next.take_ss + (size_t)t * next.n_ss, next.n_ss, tag + 1);
            });
            knows = true;
        }
        if (++k == buffers)
            k = 0, round ^= 1;
    }
}

/* A lane's value of one row's tile, with all that its end takes to know: what is found before the sums
 * are there does not lie between them and those that wait. */
struct one_end {
    float *y;        /* the row's element */
    uint64_t *x, *s; /* where words of the next phase's inputs and squares go; NULL: by memory */
    float old, by;
    bool mine; /* the lane ends it; others have but a share of the sum */
};

template <int CLASS>
__device__ static __forceinline__ one_end one_end_of(const stream_args &a, int tile)
{
    constexpr int rows = fed_records<CLASS>() ? (int)DEV_TILE : 8; /* of a gated tile */
    const int lane = threadIdx.x % WARP;
    one_end e = {};

    if (a.swiglu) {
        const int row = tile * rows + lane % rows;

        e.mine = lane < rows && row < a.out[0].w.rows;
        e.x = a.give_x ? a.give_x + row / 2 : NULL;
        return e;
    }
    int in;
    const dev_out &out = out_of(a, tile, &in);
    const int row = in * DEV_TILE + lane % DEV_TILE;

    e.mine = lane < DEV_TILE && row < out.w.rows;
    e.y = out.y + row;
    if (a.give_x && !a.norm) /* to attention */
        e.x = a.give_x + (size_t)tile * DEV_TILE + lane % DEV_TILE;
    else if (a.give_x)
        e.x = a.give_x + row / 2, e.s = a.give_ss + in;
    if (a.add && e.mine)
        e.old = load_shared(e.y);
    if (a.norm && e.mine)
        e.by = a.norm[row];
    return e;
}

/* fed_end() of it. sum: the warps'. Both halves of a warp add up half of them, each in the order of
 * the warps. */
template <int CLASS>
__device__ static __forceinline__ void one_end_now(const stream_args &a, const float *sum,
                                                   float factor, int tile, const one_end &e,
                                                   unsigned tag)
{
    enum { PARTS = STREAM_WARPS / 2 };
    const int lane = threadIdx.x % WARP;
    const float *const from = sum + lane / DEV_TILE * PARTS * DEV_TILE + lane % DEV_TILE;
    float v = from[0];

#pragma unroll
    for (int o = 1; o < PARTS; o++)
        v += from[o * DEV_TILE];
    /* the next product's input: the lane's value and its neighbour's */
    const auto give = [&](float v) {
        const uint32_t mine = to16(v, a.mode16);
        const uint32_t pair = mine | __shfl_xor_sync(~0u, mine, 1) << 16;

        if (e.mine && lane % 2 == 0)
            tagged_store(e.x, pair, tag);
    };
    const float other = __shfl_xor_sync(~0u, v, DEV_TILE);

    if (a.swiglu) {
        const float gate = v * factor;
        const float gated = silu(gate) * (other * factor);

        if (e.x)
            give(e.mine ? gated : 0);
        else if (e.mine)
            put_next(a, { 0, tile * DEV_TILE + lane }, gated);
        return;
    }
    v = (v + other) * factor;
    if (e.x && !a.norm) {
        if (e.mine)
            tagged_store(e.x, __float_as_uint(v), tag);
        return;
    }
    v += e.old;
    if (e.x) /* first, for others wait for it */
        give(e.mine ? v * e.by : 0);
    if (a.norm) {
        float s = e.mine ? v * v : 0;

        for (int d = DEV_TILE / 2; d; d /= 2)
            s += __shfl_xor_sync(~0u, s, d);
        int in;

        out_of(a, tile, &in);
        if (lane == 0 && e.x)
            tagged_store(e.s, __float_as_uint(s), tag);
        else if (lane == 0)
            a.ss_out[in] = s;
        if (e.mine && !e.x)
            put_next(a, { 0, in * DEV_TILE + lane }, v * e.by);
    }
    if (e.mine)
        *e.y = v;
}

/* fed_ends() of one row: each warp ends every third tile, and finds the norm's factor for itself. With
 * a block's last tile of a phase that ends too. */
template <int CLASS>
__device__ static __forceinline__ void fed_ends_one(const program &p, const fed_ring &r,
                                                    const dev_phase *phases)
{
    const int lane = threadIdx.x % WARP, mine = threadIdx.x / WARP - STREAM_WARPS - 1;
    const int buffers = 1 << p.a->buffers;
    bool knows = false; /* the factor */
    float factor = 1;
    int next = 0; /* the warp that ends the next tile */
    const auto factor_of = [&](const stream_args &a, float s) {
        factor = 1 / sqrtf(warp_sum(s) / (float)a.D + a.eps);
        knows = true;
    };

#pragma unroll 1
    for (int k = 0, round = 0;;) {
        bar_wait(r.begun + k * 8, round);
        const fed_done d = r.done[k];
        const dev_phase &ph = phases[d.phase % PHASES_KEPT];
        const dev_phase &then = phases[(d.phase + 1) % PHASES_KEPT];
        const stream_args &a = ph.u.s, &after = then.u.s;
        const unsigned tag = p.tag + d.phase; /* of what the phase takes; it gives the next */
        const bool is_tile = d.tile >= 0;
        const bool last = d.tile == NO_TILE || (is_tile && d.tile & FED_LAST);
        const bool gives = last && ph.gives;

        if (is_tile && next == mine) {
            const int tile = d.tile & ~FED_LAST;
            const one_end e = one_end_of<CLASS>(a, tile);

            if (!knows) {
                float s = 0;

                if (a.scaled)
                    for (int i = lane; i < a.n_ss; i += WARP)
                        s += a.ss[i];
                if (a.scaled)
                    factor_of(a, s);
                else
                    factor = 1, knows = true;
            }
            bar_wait(p.full + k * 8, round);
            one_end_now<CLASS>(a, p.scratch + k * STREAM_WARPS * DEV_TILE, factor, tile, e,
                               tag + 1);
        } else if (last || !is_tile) {
            /* all warps have seen the place free before it is so again */
            bar_wait(p.full + k * 8, round);
        }
        if (last)
            fed_wait_brought(r.brought, d.phase + 1);
        const bool early = gives && then.kind == PHASE_PRODUCT && after.scaled;

        if (is_tile)
            next = next == FED_ENDS - 1 ? 0 : next + 1;
        __syncwarp();
        if (lane == 0)
            bar_arrive(p.empty + k * 8); /* from here on ph may be another one */
        if (d.tile == LAST)
            break;
        if (last) {
            knows = false;
            if (gives)
                __threadfence(); /* what it added to, long before others do */
            named_sync(ENDERS, FED_ENDS * WARP);
            if (!gives && mine == 0 && lane == 0)
                gate_arrive(p.a->gate);
        }
        if (early) /* as the words come, which is before there are sums to be scaled */
            factor_of(after, fed_taken(after.take_ss, after.n_ss, tag + 1));
        if (++k == buffers)
            k = 0, round ^= 1;
    }
}

/* Until those that end tiles are through with that turn. */
__device__ static __forceinline__ void fed_wait_read(const program &p, int turn)
{
    bar_wait(p.empty + (turn & ((1 << p.a->buffers) - 1)) * 8, turn >> p.a->buffers & 1);
}

/* The tile of this phase is begun, or what stands for one: those that end it
 * ask for what they need. By the first warp. */
__device__ static __forceinline__ void fed_begin(const program &p, const fed_ring &r, int turn,
                                                 const fed_done &d)
{
    const int k = turn & ((1 << p.a->buffers) - 1), use = turn >> p.a->buffers;

    if (thread_now())
        return;
    if (use > 0)
        bar_wait(p.empty + k * 8, (use - 1) & 1);
    r.done[k] = d;
    bar_arrive(r.begun + k * 8);
}

/* This warp's sums of a tile, in N parts, to those of the others; or nothing. */
template <int NT, int N>
__device__ static __forceinline__ void fed_give(const program &p, int turn, int T,
                                                const float (*acc)[NT][4])
{
    const int thread = thread_now(), warp = thread / WARP, lane = thread % WARP;
    const int g = lane / 4, c = lane % 4;
    const int k = turn & ((1 << p.a->buffers) - 1), use = turn >> p.a->buffers;
    float *const sum = p.scratch + (k * STREAM_WARPS + warp) * T * DEV_TILE;

    if (use > 0)
        bar_wait(p.empty + k * 8, (use - 1) & 1);
    if (acc)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (n * 8 + 2 * c + i % 2 < T)
                    sum[(n * 8 + 2 * c + i % 2) * DEV_TILE + g + i / 2 * 8] =
                        N == 1 ? acc[0][n][i] : acc[0][n][i] + acc[N - 1][n][i];
    __syncwarp();
    if (lane == 0)
        bar_arrive(p.full + k * 8);
}

/* What stands for a tile. */
template <int NT>
__device__ static __forceinline__ void fed_mark(const program &p, const fed_ring &r, int turn,
                                                int T, const fed_done &d)
{
    fed_begin(p, r, turn, d);
    fed_give<NT, 1>(p, turn, T, (const float(*)[NT][4])NULL);
}

/* What of x is a warp's: of so many columns of a group those from `at` on. stride: of kept rows. */
struct fed_share {
    int cols, at, stride, lane;
};

/* How rows of x come to shared memory as they are, COLS columns of each group a warp. Other warps
 * have those of their own, but where two teams share x: then two write the same. */
template <int COLS> struct fed_rows {
    enum { RUNS = 2, GROUPS = RUNS * (WARP * 4 / COLS) }; /* that take() takes at once */

    /* All of a warp's columns, in the background. */
    __device__ static __forceinline__ void copy(const stream_args &a, uint16_t *to,
                                                const fed_share &mine)
    {
        enum { EACH = COLS / 8 }; /* 16 bytes, of a group */
        const int kp = a.out[0].w.kp;

        for (int t = 0; t < a.T; t++)
#pragma unroll 4
            for (int i = mine.lane; i < (kp + mine.cols - 1) / mine.cols * EACH; i += WARP) {
                const int at = i / EACH * mine.cols + mine.at + i % EACH * 8;

                if (at < kp)
                    copy_async((uint32_t)__cvta_generic_to_shared(to + t * mine.stride + at),
                               a.x + (size_t)t * kp + at);
            }
        copy_commit();
    }

    /* Those of the groups that begin at column k, which come by tagged words: once they are there.
     * Four values a lane and group. */
    __device__ static __forceinline__ void take(const stream_args &a, uint16_t *to,
                                                const fed_share &mine, int k, unsigned tag)
    {
        enum { LANES = COLS / 4 }; /* of a group */
        const int kp = a.out[0].w.kp, lane = mine.lane, apart = GROUPS / RUNS * mine.cols;
        const int at = k + lane / LANES * mine.cols + mine.at + lane % LANES * 4;
        const int n = at >= kp ? 0 : at + apart >= kp ? 1 : 2;

#pragma unroll 1
        for (int t = 0; t < a.T; t++) {
            uint2 w[RUNS];

            tagged_wait<RUNS>(w, a.take_x + ((size_t)t * kp + at) / 2, apart / 2, n, tag);
#pragma unroll
            for (int i = 0; i < RUNS; i++)
                if (i < n)
                    *(uint2 *)(to + t * mine.stride + at + i * apart) = w[i];
        }
        __syncwarp();
    }
};

/* A phase begins: this warp's columns of x to shared memory, if they are kept, as X has them. How many
 * columns of each row are there then: what is left comes as it is needed, but with more rows there
 * are no registers for that. */
template <class X, int NT>
__device__ static __forceinline__ int fed_open(const program &p, const fed_ring &r,
                                               const stream_args &a, const fed_share &mine,
                                               int kp, bool near, int thread, const int &phase)
{
    int ready = kp;

    if (a.take_x)
        for (ready = 0; ready < (NT == 1 ? 1 : kp);
             ready += X::GROUPS * mine.cols)
            X::take(a, p.inputs, mine, ready, p.tag + phase);
    else if (near)
        X::copy(a, p.inputs, mine);
    copy_wait<0>();
    __syncwarp();
    if (thread == 0)
        *r.begins = *r.begins + 1;
    return ready;
}

/* A phase's tiles are done, of which the warp's turns are up to `turn`. ended: those that end tiles
 * know it. */
template <class X, int NT>
__device__ static __forceinline__ void fed_close(const program &p, const fed_ring &r,
                                                 const stream_args &a, const fed_share &mine, int kp,
                                                 int ready, const int &phase,
                                                 const int &more, int &turn, bool ended = false)
{
    /* a block without tiles is not to be phases ahead of others */
    for (; ready < kp; ready += X::GROUPS * mine.cols)
        X::take(a, p.inputs, mine, ready, p.tag + phase);
    /* attention, for which no block waits at a gate, may have the sums' place next; not until the
     * mark is read, for the warps that end tiles wait there for what they wrote */
    if (more && a.give_x && !a.norm && !a.swiglu && turn != r.now.turn && p.a->attn == 0)
        fed_wait_read(p, turn - 1);
    if (more && !ended)
        fed_mark<NT>(p, r, turn++, a.T, { NO_TILE, phase });
}

/* load_inputs of N blocks of a kept row, from the lane's columns on. */
template <int KIND, int NT, int N>
__device__ static __forceinline__ void load_kept(uint4 *into, const uint8_t *row, int stride, int T,
                                                 int g)
{
#pragma unroll
    for (int i = 0; i < NT; i++)
        if (i * 8 + g < T)
#pragma unroll
            for (int b = 0; b < N; b++) {
                const uint8_t *const at = row + i * 16 * stride + b * 64;

                if constexpr (KIND == DEV_U6) {
                    const uint2 lo = *(const uint2 *)at, hi = *(const uint2 *)(at + 32);

                    into[b * NT + i] = make_uint4(lo.x, lo.y, hi.x, hi.y);
                } else {
                    into[b * NT + i] = *(const uint4 *)at;
                }
            }
}

/* phase: its number, in shared memory, for registers are few; more: others follow */
template <int KIND, int NT>
__device__ static __forceinline__ void fed_phase(const program &p, fed_ring &r,
                                                 const stream_args &a, const int &phase,
                                                 const int &more)
{
    typedef fed_rows<FED_COLS> X;
    const int thread = thread_now(), warp = few<NT>(thread / WARP), lane = few<NT>(thread % WARP);
    const int kp = few<NT>(a.out[0].w.kp), T = few<NT>(a.T), groups = p.a->groups;
    const int stride = few<NT>(a.kept ? a.kept / 2 : kp), g = few<NT>(lane / 4);
    const uint32_t landed = few<NT>(r.landed), freed = few<NT>(r.freed);
    const uint32_t mine =
        few<NT>((uint32_t)(g * FED_PITCH + warp * (FED_COLS * 2) + lane % 4 * 16));
    /* this lane's row of x, if it is kept */
    const uint32_t kept =
        few<NT>((uint32_t)((uint8_t *)p.inputs - r.at) + (g * stride + warp * FED_COLS) * 2);
    const uint16_t *const far = a.x + warp * FED_COLS;
    const bool near = a.kept > 0;
    const fed_share share = { FED_GROUP_COLS, warp * FED_COLS, stride, lane };
    int place = few<NT>(r.now.place), turn = few<NT>(r.now.turn);
    uint4 x[FED_COLS / 32 * NT] = {};    /* rows beyond T stay zeros */
    uint4 then[FED_COLS / 32 * NT] = {}; /* those from column `ahead` on, if they are far */
    int ahead = -1;
    int ready = fed_open<X, NT>(p, r, a, share, kp, near, thread, phase);

#pragma unroll 1
    for (;;) {
        bar_wait(landed + slot_of(place) * 8, round_of(place));
        const int begun = r.tile[slot_of(place)], tile = begun & ~FED_LAST;

        bool last = begun < 0;

        if (last) {
            __syncwarp();
            if (lane == 0)
                bar_arrive(freed + slot_of(place) * 8);
            place = fed_next(place, groups);
            break;
        }
        fed_begin(p, r, turn, { tile, phase });
        float acc[2][NT][4] = {};
#pragma unroll 1
        for (int k = 0;;) {
            const bool there = k + warp * FED_COLS < kp;

            if (NT == 1 && k >= ready) { /* of the first tile */
                X::take(a, p.inputs, share, k, p.tag + phase);
                ready += X::GROUPS * FED_GROUP_COLS;
            }
            if (near) {
                if (there)
                    load_kept<KIND, NT, FED_COLS / 32>(x, r.at + kept + k * 2 + lane % 4 * 16,
                                                        stride, T, g);
            } else {
                const int next = k + FED_GROUP_COLS < kp ? k + FED_GROUP_COLS : 0;

                if (k != ahead && there)
                    load_inputs<KIND, NT, FED_COLS / 32>(then, far + k, stride, T);
#pragma unroll
                for (int i = 0; i < FED_COLS / 32 * NT; i++)
                    x[i] = then[i];
                if (next + warp * FED_COLS < kp)
                    load_inputs<KIND, NT, FED_COLS / 32>(then, far + next, stride, T);
                ahead = next;
            }
            if (there)
                fed_group<KIND, NT>(acc, r.at + (mine + slot_of(place) * FED_GROUP), x);
            const bool ends = k + FED_GROUP_COLS >= kp;

            if (ends)
                last = r.tile[slot_of(place)] & FED_LAST;
            __syncwarp();
            if (lane == 0)
                bar_arrive(freed + slot_of(place) * 8);
            place = fed_next(place, groups);
            k += FED_GROUP_COLS;
            if (ends)
                break;
            bar_wait(landed + slot_of(place) * 8, round_of(place));
        }
        fed_give<NT, 2>(p, turn++, T, acc);
        if (last)
            break;
    }
    fed_close<X, NT>(p, r, a, share, kp, ready, phase, more, turn);
    r.now.place = place, r.now.turn = turn;
}
