/* gemm.cu - products of many rows on Hopper that end in more than a product: silu(x Wg^T) * (x Wu^T),
 * or heads of queries, keys and values, rotated and in the cache, from E4M3 with a factor for each row
 * of each; the former from bf16 too.
 *
 * A block takes one tile after the other: 128 rows of x and 128 of either matrix, or 256 of one. One
 * thread brings 128 bytes of each row at a time through four stages of shared memory; two warpgroups
 * have 64 rows of x each and the sums in registers, a gate and what it lets through, or the values of
 * a pair, in the same thread. Tiles come with all rows of x beside the same of W, which are read from
 * memory once.
 *
 * On an H200 clusters of two blocks that share W's tiles took 1.4 times as long, an order of tiles by
 * eights nothing. */
#include "backend/cuda/gemm.h"
#include "backend/cuda/cache.cuh"
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/turn.cuh"

enum { STEP = SWIZZLE_ROW /* bytes of a row in a stage */, STAGES = 4 };
enum { COPIERS = 24, OTHERS = 240 }; /* registers */
static_assert(COPIERS + 2 * OTHERS <= 3 * 168, "what 384 threads begin with: more never come");
enum { X_TILE = GEMM_ROWS * STEP, W_TILE = GEMM_COLS * STEP, STAGE = X_TILE + 2 * W_TILE };
/* Factors of a tile's columns come with its first stage. Where a tile is one stage, those of STAGES
 * tiles are on their way, and the last ones' are read. */
enum { NOTES = STAGES + 1, NOTE = 2 * GEMM_COLS * (int)sizeof(float) };
enum { FACTORS = STAGES * STAGE, FULL = FACTORS + NOTES * NOTE, EMPTY = FULL + 8 * STAGES };
static_assert(GEMM_SHARED == SWIZZLE_ATOM + EMPTY + 8 * STAGES, "what gemm.c asks for");

#if HOPPER
/* How far the second half of a tile's columns is from the first in W: the other matrix has it, or this
 * one; and columns of a tile in each matrix. */
template <class A> constexpr int beside = GEMM_COLS;
template <> constexpr int beside<gemm_args> = 0;
template <class A> constexpr int columns = GEMM_COLS + beside<A>;

/* First row of x and column of y of tile i, of `lines` tiles of x. */
template <class A> __device__ static inline void find(int i, int lines, int *t0, int *n0)
{
    *t0 = i % lines * GEMM_ROWS;
    *n0 = i / lines * columns<A>;
}

/* Whether some of what is in a tile turns. What it turns by, for each warpgroup's rows, comes behind the
 * tile's last columns as two stages more. */
enum { TURN_ROW = GEMM_HEAD * (int)sizeof(float), TURN_ROWS = GEMM_ROWS / 2 };
static_assert(TURN_ROWS * TURN_ROW <= STAGE, "room of a stage");

__device__ static inline bool turns(const gemm_args &, int)
{
    return false;
}

__device__ static inline bool turns(const gemm_heads_args &a, int n0)
{
    return n0 / GEMM_HEAD < a.H + a.K;
}

__device__ static inline const float *turn_of(const gemm_args &)
{
    return NULL;
}

__device__ static inline const float *turn_of(const gemm_heads_args &a)
{
    return a.turn;
}

