#include <immintrin.h>
#include <string.h>

#include "backend/cpu/f8_avx2.inc"
#include "backend/cpu/kern.h"
#include "format/enc/bnb4.h"
#include "format/enc/packed.h"

/* ---- scales and zero points of eight outputs from n on, of scale group g ---- */

static inline __m256 scales8(const struct weight *w, size_t g, size_t n)
{
    const size_t at = g * w->rows + n;
    const uint8_t *p = w->p.scale;
    __m256 s;

    if (w->p.scale_enc == ENC_F32) {
        float f[8];

        memcpy(f, p + 4 * at, sizeof(f));
        s = _mm256_loadu_ps(f);
    } else if (w->p.scale_enc == ENC_F16) {
        s = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 2 * at)));
    } else {
        const __m128i h = _mm_loadu_si128((const __m128i *)(p + 2 * at));

        s = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    }
    return _mm256_mul_ps(s, _mm256_set1_ps(w->p.scale_by));
}

/* One word of AWQ: the codes of eight outputs, in their order. */
static inline __m256i awq8(const uint8_t *words, size_t out, size_t i, size_t n)
{
    const __m256i shift = _mm256_setr_epi32(0, 16, 4, 20, 8, 24, 12, 28);
    const __m256i w = _mm256_set1_epi32((int)enc_load32(words + 4 * (i * (out / 8) + n / 8)));

    return _mm256_and_si256(_mm256_srlv_epi32(w, shift), _mm256_set1_epi32(15));
}

static inline __m256i zeros8(const struct weight *w, size_t g, size_t n)
{
    const uint8_t *p = w->p.zero;
    __m256i z;

    if (w->enc == ENC_AWQ)
        return awq8(p, w->rows, g, n);
    if (w->enc == ENC_GPTQ4) {
        const __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
        const uint32_t word = enc_load32(p + 4 * (g * (w->rows / 8) + n / 8));

        z = _mm256_srlv_epi32(_mm256_set1_epi32((int)word), shift);
        z = _mm256_add_epi32(z, _mm256_set1_epi32(w->p.zero_minus_one));
        return _mm256_and_si256(z, _mm256_set1_epi32(15));
    }
    z = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + g * w->rows + n)));
    z = _mm256_add_epi32(z, _mm256_set1_epi32(w->p.zero_minus_one));
    return _mm256_and_si256(z, _mm256_set1_epi32(255));
}

/* ---- panels of 8-bit codes ---- */

static inline void put_scales(struct group *p, const struct weight *w, size_t g, size_t r0)
{
    for (size_t h = 0; h < 2; h++) {
        const __m256 d = scales8(w, g, r0 + 8 * h);
        const __m256 z = _mm256_cvtepi32_ps(zeros8(w, g, r0 + 8 * h));
        const __m256 m = _mm256_mul_ps(_mm256_sub_ps(_mm256_set1_ps(planes_centre(w)), z), d);

        _mm256_storeu_ps(p->d[0] + 8 * h, d);
        _mm256_storeu_ps(p->m[0] + 8 * h, m);
    }
}

/* Codes of 32 inputs and 16 outputs from a word that holds eight outputs of one input. */
static inline void codes_awq(struct group *p, const struct weight *w, size_t r0, size_t i0)
{
    /* bytes of [low nibbles of 2 words, high nibbles of 2 words] to outputs 0..15 */
    const __m128i order = _mm_setr_epi8(0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15);
    const __m128i low = _mm_set1_epi8(15);

    for (size_t c = 0; c < 8; c++) {
        __m128i x[4];

#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) {
            const size_t at = (i0 + 4 * c + k) * (w->rows / 8) + r0 / 8;
            const __m128i v = _mm_loadl_epi64((const __m128i *)((const uint8_t *)w->data + 4 * at));
            const __m128i both = _mm_unpacklo_epi64(v, _mm_srli_epi16(v, 4));

            x[k] = _mm_shuffle_epi8(_mm_and_si128(both, low), order);
        }
        const __m128i a = _mm_unpacklo_epi8(x[0], x[1]), b = _mm_unpacklo_epi8(x[2], x[3]);
        const __m128i d = _mm_unpackhi_epi8(x[0], x[1]), e = _mm_unpackhi_epi8(x[2], x[3]);
        __m128i *to = (__m128i *)p->code[c];

        _mm_storeu_si128(to, _mm_unpacklo_epi16(a, b));
        _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(a, b));
        _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(d, e));
        _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(d, e));
    }
}

