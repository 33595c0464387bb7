#include "train/param.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "ops/backend.h"

/* The next bytes of p's memory, at a multiple of 64. */
static void *carve(const struct param *p, size_t *at, size_t bytes)
{
    void *to = (char *)p->mem + *at;

    *at += (bytes + 63) / 64 * 64;
    return to;
}

int param_new(struct param_list *l, struct param **out, char *name, size_t rows, size_t cols,
              enum param_kind kind, enum optim optim, bool half, struct err *e)
{
    struct param *p = xcalloc(1, sizeof(*p));
    size_t at = 0;
    void *mem;

    half = half && kind != PARAM_SMALL;
    p->name = name;
    p->rows = rows;
    p->cols = cols;
    p->decay = rows > 1;
    p->n_part = optim_parts(optim, rows, cols, kind == PARAM_EMBEDDING, p->part);
    p->bytes = rows * cols * (sizeof(float) + (half ? sizeof(uint16_t) : sizeof(float))) + 64 * 6;
    for (size_t i = 0; i < p->n_part; i++)
        p->bytes += p->part[i].n * enc_table[p->part[i].enc].bytes;
    if (l->on ? l->on->be->alloc(l->on, &mem, p->bytes, name, e)
              : mem_map(&mem, p->bytes, name, e)) {
        free(p->name);
        free(p);
        return -1;
    }
    p->mem = mem;
    p->g = carve(p, &at, rows * cols * sizeof(float));
    p->half = half ? carve(p, &at, rows * cols * sizeof(uint16_t)) : NULL;
    p->w = half ? NULL : carve(p, &at, rows * cols * sizeof(float));
    for (size_t i = 0; i < p->n_part; i++)
        p->part[i].p = carve(p, &at, p->part[i].n * enc_table[p->part[i].enc].bytes);
    l->p = xrealloc(l->p, (l->n + 1) * sizeof(struct param *));
    l->p[l->n++] = *out = p;
    return 0;
}

void param_list_release(struct param_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        struct param *p = l->p[i];

        if (l->on)
            l->on->be->release(l->on, p->mem, p->bytes);
        else
            mem_unmap(p->mem, p->bytes);
        free(p->name);
        free(p);
    }
    free(l->p);
    *l = (struct param_list){ 0 };
}

size_t param_count(const struct param_list *l)
{
    size_t count = 0;

    for (size_t i = 0; i < l->n; i++)
        count += l->p[i]->rows * l->p[i]->cols;
    return count;
}

static bool on_host(const struct param_list *l)
{
    return !l->on || ctx_on_host(l->on);
}

int param_read(const struct param_list *l, void *to, const void *from, size_t bytes, struct err *e)
{
    if (!on_host(l))
        return l->on->be->download(l->on, to, from, bytes, e);
    memcpy(to, from, bytes);
    return 0;
}

int param_write(const struct param_list *l, void *to, const void *from, size_t bytes, struct err *e)
{
    if (!on_host(l))
        return l->on->be->upload(l->on, to, from, bytes, e);
    memcpy(to, from, bytes);
    return 0;
}

int param_view(const struct param_list *l, const void **at, void **owned, const void *from,
               size_t bytes, struct err *e)
{
    *at = from;
    *owned = NULL;
    if (on_host(l))
        return 0;
    if (mem_new(owned, bytes, 1, "a copy of values", e))
        return -1;
    *at = *owned;
    return param_read(l, *owned, from, bytes, e);
}

int param_norm(const struct param_list *l, struct ctx *c, const struct train_ops *op, double *norm,
               struct err *e)
{
    double *each = xmalloc((l->n + 1) * sizeof(*each)), *to = each, squares = 0;
    void *there = NULL;
    int rc = 0;

    if (!ctx_on_host(c)) {
        rc = c->be->alloc(c, &there, (l->n + 1) * sizeof(*each), "norms of gradients", e);
        to = there;
    }
    for (size_t i = 0; rc == 0 && i < l->n; i++) {
        struct param *p = l->p[i];

        if (p->fresh) /* nothing came */
            op->zero(c, p->g, p->rows * p->cols * sizeof(float));
        p->fresh = false;
        op->square_sum(c, to + i, p->g, p->rows * p->cols);
    }
    if (rc == 0 && !ctx_on_host(c) &&
        (c->be->settle(c, e) || c->be->download(c, each, to, l->n * sizeof(*each), e)))
        rc = -1;
    for (size_t i = 0; rc == 0 && i < l->n; i++)
        squares += each[i];
    *norm = sqrt(squares);
    c->be->release(c, there, 0);
    free(each);
    return rc;
}

void param_step(const struct param_list *l, struct ctx *c, const struct train_ops *op,
                enum optim optim, const struct adamw *a, uint64_t seed)
{
    for (size_t i = 0; i < l->n; i++) {
        struct param *p = l->p[i];
        struct adamw own = *a;
        struct optim_param o = { .w = p->w,
                                 .half = p->half,
                                 .g = p->g,
                                 .rows = p->rows,
                                 .cols = p->cols,
                                 .n_part = p->n_part };

        own.decay = p->decay ? a->decay : 0;
        memcpy(o.part, p->part, sizeof(o.part));
        optim_step(c, op, optim, &own, &o, rng_u64(seed, i));
        p->fresh = p->overwritten;
        if (!p->fresh)
            op->zero(c, p->g, p->rows * p->cols * sizeof(float));
    }
}
