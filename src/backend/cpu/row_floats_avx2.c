#include <immintrin.h>

#include "backend/cpu/f8_avx2.inc"
#include "backend/cpu/kern.h"

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

struct by {
    v f; /* a scale in every lane, or the sixteen values of a map */
};

static inline struct by by_scale(float s)
{
    return (struct by){ { _mm256_set1_ps(s), _mm256_set1_ps(s) } };
}

static inline __m256 rounded(__m256 m, enum enc to)
{
    if (to == ENC_F16)
        return _mm256_cvtph_ps(_mm256_cvtps_ph(m, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    if (to == ENC_BF16) {
        const __m256i u = _mm256_castps_si256(m);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
        const __m256i up = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);

        return _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32((int)0xFFFF0000)));
    }
    return m;
}

/* map * a, rounded to `to` */
static inline struct by by_map(const uint8_t *map, float a, enum enc to)
{
    float m[16];

    memcpy(m, map, sizeof(m));
    return (struct by){ { rounded(_mm256_mul_ps(_mm256_loadu_ps(m), _mm256_set1_ps(a)), to),
                          rounded(_mm256_mul_ps(_mm256_loadu_ps(m + 8), _mm256_set1_ps(a)), to) } };
}

static inline v x_load(const float *x, const enum enc enc)
{
    (void)enc;
    return (v){ _mm256_loadu_ps(x), _mm256_loadu_ps(x + 8) };
}

static inline float v_end(v f, const enum enc enc)
{
    const __m256 s = _mm256_add_ps(f.a, f.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));

    (void)enc;
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
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

/* Eight codes of four bits: the high nibble of a byte is the first value, a lookup goes by the
 * lowest three bits, and the fourth picks the half of the map. */
static inline __m256 mapped(const uint8_t *p, v map)
{
    const __m256i down = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    const __m256i q = _mm256_srlv_epi32(_mm256_set1_epi32((int)enc_load32(p)), down);

    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(map.a, q), _mm256_permutevar8x32_ps(map.b, q),
                            _mm256_castsi256_ps(_mm256_slli_epi32(q, 28)));
}

static inline v values16(const uint8_t *p, const struct by *by, const enum enc enc, const bool nan)
{
    if (enc == ENC_F16)
        return (v){ _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 16))) };
    if (enc == ENC_BF16)
        return (v){ bf16x8(p), bf16x8(p + 16) };
    if (enc == ENC_F8) {
        const __m256i h = f8(p, nan);

        return (v){ _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), by->f.a),
                    _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)), by->f.b) };
    }
    if (enc == ENC_INT8)
        return (v){ _mm256_mul_ps(i8x8(p), by->f.a), _mm256_mul_ps(i8x8(p + 8), by->f.b) };
    return (v){ mapped(p, by->f), mapped(p + 4, by->f) };
}

#include "backend/cpu/row_floats.inc"

void cpu_kern_row_floats_avx2(struct cpu_kern *k)
{
    fill_row_floats(k);
}
