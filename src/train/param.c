#include "train/param.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "ops/backend.h"

static bool on_host(const struct param_list *l)
{
    return !l->on || ctx_on_host(l->on);
}

/* The next bytes of p's memory, at a multiple of 64. */
static void *carve(const struct param *p, size_t *at, size_t bytes)
{
    void *to = (char *)p->mem + *at;

    *at += (bytes + 63) / 64 * 64;
    return to;
}

int param_new(struct param_list *l, struct param **out, char *name, size_t rows, size_t cols,
              enum param_kind kind, enum optim optim, unsigned half, struct err *e)
{
    struct param *p = xcalloc(1, sizeof(*p));
    size_t at = 0;
    void *mem;

    if (!on_host(l) && !l->norm) {
        if (l->on->be->alloc(l->on, &mem, sizeof(*l->norm), "the norm of gradients", e)) {
            free(name);
            free(p);
            return -1;
        }
        l->norm = mem;
    }
    const bool values = half & PARAM_HALF_VALUES && kind != PARAM_SMALL;

    p->name = name;
    p->rows = rows;
    p->cols = cols;
    p->decay = rows > 1;
    p->n_part = optim_parts(optim, rows, cols, kind == PARAM_EMBEDDING, p->part);
    p->half_g = half & PARAM_HALF_GRADIENT && kind == PARAM_MATRIX;
    p->bytes = param_gradient_bytes(p) + rows * cols * (values ? sizeof(uint16_t) : sizeof(float)) +
               64 * 6;
    for (size_t i = 0; i < p->n_part; i++)
        p->bytes += p->part[i].n * enc_table[p->part[i].enc].bytes;
    if (l->on ? l->on->be->alloc(l->on, &mem, p->bytes, name, e)
              : mem_map(&mem, p->bytes, name, e)) {
        free(p->name);
        free(p);
        return -1;
    }
    p->mem = mem;
    p->g = carve(p, &at, param_gradient_bytes(p));
    p->half = values ? carve(p, &at, rows * cols * sizeof(uint16_t)) : NULL;
    p->w = values ? NULL : carve(p, &at, rows * cols * sizeof(float));
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
    if (l->norm)
        l->on->be->release(l->on, l->norm, sizeof(double));
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

size_t param_gradient_bytes(const struct param *p)
{
    return p->rows * p->cols * (p->half_g ? sizeof(uint16_t) : sizeof(float));
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
    struct adamw_values *all = xcalloc(l->n + 1, sizeof(*all));
    double squares = 0;
    int rc = 0;

    for (size_t i = 0; i < l->n; i++) {
        struct param *p = l->p[i];

        all[i].g = p->g;
        all[i].n = p->rows * p->cols;
        all[i].half_g = p->half_g;
        if (p->fresh) /* nothing came */
            op->zero(c, p->g, param_gradient_bytes(p));
        p->fresh = false;
    }
    op->square_sum(c, l->norm ? l->norm : &squares, all, l->n);
    if (l->norm &&
        (c->be->settle(c, e) || c->be->download(c, &squares, l->norm, sizeof(squares), e)))
        rc = -1;
    *norm = sqrt(squares);
    free(all);
    return rc;
}

void param_step(const struct param_list *l, struct ctx *c, const struct train_ops *op,
                enum optim optim, const struct adamw *a, uint64_t seed)
{
    struct optim_param *all = xcalloc(l->n + 1, sizeof(*all));

    for (size_t i = 0; i < l->n; i++) {
        const struct param *p = l->p[i];

        all[i] = (struct optim_param){ .w = p->w,
                                       .half = p->half,
                                       .g = p->g,
                                       .rows = p->rows,
                                       .cols = p->cols,
                                       .n_part = p->n_part,
                                       .decays = p->decay,
                                       .half_g = p->half_g };
        memcpy(all[i].part, p->part, sizeof(p->part));
    }
    optim_step(c, op, optim, a, all, l->n, seed);
    free(all);
    for (size_t i = 0; i < l->n; i++) {
        struct param *p = l->p[i];

        p->fresh = p->overwritten;
        if (!p->fresh)
            op->zero(c, p->g, param_gradient_bytes(p));
    }
}
