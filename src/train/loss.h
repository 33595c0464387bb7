/* loss.h - what preference training minimises, of one pair or one row (spec of each: docs/dpo.md,
 * docs/kto.md). lp is the sum of a completion's log-probabilities, ref the same of the reference.
 */
#ifndef PUNA_TRAIN_LOSS_H
#define PUNA_TRAIN_LOSS_H

#include <stdbool.h>
#include <stddef.h>

enum loss_kind {
    LOSS_SIGMOID,
    LOSS_SIGMOID_NORM, /* of means per token */
    LOSS_HINGE,
    LOSS_IPO, /* of means per token */
    LOSS_ROBUST,
    LOSS_APO_ZERO,
    LOSS_ORPO,  /* no reference */
    LOSS_SIMPO, /* no reference */
    LOSS_COUNT
};
extern const char *const loss_names[LOSS_COUNT];

struct loss_cfg {
    enum loss_kind kind;
    double beta, smoothing, gamma; /* gamma: SimPO's margin */
    double good, bad;              /* KTO's weights */
};

struct loss_side {
    double lp, ref;
    size_t n; /* tokens of the completion */
};

struct loss_pair {
    double loss, chosen, rejected; /* derivatives by either lp */
};

bool loss_needs_reference(enum loss_kind kind);
struct loss_pair loss_of_pair(const struct loss_cfg *c, const struct loss_side *w,
                              const struct loss_side *l);
/* KTO: loss of one row and its derivative by lp; kl is taken as a constant. */
double loss_kto(const struct loss_cfg *c, const struct loss_side *s, bool good, double kl,
                double *slope);

#endif
