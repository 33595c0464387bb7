/* placed_avx512.c - quantised weights in the order in which kernels take them, made once when a
 * model is placed (placed.c). Sixteen rows are a unit of as many bytes as in the file:
 * placed_units.inc says how it lies.
 *
 * Scales are few and are fetched when a unit begins; so a thread reads its units, which follow one
 * another, from the first byte to the last, and the hardware sees one stream. (With the top bits in
 * a plane of their own and scales behind, Q6_K came from memory at 0.8 times the rate of Q4_0.) A
 * multiply-add takes lines as they come: the tokens of a tile share a line, which is in a register
 * for all of them. The links are those of kern.h's chain, hence the bits of every other kernel. */
#include <immintrin.h>

#include "backend/cpu/kern.h"
#include "backend/cpu/placed_units.inc"

enum {
    TILE = 8, /* tokens whose sums, of integers and of floats, live in registers */
    /* bytes that are asked for before their use: enough for lines that the hardware has brought to
     * the second-level cache; from 512 on slower, for lines that come from memory occupy the few
     * places of the first level */
    LEAD = 256,
    /* the same of three tokens and more, whose arithmetic leaves these places free: a batch of 8 in
     * Q4_0, one thread, 98 ms with 256, 84 with 768, 80 with 1536, 75 with 3072, 76 with 6144; two
     * tokens are 3 % faster without */
    LEAD_MANY = 3072,
};

/* The eight lines of group g. */
INLINE void lines(__m512i w[8], const uint8_t *u, const struct layout *l, size_t g,
                  const enum enc enc)
{
    const __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi8(48);
    const uint8_t *p = u + l->codes + g * l->code;

    if (l->code == 512) {
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++)
            w[c] = _mm512_loadu_si512(p + 64 * c);
        return;
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512i both = _mm512_loadu_si512(p + 64 * c);

        w[c] = _mm512_and_si512(both, low);
        w[c + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
    if (has_five(enc)) {
        const __m512i t = _mm512_loadu_si512(p + 256), one = _mm512_set1_epi8(16);

#pragma GCC unroll 8
        for (int c = 0; c < 8; c++) {
            const __m512i at = c < 4 ? _mm512_slli_epi16(t, 4 - c) : _mm512_srli_epi16(t, c - 4);

            w[c] = _mm512_or_si512(w[c], _mm512_and_si512(at, one));
        }
    }
    if (enc != ENC_Q6_K)
        return;
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m512i t = _mm512_loadu_si512(p + 256 + 64 * i);
        const __m512i at[4] = { _mm512_slli_epi16(t, 4), _mm512_slli_epi16(t, 2), t,
                                _mm512_srli_epi16(t, 2) };

#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            w[4 * i + k] = _mm512_or_si512(w[4 * i + k], _mm512_and_si512(at[k], two));
    }
}

INLINE __m512 f16s(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* by times byte i of every word */
INLINE __m512 by_byte(__m512i w, size_t i, __m512 by)
{
    const __m512i byte = _mm512_srl_epi32(w, _mm_cvtsi64_si128((long long)(8 * i)));

    return _mm512_mul_ps(by, _mm512_cvtepi32_ps(_mm512_and_si512(byte, _mm512_set1_epi32(255))));
}

/* by times the signed byte i of every word */
INLINE __m512 by_signed(__m512i w, size_t i, __m512 by)
{
    const __m512i left = _mm512_sll_epi32(w, _mm_cvtsi64_si128((long long)(24 - 8 * i)));

    return _mm512_mul_ps(by, _mm512_cvtepi32_ps(_mm512_srai_epi32(left, 24)));
}

/* Scales of a group, of its halves in Q6_K; offsets where there are any. Those of planes stay for
 * `left` groups, and `at` is where the next are. */
struct scale {
    __m512 d[2], m;
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

    s->d[0] = s->m = _mm512_setzero_ps();
    s->at = u + g / reach * scale_bytes(w, enc);
    s->left = 0;
    s->skip = g % reach;
}

INLINE void plane_scales(struct scale *s, const struct weight *w, const enum enc enc)
{
    const struct planes *o = &w->p;
    const uint8_t *z = s->at + LANES * (o->scale_enc == ENC_F32 ? 4 : 2);
    __m512 d;

    if (o->scale_enc == ENC_F32)
        d = _mm512_loadu_ps(s->at);
    else if (o->scale_enc == ENC_F16)
        d = f16s(s->at);
    else
        d = _mm512_castsi512_ps(_mm512_slli_epi32(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)s->at)), 16));
    s->d[0] = _mm512_mul_ps(d, _mm512_set1_ps(o->scale_by));
    if (o->zero) {
        __m128i v;

        if (enc == PLANES8) {
            v = _mm_loadu_si128((const __m128i *)z);
        } else {
            v = _mm_loadl_epi64((const __m128i *)z);
            v = _mm_and_si128(_mm_unpacklo_epi8(v, _mm_srli_epi16(v, 4)), _mm_set1_epi8(15));
        }
        const __m512 centre = _mm512_set1_ps((float)code_centre(codes_of(enc)));
        const __m512 zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v));

        s->m = _mm512_mul_ps(_mm512_sub_ps(centre, zero), s->d[0]);
    }
    s->at = z + zero_bytes(w, enc);
    s->left = o->group / GROUP - s->skip;
    s->skip = 0;
}

