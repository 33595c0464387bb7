/* q8_avx2.c - quantised weights times 8-bit activations with AVX2: eight rows to a register.
 *
 * maddubs adds two products of a code and an activation in 16 bits, and saturates. Sums of small
 * codes stay in 16 bits for a while: eight steps of 4-bit codes (8 * 2 * 15 * 128 = 30720), four of
 * 5 bits, two of 6 bits. Codes of 8 bits are told from 128: their sizes meet inputs that take their
 * signs, which saturates nothing (2 * 128 * 127 = 32512). */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kern.h"
#include "backend/cpu/lanes_avx2.inc"
#include "format/enc/q4_0.h"
#include "format/enc/q4_1.h"
#include "format/enc/q4_k.h"
#include "format/enc/q5_0.h"
#include "format/enc/q5_1.h"
#include "format/enc/q5_k.h"
#include "format/enc/q6_k.h"
#include "format/enc/q8_0.h"

/* ---- the panel times a tile of tokens ---- */

/* One link of a chain: acc = fma(m, s, fma(float(sum), d * dx, acc)) */
INLINE __m256 link(__m256 acc, __m256i sum, const float *d, const float *m, const struct q8 *x,
                   size_t at, const bool offset)
{
    const __m256 by = _mm256_mul_ps(_mm256_load_ps(d), _mm256_set1_ps(x->d[at]));

    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), by, acc);
    return offset ? _mm256_fmadd_ps(_mm256_load_ps(m), _mm256_set1_ps(x->s[at]), acc) : acc;
}

/* steps c0 .. c1 of S tokens for two registers of codes: 16-bit sums */
INLINE void steps(__m256i sum[2][4], const __m256i a[8], const __m256i b[8],
                  const int8_t *const q[4], const int c0, const int c1, const int S)
{
#pragma GCC unroll 8
    for (int c = c0; c < c1; c++) {
#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
            const __m256i x = four(q[t] + 4 * c);
            const __m256i u = _mm256_maddubs_epi16(a[c], x), v = _mm256_maddubs_epi16(b[c], x);

            sum[0][t] = c == c0 ? u : _mm256_add_epi16(sum[0][t], u);
            sum[1][t] = c == c0 ? v : _mm256_add_epi16(sum[1][t], v);
        }
    }
}

/* How many steps 16 bits bear. */
INLINE int steps_of(const enum codes kind)
{
    return kind == CODES_5 ? 4 : kind == CODES_HALVES ? 2 : 8;
}

/* Exact sums of half h (of all, where halves share scales) of group p with q of S tokens. */
INLINE void sums(__m256i total[2][4], const struct group *p, const int h, const int8_t *const q[4],
                 const enum codes kind, const int S)
{
    const int n = kind == CODES_HALVES ? 4 : 8, most = steps_of(kind);
    __m256i sum[2][4], a[8], b[8];

#pragma GCC unroll 8
    for (int c = h * n; c < (h + 1) * n; c++) {
        a[c] = _mm256_load_si256((const __m256i *)p->code[c]);
        b[c] = _mm256_load_si256((const __m256i *)(p->code[c] + 32));
    }
#pragma GCC unroll 4
    for (int c = h * n; c < (h + 1) * n; c += most) {
        steps(sum, a, b, q, c, c + most, S);
#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++)
                total[i][t] =
                    c == h * n ? wide(sum[i][t]) : _mm256_add_epi32(total[i][t], wide(sum[i][t]));
        }
    }
}

/* centre times the sum of q: of half h, or of all */
INLINE __m256i middle_of(const int32_t *n, const int32_t *n0, const int h, const enum codes kind)
{
    const int32_t of = kind != CODES_HALVES ? *n : h == 0 ? *n0 : *n - *n0;

    return _mm256_set1_epi32(-of * code_centre(kind));
}

