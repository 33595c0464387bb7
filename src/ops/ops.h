/* ops.h - the operations of the model, as a table that a backend fills.
 *
 * The model (model/llama.c) is straight-line C over this table. Activations are
 * float32 matrices, row-major, one row per token of a ragged batch. Weights keep
 * the encoding of the file. ref.c is the scalar truth of every op.
 *
 * Contract of every backend on the CPU: a row of an output depends only on the
 * same row of the inputs (and, in attention, on its own sequence) - not on the
 * rows beside it, nor on the number of threads, nor on how a prompt was cut; and on whether it is a
 * prompt's (batch.prompt).
 *
 * Axes (MODEL.md): T rows of the batch, D model, H heads, K kv heads, F ffn, V vocab, hd head size.
 */
#ifndef PUNA_OPS_OPS_H
#define PUNA_OPS_OPS_H

#include "base/err.h"
#include "base/team.h"
#include "format/enc/weight.h"

/* What linear() makes of its input. */
enum compute {
    COMPUTE_AUTO, /* the fast path of the encoding: activations of 8 bits per group of 32, of 16
                     where a group has outliers, for quantised weights; bf16 for bf16, f32 for f16
                     and f32; where the encoding belongs to a rule for activations (weight.h),
                     that rule */
    COMPUTE_F32,  /* activations stay float32: for goldens and quality figures */
    COMPUTE_BF16, /* activations rounded to bf16, float32 sums */
};

enum { KV_BLOCK = 64 }; /* positions per cache block: a multiple of every kernel's step */

/* The paged cache of one layer; a head's row of hd values in the cache's encoding. */
struct kv_layer {
    void *k, *v; /* [blocks][K][KV_BLOCK][hd] */
};

struct ctx;
struct kv_cache {
    /* ENC_F32, ENC_F16, ENC_BF16; on the CPU ENC_Q8_0 where hd is a multiple of 32; on a GPU
     * ENC_F8_E4M3, without a scale: what is beyond 448 is held there */
    enum enc enc;
    size_t kv_heads, head_dim, blocks, layers;
    struct kv_layer *layer;
    struct ctx *on; /* whose memory it is */
};

/* Bytes of one head's row. */
static inline size_t kv_row_bytes(enum enc enc, size_t hd)
{
    return hd / enc_table[enc].block * enc_table[enc].bytes;
}

struct lora; /* model/lora.h */

/* A ragged batch: rows of several sequences, in order within each sequence. */
struct batch {
    size_t T;             /* rows */
    const int32_t *token; /* [T] */
    const int32_t *pos;   /* [T] position for RoPE */
    const int32_t *slot;  /* [T] index in the sequence's cache: block_table[slot/KV_BLOCK] */
    const int32_t *seq;   /* [T] sequence of the row */
    size_t n_seq;
    const int32_t *prompt; /* [n_seq] rows of slots below this are a prompt's, not an answer's; NULL
                              = none */
    const int32_t *const *block_table; /* [n_seq] block numbers of each sequence */
    const int32_t *want;               /* [n_want] rows that want logits, in order */
    size_t n_want;
    const struct lora *const *lora; /* [n_seq] adapter of each sequence, NULL = none */
    float *hidden; /* receives the last hidden states, normalised, [T, D]; NULL = not asked for */
    /* called with arg while a device computes the pass, where there is one; NULL = nothing to do */
    void (*meanwhile)(void *arg);
    void *arg;
};

struct ops;
struct backend; /* ops/backend.h */

/* One call of forward: the table, the threads, scratch. */
struct ctx {
    const struct ops *op;
    const struct backend *be;
    struct team *team;
    enum compute compute;
    /* Activations are bf16: those that training's operations and embed, gather, rmsnorm, rope and
     * swiglu read and write. Of a device, where nobody but operations follows their pointers. */
    bool half;
    /* Training with `half`, where the device multiplies E4M3: what meets frozen matrices of E4M3 in
     * it, of those whose rule rounds inputs to it by the row. */
    enum f8_products { F8_NONE, F8_FORWARD, F8_BOTH /* gradients too */ } f8;
    /* The pass, where it has rows of prompts, which may be multiplied in another arithmetic; its
     * rows that ops are given from `first_row` on, or those in `row`. NULL = no such rows. */
    const struct batch *pass;
    const int32_t *row;
    size_t first_row;
    void *backend; /* the backend's own scratch */
};

/* Whether row t of an op's input is a prompt's. */
static inline bool row_of_prompt(const struct ctx *c, size_t t)
{
    const struct batch *b = c->pass;
    const size_t r = c->row ? (size_t)c->row[t] : c->first_row + t;

    return b && b->slot[r] < b->prompt[b->seq[r]];
}

struct linear_out {
    float *y; /* [T, w->rows], row stride w->rows */
    const struct weight *w;
};

/* Attention over content and relative positions: queries 0..rows of n tokens. */
struct rel_attn {
    const float *q, *k, *v;     /* [rows, H*hd], [n, H*hd], [n, H*hd] */
    const float *rel_q, *rel_k; /* [span, H*hd]: what positions ask and what they answer */
    const int32_t *bucket;      /* [2n - 1] row of those for i - j, at i - j + n - 1; ascending */
    size_t rows, n, H, hd, span;
};

struct ops {
#define OP(ret, name, args) ret(*name) args;
#include "ops/ops.def"
#undef OP
};

extern const struct ops ops_ref; /* plain C, one thread, float32 or better everywhere */

#endif