INLINE void scales(struct scale *s, const uint8_t *u, const struct weight *of, size_t g,
                   const enum enc enc)
{
    const __m512 centre = _mm512_set1_ps((float)code_centre(codes_of(enc)));

    if (has_planes(enc)) {
        if (s->left == 0)
            plane_scales(s, of, enc);
        s->left--;
    } else if (enc == ENC_Q4_0 || enc == ENC_Q5_0 || enc == ENC_Q8_0) {
        s->d[0] = f16s(u + 32 * g);
    } else if (enc == ENC_Q4_1 || enc == ENC_Q5_1) {
        s->d[0] = f16s(u + 64 * g);
        s->m = _mm512_fmadd_ps(s->d[0], centre, f16s(u + 64 * g + 32));
    } else if (has_k_scales(enc)) {
        const __m512i six = _mm512_set1_epi8(63), four = _mm512_set1_epi8(15);
        const __m512i top = _mm512_set1_epi8(48);
        const uint8_t *b = u + 256 * (g / 8);
        __m512i d = _mm512_loadu_si512(b + 64), m = _mm512_loadu_si512(b + 128);

        if (g % 8 < 4) {
            d = _mm512_and_si512(d, six);
            m = _mm512_and_si512(m, six);
        } else {
            const __m512i more = _mm512_loadu_si512(b + 192);

            d = _mm512_or_si512(_mm512_and_si512(more, four),
                                _mm512_and_si512(_mm512_srli_epi16(d, 2), top));
            m = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(more, 4), four),
                                _mm512_and_si512(_mm512_srli_epi16(m, 2), top));
        }
        s->d[0] = by_byte(d, g % 4, f16s(b));
        s->m = _mm512_fmadd_ps(
            s->d[0], centre, by_byte(m, g % 4, _mm512_sub_ps(_mm512_set1_ps(-0.0f), f16s(b + 32))));
    } else {
        const uint8_t *b = u + 288 * (g / 8);
        const __m512i w = _mm512_loadu_si512(b + 64 * (g % 8 / 2));
        const __m512 d = f16s(b + 256);

        s->d[0] = by_signed(w, g % 2 * 2, d);
        s->d[1] = by_signed(w, g % 2 * 2 + 1, d);
    }
}

/* sum += w . the four bytes at q, which are broadcast; in assembly to stay in this order */
INLINE void four(__m512i *sum, __m512i w, const int8_t *q)
{
    __asm__ volatile("vpdpbusd %1%{1to16%}, %2, %0"
                     : "+v"(*sum)
                     : "m"(*(const int8_t(*)[4])q), "v"(w));
}

/* -centre * sum(q) of half h, or of all; shifted as vectors, for a way from other registers takes
 * two instructions of the port that shuffles */
