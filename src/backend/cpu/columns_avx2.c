#include <immintrin.h>

#include "backend/cpu/kern.h"

enum { W = 8 };
typedef __m256i vi;
typedef __m256 vf;

static inline vi vi_set1(int32_t a) { return _mm256_set1_epi32(a); }
static inline vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
static inline vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
static inline vi vi_low4(vi v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
static inline vi vi_high4(vi v) { return vi_low4(_mm256_srli_epi16(v, 4)); }
static inline vi vi_unlo8(vi a, vi b) { return _mm256_unpacklo_epi8(a, b); }
static inline vi vi_unhi8(vi a, vi b) { return _mm256_unpackhi_epi8(a, b); }
static inline vi vi_unlo16(vi a, vi b) { return _mm256_unpacklo_epi16(a, b); }
static inline vi vi_unhi16(vi a, vi b) { return _mm256_unpackhi_epi16(a, b); }
static inline vf vf_set1(float a) { return _mm256_set1_ps(a); }
static inline vf vf_of(vi v) { return _mm256_cvtepi32_ps(v); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }

/* Words from..to of W, zeros beside them. */
static inline vi vi_load(const uint8_t *p, size_t from, size_t to, const bool whole)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    if (whole)
        return _mm256_loadu_si256((const __m256i *)p);
    const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)from), lane);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)to), lane);

    return _mm256_maskload_epi32((const int *)p, _mm256_andnot_si256(below, mask));
}
static inline vi vi_four(const int8_t *q)
{
    int32_t w;

    memcpy(&w, q, 4);
    return _mm256_set1_epi32(w);
}
/* Parts are whole here: outputs come in eights. */
static inline vf vf_part32(const uint8_t *p, size_t n)
{
    (void)n;
    return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vf vf_part_f16(const uint8_t *p, size_t n)
{
    (void)n;
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vf vf_part_bf16(const uint8_t *p, size_t n)
{
    (void)n;
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
static inline vi vi_part8(const uint8_t *p, size_t n)
{
    (void)n;
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
/* A nibble a lane: as they lie, or those of bytes 0..3 low, then high. Bits above them remain. */
static inline vi vi_nibbles(const uint8_t *p, size_t n, const bool awq)
{
    const __m256i up = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i by_byte = _mm256_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28);

    (void)n;
    return _mm256_srlv_epi32(_mm256_set1_epi32((int)enc_load32(p)), awq ? by_byte : up);
}
/* Outputs as they lie to the order of their nibbles in a word: by_byte above. */
static inline vf vf_awq(vf v)
{
    return _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* Eight sums of two products of 4 bits and 8 fit 16 bits (8 * 2 * 15 * 128 = 30720), which is as
 * many as a group has. */
struct dp4 {
    vi s;
};
static inline void dp4_start(struct dp4 *s, int32_t n, int32_t centre)
{
    (void)n;
    (void)centre;
    s->s = _mm256_setzero_si256();
}
static inline void dp4(struct dp4 *s, vi codes, vi q)
{
    s->s = _mm256_add_epi16(s->s, _mm256_maddubs_epi16(codes, q));
}
static inline vi wide(vi s, int32_t n, int32_t centre)
{
    return _mm256_add_epi32(_mm256_madd_epi16(s, _mm256_set1_epi16(1)),
                            _mm256_set1_epi32(n * centre));
}
static inline vi dp4_end(const struct dp4 *s, int32_t n, int32_t centre)
{
    return wide(s->s, n, centre);
}

/* Codes of 8 bits are taken as two of four. */
struct dp8 {
    struct dp4 low, high;
};
static inline void dp8_start(struct dp8 *s, int32_t n, int32_t centre)
{
    dp4_start(&s->low, n, centre);
    dp4_start(&s->high, n, centre);
}
static inline void dp8(struct dp8 *s, vi codes, vi q)
{
    dp4(&s->low, vi_low4(codes), q);
    dp4(&s->high, vi_high4(codes), q);
}
static inline vi dp8_end(const struct dp8 *s, int32_t n, int32_t centre)
{
    return _mm256_add_epi32(wide(s->low.s, n, centre), _mm256_slli_epi32(wide(s->high.s, 0, 0), 4));
}

#include "backend/cpu/columns.inc"

void cpu_kern_columns_avx2(struct cpu_kern *k)
{
    fill_columns(k);
}
