/* exact_avx512.c - exact_int8.inc on AVX-512 VNNI. A multiply-add takes unsigned bytes times signed
 * ones: weights are told from -128, and 128 times the sum of the inputs goes off the total. */
#include <immintrin.h>

#include "backend/cpu/kern.h"
#include "base/num.h"

typedef int8_t code;

static inline bool takes(const struct weight *w)
{
    return w->cols <= 128 * 1024; /* their sum fits 32 bits */
}

#include "backend/cpu/exact_int8.inc"

INLINE __mmask16 some(size_t n)
{
    return (__mmask16)(n < 16 ? (1u << n) - 1 : 0xFFFF);
}

/* x as the rule compares it, and which of the sixteen stay floats */
INLINE __m512 seen(__m512 x, const struct planes *p, __mmask16 *floats)
{
    *floats = 0;
    if (p->act != ACT_BNB8)
        return x;
    x = _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    *floats = _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(p->act_bound), _CMP_NLT_UQ);
    return x;
}

static void form(void *to, const struct weight *w, enum exact_in in, const float *x)
{
    const struct planes *p = &w->p;
    const size_t K = w->cols;
    struct form *f = to;
    code *q = codes_of(f);
    __m512 max = _mm512_setzero_ps();
    __m512i sum = _mm512_setzero_si512();
    __mmask16 floats, none = 0;

    (void)in;
    for (size_t i = 0; i < K; i += 16) {
        const __m512 v = seen(_mm512_maskz_loadu_ps(some(K - i), x + i), p, &floats);

        none |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) & ~floats;
        /* the second where one is no number */
        max = _mm512_mask_max_ps(max, ~floats, _mm512_abs_ps(v), max);
    }
    const float s = act_scale(p->act, p->act_bound, p->act_scale, _mm512_reduce_max_ps(max));
    const bool bnb = p->act == ACT_BNB8;
    const __m512 by = _mm512_set1_ps(bnb ? 127 / s : s);

    f->step = none ? NAN : bnb ? s / 127 : s;
    f->n = 0;
    memset(q + K / 64 * 64, 0, whole(K, 64) - K / 64 * 64);
    for (size_t i = 0; i < K; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(some(K - i), x + i), h = seen(v, p, &floats);
        const __m512 scaled = bnb ? _mm512_mul_ps(h, by) : _mm512_div_ps(h, by);
        const __mmask16 m = some(K - i) & (s != 0 ? ~floats : 0);
        const __m512i r = _mm512_maskz_cvtps_epi32(m, scaled);
        const __m512i c =
            _mm512_max_epi32(_mm512_min_epi32(r, _mm512_set1_epi32(127)), _mm512_set1_epi32(-128));

        sum = _mm512_add_epi32(sum, c);
        _mm512_mask_cvtepi32_storeu_epi8(q + i, some(K - i), c);
        if (!floats)
            continue;
        list_of(f, K)[f->n] = (uint32_t)i;
        _mm512_storeu_ps(floats_of(f, K) + 16 * f->n++, _mm512_maskz_mov_ps(floats, v));
    }
    f->sum = _mm512_reduce_add_epi32(sum);
}

/* Rows r0 .. r0+R of w times the floats of one row of inputs. */
INLINE void add_floats(__m512 y[ROWS], const uint8_t *from, const struct form *f, size_t K,
                       const int R)
{
    const uint32_t *list = list_of(f, K);
    const float *in = floats_of(f, K);

    for (uint32_t n = 0; n < f->n; n++) {
        const size_t i = list[n];
        const __m512 x = _mm512_loadu_ps(in + 16 * n);

#pragma GCC unroll 4
        for (int k = 0; k < R; k++) {
            const __m128i b = _mm_maskz_loadu_epi8(some(K - i), from + (size_t)k * K + i);

            y[k] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b)), x, y[k]);
        }
    }
}

/* sum[k][t] += 64 weights of each row at `from`, of which n exist, times inputs from place i on */
INLINE void multiply(__m512i sum[ROWS][TOKENS], const uint8_t *from, const struct form *const *f,
                     size_t K, size_t i, const bool all, const int R, const int S)
{
    const __mmask64 m = all ? ~(__mmask64)0 : ((__mmask64)1 << (K - i)) - 1;
    __m512i v[ROWS];

#pragma GCC unroll 4
    for (int k = 0; k < R; k++) {
        const uint8_t *p = from + (size_t)k * K + i;

        v[k] = all ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8(m, p);
        v[k] = _mm512_xor_si512(v[k], _mm512_set1_epi8(-128));
    }
#pragma GCC unroll 4
    for (int t = 0; t < S; t++) {
        const __m512i in = _mm512_loadu_si512(codes_of(f[t]) + i);

#pragma GCC unroll 4
        for (int k = 0; k < R; k++)
            sum[k][t] = _mm512_dpbusd_epi32(sum[k][t], v[k], in);
    }
}

INLINE void tile(const struct job *j, size_t r, size_t t0, const int R, const int S)
{
    const struct weight *w = j->w;
    const size_t K = w->cols;
    const uint8_t *from = weight_copy(w);
    const struct form *f[TOKENS];
    __m512i sum[ROWS][TOKENS];
    size_t i = 0;

    from += (j->r0 + r) * K;
#pragma GCC unroll 4
    for (int t = 0; t < S; t++) {
        f[t] = (const struct form *)(j->x + (t0 + (size_t)t) * j->apart);
#pragma GCC unroll 4
        for (int k = 0; k < R; k++)
            sum[k][t] = _mm512_setzero_si512();
    }
    for (; i + 64 <= K; i += 64) {
        const uint8_t *ahead = from + (size_t)R * (K + i) + AHEAD;

#pragma GCC unroll 4
        for (int k = 0; k < R; k++)
            if (t0 == 0)
                _mm_prefetch((const char *)ahead + 64 * k, _MM_HINT_T1);
        multiply(sum, from, f, K, i, true, R, S);
    }
    if (i < K)
        multiply(sum, from, f, K, i, false, R, S);
#pragma GCC unroll 4
    for (int t = 0; t < S; t++) {
        __m512 y[ROWS];

#pragma GCC unroll 4
        for (int k = 0; k < R; k++)
            y[k] = _mm512_setzero_ps();
        add_floats(y, from, f[t], K, R);
#pragma GCC unroll 4
        for (int k = 0; k < R; k++) {
            const uint32_t off = 128 * (uint32_t)f[t]->sum;
            const int32_t n = (int32_t)((uint32_t)_mm512_reduce_add_epi32(sum[k][t]) - off);

            put(j, r + (size_t)k, t0 + (size_t)t, f[t], n, _mm512_reduce_add_ps(y[k]));
        }
    }
}

void cpu_kern_exact_avx512(struct cpu_kern *k)
{
    fill_int8(k);
}
