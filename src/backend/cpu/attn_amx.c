/* attn_amx.c - attention of a prompt's rows on tiles of bf16, a block of the cache after the other.
 *
 *     scores   s[slot][query] = k[slot] . q[query] * log2(e) / sqrt(hd)    k is A, q is B
 *     weights  w = 2^(s - largest s so far), their sums                     float32
 *     values   y[dim][query] += v[slot][dim] * w[slot][query]               v, turned, is A, w is B
 *
 * Sixteen queries are a bunch, whose lanes they are throughout: no sum crosses lanes, weights are
 * rounded to pairs of slots, which is how a tile B wants them, and where a block raises the largest
 * score sums are multiplied lane by lane. q, k, v and the weights are rounded to bf16, sums and
 * what lies between are float32. A query's sums depend on the order of slots alone: slots that it
 * does not see have weight 0.
 *
 * For 16 queries and a block, of heads of 64, the tile unit needs 256 cycles and the weights,
 * twelve instructions for 16 of them on two ports, 400. So the next bunch's scores and the last
 * one's values are multiplied while a bunch is weighed. */
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kern.h"
#include "format/enc/q8_0.h"

#include "backend/cpu/turn_avx512.inc"

enum {
    SIDE = 16, /* queries, slots or dimensions of a tile */
    STEP = 32, /* values of a tile's row */
    TILE = SIDE * SIDE,
    BUNCHES = ATTN_QUERIES / SIDE,
};

/* The layout that ldtilecfg reads. */
static const _Alignas(64) struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} config = {
    .palette = 1,
    .colsb = { 64, 64, 64, 64, 64, 64, 64, 64 },
    .rows = { 16, 16, 16, 16, 16, 16, 16, 16 },
};

struct bunch {
    float top[SIDE], total[SIDE]; /* largest score, sum of weights */
    int32_t see[SIDE];            /* slots of the block that are seen */
};

/* What a thread works in, all of it at multiples of 64 bytes. */
struct room {
    struct bunch bunch[BUNCHES];
    struct { /* of bunches by turns: scores, and weights rounded, two slots in a word */
        float score[KV_BLOCK][SIDE];
        uint32_t weight[KV_BLOCK / 2][SIDE];
    } of[2];
    size_t steps;           /* STEPs of a head */
    uint32_t (*q)[TILE];    /* [BUNCHES][steps] */
    float (*sum)[TILE];     /* [BUNCHES][2 * steps]: dimensions by queries */
    uint32_t (*v)[2][TILE]; /* [2 * steps][slots / 32] */
    bf16 *k;                /* [KV_BLOCK][STEP * steps] */
};

/* Behind it 256 floats for each dimension, as ATTN_ROOM has, of up to 16 dimensions more. */
_Static_assert(sizeof(struct room) + 64 + 256 * 16 * sizeof(float) <= ATTN_ROOM(0) * sizeof(float),
               "room for attention");

/* Dimensions of row r of an even tile of v: shuffles within quarters of a register put them so.
 * Those of the odd one behind it are four more. */
static const _Alignas(64) int32_t first16[16] = { 0, 1, 2, 3, 16, 17, 18, 19,
                                                  4, 5, 6, 7, 20, 21, 22, 23 };
static const _Alignas(64) int32_t later16[16] = { 8,  9,  10, 11, 24, 25, 26, 27,
                                                  12, 13, 14, 15, 28, 29, 30, 31 };

/* Values 32i .. 32i+32 of a row of the cache, rounded, zeros behind hd. */
INLINE __m512i row_bf16(const enum enc enc, const uint8_t *p, size_t i, size_t hd)
{
    const size_t n = hd - STEP * i < STEP ? hd - STEP * i : STEP;
    const __mmask32 m = n == STEP ? ~(__mmask32)0 : ((__mmask32)1 << n) - 1;
    __m512 lo, hi;

    if (enc == ENC_BF16)
        return _mm512_maskz_loadu_epi16(m, p + 2 * STEP * i);
    if (enc == ENC_F16) {
        const __m512i x = _mm512_maskz_loadu_epi16(m, p + 2 * STEP * i);

        lo = _mm512_cvtph_ps(_mm512_castsi512_si256(x));
        hi = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(x, 1));
    } else {
        const struct q8_0 *b = (const struct q8_0 *)p + i;
        const __m512 d =
            _mm512_set1_ps(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(b->d[0] | b->d[1] << 8))));

        lo = _mm512_mul_ps(
            d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)b->q))));
        hi = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
                                  _mm_loadu_si128((const void *)(b->q + SIDE)))));
    }
    return (__m512i)_mm512_cvtne2ps_pbh(hi, lo);
}