/* By one thread. all: a, and where its results go. */
template <bool F8, class A>
__device__ static inline void bring(const A &all, const gemm_args &a, uint32_t at, int tiles, int lines,
                                    int per)
{
    int stage = 0, parity = 0, note = 0;

    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        int t0, n0;

        find<A>(i, lines, &t0, &n0);
        for (int k = 0; k < a.K; k += per) {
            const uint32_t to = at + stage * STAGE, full = at + FULL + 8 * stage;

            bar_wait(at + EMPTY + 8 * stage, parity ^ 1);
            if (F8 && k == 0) {
                const uint32_t bytes = min(GEMM_COLS, a.N - n0) * (int)sizeof(float);
                const uint32_t there = at + FACTORS + note * NOTE;

                bar_expect(full, STAGE + 2 * bytes);
                bulk_copy(there, a.w_scale[0] + n0, bytes, full);
                bulk_copy(there + NOTE / 2, a.w_scale[1] + n0 + beside<A>, bytes, full);
                note = note + 1 == NOTES ? 0 : note + 1;
            } else {
                bar_expect(full, STAGE);
            }
            tile_copy(to, &a.x, k, t0, full);
            tile_copy(to + X_TILE, &a.w[0], k, n0, full);
            tile_copy(to + X_TILE + W_TILE, &a.w[1], k, n0 + beside<A>, full);
            if (++stage == STAGES)
                stage = 0, parity ^= 1;
        }
        for (int t = t0; turns(all, n0) && t < t0 + GEMM_ROWS; t += TURN_ROWS) {
            const uint32_t bytes = max(0, min(TURN_ROWS, a.T - t)) * TURN_ROW, full = at + FULL + 8 * stage;

            bar_wait(at + EMPTY + 8 * stage, parity ^ 1);
            bar_expect(full, bytes);
            if (bytes)
                bulk_copy(at + stage * STAGE, turn_of(all) + (size_t)t * GEMM_HEAD, bytes, full);
            if (++stage == STAGES)
                stage = 0, parity ^= 1;
        }
    }
}

/* 2 h / (1 + exp(-2 h)) * u = (h + h tanh(h)) * u of two values. While this is done nothing is
 * multiplied, and a hyperbolic tangent is one instruction where an exponent and a reciprocal were eight.
 * It is off by 2^-12 of 2 h at most, where rounding to bf16 is by 2^-9 of the result. */
__device__ static inline uint32_t gate(float2 h, float2 u)
{
    return pair16<true>(fmaf(h.x, tanh_fast(h.x), h.x) * u.x, fmaf(h.y, tanh_fast(h.y), h.y) * u.y);
}

/* Where a lane's two rows are in the cache, and what their pairs turn by. */
struct spot {
    int line[2];
    const float4 *turn;
};

__device__ static inline void look_up(const gemm_args &, spot &, int, int) {}

/* A lane's sums, gates and then what they let through, to y: rows `row` and 8 more. by, factor:
 * of those rows, and of the tile's columns of either. */
template <bool F8>
__device__ static inline void put(const gemm_args &a, const spot &, const float (&d)[128], int row,
                                  int n0, const float (&by)[2], const float *factor)
{
    const int c = threadIdx.x % 4;

#pragma unroll
    for (int j = 0; j < GEMM_COLS / 8; j += 4) {
        uint32_t w[2][4];

#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float2 *const f = (const float2 *)(factor + (j + k) * 8 + 2 * c);

#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int at = 4 * (j + k) + 2 * i;
                const float half = by[i] / 2;
                float2 h = make_float2(d[at] * half, d[at + 1] * half);
                float2 u = make_float2(d[64 + at], d[65 + at]);

                if (F8) {
                    h.x *= f[0].x, h.y *= f[0].y;
                    u.x *= by[i] * f[GEMM_COLS / 2].x, u.y *= by[i] * f[GEMM_COLS / 2].y;
                }
                w[i][k] = gate(h, u);
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            transpose4(w[i]);
            if (row + 8 * i < a.T && n0 + (j + c) * 8 < a.N)
                *(uint4 *)(a.y + (size_t)(row + 8 * i) * a.N + n0 + (j + c) * 8) =
                    make_uint4(w[i][0], w[i][1], w[i][2], w[i][3]);
        }
    }
}

/* Before a tile's products: what comes from memory after them would be waited for. */
__device__ static inline void look_up(const gemm_heads_args &a, spot &f, int row, int n0)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
        f.line[i] = n0 / GEMM_HEAD + 1 >= a.H ? a.line[min(row + 8 * i, a.g.T - 1)] : 0;
}

/* Eight columns of either half of a head for each of four lanes, which have them by pairs in each of four
 * w, in 16 bits. to: where the lane's go. */
__device__ static inline void put16(uint16_t *to, uint32_t (&w)[2][4], bool live)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        transpose4(w[half]);
        if (live)
            *(uint4 *)(to + half * (GEMM_HEAD / 2)) =
                make_uint4(w[half][0], w[half][1], w[half][2], w[half][3]);
    }
}

