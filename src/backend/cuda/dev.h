/* dev.h - what host code and kernels both know: weights on the device, arguments of kernels.
 *
 * A weight lies either as in its file (DEV_RAW; every encoding, every shape) or packed for the
 * tensor cores. A packed row is padded to KP = a multiple of 128 columns, with zeros, and cut into
 * chunks of 128: four blocks of 32. A warp's lane reads 8 columns of each block, block j's from
 * column 32 j + 8 c, c = lane % 4; packed codes lie so that these are neighbours:
 *
 *   DEV_B16, DEV_H16   bf16, f16    as they are
 *   DEV_F8, DEV_U8     E4M3; q      16 bytes = c's columns of block j, then of j + 1 (j = 0, 2)
 *   DEV_U4             q            16 bytes = four words, c's columns of blocks 0 .. 3; within a
 *                                   word column e is in nibble e / 2 + 4 (e % 2)
 *
 * and mean scale * E4M3 or scale * (q - zero) or, with `pair`, scale * q + second of the pair.
 * Scales are [rows / row_group][ceil(cols / group)] in scale_enc, zeros [rows][..] bytes. */
#ifndef PUNA_BACKEND_CUDA_DEV_H
#define PUNA_BACKEND_CUDA_DEV_H

#include <stdint.h>

enum dev_enc {
#define ENC(id, name, block, bytes, gguf, decode, encode) DEV_ENC_##id,
#include "format/enc/enc.def"
#undef ENC
};

enum dev_kind { DEV_RAW, DEV_B16, DEV_H16, DEV_F8, DEV_U8, DEV_U4, DEV_KINDS };

enum { DEV_CHUNK = 128, DEV_TILE = 16, DEV_MAX_ROWS = 64 };

struct dev_weight {
    int kind, enc; /* enum dev_kind, enum enc */
    int rows, cols, kp;
    int group, row_group, n_groups;
    int scale_enc, round, nested_group, zero_const;
    int minus_one, pair;
    float scale_by, nested_offset;
    unsigned long long row_bytes;
    const uint8_t *q, *scale, *zero, *group_of, *map, *nested_map, *nested_absmax;
    const int32_t *order; /* packed column k is input order[k]; NULL = k */
};

/* One matrix of a product: y [T, rows]. */
struct dev_out {
    struct dev_weight w;
    float *y;
    int tile0; /* first tile of 16 rows among those of all */
};

enum { DEV_OUTS = 3 };

struct tile_args {
    struct dev_out out[DEV_OUTS];
    int n, T, add;
    const uint16_t *x; /* [T][kp] bf16 or f16 */
    const float *xsum; /* [T][kp / 32], for pairs */
};

enum prep_mode { PREP_BF16, PREP_F16 };

struct act_args {
    float *y;
    const float *x;
    int T, cols, act, group, bf16; /* act: enum act */
    float bound, scale;
};

/* The batch as kernels see it, and the cache of one layer. */
struct attn_args {
    float *y;       /* [T, H * hd] */
    const float *q; /* [T, H * hd] */
    float *part;    /* [T][H][splits][hd + 2]; NULL with one split */
    const uint8_t *k, *v;
    const int32_t *slot, *seq;
    const int32_t *const *table;
    int H, K, hd, splits, span; /* span: slots of a split, a multiple of the cache's block */
    float scale;
    uint16_t *y16; /* [T][kp16], NULL = not wanted */
    int mode16, kp16;
};

#endif