INLINE __m512i start(const int32_t *n, const int32_t *n0, const int h, const enum codes kind)
{
    const __m512i all = _mm512_set1_epi32(*n), first = _mm512_set1_epi32(*n0);
    const __m512i of = kind != CODES_HALVES ? all : h ? _mm512_sub_epi32(all, first) : first;

    return _mm512_slli_epi32(of, (unsigned)__builtin_ctz((unsigned)code_centre(kind)));
}

/* The remainder of group g of token t onto rest[16]. */
INLINE void left_over(float *rest, const __m512i w[8], const struct scale *s, const struct q8 *x,
                      size_t g, size_t t, const enum codes kind)
{
    const size_t at = g * x->T + t;
    const int8_t *r = x->r + t * x->K + g * GROUP;
    const int halves = kind == CODES_HALVES ? 2 : 1, steps = 8 / halves;
    __m512 y = _mm512_loadu_ps(rest);

#pragma GCC unroll 2
    for (int h = 0; h < halves; h++) {
        __m512i sum = start(x->nr + at, x->nr0 + at, h, kind);

#pragma GCC unroll 8
        for (int c = h * steps; c < (h + 1) * steps; c++)
            four(&sum, w[c], r + 4 * c);
        y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum),
                            _mm512_mul_ps(s->d[h], _mm512_set1_ps(x->e[at])), y);
    }
    _mm512_storeu_ps(rest, y);
}

/* S tokens from t0 on, known to the compiler: acc[S][16] = the unit times them. */
INLINE void tile(float *acc, const uint8_t *u, const struct weight *of, const struct q8 *x,
                 size_t t0, const enum enc enc, const int S)
{
    const enum codes kind = codes_of(enc);
    const size_t G = x->K / GROUP;
    const struct layout l = layout_for(of, enc);
    const int halves = kind == CODES_HALVES ? 2 : 1, steps = 8 / halves;
    struct scale s;
    float rest[TILE][LANES] = { 0 };
    __m512 a[TILE];
    const int8_t *q = x->q + t0 * x->K;

    scales_start(&s, u, of, 0, enc);
    for (size_t i = 0; i < l.codes; i += 64)
        _mm_prefetch((const char *)u + i, _MM_HINT_T0);
#pragma GCC unroll 8
    for (int t = 0; t < S; t++)
        a[t] = _mm512_setzero_ps();
    for (size_t g = 0; g < G; g++, q += GROUP) {
        const size_t at = g * x->T + t0;
        __m512i w[8];
        uint64_t more = 0;

        const char *from = (const char *)u + l.codes + g * l.code;

        if (S == 1 || (S > 2 && !x->ahead))
            for (size_t i = 0; i < l.code; i += 64)
                _mm_prefetch(from + (S > 2 ? LEAD_MANY : LEAD) + i, _MM_HINT_T0);
        for (size_t i = 0; x->ahead && i < l.code; i += 64)
            _mm_prefetch(from + x->ahead + i, _MM_HINT_T1);
        lines(w, u, &l, g, enc);
        scales(&s, u, of, g, enc);
#pragma GCC unroll 2
        for (int h = 0; h < halves; h++) {
            __m512i sum[TILE];

#pragma GCC unroll 8
            for (int t = 0; t < S; t++)
                sum[t] = start(x->n + at + t, x->n0 + at + t, h, kind);
#pragma GCC unroll 8
            for (int c = h * steps; c < (h + 1) * steps; c++)
#pragma GCC unroll 8
                for (int t = 0; t < S; t++)
                    four(&sum[t], w[c], q + (size_t)t * x->K + 4 * c);
#pragma GCC unroll 8
            for (int t = 0; t < S; t++) {
                const __m512 d = _mm512_mul_ps(s.d[h], _mm512_set1_ps(x->d[at + (size_t)t]));

                a[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), d, a[t]);
                if (has_offset(enc))
                    a[t] = _mm512_fmadd_ps(s.m, _mm512_set1_ps(x->s[at + (size_t)t]), a[t]);
            }
        }
        memcpy(&more, x->more + at, (size_t)S);
        for (; __builtin_expect(more != 0, 0); more &= more - 1) {
            const size_t t = (size_t)__builtin_ctzll(more) / 8;

            left_over(rest[t], w, &s, x, g, t0 + t, kind);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < S; t++)
        _mm512_storeu_ps(acc + LANES * t, _mm512_add_ps(a[t], _mm512_loadu_ps(rest[t])));
}

