#include <immintrin.h>

#include "backend/cpu/kern.h"
#include "format/enc/k_scales.h"

typedef __m512 v16;

static inline v16 v_set1(float f) { return _mm512_set1_ps(f); }
static inline v16 v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, v16 x) { _mm512_storeu_ps(p, x); }
static inline v16 v_add(v16 x, v16 y) { return _mm512_add_ps(x, y); }
static inline v16 v_sub(v16 x, v16 y) { return _mm512_sub_ps(x, y); }
static inline v16 v_mul(v16 x, v16 y) { return _mm512_mul_ps(x, y); }
static inline v16 v_div(v16 x, v16 y) { return _mm512_div_ps(x, y); }
static inline v16 v_max(v16 x, v16 y) { return _mm512_max_ps(x, y); }
static inline v16 v_min(v16 x, v16 y) { return _mm512_min_ps(x, y); }
static inline v16 v_fma(v16 x, v16 y, v16 z) { return _mm512_fmadd_ps(x, y, z); }
static inline v16 v_abs(v16 x) { return _mm512_abs_ps(x); }
static inline v16 v_round(v16 x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline v16 v_ldexp(v16 x, v16 n) { return _mm512_scalef_ps(x, n); }
static inline v16 v_load_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline v16 v_load_bf16(const uint8_t *p)
{
    const __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));

    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}
static inline float v_sum(v16 x) { return _mm512_reduce_add_ps(x); }
/* Sums of four, all in one order. */
static inline void v_sum4(float *out, const v16 x[4])
{
    __m256 s[4];

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        s[i] = _mm256_add_ps(_mm512_castps512_ps256(x[i]), _mm512_extractf32x8_ps(x[i], 1));
    const __m256 a = _mm256_add_ps(_mm256_permute2f128_ps(s[0], s[1], 0x20),
                                   _mm256_permute2f128_ps(s[0], s[1], 0x31));
    const __m256 b = _mm256_add_ps(_mm256_permute2f128_ps(s[2], s[3], 0x20),
                                   _mm256_permute2f128_ps(s[2], s[3], 0x31));
    const __m256 c = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 d = _mm256_add_ps(c, _mm256_permute_ps(c, 0xEE));

    _mm_storeu_ps(out, _mm_unpacklo_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1)));
}
static inline float v_hmax(v16 x) { return _mm512_reduce_max_ps(x); }
static inline int v_to_i8(int8_t *p, v16 x)
{
    const __m512i w = _mm512_cvtps_epi32(x);

    _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(w));
    return _mm512_reduce_add_epi32(w);
}

/* rows and tokens whose sums fit the registers */
enum { DOT_R = 4, DOT_S = 4 };

#include "backend/cpu/kern.inc"

/* Exact sums of half h (of all, where halves share scales) of group p with q of S tokens, whose
 * sums of q are n. */
INLINE void sums(__m512i sum[8], const struct group *p, const int h, const int8_t *const q[8],
                 const int32_t n[8], const enum codes kind, const int S)
{
    const int steps = kind == CODES_HALVES ? 4 : 8;

#pragma GCC unroll 8
    for (int t = 0; t < S; t++)
        sum[t] = _mm512_set1_epi32(-code_centre(kind) * n[t]);
#pragma GCC unroll 8
    for (int c = h * steps; c < (h + 1) * steps; c++) {
        const __m512i w = _mm512_loadu_si512(p->code[c]);

#pragma GCC unroll 8
        for (int t = 0; t < S; t++) {
            int32_t x;

            memcpy(&x, q[t] + 4 * c, 4);
            sum[t] = _mm512_dpbusd_epi32(sum[t], w, _mm512_set1_epi32(x));
        }
    }
}

/* S tokens, known to the compiler: S integer sums and S float sums live in registers, and every
 * line of codes is loaded once for all of them. */
