#include "train/step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- log-probabilities of sequences ---- */

static double sequence_lp(const struct net_batch *b, const float *nll, size_t i)
{
    double lp = 0;

    for (int32_t t = b->cu[i]; t < b->cu[i + 1]; t++)
        lp -= (double)nll[t];
    return lp;
}

static size_t sequence_asked(const struct net_batch *b, size_t i)
{
    size_t n = 0;

    for (int32_t t = b->cu[i]; t < b->cu[i + 1]; t++)
        n += b->target[t] >= 0;
    return n;
}

static double batch_met(const struct net_batch *b)
{
    double met = 0;

    for (size_t i = 0; i < b->n_seq; i++) {
        const double n = b->cu[i + 1] - b->cu[i];

        met += n * (n + 1) / 2;
    }
    return met;
}

static size_t batch_asked(const struct net_batch *b)
{
    size_t n = 0;

    for (size_t i = 0; i < b->n_seq; i++)
        n += sequence_asked(b, i);
    return n;
}

/* A forward pass without gradients: lp of each sequence of b, with or without what was learnt. */
static int measure(struct net *n, const struct net_batch *b, bool learnt, double *lp, struct err *e)
{
    float *nll = xmalloc((b->T + 1) * sizeof(*nll));

    int rc = net_reserve(n, b->T, e);

    if (rc == 0) {
        net_adapters(n, learnt);
        rc = net_forward(n, b, false, e) || net_loss(n, b, NULL, nll, e) ? -1 : 0;
        net_adapters(n, true);
    }
    for (size_t i = 0; rc == 0 && i < b->n_seq; i++)
        lp[i] = sequence_lp(b, nll, i);
    free(nll);
    return rc;
}

/* The reference's lp of each example, measured once. */
static int reference(struct stepper *p, const struct net_batch *b, const size_t *example,
                     struct err *e)
{
    double *lp;
    int rc = 0;
    bool known = true;

    for (size_t i = 0; i < b->n_seq; i++)
        known = known && !isnan(p->ref[example[i]]);
    if (known)
        return 0;
    lp = xmalloc((b->n_seq + 1) * sizeof(*lp));
    rc = measure(p->net, b, false, lp, e);
    for (size_t i = 0; rc == 0 && i < b->n_seq; i++)
        p->ref[example[i]] = lp[i];
    free(lp);
    return rc;
}

/* ---- supervised ---- */

static int sft_batch(struct stepper *p, const struct net_batch *b, size_t asked, double *loss,
                     struct err *e)
{
    float *nll = xmalloc((2 * b->T + 1) * sizeof(*nll)), *coef = nll + b->T;
    int rc = -1;

    if (net_reserve(p->net, b->T, e))
        goto done;
    for (size_t t = 0; t < b->T; t++)
        coef[t] = 1 / (float)asked;
    net_draw(p->net, p->batch);
    if (net_forward(p->net, b, true, e) || net_loss(p->net, b, coef, nll, e))
        goto done;
    net_backward(p->net, b);
    for (size_t t = 0; t < b->T; t++)
        *loss += (double)nll[t] / (double)asked;
    rc = 0;
done:
    free(nll);
    return rc;
}

/* ---- preference ---- */

static bool same_prompt(const struct example *a, const struct example *b)
{
    return a->prompt == b->prompt && !memcmp(a->ids, b->ids, a->prompt * sizeof(*a->ids));
}

/* The rows that stand for the prompts of a batch: of each prompt the first good one, or the first.
 * Returns how many. */
static size_t distinct(const struct data *d, const size_t *example, size_t n, size_t *out)
{
    size_t m = 0;

    for (size_t i = 0; i < n; i++) {
        const struct example *x = &d->p[example[i]];
        size_t k = 0;

        while (k < m && !same_prompt(x, &d->p[out[k]]))
            k++;
        if (k == m)
            out[m++] = example[i];
        else if (x->good && !d->p[out[k]].good)
            out[k] = example[i];
    }
    return m;
}

/* Every prompt with the completion of the next one: how far the policy is from the reference where
 * the completion does not fit. 0 for a single prompt. */