/* The same from words that hold eight inputs of one output. */
static inline void codes_gptq4(struct group *p, const struct weight *w, size_t r0, size_t i0)
{
    const __m256i low = _mm256_set1_epi8(15);
    /* bytes 0 and 1 of every word to places 0 and 2, or to 1 and 3 */
    const __m256i even = _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1,
                                          0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    const __m256i odd = _mm256_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13,
                                         -1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13);

    for (size_t k = 0; k < 4; k++) {
        const uint8_t *from = (const uint8_t *)w->data + 4 * ((i0 / 8 + k) * w->rows + r0);

#pragma GCC unroll 2
        for (size_t h = 0; h < 2; h++) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(from + 32 * h));
            const __m256i lo = _mm256_and_si256(v, low);
            const __m256i hi = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
            const __m256i lo2 = _mm256_srli_epi32(lo, 16), hi2 = _mm256_srli_epi32(hi, 16);

            _mm256_storeu_si256(
                (__m256i *)(p->code[2 * k] + 32 * h),
                _mm256_or_si256(_mm256_shuffle_epi8(lo, even), _mm256_shuffle_epi8(hi, odd)));
            _mm256_storeu_si256(
                (__m256i *)(p->code[2 * k + 1] + 32 * h),
                _mm256_or_si256(_mm256_shuffle_epi8(lo2, even), _mm256_shuffle_epi8(hi2, odd)));
        }
    }
}

static inline void codes_gptq8(struct group *p, const struct weight *w, size_t r0, size_t i0)
{
    for (size_t k = 0; k < 8; k++)
        memcpy(p->code[k], (const uint8_t *)w->data + 4 * ((i0 / 4 + k) * w->rows + r0), 64);
}

/* Inputs one by one, as planes.order says. */
static inline void codes_ordered(struct group *p, const struct weight *w, size_t r0, size_t i0,
                                 const size_t bits)
{
    const size_t per = 32 / bits;
    const __m256i mask = _mm256_set1_epi32((1 << bits) - 1);

    for (size_t c = 0; c < 8; c++) {
        __m256i sum[2] = { _mm256_setzero_si256(), _mm256_setzero_si256() };

        for (size_t k = 0; k < 4; k++) {
            const size_t i = (size_t)w->p.order[i0 + 4 * c + k];
            const uint8_t *from = (const uint8_t *)w->data + 4 * (i / per * w->rows + r0);
            const __m128i down = _mm_cvtsi32_si128((int)(bits * (i % per)));
            const __m128i up = _mm_cvtsi32_si128((int)(8 * k));

#pragma GCC unroll 2
            for (size_t h = 0; h < 2; h++) {
                const __m256i v = _mm256_loadu_si256((const __m256i *)(from + 32 * h));
                const __m256i q = _mm256_and_si256(_mm256_srl_epi32(v, down), mask);

                sum[h] = _mm256_or_si256(sum[h], _mm256_sll_epi32(q, up));
            }
        }
        _mm256_storeu_si256((__m256i *)p->code[c], sum[0]);
        _mm256_storeu_si256((__m256i *)(p->code[c] + 32), sum[1]);
    }
}

static void unpack(struct group *p, const struct weight *w, size_t r0, size_t R, size_t g0,
                   size_t ng)
{
    if (R < LANES) { /* the rows after the last are not there to be read */
        unpack_planes_generic(p, w, r0, R, g0, ng);
        return;
    }
    for (size_t g = 0; g < ng; g++) {
        const size_t i0 = (g0 + g) * GROUP, sg = i0 / w->p.group;

        if (w->enc == ENC_AWQ)
            codes_awq(p + g, w, r0, i0);
        else if (w->p.order)
            codes_ordered(p + g, w, r0, i0, w->enc == ENC_GPTQ4 ? 4 : 8);
        else if (w->enc == ENC_GPTQ4)
            codes_gptq4(p + g, w, r0, i0);
        else
            codes_gptq8(p + g, w, r0, i0);
        if (g == 0 || i0 % w->p.group == 0) {
            put_scales(p + g, w, sg, r0);
        } else {
            memcpy(p[g].d[0], p[g - 1].d[0], sizeof(p->d[0]));
            memcpy(p[g].m[0], p[g - 1].m[0], sizeof(p->m[0]));
        }
    }
}

