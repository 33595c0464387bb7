#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kern.h"
#include "backend/cpu/lines_avx512_bf16.inc"
#include "backend/cpu/turn_avx512.inc"

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

static void group_bf16(bf16 *to, size_t apart, const struct group *p, size_t ng, enum codes kind,
                       bool offset, size_t R)
{
    for (size_t g = 0; g < ng; g++, p++, to += GROUP) {
        __m512i w[16];

        group_lines(w, p, kind, offset);
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
    k->pack_bf16 = pack_bf16;
    k->bf16_tokens = 1;
    k->gemm_bf16 = gemm_bf16;
    k->group_bf16 = group_bf16;
    k->to_bf16 = to_bf16;
    k->pair = pair;
    k->pair_floats = pair_floats;
}
