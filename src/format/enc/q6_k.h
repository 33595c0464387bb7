/* q6_k.h - 256 values in 210 bytes (6.5625 bits): sixteen sub-blocks of 16,
 * (d * sc) * (q - 32), q in 0..63. */
#ifndef PUNA_FORMAT_ENC_Q6_K_H
#define PUNA_FORMAT_ENC_Q6_K_H

#include <assert.h>

#include "format/enc/floats.h"

enum { Q6_K_N = 256 };

struct q6_k {
    uint8_t ql[128]; /* low four bits */
    uint8_t qh[64];  /* high two bits */
    int8_t sc[16];
    uint8_t d[2];    /* f16 */
};
static_assert(sizeof(struct q6_k) == 210, "file layout");

/* Value 128 h + 32 k + l has its low bits in ql[64 h + 32 (k & 1) + l] (high nibble for k >= 2)
 * and its high ones in qh[32 h + l], at bit 2 k. */
HD static inline void q6_k_decode_sub(float *y, const struct q6_k *b, int h, int k)
{
    const float d = f16_to_f32(enc_load16(b->d));
    const uint8_t *ql = b->ql + 64 * h + 32 * (k & 1);

    for (int l = 0; l < 32; l++) {
        const int lo = ql[l] >> 4 * (k >> 1) & 15, hi = b->qh[32 * h + l] >> 2 * k & 3;
        const float s = d * (float)b->sc[8 * h + 2 * k + l / 16];

        y[l] = s * (float)((lo | hi << 4) - 32);
    }
}

HD static inline void q6_k_decode(float *y, const struct q6_k *b)
{
    for (int h = 0; h < 2; h++)
        for (int k = 0; k < 4; k++)
            q6_k_decode_sub(y + 128 * h + 32 * k, b, h, k);
}

void q6_k_decode_row(float *y, const void *src, size_t n);

#endif
