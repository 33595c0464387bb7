/* attn_program.cuh - attention inside of programs: few rows, where what counts is the time from the
 * queries to the sums. A block has a row, some of the query heads of a kv head, and a span of
 * slots, ATTN_SLOTS of them at a time. Scores are made on the tensor cores, all heads of eight slots
 * by a warp; teams of warps share theirs, and then each warp has a part of the columns of all slots
 * of its team, so that what a team has is small and soon added to that of others. Queries and the
 * powers of scores are two values of 16 bits each, the second what the first leaves over: the
 * products have room for both. A head's sums are the same however many others a block has. What was
 * in the cache before the pass is asked for before the block waits for the queries; the pass's own
 * keys and values go by shared memory. Spans of a row are merged by the blocks that have them, each
 * of them some columns, which come as tagged words.
 *
 * Of a product's 16 x 8 x 16 (mma.cuh) lane 4 g + c has head g of the queries, slot g of the keys, and
 * of the scores head g and slots 2 c and 2 c + 1. Of values it has the slots 8 c and the seven next of
 * its team, columns 4 g and the three next of its warp; a product takes one of these columns from
 * each lane. */
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

/* The item of that number of a phase: first the first spans of all rows, which all of them have. */
struct attn_place {
    int number, t, y, split; /* row, part of the query heads, span */
    int kh, h0, n_heads;
    int from, to; /* slots; none: to <= from */
};

__device__ static __forceinline__ attn_place attn_place_of(const attn_phase &p, const attn_row *row,
                                                           int i)
{
    /* unsigned: division is shorter */
    const unsigned ny = p.a.K * p.parts, group = (unsigned)p.a.H / p.a.K, each = p.rows * ny;
    const unsigned split = (unsigned)i / each, in = i - split * each;
    attn_place at;

    at.number = i;
    at.t = in / ny;
    at.y = in - at.t * ny;
    at.split = split;
    at.kh = (unsigned)at.y / p.parts;
    at.h0 = at.kh * group + (at.y - at.kh * p.parts) * p.heads;
    at.n_heads = min(p.heads, (int)((at.kh + 1) * group) - at.h0);
    const int slots = row[at.t].slot + 1, span = span_of(slots);

    at.from = split * span;
    at.to = min(slots, at.from + span);
    return at;
}

/* How many spans its row has. */
__device__ static inline int attn_spans(const attn_row *row, const attn_place &at)
{
    const unsigned slots = row[at.t].slot + 1;

    return (slots - 1) / (unsigned)span_of(slots) + 1;
}

__device__ static inline int attn_places(const attn_phase &p)
{
    return p.rows * p.a.K * p.parts * p.a.splits;
}

/* Slots that a block sees at a time, of which a warp has the keys of WARP_SLOTS, and its team those of
 * a slot for each lane, of whose values a warp has V_COLS; a lane has V_LANE of them, of V_EACH slots.
 * Pieces of a key that a lane has, 8 of 32 values. */
enum { WARP_SLOTS = 8, ATTN_SLOTS = STREAM_WARPS * WARP_SLOTS, K_PIECES = ATTN_HEAD / 32 };
enum { TEAM_SLOTS = WARP, TEAM_WARPS = TEAM_SLOTS / WARP_SLOTS, V_COLS = ATTN_HEAD / TEAM_WARPS };
enum { V_LANE = V_COLS / 8, V_EACH = TEAM_SLOTS / 4, ATTN_TEAMS = STREAM_WARPS / TEAM_WARPS };

static_assert(ATTN_STEP % ATTN_SLOTS == 0 && KV_BLOCK % TEAM_SLOTS == 0, "a team's are in one block");
static_assert(V_LANE == 4 && V_EACH == 8, "two products have a lane's slots");

/* Floats from one head's scores of a team to the next: four more for the banks. */
enum { SCORES = TEAM_SLOTS + 4 };
static_assert(2 * SCORES <= ATTN_HEAD, "a team's sums take the place of its scores, twice");

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

