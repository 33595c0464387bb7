/* kern_amx.c - bf16 products on tiles of 16 x 16 sums.
 *
 * Sixteen tokens' activations are tile A as they lie in memory: a row of 64 bytes is 32 values.
 * Sixteen weight rows are tile B once their words are transposed: row k holds values 2k and 2k+1 of
 * every weight row. A sum takes 32 products a step, in order of k, wherever in a tile it lies and
 * whatever lies beside it. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kern.h"

#include "backend/cpu/transpose_avx512.inc"

enum {
    STEP = 32,    /* values of a tile's row */
    DEPTH = 512,  /* values of a panel: two panels are 32 KiB */
    TOKENS = 128, /* whose sums are kept at a time */
    TILE = 16 * 16,
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

/* n values from k0 of 16 weight rows, as tiles; rows past R repeat the last, what lies behind the
 * end of a row is 0 */
static void pack(uint8_t *panel, const uint8_t *w, size_t ws, size_t R, size_t k0, size_t n)
{
    struct rows16 rows;
    uint8_t end[LANES][2 * STEP] = { { 0 } };
    __m512i line[4];

    for (size_t r = 0; r < LANES; r++)
        rows.at[r] = w + (r < R ? r : R - 1) * ws + 2 * k0;
    for (size_t k = 0; k < n; k += STEP) {
        size_t off = 2 * k;

        if (n - k < STEP) {
            for (size_t r = 0; r < LANES; r++) {
                memcpy(end[r], rows.at[r] + off, 2 * (n - k));
                rows.at[r] = end[r];
            }
            off = 0;
        }
        for (size_t i = 0; i < 4; i++) {
            transpose(line, &rows, off + 16 * i);
            for (size_t c = 0; c < 4; c++)
                _mm512_store_si512(panel + 32 * k + 64 * (4 * i + c), line[c]);
        }
    }
}

/* One or two tiles of tokens (a, b) times one or two panels: c[token tile][panel]. */
static void tiles(float (*c)[2][TILE], const uint8_t (*panel)[DEPTH * 2 * LANES], bool two_panels,
                  const bf16 *a, size_t as, const bf16 *b, size_t bs, size_t steps, bool first)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (!first) {
        _tile_loadd(0, c[0][0], 64);
        _tile_loadd(1, c[0][1], 64);
        if (b) {
            _tile_loadd(2, c[1][0], 64);
            _tile_loadd(3, c[1][1], 64);
        }
    }
    for (size_t k = 0; k < steps; k++) {
        _tile_loadd(6, panel[0] + 1024 * k, 64);
        _tile_loadd(4, a + STEP * k, 2 * as);
        _tile_dpbf16ps(0, 4, 6);
        if (two_panels) {
            _tile_loadd(7, panel[1] + 1024 * k, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (b) {
            _tile_loadd(5, b + STEP * k, 2 * bs);
            _tile_dpbf16ps(2, 5, 6);
            if (two_panels)
                _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, c[0][0], 64);
    _tile_stored(1, c[0][1], 64);
    if (b) {
        _tile_stored(2, c[1][0], 64);
        _tile_stored(3, c[1][1], 64);
    }
}

static void dot_bf16(float *y, size_t ys, const uint8_t *w, size_t ws, size_t R, const bf16 *x,
                     size_t xs, size_t T, size_t n, bool add)
{
    _Alignas(64) uint8_t panel[2][DEPTH * 2 * LANES];
    _Alignas(64) float c[TOKENS / 16][2][TILE];
    _Alignas(64) bf16 last[16 * DEPTH]; /* the rows of a tile that is not full, zeros behind */

    _tile_loadconfig(&config);
    for (size_t t0 = 0; t0 < T; t0 += TOKENS) {
        const size_t m = T - t0 < TOKENS ? T - t0 : TOKENS, full = m / 16, all = (m + 15) / 16;

        for (size_t k0 = 0; k0 < n; k0 += DEPTH) {
            const size_t depth = n - k0 < DEPTH ? n - k0 : DEPTH, steps = (depth + STEP - 1) / STEP;
            const bf16 *from = x + t0 * xs + k0;

            pack(panel[0], w, ws, R < LANES ? R : LANES, k0, depth);
            if (R > LANES)
                pack(panel[1], w + LANES * ws, ws, R - LANES, k0, depth);
            if (all > full) {
                memset(last, 0, sizeof(last));
                for (size_t t = 16 * full; t < m; t++)
                    memcpy(last + (t - 16 * full) * DEPTH, from + t * xs, 2 * STEP * steps);
            }
            /* GCC's tile loads do not say that they read memory */
            __asm__ volatile("" : : "r"(panel), "r"(last), "r"(c) : "memory");
            for (size_t i = 0; i < all; i += 2) {
                const bf16 *a = i < full ? from + 16 * i * xs : last;
                const bf16 *b = i + 1 < full ? from + 16 * (i + 1) * xs : i + 1 < all ? last : NULL;

                tiles(c + i, (const uint8_t(*)[DEPTH * 2 * LANES]) panel, R > LANES, a,
                      a == last ? DEPTH : xs, b, b == last ? DEPTH : xs, steps, k0 == 0);
            }
        }
        for (size_t t = 0; t < m; t++) {
            for (size_t r = 0; r < R; r++) {
                float *at = y + (t0 + t) * ys + r;

                *at = c[t / 16][r / LANES][t % 16 * 16 + r % LANES] + (add ? *at : 0);
            }
        }
    }
    _tile_release();
}

void cpu_kern_amx(struct cpu_kern *k)
{
    k->dot_bf16 = dot_bf16;
    k->bf16_rows = 2 * LANES;
}
