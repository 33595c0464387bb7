/* placed_avx2.c - quantised weights in the order in which kernels take them, made once when a model
 * is placed (placed.c). Sixteen rows are a unit, as placed_units.inc says, so that act-order, whose
 * inputs lie scattered in the file, costs nothing, and a thread reads its units from the first byte
 * to the last. Q8_0 stays in the file's order, in which it is as fast as memory.
 *
 * Half a line, the eight rows of a register, meets four inputs at a time. The links are those of
 * kern.h's chain, hence the bits of every other kernel. Products are added in 16 bits as long as
 * they fit (q8_avx2.c): of codes of 4 bits for a group, of 5 for half of one, of 6 for eight
 * values. */
#include <immintrin.h>

#include "backend/cpu/kern.h"
#include "backend/cpu/lanes_avx2.inc"
#include "backend/cpu/placed_units.inc"

enum {
    TILE = 4,      /* tokens whose sums of integers live in registers */
    TILE_MORE = 3, /* the same of codes of 5 and 6 bits, which need two of 16 bits */
    /* bytes that are asked for before their use: of one token in GPTQ's 4 bits 25 GB/s with 256, 18
     * to 19 with 512 to 4096; of 4 tokens and more 65 GMAC/s with 2048, 57 with 256 */
    LEAD = 256,
    LEAD_MANY = 2048,
};

INLINE size_t tile_of(const enum enc enc)
{
    return has_five(enc) || enc == ENC_Q6_K ? TILE_MORE : TILE;
}

/* ---- scales ---- */

INLINE __m256i load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE void store(uint8_t *p, __m256i v)
{
    _mm256_storeu_si256((__m256i *)p, v);
}

/* Of rows 0..7 and 8..15; in Q6_K of both halves of a group. Those of planes stay for `left`
 * groups, and `at` is where the next are. */
struct scale {
    __m256 d[2][2], m[2]; /* d[half][rows] */
    const uint8_t *at;
    size_t left, skip;
};

