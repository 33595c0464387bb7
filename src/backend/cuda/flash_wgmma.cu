/* flash_wgmma.cu - attention of prompts on Hopper: what flash.cu computes, with products of whole
 * warpgroups.
 *
 * A block takes one tile after the other, each 128 rows as in flash.cu. Two warpgroups compute, 64
 * rows each; a third brings keys and values, 128 slots (two blocks of the cache) at a time, through
 * two stages of shared memory each. Scores of the next keys and the sum over the last values are
 * under way while a warpgroup makes probabilities, and the two take turns at the tensor cores, so
 * that one multiplies while the other takes exponents. Slots go from the last to the first, always
 * in the same pieces: what a row gets depends on nothing but its own slots. Blocks behind the last
 * slot of a tile are zeros.
 *
 * E4M3 comes as it lies and is made f16, exactly, by the warpgroup that brings it. Keys of 128 values
 * meet queries in E4M3, though, which are the sum of two: 8 bits each, as bf16 has, in as many
 * products. */
#include "backend/cuda/flash.cuh"
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/soften.cuh"

enum { SPAN = 2 * KV_BLOCK, STAGES = 2, RAWS = 3, NOTES = 4 };

/* Queries in E4M3 are multiplied by this, so that what the first part leaves is no denormal number, and
 * scores divided. */
enum { QUERIES_UP = 16 };

/* Keys as they lie, in E4M3: as many bytes as a row of a tile has. */
template <int SIZE, bool F8> constexpr bool keys8 = F8 && SIZE == SWIZZLE_ROW;

/* Shared memory: queries, keys, values; E4M3 as it lies; which tiles come, as those who bring tell
 * those who compute before the tile's first keys are there: at most 2 are on their way, one is
 * computed; barriers. */
template <int SIZE, bool F8> struct room {
    static constexpr int slab = SPAN * SWIZZLE_ROW; /* 64 values of 128 rows or slots */
    static constexpr int tile = SIZE / 64 * slab;
    static constexpr int raw = SPAN * SIZE;
    static constexpr int key_tile = keys8<SIZE, F8> ? slab : tile;
    static constexpr int keys = tile, values = keys + STAGES * key_tile;
    static constexpr int raws = values + STAGES * tile;
    static constexpr int notes = raws + (F8 ? RAWS * raw : 0);
    static constexpr int bars = notes + NOTES * 16;
};

enum bar {
    K_FULL,
    K_EMPTY = STAGES,
    V_FULL = 2 * STAGES,
    V_EMPTY = 3 * STAGES,
    RAW = 4 * STAGES,
    BARS = RAW + RAWS
};
enum { TURN = 1, QUERIES = 3, LOADERS = 5 }; /* named barriers; the first two for each warpgroup */

#if HOPPER
/* The block's tiles, one after the other. What is read at the same time is to be few heads, which
 * stay in the second-level cache; their tiles go from long to short, those of the heads before from
 * short to long and so on, and the blocks get them back and forth, so that each has as much to do.
 */
struct tile {
    int kh, t0, n, spans; /* n: its rows of the batch, 0 behind the last tile; spans: of slots that
                           * it sees */
};

struct walk {
    int turn;
    tile t;
    const int32_t *table;
};

__device__ static inline bool next_tile(const flash_args &a, walk &w)
{
    const int b = w.turn % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const int i = w.turn * gridDim.x + b, each = a.tiles * a.heads, g = i / each;
    const int tile = i % each / a.heads;

    w.t.n = 0;
    if (i >= a.tiles * a.K)
        return false;
    w.turn++;
    w.t.kh = g * a.heads + i % a.heads;
    find_tile(a, a.tiles, (a.K / a.heads - g) % 2 ? tile : a.tiles - 1 - tile, &w.t.t0, &w.t.n);
    w.t.spans = a.slot[w.t.t0 + w.t.n - 1] / SPAN + 1;
    w.table = a.table[a.seq[w.t.t0]];
    return true;
}

/* ---- bringing ---- */

