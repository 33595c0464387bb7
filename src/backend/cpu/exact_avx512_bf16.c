/* exact_avx512_bf16.c - weights that bf16 holds exactly times inputs in bf16: codes of E4M3, and
 * values of NF4 and FP4 that are rounded to bf16 by definition (bnb4.h). Inputs rounded to E4M3 by
 * the checkpoint's rule, or to bf16 by the caller's wish, are exact as well; others, of E4M3 alone
 * (nf4.h has those of NF4), are the sum of two pieces, which leaves an error of 2^-18. What remains
 * is a multiply-add of 32 products.
 *
 *     E4M3   tables of 128 bytes turn 64 codes into the high and the low byte of as many bf16;
 * their signs go straight to the high one. Scales multiply sums: those of weights and inputs
 *            together, block by block of the smaller reach.
 *     NF4    64 bytes are two blocks of 64 values. Both tables of 16 rounded products share a
 *            register, and a lookup takes one nibble of each of 32 words.
 *
 * The form of a row of inputs: scales by block, then the pieces, in the order in which lookups and
 * the halves of a register leave the weights. A sum is lane by lane, steps in ascending order, the
 * pieces apart, whatever the tile of rows and tokens it is in. */
#include <immintrin.h>

#include "backend/cpu/kern.h"
#include "base/num.h"
#include "format/enc/bnb4.h"

enum {
    ROWS = 4,        /* of a tile: they share what is loaded of the inputs, and hide latencies */
    TOKENS = 4,      /* most of a tile */
    AHEAD = 1 << 15, /* bytes from what is read to what is fetched */
};

/* Values that a step takes: 64 bytes of E4M3, of nibbles. */
INLINE size_t step_of(const enum enc enc)
{
    return enc == ENC_F8 ? 64 : 128;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Of one row of inputs. */
struct form {
    size_t K;      /* values of a piece, up to whole steps */
    size_t block;  /* inputs that share a scale; all, where there is none */
    size_t scales; /* bytes */
    size_t pieces;
};

static struct form form_of(const struct weight *w, enum exact_in in)
{
    const size_t step = step_of(w->enc);
    struct form f = { .K = (w->cols + step - 1) / step * step, .block = w->cols };

    if (in == EXACT_ACT && w->p.act == ACT_F8)
        f.block = smaller(w->p.act_group, w->cols);
    f.scales = ((w->cols + f.block - 1) / f.block * sizeof(float) + 63) / 64 * 64;
    f.pieces = in == EXACT_FLOAT ? 2 : 1;
    return f;
}

static bool multiple(size_t n, size_t of, size_t all)
{
    return n >= all || (n % of == 0 && all % n == 0);
}

static size_t bytes(const struct weight *w, enum exact_in in)
{
    const struct form f = form_of(w, in);
    const size_t reach = smaller(f.block, w->p.group);

    if (w->cols % 64)
        return 0;
    if (w->enc == ENC_F8) {
        if ((in == EXACT_ACT && w->p.act != ACT_F8 && w->p.act != ACT_F8_STATIC) ||
            !multiple(f.block, 64, w->cols) || !multiple(w->p.group, 64, w->cols) ||
            !multiple(f.block, reach, w->cols) || !multiple(w->p.group, reach, w->cols))
            return 0;
    } else if (w->p.round != ENC_BF16 || w->p.group % 64 || w->cols % w->p.group) {
        return 0;
    }
    return f.scales + f.pieces * f.K * sizeof(bf16);
}

/* ---- inputs ---- */

/* To E4M3, as f32_to_f8_e4m3 and back; NaN stays. */
INLINE __m512 to_f8(__m512 x)
{
    const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f)), by = _mm512_set1_ps(0x1p14f);
    const __m512 a = _mm512_min_ps(_mm512_set1_ps(F8_E4M3_MAX), _mm512_abs_ps(x));
    const __m512i u = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 20), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFFF)), odd);
    __m512 y = _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32((int)0xFFF00000)));

    /* below 2^-6 the step is 2^-9 */
    y = _mm512_mask_sub_ps(y, _mm512_cmp_ps_mask(a, _mm512_set1_ps(0x1p-6f), _CMP_LT_OQ),
                           _mm512_add_ps(a, by), by);
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
    return _mm512_or_ps(y, sign);
}