/* Codes of row `from`, inputs one by one as `order` says. */
INLINE void codes_of(uint8_t t[GROUP], const uint8_t *from, const int32_t *order, const bool four)
{
#pragma GCC unroll 8
    for (size_t k = 0; k < GROUP; k++) {
        const unsigned i = (unsigned)order[k];

        t[k] = (uint8_t)(four ? from[i / 2] >> (4 * (i % 2)) & 15 : from[i]);
    }
}

/* 32 values of every row, a byte each: row by row here, four bytes of each row there. */
static inline void codes_packed(struct group *p, const struct weight *w, size_t r0, size_t R,
                                size_t i0)
{
    const __m128i low = _mm_set1_epi8(15);

    for (size_t l = 0; l < LANES; l++) {
        const size_t r = r0 + (l < R ? l : R - 1);
        const uint8_t *from = (const uint8_t *)w->data + r * w->row_bytes;
        uint8_t t[GROUP];

        if (w->p.order && w->enc == ENC_PACKED4) {
            codes_of(t, from, w->p.order + i0, true);
        } else if (w->p.order) {
            codes_of(t, from, w->p.order + i0, false);
        } else if (w->enc == ENC_PACKED4) {
            const __m128i v = _mm_loadu_si128((const __m128i *)(from + i0 / 2));
            const __m128i lo = _mm_and_si128(v, low);
            const __m128i hi = _mm_and_si128(_mm_srli_epi16(v, 4), low);

            _mm_storeu_si128((__m128i *)t, _mm_unpacklo_epi8(lo, hi));
            _mm_storeu_si128((__m128i *)(t + 16), _mm_unpackhi_epi8(lo, hi));
        } else {
            memcpy(t, from + i0, GROUP);
        }
        for (size_t c = 0; c < 8; c++)
            memcpy(p->code[c] + 4 * l, t + 4 * c, 4);
    }
}

static void unpack_packed(struct group *p, const struct weight *w, size_t r0, size_t R, size_t g0,
                          size_t ng)
{
    const size_t G = (w->cols + w->p.group - 1) / w->p.group;
    const unsigned bits = w->enc == ENC_PACKED4 ? 4 : 8;

    for (size_t g = 0; g < ng; g++) {
        const size_t i0 = (g0 + g) * GROUP, sg = i0 / w->p.group;

        codes_packed(p + g, w, r0, R, i0);
        if (g && i0 % w->p.group) {
            memcpy(p[g].d[0], p[g - 1].d[0], sizeof(p->d[0]));
            memcpy(p[g].m[0], p[g - 1].m[0], sizeof(p->m[0]));
            continue;
        }
        for (size_t l = 0; l < LANES; l++) {
            const size_t r = r0 + (l < R ? l : R - 1);
            const float d = planes_scale(&w->p, r * G + sg);

            p[g].d[0][l] = d;
            p[g].m[0][l] = (planes_centre(w) - (float)packed_zero(w->p.zero, bits, G, r, sg)) * d;
        }
    }
}

/* ---- rows of floats ---- */

