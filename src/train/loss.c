#include "train/loss.h"

#include <math.h>

const char *const loss_names[LOSS_COUNT] = {
    [LOSS_SIGMOID] = "sigmoid", [LOSS_SIGMOID_NORM] = "sigmoid_norm",
    [LOSS_HINGE] = "hinge",     [LOSS_IPO] = "ipo",
    [LOSS_ROBUST] = "robust",   [LOSS_APO_ZERO] = "apo_zero",
    [LOSS_ORPO] = "orpo",       [LOSS_SIMPO] = "simpo",
};

static double sigmoid(double x)
{
    return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

static double log_sigmoid(double x)
{
    return x >= 0 ? -log1p(exp(-x)) : x - log1p(exp(x));
}

bool loss_needs_reference(enum loss_kind kind)
{
    return kind != LOSS_ORPO && kind != LOSS_SIMPO;
}

/* -(1 - e) log s(x) - e log s(-x) and its slope */
static double smoothed(double x, double e, double *slope)
{
    *slope = -(1 - e) * sigmoid(-x) + e * sigmoid(x);
    return -(1 - e) * log_sigmoid(x) - e * log_sigmoid(-x);
}

/* nll of the chosen - beta log s(log odds of the chosen - log odds of the rejected), of means */
static struct loss_pair orpo(const struct loss_cfg *c, const struct loss_side *w,
                             const struct loss_side *l)
{
    const double nw = (double)w->n, nl = (double)l->n, a = w->lp / nw, b = l->lp / nl;
    const double odds = a - b - (log1p(-exp(a)) - log1p(-exp(b)));
    const double slope = -c->beta * sigmoid(-odds);

    return (struct loss_pair){ .loss = -a - c->beta * log_sigmoid(odds),
                               .chosen = (-1 + slope / (1 - exp(a))) / nw,
                               .rejected = -slope / (1 - exp(b)) / nl };
}

struct loss_pair loss_of_pair(const struct loss_cfg *c, const struct loss_side *w,
                              const struct loss_side *l)
{
    const bool mean = c->kind == LOSS_IPO || c->kind == LOSS_SIGMOID_NORM || c->kind == LOSS_SIMPO;
    const double nw = mean ? (double)w->n : 1, nl = mean ? (double)l->n : 1;
    const double rw = (w->lp - w->ref) / nw, rl = (l->lp - l->ref) / nl, e = c->smoothing;
    const double x = c->beta * (rw - rl);
    double loss = 0, slope = 0; /* by x */

    switch (c->kind) {
    case LOSS_SIGMOID:
    case LOSS_SIGMOID_NORM:
        loss = smoothed(x, e, &slope);
        break;
    case LOSS_HINGE:
        loss = x < 1 ? 1 - x : 0;
        slope = x < 1 ? -1 : 0;
        break;
    case LOSS_IPO:
        loss = (rw - rl - 1 / (2 * c->beta)) * (rw - rl - 1 / (2 * c->beta));
        slope = 2 * (rw - rl - 1 / (2 * c->beta)) / c->beta;
        break;
    case LOSS_ROBUST:
        loss = (-(1 - e) * log_sigmoid(x) + e * log_sigmoid(-x)) / (1 - 2 * e);
        slope = (-(1 - e) * sigmoid(-x) - e * sigmoid(x)) / (1 - 2 * e);
        break;
    case LOSS_APO_ZERO: {
        const double good = sigmoid(c->beta * rw), bad = sigmoid(c->beta * rl);

        return (struct loss_pair){ .loss = 1 - good + bad,
                                   .chosen = -c->beta * good * (1 - good),
                                   .rejected = c->beta * bad * (1 - bad) };
    }
    case LOSS_ORPO:
        return orpo(c, w, l);
    case LOSS_SIMPO: /* the reference counts nothing: lp alone */
        loss = smoothed(c->beta * (w->lp / nw - l->lp / nl) - c->gamma, e, &slope);
        break;
    case LOSS_COUNT:
        break;
    }
    return (struct loss_pair){ loss, slope * c->beta / nw, -slope * c->beta / nl };
}

double loss_kto(const struct loss_cfg *c, const struct loss_side *s, bool good, double kl,
                double *slope)
{
    const double r = s->lp - s->ref, by = good ? c->good : c->bad;
    const double p = sigmoid(c->beta * (good ? r - kl : kl - r));

    *slope = (good ? -1 : 1) * by * c->beta * p * (1 - p);
    return by * (1 - p);
}
