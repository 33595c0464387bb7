#include <immintrin.h>

#include "backend/cpu/f8_avx2.inc"
#include "backend/cpu/kern.h"

typedef __m512 v;

static inline v v_zero(void)
{
    return _mm512_setzero_ps();
}
static inline v v_fma(v a, v b, v c)
{
    return _mm512_fmadd_ps(a, b, c);
}

struct by {
    v f; /* a scale in every lane, or the sixteen values of a map */
};

static inline struct by by_scale(float s)
{
    return (struct by){ _mm512_set1_ps(s) };
}

static inline struct by by_f8(float s)
{
    return by_scale(s * 256);
}

static inline bool f8_slow(const struct by *by)
{
    (void)by;
    return false;
}

/* map * a, rounded to `to` */
static inline struct by by_map(const uint8_t *map, float a, enum enc to)
{
    v m = _mm512_mul_ps(_mm512_loadu_ps(map), _mm512_set1_ps(a));

    if (to == ENC_F16)
        m = _mm512_cvtph_ps(_mm512_cvtps_ph(m, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    if (to == ENC_BF16) {
        const __m512i u = _mm512_castps_si512(m);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        const __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);

        m = _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32((int)0xFFFF0000)));
    }
    return (struct by){ m };
}

/* For codes of four bits lane 2k is value k and lane 2k+1 value 8+k: then a word of 64 bits in
 * every pair of lanes is all that their shifts need. */
static inline v x_load(const float *x, const enum enc enc)
{
    const __m512i at = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    const v f = _mm512_loadu_ps(x);

    return enc == ENC_NF4 ? _mm512_permutexvar_ps(at, f) : f;
}

static inline float v_end(v f, const enum enc enc)
{
    const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);

    return _mm512_reduce_add_ps(enc == ENC_NF4 ? _mm512_permutexvar_ps(at, f) : f);
}

static inline v values16(const uint8_t *p, const struct by *by, const enum enc enc, const bool nan)
{
    if (enc == ENC_F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
    if (enc == ENC_BF16) {
        const __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));

        return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
    }
    if (enc == ENC_F8)
        return _mm512_mul_ps(_mm512_cvtph_ps(f8(p, nan)), by->f);
    const __m512i q = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));

    return _mm512_mul_ps(_mm512_cvtepi32_ps(q), by->f);
}

/* The high nibble of a byte is the first value; a lookup goes by the lowest four bits. */
static inline void mapped64(v w[4], const uint8_t *p, const struct by *by, const enum enc to)
{
    const __m512i down =
        _mm512_setr_epi32(4, 4, 0, 0, 12, 12, 8, 8, 20, 20, 16, 16, 28, 28, 24, 24);

    (void)to; /* as the map is */
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        uint64_t codes;

        memcpy(&codes, p + 8 * j, 8);
        w[j] = _mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_set1_epi64((long long)codes), down),
                                     by->f);
    }
}

#include "backend/cpu/row_floats.inc"

void cpu_kern_row_floats_avx512(struct cpu_kern *k)
{
    fill_row_floats(k);
}
