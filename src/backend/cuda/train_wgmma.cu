/* train_wgmma.cu - training's attention on Hopper: what train_attn.cu computes, with products of
 * whole warpgroups.
 *
 * A block has 128 rows, queries in the forward pass and for dq, keys for dk and dv. Two warpgroups compute, 64 rows each,
 * and one multiplies while the other takes exponents; a warp of a third brings what they meet, a
 * stage of shared memory ahead. Each sum is one warpgroup's, in an order that follows from the
 * sequence alone: the same bits each time. Rows past a sequence's end are those of the next one, or
 * zeros behind the last: no query sees such keys, such queries have no probability, and what is
 * computed for such rows of a block is not stored. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/mma.cuh"
#include "backend/cuda/soften.cuh"
#include "backend/cuda/train_attn.cuh"
#include "backend/cuda/unit.cuh"

enum { ROWS = TRAIN_WGMMA_ROWS, STEP = 64, STAGES_Q = 2, STAGES_KV = 3, CONSUMERS = 2 };
enum { MAP_Q, MAP_K, MAP_V, MAP_DY };       /* train_wgmma_args.map */
enum { TURN = 1 };                          /* named barriers, one for each warpgroup */

/* Shared memory of the forward pass: queries, then keys and values, ROWS at a time; barriers. */
template <int SIZE> struct room_f {
    static constexpr int slab = ROWS * SWIZZLE_ROW, tile = SIZE / 64 * slab;
    static constexpr int keys = tile, values = keys + STAGES_Q * tile;
    static constexpr int bars = values + STAGES_Q * tile;
    /* keys' stages before values' */
    static constexpr int own = bars, full = bars + 8, empty = full + 8 * 2 * STAGES_Q;
    static constexpr int all = empty + 8 * 2 * STAGES_Q;
};

/* Shared memory for dq: queries and dy, then keys and values, ROWS at a time; barriers. */
template <int SIZE> struct room_q {
    static constexpr int slab = ROWS * SWIZZLE_ROW, tile = SIZE / 64 * slab;
    static constexpr int dy = tile, keys = 2 * tile, values = keys + STAGES_Q * tile;
    static constexpr int bars = values + STAGES_Q * tile;
    static constexpr int own = bars, full = bars + 8, empty = full + 8 * STAGES_Q;
    static constexpr int all = empty + 8 * STAGES_Q;
};

/* For dk and dv: keys and values, then queries and dy, STEP at a time, and those queries' log-sums
 * and dots. */
template <int SIZE> struct room_kv {
    static constexpr int own_slab = ROWS * SWIZZLE_ROW, own_tile = SIZE / 64 * own_slab;
    static constexpr int slab = STEP * SWIZZLE_ROW, tile = SIZE / 64 * slab;
    static constexpr int values = own_tile, queries = 2 * own_tile;
    static constexpr int dy = queries + STAGES_KV * tile, sums = dy + STAGES_KV * tile;
    static constexpr int bars = sums + STAGES_KV * 2 * STEP * 4;
    static constexpr int own = bars, full = bars + 8, empty = full + 8 * STAGES_KV;
    static constexpr int all = empty + 8 * STAGES_KV;
};

static_assert(room_f<128>::all < room_q<128>::all && room_f<64>::all < room_q<64>::all &&
                  room_q<128>::all + SWIZZLE_ATOM <= TRAIN_WGMMA_SHARED(128) &&
                  room_q<64>::all + SWIZZLE_ATOM <= TRAIN_WGMMA_SHARED(64) &&
                  room_kv<128>::all + SWIZZLE_ATOM <= TRAIN_WGMMA_SHARED(128) &&
                  room_kv<64>::all + SWIZZLE_ATOM <= TRAIN_WGMMA_SHARED(64),
              "the host asks for enough shared memory");

#if HOPPER
/* N rows from row r of the batch on, head h. */
template <int SIZE, int N>
__device__ static inline void bring(uint32_t to, const void *map, int r, int h, uint32_t bar)
{
#pragma unroll
    for (int c = 0; c < SIZE / 64; c++)
#pragma unroll
        for (int i = 0; i < N; i += TRAIN_WGMMA_BOX)
            tile_copy(to + (c * N + i) * SWIZZLE_ROW, map, h * SIZE + c * 64, r + i, bar);
}

