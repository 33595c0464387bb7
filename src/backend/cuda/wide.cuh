/* wide.cuh - how sums of wide.cu and wide_wgmma.cu end. */
#pragma once

#include "backend/cuda/stream.cuh"

/* Sum v of row t of x and row `row` of out. */
__device__ static inline void end_sum(const stream_args &a, const dev_out &out, int t, int row, float v)
{
    float *y = out.y + (size_t)t * out.w.rows + row;

    if (out.w.gs == 0)
        v *= scale_at(out.w, row / out.w.row_group);
    *y = a.add ? *y + v : v;
}

/* Where the sums of part `split` for row t of x are. */
__device__ static inline float *part_at(const wide_args &a, int split, int t)
{
    return a.part + ((size_t)split * a.s.T + t) * a.s.tiles * DEV_TILE;
}

/* The parts of the columns of tiles item .. item + n, by the threads of the block that is last. */
__device__ static inline void add_parts(const wide_args &a, int item, int n, int threads)
{
    for (int i = threadIdx.x; i < n * DEV_TILE * a.s.T; i += threads) {
        const int t = i / (n * DEV_TILE), r = item * DEV_TILE + i % (n * DEV_TILE);
        float v = 0;
        int tile;
        const dev_out &out = out_of(a.s, r / DEV_TILE, &tile);
        const int row = tile * DEV_TILE + r % DEV_TILE;

        if (row >= out.w.rows)
            continue;
#pragma unroll 4
        for (int s = 0; s < a.splits; s++)
            v += part_at(a, s, t)[r];
        end_sum(a.s, out, t, row, v);
    }
}
