/* linear_avx512_bf16.c - bf16 weights times inputs rounded to bf16. Sixteen rows of weights are a
 * unit:
 *
 *     [cols/2][16][2]    line k holds values 2k and 2k+1 of every row
 *
 * Placed weights (placed.c) lie so; those in the file's order are brought into it on the way, DEPTH
 * values at a time. A multiply-add then serves 16 rows, and the value of a (row, token) is one
 * chain over the lines, in ascending order and from zero, whatever the tile, the piece of a row or
 * the thread: the same bits for any batch, placed or not.
 *
 * Two units by twelve tokens are 24 sums in registers, for which two lines and twelve words are
 * loaded: 98 % of what a loop of multiply-adds on registers reaches on Zen 4 (4 rows by 4 tokens,
 * summed across lanes: 70 to 83). Pieces of 1024 values keep lines in the second-level cache and
 * the tokens' words in the first: without them 93 % at 8192 values. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kern.h"
#include "backend/cpu/turn_avx512.inc"

enum {
    UNITS = 2,    /* of a tile */
    TOKENS = 12,  /* of a tile at most */
    BLOCK = 256,  /* tokens whose sums, 32 KiB, are kept while a piece is used */
    DEPTH = 1024, /* values of a piece */
    LEAD = 1024,  /* bytes between what is read of a placed unit and what is fetched */
    STEP = 32,    /* values of a line of the file that sixteen rows are turned by */
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* n lines of each of two units, or of one. */
struct lines {
    const uint8_t *at[UNITS];
    size_t n;
};

/* acc[i][t] = or += the lines of unit i times as many words of token t0 + t, P units, S tokens. */
INLINE void tile(float acc[UNITS][BLOCK][LANES], const struct lines *w, const bf16 *x, size_t xs,
                 size_t t0, bool first, const int P, const int S)
{
    const uint8_t *word = (const uint8_t *)(x + t0 * xs);
    __m512 a[UNITS][TOKENS];

#pragma GCC unroll 2
    for (int i = 0; i < P; i++)
#pragma GCC unroll 12
        for (int t = 0; t < S; t++)
            a[i][t] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(acc[i][t0 + (size_t)t]);
    for (size_t k = 0; k < w->n; k++) {
        __m512bh v[UNITS];

#pragma GCC unroll 2
        for (int i = 0; i < P; i++) {
            v[i] = (__m512bh)_mm512_loadu_si512(w->at[i] + 64 * k);
            if (S == 1)
                _mm_prefetch((const char *)w->at[i] + 64 * k + LEAD, _MM_HINT_T0);
        }
#pragma GCC unroll 12
        for (int t = 0; t < S; t++) {
            int32_t two;

            memcpy(&two, word + 2 * (size_t)t * xs + 4 * k, sizeof(two));
            __m512i b = _mm512_set1_epi32(two);

            __asm__("" : "+v"(b)); /* in a register, for both units */
#pragma GCC unroll 2
            for (int i = 0; i < P; i++)
                a[i][t] = _mm512_dpbf16_ps(a[i][t], v[i], (__m512bh)b);
        }
    }
#pragma GCC unroll 2
    for (int i = 0; i < P; i++)
#pragma GCC unroll 12
        for (int t = 0; t < S; t++)
            _mm512_storeu_ps(acc[i][t0 + (size_t)t], a[i][t]);
}

/* T tokens: tiles as even as can be, 13 tokens are 7 + 6. */
INLINE void tiles(float acc[UNITS][BLOCK][LANES], const struct lines *w, const bf16 *x, size_t xs,
                  size_t T, bool first, const int P)
{
    for (size_t t = 0, n = (T + TOKENS - 1) / TOKENS, S; t < T; t += S, n--) {
        S = (T - t + n - 1) / n;
        switch (S) {
#define CASE(S)                                                                                    \
    case S:                                                                                        \
        tile(acc, w, x, xs, t, first, P, S);                                                       \
        break
            CASE(1);
            CASE(2);
            CASE(3);
            CASE(4);
            CASE(5);
            CASE(6);
            CASE(7);
            CASE(8);
            CASE(9);
            CASE(10);
            CASE(11);
            CASE(12);
#undef CASE
        }
    }
}