/* s = a b, both K-major, SIZE values of the sum; A, B: bytes of 64 values of theirs. */
template <int SIZE, int A, int B, int N>
__device__ static inline void rows_by_rows(float (&s)[N], uint32_t left, uint32_t right)
{
    const uint64_t a = operand(left, 16, SWIZZLE_ATOM), b = operand(right, 16, SWIZZLE_ATOM);

#pragma unroll
    for (int i = 0; i < SIZE / 16; i++)
        wgmma_ss<true>(s, a + ((i / 4 * A + i % 4 * 32) >> 4), b + ((i / 4 * B + i % 4 * 32) >> 4),
                       i > 0);
    wgmma_commit();
}

/* o += p b; b: N rows, 64 columns of which are SLAB bytes. */
template <int N, int SLAB, int COLS>
__device__ static inline void add_rows(float (&o)[COLS], const uint32_t (&p)[N / 4], uint32_t rows)
{
    const uint64_t b = operand(rows, SLAB, SWIZZLE_ATOM);

#pragma unroll
    for (int i = 0; i < N / 16; i++)
        wgmma_rs<true>(o, p + 4 * i, b + (uint64_t)(i * 16 * SWIZZLE_ROW >> 4), true);
    wgmma_commit();
}

/* The lane's rows `first` and first + 8 of the tile, times by[0] and by[1]. */
template <int SIZE>
__device__ static inline void store(void *to, const float (&o)[SIZE / 2], const tile &t, int first,
                                    int heads, int h, const float (&by)[2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int m = first + 8 * i;

        if (m >= t.n)
            continue;
        uint16_t *p = (uint16_t *)to + ((size_t)(t.t0 + t.at + m) * heads + h) * SIZE +
                      threadIdx.x % 4 * 2;

#pragma unroll
        for (int j = 0; j < SIZE / 8; j++)
            *(uint32_t *)(p + 8 * j) = pair16<true>(o[4 * j + 2 * i] * by[i], o[4 * j + 2 * i + 1] * by[i]);
    }
}

__device__ static inline uint32_t aligned_room(void)
{
    extern __shared__ __align__(1024) uint8_t unaligned[];
    const uint32_t begin = (uint32_t)__cvta_generic_to_shared(unaligned);

    return (begin + SWIZZLE_ATOM - 1) / SWIZZLE_ATOM * SWIZZLE_ATOM;
}

/* Barriers of a block: one for its own rows, `stages` that are full after so many arrivals, and as
 * many that are empty after one of each warp that computes. */
__device__ static inline void init_bars(uint32_t own, int stages, int arrivals)
{
    if (threadIdx.x == 0) {
        bar_init(own, 1);
        for (int i = 0; i < stages; i++) {
            bar_init(own + 8 + 8 * i, arrivals);
            bar_init(own + 8 + 8 * (stages + i), CONSUMERS * WARPGROUP / WARP);
        }
        bar_fence_init();
    }
    __syncthreads();
}

/* What each row's dy and o have in common, for the lane's two; nothing past the tile's end. */
template <int SIZE>
__device__ static inline void make_dots(float dot[2], const train_attn_args &a, const tile &t,
                                        int first, int h)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const size_t row = (size_t)(t.t0 + t.at + first + 8 * i) * a.H + h;
        const uint4 *x = (const uint4 *)((const uint16_t *)a.o + row * SIZE);
        const uint4 *y = (const uint4 *)((const uint16_t *)a.dy + row * SIZE);

        dot[i] = 0;
        for (int k = threadIdx.x % 4; k < SIZE / 8 && first + 8 * i < t.n; k += 4) {
            const uint4 v = x[k], w = y[k];
            const uint32_t vs[4] = { v.x, v.y, v.z, v.w }, ws[4] = { w.x, w.y, w.z, w.w };

#pragma unroll
            for (int e = 0; e < 8; e++)
                dot[i] = fmaf(bf16_to_f32(vs[e / 2] >> e % 2 * 16),
                              bf16_to_f32(ws[e / 2] >> e % 2 * 16), dot[i]);
        }
        dot[i] += __shfl_xor_sync(~0u, dot[i], 1);
        dot[i] += __shfl_xor_sync(~0u, dot[i], 2);
    }
}

/* ---- forward ---- */

