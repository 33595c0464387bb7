/* row_avx512.c - quantised weights times one 8-bit activation row: what decoding a single sequence
 * spends its time in. Nothing is unpacked to memory: sixteen rows are read four groups at a time,
 * a register holds four groups of one row (lane g = group g), multiply-adds leave four sums to a
 * group, and these are added up and turned so that lane r of a register is row r. Then follow the
 * links of kern.h's chain, hence the same bits as from a panel.
 *
 * The rows after these follow in the file. They are fetched into the second-level cache meanwhile,
 * as one long stream: the first level has too few misses in flight for that. */
#include <immintrin.h>

#include "backend/cpu/kern.h"
#include "format/enc/packed.h"
#include "format/enc/q4_0.h"
#include "format/enc/q4_1.h"
#include "format/enc/q4_k.h"
#include "format/enc/q6_k.h"
#include "format/enc/q8_0.h"

#include "backend/cpu/transpose_avx512.inc"

enum {
    QUAD = 4,        /* groups taken together */
    AHEAD = 1 << 15, /* a third faster than 0 with 4 KiB pages, which take time to be found */
};

/* The chains of sixteen rows. */
struct chain {
    __m512 acc, rest;
};

/* A sixteenth of what follows the rows' bytes off .. off+bytes, sixteen rows and AHEAD later. */
INLINE void fetch(const struct rows16 *w, size_t off, const size_t bytes, const size_t r)
{
    const uint8_t *at = w->next[0] + LANES * off + AHEAD;
    /* a line that nobody fetches costs as much as a hundred that somebody does */
    const size_t end = r + 1 < LANES ? (r + 1) * bytes / 64 : (LANES * bytes + 63) / 64;

#pragma GCC unroll 4
    for (size_t n = r * bytes / 64; n < end; n++)
        _mm_prefetch((const char *)(at + 64 * n), _MM_HINT_T1);
}

INLINE __mmask64 first_bytes(size_t n)
{
    return n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1;
}

/* 64 bytes, of which `left` exist */
INLINE __m512i load64(const uint8_t *p, const bool whole, size_t left)
{
    return whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8(first_bytes(left), p);
}

INLINE size_t less(size_t a, size_t b)
{
    return a > b ? a - b : 0;
}

/* ---- sums of four numbers in every lane ---- */

INLINE __m512i pairs(__m512i a, __m512i b)
{
    return _mm512_madd_epi16(_mm512_packs_epi32(a, b), _mm512_set1_epi16(1));
}

/* t[i] is of row i; lane by lane [row 0, 1, 2, 3]. Totals fit 16 bits. */
INLINE __m512i join_16(const __m512i t[4])
{
    return pairs(pairs(t[0], t[1]), pairs(t[2], t[3]));
}

/* The four numbers fit 16 bits, their total does not. */
INLINE __m512i join_17(const __m512i t[4])
{
    const __m512 a = _mm512_castsi512_ps(pairs(t[0], t[1]));
    const __m512 b = _mm512_castsi512_ps(pairs(t[2], t[3]));

    return _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88)),
                            _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xDD)));
}

INLINE __m512i join_32(const __m512i t[4])
{
    const __m512i a =
        _mm512_add_epi32(_mm512_unpacklo_epi32(t[0], t[1]), _mm512_unpackhi_epi32(t[0], t[1]));
    const __m512i b =
        _mm512_add_epi32(_mm512_unpacklo_epi32(t[2], t[3]), _mm512_unpackhi_epi32(t[2], t[3]));

    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* Lane g of v[i] to lane i of v[g]. */
INLINE void turn(__m512i v[4])
{
    const __m512i a = _mm512_shuffle_i64x2(v[0], v[1], 0x44);
    const __m512i b = _mm512_shuffle_i64x2(v[0], v[1], 0xEE);
    const __m512i c = _mm512_shuffle_i64x2(v[2], v[3], 0x44);
    const __m512i d = _mm512_shuffle_i64x2(v[2], v[3], 0xEE);

    v[0] = _mm512_shuffle_i64x2(a, c, 0x88);
    v[1] = _mm512_shuffle_i64x2(a, c, 0xDD);
    v[2] = _mm512_shuffle_i64x2(b, d, 0x88);
    v[3] = _mm512_shuffle_i64x2(b, d, 0xDD);
}

/* ---- links of the chain ---- */

INLINE __m512 onto(__m512 acc, __m512i sum, __m512 d, float dx)
{
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(d, _mm512_set1_ps(dx)), acc);
}

