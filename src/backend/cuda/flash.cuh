/* flash.cuh - what both kernels of prompts' attention share (flash.cu, flash_wgmma.cu). */
#pragma once

#include "backend/cuda/cache.cuh"
#include "backend/cuda/mma.cuh"

/* Tile number i: first row and number of rows of the batch, 0 where there is none. Last tiles,
 * which see most, come first. */
__device__ static inline void find_tile(const flash_args &a, int tiles, int i, int *t0, int *n)
{
    i = tiles - 1 - i;
    for (int r = 0; r < a.n_runs; r++) {
        const int rows = a.runs[2 * r + 1], here = (rows + a.tokens - 1) / a.tokens;

        if (i < here) {
            *t0 = a.runs[2 * r] + i * a.tokens;
            *n = min(a.tokens, rows - i * a.tokens);
            return;
        }
        i -= here;
    }
    *t0 = *n = 0;
}
