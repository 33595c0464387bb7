/* nf4_avx2.c - nf4.h on AVX2: bytes of the table are looked up, low ones and high ones, and joined
 * to words, of which a multiply-add takes four values of four rows. */
#define TILE 4 /* tokens that share what was looked up */

#include <immintrin.h>

#include "backend/cpu/kern.h"

struct table {
    __m256i low, high; /* bytes, twice */
};

static inline struct table table_of(const int16_t t[16])
{
    uint8_t low[16], high[16];

    for (size_t i = 0; i < 16; i++) {
        low[i] = (uint8_t)t[i];
        high[i] = (uint8_t)((uint16_t)t[i] >> 8);
    }
    return (struct table){ _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                           _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)high)) };
}

/* Of eight inputs those whose codes are low nibbles come first. */
static inline void put_group(int16_t *to, const float *x, float d)
{
    const __m256i low_first =
        _mm256_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11,
                         14, 15, 0, 1, 4, 5, 8, 9, 12, 13);
    const __m256 by = _mm256_set1_ps(d);

#pragma GCC unroll 2
    for (size_t i = 0; i < GROUP; i += 16) {
        const __m256i a = _mm256_cvtps_epi32(_mm256_div_ps(_mm256_loadu_ps(x + i), by));
        const __m256i b = _mm256_cvtps_epi32(_mm256_div_ps(_mm256_loadu_ps(x + i + 8), by));
        const __m256i q = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);

        _mm256_storeu_si256((__m256i *)(to + i),
                            d > 0 ? _mm256_shuffle_epi8(q, low_first) : _mm256_setzero_si256());
    }
}

struct sums {
    float *acc; /* in memory: registers are full of sums of integers */
};

#include "backend/cpu/nf4.inc"

INLINE void sums_begin(struct sums *s, float *acc, const int S)
{
    (void)S;
    s->acc = acc;
}

INLINE void sums_end(float *acc, const struct sums *s, const int S)
{
    (void)acc;
    (void)s;
    (void)S;
}

/* The values of a nibble of each of 32 bytes: of rows 0, 1, 4 and 5, and of the others. */
INLINE void look_up(__m256i v[2], __m256i code, const struct table *table)
{
    const __m256i low = _mm256_shuffle_epi8(table->low, code);
    const __m256i high = _mm256_shuffle_epi8(table->high, code);

    v[0] = _mm256_unpacklo_epi8(low, high);
    v[1] = _mm256_unpackhi_epi8(low, high);
}

/* Sums of eight rows, whose half lines are at p, 64 bytes apart, times a group of S tokens. */
INLINE void eight_rows(__m256i sum[TILE], const uint8_t *p, const struct table *table,
                       const int16_t *q, size_t apart, const int S)
{
    __m256i s[TILE][2];

#pragma GCC unroll 4
    for (int t = 0; t < S; t++)
        s[t][0] = s[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (size_t l = 0; l < 4; l++) {
        const __m256i c = _mm256_loadu_si256((const __m256i *)(p + 64 * l));

#pragma GCC unroll 2
        for (size_t j = 0; j < 2; j++) {
            __m256i v[2];

            look_up(v, j ? high4(c) : low4(c), table);
#pragma GCC unroll 4
            for (int t = 0; t < S; t++) {
                const uint8_t *at =
                    (const uint8_t *)q + (size_t)t * apart + sizeof(*q) * (8 * l + 4 * j);
                const __m256i x = _mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)at));

#pragma GCC unroll 2
                for (int h = 0; h < 2; h++) {
                    s[t][h] = _mm256_add_epi32(s[t][h], _mm256_madd_epi16(v[h], x));
                    /* now: or the compiler keeps products for a tree of sums, in memory */
                    __asm__("" : "+x"(s[t][h]));
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < S; t++) /* a row has two sums beside one another */
        sum[t] = _mm256_hadd_epi32(s[t][0], s[t][1]);
}

INLINE void group32(struct sums *s, const uint8_t *p, const uint8_t *scale,
                    const struct table *table, const uint8_t *d, const int16_t *q, size_t apart,
                    const int S)
{
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const __m256 dw = _mm256_loadu_ps((const float *)scale + 8 * h);
        __m256i sum[TILE];

        eight_rows(sum, p + 32 * h, table, q, apart, S);
#pragma GCC unroll 4
        for (int t = 0; t < S; t++) {
            float *a = s->acc + LANES * t + 8 * h;
            const __m256 dx = _mm256_broadcast_ss((const float *)(d + (size_t)t * apart));

            _mm256_storeu_ps(a, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t]), _mm256_mul_ps(dw, dx),
                                                _mm256_loadu_ps(a)));
        }
    }
}

void cpu_kern_nf4_avx2(struct cpu_kern *k)
{
    fill_nf4(k);
}