template <int SIZE>
__device__ static inline void bring_f(const train_wgmma_args &w, const tile &t, int h, uint32_t at)
{
    using R = room_f<SIZE>;
    const int kh = h / (w.a.H / w.a.K);

    bar_expect(at + R::own, R::tile);
    bring<SIZE, ROWS>(at, &w.map[MAP_Q], t.t0 + t.at, h, at + R::own);
    for (int s = t.at / ROWS, i = 0; s >= 0; s--, i++)
#pragma unroll
        for (int kv = 0; kv < 2; kv++) {
            const int stage = i % STAGES_Q, bar = 8 * (kv * STAGES_Q + stage);

            bar_wait(at + R::empty + bar, i / STAGES_Q & 1 ^ 1);
            bar_expect(at + R::full + bar, R::tile);
            bring<SIZE, ROWS>(at + (kv ? R::values : R::keys) + stage * R::tile,
                              kv ? &w.map[MAP_V] : &w.map[MAP_K], t.t0 + s * ROWS, kh,
                              at + R::full + bar);
        }
}

/* As in flash_wgmma.cu: scores of the next keys and the sum over the last values are under way
 * together, and the warpgroups take turns to ask for them. */
template <int SIZE>
__device__ static inline void compute_f(const train_attn_args &a, const tile &t, int h, uint32_t at)
{
    using R = room_f<SIZE>;
    const int wg = threadIdx.x / WARPGROUP - 1, lane = threadIdx.x % WARP;
    const int first = threadIdx.x % WARPGROUP / WARP * 16 + wg * 64 + lane / 4;
    const uint32_t own = at + wg * 64 * SWIZZLE_ROW;
    const uint32_t k_full = at + R::full, v_full = k_full + 8 * STAGES_Q;
    const uint32_t k_empty = at + R::empty, v_empty = k_empty + 8 * STAGES_Q;
    const float scale = a.scale * LOG2E;
    float o[SIZE / 2], s[64], by[2];
    uint32_t p[32];
    rows r = { { t.at + first, t.at + first + 8 }, { -INFINITY, -INFINITY }, {} };
    int i = 0;

    if (wg == 1)
        named_arrive(TURN, CONSUMERS * WARPGROUP);
#pragma unroll
    for (int k = 0; k < SIZE / 2; k++)
        o[k] = 0;
    bar_wait(at + R::own, 0);
    bar_wait(k_full, 0);
    wgmma_fence();
    rows_by_rows<SIZE, R::slab, R::slab>(s, own, at + R::keys);
    wgmma_wait<0>();
    hold(s);
    if (lane == 0)
        bar_arrive(k_empty);
    mask(s, r, t.at);
    soften(s, r, by, scale);
    pack<true>(p, s);
    for (int span = t.at / ROWS - 1; span >= 0; span--) {
        const int last = i++, stage = i % STAGES_Q, past = last % STAGES_Q;

        bar_wait(k_full + 8 * stage, i / STAGES_Q & 1);
        named_sync(TURN + wg, CONSUMERS * WARPGROUP);
        wgmma_fence();
        rows_by_rows<SIZE, R::slab, R::slab>(s, own, at + R::keys + stage * R::tile);
        bar_wait(v_full + 8 * past, last / STAGES_Q & 1);
        wgmma_fence();
        add_rows<ROWS, R::slab>(o, p, at + R::values + past * R::tile);
        named_arrive(TURN + (wg ^ 1), CONSUMERS * WARPGROUP);
        wgmma_wait<1>();
        hold(s);
        if (lane == 0)
            bar_arrive(k_empty + 8 * stage);
        soften(s, r, by, scale);
        hold(s);
        wgmma_wait<0>();
        hold(o);
        if (lane == 0)
            bar_arrive(v_empty + 8 * past);
#pragma unroll
        for (int k = 0; k < SIZE / 2; k++)
            o[k] *= by[k / 2 % 2];
        pack<true>(p, s);
    }
    bar_wait(v_full + 8 * (i % STAGES_Q), i / STAGES_Q & 1);
    wgmma_fence();
    add_rows<ROWS, R::slab>(o, p, at + R::values + i % STAGES_Q * R::tile);
    wgmma_wait<0>();
    hold(o);
    if (wg == 0)
        named_sync(TURN, CONSUMERS * WARPGROUP); /* the other's last arrival */
    sum_lanes(r);
#pragma unroll
    for (int k = 0; k < 2; k++)
        if (lane % 4 == 0 && first + 8 * k < t.n)
            a.lse[(size_t)(t.t0 + t.at + first + 8 * k) * a.H + h] =
                r.max[k] * a.scale + logf(r.sum[k]);
    store<SIZE>(a.o, o, t, first, a.H, h, { 1 / r.sum[0], 1 / r.sum[1] });
}