/* One token by the rows of a unit in the file's order. */
static void one(float acc[LANES], const uint8_t *const rows[LANES], const bf16 *x, size_t K)
{
    __m512 a = _mm512_setzero_ps();

    for (size_t k = 0; k < K; k += STEP) {
        __m512i line[LANES];

        turned(line, rows, k, smaller(K - k, STEP));
#pragma GCC unroll 16
        for (size_t i = 0; i < LANES; i++) {
            int32_t two;

            memcpy(&two, x + k + 2 * i, sizeof(two));
            a = _mm512_dpbf16_ps(a, (__m512bh)line[i], (__m512bh)_mm512_set1_epi32(two));
        }
    }
    _mm512_storeu_ps(acc, a);
}

/* R rows from r0 on, at most two units, times T <= BLOCK tokens. */
static void block(float *y, size_t ys, const struct weight *w, size_t r0, size_t R, const bf16 *x,
                  size_t xs, size_t T, bool add)
{
    _Alignas(64) uint8_t room[UNITS][DEPTH / 2][64];
    _Alignas(64) float acc[UNITS][BLOCK][LANES];
    const size_t P = (R + LANES - 1) / LANES, K = w->cols, unit = LANES * w->row_bytes;
    const size_t depth = T == 1 ? (K + 1) / 2 * 2 : DEPTH;
    const uint8_t *rows[UNITS][LANES]; /* the last again behind the others */

    for (size_t i = 0; i < P; i++)
        for (size_t r = 0; r < LANES; r++)
            rows[i][r] =
                (const uint8_t *)w->data + (r0 + smaller(i * LANES + r, R - 1)) * w->row_bytes;
    for (size_t i = 0; T == 1 && !w->placed && i < P; i++)
        one(acc[i][0], rows[i], x, K);
    for (size_t k = 0, n; (T > 1 || w->placed) && k < K; k += n) {
        struct lines l;

        n = smaller(K - k, depth);
        l.n = (n + 1) / 2;
        for (size_t i = 0; i < P; i++) {
            l.at[i] = w->placed ? (const uint8_t *)w->placed + (r0 / LANES + i) * unit + 32 * k
                                : room[i][0];
            for (size_t j = 0; !w->placed && j < n; j += STEP)
                turn_to(room[i][j / 2], rows[i], k + j, smaller(n - j, STEP));
        }
        if (P == 2)
            tiles(acc, &l, x + k, xs, T, k == 0, 2);
        else
            tiles(acc, &l, x + k, xs, T, k == 0, 1);
    }
    for (size_t i = 0; i < P; i++, y += LANES) {
        const __mmask16 m = (__mmask16)((1u << smaller(R - i * LANES, LANES)) - 1);

        for (size_t t = 0; t < T; t++) {
            __m512 v = _mm512_load_ps(acc[i][t]);

            if (add)
                v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(m, y + t * ys));
            _mm512_mask_storeu_ps(y + t * ys, m, v);
        }
    }
}

static void dot_bf16(float *y, size_t ys, const struct cpu_kern *k, const struct weight *w,
                     size_t r0, size_t R, const bf16 *x, size_t xs, size_t T, bool add, void *mem)
{
    (void)k;
    (void)mem;
    for (size_t t = 0; t < T; t += BLOCK)
        block(y + t * ys, ys, w, r0, R, x + t * xs, xs, smaller(T - t, BLOCK), add);
}

/* ---- placing ---- */

static void pack(uint8_t *unit, const struct rows16 *w, size_t G)
{
    for (size_t g = 0; g < G; g++)
        turn_to(unit + 64 * LANES * g, w->at, GROUP * g, GROUP);
}

static void unpack_row(uint8_t *to, const uint8_t *unit, size_t G, size_t r, size_t g, size_t n)
{
    (void)G;
    for (size_t k = 0; k < n * GROUP / 2; k++)
        memcpy(to + 4 * k, unit + 64 * (g * GROUP / 2 + k) + 4 * r, 4);
}

void cpu_kern_linear_avx512_bf16(struct cpu_kern *k)
{
    k->dot_bf16 = dot_bf16;
    k->bf16_rows = UNITS * LANES;
    k->placed[ENC_BF16] = (struct placed_kern){ .pack = pack, .unpack_row = unpack_row };
}