INLINE void tile(float *acc, const struct group *p, size_t ng, const struct q8 *x, size_t g0,
                 size_t t0, const enum codes kind, const int S)
{
    const bool halves = kind == CODES_HALVES;
    const size_t G = x->K / GROUP;
    __m512 a[8];

#pragma GCC unroll 8
    for (int t = 0; t < S; t++)
        a[t] = _mm512_loadu_ps(acc + LANES * t);
    for (size_t g = 0; g < ng; g++) {
        const size_t at = t0 * G + g0 + g;
        const int8_t *q[8];
        int32_t n[8];

#pragma GCC unroll 8
        for (int t = 0; t < S; t++) {
            q[t] = x->q + (at + (size_t)t * G) * GROUP;
            n[t] = x->n[at + (size_t)t * G];
        }
        for (int h = 0; h < (halves ? 2 : 1); h++) {
            const __m512 dw = _mm512_loadu_ps(p[g].d[h]), mw = _mm512_loadu_ps(p[g].m[h]);
            __m512i sum[8];

            sums(sum, p + g, h, q, n, kind, S);
#pragma GCC unroll 8
            for (int t = 0; t < S; t++) {
                const size_t i = at + (size_t)t * G;
                const float s = halves ? x->h[2 * i + (size_t)h] : x->s[i];

                a[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]),
                                       _mm512_mul_ps(dw, _mm512_set1_ps(x->d[i])), a[t]);
                a[t] = _mm512_fmadd_ps(mw, _mm512_set1_ps(s), a[t]);
            }
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < S; t++)
        _mm512_storeu_ps(acc + LANES * t, a[t]);
}

/* Remainders of one group of S tokens: at[t] is where theirs are, in x->d and the like. */
INLINE void rest_tile(float *rest, const struct group *p, const struct q8 *x, const size_t *at,
                      size_t t0, const enum codes kind, const int S)
{
    const size_t G = x->K / GROUP;
    const int8_t *q[8];
    int32_t n[8];

    for (int t = 0; t < S; t++) {
        q[t] = x->r + at[t] * GROUP;
        n[t] = x->nr[at[t]];
    }
    for (int h = 0; h < (kind == CODES_HALVES ? 2 : 1); h++) {
        __m512i sum[8];

        sums(sum, p, h, q, n, kind, S);
#pragma GCC unroll 8
        for (int t = 0; t < S; t++) {
            const __m512 by = _mm512_mul_ps(_mm512_loadu_ps(p->d[h]), _mm512_set1_ps(x->e[at[t]]));
            float *y = rest + LANES * (at[t] / G - t0);

            _mm512_storeu_ps(y,
                             _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), by, _mm512_loadu_ps(y)));
        }
    }
}

INLINE void dot_any(float *acc, float *rest, const struct group *p, size_t ng, const struct q8 *x,
                    size_t g0, size_t t0, size_t T, const enum codes kind)
{
    for (size_t t = 0; t < T;) {
        float *at = acc + LANES * t;

        if (T - t >= 8) {
            tile(at, p, ng, x, g0, t0 + t, kind, 8);
            t += 8;
        } else if (T - t >= 4) {
            tile(at, p, ng, x, g0, t0 + t, kind, 4);
            t += 4;
        } else {
            tile(at, p, ng, x, g0, t0 + t, kind, 1);
            t += 1;
        }
    }
    for (size_t g = 0; g < ng; g++) {
        const uint8_t *flag = x->more + (g0 + g) * x->T;
        size_t at[8], n = 0;

        for (size_t t = t0; t < t0 + T; t += 64) {
            uint64_t mask = more_mask(flag + t, t0 + T - t < 64 ? t0 + T - t : 64);

            for (; mask; mask &= mask - 1) {
                at[n++] = (t + (size_t)__builtin_ctzll(mask)) * (x->K / GROUP) + g0 + g;
                if (n == 8) {
                    rest_tile(rest, p + g, x, at, t0, kind, 8);
                    n = 0;
                }
            }
        }
        for (size_t i = 0; i < n; i++)
            rest_tile(rest, p + g, x, at + i, t0, kind, 1);
    }
}