/* acc[T][16] */
INLINE void dot(float *acc, const uint8_t *u, const struct weight *of, const struct q8 *x,
                size_t t0, size_t T, const enum enc enc)
{
    /* tiles as even as can be: 9 tokens are 5 + 4 */
    for (size_t t = 0, tiles = (T + TILE - 1) / TILE, S; t < T; t += S, tiles--) {
        S = (T - t + tiles - 1) / tiles;
        switch (S) {
#define CASE(S)                                                                                    \
    case S:                                                                                        \
        tile(acc + LANES * t, u, of, x, t0 + t, enc, S);                                           \
        break
            CASE(1);
            CASE(2);
            CASE(3);
            CASE(4);
            CASE(5);
            CASE(6);
            CASE(7);
            CASE(8);
#undef CASE
        }
    }
}

/* Groups g0 .. g0+ng as panels hold them. */
INLINE void unpack(struct group *p, const uint8_t *u, const struct weight *of, size_t g0, size_t ng,
                   const enum enc enc)
{
    const struct layout l = layout_for(of, enc);
    struct scale s;

    scales_start(&s, u, of, g0, enc);
    for (size_t i = 0; i < ng; i++) {
        __m512i w[8];

        lines(w, u, &l, g0 + i, enc);
        scales(&s, u, of, g0 + i, enc);
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++)
            _mm512_storeu_si512(p[i].code[c], w[c]);
        _mm512_storeu_ps(p[i].d[0], s.d[0]);
        if (enc == ENC_Q6_K)
            _mm512_storeu_ps(p[i].d[1], s.d[1]);
        if (has_offset(enc))
            _mm512_storeu_ps(p[i].m[0], s.m);
    }
}

/* ---- from the file's order ---- */

#include "backend/cpu/transpose_avx512.inc"

/* Two bytes of every row. */
INLINE __m256i halfwords(const struct rows16 *w, size_t off)
{
    uint16_t t[LANES];

#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
        memcpy(&t[r], w->at[r] + off, 2);
    return _mm256_loadu_si256((const __m256i *)t);
}

INLINE void put(uint8_t *p, __m512i x)
{
    _mm512_storeu_si512(p, x);
}

INLINE void put16(uint8_t *p, __m256i x)
{
    _mm256_storeu_si256((__m256i *)p, x);
}

INLINE __m512i shift_left(__m512i x, unsigned n)
{
    return _mm512_sll_epi16(x, _mm_cvtsi32_si128((int)n));
}

INLINE __m512i shift_right(__m512i x, unsigned n)
{
    return _mm512_srl_epi16(x, _mm_cvtsi32_si128((int)n));
}

/* low nibbles of a, and of b above them */
INLINE __m512i nibbles(__m512i a, __m512i b)
{
    const __m512i low = _mm512_set1_epi8(15);

    return _mm512_or_si512(_mm512_and_si512(a, low),
                           _mm512_slli_epi16(_mm512_and_si512(b, low), 4));
}

/* Fifth bits of every row, a word at off: bits k, 4 + k, .. of the word become byte k. */
INLINE __m512i fifth_bits(const struct rows16 *w, size_t off)
{
    uint8_t t[LANES][4];

    for (size_t r = 0; r < LANES; r++) {
        uint32_t word;

        memcpy(&word, w->at[r] + off, 4);
        for (unsigned k = 0; k < 4; k++)
            t[r][k] = (uint8_t)_pext_u32(word, 0x11111111u << k);
    }
    return _mm512_loadu_si512(t);
}

