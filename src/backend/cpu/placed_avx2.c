/* placed_avx2.c - weights with planes (AWQ, GPTQ, PACKED) in the order in which kernels take them,
 * made once when a model is placed (placed.c). A unit is sixteen rows, as placed_avx512.c has it:
 * scales (placed_planes.inc), then for each group of 32 inputs, in planes.order,
 *
 *     4 bits  [4][64]   line i holds values 4i .. 4i+3 of every row in its low nibbles, 16 values
 *                       later in the high ones
 *     8 bits  [8][64]   line c holds values 4c .. 4c+3 of every row, less 128
 *
 * so that act-order, whose inputs lie scattered in the file, costs nothing, and a thread reads its
 * units from the first byte to the last. Half a line, the eight rows of a register, meets four
 * inputs at a time. The links are those of kern.h's chain, hence the bits of every other kernel;
 * sums of codes of 4 bits stay within 16 bits for a group (q8_avx2.c). */
#include <immintrin.h>

#include "backend/cpu/kern.h"
#include "backend/cpu/lanes_avx2.inc"
#include "backend/cpu/placed_planes.inc"

enum {
    TILE = 4, /* tokens whose sums of integers live in registers */
    /* bytes that are asked for before their use: of one token in GPTQ's 4 bits 25 GB/s with 256, 18
     * to 19 with 512 to 4096; of 4 tokens and more 65 GMAC/s with 2048, 57 with 256 */
    LEAD = 256,
    LEAD_MANY = 2048,
};

INLINE size_t code_bytes(const enum enc enc)
{
    return enc == PLANES8 ? 512 : 256;
}

INLINE float centre_of(const enum enc enc)
{
    return (float)code_centre(enc == PLANES8 ? CODES_8 : CODES_4);
}

/* Where the codes of a unit begin. */
INLINE size_t codes_at(const struct weight *w, const enum enc enc)
{
    return (w->cols + w->p.group - 1) / w->p.group * scale_bytes(w, enc);
}

/* ---- scales: they stay for `left` groups, and `at` is where the next are ---- */

struct scale {
    __m256 d[2], m[2]; /* of rows 0..7 and 8..15 */
    const uint8_t *at;
    size_t left, skip;
};

/* From group g on. */
INLINE void scales_start(struct scale *s, const uint8_t *u, const struct weight *w, size_t g,
                         const enum enc enc)
{
    const size_t reach = w->p.group / GROUP;

    s->at = u + g / reach * scale_bytes(w, enc);
    s->left = 0;
    s->skip = g % reach;
}

/* Zero points of rows 8i .. 8i+7. */
INLINE __m256 zeros(const uint8_t *z, const int i, const enum enc enc)
{
    const __m256i down = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);

    if (enc == PLANES8)
        return _mm256_cvtepi32_ps(
            _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(z + 8 * i))));
    return _mm256_cvtepi32_ps(
        _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int)enc_load32(z + 4 * i)), down),
                         _mm256_set1_epi32(15)));
}

INLINE void next_scales(struct scale *s, const struct weight *w, const enum enc enc)
{
    const struct planes *o = &w->p;
    const size_t bytes = enc_table[o->scale_enc].bytes;
    const uint8_t *z = s->at + LANES * bytes;

#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const uint8_t *p = s->at + 8 * bytes * (size_t)i;
        __m256 d;

        if (o->scale_enc == ENC_F32)
            d = _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)p));
        else if (o->scale_enc == ENC_F16)
            d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
        else
            d = _mm256_castsi256_ps(
                _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
        s->d[i] = _mm256_mul_ps(d, _mm256_set1_ps(o->scale_by));
        s->m[i] =
            !o->zero
                ? _mm256_setzero_ps()
                : _mm256_mul_ps(_mm256_sub_ps(_mm256_set1_ps(centre_of(enc)), zeros(z, i, enc)),
                                s->d[i]);
    }
    s->at = z + zero_bytes(w, enc);
    s->left = o->group / GROUP - s->skip;
    s->skip = 0;
}

INLINE void scales(struct scale *s, const struct weight *w, const enum enc enc)
{
    if (s->left == 0)
        next_scales(s, w, enc);
    s->left--;
}

/* ---- a unit times a tile of tokens ---- */