INLINE void tile(float *acc, const struct group *p, size_t ng, const struct q8 *x, size_t g0,
                 size_t t0, const enum codes kind, const bool offset, const int S)
{
    const int halves = kind == CODES_HALVES ? 2 : 1;
    const int8_t *base = x->q + t0 * x->K + g0 * GROUP;

    for (size_t g = 0; g < ng; g++, base += GROUP) {
        const int8_t *q[4];

#pragma GCC unroll 4
        for (int t = 0; t < S; t++)
            q[t] = base + (size_t)t * x->K;
#pragma GCC unroll 2
        for (int h = 0; h < halves; h++) {
            __m256i total[2][4];

            sums(total, p + g, h, q, kind, S);
#pragma GCC unroll 4
            for (int t = 0; t < S; t++) {
                const size_t at = (g0 + g) * x->T + t0 + (size_t)t;
                const __m256i mid = middle_of(x->n + at, x->n0 + at, h, kind);

#pragma GCC unroll 2
                for (int i = 0; i < 2; i++) {
                    float *y = acc + LANES * t + 8 * i;

                    _mm256_storeu_ps(y, link(_mm256_loadu_ps(y), _mm256_sub_epi32(total[i][t], mid),
                                             p[g].d[h] + 8 * i, p[g].m[h] + 8 * i, x, at, offset));
                }
            }
        }
    }
}

/* Sums of 8-bit codes of eight rows, told from their centre, with q of S tokens: sizes of codes
 * times inputs that take their signs. */
INLINE void sums_8(__m256i total[4], const struct group *p, const int i, const int8_t *const q[4],
                   const int S)
{
#pragma GCC unroll 8
    for (int c = 0; c < 8; c++) {
        const __m256i w = _mm256_xor_si256(
            _mm256_load_si256((const __m256i *)(p->code[c] + 32 * i)), _mm256_set1_epi8(-128));
        const __m256i size = _mm256_abs_epi8(w);

#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
            const __m256i x = _mm256_sign_epi8(four(q[t] + 4 * c), w);
            const __m256i sum = wide(_mm256_maddubs_epi16(size, x));

            total[t] = c == 0 ? sum : _mm256_add_epi32(total[t], sum);
        }
    }
}

/* The same for 8-bit codes, one register of rows after the other. */
INLINE void tile_8(float *acc, const struct group *p, size_t ng, const struct q8 *x, size_t g0,
                   size_t t0, const bool offset, const int S)
{
    const int8_t *base = x->q + t0 * x->K + g0 * GROUP;

    for (size_t g = 0; g < ng; g++, base += GROUP) {
        const int8_t *q[4];

#pragma GCC unroll 4
        for (int t = 0; t < S; t++)
            q[t] = base + (size_t)t * x->K;
        for (int i = 0; i < 2; i++) {
            __m256i total[4];

            sums_8(total, p + g, i, q, S);
#pragma GCC unroll 4
            for (int t = 0; t < S; t++) {
                const size_t at = (g0 + g) * x->T + t0 + (size_t)t;
                float *y = acc + LANES * t + 8 * i;

                _mm256_storeu_ps(y, link(_mm256_loadu_ps(y), total[t], p[g].d[0] + 8 * i,
                                         p[g].m[0] + 8 * i, x, at, offset));
            }
        }
    }
}

/* rest = fma(float(sum), d * e, rest) for eight rows of one token */
INLINE void onto(float *rest, __m256i sum, const float *d, float e)
{
    const __m256 by = _mm256_mul_ps(_mm256_load_ps(d), _mm256_set1_ps(e));

    _mm256_storeu_ps(rest, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), by, _mm256_loadu_ps(rest)));
}

/* Remainders of group g of S tokens t[]; the sums of token 0 are at rest - t0 rows. */
INLINE void rest_tile(float *rest, const struct group *p, const struct q8 *x, size_t g,
                      const size_t *token, size_t t0, const enum codes kind, const int S)
{
    const int8_t *q[4];

#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
        q[t] = x->r + token[t] * x->K + g * GROUP;
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        __m256i total[2][4];

        if (kind == CODES_8)
            sums_8(total[h], p, h, q, S);
        else if (kind == CODES_HALVES || h == 0)
            sums(total, p, h, q, kind, S);
#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
            const size_t at = g * x->T + token[t];
            float *y = rest + LANES * (token[t] - t0);
            const __m256i mid = middle_of(x->nr + at, x->nr0 + at, h, kind);

            if (kind == CODES_8)
                onto(y + 8 * h, total[h][t], p->d[0] + 8 * h, x->e[at]);
            for (int i = 0; i < 2 && (kind == CODES_HALVES || (kind != CODES_8 && h == 0)); i++)
                onto(y + 8 * i, _mm256_sub_epi32(total[i][t], mid), p->d[h] + 8 * i, x->e[at]);
        }
    }
}