/* n keys as rows of tiles A. */
INLINE void rows_of_keys(struct room *r, const uint8_t *p, size_t n, size_t hd, const enum enc enc)
{
    const size_t row = kv_row_bytes(enc, hd);

    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < r->steps; i++)
            _mm512_store_si512(r->k + (j * r->steps + i) * STEP, row_bf16(enc, p + j * row, i, hd));
}

/* n values turned, zeros behind them: what was never written may be no number. */
INLINE void turn_values(struct room *r, const uint8_t *p, size_t n, size_t hd, const enum enc enc)
{
    const size_t row = kv_row_bytes(enc, hd);

    for (size_t s = 0; s < KV_BLOCK / STEP; s++)
        for (size_t i = 0; i < r->steps; i++) {
            __m512i even[SIDE], odd[SIDE];

            for (size_t j = 0; j < SIDE; j++) {
                const size_t at = s * STEP + 2 * j;
                const __m512i zero = _mm512_setzero_si512();
                const __m512i a = at < n ? row_bf16(enc, p + at * row, i, hd) : zero;
                const __m512i b = at + 1 < n ? row_bf16(enc, p + (at + 1) * row, i, hd) : zero;

                even[j] = _mm512_unpacklo_epi16(a, b);
                odd[j] = _mm512_unpackhi_epi16(a, b);
            }
            turn(even);
            turn(odd);
#pragma GCC unroll 16
            for (size_t j = 0; j < SIDE; j++) {
                _mm512_store_si512(r->v[2 * i][s] + SIDE * j, even[j]);
                _mm512_store_si512(r->v[2 * i + 1][s] + SIDE * j, odd[j]);
            }
        }
}

/* Queries scaled, rounded and turned, those behind n zeros. */
static void turn_queries(struct room *r, const struct attn_query *query, size_t n, size_t hd)
{
    const __m512 scale = _mm512_set1_ps((float)(M_LOG2E / sqrt((double)hd)));

    for (size_t a = 0; a < n; a += SIDE)
        for (size_t i = 0; i < r->steps; i++) {
            const size_t m = hd - STEP * i < STEP ? hd - STEP * i : STEP;
            const uint32_t mask = m == STEP ? ~(uint32_t)0 : ((uint32_t)1 << m) - 1;
            uint32_t *to = r->q[a / SIDE * r->steps + i];
            __m512i line[SIDE];

            for (size_t j = 0; j < SIDE; j++) {
                const float *q = a + j < n ? query[a + j].q + STEP * i : NULL;
                const __mmask16 lo = q ? (__mmask16)mask : 0, hi = q ? (__mmask16)(mask >> 16) : 0;

                line[j] = (__m512i)_mm512_cvtne2ps_pbh(
                    _mm512_mul_ps(_mm512_maskz_loadu_ps(hi, q + SIDE), scale),
                    _mm512_mul_ps(_mm512_maskz_loadu_ps(lo, q), scale));
            }
            turn(line);
            for (size_t j = 0; j < SIDE; j++)
                _mm512_store_si512(to + SIDE * j, line[j]);
        }
}

/* GCC's tile intrinsics do not say what memory they read and write. */
#define MEMORY __asm__ volatile("" : : : "memory")

/* What tiles are to do for a bunch while another is weighed; NULLs = nothing. */
struct task {
    float (*score)[SIDE]; /* to [KV_BLOCK] = keys, rows `apart` bytes from one another, times q */
    const uint8_t *k;
    size_t apart, steps;
    const uint32_t (*q)[TILE];
    float (*sum)[TILE]; /* += values times weights */
    const uint32_t (*v)[2][TILE];
    const uint32_t (*weight)[SIDE];
};

