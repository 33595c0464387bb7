#include "format/enc/q6_k.h"

void q6_k_decode_row(float *y, const void *src, size_t n)
{
    const struct q6_k *b = src;

    for (size_t i = 0; i < n / Q6_K_N; i++)
        q6_k_decode(y + i * Q6_K_N, &b[i]);
}