/* From group g on. */
INLINE void scales_start(struct scale *s, const uint8_t *u, const struct weight *w, size_t g,
                         const enum enc enc)
{
    if (!has_planes(enc))
        return;
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

INLINE __m256 f16s(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE void plane_scales(struct scale *s, const struct weight *w, const enum enc enc)
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
            d = f16s(p);
        else
            d = _mm256_castsi256_ps(
                _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
        s->d[0][i] = _mm256_mul_ps(d, _mm256_set1_ps(o->scale_by));
        s->m[i] =
            !o->zero
                ? _mm256_setzero_ps()
                : _mm256_mul_ps(_mm256_sub_ps(_mm256_set1_ps((float)code_centre(codes_of(enc))),
                                              zeros(z, i, enc)),
                                s->d[0][i]);
    }
    s->at = z + zero_bytes(w, enc);
    s->left = o->group / GROUP - s->skip;
    s->skip = 0;
}

/* by times byte i of every word, signed or not */
INLINE __m256 by_byte(__m256i w, size_t i, __m256 by)
{
    const __m256i byte = _mm256_srl_epi32(w, _mm_cvtsi64_si128((long long)(8 * i)));

    return _mm256_mul_ps(by, _mm256_cvtepi32_ps(_mm256_and_si256(byte, _mm256_set1_epi32(255))));
}
INLINE __m256 by_signed(__m256i w, size_t i, __m256 by)
{
    const __m256i left = _mm256_sll_epi32(w, _mm_cvtsi64_si128((long long)(24 - 8 * i)));

    return _mm256_mul_ps(by, _mm256_cvtepi32_ps(_mm256_srai_epi32(left, 24)));
}

/* The eight groups of b, rows 8i .. 8i+7, as k_scales.h has them. */
INLINE void k_scales(struct scale *s, const uint8_t *b, size_t g, const int i, const float centre)
{
    const __m256i six = _mm256_set1_epi8(63), four = _mm256_set1_epi8(15);
    const __m256i top = _mm256_set1_epi8(48);
    const uint8_t *at = b + 32 * i;
    __m256i d = load(at + 64), m = load(at + 128);

    if (g < 4) {
        d = _mm256_and_si256(d, six);
        m = _mm256_and_si256(m, six);
    } else {
        const __m256i more = load(at + 192);

        d = _mm256_or_si256(_mm256_and_si256(more, four),
                            _mm256_and_si256(_mm256_srli_epi16(d, 2), top));
        m = _mm256_or_si256(high4(more), _mm256_and_si256(_mm256_srli_epi16(m, 2), top));
    }
    const __m256 by = f16s(b + 16 * i);
    const __m256 less = _mm256_xor_ps(_mm256_set1_ps(-0.0f), f16s(b + 32 + 16 * i));

    s->d[0][i] = by_byte(d, g % 4, by);
    s->m[i] = _mm256_fmadd_ps(s->d[0][i], _mm256_set1_ps(centre), by_byte(m, g % 4, less));
}

/* Of group g; planes: of the next one. */
INLINE void scales(struct scale *s, const uint8_t *u, const struct weight *w, size_t g,
                   const enum enc enc)
{
    const float centre = (float)code_centre(codes_of(enc));

    if (has_planes(enc)) {
        if (s->left == 0)
            plane_scales(s, w, enc);
        s->left--;
        return;
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        if (has_k_scales(enc)) {
            k_scales(s, u + 256 * (g / 8), g % 8, i, centre);
        } else if (enc == ENC_Q6_K) {
            const uint8_t *b = u + 288 * (g / 8);
            const __m256i word = load(b + 64 * (g % 8 / 2) + 32 * i);
            const __m256 d = f16s(b + 256 + 16 * i);

            s->d[0][i] = by_signed(word, g % 2 * 2, d);
            s->d[1][i] = by_signed(word, g % 2 * 2 + 1, d);
        } else if (has_offset(enc)) {
            s->d[0][i] = f16s(u + 64 * g + 16 * i);
            s->m[i] =
                _mm256_fmadd_ps(s->d[0][i], _mm256_set1_ps(centre), f16s(u + 64 * g + 32 + 16 * i));
        } else {
            s->d[0][i] = f16s(u + 32 * g + 16 * i);
        }
    }
}

/* ---- a unit times a tile of tokens ---- */

/* Codes of rows 8i .. 8i+7 of the group at p: l[.] values 4c .. 4c+3, h[.] 16 values later. */
INLINE void codes_at(__m256i *l, __m256i *h, const uint8_t *p, const int c, const int i,
                     const enum enc enc)
{
    const __m256i both = load(p + 64 * c + 32 * i);

    *l = low4(both);
    *h = high4(both);
    if (has_five(enc)) {
        const __m256i t = load(p + 256 + 32 * i), one = _mm256_set1_epi8(16);

        *l = _mm256_or_si256(*l, _mm256_and_si256(_mm256_slli_epi16(t, 4 - c), one));
        *h = _mm256_or_si256(*h, _mm256_and_si256(_mm256_srli_epi16(t, c), one));
    }
    if (enc == ENC_Q6_K) {
        const __m256i t = load(p + 256 + 32 * i), v = load(p + 320 + 32 * i);
        const __m256i two = _mm256_set1_epi8(48);

        *l = _mm256_or_si256(
            *l, _mm256_and_si256(c < 3 ? _mm256_slli_epi16(t, 4 - 2 * c) : _mm256_srli_epi16(t, 2),
                                 two));
        *h = _mm256_or_si256(
            *h, _mm256_and_si256(c < 3 ? _mm256_slli_epi16(v, 4 - 2 * c) : _mm256_srli_epi16(v, 2),
                                 two));
    }
}

/* total[half][t][i] = the codes at p, of rows 8i .. 8i+7, told from their centre, times 32 inputs
 * of token t at q + t * K, all in total[0] but in Q6_K; n[t] = -sum(q), n0[t] of the first half */
INLINE void sums_few_bits(__m256i total[2][TILE][2], const uint8_t *p, const int8_t *q, size_t K,
                          const int32_t *n, const int32_t *n0, const enum enc enc, const int S)
{
    const bool one = !has_five(enc) && enc != ENC_Q6_K; /* sum of 16 bits for all */
    __m256i low[TILE][2], high[TILE][2];

#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++)
            low[t][i] = high[t][i] = total[0][t][i] = total[1][t][i] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        __m256i l[2], h[2];

        codes_at(&l[0], &h[0], p, c, 0, enc);
        codes_at(&l[1], &h[1], p, c, 1, enc);
#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
            const int8_t *x = q + (size_t)t * K + 4 * c;

#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                const __m256i a = _mm256_maddubs_epi16(l[i], four(x));
                const __m256i b = _mm256_maddubs_epi16(h[i], four(x + 16));

                low[t][i] = _mm256_add_epi16(low[t][i], a);
                if (one)
                    low[t][i] = _mm256_add_epi16(low[t][i], b);
                else
                    high[t][i] = _mm256_add_epi16(high[t][i], b);
                /* now: or the compiler keeps products for a tree of sums, in memory */
                __asm__("" : "+x"(low[t][i]));
                if (!one)
                    __asm__("" : "+x"(high[t][i]));
                if (enc == ENC_Q6_K && c % 2) {
                    total[0][t][i] = _mm256_add_epi32(total[0][t][i], wide(low[t][i]));
                    total[1][t][i] = _mm256_add_epi32(total[1][t][i], wide(high[t][i]));
                    low[t][i] = high[t][i] = _mm256_setzero_si256();
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < S; t++) {
        const int centre = code_centre(codes_of(enc));
        const __m256i first = _mm256_set1_epi32((enc == ENC_Q6_K ? n0[t] : n[t]) * centre);

#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            if (enc == ENC_Q6_K) {
                total[0][t][i] = _mm256_add_epi32(total[0][t][i], first);
                total[1][t][i] =
                    _mm256_add_epi32(total[1][t][i], _mm256_set1_epi32((n[t] - n0[t]) * centre));
                continue;
            }
            total[0][t][i] = _mm256_add_epi32(wide(low[t][i]), first);
            if (!one)
                total[0][t][i] = _mm256_add_epi32(total[0][t][i], wide(high[t][i]));
        }
    }
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