INLINE void dot_any(float *acc, float *rest, const struct group *p, size_t ng, const struct q8 *x,
                    size_t g0, size_t t0, size_t T, const enum codes kind, const bool offset)
{
    for (size_t t = 0; t < T;) {
        const size_t left = T - t;

#define TILE(S)                                                                                    \
    do {                                                                                           \
        if (kind == CODES_8)                                                                       \
            tile_8(acc + LANES * t, p, ng, x, g0, t0 + t, offset, S);                              \
        else                                                                                       \
            tile(acc + LANES * t, p, ng, x, g0, t0 + t, kind, offset, S);                          \
        t += S;                                                                                    \
    } while (0)
        if (left >= 4)
            TILE(4);
        else if (left >= 2)
            TILE(2);
        else
            TILE(1);
#undef TILE
    }
    for (size_t g = 0; g < ng; g++) {
        struct more_walk m = more_of(x, g0 + g, t0, T);
        size_t at[4], n = 0;

        while (more_next(&m, &at[n])) {
            if (++n < 4)
                continue;
            rest_tile(rest, p + g, x, g0 + g, at, t0, kind, 4);
            n = 0;
        }
        for (size_t i = 0; i < n; i++)
            rest_tile(rest, p + g, x, g0 + g, at + i, t0, kind, 1);
    }
}

#define DOT(name, kind, offset)                                                                    \
    static void name(float *acc, float *rest, const struct group *p, size_t P, size_t ng,          \
                     const struct q8 *x, size_t g0, size_t t0, size_t T)                           \
    {                                                                                              \
        for (size_t i = 0; i < P; i++)                                                             \
            dot_any(acc + i * T * LANES, rest + i * T * LANES, p + i * CHUNK, ng, x, g0, t0, T,    \
                    kind, offset);                                                                 \
    }
DOT(dot_8, CODES_8, false)
DOT(dot_8m, CODES_8, true)
DOT(dot_5, CODES_5, false)
DOT(dot_5m, CODES_5, true)
DOT(dot_4, CODES_4, false)
DOT(dot_4m, CODES_4, true)
DOT(dot_halves, CODES_HALVES, false)

/* ---- eight rows of a file into registers ---- */

/* A group of eight rows: v[h][i] is values 16h .. 16h+15 of row i, then of row i+4; d[1] and m[1]
 * only when the halves differ. */
struct eight {
    __m256i v[2][4];
    __m256 d[2], m[2];
};

/* Where rows go, group by group: into a panel, or, for a single token, straight into its sums, with
 * the same bits: sums of integers have no order. */
struct sink {
    struct group *p;
    const int8_t *q, *r;
    const float *d, *e, *s;
    const int32_t *n, *n0, *nr, *nr0;
    __m256 acc, rest;
};

/* 16 bytes of each of eight rows, `off` into them. */
INLINE void sixteen(__m256i v[4], const uint8_t *const *at, size_t off)
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        v[i] = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(at[i] + off))),
            _mm_loadu_si128((const __m128i *)(at[i + 4] + off)), 1);
}

/* v to the panel's order: line c lane r = bytes 4c .. 4c+3 of row r. */
INLINE void lines(struct group *p, const struct eight *e, const int i, __m256i flip)
{
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const __m256i a = _mm256_unpacklo_epi32(e->v[h][0], e->v[h][1]);
        const __m256i b = _mm256_unpacklo_epi32(e->v[h][2], e->v[h][3]);
        const __m256i c = _mm256_unpackhi_epi32(e->v[h][0], e->v[h][1]);
        const __m256i d = _mm256_unpackhi_epi32(e->v[h][2], e->v[h][3]);
        const __m256i line[4] = { _mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b),
                                  _mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d) };

#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            _mm256_store_si256((__m256i *)(p->code[4 * h + k] + 32 * i),
                               _mm256_xor_si256(line[k], flip));
    }
}

/* t[i] holds four sums of row i, then four of row i+4: their totals by row */
INLINE __m256i totals(const __m256i t[4])
{
    return _mm256_hadd_epi32(_mm256_hadd_epi32(t[0], t[1]), _mm256_hadd_epi32(t[2], t[3]));
}

INLINE __m256i twice(const int8_t *q)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)q));
}

