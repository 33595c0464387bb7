/* dev.h - what host code and kernels both know: weights on the device, arguments of kernels.
 *
 * A weight lies either as in its file (DEV_RAW; every encoding, every shape) or packed for the
 * tensor cores. A packed row is padded to KP = a multiple of 128 columns.
 *
 * DEV_B16, DEV_H16, DEV_F8: bf16, f16, E4M3 in rows, as cuBLASLt reads them too.
 *
 * DEV_U8, DEV_U4, DEV_U6, DEV_N4: a tile of 16 rows is a run of records, each of 64 (U8) or 128
 * columns: 1 KiB of codes, then what scales them, so that a product is one stream of memory. The
 * codes of a record are 16 bytes for each lane of a warp and its row g = lane / 4, then as much for
 * row g + 8; lane % 4 = c has eight columns of each block j of 32:
 *
 *   U8   q          eight bytes for block 0, eight for block 1: column 32 j + 8 c + e
 *   U4   q          a word for each of four blocks, the same columns; e in nibble e / 2 + 4 (e % 2)
 *   N4   table[q]   the same; e in nibble e
 *   U6   q          a word for each block with the low four bits as in U4, of columns
 *                   32 j + 16 (e / 4) + 4 c + e % 4; then 512 bytes with the high two: eight bytes
 * a lane and row, word j / 2, bit 2 (e / 2) + 8 (j % 2) + 16 (e % 2)
 *
 * and mean scale * (q - zero) or, with `pair`, scale * q + second of the pair. Scales are f16, 8
 * pairs (rows g, g + 8) for each of the record's `gs` groups, followed at once by the seconds' 8
 * pairs where there are some; zero points, if they differ, are 8 pairs of bytes a group after all
 * scales. F8, and U8 with one scale for a row (gs = 0), have scales [rows / row_group][n_groups] in
 * scale_enc. */
#ifndef PUNA_BACKEND_CUDA_DEV_H
#define PUNA_BACKEND_CUDA_DEV_H

#include "ops/pick.h"

enum dev_enc {
#define ENC(id, name, block, bytes, gguf, decode, encode) DEV_ENC_##id,
#include "format/enc/enc.def"
#undef ENC
};

enum dev_kind { DEV_RAW, DEV_B16, DEV_H16, DEV_F8, DEV_U8, DEV_U4, DEV_U6, DEV_N4, DEV_KINDS };

enum { DEV_CHUNK = 128, DEV_TILE = 16, DEV_STREAM_ROWS = 16 };

struct dev_weight {
    int kind, enc; /* enum dev_kind, enum enc */
    int rows, cols, kp;
    int group, row_group, n_groups;
    int scale_enc, round, nested_group, zero_const;
    int minus_one, pair, zeros;
    int rec, gs; /* bytes of a record, its groups; 0 = rows */
    float scale_by, nested_offset;
    unsigned long long row_bytes;
    const uint8_t *q, *scale, *zero, *group_of, *map, *nested_map, *nested_absmax;
    const int32_t *order; /* packed column k is input order[k]; NULL = k */
    const int32_t *place; /* input i is packed column place[i], where there is an order */
    uint16_t table[16];   /* N4: f16 */
};

/* One matrix of a product: y [T, rows]. */
struct dev_out {
    struct dev_weight w;
    float *y;
    int tile0; /* first tile of 16 rows among those of all */
};

/* Attention with relative positions (struct rel_attn of ops.h), `per` queries of a block. */
struct rel_args {
    float *y;
    const float *q, *k, *v, *rel_q, *rel_k;
    const int32_t *bucket;
    int rows, n, H, hd, per;
};

enum { DEV_OUTS = 3, ATTN_SPLITS = 128 };

/* Rows that a product rounds as its weight's rule says (format/enc/act.h), as it loads them. */
struct load_args {
    const float *x;       /* [T][cols]; NULL: the product's own x is ready */
    int cols, act, group; /* group: columns of one scale, DEV_CHUNK or all */
    float bound, scale;
    float *by; /* [T] the rows' factors, where a phase of its own made x ready; or NULL */
};