/* The same in E4M3, both halves in a w. */
__device__ static inline void put_f8(uint8_t *to, uint32_t (&w)[4], bool live)
{
    transpose4(w);
    if (!live)
        return;
    *(uint2 *)to = make_uint2(__byte_perm(w[0], w[1], 0x5410), __byte_perm(w[2], w[3], 0x5410));
    *(uint2 *)(to + GEMM_HEAD / 2) =
        make_uint2(__byte_perm(w[0], w[1], 0x7632), __byte_perm(w[2], w[3], 0x7632));
}

/* A lane's sums to where two heads go. */
template <bool F8, int ENC>
__device__ static inline void put_heads(const gemm_heads_args &a, const spot &f, float (&d)[128],
                                        int row, int n0, const float (&by)[2], const float *factor)
{
    constexpr bool bytes = ENC == DEV_ENC_F8_E4M3;
    constexpr int mode = ENC == DEV_ENC_BF16 ? PREP_BF16 : PREP_F16;
    const int c = threadIdx.x % 4;

#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int i = k / 2, j = k % 2 * 4, t = row + 8 * i, column = (j + c) * 8;

        hold(d); /* or factors would be kept from row to row, in more registers than there are */
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int h = n0 / GEMM_HEAD + half - a.H; /* of keys, then of values */
            const float times = h < 0 ? by[i] * a.scale : by[i];
            uint32_t w[2][4];

#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int at = 64 * half + 4 * (j + e) + 2 * i;
                const float2 *const m = (const float2 *)(factor + half * GEMM_COLS + (j + e) * 8 + 2 * c);
                float v[4] = { d[at] * times, d[at + 1] * times, d[at + 32] * times, d[at + 33] * times };

                if (F8) {
                    v[0] *= m[0].x, v[1] *= m[0].y;
                    v[2] *= m[GEMM_HEAD / 4].x, v[3] *= m[GEMM_HEAD / 4].y;
                }
                if (h < a.K) {
                    const float4 turn = f.turn[i * 8 * (TURN_ROW / 16) + (((j + e) * 4 + c) ^ row % 2 * 4)];

                    rotate(v, 0, 2, turn.y, turn.x);
                    rotate(v, 1, 3, turn.w, turn.z);
                }
                if (bytes && h >= 0) {
                    w[0][e] = four_f8(v, 1);
                    continue;
                }
                w[0][e] = two16(v, mode);
                w[1][e] = two16(v + 2, mode);
            }
            const size_t head = h < 0 ? (size_t)t * a.H + a.H + h
                                      : (size_t)f.line[i] + (h < a.K ? h : h - a.K) * KV_BLOCK;
            uint8_t *const to = h < 0 ? (uint8_t *)a.q16 : h < a.K ? a.kc : a.vc;

            if (bytes && h >= 0)
                put_f8(to + head * GEMM_HEAD + column, w[0], t < a.g.T);
            else
                put16((uint16_t *)to + head * GEMM_HEAD + column, w, t < a.g.T);
        }
    }
}

template <bool F8>
__device__ static inline void put(const gemm_heads_args &a, const spot &f, float (&d)[128], int row,
                                  int n0, const float (&by)[2], const float *factor)
{
    if (a.enc == DEV_ENC_BF16)
        put_heads<F8, DEV_ENC_BF16>(a, f, d, row, n0, by, factor);
    else if (a.enc == DEV_ENC_F16)
        put_heads<F8, DEV_ENC_F16>(a, f, d, row, n0, by, factor);
    else
        put_heads<F8, DEV_ENC_F8_E4M3>(a, f, d, row, n0, by, factor);
}