/* codes that are signed here, and 128 more in a panel */
INLINE __m256i row_8(const struct eight *e, const int8_t *q)
{
    const __m256i x[2] = { twice(q), twice(q + 16) };
    __m256i t[4];

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m256i a =
            _mm256_maddubs_epi16(_mm256_abs_epi8(e->v[0][i]), _mm256_sign_epi8(x[0], e->v[0][i]));
        const __m256i b =
            _mm256_maddubs_epi16(_mm256_abs_epi8(e->v[1][i]), _mm256_sign_epi8(x[1], e->v[1][i]));

        t[i] = _mm256_add_epi32(wide(a), wide(b));
    }
    return totals(t);
}

INLINE __m256i row_small(const struct eight *e, const int8_t *q)
{
    const __m256i x[2] = { twice(q), twice(q + 16) };
    __m256i t[4];

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        t[i] = wide(_mm256_add_epi16(_mm256_maddubs_epi16(e->v[0][i], x[0]),
                                     _mm256_maddubs_epi16(e->v[1][i], x[1])));
    return totals(t);
}

INLINE __m256i row_half(const struct eight *e, const int8_t *q, const int h)
{
    const __m256i x = twice(q + 16 * h);
    __m256i t[4];

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        t[i] = wide(_mm256_maddubs_epi16(e->v[h][i], x));
    return totals(t);
}

/* Sums of half h (or all) of a group with q, told from the centre; n and n0 as in struct q8. */
INLINE __m256i row_sum(const struct eight *e, const int8_t *q, const int32_t *n, const int32_t *n0,
                       const int h, const enum codes kind)
{
    if (kind == CODES_8)
        return row_8(e, q);
    return _mm256_sub_epi32(kind == CODES_HALVES ? row_half(e, q, h) : row_small(e, q),
                            middle_of(n, n0, h, kind));
}

/* Group g of the sink for rows 8i .. 8i+7. */
INLINE void put(struct sink *k, size_t g, const int i, const struct eight *e, const enum codes kind,
                const bool offset, const bool one)
{
    const int halves = kind == CODES_HALVES ? 2 : 1;

    if (!one)
        lines(k->p + g, e, i, _mm256_set1_epi8(kind == CODES_8 ? -128 : 0));
#pragma GCC unroll 2
    for (int h = 0; h < halves; h++) {
        if (one) {
            const __m256i sum = row_sum(e, k->q + g * GROUP, k->n + g, k->n0 + g, h, kind);

            k->acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum),
                                     _mm256_mul_ps(e->d[h], _mm256_set1_ps(k->d[g])), k->acc);
            if (offset)
                k->acc = _mm256_fmadd_ps(e->m[h], _mm256_set1_ps(k->s[g]), k->acc);
            if (k->e[g] != 0) {
                const __m256i left = row_sum(e, k->r + g * GROUP, k->nr + g, k->nr0 + g, h, kind);
                const __m256 by = _mm256_mul_ps(e->d[h], _mm256_set1_ps(k->e[g]));

                k->rest = _mm256_fmadd_ps(_mm256_cvtepi32_ps(left), by, k->rest);
            }
        } else {
            _mm256_store_ps(k->p[g].d[h] + 8 * i, e->d[h]);
            _mm256_store_ps(k->p[g].m[h] + 8 * i, e->m[h]);
        }
    }
}

/* The four bytes at `off` of every row. */
INLINE __m256i words(const uint8_t *const *at, size_t off)
{
    int32_t w[8];

#pragma GCC unroll 8
    for (int r = 0; r < 8; r++)
        memcpy(&w[r], at[r] + off, 4);
    return _mm256_setr_epi32(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]);
}

/* The f16 at `off` of every row. */
INLINE __m256 scales(const uint8_t *const *at, size_t off)
{
    __m128i h = _mm_setzero_si128();

#define PUT(r) h = _mm_insert_epi16(h, (short)enc_load16(at[r] + off), r)
    PUT(0), PUT(1), PUT(2), PUT(3), PUT(4), PUT(5), PUT(6), PUT(7);
#undef PUT
    return _mm256_cvtph_ps(h);
}

/* Two f16 in each word. */
INLINE void two_scales(__m256 *lo, __m256 *hi, __m256i w)
{
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0,
                                           1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m256i s = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(w, order), 0xD8);

    *lo = _mm256_cvtph_ps(_mm256_castsi256_si128(s));
    *hi = _mm256_cvtph_ps(_mm256_extracti128_si256(s, 1));
}

/* d * (code - centre) */
INLINE void middle(struct eight *e, __m256 d)
{
    e->d[0] = d;
    e->m[0] = _mm256_setzero_ps();
}

