/* kern.h - row-level kernels of the CPU backend, one table per instruction set.
 *
 * Quantised weights meet activations of 8 bits in groups of 32 (Q4_K's own granularity). Sixteen
 * weight rows are unpacked at a time into `struct group`: lane r of every 64-byte line belongs
 * to row r, so one multiply-add serves 16 rows and no sum crosses lanes. The value of one
 * (row, token) is then, on every instruction set and for any tiling, the same chain
 *
 *     acc = fma(float(sum of code * q over the group), d_w * d_x, acc)
 *     acc = fma(m_w, sum of x as rounded, acc)              groups in ascending order
 *     rest = fma(float(sum of code * r), d_w * e_x, rest)   where the group has a remainder r
 *
 * and acc + rest in the end. The inner sums are exact integers: hence the same bits for any batch
 * and any thread count. Codes are unsigned and told from their centre: the sums are of
 * (code - centre) * q, and m_w is what the centre stands for, so that sums and m_w stay small. In
 * symmetric encodings it is 0, and the second line may be left out: acc is never -0.
 *
 * A group's rounding error grows with its largest value, and trained models have a few inputs that
 * are far larger than the rest: a group whose largest value is OUTLIER times the row's root mean
 * square keeps what rounding left as 8 bits more, x = d q + e r. In SmolLM2 45 groups of 1000 do,
 * and the error of its logits falls from 2.5e-2 to 1.5e-2. */
#ifndef PUNA_BACKEND_CPU_KERN_H
#define PUNA_BACKEND_CPU_KERN_H

#include <string.h>

#include "ops/train.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    LANES = 16,      /* weight rows of a panel */
    GROUP = 32,      /* values of a group */
    CHUNK = 16,      /* groups of a panel: 12 KiB, two of which stay in the first-level cache */
    PANELS = 2,      /* most that a dot takes together */
    OUTLIER = 8,     /* 6 doubles the groups and takes another fifth off the error */
    HEAD_MAX = 4096, /* largest head size attention has room for */
    DOT_ROWS = 64,   /* most weight rows of a call of dot_f32 */
    DOT_T = 24,      /* tokens of a block of it, whole tiles of 3 and 4 */
    DOT_K = 1024,    /* values of them at a time: four rows of inputs and of weights are 32 KiB */
};

struct group {
    uint8_t code[8][64]; /* [value / 4][row][value % 4] */
    float d[2][LANES];   /* scale of values 0..15 and 16..31; [1] only when halves differ */
    float m[2][LANES];   /* unset in symmetric encodings */
};

/* T activation rows of 8 bits: x = d * q, or d * q + e * r where e is not 0. What a group has one
 * number of lies with the tokens side by side, as a tile of tokens reads it. */
struct q8 {
    int8_t *q;     /* [T][K] */
    int8_t *r;     /* [T][K] written where `more` is set */
    float *d;      /* [K/32][T] */
    float *e;      /* [K/32][T] 0 where there is no r */
    float *s;      /* [K/32][T] d * sum(q) + e * sum(r) of the group */
    int32_t *n;    /* [K/32][T] -sum(q) */
    int32_t *n0;   /* [K/32][T] the same of the first half */
    int32_t *nr;   /* [K/32][T] -sum(r) or 0 */
    int32_t *nr0;  /* [K/32][T] the same of the first half */
    uint8_t *more; /* [K/32][T] whether there is r */
    float *far;    /* [T] values above which there is */
    size_t T, K;
    size_t ahead; /* cpu_kern's */
};

/* How large the codes of an encoding are: AVX2's 8-bit multiply-add saturates, so that small codes
 * take fewer instructions there. */
enum codes {
    CODES_8,      /* up to 255 */
    CODES_5,      /* up to 31 */
    CODES_4,      /* up to 15 */
    CODES_HALVES, /* up to 63, the two halves of a group with scales of their own and no m */
    CODES_COUNT
};
static inline int code_centre(enum codes kind)
{
    return kind == CODES_4 ? 8 : kind == CODES_5 ? 16 : kind == CODES_HALVES ? 32 : 128;
}
static inline float planes_centre(const struct weight *w)
{
    return planes_bits(w->enc) == 8 ? 128 : 8;
}

