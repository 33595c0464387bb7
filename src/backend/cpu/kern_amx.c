/* kern_amx.c - bf16 products on tiles of 16 x 16 sums, 32 products each a step.
 *
 * Sixteen weight rows are tile A as they lie: a row of 64 bytes is 32 values. Sixteen tokens are
 * tile B once their words are transposed, which is done once for all weights: row k holds values
 * 2k and 2k+1 of every token. So weights are never transposed; where many tokens use them they are
 * copied, as rows of 4 KiB share a set of the first-level cache. Of a sum all products are added in
 * order of k, wherever in a tile it lies and whatever lies beside it.
 *
 * Four panels by one tile of tokens take 64 cycles a step and fetch 5 KiB, 4 of which (32 KiB of
 * weights, DEPTH values deep) stay in the first-level cache: 16 bytes a cycle come from the second,
 * where two by two would fetch 32. Weights that are not copied are fetched once for two tiles.
 *
 * Training multiplies in two orders and has both its operands in the order of tiles already. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kern.h"

#include "backend/cpu/transpose_avx512.inc"

enum {
    STEP = 32,   /* values of a tile's row */
    DEPTH = 256, /* values of a panel */
    SIDE = 16,   /* rows and columns of a tile of sums */
    TILE = SIDE * SIDE,
    FOUR = 4,     /* panels taken together */
    TOKENS = 512, /* whose sums are kept at a time, 128 KiB */
    FEW = 2,      /* tiles of tokens for which weights are not worth a copy */
};

/* The layout that ldtilecfg reads. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
};

static const _Alignas(64) struct tile_config config = {
    .palette = 1,
    .colsb = { 64, 64, 64, 64, 64, 64, 64, 64 },
    .rows = { 16, 16, 16, 16, 16, 16, 16, 16 },
};

/* Weights of R rows as tiles A read them: panel i is i * panel bytes on, its rows and its steps as
 * far from one another as said. */
struct panels {
    const uint8_t *at;
    size_t panel, row, step;
};

/* n values from k0 of R rows, zeros behind them, rows past R as they may be */
static void copy(uint8_t *to, const uint8_t *w, size_t ws, size_t R, size_t k0, size_t n)
{
    for (size_t r = 0; r < R; r++) {
        const uint8_t *from = w + r * ws + 2 * k0;
        uint8_t *line = to + r / SIDE * (2 * SIDE * DEPTH) + r % SIDE * 64;

        for (size_t k = 0; k < n; k += STEP) {
            const __mmask32 m = n - k >= STEP ? ~(__mmask32)0 : ((__mmask32)1 << (n - k)) - 1;

            _mm512_store_si512(line + 32 * k, _mm512_maskz_loadu_epi16(m, from + 2 * k));
        }
    }
}

/* The tile intrinsics want their numbers literally. */
#define LOAD_SUMS(tile, c)                                                                         \
    do {                                                                                           \
        if (first)                                                                                 \
            _tile_zero(tile);                                                                      \
        else                                                                                       \
            _tile_loadd(tile, c, 64);                                                              \
    } while (0)

/* One tile of tokens times four panels; c[panel]. */
static void four_by_one(float (*c)[TILE], const struct panels *w, const bf16 *x, size_t steps,
                        bool first)
{
    const uint8_t *p = w->at;

    LOAD_SUMS(0, c[0]);
    LOAD_SUMS(1, c[1]);
    LOAD_SUMS(2, c[2]);
    LOAD_SUMS(3, c[3]);
    for (size_t k = 0; k < steps; k++, p += w->step) {
        _tile_loadd(4, x + STEP * SIDE * k, 64);
        _tile_loadd(5, p, w->row);
        _tile_dpbf16ps(0, 5, 4);
        _tile_loadd(6, p + w->panel, w->row);
        _tile_dpbf16ps(1, 6, 4);
        _tile_loadd(5, p + 2 * w->panel, w->row);
        _tile_dpbf16ps(2, 5, 4);
        _tile_loadd(6, p + 3 * w->panel, w->row);
        _tile_dpbf16ps(3, 6, 4);
    }
    _tile_stored(0, c[0], 64);
    _tile_stored(1, c[1], 64);
    _tile_stored(2, c[2], 64);
    _tile_stored(3, c[3], 64);
}

