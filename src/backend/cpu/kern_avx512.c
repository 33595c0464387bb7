#include <immintrin.h>

#include "backend/cpu/kern.h"

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
static inline v16 v_load_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline float v_one_f16(const uint8_t p[2])
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(p[0] | p[1] << 8)));
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
/* attention: vectors of four slots, slots and vectors of a value whose sums do */
enum { ATTN_QUADS = 2, ATTN_SLOTS = 8, ATTN_VECTORS = 4 };

/* The four-lanes of four vectors as columns: lane r of x[d] is what lane d of x[r] was. */
static inline void v_turn4(v16 x[4])
{
    const v16 a = _mm512_shuffle_f32x4(x[0], x[1], 0x44),
              b = _mm512_shuffle_f32x4(x[0], x[1], 0xEE);
    const v16 c = _mm512_shuffle_f32x4(x[2], x[3], 0x44),
              d = _mm512_shuffle_f32x4(x[2], x[3], 0xEE);

    x[0] = _mm512_shuffle_f32x4(a, c, 0x88);
    x[1] = _mm512_shuffle_f32x4(a, c, 0xDD);
    x[2] = _mm512_shuffle_f32x4(b, d, 0x88);
    x[3] = _mm512_shuffle_f32x4(b, d, 0xDD);
}
/* The same of four rows of the cache, `apart` bytes from one another: as 16 bits, where shuffles
 * are half as many, and as bytes, times d. */
static inline void turn4_16(__m256i x[4], const uint8_t *p, size_t apart)
{
    __m256i r[4];

#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        r[i] = _mm256_loadu_si256((const __m256i *)(p + i * apart));
    const __m256i a = _mm256_unpacklo_epi64(r[0], r[1]), b = _mm256_unpackhi_epi64(r[0], r[1]);
    const __m256i c = _mm256_unpacklo_epi64(r[2], r[3]), d = _mm256_unpackhi_epi64(r[2], r[3]);

    x[0] = _mm256_permute2x128_si256(a, c, 0x20);
    x[1] = _mm256_permute2x128_si256(b, d, 0x20);
    x[2] = _mm256_permute2x128_si256(a, c, 0x31);
    x[3] = _mm256_permute2x128_si256(b, d, 0x31);
}
static inline void v_turn4_f16(v16 x[4], const uint8_t *p, size_t apart)
{
    __m256i h[4];

    turn4_16(h, p, apart);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        x[i] = _mm512_cvtph_ps(h[i]);
}
static inline void v_turn4_bf16(v16 x[4], const uint8_t *p, size_t apart)
{
    __m256i h[4];

    turn4_16(h, p, apart);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        x[i] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h[i]), 16));
}
static inline void v_turn4_i8(v16 x[4], const int8_t *p, size_t apart, const float d[4])
{
    const __m512i lanes = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    const __m512 by = _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(_mm_loadu_ps(d)));
    __m128i r[4];

#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        r[i] = _mm_loadu_si128((const __m128i *)(p + i * apart));
    const __m128i a = _mm_unpacklo_epi32(r[0], r[1]), b = _mm_unpackhi_epi32(r[0], r[1]);
    const __m128i c = _mm_unpacklo_epi32(r[2], r[3]), e = _mm_unpackhi_epi32(r[2], r[3]);
    const __m128i q[4] = { _mm_unpacklo_epi64(a, c), _mm_unpackhi_epi64(a, c),
                           _mm_unpacklo_epi64(b, e), _mm_unpackhi_epi64(b, e) };

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        x[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q[i])), by);
}
/* in a register: two multiply-adds that each load it would need a load each cycle */
static inline v16 v_held(v16 x)
{
    __asm__("" : "+v"(x));
    return x;
}
/* four-lanes 2 3 0 1, and 1 0 3 2 */
static inline v16 v_far(v16 x)
{
    return _mm512_shuffle_f32x4(x, x, 0x4E);
}
static inline v16 v_near(v16 x)
{
    return _mm512_shuffle_f32x4(x, x, 0xB1);
}
/* element a of four-lane r is the sum of lane r of x[a], (0 + 2) + (1 + 3) */
static inline v16 v_quad_sum(const v16 x[4])
{
    const v16 a = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    const v16 b = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));

    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
}

#include "backend/cpu/kern.inc"