INLINE void sums(__m256i total[2][TILE][2], const uint8_t *p, const int8_t *q, size_t K,
                 const int32_t *n, const int32_t *n0, const enum enc enc, const int S)
{
    if (enc == PLANES8)
        sums8(total[0], p, q, K, S);
    else
        sums_few_bits(total, p, q, K, n, n0, enc, S);
}

/* The remainder of group g of token t onto rest[16]. */
INLINE void left_over(float *rest, const uint8_t *p, const struct scale *s, const struct q8 *x,
                      size_t g, size_t t, const enum enc enc)
{
    const size_t at = g * x->T + t;
    const int halves = enc == ENC_Q6_K ? 2 : 1;
    __m256i total[2][TILE][2];

    sums(total, p, x->r + t * x->K + g * GROUP, 0, x->nr + at, x->nr0 + at, enc, 1);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m256 y = _mm256_loadu_ps(rest + 8 * i);

        for (int h = 0; h < halves; h++)
            y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[h][0][i]),
                                _mm256_mul_ps(s->d[h][i], _mm256_set1_ps(x->e[at])), y);
        _mm256_storeu_ps(rest + 8 * i, y);
    }
}

/* S tokens from t0 on, known to the compiler: acc[S][16] = the unit times them. */
INLINE void tile(float *acc, const uint8_t *u, const struct weight *w, const struct q8 *x,
                 size_t t0, const enum enc enc, const int S)
{
    const struct layout l = layout_for(w, enc);
    const size_t G = x->K / GROUP;
    const int halves = enc == ENC_Q6_K ? 2 : 1;
    const int8_t *q = x->q + t0 * x->K;
    const uint8_t *p = u + l.codes;
    const size_t lead = S > (enc == PLANES8 ? 1 : 2) ? LEAD_MANY : LEAD;
    float rest[TILE][LANES] = { 0 };
    __m256 a[TILE][2];
    struct scale s;

    scales_start(&s, u, w, 0, enc);
    for (size_t i = 0; i < l.codes; i += 64)
        _mm_prefetch((const char *)u + i, _MM_HINT_T0);
#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
        a[t][0] = a[t][1] = _mm256_setzero_ps();
    for (size_t g = 0; g < G; g++, q += GROUP, p += l.code) {
        const size_t at = g * x->T + t0;
        uint32_t more = 0;
        __m256i total[2][TILE][2];

        for (size_t i = 0; i < l.code; i += 64)
            _mm_prefetch((const char *)p + lead + i, _MM_HINT_T0);
        scales(&s, u, w, g, enc);
        sums(total, p, q, x->K, x->n + at, x->n0 + at, enc, S);
#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
            const __m256 dx = _mm256_set1_ps(x->d[at + (size_t)t]);

#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                for (int h = 0; h < halves; h++)
                    a[t][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[h][t][i]),
                                              _mm256_mul_ps(s.d[h][i], dx), a[t][i]);
                if (has_offset(enc))
                    a[t][i] =
                        _mm256_fmadd_ps(s.m[i], _mm256_set1_ps(x->s[at + (size_t)t]), a[t][i]);
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
    const size_t most = tile_of(enc);

    for (size_t t = 0, tiles = (T + most - 1) / most, S; t < T; t += S, tiles--) {
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
    const struct layout l = layout_for(w, enc);
    const uint8_t *from = u + l.codes + g0 * l.code;
    struct scale s;

    scales_start(&s, u, w, g0, enc);
    for (size_t g = 0; g < ng; g++, p++, from += l.code) {
        scales(&s, u, w, g0 + g, enc);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            _mm256_storeu_ps(p->d[0] + 8 * i, s.d[0][i]);
            if (enc == ENC_Q6_K)
                _mm256_storeu_ps(p->d[1] + 8 * i, s.d[1][i]);
            if (has_offset(enc))
                _mm256_storeu_ps(p->m[0] + 8 * i, s.m[i]);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) {
                __m256i v = load(from + 64 * c + 32 * i), h = v;

                if (enc == PLANES8) {
                    v = flipped(v);
                    h = flipped(load(from + 64 * c + 256 + 32 * i));
                } else {
                    codes_at(&v, &h, from, c, i, enc);
                }
                store(p->code[c] + 32 * i, v);
                store(p->code[c + 4] + 32 * i, h);
            }
        }
    }
}

