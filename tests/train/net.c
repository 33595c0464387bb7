/* Gradients of the network in training against finite differences: pairs beside every matrix, DoRA,
 * dropout, what learns whole. */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "base/rng.h"
#include "support.h"
#include "support_model.h"
#include "train/batch.h"

enum { SEQS = 2, LEN = 14, ALL = (1 << NET_TARGETS) - 1, NORMS = 4 | 8 | 16 };

struct bed {
    struct model *m;
    struct ctx *c;
    struct net *n;
    struct net_batch b;
    float coef[SEQS * LEN], nll[SEQS * LEN];
};

static void bed_init(struct bed *b, const char *path, const struct net_cfg *cfg)
{
    struct example x[SEQS];
    struct data d = { .p = x, .n = SEQS };
    const size_t order[SEQS] = { 0, 1 };
    int32_t ids[SEQS][2 * LEN];
    struct err e;

    OK(cpu_ctx_new(&b->c, 2, cpu_flags(), COMPUTE_F32, &e), e);
    OK(model_open(&b->m, path, &e), e);
    OK(net_new(&b->n, b->m, b->c, &train_ops_cpu, cfg, &e), e);
    for (size_t s = 0; s < SEQS; s++) {
        for (size_t t = 0; t < LEN; t++)
            ids[s][t] = ids[s][LEN + t] = (int32_t)(rng_u64(3, s * LEN + t) % 900);
        x[s] = (struct example){ .ids = ids[s], .label = ids[s] + LEN, .n = LEN };
    }
    batch_fill(&b->b, &d, order, SEQS);
    for (size_t t = 0; t < SEQS * LEN; t++)
        b->coef[t] = 1.0f / (SEQS * LEN);
    OK(net_reserve(b->n, b->b.T, &e), e);
    net_draw(b->n, 5);

    const struct param_list *l = net_params(b->n);

    for (size_t i = 0; i < l->n; i++) /* what starts at zero is moved from there */
        for (size_t k = 0; k < l->p[i]->rows * l->p[i]->cols; k++)
            l->p[i]->w[k] += (float)(0.1 * (rng_uniform(i + 9, k) - 0.5));
    net_changed(b->n);
}

static void bed_release(struct bed *b)
{
    batch_release(&b->b);
    net_free(b->n);
    model_close(b->m);
    cpu_ctx_free(b->c);
}

/* With dropout where it is on: the same bits go every time. */
static double loss_of(struct bed *b, const float *coef)
{
    struct err e;
    double sum = 0;

    OK(net_forward(b->n, &b->b, true, &e), e);
    OK(net_loss(b->n, &b->b, coef, b->nll, &e), e);
    for (size_t t = 0; t < b->b.T; t++)
        sum += (double)b->coef[t] * (double)b->nll[t];
    return sum;
}

/* p's values moved by `by` times those of its gradient that the mask has; a magnitude moves the
 * gains, the other parameters of a DoRA do not: they are constants to the gradient. */
static double moved(struct bed *b, struct param *p, const float *was, const float *g, double by,
                    uint64_t mask)
{
    const size_t n = p->rows * p->cols;

    for (size_t i = 0; i < n; i++)
        p->w[i] = was[i] + (float)(rng_u64(mask, i) & 1 ? by * (double)g[i] : 0);
    if (strstr(p->name, "magnitude"))
        net_changed(b->n);
    const double loss = loss_of(b, b->coef);

    memcpy(p->w, was, n * sizeof(float));
    if (strstr(p->name, "magnitude"))
        net_changed(b->n);
    return loss;
}

/* All gradients of a batch, which the network then has no more. */
static float **copies(struct bed *b)
{
    const struct param_list *l = net_params(b->n);
    float **all = calloc(l->n, sizeof(*all));

    loss_of(b, b->coef);
    net_backward(b->n, &b->b);
    for (size_t i = 0; i < l->n; i++) {
        const size_t bytes = l->p[i]->rows * l->p[i]->cols * sizeof(float);

        all[i] = malloc(bytes);
        memcpy(all[i], l->p[i]->g, bytes);
        memset(l->p[i]->g, 0, bytes);
    }
    return all;
}

