/* q8_0.h - 32 values in 34 bytes (8.5 bits): d * q, q signed. */
#ifndef PUNA_FORMAT_ENC_Q8_0_H
#define PUNA_FORMAT_ENC_Q8_0_H

#include <assert.h>

#include "format/enc/floats.h"

enum { Q8_0_N = 32 };

struct q8_0 {
    uint8_t d[2]; /* f16 */
    int8_t q[32];
};
static_assert(sizeof(struct q8_0) == 34, "file layout");

HD static inline void q8_0_decode(float *y, const struct q8_0 *b)
{
    const float d = f16_to_f32(enc_load16(b->d));

    for (int j = 0; j < Q8_0_N; j++)
        y[j] = d * (float)b->q[j];
}

void q8_0_decode_row(float *y, const void *src, size_t n);
void q8_0_encode_row(void *dst, const float *x, size_t n);

#endif
