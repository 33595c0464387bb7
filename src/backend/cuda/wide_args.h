/* wide_args.h - what wide_wgmma.cu and those who launch it know. */
#ifndef PUNA_BACKEND_CUDA_WIDE_ARGS_H
#define PUNA_BACKEND_CUDA_WIDE_ARGS_H

#include "backend/cuda/dev.h"

/* Tiles of a step; threads, a warpgroup more than they take. */
enum { WG_TILES = 16, WG_THREADS = 32 * (WG_TILES + 4) };
/* Bytes of a stage with n rows of x and `ways` records of a tile; of where sums of two ways, or of
 * gate and up, meet; of all else. */
#define WG_STAGE(rec, cols, n, ways) ((ways) * (n) * (cols)*2 + WG_TILES * (rec) + 16)
#define WG_MEET(ways, gated, n)      ((ways) > 1 || (gated) ? WG_TILES / 2 * DEV_TILE * (n)*4 : 0)
#define WG_BESIDES(kind)             (1024 + ((kind) == DEV_N4 ? LUT_N4 : 0))

struct wg_args {
    struct stream_args s;     /* out, n, T, tiles, add, x: its image, swiglu with y16 */
    float *part;              /* [2 blocks] a group's sums, as threads have them */
    int *done;                /* [groups] parts that are there; zero before and after */
    int ways;                 /* 1 or 2 */
    int steps, total, stages; /* of a group, of all; of the ring */
    int image;                /* how y16 lies (image.cuh) */
};

#endif
