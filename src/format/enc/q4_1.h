/* q4_1.h - 32 values in 20 bytes (5 bits): d * q + m, q in 0..15. */
#ifndef PUNA_FORMAT_ENC_Q4_1_H
#define PUNA_FORMAT_ENC_Q4_1_H

#include <assert.h>

#include "format/enc/floats.h"

enum { Q4_1_N = 32 };

struct q4_1 {
    uint8_t d[2];   /* f16 */
    uint8_t m[2];   /* f16, the smallest value */
    uint8_t qs[16]; /* byte j: value j in the low nibble, value j + 16 in the high one */
};
static_assert(sizeof(struct q4_1) == 20, "file layout");

HD static inline void q4_1_decode(float *y, const struct q4_1 *b)
{
    const float d = f16_to_f32(enc_load16(b->d)), m = f16_to_f32(enc_load16(b->m));

    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)(b->qs[j] & 15) + m;
        y[j + 16] = d * (float)(b->qs[j] >> 4) + m;
    }
}

void q4_1_decode_row(float *y, const void *src, size_t n);
void q4_1_encode_row(void *dst, const float *x, size_t n);

#endif