/* A warp's slots of ATTN_SLOTS. */
struct attn_slots {
    unsigned first;  /* of keys, in the cache, in heads */
    int n;           /* how many; none: n <= 0 */
    uint2 fresh;     /* of each a byte: 1 + the row whose own key it has, or 0 */
    unsigned values; /* the same of values */
    int n_values;
};

/* What a block has to know of its first item, which is the same in all of a program's layers. */
struct attn_known {
    attn_place at;
    attn_slots slots[STREAM_WARPS]; /* the first */
    attn_head head[STREAM_WARPS];   /* the first that a warp makes */
};

/* Eight values of a key as they lie in the cache, and as four pairs of 16 bits. */
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

/* Four values of a slot, and value i of it and of another as a pair. */
template <int ENC> struct four {
    uint2 v;
    __device__ uint32_t pair(const four &next, int i) const
    {
        return __byte_perm(i < 2 ? v.x : v.y, i < 2 ? next.v.x : next.v.y, i % 2 ? 0x7632 : 0x5410);
    }
    __device__ void choose(const four &other, bool so)
    {
        v = make_uint2(so ? other.v.x : v.x, so ? other.v.y : v.y);
    }
};
template <> struct four<DEV_ENC_F8_E4M3> {
    uint32_t v;
    __device__ uint32_t pair(const four &next, int i) const
    {
        return f8_odd(__byte_perm(v, next.v, i << 4 | (4 + i) << 12));
    }
    __device__ void choose(const four &other, bool so)
    {
        v = so ? other.v : v;
    }
};

/* Of the cache: not by way of the first-level cache, where what threads keep in local memory is. */
template <class X> __device__ static __forceinline__ void load(X &x, const uint8_t *from)
{
    x.v = __ldcg((const decltype(x.v) *)from);
}

template <class X> __device__ static __forceinline__ void load_near(X &x, const uint8_t *from)
{
    x.v = *(const decltype(x.v) *)from;
}

/* A lane's part of a warp's slots: of one key, and of V_EACH values. */
template <int ENC> struct some_slots {
    eight<ENC> k[K_PIECES];
    four<ENC> v[V_EACH];
};

/* The first value of a lane's piece of a key; of its part of values, and the first of its slots. */
__device__ static __forceinline__ int key_at(int i, unsigned lane)
{
    return 32 * i + lane % 4 * 8;
}

__device__ static __forceinline__ int value_at(unsigned thread)
{
    return thread / WARP % TEAM_WARPS * V_COLS + thread % WARP / 4 * V_LANE;
}

__device__ static __forceinline__ int value_slot(unsigned lane)
{
    return lane % 4 * V_EACH;
}

