/* floats.h - f32, f16 and bf16 as encodings: blocks of one value, little-endian, at any
 * address. Encoding rounds to nearest even (base/num.h). */
#ifndef PUNA_FORMAT_ENC_FLOATS_H
#define PUNA_FORMAT_ENC_FLOATS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/num.h"

/* Words and floats at any address. */
HD static inline uint16_t enc_load16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, 2);
    return v;
}

HD static inline uint32_t enc_load32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, 4);
    return v;
}

HD static inline float enc_loadf(const uint8_t *p)
{
    return f32_from_bits(enc_load32(p));
}

HD static inline void enc_store16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}

void f32_decode_row(float *y, const void *src, size_t n);
void f32_encode_row(void *dst, const float *x, size_t n);
void f16_decode_row(float *y, const void *src, size_t n);
void f16_encode_row(void *dst, const float *x, size_t n);
void bf16_decode_row(float *y, const void *src, size_t n);
void bf16_encode_row(void *dst, const float *x, size_t n);

#endif
