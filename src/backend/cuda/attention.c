/* attention.c - which kernel attends, on which grid: rows one by one or many of them for decoding,
 * runs of rows for prompts, or a program's phase. */
#include "backend/cuda/cuda_int.h"
#include "backend/cuda/run_int.h"

/* Whether decode.cu has a kernel for it. */
static bool has_decode(const struct cuda *b, const struct op *o)
{
    enum { HEADS = 8 }; /* of queries to a kv head */
    const size_t hd = o->kv->head_dim;

    return b->ctx.compute != COMPUTE_F32 && o->kv->enc != ENC_F32 && (hd == 64 || hd == 128) &&
           o->H / o->kv->kv_heads <= HEADS;
}

/* Whether the product of what o makes is in a program, with which it is one. */
static bool product_in_program(const struct cuda *b, const struct op *o)
{
    const struct op *next =
        op_consumer(b, (size_t)(o - b->op), o->y, o->T, o->H * (size_t)o->kv->head_dim);

    return !next || route_of(b, next->out[0].w, next->T) == ROUTE_STREAM;
}

bool attn_in_program(const struct cuda *b, const struct op *o)
{
    /* slots from which on a kernel of its own is faster, ALONE with one row: 8B in Q4_0 on an H200
     * decodes after 17000, 24000 and 32000 tokens at 398, 355 and 308 tok/s in a program, at 377,
     * 350 and 323 so. Of more rows than FEW all of theirs count: a span is one block's, and when
     * all blocks have one a program waits for each in turn. */
    enum { LONG = 16384, ALONE = 32768, FEW = 2 };
    const size_t slots = b->slots * (o->T > FEW ? o->T : 1);

    return o->kind == OP_ATTN && o->T <= DEV_STREAM_ROWS && o->kv->enc != ENC_F32 &&
           o->kv->head_dim <= ATTN_HEAD &&
           (!has_decode(b, o) || (slots < (o->T == 1 ? ALONE : LONG) && product_in_program(b, o)));
}

/* Spans of slots: enough for `most` blocks, none below `least` slots. */
static void choose_splits(const struct cuda *b, size_t blocks, size_t most, size_t least,
                          size_t *splits, size_t *span)
{
    size_t n = most / blocks;

    n = n > b->slots / least ? b->slots / least : n;
    n = n > ATTN_SPLITS ? ATTN_SPLITS : n ? n : 1;
    *span = over(over(b->slots, n), KV_BLOCK) * KV_BLOCK;
    *splits = over(b->slots, *span);
}

/* The longest span of a row, and how many of them the longest row has: enough for all
 * multiprocessors once, for spans have to be merged; of many rows those that are much longer than
 * others are cut. One row of 131072 slots in bf16 took an H200 150 us in 49 spans, 169 in 98. */
static void crowd_spans(const struct cuda *b, const struct reach *r, size_t blocks, size_t room,
                        size_t *splits, size_t *span)
{
    enum { LEAST = 256, BLOCKS = 3 /* fit on a multiprocessor */ };
    const size_t n = BLOCKS * b->sms / blocks;

    *span = n > 1 ? r->usual / n : 2 * r->usual;
    *span = *span < LEAST ? LEAST : *span;
    *splits = over(r->longest, *span);
    *splits = *splits > room ? room : *splits;
    *splits = *splits > ATTN_SPLITS ? ATTN_SPLITS : *splits ? *splits : 1;
    *span = over(over(r->longest, *splits), KV_BLOCK) * KV_BLOCK;
}

static void attn_crowd(struct cuda *b, struct attn_args *a, const struct op *o, size_t rows)
{
    static const enum kernel kern[][2] = {
        [ENC_F16] = { KERN_decode_f16_64, KERN_decode_f16_128 },
        [ENC_BF16] = { KERN_decode_bf16_64, KERN_decode_bf16_128 },
        [ENC_F8_E4M3] = { KERN_decode_f8_64, KERN_decode_f8_128 },
    };
    enum { ROOM = 64 << 20 }; /* for parts */
    const size_t hd = o->kv->head_dim, K = o->kv->kv_heads;
    size_t splits, span;

    crowd_spans(b, o->T == b->rows ? &b->lone_reach : &b->wanted_reach, rows * K,
                ROOM / (o->T * o->H * (hd + 2) * sizeof(float)), &splits, &span);
    if (splits > 1 && (!cuda_room(b, &b->part, o->T * o->H * splits * (hd + 2) * sizeof(float)) ||
                       !cuda_room(b, &b->done, rows * K * sizeof(int))))
        return;
    a->q16 = b->q16 == a->q ? (const uint16_t *)(uintptr_t)b->qkv.p : NULL;
    a->part = splits > 1 ? (float *)(uintptr_t)b->part.p : NULL;
    a->done = (int *)(uintptr_t)b->done.p;
    a->splits = (int)splits;
    a->span = (int)span;
    cuda_launch_with(b, kern[o->kv->enc][hd == 128], splits, K, rows, DECODE_THREADS, DECODE_SHARED,
                     (void *[]){ a });
}

