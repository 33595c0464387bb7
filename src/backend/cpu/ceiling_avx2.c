/* 14 chains hide the latency of 4-5 cycles at two or three multiply-adds a cycle. */
#include <immintrin.h>

#include "backend/cpu/ceiling.h"

enum { CHAINS = 14 };

static double fp32_avx2(size_t n)
{
    const __m256 m = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
    __m256 a[CHAINS];

    for (int i = 0; i < CHAINS; i++)
        a[i] = _mm256_set1_ps(1 + (float)i);
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 14
        for (int i = 0; i < CHAINS; i++)
            a[i] = _mm256_fmadd_ps(a[i], m, b);
    for (int i = 1; i < CHAINS; i++)
        a[0] = _mm256_add_ps(a[0], a[i]);
    volatile float sink = _mm256_cvtss_f32(a[0]);

    (void)sink;
    return (double)n * CHAINS * 8 * 2;
}

/* u8 x s8 pairs, then pairs of pairs, then a sum: three instructions for 32 multiply-adds */
static double int8_avx2(size_t n)
{
    const __m256i w = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
    __m256i a[CHAINS];

    for (int i = 0; i < CHAINS; i++)
        a[i] = _mm256_set1_epi32(i);
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 14
        for (int i = 0; i < CHAINS; i++)
            a[i] = _mm256_add_epi32(a[i], _mm256_madd_epi16(_mm256_maddubs_epi16(w, a[i]), one));
    for (int i = 1; i < CHAINS; i++)
        a[0] = _mm256_add_epi32(a[0], a[i]);
    volatile int sink = _mm256_cvtsi256_si32(a[0]);

    (void)sink;
    return (double)n * CHAINS * 32 * 2;
}

void ceiling_kern_avx2(struct ceiling_kern *k)
{
    k->fp32 = fp32_avx2;
    k->int8 = int8_avx2;
}
