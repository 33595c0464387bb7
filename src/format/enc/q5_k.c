#include "format/enc/q5_k.h"

void q5_k_decode_row(float *y, const void *src, size_t n)
{
    const struct q5_k *b = src;

    for (size_t i = 0; i < n / Q5_K_N; i++)
        q5_k_decode(y + i * Q5_K_N, &b[i]);
}
