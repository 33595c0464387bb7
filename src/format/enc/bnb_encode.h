/* bnb_encode.h - how bitsandbytes makes codes: NF4 and FP4 in blocks of the flattened matrix, and
 * the 8-bit dynamic maps that stand for scales of scales and for moments of optimisers (Dettmers et
 * al., "8-bit Optimizers via Block-wise Quantization", 2021; "QLoRA", 2023). bnb4.h reads them. */
#ifndef PUNA_FORMAT_ENC_BNB_ENCODE_H
#define PUNA_FORMAT_ENC_BNB_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern const float bnb_nf4[16], bnb_fp4[16]; /* what a code stands for, times the block's absmax */

/* 256 values that rise from -1 (0 without a sign) to 1; most lie near 0. */
void bnb_dynamic_map(float map[256], bool with_sign);

/* The map with what finding its nearest value takes. */
struct bnb_map {
    float map[256],
        bound[256]; /* bound[i]: above it i + 1 is nearer than i; the last is infinite */
};
void bnb_map_init(struct bnb_map *m, bool with_sign);
/* One block of n values: codes, returns its absmax. */
float bnb_encode8(uint8_t *codes, const struct bnb_map *m, const float *x, size_t n);
/* The same in 4 bits, the first value in the high half of a byte; n is even but in the last block.
 * map is bnb_nf4 or bnb_fp4. */
float bnb_encode4(uint8_t *codes, const float map[16], const float *x, size_t n);

#endif