static int kto_kl(struct stepper *p, const size_t *rows, size_t n_rows, double *kl, struct err *e)
{
    size_t *example = xmalloc(2 * n_rows * sizeof(*example)), *index = example + n_rows;
    const size_t n = distinct(p->data, rows, n_rows, example);
    struct example *x = xcalloc(n, sizeof(*x));
    double *lp = xmalloc(2 * n * sizeof(*lp)), sum = 0;
    struct data d = { .p = x, .n = n };
    struct net_batch b;
    int rc;

    for (size_t i = 0; i < n; i++) {
        const struct example *to = &p->data->p[example[i]];
        const struct example *from = &p->data->p[example[(i + 1) % n]];
        const size_t tail = from->n - from->prompt;

        index[i] = i;
        x[i].n = to->prompt + tail;
        x[i].ids = xmalloc((2 * x[i].n + 1) * sizeof(int32_t));
        x[i].label = x[i].ids + x[i].n;
        memcpy(x[i].ids, to->ids, to->prompt * sizeof(int32_t));
        memcpy(x[i].ids + to->prompt, from->ids + from->prompt, tail * sizeof(int32_t));
        for (size_t t = 0; t < x[i].n; t++)
            x[i].label[t] = t >= to->prompt && t > 0 ? x[i].ids[t] : -1;
    }
    batch_fill(&b, &d, index, n);
    rc = measure(p->net, &b, false, lp + n, e);
    if (rc == 0)
        rc = measure(p->net, &b, true, lp, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        sum += lp[i] - lp[n + i];
    *kl = n > 1 ? fmax(0, sum / (double)n) : 0;
    batch_release(&b);
    for (size_t i = 0; i < n; i++)
        free(x[i].ids);
    free(x);
    free(example);
    free(lp);
    return rc;
}

/* Losses of the sequences of b and their derivatives by lp, over `count` pairs or rows. */
static void preference_loss(struct stepper *p, const struct net_batch *b, const size_t *example,
                            const double *lp, double kl, size_t count, double *slope,
                            struct train_step *s)
{
    const struct train_cfg *cfg = p->cfg;
    const double by = 1 / (double)count;
    const bool ref = cfg->task == TASK_KTO || loss_needs_reference(cfg->loss.kind);
    size_t good = 0, right = 0;

    for (size_t i = 0; i < b->n_seq; i++) {
        const bool chosen = cfg->task == TASK_DPO ? i % 2 == 0 : p->data->p[example[i]].good;

        good += chosen;
    }
    for (size_t i = 0; i < b->n_seq; i++) {
        const bool chosen = cfg->task == TASK_DPO ? i % 2 == 0 : p->data->p[example[i]].good;
        const struct loss_side a = { lp[i], ref ? p->ref[example[i]] : 0, sequence_asked(b, i) };
        const double reward = cfg->loss.beta * (a.lp - a.ref);
        const double of = (double)(chosen ? good : b->n_seq - good);
        /* batches of a window count by their rows */
        const double share = cfg->task == TASK_DPO ? (double)good * by : (double)b->n_seq * by;

        *(chosen ? &s->chosen : &s->rejected) += reward / of * share;
        *(chosen ? &s->logp_chosen : &s->logp_rejected) += a.lp / of * share;
        if (cfg->task == TASK_KTO) {
            s->loss += by * loss_kto(&cfg->loss, &a, chosen, kl, &slope[i]);
            continue;
        }
        if (!chosen)
            continue;
        const struct loss_side l = { lp[i + 1], ref ? p->ref[example[i + 1]] : 0,
                                     sequence_asked(b, i + 1) };
        const struct loss_pair r = loss_of_pair(&cfg->loss, &a, &l);

        slope[i] = r.chosen;
        slope[i + 1] = r.rejected;
        s->loss += by * r.loss;
        right += reward > cfg->loss.beta * (l.lp - l.ref);
    }
    s->accuracy += (double)right * by;
    s->kl += kl * (double)b->n_seq * by;
}

static int preference_batch(struct stepper *p, const struct net_batch *b, const size_t *example,
                            size_t count, struct train_step *s, struct err *e)
{
    const struct train_cfg *cfg = p->cfg;
    const bool kto = cfg->task == TASK_KTO, ref = kto || loss_needs_reference(cfg->loss.kind);
    float *nll = xmalloc((2 * b->T + 1) * sizeof(*nll)), *coef = nll + b->T;
    double *lp = xmalloc(2 * (b->n_seq + 1) * sizeof(*lp)), *slope = lp + b->n_seq, kl = 0;
    int rc = -1;

    if ((ref && reference(p, b, example, e)) || (kto && kto_kl(p, example, b->n_seq, &kl, e)) ||
        net_reserve(p->net, b->T, e))
        goto done;
    net_draw(p->net, p->batch);
    if (net_forward(p->net, b, true, e) || net_loss(p->net, b, NULL, nll, e))
        goto done;
    for (size_t i = 0; i < b->n_seq; i++)
        lp[i] = sequence_lp(b, nll, i);
    preference_loss(p, b, example, lp, kl, count, slope, s);
    for (size_t i = 0; i < b->n_seq; i++)
        for (int32_t t = b->cu[i]; t < b->cu[i + 1]; t++)
            coef[t] = (float)(-slope[i] / (double)count);
    if (net_loss(p->net, b, coef, nll, e))
        goto done;
    net_backward(p->net, b);
    rc = 0;
done:
    free(nll);
    free(lp);
    return rc;
}

/* ---- a step ---- */

int step_gradients(struct stepper *p, size_t step, struct train_step *s, struct err *e)
{
    const struct train_cfg *cfg = p->cfg;
    size_t asked = 0, count = 0, n;
    int rc = 0;

    s->has_rewards = cfg->task != TASK_SFT;
    s->has_kl = cfg->task == TASK_KTO;
    /* what the whole window asks: the mean is over its tokens, or its rows */
    for (size_t part = 0; part < cfg->accumulate; part++) {
        size_t *list = plan_examples(p->plan, cfg, step, part, &n);
        struct net_batch b;

        if (!list)
            break;
        batch_fill(&b, p->data, list, n);
        asked += batch_asked(&b);
        count += cfg->task == TASK_DPO ? n / 2 : n;
        p->tokens += b.T;
        p->met += batch_met(&b);
        batch_release(&b);
        free(list);
    }
    for (size_t part = 0; rc == 0 && part < cfg->accumulate; part++) {
        size_t *list = plan_examples(p->plan, cfg, step, part, &n);
        struct net_batch b;

        if (!list)
            break;
        batch_fill(&b, p->data, list, n);
        p->batch = (uint64_t)step * cfg->accumulate + part;
        rc = cfg->task == TASK_SFT ? sft_batch(p, &b, asked, &s->loss, e)
                                   : preference_batch(p, &b, list, count, s, e);
        batch_release(&b);
        free(list);
    }
    s->tokens = p->tokens;
    return rc;
}

static int evaluate_tokens(struct stepper *p, const struct data *d, double *loss, struct err *e)
{
    double sum = 0;
    size_t asked = 0;

    for (size_t i = 0; i < d->n; i++) {
        struct net_batch b;
        double lp = 0;

        batch_fill(&b, d, &i, 1);
        const int rc = measure(p->net, &b, true, &lp, e);

        sum -= lp;
        asked += batch_asked(&b);
        batch_release(&b);
        if (rc)
            return -1;
    }
    *loss = asked ? sum / (double)asked : 0;
    return 0;
}

/* Examples at .. at + n of p's data. */
static int evaluate_batch(struct stepper *p, size_t at, size_t n, size_t count,
                          struct train_step *s, struct err *e)
{
    const bool kto = p->cfg->task == TASK_KTO;
    size_t *example = xmalloc(n * sizeof(*example));
    double *lp = xmalloc(2 * n * sizeof(*lp)), kl = 0;
    struct net_batch b;
    int rc = -1;

    for (size_t i = 0; i < n; i++)
        example[i] = at + i;
    batch_fill(&b, p->data, example, n);
    if (((kto || loss_needs_reference(p->cfg->loss.kind)) && reference(p, &b, example, e)) ||
        (kto && kto_kl(p, example, n, &kl, e)) || measure(p->net, &b, true, lp, e))
        goto done;
    preference_loss(p, &b, example, lp, kl, count, lp + n, s);
    rc = 0;
done:
    batch_release(&b);
    free(example);
    free(lp);
    return rc;
}

int step_evaluate(struct stepper *p, const struct data *d, double *ref, struct train_step *s,
                  struct err *e)
{
    const bool dpo = p->cfg->task == TASK_DPO;
    const size_t each = dpo ? 2 : p->cfg->batch; /* examples at a time */
    struct stepper own = *p;
    struct train_step sum = { 0 };

    s->has_eval = true;
    if (p->cfg->task == TASK_SFT)
        return evaluate_tokens(p, d, &s->eval_loss, e);
    own.data = d;
    own.ref = ref;
    for (size_t at = 0; at < d->n; at += each)
        if (evaluate_batch(&own, at, d->n - at < each ? d->n - at : each, dpo ? d->n / 2 : d->n,
                           &sum, e))
            return -1;
    s->eval_loss = sum.loss;
    s->eval_accuracy = sum.accuracy;
    s->eval_margin = sum.chosen - sum.rejected;
    return 0;
}