INLINE __m256i load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE void store(uint8_t *p, __m256i v)
{
    _mm256_storeu_si256((__m256i *)p, v);
}

/* total[t][i] = the codes at p, of rows 8i .. 8i+7, told from their centre, times 32 inputs of
 * token t at q + t * K; n[t] = -sum(q) */
INLINE void sums4(__m256i total[TILE][2], const uint8_t *p, const int8_t *q, size_t K,
                  const int32_t *n, const int S)
{
    __m256i sum[TILE][2];

#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
        sum[t][0] = sum[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m256i v[2] = { load(p + 64 * c), load(p + 64 * c + 32) };

#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
            const int8_t *x = q + (size_t)t * K + 4 * c;

#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                const __m256i l = _mm256_maddubs_epi16(low4(v[i]), four(x));
                const __m256i h = _mm256_maddubs_epi16(high4(v[i]), four(x + 16));

                sum[t][i] = _mm256_add_epi16(_mm256_add_epi16(sum[t][i], l), h);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++)
            total[t][i] =
                _mm256_add_epi32(wide(sum[t][i]), _mm256_set1_epi32(n[t] * code_centre(CODES_4)));
}

/* The same of codes of 8 bits, as sizes times inputs that take their signs. */
INLINE void sums8(__m256i total[TILE][2], const uint8_t *p, const int8_t *q, size_t K, const int S)
{
#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
        total[t][0] = total[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int c = 0; c < 8; c++) {
        const __m256i v[2] = { load(p + 64 * c), load(p + 64 * c + 32) };
        const __m256i size[2] = { _mm256_abs_epi8(v[0]), _mm256_abs_epi8(v[1]) };

#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
            const __m256i x = four(q + (size_t)t * K + 4 * c);

#pragma GCC unroll 2
            for (int i = 0; i < 2; i++)
                total[t][i] = _mm256_add_epi32(
                    total[t][i], wide(_mm256_maddubs_epi16(size[i], _mm256_sign_epi8(x, v[i]))));
        }
    }
}

INLINE void sums(__m256i total[TILE][2], const uint8_t *p, const int8_t *q, size_t K,
                 const int32_t *n, const enum enc enc, const int S)
{
    if (enc == PLANES8)
        sums8(total, p, q, K, S);
    else
        sums4(total, p, q, K, n, S);
}

/* The remainder of group g of token t onto rest[16]. */
INLINE void left_over(float *rest, const uint8_t *p, const struct scale *s, const struct q8 *x,
                      size_t g, size_t t, const enum enc enc)
{
    const size_t at = g * x->T + t;
    __m256i total[TILE][2];

    sums(total, p, x->r + t * x->K + g * GROUP, 0, x->nr + at, enc, 1);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m256 d = _mm256_mul_ps(s->d[i], _mm256_set1_ps(x->e[at]));

        _mm256_storeu_ps(rest + 8 * i, _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[0][i]), d,
                                                       _mm256_loadu_ps(rest + 8 * i)));
    }
}

/* S tokens from t0 on, known to the compiler: acc[S][16] = the unit times them. */
INLINE void tile(float *acc, const uint8_t *u, const struct weight *w, const struct q8 *x,
                 size_t t0, const enum enc enc, const int S)
{
    const size_t G = x->K / GROUP, codes = codes_at(w, enc);
    const int8_t *q = x->q + t0 * x->K;
    const uint8_t *p = u + codes;
    const size_t lead = S > (enc == PLANES8 ? 1 : 2) ? LEAD_MANY : LEAD;
    float rest[TILE][LANES] = { 0 };
    __m256 a[TILE][2];
    struct scale s;

    scales_start(&s, u, w, 0, enc);
    for (size_t i = 0; i < codes; i += 64)
        _mm_prefetch((const char *)u + i, _MM_HINT_T0);
#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
        a[t][0] = a[t][1] = _mm256_setzero_ps();
    for (size_t g = 0; g < G; g++, q += GROUP, p += code_bytes(enc)) {
        const size_t at = g * x->T + t0;
        uint32_t more = 0;
        __m256i total[TILE][2];

        for (size_t i = 0; i < code_bytes(enc); i += 64)
            _mm_prefetch((const char *)p + lead + i, _MM_HINT_T0);
        scales(&s, w, enc);
        sums(total, p, q, x->K, x->n + at, enc, S);
#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                const __m256 d = _mm256_mul_ps(s.d[i], _mm256_set1_ps(x->d[at + (size_t)t]));

                a[t][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[t][i]), d, a[t][i]);
                a[t][i] = _mm256_fmadd_ps(s.m[i], _mm256_set1_ps(x->s[at + (size_t)t]), a[t][i]);
            }
        }
        memcpy(&more, x->more + at, (size_t)S);
        for (; __builtin_expect(more != 0, 0); more &= more - 1) {
            const size_t t = (size_t)__builtin_ctz(more) / 8;

            left_over(rest[t], p, &s, x, g, t0 + t, enc);
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++)
            _mm256_storeu_ps(acc + LANES * t + 8 * i,
                             _mm256_add_ps(a[t][i], _mm256_loadu_ps(rest[t] + 8 * i)));
}

