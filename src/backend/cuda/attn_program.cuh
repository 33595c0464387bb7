/* attn_program.cuh - attention inside of programs: few rows, where what counts is the time from the
 * queries to the sums. A block has a row, some of the query heads of a kv head, and a span of
 * slots; each warp all of the heads and eight of the slots at a time, on the tensor cores. Queries
 * and probabilities are two values of 16 bits each, the second what the first leaves over: the
 * products have room for both. A head's sums are the same however many others a block has. What was
 * in the cache before the pass is asked for before the block waits for the queries; the pass's own
 * keys and values go by shared memory.
 *
 * Of a product's 16 x 8 x 16 (mma.cuh) lane 4 g + c has, for scores, head g of the queries and slot
 * g of the keys; for values, slots 2 c and 2 c + 1 of the probabilities of head g, and of the
 * values in columns 64 i + 8 g .. + 7. */
#pragma once

#include "backend/cuda/attn.cuh"
#include "backend/cuda/codes.cuh"
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/mma.cuh"
#include "backend/cuda/turn.cuh"

/* A row of the batch: its slot, position and sequence, and that sequence's blocks. */
struct attn_row {
    const int32_t *table;
    int slot, pos, seq;
};

/* The item of that number of a phase. */
struct attn_place {
    int number, t, y, split; /* row, part of the query heads, span */
    int kh, h0, n_heads;
    int from, to; /* slots; none: to <= from */
};

__device__ static __forceinline__ attn_place attn_place_of(const attn_phase &p, const attn_row *row,
                                                           int i)
{
    /* unsigned: division is shorter */
    const unsigned ny = p.a.K * p.parts, group = (unsigned)p.a.H / p.a.K, splits = p.a.splits;
    const unsigned in = (unsigned)i / splits;
    attn_place at;

    at.number = i;
    at.t = in / ny;
    at.y = in % ny;
    at.split = i - in * splits;
    at.kh = (unsigned)at.y / p.parts;
    at.h0 = at.kh * group + (at.y - at.kh * p.parts) * p.heads;
    at.n_heads = min(p.heads, (int)((at.kh + 1) * group) - at.h0);
    at.from = at.split * p.a.span;
    at.to = min(row[at.t].slot + 1, at.from + p.a.span);
    return at;
}

__device__ static inline int attn_places(const attn_phase &p)
{
    return p.rows * p.a.K * p.parts * p.a.splits;
}

/* Slots that a block sees at a time; pieces of a head of at most ATTN_HEAD values that a lane has:
 * of keys 8 of 32 values, of values 8 of 64. */
enum { WARP_SLOTS = 8, ATTN_SLOTS = STREAM_WARPS * WARP_SLOTS };
enum { K_PIECES = ATTN_HEAD / 32, V_PIECES = ATTN_HEAD / 64 };
/* Bytes of a query in shared memory: its values in 16 bits, what is left of them, zeros beyond
 * either; 64 more for the banks. */
enum { QUERY_BYTES = 4 * ATTN_HEAD + 64 };

/* Eight values of the cache as they lie there, and as four pairs of 16 bits. */
template <int ENC> struct eight {
    uint4 v;
    static constexpr int bytes = 16;
    static constexpr float by = 1; /* what they are to be multiplied by */
    __device__ uint4 pairs() const
    {
        return v;
    }
};
template <> struct eight<DEV_ENC_F8_E4M3> {
    uint2 v;
    static constexpr int bytes = 8;
    static constexpr float by = F8_BY;
    __device__ uint4 pairs() const
    {
        return make_uint4(f8_pair(v.x, 0), f8_pair(v.x, 1), f8_pair(v.y, 0), f8_pair(v.y, 1));
    }
};

/* Of the cache: not by way of the first-level cache, where what threads keep in local memory is. */
template <int ENC> __device__ static __forceinline__ void load(eight<ENC> &x, const uint8_t *from)
{
    x.v = __ldcg((const decltype(x.v) *)from);
}

template <int ENC>
__device__ static __forceinline__ void load_near(eight<ENC> &x, const uint8_t *from)
{
    x.v = *(const decltype(x.v) *)from;
}

/* A lane's part of a warp's slots: a key, and two values. */
template <int ENC> struct some_slots {
    eight<ENC> k[K_PIECES], v[2][V_PIECES];
};

/* Their first value of piece i. */
__device__ static __forceinline__ int key_at(int i, unsigned lane)
{
    return 32 * i + lane % 4 * 8;
}

