/* batch.h - which examples make up a step, and how they lie in a batch. A pure function of the
 * data, the configuration and the number of the step. */
#ifndef PUNA_TRAIN_BATCH_H
#define PUNA_TRAIN_BATCH_H

#include "train/run.h"

/* What is drawn together: an example, a pair, or as many examples as fill a pack. */
struct unit {
    size_t first, n; /* in plan.order */
};

struct plan {
    size_t *order; /* examples; owned */
    struct unit *unit;
    size_t n;     /* units */
    size_t *draw; /* [n] units in the order of `epoch` */
    size_t epoch;
    size_t batches, steps_per_epoch; /* of an epoch */
    size_t longest;                  /* rows of the longest possible batch */
};

void plan_init(struct plan *p, const struct data *d, const struct train_cfg *cfg);
void plan_release(struct plan *p);
/* The examples of micro-batch `part` of step `step` (from 0), *n of them; free() it. NULL: the
 * epoch's last step has fewer parts. */
size_t *plan_examples(struct plan *p, const struct train_cfg *cfg, size_t step, size_t part,
                      size_t *n);

/* Lays examples end to end. */
void batch_fill(struct net_batch *b, const struct data *d, const size_t *example, size_t n);
void batch_release(struct net_batch *b);

#endif
