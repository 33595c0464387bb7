/* train_attn.cuh - what both files of training's attention share (train_attn.cu, train_wgmma.cu). */
#pragma once

#include "backend/cuda/train_dev.h"

static constexpr float LOG2E = 1.44269504088896340736f;

/* A tile of some rows: its sequence's rows t0 .. t0 + len, of which it is `at` .. at + n. */
struct tile {
    int t0, len, at, n;
};

/* Tile number i of ROWS rows each; n = 0 behind the last. */
template <int ROWS> __device__ static inline tile find_tile(const train_attn_args &a, int i)
{
    for (int s = 0; s < a.n_seq; s++) {
        const int len = a.cu[s + 1] - a.cu[s], tiles = (len + ROWS - 1) / ROWS;

        if (i < tiles)
            return { a.cu[s], len, i * ROWS, min(ROWS, len - i * ROWS) };
        i -= tiles;
    }
    return { 0, 0, 0, 0 };
}