/* 16 by 16 */
static inline void v_transpose(float *y, size_t ys, const float *x, size_t xs)
{
#pragma GCC unroll 4
    for (size_t c = 0; c < 16; c += 4) {
        __m512 a[4];

#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            const float *p = x + i * xs + c;

            a[i] = _mm512_castps128_ps512(_mm_loadu_ps(p));
            a[i] = _mm512_insertf32x4(a[i], _mm_loadu_ps(p + 4 * xs), 1);
            a[i] = _mm512_insertf32x4(a[i], _mm_loadu_ps(p + 8 * xs), 2);
            a[i] = _mm512_insertf32x4(a[i], _mm_loadu_ps(p + 12 * xs), 3);
        }
        const __m512 p = _mm512_unpacklo_ps(a[0], a[1]), q = _mm512_unpacklo_ps(a[2], a[3]);
        const __m512 r = _mm512_unpackhi_ps(a[0], a[1]), s = _mm512_unpackhi_ps(a[2], a[3]);

        v_store(y + c * ys, _mm512_shuffle_ps(p, q, 0x44));
        v_store(y + (c + 1) * ys, _mm512_shuffle_ps(p, q, 0xEE));
        v_store(y + (c + 2) * ys, _mm512_shuffle_ps(r, s, 0x44));
        v_store(y + (c + 3) * ys, _mm512_shuffle_ps(r, s, 0xEE));
    }
}

enum { GEMM_R = 12, GEMM_FEW = 4 };

#include "backend/cpu/train.inc"

/* What sixteen take lies in one line almost always: at grows by 0 or 1. */
static inline v16 v_pick(const float *x, const int32_t *at, int32_t first, bool down)
{
    const int32_t low = at[down ? -15 : 0], high = at[down ? 0 : 15];
    __m512i i = _mm512_sub_epi32(_mm512_loadu_si512(down ? at - 15 : at), _mm512_set1_epi32(low));

    if (down)
        i = _mm512_permutexvar_epi32(
            _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), i);
    x += low - first;
    return high - low < 16 ? _mm512_permutexvar_ps(i, v_load(x)) : _mm512_i32gather_ps(i, x, 4);
}

#include "backend/cpu/encoder.inc"

/* S tokens and P panels, known to the compiler: S * P integer sums and as many float sums live in
 * registers. Three tokens by two panels fetch less than one line for each multiply-add, and what
 * comes after them, two more multiplications a sum, still fits into the window of instructions
 * that Zen 4 has in flight: 60 cycles for 48 multiply-adds; six tokens took 145 for 96. */
enum { TOKENS = 3 };

/* -centre * sum(q) of S tokens, of half h or of all; n and n0 as in struct q8 */
INLINE void start(__m512i sum[PANELS][TOKENS], const int32_t *n, const int32_t *n0, const int h,
                  const enum codes kind, const int P, const int S)
{
    const int shift = __builtin_ctz((unsigned)code_centre(kind));

#pragma GCC unroll 3
    for (int t = 0; t < S; t++) {
        __m512i of = _mm512_set1_epi32(kind == CODES_HALVES && h == 0 ? n0[t] : n[t]);

        if (kind == CODES_HALVES && h == 1)
            of = _mm512_sub_epi32(of, _mm512_set1_epi32(n0[t]));
        of = _mm512_slli_epi32(of, (unsigned)shift);
#pragma GCC unroll 2
        for (int i = 0; i < P; i++)
            sum[i][t] = of;
    }
}

/* sum += w . four bytes of q for one panel or two. In assembly to stay in this order: of the
 * intrinsics GCC 12 makes one chain after the other, with every broadcast spilled. */
INLINE void four(__m512i *sum, __m512i *sum2, __m512i w, __m512i w2, const int8_t *q, const int P)
{
    __m512i b;

    if (P == 2)
        __asm__ volatile("vpbroadcastd %3, %2\n\t"
                         "vpdpbusd %2, %4, %0\n\t"
                         "vpdpbusd %2, %5, %1"
                         : "+v"(*sum), "+v"(*sum2), "=&v"(b)
                         : "m"(*(const int8_t(*)[4])q), "v"(w), "v"(w2));
    else
        __asm__ volatile("vpdpbusd %1%{1to16%}, %2, %0"
                         : "+v"(*sum)
                         : "m"(*(const int8_t(*)[4])q), "v"(w));
}