__device__ static __forceinline__ int value_at(int i, unsigned lane)
{
    return 64 * i + lane / 4 * 8;
}

/* Asks for keys of the warp's slots from s on, which lie in one block; zeros where there are none.
 */
template <int ENC>
__device__ static __forceinline__ void ask_keys(some_slots<ENC> &x, const attn_args &a,
                                                const int32_t *table, int kh, int s, int to,
                                                unsigned lane)
{
    constexpr int bytes = eight<ENC>::bytes / 8;
    const size_t first = s < to ? cache_at(table, s, a.K, kh, a.hd) : 0;
    const int hd = s + lane / 4 < to ? a.hd : 0; /* how much there is of it */
    const uint8_t *const k = a.k + (first + lane / 4 * a.hd) * bytes;

#pragma unroll
    for (int i = 0; i < K_PIECES; i++) {
        x.k[i] = {};
        if (key_at(i, lane) < hd)
            load(x.k[i], k + key_at(i, lane) * bytes);
    }
}

template <int ENC>
__device__ static __forceinline__ void ask_values(some_slots<ENC> &x, const attn_args &a,
                                                  const int32_t *table, int kh, int s, int to,
                                                  unsigned lane)
{
    constexpr int bytes = eight<ENC>::bytes / 8;
    const size_t first = s < to ? cache_at(table, s, a.K, kh, a.hd) : 0;
    const uint8_t *const v = a.v + (first + lane % 4 * 2 * a.hd) * bytes;

#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int i = 0; i < V_PIECES; i++) {
            x.v[j][i] = {};
            if (value_at(i, lane) < (s + lane % 4 * 2 + j < to ? a.hd : 0))
                load(x.v[j][i], v + (j * a.hd + value_at(i, lane)) * bytes);
        }
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

/* Two neighbours in 16 bits, and what is left. */
template <int ENC> __device__ static __forceinline__ uint2 split16(float a, float b)
{
    constexpr bool bf16 = ENC == DEV_ENC_BF16;
    const uint32_t first = pair16<bf16>(a, b);
    float2 f;

    if constexpr (bf16)
        f = make_float2(__uint_as_float(first << 16), __uint_as_float(first & 0xFFFF0000));
    else
        f = __half22float2(*(const __half2 *)&first);
    return make_uint2(first, pair16<bf16>(a - f.x, b - f.y));
}

/* Two neighbours to the cache, or as they lie there. */
template <int ENC>
__device__ static __forceinline__ void store_pair(uint8_t *cache, size_t at, float2 v)
{
    if constexpr (ENC == DEV_ENC_F8_E4M3) {
        store(cache, at, v.x, ENC);
        store(cache, at + 1, v.y, ENC);
    } else {
        *(uint32_t *)((uint16_t *)cache + at) = pair16<ENC == DEV_ENC_BF16>(v.x, v.y);
    }
}

/* Queries of an item and the pass's own keys and values among its slots to shared memory, rotated
 * if need be. Each row's go to the cache once. */
