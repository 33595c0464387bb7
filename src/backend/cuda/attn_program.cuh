/* attn_program.cuh - attention inside of programs: few rows, where what counts is the time from the
 * queries to the sums. A block has a row, some of the query heads of a kv head, and a span of
 * slots; each warp all of the heads and some of the slots, so that a head's sums are the same
 * however many others a block has. What was in the cache before the pass is asked for before the
 * block waits for the queries; the pass's own keys and values go by shared memory. */
#pragma once

#include "backend/cuda/attn.cuh"
#include "backend/cuda/codes.cuh"

/* A row of the batch: its slot, position and sequence, and that sequence's blocks. */
struct attn_row {
    const int32_t *table;
    int slot, pos, seq;
};

/* The item number i of a phase. */
struct attn_place {
    int t, y, split; /* row, part of the query heads, span */
    int kh, h0, n_heads;
    int from, to; /* slots; none: to <= from */
};

__device__ static __forceinline__ attn_place attn_place_of(const attn_phase &p, const attn_row *row,
                                                           int i)
{
    const int ny = p.a.K * p.parts, group = p.a.H / p.a.K;
    attn_place at;

    at.t = i / (ny * p.a.splits);
    at.y = i / p.a.splits % ny;
    at.split = i % p.a.splits;
    at.kh = at.y / p.parts;
    at.h0 = at.kh * group + at.y % p.parts * p.heads;
    at.n_heads = min(p.heads, (at.kh + 1) * group - at.h0);
    at.from = at.split * p.a.span;
    at.to = min(row[at.t].slot + 1, at.from + p.a.span);
    return at;
}

__device__ static inline int attn_places(const attn_phase &p)
{
    return p.rows * p.a.K * p.parts * p.a.splits;
}

/* How a warp's lanes share heads and slots: `lanes` have a slot, PER elements each. */
struct attn_lanes {
    int lanes, lane, mine, stride; /* mine: of `stride` slots at a time */
    bool live;
};

__device__ static __forceinline__ attn_lanes attn_lanes_of(int hd)
{
    attn_lanes l = { 1 };

    while (l.lanes * PER < hd)
        l.lanes *= 2;
    l.lane = threadIdx.x % l.lanes;
    l.mine = threadIdx.x / l.lanes;
    l.stride = STREAM_WARPS * WARP / l.lanes;
    l.live = l.lane * PER < hd;
    return l;
}

/* A lane's part of some slots. */
enum { SOME_SLOTS = 2 };
template <int ENC> struct some_slots {
    packet<ENC> k[SOME_SLOTS], v[SOME_SLOTS];
};

/* Asks for keys or values of those from s0 on, of `to` in all. */
template <int ENC>
__device__ static __forceinline__ void ask_slots(packet<ENC> x[SOME_SLOTS], const uint8_t *cache,
                                                 const attn_args &a, const int32_t *table, int kh,
                                                 const attn_lanes &l, int s0, int to)
{
    const size_t in = l.live ? l.lane * PER : 0;

#pragma unroll
    for (int j = 0; j < SOME_SLOTS; j++) {
        const int s = min(s0 + j * l.stride + l.mine, to - 1);

        x[j].load(cache + (cache_at(table, s, a.K, kh, a.hd) + in) * (packet<ENC>::bytes / PER));
    }
}

/* Values in shared memory are read again after this: registers are few. */
__device__ static __forceinline__ void forget()
{
    asm volatile("" ::: "memory");
}

/* Whether row t's key and value are this pass's and among the item's slots. */
__device__ static inline bool is_fresh(const attn_row *row, int t, const attn_place &at)
{
    return row[t].seq == row[at.t].seq && row[t].slot >= at.from && row[t].slot < at.to;
}

/* A warp's heads of an item: of queries, then a key and a value of each row of the pass. */
struct attn_head {
    int t;
    bool query, value, there;
};

__device__ static __forceinline__ attn_head attn_head_of(const attn_phase &p, const attn_row *row,
                                                         const attn_place &at, int i)
{
    const int in = i - at.n_heads, rows = p.r.q ? p.rows : 0;
    attn_head h = { in < 0 ? at.t : in / 2, in < 0, in >= 0 && in % 2 };

    h.there = in < 0 || (in < 2 * rows && is_fresh(row, h.t, at));
    return h;
}

/* Queries of an item and the pass's own keys and values among its slots to shared memory, rotated
 * if need be. Each row's go to the cache once. */