/* Sixteen rows of a weight; rows past the last repeat it, and their sums are dropped. */
struct rows16 {
    const uint8_t *at[LANES];
    const uint8_t *next[2];  /* eight rows to fetch for later, never read, and eight more */
    const struct weight *of; /* whose rows r0 .. r0+R they are, for its planes */
    size_t r0, R;
};

/* Panel i of P is at p + i * CHUNK, its sums at acc and rest + i * T * LANES. */
typedef void dot_fn(float *acc, float *rest, const struct group *p, size_t P, size_t ng,
                    const struct q8 *x, size_t g0, size_t t0, size_t T);
typedef void unpack_fn(struct group *p, const struct rows16 *w, size_t g0, size_t ng);
/* The same for encodings with planes: rows r0 .. r0+R, R <= 16. */
typedef void unpack_planes_fn(struct group *p, const struct weight *w, size_t r0, size_t R,
                              size_t g0, size_t ng);
/* y [n, cols] = rows r0 .. r0+n of w; n <= 8, r0 a multiple of 8. */
typedef void decode_planes_fn(float *y, const struct weight *w, size_t r0, size_t n);

/* Weights that were put in an order of the kernels' own (placed_avx2.c, placed_avx512.c,
 * linear_avx512_bf16.c): sixteen rows are a unit of as many bytes as they have in the file. */
struct placed_kern {
    /* of G groups of sixteen rows; or, for encodings with planes, groups g0 .. g0+ng of rows r0 ..
     * r0+16 from a panel of them, with all scales where g0 is 0 */
    void (*pack)(uint8_t *unit, const struct rows16 *w, size_t G);
    void (*pack_planes)(uint8_t *unit, const struct group *p, const struct weight *w, size_t r0,
                        size_t g0, size_t ng);
    /* acc[T][16] = a unit of w times rows t0 .. t0+T of x, all groups, with the bits of unpack and
     * dot; NULL for bf16, of which dot_bf16 takes either order */
    void (*dot)(float *acc, const uint8_t *unit, const struct weight *w, const struct q8 *x,
                size_t t0, size_t T);
    size_t most; /* tokens for which it is faster than a panel */
    /* n <= 8 groups of row r from g on, a multiple of 8, as they are in the file; plain C; NULL for
     * encodings with planes */
    void (*unpack_row)(uint8_t *to, const uint8_t *unit, size_t G, size_t r, size_t g, size_t n);
    /* groups g0 .. g0+ng of a unit of w */
    void (*unpack)(struct group *p, const uint8_t *unit, const struct weight *w, size_t g0,
                   size_t ng);
};

static inline size_t placed_unit_bytes(const struct weight *w)
{
    return weight_bytes(w) / (w->rows / LANES);
}

/* The bytes of a weight that is placed as it is, if it is placed. */
static inline const uint8_t *weight_copy(const struct weight *w)
{
    return w->placed ? w->placed : w->data;
}

/* What inputs of an exact product are. */
enum exact_in {
    EXACT_ACT,   /* rounded by the weight's own rule (planes.act) */
    EXACT_BF16,  /* rounded to bf16 */
    EXACT_FLOAT, /* as they are: to 2^-18; NF4 and FP4: as nf4.h says */
    EXACT_COUNT
};

/* Weights that a multiply-add of few bits takes without another rounding, or one of 2^-14, for any
 * number of tokens: E4M3 as bf16, INT8 as bytes, NF4 and FP4 as numbers of 16 bits. A row's result
 * is the same in any batch. */
struct exact_kern {
    /* Bytes of a row of inputs in the kernel's own form; 0: this weight needs another path. Forms
     * lie exact_apart(bytes) from one another, at multiples of 64. */
    size_t (*bytes)(const struct weight *w, enum exact_in in);
    void (*form)(void *to, const struct weight *w, enum exact_in in, const float *x);
    /* y[t * ys + r] = or += row r0+r of w (of w.placed, a copy, if any) times token t, for R rows
     * and T tokens; x: their forms, of w or of another weight with the same rule and the same
     * number of inputs */
    void (*dot)(float *y, size_t ys, const struct weight *w, size_t r0, size_t R, enum exact_in in,
                const void *x, size_t T, bool add);
    /* Sixteen rows from r0 on in an order of its own, and their bytes; NULL: placed as they are */
    void (*pack)(uint8_t *unit, const struct weight *w, size_t r0);
    size_t (*unit)(const struct weight *w);
};

