/* attn_program.cuh - attention inside of programs: few rows, where what counts is the time from the
 * queries to the sums. A block has a row, a kv head with up to PROGRAM_HEADS of its query heads,
 * and a span of slots; each warp two of the heads and some of the slots, so that a block of the
 * cache is asked for at once by all warps, and the number of the next one is known when it is
 * needed. */
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

__device__ static inline attn_place attn_place_of(const attn_phase &p, const attn_row *row, int i)
{
    const int ny = p.a.K * p.parts, group = p.a.H / p.a.K;
    attn_place at;

    at.t = i / (ny * p.a.splits);
    at.y = i / p.a.splits % ny;
    at.split = i % p.a.splits;
    at.kh = at.y / p.parts;
    at.h0 = at.kh * group + at.y % p.parts * PROGRAM_HEADS;
    at.n_heads = min((int)PROGRAM_HEADS, (at.kh + 1) * group - at.h0);
    at.from = at.split * p.a.span;
    at.to = min(row[at.t].slot + 1, at.from + p.a.span);
    return at;
}

__device__ static inline int attn_places(const attn_phase &p)
{
    return p.rows * p.a.K * p.parts * p.a.splits;
}

/* Two elements of a head, turned by an angle. */
__device__ static __noinline__ float2 turned(float2 x, float angle)
{
    float s, c;

    sincosf(angle, &s, &c);
    return make_float2(x.x * c - x.y * s, x.y * c + x.x * s);
}

/* The queries of an item to shared memory, rotated if need be; keys and values of the pass's own
 * rows among its slots to the cache: every item writes what it will read, the same from all. */
__device__ static inline void ready_item(const attn_phase &p, const attn_row *row,
                                         const attn_place &at, float *queries)
{
    const rope_args &r = p.r;
    const int hd = p.a.hd, half = hd / 2, rows = r.q ? p.rows : 0;

    /* a warp has a head of queries, of keys or of values at a time */
    for (int i = threadIdx.x / WARP; i < at.n_heads + 2 * rows; i += STREAM_WARPS) {
        const int in = i - at.n_heads, t = in < 0 ? at.t : in / 2, s = row[t].slot;
        const bool value = in >= 0 && in % 2;

        if (in >= 0 && (row[t].seq != row[at.t].seq || s < at.from || s >= at.to))
            continue;
        const float *x = in < 0 ? p.a.q + ((size_t)t * p.a.H + at.h0 + i) * hd
                                : (value ? r.v : r.k) + ((size_t)t * r.K + at.kh) * hd;
        const size_t to = in < 0 ? 0 : cache_at(row[t].table, s, r.K, at.kh, hd);

#pragma unroll 2
        for (int k = threadIdx.x % WARP; k < half; k += WARP) {
            const int first = r.q && r.interleaved ? 2 * k : k;
            const int second = r.q && r.interleaved ? 2 * k + 1 : k + half;
            float2 v = make_float2(x[first], x[second]);

            if (r.q && !value)
                v = turned(v, (float)row[t].pos * r.inv_freq[k]);
            if (in < 0) {
                queries[i * hd + first] = v.x * p.a.scale;
                queries[i * hd + second] = v.y * p.a.scale;
            } else {
                store(value ? r.vc : r.kc, to + first, v.x, r.enc);
                store(value ? r.vc : r.kc, to + second, v.y, r.enc);
            }
        }
    }
}

/* An item: all threads of a block, but for the warp that feeds. scratch: queries, then as many
 * floats as a head of every warp takes. */
