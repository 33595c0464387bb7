#include <immintrin.h>
#include <math.h>

#include "backend/cpu/f8_avx2.inc"
#include "backend/cpu/kern.h"
#include "backend/cpu/lanes_avx2.inc"

struct lanes {
    __m256 a, b;
};
#define v struct lanes

static inline v v_zero(void)
{
    return (v){ _mm256_setzero_ps(), _mm256_setzero_ps() };
}
static inline v v_fma(v a, v b, v c)
{
    return (v){ _mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b) };
}

/* A scale in every lane, or the sixteen values of a map: as floats, or, of values that are rounded
 * to sixteen bits, their low bytes and their high ones, twice. */
struct by {
    v f;
    __m256i low, high;
};

static inline struct by by_scale(float s)
{
    return (struct by){ .f = { _mm256_set1_ps(s), _mm256_set1_ps(s) } };
}

/* Codes of E4M3 shifted to where a float32 has exponent and mantissa are 2^-120 of them, as f16
 * (f8) 1/256: b and a undo that. */
static inline struct by by_f8(float s)
{
    return (struct by){ .f = { _mm256_set1_ps(s * 256), _mm256_set1_ps(s * 0x1p120f) } };
}

static inline bool f8_slow(const struct by *by)
{
    return !(fabsf(_mm256_cvtss_f32(by->f.b)) < INFINITY);
}

/* Eight codes of E4M3, any but NaN, as 2^-120 of them. */
static inline __m256 f8x8(const uint8_t *p)
{
    const __m256i w = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
    const __m256i bits = _mm256_set1_epi32((int)0x87F00000);

    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_slli_epi32(w, 20), bits));
}

/* A copy in an array first would be two stores, from which one load has to wait. */
static inline __m256 f32x8(const uint8_t *p)
{
    return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* The upper half of each is what the float rounds to in bf16. */
static inline __m256i bf16_round(__m256 m)
{
    const __m256i u = _mm256_castps_si256(m);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));

    return _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
}

/* map * a, rounded to `to` */
static inline struct by by_map(const uint8_t *map, float a, const enum enc to)
{
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    /* in either half: eight low bytes, then the high ones */
    const __m256i split = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0,
                                           2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const v m = { _mm256_mul_ps(f32x8(map), _mm256_set1_ps(a)),
                  _mm256_mul_ps(f32x8(map + 32), _mm256_set1_ps(a)) };

    if (to == ENC_F16) {
        const __m256i h =
            _mm256_setr_m128i(_mm256_cvtps_ph(m.a, NEAREST), _mm256_cvtps_ph(m.b, NEAREST));
        const __m256i s = _mm256_shuffle_epi8(h, split);

        return (struct by){ .low = _mm256_permute4x64_epi64(s, 0x88),
                            .high = _mm256_permute4x64_epi64(s, 0xDD) };
    }
    if (to == ENC_BF16) {
        /* values 0..3, 8..11, and in the upper half 4..7, 12..15 */
        const __m256i h = _mm256_packus_epi32(_mm256_srli_epi32(bf16_round(m.a), 16),
                                              _mm256_srli_epi32(bf16_round(m.b), 16));
        const __m256i s = _mm256_shuffle_epi8(h, split);
        const __m256i low = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
        const __m256i high = _mm256_setr_epi32(2, 6, 3, 7, 2, 6, 3, 7);

        return (struct by){ .low = _mm256_permutevar8x32_epi32(s, low),
                            .high = _mm256_permutevar8x32_epi32(s, high) };
    }
    return (struct by){ .f = m };
}

/* For codes of four bits a has the even values, whose codes are high nibbles, and b the odd ones.
 */
static inline v x_load(const float *x, const enum enc enc)
{
    const __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(x + 8);

    if (enc != ENC_NF4)
        return (v){ a, b };
    const __m256d even = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    const __m256d odd = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xDD));

    return (v){ _mm256_castpd_ps(_mm256_permute4x64_pd(even, 0xD8)),
                _mm256_castpd_ps(_mm256_permute4x64_pd(odd, 0xD8)) };
}

