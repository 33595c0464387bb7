/* gemm.cu - products of many rows on Hopper that end in more than a product: silu(x Wg^T) * (x Wu^T),
 * from bf16 or E4M3 with a factor for each row of each.
 *
 * A block takes one tile after the other: 128 rows of x and 128 of either matrix. One thread brings
 * 128 bytes of each row at a time through four stages of shared memory; two warpgroups have 64 rows
 * of x each and both matrices' sums in registers, a gate and what it lets through in the same
 * thread. Tiles come with all rows of x beside the same of W, which are read from memory once.
 *
 * On an H200 clusters of two blocks that share W's tiles took 1.4 times as long, an order of tiles by
 * eights nothing. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/mma.cuh"
#include "backend/cuda/unit.cuh"

enum { STEP = SWIZZLE_ROW /* bytes of a row in a stage */, STAGES = 4, COPIERS = 40, OTHERS = 232 };
enum { X_TILE = GEMM_ROWS * STEP, W_TILE = GEMM_COLS * STEP, STAGE = X_TILE + 2 * W_TILE };
/* Factors of a tile's columns come with its first stage. Where a tile is one stage, those of STAGES
 * tiles are on their way, and the last ones' are read. */
enum { NOTES = STAGES + 1, NOTE = 2 * GEMM_COLS * (int)sizeof(float) };
enum { FACTORS = STAGES * STAGE, FULL = FACTORS + NOTES * NOTE, EMPTY = FULL + 8 * STAGES };
static_assert(GEMM_SHARED == SWIZZLE_ATOM + EMPTY + 8 * STAGES, "what gemm.c asks for");

#if HOPPER
/* First row of x and column of y of tile i, of `lines` tiles of x. */
__device__ static inline void find(int i, int lines, int *t0, int *n0)
{
    *t0 = i % lines * GEMM_ROWS;
    *n0 = i / lines * GEMM_COLS;
}

/* By one thread. */
template <bool F8>
__device__ static inline void bring(const gemm_args &a, uint32_t at, int tiles, int lines, int per)
{
    int stage = 0, parity = 0, note = 0;

    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        int t0, n0;

        find(i, lines, &t0, &n0);
        for (int k = 0; k < a.K; k += per) {
            const uint32_t to = at + stage * STAGE, full = at + FULL + 8 * stage;

            bar_wait(at + EMPTY + 8 * stage, parity ^ 1);
            if (F8 && k == 0) {
                const uint32_t bytes = min(GEMM_COLS, a.N - n0) * (int)sizeof(float);
                const uint32_t there = at + FACTORS + note * NOTE;

                bar_expect(full, STAGE + 2 * bytes);
                bulk_copy(there, a.w_scale[0] + n0, bytes, full);
                bulk_copy(there + NOTE / 2, a.w_scale[1] + n0, bytes, full);
                note = note + 1 == NOTES ? 0 : note + 1;
            } else {
                bar_expect(full, STAGE);
            }
            tile_copy(to, &a.x, k, t0, full);
            tile_copy(to + X_TILE, &a.w[0], k, n0, full);
            tile_copy(to + X_TILE + W_TILE, &a.w[1], k, n0, full);
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

/* A lane's sums, gates and then what they let through, to y: rows g and g + 8 of its warp. by, factor:
 * of those rows, and of the tile's columns of either. */
template <bool F8>
__device__ static inline void put(const gemm_args &a, const float (&d)[128], int t0, int n0,
                                  const float (&by)[2], const float *factor)
{
    const int lane = threadIdx.x % WARP, c = lane % 4, row = t0 + lane / 4;

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

template <bool F8>
__device__ static inline void compute(const gemm_args &a, uint32_t at, const uint8_t *shared,
                                      int tiles, int lines, int per)
{
    const int rows = (threadIdx.x / WARPGROUP - 1) * 64, lane = threadIdx.x % WARP;
    int stage = 0, parity = 0, note = 0;

    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        int t0, n0, last = 0;
        float d[128], by[2] = { 1, 1 };

        find(i, lines, &t0, &n0);
        t0 += rows + threadIdx.x % WARPGROUP / WARP * 16;
#pragma unroll
        for (int k = 0; F8 && k < 2; k++)
            by[k] = t0 + lane / 4 + 8 * k < a.T ? a.x_scale[t0 + lane / 4 + 8 * k] : 0;
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
        wgmma_wait<0>();
        hold(d);
        if (lane == 0)
            bar_arrive(at + EMPTY + 8 * last);
        put<F8>(a, d, t0, n0, by, (const float *)(shared + FACTORS + note * NOTE));
        note = note + 1 == NOTES ? 0 : note + 1;
    }
}

template <bool F8> __device__ static inline void gemm_body(const gemm_args &a)
{
    extern __shared__ __align__(1024) uint8_t unaligned[];
    const uint32_t begin = (uint32_t)__cvta_generic_to_shared(unaligned);
    const uint32_t at = (begin + SWIZZLE_ATOM - 1) / SWIZZLE_ATOM * SWIZZLE_ATOM;
    const int lines = (a.T + GEMM_ROWS - 1) / GEMM_ROWS, per = F8 ? STEP : STEP / 2;
    const int tiles = lines * ((a.N + GEMM_COLS - 1) / GEMM_COLS);

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
            bring<F8>(a, at, tiles, lines, per);
    } else {
        registers_more<OTHERS>();
        compute<F8>(a, at, unaligned + (at - begin), tiles, lines, per);
    }
}
#endif

/* grid: as many blocks as run at once, or as there are tiles; 3 warpgroups */
#define GEMM(name, f8)                                                                             \
    extern "C" __global__ void __launch_bounds__(HOPPER ? GEMM_THREADS : WARP, 1)                  \
        name(const __grid_constant__ gemm_args a)                                                  \
    {                                                                                              \
        GEMM_BODY(f8);                                                                             \
    }
#if HOPPER
#define GEMM_BODY(f8) gemm_body<f8>(a)
#else
#define GEMM_BODY(f8)
#endif

GEMM(gemm_gated_bf16, false)
GEMM(gemm_gated_f8, true)