template <int ENC>
__device__ static __forceinline__ void
ready_item(const attn_phase &p, const attn_row *row, const attn_place &at, uint8_t *queries,
           uint8_t *fresh, const float2 *turns, const unsigned &tag)
{
    const unsigned thread = thread_now(), lane = thread % WARP;
    const rope_args &r = p.r;
    const int hd = p.a.hd, half = hd / 2, rows = r.q ? p.rows : 0;
    const bool pairs = r.q && r.interleaved;
    /* two neighbours of either half, or of all where pairs lie together; pairs turn */
    const int k = 2 * lane, at0 = pairs ? 2 * k : k, at1 = pairs ? 2 * k + 2 : k + half;

    static_assert(ATTN_HEAD <= 4 * WARP, "a lane has four values");
#pragma unroll 1
    for (int i = thread / WARP; i < at.n_heads + 2 * rows; i += STREAM_WARPS) {
        const attn_head h = attn_head_of(p, row, at, i);
        constexpr int bytes = eight<ENC>::bytes / 8;
        uint16_t *const query = (uint16_t *)(queries + i * QUERY_BYTES);

        if (!h.there)
            continue;
        if (h.query)
#pragma unroll 1
            for (int e = hd + k; e < ATTN_HEAD; e += 2 * WARP)
                *(uint32_t *)(query + e) = *(uint32_t *)(query + ATTN_HEAD + e) = 0;
        if (k >= half)
            continue;
        const float *const x = h.query ? p.a.q + ((size_t)h.t * p.a.H + at.h0 + i) * hd
                                       : (h.value ? r.v : r.k) + ((size_t)h.t * r.K + at.kh) * hd;
        const bool keep = !h.query && h.t == at.t && (unsigned)at.y % (unsigned)p.parts == 0;
        const size_t to = keep ? cache_at(row[h.t].table, row[h.t].slot, r.K, at.kh, hd) : 0;
        /* where it is among q, k and v */
        const int in_all = (h.query ? at.h0 + i : p.a.H + h.value * r.K + at.kh) * hd;
        const uint64_t *const from = p.take_x + (size_t)h.t * (p.a.H + 2 * r.K) * hd + in_all;
        const float scale = h.query ? p.a.scale * eight<ENC>::by : 1;
        const bool turn = r.q && !h.value;
        uint8_t *const near = fresh + (size_t)(2 * h.t + h.value) * hd * bytes;
        const float2 *const by = turns + h.t * half + k;
        float2 y[2];

        if (p.take_x) {
            uint2 w[2];

            tagged_wait<2>(w, from + at0, at1 - at0, 2, tag - 1);
            y[0] = make_float2(__uint_as_float(w[0].x), __uint_as_float(w[0].y));
            y[1] = make_float2(__uint_as_float(w[1].x), __uint_as_float(w[1].y));
        } else {
            y[0] = *(const float2 *)(x + at0);
            y[1] = *(const float2 *)(x + at1);
        }
        if (turn) {
            float v[2][2] = { { y[0].x, pairs ? y[0].y : y[1].x },
                              { pairs ? y[1].x : y[0].y, y[1].y } };

#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float turned = v[i][0] * by[i].x - v[i][1] * by[i].y;

                v[i][1] = v[i][1] * by[i].x + v[i][0] * by[i].y;
                v[i][0] = turned;
            }
            y[0] = make_float2(v[0][0], pairs ? v[0][1] : v[1][0]);
            y[1] = make_float2(pairs ? v[1][0] : v[0][1], v[1][1]);
        }
        if (h.query) {
            const uint2 q0 = split16<ENC>(y[0].x * scale, y[0].y * scale),
                        q1 = split16<ENC>(y[1].x * scale, y[1].y * scale);

            *(uint32_t *)(query + at0) = q0.x;
            *(uint32_t *)(query + at1) = q1.x;
            *(uint32_t *)(query + ATTN_HEAD + at0) = q0.y;
            *(uint32_t *)(query + ATTN_HEAD + at1) = q1.y;
            continue;
        }
        store_pair<ENC>(near, at0, y[0]);
        store_pair<ENC>(near, at1, y[1]);
        if (keep) {
            store_pair<ENC>(h.value ? r.vc : r.kc, to + at0, y[0]);
            store_pair<ENC>(h.value ? r.vc : r.kc, to + at1, y[1]);
        }
    }
}

/* Rows whose keys and values are this pass's and among the warp's slots from s on, a bit each. */
__device__ static __forceinline__ unsigned fresh_rows(const attn_phase &p, const attn_row *row,
                                                      const attn_place &at, int s, unsigned lane)
{
    return __ballot_sync(~0u, (int)lane < (p.r.q ? p.rows : 0) &&
                                  (unsigned)(row[lane].slot - s) < WARP_SLOTS &&
                                  is_fresh(row, lane, at));
}

/* Their keys or values. */
template <bool VALUES, int ENC>
__device__ static __forceinline__ void take_fresh(some_slots<ENC> &x, unsigned rows,
                                                  const attn_row *row, int s, int hd,
                                                  const uint8_t *fresh, unsigned lane)
{
    constexpr int bytes = eight<ENC>::bytes / 8;

#pragma unroll 1
    for (; rows; rows &= rows - 1) {
        const int t = __ffs(rows) - 1, in = row[t].slot - s;
        const uint8_t *const from = fresh + (2 * t + VALUES) * hd * bytes;

        if (!VALUES) {
#pragma unroll
            for (int i = 0; i < K_PIECES; i++)
                if (in == lane / 4 && key_at(i, lane) < hd)
                    load_near(x.k[i], from + key_at(i, lane) * bytes);
        } else {
#pragma unroll
            for (int i = 0; i < 2 * V_PIECES; i++)
                if (in == lane % 4 * 2 + i / V_PIECES && value_at(i % V_PIECES, lane) < hd)
                    load_near(x.v[i / V_PIECES][i % V_PIECES],
                         from + value_at(i % V_PIECES, lane) * bytes);
        }
    }
}