static inline void transpose8(__m256 v[8])
{
    __m256 t[8];

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        v[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        v[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
        v[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        v[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
    }
    memcpy(v, t, sizeof(t));
}

/* Codes of input i for eight outputs from r0 on. */
static inline __m256i input8(const struct weight *w, size_t i, size_t r0)
{
    if (w->enc == ENC_AWQ)
        return awq8(w->data, w->rows, i, r0);
    const size_t bits = w->enc == ENC_GPTQ4 ? 4 : 8, per = 32 / bits;
    const uint8_t *from = (const uint8_t *)w->data + 4 * (i / per * w->rows + r0);
    const __m256i v = _mm256_loadu_si256((const __m256i *)from);

    return _mm256_and_si256(_mm256_srl_epi32(v, _mm_cvtsi32_si128((int)(bits * (i % per)))),
                            _mm256_set1_epi32((1 << bits) - 1));
}

/* AWQ and GPTQ: a register is eight outputs of one input, so eight inputs are turned at a time. */
static void decode_columns(float *y, const struct weight *w, size_t r0, size_t n)
{
    size_t i = 0, last = SIZE_MAX;
    __m256i z = _mm256_setzero_si256();
    __m256 d = _mm256_setzero_ps();

    if (n < 8) {
        decode_planes_generic(y, w, r0, n);
        return;
    }
    for (; i < w->cols; i += 8) {
        const size_t m = w->cols - i < 8 ? w->cols - i : 8;
        __m256 v[8];

        for (size_t k = 0; k < m; k++) {
            const size_t g =
                w->p.group_of ? enc_load32(w->p.group_of + 4 * (i + k)) : (i + k) / w->p.group;

            if (g != last) {
                z = zeros8(w, g, r0);
                d = scales8(w, g, r0);
                last = g;
            }
            v[k] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(input8(w, i + k, r0), z)), d);
        }
        for (size_t k = m; k < 8; k++)
            v[k] = _mm256_setzero_ps();
        transpose8(v);
        for (size_t r = 0; r < 8; r++) {
            float t[8];

            _mm256_storeu_ps(t, v[r]);
            memcpy(y + r * w->cols + i, t, m * sizeof(*t));
        }
    }
}

static inline void scaled16(float *y, const uint8_t *q, enum enc enc, __m256 s)
{
    if (enc == ENC_F8) {
        const __m256i h = f8(q, true);

        s = _mm256_mul_ps(s, _mm256_set1_ps(256));
        _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), s));
        _mm256_storeu_ps(y + 8, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)), s));
    } else {
        const __m128i b = _mm_loadu_si128((const __m128i *)q);

        _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)), s));
        _mm256_storeu_ps(
            y + 8,
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(b, 8))), s));
    }
}

/* F8 and INT8. */
static void decode_scaled(float *y, const struct weight *w, size_t r0, size_t n)
{
    const size_t per_row = (w->cols + w->p.group - 1) / w->p.group;

    for (size_t r = r0; r < r0 + n; r++, y += w->cols) {
        const uint8_t *q = (const uint8_t *)w->data + r * w->row_bytes;

        for (size_t g = 0; g < per_row; g++) {
            const __m256 s = _mm256_set1_ps(planes_scale(&w->p, r / w->p.row_group * per_row + g));
            const size_t left = w->cols - g * w->p.group;
            const size_t end = g * w->p.group + (left < w->p.group ? left : w->p.group);
            size_t i = g * w->p.group;

            for (; i + 16 <= end; i += 16)
                scaled16(y + i, q + i, w->enc, s);
            if (i < end) {
                uint8_t part[16] = { 0 };
                float t[16];

                memcpy(part, q + i, end - i);
                scaled16(t, part, w->enc, s);
                memcpy(y + i, t, (end - i) * sizeof(*t));
            }
        }
    }
}

static inline __m256 round8(__m256 v, enum enc to)
{
    if (to == ENC_F16)
        return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    if (to == ENC_BF16) {
        __m256i u = _mm256_castps_si256(v);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));

        u = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
        return _mm256_castsi256_ps(_mm256_and_si256(u, _mm256_set1_epi32((int)0xFFFF0000)));
    }
    return v;
}

static inline __m256 lookup8(__m256 low, __m256 high, __m256i q)
{
    const __m256 pick = _mm256_castsi256_ps(_mm256_slli_epi32(q, 28));

    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, q), _mm256_permutevar8x32_ps(high, q),
                            pick);
}

