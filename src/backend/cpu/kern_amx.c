/* kern_amx.c - bf16 products on tiles of 16 x 16 sums, 32 products each a step.
 *
 * Sixteen tokens are tile A: a row of 64 bytes is 32 values of one. Sixteen weight rows are tile B:
 * line k holds values 2k and 2k+1 of every row, which is the order of placed weights
 * (linear_avx512_bf16.c). Those in the file's order are turned on the way, and quantised ones, of
 * whose products with a prompt this file has charge, unpacked and rounded. Of a sum all products
 * are added in order of k, wherever in a tile it lies and whatever lies beside it.
 *
 * Two tiles of tokens by two panels share their fetches: 4 KiB for four products of 16 cycles each.
 * What is fetched again and again must lie near: a piece of DEPTH values of eight panels is 512
 * KiB, a quarter of the second-level cache, and passes two tiles of tokens at a time.
 *
 * Why quantised weights: sums of 8 bits end with every group of 32, where they are stored,
 * converted, scaled and added by vectors, which takes longer than the products. In bf16 they stay
 * in their tile to the end, and the error is smaller: 2^-9 of every weight and input in place of
 * 2^-8 of a group's largest input.
 *
 * Training multiplies in two orders and has both its operands in the order of tiles already. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kern.h"

#include "backend/cpu/lines_avx512_bf16.inc"
#include "backend/cpu/turn_avx512.inc"

enum {
    STEP = 32,    /* values of a tile's row */
    DEPTH = 2048, /* values of a piece */
    SIDE = 16,    /* rows and columns of a tile of sums */
    TILE = SIDE * SIDE,
    BYTES = 64 * SIDE, /* of a tile */
    PACK = 8,          /* panels taken together */
    TOKENS = 512,      /* whose sums are kept at a time, 256 KiB */
    /* bytes before their use at which weights from memory are asked for, into the second-level
     * cache, without which these CPUs read slower: 8 threads, one row, with and without, Q4_K_M 139
     * and 98 tok/s, Q4_0 138 and 108, bf16 48 and 41; 2048 and 8192 are no better */
    AHEAD = 4096,
};

