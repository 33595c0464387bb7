/* join.h - one tensor out of pieces of others: shards of a row- or column-parallel model, or some
 * rows of a larger tensor.
 *
 * Pieces lie where the files map them. A matrix that is used whole is copied together first
 * (join_fill), because kernels read rows at a fixed distance: the pieces of a column-parallel
 * matrix hold parts of every row, and those of different files can never be mapped side by side,
 * since tensors are not aligned to pages. */
#ifndef PUNA_FORMAT_JOIN_H
#define PUNA_FORMAT_JOIN_H

#include "format/tensor.h"

struct joined {
    struct tensor_view
        view; /* first, so that a view leads here; data NULL until filled; name owned */
    int axis; /* pieces follow one another along it: 0 rows, 1 columns */
    size_t n;
    struct tensor_view *piece; /* owned array; names and data borrowed */
    void *copy;                /* owned; NULL = not filled */
};

/* Pieces (at least one, of one encoding) become one tensor `name`; both are copied. axis -1: found
 * from `rows`, the rows that the whole must have. Refuses shapes that do not fit together. */
int join_init(struct joined *j, const char *name, const struct tensor_view *piece, size_t n,
              int axis, uint64_t rows, struct err *e) MUST_USE;
void join_release(struct joined *j); /* legal on a zeroed struct */
/* Copies the pieces together; view.data is set. Does nothing when it is. */
int join_fill(struct joined *j, struct err *e) MUST_USE;
/* Gives the copy back. */
void join_drop(struct joined *j);

/* Rows at .. at + n of a matrix or a vector's values, as a view of their own. */
struct tensor_view tensor_rows(const struct tensor_view *t, uint64_t at, uint64_t n);

#endif