/* Products of few rows, with what comes before and after them. */
struct stream_args {
    struct dev_out out[DEV_OUTS];
    int n, T, tiles, add;
    uint16_t *x; /* [T][kp] bf16 or f16; with load: where it goes if it finds no place nearer */
    struct load_args load;
    int scaled;      /* rows of x are to be multiplied by factors: by ss, or of load */
    const float *ss; /* [T][n_ss] parts of the sums of squares of x's rows, unnormalised; or NULL */
    int n_ss, D;
    float eps;
    int kept;      /* bytes of a row of x in shared memory, FED8: of x; 0 = it stays where it is */
    int swiglu;    /* out[0] is the gate of out[1]; y16 receives silu(gate) * up */
    uint16_t *y16; /* [T][kp16]: y * norm, or the gated values; NULL: y32 */
    float *y32;    /* [T][kp16] */
    const int32_t *place; /* [rows] where in y16's rows they go; NULL = in order */
    const float *norm;    /* [rows]; NULL = no norm follows */
    float *ss_out;        /* [T][tiles] */
    int mode16, kp16;
    int teams; /* of a block's warps, 2^, each with its own tiles; by the weights' shape alone */
    /* FED: y16 and ss_out go to the next phase by tagged words (barrier.cuh), for which no block
     * waits at a gate, and x and ss came so: [T][kp / 2] pairs, [T][tiles]; NULL = by a gate */
    uint64_t *give_x, *give_ss, *take_x, *take_ss;
    /* FED8: y32 and ss_out likewise as words that are ABSENT until they are there; load.x and ss
     * point to such. And some that all blocks have read when this phase's inputs are there. */
    float *given, *given_ss;
    float *spent;
    int n_spent;
};
/* Places for them; their columns at most, and words of FED8. */
enum { PASSES = 5, PASS_COLS = 16384, PASS_TILES = PASS_COLS / DEV_TILE, PASS_WORDS = 32768 };
#define ABSENT 0xFFFFFFFFu /* a NaN, but none that arithmetic makes */

/* Products of 17 to 64 rows (wide.cu), of up to 32 unasked: `splits` parts of `per` records of the
 * columns. */
enum { WIDE_ROWS = 64, WIDE_PAYS = 32, WIDE_WARPS = 8, WIDE_STAGES = 3 };
/* Bytes of x in a stage, with nt tiles of 8 rows; of all shared memory. */
#define WIDE_INPUTS(cols, nt) ((nt)*8 * (cols)*2)
#define WIDE_SHARED(kind, rec, cols, nt)                                                           \
    (((kind) == DEV_N4 ? LUT_N4 : 0) + WIDE_STAGES * (WIDE_INPUTS(cols, nt) + WIDE_WARPS * (rec)))
struct wide_args {
    struct stream_args s; /* out, n, T, tiles, add, x */
    float *part;          /* [splits][T][tiles * 16]; NULL with one split */
    int *done;            /* [gridDim.x] splits that are there; zero before and after */
    int splits, per;
};

/* PREP_F32: as it is, rounded when it is loaded (load_args). */
enum prep_mode { PREP_BF16, PREP_F16, PREP_F32 };

enum { ROWS_MOST = 8192, NORM_THREADS = 256 }; /* ROWS_MOST: columns that norm_rows keeps */
struct act_args {
    float *y;      /* [T][cols]; each of the three may be NULL */
    uint16_t *y16; /* [T][kp] */
    uint8_t *y8;   /* [T][kp] E4M3, with scales [T] */
    float *scales;
    const float *x;
    int T, cols, kp, mode16, act, group, bf16; /* act: enum act */
    int image;                                 /* how y16 lies (image.cuh) */
    float bound, scale;
};