/* The tile intrinsics want their numbers literally: sums in c, for scores of sixteen slots. */
#define SCORES(t, part, c, a, b)                                                                   \
    do {                                                                                           \
        const uint8_t *k = (t)->k + (part)*SIDE * (t)->apart;                                      \
        _tile_zero(c);                                                                             \
        for (size_t i = 0; i < (t)->steps; i++, k += 2 * STEP) {                                   \
            _tile_loadd(a, k, (t)->apart);                                                         \
            _tile_loadd(b, (t)->q[i], 64);                                                         \
            _tile_dpbf16ps(c, a, b);                                                               \
        }                                                                                          \
    } while (0)
#define STORE_SCORES(t, part, c) _tile_stored(c, (t)->score + (part)*SIDE, 64)

/* Sixteen dimensions' sums, tile i of them, whose weights are in w0 and w1. */
#define VALUES(t, i, c, a, w0, w1)                                                                 \
    do {                                                                                           \
        _tile_loadd(c, (t)->sum[i], 64);                                                           \
        _tile_loadd(a, (t)->v[i][0], 64);                                                          \
        _tile_dpbf16ps(c, a, w0);                                                                  \
        _tile_loadd(a, (t)->v[i][1], 64);                                                          \
        _tile_dpbf16ps(c, a, w1);                                                                  \
        _tile_stored(c, (t)->sum[i], 64);                                                          \
    } while (0)

enum { PARTS = 8 };

/* Part of PARTS of a task, known to the compiler: scores of 16 slots each, then values. Scores are
 * stored a part later, for a store that waits for its tile lets nothing behind it end. */
INLINE void tiles(const struct task *t, const int part)
{
    if (t->score) {
        switch (part) {
        case 0:
            SCORES(t, 0, 0, 4, 5);
            break;
        case 1:
            STORE_SCORES(t, 0, 0);
            SCORES(t, 1, 1, 6, 7);
            break;
        case 2:
            STORE_SCORES(t, 1, 1);
            SCORES(t, 2, 2, 4, 5);
            break;
        case 3:
            STORE_SCORES(t, 2, 2);
            SCORES(t, 3, 3, 6, 7);
            break;
        case 4:
            STORE_SCORES(t, 3, 3);
            break;
        }
    }
    if (part < 4 || !t->sum)
        return;
    if (part == 4) {
        _tile_loadd(6, t->weight, 64);
        _tile_loadd(7, t->weight + SIDE, 64);
    }
    for (size_t i = (size_t)(part - 4); i < 2 * t->steps; i += 4) {
        if (part % 2)
            VALUES(t, i, 1, 5, 6, 7);
        else
            VALUES(t, i, 0, 4, 6, 7);
    }
}

static void all_tiles(const struct task *t)
{
    MEMORY;
#pragma GCC unroll 8
    for (int i = 0; i < PARTS; i++)
        tiles(t, i);
    MEMORY;
}

/* 2^x for x <= 0, to 2^-13.5: the weights lose more by being rounded. 0 for -infinity. */
INLINE __m512 exp2_of(__m512 x)
{
    const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_set1_ps(7.7067069709301e-2f);

    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.2764496505260e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9511681795120e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, x);
}

/* Scores become weights, `weight` the words of them, while tiles do their task; sums so far, of
 * n tiles, follow the largest score. */
static void weigh(struct bunch *b, float (*s)[SIDE], uint32_t (*weight)[SIDE], float (*sum)[TILE],
                  size_t n, bool whole, const struct task *task)
{
    enum { EACH = KV_BLOCK / PARTS };
    const __m512i half = _mm512_set1_epi32(0x8000), see = _mm512_load_si512(b->see);
    const __m512 old = _mm512_load_ps(b->top), none = _mm512_set1_ps(-INFINITY);
    __m512 top[4] = { old, old, old, old }, total[4];

    for (size_t j = 0; j < KV_BLOCK && !whole; j++)
        _mm512_store_ps(s[j], _mm512_mask_mov_ps(
                                  none, _mm512_cmpgt_epi32_mask(see, _mm512_set1_epi32((int32_t)j)),
                                  _mm512_load_ps(s[j])));
    for (size_t j = 0; j < KV_BLOCK; j += 4)
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++)
            top[i] = _mm512_max_ps(top[i], _mm512_load_ps(s[j + i]));
    top[0] = _mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3]));
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        total[i] = _mm512_setzero_ps();
    MEMORY;