template <int SIZE> __device__ static inline void forward(const train_wgmma_args &w)
{
    const uint32_t at = aligned_room();
    /* last tiles, which see most, first */
    const tile t = find_tile<ROWS>(w.a, gridDim.x - 1 - blockIdx.x);
    const int h = blockIdx.y;

    if (t.n == 0)
        return;
    init_bars(at + room_f<SIZE>::own, 2 * STAGES_Q, 1);
    if (threadIdx.x < WARPGROUP) {
        registers_less<24>();
        if (threadIdx.x == 0)
            bring_f<SIZE>(w, t, h, at);
    } else {
        registers_more<240>();
        compute_f<SIZE>(w.a, t, h, at);
    }
}

/* ---- dq, and dots ---- */

template <int SIZE>
__device__ static inline void bring_keys(const train_wgmma_args &w, const tile &t, int h, uint32_t at)
{
    using R = room_q<SIZE>;
    const int kh = h / (w.a.H / w.a.K);

    bar_expect(at + R::own, 2 * R::tile);
    bring<SIZE, ROWS>(at, &w.map[MAP_Q], t.t0 + t.at, h, at + R::own);
    bring<SIZE, ROWS>(at + R::dy, &w.map[MAP_DY], t.t0 + t.at, h, at + R::own);
    for (int s = t.at / ROWS, i = 0; s >= 0; s--, i++) {
        const int stage = i % STAGES_Q;
        const uint32_t full = at + R::full + 8 * stage;

        bar_wait(at + R::empty + 8 * stage, i / STAGES_Q & 1 ^ 1);
        bar_expect(full, 2 * R::tile);
        bring<SIZE, ROWS>(at + R::keys + stage * R::tile, &w.map[MAP_K], t.t0 + s * ROWS, kh, full);
        bring<SIZE, ROWS>(at + R::values + stage * R::tile, &w.map[MAP_V], t.t0 + s * ROWS, kh,
                          full);
    }
}

template <int SIZE>
__device__ static inline void compute_q(const train_attn_args &a, const tile &t, int h, uint32_t at)
{
    using R = room_q<SIZE>;
    const int wg = threadIdx.x / WARPGROUP - 1, lane = threadIdx.x % WARP;
    const int first = threadIdx.x % WARPGROUP / WARP * 16 + wg * 64 + lane / 4;
    const uint32_t own = at + wg * 64 * SWIZZLE_ROW;
    const float scale = a.scale * LOG2E;
    float dq[SIZE / 2], lse[2], dot[2];

    make_dots<SIZE>(dot, a, t, first, h);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int m = first + 8 * i;
        const size_t row = (size_t)(t.t0 + t.at + m) * a.H + h;

        lse[i] = m < t.n ? a.lse[row] * LOG2E : INFINITY;
        if (lane % 4 == 0 && m < t.n)
            a.dots[row] = dot[i];
    }
#pragma unroll
    for (int k = 0; k < SIZE / 2; k++)
        dq[k] = 0;
    bar_wait(at + R::own, 0);
    for (int span = t.at / ROWS, i = 0; span >= 0; span--, i++) {
        const int stage = i % STAGES_Q;
        const uint32_t keys = at + R::keys + stage * R::tile;
        float s[64], dp[64];
        uint32_t p[32];

        bar_wait(at + R::full + 8 * stage, i / STAGES_Q & 1);
        wgmma_fence();
        rows_by_rows<SIZE, R::slab, R::slab>(s, own, keys);
        rows_by_rows<SIZE, R::slab, R::slab>(dp, own + R::dy, at + R::values + stage * R::tile);
        wgmma_wait<1>();
        hold(s);
        /* keys of the tile's own span: not all are seen */
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const bool live = i > 0 || j * 8 + lane % 4 * 2 + e % 2 <= first + e / 2 * 8;
                float &x = s[4 * j + e];

                x = live ? exp2_fast(fmaf(x, scale, -lse[e / 2])) : 0;
            }
        wgmma_wait<0>();
        hold(dp);