/* First row of a block of the cache; outside of it where there is no such block. */
__device__ static inline int row_of(const flash_args &a, const walk &w, int block, int blocks)
{
    return block < blocks ? (w.table[block] * a.K + w.t.kh) * KV_BLOCK : -KV_BLOCK;
}

/* The tile's queries to the second-level cache. */
template <int SIZE> __device__ static inline void call_queries(const flash_args &a, const tile &t)
{
    const int group = a.H / a.K;

    for (int k = 0; k < t.n; k++) {
        const size_t at = ((size_t)(t.t0 + k) * a.H + t.kh * group) * SIZE;

        if (a.q16)
            l2_prefetch(a.q16 + at, group * SIZE * (int)sizeof(*a.q16));
        else
            l2_prefetch(a.q + at, group * SIZE * (int)sizeof(*a.q));
    }
}

/* Of the blocks that a tile begins with, its last. */
__device__ static inline void first_rows(const flash_args &a, const walk &w, int (&row)[2])
{
    if (w.t.n == 0)
        return;
    const int blocks = a.slot[w.t.t0 + w.t.n - 1] / KV_BLOCK + 1;

    row[0] = row_of(a, w, 2 * w.t.spans - 2, blocks);
    row[1] = row_of(a, w, 2 * w.t.spans - 1, blocks);
}

/* Keys and values, by one thread. */
template <int SIZE>
__device__ static inline void bring(const flash_args &a, uint8_t *shared, uint32_t at)
{
    using R = room<SIZE, false>;
    walk w, next = {}; /* told ahead: it takes a journey to memory after another */
    bool more = next_tile(a, next);
    int row[2];

    first_rows(a, next, row);
    for (int i = 0, t = 0;; t++) {
        w = next;
        ((tile *)(shared + R::notes))[t % NOTES] = w.t;
        if (!more) {
            const uint32_t full = at + R::bars + (K_FULL + i % STAGES) * 8;

            bar_wait(full + STAGES * 8, i / STAGES & 1 ^ 1);
            bar_arrive(full);
            return;
        }
        const int blocks = a.slot[w.t.t0 + w.t.n - 1] / KV_BLOCK + 1;

        for (int s = w.t.spans - 1; s >= 0; s--, i++) {
            const int stage = i % STAGES, parity = i / STAGES & 1;

#pragma unroll
            for (int kv = 0; kv < 2; kv++) {
                const uint32_t full = at + R::bars + ((kv ? V_FULL : K_FULL) + stage) * 8;
                const uint32_t to = at + (kv ? R::values : R::keys) + stage * R::tile;
                const void *map = kv ? &a.map[1] : &a.map[0];

                bar_wait(full + STAGES * 8, parity ^ 1);
                bar_expect(full, R::tile);
#pragma unroll
                for (int half = 0; half < 2; half++)
#pragma unroll
                    for (int c = 0; c < SIZE / 64; c++)
                        tile_copy(to + c * R::slab + half * (R::slab / 2), map, c * 64, row[half],
                                  full);
                if (kv == 0 && s == w.t.spans - 1)
                    call_queries<SIZE>(a, w.t);
            }
            if (s > 0) {
                row[0] = row_of(a, w, 2 * s - 2, blocks);
                row[1] = row_of(a, w, 2 * s - 1, blocks);
            } else {
                more = next_tile(a, next);
                first_rows(a, next, row);
            }
        }
    }
}

/* 128 slots in E4M3 to where f16 is read; the second half may be missing. */
template <int SIZE> __device__ static inline void widen(uint8_t *to, const uint8_t *from, int slots)
{
    using R = room<SIZE, true>;
    enum { CHUNKS = SIZE / 16 };

#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int i = threadIdx.x + k * WARPGROUP;
        const int r = i / CHUNKS, c = i % CHUNKS * 2;
        const uint4 v = r < slots ? ((const uint4 *)from)[i] : make_uint4(0, 0, 0, 0);
        const uint32_t word[4] = { v.x, v.y, v.z, v.w };
        uint32_t pair[8];

#pragma unroll
        for (int p = 0; p < 8; p++)
            pair[p] = pair_of_f8((uint16_t)(word[p / 2] >> 16 * (p % 2)));
        uint8_t *const tile = to + c / 8 * R::slab;

        *(uint4 *)(tile + swizzled(r, c % 8)) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
        *(uint4 *)(tile + swizzled(r, c % 8 + 1)) = make_uint4(pair[4], pair[5], pair[6], pair[7]);
    }
}