static inline float v_end(v f, const enum enc enc)
{
    if (enc == ENC_NF4) {
        const __m256 lo = _mm256_unpacklo_ps(f.a, f.b), hi = _mm256_unpackhi_ps(f.a, f.b);

        f = (v){ _mm256_permute2f128_ps(lo, hi, 0x20), _mm256_permute2f128_ps(lo, hi, 0x31) };
    }
    return sum8(_mm256_add_ps(f.a, f.b));
}

static inline __m256 bf16x8(const uint8_t *p)
{
    const __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));

    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}

static inline __m256 i8x8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

static inline v values16(const uint8_t *p, const struct by *by, const enum enc enc, const bool nan)
{
    if (enc == ENC_F16)
        return (v){ _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 16))) };
    if (enc == ENC_BF16)
        return (v){ bf16x8(p), bf16x8(p + 16) };
    if (enc == ENC_F8 && !nan)
        return (v){ _mm256_mul_ps(f8x8(p), by->f.b), _mm256_mul_ps(f8x8(p + 8), by->f.b) };
    if (enc == ENC_F8) {
        const __m256i h = f8(p, true);

        return (v){ _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), by->f.a),
                    _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)), by->f.a) };
    }
    return (v){ _mm256_mul_ps(i8x8(p), by->f.a), _mm256_mul_ps(i8x8(p + 8), by->f.b) };
}

/* Eight codes, of which the lowest four bits count: a lookup goes by three, the fourth picks the
 * half of the map. */
static inline __m256 mapped8(__m256i q, v map)
{
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(map.a, q), _mm256_permutevar8x32_ps(map.b, q),
                            _mm256_castsi256_ps(_mm256_slli_epi32(q, 28)));
}

/* Bytes of codes to their values' sixteen bits: of the lower eight in each half, or the upper. */
static inline __m256i halfwords(__m256i q, const struct by *by, const bool upper)
{
    const __m256i low = _mm256_shuffle_epi8(by->low, q), high = _mm256_shuffle_epi8(by->high, q);

    return upper ? _mm256_unpackhi_epi8(low, high) : _mm256_unpacklo_epi8(low, high);
}

/* Sixteen f16, to the lower values of w and those two further on. */
static inline void f16_apart(__m256 *w, __m256 *later, __m256i h)
{
    *w = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
    *later = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
}

/* Sixteen bf16 by turns. */
static inline void bf16_apart(__m256 *w, __m256 *next, __m256i h)
{
    *w = _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
    *next = _mm256_castsi256_ps(_mm256_and_si256(h, _mm256_set1_epi32((int)0xFFFF0000)));
}

static inline void mapped64(v w[4], const uint8_t *p, const struct by *by, const enum enc to)
{
    __m256i q = _mm256_loadu_si256((const __m256i *)p);

    if (to == ENC_F16) { /* bytes of w[0] and w[2] are the lower eight of each half */
        const __m256i even = high4(q), odd = low4(q);

        f16_apart(&w[0].a, &w[2].a, halfwords(even, by, false));
        f16_apart(&w[1].a, &w[3].a, halfwords(even, by, true));
        f16_apart(&w[0].b, &w[2].b, halfwords(odd, by, false));
        f16_apart(&w[1].b, &w[3].b, halfwords(odd, by, true));
    } else if (to == ENC_BF16) { /* bytes of w[0] and w[1] by turns, then those of w[2] and w[3] */
        const __m256i turns =
            _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 0, 8, 1, 9, 2,
                             10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);

        q = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(q, turns), 0xD8);
        const __m256i even = high4(q), odd = low4(q);

        bf16_apart(&w[0].a, &w[1].a, halfwords(even, by, false));
        bf16_apart(&w[2].a, &w[3].a, halfwords(even, by, true));
        bf16_apart(&w[0].b, &w[1].b, halfwords(odd, by, false));
        bf16_apart(&w[2].b, &w[3].b, halfwords(odd, by, true));
    } else {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            const __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8 * j)));

            w[j] = (v){ mapped8(_mm256_srli_epi32(b, 4), by->f), mapped8(b, by->f) };
        }
    }
}

#include "backend/cpu/row_floats.inc"

void cpu_kern_row_floats_avx2(struct cpu_kern *k)
{
    fill_row_floats(k);
}