#pragma unroll
        for (int k = 0; k < 64; k++)
            s[k] *= dp[k] - dot[k / 2 % 2];
        pack<true>(p, s);
        wgmma_fence();
        add_rows<ROWS, R::slab>(dq, p, keys);
        wgmma_wait<0>();
        hold(dq);
        if (lane == 0)
            bar_arrive(at + R::empty + 8 * stage);
    }
    store<SIZE>(a.dq, dq, t, first, a.H, h, { a.scale, a.scale });
}

template <int SIZE> __device__ static inline void backward_q(const train_wgmma_args &w)
{
    const uint32_t at = aligned_room();
    /* last tiles, which see most, first */
    const tile t = find_tile<ROWS>(w.a, gridDim.x - 1 - blockIdx.x);
    const int h = blockIdx.y;

    if (t.n == 0)
        return;
    init_bars(at + room_q<SIZE>::own, STAGES_Q, 1);
    if (threadIdx.x < WARPGROUP) {
        registers_less<24>();
        if (threadIdx.x == 0)
            bring_keys<SIZE>(w, t, h, at);
    } else {
        registers_more<240>();
        compute_q<SIZE>(w.a, t, h, at);
    }
}

/* ---- dk and dv of a kv head: scores lie across, a row is a key ---- */

/* Blocks of STEP queries, `per` of each query head: all that see a key of the tile. */
struct queries {
    int per, group;
};

/* By a warp. */
template <int SIZE>
__device__ static inline void bring_queries(const train_wgmma_args &w, const tile &t, int kh,
                                            const queries &all, uint32_t at, uint8_t *shared)
{
    using R = room_kv<SIZE>;
    const train_attn_args &a = w.a;

    if (threadIdx.x == 0) {
        bar_expect(at + R::own, 2 * R::own_tile);
        bring<SIZE, ROWS>(at, &w.map[MAP_K], t.t0 + t.at, kh, at + R::own);
        bring<SIZE, ROWS>(at + R::values, &w.map[MAP_V], t.t0 + t.at, kh, at + R::own);
    }
    for (int b = 0; b < all.per * all.group; b++) {
        const int stage = b % STAGES_KV, r = t.at + b % all.per * STEP;
        const int h = kh * all.group + b / all.per;
        const uint32_t full = at + R::full + 8 * stage;
        float *const sums = (float *)(shared + R::sums) + stage * 2 * STEP;

        bar_wait(at + R::empty + 8 * stage, b / STAGES_KV & 1 ^ 1);
        if (threadIdx.x == 0) {
            bar_expect(full, 2 * R::tile);
            bring<SIZE, STEP>(at + R::queries + stage * R::tile, &w.map[MAP_Q], t.t0 + r, h, full);
            bring<SIZE, STEP>(at + R::dy + stage * R::tile, &w.map[MAP_DY], t.t0 + r, h, full);
        }
#pragma unroll
        for (int i = threadIdx.x; i < STEP; i += WARP) {
            const bool there = r + i < t.len; /* else it has no probability */
            const size_t row = (size_t)(t.t0 + min(r + i, t.len - 1)) * a.H + h;

            sums[i] = there ? a.lse[row] * LOG2E : INFINITY;
            sums[STEP + i] = a.dots[row];
        }
        bar_arrive(full);
    }
}