/* Sixteen inputs, of which n exist, from place i of a row on, to their places of E4M3's order:
 * eight of them follow those of the sixteen before. */
INLINE void put_f8(bf16 *to, size_t i, __m256bh v)
{
    const __m256i u = (__m256i)v;
    bf16 *at = to + i / 64 * 64 + i % 64 / 2;

    _mm_storeu_si128((__m128i *)at, _mm256_castsi256_si128(u));
    _mm_storeu_si128((__m128i *)(at + 32), _mm256_extracti128_si256(u, 1));
}

/* The same for nibbles: register j of a step has value j ^ 1 of every word's four. */
INLINE void put_4(bf16 *to, size_t i, __m256bh v)
{
    uint64_t four[4];

    _mm256_storeu_si256((__m256i *)four, (__m256i)v);
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++)
        memcpy(to + i / 128 * 128 + 32 * j + i % 128 / 4, &four[j], sizeof(*four));
}

INLINE __m512 widened(__m256bh v)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)v), 16));
}

/* scales[b] = that of block b by the rule of w. */
static void act_scales(float *scales, const struct weight *w, const float *x, size_t block)
{
    for (size_t i = 0, b = 0; i < w->cols; i += block, b++) {
        const size_t end = smaller(i + block, w->cols);
        __m512 max = _mm512_setzero_ps();

        for (size_t k = i; k < end; k += 16)
            max = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x + k)), max);
        scales[b] = act_scale(w->p.act, w->p.act_bound, w->p.act_scale, _mm512_reduce_max_ps(max));
    }
}

static void form(void *to, const struct weight *w, enum exact_in in, const float *x)
{
    const __m512i by_nibble =
        _mm512_setr_epi32(1, 5, 9, 13, 0, 4, 8, 12, 3, 7, 11, 15, 2, 6, 10, 14);
    const struct form f = form_of(w, in);
    float *scales = to;
    bf16 *high = (bf16 *)((uint8_t *)to + f.scales), *low = high + f.K;

    scales[0] = 1;
    if (in == EXACT_ACT)
        act_scales(scales, w, x, f.block);
    memset(high + f.K - 64, 0, 64 * sizeof(*high)); /* behind the values of an odd block */
    if (f.pieces == 2)
        memset(low + f.K - 64, 0, 64 * sizeof(*low));
    for (size_t i = 0; i < w->cols; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);

        if (in == EXACT_ACT)
            v = to_f8(_mm512_div_ps(v, _mm512_set1_ps(scales[i / f.block])));
        if (w->enc != ENC_F8)
            v = _mm512_permutexvar_ps(by_nibble, v);
        const __m256bh h = _mm512_cvtneps_pbh(v);

        if (w->enc == ENC_F8)
            put_f8(high, i, h);
        else
            put_4(high, i, h);
        if (f.pieces == 2)
            put_f8(low, i, _mm512_cvtneps_pbh(_mm512_sub_ps(v, widened(h))));
    }
}

/* ---- weights ---- */

/* The bytes of 128 values of E4M3 without sign, as bf16. */
struct f8_table {
    __m512i high[2], low[2];
};

static struct f8_table f8_table(void)
{
    uint8_t high[128], low[128];
    struct f8_table t;

    for (unsigned i = 0; i < 128; i++) {
        const bf16 v = f32_to_bf16(f8_e4m3_to_f32((uint8_t)i));

        high[i] = (uint8_t)(v >> 8);
        low[i] = (uint8_t)v;
    }
    for (size_t i = 0; i < 2; i++) {
        t.high[i] = _mm512_loadu_si512(high + 64 * i);
        t.low[i] = _mm512_loadu_si512(low + 64 * i);
    }
    return t;
}