/* Gate and up in bf16 to the gated values, or g itself where u is NULL, in 16 bits or as E4M3 with
 * a scale for each row. */
enum { GATED_MOST = 32768 }; /* columns that a block keeps */
struct gated_args {
    const uint16_t *g, *u; /* [T][F] */
    uint16_t *y16;         /* [T][kp]; NULL: y8 */
    uint8_t *y8;           /* [T][kp] */
    float *scales;         /* [T] */
    int F, kp, mode16, act;
    float bound, scale;
};

/* Rotation of queries and keys, and the keys and values into the cache of one layer. */
struct rope_args {
    float *q, *k;
    const float *v, *inv_freq;
    const int32_t *pos, *slot, *seq;
    const int32_t *const *table;
    uint8_t *kc, *vc;
    int H, K, hd, enc, interleaved;
};

/* The same of many rows, whose queries, keys and values are in bf16, heads of a multiple of 16, a
 * few rows by a block. */
enum { ROPE_ROWS = 2, ROPE_THREADS = 384 };
struct rope16_args {
    const uint16_t *q, *k, *v; /* [T, H * hd] or NULL, [T, K * hd] twice */
    int ld_q, ld_kv;           /* values from row to row of them */
    uint16_t *q16;             /* queries times `scale`, as mode16 says; or NULL */
    float scale;
    int mode16, T;
    struct rope_args to; /* q: [T, H * hd] or NULL; k, v: not there */
};

/* The batch as kernels see it, and the cache of one layer. */
struct attn_args {
    float *y;       /* [T, H * hd]; NULL = y16 alone */
    const float *q; /* [T, H * hd] */
    float *part;    /* [T][H][splits][hd + 2]; NULL with one split */
    int *done;      /* [gridDim.z][gridDim.y] splits that are there; zero before and after */
    const uint8_t *k, *v;
    const int32_t *slot, *seq;
    const int32_t *const *table;
    const int32_t *rows;        /* the batch's rows that this is about; NULL = all */
    int H, K, hd, splits, span; /* span: slots of a split, a multiple of the cache's block */
    float scale;
    uint16_t *y16;           /* [T][kp16], NULL = not wanted */
    int mode16, kp16, image; /* image: as in act_args */
    const int32_t *place;    /* as in stream_args */
    const uint16_t *q16;     /* decode.cu: q times scale, as products take it; or NULL */
};

/* decode.cu: each warp has stages, of a tile of keys and one of values each. */
enum { DECODE_WARPS = 4, DECODE_STAGES = 2, DECODE_TILE = 4096 };
enum {
    DECODE_THREADS = 32 * DECODE_WARPS,
    DECODE_SHARED = DECODE_WARPS * DECODE_STAGES * 2 * DECODE_TILE
};

/* A CUtensorMap: what copies of tiles know of the tensor. */
struct __attribute__((aligned(64))) dev_map {
    uint64_t opaque[16];
};

/* Prompts: runs of rows of one sequence, (first, number) each. */
struct flash_args {
    struct dev_map map[2]; /* Hopper: keys and values as rows of a head, boxes of 64 by 64 */
    float *y;              /* NULL = y16 alone */
    const float *q;
    const uint16_t *q16; /* Hopper: q times scale, as products take it; NULL = it is to be made */
    const uint8_t *k, *v;
    const int32_t *slot, *seq, *runs;
    const int32_t *const *table;
    int n_runs, tokens, tiles, H, K; /* tokens: rows of a tile; tiles: of all runs */
    int heads;                       /* Hopper: kv heads at a time; divides K */
    float scale;
    uint16_t *y16;
    int mode16, kp16;
};

enum { FLASH_ROWS = 128 }; /* of a tile: a row of the batch with one query head each */
/* flash_wgmma.cu: threads of a block; shared memory, of which 1 KiB is for its beginning to be at a
 * multiple of that. */