INLINE void pack_panel(uint8_t *u, const struct group *p, const struct weight *w, size_t r0,
                       size_t g0, size_t ng, const enum enc enc)
{
    const struct layout l = layout_for(w, enc);
    uint8_t *to = u + l.codes + g0 * l.code;

    if (g0 == 0)
        pack_scales(u, w, r0, enc);
    for (size_t g = 0; g < ng; g++, p++, to += l.code) {
        for (size_t i = 0; i < l.code; i += 32) {
            const uint8_t *from = (const uint8_t *)p->code + i;
            const __m256i v = load(from);

            if (enc == PLANES8)
                store(to + i, flipped(v));
            else
                store(to + i, _mm256_or_si256(v, _mm256_slli_epi16(load(from + 256), 4)));
        }
    }
}

/* ---- from the file's order, words of four codes at a time ---- */

INLINE uint32_t word_at(const uint8_t *p)
{
    return enc_load32(p);
}

INLINE void put_word(uint8_t *p, uint32_t w)
{
    memcpy(p, &w, 4);
}

/* low nibbles of a, and of b above them */
INLINE uint32_t nibbles(uint32_t a, uint32_t b)
{
    return (a & 0x0F0F0F0F) | (b & 0x0F0F0F0F) << 4;
}

INLINE void pack_32(uint8_t *u, const struct rows16 *w, size_t G, const enum enc enc)
{
    const struct layout l = layout_of(enc, G);
    const size_t bytes = enc_table[enc].bytes, head = head_of(enc), five = has_five(enc) ? 4 : 0;

    for (size_t g = 0; g < G; g++) {
        uint8_t *scale = u + 16 * head * g, *to = u + l.codes + g * l.code;

        for (size_t r = 0; r < LANES; r++, to += 4) {
            const uint8_t *p = w->at[r] + g * bytes, *q = p + head + five;

            memcpy(scale + 2 * r, p, 2);
            if (head == 4)
                memcpy(scale + 32 + 2 * r, p + 2, 2);
            for (size_t c = 0; c < 4; c++)
                put_word(to + 64 * c, word_at(q + 4 * c));
            for (unsigned k = 0; five && k < 4; k++) /* bits k, 4 + k, .. become byte k */
                to[256 + k] = (uint8_t)_pext_u32(word_at(p + head), 0x11111111u << k);
        }
    }
}

INLINE void pack_k(uint8_t *u, const struct rows16 *w, size_t G, const enum enc enc)
{
    const struct layout l = layout_of(enc, G);
    const size_t codes = enc == ENC_Q5_K ? offsetof(struct q5_k, qs) : offsetof(struct q4_k, qs);

    for (size_t g = 0; g < G; g += 8) {
        uint8_t *scale = u + 256 * (g / 8), *to = u + l.codes + g * l.code;

        for (size_t r = 0; r < LANES; r++, to += 4) {
            const uint8_t *p = w->at[r] + g / 8 * enc_table[enc].bytes, *q = p + codes;

            memcpy(scale + 2 * r, p, 2);
            memcpy(scale + 32 + 2 * r, p + 2, 2);
            for (size_t i = 0; i < 3; i++)
                put_word(scale + 64 * (i + 1) + 4 * r, word_at(p + 4 + 4 * i));
            for (size_t j = 0; j < 8; j += 2, q += 32) /* two groups share 32 bytes */
                for (size_t c = 0; c < 4; c++) {
                    const uint32_t a = word_at(q + 4 * c), b = word_at(q + 16 + 4 * c);

                    put_word(to + j * l.code + 64 * c, nibbles(a, b));
                    put_word(to + (j + 1) * l.code + 64 * c, nibbles(a >> 4, b >> 4));
                }
            for (unsigned j = 0; enc == ENC_Q5_K && j < 8; j++) {
                uint32_t t = 0;

                for (unsigned c = 0; c < 8; c++)
                    t |= (word_at(p + offsetof(struct q5_k, qh) + 4 * c) >> j & 0x01010101) << c;
                put_word(to + j * l.code + 256, t);
            }
        }
    }
}