/* d * code + m, told from the centre of the codes */
INLINE void centre(struct eight *e, const enum codes kind)
{
    e->m[0] = _mm256_fmadd_ps(e->d[0], _mm256_set1_ps((float)code_centre(kind)), e->m[0]);
}

INLINE void nibbles(struct eight *e, const uint8_t *const *at, size_t off)
{
    __m256i b[4];

    sixteen(b, at, off);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        e->v[0][i] = low4(b[i]);
        e->v[1][i] = high4(b[i]);
    }
}

/* Bit i of each row's word joins code i as its fifth bit: a byte is copied to the eight codes whose
 * bits it holds, masked to one bit each, and made 16 where that bit is set. */
INLINE void fifth_bits(struct eight *e, const uint8_t *const *at, size_t off)
{
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i order = _mm256_setr_epi64x(0, 0x0101010101010101, 0, 0x0101010101010101);
    const __m256i two = _mm256_set1_epi8(2);

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m256i w = _mm256_setr_m128i(_mm_cvtsi32_si128((int)enc_load32(at[i] + off)),
                                            _mm_cvtsi32_si128((int)enc_load32(at[i + 4] + off)));

#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            const __m256i x = _mm256_shuffle_epi8(w, h ? _mm256_add_epi8(order, two) : order);
            const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(x, bit), bit);

            e->v[h][i] = _mm256_or_si256(e->v[h][i], _mm256_and_si256(set, _mm256_set1_epi8(16)));
        }
    }
}

INLINE void load_q4_0(struct eight *e, const uint8_t *const *at, size_t off)
{
    nibbles(e, at, off + 2);
    middle(e, scales(at, off));
}

INLINE void load_q4_1(struct eight *e, const uint8_t *const *at, size_t off)
{
    nibbles(e, at, off + 4);
    two_scales(&e->d[0], &e->m[0], words(at, off));
    centre(e, CODES_4);
}

INLINE void load_q5_0(struct eight *e, const uint8_t *const *at, size_t off)
{
    nibbles(e, at, off + 6);
    fifth_bits(e, at, off + 2);
    middle(e, scales(at, off));
}

INLINE void load_q5_1(struct eight *e, const uint8_t *const *at, size_t off)
{
    nibbles(e, at, off + 8);
    fifth_bits(e, at, off + 4);
    two_scales(&e->d[0], &e->m[0], words(at, off));
    centre(e, CODES_5);
}

INLINE void load_q8_0(struct eight *e, const uint8_t *const *at, size_t off)
{
    sixteen(e->v[0], at, off + 2);
    sixteen(e->v[1], at, off + 18);
    middle(e, scales(at, off));
}

/* The scales of a block of Q4_K or Q5_K for eight rows. A byte of s[0] and n[0] is scale and
 * minimum of one of the first four sub-blocks, of s[1] and n[1] of the others (k_scales.h). */
struct k_block {
    __m256 d, m;
    __m256i s[2], n[2];
};

INLINE void k_block(struct k_block *b, const uint8_t *const *at, size_t off)
{
    const __m256i six = _mm256_set1_epi8(63), top = _mm256_set1_epi8(48);
    const __m256i s = words(at, off + 4), n = words(at, off + 8), both = words(at, off + 12);

    two_scales(&b->d, &b->m, words(at, off));
    b->m = _mm256_sub_ps(_mm256_set1_ps(-0.0f), b->m);
    b->s[0] = _mm256_and_si256(s, six);
    b->n[0] = _mm256_and_si256(n, six);
    b->s[1] = _mm256_or_si256(low4(both), _mm256_and_si256(_mm256_srli_epi16(s, 2), top));
    b->n[1] = _mm256_or_si256(high4(both), _mm256_and_si256(_mm256_srli_epi16(n, 2), top));
}

/* by times byte j of every word */
INLINE __m256 k_scale(const __m256i bytes[2], const int j, __m256 by)
{
    const __m256i w =
        _mm256_and_si256(_mm256_srli_epi32(bytes[j / 4], 8 * (j % 4)), _mm256_set1_epi32(255));

    return _mm256_mul_ps(by, _mm256_cvtepi32_ps(w));
}

/* Eight rows of a block of 256: 32 bytes hold one group in their low nibbles and the next one in
 * the high ones. Q5_K has fifth bits beside: bit j of 32 bytes belongs to group j. */