/* adds code * q of half h (of all, where halves share scales); q of token t is at q[t] */
INLINE void sums(__m512i sum[PANELS][TOKENS], const struct group *p, const int h,
                 const int8_t *const q[TOKENS], const enum codes kind, const int P, const int S)
{
    const int steps = kind == CODES_HALVES ? 4 : 8;

#pragma GCC unroll 8
    for (int c = h * steps; c < (h + 1) * steps; c++) {
        __m512i w[PANELS];

#pragma GCC unroll 2
        for (int i = 0; i < P; i++)
            w[i] = _mm512_loadu_si512(p[i * CHUNK].code[c]);
#pragma GCC unroll 3
        for (int t = 0; t < S; t++)
            four(&sum[0][t], &sum[P - 1][t], w[0], w[P - 1], q[t] + 4 * c, P);
    }
}

INLINE void tile(float *acc, size_t apart, const struct group *p, size_t ng, const struct q8 *x,
                 size_t g0, size_t t0, const enum codes kind, const bool offset, const int P,
                 const int S)
{
    const int8_t *q[TOKENS];
    size_t at = g0 * x->T + t0;
    __m512 a[PANELS][TOKENS];

#pragma GCC unroll 3
    for (int t = 0; t < S; t++) {
        q[t] = x->q + (t0 + (size_t)t) * x->K + g0 * GROUP;
#pragma GCC unroll 2
        for (int i = 0; i < P; i++)
            a[i][t] = _mm512_loadu_ps(acc + (size_t)i * apart + LANES * t);
    }
    for (size_t g = 0; g < ng; g++, at += x->T) {
        for (int h = 0; h < (kind == CODES_HALVES ? 2 : 1); h++) {
            __m512i sum[PANELS][TOKENS];

            start(sum, x->n + at, x->n0 + at, h, kind, P, S);
            sums(sum, p + g, h, q, kind, P, S);
#pragma GCC unroll 2
            for (int i = 0; i < P; i++) {
                const struct group *of = p + i * CHUNK + g;
                const __m512 dw = _mm512_loadu_ps(of->d[h]);
                const __m512 mw = offset ? _mm512_loadu_ps(of->m[h]) : dw;

#pragma GCC unroll 3
                for (int t = 0; t < S; t++) {
                    const __m512 d = _mm512_mul_ps(dw, _mm512_set1_ps(x->d[at + (size_t)t]));

                    a[i][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][t]), d, a[i][t]);
                    if (offset)
                        a[i][t] =
                            _mm512_fmadd_ps(mw, _mm512_set1_ps(x->s[at + (size_t)t]), a[i][t]);
                }
            }
        }
        /* rows lie far apart, so that nothing but this fetches those of the next tile */
#pragma GCC unroll 3
        for (int t = 0; t < S; t++) {
            if (g % 2 == 0)
                _mm_prefetch((const char *)(q[t] + (size_t)S * x->K), _MM_HINT_T0);
            q[t] += GROUP;
        }
    }
#pragma GCC unroll 3
    for (int t = 0; t < S; t++)
#pragma GCC unroll 2
        for (int i = 0; i < P; i++)
            _mm512_storeu_ps(acc + (size_t)i * apart + LANES * t, a[i][t]);
}

/* The remainder of group g of token t; its sums are at rest. */
INLINE void left_over(float *rest, size_t apart, const struct group *p, const struct q8 *x,
                      size_t g, size_t t, const enum codes kind, const int P)
{
    const size_t at = g * x->T + t;
    const int8_t *const q[TOKENS] = { x->r + t * x->K + g * GROUP };

    for (int h = 0; h < (kind == CODES_HALVES ? 2 : 1); h++) {
        __m512i sum[PANELS][TOKENS];

        start(sum, x->nr + at, x->nr0 + at, h, kind, P, 1);
        sums(sum, p, h, q, kind, P, 1);
#pragma GCC unroll 2
        for (int i = 0; i < P; i++) {
            const __m512 by =
                _mm512_mul_ps(_mm512_loadu_ps(p[i * CHUNK].d[h]), _mm512_set1_ps(x->e[at]));
            float *y = rest + (size_t)i * apart;

            _mm512_storeu_ps(
                y, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][0]), by, _mm512_loadu_ps(y)));
        }
    }
}