/* Tokens x, and those at y unless that is NULL, times one panel or two: c[panel] and d[panel]. */
static void two_by_two(float (*c)[TILE], float (*d)[TILE], const struct panels *w, bool two,
                       const bf16 *x, const bf16 *y, size_t steps, bool first)
{
    const uint8_t *p = w->at;

    LOAD_SUMS(0, c[0]);
    LOAD_SUMS(1, c[1]);
    if (y) {
        LOAD_SUMS(2, d[0]);
        LOAD_SUMS(3, d[1]);
    }
    for (size_t k = 0; k < steps; k++, p += w->step) {
        _tile_loadd(4, x + STEP * SIDE * k, 64);
        _tile_loadd(6, p, w->row);
        _tile_dpbf16ps(0, 6, 4);
        if (two) {
            _tile_loadd(7, p + w->panel, w->row);
            _tile_dpbf16ps(1, 7, 4);
        }
        if (y) {
            _tile_loadd(5, y + STEP * SIDE * k, 64);
            _tile_dpbf16ps(2, 6, 5);
            if (two)
                _tile_dpbf16ps(3, 7, 5);
        }
    }
    _tile_stored(0, c[0], 64);
    _tile_stored(1, c[1], 64);
    if (y) {
        _tile_stored(2, d[0], 64);
        _tile_stored(3, d[1], 64);
    }
}

/* `tiles` tiles of tokens, xs values apart from one another's rows */
static void products(float (*c)[FOUR][TILE], const struct panels *w, size_t R, const bf16 *x,
                     size_t xs, size_t tiles, size_t steps, bool first)
{
    /* GCC's tile loads and stores do not say what memory they read and write */
    __asm__ volatile("" : : "r"(w->at), "r"(c), "r"(x) : "memory");
    for (size_t i = 0; i < tiles; i++) {
        const bf16 *at = x + i * SIDE * xs;

        if (R > 3 * SIDE && tiles != 2) {
            four_by_one(c[i], w, at, steps, first);
            continue;
        }
        const bool pair = i + 1 < tiles;

        for (size_t p = 0; p * SIDE < R; p += 2) {
            const struct panels of = { w->at + p * w->panel, w->panel, w->row, w->step };

            two_by_two(c[i] + p, c[i + pair] + p, &of, R > (p + 1) * SIDE, at,
                       pair ? at + SIDE * xs : NULL, steps, first);
        }
        i += pair;
    }
    __asm__ volatile("" : : : "memory");
}

/* y += or = the sums c, m tokens by R rows */
static void put(float *y, size_t ys, const float (*c)[FOUR][TILE], size_t m, size_t R, bool add)
{
    for (size_t t = 0; t < m; t += 4) {
        for (size_t p = 0; p * SIDE < R; p++) {
            const __mmask16 rows =
                (__mmask16)(R - p * SIDE >= SIDE ? 0xFFFFu : (1u << (R - p * SIDE)) - 1);
            struct rows16 of;
            __m512i line[4];

            for (size_t r = 0; r < SIDE; r++)
                of.at[r] = (const uint8_t *)(c[t / SIDE][p] + r * SIDE);
            transpose(line, &of, t % SIDE * sizeof(float));
#pragma GCC unroll 4
            for (size_t i = 0; i < 4; i++) {
                float *at = y + (t + i) * ys + p * SIDE;
                __m512 v = _mm512_castsi512_ps(line[i]);

                if (t + i >= m)
                    break;
                if (add)
                    v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(rows, at));
                _mm512_mask_storeu_ps(at, rows, v);
            }
        }
    }
}

static void dot_bf16(float *y, size_t ys, const struct weight *of, size_t r0, size_t R,
                     const bf16 *x, size_t xs, size_t T, bool add)
{
    const size_t ws = of->row_bytes, n = of->cols;
    const uint8_t *w = (const uint8_t *)of->data + r0 * ws;
    _Alignas(64) uint8_t room[FOUR * DEPTH * 2 * SIDE];
    _Alignas(64) float c[TOKENS / SIDE][FOUR][TILE];
    const bool as_is = T <= FEW * SIDE && R % SIDE == 0;
    const struct panels copied = { room, 2 * SIDE * DEPTH, 64, 64 * SIDE };

    _tile_loadconfig(&config);
    for (size_t t0 = 0; t0 < T; t0 += TOKENS) {
        const size_t m = T - t0 < TOKENS ? T - t0 : TOKENS, tiles = (m + SIDE - 1) / SIDE;
        size_t k0 = 0;

        if (as_is && n >= STEP) {
            const struct panels raw = { w, SIDE * ws, ws, 64 };

            products(c, &raw, R, x, xs, tiles, n / STEP, true);
            k0 = n / STEP * STEP;
        }
        for (size_t depth; k0 < n; k0 += depth) {
            depth = n - k0 < DEPTH ? n - k0 : DEPTH;
            copy(room, w, ws, R, k0, depth);
            products(c, &copied, R, x + t0 * xs + k0 * SIDE, xs, tiles, (depth + STEP - 1) / STEP,
                     k0 == 0);
        }
        put(y + t0 * ys, ys, (const float(*)[FOUR][TILE])c, m, R, add);
    }
    _tile_release();
}