/* Where the copies of E4M3 are, ahead of where it is widened. */
struct ahead {
    walk w;
    int span, kv, n; /* n: spans of keys or values so far */
    bool more;
};

template <int SIZE>
__device__ static inline void bring_next(const flash_args &a, uint32_t at, ahead &f)
{
    using R = room<SIZE, true>;
    constexpr int first = keys8<SIZE, true>; /* of keys and values; 1: keys go another way */

    if (!f.more)
        return;
    const int blocks = a.slot[f.w.t.t0 + f.w.t.n - 1] / KV_BLOCK + 1, raw = f.n % RAWS;
    const int here = min(2, blocks - 2 * f.span);
    const uint32_t bar = at + R::bars + (RAW + raw) * 8;

    bar_expect(bar, here * KV_BLOCK * SIZE);
    for (int k = 0; k < here; k++)
        bulk_copy(at + R::raws + raw * R::raw + k * KV_BLOCK * SIZE,
                  (f.kv ? a.v : a.k) + (size_t)row_of(a, f.w, 2 * f.span + k, blocks) * SIZE,
                  KV_BLOCK * SIZE, bar);
    f.n++;
    f.kv = first | (f.kv ^ 1);
    if (f.kv == first && f.span-- == 0) {
        f.more = next_tile(a, f.w);
        f.span = f.w.t.spans - 1;
    }
}

/* The next span of keys in E4M3 as they lie, by one thread. */
template <int SIZE>
__device__ static inline void bring_keys8(const flash_args &a, uint32_t at, ahead &f)
{
    using R = room<SIZE, true>;

    if (!f.more)
        return;
    const int blocks = a.slot[f.w.t.t0 + f.w.t.n - 1] / KV_BLOCK + 1, stage = f.n % STAGES;
    const uint32_t full = at + R::bars + (K_FULL + stage) * 8, to = at + R::keys + stage * R::key_tile;

    bar_wait(full + STAGES * 8, f.n / STAGES & 1 ^ 1);
    bar_expect(full, R::key_tile);
#pragma unroll
    for (int half = 0; half < 2; half++)
        tile_copy(to + half * (R::key_tile / 2), &a.map[0], 0,
                  row_of(a, f.w, 2 * f.span + half, blocks), full);
    f.n++;
    if (f.span-- == 0) {
        f.more = next_tile(a, f.w);
        f.span = f.w.t.spans - 1;
    }
}