INLINE __m512 low_half(__m512i w)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(w));
}

INLINE __m512 high_half(__m512i w)
{
    return low_half(_mm512_srli_epi32(w, 16));
}

/* ---- blocks of 32: Q4_0, Q4_1, Q8_0 ---- */

/* Four groups of x: values 0..15 of each, 16..31 (of PACKED4, whose low nibbles are even values:
 * those and the odd ones), and what a sum of codes counted from their centre starts with. */
struct x4 {
    __m512i lo, hi, start;
};

INLINE __m512i low_bytes(__m512i a, __m512i b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(a)),
                              _mm512_cvtepi16_epi8(b), 1);
}

INLINE struct x4 x4_load(const int8_t *q, const enum enc enc, const bool whole, size_t left)
{
    const __m512i a = load64((const uint8_t *)q, whole, left);
    const __m512i b = load64((const uint8_t *)q + 64, whole, less(left, 64));
    const enum codes kind = enc == ENC_Q8_0 || enc == ENC_PACKED8 ? CODES_8 : CODES_4;
    const __m512i centre = _mm512_set1_epi8((char)code_centre(kind));
    const __m512i zero = _mm512_setzero_si512();
    struct x4 x = { .lo = _mm512_shuffle_i64x2(a, b, 0x88),
                    .hi = _mm512_shuffle_i64x2(a, b, 0xDD) };

    if (enc == ENC_PACKED4) {
        x.lo = low_bytes(a, b);
        x.hi = low_bytes(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
    }
    x.start = _mm512_sub_epi32(
        zero, _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, centre, x.lo), centre, x.hi));
    return x;
}

/* Where in a row's four blocks things are, as 16-bit words: of a pair of registers at `at[0]` and
 * `at[1]`, and for Q8_0 a second pair for values 16..31. */
struct where {
    size_t bytes, at[2][2];
    __m512i word[2], d, m;
};

INLINE __m512i lanes_of(const int first, const int apart)
{
    const __m512i in_lane = _mm512_set_epi16(7, 6, 5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0, 7, 6,
                                             5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0);
    const short a = (short)first, b = (short)(a + apart), c = (short)(b + apart);
    const short d = (short)(c + apart);

    return _mm512_add_epi16(in_lane,
                            _mm512_set_epi16(d, d, d, d, d, d, d, d, c, c, c, c, c, c, c, c, b, b,
                                             b, b, b, b, b, b, a, a, a, a, a, a, a, a));
}

/* the same word in the eight places of each lane */
INLINE __m512i lanes_with(const int first, const int apart)
{
    const __m512i in_lane = _mm512_set_epi16(7, 6, 5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0, 7, 6,
                                             5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0);

    return _mm512_sub_epi16(lanes_of(first, apart), in_lane);
}

/* A word beyond the first register is one of the second, 32 of which follow; words of at[0] and
 * at[1] overlap in Q4_0 and Q4_1, whose last group alone comes from the second. */
INLINE struct where where_of(const enum enc enc)
{
    struct where h = { .bytes = 4 * (enc == ENC_Q4_0   ? sizeof(struct q4_0)
                                     : enc == ENC_Q4_1 ? sizeof(struct q4_1)
                                                       : sizeof(struct q8_0)) };
    const int apart = (int)h.bytes / 8, first = enc == ENC_Q4_1 ? 2 : 1;
    const __m512i step = _mm512_set1_epi16((short)(32 - (h.bytes - 64) / 2));

    h.at[0][1] = enc == ENC_Q8_0 ? 64 : h.bytes - 64;
    h.at[1][0] = 8;
    h.at[1][1] = 72;
    h.word[0] = lanes_of(first, apart);
    h.word[1] = lanes_of(first + 4, apart);
    if (enc != ENC_Q8_0)
        h.word[0] = _mm512_mask_add_epi16(h.word[0], 0xFF000000, h.word[0], step);
    h.d = lanes_with(0, apart);
    h.m = lanes_with(1, apart);
    return h;
}