enum { FLASH_WGMMA_THREADS = 384 };
#define FLASH_WGMMA_SHARED(hd, f8) (1024 + 5 * 256 * (hd) + ((f8) ? 3 * 128 * (hd) : 0) + 256)

/* gemm.cu: y [T][N] = silu(x w[0]^T) * (x w[1]^T) in bf16; x [T][K], w [N][K] as bf16 or E4M3,
 * boxes of 128 bytes of 128 rows; N a multiple of 8. */
struct gemm_args {
    struct dev_map x, w[2];
    uint16_t *y;
    const float *x_scale, *w_scale[2]; /* of E4M3 rows */
    int T, N, K;
};
enum { GEMM_ROWS = 128, GEMM_COLS = 128, GEMM_THREADS = 384 };
#define GEMM_SHARED (1024 + 4 * (GEMM_ROWS + 2 * GEMM_COLS) * 128 + 5 * 2 * GEMM_COLS * 4 + 64)

/* A row of logits whose head is wanted. */
struct pick_row {
    int row, mask;     /* number of its mask; -1 = none */
    int change, n;     /* the first of its changes, and how many */
    float by;          /* of logits, for exponents in base 2; 0 = no sum is wanted */
    int at;            /* an id whose logit is wanted */
    int bare;          /* the head is not */
    double u, inverse; /* a draw, and 1 / temperature of it; inverse 0 = none */
    double part, least;
    float max; /* the largest, where it is known: of pick_flat */
};

/* What the blocks of a row tell the last of them; behind it of each 32 ids the order of the largest
 * and the sum of weights. */
enum { PICK_THREADS = 1024, PICK_BLOCKS = 32 }; /* at most so many blocks a row */
struct pick_part {
    uint64_t lane[PICK_THREADS]; /* the largest ids of each number modulo this */
    int bad[PICK_BLOCKS];
    float at;
};
#define PICK_PART(V) (sizeof(struct pick_part) + 2 * sizeof(uint64_t) * (((V) + 31) / 32))

/* The same of a flat row: sums of weights, times PICK_UNIT, by buckets of logits. A row of
 * PICK_FLAT_MOST ids has a sum of 63 bits at most. */
enum { PICK_BUCKETS = 8192, PICK_FLAT_MOST = 1 << 19 };
struct pick_sums {
    uint64_t sum[PICK_BUCKETS], less; /* less: of ids that do not count */
    uint64_t near;                    /* so many may count or not */
};
#define PICK_UNIT 0x1p44

/* ---- programs: the phases of a pass of few rows in one kernel ---- */

/* Kernels of programs, by what their weights are; U6 takes all of U48 too. FED: W16 by a ring that
 * one warp fills; FED8: F8 likewise, where rows of x are E4M3 with a scale each, too; FED_CODES:
 * all of U6 likewise; FED_N4: N4 by one row. */
enum dev_class {
    CLASS_W16,
    CLASS_F8,
    CLASS_U48,
    CLASS_U6,
    CLASS_N4,
    CLASS_FED,
    CLASS_FED8,
    CLASS_FED_CODES,
    CLASS_FED_N4,
    CLASSES
};

/* A warp's ring of stages in shared memory, by class: bytes of a stage, and how many. A stage is 16
 * rows by 256 bytes (W16) or 128 (F8), or a record. big: code for compute capability 9.0, whose
 * blocks may have 227 KiB; others get along with 99. */
#define RING_SLOT(class)                                                                           \
    ((class) == CLASS_W16 || (class) == CLASS_FED ? 4096                                           \
     : (class) == CLASS_F8                        ? 2048                                           \
     : (class) == CLASS_U48                       ? 1280                                           \
     : (class) == CLASS_U6                        ? 1792                                           \
                                                  : 1152)
#define RING_DEPTH(class, big)                                                                     \
    ((class) == CLASS_W16   ? ((big) ? 3 : 2)                                                      \
     : (class) == CLASS_F8  ? ((big) ? 5 : 4)                                                      \
     : (class) == CLASS_U48 ? ((big) ? 7 : 6)                                                      \
     : (class) == CLASS_U6  ? ((big) ? 5 : 4)                                                      \
                            : ((big) ? 6 : 4))
