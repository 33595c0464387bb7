/* step.h - one step of a run: gradients of its batches, and what is reported of them. */
#ifndef PUNA_TRAIN_STEP_H
#define PUNA_TRAIN_STEP_H

#include "train/batch.h"

struct stepper {
    const struct train_cfg *cfg;
    struct net *net;
    const struct data *data;
    struct plan *plan;
    double *ref;    /* [data->n] log-probabilities of the reference; NAN = not known yet */
    size_t tokens;  /* of the steps so far */
    double met;     /* by tokens of the steps so far: those up to themselves in their sequences */
    uint64_t batch; /* which of all micro-batches is under way */
};

/* Gradients of step `step` (from 0) are added to the parameters'; s gets what was measured. */
int step_gradients(struct stepper *p, size_t step, struct train_step *s, struct err *e) MUST_USE;
/* The loss over a data set, nothing learnt, into s: of SFT the mean over tokens. ref[d->n]: the
 * reference's log-probabilities, NAN = not known yet; the KTO of a batch is over cfg->batch rows.
 */
int step_evaluate(struct stepper *p, const struct data *d, double *ref, struct train_step *s,
                  struct err *e) MUST_USE;

#endif
