#include "train/param.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

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
    if (mem_map(&mem, p->bytes, name, e)) {
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

double param_norm(const struct param_list *l, struct ctx *c, const struct train_ops *op)
{
    double squares = 0;

    for (size_t i = 0; i < l->n; i++) {
        double sum;

        op->square_sum(c, &sum, l->p[i]->g, l->p[i]->rows * l->p[i]->cols);
        squares += sum;
    }
    return sqrt(squares);
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
        memset(p->g, 0, p->rows * p->cols * sizeof(float));
    }
}