INLINE void pack_32(uint8_t *u, const struct rows16 *w, size_t G, const enum enc enc)
{
    const struct layout l = layout_of(enc, G);
    const size_t bytes = enc_table[enc].bytes, head = head_of(enc), five = has_five(enc) ? 4 : 0;
    const __m512i flip = _mm512_set1_epi8(-128);

    for (size_t g = 0; g < G; g++) {
        uint8_t *scale = u + 16 * head * g, *to = u + l.codes + g * l.code;
        __m512i b[4];

        for (size_t i = 0; i < l.code / 256; i++) {
            transpose(b, w, g * bytes + head + five + 16 * i);
#pragma GCC unroll 4
            for (size_t c = 0; c < 4; c++)
                put(to + 256 * i + 64 * c, enc == ENC_Q8_0 ? _mm512_xor_si512(b[c], flip) : b[c]);
        }
        if (five)
            put(to + 256, fifth_bits(w, g * bytes + head));
        put16(scale, halfwords(w, g * bytes));
        if (head == 4)
            put16(scale + 32, halfwords(w, g * bytes + 2));
    }
}

/* Fifth bits of the eight groups whose codes are at to, from the bytes at off. */
INLINE void pack_fifth_k(uint8_t *to, size_t code, const struct rows16 *w, size_t off)
{
    const __m512i one = _mm512_set1_epi8(1);
    __m512i high[2][4];

    transpose(high[0], w, off);
    transpose(high[1], w, off + 16);
    for (unsigned j = 0; j < 8; j++) {
        __m512i t = _mm512_setzero_si512();

        for (unsigned c = 0; c < 8; c++)
            t = _mm512_or_si512(
                t, shift_left(_mm512_and_si512(shift_right(high[c / 4][c % 4], j), one), c));
        put(to + j * code + 256, t);
    }
}

INLINE void pack_k(uint8_t *u, const struct rows16 *w, size_t G, const enum enc enc)
{
    const struct layout l = layout_of(enc, G);
    const size_t codes = enc == ENC_Q5_K ? offsetof(struct q5_k, qs) : offsetof(struct q4_k, qs);

    for (size_t g = 0; g < G; g += 8) {
        const size_t off = g / 8 * enc_table[enc].bytes;
        uint8_t *scale = u + 256 * (g / 8), *to = u + l.codes + g * l.code;
        __m512i a[4], b[4];

        for (size_t j = 0; j < 8; j += 2) { /* two groups share 32 bytes */
            transpose(a, w, off + codes + 16 * j);
            transpose(b, w, off + codes + 16 * j + 16);
#pragma GCC unroll 4
            for (size_t c = 0; c < 4; c++) {
                put(to + j * l.code + 64 * c, nibbles(a[c], b[c]));
                put(to + (j + 1) * l.code + 64 * c,
                    nibbles(_mm512_srli_epi16(a[c], 4), _mm512_srli_epi16(b[c], 4)));
            }
        }
        if (enc == ENC_Q5_K)
            pack_fifth_k(to, l.code, w, off + offsetof(struct q5_k, qh));
        put16(scale, halfwords(w, off));
        put16(scale + 32, halfwords(w, off + 2));
        transpose(a, w, off);
#pragma GCC unroll 3
        for (size_t i = 1; i < 4; i++)
            put(scale + 64 * i, a[i]);
    }
}

/* Half of the block at off, four groups, of which two share the bytes of low[.]. */
INLINE void pack_half(uint8_t *to, const struct rows16 *w, size_t off, size_t half)
{
    const __m512i two = _mm512_set1_epi8(3);
    __m512i low[2][2][4], high[4];

    for (size_t i = 0; i < 2; i++) {
        transpose(low[0][i], w, off + 64 * half + 16 * i);
        transpose(low[1][i], w, off + 64 * half + 32 + 16 * i);
        transpose(high, w, off + 128 + 32 * half + 16 * i);
        for (unsigned k = 0; k < 4; k++) {
            __m512i t = _mm512_setzero_si512();

            for (unsigned c = 0; c < 4; c++)
                t = _mm512_or_si512(
                    t, shift_left(_mm512_and_si512(shift_right(high[c], 2 * k), two), 2 * c));
            put(to + k * 384 + 256 + 64 * i, t);
        }
    }
    for (unsigned k = 0; k < 4; k++)
        for (size_t c = 0; c < 4; c++)
            put(to + k * 384 + 64 * c, nibbles(shift_right(low[k % 2][0][c], k / 2 * 4),
                                               shift_right(low[k % 2][1][c], k / 2 * 4)));
}