/* The scales that eight rows have in four groups: lane g = group g. */
struct halves {
    __m512i d[2], m[2];
};

/* The f16 of group g as sixteen floats. */
INLINE __m512 group_of(const __m512i v[2], const int g)
{
    const __m512i at = _mm512_set_epi64(0, 0, 0, 0, 2 * g + 9, 2 * g + 8, 2 * g + 1, 2 * g);

    return _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutex2var_epi64(v[0], at, v[1])));
}

/* Sums of four groups: v[g] lane r = row r; scales beside, where wanted. */
INLINE void quad(__m512i v[4], struct halves *s, const struct rows16 *w, size_t off,
                 const struct x4 *x, const struct where *h, const enum enc enc, const bool whole,
                 size_t left)
{
    const __m512i low = _mm512_set1_epi8(15), flip = _mm512_set1_epi8(-128);
    __m512i t[4];

#pragma GCC unroll 16
    for (size_t r = 0; r < LANES; r++) {
        const uint8_t *p = w->at[r] + off;
        const __m512i a = load64(p, whole, left);
        const __m512i b = load64(p + h->at[0][1], whole, less(left, h->at[0][1]));
        const __mmask32 mine = (__mmask32)0x01010101 << r % 8;
        __m512i lo = _mm512_permutex2var_epi16(a, h->word[0], b), hi;

        if (enc == ENC_Q8_0) {
            const __m512i c = load64(p + 8, whole, less(left, 8));
            const __m512i d = load64(p + 72, whole, less(left, 72));

            hi = _mm512_xor_si512(_mm512_permutex2var_epi16(c, h->word[1], d), flip);
            lo = _mm512_xor_si512(lo, flip);
            if (s)
                s->d[r / 8] =
                    _mm512_mask_mov_epi16(s->d[r / 8], mine, _mm512_permutex2var_epi16(a, h->d, b));
        } else {
            hi = _mm512_and_si512(_mm512_srli_epi16(lo, 4), low);
            lo = _mm512_and_si512(lo, low);
            if (s)
                s->d[r / 8] = _mm512_mask_permutexvar_epi16(s->d[r / 8], mine, h->d, a);
            if (s && enc == ENC_Q4_1)
                s->m[r / 8] = _mm512_mask_permutexvar_epi16(s->m[r / 8], mine, h->m, a);
        }
        if (s)
            fetch(w, off, h->bytes, r);
        t[r % 4] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(x->start, lo, x->lo), hi, x->hi);
        if (r % 4 == 3)
            v[r / 4] = enc == ENC_Q8_0 ? join_32(t) : join_16(t);
    }
    turn(v);
}

/* n <= 4 groups from g on, n = 4 where `whole`. */
INLINE void quad_step(struct chain *y, const struct rows16 *w, const struct q8 *x, size_t g,
                      const struct where *h, const enum enc enc, const bool whole, size_t n)
{
    const size_t off = g * (h->bytes / QUAD), left = n * (h->bytes / QUAD);
    const struct x4 x4 = x4_load(x->q + g * GROUP, enc, whole, n * GROUP);
    struct halves s;
    __m512i v[4];
    __m512 d[4];
    bool more = false;

    s.d[0] = s.d[1] = s.m[0] = s.m[1] = _mm512_setzero_si512();
    quad(v, &s, w, off, &x4, h, enc, whole, left);
#pragma GCC unroll 4
    for (size_t k = 0; k < QUAD; k++) {
        if (!whole && k >= n)
            break;
        d[k] = group_of(s.d, (int)k);
        y->acc = onto(y->acc, v[k], d[k], x->d[g + k]);
        if (enc == ENC_Q4_1) {
            const __m512 m = _mm512_fmadd_ps(d[k], _mm512_set1_ps((float)code_centre(CODES_4)),
                                             group_of(s.m, (int)k));

            y->acc = _mm512_fmadd_ps(m, _mm512_set1_ps(x->s[g + k]), y->acc);
        }
        more |= x->e[g + k] != 0;
    }
    if (!more)
        return;
    const struct x4 r4 = x4_load(x->r + g * GROUP, enc, whole, n * GROUP);

    quad(v, NULL, w, off, &r4, h, enc, whole, left);
    for (size_t k = 0; k < n; k++)
        if (x->e[g + k] != 0)
            y->rest = onto(y->rest, v[k], d[k], x->e[g + k]);
}

