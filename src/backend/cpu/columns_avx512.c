#include <immintrin.h>

#include "backend/cpu/kern.h"

enum { W = 16 };
typedef __m512i vi;
typedef __m512 vf;

static inline vi vi_set1(int32_t a) { return _mm512_set1_epi32(a); }
static inline vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi vi_low4(vi v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
static inline vi vi_high4(vi v) { return vi_low4(_mm512_srli_epi16(v, 4)); }
static inline vi vi_unlo8(vi a, vi b) { return _mm512_unpacklo_epi8(a, b); }
static inline vi vi_unhi8(vi a, vi b) { return _mm512_unpackhi_epi8(a, b); }
static inline vi vi_unlo16(vi a, vi b) { return _mm512_unpacklo_epi16(a, b); }
static inline vi vi_unhi16(vi a, vi b) { return _mm512_unpackhi_epi16(a, b); }
static inline vf vf_set1(float a) { return _mm512_set1_ps(a); }
static inline vf vf_of(vi v) { return _mm512_cvtepi32_ps(v); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }

static inline __mmask16 first(size_t n) { return (__mmask16)((1u << n) - 1); }

/* Words from..to of W, zeros beside them. */
static inline vi vi_load(const uint8_t *p, size_t from, size_t to, const bool whole)
{
    return whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi32(first(to) & ~first(from), p);
}
static inline vi vi_four(const int8_t *q)
{
    int32_t w;

    memcpy(&w, q, 4);
    return _mm512_set1_epi32(w);
}
static inline vf vf_part32(const uint8_t *p, size_t n)
{
    return _mm512_maskz_loadu_ps(first(n), p);
}
static inline vf vf_part_f16(const uint8_t *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
}
static inline vf vf_part_bf16(const uint8_t *p, size_t n)
{
    const __m512i w = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p));

    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}
static inline vi vi_part8(const uint8_t *p, size_t n)
{
    return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), p));
}
/* A nibble a lane, of one word or two: as they lie, or those of bytes 0..3 low, then high. Bits
 * above them remain. */
static inline vi vi_nibbles(const uint8_t *p, size_t n, const bool awq)
{
    const __m512i up = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const __m512i by_byte =
        _mm512_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28, 0, 8, 16, 24, 4, 12, 20, 28);
    const __m256i a = _mm256_set1_epi32((int)enc_load32(p));
    const __m256i b = _mm256_set1_epi32(n > 8 ? (int)enc_load32(p + 4) : 0);

    return _mm512_srlv_epi32(_mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1),
                             awq ? by_byte : up);
}
/* Outputs as they lie to the order of their nibbles in a word: by_byte above. */
static inline vf vf_awq(vf v)
{
    const __m512i at = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);

    return _mm512_permutexvar_ps(at, v);
}

struct dp4 {
    vi s;
};
static inline void dp4_start(struct dp4 *s, int32_t n, int32_t centre)
{
    s->s = _mm512_set1_epi32(n * centre);
}
static inline void dp4(struct dp4 *s, vi codes, vi q)
{
    s->s = _mm512_dpbusd_epi32(s->s, codes, q);
}
static inline vi dp4_end(const struct dp4 *s, int32_t n, int32_t centre)
{
    (void)n;
    (void)centre;
    return s->s;
}

#define dp8       dp4
#define dp8_start dp4_start
#define dp8_end   dp4_end

#include "backend/cpu/columns.inc"

void cpu_kern_columns_avx512(struct cpu_kern *k)
{
    fill_columns(k);
}
