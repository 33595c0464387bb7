#include "cmd/samples.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

void samples_sort(double *v, size_t n)
{
    qsort(v, n, sizeof(*v), by_value);
}