static void pack_q6_k(uint8_t *u, const struct rows16 *w, size_t G)
{
    const struct layout l = layout_of(ENC_Q6_K, G);

    for (size_t g = 0; g < G; g += 8) {
        uint8_t *scale = u + 288 * (g / 8);

        for (size_t r = 0; r < LANES; r++) {
            const uint8_t *p = w->at[r] + g / 8 * sizeof(struct q6_k);

            for (size_t i = 0; i < 4; i++)
                put_word(scale + 64 * i + 4 * r, word_at(p + offsetof(struct q6_k, sc) + 4 * i));
            memcpy(scale + 256 + 2 * r, p + offsetof(struct q6_k, d), 2);
            for (unsigned k = 0; k < 8; k++) { /* groups, of four that share bytes */
                const uint8_t *low = p + 64 * (k / 4) + 32 * (k % 2);
                const uint8_t *high = p + offsetof(struct q6_k, qh) + 32 * (k / 4);
                const unsigned up = k % 4 / 2 * 4, two = 2 * (k % 4);
                uint8_t *to = u + l.codes + (g + k) * l.code + 4 * r;

                for (size_t c = 0; c < 4; c++)
                    put_word(to + 64 * c,
                             nibbles(word_at(low + 4 * c) >> up, word_at(low + 16 + 4 * c) >> up));
                for (size_t i = 0; i < 2; i++) {
                    uint32_t t = 0;

                    for (unsigned c = 0; c < 4; c++)
                        t |= (word_at(high + 16 * i + 4 * c) >> two & 0x03030303) << 2 * c;
                    put_word(to + 256 + 64 * i, t);
                }
            }
        }
    }
}

#define PACK_PANEL(name, enc)                                                                      \
    static void pack_##name(uint8_t *u, const struct group *p, const struct weight *w, size_t r0,  \
                            size_t g0, size_t ng)                                                  \
    {                                                                                              \
        pack_panel(u, p, w, r0, g0, ng, enc);                                                      \
    }
PACK_PANEL(planes4, PLANES4)
PACK_PANEL(planes8, PLANES8)
PLACED(planes4, PLANES4)
PLACED(planes8, PLANES8)
PLACED(q4_0, ENC_Q4_0)
PLACED(q4_1, ENC_Q4_1)
PLACED(q5_0, ENC_Q5_0)
PLACED(q5_1, ENC_Q5_1)
PLACED(q4_k, ENC_Q4_K)
PLACED(q5_k, ENC_Q5_K)
PLACED(q6_k, ENC_Q6_K)
PACK_32(q4_0, ENC_Q4_0)
PACK_32(q4_1, ENC_Q4_1)
PACK_32(q5_0, ENC_Q5_0)
PACK_32(q5_1, ENC_Q5_1)
PACK_K(q4_k, ENC_Q4_K)
PACK_K(q5_k, ENC_Q5_K)

void cpu_kern_placed_avx2(struct cpu_kern *k)
{
    /* joining bits costs more than a panel's lines once more than a few tokens share those: of 64
     * tokens 0.77 to 0.88 */
    enum { FEW = 8 };

    FILL_UNITS(k, ENC_Q4_0, q4_0, SIZE_MAX);
    FILL_UNITS(k, ENC_Q4_1, q4_1, SIZE_MAX);
    FILL_UNITS(k, ENC_Q4_K, q4_k, SIZE_MAX);
    FILL_UNITS(k, ENC_Q5_0, q5_0, FEW);
    FILL_UNITS(k, ENC_Q5_1, q5_1, FEW);
    FILL_UNITS(k, ENC_Q5_K, q5_k, FEW);
    FILL_UNITS(k, ENC_Q6_K, q6_k, FEW);
    FILL_PLANES(k, SIZE_MAX);
}
