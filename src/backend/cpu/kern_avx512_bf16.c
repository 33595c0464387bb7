#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kern.h"

enum { AHEAD = 1 << 15 }; /* bytes between the rows after these and those to fetch */

/* n <= 32 values, zeros behind */
static inline __m512bh part(const uint8_t *p, size_t n)
{
    const __mmask32 m = n >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << n) - 1;

    return (__m512bh)_mm512_maskz_loadu_epi16(m, p);
}

/* R rows times S tokens, R and S known to the compiler */
static inline __attribute__((always_inline)) void tile(float *y, size_t ys, const uint8_t *w,
                                                       size_t ws, const bf16 *x, size_t xs,
                                                       size_t n, bool add, const int R, const int S)
{
    __m512 acc[4][4];

#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int s = 0; s < S; s++)
            acc[r][s] = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 32) {
        __m512bh xv[4];

        /* one token waits for memory: the rows after these come in one long stream */
        for (size_t r = 0; S == 1 && r < (size_t)R; r++)
            _mm_prefetch((const char *)(w + (size_t)R * (ws + 2 * i) + 64 * r + AHEAD),
                         _MM_HINT_T1);

#pragma GCC unroll 4
        for (int s = 0; s < S; s++)
            xv[s] = (__m512bh)_mm512_loadu_si512(x + (size_t)s * xs + i);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const uint8_t *p = w + (size_t)r * ws + 2 * i;
            const __m512bh wv = n - i >= 32 ? (__m512bh)_mm512_loadu_si512(p) : part(p, n - i);

#pragma GCC unroll 4
            for (int s = 0; s < S; s++)
                acc[r][s] = _mm512_dpbf16_ps(acc[r][s], wv, xv[s]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) {
            float *at = y + (size_t)s * ys + r;

            *at = _mm512_reduce_add_ps(acc[r][s]) + (add ? *at : 0);
        }
    }
}

static void dot_bf16(float *y, size_t ys, const uint8_t *w, size_t ws, size_t R, const bf16 *x,
                     size_t xs, size_t T, size_t n, bool add)
{
    for (size_t t = 0; t < T;) {
        const size_t S = T - t >= 4 ? 4 : 1;
        size_t r = 0;

        for (; r + 4 <= R; r += 4) {
            if (S == 4)
                tile(y + t * ys + r, ys, w + r * ws, ws, x + t * xs, xs, n, add, 4, 4);
            else
                tile(y + t * ys + r, ys, w + r * ws, ws, x + t * xs, xs, n, add, 4, 1);
        }
        for (; r < R; r++) {
            if (S == 4)
                tile(y + t * ys + r, ys, w + r * ws, ws, x + t * xs, xs, n, add, 1, 4);
            else
                tile(y + t * ys + r, ys, w + r * ws, ws, x + t * xs, xs, n, add, 1, 1);
        }
        t += S;
    }
}

/* R rows by 32 columns, as gemm_tile of train.inc, on pairs */
INLINE void gemm_tile(const struct gemm *g, const size_t ars, const size_t acs, const int R)
{
    __m512 acc[12][2];
    const int32_t *a = g->a;
    const uint8_t *b = g->b;

#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    for (size_t k = 0; k < g->K; k++) {
        const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + 128 * k);
        const __m512bh b1 = (__m512bh)_mm512_loadu_si512(b + 128 * k + 64);

#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            const __m512bh av = (__m512bh)_mm512_set1_epi32(a[(size_t)r * ars + k * acs]);

            acc[r][0] = _mm512_dpbf16_ps(acc[r][0], av, b0);
            acc[r][1] = _mm512_dpbf16_ps(acc[r][1], av, b1);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
        float *c = g->c + (size_t)r * g->ldc;

#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            __m512 y = _mm512_mul_ps(acc[r][i], _mm512_set1_ps(g->by));

            if (g->add)
                y = _mm512_add_ps(y, _mm512_loadu_ps(c + 16 * i));
            _mm512_storeu_ps(c + 16 * i, y);
        }
    }
}

static void gemm_bf16(const struct gemm *g)
{
    const size_t ars = g->ars, acs = g->acs;

    if (g->rows == 12)
        acs == 1 ? gemm_tile(g, ars, 1, 12) : gemm_tile(g, 1, acs, 12);
    else if (g->rows == 4)
        acs == 1 ? gemm_tile(g, ars, 1, 4) : gemm_tile(g, 1, acs, 4);
    else
        acs == 1 ? gemm_tile(g, ars, 1, 1) : gemm_tile(g, 1, acs, 1);
}

static void pair(uint32_t *to, const bf16 *lo, const bf16 *hi, size_t n)
{
    const __mmask32 m = n >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << n) - 1;
    const __m512i a = _mm512_maskz_loadu_epi16(m, lo), b = _mm512_maskz_loadu_epi16(m, hi);
    const __m512i front =
        _mm512_or_si512(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(a)),
                        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(b)), 16));
    const __m512i back = _mm512_or_si512(
        _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(a, 1)),
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(b, 1)), 16));

    _mm512_mask_storeu_epi32(to, (__mmask16)m, front);
    _mm512_mask_storeu_epi32(to + 16, (__mmask16)(m >> 16), back);
}

/* sixteen rounded, in the lower half of words */
static inline __m512i rounded(__mmask16 m, const float *x)
{
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(m, x)));
}

