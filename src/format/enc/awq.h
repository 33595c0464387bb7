/* awq.h - AutoAWQ's "gemm" layout, 4 bits: w = (q - z) * scale, q and z in 0..15.
 * qweight I32 [in, out/8], qzeros I32 [in/g, out/8], scales [in/g, out]. A word holds eight
 * neighbouring outputs; output n is in nibble {0, 4, 1, 5, 2, 6, 3, 7}[n % 8]. */
#ifndef PUNA_FORMAT_ENC_AWQ_H
#define PUNA_FORMAT_ENC_AWQ_H

#include "format/enc/floats.h"

/* The code of output n in row i (an input of qweight, a group of qzeros) of `out` outputs. */
HD static inline unsigned awq_code(const uint8_t *words, size_t out, size_t i, size_t n)
{
    const unsigned nibble = (unsigned)((n & 1) << 2 | (n >> 1 & 3));

    return enc_load32(words + 4 * (i * (out / 8) + n / 8)) >> 4 * nibble & 15;
}

#endif