static void pack_q6_k(uint8_t *u, const struct rows16 *w, size_t G)
{
    const struct layout l = layout_of(ENC_Q6_K, G);

    for (size_t g = 0; g < G; g += 8) {
        const size_t off = g / 8 * sizeof(struct q6_k);
        uint8_t *scale = u + 288 * (g / 8);
        __m512i sc[4];

        for (size_t half = 0; half < 2; half++)
            pack_half(u + l.codes + (g + 4 * half) * l.code, w, off, half);
        transpose(sc, w, off + 192);
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++)
            put(scale + 64 * i, sc[i]);
        put16(scale + 256, halfwords(w, off + 208));
    }
}

INLINE void pack_panel(uint8_t *u, const struct group *p, const struct weight *w, size_t r0,
                       size_t g0, size_t ng, const enum enc enc)
{
    const struct layout l = layout_for(w, enc);

    for (size_t i = 0; i < ng; i++) {
        uint8_t *to = u + l.codes + (g0 + i) * l.code;

#pragma GCC unroll 8
        for (size_t c = 0; c < l.code / 64; c++) {
            const __m512i v = _mm512_loadu_si512(p[i].code[c]);

            put(to + 64 * c, enc == PLANES8 ? v : nibbles(v, _mm512_loadu_si512(p[i].code[c + 4])));
        }
    }
    if (g0 == 0)
        pack_scales(u, w, r0, enc);
}

static void pack_planes4(uint8_t *u, const struct group *p, const struct weight *w, size_t r0,
                         size_t g0, size_t ng)
{
    pack_panel(u, p, w, r0, g0, ng, PLANES4);
}

static void pack_planes8(uint8_t *u, const struct group *p, const struct weight *w, size_t r0,
                         size_t g0, size_t ng)
{
    pack_panel(u, p, w, r0, g0, ng, PLANES8);
}

PLACED(q4_0, ENC_Q4_0)
PLACED(q4_1, ENC_Q4_1)
PLACED(q5_0, ENC_Q5_0)
PLACED(q5_1, ENC_Q5_1)
PLACED(q8_0, ENC_Q8_0)
PLACED(q4_k, ENC_Q4_K)
PLACED(q5_k, ENC_Q5_K)
PLACED(q6_k, ENC_Q6_K)
PLACED(planes4, PLANES4)
PLACED(planes8, PLANES8)

PACK_32(q4_0, ENC_Q4_0)
PACK_32(q4_1, ENC_Q4_1)
PACK_32(q5_0, ENC_Q5_0)
PACK_32(q5_1, ENC_Q5_1)
PACK_32(q8_0, ENC_Q8_0)
PACK_K(q4_k, ENC_Q4_K)
PACK_K(q5_k, ENC_Q5_K)

void cpu_kern_placed_avx512(struct cpu_kern *k)
{
    FILL_UNITS(k, ENC_Q4_0, q4_0, SIZE_MAX);
    FILL_UNITS(k, ENC_Q4_1, q4_1, SIZE_MAX);
    FILL_UNITS(k, ENC_Q8_0, q8_0, SIZE_MAX);
    /* making lines or scales for every tile costs less than storing them in panels does, up to 64
     * tokens; with 24 to 48 Q4_K is at 1.15 to 1.2 times the rate of panels, Q6_K at 1.2 to 1.3,
     * with 256 at 0.96 and 1.0 */
    FILL_UNITS(k, ENC_Q5_0, q5_0, 8 * TILE);
    FILL_UNITS(k, ENC_Q5_1, q5_1, 8 * TILE);
    FILL_UNITS(k, ENC_Q5_K, q5_k, 8 * TILE);
    FILL_UNITS(k, ENC_Q4_K, q4_k, 8 * TILE);
    FILL_UNITS(k, ENC_Q6_K, q6_k, 8 * TILE);
    /* 4 % faster than panels with 64 tokens, 3 % slower with 256 */
    FILL_PLANES(k, 8 * TILE);
}