static void pair_floats(uint32_t *to, size_t apart, const float *x, size_t ld, size_t n, size_t K)
{
    const __mmask32 both = n >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << n) - 1;
    const __mmask16 m[2] = { (__mmask16)both, (__mmask16)(both >> 16) };

    for (size_t k = 0; k < K; k += 2, x += 2 * ld, to += apart) {
#pragma GCC unroll 2
        for (size_t i = 0; i < 2; i++) {
            __m512i y = rounded(m[i], x + 16 * i);

            if (k + 1 < K)
                y = _mm512_or_si512(y, _mm512_slli_epi32(rounded(m[i], x + ld + 16 * i), 16));
            _mm512_mask_storeu_epi32(to + 16 * i, m[i], y);
        }
    }
}

static void to_bf16(bf16 *y, const float *x, size_t n)
{
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        _mm512_storeu_si512(y + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16),
                                                                _mm512_loadu_ps(x + i)));
    for (; i < n; i += 16) {
        const __mmask16 m = (__mmask16)(n - i >= 16 ? 0xFFFFu : (1u << (n - i)) - 1);
        const __m256bh h = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(m, x + i));

        _mm256_mask_storeu_epi16(y + i, m, (__m256i)h);
    }
}

/* 16 words of 16 lanes, turned */
static inline void turn(__m512i w[16])
{
    __m512i t[16];

#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* quarter q of t[i + c]: words i .. i+3 of lane 4q + c */
        const __m512i p = _mm512_unpacklo_epi32(w[i], w[i + 1]);
        const __m512i q = _mm512_unpacklo_epi32(w[i + 2], w[i + 3]);
        const __m512i r = _mm512_unpackhi_epi32(w[i], w[i + 1]);
        const __m512i s = _mm512_unpackhi_epi32(w[i + 2], w[i + 3]);

        t[i] = _mm512_unpacklo_epi64(p, q);
        t[i + 1] = _mm512_unpackhi_epi64(p, q);
        t[i + 2] = _mm512_unpacklo_epi64(r, s);
        t[i + 3] = _mm512_unpackhi_epi64(r, s);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512i p = _mm512_shuffle_i32x4(t[c], t[4 + c], 0x44);
        const __m512i q = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0x44);
        const __m512i r = _mm512_shuffle_i32x4(t[c], t[4 + c], 0xEE);
        const __m512i s = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0xEE);

        w[c] = _mm512_shuffle_i32x4(p, q, 0x88);
        w[4 + c] = _mm512_shuffle_i32x4(p, q, 0xDD);
        w[8 + c] = _mm512_shuffle_i32x4(r, s, 0x88);
        w[12 + c] = _mm512_shuffle_i32x4(r, s, 0xDD);
    }
}

/* d code + m of codes `low` and `high` of sixteen rows, a word each */
static inline __m512i two_values(__m512i low, __m512i high, __m512 d, __m512 m)
{
    const __m512 x = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), d, m);
    const __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), d, m);
    const __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
    const __m512i h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(y));

    return _mm512_or_si512(l, _mm512_slli_epi32(h, 16));
}

static void group_bf16(bf16 *to, size_t apart, const struct group *p, size_t ng, enum codes kind,
                       bool offset, size_t R)
{
    const __m512 centre = _mm512_set1_ps((float)code_centre(kind));
    const __m512i byte = _mm512_set1_epi32(255);

    for (size_t g = 0; g < ng; g++, p++, to += GROUP) {
        __m512i w[16];

#pragma GCC unroll 8
        for (int c = 0; c < 8; c++) {
            const int h = kind == CODES_HALVES ? c / 4 : 0;
            const __m512 d = _mm512_loadu_ps(p->d[h]);
            const __m512 from = offset ? _mm512_loadu_ps(p->m[h]) : _mm512_setzero_ps();
            const __m512 m = _mm512_fnmadd_ps(d, centre, from);
            const __m512i x = _mm512_loadu_si512(p->code[c]);

            w[2 * c] = two_values(_mm512_and_si512(x, byte),
                                  _mm512_and_si512(_mm512_srli_epi32(x, 8), byte), d, m);
            w[2 * c + 1] = two_values(_mm512_and_si512(_mm512_srli_epi32(x, 16), byte),
                                      _mm512_srli_epi32(x, 24), d, m);
        }
        turn(w);
        if (R == LANES) {
#pragma GCC unroll 16
            for (size_t r = 0; r < LANES; r++)
                _mm512_storeu_si512(to + r * apart, w[r]);
            continue;
        }
        for (size_t r = 0; r < R; r++)
            _mm512_storeu_si512(to + r * apart, w[r]);
    }
}

static void pack_bf16(bf16 *to, size_t xs, const float *x, size_t T, size_t n)
{
    for (size_t t = 0; t < T; t++, to += xs) {
        memset(to + n, 0, (xs - n) * sizeof(*to));
        to_bf16(to, x + t * n, n);
    }
}

void cpu_kern_avx512_bf16(struct cpu_kern *k)
{
    k->dot_bf16 = dot_bf16;
    k->bf16_rows = LANES;
    k->pack_bf16 = pack_bf16;
    k->bf16_tokens = 1;
    k->gemm_bf16 = gemm_bf16;
    k->group_bf16 = group_bf16;
    k->to_bf16 = to_bf16;
    k->pair = pair;
    k->pair_floats = pair_floats;
}