/* Not a multiple of 4 KiB, of which few lines fit a cache. */
static inline size_t exact_apart(size_t bytes)
{
    const size_t n = (bytes + 63) / 64 * 64;

    return n % 4096 ? n : n + 64;
}

/* A query head of one row: it sees slots up to its own. */
struct attn_query {
    const float *q; /* [hd] */
    float *state;   /* [ATTN_STATE(hd)] sums of values, largest score, sum of weights */
    size_t slot;
};

/* Slots from .. to of one sequence as one kv head holds them; from is a multiple of KV_BLOCK. */
struct attn_span {
    const struct kv_cache *kv;
    size_t layer, kh, from, to;
    const int32_t *table;
};

typedef void attn_fn(const struct attn_query *q, size_t n, const struct attn_span *s, float *room);

enum { ATTN_QUERIES = 128, ATTN_FEW = 8 }; /* most that share a block; those with lanes of four */
#define ATTN_WIDTH(hd) (((hd) + 15) / 16 * 16)
#define ATTN_STATE(hd) (ATTN_WIDTH(hd) + 16)
/* a block of keys and values widened, queries, and for 16 of these their weights and sums */
#define ATTN_ROOM(hd)                                                                              \
    ((2 * KV_BLOCK + ATTN_QUERIES) * ATTN_WIDTH(hd) + ATTN_QUERIES / 16 * (KV_BLOCK * 16 + 48))

/* Bit i: whether flag[i] is 1; n <= 64. */
static inline uint64_t more_mask(const uint8_t *flag, size_t n)
{
    uint64_t mask = 0, eight;
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        memcpy(&eight, flag + i, 8);
        /* byte k moves to bit k of the top byte */
        mask |= (eight * 0x0102040810204080 >> 56) << i;
    }
    for (; i < n; i++)
        mask |= (uint64_t)flag[i] << i;
    return mask;
}

/* Walks over the tokens of a group that have a remainder, in ascending order. */
struct more_walk {
    const uint8_t *flag;
    size_t at, next, end; /* what bit 0 of mask is; what the next mask begins with */
    uint64_t mask;
};

static inline struct more_walk more_of(const struct q8 *x, size_t g, size_t t0, size_t T)
{
    return (struct more_walk){ .flag = x->more + g * x->T, .next = t0, .end = t0 + T };
}

/* false: there is none left. */
static inline bool more_next(struct more_walk *m, size_t *t)
{
    while (!m->mask) {
        if (m->next == m->end)
            return false;
        const size_t n = m->end - m->next < 64 ? m->end - m->next : 64;

        m->mask = more_mask(m->flag + m->next, n);
        m->at = m->next;
        m->next += n;
    }
    *t = m->at + (size_t)__builtin_ctzll(m->mask);
    m->mask &= m->mask - 1;
    return true;
}

enum { GEMM_COLS = 32, PAIR_K = 16, PAIR_ROWS = 32 };

/* A tile of a product: `rows` rows (gemm_rows, gemm_few, or 1) by GEMM_COLS columns. For gemm_f32 a
 * is floats, element (r, k) at r * ars + k * acs, one of the two being 1, and b is [K][GEMM_COLS].
 * For gemm_bf16 both are pairs of bf16 along k, a 32-bit word each, and K, ars and acs count words.
 * Where gemm_tiles is set, it takes any number of rows, acs is 1, and PAIR_K words of k and
 * PAIR_ROWS rows are read at a time: behind k are zeros in both, what lies behind the rows counts
 * for nothing. */
struct gemm {
    float *c; /* rows ldc apart */
    const void *a, *b;
    size_t ldc, ars, acs, K;
    size_t rows;
    float by;
    bool add;
};