/* Query heads of an item in a program: as few as give each block one, for the more there are the
 * longer it takes; all that share a kv head where reading the cache counts. */
static size_t program_heads(const struct cuda *b, size_t H, size_t group, size_t rows, size_t spans)
{
    size_t n = 1;

    while (n < PROGRAM_HEADS && rows * H * spans > n * b->sms)
        n *= 2;
    return n < group ? n : group;
}

/* Rows one by one: all, or those of the batch that are in no run. */
static void attn_rows(struct cuda *b, struct attn_args *a, const struct op *o, size_t rows)
{
    static const enum kernel kern[][3] = {
        [ENC_F32] = { KERN_attn_f32_1, KERN_attn_f32_4, KERN_attn_f32_8 },
        [ENC_F16] = { KERN_attn_f16_1, KERN_attn_f16_4, KERN_attn_f16_8 },
        [ENC_BF16] = { KERN_attn_bf16_1, KERN_attn_bf16_4, KERN_attn_bf16_8 },
        [ENC_F8_E4M3] = { KERN_attn_f8_1, KERN_attn_f8_4, KERN_attn_f8_8 },
    };
    static const size_t heads[] = { 1, 4, 8 };
    const size_t hd = o->kv->head_dim, K = o->kv->kv_heads, group = o->H / K;
    const size_t size = group == 1 ? 0 : group <= 4 ? 1 : 2;
    const bool program = attn_in_program(b, o);
    const size_t spans = over(b->slots, (size_t)span_of((int)b->slots));
    const size_t beside = program ? program_heads(b, o->H, group, rows, spans) : heads[size];
    const size_t parts = over(group, beside);
    size_t splits, span;

    if (!program && has_decode(b, o)) {
        attn_crowd(b, a, o, rows);
        return;
    }
    if (program) {
        a->splits = (int)spans;
        program_attn(b, a, (int)o->kv->enc, rows, beside);
        return;
    }
    choose_splits(b, rows * K * parts, 6 * b->sms, KV_BLOCK, &splits, &span);
    if (splits > 1 && (!cuda_room(b, &b->part, o->T * o->H * splits * (hd + 2) * sizeof(float)) ||
                       !cuda_room(b, &b->done, rows * K * parts * sizeof(int))))
        return;
    a->part = splits > 1 ? (float *)(uintptr_t)b->part.p : NULL;
    a->done = (int *)(uintptr_t)b->done.p;
    a->splits = (int)splits;
    a->span = (int)span;
    cuda_launch(b, kern[o->kv->enc][size], splits, K * parts, rows, 128, (void *[]){ a });
}

/* How TMA sees the keys or values of a layer: rows of one head and slot. */
static bool map_cache(struct cuda *b, struct dev_map *m, const void *cache,
                      const struct kv_cache *kv)
{
    return cuda_map(b, m, cache,
                    kv->enc == ENC_BF16  ? BLAS_BF16
                    : kv->enc == ENC_F16 ? BLAS_F16
                                         : BLAS_F8,
                    kv->blocks * kv->kv_heads * KV_BLOCK, kv->head_dim, 64);
}

/* Whether prompts of o have a kernel on the tensor cores, and Hopper's. */
static bool has_runs(const struct cuda *b, const struct op *o)
{
    const size_t hd = o->kv->head_dim;

    return b->n_runs > 0 && b->ctx.compute != COMPUTE_F32 && (hd == 64 || hd == 128) &&
           o->H / o->kv->kv_heads <= FLASH_ROWS && o->kv->enc != ENC_F32 && o->T == b->rows;
}