static void check(const char *path, const char *what, const struct net_cfg *cfg)
{
    struct bed b;

    bed_init(&b, path, cfg);
    const struct param_list *l = net_params(b.n);

    float **gradient = copies(&b);

    for (size_t i = 0; i < l->n; i++) {
        struct param *p = l->p[i];
        const size_t n = p->rows * p->cols;
        float *was = malloc(n * sizeof(float)), *g = gradient[i];

        memcpy(was, p->w, n * sizeof(float));
        for (uint64_t mask = 1; mask <= 3; mask++) {
            double square = 0;

            for (size_t k = 0; k < n; k++)
                square += rng_u64(mask, k) & 1 ? (double)g[k] * (double)g[k] : 0;
            const double by = 0.004 / square;
            const double got =
                (moved(&b, p, was, g, by, mask) - moved(&b, p, was, g, -by, mask)) / (2 * by);

            if (!(square > 0) || fabs(got - square) > 0.02 * square)
                fail_msg("%s: %s: %g by differences, %g", what, p->name, got, square);
        }
        free(was);
        free(g);
    }
    free(gradient);
    bed_release(&b);
}

static void gradients(void **state)
{
    char *path = micro_new();
    struct net_cfg c = { .targets = ALL, .rank = 3, .alpha = 6, .save = NORMS, .seed = 1 };

    (void)state;
    check(path, "LoRA", &c);
    c.rank = 8;
    check(path, "LoRA whose A are joined", &c);
    c.rank = 3;
    c.smoothing = 0.2;
    check(path, "LoRA with smoothed labels", &c);
    c.smoothing = 0;
    c.dropout = 0.3;
    check(path, "LoRA with dropout", &c);
    c.recompute = 1;
    check(path, "LoRA with dropout, made again", &c);
    c = (struct net_cfg){ .targets = ALL & ~NET_EMBED,
                          .rank = 3,
                          .alpha = 6,
                          .save = NORMS | 1,
                          .seed = 1,
                          .dora = true };
    check(path, "DoRA", &c);
    c.dropout = 0.3;
    check(path, "DoRA with dropout", &c);
    c = (struct net_cfg){ .full = true };
    check(path, "everything", &c);
    quantised_free(path);
}

/* The gradient of a token counts by its probability. */
static void dft(void **state)
{
    char *path = micro_new();
    const struct net_cfg plain = { .targets = ALL, .rank = 3, .alpha = 6, .seed = 1 };
    struct net_cfg dynamic = plain;
    struct bed a, b;

    (void)state;
    dynamic.dft = true;
    bed_init(&a, path, &plain);
    bed_init(&b, path, &dynamic);
    loss_of(&a, NULL);
    for (size_t t = 0; t < a.b.T; t++)
        a.coef[t] *= expf(-a.nll[t]);
    float **x = copies(&a), **y = copies(&b);
    const struct param_list *l = net_params(a.n);

    for (size_t t = 0; t < a.b.T; t++)
        assert_true(fabsf(b.nll[t] - a.nll[t] * expf(-a.nll[t])) < 1e-5f);
    for (size_t i = 0; i < l->n; i++) {
        for (size_t k = 0; k < l->p[i]->rows * l->p[i]->cols; k++)
            assert_true(fabsf(x[i][k] - y[i][k]) < 1e-6f + 1e-3f * fabsf(x[i][k]));
        free(x[i]);
        free(y[i]);
    }
    free(x);
    free(y);
    bed_release(&a);
    bed_release(&b);
    quantised_free(path);
}

TEST_MAIN(cmocka_unit_test(gradients), cmocka_unit_test(dft))
