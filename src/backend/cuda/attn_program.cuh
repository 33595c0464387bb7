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
/* Bytes of a query in shared memory: of each two neighbours the values in 16 bits, then what is
 * left of them, as the first operand has them; zeros beyond all; 16 more for the banks. */
enum { QUERY_BYTES = 4 * ATTN_HEAD + 16 };

/* What a warp makes of queries, keys or values for all: a query of an item, or a row's own key or
 * value. */
struct attn_head {
    unsigned words; /* where it is among tagged words */
    unsigned plain; /* or among queries, or keys or values */
    unsigned slot;  /* of the cache, where it goes: its values in heads */
    uint16_t near;  /* where it goes in the scratch, in bytes */
    uint8_t t, what;
};
enum { HEAD_THERE = 1, HEAD_QUERY = 2, HEAD_VALUE = 4, HEAD_KEPT = 8 };

/* A warp's first slots of an item. */
struct attn_slots {
    unsigned first; /* of the cache, in heads */
    int n;          /* how many; none: n <= 0 */
    uint2 fresh;    /* of each a byte: 1 + the row whose own key and value it has, or 0 */
};

/* What a block has to know of its first item, which is the same in all of a program's layers. */
struct attn_known {
    attn_place at;
    attn_slots slots[STREAM_WARPS];
    attn_head head[STREAM_WARPS]; /* the first that a warp makes */
};

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

/* Asks for keys of a warp's slots; zeros where there are none. */
template <int ENC>
__device__ static __forceinline__ void ask_keys(some_slots<ENC> &x, const uint8_t *keys, int hd,
                                                const attn_slots &in, unsigned lane)
{
    constexpr int bytes = eight<ENC>::bytes / 8;
    const uint8_t *const k = keys + (size_t)(in.first + lane / 4) * (unsigned)(hd * bytes);
    const int there = (int)(lane / 4) < in.n ? hd : 0; /* how much there is of it */

#pragma unroll
    for (int i = 0; i < K_PIECES; i++) {
        x.k[i] = {};
        if (key_at(i, lane) < there)
            load(x.k[i], k + key_at(i, lane) * bytes);
    }
}

template <int ENC>
__device__ static __forceinline__ void ask_values(some_slots<ENC> &x, const uint8_t *values, int hd,
                                                  const attn_slots &in, unsigned lane)
{
    constexpr int bytes = eight<ENC>::bytes / 8;
    const uint8_t *const v = values + (size_t)(in.first + lane % 4 * 2) * (unsigned)(hd * bytes);

#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int i = 0; i < V_PIECES; i++) {
            x.v[j][i] = {};
            if (value_at(i, lane) < ((int)(lane % 4 * 2 + j) < in.n ? hd : 0))
                load(x.v[j][i], v + (j * hd + value_at(i, lane)) * bytes);
        }
}

/* Whether row t's key and value are this pass's and among the item's slots. */
__device__ static inline bool is_fresh(const attn_row *row, int t, const attn_place &at)
{
    return row[t].seq == row[at.t].seq && row[t].slot >= at.from && row[t].slot < at.to;
}

/* Number i of the heads that warps make for all: the item's queries, then a key and a value of each
 * row of the pass. */