INLINE void dot(float *acc, const uint8_t *u, const struct weight *w, const struct q8 *x, size_t t0,
                size_t T, const enum enc enc)
{
    /* tiles as even as can be: 5 tokens are 3 + 2 */
    for (size_t t = 0, tiles = (T + TILE - 1) / TILE, S; t < T; t += S, tiles--) {
        S = (T - t + tiles - 1) / tiles;
        switch (S) {
#define CASE(S)                                                                                    \
    case S:                                                                                        \
        tile(acc + LANES * t, u, w, x, t0 + t, enc, S);                                            \
        break
            CASE(1);
            CASE(2);
            CASE(3);
            CASE(4);
#undef CASE
        }
    }
}

/* ---- between units and panels ---- */

/* 128 more or less */
INLINE __m256i flipped(__m256i codes)
{
    return _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
}

/* Groups g0 .. g0+ng as panels hold them. */
INLINE void unpack(struct group *p, const uint8_t *u, const struct weight *w, size_t g0, size_t ng,
                   const enum enc enc)
{
    const uint8_t *from = u + codes_at(w, enc) + g0 * code_bytes(enc);
    struct scale s;

    scales_start(&s, u, w, g0, enc);
    for (size_t g = 0; g < ng; g++, p++, from += code_bytes(enc)) {
        scales(&s, w, enc);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            _mm256_storeu_ps(p->d[0] + 8 * i, s.d[i]);
            _mm256_storeu_ps(p->m[0] + 8 * i, s.m[i]);
        }
        for (size_t i = 0; i < code_bytes(enc); i += 32) {
            const __m256i v = load(from + i);
            uint8_t *to = (uint8_t *)p->code + i;

            if (enc == PLANES8) {
                store(to, flipped(v));
            } else {
                store(to, low4(v));
                store(to + 256, high4(v));
            }
        }
    }
}

INLINE void pack(uint8_t *u, const struct group *p, const struct weight *w, size_t r0, size_t g0,
                 size_t ng, const enum enc enc)
{
    uint8_t *to = u + codes_at(w, enc) + g0 * code_bytes(enc);

    if (g0 == 0)
        pack_scales(u, w, r0, enc);
    for (size_t g = 0; g < ng; g++, p++, to += code_bytes(enc)) {
        for (size_t i = 0; i < code_bytes(enc); i += 32) {
            const uint8_t *from = (const uint8_t *)p->code + i;
            const __m256i v = load(from);

            if (enc == PLANES8)
                store(to + i, flipped(v));
            else
                store(to + i, _mm256_or_si256(v, _mm256_slli_epi16(load(from + 256), 4)));
        }
    }
}

#define PACK(name, enc)                                                                            \
    static void pack_##name(uint8_t *u, const struct group *p, const struct weight *w, size_t r0,  \
                            size_t g0, size_t ng)                                                  \
    {                                                                                              \
        pack(u, p, w, r0, g0, ng, enc);                                                            \
    }
PACK(planes4, PLANES4)
PACK(planes8, PLANES8)
PLACED(planes4, PLANES4)
PLACED(planes8, PLANES8)

void cpu_kern_placed_avx2(struct cpu_kern *k)
{
    FILL_PLANES(k, SIZE_MAX);
}
