/* image.cuh - where inputs of products in 16 bits lie: in rows, or as wide_wgmma.cu's copies bring
 * them to where wgmma reads them. */
#pragma once

#include "backend/cuda/dev.h"

/* Column k of row t, from the beginning: of rows of kp where `image` is 0, else of the image of so
 * many rows, for records of U6 where it is negative. That has for 64 columns a line of 128 bytes for
 * each row, swizzled. A lane that has eight columns of a block of 32 codes (dev.h), c-th of four, meets
 * its pairs 2 h and 2 h + 1 where product h of the block has columns 2 c and 2 c + 8. */
__device__ static inline size_t input_at(int image, int kp, int t, int k)
{
    const int n = image < 0 ? -image : image, m = k % 32;
    const int c = image < 0 ? m % 16 / 4 : m / 8, q = image < 0 ? m / 16 * 2 + m / 2 % 2 : m / 2 % 4;
    const int at = (k / 32 % 2 * 4 + q) ^ (t & 7);

    return image ? ((size_t)(k / 64) * n + t) * 64 + at * 8 + 2 * c + k % 2 : (size_t)t * kp + k;
}