struct cpu_kern {
    /* groups g0 .. g0+ng of 16 rows; NULL where the encoding has no 8-bit path */
    unpack_fn *unpack[ENC_COUNT];
    /* encodings with planes; unpack_planes is for weights whose scales cover whole groups, and
     * reads x in p.order */
    unpack_planes_fn *unpack_planes[ENC_COUNT];
    decode_planes_fn *decode_planes[ENC_COUNT];
    /* acc[16] = 16 rows times the only row of x (t = 0, T = 1), all groups, with the bits of unpack
     * and dot; or NULL */
    void (*row[ENC_COUNT])(float *acc, const struct rows16 *w, const struct q8 *x, size_t t);
    /* y[R] = or += rows r0 .. r0+R of w times the only row of x, for weights whose rows of words
     * hold many outputs (w.rows and r0 multiples of 8); the bits of unpack_planes and dot; or NULL
     */
    void (*columns[ENC_COUNT])(float *y, const struct weight *w, size_t r0, size_t R,
                               const struct q8 *x, bool add);
    /* y[R] = or += rows r0 .. r0+R of w times a row of floats, with the bits of decode_planes (or
     * decode_f16, decode_bf16) and dot_f32; false where w's shape wants those; or NULL */
    bool (*row_floats[ENC_COUNT])(float *y, const struct weight *w, size_t r0, size_t R,
                                  const float *x, bool add);
    struct exact_kern exact[EXACT_COUNT][ENC_COUNT]; /* NULLs = none */
    struct placed_kern placed[ENC_COUNT];            /* NULLs where the file's order serves */
    enum codes codes[ENC_COUNT];
    bool offset[ENC_COUNT]; /* whether m is not 0 */
    /* acc[T][16] and rest[T][16] += panel times rows t0 .. t0+T of x, groups g0 .. g0+ng; [1] for
     * encodings with m */
    dot_fn *dot[CODES_COUNT][2];
    /* the same, faster from `many` tokens on */
    dot_fn *dot_many[CODES_COUNT][2];
    size_t many;
    size_t panels; /* of 16 rows, that a dot gains from having together */
    /* bytes before their use at which the codes of a placed unit are asked for, into the
     * second-level cache; 0: the hardware does that well enough */
    size_t ahead;
    /* the largest value of a row of K that leaves no remainder */
    float (*far)(const float *src, size_t K);
    /* groups g0 .. g0+ng of row t, whose `far` is known */
    void (*quantise)(const struct q8 *x, size_t t, const float *src, size_t g0, size_t ng);
    /* y[t * ys + r] = or += w[r] . x[t] for R <= DOT_ROWS rows, ws apart, and T tokens, of n
     * floats. Value k of token t is x[k / DOT_K * xk + t * xs + k % DOT_K]: rows have xk = DOT_K.
     */
    void (*dot_f32)(float *y, size_t ys, const float *w, size_t ws, size_t R, const float *x,
                    size_t xs, size_t xk, size_t T, size_t n, bool add);
    size_t bf16_rows; /* the most that dot_bf16 takes, a multiple of LANES */
    /* the same for rows r0 .. r0+R of w, of bf16 (of w.placed, if any), r0 a multiple of LANES, x
     * as pack_bf16 makes it; NULL = none */
    void (*dot_bf16)(float *y, size_t ys, const struct cpu_kern *k, const struct weight *w,
                     size_t r0, size_t R, const bf16 *x, size_t xs, size_t T, bool add, void *mem);
    size_t bf16_room; /* bytes of a thread's own that it wants at mem, a multiple of 64 */
    /* it takes, rounded to bf16, whatever goes into panels too, and does so with the rows of
     * prompts (row_of_prompt), which gain from it; k is for their unpacking */
    bool bf16_prompts;
    size_t bf16_tokens; /* that pack_bf16 takes together */
    /* x [T, n] rounded, zeros behind the values, in T (up to a multiple of bf16_tokens) rows of xs
     * values, a multiple of 32; sixteen such rows may hold tiles instead */
    void (*pack_bf16)(bf16 *to, size_t xs, const float *x, size_t T, size_t n);
    void (*decode_f16)(float *y, const void *src, size_t n);
    void (*decode_bf16)(float *y, const void *src, size_t n);
    void (*rmsnorm)(float *y, const float *x, const float *w, size_t n, float eps);
    void (*swiglu)(float *h, const float *g, const float *u, size_t n);
    /* n queries over a span; room for ATTN_ROOM(hd) floats; it and states lie at multiples of 64
     * bytes */
    attn_fn *attn;
    /* the same in bf16, for rows of prompts (row_of_prompt); NULL = none for this cache */
    attn_fn *attn_prompt[ENC_COUNT];
    /* the later of two spans into the earlier */
    void (*attn_merge)(float *state, const float *later, size_t hd);
    /* training (train.inc) */
    size_t gemm_rows, gemm_few;
    void (*gemm_f32)(const struct gemm *g);
    void (*gemm_bf16)(const struct gemm *g); /* NULL = none: bf16 values go through gemm_f32 */
    bool gemm_tiles;
    void (*to_bf16)(bf16 *y, const float *x, size_t n);
    /* R <= 16 rows of a panel of ng groups, rounded, `apart` values from one another; NULL = none
     */
    void (*group_bf16)(bf16 *to, size_t apart, const struct group *p, size_t ng, enum codes kind,
                       bool offset, size_t R);
    /* to[j] = lo[j] | hi[j] << 16, n <= GEMM_COLS; with gemm_bf16 */
    void (*pair)(uint32_t *to, const bf16 *lo, const bf16 *hi, size_t n);
    /* the same of K rows of n floats, ld apart, rounded: (K + 1) / 2 rows of words, `apart` apart
     */
    void (*pair_floats)(uint32_t *to, size_t apart, const float *x, size_t ld, size_t n, size_t K);
    /* y[c * ys + r] = x[r * xs + c] for r < rows, c < cols */
    void (*transpose)(float *y, size_t ys, const float *x, size_t xs, size_t rows, size_t cols);
    float (*dot_one)(const float *a, const float *b, size_t n);
    float (*largest)(const float *x, size_t n);
    float (*exp_sum)(float *y, const float *x, size_t n, float scale, float less);
    void (*rmsnorm_bwd)(float *dx, float *r, const float *dy, const float *x, const float *w,
                        size_t n, float eps);
    void (*swiglu_bwd)(float *dg, float *du, const float *dh, const float *g, const float *u,
                       size_t n);
    void (*adamw)(const struct adamw *a, float c1, float c2, float *w, float *m, float *v,
                  const float *g, size_t n);
    /* encoders (encoder.inc) */
    /* y[i] = or += x[at[i] - first], or at[-i] where `down`, i < n; at is ascending. The 16 floats
     * behind the largest x are readable. */
    void (*pick)(float *y, const float *x, const int32_t *at, int32_t first, size_t n, bool down,
                 bool add);
    void (*gelu)(float *x, size_t n);
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, size_t n,
                      float eps);
};

