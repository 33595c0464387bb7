/* bnb4.h - bitsandbytes' 4 bits (NF4 and FP4): w = map[q] * absmax of its block, rounded to the
 * type that the quantised model had. Blocks run over the flattened matrix; the first value of a
 * byte is in its high nibble. With double quantisation a block's absmax is a byte that stands for
 * nested_map[byte] * nested_absmax[block / nested_group] + offset. */
#ifndef PUNA_FORMAT_ENC_BNB4_H
#define PUNA_FORMAT_ENC_BNB4_H

#include "format/enc/floats.h"

HD static inline unsigned bnb4_code(const uint8_t *codes, size_t k)
{
    return codes[k / 2] >> (k & 1 ? 0 : 4) & 15;
}

HD static inline float bnb4_nested(const uint8_t *absmax, const uint8_t *map, const uint8_t *nested,
                                   size_t nested_group, float offset, size_t block)
{
    return enc_loadf(map + 4 * (size_t)absmax[block]) *
               enc_loadf(nested + 4 * (block / nested_group)) +
           offset;
}

#endif