#pragma GCC unroll 8
    for (int part = 0; part < PARTS; part++) {
        tiles(task, part);
#pragma GCC unroll 2
        for (size_t j = (size_t)part * EACH; j < (size_t)(part + 1) * EACH; j += 4) {
            __m512i w[4];

#pragma GCC unroll 4
            for (size_t i = 0; i < 4; i++) {
                const __m512 x = exp2_of(_mm512_sub_ps(_mm512_load_ps(s[j + i]), top[0]));

                total[i] = _mm512_add_ps(total[i], x);
                w[i] = _mm512_add_epi32(_mm512_castps_si512(x), half);
            }
#pragma GCC unroll 2
            for (size_t i = 0; i < 2; i++)
                _mm512_store_si512(weight[j / 2 + i],
                                   _mm512_mask_mov_epi16(_mm512_srli_epi32(w[2 * i], 16),
                                                         0xAAAAAAAA, w[2 * i + 1]));
        }
    }
    MEMORY;
    total[0] = _mm512_add_ps(_mm512_add_ps(total[0], total[2]), _mm512_add_ps(total[1], total[3]));
    if (_mm512_cmpneq_ps_mask(old, top[0])) {
        const __m512 keep = exp2_of(_mm512_sub_ps(old, top[0]));

        for (size_t i = 0; i < n; i++)
#pragma GCC unroll 16
            for (size_t j = 0; j < TILE; j += SIDE)
                _mm512_store_ps(sum[i] + j, _mm512_mul_ps(_mm512_load_ps(sum[i] + j), keep));
        _mm512_store_ps(b->top, top[0]);
        total[0] = _mm512_fmadd_ps(_mm512_load_ps(b->total), keep, total[0]);
    } else {
        total[0] = _mm512_add_ps(_mm512_load_ps(b->total), total[0]);
    }
    _mm512_store_ps(b->total, total[0]);
}

/* What queries of a bunch see of `rows` slots from `at` on; whether any sees any, and all all. */
static bool look(struct bunch *b, const struct attn_query *query, size_t n, size_t at, size_t rows,
                 bool *whole)
{
    bool any = false;

    *whole = rows == KV_BLOCK;
    for (size_t i = 0; i < n; i++) {
        const size_t slots = query[i].slot < at ? 0 : query[i].slot - at + 1;

        b->see[i] = (int32_t)(slots < rows ? slots : rows);
        any |= slots > 0;
        *whole &= slots >= KV_BLOCK;
    }
    return any;
}

/* Sums, largest scores (of e in place of 2) and totals to where queries want them. */
static void finish(const struct room *r, const struct attn_query *query, size_t n, size_t hd)
{
    const size_t nv = (hd + 15) / 16;
    const __m512i first = _mm512_load_si512(first16), later = _mm512_load_si512(later16);

    for (size_t a = 0; a < n; a += SIDE)
        for (size_t i = 0; i < r->steps; i++) {
            const float(*sum)[TILE] = (const float(*)[TILE])r->sum + 2 * (a / SIDE * r->steps + i);
            __m512i even[SIDE], odd[SIDE];

            for (size_t j = 0; j < SIDE; j++) {
                even[j] = _mm512_load_si512(sum[0] + SIDE * j);
                odd[j] = _mm512_load_si512(sum[1] + SIDE * j);
            }
            turn(even);
            turn(odd);
            for (size_t j = 0; j < SIDE && a + j < n; j++) {
                float *to = query[a + j].state + STEP * i;

                _mm512_store_si512(to, _mm512_permutex2var_epi32(even[j], first, odd[j]));
                if (2 * i + 1 < nv)
                    _mm512_store_si512(to + SIDE,
                                       _mm512_permutex2var_epi32(even[j], later, odd[j]));
            }
        }
    for (size_t a = 0; a < n; a++) {
        query[a].state[16 * nv] = r->bunch[a / SIDE].top[a % SIDE] * (float)M_LN2;
        query[a].state[16 * nv + 1] = r->bunch[a / SIDE].total[a % SIDE];
    }
}