/* 64 codes of E4M3 */
INLINE void values_f8(__m512bh v[4], const uint8_t *p, const struct f8_table *t)
{
    const __m512i q = _mm512_loadu_si512(p);
    const __m512i low = _mm512_permutex2var_epi8(t->low[0], q, t->low[1]);
    const __m512i high = _mm512_permutex2var_epi8(t->high[0], q, t->high[1]);
    /* the sign of q on high: high | (q & 128) */
    const __m512i both = _mm512_ternarylogic_epi32(high, q, _mm512_set1_epi8(-128), 0xF8);

    v[0] = (__m512bh)_mm512_unpacklo_epi8(low, both);
    v[1] = (__m512bh)_mm512_unpackhi_epi8(low, both);
}

/* absmax of n <= 16 blocks from number `at` on, which share a nested block. */
INLINE __m512 absmax16(const struct planes *p, size_t at, size_t n, size_t nested)
{
    const __mmask16 m = (__mmask16)((1u << n) - 1);
    __m512 f;

    if (p->scale_enc == ENC_U8) {
        const __m512i q = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(m, p->scale + at));

        f = _mm512_i32gather_ps(q, p->nested_map, 4);
        f = _mm512_mul_ps(f, _mm512_set1_ps(enc_loadf(p->nested_absmax + 4 * nested)));
        return _mm512_add_ps(f, _mm512_set1_ps(p->nested_offset));
    }
    if (p->scale_enc == ENC_F32)
        f = _mm512_maskz_loadu_ps(m, p->scale + 4 * at);
    else if (p->scale_enc == ENC_F16)
        f = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p->scale + 2 * at));
    else
        f = widened((__m256bh)_mm256_maskz_loadu_epi16(m, p->scale + 2 * at));
    return _mm512_mul_ps(f, _mm512_set1_ps(p->scale_by));
}

/* absmax of n times 64 values from value i of the flattened matrix on; room for 16 more. */
INLINE void absmax(float *a, const struct planes *p, size_t i, size_t n)
{
    const size_t per = p->group / 64, blocks = (i / 64 % per + n + per - 1) / per;
    const size_t first = i / p->group;

    for (size_t b = 0, m; b < blocks; b += m) {
        size_t nested = 0;

        m = smaller(blocks - b, 16);
        if (p->scale_enc == ENC_U8) {
            nested = (first + b) / p->nested_group;
            m = smaller(m, (nested + 1) * p->nested_group - first - b);
        }
        _mm512_storeu_ps(a + b, absmax16(p, first + b, m, nested));
    }
    for (size_t k = n; per > 1 && k-- > 0;)
        a[k] = a[(i / 64 % per + k) / per];
}

/* 128 values in nibbles, of which 64 exist unless `whole`; absmax of both halves. */
INLINE void values_4(__m512bh v[4], const uint8_t *p, __m512 map, const float a[2],
                     const bool whole)
{
    const __m512i low = _mm512_set1_epi16(15);
    const __m512i second = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
    const __m512i q = whole ? _mm512_loadu_si512(p)
                            : _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p));
    const __m512 m0 = _mm512_mul_ps(map, _mm512_set1_ps(a[0]));
    const __m512 m1 = _mm512_mul_ps(map, _mm512_set1_ps(whole ? a[1] : 0));
    const __m512i table = (__m512i)_mm512_cvtne2ps_pbh(m1, m0);

#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        /* (q >> 4j & low) | second */
        const __m512i down = _mm512_srli_epi32(q, 4 * (unsigned)j);
        const __m512i at = _mm512_ternarylogic_epi32(down, low, second, 0xEA);

        v[j] = (__m512bh)_mm512_permutexvar_epi16(at, table);
    }
}

/* ---- tiles ---- */

/* Rows from r0 on, of which y[0] is the first, times tokens, whose forms are `apart` bytes from one
 * another. */
struct job {
    const struct weight *w;
    struct form f;
    size_t r0;
    const uint8_t *x;
    size_t apart;
    float *y;
    size_t ys;
    bool add;
};