INLINE void dot_any(float *acc, float *rest, const struct group *p, size_t ng, const struct q8 *x,
                    size_t g0, size_t t0, size_t T, const enum codes kind, const bool offset,
                    const int P)
{
    const size_t apart = T * LANES;

    /* tiles as even as can be: 7 tokens are 3 + 2 + 2 */
    for (size_t t = 0, tiles = (T + TOKENS - 1) / TOKENS, S; t < T; t += S, tiles--) {
        float *to = acc + LANES * t;

        S = (T - t + tiles - 1) / tiles;
        switch (S) {
#define TILE(S)                                                                                    \
    case S:                                                                                        \
        tile(to, apart, p, ng, x, g0, t0 + t, kind, offset, P, S);                                 \
        break
            TILE(1);
            TILE(2);
            TILE(3);
#undef TILE
        }
    }
    for (size_t g = 0; g < ng; g++) {
        struct more_walk m = more_of(x, g0 + g, t0, T);

        for (size_t t; more_next(&m, &t);)
            left_over(rest + LANES * (t - t0), apart, p + g, x, g0 + g, t, kind, P);
    }
}

#define DOT(name, kind, offset)                                                                    \
    static void name(float *acc, float *rest, const struct group *p, size_t P, size_t ng,          \
                     const struct q8 *x, size_t g0, size_t t0, size_t T)                           \
    {                                                                                              \
        if (P == 2)                                                                                \
            dot_any(acc, rest, p, ng, x, g0, t0, T, kind, offset, 2);                              \
        else                                                                                       \
            dot_any(acc, rest, p, ng, x, g0, t0, T, kind, offset, 1);                              \
    }
DOT(dot_8, CODES_8, false)
DOT(dot_8m, CODES_8, true)
DOT(dot_5, CODES_5, false)
DOT(dot_5m, CODES_5, true)
DOT(dot_4, CODES_4, false)
DOT(dot_4m, CODES_4, true)
DOT(dot_halves, CODES_HALVES, false)

#include "backend/cpu/transpose_avx512.inc"

/* What is read later lies together in the file: as many bytes of it as sixteen rows have in
 * off .. off+n. */
INLINE void fetch(const struct rows16 *w, size_t off, size_t n)
{
    for (size_t i = 0; i < LANES * n; i += 64)
        _mm_prefetch((const char *)(w->next[0] + LANES * off + i), _MM_HINT_T1);
}

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
    _mm512_storeu_ps(p->m[0], _mm512_fmadd_ps(d, _mm512_set1_ps((float)code_centre(CODES_4)), m));
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

        fetch(w, off, 18);
        nibbles(p + g, w, off + 2);
        _mm512_storeu_ps(p[g].d[0], d);
    }
}

static void unpack_q4_1(struct group *p, const struct rows16 *w, size_t g0, size_t ng)
{
    for (size_t g = 0; g < ng; g++) {
        const size_t off = (g0 + g) * 20;
        const __m512i dm = words(w, off);

        fetch(w, off, 20);
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

        fetch(w, off, 34);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            transpose(b, w, off + 2 + 16 * (size_t)h);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++)
                _mm512_storeu_si512(p[g].code[4 * h + c], _mm512_xor_si512(b[c], flip));
        }
        _mm512_storeu_ps(p[g].d[0], d);
    }
}

/* The scales of a block of Q4_K for sixteen rows: byte j % 4 of s[j / 4] and n[j / 4] is scale and
 * minimum of sub-block j (k_scales.h). */
struct k_block {
    __m512 d, m;
    __m512i s[2], n[2];
};

INLINE void k_block(struct k_block *b, const struct rows16 *w, size_t off)
{
    const __m512i six = _mm512_set1_epi8(63), low = _mm512_set1_epi8(15);
    const __m512i top = _mm512_set1_epi8(48);
    __m512i h[4];

    /* the block's first 16 bytes: two f16, then the twelve of the scales */
    transpose(h, w, off);
    b->d = low_half(h[0]);
    b->m = _mm512_sub_ps(_mm512_set1_ps(-0.0f), low_half(_mm512_srli_epi32(h[0], 16)));
    b->s[0] = _mm512_and_si512(h[1], six);
    b->n[0] = _mm512_and_si512(h[2], six);
    b->s[1] = _mm512_or_si512(_mm512_and_si512(h[3], low),
                              _mm512_and_si512(_mm512_srli_epi16(h[1], 2), top));
    b->n[1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(h[3], 4), low),
                              _mm512_and_si512(_mm512_srli_epi16(h[2], 2), top));
}