INLINE void row_32(float *acc, const struct rows16 *w, const struct q8 *x, const enum enc enc)
{
    const size_t G = x->K / GROUP;
    const struct where h = where_of(enc);
    struct chain y = { _mm512_setzero_ps(), _mm512_setzero_ps() };
    size_t g = 0;

    for (; g + QUAD <= G; g += QUAD)
        quad_step(&y, w, x, g, &h, enc, true, QUAD);
    if (g < G)
        quad_step(&y, w, x, g, &h, enc, false, G - g);
    _mm512_storeu_ps(acc, _mm512_add_ps(y.acc, y.rest));
}

static void row_q4_0(float *acc, const struct rows16 *w, const struct q8 *x, size_t t)
{
    (void)t;
    row_32(acc, w, x, ENC_Q4_0);
}

static void row_q4_1(float *acc, const struct rows16 *w, const struct q8 *x, size_t t)
{
    (void)t;
    row_32(acc, w, x, ENC_Q4_1);
}

static void row_q8_0(float *acc, const struct rows16 *w, const struct q8 *x, size_t t)
{
    (void)t;
    row_32(acc, w, x, ENC_Q8_0);
}

/* ---- codes alone: PACKED4, PACKED8 ---- */

/* Sums of four groups as quad's. */
INLINE void quad_packed(__m512i v[4], const struct rows16 *w, size_t off, const struct x4 *x,
                        const enum enc enc, const bool fetching, const bool whole, size_t left)
{
    const __m512i low = _mm512_set1_epi8(15);
    const size_t bytes = enc == ENC_PACKED4 ? 64 : 128;
    __m512i t[4];

#pragma GCC unroll 16
    for (size_t r = 0; r < LANES; r++) {
        const uint8_t *p = w->at[r] + off;
        const __m512i a = load64(p, whole, left);
        __m512i lo = _mm512_and_si512(a, low);
        __m512i hi = _mm512_and_si512(_mm512_srli_epi16(a, 4), low);

        if (enc == ENC_PACKED8) {
            const __m512i b = load64(p + 64, whole, less(left, 64));

            lo = _mm512_shuffle_i64x2(a, b, 0x88);
            hi = _mm512_shuffle_i64x2(a, b, 0xDD);
        }
        if (fetching)
            fetch(w, off, bytes, r);
        t[r % 4] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(x->start, lo, x->lo), hi, x->hi);
        if (r % 4 == 3)
            v[r / 4] = enc == ENC_PACKED8 ? join_32(t) : join_16(t);
    }
    turn(v);
}

/* d and m of scale group g, lane r = row r */
INLINE void packed_scales(__m512 *d, __m512 *m, const struct rows16 *w, size_t g,
                          const enum enc enc)
{
    const struct planes *p = &w->of->p;
    const size_t G = (w->of->cols + p->group - 1) / p->group;
    const unsigned bits = enc == ENC_PACKED4 ? 4 : 8;
    const float centre = planes_centre(w->of);
    uint32_t s[LANES], z[LANES];

    for (size_t l = 0; l < LANES; l++) {
        const size_t r = w->r0 + (l < w->R ? l : w->R - 1), at = r * G + g;

        s[l] =
            p->scale_enc == ENC_F32 ? enc_load32(p->scale + 4 * at) : enc_load16(p->scale + 2 * at);
        z[l] = p->zero ? packed_zero(p->zero, bits, G, r, g) : 1u << (bits - 1);
    }
    const __m512i v = _mm512_loadu_si512(s);

    *d = p->scale_enc == ENC_F16    ? low_half(v)
         : p->scale_enc == ENC_BF16 ? _mm512_castsi512_ps(_mm512_slli_epi32(v, 16))
                                    : _mm512_castsi512_ps(v);
    *d = _mm512_mul_ps(*d, _mm512_set1_ps(p->scale_by));
    *m = _mm512_mul_ps(
        _mm512_sub_ps(_mm512_set1_ps(centre), _mm512_cvtepi32_ps(_mm512_loadu_si512(z))), *d);
}