/* What a thread works in. */
struct room {
    uint8_t tile[PACK][DEPTH / STEP][BYTES]; /* weights */
    float sum[TOKENS / SIDE][PACK][TILE];
    struct group panel[CHUNK];
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

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The tile intrinsics want their numbers literally. */
#define LOAD_SUMS(tile, c)                                                                         \
    do {                                                                                           \
        if (first)                                                                                 \
            _tile_zero(tile);                                                                      \
        else                                                                                       \
            _tile_loadd(tile, c, 64);                                                              \
    } while (0)

/* Tokens x, and those at y unless that is NULL, times one panel or two that are `apart` bytes from
 * one another: c[panel] and d[panel]; `once`: the panels come from memory, for these alone. */
INLINE void two_by_two(float (*c)[TILE], float (*d)[TILE], const uint8_t *w, size_t apart,
                       const bool two, const bf16 *x, const bf16 *y, size_t steps, bool first,
                       const bool once)
{
    LOAD_SUMS(0, c[0]);
    if (two)
        LOAD_SUMS(1, c[1]);
    if (y)
        LOAD_SUMS(2, d[0]);
    if (y && two)
        LOAD_SUMS(3, d[1]);
    for (size_t k = 0; k < steps; k++, w += BYTES) {
        for (size_t i = 0; once && i < BYTES; i += 64) {
            _mm_prefetch((const char *)w + AHEAD + i, _MM_HINT_T1);
            if (two)
                _mm_prefetch((const char *)w + apart + AHEAD + i, _MM_HINT_T1);
        }
        _tile_loadd(4, x + STEP * SIDE * k, 64);
        _tile_loadd(6, w, 64);
        if (two)
            _tile_loadd(7, w + apart, 64);
        if (y)
            _tile_loadd(5, y + STEP * SIDE * k, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (two)
            _tile_dpbf16ps(1, 4, 7);
        if (y)
            _tile_dpbf16ps(2, 5, 6);
        if (y && two)
            _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c[0], 64);
    if (two)
        _tile_stored(1, c[1], 64);
    if (y)
        _tile_stored(2, d[0], 64);
    if (y && two)
        _tile_stored(3, d[1], 64);
}

/* P panels, from memory or a copy, times `tiles` tiles of tokens, xs values apart from one
 * another's rows */
static void products(float (*c)[PACK][TILE], const uint8_t *w, size_t apart, size_t P,
                     const bf16 *x, size_t xs, size_t tiles, size_t steps, bool first, bool memory)
{
    /* GCC's tile loads do not say what memory they read */
    __asm__ volatile("" : : "r"(w), "r"(c), "r"(x) : "memory");
    for (size_t i = 0; i < tiles; i += 2) {
        const bf16 *at = x + i * SIDE * xs, *next = at + SIDE * xs;

        for (size_t p = 0; p < P; p += 2) {
            const uint8_t *from = w + p * apart;
            const bool two = p + 1 < P;

            if (two && i + 1 < tiles)
                two_by_two(c[i] + p, c[i + 1] + p, from, apart, true, at, next, steps, first,
                           false);
            else if (i + 1 < tiles)
                two_by_two(c[i] + p, c[i + 1] + p, from, apart, false, at, next, steps, first,
                           false);
            else if (memory && tiles == 1)
                two_by_two(c[i] + p, NULL, from, apart, two, at, NULL, steps, first, true);
            else
                two_by_two(c[i] + p, NULL, from, apart, two, at, NULL, steps, first, false);
        }
    }
    __asm__ volatile("" : : : "memory");
}

/* y += or = the sums c, m tokens by R rows */
static void put(float *y, size_t ys, float (*c)[PACK][TILE], size_t m, size_t R, bool add)
{
    for (size_t t = 0; t < m; t++) {
        for (size_t r = 0; r < R; r += SIDE) {
            const __mmask16 rows = (__mmask16)((1u << smaller(R - r, SIDE)) - 1);
            float *at = y + t * ys + r;
            __m512 v = _mm512_load_ps(c[t / SIDE][r / SIDE] + t % SIDE * SIDE);

            if (add)
                v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(rows, at));
            _mm512_mask_storeu_ps(at, rows, v);
        }
    }
}

/* bf16 rows r0 .. r0+R, R <= 16, values k .. k+n, as tiles with zeros behind them */
static void turn_rows(uint8_t *to, const struct weight *w, size_t r0, size_t R, size_t k, size_t n)
{
    const uint8_t *rows[SIDE];

    for (size_t r = 0; r < SIDE; r++)
        rows[r] = (const uint8_t *)w->data + (r0 + smaller(r, R - 1)) * w->row_bytes;
    for (size_t i = 0; i < n; i += STEP)
        turn_to(to + 2 * SIDE * i, rows, k + i, smaller(n - i, STEP));
}

/* ng groups of sixteen rows, rounded, as tiles */
INLINE void round_groups(uint8_t *to, const struct group *p, size_t ng, const enum codes kind,
                         const bool offset)
{
    for (size_t g = 0; g < ng; g++, p++, to += BYTES) {
        __m512i line[SIDE];

        group_lines(line, p, kind, offset);
#pragma GCC unroll 16
        for (int i = 0; i < SIDE; i++)
            _mm512_store_si512(to + 64 * i, line[i]);
    }
}

/* Values k0 .. k0+n of rows r0 .. r0+R, R <= 16, as tiles. */
static void tiles_of(uint8_t *to, const struct cpu_kern *k, const struct weight *w, size_t r0,
                     size_t R, size_t k0, size_t n, struct group *panel)
{
    if (w->enc == ENC_BF16) {
        turn_rows(to, w, r0, R, k0, n);
        return;
    }
    for (size_t g = 0, G = n / GROUP, ng; g < G; g += ng) {
        ng = smaller(G - g, CHUNK);
        unpack_panel(k, panel, w, r0, R, k0 / GROUP + g, ng);
        round_groups(to + g * BYTES, panel, ng, k->codes[w->enc], k->offset[w->enc]);
    }
}

static void dot_bf16(float *y, size_t ys, const struct cpu_kern *k, const struct weight *w,
                     size_t r0, size_t R, const bf16 *x, size_t xs, size_t T, bool add, void *mem)
{
    const bool placed = w->enc == ENC_BF16 && w->placed;
    const size_t P = (R + SIDE - 1) / SIDE, K = w->cols, unit = SIDE * w->row_bytes;
    struct room *room = mem;

    _tile_loadconfig(&config);
    for (size_t t = 0; t < T; t += TOKENS) {
        const size_t m = smaller(T - t, TOKENS), tiles = (m + SIDE - 1) / SIDE;

        for (size_t k0 = 0, n; k0 < K; k0 += n) {
            const uint8_t *at = room->tile[0][0];

            n = smaller(K - k0, DEPTH);
            if (placed)
                at = (const uint8_t *)w->placed + r0 / SIDE * unit + 2 * SIDE * k0;
            for (size_t i = 0; i < P && !placed; i++)
                tiles_of(room->tile[i][0], k, w, r0 + i * SIDE, smaller(R - i * SIDE, SIDE), k0, n,
                         room->panel);
            products(room->sum, at, placed ? unit : sizeof(room->tile[0]), P,
                     x + t * xs + k0 * SIDE, xs, tiles, (n + STEP - 1) / STEP, k0 == 0, placed);
        }
        put(y + t * ys, ys, room->sum, m, R, add);
    }
    _tile_release();
}

/* Tiles A of sixteen tokens after one another. */
static void pack_bf16(bf16 *to, size_t xs, const float *x, size_t T, size_t K)
{
    for (size_t t = 0; t < T; t += SIDE) {
        bf16 *tile = to + t * xs;

        for (size_t k = 0; k < K; k += STEP, tile += SIDE * STEP) {
            const size_t n = smaller(K - k, STEP);
            const __mmask32 m = n == STEP ? ~(__mmask32)0 : ((__mmask32)1 << n) - 1;

            for (size_t r = 0; r < SIDE; r++) {
                const float *from = x + (t + smaller(r, T - t - 1)) * K + k;

                _mm512_store_si512(tile + r * STEP,
                                   (__m512i)_mm512_cvtne2ps_pbh(
                                       _mm512_maskz_loadu_ps((__mmask16)(m >> 16), from + 16),
                                       _mm512_maskz_loadu_ps((__mmask16)m, from)));
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
    k->bf16_rows = PACK * LANES;
    k->bf16_room = sizeof(struct room);
    k->pack_bf16 = pack_bf16;
    k->bf16_tokens = SIDE;
    k->bf16_prompts = true;
    k->ahead = AHEAD;
}
