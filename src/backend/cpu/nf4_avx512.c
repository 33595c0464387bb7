/* nf4_avx512.c - nf4.h on AVX-512 VNNI: a lookup takes a nibble of each of 32 words, a multiply-add
 * two values of sixteen rows. Of one token 64 bytes of codes are 11 instructions; by bytes (tables
 * of high and low ones, inputs of two bytes each) they would be 11 as well, without the products of
 * low bytes, and half as many again for a token more. */
#define TILE 8 /* tokens whose sums, of integers and of floats, live in registers */

#include <immintrin.h>

#include "backend/cpu/kern.h"

struct table {
    __m512i t; /* twice: bit 4 of a word of codes does not matter */
};

static inline struct table table_of(const int16_t t[16])
{
    return (struct table){ _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)t)) };
}

/* In a line nibble j of a row's words are values j ^ 1 and 4 + (j ^ 1): a pair of inputs each. */
static inline void put_group(int16_t *to, const float *x, float d)
{
    const __m512i pairs =
        _mm512_set_epi16(30, 26, 31, 27, 28, 24, 29, 25, 22, 18, 23, 19, 20, 16, 21, 17, 14, 10, 15,
                         11, 12, 8, 13, 9, 6, 2, 7, 3, 4, 0, 5, 1);
    const __m512 by = _mm512_set1_ps(d);
    const __m512i a = _mm512_cvtps_epi32(_mm512_div_ps(_mm512_loadu_ps(x), by));
    const __m512i b = _mm512_cvtps_epi32(_mm512_div_ps(_mm512_loadu_ps(x + 16), by));
    const __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)),
                                         _mm512_cvtepi32_epi16(b), 1);

    _mm512_storeu_si512(to, d > 0 ? _mm512_permutexvar_epi16(pairs, q) : _mm512_setzero_si512());
}

struct sums {
    __m512 a[TILE];
};

#include "backend/cpu/nf4.inc"

INLINE void sums_begin(struct sums *s, float *acc, const int S)
{
#pragma GCC unroll 8
    for (int t = 0; t < S; t++)
        s->a[t] = _mm512_loadu_ps(acc + LANES * t);
}

INLINE void sums_end(float *acc, const struct sums *s, const int S)
{
#pragma GCC unroll 8
    for (int t = 0; t < S; t++)
        _mm512_storeu_ps(acc + LANES * t, s->a[t]);
}

/* sum += w . the two numbers at q, which are broadcast */
INLINE void two(__m512i *sum, __m512i w, const int16_t *q)
{
    __asm__("vpdpwssd %1%{1to16%}, %2, %0" : "+v"(*sum) : "m"(*(const int16_t(*)[2])q), "v"(w));
}

/* The chains of S tokens over a group, whose four lines are at p. */
INLINE void group32(struct sums *s, const uint8_t *p, const uint8_t *scale,
                    const struct table *table, const uint8_t *d, const int16_t *q, size_t apart,
                    const int S)
{
    const __m512 dw = _mm512_loadu_ps(scale);
    __m512i sum[TILE + 1]; /* of one token two, which hides latency */
    const int16_t *at[TILE];

#pragma GCC unroll 8
    for (int t = 0; t < S; t++) {
        sum[t] = _mm512_setzero_si512();
        at[t] = (const int16_t *)((const uint8_t *)q + (size_t)t * apart);
        /* a register each: or the compiler keeps an address for each of 128 places */
        __asm__("" : "+r"(at[t]));
    }
    sum[S] = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (size_t l = 0; l < 4; l++) {
        const __m512i c = _mm512_loadu_si512(p + 64 * l);

#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            const __m512i v = _mm512_permutexvar_epi16(_mm512_srli_epi16(c, 4 * (int)j), table->t);

#pragma GCC unroll 8
            for (int t = 0; t < S; t++)
                two(&sum[S == 1 ? j % 2 : (size_t)t], v, at[t] + 8 * l + 2 * j);
        }
    }
    if (S == 1)
        sum[0] = _mm512_add_epi32(sum[0], sum[1]);
#pragma GCC unroll 8
    for (int t = 0; t < S; t++) {
        const __m512 dx = _mm512_set1_ps(*(const float *)(d + (size_t)t * apart));

        s->a[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), _mm512_mul_ps(dw, dx), s->a[t]);
    }
}

void cpu_kern_nf4_avx512(struct cpu_kern *k)
{
    fill_nf4(k);
}
