/* log.h - what a run logs: log_history of trainer_state.json, metrics.jsonl, the files of
 * TensorBoard and of Weights & Biases. */
#ifndef PUNA_TRAIN_LOG_H
#define PUNA_TRAIN_LOG_H

#include <jansson.h>
#include <stdio.h>

#include "base/err.h"

enum { REPORT_TENSORBOARD = 1, REPORT_WANDB = 2 };

struct log {
    json_t *rows; /* log_history; owned. A run that goes on sets it before log_open */
    FILE *metrics;
    struct events *events; /* NULL = none */
    struct wandb *wandb;   /* likewise */
    const char *dir;       /* borrowed */
};

/* DIR/metrics.jsonl says what `rows` says: lines of steps that are taken again go. reports: which
 * other files are written, REPORT_... or'ed; for the last of them name (NULL = none) is the run's,
 * and config its options, taken. */
int log_open(struct log *l, const char *dir, unsigned reports, const char *name, json_t *config,
             struct err *e) MUST_USE;
/* A row with "step", taken; it is in the files when this returns. Names that begin with eval_ are
 * curves of evaluation. */
int log_row(struct log *l, json_t *row, struct err *e) MUST_USE;
/* done: the run ended by itself. Legal on a zeroed struct. */
int log_close(struct log *l, bool done, struct err *e) MUST_USE;

#endif
