/* packed.h - compressed-tensors' "pack-quantized", 4 or 8 bits: w = (q - z) * scale.
 * weight_packed I32 [out, ceil(in*bits/32)]: a word holds neighbouring inputs, the lowest bits
 * first. weight_zero_point I32 [ceil(out*bits/32), in/g]: a word holds neighbouring outputs.
 * weight_scale [out, in/g]. Codes and zero points are signed numbers plus 2^(bits-1), which
 * cancels; without zero points z is that offset. */
#ifndef PUNA_FORMAT_ENC_PACKED_H
#define PUNA_FORMAT_ENC_PACKED_H

#include "format/enc/floats.h"

/* The code of input i in the words of one row. */
HD static inline unsigned packed_code(const uint8_t *row, unsigned bits, size_t i)
{
    const size_t per = 32 / bits;

    return enc_load32(row + 4 * (i / per)) >> bits * (unsigned)(i % per) & ((1u << bits) - 1);
}

/* The zero point of output r and group g of G. */
HD static inline unsigned packed_zero(const uint8_t *words, unsigned bits, size_t G, size_t r,
                                      size_t g)
{
    const size_t per = 32 / bits;

    if (!words)
        return 1u << (bits - 1);
    return enc_load32(words + 4 * (r / per * G + g)) >> bits * (unsigned)(r % per) &
           ((1u << bits) - 1);
}

#endif
