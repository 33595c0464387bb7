/* exact_avx2.c - exact_int8.inc on AVX2: a multiply-add of bytes would saturate where both have
 * their largest values, so weights and inputs meet as 16 bits; weights are widened once for the
 * tokens of a tile. */
#include <immintrin.h>

#include "backend/cpu/kern.h"
#include "base/num.h"

typedef int16_t code;

static inline bool takes(const struct weight *w)
{
    return w->cols % 32 == 0 && w->cols < 128 * 1024; /* whole steps, whose sum fits 32 bits */
}

#include "backend/cpu/exact_int8.inc"
#include "backend/cpu/lanes_avx2.inc"

INLINE __m256 magnitude(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

/* x as the rule compares it; *floats: all bits where it stays a float */
INLINE __m256 seen(__m256 x, const struct planes *p, __m256 *floats)
{
    *floats = _mm256_setzero_ps();
    if (p->act != ACT_BNB8)
        return x;
    x = _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    *floats = _mm256_cmp_ps(magnitude(x), _mm256_set1_ps(p->act_bound), _CMP_NLT_UQ);
    return x;
}

/* Eight inputs as integers; those that stay floats as 0, and by themselves. */
INLINE __m256i rounded(__m256 *floats, const float *x, const struct planes *p, float s)
{
    const bool bnb = p->act == ACT_BNB8;
    const __m256 v = _mm256_loadu_ps(x), h = seen(v, p, floats);
    const __m256 by = _mm256_set1_ps(bnb ? 127 / s : s);
    const __m256 scaled = bnb ? _mm256_mul_ps(h, by) : _mm256_div_ps(h, by);
    const __m256i out = s != 0 ? _mm256_castps_si256(*floats) : _mm256_set1_epi32(-1);
    const __m256i q = _mm256_andnot_si256(out, _mm256_cvtps_epi32(scaled));

    *floats = _mm256_and_ps(v, *floats);
    return _mm256_max_epi32(_mm256_min_epi32(q, _mm256_set1_epi32(127)), _mm256_set1_epi32(-128));
}

static void form(void *to, const struct weight *w, enum exact_in in, const float *x)
{
    const struct planes *p = &w->p;
    const size_t K = w->cols;
    struct form *f = to;
    code *q = codes_of(f);
    __m256 max = _mm256_setzero_ps(), none = max, floats;

    (void)in;
    for (size_t i = 0; i < K; i += 8) {
        const __m256 v = seen(_mm256_loadu_ps(x + i), p, &floats);

        none = _mm256_or_ps(none, _mm256_andnot_ps(floats, _mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
        /* the second where one is no number */
        max = _mm256_max_ps(_mm256_andnot_ps(floats, magnitude(v)), max);
    }
    const float s = act_scale(p->act, p->act_bound, p->act_scale, largest8(max));

    f->step = _mm256_movemask_ps(none) ? NAN : p->act == ACT_BNB8 ? s / 127 : s;
    f->sum = 0;
    f->n = 0;
    for (size_t i = 0; i < K; i += 16) {
        __m256 kept[2];
        const __m256i a = rounded(&kept[0], x + i, p, s), b = rounded(&kept[1], x + i + 8, p, s);
        const __m256 any = _mm256_or_ps(kept[0], kept[1]);

        _mm256_storeu_si256((__m256i *)(q + i),
                            _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8));
        if (_mm256_testz_si256(_mm256_castps_si256(any), _mm256_castps_si256(any)))
            continue;
        list_of(f, K)[f->n] = (uint32_t)i;
        _mm256_storeu_ps(floats_of(f, K) + 16 * f->n, kept[0]);
        _mm256_storeu_ps(floats_of(f, K) + 16 * f->n++ + 8, kept[1]);
    }
}

INLINE __m256 weights8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

/* A row times the floats of one row of inputs. */
static float listed(const uint8_t *row, const struct form *f, size_t K)
{
    const uint32_t *list = list_of(f, K);
    const float *x = floats_of(f, K);
    __m256 y = _mm256_setzero_ps();

    for (uint32_t n = 0; n < f->n; n++, x += 16) {
        y = _mm256_fmadd_ps(weights8(row + list[n]), _mm256_loadu_ps(x), y);
        y = _mm256_fmadd_ps(weights8(row + list[n] + 8), _mm256_loadu_ps(x + 8), y);
    }
    return sum8(y);
}

static int32_t total(__m256i v)
{
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xB1)));
}

INLINE void tile(const struct job *j, size_t r, size_t t0, const int R, const int S)
{
    const size_t K = j->w->cols;
    const uint8_t *from = weight_copy(j->w) + (j->r0 + r) * K;
    const uint8_t *ahead = from + (size_t)R * K + AHEAD;
    const struct form *f[TOKENS];
    __m256i sum[ROWS][TOKENS];

#pragma GCC unroll 4
    for (int t = 0; t < S; t++) {
        f[t] = (const struct form *)(j->x + (t0 + (size_t)t) * j->apart);
#pragma GCC unroll 4
        for (int k = 0; k < R; k++)
            sum[k][t] = _mm256_setzero_si256();
    }
    for (size_t i = 0; i < K; i += 32) {
        if (t0 == 0) /* half a line of each row */
            for (size_t at = (size_t)R * i / 64 * 64; at < (size_t)R * (i + 32); at += 64)
                _mm_prefetch((const char *)ahead + at, _MM_HINT_T1);
#pragma GCC unroll 2
        for (size_t h = 0; h < 32; h += 16) {
            __m256i x[TOKENS];

#pragma GCC unroll 4
            for (int t = 0; t < S; t++)
                x[t] = _mm256_loadu_si256((const __m256i *)(codes_of(f[t]) + i + h));
#pragma GCC unroll 4
            for (int k = 0; k < R; k++) {
                const __m128i *p = (const __m128i *)(from + (size_t)k * K + i + h);
                const __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128(p));

#pragma GCC unroll 4
                for (int t = 0; t < S; t++)
                    sum[k][t] = _mm256_add_epi32(sum[k][t], _mm256_madd_epi16(v, x[t]));
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
#pragma GCC unroll 4
        for (int k = 0; k < R; k++)
            put(j, r + (size_t)k, t0 + (size_t)t, f[t], total(sum[k][t]),
                listed(from + (size_t)k * K, f[t], K));
}

void cpu_kern_exact_avx2(struct cpu_kern *k)
{
    fill_int8(k);
}
