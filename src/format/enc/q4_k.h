/* q4_k.h - 256 values in 144 bytes (4.5 bits): eight sub-blocks of 32,
 * (d * S_j) * q - dmin * M_j, q in 0..15. */
#ifndef PUNA_FORMAT_ENC_Q4_K_H
#define PUNA_FORMAT_ENC_Q4_K_H

#include <assert.h>

#include "format/enc/k_scales.h"

enum { Q4_K_N = 256 };

struct q4_k {
    uint8_t d[2];    /* f16 */
    uint8_t dmin[2]; /* f16 */
    uint8_t sc[K_SCALES_BYTES];
    uint8_t qs[128]; /* byte 32 * (j / 2) + l: value l of sub-block j, low nibble for even j */
};
static_assert(sizeof(struct q4_k) == 144, "file layout");

/* Sub-block j alone, 32 values. */
HD static inline void q4_k_decode_sub(float *y, const struct q4_k *b, int j)
{
    const float d = f16_to_f32(enc_load16(b->d)), dmin = f16_to_f32(enc_load16(b->dmin));
    const uint8_t *q = b->qs + 32 * (j / 2);
    unsigned scale, min;

    k_scales_get(b->sc, j, &scale, &min);
    const float s = d * (float)scale, m = dmin * (float)min;

    for (int l = 0; l < 32; l++)
        y[l] = s * (float)(q[l] >> 4 * (j & 1) & 15) - m;
}

HD static inline void q4_k_decode(float *y, const struct q4_k *b)
{
    for (int j = 0; j < 8; j++)
        q4_k_decode_sub(y + 32 * j, b, j);
}

void q4_k_decode_row(float *y, const void *src, size_t n);

#endif