template <int ENC>
__device__ static __forceinline__ void ready_item(const attn_phase &p, const attn_row *row,
                                                  const attn_place &at, float *queries,
                                                  uint8_t *fresh, const float2 *turns)
{
    const rope_args &r = p.r;
    const int hd = p.a.hd, half = hd / 2, rows = r.q ? p.rows : 0;
    const bool pairs = r.q && r.interleaved;

#pragma unroll 1
    for (int i = threadIdx.x / WARP; i < at.n_heads + 2 * rows; i += STREAM_WARPS) {
        const attn_head h = attn_head_of(p, row, at, i);

        if (!h.there)
            continue;
        const float *const x = h.query ? p.a.q + ((size_t)h.t * p.a.H + at.h0 + i) * hd
                                       : (h.value ? r.v : r.k) + ((size_t)h.t * r.K + at.kh) * hd;
        const bool keep = !h.query && h.t == at.t && at.y % p.parts == 0;
        const size_t to = keep ? cache_at(row[h.t].table, row[h.t].slot, r.K, at.kh, hd) : 0;
        const float2 *const turn = turns + h.t * half;

#pragma unroll 2
        for (int k = threadIdx.x % WARP; k < half; k += WARP) {
            const int first = pairs ? 2 * k : k, second = pairs ? 2 * k + 1 : k + half;
            float2 v = make_float2(x[first], x[second]);

            if (r.q && !h.value) {
                const float2 by = turn[k];

                v = make_float2(v.x * by.x - v.y * by.y, v.y * by.x + v.x * by.y);
            }
            if (h.query) {
                queries[i * hd + first] = v.x * p.a.scale;
                queries[i * hd + second] = v.y * p.a.scale;
                continue;
            }
            const int in = (2 * h.t + h.value) * hd;

            store(fresh, in + first, v.x, ENC);
            store(fresh, in + second, v.y, ENC);
            if (keep) {
                store(h.value ? r.vc : r.kc, to + first, v.x, ENC);
                store(h.value ? r.vc : r.kc, to + second, v.y, ENC);
            }
        }
    }
}

/* Those of the slots that are the pass's own. */
template <int ENC>
__device__ static __forceinline__ void take_fresh(some_slots<ENC> &x, const attn_phase &p,
                                                  const attn_row *row, const attn_place &at,
                                                  const attn_lanes &l, int s0, const uint8_t *fresh)
{
    const int hd = p.a.hd;

#pragma unroll 1
    for (int t = 0; t < p.rows; t++) {
        const uint8_t *const from =
            fresh + (size_t)(2 * t * hd + l.lane * PER) * (packet<ENC>::bytes / PER);

        if (!l.live || !is_fresh(row, t, at))
            continue;
#pragma unroll
        for (int j = 0; j < SOME_SLOTS; j++)
            if (s0 + j * l.stride + l.mine == row[t].slot) {
                x.k[j].load(from);
                x.v[j].load(from + (size_t)hd * (packet<ENC>::bytes / PER));
            }
    }
}

/* Slots from s0 to `to` into one head's state; q: the lane's part of the query. */
template <int ENC>
__device__ static __forceinline__ void
see_slots(state &st, const some_slots<ENC> &x, const float *q, const attn_lanes &l, int s0, int to)
{
    float score[SOME_SLOTS], max = st.m;

#pragma unroll
    for (int j = 0; j < SOME_SLOTS; j++) {
        float f[PER];

        x.k[j].get(f);
        score[j] = 0;
#pragma unroll
        for (int i = 0; i < PER; i++)
            score[j] = fmaf(q[i], f[i], score[j]);
    }
#pragma unroll
    for (int d = WARP / 2; d; d /= 2)
        if (d < l.lanes)
#pragma unroll
            for (int j = 0; j < SOME_SLOTS; j++)
                score[j] += __shfl_xor_sync(~0u, score[j], d);
#pragma unroll
    for (int j = 0; j < SOME_SLOTS; j++) {
        if (s0 + j * l.stride + l.mine >= to)
            score[j] = -INFINITY;
        max = fmaxf(max, score[j]);
    }
    const float less = max == -INFINITY ? 0 : max; /* nothing seen yet */
    const float by = exp2f(st.m - less);

    st.m = max;
    st.l *= by;
#pragma unroll
    for (int i = 0; i < PER; i++)
        st.acc[i] *= by;
#pragma unroll
    for (int j = 0; j < SOME_SLOTS; j++) {
        float f[PER];

        score[j] = exp2f(score[j] - less);
        st.l += score[j];
        x.v[j].get(f);
#pragma unroll
        for (int i = 0; i < PER; i++)
            st.acc[i] = fmaf(score[j], f[i], st.acc[i]);
    }
}

