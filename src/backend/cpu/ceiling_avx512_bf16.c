#include <immintrin.h>
#include <string.h>

#include "backend/cpu/ceiling.h"

enum { CHAINS = 14 };

static double bf16_avx512(size_t n)
{
    const __m512i ones = _mm512_set1_epi16(0x3F80); /* 1.0 in bf16 */
    __m512bh one;
    __m512 a[CHAINS];

    memcpy(&one, &ones, sizeof(one));
    for (int i = 0; i < CHAINS; i++)
        a[i] = _mm512_set1_ps((float)i);
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 14
        for (int i = 0; i < CHAINS; i++)
            a[i] = _mm512_dpbf16_ps(a[i], one, one);
    for (int i = 1; i < CHAINS; i++)
        a[0] = _mm512_add_ps(a[0], a[i]);
    volatile float sink = _mm512_cvtss_f32(a[0]);

    (void)sink;
    return (double)n * CHAINS * 32 * 2;
}

void ceiling_kern_avx512_bf16(struct ceiling_kern *k)
{
    k->bf16 = bf16_avx512;
}