/* by times byte j of every word */
INLINE __m512 k_scale(const __m512i bytes[2], const int j, __m512 by)
{
    const __m512i w = _mm512_srli_epi32(bytes[j / 4], (unsigned)(8 * (j % 4)));

    return _mm512_mul_ps(by, _mm512_cvtepi32_ps(_mm512_and_si512(w, _mm512_set1_epi32(255))));
}

static void unpack_q4_k(struct group *p, const struct rows16 *w, size_t g0, size_t ng)
{
    const __m512i low = _mm512_set1_epi8(15);

    /* panels start and end with blocks */
    for (size_t g = 0; g < ng; g += 8) {
        const size_t off = (g0 + g) / 8 * 144;
        struct k_block b;

        fetch(w, off, 144);
        k_block(&b, w, off);
#pragma GCC unroll 4
        for (int j = 0; j < 8; j += 2) { /* two groups share 32 bytes */
            struct group *to = p + g + (size_t)j;

            for (int h = 0; h < 2; h++) {
                __m512i q[4];

                transpose(q, w, off + 16 + 16 * (size_t)(j + h));
#pragma GCC unroll 4
                for (int c = 0; c < 4; c++) {
                    _mm512_storeu_si512(to->code[4 * h + c], _mm512_and_si512(q[c], low));
                    _mm512_storeu_si512(to[1].code[4 * h + c],
                                        _mm512_and_si512(_mm512_srli_epi16(q[c], 4), low));
                }
            }
            centred(to, k_scale(b.s, j, b.d), k_scale(b.n, j, b.m));
            centred(to + 1, k_scale(b.s, j + 1, b.d), k_scale(b.n, j + 1, b.m));
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

        fetch(w, off + 105 * half, 105);
        for (int i = 0; i < 2; i++) {
            __m512i a[4], b[4], qh[4];

            transpose(a, w, off + 64 * half + 16 * (size_t)i);
            transpose(b, w, off + 64 * half + 32 + 16 * (size_t)i);
            transpose(qh, w, off + 128 + 32 * half + 16 * (size_t)i);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) {
                const __m512i lo[4] = {
                    _mm512_and_si512(a[c], low),
                    _mm512_and_si512(b[c], low),
                    _mm512_and_si512(_mm512_srli_epi16(a[c], 4), low),
                    _mm512_and_si512(_mm512_srli_epi16(b[c], 4), low),
                };
                const __m512i hi[4] = {
                    _mm512_slli_epi16(qh[c], 4),
                    _mm512_slli_epi16(qh[c], 2),
                    qh[c],
                    _mm512_srli_epi16(qh[c], 2),
                };

#pragma GCC unroll 4
                for (int k = 0; k < 4; k++)
                    _mm512_storeu_si512(p[g + (size_t)k].code[4 * i + c],
                                        _mm512_or_si512(lo[k], _mm512_and_si512(hi[k], high)));
            }
        }
        const __m512i sc[2] = { words(w, off + 192 + 8 * half), words(w, off + 196 + 8 * half) };

#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                const unsigned left = 24 - 8 * (unsigned)((2 * k + i) % 4);
                const __m512i byte = _mm512_srai_epi32(_mm512_slli_epi32(sc[k / 2], left), 24);

                _mm512_storeu_ps(p[g + (size_t)k].d[i], _mm512_mul_ps(d, _mm512_cvtepi32_ps(byte)));
            }
        }
    }
}

void cpu_kern_avx512(struct cpu_kern *k)
{
    fill_floats(k);
    fill_train(k);
    fill_encoder(k);
    k->dot[CODES_8][0] = dot_8;
    k->dot[CODES_8][1] = dot_8m;
    k->dot[CODES_5][0] = dot_5;
    k->dot[CODES_5][1] = dot_5m;
    k->dot[CODES_4][0] = dot_4;
    k->dot[CODES_4][1] = dot_4m;
    k->dot[CODES_HALVES][0] = dot_halves;
    k->panels = PANELS;
    k->unpack[ENC_Q4_0] = unpack_q4_0;
    k->unpack[ENC_Q4_1] = unpack_q4_1;
    k->unpack[ENC_Q4_K] = unpack_q4_k;
    k->unpack[ENC_Q6_K] = unpack_q6_k;
    k->unpack[ENC_Q8_0] = unpack_q8_0;
}
