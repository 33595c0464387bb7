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
enum { FULL = STAGES * STAGE, EMPTY = FULL + 8 * STAGES };

#if HOPPER
/* First row of x and column of y of tile i, of `lines` tiles of x. */
__device__ static inline void find(int i, int lines, int *t0, int *n0)
{
    *t0 = i % lines * GEMM_ROWS;
    *n0 = i / lines * GEMM_COLS;
}

/* By one thread. */
__device__ static inline void bring(const gemm_args &a, uint32_t at, int tiles, int lines, int per)
{
    int stage = 0, parity = 0;

    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        int t0, n0;

        find(i, lines, &t0, &n0);
        for (int k = 0; k < a.K; k += per) {
            const uint32_t to = at + stage * STAGE, full = at + FULL + 8 * stage;

            bar_wait(at + EMPTY + 8 * stage, parity ^ 1);
            bar_expect(full, STAGE);
            tile_copy(to, &a.x, k, t0, full);
            tile_copy(to + X_TILE, &a.w[0], k, n0, full);
            tile_copy(to + X_TILE + W_TILE, &a.w[1], k, n0, full);
            if (++stage == STAGES)
                stage = 0, parity ^= 1;
        }
    }
}

/* x / (1 + exp(-x)) * u */
__device__ static inline float gate(float x, float u)
{
    return x * u * reciprocal(1 + exp2_fast(-1.44269504f * x));
}

/* A lane's sums, gates and then what they let through, to y: rows g and g + 8 of its warp. */
template <bool F8>
__device__ static inline void put(const gemm_args &a, const float (&d)[128], int t0, int n0)
{
    const int lane = threadIdx.x % WARP, c = lane % 4, row = t0 + lane / 4;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int t = row + 8 * i;
        const float by = F8 && t < a.T ? a.x_scale[t] : 1;

#pragma unroll
        for (int j = 0; j < GEMM_COLS / 8; j += 4) {
            uint32_t w[4];

#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int at = 4 * (j + k) + 2 * i, n = n0 + (j + k) * 8 + 2 * c;
                float2 g = make_float2(d[at], d[at + 1]), u = make_float2(d[64 + at], d[65 + at]);

                if (F8 && n < a.N) {
                    const float2 wg = *(const float2 *)(a.w_scale[0] + n);
                    const float2 wu = *(const float2 *)(a.w_scale[1] + n);

                    g.x *= by * wg.x, g.y *= by * wg.y;
                    u.x *= by * wu.x, u.y *= by * wu.y;
                }
                w[k] = pair16<true>(gate(g.x, u.x), gate(g.y, u.y));
            }
            transpose4(w);
            if (t < a.T && n0 + (j + c) * 8 < a.N)
                *(uint4 *)(a.y + (size_t)t * a.N + n0 + (j + c) * 8) =
                    make_uint4(w[0], w[1], w[2], w[3]);
        }
    }
}

template <bool F8>
__device__ static inline void compute(const gemm_args &a, uint32_t at, int tiles, int lines, int per)
{
    const int rows = (threadIdx.x / WARPGROUP - 1) * 64, lane = threadIdx.x % WARP;
    int stage = 0, parity = 0;

    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        int t0, n0, last = 0;
        float d[128];

        find(i, lines, &t0, &n0);
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
        put<F8>(a, d, t0 + rows + threadIdx.x % WARPGROUP / WARP * 16, n0);
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
            bring(a, at, tiles, lines, per);
    } else {
        registers_more<OTHERS>();
        compute<F8>(a, at, tiles, lines, per);
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
