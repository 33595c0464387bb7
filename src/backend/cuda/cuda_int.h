/* cuda_int.h - private to the CUDA backend; empty where there is no nvcc. */
#ifndef PUNA_BACKEND_CUDA_CUDA_INT_H
#define PUNA_BACKEND_CUDA_CUDA_INT_H

#ifdef PUNA_CUDA

#include <cuda.h>

#include "backend/cuda/cuda.h"
#include "backend/cuda/dev.h"
#include "base/arena.h"

/* a / b, rounded up. */
static inline size_t over(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

/* The driver, opened at run time. cuda.h's macros give every name its version. */
#define CUDA_FUNCTIONS(F)                                                                          \
    F(cuInit)                                                                                      \
    F(cuDeviceGetCount)                                                                            \
    F(cuDeviceGet)                                                                                 \
    F(cuDeviceGetName)                                                                             \
    F(cuDeviceTotalMem)                                                                            \
    F(cuDeviceGetAttribute)                                                                        \
    F(cuDevicePrimaryCtxRetain)                                                                    \
    F(cuDevicePrimaryCtxRelease)                                                                   \
    F(cuCtxSetCurrent)                                                                             \
    F(cuGetErrorString)                                                                            \
    F(cuMemGetInfo)                                                                                \
    F(cuMemAlloc)                                                                                  \
    F(cuMemFree)                                                                                   \
    F(cuMemAddressReserve)                                                                         \
    F(cuMemAddressFree)                                                                            \
    F(cuMemCreate)                                                                                 \
    F(cuMemRelease)                                                                                \
    F(cuMemMap)                                                                                    \
    F(cuMemUnmap)                                                                                  \
    F(cuMemSetAccess)                                                                              \
    F(cuMemAllocHost)                                                                              \
    F(cuMemFreeHost)                                                                               \
    F(cuMemcpyHtoDAsync)                                                                           \
    F(cuMemcpyDtoHAsync)                                                                           \
    F(cuMemcpyDtoDAsync)                                                                           \
    F(cuMemsetD8Async)                                                                             \
    F(cuStreamCreate)                                                                              \
    F(cuStreamDestroy)                                                                             \
    F(cuStreamSynchronize)                                                                         \
    F(cuStreamWaitEvent)                                                                           \
    F(cuStreamBeginCapture)                                                                        \
    F(cuStreamEndCapture)                                                                          \
    F(cuGraphInstantiateWithFlags)                                                                 \
    F(cuGraphLaunch)                                                                               \
    F(cuGraphDestroy)                                                                              \
    F(cuGraphExecDestroy)                                                                          \
    F(cuEventCreate)                                                                               \
    F(cuEventDestroy)                                                                              \
    F(cuEventRecord)                                                                               \
    F(cuEventSynchronize)                                                                          \
    F(cuEventElapsedTime)                                                                          \
    F(cuModuleLoadData)                                                                            \
    F(cuModuleUnload)                                                                              \
    F(cuModuleGetFunction)                                                                         \
    F(cuFuncSetAttribute)                                                                          \
    F(cuFuncGetAttribute)                                                                          \
    F(cuLaunchKernel)                                                                              \
    F(cuLaunchKernelEx)                                                                            \
    F(cuLaunchCooperativeKernel)                                                                   \
    F(cuTensorMapEncodeTiled)

struct driver {
#define F(name) __typeof__(name) *name;
    CUDA_FUNCTIONS(F)
#undef F
};

/* All .cu files. */
#define CUDA_FILES(F)                                                                              \
    F(attn)                                                                                        \
    F(decode)                                                                                      \
    F(encoder)                                                                                     \
    F(flash)                                                                                       \
    F(flash_wgmma)                                                                                 \
    F(gemm)                                                                                        \
    F(linear)                                                                                      \
    F(pack)                                                                                        \
    F(pick)                                                                                        \
    F(program_codes)                                                                               \
    F(program_fed)                                                                                 \
    F(program_fed8)                                                                                \
    F(program_fed_codes)                                                                           \
    F(program_fed_n4)                                                                              \
    F(program_rows)                                                                                \
    F(program_table)                                                                               \
    F(small)                                                                                       \
    F(train)                                                                                       \
    F(train_attn)                                                                                  \
    F(train_optim)                                                                                 \
    F(train_wgmma)                                                                                 \
    F(wide)                                                                                        \
    F(wide_wgmma)

/* Kernels, by the .cu file that has them. */
#define CUDA_PROGRAMS(F, file, c)                                                                  \
    F(program_##file, program_##c##_1) F(program_##file, program_##c##_2)
#define CUDA_ATTNS(F, e)   F(attn, attn_##e##_1) F(attn, attn_##e##_4) F(attn, attn_##e##_8)
#define CUDA_BOTH(F, name) F(train, name##_f32) F(train, name##_b16)
#define CUDA_KERNELS(F)                                                                            \
    F(small, embed)                                                                                \
    F(small, bring)                                                                                \
    F(small, embed_norm)                                                                           \
    F(small, gather)                                                                               \
    F(small, scale)                                                                                \
    F(small, rmsnorm)                                                                              \
    F(small, swiglu)                                                                               \
    F(small, rope)                                                                                 \
    F(small, kv_write)                                                                             \
    F(small, rope_kv)                                                                              \
    F(small, rope16)                                                                               \
    F(small, turns)                                                                                \
    F(small, act)                                                                                  \
    F(small, norm_rows)                                                                            \
    F(small, norm_rows_half)                                                                       \
    F(small, gated_4k)                                                                             \
    F(small, gated_16k)                                                                            \
    F(small, gated_32k)                                                                            \
    F(small, prep)                                                                                 \
    F(small, dequant)                                                                              \
    F(small, read_all)                                                                             \
    F(small, fill)                                                                                 \
    F(pack, pack_codes)                                                                            \
    F(pack, pack_scales)                                                                           \
    F(pack, pack_pad)                                                                              \
    F(pack, pack_row_scales)                                                                       \
    F(pack, widen_u8)                                                                              \
    F(pack, widen_u4)                                                                              \
    F(pack, widen_u6)                                                                              \
    F(pack, widen_n4)                                                                              \
    F(pack, widen_f8)                                                                              \
    F(pick, pick)                                                                                  \
    F(pick, pick_flat)                                                                             \
    F(encoder, bias)                                                                               \
    F(encoder, gelu)                                                                               \
    F(encoder, layernorm)                                                                          \
    F(encoder, attn_rel)                                                                           \
    F(gemm, gemm_gated_bf16)                                                                       \
    F(gemm, gemm_gated_f8)                                                                         \
    F(gemm, gemm_heads_f8)                                                                         \
    F(linear, product)                                                                             \
    CUDA_PROGRAMS(F, rows, w16) /* in the order of enum dev_class */                               \
    CUDA_PROGRAMS(F, rows, f8)                                                                     \
    CUDA_PROGRAMS(F, codes, u48)                                                                   \
    CUDA_PROGRAMS(F, codes, u6)                                                                    \
    CUDA_PROGRAMS(F, table, n4)                                                                    \
    CUDA_PROGRAMS(F, fed, fed)                                                                     \
    CUDA_PROGRAMS(F, fed8, fed_f8)                                                                 \
    CUDA_PROGRAMS(F, fed_codes, fed_codes)                                                         \
    F(program_fed_n4, program_fed_n4_1)                                                            \
    F(program_codes, program_u48_0)                                                                \
    F(program_codes, program_u6_0)                                                                 \
    F(program_fed_codes, program_fed_codes_0)                                                      \
    F(program_fed_n4, program_fed_n4_0)                                                            \
    F(wide, wide_u8_4)                                                                             \
    F(wide, wide_u8_8)                                                                             \
    F(wide, wide_u8_pair_4)                                                                        \
    F(wide, wide_u8_pair_8)                                                                        \
    F(wide, wide_u4_4)                                                                             \
    F(wide, wide_u4_8)                                                                             \
    F(wide, wide_u4_pair_4)                                                                        \
    F(wide, wide_u4_pair_8)                                                                        \
    F(wide, wide_u6_4)                                                                             \
    F(wide, wide_u6_8)                                                                             \
    F(wide, wide_n4_4)                                                                             \
    F(wide, wide_n4_8)                                                                             \
    F(wide_wgmma, wgwide_u8_16)                                                                    \
    F(wide_wgmma, wgwide_u8_32)                                                                    \
    F(wide_wgmma, wgwide_u8_64)                                                                    \
    F(wide_wgmma, wgwide_u8_zeros_16)                                                              \
    F(wide_wgmma, wgwide_u8_zeros_32)                                                              \
    F(wide_wgmma, wgwide_u8_zeros_64)                                                              \
    F(wide_wgmma, wgwide_u8_pair_16)                                                               \
    F(wide_wgmma, wgwide_u8_pair_32)                                                               \
    F(wide_wgmma, wgwide_u8_pair_64)                                                               \
    F(wide_wgmma, wgwide_u4_16)                                                                    \
    F(wide_wgmma, wgwide_u4_32)                                                                    \
    F(wide_wgmma, wgwide_u4_64)                                                                    \
    F(wide_wgmma, wgwide_u4_zeros_16)                                                              \
    F(wide_wgmma, wgwide_u4_zeros_32)                                                              \
    F(wide_wgmma, wgwide_u4_zeros_64)                                                              \
    F(wide_wgmma, wgwide_u4_pair_16)                                                               \
    F(wide_wgmma, wgwide_u4_pair_32)                                                               \
    F(wide_wgmma, wgwide_u4_pair_64)                                                               \
    F(wide_wgmma, wgwide_u6_16)                                                                    \
    F(wide_wgmma, wgwide_u6_32)                                                                    \
    F(wide_wgmma, wgwide_u6_64)                                                                    \
    F(wide_wgmma, wgwide_n4_16)                                                                    \
    F(wide_wgmma, wgwide_n4_32)                                                                    \
    F(wide_wgmma, wgwide_n4_64)                                                                    \
    CUDA_ATTNS(F, f32)                                                                             \
    CUDA_ATTNS(F, f16)                                                                             \
    CUDA_ATTNS(F, bf16)                                                                            \
    CUDA_ATTNS(F, f8)                                                                              \
    F(decode, decode_bf16_64)                                                                      \
    F(decode, decode_bf16_128)                                                                     \
    F(decode, decode_f16_64)                                                                       \
    F(decode, decode_f16_128)                                                                      \
    F(decode, decode_f8_64)                                                                        \
    F(decode, decode_f8_128)                                                                       \
    F(flash, flash_bf16_64)                                                                        \
    F(flash, flash_bf16_128)                                                                       \
    F(flash, flash_f16_64)                                                                         \
    F(flash, flash_f16_128)                                                                        \
    F(flash, flash_f8_64)                                                                          \
    F(flash, flash_f8_128)                                                                         \
    F(flash_wgmma, flash_wgmma_bf16_64)                                                            \
    F(flash_wgmma, flash_wgmma_bf16_128)                                                           \
    F(flash_wgmma, flash_wgmma_f16_64)                                                             \
    F(flash_wgmma, flash_wgmma_f16_128)                                                            \
    F(flash_wgmma, flash_wgmma_f8_64)                                                              \
    F(flash_wgmma, flash_wgmma_f8_128)                                                             \
    F(train, train_half)                                                                           \
    F(train, train_f8)                                                                             \
    F(train, train_turn)                                                                           \
    F(train, train_decode)                                                                         \
    F(train, train_order)                                                                          \
    F(train, train_product)                                                                        \
    F(train, train_lookup)                                                                         \
    F(train, train_gather)                                                                         \
    F(train, train_rmsnorm)                                                                        \
    F(train, train_rope)                                                                           \
    F(train, train_gate)                                                                           \
    F(train, train_add_rows)                                                                       \
    F(train_optim, train_adamw_packed)                                                             \
    F(train_optim, train_adamw)                                                                    \
    F(train_optim, train_squares)                                                                  \
    F(train_optim, train_squares_all)                                                              \
    F(train_optim, train_factor_rows)                                                              \
    F(train_optim, train_factor_cols)                                                              \
    F(train_optim, train_factor_means)                                                             \
    F(train_optim, train_factor_squares)                                                           \
    F(train_optim, train_factor_step)                                                              \
    F(train, train_dora)                                                                           \
    CUDA_BOTH(F, train_col_scale)                                                                  \
    CUDA_BOTH(F, train_scatter)                                                                    \
    CUDA_BOTH(F, train_columns)                                                                    \
    CUDA_BOTH(F, train_embed)                                                                      \
    CUDA_BOTH(F, train_norm)                                                                       \
    CUDA_BOTH(F, train_dot_rows)                                                                   \
    CUDA_BOTH(F, train_swiglu)                                                                     \
    CUDA_BOTH(F, train_entropy)                                                                    \
    CUDA_BOTH(F, train_dropout)                                                                    \
    CUDA_BOTH(F, train_noise)                                                                      \
    CUDA_BOTH(F, train_attn)                                                                       \
    CUDA_BOTH(F, train_attn_dot)                                                                   \
    CUDA_BOTH(F, train_attn_dq)                                                                    \
    CUDA_BOTH(F, train_attn_dkv)                                                                   \
    F(train_attn, train_attn_fwd_64)                                                               \
    F(train_attn, train_attn_fwd_128)                                                              \
    F(train_attn, train_attn_bwd_q_64)                                                             \
    F(train_attn, train_attn_bwd_q_128)                                                            \
    F(train_attn, train_attn_bwd_kv_64)                                                            \
    F(train_attn, train_attn_bwd_kv_128)                                                           \
    F(train_wgmma, train_wgmma_fwd_64)                                                             \
    F(train_wgmma, train_wgmma_fwd_128)                                                            \
    F(train_wgmma, train_wgmma_bwd_q_64)                                                           \
    F(train_wgmma, train_wgmma_bwd_q_128)                                                          \
    F(train_wgmma, train_wgmma_bwd_kv_64)                                                          \
    F(train_wgmma, train_wgmma_bwd_kv_128)

enum kernel {
#define F(file, name) KERN_##name,
    CUDA_KERNELS(F)
#undef F
        KERN_COUNT
};

/* Device memory that only grows, and never during a recording. */
struct gpu_room {
    CUdeviceptr p;
    size_t n;
};

/* A recorded forward pass. */
struct recording {
    const void *key[3];
    size_t T, n_want, slots;
    CUgraphExec exec;     /* NULL: it ran once, the next time it is recorded */
    CUdeviceptr programs; /* what its programs read, on the device and, until it is there, here */
    uint8_t *image;
    size_t image_bytes, image_used;
};

enum {
    RECORDINGS = 64,
    RECORD_ROWS = 64,
    PIN_BYTES = 16 << 20,
    OPS = 2048,
#define F(name) 1 +
    MODULES = CUDA_FILES(F) 0,
#undef F
    PROGRAM_PHASES = 1024,
    /* the gate and claims, the last tag, tagged pairs of values and sums of squares */
    TAG_AT = (2 + PROGRAM_PHASES + 3) / 4 * 16,
    PASS_AT = TAG_AT + 16,
    PASS_SS = DEV_STREAM_ROWS * PASS_COLS / 2 * 8, /* behind the pairs */
    PASS_BYTES = PASS_SS + DEV_STREAM_ROWS * PASS_TILES * 8,
    WORDS_AT = PASS_AT + PASSES * PASS_BYTES, /* FED8's words */
    GATE_BYTES = WORDS_AT + PASSES * PASS_WORDS * 4
};

/* An op as it was asked for. */
enum op_kind {
    OP_AFFINE,
    OP_ATTN,
    OP_ATTN_REL,
    OP_EMBED,
    OP_GATHER,
    OP_GELU,
    OP_KV_WRITE,
    OP_LAYERNORM,
    OP_LINEAR,
    OP_RMSNORM,
    OP_ROPE,
    OP_SCALE,
    OP_SWIGLU
};

struct op {
    enum op_kind kind;
    bool add, interleaved; /* linear_add; rope */
    size_t T, D;           /* x is [T, D], and so is y but for products */
    float *y;
    const float *x, *u, *bias; /* u: what the op reads besides */
    const int32_t *ids;        /* tokens, rows or positions */
    struct linear_out out[DEV_OUTS];
    size_t n, H, hd, layer;
    float by; /* factor, epsilon */
    const struct kv_cache *kv;
    const struct batch *at;
    struct rel_attn rel;
};

/* Phases that are not launched yet (program.c). */
struct program {
    struct dev_phase *phase; /* [PROGRAM_PHASES] */
    struct stream_feed *feed;
    size_t n, n_feeds, T, attn, turns; /* bytes of scratch for attention, of rotations */
    size_t rec;                        /* bytes of the largest record */
    enum dev_class class;
    bool whole; /* codes of four bits meet one row in whole numbers */
    uint16_t table[16];
    struct whole_values values; /* of the table; step 0: it has none */
    struct rope_args rope;      /* waits for its attention; q NULL = none */
    size_t rope_rows;
    struct attn_args at_rows; /* slot, seq and table of n_rows rows */
    const int32_t *pos;
    size_t n_rows;
    const float *inv_freq; /* of all rotations: half a head's */
    size_t half;
    CUdeviceptr room; /* PIN_BYTES for programs of passes that are not recorded, and as much here */
    void *pin;
    size_t at;
};

/* Training: values that were rounded to bf16, and where from (train.c). */
struct train_half {
    struct gpu_room room;
    const float *x; /* NULL = nothing */
    size_t lines, len, ld;
    uint64_t used; /* when */
};
enum { TRAIN_HALVES = 4 }; /* an input lives through a matrix and its pair */

/* n values that learn and that products have asked for in bf16: the optimiser writes a copy. */
struct train_copy {
    const float *w;
    size_t n, at, done; /* at: in `copies`; done: values that are there, of one list or several */
    CUdeviceptr half;   /* 0 = not there, or of older values */
};

/* Slots that rows see: the most, and on average; where a pass may be recorded both are `slots`. */
struct reach {
    size_t longest, usual;
};

struct blas; /* blas.c */
enum { BLAS_SIDES = 2 };

/* Layers whose weights wait in host memory (away.c). Layer k passes through buffer k % 2. */
enum { AWAY_MATRICES = 8 };
struct away_layer {
    uint8_t *host; /* pinned: what all its matrices have on the device, one after the other */
    size_t bytes;
    struct placed *part[AWAY_MATRICES];
    size_t n; /* in the order of use; 0 = all were unplaced */
};

struct away {
    struct away_layer *layer;
    size_t n, live; /* layers; of which have matrices */
    CUdeviceptr buffer[2];
    size_t room;       /* bytes of each */
    size_t in[2];      /* the layer that is in it, or on its way; SIZE_MAX = none */
    size_t at;         /* the layer that is waited for already; SIZE_MAX = none */
    CUstream stream;   /* of copies */
    CUevent copied[2]; /* what is in the buffer is there */
    CUevent used[2];   /* nothing reads it any more */
};

struct cuda {
    struct ctx ctx;
    struct driver d;
    void *lib;
    CUdevice device;
    CUcontext context;
    CUstream stream;
    CUmodule module[MODULES];
    CUfunction kern[KERN_COUNT];
    size_t sms, shared;         /* multiprocessors; shared memory that a block may have */
    size_t dynamic[KERN_COUNT]; /* of it, what the launch of a kernel may ask for */
    bool hopper;                /* or later */
    unsigned tries;             /* enum cuda_try */
    bool big;                   /* programs have the rings of compute capability 9.0 (dev.h) */
    bool wgmma;                 /* the code that was loaded has Hopper's own instructions */
    char name[160];
    struct blas *blas; /* NULL = not to be had */
    /* Products beside the one in `stream`: they begin after `fork` and are awaited by `joined`. */
    CUstream side[BLAS_SIDES];
    CUevent fork, joined[BLAS_SIDES];
    size_t lane; /* where the next product goes: 0 = stream, k = side[k - 1] */

    /* What cuda_alloc gives out, from address `base` on; 0 = the device has no such addresses, and
     * each has pages of its own. */
    struct arena arena;
    CUdeviceptr base;

    bool failed; /* a call failed since the last leave */
    struct err fault;

    void *pin[2]; /* PIN_BYTES each, filled in turns: pin_next is the next one */
    size_t pin_next;
    CUevent pin_free[2];
    struct team *loaders; /* that fill them, until there is something to compute; NULL = none yet */
    /* x16 and ss: the one that is read, and the one that is written next */
    struct gpu_room batch, logits, hidden, x16[2], ss[2], x8, rounded, part, done, dequant, picks,
        met,     /* parts of wide_wgmma.cu's sums: zero between kernels */
        gate_up, /* both in bf16 */
        qkv,     /* all three in bf16 */
        spans,   /* of attention in programs, tagged */
        loaded;  /* of a program: rows that a phase of its own rounds, and their factors */

    struct program prog;
    CUdeviceptr gate; /* of programs: the gate, and claims, zero between them; what has tags */
    struct away away;

    bool bring; /* the batch's arrays are in pin[0]: what is launched first is to fetch them */

    struct op op[OPS]; /* noted, not launched yet */
    size_t n_op;
    bool ending; /* nothing in the activations is read after these */

    size_t slots;                          /* of this pass: no row sees more; a power of two */
    struct reach lone_reach, wanted_reach; /* of rows outside of runs, and that want logits */
    size_t splits, span;
    const void *slot, *seq, *table; /* of this pass, on the device */
    struct recording rec[RECORDINGS];
    size_t n_rec;
    struct recording *recording; /* under way */

    /* Rows of this pass; those of its prompts as runs, (first, number) each, and all others; none
     * where the pass may be recorded. The copies at _at are on the device. */
    size_t rows, n_runs, n_lone;
    int32_t *runs, *lone;
    const int32_t *runs_at, *lone_at;

    /* the last input that was written in 16 bits: x16[cur] holds it */
    int cur;
    struct {
        const float *x;
        size_t T;
        int kp, mode;
        int image;            /* how it lies (image.cuh) */
        const float *raw;     /* PREP_F32: where it is, x itself perhaps, [T][kp] */
        const int32_t *order; /* of its columns; NULL = as they are */
        bool scaled;          /* to be multiplied by its norm's factor, from n_ss sums in ss[cur] */
        int n_ss;
        float eps;
    } have;
    struct { /* and in E4M3: x8 */
        const float *x;
        size_t T;
        const struct weight *w;
    } have8;

    struct { /* what a batch's rows turn by and where they are in the cache (gemm.h) */
        struct gpu_room room;
        const int32_t *pos; /* NULL = nothing */
        const float *inv_freq;
        size_t T, K;
    } turns;

    const float *q16; /* queries that are in qkv, rotated and scaled; NULL = none */

    struct train_half half[TRAIN_HALVES];
    uint64_t half_turn;
    struct { /* and in E4M3, to x8: rows of T x cols, as inputs within bound; x NULL = nothing */
        const float *x;
        size_t T, cols;
        float bound;
    } train8;
    struct train_copy *copy; /* [n_copy] owned */
    size_t n_copy;
    struct gpu_room copies;
    struct gpu_room ordered, sums; /* of training: columns in order; sums of parts */
};

/* A weight on the device. */
struct placed {
    struct dev_weight w;
    CUdeviceptr mem[8]; /* nothing for one that is away: it has a part of a buffer */
    size_t bytes[8];
    size_t n_mem;
    void *host;  /* pinned: of one that is looked up by rows, in place of mem */
    size_t away; /* the number of its layer in struct away, and one; 0 = it stays on the device */
};

/* Notes the first failure of a pass; false when rc is one. */
bool cuda_ok(struct cuda *b, CUresult rc, const char *what);
int cuda_fail(struct cuda *b, CUresult rc, const char *what, struct err *e);
bool cuda_room(struct cuda *b, struct gpu_room *r, size_t n);
void cuda_launch(struct cuda *b, enum kernel k, size_t gx, size_t gy, size_t gz, int threads,
                 void **args);
void cuda_launch_with(struct cuda *b, enum kernel k, size_t gx, size_t gy, size_t gz, int threads,
                      size_t shared, void **args);
/* The same of a kernel that may begin before the ones before it have ended, and waits for them
 * itself (barrier.cuh). */
void cuda_launch_early(struct cuda *b, enum kernel k, size_t gx, size_t gy, int threads,
                       size_t shared, void **args);
/* A product, the rotation and its cache, and attention as phases of a program; launched by flush at
 * the latest, which everything else that is launched does first. */
void program_stream(struct cuda *b, const struct stream_args *a);
void program_rope(struct cuda *b, const struct rope_args *a, size_t rows);
void program_attn(struct cuda *b, const struct attn_args *a, int enc, size_t rows, size_t heads);
/* Attention of o, whose inputs and outputs a says; in_program: of few rows, which a program takes.
 */
void cuda_attention(struct cuda *b, struct attn_args *a, const struct op *o);
bool attn_in_program(const struct cuda *b, const struct op *o);
/* Whether all rows of o have kernels that take queries in 16 bits: the mode. */
bool attn_takes16(const struct cuda *b, const struct op *o, int *mode);
/* y (+)= by x, as x is, without the tensor cores. */
void cuda_product(struct cuda *b, const struct linear_out *out, const float *x, size_t T, bool add);
/* An encoder's product, in float32: through cuBLASLt where the weight is that too. */
void cuda_affine(struct cuda *b, const struct op *o);
/* Attention with relative positions. */
void cuda_attn_rel(struct cuda *b, const struct op *o);
/* The rotation of so many rows, and the cache, as a kernel of its own. */
void cuda_rope_kv(struct cuda *b, const struct rope_args *a, size_t rows);
/* Launches what has been noted: the phases so far, and then a rotation that waits for attention. */
void program_flush(struct cuda *b);
/* The phases alone. A rotation that would be launched by itself where rooms grow, in the first
 * pass, is not that of later ones to the last bit. */
void program_end(struct cuda *b);
void program_close(struct cuda *b);
/* Launches what was noted; ending: no op of this pass follows. */
void cuda_run(struct cuda *b, bool ending);
int cuda_alloc(struct ctx *c, void **out, size_t n, const char *what, struct err *e) MUST_USE;
void cuda_release(struct ctx *c, void *p, size_t n);
void cuda_free(struct cuda *b, CUdeviceptr p); /* of cuda_alloc: nothing uses it any more */
int cuda_upload(struct ctx *c, void *to, const void *from, size_t n, struct err *e) MUST_USE;
/* The same of a mapped file; forget: what was copied leaves this process's memory. */
int cuda_send(struct ctx *c, void *to, const void *from, size_t n, bool forget,
              struct err *e) MUST_USE;
int cuda_download(struct ctx *c, void *to, const void *from, size_t n, struct err *e) MUST_USE;
int cuda_place(struct ctx *c, struct weight *w, struct err *e) MUST_USE;
int cuda_place_beside(struct ctx *c, struct weight *const *w, size_t n, struct err *e) MUST_USE;
void cuda_unplace(struct ctx *c, struct weight *w);
size_t cuda_placed_size(const struct ctx *c, const struct weight *w);
int cuda_place_rows(struct ctx *c, struct weight *w, struct err *e) MUST_USE;
int cuda_place_away(struct ctx *c, struct weight *const *w, size_t n, struct err *e) MUST_USE;
/* Before an op is launched: its weights are on the device. After: those that are not needed again
 * make room for the next. */
void away_enter(struct cuda *b, const struct op *o);
void away_leave(struct cuda *b, const struct op *o);
/* One of its matrices goes. */
void away_drop(struct cuda *b, struct placed *p);
void away_close(struct cuda *b);
int cuda_enter(struct ctx *c, struct pass *p, struct err *e) MUST_USE;
int cuda_leave(struct ctx *c, struct pass *p, struct err *e) MUST_USE;
void cuda_forget(struct cuda *b); /* every recording */
int cuda_heads(struct ctx *c, const struct pick_ask *ask, size_t n, size_t V, struct pick_list *out,
               struct err *e) MUST_USE;
int cuda_row(struct ctx *c, size_t row, size_t V, float *out, struct err *e) MUST_USE;
void cuda_adopt(struct ctx *c, struct weight *w);
int cuda_settle(struct ctx *c, struct err *e) MUST_USE;
/* What was rounded, as n bytes at p are others now; p NULL: any may be. */
void cuda_train_forget(struct cuda *b, const void *p, size_t n);
/* An op that training shares, where activations are bf16; false: not one of them. */
bool cuda_train_op(struct cuda *b, struct op *o);
const struct dev_weight *cuda_placed(const struct weight *w);
/* Whether w is in records of whole codes that programs on Hopper read by a ring that a warp fills.
 */
bool cuda_feeds_codes(const struct cuda *b, const struct dev_weight *w);
/* Rows r .. r + n of a weight as bf16 [n][kp], to b->dequant, which has room for whole tiles; r a
 * multiple of a tile. */
void cuda_widen(struct cuda *b, const struct dev_weight *w, size_t r, size_t n);

extern const struct ops ops_cuda;

/* y [T][rows] (+)= by x [T][kp] w [rows][kp]^T, both of one type; y float32 or bf16, ldy apart. */
enum blas_type { BLAS_BF16, BLAS_F16, BLAS_F8, BLAS_F32, BLAS_TYPES };
struct blas_product {
    void *y;
    size_t ldy, rows, T, kp;
    CUdeviceptr w, x, w_scale, x_scale; /* E4M3: float32 factors [rows], [T] */
    enum blas_type type;
    bool half_y;
    const float *to; /* what is added to, like y, or y; NULL = nothing; add is the same as y */
    bool add;
    size_t ldw, ldx;         /* from row to row; 0 = kp */
    bool w_across, x_across; /* lies as [kp][rows], [kp][T]; not E4M3 */
    const float *by; /* NULL = 1, and operands begin at multiples of 256 bytes or nearly so */
};
/* How TMA sees rows of bf16, f16 or E4M3, end to end, which it copies in boxes of 128 bytes of
 * `lines` rows with the 128-byte swizzle; what lies outside is zero. p is at a multiple of 16. */
bool cuda_map(struct cuda *b, struct dev_map *m, const void *p, enum blas_type type, size_t rows,
              size_t cols, unsigned lines);
/* The same of E4M3 as boxes of 8 rows by FED8_COLS columns, each 128 columns a tile; cols is a
 * multiple of 128. */
bool cuda_map_pieces(struct cuda *b, struct dev_map *m, const void *p, size_t rows, size_t cols);
struct blas *blas_open(struct cuda *b);
void blas_close(struct cuda *b);
/* false: cuBLASLt cannot. */
bool blas_can(struct cuda *b, const struct blas_product *p);
bool blas_run(struct cuda *b, const struct blas_product *p);
bool blas_has_f8(const struct cuda *b);
/* y [T][rows] = silu(of p[0]) * (of p[1]) in bf16, by a kernel of ours; both have one x and the
 * same shape. false: there is none for them. */
bool gemm_gated(struct cuda *b, const struct blas_product *p, uint16_t *y);
/* p is of all heads of queries, keys and values, in E4M3: what r makes of it, r's own queries, keys
 * and values aside. false: there is no kernel for that. */
bool gemm_heads(struct cuda *b, const struct blas_product *p, const struct rope16_args *r);

#endif
#endif
