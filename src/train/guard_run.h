/* guard_run.h - fine-tuning the head of a Prompt Guard: labelled texts go through the frozen
 * encoder once, and the head learns from what comes out. */
#ifndef PUNA_TRAIN_GUARD_RUN_H
#define PUNA_TRAIN_GUARD_RUN_H

#include "model/deberta.h"
#include "train/run.h"

struct guard_train_cfg {
    /* model, files, optimiser, schedule, batches, logs, checkpoints, callbacks; net.dropout is that
     * of what the classifier reads; rows take the place of tokens. Nothing else of it is read */
    struct train_cfg run;
    const char *label_field;
    double eval_split; /* share of the rows that is held out where there is no eval_file */
    bool balance;      /* a class counts by 1 / its rows */
    void (*on_text)(void *arg, size_t done, size_t all); /* of the encoder; NULL = none */
};

/* What a head says of labelled rows. */
struct guard_measures {
    size_t n, confusion[DEBERTA_LABELS][DEBERTA_LABELS]; /* [true][said] */
    double loss, accuracy;
    double precision[DEBERTA_LABELS], recall[DEBERTA_LABELS], f1[DEBERTA_LABELS]; /* 0 for 0 / 0 */
    double macro_f1; /* mean over the classes that have rows */
};

struct guard_trained {
    size_t labels, steps, steps_taken, best_step;
    char name[DEBERTA_LABELS][64];
    size_t train[DEBERTA_LABELS], held[DEBERTA_LABELS]; /* rows of each class */
    struct guard_measures before,
        after; /* on the rows held out; without any, on those trained on */
};

/* encoder: where features are computed; c, with op: where the head learns, on the host. */
int guard_train_run(const struct guard_train_cfg *cfg, struct ctx *encoder, struct ctx *c,
                    const struct train_ops *op, struct guard_trained *out, struct err *e) MUST_USE;

/* precision and the rest from n and confusion, of `labels` classes. */
void guard_measures_derive(struct guard_measures *m, size_t labels);

#endif