/* NF4 and FP4, where blocks neither cross rows nor end inside sixteen values. */
static void decode_bnb4(float *y, const struct weight *w, size_t r0, size_t n)
{
    const struct planes *p = &w->p;

    if (w->cols % p->group || p->group % 16) {
        decode_planes_generic(y, w, r0, n);
        return;
    }
    float map[16];

    memcpy(map, p->map, sizeof(map));
    const __m256 low = _mm256_loadu_ps(map), high = _mm256_loadu_ps(map + 8);
    const uint8_t *q = (const uint8_t *)w->data + r0 * w->cols / 2;
    const size_t first = r0 * w->cols / p->group, blocks = n * w->cols / p->group;

    for (size_t b = 0; b < blocks; b++) {
        const float a = p->scale_enc == ENC_U8
                            ? bnb4_nested(p->scale, p->nested_map, p->nested_absmax,
                                          p->nested_group, p->nested_offset, first + b)
                            : planes_scale(p, first + b);
        const __m256 s = _mm256_set1_ps(a);

        for (size_t i = 0; i < p->group; i += 16, q += 8, y += 16) {
            const __m128i v = _mm_loadl_epi64((const __m128i *)q);
            const __m128i h = _mm_and_si128(_mm_srli_epi16(v, 4), _mm_set1_epi8(15));
            const __m128i l = _mm_and_si128(v, _mm_set1_epi8(15));
            const __m128i c = _mm_unpacklo_epi8(h, l);
            const __m256i c0 = _mm256_cvtepu8_epi32(c);
            const __m256i c1 = _mm256_cvtepu8_epi32(_mm_srli_si128(c, 8));

            _mm256_storeu_ps(y, round8(_mm256_mul_ps(lookup8(low, high, c0), s), p->round));
            _mm256_storeu_ps(y + 8, round8(_mm256_mul_ps(lookup8(low, high, c1), s), p->round));
        }
    }
}

/* Sixteen codes, less z, times s. */
static inline void packed16(float *y, __m128i codes, __m256i z, __m256 s)
{
    const __m256i a = _mm256_cvtepu8_epi32(codes);
    const __m256i b = _mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8));

    _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(a, z)), s));
    _mm256_storeu_ps(y + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(b, z)), s));
}

/* PACKED4 and PACKED8, where groups do not end inside sixteen values. */
static void decode_packed(float *y, const struct weight *w, size_t r0, size_t n)
{
    const struct planes *p = &w->p;
    const size_t G = (w->cols + p->group - 1) / p->group;
    const unsigned bits = w->enc == ENC_PACKED4 ? 4 : 8;

    if (w->cols % 16 || p->group % 16 || p->group_of) {
        decode_planes_generic(y, w, r0, n);
        return;
    }
    for (size_t r = r0; r < r0 + n; r++, y += w->cols) {
        const uint8_t *q = (const uint8_t *)w->data + r * w->row_bytes;

        for (size_t i = 0; i < w->cols; i += 16) {
            const size_t g = i / p->group;
            const __m256 s = _mm256_set1_ps(planes_scale(p, r * G + g));
            const __m256i z = _mm256_set1_epi32((int)packed_zero(p->zero, bits, G, r, g));

            if (bits == 4) {
                const __m128i v = _mm_loadl_epi64((const __m128i *)(q + i / 2));
                const __m128i lo = _mm_and_si128(v, _mm_set1_epi8(15));
                const __m128i hi = _mm_and_si128(_mm_srli_epi16(v, 4), _mm_set1_epi8(15));

                packed16(y + i, _mm_unpacklo_epi8(lo, hi), z, s);
            } else {
                packed16(y + i, _mm_loadu_si128((const __m128i *)(q + i)), z, s);
            }
        }
    }
}

void cpu_kern_planes_avx2(struct cpu_kern *k)
{
    static const enum enc packed[] = { ENC_AWQ, ENC_GPTQ4, ENC_GPTQ8 };

    for (size_t i = 0; i < ARRAY_LEN(packed); i++) {
        k->unpack_planes[packed[i]] = unpack;
        k->decode_planes[packed[i]] = decode_columns;
    }
    k->unpack_planes[ENC_PACKED4] = k->unpack_planes[ENC_PACKED8] = unpack_packed;
    k->decode_planes[ENC_PACKED4] = k->decode_planes[ENC_PACKED8] = decode_packed;
    k->decode_planes[ENC_F8] = k->decode_planes[ENC_INT8] = decode_scaled;
    k->decode_planes[ENC_FP4] = k->decode_planes[ENC_NF4] = decode_bnb4;
}