INLINE void attn(const struct attn_query *query, size_t n, const struct attn_span *s, float *room,
                 const enum enc enc)
{
    const struct kv_cache *kv = s->kv;
    const size_t hd = kv->head_dim, bunches = (n + SIDE - 1) / SIDE;
    const size_t row = kv_row_bytes(enc, hd), plane = KV_BLOCK * row;
    const bool as_they_lie = enc == ENC_BF16 && hd % STEP == 0;
    struct room *r = (struct room *)room;

    r->steps = (hd + STEP - 1) / STEP;
    r->q = (uint32_t(*)[TILE])(room + (sizeof(*r) + 63) / 64 * 16);
    r->sum = (float(*)[TILE])(r->q + BUNCHES * r->steps);
    r->v = (uint32_t(*)[2][TILE])(r->sum + 2 * BUNCHES * r->steps);
    r->k = (bf16 *)(r->v + 2 * r->steps);
    turn_queries(r, query, n, hd);
    memset(r->sum, 0, 2 * bunches * r->steps * sizeof(*r->sum));
    for (size_t i = 0; i < bunches; i++) {
        _mm512_store_ps(r->bunch[i].top, _mm512_set1_ps(-FLT_MAX));
        _mm512_store_ps(r->bunch[i].total, _mm512_setzero_ps());
        _mm512_store_si512(r->bunch[i].see, _mm512_setzero_si512());
    }
    MEMORY;
    _tile_loadconfig(&config);
    for (size_t at = s->from; at < s->to; at += KV_BLOCK) {
        const size_t rows = s->to - at < KV_BLOCK ? s->to - at : KV_BLOCK;
        const size_t head = ((size_t)s->table[at / KV_BLOCK] * kv->kv_heads + s->kh) * plane;
        const uint8_t *k = (const uint8_t *)kv->layer[s->layer].k + head;
        size_t apart = row, at_work[BUNCHES], m = 0;
        bool whole[BUNCHES];

        for (size_t i = 0; i < bunches; i++)
            if (look(&r->bunch[i], query + i * SIDE, n - i * SIDE < SIDE ? n - i * SIDE : SIDE, at,
                     rows, &whole[m]))
                at_work[m++] = i;
        if (!as_they_lie) {
            rows_of_keys(r, k, rows, hd, enc);
            k = (const uint8_t *)r->k;
            apart = r->steps * STEP * sizeof(bf16);
        }
        turn_values(r, (const uint8_t *)kv->layer[s->layer].v + head, rows, hd, enc);
        for (size_t i = 0; i < m + 2; i++) {
            struct task t = { .k = k, .apart = apart, .steps = r->steps };

            if (i < m) {
                t.score = r->of[i % 2].score;
                t.q = (const uint32_t(*)[TILE])r->q + at_work[i] * r->steps;
            }
            if (i > 1) {
                t.sum = r->sum + 2 * at_work[i - 2] * r->steps;
                t.v = (const uint32_t(*)[2][TILE])r->v;
                t.weight = (const uint32_t(*)[SIDE])r->of[i % 2].weight;
            }
            if (i > 0 && i <= m)
                weigh(&r->bunch[at_work[i - 1]], r->of[(i - 1) % 2].score,
                      r->of[(i - 1) % 2].weight, r->sum + 2 * at_work[i - 1] * r->steps,
                      2 * r->steps, whole[i - 1], &t);
            else
                all_tiles(&t);
        }
    }
    _tile_release();
    finish(r, query, n, hd);
}

static void attn_f16(const struct attn_query *query, size_t n, const struct attn_span *s,
                     float *room)
{
    attn(query, n, s, room, ENC_F16);
}

static void attn_bf16(const struct attn_query *query, size_t n, const struct attn_span *s,
                      float *room)
{
    attn(query, n, s, room, ENC_BF16);
}

static void attn_q8_0(const struct attn_query *query, size_t n, const struct attn_span *s,
                      float *room)
{
    attn(query, n, s, room, ENC_Q8_0);
}

void cpu_kern_attn_amx(struct cpu_kern *k)
{
    k->attn_prompt[ENC_F16] = attn_f16;
    k->attn_prompt[ENC_BF16] = attn_bf16;
    k->attn_prompt[ENC_Q8_0] = attn_q8_0;
}
