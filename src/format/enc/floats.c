#include "format/enc/floats.h"

void f32_decode_row(float *y, const void *src, size_t n)
{
    memcpy(y, src, n * sizeof(float));
}

void f32_encode_row(void *dst, const float *x, size_t n)
{
    memcpy(dst, x, n * sizeof(float));
}

void f16_decode_row(float *y, const void *src, size_t n)
{
    const uint8_t *p = src;

    for (size_t i = 0; i < n; i++)
        y[i] = f16_to_f32(enc_load16(p + 2 * i));
}

void f16_encode_row(void *dst, const float *x, size_t n)
{
    uint8_t *p = dst;

    for (size_t i = 0; i < n; i++)
        enc_store16(p + 2 * i, f32_to_f16(x[i]));
}

void bf16_decode_row(float *y, const void *src, size_t n)
{
    const uint8_t *p = src;

    for (size_t i = 0; i < n; i++)
        y[i] = bf16_to_f32(enc_load16(p + 2 * i));
}

void bf16_encode_row(void *dst, const float *x, size_t n)
{
    uint8_t *p = dst;

    for (size_t i = 0; i < n; i++)
        enc_store16(p + 2 * i, f32_to_bf16(x[i]));
}
