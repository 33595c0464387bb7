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

/* The next bytes of a parameter's memory, at a multiple of 64. */
static void *carve(char *mem, size_t *at, size_t bytes)
{
    void *to = mem + *at;

    *at += (bytes + 63) / 64 * 64;
    return to;
}

/* The first parameter of a list on a device brings room for the norm of all gradients. */
static int first_norm(struct param_list *l, struct err *e)
{
    void *mem;

    if (on_host(l) || l->norm)
        return 0;
    if (l->on->be->alloc(l->on, &mem, sizeof(*l->norm), "the norm of gradients", e))
        return -1;
    l->norm = mem;
    return 0;
}

static int new_all(struct param_list *l, struct param **out, char *const *name, size_t count,
                   const struct param *like, bool half, struct err *e)
{
    const size_t n = like->rows * like->cols, each = half ? sizeof(uint16_t) : sizeof(float);
    size_t bytes = count * (param_gradient_bytes(like) + n * each) + 64 * 6 * count, at = 0;
    void *mem;

    for (size_t i = 0; i < like->n_part; i++)
        bytes += count * like->part[i].n * enc_table[like->part[i].enc].bytes;
    if (first_norm(l, e) || (l->on ? l->on->be->alloc(l->on, &mem, bytes, name[0], e)
                                   : mem_map(&mem, bytes, name[0], e))) {
        for (size_t i = 0; i < count; i++)
            free(name[i]);
        return -1;
    }
    char *const g = carve(mem, &at, count * param_gradient_bytes(like));
    char *const values = carve(mem, &at, count * n * each);

    l->p = xrealloc(l->p, (l->n + count) * sizeof(struct param *));
    for (size_t i = 0; i < count; i++) {
        struct param *p = xmalloc(sizeof(*p));

        *p = *like;
        p->name = name[i];
        p->mem = i ? NULL : mem;
        p->bytes = i ? 0 : bytes;
        p->g = (float *)(void *)(g + i * param_gradient_bytes(like));
        p->half = half ? (uint16_t *)(void *)(values + i * n * each) : NULL;
        p->w = half ? NULL : (float *)(void *)(values + i * n * each);
        for (size_t k = 0; k < p->n_part; k++)
            p->part[k].p = carve(mem, &at, p->part[k].n * enc_table[p->part[k].enc].bytes);
        l->p[l->n++] = out[i] = p;
    }
    return 0;
}

int param_new(struct param_list *l, struct param **out, char *name, size_t rows, size_t cols,
              enum param_kind kind, enum optim optim, unsigned half, struct err *e)
{
    struct param like = { .rows = rows, .cols = cols, .decay = rows > 1 };
    const bool values = half & PARAM_HALF_VALUES && kind != PARAM_SMALL;

    like.half_g = half & PARAM_HALF_GRADIENT && kind == PARAM_MATRIX;
    like.n_part = optim_parts(optim, rows, cols, kind == PARAM_EMBEDDING, like.part);
    return new_all(l, out, &name, 1, &like, values, e);
}

int param_new_together(struct param_list *l, struct param **out, char *const *name, size_t count,
                       size_t rows, size_t cols, enum optim optim, struct err *e)
{
    struct param like = { .rows = rows, .cols = cols, .decay = rows > 1 };

    like.n_part = optim_parts(optim, rows, cols, false, like.part);
    return new_all(l, out, name, count, &like, false, e);
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