#define DOT(name, kind)                                                                            \
    static void name(float *acc, float *rest, const struct group *p, size_t ng,                    \
                     const struct q8 *x, size_t g0, size_t t0, size_t T)                           \
    {                                                                                              \
        dot_any(acc, rest, p, ng, x, g0, t0, T, kind);                                             \
    }
DOT(dot_8, CODES_8)
DOT(dot_5, CODES_5)
DOT(dot_4, CODES_4)
DOT(dot_halves, CODES_HALVES)

#include "backend/cpu/transpose_avx512.inc"

/* The four bytes at `off` of every row. */
static inline __m512i words(const struct rows16 *w, size_t off)
{
    int32_t t[LANES];

#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
        memcpy(&t[r], w->at[r] + off, 4);
    return _mm512_loadu_si512(t);
}

static inline __m512 low_half(__m512i w)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(w));
}

/* d * code + m of 4-bit codes, told from their centre */
static inline void centred(struct group *p, __m512 d, __m512 m)
{
    _mm512_storeu_ps(p->d[0], d);
    _mm512_storeu_ps(p->m[0],
                     _mm512_fmadd_ps(d, _mm512_set1_ps((float)code_centre(CODES_4)), m));
}

static inline void nibbles(struct group *p, const struct rows16 *w, size_t off)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i b[4];

    transpose(b, w, off);
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        _mm512_storeu_si512(p->code[c], _mm512_and_si512(b[c], low));
        _mm512_storeu_si512(p->code[c + 4], _mm512_and_si512(_mm512_srli_epi16(b[c], 4), low));
    }
}

static void unpack_q4_0(struct group *p, const struct rows16 *w, size_t g0, size_t ng)
{
    for (size_t g = 0; g < ng; g++) {
        const size_t off = (g0 + g) * 18;
        const __m512 d = low_half(words(w, off));

        nibbles(p + g, w, off + 2);
        _mm512_storeu_ps(p[g].d[0], d);
        _mm512_storeu_ps(p[g].m[0], _mm512_setzero_ps());
    }
}

static void unpack_q4_1(struct group *p, const struct rows16 *w, size_t g0, size_t ng)
{
    for (size_t g = 0; g < ng; g++) {
        const size_t off = (g0 + g) * 20;
        const __m512i dm = words(w, off);

        nibbles(p + g, w, off + 4);
        centred(p + g, low_half(dm), low_half(_mm512_srli_epi32(dm, 16)));
    }
}

static void unpack_q8_0(struct group *p, const struct rows16 *w, size_t g0, size_t ng)
{
    const __m512i flip = _mm512_set1_epi8(-128);

    for (size_t g = 0; g < ng; g++) {
        const size_t off = (g0 + g) * 34;
        const __m512 d = low_half(words(w, off));
        __m512i b[4];

#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            transpose(b, w, off + 2 + 16 * (size_t)h);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++)
                _mm512_storeu_si512(p[g].code[4 * h + c], _mm512_xor_si512(b[c], flip));
        }
        _mm512_storeu_ps(p[g].d[0], d);
        _mm512_storeu_ps(p[g].m[0], _mm512_mul_ps(d, _mm512_set1_ps(-128)));
    }
}

/* Scale and minimum of sub-block j for sixteen rows. The twelve bytes of every row are
 * unpacked one row at a time: they are a fortieth of the data. */
static inline void k_scales(struct group *p, const struct rows16 *w, size_t off, int j)
{
    const __m512i dm = words(w, off);
    int32_t scale[LANES], min[LANES];

    for (int r = 0; r < LANES; r++) {
        unsigned s, m;

        k_scales_get(w->at[r] + off + 4, j, &s, &m);
        scale[r] = (int32_t)s;
        min[r] = (int32_t)m;
    }
    const __m512 m = _mm512_mul_ps(low_half(_mm512_srli_epi32(dm, 16)),
                                   _mm512_cvtepi32_ps(_mm512_loadu_si512(min)));

    centred(p, _mm512_mul_ps(low_half(dm), _mm512_cvtepi32_ps(_mm512_loadu_si512(scale))),
            _mm512_sub_ps(_mm512_set1_ps(-0.0f), m));
}

