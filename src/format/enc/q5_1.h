/* q5_1.h - 32 values in 24 bytes (6 bits): d * q + m, q in 0..31. */
#ifndef PUNA_FORMAT_ENC_Q5_1_H
#define PUNA_FORMAT_ENC_Q5_1_H

#include <assert.h>

#include "format/enc/floats.h"

enum { Q5_1_N = 32 };

struct q5_1 {
    uint8_t d[2];   /* f16 */
    uint8_t m[2];   /* f16, the smallest value */
    uint8_t qh[4];  /* bit i of this little-endian word: bit 4 of value i */
    uint8_t qs[16]; /* byte j: value j in the low nibble, value j + 16 in the high one */
};
static_assert(sizeof(struct q5_1) == 24, "file layout");

HD static inline void q5_1_decode(float *y, const struct q5_1 *b)
{
    const float d = f16_to_f32(enc_load16(b->d)), m = f16_to_f32(enc_load16(b->m));

    for (int j = 0; j < 16; j++) {
        const int lo = b->qh[j / 8] >> (j % 8) & 1, hi = b->qh[2 + j / 8] >> (j % 8) & 1;

        y[j] = d * (float)((b->qs[j] & 15) | lo << 4) + m;
        y[j + 16] = d * (float)(b->qs[j] >> 4 | hi << 4) + m;
    }
}

void q5_1_decode_row(float *y, const void *src, size_t n);
void q5_1_encode_row(void *dst, const float *x, size_t n);

#endif
