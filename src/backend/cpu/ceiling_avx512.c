#include <immintrin.h>

#include "backend/cpu/ceiling.h"

enum { CHAINS = 14 };

static double fp32_avx512(size_t n)
{
    const __m512 m = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
    __m512 a[CHAINS];

    for (int i = 0; i < CHAINS; i++)
        a[i] = _mm512_set1_ps(1 + (float)i);
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 14
        for (int i = 0; i < CHAINS; i++)
            a[i] = _mm512_fmadd_ps(a[i], m, b);
    for (int i = 1; i < CHAINS; i++)
        a[0] = _mm512_add_ps(a[0], a[i]);
    volatile float sink = _mm512_cvtss_f32(a[0]);

    (void)sink;
    return (double)n * CHAINS * 16 * 2;
}

static double int8_avx512(size_t n)
{
    const __m512i u = _mm512_set1_epi8(3), w = _mm512_set1_epi8(5);
    __m512i a[CHAINS];

    for (int i = 0; i < CHAINS; i++)
        a[i] = _mm512_set1_epi32(i);
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 14
        for (int i = 0; i < CHAINS; i++)
            a[i] = _mm512_dpbusd_epi32(a[i], u, w);
    for (int i = 1; i < CHAINS; i++)
        a[0] = _mm512_add_epi32(a[0], a[i]);
    volatile int sink = _mm512_cvtsi512_si32(a[0]);

    (void)sink;
    return (double)n * CHAINS * 64 * 2;
}

void ceiling_kern_avx512(struct ceiling_kern *k)
{
    k->fp32 = fp32_avx512;
    k->int8 = int8_avx512;
}
