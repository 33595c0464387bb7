/* Two by two tiles of sums, as a product of matrices has them. */
#include <immintrin.h>

#include "backend/cpu/ceiling.h"

/* palette 1; eight tiles of 64 bytes by 16 rows */
static const _Alignas(64) uint8_t config[64] = {
    [0] = 1,   [16] = 64, [18] = 64, [20] = 64, [22] = 64, [24] = 64,
    [26] = 64, [28] = 64, [30] = 64, [48] = 16, [49] = 16, [50] = 16,
    [51] = 16, [52] = 16, [53] = 16, [54] = 16, [55] = 16,
};

static void configure(void)
{
    _tile_loadconfig(config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

static double bf16_amx(size_t n)
{
    configure();
    for (size_t r = 0; r < n / 16; r++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return (double)(n / 16) * 4 * 16 * 16 * 32 * 2;
}

static double int8_amx(size_t n)
{
    configure();
    for (size_t r = 0; r < n / 16; r++) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_release();
    return (double)(n / 16) * 4 * 16 * 16 * 64 * 2;
}

void ceiling_kern_amx(struct ceiling_kern *k)
{
    k->bf16 = bf16_amx;
    k->int8 = int8_amx;
}