/* Keys and values in E4M3, by a warpgroup. */
template <int SIZE>
__device__ static inline void bring_f8(const flash_args &a, uint8_t *shared, uint32_t at)
{
    using R = room<SIZE, true>;
    constexpr bool lie = keys8<SIZE, true>;
    walk w = {};
    ahead f = {}, keys = {};
    int n = 0, spans = 0;

    if (threadIdx.x == 0) {
        f.kv = lie;
        f.more = next_tile(a, f.w);
        f.span = f.w.t.spans - 1;
        keys = f;
        for (int k = 0; k < RAWS; k++)
            bring_next<SIZE>(a, at, f);
    }
    __syncwarp();
    for (int t = 0;; t++) {
        const bool more = next_tile(a, w);

        if (threadIdx.x == 0)
            ((tile *)(shared + R::notes))[t % NOTES] = w.t;
        if (!more) {
            const uint32_t full = at + R::bars + (K_FULL + spans % STAGES) * 8;

            if (lie && threadIdx.x > 0) /* one tells it, as it did of keys */
                return;
            bar_wait(full + STAGES * 8, spans / STAGES & 1 ^ 1);
            bar_arrive(full);
            return;
        }
        if (threadIdx.x == 0) {
            call_queries<SIZE>(a, w.t);
            if (lie)
                bring_keys8<SIZE>(a, at, keys);
        }
        __syncwarp();
        const int slots = a.slot[w.t.t0 + w.t.n - 1] + 1;

        for (int s = w.t.spans - 1; s >= 0; s--, spans++) {
            /* a tile's first keys come after its note */
            if (lie && s > 0 && threadIdx.x == 0)
                bring_keys8<SIZE>(a, at, keys);
            for (int kv = lie; kv < 2; kv++, n++) {
                const int stage = spans % STAGES, parity = spans / STAGES & 1, raw = n % RAWS;
                const uint32_t full = at + R::bars + ((kv ? V_FULL : K_FULL) + stage) * 8;

                bar_wait(at + R::bars + (RAW + raw) * 8, n / RAWS & 1);
                bar_wait(full + STAGES * 8, parity ^ 1);
                widen<SIZE>(shared + (kv ? R::values : R::keys) + stage * R::tile,
                            shared + R::raws + raw * R::raw,
                            slots - s * SPAN > KV_BLOCK ? SPAN : KV_BLOCK);
                fence_async();
                bar_arrive(full);
                named_sync(LOADERS, WARPGROUP); /* all have read: the next may come */
                if (threadIdx.x == 0)
                    bring_next<SIZE>(a, at, f);
                __syncwarp();
            }
        }
    }
}

/* ---- computing ---- */

template <int SIZE, bool BF16>
__device__ static inline void scores(float (&s)[64], uint32_t queries, uint32_t keys)
{
    enum { SLAB = room<SIZE, false>::slab };
    const uint64_t q = operand(queries, 16, SWIZZLE_ATOM), k = operand(keys, 16, SWIZZLE_ATOM);

#pragma unroll
    for (int i = 0; i < SIZE / 16; i++) {
        const uint64_t at = (i / 4 * SLAB + i % 4 * 32) >> 4;

        wgmma_ss<BF16>(s, q + at, k + at, i > 0);
    }
}

/* The same of keys in E4M3 and queries in two parts of it. */
__device__ static inline void scores8(float (&s)[64], uint32_t queries, uint32_t keys)
{
    const uint64_t q = operand(queries, 16, SWIZZLE_ATOM), k = operand(keys, 16, SWIZZLE_ATOM);

#pragma unroll
    for (int i = 0; i < 2 * SWIZZLE_ROW / 32; i++)
        wgmma_f8(s, q + ((i / 4 * SPAN * SWIZZLE_ROW + i % 4 * 32) >> 4), k + (i % 4 * 32 >> 4), i > 0);
}

template <int SIZE, bool BF16, bool KEYS8>
__device__ static inline void some_scores(float (&s)[64], uint32_t queries, uint32_t keys)
{
    if constexpr (KEYS8)
        scores8(s, queries, keys);
    else
        scores<SIZE, BF16>(s, queries, keys);
}

template <int SIZE, bool BF16>
__device__ static inline void weigh(float (&o)[SIZE / 2], const uint32_t (&p)[32], uint32_t values,
                                    bool add)
{
    const uint64_t v = operand(values, room<SIZE, false>::slab, SWIZZLE_ATOM);

#pragma unroll
    for (int i = 0; i < SPAN / 16; i++)
        wgmma_rs<BF16>(o, p + 4 * i, v + (uint64_t)(i * 16 * SWIZZLE_ROW >> 4), add || i > 0);
}

/* The eight queries of a tile that a thread brings in its turn k: row m, from value 8 c of it on. */
struct eight_queries {
    int m, c;
    size_t from;
    bool there;
};

