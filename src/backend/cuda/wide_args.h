/* wide_args.h - what wide_wgmma.cu and those who launch it know. */
#ifndef PUNA_BACKEND_CUDA_WIDE_ARGS_H
#define PUNA_BACKEND_CUDA_WIDE_ARGS_H

#include "backend/cuda/dev.h"

/* Warps that compute, a record of a step each, and more; threads; blocks of a team, at most. */
enum { WG_WARPS = 16, WG_BRINGING = 4, WG_THREADS = 32 * (WG_WARPS + WG_BRINGING), WG_BLOCKS = 8 };
/* Bytes of a stage with n rows of x and `ways` records of a tile; of a group's sums, as warps have
 * them; of two barriers a stage. */
#define WG_STAGE(rec, cols, n, ways)                                                               \
    (((ways) * (n) * (cols)*2 + WG_WARPS * (rec) + 1023) / 1024 * 1024)
#define WG_SUMS(n)       (WG_WARPS * DEV_TILE * (n)*4)
#define WG_BARS(stages)  ((stages)*16)
#define WG_BESIDES(kind) (1024 + ((kind) == DEV_N4 ? LUT_N4 : 0))

/* What the blocks of a product read of its weights: n outputs, gate and up by turns or one after
 * the other. Team k has groups k, k + teams, ...; each of its blocks `per` steps of them, the first
 * `more` one more. */
struct wg_records {
    const uint8_t *q[DEV_OUTS];
    int tile0[DEV_OUTS];
    int n, gated, tiles;        /* tiles of all outputs */
    int each, step, bytes;      /* tiles of a group; bytes of a tile's step, of all its steps */
    int team, teams, per, more; /* blocks of a team */
};

struct wg_args {
    struct wg_records now;
    int ways, stages, stage;      /* records of a tile in a step; of the ring; bytes of one */
    int table, sums, bars, apart; /* where they lie in shared memory; sums apart from the ring */
    int image;                    /* how y16 lies (image.cuh) */
    struct stream_args s;         /* out, n, T, tiles, add, x: its image, swiglu with y16 */
    float *part;                  /* [groups][team] a group's sums; zero before and after */
    struct wg_records next; /* product, of which each block asks for what one reads first */
    int ahead;              /* so many steps; 0: there is no next one */
};

#endif