INLINE void block_k(struct sink *k, size_t g, const int i, const uint8_t *const *at, size_t off,
                    const bool five, const bool one)
{
    const __m256i bit = _mm256_set1_epi8(16);
    struct k_block b;
    __m256i f[2][4];

    k_block(&b, at, off);
    if (five) {
        sixteen(f[0], at, off + 16);
        sixteen(f[1], at, off + 32);
    }
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        const size_t qs = off + (five ? 48 : 16) + 32 * (size_t)(j / 2);
        struct eight e;

        sixteen(e.v[0], at, qs);
        sixteen(e.v[1], at, qs + 16);
#pragma GCC unroll 8
        for (int n = 0; n < 8; n++) {
            __m256i *v = &e.v[n / 4][n % 4], w = f[n / 4][n % 4];

            *v = j % 2 ? high4(*v) : low4(*v);
            if (five) {
                w = j < 4 ? _mm256_slli_epi16(w, 4 - j % 4) : _mm256_srli_epi16(w, j % 4);
                *v = _mm256_or_si256(*v, _mm256_and_si256(w, bit));
            }
        }
        e.d[0] = k_scale(b.s, j, b.d);
        e.m[0] = k_scale(b.n, j, b.m);
        centre(&e, five ? CODES_5 : CODES_4);
        put(k, g + (size_t)j, i, &e, five ? CODES_5 : CODES_4, true, one);
    }
}

/* Eight rows of a block of Q6_K: every 16 values have a scale, and four groups share the 32 bytes
 * of their high bits. */
INLINE void block_q6_k(struct sink *k, size_t g, const int i, const uint8_t *const *at, size_t off,
                       const bool one)
{
    const __m256 d = scales(at, off + 208);

    for (size_t half = 0; half < 2; half++) {
        const __m256i sc[2] = { words(at, off + 192 + 8 * half), words(at, off + 196 + 8 * half) };

#pragma GCC unroll 4
        for (int n = 0; n < 4; n++) {
            struct eight e;

#pragma GCC unroll 2
            for (int l = 0; l < 2; l++) {
                const int byte = 2 * (n % 2) + l;
                __m256i top[4];

                sixteen(e.v[l], at, off + 64 * half + 32 * (size_t)(n % 2) + 16 * (size_t)l);
                sixteen(top, at, off + 128 + 32 * half + 16 * (size_t)l);
#pragma GCC unroll 4
                for (int r = 0; r < 4; r++) {
                    const __m256i t = n == 3   ? _mm256_srli_epi16(top[r], 2)
                                      : n == 2 ? top[r]
                                               : _mm256_slli_epi16(top[r], n ? 2 : 4);

                    e.v[l][r] = _mm256_or_si256(n < 2 ? low4(e.v[l][r]) : high4(e.v[l][r]),
                                                _mm256_and_si256(t, _mm256_set1_epi8(48)));
                }
                e.d[l] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_srai_epi32(
                                              _mm256_slli_epi32(sc[n / 2], 24 - 8 * byte), 24)));
                e.m[l] = _mm256_setzero_ps();
            }
            put(k, g + 4 * half + (size_t)n, i, &e, CODES_HALVES, false, one);
        }
    }
}

/* constants for the compiler; the structs of format/enc/ hold them to the files' */
INLINE size_t enc_bytes(const enum enc enc)
{
    switch (enc) {
    case ENC_Q4_0:
        return sizeof(struct q4_0);
    case ENC_Q4_1:
        return sizeof(struct q4_1);
    case ENC_Q4_K:
        return sizeof(struct q4_k);
    case ENC_Q5_0:
        return sizeof(struct q5_0);
    case ENC_Q5_1:
        return sizeof(struct q5_1);
    case ENC_Q5_K:
        return sizeof(struct q5_k);
    case ENC_Q6_K:
        return sizeof(struct q6_k);
    default:
        return sizeof(struct q8_0);
    }
}

