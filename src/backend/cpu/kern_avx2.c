#include <immintrin.h>

#include "backend/cpu/kern.h"
#include "backend/cpu/lanes_avx2.inc"

struct lanes {
    __m256 a, b;
};
#define v16 struct lanes

#define BOTH(fn, ...) (v16){ fn(x.a, ##__VA_ARGS__), fn(x.b, ##__VA_ARGS__) }
#define PAIR(fn) (v16){ fn(x.a, y.a), fn(x.b, y.b) }

static inline v16 v_set1(float f)
{
    return (v16){ _mm256_set1_ps(f), _mm256_set1_ps(f) };
}
static inline v16 v_load(const float *p)
{
    return (v16){ _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8) };
}
static inline void v_store(float *p, v16 x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline v16 v_add(v16 x, v16 y) { return PAIR(_mm256_add_ps); }
static inline v16 v_sub(v16 x, v16 y) { return PAIR(_mm256_sub_ps); }
static inline v16 v_mul(v16 x, v16 y) { return PAIR(_mm256_mul_ps); }
static inline v16 v_div(v16 x, v16 y) { return PAIR(_mm256_div_ps); }
static inline v16 v_max(v16 x, v16 y) { return PAIR(_mm256_max_ps); }
static inline v16 v_min(v16 x, v16 y) { return PAIR(_mm256_min_ps); }
static inline v16 v_fma(v16 x, v16 y, v16 z)
{
    return (v16){ _mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b) };
}
static inline v16 v_abs(v16 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);

    return (v16){ _mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b) };
}
static inline v16 v_round(v16 x)
{
    return BOTH(_mm256_round_ps, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline __m256 pow2(__m256 n)
{
    const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));

    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
static inline v16 v_ldexp(v16 x, v16 n)
{
    return (v16){ _mm256_mul_ps(x.a, pow2(n.a)), _mm256_mul_ps(x.b, pow2(n.b)) };
}
static inline v16 v_load_f16(const uint8_t *p)
{
    return (v16){ _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                  _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 16))) };
}
static inline __m256 bf16x8(const uint8_t *p)
{
    const __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));

    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}
static inline v16 v_load_bf16(const uint8_t *p)
{
    return (v16){ bf16x8(p), bf16x8(p + 16) };
}
static inline v16 v_load_i8(const int8_t *p)
{
    const __m128i b = _mm_loadu_si128((const __m128i *)p);

    return (v16){ _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)),
                  _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(b, 8))) };
}
static inline float v_one_f16(const uint8_t p[2])
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(p[0] | p[1] << 8)));
}
static inline float v_sum(v16 x)
{
    return sum8(_mm256_add_ps(x.a, x.b));
}
/* v_sum of four, in its order */
static inline void sum4(float *out, const __m256 s[4])
{
    const __m256 a = _mm256_add_ps(_mm256_permute2f128_ps(s[0], s[1], 0x20),
                                   _mm256_permute2f128_ps(s[0], s[1], 0x31));
    const __m256 b = _mm256_add_ps(_mm256_permute2f128_ps(s[2], s[3], 0x20),
                                   _mm256_permute2f128_ps(s[2], s[3], 0x31));
    const __m256 c = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 d = _mm256_add_ps(c, _mm256_permute_ps(c, 0xEE));

    _mm_storeu_ps(out, _mm_unpacklo_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1)));
}

static inline void v_sum4(float *out, const v16 x[4])
{
    const __m256 s[4] = { _mm256_add_ps(x[0].a, x[0].b), _mm256_add_ps(x[1].a, x[1].b),
                          _mm256_add_ps(x[2].a, x[2].b), _mm256_add_ps(x[3].a, x[3].b) };

    sum4(out, s);
}
static inline float v_hmax(v16 x)
{
    return largest8(_mm256_max_ps(x.a, x.b));
}
static inline int v_to_i8(int8_t *p, v16 x)
{
    const __m256i w = _mm256_permute4x64_epi64(
        _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)), 0xD8);
    const __m128i b = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    /* as unsigned bytes, 128 too large each: one sum of absolute differences adds all */
    const __m128i s = _mm_sad_epu8(_mm_xor_si128(b, _mm_set1_epi8(-128)), _mm_setzero_si128());

    _mm_storeu_si128((__m128i *)p, b);
    return _mm_cvtsi128_si32(s) + _mm_extract_epi16(s, 4) - 16 * 128;
}

