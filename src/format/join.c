#include "format/join.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static int mismatch(const char *name, const struct tensor_view *a, const struct tensor_view *b,
                    struct err *e)
{
    char x[64], y[64];

    tensor_shape_text(x, a->ndim, a->shape);
    tensor_shape_text(y, b->ndim, b->shape);
    return err_set(e, ERR_FORMAT, "tensor %.200s is %s %s in one shard and %s %s in another", name,
                   enc_table[a->enc].name, x, enc_table[b->enc].name, y);
}

int join_init(struct joined *j, const char *name, const struct tensor_view *piece, size_t n,
              int axis, uint64_t rows, struct err *e)
{
    struct tensor_view v = piece[0];
    size_t bytes = 0;
    void *p;

    if (axis < 0)
        axis = v.ndim < 2 || v.shape[0] != rows || n == 1 ? 0 : 1;
    for (size_t i = 1; i < n; i++) {
        if (piece[i].enc != v.enc || piece[i].ndim != v.ndim ||
            memcmp(piece[i].shape, piece[0].shape, sizeof(v.shape)))
            return mismatch(name, &piece[0], &piece[i], e);
    }
    size_t whole;

    if (!mul_ok(&whole, v.shape[axis], n) || !mul_ok(&bytes, v.nbytes, n) ||
        (axis == 1 && enc_table[v.enc].block > 1))
        return err_set(e, ERR_FORMAT, "tensor %.200s cannot be joined from %zu shards", name, n);
    if (mem_new(&p, n, sizeof(*piece), name, e))
        return -1;
    v.shape[axis] = whole;
    v.nbytes = bytes;
    v.data = NULL;
    v.name = xstrdup(name);
    *j = (struct joined){ .view = v, .axis = axis, .n = n, .piece = p };
    memcpy(j->piece, piece, n * sizeof(*piece));
    return 0;
}

void join_release(struct joined *j)
{
    join_drop(j);
    free((char *)(uintptr_t)j->view.name);
    free(j->piece);
    *j = (struct joined){ 0 };
}

int join_fill(struct joined *j, struct err *e)
{
    const size_t rows = j->axis ? j->view.shape[0] : 1;
    const size_t part = j->piece[0].nbytes / rows; /* of one row, or a whole piece */
    uint8_t *to;

    if (j->copy)
        return 0;
    if (mem_map(&j->copy, j->view.nbytes, j->view.name, e))
        return -1;
    to = j->copy;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < j->n; i++, to += part)
            memcpy(to, j->piece[i].data + r * part, part);
    j->view.data = j->copy;
    return 0;
}

void join_drop(struct joined *j)
{
    if (j->copy)
        mem_unmap(j->copy, j->view.nbytes);
    j->copy = NULL;
    j->view.data = NULL;
}

struct tensor_view tensor_rows(const struct tensor_view *t, uint64_t at, uint64_t n)
{
    const size_t row = t->nbytes / t->shape[0];
    struct tensor_view v = *t;

    BUG_ON(at > t->shape[0] || n > t->shape[0] - at);
    v.shape[0] = n;
    v.data = t->data + at * row;
    v.nbytes = n * row;
    return v;
}