INLINE __m512bh piece(const bf16 *x)
{
    return (__m512bh)_mm512_loadu_si512(x);
}

/* sum[k][t] += n registers of row k times inputs from place i on. */
INLINE void multiply(__m512 sum[ROWS][TOKENS], const __m512bh v[ROWS][4], const int n,
                     const bf16 *x, size_t apart, const int R, const int S)
{
#pragma GCC unroll 4
    for (int j = 0; j < n; j++)
#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
            const __m512bh in =
                piece((const bf16 *)((const uint8_t *)x + (size_t)t * apart) + 32 * j);

#pragma GCC unroll 4
            for (int k = 0; k < R; k++)
                sum[k][t] = _mm512_dpbf16_ps(sum[k][t], v[k][j], in);
        }
}

INLINE void clear(__m512 sum[ROWS][TOKENS])
{
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++)
#pragma GCC unroll 4
        for (int t = 0; t < TOKENS; t++)
            sum[k][t] = _mm512_setzero_ps();
}

INLINE void put(const struct job *j, size_t r, size_t t0, const __m512 sum[ROWS][TOKENS],
                const int R, const int S)
{
#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
#pragma GCC unroll 4
        for (int k = 0; k < R; k++) {
            float *y = j->y + (t0 + (size_t)t) * j->ys + r + (size_t)k;

            *y = _mm512_reduce_add_ps(sum[k][t]) + (j->add ? *y : 0);
        }
}

INLINE void tile_f8(const struct job *j, const struct f8_table *table, size_t r, size_t t0,
                    const int P, const int R, const int S)
{
    const struct weight *w = j->w;
    const size_t K = w->cols, G = (K + w->p.group - 1) / w->p.group;
    const size_t reach = smaller(smaller(j->f.block, w->p.group), K);
    const uint8_t *from = weight_copy(w) + (r + j->r0) * K;
    const uint8_t *ahead = from + (size_t)R * K + AHEAD;
    const uint8_t *form = j->x + t0 * j->apart;
    __m512 sum[ROWS][TOKENS], high[ROWS][TOKENS], low[ROWS][TOKENS];

    clear(sum);
    for (size_t b = 0; b < K; b += reach) {
        clear(high);
        clear(low);
        for (size_t i = b; i < b + reach; i += 64) {
            const bf16 *x = (const bf16 *)(form + j->f.scales) + i;
            __m512bh v[ROWS][4];

#pragma GCC unroll 4
            for (int k = 0; k < R; k++) {
                values_f8(v[k], from + (size_t)k * K + i, table);
                if (t0 == 0)
                    _mm_prefetch((const char *)(ahead + (size_t)R * i + 64 * k), _MM_HINT_T1);
            }
            multiply(high, v, 2, x, j->apart, R, S);
            if (P == 2)
                multiply(low, v, 2, x + j->f.K, j->apart, R, S);
        }
#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
            const float sx = ((const float *)(form + (size_t)t * j->apart))[b / j->f.block];

#pragma GCC unroll 4
            for (int k = 0; k < R; k++) {
                const size_t row = j->r0 + r + (size_t)k;
                const float sw = planes_scale(&w->p, row / w->p.row_group * G + b / w->p.group);
                const __m512 both = P == 2 ? _mm512_add_ps(high[k][t], low[k][t]) : high[k][t];

                sum[k][t] = _mm512_fmadd_ps(both, _mm512_set1_ps(sw * sx), sum[k][t]);
            }
        }
    }
    put(j, r, t0, sum, R, S);
}