#define RING_WARPS(big) ((big) ? 16 : 8)
/* FED has one ring for all warps instead, on Hopper (fed.cuh): of up to FED_GROUPS groups, 16 rows
 * by FED_COLS columns of each warp, whose rows lie 64 bytes further apart for the banks. Of them
 * FED_AHEAD are asked for at a time. */
enum {
    FED_COLS = 64,
    FED_GROUP_COLS = 16 * FED_COLS,
    FED_ROW = FED_GROUP_COLS * 2,
    FED_PITCH = FED_ROW + 64,
    FED_GROUP = DEV_TILE * FED_PITCH,
    FED_GROUPS = 6,
    FED_LEAST = 3, /* groups */
    FED_AHEAD = 2,
    FED_ENDS = 3 /* warps that end tiles */
};
/* Groups of FED_CODES and FED_N4 (fed_codes.cuh): so many records for each warp. */
enum { FED_RECORDS = 2 };
/* FED8's groups (fed_f8.cuh): 16 rows by FED8_COLS columns, end to end. An image of x has for each
 * of four parts of a group's columns FED8_LINES lines of 128 bytes; of one that finds no place
 * FED8_DEPTH groups' parts are there at a time. */
enum { FED8_COLS = 2048, FED8_GROUP = DEV_TILE * FED8_COLS };
enum { FED8_SUMS = 8, FED8_BARRIERS = 16 }; /* of a tile, from pairs of pieces; of parts of x */
/* groups of columns in registers, at most: of one row alone; of rows */
enum { FED8_KEPT = 14, FED8_ROUNDED = 8 };
#define FED8_BESIDE(T)    ((T) <= 2 ? 2 : (T) <= 4 ? 4 : (T) <= 8 ? 8 : 16)
#define FED8_LINES(T)     (4 * FED8_BESIDE(T))
#define FED8_STAGES(kp)   (((kp) + FED8_COLS - 1) / FED8_COLS)
#define FED8_IMAGE(kp, T) (FED8_STAGES(kp) * 4 * FED8_LINES(T) * 128)
/* in shared memory, where one row needs no lines beside it */
#define FED8_NEAR(kp, T)                                                                           \
    (((T) == 1 ? (FED8_STAGES(kp) + 1) / 2 : FED8_STAGES(kp)) * 4 * FED8_LINES(T) * 128)
#define FED8_DEPTH(T)          ((T) > 8 ? 3 : 4)
#define FED8_FAR(T)            (FED8_DEPTH(T) * 4 * FED8_LINES(T) * 128)
#define RING_BYTES(class, big) (RING_WARPS(big) * RING_SLOT(class) * RING_DEPTH(class, big))
#define RING_THREADS(class, big)                                                                   \
    ((RING_WARPS(big) + ((class) >= CLASS_FED ? 1 + FED_ENDS : 0)) * 32)

enum {
    LUT_N4 = 256 * 32 * 4,           /* pairs of values by byte, a copy for each lane */
    TEAMS = 3,                       /* 1, 2 or 4: 2^ */
    SUM_BUFFERS = 2,                 /* of tiles under way, for each team: 2^ */
    SUM_BARRIERS = 7 << SUM_BUFFERS, /* of 1, 2 and 4 teams */
    PHASES_KEPT = 4,                 /* two before, now and next */
    PROGRAM_HEADS = 8,               /* of queries, in an item of attention, at most */
    ATTN_HEAD = 128,                 /* values of a head, in programs, at most */
    ATTN_SPANS = 16,                 /* of a row, in programs, at most */
    ATTN_STEP = 128                  /* slots, of which a span has a multiple there */
};