/* Groups g0 .. g0+ng of rows r0 .. r0+R of w, R <= LANES, r0 a multiple of it; w is one that
 * linear_unpacks allows. */
void unpack_panel(const struct cpu_kern *k, struct group *p, const struct weight *w, size_t r0,
                  size_t R, size_t g0, size_t ng);

/* Fills the table from plain C up to what `flags` (enum cpu_flag) allows. */
void cpu_kern_init(struct cpu_kern *k, unsigned flags);

void cpu_kern_generic(struct cpu_kern *k);
void cpu_kern_unpack(struct cpu_kern *k); /* unpack.c: every encoding, plain C */
void cpu_kern_planes(struct cpu_kern *k); /* planes.c: those with planes */
void cpu_kern_nf4(struct cpu_kern *k);    /* nf4.c: NF4 and FP4, plain C */
void cpu_kern_planes_avx2(struct cpu_kern *k);
unpack_planes_fn unpack_planes_generic; /* plain C, for what a faster one leaves */
decode_planes_fn decode_planes_generic;
void cpu_kern_avx2(struct cpu_kern *k);
void cpu_kern_q8_avx2(struct cpu_kern *k);
void cpu_kern_columns_avx2(struct cpu_kern *k);
void cpu_kern_placed_avx2(struct cpu_kern *k);
void cpu_kern_row_floats_avx2(struct cpu_kern *k);
void cpu_kern_nf4_avx2(struct cpu_kern *k);
void cpu_kern_exact_avx2(struct cpu_kern *k);
void cpu_kern_avx512(struct cpu_kern *k);
void cpu_kern_columns_avx512(struct cpu_kern *k);
void cpu_kern_row_floats_avx512(struct cpu_kern *k);
void cpu_kern_placed_avx512(struct cpu_kern *k);
void cpu_kern_row_avx512(struct cpu_kern *k);
void cpu_kern_nf4_avx512(struct cpu_kern *k);
void cpu_kern_avx512_bf16(struct cpu_kern *k);
void cpu_kern_linear_avx512_bf16(struct cpu_kern *k);
void cpu_kern_exact_avx512(struct cpu_kern *k);
void cpu_kern_exact_avx512_bf16(struct cpu_kern *k);
void cpu_kern_amx(struct cpu_kern *k);
void cpu_kern_q8_amx(struct cpu_kern *k);
void cpu_kern_attn_amx(struct cpu_kern *k);

#endif
