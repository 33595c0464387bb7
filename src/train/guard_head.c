#include "train/guard_head.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct guard_head {
    struct ctx *c;
    const struct train_ops *op;
    size_t dim, labels;
    struct param_list params;
    struct param *w1, *b1, *w2, *b2;
    /* of a batch: what gelu reads and gives, that after dropout; the gradients of both */
    float *pre, *act, *seen, *dact;
    float *z; /* logits, then their gradient */
    void *mem;
};

static int param_from(struct param **out, struct guard_head *h, const struct st *from,
                      const char *name, size_t rows, size_t cols, struct err *e)
{
    const struct tensor_view *t = st_find(from, name);

    if (!t || t->nbytes != rows * cols * enc_table[t->enc].bytes || !enc_table[t->enc].decode)
        return err_set(e, ERR_FORMAT, "%s: no %s of %zu values", st_path(from), name, rows * cols);
    if (param_new(&h->params, out, xstrdup(name), rows, cols, rows > 1 ? PARAM_MATRIX : PARAM_SMALL,
                  OPTIMISER_ADAMW, 0, e))
        return -1;
    enc_table[t->enc].decode((*out)->w, t->data, rows * cols);
    return 0;
}

int guard_head_new(struct guard_head **out, struct ctx *c, const struct train_ops *op,
                   const struct st *from, size_t labels, size_t dim, size_t most, struct err *e)
{
    struct guard_head *h = xcalloc(1, sizeof(*h));
    float *p;

    h->c = c;
    h->op = op;
    h->dim = dim;
    h->labels = labels;
    if (mem_new(&h->mem, most, (4 * dim + labels) * sizeof(float), "activations", e) ||
        param_from(&h->w1, h, from, "pooler.dense.weight", dim, dim, e) ||
        param_from(&h->b1, h, from, "pooler.dense.bias", 1, dim, e) ||
        param_from(&h->w2, h, from, "classifier.weight", labels, dim, e) ||
        param_from(&h->b2, h, from, "classifier.bias", 1, labels, e)) {
        guard_head_free(h);
        return -1;
    }
    p = h->mem;
    h->pre = p;
    h->act = p + most * dim;
    h->seen = p + 2 * most * dim;
    h->dact = p + 3 * most * dim;
    h->z = p + 4 * most * dim;
    *out = h;
    return 0;
}

void guard_head_free(struct guard_head *h)
{
    if (!h)
        return;
    param_list_release(&h->params);
    free(h->mem);
    free(h);
}

const struct param_list *guard_head_params(const struct guard_head *h)
{
    return &h->params;
}

/* y[n, out] = x W^T + b */
static void affine(const struct guard_head *h, float *y, const struct param *w,
                   const struct param *b, const float *x, size_t n)
{
    const struct weight m = { .enc = ENC_F32,
                              .rows = w->rows,
                              .cols = w->cols,
                              .data = w->w,
                              .row_bytes = w->cols * sizeof(float),
                              .name = w->name };

    for (size_t t = 0; t < n; t++)
        memcpy(y + t * w->rows, b->w, w->rows * sizeof(float));
    h->op->linear_fwd(h->c, y, &m, x, n, y);
}

/* Gradients of an affine map from that of its output. */
static void affine_bwd(const struct guard_head *h, struct param *w, struct param *b,
                       const float *dy, const float *x, size_t n)
{
    const size_t out = w->rows, in = w->cols;
    const struct product dw = { .c = w->g,
                                .M = out,
                                .N = in,
                                .K = n,
                                .a = { .p = dy, .rs = 1, .cs = out },
                                .b = { .p = x, .rs = in, .cs = 1 },
                                .by = 1,
                                .add = true };

    h->op->product(h->c, &dw);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < out; i++)
            b->g[i] += dy[t * out + i];
}

/* dy becomes dx of y = gelu(x): y' = P(x) + x p(x), the normal distribution and its density. */
static void gelu_bwd(float *dy, const float *x, size_t n)
{
    const float root = 0.70710678f, density = 0.39894228f; /* sqrt(1 / 2), 1 / sqrt(2 pi) */

    for (size_t i = 0; i < n; i++)
        dy[i] *= 0.5f * erfcf(-x[i] * root) + x[i] * density * expf(-0.5f * x[i] * x[i]);
}

void guard_head_loss(struct guard_head *h, const float *feature, const int32_t *label, size_t n,
                     const float *coef, double dropout, uint64_t seed, float *nll, float *logits)
{
    const size_t D = h->dim, C = h->labels, values = n * D;
    const bool drops = coef && dropout > 0;
    const float *seen = drops ? h->seen : h->act;

    affine(h, h->pre, h->w1, h->b1, feature, n);
    memcpy(h->act, h->pre, values * sizeof(float));
    h->c->op->gelu(h->c, h->act, n, D);
    if (drops)
        h->op->dropout(h->c, h->seen, h->act, values, (float)dropout, seed, false);
    affine(h, h->z, h->w2, h->b2, seen, n);
    if (logits)
        memcpy(logits, h->z, n * C * sizeof(float));
    h->op->cross_entropy(h->c, nll, h->z, label, coef, (struct loss_form){ 0 }, n, C);
    if (!coef)
        return;
    const struct product dseen = { .c = h->dact,
                                   .M = n,
                                   .N = D,
                                   .K = C,
                                   .a = { .p = h->z, .rs = C, .cs = 1 },
                                   .b = { .p = h->w2->w, .rs = D, .cs = 1 },
                                   .by = 1 };

    affine_bwd(h, h->w2, h->b2, h->z, seen, n);
    h->op->product(h->c, &dseen);
    if (drops)
        h->op->dropout(h->c, h->dact, h->dact, values, (float)dropout, seed, false);
    gelu_bwd(h->dact, h->pre, values);
    affine_bwd(h, h->w1, h->b1, h->dact, feature, n);
}
