/* tensor.h - what every container yields: a named view into mapped bytes. */
#ifndef PUNA_FORMAT_TENSOR_H
#define PUNA_FORMAT_TENSOR_H

#include "format/enc/enc.h"

enum { TENSOR_MAX_DIMS = 8 };

struct tensor_view {
    const char *name; /* owned by the container, NUL-terminated */
    enum enc enc;
    int ndim;
    uint64_t shape[TENSOR_MAX_DIMS]; /* slowest axis first, so a matrix is [out, in] in GGUF too */
    const uint8_t *data;             /* borrowed from the mapping, at any alignment */
    size_t nbytes;
};

/* "[6, 8]", at most three axes of it. */
void tensor_shape_text(char out[64], int ndim, const uint64_t *shape);

#endif