template <int SIZE>
__device__ static inline eight_queries queries_of(const flash_args &a, const tile &w, int wg, int k)
{
    const int group = a.H / a.K, i = threadIdx.x % WARPGROUP + k * WARPGROUP;
    const int m = wg * 64 + i / (SIZE / 8), c = i % (SIZE / 8), token = m / group;

    return { m, c, ((size_t)(w.t0 + token) * a.H + w.kh * group + m % group) * SIZE + c * 8,
             token < w.n };
}

/* 64 rows of queries, scaled, to shared memory. */
template <int SIZE, bool BF16>
__device__ static inline void load_queries(const flash_args &a, const tile &w, uint8_t *to, int wg)
{
#pragma unroll
    for (int k = 0; k < SIZE / 16; k++) {
        const eight_queries x = queries_of<SIZE>(a, w, wg, k);
        uint4 *const there =
            (uint4 *)(to + x.c / 8 * room<SIZE, false>::slab + swizzled(x.m, x.c % 8));
        float4 f[2] = {};

        if (a.q16) {
            *there = x.there ? *(const uint4 *)(a.q16 + x.from) : make_uint4(0, 0, 0, 0);
            continue;
        }
        if (x.there)
            f[0] = ((const float4 *)(a.q + x.from))[0], f[1] = ((const float4 *)(a.q + x.from))[1];
        *there =
            make_uint4(pair16<BF16>(f[0].x * a.scale, f[0].y * a.scale),
                       pair16<BF16>(f[0].z * a.scale, f[0].w * a.scale),
                       pair16<BF16>(f[1].x * a.scale, f[1].y * a.scale),
                       pair16<BF16>(f[1].z * a.scale, f[1].w * a.scale));
    }
}

/* The same in E4M3, what that leaves of them 128 rows on. */
template <int SIZE>
__device__ static inline void load_queries8(const flash_args &a, const tile &w, uint8_t *to, int wg)
{
#pragma unroll
    for (int k = 0; k < SIZE / 16; k++) {
        const eight_queries x = queries_of<SIZE>(a, w, wg, k);
        uint8_t *const there = to + swizzled(x.m, x.c / 2) + x.c % 2 * 8;
        uint32_t part[2][2];
        float v[8] = {};

        if (x.there && a.q16) {
            const uint4 q = *(const uint4 *)(a.q16 + x.from);
            const uint32_t pair[4] = { q.x, q.y, q.z, q.w };

#pragma unroll
            for (int e = 0; e < 8; e++)
                v[e] = f16_to_f32((uint16_t)(pair[e / 2] >> e % 2 * 16)) * QUERIES_UP;
        } else if (x.there) {
#pragma unroll
            for (int e = 0; e < 8; e++)
                v[e] = a.q[x.from + e] * a.scale * QUERIES_UP;
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            part[0][h] = four_f8(v + 4 * h, 1);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const uint32_t pair = pair_of_f8((uint16_t)(part[0][h] >> e / 2 * 16));

                v[4 * h + e] -= f16_to_f32((uint16_t)(pair >> e % 2 * 16));
            }
            part[1][h] = four_f8(v + 4 * h, 1);
        }
#pragma unroll
        for (int p = 0; p < 2; p++)
            *(uint2 *)(there + p * SPAN * SWIZZLE_ROW) = make_uint2(part[p][0], part[p][1]);
    }
}

/* A row's values times `by`; I: which of the lane's two rows. */
template <int SIZE, int I>
__device__ static inline void put_row(const flash_args &a, const float (&o)[SIZE / 2], float by,
                                      bool live, size_t token, int column)
{
    const int c = threadIdx.x % 4;

#pragma unroll
    for (int j = 0; j < SIZE / 8; j += 4) {
        uint32_t w[4];

#pragma unroll
        for (int k = 0; k < 4; k++) {
            float x = o[4 * (j + k) + 2 * I] * by, y = o[4 * (j + k) + 2 * I + 1] * by;

            if (a.y && live)
                *(float2 *)(a.y + token * a.H * SIZE + column + (j + k) * 8 + 2 * c) =
                    make_float2(x, y);
            w[k] = a.mode16 == PREP_BF16 ? pair16<true>(x, y)
                                         : to16(x, PREP_F16) | (uint32_t)to16(y, PREP_F16) << 16;
        }
        transpose4(w);
        if (a.y16 && live)
            *(uint4 *)(a.y16 + token * a.kp16 + column + (j + c) * 8) =
                make_uint4(w[0], w[1], w[2], w[3]);
    }
}

