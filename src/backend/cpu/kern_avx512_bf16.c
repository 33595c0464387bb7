#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kern.h"

/* n <= 32 values, zeros behind */
static inline __m512bh part(const uint8_t *p, size_t n)
{
    const __mmask32 m = n >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << n) - 1;

    return (__m512bh)_mm512_maskz_loadu_epi16(m, p);
}

/* R rows times S tokens, R and S known to the compiler */
static inline __attribute__((always_inline)) void
tile(float *y, size_t ys, const uint8_t *w, size_t ws, const bf16 *x, size_t xs, size_t n, bool add,
     const int R, const int S)
{
    __m512 acc[4][4];

#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int s = 0; s < S; s++)
            acc[r][s] = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 32) {
        __m512bh xv[4];

#pragma GCC unroll 4
        for (int s = 0; s < S; s++)
            xv[s] = (__m512bh)_mm512_loadu_si512(x + (size_t)s * xs + i);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const uint8_t *p = w + (size_t)r * ws + 2 * i;
            const __m512bh wv = n - i >= 32 ? (__m512bh)_mm512_loadu_si512(p) : part(p, n - i);

#pragma GCC unroll 4
            for (int s = 0; s < S; s++)
                acc[r][s] = _mm512_dpbf16_ps(acc[r][s], wv, xv[s]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) {
            float *at = y + (size_t)s * ys + r;

            *at = _mm512_reduce_add_ps(acc[r][s]) + (add ? *at : 0);
        }
    }
}

static void dot_bf16(float *y, size_t ys, const uint8_t *w, size_t ws, size_t R, const bf16 *x,
                     size_t xs, size_t T, size_t n, bool add)
{
    for (size_t t = 0; t < T;) {
        const size_t S = T - t >= 4 ? 4 : 1;
        size_t r = 0;

        for (; r + 4 <= R; r += 4) {
            if (S == 4)
                tile(y + t * ys + r, ys, w + r * ws, ws, x + t * xs, xs, n, add, 4, 4);
            else
                tile(y + t * ys + r, ys, w + r * ws, ws, x + t * xs, xs, n, add, 4, 1);
        }
        for (; r < R; r++) {
            if (S == 4)
                tile(y + t * ys + r, ys, w + r * ws, ws, x + t * xs, xs, n, add, 1, 4);
            else
                tile(y + t * ys + r, ys, w + r * ws, ws, x + t * xs, xs, n, add, 1, 1);
        }
        t += S;
    }
}

void cpu_kern_avx512_bf16(struct cpu_kern *k)
{
    k->dot_bf16 = dot_bf16;
    k->bf16_rows = LANES;
}