/* State of a warp: of head g the maximum of the scores (base 2) and the lane's part of the sum of
 * their powers; of heads 2 c and 2 c + 1 values, each pair of columns those of both. */
struct warp_state {
    float m, l, acc[V_PIECES * 4][4];
};

/* Scores of slots 2 c and 2 c + 1 for head g; where there is none, the last head's. */
template <int ENC>
__device__ static __forceinline__ float2 scores_of(const some_slots<ENC> &x, const uint8_t *queries,
                                                   int n_heads, unsigned lane)
{
    const uint8_t *const from =
        queries + min((int)(lane / 4), n_heads - 1) * QUERY_BYTES + key_at(0, lane) * 2;
    float s[2][4] = {};

#pragma unroll
    for (int i = 0; i < K_PIECES; i++) {
        const uint4 k = x.k[i].pairs(), q = *(const uint4 *)(from + 64 * i),
                    left = *(const uint4 *)(from + 64 * i + 2 * ATTN_HEAD);
        const uint32_t a[2][4] = { { q.x, left.x, q.y, left.y }, { q.z, left.z, q.w, left.w } };

        mma<ENC == DEV_ENC_BF16>(s[0], a[0], k.x, k.y);
        mma<ENC == DEV_ENC_BF16>(s[1], a[1], k.z, k.w);
    }
    return make_float2(s[0][0] + s[1][0] + (s[0][2] + s[1][2]),
                       s[0][1] + s[1][1] + (s[0][3] + s[1][3]));
}

/* Scores of slots s and s + 1 to the state; what is in it so far, unless they are the first, is
 * multiplied. The probabilities, as the second operand. */
template <int ENC>
__device__ static __forceinline__ uint2 soften_slots(warp_state &st, float2 score, int s, int to,
                                                     unsigned lane, bool first)
{
    if (s >= to)
        score.x = -INFINITY;
    if (s + 1 >= to)
        score.y = -INFINITY;
    float max = fmaxf(st.m, fmaxf(score.x, score.y));

    for (int d = 1; d < 4; d *= 2)
        max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
    const float2 e = make_float2(exp2_fast(score.x - max), exp2_fast(score.y - max));

    if (!first) {
        const float by = exp2_fast(st.m - max);
        const float mine[2] = { __shfl_sync(~0u, by, lane % 4 * 8),
                                __shfl_sync(~0u, by, lane % 4 * 8 + 4) };

        st.l *= by;
#pragma unroll
        for (int i = 0; i < V_PIECES * 4; i++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                st.acc[i][k] *= mine[k % 2];
    }
    st.m = max;
    st.l += e.x + e.y;
    return split16<ENC>(e.x, e.y);
}

template <int ENC>
__device__ static __forceinline__ void add_values(warp_state &st, const some_slots<ENC> &x, uint2 e)
{
#pragma unroll
    for (int i = 0; i < V_PIECES; i++) {
        const uint4 v = x.v[0][i].pairs(), w = x.v[1][i].pairs();
        const uint32_t first[4] = { v.x, v.y, v.z, v.w }, second[4] = { w.x, w.y, w.z, w.w };

#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t even = (first[j] & 0xFFFF) | second[j] << 16;
            const uint32_t odd = first[j] >> 16 | (second[j] & 0xFFFF0000);
            const uint32_t a[4] = { even, odd, even, odd };

            mma<ENC == DEV_ENC_BF16>(st.acc[i * 4 + j], a, e.x, e.y);
        }
    }
}

/* A warp's state of head h to shared memory. */
template <int ENC>
__device__ static __forceinline__ void give_state(const warp_state &st, int h, int hd, float *sums,
                                                  unsigned thread)
{
    const unsigned warp = thread / WARP, lane = thread % WARP, c = lane % 4;
    const int stride = hd + 4;
    constexpr float by = eight<ENC>::by;

    if (lane == 4u * h) {
        sums[STREAM_WARPS * stride + warp] = st.m;
        sums[STREAM_WARPS * (stride + 1) + warp] = st.l;
    }
    if ((int)c != h / 2)
        return;
#pragma unroll
    for (int i = 0; i < V_PIECES * 2; i++) {
        const float(*const v)[4] = st.acc + 2 * i;
        const bool odd = h % 2;

        if (value_at(i / 2, lane) < hd)
            *(float4 *)(sums + warp * stride + value_at(i / 2, lane) + i % 2 * 4) =
                make_float4((odd ? v[0][1] : v[0][0]) * by, (odd ? v[0][3] : v[0][2]) * by,
                            (odd ? v[1][1] : v[1][0]) * by, (odd ? v[1][3] : v[1][2]) * by);
    }
}