/* The lane's rows over their sums. */
template <int SIZE>
__device__ static inline void put_rows(const flash_args &a, const tile &w, const rows &r,
                                       const float (&o)[SIZE / 2], int first)
{
    const int group = a.H / a.K;

    put_row<SIZE, 0>(a, o, 1 / r.sum[0], r.slot[0] >= 0, w.t0 + first / group,
                     (w.kh * group + first % group) * SIZE);
    put_row<SIZE, 1>(a, o, 1 / r.sum[1], r.slot[1] >= 0, w.t0 + (first + 8) / group,
                     (w.kh * group + (first + 8) % group) * SIZE);
}

template <int SIZE, bool BF16, bool F8>
__device__ static inline void compute(const flash_args &a, uint8_t *shared, uint32_t at)
{
    using R = room<SIZE, F8>;
    constexpr bool lie = keys8<SIZE, F8>;
    constexpr float scale = lie ? 1.0f / QUERIES_UP : 1;
    const int wg = threadIdx.x / WARPGROUP - 1, group = a.H / a.K, lane = threadIdx.x % WARP;
    const int first = wg * 64 + threadIdx.x % WARPGROUP / WARP * 16 + lane / 4;
    const uint32_t queries = at + wg * 64 * SWIZZLE_ROW, bar = at + R::bars;
    int i = 0; /* spans so far */

    if (wg == 1)
        named_arrive(TURN, 2 * WARPGROUP);
    for (int t = 0;; t++) {
        bar_wait(bar + (K_FULL + i % STAGES) * 8, i / STAGES & 1);
        const tile w = ((const tile *)(shared + R::notes))[t % NOTES];

        if (w.n == 0)
            break;
        const int whole = (a.slot[w.t0] + 1) / SPAN;
        float o[SIZE / 2], s[64], by[2];
        uint32_t p[32];
        rows r = { {}, { -INFINITY, -INFINITY }, {} };

        named_sync(QUERIES + wg, WARPGROUP); /* nobody reads the last tile's any more */
        if constexpr (lie)
            load_queries8<SIZE>(a, w, shared, wg);
        else
            load_queries<SIZE, BF16>(a, w, shared, wg);
        fence_async();
        named_sync(QUERIES + wg, WARPGROUP);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int token = (first + 8 * k) / group;

            r.slot[k] = token < w.n ? a.slot[w.t0 + token] : -1;
        }
#pragma unroll
        for (int k = 0; k < SIZE / 2; k++)
            o[k] = 0;
        wgmma_fence();
        some_scores<SIZE, BF16, lie>(s, queries, at + R::keys + i % STAGES * R::key_tile);
        wgmma_commit();
        wgmma_wait<0>();
        hold(s);
        if (lane == 0)
            bar_arrive(bar + (K_EMPTY + i % STAGES) * 8);
        mask(s, r, (w.spans - 1) * SPAN);
        soften(s, r, by, scale);
        pack<BF16>(p, s);
        if (w.spans > 1)
            bar_wait(bar + (K_FULL + (i + 1) % STAGES) * 8, (i + 1) / STAGES & 1);
        for (int span = w.spans - 2; span >= 0; span--) {
            const int last = i++, stage = i % STAGES, past = last % STAGES;

            named_sync(TURN + wg, 2 * WARPGROUP);
            wgmma_fence();
            some_scores<SIZE, BF16, lie>(s, queries, at + R::keys + stage * R::key_tile);
            wgmma_commit();
            bar_wait(bar + (V_FULL + past) * 8, last / STAGES & 1);
            wgmma_fence();
            weigh<SIZE, BF16>(o, p, at + R::values + past * R::tile, true);
            wgmma_commit();
            named_arrive(TURN + (wg ^ 1), 2 * WARPGROUP);
            wgmma_wait<1>();
            hold(s);
            if (lane == 0)
                bar_arrive(bar + (K_EMPTY + stage) * 8);
            if (span >= whole)
                mask(s, r, span * SPAN);
            soften(s, r, by, scale);
            hold(s);
            /* here, because the compiler would move all of the above behind the next wait, but
             * moves nothing over a loop */
            if (span > 0)
                bar_wait(bar + (K_FULL + (i + 1) % STAGES) * 8, (i + 1) / STAGES & 1);
            wgmma_wait<0>();
            hold(o);
            if (lane == 0)
                bar_arrive(bar + (V_EMPTY + past) * 8);
#pragma unroll
            for (int k = 0; k < SIZE / 2; k++)
                o[k] *= by[k / 2 % 2];
            pack<BF16>(p, s);
        }
        bar_wait(bar + (V_FULL + i % STAGES) * 8, i / STAGES & 1);
        wgmma_fence();
        weigh<SIZE, BF16>(o, p, at + R::values + i % STAGES * R::tile, true);
        wgmma_commit();
        wgmma_wait<0>();
        hold(o);
        if (lane == 0)
            bar_arrive(bar + (V_EMPTY + i % STAGES) * 8);
        i++;
        sum_lanes(r);
        put_rows<SIZE>(a, w, r, o, first);
    }
    if (wg == 0)
        named_sync(TURN, 2 * WARPGROUP); /* the other's last arrival */
}