template <int SIZE>
__device__ static inline void compute_kv(const train_attn_args &a, const tile &t, int kh,
                                         const queries &all, uint32_t at, const uint8_t *shared)
{
    using R = room_kv<SIZE>;
    const int wg = threadIdx.x / WARPGROUP - 1, lane = threadIdx.x % WARP, c = lane % 4;
    const int first = threadIdx.x % WARPGROUP / WARP * 16 + wg * 64 + lane / 4;
    const uint32_t own = at + wg * 64 * SWIZZLE_ROW;
    const float scale = a.scale * LOG2E;
    float dk[SIZE / 2], dv[SIZE / 2];

#pragma unroll
    for (int k = 0; k < SIZE / 2; k++)
        dk[k] = dv[k] = 0;
    bar_wait(at + R::own, 0);
    for (int b = 0; b < all.per * all.group; b++) {
        const int stage = b % STAGES_KV, r = b % all.per * STEP; /* the first query of the tile's */
        const uint32_t queries = at + R::queries + stage * R::tile;
        const uint32_t dy = at + R::dy + stage * R::tile;
        const float *const sums = (const float *)(shared + R::sums) + stage * 2 * STEP;

        bar_wait(at + R::full + 8 * stage, b / STAGES_KV & 1);
        if (r + STEP > wg * 64) { /* some query sees some key of the warpgroup */
            const bool whole = r >= wg * 64 + 63;
            float s[32], dp[32];
            uint32_t p[16], ds[16];

            wgmma_fence();
            rows_by_rows<SIZE, R::own_slab, R::slab>(s, own, queries);
            rows_by_rows<SIZE, R::own_slab, R::slab>(dp, own + R::values, dy);
            wgmma_wait<1>();
            hold(s);
#pragma unroll
            for (int j = 0; j < STEP / 8; j++) {
                const float2 lse = *(const float2 *)&sums[j * 8 + 2 * c];

#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const bool live = whole || r + j * 8 + 2 * c + e % 2 >= first + e / 2 * 8;
                    float &x = s[4 * j + e];

                    x = live ? exp2_fast(fmaf(x, scale, e % 2 ? -lse.y : -lse.x)) : 0;
                }
            }
            pack<true>(p, s);
            wgmma_fence();
            add_rows<STEP, R::slab>(dv, p, dy);
            wgmma_wait<1>();
            hold(dp);
#pragma unroll
            for (int j = 0; j < STEP / 8; j++) {
                const float2 dot = *(const float2 *)&sums[STEP + j * 8 + 2 * c];

#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[4 * j + e] *= dp[4 * j + e] - (e % 2 ? dot.y : dot.x);
            }
            pack<true>(ds, s);
            wgmma_fence();
            add_rows<STEP, R::slab>(dk, ds, queries);
            wgmma_wait<0>();
            hold(dk);
            hold(dv);
        }
        if (lane == 0)
            bar_arrive(at + R::empty + 8 * stage);
    }
    store<SIZE>(a.dk, dk, t, first, a.K, kh, { a.scale, a.scale });
    store<SIZE>(a.dv, dv, t, first, a.K, kh, { 1, 1 });
}

template <int SIZE> __device__ static inline void backward_kv(const train_wgmma_args &w)
{
    extern __shared__ __align__(1024) uint8_t unaligned[];
    const uint32_t at = aligned_room();
    uint8_t *const shared = unaligned + (at - (uint32_t)__cvta_generic_to_shared(unaligned));
    const tile t = find_tile<ROWS>(w.a, blockIdx.x); /* first tiles are seen by most */
    const queries all = { (t.len - t.at + STEP - 1) / STEP, w.a.H / w.a.K };
    const int kh = blockIdx.y;

    if (t.n == 0)
        return;
    init_bars(at + room_kv<SIZE>::own, STAGES_KV, 1 + WARP);
    if (threadIdx.x < WARPGROUP) {
        registers_less<24>();
        if (threadIdx.x < WARP)
            bring_queries<SIZE>(w, t, kh, all, at, shared);
    } else {
        registers_more<240>();
        compute_kv<SIZE>(w.a, t, kh, all, at, shared);
    }
}
#endif

/* grids: (tiles of all sequences, query heads), for dk and dv, after it, (tiles, kv heads);
 * TRAIN_WGMMA_THREADS, TRAIN_WGMMA_SHARED */
#define ATTN(name, body, hd)                                                                       \
    extern "C" __global__ void __launch_bounds__(HOPPER ? TRAIN_WGMMA_THREADS : WARP, 1)           \
        train_wgmma_##name##_##hd(const __grid_constant__ train_wgmma_args a)                      \
    {                                                                                              \
        ATTN_BODY(body, hd);                                                                       \
    }
#if HOPPER
#define ATTN_BODY(body, hd) body<hd>(a)
#else
#define ATTN_BODY(body, hd)
#endif

ATTN(fwd, forward, 64)
ATTN(fwd, forward, 128)
ATTN(bwd_q, backward_q, 64)
ATTN(bwd_q, backward_q, 128)
ATTN(bwd_kv, backward_kv, 64)
ATTN(bwd_kv, backward_kv, 128)
