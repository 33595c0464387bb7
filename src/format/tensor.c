#include "format/tensor.h"

#include <inttypes.h>
#include <stdio.h>

void tensor_shape_text(char out[64], int ndim, const uint64_t *shape)
{
    int at = snprintf(out, 64, "[");

    for (int i = 0; i < ndim && i < 3; i++)
        at += snprintf(out + at, 64 - (size_t)at, "%s%" PRIu64, i ? ", " : "",
                       shape[i] < 1000000000000 ? shape[i] : 999999999999);
    snprintf(out + at, 64 - (size_t)at, ndim > 3 ? ", ...]" : "]");
}