/* The first slot of a warp's team, of ATTN_SLOTS. */
__device__ static __forceinline__ int team_from(unsigned thread)
{
    return thread / WARP / TEAM_WARPS * TEAM_SLOTS;
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
                                                  const attn_slots &in, unsigned thread)
{
    constexpr int bytes = eight<ENC>::bytes / 8;
    const int slot = value_slot(thread), at = value_at(thread);
    const uint8_t *const v = values + ((size_t)(in.values + slot) * hd + at) * bytes;
    const int there = at < hd ? in.n_values - slot : 0;

#pragma unroll
    for (int j = 0; j < V_EACH; j++) {
        x.v[j] = {};
        if (j < there)
            load(x.v[j], v + j * hd * bytes);
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
    const int v = s - s % ATTN_SLOTS + team_from(thread_now());
    attn_slots x = { 0, at.to - s, { 0, 0 }, 0, at.to - v };
    unsigned rows = __ballot_sync(~0u, (int)lane < (p.r.q ? p.rows : 0) &&
                                           (unsigned)(row[lane].slot - s) < WARP_SLOTS &&
                                           is_fresh(row, lane, at));

    if (x.n > 0)
        x.first = (unsigned)cache_at(row[at.t].table, s, p.a.K, at.kh, 1);
    if (x.n_values > 0)
        x.values = (unsigned)cache_at(row[at.t].table, v, p.a.K, at.kh, 1);
#pragma unroll 1
    for (; rows; rows &= rows - 1) {
        const int t = __ffs(rows) - 1, in = row[t].slot - s;

        (in < 4 ? x.fresh.x : x.fresh.y) |= (t + 1) << in % 4 * 8;
    }
    return x;
}

/* The pass's own keys among a warp's slots. */
template <int ENC>
__device__ static __forceinline__ void fresh_keys(some_slots<ENC> &x, const uint2 &rows, int hd,
                                                  const uint8_t *fresh, unsigned lane)
{
    constexpr int bytes = eight<ENC>::bytes / 8;
    const int t = (int)((lane / 4 < 4 ? rows.x : rows.y) >> lane / 4 % 4 * 8 & 255) - 1;
    const uint8_t *const from = fresh + 2 * t * hd * bytes;

#pragma unroll
    for (int i = 0; i < K_PIECES; i++)
        if (t >= 0 && key_at(i, lane) < hd)
            load_near(x.k[i], from + key_at(i, lane) * bytes);
}

/* The pass's own values among the lane's slots, of ATTN_SLOTS from s on. */
template <int ENC>
__device__ static __forceinline__ void fresh_values(some_slots<ENC> &x, const attn_phase &p,
                                                    const attn_row *row, const attn_place &at, int s,
                                                    const uint8_t *fresh, unsigned thread)
{
    constexpr int bytes = eight<ENC>::bytes / 8;
    const int hd = p.a.hd, rows = p.r.q ? p.rows : 0, e = value_at(thread);

    s += team_from(thread) + value_slot(thread);
#pragma unroll 1
    for (int t = 0; t < rows; t++) {
        const unsigned in = row[t].slot - s;

        if (in >= V_EACH || e >= hd || !is_fresh(row, t, at))
            continue;
        four<ENC> own;

        load_near(own, fresh + ((2 * t + 1) * hd + e) * bytes);
        /* without a branch, lest what is chosen from lies in local memory */
#pragma unroll
        for (int j = 0; j < V_EACH; j++)
            x.v[j].choose(own, in == (unsigned)j);
    }
}

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

/* A lane's sums of head g, in the order of products: of columns 8 c + i and 8 c + 4 + i by the powers'
 * first values, and by what these leave over. The maximum of the head's scores (base 2), and the sum
 * of the powers of the lane's slots. */
struct team_sums {
    float v[V_LANE][4], max, all;
};

/* The team's slots to the lane's sums. score: of the lane's head and slots. */
template <int ENC>
__device__ static __forceinline__ void add_slots(team_sums &to, const four<ENC> (&v)[V_EACH],
                                                 const float *score)
{
    const float4 first = *(const float4 *)score, second = *(const float4 *)(score + 4);
    float p[V_EACH] = { first.x,  first.y,  first.z,  first.w,
                        second.x, second.y, second.z, second.w };
    float max = to.max;

#pragma unroll
    for (int j = 0; j < V_EACH; j++)
        max = fmaxf(max, p[j]);
    max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
    max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
    const float by = exp2_fast(to.max - max);

    to.max = max;
    to.all *= by;
#pragma unroll
    for (int i = 0; i < V_LANE; i++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            to.v[i][k] *= by;
#pragma unroll
    for (int j = 0; j < V_EACH; j++) {
        p[j] = exp2_fast(p[j] - max);
        to.all += p[j];
    }
#pragma unroll
    for (int j = 0; j < V_EACH; j += 4) {
        const uint2 x = split16<ENC>(p[j], p[j + 1]), y = split16<ENC>(p[j + 2], p[j + 3]);
        const uint32_t a[4] = { x.x, x.y, y.x, y.y };

#pragma unroll
        for (int i = 0; i < V_LANE; i++)
            mma<ENC == DEV_ENC_BF16>(to.v[i], a, v[j].pair(v[j + 1], i),
                                     v[j + 2].pair(v[j + 3], i));
    }
}

/* A team's sums in shared memory: [n_heads][ATTN_HEAD] in the place of its scores, when its warps are
 * through with those; found: the heads' maxima and sums of powers. */
__device__ static __forceinline__ void put_team(float *place, float2 *found, const team_sums &sum,
                                                int n_heads, unsigned thread)
{
    const unsigned warp = thread / WARP % TEAM_WARPS, h = thread % WARP / 4, c = thread % 4;
    float *const to = place + h * ATTN_HEAD + warp * V_COLS + c * 2 * V_LANE;
    float all = sum.all;

    all += __shfl_xor_sync(~0u, all, 1);
    all += __shfl_xor_sync(~0u, all, 2);
    if ((int)h >= n_heads)
        return;
#pragma unroll
    for (int k = 0; k < 2; k++)
        *(float4 *)(to + k * V_LANE) =
            make_float4(sum.v[0][k] + sum.v[0][k + 2], sum.v[1][k] + sum.v[1][k + 2],
                        sum.v[2][k] + sum.v[2][k + 2], sum.v[3][k] + sum.v[3][k + 2]);
    if (warp == 0 && c == 0)
        found[h] = make_float2(sum.max, all);
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

/* Where what a span has of a head goes: values, and then the maximum and the sum. */
__device__ static __forceinline__ uint64_t *span_at(const attn_phase &p, int t, int h, int split)
{
    return p.spans + (((size_t)t * p.a.H + h) * p.a.splits + split) * (p.a.hd + 2);
}

/* Named barriers: teams' sums are there for the last warps of a block; and those of teams, beyond all
 * that fed_f8.cuh has. */
enum { MERGERS = WORKERS + 2, ATTN_TEAM = 8 };

/* How many warps merge teams. */
__device__ static __forceinline__ int mergers(const attn_phase &p, int n_heads)
{
    return min((int)STREAM_WARPS, (n_heads * p.a.hd / 2 + WARP - 1) / WARP);
}

/* What n teams have of an item to the next product, or to the blocks that merge the row's spans. */
template <int ENC>
__device__ static __forceinline__ void merge_teams(const attn_phase &p, const attn_place &at,
                                                   const float *place, const float2 *found, int n,
                                                   bool one, const phase_tag &tag)
{
    const unsigned first = (STREAM_WARPS - mergers(p, at.n_heads)) * WARP, half = p.a.hd / 2;

#pragma unroll 1
    for (unsigned i = thread_now() - first; i < at.n_heads * half; i += STREAM_WARPS * WARP - first) {
        const unsigned h = i / half, e = 2 * (i - h * half);
        float2 of[ATTN_TEAMS], x[ATTN_TEAMS], v = make_float2(0, 0);
        float max = -INFINITY, all = 0;

#pragma unroll
        for (int k = 0; k < ATTN_TEAMS; k++) {
            of[k] = k < n ? found[k * PROGRAM_HEADS + h] : make_float2(-INFINITY, 0);
            x[k] = k < n ? *(const float2 *)(place + (k * at.n_heads + h) * ATTN_HEAD + e)
                         : make_float2(0, 0);
            max = fmaxf(max, of[k].x);
        }
#pragma unroll
        for (int k = 0; k < ATTN_TEAMS; k++) {
            const float by = exp2_fast(of[k].x - max);

            all = fmaf(of[k].y, by, all);
            v = make_float2(fmaf(x[k].x, by, v.x), fmaf(x[k].y, by, v.y));
        }
        const float by = one ? eight<ENC>::by / all : eight<ENC>::by;

        v = make_float2(v.x * by, v.y * by);
        if (one) {
            put_pair(p, at.t, at.h0 + h, e, v, tag);
            continue;
        }
        uint64_t *const to = span_at(p, at.t, at.h0 + h, at.split);

        tagged_store(to + e, __float_as_uint(v.x), tag.takes());
        tagged_store(to + e + 1, __float_as_uint(v.y), tag.takes());
        if (e == 0) {
            tagged_store(to + p.a.hd, __float_as_uint(max), tag.takes());
            tagged_store(to + p.a.hd + 1, __float_as_uint(all), tag.takes());
        }
    }
}

/* The block's share of an item's columns, two by two, of all n spans of its row, each in a lane: in
 * order, and so the same wherever it is done. Lanes for no more spans than there are, so that every
 * pair finds some at once: words come from other blocks, and each look at them takes a microsecond. */
__device__ static __forceinline__ void merge_spans(const attn_phase &p, const attn_place &at, int n,
                                                   const phase_tag &tag)
{
    const unsigned log = 32 - __clz(n - 1), thread = thread_now(), span = thread & ((1 << log) - 1);
    const unsigned half = p.a.hd / 2, pairs = at.n_heads * half, each = (pairs + n - 1) / n;
    const unsigned end = min(pairs, (at.split + 1) * each);

    /* all lanes of a warp, or none */
#pragma unroll 1
    for (unsigned i0 = at.split * each + (thread / WARP * WARP >> log); i0 < end;
         i0 += STREAM_WARPS * WARP >> log) {
        const unsigned i = i0 + (thread % WARP >> log), h = i / half, e = 2 * (i - h * half);
        const bool there = i < end && (int)span < n;
        uint2 w[2] = {};

        if (there)
            tagged_wait<2>(w, span_at(p, at.t, at.h0 + h, span) + e, p.a.hd - e, 2, tag.takes());
        float max = there ? __uint_as_float(w[1].x) : -INFINITY;

        for (int d = 1 << log >> 1; d; d /= 2)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
        const float by = there ? exp2_fast(__uint_as_float(w[1].x) - max) : 0;
        float all = __uint_as_float(w[1].y) * by;
        float2 v = make_float2(__uint_as_float(w[0].x) * by, __uint_as_float(w[0].y) * by);

        for (int d = 1 << log >> 1; d; d /= 2) {
            all += __shfl_xor_sync(~0u, all, d);
            v.x += __shfl_xor_sync(~0u, v.x, d);
            v.y += __shfl_xor_sync(~0u, v.y, d);
        }
        if (span == 0 && i < end)
            put_pair(p, at.t, at.h0 + h, e, make_float2(v.x / all, v.y / all), tag);
    }
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
 * keys and values, what teams have found, and their scores twice, in whose place their sums are at
 * last; free once the block has stopped, before its first item. */
template <int ENC>
__device__ static __forceinline__ void
attn_place_sums(const attn_phase &p, const attn_row *row, const attn_known &known, uint8_t *scratch,
                const float2 *turns, const gate_stop &stop, const phase_tag &tag)
{
    const attn_args &a = p.a;
    const attn_place &at = known.at;
    some_slots<ENC> x = {};

    {
        const unsigned thread = thread_now();
        const attn_slots &mine = known.slots[thread / WARP];

        if (mine.n > 0)
            ask_keys<ENC>(x, a.k, a.hd, mine, thread % WARP);
        ask_values<ENC>(x, a.v, a.hd, mine, thread);
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
    float2 *const found = (float2 *)(fresh + (p.r.q ? p.rows * 4 * a.hd : 0));
    float *const place = (float *)(found + ATTN_TEAMS * PROGRAM_HEADS);

    ready_item<ENC>(p, row, at, known.head, scratch, turns, tag);
    named_sync(WORKERS, STREAM_WARPS * WARP);
    attn_slots mine = known.slots[(unsigned)thread_now() / WARP];
    team_sums sum = {};

    sum.max = -INFINITY;
#pragma unroll 1
    for (int s = at.from, odd = 0; s + team_from(thread_now()) < at.to; s += ATTN_SLOTS, odd ^= 1) {
        const unsigned thread = thread_now(), lane = thread % WARP, warp = thread / WARP;
        const int in = warp % TEAM_WARPS * WARP_SLOTS + lane % 4 * 2; /* of the team's slots */
        const int left = at.to - s - team_from(thread) - in;
        const bool more = s + ATTN_SLOTS + team_from(thread) < at.to;
        float *const score =
            place + (warp / TEAM_WARPS * ATTN_HEAD + odd * SCORES) * at.n_heads;
        float2 two = make_float2(-INFINITY, -INFINITY);

        if (mine.n > 0) {
            fresh_keys<ENC>(x, mine.fresh, a.hd, fresh, lane);
            two = scores_of<ENC>(x, scratch, at.n_heads, lane);
            two.x = left > 0 ? two.x : -INFINITY;
            two.y = left > 1 ? two.y : -INFINITY;
        }
        if ((int)lane / 4 < at.n_heads)
            *(float2 *)(score + lane / 4 * SCORES + in) = two;
        if (more) {
            mine = attn_slots_of(p, row, at, s + ATTN_SLOTS + warp * WARP_SLOTS, lane);
            if (mine.n > 0)
                ask_keys<ENC>(x, a.k, a.hd, mine, lane);
        }
        fresh_values<ENC>(x, p, row, at, s, fresh, thread);
        named_sync(ATTN_TEAM + warp / TEAM_WARPS, TEAM_WARPS * WARP);
        add_slots<ENC>(sum, x.v,
                       score + min((int)lane / 4, at.n_heads - 1) * SCORES + value_slot(lane));
        if (more)
            ask_values<ENC>(x, a.v, a.hd, mine, thread);
    }
    const unsigned thread = thread_now(), team = thread / WARP / TEAM_WARPS;
    const int teams = min((int)ATTN_TEAMS, (at.to - at.from + TEAM_SLOTS - 1) / TEAM_SLOTS);

    if ((int)team < teams) {
        named_sync(ATTN_TEAM + team, TEAM_WARPS * WARP);
        put_team(place + team * at.n_heads * ATTN_HEAD, found + team * PROGRAM_HEADS, sum,
                 at.n_heads, thread);
    }
    if ((int)thread / WARP < STREAM_WARPS - mergers(p, at.n_heads)) {
        named_arrive(MERGERS, STREAM_WARPS * WARP);
        return;
    }
    named_sync(MERGERS, STREAM_WARPS * WARP);
    merge_teams<ENC>(p, at, place, found, teams, attn_spans(row, at) == 1, tag);
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
    for (int i = blockIdx.x; i < attn_places(p); i += gridDim.x) {
        if (i != (int)blockIdx.x)
            named_sync(WORKERS, STREAM_WARPS * WARP); /* all are done with the one before */
        if (!p.known)
            know_item<ENC>(p, row, known, i);
        attn_place_sums<ENC>(p, row, known, scratch, turns, stop, tag);
    }
    /* only when all are given, for others wait for them */
#pragma unroll 1
    for (int i = blockIdx.x; p.a.splits > 1 && i < attn_places(p); i += gridDim.x) {
        if (attn_places(p) > (int)gridDim.x) {
            named_sync(WORKERS, STREAM_WARPS * WARP);
            if (thread_now() == 0)
                known.at = attn_place_of(p, row, i);
            named_sync(WORKERS, STREAM_WARPS * WARP);
        }
        if (const int n = attn_spans(row, known.at); n > 1 && known.at.from < known.at.to)
            merge_spans(p, known.at, n, tag);
    }
    return known.at.from < known.at.to;
}