INLINE void row_packed(float *acc, const struct rows16 *w, const struct q8 *x, const enum enc enc)
{
    const size_t G = x->K / GROUP, bytes = enc == ENC_PACKED4 ? GROUP / 2 : GROUP;
    const size_t reach = w->of->p.group / GROUP;
    struct chain y = { _mm512_setzero_ps(), _mm512_setzero_ps() };
    __m512 d[QUAD], m = y.acc, scale = y.acc;

    for (size_t g = 0; g < G; g += QUAD) {
        const bool whole = g + QUAD <= G;
        const size_t n = whole ? QUAD : G - g;
        struct x4 x4 = x4_load(x->q + g * GROUP, enc, false, n * GROUP);
        bool more = false;
        __m512i v[4];

        if (whole)
            quad_packed(v, w, g * bytes, &x4, enc, true, true, 0);
        else
            quad_packed(v, w, g * bytes, &x4, enc, true, false, n * bytes);
#pragma GCC unroll 4
        for (size_t k = 0; k < QUAD; k++) {
            if (k >= n)
                break;
            if ((g + k) % reach == 0)
                packed_scales(&scale, &m, w, (g + k) / reach, enc);
            d[k] = scale;
            y.acc = onto(y.acc, v[k], scale, x->d[g + k]);
            y.acc = _mm512_fmadd_ps(m, _mm512_set1_ps(x->s[g + k]), y.acc);
            more |= x->e[g + k] != 0;
        }
        if (!more)
            continue;
        x4 = x4_load(x->r + g * GROUP, enc, false, n * GROUP);
        quad_packed(v, w, g * bytes, &x4, enc, false, false, n * bytes);
        for (size_t k = 0; k < n; k++)
            if (x->e[g + k] != 0)
                y.rest = onto(y.rest, v[k], d[k], x->e[g + k]);
    }
    _mm512_storeu_ps(acc, _mm512_add_ps(y.acc, y.rest));
}

static void row_packed4(float *acc, const struct rows16 *w, const struct q8 *x, size_t t)
{
    (void)t;
    row_packed(acc, w, x, ENC_PACKED4);
}

static void row_packed8(float *acc, const struct rows16 *w, const struct q8 *x, size_t t)
{
    (void)t;
    row_packed(acc, w, x, ENC_PACKED8);
}

/* ---- blocks of 256: Q4_K, Q6_K ---- */

/* Four groups of eight rows, each a pair of words [group 0 or 2, group 1 or 3] in t[row], summed
 * within 32 bits: lanes [rows 0..3 of groups 0 and 1, the same of 2 and 3, rows 4..7 ..]. */
INLINE __m512i join_pairs(const __m512i t[8])
{
    const __m512i a = _mm512_packs_epi32(pairs(t[0], t[1]), pairs(t[2], t[3]));
    const __m512i b = _mm512_packs_epi32(pairs(t[4], t[5]), pairs(t[6], t[7]));

    return _mm512_add_epi16(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xDD));
}

/* Groups g .. g+4 of Q4_K: 64 bytes of a row hold two of them in low nibbles, two in high ones. */
INLINE void quad_q4_k(__m512i v[4], const struct rows16 *w, size_t off, size_t half,
                      const int8_t *q, const bool fetching)
{
    const __m512i low = _mm512_set1_epi8(15), zero = _mm512_setzero_si512();
    const __m512i centre = _mm512_set1_epi8((char)code_centre(CODES_4));
    const __m512i a = _mm512_loadu_si512(q), b = _mm512_loadu_si512(q + 64);
    const __m512i even = _mm512_shuffle_i64x2(a, b, 0x44), odd = _mm512_shuffle_i64x2(a, b, 0xEE);
    const __m512i from[2] = { _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, centre, even)),
                              _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, centre, odd)) };
    __m512i t[8], y[2];