static void unpack_q4_k(struct group *p, const struct rows16 *w, size_t g0, size_t ng)
{
    const __m512i low = _mm512_set1_epi8(15);

    /* panels start at even groups: the two that share 32 bytes come together */
    for (size_t g = 0; g < ng; g += 2) {
        const size_t off = (g0 + g) / 8 * 144;
        const int j = (int)((g0 + g) % 8);

        for (int h = 0; h < 2; h++) {
            __m512i b[4];

            transpose(b, w, off + 16 + 16 * (size_t)(j + h));
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) {
                _mm512_storeu_si512(p[g].code[4 * h + c], _mm512_and_si512(b[c], low));
                _mm512_storeu_si512(p[g + 1].code[4 * h + c],
                                    _mm512_and_si512(_mm512_srli_epi16(b[c], 4), low));
            }
            k_scales(p + g + (size_t)h, w, off, j + h);
        }
    }
}

/* The four groups of one half of a block share their high bits. */
static void unpack_q6_k(struct group *p, const struct rows16 *w, size_t g0, size_t ng)
{
    const __m512i low = _mm512_set1_epi8(15), high = _mm512_set1_epi8(48);

    /* panels start at multiples of four groups */
    for (size_t g = 0; g < ng; g += 4) {
        const size_t off = (g0 + g) / 8 * 210, half = (g0 + g) % 8 / 4;
        const __m512 d = low_half(_mm512_srli_epi32(words(w, off + 206), 16));

        for (int i = 0; i < 2; i++) {
            __m512i a[4], b[4], qh[4];

            transpose(a, w, off + 64 * half + 16 * (size_t)i);
            transpose(b, w, off + 64 * half + 32 + 16 * (size_t)i);
            transpose(qh, w, off + 128 + 32 * half + 16 * (size_t)i);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) {
                const __m512i lo[4] = {
                    _mm512_and_si512(a[c], low), _mm512_and_si512(b[c], low),
                    _mm512_and_si512(_mm512_srli_epi16(a[c], 4), low),
                    _mm512_and_si512(_mm512_srli_epi16(b[c], 4), low),
                };
                const __m512i hi[4] = {
                    _mm512_slli_epi16(qh[c], 4), _mm512_slli_epi16(qh[c], 2), qh[c],
                    _mm512_srli_epi16(qh[c], 2),
                };

#pragma GCC unroll 4
                for (int k = 0; k < 4; k++)
                    _mm512_storeu_si512(p[g + (size_t)k].code[4 * i + c],
                                        _mm512_or_si512(lo[k], _mm512_and_si512(hi[k], high)));
            }
        }
        for (int k = 0; k < 4; k++) {
            for (int i = 0; i < 2; i++) {
                int32_t sc[LANES];

                for (int r = 0; r < LANES; r++)
                    sc[r] = (int8_t)w->at[r][off + 192 + 8 * half + (size_t)(2 * k + i)];
                const __m512 s = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_loadu_si512(sc)));

                _mm512_storeu_ps(p[g + (size_t)k].d[i], s);
                _mm512_storeu_ps(p[g + (size_t)k].m[i], _mm512_mul_ps(s, _mm512_set1_ps(-32)));
            }
        }
    }
}

void cpu_kern_avx512(struct cpu_kern *k)
{
    fill_floats(k);
    k->dot[CODES_8] = dot_8;
    k->dot[CODES_5] = dot_5;
    k->dot[CODES_4] = dot_4;
    k->dot[CODES_HALVES] = dot_halves;
    k->unpack[ENC_Q4_0] = unpack_q4_0;
    k->unpack[ENC_Q4_1] = unpack_q4_1;
    k->unpack[ENC_Q4_K] = unpack_q4_k;
    k->unpack[ENC_Q6_K] = unpack_q6_k;
    k->unpack[ENC_Q8_0] = unpack_q8_0;
}