INLINE void tile_4(const struct job *j, size_t r, size_t t0, const int R, const int S)
{
    enum { BLOCKS = 64 }; /* of 64 values, whose absmax are found at once */
    const struct weight *w = j->w;
    const size_t K = w->cols, row = (j->r0 + r) * K;
    const uint8_t *from = weight_copy(w) + row / 2;
    const uint8_t *ahead = from + (size_t)R * K / 2 + AHEAD;
    const bf16 *x = (const bf16 *)(j->x + t0 * j->apart + j->f.scales);
    const __m512 map = _mm512_loadu_ps(w->p.map);
    __m512 sum[ROWS][TOKENS];
    float a[ROWS][BLOCKS + 16];

    clear(sum);
    for (size_t i = 0; i < K; i += 128, x += 128) {
        const bool whole = i + 128 <= K;
        __m512bh v[ROWS][4];

        for (size_t k = 0; i % (64 * BLOCKS) == 0 && k < (size_t)R; k++)
            absmax(a[k], &w->p, row + k * K + i, smaller(BLOCKS, (K - i) / 64));
#pragma GCC unroll 4
        for (int k = 0; k < R; k++) {
            const uint8_t *p = from + ((size_t)k * K + i) / 2;
            const float *of = a[k] + i / 64 % BLOCKS;

            if (whole)
                values_4(v[k], p, map, of, true);
            else
                values_4(v[k], p, map, of, false);
            if (t0 == 0)
                _mm_prefetch((const char *)(ahead + (size_t)R * i / 2 + 64 * k), _MM_HINT_T1);
        }
        multiply(sum, v, 4, x, j->apart, R, S);
    }
    put(j, r, t0, sum, R, S);
}

/* ---- all rows and tokens ---- */

INLINE void some_rows(const struct job *j, const struct f8_table *table, size_t R, size_t t0,
                      const enum enc enc, const int P, const int S)
{
    size_t r = 0;

    for (; r + ROWS <= R; r += ROWS) {
        if (enc == ENC_F8)
            tile_f8(j, table, r, t0, P, ROWS, S);
        else
            tile_4(j, r, t0, ROWS, S);
    }
    for (; r < R; r++) {
        if (enc == ENC_F8)
            tile_f8(j, table, r, t0, P, 1, S);
        else
            tile_4(j, r, t0, 1, S);
    }
}

/* Tokens outside, so that a tile of theirs stays near while weights pass. */
INLINE void all(const struct job *j, size_t R, size_t T, const enum enc enc, const int P)
{
    const struct f8_table table = f8_table();
    size_t t = 0;

    for (; P == 1 && t + 4 <= T; t += 4)
        some_rows(j, &table, R, t, enc, P, 4);
    for (; t + 2 <= T; t += 2)
        some_rows(j, &table, R, t, enc, P, 2);
    for (; t < T; t++)
        some_rows(j, &table, R, t, enc, P, 1);
}

INLINE void dot(float *y, size_t ys, const struct weight *w, size_t r0, size_t R, enum exact_in in,
                const void *x, size_t T, bool add, const enum enc enc)
{
    const struct job j = { .w = w,
                           .f = form_of(w, in),
                           .r0 = r0,
                           .x = x,
                           .apart = exact_apart(bytes(w, in)),
                           .y = y,
                           .ys = ys,
                           .add = add };

    if (enc == ENC_F8 && j.f.pieces == 2)
        all(&j, R, T, enc, 2);
    else
        all(&j, R, T, enc, 1);
}

static void dot_f8(float *y, size_t ys, const struct weight *w, size_t r0, size_t R,
                   enum exact_in in, const void *x, size_t T, bool add)
{
    dot(y, ys, w, r0, R, in, x, T, add, ENC_F8);
}

static void dot_4(float *y, size_t ys, const struct weight *w, size_t r0, size_t R,
                  enum exact_in in, const void *x, size_t T, bool add)
{
    dot(y, ys, w, r0, R, in, x, T, add, ENC_NF4); /* and FP4: another map */
}

void cpu_kern_exact_avx512_bf16(struct cpu_kern *k)
{
    static const struct exact_kern f8 = { .bytes = bytes, .form = form, .dot = dot_f8 };
    static const struct exact_kern nf4 = { .bytes = bytes, .form = form, .dot = dot_4 };

    for (size_t in = 0; in < EXACT_COUNT; in++)
        k->exact[in][ENC_F8] = f8;
    k->exact[EXACT_BF16][ENC_NF4] = k->exact[EXACT_BF16][ENC_FP4] = nf4;
}