/* Tiles B of sixteen tokens after one another. */
static void pack_bf16(bf16 *to, size_t xs, const float *x, size_t T, size_t K)
{
    _Alignas(64) bf16 row[SIDE][STEP];
    struct rows16 rows;

    for (size_t r = 0; r < SIDE; r++)
        rows.at[r] = (const uint8_t *)row[r];
    for (size_t t = 0; t < T; t += SIDE) {
        bf16 *tile = to + t * xs;

        memset(row, 0, sizeof(row));
        for (size_t k = 0; k < K; k += STEP, tile += SIDE * STEP) {
            const size_t n = K - k < STEP ? K - k : STEP;
            const __mmask32 m = n == STEP ? ~(__mmask32)0 : ((__mmask32)1 << n) - 1;

            for (size_t r = 0; r < SIDE && t + r < T; r++) {
                const float *from = x + (t + r) * K + k;

                _mm512_store_si512(row[r],
                                   (__m512i)_mm512_cvtne2ps_pbh(
                                       _mm512_maskz_loadu_ps((__mmask16)(m >> 16), from + 16),
                                       _mm512_maskz_loadu_ps((__mmask16)m, from)));
            }
            for (size_t i = 0; i < 4; i++) {
                __m512i line[4];

                transpose(line, &rows, 16 * i);
                for (size_t c = 0; c < 4; c++)
                    _mm512_store_si512(tile + STEP * (4 * i + c), line[c]);
            }
        }
    }
}

/* ---- products of training ---- */

/* 32 rows of a by a panel of 32 columns: as copied, rows of a are tiles A; words of two k of
 * sixteen columns are tiles B as they lie in the panel. `to` has rows `line` bytes apart. */
static void square(float *to, size_t line, const struct gemm *g, const uint32_t *a)
{
    const size_t ars = g->ars * 4, row = GEMM_COLS * 4;
    const uint8_t *b = g->b, *p = (const uint8_t *)a, *q = (const uint8_t *)(a + SIDE * g->ars);
    uint8_t *y = (uint8_t *)to;

    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t k = 0; k < g->K; k += PAIR_K, p += 64, q += 64, b += PAIR_K * row) {
        _tile_loadd(4, b, row);
        _tile_loadd(5, b + 64, row);
        _tile_loadd(6, p, ars);
        _tile_dpbf16ps(0, 6, 4);
        _tile_dpbf16ps(1, 6, 5);
        _tile_loadd(7, q, ars);
        _tile_dpbf16ps(2, 7, 4);
        _tile_dpbf16ps(3, 7, 5);
    }
    _tile_stored(0, y, line);
    _tile_stored(1, y + 64, line);
    _tile_stored(2, y + SIDE * line, line);
    _tile_stored(3, y + SIDE * line + 64, line);
}

/* Sums begin at zero for every 32 rows, so that the bits do not depend on how rows are shared out.
 */
static void gemm_bf16(const struct gemm *g)
{
    _Alignas(64) float sum[PAIR_ROWS][GEMM_COLS];

    _tile_loadconfig(&config);
    for (size_t m = 0; m < g->rows; m += PAIR_ROWS) {
        const size_t n = g->rows - m < PAIR_ROWS ? g->rows - m : PAIR_ROWS;
        const uint32_t *a = (const uint32_t *)g->a + m * g->ars;
        float *c = g->c + m * g->ldc;

        if (n == PAIR_ROWS && !g->add && !(g->by < 1) && !(g->by > 1)) {
            square(c, g->ldc * sizeof(*c), g, a);
            continue;
        }
        square(sum[0], sizeof(sum[0]), g, a);
        for (size_t r = 0; r < n; r++, c += g->ldc) {
#pragma GCC unroll 2
            for (size_t i = 0; i < GEMM_COLS; i += SIDE) {
                __m512 y = _mm512_mul_ps(_mm512_load_ps(sum[r] + i), _mm512_set1_ps(g->by));

                if (g->add)
                    y = _mm512_add_ps(y, _mm512_loadu_ps(c + i));
                _mm512_storeu_ps(c + i, y);
            }
        }
    }
    _tile_release();
}

void cpu_kern_amx(struct cpu_kern *k)
{
    k->gemm_bf16 = gemm_bf16;
    k->gemm_tiles = true;
    k->dot_bf16 = dot_bf16;
    k->bf16_rows = FOUR * LANES;
    k->pack_bf16 = pack_bf16;
    k->bf16_tokens = SIDE;
    k->placed[ENC_BF16] = (struct placed_kern){ 0 }; /* tiles are read in the file's order */
}