/* rows and tokens whose sums fit the registers */
enum { DOT_R = 2, DOT_S = 3 };
/* attention: vectors of four slots, slots and vectors of a value whose sums do */
enum { ATTN_QUADS = 1, ATTN_SLOTS = 2, ATTN_VECTORS = 1 };

static inline v16 lower(v16 x, v16 y)
{
    return (v16){ _mm256_permute2f128_ps(x.a, y.a, 0x20), _mm256_permute2f128_ps(x.b, y.b, 0x20) };
}
static inline v16 upper(v16 x, v16 y)
{
    return (v16){ _mm256_permute2f128_ps(x.a, y.a, 0x31), _mm256_permute2f128_ps(x.b, y.b, 0x31) };
}
/* The four-lanes of four vectors as columns: lane r of x[d] is what lane d of x[r] was. */
static inline void v_turn4(v16 x[4])
{
    const v16 a = lower(x[0], x[1]), b = upper(x[0], x[1]);
    const v16 c = lower(x[2], x[3]), d = upper(x[2], x[3]);

    x[0] = (v16){ a.a, c.a };
    x[1] = (v16){ b.a, d.a };
    x[2] = (v16){ a.b, c.b };
    x[3] = (v16){ b.b, d.b };
}
/* The same of four rows of the cache, `apart` bytes from one another; of bytes, times d. */
static inline void v_turn4_f16(v16 x[4], const uint8_t *p, size_t apart)
{
#pragma GCC unroll 4
    for (size_t r = 0; r < 4; r++)
        x[r] = v_load_f16(p + r * apart);
    v_turn4(x);
}
static inline void v_turn4_bf16(v16 x[4], const uint8_t *p, size_t apart)
{
#pragma GCC unroll 4
    for (size_t r = 0; r < 4; r++)
        x[r] = v_load_bf16(p + r * apart);
    v_turn4(x);
}
static inline void v_turn4_i8(v16 x[4], const int8_t *p, size_t apart, const float d[4])
{
#pragma GCC unroll 4
    for (size_t r = 0; r < 4; r++)
        x[r] = v_mul(v_load_i8(p + r * apart), v_set1(d[r]));
    v_turn4(x);
}
static inline v16 v_held(v16 x) { return x; }
/* four-lanes 2 3 0 1, and 1 0 3 2 */
static inline v16 v_far(v16 x)
{
    return (v16){ x.b, x.a };
}
static inline v16 v_near(v16 x)
{
    return (v16){ _mm256_permute2f128_ps(x.a, x.a, 1), _mm256_permute2f128_ps(x.b, x.b, 1) };
}
static inline __m256 quad_sum(__m256 x, __m256 y, __m256 z, __m256 w)
{
    const __m256 a = _mm256_add_ps(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
    const __m256 b = _mm256_add_ps(_mm256_unpacklo_ps(z, w), _mm256_unpackhi_ps(z, w));

    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xEE));
}
/* element a of four-lane r is the sum of lane r of x[a], (0 + 2) + (1 + 3) */
static inline v16 v_quad_sum(const v16 x[4])
{
    return (v16){ quad_sum(x[0].a, x[1].a, x[2].a, x[3].a),
                  quad_sum(x[0].b, x[1].b, x[2].b, x[3].b) };
}

#include "backend/cpu/kern.inc"

#include "backend/cpu/scalar_lanes.inc"

enum { GEMM_R = 3, GEMM_FEW = 2 };

#include "backend/cpu/train.inc"

#include "backend/cpu/encoder.inc"

void cpu_kern_avx2(struct cpu_kern *k)
{
    fill_floats(k);
    fill_train(k);
    fill_encoder(k);
}