static bool by_wgmma(const struct cuda *b)
{
    return b->wgmma && !(b->tries & CUDA_TRY_MMA);
}

bool attn_takes16(const struct cuda *b, const struct op *o, int *mode)
{
    *mode = o->kv->enc == ENC_BF16 ? PREP_BF16 : PREP_F16;
    if (has_runs(b, o))
        return by_wgmma(b) && (b->n_lone == 0 || has_decode(b, o));
    return has_decode(b, o) && !attn_in_program(b, o);
}

/* Prompts on the tensor cores; false where there is no kernel for them. */
static bool attn_runs(struct cuda *b, const struct attn_args *a, const struct op *o)
{
    static const enum kernel kern[][2][2] = {
        /* wgmma; 128 */
        [ENC_F16] = { { KERN_flash_f16_64, KERN_flash_f16_128 },
                      { KERN_flash_wgmma_f16_64, KERN_flash_wgmma_f16_128 } },
        [ENC_BF16] = { { KERN_flash_bf16_64, KERN_flash_bf16_128 },
                       { KERN_flash_wgmma_bf16_64, KERN_flash_wgmma_bf16_128 } },
        [ENC_F8_E4M3] = { { KERN_flash_f8_64, KERN_flash_f8_128 },
                          { KERN_flash_wgmma_f8_64, KERN_flash_wgmma_f8_128 } },
    };
    enum { L2_PART = 32 << 20 }; /* of the 50 MB and more of a Hopper */
    const size_t hd = o->kv->head_dim, K = o->kv->kv_heads, group = o->H / K;
    const enum enc enc = o->kv->enc;
    const bool wgmma = by_wgmma(b), f8 = enc == ENC_F8_E4M3;

    if (!has_runs(b, o))
        return false;
    struct flash_args f = { .y = a->y,
                            .q = a->q,
                            .q16 = b->q16 == a->q ? (uint16_t *)(uintptr_t)b->qkv.p : NULL,
                            .k = a->k,
                            .v = a->v,
                            .slot = a->slot,
                            .seq = a->seq,
                            .runs = b->runs_at,
                            .table = a->table,
                            .n_runs = (int)b->n_runs,
                            .tokens = (int)(FLASH_ROWS / group),
                            .H = a->H,
                            .K = a->K,
                            .scale = a->scale,
                            .y16 = a->y16,
                            .mode16 = a->mode16,
                            .kp16 = a->kp16 };

    for (size_t r = 0; r < b->n_runs; r++)
        f.tiles += (int)over((size_t)b->runs[2 * r + 1], FLASH_ROWS / group);
    for (f.heads = f.K; f.heads > 1; f.heads--) /* as many as stay in the second-level cache */
        if (f.K % f.heads == 0 && (size_t)f.heads * b->slots * 2 * kv_row_bytes(enc, hd) <= L2_PART)
            break;
    const enum kernel k = kern[enc][wgmma][hd == 128];
    const size_t tiles = (size_t)f.tiles;

    if (!wgmma)
        cuda_launch_with(b, k, tiles, K, 1, 256, 4 * KV_BLOCK * hd * 2, (void *[]){ &f });
    else if ((f8 && hd == 64) ||
             (map_cache(b, &f.map[0], a->k, o->kv) && (f8 || map_cache(b, &f.map[1], a->v, o->kv))))
        cuda_launch_with(b, k, tiles * K < b->sms ? tiles * K : b->sms, 1, 1, FLASH_WGMMA_THREADS,
                         FLASH_WGMMA_SHARED(hd, f8), (void *[]){ &f });
    return true;
}

void cuda_attention(struct cuda *b, struct attn_args *a, const struct op *o)
{
    const size_t hd = o->kv->head_dim;

    if (hd % 8 || hd > 256) {
        if (!b->failed)
            err_set(&b->fault, ERR_HARDWARE,
                    "heads of %zu values: the GPU's attention takes multiples of 8 up to 256; use "
                    "--device cpu",
                    hd);
        b->failed = true;
        return;
    }
    if (!attn_runs(b, a, o)) {
        attn_rows(b, a, o, o->T);
    } else if (b->n_lone) {
        a->rows = b->lone_at;
        attn_rows(b, a, o, b->n_lone);
    }
}