template <int ENC>
__device__ static void attn_place_sums(const attn_phase &p, const attn_row *row,
                                       const attn_place &at, float *scratch)
{
    enum {
        MINE = 2,
        BESIDE = PROGRAM_HEADS / MINE,
        SLOTS = 4
    }; /* heads; warps with the same slots */
    const attn_args &a = p.a;
    const int warp = threadIdx.x / WARP, in_warp = threadIdx.x % WARP, my_h = warp % BESIDE * MINE;
    const int32_t *const table = row[at.t].table;
    float *const merged = scratch + PROGRAM_HEADS * a.hd;
    int lanes = 1;

    while (lanes * PER < a.hd)
        lanes *= 2;
    const int lane = threadIdx.x % lanes, mine = (warp / BESIDE * WARP + in_warp) / lanes;
    const int stride = STREAM_WARPS / BESIDE * WARP / lanes; /* slots asked for at a time */
    const bool live = lane * PER < a.hd;
    const int last = (at.to - 1) / KV_BLOCK;
    float q[MINE][PER];
    state st[MINE];
    int block = table[at.from / KV_BLOCK]; /* stays for the first slots */

    ready_item(p, row, at, scratch);
    named_sync(WORKERS, STREAM_WARPS * WARP);
#pragma unroll
    for (int h = 0; h < MINE; h++) {
        st[h].m = -INFINITY, st[h].l = 0;
#pragma unroll
        for (int i = 0; i < PER; i++) {
            st[h].acc[i] = 0;
            q[h][i] =
                live && my_h + h < at.n_heads ? scratch[(my_h + h) * a.hd + lane * PER + i] : 0;
            if constexpr (packet<ENC>::by != 1)
                q[h][i] *= packet<ENC>::by; /* of the keys */
        }
    }
    /* every lane of the warp goes round as often: shuffles need them all */
    for (int s0 = at.from; s0 < at.to;) {
        packet<ENC> k[SLOTS], v[SLOTS];
        float score[MINE][SLOTS];
        /* the slots of one block of the cache, or fewer */
        const int next = min(s0 + stride * SLOTS, (s0 / KV_BLOCK + 1) * KV_BLOCK);
        const int to = min(next, at.to);
        const size_t base =
            (((size_t)block * a.K + at.kh) * KV_BLOCK * a.hd + (live ? lane * PER : 0)) *
            (packet<ENC>::bytes / PER);
        const uint8_t *const keys = a.k + base, *const values = a.v + base;

#pragma unroll
        for (int j = 0; j < SLOTS; j++) {
            const int s = min(s0 + j * stride + mine, to - 1) % KV_BLOCK;
            const int from = s * a.hd * (packet<ENC>::bytes / PER);

            k[j].load(keys + from);
            v[j].load(values + from);
        }
        block = table[min(next / KV_BLOCK, last)];
#pragma unroll
        for (int j = 0; j < SLOTS; j++) {
            float f[PER];

            k[j].get(f);
#pragma unroll
            for (int h = 0; h < MINE; h++) {
                float sum = 0;

#pragma unroll
                for (int i = 0; i < PER; i++)
                    sum = fmaf(q[h][i], f[i], sum);
                score[h][j] = sum;
            }
        }
        for (int d = lanes / 2; d; d /= 2)
#pragma unroll
            for (int h = 0; h < MINE; h++)
#pragma unroll
                for (int j = 0; j < SLOTS; j++)
                    score[h][j] += __shfl_xor_sync(~0u, score[h][j], d);
#pragma unroll
        for (int h = 0; h < MINE; h++) {
            float max = st[h].m;

#pragma unroll
            for (int j = 0; j < SLOTS; j++) {
                if (s0 + j * stride + mine >= to)
                    score[h][j] = -INFINITY;
                max = fmaxf(max, score[h][j]);
            }
            const float less = max == -INFINITY ? 0 : max; /* nothing seen yet */
            const float by = exp2f(st[h].m - less);

            st[h].m = max;
            st[h].l *= by;
#pragma unroll
            for (int i = 0; i < PER; i++)
                st[h].acc[i] *= by;
#pragma unroll
            for (int j = 0; j < SLOTS; j++) {
                score[h][j] = exp2f(score[h][j] - less);
                st[h].l += score[h][j];
            }
        }
#pragma unroll
        for (int j = 0; j < SLOTS; j++) {
            float f[PER];

            v[j].get(f);
#pragma unroll
            for (int h = 0; h < MINE; h++)
#pragma unroll
                for (int i = 0; i < PER; i++)
                    st[h].acc[i] = fmaf(score[h][j], f[i], st[h].acc[i]);
        }
        s0 = next;
    }
    const int splits = (row[at.t].slot + a.span) / a.span; /* that this row has: at most a.splits */
    const int stride_m = a.hd + 2;

#pragma unroll
    for (int h = 0; h < MINE; h++) {
        /* groups of lanes of a warp */
        for (int d = lanes; d < WARP; d *= 2) {
            const float m = __shfl_xor_sync(~0u, st[h].m, d), l = __shfl_xor_sync(~0u, st[h].l, d);
            float acc[PER];

#pragma unroll
            for (int i = 0; i < PER; i++)
                acc[i] = __shfl_xor_sync(~0u, st[h].acc[i], d);
            merge(st[h], m, l, acc);
        }
        float *const part = merged + warp * stride_m;

        if (h)
            named_sync(WORKERS, STREAM_WARPS * WARP);
        if (in_warp < lanes && live) {
            if (lane == 0)
                part[a.hd] = st[h].m, part[a.hd + 1] = st[h].l;
#pragma unroll
            for (int i = 0; i < PER; i++)
                part[lane * PER + i] = st[h].acc[i] * packet<ENC>::by;
        }
        named_sync(WORKERS, STREAM_WARPS * WARP);
        for (int i = threadIdx.x; i < BESIDE * a.hd; i += STREAM_WARPS * WARP) {
            const int pair = i >= a.hd, e = i - pair * a.hd, head = pair * MINE + h;
            const float *from = merged + pair * stride_m;
            float max = -INFINITY, l = 0, v = 0;

            if (head >= at.n_heads)
                break;
#pragma unroll
            for (int o = 0; o < STREAM_WARPS; o += BESIDE)
                max = fmaxf(max, from[o * stride_m + a.hd]);
#pragma unroll
            for (int o = 0; o < STREAM_WARPS; o += BESIDE) {
                const float by = exp2f(from[o * stride_m + a.hd] - max);

                l = fmaf(from[o * stride_m + a.hd + 1], by, l);
                v = fmaf(from[o * stride_m + e], by, v);
            }
            if (splits == 1) {
                put(a, at.t, at.h0 + head, e, v / l);
                continue;
            }
            float *out =
                a.part + (((size_t)at.t * a.H + at.h0 + head) * a.splits + at.split) * stride_m;

            out[e] = v;
            if (e == 0)
                out[a.hd] = max, out[a.hd + 1] = l;
        }
    }
    if (splits > 1 && last_of(a.done + at.t * a.K * p.parts + at.y, splits, STREAM_WARPS * WARP))
        merge_splits<PROGRAM_HEADS, STREAM_WARPS>(a, at.t, at.h0, at.n_heads, splits);
}

template <int ENC>
__device__ static inline void attn_items(const attn_phase &p, const attn_row *row, float *scratch)
{
    const int n = attn_places(p);

    for (int i = blockIdx.x; i < n; i += gridDim.x) {
        const attn_place at = attn_place_of(p, row, i);

        if (at.from < at.to)
            attn_place_sums<ENC>(p, row, at, scratch);
    }
}

/* Asks for keys and values of the block's first item, which were there before this pass, while the
 * blocks wait for one another. One thread. */
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

    for (int s = at.from, i = 0; s < at.to && i < MOST; s += KV_BLOCK, i++) {
        const size_t from = ((size_t)row[at.t].table[s / KV_BLOCK] * p.a.K + at.kh) * bytes;

        l2_prefetch(p.a.k + from, bytes);
        l2_prefetch(p.a.v + from, bytes);
    }
#endif
}