#pragma GCC unroll 16
    for (size_t r = 0; r < LANES; r++) {
        const __m512i c = _mm512_loadu_si512(w->at[r] + off + 16 + 64 * half);
        const __m512i lo = _mm512_and_si512(c, low);
        const __m512i hi = _mm512_and_si512(_mm512_srli_epi16(c, 4), low);

        if (fetching)
            fetch(w, off + half * sizeof(struct q4_k) / 2, sizeof(struct q4_k) / 2, r);
        t[r % 8] =
            pairs(_mm512_dpbusd_epi32(from[0], lo, even), _mm512_dpbusd_epi32(from[1], hi, odd));
        if (r % 8 == 7)
            y[r / 8] = join_pairs(t);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m512i both =
            i ? _mm512_shuffle_i64x2(y[0], y[1], 0xDD) : _mm512_shuffle_i64x2(y[0], y[1], 0x88);

        v[2 * i] = _mm512_srai_epi32(_mm512_slli_epi32(both, 16), 16);
        v[2 * i + 1] = _mm512_srai_epi32(both, 16);
    }
}

INLINE __m512 byte_of(__m512i w, const int i)
{
    return _mm512_cvtepi32_ps(
        _mm512_and_si512(_mm512_srli_epi32(w, 8 * (unsigned)i), _mm512_set1_epi32(255)));
}

static void row_q4_k(float *acc, const struct rows16 *w, const struct q8 *x, size_t t)
{
    const __m512i six = _mm512_set1_epi8(63), top = _mm512_set1_epi8(48);
    const __m512i low = _mm512_set1_epi8(15);
    const size_t G = x->K / GROUP;
    struct chain y = { _mm512_setzero_ps(), _mm512_setzero_ps() };

    (void)t;
    for (size_t g = 0; g < G; g += 8) {
        const size_t off = g / 8 * sizeof(struct q4_k);
        __m512i b[4];

        transpose(b, w, off); /* d and dmin, then k_scales.h's twelve bytes */
        const __m512 d0 = low_half(b[0]),
                     m0 = _mm512_sub_ps(_mm512_set1_ps(-0.0f), high_half(b[0]));
        const __m512i scale[2] = {
            _mm512_and_si512(b[1], six),
            _mm512_or_si512(_mm512_and_si512(b[3], low),
                            _mm512_and_si512(_mm512_srli_epi16(b[1], 2), top)),
        };
        const __m512i min[2] = {
            _mm512_and_si512(b[2], six),
            _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(b[3], 4), low),
                            _mm512_and_si512(_mm512_srli_epi16(b[2], 2), top)),
        };

#pragma GCC unroll 2
        for (size_t i = 0; i < 2; i++) {
            const size_t here = g + QUAD * i;
            bool more = false;
            __m512i v[4];
            __m512 d[4];

            quad_q4_k(v, w, off, i, x->q + here * GROUP, true);
#pragma GCC unroll 4
            for (size_t k = 0; k < QUAD; k++) {
                d[k] = _mm512_mul_ps(d0, byte_of(scale[i], (int)k));
                const __m512 m = _mm512_fmadd_ps(d[k], _mm512_set1_ps((float)code_centre(CODES_4)),
                                                 _mm512_mul_ps(m0, byte_of(min[i], (int)k)));

                y.acc = onto(y.acc, v[k], d[k], x->d[here + k]);
                y.acc = _mm512_fmadd_ps(m, _mm512_set1_ps(x->s[here + k]), y.acc);
                more |= x->e[here + k] != 0;
            }
            if (!more)
                continue;
            quad_q4_k(v, w, off, i, x->r + here * GROUP, false);
            for (size_t k = 0; k < QUAD; k++)
                if (x->e[here + k] != 0)
                    y.rest = onto(y.rest, v[k], d[k], x->e[here + k]);
        }
    }
    _mm512_storeu_ps(acc, _mm512_add_ps(y.acc, y.rest));
}

/* Two pairs of groups of half a block of Q6_K: a lane is half a group, which has a scale. */
INLINE void quad_q6_k(__m512i v[2][4], const struct rows16 *w, size_t off, size_t half,
                      const int8_t *q, const bool fetching)
{
    const __m512i low = _mm512_set1_epi8(15), top = _mm512_set1_epi8(48);
    const __m512i up = _mm512_inserti64x4(_mm512_set1_epi16(2), _mm256_set1_epi16(4), 0);
    const __m512i down = _mm512_inserti64x4(_mm512_set1_epi16(2), _mm256_setzero_si256(), 0);
    const __m512i x[2] = { _mm512_loadu_si512(q), _mm512_loadu_si512(q + 64) };
    const __m512i zero = _mm512_setzero_si512();
    const __m512i centre = _mm512_set1_epi8((char)code_centre(CODES_HALVES));
    const __m512i from[2] = { _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, centre, x[0])),
                              _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, centre, x[1])) };
    __m512i t[2][4];