template <int SIZE, bool BF16, bool F8>
__device__ static inline void flash_body(const flash_args &a)
{
    using R = room<SIZE, F8>;
    extern __shared__ __align__(1024) uint8_t unaligned[];
    const uint32_t begin = (uint32_t)__cvta_generic_to_shared(unaligned);
    const uint32_t at = (begin + SWIZZLE_ATOM - 1) / SWIZZLE_ATOM * SWIZZLE_ATOM;
    uint8_t *const shared = unaligned + (at - begin);

    if (threadIdx.x == 0) {
        for (int i = 0; i < BARS; i++) {
            const bool empty = (i >= K_EMPTY && i < V_FULL) || (i >= V_EMPTY && i < RAW);

            const bool loaded = F8 && i < RAW && (i >= V_FULL || !keys8<SIZE, F8>);

            bar_init(at + R::bars + i * 8, empty    ? 2 * WARPGROUP / WARP
                                           : loaded ? WARPGROUP
                                                    : 1);
        }
        bar_fence_init();
    }
    __syncthreads();
    if (threadIdx.x < WARPGROUP) {
        registers_less<F8 ? 88 : 24>();
        if constexpr (F8)
            bring_f8<SIZE>(a, shared, at);
        else if (threadIdx.x == 0)
            bring<SIZE>(a, shared, at);
    } else {
        registers_more<F8 ? 208 : 240>();
        compute<SIZE, BF16, F8>(a, shared, at);
    }
}
#endif

/* grid: as many blocks as fit, or as there are tiles and kv heads; 3 warpgroups */
#define FLASH(name, hd, bf16, f8)                                                                  \
    extern "C" __global__ void __launch_bounds__(HOPPER ? 3 * WARPGROUP : WARP, 1)                 \
        flash_wgmma_##name##_##hd(const __grid_constant__ flash_args a)                            \
    {                                                                                              \
        FLASH_BODY(hd, bf16, f8);                                                                  \
    }
#if HOPPER
#define FLASH_BODY(hd, bf16, f8) flash_body<hd, bf16, f8>(a)
#else
#define FLASH_BODY(hd, bf16, f8)
#endif

FLASH(bf16, 64, true, false)
FLASH(bf16, 128, true, false)
FLASH(f16, 64, false, false)
FLASH(f16, 128, false, false)
FLASH(f8, 64, false, true)
FLASH(f8, 128, false, true)