/* all: a, and where its results go. */
template <bool F8, class A>
__device__ static inline void compute(const A &all, const gemm_args &a, uint32_t at, const uint8_t *shared,
                                      int tiles, int lines, int per)
{
    const int rows = (threadIdx.x / WARPGROUP - 1) * 64, lane = threadIdx.x % WARP;
    int stage = 0, parity = 0, note = 0;

    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        int t0, n0, last = 0;
        float d[128], by[2] = { 1, 1 };
        spot f;

        find<A>(i, lines, &t0, &n0);
        t0 += rows + threadIdx.x % WARPGROUP / WARP * 16 + lane / 4;
#pragma unroll
        for (int k = 0; F8 && k < 2; k++)
            by[k] = t0 + 8 * k < a.T ? a.x_scale[t0 + 8 * k] : 0;
        look_up(all, f, t0, n0);
        for (int k = 0; k < a.K; k += per) {
            const uint32_t from = at + stage * STAGE;
            const uint64_t x = operand(from + rows * STEP, 16, SWIZZLE_ATOM);
            const uint64_t w = operand(from + X_TILE, 16, SWIZZLE_ATOM);

            bar_wait(at + FULL + 8 * stage, parity);
            wgmma_fence();
#pragma unroll
            for (int s = 0; s < STEP / 32; s++) {
                if constexpr (F8)
                    wgmma_f8(d, x + 2 * s, w + 2 * s, k > 0 || s > 0);
                else
                    wgmma_ss<true>(d, x + 2 * s, w + 2 * s, k > 0 || s > 0);
            }
            wgmma_commit();
            if (k > 0) {
                wgmma_wait<1>();
                if (lane == 0)
                    bar_arrive(at + EMPTY + 8 * last);
            }
            last = stage;
            if (++stage == STAGES)
                stage = 0, parity ^= 1;
        }
        int kept = -1; /* the stage that this warpgroup reads still */

        for (int half = 0; half < 2 && turns(all, n0); half++) {
            bar_wait(at + FULL + 8 * stage, parity);
            if (rows == half * 64) {
                kept = stage;
                f.turn = (const float4 *)(shared + stage * STAGE) + (t0 % TURN_ROWS) * (TURN_ROW / 16);
            } else if (lane == 0) {
                bar_arrive(at + EMPTY + 8 * stage);
            }
            if (++stage == STAGES)
                stage = 0, parity ^= 1;
        }
        wgmma_wait<0>();
        hold(d);
        if (lane == 0)
            bar_arrive(at + EMPTY + 8 * last);
        put<F8>(all, f, d, t0, n0, by, (const float *)(shared + FACTORS + note * NOTE));
        note = note + 1 == NOTES ? 0 : note + 1;
        __syncwarp();
        if (kept >= 0 && lane == 0)
            bar_arrive(at + EMPTY + 8 * kept);
    }
}

template <bool F8, class A>
__device__ static inline void gemm_body(const A &all, const gemm_args &a)
{
    extern __shared__ __align__(1024) uint8_t unaligned[];
    const uint32_t begin = (uint32_t)__cvta_generic_to_shared(unaligned);
    const uint32_t at = (begin + SWIZZLE_ATOM - 1) / SWIZZLE_ATOM * SWIZZLE_ATOM;
    const int lines = (a.T + GEMM_ROWS - 1) / GEMM_ROWS, per = F8 ? STEP : STEP / 2;
    const int tiles = lines * ((a.N + columns<A> - 1) / columns<A>);

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            bar_init(at + FULL + 8 * i, 1);
            bar_init(at + EMPTY + 8 * i, 2 * WARPGROUP / WARP);
        }
        bar_fence_init();
    }
    __syncthreads();
    if (threadIdx.x < WARPGROUP) {
        registers_less<COPIERS>();
        if (threadIdx.x == 0)
            bring<F8>(all, a, at, tiles, lines, per);
    } else {
        registers_more<OTHERS>();
        compute<F8>(all, a, at, unaligned + (at - begin), tiles, lines, per);
    }
}
#endif

/* grid: as many blocks as run at once, or as there are tiles; 3 warpgroups */
#define GEMM(name, args, g, f8)                                                                    \
    extern "C" __global__ void __launch_bounds__(HOPPER ? GEMM_THREADS : WARP, 1)                  \
        name(const __grid_constant__ args a)                                                       \
    {                                                                                              \
        GEMM_BODY(g, f8);                                                                          \
    }
#if HOPPER
#define GEMM_BODY(g, f8) gemm_body<f8>(a, g)
#else
#define GEMM_BODY(g, f8)
#endif

GEMM(gemm_gated_bf16, gemm_args, a, false)
GEMM(gemm_gated_f8, gemm_args, a, true)
GEMM(gemm_heads_f8, gemm_heads_args, a.g, true)