#pragma GCC unroll 16
    for (size_t r = 0; r < LANES; r++) {
        const __m512i c = _mm512_loadu_si512(w->at[r] + off + 64 * half);
        const __m512i h = _mm512_broadcast_i64x4(
            _mm256_loadu_si256((const __m256i *)(w->at[r] + off + 128 + 32 * half)));
        const __m512i a = _mm512_and_si512(c, low);
        const __m512i b = _mm512_and_si512(_mm512_srli_epi16(c, 4), low);

        if (fetching)
            fetch(w, off + half * sizeof(struct q6_k) / 2, sizeof(struct q6_k) / 2, r);
        t[0][r % 4] = _mm512_dpbusd_epi32(
            from[0], _mm512_or_si512(a, _mm512_and_si512(_mm512_sllv_epi16(h, up), top)), x[0]);
        t[1][r % 4] = _mm512_dpbusd_epi32(
            from[1], _mm512_or_si512(b, _mm512_and_si512(_mm512_srlv_epi16(h, down), top)), x[1]);
        if (r % 4 == 3) {
            v[0][r / 4] = join_17(t[0]);
            v[1][r / 4] = join_17(t[1]);
        }
    }
    turn(v[0]);
    turn(v[1]);
}

static void row_q6_k(float *acc, const struct rows16 *w, const struct q8 *x, size_t t)
{
    const size_t G = x->K / GROUP;
    struct chain y = { _mm512_setzero_ps(), _mm512_setzero_ps() };

    (void)t;
    for (size_t g = 0; g < G; g += 8) {
        const size_t off = g / 8 * sizeof(struct q6_k);
        int32_t d16[LANES];
        __m512i sc[4];

        transpose(sc, w, off + 192);
#pragma GCC unroll 16
        for (size_t r = 0; r < LANES; r++)
            d16[r] = enc_load16(w->at[r] + off + 208);
        const __m512 d0 = low_half(_mm512_loadu_si512(d16));

#pragma GCC unroll 2
        for (size_t i = 0; i < 2; i++) {
            const size_t here = g + QUAD * i;
            __m512i v[2][4];
            __m512 d[8];
            bool more = false;

            quad_q6_k(v, w, off, i, x->q + here * GROUP, true);
#pragma GCC unroll 8
            for (size_t k = 0; k < 8; k++) { /* half groups */
                const __m512i byte =
                    _mm512_slli_epi32(sc[2 * i + k / 4], 24 - 8 * (unsigned)(k % 4));

                d[k] = _mm512_mul_ps(d0, _mm512_cvtepi32_ps(_mm512_srai_epi32(byte, 24)));
                y.acc = onto(y.acc, v[k / 4][k % 4], d[k], x->d[here + k / 2]);
                more |= x->e[here + k / 2] != 0;
            }
            if (!more)
                continue;
            quad_q6_k(v, w, off, i, x->r + here * GROUP, false);
            for (size_t k = 0; k < 8; k++)
                if (x->e[here + k / 2] != 0)
                    y.rest = onto(y.rest, v[k / 4][k % 4], d[k], x->e[here + k / 2]);
        }
    }
    _mm512_storeu_ps(acc, _mm512_add_ps(y.acc, y.rest));
}

void cpu_kern_row_avx512(struct cpu_kern *k)
{
    k->row[ENC_PACKED4] = row_packed4;
    k->row[ENC_PACKED8] = row_packed8;
    k->row[ENC_Q4_0] = row_q4_0;
    k->row[ENC_Q4_1] = row_q4_1;
    k->row[ENC_Q8_0] = row_q8_0;
    k->row[ENC_Q4_K] = row_q4_k;
    k->row[ENC_Q6_K] = row_q6_k;
}
