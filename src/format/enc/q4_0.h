/* q4_0.h - 32 values in 18 bytes (4.5 bits): d * (q - 8), q in 0..15. */
#ifndef PUNA_FORMAT_ENC_Q4_0_H
#define PUNA_FORMAT_ENC_Q4_0_H

#include <assert.h>

#include "format/enc/floats.h"

enum { Q4_0_N = 32 };

struct q4_0 {
    uint8_t d[2];   /* f16 */
    uint8_t qs[16]; /* byte j: value j in the low nibble, value j + 16 in the high one */
};
static_assert(sizeof(struct q4_0) == 18, "file layout");

HD static inline void q4_0_decode(float *y, const struct q4_0 *b)
{
    const float d = f16_to_f32(enc_load16(b->d));

    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((b->qs[j] & 15) - 8);
        y[j + 16] = d * (float)((b->qs[j] >> 4) - 8);
    }
}

void q4_0_decode_row(float *y, const void *src, size_t n);
void q4_0_encode_row(void *dst, const float *x, size_t n);

#endif