template <int ENC>
__device__ static inline attn_head attn_head_of(const attn_phase &p, const attn_row *row,
                                                const attn_place &at, int i)
{
    constexpr int bytes = eight<ENC>::bytes / 8;
    const rope_args &r = p.r;
    const bool query = i < at.n_heads, value = !query && (i - at.n_heads) % 2;
    const int t = query ? at.t : (i - at.n_heads) / 2;
    /* where it is among the heads of q, k and v */
    const int in = query ? at.h0 + i : p.a.H + value * r.K + at.kh;
    attn_head h = {};

    if (!query && (t >= (r.q ? p.rows : 0) || !is_fresh(row, t, at)))
        return h;
    const bool kept = !query && t == at.t && (unsigned)at.y % (unsigned)p.parts == 0;

    h.words = (t * (p.a.H + 2 * r.K) + in) * p.a.hd;
    h.plain = query ? (t * p.a.H + in) * p.a.hd : (t * r.K + at.kh) * p.a.hd;
    h.slot = kept ? (unsigned)cache_at(row[t].table, row[t].slot, r.K, at.kh, 1) : 0;
    h.near = query ? i * QUERY_BYTES : at.n_heads * QUERY_BYTES + (2 * t + value) * p.a.hd * bytes;
    h.t = t;
    h.what = HEAD_THERE | (query ? HEAD_QUERY : 0) | (value ? HEAD_VALUE : 0) |
             (kept ? HEAD_KEPT : 0);
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
 * if need be. Each row's go to the cache once. The last warps begin, for the first have slots
 * wherever one has. What does not wait for the words is done before they come. */
template <int ENC>
__device__ static __forceinline__ void
ready_item(const attn_phase &p, const attn_row *row, const attn_place &at, const attn_head *first,
           uint8_t *scratch, const float2 *turns, const phase_tag &tag)
{
    const unsigned thread = thread_now(), lane = thread % WARP;
    const rope_args &r = p.r;
    const int hd = p.a.hd, half = hd / 2, n = at.n_heads + 2 * (r.q ? p.rows : 0);
    const bool pairs = r.q && r.interleaved;
    /* two neighbours of either half, or of all where pairs lie together; pairs turn */
    const int k = 2 * lane, at0 = pairs ? 2 * k : k, at1 = pairs ? 2 * k + 2 : k + half;

    static_assert(ATTN_HEAD <= 4 * WARP, "a lane has four values");
#pragma unroll 1
    for (int i = STREAM_WARPS - 1 - thread / WARP; i < n; i += STREAM_WARPS) {
        const attn_head h =
            i < STREAM_WARPS ? first[i] : attn_head_of<ENC>(p, row, at, i);
        const bool query = h.what & HEAD_QUERY, value = h.what & HEAD_VALUE;
        uint8_t *const near = scratch + h.near;

        if (!(h.what & HEAD_THERE))
            continue;
        if (query)
#pragma unroll 1
            for (int e = hd + k; e < ATTN_HEAD; e += 2 * WARP)
                *(uint2 *)(near + 4 * e) = make_uint2(0, 0);
        if (k >= half)
            continue;
        const bool turn = r.q && !value;
        const float scale = query ? p.a.scale * eight<ENC>::by : 1;
        float4 by = make_float4(1, 0, 1, 0); /* cosines and sines of k and k + 1 */
        float2 y[2];

        if (turn)
            by = *(const float4 *)(turns + h.t * half + k);
        if (p.take_x) {
            uint2 w[2];

            tagged_wait<2>(w, p.take_x + h.words + at0, at1 - at0, 2, tag.takes());
            y[0] = make_float2(__uint_as_float(w[0].x), __uint_as_float(w[0].y));
            y[1] = make_float2(__uint_as_float(w[1].x), __uint_as_float(w[1].y));
        } else {
            const float *const x = (query ? p.a.q : value ? r.v : r.k) + h.plain;

            y[0] = *(const float2 *)(x + at0);
            y[1] = *(const float2 *)(x + at1);
        }
        if (turn) {
            const float2 v = pairs ? make_float2(y[0].y, y[1].y) : y[1];
            const float2 u = pairs ? make_float2(y[0].x, y[1].x) : y[0];
            const float2 s = make_float2(u.x * by.x - v.x * by.y, u.y * by.z - v.y * by.w);
            const float2 d = make_float2(v.x * by.x + u.x * by.y, v.y * by.z + u.y * by.w);

            y[0] = make_float2(s.x, pairs ? d.x : s.y);
            y[1] = make_float2(pairs ? s.y : d.x, d.y);
        }
        if (query) {
            *(uint2 *)(near + 4 * at0) = split16<ENC>(y[0].x * scale, y[0].y * scale);
            *(uint2 *)(near + 4 * at1) = split16<ENC>(y[1].x * scale, y[1].y * scale);
            continue;
        }
        store_pair<ENC>(near, at0, y[0]);
        store_pair<ENC>(near, at1, y[1]);
        if (h.what & HEAD_KEPT) {
            const size_t to = (size_t)h.slot * hd;

            store_pair<ENC>(value ? r.vc : r.kc, to + at0, y[0]);
            store_pair<ENC>(value ? r.vc : r.kc, to + at1, y[1]);
        }
    }
}

/* A warp's slots of an item from s on, which lie in one block of the cache. */
__device__ static inline attn_slots attn_slots_of(const attn_phase &p, const attn_row *row,
                                                  const attn_place &at, int s, unsigned lane)
{
    attn_slots x = { 0, at.to - s, { 0, 0 } };
    unsigned rows = __ballot_sync(~0u, (int)lane < (p.r.q ? p.rows : 0) &&
                                           (unsigned)(row[lane].slot - s) < WARP_SLOTS &&
                                           is_fresh(row, lane, at));

    if (x.n > 0)
        x.first = (unsigned)cache_at(row[at.t].table, s, p.a.K, at.kh, 1);
#pragma unroll 1
    for (; rows; rows &= rows - 1) {
        const int t = __ffs(rows) - 1, in = row[t].slot - s;

        (in < 4 ? x.fresh.x : x.fresh.y) |= (t + 1) << in % 4 * 8;
    }
    return x;
}

/* The pass's own keys or values among a warp's slots. */
template <bool VALUES, int ENC>
__device__ static __forceinline__ void take_fresh(some_slots<ENC> &x, const uint2 &rows, int hd,
                                                  const uint8_t *fresh, unsigned lane)
{
    constexpr int bytes = eight<ENC>::bytes / 8;
    const unsigned first = VALUES ? lane % 4 * 2 : lane / 4; /* of the lane's slots */
    const unsigned some = (first < 4 ? rows.x : rows.y) >> first % 4 * 8;
    const int t = (some & 255) - 1, t1 = (some >> 8 & 255) - 1;

    if constexpr (!VALUES) {
        const uint8_t *const from = fresh + 2 * t * hd * bytes;

#pragma unroll
        for (int i = 0; i < K_PIECES; i++)
            if (t >= 0 && key_at(i, lane) < hd)
                load_near(x.k[i], from + key_at(i, lane) * bytes);
    } else {
#pragma unroll
        for (int i = 0; i < 2 * V_PIECES; i++) {
            const int row = i < V_PIECES ? t : t1, at = value_at(i % V_PIECES, lane);

            if (row >= 0 && at < hd)
                load_near(x.v[i / V_PIECES][i % V_PIECES],
                          fresh + ((2 * row + 1) * hd + at) * bytes);
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
        queries + min((int)(lane / 4), n_heads - 1) * QUERY_BYTES + key_at(0, lane) * 4;
    float s[2][4] = {};

#pragma unroll
    for (int i = 0; i < K_PIECES; i++) {
        const uint4 k = x.k[i].pairs(), q = *(const uint4 *)(from + 128 * i),
                    r = *(const uint4 *)(from + 128 * i + 16);
        const uint32_t a[2][4] = { { q.x, q.y, q.z, q.w }, { r.x, r.y, r.z, r.w } };

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

/* States of warps in shared memory: [STREAM_WARPS][STATE] values, maxima, sums of weights. */
enum { STATE = ATTN_HEAD + 4 };

/* A warp's state of head h there. */
template <int ENC>
__device__ static __forceinline__ void give_state(const warp_state &st, int h, int hd, float *sums,
                                                  unsigned thread)
{
    const unsigned warp = thread / WARP, lane = thread % WARP, c = lane % 4;
    constexpr float by = eight<ENC>::by;

    if (lane == 4u * h) {
        sums[STREAM_WARPS * STATE + warp] = st.m;
        sums[STREAM_WARPS * (STATE + 1) + warp] = st.l;
    }
    if ((int)c != h / 2)
        return;
#pragma unroll
    for (int i = 0; i < V_PIECES * 2; i++) {
        const float(*const v)[4] = st.acc + 2 * i;
        const bool odd = h % 2;

        if (value_at(i / 2, lane) < hd)
            *(float4 *)(sums + warp * STATE + value_at(i / 2, lane) + i % 2 * 4) =
                make_float4((odd ? v[0][1] : v[0][0]) * by, (odd ? v[0][3] : v[0][2]) * by,
                            (odd ? v[1][1] : v[1][0]) * by, (odd ? v[1][3] : v[1][2]) * by);
    }
}

/* Where two values of a head, e and the next, go to the product that waits for them. */
__device__ static __forceinline__ uint64_t *pair_at(const attn_phase &p, int t, int h, int e)
{
    return p.give_x + ((size_t)t * p.a.kp16 + h * p.a.hd + e) / 2;
}

__device__ static __forceinline__ void give_pair(uint64_t *to, float2 v, int mode, unsigned tag)
{
    const float pair[2] = { v.x, v.y };

    tagged_store(to, two16(pair, mode), tag);
}

__device__ static __forceinline__ void put_pair(const attn_phase &p, int t, int h, int e, float2 v,
                                                const phase_tag &tag)
{
    if (p.give_x) {
        give_pair(pair_at(p, t, h, e), v, p.a.mode16, tag.gives());
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

/* A named barrier: states are there for the last warps of a block, which merge them. */
enum { MERGERS = WORKERS + 2, MERGED = 4 /* states at a time */ };

/* The first of those threads: each has two elements, which takes the fewest instructions: they come
 * from afar. */
__device__ static __forceinline__ int first_merger(int hd)
{
    return (STREAM_WARPS - (hd / 2 + WARP - 1) / WARP) * WARP;
}

/* n warps' states of one head, when all of them are there; what else it takes is found before. */
__device__ static __forceinline__ void merge_warps(const attn_phase &p, const attn_place &at,
                                                   int head, int n, int splits, const float *sums,
                                                   int e, const phase_tag &tag)
{
    const attn_args &a = p.a;
    const int mode = a.mode16;
    const float4 *const m = (const float4 *)(sums + STREAM_WARPS * STATE);
    uint64_t *const to = splits == 1 && p.give_x ? pair_at(p, at.t, at.h0 + head, e) : NULL;
    const unsigned gives = tag.gives();
    float4 most[STREAM_WARPS / MERGED];
    float max = -INFINITY, l = 0;
    float2 v = make_float2(0, 0);

    named_sync(MERGERS, STREAM_WARPS * WARP);
    if (e >= a.hd)
        return;
#pragma unroll
    for (int o = 0; o < STREAM_WARPS / MERGED; o++) {
        most[o] = m[o];
        const float some = fmaxf(fmaxf(most[o].x, most[o].y), fmaxf(most[o].z, most[o].w));

        max = o * MERGED < n ? fmaxf(max, some) : max;
    }
#pragma unroll
    for (int o = 0; o < STREAM_WARPS / MERGED; o++) {
        if (o * MERGED >= n)
            continue;
        const float by[MERGED] = { exp2_fast(most[o].x - max), exp2_fast(most[o].y - max),
                                   exp2_fast(most[o].z - max), exp2_fast(most[o].w - max) };
        const float4 some = m[STREAM_WARPS / MERGED + o];
        const float weight[MERGED] = { some.x, some.y, some.z, some.w };

#pragma unroll
        for (int k = 0; k < MERGED; k++) {
            const float2 x = *(const float2 *)(sums + (o * MERGED + k) * STATE + e);

            l = fmaf(weight[k], by[k], l);
            v = make_float2(fmaf(x.x, by[k], v.x), fmaf(x.y, by[k], v.y));
        }
    }
    if (splits == 1) {
        const float all = 1 / l;

        v = make_float2(v.x * all, v.y * all);
        if (to)
            give_pair(to, v, mode, gives);
        else
            put_pair(p, at.t, at.h0 + head, e, v, tag);
        return;
    }
    float *const out =
        a.part + (((size_t)at.t * a.H + at.h0 + head) * a.splits + at.split) * (a.hd + 2);

    *(float2 *)(out + e) = v;
    if (e == 0)
        *(float2 *)(out + a.hd) = make_float2(max, l);
}

/* Asks for keys and values of the block's first item beyond its first slots, to the second-level
 * cache, while the blocks wait for one another. One thread. */
__device__ static inline void attn_ahead(const attn_phase &p, const attn_row *row,
                                         const attn_place &at)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    (void)p, (void)row, (void)at;
#else
    enum { MOST = 8 };
    const int bytes = KV_BLOCK * p.a.hd * (p.enc == DEV_ENC_F8_E4M3 ? 1 : 2);

    for (int s = at.from + ATTN_SLOTS, i = 0; s < at.to && i < MOST; s += KV_BLOCK, i++) {
        const size_t from = ((size_t)row[at.t].table[s / KV_BLOCK] * p.a.K + at.kh) * bytes;

        l2_prefetch(p.a.k + from, bytes);
        l2_prefetch(p.a.v + from, bytes);
    }
#endif
}

/* An item: all threads of a block, but for the warps that feed. scratch: queries, the pass's own
 * keys and values, the warps' states; free once the block has stopped, before its first item. */
template <int ENC>
__device__ static __forceinline__ void
attn_place_sums(const attn_phase &p, const attn_row *row, const attn_known &known, uint8_t *scratch,
                const float2 *turns, const gate_stop &stop, const phase_tag &tag)
{
    const attn_args &a = p.a;
    const attn_place &at = known.at;
    some_slots<ENC> x = {};

    {
        const unsigned thread = thread_now(), lane = thread % WARP;
        const attn_slots mine = known.slots[thread / WARP];

        if (mine.n > 0) {
            ask_keys<ENC>(x, a.k, a.hd, mine, lane);
            ask_values<ENC>(x, a.v, a.hd, mine, lane);
        }
        if (at.number == (int)blockIdx.x) {
            if (thread == STREAM_WARPS / 2 * WARP && at.to - at.from > ATTN_SLOTS)
                attn_ahead(p, row, at);
            if (stop.target)
                stop_at(stop, STREAM_WARPS * WARP);
        }
    }
    if (at.from >= at.to)
        return;
    uint8_t *const fresh = scratch + at.n_heads * QUERY_BYTES;

    ready_item<ENC>(p, row, at, known.head, scratch, turns, tag);
    named_sync(WORKERS, STREAM_WARPS * WARP);
    int s0 = at.from; /* the first of ATTN_SLOTS */
    float2 score = {};

    {
        const unsigned thread = thread_now(), lane = thread % WARP;
        const attn_slots &mine = known.slots[thread / WARP];

        if (mine.n > 0) {
            take_fresh<false, ENC>(x, mine.fresh, a.hd, fresh, lane);
            score = scores_of<ENC>(x, scratch, at.n_heads, lane);
            take_fresh<true, ENC>(x, mine.fresh, a.hd, fresh, lane);
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
        const attn_slots mine =
            attn_slots_of(p, row, at, s0 + thread / WARP * WARP_SLOTS, lane);

        if (mine.n <= 0)
            continue;
        ask_keys<ENC>(x, a.k, a.hd, mine, lane);
        take_fresh<false, ENC>(x, mine.fresh, a.hd, fresh, lane);
        score = scores_of<ENC>(x, scratch, at.n_heads, lane);
        forget();
        ask_values<ENC>(x, a.v, a.hd, mine, lane);
        take_fresh<true, ENC>(x, mine.fresh, a.hd, fresh, lane);
    }
    /* that this row has: at most a.splits */
    const int splits = a.splits == 1 ? 1 : (row[at.t].slot + a.span) / a.span;
    float *const sums = (float *)(fresh + (p.r.q ? p.rows * 4 * a.hd : 0));
    const int thread = thread_now();
    /* warps that have slots, and those that give states: as many as are merged at a time */
    const int some = min((int)STREAM_WARPS, (at.to - at.from + WARP_SLOTS - 1) / WARP_SLOTS);
    const bool gives = thread / WARP < (some + MERGED - 1) / MERGED * MERGED;

    if (gives)
        for (int d = 1; d < 4; d *= 2)
            st.l += __shfl_xor_sync(~0u, st.l, d);
#pragma unroll 1
    for (int h = 0; h < at.n_heads; h++) {
        if (h)
            named_sync(WORKERS, STREAM_WARPS * WARP);
        if (gives)
            give_state<ENC>(st, h, a.hd, sums, thread);
        if (thread < first_merger(a.hd))
            named_arrive(MERGERS, STREAM_WARPS * WARP);
        else
            merge_warps(p, at, h, some, splits, sums, 2 * (thread - first_merger(a.hd)), tag);
    }
    if (splits > 1 && last_of(a.done + at.t * a.K * p.parts + at.y, splits, STREAM_WARPS * WARP))
        merge_splits<STREAM_WARPS>(
            a, at.t, at.h0, at.n_heads, splits, (float *)scratch,
            [&](int h, int e, float2 v) { put_pair(p, at.t, h, e, v, tag); });
}

/* What the block has to know of item i. */
template <int ENC>
__device__ static __forceinline__ void know_item(const attn_phase &p, const attn_row *row,
                                                 attn_known &known, int i)
{
    const unsigned thread = thread_now(), warp = thread / WARP, lane = thread % WARP;

    if (thread == 0)
        known.at = attn_place_of(p, row, i);
    named_sync(WORKERS, STREAM_WARPS * WARP);
    const attn_place &at = known.at;
    const attn_slots slots = attn_slots_of(p, row, at, at.from + warp * WARP_SLOTS, lane);

    if (lane == 0) {
        known.slots[warp] = slots;
        known.head[warp] = attn_head_of<ENC>(p, row, at, warp);
    }
    /* heads are other warps' */
    named_sync(WORKERS, STREAM_WARPS * WARP);
}

/* Whether the block's warps have met since they came. known: of the first of its items, if the
 * phase before has left it. stop: before that item reads queries, or anything of this pass. */
template <int ENC>
__device__ static __forceinline__ bool attn_items(const attn_phase &p, const attn_row *row,
                                                  attn_known &known, uint8_t *scratch,
                                                  const float2 *turns, const gate_stop &stop,
                                                  const phase_tag &tag)
{
    if ((int)blockIdx.x >= attn_places(p)) {
        if (stop.target)
            stop_at(stop, STREAM_WARPS * WARP);
        return false;
    }
    /* all that goes from item to item is in shared memory: nothing in local */
#pragma unroll 1
    for (int i = blockIdx.x;;) {
        if (!p.known)
            know_item<ENC>(p, row, known, i);
        attn_place_sums<ENC>(p, row, known, scratch, turns, stop, tag);
        i = known.at.number + gridDim.x;
        if (i >= attn_places(p))
            return known.at.from < known.at.to;
        named_sync(WORKERS, STREAM_WARPS * WARP); /* all are done with this one */
    }
}
