/* gptq.h - GPTQ as AutoGPTQ and GPTQModel write it, 4 or 8 bits: w = (q - z) * scale.
 * qweight I32 [in*bits/32, out]: a word holds neighbouring inputs of one output, the lowest bits
 * first. qzeros I32 [G, out*bits/32]: a word holds neighbouring outputs. scales [G, out].
 * Version 1 of the format stores z - 1. */
#ifndef PUNA_FORMAT_ENC_GPTQ_H
#define PUNA_FORMAT_ENC_GPTQ_H

#include "format/enc/floats.h"

/* The code of input i and output n. */
HD static inline unsigned gptq_code(const uint8_t *words, unsigned bits, size_t out, size_t i,
                                    size_t n)
{
    const size_t per = 32 / bits;
    const uint32_t w = enc_load32(words + 4 * (i / per * out + n));

    return w >> bits * (unsigned)(i % per) & ((1u << bits) - 1);
}

/* The zero point of group g and output n; `minus_one`: as version 1 stores it. It wraps within
 * its bits. */
HD static inline unsigned gptq_zero(const uint8_t *words, unsigned bits, size_t out, size_t g,
                                    size_t n, bool minus_one)
{
    const size_t per = 32 / bits;
    const uint32_t w = enc_load32(words + 4 * (g * (out / per) + n / per));

    return ((w >> bits * (unsigned)(n % per)) + minus_one) & ((1u << bits) - 1);
}

#endif