/* Slots of the spans of a row that sees so many, in programs. The row alone decides, and so its
 * sums do not depend on others. The more spans, the sooner one row is done, but of several rows
 * each span costs something: 8 rows of 8B in Q4_0, 532 slots each, make 2760 tok/s on an H200
 * with spans of 128 slots, 3017 with spans of 256. */
HD static inline int span_of(int slots)
{
    const int least = 2 * ATTN_STEP, most = ATTN_SPANS * ATTN_STEP;
    const int span = (slots + most - 1) / most * ATTN_STEP;

    return span < least ? least : span;
}

/* What reading the weights of a phase takes to know. */
struct stream_feed {
    const uint8_t *q[DEV_OUTS]; /* FED8: its struct dev_map */
    int rows[DEV_OUTS];
    int tile0[DEV_OUTS]; /* first tile of each; beyond all tiles where there is none */
    int tiles, stages;   /* stages: of a tile */
    int stride;          /* bytes from stage to stage of records, from row to row of rows */
    short swiglu, teams;
};

/* Queries and keys are not rotated yet, nor keys and values in the cache. */
struct attn_phase {
    struct attn_args a;
    struct rope_args r;          /* q NULL: they are */
    int enc, heads, parts, rows; /* heads: of an item; parts: of the heads of a kv head */
    uint64_t *give_x, *take_x; /* as in stream_args; take_x: [T][all rows of q, k and v] float32 */
    float *given;
    uint64_t *spans; /* [T][H][splits][hd + 2] tagged float32, where splits > 1 */
    int known; /* blocks have one item at most, the same as in the phase of attention before */
};

/* Bytes of 128 columns of a row in whole numbers (whole.cuh; of N4 fed_n4.cuh). */
enum { WHOLE_RECORD = 272, N4_RECORD = 528 };

/* N4's table in whole numbers (fed_n4.cuh): code q is worth step * (line * q + rest - zero). Of
 * q < 8 the rest is rest[0][q] and the sign, 0 or -1, of rest[1][7 - q]; of others rest[1][15 - q]
 * and the sign of rest[0][q - 8]. */
struct whole_values {
    int8_t rest[2][8];
    int line, zero;
    float step;
};

enum dev_phase_kind { PHASE_PRODUCT, PHASE_ATTN, PHASE_LOAD /* of a product that follows */ };

struct __attribute__((aligned(16))) dev_phase {
    int kind, form;   /* form: kind of weights * 4 + 2 fine + pair */
    int takes, gives; /* what comes, what goes does so word by word, without a gate */
    int number, more; /* of the program's phases which, and whether another one follows */
    union {
        struct stream_args s;
        struct attn_phase a;
    } u;
};

/* shared memory: the warps' rings; the table of N4; `scratch` bytes for sums and attention; cosines
 * and sines that the n_rows rows' pairs turn by; feeds, but FED8's and those of records;
 * PHASES_KEPT phases; inputs of products */
struct program_args {
    const struct dev_phase *phase;
    const struct stream_feed *feed;
    int n, n_feeds, T;
    int scratch, buffers;            /* buffers of sums: 2^ */
    int attn;                        /* bytes of the scratch before attention's part: of sums; 0: it
                                      * shares theirs, or has the inputs' place (FED8) */
    int ring, groups, group;         /* bytes of all rings; FED: groups of it, bytes of one */
    const int32_t *slot, *seq, *pos; /* of the batch's n_rows, where there is attention */
    const int32_t *const *blocks;
    int n_rows;
    const float *inv_freq; /* [half]; half 0: nothing turns */
    int half;
    unsigned *gate;   /* [2] zero before and after */
    unsigned *claims; /* FED: [n_feeds] units that were claimed, the same */
    unsigned *tags;   /* how many were given so far, by all programs */
    float *words;     /* FED8: [PASSES][PASS_WORDS], of which so many are ABSENT before and after */
    int n_words[PASSES];
    uint16_t table[16];
    struct whole_values values; /* FED_N4, of one row in whole numbers */
};

#endif