/* The warps' states of one head, from shared memory: element by element four threads that have some
 * of the warps each. sums: [STREAM_WARPS][hd + 4], then maxima, then sums of weights. */
__device__ static __forceinline__ void merge_warps(const attn_phase &p, const attn_place &at,
                                                   int head, int splits, const float *sums)
{
    enum { BESIDE = 4, WARPS = STREAM_WARPS / BESIDE };
    const attn_args &a = p.a;
    const int stride = a.hd + 4;
    const float *const m = sums + STREAM_WARPS * stride, *const n = m + STREAM_WARPS;

    for (int i = threadIdx.x; i < BESIDE * a.hd; i += STREAM_WARPS * WARP) {
        const int e = i / BESIDE, first = i % BESIDE * WARPS;
        float max = -INFINITY, l = 0, v = 0;

#pragma unroll
        for (int o = 0; o < STREAM_WARPS; o++)
            max = fmaxf(max, m[o]);
#pragma unroll
        for (int o = 0; o < WARPS; o++) {
            const float by = exp2f(m[first + o] - max);

            l = fmaf(n[first + o], by, l);
            v = fmaf(sums[(first + o) * stride + e], by, v);
        }
#pragma unroll
        for (int d = 1; d < BESIDE; d *= 2) {
            l += __shfl_xor_sync(~0u, l, d);
            v += __shfl_xor_sync(~0u, v, d);
        }
        if (first)
            continue;
        if (splits == 1) {
            put(a, at.t, at.h0 + head, e, v / l);
            continue;
        }
        float *const out =
            a.part + (((size_t)at.t * a.H + at.h0 + head) * a.splits + at.split) * (a.hd + 2);

        out[e] = v;
        if (e == 0)
            out[a.hd] = max, out[a.hd + 1] = l;
    }
}

/* An item of at most HEADS heads: all threads of a block, but for the warps that feed. at: where
 * the item's place is kept. scratch: queries, the pass's own keys and values, the warps' states;
 * free once the block has stopped. */
template <int ENC, int HEADS>
__device__ static __forceinline__ void
attn_place_sums(const attn_phase &p, const attn_row *row, const attn_place &place, attn_place &at,
                float *scratch, const float2 *turns, const gate_stop &stop)
{
    const attn_args &a = p.a;
    const attn_lanes l = attn_lanes_of(a.hd);
    constexpr bool AHEAD = HEADS == 1; /* there are registers for the next values too */
    some_slots<ENC> x, then;
    state st[HEADS];

    const int step = l.stride * SOME_SLOTS;
    const auto ask = [&](packet<ENC> *to, const uint8_t *cache, const attn_place &of, int s0) {
        ask_slots<ENC>(to, cache, a, row[of.t].table, of.kh, l, s0, of.to);
    };

    ask(x.k, a.k, place, place.from);
    ask(x.v, a.v, place, place.from);
    ask(then.k, a.k, place, place.from + step);
    if (AHEAD)
        ask(then.v, a.v, place, place.from + step);
    if (threadIdx.x == 0)
        at = place;
    stop_at(stop, STREAM_WARPS * WARP);
    forget();
    uint8_t *const fresh = (uint8_t *)(scratch + HEADS * a.hd);

    ready_item<ENC>(p, row, at, scratch, fresh, turns);
    named_sync(WORKERS, STREAM_WARPS * WARP);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        st[h].m = -INFINITY, st[h].l = 0;
#pragma unroll
        for (int i = 0; i < PER; i++)
            st[h].acc[i] = 0;
    }
    /* every lane of the warp goes round as often: shuffles need them all */
#pragma unroll 1
    for (int s0 = at.from;;) {
        forget();
        if (p.r.q)
            take_fresh<ENC>(x, p, row, at, l, s0, fresh);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float q[PER] = {};

            if (l.live && h < at.n_heads) {
                const float4 *const from = (const float4 *)(scratch + h * a.hd) + l.lane * 2;
                const float4 q4[2] = { from[0], from[1] };
                const float by = packet<ENC>::by; /* of the keys */

#pragma unroll
                for (int i = 0; i < 2; i++) {
                    q[4 * i] = q4[i].x * by, q[4 * i + 1] = q4[i].y * by;
                    q[4 * i + 2] = q4[i].z * by, q[4 * i + 3] = q4[i].w * by;
                }
            }
            see_slots<ENC>(st[h], x, q, l, s0, at.to);
        }
        s0 += step;
        if (s0 >= at.to)
            break;
