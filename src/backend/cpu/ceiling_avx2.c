/* 14 chains hide the latency of 4-5 cycles at two or three multiply-adds a cycle. */
#include <immintrin.h>

#include "backend/cpu/ceiling.h"

enum { CHAINS = 14 };

/* Eight sums, so that nothing but memory limits. */
static uint64_t read_avx2(const uint8_t *p, size_t n, size_t ahead)
{
    __m256i s[8];

    for (int k = 0; k < 8; k++)
        s[k] = _mm256_setzero_si256();
    for (const uint8_t *end = p + n; p < end; p += 256) {
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            if (k % 2 == 0)
                _mm_prefetch((const char *)p + ahead + 32 * k, _MM_HINT_T0);
            s[k] = _mm256_add_epi64(s[k], _mm256_loadu_si256((const __m256i *)(p + 32 * k)));
        }
    }
    for (int k = 1; k < 8; k++)
        s[0] = _mm256_add_epi64(s[0], s[k]);
    uint64_t t[4];

    _mm256_storeu_si256((__m256i *)t, s[0]);
    return t[0] + t[1] + t[2] + t[3];
}

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
    k->read = read_avx2;
    k->fp32 = fp32_avx2;
    k->int8 = int8_avx2;
}