/* Two values of a head, e and the next. */
__device__ static __forceinline__ void put_pair(const attn_phase &p, int t, int h, int e, float2 v,
                                                const unsigned &tag)
{
    if (p.give_x) { /* to the product that waits for them */
        const float pair[2] = { v.x, v.y };

        tagged_store(p.give_x + ((size_t)t * p.a.kp16 + h * p.a.hd + e) / 2,
                     two16(pair, p.a.mode16), tag);
        return;
    }
    put(p.a, t, h, e, v.x);
    put(p.a, t, h, e + 1, v.y);
    if (p.given) {
        float *const to = p.given + ((size_t)t * p.a.H + h) * p.a.hd + e;

        store_shared(to, v.x);
        store_shared(to + 1, v.y);
    }
}

/* The warps' states of one head, from shared memory: two elements a thread, which takes the fewest
 * instructions: they come from afar. sums: [STREAM_WARPS][hd + 4], then maxima, then sums of
 * weights. */
__device__ static __forceinline__ void merge_warps(const attn_phase &p, const attn_place &at,
                                                   int head, int splits, const float *sums,
                                                   const unsigned &tag)
{
    const attn_args &a = p.a;
    const int stride = a.hd + 4, e = 2 * thread_now();
    const float4 *const m = (const float4 *)(sums + STREAM_WARPS * stride);
    float by[STREAM_WARPS], l = 0;
    float2 v = make_float2(0, 0);

    if (e >= a.hd)
        return;
#pragma unroll
    for (int o = 0; o < STREAM_WARPS / 4; o++) {
        const float4 some = m[o];

        by[4 * o] = some.x, by[4 * o + 1] = some.y, by[4 * o + 2] = some.z, by[4 * o + 3] = some.w;
    }
    float most[4] = { by[0], by[1], by[2], by[3] };

#pragma unroll
    for (int o = 4; o < STREAM_WARPS; o++)
        most[o % 4] = fmaxf(most[o % 4], by[o]);
    const float max = fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3]));

#pragma unroll
    for (int o = 0; o < STREAM_WARPS; o++) {
        const float4 n = m[STREAM_WARPS / 4 + o / 4];
        const float2 x = *(const float2 *)(sums + o * stride + e);

        by[o] = exp2_fast(by[o] - max);
        l = fmaf(o % 4 == 0 ? n.x : o % 4 == 1 ? n.y : o % 4 == 2 ? n.z : n.w, by[o], l);
        v = make_float2(fmaf(x.x, by[o], v.x), fmaf(x.y, by[o], v.y));
    }
    if (splits == 1) {
        const float all = 1 / l;

        put_pair(p, at.t, at.h0 + head, e, make_float2(v.x * all, v.y * all), tag);
        return;
    }
    float *const out =
        a.part + (((size_t)at.t * a.H + at.h0 + head) * a.splits + at.split) * (a.hd + 2);

    *(float2 *)(out + e) = v;
    if (e == 0)
        *(float2 *)(out + a.hd) = make_float2(max, l);
}

/* An item: all threads of a block, but for the warps that feed. scratch: queries, the pass's own
 * keys and values, the warps' states; free once the block has stopped, before its first item. */