#pragma unroll
        for (int j = 0; j < SOME_SLOTS; j++) {
            x.k[j] = then.k[j];
            if (AHEAD)
                x.v[j] = then.v[j];
        }
        ask(AHEAD ? then.v : x.v, a.v, at, AHEAD ? s0 + step : s0);
        ask(then.k, a.k, at, s0 + step);
    }
    const int splits = (row[at.t].slot + a.span) / a.span; /* that this row has: at most a.splits */

#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        const int warp = threadIdx.x / WARP, in_warp = threadIdx.x % WARP, stride = a.hd + 4;
        float *const sums = scratch + (HEADS + (p.r.q ? p.rows : 0)) * a.hd;

        if (h >= at.n_heads)
            break;
        forget();
        /* groups of lanes of a warp */
        for (int d = l.lanes; d < WARP; d *= 2) {
            const float m = __shfl_xor_sync(~0u, st[h].m, d), n = __shfl_xor_sync(~0u, st[h].l, d);
            float acc[PER];

#pragma unroll
            for (int i = 0; i < PER; i++)
                acc[i] = __shfl_xor_sync(~0u, st[h].acc[i], d);
            merge(st[h], m, n, acc);
        }
        if (h)
            named_sync(WORKERS, STREAM_WARPS * WARP);
        if (in_warp == 0) {
            sums[STREAM_WARPS * stride + warp] = st[h].m;
            sums[STREAM_WARPS * (stride + 1) + warp] = st[h].l;
        }
        if (in_warp < l.lanes && l.live) {
            const float by = packet<ENC>::by;

#pragma unroll
            for (int i = 0; i < 2; i++)
                ((float4 *)(sums + warp * stride))[l.lane * 2 + i] =
                    make_float4(st[h].acc[4 * i] * by, st[h].acc[4 * i + 1] * by,
                                st[h].acc[4 * i + 2] * by, st[h].acc[4 * i + 3] * by);
        }
        named_sync(WORKERS, STREAM_WARPS * WARP);
        merge_warps(p, at, h, splits, sums);
    }
    if (splits > 1 && last_of(a.done + at.t * a.K * p.parts + at.y, splits, STREAM_WARPS * WARP))
        merge_splits<PROGRAM_HEADS, STREAM_WARPS>(a, at.t, at.h0, at.n_heads, splits);
}

/* Asks for keys and values of the block's first item beyond its first slots, to the second-level
 * cache, while the blocks wait for one another. One thread. */
__device__ static inline void attn_ahead(const attn_phase &p, const attn_row *row)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    (void)p, (void)row;
#else
    enum { MOST = 8 };
    const int bytes = KV_BLOCK * p.a.hd * (p.enc == DEV_ENC_F8_E4M3 ? 1 : 2);

    if ((int)blockIdx.x >= attn_places(p))
        return;
    const attn_place at = attn_place_of(p, row, blockIdx.x);

    for (int s = at.from + KV_BLOCK, i = 0; s < at.to && i < MOST; s += KV_BLOCK, i++) {
        const size_t from = ((size_t)row[at.t].table[s / KV_BLOCK] * p.a.K + at.kh) * bytes;

        l2_prefetch(p.a.k + from, bytes);
        l2_prefetch(p.a.v + from, bytes);
    }
#endif
}

/* stop: before the first of the block's items reads queries, or anything of this pass. */
template <int ENC>
__device__ static __forceinline__ void attn_items(const attn_phase &p, const attn_row *row,
                                                  float *scratch, const float2 *turns,
                                                  gate_stop stop)
{
    __shared__ attn_place kept[2]; /* one is read while the next is written */
    const int n = attn_places(p);
    int turn = 0;

    if (threadIdx.x == WARP)
        attn_ahead(p, row);
#pragma unroll 1
    for (int i = blockIdx.x; i < n; i += gridDim.x) {
        const attn_place at = attn_place_of(p, row, i);

        if (at.from >= at.to)
            continue;
        if (p.heads == 1)
            attn_place_sums<ENC, 1>(p, row, at, kept[turn], scratch, turns, stop);
        else
            attn_place_sums<ENC, PROGRAM_HEADS>(p, row, at, kept[turn], scratch, turns, stop);
        turn ^= 1;
        stop.target = 0;
    }
    if (stop.target)
        stop_at(stop, STREAM_WARPS * WARP);
}