/* groups 0 .. ng of the sink from groups g0 .. of rows 8i .. 8i+7 */
INLINE void feed(struct sink *k, const struct rows16 *w, const int i, size_t g0, size_t ng,
                 const enum enc enc, const bool one)
{
    const size_t block = enc == ENC_Q4_K || enc == ENC_Q5_K || enc == ENC_Q6_K ? 8 : 1;
    const size_t bytes = enc_bytes(enc);
    const uint8_t *at[8];

#pragma GCC unroll 8
    for (int r = 0; r < 8; r++)
        at[r] = w->at[8 * i + r];
    for (size_t g = 0; g < ng; g += block) {
        const size_t off = (g0 + g) / block * bytes;
        struct eight e;

        /* the next rows follow in the file: they come in one long stream */
        for (size_t n = 0; n < 8 * bytes; n += 64)
            _mm_prefetch((const char *)(w->next[i] + 8 * off + n), _MM_HINT_T1);
        switch (enc) {
        case ENC_Q4_K:
        case ENC_Q5_K:
            block_k(k, g, i, at, off, enc == ENC_Q5_K, one);
            continue;
        case ENC_Q6_K:
            block_q6_k(k, g, i, at, off, one);
            continue;
        case ENC_Q4_0:
            load_q4_0(&e, at, off);
            break;
        case ENC_Q4_1:
            load_q4_1(&e, at, off);
            break;
        case ENC_Q5_0:
            load_q5_0(&e, at, off);
            break;
        case ENC_Q5_1:
            load_q5_1(&e, at, off);
            break;
        default:
            load_q8_0(&e, at, off);
            break;
        }
        put(k, g, i, &e,
            enc == ENC_Q8_0                      ? CODES_8
            : enc == ENC_Q5_0 || enc == ENC_Q5_1 ? CODES_5
                                                 : CODES_4,
            enc == ENC_Q4_1 || enc == ENC_Q5_1, one);
    }
}

#define ENCODING(name, enc)                                                                        \
    static void unpack_##name(struct group *p, const struct rows16 *w, size_t g0, size_t ng)       \
    {                                                                                              \
        struct sink k = { .p = p };                                                                \
                                                                                                   \
        feed(&k, w, 0, g0, ng, enc, false);                                                        \
        feed(&k, w, 1, g0, ng, enc, false);                                                        \
    }                                                                                              \
    static void row_##name(float *acc, const struct rows16 *w, const struct q8 *x, size_t t)       \
    {                                                                                              \
        const size_t G = x->K / GROUP;                                                             \
                                                                                                   \
        (void)t;                                                                                   \
        for (int i = 0; i < 2; i++) {                                                              \
            struct sink k = { .q = x->q,                                                           \
                              .r = x->r,                                                           \
                              .d = x->d,                                                           \
                              .e = x->e,                                                           \
                              .s = x->s,                                                           \
                              .n = x->n,                                                           \
                              .n0 = x->n0,                                                         \
                              .nr = x->nr,                                                         \
                              .nr0 = x->nr0,                                                       \
                              .acc = _mm256_setzero_ps(),                                          \
                              .rest = _mm256_setzero_ps() };                                       \
                                                                                                   \
            feed(&k, w, i, 0, G, enc, true);                                                       \
            _mm256_storeu_ps(acc + 8 * i, _mm256_add_ps(k.acc, k.rest));                           \
        }                                                                                          \
    }
ENCODING(q4_0, ENC_Q4_0)
ENCODING(q4_1, ENC_Q4_1)
ENCODING(q4_k, ENC_Q4_K)
ENCODING(q5_0, ENC_Q5_0)
ENCODING(q5_1, ENC_Q5_1)
ENCODING(q5_k, ENC_Q5_K)
ENCODING(q6_k, ENC_Q6_K)
ENCODING(q8_0, ENC_Q8_0)

#define FILL(name, enc) k->unpack[enc] = unpack_##name, k->row[enc] = row_##name
void cpu_kern_q8_avx2(struct cpu_kern *k)
{
    k->dot[CODES_8][0] = dot_8;
    k->dot[CODES_8][1] = dot_8m;
    k->dot[CODES_5][0] = dot_5;
    k->dot[CODES_5][1] = dot_5m;
    k->dot[CODES_4][0] = dot_4;
    k->dot[CODES_4][1] = dot_4m;
    k->dot[CODES_HALVES][0] = dot_halves;
    FILL(q4_0, ENC_Q4_0);
    FILL(q4_1, ENC_Q4_1);
    FILL(q4_k, ENC_Q4_K);
    FILL(q5_0, ENC_Q5_0);
    FILL(q5_1, ENC_Q5_1);
    FILL(q5_k, ENC_Q5_K);
    FILL(q6_k, ENC_Q6_K);
    FILL(q8_0, ENC_Q8_0);
}
