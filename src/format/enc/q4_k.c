#include "format/enc/q4_k.h"

void q4_k_decode_row(float *y, const void *src, size_t n)
{
    const struct q4_k *b = src;

    for (size_t i = 0; i < n / Q4_K_N; i++)
        q4_k_decode(y + i * Q4_K_N, &b[i]);
}