template <int ENC>
__device__ static __forceinline__ void
attn_place_sums(const attn_phase &p, const attn_row *row, const attn_place &at, uint8_t *scratch,
                const float2 *turns, const gate_stop &stop, const unsigned &tag)
{
    const attn_args &a = p.a;
    some_slots<ENC> x;
    unsigned mine;

    {
        const unsigned thread = thread_now(), lane = thread % WARP;
            const int s = at.from + thread / WARP * WARP_SLOTS;

        ask_keys<ENC>(x, a, row[at.t].table, at.kh, s, at.to, lane);
        ask_values<ENC>(x, a, row[at.t].table, at.kh, s, at.to, lane);
        mine = fresh_rows(p, row, at, s, lane);
    }
    if (stop.target && at.number == (int)blockIdx.x)
        stop_at(stop, STREAM_WARPS * WARP);
    if (at.from >= at.to)
        return;
    uint8_t *const fresh = scratch + at.n_heads * QUERY_BYTES;

    ready_item<ENC>(p, row, at, scratch, fresh, turns, tag);
    named_sync(WORKERS, STREAM_WARPS * WARP);
    int s0 = at.from; /* the first of ATTN_SLOTS */
    float2 score = {};

    {
        const unsigned thread = thread_now(), lane = thread % WARP;
        const int s = s0 + thread / WARP * WARP_SLOTS;

        if (s < at.to) {
            take_fresh<false, ENC>(x, mine, row, s, a.hd, fresh, lane);
            score = scores_of<ENC>(x, scratch, at.n_heads, lane);
            take_fresh<true, ENC>(x, mine, row, s, a.hd, fresh, lane);
        }
    }
    warp_state st = { -INFINITY };

#pragma unroll 1
    for (;;) {
        {
            const unsigned thread = thread_now(), lane = thread % WARP;
            const int s = s0 + thread / WARP * WARP_SLOTS;

            if (s < at.to)
                add_values<ENC>(st, x,
                                soften_slots<ENC>(st, score, s + lane % 4 * 2, at.to, lane,
                                                  s0 == at.from));
        }
        s0 += ATTN_SLOTS;
        if (s0 >= at.to)
            break;
        /* one after the other, for want of registers */
        forget();
        const unsigned thread = thread_now(), lane = thread % WARP;
        const int s = s0 + thread / WARP * WARP_SLOTS;

        if (s >= at.to)
            continue;
        mine = fresh_rows(p, row, at, s, lane);
        ask_keys<ENC>(x, a, row[at.t].table, at.kh, s, at.to, lane);
        take_fresh<false, ENC>(x, mine, row, s, a.hd, fresh, lane);
        score = scores_of<ENC>(x, scratch, at.n_heads, lane);
        forget();
        ask_values<ENC>(x, a, row[at.t].table, at.kh, s, at.to, lane);
        take_fresh<true, ENC>(x, mine, row, s, a.hd, fresh, lane);
    }
    /* that this row has: at most a.splits */
    const int splits = a.splits == 1 ? 1 : (row[at.t].slot + a.span) / a.span;
    float *const sums = (float *)(fresh + (p.r.q ? p.rows * 4 * a.hd : 0));

    for (int d = 1; d < 4; d *= 2)
        st.l += __shfl_xor_sync(~0u, st.l, d);
#pragma unroll 1
    for (int h = 0; h < at.n_heads; h++) {
        if (h)
            named_sync(WORKERS, STREAM_WARPS * WARP);
        give_state<ENC>(st, h, a.hd, sums, thread_now());
        named_sync(WORKERS, STREAM_WARPS * WARP);
        merge_warps(p, at, h, splits, sums, tag);
    }
    if (splits > 1 && last_of(a.done + at.t * a.K * p.parts + at.y, splits, STREAM_WARPS * WARP))
        merge_splits<STREAM_WARPS>(
            a, at.t, at.h0, at.n_heads, splits, (float *)scratch,
            [&](int h, int e, float2 v) { put_pair(p, at.t, h, e, v, tag); });
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

    for (int s = at.from + ATTN_SLOTS, i = 0; s < at.to && i < MOST; s += KV_BLOCK, i++) {
        const size_t from = ((size_t)row[at.t].table[s / KV_BLOCK] * p.a.K + at.kh) * bytes;

        l2_prefetch(p.a.k + from, bytes);
        l2_prefetch(p.a.v + from, bytes);
    }
#endif
}

/* stop: before the first of the block's items reads queries, or anything of this pass. */
template <int ENC>
__device__ static __forceinline__ void attn_items(const attn_phase &p, const attn_row *row,
                                                  uint8_t *scratch, const float2 *turns,
                                                  const gate_stop &stop, const unsigned &tag)
{
    __shared__ attn_place at; /* with all that goes from item to item: nothing is in local memory */

    if (thread_now() == WARP)
        attn_ahead(p, row);
    if ((int)blockIdx.x >= attn_places(p)) {
        if (stop.target)
            stop_at(stop, STREAM_WARPS * WARP);
        return;
    }
#pragma unroll 1
    for (int i = blockIdx.x;;) {
        if (thread_now() == 0)
            at = attn_place_of(p, row, i);
        named_sync(WORKERS, STREAM_WARPS * WARP);
        attn_place_sums<ENC>(p, row, at, scratch, turns, stop, tag);
        i = at.number + gridDim.x;
        if (i >= attn_places(p))
            break;
        named_sync(WORKERS, STREAM_WARPS * WARP); /* all are done with this one */
    }
}
